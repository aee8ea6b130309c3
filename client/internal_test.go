package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/coder/websocket"
	"pgregory.net/rapid"

	"github.com/roomgate/roomgate/protocol"
)

// splitMessage finds in every JSON object what encoding/json finds, and no
// text makes it fail in another way than by an error.
func FuzzSplitMessage(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":12,"result":{"a":[1,{"b":"}"}],"c":"\"]"}}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}`,
		` { "method" : "roomMemberLeft" , "params" : { "roomID" : "r" } } `,
		`{"result":null,"id":9007199254740993,"error":null}`,
		`{}`, `{`, `[]`, `{"a":}`, `{"a":1,}`, `{"id":1}x`, `"`, `{"\u0069d":1}`, `{"params":"`, `{"params":[}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := splitMessage(b)
		var want struct {
			ID     json.RawMessage `json:"id"`
			Method json.RawMessage `json:"method"`
			Params json.RawMessage `json:"params"`
			Result json.RawMessage `json:"result"`
			Error  json.RawMessage `json:"error"`
		}
		if json.Unmarshal(b, &want) != nil || string(b) == "null" || !plain(b) {
			return // refused, or taken apart into parts that will be
		}
		if want.Method != nil && want.Method[0] != '"' {
			if err == nil {
				t.Errorf("%s: a method that is no string was accepted", b)
			}
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if string(want.Error) == "null" {
			want.Error = nil
		}
		method := want.Method
		if method != nil {
			method = method[1 : len(method)-1]
		}
		for name, parts := range map[string][2][]byte{
			"method": {got.method, method},
			"params": {got.params, want.Params},
			"result": {got.result, want.Result},
			"error":  {got.err, want.Error},
		} {
			if !bytes.Equal(parts[0], parts[1]) {
				t.Errorf("%s: got %s %s, want %s", b, name, parts[0], parts[1])
			}
		}
		var id int64
		if json.Unmarshal(want.ID, &id) == nil && id > 0 && id < 1<<53 && got.id != id {
			t.Errorf("%s: got id %d, want %d", b, got.id, id)
		}
	})
}

// plain says whether the names in an object are spelled as a gateway does,
// which encoding/json does not insist on, and each once.
func plain(b []byte) bool {
	d := json.NewDecoder(bytes.NewReader(b))
	seen := make(map[string]bool)
	depth := 0
	name := false
	for {
		tok, err := d.Token()
		if err != nil {
			break
		}
		switch tok := tok.(type) {
		case json.Delim:
			if tok == '{' || tok == '[' {
				depth++
			} else {
				depth--
			}
			name = depth == 1
		case string:
			if depth == 1 && name {
				lower := string(bytes.ToLower([]byte(tok)))
				if lower != tok || seen[lower] {
					return false
				}
				seen[lower] = true
				name = false
				continue
			}
			name = depth == 1
		default:
			name = depth == 1
		}
	}
	return !bytes.Contains(b, []byte(`\u`))
}

// No text from a gateway brings a client down.
func FuzzClient_handle(f *testing.F) {
	for _, s := range []string{
		`{"method":"roomStateChanged","params":{"roomID":"r","state":"connected","event":"success","epoch":7,"seq":3}}`,
		`{"method":"roomMemberJoined","params":{"roomID":"r","memberList":[{"userID":"bo"}],"seq":4}}`,
		`{"method":"roomMessageReceived","params":{"fromConversationID":"r","messageList":[{"message":"hi"}],"after":3}}`,
		`{"method":"roomAttributesUpdated","params":{"roomID":"r","infos":[{"action":"set","roomAttributes":{"a":"b"}}],"seq":-5}}`,
		`{"method":"roomHistoryLost","params":{"roomID":"r","fromSeq":3,"toSeq":9}}`,
		`{"method":"connectionStateChanged","params":{"state":"disconnected","event":"kickedOut"}}`,
		`{"method":"tokenWillExpire","params":{"second":30}}`,
		`{"method":"roomMemberLeft"}`,
		`{"id":2,"result":{}}`, `{"id":2,"error":{"code":6000001,"message":"no"}}`, `{"id":2,"error":7}`, `{"id":2}`,
	} {
		f.Add([]byte(s), []byte(s))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c := &Client{
			cfg:     Config{OnEvent: func(Event) {}, RawEvents: len(first)%2 == 0},
			log:     slog.New(slog.DiscardHandler),
			pending: map[int64]*call{2: {method: "ping", done: make(chan answer, 1)}},
		}
		l := &link{loginID: 1}
		for _, b := range [][]byte{first, second} {
			if m, err := splitMessage(b); err == nil && (m.id == 1 || string(m.method) == protocol.EventServerDraining) {
				continue // these start timers
			}
			if err := c.handle(t.Context(), l, websocket.MessageText, b); err != nil {
				t.Errorf("%s: %v", b, err)
			}
		}
	})
}

// However often links break and entries are repeated, each event after the
// entry is passed on once, and none is taken for a duplicate.
func TestRoom_take(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		head := rapid.Int64Range(1, 20).Draw(t, "head")
		entry := rapid.Int64Range(0, head).Draw(t, "entry")
		passed := make(map[int64]int)
		var r *room
		// play says (connected, success) at a position and sends some of, or
		// all, that follows it.
		play := func(from, to int64) {
			at := protocol.Position{Epoch: 7, Seq: from}
			if r == nil {
				r = &room{at: at, base: from}
			}
			r.connected(at)
			for seq := from + 1; seq <= to; seq++ {
				switch r.take(seq) {
				case fresh:
					passed[seq]++
				case duplicate:
					t.Fatalf("%d taken for a duplicate after %d", seq, from)
				}
			}
			if to > from && !r.replaying && r.take(to) != duplicate {
				t.Fatalf("%d is no duplicate the second time", to)
			}
		}
		to := func(from int64) int64 { return rapid.Int64Range(from, head).Draw(t, "to") }
		if rapid.Bool().Draw(t, "seen the entry") {
			play(entry, to(entry))
		} else { // the first resume does not name the room
			play(head, head)
		}
		for range rapid.IntRange(0, 5).Draw(t, "links") {
			head += rapid.Int64Range(0, 5).Draw(t, "more")
			play(r.at.Seq, to(r.at.Seq))
			if rapid.Bool().Draw(t, "repeat") {
				play(entry, to(entry))
			}
		}
		play(r.at.Seq, head)
		play(entry, head+1)
		for seq := entry + 1; seq <= head+1; seq++ {
			if passed[seq] != 1 {
				t.Errorf("%d was passed on %d times", seq, passed[seq])
			}
		}
	})
}

// What each event is taken for, step by step.
func TestRoom_steps(t *testing.T) {
	type step struct {
		connected int64 // -1: an event instead
		seq       int64
		want      verdict
	}
	at := func(seq int64) step { return step{connected: seq} }
	ev := func(seq int64, want verdict) step { return step{-1, seq, want} }
	for name, steps := range map[string][]step{
		"a repeat ends with the first new event": {
			at(3), ev(4, fresh), ev(5, fresh), at(3), ev(4, repeated), ev(6, fresh), ev(5, duplicate),
		},
		"a resume ends a repeat": {at(3), ev(4, fresh), ev(5, fresh), at(3), at(5), ev(4, duplicate)},
		"a jump ends a repeat":   {at(3), ev(4, fresh), ev(5, fresh), at(3), at(10), ev(9, duplicate), ev(11, fresh)},
		"no repeat at the head":  {at(3), ev(4, fresh), at(4), ev(4, duplicate), ev(5, fresh)},
		"back to what was lost":  {at(3), ev(4, fresh), at(10), ev(11, fresh), at(8), ev(9, fresh), ev(11, repeated), ev(12, fresh)},
		"no seq":                 {at(3), ev(0, fresh), ev(0, fresh), ev(4, fresh)},
	} {
		t.Run(name, func(t *testing.T) {
			r := &room{at: protocol.Position{Epoch: 7, Seq: steps[0].connected}, base: steps[0].connected}
			for i, s := range steps {
				if s.connected >= 0 {
					r.connected(protocol.Position{Epoch: 7, Seq: s.connected})
				} else if got := r.take(s.seq); got != s.want {
					t.Errorf("step %d: event %d: got %d, want %d", i, s.seq, got, s.want)
				}
			}
		})
	}
}

func BenchmarkClient_handle(b *testing.B) {
	for name, s := range map[string]string{
		"message": `{"jsonrpc":"2.0","method":"roomMessageReceived","params":{"fromConversationID":"lobby","messageList":[{"type":1,"message":"` +
			string(bytes.Repeat([]byte("x"), 128)) + `","subType":0,"extendedData":"","priority":1,"senderUserID":"ana","conversationID":"lobby","conversationType":1,"messageID":"1234567890123456","messageSeq":12,"orderKey":12,"timestamp":1700000000000}],"info":{"isOfflineMessage":false},"after":12}}`,
		"joined": `{"jsonrpc":"2.0","method":"roomMemberJoined","params":{"roomID":"lobby","memberList":[{"userID":"bo","userName":"Bo","userAvatarUrl":"","userExtendedData":""}],"memberCount":17,"seq":0}}`,
		"answer": `{"jsonrpc":"2.0","id":2,"result":{"roomID":"lobby"}}`,
	} {
		for _, raw := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s raw=%t", name, raw), func(b *testing.B) {
				c := &Client{cfg: Config{OnEvent: func(Event) {}, RawEvents: raw}, log: slog.New(slog.DiscardHandler)}
				l := &link{loginID: 1}
				text := []byte(s)
				b.ReportAllocs()
				for b.Loop() {
					if err := c.handle(context.Background(), l, websocket.MessageText, text); err != nil {
						b.Fatal(err)
					}
				}
				if c.stats.Malformed > 0 {
					b.Error("malformed")
				}
			})
		}
	}
}
