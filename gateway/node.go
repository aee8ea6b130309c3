package gateway

import (
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

const (
	// nodeTick is how often a node looks whether something is due. One that
	// comes much later shows that the process, or the machine, stood still.
	nodeTick   = 500 * time.Millisecond
	standstill = 2 * time.Second

	compareEvery = 30 * time.Second
	compareAgain = time.Second // after a failure, what failed
	// The goodbyes of a node that was given up are spread over a time, but not so long that a
	// session is over before its client hears of it: it ends one TTL after the lease.
	spreadOver = 5 * time.Second
	spreadPart = 7 // of a session's TTL at most
)

// A pace is how often a node does what is to be done all the time.
type pace struct {
	// renew is how often the lease is renewed: with every tick, or every other, also
	// one that comes a little early. It is often, since the answer says how long ago the
	// last sweep was.
	renew time.Duration

	// sweep is the longest pause between two sweeps by the node that is to do it.
	// After silence any node does. So nobody is kept for much longer than 2 s past a
	// deadline, even if that node is gone.
	sweep, silence time.Duration
}

var (
	onePace = pace{renew: nodeTick * 4 / 5, sweep: 2 * nodeTick * 4 / 5, silence: 3 * nodeTick}
	// slotsPace is for hash slots that lie apart, each of which is to be asked.
	slotsPace = pace{renew: 2 * nodeTick * 9 / 10, sweep: 4 * nodeTick * 9 / 10, silence: 6 * nodeTick}
)

// incarnation is this node under one lease. When the others have given it up,
// it closes all sockets and begins again under another name.
type incarnation struct {
	g    *Gateway
	id   string
	pace pace

	paths *paths
	gap   atomic.Bool // orders may have been lost
	last  atomic.Pointer[roomstore.Lease]

	// Owned by run.
	renewed time.Time
	since   time.Time // when the lease was begun, on Redis's clock
	counted tally     // a while ago
	rates   struct{ accepted, messages, deliveries float64 }

	// Owned by chores.
	swept      time.Time
	sweepAt    time.Time
	audited    time.Time
	suspicious map[string]suspicion
	looked     time.Time // at leases, last

	// Owned by compares.
	compared time.Time
	unsure   []roomstore.Session // those that could not be compared
	asked    time.Time           // about them, last
}

// tally is what has been counted by a time, for what is told of a second.
type tally struct {
	at                             time.Time
	accepted, messages, deliveries uint64
}

// tallyEvery is over how long it is counted: one message in the time between two
// renewals would look like several a second.
const tallyEvery = 2 * time.Second

// suspicion is a lapsed lease, and for how long it has been seen unchanged while
// Redis answered: its node could have renewed it.
type suspicion struct {
	end  int64
	seen time.Duration
}

// node gives the name of the current incarnation, "" between two.
func (g *Gateway) node() string {
	if now := g.current.Load(); now != nil {
		return now.id
	}
	return ""
}

// runNode keeps the node's lease and does the node's share of what time
// demands, until ctx is done. Then it ends its lease.
func (g *Gateway) runNode(ctx context.Context) error {
	for ctx.Err() == nil {
		n := &incarnation{g: g, id: roomstore.NewNodeID(), pace: onePace, suspicious: map[string]suspicion{}}
		if g.store.Apart() {
			n.pace = slotsPace
			n.pace.sweep = min(n.pace.sweep, g.cfg.LeaseTTL/4)
		}
		n.paths = &paths{n: n, all: map[int]*path{}, stop: map[int]context.CancelFunc{}}
		err := n.run(ctx)
		switch {
		case err == nil:
		case errors.Is(err, roomstore.ErrFenced):
			g.log.Warn("given up by the other nodes, beginning anew", "node", n.id)
			g.dismiss(ctx)
		default:
			g.log.Warn("lease not begun, trying again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

// dismiss closes every socket, spread out: their sessions are to be resumed.
func (g *Gateway) dismiss(ctx context.Context) {
	g.current.Store(nil)
	open := g.connections()
	spread := min(spreadOver, g.cfg.SessionTTL/spreadPart)
	for i, c := range open {
		time.AfterFunc(spread*time.Duration(i)/time.Duration(len(open)), func() {
			c.close(protocol.CloseServiceRestart, closeReason(g.cfg.ReconnectAfter))
		})
	}
}

// run is one incarnation. It returns nil when ctx is done.
func (n *incarnation) run(ctx context.Context) error {
	g := n.g
	defer n.paths.end()
	if err := n.paths.begin(ctx); err != nil {
		return err
	}
	if err := n.lease(ctx, true); err != nil {
		return err
	}
	g.stats.Incarnations.Add(1)
	n.compared = time.Now()
	g.current.Store(n)
	g.log.Info("lease begun", "node", n.id)

	// Goroutines of their own: a call to a slow Redis is no standstill, and what is in
	// the slots of a master that is away does not keep the lease from being renewed.
	stood, fenced := make(chan struct{}, 1), make(chan error, 1)
	beside, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { watchStandstill(beside, stood) })
	work.Go(func() { fenced <- n.chores(beside) })
	work.Go(func() { n.compares(beside) })
	defer work.Wait()
	defer stop()

	tick := time.NewTicker(nodeTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			stop()
			work.Wait()
			n.release()
			return nil
		case err := <-fenced:
			if err != nil {
				return err
			}
			continue
		case <-stood:
			g.log.Warn("stood still, renewing the lease first", "node", n.id)
			n.renewed = time.Time{}
		case <-tick.C:
		}
		if time.Since(n.renewed) >= min(n.pace.renew, g.cfg.LeaseTTL/4) {
			if err := n.lease(ctx, false); errors.Is(err, roomstore.ErrFenced) {
				return err
			}
		}
		n.paths.follow(ctx)
		g.forgetOrders()
	}
}

// watchStandstill says so when ticks come much too late.
func watchStandstill(ctx context.Context, stood chan<- struct{}) {
	tick := time.NewTicker(nodeTick)
	defer tick.Stop()
	// The wall clock, too: some systems stop the monotonic one in a suspend.
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if now.Sub(last) > nodeTick+standstill {
			select {
			case stood <- struct{}{}:
			default:
			}
		}
		last = now
	}
}

// chores does the node's share of what time demands, until ctx is done. It returns
// an error only if the node is fenced.
func (n *incarnation) chores(ctx context.Context) error {
	tick := time.NewTicker(nodeTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := n.due(ctx); errors.Is(err, roomstore.ErrFenced) {
			return err
		}
	}
}

// due does what is due now. It returns an error only if the node is fenced.
func (n *incarnation) due(ctx context.Context) error {
	now, last := time.Now(), n.last.Load()
	// Who has seen a lease lapse goes on looking until that is settled.
	if (n.elected(last.Alive) || last.SinceSweep > n.pace.silence || len(n.suspicious) > 0) && !now.Before(n.sweepAt) {
		if err := n.sweep(ctx); errors.Is(err, roomstore.ErrFenced) {
			return err
		}
	}
	if now.Sub(n.audited) >= compareEvery {
		n.audit(ctx)
	}
	return nil
}

// audit learns what the last audit of the deployment has found, for metrics.
func (n *incarnation) audit(ctx context.Context) {
	n.audited = time.Now()
	ctx, cancel := context.WithTimeout(ctx, n.g.cfg.RedisTimeout)
	defer cancel()
	last, err := n.g.store.Audited(ctx)
	if err != nil || last.At.IsZero() {
		return
	}
	n.g.stats.AuditFound.Store(int64(last.Found))
	n.g.stats.AuditedAt.Store(last.At.Unix())
}

// lease begins or renews the lease. A Redis that does not answer costs nobody
// the lease, since awake time stands still meanwhile.
func (n *incarnation) lease(ctx context.Context, begin bool) error {
	ctx, cancel := context.WithTimeout(ctx, n.g.cfg.RedisTimeout)
	defer cancel()
	l, err := n.g.store.Lease(ctx, n.id, begin, n.about())
	if err != nil {
		return err
	}
	if begin {
		n.since = l.Now
	}
	n.renewed = time.Now()
	n.last.Store(&l)
	return nil
}

// about is what the others are told of this node.
func (n *incarnation) about() *roomstore.About {
	g := n.g
	s := &g.stats
	now := tally{time.Now(), s.Accepted.Load(), s.Messages.Load(), s.Deliveries.Load()}
	if before, passed := n.counted, now.at.Sub(n.counted.at); passed >= tallyEvery {
		if !before.at.IsZero() {
			n.rates.accepted = float64(now.accepted-before.accepted) / passed.Seconds()
			n.rates.messages = float64(now.messages-before.messages) / passed.Seconds()
			n.rates.deliveries = float64(now.deliveries-before.deliveries) / passed.Seconds()
		}
		n.counted = now
	}
	g.mu.Lock()
	connections, sessions := len(g.open), len(g.sessions)
	g.mu.Unlock()
	return &roomstore.About{
		Name: g.cfg.Node, Version: g.cfg.Version, Since: n.since, Draining: g.draining.Load(),
		Connections: connections, Sessions: sessions, Rooms: int(s.Occupied.Load()),
		Accepted: n.rates.accepted, Messages: n.rates.messages, Deliveries: n.rates.deliveries,
	}
}

// release ends the lease when all sessions have been handed over.
func (n *incarnation) release() {
	n.g.current.Store(nil)
	ctx, cancel := context.WithTimeout(context.Background(), n.g.cfg.RedisTimeout)
	defer cancel()
	if err := n.g.store.Release(ctx, n.id); err != nil {
		n.g.log.Warn("lease left to end by itself", "node", n.id, "err", err)
	}
}

// elected says whether this node is the one that sweeps: of all nodes alive
// the one whose hash is highest (rendezvous hashing).
func (n *incarnation) elected(alive []string) bool {
	score := func(node string) uint64 {
		h := fnv.New64a()
		h.Write([]byte("sweep\x00" + node))
		return h.Sum64()
	}
	mine := score(n.id)
	for _, other := range alive {
		if s := score(other); s > mine || s == mine && other > n.id {
			return false
		}
	}
	return true
}

// sweep sweeps until nothing is due, and claims nodes whose lease has been
// lapsed for a lease TTL of our own clock.
func (n *incarnation) sweep(ctx context.Context) error {
	g, began := n.g, time.Now()
	for ctx.Err() == nil {
		var claims []roomstore.Lapse
		for node, s := range n.suspicious {
			if s.seen >= g.cfg.LeaseTTL {
				claims = append(claims, roomstore.Lapse{Node: node, End: s.end})
			}
		}
		call, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
		if g.store.Apart() { // each of its steps has a time of its own
			cancel()
			call, cancel = context.WithCancel(ctx)
		}
		done, err := g.store.Sweep(call, n.id, claims)
		cancel()
		n.swept = time.Now()
		n.sweepAt = n.swept.Add(n.pace.sweep)
		switch {
		case errors.Is(err, roomstore.ErrPaused):
			n.sweepAt = n.swept // what is due has waited while nobody could see to it
			return err
		case errors.Is(err, roomstore.ErrFenced):
			return err
		case err != nil:
			g.log.Debug("sweep failed", "err", err)
		}
		g.stats.Evicted.Add(uint64(done.Evicted))
		g.stats.Finished.Add(uint64(done.Finished))
		g.stats.Claimed.Add(uint64(done.Claimed))
		if done.Looked {
			n.suspect(done.Lapsed)
			n.looked = time.Now()
		}
		if err != nil && !done.Looked {
			return err
		}
		if done.More && time.Since(began) < n.pace.sweep {
			continue
		}
		if done.More { // the lease comes in between
			n.sweepAt = n.swept
			return nil
		}
		if done.Next >= 0 && done.Next < n.pace.sweep {
			n.sweepAt = n.swept.Add(done.Next)
		}
		return nil
	}
	return nil
}

// suspect remembers for how long each lapsed lease has been seen as it is.
func (n *incarnation) suspect(lapsed []roomstore.Lapse) {
	// Of a longer pause between two looks nobody knows whether Redis answered.
	step := min(time.Since(n.looked), n.g.cfg.LeaseTTL/2, standstill)
	next := make(map[string]suspicion, len(lapsed))
	for _, l := range lapsed {
		s, known := n.suspicious[l.Node]
		if !known || s.end != l.End {
			s = suspicion{end: l.End}
			n.g.log.Info("lease of another node lapsed", "node", l.Node)
		} else {
			s.seen += step
		}
		next[l.Node] = s
	}
	n.suspicious = next
}

// order closes the socket of a session that is not this node's any more.
func (n *incarnation) order(o roomstore.Order) {
	n.g.mu.Lock()
	s := n.g.sessions[o.Session]
	if here := s != nil && s.who.Generation >= o.Generation; !here && n.g.early[o.Session].Generation < o.Generation {
		n.g.early[o.Session] = earlyOrder{o, time.Now()}
	}
	n.g.returned(o.Session, o.Generation)
	n.g.mu.Unlock()
	if s != nil && s.who.Generation < o.Generation {
		s.replaced(protocol.CloseCode(o.Code))
	}
}

// earlyOrder is an order about a session that was not here, or only as it was
// before, when the order came. It may have overtaken the answer to the login or
// resume that brings the session.
type earlyOrder struct {
	roomstore.Order
	at time.Time
}

// orderFor gives the order that came early for a session, if one did.
func (g *Gateway) orderFor(s *session) (o roomstore.Order, is bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	o = g.early[s.who.ID].Order
	return o, s.who.Generation < o.Generation
}

// forgetOrders drops early orders for which no answer can be on its way any
// more.
func (g *Gateway) forgetOrders() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, o := range g.early {
		if time.Since(o.at) > 2*g.cfg.RedisTimeout {
			delete(g.early, id)
		}
	}
}

// replaced closes the socket of a session that is over here.
func (s *session) replaced(code protocol.CloseCode) {
	s.sendOff.Do(func() {
		reason := "the session goes on over another connection"
		if code == protocol.CloseKickedByLogin {
			reason = "the user has logged in on more devices than are allowed"
			// Where slots lie apart, or events were lost, this may come before those of its rooms.
			for _, f := range s.feeds() {
				if f.detach(s) {
					s.forget(f.room)
					s.c.sock.ReleaseRoom(string(f.room))
					_ = s.c.sock.Queue(roomOver(f.room, protocol.RoomKickedOut, ""), classKept)
				}
			}
			// If there is no room for these, the code of the close says the same.
			_ = s.c.sock.QueueLast(notification(protocol.EventConnectionStateChanged, protocol.ConnectionStateChanged{
				State: protocol.ConnectionDisconnected, Event: protocol.ConnectionKickedOut,
			}))
		}
		s.c.close(code, reason)
	})
}

// lost closes the socket of a session that is not this node's any more.
func (s *session) lost(why roomstore.Loss) {
	switch why {
	case roomstore.LossMoved, roomstore.LossReplaced:
		s.replaced(protocol.CloseTakenOver)
	case roomstore.LossKicked:
		s.replaced(protocol.CloseKickedByLogin)
	default:
		s.c.fenced()
	}
}

// fenced ends the connection of a session that the store has fenced. Whoever
// must not come back is told so: the order to close may be late, or lost.
func (s *session) fenced() {
	ctx, cancel := context.WithTimeout(s.c.g.backing(), s.c.g.cfg.RedisTimeout)
	defer cancel()
	lost, err := s.c.g.store.Lost(ctx, s.who.Node, []roomstore.Session{s.who})
	if err != nil {
		s.c.fenced()
		return
	}
	s.lost(lost[s.who.ID])
}

// strange closes the connection if a refusal says that its session is not this node's any
// more: what became of a request that failed the client is told when it comes back. It is
// always false.
func (s *session) strange(err error) bool {
	if errors.Is(err, roomstore.ErrFenced) {
		s.fenced()
	}
	return false
}

// verify closes the connection if its session is not this node's any more.
func (s *session) verify() {
	ctx, cancel := context.WithTimeout(s.c.g.backing(), s.c.g.cfg.RedisTimeout)
	defer cancel()
	lost, err := s.c.g.store.Lost(ctx, s.who.Node, []roomstore.Session{s.who})
	if why, is := lost[s.who.ID]; err == nil && is {
		s.lost(why)
	}
}

// compares looks from time to time whether the sessions here are still this node's, in
// case an order was lost, until ctx is done. It is beside the chores: a slot that is away
// keeps it waiting.
func (n *incarnation) compares(ctx context.Context) {
	tick := time.NewTicker(nodeTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch {
		case time.Since(n.compared) >= compareEvery || n.gap.Swap(false):
			n.compared = time.Now()
			n.unsure = n.compare(ctx, n.g.sessionsHere())
		case len(n.unsure) > 0 && time.Since(n.asked) >= compareAgain:
			n.unsure = n.compare(ctx, n.unsure)
		default:
			continue
		}
		n.asked = time.Now()
	}
}

func (g *Gateway) sessionsHere() []roomstore.Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	sessions := make([]roomstore.Session, 0, len(g.sessions))
	for _, s := range g.sessions {
		sessions = append(sessions, s.who)
	}
	return sessions
}

// compare looks whether sessions are still this node's, and gives those of which the
// store did not say. That takes no longer than one call that is not answered: slots that
// lie apart are asked at once, and one Redis no more after a failure.
func (n *incarnation) compare(ctx context.Context, sessions []roomstore.Session) (unsure []roomstore.Session) {
	groups := n.g.store.Groups(sessions)
	apart := [][][]roomstore.Session{groups}
	if n.g.store.Apart() {
		apart = apart[:0]
		for group := range slices.Chunk(groups, 1) {
			apart = append(apart, group)
		}
	}
	var mu sync.Mutex
	var work sync.WaitGroup
	for _, groups := range apart {
		work.Go(func() {
			for i, group := range groups {
				if n.compareGroup(ctx, group) == nil {
					continue
				}
				mu.Lock()
				unsure = append(unsure, slices.Concat(groups[i:]...)...)
				mu.Unlock()
				return
			}
		})
	}
	work.Wait()
	return unsure
}

// compareGroup is compare for sessions that can be asked about in one call.
func (n *incarnation) compareGroup(ctx context.Context, group []roomstore.Session) error {
	g := n.g
	call, cancel := context.WithTimeout(ctx, g.cfg.RedisTimeout)
	lost, err := g.store.Lost(call, n.id, group)
	cancel()
	if err != nil {
		return err
	}
	for _, who := range group {
		why, is := lost[who.ID]
		if !is {
			continue
		}
		g.mu.Lock()
		s := g.sessions[who.ID]
		g.mu.Unlock()
		switch {
		case s == nil || s.who.Generation != who.Generation: // it has gone on meanwhile
		case why == roomstore.LossOver && s.ending.Load(): // as it asked for
		default:
			s.lost(why)
		}
	}
	return nil
}

// NotReady gives the reasons why no new client should be sent here; none: it
// is ready.
func (g *Gateway) NotReady() (reasons []string) {
	if g.draining.Load() {
		reasons = append(reasons, "draining: clients are being moved to other gateways")
	}
	n := g.current.Load()
	if n == nil {
		return append(reasons, "no node lease: Redis has not answered yet, or the node was given up and begins anew")
	}
	if why := n.paths.unheard(); why != "" {
		reasons = append(reasons, why)
	}
	if g.healing.Load() {
		reasons = append(reasons, "putting back: Redis was started anew or lost data, and gateways give it what they know")
	}
	if g.hub.comparing() {
		reasons = append(reasons, "catching up: rooms are compared with Redis after a lost subscription")
	}
	return reasons
}
