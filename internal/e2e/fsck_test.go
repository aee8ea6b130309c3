//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
)

// fsck runs an audit as a process of its own, with the times of the gateways
// here, and gives its status and what it printed.
func fsck(t testing.TB, redisAt string, flags ...string) (status int, printed string) {
	t.Helper()
	path, err := gatetest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if !strings.Contains(redisAt, "://") {
		redisAt = "redis://" + redisAt
	}
	args := slices.Concat([]string{"fsck", "--redis-url=" + redisAt,
		fmt.Sprintf("--session-ttl=%v", sessionTTL), fmt.Sprintf("--lease-ttl=%v", leaseTTL), "--heartbeat-interval=1s", "--redis-timeout=1s"},
		gatetest.FlagsOf(redisAt), flags)
	cmd := exec.CommandContext(ctx, path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// An audit is silent while people come and go on three gateways, one of which
// is killed, and after all have gone.
func TestFsck_healthy(t *testing.T) {
	t.Parallel()
	for _, partitions := range partitionings() {
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			t.Parallel()
			server, _ := anyRedis(t)
			flag := fmt.Sprintf("--partitions=%d", partitions)
			var urls []string
			var gateways []*gateway
			for range 3 {
				g := startGateway(t, server.Addr(), flag, "--rate-limits=false")
				gateways, urls = append(gateways, g), append(urls, g.URL())
			}
			silent := func(when string) {
				if status, printed := fsck(t, server.Addr(), flag); status != 0 || !strings.HasPrefix(printed, "found 0, ") {
					t.Fatalf("%s: got status %d: %s", when, status, printed)
				}
			}
			var stop atomic.Bool
			var done atomic.Int64
			var churn errgroup.Group
			for i := range 30 {
				churn.Go(func() error {
					home := []string{urls[i%3], urls[(i+1)%3], urls[(i+2)%3]}
					c, err := client.Dial(t.Context(), client.Config{
						URLs: home, User: protocol.UserInfo{UserID: fmt.Sprintf("u%d", i%20)}, OnEvent: func(client.Event) {},
						MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
					})
					if err != nil {
						return err
					}
					defer c.Close()
					for n := 0; !stop.Load(); n++ {
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						room, next := fmt.Sprintf("r%d", (i+n)%9), fmt.Sprintf("r%d", (i+n+1)%9)
						config := &protocol.RoomConfig{RoomAttributes: map[string]string{"k": "v"}}
						// Which of them are refused is of no matter here.
						c.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: room}, config)
						c.SendRoomMessage(ctx, room, protocol.OutgoingMessage{Type: protocol.MessageText, Message: "x"}, nil)
						c.SwitchRoom(ctx, room, protocol.RoomBaseInfo{RoomID: next}, true, nil)
						c.LeaveRoom(ctx, next)
						cancel()
						done.Add(1)
					}
					return nil
				})
			}
			for round := range 8 {
				at := done.Load()
				eventually(t, fmt.Sprintf("people to come and go, in round %d", round), func() bool { return done.Load() >= at+60 })
				silent(fmt.Sprintf("round %d", round))
				if round == 3 {
					gateways[0].Kill()
				}
			}
			stop.Store(true)
			if err := churn.Wait(); err != nil {
				t.Fatal(err)
			}
			silent("at the end")
		})
	}
}

// An audit names what is wrong and fails, --fix repairs it, and the gateways
// export what was left.
func TestFsck_repair(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	g := startGateway(t, server.Addr())
	ana := enroll(g, t, "ana")
	ana.enter("R")
	ctx := t.Context()
	rdb.ZAdd(ctx, roomKey(rdb, "members", "R"), redis.Z{Score: 1, Member: "ghost"})
	rdb.HSet(ctx, roomKey(rdb, "attrs", "Q"), "k", "v")

	status, printed := fsck(t, server.Addr())
	for _, want := range []string{"noinfo       ghost in R is a member", "orphaned     " + roomKey(rdb, "attrs", "Q") + " belongs to no room", "count        R has 2 members", "found 3, repaired 0, left 3", "roomgate fsck --fix"} {
		if !strings.Contains(printed, want) {
			t.Errorf("%q is not in %s", want, printed)
		}
	}
	if status != 1 {
		t.Errorf("got status %d, want 1", status)
	}
	other := startGateway(t, server.Addr()) // reads it when it begins
	eventually(t, "the metric", func() bool { return other.Metric("roomgate_gateway_audit_findings") == 3 })
	if at := other.Metric("roomgate_gateway_audit_time_seconds"); at < float64(time.Now().Add(-time.Minute).Unix()) {
		t.Errorf("the last audit ended at %v", at)
	}
	if status, printed = fsck(t, server.Addr(), "--fix"); status != 0 || !strings.Contains(printed, "(repaired)") {
		t.Errorf("got status %d: %s", status, printed)
	}
	if status, printed = fsck(t, server.Addr()); status != 0 || printed != "found 0, repaired 0, left 0\n" {
		t.Errorf("got status %d: %s", status, printed)
	}
	var count protocol.CountResult
	ana.ask(protocol.MethodQueryRoomOnlineMemberCount, joinR, &count)
	if count.Count != 1 {
		t.Errorf("got %d members, want 1", count.Count)
	}
	if status, printed = fsck(t, server.Addr(), "--redis-url="); status != 1 || !strings.Contains(printed, "--redis-url is required") {
		t.Errorf("without a Redis: got status %d: %s", status, printed)
	}
}
