//go:build linux

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"github.com/roomgate/roomgate/protocol"
)

// What a connection is closed for, and what not, with the code that says
// whether to come back.
func TestWire_closes(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	g := startGateway(t, server.Addr())
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, w *wire)
		want protocol.CloseCode
	}{
		{"a binary frame", func(t *testing.T, w *wire) {
			if err := w.ws.WriteMessage(websocket.BinaryMessage, []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}, protocol.CloseNotThisProtocol},
		{"the tenth text that is not JSON", func(t *testing.T, w *wire) {
			for i := range 9 {
				w.raw([]string{"", "{", "[1,", "hello", "\xff"}[i%5])
				if got := w.take(); !strings.Contains(got, `"id":null`) || brief(got) != "error -32700" {
					t.Errorf("got %s, want error -32700 with the id null", got)
				}
			}
			w.settled() // the connection stays
			w.raw("nonsense")
		}, protocol.CloseNotThisProtocol},
		{"a message over the limit", func(t *testing.T, w *wire) {
			// One of exactly the limit is served.
			ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
			w.raw(ping + strings.Repeat(" ", protocol.MaxMessage-len(ping)))
			w.result(nil)
			w.raw(ping + strings.Repeat(" ", protocol.MaxMessage+1-len(ping)))
		}, protocol.CloseTooBig},
		{"no login", func(t *testing.T, w *wire) {
			for range 2 {
				during(t, rdb, 4*time.Second)
				w.settled() // that it says something does not help
			}
		}, protocol.CloseLoginTimeout},
		{"the third failed login", func(t *testing.T, w *wire) {
			for range 3 {
				w.send(protocol.MethodLogin, `{"userID":"a/b"}`)
				w.refused(protocol.CodeBadParameter)
			}
		}, protocol.CloseNotAuthorised},
		{"no sign of life", func(t *testing.T, w *wire) {
			w.login(`{"userID":"silent"}`)
			w.mute.Store(true) // not even a pong
		}, protocol.CloseNoSignOfLife},
		{"logout", func(t *testing.T, w *wire) {
			w.login(`{"userID":"ana"}`)
			w.send(protocol.MethodLogout, "{}")
		}, protocol.CloseNormal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := connect(t, g.URL())
			tt.do(t, w)
			w.wantClosed(tt.want)
		})
	}
}

// A pong is a sign of life: a client that only answers pings keeps its
// connection.
func TestWire_pongIsLife(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	g := startGateway(t, server.Addr())
	w := enroll(g, t, "ana")
	during(t, rdb, sessionTTL+2*heartbeat)
	w.settled()
}

// Before the login nothing but a login is served, and after it no second one;
// the connection stays.
func TestWire_login(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr())
	w := connect(t, g.URL())
	for method, params := range requests {
		w.send(method, params)
		w.refused(protocol.CodeNotLoggedIn)
	}
	r := w.login(`{"userID":"ana"}`)
	if r.SessionID == "" || r.UserID != "ana" || r.Resumed || r.Node == "" ||
		r.HeartbeatIntervalMS != heartbeat.Milliseconds() || r.SessionTTLMS != sessionTTL.Milliseconds() {
		t.Errorf("got %+v", r)
	}
	if d := time.Since(time.UnixMilli(r.ServerTime)); d < -time.Minute || d > time.Minute {
		t.Errorf("got serverTime %d, want now in milliseconds", r.ServerTime)
	}
	w.send(protocol.MethodLogin, `{"userID":"ana"}`)
	w.refused(protocol.CodeAlreadyLoggedIn)
	w.settled()
}

// requests is one well-formed request of each kind.
var requests = map[string]string{
	"logout": `{}`, "renewToken": `{"token":"x"}`, "createRoom": enterR, "joinRoom": joinR, "enterRoom": enterR,
	"switchRoom": mayMake, "leaveRoom": joinR, "leaveAllRoom": `{}`, "sendRoomMessage": textMessage("R", "hi"),
	"queryRoomMemberList":        `{"roomID":"R","config":{"count":10,"nextFlag":""}}`,
	"queryRoomMembers":           `{"roomID":"R","userIDs":["ana"]}`,
	"queryRoomOnlineMemberCount": joinR,
}

// A request that is none, a method that is none, and parameters that are
// missing or of another type are told apart.
func TestWire_malformed(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr())
	w := enroll(g, t, "ana")
	for _, tt := range []struct {
		text, want string
	}{
		{`{"jsonrpc":"2.0","id":1,"method":"fly","params":{}}`, "error -32601"},
		{`{"jsonrpc":"2.0","id":1,"method":"ENTERROOM","params":{}}`, "error -32601"},
		{`{"jsonrpc":"2.0","id":1,"method":"switchroom","params":{}}`, "error -32601"},
		{`{"jsonrpc":"1.0","id":1,"method":"ping"}`, "error -32600"},
		{`{"id":1,"method":"ping"}`, "error -32600"},
		{`{"jsonrpc":"2.0","id":1}`, "error -32600"},
		{`{"jsonrpc":"2.0","id":{},"method":"ping"}`, "error -32600"},
		{`{"jsonrpc":"2.0","id":1,"method":7}`, "error -32600"},
		{`17`, "error -32600"},
		{`null`, "error -32600"},
		{`{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":[]}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"joinRoom"}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":{}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":{"roomID":null}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":{"roomID":7}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":{"roomID":""}}`, "error 6000001"},
		{`{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":{"roomID":"R","requestKey":"1"}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":{"roomID":"R","requestKey":-1}}`, "error 6000001"},
		{`{"jsonrpc":"2.0","id":1,"method":"enterRoom","params":{}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"enterRoom","params":{"roomInfo":{"roomName":"x"}}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"enterRoom","params":{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":{"k":1}}}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"sendRoomMessage","params":{"roomID":"R"}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"sendRoomMessage","params":{"roomID":"R","message":{"type":1}}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"sendRoomMessage","params":{"roomID":"R","message":{"message":"x"}}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"sendRoomMessage","params":{"roomID":"R","message":{"type":"1","message":"x"}}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"queryRoomMemberList","params":{"roomID":"R"}}`, "error -32602"},
		{`{"jsonrpc":"2.0","id":1,"method":"queryRoomMembers","params":{"roomID":"R","userIDs":"ana"}}`, "error -32602"},
		// Unknown parameters are ignored, and an id may be text.
		{`{"jsonrpc":"2.0","id":"x","method":"ping","params":{"what":"ever"}}`, "ok"},
	} {
		w.raw(tt.text)
		if got := w.take(); brief(got) != tt.want {
			t.Errorf("%s: got %s, want %s", tt.text, got, tt.want)
		}
	}
	w.settled()
}

// What is over a limit by one is refused, with a sentence that names the value
// and the limit; what is at the limit is not.
func TestWire_limits(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), "--rate-limits=false", "--max-rooms-per-user=500")
	w := enroll(g, t, "ana")
	w.enter("R")
	rep := func(n int) string { return strings.Repeat("x", n) }
	enter := func(id, name, config string) string {
		return fmt.Sprintf(`{"roomInfo":{"roomID":%q,"roomName":%q},"config":%s}`, id, name, config)
	}
	attributes := func(n, key, value int) string {
		all := map[string]string{}
		for i := range n {
			k := fmt.Sprint(i)
			all[k+rep(key-len(k))] = rep(value)
		}
		b, _ := json.Marshal(map[string]any{"roomAttributes": all})
		return string(b)
	}
	send := func(message string) string { return fmt.Sprintf(`{"roomID":"R","message":%s}`, message) }
	b64 := func(n int) string { return base64.StdEncoding.EncodeToString([]byte(rep(n))) }
	users := func(n int) string {
		b, _ := json.Marshal(slices.Repeat([]string{"ana"}, n))
		return fmt.Sprintf(`{"roomID":"R","userIDs":%s}`, b)
	}
	page := func(n int) string { return fmt.Sprintf(`{"roomID":"R","config":{"count":%d,"nextFlag":""}}`, n) }
	for _, tt := range []struct {
		method, at, over string
		code             protocol.Code // 6000001 if 0
		names            []string
	}{
		{"enterRoom", enter(rep(128), "", "{}"), enter(rep(129), "", "{}"), 0, []string{"roomID", "129", "128"}},
		{"joinRoom", `{"roomID":"` + rep(128) + `"}`, `{"roomID":"` + rep(129) + `"}`, 0, []string{"roomID", "129", "128"}},
		{"enterRoom", enter("! #$%&()+-:;<=.>?@[]^_{}|~,", "", "{}"), enter("a/b", "", "{}"), 0, []string{"roomID", "/"}},
		{"enterRoom", enter("n", rep(64), "{}"), enter("n2", rep(65), "{}"), 0, []string{"roomName", "65", "64"}},
		{"createRoom", enter("d", "", `{"roomDestroyDelayTime":10800}`), enter("d2", "", `{"roomDestroyDelayTime":10801}`), 0, []string{"10801", "10800"}},
		{"createRoom", enter("d3", "", `{"roomDestroyDelayTime":0}`), enter("d4", "", `{"roomDestroyDelayTime":-1}`), 0, []string{"-1", "10800"}},
		{"createRoom", enter("d5", "", `{"roomDestroyDelayTime":1e1}`), enter("d6", "", `{"roomDestroyDelayTime":1.5}`), 0, []string{"1.5", "10800"}},
		{"createRoom", enter("a", "", attributes(20, 2, 10)), enter("a2", "", attributes(21, 2, 10)), protocol.CodeAttributeCount, []string{"21", "20"}},
		{"createRoom", enter("k", "", attributes(1, 16, 1)), enter("k2", "", attributes(1, 17, 1)), protocol.CodeAttributeKey, []string{"17", "16"}},
		{"createRoom", enter("v", "", attributes(1, 1, 1024)), enter("v2", "", attributes(1, 1, 1025)), protocol.CodeAttributeValue, []string{"1025", "1024"}},
		{"createRoom", enter("t", "", attributes(5, 1, 1023)), enter("t2", "", attributes(6, 2, 852)), protocol.CodeAttributesSize, []string{"5124", "5120"}},
		{"sendRoomMessage", send(`{"type":1,"message":"` + rep(2048) + `"}`), send(`{"type":1,"message":"` + rep(2049) + `"}`), 0, []string{"2049", "2048"}},
		{"sendRoomMessage", send(`{"type":200,"message":"` + rep(2048) + `"}`), send(`{"type":200,"message":"` + rep(2049) + `"}`), 0, []string{"2049", "2048"}},
		{"sendRoomMessage", send(`{"type":2,"message":"` + b64(5120) + `"}`), send(`{"type":2,"message":"` + b64(5121) + `"}`), 0, []string{"5121", "5120"}},
		{"sendRoomMessage", send(`{"type":20,"message":"` + rep(5120) + `"}`), send(`{"type":20,"message":"` + rep(5121) + `"}`), 0, []string{"5121", "5120"}},
		{"sendRoomMessage", send(`{"type":2,"message":"aGk="}`), send(`{"type":2,"message":"hi!"}`), 0, []string{"base64"}},
		{"sendRoomMessage", send(`{"type":1,"message":"x"}`), send(`{"type":1,"message":""}`), 0, []string{"empty"}},
		{"sendRoomMessage", send(`{"type":1,"message":"x","extendedData":"` + rep(1024) + `"}`), send(`{"type":1,"message":"x","extendedData":"` + rep(1025) + `"}`), 0, []string{"extendedData", "1025", "1024"}},
		{"sendRoomMessage", send(`{"type":1,"message":"x","subType":200}`), send(`{"type":1,"message":"x","subType":201}`), 0, []string{"subType", "201", "200"}},
		{"sendRoomMessage", send(`{"type":200,"message":"x"}`), send(`{"type":3,"message":"x"}`), 0, []string{"type", "3"}},
		{"sendRoomMessage", `{"roomID":"R","message":{"type":1,"message":"x"},"config":{"priority":3}}`,
			`{"roomID":"R","message":{"type":1,"message":"x"},"config":{"priority":4}}`, 0, []string{"priority", "4", "3"}},
		{"queryRoomMemberList", page(100), page(101), 0, []string{"101", "100"}},
		{"queryRoomMemberList", page(1), page(0), 0, []string{"0", "100"}},
		{"queryRoomMembers", users(10), users(11), 0, []string{"11", "10"}},
		{"queryRoomMembers", users(1), users(0), 0, []string{"0", "10"}},
		{"leaveRoom", `{"roomID":"R","requestKey":9007199254740991}`, `{"roomID":"R","requestKey":9007199254740992}`, 0, []string{"9007199254740992"}},
	} {
		w.send(tt.method, tt.over)
		code := tt.code
		if code == 0 {
			code = protocol.CodeBadParameter
		}
		err := w.refused(code)
		for _, name := range tt.names {
			if !strings.Contains(err.Message, name) {
				t.Errorf("%s over the limit: got %q, want %q in it", tt.method, err.Message, name)
			}
		}
		w.send(tt.method, tt.at)
		if _, r := w.response(); r.Error != nil {
			t.Errorf("%s at the limit: got %d %s, want success (%.80s)", tt.method, r.Error.Code, r.Error.Message, tt.at)
		}
	}
	for _, tt := range []struct{ field, at, over string }{
		{"userID", `{"userID":"` + rep(32) + `"}`, `{"userID":"` + rep(33) + `"}`},
		{"userName", `{"userID":"u","userName":"` + rep(256) + `"}`, `{"userID":"u","userName":"` + rep(257) + `"}`},
		{"userAvatarUrl", `{"userID":"u","userAvatarUrl":"` + rep(1024) + `"}`, `{"userID":"u","userAvatarUrl":"` + rep(1025) + `"}`},
		{"userExtendedData", `{"userID":"u","userExtendedData":"` + rep(1024) + `"}`, `{"userID":"u","userExtendedData":"` + rep(1025) + `"}`},
		{"deviceID", `{"userID":"u","deviceID":"` + rep(128) + `"}`, `{"userID":"u","deviceID":"` + rep(129) + `"}`},
	} {
		w := connect(t, g.URL())
		w.send(protocol.MethodLogin, tt.over)
		if err := w.refused(protocol.CodeBadParameter); !strings.Contains(err.Message, tt.field) {
			t.Errorf("got %q, want %q in it", err.Message, tt.field)
		}
		w.login(tt.at)
	}
}

// A batch is applied in order and answered in one array, which comes before
// what its rooms sent meanwhile; a request without id is carried out and not
// answered.
func TestWire_batches(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr())
	bo, ana := enroll(g, t, "bo"), enroll(g, t, "ana")
	bo.enter("R")
	ana.raw(`[{"jsonrpc":"2.0","id":"a","method":"ping"},
		{"jsonrpc":"2.0","id":2,"method":"enterRoom","params":` + enterR + `},
		{"jsonrpc":"2.0","method":"sendRoomMessage","params":` + textMessage("R", "unanswered") + `},
		{"jsonrpc":"2.0","id":3,"method":"queryRoomOnlineMemberCount","params":` + joinR + `},
		{"jsonrpc":"2.0","id":4,"method":"fly"},
		17,
		{"jsonrpc":"2.0","id":5,"method":"leaveRoom","params":` + joinR + `},
		{"jsonrpc":"2.0","id":6,"method":"queryRoomOnlineMemberCount","params":` + joinR + `}]`)
	var frames []string
	for len(frames) == 0 || !strings.HasPrefix(frames[len(frames)-1], "[") {
		frames = append(frames, ana.take())
	}
	var got []string
	for _, f := range frames {
		got = append(got, brief(f))
	}
	want := []string{"R connecting activeEnter", "R connected success", "R disconnected success",
		"[ok ok ok error -32601 error -32600 ok error 6000321]"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("ana (-want +got):\n%s", d)
	}
	var answers []protocol.Response
	if err := json.Unmarshal([]byte(frames[len(frames)-1]), &answers); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, a := range answers {
		ids = append(ids, string(a.ID))
	}
	if want := []string{`"a"`, "2", "3", "4", "null", "5", "6"}; !slices.Equal(ids, want) {
		t.Errorf("got ids %q, want %q", ids, want)
	}
	bo.hears("R +ana 2", "R ana: unanswered", "R -ana 1")

	// Nothing to answer, nothing answered.
	ana.raw(`[{"jsonrpc":"2.0","method":"ping"}]`)
	ana.raw(`{"jsonrpc":"2.0","method":"ping"}`)
	ana.settled()
	for _, text := range []string{"[]", "[" + strings.Repeat("1,", protocol.MaxBatch) + "1]"} {
		ana.raw(text)
		if got := ana.take(); brief(got) != "error -32600" || !strings.Contains(got, `"id":null`) {
			t.Errorf("%.10s…: got %s, want error -32600 with the id null", text, got)
		}
	}
	ana.raw("[" + strings.Repeat(`{"jsonrpc":"2.0","id":1,"method":"ping"},`, protocol.MaxBatch-1) + `{"jsonrpc":"2.0","id":1,"method":"ping"}]`)
	if got := brief(ana.take()); got != "["+strings.Repeat("ok ", protocol.MaxBatch-1)+"ok]" {
		t.Errorf("a batch of the largest size: got %s", got)
	}
}

// The subprotocol is echoed to those who offer it, those who offer none are
// served, and those who offer others only are not.
func TestWire_subprotocol(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr())
	for _, tt := range []struct{ offered, want string }{
		{"", ""},
		{"roomgate.v1", "roomgate.v1"},
		{"chat, roomgate.v1", "roomgate.v1"},
	} {
		header := http.Header{}
		if tt.offered != "" {
			header.Set("Sec-WebSocket-Protocol", tt.offered)
		}
		w, _, err := tryConnect(t, g.URL(), header)
		if err != nil {
			t.Errorf("offered %q: %v", tt.offered, err)
			continue
		}
		if got := w.ws.Subprotocol(); got != tt.want {
			t.Errorf("offered %q: got %q, want %q", tt.offered, got, tt.want)
		}
		w.login(`{"userID":"ana"}`)
	}
	_, res, err := tryConnect(t, g.URL(), http.Header{"Sec-Websocket-Protocol": {"chat, roomgate.v2"}})
	if err == nil || res == nil || res.StatusCode != http.StatusBadRequest {
		t.Errorf("others only: got %v, want 400", res)
	}
}

// Pages of other origins may connect only if they are allowed to.
func TestWire_origin(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	dev := startGateway(t, server.Addr())
	closed := startGateway(t, server.Addr(), "--no-dev", "--jwt-hs256-secret-file="+secretFile(t), "--allowed-origins=app.example.com,*.example.org")
	for _, tt := range []struct {
		g      *gateway
		origin string
		want   bool
	}{
		{closed, "", true},
		{closed, "http://" + closed.Addr, true},
		{closed, "https://app.example.com", true},
		{closed, "https://a.example.org", true},
		{closed, "https://example.com", false},
		{closed, "https://app.example.com.evil.net", false},
		{closed, "null", false},
		{dev, "https://anything.net", true},
	} {
		header := http.Header{}
		if tt.origin != "" {
			header.Set("Origin", tt.origin)
		}
		_, res, err := tryConnect(t, tt.g.URL(), header)
		if ok := err == nil; ok != tt.want {
			t.Errorf("origin %q: got %v, want connected %v", tt.origin, err, tt.want)
		} else if !ok && res.StatusCode != http.StatusForbidden {
			t.Errorf("origin %q: got %d, want 403", tt.origin, res.StatusCode)
		}
	}
}
