//go:build linux

package gatetest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/redistest"
)

// ClusterPartitions is how many partitions gateways have on a Cluster.
const ClusterPartitions = 64

// Servers are a Redis of a test's own, or the masters of a Cluster.
type Servers struct {
	*redistest.Server
	Cluster *redistest.Cluster // nil: it is one Redis
}

// StartServers starts a Redis, or a Cluster of three masters, for one test. The arguments
// are as for [redistest.Start].
func StartServers(t testing.TB, cluster bool, args ...string) *Servers {
	t.Helper()
	if !cluster {
		return &Servers{Server: redistest.Start(t, args...)}
	}
	c := redistest.StartCluster(t, 3, false, args...)
	return &Servers{Server: c.Masters[0], Cluster: c}
}

// Open gives a client that waits long, which is closed when the test ends.
func (s *Servers) Open(t testing.TB) (rdb redis.UniversalClient) {
	t.Helper()
	if s.Cluster == nil {
		o := redistest.Options(s.Server.Addr())
		o.ReadTimeout = time.Minute
		rdb = redis.NewClient(o)
	} else {
		o := s.Cluster.Options()
		o.ReadTimeout = time.Minute
		rdb = redis.NewClusterClient(o)
	}
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// Addr is what a gateway is given to find it.
func (s *Servers) Addr() string {
	if s.Cluster == nil {
		return s.Server.Addr()
	}
	return ClusterURL(s.Cluster.Addrs())
}

// ClusterURL is what a gateway is given to find a Cluster with nodes at some addresses.
func ClusterURL(addrs []string) string {
	return "redis://" + addrs[0] + "?addr=" + strings.Join(addrs[1:], "&addr=")
}

// Each gives each server.
func (s *Servers) Each() []*redistest.Server {
	if s.Cluster == nil {
		return []*redistest.Server{s.Server}
	}
	return s.Cluster.Masters
}

// Pause is [redistest.Server.Pause] for all.
func (s *Servers) Pause() {
	for _, one := range s.Each() {
		one.Pause()
	}
}

// Resume is [redistest.Server.Resume] for all.
func (s *Servers) Resume() {
	for _, one := range s.Each() {
		one.Resume()
	}
}

// Kill is [redistest.Server.Kill] for all.
func (s *Servers) Kill() {
	for _, one := range s.Each() {
		one.Kill()
	}
}

// Restart is [redistest.Server.Restart] for all.
func (s *Servers) Restart() {
	for _, one := range s.Each() {
		one.Restart()
	}
	if s.Cluster != nil {
		s.Cluster.Settled()
	}
}

// A Link is a way of gateways to a Redis, or to all nodes of a Cluster, that a test can
// make bad.
type Link struct{ *faultproxy.Proxy }

// Link opens one.
func (s *Servers) Link(t testing.TB) *Link {
	t.Helper()
	if s.Cluster == nil {
		return &Link{faultproxy.StartRedis(t, s.Server.Addr())}
	}
	s.Cluster.HideHost()
	return &Link{faultproxy.StartCluster(t, s.Cluster.Addrs())}
}

// Addr is what a gateway is given to go that way.
func (l *Link) Addr() string {
	if addrs := l.Addrs(); len(addrs) > 1 {
		return ClusterURL(addrs)
	}
	return l.Proxy.Addr()
}

// What tests look at in Redis, be it one or a Cluster: where gateways that [Start] started
// without further flags have what they store.

// PartitionsOf is how many partitions they have.
func PartitionsOf(rdb redis.UniversalClient) int {
	if _, is := rdb.(*redis.ClusterClient); is {
		return ClusterPartitions
	}
	return 1
}

// PartitionOf is where a room or a user is stored, by the rule that places both.
func PartitionOf(id string, partitions int) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	return int(h.Sum32() % uint32(partitions))
}

// PartOf gives the prefix of what is stored in a room's partition.
func PartOf(prefix string, partitions int, room string) string {
	return fmt.Sprintf("%s:{%d}:", prefix, PartitionOf(room, partitions))
}

// RoomKey is where a room has what is stored under a kind of key.
func RoomKey(rdb redis.UniversalClient, kind, room string) string {
	return PartOf("rg", PartitionsOf(rdb), room) + kind + ":" + room
}

// UserKey is where a user's sessions and rooms are.
func UserKey(rdb redis.UniversalClient, user string) string {
	return fmt.Sprintf("rg:{u%d}:user:%s", PartitionOf(user, PartitionsOf(rdb)), user)
}

// NodesKey is where the leases are.
func NodesKey(rdb redis.UniversalClient) string {
	if _, is := rdb.(*redis.ClusterClient); is {
		return "rg:{0}:nodes"
	}
	return "rg:nodes"
}

// InPartitions gives the keys of one name in all partitions of rooms.
func InPartitions(rdb redis.UniversalClient, name string) (keys []string) {
	for p := range PartitionsOf(rdb) {
		keys = append(keys, fmt.Sprintf("rg:{%d}:%s", p, name))
	}
	return keys
}

// InUsers gives the keys of one name in all slots of users.
func InUsers(rdb redis.UniversalClient, name string) (keys []string) {
	for p := range PartitionsOf(rdb) {
		keys = append(keys, fmt.Sprintf("rg:{u%d}:%s", p, name))
	}
	return keys
}

// SizeOf counts what is in all of some keys: of sets, sorted sets, or no such keys.
func SizeOf(t testing.TB, rdb redis.UniversalClient, keys []string) (n int) {
	t.Helper()
	kinds := make([]*redis.StatusCmd, len(keys))
	sets, sorted := make([]*redis.IntCmd, len(keys)), make([]*redis.IntCmd, len(keys))
	// What is of another kind, or of none, counts for nothing.
	_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i, key := range keys {
			kinds[i], sets[i], sorted[i] = p.Type(t.Context(), key), p.SCard(t.Context(), key), p.ZCard(t.Context(), key)
		}
		return nil
	})
	for i, kind := range kinds {
		switch {
		case kind.Err() != nil:
			t.Fatal(errors.Join(err, kind.Err()))
		case kind.Val() == "set":
			n += int(sets[i].Val())
		case kind.Val() == "zset":
			n += int(sorted[i].Val())
		case kind.Val() != "none":
			t.Fatalf("%s is a %s", keys[i], kind.Val())
		}
	}
	return n
}

// AnyOf says whether there is any of these keys.
func AnyOf(ctx context.Context, rdb redis.UniversalClient, keys []string) bool {
	for _, key := range keys {
		if rdb.Exists(ctx, key).Val() != 0 {
			return true
		}
	}
	return false
}

// KeysOf gives all keys that begin with a prefix.
func KeysOf(t testing.TB, rdb redis.UniversalClient, prefix string) (keys []string) {
	t.Helper()
	var one sync.Mutex
	err := EachMaster(t.Context(), rdb, func(ctx context.Context, master *redis.Client) error {
		one.Lock()
		defer one.Unlock()
		it := master.Scan(ctx, 0, prefix+"*", 1000).Iterator()
		for it.Next(ctx) {
			keys = append(keys, it.Val())
		}
		return it.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// EachMaster does something with every server that has a part of what is stored, with
// several at once.
func EachMaster(ctx context.Context, rdb redis.UniversalClient, do func(context.Context, *redis.Client) error) error {
	if c, is := rdb.(*redis.ClusterClient); is {
		return c.ForEachMaster(ctx, do)
	}
	return do(ctx, rdb.(*redis.Client))
}

// FlushAll has all be lost.
func FlushAll(t testing.TB, rdb redis.UniversalClient) {
	t.Helper()
	err := EachMaster(t.Context(), rdb, func(ctx context.Context, master *redis.Client) error { return master.FlushAll(ctx).Err() })
	if err != nil {
		t.Fatal(err)
	}
}

// Save has all be there when Redis is started anew.
func Save(t testing.TB, rdb redis.UniversalClient) {
	t.Helper()
	err := EachMaster(t.Context(), rdb, func(ctx context.Context, master *redis.Client) error { return master.Save(ctx).Err() })
	if err != nil {
		t.Fatal(err)
	}
}

// Subscribe hears what is published on one channel.
func Subscribe(ctx context.Context, rdb redis.UniversalClient, channel string) *redis.PubSub {
	if _, is := rdb.(*redis.ClusterClient); is {
		return rdb.SSubscribe(ctx, channel)
	}
	return rdb.Subscribe(ctx, channel)
}

// RedisTime is Redis's clock, in ms.
func RedisTime(t testing.TB, rdb redis.UniversalClient) int64 {
	t.Helper()
	now, err := rdb.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return now.UnixMilli()
}

// Paused is how far Redis's clock is ahead of awake time where a room is, in ms.
func Paused(t testing.TB, rdb redis.UniversalClient, room string) int64 {
	t.Helper()
	return pausedIn(t, rdb, PartOf("rg", PartitionsOf(rdb), room))
}

// PausedFor is how far Redis's clock is ahead, in ms, of the awake time that evicts a
// user from a room. On a Cluster there are two, and the sooner decides: one ends the
// session, the other its place in the room, and each is swept at its own time.
func PausedFor(t testing.TB, rdb redis.UniversalClient, user, room string) int64 {
	t.Helper()
	place := Paused(t, rdb, room)
	if _, is := rdb.(*redis.ClusterClient); !is {
		return place
	}
	return min(place, pausedIn(t, rdb, strings.TrimSuffix(UserKey(rdb, user), "user:"+user)))
}

func pausedIn(t testing.TB, rdb redis.UniversalClient, slot string) int64 {
	t.Helper()
	n, err := rdb.HGet(t.Context(), slot+"clock", "paused").Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	return n
}
