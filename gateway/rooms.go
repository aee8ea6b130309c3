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
		if !open {
			return nil
		}
		return func() { c.undo(s, req.Room, call) }
	}
	result := roomResult(req.Room, e)
	if e.Already && was {
		done := make(chan struct{})
		f.after(e.Position, func() { answer(result, nil); close(done) })
		<-done
		c.g.hub.close(f)
		return nil
	}
	c.entered(s, f, req.Room, e, func() { answer(result, nil) }, refuse)
	return nil
}

// entered makes a session a member on the feed f after an entry that the store
// has applied, and tells the client: attributes, state, then what answer says,
// then the events behind the entry.
func (c *conn) entered(s *session, f *feed, room roomstore.RoomID, e roomstore.Entry, answer func(), refuse func(error)) {
	say := func() {
		if len(e.Attributes) > 0 {
			s.event(attributesOnEntry(room, e.Position, e.Attributes), classPull, room)
		}
		s.state(roomConnected(room, e.Position))
		answer()
	}
	switch {
	case e.Gone: // a repeat, and what it did has ended since
		c.g.hub.close(f)
		s.state(roomOver(room, protocol.RoomSuccess, ""))
		answer()
	case e.Again:
		// A repeat: the client hears what it would have heard then.
		back := roomstore.Return{Room: room, In: true, Position: e.Position, Entered: e.Entered, Delay: e.Delay, Name: e.Name}
		ctx, cancel := context.WithTimeout(c.g.backing(), c.g.cfg.RedisTimeout)
		defer cancel()
		if err := f.rejoin(ctx, s, back, &e.Position, say); err != nil {
			refuse(err)
		}
	default:
		f.admit(s, e, say)
	}
}

// switchRoom serves switchRoom (rows 15–20).
func (c *conn) switchRoom(s *session, from roomstore.RoomID, req roomstore.EntryRequest, clients int64, answer reply) func() {
	req.Data, req.RequestKey = s.data, s.key(clients)
	left := s.in(from)
	// Row 19 hears of no change. The session is not in from either if this is
	// a repeat; that only the store can tell.
	both := s.in(req.Room) != nil
	was := left == nil || both
	if !was {
		s.state(roomState(req.Room, protocol.RoomConnecting, protocol.RoomActiveSwitch))
	}
	refuse := func(err error) {
		if !was {
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
	if left != nil {
		left.leaving(s.who.ID, true)
	}
	type outcome struct {
		entry roomstore.Entry
		left  roomstore.Position
	}
	call := func(ctx context.Context) (o outcome, err error) {
		o.entry, o.left, err = c.g.store.Switch(ctx, s.who, from, req)
		return o, err
	}
	o, open, err := attempt(c, call)
	if err != nil {
		c.g.hub.close(f)
		if left != nil {
			left.leaving(s.who.ID, false)
		}
		if errors.Is(err, roomstore.ErrFenced) {
			c.fenced()
			return nil
		}
		refuse(err)
		if !open {
			return nil
		}
		// If it happened the client hears that it has left from; it has been
		// told that it is not in the other.
		return func() {
			c.undo(s, req.Room, func(ctx context.Context) (roomstore.Entry, error) {
				o, err := call(ctx)
				return o.entry, err
			})
		}
	}
	// Nothing of the room left may follow, and all that was before comes first.
	if left != nil {
		done := make(chan struct{})
		left.left(s.who.ID, o.left, func(bool) { close(done) })
		<-done
	}
	result := roomResult(req.Room, o.entry)
	finish := func() {
		if s.in(from) == nil {
			s.roomOver(from, protocol.RoomSuccess, "")
		}
		answer(result, nil)
	}
	if both && !o.entry.Again {
		// It was in both, and stays in this one.
		done := make(chan struct{})
		f.after(o.entry.Position, func() { finish(); close(done) })
		<-done
		c.g.hub.close(f)
		return nil
	}
	c.entered(s, f, req.Room, o.entry, finish, refuse)
	return nil
}

// undo finds out what became of an entry whose client has been told that it
// failed, and takes it back if it happened.
func (c *conn) undo(s *session, room roomstore.RoomID, enter func(context.Context) (roomstore.Entry, error)) {
	e, known, err := pursue(c, enter)
	if !known || err != nil || e.Gone {
		return
	}
	key := s.key(0)
	_, _, err = pursue(c, func(ctx context.Context) (roomstore.Position, error) {
		return c.g.store.Leave(ctx, s.who, room, key)
	})
	if err != nil && !roomstore.Refused(err) {
		c.g.log.Warn("entry not taken back", "room", room, "session", s.who.ID, "err", err)
	}
}

// leave serves leaveRoom (rows 21–23).
func (c *conn) leave(s *session, room roomstore.RoomID, clients int64, answer reply) func() {
	key := s.key(clients)
	f := s.in(room)
	if f != nil {
		f.leaving(s.who.ID, true)
	}
	call := func(ctx context.Context) (roomstore.Position, error) { return c.g.store.Leave(ctx, s.who, room, key) }
	at, open, err := attempt(c, call)
	if err != nil {
		if f != nil {
			f.leaving(s.who.ID, false)
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
		return rest
	}
	answer(protocol.LeaveAllResult{RoomIDs: rooms}, nil)
	return nil
}

// leaveEverything takes the session out of all its rooms, ending it if end is
// set, and tells the client of each.
func (c *conn) leaveEverything(s *session, key roomstore.RequestKey, end bool) (rooms []string, rest func(), err error) {
	feeds := map[roomstore.RoomID]*feed{}
	for _, f := range s.feeds() {
		feeds[f.room] = f
		f.leaving(s.who.ID, true)
	}
	call := func(ctx context.Context) ([]roomstore.Departure, error) {
		return c.g.store.LeaveAll(ctx, s.who, key, end)
	}
	left, open, err := attempt(c, call)
	if err != nil {
		for _, f := range feeds {
			f.leaving(s.who.ID, false)
		}
		if errors.Is(err, roomstore.ErrFenced) {
			c.fenced()
		}
		if open {
			rest = func() { pursue(c, call) }
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
		f.leaving(s.who.ID, false) // their end is on its way
	}
	return rooms, nil, nil
}

// fenced ends a connection whose session the store knows as another's, or as
// parked: the client finds out by resuming.
func (c *conn) fenced() {
	c.close(protocol.CloseServiceRestart, closeReason(c.g.cfg.ReconnectAfter))
}
