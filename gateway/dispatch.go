package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// reply queues the answer to a request: a result, or an error if that is not
// nil.
type reply func(result any, err *protocol.Error)

// prepared is a request that has been read, checked, and found to be allowed
// to wait for its turn.
type prepared struct {
	rooms     []roomstore.RoomID // it is about; none: it waits for all before it
	immediate bool               // it waits for nothing

	// run carries the request out and answers it; late, it only says that its
	// turn has not come in time. What it returns, if anything, is what is left
	// to do of it after the answer.
	run func(late bool, answer reply) (rest func())

	answered func() // when the answer is about to be queued; only the first call counts
	claim    *claim // nil if row 14 is not about it
}

// settle ends what the next request could be refused for, before the answer
// goes out: whoever hears it may send that request at once. A request whose
// outcome is open stays under way.
func (p *prepared) settle() {
	p.answered()
	if p.claim != nil {
		p.claim.answered()
	}
}

// done ends a request.
func (p *prepared) done() {
	p.answered()
	if p.claim != nil {
		p.claim.end()
	}
}

func nothing() {}

// operation is how one method is carried out for a session.
type operation func(s *session, answer reply) (rest func())

// claimant is operation for what row 14 is about. It handles being late itself.
type claimant func(s *session, cl *claim, answer reply) (rest func())

// prepare reads a request's parameters and decides what can be decided before
// its turn. of stands for the message it came in.
func (c *conn) prepare(r *protocol.Request, of *owner) (prepared, *protocol.Error) {
	switch r.Method {
	case protocol.MethodPing:
		if err := parseParams(r.Params, &noParams{}); err != nil {
			return prepared{}, err
		}
		return prepared{immediate: true, answered: nothing, run: func(_ bool, answer reply) func() {
			answer(protocol.PingResult{ServerTime: time.Now().UnixMilli()}, nil)
			return nil
		}}, nil

	case protocol.MethodLogin:
		var p protocol.LoginParams
		bad := parseParams(r.Params, &p)
		return prepared{answered: nothing, run: func(late bool, answer reply) func() {
			if late {
				answer(nil, unavailable())
				return nil
			}
			return c.logIn(&p, bad, answer)
		}}, nil

	case protocol.MethodLogout:
		if err := parseParams(r.Params, &noParams{}); err != nil {
			return prepared{}, err
		}
		return c.changing(nil, c.logOut)

	case protocol.MethodRenewToken:
		var p protocol.RenewTokenParams
		return c.asking(r.Params, &p, nil, func(s *session, answer reply) func() { return c.renewToken(s, &p, answer) })

	case protocol.MethodCreateRoom, protocol.MethodEnterRoom:
		var p protocol.EnterParams
		if err := parseParams(r.Params, &p); err != nil {
			return prepared{}, err
		}
		mode := roomstore.ModeEnter
		if r.Method == protocol.MethodCreateRoom {
			mode = roomstore.ModeCreate
		}
		req, err := entryRequest(mode, &p)
		if err != nil {
			return prepared{}, err
		}
		return c.claiming(of, p.RequestKey, func(s *session, cl *claim, answer reply) func() {
			return c.enter(s, req, cl, answer)
		}, req.Room)

	case protocol.MethodJoinRoom:
		var p protocol.RoomParams
		room, err := roomParams(r.Params, &p)
		if err != nil {
			return prepared{}, err
		}
		req := roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: room}
		return c.claiming(of, p.RequestKey, func(s *session, cl *claim, answer reply) func() {
			return c.enter(s, req, cl, answer)
		}, room)

	case protocol.MethodSwitchRoom:
		var p protocol.SwitchParams
		if err := parseParams(r.Params, &p); err != nil {
			return prepared{}, err
		}
		from, req, err := switchRequest(&p)
		if err != nil {
			return prepared{}, err
		}
		return c.claiming(of, p.RequestKey, func(s *session, cl *claim, answer reply) func() {
			return c.switchRoom(s, from, req, cl, answer)
		}, from, req.Room)

	case protocol.MethodLeaveRoom:
		var p protocol.RoomParams
		room, err := roomParams(r.Params, &p)
		if err != nil {
			return prepared{}, err
		}
		return c.claiming(of, p.RequestKey, func(s *session, cl *claim, answer reply) func() {
			return c.leave(s, room, cl, answer)
		}, room)

	case protocol.MethodLeaveAllRoom:
		var p protocol.LeaveAllParams
		if err := parseParams(r.Params, &p); err != nil {
			return prepared{}, err
		}
		if err := checkRequestKey(p.RequestKey); err != nil {
			return prepared{}, err
		}
		return c.changing(nil, func(s *session, answer reply) func() { return c.leaveAll(s, p.RequestKey, answer) })

	case protocol.MethodSendRoomMessage:
		var p protocol.SendParams
		if err := parseParams(r.Params, &p); err != nil {
			return prepared{}, err
		}
		return c.prepareSend(&p)

	case protocol.MethodQueryRoomMemberList:
		var p protocol.MemberListParams
		return c.asking(r.Params, &p, &p.RoomID, func(s *session, answer reply) func() { return c.queryMemberList(s, &p, answer) })

	case protocol.MethodQueryRoomMembers:
		var p protocol.MembersParams
		return c.asking(r.Params, &p, &p.RoomID, func(s *session, answer reply) func() { return c.queryMembers(s, &p, answer) })

	case protocol.MethodQueryRoomOnlineMemberCount:
		var p protocol.RoomParams
		return c.asking(r.Params, &p, &p.RoomID, func(s *session, answer reply) func() { return c.queryCount(s, &p, answer) })

	case protocol.MethodQueryRoomHistory:
		if !c.g.cfg.HistoryQuery {
			return prepared{}, fail(protocol.CodeMethodNotFound, "queryRoomHistory is turned off here; the operator can turn it on by --history-query")
		}
		var p protocol.HistoryParams
		return c.asking(r.Params, &p, &p.RoomID, func(s *session, answer reply) func() { return c.queryHistory(s, &p, answer) })

	case protocol.MethodSetRoomAttributes:
		var p protocol.SetAttributesParams
		if err := parseParams(r.Params, &p); err != nil {
			return prepared{}, err
		}
		return c.prepareAttributes(p.RoomID, p.RequestKey,
			[]protocol.AttributesOperation{{Action: protocol.AttributesSet, RoomAttributes: p.RoomAttributes}}, p.Config)

	case protocol.MethodDeleteRoomAttributes:
		var p protocol.DeleteAttributesParams
		if err := parseParams(r.Params, &p); err != nil {
			return prepared{}, err
		}
		return c.prepareAttributes(p.RoomID, p.RequestKey,
			[]protocol.AttributesOperation{{Action: protocol.AttributesDelete, Keys: p.Keys}}, p.Config)

	case protocol.MethodBatchRoomAttributes:
		var p protocol.BatchAttributesParams
		if err := parseParams(r.Params, &p); err != nil {
			return prepared{}, err
		}
		return c.prepareBatch(&p)

	case protocol.MethodSetRoomMembersAttributes:
		var p protocol.SetMembersAttributesParams
		if err := parseParams(r.Params, &p); err != nil {
			return prepared{}, err
		}
		return c.prepareMemberAttributes(&p)

	case protocol.MethodQueryRoomMembersAttributes:
		var p protocol.MembersAttributesParams
		return c.asking(r.Params, &p, &p.RoomID, func(s *session, answer reply) func() { return c.queryMembersAttributes(s, &p, answer) })

	case protocol.MethodQueryRoomMemberAttributesList:
		var p protocol.MemberListParams
		return c.asking(r.Params, &p, &p.RoomID, func(s *session, answer reply) func() { return c.queryMemberAttributesList(s, &p, answer) })

	case protocol.MethodQueryRoomAllAttributes:
		var p protocol.RoomParams
		return c.asking(r.Params, &p, &p.RoomID, func(s *session, answer reply) func() { return c.queryAllAttributes(s, &p, answer) })
	}
	return prepared{}, fail(protocol.CodeMethodNotFound, "there is no method %q", r.Method)
}

// roomParams reads the parameters of a method that names one room.
func roomParams(raw json.RawMessage, p *protocol.RoomParams) (roomstore.RoomID, *protocol.Error) {
	if err := parseParams(raw, p); err != nil {
		return "", err
	}
	if err := checkRequestKey(p.RequestKey); err != nil {
		return "", err
	}
	room, err := roomstore.ParseRoomID(p.RoomID)
	if err != nil {
		return "", wireError(err, "")
	}
	return room, nil
}

// loggedIn is an operation as run by whoever is logged in when its turn comes.
func (c *conn) loggedIn(do operation) func(bool, reply) func() {
	return func(late bool, answer reply) func() {
		s := c.session.Load()
		if late || s == nil {
			answer(nil, notRun(late))
			return nil
		}
		return do(s, answer)
	}
}

// notRun says why a request was not carried out: it was late, or nobody was
// logged in.
func notRun(late bool) *protocol.Error {
	if late {
		return unavailable()
	}
	return fail(protocol.CodeNotLoggedIn, "not logged in")
}

func unavailable() *protocol.Error { return wireError(errUnavailable, "") }

// asking prepares a request that changes nothing. If room is not nil it is
// that of a room, which the request waits its turn for.
func (c *conn) asking(raw json.RawMessage, params any, room *string, do operation) (prepared, *protocol.Error) {
	if err := parseParams(raw, params); err != nil {
		return prepared{}, err
	}
	p := prepared{answered: nothing, run: c.loggedIn(do)}
	if room != nil {
		id, err := roomstore.ParseRoomID(*room)
		if err != nil {
			return prepared{}, wireError(err, "")
		}
		p.rooms = []roomstore.RoomID{id}
		p.run = c.loggedIn(func(s *session, answer reply) func() {
			defer s.exactly(id)()
			return do(s, answer)
		})
	}
	return p, nil
}

// changing prepares a request that changes state, of which only so many may be
// unanswered.
func (c *conn) changing(rooms []roomstore.RoomID, do operation) (prepared, *protocol.Error) {
	if c.unanswered.Add(1) > protocol.MaxUnanswered {
		c.unanswered.Add(-1)
		return prepared{}, fail(protocol.CodeTooFast, "more than %d state-changing requests of this connection are unanswered", protocol.MaxUnanswered)
	}
	counts := true
	return prepared{
		rooms: rooms, run: c.loggedIn(do),
		answered: func() {
			if counts {
				counts = false
				c.unanswered.Add(-1)
			}
		},
	}, nil
}

// claiming prepares an operation that row 14 is about.
func (c *conn) claiming(of *owner, key int64, do claimant, rooms ...roomstore.RoomID) (prepared, *protocol.Error) {
	p, err := c.changing(rooms, nil)
	if err != nil {
		return prepared{}, err
	}
	cl, err := c.claim(of, key, rooms...)
	if err != nil {
		p.answered()
		return prepared{}, err
	}
	p.claim = cl
	p.run = func(late bool, answer reply) func() {
		s := c.session.Load()
		if s == nil {
			answer(nil, notRun(late))
			return nil
		}
		cl.late = late
		return do(s, cl, answer)
	}
	return p, nil
}

// strange gives what is left to do if the store, by err, does not know a session in
// a room that it is in as far as is known here: what has become of it is on its
// way, or was lost, and the client hears of it at once.
func (c *conn) strange(s *session, room roomstore.RoomID, err error) (rest func()) {
	f := s.in(room)
	if f == nil || !errors.Is(err, roomstore.ErrNotMember) && !errors.Is(err, roomstore.ErrNotFrom) && !errors.Is(err, roomstore.ErrNoRoom) {
		return nil
	}
	return func() {
		f.look()
		s.verify()
	}
}

// timeout bounds what is done for one request before its answer.
func (c *conn) timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.g.backing(), c.g.cfg.RedisTimeout)
}

// attempt makes a call until its outcome is known or the time for an answer is
// over. open says that it may have happened all the same.
func attempt[T any](c *conn, call func(context.Context) (T, error)) (v T, open bool, err error) {
	ctx, cancel := c.timeout()
	defer cancel()
	return attemptIn(ctx, c, call)
}

// attemptIn is attempt for a request that has used some of its time already.
func attemptIn[T any](ctx context.Context, c *conn, call func(context.Context) (T, error)) (v T, open bool, err error) {
	for backoff := 10 * time.Millisecond; ; backoff = min(2*backoff, 200*time.Millisecond) {
		v, err = call(ctx)
		if err == nil || roomstore.Refused(err) {
			if errors.Is(err, roomstore.ErrBadReply) {
				c.g.log.Error("the store broke its contract", "err", err)
			}
			// That it came too late, or that Redis is full by now, says nothing of those before it.
			return v, open && (errors.Is(err, roomstore.ErrLate) || errors.Is(err, roomstore.ErrMemory)), err
		}
		if unknown(err) {
			open = true
			c.doubtful.Store(true)
		}
		select {
		case <-ctx.Done():
			return v, open, err
		case <-time.After(backoff):
		}
	}
}

// agreed is attemptIn for a call that is to be repeated, under its requestKey,
// until what it came to is agreed to.
func agreed[T any](ctx context.Context, c *conn, call func(context.Context) (T, error), yes func(T) bool) (v T, open bool, err error) {
	for again := false; ; again = true {
		v, open, err = attemptIn(ctx, c, call)
		if err != nil {
			return v, open || again && !roomstore.Refused(err), err
		}
		if yes(v) {
			return v, false, nil
		}
	}
}

// pursue makes a call whose outcome is open until it is known. It gives up when
// the connection ends: parking the session then fences the call.
func pursue[T any](c *conn, call func(context.Context) (T, error)) (v T, known bool, err error) {
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, 500*time.Millisecond) {
		ctx, cancel := context.WithTimeout(c.g.backing(), c.g.cfg.RedisTimeout)
		v, err = call(ctx)
		cancel()
		if err == nil || roomstore.Refused(err) {
			return v, true, err
		}
		c.doubtful.Store(true)
		select {
		case <-c.gone:
			return v, false, err
		case <-c.g.backing().Done():
			return v, false, err
		case <-time.After(backoff):
		}
	}
}

// pursued is agreed for a call that is pursued. It says whether it came about; over,
// if not nil, says so of a refusal.
func pursued[T any](c *conn, call func(context.Context) (T, error), yes func(T) bool, over func(error) bool) bool {
	for {
		v, known, err := pursue(c, call)
		switch {
		case !known:
			return false
		case err != nil:
			return over != nil && over(err)
		case yes(v):
			return true
		}
	}
}
