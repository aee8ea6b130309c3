//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// This file is what rooms promise, without gateways, scripts or time: one world
// that takes one step after another. A history of operations that overlapped is
// right if some order of such steps gives the same answers and was announced as
// it was, and none happens before it was asked for or after it was answered.

const (
	mostRooms    = 4
	mostUsers    = 6
	mostPlayers  = 8
	mostSessions = 64
)

// An act is what an operation does.
type act uint8

const (
	actCreate act = iota
	actJoin
	actEnter
	actSwitch
	actLeave
	actCount
	actList
	actDestroy
	actResume // changes nothing, but says which rooms the session is in
	actUndo   // takes back an entry whose client has been told that it failed
	actEvict  // of a session past its deadline, from one room
	actEnd    // of the history: nothing more may have been announced
)

func (a act) String() string {
	return [...]string{"create", "join", "enter", "switch", "leave", "count", "list", "destroy", "resume", "undo", "evict", "end"}[a]
}

func (a act) entry() bool { return a <= actEnter }
func (a act) query() bool { return a == actCount || a == actList }

// An operation is what was asked, and by whom.
type operation struct {
	act      act
	session  uint8
	user     uint8
	room, to uint8 // to: of a switch, whose room is the one left
	lasting  bool  // a room that it creates outlives its last member
	may      bool  // the switch may create the room

	// doubt numbers, from 1, the operations with unknown outcome; an undo has the
	// number of its entry. 0: the outcome is known.
	doubt int
	// settles are doubts that are over when this happens: the same session's,
	// about the same room, which this had to wait for, or all those before the
	// resume that fences them.
	settles doubts
	// early: refused before the rooms were asked, so nothing was waited for.
	early bool
}

// An outcome is what was answered.
type outcome struct {
	code    protocol.Code // 0: success
	epoch   int64
	seq     int64
	count   int64
	created bool
	users   string              // of a list, in order, a letter each
	places  [mostRooms]sighting // of a resume
	over    bool                // of a resume: the session does not go on
}

// A sighting is what a resume says of one room.
type sighting struct {
	in     bool
	epoch  int64
	seq    int64 // 0: not told
	unsure bool  // the room was over before anything could be told

	elsewhere bool // another operation is about this room
}

const mostDoubts = 256

// doubts is a set of numbers of operations with unknown outcome.
type doubts [mostDoubts / 64]uint64

func (d *doubts) has(n int) bool { return d[(n-1)/64]>>((n-1)%64)&1 == 1 }
func (d *doubts) add(n int)      { d[(n-1)/64] |= 1 << ((n - 1) % 64) }

// A seat is a user's membership of a room, for a session.
type seat struct {
	user, session uint8
	owed          uint16 // the number of the doubt that made it, which must be taken back; or 0
}

// A roomLife is that of a room, from its creation to its end.
type roomLife struct {
	on         bool
	lasting    bool
	n          uint8
	seats      [mostUsers]seat // in the order of their entry; zero behind n
	epoch, seq int64
}

// A world is all rooms of a history. It is compared as a value.
type world struct {
	rooms   [mostRooms]roomLife
	next    int // announcement
	left    int // operations with known outcome that are still to happen
	settled doubts
}

func (l *roomLife) find(user uint8) int {
	return slices.IndexFunc(l.seats[:l.n], func(s seat) bool { return s.user == user })
}

// of gives the seat of a session, or -1.
func (l *roomLife) of(session uint8) int {
	return slices.IndexFunc(l.seats[:l.n], func(s seat) bool { return s.session == session })
}

func (l *roomLife) users() string {
	var b []byte
	for _, s := range l.seats[:l.n] {
		b = append(b, 'a'+s.user)
	}
	return string(b)
}

// rules are the limits of the gateways. 0 rooms: any number.
type rules struct{ rooms, members, userRooms int }

// A judge decides which steps the world of a history can take.
type judge struct {
	rules
	entries []entry              // all that was announced
	ids     [mostSessions]string // of the sessions
}

// enter makes a user a member, or moves its place to another session. It is
// false if that is not what was announced next.
func (j *judge) enter(w *world, o *operation, room uint8) bool {
	l := &w.rooms[room]
	s := seat{user: o.user, session: o.session}
	if o.act.entry() {
		s.owed = uint16(o.doubt)
	}
	e := roomstore.Event{Kind: roomstore.KindJoined}
	if i := l.find(o.user); i >= 0 {
		e.Kind, e.Old = roomstore.KindMoved, roomstore.SessionID(j.ids[l.seats[i].session])
		l.seats[i] = s
	} else {
		if !l.on && w.next < len(j.entries) {
			*l = roomLife{on: true, lasting: o.lasting, epoch: j.entries[w.next].Epoch}
		}
		l.seats[l.n] = s
		l.n++
	}
	return j.announced(w, room, o.session, e)
}

// depart ends a membership, and the life of a room that is empty then and does
// not last. It is false if that is not what was announced next.
func (j *judge) depart(w *world, room uint8, i int, why roomstore.Reason) bool {
	l := &w.rooms[room]
	session := l.seats[i].session
	copy(l.seats[i:], l.seats[i+1:l.n])
	l.n--
	l.seats[l.n] = seat{}
	ok := j.announced(w, room, session, roomstore.Event{Kind: roomstore.KindLeft, Reason: why})
	if l.n == 0 && !l.lasting {
		return ok && j.end(w, room, roomstore.ReasonEmptied)
	}
	return ok
}

func (j *judge) end(w *world, room uint8, why roomstore.Reason) bool {
	if w.next == len(j.entries) {
		return false
	}
	l, e := &w.rooms[room], &j.entries[w.next]
	ok := e.room == room && e.Kind == roomstore.KindDestroyed && e.Reason == why && e.Epoch == l.epoch && e.Seq == l.seq+1
	w.next++
	*l = roomLife{}
	return ok
}

// announced gives a room's next event its number, and says whether it is that
// which was announced next.
func (j *judge) announced(w *world, room, session uint8, want roomstore.Event) bool {
	if w.next == len(j.entries) {
		return false
	}
	l, e := &w.rooms[room], &j.entries[w.next]
	l.seq++
	w.next++
	return e.room == room && e.Epoch == l.epoch && e.Seq == l.seq && e.Kind == want.Kind && string(e.Origin) == j.ids[session] &&
		e.Old == want.Old && e.Reason == want.Reason && e.Count == int64(l.n)
}

// full says whether no more rooms may exist.
func (r rules) full(w *world) bool {
	n := 0
	for i := range w.rooms {
		if w.rooms[i].on {
			n++
		}
	}
	return r.rooms > 0 && n >= r.rooms
}

// busy says whether a user is in as many rooms as are allowed.
func (r rules) busy(w *world, user uint8) bool {
	n := 0
	for i := range w.rooms {
		if w.rooms[i].find(user) >= 0 {
			n++
		}
	}
	return n >= r.userRooms
}

// reasons are those to refuse an operation.
type reasons struct {
	n    int
	list [4]protocol.Code
}

func (r *reasons) add(code protocol.Code, holds bool) {
	if holds {
		r.list[r.n] = code
		r.n++
	}
}

func (r *reasons) has(code protocol.Code) bool { return slices.Contains(r.list[:r.n], code) }

// against gives all reasons to refuse an operation; if there is none it must
// succeed. Which of several is named is nobody's promise.
func (r rules) against(w *world, o *operation) (no reasons) {
	room, to := &w.rooms[o.room], &w.rooms[o.to]
	in := room.of(o.session) >= 0
	switch {
	case o.act.entry():
		known := room.find(o.user) >= 0 // the place moves, if it is another session's
		no.add(protocol.CodeRoomExists, o.act == actCreate && room.on)
		no.add(protocol.CodeNoRoom, o.act == actJoin && !room.on)
		no.add(protocol.CodeRoomLimit, o.act != actJoin && !room.on && r.full(w))
		no.add(protocol.CodeUserRoomLimit, !known && r.busy(w, o.user))
		no.add(protocol.CodeRoomFull, !known && o.act != actCreate && int(room.n) >= r.members)
	case o.act == actSwitch:
		no.add(protocol.CodeBadParameter, !in || o.room == o.to)
		no.add(protocol.CodeRoomLimit, !to.on && r.full(w))
		no.add(protocol.CodeNoRoom, !to.on && !r.full(w) && !o.may)
		no.add(protocol.CodeRoomFull, to.find(o.user) < 0 && int(to.n) >= r.members)
	case o.act == actLeave:
		no.add(protocol.CodeLeaveNoRoom, !room.on)
		no.add(protocol.CodeNotInRoom, room.on && !in)
	case o.act.query():
		no.add(protocol.CodeNoRoom, !room.on)
		no.add(protocol.CodeNotInRoom, room.on && !in)
	case o.act == actDestroy:
		no.add(protocol.CodeNoRoom, !room.on)
	}
	return no
}

// apply carries an operation out that nothing is against. It gives the room
// that the answer is about, and says whether that was created, and whether the
// changes are those that were announced next.
func (j *judge) apply(w *world, o *operation) (about *roomLife, created, ok bool) {
	room := &w.rooms[o.room]
	switch o.act {
	case actCreate, actJoin, actEnter:
		created = !room.on
		return room, created, room.of(o.session) >= 0 || j.enter(w, o, o.room)
	case actSwitch:
		to := &w.rooms[o.to]
		created = !to.on
		ok = to.of(o.session) >= 0 || j.enter(w, o, o.to)
		return to, created, ok && j.depart(w, o.room, room.of(o.session), roomstore.ReasonLeft)
	case actLeave:
		return nil, false, j.depart(w, o.room, room.of(o.session), roomstore.ReasonLeft)
	case actDestroy:
		return nil, false, j.end(w, o.room, roomstore.ReasonDestroyed)
	}
	return room, false, true
}

// step says whether an operation can have come to its outcome now, and what
// then is.
func (j *judge) step(w world, o *operation, got *outcome) (bool, world) {
	if o.doubt > 0 {
		return j.maybe(w, o)
	}
	w.left--
	switch {
	case o.act == actEnd:
		return w.next == len(j.entries), w
	case o.act == actResume:
		return j.resume(w, o, got)
	case o.act == actEvict:
		i := w.rooms[o.room].of(o.session)
		return i >= 0 && j.depart(&w, o.room, i, roomstore.ReasonTimeout), w
	case o.act != actDestroy && !o.early && (w.owes(o.session, o.room) || w.owes(o.session, o.to)):
		return false, w // it would have waited for that
	}
	w.settle(o.settles)
	no := j.against(&w, o)
	if got.code != 0 {
		return no.has(got.code), w
	}
	if no.n > 0 {
		return false, w
	}
	about, created, ok := j.apply(&w, o)
	if about == nil || !ok {
		return ok, w
	}
	ok = about.epoch == got.epoch && about.seq == got.seq && created == got.created
	if o.act == actList {
		return ok && about.users() == got.users, w
	}
	return ok && int64(about.n) == got.count, w
}

// maybe is step for an operation that may have happened or not. It does only
// where that was announced, and before it is settled. One that has not is put
// behind everything that is known.
func (j *judge) maybe(w world, o *operation) (bool, world) {
	if w.left == 0 {
		return true, w
	}
	if w.settled.has(o.doubt) {
		return false, w
	}
	before := w.next
	if o.act == actUndo {
		room := &w.rooms[o.room]
		i := room.of(o.session)
		return i >= 0 && room.seats[i].owed == uint16(o.doubt) && j.depart(&w, o.room, i, roomstore.ReasonLeft), w
	}
	if no := j.against(&w, o); no.n > 0 {
		return false, w
	}
	_, _, ok := j.apply(&w, o)
	return ok && w.next > before, w
}

// resume is step for a resume. What its session had under way can neither
// happen nor be taken back any more.
func (j *judge) resume(w world, o *operation, got *outcome) (bool, world) {
	w.settle(o.settles)
	if got.over {
		return true, w // it may be found in its rooms until it is evicted
	}
	for i, s := range got.places {
		if s.elsewhere {
			continue
		}
		room := &w.rooms[i]
		at := room.of(o.session)
		if at >= 0 {
			room.seats[at].owed = 0
		}
		if s.unsure {
			continue
		}
		if s.in != (at >= 0) || s.in && (room.epoch != s.epoch || s.seq != 0 && s.seq != room.seq) {
			return false, w
		}
	}
	return true, w
}

// owes says whether a session's place in a room is still to be taken back.
func (w *world) owes(session, room uint8) bool {
	i := w.rooms[room].of(session)
	return i >= 0 && w.rooms[room].seats[i].owed > 0
}

func (w *world) settle(d doubts) {
	for i := range d {
		w.settled[i] |= d[i]
	}
}

// model is the world as porcupine walks it, for a history with so many
// operations of known outcome.
func (j *judge) model(known int) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return world{left: known} },
		Step: func(state, input, output any) (bool, any) {
			return j.step(state.(world), input.(*operation), output.(*outcome))
		},
		DescribeOperation: func(input, output any) string {
			return input.(*operation).String() + " → " + output.(*outcome).say(input.(*operation))
		},
		DescribeState: func(state any) string {
			w := state.(world)
			return w.String()
		},
	}
}

func (o *operation) String() string {
	text := fmt.Sprintf("%v %s", o.act, roomName(o.room))
	switch {
	case o.act == actSwitch:
		text += " to " + roomName(o.to)
		if o.may {
			text += ", which may be created"
		}
	case o.act == actEnd:
		return o.act.String()
	case o.act == actResume:
		text = o.act.String()
	}
	if o.lasting {
		text += ", lasting"
	}
	return fmt.Sprintf("%s: %s", sessionName(o.session, o.user), text)
}

func (got *outcome) say(o *operation) string {
	switch {
	case o.doubt > 0:
		return fmt.Sprintf("? (doubt %d)", o.doubt)
	case got.code != 0:
		return fmt.Sprint(got.code)
	case got.over:
		return "over"
	case o.act == actResume:
		var parts []string
		for i, s := range got.places {
			switch {
			case s.elsewhere:
			case s.unsure:
				parts = append(parts, roomName(uint8(i))+"?")
			case s.in:
				parts = append(parts, fmt.Sprintf("%s at %d/%d", roomName(uint8(i)), s.epoch, s.seq))
			default:
				parts = append(parts, "not "+roomName(uint8(i)))
			}
		}
		return "in " + strings.Join(parts, ", ")
	case o.act == actLeave || o.act == actDestroy || o.act == actEvict || o.act == actEnd:
		return "ok"
	case o.act == actList:
		return fmt.Sprintf("%s at %d/%d", got.users, got.epoch, got.seq)
	}
	text := fmt.Sprintf("%d members at %d/%d", got.count, got.epoch, got.seq)
	if got.created {
		text += ", created"
	}
	return text
}

func (w *world) String() string {
	var parts []string
	for i := range w.rooms {
		l := &w.rooms[i]
		if !l.on {
			continue
		}
		text := fmt.Sprintf("%s %d/%d:", roomName(uint8(i)), l.epoch, l.seq)
		if l.lasting {
			text += " lasting"
		}
		for _, s := range l.seats[:l.n] {
			text += " " + sessionName(s.session, s.user)
			if s.owed > 0 {
				text += fmt.Sprintf(" (to be taken back: doubt %d)", s.owed)
			}
		}
		parts = append(parts, text)
	}
	return fmt.Sprintf("after %d announcements, %s", w.next, strings.Join(parts, "; "))
}

func roomName(room uint8) string { return string(rune('A' + room)) }

func sessionName(session, user uint8) string { return fmt.Sprintf("%c%d", 'a'+user, session) }
