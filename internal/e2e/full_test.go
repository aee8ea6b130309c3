//go:build linux

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/protocol"
)

// dump is all that Redis holds but what gateways write for themselves: leases,
// and when the last sweep was.
func dump(t testing.TB, rdb *redis.Client) map[string]string {
	t.Helper()
	keys, err := rdb.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, k := range keys {
		if k == "rg:nodes" || strings.HasSuffix(k, "}:clock") || strings.Contains(k, "}:gateway:") {
			continue
		}
		kind, err := rdb.Type(t.Context(), k).Result()
		if err != nil {
			t.Fatal(err)
		}
		var v any
		switch kind {
		case "string":
			v, err = rdb.Get(t.Context(), k).Result()
		case "hash":
			v, err = rdb.HGetAll(t.Context(), k).Result() // printed in the order of its fields
		case "set":
			var members []string
			members, err = rdb.SMembers(t.Context(), k).Result()
			slices.Sort(members)
			v = members
		case "zset":
			v, err = rdb.ZRangeWithScores(t.Context(), k, 0, -1).Result()
		case "list":
			v, err = rdb.LRange(t.Context(), k, 0, -1).Result()
		case "none": // it has expired meanwhile
			continue
		default:
			t.Fatalf("%s is a %s", k, kind)
		}
		if err != nil {
			t.Fatal(err)
		}
		all[k] = fmt.Sprintf("%q", fmt.Sprint(v))
	}
	return all
}

// A Redis that has no memory left lets nobody in and takes no message: that is
// answered at once, as something to try again, and changes nothing at all. But
// whoever wants to go can, whoever has to is taken out, rooms end and what was to
// expire does; and with memory again everything goes on.
func TestRedisFull(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			t.Parallel()
			const logTTL = 7 * time.Second
			oneRedis(t)
			server := redistest.Start(t, "--maxmemory-policy", "noeviction")
			rdb := server.Client(t)
			flag := fmt.Sprintf("--partitions=%d", partitions)
			a, b := startPair(t, server.Addr(), flag, fmt.Sprintf("--log-ttl=%v", logTTL), "--rate-limits=false")
			full := func(yes bool) {
				t.Helper()
				// Always below what is used, whatever is freed meanwhile.
				if err := rdb.ConfigSet(t.Context(), "maxmemory", map[bool]string{true: "1", false: "0"}[yes]).Err(); err != nil {
					t.Fatal(err)
				}
			}
			cast := map[string]*wire{}
			person := func(g *gateway, user string, rooms ...string) *wire {
				t.Helper()
				w := enroll(g, t, user)
				for _, room := range rooms {
					w.enter(room)
				}
				cast[user] = w
				return w
			}
			// $watch is in all rooms that others go from.
			watch := person(b, "watch", "R", "S", "ALL", "OUT")
			leaver, allower := person(a, "leaver", "R"), person(a, "allower", "ALL", "R")
			person(a, "outer", "OUT", "R")
			person(b, "kicked", "R")
			switcher := person(a, "switcher", "S")
			person(a, "late", "R")
			person(b, "ended", "DOOMED")
			idler := person(a, "idler")
			for room, delay := range map[string]int{"DELAY": 1, "AGAIN": 600} {
				idler.ask(protocol.MethodEnterRoom, fmt.Sprintf(`{"roomInfo":{"roomID":%q},"config":{"roomDestroyDelayTime":%d,"roomAttributes":{"k":"v"}}}`, room, delay), nil)
				idler.until(room + " connected success")
				if room == "AGAIN" {
					idler.ask(protocol.MethodLeaveRoom, `{"roomID":"AGAIN"}`, nil)
					idler.until("AGAIN disconnected success")
				}
			}
			leaver.ask(protocol.MethodSetRoomAttributes, `{"roomID":"R","roomAttributes":{"seat":"1"},"config":{"isDeleteAfterOwnerLeft":true}}`, nil)
			leaver.until(attributesSet(`"seat":"1"`))
			leaver.say("R", "kept")
			watch.until("R leaver: kept")
			for _, w := range cast {
				w.send(protocol.MethodPing, "{}")
				w.until("ok")
			}

			full(true)
			before := dump(t, rdb)
			enter := func(mode, room string) string {
				return fmt.Sprintf(`{"roomInfo":{"roomID":%q,"roomName":"n"},"config":{"roomAttributes":{"k":"v"}},"requestKey":%d}`, room, 1000+len(mode)+len(room))
			}
			for _, tt := range []struct {
				who            *wire
				method, params string
				states         []string
			}{
				{leaver, protocol.MethodCreateRoom, enter("c", "NEW"), []string{"NEW connecting activeCreate", "NEW disconnected createFailed"}},
				{leaver, protocol.MethodEnterRoom, enter("en", "NEW"), []string{"NEW connecting activeEnter", "NEW disconnected enterFailed"}},
				{leaver, protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"S"}}`, []string{"S connecting activeEnter", "S disconnected enterFailed"}},
				{leaver, protocol.MethodJoinRoom, `{"roomID":"S","requestKey":99}`, []string{"S connecting activeEnter", "S disconnected enterFailed"}},
				{leaver, protocol.MethodJoinRoom, `{"roomID":"AGAIN"}`, []string{"AGAIN connecting activeEnter", "AGAIN disconnected enterFailed"}},
				{switcher, protocol.MethodSwitchRoom, `{"fromRoomID":"S","toRoomInfo":{"roomID":"R"},"isCreateWhenRoomNotExisted":false}`,
					[]string{"R connecting activeSwitch", "R disconnected switchFailed"}},
				{switcher, protocol.MethodSwitchRoom, `{"fromRoomID":"S","toRoomInfo":{"roomID":"NEW"},"isCreateWhenRoomNotExisted":true,"requestKey":98}`,
					[]string{"NEW connecting activeSwitch", "NEW disconnected switchFailed"}},
				{leaver, protocol.MethodSendRoomMessage, textMessage("R", "too much"), nil},
				{leaver, protocol.MethodSetRoomAttributes, `{"roomID":"R","roomAttributes":{"k":"v"},"requestKey":96}`, nil},
				{leaver, protocol.MethodDeleteRoomAttributes, `{"roomID":"R","keys":["seat"]}`, nil},
				{leaver, protocol.MethodSetRoomMembersAttributes, `{"roomID":"R","userIDs":["leaver"],"attributes":{"k":"v"}}`, nil},
				{leaver, protocol.MethodSendRoomMessage, `{"roomID":"R","message":{"type":200,"message":"too much"},"requestKey":97}`, nil},
			} {
				tt.who.send(tt.method, tt.params)
				events, r := tt.who.response()
				var states []string
				for _, e := range events {
					states = append(states, brief(e))
				}
				if r.Error == nil || r.Error.Code != protocol.CodeUnavailable || r.Error.Data == nil || !r.Error.Data.Retryable {
					t.Errorf("%s %s: got %s %+v, want 6000007, retryable", tt.method, tt.params, r.Result, r.Error)
				}
				if d := cmp.Diff(tt.states, states); d != "" {
					t.Errorf("%s %s (-want +got):\n%s", tt.method, tt.params, d)
				}
				if d := cmp.Diff(before, dump(t, rdb)); d != "" {
					t.Fatalf("%s %s changed (-before +after):\n%s", tt.method, tt.params, d)
				}
			}
			stranger := connect(t, a.URL())
			stranger.send(protocol.MethodLogin, `{"userID":"stranger"}`)
			stranger.refused(protocol.CodeUnavailable)
			if d := cmp.Diff(before, dump(t, rdb)); d != "" {
				t.Fatalf("a login changed (-before +after):\n%s", d)
			}
			for _, w := range cast {
				w.settled() // nobody heard of anything
			}

			// What is not stored goes on.
			leaver.ask(protocol.MethodSendRoomMessage, `{"roomID":"R","message":{"type":2,"message":"now"}}`, nil)
			watch.hears("R leaver: now")
			for _, user := range []string{"allower", "outer", "kicked", "late"} {
				cast[user].until("R leaver: now")
			}
			// Whoever wants to go, and whoever has to.
			went := func(who string, rooms ...string) {
				t.Helper()
				for i, room := range rooms {
					left := map[string]int{"R": 0, "ALL": 1, "OUT": 1, "S": 1}[room]
					got := watch.take()
					if b := brief(got); !strings.HasPrefix(b, room+" -"+who+" ") || left > 0 && b != fmt.Sprintf("%s -%s %d", room, who, left) {
						t.Errorf("watch got %q for departure %d, want that %s left %s", b, i, who, room)
					}
				}
			}
			leaver.ask(protocol.MethodLeaveRoom, `{"roomID":"R","requestKey":50}`, nil)
			went("leaver", "R")
			watch.hears(attributesDeleted(`"seat":""`)) // what goes with it goes
			var left protocol.LeaveAllResult
			allower.ask(protocol.MethodLeaveAllRoom, `{"requestKey":51}`, &left)
			slices.Sort(left.RoomIDs)
			if !slices.Equal(left.RoomIDs, []string{"ALL", "R"}) {
				t.Errorf("left all: got %v", left.RoomIDs)
			}
			wentAny := func(who string, rooms ...string) {
				t.Helper()
				got := map[string]bool{}
				for range rooms {
					f := strings.Fields(brief(watch.take()))
					got[f[0]+f[1]] = true
				}
				for _, room := range rooms {
					if !got[room+"-"+who] {
						t.Errorf("watch got %v, want that %s left %v", slices.Collect(maps.Keys(got)), who, rooms)
					}
				}
			}
			wentAny("allower", "ALL", "R")
			allower.ask(protocol.MethodLeaveAllRoom, `{"requestKey":52}`, &left) // from nowhere
			if len(left.RoomIDs) != 0 {
				t.Errorf("left all, once more: got %v", left.RoomIDs)
			}
			cast["outer"].ask(protocol.MethodLogout, "{}", nil)
			wentAny("outer", "OUT", "R")
			kick(t, a, "R", "kicked", "rude", "")
			went("kicked", "R")
			destroy(t, a, "DOOMED")
			cast["ended"].until("DOOMED disconnected roomNotExist")
			cast["late"].drop()
			went("late", "R") // evicted by the sweep
			idler.ask(protocol.MethodLeaveRoom, `{"roomID":"DELAY"}`, nil)
			part := func(kind, room string) (keys []string) {
				for p := range partitions {
					keys = append(keys, fmt.Sprintf("rg:{%d}:%s:%s", p, kind, room))
				}
				return keys
			}
			eventually(t, "the room in its delay to be destroyed", func() bool {
				return rdb.Exists(t.Context(), part("room", "DELAY")...).Val() == 0
			})
			eventually(t, "the history to expire", func() bool {
				return rdb.Exists(t.Context(), append(part("log", "R"), part("left", "R")...)...).Val() == 0
			})
			// Who is there is still there, and so are the gateways.
			watch.settled()
			switcher.send(protocol.MethodSendRoomMessage, textMessage("S", "still too much"))
			switcher.refused(protocol.CodeUnavailable)
			unshaken(t, a, b)

			full(false)
			leaver.enter("S")
			watch.until("S +leaver 3")
			switcher.ask(protocol.MethodSwitchRoom, `{"fromRoomID":"S","toRoomInfo":{"roomID":"R"},"isCreateWhenRoomNotExisted":false,"requestKey":98}`, nil)
			seen := watch.until("S -switcher 2")
			if !slices.Contains(seen, "R +switcher 2") {
				t.Errorf("watch got %q, want that switcher came to R", seen)
			}
			leaver.say("S", "there is memory again")
			watch.hears("S leaver: there is memory again")
			login := enroll(a, t, "stranger")
			login.enter("AGAIN")
			login.enter("NEW")
			if status, printed := fsck(t, server.Addr(), flag); status != 0 {
				t.Errorf("an audit has %d: %s", status, printed)
			}
		})
	}
}
