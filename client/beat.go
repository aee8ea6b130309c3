package client

import (
	"time"

	"github.com/coder/websocket"

	"github.com/roomgate/roomgate/protocol"
)

// A link is watched by one timer. While something is heard, WebSocket pings of
// the gateway included, it does nothing. After a silence of pingAfter the
// client asks for a sign of life, and after another of pingTimeout it gives the
// link up: two heartbeat intervals, which leaves time to come back before the
// session ends.
func pingAfter(interval time.Duration) time.Duration   { return interval * 5 / 4 }
func pingTimeout(interval time.Duration) time.Duration { return interval * 3 / 4 }

// startBeat begins to watch a link. The caller holds mu.
func (c *Client) startBeat(l *link, interval time.Duration) {
	if interval <= 0 {
		interval = 10 * time.Second
	}
	l.interval = interval
	l.pinged = -1
	l.beat = time.AfterFunc(pingAfter(interval), func() { c.checkBeat(l) })
}

// checkBeat is what the timer does.
func (c *Client) checkBeat(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.over {
		return
	}
	now, heard := int64(time.Since(l.since)), l.heard.Load()
	quiet := time.Duration(now - heard)
	switch {
	case l.busy.Load():
		l.beat.Reset(pingAfter(l.interval))
	case quiet < pingAfter(l.interval):
		l.beat.Reset(pingAfter(l.interval) - quiet)
	case l.pinged <= heard:
		l.pinged = now
		c.lastID++
		frame, err := encodeRequest(c.lastID, protocol.MethodPing, []byte("{}"), 0)
		if err != nil {
			panic(err) // cannot happen with these arguments
		}
		// Before all others: those may be waiting for answers.
		l.out = append([]*call{{frame: frame}}, l.out...)
		c.kick(l)
		l.beat.Reset(pingTimeout(l.interval))
	default:
		c.abandonLink(l, errUnanswered)
		c.wg.Go(l.cut)
	}
}

// moveIn has the client move to another gateway after a while. Run calls it.
func (c *Client) moveIn(l *link, d time.Duration) {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.moveAt = time.Now().Add(d)
	l.timer = time.AfterFunc(d, func() { c.endLink(l, errMoved) })
}

// hangUpIn ends the link after a while if the gateway does not. Run calls it.
func (c *Client) hangUpIn(l *link, d time.Duration) {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.timer = time.AfterFunc(d, func() { c.endLink(l, ErrLoggedOut) })
}

// endLink ends a link from this side. Reading goes on until the gateway has
// closed, too, so that nothing it sent is lost.
func (c *Client) endLink(l *link, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !l.over {
		c.abandonLink(l, why)
		c.wg.Go(func() { l.ws.Close(websocket.StatusGoingAway, "") })
	}
}

// abandonLink writes nothing more to a link. The caller holds mu, and closes
// the connection.
func (c *Client) abandonLink(l *link, why error) {
	l.over = true
	l.why = why
	if c.link == l {
		c.link = nil
	}
}
