package roomstore_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/roomstore"
)

// sessions lists a user's sessions as they are stored: "a1 n1", or "a1 parked".
func (w *world) sessionsOf(user roomstore.UserID) (all []string) {
	w.Helper()
	h, err := w.rdb.HGetAll(w.ctx(), w.user(user)).Result()
	w.must(err)
	for field, value := range h {
		if id, ok := strings.CutPrefix(field, "s:"); ok {
			node := strings.SplitN(value, "\x00", 3)[1]
			if node == "" {
				node = "parked"
			}
			all = append(all, id+" "+node)
		}
	}
	slices.Sort(all)
	return all
}

// give up makes others believe that a node is dead.
func (w *world) giveUp(node string) {
	w.Helper()
	for _, slot := range w.slots() {
		w.must(w.rdb.ZAdd(w.ctx(), slot+"dead", redis.Z{Score: 1, Member: node}).Err())
	}
}

// Who is sent away at a login, in which order, and what becomes of the places.
func TestStore_Login(t *testing.T) {
	for _, tt := range []struct {
		name     string
		devices  int
		given    func(w *world)
		device   string
		sessions []string
		state    states
		heard    []string
	}{
		{
			name: "the first", sessions: []string{"new n1"},
		},
		{
			name: "another device", given: inRoom("ana", "a"), device: "phone",
			sessions: []string{"a1 n1", "new n1"}, state: states{"a": "#1:1 ana/a1@1 n1"},
		},
		{
			name: "without device none is replaced", given: loggedIn("ana"),
			sessions: []string{"a1 n1", "new n1"},
		},
		{
			name: "the same device: replaced, its places are parked", device: "phone",
			given: func(w *world) {
				w.enter(w.loginOn("n2", "ana", "a1", "phone"), "a", "b")
				w.enter(w.loginOn("n3", "ana", "a2", "laptop"), "c")
			},
			sessions: []string{"a2 n3", "new n1"},
			state:    states{"a": "#1:1 ana/a1@1 parked", "b": "#1:1 ana/a1@1 parked", "c": "#1:1 ana/a2@1 n3"},
			heard:    []string{"order n2 4510 a1"},
		},
		{
			name: "the same device, parked", device: "phone",
			given: func(w *world) {
				w.enter(w.loginOn("n2", "ana", "a1", "phone"), "a")
				w.park(w.s("a1"), time.Minute)
			},
			sessions: []string{"new n1"}, state: states{"a": "#1:1 ana/a1@1 parked"},
		},
		{
			name: "the same device of another user", device: "phone",
			given:    func(w *world) { w.enter(w.loginOn("n2", "ben", "b1", "phone"), "a") },
			sessions: []string{"new n1"}, state: states{"a": "#1:1 ben/b1@1 n2"},
		},
		{
			name: "surplus: the earliest login goes, its rooms are left", devices: 2,
			given: func(w *world) {
				inRoom("ben", "a")(w)
				w.enter(w.loginOn("n2", "ana", "a2", ""), "a", "b")
				w.logins("ana", "a2")
				w.enter(w.loginOn("n3", "ana", "a1", ""), "c")
			},
			sessions: []string{"a1 n3", "new n1"},
			state:    states{"a": "#1:3 ben/b1@1 n1", "b": "none", "c": "#1:1 ana/a1@1 n3"},
			heard: []string{
				"a#1:3 kicked ana/a2 n=1", "b#1:2 kicked ana/a2 n=0", "b#1:3 ended emptied",
				"destroyed b#1 emptied", "order n2 4509 a2",
			},
		},
		{
			name: "surplus: a parked one goes before the earliest login", devices: 2,
			given: func(w *world) {
				w.login("ana", "a1")
				w.logins("ana", "a1")
				w.enter(w.login("ana", "a2"), "a")
				w.park(w.s("a2"), time.Minute)
			},
			sessions: []string{"a1 n1", "new n1"}, state: states{"a": "none"},
			heard: []string{"a#1:2 kicked ana/a2 n=0", "a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
		{
			name: "surplus: of the parked ones the oldest", devices: 3,
			given: func(w *world) {
				w.login("ana", "a1")
				w.login("ana", "a2")
				w.login("ana", "a3")
				w.logins("ana", "a3", "a1", "a2")
				w.park(w.s("a1"), 20*time.Second)
				w.park(w.s("a2"), 10*time.Second)
				w.park(w.s("a3"), 30*time.Second)
			},
			sessions: []string{"a1 parked", "a3 parked", "new n1"},
		},
		{
			name: "one device only", devices: 1, given: given(inRoom("ana", "a"), func(w *world) { w.login("ana", "a2") }),
			sessions: []string{"new n1"}, state: states{"a": "none"}, heard: []string{"order n1 4509 a2"},
		},
		{
			name: "a session past its deadline does not count", devices: 2,
			given: func(w *world) {
				w.login("ana", "a1")
				w.login("ana", "a2")
				w.park(w.s("a2"), time.Second)
				w.pass(time.Minute)
			},
			sessions: []string{"a1 n1", "a2 parked", "new n1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			contract(t, roomstore.Config{MaxDevices: tt.devices}, func(w *world) {
				if tt.given != nil {
					tt.given(w)
				}
				w.forget()
				before := w.now().UnixMilli()
				who := w.loginOn("n1", "ana", "new", tt.device)
				if who.Generation < before || who.Node != "n1" || who.ID != "new" || who.User != "ana" {
					t.Errorf("got %+v", who)
				}
				w.hear()
				slices.Sort(w.said[:max(0, len(w.said)-3)]) // which room is left first is open
				if tt.heard != nil {
					w.hearSorted(tt.heard)
				} else {
					w.heard()
				}
				if got := w.sessionsOf("ana"); !slices.Equal(got, tt.sessions) {
					t.Errorf("sessions %q, want %q", got, tt.sessions)
				}
				for room, want := range tt.state {
					if got := w.state(room); got != want {
						t.Errorf("%s: stored %s, want %s", room, got, want)
					}
				}
				for _, s := range tt.sessions {
					if id, _, _ := strings.Cut(s, " "); id != "new" {
						_, _, ok, err := w.store.Resume(w.ctx(), "n1", "ana", roomstore.SessionID(id), nil)
						w.must(err)
						if past := strings.Contains(tt.name, "past its deadline") && id == "a2"; ok == past {
							t.Errorf("session %s goes on: %t", id, ok)
						}
					}
				}
			})
		})
	}
}

// logins makes these logins follow each other by a second, the newest a while ago.
func (w *world) logins(user roomstore.UserID, ids ...roomstore.SessionID) {
	w.Helper()
	for i, id := range ids {
		f := strings.SplitN(w.rdb.HGet(w.ctx(), w.user(user), "s:"+string(id)).Val(), "\x00", 5)
		f[3] = strconv.FormatInt(w.now().UnixMicro()-3600_000_000+int64(i)*1000_000, 10)
		w.must(w.rdb.HSet(w.ctx(), w.user(user), "s:"+string(id), strings.Join(f, "\x00")).Err())
	}
}

// hearSorted is heard, for what may come in any order.
func (w *world) hearSorted(want []string) {
	w.Helper()
	w.hear()
	got := slices.Clone(w.said)
	w.said = nil
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if diff := cmp.Diff(want, got); diff != "" {
		w.Fatalf("published (-want +got):\n%s", diff)
	}
}

// The place of a replaced session is taken over in silence by the session that
// replaced it, and nobody sees the user go.
func TestStore_Login_takesOver(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ben", "a")(w)
		w.enter(w.loginOn("n1", "ana", "a1", "phone"), "a")
		now := w.loginOn("n1", "ana", "a2", "phone")
		w.forget()
		w.enter(now, "a")
		w.heard("a#1:3 moved ana/a2 n=2 from a1")
		w.pass(time.Hour)
		w.sweep("n1")
		w.heard()
	})
}

// If it is not taken over it lasts a session TTL, and then the sweep evicts.
func TestStore_Login_replacedIsEvicted(t *testing.T) {
	contract(t, roomstore.Config{SessionTTL: 20 * time.Second}, func(w *world) {
		inRoom("ben", "a")(w)
		w.enter(w.loginOn("n1", "ana", "a1", "phone"), "a")
		w.loginOn("n1", "ana", "a2", "phone")
		w.forget()
		w.pass(15 * time.Second)
		w.sweep("n1")
		w.heard()
		w.pass(6 * time.Second)
		w.sweep("n1")
		w.heard("a#1:3 timeout ana/a1 n=1")
		if got := w.sessionsOf("ana"); !slices.Equal(got, []string{"a2 n1"}) {
			t.Errorf("sessions %q", got)
		}
	})
}

// A room of a replaced session that ends before the session's time is over is
// dropped from the user's list when it is; nothing is left.
func TestStore_Login_replacedIsForgotten(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		for _, parked := range []bool{false, true} {
			first, second := roomstore.SessionID(fmt.Sprint("first-", parked)), roomstore.SessionID(fmt.Sprint("second-", parked))
			w.enter(w.loginOn("n1", "ana", first, "phone"), "a", "b")
			if parked {
				w.park(w.s(first), time.Minute)
			}
			now := w.loginOn("n1", "ana", second, "phone")
			w.must(w.store.Destroy(w.ctx(), "a"))
			_, err := w.store.LeaveAll(w.ctx(), now, "", true)
			w.must(err)
			w.sweep("n1")
			got := w.rdb.HKeys(w.ctx(), w.user("ana")).Val()
			got = slices.DeleteFunc(got, func(field string) bool { return strings.HasPrefix(field, "e:") })
			if len(got) != 2 {
				t.Errorf("got %q, want both rooms, until the time is over", got)
			}
			w.pass(2 * time.Minute)
			w.sweep("n1")
			if got := w.rdb.HGetAll(w.ctx(), w.user("ana")).Val(); len(got) != 0 {
				t.Errorf("parked %t: left is %q", parked, got)
			}
			w.forget()
		}
	})
}

// Logins follow each other as they came, however fast; the later has the higher generation.
func TestStore_Login_order(t *testing.T) {
	contract(t, roomstore.Config{MaxDevices: 3}, func(w *world) {
		const n = 60
		// They sort the other way round.
		name := func(i int) roomstore.SessionID { return roomstore.SessionID(fmt.Sprintf("s%02d", n-i)) }
		last := int64(0)
		for i := range n {
			who := w.login("ana", name(i))
			if who.Generation <= last {
				t.Errorf("login %d has generation %d, the one before %d", i, who.Generation, last)
			}
			last = who.Generation
		}
		want := []string{string(name(n-3)) + " n1", string(name(n-2)) + " n1", string(name(n-1)) + " n1"}
		slices.Sort(want)
		if got := w.sessionsOf("ana"); !slices.Equal(got, want) {
			t.Errorf("sessions %q, want %q", got, want)
		}
		w.forget()
	})
}

// A login that is repeated, since its answer was lost, does not replace itself,
// count itself as a device, or tell anyone to close; its generation rises.
func TestStore_Login_again(t *testing.T) {
	for _, device := range []string{"", "phone"} {
		t.Run("device "+device, func(t *testing.T) {
			contract(t, roomstore.Config{MaxDevices: 1}, func(w *world) {
				who := w.loginOn("n1", "ana", "a1", device)
				for range 10 {
					again := w.loginOn("n1", "ana", "a1", device)
					if again.Generation <= who.Generation {
						t.Errorf("generation %d after %d", again.Generation, who.Generation)
					}
					who = again
				}
				w.heard()
				w.enter(who, "a")
				if got := w.sessionsOf("ana"); !slices.Equal(got, []string{"a1 n1"}) {
					t.Errorf("sessions %q", got)
				}
			})
		})
	}
}

// A session that was sent away is not begun again: who takes its word for what Redis
// may have lost is told so.
func TestStore_Login_sentAway(t *testing.T) {
	contract(t, roomstore.Config{MaxDevices: 1}, func(w *world) {
		w.loginOn("n1", "ana", "a1", "phone")
		w.loginOn("n1", "ana", "a2", "phone") // replaces it
		w.loginOn("n1", "ana", "a3", "")      // is one too many
		w.forget()
		before := w.dump()
		for _, id := range []roomstore.SessionID{"a1", "a2"} {
			_, err := w.store.Login(w.ctx(), "n1", "ana", id, "")
			w.refused(err, roomstore.ErrFenced)
		}
		w.unchanged(before)
		w.loginOn("n1", "ana", "a3", "")
	})
}

// A node that was given up begins and resumes nothing.
func TestStore_givenUp(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ana", "a")(w)
		w.lease("n1")
		w.giveUp("n1")
		before := w.dump()
		_, err := w.store.Login(w.ctx(), "n1", "ben", "b1", "")
		w.refused(err, roomstore.ErrFenced)
		_, _, _, err = w.store.Resume(w.ctx(), "n1", "ana", "a1", []roomstore.RoomID{"a"})
		w.refused(err, roomstore.ErrFenced)
		_, err = w.store.Sweep(w.ctx(), "n1", nil)
		w.refused(err, roomstore.ErrFenced)
		for _, begin := range []bool{false, true} {
			_, err = w.store.Lease(w.ctx(), "n1", begin, nil)
			w.refused(err, roomstore.ErrFenced)
		}
		w.unchanged(before)
		w.resume("n2", w.s("a1"))
	})
}

func (w *world) returnText(r roomstore.Return) string {
	text := string(r.Room) + " " + string(r.Reason)
	if r.In {
		text += fmt.Sprintf("in %s entered=%d delay=%d %q", w.at(r.Position), r.Entered, r.Delay, r.Name)
	} else if r.Extended != "" {
		text += " " + r.Extended
	}
	if !r.Named {
		text += " unnamed"
	}
	return text
}

// What a session finds when it comes back.
func TestStore_Resume(t *testing.T) {
	past := func(w *world) { w.pass(2 * time.Minute); w.sweep("n1") }
	for _, tt := range []struct {
		name  string
		given func(w *world) // after ana (a1, parked) and ben are in room a
		named []roomstore.RoomID
		gone  bool // the session does not go on
		want  []string
		heard []string
	}{
		{name: "in time", named: []roomstore.RoomID{"a"}, want: []string{`a in #1:2 entered=1 delay=60 "Room a"`}},
		{name: "room not named", want: []string{`a in #1:2 entered=1 delay=60 "Room a" unnamed`}},
		{
			name: "the room has moved on", named: []roomstore.RoomID{"a"},
			given: func(w *world) { _, err := sendAs("b1", "x")(w); w.must(err) },
			want:  []string{`a in #1:3 entered=1 delay=60 "Room a"`},
		},
		{
			name: "past its deadline, not swept", named: []roomstore.RoomID{"a"}, gone: true,
			given: func(w *world) { w.pass(2 * time.Minute) }, want: []string{"a timeout"},
		},
		{name: "evicted", named: []roomstore.RoomID{"a"}, gone: true, given: past, want: []string{"a timeout"}},
		{
			name: "evicted, and the room has ended", named: []roomstore.RoomID{"a"}, gone: true,
			given: given(past, func(w *world) { w.must(w.store.Destroy(w.ctx(), "a")) }), want: []string{"a timeout"},
		},
		{
			name: "the room has ended", named: []roomstore.RoomID{"a"},
			given: func(w *world) { w.must(w.store.Destroy(w.ctx(), "a")) }, want: []string{"a noroom"},
		},
		{
			name:  "the room has ended, not named",
			given: func(w *world) { w.must(w.store.Destroy(w.ctx(), "a")) }, want: []string{"a noroom unnamed"},
		},
		{
			name: "kicked", named: []roomstore.RoomID{"a"},
			given: func(w *world) { w.must(w.store.Kick(w.ctx(), "a", "ana", `{"reason":"x"}`)) },
			want:  []string{`a kicked {"reason":"x"}`},
		},
		{
			name: "kicked, entered again, and the room has ended", named: []roomstore.RoomID{"a"},
			given: func(w *world) {
				w.must(w.store.Kick(w.ctx(), "a", "ana", ""))
				who, _ := w.resume("n1", w.s("a1"))
				w.enter(who, "a")
				w.park(who, time.Minute)
				w.must(w.store.Destroy(w.ctx(), "a"))
			},
			want: []string{"a noroom"},
		},
		{
			name: "entered from another device", named: []roomstore.RoomID{"a"},
			given: func(w *world) { w.enter(w.login("ana", "a2"), "a") }, want: []string{"a device"},
		},
		{
			name: "entered from another device, which left", named: []roomstore.RoomID{"a"},
			given: func(w *world) { w.enter(w.login("ana", "a2"), "a"); w.leave(w.s("a2"), "a") }, want: []string{"a device"},
		},
		{
			name: "destroyed and created again", named: []roomstore.RoomID{"a"},
			given: func(w *world) { w.must(w.store.Destroy(w.ctx(), "a")); w.enter(w.s("b1"), "a") },
			want:  []string{"a recreated"},
		},
		{
			name: "a room that never was, and one of others", named: []roomstore.RoomID{"x", "b"},
			given: func(w *world) { w.enter(w.s("b1"), "b") },
			want:  []string{`a in #1:2 entered=1 delay=60 "Room a" unnamed`, "b timeout", "x noroom"},
		},
		{
			name: "unknown session", named: []roomstore.RoomID{"a", "x"}, gone: true,
			given: func(w *world) { w.sessions["a1"] = roomstore.Session{User: "ana", ID: "other"} },
			want:  []string{"a device", "x noroom"},
		},
		{
			name: "another user's session", named: []roomstore.RoomID{"a"}, gone: true,
			given: func(w *world) { w.sessions["a1"] = roomstore.Session{User: "ben", ID: "a1"} },
			want:  []string{"a device"},
		},
		{
			name: "surplus device", named: []roomstore.RoomID{"a"}, gone: true,
			given: func(w *world) { w.login("ana", "a2"); w.login("ana", "a3") }, want: []string{"a kicked"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			contract(t, roomstore.Config{MaxDevices: 2}, func(w *world) {
				w.create(ana(w), "a", 60)
				inRoom("ben", "a")(w)
				w.park(w.s("a1"), time.Minute)
				w.hear()
				if tt.given != nil {
					tt.given(w)
				}
				w.forget()
				old := w.s("a1")
				before := w.dump()
				who, rooms, ok, err := w.store.Resume(w.ctx(), "n2", old.User, old.ID, tt.named)
				w.must(err)
				if ok == tt.gone {
					t.Fatalf("goes on: %t", ok)
				}
				var got []string
				for _, r := range rooms {
					got = append(got, w.returnText(r))
				}
				slices.Sort(got)
				want := tt.want
				if w.apart && slices.Equal(want, []string{"a recreated"}) {
					want = []string{"a timeout"} // the reservation has no epoch
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				w.heard()
				if tt.gone {
					w.unchanged(before)
					return
				}
				if who.Generation <= old.Generation || who.Node != "n2" {
					t.Errorf("%+v after %+v", who, old)
				}
				// What it has not lost it has again, for good.
				w.pass(time.Hour)
				w.sweep("n2")
				w.heard()
				if got := slices.Contains(w.sessionsOf("ana"), "a1 n2"); !got {
					t.Errorf("sessions %q", w.sessionsOf("ana"))
				}
			})
		})
	}
	t.Run("had left, and the answer was lost", func(t *testing.T) {
		contract(t, roomstore.Config{}, func(w *world) {
			inRoom("ben", "a")(w)
			w.enter(ana(w), "a")
			w.leave(w.s("a1"), "a")
			_, rooms := w.resume("n2", w.s("a1"), "a")
			if len(rooms) != 1 || w.returnText(rooms[0]) != "a left" {
				t.Errorf("got %+v", rooms)
			}
		})
	})
}

// A replaced session that comes back all the same is told of its places as they
// are: kept for its successor, taken by it, or over.
func TestStore_Resume_replaced(t *testing.T) {
	contract(t, roomstore.Config{SessionTTL: time.Minute}, func(w *world) {
		inRoom("ben", "a", "b", "c", "d")(w)
		w.enter(w.loginOn("n1", "ana", "a1", "phone"), "a", "b", "c", "d")
		w.enter(w.loginOn("n1", "ana", "a2", "phone"), "b")
		w.must(w.store.Kick(w.ctx(), "c", "ana", ""))
		w.must(w.store.Destroy(w.ctx(), "d"))
		told := func(want ...string) {
			w.Helper()
			before := w.dump()
			_, rooms, ok, err := w.store.Resume(w.ctx(), "n2", "ana", "a1", []roomstore.RoomID{"a", "b", "c", "d"})
			w.must(err)
			var got []string
			for _, r := range rooms {
				got = append(got, w.returnText(r))
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" || ok {
				t.Errorf("goes on: %t (-want +got):\n%s", ok, diff)
			}
			w.unchanged(before)
		}
		told("a replaced", "b device", "c kicked", "d noroom")
		w.pass(2 * time.Minute)
		w.sweep("n1")
		told("a timeout", "b device", "c kicked", "d noroom")
		w.forget()
	})
}

// A session that another node takes over is taken from the first: that one is
// told to close the socket, and can neither park, leave, send nor enter.
func TestStore_Resume_fences(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ben", "a")(w)
		old := ana(w)
		w.enter(old, "a")
		w.forget()
		sub := w.rdb.Subscribe(w.ctx(), w.store.NodeTopic("n1", 0))
		defer sub.Close()
		_, err := sub.Receive(w.ctx())
		w.must(err)

		who, rooms := w.resume("n2", old, "a")
		w.heard("order n1 4510 a1")
		msg, err := sub.ReceiveMessage(w.ctx())
		w.must(err)
		o, err := roomstore.DecodeOrder(msg.Payload)
		w.must(err)
		if o.Generation != who.Generation || o.Generation <= old.Generation {
			t.Errorf("order %+v spares generation %d, has to close %d", o, who.Generation, old.Generation)
		}
		if len(rooms) != 1 || !rooms[0].In {
			t.Fatalf("got %+v", rooms)
		}

		before := w.dump()
		w.refused(w.store.Park(w.ctx(), old, 0), roomstore.ErrFenced)
		_, err = w.store.Leave(w.ctx(), old, "a", "")
		w.refused(err, roomstore.ErrFenced)
		_, err = w.store.LeaveAll(w.ctx(), old, "", true)
		w.refused(err, roomstore.ErrFenced)
		_, err = w.store.Send(w.ctx(), old, roomstore.Message{Room: "a", ID: "m", Payload: "x"})
		w.refused(err, roomstore.ErrFenced)
		_, err = w.store.Relay(w.ctx(), old, roomstore.Message{Room: "a", ID: "m", Payload: "x", Priority: 1})
		w.refused(err, roomstore.ErrFenced)
		_, err = w.try(old, roomstore.EntryRequest{Room: "b"})
		w.refused(err, roomstore.ErrFenced)
		_, err = w.try(old, roomstore.EntryRequest{Room: "a"})
		w.refused(err, roomstore.ErrFenced)
		w.unchanged(before)
		w.heard()

		// Also on the same node the generation rises, however fast.
		for range 5 {
			next, _ := w.resume("n2", who)
			if next.Generation <= who.Generation {
				t.Errorf("generation %d after %d", next.Generation, who.Generation)
			}
			who = next
		}
		_, err = w.store.Send(w.ctx(), who, roomstore.Message{Room: "a", ID: "m", Payload: "x"})
		w.must(err)
	})
}

// All rooms of a session move with it, to whatever node, parked or not.
func TestStore_Resume_allRooms(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ana", "a", "b", "c")(w)
		w.hear()
		for i, park := range []bool{true, false, true, false} {
			if park {
				w.park(w.s("a1"), time.Minute)
			}
			node := "n" + strconv.Itoa(i%3)
			_, rooms := w.resume(node, w.s("a1"), "b")
			if len(rooms) != 3 {
				t.Errorf("got %+v", rooms)
			}
			for _, room := range []roomstore.RoomID{"a", "b", "c"} {
				if got, want := w.state(room), "#1:1 ana/a1@1 "+node; got != want {
					t.Errorf("%s: stored %s, want %s", room, got, want)
				}
			}
			w.check()
		}
		// What an earlier parking has left to the sweep is nothing.
		w.pass(time.Hour)
		if done := w.sweep("n1"); done.Evicted != 0 {
			t.Errorf("swept %+v", done)
		}
		w.forget()
	})
}

// A session that is parked keeps its places until its deadline on awake time,
// and is parked once.
func TestStore_Park(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		inRoom("ana", "a", "b")(w)
		w.enter(w.login("ana", "a2"), "c")
		w.pass(time.Hour) // awake time is not Redis's
		w.forget()
		w.park(w.s("a1"), time.Minute)
		w.heard()
		at := w.rdb.ZScore(w.ctx(), w.part("a")+"parked", "a1\x00ana\x00a").Val()
		awake := float64(w.now().Add(time.Hour).UnixMilli())
		if left := at - awake; left < 50_000 || left > 60_000 {
			t.Errorf("parked for %.0f ms", left)
		}
		for room, want := range map[roomstore.RoomID]string{"a": "#1:1 ana/a1@1 parked", "b": "#1:1 ana/a1@1 parked", "c": "#1:1 ana/a2@1 n1"} {
			if got := w.state(room); got != want {
				t.Errorf("%s: stored %s, want %s", room, got, want)
			}
		}
		before := w.dump()
		w.refused(w.store.Park(w.ctx(), w.s("a1"), time.Hour), roomstore.ErrFenced)
		w.unchanged(before)
		_, err := w.store.LeaveAll(w.ctx(), w.s("a2"), "", true)
		w.must(err)
		w.refused(w.store.Park(w.ctx(), w.s("a2"), time.Hour), roomstore.ErrFenced)
	})
}

// A node that may have missed an order learns which of its sessions are not
// its own any more, and why.
func TestStore_Lost(t *testing.T) {
	contract(t, roomstore.Config{MaxDevices: 1}, func(w *world) {
		var all []roomstore.Session
		for i := range 12 {
			n := strconv.Itoa(i)
			all = append(all, w.loginOn("n1", roomstore.UserID("u"+n), roomstore.SessionID("s"+n), "phone"))
		}
		w.resume("n2", all[1]) // on another node
		w.resume("n1", all[2]) // on this one, by another socket
		w.park(all[3], time.Minute)
		_, err := w.store.LeaveAll(w.ctx(), all[4], "", true)
		w.must(err)
		w.loginOn("n1", "u5", "new", "phone")
		w.loginOn("n1", "u6", "new", "laptop")
		w.park(all[7], 0)
		w.sweep("n1")
		got := map[roomstore.SessionID]roomstore.Loss{}
		n := 0
		for _, group := range w.store.Groups(all) {
			n += len(group)
			lost, err := w.store.Lost(w.ctx(), "n1", group)
			w.must(err)
			maps.Copy(got, lost)
		}
		want := map[roomstore.SessionID]roomstore.Loss{
			"s1": roomstore.LossMoved, "s2": roomstore.LossMoved, "s3": roomstore.LossParked, "s4": roomstore.LossOver,
			"s5": roomstore.LossReplaced, "s6": roomstore.LossKicked, "s7": roomstore.LossOver,
		}
		if diff := cmp.Diff(want, got); diff != "" || n != len(all) {
			t.Errorf("of %d sessions (-want +got):\n%s", n, diff)
		}
		if lost, err := w.store.Lost(w.ctx(), "n1", nil); err != nil || lost != nil {
			t.Errorf("of none: %v, %v", lost, err)
		}
		w.forget()
	})
}

// Groups of sessions are as few as they can be, of at most 500, where slots lie apart of
// users in one; and nobody is lost.
func TestStore_Groups(t *testing.T) {
	t.Parallel()
	var all []roomstore.Session
	for i := range 3100 {
		all = append(all, roomstore.Session{User: roomstore.UserID("u" + strconv.Itoa(i))})
	}
	w := newWorld(t, true, roomstore.Config{Partitions: 3})
	for _, apart := range []bool{false, true} {
		store := roomstore.New(roomstore.NewBatcher(nil, roomstore.BatcherConfig{}), roomstore.Config{Partitions: 3, Apart: apart})
		seen := map[roomstore.UserID]bool{}
		groups := store.Groups(all)
		for _, group := range groups {
			if len(group) > 500 || len(group) == 0 {
				t.Errorf("a group of %d", len(group))
			}
			for _, who := range group {
				if apart && w.hash(string(who.User)) != w.hash(string(group[0].User)) || seen[who.User] {
					t.Errorf("%s is out of place", who.User)
				}
				seen[who.User] = true
			}
		}
		if want := 7; len(seen) != len(all) || !apart && len(groups) != want || apart && len(groups) > want+2 {
			t.Errorf("apart %t: %d of %d are in %d groups, want all in about %d", apart, len(seen), len(all), len(groups), want)
		}
	}
}

// All gateways of a deployment have one number of partitions.
func TestStore_Greet(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		other := func(partitions int) *roomstore.Store {
			return roomstore.New(runBatcher(t, w.rdb, roomstore.BatcherConfig{Slots: roomstore.ClusterSlots(w.prefix, partitions)}), roomstore.Config{Prefix: w.prefix, Partitions: partitions, Apart: w.apart})
		}
		w.must(w.store.Greet(w.ctx()))
		w.must(other(w.parts).Greet(w.ctx()))
		err := other(w.parts + 1).Greet(w.ctx())
		w.refused(err, roomstore.ErrPartitions)
		if !strings.Contains(err.Error(), strconv.Itoa(w.parts)) {
			t.Errorf("%v does not say that it is %d", err, w.parts)
		}
		w.must(w.store.Greet(w.ctx()))
	})
}

// A node hears its own probe, on the topic of its orders.
func TestStore_Probe(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.must(w.store.Probe(w.ctx(), "n1", 0, "no\x00nce"))
		w.heard("probe n1 no\x00nce")
	})
}

// A session is on the node that it was last brought to, under its generation of then,
// until it is parked.
func TestStore_Attached(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		attached := func(node string, want roomstore.Session, there bool) {
			t.Helper()
			got, ok, err := w.store.Attached(w.ctx(), roomstore.Session{User: "ana", ID: "a1", Node: node})
			w.must(err)
			if got != want || ok != there {
				t.Errorf("on %s: got %+v, %v; want %+v, %v", node, got, ok, want, there)
			}
		}
		attached("n1", roomstore.Session{}, false)
		inRoom("ana", "a")(w)
		who := w.s("a1")
		attached("n1", who, true)
		attached("n2", roomstore.Session{}, false)
		now, _, ok, err := w.store.Resume(w.ctx(), "n2", "ana", "a1", nil)
		w.must(err)
		if !ok || now.Generation <= who.Generation {
			t.Fatalf("resumed: %v, %+v", ok, now)
		}
		attached("n1", roomstore.Session{}, false)
		attached("n2", now, true)
		w.must(w.store.Park(w.ctx(), now, time.Minute))
		attached("n2", roomstore.Session{}, false)
		w.forget()
	})
}

// When a session has ended, in whatever way, the outcomes of its calls are kept
// for as long as one of them may still be repeated; until then, much longer.
func TestStore_endForgetsOutcomes(t *testing.T) {
	ends := map[roomstore.UserID]func(w *world, who roomstore.Session){
		"out": func(w *world, who roomstore.Session) {
			_, err := w.store.LeaveAll(w.ctx(), who, "8", true)
			w.must(err)
		},
		"replaced": func(w *world, who roomstore.Session) { w.loginOn("n1", who.User, "later", "its own") },
		"surplus":  func(w *world, who roomstore.Session) { w.login(who.User, "another") },
		"evicted": func(w *world, who roomstore.Session) {
			w.park(who, time.Second)
			w.pass(2 * time.Second)
			w.sweep("n1")
		},
	}
	for user, end := range ends {
		t.Run(string(user), func(t *testing.T) {
			contract(t, roomstore.Config{MaxDevices: 1}, func(w *world) {
				who := w.loginOn("n1", user, "first", "its own")
				for i := range 4 { // of several partitions, where there are any
					_, err := w.try(who, roomstore.EntryRequest{Room: roomstore.RoomID(rune('a' + i)), RequestKey: roomstore.RequestKey(strconv.Itoa(i + 1))})
					w.must(err)
				}
				_, err := w.store.LeaveAll(w.ctx(), who, "7", false) // its outcome is in the user's slot
				w.must(err)
				keys := slices.DeleteFunc(w.keys(), func(key string) bool { return !strings.HasSuffix(key, "}:did:first") })
				kept := func(least, most time.Duration) {
					w.Helper()
					for _, key := range keys {
						if w.apart && !strings.Contains(key, "{u") {
							continue // those in rooms' slots expire by themselves
						}
						if ttl := w.rdb.PTTL(w.ctx(), key).Val(); ttl < least || ttl > most {
							w.Errorf("%s is kept for %v, want %v to %v", key, ttl, least, most)
						}
					}
				}
				if len(keys) < 2 {
					w.Fatalf("outcomes are under %q only", keys)
				}
				kept(10*time.Minute, 13*time.Minute)
				end(w, who)
				kept(30*time.Second, 100*time.Second)
			})
		})
	}
}
