package pubsub

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// A Sharded is what a [Bus] is, on Redis Cluster: its topics are sharded channels,
// which only the master of their hash slot brings. The topics of one hash tag share
// a connection, so what is lost with a master, or while a slot moves, concerns those
// of its tags only.
//
// It is safe for concurrent use, and does nothing until [Sharded.Run] is called.
type Sharded struct {
	open func(tag string) *redis.Client
	cfg  Config

	mu      sync.Mutex
	tags    map[string]*Bus // guarded by mu; never taken from
	running *errgroup.Group // guarded by mu; nil before Run
	ctx     context.Context // guarded by mu; of Run
	stopped bool            // guarded by mu
}

// NewSharded returns a Sharded that receives the topics of a hash tag on a connection
// of the client that open gives for it. Whenever that dials, it has to be to the
// server that has the tag's slot now. open must not block. The clients are not closed.
func NewSharded(open func(tag string) *redis.Client, cfg Config) *Sharded {
	return &Sharded{open: open, cfg: cfg, tags: map[string]*Bus{}}
}

// Run is [Bus.Run].
func (s *Sharded) Run(ctx context.Context) error {
	var work errgroup.Group
	s.mu.Lock()
	s.ctx, s.running = ctx, &work
	for _, b := range s.tags {
		work.Go(func() error { return b.Run(ctx) })
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.stopped = true // so that Wait waits for all there will be
	s.mu.Unlock()
	return work.Wait()
}

// Subscribe is [Bus.Subscribe].
func (s *Sharded) Subscribe(ctx context.Context, name string, h Handler) error {
	b, err := s.bus(name)
	if err != nil {
		return err
	}
	return b.Subscribe(ctx, name, h)
}

// Unsubscribe is [Bus.Unsubscribe].
func (s *Sharded) Unsubscribe(name string) {
	if b := s.known(name); b != nil {
		b.Unsubscribe(name)
	}
}

// Reset is [Bus.Reset]. The topics of other hash tags are left alone.
func (s *Sharded) Reset(name string) {
	if b := s.known(name); b != nil {
		b.Reset(name)
	}
}

// Stats sums up what [Bus.Stats] gives for each hash tag.
func (s *Sharded) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all Stats
	for _, b := range s.tags {
		one := b.Stats()
		all.Topics += one.Topics
		all.Messages += one.Messages
		all.Gaps += one.Gaps
		all.Reconnects += one.Reconnects
	}
	return all
}

func (s *Sharded) known(name string) *Bus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tags[hashTag(name)]
}

// bus gives the Bus of a topic's hash tag, which is made when it is first asked for.
func (s *Sharded) bus(name string) (*Bus, error) {
	tag := hashTag(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, fmt.Errorf("subscribe to %q: %w", name, ErrStopped)
	}
	b := s.tags[tag]
	if b == nil {
		cfg := s.cfg
		if cfg.Log != nil {
			cfg.Log = cfg.Log.With("tag", tag)
		}
		b = New(s.open(tag), cfg)
		b.sharded = true
		s.tags[tag] = b
		if ctx := s.ctx; ctx != nil {
			s.running.Go(func() error { return b.Run(ctx) })
		}
	}
	return b, nil
}

// hashTag gives what of a channel decides which hash slot it is in: what is between
// the first { and the first } behind it, or all of it if that is nothing.
func hashTag(name string) string {
	if _, rest, ok := strings.Cut(name, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			return tag
		}
	}
	return name
}
