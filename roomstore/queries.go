package roomstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/roomgate/roomgate/lua"
)

// pageBytes is how much data of members one page has at most, so that what
// users say of themselves cannot make it larger than a connection may hold.
const pageBytes = 256 << 10

// A Page is part of a room's member list, in the order of entry.
type Page struct {
	Position
	Members []string // what others see of each
	Next    string   // cursor of the next page, "" if this was the last
}

// Members gives up to count members that entered after the cursor, "" for the
// first page. If they have a lot of data it may be fewer, but not none. It fails
// with [ErrNoRoom], [ErrNotMember] or, for a cursor that no page of this life of
// the room gave, [ErrBadID].
func (s *Store) Members(ctx context.Context, who Session, room RoomID, cursor string, count int) (Page, error) {
	after, err := cursorOf(cursor)
	if err != nil {
		return Page{}, opErr("members", string(room), err)
	}
	r, err := s.query(ctx, lua.Members, who, room, after.Seq, count, pageBytes)
	if err != nil {
		return Page{}, err
	}
	page := Page{Position: r.position()}
	if page.Next, err = page.cursor(cursor, after, r.text()); err != nil {
		return Page{}, opErr("members", string(room), err)
	}
	page.Members, r.fields = r.fields, nil
	return page, opErr("members", string(room), r.done())
}

// cursorOf reads the cursor of a page; "" is the beginning.
func cursorOf(cursor string) (after Position, err error) {
	if cursor == "" {
		return Position{}, nil
	}
	after, ok := parseCursor(cursor)
	if !ok {
		return Position{}, foreignCursor(cursor)
	}
	return after, nil
}

// cursor gives that of the next page, which begins after last: "" if there is none.
// The room is at this position; after is what the cursor of this page says.
func (at Position) cursor(this string, after Position, last string) (string, error) {
	if this != "" && (after.Epoch != at.Epoch || after.Seq > at.Seq) {
		return "", foreignCursor(this)
	}
	if last == "" {
		return "", nil
	}
	return strconv.FormatInt(at.Epoch, 10) + ":" + last, nil
}

func foreignCursor(cursor string) error {
	return fmt.Errorf("%w: nextFlag %.60q is not one that a page of this room gave", ErrBadID, cursor)
}

// parseCursor reads a cursor: the epoch of the room's life, and the entry seq of
// the last member that was given. It accepts one spelling of each.
func parseCursor(cursor string) (at Position, ok bool) {
	n := numbers{}
	epoch, seq, _ := strings.Cut(cursor, ":")
	at = Position{Epoch: n.parse("epoch", epoch), Seq: n.parse("seq", seq)}
	return at, n.err == nil && at.Seq > 0 && cursor == fmt.Sprintf("%d:%d", at.Epoch, at.Seq)
}

// MemberInfo looks up to 500 users up among a room's members: data holds what
// others see of each, "" for one who is not a member. It fails with
// [ErrNoRoom] or [ErrNotMember].
func (s *Store) MemberInfo(ctx context.Context, who Session, room RoomID, users []UserID) (at Position, data []string, err error) {
	args := []any{len(users)}
	for _, u := range users {
		args = append(args, string(u))
	}
	r, err := s.query(ctx, lua.MemberInfo, who, room, args...)
	if err != nil {
		return Position{}, nil, err
	}
	at = r.position()
	if len(r.fields) != len(users) {
		r.fail(fmt.Sprintf("%d users, want %d", len(r.fields), len(users)))
	}
	data, r.fields = r.fields, nil
	return at, data, opErr("memberinfo", string(room), r.done())
}

// Count counts a room's members. It fails with [ErrNoRoom] or [ErrNotMember].
func (s *Store) Count(ctx context.Context, who Session, room RoomID) (Position, int64, error) {
	r, err := s.query(ctx, lua.Count, who, room)
	if err != nil {
		return Position{}, 0, err
	}
	at, n := r.position(), r.int()
	return at, n, opErr("count", string(room), r.done())
}

// A Recent is a stretch of a room's kept messages, oldest first.
type Recent struct {
	Position         // of the room, when it was asked
	Messages []Event // of [KindMessage]
	More     bool    // there are older ones
}

// Recent gives the newest kept messages of a room, up to count, whose messageSeq is
// below before; 0: the newest of all. If they are long it may be fewer, but not none.
// It fails with [ErrNoRoom] or [ErrNotMember].
func (s *Store) Recent(ctx context.Context, who Session, room RoomID, count int, before int64) (Recent, error) {
	r, err := s.query(ctx, lua.History, who, room, count, before, pageBytes, ms(s.cfg.LogTTL))
	if err != nil {
		return Recent{}, err
	}
	recent := Recent{Position: r.position(), More: r.text() == "1"}
	for len(r.fields) > 0 && r.err == nil {
		e, err := DecodeEvent(r.text())
		if err != nil {
			r.fail(err.Error())
		}
		recent.Messages = append(recent.Messages, e)
	}
	return recent, opErr("history", string(room), r.done())
}

func (s *Store) query(ctx context.Context, script lua.Script, who Session, room RoomID, args ...any) (*reply, error) {
	return s.run(ctx, string(room), string(room), script, []string{s.keys.part(s.keys.partition(room))},
		append([]any{string(room), string(who.User), string(who.ID)}, args...)...)
}

// A History is what is known of a room after a position.
type History struct {
	Position       // where the room is now
	Count    int64 // members now

	// Events are what is known of the seqs after the position, in order;
	// Complete says that none is missing. An entry is known by the member
	// still being there or by its departure; such events have no time, and are
	// Uncounted unless none behind them is missing.
	Events   []Event
	Complete bool

	Life       Life // that the room is in, known also with [ErrEpoch]
	Attributes []Attribute
}

// Catchup gives what happened in a room after a position. It fails with
// [ErrNoRoom], or with [ErrEpoch] if the room is in another epoch.
func (s *Store) Catchup(ctx context.Context, room RoomID, after Position) (History, error) {
	r, err := s.run(ctx, string(room), string(room), lua.Catchup,
		[]string{s.keys.part(s.keys.partition(room))},
		string(room), after.Epoch, after.Seq, catchupLimit)
	life := func() Life { return Life{Position: r.position(), Base: r.int(), Lineage: Lineage(r.text())} }
	if errors.Is(err, ErrEpoch) {
		return History{Life: life()}, err
	}
	if err != nil {
		return History{}, err
	}
	h := History{Life: life()}
	h.Position, h.Count = h.Life.Position, r.int()
	for range r.int() {
		e, err := DecodeEvent(r.text())
		if err != nil {
			r.fail(err.Error())
			break
		}
		h.Events = append(h.Events, e)
	}
	member := func(e Event) {
		e.Epoch, e.Uncounted = h.Epoch, true
		if e.Seq > after.Seq {
			h.Events = append(h.Events, e)
		}
	}
	for range r.int() {
		e := Event{Kind: KindJoined, Position: Position{Seq: r.int()}}
		e.User, e.Origin, e.Data = UserID(r.text()), SessionID(r.text()), r.text()
		member(e)
	}
	for range r.int() {
		left := Event{Kind: KindLeft, Position: Position{Seq: r.int()}}
		entered := r.int()
		left.User, left.Origin, left.Reason = UserID(r.text()), SessionID(r.text()), Reason(r.text())
		left.Data, left.Extended, _ = strings.Cut(r.text(), "\x00")
		member(Event{
			Kind: KindJoined, Position: Position{Seq: entered}, User: left.User, Origin: left.Origin, Data: left.Data,
		})
		member(left)
	}
	for range r.int() {
		h.Attributes = append(h.Attributes, r.attribute())
	}
	slices.SortFunc(h.Events, func(a, b Event) int { return int(a.Seq - b.Seq) })
	h.Complete = complete(h.Events, after.Seq, h.Seq)
	first := len(h.Events) // of those behind which none is missing
	for want := h.Seq; first > 0 && h.Events[first-1].Seq == want; want-- {
		first--
	}
	count(h.Events[first:], h.Count)
	return h, opErr("catchup", string(room), r.done())
}

// complete says whether events are those of every seq in (after, head]. Since
// seqs have no holes, nothing else has to remember what was dropped.
func complete(events []Event, after, head int64) bool {
	if int64(len(events)) != head-after {
		return false
	}
	for i, e := range events {
		if e.Seq != after+1+int64(i) {
			return false
		}
	}
	return true
}

// count fills in the member count after each entry and departure, given the
// one now.
func count(events []Event, now int64) {
	for i := len(events) - 1; i >= 0; i-- {
		switch e := &events[i]; e.Kind {
		case KindJoined:
			e.Count, e.Uncounted = now, false
			now--
		case KindLeft:
			e.Count, e.Uncounted = now, false
			now++
		}
	}
}

// Absent gives those of the sessions, at most 500, that are not in a room.
func (s *Store) Absent(ctx context.Context, room RoomID, sessions []Session) ([]Session, error) {
	args := []any{string(room), len(sessions)}
	byID := make(map[SessionID]Session, len(sessions))
	for _, who := range sessions {
		args = append(args, string(who.User), string(who.ID))
		byID[who.ID] = who
	}
	r, err := s.run(ctx, string(room), string(room), lua.Absent, []string{s.keys.part(s.keys.partition(room))}, args...)
	if err != nil {
		return nil, err
	}
	var absent []Session
	for len(r.fields) > 0 {
		absent = append(absent, byID[SessionID(r.text())])
	}
	return absent, nil
}

// Positions says where rooms are now; a room that does not exist has the zero
// Position. At most 500 a partition at once are asked for.
func (s *Store) Positions(ctx context.Context, rooms []RoomID) (map[RoomID]Position, error) {
	at := make(map[RoomID]Position, len(rooms))
	err := s.ofEach(ctx, lua.Positions, rooms, func(id RoomID, r *reply) { at[id] = r.place() })
	if err != nil {
		return nil, err
	}
	return at, nil
}
