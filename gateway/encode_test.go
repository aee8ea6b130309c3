package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// hostile are texts that a careless encoder breaks on.
var hostile = []string{
	"", "plain", `"quoted"`, `back\slash`, "new\nline\r\t", "\x00\x01\x1f\x7f", "<script>&amp;", "ünïcödé ☃ 🎉",
	"\u2028\u2029", `{"a":1}`, `","seq":9,"x":"`, strings.Repeat("x", 70_000), "\ufffd",
}

// strict decodes params of an event into the type the protocol has for it.
func strict(t *testing.T, frame []byte, method string, into any) {
	t.Helper()
	frames, err := parseFrames(frame)
	if err != nil || len(frames) != 1 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	decode := func(b []byte, v any) {
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err := d.Decode(v); err != nil {
			t.Fatalf("%.300s: %v", b, err)
		}
	}
	var n protocol.Notification
	decode(frames[0].payload, &n)
	decode(n.Params, into)
	if n.JSONRPC != protocol.Version || n.Method != method {
		t.Errorf("got %s %s, want %s", n.JSONRPC, n.Method, method)
	}
}

// allIDs is a room ID of all characters that one may have.
const allIDs = "AZaz09!#$%&()+-:;<=.>?@[]^_{}|~, "

// Events built by hand say what the protocol's types say, whatever users put
// into them.
func TestEncode(t *testing.T) {
	t.Parallel()
	id := roomstore.RoomID(allIDs)
	for _, text := range hostile {
		user := protocol.UserInfo{UserID: allIDs[:32], UserName: text, UserAvatarURL: text, UserExtendedData: text}
		other := protocol.UserInfo{UserID: "bo"}
		data := []string{string(encoded(user)), string(encoded(other))}

		var m protocol.MembersChanged
		strict(t, membersFrame(protocol.EventRoomMemberJoined, id, data, 1<<40, seqOf(1<<53-1)), protocol.EventRoomMemberJoined, &m)
		want := protocol.MembersChanged{RoomID: allIDs, MemberList: []protocol.UserInfo{user, other}, MemberCount: 1 << 40, Seq: 1<<53 - 1}
		if diff := cmp.Diff(want, m); diff != "" {
			t.Error(diff)
		}

		payload := string(encoded(messagePayload{
			Type: protocol.MessageText, Message: text, SubType: 7, ExtendedData: text, Priority: protocol.PriorityHigh,
			SenderUserID: user.UserID, ConversationID: allIDs, ConversationType: 1,
		}))
		e := roomstore.Event{
			Position: at(5, 9), Kind: roomstore.KindMessage, At: 1 << 41, MessageSeq: 4, OrderKey: 1 << 50, MessageID: "123", Data: payload,
		}
		msg := protocol.Message{
			Type: protocol.MessageText, Message: text, SubType: 7, ExtendedData: text, Priority: protocol.PriorityHigh,
			SenderUserID: user.UserID, ConversationID: allIDs, ConversationType: 1,
			MessageID: "123", MessageSeq: 4, OrderKey: 1 << 50, Timestamp: 1 << 41,
		}
		after := int64(9)
		for kind, want := range map[roomstore.Kind]protocol.MessageReceived{
			roomstore.KindMessage: {FromConversationID: allIDs, MessageList: []protocol.Message{msg}, Seq: 9},
			roomstore.KindCommand: {FromConversationID: allIDs, MessageList: []protocol.Message{msg}, After: &after},
		} {
			e.Kind = kind
			var got protocol.MessageReceived
			strict(t, messageReceived(id, e), protocol.EventRoomMessageReceived, &got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		}

		var a protocol.AttributesUpdated
		strict(t, attributesOnEntry(id, at(5, 9), []roomstore.Attribute{{Key: "k", Value: text}}), protocol.EventRoomAttributesUpdated, &a)
		if a.Infos[0].RoomAttributes["k"] != text || a.Seq != 9 || a.RoomID != allIDs {
			t.Errorf("got %+v", a)
		}
		var s protocol.RoomStateChanged
		strict(t, roomOver(id, protocol.RoomKickedOut, text), protocol.EventRoomStateChanged, &s)
		if diff := cmp.Diff(protocol.RoomStateChanged{RoomID: allIDs, State: protocol.RoomDisconnected, Event: protocol.RoomKickedOut, ExtendedData: text}, s); diff != "" {
			t.Error(diff)
		}
	}
	var s protocol.RoomStateChanged
	strict(t, roomConnected(id, at(5, 9)), protocol.EventRoomStateChanged, &s)
	if diff := cmp.Diff(protocol.RoomStateChanged{RoomID: allIDs, State: protocol.RoomConnected, Event: protocol.RoomSuccess, Epoch: 5, Seq: 9}, s); diff != "" {
		t.Error(diff)
	}
	var lost protocol.HistoryLost
	strict(t, historyLost(id, 3, 7), protocol.EventRoomHistoryLost, &lost)
	if diff := cmp.Diff(protocol.HistoryLost{RoomID: allIDs, FromSeq: 3, ToSeq: 7}, lost); diff != "" {
		t.Error(diff)
	}
	var none protocol.MembersChanged
	strict(t, membersFrame(protocol.EventRoomMemberLeft, id, nil, 0, membersSeqOf(4)), protocol.EventRoomMemberLeft, &none)
	if diff := cmp.Diff(protocol.MembersChanged{RoomID: allIDs, MemberList: []protocol.UserInfo{}, MembersSeq: 4}, none); diff != "" {
		t.Error(diff)
	}
}

// Answers are responses of JSON-RPC 2.0 with the id of their request.
func TestEncode_answers(t *testing.T) {
	t.Parallel()
	for _, id := range []string{`1`, `"a<b>\""`, `null`, `-1.5e3`} {
		var r protocol.Response
		if err := json.Unmarshal(resultText(json.RawMessage(id), []byte(`{"a":[1,"x"]}`)), &r); err != nil {
			t.Fatal(err)
		}
		if r.JSONRPC != protocol.Version || string(r.ID) != id || string(r.Result) != `{"a":[1,"x"]}` || r.Error != nil {
			t.Errorf("%s: got %+v", id, r)
		}
		r = protocol.Response{}
		if err := json.Unmarshal(errorText(json.RawMessage(id), fail(protocol.CodeNoRoom, "no %s", `"x"`)), &r); err != nil {
			t.Fatal(err)
		}
		var want, got any
		json.Unmarshal([]byte(id), &want)
		json.Unmarshal(r.ID, &got)
		if want != got || r.Error == nil || r.Error.Code != protocol.CodeNoRoom || r.Error.Message != `no "x"` || r.Result != nil {
			t.Errorf("%s: got %+v", id, r)
		}
	}
	if got := string(errorText(nil, fail(-1, "x"))); got != `{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"x"}}` {
		t.Errorf("got %s", got)
	}
}

// Frames of every class of length are read by a WebSocket client.
func TestTextFrame(t *testing.T) {
	t.Parallel()
	lengths := []int{0, 1, 125, 126, 127, 65535, 65536, 65537, 200_000}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := &hijacker{ResponseWriter: w, wrap: func(c net.Conn) *socket { return newSocket(c, 1<<20) }}
		ws, err := websocket.Accept(h, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		for _, n := range lengths {
			h.socket.Queue(textFrame(n/2, func(b []byte) []byte { return append(b, strings.Repeat("x", n)...) }), classKept)
			h.socket.Queue(pingFrame, classPull)
		}
		ws.Close(4321, "done")
	}))
	defer server.Close()
	ws, _, err := websocket.Dial(t.Context(), server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(-1)
	for _, n := range lengths {
		kind, b, err := ws.Read(t.Context())
		if err != nil || kind != websocket.MessageText || len(b) != n {
			t.Fatalf("got %d bytes of %v, %v, want %d", len(b), kind, err, n)
		}
	}
	if _, _, err := ws.Read(t.Context()); websocket.CloseStatus(err) != 4321 {
		t.Errorf("got %v", err)
	}
}

// The keys that are made for a client that sends none lie between its own, rise,
// and are no other connection's.
func TestSession_key(t *testing.T) {
	t.Parallel()
	s, _ := newSession("ana", "s", 1700)
	other, _ := newSession("ana", "s", 1701)
	number := func(k roomstore.RequestKey) float64 {
		f, err := json.Number(k).Float64()
		if err != nil {
			t.Errorf("%q is no number", k)
		}
		return f
	}
	keys := []roomstore.RequestKey{s.key(0), s.key(0), s.key(7), s.key(0), s.key(0), s.key(8), s.key(0)}
	for i := 1; i < len(keys); i++ {
		if number(keys[i]) <= number(keys[i-1]) {
			t.Errorf("%s comes after %s", keys[i], keys[i-1])
		}
	}
	if keys[2] != "7" || keys[5] != "8" {
		t.Errorf("the client's own: got %v", keys)
	}
	s.key(3) // a repeat
	if k := s.key(0); number(k) <= 8 || number(k) >= 9 {
		t.Errorf("after a repeat: got %s", k)
	}
	if a, b := s.key(0), other.key(0); a == b {
		t.Errorf("two connections made %s", a)
	}
	seen := map[string]bool{}
	for range 1000 {
		id := newMessageID()
		var n json.Number
		if seen[id] || json.Unmarshal([]byte(id), &n) != nil {
			t.Errorf("message ID %s", id)
		}
		seen[id] = true
	}
	if got := fmt.Sprint(shedClass(0), shedClass(1), shedClass(2), shedClass(3), shedClass(9)); got != "2 2 3 4 4" {
		t.Errorf("classes: %s", got)
	}
}
