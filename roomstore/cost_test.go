package roomstore_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// An operation on a room is one script, which calls so many commands and no
// more: however many members the room has, however many rooms there are, and in
// however many partitions. They are counted of sessions that go on, in a room
// where others stay.
func TestStore_commands(t *testing.T) {
	t.Parallel()
	type size struct{ partitions, rooms, members int }
	for _, s := range []size{{1, 1, 10}, {1, 1, 2000}, {1, 2000, 1}, {16, 2000, 1}} {
		t.Run(fmt.Sprintf("%+v", s), func(t *testing.T) {
			rdb := redistest.Start(t).Client(t)
			store := roomstore.New(runBatcher(t, rdb, roomstore.BatcherConfig{}), roomstore.Config{
				Prefix: redistest.Prefix(), Partitions: s.partitions, MaxMembers: 1 << 20,
			})
			if err := store.Greet(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i := range s.rooms {
				fill(t, rdb, store, roomstore.RoomID("r"+strconv.Itoa(i)), s.members, "data")
			}
			var who roomstore.Session
			requests := 0
			key := func() roomstore.RequestKey {
				requests++
				return roomstore.RequestKey(strconv.Itoa(requests))
			}
			operations := map[string]func(ctx context.Context) error{
				"1 enter": func(ctx context.Context) error {
					_, err := store.Enter(ctx, who, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "r0", RequestKey: key(), Data: "d"})
					return err
				},
				"2 send": func(ctx context.Context) error {
					_, err := store.Send(ctx, who, roomstore.Message{Room: "r0", RequestKey: key(), ID: "1", Payload: "p"})
					return err
				},
				"3 relay": func(ctx context.Context) error {
					_, err := store.Relay(ctx, who, roomstore.Message{Room: "r0", ID: "1", Priority: 1, Payload: "p"})
					return err
				},
				"4 count": func(ctx context.Context) error {
					_, _, err := store.Count(ctx, who, "r0")
					return err
				},
				"5 page": func(ctx context.Context) error {
					_, err := store.Members(ctx, who, "r0", "", 10)
					return err
				},
				"8 leave": func(ctx context.Context) error {
					_, err := store.Leave(ctx, who, "r0", key())
					return err
				},
				"6 park": func(ctx context.Context) error { return store.Park(ctx, who, time.Minute) },
				"7 resume": func(ctx context.Context) (err error) {
					who, _, _, err = store.Resume(ctx, "node", who.User, who.ID, nil)
					return err
				},
				"0 login": func(ctx context.Context) (err error) {
					who, err = store.Login(ctx, "node", "ana", roomstore.NewSessionID(), "device")
					return err
				},
			}
			if err := operations["0 login"](t.Context()); err != nil {
				t.Fatal(err)
			}
			least := map[string]int{} // now and then a script also tidies up
			for range 40 {
				for _, name := range slices.Sorted(maps.Keys(operations)) {
					before := commands(t, rdb)
					if err := operations[name](t.Context()); err != nil {
						t.Fatal(err)
					}
					after := commands(t, rdb)
					if n := after["evalsha"] - before["evalsha"]; n != 1 {
						t.Errorf("%s: %d scripts", name, n)
					}
					n := -2 // the script, and the count of before
					for command := range after {
						n += after[command] - before[command]
					}
					if name != "0 login" {
						if last, ok := least[name]; !ok || n < last {
							least[name] = n
						}
					}
				}
			}
			want := map[string]int{"1 enter": 18, "2 send": 9, "3 relay": 5, "4 count": 5, "5 page": 6, "6 park": 12, "7 resume": 17, "8 leave": 17}
			if diff := cmp.Diff(want, least); diff != "" {
				t.Errorf("commands called by a script (-want +got):\n%s", diff)
			}
		})
	}
}

// commands gives how often each command was called so far.
func commands(t *testing.T, rdb *redis.Client) map[string]int {
	t.Helper()
	info, err := rdb.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]int{}
	for line := range strings.Lines(info) {
		if name, stats, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls="); ok {
			n, _, _ := strings.Cut(stats, ",")
			calls[name], _ = strconv.Atoi(n)
		}
	}
	return calls
}

// What Redis needs for a user who is logged in, for a membership beyond the
// user's own data, and for a room in which nothing happens.
func TestStore_memory(t *testing.T) {
	t.Parallel()
	const users, perRoom, rooms = 4000, 20, 2000
	data := strings.Repeat("x", 200)
	rdb := redistest.Start(t).Client(t)
	store := roomstore.New(runBatcher(t, rdb, roomstore.BatcherConfig{}), roomstore.Config{Prefix: "rg"})
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(store.Greet(ctx))
	used := func() float64 {
		t.Helper()
		info, err := rdb.Info(ctx, "memory").Result()
		must(err)
		_, rest, _ := strings.Cut(info, "used_memory:")
		value, _, _ := strings.Cut(rest, "\r")
		n, err := strconv.ParseFloat(value, 64)
		must(err)
		return n
	}
	// Keys that expire are not what lasts.
	lasting := func() float64 {
		t.Helper()
		keys, err := rdb.Keys(ctx, "rg:*:did:*").Result()
		must(err)
		if len(keys) > 0 {
			must(rdb.Del(ctx, keys...).Err())
		}
		return used()
	}
	session := func(user int) roomstore.Session {
		who, err := store.Login(ctx, "node", roomstore.UserID(fmt.Sprintf("user%06d", user)), roomstore.NewSessionID(), "device")
		must(err)
		return who
	}
	enter := func(who roomstore.Session, room string) {
		_, err := store.Enter(ctx, who, roomstore.EntryRequest{
			Mode: roomstore.ModeEnter, Room: roomstore.RoomID(room), RequestKey: "1", Data: data, Delay: 3600,
		})
		must(err)
	}
	session(-1) // and the scripts
	everybody := make([]roomstore.Session, users)
	before := lasting()
	eachOf(t, users, 50, func(_ context.Context, i int) error { everybody[i] = session(i); return nil })
	perUser := (lasting() - before) / users

	eachOf(t, users/perRoom, 20, func(_ context.Context, i int) error {
		enter(everybody[i*perRoom], fmt.Sprintf("room%06d", i))
		return nil
	})
	before = lasting()
	const more = users - users/perRoom
	eachOf(t, users, 50, func(_ context.Context, i int) error {
		if i%perRoom > 0 {
			enter(everybody[i], fmt.Sprintf("room%06d", i/perRoom))
		}
		return nil
	})
	withOutcomes := (used() - before) / more
	perMember := (lasting()-before)/more - float64(len(data))

	// A room's first member less what a member is.
	others := make([]roomstore.Session, rooms)
	eachOf(t, rooms, 50, func(_ context.Context, i int) error { others[i] = session(users + i); return nil })
	before = lasting()
	eachOf(t, rooms, 50, func(_ context.Context, i int) error {
		enter(others[i], fmt.Sprintf("quiet%06d", i))
		return nil
	})
	perRoomBytes := (lasting()-before)/rooms - perMember - float64(len(data))
	t.Logf("bytes: %.0f a user, %.0f a membership and %.0f with the outcome of the entry, %.0f a room",
		perUser, perMember, withOutcomes-float64(len(data)), perRoomBytes)
	for what, n := range map[string]struct{ got, most float64 }{
		"user": {perUser, 350}, "membership": {perMember, 450}, "room": {perRoomBytes, 1200},
	} {
		if n.got > n.most || n.got < 50 {
			t.Errorf("a %s needs %.0f bytes, want at most %.0f", what, n.got, n.most)
		}
	}
}
