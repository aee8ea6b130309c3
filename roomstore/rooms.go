package roomstore

import (
	"context"
	"errors"
	"time"

	"github.com/roomgate/roomgate/lua"
)

// A Session says for whom a call is made: one login of one device of a user,
// and the generation under which this gateway has it.
type Session struct {
	User       UserID
	ID         SessionID
	Generation int64
	Node       string

	// Slow is how many of its connections had been cut off lately, when it was
	// resumed, since the client read too slowly. Only Resume sets it.
	Slow int
}

// A RequestKey names a state-changing call within its session, as a decimal
// number that rises. A repeat of an applied call under its key returns the
// first outcome and changes nothing. The empty key names nothing.
type RequestKey string

// A Mode says what an entry does about a room that is there or is not.
type Mode string

// Modes of entry.
const (
	ModeCreate Mode = "create" // the room must not exist
	ModeJoin   Mode = "join"   // the room must exist
	ModeEnter  Mode = "enter"  // either
)

// EntryRequest asks to enter a room.
type EntryRequest struct {
	Mode       Mode
	Room       RoomID
	RequestKey RequestKey
	Try        int64  // rises with each try under the RequestKey that is to be decided anew
	Data       string // what others see of the user; opaque, without NUL

	// Used if the room is created.
	Name       string
	Delay      int // seconds from emptiness to destruction
	Attributes map[string]string
}

// An Entry is the outcome of an entry.
type Entry struct {
	Position               // right after the entry
	Count      int64       // members then
	Created    bool        // by this entry
	Entered    int64       // seq of the membership's entry event
	Delay      int         // seconds, of the room
	Name       string      // of the room
	Attributes []Attribute // of the room now

	Already bool // the session was in the room before; nothing changed
	Again   bool // the outcome of an earlier call under this RequestKey
	Gone    bool // Again, and the session is not in the room any more
	Later   bool // Again, and the session is in the room since a later entry
}

// Enter makes the session's user a member of a room. It may be repeated under
// its RequestKey.
//
// It fails with [ErrExists], [ErrNoRoom], [ErrRoomLimit], [ErrBlocked],
// [ErrUserLimit], [ErrFull], [ErrMisused] or [ErrFenced].
func (s *Store) Enter(ctx context.Context, who Session, req EntryRequest) (Entry, error) {
	return s.enter(ctx, who, req, "0")
}

// Entered gives the outcome of a [Store.Enter] that was not answered. It fails
// with [ErrLate] if that was not applied, and then sees to it that it never
// will be: a try under a higher number is decided anew. It fails with
// [ErrMisused] and [ErrFenced], too.
func (s *Store) Entered(ctx context.Context, who Session, req EntryRequest) (Entry, error) {
	return s.enter(ctx, who, req, "1")
}

func (s *Store) enter(ctx context.Context, who Session, req EntryRequest, ask string) (Entry, error) {
	if err := opaque("data", req.Data); err != nil {
		return Entry{}, &OpError{Op: "enter", On: string(req.Room), Err: err}
	}
	p := s.keys.partition(req.Room)
	part := s.keys.part(p)
	args := []any{
		1, who.Node, p, s.keep(), s.cfg.MaxMembers, s.cfg.MaxRoomsPerUser, s.cfg.MaxRooms, s.cfg.Partitions,
		ms(outcomesFor), s.goneTTL(), s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL),
		string(req.Mode), string(req.Room), string(who.User), s.keys.userAt(part, who.User), s.keys.userSlot(who.User),
		string(who.ID), who.Generation, string(req.RequestKey), req.Try, ask, req.Data,
		req.Name, req.Delay, "", pairsOf(req.Attributes),
	}
	const most, home, admission = 5, 17, 26
	enter := func(at reservation) (*reply, error) {
		args[home] = at.home
		if at.none {
			args[most] = 0
		}
		return s.admitted(ctx, req.Room, func(with string) (*reply, error) {
			args[admission] = with
			return s.run(ctx, string(req.Room), string(req.Room), lua.Enter,
				[]string{part, s.keys.control(part)}, args...)
		})
	}
	r, err := s.reserved(ctx, who, passage{room: req.Room, limit: s.cfg.MaxRoomsPerUser, asks: ask == "1"}, enter)
	if err != nil {
		return Entry{}, err
	}
	e := r.entry()
	return e, opErr("enter", string(req.Room), r.done())
}

// entry reads what the scripts enter and switch answer of the room entered.
func (r *reply) entry() Entry {
	e := Entry{
		Position: r.position(), Count: r.int(), Created: r.text() == "1", Entered: r.int(),
		Delay: int(r.int()), Name: r.text(),
		Already: r.status == "already", Again: r.status == "again",
	}
	switch n := r.int(); n {
	case -1:
		e.Gone = true
	case -2:
		e.Later = true
	default:
		e.Attributes = r.attributes()
	}
	return e
}

// Switch takes the session out of one room and into another, in one step.
// req.Mode says whether the room entered may be created: [ModeEnter], or must
// exist: [ModeJoin]. Of the Entry returned, left is where the other was left.
// It may be repeated under its RequestKey.
//
// It fails with [ErrNotFrom], [ErrNoRoom], [ErrRoomLimit], [ErrBlocked],
// [ErrFull], [ErrMisused] or [ErrFenced].
func (s *Store) Switch(ctx context.Context, who Session, from RoomID, req EntryRequest) (e Entry, left Position, err error) {
	return s.change(ctx, who, from, req, "0")
}

// Switched is [Store.Entered] for a [Store.Switch].
func (s *Store) Switched(ctx context.Context, who Session, from RoomID, req EntryRequest) (e Entry, left Position, err error) {
	return s.change(ctx, who, from, req, "1")
}

func (s *Store) change(ctx context.Context, who Session, from RoomID, req EntryRequest, ask string) (e Entry, left Position, err error) {
	if err := opaque("data", req.Data); err != nil {
		return Entry{}, Position{}, opErr("switch", string(req.Room), err)
	}
	p := s.keys.partition(req.Room)
	mayCreate := "0"
	if req.Mode == ModeEnter {
		mayCreate = "1"
	}
	args := []any{
		string(from), string(req.Room), string(who.User), string(who.ID), who.Generation, who.Node,
		string(req.RequestKey), p, s.keys.userSlot(who.User), req.Data, mayCreate, req.Name, req.Delay, s.keep(),
		s.cfg.MaxMembers, s.cfg.MaxRooms, s.cfg.Partitions,
		ms(outcomesFor), s.goneTTL(), s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), req.Try, ask, "", "", pairsOf(req.Attributes),
	}
	const home, fromState, admission = 8, 24, 25
	to := s.keys.part(p)
	run := func(keys ...string) (*reply, error) {
		return s.admitted(ctx, req.Room, func(with string) (*reply, error) {
			args[admission] = with
			return s.run(ctx, string(req.Room), string(req.Room), lua.Switch, keys, args...)
		})
	}
	if s.cfg.Apart && s.keys.partition(from) != p {
		return s.changeApart(ctx, who, from, req, ask == "1", func(at, state string) (*reply, error) {
			args[home], args[fromState] = at, state
			return run(to, to, to, to)
		})
	}
	change := func(at reservation) (*reply, error) {
		args[home] = at.home
		return run(s.keys.part(s.keys.partition(from)), to, s.keys.userAt(to, who.User), s.keys.control(to))
	}
	r, err := s.reserved(ctx, who, passage{room: req.Room, asks: ask == "1"}, change)
	if err != nil {
		return Entry{}, Position{}, err
	}
	left = r.position()
	e = r.entry()
	return e, left, opErr("switch", string(req.Room), r.done())
}

// keep says to a script whether a room that it creates keeps its data when it
// empties.
func (s *Store) keep() string {
	if s.cfg.DropEmptiedData {
		return "0"
	}
	return "1"
}

// Leave takes the session out of a room and returns the position of its
// departure. It may be repeated under its RequestKey.
//
// It fails with [ErrNoRoom], [ErrNotMember], [ErrMisused] or [ErrFenced].
func (s *Store) Leave(ctx context.Context, who Session, room RoomID, key RequestKey) (Position, error) {
	part := s.keys.part(s.keys.partition(room))
	return s.leave(ctx, who, lua.Leave, room, []string{part},
		1, ms(outcomesFor), s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), s.goneTTL(),
		string(room), string(who.User), s.keys.userAt(part, who.User), string(who.ID), who.Generation, string(key))
}

// Undo takes back an entry that was applied after its client had been told that
// it failed: the session leaves the room, and a try under a higher number is
// decided anew. It may be repeated.
//
// It fails with [ErrLate], [ErrNoRoom] or [ErrNotMember] if there is nothing to
// take back, and with [ErrMisused] or [ErrFenced].
func (s *Store) Undo(ctx context.Context, who Session, req EntryRequest) (Position, error) {
	part := s.keys.part(s.keys.partition(req.Room))
	return s.leave(ctx, who, lua.Undo, req.Room, []string{part, s.keys.userAt(part, who.User)},
		string(req.Room), string(who.User), string(who.ID), who.Generation, string(req.RequestKey), string(req.Mode), req.Try,
		ms(outcomesFor), s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), s.goneTTL())
}

func (s *Store) leave(ctx context.Context, who Session, script lua.Script, room RoomID, keys []string, args ...any) (Position, error) {
	call := func() (*reply, error) {
		return s.run(ctx, string(room), string(room), script, keys, args...)
	}
	r, err := call()
	if s.cfg.Apart && errors.Is(err, ErrFenced) && s.catchUp(ctx, who, room) == nil {
		r, err = call()
	}
	if err != nil {
		return Position{}, err
	}
	s.free(ctx, r.listed)
	at := r.position()
	return at, opErr(script.Name, string(room), r.done())
}

// A Departure says which room was left, and where in its log.
type Departure struct {
	Room RoomID
	Position
}

// LeaveAll takes the session out of all its rooms, and ends it if end is set.
// It may be repeated under its RequestKey unless it ended the session, when a
// repeat finds it fenced.
//
// It fails with [ErrFenced].
func (s *Store) LeaveAll(ctx context.Context, who Session, key RequestKey, end bool) ([]Departure, error) {
	if s.cfg.Apart {
		return s.leaveAllApart(ctx, who, key, end)
	}
	ending := "0"
	if end {
		ending = "1"
	}
	r, err := s.run(ctx, string(who.User), string(who.User), lua.LeaveAll,
		[]string{s.keys.user(who.User), s.keys.uslot(s.keys.userSlot(who.User))},
		string(who.User), string(who.ID), who.Generation, string(key), ending,
		ms(outcomesFor), s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), s.goneTTL(), s.cfg.Partitions)
	if err != nil {
		return nil, err
	}
	var left []Departure
	for len(r.fields) > 0 && r.err == nil {
		left = append(left, Departure{Room: RoomID(r.text()), Position: r.position()})
	}
	return left, opErr("leaveall", string(who.User), r.done())
}

// A Message is what a member sends to a room.
type Message struct {
	Room       RoomID
	RequestKey RequestKey // kept messages only
	ID         string
	Priority   int    // commands only, 1–3
	Payload    string // opaque
}

// Sent is what became of a message. For a command, Seq is the position after
// which it is delivered.
type Sent struct {
	Position
	MessageSeq int64  // counts the kept messages of the room's life
	OrderKey   int64  // orders all messages of the room
	Timestamp  int64  // unix ms
	ID         string // of the first call under the RequestKey
}

// Send stores a text or custom message and announces it. It may be repeated
// under its RequestKey.
//
// It fails with [ErrNoRoom], [ErrNotMember] or [ErrFenced].
func (s *Store) Send(ctx context.Context, who Session, m Message) (Sent, error) {
	return s.send(ctx, lua.Send, who, m,
		1, ms(outcomesFor), s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL),
		string(m.Room), string(who.User), string(who.ID), who.Generation, string(m.RequestKey), m.ID, m.Payload)
}

// Relay passes a command or barrage on to who is in the room now. Nothing is
// stored. A repeat is another command.
//
// It fails as [Store.Send] does.
func (s *Store) Relay(ctx context.Context, who Session, m Message) (Sent, error) {
	return s.send(ctx, lua.Relay, who, m,
		1, string(m.Room), string(who.User), string(who.ID), who.Generation, m.ID, m.Priority, m.Payload)
}

func (s *Store) send(ctx context.Context, script lua.Script, who Session, m Message, args ...any) (Sent, error) {
	r, err := s.run(ctx, string(m.Room), string(m.Room), script,
		[]string{s.keys.part(s.keys.partition(m.Room))}, args...)
	if err != nil {
		return Sent{}, err
	}
	sent := Sent{Position: r.position(), MessageSeq: r.int(), OrderKey: r.int(), Timestamp: r.int(), ID: r.text()}
	return sent, opErr(script.Name, string(m.Room), r.done())
}

// Destroy ends a room at once for everyone in it. It fails with [ErrNoRoom].
func (s *Store) Destroy(ctx context.Context, room RoomID) error {
	_, err := s.run(ctx, string(room), string(room), lua.Destroy,
		[]string{s.keys.part(s.keys.partition(room))}, string(room))
	return err
}

// Kick takes a user out of a room. extended is what the user is told; opaque,
// without NUL. It fails with [ErrNoRoom] or [ErrNotMember].
func (s *Store) Kick(ctx context.Context, room RoomID, user UserID, extended string) error {
	if err := opaque("extended data", extended); err != nil {
		return opErr("kick", string(room), err)
	}
	part := s.keys.part(s.keys.partition(room))
	r, err := s.run(ctx, string(room), string(room), lua.Kick,
		[]string{part, s.keys.userAt(part, user)},
		string(room), string(user), extended, s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), s.goneTTL())
	if err == nil {
		s.free(ctx, r.listed)
	}
	return err
}

func opErr(op, on string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, On: on, Err: err}
}

// millis reads a number of milliseconds.
func millis(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
