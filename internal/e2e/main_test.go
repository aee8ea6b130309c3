//go:build linux

// Package e2e tests the program as a whole: gateways that are processes of
// their own, a redis-server, and clients that speak to them over sockets. It
// knows the wire, the flags, and what Redis shows to everybody; a promise that
// the other packages make to each other is tested there.
package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

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

// redisServer is a Redis of the test's own with a client that waits long.
func redisServer(t testing.TB) (*redistest.Server, *redis.Client) {
	t.Helper()
	s := redistest.Start(t)
	o := redistest.Options(s.Addr())
	o.ReadTimeout = time.Minute
	rdb := redis.NewClient(o)
	t.Cleanup(func() { rdb.Close() })
	return s, rdb
}

// redisTime is Redis's clock, in ms.
func redisTime(t testing.TB, rdb *redis.Client) int64 {
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
