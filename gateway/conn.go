package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
	// maxWaiting is how many bytes those may have been sent in.
	maxWaiting = 1 << 20
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

	// Owned by whoever reads: one at a time.
	tasks    tasks
	bad      []time.Time
	tooFast  int
	tooSince time.Time
	rates    *rates

	failed int // logins; owned by the login task

	doubtful atomic.Bool // the outcome of a call was not known at first
	tooSlow  atomic.Bool // reads more slowly than its rooms speak, and is cut off

	unanswered atomic.Int32 // state-changing requests
	queued     atomic.Int32 // requests of any kind
	waiting    atomic.Int64 // bytes that they were sent in

	login  *time.Timer // closes a connection that does not log in
	token  tokenTimer
	closer sync.Once
	gone   chan struct{} // closed when the connection is to end
	said   chan struct{} // closed when the client has been told why, if it is

	mu     sync.Mutex
	claims map[roomstore.RoomID][]*claim // what row 14 is about
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

// wait is a connection at rest: it waits until the client has sent something, with
// a stack that never grows. A worker goes on.
func (c *conn) wait() {
	c.sock.pace()
	err := c.sock.await()
	if err != nil && !c.g.draining.Load() {
		c.g.closed(c)
		c.g.ends.wait() // here, where it takes least to wait
	}
	c.g.workers.do(func() { c.serve(err) })
}

// serve handles the messages that have come, and then lets the connection wait for
// more, unless it has ended. The last request is carried out by serve itself.
func (c *conn) serve(err error) {
	var task func()
	for err == nil {
		if task, err = c.read(); err != nil || c.sock.rests() {
			break
		}
		if task != nil {
			c.g.workers.do(task)
		}
		c.sock.pace()
		err = c.sock.await()
	}
	if err != nil {
		c.end(err)
		return
	}
	go c.wait() // conns waits for it
	if task != nil {
		task()
	}
}

// end gives up what the connection held.
func (c *conn) end(err error) {
	defer c.g.remove(c)
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
	known := true
	select {
	case <-done:
	case <-time.After(c.g.cfg.RedisTimeout):
		known = false
	}
	if s.ended() {
		return
	}
	silent, slow := c.sock.silent(), c.tooSlow.Load()
	if !known || slow || c.doubtful.Load() || !c.g.linger(s.who, silent) {
		c.g.park(c.g.backing(), s.who, silent, slow)
	}
}

// buffers are for messages while they are handled.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// read reads and handles a message. It fails when the connection has ended, or is
// about to.
func (c *conn) read() (task func(), err error) {
	buf := buffers.Get().(*bytes.Buffer) // an idle connection holds none
	buf.Reset()
	if !c.sock.text(buf) {
		kind, r, err := c.ws.Reader(context.Background()) // what ends a read is the socket
		if err != nil {
			return nil, err
		}
		if kind != websocket.MessageText {
			c.close(protocol.CloseNotThisProtocol, "binary frames are not spoken here")
			return nil, net.ErrClosed
		}
		if _, err := buf.ReadFrom(r); err != nil {
			return nil, err
		}
	}
	select {
	case <-c.gone:
		return nil, net.ErrClosed
	default:
	}
	task = c.message(buf.Bytes())
	buffers.Put(buf)
	return task, nil
}

// message handles one message of the client, but for task, which is to run beside
// what comes next. text is valid until it returns.
func (c *conn) message(text []byte) (task func()) {
	c.tasks.tidy()
	requests, batch, err := parseRequests(text)
	switch {
	case err != nil:
		fast := c.count()
		switch {
		case err.Code == protocol.CodeParseError:
			c.notJSON(err)
		case fast != nil:
			c.queue(textOf(errorText(nil, fast)))
		default:
			c.queue(textOf(errorText(nil, err)))
		}
	case batch:
		return c.batch(requests, len(text))
	default:
		return c.request(requests[0], len(text))
	}
	return nil
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

// request serves one request that came alone, in a message of some size.
func (c *conn) request(r incoming, size int) (task func()) {
	answer := func(result any, err *protocol.Error) {
		c.g.answered(r.Method, err)
		if b := framedAnswer(&r.Request, result, err); b != nil {
			c.queue(b)
		}
	}
	err := c.count()
	if err == nil {
		err = r.bad
	}
	if err == nil {
		err = c.admit(size)
	}
	if err != nil {
		answer(nil, err)
		return nil
	}
	p, err := c.prepare(&r.Request, new(owner))
	r.Params = nil // they end with the text
	if err != nil {
		c.dismiss(size)
		answer(nil, err)
		return nil
	}
	if p.immediate {
		c.dismiss(size)
		p.run(false, answer)
		return nil
	}
	return c.tasks.add(p.rooms, c.g.cfg.RedisTimeout, func(late bool) func() {
		rest := p.run(late, func(result any, err *protocol.Error) {
			p.settle()
			answer(result, err)
		})
		// What is late and answered still waits for its turn, and counts.
		return func() {
			if rest != nil {
				rest()
			}
			p.done()
			c.dismiss(size)
		}
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
	return resultText(r.ID, resultOf(result))
}

// framedAnswer is answerText, framed.
func framedAnswer(r *protocol.Request, result any, err *protocol.Error) []byte {
	switch {
	case len(r.ID) == 0:
		return nil
	case err != nil:
		return textOf(errorText(r.ID, err))
	}
	raw := resultOf(result)
	return textFrame(resultRoom+len(r.ID)+len(raw), func(b []byte) []byte { return appendResult(b, r.ID, raw) })
}

func resultOf(result any) []byte {
	if raw, ok := result.(json.RawMessage); ok {
		return raw
	}
	return encoded(result)
}

// batch serves a JSON-RPC batch: one request after another, the answers in one
// array. What its rooms send meanwhile follows the array. No request begins
// later than one Redis timeout after the first, so that a silent store holds
// the answers up for no longer than two.
func (c *conn) batch(requests []incoming, size int) (task func()) {
	type item struct {
		prepared
		err  *protocol.Error
		rest func()
	}
	items := make([]item, len(requests))
	for i := range items {
		items[i].err = c.count()
	}
	if err := c.admit(size); err != nil {
		c.queue(textOf(errorText(nil, err)))
		return nil
	}
	of := new(owner)
	for i := range requests {
		it, r := &items[i], &requests[i]
		if it.err == nil {
			it.err = r.bad
		}
		if it.err == nil {
			it.prepared, it.err = c.prepare(&r.Request, of)
		}
		r.Params = nil // they end with the text
	}
	return c.tasks.add(nil, c.g.cfg.RedisTimeout, func(late bool) func() {
		c.sock.Hold()
		began := time.Now()
		var answers [][]byte
		for i := range items {
			it := &items[i]
			answer := func(result any, err *protocol.Error) {
				c.g.answered(requests[i].Method, err)
				if b := answerText(&requests[i].Request, result, err); b != nil {
					answers = append(answers, b)
				}
			}
			if it.err != nil {
				answer(nil, it.err)
				continue
			}
			it.rest = it.run(late || time.Since(began) > c.g.cfg.RedisTimeout, answer)
		}
		var frame []byte
		if len(answers) > 0 {
			frame = textOf(slices.Concat([]byte("["), bytes.Join(answers, []byte(",")), []byte("]")))
		}
		for i := range items {
			if it := &items[i]; it.err == nil {
				it.settle()
			}
		}
		if err := c.sock.Release(frame); err != nil {
			c.slow(err)
		}
		return func() {
			for i := range items {
				if it := &items[i]; it.err == nil {
					if it.rest != nil {
						it.rest()
					}
					it.done()
				}
			}
			c.dismiss(size)
		}
	})
}

// admit counts a message of some size in, unless too much waits already.
func (c *conn) admit(size int) *protocol.Error {
	queued, waiting := c.queued.Add(1), c.waiting.Add(int64(size))
	switch {
	case queued > maxQueued:
		c.dismiss(size)
		return fail(protocol.CodeTooFast, "more than %d requests of this connection wait for their answers", maxQueued)
	case waiting > maxWaiting:
		c.dismiss(size)
		return fail(protocol.CodeTooFast, "requests of more than %d bytes of this connection wait for their answers", maxWaiting)
	}
	return nil
}

// dismiss ends what admit began.
func (c *conn) dismiss(size int) {
	c.queued.Add(-1)
	c.waiting.Add(-int64(size))
}

// count counts a request, whatever it is, against the connection's overall
// rate.
func (c *conn) count() *protocol.Error {
	if c.fast(func(r *rates) *rate.Limiter { return r.all }) {
		return fail(protocol.CodeTooFast, "more than %v requests a second", c.rates.all.Limit())
	}
	return nil
}

// fast says whether a request exceeds the connection's rates.
func (c *conn) fast(limiter func(*rates) *rate.Limiter) bool { return c.fastN(limiter, 1) }

// fastN is fast for a request that counts as n.
func (c *conn) fastN(limiter func(*rates) *rate.Limiter, n int) bool {
	if !c.g.cfg.RateLimits {
		return false
	}
	if c.rates == nil {
		c.rates = newRates()
	}
	if limiter(c.rates).AllowN(time.Now(), n) {
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

// owner is the message that operations came in: one, or a batch of them.
type owner struct {
	until time.Time // up to when its client may ask for what failed again; guarded by conn.mu
}

// claim is a room operation that is under way (row 14).
type claim struct {
	c      *conn
	of     *owner
	key    int64
	rooms  []roomstore.RoomID
	repeat bool // one under the same requestKey was under way when it was read

	// Owned by the operation.
	late bool // its turn has not come in time
	open bool // its outcome is open, and it stays under way after its answer

	// Guarded by c.mu.
	spoken bool          // it has been answered
	asked  chan struct{} // closed when there is a repeat of it, if anybody waits for one
}

// claim notes that a room operation under a requestKey is under way. It fails
// if there is one already, unless that is of the same batch or has the same
// requestKey.
func (c *conn) claim(of *owner, key int64, rooms ...roomstore.RoomID) (*claim, *protocol.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := &claim{c: c, of: of, key: key, rooms: rooms}
	for _, room := range rooms {
		others := c.claims[room]
		if slices.ContainsFunc(others, cl.repeats) {
			cl.repeat = true
		} else if slices.ContainsFunc(others, func(other *claim) bool { return other.of != of }) {
			return nil, fail(protocol.CodeRoomBusy, "another request about room %q is under way", room)
		}
	}
	if c.claims == nil {
		c.claims = map[roomstore.RoomID][]*claim{}
	}
	for _, room := range rooms {
		for _, other := range c.claims[room] {
			if cl.repeats(other) && other.asked != nil {
				close(other.asked)
				other.asked = nil
			}
		}
		c.claims[room] = append(c.claims[room], cl)
	}
	return cl, nil
}

// repeats says whether cl and other are tries of one request.
func (cl *claim) repeats(other *claim) bool {
	return cl != other && cl.key != 0 && cl.key == other.key
}

// answered is called when the answer is about to be queued.
func (cl *claim) answered() {
	cl.c.mu.Lock()
	cl.spoken = true
	cl.c.mu.Unlock()
	if !cl.open {
		cl.end()
	}
}

// end notes that the operation is over. It may be called again.
func (cl *claim) end() {
	c := cl.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, room := range cl.rooms {
		others := slices.DeleteFunc(c.claims[room], func(other *claim) bool { return other == cl })
		if len(others) > 0 {
			c.claims[room] = others
		} else {
			delete(c.claims, room)
		}
	}
	if len(c.claims) == 0 {
		c.claims = nil
	}
}

// others says whether there are other tries of the request for which ok holds.
func (cl *claim) others(ok func(*claim) bool) bool {
	cl.c.mu.Lock()
	defer cl.c.mu.Unlock()
	for _, room := range cl.rooms {
		if slices.ContainsFunc(cl.c.claims[room], func(other *claim) bool { return cl.repeats(other) && ok(other) }) {
			return true
		}
	}
	return false
}

// unspoken says whether another try is still to be answered: that one tells the
// client where it stands.
func (cl *claim) unspoken() bool { return cl.others(func(other *claim) bool { return !other.spoken }) }

// repeated says whether the client has asked again, and the outcome is the
// business of that try.
func (cl *claim) repeated() bool { return cl.others(func(*claim) bool { return true }) }

// forsaken waits for a while whether the client asks again, and says that it does
// not. If the connection ends it may do so on the next. All of a batch wait for
// one such while, from the first on.
func (cl *claim) forsaken(d time.Duration) bool {
	if cl.key == 0 {
		return true // it cannot
	}
	asked := make(chan struct{})
	cl.c.mu.Lock()
	cl.asked = asked
	if cl.of.until.IsZero() {
		cl.of.until = time.Now().Add(d)
	}
	left := time.Until(cl.of.until)
	cl.c.mu.Unlock()
	if cl.repeated() {
		return false
	}
	wait := time.NewTimer(left)
	defer wait.Stop()
	select {
	case <-wait.C:
		return !cl.repeated()
	case <-asked:
	case <-cl.c.gone:
	case <-cl.c.g.backing().Done():
	}
	return false
}
