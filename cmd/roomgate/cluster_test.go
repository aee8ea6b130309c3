package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
)

// clusterURL names some nodes of a Cluster.
func clusterURL(user string, servers ...*redistest.Server) string {
	url := "redis://" + user + servers[0].Addr()
	for i, s := range servers[1:] {
		url += map[bool]string{true: "?", false: "&"}[i == 0] + "addr=" + s.Addr()
	}
	return url
}

// A Cluster is known as one by several nodes, or by what a single one says, and is
// refused with what to do if it does not do.
func TestOpenRedis_cluster(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, false)
	for _, url := range []string{clusterURL("", c.Masters...), clusterURL("", c.Masters[2]), clusterURL("", c.Masters[1]) + "?addr=127.0.0.1:1"} {
		if err := reach(t, url, "ROOMGATE_PARTITIONS=8"); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	wants(t, reach(t, clusterURL("", c.Masters[0])+"/3"), "another database than 0", "named by its nodes")
	wants(t, briefly(t, "redis://127.0.0.1:1?addr=127.0.0.1:2"), "is not fit", "connection refused")

	alone := redistest.Start(t)
	wants(t, reach(t, "redis://"+alone.Addr()+"?addr=127.0.0.1:1"), "cluster support disabled")
	empty := redistest.Start(t, "--cluster-enabled", "yes")
	wants(t, briefly(t, "redis://"+empty.Addr()), "is not fit", "no node has the hash slot")

	// What does not do of one master does not do of all.
	last := c.Masters[2].Client(t)
	if err := last.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err(); err != nil {
		t.Fatal(err)
	}
	wants(t, reach(t, clusterURL("", c.Masters[0]), "ROOMGATE_PARTITIONS=8"), c.Masters[2].Addr(), "maxmemory-policy allkeys-lru", "noeviction")
	if err := last.ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err(); err != nil {
		t.Fatal(err)
	}
	grant := func(s *redistest.Server, rights string) {
		args := []any{"ACL", "SETUSER", "gate", "reset", "on", ">hush", "~rg:*", "&rg:*"}
		for _, r := range strings.Fields(rights) {
			args = append(args, r)
		}
		if err := s.Client(t).Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	all := redisRights + " " + clusterRights
	for _, s := range c.Masters {
		grant(s, all)
	}
	enter := func() error {
		return reach(t, clusterURL("gate@", c.Masters...), "ROOMGATE_REDIS_PASSWORD=hush", "ROOMGATE_PARTITIONS=8")
	}
	if err := enter(); err != nil {
		t.Error(err)
	}
	for _, right := range strings.Fields(clusterRights) {
		for _, s := range c.Masters {
			grant(s, strings.Replace(all, right, "", 1))
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(right, "+"), "|")
		err := enter()
		wants(t, err, aclLine("gate", "rg", true))
		if err != nil && !strings.Contains(strings.ToLower(err.Error()), name) {
			t.Errorf("without %s: %v", right, err)
		}
	}
}

// By TLS every node shows a certificate for the address that it announces, and is shown
// ours.
func TestOpenRedis_clusterTLS(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	certs := redistest.NewTLS(t)
	_, addrs := redistest.StartClusterTLS(t, certs, 3)
	url := "rediss://" + addrs[0] + "?addr=" + addrs[1]
	ca, cert, key := "ROOMGATE_REDIS_CA_FILE="+certs.CA, "ROOMGATE_REDIS_CERT_FILE="+certs.Cert, "ROOMGATE_REDIS_KEY_FILE="+certs.Key
	for _, url := range []string{url, "rediss://" + addrs[2]} {
		if err := reach(t, url, ca, cert, key, "ROOMGATE_PARTITIONS=8"); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	wants(t, reach(t, url, cert, key), "TLS", "--redis-ca-file")
	wants(t, reach(t, url, ca), "TLS", "--redis-cert-file and --redis-key-file")

	// Calls and events go by TLS, too.
	cfg, _, err := parse([]string{"--dev", "--redis-timeout=5s", "--partitions=8"}, "ROOMGATE_REDIS_URL="+url, ca, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	link, err := openRedis(t.Context(), &cfg, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	for _, tag := range link.cluster.tags {
		master, err := link.calls.(*redis.ClusterClient).MasterForKey(t.Context(), "{"+tag+"}")
		if err != nil {
			t.Fatal(err)
		}
		if err := master.Get(t.Context(), "rg:{"+tag+"}:x").Err(); err != redis.Nil {
			t.Errorf("{%s}: %v", tag, err)
		}
		ps := link.cluster.shard(tag).SSubscribe(t.Context(), "rg:{"+tag+"}:x")
		if _, err := ps.Receive(t.Context()); err != nil {
			t.Errorf("{%s}: %v", tag, err)
		}
		ps.Close()
	}
}

// The hash slot of a tag is what Redis says it is.
func TestSlotOf(t *testing.T) {
	t.Parallel()
	rdb := redistest.NewCluster(t).Client()
	for _, tag := range []string{"0", "1", "63", "u0", "u17", "123456789", "a:b", "ü"} {
		want, err := rdb.ClusterKeySlot(t.Context(), "rg:{"+tag+"}:x").Result()
		if err != nil {
			t.Fatal(err)
		}
		if got := slotOf(tag); int64(got) != want {
			t.Errorf("%s: got slot %d, Redis has %d", tag, got, want)
		}
	}
}

// Who has a slot follows from what the nodes say: the latest configuration counts,
// however many know of it.
func TestCluster_take(t *testing.T) {
	t.Parallel()
	slots := func(ranges ...any) (all []redis.ClusterSlot) {
		for i := 0; i < len(ranges); i += 3 {
			all = append(all, redis.ClusterSlot{Start: ranges[i].(int), End: ranges[i+1].(int), Nodes: []redis.ClusterNode{{ID: ranges[i+2].(string)}}})
		}
		return all
	}
	nodes := map[string]string{"a": "a:1", "b": "b:1", "c": "c:1"}
	old := slotView{"", slots(0, 9, "a", 10, 16383, "b"), nodes, map[string]int64{"a": 1, "b": 2, "c": 1}}
	failed := slotView{"", slots(0, 9, "c", 10, 16383, "b"), nodes, map[string]int64{"a": 1, "b": 2, "c": 3}}
	moved := slotView{"", slots(0, 4, "a", 5, 16383, "b"), nodes, map[string]int64{"a": 1, "b": 4, "c": 1}}
	holed := slotView{"", slots(10, 16383, "b"), nodes, map[string]int64{"a": 1, "b": 2}}
	for _, tt := range []struct {
		name  string
		views []slotView
		want  string // of the slots 0, 5 and 10
	}{
		{"all agree", []slotView{old, old, old}, "aab"},
		{"one knows of a failover", []slotView{old, old, failed}, "ccb"},
		{"one does not know of it", []slotView{failed, old, failed}, "ccb"},
		{"slots have moved", []slotView{old, moved}, "abb"},
		{"and somebody failed", []slotView{moved, failed}, "cbb"},
		{"nobody has some", []slotView{holed, holed}, "  b"},
		{"one does not know who has some", []slotView{holed, old}, "aab"},
	} {
		c := newCluster(redis.Options{}, nil, nil, slog.New(slog.DiscardHandler))
		c.take(tt.views, time.Now())
		got := fmt.Sprintf("%1s%1s%1s", c.owners[0], c.owners[5], c.owners[10])
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// What most masters say counts, by the latest configuration that anybody knows of:
// replicas, and who was a master before, are nobody.
func TestMostMasters(t *testing.T) {
	t.Parallel()
	// view is what a node says when some have so many thirds of the slots each.
	view := func(by string, epochs map[string]int64, masters ...string) slotView {
		v := slotView{by: by, epochs: epochs}
		for i, id := range masters {
			v.slots = append(v.slots, redis.ClusterSlot{Start: i * 5461, End: i*5461 + 5460, Nodes: []redis.ClusterNode{{ID: id}}})
		}
		return v
	}
	before, after := map[string]int64{"a": 1, "b": 2, "c": 3}, map[string]int64{"a": 1, "b": 2, "c": 3, "ra": 4}
	old := func(by string) slotView { return view(by, before, "a", "b", "c") }
	later := func(by string) slotView { return view(by, after, "ra", "b", "c") }
	for _, tt := range []struct {
		name  string
		views []slotView
		want  bool
	}{
		{"nobody", nil, false},
		{"one of three", []slotView{old("a")}, false},
		{"one, twice", []slotView{old("a"), old("a")}, false},
		{"with its replicas", []slotView{old("a"), old("rb"), old("rc")}, false},
		{"two of three", []slotView{old("b"), old("c")}, true},
		{"a host with a master and two replicas is gone", []slotView{later("b"), later("c"), later("ra")}, true},
		{"it is cut off, with the next", []slotView{old("a"), later("b")}, false},
		{"the new master and another", []slotView{later("ra"), old("b")}, true},
		{"no slots", []slotView{view("a", before)}, false},
	} {
		if got := mostMasters(tt.views); got != tt.want {
			t.Errorf("%s: got %t", tt.name, got)
		}
	}
}

// A node may not know where it is reached.
func TestReachable(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ addr, host, port, want string }{
		{"10.0.0.7:6379", "10.0.0.5", "7000", "10.0.0.7:6379"},
		{"db7.example:6379", "10.0.0.5", "7000", "db7.example:6379"},
		{":6379", "10.0.0.5", "7000", "10.0.0.5:6379"},
		{"?:6379", "10.0.0.5", "7000", "10.0.0.5:6379"},
		{"127.0.0.1:6379", "10.0.0.5", "7000", "10.0.0.5:6379"},
		{"127.0.0.1:6379", "127.0.0.1", "7000", "127.0.0.1:6379"},
		{"10.0.0.7:0", "10.0.0.5", "7000", "10.0.0.7:7000"},
		{"[::1]:6379", "db5.example", "7000", "db5.example:6379"},
	} {
		if got := reachable(tt.addr, tt.host, tt.port); got != tt.want {
			t.Errorf("%s, from %s:%s: got %s, want %s", tt.addr, tt.host, tt.port, got, tt.want)
		}
	}
}

// A connection for a slot ends when another master has it, and the next one is to that.
// A node that hangs, or that has failed, is waited for no longer than for an answer.
func TestCluster_follows(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a Cluster")
	}
	servers := redistest.StartCluster(t, 3, true)
	cfg, _, err := parse([]string{"--dev", "--redis-timeout=1s", "--partitions=8"}, "ROOMGATE_REDIS_URL="+clusterURL("", servers.Masters...))
	if err != nil {
		t.Fatal(err)
	}
	link, err := openRedis(t.Context(), &cfg, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	c := link.cluster
	owner := func(tag string) string {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.nodes[c.owners[slotOf(tag)]]
	}
	var tag string
	for _, one := range c.tags {
		if owner(one) == servers.Masters[0].Addr() {
			tag = one
		}
	}
	conn, err := c.dialSlot(t.Context(), "tcp", slotOf(tag))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ended := make(chan struct{})
	go func() { conn.Read(make([]byte, 1)); close(ended) }()
	if got := conn.RemoteAddr().String(); got != servers.Masters[0].Addr() {
		t.Fatalf("the connection is to %s", got)
	}
	servers.Masters[0].Pause() // others take its slots, and it does not know
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for owner(tag) != servers.Replicas[0].Addr() {
		if ctx.Err() != nil {
			t.Fatalf("the slot is at %s", owner(tag))
		}
		if err := c.ask(ctx, clusterLately); err != nil {
			t.Log(err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	<-ended
	next, err := c.dialSlot(ctx, "tcp", slotOf(tag))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if got := next.RemoteAddr().String(); got != servers.Replicas[0].Addr() {
		t.Errorf("the next connection is to %s", got)
	}
	servers.Masters[0].Resume()
}
