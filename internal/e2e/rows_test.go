//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/protocol"
)

// stage is where one row of the table plays: ana's gateway and the other one.
type stage struct {
	*testing.T
	a, b       *gateway
	rdb        redis.UniversalClient
	prefix     string // of the keys
	partitions int
	cast       map[string]*wire
	inR, inF   map[string]bool // who has been told to enter R, F
}

// as is the connection of a user: ana's and ann's on one gateway, those of the
// others on the other.
func (s *stage) as(user string) *wire {
	s.Helper()
	if w := s.cast[user]; w != nil {
		return w
	}
	g := s.b
	if strings.HasPrefix(user, "an") {
		g = s.a
	}
	s.cast[user] = enroll(g, s, user)
	return s.cast[user]
}

// in has users enter a room, one after the other.
func (s *stage) in(room string, users ...string) {
	s.Helper()
	for _, u := range users {
		s.as(u).enter(room)
		s.inR[u] = s.inR[u] || room == "R"
		s.inF[u] = s.inF[u] || room == "F"
	}
}

// leave has everybody log out, after which nothing is left of the rooms.
func (s *stage) leave() {
	for _, w := range s.cast {
		w.send(protocol.MethodLogout, "{}")
		w.closed()
	}
}

// block blocks a user from room R, for good.
func (s *stage) block(user string) {
	s.Helper()
	for p := range s.partitions {
		part := fmt.Sprintf("%s:{%d}:", s.prefix, p)
		if n := s.rdb.Exists(s.Context(), part+"room:R").Val(); n == 1 {
			if err := errors.Join(
				s.rdb.HSet(s.Context(), part+"room:R", "blocked", 1).Err(),
				s.rdb.HSet(s.Context(), part+"blocked:R", user, 0).Err(),
			); err != nil {
				s.Fatal(err)
			}
			return
		}
	}
	s.Fatal("there is no room R")
}

// A row of the table of operations. The watchers are in the room before it
// and are on the other gateway.
type row struct {
	name    string
	tiny    bool // on gateways with limits that are soon reached
	before  func(s *stage)
	method  string
	params  string
	caller  []string // what ana hears, its answer included
	watched bool     // bo and cy are in R
	others  []string // what bo hears
	in      bool     // ana is in R afterwards
	from    []string // what di hears, if di and ed are in F; nothing: not nil
	still   string   // a room that ana is in afterwards
	closed  protocol.CloseCode
	after   func(s *stage) // while everybody is still there
}

const (
	enterR  = `{"roomInfo":{"roomID":"R","roomName":"A room"}}`
	joinR   = `{"roomID":"R"}`
	fromF   = `{"fromRoomID":"F","toRoomInfo":{"roomID":"R","roomName":"A room"}}`
	mayMake = `{"fromRoomID":"F","toRoomInfo":{"roomID":"R","roomName":"A room"},"isCreateWhenRoomNotExisted":true}`
	fromFZ  = `{"fromRoomID":"F","toRoomInfo":{"roomID":"Z","roomName":"A room"},"isCreateWhenRoomNotExisted":%t}`
	createZ = `{"roomInfo":{"roomID":"Z","roomName":"A room"},"config":{"roomDestroyDelayTime":0}}`
)

var rows = []row{
	{name: "1 create", method: "createRoom", params: enterR, in: true,
		caller: []string{"R connecting activeCreate", "R connected success", "ok"}},
	{name: "1 create with attributes", method: "createRoom", in: true,
		params: `{"roomInfo":{"roomID":"R","roomName":""},"config":{"roomAttributes":{"k":"v"}}}`,
		caller: []string{"R connecting activeCreate", `R attributes [{"action":"set","roomAttributes":{"k":"v"}}]`,
			"R connected success", "ok"}},
	{name: "2 create what exists", method: "createRoom", params: enterR, watched: true,
		caller: []string{"R connecting activeCreate", "R disconnected createFailed", "error 6000323"}},
	{name: "3 create what one is in", method: "createRoom", params: enterR, watched: true, in: true,
		before: func(s *stage) { s.in("R", "ana") },
		caller: []string{"error 6000323"}},
	{name: "4 create at the room limit", tiny: true, method: "createRoom", params: createZ,
		before: func(s *stage) { s.in("X", "bo"); s.in("Y", "cy") },
		caller: []string{"Z connecting activeCreate", "Z disconnected createFailed", "error 6000324"}},
	{name: "5 join", method: "joinRoom", params: joinR, watched: true, in: true,
		caller: []string{"R connecting activeEnter", "R connected success", "ok"},
		others: []string{"R +ana 3"}},
	{name: "5 join with attributes", method: "joinRoom", params: joinR, in: true,
		before: func(s *stage) {
			s.as("bo").ask("createRoom", `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":{"k":"v"}}}`, nil)
		},
		caller: []string{"R connecting activeEnter", `R attributes [{"action":"set","roomAttributes":{"k":"v"}}]`,
			"R connected success", "ok"}},
	{name: "6 join what is not", method: "joinRoom", params: joinR,
		caller: []string{"R connecting activeEnter", "R disconnected roomNotExist", "error 6000322"}},
	{name: "7 enter creates", method: "enterRoom", params: enterR, in: true,
		caller: []string{"R connecting activeEnter", "R connected success", "ok"}},
	{name: "8 enter what exists", method: "enterRoom", params: enterR, watched: true, in: true,
		caller: []string{"R connecting activeEnter", "R connected success", "ok"},
		others: []string{"R +ana 3"}},
	{name: "9 enter at the room limit", tiny: true, method: "enterRoom", params: createZ,
		before: func(s *stage) { s.in("X", "bo"); s.in("Y", "cy") },
		caller: []string{"Z connecting activeEnter", "Z disconnected enterFailed", "error 6000324"}},
	{name: "10 enter what one is in", method: "enterRoom", params: enterR, watched: true, in: true,
		before: func(s *stage) { s.in("R", "ana") },
		caller: []string{"ok"}},
	{name: "10 join what one is in", method: "joinRoom", params: joinR, watched: true, in: true,
		before: func(s *stage) { s.in("R", "ana") },
		caller: []string{"ok"}},
	{name: "11 create at the user's limit", tiny: true, method: "createRoom", params: enterR,
		before: func(s *stage) { s.in("X", "ana") },
		caller: []string{"R connecting activeCreate", "R disconnected createFailed", "error 6000325"}},
	{name: "11 enter at the user's limit", tiny: true, method: "enterRoom", params: enterR,
		before: func(s *stage) { s.in("X", "ana") },
		caller: []string{"R connecting activeEnter", "R disconnected enterFailed", "error 6000325"}},
	{name: "11 join at the user's limit", tiny: true, method: "joinRoom", params: joinR, watched: true,
		before: func(s *stage) { s.in("X", "ana") },
		caller: []string{"R connecting activeEnter", "R disconnected enterFailed", "error 6000325"}},
	{name: "12 join a full room", tiny: true, method: "joinRoom", params: joinR, watched: true,
		before: func(s *stage) { s.in("R", "di") },
		caller: []string{"R connecting activeEnter", "R disconnected enterFailed", "error 6000304"}},
	{name: "12 enter a full room", tiny: true, method: "enterRoom", params: enterR, watched: true,
		before: func(s *stage) { s.in("R", "di") },
		caller: []string{"R connecting activeEnter", "R disconnected enterFailed", "error 6000304"}},
	{name: "13 join when blocked", method: "joinRoom", params: joinR, watched: true,
		before: func(s *stage) { s.block("ana") },
		caller: []string{"R connecting activeEnter", "R disconnected enterFailed", "error 6000327"}},
	{name: "13 enter when blocked", method: "enterRoom", params: enterR, watched: true,
		before: func(s *stage) { s.block("ana") },
		caller: []string{"R connecting activeEnter", "R disconnected enterFailed", "error 6000327"}},
	{name: "12 switch to a full room", tiny: true, method: "switchRoom", params: fromF, watched: true,
		before: func(s *stage) { s.in("R", "di"); s.in("F", "ana") }, still: "F",
		caller: []string{"R connecting activeSwitch", "R disconnected switchFailed", "error 6000304"}},
	{name: "13 switch when blocked", method: "switchRoom", params: mayMake, watched: true,
		before: func(s *stage) { s.block("ana"); s.in("F", "ana") }, still: "F",
		caller: []string{"R connecting activeSwitch", "R disconnected switchFailed", "error 6000327"}},
	{name: "15 switch", method: "switchRoom", params: fromF, watched: true, in: true, from: []string{"F -ana 2"},
		before: func(s *stage) { s.in("F", "di", "ed", "ana") },
		caller: []string{"R connecting activeSwitch", "R connected success", "F disconnected success", "ok"},
		others: []string{"R +ana 3"}},
	{name: "15 switch to what has attributes", method: "switchRoom", params: mayMake, in: true, from: []string{"F -ana 2"},
		before: func(s *stage) {
			s.in("F", "di", "ed", "ana")
			s.as("bo").ask("createRoom", `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":{"k":"v"}}}`, nil)
		},
		caller: []string{"R connecting activeSwitch", `R attributes [{"action":"set","roomAttributes":{"k":"v"}}]`,
			"R connected success", "F disconnected success", "ok"}},
	{name: "15 switch, the last to leave", method: "switchRoom", params: fromF, watched: true, in: true,
		before: func(s *stage) { s.in("F", "ana") },
		caller: []string{"R connecting activeSwitch", "R connected success", "F disconnected success", "ok"},
		others: []string{"R +ana 3"}},
	{name: "15 switch to what one is in", method: "switchRoom", params: fromF, watched: true, in: true, from: []string{"F -ana 2"},
		before: func(s *stage) { s.in("F", "di", "ed", "ana"); s.in("R", "ana") },
		caller: []string{"F disconnected success", "ok"}},
	{name: "16 switch makes", method: "switchRoom", in: true, from: []string{"F -ana 2"},
		params: `{"fromRoomID":"F","toRoomInfo":{"roomID":"R","roomName":"A room"},"isCreateWhenRoomNotExisted":true,"config":{"roomAttributes":{"k":"v"},"roomDestroyDelayTime":0}}`,
		before: func(s *stage) { s.in("F", "di", "ed", "ana") },
		caller: []string{"R connecting activeSwitch", `R attributes [{"action":"set","roomAttributes":{"k":"v"}}]`,
			"R connected success", "F disconnected success", "ok"}},
	{name: "17 switch to what is not", method: "switchRoom", params: fromF, still: "F", from: []string{},
		before: func(s *stage) { s.in("F", "di", "ed", "ana") },
		caller: []string{"R connecting activeSwitch", "R disconnected switchFailed", "error 6000322"}},
	{name: "18 switch at the room limit", tiny: true, method: "switchRoom", params: fmt.Sprintf(fromFZ, true), watched: true, still: "F",
		before: func(s *stage) { s.in("F", "ana") },
		caller: []string{"Z connecting activeSwitch", "Z disconnected switchFailed", "error 6000324"}},
	{name: "18 switch at the room limit, not to make", tiny: true, method: "switchRoom", params: fmt.Sprintf(fromFZ, false), watched: true, still: "F",
		before: func(s *stage) { s.in("F", "ana") },
		caller: []string{"Z connecting activeSwitch", "Z disconnected switchFailed", "error 6000324"}},
	{name: "19 switch from what one is not in", method: "switchRoom", params: mayMake, watched: true, from: []string{},
		before: func(s *stage) { s.in("F", "di", "ed") },
		caller: []string{"error 6000001"}},
	{name: "19 switch from what is not", method: "switchRoom", params: mayMake, watched: true,
		caller: []string{"error 6000001"}},
	{name: "19 switch to where one is", method: "switchRoom", watched: true, still: "F",
		params: `{"fromRoomID":"F","toRoomInfo":{"roomID":"F"},"isCreateWhenRoomNotExisted":true}`,
		before: func(s *stage) { s.in("F", "ana") },
		caller: []string{"error 6000001"}},
	{name: "20 switch at the user's limit", tiny: true, method: "switchRoom", params: fromF, watched: true, in: true,
		before: func(s *stage) { s.in("F", "ana") },
		caller: []string{"R connecting activeSwitch", "R connected success", "F disconnected success", "ok"},
		others: []string{"R +ana 3"}},
	{name: "21 leave", method: "leaveRoom", params: joinR, watched: true,
		before: func(s *stage) { s.in("R", "ana") },
		caller: []string{"R disconnected success", "ok"},
		others: []string{"R -ana 2"}},
	{name: "22 leave what one is not in", method: "leaveRoom", params: joinR, watched: true,
		caller: []string{"error 6000321"}},
	{name: "23 leave what is not", method: "leaveRoom", params: joinR,
		caller: []string{"error 6000306"}},
	{name: "24 leave all", method: "leaveAllRoom", params: `{}`, watched: true,
		before: func(s *stage) { s.in("R", "ana") },
		caller: []string{"R disconnected success", "ok"},
		others: []string{"R -ana 2"}},
	{name: "24 leave all of none", method: "leaveAllRoom", params: `{}`, watched: true,
		caller: []string{"ok"}},
	{name: "25 log out", method: "logout", params: `{}`, watched: true, closed: protocol.CloseNormal,
		before: func(s *stage) { s.in("R", "ana") },
		caller: []string{"R disconnected success", "connection disconnected success", "ok"},
		others: []string{"R -ana 2"}},
	{name: "25 log out, in no room", method: "logout", params: `{}`, watched: true, closed: protocol.CloseNormal,
		caller: []string{"connection disconnected success", "ok"}},
	{name: "26 bad parameter", method: "enterRoom", params: `{"roomInfo":{"roomID":"R/","roomName":""}}`, watched: true,
		caller: []string{"error 6000001"}},
	{name: "28 count a room one is not in", method: "queryRoomOnlineMemberCount", params: joinR, watched: true,
		caller: []string{"error 6000321"}},
	{name: "28 list a room one is not in", method: "queryRoomMemberList", params: `{"roomID":"R","config":{"count":10,"nextFlag":""}}`, watched: true,
		caller: []string{"error 6000321"}},
	{name: "28 look up in a room one is not in", method: "queryRoomMembers", params: `{"roomID":"R","userIDs":["bo"]}`, watched: true,
		caller: []string{"error 6000321"}},
	{name: "28 send to a room one is not in", method: "sendRoomMessage", params: textMessage("R", "hi"), watched: true,
		caller: []string{"error 6000321"}},
	{name: "28 barrage to a room one is not in", method: "sendRoomMessage", watched: true,
		params: `{"roomID":"R","message":{"type":20,"message":"hi"}}`,
		caller: []string{"error 6000321"}},
	{name: "28 count what is not", method: "queryRoomOnlineMemberCount", params: joinR,
		caller: []string{"error 6000322"}},
	{name: "28 list what is not", method: "queryRoomMemberList", params: `{"roomID":"R","config":{"count":10,"nextFlag":""}}`,
		caller: []string{"error 6000322"}},
	{name: "28 look up in what is not", method: "queryRoomMembers", params: `{"roomID":"R","userIDs":["bo"]}`,
		caller: []string{"error 6000322"}},
	{name: "28 send to what is not", method: "sendRoomMessage", params: textMessage("R", "hi"),
		caller: []string{"error 6000204"}},
	{name: "28 command to what is not", method: "sendRoomMessage", params: `{"roomID":"R","message":{"type":2,"message":"aGk="}}`,
		caller: []string{"error 6000204"}},
	{name: "send", method: "sendRoomMessage", params: textMessage("R", "hi"), watched: true, in: true,
		before: func(s *stage) { s.in("R", "ana") },
		caller: []string{"ok"},
		others: []string{"R ana: hi"}},
}

// Every operation is answered as the table of semantics says, to the caller in
// exactly that order, and others hear of it what it says and nothing else; with
// the others on another gateway, and with any number of partitions.
func TestOperations(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	for _, partitions := range partitionings() {
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			t.Parallel()
			theatre := openTheatre(t, func(string) string { return server.Addr() }, rdb, partitions)
			for _, r := range rows {
				t.Run(r.name, func(t *testing.T) { theatre.play(t, r) })
			}
		})
	}
}

// theatre is the gateways that rows play on.
type theatre struct {
	rdb        redis.UniversalClient
	partitions int
	wide, tiny [2]*gateway
}

// openTheatre starts them, on the Redis that at gives for each.
func openTheatre(t *testing.T, at func(name string) string, rdb redis.UniversalClient, partitions int, all ...string) *theatre {
	h := &theatre{rdb: rdb, partitions: partitions}
	flags := func(name string, more ...string) []string {
		return slices.Concat([]string{"--redis-prefix=" + h.prefix(name), fmt.Sprintf("--partitions=%d", partitions)}, all, more)
	}
	h.wide[0], h.wide[1] = startPair(t, at("wide"), flags("wide")...)
	h.tiny[0], h.tiny[1] = startPair(t, at("tiny"), flags("tiny", "--max-rooms=2", "--max-members=3", "--max-rooms-per-user=1")...)
	return h
}

func (h *theatre) prefix(name string) string { return fmt.Sprintf("%s%d", name, h.partitions) }

func (h *theatre) play(t *testing.T, r row) {
	s := &stage{T: t, a: h.wide[0], b: h.wide[1], prefix: h.prefix("wide"), partitions: h.partitions, rdb: h.rdb,
		cast: map[string]*wire{}, inR: map[string]bool{}, inF: map[string]bool{}}
	if r.tiny {
		s.a, s.b, s.prefix = h.tiny[0], h.tiny[1], h.prefix("tiny")
	}
	r.play(s)
}

// play plays a row. What must not be heard would be heard before cy's last
// word, since all hear a room's events in one order.
func (r row) play(s *stage) {
	ana := s.as("ana")
	if r.watched {
		s.in("R", "bo", "cy")
	}
	if r.before != nil {
		r.before(s)
	}
	if r.watched {
		s.as("cy").say("R", "begin")
		s.as("bo").until("R cy: begin")
		if s.inR["ana"] {
			ana.until("R cy: begin")
		}
	}
	if r.from != nil {
		s.as("ed").say("F", "begin")
		s.as("di").until("F ed: begin")
		if s.inF["ana"] {
			ana.until("F ed: begin")
		}
	}
	ana.settled()

	ana.send(r.method, r.params)
	var got []string
	var connected protocol.RoomStateChanged
	events, answer := ana.response()
	for _, e := range events {
		got = append(got, brief(e))
		if strings.HasSuffix(brief(e), "connected success") && strings.Contains(e, `"epoch"`) {
			connected = params[protocol.RoomStateChanged](s, e)
		}
	}
	text, _ := json.Marshal(answer)
	got = append(got, brief(string(text)))
	if d := cmp.Diff(r.caller, got); d != "" {
		s.Errorf("ana (-want +got):\n%s", d)
	}
	if connected.RoomID != "" {
		var room protocol.Room
		if err := json.Unmarshal(answer.Result, &room); err != nil {
			s.Fatal(err)
		}
		if room.Epoch == 0 || room.Epoch != connected.Epoch || room.Seq != connected.Seq {
			s.Errorf("got position %+v in the answer and %+v in (connected, success), want the same", room.Position, connected)
		}
	}

	if r.watched {
		s.as("cy").say("R", "end")
		if d := cmp.Diff(append(slices.Clone(r.others), "R cy: end"), s.as("bo").until("R cy: end")); d != "" {
			s.Errorf("bo (-want +got):\n%s", d)
		}
		if r.in {
			if got := ana.until("R cy: end"); len(got) != 1 {
				s.Errorf("ana got %q afterwards, want cy's word only", got)
			}
		}
	}
	if r.from != nil {
		s.as("ed").say("F", "end")
		if d := cmp.Diff(append(slices.Clone(r.from), "F ed: end"), s.as("di").until("F ed: end")); d != "" {
			s.Errorf("di (-want +got):\n%s", d)
		}
		if r.still == "F" {
			ana.until("F ed: end")
		}
	}
	if r.still != "" {
		ana.say(r.still, "still here")
	}
	if r.closed != 0 {
		ana.wantClosed(r.closed)
		delete(s.cast, "ana")
	} else {
		ana.settled()
	}
	if r.after != nil {
		r.after(s)
	}
	s.leave()
}

// params decodes the parameters of a notification.
func params[T any](t testing.TB, frame string) T {
	t.Helper()
	var m struct {
		Params T `json:"params"`
	}
	if err := json.Unmarshal([]byte(frame), &m); err != nil {
		t.Fatalf("%s: %v", frame, err)
	}
	return m.Params
}
