//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/protocol"
)

const switchFR = `{"fromRoomID":"F","toRoomInfo":{"roomID":"R"},"requestKey":%d}`

// A switch that is repeated under its key is answered as the first time, on the
// same connection and on another, and nobody else hears of it.
func TestSwitch_again(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			t.Parallel()
			a, b := startPair(t, server.Addr(), fmt.Sprintf("--redis-prefix=again%d", partitions), fmt.Sprintf("--partitions=%d", partitions))
			ana := connect(t, a.URL())
			session := ana.login(`{"userID":"ana"}`).SessionID
			bo, cy := enroll(b, t, "bo"), enroll(b, t, "cy")
			bo.enter("F")
			cy.enter("R")
			ana.enter("F")
			params := fmt.Sprintf(switchFR, 7)
			ana.send(protocol.MethodSwitchRoom, params)
			ana.response()
			ana.send(protocol.MethodSwitchRoom, params)
			ana.hears("R connected success", "F disconnected success", "ok")
			cy.say("R", "one")
			ana.hears("R cy: one")

			ana.drop()
			ana = connect(t, b.URL())
			ana.login(fmt.Sprintf(`{"userID":"ana","resume":{"sessionID":%q}}`, session))
			ana.hears("R connected success")
			ana.send(protocol.MethodSwitchRoom, params)
			if d := cmp.Diff([]string{"R connected success", "F disconnected success", "ok", "R cy: one"}, ana.until("R cy: one")); d != "" {
				t.Errorf("on another gateway (-want +got):\n%s", d)
			}
			// The key is that of this switch and no other.
			ana.send(protocol.MethodSwitchRoom, `{"fromRoomID":"G","toRoomInfo":{"roomID":"R"},"requestKey":7}`)
			ana.refused(protocol.CodeBadParameter)
			ana.ask(protocol.MethodLeaveRoom, `{"roomID":"R","requestKey":8}`, nil)
			ana.until("R disconnected success")
			ana.send(protocol.MethodSwitchRoom, params)
			ana.hears("R disconnected success", "F disconnected success", "ok")
			bo.until("F +ana 2")
			bo.hears("F -ana 1")
			cy.until("R +ana 2")
			cy.hears("R -ana 1")
		})
	}
}

// In a batch the states of a switch come at once, and the answers together.
func TestSwitch_batch(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr())
	ana := enroll(g, t, "ana")
	ana.raw(`[{"jsonrpc":"2.0","id":1,"method":"enterRoom","params":{"roomInfo":{"roomID":"F"}}},
		{"jsonrpc":"2.0","id":2,"method":"switchRoom","params":{"fromRoomID":"F","toRoomInfo":{"roomID":"R"},"isCreateWhenRoomNotExisted":true}},
		{"jsonrpc":"2.0","id":3,"method":"switchRoom","params":{"fromRoomID":"R","toRoomInfo":{"roomID":"F"},"isCreateWhenRoomNotExisted":true}},
		{"jsonrpc":"2.0","id":4,"method":"leaveRoom","params":{"roomID":"F"}}]`)
	ana.hears("F connecting activeEnter", "F connected success",
		"R connecting activeSwitch", "R connected success", "F disconnected success",
		"F connecting activeSwitch", "F connected success", "R disconnected success",
		"F disconnected success", "[ok ok ok ok]")
}

// The user is in the room entered from another device already: the place moves.
func TestSwitch_otherDevice(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--max-members=2", "--max-rooms-per-user=2")
	first, second, bo, cy := enroll(a, t, "ana"), enroll(b, t, "ana"), enroll(a, t, "bo"), enroll(b, t, "cy")
	bo.enter("F")
	cy.enter("R")
	first.enter("R")
	cy.hears("R +ana 2")
	second.enter("F")
	bo.hears("F +ana 2")
	second.send(protocol.MethodSwitchRoom, `{"fromRoomID":"F","toRoomInfo":{"roomID":"R"}}`)
	second.hears("R connecting activeSwitch", "R connected success", "F disconnected success", "ok")
	first.hears("R disconnected kickedOutByOtherDevice")
	bo.hears("F -ana 1")
	second.say("R", "hi")
	cy.hears("R ana: hi")
}

// While a switch is under way, so are both of its rooms.
func TestSwitch_oneAtATime(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), patient...)
	ana := enroll(g, t, "ana")
	ana.enter("F")
	server.Pause()
	ana.send(protocol.MethodSwitchRoom, `{"fromRoomID":"F","toRoomInfo":{"roomID":"R"},"isCreateWhenRoomNotExisted":true,"requestKey":1}`)
	ana.hears("R connecting activeSwitch")
	for _, params := range []string{joinR, `{"roomID":"F"}`} {
		ana.send(protocol.MethodLeaveRoom, params)
		ana.hears("error 6000326")
	}
	for _, rooms := range [][2]string{{"F", "S"}, {"S", "F"}, {"R", "S"}, {"S", "R"}} {
		ana.send(protocol.MethodSwitchRoom, fmt.Sprintf(`{"fromRoomID":%q,"toRoomInfo":{"roomID":%q}}`, rooms[0], rooms[1]))
		ana.hears("error 6000326")
	}
	server.Resume()
	ana.until("ok")
	ana.ask(protocol.MethodLeaveRoom, joinR, nil)
	ana.hears("R disconnected success")
	ana.enter("F")
}

// A switch whose outcome is open is never half undone. While it is open nothing
// else is done with its rooms. If it turns out to have happened that stands: the
// client is told, is a member from then on, and has missed nothing. If it has
// not happened it never will.
func TestSwitch_open(t *testing.T) {
	t.Parallel()
	if *onCluster {
		t.Skip("what is lost there is one of a switch's several calls, of which this knows nothing: see TestKilled_switching")
	}
	server, _ := anyRedis(t)
	b := startGateway(t, server.Addr(), slow...)
	const request = `{"fromRoomID":"$F","toRoomInfo":{"roomID":"$R"},"requestKey":1}`
	failed := []string{"$R connecting activeSwitch", "$F disconnected success", "$R disconnected switchFailed", "error 6000007"}
	entered := []string{"$R connecting activeSwitch", `$R attributes [{"action":"set","roomAttributes":{"k":"v"}}]`, "$R connected success"}
	for i, tt := range []struct {
		name  string
		lose  faultproxy.Loss // answers if not said
		both  bool            // ana is in R, too
		told  []string
		while func(o *outage) // before the link is mended
		then  []string        // what ana hears when it is
		after func(o *outage)
		of    []string // what bo hears of F and R
	}{
		{name: "it happened", told: failed, then: append(slices.Clone(entered), "$R $B: meanwhile"),
			while: func(o *outage) {
				o.bo.say(o.of("$R"), "meanwhile")
				for _, room := range []string{"$F", "$R"} {
					o.asks(protocol.MethodLeaveRoom, `{"roomID":"`+room+`"}`)
					o.hears("error 6000326")
				}
			},
			after: (*outage).switched, of: []string{"$F -$U 1", "$R +$U 2"}},
		{name: "it did not happen", lose: faultproxy.Calls,
			told: []string{"$R connecting activeSwitch", "$R disconnected switchFailed", "error 6000007"},
			after: func(o *outage) {
				o.ana.free(o.of("$R"))
				o.bo.say(o.of("$F"), "still here")
				o.hears("$F $B: still here")
				// The same request may be made again.
				o.asks(protocol.MethodSwitchRoom, request)
				o.hears(append(slices.Clone(entered), "$F disconnected success", "ok")...)
				o.switched()
			},
			of: []string{"$F -$U 1", "$R +$U 2"}},
		{name: "the session was in both", both: true, told: []string{"$F disconnected success", "error 6000007"},
			while: func(o *outage) { o.bo.say(o.of("$R"), "meanwhile"); o.hears("$R $B: meanwhile") },
			after: (*outage).switched, of: []string{"$F -$U 1"}},
		{name: "the room entered has ended since", told: failed,
			while: func(o *outage) { destroy(t, b, o.of("$R")) },
			then:  []string{"$R connecting activeSwitch", "$R connected success", "$R disconnected roomNotExist"},
			of:    []string{"$F -$U 1", "$R +$U 2", "$R disconnected roomNotExist"}},
		{name: "the user was kicked since", told: failed,
			while: func(o *outage) { kick(t, b, o.of("$R"), o.of("$U"), "rude", "Go away") },
			then: []string{"$R connecting activeSwitch", "$R connected success",
				`$R disconnected kickedOut {"room_id":"$R","reason":"rude","message":"Go away"}`},
			of: []string{"$F -$U 1", "$R +$U 2", "$R -$U 1"}},
		{name: "another device has come since", told: failed,
			while: func(o *outage) { enroll(b, t, o.of("$U")).enter(o.of("$R")) },
			then:  []string{"$R connecting activeSwitch", "$R connected success", "$R disconnected kickedOutByOtherDevice"},
			of:    []string{"$F -$U 1", "$R +$U 2"}},
		{name: "the client asks again", told: failed,
			while: func(o *outage) { o.asks(protocol.MethodSwitchRoom, request); o.ana.settled() },
			then:  append(slices.Clone(entered), "$F disconnected success", "ok"),
			after: (*outage).switched, of: []string{"$F -$U 1", "$R +$U 2"}},
		{name: "the client asks again, and not for long enough", told: failed,
			while: func(o *outage) { o.asks(protocol.MethodSwitchRoom, request); o.hears("error 6000007") },
			then:  entered, after: (*outage).switched, of: []string{"$F -$U 1", "$R +$U 2"}},
		{name: "the client asks again when all is said", told: failed, then: entered,
			after: func(o *outage) {
				o.asks(protocol.MethodSwitchRoom, request)
				o.hears("$R connected success", "$F disconnected success", "ok")
				o.switched()
			},
			of: []string{"$F -$U 1", "$R +$U 2"}},
		{name: "the link is lost", told: failed,
			while: func(o *outage) { o.ana.drop() },
			after: func(o *outage) {
				o.back()
				o.hears("$R connected success")
				o.asks(protocol.MethodSwitchRoom, request)
				o.hears("$R connected success", "$F disconnected success", "ok")
				o.switched()
			},
			of: []string{"$F -$U 1", "$R +$U 2"}},
		{name: "the session has moved on", told: failed,
			while: func(o *outage) {
				old := o.ana
				o.back()
				o.hears("$R connected success")
				old.wantClosed(protocol.CloseTakenOver)
			},
			after: (*outage).switched, of: []string{"$F -$U 1", "$R +$U 2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := startOutage(t, server, b, i)
			o.bo.ask(protocol.MethodCreateRoom, o.of(`{"roomInfo":{"roomID":"$R"},"config":{"roomAttributes":{"k":"v"}}}`), nil)
			o.bo.until(o.of("$R connected success"))
			o.bo.enter(o.of("$F"))
			o.ana.enter(o.of("$F"))
			before := []string{"$F +$U 2"}
			if tt.both {
				o.ana.enter(o.of("$R"))
				before = append(before, "$R +$U 2")
			}
			heardByRoom(o.bo, "before", o.all(before))

			o.lose(max(tt.lose, faultproxy.Answers))
			o.asks(protocol.MethodSwitchRoom, request)
			o.told("$F disconnected success", tt.told)
			if tt.while != nil {
				tt.while(o)
			}
			o.mend()
			if tt.then != nil {
				o.hears(tt.then...)
			}
			if tt.after != nil {
				tt.after(o)
			}
			heardByRoom(o.bo, "of the switch", o.all(tt.of))
		})
	}
}

// switched makes sure that the user is in R and not in F, and hears so.
func (o *outage) switched() {
	o.Helper()
	o.bo.say(o.of("$F"), "to F")
	o.bo.say(o.of("$R"), "to R")
	o.hears("$R $B: to R")
	for room, want := range map[string]string{"$F": "error 6000321", "$R": "ok"} {
		o.asks(protocol.MethodQueryRoomOnlineMemberCount, `{"roomID":"`+room+`"}`)
		o.hears(want)
	}
}
