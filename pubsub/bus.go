// Package pubsub brings messages from Redis to this process: topics and bytes,
// and a sign when some may have been lost. It knows the connection to Redis and
// nothing of what the messages are about.
package pubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

var (
	// ErrTaken means that the topic has a handler already.
	ErrTaken = errors.New("topic has a handler already")

	// ErrUnsubscribed means that the topic was unsubscribed while its
	// subscription was still to be confirmed.
	ErrUnsubscribed = errors.New("unsubscribed")

	// ErrStopped means that [Bus.Run] has returned.
	ErrStopped = errors.New("bus has stopped")
)

// A Handler receives one topic. Its methods are called one at a time, in the
// order of the connection, by the goroutine that receives for the whole Bus: so
// they must not block, nor wait for [Bus.Subscribe]. They may call
// [Bus.Unsubscribe] and [Bus.Reset].
type Handler interface {
	// Deliver is called with each message, in the order in which they were
	// published.
	Deliver(payload string)

	// Gap is called when messages may have been lost, once the subscription is
	// confirmed again: what is read from Redis from now on, together with what
	// is delivered from now on, is complete.
	Gap()
}

// Config is what a Bus can be told. Its zero value is usable.
type Config struct {
	// Log hears of lost and restored connections. None: nobody does.
	Log *slog.Logger

	// MinBackoff and MaxBackoff bound the wait between two attempts to
	// connect; it doubles from one to the other. Zero: 20 ms and 1 s.
	MinBackoff, MaxBackoff time.Duration
}

// Stats counts what a Bus has done since it was made.
type Stats struct {
	Topics     int    // that have a handler now
	Messages   uint64 // delivered
	Gaps       uint64 // told to handlers
	Reconnects uint64 // connections restored after a loss or a Reset
}

// A Bus shares one connection to Redis among all the topics of a process; on Redis
// Cluster, as part of a [Sharded], among those of one hash tag. It is
// safe for concurrent use, and does nothing until [Bus.Run] is called.
//
// Two goroutines use the connection. One receives; it calls the handlers. The
// other tells Redis what to send, gathering what has changed meanwhile. Callers
// use neither, since go-redis holds a lock while it dials, through which no
// context reaches.
//
// What Redis has been told is confirmed by a PING behind it on the same
// connection. When its answer n comes, everything told before PING n is in
// effect, however many confirmations of the same topic there have been or are
// still to come: some may belong to an earlier, abandoned subscription. A PING
// whose answer is lost with its connection is repeated on the next one, where
// go-redis has subscribed again before anything else is sent.
type Bus struct {
	// Set before anything runs.
	rdb     *redis.Client
	log     *slog.Logger
	cfg     Config
	wake    chan struct{} // tells the commanding goroutine to look; holds one
	sharded bool          // topics are sharded channels of one hash slot

	messages, gaps, reconnects atomic.Uint64

	mu      sync.Mutex
	stopped bool
	topics  map[string]*topic          // wanted, or still to be unsubscribed
	wanted  int                        // how many of them are wanted
	changed map[string]*topic          // those that the next orders are about
	waiting map[*subscription]struct{} // not yet confirmed
	barrier uint64                     // number of the last PING
	ps      *redis.PubSub              // the connection, and those it replaces
	stale   []*redis.PubSub            // replaced by Reset, to be closed
	fresh   bool                       // ps has not been told any topic yet
	unsure  bool                       // the last PING may have been lost
	down    time.Time                  // since when the connection is; zero: it is not
	leaving map[string]int             // sharded: how often each topic was unsubscribed on ps without confirmation yet
}

// topic is what Redis is told about a topic. All of it is guarded by Bus.mu.
type topic struct {
	sub  *subscription // who wants it; nil: nobody
	told bool          // Redis, or go-redis for its next connection, may have been told to send it
}

// subscription is one call of Subscribe.
type subscription struct {
	h       Handler
	settled chan struct{} // closed when it is live or has failed

	// Guarded by Bus.mu.
	barrier uint64 // the PING that confirms it; 0: Redis has not been told yet
	live    bool
	err     error // why it failed
}

// New returns a Bus that receives on a connection of its own, made with the
// options of rdb. It does not close rdb.
func New(rdb *redis.Client, cfg Config) *Bus {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MinBackoff <= 0 {
		cfg.MinBackoff = 20 * time.Millisecond
	}
	if cfg.MaxBackoff < cfg.MinBackoff {
		cfg.MaxBackoff = max(time.Second, cfg.MinBackoff)
	}
	return &Bus{
		rdb:     rdb,
		log:     cfg.Log,
		cfg:     cfg,
		wake:    make(chan struct{}, 1),
		topics:  make(map[string]*topic),
		changed: make(map[string]*topic),
		waiting: make(map[*subscription]struct{}),
		leaving: make(map[string]int),
		// Connects when it is first used.
		ps: rdb.Subscribe(context.Background()),
	}
}

// Run receives messages and calls handlers until ctx is done, then closes the
// connection and returns nil. A lost connection is made anew for as long as it
// takes. Run must be called once.
//
// While a connection is being made go-redis does not hear ctx except for
// dialing, so Run may return as late as the client's ReadTimeout after ctx.
func (b *Bus) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { b.receive(ctx); return nil })
	g.Go(func() error { b.command(ctx); return nil })
	g.Go(func() error {
		<-ctx.Done()
		// A read from Redis does not end when its context does, only when the
		// connection is closed.
		b.stop()
		return nil
	})
	return g.Wait()
}

// Subscribe gives a topic to a handler and returns nil once Redis has confirmed
// it: what is published from then on is delivered, and so is not missed by who
// reads what the topic is about after Subscribe. Messages may be delivered
// before it returns.
//
// If it fails nothing stays subscribed and h gets no call that starts later.
// While Redis cannot be reached it waits, and fails when ctx ends, with the
// cause of that. It fails with [ErrTaken] if the topic has a handler, with
// [ErrUnsubscribed] if it is unsubscribed before it is confirmed, and with
// [ErrStopped].
func (b *Bus) Subscribe(ctx context.Context, name string, h Handler) error {
	s := &subscription{h: h, settled: make(chan struct{})}
	if err := b.add(name, s); err != nil {
		return err
	}
	select {
	case <-s.settled:
	case <-ctx.Done():
		b.abandon(name, s, context.Cause(ctx))
	}
	return s.err // no longer changes once settled
}

// Unsubscribe takes a topic from its handler. It does not wait, neither for
// Redis nor for the handler: one call that the Bus had begun may still be
// under way, or about to reach the handler, when Unsubscribe returns. There is
// none after that one. It does nothing if the topic has no handler.
//
// The topic may be subscribed again at once; the new handler gets nothing that
// was meant for the old.
func (b *Bus) Unsubscribe(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[name]
	if t == nil || t.sub == nil {
		return
	}
	if !t.sub.live {
		b.settle(t.sub, fmt.Errorf("subscribe to %q: %w", name, ErrUnsubscribed))
	}
	b.remove(name)
}

// Reset drops the connection that brings a topic and makes a new one, on which
// every topic of it is subscribed again and gets a Gap. It is for a connection
// that is open and brings nothing, which go-redis does not notice. It does not
// wait.
func (b *Bus) Reset(string) { b.reset() }

func (b *Bus) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return
	}
	b.stale = append(b.stale, b.ps)
	b.ps = b.rdb.Subscribe(context.Background())
	b.fresh = true
	b.lose()
}

// Stats returns what the Bus has done so far.
func (b *Bus) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Stats{
		Topics:     b.wanted,
		Messages:   b.messages.Load(),
		Gaps:       b.gaps.Load(),
		Reconnects: b.reconnects.Load(),
	}
}

// add notes that a topic is wanted by s.
func (b *Bus) add(name string, s *subscription) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return fmt.Errorf("subscribe to %q: %w", name, ErrStopped)
	}
	t := b.topics[name]
	if t == nil {
		t = &topic{}
		b.topics[name] = t
	}
	if t.sub != nil {
		return fmt.Errorf("subscribe to %q: %w", name, ErrTaken)
	}
	t.sub = s
	b.wanted++
	b.changed[name] = t
	b.waiting[s] = struct{}{}
	b.rouse()
	return nil
}

// abandon takes a topic from a subscription that is still waiting.
func (b *Bus) abandon(name string, s *subscription, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.waiting[s]; ok { // else it has been settled just before
		b.settle(s, fmt.Errorf("subscribe to %q: %w", name, err))
		b.remove(name)
	}
}

// remove notes that nobody wants a topic any more. b.mu is held.
func (b *Bus) remove(name string) {
	t := b.topics[name]
	t.sub.live = false
	t.sub = nil
	b.wanted--
	if t.told {
		b.changed[name] = t
		b.rouse()
	} else {
		delete(b.topics, name)
		delete(b.changed, name)
	}
}

// settle ends the wait of a subscription. b.mu is held.
func (b *Bus) settle(s *subscription, err error) {
	delete(b.waiting, s)
	s.live, s.err = err == nil, err
	close(s.settled)
}

// rouse makes the commanding goroutine look at what there is to tell.
func (b *Bus) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// lose notes that the connection was lost, and with it perhaps the answer to
// the last PING. b.mu is held.
func (b *Bus) lose() {
	if b.down.IsZero() {
		b.down = time.Now()
	}
	b.unsure = true
	b.rouse()
}

// stop ends everything that waits for the Bus.
func (b *Bus) stop() {
	b.mu.Lock()
	b.stopped = true
	for s := range b.waiting {
		b.settle(s, ErrStopped)
	}
	clear(b.topics)
	clear(b.changed)
	b.wanted = 0
	open := append(b.stale, b.ps)
	b.mu.Unlock()

	for _, ps := range open {
		ps.Close() // waits for who is dialing; twice does no harm
	}
}

// receive hands out what comes in. It ends when ctx is done and the connection
// is closed.
func (b *Bus) receive(ctx context.Context) {
	wait := b.backoff()
	ps := b.current()
	for ctx.Err() == nil {
		msg, err := ps.Receive(ctx)
		switch msg := msg.(type) {
		case *redis.Message:
			if s := b.live(msg.Channel); s != nil {
				b.messages.Add(1)
				s.h.Deliver(msg.Payload)
			}
		case *redis.Subscription:
			// The confirmation of a topic that is live comes from a new
			// connection: on the old one there is none after its PING.
			switch msg.Kind {
			case "subscribe", "ssubscribe":
				if s := b.live(msg.Channel); s != nil {
					b.gaps.Add(1)
					s.h.Gap()
				}
			case "sunsubscribe":
				if b.dismissed(ps, msg.Channel) {
					b.lost(errMoved)
					b.reset()
				}
			}
		case *redis.Pong:
			if n, err := strconv.ParseUint(msg.Payload, 10, 64); err == nil {
				b.confirm(n)
				wait.reset()
			}
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if now := b.current(); now != ps {
			ps = now // by Reset
			continue
		}

		// go-redis has closed the connection and tried once to make another.
		// Not so if Redis has refused what it was told: the connection stands,
		// with a PING on its way that would confirm what was refused. And one that
		// is to be made anew may have to be to another server than go-redis thinks.
		b.lost(err)
		if refusal := redis.Error(nil); b.sharded || errors.As(err, &refusal) {
			b.reset()
		}
		wait.sleep(ctx)
		ps = b.current()
	}
}

// errMoved means that a server has ended subscriptions: it does not have the slot
// of the channels any more.
var errMoved = errors.New("the slot has moved to another server")

// dismissed notes that ps brings a sharded topic no longer, and says whether nobody
// asked for that.
func (b *Bus) dismissed(ps *redis.PubSub, name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ps != b.ps || b.fresh {
		return false
	}
	if b.leaving[name] > 1 {
		b.leaving[name]--
		return false
	}
	_, asked := b.leaving[name]
	delete(b.leaving, name)
	return !asked
}

// current returns the connection to be used.
func (b *Bus) current() *redis.PubSub {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ps
}

// replaced returns the connections that Reset has replaced.
func (b *Bus) replaced() []*redis.PubSub {
	b.mu.Lock()
	defer b.mu.Unlock()
	stale := b.stale
	b.stale = nil
	return stale
}

// live returns the confirmed subscription of a topic, or nil.
func (b *Bus) live(name string) *subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.topics[name]; t != nil && t.sub != nil && t.sub.live {
		return t.sub
	}
	return nil
}

// confirm notes the answer to PING n.
func (b *Bus) confirm(n uint64) {
	b.mu.Lock()
	for s := range b.waiting {
		if s.barrier != 0 && s.barrier <= n {
			b.settle(s, nil)
		}
	}
	var took time.Duration
	restored := n == b.barrier && !b.unsure && !b.down.IsZero()
	if restored {
		took = time.Since(b.down)
		b.down = time.Time{}
		b.reconnects.Add(1)
	}
	topics := b.wanted
	b.mu.Unlock()
	if restored {
		b.log.Info("subscribed again", "count", topics, "took", took)
	}
}

// lost notes that the connection was lost. Only the first time is worth a line.
func (b *Bus) lost(err error) {
	b.mu.Lock()
	first := b.down.IsZero()
	b.lose()
	b.mu.Unlock()
	if first {
		b.log.Warn("lost connection", "err", err)
	}
}

// orders is what Redis still has to be told.
type orders struct {
	sharded                bool
	unsubscribe, subscribe []string
	ping                   string
}

// command tells Redis which topics to send. It ends when ctx is done.
func (b *Bus) command(ctx context.Context) {
	wait := b.backoff()
	o := orders{sharded: b.sharded}
	for ctx.Err() == nil {
		for _, ps := range b.replaced() {
			ps.Close() // waits for who is dialing
		}
		ps, any := b.collect(&o)
		if !any {
			select {
			case <-b.wake:
			case <-ctx.Done():
			}
			continue
		}
		if err := o.tell(ctx, ps); err != nil {
			if ctx.Err() == nil && ps == b.current() {
				b.lost(err)
			}
			wait.sleep(ctx)
			continue
		}
		wait.reset()
	}
}

// collect adds what has changed to the orders, and reports the connection they
// are for and whether there are any. Orders that could not be told before are
// still in o.
func (b *Bus) collect(o *orders) (*redis.PubSub, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fresh {
		b.fresh = false
		o.subscribe, o.unsubscribe = nil, nil
		clear(b.leaving)
		for name, t := range b.topics {
			t.told = false
			b.changed[name] = t
		}
	}
	// What has been given up since it was to be subscribed is in changed too,
	// and unsubscribing it also makes go-redis forget it.
	o.subscribe = slices.DeleteFunc(o.subscribe, func(name string) bool {
		t := b.topics[name]
		return t == nil || t.sub == nil
	})
	if len(b.changed) == 0 && len(o.subscribe) == 0 && len(o.unsubscribe) == 0 && !b.unsure {
		return nil, false
	}
	b.barrier++
	o.ping = strconv.FormatUint(b.barrier, 10)
	b.unsure = false
	for name, t := range b.changed {
		switch {
		case t.sub == nil:
			if t.told {
				o.unsubscribe = append(o.unsubscribe, name)
				if b.sharded {
					b.leaving[name]++
				}
			}
			delete(b.topics, name)
			continue
		case !t.told:
			t.told = true
			o.subscribe = append(o.subscribe, name)
		}
		if t.sub.barrier == 0 {
			t.sub.barrier = b.barrier
		}
	}
	clear(b.changed)
	return b.ps, true
}

// tell sends the orders and empties them, or fails and keeps what may not have
// been sent. A topic that is in both is wanted again since it was given up, so
// that unsubscribing comes first.
//
// What go-redis fails to subscribe has to be repeated: it knows the topic from
// then on, but may have made its next connection just before that.
func (o *orders) tell(ctx context.Context, ps *redis.PubSub) error {
	subscribe, unsubscribe := ps.Subscribe, ps.Unsubscribe
	if o.sharded {
		subscribe, unsubscribe = ps.SSubscribe, ps.SUnsubscribe
	}
	if len(o.unsubscribe) > 0 { // none would mean all
		if err := unsubscribe(ctx, o.unsubscribe...); err != nil {
			return err
		}
		o.unsubscribe = o.unsubscribe[:0]
	}
	if len(o.subscribe) > 0 {
		if err := subscribe(ctx, o.subscribe...); err != nil {
			return err
		}
		o.subscribe = o.subscribe[:0]
	}
	return ps.Ping(ctx, o.ping)
}

// backoff returns the waits between attempts, the first of which is none.
func (b *Bus) backoff() *backoff { return &backoff{min: b.cfg.MinBackoff, max: b.cfg.MaxBackoff} }

type backoff struct{ min, max, next time.Duration }

func (w *backoff) reset() { w.next = 0 }

// sleep waits as long as it is time to, or until ctx is done. Gateways that
// lost the same Redis come back at different times.
func (w *backoff) sleep(ctx context.Context) {
	d := w.next
	w.next = min(max(2*d, w.min), w.max)
	if d == 0 {
		return
	}
	timer := time.NewTimer(d/2 + rand.N(d/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
