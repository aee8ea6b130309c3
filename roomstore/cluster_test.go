package roomstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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

// A connection to a Cluster is greeted in a few round trips, however many slots there are:
// gateways make many connections at once.
func TestCluster_greetsTogether(t *testing.T) {
	t.Parallel()
	const parts, most = 64, 8
	c := redistest.NewCluster(t)
	prefix := redistest.Prefix()
	terms := roomstore.NewTerms(prefix, parts)
	var asked sync.Map // how often each connection has called scripts
	options := c.Options()
	options.OnConnect = terms.OnConnect
	options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		n := &atomic.Int64{}
		asked.Store(n, nil)
		return &countedWrites{conn, n}, nil
	}
	rdb := redis.NewClusterClient(options)
	t.Cleanup(func() { rdb.Close() })
	calls := runBatcher(t, rdb, roomstore.BatcherConfig{Slots: roomstore.ClusterSlots(prefix, parts), Timeout: 10 * time.Second})
	roomstore.New(calls, roomstore.Config{Prefix: prefix, Partitions: parts, Apart: true, Terms: terms})
	if err := rdb.ForEachMaster(t.Context(), func(ctx context.Context, master *redis.Client) error {
		conn := master.Conn()
		defer conn.Close()
		return conn.Ping(ctx).Err()
	}); err != nil {
		t.Fatal(err)
	}
	connections := 0
	asked.Range(func(n, _ any) bool {
		if writes := n.(*atomic.Int64).Load(); writes > most {
			t.Errorf("a connection has asked %d times, want at most %d", writes, most)
		} else if writes > 0 {
			connections++
		}
		return true
	})
	if connections < len(c.Masters) {
		t.Errorf("there were %d connections, so this shows nothing", connections)
	}
}

// countedWrites counts the writes to a connection that have calls of scripts.
type countedWrites struct {
	net.Conn
	n *atomic.Int64
}

func (c *countedWrites) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("evalsha")) || bytes.Contains(b, []byte("eval\r\n")) {
		c.n.Add(1)
	}
	return c.Conn.Write(b)
}

// newClusterWorld is a world on a Cluster, greeted, whose connections and calls give up
// after a second.
func newClusterWorld(t *testing.T, c *redistest.Cluster, parts int) (*world, *redis.ClusterClient) {
	t.Helper()
	prefix := redistest.Prefix()
	terms := roomstore.NewTerms(prefix, parts)
	options := c.Options()
	options.OnConnect = terms.OnConnect
	options.DialTimeout, options.ReadTimeout = time.Second, time.Second
	rdb := redis.NewClusterClient(options)
	t.Cleanup(func() { rdb.Close() })
	calls := runBatcher(t, rdb, roomstore.BatcherConfig{Slots: roomstore.ClusterSlots(prefix, parts), Timeout: time.Second})
	store := roomstore.New(calls, roomstore.Config{Prefix: prefix, Partitions: parts, Apart: true, Terms: terms})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	t.Cleanup(cancel)
	w := &world{T: t, rdb: rdb, store: store, prefix: prefix, parts: parts, apart: true, end: ctx, sessions: map[roomstore.SessionID]roomstore.Session{}}
	w.must(store.Greet(ctx))
	return w, rdb
}

// A master that dies concerns its own partitions: calls about others go on. When its
// replica has taken over, its slots have a new term, which the others do not.
func TestCluster_masterDies(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	c := redistest.StartCluster(t, 3, true)
	w, rdb := newClusterWorld(t, c, 4)
	ctx, store, prefix := w.end, w.store, w.prefix
	before := store.Term()
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

// A call waits for a node that serves nobody yet, also where there is no connection since
// it cannot be greeted.
func TestCluster_greetingRefused(t *testing.T) {
	t.Parallel()
	c := redistest.NewCluster(t)
	prefix := redistest.Prefix()
	options := c.Options()
	var refused atomic.Int64
	options.OnConnect = func(context.Context, *redis.Conn) error {
		if refused.Add(1) <= 3 {
			return refusal("CLUSTERDOWN The cluster is down")
		}
		return nil
	}
	rdb := redis.NewClusterClient(options)
	t.Cleanup(func() { rdb.Close() })
	calls := runBatcher(t, rdb, roomstore.BatcherConfig{Slots: roomstore.ClusterSlots(prefix, 1), Timeout: 10 * time.Second})
	key := prefix + ":{0}:list"
	if _, err := calls.Do(t.Context(), "", appendScript, []string{key}, []any{"v"}); err != nil || refused.Load() <= 3 {
		t.Errorf("got %v after %d connections, want that it waits", err, refused.Load())
	}
}

// refusal is an answer of Redis.
type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

// A master that comes back with what it had a while ago stores nothing under the term of
// before: it would give positions away again. It serves nobody at first, and whoever has
// connected to it meanwhile may not have greeted it.
func TestCluster_masterRolledBack(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	c := redistest.StartCluster(t, 3, false)
	w, rdb := newClusterWorld(t, c, 4)
	ctx, store := w.end, w.store
	who := w.login("ana", "s1")
	w.enter(who, "R")
	n := 0
	send := func() (roomstore.Sent, error) {
		n++
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		return store.Send(ctx, who, roomstore.Message{Room: "R", RequestKey: roomstore.RequestKey(fmt.Sprint(n)), ID: fmt.Sprint(n), Payload: "{}"})
	}
	master := masterOf(t, c, rdb, w.part("R"))
	w.must(master.Client(t).Save(ctx).Err())
	for range 3 {
		_, err := send()
		w.must(err)
	}
	const enough = 5 // times after all is well again
	tried := make(chan error, 1000)
	var over atomic.Bool
	var trying sync.WaitGroup
	defer trying.Wait()
	defer over.Store(true)
	master.Restart()
	trying.Go(func() {
		for !over.Load() && len(tried) < cap(tried) {
			_, err := send()
			tried <- err
		}
	})
	c.Settled()
	for left := len(tried) + enough; left > 0; left-- {
		if err := <-tried; err == nil {
			t.Fatal("a message is stored under the term of before")
		}
	}
}

// While a master is away what a slot of another has lost is put back, and calls into
// it go on; when the replica has taken over, so it is with the slots of that master. Of
// all other slots nothing is touched.
func TestCluster_healsSlotBySlot(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	c := redistest.StartCluster(t, 3, true)
	const parts = 6
	w, rdb := newClusterWorld(t, c, parts)
	ctx, store, prefix := w.end, w.store, w.prefix
	slots := roomstore.ClusterSlots(prefix, parts)
	w.lease("n1")

	// In each partition a room, with users of all slots.
	rooms := make([]roomstore.RoomID, parts)
	for i, left := 0, parts; left > 0; i++ {
		id := "r" + fmt.Sprint(i)
		if p := w.hash(id); rooms[p] == "" {
			rooms[p], left = roomstore.RoomID(id), left-1
		}
	}
	known := map[roomstore.RoomID]*knower{}
	for i := range 2 * parts {
		who := w.login(roomstore.UserID(fmt.Sprint("u", i)), roomstore.SessionID(fmt.Sprint("u", i)))
		for _, room := range rooms[:4] {
			w.enter(who, room)
		}
	}
	rooms = rooms[:4]
	for _, room := range rooms {
		known[room] = w.knows("n1", room)
	}
	say := func(room roomstore.RoomID) error {
		_, err := store.Send(ctx, w.s("u0"), roomstore.Message{Room: room, ID: "m", Payload: "{}"})
		return err
	}
	replaced := map[string]bool{} // slots that come to have a new term
	victim := masterOf(t, c, rdb, slots[0])
	for _, slot := range slots {
		replaced[slot] = masterOf(t, c, rdb, slot) == victim
	}
	wiped := roomstore.RoomID("")
	for _, room := range rooms {
		if !replaced[w.part(room)] {
			wiped = room
		}
	}
	if !replaced[w.part(rooms[0])] || wiped == "" {
		t.Fatalf("%v are of the master that dies", replaced)
	}
	replaced[w.part(wiped)] = true
	other := masterOf(t, c, rdb, w.part(wiped)).Client(t)
	before := store.Term()
	ask := func(ready func(g roomstore.Greeting) bool) roomstore.Greeting {
		t.Helper()
		for {
			g, err := store.Ask(ctx)
			if err == nil && ready(g) {
				return g
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("%v, %+v", err, g)
			}
		}
	}
	// putBack puts back all that this gateway knows, as a gateway does that does not
	// know what was lost.
	putBack := func(term string) {
		t.Helper()
		var sessions []roomstore.Holding
		for i := range 2 * parts {
			sessions = append(sessions, roomstore.Holding{Session: w.s(roomstore.SessionID(fmt.Sprint("u", i))), Rooms: rooms})
		}
		lost, strays, err := store.Reclaim(ctx, term, store.Term(), "n1", sessions)
		if err != nil || len(lost)+len(strays) > 0 {
			t.Fatalf("%v %v %v", lost, strays, err)
		}
		for _, room := range rooms {
			absent, err := store.Heal(ctx, term, store.Term(), "n1", known[room].rec)
			if err != nil || len(absent) > 0 {
				t.Fatalf("%s: %v, absent %q", room, err, absent)
			}
		}
	}
	termOf := func(term, slot string) string {
		for i, s := range slots {
			if s == slot {
				return strings.Split(term, ",")[i]
			}
		}
		return ""
	}

	victim.Kill()
	for _, key := range other.Keys(ctx, w.part(wiped)+"*").Val() {
		w.must(other.Del(ctx, key).Err())
	}
	lost := func(g roomstore.Greeting) bool { return termOf(g.Term, w.part(wiped)) != termOf(before, w.part(wiped)) }
	g := ask(lost)
	if !g.Unheard {
		t.Fatal("the master that is dead has answered")
	}
	putBack(g.Term)
	g = ask(func(g roomstore.Greeting) bool {
		return termOf(g.Ready, w.part(wiped)) != termOf(before, w.part(wiped))
	})
	if termOf(g.Ready, slots[0]) != termOf(before, slots[0]) {
		t.Fatal("the master that died is open again, before the other slot")
	}
	store.Adopt(g.Ready)
	for _, room := range rooms {
		if !replaced[w.part(room)] || room == wiped {
			if err := say(room); err != nil {
				t.Errorf("%s, while another master is away: %v", room, err)
			}
		}
	}
	for g = ask(func(g roomstore.Greeting) bool { return g.Term != store.Term() && !g.Unheard }); g.Opens > 0; g = ask(func(roomstore.Greeting) bool { return true }) {
		putBack(g.Term)
	}
	putBack(g.Term)
	store.Adopt(g.Ready)
	for i, slot := range slots {
		x, y := strings.Split(before, ",")[i], strings.Split(g.Ready, ",")[i]
		if (x != y) != replaced[slot] {
			t.Errorf("slot %s, of the master that died or wiped: %t, has a new term: %t", slot, replaced[slot], x != y)
		}
	}
	lives, err := store.Lives(ctx, rooms)
	w.must(err)
	for _, room := range rooms {
		w.must(say(room))
		if n := rdb.ZCard(ctx, w.part(room)+"members:"+string(room)).Val(); n != 2*parts {
			t.Errorf("%s has %d members, want %d", room, n, 2*parts)
		}
		if again := lives[room].Epoch != known[room].rec.Epoch; again && !replaced[w.part(room)] || !again && room == wiped {
			t.Errorf("%s goes on under a new epoch: %t", room, again)
		}
	}
}
