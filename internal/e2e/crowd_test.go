//go:build linux

package e2e

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/roomgate/roomgate/protocol"
)

// Many whose links are lost at once cost Redis few scripts, and all keep their
// places; so it is when they come back, while somebody speaks.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const crowd = 150
	server, rdb := anyRedis(t)
	a := startGateway(t, server.Addr(), append(unhurried, "--rate-limits=false", "--session-ttl=8s")...)
	speaker := enroll(a, t, "speaker")
	speaker.enter("R")
	all := make([]*wire, crowd)
	sessions := make([]string, crowd)
	for i := range all {
		all[i] = connect(t, a.URL())
		sessions[i] = all[i].login(fmt.Sprintf(`{"userID":"u%d"}`, i)).SessionID
		all[i].enter("R")
	}
	// Redis answers when all of them wait for it. Those that lingered would else come to it
	// one by one, as far apart as their links were lost.
	before := commands(t, rdb)["evalsha"]
	server.Pause()
	for _, w := range all {
		w.drop()
	}
	eventually(t, "all links are lost", func() bool { return a.Metric("roomgate_gateway_sessions") == 1 })
	eventually(t, "all are to be parked", func() bool { return a.Metric("roomgate_gateway_lingering_sessions") == 0 })
	server.Resume()
	eventually(t, "all are parked", func() bool {
		return sizeOf(t, rdb, inPartitions(rdb, "parked")) == crowd
	})
	if n := commands(t, rdb)["evalsha"] - before; n > crowd/3 && server.Cluster == nil { // there the users are in many slots
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

// Of a crowd that is back soon Redis hears nothing but the resumes, on whatever gateway;
// and however the gateway ends that has not told it, nobody is forgotten.
func TestCrowd_lingers(t *testing.T) {
	t.Parallel()
	const crowd = 150
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(end.String(), func(t *testing.T) {
			t.Parallel()
			server, rdb := anyRedis(t)
			flags := []string{"--rate-limits=false", "--session-ttl=100s", "--lease-ttl=3s"}
			a, b := startGateway(t, server.Addr(), flags...), startGateway(t, server.Addr(), flags...)
			speaker := enroll(b, t, "speaker")
			speaker.enter("R")
			all := make([]*wire, crowd)
			sessions := make([]string, crowd)
			for i := range all {
				all[i] = connect(t, a.URL())
				sessions[i] = all[i].login(fmt.Sprintf(`{"userID":"u%d"}`, i)).SessionID
				all[i].enter("R")
			}
			drop := func() {
				for _, w := range all {
					w.drop()
				}
				eventually(t, "all links are lost", func() bool {
					return a.Metric("roomgate_gateway_sessions")+b.Metric("roomgate_gateway_sessions") == 1
				})
			}
			drop()
			if n := a.Metric("roomgate_gateway_lingering_sessions"); n == 0 {
				t.Error("nobody lingers")
			}
			for i := range all {
				all[i] = connect(t, []*gateway{a, b}[i%2].URL())
				all[i].send(protocol.MethodLogin, fmt.Sprintf(`{"userID":"u%d","resume":{"sessionID":%q}}`, i, sessions[i]))
			}
			for i, w := range all {
				var r protocol.LoginResult
				if w.result(&r); !r.Resumed {
					t.Fatalf("u%d: the session did not go on", i)
				}
			}
			eventually(t, "nobody lingers who is back", func() bool { return a.Metric("roomgate_gateway_lingering_sessions") == 0 })
			if n := sizeOf(t, rdb, inPartitions(rdb, "parked")); n != 0 {
				t.Errorf("%d memberships are parked whose sessions are back", n)
			}
			drop()
			a.Signal(end)
			b.Signal(end)
			c := startGateway(t, server.Addr(), flags...)
			eventually(t, "all are parked", func() bool {
				return sizeOf(t, rdb, inPartitions(rdb, "parked")) == crowd+1 // and the speaker
			})
			for i := range all {
				w := connect(t, c.URL())
				r := w.login(fmt.Sprintf(`{"userID":"u%d","resume":{"sessionID":%q}}`, i, sessions[i]))
				if !r.Resumed {
					t.Fatalf("u%d: the session did not go on", i)
				}
			}
			if n := rdb.HLen(t.Context(), roomKey(rdb, "info", "R")).Val(); n != crowd+1 {
				t.Errorf("%d are in the room, want %d", n, crowd+1)
			}
		})
	}
}
