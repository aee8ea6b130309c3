package roomstore_test

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// BenchmarkCost_cluster is what one message or command costs the masters of a Cluster,
// in µs of their CPU, and how many calls go together, by the number of partitions and
// of callers: each slot has a lane of its own.
func BenchmarkCost_cluster(b *testing.B) {
	c := redistest.NewCluster(b)
	for _, callers := range []int{20, 200, 2000} {
		for _, partitions := range []int{3, 16, 64} {
			b.Run(fmt.Sprintf("callers=%d/P=%d", callers, partitions), func(b *testing.B) {
				prefix := redistest.Prefix()
				o := c.Options()
				o.ReadTimeout = time.Minute
				rdb := redis.NewClusterClient(o)
				defer rdb.Close()
				var pipelines, gathered atomic.Int64
				calls := runBatcher(b, rdb, roomstore.BatcherConfig{Slots: roomstore.ClusterSlots(prefix, partitions), Timeout: time.Minute,
					Observe: func(n int, _ time.Duration) { pipelines.Add(1); gathered.Add(int64(n)) }})
				store := roomstore.New(calls, roomstore.Config{Prefix: prefix, Partitions: partitions, Apart: true, Sharded: true})
				if err := store.Greet(b.Context()); err != nil {
					b.Fatal(err)
				}
				who := make([]roomstore.Session, callers)
				eachOf(b, callers, 100, func(ctx context.Context, i int) (err error) {
					if who[i], err = store.Login(ctx, "node", roomstore.UserID("u"+strconv.Itoa(i)), roomstore.NewSessionID(), ""); err != nil {
						return err
					}
					_, err = store.Enter(ctx, who[i], roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: roomstore.RoomID("r" + strconv.Itoa(i))})
					return err
				})
				cpu := func() (all float64) {
					for _, m := range c.Masters {
						all += redisCPU(b, m.Client(b))
					}
					return all
				}
				before := cpu()
				pipelines.Store(0)
				gathered.Store(0)
				b.ResetTimer()
				each(b, callers, func(ctx context.Context, i int) error {
					n := i % callers
					_, err := store.Relay(ctx, who[n], roomstore.Message{Room: roomstore.RoomID("r" + strconv.Itoa(n)), ID: "1", Priority: 1, Payload: "{}"})
					return err
				})
				b.StopTimer()
				b.ReportMetric((cpu()-before)*1e6/float64(b.N), "redis-µs/op")
				b.ReportMetric(float64(gathered.Load())/float64(pipelines.Load()), "calls/pipeline")
			})
		}
	}
}
