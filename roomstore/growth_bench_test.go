package roomstore_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// BenchmarkGrowth is what operations cost Redis, in µs of its CPU, as rooms get
// larger and more. Each step is one deployment: rooms full of members written
// straight into the store, and 2000 sessions that enter them, send, ask and leave,
// from 200 callers at once. Run it with -benchtime 1x.
func BenchmarkGrowth(b *testing.B) {
	for _, members := range []int{10, 100, 1000, 10_000, 100_000} {
		b.Run("members="+strconv.Itoa(members), func(b *testing.B) {
			growth(b, 1, max(1, 20_000/members), members)
		})
	}
	for _, partitions := range []int{1, 16} {
		for _, rooms := range []int{10, 1000, 100_000} {
			b.Run(fmt.Sprintf("P=%d/rooms=%d", partitions, rooms), func(b *testing.B) {
				growth(b, partitions, rooms, 1)
			})
		}
	}
}

func growth(b *testing.B, partitions, rooms, members int) {
	const callers, sessions, rounds = 200, 2000, 5
	payload := `{"type":1,"message":"` + fmt.Sprintf("%0128d", 1) + `"}`
	rdb := redistest.Start(b).Client(b)
	prefix := redistest.Prefix()
	calls := runBatcher(b, rdb, roomstore.BatcherConfig{Timeout: time.Minute})
	store := roomstore.New(calls, roomstore.Config{Prefix: prefix, Partitions: partitions, MaxMembers: 1 << 20})
	if err := store.Greet(b.Context()); err != nil {
		b.Fatal(err)
	}
	room := func(i int) roomstore.RoomID { return roomstore.RoomID("r" + strconv.Itoa(i%rooms)) }
	for i := range rooms {
		fill(b, rdb, store, room(i), members, payload)
	}
	who := make([]roomstore.Session, sessions)
	spent := map[string]float64{}
	each := func(what string, do func(ctx context.Context, i int) error) {
		before := redisCPU(b, rdb)
		eachOf(b, sessions, callers, do)
		spent[what] += (redisCPU(b, rdb) - before) * 1e6
	}
	each("login", func(ctx context.Context, i int) (err error) {
		user := roomstore.UserID("user" + strconv.Itoa(i))
		who[i], err = store.Login(ctx, "node", user, roomstore.NewSessionID(), "")
		return err
	})
	delete(spent, "login")
	requests := 0
	key := func() roomstore.RequestKey {
		requests++
		return roomstore.RequestKey(strconv.Itoa(requests))
	}
	for b.Loop() {
		for range rounds {
			entering, sending, leaving := key(), key(), key()
			each("enter", func(ctx context.Context, i int) error {
				_, err := store.Enter(ctx, who[i], roomstore.EntryRequest{
					Mode: roomstore.ModeJoin, Room: room(i), RequestKey: entering, Data: payload,
				})
				return err
			})
			each("send", func(ctx context.Context, i int) error {
				_, err := store.Send(ctx, who[i], roomstore.Message{Room: room(i), RequestKey: sending, ID: "1", Payload: payload})
				return err
			})
			each("relay", func(ctx context.Context, i int) error {
				_, err := store.Relay(ctx, who[i], roomstore.Message{Room: room(i), ID: "1", Priority: 1, Payload: payload})
				return err
			})
			each("count", func(ctx context.Context, i int) error {
				_, _, err := store.Count(ctx, who[i], room(i))
				return err
			})
			each("page", func(ctx context.Context, i int) error {
				_, err := store.Members(ctx, who[i], room(i), "", 10)
				return err
			})
			each("leave", func(ctx context.Context, i int) error {
				_, err := store.Leave(ctx, who[i], room(i), leaving)
				return err
			})
		}
	}
	for what, us := range spent {
		b.ReportMetric(us/float64(sessions*rounds*b.N), what+"-µs")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRooms is what a page of the list of rooms costs Redis, in µs of its CPU, as
// there are more: the first, one in the middle, and one of a search; and a look at the
// deployment. Run it with -benchtime 200x.
func BenchmarkRooms(b *testing.B) {
	for _, partitions := range []int{1, 16} {
		for _, rooms := range []int{1000, 10_000, 100_000} {
			rdb := redistest.Start(b).Client(b)
			calls := runBatcher(b, rdb, roomstore.BatcherConfig{Timeout: time.Minute})
			store := roomstore.New(calls, roomstore.Config{Prefix: redistest.Prefix(), Partitions: partitions})
			if err := store.Greet(b.Context()); err != nil {
				b.Fatal(err)
			}
			pipe := rdb.Pipeline()
			for i := range rooms {
				id := fmt.Sprintf("room-%06d", i)
				part := strings.TrimSuffix(store.Topic(roomstore.RoomID(id)), "ch:"+id)
				pipe.HSet(b.Context(), part+"room:"+id, "epoch", 1_700_000_000_000_000+i, "seq", 0, "term", store.Term(),
					"messageSeq", 0, "name", "Room", "delay", 0, "created", 1_700_000_000_000, "creator", "m0")
				pipe.ZAdd(b.Context(), part+"rooms", redis.Z{Member: id})
				if i%1000 == 999 {
					if _, err := pipe.Exec(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
			for name, ask := range map[string]func() error{
				"first": func() error { _, err := store.Rooms(b.Context(), "", "", 100); return err },
				"middle": func() error {
					_, err := store.Rooms(b.Context(), "", roomstore.RoomID(fmt.Sprintf("room-%06d", rooms/2)), 100)
					return err
				},
				"search":  func() error { _, err := store.Rooms(b.Context(), "room-0005", "", 100); return err },
				"cluster": func() error { _, err := store.Cluster(b.Context()); return err },
			} {
				b.Run(fmt.Sprintf("P=%d/rooms=%d/%s", partitions, rooms, name), func(b *testing.B) {
					before := redisCPU(b, rdb)
					for b.Loop() {
						if err := ask(); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric((redisCPU(b, rdb)-before)*1e6/float64(b.N), "redis-µs")
				})
			}
		}
	}
}

// fill writes a room with members into the store, as entries would leave it.
func fill(t testing.TB, rdb *redis.Client, store *roomstore.Store, room roomstore.RoomID, members int, data string) {
	t.Helper()
	part := strings.TrimSuffix(store.Topic(room), "ch:"+string(room))
	const epoch = "1700000000000000"
	pipe := rdb.Pipeline()
	flush := func() {
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	pipe.HSet(t.Context(), part+"room:"+string(room), "epoch", epoch, "seq", members, "term", store.Term(),
		"messageSeq", 0, "name", "", "delay", 0, "created", 1700000000000, "creator", "m0")
	pipe.ZAdd(t.Context(), part+"rooms", redis.Z{Member: string(room)})
	for i := range members {
		user := "m" + strconv.Itoa(i)
		pipe.ZAdd(t.Context(), part+"members:"+string(room), redis.Z{Score: float64(i + 1), Member: user})
		pipe.HSet(t.Context(), part+"info:"+string(room), user,
			strings.Join([]string{"session" + user, "1700000000000", "other", "u0", "1700000000000", data}, "\x00"))
		pipe.SAdd(t.Context(), part+"node:other", user+"\x00"+string(room))
		if i%1000 == 999 {
			flush()
		}
	}
	flush()
}
