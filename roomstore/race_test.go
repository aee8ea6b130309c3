package roomstore_test

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/roomstore"
)

// race runs a call n times at once, and counts those that succeed. The others
// have to fail with one refusal.
func race(t *testing.T, n int, refusal error, call func(i int) error) int {
	t.Helper()
	var won atomic.Int64
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-begin
			switch err := call(i); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, refusal):
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	close(begin)
	wg.Wait()
	return int(won.Load())
}

// stores gives n gateways of one deployment.
func (w *world) stores(n int, cfg roomstore.Config) (all []*roomstore.Store) {
	cfg.Prefix, cfg.Partitions = w.prefix, w.parts
	for range n {
		all = append(all, roomstore.New(runBatcher(w.T, w.rdb, roomstore.BatcherConfig{Timeout: 30 * time.Second}), cfg))
	}
	return all
}

func (w *world) loginMany(n int, node string) []roomstore.Session {
	all := make([]roomstore.Session, n)
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			for i := worker; i < n; i += 16 {
				id := "u" + strconv.Itoa(i)
				var err error
				if all[i], err = w.store.Login(w.ctx(), node, roomstore.UserID(id), roomstore.SessionID(id), ""); err != nil {
					w.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return all
}

// Limits are exact under any concurrency, on whatever gateways it comes.
func TestStore_race_limits(t *testing.T) {
	t.Parallel()
	const askers, gateways = 1000, 3
	enter := func(room func(i int) roomstore.RoomID) func(w *world, stores []*roomstore.Store, who []roomstore.Session) func(i int) error {
		return func(w *world, stores []*roomstore.Store, who []roomstore.Session) func(i int) error {
			return func(i int) error {
				_, err := stores[i%gateways].Enter(w.ctx(), who[i%len(who)], roomstore.EntryRequest{
					Mode: roomstore.ModeEnter, Room: room(i), Data: dataOf(who[i%len(who)].User, who[i%len(who)].ID), Delay: 100,
				})
				return err
			}
		}
	}
	one := func(int) roomstore.RoomID { return "a" }
	own := func(i int) roomstore.RoomID { return roomstore.RoomID("r" + strconv.Itoa(i)) }
	for _, tt := range []struct {
		name    string
		cfg     roomstore.Config
		users   int
		call    func(w *world, stores []*roomstore.Store, who []roomstore.Session) func(i int) error
		refusal error
		want    int
	}{
		{"the last place of a room", roomstore.Config{MaxMembers: 7}, askers, enter(one), roomstore.ErrFull, 7},
		{"the last room", roomstore.Config{MaxRooms: 5, Partitions: 16}, askers, enter(own), roomstore.ErrRoomLimit, 5},
		{"the user's last room", roomstore.Config{MaxRoomsPerUser: 3, Partitions: 16}, 1, enter(own), roomstore.ErrUserLimit, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false, tt.cfg)
			call := tt.call(w, w.stores(gateways, tt.cfg), w.loginMany(tt.users, "n1"))
			if won := race(t, askers, tt.refusal, call); won != tt.want {
				t.Errorf("%d were let in, want %d", won, tt.want)
			}
			w.hear()
			members, rooms := 0, 0
			for p := range w.parts {
				part := w.tag(strconv.Itoa(p))
				for _, id := range w.rdb.ZRange(w.ctx(), part+"rooms", 0, -1).Val() {
					rooms++
					members += int(w.rdb.ZCard(w.ctx(), part+"members:"+id).Val())
				}
			}
			if members != tt.want || rooms != len(w.lives) {
				t.Errorf("%d members in %d rooms, of %d announced", members, rooms, len(w.lives))
			}
		})
	}
}

// Of any number of concurrent creations one succeeds, in each life of the ID.
func TestStore_race_create(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, roomstore.Config{})
	who := w.loginMany(100, "n1")
	stores := w.stores(3, roomstore.Config{})
	for round := range 5 {
		if won := race(t, len(who), roomstore.ErrExists, func(i int) error {
			_, err := stores[i%3].Enter(w.ctx(), who[i], roomstore.EntryRequest{
				Mode: roomstore.ModeCreate, Room: "a", Data: dataOf(who[i].User, who[i].ID),
			})
			return err
		}); won != 1 {
			t.Errorf("round %d: created %d times", round, won)
		}
		w.must(w.store.Destroy(w.ctx(), "a"))
	}
	w.hear()
	if len(w.lives) != 5 {
		t.Errorf("%d lives, want 5", len(w.lives))
	}
}

// Entries, departures and sweeps around the end of a delay: whoever gets in is
// in a room that exists, and each life has one beginning and one end.
func TestStore_race_deadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, roomstore.Config{})
	who := w.loginMany(3, "n1")
	stores := w.stores(3, roomstore.Config{})
	refused := func(err error) bool {
		return err == nil || errors.Is(err, roomstore.ErrNoRoom) || errors.Is(err, roomstore.ErrNotMember) || errors.Is(err, roomstore.ErrExists)
	}
	var wg sync.WaitGroup
	var joined atomic.Int64
	stop := make(chan struct{})
	wg.Go(func() { // brings every deadline near
		hurry := redis.NewScript(`
			local epoch, deadline = unpack(redis.call("HMGET", KEYS[1], "epoch", "deadline"))
			if deadline then
				local t = redis.call("TIME")
				local now = string.format("%.0f", t[1] * 1000 + math.floor(t[2] / 1000))
				redis.call("HSET", KEYS[1], "deadline", now)
				redis.call("ZADD", KEYS[2], now, "a\0" .. epoch)
			end
			return 1`)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := hurry.Run(w.ctx(), w.rdb, []string{w.part("a") + "room:a", w.part("a") + "due"}).Err(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := w.store.Sweep(w.ctx(), "n1", nil); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var users sync.WaitGroup
	for i, s := range who {
		users.Go(func() {
			modes := []roomstore.Mode{roomstore.ModeJoin, roomstore.ModeJoin, roomstore.ModeEnter, roomstore.ModeCreate}
			for n := range 300 {
				_, err := stores[i%3].Enter(w.ctx(), s, roomstore.EntryRequest{
					Mode: modes[(n+i)%4], Room: "a", Delay: 1, Data: dataOf(s.User, s.ID),
				})
				if !refused(err) {
					t.Error(err)
				}
				if err == nil {
					joined.Add(1)
					// Nothing ends a room that somebody is in.
					if _, _, err := w.store.Count(w.ctx(), s, "a"); err != nil {
						t.Errorf("a member asks: %v", err)
					}
				}
				if _, err := w.store.Leave(w.ctx(), s, "a", ""); !refused(err) {
					t.Error(err)
				}
			}
		})
	}
	users.Wait()
	close(stop)
	wg.Wait()
	w.hear()
	if len(w.lives) < 2 || joined.Load() == 0 {
		t.Errorf("%d lives, %d entries: nothing was tried", len(w.lives), joined.Load())
	}
}

// Sessions that move, park, enter, leave and are swept all at once leave
// everything in agreement.
func TestStore_race_everything(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 4} {
		t.Run("P="+strconv.Itoa(partitions), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false, roomstore.Config{Partitions: partitions, MaxRoomsPerUser: 3, MaxDevices: 2, MaxMembers: 5})
			rooms := []roomstore.RoomID{"a", "b", "c", "d"}
			var switched atomic.Int64
			var wg sync.WaitGroup
			for i := range 12 {
				wg.Go(func() {
					user := roomstore.UserID("u" + strconv.Itoa(i%6))
					id := roomstore.SessionID("s" + strconv.Itoa(i))
					node := "n" + strconv.Itoa(i%3)
					who, err := w.store.Login(w.ctx(), node, user, id, strconv.Itoa(i))
					for n := range 120 {
						if err != nil && !roomstore.Refused(err) {
							t.Error(err)
							return
						}
						room := rooms[(n*7+i)%len(rooms)]
						switch (n*5 + i*3) % 11 {
						case 3:
							for _, from := range rooms {
								_, _, err = w.store.Switch(w.ctx(), who, from, roomstore.EntryRequest{
									Mode: roomstore.ModeEnter, Room: room, Data: dataOf(user, id), Delay: n % 2,
									RequestKey: roomstore.RequestKey(strconv.Itoa(n)),
								})
								if err == nil {
									switched.Add(1)
								}
								if !errors.Is(err, roomstore.ErrNotFrom) {
									break
								}
							}
						case 0, 1, 2:
							_, err = w.store.Enter(w.ctx(), who, roomstore.EntryRequest{
								Mode: roomstore.ModeEnter, Room: room, Data: dataOf(user, id), Delay: n % 2,
								RequestKey: roomstore.RequestKey(strconv.Itoa(n)),
							})
						case 4, 5:
							_, err = w.store.Leave(w.ctx(), who, room, roomstore.RequestKey(strconv.Itoa(n)))
						case 6:
							_, err = w.store.Send(w.ctx(), who, roomstore.Message{Room: room, ID: "m", Payload: "x"})
						case 7:
							err = w.store.Park(w.ctx(), who, time.Duration(n%3)*time.Millisecond)
						case 8:
							err = w.store.Kick(w.ctx(), room, user, "")
						case 9:
							if n%3 == 0 {
								err = w.store.Destroy(w.ctx(), room)
							}
						case 10:
							_, err = w.store.Sweep(w.ctx(), node, nil)
						}
						if errors.Is(err, roomstore.ErrFenced) {
							now, _, ok, rerr := w.store.Resume(w.ctx(), node, user, id, nil)
							if err = rerr; ok {
								who = now
							} else if err == nil {
								id += "+"
								who, err = w.store.Login(w.ctx(), node, user, id, strconv.Itoa(i))
							}
						}
					}
				})
			}
			wg.Wait()
			w.check()
			if switched.Load() == 0 {
				t.Error("nobody has switched")
			}
		})
	}
}

// Whoever looks at two rooms at once sees a user who switches between them in
// one, never in both or in neither.
func TestStore_race_switch(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run("P="+strconv.Itoa(partitions), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false, roomstore.Config{Partitions: partitions, MaxRoomsPerUser: 1})
			who := ana(w)
			w.enter(who, "a")
			stop := make(chan struct{})
			var looks, wrong atomic.Int64
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						tx := w.rdb.TxPipeline()
						a := tx.ZScore(w.ctx(), w.part("a")+"members:a", "ana")
						b := tx.HExists(w.ctx(), w.part("b")+"info:b", "ana")
						tx.Exec(w.ctx())
						if looks.Add(1); (a.Err() == nil) == b.Val() {
							wrong.Add(1)
						}
					}
				})
			}
			from, to := roomstore.RoomID("a"), roomstore.RoomID("b")
			for range 500 {
				if _, err := w.change(who, from, roomstore.EntryRequest{Room: to}); err != nil {
					t.Error(err)
					break
				}
				from, to = to, from
			}
			close(stop)
			wg.Wait()
			if wrong.Load() > 0 || looks.Load() < 100 {
				t.Errorf("of %d looks %d saw the user in both or in neither", looks.Load(), wrong.Load())
			}
		})
	}
}
