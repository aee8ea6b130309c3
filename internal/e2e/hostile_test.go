//go:build linux

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// idBytes are the bytes that an ID may have.
const idBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&()+-:;<=.>?@[]^_{}|~, "

// ground is what bad input falls on: ana, who sends it, and bo on the other
// gateway, both in room R.
type ground struct {
	*testing.T
	a, b       *gateway
	rdb        redis.UniversalClient
	partitions int
	ana, bo    *wire
	keys       map[string]string // what Redis held when it was last looked at
}

// unhurried are flags of gateways that lose nobody to a busy machine.
var unhurried = []string{"--redis-timeout=8s", "--lease-ttl=30s", "--session-ttl=60s", "--log-ttl=5m"}

// onHostileGround runs a test with one partition and with many.
func onHostileGround(t *testing.T, test func(g *ground)) {
	t.Parallel()
	for _, partitions := range partitionings() {
		t.Run(fmt.Sprintf("%d partitions", partitions), func(t *testing.T) {
			t.Parallel()
			server, rdb := anyRedis(t)
			a, b := startPair(t, server.Addr(),
				append(unhurried, fmt.Sprintf("--partitions=%d", partitions), "--rate-limits=false", "--history-query", "--max-rooms-per-user=500")...)
			g := &ground{T: t, a: a, b: b, rdb: rdb, partitions: partitions, ana: enroll(a, t, "ana"), bo: enroll(b, t, "bo")}
			g.ana.enter("R")
			g.bo.enter("R")
			g.ana.until("R +bo 2")
			g.changed()
			test(g)
		})
	}
}

// readAll reads everything in Redis but what moves by itself: the leases of the
// nodes, what those say of themselves, and the clock.
const readAll = `
local out = {}
for _, k in ipairs(redis.call("KEYS", "*")) do
  if k ~= "rg:nodes" and k ~= "rg:{0}:nodes" and not k:find("^rg:{u?%d+}:clock$") and not k:find("^rg:{0}:gateway:") then
    local kind, lines = redis.call("TYPE", k).ok, {}
    if kind == "hash" then
      local all = redis.call("HGETALL", k)
      for i = 1, #all, 2 do
        lines[#lines + 1] = all[i] .. " = " .. all[i + 1]
      end
      table.sort(lines)
    elseif kind == "set" then
      lines = redis.call("SMEMBERS", k)
      table.sort(lines)
    elseif kind == "zset" then
      lines = redis.call("ZRANGE", k, 0, -1, "WITHSCORES")
    elseif kind == "list" then
      lines = redis.call("LRANGE", k, 0, -1)
    else
      lines = { kind, redis.call("GET", k) }
    end
    out[#out + 1] = k
    out[#out + 1] = table.concat(lines, "\n")
  end
end
return out`

// contents gives all keys with what they hold, but for the fences that an entry leaves on
// a Cluster where it is refused: they are for such as come later.
func (g *ground) contents() map[string]string {
	g.Helper()
	var one sync.Mutex
	keys := map[string]string{}
	err := eachMaster(g.Context(), g.rdb, func(ctx context.Context, master *redis.Client) error {
		list, err := master.Eval(ctx, readAll, nil).StringSlice()
		one.Lock()
		defer one.Unlock()
		for pair := range slices.Chunk(list, 2) {
			key, value := pair[0], pair[1]
			if strings.Contains(key, "}:gone:") {
				lines := slices.DeleteFunc(strings.Split(value, "\n"), func(line string) bool { return strings.HasPrefix(line, "\x00") })
				if value = strings.Join(lines, "\n"); value == "" {
					continue
				}
			}
			keys[key] = value
		}
		return err
	})
	if err != nil {
		g.Fatal(err)
	}
	return keys
}

// changed notes that Redis holds something else, and rightly so.
func (g *ground) changed() {
	g.Helper()
	g.keys = g.contents()
}

// unchanged makes sure that Redis holds what it held, to the byte.
func (g *ground) unchanged(after string) {
	g.Helper()
	before := g.keys
	g.changed()
	if d := cmp.Diff(before, g.keys); d != "" {
		g.Errorf("%.200s: changed Redis (-before +after):\n%s", after, d)
	}
}

// stored gives what Redis holds of a room under a kind of key.
func (g *ground) stored(kind, room string) string {
	g.Helper()
	all := g.contents()
	for p := range g.partitions {
		if v, ok := all[fmt.Sprintf("rg:{%d}:%s:%s", p, kind, room)]; ok {
			return v
		}
	}
	return ""
}

// refuses sends a request, which has to be answered by this error, change
// nothing and be heard by nobody. The sentence has each of the words.
func (g *ground) refuses(w *wire, method, params string, code protocol.Code, words ...string) {
	g.Helper()
	g.refusesText(w, fmt.Sprintf(`{"jsonrpc":"2.0","id":"x","method":%q,"params":%s}`, method, params), `"x"`, code, words...)
}

// refusesText is refuses for any text; id is that of the answer.
func (g *ground) refusesText(w *wire, text, id string, code protocol.Code, words ...string) {
	g.Helper()
	w.raw(text)
	events, r := w.response()
	for _, e := range events {
		g.Errorf("%.300s: heard %s", text, brief(e))
	}
	if r.Error == nil || r.Error.Code != code || string(r.ID) != id {
		g.Errorf("%.300s: got %s %+v to %s, want error %d to %s", text, r.Result, r.Error, r.ID, code, id)
		g.changed()
		return
	}
	readable(g, text, r.Error.Message, words...)
	g.unchanged(text)
}

// readable makes sure that what an error says is a line of text, not a long one,
// and has the words.
func readable(t testing.TB, text, says string, words ...string) {
	t.Helper()
	if len(says) < 10 || len(says) > 1000 || !utf8.ValidString(says) || strings.ContainsFunc(says, unicode.IsControl) {
		t.Errorf("%.300s: got the sentence %q of %d bytes", text, says, len(says))
	}
	for _, word := range words {
		if !strings.Contains(says, word) {
			t.Errorf("%.300s: got %q, want %q in it", text, says, word)
		}
	}
}

// quiet makes sure that nobody has heard anything, up to what ana says now.
func (g *ground) quiet() {
	g.Helper()
	g.ana.settled()
	g.ana.say("R", "a word")
	g.bo.hears("R ana: a word")
	g.changed()
}

// quoted is a value as JSON.
func quoted(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// times is a text of n times the same.
func times(s string, n int) string { return strings.Repeat(s, n) }

// specimens are requests with every parameter there is, in an order in which all
// of them succeed for somebody who is in R while F is there.
var specimens = []struct {
	method, params string
	required       []string
}{
	{"createRoom", `{"roomInfo":{"roomID":"N","roomName":"n"},"config":{"roomAttributes":{"k":"v"},"roomDestroyDelayTime":0},"requestKey":1}`,
		[]string{"roomInfo", "roomInfo.roomID"}},
	{"leaveRoom", `{"roomID":"N","requestKey":2}`, []string{"roomID"}},
	{"enterRoom", `{"roomInfo":{"roomID":"N","roomName":"n"},"config":{"roomAttributes":{"k":"v"},"roomDestroyDelayTime":0},"requestKey":3}`,
		[]string{"roomInfo", "roomInfo.roomID"}},
	{"switchRoom", `{"fromRoomID":"N","toRoomInfo":{"roomID":"M","roomName":"m"},"isCreateWhenRoomNotExisted":true,` +
		`"config":{"roomAttributes":{"k":"v"},"roomDestroyDelayTime":0},"requestKey":4}`,
		[]string{"fromRoomID", "toRoomInfo", "toRoomInfo.roomID"}},
	{"joinRoom", `{"roomID":"F","requestKey":5}`, []string{"roomID"}},
	{"sendRoomMessage", `{"roomID":"R","message":{"type":1,"message":"hi","subType":2,"extendedData":"x"},"config":{"priority":2},"requestKey":6}`,
		[]string{"roomID", "message", "message.type", "message.message"}},
	{"queryRoomMemberList", `{"roomID":"R","config":{"count":10,"nextFlag":""}}`, []string{"roomID", "config", "config.count"}},
	{"queryRoomMembers", `{"userIDs":["ana","bo"],"roomID":"R"}`, []string{"userIDs", "roomID"}},
	{"queryRoomOnlineMemberCount", `{"roomID":"R","requestKey":7}`, []string{"roomID"}},
	{"queryRoomAllAttributes", `{"roomID":"R","requestKey":7}`, []string{"roomID"}},
	{"queryRoomHistory", `{"roomID":"R","config":{"count":10,"beforeSeq":7}}`, []string{"roomID", "config", "config.count"}},
	{"setRoomAttributes", `{"roomID":"R","roomAttributes":{"k":"v"},"config":{"isForce":true,"isUpdateOwner":true,"isDeleteAfterOwnerLeft":true},"requestKey":9}`,
		[]string{"roomID", "roomAttributes"}},
	{"batchRoomAttributes", `{"roomID":"R","operations":[{"action":"set","roomAttributes":{"k":"v"}},{"action":"delete","keys":["l"]}],` +
		`"config":{"isForce":true,"isUpdateOwner":true,"isDeleteAfterOwnerLeft":true},"requestKey":10}`,
		[]string{"roomID", "operations", "operations[0].action", "operations[1].action"}},
	{"deleteRoomAttributes", `{"roomID":"R","keys":["k"],"config":{"isForce":true,"isUpdateOwner":true,"isDeleteAfterOwnerLeft":true},"requestKey":11}`,
		[]string{"roomID", "keys"}},
	{"setRoomMembersAttributes", `{"roomID":"R","userIDs":["ana"],"attributes":{"k":"v"},"config":{"isDeleteAfterOwnerLeft":true},"requestKey":12}`,
		[]string{"roomID", "userIDs", "attributes"}},
	{"queryRoomMembersAttributes", `{"roomID":"R","userIDs":["ana"]}`, []string{"roomID", "userIDs"}},
	{"queryRoomMemberAttributesList", `{"roomID":"R","config":{"count":10,"nextFlag":""}}`, []string{"roomID", "config", "config.count"}},
	{"leaveAllRoom", `{"requestKey":8}`, nil},
	{"renewToken", `{"token":"t"}`, []string{"token"}},
	{"ping", `{}`, nil},
	{"logout", `{}`, nil},
}

const loginSpecimen = `{"userID":"u","userName":"n","userAvatarUrl":"a","userExtendedData":"e","token":"t","deviceID":"d","platform":"p",` +
	`"sdkVersion":"2.13.0","resume":{"sessionID":"s","rooms":[{"roomID":"R","epoch":1,"seq":2,"membersSeq":3}]}}`

var loginRequired = []string{"userID", "resume.sessionID", "resume.rooms[0].roomID"}

// A mishap is what has become of a specimen, and what is to be said of it.
type mishap struct {
	params string
	words  []string
}

// instead are values of each type but null.
var instead = map[string]any{"a string": "7", "a number": 7, "a boolean": true, "an array": []any{}, "an object": map[string]any{}}

// mishaps gives a specimen with each parameter missing, null, of each type that
// is not its own, under a name in another case, and there twice.
func mishaps(t testing.TB, params string, required []string) (list []mishap) {
	t.Helper()
	var tree any
	if err := json.Unmarshal([]byte(params), &tree); err != nil {
		t.Fatalf("%s: %v", params, err)
	}
	// visit sees to the value at a path; with gives the whole with another value
	// in its place.
	var visit func(path string, value any, with func(any) string)
	visit = func(path string, value any, with func(any) string) {
		name, own := path, ""
		if name == "" {
			name = "params"
		}
		for kind, v := range instead {
			if fmt.Sprintf("%T", v) == fmt.Sprintf("%T", value) || kind == "a number" && fmt.Sprintf("%T", value) == "float64" {
				own = kind
			}
		}
		for kind, v := range instead {
			if kind != own {
				list = append(list, mishap{with(v), []string{name + " must be " + own + ", not " + kind}})
			}
		}
		if slices.Contains(required, path) || strings.HasSuffix(path, "]") { // or it is in a list or table
			list = append(list, mishap{with(nil), []string{name + " must be " + own + ", not null"}})
		}
		switch value := value.(type) {
		case []any:
			for i, v := range value {
				visit(fmt.Sprintf("%s[%d]", path, i), v, func(v any) string {
					other := slices.Clone(value)
					other[i] = v
					return with(other)
				})
			}
		case map[string]any:
			table := strings.HasSuffix(strings.ToLower(path), "attributes")
			inside := func(k string) string {
				if table {
					return fmt.Sprintf("%s[%q]", path, k)
				}
				return strings.TrimPrefix(path+"."+k, ".")
			}
			for k, v := range value {
				other := maps.Clone(value)
				other["twice"] = v
				text := strings.Replace(with(other), `"twice":`, fmt.Sprintf("%q:", k), 1)
				list = append(list, mishap{text, []string{inside(k) + " comes twice"}})
				if !table {
					other = maps.Clone(value)
					delete(other, k)
					if slices.Contains(required, inside(k)) {
						list = append(list, mishap{with(other), []string{inside(k) + " is missing"}})
					}
					loud := strings.ToUpper(k)
					other[loud] = v
					list = append(list, mishap{with(other), []string{inside(loud) + " must be spelled " + k}})
				}
				visit(inside(k), v, func(v any) string {
					other := maps.Clone(value)
					other[k] = v
					return with(other)
				})
			}
		}
	}
	visit("", tree, quoted)
	return list
}

// Each parameter of each method that is missing, null or of another type, is
// spelled in another case or comes twice, is refused by −32602 with its path.
// Redis and the others notice nothing. What is unknown is ignored.
func TestHostile_params(t *testing.T) {
	onHostileGround(t, func(g *ground) {
		n := 0
		missing := maps.Clone(requests)
		for _, s := range specimens {
			delete(missing, s.method)
			for _, m := range mishaps(g, s.params, s.required) {
				g.refuses(g.ana, s.method, m.params, protocol.CodeInvalidParams, m.words...)
				n++
			}
		}
		var w *wire
		for i, m := range mishaps(g, loginSpecimen, loginRequired) {
			if i%2 == 0 { // the third refusal would be the last
				w = connect(g, g.a.URL())
			}
			g.refuses(w, protocol.MethodLogin, m.params, protocol.CodeInvalidParams, m.words...)
			n++
		}
		g.Logf("%d requests were refused", n)
		if len(missing) > 0 {
			g.Errorf("there is no specimen of %v", slices.Sorted(maps.Keys(missing)))
		}
		g.quiet()

		// The specimens are good, whatever else is in them.
		g.bo.enter("F")
		for _, s := range specimens {
			var params map[string]any
			if err := json.Unmarshal([]byte(s.params), &params); err != nil {
				g.Fatal(err)
			}
			for _, in := range []any{params["roomInfo"], params["config"], params["message"], params} {
				if in, ok := in.(map[string]any); ok {
					in["new"], in[""], in["\x00"] = []any{map[string]any{"roomID": 7}}, nil, "unknown"
				}
			}
			g.ana.send(s.method, quoted(params))
			if _, r := g.ana.response(); r.Error != nil {
				g.Errorf("%s %s: got %+v", s.method, quoted(params), r.Error)
			}
		}
		// A null for what may be absent is as good as nothing.
		w = connect(g, g.a.URL())
		w.login(`{"userID":"u","userName":null,"userAvatarUrl":null,"userExtendedData":null,"token":null,"deviceID":null,"platform":null,"sdkVersion":null,"resume":null}`)
		w.ask(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"N","roomName":null},"config":{"roomAttributes":null,"roomDestroyDelayTime":null},"requestKey":null}`, nil)
		w.ask(protocol.MethodSendRoomMessage, `{"roomID":"N","message":{"type":1,"message":"x","subType":null,"extendedData":null},"config":{"priority":null},"requestKey":null}`, nil)
		w.ask(protocol.MethodQueryRoomMemberList, `{"roomID":"N","config":{"count":1,"nextFlag":null}}`, nil)
		w.ask(protocol.MethodLeaveAllRoom, `{"requestKey":null}`, nil)
		w.ask(protocol.MethodPing, `null`, nil)
	})
}

// creates has ana create a room, with a delay as it is written: Redis has the
// room as it was asked for, bo finds it so from the other gateway, and what is
// said there is heard. When both have left, a room without a delay is gone.
func (g *ground) creates(room, name, delay string, seconds int, attributes map[string]string) {
	g.Helper()
	call := fmt.Sprintf(`{"roomInfo":{"roomID":%s,"roomName":%s},"config":{"roomAttributes":%s,"roomDestroyDelayTime":%s},"requestKey":%d}`,
		quoted(room), quoted(name), quoted(attributes), delay, g.ana.id+1)
	// told reads what w is told up to (connected, success).
	told := func(w *wire) {
		g.Helper()
		got := map[string]string{}
		for {
			frame := w.take()
			if strings.Contains(frame, `"method":"roomAttributesUpdated"`) {
				got = params[protocol.AttributesUpdated](g, frame).Infos[0].RoomAttributes
				continue
			}
			s := params[protocol.RoomStateChanged](g, frame)
			if s.RoomID != room {
				g.Errorf("%q: got %s", room, frame)
			}
			if s.State == protocol.RoomConnected {
				break
			}
		}
		if d := cmp.Diff(attributes, got); d != "" && len(attributes)+len(got) > 0 {
			g.Errorf("%q: %s was told other attributes (-want +got):\n%s", room, w.name, d)
		}
	}
	var r protocol.Room
	g.ana.ask(protocol.MethodCreateRoom, call, &r)
	told(g.ana)
	want := protocol.RoomBaseInfo{RoomID: room, RoomName: name}
	for range 2 { // the repeat is the first outcome, whatever bytes are in the name
		if r.RoomInfo.BaseInfo != want || !r.Created || r.MemberCount != 1 {
			g.Errorf("got %+v, want %+v created", r, want)
		}
		g.ana.ask(protocol.MethodCreateRoom, call, &r)
		g.ana.until(room + " connected success")
	}
	hash := g.stored("room", room)
	if !strings.Contains(hash, fmt.Sprintf("delay = %d\n", seconds)) || !strings.Contains(hash, "\nname = "+name+"\n") {
		g.Errorf("%q: Redis has %q, want the delay %d and the name %q", room, hash, seconds, name)
	}
	var stored []string
	for k, v := range attributes {
		stored = append(stored, k+" = ana\x000\x00"+v)
	}
	slices.Sort(stored)
	if got := g.stored("attrs", room); got != strings.Join(stored, "\n") {
		g.Errorf("%q: Redis has the attributes %q, want %q", room, got, stored)
	}
	g.bo.ask(protocol.MethodJoinRoom, fmt.Sprintf(`{"roomID":%s}`, quoted(room)), &r)
	told(g.bo)
	if r.RoomInfo.BaseInfo != want || r.MemberCount != 2 {
		g.Errorf("bo got %+v, want %+v", r, want)
	}
	g.ana.until(room + " +bo 2")
	g.ana.say(room, "hello")
	g.bo.hears(room + " ana: hello")
	g.ana.ask(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%s}`, quoted(room)), nil)
	g.ana.hears(room + " disconnected success")
	g.bo.hears(room + " -ana 1")
	g.bo.ask(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%s}`, quoted(room)), nil)
	g.bo.hears(room + " disconnected success")
	if got := g.stored("room", room); (got == "") != (seconds == 0) {
		g.Errorf("%q: empty, with a delay of %d, Redis has %q", room, seconds, got)
	}
}

// Rooms can be called and be like anything that the limits allow, to the last
// byte, and like nothing beyond.
func TestHostile_rooms(t *testing.T) {
	onHostileGround(t, func(g *ground) {
		// Every byte that an ID may not have, and every method that takes one.
		type badID struct {
			id    string // as JSON
			words []string
		}
		ids := []badID{
			{`""`, []string{"0 bytes", "1 to 128"}},
			{quoted(times("x", 129)), []string{"129 bytes", "1 to 128"}},
			{quoted(times("x", 60_000)), []string{"60000 bytes", "1 to 128"}},
			{quoted("é"), []string{`"\xc3"`, "position 1"}},
			{`"\ud800"`, []string{`"\xef"`, "position 1"}},
			{quoted("R\x00"), []string{`"\x00"`, "position 2"}},
		}
		everywhere := len(ids)
		for _, s := range []string{"R\u200b", "Ｒ", "R\U0001f600", "R\u202e", "\ufeffR", "R\u0085"} {
			ids = append(ids, badID{quoted(s), []string{"the byte", "position"}})
		}
		for b := range 128 {
			if c := string(rune(b)); !strings.Contains(idBytes, c) {
				ids = append(ids, badID{quoted("R" + c), []string{fmt.Sprintf("the byte %q at position 2", c)}})
			}
		}
		takes := map[string]string{
			"createRoom": `{"roomInfo":{"roomID":%s}}`, "enterRoom": `{"roomInfo":{"roomID":%s}}`, "joinRoom": `{"roomID":%s}`,
			"leaveRoom": `{"roomID":%s}`, "sendRoomMessage": `{"roomID":%s,"message":{"type":1,"message":"x"}}`,
			"queryRoomMemberList": `{"roomID":%s,"config":{"count":1}}`, "queryRoomMembers": `{"roomID":%s,"userIDs":["ana"]}`,
			"queryRoomOnlineMemberCount": `{"roomID":%s}`, "queryRoomAllAttributes": `{"roomID":%s}`,
			"queryRoomHistory":  `{"roomID":%s,"config":{"count":1}}`,
			"setRoomAttributes": `{"roomID":%s,"roomAttributes":{"k":"v"}}`, "deleteRoomAttributes": `{"roomID":%s,"keys":["k"]}`,
			"batchRoomAttributes":           `{"roomID":%s,"operations":[{"action":"delete","keys":["k"]}]}`,
			"setRoomMembersAttributes":      `{"roomID":%s,"userIDs":["ana"],"attributes":{"k":"v"}}`,
			"queryRoomMembersAttributes":    `{"roomID":%s,"userIDs":["ana"]}`,
			"queryRoomMemberAttributesList": `{"roomID":%s,"config":{"count":1}}`,
			"switchRoom":                    `{"fromRoomID":"R","toRoomInfo":{"roomID":%s},"isCreateWhenRoomNotExisted":true}`,
		}
		for i, bad := range ids {
			for method, params := range takes {
				if i < everywhere || method == "enterRoom" {
					g.refuses(g.ana, method, fmt.Sprintf(params, bad.id), protocol.CodeBadParameter, append(bad.words, "roomID")...)
				}
			}
		}
		g.refuses(g.ana, "switchRoom", `{"fromRoomID":"a/b","toRoomInfo":{"roomID":"S"},"isCreateWhenRoomNotExisted":true}`,
			protocol.CodeBadParameter, "fromRoomID", `"/"`)
		g.refuses(g.ana, "switchRoom", `{"fromRoomID":"R","toRoomInfo":{"roomID":"R"}}`, protocol.CodeBadParameter, "fromRoomID", "toRoomInfo.roomID", `"R"`)

		// n attributes with keys and values of a length.
		sized := func(n, key, value int) map[string]string {
			all := map[string]string{}
			for i := range n {
				k := fmt.Sprint(i)
				all[k+times("k", key-len(k))] = times("v", value)
			}
			return all
		}
		with := func(all map[string]string, k, v string) map[string]string {
			all[k] = v
			return all
		}
		attributes := func(a map[string]string) string { return `{"roomAttributes":` + quoted(a) + `}` }
		for method, params := range map[string]string{
			"createRoom": `{"roomInfo":{"roomID":"N","roomName":%s},"config":%s,"requestKey":%s}`,
			"enterRoom":  `{"roomInfo":{"roomID":"N","roomName":%s},"config":%s,"requestKey":%s}`,
			"switchRoom": `{"fromRoomID":"R","toRoomInfo":{"roomID":"N","roomName":%s},"isCreateWhenRoomNotExisted":true,"config":%s,"requestKey":%s}`,
		} {
			refuses := func(name, config, key string, code protocol.Code, words ...string) {
				g.Helper()
				g.refuses(g.ana, method, fmt.Sprintf(params, name, config, key), code, words...)
			}
			for _, name := range []string{times("x", 65), times("é", 32) + "x", times("\x00", 65)} {
				refuses(quoted(name), `{}`, `1`, protocol.CodeBadParameter, "roomName", "65 bytes", "64")
			}
			for delay, word := range map[string]string{
				"10801": "10801", "-1": "-1", "1.5": "1.5", "-0.5": "-0.5", "10800.001": "10800.001", "1e5": "100000", "1e300": "1e+300",
			} {
				refuses(`""`, `{"roomDestroyDelayTime":`+delay+`}`, `1`, protocol.CodeBadParameter, "roomDestroyDelayTime", word, "0 to 10800")
			}
			refuses(`""`, `{"roomDestroyDelayTime":1e400}`, `1`, protocol.CodeBadParameter, "config.roomDestroyDelayTime", "1e400", "too large")
			refuses(`""`, `{"roomDestroyDelayTime":"5"}`, `1`, protocol.CodeInvalidParams, "config.roomDestroyDelayTime", "a string")
			refuses(`""`, attributes(sized(21, 2, 1)), `1`, protocol.CodeAttributeCount, "21 keys", "20")
			refuses(`""`, attributes(sized(500, 3, 0)), `1`, protocol.CodeAttributeCount, "500 keys", "20")
			refuses(`""`, attributes(sized(1, 17, 1)), `1`, protocol.CodeAttributeKey, "17 bytes", "1 to 16", quoted("0"+times("k", 16)))
			refuses(`""`, attributes(map[string]string{times("é", 8) + "x": ""}), `1`, protocol.CodeAttributeKey, "17 bytes", "1 to 16")
			refuses(`""`, attributes(map[string]string{times("k", 60_000): ""}), `1`, protocol.CodeAttributeKey, "60000 bytes", "1 to 16")
			refuses(`""`, attributes(map[string]string{"": "v"}), `1`, protocol.CodeAttributeKey, "0 bytes", "1 to 16")
			refuses(`""`, attributes(sized(1, 1, 1025)), `1`, protocol.CodeAttributeValue, `"0"`, "1025 bytes", "1024")
			refuses(`""`, attributes(with(sized(5, 1, 1023), "5", "")), `1`, protocol.CodeAttributesSize, "5121 bytes", "5120")
			refuses(`""`, attributes(sized(20, 16, 1000)), `1`, protocol.CodeAttributesSize, "20320 bytes", "5120")
			for _, key := range []string{"-1", "9007199254740992", "1.5", "1e3", "1e400"} {
				refuses(`""`, `{}`, key, protocol.CodeBadParameter, "requestKey", key)
			}
		}
		for _, method := range []string{"joinRoom", "leaveRoom"} {
			g.refuses(g.ana, method, `{"roomID":"R","requestKey":-1}`, protocol.CodeBadParameter, "requestKey", "-1")
		}
		g.refuses(g.ana, "leaveAllRoom", `{"requestKey":-1}`, protocol.CodeBadParameter, "requestKey", "-1")
		g.quiet()

		for i := range len(idBytes) { // half of them here, half with the other number of partitions
			if c := idBytes[i : i+1]; c != "R" && (i%2 == 0) == (g.partitions == 1) {
				g.creates(c, "n", "0", 0, nil)
			}
		}
		for _, id := range []string{idBytes, "..", times("x", 127), times("x", 128), times("}", 128), times(" ", 128), times("%", 128)} {
			g.creates(id, "n", "0", 0, nil)
		}
		for i, name := range []string{
			"", "x", times("x", 64), times("é", 32), times("\U0001f600", 16), times("\x00", 64), "a\x00b\x00c\nd\r\t\x1b[31m\x7f", "\"\\/<>&'\u2028\ufeff", "\ufffd", " ",
		} {
			g.creates(fmt.Sprint("name ", i), name, "0", 0, nil)
		}
		for delay, seconds := range map[string]int{"0": 0, "-0": 0, "0.0": 0, "1": 1, "1e3": 1000, "10799": 10799, "10800": 10800, "1.08e4": 10800, "10800.0": 10800} {
			g.creates("delay "+delay, "n", delay, seconds, nil)
		}
		for i, a := range []map[string]string{
			nil, {}, sized(20, 16, 240), with(sized(5, 1, 1023), "4", times("v", 1023)), sized(1, 16, 1024), {"k": ""}, {times("é", 8): times("é", 512)},
			{"\x00": "\x00", "k": "\x00\n", "\n": "v\x00", "k ": "\u2028<&>\"\\", " k": "\ufffd", "K": "1"},
		} {
			g.creates(fmt.Sprint("attributes ", i), "n", "0", 0, a)
		}
		g.quiet()
	})
}

// says has ana send a message to R: the answer, what bo hears and what Redis
// keeps are one message, the one that was meant.
func (g *ground) says(call string, want protocol.Message) {
	g.Helper()
	before := g.stored("log", "R")
	var sent protocol.SendResult
	g.ana.ask(protocol.MethodSendRoomMessage, call, &sent)
	got := params[protocol.MessageReceived](g, g.bo.take()).MessageList[0]
	if got != sent.Message {
		g.Errorf("bo heard %+.200v, ana sent %+.200v", got, sent.Message)
	}
	want.SenderUserID, want.ConversationID, want.ConversationType = "ana", "R", 1
	want.MessageID, want.MessageSeq, want.OrderKey, want.Timestamp = got.MessageID, got.MessageSeq, got.OrderKey, got.Timestamp
	if d := cmp.Diff(want, got); d != "" {
		g.Errorf("%.200s (-want +got):\n%s", call, d)
	}
	if !want.Type.Kept() {
		if g.stored("log", "R") != before {
			g.Errorf("%.200s: is kept", call)
		}
		return
	}
	for p := range g.partitions {
		last, err := g.rdb.LIndex(g.Context(), fmt.Sprintf("rg:{%d}:log:R", p), -1).Result()
		if err != nil {
			continue
		}
		e, err := roomstore.DecodeEvent(last)
		if err != nil {
			g.Fatal(err)
		}
		var kept protocol.Message
		if err := json.Unmarshal([]byte(e.Data), &kept); err != nil {
			g.Fatal(err)
		}
		if kept.Message != want.Message || kept.ExtendedData != want.ExtendedData || kept.SubType != want.SubType || kept.Priority != want.Priority {
			g.Errorf("%.200s: Redis keeps %+.200v", call, kept)
		}
		return
	}
	g.Errorf("%.200s: is not kept", call)
}

// Messages can be as long and as odd as the limits allow, and not more.
func TestHostile_messages(t *testing.T) {
	onHostileGround(t, func(g *ground) {
		b64 := func(n int) string { return base64.StdEncoding.EncodeToString([]byte(times("\x00", n))) }
		send := func(message, config string) string {
			return fmt.Sprintf(`{"roomID":"R","message":%s,"config":%s,"requestKey":%d}`, message, config, g.ana.id+1)
		}
		message := func(typ int, text, more string) string {
			return fmt.Sprintf(`{"type":%d,"message":%s%s}`, typ, quoted(text), more)
		}
		for _, m := range []struct {
			message, config string
			words           []string
		}{
			{message(1, times("x", 2049), ""), `{}`, []string{"message.message", "2049 bytes", "2048", "type 1"}},
			{message(1, times("é", 1024)+"x", ""), `{}`, []string{"message.message", "2049 bytes", "2048"}},
			{message(200, times("x", 2049), ""), `{}`, []string{"message.message", "2049 bytes", "2048", "type 200"}},
			{message(20, times("x", 5121), ""), `{}`, []string{"message.message", "5121 bytes", "5120", "type 20"}},
			{message(2, b64(5121), ""), `{}`, []string{"message.message", "5121 bytes", "5120", "type 2"}},
			{message(2, b64(40_000), ""), `{}`, []string{"message.message", "40000 bytes", "5120"}},
			{message(1, times("x", 60_000), ""), `{}`, []string{"message.message", "60000 bytes", "2048"}},
			{message(1, "", ""), `{}`, []string{"message.message", "empty"}},
			{message(2, "", ""), `{}`, []string{"message.message", "empty"}},
			{message(20, "", ""), `{}`, []string{"message.message", "empty"}},
			{message(1, "x", `,"extendedData":"`+times("x", 1025)+`"`), `{}`, []string{"message.extendedData", "1025 bytes", "1024"}},
			{message(2, "AA==", `,"extendedData":"`+times("é", 512)+`x"`), `{}`, []string{"message.extendedData", "1025 bytes", "1024"}},
			{message(1, "x", `,"subType":-1`), `{}`, []string{"message.subType", "-1", "0 and 200"}},
			{message(1, "x", `,"subType":201`), `{}`, []string{"message.subType", "201", "0 and 200"}},
			{message(1, "x", `,"subType":0.5`), `{}`, []string{"message.subType", "0.5", "whole number"}},
			{message(1, "x", `,"subType":1e400`), `{}`, []string{"message.subType", "1e400", "whole number"}},
			{message(1, "x", ""), `{"priority":4}`, []string{"config.priority", "4", "1 (low)", "3 (high)"}},
			{message(1, "x", ""), `{"priority":-1}`, []string{"config.priority", "-1", "3 (high)"}},
			{message(1, "x", ""), `{"priority":1.5}`, []string{"config.priority", "1.5", "whole number"}},
			{message(1, "x", ""), `{"priority":1e0}`, []string{"config.priority", "1e0", "without fraction and exponent"}},
		} {
			g.refuses(g.ana, "sendRoomMessage", send(m.message, m.config), protocol.CodeBadParameter, m.words...)
		}
		for _, typ := range []int{0, 3, -1, 19, 21, 199, 201, 999, math.MaxInt32, 1<<53 - 1} {
			g.refuses(g.ana, "sendRoomMessage", send(message(typ, "x", ""), `{}`), protocol.CodeBadParameter, "message.type", fmt.Sprint(typ), "200 (custom)")
		}
		for _, text := range []string{"A", "AA=", "A===", "AAAA=", "AAAA====", "=AAA", "AA==AA==", "!!!!", "AA A", "AAA\n", "-_-_", "ÄÄÄÄ", "AAAA\x00"} {
			g.refuses(g.ana, "sendRoomMessage", send(message(2, text, ""), `{}`), protocol.CodeBadParameter, "message.message", "base64")
		}
		for _, key := range []string{"-1", "9007199254740992", "0.1", "1e1"} {
			g.refuses(g.ana, "sendRoomMessage", `{"roomID":"R","message":{"type":1,"message":"x"},"requestKey":`+key+`}`, protocol.CodeBadParameter, "requestKey", key)
		}
		g.quiet()

		text := func(s string) protocol.Message {
			return protocol.Message{Type: protocol.MessageText, Message: s, Priority: 1}
		}
		for _, s := range []string{
			"x", times("x", 2047), times("x", 2048), times("é", 1024), times("\U0001f600", 512), times("\x00", 2048), times(`"`, 2048), times("\u2028", 682),
			"</script><!--&amp;", "\x1b[2J\r\n\t\x7f\ufeff\ufffd\u202e",
		} {
			g.says(send(message(1, s, ""), `{}`), text(s))
		}
		g.says(send(`{"type":1,"message":"\ud800 \ud83d\ude00"}`, `{}`), text("\ufffd \U0001f600")) // half a pair is no character
		g.says(send(message(200, times("x", 2048), ""), `{}`), protocol.Message{Type: 200, Message: times("x", 2048), Priority: 1})
		g.says(send(message(20, times("x", 5120), ""), `{}`), protocol.Message{Type: 20, Message: times("x", 5120), Priority: 1})
		for _, s := range []string{"AA==", "AAA=", "AAAA", "AA", "+/+/", b64(5119), b64(5120)} {
			g.says(send(message(2, s, ""), `{"priority":3}`), protocol.Message{Type: 2, Message: s, Priority: 3})
		}
		for _, e := range []string{"", times("x", 1024), times("\x00", 1024), times("é", 512)} {
			m := text("x")
			m.ExtendedData = e
			g.says(send(message(1, "x", `,"extendedData":`+quoted(e)), `{"priority":1}`), m)
		}
		for _, n := range []int{0, 1, 199, 200} {
			m := text("x")
			m.SubType = n
			g.says(send(message(1, "x", fmt.Sprintf(`,"subType":%d`, n)), `{"priority":0}`), m)
		}
		g.bo.settled()

		// The highest key is one; 0 is none.
		for _, key := range []string{"0", "9007199254740991"} {
			params := `{"roomID":"R","message":{"type":1,"message":"k"},"requestKey":` + key + `}`
			var first, second protocol.SendResult
			g.ana.ask(protocol.MethodSendRoomMessage, params, &first)
			g.ana.ask(protocol.MethodSendRoomMessage, params, &second)
			if once := first.Message.MessageID == second.Message.MessageID; once != (key != "0") {
				g.Errorf("requestKey %s: that both are one message is %v", key, once)
			}
		}
		g.bo.hears("R ana: k", "R ana: k", "R ana: k")
	})
}

// logsIn has a user log in and enter R: bo is told of the user as it was said,
// and is given the same on asking, and Redis has it.
func (g *ground) logsIn(user, name, avatar, extended, device string) {
	g.Helper()
	w := connect(g, g.a.URL())
	want := protocol.UserInfo{UserID: user, UserName: name, UserAvatarURL: avatar, UserExtendedData: extended}
	r := w.login(fmt.Sprintf(`{"userID":%s,"userName":%s,"userAvatarUrl":%s,"userExtendedData":%s,"deviceID":%s,"platform":"\u0000","sdkVersion":%s}`,
		quoted(user), quoted(name), quoted(avatar), quoted(extended), quoted(device), quoted(times("9", 30_000))))
	all, sessions := g.contents(), ""
	for p := range g.partitions {
		sessions += all[fmt.Sprintf("rg:{u%d}:user:%s", p, user)]
	}
	if !strings.Contains(sessions, "s:"+r.SessionID+" = ") || !strings.HasSuffix(sessions, "\x00"+device) {
		g.Errorf("%q: Redis has %q, want session %q of the device %q", user, sessions, r.SessionID, device)
	}
	w.enter("R")
	if got := params[protocol.MembersChanged](g, g.bo.take()); len(got.MemberList) != 1 || got.MemberList[0] != want {
		g.Errorf("bo was told of %+.300v, want %+.300v", got, want)
	}
	if info := g.stored("info", "R"); !strings.Contains(info, "\x00"+quoted(want)) {
		g.Errorf("%q: Redis has %.300q", user, info)
	}
	var found protocol.MembersResult
	g.bo.ask(protocol.MethodQueryRoomMembers, fmt.Sprintf(`{"roomID":"R","userIDs":[%s]}`, quoted(user)), &found)
	var u protocol.UserInfo
	if len(found.MemberList) != 1 || json.Unmarshal(found.MemberList[0], &u) != nil || u != want {
		g.Errorf("bo found %.300s, want %+.300v", found.MemberList, want)
	}
	w.send(protocol.MethodLogout, `{}`)
	w.wantClosed(protocol.CloseNormal)
	g.bo.hears(fmt.Sprintf("R -%s 2", user))
}

// Users can be called and say of themselves what the limits allow; a resume
// names what it may.
func TestHostile_logins(t *testing.T) {
	onHostileGround(t, func(g *ground) {
		rooms := func(n int) string {
			var list []string
			for i := range n {
				list = append(list, fmt.Sprintf(`{"roomID":"r%d","epoch":9007199254740991,"seq":0}`, i))
			}
			return "[" + strings.Join(list, ",") + "]"
		}
		resume := func(session, rooms string) string {
			return fmt.Sprintf(`{"userID":"u","resume":{"sessionID":%s,"rooms":%s}}`, session, rooms)
		}
		var w *wire
		for i, l := range []struct {
			params string
			words  []string
		}{
			{`{"userID":""}`, []string{"userID", "0 bytes", "1 to 32"}},
			{`{"userID":"` + times("x", 33) + `"}`, []string{"userID", "33 bytes", "1 to 32"}},
			{`{"userID":"a\u0000"}`, []string{"userID", `"\x00"`, "position 2"}},
			{`{"userID":"a/b"}`, []string{"userID", `"/"`, "position 2"}},
			{`{"userID":"é"}`, []string{"userID", `"\xc3"`}},
			{`{"userID":"u","userName":"` + times("x", 257) + `"}`, []string{"userName", "257 bytes", "256"}},
			{`{"userID":"u","userName":"` + times("é", 128) + `x"}`, []string{"userName", "257 bytes", "256"}},
			{`{"userID":"u","userAvatarUrl":"` + times("x", 1025) + `"}`, []string{"userAvatarUrl", "1025 bytes", "1024"}},
			{`{"userID":"u","userExtendedData":"` + times("x", 1025) + `"}`, []string{"userExtendedData", "1025 bytes", "1024"}},
			{`{"userID":"u","deviceID":"` + times("x", 129) + `"}`, []string{"deviceID", "129 bytes", "0 to 128"}},
			{`{"userID":"u","deviceID":"a\u0000b"}`, []string{"deviceID", `"\x00"`}},
			{resume(`""`, `[]`), []string{"resume", "sessionID", "0 bytes"}},
			{resume(quoted(times("x", 129)), `[]`), []string{"resume", "sessionID", "129 bytes", "1 to 128"}},
			{resume(`"a\u0000b"`, `[]`), []string{"resume", "sessionID", `"\x00"`}},
			{resume(`"s"`, rooms(501)), []string{"resume.rooms", "501", "500"}},
			{resume(`"s"`, `[{"roomID":"R"},{"roomID":"a/b"}]`), []string{"resume.rooms[1]", `"/"`}},
			{resume(`"s"`, `[{"roomID":"R","seq":1},{"roomID":"S"},{"roomID":"R","seq":2}]`), []string{"resume.rooms[2]", `"R"`}},
			{resume(`"s"`, `[{"roomID":"R","epoch":-1}]`), []string{"resume.rooms[0]", "-1"}},
			{resume(`"s"`, `[{"roomID":"R","seq":-2}]`), []string{"resume.rooms[0]", "-2"}},
			{resume(`"s"`, `[{"roomID":"R","membersSeq":-3}]`), []string{"resume.rooms[0]", "-3"}},
			{resume(`"s"`, `[{"roomID":"R","seq":1.5}]`), []string{"resume.rooms[0].seq", "1.5"}},
			{resume(`"s"`, `[{"roomID":"R","epoch":9007199254740992}]`), []string{"resume.rooms[0].epoch", "9007199254740992"}},
		} {
			if i%2 == 0 {
				w = connect(g, g.a.URL())
			}
			g.refuses(w, protocol.MethodLogin, l.params, protocol.CodeBadParameter, l.words...)
		}
		g.quiet()

		for _, user := range []string{
			idBytes[:32], idBytes[32:64], idBytes[64:], "s:x", "r:R", "}", "{u0}", " ", "~", "%s", "..", times("x", 32),
		} {
			g.logsIn(user, "", "", "", "")
		}
		for _, s := range []string{times("x", 256), times("é", 128), times("\x00", 256), times("\U0001f600", 64), "\"\\<&>\u2028\n\x7f"} {
			g.logsIn("u", s, "", "", idBytes)
		}
		for _, s := range []string{times("x", 1024), times("\x00", 1024), times("é", 512), `{"a":"\u0000"}`} {
			g.logsIn("u", "", s, s, times("d", 128))
		}

		w = connect(g, g.a.URL())
		if r := w.login(resume(quoted(times("s", 128)), rooms(500))); r.Resumed {
			g.Errorf("got %+v, want a new session", r)
		}
		for i := range 500 {
			if got, want := brief(w.take()), fmt.Sprintf("r%d disconnected roomNotExist", i); got != want {
				g.Fatalf("got %q, want %q", got, want)
			}
		}
		w.settled()
	})
}

// Queries take the numbers they may, and say which of several IDs is wrong.
func TestHostile_queries(t *testing.T) {
	onHostileGround(t, func(g *ground) {
		page := func(count, flag string) string {
			return fmt.Sprintf(`{"roomID":"R","config":{"count":%s,"nextFlag":%s}}`, count, flag)
		}
		users := func(n int, last string) string {
			return fmt.Sprintf(`{"roomID":"R","userIDs":[%s%s]}`, times(`"ana",`, n-1), last)
		}
		for _, count := range []string{"0", "-1", "101", "2147483648", "9007199254740991"} {
			g.refuses(g.ana, "queryRoomMemberList", page(count, `""`), protocol.CodeBadParameter, "config.count", count, "1 and 100")
		}
		for _, count := range []string{"1.5", "1e1", "10.0", "9007199254740992", times("9", 400)} {
			g.refuses(g.ana, "queryRoomMemberList", page(count, `""`), protocol.CodeBadParameter, "config.count", count[:min(len(count), 100)], "whole number")
		}
		for _, flag := range []string{`" "`, `"x"`, `"-1"`, `"1"`, `"1:1:1"`, `"0x1:1"`, `"\u0000"`, quoted(times("1", 60_000)), `"1:1"`, `"9007199254740993:1"`, `"é"`} {
			g.refuses(g.ana, "queryRoomMemberList", page("1", flag), protocol.CodeBadParameter, "nextFlag")
		}
		g.refuses(g.ana, "queryRoomMembers", `{"roomID":"R","userIDs":[]}`, protocol.CodeBadParameter, "userIDs", "0 users", "1 to 10")
		g.refuses(g.ana, "queryRoomMembers", users(11, `"ana"`), protocol.CodeBadParameter, "userIDs", "11 users", "1 to 10")
		g.refuses(g.ana, "queryRoomMembers", users(5000, `"ana"`), protocol.CodeBadParameter, "userIDs", "5000 users", "1 to 10")
		g.refuses(g.ana, "queryRoomMembers", users(10, quoted(times("x", 33))), protocol.CodeBadParameter, "userIDs[9]", "33 bytes", "1 to 32")
		g.refuses(g.ana, "queryRoomMembers", users(3, `""`), protocol.CodeBadParameter, "userIDs[2]", "0 bytes", "1 to 32")
		g.refuses(g.ana, "queryRoomMembers", users(2, `"a\u0000"`), protocol.CodeBadParameter, "userIDs[1]", `"\x00"`)
		g.quiet()

		for _, count := range []string{"1", "2", "100"} {
			var list protocol.MemberListResult
			g.ana.ask(protocol.MethodQueryRoomMemberList, page(count, `""`), &list)
			if want := 2 - len(list.NextFlag[:min(1, len(list.NextFlag))]); len(list.MemberList) != want || (want == 1) != (count == "1") {
				g.Errorf("count %s: got %d members and the flag %q", count, len(list.MemberList), list.NextFlag)
			}
		}
		var found protocol.MembersResult
		g.ana.ask(protocol.MethodQueryRoomMembers, users(10, quoted(times("x", 32))), &found)
		if len(found.MemberList) == 0 || len(found.ErrorUserList) != 1 {
			g.Errorf("got %d members and %v, want ana, and that the other is not in", len(found.MemberList), found.ErrorUserList)
		}
	})
}
