//go:build linux

package e2e

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/internal/redistest"
)

// A nemesis makes the life of a site hard until ctx is done, and then leaves it
// whole. It is called by the goroutine of the test.
type nemesis func(ctx context.Context, s *site, r *rand.Rand)

// badLinks has the links between gateways and Redis cut, held for less and for
// more than a request waits, and lose calls or the answers to them.
func badLinks(ctx context.Context, s *site, r *rand.Rand) {
	s.troubleLinks(ctx, r, 250*time.Millisecond)
}

func (s *site) troubleLinks(ctx context.Context, r *rand.Rand, pauses time.Duration) {
	var bad sync.WaitGroup
	defer bad.Wait()
	for pause(ctx, between(r, 20*time.Millisecond, pauses)) {
		l := s.link(r.IntN(gatesOfSite))
		begin, end := func() { s.hold(l, true) }, func() { s.hold(l, false) }
		howLong := time.Duration(r.Int64N(int64(shortTimeout)))
		switch n := r.IntN(10); {
		case n < 3:
			l.Cut()
			continue
		case n < 5:
			loss := faultproxy.Answers
			if n == 3 {
				loss = faultproxy.Calls
			}
			begin, end = func() { l.Scripts(loss) }, func() { l.Scripts(faultproxy.Nothing) }
		case n < 8:
		default:
			howLong += shortTimeout
		}
		begin()
		bad.Go(func() {
			pause(ctx, howLong)
			end()
		})
	}
}

// hold has a link carry nothing any more, until all who said so take it back.
func (s *site) hold(l *faultproxy.Proxy, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if yes {
		s.held[l]++
	} else {
		s.held[l]--
	}
	l.Hold(s.held[l] > 0)
}

func (s *site) link(n int) *faultproxy.Proxy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links[n]
}

// between gives a time of from to to.
func between(r *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(r.Int64N(int64(to-from)))
}

// victims gives some gateways: one, often, or more.
func victims(r *rand.Rand) []int {
	n := 1
	if r.IntN(4) == 0 {
		n += r.IntN(gatesOfSite)
	}
	return r.Perm(gatesOfSite)[:n]
}

// open starts a gateway, with a link of its own, which is good until it is
// ready, in the place of one that has been killed.
func (s *site) open(n int) {
	var link *faultproxy.Proxy
	var g *gateway
	if s.watched != nil {
		g = startGateway(s.t, s.watched.URL(), s.flags...)
	} else if s.cluster != nil {
		g = startGateway(s.t, gatetest.ClusterURL(s.cluster.Addrs()), append([]string{"--partitions=1"}, s.flags...)...)
	} else {
		link = faultproxy.StartRedis(s.t, s.server.Addr())
		g = startGateway(s.t, link.Addr(), s.flags...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links[n], s.gates[n] = link, g
}

// kills has gateways die in the middle of what they do.
func kills(ctx context.Context, s *site, r *rand.Rand) {
	for pause(ctx, between(r, 200*time.Millisecond, 1200*time.Millisecond)) {
		s.kill(ctx, r)
	}
}

func (s *site) kill(ctx context.Context, r *rand.Rand) {
	all := victims(r)
	for _, n := range all {
		s.gate(n).Kill()
	}
	pause(ctx, between(r, 0, 500*time.Millisecond))
	for _, n := range all {
		s.open(n)
	}
}

// freezes has gateways stand still, for so short a time that nobody notices, or
// for so long that others give them up, and what their clients had is parked, or
// over; and then go on where they were.
func freezes(ctx context.Context, s *site, r *rand.Rand) {
	for pause(ctx, between(r, 100*time.Millisecond, 1500*time.Millisecond)) {
		s.freeze(ctx, r)
	}
}

func (s *site) freeze(ctx context.Context, r *rand.Rand) {
	all := victims(r)
	for _, n := range all {
		s.gate(n).Signal(syscall.SIGSTOP)
	}
	howLong := between(r, 0, time.Second)
	switch r.IntN(3) {
	case 0:
		howLong = between(r, awayLease, 2*awayLease)
	case 1:
		howLong = between(r, 2*awayLease, awayLease+awayTTL+time.Second)
	}
	pause(ctx, howLong)
	for _, n := range all {
		if r.IntN(5) == 0 {
			s.gate(n).Kill()
			s.open(n)
			continue
		}
		s.gate(n).Signal(syscall.SIGCONT)
	}
}

// redisFrozen has Redis stand still, and then do what has been asked meanwhile.
func redisFrozen(ctx context.Context, s *site, r *rand.Rand) {
	for pause(ctx, between(r, time.Second, 4*time.Second)) {
		s.freezeRedis(ctx, r)
	}
}

func (s *site) freezeRedis(ctx context.Context, r *rand.Rand) {
	s.server.Pause()
	defer s.server.Resume()
	pause(ctx, between(r, time.Second, 5*time.Second))
}

// redisRestarted has Redis end, and begin again with all it has ever answered.
func redisRestarted(ctx context.Context, s *site, r *rand.Rand) {
	for pause(ctx, between(r, 500*time.Millisecond, 3*time.Second)) {
		s.restartRedis(ctx, r)
	}
}

func (s *site) restartRedis(ctx context.Context, r *rand.Rand) {
	s.endRedis(ctx, r)
	s.putBack(ctx)
}

// putBack waits until Redis may end again.
func (s *site) putBack(ctx context.Context) {
	// If it ended before all gateways have put back what they know, and so
	// found that nothing is lost, they could not know that nothing was.
	pause(ctx, putBackTime)
	for n := range gatesOfSite {
		for !s.gate(n).Ready() && pause(ctx, 50*time.Millisecond) {
		}
	}
}

// putBackTime is that in which every gateway has noticed that Redis was started
// anew, and has had its chance to put back what it knows.
const putBackTime = 4 * time.Second

func (s *site) endRedis(ctx context.Context, r *rand.Rand) {
	for n := range gatesOfSite {
		l := s.link(n)
		s.hold(l, true)
		defer s.hold(l, false)
	}
	pause(ctx, between(r, 0, 300*time.Millisecond))
	for n := range gatesOfSite {
		if r.IntN(2) == 0 {
			s.link(n).Cut() // what Redis has answered meanwhile never comes
		}
	}
	if err := s.book.restart(s.t.Context(), s.server); err != nil {
		s.t.Fatal(err)
	}
}

// failovers has the primary die, or told to step down, when its replicas have
// all that it has ever answered. It comes back as one of them.
func failovers(ctx context.Context, s *site, r *rand.Rand) {
	for pause(ctx, between(r, 500*time.Millisecond, 2*time.Second)) {
		old, err := s.book.failover(s.t.Context(), s.watched, r.IntN(2) == 0)
		if err != nil {
			s.t.Fatal(err)
		}
		s.putBack(ctx)
		old.Restart()
		s.watched.WaitSync()
	}
}

// slotsMove has the slot of the rooms, or that of the users, move to another master.
func slotsMove(ctx context.Context, s *site, r *rand.Rand) {
	at := map[string]*redistest.Server{}
	for pause(ctx, between(r, 500*time.Millisecond, 3*time.Second)) {
		key := []string{"rg:{0}:", "rg:{u0}:"}[r.IntN(2)]
		if at[key] == nil {
			master, err := s.cluster.Client().MasterForKey(s.t.Context(), key)
			if err != nil {
				s.t.Fatal(err)
			}
			for _, m := range s.cluster.Masters {
				if m.Addr() == master.Options().Addr {
					at[key] = m
				}
			}
		}
		to := s.cluster.Masters[r.IntN(3)]
		if to != at[key] {
			before := s.rdb.Get(s.t.Context(), key+"term").Val()
			s.cluster.Move(key, at[key], to, func() {})
			at[key] = to
			s.renewed(ctx, key, before)
		}
	}
}

// renewed waits until all have seen that a slot which is elsewhere now has lost nothing,
// as with a Redis that ends. before is the term that it had.
func (s *site) renewed(ctx context.Context, key, before string) {
	for pause(ctx, 50*time.Millisecond) {
		if term := s.rdb.Get(s.t.Context(), key+"term").Val(); term != before && term != "" && !strings.Contains(term, "\x00") {
			break
		}
	}
	s.putBack(ctx)
}

// takeovers has the master of the slot of the rooms, or of that of the users, hand over to
// its replica.
func takeovers(ctx context.Context, s *site, r *rand.Rand) {
	for pause(ctx, between(r, 500*time.Millisecond, 3*time.Second)) {
		key := []string{"rg:{0}:", "rg:{u0}:"}[r.IntN(2)]
		before := s.rdb.Get(s.t.Context(), key+"term").Val()
		s.cluster.TakeOver(key)
		s.renewed(ctx, key, before)
	}
}

// allOfIt has everything happen, and meanwhile links that are bad now and then.
func allOfIt(ctx context.Context, s *site, r *rand.Rand) {
	ctx, cancel := context.WithCancel(ctx)
	var links sync.WaitGroup
	defer links.Wait()
	defer cancel()
	others := rand.New(rand.NewPCG(r.Uint64(), 0))
	links.Go(func() { s.troubleLinks(ctx, others, 1500*time.Millisecond) })
	for pause(ctx, between(r, 500*time.Millisecond, 3*time.Second)) {
		switch r.IntN(6) {
		case 0, 1:
			s.kill(ctx, r)
		case 2, 3:
			s.freeze(ctx, r)
		case 4:
			s.freezeRedis(ctx, r)
		case 5:
			s.restartRedis(ctx, r)
		}
	}
}
