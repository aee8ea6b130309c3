package gateway

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

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

// What a node tells of itself is so now, and of a second it tells what was lately.
func TestIncarnation_about(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gateway{
			cfg: Config{Node: "gw", Version: "1.2"}, open: map[*conn]struct{}{{}: {}},
			sessions: map[roomstore.SessionID]*session{"a": nil, "b": nil},
		}
		n := &incarnation{g: g, since: time.UnixMilli(7)}
		g.stats.Messages.Store(1000) // before its time
		g.stats.Occupied.Store(3)
		want := roomstore.About{Name: "gw", Version: "1.2", Since: time.UnixMilli(7), Connections: 1, Sessions: 2, Rooms: 3}
		says := func(when string) {
			t.Helper()
			if diff := cmp.Diff(&want, n.about()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		says("at first")
		g.stats.Messages.Add(10)
		time.Sleep(tallyEvery / 4)
		says("too soon to tell")
		g.stats.Accepted.Add(4)
		g.stats.Deliveries.Add(100)
		time.Sleep(tallyEvery * 3 / 4)
		want.Accepted, want.Messages, want.Deliveries = 2, 5, 50
		says("after a while")
		g.draining.Store(true)
		want.Draining = true
		says("draining")
		time.Sleep(tallyEvery)
		want.Accepted, want.Messages, want.Deliveries = 0, 0, 0
		says("after a while in which nothing happened")
	})
}
