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
)

// A departure that Redis has answered, and lost before anybody heard of it, is
// not acknowledged: it happens again, in time or behind the answer that it is not
// known.
func TestConn_departure_rolledBack(t *testing.T) {
	t.Parallel()
	back := []string{"R connecting networkInterrupted", "R connected success *", "R lost *"}
	const soon, late = 10 * time.Second, time.Second // the term opens after two
	over := "R disconnected success"
	for _, tt := range []struct {
		method, params string
		timeout        time.Duration
		script         lua.Script
		first, last    []string
		stays          bool
	}{
		{protocol.MethodLeaveRoom, `{"roomID":"R"}`, soon, lua.Leave, nil, []string{over, "answer 3"}, false},
		{protocol.MethodLeaveRoom, `{"roomID":"R"}`, late, lua.Leave, []string{"error 3 6000007"}, []string{over}, false},
		{protocol.MethodLeaveAllRoom, `{}`, soon, lua.LeaveAll, nil, []string{over, "answer 3"}, false},
		{protocol.MethodLeaveAllRoom, `{}`, late, lua.LeaveAll, []string{"error 3 6000007"}, []string{over}, false},
		{protocol.MethodLogout, `{}`, soon, lua.LeaveAll, nil, []string{over, "connectionStateChanged *", "answer 3"}, false},
		{protocol.MethodLogout, `{}`, late, lua.LeaveAll, []string{"error 3 6000007"}, []string{over, "connectionStateChanged *"}, false},
		{protocol.MethodSwitchRoom, `{"fromRoomID":"R","toRoomInfo":{"roomID":"S"},"isCreateWhenRoomNotExisted":true}`, soon, lua.Switch,
			[]string{"S connecting activeSwitch"}, []string{"S connected success *", over, "answer 3"}, false},
		// What has been told to have failed is not begun again.
		{protocol.MethodSwitchRoom, `{"fromRoomID":"R","toRoomInfo":{"roomID":"S"},"isCreateWhenRoomNotExisted":true}`, late, lua.Switch,
			[]string{"S connecting activeSwitch", "S disconnected switchFailed", "error 3 6000007"}, nil, true},
	} {
		t.Run(fmt.Sprint(tt.method, " ", tt.timeout), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			door := faultproxy.StartRedis(t, server.Addr())
			s := serveOn(t, Config{RedisTimeout: tt.timeout}, server.Client(t), door.Addr())
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
			s.gate.after(tt.script, func() {
				server.Restart()
				door.Messages(nil)
			})
			ana.send(tt.method, tt.params)
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
