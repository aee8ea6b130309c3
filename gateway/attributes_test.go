package gateway

import (
	"testing"
	"testing/synctest"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// attributesOf is an event by which a user has set k of members, in a room of count.
func attributesOf(seq int64, by string, count int64, of ...string) roomstore.Event {
	e := joined(1, seq, by, count)
	e.Kind, e.Data, e.Attributes = roomstore.KindMemberAttributes, "", &roomstore.AttributesChanged{}
	for _, user := range of {
		e.Attributes.Members = append(e.Attributes.Members, roomstore.MemberAttributes{
			User: roomstore.UserID(user), Pairs: []roomstore.Pair{{Key: "k", Value: "v"}},
		})
	}
	return e
}

// In a large room only those hear of members' attributes who have set them, or whose
// they are; also who comes back.
func TestFeed_memberAttributes_large(t *testing.T) {
	for _, tt := range []struct {
		count int64
		hears map[string]bool
	}{
		{toldToAll, map[string]bool{"ana": true, "bo": true, "cy": true}},
		{toldToAll + 1, map[string]bool{"ana": true, "bo": true, "cy": false}},
	} {
		play(t, func(t *testing.T, st *stage) {
			wires, sessions := map[string]*wire{}, map[string]*session{}
			for i, user := range []string{"ana", "bo", "cy"} {
				sessions[user], wires[user] = st.admit(user, entry(1, int64(i+1)))
			}
			e := attributesOf(4, "ana", tt.count, "bo", "dan")
			st.f.mu.Lock()
			st.f.at.Seq = 3
			for _, w := range wires {
				w.texts(t)
			}
			st.f.pass(e)
			st.f.mu.Unlock()
			synctest.Wait()
			for user, w := range wires {
				if got := len(w.texts(t)) == 1; got != tt.hears[user] {
					t.Errorf("%d members: %s heard of it: %t", tt.count, user, got)
				}
				if got := len(missed(room, &member{s: sessions[user]}, []roomstore.Event{e}, 3)) == 1; got != tt.hears[user] {
					t.Errorf("%d members: %s heard of it on coming back: %t", tt.count, user, got)
				}
			}
		})
	}
}

// What comes of a request that changes attributes waits for its answer, with all that is
// behind it, and nothing before it; nobody else waits.
func TestFeed_asking(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		ana, w := st.admit("ana", entry(1, 1))
		_, other := st.admit("bo", entry(1, 2))
		st.deliver(joined(1, 2, "bo", 2))
		expect(t, w, "R connected success 1.1", "R +bo 2 #2")
		expect(t, other, "R connected success 1.2")
		answered := ana.asks(room)
		st.deliver(message(1, 3, "zoe", "before"))
		expect(t, w, "R zoe: before #3")
		change := joined(1, 4, "ana", 0)
		change.Kind, change.Data, change.Attributes = roomstore.KindAttributes, "", &roomstore.AttributesChanged{Deleted: []string{"k"}}
		st.f.mu.Lock()
		st.f.pass(change)
		st.f.mu.Unlock()
		st.deliver(message(1, 5, "zoe", "behind"))
		expect(t, w)
		said := `roomAttributesUpdated {"roomID":"R","infos":[{"action":"delete","roomAttributes":{"k":""}}],"operatedInfo":{"userID":"ana"},"seq":4}`
		expect(t, other, "R zoe: before #3", said, "R zoe: behind #5")
		ana.c.sock.Queue(textOf([]byte(`{"id":7,"result":{}}`)), classKept)
		answered()
		synctest.Wait()
		expect(t, w, "answer 7", said, "R zoe: behind #5")
		st.deliver(message(1, 6, "zoe", "later"))
		expect(t, w, "R zoe: later #6")
	})
}

// A feed knows the attributes, and whose they are, from what it was told and from what
// has changed since.
func TestFeed_change(t *testing.T) {
	f := &feed{}
	event := func(seq int64, c roomstore.AttributesChanged) roomstore.Event {
		return roomstore.Event{Kind: roomstore.KindAttributes, Position: at(1, seq), Attributes: &c}
	}
	f.change(event(3, roomstore.AttributesChanged{Set: []roomstore.Attribute{{Key: "x"}}}))
	if f.described || len(f.attributes) > 0 {
		t.Errorf("knows %v of a room that was not described", f.attributes)
	}
	early := []roomstore.Attribute{{Key: "k", Value: "1", Owner: "ana"}, {Key: "l", Value: "2", Owner: "bo"}}
	changed := event(5, roomstore.AttributesChanged{
		Set:     []roomstore.Attribute{{Key: "k", Value: "3", Owner: "cy", Leaves: true}, {Key: "m", Value: "4", Owner: "cy"}},
		Deleted: []string{"l", "n"},
	})
	f.at, f.ring = at(1, 5), nil
	f.ring.add(message(1, 4, "zoe", "hi"))
	f.ring.add(changed)
	f.describe(early, 2) // an answer so late that the feed has let go of what came since
	if f.described {
		t.Errorf("knows %v of 2, and has only what came after 3", f.attributes)
	}
	f.describe(early, 3) // what has changed since is known
	known, _ := f.record("n")
	f.describe(early, 4) // of before what is known
	f.change(changed)    // is known
	want := []roomstore.Attribute{{Key: "k", Value: "3", Owner: "cy", Leaves: true}, {Key: "m", Value: "4", Owner: "cy"}}
	f.attributes[0].Value = "3"
	if len(known.Attributes) != 2 || known.Attributes[0] != want[0] {
		t.Errorf("reported %v, want %v", known.Attributes, want)
	}
	f.attributes[0].Value = "another"
	if known.Attributes[0] != want[0] {
		t.Errorf("what was reported has become %v", known.Attributes)
	}
	f.attributes[0] = want[0]
	if len(f.attributes) != 2 || f.attributes[0] != want[0] || f.attributes[1] != want[1] {
		t.Errorf("knows %v, want %v", f.attributes, want)
	}
}

// Values may be anything, and come through.
func TestAttributesFrame(t *testing.T) {
	for _, text := range []string{"", "\x00", `"\`, "é\u2028", "</script>"} {
		e := roomstore.Event{Position: at(5, 9), Kind: roomstore.KindAttributes, User: "ana", Attributes: &roomstore.AttributesChanged{
			Set: []roomstore.Attribute{{Key: text, Value: text, Owner: "ana"}}, Deleted: []string{text + "x"},
		}}
		var a protocol.AttributesUpdated
		strict(t, attributesFrame(room, e, 12), protocol.EventRoomAttributesBatchUpdated, &a)
		if len(a.Infos) != 2 || a.Infos[0].RoomAttributes[text] != text || a.Seq != 9 || a.MembersSeq != 12 || a.OperatedInfo.UserID != "ana" {
			t.Errorf("%q: got %+v", text, a)
		}
		if v, ok := a.Infos[1].RoomAttributes[text+"x"]; !ok || v != "" {
			t.Errorf("%q: deleted %v", text, a.Infos[1])
		}
	}
}
