package gateway

import (
	"time"

	"github.com/roomgate/roomgate/roomstore"
)

// This file is how a crowd whose links are lost at once is not parked: most of them
// are back before the store needs to know that they were away, and what a resume then
// costs it is about half.

const (
	// Of the sessions whose sockets close within lingerWithin all but the first
	// promptly are a crowd.
	lingerWithin = time.Second
	promptly     = 64
	// lingerPart is the part of what is left of its time for which a session lingers.
	lingerPart = 4
)

// lingerers are sessions whose sockets have closed, and which are still this node's as
// far as the store knows. The gateway's lock guards them. If it dies, they are claimed
// with its others.
type lingerers struct {
	all  map[roomstore.SessionID]*lingerer
	over bool // nobody lingers any more

	began  time.Time // the time within which closed is counted
	closed int
}

type lingerer struct {
	who    roomstore.Session
	silent time.Duration // when its socket closed
	since  time.Time     // that was
	timer  *time.Timer   // parks it
}

// linger keeps a session of a crowd for a while, and says whether it does. silent is
// how long nothing had come from the client when its socket closed.
func (g *Gateway) linger(who roomstore.Session, silent time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := &g.lingerers
	now := time.Now()
	if now.Sub(l.began) >= lingerWithin {
		l.began, l.closed = now, 0
	}
	l.closed++
	left := g.cfg.SessionTTL - silent
	if l.over || l.closed <= promptly || left <= 0 {
		return false
	}
	if s := g.sessions[who.ID]; s != nil && s.who.Generation > who.Generation {
		return true // it is back already
	}
	if before := l.all[who.ID]; before != nil {
		if before.who.Generation >= who.Generation {
			return true // the socket of an earlier connection has closed later
		}
		before.timer.Stop()
	}
	one := &lingerer{who: who, silent: silent, since: now}
	one.timer = time.AfterFunc(left/lingerPart, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.parkLingerer(one)
	})
	l.all[who.ID] = one
	return true
}

// parkLingerer has a session linger no longer, if it did. The gateway's lock is held.
func (g *Gateway) parkLingerer(one *lingerer) {
	if g.lingerers.all[one.who.ID] != one {
		return
	}
	one.timer.Stop()
	delete(g.lingerers.all, one.who.ID)
	g.conns.Add(1) // under the lock, as in add
	go func() {
		defer g.conns.Done()
		g.park(g.backing(), one.who, one.silent+time.Since(one.since), false)
	}()
}

// returned notes that a session goes on under a generation, here or elsewhere, or is
// over: one that lingers under an earlier one need not be parked. The gateway's lock is held.
func (g *Gateway) returned(id roomstore.SessionID, generation int64) {
	if one := g.lingerers.all[id]; one != nil && one.who.Generation < generation {
		one.timer.Stop()
		delete(g.lingerers.all, id)
	}
}

// endLingering parks those that linger, and has all others parked at once.
func (g *Gateway) endLingering() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lingerers.over = true
	for _, one := range g.lingerers.all {
		g.parkLingerer(one)
	}
}
