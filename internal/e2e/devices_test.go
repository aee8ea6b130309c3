//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// enrollOn logs a user in on a device, and gives the session. Others see the
// device's name as the user's.
func enrollOn(t testing.TB, url, user, id string) (*wire, string) {
	t.Helper()
	w := connect(t, url)
	return w, w.login(deviceLogin(user, id)).SessionID
}

func deviceLogin(user, id string) string {
	b, err := json.Marshal(protocol.LoginParams{UserID: user, DeviceID: id, UserName: id})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// stored is what Redis has of a user: the node of each session, "" for one
// that is parked, the session that is in each room, and the rooms that the user's hash
// names, of which some may have ended.
type stored struct {
	sessions map[string]string
	rooms    map[string]string
	named    []string
}

func storedOf(t testing.TB, rdb redis.UniversalClient, user string) stored {
	t.Helper()
	fields, err := rdb.HGetAll(t.Context(), userKey(rdb, user)).Result()
	if err != nil {
		t.Fatal(err)
	}
	s := stored{sessions: map[string]string{}, rooms: map[string]string{}}
	for name, value := range fields {
		if id, ok := strings.CutPrefix(name, "s:"); ok {
			s.sessions[id] = strings.Split(value, "\x00")[1]
		} else if room, ok := strings.CutPrefix(name, "r:"); ok {
			room, _, _ = strings.Cut(room, "\x00") // on a Cluster the session is behind it
			s.named = append(s.named, room)
			is, err := rdb.HGet(t.Context(), roomKey(rdb, "info", room), user).Result()
			if err != nil && !errors.Is(err, redis.Nil) {
				t.Fatal(err)
			}
			if session, _, in := strings.Cut(is, "\x00"); in {
				s.rooms[room] = session
			}
		}
	}
	return s
}

// hang ends a connection without a word, and waits until the session is parked.
func hang(t testing.TB, rdb redis.UniversalClient, w *wire, session string) {
	t.Helper()
	user := w.name
	w.drop()
	eventually(t, "the session to be parked", func() bool { return storedOf(t, rdb, user).sessions[session] == "" })
}

// sentAway makes sure that the next a client hears is this, then that it had to
// go since its user has logged in elsewhere, and the end.
func (w *wire) sentAway(before ...string) {
	w.t.Helper()
	w.lastHears(protocol.CloseKickedByLogin, append(before, "connection disconnected kickedOut")...)
}

// lastHears makes sure that the next a client hears is this, and then the end
// with a code.
func (w *wire) lastHears(code protocol.CloseCode, want ...string) {
	w.t.Helper()
	var got []string
	for frame, ok := w.next(); ok; frame, ok = w.next() {
		got = append(got, brief(frame))
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		w.t.Errorf("%s, at the end (-want +got):\n%s", w.name, d)
	}
	w.wantClosed(code)
}

// members lists a room as a member sees it: each user with the name that others
// see.
func (w *wire) members(room string) (all []string) {
	w.t.Helper()
	var page protocol.MemberListResult
	w.ask(protocol.MethodQueryRoomMemberList, fmt.Sprintf(`{"roomID":%q,"config":{"count":100,"nextFlag":""}}`, room), &page)
	for _, raw := range page.MemberList {
		var u protocol.UserInfo
		if err := json.Unmarshal(raw, &u); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, u.UserID+" "+u.UserName)
	}
	return all
}

// A user who enters a room from another device moves there. The old device is
// told, and nobody else hears anything: the user never left. A full room and
// every other limit are no obstacle, and the place in the order stays.
func TestDevices_move(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			t.Parallel()
			// Three in R, of two rooms; ana in two rooms.
			a, b := startPair(t, server.Addr(), append(slices.Clone(patient), fmt.Sprintf("--redis-prefix=move%d", partitions),
				fmt.Sprintf("--partitions=%d", partitions), "--max-members=3", "--max-rooms=2", "--max-rooms-per-user=2")...)
			for _, way := range []struct {
				method, params string
				want           []string
			}{
				{"joinRoom", joinR, []string{"R connecting activeEnter", "R connected success", "ok"}},
				{"enterRoom", `{"roomInfo":{"roomID":"R","roomName":"Another name"},"config":{"roomDestroyDelayTime":60}}`,
					[]string{"R connecting activeEnter", "R connected success", "ok"}},
				{"switchRoom", fromF, []string{"R connecting activeSwitch", "R connected success", "F disconnected success", "ok"}},
				{"switchRoom", mayMake, []string{"R connecting activeSwitch", "R connected success", "F disconnected success", "ok"}},
			} {
				for _, to := range []*gateway{a, b} {
					t.Run(fmt.Sprintf("%s, same gateway %t", way.method, to == a), func(t *testing.T) {
						bo, cy := enroll(b, t, "bo"), enroll(a, t, "cy")
						old, _ := enrollOn(t, a.URL(), "ana", "phone")
						now, _ := enrollOn(t, to.URL(), "ana", "laptop")
						third, _ := enrollOn(t, b.URL(), "ana", "")
						bo.enter("R")
						old.enter("R")
						before := cy.enter("R").Position
						bo.until("R +cy 3")
						old.until("R +cy 3")
						if way.method == "switchRoom" {
							now.enter("F")
						} else {
							third.enter("F")
						}

						now.send(way.method, way.params)
						events, r := now.response()
						text, _ := json.Marshal(r)
						var got []string
						for _, e := range append(events, string(text)) {
							got = append(got, brief(e))
						}
						if d := cmp.Diff(way.want, got); d != "" {
							t.Fatalf("the new device (-want +got):\n%s", d)
						}
						var room protocol.Room
						if err := json.Unmarshal(r.Result, &room); err != nil {
							t.Fatal(err)
						}
						before.Seq++ // the move has a place in the room's log
						if room.MemberCount != 3 || room.Created || room.Position != before || room.RoomInfo.BaseInfo.RoomName != "A room" {
							t.Errorf("got %+v, want the room as it was, at %+v", room, before)
						}
						if p := params[protocol.RoomStateChanged](t, events[1]); p.Epoch != room.Epoch || p.Seq != room.Seq {
							t.Errorf("connected at %d/%d, want %+v", p.Epoch, p.Seq, room.Position)
						}

						old.hears("R disconnected kickedOutByOtherDevice")
						cy.say("R", "kept")
						cy.ask(protocol.MethodSendRoomMessage, `{"roomID":"R","message":{"type":20,"message":"live"}}`, nil)
						bo.hears("R cy: kept", "R cy: live")
						now.hears("R cy: kept", "R cy: live")
						old.settled()
						third.settled()
						for method, params := range map[string]string{
							"sendRoomMessage": textMessage("R", "hi"), "queryRoomOnlineMemberCount": joinR, "leaveRoom": joinR,
						} {
							old.send(method, params)
							old.refused(protocol.CodeNotInRoom)
						}
						now.say("R", "hi")
						bo.hears("R ana: hi")
						cy.hears("R ana: hi")
						for _, w := range []*wire{bo, cy, now} {
							if d := cmp.Diff([]string{"bo ", "ana laptop", "cy "}, w.members("R")); d != "" {
								t.Errorf("%s sees members (-want +got):\n%s", w.name, d)
							}
						}
						now.ask(protocol.MethodLeaveRoom, joinR, nil)
						left := params[protocol.MembersChanged](t, bo.take())
						if len(left.MemberList) != 1 || left.MemberList[0].UserName != "laptop" || left.MemberCount != 2 {
							t.Errorf("got %+v, want ana as on the laptop to leave two", left)
						}
						for _, w := range []*wire{bo, cy, old, now, third} {
							w.send(protocol.MethodLogout, "{}")
							w.closed()
						}
					})
				}
			}
		})
	}
}

// A place may go from device to device as often as the user likes. Whoever has
// been in the room all along has heard nothing.
func TestDevices_backAndForth(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), patient...)
	bo := enroll(b, t, "bo")
	devices := make([]*wire, 3)
	for i, g := range []*gateway{a, a, b} {
		devices[i], _ = enrollOn(t, g.URL(), "ana", fmt.Sprint("d", i))
	}
	start := bo.enter("R").Seq
	devices[0].enter("R")
	bo.until("R +ana 2")
	at := 0
	for n := range 30 {
		next := (at + 1 + n%2) % len(devices)
		if seq, want := devices[next].enter("R").Seq, start+int64(n)+2; seq != want {
			t.Errorf("move %d has seq %d, want %d", n, seq, want)
		}
		devices[at].hears("R disconnected kickedOutByOtherDevice")
		at = next
	}
	for _, w := range devices {
		w.settled()
	}
	bo.hears()
	if d := cmp.Diff([]string{"bo ", fmt.Sprint("ana d", at)}, bo.members("R")); d != "" {
		t.Errorf("members (-want +got):\n%s", d)
	}
	bo.say("R", "over")
	devices[at].hears("R bo: over")
}

// Devices of one user are in rooms of their own: each hears of its own, and
// what one of them leaves, by whatever way, is its own.
func TestDevices_apart(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr(), patient...)
	bo := enroll(b, t, "bo")
	var devices []*wire
	rooms := []string{"A", "B", "C"}
	for i, g := range []*gateway{a, a, b} {
		w, _ := enrollOn(t, g.URL(), "ana", "")
		devices = append(devices, w)
		bo.enter(rooms[i])
		w.enter(rooms[i])
		bo.hears(rooms[i] + " +ana 2")
	}
	for i, w := range devices {
		for j, room := range rooms {
			w.send(protocol.MethodQueryRoomOnlineMemberCount, fmt.Sprintf(`{"roomID":%q}`, room))
			if _, r := w.response(); (r.Error == nil) != (i == j) {
				t.Errorf("device %d asks about %s: %v", i, room, r.Error)
			}
		}
		bo.say(rooms[i], "here")
		w.hears(rooms[i] + " bo: here")
	}
	devices[0].ask(protocol.MethodLeaveAllRoom, "{}", nil)
	devices[0].hears("A disconnected success")
	bo.hears("A -ana 1")
	devices[1].send(protocol.MethodLogout, "{}")
	devices[1].lastHears(protocol.CloseNormal, "B disconnected success", "connection disconnected success", "ok")
	bo.hears("B -ana 1")
	devices[2].say("C", "still here")
	bo.hears("C ana: still here")
	if s := storedOf(t, rdb, "ana"); len(s.sessions) != 2 || len(s.rooms) != 1 || s.rooms["C"] == "" {
		t.Errorf("got %v, want two sessions and C", s)
	}
	devices[0].enter("A")
	bo.hears("A +ana 2")
}

// surplus are flags of gateways where a user may have few devices, and nobody
// is evicted while the test looks.
func surplus(devices int) []string {
	return append([]string{fmt.Sprintf("--max-devices=%d", devices), "--heartbeat-interval=20s"}, patient...)
}

// Of too many devices the one that goes is told, and its rooms are left: first
// what is parked, the oldest first; then the earliest login. Whoever has come
// back has not logged in later for it.
func TestDevices_surplus(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr(), surplus(3)...)

	t.Run("the earliest login", func(t *testing.T) {
		t.Parallel()
		bo := enroll(b, t, "bo")
		bo.enter("R")
		bo.enter("S")
		first, session := enrollOn(t, a.URL(), "ana", "phone")
		first.enter("R")
		first.enter("S")
		bo.hears("R +ana 2", "S +ana 2")
		second, _ := enrollOn(t, b.URL(), "ana", "")
		second.enter("Q")
		third, _ := enrollOn(t, a.URL(), "ana", "")
		hang(t, rdb, first, session)
		first = connect(t, b.URL())
		first.login(fmt.Sprintf(`{"userID":"ana","resume":{"sessionID":%q}}`, session))
		back := []string{brief(first.take()), brief(first.take())}
		slices.Sort(back)
		if d := cmp.Diff([]string{"R connected success", "S connected success"}, back); d != "" {
			t.Errorf("first, back (-want +got):\n%s", d)
		}
		fourth, _ := enrollOn(t, a.URL(), "ana", "")
		var got []string
		for range 2 {
			got = append(got, brief(first.take()))
		}
		slices.Sort(got)
		if d := cmp.Diff([]string{"R disconnected kickedOut", "S disconnected kickedOut"}, got); d != "" {
			t.Errorf("first (-want +got):\n%s", d)
		}
		first.sentAway()
		heard := []string{brief(bo.take()), brief(bo.take())}
		slices.Sort(heard)
		if d := cmp.Diff([]string{"R -ana 1", "S -ana 1"}, heard); d != "" {
			t.Errorf("bo (-want +got):\n%s", d)
		}
		for _, w := range []*wire{second, third, fourth, bo} {
			w.settled()
		}
		enrollOn(t, b.URL(), "ana", "")
		second.sentAway("Q disconnected kickedOut")
		third.settled()
	})

	t.Run("parked first", func(t *testing.T) {
		t.Parallel()
		cy := enroll(b, t, "cy")
		var devices []*wire
		var sessions []string
		for i, g := range []*gateway{a, b, a} {
			w, session := enrollOn(t, g.URL(), "dee", fmt.Sprint("d", i))
			room := fmt.Sprint("P", i)
			cy.enter(room)
			w.enter(room)
			cy.hears(room + " +dee 2")
			devices, sessions = append(devices, w), append(sessions, session)
		}
		hang(t, rdb, devices[2], sessions[2])
		during(t, rdb, time.Second)
		devices[1].settled() // it was alive after the other, by more than a call to Redis takes
		hang(t, rdb, devices[1], sessions[1])
		var later []*wire
		for _, gone := range []string{"P2 -dee 1", "P1 -dee 1", "P0 -dee 1"} {
			cy.settled()
			w, _ := enrollOn(t, a.URL(), "dee", "")
			later = append(later, w)
			cy.hears(gone)
		}
		devices[0].sentAway("P0 disconnected kickedOut")
		// Who comes back too late hears why, and is a device like any other.
		back, resumed := resume(t, b, "dee", sessions[1], `{"roomID":"P1","epoch":1,"seq":1}`)
		if resumed {
			t.Error("the session goes on")
		}
		back.hears("P1 disconnected kickedOut")
		later[0].sentAway()
		later[1].settled()
		later[2].settled()
	})

	t.Run("the same device is none too many", func(t *testing.T) {
		t.Parallel()
		var devices []*wire
		for i := range 3 {
			w, _ := enrollOn(t, []*gateway{a, b}[i%2].URL(), "eve", fmt.Sprint("d", i))
			devices = append(devices, w)
		}
		again, _ := enrollOn(t, a.URL(), "eve", "d1")
		devices[1].lastHears(protocol.CloseTakenOver)
		for _, w := range []*wire{devices[0], devices[2], again} {
			w.settled()
		}
		// Of another user it is another device.
		fay, _ := enrollOn(t, a.URL(), "fay", "d1")
		fay.settled()
		again.settled()
	})

	t.Run("only the newest", func(t *testing.T) {
		t.Parallel()
		a, b := startPair(t, server.Addr(), append(surplus(1), "--redis-prefix=newest")...)
		bo := enroll(b, t, "bo")
		bo.enter("R")
		last, _ := enrollOn(t, a.URL(), "ana", "")
		last.enter("R")
		bo.hears("R +ana 2")
		for i := range 6 {
			next, _ := enrollOn(t, []*gateway{a, b}[i%2].URL(), "ana", fmt.Sprint("d", i))
			last.sentAway("R disconnected kickedOut")
			bo.hears("R -ana 1")
			next.enter("R")
			bo.hears("R +ana 2")
			last = next
		}
		again, _ := enrollOn(t, a.URL(), "ana", "d5")
		last.lastHears(protocol.CloseTakenOver)
		bo.settled()
		again.enter("R")
		bo.settled()
	})

	t.Run("ten by default", func(t *testing.T) {
		t.Parallel()
		g := startGateway(t, server.Addr(), "--redis-prefix=ten")
		var devices []*wire
		for range 10 {
			w, _ := enrollOn(t, g.URL(), "ana", "")
			devices = append(devices, w)
		}
		for _, w := range devices {
			w.settled()
		}
		enrollOn(t, g.URL(), "ana", "")
		devices[0].sentAway()
		devices[1].settled()
	})
}

// A device that logs in anew replaces its session, whatever that is doing: its
// socket is closed, the places stay, and who enters them is not seen to come.
// Those that are not entered are given up at the session's deadline.
func TestDevices_replaced(t *testing.T) {
	t.Parallel()
	const (
		ttl      = 6 * time.Second // time enough to look before the deadline
		rounding = 5 * time.Millisecond
	)
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr(), fmt.Sprintf("--session-ttl=%v", ttl))
	for _, parked := range []bool{false, true} {
		for _, to := range []*gateway{a, b} {
			t.Run(fmt.Sprintf("parked %t, same gateway %t", parked, to == a), func(t *testing.T) {
				t.Parallel()
				tag := fmt.Sprintf("%t%t", parked, to == a)
				user, in, out := "ana-"+tag, "in-"+tag, "out-"+tag
				bo := enroll(b, t, "bo-"+tag)
				bo.enter(in)
				bo.enter(out)
				book := follow(t, rdb, out)
				old, session := enrollOn(t, a.URL(), user, "phone")
				other, _ := enrollOn(t, b.URL(), user, "laptop")
				none, _ := enrollOn(t, b.URL(), user, "")
				known := old.enter(in).Position
				old.enter(out)
				bo.until(out + " +" + user + " 2")
				before := redisTime(t, rdb)
				old.settled()
				if parked {
					hang(t, rdb, old, session)
				}
				now, _ := enrollOn(t, to.URL(), user, "phone")
				after := redisTime(t, rdb)
				if !parked {
					old.lastHears(protocol.CloseTakenOver)
				}
				other.settled()
				none.settled()
				bo.settled()
				if s := storedOf(t, rdb, user); len(s.sessions) != 3 || s.rooms[in] != session || s.rooms[out] != session {
					t.Errorf("got %v, want three sessions, and both places held for %s", s, session)
				}
				if got := now.enter(in); got.MemberCount != 2 || got.Seq != known.Seq+1 {
					t.Errorf("got %+v, want the place after %+v", got, known)
				}
				bo.settled()
				now.say(in, "here")
				bo.hears(in + " " + user + ": here")

				// What the replaced client is told if it asks all the same. It asks
				// without its deviceID, or it would replace its successor in turn.
				back, resumed := resume(t, a, user, session, at(in, known)+","+at(out, known))
				if resumed {
					t.Error("the replaced session goes on")
				}
				back.hears(in+" disconnected kickedOutByOtherDevice", out+" disconnected networkDisconnected")
				bo.settled()

				evicted := book.eviction(user)
				early, late := time.Duration(evicted-before)*time.Millisecond, time.Duration(evicted-after)*time.Millisecond
				if early < ttl-rounding || late > ttl+lateness {
					t.Errorf("the place not taken was given up after %v to %v, want %v to %v", late, early, ttl, ttl+lateness)
				}
				bo.hears(out + " -" + user + " 1")
				now.say(in, "still here")
				bo.hears(in + " " + user + ": still here")
				back, _ = resume(t, b, user, session, at(in, known)+","+at(out, known))
				back.hears(in+" disconnected kickedOutByOtherDevice", out+" disconnected connectTimeout")
			})
		}
	}
}

// Nothing of a replaced session is left in Redis once its time is over, even
// if its room has ended before.
func TestDevices_replaced_leavesNothing(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	g := startGateway(t, server.Addr(), "--session-ttl=6s")
	old, _ := enrollOn(t, g.URL(), "ana", "phone")
	old.enter("R")
	now, _ := enrollOn(t, g.URL(), "ana", "phone")
	old.wantClosed(protocol.CloseTakenOver)
	destroy(t, g, "R")
	if s := storedOf(t, rdb, "ana"); !slices.Contains(s.named, "R") {
		t.Fatalf("got %v, want that R is still named: else this shows nothing", s)
	}
	now.send(protocol.MethodLogout, "{}")
	now.closed()
	eventually(t, "nothing to be left of the user", func() bool { return rdb.Exists(t.Context(), userKey(rdb, "ana")).Val() == 0 })
}

// A device whose session is over is told so by the answer to whatever it asks,
// also if the order to close its socket was lost, and is not asked to come back:
// then it would send away the device that has taken its turn.
func TestDevices_orderLost(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	link := linkTo(t, server)
	a, b := startGateway(t, link.Addr(), surplus(2)...), startGateway(t, server.Addr(), surplus(2)...)
	link.Messages(func(channel, payload string) faultproxy.Fate {
		if (strings.Contains(channel, ":node:") || strings.Contains(channel, ":orders:")) && strings.HasPrefix(payload, "45") {
			return nil
		}
		return faultproxy.Pass
	})
	for _, method := range []string{"enterRoom", "leaveRoom", "leaveAllRoom", "logout", "sendRoomMessage", "switchRoom", ""} {
		for _, code := range []protocol.CloseCode{protocol.CloseKickedByLogin, protocol.CloseTakenOver} {
			if code == protocol.CloseKickedByLogin && (method == "leaveRoom" || method == "sendRoomMessage") {
				continue // not in the room any more, and that is the answer
			}
			name := fmt.Sprintf("%s %d", method, code)
			t.Run(name, func(t *testing.T) {
				if method != "" {
					t.Parallel()
				}
				user, room := fmt.Sprint("ana-", method, code), fmt.Sprint("R-", method, code)
				first, _ := enrollOn(t, a.URL(), user, "phone")
				first.enter(room)
				if code == protocol.CloseKickedByLogin {
					enrollOn(t, b.URL(), user, "")
					enrollOn(t, b.URL(), user, "")
					first.hears(room + " disconnected kickedOut") // this was not lost
				} else {
					enrollOn(t, b.URL(), user, "phone")
				}
				first.settled()
				if method == "" {
					link.Cut() // the gateway looks what it has missed
				} else {
					first.send(method, renamed([]string{requests[method]}, `"R"`, `"`+room+`"`)[0])
				}
				var last []string
				for frame, ok := first.next(); ok; frame, ok = first.next() {
					last = append(last, brief(frame))
				}
				first.wantClosed(code)
				told := len(last) > 0 && last[len(last)-1] == "connection disconnected kickedOut"
				if told != (code == protocol.CloseKickedByLogin) {
					t.Errorf("got %q at last", last)
				}
			})
		}
	}
}

// Of many devices that log in at once, some of which enter a room without
// waiting, as many stay as are allowed. Each of the others is told to go, and its room is
// left. There are never too many.
func TestDevices_loginsAtOnce(t *testing.T) {
	t.Parallel()
	const most, logins = 4, 45
	server, rdb := anyRedis(t)
	var gates []*gateway
	for range 3 {
		gates = append(gates, startGateway(t, server.Addr(), surplus(most)...))
	}
	r := rand.New(rand.NewPCG(seedOf(t), 0))
	for round := range 6 {
		user := fmt.Sprint("ana", round)
		devices := make([]*wire, logins)
		for i := range devices {
			devices[i] = connect(t, gates[i%len(gates)].URL())
			devices[i].name = fmt.Sprint(user, " ", i)
		}
		named := func(i int) bool { return i%5 >= 3 } // two of five share a device
		asks := make([]bool, logins)
		watched := watchSessions(t, rdb, user)
		held := r.IntN(2) == 0
		if held {
			server.Pause()
		}
		for _, i := range r.Perm(logins) {
			id := ""
			if named(i) {
				id = fmt.Sprint("d", i/5)
			}
			devices[i].send(protocol.MethodLogin, deviceLogin(user, id))
			if asks[i] = r.IntN(2) == 0; asks[i] {
				devices[i].send(protocol.MethodEnterRoom, fmt.Sprintf(`{"roomInfo":{"roomID":"R%d"}}`, r.IntN(5)))
			}
		}
		if held {
			server.Resume()
		}

		sessions := make([]string, logins)
		heard := make([][]string, logins)
		for i, w := range devices {
			// Who has to go before the answer to the login gets none.
			for frame, ok := w.next(); ok; frame, ok = w.next() {
				if answer := answerOf(t, frame); string(answer.ID) == "1" {
					var login protocol.LoginResult
					if err := json.Unmarshal(answer.Result, &login); err != nil {
						t.Fatalf("%s: %s: %v", w.name, frame, err)
					}
					sessions[i] = login.SessionID
					break
				}
				heard[i] = append(heard[i], brief(frame))
			}
		}
		if n := watched(); n > most {
			t.Errorf("round %d: there were %d sessions at once, want at most %d", round, n, most)
		}
		left := storedOf(t, rdb, user)
		if len(left.sessions) != most {
			t.Errorf("round %d: %d sessions are left, want %d", round, len(left.sessions), most)
		}
		for i, w := range devices {
			if _, stays := left.sessions[sessions[i]]; stays {
				if asks[i] {
					heard[i] = append(heard[i], w.until("ok")...)
				}
				continue
			}
			for frame, ok := w.next(); ok; frame, ok = w.next() {
				heard[i] = append(heard[i], brief(frame))
			}
			code, reason := w.closed()
			last := ""
			if n := len(heard[i]); n > 0 {
				last = heard[i][n-1]
			}
			kicked := code == int(protocol.CloseKickedByLogin) && last == "connection disconnected kickedOut"
			replaced := code == int(protocol.CloseTakenOver) && named(i) && !slices.Contains(heard[i], "connection disconnected kickedOut")
			if !kicked && !replaced {
				t.Errorf("%s: heard %q, closed with %d %q", w.name, heard[i], code, reason)
			}
		}
		// Who stays is where it last was told to be, and nobody else is anywhere
		// but in places kept for devices that have logged in anew.
		eventually(t, "all who stay to know where they are", func() bool {
			rooms := storedOf(t, rdb, user).rooms
			for i, w := range devices {
				if _, stays := left.sessions[sessions[i]]; !stays {
					continue
				}
				for _, frame := range w.news() {
					heard[i] = append(heard[i], brief(frame))
				}
				for _, room := range []string{"R0", "R1", "R2", "R3", "R4"} {
					in := false
					for _, h := range heard[i] {
						if strings.HasPrefix(h, room+" ") {
							in = h == room+" connected success"
						}
					}
					if in != (rooms[room] == sessions[i]) {
						return false
					}
				}
			}
			return true
		})
	}
}

// watchSessions looks how many sessions a user has, again and again, until it
// is asked for the most there were.
func watchSessions(t testing.TB, rdb redis.UniversalClient, user string) (most func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	found := make(chan int, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			fields, err := rdb.HKeys(ctx, userKey(rdb, user)).Result()
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			n = max(n, len(slices.DeleteFunc(fields, func(f string) bool { return !strings.HasPrefix(f, "s:") })))
		}
		found <- n
	}()
	most = sync.OnceValue(func() int { cancel(); return <-found })
	t.Cleanup(func() { most() })
	return most
}

// Of devices that enter one room at once one is in it in the end. The others
// have been told that they are not any more; everybody else has seen the user
// come once, or not at all if they were in.
func TestDevices_enterAtOnce(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	var gates []*gateway
	for range 3 {
		// With R and F ana is in as many rooms as she may.
		gates = append(gates, startGateway(t, server.Addr(), append(slices.Clone(patient), "--max-rooms-per-user=2", "--max-members=2")...))
	}
	r := rand.New(rand.NewPCG(seedOf(t), 0))
	bo := enroll(gates[0], t, "bo")
	bo.enter("R")
	devices, sessions := make([]*wire, 6), make([]string, 6)
	for i := range devices {
		devices[i], sessions[i] = enrollOn(t, gates[i%3].URL(), "ana", fmt.Sprint("d", i))
	}
	for round := range 30 {
		var seen []string
		at := -1
		if r.IntN(2) == 0 {
			at = r.IntN(len(devices))
			devices[at].enter("R")
			bo.hears("R +ana 2")
		} else {
			seen = append(seen, "R +ana 2")
		}
		racers := r.Perm(len(devices))[:2+r.IntN(len(devices)-1)]
		racers = slices.DeleteFunc(racers, func(i int) bool { return i == at })
		want := make([][]string, len(devices))
		switcher := -1
		if r.IntN(2) == 0 {
			switcher = racers[0]
			devices[switcher].enter("F")
		}
		held := r.IntN(2) == 0
		if held {
			server.Pause()
		}
		for _, i := range racers {
			switch {
			case i == switcher:
				devices[i].send(protocol.MethodSwitchRoom, []string{fromF, mayMake}[r.IntN(2)])
				want[i] = []string{"R connecting activeSwitch", "R connected success", "F disconnected success", "ok"}
				continue
			case r.IntN(2) == 0:
				devices[i].send(protocol.MethodEnterRoom, enterR)
			default:
				devices[i].send(protocol.MethodJoinRoom, joinR)
			}
			want[i] = []string{"R connecting activeEnter", "R connected success", "ok"}
		}
		if held {
			server.Resume()
		}
		got := make([][]string, len(devices))
		for _, i := range racers {
			got[i] = devices[i].until("ok")
		}
		winner := slices.Index(sessions, storedOf(t, rdb, "ana").rooms["R"])
		for i, w := range devices {
			if i != winner && (i == at || want[i] != nil) {
				want[i] = append(want[i], "R disconnected kickedOutByOtherDevice")
				got[i] = append(got[i], brief(w.take()))
			}
			w.settled()
			if d := cmp.Diff(want[i], got[i]); d != "" {
				t.Errorf("round %d, device %d of %v, the winner is %d (-want +got):\n%s", round, i, racers, winner, d)
			}
		}
		devices[winner].say("R", "here")
		bo.hears(append(seen, "R ana: here")...)
		if d := cmp.Diff([]string{"bo ", fmt.Sprint("ana d", winner)}, bo.members("R")); d != "" {
			t.Errorf("round %d: members (-want +got):\n%s", round, d)
		}
		devices[winner].ask(protocol.MethodLeaveRoom, joinR, nil)
		devices[winner].hears("R disconnected success")
		bo.hears("R -ana 1")
		if t.Failed() {
			return
		}
	}
}

// A device that logs out while another takes its place takes nothing from it,
// and hears the end of the room either way.
func TestDevices_logoutRace(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	link := linkTo(t, server)
	a, b := startGateway(t, link.Addr(), patient...), startGateway(t, server.Addr(), patient...)
	r := rand.New(rand.NewPCG(seedOf(t), 0))
	bo := enroll(b, t, "bo")
	bo.enter("R")
	now, session := enrollOn(t, b.URL(), "ana", "")
	outcomes := map[string]int{}
	for round := range 30 {
		old, _ := enrollOn(t, a.URL(), "ana", "")
		old.enter("R")
		bo.hears("R +ana 2")
		var fate faultproxy.Fate
		switch r.IntN(3) {
		case 0:
			fate = faultproxy.Pass
		case 1:
			fate = faultproxy.Fate{20 * time.Millisecond}
		}
		link.Messages(func(channel, payload string) faultproxy.Fate {
			if e, err := roomstore.DecodeEvent(payload); err == nil && e.Kind == roomstore.KindMoved {
				return fate
			}
			return faultproxy.Pass
		})
		send := []func(){
			func() { old.send(protocol.MethodLogout, "{}") },
			func() { now.send(protocol.MethodEnterRoom, enterR) },
		}
		held := r.IntN(3)
		if held > 0 {
			server.Pause()
		}
		for _, i := range r.Perm(len(send)) {
			send[i]()
		}
		if held > 0 {
			server.Resume()
		}
		var heard []string
		for frame, ok := old.next(); ok; frame, ok = old.next() {
			heard = append(heard, brief(frame))
		}
		old.wantClosed(protocol.CloseNormal)
		got := now.until("ok")
		if d := cmp.Diff([]string{"R connecting activeEnter", "R connected success", "ok"}, got); d != "" {
			t.Errorf("round %d: the new device (-want +got):\n%s", round, d)
		}
		now.say("R", "here")
		others := strings.Join(bo.until("R ana: here"), ", ")
		outcomes[others]++
		end := []string{"connection disconnected success", "ok"}
		left := slices.Equal(heard, append([]string{"R disconnected success"}, end...))
		moved := slices.Equal(heard, append([]string{"R disconnected kickedOutByOtherDevice"}, end...))
		switch others {
		case "R -ana 1, R +ana 2, R ana: here":
			if !left {
				t.Errorf("round %d: left, and heard %q", round, heard)
			}
		case "R ana: here":
			if !left && !moved {
				t.Errorf("round %d: was moved, and heard %q", round, heard)
			}
		default:
			t.Errorf("round %d: others heard %q", round, others)
		}
		if s := storedOf(t, rdb, "ana"); len(s.sessions) != 1 || s.rooms["R"] != session || len(s.rooms) != 1 {
			t.Errorf("round %d: got %+v, want the new device in R", round, s)
		}
		now.ask(protocol.MethodLeaveRoom, joinR, nil)
		now.hears("R disconnected success")
		bo.hears("R -ana 1")
	}
	t.Logf("outcomes: %v", outcomes)
}

// news gives what a client has heard since it was last asked.
func (w *wire) news() (frames []string) {
	w.t.Helper()
	id := fmt.Sprint(w.send(protocol.MethodPing, "{}"))
	for {
		frame := w.take()
		if string(answerOf(w.t, frame).ID) == id {
			return frames
		}
		frames = append(frames, frame)
	}
}
