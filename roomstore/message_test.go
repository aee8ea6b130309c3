package roomstore_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/roomstore"
)

func sendAs(id roomstore.SessionID, text string) func(w *world) (string, error) {
	return func(w *world) (string, error) {
		s, err := w.store.Send(w.ctx(), w.s(id), roomstore.Message{Room: "a", ID: "m", Payload: text})
		return w.sentText(s), err
	}
}

func relayAs(id roomstore.SessionID, text string) func(w *world) (string, error) {
	return func(w *world) (string, error) {
		before := w.dump()
		s, err := w.store.Relay(w.ctx(), w.s(id), roomstore.Message{Room: "a", ID: "m", Priority: 2, Payload: text})
		if err == nil {
			w.unchanged(before)
		}
		return w.sentText(s), err
	}
}

func (w *world) sentText(s roomstore.Sent) string {
	w.Helper()
	if s == (roomstore.Sent{}) {
		return ""
	}
	if skew := w.now().UnixMilli() - s.Timestamp; skew < 0 || skew > 60_000 {
		w.Errorf("timestamp is %d ms old", skew)
	}
	if s.OrderKey < s.Timestamp*1000 || s.OrderKey >= 1<<53 {
		w.Errorf("order key %d", s.OrderKey)
	}
	w.hear()
	return w.at(s.Position) + " #" + strconv.FormatInt(s.MessageSeq, 10) + " " + s.ID
}

// Who may send, and what a kept message is: numbered, stored, announced once.
func TestStore_Send(t *testing.T) {
	run(t, []row{
		{
			name: "in it", given: given(inRoom("ana", "a"), inRoom("ben", "a")), do: sendAs("a1", "x\x00\xff%"),
			want: "#1:3 #1 m", state: states{"a": "#1:3 ana/a1@1 n1 ben/b1@2 n1"},
			heard: []string{"a#1:3 message ana/a1 #1 m \"x\\x00\\xff%\""},
		},
		{
			name: "another one",
			given: given(inRoom("ana", "a"), func(w *world) {
				_, err := sendAs("a1", "x")(w)
				w.must(err)
			}),
			do: sendAs("a1", ""), want: "#1:3 #2 m", heard: []string{`a#1:3 message ana/a1 #2 m ""`},
		},
		{name: "not in it", given: given(inRoom("ana", "a"), loggedIn("ben")), do: sendAs("b1", "x"), err: roomstore.ErrNotMember},
		{
			name:  "another device is in it",
			given: given(inRoom("ana", "a"), func(w *world) { w.login("ana", "a2") }),
			do:    sendAs("a2", "x"), err: roomstore.ErrNotMember,
		},
		{name: "no such room", given: loggedIn("ana"), do: sendAs("a1", "x"), err: roomstore.ErrNoRoom},
		{name: "older generation", given: given(inRoom("ana", "a"), older("a1")), do: sendAs("old", "x"), err: roomstore.ErrFenced},
		{name: "parked", given: given(inRoom("ana", "a"), parked("a1")), do: sendAs("a1", "x"), err: roomstore.ErrFenced},
		{
			name: "past its deadline", given: given(emptied("a", 9), func(w *world) { w.expire("a") }), drops: true,
			do: sendAs("a1", "x"), err: roomstore.ErrNoRoom, heard: []string{"a#1:3 ended emptied", "destroyed a#1 emptied"},
		},
	})
}

// A command is seen by who is in the room, and stored nowhere.
func TestStore_Relay(t *testing.T) {
	run(t, []row{
		{
			name: "in it", given: given(inRoom("ana", "a"), inRoom("ben", "a")), do: relayAs("a1", "x:\x00"),
			want: "#1:2 #0 m", heard: []string{"a#1:2 command ana/a1 #0 p2 m \"x:\\x00\""},
		},
		{
			name: "after a message",
			given: given(inRoom("ana", "a"), func(w *world) {
				_, err := sendAs("a1", "x")(w)
				w.must(err)
			}),
			do: relayAs("a1", "x"), want: "#1:2 #1 m", heard: []string{`a#1:2 command ana/a1 #1 p2 m "x"`},
		},
		{name: "not in it", given: given(inRoom("ana", "a"), loggedIn("ben")), do: relayAs("b1", "x"), err: roomstore.ErrNotMember},
		{
			name:  "another device is in it",
			given: given(inRoom("ana", "a"), func(w *world) { w.login("ana", "a2") }),
			do:    relayAs("a2", "x"), err: roomstore.ErrNotMember,
		},
		{name: "no such room", given: loggedIn("ana"), do: relayAs("a1", "x"), err: roomstore.ErrNoRoom},
		{name: "older generation", given: given(inRoom("ana", "a"), older("a1")), do: relayAs("old", "x"), err: roomstore.ErrFenced},
		{name: "parked", given: given(inRoom("ana", "a"), parked("a1")), do: relayAs("a1", "x"), err: roomstore.ErrFenced},
	})
}

// messageSeq counts, order keys rise also over commands and if the clock was
// ahead, and all is below 2^53.
func TestStore_Send_order(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		who := ana(w)
		w.enter(who, "a")
		ahead := w.now().Add(time.Hour).UnixMicro()
		last := int64(0)
		for i := int64(1); i <= 20; i++ {
			if i == 10 {
				w.must(w.rdb.HSet(w.ctx(), w.part("a")+"room:a", "order", ahead).Err())
			}
			s, err := w.store.Send(w.ctx(), who, roomstore.Message{Room: "a", ID: "m", Payload: "x"})
			w.must(err)
			if s.MessageSeq != i || s.Seq != i+1 || s.OrderKey <= last || s.OrderKey >= 1<<53 {
				t.Errorf("message %d: %+v after key %d", i, s, last)
			}
			last = s.OrderKey
			c, err := w.store.Relay(w.ctx(), who, roomstore.Message{Room: "a", ID: "c", Priority: 1, Payload: "x"})
			w.must(err)
			if c.MessageSeq != i || c.Seq != s.Seq || c.OrderKey < last {
				t.Errorf("command %d: %+v after key %d", i, c, last)
			}
		}
		if last <= ahead {
			t.Errorf("order key %d is not beyond %d", last, ahead)
		}
		w.forget()
	})
}

// A message that is sent again under its key is the first one, ID and all, and
// is published once.
func TestStore_Send_again(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		who := ana(w)
		w.enter(who, "a")
		first, err := w.store.Send(w.ctx(), who, roomstore.Message{Room: "a", RequestKey: "3", ID: "one", Payload: "x"})
		w.must(err)
		w.forget()
		again := func() {
			t.Helper()
			got, err := w.store.Send(w.ctx(), who, roomstore.Message{Room: "a", RequestKey: "3", ID: "two", Payload: "y"})
			w.must(err)
			if got != first {
				t.Errorf("got %+v, want %+v", got, first)
			}
			w.heard()
		}
		again()
		who, _ = w.resume("n2", who) // the key is the session's, not the connection's
		w.forget()
		again()
		w.leave(who, "a")
		w.forget()
		again()
		// Another session's key is another key.
		b := ben(w)
		w.enter(b, "a")
		w.forget()
		got, err := w.store.Send(w.ctx(), b, roomstore.Message{Room: "a", RequestKey: "3", ID: "two", Payload: "y"})
		w.must(err)
		if got.ID != "two" {
			t.Errorf("got %+v", got)
		}
	})
}

// The log is bounded in number, in bytes, and in time.
func TestStore_Send_logBounds(t *testing.T) {
	log := func(w *world) (texts []string) {
		list, err := w.rdb.LRange(w.ctx(), w.part("a")+"log:a", 0, -1).Result()
		w.must(err)
		for _, s := range list {
			e, err := roomstore.DecodeEvent(s)
			w.must(err)
			texts = append(texts, e.MessageID)
		}
		return texts
	}
	send := func(w *world, id, payload string) {
		w.Helper()
		_, err := w.store.Send(w.ctx(), w.s("a1"), roomstore.Message{Room: "a", ID: id, Payload: payload})
		w.must(err)
	}
	t.Run("number", func(t *testing.T) {
		contract(t, roomstore.Config{LogSize: 5}, func(w *world) {
			inRoom("ana", "a")(w)
			for i := range 12 {
				send(w, strconv.Itoa(i), "x")
			}
			if got, want := log(w), []string{"7", "8", "9", "10", "11"}; !slices.Equal(got, want) {
				t.Errorf("kept %q, want %q", got, want)
			}
		})
	})
	t.Run("bytes", func(t *testing.T) {
		contract(t, roomstore.Config{LogBytes: 3000}, func(w *world) {
			inRoom("ana", "a")(w)
			for i := range 12 {
				send(w, strconv.Itoa(i), strings.Repeat("x", 900))
			}
			if got, want := log(w), []string{"9", "10", "11"}; !slices.Equal(got, want) {
				t.Errorf("kept %q, want %q", got, want)
			}
			bytes := 0
			for _, s := range w.rdb.LRange(w.ctx(), w.part("a")+"log:a", 0, -1).Val() {
				bytes += len(s)
			}
			if got := w.rdb.HGet(w.ctx(), w.part("a")+"room:a", "logbytes").Val(); got != strconv.Itoa(bytes) {
				t.Errorf("the log has %d bytes, the room says %s", bytes, got)
			}
			send(w, "big", strings.Repeat("x", 9000)) // what is new is always kept
			if got, want := log(w), []string{"big"}; !slices.Equal(got, want) {
				t.Errorf("kept %q, want %q", got, want)
			}
			for i := range 4 {
				send(w, strconv.Itoa(i), strings.Repeat("x", 900))
			}
			if got, want := log(w), []string{"1", "2", "3"}; !slices.Equal(got, want) {
				t.Errorf("kept %q, want %q", got, want)
			}
		})
	})
	t.Run("time, in silence", func(t *testing.T) {
		contract(t, roomstore.Config{LogTTL: 50 * time.Millisecond, LogBytes: 3000}, func(w *world) {
			inRoom("ana", "a")(w)
			for i := range 3 {
				send(w, strconv.Itoa(i), strings.Repeat("x", 900))
			}
			eventually(t, func() bool { return len(log(w)) == 0 })
		})
	})
	t.Run("what has expired does not count", func(t *testing.T) {
		contract(t, roomstore.Config{LogBytes: 3000}, func(w *world) {
			inRoom("ana", "a")(w)
			for i := range 6 {
				if i == 3 {
					w.must(w.rdb.Unlink(w.ctx(), w.part("a")+"log:a").Err())
				}
				send(w, strconv.Itoa(i), strings.Repeat("x", 900))
			}
			if got, want := log(w), []string{"3", "4", "5"}; !slices.Equal(got, want) {
				t.Errorf("kept %q, want %q", got, want)
			}
		})
	})
	t.Run("time, in a room that never falls silent", func(t *testing.T) {
		contract(t, roomstore.Config{}, func(w *world) {
			inRoom("ana", "a")(w)
			key := w.part("a") + "log:a"
			for i := range 10 {
				send(w, strconv.Itoa(i), "x")
			}
			// Five of them are old, and the newest is of another quarter of the TTL.
			order := w.now().Add(-time.Minute).UnixMicro()
			w.must(w.rdb.HSet(w.ctx(), w.part("a")+"room:a", "order", order).Err())
			w.order = map[int64]int64{}
			for i := range int64(5) {
				f := strings.SplitN(w.rdb.LIndex(w.ctx(), key, i).Val(), "\x00", 5)
				f[3] = strconv.FormatInt(w.now().Add(-time.Hour).UnixMilli(), 10)
				w.must(w.rdb.LSet(w.ctx(), key, i, strings.Join(f, "\x00")).Err())
			}
			for i := range 16 {
				send(w, "new"+strconv.Itoa(i), "x")
			}
			if got := log(w); got[0] != "5" || len(got) != 21 {
				t.Errorf("kept %q", got)
			}
		})
	})
	t.Run("an empty room keeps it no longer", func(t *testing.T) {
		contract(t, roomstore.Config{}, func(w *world) {
			who := ana(w)
			w.create(who, "a", 3600)
			send(w, "x", "x")
			w.leave(who, "a")
			for _, step := range []string{"empty", "entered again"} {
				for _, kind := range []string{"log:a", "left:a"} {
					if ttl := w.rdb.TTL(w.ctx(), w.part("a")+kind).Val(); ttl < 110*time.Second || ttl > 150*time.Second {
						t.Errorf("%s: %s expires in %v", step, kind, ttl)
					}
				}
				if step == "empty" {
					w.enter(who, "a")
				}
			}
		})
	})
}

// What happened after a position is given back as it was published, events of
// members and of the log in one order, and its end is where the room is.
func TestStore_Catchup(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		sub := w.rdb.Subscribe(w.ctx(), w.store.Topic("a"))
		defer sub.Close()
		_, err := sub.Receive(w.ctx())
		w.must(err)

		a := ana(w)
		w.create(a, "a", 60)
		b, e := ben(w), eve(w)
		w.enter(b, "a")
		_, err = sendAs("a1", "one")(w)
		w.must(err)
		w.enter(e, "a")
		w.must(w.store.Kick(w.ctx(), "a", "eve", `{"why":"x"}`))
		w.leave(b, "a")
		w.enter(b, "a")
		_, err = relayAs("b1", "lost")(w)
		w.must(err)
		_, err = sendAs("b1", "two")(w)
		w.must(err)
		w.enter(e, "a")
		w.leave(a, "a")
		w.park(e, time.Second)
		w.pass(time.Minute)
		w.sweep("n1")
		w.hear()

		var live []roomstore.Event
		for len(live) < 11 {
			msg, err := sub.ReceiveMessage(w.ctx())
			w.must(err)
			ev, err := roomstore.DecodeEvent(msg.Payload)
			w.must(err)
			if ev.Kind != roomstore.KindCommand {
				live = append(live, ev)
			}
		}
		for after := range len(live) + 1 {
			h, err := w.store.Catchup(w.ctx(), "a", roomstore.Position{Epoch: live[0].Epoch, Seq: int64(after)})
			w.must(err)
			var want []roomstore.Event
			for _, ev := range live[after:] {
				if ev.Kind == roomstore.KindJoined || ev.Kind == roomstore.KindLeft {
					ev.At, ev.Published = 0, ""
				}
				want = append(want, ev)
			}
			if diff := cmp.Diff(want, h.Events, equateEmpty); diff != "" {
				t.Errorf("after %d (-live +caught up):\n%s", after, diff)
			}
			if !h.Complete || h.Count != 1 || h.Seq != 11 || h.Epoch != live[0].Epoch {
				t.Errorf("after %d: %v, count %d, complete %t", after, h.Position, h.Count, h.Complete)
			}
		}
	})
}

// A place that moved between devices is in the log, and moves no count.
func TestStore_Catchup_moved(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		first := w.enter(ana(w), "a")
		w.enter(ben(w), "a")
		w.enter(w.login("ana", "a2"), "a")
		h, err := w.store.Catchup(w.ctx(), "a", first.Position)
		w.must(err)
		var got []string
		for _, e := range h.Events {
			got = append(got, eventText(e))
		}
		want := []string{"2 joined ben/b1 n=2", "3 moved ana/a2 n=2 from a1"}
		if !slices.Equal(got, want) || !h.Complete {
			t.Errorf("got %q, complete %t, want %q", got, h.Complete, want)
		}
	})
}

// What is not kept any more is not made up: the history says that it has holes.
func TestStore_Catchup_incomplete(t *testing.T) {
	contract(t, roomstore.Config{LogSize: 2, MaxMembers: 1000}, func(w *world) {
		start := w.enter(ana(w), "a")
		var at []roomstore.Position
		for i := range 4 {
			s, err := w.store.Send(w.ctx(), w.s("a1"), roomstore.Message{Room: "a", ID: strconv.Itoa(i), Payload: "x"})
			w.must(err)
			at = append(at, s.Position)
		}
		for i, complete := range []bool{false, true, true, true} {
			h, err := w.store.Catchup(w.ctx(), "a", at[i])
			w.must(err)
			if h.Complete != complete {
				t.Errorf("after message %d: complete %t with %d events", i, h.Complete, len(h.Events))
			}
		}
		h, err := w.store.Catchup(w.ctx(), "a", start.Position)
		w.must(err)
		if h.Complete || len(h.Events) != 2 {
			t.Errorf("complete %t with %d events", h.Complete, len(h.Events))
		}
		// How many members there were before a hole cannot be known.
		b := ben(w)
		w.enter(b, "a")
		h, err = w.store.Catchup(w.ctx(), "a", roomstore.Position{Epoch: start.Epoch})
		w.must(err)
		if first, last := h.Events[0], h.Events[len(h.Events)-1]; first.Kind != roomstore.KindJoined || !first.Uncounted ||
			last.Kind != roomstore.KindJoined || last.Uncounted || last.Count != 2 {
			t.Errorf("from %+v to %+v, want an entry before the hole, and one counted behind it", first, last)
		}
		// Departures that have expired leave holes, too.
		w.leave(b, "a")
		w.must(w.rdb.Unlink(w.ctx(), w.part("a")+"left:a").Err())
		h, err = w.store.Catchup(w.ctx(), "a", at[3])
		w.must(err)
		if h.Complete || len(h.Events) != 0 {
			t.Errorf("complete %t with %v", h.Complete, h.Events)
		}
	})
}

// No more than 500 entries are given at once, the newest.
func TestStore_Catchup_bound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, roomstore.Config{MaxMembers: 1000})
	start := w.enter(ana(w), "a")
	w.crowd(520, "a")
	for _, tt := range []struct {
		after    int64
		complete bool
		events   int
	}{{20, false, 500}, {21, true, 500}, {500, true, 21}} {
		h, err := w.store.Catchup(w.ctx(), "a", roomstore.Position{Epoch: start.Epoch, Seq: tt.after})
		w.must(err)
		if h.Complete != tt.complete || len(h.Events) != tt.events || h.Count != 521 {
			t.Errorf("after %d: %d events, complete %t, count %d", tt.after, len(h.Events), h.Complete, h.Count)
		}
		if last := h.Events[len(h.Events)-1]; last.Seq != 521 {
			t.Errorf("after %d the last is %+v", tt.after, last)
		}
	}
}

// A position in another life of the room, or of none, is told so.
func TestStore_Catchup_otherLife(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		_, err := w.store.Catchup(w.ctx(), "a", roomstore.Position{Epoch: 1})
		w.refused(err, roomstore.ErrNoRoom)
		first := w.enter(ana(w), "a")
		w.must(w.store.Destroy(w.ctx(), "a"))
		second := w.enter(ben(w), "a")
		if second.Epoch <= first.Epoch {
			t.Errorf("epoch %d after %d", second.Epoch, first.Epoch)
		}
		_, err = w.store.Catchup(w.ctx(), "a", first.Position)
		w.refused(err, roomstore.ErrEpoch)
		w.create(w.s("b1"), "b", 60)
		w.leave(w.s("b1"), "b")
		w.expire("b")
		_, err = w.store.Catchup(w.ctx(), "b", first.Position)
		w.refused(err, roomstore.ErrNoRoom)
	})
}

// Where rooms are is told for any number of them, in all partitions.
func TestStore_Positions(t *testing.T) {
	contract(t, roomstore.Config{MaxRoomsPerUser: 100}, func(w *world) {
		who := ana(w)
		want := map[roomstore.RoomID]roomstore.Position{}
		var ids []roomstore.RoomID
		for i := range 700 {
			id := roomstore.RoomID("r" + strconv.Itoa(i))
			ids = append(ids, id)
			want[id] = roomstore.Position{}
			if i%70 == 0 {
				want[id] = w.enter(who, id).Position
			}
		}
		w.create(who, "past", 9)
		w.leave(who, "past")
		w.expire("past")
		ids, want["past"] = append(ids, "past"), roomstore.Position{}
		got, err := w.store.Positions(w.ctx(), ids)
		w.must(err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got, err := w.store.Positions(w.ctx(), nil); err != nil || len(got) != 0 {
			t.Errorf("of no rooms: %v, %v", got, err)
		}
		w.hear()
		if got := w.state("past"); got != "none" {
			t.Errorf("past its deadline: %s", got)
		}
	})
}
