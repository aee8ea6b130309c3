//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/protocol"
)

const switchFR = `{"fromRoomID":"F","toRoomInfo":{"roomID":"R"},"requestKey":%d}`

// A switch that is repeated under its key is answered as the first time, on the
// same connection and on another, and nobody else hears of it.
func TestSwitch_again(t *testing.T) {
	t.Parallel()
	server, _ := redisServer(t)
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			t.Parallel()
			a, b := startPair(t, server.Addr(), fmt.Sprintf("--redis-prefix=again%d", partitions), fmt.Sprintf("--partitions=%d", partitions))
			ana := connect(t, a.url())
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
			ana = connect(t, b.url())
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
	server, _ := redisServer(t)
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
	server, _ := redisServer(t)
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
	server, _ := redisServer(t)
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

// A switch that Redis does not answer fails in time. Then either it has not
// happened, and never does; or from is over, and the client is told.
func TestSwitch_redisAway(t *testing.T) {
	t.Parallel()
	server, rdb := redisServer(t)
	g := startGateway(t, server.Addr(), "--rate-limits=false")
	ana, bo := enroll(g, t, "ana"), enroll(g, t, "bo")
	bo.enter("F")
	bo.enter("R")
	ana.enter("F")
	bo.until("F +ana 2")
	server.Pause()
	ana.send(protocol.MethodSwitchRoom, `{"fromRoomID":"F","toRoomInfo":{"roomID":"R"}}`)
	ana.hears("R connecting activeSwitch", "R disconnected switchFailed", "error 6000007")
	ana.send(protocol.MethodLeaveRoom, joinR)
	ana.hears("error 6000326")
	server.Resume()
	var heard []string
	eventually(t, "the outcome", func() bool {
		ana.send(protocol.MethodLeaveRoom, joinR)
		events, r := ana.response()
		for _, e := range events {
			heard = append(heard, brief(e))
		}
		if r.Error == nil {
			t.Error("ana was in R")
			return true
		}
		return r.Error.Code == protocol.CodeNotInRoom
	})
	ana.send(protocol.MethodQueryRoomOnlineMemberCount, `{"roomID":"F"}`)
	events, r := ana.response()
	for _, e := range events {
		heard = append(heard, brief(e))
	}
	told := slices.Contains(heard, "F disconnected success")
	in := rdb.HExists(t.Context(), "rg:{0}:info:F", "ana").Val()
	t.Logf("heard %q, still in F: %t", heard, in)
	if in == told || in != (r.Error == nil) || len(heard) > 1 {
		t.Errorf("heard %q, still in F: %t, asked: %v", heard, in, r.Error)
	}
	if rdb.HExists(t.Context(), "rg:{0}:info:R", "ana").Val() {
		t.Error("ana is in R")
	}
}
