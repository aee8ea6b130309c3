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

	"github.com/roomgate/roomgate/roomstore"
)

// roomText renders a room, but for what the clock decides: of that only how long it
// lasts from now on.
func (w *world) roomText(r roomstore.Room, now time.Time) string {
	w.hear() // so that the life is known
	text := fmt.Sprintf("%s%s n=%d delay=%d %q", r.ID, w.at(r.Position), r.Members, r.Delay, r.Name)
	for _, k := range slices.Sorted(maps.Keys(r.Attributes)) {
		text += " " + k + "=" + r.Attributes[k]
	}
	if !r.Deadline.IsZero() {
		text += " left=" + r.Deadline.Sub(now).Round(time.Second).String()
	}
	if age := now.Sub(r.Created); age < 0 || age > time.Minute {
		w.Errorf("%s is %v old", r.ID, age)
	}
	return text
}

// backendCreates creates a room as a backend does.
func backendCreates(n roomstore.NewRoom) func(w *world) (string, error) {
	return func(w *world) (string, error) {
		r, now, err := w.store.Create(w.ctx(), n)
		if err != nil {
			return "", err
		}
		return w.roomText(r, now), nil
	}
}

// A room that a backend creates has nobody in it, and is there until its delay is
// over, or for 3 h without one.
func TestStore_Create(t *testing.T) {
	run(t, []row{
		{
			name: "with a delay", given: loggedIn("ana"),
			do:   backendCreates(roomstore.NewRoom{ID: "a", Name: "A", Delay: 5, Attributes: map[string]string{"k": "v", "l": ""}}),
			want: `a#1:0 n=0 delay=5 "A" k=v l= left=5s`, heard: []string{"created a#1"},
			state: map[roomstore.RoomID]string{"a": "#1:0 empty"},
		},
		{
			name: "without a delay", do: backendCreates(roomstore.NewRoom{ID: "a"}),
			want: `a#1:0 n=0 delay=0 "" left=3h0m0s`, heard: []string{"created a#1"},
		},
		{name: "exists", given: inRoom("ana", "a"), do: backendCreates(roomstore.NewRoom{ID: "a"}), err: roomstore.ErrExists},
		{name: "exists and is empty", given: emptied("a", 9), do: backendCreates(roomstore.NewRoom{ID: "a"}), err: roomstore.ErrExists},
		{
			name: "past its deadline", given: given(emptied("a", 9), func(w *world) { w.expire("a") }),
			do: backendCreates(roomstore.NewRoom{ID: "a", Delay: 5}), want: `a#2:0 n=0 delay=5 "" left=5s`,
			heard: []string{"a#1:3 ended emptied", "destroyed a#1 emptied", "created a#2"},
		},
		{
			name: "at the room limit", cfg: roomstore.Config{MaxRooms: 1}, given: inRoom("ana", "b"),
			do: backendCreates(roomstore.NewRoom{ID: "a"}), err: roomstore.ErrRoomLimit,
		},
		{
			name: "where emptied rooms lose their data", cfg: roomstore.Config{DropEmptiedData: true},
			do:   backendCreates(roomstore.NewRoom{ID: "a", Name: "A", Attributes: map[string]string{"k": "v"}}),
			want: `a#1:0 n=0 delay=0 "A" k=v left=3h0m0s`, heard: []string{"created a#1"},
		},
	})
}

// Once somebody has been in a room that a backend has created its delay counts as it
// was given; and if nobody comes it ends when its time is over.
func TestStore_Create_lives(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		for _, room := range []roomstore.RoomID{"a", "b"} {
			_, _, err := w.store.Create(w.ctx(), roomstore.NewRoom{ID: room, Name: "Room", Creator: "ana", Attributes: map[string]string{"k": "v"}})
			w.must(err)
		}
		w.heard("created a#1", "created b#1")
		who := ana(w)
		got, err := w.ask(who, roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "a"})
		w.must(err)
		if want := `#1:1 n=1 entered=1 delay=0 "Room" k=v`; got != want {
			w.Errorf("joined as %s, want %s", got, want)
		}
		if a := w.attributes("a"); len(a) != 1 || a[0].Owner != "ana" {
			w.Errorf("attributes are %v, want one of ana", a)
		}
		if r, _, err := w.store.Room(w.ctx(), "a"); err != nil || !r.Deadline.IsZero() {
			w.Errorf("with somebody in it: deadline %v, %v", r.Deadline, err)
		}
		w.forget()
		w.leave(who, "a")
		w.heard("a#1:2 left ana/a1 n=0", "a#1:3 ended emptied", "destroyed a#1 emptied")
		w.expire("b")
		w.lease("n1")
		w.sweep("n1")
		w.sweep("n1")
		w.heard("b#1:1 ended emptied", "destroyed b#1 emptied")
	})
}

// What a backend asks of one room it is told whoever is in it, and it changes nothing.
func TestStore_Room(t *testing.T) {
	tell := func(w *world) (string, error) {
		before := w.dump()
		r, now, err := w.store.Room(w.ctx(), "a")
		if err != nil {
			return "", err
		}
		w.unchanged(before)
		return w.roomText(r, now), nil
	}
	run(t, []row{
		{name: "members", given: given(inRoom("ana", "a"), inRoom("ben", "a")), do: tell, want: `a#1:2 n=2 delay=0 ""`},
		{name: "empty", given: emptied("a", 9), do: tell, want: `a#1:2 n=0 delay=9 "Room a" left=9s`},
		{
			name: "attributes", do: tell, want: `a#1:1 n=1 delay=0 "" k=v`,
			given: func(w *world) {
				_, err := w.try(ana(w), roomstore.EntryRequest{Room: "a", Attributes: map[string]string{"k": "v"}})
				w.must(err)
			},
		},
		{name: "no such room", do: tell, err: roomstore.ErrNoRoom},
		{
			name: "past its deadline", given: given(emptied("a", 9), func(w *world) { w.expire("a") }), drops: true,
			do: tell, err: roomstore.ErrNoRoom, heard: []string{"a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
	})
}

// A message from a backend takes its place among the others, whoever it is said to
// come from.
func TestStore_Post(t *testing.T) {
	post := func(priority int) func(w *world) (string, error) {
		return func(w *world) (string, error) {
			sent, err := w.store.Post(w.ctx(), "sys", roomstore.Message{Room: "a", ID: "7", Priority: priority, Payload: "p"})
			if err != nil {
				return "", err
			}
			if skew := w.now().UnixMilli() - sent.Timestamp; skew < -1000 || skew > 60_000 || sent.OrderKey <= 0 {
				w.Errorf("sent %+v", sent)
			}
			return fmt.Sprintf("%s #%d %s", w.at(sent.Position), sent.MessageSeq, sent.ID), nil
		}
	}
	after := given(inRoom("ana", "a"), func(w *world) {
		_, err := w.store.Send(w.ctx(), w.s("a1"), roomstore.Message{Room: "a", ID: "6", Payload: "o"})
		w.must(err)
	})
	run(t, []row{
		{name: "kept", given: after, do: post(0), want: "#1:3 #2 7", heard: []string{`a#1:3 message sys/ #2 7 "p"`}},
		{name: "passing", given: after, do: post(2), want: "#1:2 #1 7", heard: []string{`a#1:2 command sys/ #1 p2 7 "p"`}},
		{name: "nobody there", given: emptied("a", 9), do: post(0), want: "#1:3 #1 7", heard: []string{`a#1:3 message sys/ #1 7 "p"`},
			state: map[roomstore.RoomID]string{"a": "#1:3 empty"}},
		{name: "no such room", do: post(0), err: roomstore.ErrNoRoom},
		{name: "passing, no such room", do: post(1), err: roomstore.ErrNoRoom},
	})
}

// A message from a backend is in the history that those who come back are served from.
func TestStore_Post_kept(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		e := w.enter(ana(w), "a")
		_, err := w.store.Post(w.ctx(), "sys", roomstore.Message{Room: "a", ID: "7", Payload: "p"})
		w.must(err)
		h, err := w.store.Catchup(w.ctx(), "a", e.Position)
		w.must(err)
		if !h.Complete || len(h.Events) != 1 || eventText(h.Events[0]) != `2 message sys/ #1 7 "p"` {
			w.Errorf("history %+v", h)
		}
	})
}

// A walk through the list of rooms gives each room once, in the order of their IDs,
// and knows how many there are; also by what they begin with, and while others are
// created and destroyed.
func TestStore_Rooms(t *testing.T) {
	contract(t, roomstore.Config{MaxRoomsPerUser: 1000}, func(w *world) {
		ids := []roomstore.RoomID{"a", "a:members", "a:log", "}", "{0}", " ", "~", "b", "B", "a ", "a~", "ab", roomstore.RoomID(strings.Repeat("~", 128))}
		for i := range 30 {
			ids = append(ids, roomstore.RoomID("r"+strconv.Itoa(i)))
		}
		who := ana(w)
		for _, id := range ids {
			w.create(who, id, 9)
		}
		w.leave(who, "b")
		slices.Sort(ids)
		for _, search := range []string{"", "a", "r1", "~", "a~", "nothing", " "} {
			var want []roomstore.RoomID
			for _, id := range ids {
				if strings.HasPrefix(string(id), search) {
					want = append(want, id)
				}
			}
			for _, count := range []int{1, 4, 100} {
				var got []roomstore.RoomID
				for next := roomstore.RoomID(""); ; {
					page, err := w.store.Rooms(w.ctx(), search, next, count)
					w.must(err)
					if next == "" && page.Matching != int64(len(want)) || len(page.Rooms) > count {
						w.Errorf("%q by %d: %d rooms in a page of %d", search, count, len(page.Rooms), page.Matching)
					}
					if next == "" && count == 4 && len(want) > 4 { // created and destroyed meanwhile
						_, _, err := w.store.Create(w.ctx(), roomstore.NewRoom{ID: roomstore.RoomID(search + "!")})
						w.must(err)
					}
					for _, r := range page.Rooms {
						if len(r.Attributes) > 0 || r.Epoch == 0 || (r.ID == "b") != (r.Members == 0) || (r.ID == "b") == r.Deadline.IsZero() {
							w.Errorf("%+v", r)
						}
						got = append(got, r.ID)
					}
					if next = page.Next; next == "" {
						break
					}
				}
				if got = slices.DeleteFunc(got, func(id roomstore.RoomID) bool { return id == roomstore.RoomID(search+"!") }); !slices.Equal(got, want) {
					w.Errorf("%q by %d: got %q, want %q", search, count, got, want)
				}
				if count == 4 && len(want) > 4 {
					w.must(w.store.Destroy(w.ctx(), roomstore.RoomID(search+"!")))
				}
			}
		}
	})
}

// A room that is over is in no list, whether or not anybody has met it.
func TestStore_Rooms_over(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		emptied("a", 9)(w)
		w.enter(w.s("a1"), "b")
		w.expire("a")
		w.forget()
		page, err := w.store.Rooms(w.ctx(), "", "", 10)
		w.must(err)
		if len(page.Rooms) != 1 || page.Rooms[0].ID != "b" || page.Next != "" {
			w.Errorf("%+v, want b", page)
		}
		w.heard("a#1:3 ended emptied", "destroyed a#1 emptied")
	})
}

// A walk through a room's members gives each once, in the order of entry, with when
// that was, where it is connected, and how long the place of one who is away lasts.
func TestStore_Roster(t *testing.T) {
	contract(t, roomstore.Config{SessionTTL: 20 * time.Second}, func(w *world) {
		w.lease("n1")
		w.sweep("n1")
		w.pass(time.Hour) // awake time is not Redis's
		began := w.now()
		var want []string
		for i := range 7 {
			user := roomstore.UserID("u" + strconv.Itoa(i))
			w.enter(w.loginOn("n"+strconv.Itoa(i%2), user, roomstore.SessionID(user), ""), "a")
			want = append(want, fmt.Sprintf("%s n%d %s/%s", user, i%2, user, user))
		}
		w.park(w.s("u3"), 7*time.Second)
		want[3] = "u3 away 7s u3/u3"
		// Its place goes to another device: it has been there all the while.
		w.enter(w.loginOn("n9", "u4", "v4", ""), "a")
		want[4] = "u4 n9 u4/v4"
		w.forget()
		before := w.dump()
		for _, count := range []int{1, 3, 100} {
			var got []string
			last := began
			for next := ""; ; {
				page, err := w.store.Roster(w.ctx(), "a", next, count)
				w.must(err)
				if w.at(page.Position) != "#1:8" || page.Count != 7 || len(page.Members) > count {
					w.Errorf("by %d: at %s, %d members of %d", count, w.at(page.Position), len(page.Members), page.Count)
				}
				for _, m := range page.Members {
					where := m.Node
					if where == "" {
						where = "away " + m.Deadline.Sub(page.Now).Round(time.Second).String()
					} else if !m.Deadline.IsZero() {
						w.Errorf("%s is connected and has the deadline %v", m.User, m.Deadline)
					}
					got = append(got, string(m.User)+" "+where+" "+m.Data)
					if m.Joined.Before(last.Truncate(time.Millisecond)) || m.Joined.After(page.Now) {
						w.Errorf("%s joined at %v, the one before at %v, and it is %v", m.User, m.Joined, last, page.Now)
					}
					last = m.Joined
				}
				if next = page.Next; next == "" {
					break
				}
			}
			// A second or so may have passed for who is away.
			for i := range got {
				got[i] = strings.NewReplacer("away 6s", "away 7s", "away 5s", "away 7s").Replace(got[i])
			}
			if diff := cmp.Diff(want, got); diff != "" {
				w.Errorf("by %d (-want +got):\n%s", count, diff)
			}
		}
		w.unchanged(before)
		for _, foreign := range []string{"x", "1:", "1:2", "0:0"} {
			_, err := w.store.Roster(w.ctx(), "a", foreign, 10)
			w.refused(err, roomstore.ErrBadID)
		}
		_, err := w.store.Roster(w.ctx(), "b", "", 10)
		w.refused(err, roomstore.ErrNoRoom)
	})
}

// When somebody joined is known wherever the session goes on.
func TestStore_Roster_joined(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		joined := func() time.Time {
			w.Helper()
			page, err := w.store.Roster(w.ctx(), "a", "", 10)
			w.must(err)
			if len(page.Members) != 1 {
				w.Fatalf("members %+v", page.Members)
			}
			return page.Members[0].Joined
		}
		w.lease("n1")
		w.lease("n2")
		w.sweep("n1")
		who := ana(w)
		w.enter(who, "a")
		first := joined()
		w.park(who, time.Minute)
		if at := joined(); !at.Equal(first) {
			w.Errorf("parked: joined at %v, it was %v", at, first)
		}
		w.resume("n2", who)
		if at := joined(); !at.Equal(first) || at.IsZero() {
			w.Errorf("resumed: joined at %v, it was %v", at, first)
		}
	})
}

// The deployment is the nodes that hold a lease, with what each has said last, and
// the rooms that exist.
func TestStore_Cluster(t *testing.T) {
	contract(t, roomstore.Config{LeaseTTL: 10 * time.Second}, func(w *world) {
		began := w.now().Truncate(time.Millisecond)
		say := func(node string, begin bool, about roomstore.About) roomstore.Lease {
			w.Helper()
			l, err := w.store.Lease(w.ctx(), node, begin, &about)
			w.must(err)
			return l
		}
		first := say("n1", true, roomstore.About{Name: "one"}).Now
		w.lease("n2") // it says nothing
		say("n3", true, roomstore.About{Name: "three: a \x01 name", Version: "1.2"})
		w.sweep("n1")
		say("n1", false, roomstore.About{
			Name: "one", Version: "v", Since: first, Draining: true, Connections: 3, Sessions: 2, Rooms: 1,
			Accepted: 0.5, Messages: 1234.56, Deliveries: 1e9,
		})
		_, err := w.store.Lease(w.ctx(), "n1", false, nil) // and nothing new
		w.must(err)
		who := ana(w)
		w.enter(who, "a", "b", "c")
		w.create(who, "d", 9)
		w.leave(who, "d")
		w.expire("d")
		w.dropped = true // d is left as it is

		c, err := w.store.Cluster(w.ctx())
		w.must(err)
		if c.Rooms != 3 {
			w.Errorf("%d rooms, want 3", c.Rooms)
		}
		if skew := w.now().Sub(c.Now); skew < -time.Second || skew > time.Minute {
			w.Errorf("it is %v there", c.Now)
		}
		got := map[string]*roomstore.About{}
		for _, n := range c.Nodes {
			if n.Left <= 0 || n.Left > 10*time.Second {
				w.Errorf("the lease of %s lasts %v", n.ID, n.Left)
			}
			if n.About != nil {
				if n.About.Since.Before(began) || n.About.Since.After(c.Now) {
					w.Errorf("%s began at %v", n.ID, n.About.Since)
				}
				if n.ID == "n1" && !n.About.Since.Equal(first) {
					w.Errorf("n1 began at %v, it was %v", n.About.Since, first)
				}
				n.About.Since = time.Time{}
			}
			got[n.ID] = n.About
		}
		want := map[string]*roomstore.About{
			"n1": {Name: "one", Version: "v", Draining: true, Connections: 3, Sessions: 2, Rooms: 1, Accepted: 0.5, Messages: 1234.6, Deliveries: 1e9},
			"n2": nil,
			"n3": {Name: "three: a \x01 name", Version: "1.2"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			w.Errorf("nodes (-want +got):\n%s", diff)
		}

		w.must(w.store.Release(w.ctx(), "n3"))
		if c, err = w.store.Cluster(w.ctx()); err != nil || len(c.Nodes) != 2 {
			w.Errorf("one has gone: %+v, %v", c.Nodes, err)
		}
	})
}
