package gateway

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// A few who come back at once do not wait, a crowd goes on in groups, and nobody
// waits for longer than one takes.
func TestTurnstile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var gate turnstile
		began := time.Now()
		var mu sync.Mutex
		groups := map[time.Duration]int{}
		var wg sync.WaitGroup
		come := func(n int) {
			for range n {
				wg.Go(func() {
					gate.pass()
					mu.Lock()
					defer mu.Unlock()
					groups[time.Since(began)]++
				})
			}
			synctest.Wait()
		}
		come(returnAtOnce - 1)
		time.Sleep(returnEvery / 2)
		come(1 + 3) // the last of the first, and three too many
		time.Sleep(returnEvery / 4)
		come(2)                     // with those
		time.Sleep(returnEvery / 4) // they go
		come(3)                     // after a crowd, one more group
		time.Sleep(returnEvery)     // that goes
		come(2)                     // few again
		time.Sleep(3 * returnEvery)
		come(1)
		wg.Wait()
		want := map[time.Duration]int{
			0: returnAtOnce - 1, returnEvery / 2: 1, returnEvery: 5, 2 * returnEvery: 3 + 2, 5 * returnEvery: 1,
		}
		if d := cmp.Diff(want, groups); d != "" {
			t.Errorf("how many passed when (-want +got):\n%s", d)
		}
	})
}

type counted uint64

func (c *counted) Load() uint64 { return uint64(*c) }

// While rooms speak there is a pause between those who are let through, and none else.
func TestPacer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var spoken counted
		const every, late = time.Millisecond, int(pacesLate / time.Millisecond)
		p := &pacer{every: every, spoken: &spoken}
		pass := func(n int) time.Duration {
			began := time.Now()
			for range n {
				p.wait()
			}
			return time.Since(began)
		}
		const many = 50
		if took := pass(many); took != 0 {
			t.Errorf("nobody speaks, and %d took %v", many, took)
		}
		time.Sleep(time.Second)
		spoken++
		if took := pass(late + 1); took != 0 {
			t.Errorf("the first waited for %v", took)
		}
		if took := pass(many); took != many*every {
			t.Errorf("somebody speaks, and %d took %v, want %v", many, took, many*every)
		}
		time.Sleep(calm)
		if took := pass(many); took != 0 {
			t.Errorf("nobody speaks any more, and %d took %v", many, took)
		}
		for began := time.Now(); time.Since(began) < longestPaced; {
			spoken++
			pass(many)
		}
		spoken++
		if took := pass(many); took != 0 {
			t.Errorf("more come all the time, and %d took %v", many, took)
		}
		time.Sleep(time.Second)
		spoken++
		if took := pass(late + 1 + many); took != many*every {
			t.Errorf("it was over, and of the next %d took %v, want %v", many, took, many*every)
		}
	})
}

// Of those who come at once each has a turn of its own, and nobody waits for ever.
func TestPacer_crowd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		spoken := counted(1)
		p := &pacer{every: longestTurn / 4, spoken: &spoken}
		began := time.Now()
		var mu sync.Mutex
		turns := map[time.Duration]int{}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				p.wait()
				mu.Lock()
				defer mu.Unlock()
				turns[time.Since(began).Round(longestTurn/4)]++
			})
		}
		wg.Wait()
		want := map[time.Duration]int{0: 1, longestTurn / 4: 1, longestTurn / 2: 1, longestTurn / 4 * 3: 1, longestTurn: 4}
		if d := cmp.Diff(want, turns); d != "" {
			t.Errorf("how many had their turn when (-want +got):\n%s", d)
		}
	})
}

// Who waits for a slot gives up with the context.
func TestSlots(t *testing.T) {
	t.Parallel()
	s := make(slots, 1)
	ctx, cancel := context.WithCancel(t.Context())
	if !s.take(ctx) {
		t.Fatal("no slot, and nobody has one")
	}
	cancel()
	if s.take(ctx) {
		t.Error("two have the one slot")
	}
	s.give()
	if !s.take(t.Context()) {
		t.Error("the slot was given back, and nobody can have it")
	}
}

// turn is when the next has its turn.
func (p *pacer) turn() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next
}

// Who connects goes at the pace, and who asks whether the gateway is well does not.
func TestGateway_begins(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	before := s.begins.turn()
	answer, err := http.Get("http" + strings.TrimSuffix(strings.TrimPrefix(s.url, "ws"), protocol.Path) + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if turn := s.begins.turn(); turn != before {
		t.Errorf("a health check has had a turn, at %v", turn)
	}
	s.dial()
	if turn := s.begins.turn(); turn == before {
		t.Error("a client that connects has had no turn")
	}
}

// A connection whose socket has closed makes room for another, also while it waits for its
// turn to be cleaned up.
func TestGateway_ends(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{MaxConnections: 1})
	c := s.login("ana")
	s.ends.mu.Lock()
	s.ends.heard, s.ends.until, s.ends.since = s.ends.spoken.Load(), time.Now().Add(time.Hour), time.Now()
	s.ends.next = time.Now().Add(longestTurn)
	s.ends.mu.Unlock()
	c.ws.CloseNow()
	s.until("another can log in", func() bool {
		other := s.dial()
		other.send(protocol.MethodPing, `{}`)
		_, err := other.hear()
		return err == nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) != 1 {
		t.Error("it had been cleaned up")
	}
}

// A session that cannot be parked, since its user's slot is away, holds up no other that is
// to be: it has its place for one attempt.
func TestGateway_parking(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := serveRooms(t, Config{}, rdb, rdb.Options().Addr, roomstore.Config{Partitions: 4, Apart: true})
	for range parkedAtOnce - 1 {
		s.parking <- struct{}{}
	}
	parked := func(slot string) bool {
		return s.rdb.ZCard(t.Context(), s.prefix+":{u"+slot+"}:parked").Val() == 1
	}
	ana, ben := s.login(in("ana", 3)), s.login(in("ben", 0))
	s.gate.setAway(s.prefix + ":{u3}:")
	ana.ws.CloseNow()
	s.until("ana is to be parked", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.sessions) == 1
	})
	ben.ws.CloseNow()
	s.until("ben is parked", func() bool { return parked("0") })
	s.gate.setAway("")
	s.until("ana is parked", func() bool { return parked("3") })
}

// Sessions that come back, and those that are parked, are gathered where the store asks
// for several as one, and only there: where slots lie apart they would wait for nothing.
func TestGateway_gathers(t *testing.T) {
	t.Parallel()
	for _, apart := range []bool{false, true} {
		rdb := redistest.New(t)
		s := serveRooms(t, Config{}, rdb, rdb.Options().Addr, roomstore.Config{Partitions: 4, Apart: apart})
		gathered := func(what string, by *turnstile) {
			t.Helper()
			by.mu.Lock()
			defer by.mu.Unlock()
			if gathered := by.come > 0; gathered == apart {
				t.Errorf("apart %t: %s: gathered %t", apart, what, gathered)
			}
		}
		c := s.dial()
		c.send(protocol.MethodLogin, `{"userID":"ana","resume":{"sessionID":"s","rooms":[]}}`)
		c.hears("answer 1")
		gathered("coming back", &s.returning)
		c.ws.CloseNow()
		s.until("ana is parked", func() bool {
			keys, err := s.rdb.Keys(t.Context(), s.prefix+":*:parked").Result()
			return err == nil && len(keys) == 1
		})
		gathered("parking", &s.leaving)
	}
}
