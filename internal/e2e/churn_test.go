//go:build linux

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

var churnFor = flag.Duration("churn", 10*time.Second, "how long the churn goes on; from 5m on its growth is measured, too")

// Of the churn: who takes part, and how often one of them does something.
const (
	churners    = 120
	churnRooms  = 24
	churnPeriod = 5 * time.Millisecond
	// A gateway's pools of connections to Redis keep what they have grown to, by
	// as many as these, each with its goroutines.
	pooled = 10
)

// churner is a client that comes and goes by every road but a crash.
type churner struct {
	f    *fleet
	user string
	conn atomic.Pointer[net.Conn] // of the client below
	http *http.Client

	c    *client.Client
	step int // of its round
}

// round is what a churner does, over and over: each at another place of it, so
// that as much of everything happens at any time.
const round = "e s s e s w s l e d s w s s l e s a e s w l s d e s w s l e s w s o e s e w s l d e s w s a e s l s o"

func (p *churner) act(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if p.c == nil || p.c.Err() != nil {
		return p.login(ctx, p.step%len(p.f.gates))
	}
	p.step++
	room := protocol.RoomBaseInfo{RoomID: fmt.Sprintf("churn-%d", p.step*7%churnRooms)}
	in := p.c.Rooms()
	if len(in) == 0 {
		_, err := p.c.EnterRoom(ctx, room, nil)
		return err
	}
	here := in[p.step%len(in)].RoomID
	acts := strings.Fields(round)
	switch acts[p.step%len(acts)] {
	case "e":
		_, err := p.c.EnterRoom(ctx, room, nil)
		return err
	case "l":
		return p.c.LeaveRoom(ctx, here)
	case "w":
		_, err := p.c.SwitchRoom(ctx, here, room, true, nil)
		return err
	case "s":
		_, err := p.c.SendRoomMessage(ctx, here, protocol.OutgoingMessage{Type: protocol.MessageText, Message: "hello"}, nil)
		return err
	case "a":
		_, err := p.c.LeaveAllRoom(ctx)
		return err
	case "d": // its link is lost, and it comes back
		if conn := p.conn.Load(); conn != nil {
			(*conn).Close()
		}
		return nil
	default: // "o"
		p.c.Logout(ctx)
		p.c = nil
		return nil
	}
}

func (p *churner) login(ctx context.Context, n int) error {
	var urls []string
	for i := range p.f.gates {
		urls = append(urls, "ws://"+p.f.at((n+i)%len(p.f.gates)).Addr)
	}
	c, err := client.Dial(ctx, client.Config{
		URLs: urls, User: protocol.UserInfo{UserID: p.user}, HTTPClient: p.http, OnEvent: func(client.Event) {},
		RawEvents: true, MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
	})
	if err == nil {
		p.c = c
	}
	return err
}

// size is what a deployment takes up.
type size struct{ goroutines, files, heap, keys float64 }

func (s size) String() string {
	return fmt.Sprintf("%.1f goroutines, %.1f descriptors, %.2f MiB of heap, %.1f keys", s.goroutines, s.files, s.heap/(1<<20), s.keys)
}

var heapAlloc = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)$`)

func measure(t *testing.T, f *fleet, rdb redis.UniversalClient) (s size) {
	t.Helper()
	for _, g := range f.gates {
		// Garbage is no growth, that of asking included.
		status, body := g.Get("http://" + g.Internal + "/debug/pprof/heap?gc=1&debug=1")
		m := heapAlloc.FindStringSubmatch(body)
		if status != http.StatusOK || m == nil {
			t.Fatalf("the heap's profile: %d %s", status, body)
		}
		heap, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		s.heap += heap
		s.goroutines += g.Metric("go_goroutines")
		files, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(g.Cmd.Process.Pid), "fd"))
		if err != nil {
			t.Fatal(err)
		}
		s.files += float64(len(files))
	}
	keys, err := rdb.DBSize(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	s.keys = float64(keys)
	return s
}

// Clients enter, leave, switch, talk, lose their links, come back, log out and
// in again without end. Nothing grows with it; and when they have gone, nothing
// of them is left, in no gateway and not in Redis.
func TestChurn(t *testing.T) {
	server, rdb := anyRedis(t)
	f := startFleet(t, 3, server.Addr(), "--rate-limits=false", "--log-level=info")
	atFirst := measure(t, f, rdb)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	turns := make(chan *churner, churners)
	var all []*churner
	for i := range churners {
		p := &churner{f: f, user: fmt.Sprintf("churner-%d", i), step: i}
		transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				p.conn.Store(&conn)
			}
			return conn, err
		}}
		p.http = &http.Client{Transport: transport}
		t.Cleanup(transport.CloseIdleConnections)
		all = append(all, p)
		turns <- p
	}
	var acts, failed atomic.Int64
	var work sync.WaitGroup
	for range 16 {
		work.Go(func() {
			tick := time.NewTicker(16 * churnPeriod)
			defer tick.Stop()
			for ctx.Err() == nil {
				p := <-turns
				acts.Add(1)
				err := p.act(ctx)
				var refused *protocol.Error
				if err != nil && ctx.Err() == nil && !errors.As(err, &refused) {
					failed.Add(1)
					t.Errorf("%s: %v", p.user, err)
				}
				turns <- p
				<-tick.C
			}
		})
	}

	// The mean of a while: how many are logged in, and what waits, goes up and down.
	mean := func(until time.Duration, began time.Time) (m size) {
		n := 0.0
		for time.Since(began) < until {
			during(t, rdb, time.Second)
			s := measure(t, f, rdb)
			m.goroutines, m.files, m.heap, m.keys = m.goroutines+s.goroutines, m.files+s.files, m.heap+s.heap, m.keys+s.keys
			n++
		}
		return size{m.goroutines / n, m.files / n, m.heap / n, m.keys / n}
	}
	began := time.Now()
	if *churnFor < 5*time.Minute {
		mean(*churnFor, began)
	} else {
		during(t, rdb, *churnFor*3/10)
		early := mean(*churnFor*4/10, began)
		during(t, rdb, *churnFor*9/10-time.Since(began))
		late := mean(*churnFor, began)
		t.Logf("after %v: %v\nafter %v: %v", *churnFor*3/10, early, *churnFor, late)
		for _, c := range []struct {
			of          string
			early, late float64
		}{{"goroutines", early.goroutines, late.goroutines}, {"descriptors", early.files, late.files}, {"heap", early.heap, late.heap}, {"keys", early.keys, late.keys}} {
			if math.Abs(c.late-c.early) > 0.02*c.early {
				t.Errorf("%s: %.1f, and later %.1f: want within 2 %%", c.of, c.early, c.late)
			}
		}
	}
	stop()
	work.Wait()
	t.Logf("%d acts in %v", acts.Load(), time.Since(began).Round(time.Second))
	for _, p := range all {
		if p.c != nil {
			p.c.Logout(t.Context())
		}
	}
	nothingLeft(t, rdb, "rg")
	var now size
	// Also if they never are.
	defer func() { t.Logf("at first %v; in the end %v", atFirst, now) }()
	eventually(t, "the gateways to be as they were", func() bool {
		now = measure(t, f, rdb)
		pools, streams := float64(len(server.Each())), 0.0 // each master has its own connections
		if server.Cluster != nil {
			streams = churnRooms // of events, one for each partition that has had a room
		}
		return now.goroutines <= atFirst.goroutines+3*(pooled*pools+4*streams) && now.files <= atFirst.files+3*(pooled*pools+streams)
	})
}
