package gateway

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomgate/roomgate/roomstore"
)

// A lapsed lease counts for as long as Redis answered: after a standstill of
// Redis its node has as much time to renew it as without one.
func TestNode_suspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &incarnation{g: &Gateway{cfg: Config{LeaseTTL: 10 * time.Second}, log: slog.New(slog.DiscardHandler)}}
		looks := func(after time.Duration, want time.Duration, lapsed ...roomstore.Lapse) {
			t.Helper()
			time.Sleep(after)
			n.suspect(lapsed)
			n.looked = time.Now()
			if got := n.suspicious["other"].seen; got != want {
				t.Errorf("seen for %v, want %v", got, want)
			}
		}
		other := roomstore.Lapse{Node: "other", End: 1000}
		looks(time.Hour, 0, other)
		looks(time.Second, time.Second, other)
		looks(time.Second, 2*time.Second, other, roomstore.Lapse{Node: "third", End: 7})
		looks(time.Minute, 2*time.Second+standstill, other)
		looks(time.Second, 3*time.Second+standstill, other)
		renewed := roomstore.Lapse{Node: "other", End: 2000}
		looks(time.Second, 0, renewed) // and lapsed again
		looks(time.Second, time.Second, renewed)
		looks(time.Second, 0)
		looks(time.Second, 0, renewed)
		n.g.cfg.LeaseTTL = 2 * time.Second
		looks(time.Minute, time.Second, renewed)
	})
}
