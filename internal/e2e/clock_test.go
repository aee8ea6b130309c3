//go:build linux

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// generation is that of a user's only session.
func generation(t testing.TB, rdb redis.UniversalClient, user string) int64 {
	t.Helper()
	fields, err := rdb.HGetAll(t.Context(), userKey(rdb, user)).Result()
	if err != nil {
		t.Fatal(err)
	}
	for field, value := range fields {
		if strings.HasPrefix(field, "s:") {
			n, err := strconv.ParseInt(strings.Split(value, "\x00")[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has no session", user)
	return 0
}

// Somebody sets Redis's clock by minutes and sets it back later, while people are
// in rooms and away. That costs nobody their place and no gateway its lease; who
// is away has as long to come back as before; what had ended on the clock stays
// ended; and epochs, generations and the order of messages go on growing.
func TestRedisClock(t *testing.T) {
	t.Parallel()
	const ttl = 10 * time.Second
	for _, step := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			t.Parallel()
			oneRedis(t)
			server := redistest.StartClock(t)
			rdb := server.Client(t)
			// The history has to outlast the step.
			a, b := startPair(t, server.Addr(), fmt.Sprintf("--session-ttl=%v", ttl), "--log-ttl=20m", "--rate-limits=false")
			ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
			bo.enter("R")
			ana.enter("R")
			bo.until("R +ana 2")
			gone, back, mover := enroll(a, t, "gone"), connect(t, a.URL()), connect(t, b.URL())
			session := back.login(`{"userID":"back"}`).SessionID
			moving := mover.login(`{"userID":"mover"}`).SessionID
			gone.enter("R")
			mover.enter("R")
			known := back.enter("R").Position
			ana.until("R +back 5")
			bo.until("R +back 5")
			book, ended := follow(t, rdb, "R"), follow(t, rdb, "ENDS")
			for room, delay := range map[string]int{"ENDS": 60, "LASTS": 3600} {
				ana.ask(protocol.MethodEnterRoom, fmt.Sprintf(`{"roomInfo":{"roomID":%q},"config":{"roomDestroyDelayTime":%d}}`, room, delay), nil)
				ana.ask(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%q}`, room), nil)
				ana.until(room + " disconnected success")
			}

			var epochs, generations, orders []int64
			// grow notes what may only grow.
			grow := func() {
				t.Helper()
				var r protocol.Room
				ana.ask(protocol.MethodCreateRoom, `{"roomInfo":{"roomID":"AGAIN"}}`, &r)
				epochs = append(epochs, r.Epoch)
				ana.ask(protocol.MethodLeaveRoom, `{"roomID":"AGAIN"}`, nil)
				ana.until("AGAIN disconnected success")
				m := bo.say("R", fmt.Sprintf("message %d", len(orders)))
				orders = append(orders, m.OrderKey)
				ana.until("R bo: " + m.Message)
				// Redis's clock is known to a gateway from its last renewal only.
				eventually(t, "mover to move", func() bool {
					to := connect(t, []string{a.URL(), b.URL()}[len(orders)%2])
					to.name = "mover"
					to.send(protocol.MethodLogin, fmt.Sprintf(`{"userID":"mover","resume":{"sessionID":%q,"rooms":[]}}`, moving))
					var ok bool
					for {
						frame, more := to.next()
						if !more {
							return false
						}
						if b := brief(frame); b == "ok" || strings.HasPrefix(b, "error") {
							ok = b == "ok"
							break
						}
					}
					if !ok {
						return false
					}
					mover = to
					return true
				})
				mover.until("R connected success")
				generations = append(generations, generation(t, rdb, "mover"))
			}
			// passed waits until the sweep has seen what was done to the clock.
			passed := func(ahead time.Duration) {
				t.Helper()
				eventually(t, "the step to be noted", func() bool {
					off := time.Duration(paused(t, rdb, "R"))*time.Millisecond - ahead
					return off.Abs() < 30*time.Second
				})
			}
			grow()
			before := time.Now()
			gone.ask(protocol.MethodPing, "{}", nil)
			gone.drop()
			after := time.Now()
			back.drop()
			eventually(t, "the two to be parked", func() bool {
				_, g := parkedUntil(t, rdb, "gone")
				_, b := parkedUntil(t, rdb, "back")
				return g && b
			})
			eventually(t, "a sweep, from which a step shows", func() bool {
				return rdb.HExists(t.Context(), partOf("rg", partitionsOf(rdb), "R")+"clock", "last").Val()
			})

			server.SetClock(step)
			stepped := time.Now()
			grow()
			took := time.Since(stepped)
			if took > 2*backWithin {
				t.Errorf("all was served again after %v, want %v", took, 2*backWithin)
			}
			passed(step)
			if step > 0 {
				ended.find("the end of ENDS", func(e roomstore.Event) bool { return e.Kind == roomstore.KindDestroyed })
			}
			server.SetClock(0)
			grow()
			passed(0)
			grow()
			t.Logf("served after %v; epochs %v, generations %v, orders %v", took, epochs, generations, orders)
			for name, numbers := range map[string][]int64{"epochs": epochs, "generations": generations, "order keys": orders} {
				for i := range numbers[1:] {
					if numbers[i+1] <= numbers[i] {
						t.Errorf("%s: %v, want that they grow", name, numbers)
						break
					}
				}
			}

			ana.send(protocol.MethodJoinRoom, `{"roomID":"ENDS"}`)
			_, r := ana.response()
			if is := r.Error == nil; is != (step < 0) {
				t.Errorf("ENDS can be joined: %t (%v)", is, r.Error)
			}
			if n := len(ended.all()); step > 0 && n != 3 { // there was an entry, and a departure
				t.Errorf("of ENDS: %+v, want one end", ended.all())
			}
			ana.ask(protocol.MethodJoinRoom, `{"roomID":"LASTS"}`, nil)

			again, resumed := resume(t, b, "back", session, at("R", known))
			if !resumed {
				t.Error("a session with time left has ended")
			}
			again.until("R bo: message 3")
			book.eviction("gone")
			evicted := time.Now()
			// It may have up to a sweep's pause more for each step.
			early, late := evicted.Sub(before)-ttl, evicted.Sub(after)-ttl
			t.Logf("evicted %v after the deadline", late)
			if early < 0 || late > 2*lateness+2*time.Second {
				t.Errorf("evicted %v after the deadline, want 0 to %v", late, 2*lateness+2*time.Second)
			}
			for _, e := range book.all() {
				if e.Kind == roomstore.KindLeft && e.User != "gone" {
					t.Errorf("%s has left: %+v", e.User, e)
				}
			}
			for _, w := range []*wire{ana, bo, again, mover} {
				w.ask(protocol.MethodPing, "{}", nil)
			}
			unshaken(t, a, b)
		})
	}
}
