package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/pubsub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, redistest.Dialing()) }

// What is published after Subscribe has returned is delivered, in order, also
// if others subscribe at the same time.
func TestBus_Subscribe_isLiveOnReturn(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	bus := run(t, rdb, pubsub.Config{})
	prefix := redistest.Prefix()

	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 50 {
				name := fmt.Sprintf("%s:%d:%d", prefix, i, j)
				h := newRecorder()
				if err := bus.Subscribe(t.Context(), name, h); err != nil {
					t.Error(err)
					return
				}
				publish(t, rdb, name, "1", "2", "3")
				h.wait(t, func() bool { return len(h.got) == 3 })
				h.expect(t, 0, "1", "2", "3")
				bus.Unsubscribe(name)
			}
		})
	}
	wg.Wait()
	if got := bus.Stats(); got.Topics != 0 || got.Messages != 16*50*3 || got.Gaps != 0 || got.Reconnects != 0 {
		t.Errorf("got %+v", got)
	}
}

// A topic that is subscribed again, at once or after the first subscription
// was given up half-way, is as live as any other, and what was meant for the
// earlier handler does not reach the later.
func TestBus_Subscribe_again(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	bus := run(t, rdb, pubsub.Config{})
	prefix := redistest.Prefix()

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := prefix + strconv.Itoa(i)
			for j := range 100 {
				// Given up somewhere between queued and confirmed.
				early := newRecorder()
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(300*time.Microsecond))
				err := bus.Subscribe(ctx, name, early)
				cancel()
				if err == nil {
					bus.Unsubscribe(name)
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
				}

				h := newRecorder()
				if err := bus.Subscribe(t.Context(), name, h); err != nil {
					t.Error(err)
					return
				}
				want := strconv.Itoa(j)
				publish(t, rdb, name, want)
				h.wait(t, func() bool { return len(h.got) == 1 })
				h.expect(t, 0, want)
				early.expect(t, 0)
				bus.Unsubscribe(name)
			}
		})
	}
	wg.Wait()
	unsubscribed(t, rdb, bus, prefix+"*")
}

// A topic has one handler at a time.
func TestBus_Subscribe_taken(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	bus := run(t, rdb, pubsub.Config{})
	name := redistest.Prefix()
	h := newRecorder()
	if err := bus.Subscribe(t.Context(), name, h); err != nil {
		t.Fatal(err)
	}
	if err := bus.Subscribe(t.Context(), name, newRecorder()); !errors.Is(err, pubsub.ErrTaken) {
		t.Errorf("got %v, want %v", err, pubsub.ErrTaken)
	}
	publish(t, rdb, name, "for the first")
	h.wait(t, func() bool { return len(h.got) == 1 })
}

// A handler may unsubscribe its own topic, and then gets no more of it.
func TestBus_Unsubscribe_byHandler(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	bus := run(t, rdb, pubsub.Config{})
	name, other := redistest.Prefix(), redistest.Prefix()
	h, last := newRecorder(), newRecorder()
	h.onDeliver = func() { bus.Unsubscribe(name) }
	for name, h := range map[string]*recorder{name: h, other: last} {
		if err := bus.Subscribe(t.Context(), name, h); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, rdb, name, "1", "2", "3")
	publish(t, rdb, other, "end")
	last.wait(t, func() bool { return len(last.got) == 1 })
	h.expect(t, 0, "1")
	unsubscribed(t, rdb, bus, name)
}

// While Redis is deaf Subscribe fails when its context ends, with the cause,
// and leaves nothing behind; also when the topic is unsubscribed meanwhile.
func TestBus_Subscribe_deafRedis(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	bus := run(t, s.Client(t), pubsub.Config{})
	early, late := newRecorder(), newRecorder()
	if err := bus.Subscribe(t.Context(), "up", newRecorder()); err != nil {
		t.Fatal(err)
	}

	s.Pause()
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := make(chan error, 2)
	go func() { failed <- bus.Subscribe(ctx, "a", early) }()
	go func() { failed <- bus.Subscribe(t.Context(), "b", early) }()
	eventually(t, func() bool { return bus.Stats().Topics == 3 })
	cancel(gone)
	if err := <-failed; !errors.Is(err, gone) {
		t.Errorf("got %v, want %v", err, gone)
	}
	bus.Unsubscribe("b")
	if err := <-failed; !errors.Is(err, pubsub.ErrUnsubscribed) {
		t.Errorf("got %v, want %v", err, pubsub.ErrUnsubscribed)
	}

	// The confirmation of the first is still to come, and is not the second's.
	go func() { failed <- bus.Subscribe(t.Context(), "a", late) }()
	eventually(t, func() bool { return bus.Stats().Topics == 2 })
	s.Resume()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	publish(t, s.Client(t), "a", "x")
	late.wait(t, func() bool { return len(late.got) == 1 })
	late.expect(t, 0, "x")
	early.expect(t, 0)
	unsubscribed(t, s.Client(t), bus, "b")
}

// Without Redis Subscribe fails when its context ends and leaves nothing
// behind. When Redis comes the same topic can be subscribed.
func TestBus_Subscribe_deadRedis(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Kill()
	bus := run(t, s.Client(t), pubsub.Config{})
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		err := bus.Subscribe(ctx, "a", newRecorder())
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		if n := bus.Stats().Topics; n != 0 {
			t.Errorf("%d topics, want none", n)
		}
	}
	// One that waits gets its turn.
	h := newRecorder()
	done := make(chan error, 1)
	go func() { done <- bus.Subscribe(t.Context(), "b", h) }()
	s.Restart()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	publish(t, s.Client(t), "b", "x")
	h.wait(t, func() bool { return len(h.got) == 1 })
	h.expect(t, 0, "x")
	unsubscribed(t, s.Client(t), bus, "a")
}

// Every handler is told of a lost connection once, and only when its topic is
// live again.
func TestBus_Gap_killedConnection(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	bus := run(t, rdb, pubsub.Config{})
	hs := subscribe(t, bus, 100)

	for round := 1; round <= 3; round++ {
		if n, err := rdb.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Result(); err != nil || n != 1 {
			t.Fatalf("killed %d connections, %v, want 1", n, err)
		}
		for name, h := range hs {
			h.wait(t, func() bool { return h.gaps == round })
			publish(t, rdb, name, strconv.Itoa(round))
		}
		for _, h := range hs {
			h.wait(t, func() bool { return len(h.got) == round })
		}
	}
	for _, h := range hs {
		h.expect(t, 3, "1", "2", "3")
	}
	eventually(t, func() bool { return bus.Stats().Reconnects == 3 })
	if got := bus.Stats(); got.Gaps != 300 || got.Messages != 300 || got.Topics != 100 {
		t.Errorf("got %+v", got)
	}
}

// A Redis that starts anew is as good as the old one.
func TestBus_Gap_restartedRedis(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	bus := run(t, s.Client(t), pubsub.Config{})
	hs := subscribe(t, bus, 100)
	s.Restart()
	rdb := s.Client(t)
	for name, h := range hs {
		h.wait(t, func() bool { return h.gaps == 1 })
		publish(t, rdb, name, "x")
	}
	for _, h := range hs {
		h.wait(t, func() bool { return len(h.got) == 1 })
		h.expect(t, 1, "x")
	}
}

// Many topics come back as well, within a few seconds.
func TestBus_Gap_manyTopics(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	bus := run(t, rdb, pubsub.Config{})
	hs := subscribe(t, bus, 5000)
	start := time.Now()
	if err := rdb.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err(); err != nil {
		t.Fatal(err)
	}
	for _, h := range hs {
		h.wait(t, func() bool { return h.gaps == 1 })
	}
	t.Logf("%d topics subscribed again in %v", len(hs), time.Since(start))
	pipe := rdb.Pipeline()
	for name := range hs {
		pipe.Publish(t.Context(), name, "x")
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, h := range hs {
		h.wait(t, func() bool { return len(h.got) == 1 })
		h.expect(t, 1, "x")
	}
}

// Reset replaces a connection that is open, and each topic gets one Gap.
func TestBus_Reset(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	bus := run(t, rdb, pubsub.Config{})
	hs := subscribe(t, bus, 100)
	for round := 1; round <= 3; round++ {
		bus.Reset("")
		for name, h := range hs {
			h.wait(t, func() bool { return h.gaps == round })
			publish(t, rdb, name, strconv.Itoa(round))
		}
		for _, h := range hs {
			h.wait(t, func() bool { return len(h.got) == round })
		}
	}
	for _, h := range hs {
		h.expect(t, 3, "1", "2", "3")
	}
	eventually(t, func() bool { return bus.Stats().Reconnects == 3 })
	list, err := rdb.ClientList(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	if n := countPubSub(list); n != 1 {
		t.Errorf("%d connections, want 1:\n%s", n, list)
	}
}

// A topic that Redis refuses is not reported as subscribed; when Redis allows
// it, it is.
func TestBus_Subscribe_refused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	setACL := func(rules ...any) {
		t.Helper()
		if err := rdb.Do(t.Context(), append([]any{"ACL", "SETUSER", "default"}, rules...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	setACL("resetchannels", "&allowed:*")
	bus := run(t, rdb, pubsub.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := bus.Subscribe(ctx, "refused", newRecorder()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
	for _, name := range []string{"allowed:1", "refused"} {
		h := newRecorder()
		if err := bus.Subscribe(t.Context(), name, h); err != nil {
			t.Fatal(err)
		}
		publish(t, rdb, name, "x")
		h.wait(t, func() bool { return len(h.got) == 1 })
		setACL("allchannels")
	}
}

// Whatever else subscribes, unsubscribes and breaks at the same time, no
// message published between a confirmed Subscribe and Unsubscribe is missed
// unless a Gap says so, none comes twice, and nothing stays subscribed.
func TestBus_churn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		disturb func(*redis.Client, *pubsub.Bus)
	}{
		{name: "undisturbed"},
		{name: "killed", disturb: func(rdb *redis.Client, _ *pubsub.Bus) {
			rdb.ClientKillByFilter(context.Background(), "TYPE", "pubsub")
		}},
		{name: "reset", disturb: func(_ *redis.Client, bus *pubsub.Bus) { bus.Reset("") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			rdb := s.Client(t)
			bus := run(t, rdb, pubsub.Config{})

			var rounds atomic.Int64
			var wg sync.WaitGroup
			for i := range 12 {
				wg.Go(func() {
					name := strconv.Itoa(i)
					for j := range 150 {
						churn(t, rdb, bus, name, j)
						if n := rounds.Add(1); n%100 == 0 && tt.disturb != nil {
							tt.disturb(rdb, bus)
						}
					}
				})
			}
			wg.Wait()
			unsubscribed(t, rdb, bus, "*")
			t.Logf("%+v", bus.Stats())
		})
	}
}

// churn is one round of a topic: subscribe, in some rounds only after giving
// up, publish, and check what came.
func churn(t *testing.T, rdb *redis.Client, bus *pubsub.Bus, name string, round int) {
	if round%3 == 0 {
		ctx, cancel := context.WithTimeout(t.Context(), rand.N(300*time.Microsecond))
		if bus.Subscribe(ctx, name, newRecorder()) == nil {
			bus.Unsubscribe(name)
		}
		cancel()
	}
	h := newRecorder()
	if err := bus.Subscribe(t.Context(), name, h); err != nil {
		t.Error(err)
		return
	}
	defer bus.Unsubscribe(name)
	var want []string
	for k := range 3 {
		want = append(want, fmt.Sprintf("%d.%d", round, k))
	}
	publish(t, rdb, name, want...)
	h.wait(t, func() bool { return len(h.got) == len(want) || h.gaps > 0 })
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gaps == 0 && fmt.Sprint(h.got) != fmt.Sprint(want) {
		t.Errorf("topic %s: got %v, want %v", name, h.got, want)
	}
	for i := 1; i < len(h.got); i++ {
		if h.got[i-1] >= h.got[i] {
			t.Errorf("topic %s: got %v, want each once and in order", name, h.got)
		}
	}
}

// A Bus that has stopped fails those who wait and those who come.
func TestBus_Run_stopped(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Kill()
	bus := pubsub.New(s.Client(t), pubsub.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() { waiting <- bus.Subscribe(t.Context(), "a", newRecorder()) }()
	eventually(t, func() bool { return bus.Stats().Topics == 1 })
	cancel()
	if err := bus.Run(ctx); err != nil {
		t.Errorf("Run returned %v", err)
	}
	if err := <-waiting; !errors.Is(err, pubsub.ErrStopped) {
		t.Errorf("got %v, want %v", err, pubsub.ErrStopped)
	}
	if err := bus.Subscribe(t.Context(), "a", newRecorder()); !errors.Is(err, pubsub.ErrStopped) {
		t.Errorf("got %v, want %v", err, pubsub.ErrStopped)
	}
	bus.Unsubscribe("a")
	bus.Reset("")
	if got := bus.Stats(); got != (pubsub.Stats{}) {
		t.Errorf("got %+v, want none", got)
	}
}

// BenchmarkBus_receive measures what one message costs this process.
func BenchmarkBus_receive(b *testing.B) {
	for _, protocol := range []int{2, 3} {
		b.Run(fmt.Sprintf("resp%d", protocol), func(b *testing.B) {
			opt := *redistest.New(b).Options()
			opt.Protocol = protocol
			rdb := redis.NewClient(&opt)
			defer rdb.Close()
			bus := run(b, rdb, pubsub.Config{})
			h := &counter{want: int64(b.N), done: make(chan struct{})}
			name := redistest.Prefix()
			if err := bus.Subscribe(b.Context(), name, h); err != nil {
				b.Fatal(err)
			}
			// Redis publishes by itself, so that what is measured is the Bus.
			publisher := redis.NewScript(`for i = 1, ARGV[1] do redis.call("PUBLISH", KEYS[1], ARGV[2]) end`)
			payload := string(make([]byte, 200))
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; left -= 1000 {
				if err := publisher.Run(b.Context(), rdb, []string{name}, min(left, 1000), payload).Err(); err != nil && err != redis.Nil {
					b.Fatal(err)
				}
			}
			<-h.done
		})
	}
}

// BenchmarkBus_gateways says what an event costs Redis by how many gateways have members
// of its room.
func BenchmarkBus_gateways(b *testing.B) {
	for _, gateways := range []int{1, 2, 4, 8, 16, 32} {
		b.Run(strconv.Itoa(gateways), func(b *testing.B) {
			rdb := redistest.Start(b).Client(b)
			name, payload := redistest.Prefix(), string(make([]byte, 200))
			var heard []*counter
			for range gateways {
				h := &counter{want: int64(b.N), done: make(chan struct{})}
				if err := run(b, rdb, pubsub.Config{}).Subscribe(b.Context(), name, h); err != nil {
					b.Fatal(err)
				}
				heard = append(heard, h)
			}
			before := redistest.CPU(b, rdb)
			b.ResetTimer()
			for left := b.N; left > 0; left -= 100 {
				p := rdb.Pipeline() // as calls are gathered
				for range min(left, 100) {
					p.Publish(b.Context(), name, payload)
				}
				if _, err := p.Exec(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			for _, h := range heard {
				<-h.done
			}
			b.ReportMetric(float64((redistest.CPU(b, rdb)-before).Nanoseconds())/1000/float64(b.N), "redis-µs/op")
		})
	}
}

type counter struct {
	n, want int64
	done    chan struct{}
}

func (c *counter) Deliver(string) {
	if c.n++; c.n == c.want {
		close(c.done)
	}
}

func (c *counter) Gap() {}

// run runs a Bus until the test ends.
func run(t testing.TB, rdb *redis.Client, cfg pubsub.Config) *pubsub.Bus {
	t.Helper()
	bus := pubsub.New(rdb, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- bus.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return bus
}

// subscribe subscribes to n topics at once.
func subscribe(t *testing.T, bus *pubsub.Bus, n int) map[string]*recorder {
	t.Helper()
	hs := make(map[string]*recorder, n)
	var wg sync.WaitGroup
	for i := range n {
		name, h := fmt.Sprintf("topic:%d", i), newRecorder()
		hs[name] = h
		wg.Go(func() {
			if err := bus.Subscribe(t.Context(), name, h); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return hs
}

func publish(t testing.TB, rdb *redis.Client, name string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := rdb.Publish(t.Context(), name, p).Err(); err != nil {
			t.Error(err)
		}
	}
}

// unsubscribed waits until Redis sends no topic of a pattern, and then makes
// sure that it stays so when everything is subscribed anew.
func unsubscribed(t *testing.T, rdb *redis.Client, bus *pubsub.Bus, pattern string) {
	t.Helper()
	check := func() {
		t.Helper()
		eventually(t, func() bool {
			names, err := rdb.PubSubChannels(t.Context(), pattern).Result()
			return err == nil && len(names) == 0
		})
	}
	check()
	was := bus.Stats().Reconnects
	bus.Reset("")
	eventually(t, func() bool { return bus.Stats().Reconnects > was })
	check()
}

func countPubSub(list string) (n int) {
	for line := range strings.SplitSeq(list, "\n") {
		if strings.Contains(line, "cmd=subscribe") || strings.Contains(line, "cmd=ping") {
			n++
		}
	}
	return n
}

// recorder is a Handler that remembers.
type recorder struct {
	onDeliver func()

	mu      sync.Mutex
	changed sync.Cond
	got     []string
	gaps    int
}

func newRecorder() *recorder {
	h := &recorder{}
	h.changed.L = &h.mu
	return h
}

func (h *recorder) Deliver(payload string) {
	h.mu.Lock()
	h.got = append(h.got, payload)
	h.changed.Broadcast()
	h.mu.Unlock()
	if h.onDeliver != nil {
		h.onDeliver()
	}
}

func (h *recorder) Gap() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gaps++
	h.changed.Broadcast()
}

// wait waits until cond, which is called with the lock held, is true.
func (h *recorder) wait(t testing.TB, cond func() bool) {
	t.Helper()
	late := false
	defer time.AfterFunc(patience, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		late = true
		h.changed.Broadcast()
	}).Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for !cond() {
		if late {
			t.Errorf("got %q and %d gaps, and no more came", h.got, h.gaps)
			return
		}
		h.changed.Wait()
	}
}

func (h *recorder) expect(t testing.TB, gaps int, want ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if fmt.Sprint(h.got) != fmt.Sprint(want) || h.gaps != gaps {
		t.Errorf("got %q and %d gaps, want %q and %d", h.got, h.gaps, want, gaps)
	}
}

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

// eventually waits for what Redis or another goroutine is about to do.
func eventually(t testing.TB, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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
