package gateway

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Only refusals of one minute count together: a client that is over its rates
// now and then is refused, and stays.
func TestConn_abuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, p := accepted(t, Config{RateLimits: true, LoginTimeout: 24 * time.Hour}, true)
		closed := false
		ask := func(n int) (refused int) {
			t.Helper()
			for range n {
				p.send(t, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
			}
			for _, h := range p.heard.take() {
				if strings.Contains(h, `"code":6000005`) {
					refused++
				}
				closed = closed || strings.HasSuffix(h, " close 4511")
			}
			return refused
		}
		for minute := range 5 {
			if got := ask(400); got != 0 { // the burst that is allowed
				t.Fatalf("minute %d: %d of the first are refused", minute, got)
			}
			if got := ask(abuseAfter); got != abuseAfter {
				t.Fatalf("minute %d: %d are refused, want %d", minute, got, abuseAfter)
			}
			if closed {
				t.Fatalf("minute %d: closed", minute)
			}
			time.Sleep(time.Minute + time.Millisecond)
		}
		ask(400 + abuseAfter + 1)
		if !closed {
			t.Error("not closed with 4511")
		}
	})
}

// take gives what was noted since it was last asked.
func (d *diary) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	got := d.got
	d.got = nil
	return got
}
