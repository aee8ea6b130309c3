package gateway

import (
	"context"
	"errors"
	"slices"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// entryRequest checks the parameters of createRoom and enterRoom.
func entryRequest(mode roomstore.Mode, p *protocol.EnterParams) (roomstore.EntryRequest, *protocol.Error) {
	var none roomstore.EntryRequest
	room, e := roomstore.ParseRoomID(p.RoomInfo.RoomID)
	if e != nil {
		return none, wireError(e, "")
	}
	if err := checkText("roomName", p.RoomInfo.RoomName, maxRoomName); err != nil {
		return none, err
	}
	if err := checkRequestKey(p.RequestKey); err != nil {
		return none, err
	}
	req := roomstore.EntryRequest{Mode: mode, Room: room, Name: p.RoomInfo.RoomName}
	if err := configure(&req, p.Config); err != nil {
		return none, err
	}
	return req, nil
}

// configure checks what a room is to be like if it is created.
func configure(req *roomstore.EntryRequest, config *protocol.RoomConfig) (err *protocol.Error) {
	if config == nil {
		return nil
	}
	if req.Delay, err = delayOf(config.RoomDestroyDelayTime); err != nil {
		return err
	}
	req.Attributes = config.RoomAttributes
	return checkAttributes(req.Attributes)
}

// switchRequest checks the parameters of switchRoom.
func switchRequest(p *protocol.SwitchParams) (from roomstore.RoomID, req roomstore.EntryRequest, err *protocol.Error) {
	mode := roomstore.ModeJoin
	if p.IsCreateWhenRoomNotExisted {
		mode = roomstore.ModeEnter
	}
	req, err = entryRequest(mode, &protocol.EnterParams{RoomInfo: p.ToRoomInfo, Config: p.Config, RequestKey: p.RequestKey})
	if err != nil {
		return "", req, err
	}
	from, e := roomstore.ParseRoomID(p.FromRoomID)
	switch {
	case e != nil:
		return "", req, badID("fromRoomID", e)
	case from == req.Room:
		return "", req, badParameter("fromRoomID and toRoomInfo.roomID are both %q", from)
	}
	return from, req, nil
}

// roomResult is a room as the caller of an entry gets it.
func roomResult(room roomstore.RoomID, e roomstore.Entry) protocol.Room {
	return protocol.Room{
		RoomInfo: protocol.RoomFullInfo{BaseInfo: protocol.RoomBaseInfo{RoomID: string(room), RoomName: e.Name}},
		Created:  e.Created, Position: protocol.Position(e.Position), MemberCount: e.Count,
	}
}

// enter serves createRoom, joinRoom and enterRoom (rows 1–13). The feed listens
// before the store is asked, so no event after the entry is missed.
func (c *conn) enter(s *session, req roomstore.EntryRequest, cl *claim, answer reply) func() {
	req.Data, req.RequestKey, req.Try = s.data, s.key(cl.key), s.try()
	active, failed := protocol.RoomActiveEnter, protocol.RoomEnterFailed
	if req.Mode == roomstore.ModeCreate {
		active, failed = protocol.RoomActiveCreate, protocol.RoomCreateFailed
	}
	// Rows 3 and 10: a session that is in the room already hears of no change.
	was := s.in(req.Room) != nil
	told := !was && !(cl.late && cl.unspoken())
	if told {
		s.beginning(roomState(req.Room, protocol.RoomConnecting, active))
	}
	refuse := func(err error) {
		if told {
			if errors.Is(err, roomstore.ErrNoRoom) {
				s.state(roomOver(req.Room, protocol.RoomNotExist, ""))
			} else {
				s.state(roomOver(req.Room, failed, ""))
			}
		}
		answer(nil, wireError(err, string(req.Room)))
	}
	// Also if it was in the room: that may be over by now.
	unknown := func(err error, open bool) func() {
		cl.open = open
		refuse(err)
		if !open {
			return nil
		}
		return func() { c.undo(s, req, cl) }
	}
	if cl.late {
		return unknown(errUnavailable, cl.repeat)
	}
	ctx, cancel := c.timeout()
	defer cancel()
	f, err := c.g.hub.open(ctx, req.Room)
	if err != nil {
		return unknown(err, cl.repeat)
	}
	e, open, err := attemptIn(ctx, c, func(ctx context.Context) (roomstore.Entry, error) {
		return c.g.store.Enter(ctx, s.who, req)
	})
	switch {
	case errors.Is(err, roomstore.ErrFenced):
		c.g.hub.close(f)
		s.fenced()
		return nil
	case err != nil:
		c.g.hub.close(f)
		return unknown(err, open || cl.repeat && !roomstore.Refused(err))
	}
	result := roomResult(req.Room, e)
	return c.entered(s, f, e, arrival{
		room: req.Room, active: active, was: was, told: told,
		answer: func() { answer(result, nil) }, refuse: func(err error) func() { return unknown(err, true) },
	})
}

// arrival is what an entry that the store has applied means to the client.
type arrival struct {
	room   roomstore.RoomID
	active protocol.RoomEvent // of connecting
	was    bool               // the session was in the room before, as far as was known
	told   bool               // the client has been told connecting
	failed bool               // and that it failed

	ahead func() // done before the client hears anything; may be nil
	// Said behind (connected, success), or instead of it; nothing of the
	// room comes between.
	answer func()
	refuse func(error) (rest func()) // the client cannot be told what came after the entry
}

// entered makes a session a member on the feed f, and tells the client:
// attributes, state, the answer, then the events behind the entry. The caller's
// use of the feed becomes the member's. What it returns, if anything, is left
// to do after the answer.
func (c *conn) entered(s *session, f *feed, e roomstore.Entry, a arrival) (rest func()) {
	say := func() {
		if a.ahead != nil {
			a.ahead()
		}
		// What a batch holds back of the room is from before this.
		s.c.sock.ReleaseRoom(string(a.room))
		// A repeat says the last state again to who is in the room; who is not,
		// as far as the client knows, hears all of it.
		again := a.was && (e.Already || e.Again)
		if !a.told && !again {
			// It was not in the room any more, or not yet, for the client.
			s.state(roomState(a.room, protocol.RoomConnecting, a.active))
		}
		if len(e.Attributes) > 0 && !again {
			s.state(attributesOnEntry(a.room, e.Position, e.Attributes))
		}
		s.state(roomConnected(a.room, e.Position))
		a.answer()
	}
	switch {
	case e.Gone && !a.failed: // a repeat, and what it did has ended since
		c.g.hub.close(f)
		if s.in(a.room) == nil { // else the event of that is still to come, and says why
			s.state(roomOver(a.room, protocol.RoomSuccess, ""))
		}
		a.answer()
	case e.Later && a.was: // likewise, and the session has entered again
		if !f.standing(s.who.ID, func(at roomstore.Position) {
			s.c.sock.ReleaseRoom(string(a.room))
			s.state(roomConnected(a.room, at))
			a.answer()
		}) {
			a.answer() // and that has ended, too, as the client has been told
		}
		c.g.hub.close(f)
	case e.Later:
		c.g.hub.close(f)
		c.fenced() // the store knows more than we do: the client finds out by resuming
	case e.Already && a.was:
		done := make(chan struct{})
		f.after(s.who.ID, e.Position, func() { a.answer(); close(done) })
		<-done
		c.g.hub.close(f)
	case !e.Again && f.admit(s, e, say):
	default:
		// A repeat, whose client hears what it would have heard then, or an
		// answer so late that the feed has let go what came after the entry.
		back := roomstore.Return{Room: a.room, In: true, Position: e.Position, Entered: e.Entered, Delay: e.Delay, Name: e.Name}
		ctx, cancel := c.timeout()
		defer cancel()
		if err := f.rejoin(ctx, s, back, &sight{Position: e.Position}, say); err != nil {
			return a.refuse(err)
		}
		if e.Gone && s.in(a.room) == f {
			c.fenced() // how it ended is not known here any more
		}
	}
	return nil
}

// switchRoom serves switchRoom (rows 15–20).
func (c *conn) switchRoom(s *session, from roomstore.RoomID, req roomstore.EntryRequest, cl *claim, answer reply) func() {
	req.Data, req.RequestKey, req.Try = s.data, s.key(cl.key), s.try()
	in, both := s.in(from) != nil, s.in(req.Room) != nil
	// Row 19 hears of no change, nor of connecting does who is there already. A
	// repeat is not in from either; that only the store can tell.
	told := in && !both && !(cl.late && cl.unspoken())
	if told {
		s.beginning(roomState(req.Room, protocol.RoomConnecting, protocol.RoomActiveSwitch))
	}
	var left *departure
	unknown := func(err error, open bool) func() {
		cl.open = open
		if told {
			s.state(roomOver(req.Room, protocol.RoomSwitchFailed, ""))
		}
		if errors.Is(err, roomstore.ErrNotFrom) {
			answer(nil, badParameter("fromRoomID: not in room %q", from))
		} else {
			answer(nil, wireError(err, string(req.Room)))
		}
		if !open {
			if errors.Is(err, roomstore.ErrNotFrom) {
				return c.strange(s, from, err)
			}
			return nil
		}
		if left == nil {
			left = s.departing(from)
		}
		left.doubts()
		return func() { c.settle(s, left, req, cl) }
	}
	if cl.late {
		return unknown(errUnavailable, cl.repeat)
	}
	ctx, cancel := c.timeout()
	defer cancel()
	f, err := c.g.hub.open(ctx, req.Room)
	if err != nil {
		return unknown(err, cl.repeat)
	}
	left = s.departing(from)
	// Nothing of the room left may follow, and all that was before comes first.
	o, open, err := agreed(ctx, c, func(ctx context.Context) (o switched, err error) {
		o.entry, o.left, err = c.g.store.Switch(ctx, s.who, from, req)
		return o, err
	}, func(o switched) bool { return left.agrees(ctx, o.left) })
	if err != nil {
		c.g.hub.close(f)
		open = open || cl.repeat && !roomstore.Refused(err)
		fenced := errors.Is(err, roomstore.ErrFenced)
		if fenced || !open {
			left.stays()
		}
		if fenced {
			s.fenced()
			return nil
		}
		return unknown(err, open)
	}
	result := roomResult(req.Room, o.entry)
	return c.entered(s, f, o.entry, arrival{
		room: req.Room, active: protocol.RoomActiveSwitch, was: both, told: told,
		answer: func() { left.tell(); answer(result, nil) },
		refuse: func(err error) func() { left.tell(); left = nil; return unknown(err, true) },
	})
}

// switched is what a switch came to.
type switched struct {
	entry roomstore.Entry
	left  roomstore.Position
}

// settle finds out what became of a switch whose client has been told that it
// failed. If it has not happened it never will. If it has, that stands: the
// event of from has told the client that it is out of that room, and here it
// hears that it is in the other.
func (c *conn) settle(s *session, left *departure, req roomstore.EntryRequest, cl *claim) {
	var o switched
	from := left.room
	defer left.stays()
	came := pursued(c, func(ctx context.Context) (o switched, err error) {
		o.entry, o.left, err = c.g.store.Switched(ctx, s.who, from, req)
		return o, err
	}, func(got switched) bool {
		o = got
		return left.agrees(c.g.backing(), o.left)
	}, s.strange)
	switch {
	case !came:
		return
	case cl.repeated():
		left.yields()
		return
	case left.f != nil:
		left.tell()
	}
	if s.in(req.Room) != nil {
		return // it was in both
	}
	pursue(c, func(ctx context.Context) (none struct{}, err error) {
		f, err := c.g.hub.open(ctx, req.Room)
		if err != nil {
			return none, err
		}
		c.entered(s, f, o.entry, arrival{
			room: req.Room, active: protocol.RoomActiveSwitch, failed: true,
			ahead: cl.end, answer: nothing,
			refuse: func(e error) func() { err = e; return nil },
		})
		return none, err
	})
}

// undo finds out what became of an entry whose client has been told that it
// failed. If it has not happened it never will. If it has, it is taken back,
// unless the client asks for it again soon.
func (c *conn) undo(s *session, req roomstore.EntryRequest, cl *claim) {
	e, known, err := pursue(c, func(ctx context.Context) (roomstore.Entry, error) {
		return c.g.store.Entered(ctx, s.who, req)
	})
	if err != nil {
		s.strange(err)
		return
	}
	if !known || e.Gone || e.Later {
		return
	}
	if f := s.in(req.Room); f != nil && f.follows(s.who.ID, e.Position) {
		return // the repeat of an entry that the client knows of
	}
	if !cl.forsaken(c.g.cfg.RedisTimeout) {
		return
	}
	_, _, err = pursue(c, func(ctx context.Context) (roomstore.Position, error) {
		return c.g.store.Undo(ctx, s.who, req)
	})
	s.strange(err)
	if err != nil && !roomstore.Refused(err) {
		c.g.log.Warn("entry not taken back", "room", req.Room, "user", s.who.User, "err", err)
	}
}

// leave serves leaveRoom (rows 21–23).
func (c *conn) leave(s *session, room roomstore.RoomID, cl *claim, answer reply) func() {
	if cl.late {
		answer(nil, unavailable())
		return nil
	}
	key := s.key(cl.key)
	d := s.departing(room)
	call := func(ctx context.Context) (roomstore.Position, error) { return c.g.store.Leave(ctx, s.who, room, key) }
	ctx, cancel := c.timeout()
	defer cancel()
	_, open, err := agreed(ctx, c, call, func(at roomstore.Position) bool { return d.agrees(ctx, at) })
	if err != nil && !d.refused(err) {
		if cl.open = open; open {
			d.doubts()
		} else {
			d.stays()
		}
		switch {
		case errors.Is(err, roomstore.ErrFenced):
			s.fenced()
		case errors.Is(err, roomstore.ErrNoRoom):
			answer(nil, fail(protocol.CodeLeaveNoRoom, "%s: %q", roomstore.ErrNoRoom, room))
		default:
			answer(nil, wireError(err, string(room)))
		}
		if !open {
			return c.strange(s, room, err)
		}
		return func() {
			// Its event says so to the client, too, if that is not lost.
			if pursued(c, call, func(at roomstore.Position) bool { return d.agrees(c.g.backing(), at) }, d.refused) {
				d.tell()
			} else {
				d.stays()
			}
		}
	}
	d.tell()
	answer(protocol.LeaveResult{RoomID: string(room)}, nil)
	return nil
}

// leaveAll serves leaveAllRoom (row 24).
func (c *conn) leaveAll(s *session, clients int64, answer reply) func() {
	rooms, rest, err := c.leaveEverything(s, s.key(clients), false)
	if err != nil {
		if !errors.Is(err, roomstore.ErrFenced) {
			answer(nil, wireError(err, ""))
		}
		if rest == nil {
			return nil
		}
		return func() { rest() }
	}
	answer(protocol.LeaveAllResult{RoomIDs: rooms}, nil)
	return nil
}

// leaveEverything takes the session out of all its rooms, ending it if end is
// set, and tells the client of each.
//
// If the outcome is open, rest pursues it and says whether it happened.
func (c *conn) leaveEverything(s *session, key roomstore.RequestKey, end bool) (rooms []string, rest func() bool, err error) {
	all := map[roomstore.RoomID]*departure{}
	for _, f := range s.feeds() {
		all[f.room] = s.departing(f.room)
	}
	rooms = []string{}
	call := func(ctx context.Context) ([]roomstore.Departure, error) {
		return c.g.store.LeaveAll(ctx, s.who, key, end)
	}
	agrees := func(ctx context.Context, left []roomstore.Departure) bool {
		yes := true
		for _, room := range rooms {
			if !slices.ContainsFunc(left, func(one roomstore.Departure) bool { return string(one.Room) == room }) {
				all[roomstore.RoomID(room)].refused(roomstore.ErrNotMember)
			}
		}
		for _, one := range left {
			d := all[one.Room]
			if d == nil {
				d = &departure{s: s, room: one.Room}
				all[one.Room] = d
			}
			if d.at.Epoch == 0 {
				rooms = append(rooms, string(one.Room))
			}
			yes = d.agrees(ctx, one.Position) && yes
		}
		return yes
	}
	tell := func() {
		for _, room := range rooms {
			all[roomstore.RoomID(room)].tell()
		}
		for _, d := range all {
			if d.at.Epoch == 0 {
				d.stays() // its end has come, or is on its way
			}
		}
	}
	ctx, cancel := c.timeout()
	defer cancel()
	_, open, err := agreed(ctx, c, call, func(left []roomstore.Departure) bool { return agrees(ctx, left) })
	if err != nil {
		for _, d := range all {
			if open {
				d.doubts()
			} else {
				d.stays()
			}
		}
		if errors.Is(err, roomstore.ErrFenced) {
			s.fenced()
		}
		if open {
			rest = func() bool {
				if !pursued(c, call, func(left []roomstore.Departure) bool { return agrees(c.g.backing(), left) }, nil) {
					for _, d := range all {
						d.stays()
					}
					return false
				}
				tell()
				return true
			}
		}
		return nil, rest, err
	}
	tell()
	for _, d := range all {
		if d.at.Epoch == 0 && end && d.f.detach(s) {
			// It would come too late for this client.
			s.roomOver(d.room, protocol.RoomSuccess, "")
		}
	}
	return rooms, nil, nil
}

// fenced ends a connection whose session the store knows as another's, or as
// parked: the client finds out by resuming.
func (c *conn) fenced() {
	c.close(protocol.CloseServiceRestart, closeReason(c.g.cfg.ReconnectAfter))
}
