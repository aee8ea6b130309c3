package roomstore_test

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

func (w *world) clock() (last, paused int64) {
	w.Helper()
	h := w.rdb.HGetAll(w.ctx(), w.tag("0")+"clock").Val()
	last, _ = strconv.ParseInt(h["last"], 10, 64)
	paused, _ = strconv.ParseInt(h["paused"], 10, 64)
	return last, paused
}

func (w *world) leaseEnd(node string) int64 {
	w.Helper()
	end, err := w.rdb.ZScore(w.ctx(), w.nodes(), node).Result()
	w.must(err)
	return int64(end)
}

// An absent session keeps its places until its deadline, and loses them then:
// one departure each, and the emptiness rule.
func TestStore_Sweep_evicts(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ben", "a")(w)
		w.enter(ana(w), "a", "b")
		w.park(w.s("a1"), time.Minute)
		w.forget()
		for _, step := range []time.Duration{0, 30 * time.Second, 25 * time.Second} {
			w.pass(step)
			done := w.sweep("n1")
			w.heard()
			if done.Evicted != 0 || done.Next <= 0 || done.Next > time.Minute {
				t.Errorf("swept %+v", done)
			}
		}
		w.pass(6 * time.Second)
		done := w.sweep("n1")
		w.hearSorted([]string{"a#1:3 timeout ana/a1 n=1", "b#1:2 timeout ana/a1 n=0", "b#1:3 ended emptied", "destroyed b#1 emptied"})
		if done.Evicted != 2 || done.Next >= 0 || done.More {
			t.Errorf("swept %+v", done)
		}
		if got := w.sessionsOf("ana"); len(got) != 0 {
			t.Errorf("sessions %q", got)
		}
		w.sweep("n1")
		w.heard()
	})
}

// A deadline has passed when the clock shows it, to the millisecond, for a
// parked session and for an empty room alike.
func TestStore_Sweep_exactly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true, roomstore.Config{})
	at := time.UnixMilli(time.Now().UnixMilli())
	set := func(after time.Duration) { w.mini.SetTime(at.Add(after)) }
	set(0)
	w.create(ana(w), "a", 3)
	inRoom("ben", "b")(w)
	w.park(w.s("b1"), 3*time.Second)
	w.leave(w.s("a1"), "a")
	w.forget()
	set(2999 * time.Millisecond)
	if done := w.sweep("n1"); done.Evicted+done.Finished != 0 || done.Next != time.Millisecond {
		t.Errorf("just before: %+v", done)
	}
	_, _, ok, err := w.store.Resume(w.ctx(), "n2", "ben", "other", nil)
	w.must(err)
	if ok {
		t.Error("another session goes on")
	}
	w.heard()
	set(3 * time.Second)
	for id, want := range map[roomstore.SessionID]bool{"b1": false} {
		if _, _, ok, err := w.store.Resume(w.ctx(), "n2", "ben", id, nil); err != nil || ok != want {
			t.Errorf("%s goes on: %t, %v", id, ok, err)
		}
	}
	if done := w.sweep("n1"); done.Evicted != 1 || done.Finished != 1 {
		t.Errorf("at the deadline: %+v", done)
	}
	w.hearSorted([]string{
		"a#1:3 ended emptied", "destroyed a#1 emptied",
		"b#1:2 timeout ben/b1 n=0", "b#1:3 ended emptied", "destroyed b#1 emptied",
	})

	// And without a sweep the room is gone for whoever asks.
	w.create(w.s("a1"), "c", 3)
	w.leave(w.s("a1"), "c")
	set(6*time.Second - time.Millisecond)
	if at, err := w.store.Positions(w.ctx(), []roomstore.RoomID{"c"}); err != nil || at["c"].Epoch == 0 {
		t.Errorf("just before: %v, %v", at, err)
	}
	set(6 * time.Second)
	if at, err := w.store.Positions(w.ctx(), []roomstore.RoomID{"c"}); err != nil || at["c"].Epoch != 0 {
		t.Errorf("at the deadline: %v, %v", at, err)
	}
}

// A session that came back is not evicted by what its parking has left, nor
// one that was parked again with a later deadline.
func TestStore_Sweep_cameBack(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ana", "a")(w)
		w.park(w.s("a1"), 10*time.Second)
		key, entry := w.part("a")+"parked", "a1\x00ana\x00a"
		at := w.rdb.ZScore(w.ctx(), key, entry).Val()
		w.resume("n2", w.s("a1"))
		// Even if the index still named it.
		w.must(w.rdb.ZAdd(w.ctx(), key, redis.Z{Score: at, Member: entry}).Err())
		w.must(w.rdb.ZAdd(w.ctx(), w.tag("u"+strconv.Itoa(w.hash("ana")))+"parked", redis.Z{Score: at, Member: "a1\x00ana"}).Err())
		w.forget()
		w.pass(time.Minute)
		if done := w.sweep("n1"); done.Evicted != 0 {
			t.Errorf("swept %+v", done)
		}
		w.heard()
		w.park(w.s("a1"), 40*time.Second)
		w.pass(20 * time.Second)
		if done := w.sweep("n1"); done.Evicted != 0 {
			t.Errorf("swept %+v", done)
		}
		w.heard()
		// Nor is another session in its place, parked for longer.
		w.enter(w.login("ana", "a2"), "a")
		w.park(w.s("a2"), time.Minute)
		w.must(w.rdb.ZAdd(w.ctx(), key, redis.Z{Score: at, Member: entry}).Err())
		w.forget()
		w.pass(30 * time.Second)
		if done := w.sweep("n1"); done.Evicted != 0 {
			t.Errorf("swept %+v", done)
		}
		w.heard()
	})
}

// An empty room ends when its delay is over, once, whoever sweeps how often.
func TestStore_Sweep_finishes(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		emptied("a", 100)(w)
		w.create(w.s("a1"), "b", 50)
		w.leave(w.s("a1"), "b")
		w.create(w.s("a1"), "c", 50)
		w.forget()
		done := w.sweep("n1")
		if done.Finished != 0 || done.Next <= 40*time.Second || done.Next > 50*time.Second {
			t.Errorf("swept %+v", done)
		}
		w.heard()
		w.expire("a")
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				if _, err := w.store.Sweep(w.ctx(), "n"+strconv.Itoa(i), nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		w.heard("a#1:3 ended emptied", "destroyed a#1 emptied")
		if got := w.state("a"); got != "none" {
			t.Errorf("stored %s", got)
		}
	})
}

// A room that was entered again is not ended by its earlier deadline, and its
// next emptiness has the whole delay.
func TestStore_Sweep_enteredAgain(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		emptied("a", 100)(w)
		due := w.part("a") + "due"
		epoch := w.rdb.HGet(w.ctx(), w.part("a")+"room:a", "epoch").Val()
		w.must(w.rdb.HSet(w.ctx(), w.part("a")+"room:a", "deadline", w.now().Add(time.Second).UnixMilli()).Err())
		w.enter(w.s("a1"), "a")
		w.forget()
		// Even if the index still named it.
		w.must(w.rdb.ZAdd(w.ctx(), due, redis.Z{Score: 1, Member: "a\x00" + epoch}).Err())
		if done := w.sweep("n1"); done.Finished != 0 {
			t.Errorf("swept %+v", done)
		}
		w.heard()
		if n := w.rdb.ZCard(w.ctx(), due).Val(); n != 0 {
			t.Errorf("%d are due", n)
		}
		w.leave(w.s("a1"), "a")
		w.forget()
		left := int64(w.rdb.ZScore(w.ctx(), due, "a\x00"+epoch).Val()) - w.now().UnixMilli()
		if left < 90_000 || left > 100_000 {
			t.Errorf("ends in %d ms, want the whole delay", left)
		}
	})
}

// A room whose keys have expired by themselves still has its one end: before
// the ID's next life begins, or by the sweep. Nor does it count until then.
func TestStore_Sweep_orphan(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run("taken again "+strconv.FormatBool(again), func(t *testing.T) {
			contract(t, roomstore.Config{MaxRooms: 2}, func(w *world) {
				emptied("a", 100)(w)
				w.expire("a")
				for _, kind := range roomKinds {
					key := w.part("a") + kind + ":a"
					if ttl := w.rdb.PTTL(w.ctx(), key).Val(); ttl < 0 && w.rdb.Exists(w.ctx(), key).Val() == 1 {
						t.Errorf("%s does not expire", kind)
					}
					w.must(w.rdb.Unlink(w.ctx(), key).Err())
				}
				w.forget()
				_, err := w.try(w.s("a1"), roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "a"})
				w.refused(err, roomstore.ErrNoRoom)
				w.heard()
				if again {
					w.enter(w.s("a1"), "a")
					w.heard("destroyed a#1 emptied", "created a#2", "a#2:1 joined ana/a1 n=1")
				}
				var heard []string
				for i := range 2 { // as many as may exist, and one more
					_, err := w.try(w.s("a1"), roomstore.EntryRequest{Room: roomstore.RoomID("b" + strconv.Itoa(i))})
					if full := again && i == 1; errors.Is(err, roomstore.ErrRoomLimit) != full {
						t.Errorf("room %d beside it: %v", i+1, err)
					} else if err == nil {
						room := "b" + strconv.Itoa(i)
						heard = append(heard, "created "+room+"#1", room+"#1:1 joined ana/a1 n=1")
					}
				}
				if again {
					w.heardEnd(heard)
				} else {
					w.heardEnd(heard, "destroyed a#1 emptied")
				}
				w.sweep("n1")
				w.heard()
				if got := w.state("a") == "none"; got == again {
					t.Errorf("stored %s", w.state("a"))
				}
			})
		})
	}
}

// Among however many that have expired, the one whose ID is taken is found; the
// sweep ends the others, and each has one end.
func TestStore_Sweep_orphans(t *testing.T) {
	for _, orphans := range []int{3, 700} {
		t.Run(strconv.Itoa(orphans), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false, roomstore.Config{})
			who := ana(w)
			id := func(i int) roomstore.RoomID { return roomstore.RoomID("r" + strconv.Itoa(i)) }
			for i := range orphans {
				w.create(who, id(i), 100)
				w.leave(who, id(i))
				w.expire(id(i))
				w.must(w.rdb.Unlink(w.ctx(), w.part("r")+"room:"+string(id(i)), w.part("r")+"left:"+string(id(i))).Err())
			}
			w.enter(who, id(0), id(orphans-1))
			for w.sweep("n1").More {
			}
			w.hear()
			for _, l := range w.lives {
				if want := strings.HasSuffix(l.name, "#1"); (l.destroyed == 1) != want {
					t.Errorf("%s was destroyed %d times", l.name, l.destroyed)
				}
			}
			if len(w.lives) != orphans+2 {
				t.Errorf("%d lives, want %d", len(w.lives), orphans+2)
			}
		})
	}
}

// Time in which nobody swept, and a step of the clock, is nobody's: that sweep
// does nothing else, and then all have as long as they had.
func TestStore_Sweep_pauses(t *testing.T) {
	for name, step := range map[string]time.Duration{"nobody swept": -time.Minute, "the clock was set back": time.Minute} {
		t.Run(name, func(t *testing.T) {
			contract(t, roomstore.Config{}, func(w *world) {
				w.pass(max(0, step)) // as if the clock were ahead
				inRoom("ana", "a")(w)
				w.park(w.s("a1"), 20*time.Second)
				w.lease("n2")
				w.sweep("n1")
				w.forget()
				last := w.now().Add(step)
				for _, slot := range w.slots() {
					w.must(w.rdb.HSet(w.ctx(), slot+"clock", "last", last.UnixMilli(), "paused", 0).Err())
				}
				// What runs meanwhile sees no time pass.
				if _, _, ok, err := w.store.Resume(w.ctx(), "n1", "ana", "other", nil); ok || err != nil {
					t.Errorf("%t, %v", ok, err)
				}
				_, err := w.store.Sweep(w.ctx(), "n1", []roomstore.Lapse{{Node: "n2", End: w.leaseEnd("n2")}})
				w.refused(err, roomstore.ErrPaused)
				w.heard()
				_, after := w.clock()
				if gap := time.Duration(after) * time.Millisecond; (gap + step).Abs() > 5*time.Second {
					t.Errorf("paused for %v, want %v", gap, -step)
				}
				if done := w.sweep("n1"); done.Evicted != 0 || done.Claimed != 0 {
					t.Errorf("swept %+v", done)
				}
				w.heard()
				w.pass(2 * time.Minute)
				if done := w.sweep("n1"); done.Evicted != 1 {
					t.Errorf("swept %+v", done)
				}
				w.forget()
			})
		})
	}
}

// Awake time stands still from the last sweep on if no sweep comes: who returns
// from such a gap finds the session alive, and leases hold.
func TestStore_awakeInGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true, roomstore.Config{LeaseTTL: 10 * time.Second})
	at := time.UnixMilli(time.Now().UnixMilli())
	w.mini.SetTime(at)
	inRoom("ana", "a")(w)
	w.lease("n2")
	w.sweep("n1")
	w.park(w.s("a1"), 10*time.Second)
	w.forget()
	w.mini.SetTime(at.Add(time.Hour))
	l, err := w.store.Lease(w.ctx(), "n2", false, nil)
	w.must(err)
	who, _ := w.resume("n2", w.s("a1"))
	if !slices.Contains(l.Alive, "n2") || l.SinceSweep != time.Hour || !l.Now.Equal(at.Add(time.Hour)) {
		t.Errorf("lease %+v", l)
	}
	w.park(who, 10*time.Second)
	_, err = w.store.Sweep(w.ctx(), "n1", nil)
	w.refused(err, roomstore.ErrPaused)
	for i := range 9 { // it has its 10 s, swept or not
		w.mini.SetTime(at.Add(time.Hour + time.Duration(i)*time.Second))
		if done := w.sweep("n1"); done.Evicted != 0 {
			t.Fatalf("after %d s: %+v", i, done)
		}
	}
	w.mini.SetTime(at.Add(time.Hour + 10*time.Second))
	if done := w.sweep("n1"); done.Evicted != 1 {
		t.Errorf("swept %+v", done)
	}
}

// A gap of 5 s is time, a longer one is not.
func TestStore_Sweep_gap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true, roomstore.Config{})
	at := time.UnixMilli(time.Now().UnixMilli())
	w.mini.SetTime(at)
	w.sweep("n1")
	w.mini.SetTime(at.Add(5 * time.Second))
	w.sweep("n1")
	w.mini.SetTime(at.Add(10*time.Second + time.Millisecond))
	_, err := w.store.Sweep(w.ctx(), "n1", nil)
	w.refused(err, roomstore.ErrPaused)
	if _, paused := w.clock(); paused != 5001 {
		t.Errorf("paused for %d ms, want 5001", paused)
	}
	w.sweep("n1")
	w.mini.SetTime(at.Add(10 * time.Second))
	_, err = w.store.Sweep(w.ctx(), "n1", nil)
	w.refused(err, roomstore.ErrPaused)
	if _, paused := w.clock(); paused != 5000 {
		t.Errorf("paused for %d ms, want 5000", paused)
	}
}

// A lease holds for its TTL, is renewed while it is there, and ends with the
// node's release, which is refused while anything names the node.
func TestStore_Lease(t *testing.T) {
	contract(t, roomstore.Config{LeaseTTL: 10 * time.Second}, func(w *world) {
		_, err := w.store.Lease(w.ctx(), "n1", false, nil)
		w.refused(err, roomstore.ErrFenced)
		w.lease("n1")
		w.lease("n2")
		w.pass(7 * time.Second)
		before := w.now().Truncate(time.Millisecond)
		l, err := w.store.Lease(w.ctx(), "n1", false, nil)
		w.must(err)
		if !slices.Equal(l.Alive, []string{"n2", "n1"}) {
			t.Errorf("alive: %v", l.Alive)
		}
		if after := w.now(); l.Now.Before(before) || l.Now.After(after) {
			t.Errorf("Redis's clock says %v, want %v to %v", l.Now, before, after)
		}
		w.pass(7 * time.Second)
		l, err = w.store.Lease(w.ctx(), "n1", false, nil)
		w.must(err)
		if !slices.Equal(l.Alive, []string{"n1"}) {
			t.Errorf("alive: %v", l.Alive)
		}
		if done := w.sweep("n1"); len(done.Lapsed) != 1 || done.Lapsed[0] != (roomstore.Lapse{Node: "n2", End: w.leaseEnd("n2")}) {
			t.Errorf("lapsed: %v", done.Lapsed)
		}
		// Nobody has claimed it: it may go on.
		_, err = w.store.Lease(w.ctx(), "n2", false, nil)
		w.must(err)

		inRoom("ana", "a")(w)
		w.refused(w.store.Release(w.ctx(), "n1"), roomstore.ErrHeld)
		w.leave(w.s("a1"), "a")
		w.refused(w.store.Release(w.ctx(), "n1"), roomstore.ErrHeld)
		w.park(w.s("a1"), time.Minute)
		w.must(w.store.Release(w.ctx(), "n1"))
		_, err = w.store.Lease(w.ctx(), "n1", false, nil)
		w.refused(err, roomstore.ErrFenced)
		w.must(w.store.Release(w.ctx(), "n1"))
		w.forget()
	})
}

// What a dead node held is parked, until the end of its lease plus the session
// TTL; who comes back in time has everything, the rest are evicted then.
func TestStore_Sweep_claims(t *testing.T) {
	contract(t, roomstore.Config{LeaseTTL: 10 * time.Second, SessionTTL: 30 * time.Second}, func(w *world) {
		w.lease("n1")
		w.lease("n2")
		w.enter(w.loginOn("n2", "ben", "b1", ""), "a")
		w.enter(ana(w), "a", "b")
		eve(w) // in no room
		end := w.leaseEnd("n1")
		w.forget()

		// Not while the lease holds, nor if it has been renewed since.
		w.sweep("n2", roomstore.Lapse{Node: "n1", End: end})
		w.pass(11 * time.Second)
		w.lease("n2")
		w.lease("n1")
		w.pass(11 * time.Second)
		w.lease("n2")
		for _, wrong := range []int64{end, end + 1, 0, w.leaseEnd("n1") + 1} {
			if done := w.sweep("n2", roomstore.Lapse{Node: "n1", End: wrong}); done.Claimed != 0 {
				t.Errorf("claimed with lease end %d: %+v", wrong, done)
			}
		}
		if got, want := w.state("a"), "#1:2 ben/b1@1 n2 ana/a1@2 n1"; got != want {
			t.Fatalf("stored %s, want %s", got, want)
		}
		end = w.leaseEnd("n1")
		claim := roomstore.Lapse{Node: "n1", End: end}
		done := w.sweep("n2", claim, roomstore.Lapse{Node: "nobody", End: 1})
		if done.Claimed != 2 {
			t.Errorf("swept %+v", done)
		}
		w.heard()
		if got, want := w.state("a"), "#1:2 ben/b1@1 n2 ana/a1@2 parked"; got != want {
			t.Errorf("stored %s, want %s", got, want)
		}
		deadline := float64(end + 30_000)
		// Where slots lie apart, they reckon from how long ago the lease ended.
		wrong := func(at float64) bool { return at != deadline && (!w.apart || math.Abs(at-deadline) > 1000) }
		if at := w.rdb.ZScore(w.ctx(), w.part("a")+"parked", "a1\x00ana\x00a").Val(); wrong(at) {
			t.Errorf("parked until %.0f, want %.0f", at, deadline)
		}
		for _, who := range []roomstore.Session{w.s("a1"), w.s("e1")} {
			key := w.tag("u"+strconv.Itoa(w.hash(string(who.User)))) + "parked"
			if at := w.rdb.ZScore(w.ctx(), key, string(who.ID)+"\x00"+string(who.User)).Val(); wrong(at) {
				t.Errorf("session of %s parked until %.0f, want %.0f", who.User, at, deadline)
			}
		}
		if _, err := w.rdb.ZScore(w.ctx(), w.nodes(), "n1").Result(); err == nil {
			t.Error("the node is still there")
		}
		// Whatever the dead node still does changes nothing.
		before := w.dump()
		old := w.s("a1")
		_, err := w.store.Send(w.ctx(), old, roomstore.Message{Room: "a", ID: "m", Payload: "x"})
		w.refused(err, roomstore.ErrFenced)
		_, err = w.store.Leave(w.ctx(), old, "a", "")
		w.refused(err, roomstore.ErrFenced)
		_, err = w.try(old, roomstore.EntryRequest{Room: "c"})
		w.refused(err, roomstore.ErrFenced)
		w.refused(w.store.Park(w.ctx(), old, time.Hour), roomstore.ErrFenced)
		for _, begin := range []bool{true, false} {
			_, err = w.store.Lease(w.ctx(), "n1", begin, nil)
			w.refused(err, roomstore.ErrFenced)
		}
		w.unchanged(before)

		_, rooms := w.resume("n2", w.s("e1"))
		if len(rooms) != 0 {
			t.Errorf("eve is in %v", rooms)
		}
		w.pass(15 * time.Second)
		w.sweep("n2")
		w.heard()
		w.pass(30 * time.Second)
		w.lease("n2")
		if done := w.sweep("n2"); done.Evicted != 2 {
			t.Errorf("swept %+v", done)
		}
		w.hearSorted([]string{"a#1:3 timeout ana/a1 n=1", "b#1:2 timeout ana/a1 n=0", "b#1:3 ended emptied", "destroyed b#1 emptied"})
	})
}

// A node that stood still may be given a session before it renews its lease, and
// then be given up: the session lasts from when it came.
func TestStore_Sweep_claimsLapsed(t *testing.T) {
	for _, back := range []bool{false, true} {
		t.Run(map[bool]string{false: "login", true: "resume"}[back], func(t *testing.T) {
			contract(t, roomstore.Config{LeaseTTL: 10 * time.Second, SessionTTL: 30 * time.Second}, func(w *world) {
				if w.apart {
					return // the node looks at its own clock, and renews its lease first
				}
				w.lease("n1")
				w.lease("n2")
				who := w.loginOn("n2", "ben", "b1", "")
				w.pass(11 * time.Second)
				w.lease("n2")
				lapsed := w.leaseEnd("n1")
				if back {
					w.resume("n1", who)
				} else {
					who = w.loginOn("n1", "ben", "b2", "")
				}
				end := w.leaseEnd("n1")
				if end < lapsed+1000 {
					t.Fatalf("the lease ends at %d, want a second after %d at least", end, lapsed)
				}
				w.pass(time.Second)
				w.lease("n2")
				if done := w.sweep("n2", roomstore.Lapse{Node: "n1", End: lapsed}); done.Claimed != 0 {
					t.Errorf("claimed by a lease that had ended before: %+v", done)
				}
				w.sweep("n2", roomstore.Lapse{Node: "n1", End: end})
				key := w.tag("u"+strconv.Itoa(w.hash("ben"))) + "parked"
				if at := w.rdb.ZScore(w.ctx(), key, string(who.ID)+"\x00ben").Val(); at != float64(end+30_000) {
					t.Errorf("parked until %.0f, want %d", at, end+30_000)
				}
			})
		})
	}
}

// A node with more than one sweep's work is claimed in bounded steps, by any
// number of claimers at once, and everyone gets the same deadline.
func TestStore_Sweep_claimsInSteps(t *testing.T) {
	for _, tt := range []struct {
		name         string
		embedded     bool
		users, rooms int
	}{{"many users", false, 620, 1}, {"many rooms", false, 27, 20}, {"embedded", true, 27, 20}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := roomstore.Config{MaxMembers: 5000, MaxRoomsPerUser: 20, Partitions: 4, LeaseTTL: 10 * time.Second}
			rdb, mini := redistest.New(t), (*miniredis.Miniredis)(nil)
			if tt.embedded {
				mini = miniredis.RunT(t)
				mini.ClockTTL(true)
				o := redistest.Options(mini.Addr())
				o.ReadTimeout = time.Minute // it takes its time for so much at once
				rdb = redis.NewClient(o)
				t.Cleanup(func() { rdb.Close() })
			}
			w := newWorldOn(t, rdb, mini, cfg)
			places := tt.users * tt.rooms
			var rooms []roomstore.RoomID
			for i := range tt.rooms {
				rooms = append(rooms, roomstore.RoomID("r"+strconv.Itoa(i)))
			}
			parked := func() (all []redis.Z) {
				for p := range w.parts {
					all = append(all, w.rdb.ZRangeWithScores(w.ctx(), w.tag(strconv.Itoa(p))+"parked", 0, -1).Val()...)
				}
				return all
			}
			w.lease("n9")
			w.crowd(tt.users, rooms...)
			w.forget()
			w.pass(11 * time.Second)
			claim := roomstore.Lapse{Node: "n9", End: w.leaseEnd("n9")}
			first := w.sweep("n1", claim)
			// Of memberships and sessions together 500 are taken.
			if first.Claimed == 0 || first.Claimed > 500 || !first.More || len(parked()) != first.Claimed {
				t.Errorf("swept %+v, %d are parked", first, len(parked()))
			}
			w.leaseEnd("n9") // it is still there
			var wg sync.WaitGroup
			var mu sync.Mutex
			claimed := first.Claimed
			for i := range 2 {
				wg.Go(func() {
					for range 6 {
						done, err := w.store.Sweep(w.ctx(), "n"+strconv.Itoa(i+1), []roomstore.Lapse{claim})
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						claimed += done.Claimed
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if claimed != places || len(parked()) != places {
				t.Errorf("claimed %d, %d are parked, want %d", claimed, len(parked()), places)
			}
			for _, z := range parked() {
				if z.Score != float64(claim.End+35_000) {
					t.Errorf("%q is parked until %.0f, want %d", z.Member, z.Score, claim.End+35_000)
				}
			}
			for _, key := range w.keys() {
				if strings.Contains(key, "}:node:") || strings.Contains(key, "nodesessions") {
					t.Errorf("%s is left", key)
				}
			}
			if n := w.rdb.ZCard(w.ctx(), w.nodes()).Val(); n != 0 {
				t.Errorf("%d nodes are left", n)
			}
			w.heard()
			// Eviction is bounded, too.
			w.pass(time.Minute)
			if done := w.sweep("n1"); done.Evicted == 0 || done.Evicted > 500 || !done.More {
				t.Errorf("swept %+v, want up to 500 and more to do", done)
			}
			for w.sweep("n1").More {
			}
			w.forget()
			w.nothingLeft()
		})
	}
}

// What a delay does to a room in each of its situations.
func TestStore_delayedDestruction(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		emptied("a", 100)(w)
		b := ben(w)
		left := func() time.Duration {
			t.Helper()
			at, err := w.rdb.HGet(w.ctx(), w.part("a")+"room:a", "deadline").Int64()
			w.must(err)
			return time.UnixMilli(at).Sub(w.now())
		}
		if d := left(); d < 95*time.Second || d > 100*time.Second {
			t.Errorf("ends in %v", d)
		}
		// Each emptiness starts the whole delay again.
		at := w.now().Add(3 * time.Second).UnixMilli()
		w.must(w.rdb.HSet(w.ctx(), w.part("a")+"room:a", "deadline", at).Err())
		w.enter(b, "a")
		if w.rdb.HExists(w.ctx(), w.part("a")+"room:a", "deadline").Val() {
			t.Error("an entry does not cancel the deadline")
		}
		w.must(w.store.Kick(w.ctx(), "a", "ben", ""))
		if d := left(); d < 95*time.Second || d > 100*time.Second {
			t.Errorf("ends in %v", d)
		}
		// The rest runs on its own, on Redis's clock, with no sweep.
		at = w.now().Add(50 * time.Millisecond).UnixMilli()
		w.must(w.rdb.HSet(w.ctx(), w.part("a")+"room:a", "deadline", at).Err())
		eventually(t, func() bool {
			_, err := w.store.Catchup(w.ctx(), "a", roomstore.Position{})
			return err != nil && strings.Contains(err.Error(), roomstore.ErrNoRoom.Error())
		})
		w.hear()
		if got := w.state("a"); got != "none" {
			t.Errorf("stored %s", got)
		}
		if w.now().UnixMilli() < at {
			t.Error("it ended early")
		}
		if n := len(w.said); n < 2 || w.said[n-1] != "destroyed a#1 emptied" {
			t.Errorf("published %q", w.said)
		}
	})
}

// From its deadline on a room does not exist for any operation, which finishes
// it first: it has its one end, and nothing of it is left before anybody sweeps.
func TestStore_pastDeadline(t *testing.T) {
	room := []roomstore.RoomID{"a"}
	enter := func(mode roomstore.Mode) func(w *world) error {
		return func(w *world) error {
			_, err := w.try(w.s("b1"), roomstore.EntryRequest{Mode: mode, Room: "a"})
			return err
		}
	}
	for _, tt := range []struct {
		name string
		do   func(w *world) error
		err  error
		anew bool // it begins another life
	}{
		{"join", enter(roomstore.ModeJoin), roomstore.ErrNoRoom, false},
		{"enter", enter(roomstore.ModeEnter), nil, true},
		{"create", enter(roomstore.ModeCreate), nil, true},
		{"switch to it", func(w *world) error {
			_, err := w.change(w.s("b1"), "b", roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "a"})
			return err
		}, roomstore.ErrNoRoom, false},
		{"switch and create it", func(w *world) error {
			_, err := w.change(w.s("b1"), "b", roomstore.EntryRequest{Room: "a"})
			return err
		}, nil, true},
		{"switch from it", func(w *world) error {
			_, err := w.change(w.s("b1"), "a", roomstore.EntryRequest{Room: "c"})
			return err
		}, roomstore.ErrNotFrom, false},
		{"leave", func(w *world) error {
			_, err := w.store.Leave(w.ctx(), w.s("b1"), "a", "")
			return err
		}, roomstore.ErrNoRoom, false},
		{"kick", func(w *world) error { return w.store.Kick(w.ctx(), "a", "ben", "") }, roomstore.ErrNoRoom, false},
		{"destroy", func(w *world) error { return w.store.Destroy(w.ctx(), "a") }, roomstore.ErrNoRoom, false},
		{"send", func(w *world) error {
			_, err := w.store.Send(w.ctx(), w.s("b1"), roomstore.Message{Room: "a", ID: "m", Payload: "x"})
			return err
		}, roomstore.ErrNoRoom, false},
		{"relay", func(w *world) error {
			_, err := w.store.Relay(w.ctx(), w.s("b1"), roomstore.Message{Room: "a", ID: "m", Priority: 1, Payload: "x"})
			return err
		}, roomstore.ErrNoRoom, false},
		{"count", func(w *world) error {
			_, _, err := w.store.Count(w.ctx(), w.s("b1"), "a")
			return err
		}, roomstore.ErrNoRoom, false},
		{"list", func(w *world) error {
			_, err := w.store.Members(w.ctx(), w.s("b1"), "a", "", 10)
			return err
		}, roomstore.ErrNoRoom, false},
		{"look up", func(w *world) error {
			_, _, err := w.store.MemberInfo(w.ctx(), w.s("b1"), "a", []roomstore.UserID{"ana"})
			return err
		}, roomstore.ErrNoRoom, false},
		{"catch up", func(w *world) error {
			_, err := w.store.Catchup(w.ctx(), "a", roomstore.Position{})
			return err
		}, roomstore.ErrNoRoom, false},
		{"ask where it is", func(w *world) error {
			at, err := w.store.Positions(w.ctx(), room)
			if at["a"].Epoch != 0 {
				w.Errorf("it is at %v", at["a"])
			}
			return err
		}, nil, false},
		{"ask who is absent", func(w *world) error {
			_, err := w.store.Absent(w.ctx(), "a", []roomstore.Session{w.s("b1")})
			return err
		}, nil, false},
		{"resume", func(w *world) error {
			_, rooms := w.resume("n2", w.s("b1"), "a")
			for _, r := range rooms {
				if r.Room == "a" && (r.In || r.Reason != roomstore.ReasonNoRoom) {
					w.Errorf("resumed as %+v", r)
				}
			}
			return nil
		}, nil, false},
		{"sweep", func(w *world) error { w.sweep("n1"); return nil }, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			contract(t, roomstore.Config{MaxRooms: 2}, func(w *world) {
				inRoom("ben", "b")(w) // who stays
				w.create(ana(w), "a", 100)
				_, err := w.store.Send(w.ctx(), w.s("a1"), roomstore.Message{Room: "a", ID: "m", Payload: "x"})
				w.must(err)
				for _, kind := range []string{"attrs", "memberattrs", "blocked"} {
					w.must(w.rdb.HSet(w.ctx(), w.part("a")+kind+":a", "x", "1").Err())
				}
				w.leave(w.s("a1"), "a")
				w.expire("a")
				w.forget()
				w.refused(tt.do(w), tt.err)
				w.hear()
				said := w.said
				w.said = nil
				// Before all else that is about a room.
				said = slices.DeleteFunc(said, func(s string) bool { return strings.HasPrefix(s, "order ") })
				if len(said) < 2 || said[0] != "a#1:4 ended emptied" || said[1] != "destroyed a#1 emptied" {
					t.Errorf("published %q", said)
				}
				if got := w.state("a") == "none"; got == tt.anew {
					t.Errorf("stored %s", w.state("a"))
				}
				if n := w.rdb.ZCard(w.ctx(), w.part("a")+"due").Val(); n != 0 {
					t.Errorf("%d are due", n)
				}
				w.sweep("n1")
				w.heard()
			})
		})
	}
}

// A room that is past its deadline is not counted, whether or not anybody has
// noticed; until then it is.
func TestStore_pastDeadline_count(t *testing.T) {
	contract(t, roomstore.Config{MaxRooms: 1}, func(w *world) {
		emptied("a", 100)(w)
		_, err := w.try(w.s("a1"), roomstore.EntryRequest{Room: "b"})
		w.refused(err, roomstore.ErrRoomLimit)
		w.expire("a")
		w.forget()
		w.enter(w.s("a1"), "b")
		w.heardEnd([]string{"created b#1", "b#1:1 joined ana/a1 n=1"}, "a#1:3 ended emptied", "destroyed a#1 emptied")
	})
}

// While its delay runs a room is what it was: an entry of any kind finds name,
// attributes and delay, cancels the end, and takes the expiry off every key.
func TestStore_delayedDestruction_cancelled(t *testing.T) {
	attributes := map[string]string{"k": "v"}
	for name, enter := range map[string]func(w *world) (roomstore.Entry, error){
		"join": func(w *world) (roomstore.Entry, error) {
			return w.try(ben(w), roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "a"})
		},
		"enter": func(w *world) (roomstore.Entry, error) {
			return w.try(ben(w), roomstore.EntryRequest{Room: "a", Name: "B", Delay: 1})
		},
		"switch": func(w *world) (roomstore.Entry, error) {
			inRoom("ben", "b")(w)
			e, _, err := w.store.Switch(w.ctx(), w.s("b1"), "b", roomstore.EntryRequest{
				Mode: roomstore.ModeEnter, Room: "a", Name: "B", Delay: 1, Data: dataOf("ben", "b1"),
			})
			return e, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			contract(t, roomstore.Config{}, func(w *world) {
				_, err := w.try(ana(w), roomstore.EntryRequest{Room: "a", Name: "A", Delay: 100, Attributes: attributes})
				w.must(err)
				w.leave(w.s("a1"), "a")
				lasting := []string{w.part("a") + "room:a", w.part("a") + "attrs:a"}
				for _, key := range lasting {
					if ttl := w.rdb.PTTL(w.ctx(), key).Val(); ttl < time.Hour || ttl > time.Hour+100*time.Second {
						t.Errorf("%s expires in %v, want an hour after the deadline", key, ttl)
					}
				}
				e, err := enter(w)
				w.must(err)
				if e.Name != "A" || e.Delay != 100 || e.Created || e.Count != 1 || !slices.Equal(e.Attributes, []roomstore.Attribute{{Key: "k", Value: "v", Owner: "ana"}}) {
					t.Errorf("got %+v", e)
				}
				for _, key := range lasting {
					if ttl := w.rdb.PTTL(w.ctx(), key).Val(); ttl >= 0 {
						t.Errorf("%s still expires, in %v", key, ttl)
					}
				}
				if n := w.rdb.ZCard(w.ctx(), w.part("a")+"due").Val(); n != 0 {
					t.Errorf("%d are due", n)
				}
				w.forget()
				w.sweep("n1")
				w.heard()
			})
		})
	}
}

// Whatever drops from a user's list a room that a backend has ended drops what
// else names the place, too.
func TestStore_Destroy_dropped(t *testing.T) {
	held := func(w *world, node string) (all []string) {
		for p := range w.parts {
			all = append(all, w.rdb.SMembers(w.ctx(), w.tag(strconv.Itoa(p))+"node:"+node).Val()...)
		}
		slices.Sort(all)
		return all
	}
	for _, tt := range []struct {
		name  string
		limit int // of the user's rooms; at the limit each is looked at
		then  func(w *world)
		want  []string // what n1 holds then
		own   bool     // not where slots lie apart
	}{
		{"at the user's limit", 2, func(w *world) { w.enter(w.s("a1"), "c") }, []string{"ana\x00b", "ana\x00c"}, false},
		{"on another device", 5, func(w *world) { w.enter(w.loginOn("n2", "ana", "a2", ""), "a") }, []string{"ana\x00b"}, false},
		{"on the same", 5, func(w *world) { w.enter(w.s("a1"), "a") }, []string{"ana\x00a", "ana\x00b"}, false},
		{"with the session of another device", 5, func(w *world) {
			w.park(w.loginOn("n2", "ana", "a2", ""), time.Second)
			w.pass(time.Minute)
			w.sweep("n1")
		}, []string{"ana\x00b"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			contract(t, roomstore.Config{MaxRoomsPerUser: tt.limit}, func(w *world) {
				w.enter(ana(w), "a", "b")
				w.must(w.store.Destroy(w.ctx(), "a"))
				tt.then(w)
				want := tt.want
				if w.apart && tt.own {
					want = []string{"ana\x00a", "ana\x00b"} // until that session looks itself
				}
				if got := held(w, "n1"); !slices.Equal(got, want) {
					t.Errorf("the node holds %q, want %q", got, want)
				}
			})
		})
	}
}
