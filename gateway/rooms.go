package gateway

import (
	"context"
	"errors"

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
		return "", req, wireError(e, "")
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
func (c *conn) enter(s *session, req roomstore.EntryRequest, clients int64, answer reply) func() {
	req.Data, req.RequestKey = s.data, s.key(clients)
	active, failed := protocol.RoomActiveEnter, protocol.RoomEnterFailed
	if req.Mode == roomstore.ModeCreate {
		active, failed = protocol.RoomActiveCreate, protocol.RoomCreateFailed
	}
	// Rows 3 and 10: a session that is in the room already hears of no change.
	was := s.in(req.Room) != nil
	if !was {
		s.state(roomState(req.Room, protocol.RoomConnecting, active))
	}
	refuse := func(err error) {
		if !was {
			if errors.Is(err, roomstore.ErrNoRoom) {
				s.state(roomOver(req.Room, protocol.RoomNotExist, ""))
			} else {
				s.state(roomOver(req.Room, failed, ""))
			}
		}
		answer(nil, wireError(err, string(req.Room)))
	}

	ctx, cancel := context.WithTimeout(c.g.backing(), c.g.cfg.RedisTimeout)
	f, err := c.g.hub.open(ctx, req.Room)
	cancel()
	if err != nil {
		refuse(err)
		return nil
	}
	call := func(ctx context.Context) (roomstore.Entry, error) { return c.g.store.Enter(ctx, s.who, req) }
	e, open, err := attempt(c, call)
	switch {
	case errors.Is(err, roomstore.ErrFenced):
		c.g.hub.close(f)
		c.fenced()
		return nil
	case err != nil:
		c.g.hub.close(f)
		refuse(err)
		if !open || was {
			return nil // what happened, if it did, changed nothing
		}
		return func() { c.undo(s, req, call) }
	}
	result := roomResult(req.Room, e)
	return c.entered(s, f, e, arrival{
		room: req.Room, active: active, was: was, told: !was,
		answer: func() { answer(result, nil) }, refuse: refuse,
		undo: func() { c.undo(s, req, call) },
	})
}

// arrival is what an entry that the store has applied means to the client.
type arrival struct {
	room   roomstore.RoomID
	active protocol.RoomEvent // of connecting
	was    bool               // the session was in the room before, as far as was known
	told   bool               // the client has been told connecting

	// Said behind (connected, success), or instead of it; nothing of the
	// room comes between.
	answer func()
	refuse func(error) // the client cannot be told what came after the entry
	undo   func()      // left to do after refuse, for an entry that is new
}

// entered makes a session a member on the feed f, and tells the client:
// attributes, state, the answer, then the events behind the entry. The caller's
// use of the feed becomes the member's. What it returns, if anything, is left
// to do after the answer.
func (c *conn) entered(s *session, f *feed, e roomstore.Entry, a arrival) (rest func()) {
	say := func() {
		// What a batch holds back of the room is from before this.
		s.c.sock.ReleaseRoom(string(a.room))
		if !a.told && !e.Already && !e.Again {
			// It was not in the room any more, and has only been told so now.
			s.state(roomState(a.room, protocol.RoomConnecting, a.active))
		}
		if len(e.Attributes) > 0 {
			s.state(attributesOnEntry(a.room, e.Position, e.Attributes))
		}
		s.state(roomConnected(a.room, e.Position))
		a.answer()
	}
	switch {
	case e.Gone: // a repeat, and what it did has ended since
		c.g.hub.close(f)
		s.state(roomOver(a.room, protocol.RoomSuccess, ""))
		a.answer()
	case e.Already && a.was:
		done := make(chan struct{})
		f.after(e.Position, func() { a.answer(); close(done) })
		<-done
		c.g.hub.close(f)
	case !e.Again && f.admit(s, e, say):
	default:
		// A repeat, whose client hears what it would have heard then, or an
		// answer so late that the feed has let go what came after the entry.
		back := roomstore.Return{Room: a.room, In: true, Position: e.Position, Entered: e.Entered, Delay: e.Delay, Name: e.Name}
		ctx, cancel := context.WithTimeout(c.g.backing(), c.g.cfg.RedisTimeout)
		defer cancel()
		if err := f.rejoin(ctx, s, back, &sight{Position: e.Position}, say); err != nil {
			a.refuse(err)
			if !e.Again {
				return a.undo
			}
		}
	}
	return nil
}

// switchRoom serves switchRoom (rows 15–20).
func (c *conn) switchRoom(s *session, from roomstore.RoomID, req roomstore.EntryRequest, clients int64, answer reply) func() {
	req.Data, req.RequestKey = s.data, s.key(clients)
	left, both := s.in(from), s.in(req.Room) != nil
	// Row 19 hears of no change, nor of connecting does who is there already. A
	// repeat is not in from either; that only the store can tell.
	told := left != nil && !both
	if told {
		s.state(roomState(req.Room, protocol.RoomConnecting, protocol.RoomActiveSwitch))
	}
	refuse := func(err error) {
		if told {
			s.state(roomOver(req.Room, protocol.RoomSwitchFailed, ""))
		}
		if errors.Is(err, roomstore.ErrNotFrom) {
			answer(nil, badParameter("fromRoomID: not in room %q", from))
			return
		}
		answer(nil, wireError(err, string(req.Room)))
	}
	ctx, cancel := context.WithTimeout(c.g.backing(), c.g.cfg.RedisTimeout)
	f, err := c.g.hub.open(ctx, req.Room)
	cancel()
	if err != nil {
		refuse(err)
		return nil
	}
	var m *member
	if left != nil {
		m = left.leaving(s.who.ID)
	}
	type outcome struct {
		entry roomstore.Entry
		left  roomstore.Position
	}
	call := func(ctx context.Context) (o outcome, err error) {
		o.entry, o.left, err = c.g.store.Switch(ctx, s.who, from, req)
		return o, err
	}
	// To try again, as for an entry, could take the session out of from now and
	// in the end leave it in neither.
	ask := func(ctx context.Context) (roomstore.Entry, error) {
		e, _, err := c.g.store.Switched(ctx, s.who, from, req)
		return e, err
	}
	undo := func() { c.undo(s, req, ask) }
	o, open, err := attempt(c, call)
	if err != nil {
		c.g.hub.close(f)
		if left != nil {
			left.stays(m)
		}
		if errors.Is(err, roomstore.ErrFenced) {
			c.fenced()
			return nil
		}
		refuse(err)
		switch {
		case !open:
			return nil
		case both:
			// If it happened, the event of from says so.
			return func() { pursue(c, ask) }
		}
		// If it happened, the event of from says so; the client has been told
		// that it is not in the other.
		return undo
	}
	// Nothing of the room left may follow, and all that was before comes first.
	out := true
	if left != nil {
		done := make(chan struct{})
		left.left(s.who.ID, o.left, func(is bool) { out = is; close(done) })
		<-done
		if !out {
			left.stays(m)
		}
	}
	over := func() {
		if out {
			s.roomOver(from, protocol.RoomSuccess, "")
		}
	}
	result := roomResult(req.Room, o.entry)
	return c.entered(s, f, o.entry, arrival{
		room: req.Room, active: protocol.RoomActiveSwitch, was: both, told: told,
		answer: func() { over(); answer(result, nil) },
		refuse: func(err error) { over(); refuse(err) },
		undo:   undo,
	})
}

// undo finds out what became of an entry whose client has been told that it
// failed, and takes it back if it happened.
func (c *conn) undo(s *session, req roomstore.EntryRequest, enter func(context.Context) (roomstore.Entry, error)) {
	e, known, err := pursue(c, enter)
	if !known || err != nil || e.Gone || e.Already {
		return
	}
	key := s.key(0)
	_, _, err = pursue(c, func(ctx context.Context) (roomstore.Position, error) {
		return c.g.store.Undo(ctx, s.who, req.Room, key, req.RequestKey)
	})
	if err != nil && !roomstore.Refused(err) {
		c.g.log.Warn("entry not taken back", "room", req.Room, "user", s.who.User, "err", err)
	}
}

// leave serves leaveRoom (rows 21–23).
func (c *conn) leave(s *session, room roomstore.RoomID, clients int64, answer reply) func() {
	key := s.key(clients)
	f := s.in(room)
	var m *member
	if f != nil {
		m = f.leaving(s.who.ID)
	}
	call := func(ctx context.Context) (roomstore.Position, error) { return c.g.store.Leave(ctx, s.who, room, key) }
	at, open, err := attempt(c, call)
	if err != nil {
		if f != nil {
			f.stays(m)
		}
		switch {
		case errors.Is(err, roomstore.ErrFenced):
			c.fenced()
		case errors.Is(err, roomstore.ErrNoRoom):
			answer(nil, fail(protocol.CodeLeaveNoRoom, "%s: %q", roomstore.ErrNoRoom, room))
		default:
			answer(nil, wireError(err, string(room)))
		}
		if !open {
			return nil
		}
		// If it happened, or does now, its event says so to the client, too.
		return func() { pursue(c, call) }
	}
	say := func(out bool) {
		if out {
			s.roomOver(room, protocol.RoomSuccess, "")
		}
		answer(protocol.LeaveResult{RoomID: string(room)}, nil)
	}
	if f == nil {
		say(true)
		return nil
	}
	done := make(chan struct{})
	f.left(s.who.ID, at, func(out bool) { say(out); close(done) })
	<-done
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
	feeds := map[roomstore.RoomID]*feed{}
	members := map[*feed]*member{}
	for _, f := range s.feeds() {
		feeds[f.room] = f
		members[f] = f.leaving(s.who.ID)
	}
	call := func(ctx context.Context) ([]roomstore.Departure, error) {
		return c.g.store.LeaveAll(ctx, s.who, key, end)
	}
	left, open, err := attempt(c, call)
	if err != nil {
		for _, f := range feeds {
			f.stays(members[f])
		}
		if errors.Is(err, roomstore.ErrFenced) {
			c.fenced()
		}
		if open {
			rest = func() bool {
				_, known, err := pursue(c, call)
				return known && err == nil
			}
		}
		return nil, rest, err
	}
	rooms = []string{}
	for _, d := range left {
		rooms = append(rooms, string(d.Room))
		f := feeds[d.Room]
		if f == nil {
			s.roomOver(d.Room, protocol.RoomSuccess, "")
			continue
		}
		delete(feeds, d.Room)
		done := make(chan struct{})
		f.left(s.who.ID, d.Position, func(out bool) {
			if out {
				s.roomOver(d.Room, protocol.RoomSuccess, "")
			}
			close(done)
		})
		<-done
	}
	for _, f := range feeds {
		f.stays(members[f]) // their end has come, or is on its way
	}
	return rooms, nil, nil
}

// fenced ends a connection whose session the store knows as another's, or as
// parked: the client finds out by resuming.
func (c *conn) fenced() {
	c.close(protocol.CloseServiceRestart, closeReason(c.g.cfg.ReconnectAfter))
}
