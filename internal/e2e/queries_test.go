//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

const (
	withKV  = `{"roomInfo":{"roomID":"R","roomName":"A room"},"config":{"roomAttributes":{"k":"v"},"roomDestroyDelayTime":60}}`
	keyedKV = `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":{"k":"v"}},"requestKey":7}`
	withXY  = `{"roomInfo":{"roomID":"R","roomName":"Another"},"config":{"roomAttributes":{"x":"y"},"roomDestroyDelayTime":1}}`
	badKey  = `{"roomInfo":{"roomID":"R","roomName":"A room"},"config":{"roomAttributes":{"":"v"}}}`
	fromFXY = `{"fromRoomID":"F","toRoomInfo":{"roomID":"R"},"isCreateWhenRoomNotExisted":true,"config":{"roomAttributes":{"x":"y"}}}`
	toldKV  = `R attributes [{"action":"set","roomAttributes":{"k":"v"}}]`
)

// An attributesRow is a row about attributes that a room was made with.
type attributesRow struct {
	row
	emptied bool // ana made the room with attributes, and left it
	dropped bool // the gateways drop what an emptied room has
	has     string
}

// made has bo make R with attributes.
func made(s *stage) {
	s.as("bo").ask(protocol.MethodCreateRoom, withKV, nil)
	s.as("bo").until("R connected success")
}

var attributesRows = []attributesRow{
	{has: `{"k":"v"}`, row: row{name: "1 create", method: "createRoom", params: withKV, in: true,
		caller: []string{"R connecting activeCreate", toldKV, "R connected success", "ok"}}},
	{has: `{"k":"v"}`, row: row{name: "1 create, again", method: "createRoom", params: keyedKV, in: true,
		before: func(s *stage) {
			s.as("ana").ask(protocol.MethodCreateRoom, keyedKV, nil)
			s.as("ana").until("R connected success")
		},
		caller: []string{"R connected success", "ok"}}},
	{has: `{}`, row: row{name: "1 create with none", method: "createRoom", in: true,
		params: `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":{}}}`,
		caller: []string{"R connecting activeCreate", "R connected success", "ok"}}},
	{has: `{"k":"v"}`, row: row{name: "2 create what has some", method: "createRoom", params: withXY, before: made,
		caller: []string{"R connecting activeCreate", "R disconnected createFailed", "error 6000323"}}},
	{has: `{"k":"v"}`, row: row{name: "3 create what one is in", method: "createRoom", params: withXY, in: true,
		before: func(s *stage) { made(s); s.in("R", "ana") },
		caller: []string{"error 6000323"}}},
	{has: `{"k":"v"}`, row: row{name: "5 join", method: "joinRoom", params: joinR, before: made, in: true,
		caller: []string{"R connecting activeEnter", toldKV, "R connected success", "ok"}}},
	{has: `{"k":"v"}`, row: row{name: "7 enter creates", method: "enterRoom", params: withKV, in: true,
		caller: []string{"R connecting activeEnter", toldKV, "R connected success", "ok"}}},
	{has: `{"k":"v"}`, row: row{name: "8 enter what has others", method: "enterRoom", params: withXY, before: made, in: true,
		caller: []string{"R connecting activeEnter", toldKV, "R connected success", "ok"}}},
	{has: `{}`, row: row{name: "8 enter what has none", method: "enterRoom", params: withXY, watched: true, in: true,
		caller: []string{"R connecting activeEnter", "R connected success", "ok"},
		others: []string{"R +ana 3"}}},
	{has: `{"k":"v"}`, row: row{name: "10 enter what one is in", method: "enterRoom", params: withXY, in: true,
		before: func(s *stage) { made(s); s.in("R", "ana") },
		caller: []string{"ok"}}},
	{has: `{"k":"v"}`, row: row{name: "13 enter when blocked", method: "enterRoom", params: withXY,
		before: func(s *stage) { made(s); s.block("ana") },
		caller: []string{"R connecting activeEnter", "R disconnected enterFailed", "error 6000327"}}},
	{has: `{"k":"v"}`, row: row{name: "15 switch to what has others", method: "switchRoom", params: fromFXY, in: true, from: []string{"F -ana 2"},
		before: func(s *stage) { made(s); s.in("F", "di", "ed", "ana") },
		caller: []string{"R connecting activeSwitch", toldKV, "R connected success", "F disconnected success", "ok"}}},
	{has: `{}`, row: row{name: "15 switch to what has none", method: "switchRoom", params: fromFXY, watched: true, in: true, from: []string{"F -ana 2"},
		before: func(s *stage) { s.in("F", "di", "ed", "ana") },
		caller: []string{"R connecting activeSwitch", "R connected success", "F disconnected success", "ok"},
		others: []string{"R +ana 3"}}},
	{has: `{"k":"v"}`, row: row{name: "15 switch to what one is in", method: "switchRoom", params: fromFXY, in: true, from: []string{"F -ana 2"},
		before: func(s *stage) { made(s); s.in("R", "ana"); s.in("F", "di", "ed", "ana") },
		caller: []string{"F disconnected success", "ok"}}},
	{has: `{"x":"y"}`, row: row{name: "16 switch makes", method: "switchRoom", params: fromFXY, in: true, from: []string{"F -ana 2"},
		before: func(s *stage) { s.in("F", "di", "ed", "ana") },
		caller: []string{"R connecting activeSwitch", `R attributes [{"action":"set","roomAttributes":{"x":"y"}}]`,
			"R connected success", "F disconnected success", "ok"}}},
	{row: row{name: "17 switch may not make", method: "switchRoom", still: "F", from: []string{},
		params: strings.Replace(fromFXY, "true", "false", 1),
		before: func(s *stage) { s.in("F", "di", "ed", "ana") },
		caller: []string{"R connecting activeSwitch", "R disconnected switchFailed", "error 6000322"}}},
	{row: row{name: "26 create with a bad key", method: "createRoom", params: badKey, watched: true,
		caller: []string{"error 6000335"}}},
	{row: row{name: "26 enter what is not, with a bad key", method: "enterRoom", params: badKey,
		caller: []string{"error 6000335"}}},
	{has: `{}`, row: row{name: "26 enter what exists, with a bad key", method: "enterRoom", params: badKey, watched: true,
		caller: []string{"error 6000335"}}},
	{row: row{name: "26 switch with a bad key", method: "switchRoom", still: "F", from: []string{},
		params: strings.Replace(fromFXY, `"x"`, `""`, 1),
		before: func(s *stage) { s.in("F", "di", "ed", "ana") },
		caller: []string{"error 6000335"}}},
	{row: row{name: "28 attributes of a room one is not in", method: "queryRoomAllAttributes", params: joinR, watched: true,
		caller: []string{"error 6000321"}}},
	{row: row{name: "28 attributes of what is not", method: "queryRoomAllAttributes", params: joinR,
		caller: []string{"error 6000322"}}},
	{has: `{}`, row: row{name: "attributes of what has none", method: "queryRoomAllAttributes", params: joinR, watched: true, in: true,
		before: func(s *stage) { s.in("R", "ana") },
		caller: []string{"ok"}}},

	{has: `{"k":"v"}`, emptied: true, row: row{name: "2 create what is empty", method: "createRoom", params: withXY,
		caller: []string{"R connecting activeCreate", "R disconnected createFailed", "error 6000323"}}},
	{has: `{"k":"v"}`, emptied: true, row: row{name: "5 join what is empty", method: "joinRoom", params: joinR, in: true,
		caller: []string{"R connecting activeEnter", toldKV, "R connected success", "ok"}}},
	{has: `{"k":"v"}`, emptied: true, row: row{name: "8 enter what is empty", method: "enterRoom", params: withXY, in: true,
		caller: []string{"R connecting activeEnter", toldKV, "R connected success", "ok"}}},
	{has: `{"k":"v"}`, emptied: true, row: row{name: "15 switch to what is empty", method: "switchRoom", params: fromFXY, in: true, from: []string{"F -ana 2"},
		before: func(s *stage) { s.in("F", "di", "ed", "ana") },
		caller: []string{"R connecting activeSwitch", toldKV, "R connected success", "F disconnected success", "ok"}}},
	{has: `{}`, emptied: true, dropped: true, row: row{name: "2 create what is empty", method: "createRoom", params: withXY,
		caller: []string{"R connecting activeCreate", "R disconnected createFailed", "error 6000323"}}},
	{has: `{}`, emptied: true, dropped: true, row: row{name: "5 join what is empty", method: "joinRoom", params: joinR, in: true,
		caller: []string{"R connecting activeEnter", "R connected success", "ok"}}},
	{has: `{}`, emptied: true, dropped: true, row: row{name: "8 enter what is empty", method: "enterRoom", params: withXY, in: true,
		caller: []string{"R connecting activeEnter", "R connected success", "ok"}}},
	{has: `{}`, emptied: true, dropped: true, row: row{name: "15 switch to what is empty", method: "switchRoom", params: fromFXY, in: true, from: []string{"F -ana 2"},
		before: func(s *stage) { s.in("F", "di", "ed", "ana") },
		caller: []string{"R connecting activeSwitch", "R connected success", "F disconnected success", "ok"}}},
}

// A room has the attributes that it was made with and no others. Who enters is
// told them once, all of them, before the room is connected, and not where there
// are none; who asks is answered the same.
func TestRoomAttributes(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	for _, tt := range []struct {
		partitions int
		dropped    bool
	}{{1, false}, {16, true}} {
		t.Run(fmt.Sprintf("P=%d, dropped %t", tt.partitions, tt.dropped), func(t *testing.T) {
			t.Parallel()
			prefix := fmt.Sprintf("attributes%d", tt.partitions)
			a, b := startPair(t, server.Addr(), "--redis-prefix="+prefix, fmt.Sprintf("--partitions=%d", tt.partitions),
				fmt.Sprintf("--keep-emptied-data=%t", !tt.dropped))
			for _, r := range attributesRows {
				if r.emptied && r.dropped != tt.dropped {
					continue
				}
				t.Run(r.name, func(t *testing.T) {
					r.play(&stage{T: t, a: a, b: b, prefix: prefix, partitions: tt.partitions, rdb: rdb,
						cast: map[string]*wire{}, inR: map[string]bool{}, inF: map[string]bool{}})
				})
			}
		})
	}
}

func (r attributesRow) play(s *stage) {
	if r.emptied {
		ana := s.as("ana")
		ana.ask(protocol.MethodCreateRoom, withKV, nil)
		ana.ask(protocol.MethodLeaveRoom, joinR, nil)
		ana.until("R disconnected success")
	}
	before := r.before
	r.before = func(s *stage) {
		if before != nil {
			before(s)
		}
		s.cast["elsewhere"], s.cast["device"] = enroll(s.b, s, "elsewhere"), enroll(s.b, s, "ana")
		s.cast["elsewhere"].enter("E")
	}
	r.after = func(s *stage) {
		// Neither who is elsewhere nor another device of who enters is told.
		for _, name := range []string{"elsewhere", "device"} {
			s.cast[name].settled()
		}
		if r.has == "" {
			return
		}
		asks := s.as("ana")
		if !r.in {
			asks = enroll(s.b, s, "late")
			s.cast["late"] = asks
			asks.ask(protocol.MethodJoinRoom, joinR, nil)
		}
		var got protocol.AllAttributesResult
		asks.ask(protocol.MethodQueryRoomAllAttributes, joinR, &got)
		if text, _ := json.Marshal(got.RoomAttributes); string(text) != r.has {
			s.Errorf("the room has %s, want %s", text, r.has)
		}
		// Nor is who was in the room before.
		if bo := s.cast["bo"]; bo != nil {
			bo.send(protocol.MethodQueryRoomOnlineMemberCount, joinR)
			for _, heard := range bo.until("ok") {
				if strings.Contains(heard, "attributes") {
					s.Errorf("bo heard %q", heard)
				}
			}
		}
	}
	r.row.play(s)
	gatetest.Request(http.MethodDelete, "http://"+s.a.Addr+"/v1/rooms/R", "dev", "") // it may have a delay
}

// attributesParams are the parameters of createRoom, enterRoom or, from F,
// switchRoom for a room with attributes.
func attributesParams(t testing.TB, method, room string, attributes map[string]string) string {
	t.Helper()
	info, config := map[string]any{"roomID": room}, map[string]any{"roomAttributes": attributes}
	p := map[string]any{"roomInfo": info, "config": config}
	if method == protocol.MethodSwitchRoom {
		p = map[string]any{"fromRoomID": "F", "toRoomInfo": info, "isCreateWhenRoomNotExisted": true, "config": config}
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Attributes may be any text. They come back as they went in: to who creates and
// who enters, on any gateway, by event and by query, each with its position.
func TestRoomAttributes_anyText(t *testing.T) {
	t.Parallel()
	odd := map[string]string{
		"topic": "golden", "empty": "", "\x00": "\x00\x00", "a\x00b": "\r\n\t", `"`: `{"k":["\\"]}`, "\\": "\\u0000", "é": "日本語 🎉",
		"0": "1e400", " ": "\u2028\u2029", "<b>&": "</script>", "__proto__": "null", "roomID": "S", "null": "null", "ﬀ": "\ufeff",
	}
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	sdk := meet(t, "sdk", b.URL())
	for _, method := range []string{protocol.MethodCreateRoom, protocol.MethodEnterRoom, protocol.MethodSwitchRoom} {
		if method == protocol.MethodSwitchRoom {
			ana.enter("F")
		}
		told := func(w *wire, room protocol.Room) {
			t.Helper()
			var events []string
			for len(events) == 0 || !strings.HasSuffix(brief(events[len(events)-1]), "connected success") {
				events = append(events, w.take())
			}
			e := params[protocol.AttributesUpdated](t, events[1])
			want := protocol.AttributesUpdated{
				RoomID: method, Seq: room.Seq, Infos: []protocol.AttributesInfo{{Action: "set", RoomAttributes: odd}},
			}
			if d := cmp.Diff(want, e); d != "" || len(events) != 3 {
				t.Errorf("%s: %s is told %q (-want +got):\n%s", method, w.name, events, d)
			}
			var got protocol.AllAttributesResult
			roomID := fmt.Sprintf(`{"roomID":%q}`, method)
			w.ask(protocol.MethodQueryRoomAllAttributes, roomID, &got)
			if d := cmp.Diff(protocol.AllAttributesResult{RoomID: method, RoomAttributes: odd, Position: room.Position}, got); d != "" {
				t.Errorf("%s: %s is answered (-want +got):\n%s", method, w.name, d)
			}
		}
		var room protocol.Room
		ana.ask(method, attributesParams(t, method, method, odd), &room)
		told(ana, room)
		bo.ask(protocol.MethodJoinRoom, fmt.Sprintf(`{"roomID":%q}`, method), &room)
		told(bo, room)
		sdk.enter(method)
		sdk.until(method + " connected success")
		events := sdk.all()
		if e, ok := events[len(events)-2].(*client.AttributesUpdated); !ok || !maps.Equal(e.Infos[0].RoomAttributes, odd) {
			t.Errorf("%s: the SDK is told %+v", method, events[len(events)-2])
		}
		got, err := sdk.QueryRoomAllAttributes(t.Context(), method)
		if err != nil || !maps.Equal(got.RoomAttributes, odd) || got.Epoch != room.Epoch || got.Seq != room.Seq+1 {
			t.Errorf("%s: the SDK is answered %+v (%v)", method, got, err)
		}
		ana.until(method + " +sdk 3")
		bo.until(method + " +sdk 3")
		if method == protocol.MethodSwitchRoom {
			ana.settled()
		}
	}
}

// What is at the limits of attributes is taken, and what is over one by one is
// refused with that limit's code, before anything is said or made. Sizes are
// bytes, not characters.
func TestRoomAttributes_limits(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), "--rate-limits=false", "--max-rooms-per-user=500")
	ana := enroll(g, t, "ana")
	x := func(n int) string { return strings.Repeat("x", n) }
	é := func(n int) string { return strings.Repeat("é", n) }
	many := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint(i)] = ""
		}
		return m
	}
	// of gives attributes of n bytes in all.
	of := func(n int) map[string]string {
		m := map[string]string{}
		for i := range 5 {
			m[fmt.Sprint(i)] = x((n - 5) / 5)
		}
		m["0"] += x((n - 5) % 5)
		return m
	}
	for _, tt := range []struct {
		name  string
		good  map[string]string
		bad   map[string]string
		code  protocol.Code
		names []string
	}{
		{"keys", many(20), many(21), protocol.CodeAttributeCount, []string{"21", "20"}},
		{"key", map[string]string{x(16): ""}, map[string]string{x(17): ""}, protocol.CodeAttributeKey, []string{"17", "16"}},
		{"key of two bytes a letter", map[string]string{é(8): ""}, map[string]string{é(8) + "x": ""}, protocol.CodeAttributeKey, []string{"17", "16"}},
		{"empty key", map[string]string{"\x00": ""}, map[string]string{"": ""}, protocol.CodeAttributeKey, []string{"0 bytes"}},
		{"value", map[string]string{"k": x(1024)}, map[string]string{"k": x(1025)}, protocol.CodeAttributeValue, []string{"1025", "1024"}},
		{"value of two bytes a letter", map[string]string{"k": é(512)}, map[string]string{"k": é(512) + "x"}, protocol.CodeAttributeValue, []string{"1025", "1024"}},
		{"all", of(5120), of(5121), protocol.CodeAttributesSize, []string{"5121", "5120"}},
		// What is refused for two reasons is refused for one of them, always.
		{"key and value", map[string]string{"a": ""}, map[string]string{"a": x(1025), x(17): ""}, protocol.CodeAttributeValue, []string{"1025"}},
	} {
		for _, method := range []string{protocol.MethodCreateRoom, protocol.MethodEnterRoom, protocol.MethodSwitchRoom} {
			room := tt.name + method
			if method == protocol.MethodSwitchRoom {
				ana.enter("F")
			}
			for range 3 {
				ana.send(method, attributesParams(t, method, room, tt.bad))
				events, r := ana.response()
				if r.Error == nil || r.Error.Code != tt.code || len(events) > 0 {
					t.Errorf("%s, %s over the limit: got %v after %q, want %d and nothing else", method, tt.name, r.Error, events, tt.code)
					continue
				}
				for _, name := range tt.names {
					if !strings.Contains(r.Error.Message, name) {
						t.Errorf("%s, %s over the limit: got %q, want %q in it", method, tt.name, r.Error.Message, name)
					}
				}
			}
			ana.send(protocol.MethodJoinRoom, fmt.Sprintf(`{"roomID":%q}`, room))
			ana.refused(protocol.CodeNoRoom) // it was not made
			ana.send(method, attributesParams(t, method, room, tt.good))
			if _, r := ana.response(); r.Error != nil {
				t.Errorf("%s, %s at the limit: got %v", method, tt.name, r.Error)
			}
			var got protocol.AllAttributesResult
			ana.ask(protocol.MethodQueryRoomAllAttributes, fmt.Sprintf(`{"roomID":%q}`, room), &got)
			if !maps.Equal(got.RoomAttributes, tt.good) {
				t.Errorf("%s, %s at the limit: got %q, want %q", method, tt.name, got.RoomAttributes, tt.good)
			}
		}
	}
}

// Parameters of queries that cannot be used are refused, and say why; those at
// the limits can.
func TestQueries_params(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	stranger := connect(t, a.URL())
	list := func(config string) string { return fmt.Sprintf(`{"roomID":"R","config":%s}`, config) }
	look := func(users ...string) string {
		b, _ := json.Marshal(users)
		return fmt.Sprintf(`{"roomID":"R","userIDs":%s}`, b)
	}
	for method, params := range map[string]string{
		protocol.MethodQueryRoomMemberList: list(`{"count":1,"nextFlag":""}`), protocol.MethodQueryRoomMembers: look("bo"),
		protocol.MethodQueryRoomOnlineMemberCount: joinR, protocol.MethodQueryRoomAllAttributes: joinR,
	} {
		stranger.send(method, params)
		stranger.hears("error 6000121") // row 27
	}

	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	for _, room := range []string{"R", "S"} {
		bo.enter(room)
		ana.enter(room)
		enroll(a, t, "cy-"+room).enter(room)
	}
	flag := func(w *wire, room string) string {
		var page protocol.MemberListResult
		w.ask(protocol.MethodQueryRoomMemberList, fmt.Sprintf(`{"roomID":%q,"config":{"count":2}}`, room), &page)
		if page.NextFlag == "" {
			t.Fatalf("got no nextFlag with %s", page.MemberList)
		}
		return page.NextFlag
	}
	mine, other := flag(ana, "R"), flag(ana, "S")
	ana.until("S +cy-S 3")
	bo.until("S +cy-S 3")
	next := func(flag string) string {
		text, _ := json.Marshal(flag)
		return list(fmt.Sprintf(`{"count":2,"nextFlag":%s}`, text))
	}
	u := slices.Repeat([]string{"bo"}, 11)
	for _, tt := range []struct {
		method, params string
		code           protocol.Code // 0: an answer
	}{
		{"queryRoomMemberList", `{"roomID":"R"}`, -32602},
		{"queryRoomMemberList", list(`{}`), -32602},
		{"queryRoomMemberList", list(`{"count":null}`), -32602},
		{"queryRoomMemberList", list(`{"count":"5"}`), -32602},
		{"queryRoomMemberList", list(`{"count":1.5}`), 6000001},
		{"queryRoomMemberList", list(`{"count":-1}`), 6000001},
		{"queryRoomMemberList", list(`{"count":0}`), 6000001},
		{"queryRoomMemberList", list(`{"count":101}`), 6000001},
		{"queryRoomMemberList", list(`{"count":1e9}`), 6000001},
		{"queryRoomMemberList", list(`{"count":1}`), 0},
		{"queryRoomMemberList", list(`{"count":100}`), 0},
		{"queryRoomMemberList", list(`{"count":100,"nextFlag":null}`), 0},
		{"queryRoomMemberList", list(`{"count":100,"nextFlag":3}`), -32602},
		{"queryRoomMemberList", next(mine), 0},
		{"queryRoomMemberList", next(other), 6000001},
		{"queryRoomMemberList", next(mine + "0"), 6000001},
		{"queryRoomMemberList", next(" " + mine), 6000001},
		{"queryRoomMemberList", next("x"), 6000001},
		{"queryRoomMemberList", next("2"), 6000001},
		{"queryRoomMemberList", next("\x00"), 6000001},
		{"queryRoomMemberList", next(strings.Repeat("9", 60_000)), 6000001},
		{"queryRoomMemberList", next(mine + strings.Repeat("\x00", 10_000)), 6000001},
		{"queryRoomMembers", `{"roomID":"R"}`, -32602},
		{"queryRoomMembers", `{"roomID":"R","userIDs":null}`, -32602},
		{"queryRoomMembers", `{"roomID":"R","userIDs":"bo"}`, -32602},
		{"queryRoomMembers", `{"roomID":"R","userIDs":[1]}`, -32602},
		{"queryRoomMembers", `{"roomID":"R","userIDs":[]}`, 6000001},
		{"queryRoomMembers", look("bo", ""), 6000001},
		{"queryRoomMembers", look("bo", "a/b"), 6000001},
		{"queryRoomMembers", look("bo", strings.Repeat("u", 33)), 6000001},
		{"queryRoomMembers", look(strings.Repeat("u", 32)), 0},
		{"queryRoomMembers", look(u[:10]...), 0},
		{"queryRoomMembers", look(u...), 6000001},
		{"queryRoomAllAttributes", `{}`, -32602},
		{"queryRoomAllAttributes", `{"roomID":"a/b"}`, 6000001},
	} {
		ana.send(tt.method, tt.params)
		_, r := ana.response()
		var code protocol.Code
		if r.Error != nil {
			if code = r.Error.Code; len(r.Error.Message) > 500 {
				t.Errorf("%s %.80s: the message has %d bytes", tt.method, tt.params, len(r.Error.Message))
			}
		}
		if code != tt.code {
			t.Errorf("%s %.80s: got %d, want %d", tt.method, tt.params, code, tt.code)
		}
	}
	ana.settled()

	// What the flag of another life names is not this one's.
	destroy(t, a, "R")
	ana.until("R disconnected roomNotExist")
	bo.until("R disconnected roomNotExist")
	for _, w := range []*wire{bo, ana} {
		w.enter("R")
		w.say("R", "as far as it was")
	}
	ana.send(protocol.MethodQueryRoomMemberList, next(mine))
	ana.refused(protocol.CodeBadParameter)
}

// Users are looked up in the order in which they were named, each once: those
// who are members in one list, the others in the other.
func TestQueries_lookUp(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	var at protocol.Position
	for i := range 8 {
		w := connect(t, []*gateway{a, b}[i%2].URL())
		w.login(fmt.Sprintf(`{"userID":"u%d","userName":"Name %d"}`, i, i))
		at = w.enter("R").Position
	}
	gone, ana := enroll(b, t, "gone"), enroll(a, t, "ana")
	gone.enter("R")
	gone.ask(protocol.MethodLeaveRoom, joinR, nil)
	at.Seq += 3
	if r := ana.enter("R"); r.Position != at {
		t.Fatalf("got %+v, want %+v", r.Position, at)
	}
	info := func(i int) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"userID":"u%d","userName":"Name %d","userAvatarUrl":"","userExtendedData":""}`, i, i))
	}
	none := func(users ...string) (list []protocol.UserError) {
		list = []protocol.UserError{}
		for _, u := range users {
			list = append(list, protocol.UserError{UserID: u, Reason: protocol.CodeNotInRoom})
		}
		return list
	}
	for _, tt := range []struct {
		users   []string
		members []json.RawMessage
		errors  []protocol.UserError
	}{
		{[]string{"u5"}, []json.RawMessage{info(5)}, none()},
		{[]string{"nobody"}, []json.RawMessage{}, none("nobody")},
		{[]string{"u5", "U5", "u1", "gone", "u7", "u0"}, []json.RawMessage{info(5), info(1), info(7), info(0)}, none("U5", "gone")},
		{[]string{"x", "u2", "gone", "u2", "x", "u1", "u2", "gone", "u1", "x"}, []json.RawMessage{info(2), info(1)}, none("x", "gone")},
	} {
		params, _ := json.Marshal(protocol.MembersParams{RoomID: "R", UserIDs: tt.users})
		var got protocol.MembersResult
		ana.ask(protocol.MethodQueryRoomMembers, string(params), &got)
		want := protocol.MembersResult{RoomID: "R", MemberList: tt.members, ErrorUserList: tt.errors, Position: at}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", tt.users, d)
		}
	}
}

// What members say of themselves cannot make their list unreadable: a page of
// it is smaller than what a connection may hold.
func TestQueries_heavyMembers(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), "--session-ttl=5m", "--log-ttl=10m")
	const members = 90
	heavy := strings.Repeat(`\u0000`, 1024)
	for i := range members {
		w := connect(t, g.URL())
		w.login(fmt.Sprintf(`{"userID":"u%d","userName":"%s","userAvatarUrl":"%s","userExtendedData":"%s"}`, i, heavy[:6*256], heavy, heavy))
		w.enter("R")
		w.drop() // who is away is a member, and hears nothing
	}
	ana := enroll(g, t, "ana")
	ana.enter("R")
	var users []string
	for flag := ""; len(users) == 0 || flag != ""; {
		var page struct {
			protocol.MemberListResult
			MemberList []protocol.UserInfo `json:"memberList"`
		}
		ana.ask(protocol.MethodQueryRoomMemberList, fmt.Sprintf(`{"roomID":"R","config":{"count":100,"nextFlag":%q}}`, flag), &page)
		for _, u := range page.MemberList {
			users = append(users, u.UserID)
			if u.UserID != "ana" && (len(u.UserName) != 256 || len(u.UserAvatarURL) != 1024 || len(u.UserExtendedData) != 1024) {
				t.Errorf("%s is cut", u.UserID)
			}
		}
		if flag = page.NextFlag; len(page.MemberList) == 0 || len(users) > 2*members {
			t.Fatalf("a page has %d members after %d", len(page.MemberList), len(users))
		}
	}
	var want []string
	for i := range members {
		want = append(want, fmt.Sprintf("u%d", i))
	}
	want = append(want, "ana")
	if d := cmp.Diff(want, users); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A roll is who is in a room, in the order of their entry, as its events tell.
type roll struct {
	seq     int64
	members []rollMember
}

func (r *roll) users() map[string]bool {
	users := make(map[string]bool, len(r.members))
	for _, m := range r.members {
		users[m.user] = true
	}
	return users
}

type rollMember struct {
	user    string
	entered int64
	data    string
}

// apply takes in the next event.
func (r *roll) apply(e roomstore.Event) {
	r.seq = e.Seq
	i := slices.IndexFunc(r.members, func(m rollMember) bool { return m.user == string(e.User) })
	switch e.Kind {
	case roomstore.KindJoined:
		r.members = append(r.members, rollMember{string(e.User), e.Seq, e.Data})
	case roomstore.KindLeft:
		r.members = slices.Delete(r.members, i, i+1)
	case roomstore.KindMoved:
		r.members[i].data = e.Data
	}
}

// page is what a page after an entry has to be, and the entry it ends with.
func (r *roll) page(after int64, count int) (data []string, last int64, more bool) {
	for _, m := range r.members {
		switch {
		case m.entered <= after:
		case len(data) == count:
			return data, last, true
		default:
			data, last = append(data, m.data), m.entered
		}
	}
	return data, last, false
}

// A book is what Redis announced of the room R of a deployment.
type book struct {
	mu     sync.Mutex
	events []roomstore.Event
	ended  map[string]int64 // of users: seq of the last departure
}

func openBook(t *testing.T, rdb redis.UniversalClient, prefix string, partitions int) *book {
	t.Helper()
	b := &book{ended: map[string]int64{}}
	overhear(t, subscribe(t.Context(), rdb, partOf(prefix, partitions, "R")+"ch:R"), func(_ string, e roomstore.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
		if e.Kind == roomstore.KindLeft {
			b.ended[string(e.User)] = e.Seq
		}
	})
	return b
}

// endedAfter says whether a user's membership has ended after a seq.
func (b *book) endedAfter(user string, seq int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended[user] > seq
}

// kinds counts the events so far, departures by their reason.
func (b *book) kinds() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := map[string]int{}
	for _, e := range b.events {
		switch e.Kind {
		case roomstore.KindJoined:
			n["joined"]++
		case roomstore.KindMoved:
			n["moved"]++
		default:
			n[string(e.Reason)]++
		}
	}
	return n
}

// upTo waits for the event with a seq, and gives all.
func (b *book) upTo(t *testing.T, seq int64) (events []roomstore.Event) {
	t.Helper()
	eventually(t, fmt.Sprintf("the event %d", seq), func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		events = b.events
		return len(events) > 0 && events[len(events)-1].Seq >= seq
	})
	return events
}

// An asker is a member that asks, one thing after the other, and keeps what it
// is told meanwhile of who comes and goes.
type asker struct {
	user    string
	ws      *websocket.Conn
	entered protocol.Position
	asked   int
	answers chan answered
	ended   chan struct{} // reading has
	changes []change      // owned by the reader until then
	err     error         // likewise; why it has

	knows map[string]known // of users, as far as claims have gone through changes
	heard int              // of changes, that they have
}

// known is what somebody knows of a user.
type known struct {
	seq int64
	in  bool
}

// answered is an answer to anything that is asked here.
type answered struct {
	protocol.Position
	Count         int64
	MemberList    []json.RawMessage
	NextFlag      string
	ErrorUserList []protocol.UserError

	mark
	err *protocol.Error
}

// mark is how much an asker had been told when it was answered.
type mark struct {
	changes int
	last    int64 // seq of the last of them
}

// change is one of roomMemberJoined and roomMemberLeft.
type change struct {
	seq  int64
	in   bool
	user string
}

// ask makes a request and waits for its answer.
func (a *asker) ask(method string, params any) (answered, error) {
	a.asked++
	err := a.ws.WriteJSON(map[string]any{"jsonrpc": protocol.Version, "id": a.asked, "method": method, "params": params})
	if err != nil {
		return answered{}, err
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case r := <-a.answers:
		if r.err != nil {
			return r, fmt.Errorf("%s: %s: %d %w", a.user, method, r.err.Code, r.err)
		}
		return r, nil
	case <-a.ended:
		return answered{}, fmt.Errorf("%s: %s: %w", a.user, method, a.err)
	case <-deadline.C:
		return answered{}, fmt.Errorf("%s: %s: no answer in %v", a.user, method, patience)
	}
}

// read takes in what comes, in its order, until the connection ends.
func (a *asker) read() {
	defer close(a.ended)
	var told mark
	for {
		var m struct {
			Method string                  `json:"method"`
			Params protocol.MembersChanged `json:"params"`
			Result answered                `json:"result"`
			Error  *protocol.Error         `json:"error"`
		}
		if a.err = a.ws.ReadJSON(&m); a.err != nil {
			return
		}
		switch m.Method {
		case "":
			m.Result.mark, m.Result.err = told, m.Error
			a.answers <- m.Result
		case protocol.EventRoomMemberJoined, protocol.EventRoomMemberLeft:
			if m.Params.Seq > 0 { // what came right before it has its seq, too
				for i := len(a.changes) - 1; i >= 0 && a.changes[i].seq == 0; i-- {
					a.changes[i].seq = m.Params.Seq
				}
			}
			for _, u := range m.Params.MemberList {
				a.changes = append(a.changes, change{m.Params.Seq, m.Method == protocol.EventRoomMemberJoined, u.UserID})
			}
			told = mark{len(a.changes), m.Params.Seq}
		case protocol.EventRoomStateChanged:
		default:
			a.err = fmt.Errorf("heard %s", m.Method)
			return
		}
	}
}

// newAsker logs a user in and enters R.
func newAsker(t *testing.T, g *gateway, user string) *asker {
	t.Helper()
	ws, res, err := websocket.DefaultDialer.DialContext(t.Context(), g.URL()+protocol.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	a := &asker{user: user, ws: ws, answers: make(chan answered, 1), ended: make(chan struct{})}
	go a.read()
	t.Cleanup(a.close)
	var entry answered
	if _, err = a.ask(protocol.MethodLogin, protocol.UserInfo{UserID: user, UserName: "asks"}); err == nil {
		entry, err = a.ask(protocol.MethodEnterRoom, protocol.EnterParams{RoomInfo: protocol.RoomBaseInfo{RoomID: "R"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	a.entered = entry.Position
	return a
}

func (a *asker) close() {
	a.ws.Close()
	<-a.ended
}

// A bustle is a room R in which guests come and go while witnesses ask about it.
type bustle struct {
	gates  []*gateway
	book   *book
	users  []string      // all there are, and some who never come
	turns  chan struct{} // each lets a guest do one thing
	walks  atomic.Int64
	pages  atomic.Int64
	failed chan error // holds the first
}

func (b *bustle) fail(err error) {
	select {
	case b.failed <- err:
	default:
	}
}

// A guest comes and goes.
type guest struct {
	name    string
	where   string         // "out", "in", "gone" without a word, or "away", which lasts
	c       *client.Client // nil: none that is open
	devices int
	since   int64 // a position at which it was in
}

// device logs a guest in once more. What others see of it tells the device.
func (b *bustle) device(ctx context.Context, g *guest, url string) (*client.Client, error) {
	g.devices++
	return client.Dial(ctx, client.Config{
		URLs:    []string{url},
		User:    protocol.UserInfo{UserID: g.name, UserName: fmt.Sprintf("%s on device %d", g.name, g.devices)},
		OnEvent: func(client.Event) {}, RawEvents: true,
	})
}

// act has a guest do something.
func (b *bustle) act(ctx context.Context, r *rand.Rand, g *guest) error {
	if g.where == "gone" && b.book.endedAfter(g.name, g.since) {
		g.where = "out"
	}
	at := b.gates[r.IntN(len(b.gates))]
	switch {
	case g.where == "gone" && r.IntN(8) > 0:
		return nil // most wait until their time is over
	case g.where == "away" && r.IntN(2) == 0, g.where == "in" && r.IntN(5) == 0:
		g.where = "out"
		return b.kick(ctx, at, g)
	case g.where != "in" && g.c != nil:
		return b.enter(ctx, r, g, g.c)
	case g.where != "in", r.IntN(4) == 0:
		c, err := b.device(ctx, g, at.URL())
		if err == nil {
			err = b.enter(ctx, r, g, c)
		}
		return err
	}
	switch r.IntN(3) {
	case 0:
		g.where = "out"
		return g.c.LeaveRoom(ctx, "R")
	case 1:
		g.where = "out"
		if _, err := g.c.SwitchRoom(ctx, "R", protocol.RoomBaseInfo{RoomID: g.name}, true, nil); err != nil {
			return err
		}
		return g.c.LeaveRoom(ctx, g.name)
	}
	g.where = "gone"
	g.c.Close()
	g.c = nil
	return nil
}

// enter has a guest enter R from a device. If it is there from another one, the
// place moves.
func (b *bustle) enter(ctx context.Context, r *rand.Rand, g *guest, c *client.Client) error {
	old := g.c
	g.c = c
	var entry *protocol.Room
	var err error
	if r.IntN(3) > 0 {
		entry, err = c.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: "R"}, nil)
	} else if _, err = c.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: g.name}, nil); err == nil {
		entry, err = c.SwitchRoom(ctx, g.name, protocol.RoomBaseInfo{RoomID: "R"}, false, nil)
	}
	if old != nil && old != c {
		old.Close()
	}
	if err == nil {
		g.where, g.since = "in", entry.Seq
	}
	return err
}

func (b *bustle) kick(ctx context.Context, at *gateway, g *guest) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+at.Addr+"/v1/rooms/R/kick", strings.NewReader(fmt.Sprintf(`{"userID":%q}`, g.name)))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer dev")
	res, err := gatetest.Plain.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("kick %s: %s", g.name, res.Status)
	}
	return nil
}

// come has guests do what guests do, one thing a turn, until there are no more
// turns.
func (b *bustle) come(ctx context.Context, r *rand.Rand, guests []*guest) {
	for range b.turns {
		g := guests[r.IntN(len(guests))]
		if err := b.act(ctx, r, g); err != nil {
			b.fail(fmt.Errorf("%s: %w", g.name, err))
			break
		}
	}
	for _, g := range guests {
		if g.c != nil {
			g.c.Close()
		}
	}
}

// A claim is something that an answer said of the room at a position.
type claim struct {
	seq   int64
	holds func(now *roll) error
}

// A witness asks on several connections, one to each gateway, and keeps what it
// was told.
type witness struct {
	b      *bustle
	r      *rand.Rand
	askers []*asker
	texts  map[string]string // what was said of members, each kept once
	claims []claim
}

// testify walks, counts and looks users up until enough has happened.
func (w *witness) testify(enough func() bool) {
	for !enough() {
		i := w.r.IntN(len(w.askers))
		err := w.walk(i, w.r.IntN(4) == 0)
		if err == nil {
			err = w.count(w.askers[i])
		}
		if err == nil {
			err = w.lookUp(w.askers[i])
		}
		if err != nil {
			w.b.fail(err)
			return
		}
	}
}

func (w *witness) claim(seq int64, holds func(now *roll) error) {
	w.claims = append(w.claims, claim{seq, holds})
}

// query asks and claims that, when the answer came, the asker knew of everybody
// where they were at the position of the answer, or later.
func (w *witness) query(a *asker, method string, params any) (answered, error) {
	got, err := a.ask(method, params)
	if err != nil {
		return got, err
	}
	at, told := got.Position, got.changes
	w.claim(at.Seq, func(now *roll) error {
		if at.Epoch != a.entered.Epoch {
			return fmt.Errorf("%s: %s: got epoch %d, want %d", a.user, method, at.Epoch, a.entered.Epoch)
		}
		for ; a.heard < told; a.heard++ {
			c := a.changes[a.heard]
			a.knows[c.user] = known{c.seq, c.in}
		}
		in := now.users()
		for user := range in {
			if k := a.knows[user]; !k.in && k.seq <= at.Seq && user != a.user {
				return fmt.Errorf("%s: %s at %d: %s is in, it knows not later than of %d", a.user, method, at.Seq, user, k.seq)
			}
		}
		for user, k := range a.knows {
			if k.in && k.seq <= at.Seq && !in[user] {
				return fmt.Errorf("%s: %s at %d: %s is out, it knows not later than of %d", a.user, method, at.Seq, user, k.seq)
			}
		}
		return nil
	})
	return got, nil
}

func (w *witness) count(a *asker) error {
	got, err := w.query(a, protocol.MethodQueryRoomOnlineMemberCount, protocol.RoomParams{RoomID: "R"})
	if err != nil {
		return err
	}
	w.claim(got.Seq, func(now *roll) error {
		if got.Count != int64(len(now.members)) {
			return fmt.Errorf("count at %d: got %d, want %d", now.seq, got.Count, len(now.members))
		}
		return nil
	})
	return nil
}

func (w *witness) lookUp(a *asker) error {
	users := make([]string, 1+w.r.IntN(10))
	for i := range users {
		users[i] = w.b.users[w.r.IntN(len(w.b.users))]
		if i > 0 && w.r.IntN(6) == 0 {
			users[i] = users[w.r.IntN(i)]
		}
	}
	got, err := w.query(a, protocol.MethodQueryRoomMembers, protocol.MembersParams{RoomID: "R", UserIDs: users})
	if err != nil {
		return err
	}
	members := w.keep(got.MemberList)
	w.claim(got.Seq, func(now *roll) error {
		var in []string
		var out []protocol.UserError
		for i, user := range users {
			if slices.Contains(users[:i], user) {
				continue
			}
			if m := slices.IndexFunc(now.members, func(m rollMember) bool { return m.user == user }); m >= 0 {
				in = append(in, now.members[m].data)
			} else {
				out = append(out, protocol.UserError{UserID: user, Reason: protocol.CodeNotInRoom})
			}
		}
		if !slices.Equal(members, in) || !slices.Equal(got.ErrorUserList, out) {
			return fmt.Errorf("look up %q at %d: got %q and %+v, want %q and %+v", users, now.seq, members, got.ErrorUserList, in, out)
		}
		return nil
	})
	return nil
}

// keep gives what was said of members as strings, of which there is one each.
func (w *witness) keep(list []json.RawMessage) (members []string) {
	for _, raw := range list {
		text, ok := w.texts[string(raw)]
		if !ok {
			text = string(raw)
			w.texts[text] = text
		}
		members = append(members, text)
	}
	return members
}

// walked is a page of a walk.
type walked struct {
	seq     int64
	members []string
	last    bool
	mark
}

// walk asks for all pages, of one gateway or of one after the other.
func (w *witness) walk(i int, hops bool) error {
	w.b.walks.Add(1)
	counts := []int{100, 100, 100, 100, 100, 99, 64, 50, 37, 21}
	count := counts[w.r.IntN(len(counts))]
	switch w.r.IntN(300) {
	case 0:
		count = 1
	case 1, 2, 3:
		count = 7
	}
	a := w.askers[i]
	var pages []walked
	for flag := ""; len(pages) == 0 || flag != ""; {
		got, err := w.query(w.askers[i], protocol.MethodQueryRoomMemberList,
			protocol.MemberListParams{RoomID: "R", Config: protocol.PageConfig{Count: count, NextFlag: flag}})
		if err != nil {
			return err
		}
		if len(pages) == 3000 {
			return fmt.Errorf("%s: the walk by %d does not end", a.user, count)
		}
		pages = append(pages, walked{got.Seq, w.keep(got.MemberList), got.NextFlag == "", got.mark})
		if w.b.pages.Add(1)%5 == 0 {
			select {
			case w.b.turns <- struct{}{}:
			default: // all guests are busy
			}
		}
		if flag = got.NextFlag; hops {
			i = (i + 1) % len(w.askers)
		}
	}
	w.claimWalk(count, pages)
	if !hops {
		w.claimView(a, pages)
	}
	return nil
}

// claimWalk claims that each page is the room at its position, and that who was
// there all the while was seen once.
func (w *witness) claimWalk(count int, pages []walked) {
	since := map[string]int64{} // who was there at first, since when
	after := int64(0)           // the entry that the page before ended with
	for i, p := range pages {
		w.claim(p.seq, func(now *roll) error {
			if i == 0 {
				for _, m := range now.members {
					since[m.user] = m.entered
				}
			}
			want, last, more := now.page(after, count)
			if !slices.Equal(p.members, want) || p.last == more {
				return fmt.Errorf("page %d of %d at %d after %d: got %q, last %t, want %q, last %t",
					i, count, p.seq, after, p.members, p.last, want, !more)
			}
			after = max(after, last)
			if !p.last {
				return nil
			}
			seen := map[string]int{}
			for _, p := range pages {
				for _, text := range p.members {
					seen[userOf(text)]++
				}
			}
			for _, m := range now.members {
				if since[m.user] == m.entered && seen[m.user] != 1 {
					return fmt.Errorf("walk by %d from %d to %d: %s was there all the while and was seen %d times",
						count, pages[0].seq, p.seq, m.user, seen[m.user])
				}
			}
			return nil
		})
	}
}

// claimView claims that the pages, with what the asker was told of who came and
// went after the position of each, are the room as it was in the end.
func (w *witness) claimView(a *asker, pages []walked) {
	first, end := pages[0], pages[len(pages)-1]
	w.claim(max(end.seq, end.mark.last), func(now *roll) error {
		view := map[string]known{}
		for _, p := range pages {
			for _, text := range p.members {
				view[userOf(text)] = known{p.seq, true}
			}
		}
		for _, c := range a.changes[:end.changes] {
			if c.seq > max(first.seq, view[c.user].seq) {
				view[c.user] = known{c.seq, c.in}
			}
		}
		for _, m := range now.members {
			if !view[m.user].in {
				return fmt.Errorf("%s: the walk from %d to %d, with what came until %d, lacks %s", a.user, first.seq, end.seq, now.seq, m.user)
			}
			delete(view, m.user)
		}
		for user, k := range view {
			if k.in {
				return fmt.Errorf("%s: the walk from %d to %d, with what came until %d, has %s", a.user, first.seq, end.seq, now.seq, user)
			}
		}
		return nil
	})
}

// userOf is the user that a member list's entry is about.
func userOf(text string) string {
	_, rest, _ := strings.Cut(text, `"userID":"`)
	user, _, _ := strings.Cut(rest, `"`)
	return user
}

// While members join, leave, switch, are kicked and evicted, and move from one
// device to another, on three gateways, every answer to a query is the room as
// it was at exactly the position it names; it comes when its asker has been told
// of everything up to there; every walk has everybody who was there all the
// while once; and its pages, with what its asker was told after each, are the
// room.
func TestQueries_walks(t *testing.T) {
	t.Parallel()
	seed := seedOf(t)
	server, rdb := anyRedis(t)
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			t.Parallel()
			walks(t, server.Addr(), rdb, seed, partitions)
		})
	}
}

func walks(t *testing.T, redisAddr string, rdb redis.UniversalClient, seed uint64, partitions int) {
	const (
		enough    = 1200 // walks
		witnesses = 5
		troops    = 6 // of guests
		away      = 240
	)
	prefix := fmt.Sprintf("walks%d", partitions)
	start := func(more ...string) *gateway {
		return startGateway(t, redisAddr, append([]string{"--redis-prefix=" + prefix, fmt.Sprintf("--partitions=%d", partitions),
			"--rate-limits=false", "--redis-timeout=8s", "--lease-ttl=30s", "--session-ttl=4s"}, more...)...)
	}
	random := func(who int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(partitions*1000+who))) }
	b := &bustle{turns: make(chan struct{}, troops), failed: make(chan error, 1)}
	for range 3 {
		b.gates = append(b.gates, start())
	}
	b.book = openBook(t, rdb, prefix, partitions)
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()

	// Those who are away are parked by a gateway that gives them long enough.
	home := start("--session-ttl=10m", "--log-ttl=20m")
	crews := make([][]*guest, troops)
	var arriving sync.WaitGroup
	for i := range crews {
		for n := range away / troops {
			crews[i] = append(crews[i], &guest{name: fmt.Sprintf("away-%d-%d", i, n), where: "away"})
		}
		arriving.Go(func() {
			for _, g := range crews[i] {
				c, err := b.device(ctx, g, home.URL())
				if err == nil {
					_, err = c.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: "R"}, nil)
					c.Close()
				}
				if err != nil {
					b.fail(err)
					return
				}
			}
		})
	}
	arriving.Wait()
	var all []*witness
	for i := range witnesses {
		w := &witness{b: b, r: random(i), texts: map[string]string{}}
		for n, g := range b.gates {
			w.askers = append(w.askers, newAsker(t, g, fmt.Sprintf("asks-%d-%d", i, n)))
		}
		all = append(all, w)
	}
	for i := range crews {
		crews[i] = crews[i][:10] // the others stay where they are
		for n := range 10 {
			crews[i] = append(crews[i], &guest{name: fmt.Sprintf("guest-%d-%d", i, n), where: "out"})
			b.users = append(b.users, fmt.Sprintf("guest-%d-%d", i, n), fmt.Sprintf("away-%d-%d", i, n), fmt.Sprintf("away-%d-%d", i, 10+n), fmt.Sprintf("nobody-%d", n))
		}
	}

	began := time.Now()
	var guests, asking sync.WaitGroup
	for i := range crews {
		guests.Go(func() { b.come(ctx, random(100+i), crews[i]) })
	}
	for _, w := range all {
		asking.Go(func() {
			w.testify(func() bool {
				if ctx.Err() != nil || len(b.failed) > 0 {
					return true
				}
				if b.walks.Load() < enough {
					return false
				}
				kinds := b.book.kinds()
				return kinds["joined"] >= away+50 && kinds["moved"] >= 20 && kinds["left"] >= 20 && kinds["kicked"] >= 20 && kinds["timeout"] >= 10
			})
		})
	}
	asking.Wait()
	close(b.turns)
	guests.Wait()
	select {
	case err := <-b.failed:
		t.Fatal(err)
	default:
	}
	t.Logf("%d walks of %d pages in %v, while these happened: %v", b.walks.Load(), b.pages.Load(), time.Since(began), b.book.kinds())
	if ctx.Err() != nil {
		t.Fatal("too little has happened")
	}
	check(t, b, all)
}

// check holds what the witnesses were told against the book.
func check(t *testing.T, b *bustle, all []*witness) {
	t.Helper()
	var claims []claim
	for _, w := range all {
		for _, a := range w.askers {
			a.close()
			claims = append(claims, claim{a.entered.Seq, func(now *roll) error {
				a.knows = map[string]known{}
				for user := range now.users() {
					a.knows[user] = known{now.seq, true}
				}
				return nil
			}})
		}
	}
	for _, w := range all {
		claims = append(claims, w.claims...)
	}
	slices.SortStableFunc(claims, func(a, b claim) int { return int(a.seq - b.seq) })
	var now roll
	bad := 0
	for _, e := range b.book.upTo(t, claims[len(claims)-1].seq) {
		if e.Seq != now.seq+1 {
			t.Fatalf("the book has %d after %d", e.Seq, now.seq)
		}
		now.apply(e)
		for len(claims) > 0 && claims[0].seq == now.seq {
			err := claims[0].holds(&now)
			claims = claims[1:]
			if err == nil {
				continue
			}
			t.Error(err)
			if bad++; bad == 10 {
				t.Fatal("and so on")
			}
		}
	}
	if len(claims) > 0 {
		t.Errorf("%d claims are of positions that never were", len(claims))
	}
}
