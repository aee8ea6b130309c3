package roomstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

var (
	// appendScript appends to a list and returns its length and the value.
	appendScript = redis.NewScript(`
		return { tostring(redis.call("RPUSH", KEYS[1], ARGV[1])), ARGV[1] }`)

	// appendTwin does the same and is another script.
	appendTwin = redis.NewScript(`
		-- twin
		return { tostring(redis.call("RPUSH", KEYS[1], ARGV[1])), ARGV[1] }`)

	failScript = redis.NewScript(`return redis.error_reply("ODD refused")`)
)

// Every caller gets its own result, by Do and by Lane.
func TestBatcher_ownResult(t *testing.T) {
	t.Parallel()
	b := runBatcher(t, redistest.New(t), roomstore.BatcherConfig{MaxBatch: 7})
	prefix := redistest.Prefix()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			key := prefix + strconv.Itoa(i)
			for n := 1; n <= 20; n++ {
				value := fmt.Sprint(i, ".", n)
				var got []string
				var err error
				if n%2 == 0 {
					got, err = b.Do(t.Context(), key, appendScript, []string{key}, []any{value})
				} else {
					got, err = appendScript.Run(t.Context(), b.Lane(key), []string{key}, value).StringSlice()
				}
				if want := []string{strconv.Itoa(n), value}; err != nil || !slices.Equal(got, want) {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
			}
		})
	}
	wg.Wait()
}

// Calls gather while a pipeline is under way: there are fewer pipelines than
// calls, and none is larger than it may be.
func TestBatcher_gathers(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var sizes []int // of one lane, so observed by one goroutine
	b := roomstore.NewBatcher(s.Client(t), roomstore.BatcherConfig{
		Lanes: 1, MaxBatch: 10, Observe: func(calls int, _ time.Duration) { sizes = append(sizes, calls) },
	})
	var wg sync.WaitGroup
	for range 25 {
		wg.Go(func() {
			if _, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{"x"}); err != nil {
				t.Error(err)
			}
		})
	}
	// They wait for Run, so that all are there when it looks.
	eventually(t, func() bool { return b.Waiting() == 25 })
	stop := start(t, b)
	wg.Wait()
	stop()
	if want := []int{10, 10, 5}; !slices.Equal(sizes, want) {
		t.Errorf("pipelines of %v calls, want %v", sizes, want)
	}
}

// Calls of a lane take effect in the order in which they were made, even if
// Redis forgets its scripts in between, and again, and knows some of them.
func TestBatcher_order_scriptFlush(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	b := runBatcher(t, rdb, roomstore.BatcherConfig{})
	// Large calls, so that Redis does other things amid a pipeline.
	padding := strings.Repeat("x", 4096)
	scripts := []*redis.Script{appendScript, appendTwin}

	const lists, values = 8, 600
	flushing, stopFlushing := context.WithCancel(t.Context())
	var flusher, wg sync.WaitGroup
	flushes := 0
	flusher.Go(func() {
		for flushing.Err() == nil {
			if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
				t.Error(err)
			}
			flushes++
		}
	})
	for i := range lists {
		key := "list" + strconv.Itoa(i)
		wg.Go(func() {
			for n := range values {
				// The next one comes when this one is queued, and not done.
				ctx, queued := announce(t.Context())
				wg.Go(func() {
					if _, err := b.Do(ctx, key, scripts[(i+n)%2], []string{key}, []any{n, padding}); err != nil {
						t.Error(err)
					}
				})
				<-queued
			}
		})
	}
	wg.Wait()
	stopFlushing()
	flusher.Wait()

	var want []string
	for n := range values {
		want = append(want, strconv.Itoa(n))
	}
	for i := range lists {
		got, err := rdb.LRange(t.Context(), "list"+strconv.Itoa(i), 0, -1).Result()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("list %d: %v, got %v, want 0 to %d", i, err, got, values-1)
		}
	}
	t.Logf("%d flushes", flushes)
}

// A script that is registered is there before its first call; one that is not
// is sent by source when the lane hears that Redis does not know it.
func TestBatcher_Register(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	b := roomstore.NewBatcher(rdb, roomstore.BatcherConfig{})
	b.Register(appendScript, failScript)
	defer start(t, b)()

	// By hash only, as others may call it.
	got, err := b.Lane("k").EvalSha(t.Context(), appendScript.Hash(), []string{"k"}, "v").StringSlice()
	if want := []string{"1", "v"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if known, err := failScript.Exists(t.Context(), b.Lane("k")).Result(); err != nil || !known[0] {
		t.Errorf("registered script is not in Redis: %v", err)
	}
	if err := b.Lane("k").EvalSha(t.Context(), appendTwin.Hash(), []string{"k"}, "v").Err(); !redis.HasErrorPrefix(err, "NOSCRIPT") {
		t.Errorf("got %v, want NOSCRIPT", err)
	}
	if err := appendTwin.Run(t.Context(), b.Lane("k"), []string{"k"}, "v").Err(); err != nil {
		t.Errorf("Run of an unknown script: %v", err)
	}
	if err := appendScript.RunRO(t.Context(), b.Lane("k"), []string{"k"}, "v").Err(); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("got %v, want a refusal to write", err)
	}
}

// Redis is given the scripts once, however many lanes come to it at once.
func TestBatcher_Register_once(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	b := roomstore.NewBatcher(rdb, roomstore.BatcherConfig{Lanes: 16})
	b.Register(appendScript, failScript)
	s.Pause()
	defer start(t, b)()
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			key := strconv.Itoa(i)
			if _, err := b.Do(t.Context(), key, appendScript, []string{key}, []any{"v"}); err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	s.Resume()
	callers.Wait()
	info, err := rdb.Info(t.Context(), "commandstats").Result()
	if want := "cmdstat_script|load:calls=2,"; err != nil || !strings.Contains(info, want) {
		t.Errorf("%v, got %s, want %q in it", err, info, want)
	}
}

// What Redis answers to one call does not touch its neighbours in the pipeline.
func TestBatcher_errorOfOneCall(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var sizes []int
	b := roomstore.NewBatcher(s.Client(t), roomstore.BatcherConfig{
		Lanes: 1, Observe: func(calls int, _ time.Duration) { sizes = append(sizes, calls) },
	})
	number := redis.NewScript(`return 7`)
	nested := redis.NewScript(`return {"a", {"b", {}}, "c"}`)
	none := redis.NewScript(`return false`)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			switch i % 5 {
			case 0:
				if _, err := b.Do(t.Context(), "k", failScript, nil, nil); err == nil || err.Error() != "ODD refused" {
					t.Errorf("got %v, want %q", err, "ODD refused")
				}
			case 1:
				// Not the flat array that Do is for.
				for _, script := range []*redis.Script{number, nested} {
					if got, err := b.Do(t.Context(), "k", script, nil, nil); !errors.Is(err, roomstore.ErrBadReply) {
						t.Errorf("got %q, %v, want %v", got, err, roomstore.ErrBadReply)
					}
				}
			case 2:
				if _, err := b.Do(t.Context(), "k", none, nil, nil); err != redis.Nil {
					t.Errorf("got %v, want %v", err, redis.Nil)
				}
			default:
				if got, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{i}); err != nil || got[1] != strconv.Itoa(i) {
					t.Errorf("got %q, %v, want %d", got, err, i)
				}
			}
		})
	}
	eventually(t, func() bool { return b.Waiting() == 40 })
	stop := start(t, b)
	wg.Wait()
	stop()
	if sizes[0] != 40 {
		t.Errorf("pipelines of %v calls, want all in the first", sizes)
	}
}

// A call whose context ends before it is sent is never sent, and says so. One
// that has been sent says that it is not known what became of it.
func TestBatcher_Do_contextEnds(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	b := runBatcher(t, rdb, roomstore.BatcherConfig{Lanes: 1, Timeout: 20 * time.Second})
	b.Register(appendScript)
	if _, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{"first"}); err != nil {
		t.Fatal(err)
	}

	s.Pause()
	gone := errors.New("gone")
	call := func(value string) (cancel context.CancelCauseFunc, failed chan error) {
		ctx, cancel := context.WithCancelCause(t.Context())
		ctx, queued := announce(ctx)
		failed = make(chan error, 1)
		go func() {
			_, err := b.Do(ctx, "k", appendScript, []string{"k"}, []any{value})
			failed <- err
		}()
		<-queued
		return cancel, failed
	}
	cancelSent, sent := call("sent")
	eventually(t, func() bool { return b.Waiting() == 0 })
	cancelWaiting, waiting := call("waiting")
	_, last := call("last")
	cancelWaiting(gone)
	if err := <-waiting; !errors.Is(err, roomstore.ErrNotSent) || !errors.Is(err, gone) {
		t.Errorf("got %v, want %v and %v", err, roomstore.ErrNotSent, gone)
	}
	cancelSent(gone)
	if err := <-sent; errors.Is(err, roomstore.ErrNotSent) || !errors.Is(err, gone) {
		t.Errorf("got %v, want %v alone", err, gone)
	}
	cancelWaiting(nil)
	s.Resume()
	if err := <-last; err != nil {
		t.Error(err)
	}
	got, err := rdb.LRange(t.Context(), "k", 0, -1).Result()
	if want := []string{"first", "sent", "last"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Do(ended, "k", appendScript, []string{"k"}, []any{"x"}); !errors.Is(err, roomstore.ErrNotSent) {
		t.Errorf("got %v, want %v", err, roomstore.ErrNotSent)
	}
	if err := b.Lane("k").EvalSha(ended, appendScript.Hash(), []string{"k"}, "x").Err(); !errors.Is(err, roomstore.ErrNotSent) {
		t.Errorf("got %v, want %v", err, roomstore.ErrNotSent)
	}
}

// Beyond its bound a lane refuses calls, and no others.
func TestBatcher_Do_busy(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	b := roomstore.NewBatcher(s.Client(t), roomstore.BatcherConfig{Lanes: 1, MaxWaiting: 3})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{"x"}); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, func() bool { return b.Waiting() == 3 })
	if _, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{"x"}); !errors.Is(err, roomstore.ErrBusy) {
		t.Errorf("got %v, want %v", err, roomstore.ErrBusy)
	}
	defer start(t, b)()
	wg.Wait()
}

// A connection that fails fails the calls of its pipeline, each is sent at most
// once, and later calls are served; also by a Redis that knows no scripts.
func TestBatcher_connectionFails(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	b := runBatcher(t, rdb, roomstore.BatcherConfig{})
	var failed atomic.Int64
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for n := range 100 {
				value := fmt.Sprint(i, ".", n)
				if _, err := b.Do(t.Context(), value, appendScript, []string{"k"}, []any{value}); err != nil {
					if errors.Is(err, roomstore.ErrNotSent) {
						t.Errorf("got %v, want an unknown outcome", err)
					}
					failed.Add(1)
				}
				if i == 0 && n%10 == 0 {
					rdb.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes")
				}
			}
		})
	}
	wg.Wait()
	got, err := rdb.LRange(t.Context(), "k", 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(got); len(slices.Compact(got)) != len(got) {
		t.Error("a call took effect twice")
	}
	if n, bound := int64(len(got)), 5000-failed.Load(); n < bound {
		t.Errorf("%d calls took effect, %d were said to", n, bound)
	}
	t.Logf("%d of 5000 calls failed", failed.Load())

	s.Restart()
	eventually(t, func() bool {
		_, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{"x"})
		return err == nil
	})
}

// Calls for which there is no connection, since Redis answers its greeting with
// an error, have not been sent: while it loads its data, for instance. They were
// taken for scripts that return nothing.
func TestBatcher_greetingRefused(t *testing.T) {
	t.Parallel()
	var loading atomic.Bool
	s := redistest.Start(t)
	options := redistest.Options(s.Addr())
	options.OnConnect = func(ctx context.Context, c *redis.Conn) error {
		if loading.Load() {
			return c.Do(ctx, "LOADING").Err()
		}
		return nil
	}
	rdb := redis.NewClient(options)
	defer rdb.Close()
	b := runBatcher(t, rdb, roomstore.BatcherConfig{})
	push := func() error {
		_, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{"x"})
		return err
	}
	if err := push(); err != nil {
		t.Fatal(err)
	}
	loading.Store(true)
	s.Restart()
	// The first calls may find connections of before.
	eventually(t, func() bool { return errors.Is(push(), roomstore.ErrNotSent) })
	loading.Store(false)
	if err := push(); err != nil { // a script that this Redis has never heard of
		t.Errorf("got %v, want that it is called", err)
	}
}

// A pipeline that Redis does not answer in time fails.
func TestBatcher_timeout(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	b := runBatcher(t, s.Client(t), roomstore.BatcherConfig{Timeout: 50 * time.Millisecond})
	call := func() error {
		_, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{"x"})
		return err
	}
	eventually(t, func() bool { return call() == nil }) // the time may be too short for a busy machine
	s.Pause()
	err := roomstore.ErrNotSent
	eventually(t, func() bool { err = call(); return !errors.Is(err, roomstore.ErrNotSent) })
	if err == nil {
		t.Error("got no error, want an unknown outcome")
	}
	s.Resume()
	eventually(t, func() bool { return call() == nil })
}

// When Run ends what is under way gets its result, and what waits and what
// comes is not sent.
func TestBatcher_Run_stopped(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	b := roomstore.NewBatcher(rdb, roomstore.BatcherConfig{Lanes: 1, MaxBatch: 1, Timeout: 20 * time.Second})
	b.Register(appendScript)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	if _, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{"x"}); err != nil {
		t.Fatal(err)
	}

	s.Pause()
	results := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{"x"})
			results <- err
		}()
	}
	eventually(t, func() bool { return b.Waiting() == 1 })
	cancel()
	s.Resume()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	var notSent int
	for range 2 {
		if err := <-results; errors.Is(err, roomstore.ErrNotSent) {
			notSent++
		} else if err != nil {
			t.Error(err)
		}
	}
	if notSent != 1 {
		t.Errorf("%d calls not sent, want 1", notSent)
	}
	if _, err := b.Do(t.Context(), "k", appendScript, []string{"k"}, []any{"x"}); !errors.Is(err, roomstore.ErrNotSent) {
		t.Errorf("got %v, want %v", err, roomstore.ErrNotSent)
	}
	if n, err := rdb.LLen(t.Context(), "k").Result(); err != nil || n != 2 {
		t.Errorf("%d calls took effect, %v, want 2", n, err)
	}
}

// BenchmarkBatcher compares calls by a Batcher with calls that go alone, from
// many goroutines.
func BenchmarkBatcher(b *testing.B) {
	script := redis.NewScript(`
		redis.call("HSET", KEYS[1], "a", ARGV[1])
		return { "ok", ARGV[1], "2", "3" }`)
	for _, callers := range []int{1, 20, 200} {
		b.Run(fmt.Sprintf("alone/callers=%d", callers), func(b *testing.B) {
			rdb := redistest.New(b)
			benchmark(b, rdb, callers, func(ctx context.Context, room string) error {
				_, err := script.Run(ctx, rdb, []string{room}, "1").StringSlice()
				return err
			})
		})
		for _, lanes := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("lanes=%d/callers=%d", lanes, callers), func(b *testing.B) {
				rdb := redistest.New(b)
				var pipelines atomic.Int64
				batcher := runBatcher(b, rdb, roomstore.BatcherConfig{
					Lanes: lanes, Observe: func(int, time.Duration) { pipelines.Add(1) },
				})
				batcher.Register(script)
				benchmark(b, rdb, callers, func(ctx context.Context, room string) error {
					_, err := batcher.Do(ctx, room, script, []string{room}, []any{"1"})
					return err
				})
				b.ReportMetric(float64(b.N)/float64(pipelines.Load()), "calls/pipeline")
			})
		}
	}
}

func benchmark(b *testing.B, rdb *redis.Client, callers int, call func(context.Context, string) error) {
	prefix := redistest.Prefix()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	before := redisCPU(b, rdb)
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			room := prefix + strconv.Itoa(i)
			for left.Add(-1) >= 0 {
				if err := call(ctx, room); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric((redisCPU(b, rdb)-before)*1e6/float64(b.N), "redis-µs/op")
}

// redisCPU returns the seconds that Redis has worked.
func redisCPU(b *testing.B, rdb *redis.Client) (seconds float64) {
	b.Helper()
	return redistest.CPU(b, rdb).Seconds()
}

// runBatcher runs a Batcher until the test ends.
func runBatcher(t testing.TB, rdb redis.UniversalClient, cfg roomstore.BatcherConfig) *roomstore.Batcher {
	t.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second // the machine may be busy
	}
	b := roomstore.NewBatcher(rdb, cfg)
	t.Cleanup(start(t, b))
	return b
}

// start runs a Batcher and returns what stops it.
func start(t testing.TB, b *roomstore.Batcher) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	}
}

// announce returns a context for one call, and a channel that closes when the
// call is queued: it then begins to listen for the end of its context.
func announce(ctx context.Context) (context.Context, <-chan struct{}) {
	a := &announcing{Context: ctx, queued: make(chan struct{})}
	return a, a.queued
}

type announcing struct {
	context.Context
	once   sync.Once
	queued chan struct{}
}

func (a *announcing) Done() <-chan struct{} {
	a.once.Do(func() { close(a.queued) })
	return a.Context.Done()
}

// eventually waits for what Redis or another goroutine is about to do.
func eventually(t testing.TB, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !cond() {
		select {
		case <-poll.C:
		case <-ctx.Done():
			t.Fatal("did not happen")
		}
	}
}

// joinable answers to each of several calls with its own value, and keeps how many
// went as one. One call that is "odd" fails them all.
var joinable = redis.NewScript(`
	local replies = {}
	for i = 1, ARGV[1] do
		if ARGV[2 + i] == "odd" then
			return redis.error_reply("ODD refused")
		end
		replies[i] = { ARGV[2], ARGV[2 + i], ARGV[#ARGV] }
	end
	redis.call("RPUSH", KEYS[1], ARGV[1])
	if ARGV[2] == "all" then
		return { "none" }
	end
	return replies[2] and replies or replies[1]`)

// Calls that may be joined go as one with those that share keys and arguments with
// them, and each has its own result: also if the script answers once for all, or
// fails since one of them is odd.
func TestBatcher_Join(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(t)
	b := roomstore.NewBatcher(rdb, roomstore.BatcherConfig{Lanes: 1})
	b.Register(joinable)
	b.Join(joinable, 2)
	var wg sync.WaitGroup
	queued := 0
	ask := func(key, shared, own, last string, want []string, failure string) {
		wg.Go(func() {
			got, err := b.Do(t.Context(), own, joinable, []string{key}, []any{1, shared, own, last})
			if err != nil && err.Error() == failure {
				err, failure = nil, ""
			}
			if err != nil || failure != "" || !slices.Equal(got, want) {
				t.Errorf("%s: got %q, %v, want %q", own, got, err, want)
			}
		})
		queued++
		eventually(t, func() bool { return b.Waiting() == queued })
	}
	for i := range 70 {
		own := strconv.Itoa(i)
		ask("many", "a", own, "z", []string{"a", own, "z"}, "")
	}
	ask("other", "a", "other key", "z", []string{"a", "other key", "z"}, "")
	ask("many", "b", "other share", "z", []string{"b", "other share", "z"}, "")
	ask("many", "a", "other end", "y", []string{"a", "other end", "y"}, "")
	for _, n := range []int{5000, 6000, 5000, 5000, 40_000, 40_000} {
		own := strings.Repeat("x", n)
		ask("large", "a", own, "z", []string{"a", own, "z"}, "")
	}
	for i := range 3 {
		ask("once", "all", strconv.Itoa(i), "z", []string{"none"}, "")
	}
	ask("mixed", "a", "good", "z", []string{"a", "good", "z"}, "")
	ask("mixed", "a", "odd", "z", nil, "ODD refused")
	ask("mixed", "a", "better", "z", []string{"a", "better", "z"}, "")
	defer start(t, b)()
	wg.Wait()

	for key, want := range map[string][]string{
		"many": {"64", "6", "1", "1"}, "other": {"1"}, "once": {"3"}, "large": {"3", "1", "1", "1"}, "mixed": {"1", "1"},
	} {
		if got := rdb.LRange(t.Context(), key, 0, -1).Val(); !slices.Equal(got, want) {
			t.Errorf("%s: %q calls went as one, want %q", key, got, want)
		}
	}
}

// Calls that may be joined and others keep their results apart, whoever leaves
// meanwhile.
func TestBatcher_Join_left(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(t)
	b := roomstore.NewBatcher(rdb, roomstore.BatcherConfig{Lanes: 1})
	b.Register(joinable)
	b.Join(joinable, 2)
	leaving, leave := context.WithCancel(t.Context())
	var wg, left sync.WaitGroup
	left.Add(3)
	for i := range 9 {
		wg.Go(func() {
			ctx, own := t.Context(), strconv.Itoa(i)
			if i%3 == 0 {
				ctx = leaving
				defer left.Done()
			}
			if i%3 == 1 {
				got, err := b.Do(ctx, own, appendScript, []string{own}, []any{own})
				if want := []string{"1", own}; err != nil || !slices.Equal(got, want) {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
				return
			}
			got, err := b.Do(ctx, own, joinable, []string{"k"}, []any{1, "a", own, "z"})
			if i%3 == 0 {
				if !errors.Is(err, roomstore.ErrNotSent) {
					t.Errorf("left: got %q, %v, want %v", got, err, roomstore.ErrNotSent)
				}
				return
			}
			if want := []string{"a", own, "z"}; err != nil || !slices.Equal(got, want) {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
	eventually(t, func() bool { return b.Waiting() == 9 })
	leave()
	left.Wait()
	defer start(t, b)()
	wg.Wait()
	if got := rdb.LRange(t.Context(), "k", 0, -1).Val(); !slices.Equal(got, []string{"3"}) {
		t.Errorf("%q calls went as one, want 3", got)
	}
}
