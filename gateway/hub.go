package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/roomgate/roomgate/pubsub"
	"github.com/roomgate/roomgate/roomstore"
)

// feedLinger is how long a feed without local members stays subscribed, so
// that people coming and going do not subscribe anew each time.
const feedLinger = 10 * time.Second

// history is what feeds ask of the room store.
type history interface {
	Topic(roomstore.RoomID) string
	Path(roomstore.RoomID) int
	Catchup(context.Context, roomstore.RoomID, roomstore.Position) (roomstore.History, error)
	Positions(context.Context, []roomstore.RoomID) (map[roomstore.RoomID]roomstore.Position, error)
	Lives(context.Context, []roomstore.RoomID) (map[roomstore.RoomID]roomstore.Life, error)
	Absent(context.Context, roomstore.RoomID, []roomstore.Session) ([]roomstore.Session, error)
}

// topics is what feeds need of the bus.
type topics interface {
	Subscribe(ctx context.Context, topic string, h pubsub.Handler) error
	Unsubscribe(topic string)
}

// hub holds the feeds: one for each room with members on this node. Its lock
// may be taken while a feed's is held, not the other way round.
type hub struct {
	bus   topics
	store history
	log   *slog.Logger
	stats *Stats
	wait  time.Duration // how long a feed may keep an answer waiting

	patience time.Duration // see there

	mu     sync.Mutex
	feeds  map[roomstore.RoomID]*feed
	idle   map[*feed]time.Time // those that nobody uses, and since when
	doubts map[*feed]struct{}  // those that may have missed something
	doubt  chan struct{}       // holds one: look at doubts
	asking int                 // how many of them the store is being asked about
	behind map[*feed]struct{}  // those that have missed something, and do not have it yet
	fills  sync.WaitGroup
	ctx    context.Context // of fills; ends with run
	closed bool
}

func newHub(store history, bus topics, wait time.Duration, log *slog.Logger, stats *Stats) *hub {
	return &hub{
		bus: bus, store: store, log: log, stats: stats, wait: wait, patience: patience,
		feeds: map[roomstore.RoomID]*feed{}, idle: map[*feed]time.Time{},
		doubts: map[*feed]struct{}{}, doubt: make(chan struct{}, 1), behind: map[*feed]struct{}{},
	}
}

// run lets idle feeds go until ctx is done, then waits for what feeds have
// under way.
func (h *hub) run(ctx context.Context) error {
	h.mu.Lock()
	h.ctx = ctx
	h.mu.Unlock()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			h.mu.Lock()
			h.closed = true
			feeds := h.feeds
			h.feeds = nil
			h.mu.Unlock()
			for _, f := range feeds {
				f.stop()
				h.bus.Unsubscribe(f.topic)
			}
			h.fills.Wait()
			return nil
		case <-tick.C:
			h.expire(time.Now().Add(-feedLinger))
			h.compare(ctx)
		case <-h.doubt:
			h.compare(ctx)
		}
	}
}

func (h *hub) expire(before time.Time) {
	var expired []*feed
	h.mu.Lock()
	for f, since := range h.idle {
		if since.Before(before) {
			delete(h.idle, f)
			delete(h.feeds, f.room)
			// Under the lock, so that the bus hears it before the subscription
			// of a next feed of this room.
			h.bus.Unsubscribe(f.topic)
			expired = append(expired, f)
		}
	}
	h.mu.Unlock()
	for _, f := range expired {
		f.stop()
	}
}

var errStopping = errors.New("the gateway is stopping")

// open gives the feed of a room, subscribed: what is published from now on
// reaches it. The caller must close it when it needs it no more; members do so
// when they go. It fails when ctx ends first.
func (h *hub) open(ctx context.Context, room roomstore.RoomID) (*feed, error) {
	h.mu.Lock()
	if h.closed || h.ctx == nil {
		h.mu.Unlock()
		return nil, errStopping
	}
	f := h.feeds[room]
	first := f == nil
	if first {
		f = newFeed(h, room)
		h.feeds[room] = f
	}
	f.users++
	delete(h.idle, f)
	h.mu.Unlock()

	if first {
		err := h.bus.Subscribe(ctx, f.topic, f)
		if err != nil {
			// Those who wait with us try again with a feed of their own.
			h.mu.Lock()
			if h.feeds[room] == f {
				delete(h.feeds, room)
			}
			h.mu.Unlock()
			f.stop()
		}
		f.err = err
		close(f.live)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	select {
	case <-f.live:
	case <-ctx.Done():
		h.close(f)
		return nil, ctx.Err()
	}
	if f.err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return h.open(ctx, room)
	}
	return f, nil
}

// close says that one user of the feed needs it no more.
func (h *hub) close(f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.users--
	if f.users > 0 || h.feeds[f.room] != f {
		return
	}
	h.idle[f] = time.Now()
	if !f.used.Load() {
		h.idle[f] = time.Time{} // there may be no such room; it goes at the next tick
	}
}

// paths gives the paths by which the events of all feeds come.
func (h *hub) paths() map[int]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	paths := map[int]bool{}
	for room := range h.feeds {
		paths[h.store.Path(room)] = true
	}
	return paths
}

// suspect notes that a feed may have missed something. Its subscription is
// confirmed again.
func (h *hub) suspect(f *feed) {
	h.mu.Lock()
	h.doubts[f] = struct{}{}
	h.mu.Unlock()
	select {
	case h.doubt <- struct{}{}:
	default:
	}
}

// suspects says whether a feed is still to be compared.
func (h *hub) suspects(f *feed) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, yes := h.doubts[f]
	return yes
}

// comparing says whether feeds are still to be compared with the store, or to be
// given what that showed they lack.
func (h *hub) comparing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.doubts) > 0 || h.asking > 0 || len(h.behind) > 0
}

// lags notes that a comparison found a feed behind, or that it has caught up.
func (h *hub) lags(f *feed, yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if yes {
		h.behind[f] = struct{}{}
	} else {
		delete(h.behind, f)
	}
}

// compare asks the store where the rooms are whose feeds may have missed
// something, and fills what they missed. What the store does not answer for is
// asked again at the next tick; it may be the rooms of one path only.
func (h *hub) compare(ctx context.Context) {
	h.mu.Lock()
	byPath := map[int][]*feed{}
	for f := range h.doubts {
		p := h.store.Path(f.room)
		byPath[p] = append(byPath[p], f)
	}
	h.mu.Unlock()
	var asking sync.WaitGroup
	for _, feeds := range byPath {
		asking.Go(func() { h.compareOn(ctx, feeds) })
	}
	asking.Wait()
}

// compareOn is compare for feeds on one path.
func (h *hub) compareOn(ctx context.Context, feeds []*feed) {
	for batch := range slices.Chunk(feeds, compareBatch) {
		rooms := make([]roomstore.RoomID, len(batch))
		h.mu.Lock()
		for i, f := range batch {
			rooms[i] = f.room
			delete(h.doubts, f) // one that is suspected meanwhile is asked for again
		}
		h.asking += len(batch)
		h.mu.Unlock()
		call, cancel := context.WithTimeout(ctx, h.wait)
		at, err := h.store.Positions(call, rooms)
		cancel()
		if err == nil {
			for _, f := range batch {
				f.compare(at[f.room])
			}
		}
		h.mu.Lock()
		if err != nil {
			for _, f := range batch {
				h.doubts[f] = struct{}{}
			}
		}
		h.asking -= len(batch)
		h.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// compareBatch is how many rooms are compared at once.
const compareBatch = 500

// background runs do until it returns, under the hub's life.
func (h *hub) background(do func(ctx context.Context)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	ctx := h.ctx
	h.fills.Go(func() { do(ctx) })
}
