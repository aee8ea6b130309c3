//go:build linux

// Package e2e tests the program as a whole: gateways that are processes of
// their own, a redis-server, and clients that speak to them over sockets. It
// knows the wire, the flags, and what Redis shows to everybody; a promise that
// the other packages make to each other is tested there.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/freeport"
	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/internal/redistest"
)

func TestMain(m *testing.M) { gatetest.Main(m) }

// What every file here speaks of.
type gateway = gatetest.Gateway

const (
	patience   = gatetest.Patience
	sessionTTL = gatetest.SessionTTL
	leaseTTL   = gatetest.LeaseTTL
	heartbeat  = gatetest.Heartbeat
	drain      = gatetest.Drain
)

func startGateway(t testing.TB, redis string, flags ...string) *gateway {
	t.Helper()
	if strings.Contains(redis, "addr=") && !strings.Contains(redis, "master_name=") {
		flags = append([]string{fmt.Sprintf("--partitions=%d", clusterPartitions)}, flags...)
	}
	return gatetest.Start(t, redis, flags...)
}

func startPair(t testing.TB, redis string, flags ...string) (a, b *gateway) {
	t.Helper()
	return startGateway(t, redis, flags...), startGateway(t, redis, flags...)
}

// addrToKeep gives an address for a gateway that is to come back at the same one.
func addrToKeep(t testing.TB) string {
	t.Helper()
	port, err := freeport.New()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	gatetest.Eventually(t, what, ok)
}

// during listens to Redis's clock for a while, whatever ours does.
func during(t testing.TB, rdb *redis.Client, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d+patience)
	defer cancel()
	err := rdb.BLPop(ctx, d, "nothing is ever in this list").Err()
	if !errors.Is(err, redis.Nil) {
		t.Fatalf("waiting on Redis: %v", err)
	}
}

// onCluster chooses the world of all tests: flags of "go test" choose which of them.
var onCluster = flag.Bool("cluster", false, "on a Redis Cluster, with 64 partitions; tests that look into one Redis, or need what a Cluster does not have, are skipped")

// clusterPartitions is how many partitions gateways have on a Cluster.
const clusterPartitions = 64

// servers are a Redis of the test's own, or the masters of a Cluster.
type servers struct {
	*redistest.Server
	cluster *redistest.Cluster // nil: it is one Redis
}

// Addr is what a gateway is given to find it.
func (s *servers) Addr() string {
	if s.cluster == nil {
		return s.Server.Addr()
	}
	return clusterURL(s.cluster)
}

func clusterURL(c *redistest.Cluster) string {
	return "redis://" + c.Masters[0].Addr() + "?addr=" + strings.Join(c.Addrs()[1:], "&addr=")
}

// each does something to all servers.
func (s *servers) each(do func(*redistest.Server)) {
	if s.cluster == nil {
		do(s.Server)
		return
	}
	for _, m := range s.cluster.Masters {
		do(m)
	}
}

func (s *servers) Pause()  { s.each((*redistest.Server).Pause) }
func (s *servers) Resume() { s.each((*redistest.Server).Resume) }
func (s *servers) Kill()   { s.each((*redistest.Server).Kill) }

func (s *servers) Restart() {
	s.each((*redistest.Server).Restart)
	if s.cluster != nil {
		s.cluster.Settled()
	}
}

// redisServer is a Redis of the test's own, with a client that waits long. On a
// Cluster the test is skipped: it looks into that Redis. See anyRedis.
func redisServer(t testing.TB) (*servers, *redis.Client) {
	t.Helper()
	oneRedis(t)
	s := &servers{Server: redistest.Start(t)}
	o := redistest.Options(s.Addr())
	o.ReadTimeout = time.Minute
	rdb := redis.NewClient(o)
	t.Cleanup(func() { rdb.Close() })
	return s, rdb
}

// oneRedis skips a test on a Cluster that is about one Redis.
func oneRedis(t testing.TB) {
	t.Helper()
	if *onCluster {
		t.Skip("it is about one Redis")
	}
}

// linkTo is a way to a Redis that a test can make bad. There is none to all nodes of a
// Cluster.
func linkTo(t testing.TB, server *servers) *faultproxy.Proxy {
	t.Helper()
	oneRedis(t)
	return faultproxy.StartRedis(t, server.Addr())
}

// anyRedis is redisServer for a test that does not care which world it is in.
func anyRedis(t testing.TB) (*servers, redis.UniversalClient) {
	t.Helper()
	if !*onCluster {
		return redisServer(t)
	}
	c := redistest.StartCluster(t, 3, false)
	o := c.Options()
	o.ReadTimeout = time.Minute
	rdb := redis.NewClusterClient(o)
	t.Cleanup(func() { rdb.Close() })
	return &servers{Server: c.Masters[0], cluster: c}, rdb
}

// partitionings are the numbers of partitions that a test of all rules has.
func partitionings() []int {
	if *onCluster {
		return []int{clusterPartitions}
	}
	return []int{1, 16}
}

// anyOf says whether there is any of these keys.
func anyOf(ctx context.Context, rdb redis.UniversalClient, keys []string) bool {
	for _, key := range keys {
		if rdb.Exists(ctx, key).Val() != 0 {
			return true
		}
	}
	return false
}

// keysOf gives all keys that begin with a prefix.
func keysOf(t testing.TB, rdb redis.UniversalClient, prefix string) (keys []string) {
	t.Helper()
	scan := func(ctx context.Context, one *redis.Client) error {
		it := one.Scan(ctx, 0, prefix+"*", 1000).Iterator()
		for it.Next(ctx) {
			keys = append(keys, it.Val())
		}
		return it.Err()
	}
	var err error
	switch rdb := rdb.(type) {
	case *redis.Client:
		err = scan(t.Context(), rdb)
	case *redis.ClusterClient:
		var one sync.Mutex
		err = rdb.ForEachMaster(t.Context(), func(ctx context.Context, master *redis.Client) error {
			one.Lock()
			defer one.Unlock()
			return scan(ctx, master)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// redisTime is Redis's clock, in ms.
func redisTime(t testing.TB, rdb redis.UniversalClient) int64 {
	t.Helper()
	now, err := rdb.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return now.UnixMilli()
}

// paused is how far Redis's clock is ahead of awake time, in ms.
func paused(t testing.TB, rdb *redis.Client) int64 {
	t.Helper()
	n, err := rdb.HGet(t.Context(), "rg:{0}:clock", "paused").Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	return n
}

// seedOf gives what a test draws its random numbers from: something new each
// time, or what ROOMGATE_TEST_SEED says, to try a failure again.
func seedOf(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("ROOMGATE_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ROOMGATE_TEST_SEED=%d", seed)
	return seed
}
