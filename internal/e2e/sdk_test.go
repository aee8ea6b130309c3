//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// person is a client of the SDK, which comes back by itself when its link is
// lost. What it hears waits, in its order, to be looked at.
type person struct {
	*client.Client
	t    testing.TB
	name string

	mu      sync.Mutex
	heard   []client.Event
	read    int           // how many of them were looked at
	arrived chan struct{} // holds one
}

// meet logs a user in at the first of the URLs that answers.
func meet(t testing.TB, user string, urls ...string) *person {
	t.Helper()
	return meetWithin(t, 0, user, urls...)
}

// meetWithin is meet for a user who waits for so long for an answer to each login.
func meetWithin(t testing.TB, wait time.Duration, user string, urls ...string) *person {
	t.Helper()
	p := &person{t: t, name: user, arrived: make(chan struct{}, 1)}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	p.Client, err = client.Dial(ctx, client.Config{
		URLs: urls, User: protocol.UserInfo{UserID: user, UserName: user}, OnEvent: p.hear,
		ConnectTimeout: wait, MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatalf("%s: %v", user, err)
	}
	t.Cleanup(func() {
		p.Close()
		if t.Failed() {
			t.Logf("%s: ended with %v, %+v", user, p.Err(), p.Stats())
		}
	})
	return p
}

func (p *person) hear(ev client.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, ev)
	select {
	case p.arrived <- struct{}{}:
	default:
	}
}

// until looks at events up to one, and gives all in brief.
func (p *person) until(last string) []string {
	p.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	var got []string
	for {
		p.mu.Lock()
		for p.read < len(p.heard) {
			b := briefEvent(p.heard[p.read])
			p.read++
			got = append(got, b)
			if b == last {
				p.mu.Unlock()
				return got
			}
		}
		p.mu.Unlock()
		select {
		case <-p.arrived:
		case <-deadline.C:
			p.t.Fatalf("%s: waited %v for %q; got %q", p.name, patience, last, got)
		}
	}
}

// hears looks at events up to the last of those wanted, which they have to be.
func (p *person) hears(want ...string) {
	p.t.Helper()
	if d := cmp.Diff(want, p.until(want[len(want)-1])); d != "" {
		p.t.Errorf("%s (-want +got):\n%s", p.name, d)
	}
}

// all gives everything that was heard so far.
func (p *person) all() []client.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.heard)
}

func (p *person) enter(room string) *protocol.Room {
	p.t.Helper()
	r, err := p.EnterRoom(p.t.Context(), protocol.RoomBaseInfo{RoomID: room}, nil)
	if err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
	return r
}

func (p *person) say(room, text string) {
	p.t.Helper()
	m := protocol.OutgoingMessage{Type: protocol.MessageText, Message: text}
	if _, err := p.SendRoomMessage(p.t.Context(), room, m, nil); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// briefEvent is brief for what the SDK made of a frame.
func briefEvent(ev client.Event) string {
	method := ""
	switch ev := ev.(type) {
	case *client.ConnectionStateChanged:
		method = protocol.EventConnectionStateChanged
	case *client.RoomStateChanged:
		method = protocol.EventRoomStateChanged
	case *client.MemberJoined:
		method = protocol.EventRoomMemberJoined
	case *client.MemberLeft:
		method = protocol.EventRoomMemberLeft
	case *client.MessageReceived:
		method = protocol.EventRoomMessageReceived
	case *client.HistoryLost:
		method = protocol.EventRoomHistoryLost
	default:
		method = fmt.Sprintf("%T", ev)
	}
	params, err := json.Marshal(ev)
	if err != nil {
		panic(err)
	}
	return brief(fmt.Sprintf(`{"method":%q,"params":%s}`, method, params))
}

// overhear calls take with each event that is announced to a subscription, one
// after the other, until the test ends. It returns when the subscription is there.
func overhear(t testing.TB, ps *redis.PubSub, take func(channel string, e roomstore.Event)) {
	t.Helper()
	tap(t, ps, func(channel, payload string) {
		e, err := roomstore.DecodeEvent(payload)
		if err != nil {
			t.Errorf("event %q: %v", payload, err)
			return
		}
		take(channel, e)
	})
}

// tap is overhear for whatever is published.
func tap(t testing.TB, ps *redis.PubSub, take func(channel, payload string)) {
	t.Helper()
	if _, err := ps.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := ps.ReceiveMessage(context.Background())
			if err != nil {
				return // closed
			}
			take(m.Channel, m.Payload)
		}
	}()
	t.Cleanup(func() {
		ps.Close()
		<-done
	})
}

// A ledger is what Redis announced of a room: the truth that all clients' logs
// are held against.
type ledger struct {
	t testing.TB

	mu      sync.Mutex
	events  []roomstore.Event
	arrived chan struct{} // holds one
}

// follow begins a ledger of a room, with nothing between it and Redis.
func follow(t testing.TB, rdb redis.UniversalClient, room string) *ledger {
	t.Helper()
	l := &ledger{t: t, arrived: make(chan struct{}, 1)}
	overhear(t, subscribe(t.Context(), rdb, roomKey(rdb, "ch", room)), func(_ string, e roomstore.Event) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events = append(l.events, e)
		select {
		case l.arrived <- struct{}{}:
		default:
		}
	})
	return l
}

func (l *ledger) all() []roomstore.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

// find waits for an event.
func (l *ledger) find(what string, is func(roomstore.Event) bool) roomstore.Event {
	l.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		events := l.all()
		if i := slices.IndexFunc(events, is); i >= 0 {
			return events[i]
		}
		select {
		case <-l.arrived:
		case <-deadline.C:
			l.t.Fatalf("waited %v for %s; there were %+v", patience, what, events)
		}
	}
}

// eviction waits for a user to be evicted, and gives when, on Redis's clock.
func (l *ledger) eviction(user string) int64 {
	l.t.Helper()
	return l.find("the eviction of "+user, func(e roomstore.Event) bool {
		return e.Kind == roomstore.KindLeft && e.User == roomstore.UserID(user) && e.Reason == roomstore.ReasonTimeout
	}).At
}
