package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/gateway/serverapi"
	"github.com/roomgate/roomgate/internal/apitest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// follow watches the room, whose history the store knows up to now; it fails the test
// if it cannot.
func (st *stage) follow(from int64) *watcher {
	st.t.Helper()
	w, err := st.hub.watch(st.t.Context(), room, from, 0)
	if err != nil {
		st.t.Fatal(err)
	}
	return w
}

// next gives what waits for a watch.
func (st *stage) next(w *watcher) (all []serverapi.Event) {
	for {
		ctx, cancel := context.WithTimeout(st.t.Context(), time.Millisecond)
		events := w.Next(ctx)
		cancel()
		if len(events) == 0 {
			return all
		}
		all = append(all, events...)
	}
}

// seen gives what a watch has been told since it was last asked, each as one word or
// two, and holds it against the description of the server API.
func (st *stage) seen(w *watcher) (all []string) {
	st.t.Helper()
	synctest.Wait()
	for _, e := range st.next(w) {
		data, err := json.Marshal(e.Data)
		if err != nil {
			st.t.Fatal(err)
		}
		apitest.Event(st.t, e.Name, data)
		var d struct {
			Seq, After, FromSeq, ToSeq, FromEpoch, Epoch, EndedEpoch int64

			Reason  string
			Message struct{ Message, MessageID string }
			User    protocol.UserInfo
		}
		if err := json.Unmarshal(data, &d); err != nil {
			st.t.Fatal(err)
		}
		if d.Seq != e.Seq && e.Name != sightOpened {
			st.t.Errorf("%s has the seq %d, and %s", e.Name, e.Seq, data)
		}
		text := e.Name
		switch e.Name {
		case sightOpened:
			text += fmt.Sprintf(" %d.%d", d.Epoch, d.Seq)
			if d.EndedEpoch != 0 {
				text += fmt.Sprintf(" for %d", d.EndedEpoch)
			}
		case sightLost:
			text += fmt.Sprintf(" %d-%d", d.FromSeq, d.ToSeq)
		case sightHealed:
			text += fmt.Sprintf(" %d.%d from %d", d.Epoch, d.Seq, d.FromEpoch)
		case "command":
			text += fmt.Sprintf(" after %d %s", d.After, d.Message.Message)
		case "message":
			text += fmt.Sprintf(" %d %s", d.Seq, d.Message.Message)
		case "end":
			text += " " + d.Reason
		default:
			text += strings.TrimRight(fmt.Sprintf(" %d %s %s", d.Seq, d.User.UserID, d.Reason), " ")
		}
		if e.Last != (e.Name == "end") {
			st.t.Errorf("%s is the last: %t", text, e.Last)
		}
		all = append(all, text)
	}
	return all
}

// lineage sets the life that the store says the room is in.
func (st *stage) lineage(l roomstore.Life) {
	st.hub.store.(*fakeHistory).life = func(roomstore.Position) roomstore.Life { return l }
}

// saw fails the test unless a watch has been told exactly this since it was last asked.
func (st *stage) saw(w *watcher, want ...string) {
	st.t.Helper()
	if diff := cmp.Diff(want, st.seen(w)); diff != "" {
		st.t.Errorf("watched (-want +got):\n%s", diff)
	}
}

// stamped has a time, as what a script publishes has.
func stamped(events ...roomstore.Event) []roomstore.Event {
	for i := range events {
		events[i].At = 1_700_000_000_000 + events[i].Seq
	}
	return events
}

// happened is what the store knows of the room: all of some events but those named.
func (st *stage) happened(events []roomstore.Event, lost ...int64) {
	st.knows(events, lost...)
	st.head = events[len(events)-1].Position
}

// A watch has each event of the room once and in order, however they come, and is no
// member: of its room nobody else hears.
func TestFeed_watch(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		log := stamped(joined(1, 1, "ana", 1), joined(1, 2, "bo", 2))
		st.happened(log)
		w := st.follow(0)
		defer w.Close()
		st.saw(w, "opened 1.2")
		_, ana := st.admit("ana", entry(1, 2))
		ana.take()
		live := stamped(
			message(1, 3, "bo", "hi"), command(1, 3, "bo", "c", 1), left(1, 4, "bo", 1, roomstore.ReasonKicked),
			moved(1, 5, "ana", "s-ana", "s2", 1), left(1, 6, "ana", 0, roomstore.ReasonTimeout), destroyed(1, 7),
		)
		st.deliver(live[2], live[1], live[0], live[0])
		st.saw(w, "message 3 hi", "command after 3 c", "memberLeft 4 bo kicked")
		st.deliver(live[3:]...)
		st.saw(w, "memberMoved 5 ana", "memberLeft 6 ana timeout", "destroyed 7  destroyed", "end over")
		if n := st.f.hub.stats.Deliveries.Load(); n != 3 {
			t.Errorf("%d events were delivered to members, want 3: those that ana had", n)
		}
	})
}

// A watch begins where it was asked to, with what is kept, and says what is not.
func TestFeed_watch_from(t *testing.T) {
	log := stamped(joined(1, 1, "ana", 1), message(1, 2, "ana", "a"), message(1, 3, "ana", "b"), message(1, 4, "ana", "c"), joined(1, 5, "bo", 2))
	for _, tt := range []struct {
		from int64
		lost []int64
		want []string
	}{
		{1, nil, []string{"opened 1.0", "memberJoined 1 ana", "message 2 a", "message 3 b", "message 4 c", "memberJoined 5 bo"}},
		{4, nil, []string{"opened 1.3", "message 4 c", "memberJoined 5 bo"}},
		{6, nil, []string{"opened 1.5"}},
		{0, nil, []string{"opened 1.5"}},
		{1, []int64{1, 3, 4}, []string{"opened 1.0", "lost 1-1", "message 2 a", "lost 3-4", "memberJoined 5 bo"}},
		{2, []int64{4, 5}, []string{"opened 1.1", "message 2 a", "message 3 b", "lost 4-5"}},
	} {
		play(t, func(t *testing.T, st *stage) {
			st.happened(log, tt.lost...)
			w := st.follow(tt.from)
			defer w.Close()
			st.deliver(stamped(message(1, 6, "ana", "d"))...)
			st.saw(w, append(slices.Clone(tt.want), "message 6 d")...)
		})
	}
}

// What the feed has had while the store was asked is in neither twice nor missing.
func TestFeed_watch_overtaken(t *testing.T) {
	for gone := range 4 { // of what comes meanwhile
		play(t, func(t *testing.T, st *stage) {
			log := stamped(message(1, 1, "ana", "a"), message(1, 2, "ana", "b"), message(1, 3, "ana", "c"), message(1, 4, "ana", "d"))
			st.admit("ana", entry(1, 0))
			st.happened(log[:1])
			answer := st.history
			st.history = func(after roomstore.Position) (roomstore.History, error) {
				for _, e := range log[:gone] {
					st.f.Deliver(envelope(e))
				}
				return answer(after)
			}
			w := st.follow(1)
			defer w.Close()
			st.deliver(log[gone:]...)
			st.saw(w, "opened 1.0", "message 1 a", "message 2 b", "message 3 c", "message 4 d")
		})
	}
}

// A watch is refused of a room that is not there, and from where the room has not
// been yet; and it leaves nothing behind.
func TestFeed_watch_refused(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		if _, err := st.hub.watch(t.Context(), room, 0, 0); !errors.Is(err, roomstore.ErrNoRoom) {
			t.Errorf("no room: %v", err)
		}
		st.happened(stamped(joined(1, 1, "ana", 1)))
		_, err := st.hub.watch(t.Context(), room, 3, 0)
		if e := (*protocol.Error)(nil); !errors.As(err, &e) || e.Code != protocol.CodeBadParameter || !strings.Contains(e.Message, "from 3") || !strings.Contains(e.Message, "will be 2") {
			t.Errorf("from 3: %v", err)
		}
		st.history = nil
		if _, err := st.hub.watch(t.Context(), room, 0, 0); err == nil {
			t.Error("the store is away, and the watch began")
		}
		st.history = func(roomstore.Position) (roomstore.History, error) { return roomstore.History{}, roomstore.ErrEpoch }
		if _, err := st.hub.watch(t.Context(), room, 0, 0); !errors.Is(err, errUnavailable) {
			t.Errorf("the room is always another: %v", err)
		}
		if n := st.hub.stats.Watches.Load(); n != 0 || len(st.f.watchers) != 0 {
			t.Errorf("%d watches are counted, %d are there", n, len(st.f.watchers))
		}
	})
}

// A gateway has so many watches at once and no more; one that goes makes room.
func TestFeed_watch_limit(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		st.happened(stamped(joined(1, 1, "ana", 1)))
		var all []*watcher
		for range maxWatches {
			all = append(all, st.follow(0))
		}
		_, err := st.hub.watch(t.Context(), room, 0, 0)
		if e := (*protocol.Error)(nil); !errors.As(err, &e) || e.Code != protocol.CodeTooFast || !strings.Contains(e.Message, fmt.Sprint(maxWatches)) {
			t.Errorf("one more: %v", err)
		}
		all[0].Close()
		all[0] = st.follow(0)
		for _, w := range all {
			w.Close()
		}
	})
}

// A reader that is too slow is told so once it reads again, and nothing else: what
// waits for it has a bound. The others go on.
func TestFeed_watch_slow(t *testing.T) {
	for _, tt := range []struct {
		name  string
		text  string
		count int
	}{
		{"events", "x", watchEvents + 1},
		{"bytes", strings.Repeat("x", 2048), watchBytes/2048 + 1},
	} {
		play(t, func(t *testing.T, st *stage) {
			st.happened(stamped(joined(1, 1, "ana", 1)))
			slow, fast := st.follow(0), st.follow(0)
			defer slow.Close()
			defer fast.Close()
			st.saw(slow, "opened 1.1")
			st.saw(fast, "opened 1.1")
			for i := range tt.count {
				st.deliver(stamped(message(1, int64(2+i), "ana", tt.text))...)
				if n := len(st.seen(fast)); n != 1 {
					t.Fatalf("%s: %d events at once", tt.name, n)
				}
				if i == tt.count/2 && slow.end != "" {
					t.Errorf("%s: %d were too many", tt.name, i)
				}
			}
			st.deliver(stamped(message(1, int64(2+tt.count), "ana", "y"))...)
			st.saw(slow, "end slow")
			st.saw(fast, fmt.Sprintf("message %d y", 2+tt.count))
		})
	}
}

// What a watch opens with does not count against what may wait for it, and comes in
// batches; and one whose reader is too slow for what comes live has had all of it.
func TestFeed_watch_openingWhole(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		var log []roomstore.Event
		seq := int64(0)
		add := func(e roomstore.Event) {
			log = append(log, e)
			seq += 2 // a gap behind each
		}
		for i := range 500 {
			add(joined(1, seq+1, fmt.Sprintf("u%d", i), 1))
		}
		for i := range 500 {
			add(left(1, seq+1, fmt.Sprintf("u%d", i), 1, roomstore.ReasonLeft))
		}
		for range watchEvents {
			add(stamped(message(1, seq+1, "ana", strings.Repeat("x", 1000)))[0])
		}
		last := at(1, seq)
		st.head = last
		st.history = func(roomstore.Position) (roomstore.History, error) {
			return roomstore.History{Position: last, Life: roomstore.Life{Position: last}, Events: log}, nil
		}
		w := st.follow(1)
		defer w.Close()
		for i := range watchEvents {
			st.f.Deliver(envelope(stamped(message(1, seq+1+int64(i), "ana", "x"))[0]))
		}
		synctest.Wait()
		if w.end != "" {
			t.Errorf("ended %s with as many as may wait", w.end)
		}
		st.deliver(stamped(message(1, seq+1+watchEvents, "ana", "x"))...)
		batches, opened := 0, 1+2*len(log)
		var got []serverapi.Event
		for len(got) == 0 || !got[len(got)-1].Last {
			events := w.Next(t.Context())
			if text, err := json.Marshal(events); err != nil || len(text) > 2*watchBatch {
				t.Fatalf("%d events of %d bytes in one batch, %v", len(events), len(text), err)
			}
			batches++
			got = append(got, events...)
		}
		if len(got) != opened+1 || got[0].Name != sightOpened || got[1].Seq != 1 || got[opened-1].Name != sightLost {
			t.Errorf("%d events, want the %d of the opening and the end", len(got), opened)
		}
		if want := fmt.Sprint(sightOfLoss{1, seq, seq}); fmt.Sprint(got[opened-1].Data) != want {
			t.Errorf("the opening ends with %v, want %s", got[opened-1].Data, want)
		}
		if d := fmt.Sprint(got[opened].Data); d != "{slow}" || batches < 100 {
			t.Errorf("%d batches, and then %s", batches, d)
		}
	})
}

// From where a watch goes on is a seq of one life; of another one it begins anew, or
// goes on where that one went on to, and says so.
func TestFeed_watch_epoch(t *testing.T) {
	for _, tt := range []struct {
		name        string
		from, epoch int64
		want        []string
	}{
		{"that of now", 12, 9, []string{"opened 9.11", "message 12 b"}},
		{"beyond the end of an earlier life", 600, 3, []string{"opened 9.0 for 3", "lost 1-10", "message 11 a", "message 12 b"}},
		{"within an earlier life", 2, 3, []string{"opened 9.0 for 3", "lost 1-10", "message 11 a", "message 12 b"}},
		{"a later life", 2, 10, []string{"opened 9.0 for 10", "lost 1-10", "message 11 a", "message 12 b"}},
		{"before a healing", 6, 5, []string{"opened 5.5", "lost 6-9", "healed 9.10 from 5", "message 11 a", "message 12 b"}},
		{"right before a healing", 10, 5, []string{"opened 5.9", "healed 9.10 from 5", "message 11 a", "message 12 b"}},
		{"any", 2, 0, []string{"opened 9.1", "lost 2-10", "message 11 a", "message 12 b"}},
	} {
		play(t, func(t *testing.T, st *stage) {
			life := roomstore.Life{Position: at(9, 12), Base: 10, Lineage: ",5,"}
			st.head = life.Position
			st.lineage(life)
			// Entries of before the healing are known by the members that were put back.
			log := append([]roomstore.Event{joined(9, 2, "ana", 1), joined(9, 7, "bo", 2)}, stamped(message(9, 11, "ana", "a"), message(9, 12, "ana", "b"))...)
			st.knows(log)
			answer := st.history
			st.history = func(after roomstore.Position) (roomstore.History, error) {
				if after.Epoch != life.Epoch {
					return roomstore.History{Life: life}, roomstore.ErrEpoch
				}
				h, err := answer(after)
				h.Life = life
				return h, err
			}
			w, err := st.hub.watch(t.Context(), room, tt.from, tt.epoch)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			defer w.Close()
			if diff := cmp.Diff(tt.want, st.seen(w)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.name, diff)
			}
		})
	}
}

// Whoever watches a room with nobody in it here hears that it is over, or goes on, also
// if that shows only by another look at the store.
func TestFeed_watch_another(t *testing.T) {
	for _, tt := range []struct {
		lineage roomstore.Lineage
		want    []string
	}{
		{"", []string{"opened 1.1", "end over"}},
		{",1,", []string{"opened 1.1", "healed 5.2 from 1", "message 3 a"}},
	} {
		play(t, func(t *testing.T, st *stage) {
			st.happened(stamped(joined(1, 1, "ana", 1)))
			w := st.follow(0)
			defer w.Close()
			life := roomstore.Life{Position: at(5, 3), Base: 2, Lineage: tt.lineage}
			if tt.lineage == "" {
				life.Base = 0
			}
			st.calm(func() {
				st.lineage(life)
				st.happened(stamped(message(5, 1, "ana", "x"), message(5, 2, "ana", "x"), message(5, 3, "ana", "a")))
				answer := st.history
				st.history = func(after roomstore.Position) (roomstore.History, error) {
					h, err := answer(after)
					h.Life = life
					return h, err
				}
			})
			other := st.follow(0)
			defer other.Close()
			st.saw(other, "opened 5.3")
			st.saw(w, tt.want...)
		})
	}
}

// What is missing is fetched for a watch as for members, also where there are none;
// and if it cannot be had the watch is told.
func TestFeed_watch_hole(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		log := stamped(joined(1, 1, "ana", 1), message(1, 2, "ana", "a"), message(1, 3, "ana", "b"), message(1, 4, "ana", "c"),
			message(1, 5, "ana", "d"), message(1, 6, "ana", "e"))
		st.happened(log[:1])
		w := st.follow(0)
		defer w.Close()
		st.history = nil // it is away for a while
		st.deliver(log[2])
		time.Sleep(5 * time.Second)
		st.saw(w, "opened 1.1")
		st.calm(func() { st.happened(log[:3]) })
		time.Sleep(5 * time.Second)
		st.saw(w, "message 2 a", "message 3 b")
		st.calm(func() { st.happened(log, 4) })
		st.deliver(log[5])
		time.Sleep(time.Second)
		st.saw(w, "lost 4-4", "message 5 d", "message 6 e")
	})
}

// A watch ends with the room, also if its last event is lost.
func TestFeed_watch_gone(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		st.happened(stamped(joined(1, 1, "ana", 1)))
		w := st.follow(0)
		defer w.Close()
		st.saw(w, "opened 1.1")
		st.calm(func() {
			st.head = roomstore.Position{}
			st.history = func(roomstore.Position) (roomstore.History, error) { return roomstore.History{}, roomstore.ErrNoRoom }
		})
		st.f.Gap()
		time.Sleep(5 * time.Second)
		st.saw(w, "end over")
	})
	play(t, func(t *testing.T, st *stage) {
		st.happened(stamped(joined(1, 1, "ana", 1)))
		w := st.follow(0)
		defer w.Close()
		st.saw(w, "opened 1.1")
		st.calm(func() {
			st.head = roomstore.Position{}
			st.history = func(roomstore.Position) (roomstore.History, error) { return roomstore.History{}, roomstore.ErrNoRoom }
		})
		st.f.Gap()
		time.Sleep(100 * time.Millisecond) // it is on its way
		st.deliver(stamped(destroyed(1, 2))...)
		st.saw(w, "destroyed 2  destroyed", "end over")
	})
}

// After a loss of data a watch goes on with the room where that is known, and else
// says that it does not know.
func TestFeed_watch_healed(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		st.happened(stamped(joined(1, 1, "ana", 1)))
		w := st.follow(0)
		defer w.Close()
		st.deliver(roomstore.Event{Position: at(5, 9), Kind: roomstore.KindHealed, Lineage: ",1,"})
		st.deliver(stamped(message(5, 10, "ana", "a"))...)
		st.saw(w, "opened 1.1", "healed 5.9 from 1", "message 10 a")
		st.f.settle(roomstore.Life{Position: at(5, 10)}, false)
		st.saw(w, "end interrupted")
	})
}

// A gateway that stops ends its watches, and says so.
func TestFeed_watch_stopping(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		st.happened(stamped(joined(1, 1, "ana", 1)))
		w := st.follow(0)
		defer w.Close()
		st.saw(w, "opened 1.1")
		st.f.stop()
		st.saw(w, "end stopping")
	})
}

// Watches share the subscription of their room with each other and the members, and
// it goes a while after the last of them.
func TestFeed_watch_linger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &stage{t: t, bus: &fakeBus{}}
		st.happened(stamped(joined(1, 1, "ana", 1)))
		st.hub = startHub(t, &fakeHistory{
			catchup: func(_ context.Context, _ roomstore.RoomID, after roomstore.Position) (roomstore.History, error) {
				return st.history(after)
			},
			positions: func() map[roomstore.RoomID]roomstore.Position {
				return map[roomstore.RoomID]roomstore.Position{room: st.head}
			},
		}, st.bus)
		topic := "ch:" + string(room)
		one := st.follow(0)
		first := st.bus.handler(topic)
		two := st.follow(0)
		if first == nil || st.bus.handler(topic) != first || one.f != two.f {
			t.Errorf("two watches have the subscriptions %v and %v", first, st.bus.handler(topic))
		}
		one.Close()
		time.Sleep(2 * feedLinger)
		if st.bus.handler(topic) != first {
			t.Error("the subscription went before the last watch")
		}
		two.Close()
		time.Sleep(2 * feedLinger)
		if st.bus.handler(topic) != nil {
			t.Error("the subscription stays behind the last watch")
		}
	})
}

// Each kind of event is told as the description has it.
func TestSighting_told(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		event roomstore.Event
		want  string
	}{
		{
			roomstore.Event{Position: at(1, 2), At: 3, Kind: roomstore.KindAttributes, User: "ana", Attributes: &roomstore.AttributesChanged{
				Set: []roomstore.Attribute{{Key: "k", Value: "v", Owner: "ana"}}, Deleted: []string{"l"},
			}},
			`attributes {"epoch":1,"seq":2,"time":3,"userID":"ana","set":{"k":"v"},"deleted":["l"]}`,
		},
		{
			roomstore.Event{Position: at(1, 2), At: 3, Kind: roomstore.KindMemberAttributes, User: "ana", Attributes: &roomstore.AttributesChanged{
				Members: []roomstore.MemberAttributes{{User: "bo", Pairs: []roomstore.Pair{{Key: "k", Value: "v"}}}},
			}},
			`memberAttributes {"epoch":1,"seq":2,"time":3,"userID":"ana","infos":[{"userID":"bo","attributes":{"k":"v"}}]}`,
		},
		{
			roomstore.Event{Position: at(1, 2), Kind: roomstore.KindJoined, Uncounted: true, User: "ana", Data: `{"userName":"Ana"}`},
			`memberJoined {"epoch":1,"seq":2,"user":{"userID":"ana","userName":"Ana","userAvatarUrl":"","userExtendedData":""}}`,
		},
		{
			roomstore.Event{Position: at(1, 2), At: 3, Kind: roomstore.KindLeft, User: "ana", Reason: roomstore.ReasonLeft, Data: `broken`},
			`memberLeft {"epoch":1,"seq":2,"time":3,"user":{"userID":"ana","userName":"","userAvatarUrl":"","userExtendedData":""},"memberCount":0,"reason":"left"}`,
		},
		{ // known by what is stored only
			roomstore.Event{Position: at(1, 2), Kind: roomstore.KindLeft, User: "ana", Reason: roomstore.ReasonLeft, Data: `broken`},
			`memberLeft {"epoch":1,"seq":2,"user":{"userID":"ana","userName":"","userAvatarUrl":"","userExtendedData":""},"memberCount":0,"reason":"left"}`,
		},
		{
			stamped(command(1, 0, "ana", "x", 2))[0],
			`command {"epoch":1,"time":1700000000000,"after":0,"message":{"type":20,"message":"x","subType":0,"extendedData":"","priority":2,` +
				`"senderUserID":"ana","conversationID":"R","conversationType":1,"messageID":"cx","messageSeq":0,"orderKey":0,"timestamp":1700000000000}}`,
		},
	} {
		e := (&sighting{event: tt.event}).told(room)
		data, err := json.Marshal(e.Data)
		if err != nil {
			t.Fatal(err)
		}
		apitest.Event(t, e.Name, data)
		if got := e.Name + " " + string(data); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}
