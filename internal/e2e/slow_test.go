//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/roomgate/roomgate/protocol"
)

// sluggard is a client that reads only when it is told to.
type sluggard struct {
	t  testing.TB
	ws *websocket.Conn
}

// idle connects a sluggard to a gateway and sends it a login.
func idle(t testing.TB, g *gateway, login string) *sluggard {
	t.Helper()
	dialer := websocket.Dialer{NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return c, err
	}}
	ws, _, err := dialer.DialContext(t.Context(), g.URL()+protocol.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	s := &sluggard{t, ws}
	s.send(protocol.MethodLogin, login)
	return s
}

func (s *sluggard) send(method, params string) {
	s.t.Helper()
	text := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":%s}`, method, params)
	if err := s.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

// read reads frames until one of which ok says that it is the last, or until the
// connection ends with a close frame, which it gives.
func (s *sluggard) read(ok func(frame string) bool) (frames []string, closed *websocket.CloseError) {
	s.t.Helper()
	s.ws.SetReadDeadline(time.Now().Add(patience))
	for {
		_, b, err := s.ws.ReadMessage()
		if err != nil {
			if !errors.As(err, &closed) {
				s.t.Fatalf("the connection ended with %v", err)
			}
			return frames, closed
		}
		frames = append(frames, string(b))
		if ok(string(b)) {
			return frames, nil
		}
	}
}

func never(string) bool { return false }

// A client that reads more slowly than its rooms speak is cut off with 4008 and
// told to wait, longer each time; it catches up when it comes back, and the
// third time within a minute it goes on from where the room is. Nobody else in
// the room waits for it or misses anything.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--queue-bytes=65536", "--rate-limits=false", "--session-ttl=30s")
	bo, cy := enroll(b, t, "bo"), enroll(a, t, "cy")
	bo.enter("R")
	start := cy.enter("R").Seq
	ana := idle(t, a, `{"userID":"ana"}`)
	var login protocol.LoginResult
	first, _ := ana.read(func(string) bool { return true })
	decode(t, first[0], &login)
	ana.send(protocol.MethodEnterRoom, enterR)
	entered, _ := ana.read(func(f string) bool { return strings.Contains(f, `"result"`) })
	var room protocol.Room
	decode(t, entered[len(entered)-1], &room)

	seen := room.Position
	text := strings.Repeat("x", 800) // so that what is cut off fits into the history
	sent := 0
	// flood speaks until ana has been cut off once more.
	flood := func(cut int) {
		for began := time.Now(); a.Metric(`roomgate_gateway_closes_total{code="4008"}`) < float64(cut); {
			if time.Since(began) > patience {
				t.Fatalf("ana was not cut off for the time %d, though %d messages were sent", cut, sent)
			}
			var batch []string
			for range 20 {
				sent++
				batch = append(batch, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"sendRoomMessage","params":%s}`, sent, textMessage("R", text)))
			}
			bo.raw("[" + strings.Join(batch, ",") + "]")
			answers := bo.take()
			for !strings.HasPrefix(answers, "[") {
				answers = bo.take() // an event
			}
			if got := brief(answers); strings.Contains(got, "error") {
				t.Fatalf("bo: got %s", got)
			}
		}
	}
	// follow takes note of the room's events among frames, each of which has to
	// come in its turn.
	follow := func(frames []string) {
		t.Helper()
		for _, f := range frames {
			if strings.Contains(f, protocol.EventRoomMessageReceived) {
				seen.Seq++
				if p := params[protocol.MessageReceived](t, f); p.Seq != seen.Seq {
					t.Fatalf("ana got seq %d, want %d", p.Seq, seen.Seq)
				}
			}
		}
	}
	defer func() { t.Logf("%d messages were sent", sent) }()
	for cut, pause := range []time.Duration{time.Second, 4 * time.Second, 16 * time.Second} {
		flood(cut + 1)
		frames, closed := ana.read(never)
		follow(frames)
		if want := fmt.Sprintf(`{"reconnectAfterMs":%d}`, pause.Milliseconds()); closed.Code != int(protocol.CloseSlowConsumer) || closed.Text != want {
			t.Fatalf("closed with %d %q, want 4008 %s", closed.Code, closed.Text, want)
		}
		ana = idle(t, a, fmt.Sprintf(`{"userID":"ana","resume":{"sessionID":%q,"rooms":[{"roomID":"R","epoch":%d,"seq":%d}]}}`,
			login.SessionID, seen.Epoch, seen.Seq))
		ana.read(func(string) bool { return true })
		bo.say("R", "end")
		sent++
		frames, _ = ana.read(func(f string) bool { return brief(f) == "R bo: end" })
		if cut < 2 {
			follow(frames)
			continue
		}
		lost, at := "", -1
		for i, f := range frames {
			if strings.Contains(f, protocol.EventRoomHistoryLost) {
				lost, at = brief(f), i
			}
		}
		last := params[protocol.MessageReceived](t, frames[len(frames)-1]).Seq
		if want := fmt.Sprintf("R lost %d-%d", seen.Seq, last-1); lost != want || at != len(frames)-2 {
			t.Errorf("got %q as frame %d of %d, want %q before the last", lost, at, len(frames), want)
		}
	}
	// cy has had everything, in order.
	for want := start; want < start+int64(sent); {
		if f := cy.take(); strings.Contains(f, protocol.EventRoomMessageReceived) {
			seq := params[protocol.MessageReceived](t, f).Seq
			if want++; want == start+1 {
				want++ // ana's entry
			}
			if seq != want {
				t.Fatalf("cy got seq %d, want %d", seq, want)
			}
		} else if got := brief(f); got != "R +ana 3" && got != "R connected success" {
			t.Errorf("cy got %q", got)
		}
	}
}

// What a client missed does not pile up in its gateway while it does not read:
// room after room comes as the client takes it, whole and in order.
func TestSlowConsumer_catchesUp(t *testing.T) {
	t.Parallel()
	const rooms, each, size = 40, 50, 2000
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--queue-bytes=65536", "--rate-limits=false", "--session-ttl=2m", "--log-ttl=5m",
		fmt.Sprintf("--max-rooms-per-user=%d", rooms))
	bo, ana := enroll(b, t, "bo"), connect(t, b.URL())
	session := ana.login(`{"userID":"ana"}`).SessionID
	known := map[string]protocol.Position{}
	var places []string
	for i := range rooms {
		room := fmt.Sprintf("room-%d", i)
		bo.enter(room)
		known[room] = ana.enter(room).Position
		places = append(places, fmt.Sprintf(`{"roomID":%q,"epoch":%d,"seq":%d}`, room, known[room].Epoch, known[room].Seq))
	}
	ana.drop()
	text := strings.Repeat("x", size)
	for room := range known {
		for range each {
			bo.say(room, text)
		}
	}

	slow := idle(t, a, fmt.Sprintf(`{"userID":"ana","resume":{"sessionID":%q,"rooms":[%s]}}`, session, strings.Join(places, ",")))
	// Nobody else is on this gateway: it follows the rooms that ana is back in.
	taken, still := a.Metric("roomgate_gateway_feeds"), 0
	eventually(t, "the gateway to wait for ana", func() bool {
		was := taken
		taken = a.Metric("roomgate_gateway_feeds")
		if still++; taken != was || taken == 0 {
			still = 0
		}
		return still == 50
	})
	if taken > rooms/2 {
		t.Errorf("%.0f of %d rooms wait for a client that does not read", taken, rooms)
	}
	for want := rooms * each; want > 0; {
		frames, closed := slow.read(func(f string) bool { return strings.Contains(f, protocol.EventRoomMessageReceived) })
		if closed != nil {
			t.Fatalf("closed with %d %q", closed.Code, closed.Text)
		}
		m := params[protocol.MessageReceived](t, frames[len(frames)-1])
		at := known[m.FromConversationID]
		if at.Seq++; m.Seq != at.Seq {
			t.Fatalf("%s: got seq %d, want %d", m.FromConversationID, m.Seq, at.Seq)
		}
		known[m.FromConversationID] = at
		want--
	}
}

// decode reads the result of a response.
func decode(t testing.TB, frame string, v any) {
	t.Helper()
	var r protocol.Response
	if err := json.Unmarshal([]byte(frame), &r); err != nil || r.Error != nil {
		t.Fatalf("got %s (%v)", frame, err)
	}
	if err := json.Unmarshal(r.Result, v); err != nil {
		t.Fatal(err)
	}
}
