//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/roomgate/roomgate/protocol"
)

// More than a thousand users in one room on two gateways: they are told that they hear
// of some only, and how many they are exactly; messages come to all, in order; queries
// are exact; and when most have gone everybody hears of everybody again.
func TestLargeRoom(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--max-members=2000", "--rate-limits=false")
	const crowd = 1030
	ana := enroll(a, t, "ana")
	ana.enter("R")
	people := make([]*wire, crowd)
	each := func(do func(i int, w *wire)) {
		var all sync.WaitGroup
		for part := range 16 {
			all.Go(func() {
				for i := part; i < crowd; i += 16 {
					do(i, people[i])
				}
			})
		}
		all.Wait()
	}
	each(func(i int, _ *wire) {
		people[i] = enroll([]*gateway{a, b}[i%2], t, fmt.Sprintf("u%d", i))
		people[i].enter("R")
	})
	if n := rdb.ZCard(t.Context(), roomKey(rdb, "members", "R")).Val(); n != crowd+1 {
		t.Fatalf("%d are in", n)
	}
	// What ana hears: all of them up to a thousand, then the count.
	seen, mode, last, frames := map[string]bool{}, protocol.ModeFull, int64(0), 0
	read := func(frame string) {
		switch {
		case strings.Contains(frame, `"`+protocol.EventRoomModeChanged+`"`):
			p := params[protocol.RoomModeChanged](t, frame)
			if mode = p.Mode; mode == protocol.ModeSampled && len(seen) < 1000 {
				t.Errorf("sampled at %d, and told of %d", p.Seq, len(seen))
			}
		case strings.Contains(frame, `"`+protocol.EventRoomMemberJoined+`"`), strings.Contains(frame, `"`+protocol.EventRoomMemberLeft+`"`):
			p := params[protocol.MembersChanged](t, frame)
			frames++
			last = p.MemberCount
			if mode == protocol.ModeSampled && len(p.MemberList) > 50 {
				t.Errorf("%d users in one event at %d", len(p.MemberList), p.Seq)
			}
			for _, u := range p.MemberList {
				seen[u.UserID] = true
			}
		}
	}
	for last != crowd+1 {
		read(ana.take())
	}
	if mode != protocol.ModeSampled || frames > crowd*9/10 {
		t.Errorf("mode %s after %d events", mode, frames)
	}
	for i := range 20 {
		ana.say("R", fmt.Sprint("m", i))
	}
	each(func(i int, w *wire) {
		for n := 0; n < 20; {
			if brief(w.take()) == fmt.Sprint("R ana: m", n) {
				n++
			}
		}
	})
	var count protocol.CountResult
	people[0].ask(protocol.MethodQueryRoomOnlineMemberCount, joinR, &count)
	if count.Count != crowd+1 {
		t.Errorf("the query counts %d", count.Count)
	}
	each(func(i int, w *wire) {
		if i >= 860 {
			w.ask(protocol.MethodLeaveRoom, joinR, nil)
		}
	})
	for last != 861 || mode != protocol.ModeFull {
		read(ana.take())
	}
	for full := false; !full; {
		full = strings.Contains(people[0].take(), `"mode":"full"`)
	}
}
