//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
)

// unlimited are flags of gateways that stand still for a while without being
// given up, by the others or by their clients.
var unlimited = []string{
	"--rate-limits=false", "--redis-timeout=2s", "--heartbeat-interval=10s", "--session-ttl=35s", "--lease-ttl=10s", "--log-ttl=2m",
}

// disaster is three gateways with people in rooms, who talk all the time: ROOM,
// where all are, and one room a gateway, OF-0 to OF-2.
type disaster struct {
	t       *testing.T
	server  *servers
	rdb     redis.UniversalClient
	parts   int // partitions; 0: 1
	gates   []*gateway
	people  []*person // the first is on the first gateway, and so on
	talking sync.WaitGroup
	stop    chan struct{}
	stopped bool
}

var roomConfig = &protocol.RoomConfig{RoomAttributes: map[string]string{"topic": "a:b", "π": "3\x00"}, RoomDestroyDelayTime: 7}

// stageDisaster starts it all. Members enter ROOM one after another.
func stageDisaster(t *testing.T, redisArgs ...string) *disaster {
	t.Helper()
	server, rdb := anyRedis(t, redisArgs...)
	d := &disaster{t: t, stop: make(chan struct{}), server: server, rdb: rdb, parts: partitionsOf(rdb)}
	return d.begin(server.Addr())
}

// begin starts it all on a Redis.
func (d *disaster) begin(redis string) *disaster {
	t := d.t
	t.Helper()
	for range 3 {
		d.gates = append(d.gates, startGateway(t, redis, unlimited...))
	}
	t.Cleanup(d.silence)
	for i := range 9 {
		p := meet(t, fmt.Sprintf("p%d", i), d.gates[i%3].URL())
		d.people = append(d.people, p)
		d.enter(p, "ROOM")
		d.enter(p, fmt.Sprintf("OF-%d", i%3))
	}
	return d
}

func (d *disaster) enter(p *person, room string) {
	d.t.Helper()
	if _, err := p.EnterRoom(d.t.Context(), protocol.RoomBaseInfo{RoomID: room, RoomName: "The " + room}, roomConfig); err != nil {
		d.t.Fatalf("%s enters %s: %v", p.name, room, err)
	}
}

// talk has everybody talk until silence. What is refused is lost.
func (d *disaster) talk() {
	for i, p := range d.people {
		d.talking.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-tick.C:
				case <-d.stop:
					return
				}
				room, kind := "ROOM", protocol.MessageText
				switch n % 4 {
				case 1:
					room = fmt.Sprintf("OF-%d", i%3)
				case 2:
					kind = protocol.MessageBarrage
				}
				m := protocol.OutgoingMessage{Type: kind, Message: fmt.Sprintf("%s-%d", p.name, n)}
				p.SendRoomMessage(d.t.Context(), room, m, nil)
			}
		})
	}
}

func (d *disaster) silence() {
	if !d.stopped {
		d.stopped = true
		close(d.stop)
	}
	d.talking.Wait()
}

// chatter waits until messages have come that were not there before, to
// everybody on the gateways given.
func (d *disaster) chatter(gates ...int) {
	d.t.Helper()
	for i, p := range d.people {
		if !slices.Contains(gates, i%3) {
			continue
		}
		before := len(p.all())
		eventually(d.t, p.name+" to hear more", func() bool { return len(p.all()) > before+5 })
	}
}

// recovered waits until the service is back on the gateways given, and says
// how long that took.
func (d *disaster) recovered(gates ...int) {
	d.t.Helper()
	began := time.Now()
	for i, p := range d.people {
		if !slices.Contains(gates, i%3) {
			continue
		}
		eventually(d.t, p.name+" to be served again", func() bool {
			r, err := p.QueryRoomOnlineMemberCount(d.t.Context(), "ROOM")
			return err == nil && r.Count > 0
		})
	}
	d.t.Logf("served again after %v", time.Since(began))
}

func (d *disaster) freeze(gate int) { d.gates[gate].Signal(syscall.SIGSTOP) }
func (d *disaster) thaw(gate int)   { d.gates[gate].Signal(syscall.SIGCONT) }

// view is what one person has heard of one room.
type view struct {
	epochs []int64
	states []string
	others []string // who came and went
	lost   int
}

// check ends the talk, and holds against each other what everybody heard, what
// everybody is told who asks, and what it should be. It gives what each has heard
// of ROOM.
func (d *disaster) check() map[string]*view {
	t := d.t
	t.Helper()
	d.silence()
	for i, p := range d.people {
		for _, room := range []string{"ROOM", fmt.Sprintf("OF-%d", i%3)} {
			m := protocol.OutgoingMessage{Type: protocol.MessageText, Message: "last of " + p.name}
			if _, err := p.SendRoomMessage(t.Context(), room, m, nil); err != nil {
				t.Fatalf("%s, in %s: %v", p.name, room, err)
			}
		}
	}
	for i, p := range d.people {
		for j, other := range d.people {
			if i == j {
				continue
			}
			eventually(t, p.name+" to hear the last of "+other.name, func() bool {
				return slices.ContainsFunc(p.all(), func(e client.Event) bool {
					return briefEvent(e) == fmt.Sprintf("ROOM %s: last of %s", other.name, other.name)
				})
			})
		}
	}
	d.sameRoom("ROOM", d.people)
	for g := range d.gates {
		var here []*person
		for i, p := range d.people {
			if i%3 == g {
				here = append(here, p)
			}
		}
		d.sameRoom(fmt.Sprintf("OF-%d", g), here)
	}

	// One event under a position, for whoever heard it.
	truth := map[string]string{}
	views := map[string]*view{}
	for _, p := range d.people {
		if s := p.Stats(); s.Duplicates != 0 || s.Malformed != 0 || s.Logins != 1 {
			t.Errorf("%s: got %+v, want one connection, no duplicates and nothing malformed", p.name, s)
		}
		for room, v := range d.heard(p, truth) {
			for i, state := range v.states {
				if want := []string{"connecting networkInterrupted", "connected success"}[i%2]; state != want {
					t.Errorf("%s: %s: state changes %q, want interruptions only", p.name, room, v.states)
					break
				}
			}
			if len(v.states)%2 != 0 || v.lost*2 < len(v.states) {
				t.Errorf("%s: %s: %q, and %d times that history is lost", p.name, room, v.states, v.lost)
			}
			if room == "ROOM" {
				views[p.name] = v
			}
		}
	}
	return views
}

// heard reads what a person has heard, of each room. truth has what is known to
// be under a position.
func (d *disaster) heard(p *person, truth map[string]string) map[string]*view {
	t := d.t
	t.Helper()
	views := map[string]*view{}
	seq := map[string]int64{}
	at := func(room string, n int64, what string) {
		v := views[room]
		if n == 0 {
			return // a command
		}
		if n <= seq[room] {
			t.Errorf("%s: %s: got %d (%s) after %d in epoch %v", p.name, room, n, what, seq[room], v.epochs)
		}
		seq[room] = n
		position := fmt.Sprintf("%s %d.%d", room, v.epochs[len(v.epochs)-1], n)
		if other, ok := truth[position]; ok && other != what {
			t.Errorf("%s: at %s got %q, others %q", p.name, position, what, other)
		}
		truth[position] = what
	}
	for _, e := range p.all() {
		switch e := e.(type) {
		case *client.ConnectionStateChanged:
			if e.State == protocol.ConnectionReconnecting {
				t.Errorf("%s: the connection was lost", p.name)
			}
		case *client.RoomStateChanged:
			if e.Event == protocol.RoomActiveEnter {
				continue
			}
			v := views[e.RoomID]
			if v == nil {
				v = &view{}
				views[e.RoomID] = v
			} else {
				v.states = append(v.states, fmt.Sprintf("%s %s", e.State, e.Event))
			}
			if e.State == protocol.RoomConnected {
				if slices.Contains(v.epochs, e.Epoch) {
					t.Errorf("%s: %s: epoch %d again, after %v", p.name, e.RoomID, e.Epoch, v.epochs)
				}
				v.epochs, seq[e.RoomID] = append(v.epochs, e.Epoch), e.Seq
			}
		case *client.MemberJoined, *client.MemberLeft:
			room, what, _ := strings.Cut(briefEvent(e), " ")
			views[room].others = append(views[room].others, what)
			n := int64(0)
			if j, ok := e.(*client.MemberJoined); ok {
				n = j.Seq
			} else {
				n = e.(*client.MemberLeft).Seq
			}
			at(room, n, what)
		case *client.MessageReceived:
			at(e.FromConversationID, e.Seq, e.MessageList[0].Message)
		case *client.HistoryLost:
			views[e.RoomID].lost++
		}
	}
	return views
}

// sameRoom makes sure that a room has exactly these members, that all of them are
// told the same, and that it is as it was made.
func (d *disaster) sameRoom(room string, members []*person) {
	t := d.t
	t.Helper()
	var first string
	for _, p := range members {
		list, err := p.QueryRoomMemberList(t.Context(), room, protocol.PageConfig{Count: 100})
		if err != nil {
			t.Fatal(err)
		}
		count, err := p.QueryRoomOnlineMemberCount(t.Context(), room)
		if err != nil {
			t.Fatal(err)
		}
		var users []string
		for _, u := range list.MemberList {
			users = append(users, u.UserID)
		}
		text := fmt.Sprint(list.Epoch, users)
		if first == "" {
			first = text
			var want []string
			for _, p := range members {
				want = append(want, p.name)
			}
			slices.Sort(users)
			if diff := cmp.Diff(want, users); diff != "" {
				t.Errorf("members of %s (-want +got):\n%s", room, diff)
			}
		}
		if text != first || int(count.Count) != len(members) {
			t.Errorf("%s: %s has %s and %d members, others say %s", p.name, room, text, count.Count, first)
		}
	}
	late := enroll(d.gates[0], t, "late")
	r := late.enter(room)
	if r.Created || r.RoomInfo.BaseInfo.RoomName != "The "+room && r.RoomInfo.BaseInfo.RoomName != "A room" {
		t.Errorf("%s: got %+v, want the room that was", room, r)
	}
	if r.RoomInfo.BaseInfo.RoomName != "The "+room {
		t.Errorf("%s is called %q", room, r.RoomInfo.BaseInfo.RoomName)
	}
	part := d.part(room)
	if delay := d.rdb.HGet(t.Context(), part+"room:"+room, "delay").Val(); delay != "7" {
		t.Errorf("%s has the delay %q, want 7", room, delay)
	}
	attributes := gatetest.AttributeValues(d.rdb.HGetAll(t.Context(), part+"attrs:"+room).Val())
	if diff := cmp.Diff(roomConfig.RoomAttributes, attributes); diff != "" {
		t.Errorf("attributes of %s (-want +got):\n%s", room, diff)
	}
	late.ask(protocol.MethodLogout, "{}", nil)
}

// part gives the prefix of a room's keys.
func (d *disaster) part(room string) (part string) {
	d.t.Helper()
	eventually(d.t, room+" to be found", func() bool { // who has its slot may be news to our client
		for p := range max(1, d.parts) {
			part = fmt.Sprintf("rg:{%d}:", p)
			if d.rdb.Exists(d.t.Context(), part+"room:"+room).Val() == 1 {
				return true
			}
		}
		return false
	})
	return part
}

// order gives who is in a room, in order.
func (d *disaster) order(room string) string {
	d.t.Helper()
	list, err := d.people[0].QueryRoomMemberList(d.t.Context(), room, protocol.PageConfig{Count: 100})
	if err != nil {
		d.t.Fatal(err)
	}
	var users []string
	for _, u := range list.MemberList {
		users = append(users, u.UserID)
	}
	return strings.Join(users, " ")
}

// unfenced makes sure that no gateway was given up.
func (d *disaster) unfenced() {
	d.t.Helper()
	for i, g := range d.gates {
		if n := g.Metric("roomgate_gateway_incarnations_total"); n != 1 {
			d.t.Errorf("gateway %d has begun %v times", i, n)
		}
		if n := g.Metric("roomgate_gateway_evicted_total"); n != 0 {
			d.t.Errorf("gateway %d has evicted %v members", i, n)
		}
	}
}

// noted makes sure that everybody has heard of one interruption of ROOM, and of
// changes of members only if some came late.
func noted(t *testing.T, views map[string]*view, interruptions int) {
	t.Helper()
	for name, v := range views {
		if len(v.states) != 2*interruptions {
			t.Errorf("%s: got %q, want %d interruptions", name, v.states, interruptions)
		}
	}
}

// Whatever way Redis loses all it has, the gateways put back what they know, in
// its order, while everybody talks. No connection is lost, and clients hear of
// one interruption.
func TestLoss_everything(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(d *disaster){
		"flushed": func(d *disaster) {
			flushAll(d.t, d.rdb)
		},
		"restarted": func(d *disaster) { d.server.Restart() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := stageDisaster(t)
			order := d.order("ROOM")
			d.talk()
			d.chatter(0, 1, 2)
			lose(d)
			d.recovered(0, 1, 2)
			d.chatter(0, 1, 2)
			noted(t, d.check(), 1)
			if got := d.order("ROOM"); got != order {
				t.Errorf("members are now %s, they were %s", got, order)
			}
			d.unfenced()
		})
	}
}

// A gateway that stands still while all that Redis has is lost and put back by
// the others puts back its share when it goes on. Its members had been missing,
// and come back as ones that enter.
func TestLoss_oneFrozen(t *testing.T) {
	t.Parallel()
	d := stageDisaster(t)
	d.talk()
	d.chatter(0, 1, 2)
	d.freeze(2)
	flushAll(t, d.rdb)
	d.recovered(0, 1)
	d.chatter(0, 1)
	d.thaw(2)
	d.recovered(2)
	d.chatter(0, 1, 2)
	views := d.check()
	noted(t, views, 1)
	for _, name := range []string{"p0", "p1", "p3", "p4", "p6", "p7"} {
		v := views[name]
		came := 0
		for _, who := range v.others {
			for _, late := range []string{"+p2 ", "+p5 ", "+p8 "} {
				if strings.HasPrefix(who, late) {
					came++
				}
			}
		}
		if came < 3 {
			t.Errorf("%s heard of %q, want that those on the frozen gateway came back", name, v.others)
		}
	}
	d.unfenced()
}

// A Redis that comes back with an older snapshot has numbered events that other
// events will have: the rooms go on under another epoch. Who had left since is
// not in again, and who had come is.
func TestLoss_rolledBack(t *testing.T) {
	t.Parallel()
	for _, frozen := range []bool{false, true} {
		t.Run(fmt.Sprintf("frozen=%t", frozen), func(t *testing.T) {
			t.Parallel()
			d := stageDisaster(t)
			gone := meet(t, "gone", d.gates[1].URL()) // leaves after the snapshot, and stays connected
			again := meet(t, "again", d.gates[0].URL())
			d.enter(gone, "ROOM")
			d.enter(again, "DEN")
			d.talk()
			d.chatter(0, 1, 2)
			save(t, d.rdb)
			d.chatter(0, 1, 2)
			if err := gone.LeaveRoom(t.Context(), "ROOM"); err != nil {
				t.Fatal(err)
			}
			if err := again.LeaveRoom(t.Context(), "DEN"); err != nil {
				t.Fatal(err)
			}
			d.enter(again, "DEN")
			d.enter(again, "NEW")
			if frozen {
				d.freeze(2)
			}
			d.server.Restart()
			if frozen {
				d.recovered(0, 1)
				d.chatter(0, 1)
				d.thaw(2)
			}
			d.recovered(0, 1, 2)
			d.chatter(0, 1, 2)
			noted(t, d.check(), 1)
			for _, room := range []string{"DEN", "NEW"} {
				if r, err := again.QueryRoomOnlineMemberCount(t.Context(), room); err != nil || r.Count != 1 {
					t.Errorf("%s: got %+v %v, want that its member is in", room, r, err)
				}
			}
			// On a Cluster what only the user's hash names is void.
			if s := storedOf(t, d.rdb, "gone"); s.rooms["ROOM"] != "" || d.server.Cluster == nil && slices.Contains(s.named, "ROOM") {
				t.Errorf("who had left is in again: %+v", s)
			}
			d.unfenced()
		})
	}
}

// A Redis that is started anew with all it had is noticed by nobody, whether or
// not a gateway stood still meanwhile.
func TestLoss_nothing(t *testing.T) {
	t.Parallel()
	d := stageDisaster(t, "--appendonly", "yes", "--appendfsync", "always")
	d.talk()
	d.chatter(0, 1, 2)
	d.freeze(2)
	d.server.Restart()
	d.recovered(0, 1)
	d.thaw(2)
	d.recovered(0, 1, 2)
	d.chatter(0, 1, 2)
	if err := d.rdb.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	d.chatter(0, 1, 2)
	noted(t, d.check(), 0)
	d.unfenced()
}

// Clients of a gateway that dies together with all data come back through
// another, on their word, to the rooms that others put back; as do those whose
// link was lost at the time. A room that nobody else was in is gone.
func TestLoss_withGateway(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr(), unlimited...)
	door := faultproxy.Start(t, a.Addr)
	eve := enroll(a, t, "eve")
	eve.enter("R")
	ana := meet(t, "ana", b.URL(), "ws://"+door.Addr())
	ana.enter("R")
	ana.enter("OWN")
	away := connect(t, a.URL())
	session := away.login(`{"userID":"away","deviceID":"d"}`).SessionID
	at := away.enter("R")
	eve.until("R +away 3")
	away.drop()
	door.Refuse(true)
	b.Kill()
	flushAll(t, rdb)
	eve.hears("R connecting networkInterrupted", "R connected success", "R lost 0-4")
	door.Refuse(false)
	ana.until("OWN disconnected roomNotExist")
	if s := ana.Stats(); s.Resumes != 1 {
		t.Errorf("ana: %+v, want that the session goes on", s)
	}
	eve.hears("R +ana 2")
	eve.say("R", "hello")
	ana.until("R eve: hello")

	away = connect(t, a.URL())
	r := away.login(fmt.Sprintf(`{"userID":"away","deviceID":"d","resume":{"sessionID":%q,"rooms":[{"roomID":"R","epoch":%d,"seq":%d}]}}`,
		session, at.Epoch, at.Seq))
	if !r.Resumed || r.SessionID != session {
		t.Errorf("got %+v, want that session %s goes on", r, session)
	}
	away.hears("R connected success", "R lost 0-7")
	eve.hears("R +away 3")

	// Who was never there is not let in on such a word.
	for _, params := range []string{
		`{"userID":"liar","resume":{"sessionID":"x","rooms":[{"roomID":"R","epoch":7,"seq":1}]}}`,
		`{"userID":"liar","resume":{"sessionID":"a,b","rooms":[{"roomID":"R","epoch":%d,"seq":1}]}}`,
	} {
		liar := connect(t, a.URL())
		if r := liar.login(strings.ReplaceAll(params, "%d", fmt.Sprint(at.Epoch))); r.Resumed {
			t.Errorf("%s: got %+v", params, r)
		}
		liar.hears("R disconnected connectTimeout")
	}
	eve.settled()
}

// What a gateway has handed on in a room that nobody there is in any more is no
// part of the room when Redis has gone back behind it. It was told to who came in
// next: other events have these positions now.
func TestLoss_rolledBackUnattended(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	g := startGateway(t, server.Addr(), unlimited...)
	ana, bob := meet(t, "ana", g.URL()), meet(t, "bob", g.URL())
	if _, err := ana.EnterRoom(t.Context(), protocol.RoomBaseInfo{RoomID: "R"}, &protocol.RoomConfig{RoomDestroyDelayTime: 60}); err != nil {
		t.Fatal(err)
	}
	save(t, rdb)
	for _, text := range []string{"one", "two", "three", "four"} {
		ana.say("R", text)
	}
	if err := ana.LeaveRoom(t.Context(), "R"); err != nil {
		t.Fatal(err)
	}
	server.Restart()
	eventually(t, "ana to be out again", func() bool {
		n, err := rdb.HLen(t.Context(), roomKey(rdb, "info", "R")).Result()
		return err == nil && n == 0 && g.Ready()
	})
	bob.enter("R")
	ana.enter("R")
	ana.say("R", "five")
	want := []string{"connection connecting activeLogin", "connection connected success", "R connecting activeEnter", "R connected success", "R +ana 2", "R ana: five"}
	if d := cmp.Diff(want, bob.until("R ana: five")); d != "" {
		t.Errorf("bob (-want +got):\n%s", d)
	}
}

// A gateway that finds that the deployment has come to have another number of
// partitions ends, and says why.
func TestLoss_partitions(t *testing.T) {
	t.Parallel()
	server, rdb := redisServer(t)
	g := startGateway(t, server.Addr())
	pipe := rdb.TxPipeline()
	pipe.FlushAll(t.Context())
	pipe.Set(t.Context(), "rg:partitions", "16", 0)
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the gateway to end", g.Over)
	if text := g.Out.Tail(5); !strings.Contains(text, "another number of partitions: it has 16, this gateway was told 1") {
		t.Errorf("it said %q", text)
	}
}
