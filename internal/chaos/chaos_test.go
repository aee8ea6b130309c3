//go:build linux

// Package chaos lets everything go wrong that may, under load, and checks that
// all promises hold.
//
// A world is one deployment: three gateways as processes of their own, each
// with a proxy between it and Redis and one between it and half of the clients,
// a redis-server, or with -cluster three that are a Cluster, and ten users with clients of the Go SDK. The users enter and
// leave rooms, talk, lose their links, go away and come back, log out, and have
// each other kicked and rooms destroyed through the server API. Meanwhile
// faults happen, one or two at a time. In between the load pauses, all comes to
// rest, and everything is held against everything:
//
//   - what each client believes, from what it was told and from nothing else,
//     against Redis and against what queries answer: who is in which room, in
//     which order;
//   - what each client heard against what all others heard: one event under a
//     position, in order, none twice, none missing unless it was said to be
//     lost; and every message that was acknowledged;
//   - who is a member against who may be: nobody stays longer than its
//     deadline, nobody who was there all the time is out;
//   - Redis against itself, by roomgate fsck; and that nothing is left of it
//     when all have gone.
//
// A seed decides which faults there are, when and where, and what the users
// do. It does not decide how these meet, so that a failure may need more than
// one repeat. Times of faults are part of the schedule; nothing is concluded
// from how long something took but what the design gives a bound for.
//
// go test plays a few worlds that have each fault once, and one with a seed of
// its own. With -for it plays one world after another for so long; -seed is that
// of the first. "make chaos" does this.
package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/roomgate/roomgate/internal/gatetest"
)

var (
	onCluster = flag.Bool("cluster", false, "on a Redis Cluster of three masters, with 64 partitions")

	playFor = flag.Duration("for", 0, "play worlds for so long, instead of the few of the short form")
	seed    = flag.Uint64("seed", 0, "of the first world; 0: a random one")
)

func TestMain(m *testing.M) { gatetest.Main(m) }

// shares are the faults that the worlds of the short form have, each of them
// once. An even seed is that of a Redis that keeps a log.
var shares = map[uint64][]string{
	2: {
		"a gateway is killed", "links of clients to a gateway are silent", "a gateway's subscription is deaf",
		"Redis restarts", "Redis stands still for 12 s", "Redis cuts off all subscriptions", "Redis forgets all scripts",
		"a gateway is stopped and replaced", "answers of Redis to a gateway are lost",
		"Redis restarts without its data", "clients lose their links to a gateway", "a gateway stands still for a moment",
	},
	3: {
		"a gateway stands still past its lease", "clients cannot reach a gateway", "a gateway loses its links to Redis",
		"a gateway cannot reach Redis", "links of a gateway to Redis are silent", "a gateway's links to Redis are deaf",
		"messages of Redis to a gateway are lost, doubled and late", "Redis cuts off all other connections",
		"Redis stands still for 1 s", "Redis stands still for 5 s", "Redis restarts", "Redis is full", "all data is flushed",
	},
}

// Whatever goes wrong, clients, gateways and Redis agree afterwards, and nobody
// has missed anything, or been seen to leave, without being told or having
// been away.
func TestChaos(t *testing.T) {
	first := *seed
	if first == 0 {
		first = 1 + rand.Uint64N(1_000_000)
	}
	t.Logf("SEED=%d", first)
	world, flags := "", ""
	if *onCluster {
		world, flags = " CLUSTER=1", " -cluster"
	}
	if *playFor > 0 {
		began := time.Now()
		for n := first; !t.Failed() && (n == first || time.Since(began) < *playFor); n++ {
			t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) {
				playWorld(t, n, fmt.Sprintf("make chaos SEED=%d FOR=1s%s", n, world), known(), 8)
			})
		}
		return
	}
	for _, n := range []uint64{2, 3} {
		t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) {
			t.Parallel()
			again := fmt.Sprintf("go test -run 'TestChaos/^seed=%d$' ./internal/chaos%s", n, flags)
			playWorld(t, n, again, named(t, shares[n]...), 3)
		})
	}
	if *onCluster {
		t.Run("a Cluster's own", func(t *testing.T) {
			t.Parallel()
			playWorld(t, first, fmt.Sprintf("go test -run TestChaos/own ./internal/chaos -cluster -seed=%d", first), clusterFaults, 3)
		})
	}
	t.Run("random", func(t *testing.T) {
		t.Parallel()
		r := rand.New(rand.NewPCG(first, 1))
		var some []fault
		all := known()
		for _, i := range r.Perm(len(all))[:6] {
			some = append(some, all[i])
		}
		playWorld(t, first, fmt.Sprintf("go test -run 'TestChaos/^random$' ./internal/chaos%s -seed=%d", flags, first), some, 3)
	})
}

// Each fault is in the short form.
func TestChaos_shares(t *testing.T) {
	t.Parallel()
	times := map[string]int{}
	for _, share := range shares {
		for _, f := range named(t, share...) {
			times[f.name]++
		}
	}
	for _, f := range faults {
		if times[f.name] == 0 {
			t.Errorf("%q is in no world of the short form", f.name)
		}
	}
}

func playWorld(t *testing.T, seed uint64, again string, of []fault, pairs int) {
	w := newWorld(t, seed, again)
	w.note("seed %d", seed)
	w.goOn()
	w.bustle(200)
	for i, r := range deal(w.rand, of, pairs) {
		w.play(r)
		w.bustle(60)
		if i%2 == 1 || w.blamed() {
			w.rest()
			w.goOn()
			w.bustle(100)
		}
	}
	w.rest()
	w.close()
}
