package gateway

// This file is how a room goes on after Redis has lost data.

import (
	"slices"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// record gives what the feed knows of its room, with the members that belong to
// a node. ok is false if it knows of none.
func (f *feed) record(node string) (known roomstore.Record, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped || f.at.Epoch == 0 {
		return known, false
	}
	at := f.at
	if f.doubtful && f.sure.Epoch == at.Epoch {
		at = f.sure
	}
	known = roomstore.Record{
		Room: f.room, Position: at, Lineage: f.lineage, Name: f.name, Delay: f.delay,
		MessageSeq: f.messageSeq, OrderKey: f.orderKey, Attributes: slices.Clone(f.attributes), Described: f.described,
	}
	// What the store has answered with is known, too, though its event has not come.
	for _, w := range f.waiting {
		if w.at.Epoch == known.Epoch {
			known.Seq = max(known.Seq, w.at.Seq)
		}
	}
	for _, m := range f.members {
		known.Seq = max(known.Seq, m.entered)
		if m.s.who.Node == node {
			known.Members = append(known.Members, roomstore.Placed{Session: m.s.who, Entered: m.entered, Data: m.s.data})
		}
	}
	return known, len(known.Members) > 0
}

// doubt notes that what comes from now on may be of another term than what came.
func (f *feed) doubt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.doubtful {
		f.doubtful, f.sure = true, f.at
	}
}

// confirmed notes a position that the store answered with under a term that this
// node acts under.
func (f *feed) confirmed(at roomstore.Position) {
	if f.sure.Epoch < at.Epoch || f.sure.Epoch == at.Epoch && f.sure.Seq < at.Seq {
		f.sure = at
	}
}

// confirm notes that the store has answered under a term that this node acts
// under, unless there has been another gap.
func (f *feed) confirm() {
	f.doubtful = f.doubtful && f.hub.suspects(f)
}

// describe notes the room's attributes, as they were at a seq of its epoch: unless
// those of later are known, or the feed has let go what has changed since.
func (f *feed) describe(attributes []roomstore.Attribute, at int64) {
	if f.described && at < f.describedAt || !f.has(at) {
		return
	}
	f.attributes, f.described, f.describedAt = slices.Clone(attributes), true, at
	for e := range f.ring.after(at) {
		if e.Kind == roomstore.KindAttributes {
			f.change(e)
		}
	}
}

// settle is told which life the room is in, now that all that was known of it
// has been put back; known says whether this feed's share was. If it was not,
// since nobody here is a member, what it has handed on may be lost, and other
// events may come to have the same positions.
func (f *feed) settle(l roomstore.Life, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.confirm()
	if !known && len(f.members) == 0 && f.at.Epoch != 0 && !f.stopped {
		f.reset()
	}
	switch {
	case f.stopped:
	case f.at.Epoch == 0:
		f.seen = l.Position
	case l.Epoch == 0:
		f.lastWords(protocol.RoomNotExist)
	case l.Epoch != f.at.Epoch:
		f.goOn(l, protocol.RoomConnectTimeout)
	}
	switch {
	case f.at.Epoch == 0 || f.at.Epoch != l.Epoch || l.Seq <= f.at.Seq:
	case f.filling:
		f.again = true
	default:
		f.fill()
	}
}

// newer handles an event of a later epoch than the feed's.
func (f *feed) newer(e roomstore.Event) {
	switch {
	case e.Kind == roomstore.KindHealed:
		f.moveOn(roomstore.Life{Position: e.Position, Base: e.Seq, Lineage: e.Lineage}, protocol.RoomNotExist)
	case e.Seq == 1:
		// Our life is over, and we have not been told. Those who enter the new
		// one have their position from their entry.
		f.lastWords(protocol.RoomNotExist)
		f.keepEarly(e)
	default:
		f.keepEarly(e)
		f.fill() // the store knows whether that is ours, going on
	}
}

// moveOn leaves the feed's epoch for the later one that the room is in. If that
// goes back to ours, the members go on with it; otherwise they are told event.
//
// What happened last in our epoch may not have come: it may have been the end of
// a membership.
func (f *feed) moveOn(l roomstore.Life, event protocol.RoomEvent) {
	if f.goOn(l, event) {
		f.doubtMembers()
	}
}

// goOn is moveOn when it is known that the members are in the room. It says
// whether they go on.
func (f *feed) goOn(l roomstore.Life, event protocol.RoomEvent) bool {
	if !l.Lineage.Has(f.at.Epoch) {
		f.lastWords(event)
		return false
	}
	f.tellMembers()
	f.hub.stats.Healed.Add(1)
	f.showHealed(l)
	f.at, f.fresh = roomstore.Position{Epoch: l.Epoch, Seq: l.Base}, false
	f.goesOn()
	f.lineage = l.Lineage
	f.ring, f.commands, f.command = nil, nil, 0
	f.early = slices.DeleteFunc(f.early, func(e roomstore.Event) bool { return e.Epoch < f.at.Epoch })
	for _, m := range f.members {
		m.from, m.entered = f.at.Seq, min(m.entered, f.at.Seq)
		f.interrupt(m, f.at)
		m.s.event(historyLost(f.room, 0, f.at.Seq), classKept, f.room)
		f.tellMode(m, 0, f.at)
	}
	f.release(f.passed)
	return true
}

// interrupt tells a member that the room goes on at a position of another epoch.
func (f *feed) interrupt(m *member, at roomstore.Position) {
	m.s.event(roomState(f.room, protocol.RoomConnecting, protocol.RoomNetworkInterrupted), classKept, f.room)
	m.s.event(roomConnected(f.room, at), classKept, f.room)
}

// entered notes where a local member entered, if e is about one: one that was
// put back late has another place in the order than it had.
func (f *feed) entered(e roomstore.Event) {
	if i := f.find(e.Origin); i >= 0 {
		m := f.members[i]
		if f.crowd != nil && !f.crowd.sampled {
			f.tellOne(m, f.crowd.pending) // and what follows it is not told of itself
		}
		m.entered, m.from = e.Seq, max(m.from, e.Seq)
	}
}
