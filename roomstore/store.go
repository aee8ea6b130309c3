package roomstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/lua"
)

// Config says how rooms behave. All gateways of a deployment share it.
type Config struct {
	Prefix     string // of every key; "rg" if empty; must not contain "{"
	Partitions int    // 1 if 0

	SessionTTL time.Duration // how long an absent session keeps its places; 35 s if 0
	LeaseTTL   time.Duration // how long a silent node keeps its sessions; 10 s if 0

	LogSize  int           // events kept per room; 256 if 0
	LogBytes int           // bytes kept per room; 256 KiB if 0
	LogTTL   time.Duration // how long they are kept; 2 min if 0

	MaxRooms        int // that exist at once; 0 for any number
	MaxMembers      int // of a room; 500 if 0
	MaxRoomsPerUser int // one user is in at once; 5 if 0
	MaxDevices      int // one user is logged in on at once; 10 if 0

	DropEmptiedData bool // an emptied room loses its name and attributes at once

	// Apart has every call keep to the keys of one hash slot, as Redis Cluster
	// demands: docs/cluster.md. All gateways of a deployment agree on it.
	Apart bool

	// Sharded, with Apart, publishes to sharded channels, which on Redis Cluster come
	// from the master of their slot and from no other node.
	Sharded bool

	// Terms follows whether data was lost; one of the store's own if nil, which
	// then hears of it only by a lack of it.
	Terms *Terms

	// Observe, if set, hears of every call: outcome is "ok", a refusal's
	// status, or "error".
	Observe func(script, outcome string, took time.Duration)
}

const (
	// goneAfter is how much longer than a session what ended its memberships
	// is kept.
	goneAfter = time.Minute
	// slowFor is how long it is remembered that a session's connection was cut
	// off since the client read too slowly, from the first time on.
	slowFor = time.Minute
	// outcomesFor is how long applied outcomes are kept after the newest.
	outcomesFor = 10 * time.Minute
	// secondLook is how much later an audit looks again at what is in several slots and
	// does not agree: longer than an operation is under way.
	secondLook = 5 * time.Second
	// sweepLimit is how much of anything one sweep does.
	sweepLimit = 500
	// catchupLimit is how many entries, and how many departures, one catch-up
	// gives.
	catchupLimit = 500
)

// A Store holds the rooms of a deployment. It is safe for concurrent use.
type Store struct {
	calls *Batcher
	cfg   Config
	keys  keys
	terms *Terms
	clock atomic.Pointer[reading]

	leases sync.Map // node → time.Time of its last renewal; where slots lie apart
	places *places

	secondLook time.Duration // after which an audit looks again, where slots lie apart
	tallyBatch int
}

// New returns a Store that sends its scripts through calls.
func New(calls *Batcher, cfg Config) *Store {
	defaults(&cfg.Prefix, "rg")
	defaults(&cfg.Partitions, 1)
	defaults(&cfg.SessionTTL, 35*time.Second)
	defaults(&cfg.LeaseTTL, 10*time.Second)
	defaults(&cfg.LogSize, 256)
	defaults(&cfg.LogBytes, 256<<10)
	defaults(&cfg.LogTTL, 2*time.Minute)
	defaults(&cfg.MaxMembers, 500)
	defaults(&cfg.MaxRoomsPerUser, 5)
	defaults(&cfg.MaxDevices, 10)
	if cfg.Observe == nil {
		cfg.Observe = func(string, string, time.Duration) {}
	}
	if cfg.Terms == nil {
		cfg.Terms = NewTerms(cfg.Prefix, cfg.Partitions)
	}
	if cfg.Apart {
		cfg.Terms.keys.apart = true
	}
	s := &Store{calls: calls, cfg: cfg, keys: cfg.Terms.keys, terms: cfg.Terms,
		places: newPlaces(cfg.Partitions), secondLook: secondLook, tallyBatch: tallyBatch}
	for _, script := range lua.All {
		if text := s.text(script); text != nil && (cfg.Apart || !script.Step) {
			calls.Register(text)
			if script.Together > 0 && !cfg.Apart { // there they answer with more
				calls.Join(text, script.Together)
			}
		}
	}
	return s
}

// text gives the text of a script that this store calls; nil if there is none.
func (s *Store) text(script lua.Script) *redis.Script {
	switch {
	case s.cfg.Apart && s.cfg.Sharded:
		return script.Sharded
	case s.cfg.Apart:
		return script.Apart
	}
	return script.Script
}

func defaults[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Topic is where a room's events are published.
func (s *Store) Topic(room RoomID) string { return s.keys.events(room) }

// Path is which way the events of a room come: 0 for all rooms on one Redis, and where
// slots lie apart the number of the room's partition. What breaks on one path does not
// concern the others.
func (s *Store) Path(room RoomID) int {
	if !s.cfg.Apart {
		return 0
	}
	return s.keys.partition(room)
}

// Apart says whether every call keeps to one hash slot.
func (s *Store) Apart() bool { return s.cfg.Apart }

// NodeTopic is where a node's own probes of a path are published, and on path 0 orders
// to it.
func (s *Store) NodeTopic(node string, path int) string { return s.keys.orders(node, path) }

// run runs a script. Every script answers in one shape: a status, then what
// the header promises for it. Calls on one lane are applied in the order they
// came.
func (s *Store) run(ctx context.Context, lane, on string, script lua.Script, keys []string, args ...any) (*reply, error) {
	if script.Guarded {
		return s.guarded(ctx, lane, on, script, keys, args)
	}
	return s.call(ctx, lane, on, script, keys, args)
}

// call is run once, as it is.
func (s *Store) call(ctx context.Context, lane, on string, script lua.Script, keys []string, args []any) (*reply, error) {
	start := time.Now()
	fields, err := s.calls.Do(ctx, lane, s.text(script), keys, args)
	r := &reply{}
	outcome := "error"
	if err == nil {
		if len(fields) == 0 {
			err = fmt.Errorf("%w: empty", ErrBadReply)
		} else {
			r.status, r.fields = fields[0], fields[1:]
			if s.cfg.Apart && script.Lists && r.status != "term" {
				r.unlist()
			}
			outcome = r.status
			err = refusals[r.status]
		}
	}
	// A script's first write is the one that Redis refuses when it is full.
	if err != nil && strings.Contains(err.Error(), "OOM command not allowed") {
		err = fmt.Errorf("%w: %w", ErrMemory, err)
	}
	s.cfg.Observe(script.Name, outcome, time.Since(start))
	if err != nil {
		return r, &OpError{Op: script.Name, On: on, Err: err}
	}
	return r, nil
}

// reply reads what a script returned, and keeps the first error.
type reply struct {
	status string
	fields []string
	listed []todo // where slots lie apart
	err    error
}

func (r *reply) text() string {
	if len(r.fields) == 0 {
		r.fail("too few values")
		return ""
	}
	f := r.fields[0]
	r.fields = r.fields[1:]
	return f
}

func (r *reply) int() int64 {
	f := r.text()
	n, err := strconv.ParseInt(f, 10, 64)
	if err != nil {
		r.fail("not a number: " + f)
	}
	return n
}

func (r *reply) position() Position {
	return Position{Epoch: r.int(), Seq: r.int()}
}

func (r *reply) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: status %q: %s", ErrBadReply, r.status, what)
	}
}

// done returns the first error met, or that something was left over.
func (r *reply) done() error {
	if len(r.fields) > 0 {
		r.fail("too many values")
	}
	return r.err
}

func ms(d time.Duration) int64 { return d.Milliseconds() }

func (s *Store) goneTTL() int64 { return ms(s.cfg.SessionTTL + goneAfter) }

// opaque refuses data that would break the joined strings it becomes part of.
func opaque(what, data string) error {
	if strings.Contains(data, "\x00") {
		return fmt.Errorf("%w: %s contains a NUL byte", ErrBadReply, what)
	}
	return nil
}
