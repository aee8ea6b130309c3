//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/protocol"
)

// patient are flags of gateways whose requests wait for a Redis that is held.
var patient = []string{"--redis-timeout=8s", "--lease-ttl=30s", "--session-ttl=60s", "--log-ttl=5m", "--rate-limits=false"}

// While a request about a room is under way, another that names it is refused
// at once and the first goes on; a repeat of it waits for the same outcome; and
// other requests about the room wait their turn.
func TestHeld_oneAtATime(t *testing.T) {
	t.Parallel()
	server, _ := redisServer(t)
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
	server, _ := redisServer(t)
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
	server, rdb := redisServer(t)
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
	if status, _ := a.get("http://" + a.addr + "/healthz"); status != http.StatusOK {
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
		return rdb.Exists(t.Context(), "rg:{0}:room:S").Val() == 0 && rdb.HGet(t.Context(), "rg:{u0}:user:ana", "r:S").Err() != nil
	})
	ana.settled()
	ana.enter("S") // and can be had now
}

// A leave that was answered as failed leaves the client in the room; when it
// turns out to have happened, the client is told.
func TestRedisAway_leave(t *testing.T) {
	t.Parallel()
	server, _ := redisServer(t)
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

// answerOf reads a response.
func answerOf(t testing.TB, frame string) (r protocol.Response) {
	t.Helper()
	if err := json.Unmarshal([]byte(frame), &r); err != nil {
		t.Fatalf("%s: %v", frame, err)
	}
	return r
}
