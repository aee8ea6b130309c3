//go:build linux

package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// How long people wait when something breaks, with the settings of production
// unless it says otherwise. These are benchmarks, since a busy machine takes
// longer; what has to be so is in the tests.

// quantiles reports the times of many as milliseconds.
func quantiles(b *testing.B, what string, times []time.Duration) {
	b.Helper()
	if len(times) == 0 {
		b.Fatalf("nobody's %s was seen", what)
	}
	slices.Sort(times)
	at := func(q float64) float64 {
		return float64(times[int(q*float64(len(times)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(0.5), "ms/"+what+"-p50")
	b.ReportMetric(at(0.99), "ms/"+what+"-p99")
	b.ReportMetric(at(1), "ms/"+what+"-max")
}

// standby is a client that notes when it is out of a room and back.
type standby struct {
	*client.Client
	room string

	mu    sync.Mutex
	since time.Time
	outs  []time.Duration // how long it was, each time
	lost  int             // members it saw leave
}

func (s *standby) hear(ev client.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch ev := ev.(type) {
	case *client.MemberLeft:
		s.lost++
	case *client.RoomStateChanged:
		switch {
		case ev.State == protocol.RoomConnecting && ev.Event == protocol.RoomNetworkInterrupted:
			s.since = time.Now()
		case ev.State == protocol.RoomConnected && !s.since.IsZero():
			s.outs = append(s.outs, time.Since(s.since))
			s.since = time.Time{}
		}
	}
}

// back says how often it has come back.
func (s *standby) back() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.outs)
}

// assemble brings n clients into rooms of ten, spread over the gateways.
func assemble(b *testing.B, n int, urls ...string) []*standby {
	b.Helper()
	all := make([]*standby, n)
	var come errgroup.Group
	come.SetLimit(50)
	for i := range all {
		s := &standby{room: fmt.Sprintf("room-%d", i/10)}
		all[i] = s
		come.Go(func() error {
			ctx, cancel := context.WithTimeout(b.Context(), patience)
			defer cancel()
			at := i % len(urls)
			var err error
			s.Client, err = client.Dial(ctx, client.Config{
				URLs: slices.Concat(urls[at:], urls[:at]), User: protocol.UserInfo{UserID: fmt.Sprintf("user-%d", i)}, OnEvent: s.hear,
			})
			if err == nil {
				_, err = s.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: s.room}, nil)
			}
			return err
		})
	}
	if err := come.Wait(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		for _, s := range all {
			s.Close()
		}
	})
	return all
}

// production are the times of a gateway that nobody has set.
func production() []string {
	return []string{
		"--session-ttl=35s", "--lease-ttl=10s", "--heartbeat-interval=10s", "--drain-window=25s", "--redis-timeout=2s",
		"--rate-limits=false", "--log-level=info",
	}
}

// A link is lost, and its client resumes on the other gateway: from the first
// byte of the new connection until it is back in its room.
func BenchmarkResume(b *testing.B) {
	server, _ := redisServer(b)
	g := []*gateway{startGateway(b, server.Addr(), production()...), startGateway(b, server.Addr(), production()...)}
	w := connect(b, g[0].URL())
	session := w.login(`{"userID":"ana"}`).SessionID
	known := w.enter("R").Position
	var times []time.Duration
	for n := 0; b.Loop(); n++ {
		w.drop()
		began := time.Now()
		back, resumed := resume(b, g[(n+1)%2], "ana", session, at("R", known))
		if !resumed {
			b.Fatal("the session was not resumed")
		}
		back.until("R connected success")
		times = append(times, time.Since(began))
		w = back
	}
	quantiles(b, "resume", times)
}

// A gateway is killed: how long its clients are out of their rooms. They wait a
// random time of up to half a second before they try again.
func BenchmarkGatewayKilled(b *testing.B) {
	const clients = 600
	server, _ := redisServer(b)
	var times []time.Duration
	for b.Loop() {
		var gates []*gateway
		var urls []string
		for range 3 {
			g := startGateway(b, server.Addr(), production()...)
			gates, urls = append(gates, g), append(urls, g.URL())
		}
		all := assemble(b, clients, urls...)
		gates[0].Kill()
		for i, s := range all {
			if i%3 == 0 {
				eventually(b, fmt.Sprintf("user-%d to be back", i), func() bool { return s.back() == 1 })
				times = append(times, s.outs[0])
			}
		}
		for i, s := range all {
			if s.mu.Lock(); s.lost > 0 || len(s.outs) > 1 {
				b.Errorf("user-%d saw %d members leave and was out %d times", i, s.lost, len(s.outs))
			}
			s.mu.Unlock()
			s.Close()
		}
	}
	quantiles(b, "out", times)
}

// All data of Redis is lost: how long clients are out of their rooms, from the
// first word of the loss to the room's new epoch. Two seconds of it are the
// window in which every gateway puts back what it knows.
func BenchmarkAllDataLost(b *testing.B) {
	const clients = 600
	server, rdb := redisServer(b)
	var times []time.Duration
	for b.Loop() {
		var urls []string
		for range 3 {
			urls = append(urls, startGateway(b, server.Addr(), production()...).URL())
		}
		all := assemble(b, clients, urls...)
		server.Restart() // it keeps nothing
		began := time.Now()
		for i, s := range all {
			eventually(b, fmt.Sprintf("user-%d to be back", i), func() bool { return s.back() == 1 })
			times = append(times, time.Since(began))
		}
		for i := range all {
			n, err := rdb.ZCard(b.Context(), fmt.Sprintf("rg:{0}:members:room-%d", i/10)).Result()
			if err != nil || n != 10 {
				b.Errorf("room-%d: %d members, %v; want 10", i/10, n, err)
			}
			all[i].Close()
		}
	}
	quantiles(b, "healed", times)
}

// Clients do not come back: how long after their deadline, a session TTL of 3 s
// after their link was lost, they are no members any more.
func BenchmarkEviction(b *testing.B) {
	server, rdb := redisServer(b)
	g, _ := startPair(b, server.Addr(), "--log-level=info")
	var times []time.Duration
	for n := 0; b.Loop(); n++ {
		room, user := fmt.Sprintf("room-%d", n), fmt.Sprintf("user-%d", n)
		w := enroll(g, b, user)
		w.enter(room)
		stays := enroll(g, b, "stays-"+user)
		stays.enter(room)
		book := follow(b, rdb, room)
		w.drop()
		began := time.Now()
		book.find("the eviction", func(e roomstore.Event) bool { return e.Kind == roomstore.KindLeft })
		times = append(times, time.Since(began)-sessionTTL)
		stays.drop()
	}
	quantiles(b, "late", times)
}
