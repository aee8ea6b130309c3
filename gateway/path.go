package gateway

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomgate/roomgate/roomstore"
)

const (
	probeEvery   = 2 * time.Second
	probesMissed = 3 // until the subscription is taken for deaf
)

// path is a way by which events come, with this node's own subscription on it: on
// one Redis there is one, and where hash slots lie apart one for each partition
// that has rooms here. The node sends itself a message along it, the probe, since a
// connection that is open may bring nothing. Orders to the node come on path 0.
type path struct {
	n      *incarnation
	number int
	topic  string

	heard atomic.Int64 // when a probe last came back, in ns of the process's clock
	asked atomic.Int64 // when the last probe that Redis took was sent; 0 if it did not take the last one

	remade time.Time // the subscription, because it was deaf; owned by run
}

// Deliver implements [pubsub.Handler]: a probe, or an order.
func (p *path) Deliver(payload string) {
	g := p.n.g
	o, err := roomstore.DecodeOrder(payload)
	if err != nil {
		g.log.Error("order not understood", "err", err)
		return
	}
	if o.Probe != "" {
		p.heard.Store(int64(g.since()))
		g.stats.Probes.Add(1)
		return
	}
	p.n.order(o)
}

// Gap implements [pubsub.Handler]: orders may have been lost.
func (p *path) Gap() {
	if p.number == 0 {
		p.n.gap.Store(true)
	}
}

// run probes the path until ctx is done. It subscribes first, unless that is done.
func (p *path) run(ctx context.Context, subscribed bool) {
	g := p.n.g
	tick := time.NewTicker(nodeTick)
	defer tick.Stop()
	defer g.bus.Unsubscribe(p.topic)
	var probed time.Time
	for {
		if !subscribed {
			call, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
			subscribed = g.bus.Subscribe(call, p.topic, p) == nil
			cancel()
		}
		p.listen()
		if time.Since(probed) >= probeEvery {
			probed = time.Now()
			p.probe(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// probe sends the node a message along the path.
func (p *path) probe(ctx context.Context) {
	g := p.n.g
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
	defer cancel()
	sent := g.since()
	if g.store.Probe(ctx, p.n.id, p.number, strconv.FormatInt(int64(sent), 10)) != nil {
		sent = 0
	}
	p.asked.Store(int64(sent))
}

// quiet is for how long no probe has come back, and whether that is too long.
func (p *path) quiet() (time.Duration, bool) {
	d := p.n.g.since() - time.Duration(p.heard.Load())
	return d, d > probesMissed*probeEvery
}

// deaf says whether no probe comes back that Redis takes. If it takes none it is
// away, which is another matter, and the subscription may be as good as it was.
func (p *path) deaf() bool {
	asked := p.asked.Load()
	_, long := p.quiet()
	return long && asked > p.heard.Load()
}

// listen makes the subscription anew if it is deaf, and the last probe has had time
// to come back, too.
func (p *path) listen() {
	g := p.n.g
	if p.deaf() && g.since()-time.Duration(p.asked.Load()) >= probeEvery && time.Since(p.remade) > probesMissed*probeEvery {
		g.log.Warn("subscription is deaf, making it anew", "node", p.n.id, "topic", p.topic)
		p.remade = time.Now()
		g.bus.Reset(p.topic)
	}
}

// paths are those of an incarnation that are in use.
type paths struct {
	n       *incarnation
	running sync.WaitGroup

	mu   sync.Mutex
	all  map[int]*path
	stop map[int]context.CancelFunc
}

// begin subscribes to path 0.
func (ps *paths) begin(ctx context.Context) error {
	g := ps.n.g
	p := ps.path(0)
	call, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
	defer cancel()
	if err := g.bus.Subscribe(call, p.topic, p); err != nil {
		return err
	}
	ps.start(ctx, p, true)
	return nil
}

func (ps *paths) path(number int) *path {
	g := ps.n.g
	p := &path{n: ps.n, number: number, topic: g.store.NodeTopic(ps.n.id, number)}
	p.heard.Store(int64(g.since()))
	return p
}

func (ps *paths) start(ctx context.Context, p *path, subscribed bool) {
	ctx, cancel := context.WithCancel(ctx)
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.all[p.number], ps.stop[p.number] = p, cancel
	ps.running.Go(func() { p.run(ctx, subscribed) })
}

// follow probes the paths by which the events of rooms here come, and no others but 0.
func (ps *paths) follow(ctx context.Context) {
	wanted := ps.n.g.hub.paths()
	wanted[0] = true
	ps.mu.Lock()
	for number := range ps.all {
		if !wanted[number] {
			ps.stop[number]()
			delete(ps.all, number)
			delete(ps.stop, number)
		}
		delete(wanted, number)
	}
	ps.mu.Unlock()
	for number := range wanted {
		ps.start(ctx, ps.path(number), false)
	}
}

// end ends all of them.
func (ps *paths) end() {
	ps.mu.Lock()
	for _, stop := range ps.stop {
		stop()
	}
	ps.mu.Unlock()
	ps.running.Wait()
}

// unheard says why events may not arrive, "" if they do. A path whose partition is
// away is so for every gateway, and none is to be preferred to this one for it, as long
// as other paths bring something.
func (ps *paths) unheard() string {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var deaf []int
	silent, longest := 0, time.Duration(0)
	for number, p := range ps.all {
		d, long := p.quiet()
		if !long {
			continue
		}
		silent++
		longest = max(longest, d)
		if p.deaf() {
			deaf = append(deaf, number)
		}
	}
	switch {
	case len(ps.all) > 1 && len(deaf) > 0:
		slices.Sort(deaf)
		var which string
		for i, number := range deaf {
			if i > 0 {
				which += ", "
			}
			which += strconv.Itoa(number)
		}
		return "delivery: no probe has come back through Redis pub/sub for " + longest.Round(time.Second).String() + ", from partition " + which
	case silent > 0 && silent == len(ps.all):
		return "delivery: no probe has come back through Redis pub/sub for " + longest.Round(time.Second).String()
	}
	return ""
}
