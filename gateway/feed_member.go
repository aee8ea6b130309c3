package gateway

// This file is how sessions come into a feed and go from it.

import (
	"context"
	"errors"
	"slices"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// member is a session with its socket here, in this room.
type member struct {
	s       *session
	from    int64 // gets events after this seq
	entered int64 // seq of the membership's entry event
	leaving int   // requests of its own that will say that it has left
	doubted int   // such requests that could not, and are finding out whether it has
	asking  int   // requests that change attributes and are not answered
	exact   int   // queries that are not answered

	untold protocol.RoomEvent // why it ended while it was leaving or doubted, if it did
}

// depart ends the local membership of a session whose departure e is.
func (f *feed) depart(id roomstore.SessionID, e roomstore.Event) {
	i := f.find(id)
	if i < 0 || f.members[i].from >= e.Seq {
		return
	}
	m := f.members[i]
	f.tellLast(m, e.Seq)
	f.remove(i)
	switch {
	case e.Kind == roomstore.KindMoved:
		m.s.roomOver(f.room, protocol.RoomKickedOutByOtherDevice, "")
	case m.leaving > 0 && e.Reason == roomstore.ReasonLeft:
		m.untold = protocol.RoomSuccess // its own request says so, in its answer
	default:
		m.s.roomOver(f.room, overEvent(e.Reason), e.Extended)
	}
}

// overEvent is what a client hears of a membership that ended for a reason.
func overEvent(r roomstore.Reason) protocol.RoomEvent {
	switch r {
	case roomstore.ReasonLeft:
		return protocol.RoomSuccess
	case roomstore.ReasonKicked:
		return protocol.RoomKickedOut
	case roomstore.ReasonTimeout, roomstore.ReasonRecreated:
		return protocol.RoomConnectTimeout
	case roomstore.ReasonDevice:
		return protocol.RoomKickedOutByOtherDevice
	case roomstore.ReasonReplaced:
		return protocol.RoomNetworkDisconnected
	case roomstore.ReasonNoRoom, roomstore.ReasonDestroyed, roomstore.ReasonEmptied:
		return protocol.RoomNotExist
	}
	return protocol.RoomNetworkDisconnected
}

func (f *feed) find(id roomstore.SessionID) int {
	return slices.IndexFunc(f.members, func(m *member) bool { return m.s.who.ID == id })
}

// follows says whether a session is a member that has been told of all up to a
// position.
func (f *feed) follows(id roomstore.SessionID, at roomstore.Position) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(id)
	return i >= 0 && f.at.Epoch == at.Epoch && f.members[i].from >= at.Seq
}

// remove forgets a member. The order of the others does not matter.
func (f *feed) remove(i int) {
	last := len(f.members) - 1
	f.members[i] = f.members[last]
	f.members[last] = nil
	f.members = f.members[:last]
	if last == 0 {
		f.hub.stats.Occupied.Add(-1)
	}
	f.hub.close(f)
}

// admit makes a session a member from its entry on. say queues what the
// client hears of the entry; the events that have come since follow. The
// caller's use of the feed becomes the member's.
//
// It does nothing, and says so, if the feed does not have those events any
// more; then the member is to come in by rejoin.
func (f *feed) admit(s *session, e roomstore.Entry, say func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.Epoch < f.at.Epoch && e.Epoch > f.ended || len(f.members) > 0 && e.Epoch > f.at.Epoch {
		return false // only the store knows whether one goes back to the other
	}
	if !f.begin(roomstore.Life{Position: e.Position}) {
		f.gone(s, say)
		return true
	}
	if !f.has(e.Seq) {
		return false
	}
	f.name, f.delay = e.Name, e.Delay
	f.describe(e.Attributes, e.Seq)
	f.confirmed(e.Position)
	m := &member{s: s, from: e.Seq, entered: e.Entered}
	if !f.add(m) {
		say()
		f.hub.close(f)
		return true
	}
	say()
	f.tellMode(m, e.Count, e.Position)
	f.since(m, e.Seq)
	f.catchEarly()
	return true
}

// gone ends the caller's use of the feed for a session whose room is gone
// already, and its membership from before, of whose end nothing has come here.
func (f *feed) gone(s *session, say func()) {
	if i := f.find(s.who.ID); i >= 0 && f.members[i].s == s {
		f.remove(i)
	}
	if say != nil {
		say()
	}
	f.hub.close(f)
	s.destroyed(f.room, protocol.RoomNotExist)
}

// add puts a member on the feed, unless its session's socket has closed.
func (f *feed) add(m *member) bool {
	i := f.find(m.s.who.ID)
	if i >= 0 && f.members[i].s.who.Generation > m.s.who.Generation {
		return false // it goes on over another connection to this node
	}
	if f.stopped || !m.s.attach(f) {
		return false
	}
	if i >= 0 {
		f.members[i] = m // it has a use of the feed already
		f.hub.close(f)
		return true
	}
	f.members = append(f.members, m)
	if len(f.members) == 1 {
		f.hub.stats.Occupied.Add(1)
	}
	return true
}

// since hands a member that was just added the events after seq that the
// others have had already. The feed must have them.
func (f *feed) since(m *member, seq int64) {
	told := f.told()
	for e := range f.ring.after(seq) {
		if f.ownDeparture(m, e) {
			return
		}
		if (e.Seq > told || f.sampled()) && (e.Kind == roomstore.KindJoined || e.Kind == roomstore.KindLeft) {
			continue // it is told with the others, or not at all
		}
		if b := f.framed(e); b != nil && m.hears(e) {
			m.s.event(b, classKept, f.room)
		}
	}
}

// ends says whether e is the end of the membership.
func (m *member) ends(e roomstore.Event) bool {
	return e.Seq > m.entered &&
		(e.Kind == roomstore.KindLeft && e.Origin == m.s.who.ID || e.Kind == roomstore.KindMoved && e.Old == m.s.who.ID)
}

// end finds the end of the membership among events, -1 if it goes on behind
// them: the place may have gone to another device and come back.
func (m *member) end(events []roomstore.Event) int {
	end := -1
	for i, e := range events {
		switch {
		case m.ends(e):
			if end < 0 {
				end = i
			}
		case e.Origin == m.s.who.ID && (e.Kind == roomstore.KindJoined || e.Kind == roomstore.KindMoved):
			end = -1
		}
	}
	return end
}

// ownDeparture ends the membership if that is what e is about.
func (f *feed) ownDeparture(m *member, e roomstore.Event) bool {
	if !m.ends(e) {
		return false
	}
	if i := f.find(m.s.who.ID); i >= 0 && f.members[i] == m {
		m.from = min(m.from, e.Seq-1)
		f.depart(m.s.who.ID, e)
	}
	return true
}

// detach forgets a session whose socket has closed, or is about to, and says
// whether it was a member.
func (f *feed) detach(s *session) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(s.who.ID)
	if i < 0 || f.members[i].s != s {
		return false
	}
	f.remove(i)
	return true
}

// leaving notes that a request of the session's own is about to end its
// membership, and gives that, nil if there is none.
func (f *feed) leaving(id roomstore.SessionID) *member {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(id)
	if i < 0 {
		return nil
	}
	f.members[i].leaving++
	return f.members[i]
}

// doubts notes that such a request has said that it does not know, and goes on to find
// out. If it has left its event says so, unless another request is about to; how it ended
// if the room did is said when more is known.
func (f *feed) doubts(m *member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.leaving--
	m.doubted++
	if m.leaving == 0 && m.untold == protocol.RoomSuccess {
		f.tellEnd(m)
	}
}

// stays notes that the request will not say so after all. If the membership has
// ended meanwhile the client hears of it now.
func (f *feed) stays(m *member, doubted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.over(doubted) {
		f.tellEnd(m)
	}
}

// yields notes that the request will not say so, as a repeat of it does.
func (f *feed) yields(m *member, doubted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.over(doubted) {
		m.untold = ""
	}
}

// over notes that a request to leave is over, and says whether it was the last.
func (m *member) over(doubted bool) bool {
	if doubted {
		m.doubted--
	} else {
		m.leaving--
	}
	return m.leaving == 0 && m.doubted == 0
}

// tellEnd tells a client how its membership has ended, unless it has heard so, or has
// entered again since.
func (f *feed) tellEnd(m *member) {
	if m.untold != "" && m.s.in(f.room) == f && f.find(m.s.who.ID) < 0 {
		m.s.destroyed(f.room, m.untold)
	}
	m.untold = ""
}

// standing runs say with the position up to which a member has had everything;
// nothing comes between. It does nothing, and says so, if the membership has
// ended.
func (f *feed) standing(id roomstore.SessionID, say func(roomstore.Position)) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.find(id) < 0 {
		return false
	}
	f.upToDate()
	say(f.at)
	f.tellMode(f.members[f.find(id)], 0, f.at)
	return true
}

// departed waits until all events up to a departure of a session have been
// handed on; none follows. in says that the session is a member all the same:
// this was the repeat of an old request, and it has entered again since.
//
// sure is false if the feed cannot tell: the room goes on under another epoch,
// to which the departure may be lost, or the events have not come in time.
func (f *feed) departed(ctx context.Context, id roomstore.SessionID, at roomstore.Position) (in, sure bool) {
	done := make(chan struct{})
	over := false // guarded by f.mu
	f.wait(waiter{at: at, out: true, do: func() {
		if over {
			return
		}
		defer close(done)
		i := f.find(id)
		reached := f.at.Epoch == at.Epoch && f.at.Seq >= at.Seq
		if f.at.Epoch > at.Epoch && !f.lineage.Has(at.Epoch) {
			// That life is over, and who is a member is so of a later one.
			in, sure = i >= 0, true
			return
		}
		if i >= 0 && reached && f.members[i].from < at.Seq {
			f.remove(i)
			i = -1
		}
		in, sure = i >= 0, i < 0 || reached
	}})
	select {
	case <-done:
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		over = true
	}
	return in, sure
}

// out is departed when it is known that the departure stands, whether or not its
// event ever comes.
func (f *feed) out(id roomstore.SessionID, at roomstore.Position) (in bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(id)
	before := f.at.Epoch == at.Epoch || f.lineage.Has(at.Epoch) // seqs can be compared
	if i >= 0 && before && f.members[i].entered < at.Seq {
		f.remove(i)
		return false
	}
	return i >= 0
}

// departure is what a request knows that is to take its session out of a room.
type departure struct {
	s    *session
	room roomstore.RoomID
	f    *feed              // nil if it is not in the room, as far as is known here
	m    *member            // likewise, or nothing is said of it any more
	open bool               // see doubts
	at   roomstore.Position // that the store has answered with
	in   bool               // it is in the room all the same
}

// departing notes that a request of the session's own is about to take it out of
// a room.
func (s *session) departing(room roomstore.RoomID) *departure {
	d := &departure{s: s, room: room, f: s.in(room)}
	if d.f != nil {
		d.m = d.f.leaving(s.who.ID)
	}
	return d
}

// agrees waits until nothing of the room follows, now that the store has answered
// with the position of the departure. It is false if the store is to be asked
// again, since data may have been lost: only what it says twice is so.
func (d *departure) agrees(ctx context.Context, at roomstore.Position) bool {
	before := d.at
	d.at = at
	if d.f == nil {
		return true
	}
	in, sure := d.f.departed(ctx, d.s.who.ID, at)
	if !sure && at == before {
		in, sure = d.f.out(d.s.who.ID, at), true
	}
	d.in = in
	return sure
}

// refused says whether the store, asked again, does not know the membership any
// more that it has ended before. Then it is over, too.
func (d *departure) refused(err error) bool {
	if d.at.Epoch == 0 || !errors.Is(err, roomstore.ErrNotMember) && !errors.Is(err, roomstore.ErrNoRoom) {
		return false
	}
	if d.f != nil {
		d.in = d.f.out(d.s.who.ID, d.at)
	}
	return true
}

// tell tells the client that it is out of the room, unless it is not, or has been
// told by an event.
func (d *departure) tell() {
	switch {
	case d.in:
		d.stays()
	case d.f == nil || d.s.in(d.room) == d.f:
		d.s.roomOver(d.room, protocol.RoomSuccess, "")
	}
}

// stays notes that the request will not say that its session is out of the room.
func (d *departure) stays() {
	if d.m != nil {
		d.f.stays(d.m, d.open)
		d.m = nil
	}
}

// yields notes that a repeat of the request says whether it is.
func (d *departure) yields() {
	if d.m != nil {
		d.f.yields(d.m, d.open)
		d.m = nil
	}
}

// doubts notes that the request is finding out whether it is; then it calls tell, stays
// or yields.
func (d *departure) doubts() {
	if d.m != nil {
		d.f.doubts(d.m)
		d.open = true
	}
}
