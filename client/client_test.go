package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

// A login says who logs in, and offers our subprotocol at the usual path.
func TestDial_login(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		cfg := g.config()
		cfg.User.UserName = "Ana"
		cfg.Token, cfg.DeviceID, cfg.Platform, cfg.SDKVersion = "tok", "dev", "go", "2.13.0"
		ch := goDial(t.Context(), cfg)
		p := g.accept()
		got := p.login("s1", false)
		d := <-ch
		if d.err != nil {
			t.Fatal(d.err)
		}
		defer d.c.Close()
		want := protocol.LoginParams{
			UserID: "ana", UserName: "Ana", Token: "tok", DeviceID: "dev", Platform: "go", SDKVersion: "2.13.0",
		}
		if got != want {
			t.Errorf("got login %+v, want %+v", got, want)
		}
		if p.path != protocol.Path || p.ws.Subprotocol() != protocol.Subprotocol {
			t.Errorf("got path %q, subprotocol %q", p.path, p.ws.Subprotocol())
		}
		if id := d.c.Session().SessionID; id != "s1" {
			t.Errorf("got session %q, want s1", id)
		}
	})
}

// What cannot work is refused before anything is tried.
func TestDial_config(t *testing.T) {
	user := protocol.UserInfo{UserID: "ana"}
	for name, cfg := range map[string]client.Config{
		"no URL":       {User: user},
		"other scheme": {User: user, URLs: []string{"redis://a"}},
		"not a URL":    {User: user, URLs: []string{"ws://a\x00"}},
		"no user":      {URLs: []string{"ws://a"}},
	} {
		if c, err := client.Dial(t.Context(), cfg); err == nil {
			c.Close()
			t.Errorf("%s: got a client, want an error", name)
		}
	}
}

// A refused login ends Dial with what the gateway said.
func TestDial_refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		ch := goDial(t.Context(), g.config())
		p := g.accept()
		p.refuse(p.request(protocol.MethodLogin), protocol.Error{Code: protocol.CodeBadToken, Message: "no"})
		d := <-ch
		if pe := as[*protocol.Error](t, d.err); pe.Code != protocol.CodeBadToken {
			t.Errorf("got code %d, want %d", pe.Code, protocol.CodeBadToken)
		}
	})
}

// A login that can succeed later is tried again, with a new token.
func TestDial_unavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		cfg := g.config()
		asked := 0
		cfg.TokenFunc = func(context.Context) (string, error) {
			asked++
			if asked == 1 {
				return "", errors.New("token server away")
			}
			return string(rune('0' + asked)), nil
		}
		ch := goDial(t.Context(), cfg)
		p := g.accept()
		p.refuse(p.request(protocol.MethodLogin), protocol.Error{Code: protocol.CodeUnavailable, Message: "Redis away"})
		if got := g.accept().login("s1", false); got.Token != "3" {
			t.Errorf("got token %q, want that of the third attempt", got.Token)
		}
		d := <-ch
		if d.err != nil {
			t.Fatal(d.err)
		}
		d.c.Close()
	})
}

// Gateways are tried in turn until one answers.
func TestDial_inTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric(t)
		b := f.gateway("b")
		cfg := b.config()
		cfg.URLs = []string{"ws://nobody", "ws://b/"}
		c, p := b.connect(cfg)
		a := f.gateway("nobody")
		p.ws.CloseNow()
		pa := a.accept()
		pa.login("s1", true)
		want(t, c, "connection reconnecting loginInterrupted", "connection connected success")
	})
}

// The context of Dial ends it, whatever stage it is in, and nothing is left.
func TestDial_cancel(t *testing.T) {
	stages := map[string]func(f *fabric, g *gateway){
		"nobody there":  func(f *fabric, g *gateway) { g.Close() },
		"not accepted":  func(f *fabric, g *gateway) { delete(f.hosts, "a"); f.hosts["a"] = &gateway{} },
		"no login":      func(f *fabric, g *gateway) {},
		"login refused": nil,
	}
	for name, stage := range stages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFabric(t)
				g := f.gateway("a")
				ctx, cancel := context.WithCancelCause(t.Context())
				if stage != nil {
					stage(f, g)
				}
				ch := goDial(ctx, g.config())
				if stage == nil {
					p := g.accept()
					p.refuse(p.request(protocol.MethodLogin), protocol.Error{Code: protocol.CodeTooFast, Message: "wait"})
				}
				synctest.Wait()
				because := errors.New("because")
				cancel(because)
				synctest.Wait()
				d := <-ch
				if !errors.Is(d.err, because) {
					t.Errorf("got %v, want %v", d.err, because)
				}
				if stage == nil {
					as[*protocol.Error](t, d.err) // the last attempt is told
				}
			})
		})
	}
}

// A gateway that accepts and then says nothing is given up in time.
func TestDial_silence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		cfg := g.config()
		cfg.ConnectTimeout = 3 * time.Second
		start := time.Now()
		ch := goDial(t.Context(), cfg)
		p := g.accept()
		<-p.gone
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("gave up after %v, want 3s", took)
		}
		g.accept().login("s1", false)
		(<-ch).c.Close()
	})
}

// Events and answers come in one order: what was sent before an answer is on
// the stream when the call returns.
func TestClient_order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		done := call(func() error {
			room, err := c.EnterRoom(t.Context(), protocol.RoomBaseInfo{RoomID: "r", RoomName: "R"}, nil)
			if err == nil && (room.MemberCount != 3 || !room.Created) {
				t.Errorf("got %+v", room)
			}
			return err
		})
		req := p.request(protocol.MethodEnterRoom)
		p.event(protocol.EventRoomStateChanged, protocol.RoomStateChanged{
			RoomID: "r", State: protocol.RoomConnecting, Event: protocol.RoomActiveEnter,
		})
		p.event(protocol.EventRoomAttributesUpdated, protocol.AttributesUpdated{RoomID: "r", Seq: 4})
		p.connected("r", 7, 4)
		p.answer(req, protocol.Room{Created: true, MemberCount: 3, Position: protocol.Position{Epoch: 7, Seq: 4}})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if n := len(c.Events()); n != 3 {
			t.Errorf("%d events are there when the call returns, want 3", n)
		}
		want(t, c, "room r connecting activeEnter", "AttributesUpdated", "room r connected success")
	})
}

// A refusal is a *protocol.Error; wrong types are a bad parameter to a caller.
func TestClient_Call_refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		for got, want := range map[protocol.Code]protocol.Code{
			protocol.CodeRoomExists:    protocol.CodeRoomExists,
			protocol.CodeInvalidParams: protocol.CodeBadParameter,
		} {
			done := call(func() error {
				_, err := c.CreateRoom(t.Context(), protocol.RoomBaseInfo{RoomID: "r"}, nil)
				return err
			})
			p.refuse(p.request(protocol.MethodCreateRoom), protocol.Error{Code: got, Message: "no"})
			if pe := as[*protocol.Error](t, <-done); pe.Code != want {
				t.Errorf("%d: got code %d, want %d", got, pe.Code, want)
			}
		}
	})
}

// Every method sends what the wire asks for and returns what comes back.
func TestClient_operations(t *testing.T) {
	ctx := context.Background() // not of this test: the calls are made in bubbles
	for _, tt := range []struct {
		name           string
		call           func(c *client.Client) (any, error)
		method, params string
		result, want   string
	}{
		{
			"create", func(c *client.Client) (any, error) {
				return c.CreateRoom(ctx, protocol.RoomBaseInfo{RoomID: "r", RoomName: "R"}, &protocol.RoomConfig{RoomDestroyDelayTime: 30})
			},
			"createRoom", `{"requestKey":2,"roomInfo":{"roomID":"r","roomName":"R"},"config":{"roomDestroyDelayTime":30}}`,
			`{"created":true,"epoch":7,"seq":1}`,
			`{"roomInfo":{"baseInfo":{"roomID":"","roomName":""}},"created":true,"epoch":7,"seq":1,"memberCount":0}`,
		},
		{
			"join", func(c *client.Client) (any, error) { return c.JoinRoom(ctx, "r") },
			"joinRoom", `{"requestKey":2,"roomID":"r"}`,
			`{"memberCount":5}`, `{"roomInfo":{"baseInfo":{"roomID":"","roomName":""}},"created":false,"epoch":0,"seq":0,"memberCount":5}`,
		},
		{
			"switch", func(c *client.Client) (any, error) {
				return c.SwitchRoom(ctx, "q", protocol.RoomBaseInfo{RoomID: "r", RoomName: "R"}, true, &protocol.RoomConfig{RoomDestroyDelayTime: 30})
			},
			"switchRoom", `{"requestKey":2,"fromRoomID":"q","toRoomInfo":{"roomID":"r","roomName":"R"},"isCreateWhenRoomNotExisted":true,"config":{"roomDestroyDelayTime":30}}`,
			`{"created":true,"epoch":7,"seq":1}`,
			`{"roomInfo":{"baseInfo":{"roomID":"","roomName":""}},"created":true,"epoch":7,"seq":1,"memberCount":0}`,
		},
		{
			"leave", func(c *client.Client) (any, error) { return nil, c.LeaveRoom(ctx, "r") },
			"leaveRoom", `{"requestKey":2,"roomID":"r"}`, `{"roomID":"r"}`, `null`,
		},
		{
			"leave all", func(c *client.Client) (any, error) { return c.LeaveAllRoom(ctx) },
			"leaveAllRoom", `{"requestKey":2}`, `{"roomIDs":["r"]}`, `["r"]`,
		},
		{
			"send", func(c *client.Client) (any, error) {
				m, err := c.SendRoomMessage(ctx, "r", protocol.OutgoingMessage{Type: protocol.MessageText, Message: "hi"},
					&protocol.SendConfig{Priority: protocol.PriorityHigh})
				if err != nil {
					return nil, err
				}
				return m.MessageID, nil
			},
			"sendRoomMessage", `{"requestKey":2,"roomID":"r","message":{"type":1,"message":"hi"},"config":{"priority":3}}`,
			`{"message":{"messageID":"m1"}}`, `"m1"`,
		},
		{
			"list", func(c *client.Client) (any, error) {
				return c.QueryRoomMemberList(ctx, "r", protocol.PageConfig{Count: 10, NextFlag: "f"})
			},
			"queryRoomMemberList", `{"roomID":"r","config":{"count":10,"nextFlag":"f"}}`,
			`{"roomID":"r","memberList":[{"userID":"bo"}],"nextFlag":"g","epoch":7,"seq":9}`,
			`{"roomID":"r","memberList":[{"userID":"bo","userName":"","userAvatarUrl":"","userExtendedData":""}],"nextFlag":"g","epoch":7,"seq":9}`,
		},
		{
			"members", func(c *client.Client) (any, error) { return c.QueryRoomMembers(ctx, "r", []string{"bo"}) },
			"queryRoomMembers", `{"userIDs":["bo"],"roomID":"r"}`,
			`{"roomID":"r","memberList":[],"errorUserList":[{"userID":"bo","reason":6000321}],"epoch":7,"seq":9}`,
			`{"roomID":"r","memberList":[],"errorUserList":[{"userID":"bo","reason":6000321}],"epoch":7,"seq":9}`,
		},
		{
			"count", func(c *client.Client) (any, error) { return c.QueryRoomOnlineMemberCount(ctx, "r") },
			"queryRoomOnlineMemberCount", `{"roomID":"r"}`,
			`{"roomID":"r","count":3,"epoch":7,"seq":9}`, `{"roomID":"r","count":3,"epoch":7,"seq":9}`,
		},
		{
			"ping", func(c *client.Client) (any, error) { ts, err := c.Ping(ctx); return ts.UnixMilli(), err },
			"ping", `{}`, `{"serverTime":1234}`, `1234`,
		},
		{
			"renew token", func(c *client.Client) (any, error) { ts, err := c.RenewToken(ctx, "t"); return ts.IsZero(), err },
			"renewToken", `{"token":"t"}`, `{"tokenExpiresAt":0}`, `true`,
		},
		{
			"raw", func(c *client.Client) (any, error) {
				var r map[string]int
				err := c.Call(ctx, "setRoomAttributes", map[string]string{"roomID": "r"}, &r)
				return r, err
			},
			"setRoomAttributes", `{"requestKey":2,"roomID":"r"}`, `{"a":1}`, `{"a":1}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newFabric(t).gateway("a")
				c, p := g.connect(g.config())
				var got any
				done := call(func() (err error) { got, err = tt.call(c); return err })
				req := p.request(tt.method)
				if string(req.Params) != tt.params {
					t.Errorf("got params %s, want %s", req.Params, tt.params)
				}
				p.answer(req, json.RawMessage(tt.result))
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if b, _ := json.Marshal(got); string(b) != tt.want {
					t.Errorf("got %s, want %s", b, tt.want)
				}
			})
		})
	}
}

// Each of many calls gets its own answer, whole.
func TestClient_Call_many(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		var done []<-chan error
		var reqs []protocol.Request
		for i := range int64(100) {
			done = append(done, call(func() error {
				r, err := c.QueryRoomOnlineMemberCount(t.Context(), fmt.Sprint(i))
				if err == nil && (r.Count != i || r.RoomID != fmt.Sprint(i)) {
					return fmt.Errorf("call %d got %+v", i, r)
				}
				return err
			}))
			reqs = append(reqs, p.request(protocol.MethodQueryRoomOnlineMemberCount))
		}
		slices.Reverse(reqs)
		for i, req := range reqs {
			n := int64(len(reqs) - 1 - i)
			p.answer(req, protocol.CountResult{RoomID: fmt.Sprint(n), Count: n})
		}
		for _, d := range done {
			if err := <-d; err != nil {
				t.Error(err)
			}
		}
	})
}

// What cannot be sent is refused without the gateway.
func TestClient_Call_invalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		big := protocol.OutgoingMessage{Type: protocol.MessageText, Message: string(make([]byte, protocol.MaxMessage))}
		_, err := c.SendRoomMessage(t.Context(), "r", big, nil)
		if pe := as[*protocol.Error](t, err); pe.Code != protocol.CodeBadParameter {
			t.Errorf("too big: got code %d, want %d", pe.Code, protocol.CodeBadParameter)
		}
		for name, params := range map[string]any{"array": []int{1}, "number": 1, "not JSON": make(chan int)} {
			if err := c.Call(t.Context(), "ping", params, nil); err == nil {
				t.Errorf("%s: got no error", name)
			}
		}
		if err := c.Call(t.Context(), protocol.MethodLogin, nil, nil); err == nil {
			t.Error("login: got no error")
		}
		synctest.Wait()
		p.none()
	})
}

// The context of a call ends it, and the error says whether it was sent.
func TestClient_Call_cancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		ctx, cancel := context.WithCancel(t.Context())
		done := call(func() error { return c.LeaveRoom(ctx, "r") })
		req := p.request(protocol.MethodLeaveRoom)
		cancel()
		if e := as[*client.UnansweredError](t, <-done); !e.Unknown || !errors.Is(e, context.Canceled) {
			t.Errorf("sent: got %v", e)
		}
		p.answer(req, protocol.LeaveResult{}) // to nobody

		if e := as[*client.UnansweredError](t, c.LeaveRoom(ctx, "r")); e.Unknown {
			t.Errorf("ended before: got %v", e)
		}

		g.Close()
		p.ws.CloseNow()
		want(t, c, "connection reconnecting loginInterrupted")
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		e := as[*client.UnansweredError](t, c.LeaveRoom(ctx, "r"))
		if e.Unknown || !errors.Is(e, context.DeadlineExceeded) {
			t.Errorf("without a link: got %v", e)
		}
	})
}

// A call whose context has no deadline is bounded by RequestTimeout.
func TestClient_Call_timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		cfg := g.config()
		cfg.RequestTimeout = 3 * time.Second
		c, p := g.connect(cfg)
		start := time.Now()
		err := c.LeaveRoom(t.Context(), "r")
		if took := time.Since(start); took != 3*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v after %v", err, took)
		}
		p.request(protocol.MethodLeaveRoom)
	})
}

// No more state-changing requests are under way than a gateway takes; the rest
// wait for answers, and so does an abandoned one's place.
func TestClient_Call_bound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		ctx, cancel := context.WithCancel(t.Context())
		first := call(func() error { return c.LeaveRoom(ctx, "r") })
		reqs := []protocol.Request{p.request(protocol.MethodLeaveRoom)}
		cancel()
		<-first
		const n = protocol.MaxUnanswered + 5
		done := make(chan error, n)
		for range n {
			go func() { done <- c.LeaveRoom(t.Context(), "r") }()
		}
		for len(reqs) < protocol.MaxUnanswered {
			reqs = append(reqs, p.request(protocol.MethodLeaveRoom))
		}
		synctest.Wait()
		p.none()
		late, giveUp := context.WithCancel(t.Context())
		behind := call(func() error { return c.LeaveRoom(late, "never sent") })
		synctest.Wait()
		giveUp()
		if e := as[*client.UnansweredError](t, <-behind); e.Unknown {
			t.Errorf("got %v, want not sent", e)
		}
		for i := range n + 1 {
			p.answer(reqs[i], protocol.LeaveResult{})
			if len(reqs) <= n {
				reqs = append(reqs, p.request(protocol.MethodLeaveRoom))
				synctest.Wait()
				p.none()
			}
		}
		for range n {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		p.none()
	})
}

// A gateway counts a logout among them, so it waits for a place as well.
func TestClient_Logout_bound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		done := make(chan error, protocol.MaxUnanswered)
		reqs := make([]protocol.Request, protocol.MaxUnanswered)
		for i := range reqs {
			go func() { done <- c.LeaveRoom(t.Context(), "r") }()
			reqs[i] = p.request(protocol.MethodLeaveRoom)
		}
		logout := call(func() error { return c.Logout(t.Context()) })
		synctest.Wait()
		p.none()
		p.answer(reqs[0], protocol.LeaveResult{})
		req := p.request(protocol.MethodLogout)
		for _, r := range reqs[1:] {
			p.answer(r, protocol.LeaveResult{})
		}
		p.answer(req, struct{}{})
		for range reqs {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := <-logout; err != nil {
			t.Error(err)
		}
	})
}

// Close ends calls and waits, from any state, and may be repeated.
func TestClient_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		if err := c.Err(); err != nil {
			t.Errorf("alive: got %v", err)
		}
		done := call(func() error { return c.LeaveRoom(t.Context(), "r") })
		p.request(protocol.MethodLeaveRoom)
		start := time.Now()
		c.Close()
		c.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("Close took %v", took)
		}
		if e := as[*client.UnansweredError](t, <-done); !e.Unknown || !errors.Is(e, client.ErrClosed) {
			t.Errorf("under way: got %v", e)
		}
		if e := as[*client.UnansweredError](t, c.LeaveRoom(t.Context(), "r")); e.Unknown || !errors.Is(e, client.ErrClosed) {
			t.Errorf("after: got %v", e)
		}
		if _, ok := <-c.Events(); ok {
			t.Error("got an event of a closed client")
		}
		<-c.Done()
		if !errors.Is(c.Err(), client.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", c.Err())
		}
		<-p.gone
	})
}

// A logout ends the client once the gateway has closed, or should it not, soon.
func TestClient_Logout(t *testing.T) {
	for name, closes := range map[string]bool{"gateway closes": true, "gateway does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newFabric(t).gateway("a")
				c, p := g.connect(g.config())
				enter(t, c, p, "r", 3)
				done := call(func() error { return c.Logout(t.Context()) })
				req := p.request(protocol.MethodLogout)
				start := time.Now()
				p.event(protocol.EventRoomStateChanged, protocol.RoomStateChanged{
					RoomID: "r", State: protocol.RoomDisconnected, Event: protocol.RoomSuccess,
				})
				p.answer(req, struct{}{})
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if closes {
					p.event(protocol.EventConnectionStateChanged, protocol.ConnectionStateChanged{
						State: protocol.ConnectionDisconnected, Event: protocol.ConnectionSuccess,
					})
					p.close(protocol.CloseNormal, "")
				}
				<-c.Done()
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("ended %v after the logout", took)
				}
				if !errors.Is(c.Err(), client.ErrLoggedOut) {
					t.Errorf("got %v, want ErrLoggedOut", c.Err())
				}
				want(t, c, "room r disconnected success", "connection disconnected success")
				if ev, ok := <-c.Events(); ok {
					t.Errorf("got %s after the end", text(ev))
				}
			})
		})
	}
}

// OnEvent gets the events in place of the channel.
func TestConfig_OnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		cfg := g.config()
		got := make(chan string, 10)
		cfg.OnEvent = func(ev client.Event) { got <- text(ev) }
		c, p := g.connect(cfg)
		p.event("somethingNew", map[string]int{"a": 1})
		for _, want := range []string{"connection connecting activeLogin", "connection connected success", "raw somethingNew"} {
			if s := <-got; s != want {
				t.Errorf("got %q, want %q", s, want)
			}
		}
		if c.Events() != nil {
			t.Error("got a channel, too")
		}
	})
}

// Messages that make no sense are skipped and counted.
func TestClient_malformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		for _, s := range []string{`{`, `[]`, `null`, `{"method":7}`, `{"method":"roomMemberJoined","params":7}`} {
			p.text(s)
		}
		p.text(`{"id":99,"result":{}}`) // answers nothing: no harm
		p.event("last", struct{}{})
		want(t, c, "raw last")
		if n := c.Stats().Malformed; n != 5 {
			t.Errorf("got %d malformed, want 5", n)
		}
	})
}

// With RawEvents, what happens in a room is passed on as it came, and moves the
// position all the same.
func TestConfig_RawEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		cfg := g.config()
		cfg.RawEvents = true
		c, p := g.connect(cfg)
		enter(t, c, p, "r<1>", 3)
		p.joined("r<1>", "bo", 4)
		p.joined("r<1>", "bo", 4)
		p.event(protocol.EventRoomMessageReceived, protocol.MessageReceived{FromConversationID: "r<1>", Seq: 6})
		want(t, c, "raw roomMemberJoined r<1>", "raw roomMessageReceived r<1>")
		p.text(`{"method":"roomMemberLeft","params":{"roomID":"r<1>","seq":"7"}}`)
		p.event("last", struct{}{})
		want(t, c, "raw last")
		if at := c.Rooms()[0].Seq; at != 6 {
			t.Errorf("got position %d, want 6", at)
		}
		if got := c.Stats(); got.Duplicates != 1 || got.Malformed != 1 {
			t.Errorf("got %+v, want a duplicate and a malformed one", got)
		}
	})
}

// An idle client is one goroutine, and one at the gateway.
func TestClient_goroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		before := runtime.NumGoroutine()
		const n = 50
		for range n {
			g.connect(g.config())
		}
		synctest.Wait()
		if got := runtime.NumGoroutine() - before; got > 2*n+n/10 {
			t.Errorf("%d idle clients have %d goroutines, both ends counted", n, got)
		}
	})
}
