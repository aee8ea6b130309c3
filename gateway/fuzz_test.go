package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/roomgate/roomgate/gateway/auth"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/pubsub"
	"github.com/roomgate/roomgate/roomstore"
)

// refusing is an auth.Verifier that knows nobody.
type refusing struct{ auth.Dev }

func (refusing) Verify(string, string, time.Time) (time.Time, error) {
	return time.Time{}, errors.New("no")
}

// Whatever a client sends, it is answered once for each request that has an id,
// in one message each or in one array, and nothing panics or hangs.
func FuzzMessage(f *testing.F) {
	for _, text := range []string{
		``, `{`, `[]`, `[1,{"id":[]}]`, `null`, "\xff", `{"jsonrpc":"2.0","id":1,"method":"ping"}`,
		`{"jsonrpc":"2.0","id":null,"method":"nope","params":[]}`, `{"jsonrpc":"2.0","id":{},"method":"ping"}`,
		`{"jsonrpc":"2.0","id":"a","method":"login","params":{"userID":"u","resume":{"sessionID":"s","rooms":[{"roomID":"R","epoch":1,"seq":2}]}}}`,
		`{"jsonrpc":"2.0","id":2,"method":"enterRoom","params":{"roomInfo":{"roomID":"R","roomName":"n"},"config":{"roomAttributes":{"k":"v"},"roomDestroyDelayTime":1.5},"requestKey":1}}`,
		`{"jsonrpc":"2.0","id":2,"method":"joinRoom","params":{"roomID":"R","requestKey":1e3}}`,
		`{"jsonrpc":"2.0","id":2,"method":"switchRoom","params":{"fromRoomID":"F","toRoomInfo":{"roomID":"R"},"isCreateWhenRoomNotExisted":true,"requestKey":1}}`,
		`{"jsonrpc":"2.0","id":2,"method":"switchRoom","params":{"fromRoomID":"R","toRoomInfo":{"roomID":"R"}}}`,
		`{"jsonrpc":"2.0","id":3,"method":"sendRoomMessage","params":{"roomID":"R","message":{"type":2,"message":"AA=="},"config":{"priority":3}}}`,
		`{"jsonrpc":"2.0","id":4,"method":"queryRoomMemberList","params":{"roomID":"R","config":{"count":10,"nextFlag":""}}}`,
		`{"jsonrpc":"2.0","id":5,"method":"queryRoomMembers","params":{"roomID":"R","userIDs":["a","b"]}}`,
		`[{"jsonrpc":"2.0","id":1,"method":"leaveRoom","params":{"roomID":"R"}},{"jsonrpc":"2.0","method":"leaveAllRoom"},{"jsonrpc":"2.0","id":1,"method":"queryRoomOnlineMemberCount","params":{"roomID":"R"}}]`,
		`{"jsonrpc":"2.0","id":6,"method":"renewToken","params":{"token":""}}`,
		`{"jsonrpc":"2.0","id":7,"method":"logout"}`,
	} {
		f.Add([]byte(text), true)
		f.Add([]byte(text), false)
	}
	// A store that never answers: what a client may not ask for does not get
	// that far.
	store := roomstore.New(roomstore.NewBatcher(nil, roomstore.BatcherConfig{}), roomstore.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	f.Cleanup(cancel)
	g := New(store, nil, refusing{}, Config{RedisTimeout: time.Millisecond})
	g.life = ctx
	g.hub = newHub(&fakeHistory{}, &fakeBus{}, time.Millisecond, g.log, &g.stats)
	g.hub.ctx = ctx

	f.Fuzz(func(t *testing.T, text []byte, loggedIn bool) {
		w := newWire()
		c := &conn{g: g, sock: newSocket(w, 1<<20), gone: make(chan struct{}), said: make(chan struct{})}
		ended := false
		if loggedIn {
			s, _ := newSession("ana", "s", 1)
			s.c = c
			c.session.Store(s)
		}
		c.closer.Do(func() { ended = true }) // a close is not what is tested here
		close(c.gone)
		handle(c, bytes.Clone(text))
		done := make(chan struct{})
		go func() { c.tasks.running.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Fatalf("%q: not over", text)
		}
		c.sock.mu.Lock()
		c.sock.flushed()
		c.sock.mu.Unlock()
		if n := c.unanswered.Load(); n != 0 {
			t.Errorf("%q: %d requests count as unanswered", text, n)
		}
		if n, m := c.queued.Load(), c.waiting.Load(); n != 0 || m != 0 {
			t.Errorf("%q: %d requests of %d bytes count as queued", text, n, m)
		}
		if len(c.claims) != 0 {
			t.Errorf("%q: rooms %v count as busy", text, c.claims)
		}
		if !ended {
			return
		}
		var ids []string
		for _, answer := range w.texts(t) {
			if !json.Valid([]byte(answer)) {
				t.Fatalf("%q: got %s", text, answer)
			}
			var one protocol.Response
			var many []protocol.Response
			if answer[0] == '[' {
				if err := json.Unmarshal([]byte(answer), &many); err != nil {
					t.Fatalf("%q: got %s: %v", text, answer, err)
				}
			} else {
				var n protocol.Notification
				if json.Unmarshal([]byte(answer), &n); n.Method != "" {
					continue
				}
				if err := json.Unmarshal([]byte(answer), &one); err != nil {
					t.Fatalf("%q: got %s: %v", text, answer, err)
				}
				many = append(many, one)
			}
			for _, r := range many {
				if (r.Error == nil) == (r.Result == nil) {
					t.Errorf("%q: got %s", text, answer)
				}
				if r.Error != nil {
					fitToShow(t, text, r.Error)
				}
				ids = append(ids, compact(r.ID))
			}
		}
		want := idsOf(text)
		slices.Sort(ids)
		slices.Sort(want)
		if !slices.Equal(ids, want) {
			t.Errorf("%q: answers have the ids %q, want %q", text, ids, want)
		}
	})
}

// fitToShow makes sure that an error can be shown and logged: it is a line of
// text, and no longer than a line may be.
func fitToShow(t *testing.T, text []byte, err *protocol.Error) {
	t.Helper()
	const most = 1000 // bytes; what was sent can have 65,536
	m := err.Message
	if m == "" || len(m) > most || !utf8.ValidString(m) || strings.ContainsFunc(m, unicode.IsControl) {
		t.Errorf("%.200q: got the sentence %q of %d bytes", text, m, len(m))
	}
}

// Whatever the text, what is wrong with it can be shown; and parameters that are
// accepted say the same to everybody who reads them as JSON: no name stands for
// another, and none is there twice.
func FuzzParseRequests(f *testing.F) {
	for _, text := range []string{
		``, "\xff", "\ufeff{}", `[1,[2],{"id":1},"x"]`, `{"jsonrpc":"2.0","method":"` + strings.Repeat(`\u0001`, 200) + `"}`,
		`{"jsonrpc":"2.0","id":1,"method":"x","params":{"roomID":"a\u0000b","requestKey":1e5}}`,
		`{"jsonrpc":"2.0","method":"x","params":{"roomInfo":{"roomID":"R","roomName":"\ud800"},"config":{"roomAttributes":{"\ud800":"1","\ud801":"2"},"roomDestroyDelayTime":1e3}}}`,
		`{"jsonrpc":"2.0","method":"x","params":{"userID":"u","resume":{"sessionID":"s","rooms":[{"roomID":"R","epoch":1,"seq":2,"membersSeq":3}]}}}`,
		`{"jsonrpc":"2.0","method":"x","params":{"roomID":"R","userIDs":["a"],"message":{"type":1,"message":"m"},"config":{"count":1,"nextFlag":"","priority":3}}}`,
		`{"jsonrpc":"2.0","method":"x","params":{"ROOMID":"R","roomID":"S","roomID":null}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		requests, _, err := parseRequests(text)
		if err != nil {
			fitToShow(t, text, err)
			return
		}
		for _, r := range requests {
			if r.bad != nil {
				fitToShow(t, text, r.bad)
				continue
			}
			for _, v := range []any{
				&protocol.LoginParams{}, &protocol.EnterParams{}, &protocol.SwitchParams{}, &protocol.RoomParams{}, &protocol.LeaveAllParams{},
				&protocol.SendParams{}, &protocol.MemberListParams{}, &protocol.MembersParams{}, &protocol.RenewTokenParams{}, &noParams{},
			} {
				if err := parseParams(r.Params, v); err != nil {
					fitToShow(t, text, err)
					continue
				}
				var any map[string]any
				d := json.NewDecoder(bytes.NewReader(r.Params))
				d.UseNumber()
				if len(r.Params) > 0 && d.Decode(&any) != nil {
					t.Fatalf("%q: the params of %q are not JSON", text, r.Method)
				}
				again := fresh(v)
				if err := json.Unmarshal(encoded(any), again); err != nil || !reflect.DeepEqual(v, again) {
					t.Errorf("%q: read as %+v, by others as %+v (%v)", text, v, again, err)
				}
			}
		}
	})
}

// compact gives the value of an id in one form.
func compact(id json.RawMessage) string {
	var v any
	d := json.NewDecoder(bytes.NewReader(id))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return "null"
	}
	return string(encoded(v))
}

// idsOf says which ids the answers to a text have.
func idsOf(text []byte) []string {
	requests, _, err := parseRequests(text)
	if err != nil {
		return []string{"null"}
	}
	var ids []string
	for _, r := range requests {
		if len(r.ID) > 0 {
			ids = append(ids, compact(r.ID))
		}
	}
	return ids
}

// A frame holds what was put into it.
func FuzzTextFrame(f *testing.F) {
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		f.Add(bytes.Repeat([]byte("x"), n), 7)
	}
	f.Fuzz(func(t *testing.T, text []byte, hint int) {
		b := textFrame(min(max(hint, 0), 1<<17), func(b []byte) []byte { return append(b, text...) })
		frames, err := parseFrames(b)
		if err != nil || len(frames) != 1 || frames[0].opcode != 1 || !bytes.Equal(frames[0].payload, text) {
			t.Errorf("%d bytes: got %d frames, %v", len(text), len(frames), err)
		}
	})
}

// An event that any gateway could have published is handed on as JSON, and one
// that none could have does no harm.
func FuzzDeliver(f *testing.F) {
	for _, e := range []roomstore.Event{
		joined(1, 2, "bo", 2), left(1, 2, "bo", 1, roomstore.ReasonKicked), moved(1, 2, "ana", "s-ana", "x", 1),
		message(1, 2, "bo", "hi"), command(1, 1, "bo", "hi", 2), destroyed(1, 2), joined(2, 1, "bo", 1),
	} {
		f.Add(envelope(e))
	}
	f.Add("1\x002\x00m\x000\x00s\x00u\x001:1\x00id\x00") // without a payload
	h := newHub(&fakeHistory{catchup: func(context.Context, roomstore.RoomID, roomstore.Position) (roomstore.History, error) {
		return roomstore.History{}, roomstore.ErrNoRoom
	}}, &fakeBus{}, time.Second, New(nil, (*pubsub.Bus)(nil), nil, Config{}).log, &Stats{})
	ctx, cancel := context.WithCancel(context.Background())
	h.ctx = ctx
	f.Cleanup(func() { cancel(); h.fills.Wait() })
	f.Fuzz(func(t *testing.T, payload string) {
		s, w := newSession("ana", "s-ana", 1)
		fd, err := h.open(ctx, room)
		if err != nil {
			t.Fatal(err)
		}
		fd.admit(s, entry(1, 1), func() {})
		fd.Deliver(payload)
		s.detach()
		s.c.sock.mu.Lock()
		s.c.sock.flushed()
		s.c.sock.mu.Unlock()
		if _, err := parseFrames(w.take()); err != nil {
			t.Errorf("%q: %v", payload, err)
		}
		h.mu.Lock()
		delete(h.feeds, room)
		delete(h.idle, fd)
		h.mu.Unlock()
		h.bus.Unsubscribe(fd.topic)
		fd.stop()
	})
}
