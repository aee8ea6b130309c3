//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// lateness is how late an eviction may be.
const lateness = 2 * time.Second

// A gateway that dies costs those who come back nothing: they hear what they
// missed, once and in order, and what they sent meanwhile arrives. Those who do
// not come back leave at their deadline, measured on Redis's clock: the end of
// the gateway's lease and the session TTL.
func TestGatewayDies(t *testing.T) {
	t.Parallel()
	// Longer than it takes to find the gateway dead, so that an eviction at that
	// moment would be early.
	const ttl = 5 * time.Second
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr(), fmt.Sprintf("--session-ttl=%v", ttl))
	door := faultproxy.Start(t, b.Addr) // ana's way to the other gateway
	cy, eve := meet(t, "cy", b.URL()), enroll(b, t, "eve")
	cy.enter("R")
	eve.enter("R")
	ana := meet(t, "ana", a.URL(), "ws://"+door.Addr())
	ana.enter("R")
	bob := meet(t, "bob", a.URL())
	bob.enter("R")
	cy.until("R +bob 4")
	ana.until("R +bob 4")
	book := follow(t, rdb, "R")

	door.Refuse(true)
	node := a.Node()
	a.Kill()
	leaseEnd, err := rdb.ZScore(t.Context(), nodesKey(rdb), node).Result()
	if err != nil {
		t.Fatal(err)
	}
	deadline := int64(leaseEnd) + ttl.Milliseconds()
	ana.hears("connection reconnecting loginInterrupted", "R connecting networkInterrupted")

	cy.say("R", "one")
	fay := enroll(b, t, "fay")
	fay.enter("R")
	dee := enroll(b, t, "dee")
	dee.enter("R")
	cy.say("R", "two")
	eve.ask(protocol.MethodLeaveRoom, joinR, nil)
	fay.ask(protocol.MethodLeaveRoom, joinR, nil) // came and went: nobody who was away hears of it
	cy.say("R", "three")
	sent := make(chan error, 1)
	go func() {
		m := protocol.OutgoingMessage{Type: protocol.MessageText, Message: "still here"}
		_, err := ana.SendRoomMessage(t.Context(), "R", m, nil)
		sent <- err
	}()
	door.Refuse(false)

	ana.hears("connection connected success", "R connected success", "R -eve 4", "R +dee 4", "R cy: one", "R cy: two", "R cy: three")
	if err := <-sent; err != nil {
		t.Errorf("what ana sent while away: %v", err)
	}
	cy.say("R", "four")
	ana.hears("R cy: four")
	cy.hears("R +fay 5", "R +dee 6", "R -eve 5", "R -fay 4", "R ana: still here")

	at := book.eviction("bob") - pausedFor(t, rdb, "bob", "R")
	late := time.Duration(at-deadline) * time.Millisecond
	t.Logf("bob was evicted %v after his deadline", late)
	if late < 0 || late > lateness {
		t.Errorf("bob was evicted %v after his deadline, want 0 to %v", late, lateness)
	}
	cy.hears("R -bob 3")
	ana.hears("R -bob 3")
	if s := ana.Stats(); s.Resumes != 1 || s.Duplicates != 0 || s.Malformed != 0 {
		t.Errorf("ana: got %+v, want 1 resume and nothing odd", s)
	}
	// Nothing of the dead gateway is left behind.
	eventually(t, "the dead gateway to be forgotten", func() bool {
		return rdb.ZScore(t.Context(), nodesKey(rdb), node).Err() != nil &&
			sizeOf(t, rdb, append(inPartitions(rdb, "node:"+node), inUsers(rdb, "nodesessions:"+node)...)) == 0
	})
}

// A link that is lost shows to nobody while the session can come back. It ends
// a session TTL after the last sign of life, and not before.
func TestLinkLost_neverBack(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr())
	cy := enroll(b, t, "cy")
	cy.enter("R")
	for _, silence := range []bool{false, true} {
		user := fmt.Sprintf("ana-%v", silence)
		t.Run(map[bool]string{false: "cut", true: "silent"}[silence], func(t *testing.T) {
			link := faultproxy.Start(t, a.Addr)
			ana := connect(t, "ws://"+link.Addr())
			ana.login(fmt.Sprintf(`{"userID":%q}`, user))
			ana.enter("R")
			cy.until(fmt.Sprintf("R +%s 2", user))
			book := follow(t, rdb, "R")

			before := redisTime(t, rdb)
			ana.ask(protocol.MethodPing, "{}", nil)
			if silence {
				link.Deafen() // pings go out, and nothing comes back
			} else {
				ana.drop()
			}
			after := redisTime(t, rdb)
			at := book.eviction(user)
			early, late := time.Duration(at-before)*time.Millisecond, time.Duration(at-after)*time.Millisecond
			t.Logf("evicted %v after the last sign of life", late)
			if early < sessionTTL || late > sessionTTL+lateness {
				t.Errorf("evicted %v to %v after the last sign of life, want %v to %v", late, early, sessionTTL, sessionTTL+lateness)
			}
			cy.hears(fmt.Sprintf("R -%s 1", user))
		})
	}
}

// resume comes back to a session with what the client knows of its rooms, and
// says whether the session went on.
func resume(t testing.TB, g *gateway, user, session string, rooms string) (*wire, bool) {
	t.Helper()
	w := connect(t, g.URL())
	r := w.login(fmt.Sprintf(`{"userID":%q,"resume":{"sessionID":%q,"rooms":[%s]}}`, user, session, rooms))
	return w, r.Resumed
}

func at(room string, p protocol.Position) string {
	return fmt.Sprintf(`{"roomID":%q,"epoch":%d,"seq":%d}`, room, p.Epoch, p.Seq)
}

// A client that comes back in time, to the same gateway or another, misses
// nothing, and the others see nothing of it.
func TestLinkLost_back(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	for name, to := range map[string]*gateway{"the same gateway": a, "another gateway": b} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			room := map[*gateway]string{a: "same", b: "other"}[to]
			cy := enroll(b, t, "cy-"+room)
			cy.enter(room)
			ana := connect(t, a.URL())
			session := ana.login(`{"userID":"ana-` + room + `"}`).SessionID
			known := ana.enter(room).Position
			cy.until(room + " +ana-" + room + " 2")
			cy.say(room, "zero")
			ana.until(room + " cy-" + room + ": zero")
			known.Seq++

			ana.drop()
			cy.say(room, "one")
			dee := enroll(a, t, "dee-"+room)
			dee.enter(room)
			cy.say(room, "two")

			ana, resumed := resume(t, to, "ana-"+room, session, at(room, known))
			if !resumed {
				t.Error("the session did not go on")
			}
			ana.hears(room+" connected success", room+" +dee-"+room+" 3", room+" cy-"+room+": one", room+" cy-"+room+": two")
			ana.say(room, "back")
			cy.hears(room+" +dee-"+room+" 3", room+" ana-"+room+": back")
		})
	}
}

// A client that has come back knows all that it missed: if its link is lost
// once more it hears nothing a second time, whatever came last.
func TestLinkLost_backTwice(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	link := faultproxy.Start(t, a.Addr)
	cy := enroll(b, t, "cy")
	cy.enter("R")
	ana := meet(t, "ana", "ws://"+link.Addr())
	ana.enter("R")
	ana.until("R connected success")

	away := func() {
		t.Helper()
		link.Refuse(true)
		link.Cut()
		ana.hears("connection reconnecting loginInterrupted", "R connecting networkInterrupted")
	}
	away()
	cy.say("R", "one")
	enroll(b, t, "dee").enter("R")
	link.Refuse(false)
	got := ana.until("R cy: one")
	away()
	link.Refuse(false)
	cy.say("R", "two")
	got = append(got, ana.until("R cy: two")...)
	want := []string{"connection connected success", "R connected success", "R +dee 3", "R cy: one",
		"connection connected success", "R connected success", "R cy: two"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("ana (-want +got):\n%s", d)
	}
}

// While an old connection still looks alive the session may come back over a
// new one. The old one is closed, and its late clean-up changes nothing.
func TestResume_takesOver(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr())
	for _, tt := range []struct {
		name string
		to   *gateway
		deaf bool // the old connection hears nothing any more
	}{
		{"same", a, false},
		{"other", b, false},
		{"deaf", b, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			user, room := "ana-"+tt.name, tt.name
			cy := enroll(b, t, "cy-"+tt.name)
			cy.enter(room)
			link := faultproxy.Start(t, a.Addr)
			old := connect(t, "ws://"+link.Addr())
			session := old.login(fmt.Sprintf(`{"userID":%q}`, user)).SessionID
			known := old.enter(room).Position
			cy.until(fmt.Sprintf("%s +%s 2", room, user))
			if tt.deaf {
				link.Deafen()
			}

			now, resumed := resume(t, tt.to, user, session, at(room, known))
			if !resumed {
				t.Fatal("the session did not go on")
			}
			now.hears(room + " connected success")
			if !tt.deaf {
				old.wantClosed(protocol.CloseTakenOver)
			}
			// Had the clean-up parked the session, the sweep would evict it now.
			during(t, rdb, sessionTTL+lateness)
			now.say(room, "still here")
			cy.hears(fmt.Sprintf("%s %s: still here", room, user))
		})
	}
	t.Cleanup(func() {
		if !t.Failed() {
			eventually(t, "all three to have tried to park", func() bool {
				return a.Metric(`roomgate_roomstore_script_seconds_count{outcome="fenced",script="park"}`) == 3
			})
		}
	})
}

// A login that its client has given up may take effect behind the next. Who is back by that
// hears that the session goes on over another connection, which nobody is at, and comes
// back once more. Nobody else sees anything of it.
func TestResume_givenUp(t *testing.T) {
	t.Parallel()
	const people = 8 // some of whose logins do not wait behind a call of the gateway's own
	server, _ := anyRedis(t)
	link := linkTo(t, server)
	flags := []string{"--session-ttl=60s", "--lease-ttl=10s", "--heartbeat-interval=10s", "--redis-timeout=5s", "--drain-window=25s"}
	slow, b := startGateway(t, link.Addr(), flags...), startGateway(t, server.Addr(), flags...)
	door := faultproxy.Start(t, b.Addr)
	cy := enroll(b, t, "cy")
	cy.enter("R")
	var crowd []*person
	for i := range people {
		p := meetWithin(t, time.Second, fmt.Sprintf("p%d", i), "ws://"+door.Addr(), slow.URL(), b.URL())
		p.enter("R")
		crowd = append(crowd, p)
	}
	cy.until(fmt.Sprintf("R +p%d %d", people-1, people+1))

	link.Hold(true)
	door.Cut()
	resumes := func() (n int) {
		for _, p := range crowd {
			n += int(p.Stats().Resumes)
		}
		return n
	}
	eventually(t, "all to be back", func() bool { return resumes() == people })
	link.Hold(false)
	taken := func() int { return int(b.Metric(`roomgate_gateway_closes_total{code="4510"}`)) }
	eventually(t, "logins that were given up to take effect", func() bool { return taken() > 0 })
	var want []string
	for _, p := range crowd {
		p.say("R", "still here")
		want = append(want, fmt.Sprintf("R %s: still here", p.name))
	}
	cy.hears(want...)
	eventually(t, "all to be back once more", func() bool { return resumes() == people+taken() })
	for _, p := range crowd {
		if err := p.Err(); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
	}
}

// What a client that comes back hears of its room, by what has become of its
// place there.
func TestResume_outcomes(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr())
	for _, tt := range []struct {
		name    string
		away    func(t *testing.T, room, user string, ana, cy *wire, book *ledger)
		unknown bool // the session has ended
		want    []string
		others  []string // of what happened; comes before the return
	}{
		{name: "evicted", unknown: true, want: []string{"R disconnected connectTimeout"}, others: []string{"R -ana 1"},
			away: func(t *testing.T, room, user string, ana, cy *wire, book *ledger) { book.eviction(user) }},
		{name: "destroyed", want: []string{"R disconnected roomNotExist"}, others: []string{"R disconnected roomNotExist"},
			away: func(t *testing.T, room, user string, ana, cy *wire, book *ledger) { destroy(t, b, room) }},
		{name: "kicked", want: []string{`R disconnected kickedOut {"room_id":"R","reason":"rude","message":"Go away"}`}, others: []string{"R -ana 1"},
			away: func(t *testing.T, room, user string, ana, cy *wire, book *ledger) {
				kick(t, b, room, user, "rude", "Go away")
			}},
		{name: "device", want: []string{"R disconnected kickedOutByOtherDevice"},
			away: func(t *testing.T, room, user string, ana, cy *wire, book *ledger) {
				enroll(b, t, user).enter(room)
			}},
		{name: "left", want: []string{"R disconnected success"}, others: []string{"R -ana 1"},
			away: func(t *testing.T, room, user string, ana, cy *wire, book *ledger) {}},
		{name: "recreated", want: []string{"R disconnected connectTimeout"},
			away: func(t *testing.T, room, user string, ana, cy *wire, book *ledger) {
				destroy(t, b, room)
				cy.until(room + " disconnected roomNotExist")
				cy.enter(room)
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			room, user := tt.name, "ana-"+tt.name
			plain := func(in []string) (out []string) { return renamed(in, "R", room, "ana", user) }
			cy := enroll(b, t, "cy-"+tt.name)
			cy.enter(room)
			ana := connect(t, a.URL())
			session := ana.login(fmt.Sprintf(`{"userID":%q}`, user)).SessionID
			known := ana.enter(room).Position
			cy.until(fmt.Sprintf("%s +%s 2", room, user))
			book := follow(t, rdb, room)
			if tt.name == "left" {
				ana.send(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%q}`, room))
				book.find("the leave", func(e roomstore.Event) bool { return e.Kind == roomstore.KindLeft })
			}
			ana.drop() // and never saw an answer
			tt.away(t, room, user, ana, cy, book)

			back, resumed := resume(t, b, user, session, at(room, known))
			if resumed == tt.unknown {
				t.Errorf("resumed: got %v, want %v", resumed, !tt.unknown)
			}
			back.hears(plain(tt.want)...)
			back.send(protocol.MethodQueryRoomOnlineMemberCount, fmt.Sprintf(`{"roomID":%q}`, room))
			if _, r := back.response(); r.Error == nil {
				t.Errorf("got %s, want that the session is not in the room", r.Result)
			}
			if len(tt.others) == 0 {
				cy.settled()
			} else {
				cy.hears(plain(tt.others)...)
			}
		})
	}
}

// A room of the session that the client does not name is told at its current
// position; a room that the session was never in, and every room of a session
// that is not the user's, is over.
func TestResume_named(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	cy := enroll(b, t, "cy")
	cy.enter("R")
	cy.enter("S")
	ana := connect(t, a.URL())
	session := ana.login(`{"userID":"ana"}`).SessionID
	known := ana.enter("R").Position
	cy.until("R +ana 2")
	ana.drop()
	cy.say("R", "unheard")

	// Nobody else can take the session over.
	bob, resumed := resume(t, b, "bob", session, at("R", known))
	if resumed {
		t.Error("bob went on with ana's session")
	}
	bob.hears("R disconnected connectTimeout")

	back, resumed := resume(t, b, "ana", session, at("S", known)+","+at("T", known))
	if !resumed {
		t.Error("the session did not go on")
	}
	frame := back.take()
	p := params[protocol.RoomStateChanged](t, frame)
	if brief(frame) != "R connected success" || p.Epoch != known.Epoch || p.Seq != known.Seq+1 {
		t.Errorf("got %s, want R connected at %+v and 1", frame, known)
	}
	back.hears("S disconnected connectTimeout", "T disconnected roomNotExist")
	cy.say("R", "heard")
	back.hears("R cy: heard")
}

// A client that has missed more than the room keeps is told so, at the head of
// the room, and hears what follows.
func TestResume_historyLost(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--log-size=4")
	cy := enroll(b, t, "cy")
	cy.enter("R")
	ana := connect(t, a.URL())
	session := ana.login(`{"userID":"ana"}`).SessionID
	known := ana.enter("R").Position
	for _, tt := range []struct {
		missed int
		want   func(head int64) []string
	}{
		{4, func(int64) []string {
			return []string{"R connected success", "R cy: 1", "R cy: 2", "R cy: 3", "R cy: 4"}
		}},
		{5, func(head int64) []string {
			return []string{"R connected success", fmt.Sprintf("R lost %d-%d", known.Seq, head)}
		}},
	} {
		ana.drop()
		// The gateway that ana was on and those that nobody else was on keep
		// nothing, so it must come from Redis.
		for i := range tt.missed {
			cy.say("R", fmt.Sprint(i+1))
		}
		a = startGateway(t, server.Addr(), "--log-size=4")
		var resumed bool
		ana, resumed = resume(t, a, "ana", session, at("R", known))
		if !resumed {
			t.Fatal("the session did not go on")
		}
		head := known.Seq + int64(tt.missed)
		frame := ana.take()
		p := params[protocol.RoomStateChanged](t, frame)
		if want := map[int]int64{4: known.Seq, 5: head}[tt.missed]; p.Seq != want || p.Epoch != known.Epoch {
			t.Errorf("missed %d: connected at %d/%d, want %d/%d", tt.missed, p.Epoch, p.Seq, known.Epoch, want)
		}
		if d := cmp.Diff(tt.want(head)[1:], func() (got []string) {
			for range tt.want(head)[1:] {
				got = append(got, brief(ana.take()))
			}
			return got
		}()); d != "" {
			t.Errorf("missed %d (-want +got):\n%s", tt.missed, d)
		}
		ana.settled()
		known.Seq = head
	}
	cy.say("R", "live")
	ana.hears("R cy: live")
}

// destroy and kick are what a backend does, on any gateway.
func destroy(t testing.TB, g *gateway, room string) {
	t.Helper()
	if status, body := gatetest.Request(http.MethodDelete, "http://"+g.Addr+"/v1/rooms/"+room, "dev", ""); status != http.StatusOK {
		t.Fatalf("destroy %s: got %d: %s", room, status, body)
	}
}

func kick(t testing.TB, g *gateway, room, user, reason, message string) {
	t.Helper()
	status, body := gatetest.Request(http.MethodPost, "http://"+g.Addr+"/v1/rooms/"+room+"/kick", "dev",
		fmt.Sprintf(`{"userID":%q,"reason":%q,"message":%q}`, user, reason, message))
	if status != http.StatusOK {
		t.Fatalf("kick %s from %s: got %d: %s", user, room, status, body)
	}
}

// renamed puts names in place of others.
func renamed(in []string, names ...string) []string {
	r := strings.NewReplacer(names...)
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = r.Replace(s)
	}
	return out
}
