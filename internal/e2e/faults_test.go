//go:build linux

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// weather decides the fates of a proxy's messages about rooms: some are lost,
// some come twice, some come late. Commands are not reordered among each other,
// since they have no number by which that would show, and no Redis does it.
func weather(seed uint64) func(channel, payload string) faultproxy.Fate {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 0))
	var command time.Time // when the last command that is delayed is due
	return func(channel, payload string) faultproxy.Fate {
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(channel, ":ch:") {
			return faultproxy.Pass
		}
		late := func() time.Duration { return time.Duration(r.IntN(60)) * time.Millisecond }
		fate := faultproxy.Pass
		switch n := r.IntN(100); {
		case n < 10:
			fate = nil
		case n < 20:
			fate = faultproxy.Fate{0, late()}
		case n < 40:
			fate = faultproxy.Fate{late()}
		}
		if e, err := roomstore.DecodeEvent(payload); err == nil && e.Kind == roomstore.KindCommand && len(fate) > 0 {
			fate = slices.Clone(fate)
			for i := range fate {
				fate[i] = max(fate[i], time.Until(command))
			}
			// With what it takes from here until the message is on its way.
			command = time.Now().Add(fate[0] + 20*time.Millisecond)
		}
		return fate
	}
}

// crowd is many people in room R, on two gateways.
type crowd struct {
	t       *testing.T
	book    *ledger
	stay    []*person // come first and stay to the end
	passing []*person // come and go
	ended   sync.WaitGroup

	mu      sync.Mutex
	sent    map[string]bool // texts whose sending was answered
	refused int
}

// gather brings people together. All of them are known to the book.
func gather(t *testing.T, rdb redis.UniversalClient, gates ...*gateway) *crowd {
	c := &crowd{t: t, book: follow(t, rdb, "R"), sent: map[string]bool{}}
	for i := range 8 {
		p := meet(t, fmt.Sprintf("s%d", i), gates[i%len(gates)].URL())
		p.enter("R")
		c.stay = append(c.stay, p)
	}
	for i := range 4 {
		c.passing = append(c.passing, meet(t, fmt.Sprintf("g%d", i), gates[i%len(gates)].URL()))
	}
	return c
}

// rush has everybody do what people do in rooms, until all have done enough.
func (c *crowd) rush(rounds int) {
	ctx := c.t.Context()
	for _, p := range c.stay {
		c.ended.Go(func() {
			for i := range rounds {
				c.send(p, protocol.MessageText, fmt.Sprintf("%s-%d", p.name, i))
				if i%2 == 0 {
					c.send(p, protocol.MessageBarrage, fmt.Sprintf("%s-b%d", p.name, i))
				}
			}
		})
	}
	for _, p := range c.passing {
		c.ended.Go(func() {
			for i := range rounds / 2 {
				if _, err := p.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: "R"}, nil); err != nil {
					c.failed(err)
				}
				c.send(p, protocol.MessageCustom, fmt.Sprintf("%s-%d", p.name, i))
				if err := p.LeaveRoom(ctx, "R"); err != nil {
					c.failed(err)
				}
			}
		})
	}
}

func (c *crowd) send(p *person, typ protocol.MessageType, text string) {
	_, err := p.SendRoomMessage(c.t.Context(), "R", protocol.OutgoingMessage{Type: typ, Message: text}, nil)
	if err != nil {
		c.failed(fmt.Errorf("%s: %w", text, err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if typ.Kept() && err == nil {
		c.sent[text] = true
	}
}

func (c *crowd) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused++; c.refused == 1 {
		c.t.Logf("first refusal: %v", err)
	}
}

// check waits until all have heard the last word, and compares what each of
// them heard with what Redis announced.
func (c *crowd) check() {
	t := c.t
	t.Helper()
	c.ended.Wait()
	c.stay[0].say("R", "the end")
	for _, p := range c.stay[1:] {
		p.until("R s0: the end")
	}
	last := c.book.find("the end", func(e roomstore.Event) bool { return strings.Contains(e.Data, "the end") })
	events := c.book.all()
	slices.SortStableFunc(events, func(a, b roomstore.Event) int { return int(a.Seq - b.Seq) })

	// The truth itself: no hole, no number twice, everything that was answered,
	// and nothing twice.
	times := map[string]int{}
	kept := slices.DeleteFunc(slices.Clone(events), func(e roomstore.Event) bool { return e.Kind == roomstore.KindCommand })
	for i, e := range kept {
		if e.Epoch != kept[0].Epoch || e.Seq != kept[0].Seq+int64(i) {
			t.Fatalf("the room's event %d is %d/%d, want %d/%d", i, e.Epoch, e.Seq, kept[0].Epoch, kept[0].Seq+int64(i))
		}
		if e.Kind == roomstore.KindMessage {
			times[textOf(e)]++
		}
	}
	for text := range c.sent {
		if times[text] != 1 {
			t.Errorf("%q was answered, and is %d times in the room", text, times[text])
		}
	}
	for text, n := range times {
		if n > 1 {
			t.Errorf("%q is %d times in the room", text, n)
		}
	}

	for _, p := range append(slices.Clone(c.stay), c.passing...) {
		c.compare(p, events, last.Seq)
	}
	t.Logf("%d events, %d sent, %d refused", len(kept), len(c.sent), c.refused)
}

// compare compares what one client heard of the room, each time it was there,
// with the events of that time.
func (c *crowd) compare(p *person, events []roomstore.Event, last int64) {
	t := c.t
	t.Helper()
	if s := p.Stats(); s.Duplicates != 0 || s.Malformed != 0 {
		t.Errorf("%s: got %+v, want no duplicates and nothing malformed", p.name, s)
	}
	own := roomstore.SessionID(p.Session().SessionID)
	var got []string
	var from, at int64 // where this stay began, and what was heard last
	var commands []string
	in := false
	order := map[string]int{} // of commands, as Redis announced them
	for i, e := range c.book.all() {
		if _, known := order[e.MessageID]; !known { // one whose answer was lost is repeated
			order[e.MessageID] = i
		}
	}
	before := -1
	end := func(departed bool) {
		until := last
		if departed {
			i := slices.IndexFunc(events, func(e roomstore.Event) bool {
				return e.Kind == roomstore.KindLeft && e.Origin == own && e.Seq > from
			})
			if i < 0 {
				t.Errorf("%s: left after %d, but not for Redis", p.name, from)
				return
			}
			until = events[i].Seq
		}
		var want []string
		for _, e := range events {
			if e.Kind != roomstore.KindCommand && e.Seq > from && e.Seq <= until && e.Origin != own {
				want = append(want, lineOf(e))
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s, in the room from %d to %d (-want +got):\n%s", p.name, from, until, d)
		}
		got, commands, in = nil, nil, false
	}
	for _, ev := range p.all() {
		switch ev := ev.(type) {
		case *client.RoomStateChanged:
			switch ev.State {
			case protocol.RoomConnected:
				from, at, in = ev.Seq, ev.Seq, true
			case protocol.RoomDisconnected:
				if in {
					end(true)
				}
			}
		case *client.MemberJoined:
			got, at = append(got, fmt.Sprintf("%d +%s %d", ev.Seq, ev.MemberList[0].UserID, ev.MemberCount)), ev.Seq
		case *client.MemberLeft:
			got, at = append(got, fmt.Sprintf("%d -%s %d", ev.Seq, ev.MemberList[0].UserID, ev.MemberCount)), ev.Seq
		case *client.MessageReceived:
			m := ev.MessageList[0]
			if ev.After == nil {
				got, at = append(got, fmt.Sprintf("%d %s", ev.Seq, m.Message)), ev.Seq
				continue
			}
			if slices.Contains(commands, m.MessageID) {
				t.Errorf("%s: got command %q twice", p.name, m.Message)
			}
			commands = append(commands, m.MessageID)
			// Its own word moves a room on without its being told.
			if *ev.After < at || *ev.After < from {
				t.Errorf("%s: got command %q of %d after %d", p.name, m.Message, *ev.After, at)
			}
			if order[m.MessageID] < before {
				t.Errorf("%s: got command %q after a later one", p.name, m.Message)
			}
			before = order[m.MessageID]
		case *client.HistoryLost:
			t.Errorf("%s: got %+v, want that nothing is lost", p.name, ev)
		}
	}
	if in {
		end(false)
	}
}

func textOf(e roomstore.Event) string {
	_, text, _ := strings.Cut(e.Data, `"message":"`)
	text, _, _ = strings.Cut(text, `"`)
	return text
}

func lineOf(e roomstore.Event) string {
	switch e.Kind {
	case roomstore.KindJoined:
		return fmt.Sprintf("%d +%s %d", e.Seq, e.User, e.Count)
	case roomstore.KindLeft:
		return fmt.Sprintf("%d -%s %d", e.Seq, e.User, e.Count)
	default:
		return fmt.Sprintf("%d %s", e.Seq, textOf(e))
	}
}

// Whatever happens to messages on their way from Redis, each client gets each
// event of the time it is in the room once, in order, none missing.
func TestPubSub_badWeather(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	links := []*link{linkTo(t, server), linkTo(t, server)}
	a := startGateway(t, links[0].Addr(), "--rate-limits=false")
	b := startGateway(t, links[1].Addr(), "--rate-limits=false")
	c := gather(t, rdb, a, b)
	for i, l := range links {
		l.Messages(weather(seed + uint64(i)))
	}
	c.rush(30)
	c.ended.Wait()
	for _, l := range links {
		l.Messages(nil) // what is lost at last shows only when more comes
	}
	c.check()
	if c.refused > 0 {
		t.Errorf("got %d refusals, want none", c.refused)
	}
	if n := a.Metric("roomgate_gateway_fills_total") + b.Metric("roomgate_gateway_fills_total"); n == 0 {
		t.Error("no gateway missed anything, so this shows nothing")
	}
}

// Connections to Redis that break under load cost nobody an event, and no
// request is carried out twice.
func TestRedis_connectionsKilled(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"pubsub", "normal"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server, rdb := anyRedis(t)
			a, b := startPair(t, server.Addr(), "--rate-limits=false")
			c := gather(t, rdb, a, b)
			c.rush(80)
			done := make(chan struct{})
			go func() { c.ended.Wait(); close(done) }()
			tick := time.NewTicker(40 * time.Millisecond)
			defer tick.Stop()
			kills := 0
			for busy := true; busy; {
				select {
				case <-tick.C:
					kills += killConnections(t, rdb, kind)
				case <-done:
					busy = false
				}
			}
			c.check()
			if c.refused > 0 {
				t.Errorf("got %d refusals, want none", c.refused)
			}
			t.Logf("%d connections were killed", kills)
			if kills == 0 {
				t.Error("nothing was killed, so this shows nothing")
			}
		})
	}
}

// killConnections cuts the gateways' connections of a type.
func killConnections(t *testing.T, rdb redis.UniversalClient, kind string) (n int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var killed atomic.Int64
	err := eachMaster(ctx, rdb, func(ctx context.Context, master *redis.Client) error {
		list, err := master.Do(ctx, "CLIENT", "LIST", "TYPE", kind).Text()
		for line := range strings.Lines(list) {
			id, _, _ := strings.Cut(strings.TrimPrefix(line, "id="), " ")
			if strings.Contains(line, " name=roomgate ") && master.Do(ctx, "CLIENT", "KILL", "ID", id).Err() == nil {
				killed.Add(1)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return int(killed.Load())
}

// A subscription that is open and brings nothing is noticed by the third probe
// that does not come back: the gateway says that it is not ready and makes the
// subscription anew. When it is ready again every room on it has what it missed,
// and nobody has heard anything twice.
func TestPubSub_deaf(t *testing.T) {
	t.Parallel()
	const red = 3 * 2 * time.Second // three intervals of the probe
	server, _ := anyRedis(t)
	link := linkTo(t, server)
	a, b := startGateway(t, link.Addr(), "--max-rooms-per-user=20"), startGateway(t, server.Addr(), "--max-rooms-per-user=20")
	ana, cy := enroll(a, t, "ana"), enroll(b, t, "cy")
	var rooms []string
	for i := range 12 {
		rooms = append(rooms, fmt.Sprintf("R%d", i))
		cy.enter(rooms[i])
		ana.enter(rooms[i])
		cy.until(rooms[i] + " +ana 2")
	}
	ana.settled()
	link.Refuse(true) // there is no new one, for a while
	began := time.Now()
	link.DeafenSubscribers()
	missed := map[string][]string{}
	for i, room := range rooms {
		if i%3 == 2 {
			continue // this one misses nothing
		}
		cy.say(room, "one")
		missed[room] = append(missed[room], room+" cy: one")
		if i%3 == 1 {
			cy.ask(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%q}`, room), nil)
			missed[room] = append(missed[room], room+" -cy 1")
		}
	}
	eventually(t, "the gateway to notice", func() bool { return !a.Ready() })
	took := time.Since(began)
	t.Logf("noticed after %v", took)
	if took > red+time.Second {
		t.Errorf("noticed after %v, want %v", took, red)
	}
	rebuilt := `"msg":"subscription is deaf, making it anew"`
	eventually(t, "the gateway to try", func() bool { return strings.Contains(a.Out.String(), rebuilt) })
	if status, body := a.Get("http://" + a.Addr + "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "delivery") {
		t.Errorf("got %d %s, want 503, and that delivery is named", status, body)
	}
	if status, _ := a.Get("http://" + a.Addr + "/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: got %d, want 200", status)
	}
	ana.settled()
	link.Refuse(false)
	eventually(t, "the gateway to be ready again", a.Ready)
	ana.send(protocol.MethodPing, "{}")
	heard := ana.until("ok")
	got := map[string][]string{}
	for _, h := range heard[:len(heard)-1] {
		room, _, _ := strings.Cut(h, " ")
		got[room] = append(got[room], h)
	}
	if d := cmp.Diff(missed, got); d != "" {
		t.Errorf("ana, when ready (-want +got):\n%s", d)
	}
	for i, room := range rooms {
		if i%3 != 1 {
			cy.say(room, "three")
			ana.hears(room + " cy: three")
		}
	}
}

// A client that enters again before it has been told that its room is gone
// hears of the end first, and then of its entry like anybody else.
func TestPubSub_endOvertaken(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	link := linkTo(t, server)
	g := startGateway(t, link.Addr())
	ana, book := enroll(g, t, "ana"), follow(t, rdb, "R")
	ana.enter("R")
	link.Messages(func(string, string) faultproxy.Fate { return nil })
	destroy(t, g, "R")
	book.find("the end", func(e roomstore.Event) bool { return e.Kind == roomstore.KindDestroyed })
	ana.settled()
	ana.send(protocol.MethodEnterRoom, enterR)
	ana.hears("R disconnected roomNotExist", "R connecting activeEnter", "R connected success", "ok")
}
