package gateway

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

const (
	// healAtOnce is how many rooms are put back at a time.
	healAtOnce = 64
	// maxTestified is how many rooms a client's word is taken for.
	maxTestified = 20
)

// runHealer puts back what this node knows whenever Redis may have lost it,
// until ctx is done. It fails with [roomstore.ErrPartitions] if the deployment
// has come to have another number of partitions.
func (g *Gateway) runHealer(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.store.Stale():
		}
		for backoff := 20 * time.Millisecond; ; backoff = min(2*backoff, 500*time.Millisecond) {
			err := g.heal(ctx)
			if err == nil {
				break
			}
			if errors.Is(err, roomstore.ErrPartitions) {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(backoff):
			}
		}
	}
}

// healing is what a node puts back under one term.
type healing struct {
	g         *Gateway
	node      string
	term      string
	knew      string            // the term it acts under until then
	reclaimed map[*session]bool // sessions that have been
	put       map[*feed]put     // rooms, and what was known of them
	strays    []roomstore.Stray // rooms that the store has sessions in, wrongly

	mu     sync.Mutex
	absent []*member // whose place is not theirs any more; guarded by mu
}

// put is what was known of a room when it was put back.
type put struct {
	at      roomstore.Position
	members []roomstore.Placed
}

// covers says whether there is nothing new in what is known of the room now.
func (p put) covers(known roomstore.Record) bool {
	return p.at == known.Position && slices.Equal(p.members, known.Members)
}

// errAgain means that the term has changed while data was being put back.
var errAgain = errors.New("the term has changed again")

// heal puts back what this node knows, waits until all have had time to, and
// goes on under the new term. Nothing is lost if it fails: it is to be repeated.
func (g *Gateway) heal(ctx context.Context) error {
	greeting, err := g.ask(ctx)
	if err != nil {
		return err
	}
	h := &healing{
		g: g, node: g.node(), term: greeting.Term, knew: g.store.Term(),
		reclaimed: map[*session]bool{}, put: map[*feed]put{},
	}
	if h.term == h.knew && greeting.Opens == 0 {
		g.store.Adopt(h.term)
		return nil
	}
	g.healing.Store(true)
	defer g.healing.Store(false)
	began := time.Now()
	if h.term != h.knew {
		g.stats.Heals.Add(1)
		g.log.Warn("redis was started anew or lost data, putting back what is known")
		if err := h.report(ctx); err != nil {
			return err
		}
	}
	for greeting.Opens > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(greeting.Opens + time.Millisecond):
		}
		if greeting, err = g.ask(ctx); err != nil {
			return err
		}
		if greeting.Term != h.term {
			return errAgain
		}
	}
	if h.term != h.knew {
		// What came meanwhile. From now on nothing does, before we act.
		if err := h.report(ctx); err != nil {
			return err
		}
		under := roomstore.Under(ctx, h.term)
		if err := h.tidy(under); err != nil {
			return err
		}
		if err := h.follow(under); err != nil {
			return err
		}
		g.log.Info("put back what is known", "count", len(h.put), "took", time.Since(began))
	}
	g.store.Adopt(h.term)
	for _, m := range h.absent {
		m.s.c.fenced() // the client finds out by resuming
	}
	return nil
}

func (g *Gateway) ask(ctx context.Context) (roomstore.Greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
	defer cancel()
	return g.store.Ask(ctx)
}

// report puts back sessions and rooms, as far as they have not been.
func (h *healing) report(ctx context.Context) error {
	err := h.reclaim(ctx)
	if errors.Is(err, roomstore.ErrFenced) {
		return nil // the node finds out, and begins anew
	}
	if err != nil {
		return err
	}
	g := h.g
	var work errgroup.Group
	work.SetLimit(healAtOnce)
	for _, f := range g.hub.all() {
		known, ok := f.record(h.node)
		if !ok || h.put[f].covers(known) {
			continue
		}
		h.put[f] = put{known.Position, known.Members}
		work.Go(func() error { return h.heal(ctx, f, known) })
	}
	return work.Wait()
}

// reclaim puts back the sessions whose sockets are here.
func (h *healing) reclaim(ctx context.Context) error {
	g := h.g
	g.mu.Lock()
	var sessions []*session
	for _, s := range g.sessions {
		if s.who.Node == h.node && !h.reclaimed[s] {
			sessions = append(sessions, s)
		}
	}
	g.mu.Unlock()
	if h.node == "" {
		return nil
	}
	byID := map[roomstore.SessionID]*session{}
	var holdings []roomstore.Holding
	for _, s := range sessions {
		byID[s.who.ID] = s
		holdings = append(holdings, roomstore.Holding{Session: s.who, Device: s.device, Rooms: s.mayBeIn()})
	}
	call, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
	defer cancel()
	lost, strays, err := g.store.Reclaim(call, h.term, h.node, holdings)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		h.reclaimed[s] = true
	}
	for id, why := range lost {
		byID[id].lost(why)
	}
	for _, stray := range strays {
		if byID[stray.Session.ID].arrived.Load() {
			h.strays = append(h.strays, stray)
		}
	}
	return nil
}

// mayBeIn gives the rooms that the session is in, or that a request under way
// may have brought it to. No request can bring it to others before this node
// acts under the new term.
func (s *session) mayBeIn() []roomstore.RoomID {
	// In this order: what is under way gets from the one to the other.
	s.c.mu.Lock()
	var rooms []roomstore.RoomID
	for room := range s.c.claims {
		rooms = append(rooms, room)
	}
	s.c.mu.Unlock()
	for _, f := range s.feeds() {
		rooms = append(rooms, f.room)
	}
	return rooms
}

// heal puts back one room.
func (h *healing) heal(ctx context.Context, f *feed, known roomstore.Record) error {
	ctx, cancel := context.WithTimeout(ctx, h.g.cfg.RedisTimeout)
	defer cancel()
	absent, err := h.g.store.Heal(ctx, h.term, h.knew, h.node, known)
	if errors.Is(err, roomstore.ErrRecreated) || errors.Is(err, roomstore.ErrFenced) {
		return nil // follow, or the node, finds out
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if slices.Contains(absent, m.s.who.ID) {
			h.mu.Lock()
			h.absent = append(h.absent, m)
			h.mu.Unlock()
		}
	}
	return nil
}

// tidy takes back what is stored of this node's sessions and was not so any more:
// Redis may have gone back to an earlier time.
func (h *healing) tidy(ctx context.Context) error {
	g := h.g
	call := func(do func(ctx context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
		defer cancel()
		if err := do(ctx); err != nil && !roomstore.Refused(err) {
			return err
		}
		return nil
	}
	for _, stray := range h.strays {
		err := call(func(ctx context.Context) error {
			_, err := g.store.Leave(ctx, stray.Session, stray.Room, "")
			return err
		})
		if err != nil {
			return err
		}
	}
	if h.node == "" {
		return nil
	}
	var held []roomstore.Session
	err := call(func(ctx context.Context) (err error) {
		held, err = g.store.Held(ctx, h.node)
		return err
	})
	if err != nil {
		return err
	}
	for _, who := range held {
		g.mu.Lock()
		_, here := g.sessions[who.ID]
		g.mu.Unlock()
		if here {
			continue
		}
		// Its client may come back, if it has not logged out.
		err := call(func(ctx context.Context) error { return g.store.Abandon(ctx, who, g.cfg.SessionTTL) })
		if err != nil {
			return err
		}
	}
	return nil
}

// follow moves the feeds on to the lives that their rooms are in now.
func (h *healing) follow(ctx context.Context) error {
	g := h.g
	for batch := range slices.Chunk(g.hub.all(), compareBatch) {
		rooms := make([]roomstore.RoomID, len(batch))
		for i, f := range batch {
			rooms[i] = f.room
		}
		call, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
		lives, err := g.store.Lives(call, rooms)
		cancel()
		if err != nil {
			return err
		}
		for _, f := range batch {
			_, known := h.put[f]
			f.settle(lives[f.room], known)
		}
	}
	return nil
}

// all gives all feeds.
func (h *hub) all() []*feed {
	h.mu.Lock()
	defer h.mu.Unlock()
	feeds := make([]*feed, 0, len(h.feeds))
	for _, f := range h.feeds {
		feeds = append(feeds, f)
	}
	return feeds
}

// testify puts back, on the word of a client that resumes, what Redis has lost of
// its session: the session itself, its places, and that the rooms were further.
// It says whether the resume is to be asked for again.
func (c *conn) testify(node string, user roomstore.UserID, p *protocol.LoginParams, goesOn bool, rooms []roomstore.Return,
	named map[roomstore.RoomID]sight) (again bool) {
	witness := func(known roomstore.Record) error {
		_, _, err := attempt(c, func(ctx context.Context) ([]roomstore.SessionID, error) {
			return c.g.store.Witness(ctx, node, known)
		})
		return err
	}
	if goesOn {
		for _, back := range rooms {
			if seen := named[back.Room]; back.In && seen.Epoch == back.Epoch && seen.Seq > back.Seq {
				again = witness(roomstore.Record{Room: back.Room, Position: seen.Position}) == nil || again
			}
		}
		return again
	}
	if len(named) == 0 || len(named) > maxTestified || strings.Trim(p.Resume.SessionID, sessionAlphabet) != "" {
		return false
	}
	var present []roomstore.RoomID
	for room, seen := range named {
		switch err := witness(roomstore.Record{Room: room, Position: seen.Position}); {
		case err == nil:
			present = append(present, room)
		case !errors.Is(err, roomstore.ErrNoRoom) && !errors.Is(err, roomstore.ErrRecreated):
			return false
		}
	}
	if len(present) == 0 {
		return false
	}
	who, _, err := attempt(c, func(ctx context.Context) (roomstore.Session, error) {
		return c.g.store.Login(ctx, node, user, roomstore.SessionID(p.Resume.SessionID), p.DeviceID)
	})
	if err != nil {
		return false
	}
	for _, room := range present {
		witness(roomstore.Record{Room: room, Position: named[room].Position, Members: []roomstore.Placed{{Session: who, Data: userInfo(p)}}})
	}
	return true
}

// sessionAlphabet is what session IDs are made of.
const sessionAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
