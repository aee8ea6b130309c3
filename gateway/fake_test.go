package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/pubsub"
	"github.com/roomgate/roomgate/roomstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, redistest.Dialing()) }

// wire is a network connection that keeps what is written to it. While it is
// stopped, writes wait.
type wire struct {
	net.Conn // nil: what is not below is not used

	mu      sync.Mutex
	cond    sync.Cond
	written bytes.Buffer
	writes  int
	stopped bool
	closed  bool
	err     error // of the next write
}

func newWire() *wire {
	w := &wire{}
	w.cond.L = &w.mu
	return w
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.stopped && !w.closed {
		w.cond.Wait()
	}
	w.writes++
	switch {
	case w.closed:
		return 0, net.ErrClosed
	case w.err != nil:
		return 0, w.err
	}
	return w.written.Write(p)
}

func (w *wire) Read([]byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.closed {
		w.cond.Wait()
	}
	return 0, net.ErrClosed
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.cond.Broadcast()
	return nil
}

// stop makes writes wait, or lets them go on.
func (w *wire) stop(yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = yes
	w.cond.Broadcast()
}

// take gives what has been written and forgets it.
func (w *wire) take() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := bytes.Clone(w.written.Bytes())
	w.written.Reset()
	return b
}

// parsed is a frame as read back.
type parsed struct {
	opcode  byte
	payload []byte
}

// parseFrames reads what a server wrote (RFC 6455, section 5.2).
func parseFrames(b []byte) ([]parsed, error) {
	var frames []parsed
	for len(b) > 0 {
		if len(b) < 2 {
			return frames, fmt.Errorf("cut off in a header: %x", b)
		}
		if b[0]&0x80 == 0 || b[0]&0x70 != 0 || b[1]&0x80 != 0 {
			return frames, fmt.Errorf("header %x is not one of a whole, unmasked frame", b[:2])
		}
		op, n, head := b[0]&0x0f, uint64(b[1]), 2
		switch n {
		case 126:
			n, head = uint64(binary.BigEndian.Uint16(b[2:])), 4
		case 127:
			n, head = binary.BigEndian.Uint64(b[2:]), 10
		}
		if uint64(len(b)-head) < n {
			return frames, fmt.Errorf("a frame of %d bytes has %d", n, len(b)-head)
		}
		frames = append(frames, parsed{op, b[head : head+int(n)]})
		b = b[head+int(n):]
	}
	return frames, nil
}

// texts gives the messages written to w since the last time.
func (w *wire) texts(t testing.TB) []string {
	t.Helper()
	frames, err := parseFrames(w.take())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range frames {
		if f.opcode == 1 {
			out = append(out, string(f.payload))
		}
	}
	return out
}

// brief makes a message short: "R connected success 1.4", "R +ana 2 #4",
// "R bo: hi #5", "R bo! hi >5", "answer …".
func brief(t testing.TB, text string) string {
	t.Helper()
	var m struct {
		ID     json.RawMessage
		Method string
		Params json.RawMessage
		Result json.RawMessage
		Error  *protocol.Error
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	params := func(v any) {
		d := json.NewDecoder(bytes.NewReader(m.Params))
		d.DisallowUnknownFields()
		if err := d.Decode(v); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	at := func(seq int64) string {
		if seq == 0 {
			return ""
		}
		return fmt.Sprintf(" #%d", seq)
	}
	switch m.Method {
	case protocol.EventRoomStateChanged:
		var p protocol.RoomStateChanged
		params(&p)
		s := fmt.Sprintf("%s %s %s", p.RoomID, p.State, p.Event)
		if p.Epoch != 0 {
			s += fmt.Sprintf(" %d.%d", p.Epoch, p.Seq)
		}
		if p.ExtendedData != "" {
			s += " " + p.ExtendedData
		}
		return s
	case protocol.EventRoomMemberJoined, protocol.EventRoomMemberLeft:
		var p protocol.MembersChanged
		params(&p)
		s := p.RoomID
		for _, u := range p.MemberList {
			s += " " + map[bool]string{true: "+", false: "-"}[m.Method == protocol.EventRoomMemberJoined] + u.UserID
		}
		if p.MembersSeq != 0 {
			return fmt.Sprintf("%s %d members #%d", s, p.MemberCount, p.MembersSeq)
		}
		return fmt.Sprintf("%s %d%s", s, p.MemberCount, at(p.Seq))
	case protocol.EventRoomMessageReceived:
		var p protocol.MessageReceived
		params(&p)
		s := p.FromConversationID
		for _, msg := range p.MessageList {
			mark := ":"
			if !msg.Type.Kept() {
				mark = "!"
			}
			s += " " + msg.SenderUserID + mark + " " + msg.Message
		}
		if p.After != nil {
			return fmt.Sprintf("%s >%d", s, *p.After)
		}
		if p.MembersSeq != 0 {
			return fmt.Sprintf("%s%s members #%d", s, at(p.Seq), p.MembersSeq)
		}
		return s + at(p.Seq)
	case protocol.EventRoomHistoryLost:
		var p protocol.HistoryLost
		params(&p)
		return fmt.Sprintf("%s lost %d-%d", p.RoomID, p.FromSeq, p.ToSeq)
	case protocol.EventRoomModeChanged:
		var p protocol.RoomModeChanged
		params(&p)
		return fmt.Sprintf("%s mode %s #%d", p.RoomID, p.Mode, p.Seq)
	case "":
		if m.Error != nil {
			return fmt.Sprintf("error %s %d", m.ID, m.Error.Code)
		}
		return fmt.Sprintf("answer %s", m.ID)
	}
	return m.Method + " " + string(m.Params)
}

// briefs gives the messages written since the last time, made short.
func (w *wire) briefs(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, text := range w.texts(t) {
		out = append(out, brief(t, text))
	}
	return out
}

func expect(t testing.TB, w *wire, want ...string) {
	t.Helper()
	if got := w.briefs(t); !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// answerFrame stands for the answer to a request.
func answerFrame(id string) []byte {
	return textOf(resultText(json.RawMessage(`"`+id+`"`), []byte("{}")))
}

// newSession gives a session whose connection is a wire.
func newSession(user, id string, generation int64) (*session, *wire) {
	w := newWire()
	g := &Gateway{cfg: Config{OnClose: func(int) {}, OnRequest: func(string, int) {}}}
	c := &conn{g: g, sock: newSocket(w, 1<<20), gone: make(chan struct{})}
	s := &session{
		who:   roomstore.Session{User: roomstore.UserID(user), ID: roomstore.SessionID(id), Generation: generation, Node: "n"},
		c:     c,
		rooms: map[roomstore.RoomID]*feed{},
		data:  userData(user),
	}
	c.session.Store(s)
	return s, w
}

func userData(user string) string {
	return string(encoded(protocol.UserInfo{UserID: user, UserName: "name of " + user}))
}

// fakeBus hands to each handler what is published to its topic, at once.
type fakeBus struct {
	mu       sync.Mutex
	handlers map[string]pubsub.Handler
	refuse   error // of the next Subscribe
	wait     chan struct{}
}

func (b *fakeBus) Subscribe(ctx context.Context, topic string, h pubsub.Handler) error {
	b.mu.Lock()
	wait, refuse := b.wait, b.refuse
	b.refuse = nil
	b.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if refuse != nil {
		return refuse
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.handlers[topic] != nil {
		return pubsub.ErrTaken
	}
	if b.handlers == nil {
		b.handlers = map[string]pubsub.Handler{}
	}
	b.handlers[topic] = h
	return nil
}

func (b *fakeBus) Unsubscribe(topic string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.handlers, topic)
}

func (b *fakeBus) handler(topic string) pubsub.Handler {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.handlers[topic]
}

// fakeHistory is a room store that only knows histories.
type fakeHistory struct {
	catchup   func(context.Context, roomstore.RoomID, roomstore.Position) (roomstore.History, error)
	positions func() map[roomstore.RoomID]roomstore.Position
	life      func(roomstore.Position) roomstore.Life // nil: one that goes back to no other
	absent    func([]roomstore.Session) []roomstore.Session
}

func (h *fakeHistory) Topic(room roomstore.RoomID) string { return "ch:" + string(room) }
func (h *fakeHistory) Path(roomstore.RoomID) int          { return 0 }

func (h *fakeHistory) Catchup(ctx context.Context, room roomstore.RoomID, after roomstore.Position) (roomstore.History, error) {
	return h.catchup(ctx, room, after)
}

func (h *fakeHistory) Positions(_ context.Context, rooms []roomstore.RoomID) (map[roomstore.RoomID]roomstore.Position, error) {
	if h.positions == nil {
		return map[roomstore.RoomID]roomstore.Position{}, nil
	}
	return h.positions(), nil
}

func (h *fakeHistory) Lives(ctx context.Context, rooms []roomstore.RoomID) (map[roomstore.RoomID]roomstore.Life, error) {
	at, err := h.Positions(ctx, rooms)
	lives := map[roomstore.RoomID]roomstore.Life{}
	for room, p := range at {
		lives[room] = roomstore.Life{Position: p}
		if h.life != nil {
			lives[room] = h.life(p)
		}
	}
	return lives, err
}

func (h *fakeHistory) Absent(_ context.Context, _ roomstore.RoomID, sessions []roomstore.Session) ([]roomstore.Session, error) {
	if h.absent == nil {
		return nil, nil
	}
	return h.absent(sessions), nil
}

// startHub gives a hub that runs until the test, or its bubble, ends.
func startHub(t testing.TB, store history, bus topics) *hub {
	h := newHub(store, bus, 2*time.Second, slog.New(slog.DiscardHandler), &Stats{})
	ctx, cancel := context.WithCancel(context.Background())
	h.ctx = ctx // as run does, so that nobody has to wait for it
	done := make(chan struct{})
	go func() { defer close(done); h.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return h
}

// envelope encodes an event as the store's scripts do.
func envelope(e roomstore.Event) string {
	a, b, payload := "", "", e.Data
	switch e.Kind {
	case roomstore.KindJoined:
		a = fmt.Sprint(e.Count)
	case roomstore.KindLeft:
		a, b, payload = fmt.Sprint(e.Count), string(e.Reason), e.Data+"\x00"+e.Extended
	case roomstore.KindMoved:
		a, b = fmt.Sprint(e.Count), string(e.Old)
	case roomstore.KindMessage:
		a, b = fmt.Sprintf("%d:%d", e.MessageSeq, e.OrderKey), e.MessageID
	case roomstore.KindCommand:
		a, b = fmt.Sprintf("%d:%d", e.MessageSeq, e.OrderKey), fmt.Sprintf("%d:%s", e.Priority, e.MessageID)
	case roomstore.KindDestroyed:
		b = string(e.Reason)
	case roomstore.KindHealed:
		b = string(e.Lineage)
	}
	return strings.Join([]string{
		fmt.Sprint(e.Epoch), fmt.Sprint(e.Seq), string(rune(e.Kind)), fmt.Sprint(e.At),
		string(e.Origin), string(e.User), a, b, payload,
	}, "\x00")
}

// Events of room R, of one life each.

func joined(epoch, seq int64, user string, count int64) roomstore.Event {
	return roomstore.Event{
		Position: roomstore.Position{Epoch: epoch, Seq: seq}, Kind: roomstore.KindJoined,
		User: roomstore.UserID(user), Origin: roomstore.SessionID("s-" + user), Count: count, Data: userData(user),
	}
}

func left(epoch, seq int64, user string, count int64, reason roomstore.Reason) roomstore.Event {
	e := joined(epoch, seq, user, count)
	e.Kind, e.Reason = roomstore.KindLeft, reason
	return e
}

func moved(epoch, seq int64, user, old, origin string, count int64) roomstore.Event {
	e := joined(epoch, seq, user, count)
	e.Kind, e.Old, e.Origin = roomstore.KindMoved, roomstore.SessionID(old), roomstore.SessionID(origin)
	return e
}

func message(epoch, seq int64, user, text string) roomstore.Event {
	e := joined(epoch, seq, user, 0)
	e.Kind, e.MessageSeq, e.OrderKey, e.MessageID = roomstore.KindMessage, seq, seq, fmt.Sprintf("m%d", seq)
	e.Data = payloadOf(user, text, protocol.MessageText, protocol.PriorityLow)
	return e
}

func command(epoch, after int64, user, text string, priority int) roomstore.Event {
	e := joined(epoch, after, user, 0)
	e.Kind, e.MessageSeq, e.OrderKey, e.MessageID, e.Priority = roomstore.KindCommand, after, after, "c"+text, priority
	e.Data = payloadOf(user, text, protocol.MessageBarrage, protocol.MessagePriority(priority))
	return e
}

func destroyed(epoch, seq int64) roomstore.Event {
	return roomstore.Event{
		Position: roomstore.Position{Epoch: epoch, Seq: seq}, Kind: roomstore.KindDestroyed, Reason: roomstore.ReasonDestroyed,
	}
}

func payloadOf(user, text string, kind protocol.MessageType, priority protocol.MessagePriority) string {
	return string(encoded(messagePayload{
		Type: kind, Message: text, Priority: priority, SenderUserID: user, ConversationID: "R", ConversationType: 1,
	}))
}

func at(epoch, seq int64) roomstore.Position { return roomstore.Position{Epoch: epoch, Seq: seq} }

// handle has a connection handle a message, and what it asks for beside that.
func handle(c *conn, text []byte) {
	if task := c.message(text); task != nil {
		go task()
	}
}
