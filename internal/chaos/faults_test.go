//go:build linux

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/internal/redistest"
)

// A fault is something that goes wrong for a while.
type fault struct {
	name string
	// lasts gives its time; nil: it is over at once.
	lasts func(r *rand.Rand) time.Duration
	// begin has it happen to the station in place i, or to all, and gives what
	// ends it.
	begin func(w *world, i int) (end func())
	// last: it ends after those that it overlaps with, since it needs Redis
	// for that.
	last bool
	// redis: it happens to Redis, and not together with another such.
	redis bool
}

func between(from, to time.Duration) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration { return from + time.Duration(r.Int64N(int64(to-from)+1)) }
}

func exactly(d time.Duration) func(*rand.Rand) time.Duration {
	return func(*rand.Rand) time.Duration { return d }
}

// nothing ends what is over at once.
func nothing() {}

// faults are all there are.
var faults = []fault{
	{name: "a gateway is killed", last: true, lasts: between(0, time.Second), begin: func(w *world, i int) func() {
		// Some of its clients go down with it.
		s := w.place(i)
		for _, p := range w.people {
			if p.on(s.name) && w.rand.IntN(3) > 0 {
				p.vanish()
				w.note("%s goes down with it", p.user)
			}
		}
		s.Kill()
		return func() { w.open(i) }
	}},
	{name: "a gateway stands still past its lease", lasts: between(2*leaseTTL+time.Second, 3*leaseTTL), begin: func(w *world, i int) func() {
		s := w.place(i)
		over := w.outage(s, false)
		s.Signal(syscall.SIGSTOP)
		return func() {
			s.Signal(syscall.SIGCONT)
			over()
		}
	}},
	{name: "a gateway stands still for a moment", lasts: between(200*time.Millisecond, leaseTTL), begin: func(w *world, i int) func() {
		s := w.place(i)
		over := w.outage(s, false)
		s.Signal(syscall.SIGSTOP)
		return func() {
			s.Signal(syscall.SIGCONT)
			over()
		}
	}},
	{name: "a gateway is stopped and replaced", last: true, lasts: between(0, 2*time.Second), begin: func(w *world, i int) func() {
		s := w.place(i)
		over := w.outage(s, false) // no client is told when its turn comes
		s.Signal(syscall.SIGTERM)
		return func() {
			w.until("the gateway to end", patience, func() string {
				if !s.Over() {
					return s.name + " runs"
				}
				return ""
			})
			over()
			if code := s.Cmd.ProcessState.ExitCode(); code != 0 {
				w.blame("%s was stopped and ended with %d", s.name, code)
			}
			w.open(i)
		}
	}},
	{name: "clients lose their links to a gateway", begin: func(w *world, i int) func() {
		w.place(i).door.Cut()
		return nothing
	}},
	{name: "clients cannot reach a gateway", lasts: between(time.Second, sessionTTL), begin: func(w *world, i int) func() {
		s := w.place(i)
		s.door.Refuse(true)
		s.door.Cut()
		return func() { s.door.Refuse(false) }
	}},
	{name: "links of clients to a gateway are silent", lasts: between(500*time.Millisecond, sessionTTL), begin: func(w *world, i int) func() {
		s := w.place(i)
		over := w.outage(s, false)
		s.door.Hold(true)
		return func() {
			s.door.Hold(false)
			over()
		}
	}},
	{name: "a gateway loses its links to Redis", begin: func(w *world, i int) func() {
		w.place(i).link.Cut()
		return nothing
	}},
	{name: "a gateway cannot reach Redis", lasts: between(500*time.Millisecond, 3*leaseTTL), begin: func(w *world, i int) func() {
		s := w.place(i)
		over := w.outage(s, false)
		s.link.Refuse(true)
		s.link.Cut()
		return func() {
			s.link.Refuse(false)
			over()
		}
	}},
	{name: "links of a gateway to Redis are silent", lasts: between(500*time.Millisecond, 3*leaseTTL), begin: func(w *world, i int) func() {
		s := w.place(i)
		over := w.outage(s, false)
		s.link.Hold(true)
		return func() {
			s.link.Hold(false)
			over()
		}
	}},
	{name: "a gateway's subscription is deaf", begin: func(w *world, i int) func() {
		w.place(i).link.DeafenSubscribers()
		return nothing
	}},
	{name: "a gateway's links to Redis are deaf", begin: func(w *world, i int) func() {
		w.place(i).link.Deafen()
		return nothing
	}},
	{name: "messages of Redis to a gateway are lost, doubled and late", last: true, lasts: between(time.Second, 3*time.Second), begin: func(w *world, i int) func() {
		s := w.place(i)
		s.link.Messages(weather(rand.New(rand.NewPCG(w.seed, uint64(i)))))
		return func() {
			w.bustle(100) // or there are no messages
			s.link.Messages(nil)
		}
	}},
	{name: "answers of Redis to a gateway are lost", lasts: between(500*time.Millisecond, 2*time.Second), begin: func(w *world, i int) func() {
		s := w.place(i)
		over := w.outage(s, false)
		s.link.Scripts(faultproxy.Answers)
		return func() {
			s.link.Scripts(faultproxy.Nothing)
			over()
		}
	}},
	{name: "Redis cuts off all subscriptions", redis: true, begin: func(w *world, _ int) func() {
		w.killConnections("pubsub")
		return nothing
	}},
	{name: "Redis cuts off all other connections", redis: true, begin: func(w *world, _ int) func() {
		w.killConnections("normal")
		return nothing
	}},
	{name: "Redis stands still for 1 s", redis: true, lasts: exactly(time.Second), begin: standStill},
	{name: "Redis stands still for 5 s", redis: true, lasts: exactly(5 * time.Second), begin: standStill},
	{name: "Redis stands still for 12 s", redis: true, lasts: exactly(12 * time.Second), begin: standStill},
	{name: "Redis restarts", redis: true, begin: func(w *world, _ int) func() {
		w.restart(w.server.Each())
		return nothing
	}},
	{name: "Redis forgets all scripts", redis: true, begin: func(w *world, _ int) func() {
		w.must(w.rdb.ScriptFlush(w.ctx).Err())
		return nothing
	}},
	{name: "Redis is full", redis: true, lasts: between(time.Second, 3*time.Second), begin: func(w *world, _ int) func() {
		over := w.outage(nil, false)
		limit := func(bytes string) {
			for _, s := range w.server.Each() {
				w.must(s.Client(w.t).ConfigSet(w.ctx, "maxmemory", bytes).Err())
			}
		}
		limit("1")
		return func() {
			limit("0")
			over()
		}
	}},
	{name: "all data is flushed", redis: true, begin: func(w *world, _ int) func() {
		w.lost()
		gatetest.FlushAll(w.t, w.rdb)
		w.lost()
		return nothing
	}},
	{name: "Redis restarts without its data", redis: true, begin: func(w *world, _ int) func() {
		over := w.outage(nil, false)
		w.lost()
		w.server.Kill()
		for _, s := range w.server.Each() {
			w.must(os.RemoveAll(filepath.Join(s.Dir(), "appendonlydir")))
			w.must(os.RemoveAll(filepath.Join(s.Dir(), "dump.rdb")))
		}
		w.server.Restart()
		w.lost()
		over()
		return nothing
	}},
}

// clusterFaults are those that only a Cluster has.
var clusterFaults = []fault{
	{name: "a room's slot moves to another master", redis: true, begin: func(w *world, i int) func() {
		w.move(gatetest.RoomKey(w.rdb, "room", rooms[i]), i)
		return nothing
	}},
	{name: "a user's slot moves to another master", redis: true, begin: func(w *world, i int) func() {
		w.move(gatetest.UserKey(w.rdb, w.people[i].user), i)
		return nothing
	}},
	{name: "the slot of the leases moves to another master", redis: true, begin: func(w *world, i int) func() {
		w.move(gatetest.NodesKey(w.rdb), i)
		return nothing
	}},
	{name: "one master restarts", redis: true, begin: func(w *world, i int) func() {
		w.restart(w.server.Cluster.Masters[i : i+1])
		return nothing
	}},
	{name: "one master stands still for 1 s", redis: true, lasts: exactly(time.Second), begin: oneStandsStill},
	{name: "one master stands still for 4 s", redis: true, lasts: exactly(4 * time.Second), begin: oneStandsStill},
}

// known are the faults that there are here.
func known() []fault {
	if *onCluster {
		return slices.Concat(faults, clusterFaults)
	}
	return faults
}

// move has a slot move to the master in place i, or to the next one if it is there.
func (w *world) move(key string, i int) {
	masters := w.server.Cluster.Masters
	at := slices.IndexFunc(masters, func(m *redistest.Server) bool {
		_, err := m.Client(w.t).Exists(w.ctx, key).Result()
		return err == nil // the others say where it is
	})
	if at < 0 {
		w.t.Fatalf("no master has the slot of %s", key)
	}
	if i == at {
		i = (i + 1) % len(masters)
	}
	w.server.Cluster.Move(key, masters[at], masters[i], func() {})
}

func oneStandsStill(w *world, i int) func() {
	over := w.outage(nil, true)
	master := w.server.Cluster.Masters[i]
	master.Pause()
	return func() {
		master.Resume()
		over()
	}
}

// restart has servers end and begin again: with all they had if they keep a log, and
// else with the snapshot that they take now, while the load goes on.
func (w *world) restart(servers []*redistest.Server) {
	if !w.keepsLog() {
		for _, s := range servers {
			w.must(s.Client(w.t).Save(w.ctx).Err())
		}
		w.bustle(20)
		w.lost() // one after the other
		defer w.lost()
	}
	over := w.outage(nil, false)
	for _, s := range servers {
		s.Restart()
	}
	if w.server.Cluster != nil {
		w.server.Cluster.Settled()
	}
	over()
}

func standStill(w *world, _ int) func() {
	over := w.outage(nil, true)
	w.server.Pause()
	return func() {
		w.server.Resume()
		over()
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// killConnections has Redis close the gateways' connections of a type.
func (w *world) killConnections(kind string) {
	w.must(gatetest.EachMaster(w.ctx, w.rdb, func(ctx context.Context, master *redis.Client) error {
		list, err := master.Do(ctx, "CLIENT", "LIST", "TYPE", kind).Text()
		for line := range strings.Lines(list) {
			id, _, _ := strings.Cut(strings.TrimPrefix(line, "id="), " ")
			if strings.Contains(line, " name=roomgate ") {
				master.Do(ctx, "CLIENT", "KILL", "ID", id) // it may have gone by itself
			}
		}
		return err
	}))
}

// weather decides the fates of messages about rooms.
func weather(r *rand.Rand) func(channel, payload string) faultproxy.Fate {
	var mu sync.Mutex
	return func(channel, _ string) faultproxy.Fate {
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(channel, ":ch:") {
			return faultproxy.Pass
		}
		late := time.Duration(r.IntN(60)) * time.Millisecond
		switch n := r.IntN(100); {
		case n < 10:
			return nil
		case n < 20:
			return faultproxy.Fate{0, late}
		case n < 40:
			return faultproxy.Fate{late}
		}
		return faultproxy.Pass
	}
}

// A round is one or more faults at the same time.
type round struct {
	faults []fault
	places []int
	last   []time.Duration
}

func (r round) String() string {
	var parts []string
	for i, f := range r.faults {
		parts = append(parts, fmt.Sprintf("%s (place %d, %v)", f.name, r.places[i], r.last[i].Round(time.Millisecond)))
	}
	return strings.Join(parts, " + ")
}

// deal makes rounds out of faults: each comes once, and some come in pairs.
func deal(r *rand.Rand, of []fault, pairs int) (rounds []round) {
	of = slices.Clone(of)
	both := func(a, b fault) bool { return !a.redis || !b.redis }
	r.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
	for len(of) > 0 {
		n := 1
		if pairs > 0 && len(of) > 1 && both(of[0], of[1]) && r.IntN(2) == 0 {
			pairs--
			n = 2
		}
		var next round
		for i, f := range of[:n] {
			next.faults = append(next.faults, f)
			place := r.IntN(stations)
			if i > 0 && place == next.places[0] {
				place = (place + 1) % stations // of two gateways, or of one and Redis
			}
			next.places = append(next.places, place)
			var d time.Duration
			if f.lasts != nil {
				d = f.lasts(r)
			}
			next.last = append(next.last, d)
		}
		rounds, of = append(rounds, next), of[n:]
	}
	return rounds
}

// play has the faults of a round happen, under load.
func (w *world) play(r round) {
	w.t.Helper()
	w.note("%v", r)
	type ending struct {
		at  time.Time
		end func()
		f   fault
	}
	var ends []ending
	// What stops Redis comes last: the others need it to begin.
	order := []int{0, 1}[:len(r.faults)]
	if len(r.faults) > 1 && r.faults[0].redis {
		order = []int{1, 0}
	}
	for _, i := range order {
		f := r.faults[i]
		end := f.begin(w, r.places[i])
		ends = append(ends, ending{time.Now().Add(r.last[i]), end, f})
	}
	slices.SortStableFunc(ends, func(a, b ending) int {
		if a.f.last != b.f.last {
			if a.f.last {
				return 1
			}
			return -1
		}
		return a.at.Compare(b.at)
	})
	for _, e := range ends {
		w.lasts(time.Until(e.at))
		e.end()
	}
	w.mu.Lock()
	w.quiet = time.Now()
	w.mu.Unlock()
}

// named gives faults by their names.
func named(t interface{ Fatalf(string, ...any) }, names ...string) (out []fault) {
	for _, name := range names {
		i := slices.IndexFunc(faults, func(f fault) bool { return f.name == name })
		if i < 0 {
			t.Fatalf("there is no fault %q", name)
		}
		out = append(out, faults[i])
	}
	return out
}
