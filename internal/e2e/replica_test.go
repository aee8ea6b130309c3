//go:build linux

package e2e

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/protocol"
)

// A Redis that answers and takes no writes, since it cannot hand them on or has
// become a replica, is as good as away: nothing changes, nothing is acknowledged,
// and however long it lasts nobody loses a place.
func TestRedis_refusesWrites(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(do func(s *redistest.Server, args ...any), primary, replica *redistest.Server){
		"NOREPLICAS": func(_ func(*redistest.Server, ...any), _, replica *redistest.Server) { replica.Kill() },
		"READONLY": func(do func(*redistest.Server, ...any), primary, replica *redistest.Server) {
			do(replica, "REPLICAOF", "NO", "ONE")
			replicate(do, primary, replica)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			oneRedis(t)
			primary := redistest.Start(t, "--min-replicas-to-write", "1", "--repl-diskless-sync-delay", "0")
			replica := redistest.Start(t, "--repl-diskless-sync-delay", "0")
			do := func(s *redistest.Server, args ...any) {
				t.Helper()
				if err := s.Client(t).Do(t.Context(), args...).Err(); err != nil {
					t.Fatal(err)
				}
			}
			replicate(do, replica, primary)
			linked(t, replica)
			rdb := primary.Client(t)
			a, b := startPair(t, primary.Addr(), "--rate-limits=false")
			ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
			bo.enter("R")
			ana.enter("R")
			bo.until("R +ana 2")

			// What the replica does not have is lost. WAIT is about what its own connection wrote.
			one := rdb.Conn()
			defer one.Close()
			if err := one.Set(t.Context(), "last", "", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if n, err := one.Wait(t.Context(), 1, patience).Result(); err != nil || n != 1 {
				t.Fatalf("%d replicas have everything (%v)", n, err)
			}
			refuse(do, primary, replica)
			eventually(t, "Redis to take no writes", func() bool {
				return redis.HasErrorPrefix(rdb.Set(t.Context(), "x", "", 0).Err(), name)
			})
			before := dump(t, rdb)
			ana.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"S"}}`)
			events, r := ana.response()
			if r.Error == nil || r.Error.Code != protocol.CodeUnavailable || r.Error.Data == nil || !r.Error.Data.Retryable {
				t.Errorf("got %s %+v, want 6000007, retryable", r.Result, r.Error)
			}
			if len(events) != 2 || brief(events[1]) != "S disconnected enterFailed" {
				t.Errorf("got %q, want that the entry has failed", events)
			}
			bo.send(protocol.MethodSendRoomMessage, textMessage("R", "lost or late"))
			bo.refused(protocol.CodeUnavailable)
			during(t, redistest.New(t), sessionTTL+leaseTTL+2*time.Second)
			if d := cmp.Diff(before, dump(t, rdb)); d != "" {
				t.Errorf("Redis has changed (-before +after):\n%s", d)
			}
			ana.settled()
			bo.settled()

			if name == "NOREPLICAS" {
				replica.Restart()
			} else {
				do(primary, "REPLICAOF", "NO", "ONE")
			}
			replicate(do, replica, primary)
			linked(t, replica)
			eventually(t, "the service to be back", func() bool {
				bo.send(protocol.MethodSendRoomMessage, textMessage("R", "again"))
				_, r := bo.response()
				return r.Error == nil
			})
			bo.say("R", "hello")
			for _, h := range ana.until("R bo: hello") {
				if !strings.HasPrefix(h, "R bo: ") {
					t.Errorf("ana heard %q, want nothing but what bo said", h)
				}
			}
			eventually(t, "the failed entry to be out of the way", func() bool {
				ana.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"S"}}`)
				_, r := ana.response()
				return r.Error == nil
			})
		})
	}
}

// replicate has a server be the replica of another.
func replicate(do func(*redistest.Server, ...any), replica, primary *redistest.Server) {
	host, port, _ := net.SplitHostPort(primary.Addr())
	do(replica, "REPLICAOF", host, port)
}

// linked waits until a replica follows its primary.
func linked(t *testing.T, replica *redistest.Server) {
	t.Helper()
	rdb := replica.Client(t)
	eventually(t, "the replica to follow", func() bool {
		return strings.Contains(rdb.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
}
