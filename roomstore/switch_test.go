package roomstore_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/roomstore"
)

// change switches and renders the answer: the entry, and where from was left.
func (w *world) change(who roomstore.Session, from roomstore.RoomID, r roomstore.EntryRequest) (string, error) {
	if r.Mode == "" {
		r.Mode = roomstore.ModeEnter
	}
	if r.Data == "" {
		r.Data = dataOf(who.User, who.ID)
	}
	e, left, err := w.store.Switch(w.ctx(), who, from, r)
	if err != nil {
		return "", err
	}
	return w.entryText(e) + " left " + w.at(left), nil
}

// switchAs switches as the session named, from room a.
func switchAs(id roomstore.SessionID, mode roomstore.Mode, to roomstore.RoomID) func(w *world) (string, error) {
	return func(w *world) (string, error) {
		return w.change(w.s(id), "a", roomstore.EntryRequest{Mode: mode, Room: to})
	}
}

// What a switch comes to in every situation (rows 15 to 20, 12, 13 and 31).
// Where it is refused nothing changes: the session is still in from.
func TestStore_Switch(t *testing.T) {
	both := given(inRoom("ana", "a"), inRoom("ben", "a"), inRoom("eve", "b"))
	lone := given(inRoom("ana", "a"), inRoom("eve", "b"))
	run(t, []row{
		{
			name: "15 target exists", given: both,
			do: switchAs("a1", roomstore.ModeJoin, "b"), want: `#1:2 n=2 entered=2 delay=0 "" left #1:3`,
			state: states{"a": "#1:3 ben/b1@2 n1", "b": "#1:2 eve/e1@1 n1 ana/a1@2 n1"},
			heard: []string{"b#1:2 joined ana/a1 n=2", "a#1:3 left ana/a1 n=1"},
		},
		{
			name: "15 target exists: name and config are the creator's, attributes come with it",
			given: given(inRoom("ana", "a"), inRoom("ben", "a"), loggedIn("eve"), func(w *world) {
				_, err := w.try(w.s("e1"), roomstore.EntryRequest{Room: "b", Name: "Room B", Delay: 7, Attributes: map[string]string{"k": "v"}})
				w.must(err)
			}),
			do: func(w *world) (string, error) {
				return w.change(w.s("a1"), "a", roomstore.EntryRequest{Room: "b", Name: "B", Delay: 9, Attributes: map[string]string{"k": "x", "y": "z"}})
			},
			want:  `#1:2 n=2 entered=2 delay=7 "Room B" k=v left #1:3`,
			heard: []string{"b#1:2 joined ana/a1 n=2", "a#1:3 left ana/a1 n=1"},
		},
		{
			name: "15 the last one leaves: from ends", given: lone,
			do: switchAs("a1", roomstore.ModeJoin, "b"), want: `#1:2 n=2 entered=2 delay=0 "" left #1:2`,
			state: states{"a": "none", "b": "#1:2 eve/e1@1 n1 ana/a1@2 n1"},
			heard: []string{"b#1:2 joined ana/a1 n=2", "a#1:2 left ana/a1 n=0", "a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
		{
			name:  "15 the last one leaves: from waits for its end",
			given: given(func(w *world) { w.create(ana(w), "a", 100) }, inRoom("eve", "b")),
			do:    switchAs("a1", roomstore.ModeJoin, "b"), want: `#1:2 n=2 entered=2 delay=0 "" left #1:2`,
			state: states{"a": "#1:2 empty", "b": "#1:2 eve/e1@1 n1 ana/a1@2 n1"},
			heard: []string{"b#1:2 joined ana/a1 n=2", "a#1:2 left ana/a1 n=0"},
		},
		{
			name: "15 target empty, within its delay: it goes on", given: given(emptied("b", 100), inRoom("ben", "a")),
			do: switchAs("b1", roomstore.ModeJoin, "b"), want: `#1:3 n=1 entered=3 delay=100 "Room b" left #1:2`,
			state: states{"b": "#1:3 ben/b1@3 n1"},
			heard: []string{"b#1:3 joined ben/b1 n=1", "a#1:2 left ben/b1 n=0", "a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
		{
			name: "16 target missing, and made", given: given(inRoom("ana", "a"), inRoom("ben", "a")),
			do: func(w *world) (string, error) {
				return w.change(w.s("a1"), "a", roomstore.EntryRequest{Room: "b", Name: "Room B", Delay: 7, Attributes: map[string]string{"k": "v", "l": ""}})
			},
			want:  `#1:1 n=1 entered=1 delay=7 "Room B" k=v,l= created left #1:3`,
			state: states{"a": "#1:3 ben/b1@2 n1", "b": "#1:1 ana/a1@1 n1"},
			heard: []string{"created b#1", "b#1:1 joined ana/a1 n=1", "a#1:3 left ana/a1 n=1"},
		},
		{
			name:  "16 target past its deadline, and made anew",
			given: given(emptied("b", 100), inRoom("ben", "a"), inRoom("eve", "a"), func(w *world) { w.expire("b") }),
			do:    switchAs("b1", roomstore.ModeEnter, "b"), want: `#2:1 n=1 entered=1 delay=0 "" created left #1:3`,
			state: states{"a": "#1:3 eve/e1@2 n1", "b": "#2:1 ben/b1@1 n1"},
			heard: []string{"b#1:3 ended emptied", "destroyed b#1 emptied", "created b#2", "b#2:1 joined ben/b1 n=1", "a#1:3 left ben/b1 n=1"},
		},
		{
			name: "17 target missing, not to be made", given: inRoom("ana", "a"),
			do: switchAs("a1", roomstore.ModeJoin, "b"), err: roomstore.ErrNoRoom,
			state: states{"a": "#1:1 ana/a1@1 n1", "b": "none"},
		},
		{
			name: "17 target past its deadline, not to be made", drops: true,
			given: given(emptied("b", 100), inRoom("ben", "a"), func(w *world) { w.expire("b") }),
			do:    switchAs("b1", roomstore.ModeJoin, "b"), err: roomstore.ErrNoRoom,
			state: states{"a": "#1:1 ben/b1@1 n1", "b": "none"},
			heard: []string{"b#1:3 ended emptied", "destroyed b#1 emptied"},
		},
		{
			name: "18 target missing at the room limit", cfg: roomstore.Config{MaxRooms: 2}, given: lone,
			do: switchAs("a1", roomstore.ModeEnter, "c"), err: roomstore.ErrRoomLimit,
			state: states{"a": "#1:1 ana/a1@1 n1", "c": "none"},
		},
		{
			name: "18 target missing at the room limit, not to be made", cfg: roomstore.Config{MaxRooms: 2}, given: lone,
			do: switchAs("a1", roomstore.ModeJoin, "c"), err: roomstore.ErrRoomLimit,
			state: states{"a": "#1:1 ana/a1@1 n1", "c": "none"},
		},
		{
			name: "15 at the room limit", cfg: roomstore.Config{MaxRooms: 2}, given: both,
			do: switchAs("a1", roomstore.ModeEnter, "b"), want: `#1:2 n=2 entered=2 delay=0 "" left #1:3`,
			heard: []string{"b#1:2 joined ana/a1 n=2", "a#1:3 left ana/a1 n=1"},
		},
		{
			name: "19 not in from", given: given(loggedIn("ana"), inRoom("ben", "a"), inRoom("eve", "b")),
			do: switchAs("a1", roomstore.ModeEnter, "b"), err: roomstore.ErrNotFrom,
			state: states{"a": "#1:1 ben/b1@1 n1", "b": "#1:1 eve/e1@1 n1"},
		},
		{
			name: "19 there is no from", given: given(loggedIn("ana"), inRoom("eve", "b")),
			do: switchAs("a1", roomstore.ModeEnter, "b"), err: roomstore.ErrNotFrom,
		},
		{
			name: "19 not in from, and no target", given: given(loggedIn("ana"), inRoom("ben", "a")),
			do: switchAs("a1", roomstore.ModeJoin, "b"), err: roomstore.ErrNotFrom,
		},
		{
			name: "19 in the target only", given: given(inRoom("ana", "b"), inRoom("ben", "a")),
			do: switchAs("a1", roomstore.ModeEnter, "b"), err: roomstore.ErrNotFrom,
		},
		{
			name: "19 from and target are one", given: inRoom("ana", "a"),
			do: switchAs("a1", roomstore.ModeEnter, "a"), err: roomstore.ErrNotFrom,
			state: states{"a": "#1:1 ana/a1@1 n1"},
		},
		{
			name:  "19 another device is in from",
			given: given(inRoom("ana", "a"), inRoom("eve", "b"), func(w *world) { w.login("ana", "a2") }),
			do:    switchAs("a2", roomstore.ModeEnter, "b"), err: roomstore.ErrNotFrom,
			state: states{"a": "#1:1 ana/a1@1 n1"},
		},
		{
			name: "20 at the user's limit", cfg: roomstore.Config{MaxRoomsPerUser: 2},
			given: given(inRoom("ana", "a", "c"), inRoom("eve", "b")),
			do: func(w *world) (string, error) {
				text, err := switchAs("a1", roomstore.ModeJoin, "b")(w)
				w.must(err)
				_, err = w.try(w.s("a1"), roomstore.EntryRequest{Room: "d"})
				w.refused(err, roomstore.ErrUserLimit)
				return text, nil
			},
			want:  `#1:2 n=2 entered=2 delay=0 "" left #1:2`,
			state: states{"a": "none", "b": "#1:2 eve/e1@1 n1 ana/a1@2 n1", "c": "#1:1 ana/a1@1 n1"},
			heard: []string{"b#1:2 joined ana/a1 n=2", "a#1:2 left ana/a1 n=0", "a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
		{
			name: "20 at the user's limit, and made", cfg: roomstore.Config{MaxRoomsPerUser: 1},
			given: given(inRoom("ana", "a"), inRoom("ben", "a")),
			do:    switchAs("a1", roomstore.ModeEnter, "b"), want: `#1:1 n=1 entered=1 delay=0 "" created left #1:3`,
			heard: []string{"created b#1", "b#1:1 joined ana/a1 n=1", "a#1:3 left ana/a1 n=1"},
		},
		{
			name: "12 full", cfg: roomstore.Config{MaxMembers: 1}, given: lone,
			do: switchAs("a1", roomstore.ModeJoin, "b"), err: roomstore.ErrFull,
			state: states{"a": "#1:1 ana/a1@1 n1", "b": "#1:1 eve/e1@1 n1"},
		},
		{
			name: "13 blocked", given: given(lone, func(w *world) { w.block("b", "ana", 0) }),
			do: switchAs("a1", roomstore.ModeEnter, "b"), err: roomstore.ErrBlocked,
			state: states{"a": "#1:1 ana/a1@1 n1", "b": "#1:1 eve/e1@1 n1"},
		},
		{
			name: "13 blocked until a while ago", given: given(both, func(w *world) { w.block("b", "ana", w.now().UnixMilli()-1000) }),
			do: switchAs("a1", roomstore.ModeEnter, "b"), want: `#1:2 n=2 entered=2 delay=0 "" left #1:3`,
			heard: []string{"b#1:2 joined ana/a1 n=2", "a#1:3 left ana/a1 n=1"},
		},
		{
			name: "13 blocked from from", given: given(both, func(w *world) { w.block("a", "ana", 0) }),
			do: switchAs("a1", roomstore.ModeEnter, "b"), want: `#1:2 n=2 entered=2 delay=0 "" left #1:3`,
			heard: []string{"b#1:2 joined ana/a1 n=2", "a#1:3 left ana/a1 n=1"},
		},
		{
			name: "31 another device is in the target: the place moves, no limit holds",
			cfg:  roomstore.Config{MaxMembers: 2, MaxRoomsPerUser: 2, MaxRooms: 2},
			given: given(inRoom("ana", "b"), inRoom("eve", "b"), inRoom("ben", "a"), func(w *world) {
				w.enter(w.loginOn("n2", "ana", "a2", ""), "a")
			}),
			do: switchAs("a2", roomstore.ModeJoin, "b"), want: `#1:3 n=2 entered=1 delay=0 "" left #1:3`,
			state: states{"a": "#1:3 ben/b1@1 n1", "b": "#1:3 ana/a2@1 n2 eve/e1@2 n1"},
			heard: []string{"b#1:3 moved ana/a2 n=2 from a1", "a#1:3 left ana/a2 n=1"},
		},
		{
			name: "31 another device, whose place in the target is parked",
			given: given(inRoom("ana", "b"), func(w *world) { w.park(w.s("a1"), time.Minute) }, inRoom("ben", "a"),
				func(w *world) { w.enter(w.login("ana", "a2"), "a") }),
			do: func(w *world) (string, error) {
				text, err := switchAs("a2", roomstore.ModeJoin, "b")(w)
				if n := w.rdb.ZCard(w.ctx(), w.part("b")+"parked").Val(); n != 0 {
					w.Errorf("%d are parked", n)
				}
				return text, err
			},
			want:  `#1:2 n=1 entered=1 delay=0 "" left #1:3`,
			state: states{"a": "#1:3 ben/b1@1 n1", "b": "#1:2 ana/a2@1 n1"},
			heard: []string{"b#1:2 moved ana/a2 n=1 from a1", "a#1:3 left ana/a2 n=1"},
		},
		{
			name: "in both: from is left, whatever the target's limits", cfg: roomstore.Config{MaxMembers: 2},
			given: given(inRoom("ana", "a", "b"), inRoom("ben", "a"), inRoom("eve", "b"), func(w *world) { w.block("b", "ana", 0) }),
			do:    switchAs("a1", roomstore.ModeJoin, "b"), want: `#1:2 n=2 entered=1 delay=0 "" already left #1:3`,
			state: states{"a": "#1:3 ben/b1@2 n1", "b": "#1:2 ana/a1@1 n1 eve/e1@2 n1"},
			heard: []string{"a#1:3 left ana/a1 n=1"},
		},
		{
			name: "the node was given up",
			given: given(both, func(w *world) {
				w.must(w.rdb.ZAdd(w.ctx(), w.tag("0")+"dead", redis.Z{Score: 1, Member: "n1"}).Err())
			}),
			do: switchAs("a1", roomstore.ModeEnter, "b"), err: roomstore.ErrFenced,
		},
		{
			name: "older generation", given: given(both, older("a1")),
			do: switchAs("old", roomstore.ModeEnter, "b"), err: roomstore.ErrFenced,
		},
		{
			name: "older generation, in both", given: given(both, func(w *world) { w.enter(w.s("a1"), "b") }, older("a1")),
			do: switchAs("old", roomstore.ModeEnter, "b"), err: roomstore.ErrFenced,
		},
		{
			name: "session parked", given: given(both, parked("a1")),
			do: switchAs("a1", roomstore.ModeEnter, "b"), err: roomstore.ErrFenced,
		},
		{
			name: "session ended", given: given(both, func(w *world) {
				_, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "", true)
				w.must(err)
			}),
			do: switchAs("a1", roomstore.ModeEnter, "b"), err: roomstore.ErrFenced,
		},
		{
			name: "later than the session's departure from the target",
			given: given(both, func(w *world) {
				w.enter(w.s("a1"), "b")
				_, err := w.store.Leave(w.ctx(), w.s("a1"), "b", "12")
				w.must(err)
			}),
			do: func(w *world) (string, error) {
				return w.change(w.s("a1"), "a", roomstore.EntryRequest{Room: "b", RequestKey: "9"})
			},
			err: roomstore.ErrFenced,
		},
		{
			name: "and back", given: given(both, func(w *world) {
				_, err := w.change(w.s("a1"), "a", roomstore.EntryRequest{Room: "b", RequestKey: "7"})
				w.must(err)
			}),
			do: func(w *world) (string, error) {
				return w.change(w.s("a1"), "b", roomstore.EntryRequest{Room: "a", RequestKey: "8"})
			},
			want:  `#1:4 n=2 entered=4 delay=0 "" left #1:3`,
			state: states{"a": "#1:4 ben/b1@2 n1 ana/a1@4 n1", "b": "#1:3 eve/e1@1 n1"},
			heard: []string{"a#1:4 joined ana/a1 n=2", "b#1:3 left ana/a1 n=1"},
		},
	})
}

// A switch that is repeated under its key has its first outcome, whatever
// happened since, and says if the session is not in the room any more. Its key
// is good for nothing else.
func TestStore_Switch_again(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.enter(ben(w), "a")
		who := ana(w)
		w.enter(who, "a")
		r := roomstore.EntryRequest{
			Mode: roomstore.ModeEnter, Room: "b", RequestKey: "7", Name: "Room \x00 B", Delay: 5, Data: "d",
			Attributes: map[string]string{"k": "v"},
		}
		first, left, err := w.store.Switch(w.ctx(), who, "a", r)
		w.must(err)
		if !first.Created || len(first.Attributes) != 1 || first.Again || left.Seq != 3 {
			t.Fatalf("got %+v, left %v", first, left)
		}
		w.enter(w.s("b1"), "b")
		w.forget()
		again := func(is string) {
			t.Helper()
			got, at, err := w.store.Switch(w.ctx(), who, "a", r)
			w.must(err)
			want := first
			want.Again, want.Gone, want.Later = true, is == "gone", is == "later"
			if is != "in" {
				want.Attributes = nil
			}
			if diff := cmp.Diff(want, got, equateEmpty); diff != "" {
				t.Errorf("%s: (-want +got):\n%s", is, diff)
			}
			if at != left {
				t.Errorf("left at %v, want %v", at, left)
			}
			w.heard()
		}
		again("in")
		who, _ = w.resume("n2", who)
		w.forget()
		again("in")

		_, _, err = w.store.Switch(w.ctx(), who, "c", r)
		w.refused(err, roomstore.ErrMisused)
		other := r
		for i := 0; other.Room == "b" || w.hash(string(other.Room)) != w.hash("b"); i++ {
			other.Room = roomstore.RoomID("b" + strconv.Itoa(i))
		}
		_, _, err = w.store.Switch(w.ctx(), who, "a", other)
		w.refused(err, roomstore.ErrMisused)
		_, err = w.try(who, roomstore.EntryRequest{Room: "b", RequestKey: "7"})
		w.refused(err, roomstore.ErrMisused)
		_, err = w.store.Leave(w.ctx(), who, "b", "7")
		w.refused(err, roomstore.ErrMisused)
		w.heard()

		w.enter(who, "a") // being in from again changes nothing of that
		w.forget()
		again("in")
		w.leave(who, "b")
		w.forget()
		again("gone")
		// Entered anew, in whatever way, it is another membership.
		_, err = w.change(who, "a", roomstore.EntryRequest{Room: "b", RequestKey: "8"})
		w.must(err)
		w.forget()
		again("later")
		w.must(w.store.Destroy(w.ctx(), "b"))
		w.forget()
		again("gone")
		_, err = w.try(who, roomstore.EntryRequest{Room: "b", RequestKey: "9"})
		w.must(err)
		w.forget()
		again("later")
	})
}

// A refusal is not kept under its key: it is decided anew.
func TestStore_Switch_refusedAgain(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.enter(ana(w), "a")
		r := roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "b", RequestKey: "7"}
		_, err := w.change(w.s("a1"), "a", r)
		w.refused(err, roomstore.ErrNoRoom)
		w.enter(ben(w), "b")
		got, err := w.change(w.s("a1"), "a", r)
		w.must(err)
		if want := `#1:2 n=2 entered=2 delay=0 "" left #1:2`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// A session that has switched comes back to the room entered, and hears why it
// is out of the other.
func TestStore_Switch_resume(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.enter(ben(w), "a", "b")
		w.enter(ana(w), "a")
		_, err := w.change(w.s("a1"), "a", roomstore.EntryRequest{Room: "b", RequestKey: "7"})
		w.must(err)
		_, back := w.resume("n2", w.s("a1"), "a", "b")
		got := map[roomstore.RoomID]bool{}
		for _, r := range back {
			got[r.Room] = r.In
			if r.Room == "a" && r.Reason != roomstore.ReasonLeft {
				t.Errorf("out of a because of %q", r.Reason)
			}
		}
		if diff := cmp.Diff(map[roomstore.RoomID]bool{"a": false, "b": true}, got); diff != "" {
			t.Errorf("in (-want +got):\n%s", diff)
		}
	})
}

// Rooms of one partition and of two are the same to a switch, in every way.
func TestStore_Switch_partitions(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		var same, other roomstore.RoomID
		for i := 0; same == "" || other == "" && w.parts > 1; i++ {
			id := "b" + strconv.Itoa(i)
			if w.hash(id) == w.hash("a") {
				same = roomstore.RoomID(id)
			} else {
				other = roomstore.RoomID(id)
			}
		}
		who, at := ana(w), roomstore.RoomID("a")
		w.enter(who, at)
		for i, to := range []roomstore.RoomID{same, other, "a"} {
			if to == "" {
				continue
			}
			key := roomstore.RequestKey(strconv.Itoa(i + 1))
			for _, again := range []bool{false, true} {
				e, left, err := w.store.Switch(w.ctx(), who, at, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: to, RequestKey: key})
				w.must(err)
				if e.Seq != 1 || e.Count != 1 || !e.Created || e.Again != again || e.Gone || left.Seq != 2 || left.Epoch >= e.Epoch {
					t.Errorf("from %s to %s got %+v, left at %v", at, to, e, left)
				}
			}
			if got := w.state(at); got != "none" {
				t.Errorf("%s: %s", at, got)
			}
			w.forget()
			w.check()
			at = to
		}
		_, err := w.store.LeaveAll(w.ctx(), who, "", true)
		w.must(err)
		w.nothingLeft()
	})
}

// Data that would break the joined values is refused before Redis is asked.
func TestStore_Switch_opaque(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.enter(ana(w), "a")
		_, err := w.change(w.s("a1"), "a", roomstore.EntryRequest{Room: "b", Data: "x\x00y"})
		if err == nil || !roomstore.Refused(err) {
			t.Errorf("got %v, want a refusal", err)
		}
	})
}
