package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

const (
	// healAtOnce is how many rooms are put back at a time, or what is stored wrongly is
	// taken back of.
	healAtOnce = 64
	// maxTestified is how many rooms a client's word is taken for.
	maxTestified = 20
)

// runHealer puts back what this node knows whenever Redis may have lost it,
// until ctx is done. It fails with [roomstore.ErrPartitions] if the deployment
// has come to have another number of partitions.
func (g *Gateway) runHealer(ctx context.Context) error {
	h := &healing{g: g}
	var again <-chan time.Time // what could not be asked is asked again
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.store.Stale():
		case <-again:
		}
		again = nil
		for backoff := 20 * time.Millisecond; ; backoff = min(2*backoff, 500*time.Millisecond) {
			unheard, err := h.run(ctx)
			if unheard {
				again = time.After(time.Second)
			}
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

// healing is what a node puts back under one term, or several after another: where
// hash slots of a Cluster lie apart each has its own, and comes to it when it does.
type healing struct {
	g         *Gateway
	node      string
	term      string            // that it is putting back under
	knew      string            // the term it acts under until then
	reclaimed map[*session]bool // sessions that have been
	put       map[*feed]put     // rooms, and what was known of them
	strays    []roomstore.Stray // rooms that the store has sessions in, wrongly

	// What is still to be taken back, since Redis did not answer about it.
	left  []leftover
	noted map[string]bool // what those are

	mu     sync.Mutex
	absent []*member // whose place is not theirs any more; guarded by mu
}

// A leftover is something that is stored wrongly, and how it is taken back.
type leftover struct {
	what string
	do   func(ctx context.Context) error
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

// askAgain is how soon a node that puts data back looks whether more has been lost.
const askAgain = 200 * time.Millisecond

// run puts back what this node knows, as far as the term is another than that it acts
// under, waits until all have had time to, and goes on under the new one; in each slot
// as soon as that is open. Nothing is lost if it fails: it is to be repeated. unheard
// says that some slots did not answer.
func (h *healing) run(ctx context.Context) (unheard bool, err error) {
	g, began := h.g, time.Now()
	h.node, h.term, h.knew = g.node(), g.store.Term(), g.store.Term()
	h.strays, h.absent = nil, nil
	defer g.healing.Store(false)
	for {
		greeting, err := g.ask(ctx)
		if err != nil {
			return unheard, err
		}
		unheard = unheard || greeting.Unheard
		if greeting.Term == h.knew && greeting.Opens == 0 && len(h.left) == 0 {
			g.store.Adopt(h.knew)
			return unheard, nil
		}
		g.healing.Store(true)
		if greeting.Term != h.term {
			h.term, h.reclaimed, h.put = greeting.Term, map[*session]bool{}, map[*feed]put{}
			g.stats.Heals.Add(1)
			g.log.Warn("redis was started anew or lost data, putting back what is known")
			if err := h.report(ctx); err != nil {
				return unheard, err
			}
			continue // it may be open by now
		}
		if greeting.Ready != h.knew {
			if err := h.goOn(ctx, greeting); err != nil {
				return unheard, err
			}
			g.log.Info("put back what is known", "count", len(h.put), "took", time.Since(began))
			continue
		}
		h.tryLeft(roomstore.Under(ctx, h.knew))
		wait := askAgain
		if greeting.Opens > 0 {
			wait = greeting.Opens + time.Millisecond
		}
		select {
		case <-ctx.Done():
			return unheard, ctx.Err()
		case <-g.store.Stale():
			select {
			case <-ctx.Done():
				return unheard, ctx.Err()
			case <-time.After(min(wait, askAgain)):
			}
		case <-time.After(wait):
		}
	}
}

// errNotTidy means that what is stored wrongly could not be taken back.
var errNotTidy = errors.New("what is stored wrongly could not be taken back")

// goOn makes calls under a term from now on, as far as it is open and everything has
// been put back under it.
func (h *healing) goOn(ctx context.Context, greeting roomstore.Greeting) error {
	g, ready := h.g, greeting.Ready
	// What came meanwhile. From now on nothing does, before we act.
	if err := h.report(ctx); err != nil {
		return err
	}
	under := roomstore.Under(ctx, ready)
	if err := h.tidy(under, ready); err != nil {
		return err
	}
	if len(h.left) > 0 && ready == greeting.Term && !greeting.Unheard {
		return errNotTidy
	}
	if err := h.follow(under, ready); err != nil {
		return err
	}
	g.store.Adopt(ready)
	h.knew = ready
	for _, m := range h.absent {
		m.s.c.fenced() // the client finds out by resuming
	}
	h.absent = nil
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
	lost, strays, err := g.store.Reclaim(call, h.term, h.knew, h.node, holdings)
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
func (h *healing) tidy(ctx context.Context, ready string) error {
	g := h.g
	for _, stray := range h.strays {
		h.leave(fmt.Sprint("stray ", stray.Session.ID, stray.Session.Generation, stray.Room), func(ctx context.Context) error {
			g.mu.Lock()
			s := g.sessions[stray.Session.ID]
			g.mu.Unlock()
			if s != nil && slices.Contains(s.mayBeIn(), stray.Room) {
				return nil // it enters by itself now
			}
			_, err := g.store.Leave(ctx, stray.Session, stray.Room, "")
			return err
		})
	}
	h.strays = nil
	if h.node != "" {
		call, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
		held, err := g.store.Held(call, ready, h.knew, h.node)
		cancel()
		if err != nil && !roomstore.Refused(err) {
			return err
		}
		for _, who := range held {
			// Its client may come back, if it has not logged out. A resume that is under way
			// has yet to be seen to under this term, until we go on under it.
			settled := func() bool { return h.knew == ready }
			h.leave("held "+who.Node+" "+string(who.ID), g.disowning(who, g.cfg.SessionTTL, settled))
		}
	}
	h.tryLeft(ctx)
	return nil
}

// leave notes something that is to be taken back, if it is not noted already.
func (h *healing) leave(what string, do func(ctx context.Context) error) {
	if h.noted[what] {
		return
	}
	if h.noted == nil {
		h.noted = map[string]bool{}
	}
	h.noted[what] = true
	h.left = append(h.left, leftover{what, do})
}

// tryLeft does what is left to do, in the time of one call. Of a session in one slot that
// may be about a room in another, which is away, or not open yet. What failed is tried
// again behind what there was no time for.
func (h *healing) tryLeft(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, h.g.cfg.RedisTimeout)
	defer cancel()
	tried, errs := make([]bool, len(h.left)), make([]error, len(h.left))
	var work errgroup.Group
	work.SetLimit(healAtOnce)
	for i, l := range h.left {
		work.Go(func() error {
			if tried[i] = ctx.Err() == nil; tried[i] {
				errs[i] = l.do(ctx)
			}
			return nil
		})
	}
	work.Wait()
	var untried, failed []leftover
	for i, l := range h.left {
		switch {
		case !tried[i]:
			untried = append(untried, l)
		case errs[i] != nil && !roomstore.Refused(errs[i]):
			failed = append(failed, l)
		default:
			delete(h.noted, l.what)
		}
	}
	h.left = append(untried, failed...)
}

// follow moves the feeds on to the lives that their rooms are in now, where these may
// be others.
func (h *healing) follow(ctx context.Context, ready string) error {
	g := h.g
	feeds := slices.DeleteFunc(g.hub.all(), func(f *feed) bool { return !g.store.Renewed(ready, h.knew, f.room) })
	for batch := range slices.Chunk(feeds, compareBatch) {
		rooms := make([]roomstore.RoomID, len(batch))
		for i, f := range batch {
			rooms[i] = f.room
		}
		call, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
		err := g.store.DropOwnerless(call, rooms)
		if err != nil && !roomstore.Refused(err) { // what a full Redis keeps is no reason to wait
			cancel()
			return err
		}
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
// It says whether the resume is to be asked for again, and whether the session may have
// been begun here.
func (c *conn) testify(node string, user roomstore.UserID, p *protocol.LoginParams, goesOn bool, rooms []roomstore.Return,
	named map[roomstore.RoomID]sight) (again, begun bool) {
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
		return again, false
	}
	if len(named) == 0 || len(named) > maxTestified || strings.Trim(p.Resume.SessionID, sessionAlphabet) != "" {
		return false, false
	}
	var present []roomstore.RoomID
	for room, seen := range named {
		switch err := witness(roomstore.Record{Room: room, Position: seen.Position}); {
		case err == nil:
			present = append(present, room)
		case !errors.Is(err, roomstore.ErrNoRoom) && !errors.Is(err, roomstore.ErrRecreated):
			return false, false
		}
	}
	if len(present) == 0 {
		return false, false
	}
	who, open, err := attempt(c, func(ctx context.Context) (roomstore.Session, error) {
		return c.g.store.Login(ctx, node, user, roomstore.SessionID(p.Resume.SessionID), p.DeviceID)
	})
	if err != nil {
		return false, open
	}
	for _, room := range present {
		witness(roomstore.Record{Room: room, Position: named[room].Position, Members: []roomstore.Placed{{Session: who, Data: userInfo(p)}}})
	}
	return true, true
}

// sessionAlphabet is what session IDs are made of.
const sessionAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
