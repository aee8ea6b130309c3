//go:build linux

package e2e

import (
	"fmt"
	"testing"

	"github.com/roomgate/roomgate/protocol"
)

// Many whose links are lost at once cost Redis few scripts, and all keep their
// places; so it is when they come back, while somebody speaks.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const crowd = 150
	server, rdb := anyRedis(t)
	a := startGateway(t, server.Addr(), "--rate-limits=false")
	speaker := enroll(a, t, "speaker")
	speaker.enter("R")
	all := make([]*wire, crowd)
	sessions := make([]string, crowd)
	for i := range all {
		all[i] = connect(t, a.URL())
		sessions[i] = all[i].login(fmt.Sprintf(`{"userID":"u%d"}`, i)).SessionID
		all[i].enter("R")
	}
	// Redis answers when all of them wait for it.
	before := commands(t, rdb)["evalsha"]
	server.Pause()
	for _, w := range all {
		w.drop()
	}
	eventually(t, "all links are lost", func() bool { return a.Metric("roomgate_gateway_sessions") == 1 })
	server.Resume()
	eventually(t, "all are parked", func() bool {
		return sizeOf(t, rdb, inPartitions(rdb, "parked")) == crowd
	})
	if n := commands(t, rdb)["evalsha"] - before; n > crowd/2 && server.Cluster == nil { // there the users are in many slots
		t.Errorf("%d scripts were called when %d links were lost", n, crowd)
	}
	for i := range all {
		all[i] = connect(t, a.URL())
		if i%10 == 0 {
			speaker.say("R", fmt.Sprint(i))
		}
		all[i].send(protocol.MethodLogin, fmt.Sprintf(`{"userID":"u%d","resume":{"sessionID":%q}}`, i, sessions[i]))
	}
	for i, w := range all {
		var r protocol.LoginResult
		if w.result(&r); !r.Resumed {
			t.Fatalf("u%d: the session did not go on", i)
		}
	}
	if n := rdb.HLen(t.Context(), roomKey(rdb, "info", "R")).Val(); n != crowd+1 {
		t.Errorf("%d are in the room, want %d", n, crowd+1)
	}
}
