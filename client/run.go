package client

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/roomgate/roomgate/protocol"
)

// doubtful is for how long a login that was not answered may still take effect, and more
// than that: a gateway that stands still for longer than two leases has lost its own.
const doubtful = 30 * time.Second

// settled is how long a link has to last for the waits to begin anew.
const settled = 10 * time.Second

// run is the client's one goroutine: it connects, reads, and connects again,
// until ctx is done or the client must not come back. All events come from it.
func (c *Client) run(ctx context.Context) {
	defer close(c.done)
	err := c.loop(ctx)

	c.mu.Lock()
	c.over = true
	c.err = err
	for id, cl := range c.pending {
		delete(c.pending, id)
		cl.fail(err)
	}
	gone := c.rooms
	c.rooms = nil
	c.mu.Unlock()

	if !errors.Is(err, ErrClosed) {
		c.log.Debug("client ended", "err", err)
		for _, r := range gone {
			c.emit(ctx, &RoomStateChanged{
				RoomID: r.id, State: protocol.RoomDisconnected, Event: protocol.RoomNetworkDisconnected,
			})
		}
		if c.lastSaid != protocol.ConnectionDisconnected {
			c.emitConnection(ctx, protocol.ConnectionDisconnected, endEvent(err))
		}
	}
	c.wg.Wait()
	if c.events != nil {
		close(c.events) // run is its only sender
	}
}

// loop returns why the client ended.
func (c *Client) loop(ctx context.Context) error {
	c.emitConnection(ctx, protocol.ConnectionConnecting, protocol.ConnectionActiveLogin)
	tries := 0
	var doubt time.Time // when a login was given up that had been sent
	for i := 0; ; i++ {
		addr := c.urls[i%len(c.urls)]
		l := &link{}
		err := c.serve(ctx, l, addr)
		c.drop(l)
		if ctx.Err() != nil {
			return ErrClosed
		}
		if c.loggedOut || c.seenOff(err) {
			return ErrLoggedOut
		}
		taken := takenOver(err)
		if final(err) && !(taken && time.Since(doubt) < doubtful) {
			return err
		}
		switch {
		case taken: // by that login: nobody is at the other end of its connection
			doubt = time.Time{}
		case l.loginID != 0:
			doubt = time.Now()
		}
		c.log.Debug("disconnected", "addr", addr, "err", err)
		if l.loggedIn {
			c.interrupted(ctx)
			if time.Since(l.since) >= settled {
				tries = 0
			}
		}
		wait, told := l.comeBack(err)
		if !told {
			wait = jitter(tries, c.cfg.MinBackoff, c.cfg.MaxBackoff)
			tries++
		}
		if !sleep(ctx, wait) {
			return ErrClosed
		}
	}
}

// seenOff says whether the gateway has closed because of a logout that it had
// answered as not carried out yet. That logout has succeeded.
func (c *Client) seenOff(err error) bool {
	if ce, ok := errors.AsType[*CloseError](err); !ok || ce.Code != protocol.CloseNormal {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	off := false
	for id, cl := range c.pending {
		if cl.method == protocol.MethodLogout && cl.refused != nil {
			delete(c.pending, id)
			cl.done <- answer{}
			off = true
		}
	}
	return off
}

// interrupted says on the stream that the link is lost.
func (c *Client) interrupted(ctx context.Context) {
	c.emitConnection(ctx, protocol.ConnectionReconnecting, protocol.ConnectionLoginInterrupted)
	for _, r := range c.Rooms() {
		c.emit(ctx, &RoomStateChanged{
			RoomID: r.RoomID, State: protocol.RoomConnecting, Event: protocol.RoomNetworkInterrupted,
		})
	}
}

// comeBack is how long the gateway wants the client to stay away, if it said so.
func (l *link) comeBack(err error) (wait time.Duration, told bool) {
	if ce, ok := errors.AsType[*CloseError](err); ok && ce.Reason != "" {
		reason := protocol.CloseReason{ReconnectAfterMS: -1}
		if json.Unmarshal([]byte(ce.Reason), &reason) == nil && reason.ReconnectAfterMS >= 0 {
			return millis(reason.ReconnectAfterMS), true
		}
	}
	if !l.moveAt.IsZero() {
		return max(0, time.Until(l.moveAt)), true
	}
	return 0, false
}

// jitter is a random part of the bound of the nth try ("full jitter").
func jitter(tries int, low, high time.Duration) time.Duration {
	bound := high
	if tries < 32 && low < high>>tries {
		bound = low << tries
	}
	return rand.N(bound)
}

func millis(n int64) time.Duration {
	const most = int64(24 * time.Hour / time.Millisecond)
	return time.Duration(min(max(n, 0), most)) * time.Millisecond
}

// sleep says whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// emit puts an event on the stream, and waits while that is full.
func (c *Client) emit(ctx context.Context, ev Event) {
	if c.cfg.OnEvent != nil {
		if ctx.Err() == nil {
			c.cfg.OnEvent(ev)
		}
		return
	}
	select {
	case c.events <- ev:
	case <-ctx.Done():
	}
}

func (c *Client) emitConnection(ctx context.Context, s protocol.ConnectionState, e protocol.ConnectionEvent) {
	c.lastSaid = s
	c.emit(ctx, &ConnectionStateChanged{State: s, Event: e})
}

func (c *Client) lastAttempt() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attempt
}
