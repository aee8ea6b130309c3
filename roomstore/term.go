package roomstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/lua"
)

// Terms follows which term the data in Redis is in: a name for what is stored,
// which ends when that is lost or rolled back. Every call says under which term
// it is made, and changes nothing under another. So no gateway acts on data that
// lacks what the gateway knows.
//
// It is safe for concurrent use.
type Terms struct {
	keys   keys
	settle time.Duration
	mute   atomic.Bool   // Redis cannot be asked for its run_id
	stale  chan struct{} // holds one: the term may be another

	mu      sync.Mutex
	term    string        // that calls are made under; "" before the first
	parts   []string      // the same, by slot
	changed chan struct{} // closed when calls may go through that did not
	away    []bool        // by slot: it did not answer when it was last asked
}

// settleWindow is how long gateways have to put back what they know before
// anything else is done to it.
const settleWindow = 2 * time.Second

// NewTerms returns the Terms of a deployment: the prefix of its keys and its
// number of partitions, as in [Config]. A store and the client that it uses
// share one: [Terms.OnConnect].
func NewTerms(prefix string, partitions int) *Terms {
	defaults(&prefix, "rg")
	defaults(&partitions, 1)
	return &Terms{
		keys: keys{prefix: prefix, partitions: partitions}, settle: settleWindow,
		stale: make(chan struct{}, 1), changed: make(chan struct{}),
	}
}

// OnConnect greets Redis on a new connection, before anything else is sent on
// it: it may be to a Redis that was started anew and has come back with less. It
// is for the options of every client that carries scripts.
func (t *Terms) OnConnect(ctx context.Context, c *redis.Conn) error {
	eval := func(ctx context.Context, keys []string, args []any) ([]string, error) {
		return lua.Greet.Run(ctx, c, keys, args...).StringSlice()
	}
	if !t.keys.apart {
		_, err := t.greet(ctx, eval)
		return err
	}
	knew, _ := t.current()
	slots := t.keys.slots()
	left := make([]int, len(slots))
	for i := range left {
		left[i] = i
	}
	// They go together: one after the other would be a hundred round trips for a connection,
	// and a gateway makes many at once.
	for len(left) > 0 {
		pipeline := c.Pipeline()
		said := make([]*redis.Cmd, len(left))
		for n, i := range left {
			keys, args := t.greeting(slots[i], part(knew, i), !t.mute.Load())
			said[n] = lua.Greet.EvalSha(ctx, pipeline, keys, args...)
		}
		pipeline.Exec(ctx) // each has an answer of its own, or how it failed
		var unknown []int
		for n, i := range left {
			fields, err := said[n].StringSlice()
			if err == nil {
				_, err = t.greeted(fields, part(knew, i))
			}
			switch {
			case err == nil, elsewhere(err) && !down(err): // this connection is to one of the masters, or to none of them
			case redis.HasErrorPrefix(err, "NOSCRIPT"), forbids(err):
				unknown = append(unknown, i)
			default:
				return opErr(lua.Greet.Name, "", err)
			}
		}
		if len(unknown) == 0 {
			break
		}
		// The server has the script once it was called in full, and whether it may be asked
		// is known.
		if _, err := t.greetSlot(ctx, slots[unknown[0]], part(knew, unknown[0]), eval); err != nil && (!elsewhere(err) || down(err)) {
			return err
		}
		left = unknown[1:]
	}
	return nil
}

// elsewhere says whether a node of a Cluster answered that a slot is not its own.
func elsewhere(err error) bool {
	for _, prefix := range []string{"MOVED ", "ASK ", "CLUSTERDOWN ", "READONLY ", "TRYAGAIN ", "EXECABORT "} {
		if answer := redis.Error(nil); errors.As(err, &answer) && strings.HasPrefix(answer.Error(), prefix) {
			return true
		}
	}
	return false
}

// down says whether a node of a Cluster answered that it serves nobody, as a master does
// for two seconds when it has been started. Then it does not say which slots are its own:
// what is not greeted now would be served by it later, under the term of before.
func down(err error) bool {
	answer := redis.Error(nil)
	return errors.As(err, &answer) && strings.HasPrefix(answer.Error(), "CLUSTERDOWN The cluster is down")
}

// part gives the term of the slot of a number: where slots lie apart a term is the terms of
// all, in the order of keys.slots.
func part(term string, i int) string {
	if term == "" {
		return ""
	}
	return strings.Split(term, ",")[i]
}

// of gives the term of the slot that a key is in.
func (t *Terms) of(term, key string) string {
	if !t.keys.apart {
		return term
	}
	terms := strings.Split(term, ",")
	if i := t.keys.slotIndex(key); i < len(terms) {
		return terms[i]
	}
	return term // it is none of this deployment's
}

// same says whether two terms are the same for the slot that a key is in. The second
// is "" if none is known.
func (t *Terms) same(term, knew, key string) bool {
	return knew != "" && t.of(term, key) == t.of(knew, key)
}

// isAway says whether the slot that a key is in did not answer when it was last
// asked for its term, though others did.
func (t *Terms) isAway(key string) bool {
	if !t.keys.apart {
		return false
	}
	i := t.keys.slotIndex(key)
	t.mu.Lock()
	defer t.mu.Unlock()
	return i < len(t.away) && t.away[i]
}

// A Greeting is what Redis says to a gateway.
type Greeting struct {
	Term  string
	Opens time.Duration // until calls are accepted under more of it; 0 if they are under all

	// Ready is what calls are accepted under now: the term or, where hash slots lie
	// apart, of each slot the term that it has if that is open, and else the one known.
	Ready string

	// Unheard says that some slots did not answer, though others did. Their terms are
	// taken to be those known.
	Unheard bool
}

// askPatience is how long the slots that have answered wait for the others.
const askPatience = 300 * time.Millisecond

// greet greets Redis by eval, slot by slot. It fails with ErrPartitions.
func (t *Terms) greet(ctx context.Context, eval func(context.Context, []string, []any) ([]string, error)) (Greeting, error) {
	knew, _ := t.current()
	slots := t.keys.slots()
	greetings, errs := make([]Greeting, len(slots)), make([]error, len(slots))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var first sync.Once
	var patience *time.Timer
	var work errgroup.Group
	for i, slot := range slots {
		work.Go(func() error {
			greetings[i], errs[i] = t.greetSlot(ctx, slot, part(knew, i), eval)
			if errs[i] == nil && knew != "" {
				first.Do(func() { patience = time.AfterFunc(askPatience, cancel) })
			}
			return nil
		})
	}
	work.Wait()
	if patience != nil {
		patience.Stop()
	}
	var all Greeting
	var terms, ready []string
	answered := false
	for i, g := range greetings {
		if errors.Is(errs[i], ErrPartitions) || errs[i] != nil && knew == "" {
			return Greeting{}, errs[i]
		}
		if errs[i] != nil {
			g, all.Unheard = Greeting{Term: part(knew, i)}, true
		}
		answered = answered || errs[i] == nil
		terms = append(terms, g.Term)
		if g.Opens == 0 {
			ready = append(ready, g.Term)
			continue
		}
		ready = append(ready, part(knew, i))
		if all.Opens == 0 || g.Opens < all.Opens {
			all.Opens = g.Opens
		}
	}
	if !answered {
		return Greeting{}, errs[0]
	}
	t.mu.Lock()
	t.away = make([]bool, len(slots))
	for i := range slots {
		t.away[i] = errs[i] != nil
	}
	t.mu.Unlock()
	all.Term, all.Ready = strings.Join(terms, ","), strings.Join(ready, ",")
	return all, nil
}

func (t *Terms) greetSlot(ctx context.Context, slot, knew string, eval func(context.Context, []string, []any) ([]string, error)) (Greeting, error) {
	say := func(ask bool) ([]string, error) {
		keys, args := t.greeting(slot, knew, ask)
		return eval(ctx, keys, args)
	}
	ask := !t.mute.Load()
	fields, err := say(ask)
	if ask && forbids(err) {
		// Some services do not let clients ask; then only a lack of data shows.
		if fields, err = say(false); err == nil {
			t.mute.Store(true)
		}
	}
	if err != nil {
		return Greeting{}, &OpError{Op: lua.Greet.Name, Err: err}
	}
	return t.greeted(fields, knew)
}

// greeting gives what a slot is greeted with; ask says whether its server is asked for
// its run_id.
func (t *Terms) greeting(slot, knew string, ask bool) (keys []string, args []any) {
	asked := "0"
	if ask {
		asked = "1"
	}
	return []string{t.keys.partitionsKey(slot), t.keys.term(slot), t.keys.origin(slot), t.keys.control(slot)},
		[]any{t.keys.partitions, knew, rand.Text(), ms(t.settle), asked}
}

// greeted reads what a slot has answered.
func (t *Terms) greeted(fields []string, knew string) (Greeting, error) {
	r := &reply{fields: fields}
	switch r.status = r.text(); r.status {
	case "ok":
		g := Greeting{Term: r.text(), Opens: millis(r.int())}
		if g.Term != knew || g.Opens > 0 {
			t.stir()
		}
		return g, opErr(lua.Greet.Name, "", r.done())
	case "partitions":
		err := fmt.Errorf("%w: it has %s, this gateway was told %d", ErrPartitions, r.text(), t.keys.partitions)
		t.stir()
		return Greeting{}, opErr(lua.Greet.Name, "", err)
	}
	return Greeting{}, opErr(lua.Greet.Name, "", fmt.Errorf("%w: status %q", ErrBadReply, r.status))
}

// forbids says whether Redis answered that a script must not do what it does.
func forbids(err error) bool {
	answer := redis.Error(nil)
	return errors.As(err, &answer) && (strings.HasPrefix(answer.Error(), "ERR ") || strings.HasPrefix(answer.Error(), "NOPERM"))
}

// current gives the term that calls are made under, and what is closed when
// that changes or opens.
func (t *Terms) current() (string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.term, t.changed
}

// currentFor is current for the slot that a key is in.
func (t *Terms) currentFor(key string) (string, <-chan struct{}) {
	if !t.keys.apart {
		return t.current()
	}
	i := t.keys.slotIndex(key)
	t.mu.Lock()
	defer t.mu.Unlock()
	if i >= len(t.parts) {
		return "", t.changed
	}
	return t.parts[i], t.changed
}

// Doubt says that the term may be another: a hash slot has come to another server,
// which may have less. Then it is asked for, though no connection is new.
func (t *Terms) Doubt() { t.stir() }

// stir says that the term may be another.
func (t *Terms) stir() {
	select {
	case t.stale <- struct{}{}:
	default:
	}
}

// adopt makes calls under a term from now on, those that wait first.
func (t *Terms) adopt(term string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.term = term
	t.parts = strings.Split(term, ",")
	close(t.changed)
	t.changed = make(chan struct{})
}

// Greet begins a store's work: it holds this gateway to the number of
// partitions that the deployment has, and makes calls under the present term. It
// fails with [ErrPartitions].
func (s *Store) Greet(ctx context.Context) error {
	g, err := s.Ask(ctx)
	if err != nil {
		return err
	}
	s.Adopt(g.Term)
	return nil
}

// Ask asks which term it is now. It fails with [ErrPartitions].
func (s *Store) Ask(ctx context.Context) (Greeting, error) {
	start := time.Now()
	g, err := s.terms.greet(ctx, func(ctx context.Context, keys []string, args []any) ([]string, error) {
		return s.calls.Do(ctx, "", lua.Greet.Script, keys, args)
	})
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	if errors.Is(err, ErrPartitions) {
		outcome = "partitions"
	}
	s.cfg.Observe(lua.Greet.Name, outcome, time.Since(start))
	return g, err
}

// Renewed says whether the term of what is stored of a room is another in one term
// than in one that was known, "" for none: it may have been lost.
func (s *Store) Renewed(term, knew string, room RoomID) bool {
	return !s.terms.same(term, knew, s.keys.part(s.keys.partition(room)))
}

// Stale receives when the term may be another than that which calls are made
// under. Whoever receives has to put back what the gateway knows under the new
// one, and to adopt it; until then calls wait.
func (s *Store) Stale() <-chan struct{} { return s.terms.stale }

// Term gives the term that calls are made under.
func (s *Store) Term() string {
	term, _ := s.terms.current()
	return term
}

// Adopt makes calls under a term from now on, those that wait first.
func (s *Store) Adopt(term string) { s.terms.adopt(term) }

// Under makes the calls of a context under a term that is not adopted yet. They
// do not wait, but fail with [ErrTerm], if it is not the present one.
func Under(ctx context.Context, term string) context.Context {
	return context.WithValue(ctx, underKey{}, term)
}

type underKey struct{}

// guarded runs a script that acts only under the present term. A call that meets
// another waits until that is adopted, or ctx is done: it then fails with ErrTerm,
// and has changed nothing.
func (s *Store) guarded(ctx context.Context, lane, on string, script lua.Script, keys []string, args []any) (*reply, error) {
	at := keys[0]
	keys = append(keys[:len(keys):len(keys)], s.keys.term(at))
	args = append(args[:len(args):len(args)], "")
	if under, ok := ctx.Value(underKey{}).(string); ok {
		args[len(args)-1] = s.terms.of(under, at)
		return s.call(ctx, lane, on, script, keys, args)
	}
	for {
		term, changed := s.terms.currentFor(at)
		args[len(args)-1] = term // a call takes what is in args, and not args
		r, err := s.call(ctx, lane, on, script, keys, args)
		if !errors.Is(err, ErrTerm) {
			return r, err
		}
		s.terms.stir()
		select {
		case <-changed:
		case <-ctx.Done():
			return r, err
		}
	}
}

// A Lineage names the epochs that an epoch goes back to: the same life of a room
// before data was lost. It is opaque.
type Lineage string

// Has says whether the lineage names an epoch.
func (l Lineage) Has(epoch int64) bool {
	return strings.Contains(string(l), ","+strconv.FormatInt(epoch, 10)+",")
}
