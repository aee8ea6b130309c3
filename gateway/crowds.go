package gateway

// This file is how many come and go at once without holding up those who are here:
// who speaks and who listens goes first, and the others take turns.

import (
	"context"
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// pause is how long a gateway whose rooms speak waits between connections that it
	// accepts. One that is busy waits longer, since it wakes up later: so there is
	// always time left for the rooms.
	pause = time.Millisecond
	// calm is how long after the last message a gateway does not pause any more.
	calm = 100 * time.Millisecond
	// returnEvery is how far apart groups of sessions that come back ask the store,
	// and so how long one of them may wait for the others.
	returnEvery = 20 * time.Millisecond
	// parkedAtOnce is how many sessions are parked at a time: what waits for Redis
	// behind them does not wait for long.
	parkedAtOnce = 64
)

// acceptedAtOnce is how many connections are accepted between two pauses, and
// endedAtOnce how many are cleaned up at a time: half of the processors are left to
// everybody else.
var acceptedAtOnce, endedAtOnce = max(1, runtime.GOMAXPROCS(0)/2), max(1, runtime.GOMAXPROCS(0)/2)

// Paced gives a listener that lets clients in no faster than the rooms of the gateway
// can bear, while these speak. The others wait where the system keeps them.
func (g *Gateway) Paced(l net.Listener) net.Listener {
	return &pacedListener{Listener: l, spoken: &g.stats.spoken}
}

type pacedListener struct {
	net.Listener
	spoken interface{ Load() uint64 }

	// Owned by whoever accepts: one at a time.
	heard    uint64 // messages, by the last look
	until    time.Time
	accepted int
	next     time.Time
}

func (p *pacedListener) Accept() (net.Conn, error) {
	now := time.Now()
	if n := p.spoken.Load(); n != p.heard {
		p.heard, p.until = n, now.Add(calm)
	}
	if p.accepted >= acceptedAtOnce && now.Before(p.until) {
		time.Sleep(p.next.Sub(now))
		p.accepted = 0
	}
	c, err := p.Listener.Accept()
	if p.accepted++; p.accepted >= acceptedAtOnce {
		p.next = time.Now().Add(pause)
	}
	return c, err
}

// A turnstile lets those through in groups who come in quick succession: the first at
// once, and whoever comes within returnEvery of it with all others who do.
type turnstile struct {
	mu   sync.Mutex
	last time.Time // when the last group goes, which may be still to come
}

func (t *turnstile) pass() {
	t.mu.Lock()
	now := time.Now()
	switch {
	case now.Before(t.last):
	case now.Before(t.last.Add(returnEvery)):
		t.last = t.last.Add(returnEvery)
	default:
		t.last = now
	}
	wait := t.last.Sub(now)
	t.mu.Unlock()
	time.Sleep(wait)
}

// slots bound how many do something at a time.
type slots chan struct{}

func (s slots) take() { s <- struct{}{} }
func (s slots) give() { <-s }

// takeFor is take, unless ctx is done before.
func (s slots) takeFor(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}
