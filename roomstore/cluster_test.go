package roomstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// A talk is one member of one room who sends all the time.
type talk struct {
	who  roomstore.Session
	room roomstore.RoomID
	seqs []int64 // of what was stored
	errs []error
}

// talks has a member in each of some rooms send until stop is called, which gives
// what came of it.
func (w *world) talks(rooms int) (talks []*talk, stop func()) {
	w.Helper()
	for i := range rooms {
		id := fmt.Sprintf("t%d", i)
		tk := &talk{who: w.login(roomstore.UserID(id), roomstore.SessionID(id)), room: roomstore.RoomID(fmt.Sprintf("r%d", i))}
		w.enter(tk.who, tk.room)
		talks = append(talks, tk)
	}
	var over atomic.Bool
	var wg sync.WaitGroup
	for _, tk := range talks {
		wg.Go(func() {
			for n := 1; !over.Load(); n++ {
				sent, err := w.store.Send(w.ctx(), tk.who, roomstore.Message{
					Room: tk.room, RequestKey: roomstore.RequestKey(fmt.Sprint(n)), ID: fmt.Sprint(n), Payload: "{}"})
				if err != nil {
					tk.errs = append(tk.errs, err)
					select {
					case <-time.After(20 * time.Millisecond):
					case <-w.ctx().Done():
					}
					continue
				}
				tk.seqs = append(tk.seqs, sent.Seq)
			}
		})
	}
	return talks, func() { over.Store(true); wg.Wait() }
}

// masterOf gives the master that has a key.
func masterOf(t *testing.T, c *redistest.Cluster, rdb *redis.ClusterClient, key string) *redistest.Server {
	t.Helper()
	node, err := rdb.MasterForKey(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Masters {
		if s.Addr() == node.Options().Addr {
			return s
		}
	}
	t.Fatalf("no master at %s", node.Options().Addr)
	return nil
}

// While a hash slot moves to another master calls about its rooms wait; none fails,
// is lost, or is done twice or out of order, and others do not wait.
func TestCluster_slotMoves(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	c := redistest.StartCluster(t, 3, false)
	rdb := c.Client()
	w := newWorldOn(t, rdb, nil, roomstore.Config{Partitions: 4, Apart: true})
	w.dropped = true // what two masters publish comes in no order
	talks, stop := w.talks(8)
	part := w.part("r0")
	from := masterOf(t, c, rdb, part)
	to := c.Masters[0]
	if to == from {
		to = c.Masters[1]
	}
	during := 0
	for range 2 {
		c.Move(part, from, to, func() {
			during++
			// A room in the slot that moves, and one that does not exist yet.
			ctx, cancel := context.WithTimeout(w.ctx(), 100*time.Millisecond)
			defer cancel()
			if _, err := w.store.Send(ctx, talks[0].who, roomstore.Message{Room: "r0", ID: "x", Payload: "{}"}); err == nil {
				t.Error("a script ran while some of its keys were away")
			}
		})
		from, to = to, from
	}
	stop()
	if during < 2 {
		t.Fatalf("nothing was tried while it moved")
	}
	for _, tk := range talks {
		for _, err := range tk.errs {
			t.Errorf("%s: %v", tk.room, err)
		}
		last := int64(1)
		for _, seq := range tk.seqs {
			if seq <= last {
				t.Errorf("%s: seq %d after %d", tk.room, seq, last)
			}
			last = seq
		}
		at, err := w.store.Positions(w.ctx(), []roomstore.RoomID{tk.room})
		w.must(err)
		if extra := at[tk.room].Seq - int64(len(tk.seqs)) - 1; extra < 0 || extra > 2 {
			t.Errorf("%s is at seq %d, %d messages were stored", tk.room, at[tk.room].Seq, len(tk.seqs))
		}
	}
}

// A master that dies concerns its own partitions: calls about others go on. When its
// replica has taken over, its slots have a new term, which the others do not.
func TestCluster_masterDies(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	c := redistest.StartCluster(t, 3, true)
	prefix := redistest.Prefix()
	terms := roomstore.NewTerms(prefix, 4)
	options := c.Options()
	options.OnConnect = terms.OnConnect
	options.DialTimeout, options.ReadTimeout = time.Second, time.Second
	rdb := redis.NewClusterClient(options)
	t.Cleanup(func() { rdb.Close() })
	calls := runBatcher(t, rdb, roomstore.BatcherConfig{Slots: roomstore.ClusterSlots(prefix, 4), Timeout: time.Second})
	store := roomstore.New(calls, roomstore.Config{Prefix: prefix, Partitions: 4, Apart: true, Terms: terms})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	if err := store.Greet(ctx); err != nil {
		t.Fatal(err)
	}
	before := store.Term()

	w := &world{T: t, rdb: rdb, store: store, prefix: prefix, parts: 4, apart: true, end: ctx, sessions: map[roomstore.SessionID]roomstore.Session{}}
	slots := roomstore.ClusterSlots(prefix, 4)
	victim := masterOf(t, c, rdb, slots[0])
	doomed := map[string]bool{}
	for _, slot := range slots {
		doomed[slot] = masterOf(t, c, rdb, slot) == victim
	}
	talks, stop := w.talks(12)
	victim.Kill()

	// A gateway puts back what it knows, and goes on under the new term.
	var after string
	for {
		g, err := store.Ask(ctx)
		if err == nil && g.Term != before && g.Opens == 0 {
			after = g.Term
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("%v, term %q", err, g.Term)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	store.Adopt(after)
	x, y := strings.Split(before, ","), strings.Split(after, ",")
	for i, slot := range slots {
		if changed := x[i] != y[i]; changed != doomed[slot] {
			t.Errorf("slot %s, of the master that died: %t, has a new term: %t", slot, doomed[slot], changed)
		}
	}
	for _, tk := range talks {
		if doomed[w.part(tk.room)] {
			_, err := store.Send(ctx, tk.who, roomstore.Message{Room: tk.room, RequestKey: "999999", ID: "y", Payload: "{}"})
			if err != nil && !errors.Is(err, roomstore.ErrNoRoom) && !errors.Is(err, roomstore.ErrNotMember) {
				t.Errorf("%s, after the failover: %v", tk.room, err)
			}
		}
	}
	stop()
	for _, tk := range talks {
		if !doomed[w.part(tk.room)] && len(tk.errs) > 0 {
			t.Errorf("%s, on another master: %v", tk.room, tk.errs[0])
		}
		if len(tk.seqs) == 0 {
			t.Errorf("%s: nothing was stored", tk.room)
		}
	}
}
