package roomstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/roomstore"
)

// heardEnd fails the test unless this was published, and then what a sweep brings of
// a room that is past its deadline. Where places for rooms are given in another slot
// whoever is at the limit has ended it before.
func (w *world) heardEnd(want []string, end ...string) {
	w.Helper()
	if w.admits() {
		w.hear()
		got, all := w.said, append(slices.Clone(end), want...)
		w.said = nil
		slices.Sort(got) // what two masters publish comes in no order
		slices.Sort(all)
		if diff := cmp.Diff(all, got); diff != "" && len(end) > 0 {
			w.Errorf("published (-want +got):\n%s", diff)
		}
		end = nil
	} else {
		w.heard(want...)
	}
	w.sweep("n1")
	w.heard(end...)
}

// admitting runs a test where rooms of 16 partitions are counted together: on one
// Redis, and on a Cluster.
func admitting(t *testing.T, cfg roomstore.Config, test func(w *world)) {
	t.Helper()
	t.Parallel()
	cfg.Partitions, cfg.Apart = 16, true
	for _, kind := range []string{"apart", "cluster"} {
		if testing.Short() && kind == "cluster" {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if kind == "cluster" {
				test(newWorldOn(t, redistest.NewCluster(t).Client(), nil, cfg))
				return
			}
			test(newWorld(t, false, cfg))
		})
	}
}

// fill creates rooms until there are as many as may exist, and gives how many those
// were.
func (w *world) fill(who roomstore.Session, name string) (n int) {
	w.Helper()
	for ; ; n++ {
		_, err := w.try(who, roomstore.EntryRequest{Room: roomstore.RoomID(name + strconv.Itoa(n)), Delay: 1000})
		if errors.Is(err, roomstore.ErrRoomLimit) {
			return n
		}
		w.must(err)
	}
}

// exist gives how many rooms there are.
func (w *world) exist() (n int) {
	w.Helper()
	for p := range w.parts {
		n += int(w.rdb.ZCard(w.ctx(), w.tag(strconv.Itoa(p))+"rooms").Val())
	}
	return n
}

// Of a thousand who create a room for the last places, some of whose gateways die
// between any two calls, as many are let in as there are places; and the places
// that the dead have taken are there again when others have had time to see to them.
func TestStore_race_lastRooms(t *testing.T) {
	const limit, askers = 7, 1000
	admitting(t, roomstore.Config{MaxRooms: limit, MaxRoomsPerUser: 100}, func(w *world) {
		who := w.loginMany(askers, "n1")
		stores := w.stores(3, w.cfg)
		for calls := range 12 {
			s, _ := w.dies(calls)
			stores = append(stores, s)
		}
		var won, died int
		var mu sync.Mutex
		race(w.T, askers, nil, func(i int) error {
			_, err := stores[i%len(stores)].Enter(w.ctx(), who[i], roomstore.EntryRequest{
				Mode: roomstore.ModeEnter, Room: roomstore.RoomID("r" + strconv.Itoa(i)), Data: dataOf(who[i].User, who[i].ID), Delay: 1000,
			})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case i%len(stores) >= 3:
				died++
			case !errors.Is(err, roomstore.ErrRoomLimit):
				return err
			}
			return nil
		})
		w.hear()
		if n := w.exist(); n > limit || n < won || died == 0 {
			w.Fatalf("%d rooms exist, %d were created, %d died", n, won, died)
		}
		w.lease("n2")
		w.pass(10 * time.Second)
		w.lease("n2")
		w.sweep("n2")
		for range 20 { // more than are seen to at once may have been left
			w.sweep("n2")
		}
		before := w.exist()
		if n := w.fill(w.login("zoe", "z1"), "z"); before+n != limit || w.exist() != limit {
			w.Errorf("%d rooms, then %d more: %d, want %d", before, n, w.exist(), limit)
		}
		w.said = nil
	})
}

// While rooms come and go on several gateways, there are never more than may exist;
// and whenever there are fewer, and nobody else asks, one can be created.
func TestStore_race_placesComeBack(t *testing.T) {
	const limit, workers, rounds = 5, 12, 20
	admitting(t, roomstore.Config{MaxRooms: limit, MaxRoomsPerUser: 100}, func(w *world) {
		stores := w.stores(3, w.cfg)
		who := w.loginMany(workers, "n1")
		race(w.T, workers, nil, func(i int) error {
			s := stores[i%len(stores)]
			for n := range rounds {
				// Several want the same IDs, in one life and the next.
				room := roomstore.RoomID("r" + strconv.Itoa((i*n)%7))
				_, err := s.Enter(w.ctx(), who[i], roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: room, Data: dataOf(who[i].User, who[i].ID)})
				if errors.Is(err, roomstore.ErrRoomLimit) {
					continue
				}
				if err != nil {
					return err
				}
				if n%3 == 0 {
					err = s.Destroy(w.ctx(), room)
				} else {
					_, err = s.Leave(w.ctx(), who[i], room, "")
				}
				if err != nil && !roomstore.Refused(err) {
					return err
				}
			}
			return nil
		})
		w.hear()
		if _, one := w.cfg, w.mini; one == nil && !strings.Contains(w.Name(), "cluster") {
			n, most := 0, 0
			for _, said := range w.said {
				if strings.HasPrefix(said, "created ") {
					n++
				} else if strings.HasPrefix(said, "destroyed ") {
					n--
				}
				most = max(most, n)
			}
			if most > limit {
				w.Errorf("%d rooms were there at once, %d may exist", most, limit)
			}
		}
		before := w.exist()
		if n := w.fill(w.login("zoe", "z1"), "z"); before+n != limit {
			w.Errorf("%d rooms, then %d more, want %d", before, n, limit)
		}
		w.said = nil
	})
}

// However a room ends, another one can be created then.
func TestStore_places(t *testing.T) {
	for name, end := range map[string]func(w *world){
		"left":       func(w *world) { w.leave(w.s("a1"), "a") },
		"destroyed":  func(w *world) { w.must(w.store.Destroy(w.ctx(), "a")) },
		"kicked":     func(w *world) { w.must(w.store.Kick(w.ctx(), "a", "ana", "")) },
		"logged out": func(w *world) { _, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "", true); w.must(err) },
		"switched": func(w *world) {
			_, _, err := w.store.Switch(w.ctx(), w.s("a1"), "a", roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "b", Data: "ana/a1"})
			w.must(err)
		},
		"evicted": func(w *world) {
			w.park(w.s("a1"), time.Second)
			w.pass(2 * time.Second)
			w.sweep("n1")
		},
		"destroyed, and created again by another, who destroys it": func(w *world) {
			w.must(w.store.Destroy(w.ctx(), "a"))
			w.enter(w.s("b1"), "a")
			w.must(w.store.Destroy(w.ctx(), "a"))
		},
		"past its deadline": func(w *world) {
			w.must(w.store.Destroy(w.ctx(), "a"))
			w.create(w.s("a1"), "a", 100)
			w.leave(w.s("a1"), "a")
			w.expire("a")
		},
	} {
		t.Run(name, func(t *testing.T) {
			admitting(t, roomstore.Config{MaxRooms: 2}, func(w *world) {
				inRoom("ana", "a")(w)
				inRoom("ben", "b")(w)
				cy := w.login("cy", "c1")
				_, err := w.try(cy, roomstore.EntryRequest{Room: "c"})
				w.refused(err, roomstore.ErrRoomLimit)
				w.enter(cy, "b") // which exists
				end(w)
				w.enter(cy, "c")
				_, err = w.try(cy, roomstore.EntryRequest{Room: "d"})
				w.refused(err, roomstore.ErrRoomLimit)
				w.forget()
			})
		})
	}
}

// What is refused for another reason takes no place, nor does what was given up.
func TestStore_places_refused(t *testing.T) {
	admitting(t, roomstore.Config{MaxRooms: 2, MaxRoomsPerUser: 1}, func(w *world) {
		inRoom("ana", "a")(w)
		ben := w.login("ben", "b1")
		_, _, err := w.store.Switch(w.ctx(), ben, "a", roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "x", Data: "ben/b1"})
		w.refused(err, roomstore.ErrNotFrom)
		_, _, err = w.store.Switch(w.ctx(), w.s("a1"), "a", roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "y", Data: "ana/a1"})
		w.refused(err, roomstore.ErrNoRoom)
		_, err = w.try(w.s("a1"), roomstore.EntryRequest{Room: "z"})
		w.refused(err, roomstore.ErrUserLimit)
		w.enter(ben, "b")
		w.forget()
	})
}

// What is stored where places are given may be lost, or be of another time: rooms are
// counted anew before another one is created, by whoever creates it or by the sweep.
func TestStore_places_lost(t *testing.T) {
	for name, lose := range map[string]func(w *world, slot0 func() func()){
		"lost":        func(w *world, slot0 func() func()) { slot0() },
		"of before a": func(w *world, slot0 func() func()) { slot0()() },
	} {
		for _, sweep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, swept %t", name, sweep), func(t *testing.T) {
				admitting(t, roomstore.Config{MaxRooms: 4}, func(w *world) {
					w.must(w.store.Greet(w.ctx()))
					w.lease("n1")
					// Of other slots than that of the places.
					var rooms []roomstore.RoomID
					for i := 0; len(rooms) < 6; i++ {
						if id := roomstore.RoomID("r" + strconv.Itoa(i)); w.hash(string(id)) > 0 {
							rooms = append(rooms, id)
						}
					}
					who := w.login("ana", "a1")
					w.enter(who, rooms[3])
					restore := w.keep(w.tag("0"))
					w.create(who, rooms[0], 100)
					w.enter(who, rooms[1])
					w.leave(who, rooms[0]) // which is empty, and known to no gateway
					w.must(w.store.Destroy(w.ctx(), rooms[3]))
					lose(w, func() func() { w.wipe(w.tag("0")); return restore })
					w.again()
					w.lease("n1")
					if sweep {
						w.sweep("n1")
					}
					w.enter(who, rooms[2], rooms[4])
					_, err := w.try(who, roomstore.EntryRequest{Room: rooms[5]})
					w.refused(err, roomstore.ErrRoomLimit)
					w.must(w.store.Destroy(w.ctx(), rooms[1]))
					w.enter(who, rooms[5])
					w.forget()
				})
			})
		}
	}
}

// wipe deletes all that is stored in one slot.
func (w *world) wipe(slot string) {
	w.Helper()
	w.hear()
	for _, key := range w.keys() {
		if strings.HasPrefix(key, slot) {
			w.must(w.rdb.Del(w.ctx(), key).Err())
		}
	}
}

// keep gives what puts back what a slot holds now.
func (w *world) keep(slot string) (restore func()) {
	w.Helper()
	all := map[string]string{}
	for _, key := range w.keys() {
		if strings.HasPrefix(key, slot) {
			all[key] = w.rdb.Dump(w.ctx(), key).Val()
		}
	}
	return func() {
		w.Helper()
		w.wipe(slot)
		for key, value := range all {
			w.must(w.rdb.Restore(w.ctx(), key, 0, value).Err())
		}
		w.must(w.rdb.Set(w.ctx(), slot+"origin", "another\x001\x00", 0).Err())
	}
}

// again goes on under the term that has begun.
func (w *world) again() {
	w.Helper()
	w.greet()
	w.open()
	w.store.Adopt(w.greet().Term)
}

// A partition whose data is lost gives the places back of rooms that are not put
// back; those that are have theirs, though it is for a moment that they are not there.
func TestStore_places_healed(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprintf("before the term is open %t", early), func(t *testing.T) {
			admitting(t, roomstore.Config{MaxRooms: 3}, func(w *world) {
				w.must(w.store.Greet(w.ctx()))
				w.lease("n1")
				var rooms, others []roomstore.RoomID
				for i := 0; len(rooms) < 2 || len(others) < 3; i++ {
					id := roomstore.RoomID("r" + strconv.Itoa(i))
					if w.hash(string(id)) == 5 {
						rooms = append(rooms, id)
					} else {
						others = append(others, id)
					}
				}
				ana := w.login("ana", "a1")
				w.enter(ana, rooms[0], rooms[1], others[0])
				known := w.knows("n1", rooms[0])
				w.wipe(w.tag("5"))
				for _, l := range w.lives {
					if l.room == string(rooms[0]) || l.room == string(rooms[1]) {
						l.destroyed = 1
					}
				}
				term := w.greet().Term
				if early {
					known.heals(term)
					w.again()
				} else {
					w.again()
					known.heals(term)
				}
				w.lease("n1")
				w.sweep("n1")
				w.enter(w.login("ben", "b1"), others[1])
				_, err := w.try(w.s("b1"), roomstore.EntryRequest{Room: others[2]})
				w.refused(err, roomstore.ErrRoomLimit)
				w.forget()
			})
		})
	}
}

// A limit that is set while there are rooms counts them; and after a sweep those, too,
// that a gateway without the limit has created.
func TestStore_places_setLater(t *testing.T) {
	admitting(t, roomstore.Config{MaxRooms: 4, MaxRoomsPerUser: 20}, func(w *world) {
		without := w.cfg
		without.MaxRooms = 0
		free := w.stores(1, without)[0]
		ana := w.login("ana", "a1")
		for i := range 2 {
			for _, s := range []*roomstore.Store{free, w.store} {
				_, err := s.Enter(w.ctx(), ana, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: roomstore.RoomID(fmt.Sprintf("%d%p", i, s)), Data: "ana/a1"})
				w.must(err)
			}
		}
		w.sweep("n1")
		_, err := w.try(ana, roomstore.EntryRequest{Room: "one more"})
		w.refused(err, roomstore.ErrRoomLimit)
		w.forget()
	})
}

// An entry costs as many calls as it did, unless there is a limit and it creates the
// room.
func TestStore_places_calls(t *testing.T) {
	for _, tt := range []struct {
		limit, create, join int
	}{{0, 2, 2}, {10, 4, 2}} {
		t.Run(fmt.Sprint(tt.limit), func(t *testing.T) {
			admitting(t, roomstore.Config{MaxRooms: tt.limit}, func(w *world) {
				var mu sync.Mutex
				var scripts []string
				cfg := w.cfg
				cfg.Observe = func(script, _ string, _ time.Duration) {
					mu.Lock()
					scripts = append(scripts, script)
					mu.Unlock()
				}
				s := w.stores(1, cfg)[0]
				w.enter(w.login("ana", "a1"), "first") // the rooms have been counted
				ben := w.login("ben", "b1")
				for _, want := range []int{tt.create, tt.join} {
					_, err := s.Enter(w.ctx(), w.sessions["b1"], roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", Data: dataOf(ben.User, ben.ID)})
					w.must(err)
					if len(scripts) != want {
						w.Errorf("it was %q, want %d calls", scripts, want)
					}
					scripts = nil
					w.sessions["b1"] = w.s("a1")
					ben = w.s("a1")
				}
				w.forget()
			})
		})
	}
}

// Whatever happens between two calls of a creation, or of who sees to places, each
// room has its place then, and none is missing.
func TestStore_places_meanwhile(t *testing.T) {
	t.Parallel()
	enter := func(id roomstore.SessionID, room roomstore.RoomID) func(s *roomstore.Store, w *world) error {
		return func(s *roomstore.Store, w *world) error {
			_, err := s.Enter(w.ctx(), w.s(id), roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: room, Data: dataOf(w.s(id).User, id)})
			return err
		}
	}
	sweep := func(s *roomstore.Store, w *world) error { _, err := s.Sweep(w.ctx(), "n2", nil); return err }
	// A place that nobody has used for long, and one of a room that has ended.
	left := func(w *world) {
		dead, _ := w.dies(3)
		enter("b1", "b")(dead, w)
		w.pass(10 * time.Second)
		w.enter(w.s("b1"), "d")
		w.must(w.store.Destroy(w.ctx(), "d"))
	}
	for _, op := range []steps{
		{name: "create", do: enter("a1", "b")},
		{name: "create where places are left", given: left, do: enter("a1", "b")},
		{name: "create what has ended", given: left, do: enter("a1", "d")},
		{name: "sweep", given: left, do: sweep},
		{name: "count", given: func(w *world) { w.wipe(w.tag("0") + "ad") }, do: enter("a1", "b")},
	} {
		for _, other := range []steps{
			{name: "another creates it", do: enter("b1", "b")},
			{name: "another creates and ends it", do: func(s *roomstore.Store, w *world) error {
				err := enter("b1", "b")(s, w)
				return errors.Join(err, s.Destroy(w.ctx(), "b"))
			}},
			{name: "another creates and ends it, and it is counted out", do: func(s *roomstore.Store, w *world) error {
				err := enter("b1", "b")(s, w)
				return errors.Join(err, s.Destroy(w.ctx(), "b"), sweep(s, w))
			}},
			{name: "another creates and ends it twice", do: func(s *roomstore.Store, w *world) error {
				var err error
				for range 2 {
					err = errors.Join(err, enter("b1", "d")(s, w), s.Destroy(w.ctx(), "d"), sweep(s, w))
				}
				return err
			}},
			{name: "another creates what has ended", do: enter("b1", "d")},
			{name: "a room ends, and is counted out", do: func(s *roomstore.Store, w *world) error {
				return errors.Join(s.Destroy(w.ctx(), "c"), sweep(s, w))
			}},
			{name: "it takes long", do: func(s *roomstore.Store, w *world) error {
				w.pass(10 * time.Second)
				w.lease("n2")
				return sweep(s, w)
			}},
			{name: "it takes long, and another creates it", do: func(s *roomstore.Store, w *world) error {
				w.pass(10 * time.Second)
				w.lease("n2")
				return errors.Join(sweep(s, w), enter("b1", "b")(s, w))
			}},
			{name: "places are lost", do: func(s *roomstore.Store, w *world) error {
				w.wipe(w.tag("0") + "ad")
				w.wipe(w.tag("0") + "making")
				return sweep(s, w)
			}},
			{name: "a count is asked for", do: func(s *roomstore.Store, w *world) error {
				for p := range 2 {
					w.must(w.rdb.HDel(w.ctx(), w.tag(strconv.Itoa(p))+"clock", "counted").Err())
				}
				return sweep(s, w)
			}},
		} {
			t.Run(op.name+", "+other.name, func(t *testing.T) {
				t.Parallel()
				for calls := 1; ; calls++ {
					reached := true
					ok := t.Run(fmt.Sprintf("after %d calls", calls), func(t *testing.T) {
						const limit = 4
						w := newWorld(t, false, roomstore.Config{Partitions: 2, Apart: true, MaxRooms: limit, MaxRoomsPerUser: 20})
						w.lease("n1")
						w.lease("n2")
						w.enter(w.login("ana", "a1"), "c")
						w.login("ben", "b1")
						if op.given != nil {
							op.given(w)
						}
						store, hold := w.holds(calls)
						done := make(chan error, 1)
						go func() { done <- op.do(store, w) }()
						select {
						case <-hold.reached:
							w.must(other.do(w.store, w))
							w.check()
							close(hold.goOn)
							w.must(<-done)
						case err := <-done:
							reached = false
							w.must(err)
						}
						w.check()
						w.pass(10 * time.Second)
						w.lease("n2")
						w.must(sweep(w.store, w))
						w.must(sweep(w.store, w))
						before := w.exist()
						if n := w.fill(w.login("zoe", "z1"), "z"); before+n != limit {
							w.Errorf("%d rooms, then %d more, want %d", before, n, limit)
						}
						w.forget()
					})
					if !ok || !reached {
						return
					}
				}
			})
		}
	}
}

// A partition that has gone back to an earlier time has rooms which had ended: they
// count.
func TestStore_places_rolledBack(t *testing.T) {
	admitting(t, roomstore.Config{MaxRooms: 2}, func(w *world) {
		w.must(w.store.Greet(w.ctx()))
		w.lease("n1")
		ana := w.login("ana", "a1")
		w.enter(ana, "a")
		restore := w.keep(w.part("a"))
		w.must(w.store.Destroy(w.ctx(), "a"))
		w.sweep("n1")
		w.enter(ana, "c") // which has the place now
		w.hear()
		restore()
		for _, l := range w.lives {
			if l.room == "a" {
				l.destroyed = 0
			}
		}
		w.again()
		w.sweep("n1")
		_, err := w.try(ana, roomstore.EntryRequest{Room: "b"})
		w.refused(err, roomstore.ErrRoomLimit)
		w.forget()
		w.dropped = true // of the room that is there again nobody knows
	})
}

// cutOff ends a request when so many calls of scripts have been sent.
type cutOff struct {
	mu   sync.Mutex
	left int
	end  func()
}

func (c *cutOff) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (c *cutOff) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *cutOff) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.mu.Lock()
		for _, cmd := range cmds {
			if len(keysOf(cmd)) > 0 {
				if c.left--; c.left == 0 {
					c.end()
				}
			}
		}
		c.mu.Unlock()
		return next(ctx, cmds)
	}
}

// observed gives a store of the deployment, and what counts the calls of its scripts. after,
// if not nil, is called after each.
func (w *world) observed(after func(script string)) (s *roomstore.Store, calls func(scripts ...string) int) {
	w.Helper()
	var mu sync.Mutex
	all := map[string]int{}
	cfg := w.cfg
	cfg.Observe = func(script, _ string, _ time.Duration) {
		mu.Lock()
		all[script]++
		mu.Unlock()
		if after != nil {
			after(script)
		}
	}
	return w.stores(1, cfg)[0], func(scripts ...string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for script, calls := range all {
			if len(scripts) == 0 || slices.Contains(scripts, script) {
				n += calls
			}
		}
		return n
	}
}

// toCount makes a deployment of two partitions with n rooms, which have to be counted.
func toCount(t *testing.T, n int, cfg roomstore.Config) *world {
	t.Helper()
	cfg.Partitions, cfg.Apart = 2, true
	w := newWorld(t, false, cfg)
	for i := range n {
		w.createEmpty(roomstore.RoomID(fmt.Sprintf("r%02d", i)), w.store)
	}
	w.uncount()
	return w
}

// uncount has what is known of places be lost.
func (w *world) uncount() {
	w.Helper()
	w.wipe(w.tag("0") + "ad")
	w.wipe(w.tag("0") + "making")
}

func (w *world) createEmpty(room roomstore.RoomID, s *roomstore.Store) {
	w.Helper()
	_, _, err := s.Create(w.ctx(), roomstore.NewRoom{ID: room, Delay: 1000})
	w.must(err)
}

// A count that takes longer than those who wait for it goes on with the next one.
func TestStore_places_longCount(t *testing.T) {
	t.Parallel()
	const rooms, page = 40, 3
	w := toCount(t, rooms, roomstore.Config{MaxRooms: rooms + 1})
	cut := &cutOff{}
	s := roomstore.New(runBatcher(t, w.hooked(cut), w.batcher()), w.cfg)
	s.TallyBy(page)
	for tries := 0; ; tries++ {
		// create, admit, twice census; then pages of both partitions, two calls each.
		ctx, cancel := context.WithCancel(w.ctx())
		cut.mu.Lock()
		cut.left, cut.end = 9, cancel
		cut.mu.Unlock()
		_, _, err := s.Create(ctx, roomstore.NewRoom{ID: "one more", Delay: 1000})
		cancel()
		if err == nil || errors.Is(err, roomstore.ErrExists) {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if tries > rooms {
			t.Fatalf("not counted after %d tries", tries)
		}
	}
	_, _, err := w.store.Create(w.ctx(), roomstore.NewRoom{ID: "too many", Delay: 1000})
	w.refused(err, roomstore.ErrRoomLimit)
}

// Those who create rooms of a deployment whose rooms have to be counted have that done
// once.
func TestStore_places_countOnce(t *testing.T) {
	t.Parallel()
	const rooms, page, creators = 40, 3, 50
	w := toCount(t, rooms, roomstore.Config{MaxRooms: rooms + creators})
	var s *roomstore.Store
	var calls func(scripts ...string) int
	s, calls = w.observed(func(script string) {
		if script == "census" { // all of them have to wait for it
			eventually(t, func() bool { return calls("admit") >= creators })
		}
	})
	s.TallyBy(page)
	race(t, creators, nil, func(i int) error {
		_, _, err := s.Create(w.ctx(), roomstore.NewRoom{ID: roomstore.RoomID(fmt.Sprint("c", i)), Delay: 1000})
		return err
	})
	pages := 0
	for p := range 2 {
		n := 0
		for i := range rooms {
			if w.hash(fmt.Sprintf("r%02d", i)) == p {
				n++
			}
		}
		pages += n/page + 1
	}
	if n := calls("tally"); n != pages {
		t.Errorf("rooms were listed %d times, they are %d pages", n, pages)
	}
	if n := calls("census"); n >= creators {
		t.Errorf("%d creators asked %d times for a count", creators, n)
	}
}

// Where partition 0 has come to a master whose clock is behind, the next count's number
// is above the last one's all the same.
func TestStore_places_clockBehind(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"counted", "only listed"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const rooms = 10
			w := toCount(t, rooms, roomstore.Config{MaxRooms: rooms + 1})
			for _, part := range []string{w.tag("0"), w.tag("1")} {
				later := fmt.Sprintf("%d\x00%s", time.Now().Add(time.Hour).UnixMicro(), w.rdb.Get(w.ctx(), part+"term").Val())
				w.must(w.rdb.HSet(w.ctx(), part+"clock", "counted", later, "tallied", later).Err())
				if name == "only listed" {
					w.must(w.rdb.HDel(w.ctx(), part+"clock", "counted").Err())
				}
			}
			s, calls := w.observed(func(string) {})
			w.createEmpty("one more", s)
			if n := calls("census"); n > 4 {
				t.Errorf("%d counts were begun of two partitions", n)
			}
			_, _, err := s.Create(w.ctx(), roomstore.NewRoom{ID: "too many", Delay: 1000})
			w.refused(err, roomstore.ErrRoomLimit)
		})
	}
}

// Wherever a gateway dies that counts, another one counts all.
func TestStore_places_countDies(t *testing.T) {
	t.Parallel()
	const rooms, page = 10, 2
	w := toCount(t, rooms, roomstore.Config{MaxRooms: rooms + 1})
	for calls := 1; ; calls++ {
		dead, _ := w.dies(calls)
		dead.TallyBy(page)
		_, _, err := dead.Create(w.ctx(), roomstore.NewRoom{ID: "a", Delay: 1000})
		s := w.stores(1, w.cfg)[0]
		s.TallyBy(page)
		if err != nil {
			w.createEmpty("a", s)
		}
		_, _, over := s.Create(w.ctx(), roomstore.NewRoom{ID: "b", Delay: 1000})
		w.refused(over, roomstore.ErrRoomLimit)
		w.check()
		if err == nil {
			break
		}
		w.must(s.Destroy(w.ctx(), "a"))
		w.uncount()
	}
}

// A room that begins without a place while its partition is being counted, behind what
// has been listed, is counted all the same.
func TestStore_places_begunMeanwhile(t *testing.T) {
	t.Parallel()
	const rooms, page = 10, 2
	for _, helpers := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d others count", helpers), func(t *testing.T) {
			t.Parallel()
			for calls := 1; ; calls++ {
				w := toCount(t, rooms, roomstore.Config{MaxRooms: rooms + 4})
				unlimited := w.cfg
				unlimited.MaxRooms = 0
				free := w.stores(1, unlimited)[0]
				s, hold := w.holds(calls)
				s.TallyBy(page)
				done := make(chan error, 1)
				go func() {
					_, _, err := s.Create(w.ctx(), roomstore.NewRoom{ID: "mine", Delay: 1000})
					done <- err
				}()
				reached := true
				select {
				case <-hold.reached:
					for i := 0; i < 2; i++ {
						id := "a"
						for w.hash(id) != i {
							id += "a"
						}
						w.createEmpty(roomstore.RoomID(id), free)
					}
					if helpers > 0 {
						other, help := w.holds(6)
						other.TallyBy(page)
						helped := make(chan error, 1)
						go func() {
							_, _, err := other.Create(w.ctx(), roomstore.NewRoom{ID: "other", Delay: 1000})
							helped <- err
						}()
						select {
						case <-help.reached:
							close(hold.goOn)
							w.must(<-done)
							done <- nil
							close(help.goOn)
							w.must(<-helped)
						case err := <-helped:
							w.must(err)
							close(hold.goOn)
						}
					} else {
						close(hold.goOn)
					}
					w.must(<-done)
				case err := <-done:
					w.must(err)
					reached = false
				}
				w.check()
				if w.Failed() || !reached {
					return
				}
			}
		})
	}
}

// What a count has listed counts only as long as nothing has begun or ended beside it,
// whoever has begun it, and no data was lost.
func TestStore_places_tally(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, roomstore.Config{Partitions: 2, Apart: true})
	w.dropped = true
	part := w.tag("1")
	term := ""
	begin := func(name string) {
		term = name
		w.must(w.rdb.Set(w.ctx(), part+"term", name, 0).Err())
	}
	drop := func() { w.must(w.rdb.HDel(w.ctx(), part+"clock", "counted").Err()) }
	tally := func(number int, cursor, want string) (next string) {
		t.Helper()
		got, err := lua.Tally.Run(w.ctx(), w.rdb, []string{part, part + "term"}, number, cursor, 2, term).StringSlice()
		w.must(err)
		if got[0] != want {
			t.Errorf("count %d after %q: got %q, want %q", number, cursor, got, want)
		}
		if want == "ok" {
			next = got[1]
		}
		return next
	}
	begin("t1")
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		w.must(w.rdb.ZAdd(w.ctx(), part+"rooms", redis.Z{Member: id}).Err())
	}
	first := tally(5, "", "ok")
	tally(5, "", "ok") // another store
	if next := tally(5, tally(5, first, "ok"), "ok"); next != "" {
		t.Errorf("more after %q", next)
	}
	drop()
	tally(5, first, "late")
	tally(5, "", "late")
	first = tally(6, "", "ok")
	tally(5, "", "late")
	drop()
	second := tally(7, "", "ok")
	drop()
	tally(6, first, "late")
	tally(6, "", "late")
	begin("t2")
	tally(7, "", "ok")
	tally(7, second, "late")
	w.must(w.rdb.HDel(w.ctx(), part+"clock", "tallied").Err()) // as an earlier version left it
	tally(6, "", "late")
}

// Of many who are refused at the limit at once few look whether a room has ended: who
// comes while somebody looks waits for the next look, with all the others.
func TestStore_places_refusal(t *testing.T) {
	const limit, all = 3, 50
	admitting(t, roomstore.Config{MaxRooms: limit, MaxRoomsPerUser: 100}, func(w *world) {
		var asked, looked atomic.Int64
		s, calls := w.observed(func(script string) {
			switch {
			case script == "admit":
				asked.Add(1)
			case script == "admissions" && looked.Add(1) == 1: // the others come meanwhile
				eventually(w.T, func() bool { return asked.Load() >= limit+all })
			}
		})
		ana := w.login("ana", "a1")
		enter := func(room roomstore.RoomID) error {
			_, err := s.Enter(w.ctx(), ana, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: room, Data: "ana/a1"})
			return err
		}
		for i := range limit {
			w.must(enter(roomstore.RoomID(fmt.Sprint("r", i))))
		}
		race(w.T, all, nil, func(i int) error {
			if err := enter(roomstore.RoomID(fmt.Sprint("x", i))); !errors.Is(err, roomstore.ErrRoomLimit) {
				return fmt.Errorf("got %v, want %v", err, roomstore.ErrRoomLimit)
			}
			return nil
		})
		if n := calls("admissions"); n < 1 || n > all/2 {
			w.Errorf("of %d who were refused at once %d looked for places to give back", all, n)
		}
		_, err := s.Leave(w.ctx(), ana, "r0", "")
		w.must(err)
		w.must(enter("y"))
		w.refused(enter("z"), roomstore.ErrRoomLimit)
		w.forget()
	})
}

// That a room has ended which the store does not hear of it finds out at once.
func TestStore_places_unheard(t *testing.T) {
	admitting(t, roomstore.Config{MaxRooms: 1}, func(w *world) {
		other := w.stores(1, w.cfg)[0]
		ana := w.login("ana", "a1")
		w.enter(ana, "a")
		_, err := w.try(ana, roomstore.EntryRequest{Room: "b"})
		w.refused(err, roomstore.ErrRoomLimit)
		w.must(other.Destroy(w.ctx(), "a"))
		_, err = w.try(ana, roomstore.EntryRequest{Room: "b"})
		w.must(err)
		w.forget()
	})
}
