//go:build unix

package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/roomgate/roomgate/internal/freeport"
)

// slots is how many hash slots a Cluster has.
const slots = 16384

// nodeTimeout is after how long the nodes of a Cluster give one of them up. Where no
// replica could take its place that is of no use, and long, so that nobody is given up
// who is slow: the machine may be busy. Nodes also drop a link on which nothing came for
// half of it, and what is published to those who listen at another node goes with it.
func nodeTimeout(replicas bool) time.Duration {
	if replicas {
		return time.Second
	}
	return 15 * time.Second
}

// A Cluster is a Redis Cluster of one test.
type Cluster struct {
	t       testing.TB
	Masters []*Server
	// Replicas are as many as masters, in their order, or none.
	Replicas []*Server
}

// StartCluster starts a Redis Cluster of some masters for one test, each with a
// replica if wanted, and ends it with the test. The hash slots are spread evenly
// over the masters, in their order, and each master serves its own whatever becomes of
// the others. The arguments are as for [Start].
func StartCluster(t testing.TB, masters int, replicas bool, args ...string) *Cluster {
	t.Helper()
	return form(t, masters, replicas, func() *Server { return Start(t, append(clusterArgs(t, replicas), args...)...) })
}

// StartClusterTLS is [StartCluster] for masters that speak TLS among each other, and
// besides to clients that show a certificate, at the addresses that it returns.
func StartClusterTLS(t testing.TB, certs *TLS, masters int) (c *Cluster, addrs []string) {
	t.Helper()
	c = form(t, masters, false, func() *Server {
		s, addr := StartTLS(t, certs, append(clusterArgs(t, false), "--tls-cluster", "yes", "--tls-replication", "yes")...)
		addrs = append(addrs, addr)
		return s
	})
	return c, addrs
}

// NewCluster is [New] for a Cluster of three masters.
func NewCluster(t testing.TB) *Cluster {
	t.Helper()
	sharedOnce.Do(func() {
		binary, err := find()
		if err != nil {
			return // the next line says so
		}
		sharedCluster = form(t, 3, false, func() *Server {
			args := append([]string{"--dir", os.TempDir(), "--cluster-config-file", "redistest-" + Prefix() + ".conf"}, clusterArgs(t, false)...)
			p, err := start([]string{binary}, args)
			if err != nil {
				t.Fatal(err)
			}
			return &Server{t: t, args: args, process: p}
		})
		for _, s := range sharedCluster.Masters { // it has read it, and ends with this process
			os.Remove(filepath.Join(os.TempDir(), s.args[3]))
		}
	})
	if sharedCluster == nil {
		_, err := find()
		missing(t, err)
	}
	return &Cluster{t: t, Masters: sharedCluster.Masters}
}

var (
	sharedOnce    sync.Once
	sharedCluster *Cluster
)

func clusterArgs(t testing.TB, replicas bool) []string {
	t.Helper()
	bus, err := freeport.New()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus),
		"--cluster-node-timeout", strconv.FormatInt(nodeTimeout(replicas).Milliseconds(), 10), "--cluster-replica-validity-factor", "0",
		"--repl-diskless-sync-delay", "0", "--cluster-require-full-coverage", "no"}
}

// form makes a Cluster of nodes that have just been started.
func form(t testing.TB, masters int, replicas bool, node func() *Server) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for i := range masters {
		s := node()
		c.do(s, "cluster", "addslotsrange", i*slots/masters, (i+1)*slots/masters-1)
		c.do(s, "cluster", "set-config-epoch", i+1)
		c.Masters = append(c.Masters, s)
	}
	if replicas {
		for range masters {
			c.Replicas = append(c.Replicas, node())
		}
	}
	for _, s := range c.all()[1:] {
		_, bus := c.ports(s)
		host, port, _ := net.SplitHostPort(s.known())
		c.do(c.Masters[0], "cluster", "meet", host, port, bus)
	}
	for i, r := range c.Replicas {
		id := c.ID(c.Masters[i])
		c.until("a replica knows its master", func() bool {
			return r.Client(t).Do(context.Background(), "cluster", "replicate", id).Err() == nil
		})
	}
	c.Settled()
	return c
}

func (c *Cluster) all() []*Server { return append(append([]*Server(nil), c.Masters...), c.Replicas...) }

// Settled returns when every node that lives says that all is well, and all say the same
// of who has which slot: whoever then asks any of them knows it.
func (c *Cluster) Settled() {
	c.t.Helper()
	for _, s := range c.all() {
		if s.killed {
			continue
		}
		rdb := s.Client(c.t)
		c.until("the cluster is well", func() bool {
			info, err := rdb.ClusterInfo(context.Background()).Result()
			nodes, _ := rdb.ClusterNodes(context.Background()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Count(nodes, "\n") >= len(c.all()) &&
				!strings.Contains(nodes, "handshake")
		})
	}
	var living []*redis.Client
	for _, s := range c.all() {
		if !s.killed {
			living = append(living, s.Client(c.t))
		}
	}
	c.until("the nodes agree on who has which slot", func() bool {
		said := map[string]bool{}
		for _, rdb := range living {
			//lint:ignore SA1019 gateways ask so, too: each node says whom it takes for a slot's master
			ranges, err := rdb.ClusterSlots(context.Background()).Result()
			if err != nil {
				return false
			}
			text := ""
			for _, r := range ranges {
				text += fmt.Sprintln(r.Start, r.End, r.Nodes[0].ID)
			}
			said[text] = true
		}
		return len(said) == 1
	})
	for _, r := range c.Replicas {
		if r.killed {
			continue
		}
		rdb := r.Client(c.t)
		c.until("a replica has its master's data", func() bool {
			info, err := rdb.Info(context.Background(), "replication").Result()
			return err == nil && (strings.Contains(info, "master_link_status:up") || strings.Contains(info, "role:master"))
		})
	}
}

// Addrs gives the addresses of all nodes.
func (c *Cluster) Addrs() (addrs []string) {
	for _, s := range c.all() {
		addrs = append(addrs, s.Addr())
	}
	return addrs
}

// Options gives the options of every client of a Cluster that tests use, as
// [Options] does.
func (c *Cluster) Options() *redis.ClusterOptions {
	return &redis.ClusterOptions{
		Addrs: c.Addrs(), Dialer: dialHere, MaxRetries: -1, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// dialHere finds nodes that do not say at which host they are.
func dialHere(ctx context.Context, network, addr string) (net.Conn, error) {
	if port, hidden := strings.CutPrefix(addr, "?:"); hidden {
		addr = "127.0.0.1:" + port
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// HideHost has the nodes say from now on at which ports the others are, and not at which
// host: who has come to one of them by a proxy stays with it, if that has those ports.
func (c *Cluster) HideHost() {
	c.t.Helper()
	for _, s := range c.all() {
		c.do(s, "config", "set", "cluster-preferred-endpoint-type", "hostname") // which they do not have
	}
}

// Client returns a new client of the Cluster, which is closed when the test ends.
func (c *Cluster) Client() *redis.ClusterClient {
	rdb := redis.NewClusterClient(c.Options())
	c.t.Cleanup(func() { rdb.Close() })
	return rdb
}

// ID gives the name of a node.
func (c *Cluster) ID(s *Server) string {
	c.t.Helper()
	id, err := s.Client(c.t).Do(context.Background(), "cluster", "myid").Text()
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

// Move moves the hash slot of a key from one master to another, with all that is in
// it, as resharding does. During is called when half of its keys have moved.
func (c *Cluster) Move(key string, from, to *Server, during func()) {
	c.t.Helper()
	ctx := context.Background()
	a := from.Client(c.t)
	slot, err := a.ClusterKeySlot(ctx, key).Result()
	if err != nil {
		c.t.Fatal(err)
	}
	c.do(to, "cluster", "setslot", slot, "importing", c.ID(from))
	c.do(from, "cluster", "setslot", slot, "migrating", c.ID(to))
	n := int(a.ClusterCountKeysInSlot(ctx, int(slot)).Val())
	host, port, _ := net.SplitHostPort(to.Addr())
	for moved := 0; ; {
		// Many at once, since what needs them all stands still until they have moved.
		count := 100
		if moved < n/2 {
			count = min(count, n/2-moved)
		}
		keys, err := a.ClusterGetKeysInSlot(ctx, int(slot), count).Result()
		if err != nil {
			c.t.Fatal(err)
		}
		if moved == n/2 {
			during()
		}
		if len(keys) == 0 {
			break
		}
		args := []any{"migrate", host, port, "", 0, (10 * time.Second).Milliseconds(), "keys"}
		for _, key := range keys {
			args = append(args, key)
		}
		if err := a.Do(ctx, args...).Err(); err != nil {
			c.t.Fatal(err)
		}
		moved += len(keys)
	}
	for _, s := range []*Server{to, from} {
		c.do(s, "cluster", "setslot", slot, "node", c.ID(to))
	}
	for _, s := range c.Masters {
		if s != to && s != from && !s.killed {
			c.do(s, "cluster", "setslot", slot, "node", c.ID(to))
		}
	}
}

// TakeOver has the replica of the master of a key become the master, and that its replica,
// with all that it has. Which of the two is the master may have changed before.
func (c *Cluster) TakeOver(key string) {
	c.t.Helper()
	ctx := context.Background()
	is := func(s *Server, what string) bool {
		role, err := s.Client(c.t).Do(ctx, "role").Slice()
		return err == nil && role[0] == what
	}
	master, err := c.Client().MasterForKey(ctx, key)
	if err != nil {
		c.t.Fatal(err)
	}
	for i, replica := range c.Replicas {
		old := c.Masters[i]
		if replica.Addr() == master.Options().Addr {
			replica, old = old, replica
		}
		if old.Addr() != master.Options().Addr {
			continue
		}
		c.until("the replica follows", func() bool {
			info, err := replica.Client(c.t).Info(ctx, "replication").Result()
			return err == nil && strings.Contains(info, "master_link_status:up")
		})
		c.do(replica, "cluster", "failover")
		c.until("the replica is the master", func() bool { return is(replica, "master") && is(old, "slave") })
		c.Settled()
		return
	}
	c.t.Fatalf("no master at %s", master.Options().Addr)
}

func (c *Cluster) ports(s *Server) (port, bus string) {
	for i, arg := range s.args {
		if arg == "--cluster-port" {
			bus = s.args[i+1]
		}
	}
	_, port, _ = net.SplitHostPort(s.Addr())
	return port, bus
}

func (c *Cluster) do(s *Server, args ...any) {
	c.t.Helper()
	if err := s.Client(c.t).Do(context.Background(), args...).Err(); err != nil {
		c.t.Fatalf("%v: %v", args, err)
	}
}

// until waits for a condition.
func (c *Cluster) until(what string, is func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			c.t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
