package gateway

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/protocol"
)

// What is no request is refused as a whole, and says why.
func TestParseRequests_refused(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, tt := range []struct {
		text string
		want protocol.Code
		says string
	}{
		{``, protocol.CodeParseError, "the text is not JSON: unexpected end of JSON input"},
		{`{`, protocol.CodeParseError, "the text is not JSON: unexpected end of JSON input"},
		{`[{}`, protocol.CodeParseError, "the text is not JSON: unexpected end of JSON input"},
		{`{} {}`, protocol.CodeParseError, "the text is not JSON: invalid character '{' after top-level value"},
		{`{"a":1,}`, protocol.CodeParseError, "the text is not JSON: invalid character '}' looking for beginning of object key string"},
		{`{'a':1}`, protocol.CodeParseError, `the text is not JSON: invalid character '\'' looking for beginning of object key string`},
		{"{\"a\":\"\n\"}", protocol.CodeParseError, `the text is not JSON: invalid character '\n' in string literal`},
		{`[01]`, protocol.CodeParseError, "the text is not JSON: invalid character '1' after array element"},
		{`NaN`, protocol.CodeParseError, "the text is not JSON: invalid character 'N' looking for beginning of value"},
		{"\ufeff{}", protocol.CodeParseError, "the text is not JSON: it begins with a byte order mark"},
		{"\xff", protocol.CodeParseError, "the text is not UTF-8"},
		{"{\"a\":\"\xed\xa0\x80\"}", protocol.CodeParseError, "the text is not UTF-8"},
		{deep(10_001), protocol.CodeParseError, "the text is nested more than 10000 levels deep"},
		{strings.Repeat(`{"a":`, 10_001), protocol.CodeParseError, "the text is nested more than 10000 levels deep"},
		{strings.Repeat(`[`, 10_000), protocol.CodeParseError, "the text is not JSON: unexpected end of JSON input"},
		{`[]`, protocol.CodeInvalidRequest, "a batch has 0 requests, allowed are 1 to 64"},
		{` [ ] `, protocol.CodeInvalidRequest, "a batch has 0 requests, allowed are 1 to 64"},
		{`[` + strings.Repeat(`{},`, protocol.MaxBatch) + `{}]`, protocol.CodeInvalidRequest, "a batch has 65 requests, allowed are 1 to 64"},
	} {
		_, _, err := parseRequests([]byte(tt.text))
		if err == nil || err.Code != tt.want || err.Message != tt.says {
			t.Errorf("%.40s: got %+v, want %d %s", tt.text, err, tt.want, tt.says)
		}
	}
}

// What stands in the place of a request and is none is answered, says what it
// lacks, and has the id of the request if that can be told.
func TestParseRequests_bad(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, id, says string }{
		{`7`, "null", "the message must be an object, not a number"},
		{`"ping"`, "null", "the message must be an object, not a string"},
		{`null`, "null", "the message must be an object, not null"},
		{`{}`, "null", `jsonrpc is "", not "2.0"`},
		{`{"jsonrpc":null,"method":"x","id":1}`, "1", `jsonrpc is "", not "2.0"`},
		{`{"jsonrpc":"1.0","method":"x","id":1}`, "1", `jsonrpc is "1.0", not "2.0"`},
		{`{"jsonrpc":"2.0","id":"a"}`, `"a"`, "method is missing"},
		{`{"jsonrpc":"2.0","id":"a","method":null}`, `"a"`, "method is missing"},
		{`{"jsonrpc":"2.0","id":"a","method":""}`, `"a"`, "method is missing"},
		{`{"jsonrpc":2.0,"method":"x","id":1}`, "null", "jsonrpc must be a string, not a number"},
		{`{"jsonrpc":"2.0","method":7,"id":1}`, "null", "method must be a string, not a number"},
		{`{"jsonrpc":"2.0","method":"x","id":{}}`, "null", "id must be a string or a number, not an object"},
		{`{"jsonrpc":"2.0","method":"x","id":[1]}`, "null", "id must be a string or a number, not an array"},
		{`{"jsonrpc":"2.0","method":"x","id":true}`, "null", "id must be a string or a number, not a boolean"},
		{`{"jsonrpc":"2.0","method":"x","id":1,"id":2}`, "null", "id comes twice"},
		{`{"jsonrpc":"2.0","method":"x","m\u0065thod":"y","id":1}`, "null", "method comes twice"},
		{`{"jsonrpc":"2.0","method":"x","ID":1}`, "null", "ID must be spelled id"},
		{`{"jsonrpc":"2.0","Method":"x","id":1}`, "null", "Method must be spelled method"},
		{`{"jsonrpc":"2.0","method":"x","Params":{},"id":1}`, "null", "Params must be spelled params"},
	} {
		for _, text := range []string{tt.text, "[" + tt.text + "]", "\n[ 1 , " + tt.text + " ] "} {
			requests, _, err := parseRequests([]byte(text))
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			r := requests[len(requests)-1]
			if r.bad == nil || r.bad.Code != protocol.CodeInvalidRequest || r.bad.Message != "not a JSON-RPC 2.0 request: "+tt.says {
				t.Errorf("%s: got %+v, want %s", text, r.bad, tt.says)
			}
			if string(r.ID) != tt.id {
				t.Errorf("%s: got the id %s, want %s", text, r.ID, tt.id)
			}
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
		if bad := r.bad != nil; bad != (i == protocol.MaxBatch-1) {
			t.Errorf("request %d: refused is %v", i, bad)
		}
	}
}

// An id is a string, a number, null or nothing, and comes back as it was. What
// else an object has is no matter.
func TestParseRequests_id(t *testing.T) {
	t.Parallel()
	for _, id := range []string{
		"", "1", "-0", "1.50e3", "1e400", "123456789012345678901234567890", `"a b"`, `""`, `"\u0000\"\\"`, `"é"`, "null",
		`"` + strings.Repeat("x", 60_000) + `"`,
	} {
		text := `{"jsonrpc":"2.0","new":[{}],"method":"x"}`
		want := ""
		if id != "" {
			text = `{"id" : ` + id + ` , "jsonrpc":"2\u002e0","method":"x"}`
			want = `{"jsonrpc":"2.0","id":` + id + `,"result":{}}`
		}
		requests, batch, err := parseRequests([]byte(text))
		if err != nil || batch || requests[0].bad != nil || requests[0].Method != "x" {
			t.Errorf("%.80s: got %+v, %v", text, requests, err)
			continue
		}
		if got := string(answerText(&requests[0].Request, struct{}{}, nil)); got != want {
			t.Errorf("got %.80s, want %.80s", got, want)
		}
	}
}

// A required parameter that is missing or null, and any of the wrong JSON type,
// are invalid parameters, and so is one under a name that is not quite its own
// or comes twice; one of the right type with a wrong value is a bad parameter;
// what is unknown is ignored.
func TestParseParams(t *testing.T) {
	t.Parallel()
	enter, send, page, login := &protocol.EnterParams{}, &protocol.SendParams{}, &protocol.MemberListParams{}, &protocol.LoginParams{}
	look, none := &protocol.MembersParams{}, &noParams{}
	const wrong = protocol.CodeInvalidParams
	number := func(n string) string {
		return n + ", which is not a whole number between -2^53 and 2^53, written without fraction and exponent"
	}
	for _, tt := range []struct {
		v    any
		text string
		code protocol.Code
		says string
	}{
		{enter, `{"roomInfo":{"roomID":"R","roomName":"n"},"requestKey":7,"new":[1],"NEW":{"new":1,"new":2}}`, 0, ""},
		{enter, ` { "roomInfo" : { "roomID" : "" } } `, 0, ""}, // its value is another matter
		{enter, `{"roomInfo":{"room\u0049D":"R"},"config":null,"requestKey":null}`, 0, ""},
		{enter, `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":null,"roomDestroyDelayTime":1e1}}`, 0, ""},
		{enter, ``, wrong, "roomInfo is missing"},
		{enter, `null`, wrong, "roomInfo is missing"},
		{enter, `{}`, wrong, "roomInfo is missing"},
		{enter, `{"roomInfo":null}`, wrong, "roomInfo must be an object, not null"},
		{enter, `{"roomInfo":{}}`, wrong, "roomInfo.roomID is missing"},
		{enter, `{"roomInfo":{"roomID":null,"roomName":"n"}}`, wrong, "roomInfo.roomID must be a string, not null"},
		{enter, `{"roomInfo":{"roomID":7}}`, wrong, "roomInfo.roomID must be a string, not a number"},
		{enter, `{"roomInfo":"R"}`, wrong, "roomInfo must be an object, not a string"},
		{enter, `{"roominfo":{"roomID":"R"}}`, wrong, "roominfo must be spelled roomInfo"},
		{enter, `{"roomInfo":{"roomID":"R","RoomName":"n"}}`, wrong, "roomInfo.RoomName must be spelled roomName"},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":1,"requestkey":2}`, wrong, "requestkey must be spelled requestKey"},
		{enter, `{"roomInfo":{"roomID":"R"},"requeſtKey":2}`, wrong, "requeſtKey must be spelled requestKey"}, // the long s
		{enter, `{"roomInfo":{"roomID":"R"},"roomInfo":{"roomName":"n"}}`, wrong, "roomInfo comes twice"},
		{enter, `{"roomInfo":{"roomID":"R","room\u0049D":"S"}}`, wrong, "roomInfo.roomID comes twice"},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":"7"}`, wrong, "requestKey must be a number, not a string"},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":7.5}`, protocol.CodeBadParameter, "requestKey is " + number("7.5")},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":7.0}`, protocol.CodeBadParameter, "requestKey is " + number("7.0")},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":1e99}`, protocol.CodeBadParameter, "requestKey is " + number("1e99")},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":9007199254740991}`, 0, ""},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":9007199254740992}`, protocol.CodeBadParameter, "requestKey is " + number("9007199254740992")},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":-9007199254740991}`, 0, ""},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":-9007199254740992}`, protocol.CodeBadParameter, "requestKey is " + number("-9007199254740992")},
		{enter, `{"roomInfo":{"roomID":"R"},"requestKey":` + strings.Repeat("1", 1000) + `}`, protocol.CodeBadParameter,
			"requestKey is " + number(strings.Repeat("1", maxShown)+"…")},
		{enter, `{"roomInfo":{"roomID":"R"},"config":{"roomDestroyDelayTime":"5"}}`, wrong, "config.roomDestroyDelayTime must be a number, not a string"},
		{enter, `{"roomInfo":{"roomID":"R"},"config":{"roomDestroyDelayTime":1e400}}`, protocol.CodeBadParameter,
			"config.roomDestroyDelayTime is 1e400, which is too large a number"},
		{enter, `[1]`, wrong, "params must be an object, not an array"},
		{enter, `"R"`, wrong, "params must be an object, not a string"},
		{enter, `{"roomInfo":{"roomID":"R"},"config":[]}`, wrong, "config must be an object, not an array"},
		{enter, `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":[]}}`, wrong, "config.roomAttributes must be an object, not an array"},
		{enter, `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":{"k":1}}}`, wrong, `config.roomAttributes["k"] must be a string, not a number`},
		{enter, `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":{"\u0000\n":null}}}`, wrong,
			`config.roomAttributes["\x00\n"] must be a string, not null`},
		{enter, `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":{"k":"1","K":"2","\u006b":"3"}}}`, wrong, `config.roomAttributes["k"] comes twice`},
		{enter, `{"roomInfo":{"roomID":"R"},"config":{"roomAttributes":{"` + strings.Repeat("é", 500) + `":1}}}`, wrong,
			`config.roomAttributes["` + strings.Repeat("é", maxShown/2) + `…"] must be a string, not a number`},
		{send, `{"roomID":"R","message":{"type":0,"message":""}}`, 0, ""},
		{send, `{"roomID":"R","message":{"message":"x"}}`, wrong, "message.type is missing"},
		{send, `{"roomID":"R","message":{"type":1}}`, wrong, "message.message is missing"},
		{send, `{"roomID":"R","message":{"type":1,"message":null}}`, wrong, "message.message must be a string, not null"},
		{send, `{"message":{"type":1,"message":"x"}}`, wrong, "roomID is missing"},
		{page, `{"roomID":"R","config":{"count":0}}`, 0, ""},
		{page, `{"roomID":"R","config":{"nextFlag":"x"}}`, wrong, "config.count is missing"},
		{page, `{"roomID":"R","config":{"count":2.5}}`, protocol.CodeBadParameter, "config.count is " + number("2.5")},
		{look, `{"roomID":"R","userIDs":[]}`, 0, ""},
		{look, `{"roomID":"R","userIDs":["a",null]}`, wrong, "userIDs[1] must be a string, not null"},
		{look, `{"roomID":"R","userIDs":["a",["b"]]}`, wrong, "userIDs[1] must be a string, not an array"},
		{login, `{"userID":"u","resume":{"sessionID":"s","rooms":[{"roomID":"R","epoch":1,"seq":2}]}}`, 0, ""},
		{login, `{"userID":"u","resume":null}`, 0, ""},
		{login, `{"userID":"u","resume":{}}`, wrong, "resume.sessionID is missing"},
		{login, `{"userID":"u","resume":{"sessionID":"s","rooms":{}}}`, wrong, "resume.rooms must be an array, not an object"},
		{login, `{"userID":"u","resume":{"sessionID":"s","rooms":[null]}}`, wrong, "resume.rooms[0] must be an object, not null"},
		{login, `{"userID":"u","resume":{"sessionID":"s","rooms":[{"roomID":"Q"},{"epoch":1}]}}`, wrong, "resume.rooms[1].roomID is missing"},
		{login, `{"userID":"u","resume":{"sessionID":"s","rooms":[{"roomID":"R","seq":"2"}]}}`, wrong, "resume.rooms[0].seq must be a number, not a string"},
		{login, `{"userID":["u"]}`, wrong, "userID must be a string, not an array"},
		{none, ``, 0, ""},
		{none, `{"what":"ever"}`, 0, ""},
		{none, `[]`, wrong, "params must be an object, not an array"},
	} {
		err := parseParams(json.RawMessage(strings.TrimSpace(tt.text)), fresh(tt.v))
		if tt.code == 0 {
			if err != nil {
				t.Errorf("%T %s: got %v", tt.v, tt.text, err)
			}
			continue
		}
		if err == nil || err.Code != tt.code || err.Message != tt.says {
			t.Errorf("%T %s: got %+v, want %d %s", tt.v, tt.text, err, tt.code, tt.says)
		}
	}
}

// fresh gives a new value of the type that v points to.
func fresh(v any) any { return reflect.New(reflect.TypeOf(v).Elem()).Interface() }

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
		{"requestKey", plain(checkRequestKey(maxWhole - 1)), plain(checkRequestKey(maxWhole)), protocol.CodeBadParameter},
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
			login(func(p *protocol.LoginParams) { p.Resume = &protocol.Resume{} }), protocol.CodeBadParameter},
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

// loose is a connection that is not logged in and that nothing closes, and what
// is written to it.
func loose() (*conn, *wire) {
	s, w := newSession("ana", "s", 1)
	c := s.c
	c.session.Store(nil)
	c.g.cfg.RateLimits, c.g.cfg.RedisTimeout = true, time.Hour
	c.closer.Do(func() {})
	return c, w
}

// refusals counts the answers written to w, and those of them that say too fast.
func refusals(t *testing.T, c *conn, w *wire) (all, tooFast int) {
	t.Helper()
	c.sock.mu.Lock()
	c.sock.flushed()
	c.sock.mu.Unlock()
	for _, text := range w.texts(t) {
		all += strings.Count(text, `"jsonrpc"`)
		tooFast += strings.Count(text, `"code":6000005`)
	}
	return all, tooFast
}

// Whatever a client sends counts against its rate as what it is: as one request,
// or as all of its batch.
func TestConn_message_counts(t *testing.T) {
	t.Parallel()
	const burst, n = 400, 1000
	one := func(text string) string { return text }
	for name, tt := range map[string]struct {
		text     string
		requests int // in it
		answers  int
	}{
		"ping":                {one(`{"jsonrpc":"2.0","id":1,"method":"ping"}`), 1, 1},
		"a number":            {one(`17`), 1, 1},
		"no method":           {one(`{"jsonrpc":"2.0","id":1}`), 1, 1},
		"an unknown method":   {one(`{"jsonrpc":"2.0","id":1,"method":"fly"}`), 1, 1},
		"params missing":      {one(`{"jsonrpc":"2.0","id":1,"method":"joinRoom"}`), 1, 1},
		"a wrong value":       {one(`{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":{"roomID":""}}`), 1, 1},
		"not to be answered":  {one(`{"jsonrpc":"2.0","method":"joinRoom"}`), 1, 0},
		"a batch of none":     {one(`[]`), 1, 1},
		"a batch of too many": {"[" + strings.Repeat("1,", protocol.MaxBatch) + "1]", 1, 1},
		"a batch":             {"[" + strings.Repeat(`1,{"jsonrpc":"2.0","id":1,"method":"fly"},`, protocol.MaxBatch/2-1) + "1,[]]", protocol.MaxBatch, protocol.MaxBatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // no time passes
				c, w := loose()
				for range n / tt.requests {
					handle(c, []byte(tt.text))
				}
				c.tasks.running.Wait()
				sent := n / tt.requests * tt.requests
				if c.tooFast != sent-burst {
					t.Errorf("%d of %d requests were too fast, want %d", c.tooFast, sent, sent-burst)
				}
				all, tooFast := refusals(t, c, w)
				if want := sent / tt.requests * tt.answers; all != want || tt.answers > 0 && tooFast != sent-burst {
					t.Errorf("got %d answers, %d of them too fast, want %d and %d", all, tooFast, want, sent-burst)
				}
			})
		})
	}
}

// As many requests may wait as are allowed, and in as many bytes; the next are
// refused, count against the rate all the same, and leave nothing behind.
func TestConn_admit(t *testing.T) {
	t.Parallel()
	renew := func(size int) []byte {
		text := `{"jsonrpc":"2.0","id":1,"method":"renewToken","params":{"token":""}}`
		return []byte(strings.Replace(text, `""`, `"`+strings.Repeat("x", size-len(text))+`"`, 1))
	}
	for name, tt := range map[string]struct{ size, want int }{
		"many":  {100, maxQueued},
		"large": {protocol.MaxMessage, maxWaiting / protocol.MaxMessage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // no time passes
				c, w := loose()
				release := make(chan struct{})
				go c.tasks.add(nil, 0, func(bool) func() { <-release; return nil })()
				for range tt.want + 10 {
					handle(c, renew(tt.size))
				}
				if all, tooFast := refusals(t, c, w); all != 10 || tooFast != 10 {
					t.Errorf("%d were answered while %d waited, %d as too fast, want 10", all, tt.want, tooFast)
				}
				if got, want := c.rates.all.Tokens(), float64(400-tt.want-10); got != want {
					t.Errorf("%v requests are left of the rate, want %v", got, want)
				}
				close(release)
				c.tasks.running.Wait()
				if all, tooFast := refusals(t, c, w); all != tt.want || tooFast != 0 {
					t.Errorf("%d were answered then, %d as too fast, want %d", all, tooFast, tt.want)
				}
				if n, m := c.queued.Load(), c.waiting.Load(); n != 0 || m != 0 {
					t.Errorf("%d requests of %d bytes are left", n, m)
				}
			})
		})
	}
}

// A request that is answered since its turn did not come in time counts among
// those that wait until its turn has come.
func TestConn_admit_late(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, w := loose()
		c.g.cfg.RateLimits, c.g.cfg.RedisTimeout = false, time.Second
		release := make(chan struct{})
		go c.tasks.add(nil, 0, func(bool) func() { <-release; return nil })()
		ask := func() {
			handle(c, []byte(`{"jsonrpc":"2.0","id":1,"method":"queryRoomOnlineMemberCount","params":{"roomID":"R"}}`))
		}
		for range maxQueued {
			ask()
		}
		time.Sleep(2 * time.Second)
		if all, tooFast := refusals(t, c, w); all != maxQueued || tooFast != 0 {
			t.Errorf("%d were answered, %d as too fast, want %d that were late", all, tooFast, maxQueued)
		}
		ask()
		if all, tooFast := refusals(t, c, w); all != 1 || tooFast != 1 {
			t.Errorf("one more than may wait: %d answers, %d too fast", all, tooFast)
		}
		close(release)
		c.tasks.running.Wait()
		if n, m := c.queued.Load(), c.waiting.Load(); n != 0 || m != 0 {
			t.Errorf("%d requests of %d bytes are left", n, m)
		}
	})
}
