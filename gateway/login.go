package gateway

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// tokenWarning is how long before a token expires its client is told.
const tokenWarning = 30 * time.Second

// logIn serves login, with or without resume. bad is what is wrong with the
// shape of its parameters.
func (c *conn) logIn(p *protocol.LoginParams, bad *protocol.Error, answer reply) func() {
	if c.session.Load() != nil {
		answer(nil, fail(protocol.CodeAlreadyLoggedIn, "this connection is logged in already"))
		return nil
	}
	refuse := func(err *protocol.Error) {
		answer(nil, err)
		if c.failed++; c.failed >= failedLogins {
			c.close(protocol.CloseNotAuthorised, fmt.Sprintf("%d logins were refused", failedLogins))
		}
	}
	if bad != nil {
		refuse(bad)
		return nil
	}
	user, named, bad := checkLogin(p)
	if bad != nil {
		refuse(bad)
		return nil
	}
	expires, err := c.g.verifier.Verify(p.Token, p.UserID, time.Now())
	if err != nil {
		refuse(&protocol.Error{Code: tokenCode(err), Message: err.Error()})
		return nil
	}
	if c.g.draining.Load() {
		c.close(protocol.CloseTryAgainLater, closeReason(c.g.cfg.ReconnectAfter))
		return nil
	}
	node := c.g.node()
	if node == "" { // there is no lease that the session could depend on
		c.close(protocol.CloseTryAgainLater, closeReason(c.g.cfg.ReconnectAfter))
		return nil
	}
	if p.Resume != nil {
		defer c.g.comes(roomstore.SessionID(p.Resume.SessionID))()
	}
	who, rooms, resumed, rest, err := c.begin(node, user, p, named)
	if err != nil {
		if errors.Is(err, roomstore.ErrFenced) {
			c.fenced()
			return nil
		}
		answer(nil, wireError(err, ""))
		return rest
	}

	s := &session{
		who: who, c: c, rooms: map[roomstore.RoomID]*feed{}, device: p.DeviceID, data: userInfo(p),
		legacy: p.SDKVersion != "" && before213(p.SDKVersion),
	}
	if !c.g.register(s) {
		// The node was given up meanwhile; the session is to be resumed elsewhere.
		c.fenced()
		return nil
	}
	c.session.Store(s)
	c.login.Stop()
	result := protocol.LoginResult{
		SessionID: string(who.ID), UserID: p.UserID, Resumed: resumed, Node: c.g.cfg.Node,
		ServerTime: time.Now().UnixMilli(), HeartbeatIntervalMS: c.g.cfg.HeartbeatInterval.Milliseconds(),
		SessionTTLMS: c.g.cfg.SessionTTL.Milliseconds(),
	}
	if !expires.IsZero() {
		result.TokenExpiresAt = expires.UnixMilli()
		c.token.set(c, expires)
	}
	answer(result, nil)
	if o, is := c.g.orderFor(s); is {
		s.replaced(protocol.CloseCode(o.Code))
		return nil
	}
	c.comeBack(s, rooms, named)
	s.arrived.Store(true)
	if rest != nil { // which what the client asks for next need not wait for
		c.g.hub.background(func(context.Context) { rest() })
	}
	return nil
}

// userInfo is what others see of a user, as JSON.
func userInfo(p *protocol.LoginParams) string {
	return string(encoded(protocol.UserInfo{
		UserID: p.UserID, UserName: p.UserName, UserAvatarURL: p.UserAvatarURL, UserExtendedData: p.UserExtendedData,
	}))
}

// checkLogin checks the parameters of a login, and gives the positions that a
// resume names.
func checkLogin(p *protocol.LoginParams) (roomstore.UserID, map[roomstore.RoomID]sight, *protocol.Error) {
	user, err := roomstore.ParseUserID(p.UserID)
	if err != nil {
		return "", nil, wireError(err, "")
	}
	if err := roomstore.CheckDeviceID(p.DeviceID); err != nil {
		return "", nil, wireError(err, "")
	}
	for _, t := range []struct {
		what, s string
		most    int
	}{
		{"userName", p.UserName, maxUserName},
		{"userAvatarUrl", p.UserAvatarURL, maxUserText},
		{"userExtendedData", p.UserExtendedData, maxUserText},
	} {
		if err := checkText(t.what, t.s, t.most); err != nil {
			return "", nil, err
		}
	}
	if p.Resume == nil {
		return user, nil, nil
	}
	if err := roomstore.CheckSessionID(p.Resume.SessionID); err != nil {
		return "", nil, badID("resume", err)
	}
	if n := len(p.Resume.Rooms); n > maxResumed {
		return "", nil, badParameter("resume.rooms has %d rooms, allowed are %d", n, maxResumed)
	}
	named := make(map[roomstore.RoomID]sight, len(p.Resume.Rooms))
	for i, r := range p.Resume.Rooms {
		path := fmt.Sprintf("resume.rooms[%d]", i)
		room, err := roomstore.ParseRoomID(r.RoomID)
		if err != nil {
			return "", nil, badID(path, err)
		}
		if _, twice := named[room]; twice {
			return "", nil, badParameter("%s is room %q once more", path, room)
		}
		if least := min(r.Epoch, r.Seq, r.MembersSeq); least < 0 {
			return "", nil, badParameter("%s has the position %d, allowed are 0 to 2^53 - 1", path, least)
		}
		named[room] = sight{roomstore.Position(r.Position), r.MembersSeq}
	}
	return user, named, nil
}

// before213 says whether an SDK version is below 2.13.0 (row 29). One that
// cannot be read is not.
func before213(version string) bool {
	var v [3]int
	for i, part := range strings.SplitN(version, ".", 3) {
		n, err := strconv.Atoi(part)
		if err != nil {
			if i < 2 {
				return false
			}
			break
		}
		v[i] = n
	}
	return v[0] < 2 || v[0] == 2 && v[1] < 13
}

// begin goes on with the session that the client names, or begins a new one.
// An outcome that stays open is not asked for again: by then the client may have
// come back elsewhere, and must not be torn from there. Once the call would come
// too late, rest parks what it brought here, if it did.
func (c *conn) begin(node string, user roomstore.UserID, p *protocol.LoginParams, named map[roomstore.RoomID]sight) (
	who roomstore.Session, rooms []roomstore.Return, resumed bool, rest func(), err error,
) {
	if p.Resume != nil {
		ids := make([]roomstore.RoomID, 0, len(p.Resume.Rooms))
		for _, r := range p.Resume.Rooms {
			ids = append(ids, roomstore.RoomID(r.RoomID))
		}
		type back struct {
			who   roomstore.Session
			rooms []roomstore.Return
			ok    bool
		}
		resume := func(ctx context.Context) (b back, err error) {
			if !c.g.store.Apart() { // where nothing is asked in groups
				c.g.returning.pass()
			}
			b.who, b.rooms, b.ok, err = c.g.store.Resume(ctx, node, user, roomstore.SessionID(p.Resume.SessionID), ids)
			return b, err
		}
		lost := roomstore.Session{User: user, ID: roomstore.SessionID(p.Resume.SessionID), Node: node}
		abandon := func() { c.g.abandon(lost, c.g.cfg.SessionTTL) }
		b, open, err := attempt(c, resume)
		if err == nil {
			again, begun := c.testify(node, user, p, b.ok, b.rooms, named)
			if begun {
				rest = abandon
			}
			if again {
				b, open, err = attempt(c, resume)
			}
		}
		if err != nil {
			if open {
				rest = abandon
			}
			return who, nil, false, rest, err
		}
		if b.ok {
			return b.who, b.rooms, true, nil, nil
		}
		rooms = b.rooms
	}
	id := roomstore.NewSessionID()
	login := func(ctx context.Context) (roomstore.Session, error) {
		return c.g.store.Login(ctx, node, user, id, p.DeviceID)
	}
	who, open, err := attempt(c, login)
	if err != nil && open {
		before, mine := rest, roomstore.Session{User: user, ID: id, Node: node}
		rest = func() {
			if before != nil {
				before()
			}
			c.g.abandon(mine, 0)
		}
	}
	return who, rooms, false, rest, err
}

// comeBack tells the client of each room what became of its place there, and
// what it missed (docs/protocol.md, section 4).
func (c *conn) comeBack(s *session, rooms []roomstore.Return, named map[roomstore.RoomID]sight) {
	for _, back := range rooms {
		if !back.In {
			if back.Named {
				s.notBack(back)
			}
			continue
		}
		ctx, cancel := context.WithTimeout(c.g.backing(), c.g.cfg.RedisTimeout)
		f, err := c.g.hub.open(ctx, back.Room)
		if err == nil {
			var seen *sight
			if at, ok := named[back.Room]; ok {
				seen = &at
			}
			err = f.rejoin(ctx, s, back, seen, nil)
		}
		cancel()
		// What was missed of one room waits outside of the connection's bound, and
		// of the next only when the client has read most of it.
		c.sock.pace()
		if err != nil {
			// The session is here and the room is not: the client tries again.
			c.g.log.Debug("resume not completed", "room", back.Room, "session", s.who.ID, "err", err)
			c.fenced()
			return
		}
	}
}

// notBack tells the client that its session is not in a room any more, and why.
func (s *session) notBack(back roomstore.Return) {
	event := overEvent(back.Reason)
	if event == protocol.RoomNotExist {
		s.destroyed(back.Room, event)
		return
	}
	s.roomOver(back.Room, event, back.Extended)
}

// logOut serves logout (row 25).
func (c *conn) logOut(s *session, answer reply) func() {
	over := func() {
		s.end()
		c.queue(notification(protocol.EventConnectionStateChanged, protocol.ConnectionStateChanged{
			State: protocol.ConnectionDisconnected, Event: protocol.ConnectionSuccess,
		}))
	}
	goodbye := func() { c.close(protocol.CloseNormal, "") }
	s.ending.Store(true)
	_, rest, err := c.leaveEverything(s, s.key(0), true)
	if err != nil {
		if !errors.Is(err, roomstore.ErrFenced) {
			answer(nil, wireError(err, ""))
		}
		if rest == nil {
			s.ending.Store(false)
			return nil
		}
		return func() {
			if rest() {
				over()
				goodbye()
			}
			s.ending.Store(false)
		}
	}
	over()
	answer(struct{}{}, nil)
	return goodbye // a batch is answered first
}

// renewToken serves renewToken.
func (c *conn) renewToken(s *session, p *protocol.RenewTokenParams, answer reply) func() {
	expires, err := c.g.verifier.Verify(p.Token, string(s.who.User), time.Now())
	if err != nil {
		answer(nil, &protocol.Error{Code: tokenCode(err), Message: err.Error()})
		return nil
	}
	var r protocol.RenewTokenResult
	c.token.stop()
	if !expires.IsZero() {
		r.TokenExpiresAt = expires.UnixMilli()
		c.token.set(c, expires)
	}
	answer(r, nil)
	return nil
}

// tokenTimer warns a client before its token expires, and closes the
// connection when it has.
type tokenTimer struct {
	mu    sync.Mutex
	timer *time.Timer
	over  bool // the connection is
}

func (t *tokenTimer) set(c *conn, expires time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	expire := func() {
		c.queue(notification(protocol.EventConnectionStateChanged, protocol.ConnectionStateChanged{
			State: protocol.ConnectionDisconnected, Event: protocol.ConnectionTokenExpired,
		}))
		c.close(protocol.CloseNotAuthorised, "the token has expired")
	}
	var mine *time.Timer
	warn := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.timer != mine {
			return // renewed meanwhile
		}
		left := time.Until(expires)
		c.queue(notification(protocol.EventTokenWillExpire, protocol.TokenWillExpire{Second: int64((left + time.Second/2) / time.Second)}))
		t.timer = time.AfterFunc(left, expire)
	}
	mine = time.AfterFunc(max(0, time.Until(expires)-tokenWarning), warn)
	t.timer = mine
}

// end is stop for good.
func (t *tokenTimer) end() {
	t.stop()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
}

func (t *tokenTimer) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}
