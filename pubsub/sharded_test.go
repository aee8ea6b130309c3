package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/pubsub"
)

// runSharded runs a Sharded on a Cluster until the test ends.
func runSharded(t *testing.T, c *redistest.Cluster) (*pubsub.Sharded, *redis.ClusterClient) {
	t.Helper()
	rdb := c.Client()
	s := pubsub.NewSharded(func(tag string) *redis.Client {
		o := redistest.Options("{" + tag + "}")
		o.DialerRetries = 1
		o.Dialer = func(ctx context.Context, network, _ string) (net.Conn, error) {
			// This asks who has the slot now.
			if err := rdb.ForEachMaster(ctx, func(context.Context, *redis.Client) error { return nil }); err != nil {
				return nil, err
			}
			master, err := rdb.MasterForKey(ctx, "{"+tag+"}")
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, network, master.Options().Addr)
		}
		one := redis.NewClient(o)
		t.Cleanup(func() { one.Close() })
		return one
	}, pubsub.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
		if err := s.Subscribe(context.Background(), "{late}", newRecorder()); !errors.Is(err, pubsub.ErrStopped) {
			t.Errorf("got %v, want %v", err, pubsub.ErrStopped)
		}
	})
	return s, rdb
}

func spublish(t *testing.T, rdb *redis.ClusterClient, name string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := rdb.SPublish(t.Context(), name, p).Err(); err != nil {
			t.Error(err)
		}
	}
}

// What is published after Subscribe has returned is delivered, in order, whatever the
// slot, also if the topic was given up just before; and nothing is made anew for it.
func TestSharded_Subscribe(t *testing.T) {
	t.Parallel()
	s, rdb := runSharded(t, redistest.NewCluster(t))
	prefix := redistest.Prefix()
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			for j := range 30 {
				name := fmt.Sprintf("%s:{%d}:%d", prefix, i, j%3)
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(500*time.Microsecond))
				if err := s.Subscribe(ctx, name, newRecorder()); err == nil {
					s.Unsubscribe(name)
				}
				cancel()
				h := newRecorder()
				if err := s.Subscribe(t.Context(), name, h); err != nil {
					t.Error(err)
					return
				}
				spublish(t, rdb, name, "1", "2", "3")
				h.wait(t, func() bool { return len(h.got) == 3 })
				h.expect(t, 0, "1", "2", "3")
				s.Unsubscribe(name)
			}
		})
	}
	wg.Wait()
	if got := s.Stats(); got.Topics != 0 || got.Messages != 12*30*3 || got.Gaps != 0 || got.Reconnects != 0 {
		t.Errorf("got %+v", got)
	}
}

// What breaks concerns the topics of one hash tag: a connection that is made anew, and
// a slot that moves to another master, whose topics are live there when they hear of
// the gap.
func TestSharded_Gap(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	c := redistest.StartCluster(t, 3, false)
	s, rdb := runSharded(t, c)
	byTag := map[string][]string{}
	hs := map[string]*recorder{}
	for i := range 30 {
		tag := strconv.Itoa(i % 6)
		name := fmt.Sprintf("x:{%s}:%d", tag, i)
		hs[name] = newRecorder()
		byTag[tag] = append(byTag[tag], name)
		if err := s.Subscribe(t.Context(), name, hs[name]); err != nil {
			t.Fatal(err)
		}
	}
	gaps := map[string]int{}
	want := []string{}
	round := func(tag string) {
		t.Helper()
		gaps[tag]++
		want = append(want, strconv.Itoa(len(want)))
		for _, name := range byTag[tag] {
			hs[name].wait(t, func() bool { return hs[name].gaps == gaps[tag] })
		}
		for name := range hs {
			spublish(t, rdb, name, want[len(want)-1])
		}
		for _, h := range hs {
			h.wait(t, func() bool { return len(h.got) == len(want) })
		}
	}
	s.Reset(byTag["3"][0])
	round("3")

	for range 2 {
		master, err := rdb.MasterForKey(t.Context(), byTag["5"][0])
		if err != nil {
			t.Fatal(err)
		}
		from, to := c.Masters[0], c.Masters[1]
		for i, m := range c.Masters {
			if m.Addr() == master.Options().Addr {
				from, to = m, c.Masters[(i+1)%3]
			}
		}
		c.Move(byTag["5"][0], from, to, func() {})
		round("5")
	}
	for tag, names := range byTag {
		for _, name := range names {
			hs[name].expect(t, gaps[tag], want...)
		}
	}
}

// The topics of a master that dies are live again when its replica has taken over, and
// those of others hear nothing of it.
func TestSharded_masterDies(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	c := redistest.StartCluster(t, 3, true)
	s, rdb := runSharded(t, c)
	hs, doomed := map[string]*recorder{}, map[string]bool{}
	for i := range 12 {
		name := fmt.Sprintf("x:{%d}", i)
		hs[name] = newRecorder()
		if err := s.Subscribe(t.Context(), name, hs[name]); err != nil {
			t.Fatal(err)
		}
		master, err := rdb.MasterForKey(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		doomed[name] = master.Options().Addr == c.Masters[1].Addr()
	}
	c.Masters[1].Kill()
	for name, h := range hs {
		if doomed[name] {
			h.wait(t, func() bool { return h.gaps > 0 }) // once, or again for what was not sure to be told
		}
		spublish(t, rdb, name, "x")
		h.wait(t, func() bool { return len(h.got) == 1 })
		if !doomed[name] {
			h.expect(t, 0, "x")
		}
	}
}
