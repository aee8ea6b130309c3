package roomstore_test

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/roomstore"
)

// enterAs enters as the session named.
func enterAs(id roomstore.SessionID, mode roomstore.Mode, room roomstore.RoomID) func(w *world) (string, error) {
	return func(w *world) (string, error) {
		return w.ask(w.s(id), roomstore.EntryRequest{Mode: mode, Room: room})
	}
}

type states = map[roomstore.RoomID]string

// given does several things first.
func given(do ...func(w *world)) func(w *world) {
	return func(w *world) {
		for _, f := range do {
			f(w)
		}
	}
}

// inRoom logs a user in and lets it enter rooms: "ana" becomes session "a1".
func inRoom(user roomstore.UserID, rooms ...roomstore.RoomID) func(w *world) {
	return func(w *world) {
		w.enter(w.login(user, roomstore.SessionID(user[:1])+"1"), rooms...)
	}
}

func loggedIn(users ...roomstore.UserID) func(w *world) {
	return func(w *world) {
		for _, user := range users {
			w.login(user, roomstore.SessionID(user[:1])+"1")
		}
	}
}

// emptied creates a room with a delay, as ana, and leaves it.
func emptied(room roomstore.RoomID, delay int) func(w *world) {
	return func(w *world) {
		who := ana(w)
		w.create(who, room, delay)
		w.leave(who, room)
	}
}

// What an entry comes to in every situation (rows 1 to 13 and 31).
func TestStore_Enter(t *testing.T) {
	later := func(d time.Duration) func(w *world) {
		return func(w *world) { w.block("a", "ben", w.now().Add(d).UnixMilli()) }
	}
	run(t, []row{
		{
			name: "create, ID free", given: loggedIn("ana"),
			do: func(w *world) (string, error) {
				return w.ask(w.s("a1"), roomstore.EntryRequest{
					Mode: roomstore.ModeCreate, Room: "a", Name: "Room A", Delay: 7,
					Attributes: map[string]string{"k": "v", "l": ""},
				})
			},
			want:  `#1:1 n=1 entered=1 delay=7 "Room A" k=v,l= created`,
			state: states{"a": "#1:1 ana/a1@1 n1"},
			heard: []string{"created a#1", "a#1:1 joined ana/a1 n=1"},
		},
		{
			name: "create, exists", given: given(inRoom("ana", "a"), loggedIn("ben")),
			do: enterAs("b1", roomstore.ModeCreate, "a"), err: roomstore.ErrExists,
			state: states{"a": "#1:1 ana/a1@1 n1"},
		},
		{
			name: "create, this session is in it", given: inRoom("ana", "a"),
			do: enterAs("a1", roomstore.ModeCreate, "a"), err: roomstore.ErrExists,
			state: states{"a": "#1:1 ana/a1@1 n1"},
		},
		{
			name: "create, room limit", cfg: roomstore.Config{MaxRooms: 2},
			given: given(inRoom("ana", "a", "b"), loggedIn("ben")),
			do:    enterAs("b1", roomstore.ModeCreate, "c"), err: roomstore.ErrRoomLimit,
			state: states{"c": "none"},
		},
		{
			name: "create, exists and room limit", cfg: roomstore.Config{MaxRooms: 1},
			given: given(inRoom("ana", "a"), loggedIn("ben")),
			do:    enterAs("b1", roomstore.ModeCreate, "a"), err: roomstore.ErrExists,
		},
		{
			name: "join, exists", given: given(inRoom("ana", "a"), loggedIn("ben")),
			do: enterAs("b1", roomstore.ModeJoin, "a"), want: `#1:2 n=2 entered=2 delay=0 ""`,
			state: states{"a": "#1:2 ana/a1@1 n1 ben/b1@2 n1"},
			heard: []string{"a#1:2 joined ben/b1 n=2"},
		},
		{
			name: "join, no such room", given: loggedIn("ana"),
			do: enterAs("a1", roomstore.ModeJoin, "a"), err: roomstore.ErrNoRoom,
			state: states{"a": "none"},
		},
		{
			name: "enter, free", given: loggedIn("ana"),
			do: enterAs("a1", roomstore.ModeEnter, "a"), want: `#1:1 n=1 entered=1 delay=0 "" created`,
			state: states{"a": "#1:1 ana/a1@1 n1"},
			heard: []string{"created a#1", "a#1:1 joined ana/a1 n=1"},
		},
		{
			name: "enter, exists: name and config are the creator's, attributes come with it",
			given: given(loggedIn("ana", "ben"), func(w *world) {
				_, err := w.try(w.s("a1"), roomstore.EntryRequest{Room: "a", Name: "Room A", Delay: 7, Attributes: map[string]string{"k": "v"}})
				w.must(err)
			}),
			do: func(w *world) (string, error) {
				return w.ask(w.s("b1"), roomstore.EntryRequest{Room: "a", Name: "B", Delay: 9, Attributes: map[string]string{"k": "x", "y": "z"}})
			},
			want:  `#1:2 n=2 entered=2 delay=7 "Room A" k=v`,
			heard: []string{"a#1:2 joined ben/b1 n=2"},
		},
		{
			name: "enter, room limit", cfg: roomstore.Config{MaxRooms: 1},
			given: given(inRoom("ana", "a"), loggedIn("ben")),
			do:    enterAs("b1", roomstore.ModeEnter, "b"), err: roomstore.ErrRoomLimit,
			state: states{"b": "none"},
		},
		{
			name: "enter, exists at the room limit", cfg: roomstore.Config{MaxRooms: 1},
			given: given(inRoom("ana", "a"), loggedIn("ben")),
			do:    enterAs("b1", roomstore.ModeEnter, "a"), want: `#1:2 n=2 entered=2 delay=0 ""`,
			heard: []string{"a#1:2 joined ben/b1 n=2"},
		},
		{
			name: "a room that ended makes place", cfg: roomstore.Config{MaxRooms: 1},
			given: given(inRoom("ana", "a"), loggedIn("ben"), func(w *world) { w.leave(w.s("a1"), "a") }),
			do:    enterAs("b1", roomstore.ModeEnter, "b"), want: `#1:1 n=1 entered=1 delay=0 "" created`,
			heard: []string{"created b#1", "b#1:1 joined ben/b1 n=1"},
		},
		{
			name: "an empty room counts while its delay runs", cfg: roomstore.Config{MaxRooms: 1},
			given: given(emptied("a", 100), loggedIn("ben")),
			do:    enterAs("b1", roomstore.ModeEnter, "b"), err: roomstore.ErrRoomLimit,
		},
		{
			name: "an empty room past its deadline does not count, swept or not", cfg: roomstore.Config{MaxRooms: 1},
			given: given(emptied("a", 100), loggedIn("ben"), func(w *world) { w.expire("a") }),
			do: func(w *world) (string, error) {
				text, err := w.ask(w.s("b1"), roomstore.EntryRequest{Room: "b"})
				w.heardEnd([]string{"created b#1", "b#1:1 joined ben/b1 n=1"}, "a#1:3 ended emptied", "destroyed a#1 emptied")
				return text, err
			},
			want: `#1:1 n=1 entered=1 delay=0 "" created`,
		},
		{
			name: "join, this session is in it", given: given(inRoom("ana", "a"), inRoom("ben", "a")),
			do: enterAs("b1", roomstore.ModeJoin, "a"), want: `#1:2 n=2 entered=2 delay=0 "" already`,
			state: states{"a": "#1:2 ana/a1@1 n1 ben/b1@2 n1"},
		},
		{
			name: "enter, this session is in it, and the room has moved on and is full", cfg: roomstore.Config{MaxMembers: 2},
			given: given(inRoom("ana", "a"), inRoom("ben", "a")),
			do:    enterAs("a1", roomstore.ModeEnter, "a"), want: `#1:2 n=2 entered=1 delay=0 "" already`,
		},
		{
			name: "user's room limit", cfg: roomstore.Config{MaxRoomsPerUser: 2},
			given: inRoom("ana", "a", "b"),
			do:    enterAs("a1", roomstore.ModeEnter, "c"), err: roomstore.ErrUserLimit,
			state: states{"c": "none"},
		},
		{
			name: "user's room limit, create", cfg: roomstore.Config{MaxRoomsPerUser: 2},
			given: inRoom("ana", "a", "b"),
			do:    enterAs("a1", roomstore.ModeCreate, "c"), err: roomstore.ErrUserLimit,
		},
		{
			name: "user's room limit, join", cfg: roomstore.Config{MaxRoomsPerUser: 2},
			given: given(inRoom("ana", "a", "b"), inRoom("ben", "c")),
			do:    enterAs("a1", roomstore.ModeJoin, "c"), err: roomstore.ErrUserLimit,
		},
		{
			name: "user's room limit counts all devices", cfg: roomstore.Config{MaxRoomsPerUser: 2},
			given: given(inRoom("ana", "a"), func(w *world) { w.enter(w.login("ana", "a2"), "b"); w.login("ana", "a3") }),
			do:    enterAs("a3", roomstore.ModeEnter, "c"), err: roomstore.ErrUserLimit,
		},
		{
			name: "below the user's room limit with many devices", cfg: roomstore.Config{MaxRoomsPerUser: 2},
			given: given(inRoom("ana", "a"), func(w *world) { w.login("ana", "a2"); w.login("ana", "a3") }),
			do:    enterAs("a3", roomstore.ModeEnter, "c"), want: `#1:1 n=1 entered=1 delay=0 "" created`,
			heard: []string{"created c#1", "c#1:1 joined ana/a3 n=1"},
		},
		{
			name: "parked places count for the user's room limit", cfg: roomstore.Config{MaxRoomsPerUser: 1},
			given: given(inRoom("ana", "a"), func(w *world) { w.park(w.s("a1"), time.Minute); w.login("ana", "a2") }),
			do:    enterAs("a2", roomstore.ModeEnter, "b"), err: roomstore.ErrUserLimit,
		},
		{
			name: "rooms that ended do not count, and are forgotten", cfg: roomstore.Config{MaxRoomsPerUser: 2},
			given: given(inRoom("ana", "a", "b"), func(w *world) { w.must(w.store.Destroy(w.ctx(), "a")) }),
			do: func(w *world) (string, error) {
				text, err := w.ask(w.s("a1"), roomstore.EntryRequest{Room: "c"})
				if f := w.rdb.HExists(w.ctx(), w.user("ana"), "r:a").Val(); f {
					w.Error("the ended room is still in the user's list")
				}
				return text, err
			},
			want:  `#1:1 n=1 entered=1 delay=0 "" created`,
			heard: []string{"created c#1", "c#1:1 joined ana/a1 n=1"},
		},
		{
			name: "a later life of a room does not count for who was in the earlier", cfg: roomstore.Config{MaxRoomsPerUser: 1},
			given: given(inRoom("ana", "a"), func(w *world) { w.must(w.store.Destroy(w.ctx(), "a")) }, inRoom("ben", "a")),
			do:    enterAs("a1", roomstore.ModeEnter, "c"), want: `#1:1 n=1 entered=1 delay=0 "" created`,
			heard: []string{"created c#1", "c#1:1 joined ana/a1 n=1"},
		},
		{
			name: "full", cfg: roomstore.Config{MaxMembers: 1}, given: given(inRoom("ana", "a"), loggedIn("ben")),
			do: enterAs("b1", roomstore.ModeJoin, "a"), err: roomstore.ErrFull,
			state: states{"a": "#1:1 ana/a1@1 n1"},
		},
		{
			name: "blocked", given: given(inRoom("ana", "a"), loggedIn("ben"), later(time.Hour)),
			do: enterAs("b1", roomstore.ModeEnter, "a"), err: roomstore.ErrBlocked,
			state: states{"a": "#1:1 ana/a1@1 n1"},
		},
		{
			name: "blocked for ever", given: given(inRoom("ana", "a"), loggedIn("ben"), func(w *world) { w.block("a", "ben", 0) }),
			do: enterAs("b1", roomstore.ModeJoin, "a"), err: roomstore.ErrBlocked,
		},
		{
			name: "blocked until a while ago", given: given(inRoom("ana", "a"), loggedIn("ben"), later(-time.Second)),
			do: enterAs("b1", roomstore.ModeJoin, "a"), want: `#1:2 n=2 entered=2 delay=0 ""`,
			heard: []string{"a#1:2 joined ben/b1 n=2"},
		},
		{
			name: "another is blocked", given: given(inRoom("ana", "a"), loggedIn("eve"), later(time.Hour)),
			do: enterAs("e1", roomstore.ModeJoin, "a"), want: `#1:2 n=2 entered=2 delay=0 ""`,
			heard: []string{"a#1:2 joined eve/e1 n=2"},
		},
		{
			name: "blocked in an earlier life",
			given: given(inRoom("ana", "a"), loggedIn("ben"), later(time.Hour), func(w *world) {
				w.leave(w.s("a1"), "a")
			}),
			do: enterAs("b1", roomstore.ModeEnter, "a"), want: `#2:1 n=1 entered=1 delay=0 "" created`,
			heard: []string{"created a#2", "a#2:1 joined ben/b1 n=1"},
		},
		{
			name:  "from another device: the place moves, and keeps its order",
			given: given(inRoom("ana", "a"), inRoom("ben", "a"), func(w *world) { w.loginOn("n2", "ana", "a2", "") }),
			do:    enterAs("a2", roomstore.ModeEnter, "a"), want: `#1:3 n=2 entered=1 delay=0 ""`,
			state: states{"a": "#1:3 ana/a2@1 n2 ben/b1@2 n1"},
			heard: []string{"a#1:3 moved ana/a2 n=2 from a1"},
		},
		{
			name:  "from another device: no limit holds",
			cfg:   roomstore.Config{MaxMembers: 1, MaxRoomsPerUser: 1, MaxRooms: 1},
			given: given(inRoom("ana", "a"), func(w *world) { w.login("ana", "a2") }),
			do:    enterAs("a2", roomstore.ModeJoin, "a"), want: `#1:2 n=1 entered=1 delay=0 ""`,
			state: states{"a": "#1:2 ana/a2@1 n1"},
			heard: []string{"a#1:2 moved ana/a2 n=1 from a1"},
		},
		{
			name: "from another device, the first one's place is parked",
			given: given(inRoom("ana", "a"), func(w *world) {
				w.park(w.s("a1"), time.Minute)
				w.login("ana", "a2")
			}),
			do: func(w *world) (string, error) {
				text, err := w.ask(w.s("a2"), roomstore.EntryRequest{Room: "a"})
				if n := w.rdb.ZCard(w.ctx(), w.part("a")+"parked").Val(); n != 0 {
					w.Errorf("%d are parked", n)
				}
				w.pass(time.Hour)
				w.sweep("n1")
				return text, err
			},
			want:  `#1:2 n=1 entered=1 delay=0 ""`,
			state: states{"a": "#1:2 ana/a2@1 n1"},
			heard: []string{"a#1:2 moved ana/a2 n=1 from a1"},
		},
		{
			name: "from another device, create", given: given(inRoom("ana", "a"), func(w *world) { w.login("ana", "a2") }),
			do: enterAs("a2", roomstore.ModeCreate, "a"), err: roomstore.ErrExists,
		},
		{
			name: "the node was given up",
			given: given(loggedIn("ana"), func(w *world) {
				w.giveUp("n1")
			}),
			do: enterAs("a1", roomstore.ModeEnter, "a"), err: roomstore.ErrFenced,
		},
		{
			name: "older generation",
			given: given(loggedIn("ana"), func(w *world) {
				old := w.s("a1")
				w.resume("n2", old)
				w.sessions["old"] = old
			}),
			do: enterAs("old", roomstore.ModeEnter, "a"), err: roomstore.ErrFenced,
		},
		{
			name: "older generation, in the room",
			given: given(inRoom("ana", "a"), func(w *world) {
				old := w.s("a1")
				w.resume("n2", old)
				w.sessions["old"] = old
			}),
			do: enterAs("old", roomstore.ModeEnter, "a"), err: roomstore.ErrFenced,
		},
		{
			name: "session parked", given: given(loggedIn("ana"), func(w *world) { w.park(w.s("a1"), time.Minute) }),
			do: enterAs("a1", roomstore.ModeEnter, "a"), err: roomstore.ErrFenced,
		},
		{
			name: "session ended", given: given(loggedIn("ana"), func(w *world) {
				_, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "", true)
				w.must(err)
			}),
			do: enterAs("a1", roomstore.ModeEnter, "a"), err: roomstore.ErrFenced,
		},
		{
			name:  "empty, within its delay: it goes on",
			given: given(emptied("a", 100), loggedIn("ben")),
			do:    enterAs("b1", roomstore.ModeJoin, "a"), want: `#1:3 n=1 entered=3 delay=100 "Room a"`,
			state: states{"a": "#1:3 ben/b1@3 n1"},
			heard: []string{"a#1:3 joined ben/b1 n=1"},
		},
		{
			name: "empty, within its delay: create", given: given(emptied("a", 100), loggedIn("ben")),
			do: enterAs("b1", roomstore.ModeCreate, "a"), err: roomstore.ErrExists,
			state: states{"a": "#1:2 empty"},
		},
		{
			name:  "empty, past its deadline: create, and no sweep ran",
			given: given(emptied("a", 100), loggedIn("ben"), func(w *world) { w.expire("a") }),
			do:    enterAs("b1", roomstore.ModeCreate, "a"), want: `#2:1 n=1 entered=1 delay=0 "" created`,
			state: states{"a": "#2:1 ben/b1@1 n1"},
			heard: []string{"a#1:3 ended emptied", "destroyed a#1 emptied", "created a#2", "a#2:1 joined ben/b1 n=1"},
		},
		{
			name: "empty, past its deadline: join", drops: true,
			given: given(emptied("a", 100), loggedIn("ben"), func(w *world) { w.expire("a") }),
			do:    enterAs("b1", roomstore.ModeJoin, "a"), err: roomstore.ErrNoRoom,
			state: states{"a": "none"},
			heard: []string{"a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
	})
}

// An entry that comes after the end of the membership it belongs to does not
// bring it back: it has a lower generation, or a lower request key under the
// same one. One that was asked for later is let in.
func TestStore_Enter_comesLate(t *testing.T) {
	for _, tt := range []struct {
		name       string
		left, came roomstore.RequestKey
		resumed    bool // between leave and entry
		err        error
	}{
		{name: "lower key", left: "12", came: "9", err: roomstore.ErrFenced},
		{name: "higher key", left: "9", came: "12"},
		{name: "no key", left: "9", came: ""},
		{name: "left without key", left: "", came: "9"},
		{name: "lower key, later generation", left: "12", came: "9", resumed: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			contract(t, roomstore.Config{}, func(w *world) {
				w.enter(ben(w), "a")
				who := ana(w)
				w.enter(who, "a")
				_, err := w.store.Leave(w.ctx(), who, "a", tt.left)
				w.must(err)
				if tt.resumed {
					who, _ = w.resume("n1", who)
				}
				_, err = w.try(who, roomstore.EntryRequest{Room: "a", RequestKey: tt.came})
				w.refused(err, tt.err)
			})
		})
	}
	t.Run("higher generation", func(t *testing.T) {
		contract(t, roomstore.Config{}, func(w *world) {
			w.enter(ben(w), "a")
			who := ana(w)
			w.enter(who, "a")
			later, _ := w.resume("n2", who)
			w.leave(later, "a")
			// The session's record may be gone, too, or put back: what says that
			// it is over is kept with the room.
			w.must(w.rdb.HSet(w.ctx(), w.user("ana"), "s:a1", strconv.FormatInt(who.Generation, 10)+"\x00n1\x00\x001\x00").Err())
			w.dropped = true
			_, err := w.try(who, roomstore.EntryRequest{Room: "a"})
			w.refused(err, roomstore.ErrFenced)
		})
	})
}

// An entry that is repeated under its key has its first outcome, whatever
// happened since, and says if the session is not in the room any more.
func TestStore_Enter_again(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.enter(ben(w), "b")
		who := ana(w)
		r := roomstore.EntryRequest{
			Mode: roomstore.ModeCreate, Room: "a", RequestKey: "7", Name: "Room \x00 A", Delay: 5,
			Attributes: map[string]string{"k": "v"},
		}
		first, err := w.try(who, r)
		w.must(err)
		if ttl := w.rdb.TTL(w.ctx(), w.part("a")+"did:a1").Val(); ttl < 10*time.Minute || ttl > 13*time.Minute {
			t.Errorf("the outcome is kept for %v", ttl)
		}
		w.enter(w.s("b1"), "a")
		w.forget()
		again := func(r roomstore.EntryRequest, first roomstore.Entry, is string) {
			t.Helper()
			got, err := w.try(who, r)
			w.must(err)
			want := first
			want.Again, want.Gone, want.Later = true, is == "gone", is == "later"
			if is != "in" {
				want.Attributes = nil
			}
			if diff := cmp.Diff(want, got, equateEmpty); diff != "" {
				t.Errorf("%s: (-want +got):\n%s", is, diff)
			}
			w.heard()
		}
		again(r, first, "in")
		w.leave(who, "a")
		w.forget()
		again(r, first, "gone")
		// Entered anew it is another membership: in this life of the room, and in
		// a later one.
		later := roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "a", RequestKey: "8"}
		second, err := w.try(who, later)
		w.must(err)
		w.forget()
		again(r, first, "later")
		again(later, second, "in")
		w.must(w.store.Destroy(w.ctx(), "a"))
		w.forget()
		again(r, first, "gone")
		_, err = w.try(who, roomstore.EntryRequest{Room: "a", RequestKey: "9"})
		w.must(err)
		w.forget()
		again(r, first, "later")
		again(later, second, "later")
		// So it is for the session of another device.
		w.login("ana", "a2")
		w.enter(w.s("a2"), "a")
		w.forget()
		again(r, first, "gone")
	})
}

// Epochs follow Redis's clock, and rise whatever it does.
func TestStore_Enter_epoch(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		before := w.now().UnixMicro()
		last := w.enter(ana(w), "a").Epoch
		if last < before || last > w.now().UnixMicro() {
			t.Errorf("epoch %d is not the time, %d", last, before)
		}
		ahead := w.now().Add(time.Hour).UnixMicro()
		for _, slot := range w.slots() {
			w.must(w.rdb.HSet(w.ctx(), slot+"clock", "epoch", ahead).Err())
		}
		for i := range 3 { // in any partition
			room := roomstore.RoomID("b" + strconv.Itoa(i))
			if w.apart {
				ahead += 100 // each has epochs of its own
				w.must(w.rdb.HSet(w.ctx(), w.part(room)+"clock", "epoch", ahead).Err())
			}
			e := w.enter(w.s("a1"), room)
			if ahead++; e.Epoch != ahead {
				t.Errorf("epoch %d, want %d", e.Epoch, ahead)
			}
		}
		w.forget()
	})
}

// A new life has nothing of what may have been left under its ID.
func TestStore_Enter_clean(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		key := func(kind string) string { return w.part("a") + kind + ":a" }
		for _, kind := range []string{"info", "attrs", "memberattrs", "blocked"} {
			w.must(w.rdb.HSet(w.ctx(), key(kind), "ben", "1").Err())
		}
		for _, kind := range []string{"members", "left"} {
			w.must(w.rdb.ZAdd(w.ctx(), key(kind), redis.Z{Score: 7, Member: "ben"}).Err())
		}
		w.must(w.rdb.HDel(w.ctx(), key("info"), "ben").Err())
		w.must(w.rdb.RPush(w.ctx(), key("log"), "x").Err())
		e := w.enter(ana(w), "a")
		if e.Count != 1 || len(e.Attributes) != 0 || !e.Created {
			t.Errorf("got %+v", e)
		}
		for _, key := range w.keys() {
			for _, kind := range []string{"attrs", "memberattrs", "blocked", "left", "log"} {
				if key == w.part("a")+kind+":a" {
					t.Errorf("%s is left", kind)
				}
			}
		}
	})
}

// A refusal is not kept under its key: it is decided anew.
func TestStore_Enter_refusedAgain(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		who := ana(w)
		r := roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "a", RequestKey: "7"}
		_, err := w.try(who, r)
		w.refused(err, roomstore.ErrNoRoom)
		w.enter(ben(w), "a")
		e, err := w.try(who, r)
		w.must(err)
		if e.Again || e.Already {
			t.Errorf("got %+v, want an entry", e)
		}
	})
}

// The newest outcomes of a session are kept, and not without end. How many there
// are is looked at once in eight calls or so: that it is not in 150 happens once
// in 500 million times.
func TestStore_Enter_outcomesKept(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		who := ana(w)
		w.enter(who, "a")
		sent := map[int]roomstore.Sent{}
		const last = 500
		for key := 1; key <= last; key++ {
			s, err := w.store.Send(w.ctx(), who, roomstore.Message{
				Room: "a", RequestKey: roomstore.RequestKey(strconv.Itoa(key)), ID: "m", Payload: "x",
			})
			w.must(err)
			sent[key] = s
		}
		did := w.part("a") + "did:a1"
		if n := w.rdb.HLen(w.ctx(), did).Val(); n < 64 || n > 2*64+150 {
			t.Errorf("kept %d outcomes, want 64 to about 128", n)
		}
		if ttl := w.rdb.TTL(w.ctx(), did).Val(); ttl < 10*time.Minute || ttl > 13*time.Minute {
			t.Errorf("kept for %v", ttl)
		}
		for key := last - 63; key <= last; key++ {
			s, err := w.store.Send(w.ctx(), who, roomstore.Message{
				Room: "a", RequestKey: roomstore.RequestKey(strconv.Itoa(key)), ID: "other", Payload: "x",
			})
			w.must(err)
			if s != sent[key] {
				t.Errorf("under key %d again got %+v, want %+v", key, s, sent[key])
			}
		}
	})
}

// What a session did, and what a room keeps, expires a TTL after the newest, though
// the expiry is not set anew each time.
func TestStore_Send_expiry(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ana", "a")(w)
		room, did, log := w.part("a")+"room:a", w.part("a")+"did:a1", w.part("a")+"log:a"
		key := 0
		expires := func(what string, outcomes, history time.Duration) {
			t.Helper()
			key++
			_, err := w.store.Send(w.ctx(), w.s("a1"), roomstore.Message{
				Room: "a", RequestKey: roomstore.RequestKey(strconv.Itoa(key)), ID: "m", Payload: "x",
			})
			w.must(err)
			for key, want := range map[string]time.Duration{did: outcomes, log: history} {
				if got := w.rdb.TTL(w.ctx(), key).Val(); got > want || got < want-10*time.Second {
					t.Errorf("%s: %s expires in %v, want %v", what, key, got, want)
				}
			}
			w.must(w.rdb.Expire(w.ctx(), did, time.Minute).Err())
			w.must(w.rdb.Expire(w.ctx(), log, time.Minute).Err())
		}
		ago := func(d time.Duration) {
			w.must(w.rdb.HSet(w.ctx(), did, "at", w.now().Add(-d).UnixMilli()).Err())
			w.must(w.rdb.HSet(w.ctx(), room, "order", w.now().Add(-d).UnixMicro()).Err())
			w.order = map[int64]int64{}
		}
		const outcomes, history = 750 * time.Second, 150 * time.Second
		expires("the first", outcomes, history)
		ago(31 * time.Second)
		expires("after a quarter of one TTL", time.Minute, history)
		ago(151 * time.Second)
		expires("after a quarter of both", outcomes, history)
		w.must(w.rdb.Unlink(w.ctx(), did, log).Err())
		expires("anew", outcomes, history)
		ago(-time.Second)
		w.must(w.rdb.HDel(w.ctx(), room, "order").Err())
		expires("when the clock was set back", outcomes, history)
		w.forget()
	})
}

// Rooms whose IDs look like keys of each other have nothing in common.
func TestStore_Enter_oddIDs(t *testing.T) {
	contract(t, roomstore.Config{MaxRoomsPerUser: 50}, func(w *world) {
		ids := []roomstore.RoomID{"a", "a:members", "a:log", "members:a", "}", "{", "{0}", "{0}:", "room:a", "a ", " a", "*", "r:a", "s:a1", "%z", "^", "a\u007c"}
		seen := map[roomstore.RoomID]int64{}
		users := []roomstore.UserID{"ana", "s:a1", "}", "{u0}:", "a b"}
		for _, id := range ids {
			for i, user := range users {
				session := roomstore.SessionID("s" + strconv.Itoa(i))
				who, ok := w.sessions[session]
				if !ok {
					who = w.login(user, session)
				}
				e, err := w.try(who, roomstore.EntryRequest{Room: id, Name: string(id)})
				w.must(err)
				if e.Count != int64(i+1) || e.Created != (i == 0) || e.Name != string(id) {
					t.Fatalf("%s into %q: %+v", user, id, e)
				}
				seen[id] = e.Epoch
			}
		}
		at, err := w.store.Positions(w.ctx(), ids)
		w.must(err)
		for id, p := range at {
			if want := (roomstore.Position{Epoch: seen[id], Seq: int64(len(users))}); p != want {
				t.Errorf("%q is at %v, want %v", id, p, want)
			}
		}
		// Ending every other one leaves the rest alone.
		for i, id := range ids {
			if i%2 == 0 {
				w.must(w.store.Destroy(w.ctx(), id))
			}
		}
		for i, id := range ids {
			if got := w.state(id); (got == "none") != (i%2 == 0) {
				t.Errorf("%q: %s", id, got)
			}
		}
		w.check()
		for i := range users {
			left, err := w.store.LeaveAll(w.ctx(), w.s(roomstore.SessionID("s"+strconv.Itoa(i))), "", true)
			w.must(err)
			if len(left) != len(ids)/2 {
				t.Errorf("left %d rooms, want %d", len(left), len(ids)/2)
			}
		}
		w.nothingLeft()
	})
}

// Data that would break the joined values is refused before Redis is asked.
func TestStore_Enter_opaque(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		_, err := w.try(ana(w), roomstore.EntryRequest{Room: "a", Data: "x\x00y"})
		if err == nil || !roomstore.Refused(err) {
			t.Errorf("got %v, want a refusal", err)
		}
		err = w.store.Kick(w.ctx(), "a", "ana", "x\x00y")
		if err == nil || errors.Is(err, roomstore.ErrNoRoom) {
			t.Errorf("got %v, want a refusal of the data", err)
		}
	})
}

// An emptied room may lose its name and attributes; who enters then names it.
func TestStore_Enter_dropEmptiedData(t *testing.T) {
	for _, tt := range []struct {
		drop  bool
		mode  roomstore.Mode
		name  string
		attrs map[string]string
	}{
		{true, roomstore.ModeEnter, "B", nil},
		{true, roomstore.ModeJoin, "", nil},
		{false, roomstore.ModeEnter, "A", map[string]string{"k": "v"}},
		{false, roomstore.ModeJoin, "A", map[string]string{"k": "v"}},
	} {
		t.Run(string(tt.mode)+strconv.FormatBool(tt.drop), func(t *testing.T) {
			contract(t, roomstore.Config{DropEmptiedData: tt.drop}, func(w *world) {
				who := ana(w)
				_, err := w.try(who, roomstore.EntryRequest{Room: "a", Name: "A", Delay: 60, Attributes: map[string]string{"k": "v"}})
				w.must(err)
				w.leave(who, "a")
				e, err := w.try(ben(w), roomstore.EntryRequest{Room: "a", Mode: tt.mode, Name: "B", Delay: 1, Attributes: map[string]string{"x": "y"}})
				w.must(err)
				if e.Name != tt.name || !maps.Equal(valuesOf(e.Attributes), tt.attrs) || e.Delay != 60 || e.Created {
					t.Errorf("got %+v, want name %q and attributes %v", e, tt.name, tt.attrs)
				}
				// And it stays so for the next.
				if e := w.enter(eve(w), "a"); e.Name != tt.name {
					t.Errorf("then it is named %q, want %q", e.Name, tt.name)
				}
			})
		})
	}
}

// One that never had a name has not lost it: who enters does not name it.
func TestStore_Enter_dropEmptiedData_nameless(t *testing.T) {
	contract(t, roomstore.Config{DropEmptiedData: true}, func(w *world) {
		_, _, err := w.store.Create(w.ctx(), roomstore.NewRoom{ID: "a", Delay: 60})
		w.must(err)
		for i, name := range []string{"", "B", "B"} {
			who := []func(*world) roomstore.Session{ana, ben, eve}[i](w)
			e, err := w.try(who, roomstore.EntryRequest{Room: "a", Mode: roomstore.ModeEnter, Name: []string{"A", "B", "C"}[i]})
			w.must(err)
			if e.Name != name {
				t.Errorf("entry %d: it is named %q, want %q", i, e.Name, name)
			}
			if i == 0 {
				w.leave(who, "a")
			}
		}
	})
}

// Names and attributes may be any bytes.
func TestStore_Enter_anyBytes(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		odd := map[string]string{"": "", "\x00": "\xff\x00", "1": "1e400", "é": "\n"}
		e, err := w.try(ana(w), roomstore.EntryRequest{Room: "a", Name: "\x00 \xff%z", Attributes: odd, Data: "d\xff%"})
		w.must(err)
		got := valuesOf(e.Attributes)
		if !maps.Equal(got, odd) || e.Name != "\x00 \xff%z" {
			t.Errorf("got %q %q, want %q", e.Name, got, odd)
		}
		page, err := w.store.Members(w.ctx(), w.s("a1"), "a", "", 10)
		w.must(err)
		if !slices.Equal(page.Members, []string{"d\xff%"}) {
			t.Errorf("data is %q", page.Members)
		}
		_, back := w.resume("n2", w.s("a1"), "a")
		if len(back) != 1 || back[0].Name != "\x00 \xff%z" {
			t.Errorf("resumed as %+v", back)
		}
	})
}

// Who is in as many rooms as allowed is told first what else there is to say: what an
// earlier call came to, and that a room exists, or does not.
func TestStore_Enter_atLimit(t *testing.T) {
	contract(t, roomstore.Config{MaxRoomsPerUser: 2}, func(w *world) {
		inRoom("ben", "d")(w)
		who := ana(w)
		first := roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "a", RequestKey: "1"}
		was, err := w.try(who, first)
		w.must(err)
		w.leave(who, "a")
		w.enter(who, "b", "c")
		w.forget()
		again, err := w.try(who, first)
		w.must(err)
		if !again.Again || again.Position != was.Position {
			t.Errorf("got %+v, want again %+v", again, was)
		}
		for _, tt := range []struct {
			roomstore.EntryRequest
			want error
		}{
			{roomstore.EntryRequest{Mode: roomstore.ModeCreate, Room: "d"}, roomstore.ErrExists},
			{roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "e"}, roomstore.ErrNoRoom},
			{roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "d"}, roomstore.ErrUserLimit},
			{roomstore.EntryRequest{Mode: roomstore.ModeCreate, Room: "e"}, roomstore.ErrUserLimit},
			{roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "a"}, roomstore.ErrUserLimit},
		} {
			_, err := w.try(who, tt.EntryRequest)
			w.refused(err, tt.want)
		}
		w.heard()
	})
}
