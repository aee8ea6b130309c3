package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/roomgate/roomgate/protocol"
)

// A call is a request on its way to its answer. The link's own pings are calls
// that nobody waits for: they have a frame and nothing else.
type call struct {
	id     int64
	method string
	room   string // of a message: the answer has a position in it
	frame  []byte
	keyed  bool // changes something: it has a request key, and happens once
	counts bool // among those that change something: keyed, or a logout
	done   chan answer

	// Guarded by Client.mu.
	on        *link // the last it was written to; nil: not sent yet
	abandoned bool  // nobody waits any more
	aside     bool  // it was answered that it may be sent again, and waits for that
	refused   error // the last such answer
}

type answer struct {
	result []byte
	err    error
}

// fail answers a call that will get no answer. The caller holds mu.
func (cl *call) fail(err error) {
	if !cl.abandoned {
		cl.done <- answer{err: cl.unanswered(err)}
	}
}

// unanswered is what a call returns that got no answer, or none that counts.
// The caller holds mu.
func (cl *call) unanswered(why error) error {
	if cl.refused != nil {
		why = fmt.Errorf("%w; last answer: %w", why, cl.refused)
	}
	return &UnansweredError{Method: cl.method, Unknown: cl.on != nil, Err: why}
}

// keyed says whether a method changes something. One that this package does not
// know is taken to: a gateway ignores a request key it has no use for.
func keyed(method string) bool {
	switch method {
	case protocol.MethodPing, protocol.MethodRenewToken, protocol.MethodLogout:
		return false
	}
	return !strings.HasPrefix(method, "query")
}

// Call makes any request but a login, for what has no method here. Params must
// marshal to a JSON object, or be nil; if the method changes something, Call
// adds the requestKey. The result is unmarshalled into result unless that is
// nil.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	cl := &call{method: method, keyed: keyed(method), done: make(chan answer, 1)}
	cl.counts = cl.keyed || method == protocol.MethodLogout
	if m, ok := params.(protocol.SendParams); ok {
		cl.room = m.RoomID
	}
	if method == protocol.MethodLogin {
		return fmt.Errorf("%s: the client does that", method)
	}
	p, err := json.Marshal(params)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if ctx.Err() != nil {
		return &UnansweredError{Method: method, Err: context.Cause(ctx)}
	}
	if err := c.begin(cl, p); err != nil {
		return err
	}

	var timeout <-chan time.Time
	if _, ok := ctx.Deadline(); !ok {
		t := time.NewTimer(c.cfg.RequestTimeout)
		defer t.Stop()
		timeout = t.C
	}
	var a answer
	select {
	case a = <-cl.done:
	case <-ctx.Done():
		a = c.abandon(cl, context.Cause(ctx))
	case <-timeout:
		a = c.abandon(cl, fmt.Errorf("no answer in %v: %w", c.cfg.RequestTimeout, context.DeadlineExceeded))
	}
	switch {
	case a.err != nil:
		return a.err
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(a.result, result); err != nil {
		return fmt.Errorf("%s: result: %w", method, err)
	}
	return nil
}

// begin numbers a call and sends it, or leaves it to wait for a link.
func (c *Client) begin(cl *call, params []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return &UnansweredError{Method: cl.method, Err: c.err}
	}
	// One counter serves as id and as request key: it rises, that is all
	// either needs.
	c.lastID++
	cl.id = c.lastID
	key := int64(0)
	if cl.keyed {
		key = cl.id
	}
	var err error
	if cl.frame, err = encodeRequest(cl.id, cl.method, params, key); err != nil {
		return fmt.Errorf("%s: %w", cl.method, err)
	}
	if len(cl.frame) > protocol.MaxMessage { // the gateway would close the connection
		return &protocol.Error{
			Code:    protocol.CodeBadParameter,
			Message: fmt.Sprintf("the request has %d bytes, the limit is %d", len(cl.frame), protocol.MaxMessage),
		}
	}
	if c.pending == nil {
		c.pending = make(map[int64]*call)
	}
	c.pending[cl.id] = cl
	if c.link != nil {
		c.link.out = append(c.link.out, cl)
		c.kick(c.link)
	}
	return nil
}

// abandon ends the wait for an answer, unless it is there.
func (c *Client) abandon(cl *call, why error) answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case a := <-cl.done:
		return a
	default:
	}
	cl.abandoned = true
	if cl.on == nil || cl.on != c.link || cl.aside {
		delete(c.pending, cl.id) // else it counts as unanswered until it is answered
	}
	return answer{err: cl.unanswered(why)}
}

// A call that the gateway could not carry out is sent again after a random
// wait: up to asideFirst at first, growing to asideMost while there are only
// such answers. That is soon enough for a gateway to see that an entry is still
// wanted.
const (
	asideFirst = 100 * time.Millisecond
	asideMost  = 500 * time.Millisecond
)

// setAside keeps a call to be sent again under its key, if that is what an
// error of the gateway asks for. Those that wait go together, in the order in
// which they were called. The caller holds mu.
func (c *Client) setAside(l *link, cl *call, err error) bool {
	pe, ok := errors.AsType[*protocol.Error](err)
	if !ok || pe.Data == nil || !pe.Data.Retryable || cl.abandoned {
		return false
	}
	cl.refused, cl.aside = err, true
	if len(l.aside) == 0 {
		l.again = time.AfterFunc(jitter(l.refusals, asideFirst, asideMost), func() { c.sendAside(l) })
		l.refusals++
	}
	l.aside = append(l.aside, cl)
	return true
}

// sendAside sends what was set aside. If the link is over the next one does.
func (c *Client) sendAside(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.over {
		return
	}
	for _, cl := range l.aside {
		cl.aside = false
	}
	l.out = append(l.out, l.aside...)
	l.aside = nil
	slices.SortStableFunc(l.out, func(a, b *call) int { return cmp.Compare(a.id, b.id) })
	c.kick(l)
}

// resend puts what is pending on a new link, in the order in which it was
// called. No abandoned call is among it: drop and abandon see to that. The
// caller holds mu.
func (c *Client) resend(l *link, resumed bool) {
	for _, id := range slices.Sorted(maps.Keys(c.pending)) {
		cl := c.pending[id]
		switch {
		case cl.keyed && cl.on != nil && !resumed:
			delete(c.pending, id)
			cl.fail(ErrSessionLost)
		default:
			cl.aside = false
			l.out = append(l.out, cl)
		}
	}
	c.kick(l)
}

// kick sees to it that what is queued is written. The caller holds mu.
func (c *Client) kick(l *link) {
	if !l.writing && !l.over && len(l.out) > 0 {
		l.writing = true
		c.wg.Go(func() { c.write(l) })
	}
}

// write writes what is queued and ends. No call writes itself, for the
// connection does not survive a write whose context ends half-way.
func (c *Client) write(l *link) {
	for {
		cl := c.next(l)
		if cl == nil {
			return
		}
		if err := l.ws.Write(context.Background(), websocket.MessageText, cl.frame); err != nil {
			l.cut() // so that run notices
			return
		}
	}
}

// next takes the next call to be written off the queue. Nil ends the writer.
func (c *Client) next(l *link) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !l.over && len(l.out) > 0 {
		cl := l.out[0]
		if cl.counts && l.unanswered >= protocol.MaxUnanswered {
			break // the next answer starts another writer
		}
		l.out = l.out[1:]
		if cl.abandoned {
			continue
		}
		cl.on = l
		if cl.counts {
			l.unanswered++
		}
		return cl
	}
	if len(l.out) == 0 {
		l.out = nil
	}
	l.writing = false
	return nil
}
