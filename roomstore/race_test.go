package roomstore_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
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
		all = append(all, roomstore.New(runBatcher(w.T, w.rdb, roomstore.BatcherConfig{}), cfg))
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

// A witness hears everything that is announced of rooms, in the order in which
// it happened, and holds it against the rules: a life begins once and ends
// once; nobody is in it when it ends, unless a backend ends it; who comes into
// an empty room comes before its deadline, and it ends no sooner than that.
type witness struct {
	*testing.T
	prefix string
	delay  func(room string) int64 // ms
	lives  map[int64]*witnessed
	reach  [2]int // entries into an empty room in the last ms, and ends in the first
}

// witnessed is what was heard of one epoch.
type witnessed struct {
	room     string
	seq      int64
	members  map[roomstore.UserID]int64 // the seq of their entry
	entries  map[roomstore.UserID]int64 // of all who ever came, the last one
	deadline int64                      // of an empty room, in ms
	over     bool                       // the members have been told
	ended    int                        // times on the life channel
}

// hurryTopic is where [hurry] says what it did.
const hurryTopic = ":hurry"

// hurry moves the deadline of an empty room to some ms from now.
var hurry = redis.NewScript(`
	local epoch, deadline = unpack(redis.call("HMGET", KEYS[1], "epoch", "deadline"))
	if not deadline then
		return 0
	end
	local t = redis.call("TIME")
	local at = string.format("%.0f", t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2])
	redis.call("HSET", KEYS[1], "deadline", at)
	redis.call("ZADD", KEYS[2], at, ARGV[1] .. "\0" .. epoch)
	redis.call("PUBLISH", ARGV[3], epoch .. "\0" .. at)
	return 1`)

// watch begins to listen. The function it returns waits until all that was
// announced by then is heard, and ends it.
func watch(w *world, delay func(room string) int64) (wit *witness, finish func()) {
	w.Helper()
	wit = &witness{T: w.T, prefix: w.prefix, delay: delay, lives: map[int64]*witnessed{}}
	sub := w.rdb.PSubscribe(w.ctx(), w.prefix+":*")
	if _, err := sub.Receive(w.ctx()); err != nil {
		w.Fatal(err)
	}
	const last = ":the end"
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := sub.ReceiveMessage(w.ctx())
			if err != nil {
				w.Errorf("listening: %v", err)
				return
			}
			channel := strings.TrimPrefix(m.Channel, w.prefix)
			if channel == last {
				return
			}
			wit.hear(channel, m.Payload)
		}
	}()
	return wit, func() {
		w.must(w.rdb.Publish(w.ctx(), w.prefix+last, "").Err())
		<-done
		sub.Close()
	}
}

func (wit *witness) hear(channel, payload string) {
	f := strings.Split(payload, "\x00")
	switch {
	case channel == hurryTopic:
		epoch, _ := strconv.ParseInt(f[0], 10, 64)
		wit.lives[epoch].deadline, _ = strconv.ParseInt(f[1], 10, 64)
	case strings.HasSuffix(channel, "}:life"):
		epoch, _ := strconv.ParseInt(f[1], 10, 64)
		l := wit.lives[epoch]
		switch {
		case f[0] == "created" && l == nil:
			wit.lives[epoch] = &witnessed{room: f[3], members: map[roomstore.UserID]int64{}, entries: map[roomstore.UserID]int64{}}
		case f[0] == "destroyed" && l != nil && l.room == f[3] && l.over:
			l.ended++
		default:
			wit.Errorf("on the life channel, after %+v: %q", l, payload)
		}
	case strings.Contains(channel, "}:ch:"):
		e, err := roomstore.DecodeEvent(payload)
		if err != nil {
			wit.Error(err)
			return
		}
		wit.event(e)
	}
}

func (wit *witness) event(e roomstore.Event) {
	l := wit.lives[e.Epoch]
	if l == nil || l.over || e.Seq != l.seq+1 {
		wit.Errorf("in the life %+v: event %+v", l, e)
		return
	}
	l.seq = e.Seq
	switch e.Kind {
	case roomstore.KindJoined:
		if len(l.members) == 0 && e.Seq > 1 {
			if e.At >= l.deadline {
				wit.Errorf("%s entered %s at %d, which ended at %d", e.User, l.room, e.At, l.deadline)
			}
			if e.At == l.deadline-1 {
				wit.reach[0]++
			}
		}
		l.members[e.User], l.entries[e.User] = e.Seq, e.Seq
	case roomstore.KindLeft:
		delete(l.members, e.User)
		l.deadline = e.At + wit.delay(l.room)
	case roomstore.KindDestroyed:
		if len(l.members) > 0 && e.Reason != roomstore.ReasonDestroyed {
			wit.Errorf("%s ended with %v in it", l.room, l.members)
		}
		if e.At < l.deadline && e.Reason != roomstore.ReasonDestroyed {
			wit.Errorf("%s ended at %d, before %d", l.room, e.At, l.deadline)
		}
		if e.At == l.deadline && wit.delay(l.room) > 0 {
			wit.reach[1]++
		}
		l.over = true
	}
}

// Entries at the very deadline of an emptied room, by all roads and through
// several gateways that sweep meanwhile: each is in the old life, which then
// goes on, or in a new one, or finds no room.
func TestStore_race_atDeadline(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run("P="+strconv.Itoa(partitions), func(t *testing.T) {
			t.Parallel()
			const delay, gateways, workers, entrants, rounds = 100, 3, 8, 4, 320
			w := &world{T: t, rdb: redistest.New(t), prefix: redistest.Prefix(), parts: partitions}
			var cancel func()
			w.end, cancel = context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			cfg := roomstore.Config{MaxRooms: 3 * workers * entrants}
			stores := w.stores(gateways, cfg)
			w.store = stores[0]
			wit, finish := watch(w, func(room string) int64 {
				if room[0] == 'r' {
					return delay * 1000
				}
				return 0
			})

			// Whoever makes a deadline has it swept, too, about then.
			now := make(chan struct{}, gateways)
			var sweepers sync.WaitGroup
			for i, s := range stores {
				sweepers.Go(func() {
					for range now {
						if _, err := s.Sweep(w.ctx(), "n"+strconv.Itoa(i), nil); err != nil && !errors.Is(err, roomstore.ErrPaused) {
							t.Error(err)
						}
					}
				})
			}
			who := w.loginMany(workers*(entrants+1), "n1")
			var old, anew, none atomic.Int64
			var all sync.WaitGroup
			for i := range workers {
				all.Go(func() {
					r := &deadlineRace{world: w, stores: stores, now: now, delay: delay,
						room: roomstore.RoomID("r" + strconv.Itoa(i)), who: who[i*(entrants+1) : (i+1)*(entrants+1)]}
					for n := range rounds {
						if t.Failed() {
							return
						}
						r.round(n)
					}
					old.Add(r.old)
					anew.Add(r.anew)
					none.Add(r.none)
				})
			}
			all.Wait()
			for i := range workers {
				room := "r" + strconv.Itoa(i)
				w.must(hurry.Run(w.ctx(), w.rdb, []string{w.part(roomstore.RoomID(room)) + "room:" + room, w.part(roomstore.RoomID(room)) + "due"},
					room, 0, w.prefix+hurryTopic).Err())
			}
			for _, s := range who {
				_, err := w.store.LeaveAll(w.ctx(), s, "", true)
				w.must(err)
			}
			now <- struct{}{}
			close(now)
			sweepers.Wait()
			finish()

			for epoch, l := range wit.lives {
				if l.ended != 1 {
					t.Errorf("life %d of %s ended %d times", epoch, l.room, l.ended)
				}
			}
			w.nothingLeft()
			t.Logf("%d lives; %d entered the old one, %d a new one, %d found none; %d in its last ms, %d ends in the first",
				len(wit.lives), old.Load(), anew.Load(), none.Load(), wit.reach[0], wit.reach[1])
			const tries = workers * entrants * rounds
			if n := old.Load() + anew.Load() + none.Load(); n != tries && !t.Failed() {
				t.Errorf("%d tries were counted, want %d", n, tries)
			}
			for what, n := range map[string]int64{
				"entered the old life": old.Load(), "entered a new one": anew.Load(), "found none": none.Load(),
				"came in its last ms": 20 * int64(wit.reach[0]), "ended in the first ms": 20 * int64(wit.reach[1]),
			} {
				if n < tries/20 {
					t.Errorf("too few %s: this shows little", what)
				}
			}
		})
	}
}

// deadlineRace is one room that ends again and again while some want to enter.
type deadlineRace struct {
	*world
	stores []*roomstore.Store
	now    chan<- struct{} // a sweep is wanted
	delay  int
	room   roomstore.RoomID
	who    []roomstore.Session // the last one opens the room

	lead            int64 // ms from the call to the deadline, so that either side wins as often
	old, anew, none int64
}

// round empties the room, has everybody enter about when it ends, and checks
// that they are where they were told they are.
func (r *deadlineRace) round(n int) {
	opener, who := r.who[len(r.who)-1], r.who[:len(r.who)-1]
	enter := func(i int, who roomstore.Session, mode roomstore.Mode, room roomstore.RoomID, delay int) (roomstore.Entry, error) {
		return r.stores[(i+n)%len(r.stores)].Enter(r.ctx(), who, roomstore.EntryRequest{
			Mode: mode, Room: room, Delay: delay, Data: dataOf(who.User, who.ID),
		})
	}
	home := func(who roomstore.Session) roomstore.RoomID { return "h" + roomstore.RoomID(who.User) }
	first, err := enter(0, opener, roomstore.ModeEnter, r.room, r.delay)
	if err == nil {
		_, err = r.stores[n%len(r.stores)].Leave(r.ctx(), opener, r.room, "")
	}
	for i, s := range who {
		if i >= 2 && err == nil {
			_, err = enter(i, s, roomstore.ModeEnter, home(s), 0)
		}
	}
	part := r.part(r.room)
	if err == nil {
		err = hurry.Run(r.ctx(), r.rdb, []string{part + "room:" + string(r.room), part + "due"},
			string(r.room), r.lead, r.prefix+hurryTopic).Err()
	}
	if err != nil {
		r.Error(err)
		return
	}
	select {
	case r.now <- struct{}{}:
	default:
	}
	got, errs := make([]roomstore.Entry, len(who)), make([]error, len(who))
	var entrants sync.WaitGroup
	for i, s := range who {
		entrants.Go(func() {
			mode := []roomstore.Mode{roomstore.ModeJoin, roomstore.ModeEnter}[(i+n)%2]
			if i < 2 {
				got[i], errs[i] = enter(i, s, mode, r.room, r.delay)
				return
			}
			got[i], _, errs[i] = r.stores[(i+n)%len(r.stores)].Switch(r.ctx(), s, home(s), roomstore.EntryRequest{
				Mode: mode, Room: r.room, Delay: r.delay, Data: dataOf(s.User, s.ID),
			})
		})
	}
	entrants.Wait()

	tx := r.rdb.Pipeline()
	epoch, deadline := tx.HGet(r.ctx(), part+"room:"+string(r.room), "epoch"), tx.HGet(r.ctx(), part+"room:"+string(r.room), "deadline")
	ttl := tx.PTTL(r.ctx(), part+"room:"+string(r.room))
	due := tx.ZScore(r.ctx(), part+"due", string(r.room)+"\x00"+strconv.FormatInt(first.Epoch, 10))
	var infos []*redis.StringCmd
	for _, s := range who {
		infos = append(infos, tx.HGet(r.ctx(), part+"info:"+string(r.room), string(s.User)))
	}
	tx.Exec(r.ctx())
	in := 0
	for i, s := range who {
		member := strings.HasPrefix(infos[i].Val(), string(s.ID)+"\x00")
		switch {
		case errors.Is(errs[i], roomstore.ErrNoRoom):
			r.none++
			if member {
				r.Errorf("%s found no room, and is in it", s.User)
			}
		case errs[i] != nil:
			r.Error(errs[i])
		default:
			if in++; got[i].Epoch == first.Epoch {
				r.old++
			} else {
				r.anew++
			}
			if !member || epoch.Val() != strconv.FormatInt(got[i].Epoch, 10) {
				r.Errorf("%s entered %s in life %d; it is in %s, with %q", s.User, r.room, got[i].Epoch, epoch.Val(), infos[i].Val())
			}
		}
	}
	if in > 0 && (deadline.Val() != "" || due.Err() == nil || ttl.Val() >= 0) {
		r.Errorf("%d are in %s; its deadline is %q, it expires in %v, its old life is due: %t", in, r.room, deadline.Val(), ttl.Val(), due.Err() == nil)
	}
	if in == 0 && epoch.Err() == nil {
		r.Errorf("nobody found %s, and it is there: %s", r.room, epoch.Val())
	}
	if epoch.Val() == strconv.FormatInt(first.Epoch, 10) {
		r.lead = max(0, r.lead-r.lead/4-1)
	} else {
		r.lead += r.lead/4 + 1
	}
	for i, s := range who {
		if _, err := r.stores[(i+n)%len(r.stores)].LeaveAll(r.ctx(), s, "", false); err != nil {
			r.Error(err)
		}
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
