package gateway

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// session is one login of one device while its socket is on this node. When
// the socket closes this ends and the session itself lives on in the store.
type session struct {
	// Set before the session is known to anybody else, and not changed.
	who    roomstore.Session
	c      *conn
	device string
	data   string // what others see of the user, as JSON
	legacy bool   // a client that expects kickedOut when a room is destroyed

	arrived atomic.Bool // all rooms that it came back to know of it
	ending  atomic.Bool // a logout is under way, and says what becomes of it
	sendOff sync.Once   // the client is told once that it has to go

	mu       sync.Mutex
	detached bool
	over     bool // logged out: there is nothing to park
	rooms    map[roomstore.RoomID]*feed
	lastKey  int64 // the newest requestKey of the client
	made     int64 // keys made where the client sent none
	tries    int64 // of entries
}

// attach notes that the session is in a room. It fails when the socket has
// closed.
func (s *session) attach(f *feed) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.detached {
		return false
	}
	s.rooms[f.room] = f
	return true
}

// forget notes that the session is not in a room any more.
func (s *session) forget(room roomstore.RoomID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.rooms, room)
}

// in gives the feed of a room that the session is in, or nil.
func (s *session) in(room roomstore.RoomID) *feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rooms[room]
}

// feeds gives all of them.
func (s *session) feeds() []*feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	feeds := make([]*feed, 0, len(s.rooms))
	for _, f := range s.rooms {
		feeds = append(feeds, f)
	}
	return feeds
}

// detach takes the session off all feeds, for good: its socket has closed.
func (s *session) detach() {
	s.mu.Lock()
	s.detached = true
	s.mu.Unlock()
	for _, f := range s.feeds() {
		f.detach(s)
	}
}

// end notes that the session was logged out.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

func (s *session) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// event sends an event of a room.
func (s *session) event(b []byte, c class, room roomstore.RoomID) {
	if err := s.c.sock.QueueEvent(b, c, string(room)); err != nil {
		s.c.slow(err)
	}
}

// state sends a room's state right away, ahead of events that wait for the
// answer to a batch.
func (s *session) state(b []byte) {
	if err := s.c.sock.Queue(b, classKept); err != nil {
		s.c.slow(err)
	}
}

// beginning is state for what the answer to a request follows: that goes out with it,
// if it comes soon.
func (s *session) beginning(b []byte) {
	if err := s.c.sock.QueueSoon(b); err != nil {
		s.c.slow(err)
	}
}

// roomOver tells the client that it is in a room no more; nothing of the room
// follows.
func (s *session) roomOver(room roomstore.RoomID, event protocol.RoomEvent, extended string) {
	s.forget(room)
	s.c.sock.ReleaseRoom(string(room))
	s.state(roomOver(room, event, extended))
}

// destroyed tells the client that a room's life has ended (row 29).
func (s *session) destroyed(room roomstore.RoomID, event protocol.RoomEvent) {
	if event == protocol.RoomNotExist && s.legacy {
		event = protocol.RoomKickedOut
	}
	s.roomOver(room, event, "")
}

// key gives the requestKey to use for a state-changing call: the client's, or
// one of our own, under which the call can be repeated until its outcome is
// known. Ours lies between the client's last and its next, is higher than those
// that we made before, and differs from those that another connection of the
// session made. There are more digits than a connection can use up.
func (s *session) key(clients int64) roomstore.RequestKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	if clients > 0 {
		s.lastKey = max(s.lastKey, clients)
		return roomstore.RequestKey(strconv.FormatInt(clients, 10))
	}
	s.made++
	return roomstore.RequestKey(fmt.Sprintf("%d.%012d%d", s.lastKey, s.made, s.who.Generation))
}

// try numbers the tries of entries, so that one that was given up and comes to
// the store late is not taken for the next under its key.
func (s *session) try() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries++
	return s.tries
}

// park tells the store that the socket has closed, until it has heard. silent
// is how long nothing had come from the client by then; slow says that it was
// cut off since it reads too slowly.
//
// It gives up when ctx is done: then the node's lease ends soon, and whoever
// claims the node does the same.
func (g *Gateway) park(ctx context.Context, who roomstore.Session, silent time.Duration, slow bool) {
	left := max(0, g.cfg.SessionTTL-silent)
	park := g.store.Park
	if slow {
		park = g.store.ParkSlow
	}
	if !g.store.Apart() { // where nothing is asked in groups
		g.leaving.pass()
	}
	g.untilKnown(ctx, who, func(ctx context.Context) error {
		// Not for longer than one attempt: where slots lie apart, one may be away.
		if !g.parking.take(ctx) {
			return context.Cause(ctx)
		}
		defer g.parking.give()
		return park(ctx, who, left)
	})
}

// abandon parks a session that a lost login or resume may have brought to this
// node, when that can happen no more.
func (g *Gateway) abandon(who roomstore.Session, left time.Duration) {
	ctx := g.backing()
	select {
	case <-ctx.Done():
		return
	case <-time.After(2 * roomstore.Lateness):
	}
	g.untilKnown(ctx, who, g.disowning(who, left, func() bool { return true }))
}

var errReturning = errors.New("its client is coming back")

// disowning gives the call, which may be repeated, that parks a session that the store has
// on a node of ours, if there is no socket for it here. Of who only Node, User and ID
// count. When calls are settled that cannot be known while a resume of it is under way,
// and it fails.
func (g *Gateway) disowning(who roomstore.Session, left time.Duration, settled func() bool) func(context.Context) error {
	decided := false
	return func(ctx context.Context) error {
		if !decided {
			// First of all: who comes after this has a higher generation, and is not parked.
			at, there, err := g.store.Attached(ctx, who)
			if err != nil || !there {
				return err
			}
			g.mu.Lock()
			s, coming, lingers := g.sessions[at.ID], g.coming[at.ID], g.lingerers.all[at.ID]
			g.mu.Unlock()
			switch {
			case s != nil && s.who.Generation >= at.Generation:
				return nil
			case lingers != nil && lingers.who.Generation == at.Generation:
				return nil // it is parked by itself, with the time that it has left
			case coming > 0 && settled():
				return errReturning
			}
			who, decided = at, true
		}
		return g.store.Park(ctx, who, left)
	}
}

// comes notes that a resume of a session is under way here, until over is called.
func (g *Gateway) comes(id roomstore.SessionID) (over func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.coming[id]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.coming[id]--; g.coming[id] == 0 {
			delete(g.coming, id)
		}
	}
}

// untilKnown makes a call until its outcome is known, or ctx is done.
func (g *Gateway) untilKnown(ctx context.Context, who roomstore.Session, do func(context.Context) error) {
	backoff := 50 * time.Millisecond
	for {
		call, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
		err := do(call)
		cancel()
		if err == nil || roomstore.Refused(err) {
			return
		}
		g.stats.ParkRetries.Add(1)
		select {
		case <-ctx.Done():
			g.notParked(who, err)
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, time.Second)
	}
}

func (g *Gateway) notParked(who roomstore.Session, err error) {
	g.log.Warn("session not parked, its end is left to the node's lease", "user", who.User, "err", err)
}
