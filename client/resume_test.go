package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

// A client that comes back names its session and its rooms, in the order in
// which it entered them, with what it knows of each.
func TestClient_resume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		enter(t, c, p, "z", 3)
		enter(t, c, p, "gone", 1)
		enter(t, c, p, "a", 10)
		p.joined("z", "bo", 4)
		p.event(protocol.EventRoomMessageReceived, protocol.MessageReceived{
			FromConversationID: "a", MessageList: []protocol.Message{{Message: "hi"}}, Seq: 12,
		})
		p.event(protocol.EventRoomMessageReceived, protocol.MessageReceived{
			FromConversationID: "a", MessageList: []protocol.Message{{Message: "barrage"}}, After: new(int64(40)),
		})
		p.event("roomPaintedBlue", map[string]any{"roomID": "z", "seq": 6})
		p.event(protocol.EventRoomStateChanged, protocol.RoomStateChanged{
			RoomID: "gone", State: protocol.RoomDisconnected, Event: protocol.RoomNotExist,
		})
		p.event(protocol.EventRoomHistoryLost, protocol.HistoryLost{RoomID: "a", FromSeq: 12, ToSeq: 20})
		want(t, c, "joined z bo 4", `message a "hi"`, `message a "barrage"`, "raw roomPaintedBlue z",
			"room gone disconnected roomNotExist", "HistoryLost")

		p.ws.CloseNow()
		want(t, c, "connection reconnecting loginInterrupted",
			"room z connecting networkInterrupted", "room a connecting networkInterrupted")
		p = g.accept()
		got := p.login("s1", true)
		wantResume := &protocol.Resume{SessionID: "s1", Rooms: []protocol.ResumeRoom{
			{RoomID: "z", Position: protocol.Position{Epoch: 7, Seq: 6}},
			{RoomID: "a", Position: protocol.Position{Epoch: 7, Seq: 20}},
		}}
		if diff := cmp.Diff(wantResume, got.Resume); diff != "" {
			t.Errorf("resume (-want +got):\n%s", diff)
		}
		p.connected("z", 7, 6)
		p.event(protocol.EventRoomMemberLeft, protocol.MembersChanged{
			RoomID: "z", MemberList: []protocol.UserInfo{{UserID: "bo"}}, Seq: 7,
		})
		p.connected("a", 8, 2) // healed: another epoch
		want(t, c, "connection connected success",
			"room z connected success", "left z bo 7", "room a connected success")
		if diff := cmp.Diff([]protocol.ResumeRoom{
			{RoomID: "z", Position: protocol.Position{Epoch: 7, Seq: 7}},
			{RoomID: "a", Position: protocol.Position{Epoch: 8, Seq: 2}},
		}, c.Rooms()); diff != "" {
			t.Errorf("rooms (-want +got):\n%s", diff)
		}
		if got := c.Stats(); got != (client.Stats{Logins: 2, Resumes: 1}) {
			t.Errorf("got %+v", got)
		}
	})
}

// A difference of members that is further than the position, since missed
// messages follow it, is named too: for as long as it is further, and in this
// life of the room.
func TestClient_resume_membersSeq(t *testing.T) {
	for _, raw := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := newFabric(t).gateway("a")
			cfg := g.config()
			cfg.RawEvents = raw
			c, p := g.connect(cfg)
			enter(t, c, p, "r", 3)
			named := func(want protocol.ResumeRoom) {
				t.Helper()
				synctest.Wait()
				if diff := cmp.Diff([]protocol.ResumeRoom{want}, c.Rooms()); diff != "" {
					t.Errorf("raw %v: rooms (-want +got):\n%s", raw, diff)
				}
			}
			message := func(seq int64) {
				p.event(protocol.EventRoomMessageReceived, protocol.MessageReceived{
					FromConversationID: "r", MessageList: []protocol.Message{{Message: "hi"}}, Seq: seq,
				})
			}
			p.event(protocol.EventRoomMemberJoined, protocol.MembersChanged{
				RoomID: "r", MemberList: []protocol.UserInfo{{UserID: "bo"}}, MembersSeq: 6,
			})
			message(4)
			named(protocol.ResumeRoom{RoomID: "r", Position: protocol.Position{Epoch: 7, Seq: 4}, MembersSeq: 6})
			message(6)
			named(protocol.ResumeRoom{RoomID: "r", Position: protocol.Position{Epoch: 7, Seq: 6}})
			p.event(protocol.EventRoomMemberLeft, protocol.MembersChanged{
				RoomID: "r", MemberList: []protocol.UserInfo{{UserID: "bo"}}, MembersSeq: 9,
			})
			p.connected("r", 8, 2)
			named(protocol.ResumeRoom{RoomID: "r", Position: protocol.Position{Epoch: 8, Seq: 2}})
		})
	}
}

// An event at or before the position is a duplicate, under the same epoch.
func TestClient_duplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		enter(t, c, p, "r", 3)
		for _, seq := range []int64{3, 4, 4, 2, 9, 8} {
			p.joined("r", "bo", seq)
		}
		p.connected("r", 8, 1)
		p.joined("r", "cy", 2)
		p.joined("r", "cy", 5)
		p.joined("elsewhere", "di", 1)
		want(t, c, "joined r bo 4", "joined r bo 9", "room r connected success", "joined r cy 2", "joined r cy 5",
			"joined elsewhere di 1")
		quiet(t, c)
		if n := c.Stats().Duplicates; n != 4 {
			t.Errorf("got %d duplicates, want 4", n)
		}
	})
}

// What changes something is repeated under its key when the session goes on,
// in the order of the calls; queries are repeated, too; what was not sent yet
// follows.
func TestClient_repeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		var done []<-chan error
		var sent []protocol.Request
		step := func(method string, f func() error) {
			done = append(done, call(f))
			sent = append(sent, p.request(method))
		}
		step(protocol.MethodEnterRoom, func() error {
			_, err := c.EnterRoom(t.Context(), protocol.RoomBaseInfo{RoomID: "r"}, nil)
			return err
		})
		step(protocol.MethodQueryRoomOnlineMemberCount, func() error {
			_, err := c.QueryRoomOnlineMemberCount(t.Context(), "r")
			return err
		})
		for i := range 20 {
			step(protocol.MethodLeaveRoom, func() error { return c.LeaveRoom(t.Context(), fmt.Sprint(i)) })
		}
		ctx, cancel := context.WithCancel(t.Context())
		before, giveUp := context.WithCancel(t.Context())
		early := call(func() error { return c.LeaveRoom(before, "given up before") })
		p.request(protocol.MethodLeaveRoom)
		giveUp()
		<-early
		abandoned := call(func() error { return c.LeaveRoom(ctx, "given up after") })
		p.request(protocol.MethodLeaveRoom)
		p.ws.CloseNow()
		want(t, c, "connection reconnecting loginInterrupted")
		cancel()
		<-abandoned
		p = g.accept()
		done = append(done, call(func() error { _, err := c.LeaveAllRoom(t.Context()); return err }))
		synctest.Wait()
		p.login("s1", true)
		for i, old := range sent {
			req := p.request(old.Method)
			if string(req.Params) != string(old.Params) || string(req.ID) != string(old.ID) {
				t.Errorf("got %s %s, want the same as before: %s %s", req.ID, req.Params, old.ID, old.Params)
			}
			p.answer(req, struct{}{})
			if err := <-done[i]; err != nil {
				t.Error(err)
			}
		}
		p.answer(p.request(protocol.MethodLeaveAllRoom), struct{}{})
		if err := <-done[len(done)-1]; err != nil {
			t.Error(err)
		}
	})
}

// When the session is lost nobody can say what became of a request that may
// have been carried out, so it is not repeated.
func TestClient_sessionLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		enter(t, c, p, "r", 3)
		leave := call(func() error { return c.LeaveRoom(t.Context(), "r") })
		p.request(protocol.MethodLeaveRoom)
		count := call(func() error { _, err := c.QueryRoomOnlineMemberCount(t.Context(), "r"); return err })
		p.request(protocol.MethodQueryRoomOnlineMemberCount)
		p.ws.CloseNow()
		want(t, c, "connection reconnecting loginInterrupted", "room r connecting networkInterrupted")
		p = g.accept()
		unsent := call(func() error { return c.LeaveRoom(t.Context(), "r") })
		synctest.Wait()
		p.login("s2", false)
		if e := as[*client.UnansweredError](t, <-leave); !e.Unknown || !errors.Is(e, client.ErrSessionLost) {
			t.Errorf("got %v, want outcome unknown, session lost", e)
		}
		p.event(protocol.EventRoomStateChanged, protocol.RoomStateChanged{
			RoomID: "r", State: protocol.RoomDisconnected, Event: protocol.RoomConnectTimeout,
		})
		want(t, c, "connection connected success", "room r disconnected connectTimeout")
		p.answer(p.request(protocol.MethodQueryRoomOnlineMemberCount), struct{}{})
		p.answer(p.request(protocol.MethodLeaveRoom), struct{}{})
		if err := errors.Join(<-count, <-unsent); err != nil {
			t.Error(err)
		}
		p.ws.CloseNow()
		if got := g.accept().login("s2", true); got.Resume.SessionID != "s2" || got.Resume.Rooms != nil {
			t.Errorf("got resume %+v, want the new session and no room", got.Resume)
		}
	})
}

// The repeat of an entry sends what followed it again; none of that is passed
// on twice, and none of it is lost.
func TestClient_repeatedEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		done := call(func() error { _, err := c.JoinRoom(t.Context(), "r"); return err })
		p.request(protocol.MethodJoinRoom)
		p.connected("r", 7, 3)
		p.joined("r", "bo", 4)
		want(t, c, "room r connected success", "joined r bo 4")
		p.ws.CloseNow()
		p = g.accept()
		p.login("s1", true)
		p.connected("r", 7, 4)
		p.joined("r", "cy", 5)
		req := p.request(protocol.MethodJoinRoom)
		p.connected("r", 7, 3)
		p.answer(req, protocol.Room{Position: protocol.Position{Epoch: 7, Seq: 3}})
		p.joined("r", "bo", 4)
		p.joined("r", "cy", 5)
		p.joined("r", "di", 6)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want(t, c, "connection reconnecting loginInterrupted", "room r connecting networkInterrupted",
			"connection connected success", "room r connected success", "joined r cy 5",
			"room r connected success", "joined r di 6")
		if got := c.Stats(); got.Duplicates != 0 || got.Repeats != 2 {
			t.Errorf("got %+v, want no duplicates and 2 repeats", got)
		}
	})
}

// An entry of which nothing had arrived is complete after its repeat.
func TestClient_repeatedEntry_unseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		done := call(func() error { _, err := c.JoinRoom(t.Context(), "r"); return err })
		p.request(protocol.MethodJoinRoom)
		p.ws.CloseNow()
		p = g.accept()
		p.login("s1", true)
		p.connected("r", 7, 5) // not named, so at the head
		p.joined("r", "ed", 6)
		req := p.request(protocol.MethodJoinRoom)
		p.connected("r", 7, 3)
		p.answer(req, struct{}{})
		for i, user := range []string{"bo", "cy", "ed", "flo"} {
			p.joined("r", user, int64(4+i))
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want(t, c, "connection reconnecting loginInterrupted", "connection connected success",
			"room r connected success", "joined r ed 6", "room r connected success",
			"joined r bo 4", "joined r cy 5", "joined r flo 7")
	})
}

// Every close code has its consequence.
func TestClient_closeCodes(t *testing.T) {
	for code, end := range map[protocol.CloseCode]string{
		protocol.CloseGoingAway:      "",
		protocol.CloseServiceRestart: "",
		protocol.CloseTryAgainLater:  "",
		1011:                         "",
		protocol.CloseLoginTimeout:   "",
		protocol.CloseNoSignOfLife:   "",
		protocol.CloseSlowConsumer:   "",
		4499:                         "",

		protocol.CloseNormal:          "loginInterrupted",
		protocol.CloseTooBig:          "loginInterrupted",
		protocol.CloseNotThisProtocol: "loginInterrupted",
		protocol.CloseNotAuthorised:   "tokenExpired",
		protocol.CloseKickedByLogin:   "kickedOut",
		protocol.CloseTakenOver:       "kickedOut",
		protocol.CloseRateAbuse:       "loginInterrupted",
		4999:                          "loginInterrupted",
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newFabric(t).gateway("a")
				c, p := g.connect(g.config())
				enter(t, c, p, "r", 3)
				p.close(code, "")
				if end == "" {
					g.accept().login("s1", true)
					want(t, c, "connection reconnecting loginInterrupted", "room r connecting networkInterrupted",
						"connection connected success")
					return
				}
				<-c.Done()
				if e := as[*client.CloseError](t, c.Err()); e.Code != code {
					t.Errorf("got %v, want code %d", e, code)
				}
				want(t, c, "room r disconnected networkDisconnected", "connection disconnected "+end)
				if _, ok := <-c.Events(); ok {
					t.Error("got an event after the end")
				}
				if !errors.Is(c.LeaveRoom(t.Context(), "r"), c.Err()) {
					t.Error("a call after the end does not say why")
				}
			})
		})
	}
}

// What the gateway says of the end is not said twice.
func TestClient_kicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		p.event(protocol.EventConnectionStateChanged, protocol.ConnectionStateChanged{
			State: protocol.ConnectionDisconnected, Event: protocol.ConnectionKickedOut,
		})
		p.close(protocol.CloseKickedByLogin, "")
		want(t, c, "connection disconnected kickedOut")
		if ev, ok := <-c.Events(); ok {
			t.Errorf("got %s after the end", text(ev))
		}
	})
}

// A login that is refused on the way back ends the client.
func TestClient_loginRefusedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		enter(t, c, p, "r", 3)
		p.ws.CloseNow()
		p = g.accept()
		p.refuse(p.request(protocol.MethodLogin), protocol.Error{Code: protocol.CodeTokenExpired, Message: "expired"})
		want(t, c, "connection reconnecting loginInterrupted", "room r connecting networkInterrupted",
			"room r disconnected networkDisconnected", "connection disconnected tokenExpired")
		<-c.Done()
		if pe := as[*protocol.Error](t, c.Err()); pe.Code != protocol.CodeTokenExpired {
			t.Errorf("got %v", pe)
		}
	})
}

// A token that was renewed is the one of later logins.
func TestClient_RenewToken_later(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		cfg := g.config()
		cfg.Token = "old"
		c, p := g.connect(cfg)
		done := call(func() error { _, err := c.RenewToken(t.Context(), "new"); return err })
		p.answer(p.request(protocol.MethodRenewToken), protocol.RenewTokenResult{TokenExpiresAt: 1})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		p.ws.CloseNow()
		if got := g.accept().login("s1", true); got.Token != "new" {
			t.Errorf("got token %q, want the new one", got.Token)
		}
	})
}

// Attempts in a row are spread over a bound that doubles up to its maximum, and
// a link that lasts begins it anew.
func TestClient_backoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		cfg := g.config()
		cfg.MinBackoff, cfg.MaxBackoff = time.Second, 6*time.Second
		bounds := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 6 * time.Second, 6 * time.Second}
		var waits []time.Duration
		for range 20 {
			ch := goDial(t.Context(), cfg)
			for i, bound := range bounds {
				p := g.accept()
				p.ws.CloseNow()
				<-p.gone
				left := time.Now()
				p = g.accept()
				wait := time.Since(left)
				if wait >= bound {
					t.Errorf("waited %v before attempt %d, want less than %v", wait, i+2, bound)
				}
				waits = append(waits, time.Duration(float64(wait)/float64(bound)*1000))
				g.peers <- p // it is the next to be cut
			}
			p := g.accept()
			p.login("s1", false)
			d := <-ch
			time.Sleep(10 * time.Second) // this link lasts
			p.ws.CloseNow()
			<-p.gone
			left := time.Now()
			p = g.accept()
			if wait := time.Since(left); wait >= cfg.MinBackoff {
				t.Errorf("waited %v after a link that lasted, want less than %v", wait, cfg.MinBackoff)
			}
			p.login("s1", true)
			d.c.Close()
		}
		slices.Sort(waits)
		if low, high := waits[len(waits)/10], waits[len(waits)*9/10]; low > 300 || high < 700 {
			t.Errorf("80%% of the waits lie in %d–%d thousandths of their bound: that is no full jitter", low, high)
		}
	})
}

// A gateway that names a wait is obeyed to the millisecond.
func TestClient_reconnectAfter(t *testing.T) {
	for reason, want := range map[string]time.Duration{
		`{"reconnectAfterMs":12345}`: 12345 * time.Millisecond,
		`{"reconnectAfterMs":0}`:     0,
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newFabric(t).gateway("a")
			_, p := g.connect(g.config())
			p.close(protocol.CloseSlowConsumer, reason)
			left := time.Now()
			g.accept().login("s1", true)
			if got := time.Since(left); got != want {
				t.Errorf("%s: came back after %v", reason, got)
			}
		})
	}
}

// A wait is obeyed, too, if it is named before the login.
func TestDial_reconnectAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		ch := goDial(t.Context(), g.config())
		p := g.accept()
		p.close(protocol.CloseTryAgainLater, `{"reconnectAfterMs":45000}`)
		left := time.Now()
		p = g.accept()
		if got := time.Since(left); got != 45*time.Second {
			t.Errorf("came back after %v, want 45s", got)
		}
		p.login("s1", false)
		(<-ch).c.Close()
	})
}

// A client asked to move stays until its time has come, loses nothing that was
// under way, and then goes to the next gateway at once.
func TestClient_draining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric(t)
		a, b := f.gateway("a"), f.gateway("b")
		cfg := a.config()
		cfg.URLs = []string{a.url, b.url}
		c, p := a.connect(cfg)
		enter(t, c, p, "r", 3)
		asked := time.Now()
		p.event(protocol.EventServerDraining, protocol.ServerDraining{ReconnectAfterMS: 4000})
		want(t, c, "ServerDraining")
		time.Sleep(3 * time.Second)
		p.joined("r", "bo", 4)
		want(t, c, "joined r bo 4")
		pb := b.accept()
		if got := time.Since(asked); got != 4*time.Second {
			t.Errorf("moved after %v, want 4s", got)
		}
		<-p.gone
		if code := websocket.CloseStatus(p.end); code != websocket.StatusGoingAway {
			t.Errorf("left with %v, want a close frame that says so", p.end)
		}
		if got := pb.login("s1", true); got.Resume == nil || got.Resume.Rooms[0].Seq != 4 {
			t.Errorf("got resume %+v", got.Resume)
		}
		want(t, c, "connection reconnecting loginInterrupted", "room r connecting networkInterrupted",
			"connection connected success")
	})
}

// If a draining gateway goes before the client has moved, the client still
// comes back when it was told to.
func TestClient_draining_early(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		asked := time.Now()
		p.event(protocol.EventServerDraining, protocol.ServerDraining{ReconnectAfterMS: 4000})
		want(t, c, "ServerDraining")
		time.Sleep(time.Second)
		p.close(protocol.CloseGoingAway, "")
		g.accept().login("s1", true)
		if got := time.Since(asked); got != 4*time.Second {
			t.Errorf("came back after %v, want 4s", got)
		}
	})
}

// A link that has gone silent is asked, and given up if it does not answer,
// long before the session ends.
func TestClient_ping_unanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		start := time.Now()
		p.request(protocol.MethodPing)
		<-p.gone
		if got := time.Since(start); got != 20*time.Second {
			t.Errorf("gave up after %v, want two intervals of 10s", got)
		}
		g.accept().login("s1", true)
		want(t, c, "connection reconnecting loginInterrupted", "connection connected success")
	})
}

// A link that answers is kept, and one that is heard is not even asked.
func TestClient_ping_answered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		for range 3 {
			p.answer(p.request(protocol.MethodPing), protocol.PingResult{})
		}
		for range 10 {
			time.Sleep(10 * time.Second)
			if err := p.ws.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		p.none()
		quiet(t, c)
	})
}

// The client's own ping does not wait behind requests that wait for answers.
func TestClient_ping_busy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		ctx, cancel := context.WithCancel(t.Context())
		var done []<-chan error
		for range protocol.MaxUnanswered + 1 {
			done = append(done, call(func() error { return c.LeaveRoom(ctx, "r") }))
		}
		for range protocol.MaxUnanswered {
			p.request(protocol.MethodLeaveRoom)
		}
		p.answer(p.request(protocol.MethodPing), protocol.PingResult{})
		cancel()
		for _, d := range done {
			as[*client.UnansweredError](t, <-d)
		}
	})
}

// A slow reader of the stream stops the client from reading, and nothing else:
// the link is not taken for dead, and every event arrives, in order.
func TestClient_slowConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		cfg := g.config()
		cfg.EventBuffer = 16
		c, p := g.connect(cfg)
		const n = 100
		var lines []string
		for i := range n {
			lines = append(lines, fmt.Sprintf("joined r bo %d", i+1))
		}
		done := make(chan struct{})
		var sent atomic.Int64
		go func() {
			defer close(done)
			for i := range n {
				p.joined("r", "bo", int64(i+1))
				sent.Add(1)
			}
		}()
		time.Sleep(time.Minute)
		if took := sent.Load(); took > 16+8 { // some are on their way
			t.Errorf("the client took %d events with a buffer for 16", took)
		}
		want(t, c, lines...)
		<-done
		quiet(t, c)
	})
}

// A client closed as too slow comes back from where its stream ends.
func TestClient_slowConsumer_closed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g := &gateway{t: t, peers: make(chan *peer, 10)}
	srv := httptest.NewServer(http.HandlerFunc(g.serve)) // real sockets, with real buffers
	defer srv.Close()
	tr := &http.Transport{DialContext: (&net.Dialer{}).DialContext}
	defer tr.CloseIdleConnections()
	ch := goDial(ctx, client.Config{
		URLs: []string{srv.URL}, HTTPClient: &http.Client{Transport: tr},
		User: protocol.UserInfo{UserID: "ana"}, EventBuffer: 16,
	})
	p := g.accept()
	p.login("s1", false)
	d := <-ch
	if d.err != nil {
		t.Fatal(d.err)
	}
	c := d.c
	defer c.Close()
	want(t, c, "connection connecting activeLogin", "connection connected success")
	enter(t, c, p, "r", 0)
	var lines []string
	for i := range int64(50) {
		p.joined("r", "bo", i+1)
		lines = append(lines, fmt.Sprintf("joined r bo %d", i+1))
	}
	go p.ws.Close(websocket.StatusCode(protocol.CloseSlowConsumer), `{"reconnectAfterMs":1}`)
	want(t, c, lines...)
	want(t, c, "connection reconnecting loginInterrupted", "room r connecting networkInterrupted")
	if got := g.accept().login("s1", true); got.Resume.Rooms[0].Seq != 50 {
		t.Errorf("got resume %+v, want position 50", got.Resume)
	}
	want(t, c, "connection connected success")
}

// Close ends a client whose stream nobody reads.
func TestClient_Close_slowConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		cfg := g.config()
		cfg.EventBuffer = 16
		c, p := g.connect(cfg)
		go func() {
			for i := range 100 {
				if p.ws.Write(t.Context(), 1, fmt.Appendf(nil, `{"method":"e%d","params":{}}`, i)) != nil {
					return
				}
			}
		}()
		synctest.Wait()
		c.Close()
	})
}

// A login that the client has given up may take effect after the next, which then hears
// that the session goes on over another connection: the client's own, which it has closed.
// It comes back, once; for whom else the session should go on, or much later, it does not.
func TestClient_takenOverByItself(t *testing.T) {
	for name, tt := range map[string]struct {
		unanswered, refused bool
		after               time.Duration
		back                bool
	}{
		"a login was given up":          {true, false, time.Second, true},
		"a login was given up long ago": {true, false, 31 * time.Second, false},
		"a login was refused":           {true, true, time.Second, false},
		"each login had its answer":     {false, false, time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newFabric(t).gateway("a")
				cfg := g.config()
				cfg.ConnectTimeout = 3 * time.Second
				c, p := g.connect(cfg)
				enter(t, c, p, "r", 3)
				interrupted := []string{"connection reconnecting loginInterrupted", "room r connecting networkInterrupted"}
				p.ws.CloseNow()
				want(t, c, interrupted...)
				if tt.unanswered {
					p = g.accept()
					req := p.request(protocol.MethodLogin)
					if tt.refused {
						p.refuse(req, protocol.Error{Code: protocol.CodeUnavailable, Data: &protocol.ErrorData{Retryable: true}})
					}
					<-p.gone
				}
				comeBack := func() {
					t.Helper()
					p = g.accept()
					if got := p.login("s1", true).Resume; got == nil || got.SessionID != "s1" {
						t.Errorf("got resume %+v, want s1", got)
					}
					p.connected("r", 7, 3)
					want(t, c, "connection connected success", "room r connected success")
				}
				comeBack()
				for range int(tt.after / time.Second) {
					time.Sleep(time.Second)
					p.event("tick", map[string]any{})
					want(t, c, "raw tick")
				}
				if tt.back {
					p.close(protocol.CloseTakenOver, "the session goes on over another connection")
					want(t, c, interrupted...)
					comeBack()
				}
				p.close(protocol.CloseTakenOver, "the session goes on over another connection")
				want(t, c, "room r disconnected networkDisconnected", "connection disconnected kickedOut")
				<-c.Done()
				if e := as[*client.CloseError](t, c.Err()); e.Code != protocol.CloseTakenOver {
					t.Errorf("got %v, want code 4510", e)
				}
			})
		})
	}
}
