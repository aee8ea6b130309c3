package roomstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roomgate/roomgate/lua"
)

// Login begins a session of a user on a node, under the ID given. A session of
// the same device is replaced; devices over the limit are sent away.
//
// Repeating it with the same ID begins it again and harms nothing. It fails
// with [ErrFenced] if the node has been given up or the session is known to be
// over, and with [ErrLate] if Redis got the call so late that nobody waits for it.
func (s *Store) Login(ctx context.Context, node string, user UserID, id SessionID, device string) (Session, error) {
	if err := s.showLife(ctx, node); err != nil {
		return Session{}, err
	}
	slot := s.keys.userSlot(user)
	r, err := s.run(ctx, sessionsLane, string(user), lua.Login, []string{s.keys.control(s.keys.uslot(slot))},
		1, node, ms(s.cfg.SessionTTL), s.cfg.MaxDevices, s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), s.goneTTL(),
		s.cfg.Partitions, string(user), slot, string(id), device, s.validUntil(ctx))
	if err != nil {
		return Session{}, err
	}
	who := Session{User: user, ID: id, Generation: r.int(), Node: node}
	s.seeTo(ctx, r.listed, s.cfg.SessionTTL) // or else the sweep will
	return who, opErr("login", string(user), r.done())
}

// sessionsLane is one for all who log in, come back or are parked: there they go together.
const sessionsLane = ""

// A Return is what became of a session's place in one room.
type Return struct {
	Room     RoomID
	Named    bool   // by the client
	In       bool   // the session is still a member
	Position        // In: where the room is now
	Entered  int64  // In: seq of the membership's entry event
	Delay    int    // In: seconds
	Name     string // In
	Reason   Reason // not In: why
	Extended string // not In: what a kicked user is told
}

// Resume moves a session to this node with all its rooms, whatever connection
// had it before, and says of these rooms and of those named what became of the
// session's place. ok is false if the session is unknown or past its deadline;
// then only the named rooms are answered for, and nothing was changed.
//
// Repeating it raises the generation once more and harms nothing. It fails
// with [ErrFenced] if the node has been given up, and with [ErrLate] if Redis
// got the call so late that nobody waits for it.
func (s *Store) Resume(ctx context.Context, node string, user UserID, id SessionID, named []RoomID) (who Session, rooms []Return, ok bool, err error) {
	if err := s.showLife(ctx, node); err != nil {
		return Session{}, nil, false, err
	}
	if s.cfg.Apart {
		return s.resumeApart(ctx, node, user, id, named)
	}
	var places strings.Builder
	for _, room := range named {
		fmt.Fprintf(&places, "%s\x00%d\x00", room, s.keys.partition(room))
	}
	slot := s.keys.userSlot(user)
	r, err := s.run(ctx, sessionsLane, string(user), lua.Resume, []string{s.keys.control(s.keys.uslot(slot))},
		1, node, string(user), slot, string(id), s.validUntil(ctx), places.String())
	if err != nil {
		return Session{}, nil, false, err
	}
	who, ok = r.resumed(user, id, node)
	for len(r.fields) > 0 && r.err == nil {
		back := r.back(RoomID(r.text()))
		back.Named = r.text() == "1"
		rooms = append(rooms, back)
	}
	return who, rooms, ok, opErr("resume", string(user), r.done())
}

// resumed reads the session that goes on, and how often it was too slow: also of one that
// does not go on.
func (r *reply) resumed(user UserID, id SessionID, node string) (who Session, goesOn bool) {
	generation := r.text()
	if goesOn = r.status == "ok"; goesOn {
		g, err := strconv.ParseInt(generation, 10, 64)
		if err != nil {
			r.fail("generation " + generation)
		}
		who = Session{User: user, ID: id, Generation: g, Node: node}
	}
	who.Slow = int(r.int())
	return who, goesOn
}

// back reads what a script says of a session's place in a room.
func (r *reply) back(room RoomID) Return {
	back := Return{Room: room}
	what := r.text()
	back.Position = r.position()
	text := r.text()
	if what != "in" {
		back.Reason, back.Extended = Reason(what), text
		return back
	}
	back.In = true
	f := strings.SplitN(text, "\x00", 3)
	if len(f) != 3 {
		r.fail("room text " + strconv.Quote(text))
		return back
	}
	n := numbers{}
	back.Delay, back.Entered, back.Name = int(n.parse("delay", f[0])), n.parse("entered", f[1]), f[2]
	if n.err != nil {
		r.fail(n.err.Error())
	}
	return back
}

// Park notes that the session's socket is closed: it and its places last for
// left more, on the awake clock. It may be repeated.
//
// It fails with [ErrFenced] if the session has moved on, which is as good.
func (s *Store) Park(ctx context.Context, who Session, left time.Duration) error {
	return s.park(ctx, who, left, 0)
}

// ParkSlow is Park for a client that was cut off since it read too slowly, which
// is remembered for slowFor.
func (s *Store) ParkSlow(ctx context.Context, who Session, left time.Duration) error {
	return s.park(ctx, who, left, slowFor)
}

// Attached says under which generation a session is on a node. Only Node, User and ID
// of who count. ok is false if it is not there.
func (s *Store) Attached(ctx context.Context, who Session) (at Session, ok bool, err error) {
	slot := s.keys.uslot(s.keys.userSlot(who.User))
	r, err := s.run(ctx, string(who.User), string(who.User), lua.Attached, []string{slot}, who.Node, string(who.User), string(who.ID))
	if err != nil {
		return Session{}, false, err
	}
	generation := r.text()
	if generation != "" {
		at = Session{User: who.User, ID: who.ID, Node: who.Node}
		if at.Generation, err = strconv.ParseInt(generation, 10, 64); err != nil {
			r.fail("generation " + generation)
		}
	}
	return at, generation != "", opErr("attached", string(who.User), r.done())
}

func (s *Store) park(ctx context.Context, who Session, left, slow time.Duration) error {
	slot := s.keys.userSlot(who.User)
	r, err := s.run(ctx, sessionsLane, string(who.User), lua.Park, []string{s.keys.control(s.keys.uslot(slot))},
		1, string(who.User), slot, string(who.ID), who.Generation, ms(max(0, left)), who.Node, ms(slow))
	if r == nil || len(r.listed) == 0 {
		return err
	}
	// Also what an earlier call may not have got to.
	if err := s.seeTo(ctx, r.listed, left); err != nil {
		return err
	}
	return err
}

// A Loss is why a session is not a node's any more.
type Loss string

// Losses.
const (
	LossMoved    Loss = "moved"    // it goes on over another connection
	LossParked   Loss = "parked"   // the node was given up
	LossReplaced Loss = "replaced" // its device has logged in anew
	LossKicked   Loss = "kicked"   // its user has logged in on more devices than are allowed
	LossOver     Loss = "over"     // it was logged out, or its deadline has passed
)

// Lost says which of the sessions are not this node's any more under their
// generation, and why. [Store.Groups] groups them for it: at most 500 a call and, where
// hash slots lie apart, of users in one.
func (s *Store) Lost(ctx context.Context, node string, sessions []Session) (map[SessionID]Loss, error) {
	if len(sessions) == 0 {
		return nil, nil
	}
	args := []any{node, len(sessions)}
	for _, who := range sessions {
		args = append(args, string(who.User), s.keys.userSlot(who.User), string(who.ID), who.Generation)
	}
	uslot := s.keys.uslot(s.keys.userSlot(sessions[0].User))
	r, err := s.run(ctx, node, node, lua.Generations, []string{s.keys.control(uslot)}, args...)
	if err != nil {
		return nil, err
	}
	lost := map[SessionID]Loss{}
	for len(r.fields) > 0 && r.err == nil {
		id := SessionID(r.text())
		lost[id] = Loss(r.text())
	}
	return lost, opErr("generations", node, r.done())
}

// maxAsked is how many sessions [Store.Lost] is asked about at a time.
const maxAsked = 500

// Groups splits sessions into groups fit for [Store.Lost].
func (s *Store) Groups(sessions []Session) (groups [][]Session) {
	slots := map[string][]Session{}
	for _, who := range sessions {
		slot := ""
		if s.cfg.Apart {
			slot = s.keys.userSlot(who.User)
		}
		slots[slot] = append(slots[slot], who)
	}
	for _, of := range slots {
		groups = slices.AppendSeq(groups, slices.Chunk(of, maxAsked))
	}
	return groups
}
