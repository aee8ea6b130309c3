//go:build linux

package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/roomgate/roomgate/protocol"
)

// model is what sections 1 to 3 and 5 of the semantics say of rooms: which
// there are, who is in them, and what each session hears of what happens. It
// knows one thing after the other, no gateways, and time only as deadlines.
type model struct {
	limits
	rooms    map[string]*modelRoom // that exist
	lives    map[string]int        // of each ID, up to now
	sessions []*modelSession       // in the order of their logins
	heard    map[*modelSession][]line
	closed   map[*modelSession]protocol.CloseCode
	ended    []string // rooms, at once
}

type limits struct {
	rooms   int // that exist at once; 0: any number
	members int // of one room
	ofUser  int // rooms that one user is in at once
	devices int // of one user
	keep    bool
}

// line is something a client hears, in brief: of a room, or of no room.
type line struct{ room, text string }

// position is a place in a room's log. Lives are counted, since nobody can
// foretell epochs.
type position struct {
	life int
	seq  int64
}

func (p position) String() string { return fmt.Sprintf("%d:%d", p.life, p.seq) }

type modelRoom struct {
	id, name, creator string
	attributes        string
	delay             int
	messageSeq        int64
	at                position
	members           []*modelSession // of different users, in the order of their entry
	blocked           map[string]bool
	log               []modelEvent // of each seq
	deadline          int64        // of an empty room, on Redis's clock; 0: not known
}

// modelEvent is one event of a room: somebody joined (+) or left (-), a
// message, or a place that moved, of which nobody else hears.
type modelEvent struct {
	kind  string
	of    *modelSession
	text  string // message
	seq   int64
	count int   // of members
	nth   int64 // message
}

const (
	joined = "+"
	left   = "-"
	said   = "m"
	moved  = ""
)

// line is what the others hear of an event. After the fact they may hear of
// the device that the user has gone on with.
func (e modelEvent) line(after bool) string {
	name := e.of.name
	if after {
		name = e.of.user
	}
	switch e.kind {
	case joined, left:
		return fmt.Sprintf("%s%s %d at %d", e.kind, name, e.count, e.seq)
	case said:
		return fmt.Sprintf("%s at %d message %d", e.text, e.seq, e.nth)
	}
	return ""
}

// modelSession is one login of one device.
type modelSession struct {
	user, device, name string
	legacy             bool // its client is of before 2.13.0 (row 29)
	away               bool // its link is lost
	deadline           int64
	entered            map[string]position // each room, the last time
	seen               map[string]position // away: the rooms it was in, and how far it knows them
	over               map[string]string   // away: what became of them, where that is known
}

// modelRequest is a request, and what came of it when it was applied.
type modelRequest struct {
	protocol.EnterParams // of all methods: the room, its name and config, the key
	method               string
	from                 string // switchRoom
	create               bool   // switchRoom
	message              protocol.OutgoingMessage

	applied bool
	at      position // of an entry
	left    []string
	answer  string
}

func (q *modelRequest) room() string { return q.RoomInfo.RoomID }

func newModel(l limits) *model {
	m := &model{limits: l, rooms: map[string]*modelRoom{}, lives: map[string]int{}}
	m.forget()
	return m
}

// forget begins a new page: nothing has happened.
func (m *model) forget() {
	m.heard, m.closed, m.ended = map[*modelSession][]line{}, map[*modelSession]protocol.CloseCode{}, nil
}

func (m *model) tell(s *modelSession, room, format string, args ...any) {
	if !s.away {
		m.heard[s] = append(m.heard[s], line{room, fmt.Sprintf(format, args...)})
	}
}

func (m *model) answer(s *modelSession, q *modelRequest, format string, args ...any) {
	q.answer = fmt.Sprintf(format, args...)
	m.tell(s, q.room(), "%s", q.answer)
}

func (m *model) refuse(s *modelSession, q *modelRequest, code protocol.Code) {
	m.tell(s, q.room(), "error %d", code)
}

// has says whether a session is in the room, which may be nil.
func (r *modelRoom) has(s *modelSession) bool { return r != nil && slices.Contains(r.members, s) }

// place gives the index of a user among the members, -1 for none.
func (r *modelRoom) place(user string) int {
	return slices.IndexFunc(r.members, func(s *modelSession) bool { return s.user == user })
}

// in lists the rooms for whose members ok holds, in the order of their IDs.
func (m *model) in(ok func(*modelSession) bool) (rooms []*modelRoom) {
	for _, id := range slices.Sorted(maps.Keys(m.rooms)) {
		if slices.ContainsFunc(m.rooms[id].members, ok) {
			rooms = append(rooms, m.rooms[id])
		}
	}
	return rooms
}

func (m *model) roomsOf(s *modelSession) []*modelRoom {
	return m.in(func(other *modelSession) bool { return other == s })
}

func (m *model) roomsOfUser(user string) []*modelRoom {
	return m.in(func(s *modelSession) bool { return s.user == user })
}

// happens adds an event to the room's log. All members hear of it but the one
// it comes from.
func (m *model) happens(r *modelRoom, kind string, of *modelSession, text string) {
	r.at.seq++
	if kind == said {
		r.messageSeq++
	}
	e := modelEvent{kind, of, text, r.at.seq, len(r.members), r.messageSeq}
	r.log = append(r.log, e)
	for _, s := range r.members {
		m.hears(s, r, e, false)
	}
}

func (m *model) hears(s *modelSession, r *modelRoom, e modelEvent, after bool) {
	if s != e.of && e.kind != moved {
		m.tell(s, r.id, "%s", e.line(after))
	}
}

// do carries a request out; one that was applied is only answered again.
func (m *model) do(s *modelSession, q *modelRequest) {
	switch {
	case q.applied:
		m.again(s, q)
	case q.method == protocol.MethodSwitchRoom:
		m.switchRoom(s, q)
	case q.method == protocol.MethodLeaveRoom:
		m.leave(s, q)
	case q.method == protocol.MethodLeaveAllRoom:
		m.leaveAll(s, q)
	case q.method == protocol.MethodSendRoomMessage:
		m.send(s, q)
	default:
		m.enter(s, q)
	}
}

// enter is createRoom, joinRoom and enterRoom (rows 1–13).
func (m *model) enter(s *modelSession, q *modelRequest) {
	failed, create := "enterFailed", q.method == protocol.MethodCreateRoom
	if create {
		failed = "createFailed"
	}
	if r := m.rooms[q.room()]; r.has(s) {
		if create {
			m.refuse(s, q, protocol.CodeRoomExists)
		} else {
			m.answer(s, q, "ok %q %v %d members", r.name, r.at, len(r.members))
		}
		return
	}
	m.tell(s, q.room(), "connecting %s", active(q))
	if code := m.refusal(s, q); code != 0 {
		if code == protocol.CodeNoRoom {
			failed = "roomNotExist"
		}
		m.tell(s, q.room(), "disconnected %s", failed)
		m.refuse(s, q, code)
		return
	}
	m.entered(s, q, m.admit(s, q))
}

func active(q *modelRequest) string {
	switch q.method {
	case protocol.MethodCreateRoom:
		return "activeCreate"
	case protocol.MethodSwitchRoom:
		return "activeSwitch"
	}
	return "activeEnter"
}

// switchRoom is rows 15 to 20.
func (m *model) switchRoom(s *modelSession, q *modelRequest) {
	from, to := m.rooms[q.from], m.rooms[q.room()]
	if q.from == q.room() || !from.has(s) {
		m.refuse(s, q, protocol.CodeBadParameter)
		return
	}
	entered := "ok"
	if to.has(s) {
		entered = fmt.Sprintf("ok %q %v %d members", to.name, to.at, len(to.members))
	} else {
		m.tell(s, q.room(), "connecting %s", active(q))
		if code := m.refusal(s, q); code != 0 {
			m.tell(s, q.room(), "disconnected switchFailed")
			m.refuse(s, q, code)
			return
		}
		entered = m.admit(s, q)
	}
	m.depart(from, s, "success")
	m.entered(s, q, entered)
}

// entered ends an entry that was not refused.
func (m *model) entered(s *modelSession, q *modelRequest, answer string) {
	q.at = m.rooms[q.room()].at
	s.entered[q.room()] = q.at
	m.apply(s, q, answer)
}

func (m *model) apply(s *modelSession, q *modelRequest, answer string) {
	m.answer(s, q, "%s", answer)
	q.applied = true
}

// refusal says why a session that is not in the room may not enter it, 0 if it
// may.
func (m *model) refusal(s *modelSession, q *modelRequest) protocol.Code {
	r, switches := m.rooms[q.room()], q.method == protocol.MethodSwitchRoom
	atLimit := !switches && len(m.roomsOfUser(s.user)) >= m.ofUser
	switch {
	case r != nil && q.method == protocol.MethodCreateRoom:
		return protocol.CodeRoomExists
	case r == nil && q.method == protocol.MethodJoinRoom:
		return protocol.CodeNoRoom
	case r == nil && m.limits.rooms > 0 && len(m.rooms) >= m.limits.rooms:
		return protocol.CodeRoomLimit
	case r == nil && switches && !q.create:
		return protocol.CodeNoRoom
	case r != nil && r.blocked[s.user]:
		return protocol.CodeBlocked
	case r != nil && r.place(s.user) >= 0:
		return 0 // the place only moves
	case atLimit:
		return protocol.CodeUserRoomLimit
	case r != nil && len(r.members) >= m.members:
		return protocol.CodeRoomFull
	}
	return 0
}

// admit makes a session a member of a room, which it creates if there is none,
// and gives the answer.
func (m *model) admit(s *modelSession, q *modelRequest) string {
	r, created := m.rooms[q.room()], ""
	if r == nil {
		m.lives[q.room()]++
		r = &modelRoom{id: q.room(), name: q.RoomInfo.RoomName, creator: s.user,
			at: position{life: m.lives[q.room()]}, blocked: map[string]bool{}}
		if q.Config != nil {
			r.delay, r.attributes = int(q.Config.RoomDestroyDelayTime), attributesText(q.Config.RoomAttributes)
		}
		m.rooms[r.id] = r
		created = " created"
	} else if len(r.members) == 0 && !m.keep && r.name == "" && (q.create || q.method == protocol.MethodEnterRoom) {
		r.name = q.RoomInfo.RoomName // the room has dropped its own
	}
	r.deadline = 0
	if i := r.place(s.user); i >= 0 {
		old := r.members[i]
		r.members[i] = s
		m.happens(r, moved, s, "")
		m.out(old, r, "kickedOutByOtherDevice")
	} else {
		r.members = append(r.members, s)
		m.happens(r, joined, s, "")
	}
	if r.attributes != "" {
		m.tell(s, r.id, "attributes %s at %d", r.attributes, r.at.seq)
	}
	m.tell(s, r.id, "connected success %v", r.at)
	return fmt.Sprintf("ok %q %v %d members%s", r.name, r.at, len(r.members), created)
}

func attributesText(a map[string]string) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(a)) {
		pairs = append(pairs, k+"="+a[k])
	}
	return strings.Join(pairs, " ")
}

// out tells a session that it is in a room no more; one that is away hears of
// it when it comes back.
func (m *model) out(s *modelSession, r *modelRoom, event string) {
	m.tell(s, r.id, "disconnected %s", event)
	if s.away {
		s.over[r.id] = event
	}
}

// depart ends a membership, and the room's life if that was the last and there
// is no delay.
func (m *model) depart(r *modelRoom, s *modelSession, event string) {
	r.members = slices.DeleteFunc(r.members, func(other *modelSession) bool { return other == s })
	m.happens(r, left, s, "")
	m.out(s, r, event)
	switch {
	case len(r.members) > 0:
	case r.delay == 0:
		m.finish(r.id)
	case !m.keep:
		r.name, r.attributes = "", ""
	}
}

// leave is rows 21 to 23.
func (m *model) leave(s *modelSession, q *modelRequest) {
	switch r := m.rooms[q.room()]; {
	case r == nil:
		m.refuse(s, q, protocol.CodeLeaveNoRoom)
	case !r.has(s):
		m.refuse(s, q, protocol.CodeNotInRoom)
	default:
		m.depart(r, s, "success")
		m.apply(s, q, "ok")
	}
}

// leaveAll is row 24.
func (m *model) leaveAll(s *modelSession, q *modelRequest) {
	q.left = []string{}
	for _, r := range m.roomsOf(s) {
		q.left = append(q.left, r.id)
		m.depart(r, s, "success")
	}
	m.apply(s, q, fmt.Sprintf("ok %q", q.left))
}

// send is a message of any type to a room, or row 28.
func (m *model) send(s *modelSession, q *modelRequest) {
	r, text := m.rooms[q.room()], q.message.Message
	switch {
	case r == nil:
		m.refuse(s, q, protocol.CodeMessageNoRoom)
	case !r.has(s):
		m.refuse(s, q, protocol.CodeNotInRoom)
	case q.message.Type.Kept():
		m.happens(r, said, s, text)
		m.apply(s, q, fmt.Sprintf("ok message %d", r.messageSeq))
	default:
		for _, other := range r.members {
			if other != s {
				m.tell(other, r.id, "%s after %d message %d", text, r.at.seq, r.messageSeq)
			}
		}
		m.answer(s, q, "ok message %d", r.messageSeq)
	}
}

// again repeats a request that was applied: the last state, the first answer,
// and for an entry the events behind it. A room that the session has entered
// again since is told as it is now, and that it is out not at all.
func (m *model) again(s *modelSession, q *modelRequest) {
	out := func(room string) {
		if !m.rooms[room].has(s) {
			m.tell(s, room, "disconnected success")
		}
	}
	r := m.rooms[q.room()]
	here := r.has(s) && s.entered[r.id] == q.at
	switch q.method {
	case protocol.MethodSendRoomMessage:
	case protocol.MethodLeaveRoom:
		out(q.room())
	case protocol.MethodLeaveAllRoom:
		for _, id := range q.left {
			out(id)
		}
	default:
		switch {
		case here:
			m.tell(s, q.room(), "connected success %v", q.at)
		case r.has(s):
			m.tell(s, q.room(), "connected success %v", r.at)
		case q.from == "" || m.rooms[q.from].has(s):
			// Until it turns out to be a repeat it is an entry like others.
			m.tell(s, q.room(), "connecting %s", active(q))
		}
		out(q.room())
		if q.from != "" {
			out(q.from)
		}
	}
	m.tell(s, q.room(), "%s", q.answer)
	if here {
		for _, e := range r.log[q.at.seq:] {
			m.hears(s, r, e, true)
		}
	}
}

// ask answers what a query says of a room, or row 28.
func (m *model) ask(s *modelSession, room string, answer func(r *modelRoom) string) {
	switch r := m.rooms[room]; {
	case r == nil:
		m.tell(s, room, "error %d", protocol.CodeNoRoom)
	case !r.has(s):
		m.tell(s, room, "error %d", protocol.CodeNotInRoom)
	default:
		m.tell(s, room, "%s", answer(r))
	}
}

// login begins a session (section 5): it replaces that of the same device, and
// what is then over the limit has to go.
func (m *model) login(s *modelSession) {
	var others []*modelSession
	for _, other := range slices.Clone(m.sessions) {
		switch {
		case other.user != s.user:
		case s.device != "" && other.device == s.device:
			// Its places wait for who takes them over.
			m.end(other, protocol.CloseTakenOver)
		default:
			others = append(others, other)
		}
	}
	// Parked ones first, of them the oldest; then the earliest login.
	slices.SortStableFunc(others, func(a, b *modelSession) int {
		if a.away != b.away {
			return map[bool]int{true: -1, false: 1}[a.away]
		}
		return cmp.Compare(a.deadline, b.deadline)
	})
	for len(others) >= m.devices {
		for _, r := range m.roomsOf(others[0]) {
			m.depart(r, others[0], "kickedOut")
		}
		m.tell(others[0], "", "connection disconnected kickedOut")
		m.end(others[0], protocol.CloseKickedByLogin)
		others = others[1:]
	}
	m.sessions = append(m.sessions, s)
}

// end takes a session away; its connection, if it has one, is closed.
func (m *model) end(s *modelSession, code protocol.CloseCode) {
	m.sessions = slices.DeleteFunc(m.sessions, func(other *modelSession) bool { return other == s })
	if !s.away {
		m.closed[s] = code
		m.lose(s)
	}
}

// logout is row 25.
func (m *model) logout(s *modelSession) {
	for _, r := range m.roomsOf(s) {
		m.depart(r, s, "success")
	}
	m.tell(s, "", "connection disconnected success")
	m.tell(s, "", "ok")
	m.end(s, protocol.CloseNormal)
}

// lose is the end of a session's connection.
func (m *model) lose(s *modelSession) {
	s.away, s.seen, s.over = true, map[string]position{}, map[string]string{}
	for _, r := range m.roomsOf(s) {
		s.seen[r.id] = r.at
	}
}

// evict ends a session whose deadline has passed.
func (m *model) evict(s *modelSession) {
	for _, r := range m.roomsOf(s) {
		m.depart(r, s, "connectTimeout")
	}
	m.end(s, 0)
}

// comeBack says what a client that was away hears, in the session it had or in
// another, if it names the rooms it knows or if it does not.
func (m *model) comeBack(s, now *modelSession, named bool) {
	seen := s.seen
	now.away, now.deadline = false, 0
	m.tell(now, "", "ok %s", map[bool]string{true: "resumed", false: "new"}[s == now])
	for _, id := range slices.Sorted(maps.Keys(seen)) {
		switch r := m.rooms[id]; {
		case r.has(now) && named:
			m.tell(now, id, "connected success %v", seen[id])
			m.missed(now, r, r.log[seen[id].seq:])
		case r.has(now):
			m.tell(now, id, "connected success %v", r.at)
		case !named:
		case s.over[id] != "":
			m.tell(now, id, "disconnected %s", s.over[id])
		case r == nil:
			m.tell(now, id, "disconnected %s", destroyed(now))
		case r.place(now.user) >= 0:
			m.tell(now, id, "disconnected kickedOutByOtherDevice")
		default:
			m.tell(now, id, "disconnected connectTimeout")
		}
	}
}

// missed tells the net difference of the members, and the messages.
func (m *model) missed(s *modelSession, r *modelRoom, log []modelEvent) {
	first, last := map[string]string{}, map[string]string{} // kinds of events about each user
	count := 0
	for _, e := range log {
		if e.kind != joined && e.kind != left {
			continue
		}
		user := e.of.user
		if first[user] == "" {
			first[user] = e.kind
		}
		last[user], count = e.kind, e.count
	}
	for _, kind := range []string{left, joined} {
		var users []string
		for user := range last {
			if first[user] == kind && last[user] == kind {
				users = append(users, user)
			}
		}
		if slices.Sort(users); len(users) > 0 {
			m.tell(s, r.id, "%s%s %d", kind, strings.Join(users, ","), count)
		}
	}
	for _, e := range log {
		if e.kind == said {
			m.hears(s, r, e, true)
		}
	}
}

// destroyed is what a client hears of a room that a backend has ended.
func destroyed(s *modelSession) string {
	if s.legacy {
		return "kickedOut"
	}
	return "roomNotExist"
}

// destroy is row 29. It says whether there was such a room.
func (m *model) destroy(room string) protocol.Code {
	r := m.rooms[room]
	if r == nil {
		return protocol.CodeNoRoom
	}
	for _, s := range r.members {
		m.tell(s, room, "disconnected %s", destroyed(s))
	}
	m.finish(room)
	return 0
}

func (m *model) finish(room string) {
	delete(m.rooms, room)
	m.ended = append(m.ended, room)
}

// kick is row 30.
func (m *model) kick(room, user, extended string) protocol.Code {
	r := m.rooms[room]
	if r == nil {
		return protocol.CodeNoRoom
	}
	i := r.place(user)
	if i < 0 {
		return protocol.CodeNotInRoom
	}
	m.depart(r, r.members[i], "kickedOut "+extended)
	return 0
}

// expire ends the rooms that are past their deadline.
func (m *model) expire(now int64) {
	maps.DeleteFunc(m.rooms, func(_ string, r *modelRoom) bool { return r.deadline != 0 && r.deadline <= now })
}
