//go:build linux

package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

// bather is a client in a room, who notes what nobody there may hear, and when
// the connection was lost and had again.
type bather struct {
	*client.Client
	user, room string

	mu         sync.Mutex
	came       map[string]int // members who entered
	got        map[string]int // messages by text
	wrong      []string
	lost, back []time.Time
}

func (b *bather) hear(ev client.Event) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *client.MemberJoined:
		for _, m := range ev.MemberList {
			if b.came[m.UserID]++; b.came[m.UserID] > 1 {
				b.wrong = append(b.wrong, m.UserID+" came twice")
			}
		}
	case *client.MemberLeft:
		b.wrong = append(b.wrong, ev.MemberList[0].UserID+" left")
	case *client.MessageReceived:
		for _, m := range ev.MessageList {
			if b.got[m.Message]++; b.got[m.Message] > 1 {
				b.wrong = append(b.wrong, "got twice: "+m.Message)
			}
		}
	case *client.HistoryLost:
		b.wrong = append(b.wrong, fmt.Sprintf("lost %d to %d", ev.FromSeq, ev.ToSeq))
	case *client.RoomStateChanged:
		if ev.State == protocol.RoomDisconnected {
			b.wrong = append(b.wrong, fmt.Sprintf("is out of the room: %s", ev.Event))
		}
	case *client.ConnectionStateChanged:
		switch ev.State {
		case protocol.ConnectionReconnecting:
			b.lost = append(b.lost, now)
		case protocol.ConnectionConnected:
			if len(b.lost) > 0 { // not the first time
				b.back = append(b.back, now)
			}
		}
	}
}

// heard gives how many messages b got, and how often it came back.
func (b *bather) heard() (messages, back int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.got), len(b.back)
}

// A gateway with thousands of sessions stands still until the others have given
// it up and taken over all it had. When it goes on it finds that out before it
// does harm: it sends its clients away, spread, and all of them come back with
// their sessions, here or elsewhere. Nobody else in their rooms sees anything of
// it, and nothing that anybody said is lost or comes twice.
func TestGatewayFrozen(t *testing.T) {
	t.Parallel()
	const (
		people, perRoom = 2000, 50
		messages        = 5
		spread          = 5 * time.Second // of the goodbyes
	)
	server, rdb := anyRedis(t)
	flags := []string{"--session-ttl=30s", "--lease-ttl=3s", "--heartbeat-interval=10s", "--drain-window=25s", "--log-ttl=2m", "--redis-timeout=2500ms",
		"--rate-limits=false"}
	frozen := startGateway(t, server.Addr(), flags...)
	b, c := startPair(t, server.Addr(), flags...)
	elsewhere := []string{b.URL(), c.URL()}

	join := func(user, room string, urls ...string) (*bather, error) {
		w := &bather{user: user, room: room, came: map[string]int{}, got: map[string]int{}}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var err error
		w.Client, err = client.Dial(ctx, client.Config{
			URLs: urls, User: protocol.UserInfo{UserID: user}, OnEvent: w.hear, MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
		})
		if err == nil {
			_, err = w.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: room}, nil)
		}
		return w, err
	}
	watchers, crowd := make([]*bather, people/perRoom), make([]*bather, people)
	t.Cleanup(func() {
		for _, w := range slices.Concat(watchers, crowd) {
			if w != nil && w.Client != nil {
				w.Close()
			}
		}
	})
	began := time.Now()
	var come errgroup.Group
	come.SetLimit(50)
	for i := range watchers {
		come.Go(func() (err error) {
			watchers[i], err = join(fmt.Sprintf("w%d", i), fmt.Sprintf("r%d", i), elsewhere[i%2])
			return err
		})
	}
	if err := come.Wait(); err != nil {
		t.Fatal(err)
	}
	come = errgroup.Group{}
	come.SetLimit(50)
	for i := range crowd {
		come.Go(func() (err error) {
			// Every other one knows of no other gateway.
			urls := []string{frozen.URL(), elsewhere[i/2%2]}
			crowd[i], err = join(fmt.Sprintf("u%d", i), fmt.Sprintf("r%d", i/perRoom), urls[:1+i%2]...)
			return err
		})
	}
	if err := come.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d came in %v", people, time.Since(began))
	node := frozen.Node()

	frozen.Signal(syscall.SIGSTOP)
	began = time.Now()
	say := func(w *bather, text string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
		defer cancel()
		_, err := w.SendRoomMessage(ctx, w.room, protocol.OutgoingMessage{Type: protocol.MessageText, Message: text}, nil)
		if err != nil {
			err = fmt.Errorf("%s says %s: %w", w.user, text, err)
		}
		return err
	}
	var talk errgroup.Group
	for i, w := range watchers {
		talk.Go(func() error { // what the frozen gateway is to hand on
			for n := range messages {
				if err := say(w, fmt.Sprintf("%s-%d", w.user, n)); err != nil {
					return err
				}
			}
			return nil
		})
		one := crowd[i*perRoom+i%perRoom]
		talk.Go(func() error { return say(one, "from "+one.user) }) // what it is asked to do
	}
	eventually(t, "the others to take over all that the gateway had", func() bool {
		return b.Metric("roomgate_gateway_claimed_total")+c.Metric("roomgate_gateway_claimed_total") == people &&
			rdb.ZScore(t.Context(), nodesKey(rdb), node).Err() != nil
	})
	t.Logf("given up and taken over after %v", time.Since(began))

	began = time.Now()
	frozen.Signal(syscall.SIGCONT)
	for _, w := range crowd {
		eventually(t, w.user+" to be back", func() bool { _, back := w.heard(); return back > 0 })
	}
	t.Logf("all were back %v after it went on", time.Since(began))
	if err := talk.Wait(); err != nil {
		t.Error(err)
	}
	// Who was said to from here on comes last.
	for _, w := range watchers {
		if err := say(w, "the end"); err != nil {
			t.Fatal(err)
		}
	}
	var first, last time.Time
	at := map[bool]int{} // of those who could go elsewhere
	for i, w := range slices.Concat(watchers, crowd) {
		want := messages + 2
		if i < len(watchers) {
			want = 1 // it does not hear itself
		} else if j := i - len(watchers); j%perRoom == j/perRoom%perRoom {
			want--
		}
		eventually(t, fmt.Sprintf("%s to have %d messages", w.user, want), func() bool { got, _ := w.heard(); return got >= want })
		w.mu.Lock()
		if len(w.wrong) > 0 || len(w.got) != want {
			t.Errorf("%s: %d messages of %d, and %q", w.user, len(w.got), want, w.wrong)
		}
		moved := 1
		if i < len(watchers) {
			moved = 0
			if len(w.came) != perRoom {
				t.Errorf("%s saw %d people come, want %d", w.user, len(w.came), perRoom)
			}
		} else if first.IsZero() || w.lost[0].Before(first) {
			first = w.lost[0]
		}
		if len(w.lost) > 0 && w.lost[0].After(last) {
			last = w.lost[0]
		}
		if s := w.Stats(); i < len(watchers) && len(w.back) != 0 || s.Logins != 1+s.Resumes || s.Resumes < int64(moved) || s.Duplicates != 0 || s.Malformed != 0 {
			t.Errorf("%s: came back %d times, %+v", w.user, len(w.back), s)
		}
		at[len(w.back) == 1]++
		w.mu.Unlock()
	}
	t.Logf("sent away within %v; %v came back once", last.Sub(first), at)
	if took := last.Sub(first); took < spread*3/4 || first.Before(began) {
		t.Errorf("clients were sent away within %v, from %v on, want that they are spread over %v", took, first.Sub(began), spread)
	}
	if n := frozen.Metric(`roomgate_gateway_closes_total{code="1012"}`); n < people {
		t.Errorf("the gateway has sent %.0f clients away to come back, want %d", n, people)
	}
	if n := frozen.Metric("roomgate_gateway_incarnations_total"); n != 2 {
		t.Errorf("the gateway has begun %.0f times, want 2", n)
	}
	unshaken(t, b, c)

	// Nobody is away, so that nobody can be taken for gone.
	if n := sizeOf(t, rdb, append(inPartitions(rdb, "parked"), inUsers(rdb, "parked")...)); n != 0 {
		t.Errorf("%d are still taken to be away", n)
	}
	for _, g := range []*gateway{frozen, b, c} {
		if n := g.Metric("roomgate_gateway_evicted_total"); n != 0 {
			t.Errorf("a gateway has evicted %.0f members", n)
		}
	}
	for _, w := range watchers {
		users := map[string]bool{}
		page := protocol.PageConfig{Count: 100}
		list, err := w.QueryRoomMemberList(t.Context(), w.room, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range list.MemberList {
			users[u.UserID] = true
		}
		if len(users) != perRoom+1 || len(list.MemberList) != perRoom+1 {
			t.Errorf("%s has %d members, %d in all, want %d", w.room, len(users), len(list.MemberList), perRoom+1)
		}
	}
	if status, printed := fsck(t, server.Addr(), "--session-ttl=30s", "--lease-ttl=3s"); status != 0 {
		t.Errorf("an audit has %d: %s", status, printed)
	}
}
