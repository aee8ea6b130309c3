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
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/freeport"
	"github.com/roomgate/roomgate/internal/gatetest"
)

func TestMain(m *testing.M) { gatetest.Main(m) }

// What every file here speaks of.
type (
	gateway = gatetest.Gateway
	servers = gatetest.Servers
	link    = gatetest.Link
)

const (
	patience   = gatetest.Patience
	sessionTTL = gatetest.SessionTTL
	leaseTTL   = gatetest.LeaseTTL
	heartbeat  = gatetest.Heartbeat
	drain      = gatetest.Drain

	clusterPartitions = gatetest.ClusterPartitions
)

// Where gateways have what they store, see there.
var (
	partitionsOf = gatetest.PartitionsOf
	partitionOf  = gatetest.PartitionOf
	partOf       = gatetest.PartOf
	roomKey      = gatetest.RoomKey
	userKey      = gatetest.UserKey
	nodesKey     = gatetest.NodesKey
	inPartitions = gatetest.InPartitions
	inUsers      = gatetest.InUsers
	sizeOf       = gatetest.SizeOf
	anyOf        = gatetest.AnyOf
	keysOf       = gatetest.KeysOf
	eachMaster   = gatetest.EachMaster
	flushAll     = gatetest.FlushAll
	save         = gatetest.Save
	subscribe    = gatetest.Subscribe
	redisTime    = gatetest.RedisTime
	paused       = gatetest.Paused
	pausedFor    = gatetest.PausedFor
)

func startGateway(t testing.TB, redis string, flags ...string) *gateway {
	t.Helper()
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
func during(t testing.TB, rdb redis.UniversalClient, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d+patience)
	defer cancel()
	err := rdb.BLPop(ctx, d, "nothing is ever in this list").Err()
	if !errors.Is(err, redis.Nil) {
		t.Fatalf("waiting on Redis: %v", err)
	}
}

// onCluster chooses the world of all tests: flags of "go test" choose which of them.
var onCluster = flag.Bool("cluster", false, "on a Redis Cluster, with 64 partitions; tests that are about one Redis are skipped")

// anyRedis is a Redis of the test's own, or the masters of a Cluster, with a client that
// waits long. See [redistest.Start] for the arguments.
func anyRedis(t testing.TB, args ...string) (*servers, redis.UniversalClient) {
	t.Helper()
	s := gatetest.StartServers(t, *onCluster, args...)
	return s, s.Open(t)
}

// redisServer is anyRedis for a test that is about one Redis. On a Cluster it is skipped.
func redisServer(t testing.TB, args ...string) (*servers, *redis.Client) {
	t.Helper()
	oneRedis(t)
	s, rdb := anyRedis(t, args...)
	return s, rdb.(*redis.Client)
}

// oneRedis skips a test on a Cluster that is about one Redis.
func oneRedis(t testing.TB) {
	t.Helper()
	if *onCluster {
		t.Skip("it is about one Redis")
	}
}

func linkTo(t testing.TB, server *servers) *link {
	t.Helper()
	return server.Link(t)
}

// partitionings are the numbers of partitions that a test of all rules has.
func partitionings() []int {
	if *onCluster {
		return []int{clusterPartitions}
	}
	return []int{1, 16}
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
