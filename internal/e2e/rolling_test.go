//go:build linux

package e2e

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

var rollingCrowd = flag.Int("crowd", 400, "clients of the rolling restart, in rooms of 50")

// walker is a client in a room while gateways are restarted. It notes what
// must not be.
type walker struct {
	*client.Client
	room string

	mu    sync.Mutex
	got   map[string]int // messages by text
	wrong []string
	turns []time.Duration // that gateways which drained gave it
	moved []time.Time     // when it was connected
}

func (w *walker) hear(ev client.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch ev := ev.(type) {
	case *client.MessageReceived:
		for _, m := range ev.MessageList {
			if w.got[m.Message]++; w.got[m.Message] > 1 {
				w.wrong = append(w.wrong, "got twice: "+m.Message)
			}
		}
	case *client.MemberLeft:
		w.wrong = append(w.wrong, fmt.Sprintf("saw %s leave", ev.MemberList[0].UserID))
	case *client.HistoryLost:
		w.wrong = append(w.wrong, fmt.Sprintf("lost %d to %d", ev.FromSeq, ev.ToSeq))
	case *client.RoomStateChanged:
		if ev.State == protocol.RoomDisconnected {
			w.wrong = append(w.wrong, fmt.Sprintf("is out of the room: %s", ev.Event))
		}
	case *client.ServerDraining:
		w.turns = append(w.turns, time.Duration(ev.ReconnectAfterMS)*time.Millisecond)
	case *client.ConnectionStateChanged:
		if ev.State == protocol.ConnectionConnected {
			w.moved = append(w.moved, time.Now())
		}
	}
}

const drainWindow = 6 * time.Second

// busiest is how many of the times are within a second at most.
func busiest(times []time.Duration) (most int) {
	slices.Sort(times)
	from := 0
	for i := range times {
		for times[i]-times[from] >= time.Second {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}

// Three gateways are restarted one after another under a crowd that goes on
// talking: nobody sees anybody leave, and every message reaches everybody once.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	var addrs, urls []string
	var gateways []*gateway
	start := func(i int) *gateway {
		return startGateway(t, server.Addr(), "--listen="+addrs[i], "--drain-window="+drainWindow.String(), "--session-ttl=20s", "--lease-ttl=4s", "--rate-limits=false")
	}
	for i := range 3 {
		addrs = append(addrs, addrToKeep(t))
		urls = append(urls, "ws://"+addrs[i])
	}
	for i := range addrs {
		gateways = append(gateways, start(i))
	}

	const perRoom = 50
	walkers := make([]*walker, *rollingCrowd)
	var come errgroup.Group
	come.SetLimit(50)
	for i := range walkers {
		w := &walker{room: fmt.Sprintf("r%d", i/perRoom), got: map[string]int{}}
		walkers[i] = w
		come.Go(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var err error
			w.Client, err = client.Dial(ctx, client.Config{
				URLs: []string{urls[i%3], urls[(i+1)%3], urls[(i+2)%3]}, User: protocol.UserInfo{UserID: fmt.Sprintf("u%d", i)},
				OnEvent: w.hear, MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
			})
			if err != nil {
				return err
			}
			_, err = w.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: w.room}, nil)
			return err
		})
	}
	if err := come.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, w := range walkers {
			w.Close()
		}
	})

	// The first of each room talks: in one room 50 times a second, in the
	// others twice.
	var stop atomic.Bool
	var talk errgroup.Group
	sent := make([]int, (len(walkers)+perRoom-1)/perRoom)
	for r := range sent {
		w, every := walkers[r*perRoom], 500*time.Millisecond
		if r == 0 {
			every = 20 * time.Millisecond
		}
		talk.Go(func() error {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for ; !stop.Load(); <-tick.C {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				m := protocol.OutgoingMessage{Type: protocol.MessageText, Message: fmt.Sprint(sent[r])}
				_, err := w.SendRoomMessage(ctx, w.room, m, nil)
				cancel()
				if err != nil {
					return fmt.Errorf("%s: message %d: %w", w.room, sent[r], err)
				}
				sent[r]++
			}
			return nil
		})
	}
	for i := range gateways {
		began := time.Now()
		heard := make([]int, len(walkers)) // of turns before
		for j, w := range walkers {
			w.mu.Lock()
			heard[j] = len(w.turns)
			w.mu.Unlock()
		}
		here := gateways[i].Metric("roomgate_gateway_sessions")
		gateways[i].Signal(syscall.SIGTERM)
		select {
		case <-gateways[i].Ended:
		case <-time.After(3 * patience):
			t.Fatalf("gateway %d does not end", i)
		}
		if code := gateways[i].Cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("gateway %d ended with status %d", i, code)
		}
		took := time.Since(began)
		var turns, moves []time.Duration
		for j, w := range walkers {
			w.mu.Lock()
			turns = append(turns, w.turns[heard[j]:]...)
			for _, at := range w.moved {
				if at.After(began) {
					moves = append(moves, at.Sub(began))
				}
			}
			w.mu.Unlock()
		}
		// What clients make of their turns depends on how busy this machine is.
		even := here / drainWindow.Seconds()
		given, seen := busiest(turns), busiest(moves)
		t.Logf("gateway %d with %.0f sessions was gone after %v; at most %d turns and %d moves a second, evenly it is %.0f",
			i, here, took, given, seen, even)
		if len(turns) != int(here) || float64(given) > 2*even+1 {
			t.Errorf("gateway %d gave %d turns, at most %d a second; want one to each of %.0f sessions, at most %.0f a second", i, len(turns), given, here, 2*even)
		}
		gateways[i] = start(i)
	}
	stop.Store(true)
	if err := talk.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, w := range walkers {
		want := sent[i/perRoom]
		if i%perRoom == 0 {
			want = 0 // it does not hear itself
		}
		heard := func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.got) >= want
		}
		eventually(t, fmt.Sprintf("u%d to have %d messages", i, want), heard)
		w.mu.Lock()
		if len(w.wrong) > 0 || len(w.got) != want || len(w.moved) == 0 && i%3 == 0 {
			t.Errorf("u%d: %d messages of %d, moved %d times, %q", i, len(w.got), want, len(w.moved), w.wrong)
		}
		w.mu.Unlock()
	}
}
