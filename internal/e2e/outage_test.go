//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// patient are flags of gateways whose requests wait for a Redis that is held.
var patient = []string{"--redis-timeout=8s", "--lease-ttl=30s", "--session-ttl=60s", "--log-ttl=5m", "--rate-limits=false"}

// While a request about a room is under way, another that names it is refused
// at once and the first goes on; a repeat of it waits for the same outcome; and
// other requests about the room wait their turn.
func TestHeld_oneAtATime(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), patient...)
	ana := enroll(g, t, "ana")
	server.Pause()
	ana.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R"},"requestKey":1}`)
	first := ana.id
	ana.hears("R connecting activeEnter")
	for _, method := range []string{"enterRoom", "createRoom", "joinRoom", "leaveRoom"} {
		ana.send(method, map[bool]string{true: enterR, false: joinR}[method == "enterRoom" || method == "createRoom"])
	}
	ana.hears("error 6000326", "error 6000326", "error 6000326", "error 6000326")
	ana.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R"},"requestKey":1}`) // a repeat
	ana.send(protocol.MethodSendRoomMessage, textMessage("R", "queued"))
	ana.send(protocol.MethodQueryRoomOnlineMemberCount, joinR)
	ana.settled()

	server.Resume()
	events, r := ana.response()
	if len(events) != 1 || brief(events[0]) != "R connected success" || string(r.ID) != fmt.Sprint(first) || r.Error != nil {
		t.Errorf("got %q, %s %v, want that the first is in", events, r.Result, r.Error)
	}
	// The repeat says the state again; then the others, in order.
	ana.hears("R connected success", "ok", "ok", "ok")
}

// 32 state-changing requests may be without their answer at a time. One more is
// refused at once; the others go on, in order.
func TestHeld_unanswered(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), patient...)
	ana, bo := enroll(g, t, "ana"), enroll(g, t, "bo")
	bo.enter("R")
	ana.enter("R")
	bo.until("R +ana 2")
	server.Pause()
	for i := range protocol.MaxUnanswered + 1 {
		ana.send(protocol.MethodSendRoomMessage, textMessage("R", fmt.Sprint(i)))
	}
	refused := ana.take()
	if r := answerOf(t, refused); r.Error == nil || r.Error.Code != protocol.CodeTooFast || string(r.ID) != fmt.Sprint(ana.id) {
		t.Errorf("got %s, want 6000005 for request %d", refused, ana.id)
	}
	ana.settled() // a query would be served
	server.Resume()
	for i := range protocol.MaxUnanswered {
		if _, r := ana.response(); r.Error != nil || string(r.ID) != fmt.Sprint(ana.id-protocol.MaxUnanswered-1+i) {
			t.Errorf("answer %d: got id %s, %v", i, r.ID, r.Error)
		}
		if got, want := brief(bo.take()), fmt.Sprintf("R ana: %d", i); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	ana.say("R", "next")
}

// While Redis does not answer, requests fail in time, connections stay, and
// nobody loses their place. When it is back, so is the service, and an entry
// that was answered as failed has not happened.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--rate-limits=false")
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	bo.enter("R")
	ana.enter("R")
	bo.until("R +ana 2")

	server.Pause()
	began := time.Now()
	ana.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"S"}}`)
	ana.send(protocol.MethodSendRoomMessage, textMessage("R", "into the void"))
	ana.send(protocol.MethodQueryRoomOnlineMemberCount, `{"roomID":"T"}`)
	var states []string
	for range 3 {
		events, r := ana.response()
		for _, e := range events {
			states = append(states, brief(e))
		}
		if r.Error == nil || r.Error.Code != protocol.CodeUnavailable || r.Error.Data == nil || !r.Error.Data.Retryable {
			t.Errorf("request %s: got %s %+v, want 6000007, retryable", r.ID, r.Result, r.Error)
		}
	}
	took := time.Since(began)
	t.Logf("answered %v after Redis fell silent", took)
	if took > 3*time.Second { // the timeout is 1 s
		t.Errorf("answered after %v, want within the timeout of 1s", took)
	}
	if d := cmp.Diff([]string{"S connecting activeEnter", "S disconnected enterFailed"}, states); d != "" {
		t.Errorf("ana (-want +got):\n%s", d)
	}
	for _, w := range []*wire{ana, bo} {
		w.settled()
	}
	if status, _ := a.Get("http://" + a.Addr + "/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: got %d, want 200", status)
	}

	server.Resume()
	eventually(t, "the service to be back", func() bool {
		bo.send(protocol.MethodQueryRoomOnlineMemberCount, joinR)
		_, r := bo.response()
		return r.Error == nil
	})
	// What was sent may have arrived, once.
	bo.say("R", "hello again")
	ana.until("R bo: hello again")
	ana.say("R", "and hello")
	heard := bo.until("R ana: and hello")
	voids := 0
	for _, h := range heard {
		switch h {
		case "R ana: into the void":
			voids++
		case "R ana: and hello":
		default:
			t.Errorf("bo got %q", h)
		}
	}
	if voids > 1 {
		t.Errorf("bo got the message of unknown outcome %d times", voids)
	}
	eventually(t, "the entry to be undone", func() bool {
		return rdb.Exists(t.Context(), roomKey(rdb, "room", "S")).Val() == 0 && !slices.Contains(storedOf(t, rdb, "ana").named, "S")
	})
	ana.settled()
	ana.free("S")
	ana.enter("S") // and can be had now
}

// A leave that was answered as failed leaves the client in the room; when it
// turns out to have happened, the client is told.
func TestRedisAway_leave(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr())
	ana, bo := enroll(g, t, "ana"), enroll(g, t, "bo")
	bo.enter("R")
	ana.enter("R")
	bo.until("R +ana 2")
	server.Pause()
	ana.send(protocol.MethodLeaveRoom, joinR)
	ana.hears("error 6000007")
	ana.send(protocol.MethodLeaveRoom, joinR) // row 14 until it is known
	ana.hears("error 6000326")
	server.Resume()
	ana.hears("R disconnected success")
	bo.hears("R -ana 1")
}

// slow are flags of gateways that wait long enough for a busy machine, and for
// longer than a test takes before they give each other up.
var slow = []string{"--redis-timeout=3s", "--lease-ttl=30s", "--session-ttl=60s", "--log-ttl=5m", "--rate-limits=false"}

// outage is a gateway whose link to Redis can be broken, and two users: $U is on
// it, and $B is on another, whose link is good. They have rooms $R and $F of
// their own.
type outage struct {
	testing.TB
	link    *link
	cluster bool
	b       *gateway
	names   *strings.Replacer
	session string // of $U
	ana, bo *wire
}

func startOutage(t testing.TB, server *servers, b *gateway, n int) *outage {
	t.Helper()
	id := fmt.Sprint(n)
	o := &outage{TB: t, b: b, cluster: server.Cluster != nil, link: linkTo(t, server),
		names: strings.NewReplacer("$U", "ana"+id, "$B", "bo"+id, "$R", "R"+id, "$F", "F"+id)}
	a := startGateway(t, o.link.Addr(), slow...)
	o.ana, o.bo = connect(t, a.URL()), enroll(b, t, "bo"+id)
	o.session = o.ana.login(`{"userID":"ana` + id + `"}`).SessionID
	return o
}

func (o *outage) of(text string) string { return o.names.Replace(text) }

func (o *outage) all(texts []string) (out []string) {
	for _, text := range texts {
		out = append(out, o.of(text))
	}
	return out
}

// lose breaks the link for all that is about $U: a connection that has lost an
// answer carries no further call, and one of the gateway's own would leave none
// for the request that is to get through. What Redis publishes still comes.
func (o *outage) lose(what faultproxy.Loss) { o.link.ScriptsWith(what, o.of("$U")) }

// loseOf is lose for an operation that has happened when this script has: on a Cluster
// others come before it, whose answers are not lost.
func (o *outage) loseOf(what faultproxy.Loss, last lua.Script) {
	if o.cluster && what == faultproxy.Answers {
		o.link.ScriptsWith(what, last.Sharded.Hash())
		return
	}
	o.lose(what)
}

func (o *outage) mend() { o.link.Scripts(faultproxy.Nothing) }

func (o *outage) asks(method, params string) int {
	o.Helper()
	return o.ana.send(method, o.of(params))
}

func (o *outage) hears(want ...string) {
	o.Helper()
	o.ana.hears(o.all(want)...)
}

// told is hears, but that one of the lines may come at any time.
func (o *outage) told(anytime string, want []string) {
	o.Helper()
	anytime, want = o.of(anytime), o.all(want)
	var got []string
	for range want {
		got = append(got, brief(o.ana.take()))
	}
	for _, lines := range []*[]string{&want, &got} {
		if i := slices.Index(*lines, anytime); i >= 0 {
			*lines = append(slices.Delete(*lines, i, i+1), anytime)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		o.Errorf("%s (-want +got):\n%s", o.ana.name, d)
	}
	o.ana.settled()
}

// back has $U come back on the other gateway, knowing of no room.
func (o *outage) back() {
	o.Helper()
	var resumed bool
	if o.ana, resumed = resume(o, o.b, o.of("$U"), o.session, ""); !resumed {
		o.Error("the session did not go on")
	}
}

// free waits until nothing about a room is under way, in which the client is not.
func (w *wire) free(room string) {
	w.t.Helper()
	eventually(w.t, "nothing to be under way", func() bool {
		w.send(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%q}`, room))
		events, r := w.response()
		if len(events) > 0 || r.Error == nil {
			w.t.Fatalf("%s: got %q, %s", w.name, events, r.Result)
		}
		return r.Error.Code == protocol.CodeNotInRoom || r.Error.Code == protocol.CodeLeaveNoRoom
	})
}

// An entry whose outcome is open has failed for the client. If it turns out to
// have happened it is taken back, unless the client asks for it again: then it
// has it, and the others have seen it come in once. If it has not happened it
// never will.
func TestEntry_open(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	b := startGateway(t, server.Addr(), slow...)
	kind := map[string]overlap{}
	for _, o := range overlaps {
		kind[o.name] = o
	}
	// Each of these is about an entry under key 1, or under none.
	again := func(o *outage, e overlap) { o.asks(e.method, fmt.Sprintf(e.params, 1)) }
	entered := func(o *outage, e overlap) { o.hears(append(slices.Clone(e.begun), e.then...)...) }
	waits := func(o *outage, e overlap) { again(o, e); o.ana.settled() }
	tooLate := func(o *outage, e overlap) { again(o, e); o.hears(append(e.failed(), "error 6000007")...) }
	busy := func(o *outage, e overlap) {
		for _, other := range overlaps {
			o.asks(other.method, strings.Replace(fmt.Sprintf(other.params, 2), "$S", "$F", 1))
			o.hears("error 6000326")
		}
	}
	anew := func(o *outage, e overlap) { o.ana.free(o.of("$R")); again(o, e); entered(o, e) }
	backIn := func(o *outage, e overlap) {
		o.back()
		o.hears("$R connected success")
		again(o, e)
		o.hears(e.again...)
	}
	notBackIn := func(o *outage, e overlap) { o.back(); o.ana.settled(); again(o, e); entered(o, e) }
	cut := func(o *outage, _ overlap) { o.ana.drop() }
	const call = faultproxy.Calls
	came, went := "$R +$U 2", "$R -$U 1"
	for i, tt := range []struct {
		name         string
		kind         string
		lose         faultproxy.Loss // answers if not said
		noKey        bool
		while, after func(o *outage, e overlap)
		of           []string // what somebody in $R hears
	}{
		{name: "it did not happen", kind: "join", lose: call, while: busy, after: anew, of: []string{came}},
		{name: "it did not happen", kind: "create", lose: call, after: anew},
		{name: "it did not happen, and the link is lost", kind: "enter", lose: call, while: cut, after: notBackIn, of: []string{came}},
		{name: "nobody asks again", kind: "join", while: busy, after: anew, of: []string{came, went, came}},
		{name: "nobody asks again", kind: "create", after: anew},
		{name: "nobody can ask again", kind: "enter", noKey: true, after: anew, of: []string{came, went, came}},
		{name: "the client asks again", kind: "join", while: waits, after: entered, of: []string{came}},
		{name: "the client asks again", kind: "create", while: waits, after: entered},
		{name: "the client asks again, soon", kind: "enter", after: func(o *outage, e overlap) { again(o, e); entered(o, e) }, of: []string{came}},
		{name: "the client asks again, and not for long enough", kind: "join", while: tooLate,
			after: func(o *outage, _ overlap) { o.ana.free(o.of("$R")) }, of: []string{came, went}},
		{name: "the client asks again, late, and once more", kind: "enter",
			while: func(o *outage, e overlap) { tooLate(o, e); waits(o, e) }, after: entered, of: []string{came}},
		{name: "the link is lost", kind: "join", while: cut, after: backIn, of: []string{came}},
	} {
		t.Run(tt.kind+", "+tt.name, func(t *testing.T) {
			t.Parallel()
			o := startOutage(t, server, b, i)
			e := kind[tt.kind]
			if e.others != nil {
				o.bo.enter(o.of("$R"))
			}
			o.loseOf(max(tt.lose, faultproxy.Answers), lua.Enter)
			if tt.noKey {
				o.asks(e.method, fmt.Sprintf(e.params, 0))
			} else {
				again(o, e)
			}
			o.hears(append(e.failed(), "error 6000007")...)
			if tt.while != nil {
				tt.while(o, e)
			}
			o.mend()
			tt.after(o, e)
			if tt.of != nil {
				heardByRoom(o.bo, "of the entry", o.all(tt.of))
			}
			if strings.Contains(tt.name, "not for long enough") {
				return
			}
			// It is a member like any other.
			if e.others != nil {
				o.bo.say(o.of("$R"), "hi")
				o.hears("$R $B: hi")
			}
			o.asks(protocol.MethodQueryRoomOnlineMemberCount, `{"roomID":"$R"}`)
			o.hears("ok")
		})
	}
}

// failed is what the client hears of an entry that fails without a reason.
func (e overlap) failed() []string {
	event := map[string]string{"create": "createFailed", "switch from": "switchFailed", "switch to": "switchFailed"}[e.name]
	if event == "" {
		event = "enterFailed"
	}
	room, _, _ := strings.Cut(e.begun[0], " ")
	return append(slices.Clone(e.begun), room+" disconnected "+event)
}

// A message or a departure that was answered as failed happens all the same,
// once; whoever asks again hears so.
func TestOpen_others(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	b := startGateway(t, server.Addr(), slow...)
	const left = "$R disconnected success"
	n := 100
	for _, tt := range []struct {
		name, method, params string
		last                 lua.Script
		told                 []string
		then                 []string // of a repeat
		of                   []string
	}{
		{"message", protocol.MethodSendRoomMessage, `{"roomID":"$R","message":{"type":1,"message":"once"},"requestKey":1}`, lua.Send,
			[]string{"error 6000007"}, []string{"ok"}, []string{"$R $U: once"}},
		{"leave", protocol.MethodLeaveRoom, `{"roomID":"$R","requestKey":1}`, lua.Leave,
			[]string{left, "error 6000007"}, []string{left, "ok"}, []string{"$R -$U 1"}},
		{"leave all", protocol.MethodLeaveAllRoom, `{"requestKey":1}`, lua.Quit,
			[]string{left, "error 6000007"}, []string{left, "ok"}, []string{"$R -$U 1"}},
	} {
		for name, lose := range map[string]faultproxy.Loss{"answer lost": faultproxy.Answers, "call lost": faultproxy.Calls} {
			n++
			id := n
			t.Run(tt.name+", "+name, func(t *testing.T) {
				t.Parallel()
				o := startOutage(t, server, b, id)
				o.bo.enter(o.of("$R"))
				o.ana.enter(o.of("$R"))
				o.bo.hears(o.of("$R +$U 2"))
				o.loseOf(lose, tt.last)
				o.asks(tt.method, tt.params)
				told := tt.told
				if lose == faultproxy.Calls {
					told = told[len(told)-1:]
				}
				o.told(left, told)
				o.asks(tt.method, tt.params)
				o.ana.settled()
				o.mend()
				// What was done meanwhile is told by its event, and by the answer.
				got := slices.Compact(o.ana.until("ok"))
				if d := cmp.Diff(o.all(tt.then), got); d != "" {
					t.Errorf("%s (-want +got):\n%s", o.ana.name, d)
				}
				o.ana.settled()
				heardByRoom(o.bo, "of it", o.all(tt.of))
			})
		}
	}
}

// A batch that Redis does not answer is answered in time, however long it is:
// once a request of it has waited the rest fails at once, as each would alone.
func TestRedisAway_batch(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	g := startGateway(t, server.Addr(), slow[1:]...)
	ana := enroll(g, t, "ana")
	ana.enter("R")
	var requests, states, answers []string
	for i := range protocol.MaxUnanswered {
		requests = append(requests, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"enterRoom","params":{"roomInfo":{"roomID":"R%d"}}}`, i, i))
		states = append(states, fmt.Sprintf("R%d connecting activeEnter", i), fmt.Sprintf("R%d disconnected enterFailed", i))
		answers = append(answers, "error 6000007")
	}
	for len(requests) < protocol.MaxBatch-1 {
		requests = append(requests, `{"jsonrpc":"2.0","id":"q","method":"queryRoomOnlineMemberCount","params":`+joinR+`}`)
		answers = append(answers, "error 6000007")
	}
	requests = append(requests, `{"jsonrpc":"2.0","id":"p","method":"ping"}`)
	answers = append(answers, "ok")
	server.Pause()
	began := time.Now()
	ana.raw("[" + strings.Join(requests, ",") + "]")
	ana.hears(append(states, "["+strings.Join(answers, " ")+"]")...)
	t.Logf("answered in %v, with a Redis timeout of 1s", time.Since(began))
	server.Resume()
	// None of them has happened in the end. What Redis got is taken back, if it came
	// in time.
	for i := range protocol.MaxUnanswered {
		ana.free(fmt.Sprintf("R%d", i))
	}
	if n := sizeOf(t, rdb, inPartitions(rdb, "rooms")); n != 1 {
		t.Errorf("there are %d rooms, want R alone", n)
	}
	ana.settled()
	ana.enter("R0")
}

// Whatever people do while Redis is held longer than gateways wait for it is
// done in the end, once: the client asks again under the same keys.
func TestRedisAway_sdk(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr(), append(slow[1:], "--redis-timeout=2s")...)
	book := follow(t, rdb, "R")
	cy := meet(t, "cy", b.URL())
	cy.enter("R")
	const people = 4
	var crowd []*person
	for i := range people {
		p := meet(t, fmt.Sprintf("p%d", i), []string{a.URL(), b.URL()}[i%2])
		p.enter("F" + p.name)
		crowd = append(crowd, p)
	}
	stays, goes := meet(t, "stays", a.URL()), meet(t, "goes", b.URL())
	stays.enter("R")
	goes.enter("R")
	const calls = 2*people + 2
	before := unavailable(t, a) + unavailable(t, b)

	server.Pause()
	var doing sync.WaitGroup
	do := func(p *person, f func(ctx context.Context) error) {
		doing.Go(func() {
			if err := f(t.Context()); err != nil {
				t.Errorf("%s: %v", p.name, err)
			}
		})
	}
	text := func(s string) protocol.OutgoingMessage {
		return protocol.OutgoingMessage{Type: protocol.MessageText, Message: s}
	}
	for i, p := range crowd {
		do(p, func(ctx context.Context) (err error) {
			if i < people/2 {
				_, err = p.JoinRoom(ctx, "R")
			} else {
				_, err = p.SwitchRoom(ctx, "F"+p.name, protocol.RoomBaseInfo{RoomID: "R"}, false, nil)
			}
			if err == nil {
				_, err = p.SendRoomMessage(ctx, "R", text("from "+p.name), nil)
			}
			return err
		})
		do(p, func(ctx context.Context) error {
			r, err := p.CreateRoom(ctx, protocol.RoomBaseInfo{RoomID: "C" + p.name}, nil)
			if err == nil && (!r.Created || r.Seq != 1) {
				err = fmt.Errorf("created %+v", r)
			}
			return err
		})
	}
	do(stays, func(ctx context.Context) error {
		for i := range 3 {
			if _, err := stays.SendRoomMessage(ctx, "R", text(fmt.Sprint("stays ", i)), nil); err != nil {
				return err
			}
		}
		return nil
	})
	do(goes, func(ctx context.Context) error { return goes.LeaveRoom(ctx, "R") })
	eventually(t, "the gateways to have given up, more than once", func() bool {
		return unavailable(t, a)+unavailable(t, b)-before >= 2*calls
	})
	server.Resume()
	doing.Wait()

	cy.say("R", "the end")
	book.find("the end", func(e roomstore.Event) bool { return strings.Contains(e.Data, "the end") })
	times := map[string]int{}
	for _, e := range book.all() {
		switch e.Kind {
		case roomstore.KindJoined, roomstore.KindLeft:
			times[fmt.Sprintf("%c %s", e.Kind, e.User)]++
		case roomstore.KindMessage:
			times[textOf(e)]++
		default:
			t.Errorf("got %+v", e)
		}
	}
	want := map[string]int{"j cy": 1, "j stays": 1, "j goes": 1, "l goes": 1, "stays 0": 1, "stays 1": 1, "stays 2": 1, "the end": 1}
	for _, p := range crowd {
		want["j "+p.name], want["from "+p.name] = 1, 1
	}
	if d := cmp.Diff(want, times); d != "" {
		t.Errorf("R (-want +got):\n%s", d)
	}
	for _, p := range append(crowd, stays) {
		p.until("R cy: the end")
		if s := p.Stats(); s.Duplicates != 0 || s.Malformed != 0 || s.Resumes != 0 {
			t.Errorf("%s: got %+v, want nothing odd", p.name, s)
		}
	}
}

// unavailable is how many requests a gateway has answered with 6000007.
func unavailable(t testing.TB, g *gateway) (n float64) {
	t.Helper()
	_, body := g.Get("http://" + g.Internal + "/metrics")
	for _, m := range regexp.MustCompile(`(?m)^roomgate_gateway_requests_total\{code="6000007",.*\} (\S+)$`).FindAllStringSubmatch(body, -1) {
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		n += v
	}
	return n
}

// answerOf reads a response.
func answerOf(t testing.TB, frame string) (r protocol.Response) {
	t.Helper()
	if err := json.Unmarshal([]byte(frame), &r); err != nil {
		t.Fatalf("%s: %v", frame, err)
	}
	return r
}

// A resume that was answered as failed takes no effect any more when Redis gets
// it after all: the client has come back elsewhere, and stays there.
func TestRedisAway_resume(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	link := linkTo(t, server)
	a, b := startGateway(t, link.Addr()), startGateway(t, server.Addr())
	cy := enroll(b, t, "cy")
	cy.enter("R")
	ana := connect(t, b.URL())
	session := ana.login(`{"userID":"ana"}`).SessionID
	known := ana.enter("R").Position
	cy.until("R +ana 2")
	ana.drop()

	lost := connect(t, a.URL())
	link.Hold(true)
	lost.send(protocol.MethodLogin, fmt.Sprintf(`{"userID":"ana","resume":{"sessionID":%q,"rooms":[%s]}}`, session, at("R", known)))
	if _, r := lost.response(); r.Error == nil || r.Error.Code != protocol.CodeUnavailable {
		t.Errorf("got %s %v, want 6000007", r.Result, r.Error)
	}
	back, resumed := resume(t, b, "ana", session, at("R", known))
	if !resumed {
		t.Fatal("the session did not go on")
	}
	link.Hold(false)
	enroll(a, t, "dee") // Redis gets the calls of a again
	during(t, rdb, 200*time.Millisecond)
	back.hears("R connected success")
	back.say("R", "here")
	cy.hears("R ana: here")
}
