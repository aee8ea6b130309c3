package roomstore_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// An entrance is a way into room b for a session that is in room a.
type entrance struct {
	mode roomstore.Mode // "": by a switch from a
}

func (e entrance) String() string {
	if e.mode == "" {
		return "switch"
	}
	return string(e.mode)
}

var entrances = []entrance{{roomstore.ModeCreate}, {roomstore.ModeJoin}, {roomstore.ModeEnter}, {}}

// request asks for it, the try-th time, under key 7.
func (e entrance) request(w *world, try int64) roomstore.EntryRequest {
	r := roomstore.EntryRequest{Mode: e.mode, Room: "b", RequestKey: "7", Try: try, Data: dataOf("ana", "a1")}
	if e.mode == "" {
		r.Mode = roomstore.ModeEnter
	}
	return r
}

func (e entrance) do(w *world, who roomstore.Session, r roomstore.EntryRequest) (roomstore.Entry, roomstore.Position, error) {
	if e.mode == "" {
		return w.store.Switch(w.ctx(), who, "a", r)
	}
	entry, err := w.store.Enter(w.ctx(), who, r)
	return entry, roomstore.Position{}, err
}

func (e entrance) ask(w *world, who roomstore.Session, r roomstore.EntryRequest) (roomstore.Entry, roomstore.Position, error) {
	if e.mode == "" {
		return w.store.Switched(w.ctx(), who, "a", r)
	}
	entry, err := w.store.Entered(w.ctx(), who, r)
	return entry, roomstore.Position{}, err
}

// everyEntrance tests every entrance, with ana and ben in room a, and eve in room b
// unless it is to be created.
func everyEntrance(t *testing.T, test func(w *world, e entrance)) {
	t.Parallel()
	for _, e := range entrances {
		t.Run(e.String(), func(t *testing.T) {
			contract(t, roomstore.Config{}, func(w *world) {
				w.enter(ben(w), "a")
				w.enter(ana(w), "a")
				if eve(w); e.mode != roomstore.ModeCreate {
					w.enter(w.s("e1"), "b")
				}
				w.forget()
				test(w, e)
			})
		})
	}
}

// Who asks what an entry came to that was not answered hears its outcome, or
// that there is none and will be none: that try and those before it, coming
// late, change nothing, however often. The next is decided anew.
func TestStore_Entered(t *testing.T) {
	everyEntrance(t, func(w *world, e entrance) {
		who := w.s("a1")
		before := []string{w.state("a"), w.state("b")}
		for range 2 {
			_, _, err := e.ask(w, who, e.request(w, 2))
			w.refused(err, roomstore.ErrLate)
			for _, try := range []int64{1, 2} {
				_, _, err = e.do(w, who, e.request(w, try))
				w.refused(err, roomstore.ErrLate)
			}
			_, _, err = e.ask(w, who, e.request(w, 1)) // comes late, too
			w.refused(err, roomstore.ErrLate)
		}
		if diff := cmp.Diff(before, []string{w.state("a"), w.state("b")}); diff != "" {
			w.Errorf("stored (-before +after):\n%s", diff)
		}
		w.heard()

		first, left, err := e.do(w, who, e.request(w, 3))
		w.must(err)
		if first.Again {
			w.Errorf("got %+v, want a first outcome", first)
		}
		w.forget()
		first.Again = true
		for try := range int64(5) {
			for _, f := range []func(*world, roomstore.Session, roomstore.EntryRequest) (roomstore.Entry, roomstore.Position, error){e.ask, e.do} {
				got, at, err := f(w, who, e.request(w, try))
				w.must(err)
				if diff := cmp.Diff(first, got, equateEmpty); diff != "" || at != left {
					w.Errorf("try %d: left at %v, want %v; (-want +got):\n%s", try, at, left, diff)
				}
			}
		}
		w.heard()
	})
}

// Whoever asks must be who the session is now, and what was given up under an
// earlier generation, which is fenced, says nothing of this one.
func TestStore_Entered_generations(t *testing.T) {
	everyEntrance(t, func(w *world, e entrance) {
		_, _, err := e.ask(w, w.s("a1"), e.request(w, 9))
		w.refused(err, roomstore.ErrLate)
		older("a1")(w)
		w.forget()
		_, _, err = e.ask(w, w.s("old"), e.request(w, 9))
		w.refused(err, roomstore.ErrFenced)
		got, _, err := e.do(w, w.s("a1"), e.request(w, 1))
		w.must(err)
		if got.Again {
			w.Errorf("got %+v, want a first outcome", got)
		}
		w.forget()
	})
}

// A key that was given up names the request that it was, and no other.
func TestStore_Entered_misused(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		who := ana(w)
		_, err := w.store.Entered(w.ctx(), who, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "a", RequestKey: "7", Try: 1})
		w.refused(err, roomstore.ErrLate)
		for _, mode := range []roomstore.Mode{roomstore.ModeCreate, roomstore.ModeJoin} {
			_, err = w.try(who, roomstore.EntryRequest{Mode: mode, Room: "a", RequestKey: "7", Try: 2})
			w.refused(err, roomstore.ErrMisused)
		}
		_, err = w.store.Leave(w.ctx(), who, "a", "7")
		w.refused(err, roomstore.ErrMisused)
	})
}

// An entry whose client was told that it failed is taken back, once: it is
// left, no try of it comes late, and the next is decided anew.
func TestStore_Undo(t *testing.T) {
	for _, mode := range []roomstore.Mode{roomstore.ModeJoin, roomstore.ModeEnter} {
		t.Run(string(mode), func(t *testing.T) {
			contract(t, roomstore.Config{}, func(w *world) {
				inRoom("ben", "a")(w)
				who := ana(w)
				r := roomstore.EntryRequest{Mode: mode, Room: "a", RequestKey: "5", Try: 2}
				_, err := w.try(who, r)
				w.must(err)
				w.forget()
				at, err := w.store.Undo(w.ctx(), who, r)
				w.must(err)
				if got := w.at(at); got != "#1:3" {
					t.Errorf("left at %s, want #1:3", got)
				}
				w.heard("a#1:3 left ana/a1 n=1")
				_, err = w.store.Undo(w.ctx(), who, r)
				w.refused(err, roomstore.ErrLate)
				for _, try := range []int64{1, 2} {
					r.Try = try
					_, err = w.try(who, r)
					w.refused(err, roomstore.ErrLate)
				}
				w.heard()
				r.Try = 3
				e, err := w.try(who, r)
				w.must(err)
				if e.Again || e.Entered != 4 {
					t.Errorf("got %+v, want a new entry at 4", e)
				}
				w.forget()
			})
		})
	}
}

// There is nothing to take back where the membership is not that of the entry
// any more, or the session is another's.
func TestStore_Undo_nothing(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ben", "a")(w)
		who := ana(w)
		r := roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "a", RequestKey: "5", Try: 1}
		w.forget()
		undo := func(want error) {
			t.Helper()
			before := w.dump()
			_, err := w.store.Undo(w.ctx(), w.s("a1"), r)
			w.refused(err, want)
			w.unchanged(before)
			w.heard()
		}
		undo(roomstore.ErrLate)
		_, err := w.try(who, r)
		w.must(err)
		w.forget()
		r.Mode = roomstore.ModeJoin
		undo(roomstore.ErrMisused)
		r.Mode = roomstore.ModeEnter
		old := who
		who, _ = w.resume("n2", who)
		w.forget()
		w.sessions["a1"] = old
		undo(roomstore.ErrFenced)
		w.sessions["a1"] = who
		w.leave(who, "a")
		w.forget()
		undo(roomstore.ErrNotMember)
		_, err = w.try(who, roomstore.EntryRequest{Room: "a", RequestKey: "6"})
		w.must(err)
		w.forget()
		undo(roomstore.ErrNotMember)
		w.must(w.store.Destroy(w.ctx(), "a"))
		w.forget()
		undo(roomstore.ErrNoRoom)
		_, err = w.try(who, roomstore.EntryRequest{Room: "a", RequestKey: "8"})
		w.must(err)
		w.forget()
		undo(roomstore.ErrNotMember)
	})
}

// With a full Redis an entry is given up, and taken back, all the same: what
// comes late, when there is memory again, changes nothing.
func TestStore_Entered_memoryFull(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--maxmemory-policy", "noeviction")
	w := newWorldOn(t, srv.Client(t), nil, roomstore.Config{Partitions: 4})
	w.enter(ben(w), "a")
	who := ana(w)
	w.enter(who, "a")
	w.enter(eve(w), "b")
	taken := roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "c", RequestKey: "5", Try: 1, Data: "d"}
	_, err := w.store.Enter(w.ctx(), who, taken)
	w.must(err)
	w.forget()
	w.must(w.rdb.ConfigSet(w.ctx(), "maxmemory", "1").Err())
	for i, e := range entrances[1:] {
		r := e.request(w, 1)
		r.RequestKey = roomstore.RequestKey(strconv.Itoa(7 + i))
		_, _, err = e.ask(w, who, r)
		w.refused(err, roomstore.ErrLate)
	}
	_, err = w.store.Undo(w.ctx(), who, taken)
	w.must(err)
	w.must(w.rdb.ConfigSet(w.ctx(), "maxmemory", "0").Err())
	for i, e := range entrances[1:] {
		r := e.request(w, 1)
		r.RequestKey = roomstore.RequestKey(strconv.Itoa(7 + i))
		_, _, err = e.do(w, who, r)
		w.refused(err, roomstore.ErrLate)
	}
	_, err = w.store.Enter(w.ctx(), who, taken)
	w.refused(err, roomstore.ErrLate)
	w.forget()
}

// Keys that gateways make have more digits than a number holds. The newest are
// kept, and which of two is the higher is still told.
func TestStore_requestKey_made(t *testing.T) {
	const last = int64(1)<<53 - 1
	made := func(n int64) roomstore.RequestKey {
		return roomstore.RequestKey(fmt.Sprintf("%d.%012d1795320735669", last, n))
	}
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ben", "a")(w)
		who := ana(w)
		w.enter(who, "a")
		send := func(n int64, id string) roomstore.Sent {
			t.Helper()
			s, err := w.store.Send(w.ctx(), who, roomstore.Message{Room: "a", RequestKey: made(n), ID: id, Payload: "x"})
			w.must(err)
			return s
		}
		const all = 1_000_100
		first := int64(all - 199)
		for n := first; n <= all; n++ {
			send(n, "m")
		}
		for n := int64(all - 63); n <= all; n++ {
			if s := send(n, "other"); s.ID != "m" {
				t.Errorf("the outcome of %s is not kept", made(n))
			}
		}
		_, err := w.store.Leave(w.ctx(), who, "a", made(all+2))
		w.must(err)
		_, err = w.try(who, roomstore.EntryRequest{Room: "a", RequestKey: made(all + 1)})
		w.refused(err, roomstore.ErrFenced)
		_, err = w.try(who, roomstore.EntryRequest{Room: "a", RequestKey: made(all + 3)})
		w.must(err)
		w.forget()
	})
}
