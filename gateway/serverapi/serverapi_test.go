package serverapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/gateway/serverapi"
	"github.com/roomgate/roomgate/internal/apitest"
	"github.com/roomgate/roomgate/protocol"
)

const (
	oldKey = "old-key-0123456789"
	newKey = "new-key-0123456789"
)

var (
	errNoRoom      = errors.New("no such room")
	errUnavailable = errors.New("redis: dial tcp 10.0.0.1:6379: i/o timeout")
	errBug         = errors.New("unexpected reply [7]")
)

func classify(err error) (int, int, string) {
	switch {
	case errors.Is(err, errNoRoom):
		return http.StatusNotFound, 6000306, "room does not exist"
	case errors.Is(err, errUnavailable):
		return http.StatusServiceUnavailable, 6000007, "Redis did not answer; try again"
	default:
		return http.StatusInternalServerError, -32603, "internal error"
	}
}

// fakeRooms keeps what it was asked to do. What it answers with is made up.
type fakeRooms struct {
	mu    sync.Mutex
	calls []string
	err   error
	watch serverapi.Watch
}

func (f *fakeRooms) called(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.err
}

var (
	emptyRoom = serverapi.Room{
		RoomID: "a b", RoomName: "Room", RoomDestroyDelayTime: 5, CreatedAt: 1_700_000_000_000, Deadline: 1_700_000_005_000,
		Position: protocol.Position{Epoch: 1_700_000_000_000_000, Seq: 3},
	}
	busyRoom = serverapi.Room{
		RoomID: "busy", MemberCount: 2, CreatedAt: 1_700_000_000_000, Position: protocol.Position{Epoch: 1_700_000_000_000_001, Seq: 9},
	}
	now = int64(1_700_000_001_000)
)

func (f *fakeRooms) List(_ context.Context, search, nextFlag string, count int) (serverapi.RoomPage, error) {
	return serverapi.RoomPage{RoomList: []serverapi.Room{emptyRoom, busyRoom}, NextFlag: "busy", RoomCount: 7, ServerTime: now},
		f.called("list %q %q %d", search, nextFlag, count)
}

func (f *fakeRooms) Room(_ context.Context, room string) (serverapi.RoomDetail, error) {
	return serverapi.RoomDetail{Room: emptyRoom, RoomAttributes: map[string]string{"k": "v"}, ServerTime: now}, f.called("room %s", room)
}

func (f *fakeRooms) Members(_ context.Context, room, nextFlag string, count int) (serverapi.MemberPage, error) {
	return serverapi.MemberPage{
		RoomID: room, NextFlag: "1:2", MemberCount: 7, Position: busyRoom.Position, ServerTime: now, MemberList: []serverapi.Member{
			{UserInfo: protocol.UserInfo{UserID: "ana", UserName: "Ana"}, JoinedAt: now, State: serverapi.MemberConnected, Node: "n"},
			{UserInfo: protocol.UserInfo{UserID: "ben"}, State: serverapi.MemberAway, Deadline: now},
		},
	}, f.called("members %s %q %d", room, nextFlag, count)
}

func (f *fakeRooms) Create(_ context.Context, n serverapi.NewRoom) (serverapi.RoomDetail, error) {
	return serverapi.RoomDetail{Room: emptyRoom, RoomAttributes: map[string]string{}, ServerTime: now}, f.called("create %+v", n)
}

func (f *fakeRooms) Send(_ context.Context, room string, m serverapi.NewMessage) (serverapi.SentMessage, error) {
	sent := serverapi.SentMessage{RoomID: room, MessageID: "1", MessageSeq: 2, OrderKey: 3, Timestamp: now, Epoch: busyRoom.Epoch, Seq: 4}
	if !m.Message.Type.Kept() {
		sent.Seq, sent.After = 0, new(int64)
	}
	return sent, f.called("send %s %+v", room, m)
}

func (f *fakeRooms) Watch(_ context.Context, room string, from int64) (serverapi.Watch, error) {
	return f.watch, f.called("watch %s %d", room, from)
}

func (f *fakeRooms) Cluster(context.Context) (serverapi.Cluster, error) {
	return serverapi.Cluster{RoomCount: 7, ServerTime: now, Gateways: []serverapi.Gateway{
		{Node: "n1", LeaseLeftMS: 9000, GatewayState: &serverapi.GatewayState{Name: "gw", Version: "1", Since: now, MessagesPerSecond: 1.5}},
		{Node: "n2"},
	}}, f.called("cluster")
}

func (f *fakeRooms) Destroy(_ context.Context, room string) error {
	return f.called("destroy %s", room)
}

func (f *fakeRooms) Kick(_ context.Context, room, user, extendedData string) error {
	return f.called("kick %s %s %s", room, user, extendedData)
}

func newAPI(rooms serverapi.Rooms) *serverapi.API {
	return serverapi.New(rooms, serverapi.Config{Keys: []string{oldKey, newKey}, Errors: classify})
}

// do sends a request with a good key and returns the status and the JSON body.
func do(t testing.TB, h http.Handler, method, target, body string) (int, map[string]any) {
	t.Helper()
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+newKey)
	return send(t, h, req)
}

func send(t testing.TB, h http.Handler, req *http.Request) (int, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("%s %s: got Content-Type %q, want application/json", req.Method, req.URL, got)
	}
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%s %s: got body %q: %v", req.Method, req.URL, w.Body, err)
	}
	apitest.Answer(t, req.Method, req.URL.EscapedPath(), w.Code, w.Header(), w.Body.Bytes())
	return w.Code, v
}

func refusal(t *testing.T, body map[string]any) (code int, message string) {
	t.Helper()
	e, ok := body["error"].(map[string]any)
	if !ok {
		t.Fatalf("got %v, want an error", body)
	}
	return int(e["code"].(float64)), e["message"].(string)
}

// A room of any name that a room may have can be destroyed and kicked from,
// wherever the API is mounted.
func TestAPI_roomIDs(t *testing.T) {
	t.Parallel()
	all := "AZaz09!#$%&()+-:;<=.>?@[]^_{}|~, "
	rooms := []string{
		"lobby", "a b", "100%", "%41", "%2541", "a%2Fb", "%", "a?b=c", "a#b", "a+b", "a;b", "a&b=c", "a,b", "a:b",
		"{p}", "{roomID}", "*", ".", "..", "...", "kick", "[1]", "<b>", "a|b^c", "@me", "~", " ", "$1", all, strings.Repeat("x", 128),
	}
	// "kick" and "*" are not special, and neither is a room whose name is
	// longer than any: whether an ID is allowed is for Rooms to say.
	mounts := map[string]func(http.Handler) http.Handler{
		"bare": func(h http.Handler) http.Handler { return h },
		"chi Mount": func(h http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Mount("/", h)
			return r
		},
		"chi Handle": func(h http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Handle("/v1/rooms/*", h)
			return r
		},
		"chi Route": func(h http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Route("/v1", func(r chi.Router) { r.Mount("/rooms", h) })
			return r
		},
	}
	for name, mount := range mounts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeRooms{}
			srv := httptest.NewServer(mount(newAPI(f)))
			t.Cleanup(srv.Close)
			for _, room := range rooms {
				// PathEscape leaves what may stand in a path; the other spelling
				// escapes every byte. Both name the same room.
				for _, spelled := range []string{url.PathEscape(room), escapeAll(room)} {
					f.calls = nil
					if status, body := fetch(t, http.MethodDelete, srv.URL+"/v1/rooms/"+spelled, ""); status != http.StatusOK || body["roomID"] != room {
						t.Errorf("DELETE %s: got %d %v, want 200 for %q", spelled, status, body, room)
					}
					if status, body := fetch(t, http.MethodPost, srv.URL+"/v1/rooms/"+spelled+"/kick", `{"userID":"ana"}`); status != http.StatusOK || body["roomID"] != room {
						t.Errorf("POST %s/kick: got %d %v, want 200 for %q", spelled, status, body, room)
					}
					if len(f.calls) != 2 || f.calls[0] != "destroy "+room || !strings.HasPrefix(f.calls[1], "kick "+room+" ana ") {
						t.Errorf("%s: got calls %q, want destroy and kick of %q", spelled, f.calls, room)
					}
				}
			}
		})
	}
}

func escapeAll(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		b.WriteByte('%')
		b.WriteByte(hex[s[i]>>4])
		b.WriteByte(hex[s[i]&15])
	}
	return b.String()
}

func fetch(t *testing.T, method, target, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+newKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%s %s: %d %q: %v", method, target, res.StatusCode, b, err)
	}
	apitest.Answer(t, method, req.URL.EscapedPath(), res.StatusCode, res.Header, b)
	return res.StatusCode, v
}

// What the kicked user's clients get is one JSON object with the three names
// of ZIM, whatever is in the values.
func TestAPI_kick_extendedData(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, body, want string
	}{
		{"all", `{"userID":"ana","reason":"spam","message":"bye"}`, `{"room_id":"a\"b","reason":"spam","message":"bye"}`},
		{"user only", `{"userID":"ana"}`, `{"room_id":"a\"b","reason":"","message":""}`},
		{"quotes, markup and text", `{"userID":"ana","reason":"<&>","message":"\"¡adiós!\" 👋"}`, `{"room_id":"a\"b","reason":"<&>","message":"\"¡adiós!\" 👋"}`},
		{"space around", " \n{\"userID\":\"ana\"}\n ", `{"room_id":"a\"b","reason":"","message":""}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeRooms{}
			status, body := do(t, newAPI(f), http.MethodPost, `/v1/rooms/a%22b/kick`, tt.body)
			if status != http.StatusOK {
				t.Fatalf("got %d %v, want 200", status, body)
			}
			if diff := cmp.Diff(map[string]any{"roomID": `a"b`, "userID": "ana"}, body); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{`kick a"b ana ` + tt.want}, f.calls); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Bad input is refused before a room is touched, with a sentence that names
// the field and the limit.
func TestAPI_badInput(t *testing.T) {
	t.Parallel()
	const kick = "/v1/rooms/lobby/kick"
	tests := []struct {
		name, method, target, body string
		status, code               int
		text                       []string
	}{
		{"count not a number", "GET", "/v1/rooms?count=x", ``, 400, 6000001, []string{`count "x"`, "1 to 100"}},
		{"count too small", "GET", "/v1/rooms?count=0", ``, 400, 6000001, []string{`count "0"`, "1 to 100"}},
		{"count too large", "GET", "/v1/rooms/lobby/members?count=101", ``, 400, 6000001, []string{`count "101"`, "1 to 100"}},
		{"count twice", "GET", "/v1/rooms?count=1&count=2", ``, 400, 6000001, []string{"count", "2 times"}},
		{"unknown parameter", "GET", "/v1/rooms?limit=1", ``, 400, 6000001, []string{`"limit"`}},
		{"unknown parameter of a room", "GET", "/v1/rooms/lobby?x", ``, 400, 6000001, []string{`"x"`}},
		{"unknown parameter of the cluster", "GET", "/v1/cluster?x=1", ``, 400, 6000001, []string{`"x"`}},
		{"a query that is none", "GET", "/v1/rooms?search=%zz", ``, 400, 6000001, []string{"query"}},
		{"search not UTF-8", "GET", "/v1/rooms?search=%ff", ``, 400, 6000001, []string{"search"}},
		{"long search", "GET", "/v1/rooms?search=" + strings.Repeat("s", 129), ``, 400, 6000001, []string{"search", "129", "128"}},
		{"from nowhere", "GET", "/v1/rooms/lobby/events?from=0", ``, 400, 6000001, []string{`from "0"`, "1 to 9007199254740991"}},
		{"from too far", "GET", "/v1/rooms/lobby/events?from=9007199254740992", ``, 400, 6000001, []string{"from"}},
		{"create without an ID", "POST", "/v1/rooms", `{"roomName":"x"}`, 400, 6000001, []string{"roomID is required"}},
		{"create with half a second", "POST", "/v1/rooms", `{"roomID":"a","roomDestroyDelayTime":1.5}`, 400, 6000001, []string{"roomDestroyDelayTime is 1.5", "whole number"}},
		{"create with a text for a time", "POST", "/v1/rooms", `{"roomID":"a","roomDestroyDelayTime":"5"}`, 400, 6000001, []string{"roomDestroyDelayTime is a string", "whole number"}},
		{"create with a list of attributes", "POST", "/v1/rooms", `{"roomID":"a","roomAttributes":[]}`, 400, 6000001, []string{"roomAttributes is an array"}},
		{"create with a number for an attribute", "POST", "/v1/rooms", `{"roomID":"a","roomAttributes":{"k":1}}`, 400, 6000001, []string{`roomAttributes["k"] is a number`}},
		{"create with an attribute twice", "POST", "/v1/rooms", `{"roomID":"a","roomAttributes":{"k":"1","\u006b":"2"}}`, 400, 6000001, []string{`roomAttributes["k"] comes twice`}},
		{"send for nobody", "POST", "/v1/rooms/lobby/messages", `{"type":1,"message":"x"}`, 400, 6000001, []string{"senderUserID is required"}},
		{"no user", "POST", kick, `{}`, 400, 6000001, []string{"userID is required"}},
		{"empty user", "POST", kick, `{"userID":""}`, 400, 6000001, []string{"userID is required"}},
		{"null", "POST", kick, `null`, 400, 6000001, []string{"the body is null, it must be an object"}},
		{"user null", "POST", kick, `{"userID":null}`, 400, 6000001, []string{"userID is required"}},
		{"user a number", "POST", kick, `{"userID":7}`, 400, 6000001, []string{"userID is a number, it must be a string"}},
		{"user an object", "POST", kick, `{"userID":{"userID":"ana"}}`, 400, 6000001, []string{"userID is an object, it must be a string"}},
		{"user a list", "POST", kick, `{"userID":["ana"]}`, 400, 6000001, []string{"userID is an array, it must be a string"}},
		{"reason a boolean", "POST", kick, `{"userID":"ana","reason":true}`, 400, 6000001, []string{"reason is a boolean, it must be a string"}},
		{"user in another case", "POST", kick, `{"userid":"ana"}`, 400, 6000001, []string{`unknown field "userid"`}},
		{"two users", "POST", kick, `{"userID":"ana","user\u0049D":"bob"}`, 400, 6000001, []string{"userID comes twice"}},
		{"a list", "POST", kick, `["ana"]`, 400, 6000001, []string{"the body is an array, it must be an object"}},
		{"a string", "POST", kick, `"ana"`, 400, 6000001, []string{"the body is a string, it must be an object"}},
		{"spaces", "POST", kick, " \n", 400, 6000001, []string{"empty"}},
		{"not UTF-8", "POST", kick, "{\"userID\":\"\xff\"}", 400, 6000001, []string{"not UTF-8"}},
		{"a long unknown field", "POST", kick, `{"` + strings.Repeat("x", 4000) + `":1}`, 400, 6000001, []string{`unknown field "` + strings.Repeat("x", 60) + `"`}},
		{"deep", "POST", kick, strings.Repeat("[", 4096), 400, 6000001, []string{"not valid JSON"}},
		{"no body", "POST", kick, ``, 400, 6000001, []string{"empty"}},
		{"not JSON", "POST", kick, `userID=ana`, 400, 6000001, []string{"not valid JSON"}},
		{"half a body", "POST", kick, `{"userID":"ana"`, 400, 6000001, []string{"not valid JSON"}},
		{"unknown field", "POST", kick, `{"userID":"ana","why":"x"}`, 400, 6000001, []string{`unknown field "why"`}},
		{"two values", "POST", kick, `{"userID":"ana"}{"userID":"bob"}`, 400, 6000001, []string{"not valid JSON", "after top-level value"}},
		{"rubbish behind", "POST", kick, `{"userID":"ana"}]`, 400, 6000001, []string{"not valid JSON"}},
		{"long reason", "POST", kick, `{"userID":"ana","reason":"` + strings.Repeat("r", 257) + `"}`, 400, 6000001, []string{"reason", "257", "256"}},
		{"long message", "POST", kick, `{"userID":"ana","message":"` + strings.Repeat("é", 513) + `"}`, 400, 6000001, []string{"message", "1026", "1024"}},
		{"body over the limit", "POST", kick, `{"userID":"ana","message":"` + strings.Repeat("m", serverapi.MaxBody) + `"}`, 413, 6000001, []string{"65536"}},
		{"spaces over the limit", "POST", kick, `{"userID":"ana"}` + strings.Repeat(" ", serverapi.MaxBody), 413, 6000001, []string{"65536"}},
		{"room not UTF-8", "DELETE", "/v1/rooms/a%FFb", ``, 400, 6000001, []string{"roomID"}},
		{"no room", "DELETE", "/v1/rooms/", ``, 404, -32601, []string{"/v1/rooms/{roomID}"}},
		{"no room to kick from", "POST", "/v1/rooms//kick", `{"userID":"ana"}`, 400, 6000001, []string{"roomID", "empty"}},
		{"a slash in the room", "DELETE", "/v1/rooms/a/b", ``, 404, -32601, []string{"escaped"}},
		{"no such action", "POST", "/v1/rooms/lobby/mute", ``, 404, -32601, nil},
		{"no such method", "PUT", "/v1/rooms/lobby", ``, 405, -32601, []string{"PUT"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeRooms{}
			status, body := do(t, newAPI(f), tt.method, tt.target, tt.body)
			code, message := refusal(t, body)
			if status != tt.status || code != tt.code {
				t.Errorf("got %d, code %d (%s), want %d, code %d", status, code, message, tt.status, tt.code)
			}
			for _, text := range tt.text {
				if !strings.Contains(message, text) {
					t.Errorf("got message %q, want it to contain %q", message, text)
				}
			}
			if len(message) > 200 || strings.ContainsFunc(message, unicode.IsControl) {
				t.Errorf("got message %q, want one line that is not long", message)
			}
			if len(f.calls) > 0 {
				t.Errorf("got calls %q, want none", f.calls)
			}
		})
	}
}

// Whatever the path and the body, the answer is JSON with a message of one short
// line, and a room is touched if and only if it is a success.
func FuzzAPI_kick(f *testing.F) {
	for _, body := range []string{``, `null`, `{"userID":"ana"}`, `{"userID":"ana","reason":null,"message":"\ud800"}`, `{"userID":[{}]}`, "\xff", `{"":""}`, `{} {}`} {
		f.Add("lobby", body)
		f.Add("%00", body)
		f.Add("a%2Fb?x#y", body)
	}
	f.Fuzz(func(t *testing.T, room, body string) {
		target, err := url.ParseRequestURI("/v1/rooms/" + room + "/kick")
		if err != nil {
			t.Skip()
		}
		req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		req.URL = target
		req.Header.Set("Authorization", "Bearer "+newKey)
		fake := &fakeRooms{}
		status, answer := send(t, newAPI(fake), req)
		if done := len(fake.calls) == 1; done != (status == http.StatusOK) {
			t.Errorf("%q %q: got %d and the calls %q", room, body, status, fake.calls)
		}
		if status == http.StatusOK {
			return
		}
		if _, message := refusal(t, answer); len(message) > 500 || strings.ContainsFunc(message, unicode.IsControl) {
			t.Errorf("%q %q: got %q", room, body, message)
		}
	})
}

// Likewise whatever is asked of a new room.
func FuzzAPI_create(f *testing.F) {
	for _, body := range []string{
		`{"roomID":"a"}`, `{"roomID":"a","roomDestroyDelayTime":1e3,"roomAttributes":{"k":"v"}}`, `{"roomID":"a","roomAttributes":{"k":{}}}`,
		`{"roomID":"a","roomAttributes":{"k":[1,{"x":2}]},"roomName":{}}`, `{"roomID":"a","roomDestroyDelayTime":-9223372036854775808}`, `{"roomID":null}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		fake := &fakeRooms{}
		status, answer := do(t, newAPI(fake), http.MethodPost, "/v1/rooms", body)
		if done := len(fake.calls) == 1; done != (status == http.StatusCreated) {
			t.Errorf("%q: got %d and the calls %q", body, status, fake.calls)
		}
		if status == http.StatusCreated {
			return
		}
		if _, message := refusal(t, answer); len(message) > 500 || strings.ContainsFunc(message, unicode.IsControl) {
			t.Errorf("%q: got %q", body, message)
		}
	})
}

// A slash is not a character of room IDs, but that is for Rooms to say: escaped,
// it arrives there and does not become another path.
func TestAPI_escapedSlash(t *testing.T) {
	t.Parallel()
	f := &fakeRooms{}
	do(t, newAPI(f), http.MethodDelete, "/v1/rooms/a%2Fkick", "")
	if diff := cmp.Diff([]string{"destroy a/kick"}, f.calls); diff != "" {
		t.Error(diff)
	}
}

// Each of the keys opens, and nothing else does.
func TestAPI_keys(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, header string
		status       int
		text         string
	}{
		{"first key", "Bearer " + oldKey, 200, ""},
		{"second key", "Bearer " + newKey, 200, ""},
		{"scheme in lower case", "bearer " + newKey, 200, ""},
		{"no header", "", 401, "Authorization: Bearer"},
		{"no key", "Bearer", 401, "Authorization: Bearer"},
		{"empty key", "Bearer ", 401, "Authorization: Bearer"},
		{"wrong key", "Bearer " + strings.ToUpper(newKey), 401, "wrong API key"},
		{"part of a key", "Bearer " + newKey[:10], 401, "wrong API key"},
		{"key and more", "Bearer " + newKey + "x", 401, "wrong API key"},
		{"both keys", "Bearer " + oldKey + "," + newKey, 401, "wrong API key"},
		{"other scheme", "Basic " + newKey, 401, "Authorization: Bearer"},
		{"key alone", newKey, 401, "Authorization: Bearer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeRooms{}
			for _, req := range []*http.Request{
				httptest.NewRequest(http.MethodDelete, "/v1/rooms/lobby", nil),
				httptest.NewRequest(http.MethodPost, "/v1/rooms/lobby/kick", strings.NewReader(`{"userID":"ana"}`)),
				httptest.NewRequest(http.MethodGet, "/v1/rooms", nil),
				httptest.NewRequest(http.MethodPost, "/v1/rooms", strings.NewReader(`{"roomID":"a"}`)),
				httptest.NewRequest(http.MethodGet, "/v1/rooms/lobby", nil),
				httptest.NewRequest(http.MethodGet, "/v1/rooms/lobby/members", nil),
				httptest.NewRequest(http.MethodPost, "/v1/rooms/lobby/messages", strings.NewReader(`{"senderUserID":"s","type":1,"message":"x"}`)),
				httptest.NewRequest(http.MethodGet, "/v1/cluster", nil),
			} {
				if tt.header != "" {
					req.Header.Set("Authorization", tt.header)
				}
				status, body := send(t, newAPI(f), req)
				if status == http.StatusCreated {
					status = http.StatusOK
				}
				if status != tt.status {
					t.Fatalf("got %d %v, want %d", status, body, tt.status)
				}
				if status == http.StatusOK {
					continue
				}
				code, message := refusal(t, body)
				if code != 6000103 || !strings.Contains(message, tt.text) {
					t.Errorf("got code %d, %q, want 6000103 and %q", code, message, tt.text)
				}
				if strings.Contains(message, "0123456789") {
					t.Errorf("message %q shows a key", message)
				}
			}
			if tt.status != http.StatusOK && len(f.calls) > 0 {
				t.Errorf("got calls %q without a key", f.calls)
			}
		})
	}
}

// A gateway without keys has no server API: not even an empty key opens it.
func TestAPI_noKeys(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"", "Bearer ", "Bearer x"} {
		f := &fakeRooms{}
		req := httptest.NewRequest(http.MethodDelete, "/v1/rooms/lobby", nil)
		req.Header.Set("Authorization", header)
		status, body := send(t, serverapi.New(f, serverapi.Config{}), req)
		if status != http.StatusUnauthorized || len(f.calls) > 0 {
			t.Errorf("header %q: got %d and calls %q, want 401 and none", header, status, f.calls)
		}
		if _, message := refusal(t, body); !strings.Contains(message, "no API keys") {
			t.Errorf("header %q: got %q, want it to say that there are no keys", header, message)
		}
	}
}

// An error of the store is answered as Config.Errors says, and only a bug is
// logged: the others are the backend's to deal with, or counted elsewhere.
func TestAPI_errors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		err          error
		status, code int
		logged       bool
	}{
		{"no such room", errNoRoom, 404, 6000306, false},
		{"redis away", errUnavailable, 503, 6000007, false},
		{"bug", errBug, 500, -32603, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, target := range []string{
				"DELETE /v1/rooms/lobby", "POST /v1/rooms/lobby/kick", "GET /v1/rooms/lobby", "GET /v1/rooms/lobby/members",
				"GET /v1/rooms/lobby/events",
			} {
				var log bytes.Buffer
				h := serverapi.New(&fakeRooms{err: tt.err}, serverapi.Config{
					Keys: []string{newKey}, Errors: classify, Log: slog.New(slog.NewTextHandler(&log, nil)),
				})
				method, path, _ := strings.Cut(target, " ")
				status, body := do(t, h, method, path, `{"userID":"ana"}`)
				code, message := refusal(t, body)
				if status != tt.status || code != tt.code {
					t.Errorf("%s: got %d, code %d, want %d, code %d", target, status, code, tt.status, tt.code)
				}
				if strings.Contains(message, tt.err.Error()) && tt.err != errNoRoom {
					t.Errorf("%s: message %q shows the inner error", target, message)
				}
				if got := strings.Contains(log.String(), tt.err.Error()); got != tt.logged {
					t.Errorf("%s: logged %v, want %v: %s", target, got, tt.logged, &log)
				}
			}
		})
	}
}

// A request that was cut short on our side never looks like a success.
func TestAPI_contextEnded(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req := httptest.NewRequestWithContext(ctx, http.MethodDelete, "/v1/rooms/lobby", nil)
	req.Header.Set("Authorization", "Bearer "+newKey)
	status, body := send(t, newAPI(&fakeRooms{err: context.Canceled}), req)
	if code, _ := refusal(t, body); status != http.StatusServiceUnavailable || code != 6000007 {
		t.Errorf("got %d, code %d, want 503, code 6000007", status, code)
	}
}
