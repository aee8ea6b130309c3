package roomstore_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// older keeps a session as "old" and lets its later generation have it.
func older(id roomstore.SessionID) func(w *world) {
	return func(w *world) {
		w.sessions["old"] = w.s(id)
		w.resume("n2", w.s(id))
	}
}

func parked(id roomstore.SessionID) func(w *world) {
	return func(w *world) { w.park(w.s(id), time.Minute) }
}

func leaveAs(id roomstore.SessionID, room roomstore.RoomID) func(w *world) (string, error) {
	return func(w *world) (string, error) {
		at, err := w.store.Leave(w.ctx(), w.s(id), room, "")
		w.hear()
		return w.at(at), err
	}
}

// What a departure comes to in every situation (rows 21 to 23).
func TestStore_Leave(t *testing.T) {
	run(t, []row{
		{
			name: "in it", given: given(inRoom("ana", "a"), inRoom("ben", "a")),
			do: leaveAs("a1", "a"), want: "#1:3", state: states{"a": "#1:3 ben/b1@2 n1"},
			heard: []string{"a#1:3 left ana/a1 n=1"},
		},
		{
			name: "the last one, no delay", given: inRoom("ana", "a"),
			do: func(w *world) (string, error) {
				text, err := leaveAs("a1", "a")(w)
				// The session is all there is.
				_, err2 := w.store.LeaveAll(w.ctx(), w.s("a1"), "", true)
				w.must(err2)
				w.nothingLeft()
				return text, err
			},
			want: "#1:2", state: states{"a": "none"},
			heard: []string{"a#1:2 left ana/a1 n=0", "a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
		{
			name: "the last one, with delay", given: func(w *world) { w.create(ana(w), "a", 100) },
			do: leaveAs("a1", "a"), want: "#1:2", state: states{"a": "#1:2 empty"},
			heard: []string{"a#1:2 left ana/a1 n=0"},
		},
		{
			name: "not in it", given: given(inRoom("ana", "a"), loggedIn("ben")),
			do: leaveAs("b1", "a"), err: roomstore.ErrNotMember, state: states{"a": "#1:1 ana/a1@1 n1"},
		},
		{
			name:  "another device is in it",
			given: given(inRoom("ana", "a"), func(w *world) { w.login("ana", "a2") }),
			do:    leaveAs("a2", "a"), err: roomstore.ErrNotMember,
		},
		{name: "no such room", given: loggedIn("ana"), do: leaveAs("a1", "a"), err: roomstore.ErrNoRoom},
		{
			name: "past its deadline", given: given(emptied("a", 9), func(w *world) { w.expire("a") }), drops: true,
			do: leaveAs("a1", "a"), err: roomstore.ErrNoRoom, state: states{"a": "none"},
			heard: []string{"a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
		{
			name: "older generation", given: given(inRoom("ana", "a"), older("a1")),
			do: leaveAs("old", "a"), err: roomstore.ErrFenced, state: states{"a": "#1:1 ana/a1@1 n2"},
		},
		{
			name: "parked", given: given(inRoom("ana", "a"), parked("a1")),
			do: leaveAs("a1", "a"), err: roomstore.ErrFenced, state: states{"a": "#1:1 ana/a1@1 parked"},
		},
	})
}

// A leave that is repeated under its key has its first outcome and is no
// second event, in the same room, a later membership of it, or none.
func TestStore_Leave_again(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.enter(ben(w), "a")
		who := ana(w)
		w.enter(who, "a")
		first, err := w.store.Leave(w.ctx(), who, "a", "5")
		w.must(err)
		again := func() {
			t.Helper()
			w.forget()
			got, err := w.store.Leave(w.ctx(), who, "a", "5")
			w.must(err)
			if got != first {
				t.Errorf("got %v, want %v", got, first)
			}
			w.heard()
		}
		again()
		w.enter(who, "a")
		again()
		if got, want := w.state("a"), "#1:4 ben/b1@1 n1 ana/a1@4 n1"; got != want {
			t.Errorf("stored %s, want %s", got, want)
		}
		w.must(w.store.Destroy(w.ctx(), "a"))
		again()
	})
}

// Of those who left only the newest are kept, and no longer than for a while:
// both are looked at when it is time to, which a leave may find to be now.
func TestStore_Leave_kept(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ana", "a")(w)
		key, room := w.part("a")+"left:a", w.part("a")+"room:a"
		b := ben(w)
		crowd := func() {
			var old []redis.Z
			for i := range 1100 {
				old = append(old, redis.Z{Score: float64(i) / 10_000, Member: strconv.Itoa(i)})
			}
			w.must(w.rdb.ZAdd(w.ctx(), key, old...).Err())
		}
		leaves := func(what string, least, most int64, ttl time.Duration) {
			t.Helper()
			w.enter(b, "a")
			w.leave(b, "a")
			kept := w.rdb.ZRange(w.ctx(), key, 0, -1).Val()
			if n := int64(len(kept)); n < least || n > most || !strings.HasPrefix(kept[n-1], "ben\x00") {
				t.Errorf("%s: %d are kept, want %d to %d", what, n, least, most)
			}
			if got := w.rdb.TTL(w.ctx(), key).Val(); got > ttl || got < ttl-10*time.Second {
				t.Errorf("%s: they are kept for %v, want %v", what, got, ttl)
			}
		}
		const long, short = 150 * time.Second, time.Minute
		crowd()
		leaves("the first", 1024, 1024, long)
		w.must(w.rdb.Expire(w.ctx(), key, short).Err())
		for i := range 31 { // two events each
			leaves("the next, "+strconv.Itoa(i), 1024, 1025+int64(i), short)
		}
		leaves("one that comes after 64 events", 1024, 1024, long)
		w.must(w.rdb.Expire(w.ctx(), key, short).Err())
		w.must(w.rdb.HIncrBy(w.ctx(), room, "leftat", -31_000).Err())
		crowd()
		leaves("one that comes after a quarter of the time", 1024, 1024, long)
		w.must(w.rdb.Expire(w.ctx(), key, short).Err())
		w.must(w.rdb.HIncrBy(w.ctx(), room, "leftat", 5_000).Err())
		leaves("one that comes when the clock was set back", 1024, 1024, long)
		w.forget()
	})
}

// leaveAll takes a session out of its rooms, and no other (row 24).
func TestStore_LeaveAll(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.enter(ben(w), "a", "b")
		who := ana(w)
		w.enter(who, "a", "b", "c", "d")
		w.enter(w.login("ana", "a2"), "e")
		w.must(w.store.Destroy(w.ctx(), "d"))
		w.forget()

		for range 3 { // the second and third are repeats
			left, err := w.store.LeaveAll(w.ctx(), who, "4", false)
			w.must(err)
			w.hear()
			got := map[roomstore.RoomID]string{}
			for _, d := range left {
				got[d.Room] = w.at(d.Position)
			}
			want := states{"a": "#1:3", "b": "#1:3", "c": "#1:2"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("left (-want +got):\n%s", diff)
			}
		}
		if got := len(w.said); got != 5 { // three departures, and the end of c
			t.Errorf("published %q", w.said)
		}
		stored := states{"a": "#1:3 ben/b1@1 n1", "b": "#1:3 ben/b1@1 n1", "c": "none", "e": "#1:1 ana/a2@1 n1"}
		for room, want := range stored {
			if got := w.state(room); got != want {
				t.Errorf("%s: stored %s, want %s", room, got, want)
			}
		}
		// The session goes on.
		w.enter(who, "a")
		w.forget()
		left, err := w.store.LeaveAll(w.ctx(), who, "", true)
		w.must(err)
		if len(left) != 1 || left[0].Room != "a" {
			t.Errorf("left %v, want a", left)
		}
		w.heard("a#1:5 left ana/a1 n=1")
		_, err = w.store.LeaveAll(w.ctx(), who, "", true)
		w.refused(err, roomstore.ErrFenced)
	})
}

// A session in no room leaves none, as often as it asks.
func TestStore_LeaveAll_none(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		who := ana(w)
		for range 2 {
			left, err := w.store.LeaveAll(w.ctx(), who, "4", false)
			w.must(err)
			if len(left) != 0 {
				t.Errorf("left %v", left)
			}
		}
	})
}

// An older generation can neither leave nor end a session, and an ended one is
// gone from all indexes.
func TestStore_LeaveAll_fenced(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ana", "a", "b")(w)
		older("a1")(w)
		before := w.dump()
		for _, end := range []bool{false, true} {
			_, err := w.store.LeaveAll(w.ctx(), w.s("old"), "", end)
			w.refused(err, roomstore.ErrFenced)
		}
		w.unchanged(before)
		_, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "", true)
		w.must(err)
		w.nothingLeft()
	})
}

// A session that is logged out while it is parked is gone from all indexes, too.
func TestStore_LeaveAll_parked(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ana", "a", "b")(w)
		parked("a1")(w)
		_, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "", true)
		w.must(err)
		w.nothingLeft()
	})
}

// A backend's word: a user goes, in whatever state (row 30); the rest stay.
func TestStore_Kick(t *testing.T) {
	kick := func(user roomstore.UserID) func(w *world) (string, error) {
		return func(w *world) (string, error) { return "", w.store.Kick(w.ctx(), "a", user, `{"room_id":"a"}`) }
	}
	run(t, []row{
		{
			name: "in it", given: given(inRoom("ana", "a"), inRoom("ben", "a")), do: kick("ana"),
			state: states{"a": "#1:3 ben/b1@2 n1"}, heard: []string{`a#1:3 kicked ana/a1 n=1 "{\"room_id\":\"a\"}"`},
		},
		{
			name: "parked", given: given(inRoom("ana", "a"), inRoom("ben", "a"), parked("a1")), do: kick("ana"),
			state: states{"a": "#1:3 ben/b1@2 n1"}, heard: []string{`a#1:3 kicked ana/a1 n=1 "{\"room_id\":\"a\"}"`},
		},
		{
			name: "the last one", given: inRoom("ana", "a"), do: kick("ana"), state: states{"a": "none"},
			heard: []string{`a#1:2 kicked ana/a1 n=0 "{\"room_id\":\"a\"}"`, "a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
		{
			name: "the last one, with delay", given: func(w *world) { w.create(ana(w), "a", 5) }, do: kick("ana"),
			state: states{"a": "#1:2 empty"}, heard: []string{`a#1:2 kicked ana/a1 n=0 "{\"room_id\":\"a\"}"`},
		},
		{name: "not in it", given: inRoom("ana", "a"), do: kick("ben"), err: roomstore.ErrNotMember},
		{name: "no such room", do: kick("ben"), err: roomstore.ErrNoRoom},
		{
			name: "past its deadline", given: given(emptied("a", 9), func(w *world) { w.expire("a") }), drops: true,
			do: kick("ana"), err: roomstore.ErrNoRoom, heard: []string{"a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
		{
			name: "and enters again", given: given(inRoom("ana", "a"), inRoom("ben", "a")),
			do: func(w *world) (string, error) {
				_, err := kick("ana")(w)
				w.must(err)
				return enterAs("a1", roomstore.ModeJoin, "a")(w)
			},
			want: `#1:4 n=2 entered=4 delay=0 ""`, state: states{"a": "#1:4 ben/b1@2 n1 ana/a1@4 n1"},
			heard: []string{`a#1:3 kicked ana/a1 n=1 "{\"room_id\":\"a\"}"`, "a#1:4 joined ana/a1 n=2"},
		},
	})
}

// A backend's word ends a room for all, and nothing of it is left (row 29).
func TestStore_Destroy(t *testing.T) {
	destroy := func(w *world) (string, error) { return "", w.store.Destroy(w.ctx(), "a") }
	ended := []string{"a#1:3 ended destroyed", "destroyed a#1 destroyed"}
	run(t, []row{
		{
			name: "members in it", given: given(inRoom("ana", "a"), inRoom("ben", "a")), do: destroy,
			state: states{"a": "none"}, heard: ended,
		},
		{name: "empty, within its delay", given: emptied("a", 100), do: destroy, state: states{"a": "none"}, heard: ended},
		{
			name: "empty, past its deadline", given: given(emptied("a", 100), func(w *world) { w.expire("a") }), drops: true,
			do: destroy, err: roomstore.ErrNoRoom, state: states{"a": "none"},
			heard: []string{"a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
		{name: "no such room", do: destroy, err: roomstore.ErrNoRoom},
		{
			name: "twice", given: given(inRoom("ana", "a"), func(w *world) { w.must(w.store.Destroy(w.ctx(), "a")) }),
			do: destroy, err: roomstore.ErrNoRoom,
		},
	})
}

// However a session ends, nothing is left of a room that a backend ended while
// the session was in it: whoever meets what names it drops it.
func TestStore_Destroy_leavesNothing(t *testing.T) {
	n1 := func(w *world, end int64) { w.sweep("n2", roomstore.Lapse{Node: "n1", End: end}) }
	for _, tt := range []struct {
		name string
		end  func(w *world)
	}{
		{"logout", func(w *world) {
			_, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "", true)
			w.must(err)
		}},
		{"resume and logout", func(w *world) {
			w.resume("n2", w.s("a1"))
			_, err := w.store.LeaveAll(w.ctx(), w.s("a1"), "", true)
			w.must(err)
		}},
		{"park and deadline", func(w *world) {
			w.park(w.s("a1"), time.Second)
			w.pass(time.Minute)
			w.sweep("n1")
		}},
		{"replaced, and deadlines", func(w *world) {
			w.loginOn("n1", "ana", "a2", "phone")
			w.park(w.s("a2"), time.Second)
			w.pass(2 * time.Minute)
			w.sweep("n1")
		}},
		{"death of the node, and deadline", func(w *world) {
			w.pass(time.Minute)
			end := int64(w.rdb.ZScore(w.ctx(), w.prefix+":nodes", "n1").Val())
			n1(w, end)
			w.pass(2 * time.Minute)
			w.sweep("n2")
			n1(w, end)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			contract(t, roomstore.Config{}, func(w *world) {
				w.lease("n1")
				who := w.loginOn("n1", "ana", "a1", "phone")
				w.enter(who, "a", "b")
				_, err := w.store.Send(w.ctx(), who, roomstore.Message{Room: "a", RequestKey: "1", ID: "m", Payload: "x"})
				w.must(err)
				w.must(w.store.Destroy(w.ctx(), "a"))
				w.must(w.store.Destroy(w.ctx(), "b"))
				tt.end(w)
				w.nothingLeft()
			})
		})
	}
	t.Run("parked before", func(t *testing.T) {
		contract(t, roomstore.Config{}, func(w *world) {
			w.enter(ana(w), "a", "b")
			w.park(w.s("a1"), time.Second)
			w.must(w.store.Destroy(w.ctx(), "a"))
			w.must(w.store.Destroy(w.ctx(), "b"))
			w.pass(time.Minute)
			w.sweep("n1")
			w.nothingLeft()
		})
	})
}

// The end of a room costs Redis as few commands with many members as with one,
// and their memory is freed in the background.
func TestStore_Destroy_constant(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	w := newWorldOn(t, srv.Client(t), nil, roomstore.Config{MaxMembers: 1000})
	w.enter(ana(w), "a", "b")
	w.crowd(300, "a")
	destroy := func(room roomstore.RoomID) map[string]string {
		t.Helper()
		w.hear()
		w.must(w.rdb.ConfigResetStat(w.ctx()).Err())
		w.must(w.store.Destroy(w.ctx(), room))
		info, err := w.rdb.Info(w.ctx(), "commandstats").Result()
		w.must(err)
		calls := map[string]string{}
		for line := range strings.Lines(info) {
			name, rest, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "cmdstat_"), ":calls=")
			if count, _, _ := strings.Cut(rest, ","); ok {
				calls[name] = count
			}
		}
		return calls
	}
	many, one := destroy("a"), destroy("b")
	if diff := cmp.Diff(one, many); diff != "" {
		t.Errorf("commands (-one member +many):\n%s", diff)
	}
	if one["unlink"] != "1" || one["del"] != "" {
		t.Errorf("commands: %v", one)
	}
}
