package gateway

// This file is how a session that comes back hears what it missed.

import (
	"context"
	"errors"
	"slices"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// sight is how far a client that comes back knows a room.
type sight struct {
	roomstore.Position
	members int64 // seq up to which it has been told of members, if further
}

// slowTimes is how often, within a minute, a client may be cut off since it
// reads too slowly, and still be told all it missed. After that it goes on from
// where the room is: it would never catch up.
const slowTimes = 2

// rejoin makes a session whose socket has come back a member again, and hands
// it what it missed after the position its client named; seen is nil if the
// client named none. say queues what comes first; nil: (connected, success).
// The caller's use of the feed becomes the member's, also if this fails.
func (f *feed) rejoin(ctx context.Context, s *session, back roomstore.Return, seen *sight, say func()) error {
	from := back.Position
	if seen != nil && seen.Epoch == back.Epoch && seen.Seq <= back.Seq {
		from = seen.Position
	}
	if f.rejoinFromRing(s, back, from, seen, say) {
		return nil
	}
	for lost, overtaken := false, false; ; {
		h, err := f.hub.store.Catchup(ctx, f.room, from)
		if errors.Is(err, roomstore.ErrEpoch) && h.Life.Lineage.Has(from.Epoch) {
			// Data was lost meanwhile, and with it perhaps the end of its membership.
			back.Position, from, lost = h.Life.Position, h.Life.Position, true
			continue
		}
		if done, err := f.rejoinFromStore(s, back, from, seen, say, h, err, overtaken); done {
			if lost {
				f.mu.Lock()
				f.doubtMembers()
				f.mu.Unlock()
			}
			return err
		}
		// Meanwhile the feed has had, and let go, what came after h; or it has
		// heard of a later epoch, which the store knows by now.
		overtaken = true
	}
}

// rejoinFromStore is rejoin with what the store knew, unless that is too old.
func (f *feed) rejoinFromStore(s *session, back roomstore.Return, from roomstore.Position, seen *sight, say func(),
	h roomstore.History, err error, overtaken bool) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if errors.Is(err, roomstore.ErrNoRoom) || errors.Is(err, roomstore.ErrEpoch) {
		if f.at.Epoch != 0 && f.at.Epoch < from.Epoch {
			f.moveOn(h.Life, protocol.RoomNotExist) // whoever is here is in an earlier life
		}
		f.gone(s, say)
		return true, nil
	}
	if err != nil {
		f.hub.close(f)
		return true, err
	}
	if h.Epoch < f.at.Epoch && h.Epoch > f.ended && !overtaken {
		return false, nil
	}
	if !f.begin(roomstore.Life{Position: h.Position, Base: h.Life.Base, Lineage: h.Life.Lineage}) {
		f.gone(s, say)
		return true, nil
	}
	if !f.has(h.Seq) {
		return false, nil
	}
	f.describe(h.Attributes, h.Seq)
	f.welcome(s, back, from, seen, say, h.Events, h.Complete, h.Position, h.Count)
	return true, nil
}

// rejoinFromRing is rejoin without asking the store, if the feed has all that
// is missing.
func (f *feed) rejoinFromRing(s *session, back roomstore.Return, from roomstore.Position, seen *sight, say func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at.Epoch != from.Epoch || f.at.Seq < back.Seq || f.filling || !f.has(from.Seq) {
		return false
	}
	events := slices.AppendSeq(make([]roomstore.Event, 0, max(0, f.at.Seq-from.Seq)), f.ring.after(from.Seq))
	if !whole(events, from.Seq, f.at.Seq) {
		return false
	}
	f.welcome(s, back, from, seen, say, events, true, f.at, 0)
	return true
}

// whole says whether events are those of every seq in (after, head].
func whole(events []roomstore.Event, after, head int64) bool {
	return int64(len(events)) == head-after && (len(events) == 0 || events[0].Seq == after+1)
}

// welcome adds a member that has come back and tells it what it missed up to
// head: events are those after from, if whole. count is that of the members then, 0 if
// it is not known.
func (f *feed) welcome(s *session, back roomstore.Return, from roomstore.Position, seen *sight, say func(),
	events []roomstore.Event, whole bool, head roomstore.Position, count int64) {
	f.name, f.delay = back.Name, back.Delay
	m := &member{s: s, from: head.Seq, entered: back.Entered}
	if !f.add(m) {
		f.hub.close(f)
		return
	}
	// What follows its own departure is not for it.
	end := m.end(events)
	connected := func(at roomstore.Position) {
		if say != nil {
			say()
			return
		}
		s.event(roomConnected(f.room, at), classPull, f.room)
	}
	switch {
	case seen != nil && seen.Epoch != back.Epoch:
		// What the client knows is of another life, or of this one before data
		// was lost.
		connected(head)
		if say != nil {
			f.interrupt(m, head)
		}
		s.event(historyLost(f.room, 0, head.Seq), classPull, f.room)
	case !whole, say == nil && s.who.Slow > slowTimes && from.Seq < head.Seq:
		f.hub.stats.HistoryLost.Add(1)
		connected(head)
		s.event(historyLost(f.room, from.Seq, head.Seq), classPull, f.room)
	default:
		connected(from)
		told := events
		if end >= 0 {
			told = events[:end]
		}
		known := from.Seq
		if seen != nil {
			known = max(known, seen.members)
		}
		frames := missed(f.room, m, told, known)
		if say != nil {
			// An entry: it hears each event, as it would have right after it.
			frames = f.framedFor(s, told)
		}
		for _, b := range frames {
			s.event(b, classPull, f.room)
		}
	}
	if end < 0 {
		f.tellMode(m, count, head)
	}
	if end < 0 || !f.ownDeparture(m, events[end]) {
		f.since(m, head.Seq)
	}
	f.catchEarly()
}

// framedFor encodes events for one session.
func (f *feed) framedFor(s *session, events []roomstore.Event) (frames [][]byte) {
	m := &member{s: s}
	for _, e := range events {
		if b := f.framed(e); b != nil && m.hears(e) {
			frames = append(frames, b)
		}
	}
	return frames
}

// missed frames what a session that was away gets: who left and who came, as
// the net difference and one event each, then what was kept, in order.
//
// known is up to where the client has been told of members, which can be
// further than its position: if something kept follows the difference, that,
// and not the difference, moves the position, so that a link lost in between
// loses nothing. The difference then carries membersSeq instead of a seq; if
// it comes to nothing, the first message carries it.
func missed(room roomstore.RoomID, m *member, events []roomstore.Event, known int64) [][]byte {
	var kept []roomstore.Event // messages, and changes of attributes
	var count, last int64
	for _, e := range events {
		switch e.Kind {
		case roomstore.KindMessage, roomstore.KindAttributes, roomstore.KindMemberAttributes:
			if m.hears(e) {
				kept = append(kept, e)
			}
		case roomstore.KindJoined, roomstore.KindLeft:
			count, last = e.Count, e.Seq
		}
	}
	left, joined := difference(events, func(e roomstore.Event) bool { return e.User != m.s.who.User && e.Seq > known })
	final := seqOf(last)
	if len(kept) > 0 {
		final = membersSeqOf(last)
	}
	var frames [][]byte
	if len(left) > 0 {
		at := final
		if len(joined) > 0 {
			at = noPosition // the difference is told only with its second half
		}
		frames = append(frames, membersFrame(protocol.EventRoomMemberLeft, room, left, count, at))
	}
	if len(joined) > 0 {
		frames = append(frames, membersFrame(protocol.EventRoomMemberJoined, room, joined, count, final))
	}
	for i, e := range kept {
		membersSeq := int64(0)
		if i == 0 && len(frames) == 0 && last > known {
			// A difference that comes to nothing: this says it, since it moves the
			// position to between changes of which none was told.
			membersSeq = last
		}
		if e.Kind == roomstore.KindMessage {
			frames = append(frames, messageFrame(room, e, membersSeq))
		} else {
			frames = append(frames, attributesFrame(room, e, membersSeq))
		}
	}
	return frames
}
