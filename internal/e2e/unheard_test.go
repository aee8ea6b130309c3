//go:build linux

package e2e

import (
	"fmt"
	"testing"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/protocol"
)

// A place that went to another device and came back is the client's own, also
// for one that heard of neither: on the gateway that knows, and on one that has
// to ask.
func TestResume_placeCameBack(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	for room, g := range map[string]*gateway{"known": a, "asked": b} {
		t.Run(room, func(t *testing.T) {
			t.Parallel()
			cy := enroll(b, t, "cy")
			cy.enter(room)
			ana := connect(t, a.URL())
			session := ana.login(`{"userID":"ana"}`).SessionID
			heard := ana.enter(room).Position
			other := enroll(a, t, "ana")
			other.enter(room)
			ana.enter(room)
			other.hears(room + " disconnected kickedOutByOtherDevice")
			ana.drop()
			ana = connect(t, g.URL())
			ana.login(fmt.Sprintf(`{"userID":"ana","resume":{"sessionID":%q,"rooms":[{"roomID":%q,"epoch":%d,"seq":%d}]}}`,
				session, room, heard.Epoch, heard.Seq))
			ana.hears(room + " connected success")
			cy.say(room, "still here?")
			ana.hears(room + " cy: still here?")
		})
	}
}

// An entry of who was in a room that has ended since, unheard, and was created
// again, is taken back like any other when it turns out to have happened after
// it was answered as failed.
func TestRedisAway_entryOfNextLife(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	link := linkTo(t, server)
	a, b := startGateway(t, link.Addr()), startGateway(t, server.Addr())
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	ana.enter("R")
	link.Messages(func(string, string) faultproxy.Fate { return nil })
	destroy(t, b, "R")
	bo.enter("R")
	// Hers alone: a connection that has lost an answer carries no further call, and
	// one of the gateway's own would leave none for the entry. On a Cluster what comes
	// before the entry has hers, too.
	hers := "ana"
	if server.Cluster != nil {
		hers = lua.Enter.Sharded.Hash()
	}
	link.ScriptsWith(faultproxy.Answers, hers)
	ana.send(protocol.MethodJoinRoom, joinR)
	bo.hears("R +ana 2")
	heard := ana.until("error 6000007")
	link.Messages(nil)
	link.Scripts(faultproxy.Nothing)
	bo.hears("R -ana 1")
	if len(heard) == 1 {
		ana.hears("R disconnected roomNotExist")
	}
	if rdb.HExists(t.Context(), roomKey(rdb, "info", "R"), "ana").Val() {
		t.Error("ana is in R, and does not know")
	}
}
