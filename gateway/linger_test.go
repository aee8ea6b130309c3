package gateway

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// crowd has every session linger from now on.
func (s *served) crowd() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lingerers.began, s.lingerers.closed = time.Now().Add(time.Hour), promptly
}

// lingers gives the session that lingers, if there is one.
func (s *served) lingers() *lingerer {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.lingerers.all {
		return one
	}
	return nil
}

// parked gives the deadlines of the parked sessions, in ms of Redis's clock.
func (s *served) parked() (deadlines []float64) {
	s.t.Helper()
	for _, key := range s.rdb.Keys(s.t.Context(), s.prefix+":{u*}:parked").Val() {
		all, err := s.rdb.ZRangeWithScores(s.t.Context(), key, 0, -1).Result()
		if err != nil {
			s.t.Fatal(err)
		}
		for _, z := range all {
			deadlines = append(deadlines, z.Score)
		}
	}
	return deadlines
}

// A session of a crowd is not parked if it goes on, and else with the deadline that it
// would have had.
func TestLinger(t *testing.T) {
	t.Parallel()
	const ttl = 8 * forLong // by itself it lingers for longer than the test waits
	for _, tt := range []struct {
		name    string
		do      func(s *served, one *lingerer, events *faultproxy.Proxy)
		parked  bool
		expects bool // the deadline is that of the closed socket
	}{
		{"it comes back", func(s *served, one *lingerer, events *faultproxy.Proxy) {
			events.Messages(func(string, string) faultproxy.Fate { return nil })
			c := s.dial()
			c.send(protocol.MethodLogin, fmt.Sprintf(`{"userID":"ana","resume":{"sessionID":%q,"rooms":[]}}`, one.who.ID))
			c.hears("answer 1")
		}, false, false},
		{"it goes on elsewhere", func(s *served, one *lingerer, _ *faultproxy.Proxy) {
			if _, _, ok, err := s.store.Resume(s.t.Context(), "another", "ana", one.who.ID, nil); !ok || err != nil {
				s.t.Fatalf("resume: %t, %v", ok, err)
			}
		}, false, false},
		{"it stays away", func(s *served, one *lingerer, _ *faultproxy.Proxy) {
			s.mu.Lock()
			defer s.mu.Unlock()
			one.since = one.since.Add(-ttl / 4)
			one.timer.Reset(0)
		}, true, true},
		{"the gateway stops", func(s *served, _ *lingerer, _ *faultproxy.Proxy) { s.endLingering() }, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.New(t)
			events := faultproxy.StartRedis(t, rdb.Options().Addr)
			s := serveOn(t, Config{SessionTTL: ttl}, rdb, events.Addr())
			s.crowd()
			c := s.login("ana")
			c.ws.CloseNow()
			s.until("it lingers", func() bool { return s.lingers() != nil })
			if n := s.Snapshot()["gateway_lingering_sessions"]; n != 1 {
				t.Errorf("%v linger, want 1", n)
			}
			closed := s.rdb.Time(t.Context()).Val()
			tt.do(s, s.lingers(), events)
			s.until("it lingers no longer", func() bool { return s.lingers() == nil })
			if tt.parked {
				s.until("it is parked", func() bool { return len(s.parked()) == 1 })
			} else if n := len(s.parked()); n != 0 {
				t.Errorf("%d sessions are parked, want none", n)
			}
			if tt.expects {
				left := time.Duration(s.parked()[0]-float64(closed.UnixMilli())) * time.Millisecond
				if left > ttl*7/8 {
					t.Errorf("it has %v left, of which a quarter of %v is over", left, ttl)
				}
			}
		})
	}
}

// Who lingers is a crowd that is likely to come back.
func TestLinger_who(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{SessionTTL: time.Minute})
	who := func(n int) roomstore.Session {
		return roomstore.Session{User: "u", ID: roomstore.SessionID("s" + strconv.Itoa(n)), Node: s.node(), Generation: 5}
	}
	for n := range 3 * promptly {
		if got, want := s.linger(who(n), 0), n >= promptly; got != want {
			t.Fatalf("session %d that goes within a second lingers: %t, want %t", n, got, want)
		}
	}
	s.crowd()
	if s.linger(who(1000), time.Minute) {
		t.Error("a session lingers whose time is over")
	}
	s.mu.Lock()
	s.lingerers.began = time.Now().Add(-lingerWithin)
	s.mu.Unlock()
	if s.linger(who(1001), 0) {
		t.Error("the first in a second lingers")
	}
	s.crowd()
	s.login("ana") // who is here by now
	s.mu.Lock()
	var here roomstore.Session
	for _, one := range s.sessions {
		here = one.who
	}
	before := len(s.lingerers.all)
	s.mu.Unlock()
	here.Generation--
	if !s.linger(here, 0) {
		t.Error("a session is parked that is here under a later generation")
	}
	s.mu.Lock()
	if n := len(s.lingerers.all); n != before {
		t.Errorf("%d linger, want %d", n, before)
	}
	s.mu.Unlock()
	earlier := who(2 * promptly)
	earlier.Generation--
	if !s.linger(earlier, 0) {
		t.Error("an earlier connection's end, which came later, is parked")
	}
	s.mu.Lock()
	if now := s.lingerers.all[earlier.ID]; now == nil || now.who.Generation != 5 {
		t.Error("an earlier connection's end took the place of the session as it is")
	}
	s.returned(who(2*promptly).ID, 5) // as it was
	if s.lingerers.all[who(2*promptly).ID] == nil {
		t.Error("a session lingers no longer that nothing has become of")
	}
	s.mu.Unlock()
	s.endLingering()
	if s.linger(who(1002), 0) {
		t.Error("a session lingers on a gateway that stops")
	}
}

// A client that reads too slowly is remembered as such before it is back.
func TestLinger_slow(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	s.crowd()
	s.login("ana")
	s.mu.Lock()
	for _, one := range s.sessions {
		one.c.close(protocol.CloseSlowConsumer, "")
	}
	s.mu.Unlock()
	s.until("it is parked", func() bool { return len(s.parked()) == 1 })
	if keys := s.rdb.Keys(t.Context(), s.prefix+":*:slow:*").Val(); len(keys) != 1 {
		t.Errorf("remembered as slow are %q", keys)
	}
}

// Where something of a session's may still be on its way the parking has to fence it.
func TestLinger_doubtful(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{SessionTTL: 8 * forLong, RedisTimeout: 300 * time.Millisecond})
	s.crowd()
	c := s.login("ana")
	s.gate.close(lua.Enter)
	c.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R","roomName":"r"}}`)
	c.hears("R connecting activeEnter", "R disconnected enterFailed", "error 2 6000007")
	c.ws.CloseNow()
	s.until("its socket has closed", func() bool { return s.Snapshot()["gateway_sessions"] == 0 })
	s.gate.open()
	s.until("it is parked", func() bool { return len(s.parked()) == 1 })

	b := s.login("bob")
	s.mu.Lock()
	for _, one := range s.sessions {
		one.c.tasks.running.Add(1) // a request that is not through
		defer one.c.tasks.running.Done()
	}
	s.mu.Unlock()
	b.ws.CloseNow()
	s.until("bob is parked", func() bool { return len(s.parked()) == 2 })
}
