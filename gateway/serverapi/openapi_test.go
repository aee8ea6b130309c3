package serverapi_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/gateway/serverapi"
	"github.com/roomgate/roomgate/internal/apitest"
)

// The description is sound, and has every route of the API and no other.
func TestAPI_description(t *testing.T) {
	t.Parallel()
	apitest.Valid(t)
	var routes []string
	newAPI(&fakeRooms{}).Walk(func(method, path string) { routes = append(routes, method+" "+path) })
	described := apitest.Operations(t)
	slices.Sort(routes)
	slices.Sort(described)
	if diff := cmp.Diff(described, routes); diff != "" {
		t.Errorf("(-described +served):\n%s", diff)
	}
}

// complaints is a test that fails without failing this one.
type complaints struct {
	testing.TB
	n int
}

func (c *complaints) Helper()               {}
func (c *complaints) Errorf(string, ...any) { c.n++ }

// What holds answers against the description finds what is wrong with them.
func TestAPI_description_held(t *testing.T) {
	t.Parallel()
	as := http.Header{"Content-Type": {"application/json"}}
	for _, tt := range []struct {
		name, method, path string
		status             int
		body               string
		wrong              bool
	}{
		{"right", "DELETE", "/v1/rooms/a", 200, `{"roomID":"a"}`, false},
		{"a field too few", "DELETE", "/v1/rooms/a", 200, `{}`, true},
		{"a field too many", "DELETE", "/v1/rooms/a", 200, `{"roomID":"a","x":1}`, true},
		{"another type", "DELETE", "/v1/rooms/a", 200, `{"roomID":1}`, true},
		{"another status", "DELETE", "/v1/rooms/a", 418, `{"error":{"code":1,"message":"x"}}`, true},
		{"a field too many of what is put together", "GET", "/v1/rooms/a", 200,
			`{"roomID":"a","roomName":"","memberCount":0,"roomDestroyDelayTime":0,"createdAt":1,"epoch":1,"seq":0,"roomAttributes":{},"serverTime":1,"x":1}`, true},
		{"right, put together", "GET", "/v1/rooms/a", 200,
			`{"roomID":"a","roomName":"","memberCount":0,"roomDestroyDelayTime":0,"createdAt":1,"epoch":1,"seq":0,"roomAttributes":{},"serverTime":1}`, false},
	} {
		c := &complaints{TB: t}
		apitest.Answer(c, tt.method, tt.path, tt.status, as, []byte(tt.body))
		if (c.n > 0) != tt.wrong {
			t.Errorf("%s: %d complaints, wrong: %t", tt.name, c.n, tt.wrong)
		}
	}
	for data, wrong := range map[string]bool{`{"reason":"over"}`: false, `{"reason":"other"}`: true, `{}`: true, `{"reason":"over","x":1}`: true} {
		c := &complaints{TB: t}
		apitest.Event(c, "end", []byte(data))
		if (c.n > 0) != wrong {
			t.Errorf("%s: %d complaints, wrong: %t", data, c.n, wrong)
		}
	}
}

// Each route hands on what it is asked, and answers as described; what is left out
// has the value that the description gives.
func TestAPI_routes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		request, body string
		status        int
		call          string
	}{
		{"GET /v1/rooms", "", 200, `list "" "" 100`},
		{"GET /v1/rooms?count=7&nextFlag=a%20b&search=a", "", 200, `list "a" "a b" 7`},
		{"GET /v1/rooms/a%20b", "", 200, `room a b`},
		{"GET /v1/rooms/a%2Fb/members", "", 200, `members a/b "" 100`},
		{"GET /v1/rooms/a/members?count=1&nextFlag=1:2", "", 200, `members a "1:2" 1`},
		{"POST /v1/rooms", `{"roomID":"a b"}`, 201, `create {RoomID:a b RoomName: RoomDestroyDelayTime:0 RoomAttributes:map[] CreatorUserID:}`},
		{"POST /v1/rooms", `{"roomID":"a","roomName":"A","roomDestroyDelayTime":5,"roomAttributes":{"k":"v","l":""},"creatorUserID":"ana"}`, 201,
			`create {RoomID:a RoomName:A RoomDestroyDelayTime:5 RoomAttributes:map[k:v l:] CreatorUserID:ana}`},
		{"POST /v1/rooms/a/messages", `{"senderUserID":"ana","type":1,"message":"hi"}`, 200,
			`send a {SenderUserID:ana Message:{Type:1 Message:hi SubType:0 ExtendedData:} Priority:0}`},
		{"POST /v1/rooms/a/messages", `{"senderUserID":"ana","type":20,"message":"hi","subType":3,"extendedData":"x","priority":2}`, 200,
			`send a {SenderUserID:ana Message:{Type:20 Message:hi SubType:3 ExtendedData:x} Priority:2}`},
		{"POST /v1/rooms/a/kick", `{"userID":"ana"}`, 200, `kick a ana {"room_id":"a","reason":"","message":""}`},
		{"DELETE /v1/rooms/a", "", 200, `destroy a`},
		{"GET /v1/cluster", "", 200, `cluster`},
	}
	for _, tt := range tests {
		f := &fakeRooms{}
		method, path, _ := strings.Cut(tt.request, " ")
		status, body := do(t, newAPI(f), method, path, tt.body)
		if status != tt.status {
			t.Errorf("%s %s: got %d %v, want %d", tt.request, tt.body, status, body, tt.status)
		}
		if diff := cmp.Diff([]string{tt.call}, f.calls); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", tt.request, tt.body, diff)
		}
	}
	req := httptest.NewRequest(http.MethodPost, "/v1/rooms", strings.NewReader(`{"roomID":"a b?"}`))
	req.Header.Set("Authorization", "Bearer "+newKey)
	w := httptest.NewRecorder()
	newAPI(&fakeRooms{}).ServeHTTP(w, req)
	if got := w.Header().Get("Location"); got != "/v1/rooms/a%20b%3F" {
		t.Errorf("created at %q", got)
	}
}

// fakeWatch gives what it is sent.
type fakeWatch struct {
	events chan []serverapi.Event
	closed sync.WaitGroup
}

func newWatch() *fakeWatch {
	w := &fakeWatch{events: make(chan []serverapi.Event)}
	w.closed.Add(1)
	return w
}

func (w *fakeWatch) Next(ctx context.Context) []serverapi.Event {
	select {
	case e := <-w.events:
		return e
	case <-ctx.Done():
		return nil
	}
}

func (w *fakeWatch) Close() { w.closed.Done() }

type reason struct {
	Reason string `json:"reason"`
}

// A stream has each event as it comes, and ends with the one that says so; whoever
// reads it may take his time between two.
func TestAPI_events(t *testing.T) {
	t.Parallel()
	watch := newWatch()
	f := &fakeRooms{watch: watch}
	srv := httptest.NewUnstartedServer(newAPI(f))
	srv.Config.ReadTimeout = 50 * time.Millisecond // which a stream outlasts
	srv.Start()
	t.Cleanup(srv.Close)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/rooms/a%20b/events?from=7&epoch=9", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+newKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Errorf("got %d, %q", res.StatusCode, got)
	}
	next := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		for n := 0; n < len(got); {
			m, err := res.Body.Read(got[n:])
			if n += m; err != nil && n < len(got) {
				t.Fatalf("got %q and %v, want %q", got[:n], err, want)
			}
		}
		if string(got) != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	watch.events <- []serverapi.Event{{Name: "message", Seq: 7, Data: reason{"<a\nb>"}}, {Name: "lost", Data: reason{"x"}}}
	next("id: 7\nevent: message\ndata: {\"reason\":\"<a\\nb>\"}\n\nevent: lost\ndata: {\"reason\":\"x\"}\n\n")
	for began := time.Now(); time.Since(began) < 3*srv.Config.ReadTimeout; {
		watch.events <- nil
		next(": alive\n\n")
	}
	watch.events <- []serverapi.Event{{Name: "end", Data: reason{"over"}, Last: true}}
	next("event: end\ndata: {\"reason\":\"over\"}\n\n")
	if n, err := res.Body.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("behind the end: %d bytes, %v", n, err)
	}
	watch.closed.Wait()
	if diff := cmp.Diff([]string{"watch a b 7 9"}, f.calls); diff != "" {
		t.Error(diff)
	}
}

// A reader that goes ends its watch.
func TestAPI_events_gone(t *testing.T) {
	t.Parallel()
	watch := newWatch()
	srv := httptest.NewServer(newAPI(&fakeRooms{watch: watch}))
	t.Cleanup(srv.Close)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/v1/rooms/a/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+newKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	res.Body.Close()
	watch.closed.Wait()
}
