package roomstore_test

import (
	"testing"
	"time"

	"github.com/roomgate/roomgate/roomstore"
)

// How often a session was cut off since its client reads too slowly is known
// when it comes back, on whatever node; a repeat of the call does not count, nor
// what happened more than a minute ago, nor what happened to another session.
func TestParkSlow(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		ana, bo := w.login("ana", "a1"), w.login("bo", "b1")
		w.enter(ana, "R")
		if ana.Slow != 0 {
			t.Errorf("a new session was slow %d times", ana.Slow)
		}
		for n := 1; n <= 3; n++ {
			w.must(w.store.ParkSlow(w.ctx(), ana, 30*time.Second))
			w.refused(w.store.ParkSlow(w.ctx(), ana, 30*time.Second), roomstore.ErrFenced)
			w.forget()
			if ana, _ = w.resume("n2", ana); ana.Slow != n {
				t.Errorf("after %d times: got %d", n, ana.Slow)
			}
			// One that did not wait: it has come back before its socket was parked.
			if n == 2 {
				old := ana
				ana, _ = w.resume("n3", ana)
				w.refused(w.store.ParkSlow(w.ctx(), old, 30*time.Second), roomstore.ErrFenced)
				w.forget()
				if ana, _ = w.resume("n3", ana); ana.Slow != 3 {
					t.Errorf("with one that came back at once: got %d, want 3", ana.Slow)
				}
				break
			}
		}
		w.park(ana, 30*time.Second)
		w.park(bo, 30*time.Second)
		w.forget()
		if ana, _ = w.resume("n2", ana); ana.Slow != 3 {
			t.Errorf("a lost link counts: got %d, want 3", ana.Slow)
		}
		if bo, _ = w.resume("n2", bo); bo.Slow != 0 {
			t.Errorf("another session: got %d, want 0", bo.Slow)
		}
		key := w.tag("u0") + "slow:a1"
		if w.parts == 1 {
			ttl := w.rdb.PTTL(w.ctx(), key).Val()
			if ttl <= 0 || ttl > time.Minute {
				t.Errorf("it is remembered for %v", ttl)
			}
		}
		w.forget()
	})
}
