package client

import (
	"slices"

	"github.com/roomgate/roomgate/protocol"
)

// A room is how far the client knows a room it is in.
type room struct {
	id string
	at protocol.Position // what lies in (base, at.Seq] was passed on

	// Where the client came in, or later jumped to when history was lost.
	base int64

	// Up to where the client was told who left and who came, which can be
	// further than at: what else was missed follows that.
	members int64

	// The repeat of an entry sends what followed the entry again. If the client
	// knows all of that, it passes over it, replaying, up to at. If not, it goes
	// back to where the entry took effect; (seenLow, seenHigh] is then what had
	// been passed on before.
	replaying         bool
	seenLow, seenHigh int64
}

// connected notes the position that came with (connected, success).
func (r *room) connected(at protocol.Position) {
	r.replaying = false
	switch {
	case at.Epoch != r.at.Epoch:
		*r = room{id: r.id, at: at, base: at.Seq}
	case at.Seq > r.at.Seq:
		r.at, r.base = at, at.Seq
	case at.Seq >= r.base:
		r.replaying = at.Seq < r.at.Seq
	default:
		r.seenLow, r.seenHigh = r.base, r.at.Seq
		r.at, r.base = at, at.Seq
	}
}

// A verdict says what to do with an event.
type verdict int

const (
	fresh     verdict = iota
	duplicate         // the gateway should not have sent it
	repeated          // it had to, but it was passed on before
)

// take moves the position on to an event with the given seq.
func (r *room) take(seq int64) verdict {
	switch {
	case seq == 0:
		return fresh
	case seq <= r.at.Seq && r.replaying:
		return repeated
	case seq <= r.at.Seq:
		return duplicate
	}
	r.replaying = false
	r.at.Seq = seq
	if r.seenLow < seq && seq <= r.seenHigh {
		return repeated
	}
	return fresh
}

// rooms are those the client is in, by the order in which it came in. They are
// few, so they are searched one by one.
type rooms []room

func (rs rooms) find(id string) *room {
	for i := range rs {
		if rs[i].id == id {
			return &rs[i]
		}
	}
	return nil
}

// note follows the client into rooms and out of them.
func (rs *rooms) note(ev *RoomStateChanged) {
	switch ev.State {
	case protocol.RoomConnected:
		at := protocol.Position{Epoch: ev.Epoch, Seq: ev.Seq}
		if r := rs.find(ev.RoomID); r != nil {
			r.connected(at)
			return
		}
		*rs = append(*rs, room{id: ev.RoomID, at: at, base: at.Seq})
	case protocol.RoomDisconnected:
		*rs = slices.DeleteFunc(*rs, func(r room) bool { return r.id == ev.RoomID })
	}
}

// positions is what a resume names.
func (rs rooms) positions() []protocol.ResumeRoom {
	var out []protocol.ResumeRoom
	for _, r := range rs {
		p := protocol.ResumeRoom{RoomID: r.id, Position: r.at}
		if r.members > r.at.Seq {
			p.MembersSeq = r.members
		}
		out = append(out, p)
	}
	return out
}
