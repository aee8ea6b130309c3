package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

const (
	// loginWithin is how long a connection may be without a successful login.
	loginWithin = 10 * time.Second
	// failedLogins is how many refused logins close a connection.
	failedLogins = 3
	// badTexts is how many texts that are not JSON, within a minute, close a
	// connection.
	badTexts = 10
	// maxQueued is how many requests of one connection, of any kind, may be
	// without their answer at once.
	maxQueued = 256
	// stuckAfter is how long one write may take before the connection is cut.
	stuckAfter = 20 * time.Second
	// goodbye is how long a close frame has at least to go out.
	goodbye = 100 * time.Millisecond
	// abuseAfter is how many requests a minute may be refused as too fast
	// before the connection is closed.
	abuseAfter = 1000
)

// conn is one client's connection.
type conn struct {
	// Set before the connection is served, and not changed.
	g    *Gateway
	ws   *websocket.Conn
	sock *socket
	slot int // of the heartbeat

	session atomic.Pointer[session] // set by the login

	// Owned by the reader.
	tasks    tasks
	bad      []time.Time
	tooFast  int
	tooSince time.Time
	rates    *rates

	failed int // logins; owned by the login task

	tooSlow atomic.Bool // reads more slowly than its rooms speak, and is cut off

	unanswered atomic.Int32 // state-changing requests
	queued     atomic.Int32 // requests of any kind

	login  *time.Timer // closes a connection that does not log in
	token  tokenTimer
	closer sync.Once
	gone   chan struct{} // closed when the connection is to end
	said   chan struct{} // closed when the client has been told why, if it is

	mu     sync.Mutex
	claims map[roomstore.RoomID]claim // what row 14 is about
}

// rates are the limits of one connection.
type rates struct{ all, messages, commands *rate.Limiter }

func newRates() *rates {
	return &rates{
		all:      rate.NewLimiter(200, 400),
		messages: rate.NewLimiter(10, 10),
		commands: rate.NewLimiter(30, 30),
	}
}

// accept serves the WebSocket endpoint. It returns when the connection stands;
// a goroutine of its own reads from it, so that what net/http keeps for a
// request is freed.
func (g *Gateway) accept(w http.ResponseWriter, r *http.Request) {
	if offered := r.Header.Values("Sec-WebSocket-Protocol"); len(offered) > 0 {
		var names []string
		for name := range strings.SplitSeq(strings.Join(offered, ","), ",") {
			names = append(names, strings.TrimSpace(name))
		}
		if !slices.Contains(names, protocol.Subprotocol) {
			http.Error(w, "none of the subprotocols offered is "+protocol.Subprotocol, http.StatusBadRequest)
			return
		}
	}
	h := &hijacker{ResponseWriter: w, wrap: func(c net.Conn) *socket { return newSocket(c, g.cfg.QueueBytes) }}
	options := &websocket.AcceptOptions{
		Subprotocols: []string{protocol.Subprotocol}, OriginPatterns: g.cfg.AllowedOrigins,
		InsecureSkipVerify: slices.Contains(g.cfg.AllowedOrigins, "*"),
	}
	ws, err := websocket.Accept(h, r, options)
	if err != nil {
		g.log.Debug("handshake refused", "addr", r.RemoteAddr, "err", err)
		return // Accept has answered
	}
	ws.SetReadLimit(protocol.MaxMessage)
	c := &conn{g: g, ws: ws, sock: h.socket, gone: make(chan struct{}), said: make(chan struct{})}
	if !g.add(c) {
		c.shut(protocol.CloseTryAgainLater, closeReason(g.cfg.ReconnectAfter))
		return
	}
	c.login = time.AfterFunc(g.cfg.LoginTimeout, func() { c.close(protocol.CloseLoginTimeout, "no login in time") })
	go c.serve() // conns waits for it
}

// serve reads until the connection ends, and then gives up what it held.
func (c *conn) serve() {
	defer c.g.remove(c)
	err := c.read()
	c.login.Stop()
	c.closer.Do(func() {
		close(c.gone)
		code := int(websocket.CloseStatus(err))
		if errors.Is(err, websocket.ErrMessageTooBig) {
			code = int(protocol.CloseTooBig)
		}
		c.g.cfg.OnClose(code)
		close(c.said)
	})
	<-c.said
	c.ws.CloseNow()

	s := c.session.Load()
	if s == nil {
		// A login under way may still succeed.
		c.tasks.running.Wait()
		if s = c.session.Load(); s == nil {
			return
		}
	}
	c.token.end()
	s.detach()
	c.g.drop(s)
	// A request under way knows its outcome first. One whose outcome stays
	// unknown does not hold the parking up: it is fenced by it.
	done := make(chan struct{})
	c.g.closing.Go(func() { c.tasks.running.Wait(); close(done) })
	select {
	case <-done:
	case <-time.After(c.g.cfg.RedisTimeout):
	}
	if !s.ended() {
		c.g.park(c.g.backing(), s.who, c.sock.silent(), c.tooSlow.Load())
	}
}

// buffers are for messages while they are handled.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// read reads messages until the connection ends.
func (c *conn) read() error {
	ctx := context.Background() // what ends a read is the socket
	for {
		kind, r, err := c.ws.Reader(ctx)
		if err != nil {
			return err
		}
		if kind != websocket.MessageText {
			c.close(protocol.CloseNotThisProtocol, "binary frames are not spoken here")
			return nil
		}
		buf := buffers.Get().(*bytes.Buffer) // an idle connection holds none
		buf.Reset()
		if _, err := buf.ReadFrom(r); err != nil {
			return err
		}
		select {
		case <-c.gone:
			return nil
		default:
		}
		c.message(buf.Bytes())
		buffers.Put(buf)
		c.sock.pace()
	}
}

// message handles one message of the client. text is valid until it returns.
func (c *conn) message(text []byte) {
	c.tasks.tidy()
	if !utf8.Valid(text) {
		c.notJSON(fail(protocol.CodeParseError, "the text is not UTF-8"))
		return
	}
	requests, batch, err := parseRequests(text)
	if err != nil {
		if err.Code == protocol.CodeParseError {
			c.notJSON(err)
			return
		}
		c.queue(textOf(errorText(nil, err)))
		return
	}
	if batch {
		c.batch(requests)
		return
	}
	c.request(requests[0])
}

// notJSON answers text that is not JSON; too much of it closes the connection.
func (c *conn) notJSON(err *protocol.Error) {
	now := time.Now()
	c.bad = slices.DeleteFunc(c.bad, func(t time.Time) bool { return now.Sub(t) > time.Minute })
	c.bad = append(c.bad, now)
	if len(c.bad) >= badTexts {
		c.close(protocol.CloseNotThisProtocol, "too much text that is not JSON")
		return
	}
	c.queue(textOf(errorText(nil, err)))
}

// queue sends a frame that must arrive.
func (c *conn) queue(b []byte) {
	if err := c.sock.Queue(b, classKept); err != nil {
		c.slow(err)
	}
}

// slowPause is how long a client that was cut off since it reads too slowly is
// to wait before it comes back: the first time, the second, and after that.
var slowPause = []time.Duration{time.Second, 4 * time.Second, 16 * time.Second}

// slow ends the connection if its client reads too slowly.
func (c *conn) slow(err error) {
	if err != errSlow {
		return
	}
	before := 0
	if s := c.session.Load(); s != nil {
		before = s.who.Slow
	}
	c.close(protocol.CloseSlowConsumer, closeReason(slowPause[min(before, len(slowPause)-1)]))
}

func closeReason(after time.Duration) string {
	return string(encoded(protocol.CloseReason{ReconnectAfterMS: after.Milliseconds()}))
}

// close ends the connection with a code. Only the first reason counts.
func (c *conn) close(code protocol.CloseCode, reason string) {
	c.closer.Do(func() {
		close(c.gone)
		c.g.cfg.OnClose(int(code))
		if code == protocol.CloseSlowConsumer {
			c.tooSlow.Store(true)
			c.sock.drop()
		}
		c.g.closing.Go(func() {
			defer close(c.said)
			c.shut(code, reason)
		})
	})
}

// shut says goodbye and waits, not for long, for the client to say it too. The
// wait ends with the session's time, since only then its places are given up.
func (c *conn) shut(code protocol.CloseCode, reason string) {
	left := c.g.cfg.SessionTTL - c.sock.silent()
	cut := time.AfterFunc(min(c.g.cfg.CloseTimeout, max(goodbye, left)), func() { c.sock.Close() })
	defer cut.Stop()
	c.ws.Close(websocket.StatusCode(code), reason)
}

// request serves one request that came alone.
func (c *conn) request(r protocol.Request) {
	if err := check(&r); err != nil {
		if !validID(r.ID) {
			r.ID = nil
		}
		c.queue(textOf(errorText(r.ID, err)))
		return
	}
	answer := func(result any, err *protocol.Error) {
		c.g.answered(r.Method, err)
		if b := answerText(&r, result, err); b != nil {
			c.queue(textOf(b))
		}
	}
	if !c.admit() {
		answer(nil, tooManyQueued())
		return
	}
	owner := new(int)
	p, err := c.prepare(&r, owner)
	if err != nil {
		c.queued.Add(-1)
		answer(nil, err)
		return
	}
	if p.immediate {
		c.queued.Add(-1)
		p.run(answer)
		return
	}
	c.tasks.add(p.rooms, c.g.cfg.RedisTimeout, func(late bool) {
		defer c.queued.Add(-1)
		if late {
			p.done()
			answer(nil, wireError(errUnavailable, ""))
			return
		}
		rest := p.run(func(result any, err *protocol.Error) {
			p.settle(err)
			answer(result, err)
		})
		if rest != nil {
			rest()
		}
		p.done()
	})
}

// answerText is the answer to r, or nil if it wants none.
func answerText(r *protocol.Request, result any, err *protocol.Error) []byte {
	if len(r.ID) == 0 {
		return nil
	}
	if err != nil {
		return errorText(r.ID, err)
	}
	if raw, ok := result.(json.RawMessage); ok {
		return resultText(r.ID, raw)
	}
	return resultText(r.ID, encoded(result))
}

// batch serves a JSON-RPC batch: one request after another, the answers in one
// array. What its rooms send meanwhile follows the array.
func (c *conn) batch(requests []protocol.Request) {
	if !c.admit() {
		c.queue(textOf(errorText(nil, tooManyQueued())))
		return
	}
	type item struct {
		prepared
		err  *protocol.Error
		rest func()
	}
	items := make([]item, len(requests))
	owner := new(int)
	for i := range requests {
		if items[i].err = check(&requests[i]); items[i].err != nil {
			requests[i].ID = json.RawMessage("null")
			continue
		}
		items[i].prepared, items[i].err = c.prepare(&requests[i], owner)
	}
	c.tasks.add(nil, c.g.cfg.RedisTimeout, func(late bool) {
		defer c.queued.Add(-1)
		c.sock.Hold()
		var answers [][]byte
		for i := range items {
			it := &items[i]
			answer := func(result any, err *protocol.Error) {
				c.g.answered(requests[i].Method, err)
				if b := answerText(&requests[i], result, err); b != nil {
					answers = append(answers, b)
				}
			}
			switch {
			case it.err != nil:
				answer(nil, it.err)
			case late:
				answer(nil, wireError(errUnavailable, ""))
			default:
				it.rest = it.run(answer)
			}
		}
		var frame []byte
		if len(answers) > 0 {
			frame = textOf(slices.Concat([]byte("["), bytes.Join(answers, []byte(",")), []byte("]")))
		}
		for i := range items {
			if it := &items[i]; it.err == nil {
				it.answered()
				if it.rest == nil {
					it.unclaim()
				}
			}
		}
		if err := c.sock.Release(frame); err != nil {
			c.slow(err)
		}
		for i := range items {
			if it := &items[i]; it.rest != nil {
				it.rest()
				it.unclaim()
			}
		}
	})
}

// admit counts a request in, unless too many wait already.
func (c *conn) admit() bool {
	if c.queued.Add(1) > maxQueued {
		c.queued.Add(-1)
		return false
	}
	return true
}

func tooManyQueued() *protocol.Error {
	return fail(protocol.CodeTooFast, "more than %d requests of this connection wait for their answers", maxQueued)
}

// fast says whether a request exceeds the connection's rates.
func (c *conn) fast(limiter func(*rates) *rate.Limiter) bool {
	if !c.g.cfg.RateLimits {
		return false
	}
	if c.rates == nil {
		c.rates = newRates()
	}
	if limiter(c.rates).Allow() {
		return false
	}
	if now := time.Now(); now.Sub(c.tooSince) > time.Minute {
		c.tooSince, c.tooFast = now, 0
	}
	if c.tooFast++; c.tooFast > abuseAfter {
		c.close(protocol.CloseRateAbuse, fmt.Sprintf("more than %d requests a minute were over the rate", abuseAfter))
	}
	return true
}

// claim is a room operation that is under way.
type claim struct {
	owner *int // the request or batch it belongs to
	key   int64
	n     int
}

// claim notes that a room operation under a requestKey is under way (row 14).
// It fails if there is one already, unless that is of the same batch or has
// the same requestKey.
func (c *conn) claim(owner *int, key int64, rooms ...roomstore.RoomID) *protocol.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, room := range rooms {
		other, busy := c.claims[room]
		if busy && other.owner != owner && (key == 0 || other.key != key) {
			return fail(protocol.CodeRoomBusy, "another request about room %q is under way", room)
		}
	}
	if c.claims == nil {
		c.claims = map[roomstore.RoomID]claim{}
	}
	for _, room := range rooms {
		other, busy := c.claims[room]
		if !busy {
			other = claim{owner: owner, key: key}
		}
		other.n++
		c.claims[room] = other
	}
	return nil
}

func (c *conn) unclaim(rooms ...roomstore.RoomID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, room := range rooms {
		if other := c.claims[room]; other.n > 1 {
			other.n--
			c.claims[room] = other
			continue
		}
		delete(c.claims, room)
	}
	if len(c.claims) == 0 {
		c.claims = nil
	}
}
