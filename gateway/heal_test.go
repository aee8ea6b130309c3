package gateway

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// A departure that Redis has answered, and lost before anybody heard of it, is
// not acknowledged: it happens again, in time or behind the answer that it is not
// known.
func TestConn_departure_rolledBack(t *testing.T) {
	t.Parallel()
	back := []string{"R connecting networkInterrupted", "R connected success *", "R lost *"}
	const soon, late = 20 * time.Second, time.Second // the term opens after two
	over := "R disconnected success"
	for _, tt := range []struct {
		method, params string
		timeout        time.Duration
		first, last    []string
		stays          bool
	}{
		{protocol.MethodLeaveRoom, `{"roomID":"R"}`, soon, nil, []string{over, "answer 3"}, false},
		{protocol.MethodLeaveRoom, `{"roomID":"R"}`, late, []string{"error 3 6000007"}, []string{over}, false},
		{protocol.MethodLeaveAllRoom, `{}`, soon, nil, []string{over, "answer 3"}, false},
		{protocol.MethodLeaveAllRoom, `{}`, late, []string{"error 3 6000007"}, []string{over}, false},
		{protocol.MethodLogout, `{}`, soon, nil, []string{over, "connectionStateChanged *", "answer 3"}, false},
		{protocol.MethodLogout, `{}`, late, []string{"error 3 6000007"}, []string{over, "connectionStateChanged *"}, false},
		{protocol.MethodSwitchRoom, `{"fromRoomID":"R","toRoomInfo":{"roomID":"S"},"isCreateWhenRoomNotExisted":true}`, soon,
			[]string{"S connecting activeSwitch"}, []string{"S connected success *", over, "answer 3"}, false},
		// What has been told to have failed is not begun again.
		{protocol.MethodSwitchRoom, `{"fromRoomID":"R","toRoomInfo":{"roomID":"S"},"isCreateWhenRoomNotExisted":true}`, late,
			[]string{"S connecting activeSwitch", "S disconnected switchFailed", "error 3 6000007"}, nil, true},
	} {
		t.Run(fmt.Sprint(tt.method, " ", tt.timeout), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			door := faultproxy.StartRedis(t, server.Addr())
			s := serveOn(t, Config{RedisTimeout: tt.timeout}, server.Client(t), door.Addr())
			s.hub.wait, s.hub.patience = time.Minute, time.Minute // it hears of the departure from nobody until data is put back
			ana, ben := s.login("ana"), s.login("ben")
			ana.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R","roomName":"r"}}`)
			ana.hears("R connecting activeEnter", "R connected success *", "answer 2")
			ben.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R","roomName":"r"}}`)
			ben.hears("R connecting activeEnter", "R connected success *", "answer 2")
			ana.hears("R +ben 2 #2")
			if err := s.rdb.Save(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			door.Messages(func(channel, _ string) faultproxy.Fate {
				if strings.HasSuffix(channel, "ch:R") {
					return nil
				}
				return faultproxy.Pass
			})
			ana.send(tt.method, tt.params)
			s.until("the answer waits for its event", func() bool { return s.waitsIn("R") })
			server.Restart()
			door.Messages(nil)
			ana.hears(slices.Concat(tt.first, back, tt.last)...)
			if tt.stays {
				ben.hears(back...)
				ben.send(protocol.MethodLeaveRoom, `{"roomID":"R"}`)
				ana.hears("R -ben 1 *")
			} else {
				ben.hears(slices.Concat(back, []string{"R -ana 1 *"})...)
			}
			if in, err := s.rdb.HExists(t.Context(), s.prefix+":{0}:info:R", "ana").Result(); in != tt.stays || err != nil {
				t.Errorf("ana is in: %t, %v", in, err)
			}
		})
	}
}

// A departure that nobody knows of for a while, and that has ended its room, is a
// departure: its client does not hear that the room is gone.
func TestConn_departure_endsRoom(t *testing.T) {
	t.Parallel()
	over := "R disconnected success"
	for _, tt := range []struct {
		script         lua.Script
		method, params string
		first, last    []string
	}{
		{lua.Leave, protocol.MethodLeaveRoom, `{"roomID":"R"}`, nil, []string{over}},
		{lua.LeaveAll, protocol.MethodLeaveAllRoom, `{}`, nil, []string{over}},
		{lua.LeaveAll, protocol.MethodLogout, `{}`, nil, []string{over, "connectionStateChanged *"}},
		{lua.Switch, protocol.MethodSwitchRoom, `{"fromRoomID":"R","toRoomInfo":{"roomID":"S"},"isCreateWhenRoomNotExisted":true}`,
			[]string{"S connecting activeSwitch", "S disconnected switchFailed"}, []string{over, "S connecting *", "S connected success *"}},
	} {
		for when, early := range map[string]bool{"while it is asked": true, "while it is found out": false} {
			t.Run(tt.method+"/"+when, func(t *testing.T) {
				t.Parallel()
				s, ana := aloneAndUnheard(t)
				s.gate.lose(tt.script, true)
				ana.send(tt.method, tt.params)
				if early {
					s.untilOver("R")
				}
				ana.hears(append(tt.first, "error 3 6000007")...)
				s.untilOver("R")
				s.gate.lose(tt.script, false)
				ana.hears(tt.last...)
			})
		}
	}
}

// Who asks again meanwhile hears it once, too.
func TestConn_departure_endsRoomAndRepeats(t *testing.T) {
	t.Parallel()
	s, ana := aloneAndUnheard(t)
	s.gate.lose(lua.Switch, true)
	to := `{"fromRoomID":"R","toRoomInfo":{"roomID":"S"},"isCreateWhenRoomNotExisted":true,"requestKey":7}`
	ana.send(protocol.MethodSwitchRoom, to)
	ana.hears("S connecting activeSwitch", "S disconnected switchFailed", "error 3 6000007")
	s.untilOver("R")
	ana.send(protocol.MethodSwitchRoom, to)
	s.gate.lose(lua.Switch, false)
	ana.hears("S connecting activeSwitch", "S connected success *", "R disconnected success", "answer 4")
}

// aloneAndUnheard has ana in room R, alone, of which no events come.
func aloneAndUnheard(t *testing.T) (*served, *bare) {
	t.Helper()
	server := redistest.Start(t)
	door := faultproxy.StartRedis(t, server.Addr())
	s := serveOn(t, Config{RedisTimeout: time.Second}, server.Client(t), door.Addr())
	ana := s.login("ana")
	ana.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R","roomName":"r"}}`)
	ana.hears("R connecting activeEnter", "R connected success *", "answer 2")
	door.Messages(func(channel, _ string) faultproxy.Fate {
		if strings.HasSuffix(channel, "ch:R") {
			return nil
		}
		return faultproxy.Pass
	})
	return s, ana
}

// untilOver waits until the feed of a room has found out that its life is over.
func (s *served) untilOver(room roomstore.RoomID) {
	s.until("the room is over", func() bool {
		if f := s.feed(room); f != nil {
			f.look()
		}
		return s.members(room) == 0
	})
}

// feed gives the feed of a room, nil if there is none.
func (s *served) feed(room roomstore.RoomID) *feed {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.hub.feeds[room]
}

// members gives how many are in a room here.
func (s *served) members(room roomstore.RoomID) int {
	f := s.feed(room)
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.members)
}

// waitsIn says whether answers wait for events of a room.
func (s *served) waitsIn(room roomstore.RoomID) bool {
	f := s.feed(room)
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting) > 0
}

// A switch that was told to have failed, turns out to have happened, and is then
// lost, has not happened.
func TestConn_switch_settledRolledBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	door := faultproxy.StartRedis(t, server.Addr())
	s := serveOn(t, Config{RedisTimeout: time.Second}, server.Client(t), door.Addr())
	s.hub.wait, s.hub.patience = time.Minute, time.Minute // it hears of the switch from nobody until data is put back
	ana, ben := s.login("ana"), s.login("ben")
	for _, c := range []*bare{ana, ben} {
		c.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R","roomName":"r"}}`)
		c.hears("R connecting activeEnter", "R connected success *", "answer 2")
	}
	ana.hears("R +ben 2 #2")
	if err := s.rdb.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	door.Messages(func(channel, _ string) faultproxy.Fate {
		if strings.HasSuffix(channel, "ch:R") || strings.HasSuffix(channel, "ch:S") {
			return nil
		}
		return faultproxy.Pass
	})
	s.gate.close(lua.Switch)
	ana.send(protocol.MethodSwitchRoom, `{"fromRoomID":"R","toRoomInfo":{"roomID":"S"},"isCreateWhenRoomNotExisted":true}`)
	ana.hears("S connecting activeSwitch", "S disconnected switchFailed", "error 3 6000007")
	s.gate.open()
	s.until("the answer waits for its event", func() bool { return s.waitsIn("R") })
	server.Restart()
	door.Messages(nil)
	back := []string{"R connecting networkInterrupted", "R connected success *", "R lost *"}
	ana.hears(back...)
	ben.hears(back...)
	ben.send(protocol.MethodSendRoomMessage, `{"roomID":"R","message":{"type":1,"message":"still here?"}}`)
	ana.hears("R ben: still here? *")
	ana.send(protocol.MethodLeaveAllRoom, `{}`)
	ana.hears("R disconnected success", "answer 4")
}

// A room is put back again if others are known to be in it, be they as many.
func TestPut_covers(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		record := func() roomstore.Record {
			known, ok := st.f.record("n")
			if !ok {
				t.Fatal("nothing is known")
			}
			return known
		}
		ana, _ := st.admit("ana", entry(1, 1))
		st.admit("ben", entry(1, 2))
		st.deliver(joined(1, 2, "ben", 2), joined(1, 3, "cy", 3))
		known := record()
		if (put{}).covers(known) || !(put{known.Position, known.Members}).covers(record()) {
			t.Error("want that the same is covered, and no more")
		}
		st.f.detach(ana)
		st.admit("cy", entry(1, 3))
		if now := record(); len(now.Members) != len(known.Members) || (put{known.Position, known.Members}).covers(now) {
			t.Errorf("%v covers %v", known.Members, now.Members)
		}
	})
}

// Who was sent away before data was lost, and has not been told, is told so when
// what is known is put back.
func TestGateway_heal_sentAway(t *testing.T) {
	t.Parallel()
	for why, code := range map[string]protocol.CloseCode{
		"kicked": protocol.CloseKickedByLogin, "replaced": protocol.CloseTakenOver,
	} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			s := serve(t, Config{})
			ana, ben := s.login("ana"), s.login("ben")
			user := s.key("user:ana")
			fields := s.rdb.HKeys(t.Context(), user).Val()
			pipe := s.rdb.TxPipeline()
			pipe.HDel(t.Context(), user, fields...)
			for _, f := range fields {
				if id, ok := strings.CutPrefix(f, "s:"); ok {
					pipe.HSet(t.Context(), strings.Replace(user, "user:ana", "gone:"+id, 1), "", why)
				}
			}
			pipe.Set(t.Context(), s.prefix+":{0}:origin", "another\x001\x00", 0)
			if _, err := pipe.Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.store.Ask(t.Context()); err != nil {
				t.Fatal(err)
			}
			ana.ends(code)
			s.until("data is put back", func() bool { return len(s.NotReady()) == 0 })
			ben.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R","roomName":"r"}}`)
			ben.hears("R connecting activeEnter", "R connected success *", "answer 2")
		})
	}
}

// An attribute that goes with its owner goes when data was lost while the owner was
// away, who is not put back.
func TestHeal_ownerAway(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	ana, ben := s.login("ana"), s.login("ben")
	for _, c := range []*bare{ana, ben} {
		c.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R","roomName":"r"}}`)
		c.hears("R connecting activeEnter", "R connected success *", "answer 2")
	}
	ana.hears("R +ben 2 #2")
	for key, goes := range map[string]bool{"goes": true, "stays": false} {
		ben.send(protocol.MethodSetRoomAttributes, fmt.Sprintf(
			`{"roomID":"R","roomAttributes":{%q:"v"},"config":{"isDeleteAfterOwnerLeft":%t}}`, key, goes))
		ben.hear()
		if _, err := ana.hear(); err != nil {
			t.Fatal(err)
		}
	}
	ben.ws.CloseNow()
	s.until("ben is away", func() bool {
		return s.rdb.ZCard(t.Context(), s.prefix+":{0}:parked").Val() == 1
	})
	keys := s.rdb.Keys(t.Context(), s.prefix+":*").Val()
	if err := s.rdb.Del(t.Context(), keys...).Err(); err != nil {
		t.Fatal(err)
	}
	ana.hears("R connecting networkInterrupted", "R connected success *", "R lost *")
	s.until("what goes with ben is gone", func() bool {
		has, err := s.rdb.HKeys(t.Context(), s.prefix+":{0}:attrs:R").Result()
		return err == nil && slices.Equal(has, []string{"stays"})
	})
}
