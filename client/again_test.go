package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

// away is how a gateway answers while its store does not answer it.
var away = protocol.Error{Code: protocol.CodeUnavailable, Message: "away", Data: &protocol.ErrorData{Retryable: true}}

// same fails unless a request is the repeat of another.
func same(t *testing.T, got, old protocol.Request) {
	t.Helper()
	if got.Method != old.Method || string(got.ID) != string(old.ID) || string(got.Params) != string(old.Params) {
		t.Errorf("got %s %s %s, want the same as before: %s %s %s", got.Method, got.ID, got.Params, old.Method, old.ID, old.Params)
	}
}

// A call that the gateway could not carry out for the moment is sent again as it
// was, and returns when it is answered otherwise.
func TestClient_again(t *testing.T) {
	for name, tt := range map[string]struct {
		method string
		call   func(ctx context.Context, c *client.Client) error
	}{
		"message": {protocol.MethodSendRoomMessage, func(ctx context.Context, c *client.Client) error {
			m, err := c.SendRoomMessage(ctx, "r", protocol.OutgoingMessage{Type: protocol.MessageText, Message: "hi"}, nil)
			if err == nil && m.MessageID != "m1" {
				return fmt.Errorf("got %+v", m)
			}
			return err
		}},
		"entry": {protocol.MethodEnterRoom, func(ctx context.Context, c *client.Client) error {
			_, err := c.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: "r"}, nil)
			return err
		}},
		"query": {protocol.MethodQueryRoomOnlineMemberCount, func(ctx context.Context, c *client.Client) error {
			_, err := c.QueryRoomOnlineMemberCount(ctx, "r")
			return err
		}},
		"logout": {protocol.MethodLogout, func(ctx context.Context, c *client.Client) error { return c.Logout(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newFabric(t).gateway("a")
				c, p := g.connect(g.config())
				done := call(func() error { return tt.call(t.Context(), c) })
				first := p.request(tt.method)
				for range 20 {
					p.refuse(first, away)
					same(t, p.request(tt.method), first)
				}
				synctest.Wait()
				select {
				case err := <-done:
					t.Fatalf("returned %v before it was answered", err)
				default:
				}
				p.answer(first, map[string]any{"message": map[string]any{"messageID": "m1"}})
				if err := <-done; err != nil {
					t.Error(err)
				}
				p.none()
			})
		})
	}
}

// What is not said to be worth another try comes back at once.
func TestClient_again_refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		for _, refusal := range []protocol.Error{
			{Code: protocol.CodeUnavailable},
			{Code: protocol.CodeUnavailable, Data: &protocol.ErrorData{}},
			{Code: protocol.CodeRoomBusy},
		} {
			done := call(func() error { return c.LeaveRoom(t.Context(), "r") })
			first := p.request(protocol.MethodLeaveRoom)
			p.refuse(first, away)
			same(t, p.request(protocol.MethodLeaveRoom), first)
			p.refuse(first, refusal)
			if pe := as[*protocol.Error](t, <-done); pe.Code != refusal.Code {
				t.Errorf("got %v, want code %d", pe, refusal.Code)
			}
		}
		time.Sleep(5 * time.Second)
		p.none()
	})
}

// The waits are random, grow to half a second, and begin anew once something
// else was answered.
func TestClient_again_waits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		for range 20 {
			done := call(func() error { return c.LeaveRoom(t.Context(), "r") })
			first := p.request(protocol.MethodLeaveRoom)
			seen := map[time.Duration]bool{}
			for i := range 10 {
				start := time.Now()
				p.refuse(first, away)
				p.request(protocol.MethodLeaveRoom)
				took, most := time.Since(start), min(100*time.Millisecond<<i, 500*time.Millisecond)
				if seen[took] = true; took > most {
					t.Errorf("waited %v the %d. time, want at most %v", took, i+1, most)
				}
			}
			if len(seen) < 5 {
				t.Errorf("the waits were %v, want them random", seen)
			}
			p.answer(first, protocol.LeaveResult{})
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// Calls that are sent again keep the order in which they were made, whatever
// the order of their answers, and no more of them are under way than a gateway
// takes.
func TestClient_again_order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		const all = protocol.MaxUnanswered + 8
		var done []<-chan error
		var sent []protocol.Request
		for i := range all {
			done = append(done, call(func() error { return c.LeaveRoom(t.Context(), fmt.Sprint(i)) }))
			if synctest.Wait(); i < protocol.MaxUnanswered {
				sent = append(sent, p.request(protocol.MethodLeaveRoom))
			}
		}
		for _, i := range []int{3, 1, 0, 2} {
			p.refuse(sent[i], away)
		}
		for range 4 { // their places are free
			sent = append(sent, p.request(protocol.MethodLeaveRoom))
		}
		time.Sleep(time.Second)
		p.none()
		for _, req := range sent[4:12] {
			p.answer(req, protocol.LeaveResult{})
		}
		for i := range 4 {
			same(t, p.request(protocol.MethodLeaveRoom), sent[i])
		}
		for range all - len(sent) {
			sent = append(sent, p.request(protocol.MethodLeaveRoom))
		}
		synctest.Wait()
		p.none()
		for i, req := range sent {
			if i < 4 || i >= 12 {
				p.answer(req, protocol.LeaveResult{})
			}
		}
		for _, d := range done {
			if err := <-d; err != nil {
				t.Error(err)
			}
		}
	})
}

// A call whose time is over is not sent again, and its error says both why and
// what the gateway said.
func TestClient_again_cancel(t *testing.T) {
	for name, late := range map[string]bool{"while it waits": false, "before the answer": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newFabric(t).gateway("a")
				c, p := g.connect(g.config())
				ctx, cancel := context.WithCancel(t.Context())
				done := call(func() error { return c.LeaveRoom(ctx, "r") })
				first := p.request(protocol.MethodLeaveRoom)
				if late {
					p.refuse(first, away)
					p.request(protocol.MethodLeaveRoom)
					cancel()
					synctest.Wait()
				}
				p.refuse(first, away)
				synctest.Wait()
				cancel()
				e := as[*client.UnansweredError](t, <-done)
				if !e.Unknown || !errors.Is(e, context.Canceled) || as[*protocol.Error](t, e).Code != protocol.CodeUnavailable {
					t.Errorf("got %v", e)
				}
				time.Sleep(5 * time.Second)
				p.none()
				// It counts for nothing any more.
				for range protocol.MaxUnanswered {
					call(func() error { return c.LeaveRoom(t.Context(), "r") })
					p.request(protocol.MethodLeaveRoom)
				}
			})
		})
	}
}

// When the link is lost, what waits to be sent again is sent over the next, once,
// if the session goes on; if it does not, nobody knows what became of it.
func TestClient_again_linkLost(t *testing.T) {
	for name, resumed := range map[string]bool{"resumed": true, "session lost": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newFabric(t).gateway("a")
				c, p := g.connect(g.config())
				leave := call(func() error { return c.LeaveRoom(t.Context(), "r") })
				first := p.request(protocol.MethodLeaveRoom)
				count := call(func() error { _, err := c.QueryRoomOnlineMemberCount(t.Context(), "r"); return err })
				second := p.request(protocol.MethodQueryRoomOnlineMemberCount)
				p.refuse(second, away)
				p.refuse(first, away)
				synctest.Wait()
				p.ws.CloseNow()
				want(t, c, "connection reconnecting loginInterrupted")
				p = g.accept()
				p.login("s1", resumed)
				if resumed {
					same(t, p.request(protocol.MethodLeaveRoom), first)
					p.answer(first, protocol.LeaveResult{})
					if err := <-leave; err != nil {
						t.Error(err)
					}
				} else if e := as[*client.UnansweredError](t, <-leave); !e.Unknown || !errors.Is(e, client.ErrSessionLost) {
					t.Errorf("got %v, want outcome unknown, session lost", e)
				}
				same(t, p.request(protocol.MethodQueryRoomOnlineMemberCount), second)
				p.answer(second, protocol.CountResult{})
				if err := <-count; err != nil {
					t.Error(err)
				}
				want(t, c, "connection connected success")
				time.Sleep(5 * time.Second)
				p.none()
			})
		})
	}
}

// A client that is closed sends nothing again.
func TestClient_again_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		done := call(func() error { return c.LeaveRoom(t.Context(), "r") })
		p.refuse(p.request(protocol.MethodLeaveRoom), away)
		synctest.Wait()
		c.Close()
		if e := as[*client.UnansweredError](t, <-done); !e.Unknown || !errors.Is(e, client.ErrClosed) {
			t.Errorf("got %v", e)
		}
	})
}

// A logout that could not be carried out at once may be after all, and then the
// gateway closes without another answer.
func TestClient_Logout_later(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		enter(t, c, p, "r", 3)
		done := call(func() error { return c.Logout(t.Context()) })
		p.refuse(p.request(protocol.MethodLogout), away)
		p.request(protocol.MethodLogout)
		p.event(protocol.EventRoomStateChanged, protocol.RoomStateChanged{
			RoomID: "r", State: protocol.RoomDisconnected, Event: protocol.RoomSuccess,
		})
		p.event(protocol.EventConnectionStateChanged, protocol.ConnectionStateChanged{
			State: protocol.ConnectionDisconnected, Event: protocol.ConnectionSuccess,
		})
		p.close(protocol.CloseNormal, "")
		if err := <-done; err != nil {
			t.Errorf("got %v, want success", err)
		}
		<-c.Done()
		if !errors.Is(c.Err(), client.ErrLoggedOut) {
			t.Errorf("got %v, want ErrLoggedOut", c.Err())
		}
		want(t, c, "room r disconnected success", "connection disconnected success")
		if ev, ok := <-c.Events(); ok {
			t.Errorf("got %s after the end", text(ev))
		}
	})
}
