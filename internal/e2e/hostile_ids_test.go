//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
)

// Rooms and users whose IDs look like keys, like parts of keys or like each other
// are each their own: no member, message, attribute or end of one is another's.
func TestHostile_ids(t *testing.T) {
	t.Parallel()
	rooms := []string{
		"a", "A", "a:members", "a:info", "a:log", "a:attrs", "a:left", "room:a", "members:a", "ch:a", "log:a:log",
		"{", "}", "{}", "}{", "{0}", "{1}", "{u0}", "{0}:room:a", "rg:{0}:room:a", "rg:{0}:members:a", "rg:nodes", "s:a", "r:a",
		" ", "  ", "a ", " a", "~", "%", "%41", "%2541", ".", "..", "?", "#", "a?b=c", "a#b", "a&b", "a+b", "a;b", "[1]", "-1", "0",
		times("x", 127), times("x", 128), times("}", 128), times(" ", 127), times(" ", 128), idBytes,
	}
	users := []string{"a", "r:a", "}"}
	for _, partitions := range partitionings() {
		t.Run(fmt.Sprintf("%d partitions", partitions), func(t *testing.T) {
			t.Parallel()
			server, rdb := anyRedis(t)
			a, b := startPair(t, server.Addr(),
				append(unhurried, fmt.Sprintf("--partitions=%d", partitions), "--rate-limits=false", "--max-rooms-per-user=500")...)
			g := &ground{T: t, a: a, b: b, rdb: rdb, partitions: partitions}
			cast := []*wire{enroll(a, t, users[0]), enroll(b, t, users[1]), enroll(b, t, users[2])}
			// in says whether a user is in a room: the first is in all of them.
			in := func(user, room int) bool { return user == 0 || room&user != 0 }
			heard := make([]map[string][]string, len(cast)) // by room
			expected := make([]map[string][]string, len(cast))
			for u := range cast {
				heard[u], expected[u] = map[string][]string{}, map[string][]string{}
			}
			expect := func(room int, event string, without int) {
				for u := range cast {
					if in(u, room) && u != without {
						expected[u][rooms[room]] = append(expected[u][rooms[room]], rooms[room]+" "+event)
					}
				}
			}
			hear := func(u int, line string) {
				for room, list := range expected[u] {
					if slices.Contains(list, line) {
						heard[u][room] = append(heard[u][room], line)
						return
					}
				}
				heard[u]["?"] = append(heard[u]["?"], line)
			}
			count := func(lines map[string][]string) (n int) {
				for _, list := range lines {
					n += len(list)
				}
				return n
			}
			// compare makes sure that all have heard what they should, and no more.
			compare := func(what string) {
				t.Helper()
				for u, w := range cast {
					for count(heard[u]) < count(expected[u]) {
						hear(u, brief(w.take()))
					}
					if d := cmp.Diff(expected[u], heard[u]); d != "" {
						t.Fatalf("%s: user %q heard something else (-want +got):\n%s", what, users[u], d)
					}
					w.settled()
					clear(expected[u])
					clear(heard[u])
				}
			}

			for i, room := range rooms {
				for u, w := range cast {
					if !in(u, i) {
						continue
					}
					var r protocol.Room
					w.ask(protocol.MethodEnterRoom, fmt.Sprintf(`{"roomInfo":{"roomID":%s,"roomName":%s},"config":{"roomAttributes":{"of":%s}}}`,
						quoted(room), quoted("name "+fmt.Sprint(i)), quoted(room)), &r)
					if r.RoomInfo.BaseInfo.RoomName != fmt.Sprint("name ", i) || r.Created != (u == 0) {
						t.Errorf("%q: entered %+v as %q", room, r, users[u])
					}
					connecting, connected := room+" connecting activeEnter", room+" connected success"
					attributes := room + ` attributes [{"action":"set","roomAttributes":` + quoted(map[string]string{"of": room}) + `}]`
					var told []string
					for _, line := range w.until(connected) {
						if line == connecting || line == attributes || line == connected {
							told = append(told, line)
						} else {
							hear(u, line) // of a room entered before
						}
					}
					if want := []string{connecting, attributes, connected}; !slices.Equal(told, want) {
						t.Errorf("%q: got %q, want %q", room, told, want)
					}
					for other := range u {
						if in(other, i) {
							expected[other][room] = append(expected[other][room], fmt.Sprintf("%s +%s %d", room, users[u], r.MemberCount))
						}
					}
				}
			}
			compare("entries")

			for i, room := range rooms {
				for u, w := range cast {
					if in(u, i) {
						w.say(room, "in "+room)
						expect(i, users[u]+": in "+room, u)
						w.ask(protocol.MethodSendRoomMessage, fmt.Sprintf(`{"roomID":%s,"message":{"type":20,"message":%s}}`, quoted(room), quoted("!"+room)), nil)
						expect(i, users[u]+": !"+room, u)
					}
				}
			}
			compare("messages")
			for i, room := range rooms {
				for u, w := range cast {
					if !in(u, i) {
						w.send(protocol.MethodSendRoomMessage, textMessage(room, "from outside"))
						w.refused(protocol.CodeNotInRoom)
					}
				}
			}
			compare("messages from outside")

			members := func(room int) (want []string) {
				for u := range cast {
					if in(u, room) {
						want = append(want, users[u])
					}
				}
				return want
			}
			checkMembers := func(room int) {
				t.Helper()
				var list protocol.MemberListResult
				cast[0].ask(protocol.MethodQueryRoomMemberList, fmt.Sprintf(`{"roomID":%s,"config":{"count":100}}`, quoted(rooms[room])), &list)
				var got []string
				for _, m := range list.MemberList {
					got = append(got, params[protocol.UserInfo](t, `{"params":`+string(m)+`}`).UserID)
				}
				if want := members(room); !slices.Equal(got, want) {
					t.Errorf("%q: got the members %q, want %q", rooms[room], got, want)
				}
			}
			for i := range rooms {
				checkMembers(i)
			}

			// A backend ends every other room, and kicks from those that stay.
			do := func(method, room, rest, body string) {
				t.Helper()
				if status, answer := gatetest.Request(method, "http://"+b.Addr+"/v1/rooms/"+url.PathEscape(room)+rest, "dev", body); status != http.StatusOK {
					t.Errorf("%s %q%s: got %d %s", method, room, rest, status, answer)
				}
			}
			for i, room := range rooms {
				if i%4 < 2 {
					do(http.MethodDelete, room, "", "")
					expect(i, "disconnected roomNotExist", -1)
					continue
				}
				do(http.MethodPost, room, "/kick", `{"userID":"}","reason":`+quoted(room)+`}`)
				for u := range cast {
					line := fmt.Sprintf("%s -} %d", room, len(members(i))-1)
					if u == 2 {
						line = room + ` disconnected kickedOut {"room_id":` + unescaped(room) + `,"reason":` + unescaped(room) + `,"message":""}`
					}
					if in(u, i) {
						expected[u][room] = append(expected[u][room], line)
					}
				}
			}
			compare("what a backend did")
			in = func(user, room int) bool { return room%4 >= 2 && user != 2 && (user == 0 || room&user != 0) }
			for i := range rooms {
				if i%4 >= 2 {
					checkMembers(i)
				} else if got := g.stored("room", rooms[i]) + g.stored("members", rooms[i]) + g.stored("attrs", rooms[i]) + g.stored("log", rooms[i]); got != "" {
					t.Errorf("%q has ended, and Redis still has %q", rooms[i], got)
				}
			}
			for _, w := range cast {
				w.send(protocol.MethodLogout, "{}")
				w.wantClosed(protocol.CloseNormal)
			}
			for key := range g.contents() {
				for _, kind := range []string{"room", "members", "info", "log", "attrs", "user", "node", "nodesessions", "parked", "due", "rooms"} {
					if _, rest, _ := strings.Cut(key, "}:"); rest == kind || strings.HasPrefix(rest, kind+":") {
						t.Errorf("all have gone, and Redis still has %q", key)
					}
				}
			}
		})
	}
}

// unescaped is a text as JSON that keeps <, > and &.
func unescaped(s string) string {
	return strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(quoted(s))
}

// The server API refuses bad paths and bodies with the code and a sentence, at
// once, and nothing comes of them.
func TestHostile_serverAPI(t *testing.T) {
	onHostileGround(t, func(g *ground) {
		long := func(n int) string { return "DELETE /v1/rooms/" + times("x", n) }
		kick := func(body string) (line, sent string) { return "POST /v1/rooms/R/kick", body }
		type call struct {
			line, body string
			status     int
			code       protocol.Code // 0: the answer is net/http's own
			words      []string
		}
		calls := []call{
			{"DELETE /v1/rooms/a%2Fb", "", 400, 6000001, []string{"roomID", `"/"`, "position 2"}},
			{"DELETE /v1/rooms/%00", "", 400, 6000001, []string{"roomID", `"\x00"`}},
			{"DELETE /v1/rooms/R%00", "", 400, 6000001, []string{"roomID", `"\x00"`, "position 2"}},
			{"DELETE /v1/rooms/R%0d%0aX:%20y", "", 400, 6000001, []string{`"\r"`}},
			{"DELETE /v1/rooms/%ff", "", 400, 6000001, []string{"UTF-8"}},
			{"DELETE /v1/rooms/%C3%A9", "", 400, 6000001, []string{`"\xc3"`}},
			{"DELETE /v1/rooms/%22", "", 400, 6000001, []string{`"\""`}},
			{long(129), "", 400, 6000001, []string{"129 bytes", "1 to 128"}},
			{long(10_000), "", 400, 6000001, []string{"10000 bytes", "1 to 128"}},
			{long(40_000), "", 431, 0, nil},
			{"DELETE /v1/rooms/R%2541", "", 404, 6000322, []string{"no such room"}}, // R%41, not RA, nor R
			{"DELETE /v1/rooms/nobody?/R", "", 400, 6000001, []string{"unknown parameter"}},
			{"DELETE /v1/rooms/", "", 404, -32601, nil},
			{"DELETE /v1/rooms", "", 405, -32601, []string{"DELETE"}},
			{"DELETE /v1/rooms/R/", "", 404, -32601, []string{"escaped"}},
			{"DELETE /v1/rooms/x/../R", "", 404, -32601, []string{"escaped"}},
			{"DELETE /v1/rooms/%", "", 400, 0, nil},
			{"DELETE /v1/rooms/R R", "", 400, 0, nil},
			{"PATCH /v1/rooms/R", "", 405, -32601, []string{"PATCH"}},
			{"GET /v1/rooms/R/kick", "", 405, -32601, []string{"GET"}},
			{"GET /v1/rooms?search=a/b", "", 400, 6000001, []string{"search", `"/"`, "position 2"}},
			{"GET /v1/rooms?search=%00", "", 400, 6000001, []string{"search", `"\x00"`}},
			{"GET /v1/rooms?search=a&nextFlag=b", "", 400, 6000001, []string{"nextFlag", `"b"`}},
			{"GET /v1/rooms?nextFlag=%2F", "", 400, 6000001, []string{"nextFlag", `"/"`}},
			{"GET /v1/rooms?count=1e2", "", 400, 6000001, []string{"count", `"1e2"`, "1 to 100"}},
			{"GET /v1/rooms?count=1;search=a", "", 400, 6000001, []string{"query"}},
			{"GET /v1/rooms/a%2Fb", "", 400, 6000001, []string{"roomID", `"/"`}},
			{"GET /v1/rooms/nobody", "", 404, 6000322, []string{"no such room"}},
			{"GET /v1/rooms/nobody/members", "", 404, 6000322, []string{"no such room"}},
			{"GET /v1/rooms/nobody/events", "", 404, 6000322, []string{"no such room"}},
			{"GET /v1/rooms/a%2Fb/events", "", 400, 6000001, []string{"roomID", `"/"`}},
			{"GET /v1/rooms/R/events?from=1000000", "", 400, 6000001, []string{"from 1000000", "will be"}},
			{"GET /v1/rooms/R/members?nextFlag=1:1", "", 400, 6000001, []string{"nextFlag", `"1:1"`}},
			{"GET /v1/rooms/R/members?nextFlag=" + times("9", 60), "", 400, 6000001, []string{"nextFlag", "999"}},
			{"POST /v1/rooms", `{"roomID":"a/b"}`, 400, 6000001, []string{"roomID", `"/"`}},
			{"POST /v1/rooms", `{"roomID":"R"}`, 409, 6000323, []string{"exists"}},
			{"POST /v1/rooms", `{"roomID":"new","roomName":"` + times("x", 65) + `"}`, 400, 6000001, []string{"roomName", "65 bytes", "64"}},
			{"POST /v1/rooms", `{"roomID":"new","roomDestroyDelayTime":10801}`, 400, 6000001, []string{"roomDestroyDelayTime", "10801", "10800"}},
			{"POST /v1/rooms", `{"roomID":"new","roomDestroyDelayTime":-1}`, 400, 6000001, []string{"roomDestroyDelayTime", "-1", "10800"}},
			{"POST /v1/rooms", `{"roomID":"new","roomDestroyDelayTime":1e99}`, 400, 6000001, []string{"roomDestroyDelayTime", "1e99", "whole number"}},
			{"POST /v1/rooms", `{"roomID":"new","creatorUserID":"a/b"}`, 400, 6000001, []string{"creatorUserID", `"/"`}},
			{"POST /v1/rooms", `{"roomID":"new","roomAttributes":{"` + times("k", 17) + `":"v"}}`, 400, 6000335, []string{"17 bytes", "1 to 16"}},
			{"POST /v1/rooms", `{"roomID":"new","roomAttributes":{"k":"` + times("v", 1025) + `"}}`, 400, 6000336, []string{"1025 bytes", "1024"}},
			{"POST /v1/rooms/R/messages", `{"senderUserID":"a/b","type":1,"message":"x"}`, 400, 6000001, []string{"senderUserID", `"/"`}},
			{"POST /v1/rooms/R/messages", `{"senderUserID":"s","type":3,"message":"x"}`, 400, 6000001, []string{"type 3", "200 (custom)"}},
			{"POST /v1/rooms/R/messages", `{"senderUserID":"s","type":1,"message":""}`, 400, 6000001, []string{"message is empty"}},
			{"POST /v1/rooms/R/messages", `{"senderUserID":"s","type":1,"message":"` + times("x", 2049) + `"}`, 400, 6000001, []string{"2049 bytes", "2048"}},
			{"POST /v1/rooms/R/messages", `{"senderUserID":"s","type":2,"message":"?"}`, 400, 6000001, []string{"base64"}},
			{"POST /v1/rooms/R/messages", `{"senderUserID":"s","type":1,"message":"x","priority":4}`, 400, 6000001, []string{"priority 4", "3 (high)"}},
			{"POST /v1/rooms/R/messages", `{"senderUserID":"s","type":1,"message":"x","subType":201}`, 400, 6000001, []string{"subType 201", "200"}},
			{"POST /v1/rooms/nobody/messages", `{"senderUserID":"s","type":1,"message":"x"}`, 404, 6000204, []string{"no such room"}},
			{"GET /v1/cluster?x=1", "", 400, 6000001, []string{`"x"`}},
			{"POST /v1/cluster", "", 405, -32601, []string{"POST"}},
			{times("X", 5000) + " /v1/rooms/R", "", 405, 0, nil},
			{"POST /v1/rooms//kick", `{"userID":"ana"}`, 400, 6000001, []string{"roomID", "empty"}},
			{"POST /v1/rooms/a%2Fb/kick", `{"userID":"ana"}`, 400, 6000001, []string{"roomID", `"/"`}},
			{"POST /v1/rooms/R/mute", `{"userID":"ana"}`, 404, -32601, nil},
		}
		for body, words := range map[string][]string{
			"": {"empty"}, " \n": {"empty"}, "null": {"null", "object"}, "[]": {"array", "object"}, "7": {"number", "object"}, "{": {"not valid JSON"},
			"\xff": {"UTF-8"}, "{}": {"userID is required"}, `{"userID":null}`: {"userID is required"}, `{"userID":7}`: {"userID", "a number"},
			`{"userID":["ana"]}`: {"userID", "an array"}, `{"userid":"ana"}`: {`"userid"`}, `{"userID":"bo","userID":"ana"}`: {"userID comes twice"},
			`{"userID":"ana","why":"x"}`: {`"why"`}, `{"userID":"ana"}{}`: {"not valid JSON"}, times("[", 4096): {"not valid JSON"},
			`{"userID":"a/b"}`: {"userID", `"/"`}, `{"userID":"` + times("x", 33) + `"}`: {"userID", "33 bytes", "1 to 32"},
			`{"userID":"ana","reason":"` + times("x", 257) + `"}`:   {"reason", "257 bytes", "256"},
			`{"userID":"ana","message":"` + times("x", 1025) + `"}`: {"message", "1025 bytes", "1024"},
			`{"userID":"ana","reason":7}`:                           {"reason", "a number"}, `{"` + times("y", 4000) + `":1}`: {"yyyy"},
		} {
			line, body := kick(body)
			calls = append(calls, call{line, body, 400, 6000001, words})
		}
		line, big := kick(`{"userID":"ana"}` + times(" ", 65536))
		calls = append(calls, call{line, big, 413, 6000001, []string{"65536"}})
		send := func(line, headers, body string) (*http.Response, string) {
			g.Helper()
			return exchange(g, g.b.Addr, line+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer dev\r\n"+headers+"\r\n"+body)
		}
		check := func(c call, res *http.Response, body string) {
			g.Helper()
			what := fmt.Sprintf("%.100s %.100q", c.line, c.body)
			if res == nil || res.StatusCode != c.status {
				g.Errorf("%s: got %v %s, want %d", what, res, body, c.status)
				return
			}
			if c.code != 0 {
				if !strings.HasPrefix(body, "{") {
					g.Errorf("%s: got %q, want JSON", what, body)
					return
				}
				e := params[struct{ Error *protocol.Error }](g, `{"params":`+body+`}`).Error
				if e == nil || e.Code != c.code {
					g.Errorf("%s: got %s, want %d", what, body, c.code)
					return
				}
				readable(g, what, e.Message, c.words...)
			}
			g.unchanged(what)
		}
		for _, c := range calls {
			res, body := send(c.line, fmt.Sprintf("Content-Length: %d\r\n", len(c.body)), c.body)
			check(c, res, body)
		}
		// Nobody waits for a body that is too big anyway, or sends it first.
		tooBig := call{line, "", 413, 6000001, []string{"65536"}}
		began := time.Now()
		for _, headers := range []string{"Content-Length: 1000000000\r\n", "Content-Length: 1000000000\r\nExpect: 100-continue\r\n"} {
			res, body := send(line, headers, `{"userID":`)
			check(tooBig, res, body)
		}
		res, body := send(line, "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n", 80000, times(" ", 80000)))
		check(tooBig, res, body)
		if took := time.Since(began); took > 8*time.Second {
			g.Errorf("three bodies that never come were waited for, %v", took)
		}
		g.quiet()

		// What is at the limit is served.
		kicked := fmt.Sprintf(`{"userID":"ana","reason":%s,"message":%s}`, quoted(times("\x00", 256)), quoted(times("é", 512)))
		if status, answer := gatetest.Request(http.MethodPost, "http://"+g.b.Addr+"/v1/rooms/R/kick", "dev", kicked); status != http.StatusOK {
			g.Fatalf("got %d %s", status, answer)
		}
		state := params[protocol.RoomStateChanged](g, g.ana.take())
		if got := params[map[string]string](g, `{"params":`+state.ExtendedData+`}`); got["room_id"] != "R" ||
			got["reason"] != times("\x00", 256) || got["message"] != times("é", 512) {
			g.Errorf("got %+v", state)
		}
		g.bo.hears("R -ana 1")
	})
}
