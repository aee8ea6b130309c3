package roomstore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

var (
	// ErrBusy means that so many calls wait for Redis already that this one was
	// not accepted. Nothing was sent.
	ErrBusy = errors.New("too many calls waiting for redis")

	// ErrNotSent means that a call ended before it was sent to Redis: nothing
	// was changed, and nothing will be. It wraps the reason.
	ErrNotSent = errors.New("not sent to redis")

	// errStopped is why a call is not sent once Run has returned.
	errStopped = errors.New("batcher has stopped")
)

// BatcherConfig is what a Batcher can be told. Zero values take the defaults.
type BatcherConfig struct {
	// Lanes is the number of pipelines under way at a time: 2.
	Lanes int

	// Slots, on Redis Cluster, are what the keys of each hash slot begin with, see
	// [ClusterSlots]. Each has a lane of its own, since it has its own master.
	Slots []string

	// MaxBatch is how many calls a pipeline has at most: 256.
	MaxBatch int

	// MaxWaiting is how many calls of a lane may wait to be sent; one more
	// fails with ErrBusy: 8192.
	MaxWaiting int

	// Timeout is how long a pipeline may take: 2 s. The client has to have
	// ContextTimeoutEnabled, or its own timeouts hold instead.
	Timeout time.Duration

	// Observe, if not nil, is called after each pipeline with the number of
	// calls in it and what it took. It must not block.
	Observe func(calls int, took time.Duration)
}

// A Batcher gathers the script calls of many goroutines into pipelines, since
// a call that goes alone costs Redis three times as much. A lane sends what has
// come while its last pipeline was under way. So a call never waits for a
// timer, and the busier it is the cheaper a call gets.
//
// Calls of one lane take effect in the order in which they came, but for those that are
// joined (see [Batcher.Join]), and calls with the same lane key are in the same lane and
// keep their order. An error that Redis answers to one
// call does not touch the others. If the connection fails, so do all calls of
// the pipeline, with unknown outcome; nothing is repeated here, nor may it be
// by the client, which has to have MaxRetries -1.
//
// Scripts are called by hash. A lane that hears that Redis does not know one
// sends the source, in order and before its later calls. That order holds if
// Redis forgets all scripts at once, which it does, and if nobody but this
// Batcher loads them again in the middle of that same pipeline. To keep that
// rare the registered scripts are loaded before the first call, and again before
// the next one when a connection has failed.
//
// On Redis Cluster a lane is one hash slot, whatever the lane key: all keys of a
// call are in the slot of its first, and its pipeline goes to that slot's master.
// What that refuses, since the slot has moved, is moving or has no master, has not
// been done and is sent again, in order, for as long as the pipeline may take. ASK
// is not followed: while a slot moves, a script would find some of its keys gone.
//
// It is safe for concurrent use. Calls wait until [Batcher.Run] runs.
type Batcher struct {
	rdb   redis.UniversalClient
	cfg   BatcherConfig
	seed  maphash.Seed
	lanes []*lane

	// version grows whenever Redis may lack a script: when one is registered,
	// and when a connection failed and the next may be to another Redis.
	version atomic.Uint64

	mu      sync.RWMutex
	sources map[string]string // guarded by mu; of scripts, by hash
	joining map[string]int    // guarded by mu; see Join

	// On Redis Cluster.
	cluster *redis.ClusterClient
	bySlot  map[string]*lane // by what keys begin with; "" for all others
	masters sync.Map         // *redis.Client → *server
}

// server is what the lanes of one Redis share.
type server struct {
	loaded atomic.Uint64 // the version of the scripts that it has

	// inFlight is held shared while a pipeline is under way, and alone while sources
	// are. Otherwise what one lane loads would let the rest of another's pipeline succeed
	// behind calls of it that did not.
	inFlight sync.RWMutex
}

// lane is a queue of calls and the pipelines made of it.
type lane struct {
	b    *Batcher
	wake chan struct{} // holds one; that there are calls

	mu      sync.Mutex
	waiting []*call // guarded by mu
	stopped bool    // guarded by mu

	// Owned by the lane's goroutine.
	rdb    redis.UniversalClient // that the batch goes to
	server *server               // which that is

	batch  []*call
	cmds   []redis.Cmder
	parted bool           // what is sent may have had effect already, joined with others
	joints []int          // in batch, what others may still join
	newest map[string]int // where in batch the newest call with a lane key is
}

// call is a command on its way. Its caller owns it until it is queued, then the
// lane, and after done the caller again. A caller that leaves before that never
// looks at it again.
type call struct {
	key   string // of the lane
	cmd   redis.Cmder
	own   int           // the word of cmd at which what is its own begins, if it may be joined
	parts []*call       // that go as this one, which then has no caller; see lane.join
	bytes int           // of what is their own
	done  chan struct{} // gets one value when cmd has its result; never closed

	// Guarded by lane.mu.
	taken bool // by the lane's goroutine, to be sent
	left  bool // the caller has, before it was taken
	err   error
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// NewBatcher returns a Batcher of script calls to rdb, which it does not close.
func NewBatcher(rdb redis.UniversalClient, cfg BatcherConfig) *Batcher {
	if cfg.Lanes <= 0 {
		cfg.Lanes = 2
	}
	if cfg.MaxBatch <= 0 {
		cfg.MaxBatch = 256
	}
	if cfg.MaxWaiting <= 0 {
		cfg.MaxWaiting = 8192
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Second
	}
	if cfg.Observe == nil {
		cfg.Observe = func(int, time.Duration) {}
	}
	b := &Batcher{rdb: rdb, cfg: cfg, seed: maphash.MakeSeed(), sources: make(map[string]string), joining: make(map[string]int)}
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		b.cluster, b.bySlot = cluster, map[string]*lane{}
		for _, slot := range append([]string{""}, cfg.Slots...) {
			l := &lane{b: b, wake: make(chan struct{}, 1), newest: map[string]int{}}
			b.lanes, b.bySlot[slot] = append(b.lanes, l), l
		}
		return b
	}
	one := &server{}
	for range cfg.Lanes {
		b.lanes = append(b.lanes, &lane{b: b, rdb: rdb, server: one, wake: make(chan struct{}, 1), newest: map[string]int{}})
	}
	return b
}

// Register tells the sources of scripts, so that Redis can be given them before
// they are called. [Batcher.Do] registers what is not; scripts that are called
// by [Batcher.Lane] only have to be registered.
func (b *Batcher) Register(scripts ...*redis.Script) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range scripts {
		var c capture
		s.Eval(context.Background(), &c, nil)
		b.sources[s.Hash()] = c.source
	}
	b.version.Add(1)
}

// Join has calls of a registered script go as one where they are sent together: with
// the same keys, the same first arguments, as many as shared says, and the same last
// one. The first argument of a call is the number 1; of several joined it is their
// number, and what lies between their first arguments and the last follows one
// another. The script then answers with a list of what it answers to each, {"raised",
// text} if Redis failed that, or with one answer for all. If it fails as a whole each call
// is made for itself, behind all others of the pipeline. What is joined is bounded in calls
// and in bytes.
//
// A call that is joined may overtake others of its lane, but none with its lane key.
func (b *Batcher) Join(script *redis.Script, shared int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.joining[script.Hash()] = shared
}

// Run sends calls until ctx is done, and returns nil when what was under way
// has its results. Calls that wait then fail with [ErrNotSent], and so do all
// that come later. It must be called once.
func (b *Batcher) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, l := range b.lanes {
		g.Go(func() error { l.run(ctx); return nil })
	}
	return g.Wait()
}

// Do calls a script and returns the strings that it returned. Calls with the
// same lane key, such as a room's ID, take effect in the order in which they
// were made; but those that were joined are made again behind all others of their
// pipeline if Redis has refused them as a whole.
//
// If ctx ends before the answer Do returns at once with the cause: wrapped in
// [ErrNotSent] if the call had not been sent and never will be, and otherwise
// with unknown outcome, as every error that did not come from Redis. It fails
// with [ErrBusy] if too many calls wait, and with [ErrBadReply] if the script
// returned something else than strings. Byte slices in args must not be changed
// later, not even when Do has returned.
func (b *Batcher) Do(ctx context.Context, key string, script *redis.Script, keys []string, args []any) ([]string, error) {
	hash := script.Hash()
	if _, ok := b.source(hash); !ok {
		b.Register(script)
	}
	// A StringSliceCmd would cost less, but fails the whole connection, and with
	// it its neighbours, if a script breaks its contract.
	cmd := redis.NewCmd(ctx, evalArgs("evalsha", hash, keys, args)...)
	own := 0
	if shared := b.joins(hash); shared > 0 {
		own = len(evalArgs("", "", keys, nil)) + shared
	}
	if err := b.laneFor(key, keys).do(ctx, key, cmd, own); err != nil {
		return nil, err
	}
	reply, err := cmd.StringSlice()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadReply, err)
	}
	return reply, nil
}

// Lane returns a Scripter whose calls go through the lane of a key. See
// [Batcher.Do] for what they promise.
func (b *Batcher) Lane(key string) redis.Scripter { return scripter{b.lane(key), key} }

// Waiting returns how many calls wait to be sent, those included whose callers
// have left.
func (b *Batcher) Waiting() int {
	n := 0
	for _, l := range b.lanes {
		l.mu.Lock()
		n += len(l.waiting)
		l.mu.Unlock()
	}
	return n
}

func (b *Batcher) lane(key string) *lane {
	return b.lanes[maphash.String(b.seed, key)%uint64(len(b.lanes))]
}

// laneFor is lane for a call on keys.
func (b *Batcher) laneFor(key string, keys []string) *lane {
	if b.cluster == nil {
		return b.lane(key)
	}
	slot, _, ok := strings.Cut(keys[0], "}:")
	if l := b.bySlot[slot+"}:"]; ok && l != nil {
		return l
	}
	return b.bySlot[""]
}

func (b *Batcher) source(hash string) (string, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	src, ok := b.sources[hash]
	return src, ok
}

// joins gives how many arguments calls of a script share that go as one; else 0.
func (b *Batcher) joins(hash string) int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.joining[hash]
}

// loads returns the commands that load every script.
func (b *Batcher) loads(ctx context.Context) []redis.Cmder {
	b.mu.RLock()
	defer b.mu.RUnlock()
	cmds := make([]redis.Cmder, 0, len(b.sources))
	for _, src := range b.sources {
		cmds = append(cmds, redis.NewStringCmd(ctx, "script", "load", src))
	}
	return cmds
}

// do queues a command and waits for its result. key and own are as in call.
func (l *lane) do(ctx context.Context, key string, cmd redis.Cmder, own int) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	c := calls.Get().(*call)
	c.key, c.cmd, c.own, c.taken, c.left, c.err = key, cmd, own, false, false, nil
	if err := l.push(c); err != nil {
		calls.Put(c)
		return err
	}
	select {
	case <-c.done:
		err := c.err
		c.key, c.cmd = "", nil
		calls.Put(c)
		if err == nil {
			err = cmd.Err()
		}
		return err
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		if !c.taken {
			c.left = true
			return fmt.Errorf("%w: %w", ErrNotSent, context.Cause(ctx))
		}
		return context.Cause(ctx)
	}
}

func (l *lane) push(c *call) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.stopped:
		return fmt.Errorf("%w: %w", ErrNotSent, errStopped)
	case len(l.waiting) >= l.b.cfg.MaxWaiting:
		return ErrBusy
	}
	l.waiting = append(l.waiting, c)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// run sends what waits until ctx is done.
func (l *lane) run(ctx context.Context) {
	defer l.stop()
	// A pipeline under way is not given up: its callers want to know.
	sending := context.WithoutCancel(ctx)
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil && l.take() {
			l.send(sending)
		}
	}
}

// take moves what waits to the batch, and reports whether that is anything.
func (l *lane) take() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batch = l.batch[:0]
	n := 0
	for _, c := range l.waiting {
		if len(l.batch) == l.b.cfg.MaxBatch {
			break
		}
		n++
		if !c.left {
			c.taken = true
			l.batch = append(l.batch, c)
		}
	}
	rest := copy(l.waiting, l.waiting[n:])
	clear(l.waiting[rest:])
	l.waiting = l.waiting[:rest]
	return len(l.batch) > 0
}

// stop fails what waits and what comes.
func (l *lane) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	for _, c := range l.waiting {
		c.err = fmt.Errorf("%w: %w", ErrNotSent, errStopped)
		c.done <- struct{}{}
	}
	l.waiting = nil
}

// send sends the batch as one pipeline and hands out the results.
func (l *lane) send(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.b.cfg.Timeout)
	defer cancel()
	start, n := time.Now(), len(l.batch)

	l.join()
	l.attempt(ctx, func(redis.Cmder) bool { return true })
	if l.b.cluster != nil {
		l.insist(ctx)
	}
	if again := l.part(); len(again) > 0 {
		l.parted = true
		l.attempt(ctx, func(cmd redis.Cmder) bool { return slices.Contains(again, cmd) })
		l.parted = false
	}

	for i, c := range l.batch {
		c.finish()
		l.batch[i] = nil
	}
	l.b.cfg.Observe(n, time.Since(start))
	clear(l.cmds)
}

const (
	// maxJoined is how many calls go as one at most.
	maxJoined = 64
	// maxJoinedBytes is how many bytes their own arguments have at most, but for one call
	// that has more by itself: a script holds up all others while it works them off.
	maxJoinedBytes = 16 << 10
)

// join has those calls of the batch that may go as one do so, in the place of the
// first of them, unless one with the same lane key goes behind that.
func (l *lane) join() {
	if len(l.batch) == 1 {
		return
	}
	l.joints = l.joints[:0]
	defer clear(l.newest)
	kept := l.batch[:0]
	for _, c := range l.batch {
		newest, ok := l.newest[c.key]
		i := -1
		if c.own > 0 {
			i = slices.IndexFunc(l.joints, func(i int) bool { return (!ok || i >= newest) && kept[i].accepts(c) })
		}
		if i < 0 {
			l.newest[c.key] = len(kept)
			if c.own > 0 {
				l.joints = append(l.joints, len(kept))
			}
			kept = append(kept, c)
			continue
		}
		at := l.joints[i]
		l.newest[c.key] = at
		if first := kept[at]; first.parts == nil {
			kept[at] = &call{cmd: first.cmd, own: first.own, parts: []*call{first}, bytes: first.ownBytes()}
		}
		kept[at].parts = append(kept[at].parts, c)
		kept[at].bytes += c.ownBytes()
	}
	clear(l.batch[len(kept):])
	l.batch = kept
	for _, i := range l.joints {
		l.batch[i].merge()
	}
}

// accepts says whether c may go as one with this call, or these.
func (j *call) accepts(c *call) bool {
	if len(j.parts) >= maxJoined || j.own != c.own {
		return false
	}
	joined := j.bytes
	if j.parts == nil {
		joined = j.ownBytes()
	}
	if joined+c.ownBytes() > maxJoinedBytes {
		return false
	}
	a, b := j.cmd.Args(), c.cmd.Args()
	return slices.Equal(a[:j.own], b[:c.own]) && a[len(a)-1] == b[len(b)-1]
}

// ownBytes is about how many bytes the arguments have that a call does not share.
func (c *call) ownBytes() (n int) {
	for _, arg := range c.cmd.Args()[c.own:] {
		switch v := arg.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		default:
			n += 8
		}
	}
	return n
}

// merge makes the one call of its parts, if it has any.
func (j *call) merge() {
	if j.parts == nil {
		return
	}
	first := j.cmd.Args()
	words := slices.Clone(first[:j.own])
	for _, c := range j.parts {
		args := c.cmd.Args()
		words = append(words, args[c.own:len(args)-1]...)
	}
	keys := first[2].(int)
	words[3+keys] = len(j.parts)
	j.cmd = redis.NewCmd(context.Background(), append(words, first[len(first)-1])...)
}

// part takes those calls apart again that failed as one, and gives them: what Redis
// answers to one does not touch the others.
func (l *lane) part() (again []redis.Cmder) {
	for _, c := range slices.Clone(l.batch) {
		if err := c.cmd.Err(); c.parts == nil || err == nil || !answered(err) {
			continue
		}
		i := slices.Index(l.batch, c)
		l.batch = slices.Replace(l.batch, i, i+1, c.parts...)
		for _, p := range c.parts {
			again = append(again, p.cmd)
		}
	}
	return again
}

// finish hands out the result.
func (c *call) finish() {
	if c.parts == nil {
		c.done <- struct{}{}
		return
	}
	cmd := c.cmd.(*redis.Cmd)
	replies, err := cmd.Slice()
	for i, p := range c.parts {
		reply := any(replies)
		failed := err
		if len(replies) == len(c.parts) {
			if own, ok := replies[i].([]any); ok {
				reply = own
				if len(own) == 2 && own[0] == "raised" {
					failed = raised(fmt.Sprint(own[1]))
				}
			}
		}
		if failed != nil {
			p.cmd.SetErr(failed)
		} else {
			p.cmd.(*redis.Cmd).SetVal(reply)
		}
		p.done <- struct{}{}
	}
}

// raised is what Redis answered to one of several calls that went as one. In a list
// go-redis reads some errors as the end of it, so scripts do not answer with them there.
type raised string

func (r raised) Error() string { return string(r) }
func (raised) RedisError()     {}

// attempt sends those calls of the batch that are chosen.
func (l *lane) attempt(ctx context.Context, chosen func(redis.Cmder) bool) {
	choose := func() {
		l.cmds = l.cmds[:0]
		for _, c := range l.batch {
			if chosen(c.cmd) {
				l.cmds = append(l.cmds, c.cmd)
			}
		}
	}
	if l.b.cluster != nil {
		choose()
		if err := l.find(ctx); err != nil {
			l.unsent(err)
			return
		}
	}
	l.load(ctx)
	choose()
	l.server.inFlight.RLock()
	l.exec(ctx, l.rdb.Pipeline())
	l.server.inFlight.RUnlock()
	if l.unknown() {
		l.resend(ctx)
	}
}

// exec sends cmds and returns the first error. What became of each is in the
// command.
func (l *lane) exec(ctx context.Context, pipe redis.Pipeliner) error {
	pipe.BatchProcess(ctx, l.cmds...)
	_, err := pipe.Exec(ctx)
	if err != nil && !answered(err) {
		l.b.version.Add(1)
	}
	if err != nil {
		l.unsent(err)
	}
	return err
}

// unsent notes in the commands why they have neither a result nor an error. If
// there was no connection since Redis refused what a new one begins with, as it
// does while it loads its data, go-redis tells only Exec. What a node of a Cluster
// refuses so is as if it had refused the commands: see insist.
func (l *lane) unsent(why error) {
	refused := l.b.cluster != nil && elsewhere(why)
	for _, c := range l.cmds {
		cmd, ok := c.(*redis.Cmd)
		switch {
		case !ok || cmd.Err() != nil || cmd.Val() != nil:
		case refused:
			cmd.SetErr(why)
		case l.parted:
			cmd.SetErr(fmt.Errorf("not sent again to redis: %v", why))
		default:
			cmd.SetErr(fmt.Errorf("%w: %v", ErrNotSent, why))
		}
	}
}

// load gives Redis all scripts if it may lack some. As in resend they come in one
// transaction, so that Redis never knows some and has forgotten others. The first lane
// does it for all of that server: each for itself, they would hold it up for longer than
// a pipeline may take, and then begin anew.
func (l *lane) load(ctx context.Context) {
	version := l.b.version.Load()
	if l.server.loaded.Load() >= version {
		return
	}
	l.server.inFlight.Lock()
	defer l.server.inFlight.Unlock()
	if l.server.loaded.Load() >= version {
		return
	}
	if l.cmds = l.b.loads(ctx); len(l.cmds) == 0 || l.exec(ctx, l.rdb.TxPipeline()) == nil {
		l.server.loaded.Store(version)
	}
}

// unknown leaves in cmds those that call a script which Redis does not know and
// we do, with its source in place of its hash, and reports whether there are any.
func (l *lane) unknown() bool {
	l.cmds = l.cmds[:0]
	for _, c := range l.batch {
		if !redis.HasErrorPrefix(c.cmd.Err(), "NOSCRIPT") {
			continue
		}
		args := c.cmd.Args()
		name, hash := args[0].(string), args[1].(string)
		src, ok := l.b.source(hash)
		if !ok {
			continue
		}
		args[1] = src
		if args[0] = "eval"; name == "evalsha_ro" {
			args[0] = "eval_ro"
		}
		c.cmd.SetErr(nil)
		l.cmds = append(l.cmds, c.cmd)
	}
	return len(l.cmds) > 0
}

// resend sends calls again by source, behind all other scripts.
func (l *lane) resend(ctx context.Context) {
	l.server.inFlight.Lock()
	defer l.server.inFlight.Unlock()
	l.cmds = append(l.b.loads(ctx), l.cmds...)
	l.exec(ctx, l.rdb.TxPipeline())
}

// evalArgs returns the words of an EVAL or one of its kin.
func evalArgs(name, script string, keys []string, args []any) []any {
	words := make([]any, 0, 3+len(keys)+len(args))
	words = append(words, name, script, len(keys))
	for _, k := range keys {
		words = append(words, k)
	}
	return append(words, args...)
}

// scripter is a lane as go-redis likes to see it.
type scripter struct {
	l   *lane
	key string
}

func (s scripter) eval(ctx context.Context, name, script string, keys []string, args []any) *redis.Cmd {
	cmd := redis.NewCmd(ctx, evalArgs(name, script, keys, args)...)
	if err := s.l.do(ctx, s.key, cmd, 0); err != nil && !answered(err) {
		// If the caller has left, cmd is the lane's.
		cmd = redis.NewCmd(ctx)
		cmd.SetErr(err)
	}
	return cmd
}

func (s scripter) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return s.eval(ctx, "eval", script, keys, args)
}

func (s scripter) EvalSha(ctx context.Context, hash string, keys []string, args ...any) *redis.Cmd {
	return s.eval(ctx, "evalsha", hash, keys, args)
}

func (s scripter) EvalRO(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return s.eval(ctx, "eval_ro", script, keys, args)
}

func (s scripter) EvalShaRO(ctx context.Context, hash string, keys []string, args ...any) *redis.Cmd {
	return s.eval(ctx, "evalsha_ro", hash, keys, args)
}

func (s scripter) ScriptExists(ctx context.Context, hashes ...string) *redis.BoolSliceCmd {
	return s.l.b.rdb.ScriptExists(ctx, hashes...)
}

func (s scripter) ScriptLoad(ctx context.Context, script string) *redis.StringCmd {
	return s.l.b.rdb.ScriptLoad(ctx, script)
}

// answered reports whether an error is what Redis answered.
func answered(err error) bool {
	answer := redis.Error(nil)
	return errors.As(err, &answer)
}

// capture is a Scripter that calls nothing and keeps the source it is to
// evaluate: a redis.Script tells it in no other way.
type capture struct {
	redis.Scripter
	source string
}

func (c *capture) Eval(ctx context.Context, script string, _ []string, _ ...any) *redis.Cmd {
	c.source = script
	return redis.NewCmd(ctx)
}
