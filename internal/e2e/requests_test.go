//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/roomgate/roomgate/protocol"
)

// Messages of all four types reach the others as the sender's answer has them;
// text and custom are numbered and have a seq, commands and barrages come after
// one.
func TestSendRoomMessage_types(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	ana.enter("R")
	start := bo.enter("R").Seq

	seq, messageSeq, orderKey := start, int64(0), int64(0)
	for _, tt := range []struct {
		params string
		want   protocol.Message
		kept   bool
	}{
		{`{"type":1,"message":"héllo <b>&","extendedData":"x"}`,
			protocol.Message{Type: protocol.MessageText, Message: "héllo <b>&", ExtendedData: "x", Priority: protocol.PriorityLow}, true},
		{`{"type":2,"message":"AAECAw=="}`,
			protocol.Message{Type: protocol.MessageCommand, Message: "AAECAw==", Priority: protocol.PriorityHigh}, false},
		{`{"type":20,"message":"🎉"}`,
			protocol.Message{Type: protocol.MessageBarrage, Message: "🎉", Priority: protocol.PriorityMedium}, false},
		{`{"type":200,"message":"{\"a\":1}","subType":7}`,
			protocol.Message{Type: protocol.MessageCustom, Message: `{"a":1}`, SubType: 7, Priority: protocol.PriorityLow}, true},
	} {
		var sent protocol.SendResult
		ana.until("R +bo 2")
		ana.settled()
		ana.ask(protocol.MethodSendRoomMessage,
			fmt.Sprintf(`{"roomID":"R","message":%s,"config":{"priority":%d}}`, tt.params, tt.want.Priority), &sent)
		got := params[protocol.MessageReceived](t, bo.take())
		if len(got.MessageList) != 1 {
			t.Fatalf("type %d: got %d messages, want 1", tt.want.Type, len(got.MessageList))
		}
		m := got.MessageList[0]
		if d := cmp.Diff(sent.Message, m); d != "" {
			t.Errorf("type %d: the receiver's and the sender's differ (-sender +receiver):\n%s", tt.want.Type, d)
		}
		tt.want.SenderUserID, tt.want.ConversationID, tt.want.ConversationType = "ana", "R", 1
		set := cmpopts.IgnoreFields(protocol.Message{}, "MessageID", "MessageSeq", "OrderKey", "Timestamp")
		if d := cmp.Diff(tt.want, m, set); d != "" {
			t.Errorf("type %d (-want +got):\n%s", tt.want.Type, d)
		}
		if m.MessageID == "" || m.Timestamp == 0 || m.OrderKey <= orderKey || m.OrderKey >= 1<<53 {
			t.Errorf("type %d: got ID %q, timestamp %d, order key %d after %d", tt.want.Type, m.MessageID, m.Timestamp, m.OrderKey, orderKey)
		}
		orderKey = m.OrderKey
		if tt.kept {
			seq++
			messageSeq++
		}
		if m.MessageSeq != messageSeq {
			t.Errorf("type %d: got messageSeq %d, want %d", tt.want.Type, m.MessageSeq, messageSeq)
		}
		if kept := got.Seq == seq && got.After == nil; tt.kept && !kept {
			t.Errorf("type %d: got seq %d, after %v, want seq %d", tt.want.Type, got.Seq, got.After, seq)
		}
		if passing := got.Seq == 0 && got.After != nil && *got.After == seq; !tt.kept && !passing {
			t.Errorf("type %d: got seq %d, after %v, want after %d and no seq", tt.want.Type, got.Seq, got.After, seq)
		}
		if got.FromConversationID != "R" || got.Info.IsOfflineMessage {
			t.Errorf("type %d: got conversation %q, offline %v", tt.want.Type, got.FromConversationID, got.Info.IsOfflineMessage)
		}
		// bo leaves and comes back, so that the next message has another seq.
		bo.ask(protocol.MethodLeaveRoom, joinR, nil)
		ana.until("R -bo 1")
		seq = bo.enter("R").Seq
	}
}

// Queries show the room as it is at the position they name, wherever they are
// asked.
func TestQueries(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	const members = 7
	var users []string
	var cast []*wire
	var at protocol.Position
	for i := range members {
		g := a
		if i%2 == 1 {
			g = b
		}
		user := fmt.Sprintf("u%d", i)
		w := connect(t, g.URL())
		w.login(fmt.Sprintf(`{"userID":%q,"userName":"Name %d","userAvatarUrl":"http://a/%d","userExtendedData":"{}"}`, user, i, i))
		at = w.enter("R").Position
		users, cast = append(users, user), append(cast, w)
	}
	for _, w := range []*wire{cast[0], cast[1]} {
		w.until(fmt.Sprintf("R +u%d %d", members-1, members))
		var count protocol.CountResult
		w.ask(protocol.MethodQueryRoomOnlineMemberCount, joinR, &count)
		if d := cmp.Diff(protocol.CountResult{RoomID: "R", Count: members, Position: at}, count); d != "" {
			t.Errorf("count (-want +got):\n%s", d)
		}

		var got []protocol.UserInfo
		for flag, pages := "", 0; ; pages++ {
			var page protocol.MemberListResult
			w.ask(protocol.MethodQueryRoomMemberList, fmt.Sprintf(`{"roomID":"R","config":{"count":3,"nextFlag":%q}}`, flag), &page)
			for _, raw := range page.MemberList {
				var u protocol.UserInfo
				if err := json.Unmarshal(raw, &u); err != nil {
					t.Fatal(err)
				}
				got = append(got, u)
			}
			if page.Position != at {
				t.Errorf("page %d: got position %+v, want %+v", pages, page.Position, at)
			}
			if flag = page.NextFlag; flag == "" {
				break
			}
			if pages == members {
				t.Fatal("the pages do not end")
			}
		}
		var ids []string
		for _, u := range got {
			ids = append(ids, u.UserID)
		}
		if !slices.Equal(ids, users) {
			t.Errorf("got members %v, want %v", ids, users)
		}
		if want := (protocol.UserInfo{UserID: "u3", UserName: "Name 3", UserAvatarURL: "http://a/3", UserExtendedData: "{}"}); got[3] != want {
			t.Errorf("got %+v, want %+v", got[3], want)
		}

		var some protocol.MembersResult
		w.ask(protocol.MethodQueryRoomMembers, `{"roomID":"R","userIDs":["u4","nobody","u1"]}`, &some)
		if len(some.MemberList) != 2 || some.Position != at {
			t.Errorf("got %s at %+v, want u4 and u1 at %+v", some.MemberList, some.Position, at)
		}
		if want := []protocol.UserError{{UserID: "nobody", Reason: protocol.CodeNotInRoom}}; !slices.Equal(some.ErrorUserList, want) {
			t.Errorf("got errors %+v, want %+v", some.ErrorUserList, want)
		}
	}
}

// A repeat under an old requestKey returns the first outcome, says the last
// state again and changes nothing: over the same connection, and over another
// that the session went on with on another gateway.
func TestRequestKey_repeat(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	for _, elsewhere := range []bool{false, true} {
		name := "on the same gateway"
		if elsewhere {
			name = "on another gateway"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := startPair(t, server.Addr(), "--redis-prefix="+fmt.Sprint("p", elsewhere))
			bo := enroll(b, t, "bo")
			bo.enter("R")
			ana := connect(t, a.URL())
			session := ana.login(`{"userID":"ana"}`).SessionID
			moved := 0
			// repeat sends a request once more and compares the answers.
			repeat := func(method, params string, want ...string) {
				t.Helper()
				ana.send(method, params)
				_, first := ana.response()
				if first.Error != nil {
					t.Fatalf("%s: %v", method, first.Error)
				}
				if elsewhere {
					g := []*gateway{b, a}[moved%2]
					moved++
					ana.drop()
					ana = connect(t, g.URL())
					r := ana.login(fmt.Sprintf(`{"userID":"ana","resume":{"sessionID":%q}}`, session))
					if !r.Resumed || r.SessionID != session {
						t.Fatalf("got %+v, want session %q resumed", r, session)
					}
				}
				id := ana.send(method, params)
				var got []string
				var second protocol.Response
				for second.ID == nil {
					var events []string
					events, second = ana.response()
					for _, e := range events {
						got = append(got, brief(e))
					}
				}
				if string(second.ID) != fmt.Sprint(id) || second.Error != nil || string(first.Result) != string(second.Result) {
					t.Errorf("%s: got %s %v, want %s again", method, second.Result, second.Error, first.Result)
				}
				if !slices.Equal(got[max(0, len(got)-len(want)):], want) {
					t.Errorf("%s: got events %q, want %q last", method, got, want)
				}
			}
			repeat("enterRoom", `{"roomInfo":{"roomID":"R","roomName":""},"requestKey":1}`, "R connected success")
			repeat("sendRoomMessage", `{"roomID":"R","message":{"type":1,"message":"once"},"requestKey":2}`)
			repeat("leaveRoom", `{"roomID":"R","requestKey":3}`, "R disconnected success")
			repeat("createRoom", `{"roomInfo":{"roomID":"S","roomName":""},"requestKey":4}`, "S connected success")
			repeat("joinRoom", `{"roomID":"R","requestKey":5}`, "R connected success")
			repeat("leaveAllRoom", `{"requestKey":6}`)
			bo.hears("R +ana 2", "R ana: once", "R -ana 1", "R +ana 2", "R -ana 1")
		})
	}
}

// After the repeat of an entry come the events behind the position it returns,
// once more.
func TestRequestKey_repeatOfAnEntryIsFollowed(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	ana := connect(t, a.URL())
	session := ana.login(`{"userID":"ana"}`).SessionID
	bo := enroll(b, t, "bo")
	bo.enter("R")
	const entry = `{"roomID":"R","requestKey":7}`
	ana.send("joinRoom", entry)
	ana.until("ok")
	bo.say("R", "one")
	ana.until("R bo: one")
	ana.send("joinRoom", entry)
	if d := cmp.Diff([]string{"R connected success", "ok", "R bo: one"}, ana.until("R bo: one")); d != "" {
		t.Errorf("on the same gateway (-want +got):\n%s", d)
	}
	ana.drop()
	bo.say("R", "two")

	ana = connect(t, b.URL())
	// The client lost the answer, so it names no room.
	ana.login(fmt.Sprintf(`{"userID":"ana","resume":{"sessionID":%q}}`, session))
	ana.send("joinRoom", entry)
	if d := cmp.Diff([]string{"R connected success", "R connected success", "ok", "R bo: one", "R bo: two"}, ana.until("R bo: two")); d != "" {
		t.Errorf("on another gateway (-want +got):\n%s", d)
	}
	bo.say("R", "three")
	ana.hears("R bo: three")
}

// The repeat of an entry whose membership has ended, in whatever way, returns its
// first outcome and leaves the membership alone that the session has now: it
// says where that stands, and repeats none of its events. So does the repeat of
// the departure in between, which says nothing.
func TestRequestKey_laterMembership(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	for _, elsewhere := range []bool{false, true} {
		name := "on the same gateway"
		if elsewhere {
			name = "on another gateway"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What happens in two partitions of a Cluster is heard of in no certain order.
			a, b := startPair(t, server.Addr(), "--partitions=1", fmt.Sprintf("--redis-prefix=later%t", elsewhere))
			ana, bo := connect(t, a.URL()), enroll(b, t, "bo")
			session := ana.login(`{"userID":"ana"}`).SessionID
			bo.ask(protocol.MethodCreateRoom, `{"roomInfo":{"roomID":"R"},"config":{"roomDestroyDelayTime":60}}`, nil)
			bo.enter("F")
			ana.enter("F")
			results := map[string]string{}
			// once makes a request and says where it left the client.
			once := func(method, params string) (at protocol.Position) {
				t.Helper()
				ana.send(method, params)
				_, r := ana.response()
				if r.Error != nil {
					t.Fatalf("%s %s: %v", method, params, r.Error)
				}
				results[params] = string(r.Result)
				json.Unmarshal(r.Result, &at)
				return at
			}
			repeats := func(method, params string, at protocol.Position, want ...string) {
				t.Helper()
				ana.send(method, params)
				events, r := ana.response()
				var got []string
				for _, e := range events {
					if got = append(got, brief(e)); strings.HasSuffix(brief(e), " connected success") {
						if p := stateOf(t, e); p.Epoch != at.Epoch || p.Seq != at.Seq {
							t.Errorf("%s: connected at %d/%d, want %+v", params, p.Epoch, p.Seq, at)
						}
					}
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%s (-want +got):\n%s", params, d)
				}
				if string(r.Result) != results[params] {
					t.Errorf("%s: got %s %v, want %s again", params, r.Result, r.Error, results[params])
				}
			}
			const (
				first  = `{"roomID":"R","requestKey":1}`
				leave  = `{"roomID":"R","requestKey":2}`
				change = `{"fromRoomID":"F","toRoomInfo":{"roomID":"R"},"requestKey":3}`
				again  = `{"roomID":"R","requestKey":5}`
				third  = `{"roomID":"R","requestKey":6}`
			)
			once(protocol.MethodJoinRoom, first)
			once(protocol.MethodLeaveRoom, leave)
			once(protocol.MethodSwitchRoom, change)
			once(protocol.MethodLeaveRoom, `{"roomID":"R","requestKey":4}`)
			at := once(protocol.MethodJoinRoom, again)
			bo.until("R +ana 2")
			bo.until("R +ana 2")
			bo.hears("F -ana 1", "R -ana 1", "R +ana 2")
			in := func() {
				t.Helper()
				bo.say("R", "one")
				ana.until("R bo: one")
				at.Seq++
				if elsewhere {
					ana.drop()
					ana, _ = resume(t, b, "ana", session, knows("R", at))
					ana.hears("R connected success")
				}
				repeats(protocol.MethodJoinRoom, first, at, "R connected success")
				repeats(protocol.MethodSwitchRoom, change, at, "R connected success", "F disconnected success")
				repeats(protocol.MethodLeaveRoom, leave, at)
				bo.say("R", "two")
				at.Seq++
				ana.hears("R bo: two")
			}
			in()
			destroy(t, b, "R")
			ana.hears("R disconnected roomNotExist")
			bo.hears("R disconnected roomNotExist")
			bo.enter("R")
			at = once(protocol.MethodJoinRoom, third)
			bo.hears("R +ana 2")
			in()
			repeats(protocol.MethodJoinRoom, again, at, "R connected success")
			bo.settled()
		})
	}
}

// The keys of a session end with it: who comes back too late begins anew.
func TestRequestKey_evicted(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr())
	bo := enroll(b, t, "bo")
	bo.enter("R")
	ana := connect(t, a.URL())
	session := ana.login(`{"userID":"ana"}`).SessionID
	const entry = `{"roomID":"R","requestKey":1}`
	ana.ask(protocol.MethodJoinRoom, entry, nil)
	book := follow(t, rdb, "R")
	ana.drop()
	book.eviction("ana")
	ana, resumed := resume(t, b, "ana", session, "")
	if resumed {
		t.Error("the session went on")
	}
	ana.send(protocol.MethodJoinRoom, entry)
	ana.hears("R connecting activeEnter", "R connected success", "ok")
	bo.hears("R +ana 2", "R -ana 1", "R +ana 2")
}

// The newest 64 outcomes of a session are kept. What is repeated under a key that
// is not kept any more is done once more.
func TestRequestKey_kept(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--rate-limits=false")
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	bo.enter("R")
	ana.ask(protocol.MethodJoinRoom, joinR, nil)
	bo.hears("R +ana 2")
	const all = 200
	send := func(key int) string {
		t.Helper()
		var r protocol.SendResult
		ana.ask(protocol.MethodSendRoomMessage, fmt.Sprintf(`{"roomID":"R","message":{"type":1,"message":"%d"},"requestKey":%d}`, key, key), &r)
		return r.Message.MessageID
	}
	ids := map[int]string{}
	for key := 1; key <= all; key++ {
		ids[key] = send(key)
		if got, want := brief(bo.take()), fmt.Sprintf("R ana: %d", key); got != want {
			t.Fatalf("bo got %q, want %q", got, want)
		}
	}
	for key := all - protocol.RequestKeysKept + 1; key <= all; key++ {
		if id := send(key); id != ids[key] {
			t.Errorf("under key %d again got message %s, want %s", key, id, ids[key])
		}
	}
	bo.settled()
	if id := send(1); id == ids[1] {
		t.Errorf("under key 1, %d keys ago, got message %s again", all, id)
	}
	bo.hears("R ana: 1")
}

// A key that was another request's is refused, and nothing happens. One whose
// request was refused is free: that is decided anew.
func TestRequestKey_reuse(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--partitions=1") // on a Cluster no partition knows of another's keys
	bo := enroll(b, t, "bo")
	bo.enter("R")
	bo.enter("S")
	requests := map[string]string{
		"createRoom": `{"roomInfo":{"roomID":"$"},"requestKey":1}`, "enterRoom": `{"roomInfo":{"roomID":"$"},"requestKey":1}`,
		"joinRoom": `{"roomID":"$","requestKey":1}`, "leaveRoom": `{"roomID":"$","requestKey":1}`,
		"switchRoom":      `{"fromRoomID":"R","toRoomInfo":{"roomID":"$"},"requestKey":1}`,
		"sendRoomMessage": `{"roomID":"$","message":{"type":1,"message":"hi"},"requestKey":1}`,
	}
	for used := range requests {
		ana := enroll(a, t, "ana")
		ana.enter("R")
		room := map[string]string{"createRoom": "T", "enterRoom": "S", "joinRoom": "S", "switchRoom": "S"}[used]
		if room == "" {
			room = "R"
		}
		ana.ask(used, strings.ReplaceAll(requests[used], "$", room), nil)
		ana.settle()
		bo.settle("R", "S")
		for method, params := range requests {
			for _, about := range []string{"R", "S", "T"} {
				if method == used && about == room || method == "switchRoom" && about == "R" {
					continue
				}
				ana.send(method, strings.ReplaceAll(params, "$", about))
				if _, r := ana.response(); r.Error == nil || r.Error.Code != protocol.CodeBadParameter {
					t.Errorf("%s %s under the key of %s %s: got %s %v, want 6000001", method, about, used, room, r.Result, r.Error)
				}
			}
		}
		bo.settled()
		ana.send(protocol.MethodLogout, "{}")
		ana.closed()
		bo.settle("R", "S")
	}

	ana := enroll(a, t, "ana")
	ana.enter("R")
	bo.until("R +ana 2")
	ana.send(protocol.MethodJoinRoom, `{"roomID":"U","requestKey":2}`)
	ana.hears("U connecting activeEnter", "U disconnected roomNotExist", "error 6000322")
	ana.send(protocol.MethodSwitchRoom, `{"fromRoomID":"R","toRoomInfo":{"roomID":"U"},"requestKey":3}`)
	ana.hears("U connecting activeSwitch", "U disconnected switchFailed", "error 6000322")
	ana.send(protocol.MethodLeaveRoom, `{"roomID":"U","requestKey":4}`)
	ana.hears("error 6000306")
	ana.send(protocol.MethodSendRoomMessage, `{"roomID":"U","message":{"type":1,"message":"hi"},"requestKey":5}`)
	ana.hears("error 6000204")
	bo.enter("U")
	ana.send(protocol.MethodSwitchRoom, `{"fromRoomID":"R","toRoomInfo":{"roomID":"U"},"requestKey":3}`)
	ana.hears("U connecting activeSwitch", "U connected success", "R disconnected success", "ok")
	ana.send(protocol.MethodSendRoomMessage, `{"roomID":"U","message":{"type":1,"message":"hi"},"requestKey":5}`)
	ana.hears("ok")
	ana.send(protocol.MethodLeaveRoom, `{"roomID":"U","requestKey":4}`)
	ana.hears("U disconnected success", "ok")
	ana.send(protocol.MethodJoinRoom, `{"roomID":"U","requestKey":6}`)
	ana.hears("U connecting activeEnter", "U connected success", "ok")
	bo.send(protocol.MethodQueryRoomOnlineMemberCount, `{"roomID":"U"}`)
	var got []string
	for _, h := range bo.until("ok") {
		if strings.HasPrefix(h, "U ") {
			got = append(got, h)
		}
	}
	if d := cmp.Diff([]string{"U +ana 2", "U ana: hi", "U -ana 1", "U +ana 2"}, got); d != "" {
		t.Errorf("bo (-want +got):\n%s", d)
	}
}

// Whose link is lost while a request is under way, and who repeats it over the
// next, on another gateway, has its outcome; the others see one event.
func TestRequestKey_linkLost(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), held...)
	bo := enroll(b, t, "bo")
	kinds := append(slices.Clone(overlaps), overlap{name: "send", in: "$R", method: protocol.MethodSendRoomMessage,
		params: `{"roomID":"$R","message":{"type":1,"message":"hi"},"requestKey":%d}`, then: []string{"ok"}, others: []string{"$R $U: hi"}})
	all := contests(t, a, bo, append(slices.Clone(kinds), kinds...))
	server.Pause()
	for i, s := range all {
		s.request(s.overlap, 1)
		s.follows("begun", s.begun)
		if s.settled(); i < len(kinds) {
			s.drop()
		}
	}
	server.Resume()
	var others []string
	for i, s := range all {
		if i >= len(kinds) {
			s.drop() // perhaps before the answer, perhaps behind it
		}
		others = append(others, s.wanted(s.others)...)
		now, resumed := resume(t, b, s.wire.name, s.session, "")
		if !resumed {
			t.Fatalf("%s: the session did not go on", s.name)
		}
		s.wire = now
		now.settle()
		id := s.request(s.overlap, 1)
		events, r := s.response()
		if r.Error != nil || string(r.ID) != fmt.Sprint(id) {
			t.Errorf("%s: got %s %v", s.name, r.Result, r.Error)
		}
		last := ""
		for _, e := range events {
			last = brief(e)
		}
		if want := s.wanted(s.then); len(want) > 1 && last != want[len(want)-2] {
			t.Errorf("%s: got %q last, want %q", s.name, last, want[len(want)-2])
		}
	}
	heardByRoom(bo, "of them", others)
}

func stateOf(t testing.TB, frame string) protocol.RoomStateChanged {
	t.Helper()
	return params[protocol.RoomStateChanged](t, frame)
}

func knows(room string, p protocol.Position) string { return at(room, p) }

// settle passes over what has come, and over what is still on its way in rooms
// that the client is in.
func (w *wire) settle(rooms ...string) {
	w.t.Helper()
	for _, room := range rooms {
		w.send(protocol.MethodQueryRoomOnlineMemberCount, fmt.Sprintf(`{"roomID":%q}`, room))
		w.until("ok")
	}
	w.send(protocol.MethodPing, "{}")
	w.until("ok")
}

// Who hears an answer may send the next request at once: that is refused neither
// because the one answered is still under way, nor because too many are.
func TestRequests_backToBack(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), "--rate-limits=false")

	t.Run("about one room", func(t *testing.T) {
		t.Parallel()
		ana := enroll(g, t, "ana")
		for range 150 {
			ana.send(protocol.MethodEnterRoom, enterR)
			ana.until("ok")
			ana.send(protocol.MethodLeaveRoom, joinR)
			if got := ana.until("ok"); len(got) != 2 {
				t.Fatalf("got %q, want to be out and the answer", got)
			}
		}
	})
	t.Run("in batches", func(t *testing.T) {
		t.Parallel()
		bo := enroll(g, t, "bo")
		for range 200 {
			bo.raw(`[{"jsonrpc":"2.0","id":1,"method":"enterRoom","params":{"roomInfo":{"roomID":"B"}}},
				{"jsonrpc":"2.0","id":2,"method":"leaveRoom","params":{"roomID":"B"}}]`)
			if got := bo.until("[ok ok]"); len(got) != 4 {
				t.Fatalf("got %q, want three states and the answers", got)
			}
		}
	})
	t.Run("as many as are allowed", func(t *testing.T) {
		t.Parallel()
		cy := enroll(g, t, "cy")
		cy.enter("C")
		const all = 2000
		for i := range all {
			if i >= protocol.MaxUnanswered {
				cy.result(nil)
			}
			cy.send(protocol.MethodSendRoomMessage, textMessage("C", fmt.Sprint(i)))
		}
		for range protocol.MaxUnanswered {
			cy.result(nil)
		}
	})
}

// leaveAllRoom leaves every room of the session, each with its state before the
// answer, and none of another session of the user.
func TestLeaveAllRoom(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	ana, other, bo := enroll(a, t, "ana"), enroll(b, t, "ana"), enroll(b, t, "bo")
	other.enter("of another device")
	rooms := []string{"A", "B", "C"}
	for _, room := range rooms {
		bo.enter(room)
		ana.enter(room)
		bo.until(room + " +ana 2")
	}
	ana.send(protocol.MethodLeaveAllRoom, "{}")
	events, r := ana.response()
	var got []string
	for _, e := range events {
		got = append(got, brief(e))
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{"A disconnected success", "B disconnected success", "C disconnected success"}, got); d != "" {
		t.Errorf("states (-want +got):\n%s", d)
	}
	var left protocol.LeaveAllResult
	if err := json.Unmarshal(r.Result, &left); err != nil {
		t.Fatal(err)
	}
	slices.Sort(left.RoomIDs)
	if !slices.Equal(left.RoomIDs, rooms) {
		t.Errorf("got roomIDs %q, want %q", left.RoomIDs, rooms)
	}
	got = nil
	for range rooms {
		got = append(got, brief(bo.take()))
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{"A -ana 1", "B -ana 1", "C -ana 1"}, got); d != "" {
		t.Errorf("bo (-want +got):\n%s", d)
	}
	other.say("of another device", "still here")

	ana.send(protocol.MethodLeaveAllRoom, "{}")
	if _, r := ana.response(); string(r.Result) != `{"roomIDs":[]}` {
		t.Errorf("with none: got %s, want an empty list", r.Result)
	}
}
