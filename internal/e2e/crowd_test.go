//go:build linux

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// Many whose links are lost at once cost Redis few scripts, and all keep their
// places; so it is when they come back, while somebody speaks.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const crowd = 150
	server, rdb := redisServer(t)
	a := startGateway(t, server.Addr())
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
	before := rdb.Info(t.Context(), "commandstats").Val()
	server.Pause()
	for _, w := range all {
		w.drop()
	}
	eventually(t, "all links are lost", func() bool { return a.Metric("roomgate_gateway_sessions") == 1 })
	server.Resume()
	eventually(t, "all are parked", func() bool {
		return rdb.ZCard(t.Context(), "rg:{0}:parked").Val() == crowd
	})
	if n := scripts(t, rdb.Info(t.Context(), "commandstats").Val()) - scripts(t, before); n > crowd/2 {
		t.Errorf("%d scripts were called when %d links were lost", n, crowd)
	}
	for i := range all {
		w := connect(t, a.URL())
		if i%10 == 0 {
			speaker.say("R", fmt.Sprint(i))
		}
		r := w.login(fmt.Sprintf(`{"userID":"u%d","resume":{"sessionID":%q}}`, i, sessions[i]))
		if !r.Resumed {
			t.Fatalf("u%d: the session did not go on", i)
		}
	}
	if n := rdb.HLen(t.Context(), "rg:{0}:info:R").Val(); n != crowd+1 {
		t.Errorf("%d are in the room, want %d", n, crowd+1)
	}
}

// scripts counts the scripts that were run, as Redis tells it.
func scripts(t testing.TB, stats string) (n int) {
	t.Helper()
	for line := range strings.Lines(stats) {
		if calls, ok := strings.CutPrefix(line, "cmdstat_evalsha:calls="); ok {
			text, _, _ := strings.Cut(calls, ",")
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}
