package roomstore_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// A login or resume that Redis gets when nobody waits for it any more, by its
// own clock, changes nothing.
func TestStore_late(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		who := ana(w)
		late := w.lateStore()
		if !w.apart { // nor does it show that its node, whose lease has lapsed, is alive
			w.must(w.rdb.ZAdd(w.ctx(), w.prefix+":nodes", redis.Z{Score: 1, Member: "n1"}).Err())
		}
		before := w.dump()
		ctx, cancel := context.WithTimeout(w.ctx(), 10*time.Second)
		defer cancel()
		_, err := late.Login(ctx, "n1", "ben", "b1", "")
		w.refused(err, roomstore.ErrLate)
		_, _, _, err = late.Resume(ctx, "n2", "ana", "a1", nil)
		w.refused(err, roomstore.ErrLate)
		w.unchanged(before)
		w.lease("n2")
		w.resume("n2", who)
		w.forget()
	})
}

// A login or resume that Redis gets after its caller's time is over, by however
// little, changes nothing: the caller's client may be back elsewhere, and was
// torn from there.
func TestStore_lateByLittle(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	store := roomstore.New(runBatcher(t, rdb, roomstore.BatcherConfig{}), roomstore.Config{})
	if _, err := store.Lease(t.Context(), "n1", true, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Login(t.Context(), "n1", "ana", "a1", "phone"); err != nil {
		t.Fatal(err)
	}
	before := rdb.HGetAll(t.Context(), "rg:{u0}:user:ana").Val()
	for what, call := range map[string]func(context.Context) error{
		"login": func(ctx context.Context) error {
			_, err := store.Login(ctx, "n1", "ana", "a2", "phone")
			return err
		},
		"resume": func(ctx context.Context) error {
			_, _, _, err := store.Resume(ctx, "n1", "ana", "a1", nil)
			return err
		},
	} {
		server.Pause()
		err := roomstore.ErrNotSent
		for wait := 200 * time.Millisecond; errors.Is(err, roomstore.ErrNotSent) && wait < time.Minute; wait *= 2 {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			err = call(ctx)
			cancel()
		}
		server.Resume()
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, roomstore.ErrNotSent) {
			t.Fatalf("%s: got %v, want that it was sent and not answered", what, err)
		}
		// Calls about one user are carried out one after another.
		if _, err := store.Lost(t.Context(), "n1", []roomstore.Session{{User: "ana", ID: "a1"}}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before, rdb.HGetAll(t.Context(), "rg:{u0}:user:ana").Val()); d != "" {
			t.Errorf("a late %s changed the user (-want +got):\n%s", what, d)
		}
	}
}

// lateStore gives a store that believes Redis's clock to be where it was a day
// ago: what it hears at its lease is changed on the way.
func (w *world) lateStore() *roomstore.Store {
	w.Helper()
	one, ok := w.rdb.(*redis.Client)
	if !ok {
		w.Skip("the answer of one Redis is changed on the way")
	}
	rdb := redis.NewClient(one.Options())
	w.Cleanup(func() { rdb.Close() })
	rdb.AddHook(yesterday{})
	store := roomstore.New(runBatcher(w.T, rdb, roomstore.BatcherConfig{}), roomstore.Config{Prefix: w.prefix, Partitions: w.parts, Apart: w.apart})
	_, err := store.Lease(w.ctx(), "n8", true, nil)
	w.must(err)
	return store
}

// yesterday answers leases with the time of a day ago.
type yesterday struct{}

func (yesterday) DialHook(next redis.DialHook) redis.DialHook { return next }

func (yesterday) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (yesterday) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			c, ok := cmd.(*redis.Cmd)
			if !ok || !slices.Contains(c.Args(), any("n8")) {
				continue
			}
			if reply, err := c.Slice(); err == nil && len(reply) > 2 {
				at, _ := strconv.ParseInt(reply[1].(string), 10, 64)
				reply[1] = strconv.FormatInt(at-24*3600_000, 10)
				c.SetVal(reply)
			}
		}
		return err
	}
}

// Of some sessions it is told which are not in a room.
func TestStore_Absent(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ana", "a")(w)
		inRoom("ben", "a")(w)
		inRoom("eve", "b")(w)
		parked("b1")(w)
		all := []roomstore.Session{w.s("a1"), w.login("ana", "a2"), w.s("b1"), w.s("e1"), {User: "nobody", ID: "x"}}
		for room, want := range map[roomstore.RoomID][]string{
			"a": {"a2", "e1", "x"}, "b": {"a1", "a2", "b1", "x"}, "c": {"a1", "a2", "b1", "e1", "x"},
		} {
			sessions, err := w.store.Absent(w.ctx(), room, all)
			w.must(err)
			var got []string
			for _, who := range sessions {
				got = append(got, string(who.ID))
			}
			if !slices.Equal(got, want) {
				t.Errorf("not in %s: %v, want %v", room, got, want)
			}
		}
		w.forget()
	})
}

// A place that was parked before its session was replaced keeps its deadline.
func TestStore_Login_replacedParked(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.enter(w.loginOn("n1", "ana", "a1", "phone"), "a")
		w.park(w.s("a1"), 5*time.Second)
		key, entry := w.part("a")+"parked", "a1\x00ana\x00a"
		at := w.rdb.ZScore(w.ctx(), key, entry).Val()
		w.loginOn("n1", "ana", "a2", "phone")
		if got := w.rdb.ZScore(w.ctx(), key, entry).Val(); got != at {
			t.Errorf("parked until %.0f, want %.0f", got, at)
		}
	})
}

// A logout that is repeated under its key has its first outcome.
func TestStore_LeaveAll_endAgain(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ana", "a")(w)
		first, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "8", true)
		w.must(err)
		again, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "8", true)
		w.must(err)
		if diff := cmp.Diff(first, again); diff != "" || len(first) != 1 {
			t.Errorf("(-first +again):\n%s", diff)
		}
		w.nothingLeft()
	})
}

// A key names one request: for another there is no outcome under it, and
// nothing is done.
func TestStore_requestKey_misused(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		who := ana(w)
		enter := func(mode roomstore.Mode, room roomstore.RoomID, key roomstore.RequestKey) error {
			_, err := w.try(who, roomstore.EntryRequest{Mode: mode, Room: room, RequestKey: key})
			return err
		}
		send := func(key roomstore.RequestKey) error {
			_, err := w.store.Send(w.ctx(), who, roomstore.Message{Room: "a", ID: "m", Payload: "x", RequestKey: key})
			return err
		}
		leave := func(room roomstore.RoomID, key roomstore.RequestKey) error {
			_, err := w.store.Leave(w.ctx(), who, room, key)
			return err
		}
		// Keys are kept with the room: another one in its partition.
		other := roomstore.RoomID("b")
		for i := 0; w.part(other) != w.part("a"); i++ {
			other = roomstore.RoomID("b" + strconv.Itoa(i))
		}
		w.must(enter(roomstore.ModeCreate, "a", "1"))
		w.must(send("2"))
		w.must(enter(roomstore.ModeEnter, other, "3"))
		w.must(leave(other, "4"))
		before := w.dump()
		w.forget()
		w.refused(enter(roomstore.ModeJoin, "a", "1"), roomstore.ErrMisused)
		w.refused(enter(roomstore.ModeCreate, other, "1"), roomstore.ErrMisused)
		w.refused(enter(roomstore.ModeEnter, other, "4"), roomstore.ErrMisused)
		w.refused(send("1"), roomstore.ErrMisused)
		w.refused(leave("a", "2"), roomstore.ErrMisused)
		w.refused(leave("a", "4"), roomstore.ErrMisused)
		w.unchanged(before)
		w.heard()
		_, err := w.store.LeaveAll(w.ctx(), who, "9", false)
		w.must(err)
		w.forget()
	})
}

// What ended a membership is kept as long as its session may come back.
func TestStore_goneExpires(t *testing.T) {
	contract(t, roomstore.Config{SessionTTL: 20 * time.Second}, func(w *world) {
		inRoom("ana", "a")(w)
		w.enter(w.login("ana", "a2"), "a")
		w.leave(w.s("a2"), "a")
		for _, id := range []string{"a1", "a2"} {
			if ttl := w.rdb.TTL(w.ctx(), w.part("a")+"gone:"+id).Val(); ttl < 70*time.Second || ttl > 80*time.Second {
				t.Errorf("gone of %s expires in %v", id, ttl)
			}
		}
	})
}

// The node's name is not its life: what a node that was released had sent
// before begins nothing, and it is remembered from the end of its lease.
func TestStore_Release_isFinal(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.lease("n1")
		end := float64(w.leaseEnd("n1"))
		for range 2 {
			w.must(w.store.Release(w.ctx(), "n1"))
			if got := w.rdb.ZScore(w.ctx(), w.tag("0")+"dead", "n1").Val(); got != end && !w.apart {
				t.Errorf("lease ended at %.0f, want %.0f", got, end)
			}
		}
		for _, begin := range []bool{false, true} {
			_, err := w.store.Lease(w.ctx(), "n1", begin, nil)
			w.refused(err, roomstore.ErrFenced)
		}
		_, err := w.store.Login(w.ctx(), "n1", "eve", "e1", "")
		w.refused(err, roomstore.ErrFenced)
	})
}
