package roomstore_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// bare is what a room without sessions, log bounds or limits would do: the
// measure of what ours cost.
var bare = redis.NewScript(`
redis.call("HSET", KEYS[1], ARGV[1], ARGV[2])
redis.call("ZADD", KEYS[2], ARGV[3], ARGV[1])
local seq = redis.call("HINCRBY", KEYS[3], "seq", 1)
redis.call("RPUSH", KEYS[4], ARGV[2])
redis.call("LTRIM", KEYS[4], -256, -1)
redis.call("PUBLISH", KEYS[5], ARGV[2])
return { "ok", tostring(seq) }`)

// BenchmarkCost is what one operation costs Redis, in µs of its CPU, beside a
// bare script, with 200 callers whose calls are gathered into pipelines. Rooms
// have 20 members.
func BenchmarkCost(b *testing.B) {
	const callers, perRoom = 200, 20
	payload := `{"type":1,"message":"` + fmt.Sprintf("%0128d", 1) + `"}`
	server := redistest.Start(b)
	rdb := server.Client(b)
	calls := runBatcher(b, rdb, roomstore.BatcherConfig{})
	store := roomstore.New(calls, roomstore.Config{Prefix: redistest.Prefix()})
	if err := store.Greet(b.Context()); err != nil { // as a gateway does
		b.Fatal(err)
	}

	room := func(i int) roomstore.RoomID { return roomstore.RoomID("r" + strconv.Itoa(i/perRoom)) }
	people := func(b *testing.B) []roomstore.Session {
		all := make([]roomstore.Session, b.N)
		each(b, callers, func(ctx context.Context, i int) (err error) {
			user := roomstore.UserID(fmt.Sprintf("u%d-%s", i, redistest.Prefix()[5:11]))
			all[i], err = store.Login(ctx, "node", user, roomstore.NewSessionID(), "")
			return err
		})
		return all
	}
	enter := func(ctx context.Context, who roomstore.Session, i int) error {
		_, err := store.Enter(ctx, who, roomstore.EntryRequest{
			Mode: roomstore.ModeEnter, Room: room(i), RequestKey: "1", Data: payload,
		})
		return err
	}
	measure := func(b *testing.B, do func(ctx context.Context, i int) error) {
		before := redisCPU(b, rdb)
		b.ResetTimer()
		each(b, callers, do)
		b.StopTimer()
		b.ReportMetric((redisCPU(b, rdb)-before)*1e6/float64(b.N), "redis-µs/op")
	}
	in := func(b *testing.B) []roomstore.Session {
		all := people(b)
		each(b, callers, func(ctx context.Context, i int) error { return enter(ctx, all[i], i) })
		return all
	}

	b.Run("bare", func(b *testing.B) {
		measure(b, func(ctx context.Context, i int) error {
			r := redistest.Prefix()[:5] + string(room(i))
			_, err := calls.Do(ctx, r, bare, []string{r + "h", r + "z", r + "s", r + "l", r + "c"},
				[]any{"u" + strconv.Itoa(i), payload, i})
			return err
		})
	})
	b.Run("login", func(b *testing.B) {
		all := make([]roomstore.Session, b.N)
		prefix := redistest.Prefix()[5:11]
		measure(b, func(ctx context.Context, i int) (err error) {
			all[i], err = store.Login(ctx, "node", roomstore.UserID(fmt.Sprintf("u%d-%s", i, prefix)), roomstore.NewSessionID(), "")
			return err
		})
		leaveEverybody(b, store, all, callers)
	})
	b.Run("enter", func(b *testing.B) {
		all := people(b)
		measure(b, func(ctx context.Context, i int) error { return enter(ctx, all[i], i) })
		leaveEverybody(b, store, all, callers)
	})
	b.Run("leave", func(b *testing.B) {
		all := in(b)
		measure(b, func(ctx context.Context, i int) error {
			_, err := store.Leave(ctx, all[i], room(i), "2")
			return err
		})
	})
	b.Run("send", func(b *testing.B) {
		all := in(b)
		measure(b, func(ctx context.Context, i int) error {
			_, err := store.Send(ctx, all[i], roomstore.Message{Room: room(i), RequestKey: "2", ID: "1", Payload: payload})
			return err
		})
		leaveEverybody(b, store, all, callers)
	})
	b.Run("park", func(b *testing.B) {
		all := in(b)
		measure(b, func(ctx context.Context, i int) error { return store.Park(ctx, all[i], time.Minute) })
		leaveEverybody(b, store, all, callers)
	})
	for _, tt := range []struct {
		name, node string
		parked     bool
	}{{"resume", "node", true}, {"resumeLingering", "node", false}, {"resumeLingering_elsewhere", "other", false}} {
		b.Run(tt.name, func(b *testing.B) {
			all := in(b)
			if tt.parked {
				each(b, callers, func(ctx context.Context, i int) error { return store.Park(ctx, all[i], time.Minute) })
			}
			measure(b, func(ctx context.Context, i int) (err error) {
				all[i], err = back(ctx, store, all[i], tt.node, room(i))
				return err
			})
			leaveEverybody(b, store, all, callers)
		})
	}
	b.Run("relay", func(b *testing.B) {
		all := in(b)
		measure(b, func(ctx context.Context, i int) error {
			_, err := store.Relay(ctx, all[i], roomstore.Message{Room: room(i), ID: "1", Priority: 1, Payload: payload})
			return err
		})
		leaveEverybody(b, store, all, callers)
	})
}

// back brings a session to a node, with its room.
func back(ctx context.Context, store *roomstore.Store, who roomstore.Session, node string, room roomstore.RoomID) (roomstore.Session, error) {
	who, rooms, ok, err := store.Resume(ctx, node, who.User, who.ID, []roomstore.RoomID{room})
	if err == nil && (!ok || len(rooms) != 1 || !rooms[0].In) {
		err = fmt.Errorf("%s is not back in %s: %v", who.ID, room, rooms)
	}
	return who, err
}

func leaveEverybody(b *testing.B, store *roomstore.Store, all []roomstore.Session, callers int) {
	each(b, callers, func(ctx context.Context, i int) error {
		_, err := store.LeaveAll(ctx, all[i], "", true)
		return err
	})
}

// each calls do for all numbers below b.N, with some callers at once.
func each(b *testing.B, callers int, do func(ctx context.Context, i int) error) {
	b.Helper()
	eachOf(b, b.N, callers, do)
}

// eachOf is each for all numbers below n.
func eachOf(t testing.TB, n, callers int, do func(ctx context.Context, i int) error) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, callers)
	for range callers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := do(t.Context(), int(i)); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	var all []error
	for err := range failed {
		all = append(all, err)
	}
	if len(all) > 0 {
		t.Fatal(errors.Join(all...))
	}
}
