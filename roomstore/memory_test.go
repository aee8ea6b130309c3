package roomstore_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// A full Redis lets nobody in and stores no message, and nothing is half done;
// but it lets people go, ends rooms, keeps leases, and resumes sessions.
func TestStore_memoryFull(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--maxmemory-policy", "noeviction")
	w := newWorldOn(t, srv.Client(t), nil, roomstore.Config{Partitions: 4, LeaseTTL: 10 * time.Second})
	full := func(on bool) {
		t.Helper()
		limit := "0"
		if on {
			limit = "1"
		}
		w.must(w.rdb.ConfigSet(w.ctx(), "maxmemory", limit).Err())
	}
	fails := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, roomstore.ErrMemory) {
			t.Errorf("%s: got %v, want %v", what, err, roomstore.ErrMemory)
		}
	}
	w.must(w.store.Greet(w.ctx()))
	w.lease("n1")
	w.lease("dead")
	who := ana(w)
	w.enter(who, "a", "b", "c")
	inRoom("ben", "a", "b")(w)
	w.enter(w.loginOn("dead", "dan", "d1", ""), "b")
	w.enter(w.login("fay", "f1"), "a")
	w.park(w.s("f1"), time.Second)
	eve(w)
	w.create(w.s("e1"), "d", 100)
	w.leave(w.s("e1"), "d")
	w.sweep("n1")
	w.forget()

	full(true)
	before := w.dump()
	for name, r := range map[string]roomstore.EntryRequest{
		"create": {Mode: roomstore.ModeCreate, Room: "new", Attributes: map[string]string{"k": "v"}, RequestKey: "3"},
		"join":   {Mode: roomstore.ModeJoin, Room: "a", RequestKey: "4"},
		"enter":  {Mode: roomstore.ModeEnter, Room: "new"},
		"return": {Mode: roomstore.ModeEnter, Room: "d"},
	} {
		_, err := w.try(w.s("e1"), r)
		fails(name, err)
	}
	for _, to := range []roomstore.RoomID{"new", "d"} {
		_, err := w.change(who, "c", roomstore.EntryRequest{Room: to, RequestKey: "7"})
		fails("switch", err)
	}
	_, err := w.store.Send(w.ctx(), who, roomstore.Message{Room: "a", ID: "m", Payload: "x", RequestKey: "5"})
	fails("send", err)
	_, err = w.store.Login(w.ctx(), "n1", "gus", "g1", "")
	fails("login", err)
	_, _, err = w.store.Create(w.ctx(), roomstore.NewRoom{ID: "new"})
	fails("create by a backend", err)
	_, err = w.store.Post(w.ctx(), "sys", roomstore.Message{Room: "a", ID: "m", Payload: "x"})
	fails("send by a backend", err)
	w.unchanged(before)
	w.heard()

	w.must(w.store.Greet(w.ctx()))
	_, err = w.store.Lease(w.ctx(), "n1", false, &roomstore.About{Name: "n1"})
	w.must(err)
	_, err = w.store.Rooms(w.ctx(), "", "", 10)
	w.must(err)
	_, err = w.store.Relay(w.ctx(), who, roomstore.Message{Room: "a", ID: "m", Payload: "x", Priority: 1})
	w.must(err)
	_, err = w.store.Catchup(w.ctx(), "a", roomstore.Position{Epoch: w.enterEpoch("a")})
	w.must(err)
	w.forget()
	_, err = w.store.Leave(w.ctx(), who, "a", "6")
	w.must(err)
	w.heard("a#1:4 left ana/a1 n=2")
	w.must(w.store.Kick(w.ctx(), "b", "ben", "bye"))
	w.heard(`b#1:4 kicked ben/b1 n=2 "bye"`)
	w.must(w.store.Destroy(w.ctx(), "c"))
	w.heard("c#1:2 ended destroyed", "destroyed c#1 destroyed")
	who, rooms := w.resume("n2", who)
	if len(rooms) != 2 {
		t.Errorf("resumed in %v", rooms)
	}
	w.heard("order n1 4510 a1")
	w.park(w.s("b1"), time.Minute)
	nowhere, err := w.store.LeaveAll(w.ctx(), w.s("e1"), "8", false)
	w.must(err)
	if len(nowhere) != 0 {
		t.Errorf("left %v", nowhere)
	}
	left, err := w.store.LeaveAll(w.ctx(), who, "", true)
	w.must(err)
	if len(left) != 1 {
		t.Errorf("left %v", left)
	}
	w.forget()
	// Awake time goes on only while it is kept: the test's own write needs room.
	full(false)
	w.pass(20 * time.Second)
	w.expire("d")
	claim := roomstore.Lapse{Node: "dead", End: w.leaseEnd("dead")}
	full(true)
	done := w.sweep("n1", claim)
	if done.Evicted != 1 || done.Finished != 1 || done.Claimed != 1 {
		t.Errorf("swept %+v", done)
	}
	w.hearSorted([]string{"a#1:5 timeout fay/f1 n=1", "d#1:3 ended emptied", "destroyed d#1 emptied"})
	full(false)
	w.enter(w.s("e1"), "a")
	w.forget()
}

func (w *world) enterEpoch(room roomstore.RoomID) int64 {
	n, err := strconv.ParseInt(w.rdb.HGet(w.ctx(), w.part(room)+"room:"+string(room), "epoch").Val(), 10, 64)
	w.must(err)
	return n
}

// Errors of scripts name the operation, and tell what is known from what is not.
func TestOpError(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true, roomstore.Config{})
	var seen []string
	store := roomstore.New(runBatcher(t, w.rdb, roomstore.BatcherConfig{}), roomstore.Config{
		Prefix:  w.prefix,
		Observe: func(script, outcome string, _ time.Duration) { seen = append(seen, script+" "+outcome) },
	})
	err := store.Destroy(w.ctx(), "a")
	var op *roomstore.OpError
	if !errors.As(err, &op) || op.Op != "destroy" || op.On != "a" || err.Error() != "destroy a: no such room" || !roomstore.Refused(err) {
		t.Errorf("got %v", err)
	}
	w.must(store.Greet(w.ctx()))
	w.must(w.rdb.Set(w.ctx(), w.part("a")+"room:a", "not a hash", 0).Err())
	w.dropped = true
	err = store.Destroy(w.ctx(), "a")
	if err == nil || roomstore.Refused(err) || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("got %v, want an unknown outcome", err)
	}
	w.must(w.rdb.Del(w.ctx(), w.part("a")+"room:a").Err())
	if want := "destroy noroom, greet ok, destroy error"; strings.Join(seen, ", ") != want {
		t.Errorf("observed %q, want %s", seen, want)
	}
	if roomstore.Refused(errors.New("x")) || roomstore.Refused(nil) {
		t.Error("what no script said is not a refusal")
	}
}
