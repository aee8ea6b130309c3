package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/roomgate/roomgate/protocol"
)

// maxRead is the largest message a client takes. A page of members or a list of
// those who joined may well be larger than what a client may send.
const maxRead = 16 << 20

// graceful bounds the wait for the gateway to close after a logout.
const graceful = 5 * time.Second

// A link is one connection to one gateway.
type link struct {
	// Owned by run.
	loginID  int64 // of the login while it is not answered; else 0
	loggedIn bool
	moveAt   time.Time   // set once the gateway drains
	timer    *time.Timer // ends the link: to move, or after a logout

	since time.Time // of the login; changed before beat is set, and not after

	ws *websocket.Conn // set before the link is shared

	// busy says that run is passing on what it has read, so that silence means
	// nothing; heard is when it last read something, after since.
	busy  atomic.Bool
	heard atomic.Int64

	// Guarded by Client.mu.
	over       bool    // no more is written
	why        error   // what the client itself ended the link for
	out        []*call // to be written, in this order
	writing    bool    // a writer is at work
	unanswered int     // state-changing requests written
	aside      []*call // to be sent again when that timer fires
	again      *time.Timer
	refusals   int // in a row, of the kind that sets calls aside
	beat       *time.Timer
	interval   time.Duration
	pinged     int64 // when, after since
}

// readBuffers are shared by all clients: an idle one holds none.
var readBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// serve connects, logs in, and reads until the link ends. It returns why. Only
// run calls it, and drop afterwards.
func (c *Client) serve(ctx context.Context, l *link, addr string) error {
	err := c.login(ctx, l, addr)
	c.mu.Lock()
	c.attempt = err
	c.mu.Unlock()
	if err != nil {
		return err
	}
	defer c.whenDone(ctx, l.cut)()
	for {
		if err := c.read(ctx, l); err != nil {
			return c.cause(l, err)
		}
	}
}

// login connects and reads until the client is logged in.
func (c *Client) login(ctx context.Context, l *link, addr string) error {
	attempt, cancel := context.WithTimeoutCause(ctx, c.cfg.ConnectTimeout, errNoLogin)
	defer cancel()
	if err := c.connect(attempt, l, addr); err != nil {
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	defer c.whenDone(attempt, l.cut)()
	for !l.loggedIn {
		if err := c.read(ctx, l); err != nil {
			if attempt.Err() != nil {
				err = context.Cause(attempt)
			}
			return fmt.Errorf("log in at %s: %w", addr, c.cause(l, err))
		}
	}
	return nil
}

// cut closes the connection without ceremony.
func (l *link) cut() { l.ws.CloseNow() }

// connect opens the connection and sends the login.
func (c *Client) connect(ctx context.Context, l *link, addr string) error {
	token := ""
	if c.cfg.TokenFunc != nil {
		t, err := c.cfg.TokenFunc(ctx)
		if err != nil {
			return fmt.Errorf("token: %w", err)
		}
		token = t
	}
	ws, _, err := websocket.Dial(ctx, addr, &websocket.DialOptions{
		HTTPClient:   c.cfg.HTTPClient,
		Subprotocols: []string{protocol.Subprotocol},
		OnPingReceived: func(context.Context, []byte) bool {
			l.hear()
			return true
		},
	})
	if err != nil {
		return err
	}
	ws.SetReadLimit(maxRead)
	l.ws = ws
	l.since = time.Now()

	p := protocol.LoginParams{
		UserID:           c.cfg.User.UserID,
		UserName:         c.cfg.User.UserName,
		UserAvatarURL:    c.cfg.User.UserAvatarURL,
		UserExtendedData: c.cfg.User.UserExtendedData,
		Token:            token,
		DeviceID:         c.cfg.DeviceID,
		Platform:         c.cfg.Platform,
		SDKVersion:       c.cfg.SDKVersion,
	}
	c.mu.Lock()
	if c.cfg.TokenFunc == nil {
		p.Token = c.token
	}
	if c.session.SessionID != "" {
		p.Resume = &protocol.Resume{SessionID: c.session.SessionID, Rooms: c.rooms.positions()}
	}
	c.lastID++
	l.loginID = c.lastID
	c.mu.Unlock()

	params, err := json.Marshal(p)
	if err != nil {
		return err
	}
	b, err := encodeRequest(l.loginID, protocol.MethodLogin, params, 0)
	if err != nil {
		return err
	}
	return ws.Write(ctx, websocket.MessageText, b)
}

// cause finds out why reading from a link has failed.
func (c *Client) cause(l *link, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.why != nil {
		return l.why
	}
	if ce, ok := errors.AsType[websocket.CloseError](err); ok {
		return &CloseError{Code: protocol.CloseCode(ce.Code), Reason: ce.Reason}
	}
	return err
}

// drop ends a link: nothing is written to it any more, and what it owes is
// waiting for the next.
func (c *Client) drop(l *link) {
	c.mu.Lock()
	c.abandonLink(l, l.why)
	l.out = nil
	if l.beat != nil {
		l.beat.Stop()
	}
	if l.again != nil {
		l.again.Stop()
	}
	for id, cl := range c.pending {
		if cl.abandoned {
			delete(c.pending, id)
		}
	}
	c.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
	if l.ws != nil {
		l.cut()
	}
}

// whenDone calls f in a goroutine of its own when ctx is done, unless stop is
// called before. Close waits for that goroutine.
func (c *Client) whenDone(ctx context.Context, f func()) (stop func()) {
	c.wg.Add(1)
	s := context.AfterFunc(ctx, func() {
		defer c.wg.Done()
		f()
	})
	return func() {
		if s() {
			c.wg.Done()
		}
	}
}

// read reads one message and handles it.
func (c *Client) read(ctx context.Context, l *link) error {
	// Not ctx: a context that can end costs an allocation per read. What ends
	// a read is the end of the connection.
	typ, r, err := l.ws.Reader(context.Background())
	if err != nil {
		return err
	}
	buf := readBuffers.Get().(*bytes.Buffer)
	buf.Reset()
	defer readBuffers.Put(buf)
	if _, err := buf.ReadFrom(r); err != nil {
		return err
	}
	l.hear()
	l.busy.Store(true)
	err = c.handle(ctx, l, typ, buf.Bytes())
	l.busy.Store(false)
	return err
}

func (l *link) hear() { l.heard.Store(int64(time.Since(l.since))) }

// handle handles one message. An error ends the link.
func (c *Client) handle(ctx context.Context, l *link, typ websocket.MessageType, b []byte) error {
	m, err := splitMessage(b)
	switch {
	case err != nil || typ != websocket.MessageText:
		c.malformed("")
		return nil
	case m.method != nil:
		c.handleEvent(ctx, l, m)
		return nil
	case l.loginID != 0 && m.id == l.loginID:
		return c.handleLogin(ctx, l, m)
	default:
		c.handleAnswer(l, m)
		return nil
	}
}

func (c *Client) malformed(method string) {
	c.mu.Lock()
	c.stats.Malformed++
	c.mu.Unlock()
	c.log.Warn("skipped a malformed message", "op", method)
}

// handleLogin goes from logging in to being logged in.
func (c *Client) handleLogin(ctx context.Context, l *link, m message) error {
	l.loginID = 0 // it is answered once
	if m.err != nil {
		return decodeError(m.err)
	}
	var result protocol.LoginResult
	if err := json.Unmarshal(m.result, &result); err != nil {
		return fmt.Errorf("result of the login: %w", err)
	}
	l.loggedIn = true
	l.since = time.Now()
	l.hear()
	c.emitConnection(ctx, protocol.ConnectionConnected, protocol.ConnectionSuccess)
	c.log.Debug("logged in", "session", result.SessionID)

	c.mu.Lock()
	defer c.mu.Unlock()
	resumed := result.Resumed && result.SessionID == c.session.SessionID
	c.session = result
	if resumed {
		c.stats.Resumes++
	}
	if c.stats.Logins++; c.stats.Logins == 1 {
		close(c.ready)
	}
	c.link = l
	c.resend(l, resumed)
	c.startBeat(l, millis(result.HeartbeatIntervalMS))
	return nil
}

// handleEvent passes an event on, if it is new.
func (c *Client) handleEvent(ctx context.Context, l *link, m message) {
	ev, at, err := decodeEvent(m.method, m.params, c.cfg.RawEvents)
	if err != nil {
		c.malformed(string(m.method))
		return
	}
	switch ev := ev.(type) {
	case *RoomStateChanged:
		c.mu.Lock()
		c.rooms.note(ev)
		c.mu.Unlock()
	case *HistoryLost:
		c.mu.Lock()
		if r := c.rooms.find(ev.RoomID); r != nil {
			r.take(ev.ToSeq)
		}
		c.mu.Unlock()
	case *ConnectionStateChanged:
		c.lastSaid = ev.State
	case *ServerDraining:
		c.moveIn(l, millis(ev.ReconnectAfterMS))
	default:
		if c.take(at) != fresh {
			return
		}
	}
	c.emit(ctx, ev)
}

// take moves the position of a room on.
func (c *Client) take(at place) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms.find(at.RoomID)
	if r == nil {
		return fresh
	}
	r.members = max(r.members, at.Members)
	v := r.take(at.Seq)
	switch v {
	case duplicate:
		c.stats.Duplicates++
	case repeated:
		c.stats.Repeats++
	}
	return v
}

// handleAnswer hands an answer to the call that waits for it.
func (c *Client) handleAnswer(l *link, m message) {
	var err error
	if m.err != nil {
		err = decodeError(m.err)
	}
	c.mu.Lock()
	cl := c.pending[m.id]
	if cl == nil {
		c.mu.Unlock()
		return // a ping of ours
	}
	if cl.counts && cl.on == l {
		l.unanswered--
	}
	aside := c.setAside(l, cl, err)
	if !aside {
		delete(c.pending, m.id)
		l.refusals = 0
	}
	c.kick(l)
	c.mu.Unlock()
	if aside {
		return
	}
	if m.err != nil {
		cl.done <- answer{err: err}
		return
	}
	if cl.room != "" {
		c.passed(cl.room, m.result)
	}
	cl.done <- answer{result: bytes.Clone(m.result)}
	if cl.method == protocol.MethodLogout {
		// The gateway closes now, perhaps after an event.
		c.loggedOut = true
		c.hangUpIn(l, graceful)
	}
}

// passed moves the position of a room on past a message of our own, of which no
// event comes. The answer has come after all events before it.
func (c *Client) passed(roomID string, result []byte) {
	var at protocol.Position
	if json.Unmarshal(result, &at) != nil {
		return // who asked is told
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.rooms.find(roomID); r != nil && r.at.Epoch == at.Epoch {
		r.take(at.Seq)
	}
}

// decodeError decodes the error member of an answer.
func decodeError(b []byte) error {
	e := new(protocol.Error)
	if err := json.Unmarshal(b, e); err != nil {
		return &protocol.Error{Code: protocol.CodeInternal, Message: "the gateway answered with an error that cannot be read"}
	}
	if e.Code == protocol.CodeInvalidParams {
		e.Code = protocol.CodeBadParameter
	}
	return e
}
