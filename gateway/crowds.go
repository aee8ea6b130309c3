package gateway

// This file is how many come and go at once without holding up those who are here:
// who speaks and who listens goes first, and the others take turns.

import (
	"context"
	"runtime"
	"sync"
	"time"
)

const (
	// While rooms speak a gateway lets as many connections in in this time, and cleans
	// up as many whose sockets have closed, for each processor.
	pause         = time.Millisecond
	admittedAPace = 0.35
	endedAPace    = 2
	// calm is how long after the last message they may be more.
	calm = 100 * time.Millisecond
	// pacesLate is for how much of the time that it has come too late a gateway makes up
	// by letting more through: a busy one for no more, so that its rooms have time.
	pacesLate = 4 * pause
	// longestTurn is how long one waits for a turn at most; longestPaced how long a crowd
	// does: what keeps coming after that is let through, since its places do not last
	// for ever.
	longestTurn  = 5 * time.Second
	longestPaced = 10 * time.Second

	// returnEvery is how far apart groups of sessions that come back ask the store, and
	// groups of those that are to be parked, and so how long one of them may wait for
	// the others. So many need not.
	returnEvery  = 100 * time.Millisecond
	returnAtOnce = 8
	// parkedAtOnce is how many sessions are parked at a time: what waits for Redis
	// behind them does not wait for long.
	parkedAtOnce = 64
)

// A pacer lets through one after another while rooms speak, and everybody otherwise.
type pacer struct {
	every  time.Duration
	spoken interface{ Load() uint64 } // messages that rooms have heard

	mu    sync.Mutex
	heard uint64 // messages, by the last look
	until time.Time
	next  time.Time // turn
	since time.Time // there have been more than may pass
}

// wait waits for the caller's turn.
func (p *pacer) wait() {
	p.mu.Lock()
	now := time.Now()
	if n := p.spoken.Load(); n != p.heard {
		p.heard, p.until = n, now.Add(calm)
	}
	if earliest := now.Add(-pacesLate); p.next.Before(earliest) || !now.Before(p.until) {
		p.next, p.since = earliest, now
	}
	wait := p.next.Sub(now)
	p.next = p.next.Add(min(p.every, max(0, longestTurn-wait)))
	if now.Sub(p.since) > longestPaced {
		wait = 0
	}
	p.mu.Unlock()
	time.Sleep(wait)
}

// paceOf gives how far apart turns are of which there are so many for each processor.
func paceOf(aPause float64) time.Duration {
	return time.Duration(float64(pause) / aPause / float64(runtime.GOMAXPROCS(0)))
}

// A turnstile lets those through who come now and then, and has a crowd go on in
// groups: of those who come within returnEvery all but the first few wait for its end,
// and next time all do.
type turnstile struct {
	mu    sync.Mutex
	began time.Time // the time within which come is counted
	come  int
	crowd bool // there were too many before
}

func (t *turnstile) pass() {
	t.mu.Lock()
	now := time.Now()
	if ago := now.Sub(t.began); ago >= returnEvery {
		t.crowd = t.come > returnAtOnce && ago < 2*returnEvery
		t.began, t.come = now, 0
	}
	var wait time.Duration
	if t.come++; t.crowd || t.come > returnAtOnce {
		wait = t.began.Add(returnEvery).Sub(now)
	}
	t.mu.Unlock()
	time.Sleep(wait)
}

// slots bound how many do something at a time.
type slots chan struct{}

func (s slots) give() { <-s }

// take waits for a slot, and says whether there was one before ctx was done.
func (s slots) take(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}
