package gateway

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
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

// endless is a listener to which clients come all the time.
type endless struct{ net.Listener }

func (endless) Accept() (net.Conn, error) { return nil, nil }

type counted uint64

func (c *counted) Load() uint64 { return uint64(*c) }

// While rooms speak there is a pause between those who are let in, and none else.
func TestPacedListener(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var spoken counted
		const every, late = time.Millisecond, int(pacesLate / time.Millisecond)
		l := &pacedListener{endless{}, &pacer{every: every, spoken: &spoken}}
		accept := func(n int) time.Duration {
			began := time.Now()
			for range n {
				l.Accept()
			}
			return time.Since(began)
		}
		const many = 50
		if took := accept(many); took != 0 {
			t.Errorf("nobody speaks, and %d took %v", many, took)
		}
		time.Sleep(time.Second)
		spoken++
		if took := accept(late + 1); took != 0 {
			t.Errorf("the first waited for %v", took)
		}
		if took := accept(many); took != many*every {
			t.Errorf("somebody speaks, and %d took %v, want %v", many, took, many*every)
		}
		time.Sleep(calm)
		if took := accept(many); took != 0 {
			t.Errorf("nobody speaks any more, and %d took %v", many, took)
		}
		for began := time.Now(); time.Since(began) < longestPaced; {
			spoken++
			accept(many)
		}
		spoken++
		if took := accept(many); took != 0 {
			t.Errorf("more come all the time, and %d took %v", many, took)
		}
		time.Sleep(time.Second)
		spoken++
		if took := accept(late + 1 + many); took != many*every {
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
