package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/protocol"
)

// What is no request is refused as a whole, and says why.
func TestParseRequests_refused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text string
		want protocol.Code
	}{
		{``, protocol.CodeParseError},
		{`{`, protocol.CodeParseError},
		{`[{}`, protocol.CodeParseError},
		{`{} {}`, protocol.CodeParseError},
		{`{"jsonrpc":"2.0","method":"ping"`, protocol.CodeParseError},
		{`7`, protocol.CodeInvalidRequest},
		{`"ping"`, protocol.CodeInvalidRequest},
		{`{"method":7}`, protocol.CodeInvalidRequest},
		{`{"jsonrpc":2.0}`, protocol.CodeInvalidRequest},
		{`[]`, protocol.CodeInvalidRequest},
		{` [ ] `, protocol.CodeInvalidRequest},
		{`[` + strings.Repeat(`{},`, protocol.MaxBatch) + `{}]`, protocol.CodeInvalidRequest},
	} {
		_, _, err := parseRequests([]byte(tt.text))
		if err == nil || err.Code != tt.want {
			t.Errorf("%.40s: got %v, want %d", tt.text, err, tt.want)
		}
	}
}

// A batch is as many requests as are allowed, and each is judged by itself.
func TestParseRequests_batch(t *testing.T) {
	t.Parallel()
	full := "\n [" + strings.Repeat(`{"jsonrpc":"2.0","method":"ping"},`, protocol.MaxBatch-1) + `7]`
	requests, batch, err := parseRequests([]byte(full))
	if err != nil || !batch || len(requests) != protocol.MaxBatch {
		t.Fatalf("got %d requests, batch %v, %v", len(requests), batch, err)
	}
	for i, r := range requests {
		if bad := check(&r) != nil; bad != (i == protocol.MaxBatch-1) {
			t.Errorf("request %d: refused is %v", i, bad)
		}
	}
}

// An id is a string, a number, null or nothing, and comes back as it was.
func TestCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text string
		ok   bool
	}{
		{`{"jsonrpc":"2.0","method":"x"}`, true},
		{`{"jsonrpc":"2.0","method":"x","id":1}`, true},
		{`{"jsonrpc":"2.0","method":"x","id":1.50e3}`, true},
		{`{"jsonrpc":"2.0","method":"x","id":"a b"}`, true},
		{`{"jsonrpc":"2.0","method":"x","id":null}`, true},
		{`{"jsonrpc":"2.0","method":"x","id":{}}`, false},
		{`{"jsonrpc":"2.0","method":"x","id":[1]}`, false},
		{`{"jsonrpc":"2.0","method":"x","id":true}`, false},
		{`{"jsonrpc":"1.0","method":"x"}`, false},
		{`{"method":"x"}`, false},
		{`{"jsonrpc":"2.0"}`, false},
		{`null`, false},
	} {
		requests, _, err := parseRequests([]byte(tt.text))
		if err != nil {
			t.Fatalf("%s: %v", tt.text, err)
		}
		if err := check(&requests[0]); (err == nil) != tt.ok {
			t.Errorf("%s: got %v", tt.text, err)
		}
	}
	requests, _, _ := parseRequests([]byte(`{"jsonrpc":"2.0","method":"x","id":1.50e3}`))
	if got := string(answerText(&requests[0], struct{}{}, nil)); got != `{"jsonrpc":"2.0","id":1.50e3,"result":{}}` {
		t.Errorf("got %s", got)
	}
}

// A required parameter that is missing or null, and any of the wrong JSON type,
// are invalid parameters; one of the right type with a wrong value is a bad
// parameter; what is unknown is ignored.
func TestParseParams(t *testing.T) {
	t.Parallel()
	enter, send, page, login := &protocol.EnterParams{}, &protocol.SendParams{}, &protocol.MemberListParams{}, &protocol.LoginParams{}
	for _, tt := range []struct {
		v    any
		text string
		code protocol.Code
		says string
	}{
		{enter, `{"roomInfo":{"roomID":"R","roomName":"n"},"requestKey":7,"new":[1]}`, 0, ""},
		{enter, `{"roominfo":{"ROOMID":"R"}}`, 0, ""},
		{enter, `{"roomInfo":{"roomID":""}}`, 0, ""}, // its value is another matter
		{enter, ``, protocol.CodeInvalidParams, "roomInfo is missing"},
		{enter, `null`, protocol.CodeInvalidParams, "roomInfo is missing"},
		{enter, `{}`, protocol.CodeInvalidParams, "roomInfo is missing"},
		{enter, `{"roomInfo":null}`, protocol.CodeInvalidParams, "roomInfo is missing"},
		{enter, `{"roomInfo":{}}`, protocol.CodeInvalidParams, "roomInfo.roomID is missing"},
		{enter, `{"roomInfo":{"roomID":null,"roomName":"n"}}`, protocol.CodeInvalidParams, "roomInfo.roomID is missing"},
		{enter, `{"roomInfo":{"roomID":7}}`, protocol.CodeInvalidParams, "roomInfo.roomID must not be a number"},
		{enter, `{"roomInfo":"R"}`, protocol.CodeInvalidParams, "roomInfo must not be a string"},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":"7"}`, protocol.CodeInvalidParams, "requestKey must not be a string"},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":7.5}`, protocol.CodeBadParameter, "requestKey must not be a number 7.5"},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":1e99}`, protocol.CodeBadParameter, "requestKey must not be a number 1e99"},
		{enter, `[1]`, protocol.CodeInvalidParams, "params must not be a array"},
		{enter, `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":{"k":1}}}`, protocol.CodeInvalidParams, "config.roomAttributes* must not be a number"},
		{send, `{"roomID":"R","message":{"type":0,"message":""}}`, 0, ""},
		{send, `{"roomID":"R","message":{"message":"x"}}`, protocol.CodeInvalidParams, "message.type is missing"},
		{send, `{"roomID":"R","message":{"type":1}}`, protocol.CodeInvalidParams, "message.message is missing"},
		{send, `{"roomID":"R","message":{"type":1,"message":null}}`, protocol.CodeInvalidParams, "message.message is missing"},
		{send, `{"message":{"type":1,"message":"x"}}`, protocol.CodeInvalidParams, "roomID is missing"},
		{page, `{"roomID":"R","config":{"count":0}}`, 0, ""},
		{page, `{"roomID":"R","config":{"nextFlag":"x"}}`, protocol.CodeInvalidParams, "config.count is missing"},
		{page, `{"roomID":"R","config":{"count":2.5}}`, protocol.CodeBadParameter, "config.count must not be a number 2.5"},
		{login, `{"userID":"u","resume":{"sessionID":"s","rooms":[{"roomID":"R","epoch":1,"seq":2}]}}`, 0, ""},
		{login, `{"userID":"u","resume":{"sessionID":"s","rooms":[{"roomID":"R","seq":"2"}]}}`, protocol.CodeInvalidParams, "resume.rooms* must not be a string"},
		{login, `{"userID":["u"]}`, protocol.CodeInvalidParams, "userID must not be a array"},
	} {
		err := parseParams(json.RawMessage(tt.text), fresh(tt.v))
		if tt.code == 0 {
			if err != nil {
				t.Errorf("%T %s: got %v", tt.v, tt.text, err)
			}
			continue
		}
		head, tail, _ := strings.Cut(tt.says, "*")
		if err == nil || err.Code != tt.code || !strings.HasPrefix(err.Message, head) || !strings.HasSuffix(err.Message, tail) {
			t.Errorf("%T %s: got %+v, want %d %s", tt.v, tt.text, err, tt.code, tt.says)
		}
	}
}

// fresh gives a new value of the type that v points to.
func fresh(v any) any {
	switch v.(type) {
	case *protocol.EnterParams:
		return &protocol.EnterParams{}
	case *protocol.SendParams:
		return &protocol.SendParams{}
	case *protocol.MemberListParams:
		return &protocol.MemberListParams{}
	case *protocol.MembersParams:
		return &protocol.MembersParams{}
	case *protocol.RoomParams:
		return &protocol.RoomParams{}
	case *protocol.LeaveAllParams:
		return &protocol.LeaveAllParams{}
	case *protocol.RenewTokenParams:
		return &protocol.RenewTokenParams{}
	case *protocol.LoginParams:
		return &protocol.LoginParams{}
	}
	panic(fmt.Sprintf("%T", v))
}

// Each limit allows what it says and not one more.
func TestLimits(t *testing.T) {
	t.Parallel()
	x := func(n int) string { return strings.Repeat("x", n) }
	text := func(kind protocol.MessageType, s string) error {
		_, err := checkMessage(&protocol.OutgoingMessage{Type: kind, Message: s}, nil)
		return plain(err)
	}
	attributes := func(n int, key, value func(i int) string) error {
		a := map[string]string{}
		for i := range n {
			a[key(i)] = value(i)
		}
		return plain(checkAttributes(a))
	}
	key := func(i int) string { return fmt.Sprint("k", i) }
	delay := func(s float64) error { _, err := delayOf(s); return plain(err) }
	config := func(p protocol.MessagePriority) error {
		_, err := checkMessage(&protocol.OutgoingMessage{Type: 1, Message: "x"}, &protocol.SendConfig{Priority: p})
		return plain(err)
	}
	login := func(f func(*protocol.LoginParams)) error {
		p := &protocol.LoginParams{UserID: "u"}
		f(p)
		_, _, err := checkLogin(p)
		return plain(err)
	}
	for _, tt := range []struct {
		name string
		at   error
		over error
		code protocol.Code
	}{
		{"roomName", plain(checkText("roomName", x(maxRoomName), maxRoomName)), plain(checkText("roomName", x(maxRoomName+1), maxRoomName)), protocol.CodeBadParameter},
		{"UTF-8", plain(checkText("x", "é", 2)), plain(checkText("x", "\xc3", 2)), protocol.CodeBadParameter},
		{"requestKey", plain(checkRequestKey(maxRequestKey - 1)), plain(checkRequestKey(maxRequestKey)), protocol.CodeBadParameter},
		{"requestKey below", plain(checkRequestKey(0)), plain(checkRequestKey(-1)), protocol.CodeBadParameter},
		{"delay", delay(10800), delay(10801), protocol.CodeBadParameter},
		{"delay below", delay(0), delay(-1), protocol.CodeBadParameter},
		{"delay whole", delay(1.08e4), delay(1.5), protocol.CodeBadParameter},
		{"attributes", attributes(20, key, key), attributes(21, key, key), protocol.CodeAttributeCount},
		{"attribute key", attributes(1, func(int) string { return x(16) }, key), attributes(1, func(int) string { return x(17) }, key), protocol.CodeAttributeKey},
		{"attribute key below", attributes(1, key, key), attributes(1, func(int) string { return "" }, key), protocol.CodeAttributeKey},
		{"attribute value", attributes(1, key, func(int) string { return x(1024) }), attributes(1, key, func(int) string { return x(1025) }), protocol.CodeAttributeValue},
		{"attributes size", attributes(5, func(i int) string { return key(i) }, func(int) string { return x(1022) }),
			attributes(6, key, func(i int) string { return x(852 + i/5) }), protocol.CodeAttributesSize},
		{"text", text(1, x(2048)), text(1, x(2049)), protocol.CodeBadParameter},
		{"text below", text(1, "x"), text(1, ""), protocol.CodeBadParameter},
		{"custom", text(200, x(2048)), text(200, x(2049)), protocol.CodeBadParameter},
		{"barrage", text(20, x(5120)), text(20, x(5121)), protocol.CodeBadParameter},
		{"command", text(2, strings.Repeat("AAAA", 5120/3)+"AAA="), text(2, strings.Repeat("AAAA", 5121/3)), protocol.CodeBadParameter},
		{"command empty", text(2, "AA=="), text(2, ""), protocol.CodeBadParameter},
		{"type", text(20, "x"), text(3, "x"), protocol.CodeBadParameter},
		{"priority", config(3), config(4), protocol.CodeBadParameter},
		{"priority below", config(0), config(-1), protocol.CodeBadParameter},
		{"userName", login(func(p *protocol.LoginParams) { p.UserName = x(256) }), login(func(p *protocol.LoginParams) { p.UserName = x(257) }), protocol.CodeBadParameter},
		{"avatar", login(func(p *protocol.LoginParams) { p.UserAvatarURL = x(1024) }), login(func(p *protocol.LoginParams) { p.UserAvatarURL = x(1025) }), protocol.CodeBadParameter},
		{"userID", login(func(p *protocol.LoginParams) { p.UserID = x(32) }), login(func(p *protocol.LoginParams) { p.UserID = x(33) }), protocol.CodeBadParameter},
		{"deviceID", login(func(p *protocol.LoginParams) { p.DeviceID = x(128) }), login(func(p *protocol.LoginParams) { p.DeviceID = x(129) }), protocol.CodeBadParameter},
		{"resume", login(func(p *protocol.LoginParams) { p.Resume = &protocol.Resume{SessionID: "s"} }),
			login(func(p *protocol.LoginParams) { p.Resume = &protocol.Resume{} }), protocol.CodeInvalidParams},
		{"resumed rooms", login(func(p *protocol.LoginParams) { p.Resume = resumeOf(500) }),
			login(func(p *protocol.LoginParams) { p.Resume = resumeOf(501) }), protocol.CodeBadParameter},
	} {
		if tt.at != nil {
			t.Errorf("%s: at the limit: %v", tt.name, tt.at)
		}
		if got, ok := tt.over.(*protocol.Error); !ok || got.Code != tt.code {
			t.Errorf("%s: over the limit: got %v, want %d", tt.name, tt.over, tt.code)
		}
	}
	big := protocol.OutgoingMessage{Type: 1, Message: "x", ExtendedData: x(1024)}
	if _, err := checkMessage(&big, nil); err != nil {
		t.Error(err)
	}
	big.ExtendedData += "x"
	if _, err := checkMessage(&big, nil); err == nil {
		t.Error("extendedData over the limit")
	}
	for sub, ok := range map[int]bool{0: true, 200: true, -1: false, 201: false} {
		if _, err := checkMessage(&protocol.OutgoingMessage{Type: 1, Message: "x", SubType: sub}, nil); (err == nil) != ok {
			t.Errorf("subType %d: got %v", sub, err)
		}
	}
}

func resumeOf(n int) *protocol.Resume {
	r := &protocol.Resume{SessionID: "s"}
	for i := range n {
		r.Rooms = append(r.Rooms, protocol.ResumeRoom{RoomID: fmt.Sprint(i)})
	}
	return r
}

// plain makes a nil error nil.
func plain(e *protocol.Error) error {
	if e == nil {
		return nil
	}
	return e
}

// Standard base64, padded or not, and nothing else.
func TestBase64Size(t *testing.T) {
	t.Parallel()
	got := map[string]int{}
	for _, s := range []string{
		"", "AA==", "AA", "AAA=", "AAA", "AAAA", "+/+/", "AAAAAA==",
		"A", "A===", "AA=", "AAAA=", "AAAA====", "AA==AA==", "=", "A A=", "-_-_", "AAAA\n", "ÄÄ",
	} {
		n, ok := base64Size(s)
		if !ok {
			n = -1
		}
		got[s] = n
	}
	want := map[string]int{
		"": 0, "AA==": 1, "AA": 1, "AAA=": 2, "AAA": 2, "AAAA": 3, "+/+/": 3, "AAAAAA==": 4,
		"A": -1, "A===": -1, "AA=": -1, "AAAA=": -1, "AAAA====": -1, "AA==AA==": -1, "=": -1, "A A=": -1, "-_-_": -1, "AAAA\n": -1, "ÄÄ": -1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBefore213(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.12.9": true, "2.12": true, "1.99.0": true, "2": true, "0.1": true, "2.12.0-beta": true,
		"2.13.0": false, "2.13": false, "2.20.1": false, "3.0.0": false, "10.0": false,
		"": false, "x": false, "2.x": false, "v2.1": false, "2.13.0-beta": false,
	} {
		if got := before213(version); got != want {
			t.Errorf("%q: got %v, want %v", version, got, want)
		}
	}
}
