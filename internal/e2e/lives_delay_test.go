//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// A delay is a whole number of seconds from 0 to 10800. What is not is refused
// by whatever would create the room, before anything happens, and never clamped.
func TestDelay_values(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	g := startGateway(t, server.Addr(), "--rate-limits=false", "--max-rooms-per-user=500")
	ana := enroll(g, t, "ana")
	home := ana.enter("home")
	n := 0
	for _, method := range []string{protocol.MethodCreateRoom, protocol.MethodEnterRoom, protocol.MethodSwitchRoom} {
		for _, tt := range []struct {
			config string
			delay  string // stored; "" if it is refused
			code   protocol.Code
			names  []string
		}{
			{config: ``, delay: "0"},
			{config: `,"config":null`, delay: "0"},
			{config: `,"config":{}`, delay: "0"},
			{config: `,"config":{"roomDestroyDelayTime":0}`, delay: "0"},
			{config: `,"config":{"roomDestroyDelayTime":1}`, delay: "1"},
			{config: `,"config":{"roomDestroyDelayTime":7.0}`, delay: "7"},
			{config: `,"config":{"roomDestroyDelayTime":1e2}`, delay: "100"},
			{config: `,"config":{"roomDestroyDelayTime":10799}`, delay: "10799"},
			{config: `,"config":{"roomDestroyDelayTime":10800}`, delay: "10800"},
			{config: `,"config":{"roomDestroyDelayTime":10801}`, code: protocol.CodeBadParameter, names: []string{"10801", "10800"}},
			{config: `,"config":{"roomDestroyDelayTime":10800.5}`, code: protocol.CodeBadParameter, names: []string{"10800.5", "10800"}},
			{config: `,"config":{"roomDestroyDelayTime":4294967296}`, code: protocol.CodeBadParameter, names: []string{"10800"}},
			{config: `,"config":{"roomDestroyDelayTime":18446744073709551616}`, code: protocol.CodeBadParameter, names: []string{"10800"}},
			{config: `,"config":{"roomDestroyDelayTime":1e400}`, code: protocol.CodeBadParameter, names: []string{"1e400"}},
			{config: `,"config":{"roomDestroyDelayTime":-1}`, code: protocol.CodeBadParameter, names: []string{"-1", "10800"}},
			{config: `,"config":{"roomDestroyDelayTime":-0.5}`, code: protocol.CodeBadParameter, names: []string{"-0.5", "10800"}},
			{config: `,"config":{"roomDestroyDelayTime":0.5}`, code: protocol.CodeBadParameter, names: []string{"0.5", "10800"}},
			{config: `,"config":{"roomDestroyDelayTime":1.001}`, code: protocol.CodeBadParameter, names: []string{"1.001", "10800"}},
			{config: `,"config":{"roomDestroyDelayTime":"10"}`, code: protocol.CodeInvalidParams, names: []string{"roomDestroyDelayTime"}},
			{config: `,"config":{"roomDestroyDelayTime":""}`, code: protocol.CodeInvalidParams, names: []string{"roomDestroyDelayTime"}},
			{config: `,"config":{"roomDestroyDelayTime":true}`, code: protocol.CodeInvalidParams, names: []string{"roomDestroyDelayTime"}},
			{config: `,"config":{"roomDestroyDelayTime":[1]}`, code: protocol.CodeInvalidParams, names: []string{"roomDestroyDelayTime"}},
			{config: `,"config":{"roomDestroyDelayTime":{}}`, code: protocol.CodeInvalidParams, names: []string{"roomDestroyDelayTime"}},
			{config: `,"config":7`, code: protocol.CodeInvalidParams, names: []string{"config"}},
		} {
			n++
			room := fmt.Sprintf("r%d", n)
			params := fmt.Sprintf(`{"roomInfo":{"roomID":%q}%s}`, room, tt.config)
			if method == protocol.MethodSwitchRoom {
				params = fmt.Sprintf(`{"fromRoomID":"home","toRoomInfo":{"roomID":%q},"isCreateWhenRoomNotExisted":true%s}`, room, tt.config)
			}
			ana.send(method, params)
			events, r := ana.response()
			delay := rdb.HGet(t.Context(), roomKey(rdb, "room", room), "delay").Val()
			if tt.delay != "" {
				if r.Error != nil || delay != tt.delay {
					t.Errorf("%s %s: got %v and a delay of %q, want %s", method, tt.config, r.Error, delay, tt.delay)
				}
				if method == protocol.MethodSwitchRoom {
					ana.enter("home")
				}
				ana.ask(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%q}`, room), nil)
				ana.until(room + " disconnected success")
				continue
			}
			if r.Error == nil || r.Error.Code != tt.code || len(events) > 0 || delay != "" {
				t.Errorf("%s %s: got %v, the events %q and a delay of %q, want %d and nothing else", method, tt.config, r.Error, events, delay, tt.code)
				continue
			}
			for _, name := range tt.names {
				if !strings.Contains(r.Error.Message, name) {
					t.Errorf("%s %s: got %q, want %q in it", method, tt.config, r.Error.Message, name)
				}
			}
		}
		if method == protocol.MethodEnterRoom {
			var now protocol.CountResult
			ana.ask(protocol.MethodQueryRoomOnlineMemberCount, `{"roomID":"home"}`, &now)
			if now.Epoch != home.Epoch {
				t.Error("what was refused has ended another room")
			}
		}
	}
}

// deadlineOf gives when a room that nobody is in will end.
func deadlineOf(t testing.TB, rdb redis.UniversalClient, room string) (deadline int64, ok bool) {
	t.Helper()
	deadline, err := rdb.HGet(t.Context(), roomKey(rdb, "room", room), "deadline").Int64()
	return deadline, err == nil
}

// However a room is emptied, it has its whole delay from then on, each time;
// and whoever enters finds what was there and cancels the end.
func TestDelay_cancelled(t *testing.T) {
	t.Parallel()
	const delay = 100
	empty := []struct {
		road string
		do   func(t *testing.T, g *gateway, w *wire, room string)
	}{
		{"leave", func(t *testing.T, g *gateway, w *wire, room string) {
			w.ask(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%q}`, room), nil)
		}},
		{"leave all", func(t *testing.T, g *gateway, w *wire, room string) { w.ask(protocol.MethodLeaveAllRoom, `{}`, nil) }},
		{"switch", func(t *testing.T, g *gateway, w *wire, room string) {
			w.ask(protocol.MethodSwitchRoom, fmt.Sprintf(`{"fromRoomID":%q,"toRoomInfo":{"roomID":%q},"isCreateWhenRoomNotExisted":true}`, room, "away-"+room), nil)
		}},
		{"kick", func(t *testing.T, g *gateway, w *wire, room string) { kick(t, g, room, w.name, "", "") }},
		{"log out", func(t *testing.T, g *gateway, w *wire, room string) { w.ask(protocol.MethodLogout, `{}`, nil) }},
		{"eviction", func(t *testing.T, g *gateway, w *wire, room string) { w.drop() }},
	}
	for _, keep := range []bool{true, false} {
		t.Run(fmt.Sprintf("keep=%t", keep), func(t *testing.T) {
			t.Parallel()
			server, rdb := anyRedis(t)
			a, b := startPair(t, server.Addr(), "--rate-limits=false", fmt.Sprintf("--keep-emptied-data=%t", keep))
			book := record(t, server, rdb, "rg")
			for i, enter := range []struct{ method, params string }{
				{protocol.MethodJoinRoom, `{"roomID":%q}`},
				{protocol.MethodEnterRoom, `{"roomInfo":{"roomID":%q,"roomName":"Another"},"config":{"roomDestroyDelayTime":1,"roomAttributes":{"x":"y"}}}`},
				{protocol.MethodSwitchRoom, `{"fromRoomID":"home-%[1]s","toRoomInfo":{"roomID":%[1]q,"roomName":"Another"},"config":{"roomDestroyDelayTime":1}}`},
				{protocol.MethodSwitchRoom, `{"fromRoomID":"home-%[1]s","toRoomInfo":{"roomID":%[1]q,"roomName":"Another"},"isCreateWhenRoomNotExisted":true,"config":{"roomDestroyDelayTime":1}}`},
			} {
				for j, out := range empty {
					t.Run(fmt.Sprintf("%s %d, then %s", enter.method, i, out.road), func(t *testing.T) {
						t.Parallel()
						room := fmt.Sprintf("r%d%d", i, j)
						bo, cy, ana := enroll(a, t, "bo-"+room), enroll(b, t, "cy-"+room), enroll(b, t, "ana-"+room)
						var first protocol.Room
						bo.ask(protocol.MethodCreateRoom, fmt.Sprintf(
							`{"roomInfo":{"roomID":%q,"roomName":"A room"},"config":{"roomDestroyDelayTime":%d,"roomAttributes":{"k":"v"}}}`, room, delay), &first)
						bo.ask(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%q}`, room), nil)
						runs := func(user string) {
							t.Helper()
							eventually(t, user+" to be out", func() bool {
								of := book.of(room)
								return len(of) == 1 && of[0].last.User == roomstore.UserID(user)
							})
							l := book.of(room)[0]
							if at, ok := deadlineOf(t, rdb, room); !ok || at != l.last.At+delay*1000 || len(l.members) != 0 {
								t.Errorf("%s is out since %d, with %v in the room; its deadline is %d (%t), want %d s later", user, l.last.At, l.members, at, ok, delay)
							}
						}
						runs(bo.name)

						cy.send(protocol.MethodCreateRoom, fmt.Sprintf(`{"roomInfo":{"roomID":%q}}`, room))
						cy.hears(room+" connecting activeCreate", room+" disconnected createFailed", "error 6000323")

						active := "activeEnter"
						if enter.method == protocol.MethodSwitchRoom {
							active = "activeSwitch"
							ana.enter("home-" + room)
						}
						ana.send(enter.method, fmt.Sprintf(enter.params, room))
						events, r := ana.response()
						var got []string
						for _, e := range events {
							got = append(got, brief(e))
						}
						name, want := "A room", []string{room + " connecting " + active}
						switch {
						case keep:
							want = append(want, room+` attributes [{"action":"set","roomAttributes":{"k":"v"}}]`)
						case i == 1 || i == 3: // they say what a room is called that they find without a name
							name = "Another"
						default:
							name = ""
						}
						want = append(want, room+" connected success")
						if enter.method == protocol.MethodSwitchRoom {
							want = append(want, "home-"+room+" disconnected success")
						}
						if d := cmp.Diff(want, got); d != "" {
							t.Errorf("ana (-want +got):\n%s", d)
						}
						var now protocol.Room
						if err := json.Unmarshal(r.Result, &now); err != nil {
							t.Fatalf("%s: %v", r.Result, r.Error)
						}
						if now.Epoch != first.Epoch || now.Created || now.MemberCount != 1 || now.RoomInfo.BaseInfo.RoomName != name {
							t.Errorf("got %+v, want the room of epoch %d, named %q", now, first.Epoch, name)
						}
						if at, ok := deadlineOf(t, rdb, room); ok || rdb.ZScore(t.Context(), partOf("rg", partitionsOf(rdb), room)+"due", fmt.Sprintf("%s\x00%d", room, now.Epoch)).Err() == nil {
							t.Errorf("the deadline %d still runs", at)
						}

						out.do(t, b, ana, room)
						runs(ana.name)
						if of := book.of(room); len(of) != 1 || of[0].ended != 0 {
							t.Errorf("got the lives %+v, want one that goes on", of)
						}
						destroy(t, a, room)
					})
				}
			}
		})
	}
}

// While the delay of a room runs, it counts against the room limit; from its
// deadline on it does not, whether or not anybody has noticed.
func TestDelay_limit(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--max-rooms=1")
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	ana.ask(protocol.MethodCreateRoom, `{"roomInfo":{"roomID":"R"},"config":{"roomDestroyDelayTime":100}}`, nil)
	ana.ask(protocol.MethodLeaveRoom, joinR, nil)
	bo.send(protocol.MethodEnterRoom, createZ)
	bo.hears("Z connecting activeEnter", "Z disconnected enterFailed", "error 6000324")
	l := &lastCall{t: t, rdb: rdb, room: "R", part: partOf("rg", partitionsOf(rdb), "R")}
	if err := l.hurry(0); err != nil {
		t.Fatal(err)
	}
	bo.send(protocol.MethodEnterRoom, createZ)
	bo.hears("Z connecting activeEnter", "Z connected success", "ok")
}

// roomKeys are the keys of a room that exist.
func roomKeys(t testing.TB, rdb redis.UniversalClient, room string) (keys []string) {
	t.Helper()
	for _, kind := range []string{"room", "members", "info", "left", "log", "attrs", "memberattrs", "blocked"} {
		if key := roomKey(rdb, kind, room); rdb.Exists(t.Context(), key).Val() == 1 {
			keys = append(keys, key)
		}
	}
	return keys
}

// When its delay is over an empty room ends by itself, with everything that
// belonged to it, and its ID is free.
func TestDelay_over(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	book := record(t, server, rdb, "rg")
	a, b := startPair(t, server.Addr())
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	var first, second protocol.Room
	ana.ask(protocol.MethodCreateRoom, `{"roomInfo":{"roomID":"R","roomName":"A room"},"config":{"roomDestroyDelayTime":1,"roomAttributes":{"k":"v"}}}`, &first)
	ana.say("R", "hello")
	for _, kind := range []string{"memberattrs", "blocked"} {
		if err := rdb.HSet(t.Context(), roomKey(rdb, kind, "R"), "x", "1").Err(); err != nil {
			t.Fatal(err)
		}
	}
	ana.ask(protocol.MethodLeaveRoom, joinR, nil)
	keys := roomKeys(t, rdb, "R")
	if _, over := book.counts(); over == 0 && len(keys) < 6 {
		t.Errorf("while the delay runs there are %q", keys)
	}
	ana.until("R disconnected success")
	eventually(t, "the end", func() bool { _, over := book.counts(); return over == 1 })
	if keys := roomKeys(t, rdb, "R"); len(keys) > 0 {
		t.Errorf("left of the room: %q", keys)
	}
	l := book.of("R")[0]
	late := time.Duration(l.at-l.last.At-1000) * time.Millisecond
	t.Logf("ended %v after its deadline", late)
	if l.reason != roomstore.ReasonEmptied || !l.told || late < 0 || late > 3*lateness {
		t.Errorf("it ended as %q %v after its deadline, want emptied and soon", l.reason, late)
	}
	bo.send(protocol.MethodJoinRoom, joinR)
	bo.hears("R connecting activeEnter", "R disconnected roomNotExist", "error 6000322")
	bo.ask(protocol.MethodCreateRoom, enterR, &second)
	if second.Epoch <= first.Epoch || second.Seq != 1 {
		t.Errorf("created at %+v, after a life at %+v", second.Position, first.Position)
	}
	bo.until("R connected success") // and no attributes before it
	ana.settled()
	bo.ask(protocol.MethodLogout, `{}`, nil)
	ana.ask(protocol.MethodLogout, `{}`, nil)
	if left := leftovers(t, rdb, "rg"); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

// A deadline that passes while no gateway runs has passed: the first that asks
// after a room finds none, and the life has its one end.
func TestDelay_noGateway(t *testing.T) {
	t.Parallel()
	rooms := []string{"join", "enter", "create", "switch", "leave", "count", "say", "kick", "destroy", "nobody"}
	server, rdb := anyRedis(t)
	book := record(t, server, rdb, "rg")
	// With what would be too many, if those that are over counted.
	flags := []string{fmt.Sprintf("--max-rooms=%d", len(rooms)), "--rate-limits=false", "--max-rooms-per-user=20"}
	a := startGateway(t, server.Addr(), flags...)
	ana := enroll(a, t, "ana")
	old := map[string]protocol.Room{}
	for _, room := range rooms {
		var r protocol.Room
		ana.ask(protocol.MethodCreateRoom, fmt.Sprintf(`{"roomInfo":{"roomID":%q,"roomName":"A room"},"config":{"roomDestroyDelayTime":100,"roomAttributes":{"k":"v"}}}`, room), &r)
		old[room] = r
	}
	ana.ask(protocol.MethodLogout, `{}`, nil)
	a.Kill()
	var latest int64
	for _, room := range rooms {
		l := &lastCall{t: t, rdb: rdb, room: room, part: partOf("rg", partitionsOf(rdb), room)}
		if err := l.hurry(50); err != nil {
			t.Fatal(err)
		}
		latest, _ = deadlineOf(t, rdb, room)
	}
	eventually(t, "the deadlines to pass", func() bool { return redisTime(t, rdb) > latest })
	for _, room := range rooms {
		if keys := roomKeys(t, rdb, room); len(keys) < 3 {
			t.Errorf("nobody was there, and of %s there is only %q", room, keys)
		}
	}

	b := startGateway(t, server.Addr(), flags...)
	bo := enroll(b, t, "bo")
	bo.enter("home")
	ask := func(method, params string, want ...string) {
		t.Helper()
		bo.send(method, params)
		bo.hears(want...)
	}
	ask(protocol.MethodJoinRoom, `{"roomID":"join"}`, "join connecting activeEnter", "join disconnected roomNotExist", "error 6000322")
	ask(protocol.MethodSwitchRoom, `{"fromRoomID":"home","toRoomInfo":{"roomID":"switch"}}`, "switch connecting activeSwitch", "switch disconnected switchFailed", "error 6000322")
	ask(protocol.MethodLeaveRoom, `{"roomID":"leave"}`, "error 6000306")
	ask(protocol.MethodQueryRoomOnlineMemberCount, `{"roomID":"count"}`, "error 6000322")
	ask(protocol.MethodSendRoomMessage, textMessage("say", "hi"), "error 6000204")
	for method, path := range map[string]string{http.MethodDelete: "destroy", http.MethodPost: "kick/kick"} {
		if status, body := gatetest.Request(method, "http://"+b.Addr+"/v1/rooms/"+path, "dev", `{"userID":"ana"}`); status != http.StatusNotFound {
			t.Errorf("%s %s: got %d %s, want 404", method, path, status, body)
		}
	}
	for room, method := range map[string]string{"enter": protocol.MethodEnterRoom, "create": protocol.MethodCreateRoom} {
		var r protocol.Room
		bo.ask(method, fmt.Sprintf(`{"roomInfo":{"roomID":%q,"roomName":"Another"}}`, room), &r)
		if !r.Created || r.Epoch <= old[room].Epoch || r.Seq != 1 || r.RoomInfo.BaseInfo.RoomName != "Another" {
			t.Errorf("%s: got %+v, want a new life", room, r)
		}
	}
	before := b.Metric("roomgate_gateway_rooms_finished_total")
	eventually(t, "the rooms to be over", func() bool { _, over := book.counts(); return over >= len(rooms) })
	t.Logf("%.0f rooms of %d were ended by the sweep, %.0f of them before all was asked", b.Metric("roomgate_gateway_rooms_finished_total"), len(rooms), before)
	bo.ask(protocol.MethodLogout, `{}`, nil)
	nothingLeft(t, rdb, "rg")
	for _, room := range rooms {
		lives := 1
		if room == "enter" || room == "create" {
			lives = 2
		}
		of := book.of(room)
		if len(of) != lives {
			t.Errorf("%s had %d lives, want %d", room, len(of), lives)
		}
		for _, l := range of {
			if l.ended != 1 || !l.told {
				t.Errorf("%s: got %+v, want one end", room, l)
			}
		}
	}
}

// Where no gateway comes back for long, what an empty room has expires by
// itself. Its life has its end when one does come, and before the next begins.
func TestDelay_orphan(t *testing.T) {
	t.Parallel()
	const hour = int64(time.Hour / time.Millisecond)
	rooms := []string{"taken", "forgotten"}
	server, rdb := anyRedis(t)
	book := record(t, server, rdb, "rg")
	a := startGateway(t, server.Addr())
	ana := enroll(a, t, "ana")
	for _, room := range rooms {
		ana.ask(protocol.MethodCreateRoom, fmt.Sprintf(`{"roomInfo":{"roomID":%q},"config":{"roomDestroyDelayTime":100,"roomAttributes":{"k":"v"}}}`, room), nil)
		ana.say(room, "hello")
	}
	ana.ask(protocol.MethodLogout, `{}`, nil)
	a.Kill()
	for _, room := range rooms {
		// As if the deadline had been an hour ago.
		at, _ := deadlineOf(t, rdb, room)
		epoch := rdb.HGet(t.Context(), roomKey(rdb, "room", room), "epoch").Val()
		for _, key := range roomKeys(t, rdb, room) {
			ttl := rdb.PTTL(t.Context(), key).Val()
			if ttl <= 0 || ttl > time.Duration(at+hour-redisTime(t, rdb))*time.Millisecond+time.Second {
				t.Errorf("%s expires in %v, want at the latest an hour after the deadline", key, ttl)
			}
			if err := rdb.PExpire(t.Context(), key, time.Millisecond).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if err := rdb.ZAdd(t.Context(), partOf("rg", partitionsOf(rdb), room)+"due", redis.Z{Score: float64(redisTime(t, rdb) - hour), Member: room + "\x00" + epoch}).Err(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the keys to expire", func() bool { return len(roomKeys(t, rdb, room)) == 0 })
	}
	if _, over := book.counts(); over > 0 {
		t.Errorf("%d lives are over, and nobody was there", over)
	}

	b := startGateway(t, server.Addr(), "--max-rooms=1")
	bo := enroll(b, t, "bo")
	bo.enter("taken")
	bo.send(protocol.MethodEnterRoom, createZ) // it counts, the old ones do not
	bo.hears("Z connecting activeEnter", "Z disconnected enterFailed", "error 6000324")
	if of := book.of("taken"); len(of) != 2 || of[0].ended != 1 || of[1].ended != 0 {
		t.Errorf("got the lives %+v, want one over and one that goes on", of)
	}
	eventually(t, "the other end", func() bool { _, over := book.counts(); return over == 2 })
	bo.settled()
	bo.ask(protocol.MethodLogout, `{}`, nil)
	nothingLeft(t, rdb, "rg")
	for _, room := range rooms {
		for _, l := range book.of(room) {
			if l.ended != 1 {
				t.Errorf("%s: got %+v, want one end", room, l)
			}
		}
	}
	if book.orphans != len(rooms) {
		t.Errorf("%d ends without an event, want %d", book.orphans, len(rooms))
	}
}
