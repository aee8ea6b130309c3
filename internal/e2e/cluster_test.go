//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/protocol"
)

// clustered is a disaster on a Redis Cluster of three masters, each with a replica.
type clustered struct {
	*disaster
	cluster *redistest.Cluster
	rdb     *redis.ClusterClient
}

func stageOnCluster(t *testing.T) *clustered {
	t.Helper()
	c := redistest.StartCluster(t, 3, true)
	rdb := c.Client()
	d := &disaster{t: t, stop: make(chan struct{}), rdb: rdb, parts: clusterPartitions}
	return &clustered{d.begin(gatetest.ClusterURL(c.Addrs())), c, rdb}
}

// settled waits until all nodes agree on who has which slot, and looks through a client
// that has it from them: it is not told any more of what it has asked too early.
func (d *clustered) settled() {
	d.t.Helper()
	d.cluster.Settled()
	d.rdb = d.cluster.Client()
	d.disaster.rdb = d.rdb
}

// server gives the master that has a key, and its replica.
func (d *clustered) server(key string) (master, replica *redistest.Server) {
	d.t.Helper()
	node, err := d.rdb.MasterForKey(d.t.Context(), key)
	if err != nil {
		d.t.Fatal(err)
	}
	for i, m := range d.cluster.Masters {
		if m.Addr() == node.Options().Addr {
			return m, d.cluster.Replicas[i]
		}
	}
	d.t.Fatalf("no master at %s", node.Options().Addr)
	return nil, nil
}

// replaced waits until a replica is the master.
func (d *clustered) replaced(replica *redistest.Server) {
	d.t.Helper()
	rdb := replica.Client(d.t)
	eventually(d.t, "the replica to be the master", func() bool {
		role, err := rdb.Do(context.Background(), "role").Slice()
		return err == nil && role[0] == "master"
	})
}

// well waits until all gateways say that they are.
func (d *clustered) well() {
	d.t.Helper()
	for _, g := range d.gates {
		eventually(d.t, "the gateway to be ready", g.Ready)
	}
}

// Whatever becomes of one master, while everybody talks nobody's connection is lost,
// no gateway is given up, and everybody hears the same, once; where something may have
// been lost they are told.
func TestCluster_master(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts Clusters")
	}
	for _, tt := range []struct {
		name string
		key  string // whose master it is
		long bool
		do   func(d *clustered, master, replica *redistest.Server)
	}{
		{"of a room, killed", "room", false, func(d *clustered, master, replica *redistest.Server) {
			master.Kill()
			d.replaced(replica)
		}},
		{"of the leases, killed", "rg:{0}:nodes", true, func(d *clustered, master, replica *redistest.Server) {
			master.Kill()
			d.replaced(replica)
		}},
		{"of a room, standing still", "room", true, func(d *clustered, master, replica *redistest.Server) {
			master.Pause()
			d.replaced(replica)
			master.Resume()
		}},
		{"of a room, stepping down", "room", true, func(d *clustered, master, replica *redistest.Server) {
			if err := replica.Client(d.t).Do(d.t.Context(), "cluster", "failover").Err(); err != nil {
				d.t.Fatal(err)
			}
			d.replaced(replica)
		}},
		{"of a room, started anew without data", "room", true, func(d *clustered, master, replica *redistest.Server) {
			replica.Kill()
			master.Restart()
		}},
	} {
		if tt.long && !*long {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := stageOnCluster(t)
			order := d.order("ROOM")
			key := tt.key
			if key == "room" {
				key = d.part("ROOM")
			}
			d.talk()
			d.chatter(0, 1, 2)
			master, replica := d.server(key)
			began := time.Now()
			tt.do(d, master, replica)
			t.Logf("the master was replaced after %v", time.Since(began))
			d.settled()
			d.recovered(0, 1, 2)
			d.well()
			t.Logf("all is well after %v", time.Since(began))
			d.chatter(0, 1, 2)
			d.check()
			if got := d.order("ROOM"); got != order {
				t.Errorf("members are now %s, they were %s", got, order)
			}
			d.unfenced()
		})
	}
}

// While slots move between masters, with all that is in them, nothing is lost but
// commands on their way.
func TestCluster_slotsMove(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	d := stageOnCluster(t)
	order := d.order("ROOM")
	d.talk()
	d.chatter(0, 1, 2)
	for _, key := range []string{d.part("ROOM"), d.part("OF-1"), "rg:{0}:nodes", "rg:{u0}:clock", "rg:{u7}:clock"} {
		d.settled()
		from, _ := d.server(key)
		to := d.cluster.Masters[0]
		if to == from {
			to = d.cluster.Masters[1]
		}
		d.cluster.Move(key, from, to, func() {})
	}
	d.settled()
	d.recovered(0, 1, 2)
	d.well()
	d.chatter(0, 1, 2)
	for name, v := range d.check() {
		if len(v.states) > 0 {
			t.Errorf("%s: got %q, though nothing was lost", name, v.states)
		}
	}
	if got := d.order("ROOM"); got != order {
		t.Errorf("members are now %s, they were %s", got, order)
	}
	d.unfenced()
}

// Gateways at rest cost a Cluster next to nothing with a partition for each master,
// though each has a path of its own; with many more it is said what they cost.
func TestCluster_idle(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	for _, partitions := range []int{3, clusterPartitions} {
		if partitions > 3 && !*long {
			continue
		}
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			t.Parallel()
			c := redistest.StartCluster(t, 3, false)
			var gates []*gateway
			for range 3 {
				gates = append(gates, startGateway(t, gatetest.ClusterURL(c.Addrs()), fmt.Sprintf("--partitions=%d", partitions),
					"--session-ttl=60s", "--lease-ttl=10s", "--heartbeat-interval=10s", "--drain-window=25s", "--redis-timeout=2s"))
			}
			for i := range 300 {
				enroll(gates[i%3], t, fmt.Sprintf("u%d", i)).enter(fmt.Sprintf("r%d", i%100))
			}
			count := func() (n int, list map[string]int) {
				list = map[string]int{}
				for _, m := range c.Masters {
					for name, calls := range commands(t, m.Client(t)) {
						if fromOutside[name] || strings.HasPrefix(name, "cluster|") {
							n += calls
							list[name] += calls
						}
					}
				}
				return n, list
			}
			rdb := c.Masters[0].Client(t)
			began := redisTime(t, rdb)
			before, listBefore := count()
			during(t, redistest.New(t), 16*time.Second)
			after, list := count()
			window := float64(redisTime(t, rdb)-began) / 1000
			for name := range list {
				list[name] -= listBefore[name]
			}
			rate := float64(after-before) / window / float64(len(gates))
			t.Logf("%.1f commands a second and gateway in %.1f s: %v", rate, window, list)
			if bound := 5.0; after == before || partitions == 3 && rate >= bound {
				t.Errorf("got %.1f commands a second and gateway, want more than 0 and less than %v", rate, bound)
			}
		})
	}
}

// The room limit holds over all masters of a Cluster, and an audit of it is silent, finds
// what lies in two slots and does not agree, and repairs it.
func TestCluster_limitAndAudit(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	c := redistest.StartCluster(t, 3, false)
	flags := []string{"--partitions=4", "--max-rooms=3"}
	a, b := startPair(t, gatetest.ClusterURL(c.Addrs()), flags...)
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	ana.enter("R")
	ana.enter("S")
	bo.enter("T")
	bo.send(protocol.MethodEnterRoom, createZ)
	bo.hears("Z connecting activeEnter", "Z disconnected enterFailed", "error 6000324")
	if status, printed := fsck(t, gatetest.ClusterURL(c.Addrs()), flags...); status != 0 || !strings.HasPrefix(printed, "found 0, ") {
		t.Fatalf("got status %d: %s", status, printed)
	}
	rdb := c.Client()
	var users, places []string
	each := func(match string, to *[]string) {
		for _, m := range c.Masters {
			*to = append(*to, m.Client(t).Keys(t.Context(), match).Val()...)
		}
	}
	each("rg:{u*}:user:ana", &users)
	each("rg:{0}:admitted:*", &places)
	if len(users) != 1 || len(places) == 0 {
		t.Fatalf("found %q and %q", users, places)
	}
	for _, field := range rdb.HKeys(t.Context(), users[0]).Val() {
		if strings.HasPrefix(field, "r:R\x00") {
			rdb.HDel(t.Context(), users[0], field)
		}
	}
	rdb.ZAdd(t.Context(), places[0], redis.Z{Score: 1, Member: "none"})
	status, printed := fsck(t, gatetest.ClusterURL(c.Addrs()), append(flags, "--fix")...)
	for _, want := range []string{"reservation  ana in R is not in the user's list", "found 2, repaired 2, left 0"} {
		if !strings.Contains(printed, want) || status != 0 {
			t.Errorf("got status %d, %q is not in %s", status, want, printed)
		}
	}
	ana.ask(protocol.MethodLeaveRoom, joinR, nil)
	bo.send(protocol.MethodEnterRoom, createZ)
	bo.hears("Z connecting activeEnter", "Z connected success", "ok")
}
