package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomgate/roomgate/protocol"
)

// heartbeat pings all connections, each once an interval, and ends those from
// which nothing comes. One goroutine serves them all: connections are dealt
// over slots, and each tick looks at one slot.
type heartbeat struct {
	interval, tick time.Duration

	ticked atomic.Int64 // when the last tick came, in unix ns

	mu    sync.Mutex
	slots []map[*conn]struct{}
	next  int // slot of the next connection
}

const beatTick = 500 * time.Millisecond

func newHeartbeat(interval time.Duration) *heartbeat {
	n := max(1, int(interval/beatTick))
	h := &heartbeat{interval: interval, tick: interval / time.Duration(n), slots: make([]map[*conn]struct{}, n)}
	for i := range h.slots {
		h.slots[i] = map[*conn]struct{}{}
	}
	return h
}

func (h *heartbeat) add(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.slot = h.next
	h.next = (h.next + 1) % len(h.slots)
	h.slots[c.slot][c] = struct{}{}
}

func (h *heartbeat) remove(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.slots[c.slot], c)
}

// run ticks until ctx is done.
func (h *heartbeat) run(ctx context.Context) error {
	t := time.NewTicker(h.tick)
	defer t.Stop()
	h.ticked.Store(time.Now().UnixNano())
	for i := 0; ; i = (i + 1) % len(h.slots) {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		stood := h.stoodStill()
		h.ticked.Store(time.Now().UnixNano())
		h.mu.Lock()
		if stood {
			// Nobody could be heard: that counts as life.
			for _, slot := range h.slots {
				for c := range slot {
					c.sock.alive()
				}
			}
		}
		due := make([]*conn, 0, len(h.slots[i]))
		for c := range h.slots[i] {
			due = append(due, c)
		}
		h.mu.Unlock()
		for _, c := range due {
			c.beat(h.interval)
		}
	}
}

// stoodStill says whether this process, or the machine, has stood still: the
// tick that should have come by now has not.
func (h *heartbeat) stoodStill() bool {
	return time.Since(time.Unix(0, h.ticked.Load())) > h.tick+standstill
}

// beat pings the client, unless it has been silent for too long.
func (c *conn) beat(interval time.Duration) {
	if c.sock.stuck() > stuckAfter {
		c.sock.Close()
		return
	}
	left := c.g.cfg.SessionTTL - c.sock.silent()
	if left < interval {
		// It ends before its next turn unless something comes.
		time.AfterFunc(max(0, left), c.checkSilence)
	}
	c.sock.Queue(pingFrame, classPull)
}

func (c *conn) checkSilence() {
	if c.sock.silent() >= c.g.cfg.SessionTTL && !c.g.beat.stoodStill() {
		c.close(protocol.CloseNoSignOfLife, "nothing was heard for the session TTL")
	}
}
