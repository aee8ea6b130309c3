//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"github.com/roomgate/roomgate/protocol"
)

// wire is a client that knows nothing but frames, on a WebSocket library that
// is not ours. What it receives waits, in its order, to be looked at.
type wire struct {
	t    testing.TB
	name string
	ws   *websocket.Conn
	done chan struct{} // closed when reading has ended

	id   int         // of the last request
	mute atomic.Bool // pings are not answered

	mu      sync.Mutex
	frames  []string
	arrived chan struct{} // holds one: there is a frame, or the end
	err     error         // that ended reading
}

// connect opens a connection.
func connect(t testing.TB, url string) *wire {
	t.Helper()
	w, res, err := tryConnect(t, url, nil)
	if err != nil {
		t.Fatalf("connect to %s: %v (%v)", url, err, res)
	}
	return w
}

// tryConnect is connect for a handshake that may be refused.
func tryConnect(t testing.TB, url string, header http.Header) (*wire, *http.Response, error) {
	ws, res, err := websocket.DefaultDialer.DialContext(t.Context(), url+protocol.Path, header)
	if res != nil {
		res.Body.Close() // a refusal's is held in memory
	}
	if err != nil {
		return nil, res, err
	}
	w := &wire{t: t, ws: ws, done: make(chan struct{}), arrived: make(chan struct{}, 1)}
	ws.SetPingHandler(func(data string) error {
		if !w.mute.Load() {
			// That it cannot be sent is found out by reading. The library's own
			// handler gives up for good after a second, which is too little here.
			ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(patience))
		}
		return nil
	})
	go w.read()
	t.Cleanup(func() {
		w.drop()
		if t.Failed() && w.name != "" {
			t.Logf("%s: connection ended with %v", w.name, w.err)
		}
	})
	return w, res, nil
}

// enroll opens a connection to a gateway and logs a user in.
func enroll(g *gateway, t testing.TB, user string) *wire {
	t.Helper()
	w := connect(t, g.URL())
	w.login(`{"userID":"` + user + `"}`)
	return w
}

// login logs in and gives the result. The params are JSON.
func (w *wire) login(params string) protocol.LoginResult {
	w.t.Helper()
	var p protocol.LoginParams
	if err := json.Unmarshal([]byte(params), &p); err != nil {
		w.t.Fatal(err)
	}
	w.name = p.UserID
	w.send(protocol.MethodLogin, params)
	var r protocol.LoginResult
	w.result(&r)
	return r
}

// read collects what comes until the connection ends.
func (w *wire) read() {
	defer close(w.done)
	for {
		_, b, err := w.ws.ReadMessage()
		w.mu.Lock()
		if err != nil {
			w.err = err
		} else {
			w.frames = append(w.frames, string(b))
		}
		select {
		case w.arrived <- struct{}{}:
		default:
		}
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// drop ends the connection without a word, as a lost link does.
func (w *wire) drop() {
	w.ws.NetConn().Close()
	<-w.done
}

// raw sends a text.
func (w *wire) raw(text string) {
	w.t.Helper()
	w.ws.SetWriteDeadline(time.Now().Add(patience))
	err := w.ws.WriteMessage(websocket.TextMessage, []byte(text))
	// If the gateway has said goodbye just now, who reads hears why.
	if err != nil && !errors.Is(err, websocket.ErrCloseSent) {
		w.t.Fatalf("%s: send: %v", w.name, err)
	}
}

// send sends a request; params are JSON. It gives its id.
func (w *wire) send(method, params string) int {
	w.t.Helper()
	w.id++
	w.raw(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, w.id, method, params))
	return w.id
}

// next takes the next frame. ok is false when the connection has ended.
func (w *wire) next() (frame string, ok bool) {
	w.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		w.mu.Lock()
		if len(w.frames) > 0 {
			frame := w.frames[0]
			w.frames = w.frames[1:]
			w.mu.Unlock()
			return frame, true
		}
		err := w.err
		w.mu.Unlock()
		if err != nil {
			return "", false
		}
		select {
		case <-w.arrived:
		case <-w.done:
		case <-deadline.C:
			w.t.Fatalf("%s: nothing came for %v", w.name, patience)
		}
	}
}

// take takes the next frame, which there has to be.
func (w *wire) take() string {
	w.t.Helper()
	frame, ok := w.next()
	if !ok {
		w.t.Fatalf("%s: the connection has ended: %v", w.name, w.err)
	}
	return frame
}

// response takes frames up to the next response, and gives both.
func (w *wire) response() (events []string, r protocol.Response) {
	w.t.Helper()
	for {
		frame := w.take()
		var m struct {
			protocol.Response
			Method string `json:"method"`
		}
		if err := json.Unmarshal([]byte(frame), &m); err != nil {
			w.t.Fatalf("%s: got %q: %v", w.name, frame, err)
		}
		if m.Method == "" {
			return events, m.Response
		}
		events = append(events, frame)
	}
}

// result takes the next response, which has to be a result. Events before it
// stay where they are.
func (w *wire) result(v any) {
	w.t.Helper()
	events, r := w.response()
	w.mu.Lock()
	w.frames = append(events, w.frames...)
	w.mu.Unlock()
	if r.Error != nil {
		w.t.Fatalf("%s: got error %d: %s", w.name, r.Error.Code, r.Error.Message)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(r.Result, v); err != nil {
		w.t.Fatalf("%s: result %s: %v", w.name, r.Result, err)
	}
}

// refused takes the next response, which has to be this error, and gives what
// it says.
func (w *wire) refused(code protocol.Code) *protocol.Error {
	w.t.Helper()
	_, r := w.response()
	if r.Error == nil || r.Error.Code != code {
		w.t.Fatalf("%s: got %s %v, want error %d", w.name, r.Result, r.Error, code)
	}
	return r.Error
}

// ask makes a request and gives its result. Events that come before that can
// still be looked at.
func (w *wire) ask(method, params string, v any) {
	w.t.Helper()
	w.send(method, params)
	w.result(v)
}

// enter enters a room. What the client heard until then is passed over.
func (w *wire) enter(room string) protocol.Room {
	w.t.Helper()
	var r protocol.Room
	w.ask(protocol.MethodEnterRoom, fmt.Sprintf(`{"roomInfo":{"roomID":%q,"roomName":"A room"}}`, room), &r)
	w.until(room + " connected success")
	return r
}

// say sends a text message and waits for the answer.
func (w *wire) say(room, text string) protocol.Message {
	w.t.Helper()
	var r protocol.SendResult
	w.ask(protocol.MethodSendRoomMessage, textMessage(room, text), &r)
	return r.Message
}

func textMessage(room, text string) string {
	return fmt.Sprintf(`{"roomID":%q,"message":{"type":1,"message":%q}}`, room, text)
}

// until takes frames up to one, and gives all in brief.
func (w *wire) until(last string) []string {
	w.t.Helper()
	var got []string
	for {
		frame, ok := w.next()
		if !ok {
			w.t.Fatalf("%s: the connection ended (%v) before %q; got %q", w.name, w.err, last, got)
		}
		b := brief(frame)
		got = append(got, b)
		if b == last {
			return got
		}
	}
}

// hears makes sure that the next frames are these, and that no more have come.
func (w *wire) hears(want ...string) {
	w.t.Helper()
	var got []string
	for range want {
		got = append(got, brief(w.take()))
	}
	if d := cmp.Diff(want, got); d != "" {
		w.t.Errorf("%s (-want +got):\n%s", w.name, d)
	}
	w.settled()
}

// settled makes sure that nothing more has come than what was looked at. It
// asks for an answer that waits for nothing.
func (w *wire) settled() {
	w.t.Helper()
	w.send(protocol.MethodPing, "{}")
	if got := w.until("ok"); len(got) > 1 {
		w.t.Errorf("%s: got %q, want nothing more", w.name, got[:len(got)-1])
	}
}

// closed waits for the end of the connection, and gives its code and reason.
// Frames that came before are passed over.
func (w *wire) closed() (code int, reason string) {
	w.t.Helper()
	for {
		if _, ok := w.next(); !ok {
			break
		}
	}
	if ce := (*websocket.CloseError)(nil); errors.As(w.err, &ce) {
		return ce.Code, ce.Text
	}
	return websocket.CloseAbnormalClosure, w.err.Error()
}

// wantClosed waits for the end of the connection with a code.
func (w *wire) wantClosed(code protocol.CloseCode) {
	w.t.Helper()
	if got, reason := w.closed(); got != int(code) {
		w.t.Errorf("%s: closed with %d %q, want %d", w.name, got, reason, code)
	}
}

// brief says in a few words what a frame is: "ok" or "error 6000321" for an
// answer, "R connected success", "R +ana 2" and "R -ana 1" with the count,
// "R ana: hi", "R lost 3-7", "connection disconnected success".
func brief(frame string) string {
	if strings.HasPrefix(frame, "[") {
		var all []json.RawMessage
		json.Unmarshal([]byte(frame), &all)
		var parts []string
		for _, one := range all {
			parts = append(parts, brief(string(one)))
		}
		return "[" + strings.Join(parts, " ") + "]"
	}
	var m struct {
		protocol.Response
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
	}
	if err := json.Unmarshal([]byte(frame), &m); err != nil {
		return "not JSON: " + frame
	}
	read := func(v any) {
		if err := json.Unmarshal(m.Params, v); err != nil {
			panic(fmt.Sprintf("%s: %v", frame, err))
		}
	}
	members := func(sign string) string {
		var p protocol.MembersChanged
		read(&p)
		var users []string
		for _, u := range p.MemberList {
			users = append(users, u.UserID)
		}
		return fmt.Sprintf("%s %s%s %d", p.RoomID, sign, strings.Join(users, ","), p.MemberCount)
	}
	switch m.Method {
	case "":
		if m.Error != nil {
			return fmt.Sprintf("error %d", m.Error.Code)
		}
		return "ok"
	case protocol.EventRoomStateChanged:
		var p protocol.RoomStateChanged
		read(&p)
		return strings.TrimSuffix(fmt.Sprintf("%s %s %s %s", p.RoomID, p.State, p.Event, p.ExtendedData), " ")
	case protocol.EventRoomMemberJoined:
		return members("+")
	case protocol.EventRoomMemberLeft:
		return members("-")
	case protocol.EventRoomMessageReceived:
		var p protocol.MessageReceived
		read(&p)
		var parts []string
		for _, one := range p.MessageList {
			parts = append(parts, one.SenderUserID+": "+one.Message)
		}
		return p.FromConversationID + " " + strings.Join(parts, ", ")
	case protocol.EventRoomAttributesUpdated:
		var p protocol.AttributesUpdated
		read(&p)
		b, _ := json.Marshal(p.Infos)
		return fmt.Sprintf("%s attributes %s", p.RoomID, b)
	case protocol.EventRoomAttributesBatchUpdated:
		var p protocol.AttributesUpdated
		read(&p)
		b, _ := json.Marshal(p.Infos)
		return fmt.Sprintf("%s attributes batch %s", p.RoomID, b)
	case protocol.EventRoomMemberAttributesUpdated:
		var p protocol.MemberAttributesUpdated
		read(&p)
		var parts []string
		for _, info := range p.Infos {
			b, _ := json.Marshal(info.AttributesInfo.Attributes)
			parts = append(parts, info.AttributesInfo.UserID+" "+string(b))
		}
		return fmt.Sprintf("%s %s sets %s", p.RoomID, p.OperatedInfo.UserID, strings.Join(parts, ", "))
	case protocol.EventRoomHistoryLost:
		var p protocol.HistoryLost
		read(&p)
		return fmt.Sprintf("%s lost %d-%d", p.RoomID, p.FromSeq, p.ToSeq)
	case protocol.EventConnectionStateChanged:
		var p protocol.ConnectionStateChanged
		read(&p)
		return fmt.Sprintf("connection %s %s", p.State, p.Event)
	}
	return m.Method + " " + string(m.Params)
}
