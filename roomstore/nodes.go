package roomstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/roomgate/roomgate/lua"
)

// A Lease is what a node hears when it renews its lease.
type Lease struct {
	Now        time.Time     // Redis's clock
	SinceSweep time.Duration // since any node last swept
	Alive      []string      // nodes whose lease holds, this one among them
}

// reading is what Redis's clock said, in unix ms, when it was last heard.
type reading struct {
	redis int64
	at    time.Time
}

// Lateness is how much later than its deadline a login or resume may still take
// effect if Redis's clock has been set since it was heard.
const Lateness = 500 * time.Millisecond

// validUntil is when, on Redis's clock, nobody waits for a call made under ctx
// any more; "" if that is not known. It is never later than that, since the
// clock was read before it was heard: once a client has been told that its login
// failed it may be back elsewhere, and a late one would end its session there.
func (s *Store) validUntil(ctx context.Context) string {
	deadline, ok := ctx.Deadline()
	heard := s.clock.Load()
	if !ok || heard == nil {
		return ""
	}
	return strconv.FormatInt(heard.redis+ms(deadline.Sub(heard.at)), 10)
}

// Lease begins (begin) or renews a node's lease; about is what [Store.Cluster] tells
// others of it from now on, nil: what it did. It fails with [ErrFenced] if the node
// has been given up, or its lease is not there to be renewed.
func (s *Store) Lease(ctx context.Context, node string, begin bool, about *About) (Lease, error) {
	b, since, said := "0", "", ""
	if begin {
		b = "1"
	}
	if about != nil {
		if err := opaque("what the node says of itself", about.Version+about.Name); err != nil {
			return Lease{}, opErr("lease", node, err)
		}
		said = about.encode()
		if !begin && !about.Since.IsZero() {
			since = strconv.FormatInt(about.Since.UnixMilli(), 10)
		}
	}
	r, err := s.run(ctx, node, node, lua.Lease, []string{s.keys.nodes(), s.keys.control(s.keys.nodes())},
		node, ms(s.cfg.LeaseTTL), b, since, said)
	if err != nil {
		return Lease{}, err
	}
	now := r.int()
	l := Lease{Now: time.UnixMilli(now), SinceSweep: millis(r.int())}
	s.clock.Store(&reading{redis: now, at: time.Now()})
	if s.cfg.Apart {
		s.leases.Store(node, time.Now())
	}
	l.Alive, r.fields = r.fields, nil
	return l, opErr("lease", node, r.done())
}

// Release ends a node's lease. It fails with [ErrHeld] while sessions or
// memberships still name the node.
func (s *Store) Release(ctx context.Context, node string) error {
	if s.cfg.Apart {
		return s.releaseApart(ctx, node)
	}
	_, err := s.run(ctx, node, node, lua.Release, []string{s.keys.nodes(), s.keys.control(s.keys.nodes())},
		node, s.cfg.Partitions)
	return err
}

// A Lapse is a node whose lease has ended.
type Lapse struct {
	Node string
	End  int64 // of its lease, on the awake clock, in ms
}

// A Swept is what a sweep did.
type Swept struct {
	More     bool          // there is more to do at once
	Next     time.Duration // until the next deadline; negative if there is none
	Finished int           // rooms destroyed
	Evicted  int           // members whose session did not come back
	Claimed  int           // memberships of dead nodes parked
	Lapsed   []Lapse       // nodes to claim if a lease TTL from now they are as they are
	Looked   bool          // at leases; if not, Lapsed says nothing
}

// Sweep does what time demands, in bounded steps, and claims the nodes given.
// Any number of nodes may sweep at once, with the same result.
//
// It fails with [ErrPaused] if it only noted a gap in time, and with
// [ErrFenced] if the node has been given up. With any other error, too, it says what it
// did: where slots lie apart those that answer are swept, and each step has a time of
// its own, whatever the others took.
func (s *Store) Sweep(ctx context.Context, node string, claims []Lapse) (Swept, error) {
	if s.cfg.Apart {
		return s.sweepApart(ctx, node, claims)
	}
	args := []any{node, s.cfg.Partitions, sweepLimit, ms(s.cfg.SessionTTL),
		s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), s.goneTTL(), len(claims)}
	for _, c := range claims {
		args = append(args, c.Node, c.End)
	}
	r, err := s.run(ctx, node, node, lua.Sweep, []string{s.keys.nodes(), s.keys.control(s.keys.nodes())}, args...)
	if err != nil {
		return Swept{}, err
	}
	done := Swept{
		More: r.text() == "1", Next: millis(r.int()),
		Finished: int(r.int()), Evicted: int(r.int()), Claimed: int(r.int()), Looked: true,
	}
	for len(r.fields) > 0 && r.err == nil {
		done.Lapsed = append(done.Lapsed, Lapse{Node: r.text(), End: r.int()})
	}
	return done, opErr("sweep", node, r.done())
}

// Probe sends the node itself a message through a path that events take.
func (s *Store) Probe(ctx context.Context, node string, path int, nonce string) error {
	_, err := s.run(ctx, node, node, lua.Probe, []string{s.NodeTopic(node, path)}, probeMark+nonce)
	return err
}

const probeMark = "probe\x00"

// An Order is what a node hears on its own topics: to close a session's socket,
// or its own probe.
type Order struct {
	Probe string // the nonce; the other fields are empty

	Code       int // close code
	Session    SessionID
	Generation int64 // sockets of this generation or a later one stay
}

// ErrBadOrder means that bytes are not an order of this version.
var ErrBadOrder = errors.New("malformed order")

// DecodeOrder reads what arrived on a node's topic. It fails with an error
// that wraps [ErrBadOrder].
func DecodeOrder(text string) (Order, error) {
	if nonce, ok := strings.CutPrefix(text, probeMark); ok {
		return Order{Probe: nonce}, nil
	}
	f := strings.Split(text, "\x00")
	if len(f) != 3 {
		return Order{}, fmt.Errorf("%w: %d fields, want 3", ErrBadOrder, len(f))
	}
	code, err := strconv.Atoi(f[0])
	if err != nil {
		return Order{}, fmt.Errorf("%w: code %q", ErrBadOrder, f[0])
	}
	generation, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		return Order{}, fmt.Errorf("%w: generation %q", ErrBadOrder, f[2])
	}
	return Order{Code: code, Session: SessionID(f[1]), Generation: generation}, nil
}
