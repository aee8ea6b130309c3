package client_test

import (
	"context"
	"encoding/json"
	"maps"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

// A query of attributes sends what the wire asks for, without a request key, and
// returns what comes back, whatever it is made of.
func TestClient_QueryRoomAllAttributes(t *testing.T) {
	for _, tt := range []struct {
		name, result string
		want         map[string]string
	}{
		{"some", `{"roomID":"r","roomAttributes":{"k":"v","empty":"","\u0000\"é":"<\u2028>"},"epoch":7,"seq":9}`,
			map[string]string{"k": "v", "empty": "", "\x00\"é": "<\u2028>"}},
		{"none", `{"roomID":"r","roomAttributes":{},"epoch":7,"seq":9}`, map[string]string{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newFabric(t).gateway("a")
				c, p := g.connect(g.config())
				var got *protocol.AllAttributesResult
				done := call(func() (err error) { got, err = c.QueryRoomAllAttributes(context.Background(), "r"); return err })
				req := p.request("queryRoomAllAttributes")
				if string(req.Params) != `{"roomID":"r"}` {
					t.Errorf("got params %s, want the room and nothing else", req.Params)
				}
				p.answer(req, json.RawMessage(tt.result))
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				want := &protocol.AllAttributesResult{RoomID: "r", RoomAttributes: tt.want, Position: protocol.Position{Epoch: 7, Seq: 9}}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A refusal is the caller's to see, and a query that a lost link left without
// an answer is asked again on the next one.
func TestClient_QueryRoomAllAttributes_again(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		ask := func() (*protocol.AllAttributesResult, error) {
			return c.QueryRoomAllAttributes(context.Background(), "r")
		}
		done := call(func() error { _, err := ask(); return err })
		p.refuse(p.request("queryRoomAllAttributes"), protocol.Error{Code: protocol.CodeNotInRoom, Message: "not in the room"})
		if e := as[*protocol.Error](t, <-done); e.Code != protocol.CodeNotInRoom {
			t.Errorf("got %v, want %d", e, protocol.CodeNotInRoom)
		}

		var got *protocol.AllAttributesResult
		done = call(func() (err error) { got, err = ask(); return err })
		p.request("queryRoomAllAttributes")
		g.fabric.cut()
		p = g.accept()
		p.login("s1", true)
		p.answer(p.request("queryRoomAllAttributes"), json.RawMessage(`{"roomID":"r","roomAttributes":{"k":"v"},"epoch":7,"seq":9}`))
		if err := <-done; err != nil || !maps.Equal(got.RoomAttributes, map[string]string{"k": "v"}) {
			t.Errorf("got %+v, %v, want the attributes", got, err)
		}
		want(t, c, "connection reconnecting loginInterrupted", "connection connected success")
	})
}

// Who enters a room with attributes has them before the room is connected, as
// the room's own event.
func TestClient_AttributesUpdated_onEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newFabric(t).gateway("a")
		c, p := g.connect(g.config())
		done := call(func() error { _, err := c.JoinRoom(context.Background(), "r"); return err })
		req := p.request(protocol.MethodJoinRoom)
		p.event(protocol.EventRoomAttributesUpdated, protocol.AttributesUpdated{
			RoomID: "r", Seq: 4, Infos: []protocol.AttributesInfo{{Action: "set", RoomAttributes: map[string]string{"k": "v"}}},
		})
		p.connected("r", 7, 4)
		p.answer(req, protocol.Room{Position: protocol.Position{Epoch: 7, Seq: 4}})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		ev, ok := (<-c.Events()).(*client.AttributesUpdated)
		if !ok || len(ev.Infos) != 1 || ev.Infos[0].RoomAttributes["k"] != "v" {
			t.Errorf("got %+v, want the attributes", ev)
		}
		want(t, c, "room r connected success")
		if s := c.Stats(); s.Duplicates != 0 || s.Malformed != 0 {
			t.Errorf("got %+v, want nothing odd", s)
		}
	})
}
