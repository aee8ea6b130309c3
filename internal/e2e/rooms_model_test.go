//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
)

// Whatever people on three gateways do, one after the other or side by side
// where that makes no difference, everybody hears what the model says, in its
// order and nothing else, and Redis holds what the model holds.
//
// More is tried with -rapid.checks and -rapid.steps.
func TestRooms_model(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	for _, partitions := range partitionings() {
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			t.Parallel()
			all := []*deployment{
				deploy(t, server.Addr(), rdb, partitions, "wide", limits{members: 500, ofUser: 5, devices: 10, keep: partitions == 1}),
				deploy(t, server.Addr(), rdb, partitions, "tiny", limits{rooms: 3, members: 2, ofUser: 2, devices: 2, keep: partitions != 1}),
			}
			rapid.Check(t, func(rt *rapid.T) { begin(t, rt, all[rapid.IntRange(0, 1).Draw(rt, "deployment")]).run() })
			for _, d := range all {
				d.clean(t)
			}
		})
	}
}

// deployment is the gateways of one variant. They last for all runs.
type deployment struct {
	limits
	prefix     string
	partitions int
	gates      []*gateway
	rdb        redis.UniversalClient
	runs       int
	patience   time.Duration // short, once a run has failed
	mishap     func()        // in the middle of a run; nil: none
}

func deploy(t testing.TB, redisAt string, rdb redis.UniversalClient, partitions int, name string, l limits) *deployment {
	d := &deployment{limits: l, prefix: fmt.Sprintf("%s%d", name, partitions), partitions: partitions, rdb: rdb, patience: patience}
	for range 3 {
		d.gates = append(d.gates, startGateway(t, redisAt,
			"--redis-prefix="+d.prefix, fmt.Sprintf("--partitions=%d", partitions), "--rate-limits=false",
			fmt.Sprintf("--max-rooms=%d", l.rooms), fmt.Sprintf("--max-members=%d", l.members),
			fmt.Sprintf("--max-rooms-per-user=%d", l.ofUser), fmt.Sprintf("--max-devices=%d", l.devices),
			fmt.Sprintf("--keep-emptied-data=%t", l.keep),
			// Deadlines of sessions are moved, not waited for.
			"--session-ttl=60s", "--lease-ttl=20s", "--redis-timeout=5s"))
	}
	return d
}

func (d *deployment) nameOf(g *gateway) string {
	return string("abc"[slices.Index(d.gates, g)])
}

// parts lists the prefixes of the keys of all partitions, or of all users'
// slots.
func (d *deployment) parts(users bool) (parts []string) {
	for p := range d.partitions {
		parts = append(parts, fmt.Sprintf("%s:{%s%d}:", d.prefix, map[bool]string{true: "u"}[users], p))
	}
	return parts
}

// holds gives the one of the prefixes under which there is a key, "" for none.
func (d *deployment) holds(t testing.TB, parts []string, rest string) (found string) {
	t.Helper()
	var exists []*redis.IntCmd
	_, err := d.rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for _, part := range parts {
			exists = append(exists, p.Exists(t.Context(), part+rest))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range exists {
		switch {
		case e.Val() == 0:
		case found != "":
			t.Fatalf("%q is in two partitions", rest)
		default:
			found = parts[i]
		}
	}
	return found
}

// clean lets the time of all who are still awaited pass, and makes sure that
// what is left then is nothing but what expires by itself and the books of the
// gateways.
func (d *deployment) clean(t testing.TB) {
	t.Helper()
	ctx := t.Context()
	indexes := append(d.parts(false), d.parts(true)...)
	for i := range indexes {
		indexes[i] += "parked"
	}
	_, err := d.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, index := range indexes {
			for _, entry := range d.rdb.ZRange(ctx, index, 0, -1).Val() {
				d.expire(t, p, index, entry)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sweep", func() bool { return !anyOf(ctx, d.rdb, indexes) })
	for _, key := range keysOf(t, d.rdb, d.prefix+":") {
		if d.rdb.TTL(ctx, key).Val() != -1 {
			continue // it expires, or just has
		}
		_, kind, _ := strings.Cut(strings.TrimPrefix(key, d.prefix+":"), "}:")
		kind, _, _ = strings.Cut(kind, ":")
		if !slices.Contains([]string{"", "clock", "term", "origin", "partitions", "nodes", "admissions", "nodesessions", "node"}, kind) {
			t.Errorf("%q is left, and stays", key)
		}
	}
}

// expire moves the deadline of an entry of an index of parked ones, a
// membership or a session, to the past.
func (d *deployment) expire(t testing.TB, p redis.Pipeliner, index, entry string) {
	t.Helper()
	p.ZAddXX(t.Context(), index, redis.Z{Score: 1, Member: entry})
	session, user, _ := strings.Cut(entry, "\x00")
	key := strings.TrimSuffix(index, "parked") + "user:" + user
	if record := strings.Split(d.rdb.HGet(t.Context(), key, "s:"+session).Val(), "\x00"); len(record) == 5 {
		record[2] = "1"
		p.HSet(t.Context(), key, "s:"+session, strings.Join(record, "\x00"))
	}
}

// oneRun is one run of rapid's, for what wants a [testing.TB].
type oneRun struct {
	*rapid.T
	whole
}

type whole struct{ testing.TB }

func (r oneRun) Helper()      { r.T.Helper() }
func (r oneRun) Name() string { return r.T.Name() }

// trial is one run: real clients, and the model of what they do. Its users and
// rooms are its own. All IDs begin with a tag, which is left out wherever they
// are shown, so that what a run says is the same when it is repeated.
type trial struct {
	testing.TB
	rt     *rapid.T
	d      *deployment
	m      *model
	tag    string
	people []*device
	online []*conn
	all    []*modelSession
	texts  int
	said   []string // what was done
	before int64    // when the last of it began, on Redis's clock
	after  int64    // when it was answered
	over   bool     // nothing more can be foretold

	// What was heard of what the model does not name.
	ids      map[*modelSession]string
	named    map[string]*modelSession
	lives    map[string][]int64          // epochs of each room, as they came up
	order    map[string]int64            // highest orderKey of a kept message
	sent     map[string]protocol.Message // by ID, as their senders know them
	received []protocol.Message
	oddities []string
	parts    map[string]string // of rooms and users, once known
}

// device is what a user logs in on.
type device struct {
	user, id, name, version string

	s        *modelSession // nil: logged out
	c        *conn         // nil: no connection
	requests []*modelRequest
	key      int64
}

// conn is a connection of a device.
type conn struct {
	*device
	s       *modelSession
	gate    *gateway
	w       *wire
	asked   map[string]question // by request ID
	got     []line
	next    string             // nextFlag of the last page
	back    bool               // it has come back: a difference has its own positions
	again   bool               // it hears what was, of users and not of their devices
	exact   bool               // rooms do not come as they like
	closing protocol.CloseCode // the connection is to end so
	lost    bool               // it has ended, by us
}

// question is a request that waits for its answer. A barrier's is already known.
type question struct {
	method, room, barrier string
	request               *modelRequest
}

var (
	trialRooms = []string{"a", "a:members", "}", "{0}", " b c"}
	trialUsers = []string{"a", "a:log", "}{", " "}
)

func begin(t testing.TB, rt *rapid.T, d *deployment) *trial {
	x := &trial{
		TB: oneRun{rt, whole{t}}, rt: rt, d: d, m: newModel(d.limits),
		ids: map[*modelSession]string{}, named: map[string]*modelSession{}, lives: map[string][]int64{}, order: map[string]int64{},
		sent: map[string]protocol.Message{}, parts: map[string]string{},
	}
	// Tags that all hash alike, so that a run that is repeated finds its rooms in
	// the same partitions.
	for x.tag == "" || partitionOf(x.tag, clusterPartitions) != 0 {
		d.runs++
		x.tag = fmt.Sprintf("%d~", d.runs)
	}
	for u, devices := range []int{3, 2, 1, 1} {
		for n := range devices {
			p := &device{user: trialUsers[u], name: fmt.Sprintf("%c%d", 'A'+u, n+1)}
			if u < 2 && n < 2 {
				p.id = fmt.Sprintf("phone %d", n)
			}
			if u == 2 {
				p.version = "2.12.9"
			}
			x.people = append(x.people, p)
		}
	}
	rt.Cleanup(x.scatter)
	return x
}

// scatter leaves nothing behind that a next run could meet, whatever happened.
func (x *trial) scatter() {
	for _, room := range trialRooms {
		gatetest.Request(http.MethodDelete, "http://"+x.d.gates[0].Addr+"/v1/rooms/"+url.PathEscape(x.tag+room), "dev", "")
	}
}

// fail ends the run. The first failure shows what was done right away, in case
// it does not happen again.
func (x *trial) fail(format string, args ...any) {
	x.rt.Helper()
	if x.d.patience == patience {
		x.d.patience = 2 * time.Second
		x.TB.(oneRun).whole.Logf("a run failed after\n%s\n%s", strings.Join(x.said, "\n"), fmt.Sprintf(format, args...))
	}
	x.rt.Fatalf(format, args...)
}

func (x *trial) say(format string, args ...any) {
	x.said = append(x.said, fmt.Sprintf(format, args...))
	x.rt.Logf("%s", x.said[len(x.said)-1])
}

// pick draws one of some things. By their numbers, since rapid shows what it
// draws; it likes the first ones.
func pick[T any](x *trial, what string, from []T) T {
	return from[rapid.IntRange(0, len(from)-1).Draw(x.rt, what)]
}

func shuffled[T any](x *trial, what string, from []T) (out []T) {
	order := make([]int, len(from))
	for i := range order {
		order[i] = i
	}
	for _, i := range rapid.Permutation(order).Draw(x.rt, what) {
		out = append(out, from[i])
	}
	return out
}

func (x *trial) perhaps(what string) bool { return rapid.Bool().Draw(x.rt, what) }

func (x *trial) now() int64 { return redisTime(x, x.d.rdb) }

func (x *trial) run() {
	for _, p := range x.people {
		if x.perhaps("is there") {
			x.turn(func() { x.login(p, pick(x, "gateway", x.d.gates)) })
		}
		if p.c != nil && x.perhaps("enters") {
			x.turn(func() { x.ask(p, x.entry(protocol.MethodEnterRoom)) })
		}
	}
	if x.d.mishap != nil {
		x.d.mishap()
	}
	x.rt.Repeat(map[string]func(*rapid.T){"step": func(*rapid.T) { x.step() }})
	x.compare()
	x.end()
}

// end has rooms that are left destroyed, and everybody come back and log out.
// Then nothing is left.
func (x *trial) end() {
	x.turn(func() {
		for _, room := range slices.Sorted(maps.Keys(x.m.rooms)) {
			x.destroy(room, x.d.gates[0])
		}
	})
	x.turn(func() {
		for _, p := range x.people {
			if slices.Contains(x.m.sessions, p.s) && p.s.away {
				x.resume(p, x.d.gates[1], false)
			}
		}
	})
	x.turn(func() {
		for _, p := range x.people {
			if p.c != nil {
				x.logout(p)
			}
		}
	})
	x.nothingLeft()
}

// turn does one thing and compares what everybody hears of it.
func (x *trial) turn(do func()) {
	if x.over {
		return
	}
	x.before = x.now()
	x.m.expire(x.before)
	x.m.forget()
	sessions := len(x.all)
	do()
	x.settle()
	for len(x.all) > sessions && x.now() == x.after {
		// So that it is known who came first.
	}
}

// scene is who could do what now.
type scene struct {
	online, away, out []*device
	named             []*device // online, with a deviceID
	inside            []*device // online, in a room
	missed            []*device // likewise, and somebody who is away is in it, too
	lost              []*modelSession
	again             []*modelRequest
	by                map[*modelRequest]*device
	ending, others    []*modelRoom // those whose deadline comes soon, and the others
}

func (x *trial) look() *scene {
	z := &scene{by: map[*modelRequest]*device{}}
	for _, p := range x.people {
		switch {
		case p.s == nil:
			z.out = append(z.out, p)
			continue
		case p.s.away:
			z.away = append(z.away, p)
			continue
		}
		z.online = append(z.online, p)
		if p.id != "" {
			z.named = append(z.named, p)
		}
		rooms := x.m.roomsOf(p.s)
		if len(rooms) > 0 {
			z.inside = append(z.inside, p)
		}
		if slices.ContainsFunc(rooms, missed) {
			z.missed = append(z.missed, p)
		}
		for _, q := range p.repeatable() {
			z.again, z.by[q] = append(z.again, q), p
		}
	}
	for _, s := range x.all {
		if s.away && (len(x.m.roomsOf(s)) > 0 || slices.Contains(x.m.sessions, s)) {
			z.lost = append(z.lost, s)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(x.m.rooms)) {
		if r := x.m.rooms[id]; r.deadline != 0 && r.delay == 1 {
			z.ending = append(z.ending, r)
		} else {
			z.others = append(z.others, r)
		}
	}
	return z
}

// missed says whether somebody misses what happens in a room.
func missed(r *modelRoom) bool {
	return slices.ContainsFunc(r.members, func(s *modelSession) bool { return s.away })
}

// step does one thing that is possible.
func (x *trial) step() {
	if x.over {
		return
	}
	z := x.look()
	var deeds []string
	may := func(ok bool, these ...string) {
		if ok {
			deeds = append(deeds, these...)
		}
	}
	// What comes first, and the very last, is drawn more often.
	here := len(z.online) > 0
	may(len(z.out) > 0 && len(z.online) < 3, "login")
	may(here, "enter", "switch", "talk", "enter")
	may(len(z.online) > 1, "side by side")
	may(len(z.again) > 0, "repeat")
	may(len(z.away) > 0, "resume", "resume")
	may(here, "cut", "leave", "kick", "enter")
	may(len(z.others) > 0, "block")
	may(here, "switch", "cut")
	may(len(z.ending) > 0, "wait", "wait")
	may(len(z.lost) > 0 && len(z.ending) == 0 && x.perhaps("patient"), "evict")
	may(len(z.out) > 0, "login")
	may(len(z.named)+len(z.away) > 0, "login again")
	may(here, "list", "leave all", "log out", "take over", "destroy", "mistake", "look up", "count", "switch", "enter")
	deed := pick(x, "deed", deeds)
	x.turn(func() { x.do(deed, z) })
}

func (x *trial) do(deed string, z *scene) {
	gate := func() *gateway { return pick(x, "gateway", x.d.gates) }
	who := func() *device { return pick(x, "who", z.online) }
	member := func() *device {
		if len(z.inside) > 0 && rapid.IntRange(0, 7).Draw(x.rt, "other") > 0 {
			return pick(x, "who", z.inside)
		}
		return who()
	}
	switch deed {
	case "login":
		x.login(pick(x, "who", z.out), gate())
	case "login again":
		x.login(pick(x, "who", slices.Concat(z.named, z.away)), gate())
	case "enter":
		x.ask(who(), x.entry(protocol.MethodCreateRoom, protocol.MethodJoinRoom, protocol.MethodEnterRoom, protocol.MethodEnterRoom))
	case "switch":
		p := member()
		x.ask(p, x.change(p))
	case "leave":
		p := member()
		x.ask(p, &modelRequest{method: protocol.MethodLeaveRoom, EnterParams: in(x.near(p))})
	case "leave all":
		x.ask(member(), &modelRequest{method: protocol.MethodLeaveAllRoom})
	case "repeat":
		q := pick(x, "request", z.again)
		x.ask(z.by[q], q)
	case "log out":
		x.logout(who())
	case "talk":
		p := member()
		if len(z.missed) > 0 && x.perhaps("missed") {
			p = pick(x, "who", z.missed)
		}
		x.talk(p)
	case "list":
		x.list(member())
	case "look up":
		x.lookUp(member())
	case "count":
		p := member()
		x.count(p, x.near(p))
	case "mistake":
		x.mistake(who())
	case "side by side":
		x.sideBySide(z.online)
	case "cut":
		x.cut(member())
	case "resume":
		x.resume(pick(x, "who", z.away), gate(), x.perhaps("unnamed"))
	case "take over":
		x.resume(member(), gate(), x.perhaps("unnamed"))
	case "evict":
		x.evict(pick(x, "whom", z.lost))
	case "destroy":
		x.destroy(pick(x, "room", trialRooms), gate())
	case "kick":
		x.kick(x.mostly(x.inhabited()), pick(x, "whom", trialUsers), gate())
	case "block":
		x.block(pick(x, "room", z.others), pick(x, "whom", trialUsers), x.perhaps("over"))
	case "wait":
		x.wait(pick(x, "room", z.ending))
		if len(z.online) > 0 && x.perhaps("at once") {
			// Before it is swept, mostly.
			x.ask(who(), x.entry(protocol.MethodCreateRoom, protocol.MethodJoinRoom, protocol.MethodEnterRoom))
		}
	}
}

// What people do.

func in(room string) protocol.EnterParams {
	return protocol.EnterParams{RoomInfo: protocol.RoomBaseInfo{RoomID: room}}
}

// near gives a room, mostly one that the device is in.
func (x *trial) near(p *device) string { return x.mostly(x.m.roomsOf(p.s)) }

// mostly gives a room, mostly one of these.
func (x *trial) mostly(these []*modelRoom) string {
	if len(these) > 0 && rapid.IntRange(0, 7).Draw(x.rt, "other") > 0 {
		return pick(x, "room", these).id
	}
	return pick(x, "room", trialRooms)
}

// inhabited lists the rooms with somebody in them.
func (x *trial) inhabited() []*modelRoom { return x.m.in(func(*modelSession) bool { return true }) }

// entry makes an entry by one of the methods.
func (x *trial) entry(methods ...string) *modelRequest {
	room := pick(x, "room", trialRooms)
	if x.perhaps("inhabited") {
		room = x.mostly(x.inhabited())
	}
	q := &modelRequest{method: pick(x, "method", methods), EnterParams: in(room)}
	if q.method != protocol.MethodJoinRoom {
		x.configure(q)
	}
	return q
}

func (x *trial) configure(q *modelRequest) {
	q.RoomInfo.RoomName = pick(x, "name", []string{"", "one", "two"})
	if delay := pick(x, "delay", []int{-1, 0, 0, 1, 100}); delay >= 0 {
		q.Config = &protocol.RoomConfig{RoomDestroyDelayTime: float64(delay)}
		q.Config.RoomAttributes = pick(x, "attributes", []map[string]string{nil, nil, {"k": "v"}, {"k": "", "l": "w"}})
	}
}

func (x *trial) change(p *device) *modelRequest {
	q := x.entry(protocol.MethodSwitchRoom)
	q.from, q.create = x.near(p), x.perhaps("create")
	if q.from == q.room() {
		// Not that often.
		q.RoomInfo.RoomID = pick(x, "room", trialRooms)
	}
	return q
}

// ask makes a request, new or not, and has the model carry it out.
func (x *trial) ask(p *device, q *modelRequest) {
	if again := slices.Contains(p.requests, q); !again {
		if rapid.IntRange(0, 3).Draw(x.rt, "keyless") > 0 {
			p.key++
			q.RequestKey = p.key
		}
		p.requests = append(p.requests, q)
	}
	config := ""
	if q.Config != nil {
		config = fmt.Sprintf(" delay %v, %v", q.Config.RoomDestroyDelayTime, attributesText(q.Config.RoomAttributes))
	}
	x.say("%s: %s %q from %q name %q create %v key %d %s %s", p.name, q.method, q.room(), q.from, q.RoomInfo.RoomName, q.create, q.RequestKey, q.message.Message, config)
	p.c.exact, p.c.again = q.method != protocol.MethodLeaveAllRoom, q.applied
	p.c.send(question{method: q.method, room: q.room(), request: q}, x.params(q))
	x.m.do(p.s, q)
}

// params are a request's, as they are sent.
func (x *trial) params(q *modelRequest) any {
	type fields map[string]any
	info := fields{"roomID": x.tag + q.room(), "roomName": q.RoomInfo.RoomName}
	f := fields{}
	switch q.method {
	case protocol.MethodCreateRoom, protocol.MethodEnterRoom:
		f["roomInfo"] = info
	case protocol.MethodSwitchRoom:
		f["fromRoomID"], f["toRoomInfo"], f["isCreateWhenRoomNotExisted"] = x.tag+q.from, info, q.create
	case protocol.MethodSendRoomMessage:
		f["roomID"], f["message"] = x.tag+q.room(), q.message
		f["config"] = fields{"priority": priorityOf(q.message)}
	case protocol.MethodJoinRoom, protocol.MethodLeaveRoom:
		f["roomID"] = x.tag + q.room()
	}
	if q.Config != nil {
		f["config"] = fields{"roomDestroyDelayTime": q.Config.RoomDestroyDelayTime, "roomAttributes": q.Config.RoomAttributes}
	}
	if q.RequestKey > 0 {
		f["requestKey"] = q.RequestKey
	}
	return f
}

func priorityOf(m protocol.OutgoingMessage) protocol.MessagePriority {
	return protocol.MessagePriority(m.SubType + 1)
}

// repeatable lists the requests that a client may repeat: those that were
// applied, and the last, which is decided anew if it was refused.
func (p *device) repeatable() (list []*modelRequest) {
	for i, q := range p.requests {
		if q.RequestKey > 0 && (q.applied || i == len(p.requests)-1 && !passing(q)) {
			list = append(list, q)
		}
	}
	return list
}

// passing says whether q is a message that is not kept. A repeat is another.
func passing(q *modelRequest) bool {
	return q.method == protocol.MethodSendRoomMessage && !q.message.Type.Kept()
}

func (x *trial) message(room string, typ protocol.MessageType) *modelRequest {
	x.texts++
	m := protocol.OutgoingMessage{Type: typ, Message: fmt.Sprintf("m%03d", x.texts), SubType: x.texts % 3}
	if x.texts%2 == 0 {
		m.ExtendedData = "{}"
	}
	return &modelRequest{method: protocol.MethodSendRoomMessage, EnterParams: in(room), message: m}
}

// talk says some things in one room, one right after the other, and mostly
// where somebody misses it. What is not kept has something behind it that is,
// so that it is known when all has come.
func (x *trial) talk(p *device) {
	room := x.near(p)
	for _, r := range x.m.roomsOf(p.s) {
		if missed(r) && x.perhaps("missed") {
			room = r.id
		}
	}
	for range rapid.IntRange(0, 2).Draw(x.rt, "commands") {
		q := x.message(room, pick(x, "type", []protocol.MessageType{protocol.MessageCommand, protocol.MessageBarrage}))
		x.ask(p, q)
	}
	x.ask(p, x.message(room, pick(x, "type", []protocol.MessageType{protocol.MessageText, protocol.MessageCustom})))
}

// sideBySide has different users do things in different rooms at once.
func (x *trial) sideBySide(online []*device) {
	rooms := shuffled(x, "rooms", trialRooms)
	busy := map[string]bool{}
	for _, p := range shuffled(x, "people", online) {
		if busy[p.user] || len(rooms) == 0 {
			continue
		}
		room := rooms[0]
		var q *modelRequest
		switch r := x.m.rooms[room]; {
		case r.has(p.s):
			q = pick(x, "what", []*modelRequest{x.message(room, protocol.MessageText), {method: protocol.MethodLeaveRoom, EnterParams: in(room)}})
		case r != nil:
			q = &modelRequest{method: pick(x, "how", []string{protocol.MethodJoinRoom, protocol.MethodEnterRoom}), EnterParams: in(room)}
		case x.d.limits.rooms == 0:
			q = &modelRequest{method: pick(x, "how", []string{protocol.MethodCreateRoom, protocol.MethodEnterRoom}), EnterParams: in(room)}
		default:
			rooms = rooms[1:]
			continue
		}
		busy[p.user], rooms = true, rooms[1:]
		x.ask(p, q)
		p.c.exact = false
	}
}

func (x *trial) count(p *device, room string) {
	x.say("%s: count %q", p.name, room)
	x.m.ask(p.s, room, countText)
	p.c.send(question{method: protocol.MethodQueryRoomOnlineMemberCount, room: room}, protocol.RoomParams{RoomID: x.tag + room})
}

func countText(r *modelRoom) string { return fmt.Sprintf("ok %v %d members", r.at, len(r.members)) }

// list goes through all pages of a room's members.
func (x *trial) list(p *device) {
	room, size := x.near(p), rapid.IntRange(1, 3).Draw(x.rt, "size")
	x.say("%s: list %q by %d", p.name, room, size)
	params := protocol.MemberListParams{RoomID: x.tag + room, Config: protocol.PageConfig{Count: size}}
	for from := 0; ; from += size {
		more := false
		x.m.ask(p.s, room, func(r *modelRoom) string {
			to := min(from+size, len(r.members))
			more = to < len(r.members)
			return fmt.Sprintf("ok %v %v more %v", r.at, names(r.members[from:to]), more)
		})
		p.c.send(question{method: protocol.MethodQueryRoomMemberList, room: room}, params)
		if !more {
			return
		}
		x.listen(p.c)
		params.Config.NextFlag = p.c.next
	}
}

func names(sessions []*modelSession) (names []string) {
	for _, s := range sessions {
		names = append(names, s.name)
	}
	return names
}

// lookUp asks for some users.
func (x *trial) lookUp(p *device) {
	room := x.near(p)
	wanted := rapid.SliceOfN(rapid.SampledFrom(append([]string{"nobody"}, trialUsers...)), 1, 4).Draw(x.rt, "users")
	x.say("%s: look up %q in %q", p.name, wanted, room)
	params := protocol.MembersParams{RoomID: x.tag + room}
	for _, u := range wanted {
		params.UserIDs = append(params.UserIDs, x.tag+u)
	}
	x.m.ask(p.s, room, func(r *modelRoom) string {
		var found []*modelSession
		var missing []string
		for n, u := range wanted {
			if slices.Contains(wanted[:n], u) {
				continue
			}
			if i := r.place(u); i >= 0 {
				found = append(found, r.members[i])
			} else {
				missing = append(missing, u)
			}
		}
		return fmt.Sprintf("ok %v %v not %q", r.at, names(found), missing)
	})
	p.c.send(question{method: protocol.MethodQueryRoomMembers, room: room}, params)
}

// mistake asks for what cannot be (row 26), or before a login (row 27).
func (x *trial) mistake(p *device) {
	good := x.tag + trialRooms[0]
	entry := func(id, name string, delay float64) any {
		return protocol.EnterParams{RoomInfo: protocol.RoomBaseInfo{RoomID: id, RoomName: name}, Config: &protocol.RoomConfig{RoomDestroyDelayTime: delay}}
	}
	mistakes := []struct {
		method string
		params any
	}{
		{protocol.MethodEnterRoom, entry("", "", 0)},
		{protocol.MethodCreateRoom, entry("/", "", 0)},
		{protocol.MethodEnterRoom, entry(strings.Repeat("x", 129), "", 0)},
		{protocol.MethodEnterRoom, entry(good, strings.Repeat("é", 33), 0)},
		{protocol.MethodCreateRoom, entry(good, "", 10801)},
		{protocol.MethodEnterRoom, entry(good, "", -1)},
		{protocol.MethodEnterRoom, entry(good, "", 0.5)},
		{protocol.MethodJoinRoom, protocol.RoomParams{RoomID: "é"}},
		{protocol.MethodLeaveRoom, protocol.RoomParams{RoomID: "a\x00b"}},
		{protocol.MethodSwitchRoom, protocol.SwitchParams{FromRoomID: good, ToRoomInfo: protocol.RoomBaseInfo{RoomID: "'"}}},
		{protocol.MethodSwitchRoom, protocol.SwitchParams{FromRoomID: "'", ToRoomInfo: protocol.RoomBaseInfo{RoomID: good}}},
		{protocol.MethodSendRoomMessage, protocol.SendParams{RoomID: good, Message: protocol.OutgoingMessage{Type: protocol.MessageText, Message: strings.Repeat("x", 2049)}}},
		{protocol.MethodSendRoomMessage, protocol.SendParams{RoomID: good, Message: protocol.OutgoingMessage{Type: 3, Message: "x"}}},
		{protocol.MethodQueryRoomMemberList, protocol.MemberListParams{RoomID: good, Config: protocol.PageConfig{Count: 101}}},
		{protocol.MethodQueryRoomMembers, protocol.MembersParams{RoomID: good, UserIDs: slices.Repeat([]string{"u"}, 11)}},
	}
	n := rapid.IntRange(0, len(mistakes)-1).Draw(x.rt, "mistake")
	wrong := mistakes[n]
	x.say("%s: mistake %d", p.name, n)
	x.m.tell(p.s, "", "error %d", protocol.CodeBadParameter)
	p.c.send(question{method: wrong.method}, wrong.params)

	stranger := x.dial(&device{name: "stranger"}, p.c.gate)
	stranger.s = &modelSession{name: "stranger"}
	x.m.tell(stranger.s, "", "error %d", protocol.CodeNotLoggedIn)
	stranger.send(question{method: protocol.MethodEnterRoom}, entry(good, "", 0))
	stranger.lost = true
}

// How people come and go.

// dial opens a connection of a device to a gateway.
func (x *trial) dial(p *device, g *gateway) *conn {
	c := &conn{device: p, gate: g, w: connect(x, g.URL()), asked: map[string]question{}}
	c.w.name = p.name
	x.online = append(x.online, c)
	return c
}

// login begins a session on a device. Whatever session it had is not told.
func (x *trial) login(p *device, g *gateway) {
	x.say("%s: login at %s", p.name, x.d.nameOf(g))
	s := x.newSession(p)
	x.m.login(s)
	x.m.tell(s, "", "ok new")
	x.start(p, s, x.dial(p, g), nil)
}

func (x *trial) newSession(p *device) *modelSession {
	s := &modelSession{user: p.user, device: p.id, name: p.name, legacy: p.version != "", entered: map[string]position{}}
	x.all = append(x.all, s)
	return s
}

// start logs a session in on a connection, or has it come back.
func (x *trial) start(p *device, s *modelSession, c *conn, resume *protocol.Resume) {
	if p.s != s {
		p.requests, p.key = nil, 0
	}
	p.s, p.c, c.s = s, c, s
	c.send(question{method: protocol.MethodLogin}, protocol.LoginParams{
		UserID: x.tag + p.user, UserName: p.name, DeviceID: p.id, SDKVersion: p.version, Resume: resume,
	})
}

// resume comes back on a device, after its link was lost or before anybody has
// noticed. It knows all that it had been told, or says nothing of that.
func (x *trial) resume(p *device, g *gateway, unnamed bool) {
	x.say("%s: resume at %s, unnamed %v", p.name, x.d.nameOf(g), unnamed)
	old := p.s
	if p.c != nil {
		x.m.lose(old)
		p.c.s, p.c.closing = nil, protocol.CloseTakenOver
	}
	back := &protocol.Resume{SessionID: x.ids[old]}
	for room, at := range old.seen {
		if !unnamed {
			known := protocol.Position{Epoch: x.lives[room][at.life-1], Seq: at.seq}
			back.Rooms = append(back.Rooms, protocol.ResumeRoom{RoomID: x.tag + room, Position: known})
		}
	}
	now := old
	if !slices.Contains(x.m.sessions, old) {
		now = x.newSession(p)
		x.m.login(now)
	}
	x.m.comeBack(old, now, !unnamed)
	c := x.dial(p, g)
	c.back, c.again = true, true
	x.start(p, now, c, back)
}

func (x *trial) logout(p *device) {
	x.say("%s: logout", p.name)
	x.m.logout(p.s)
	p.c.send(question{method: protocol.MethodLogout}, struct{}{})
}

// cut loses the link of a device. It has noticed when Redis has heard of it.
func (x *trial) cut(p *device) {
	x.say("%s: link lost", p.name)
	p.c.w.drop()
	p.c.lost = true
	p.c = nil
	x.m.lose(p.s)
	eventually(x, "the session to be parked", func() bool {
		f := strings.Split(x.d.rdb.HGet(x.Context(), x.userKey(p.user), "s:"+x.ids[p.s]).Val(), "\x00")
		if len(f) < 5 || f[2] == "" {
			return false
		}
		p.s.deadline, _ = strconv.ParseInt(f[2], 10, 64)
		return true
	})
}

// evict has the time of a session pass that is away, or of the places of one
// that was replaced: the deadline is moved, and the sweep does the rest.
func (x *trial) evict(s *modelSession) {
	x.say("%s: the deadline passes", s.name)
	slot, _, _ := strings.Cut(x.userKey(s.user), "user:")
	session := x.ids[s] + "\x00" + x.tag + s.user
	parked := []string{slot + "parked", session}
	for _, r := range x.m.roomsOf(s) {
		parked = append(parked, x.part(r.id)+"parked", session+"\x00"+x.tag+r.id)
	}
	_, err := x.d.rdb.Pipelined(x.Context(), func(p redis.Pipeliner) error {
		for i := 0; i < len(parked); i += 2 {
			x.d.expire(x, p, parked[i], parked[i+1])
		}
		return nil
	})
	if err != nil {
		x.Fatal(err)
	}
	for i := 0; i < len(parked); i += 2 {
		eventually(x, "the sweep", func() bool {
			return errors.Is(x.d.rdb.ZScore(x.Context(), parked[i], parked[i+1]).Err(), redis.Nil)
		})
	}
	x.m.evict(s)
}

// What backends and time do.

func (x *trial) destroy(room string, g *gateway) {
	x.say("destroy %q at %s", room, x.d.nameOf(g))
	x.backend(x.m.destroy(room), http.MethodDelete, g, room, "", "")
}

func (x *trial) kick(room, user string, g *gateway) {
	x.say("kick %q from %q at %s", user, room, x.d.nameOf(g))
	extended := fmt.Sprintf(`{"room_id":%q,"reason":"rude","message":"Go <away>"}`, room)
	x.backend(x.m.kick(room, user, extended), http.MethodPost, g, room, "/kick",
		fmt.Sprintf(`{"userID":%q,"reason":"rude","message":"Go <away>"}`, x.tag+user))
}

// backend makes a request of a backend's.
func (x *trial) backend(want protocol.Code, method string, g *gateway, room, path, body string) {
	status, answer := gatetest.Request(method, "http://"+g.Addr+"/v1/rooms/"+url.PathEscape(x.tag+room)+path, "dev", body)
	var refused struct {
		Error struct{ Code protocol.Code }
	}
	json.Unmarshal([]byte(answer), &refused)
	if refused.Error.Code != want || (want == 0) != (status == http.StatusOK) || want != 0 && status != http.StatusNotFound {
		x.odd("the backend got %d %d, want error %d", status, refused.Error.Code, want)
	}
}

// block writes down that a user is blocked from a room, for ever or no more.
func (x *trial) block(r *modelRoom, user string, over bool) {
	x.say("block %q from %q, over %v", user, r.id, over)
	r.blocked[user] = !over
	if err := errors.Join(
		x.d.rdb.HSet(x.Context(), x.part(r.id)+"room:"+x.tag+r.id, "blocked", 1).Err(),
		x.d.rdb.HSet(x.Context(), x.part(r.id)+"blocked:"+x.tag+r.id, x.tag+user, map[bool]int{true: 1}[over]).Err(),
	); err != nil {
		x.Fatal(err)
	}
}

// wait lets the deadline of an empty room pass; whether it was swept as well
// makes no difference.
func (x *trial) wait(r *modelRoom) {
	swept := x.perhaps("swept")
	x.say("the deadline of %q passes, swept %v", r.id, swept)
	part := x.part(r.id)
	eventually(x, "the deadline", func() bool {
		x.before = x.now()
		gone := errors.Is(x.d.rdb.ZScore(x.Context(), part+"rooms", x.tag+r.id).Err(), redis.Nil)
		return x.before >= r.deadline && (gone || !swept)
	})
	x.m.expire(x.before)
}

// What everybody hears.

// send makes a request. Its answer is listened for later.
func (c *conn) send(q question, params any) {
	b, err := json.Marshal(params)
	if err != nil {
		panic(err)
	}
	c.asked[strconv.Itoa(c.w.send(q.method, string(b)))] = q
}

// take gives the next frame, if there is one in time and the connection stands.
func (x *trial) take(c *conn) (frame string, ok bool) {
	late := time.NewTimer(x.d.patience)
	defer late.Stop()
	for {
		c.w.mu.Lock()
		err := c.w.err
		if len(c.w.frames) > 0 {
			frame, c.w.frames = c.w.frames[0], c.w.frames[1:]
			c.w.mu.Unlock()
			return frame, true
		}
		c.w.mu.Unlock()
		if err != nil {
			return "", false
		}
		select {
		case <-c.w.arrived:
		case <-c.w.done:
		case <-late.C:
			return "", false
		}
	}
}

// listen takes what comes until all that was asked is answered.
func (x *trial) listen(c *conn) {
	for len(c.asked) > 0 && x.hear(c) {
	}
	for _, q := range c.asked {
		x.odd("%s: %s %q was not answered; heard %q", c.name, q.method, q.room, c.got)
	}
}

// hear takes one frame and notes what it says.
func (x *trial) hear(c *conn) bool {
	frame, ok := x.take(c)
	if !ok {
		return false
	}
	frame = strings.ReplaceAll(frame, x.tag, "")
	var m struct {
		protocol.Response
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
	}
	if err := json.Unmarshal([]byte(frame), &m); err != nil {
		x.odd("%s: %v: %s", c.name, err, frame)
		return true
	}
	if m.Method != "" {
		c.got = append(c.got, x.event(c, m.Method, m.Params))
		return true
	}
	q, asked := c.asked[string(m.ID)]
	delete(c.asked, string(m.ID))
	text := x.answer(c, q, m.Response)
	switch {
	case !asked:
		x.odd("%s: an answer to nothing: %s", c.name, frame)
	case q.barrier == "":
		c.got = append(c.got, line{q.room, text})
	case text != q.barrier:
		x.odd("%s: %s %q: got %q, want %q", c.name, q.method, q.room, text, q.barrier)
	}
	return true
}

// at gives a position, in lives of the room.
func (x *trial) at(room string, p protocol.Position) position {
	all := x.lives[room]
	i := slices.Index(all, p.Epoch)
	if i < 0 && (len(all) == 0 || p.Epoch > all[len(all)-1]) {
		x.lives[room] = append(all, p.Epoch)
		i = len(all)
	}
	return position{i + 1, p.Seq}
}

// answer says in brief what an answer is, in the words of the model.
func (x *trial) answer(c *conn, q question, r protocol.Response) string {
	if r.Error != nil {
		return fmt.Sprintf("error %d", r.Error.Code)
	}
	read := func(v any) {
		if err := json.Unmarshal(r.Result, v); err != nil {
			x.odd("%s: %v: %s", q.method, err, r.Result)
		}
	}
	switch q.method {
	case protocol.MethodLogin:
		var v protocol.LoginResult
		read(&v)
		if v.Resumed != (v.SessionID == x.ids[c.s]) {
			return "another session"
		}
		x.ids[c.s], x.named[v.SessionID] = v.SessionID, c.s
		if v.Resumed {
			return "ok resumed"
		}
		return "ok new"
	case protocol.MethodCreateRoom, protocol.MethodJoinRoom, protocol.MethodEnterRoom, protocol.MethodSwitchRoom:
		var v protocol.Room
		read(&v)
		if v.RoomInfo.BaseInfo.RoomID != q.room {
			return "ok of another room"
		}
		return fmt.Sprintf("ok %q %v %d members%s", v.RoomInfo.BaseInfo.RoomName, x.at(q.room, v.Position), v.MemberCount,
			map[bool]string{true: " created"}[v.Created])
	case protocol.MethodLeaveAllRoom:
		var v protocol.LeaveAllResult
		read(&v)
		if v.RoomIDs == nil {
			return "ok, no list"
		}
		slices.Sort(v.RoomIDs)
		return fmt.Sprintf("ok %q", v.RoomIDs)
	case protocol.MethodSendRoomMessage:
		var v protocol.SendResult
		read(&v)
		return x.sentMessage(c, q, v.Message)
	case protocol.MethodQueryRoomMemberList:
		var v protocol.MemberListResult
		read(&v)
		c.next = v.NextFlag
		return fmt.Sprintf("ok %v %v more %v", x.at(q.room, v.Position), x.users(v.MemberList, false), v.NextFlag != "")
	case protocol.MethodQueryRoomMembers:
		var v protocol.MembersResult
		read(&v)
		var missing []string
		for _, u := range v.ErrorUserList {
			if missing = append(missing, u.UserID); u.Reason != protocol.CodeNotInRoom {
				return fmt.Sprintf("ok, but for %q error %d", u.UserID, u.Reason)
			}
		}
		return fmt.Sprintf("ok %v %v not %q", x.at(q.room, v.Position), x.users(v.MemberList, false), missing)
	case protocol.MethodQueryRoomOnlineMemberCount:
		var v protocol.CountResult
		read(&v)
		return fmt.Sprintf("ok %v %d members", x.at(q.room, v.Position), v.Count)
	}
	return "ok"
}

// users gives the names of users of whom everything is as at their login, or
// only their IDs.
func (x *trial) users(list []json.RawMessage, ids bool) (names []string) {
	for _, raw := range list {
		var u protocol.UserInfo
		json.Unmarshal(raw, &u)
		switch ok := slices.ContainsFunc(x.people, func(p *device) bool {
			return u == protocol.UserInfo{UserID: p.user, UserName: p.name}
		}); {
		case !ok:
			names = append(names, string(raw))
		case ids:
			names = append(names, u.UserID)
		default:
			names = append(names, u.UserName)
		}
	}
	return names
}

// sentMessage checks what a sender is told of a message.
func (x *trial) sentMessage(c *conn, q question, m protocol.Message) string {
	want := q.request.message
	whole := protocol.Message{
		Type: want.Type, Message: want.Message, SubType: want.SubType, ExtendedData: want.ExtendedData, Priority: priorityOf(want),
		SenderUserID: c.user, ConversationID: q.room, ConversationType: 1,
		MessageID: m.MessageID, MessageSeq: m.MessageSeq, OrderKey: m.OrderKey, Timestamp: m.Timestamp,
	}
	first, again := x.sent[m.MessageID]
	switch {
	case m != whole || m.MessageID == "" || m.Timestamp == 0 || m.OrderKey >= 1<<53:
		x.odd("%s: sent %+v, got %+v", c.name, want, m)
	case again && (m != first || !q.request.applied), !again && m.OrderKey <= x.order[q.room] && want.Type.Kept():
		x.odd("%s: message %q: the answer is that to another, or out of order", c.name, m.Message)
	case want.Type.Kept():
		x.order[q.room] = max(x.order[q.room], m.OrderKey)
	}
	x.sent[m.MessageID] = m
	return fmt.Sprintf("ok message %d", m.MessageSeq)
}

// event says in brief what a notification is.
func (x *trial) event(c *conn, method string, raw json.RawMessage) line {
	read := func(v any) {
		if err := json.Unmarshal(raw, v); err != nil {
			x.odd("%s: %v: %s", method, err, raw)
		}
	}
	switch method {
	case protocol.EventRoomStateChanged:
		var p protocol.RoomStateChanged
		read(&p)
		text := strings.TrimSpace(fmt.Sprintf("%s %s %s", p.State, p.Event, p.ExtendedData))
		if p.Epoch != 0 {
			text += fmt.Sprintf(" %v", x.at(p.RoomID, protocol.Position{Epoch: p.Epoch, Seq: p.Seq}))
		}
		return line{p.RoomID, text}
	case protocol.EventRoomMemberJoined, protocol.EventRoomMemberLeft:
		var p struct {
			protocol.MembersChanged
			MemberList []json.RawMessage `json:"memberList"`
		}
		read(&p)
		who := x.users(p.MemberList, c.again)
		slices.Sort(who)
		text := fmt.Sprintf("%s%s %d", map[bool]string{true: "+", false: "-"}[method == protocol.EventRoomMemberJoined], strings.Join(who, ","), p.MemberCount)
		if !c.back { // a difference has other positions
			text += fmt.Sprintf(" at %d", p.Seq)
		}
		return line{p.RoomID, text}
	case protocol.EventRoomMessageReceived:
		var p protocol.MessageReceived
		read(&p)
		if len(p.MessageList) == 1 && p.MessageList[0].ConversationID == p.FromConversationID {
			m := p.MessageList[0]
			x.received = append(x.received, m)
			if p.After != nil && p.Seq == 0 {
				return line{p.FromConversationID, fmt.Sprintf("%s after %d message %d", m.Message, *p.After, m.MessageSeq)}
			}
			return line{p.FromConversationID, fmt.Sprintf("%s at %d message %d", m.Message, p.Seq, m.MessageSeq)}
		}
	case protocol.EventRoomAttributesUpdated:
		var p protocol.AttributesUpdated
		read(&p)
		if len(p.Infos) == 1 && p.Infos[0].Action == "set" {
			return line{p.RoomID, fmt.Sprintf("attributes %s at %d", attributesText(p.Infos[0].RoomAttributes), p.Seq)}
		}
	case protocol.EventConnectionStateChanged:
		var p protocol.ConnectionStateChanged
		read(&p)
		return line{"", fmt.Sprintf("connection %s %s", p.State, p.Event)}
	}
	return line{"", method + " " + string(raw)}
}

// odd notes something that is not as it should be. It counts unless time has
// decided meanwhile.
func (x *trial) odd(format string, args ...any) {
	x.oddities = append(x.oddities, fmt.Sprintf(format, args...))
}

// settle waits until everybody has heard all that there is to hear, and
// compares it with the model.
func (x *trial) settle() {
	for _, c := range x.online {
		x.listen(c)
	}
	if x.after = x.now(); x.undecided(x.after) {
		return
	}
	// What is asked now is answered behind all the events of a room up to now.
	for _, c := range x.online {
		if code, closed := x.m.closed[c.s]; closed {
			c.closing = code
		}
		if c.closing != 0 || c.lost {
			continue
		}
		for _, r := range x.m.roomsOf(c.s) {
			q := question{method: protocol.MethodQueryRoomOnlineMemberCount, room: r.id, barrier: countText(r)}
			c.send(q, protocol.RoomParams{RoomID: x.tag + r.id})
		}
		c.send(question{method: protocol.MethodPing, barrier: "ok"}, struct{}{})
	}
	for _, c := range x.online {
		x.listen(c)
		x.compareHeard(c)
	}
	for _, m := range x.received {
		if m != x.sent[m.MessageID] {
			x.odd("a receiver has %+v, the sender %+v", m, x.sent[m.MessageID])
		}
	}
	if len(x.oddities) > 0 {
		x.fail("%s", strings.Join(x.oddities, "\n"))
	}
	x.received = nil
	x.online = slices.DeleteFunc(x.online, func(c *conn) bool {
		gone := c.closing != 0 || c.lost
		if gone && c.device.c == c {
			c.device.c, c.device.s = nil, nil
		}
		return gone
	})
	x.deadlines()
	for _, room := range x.m.ended {
		if x.m.rooms[room] == nil {
			x.nothingOf(room)
		}
	}
}

// compareHeard compares what a client has heard with the model.
func (x *trial) compareHeard(c *conn) {
	want := x.m.heard[c.s]
	for _, r := range x.m.roomsOf(c.s) {
		if of(r, c.got) < of(r, want) {
			x.odd("%s: %q was asked for before all events up to then were heard", c.name, r.id)
		}
	}
	for (len(c.got) < len(want) || c.closing != 0) && x.hear(c) {
		// That one is out of a room has no place among its events.
	}
	if c.closing != 0 {
		if ce := (*websocket.CloseError)(nil); !errors.As(c.w.err, &ce) || ce.Code != int(c.closing) {
			x.odd("%s: connection ended with %v, want %d", c.name, c.w.err, c.closing)
		}
	}
	if !c.exact {
		byRoom(want)
		byRoom(c.got)
	}
	if d := cmp.Diff(texts(want), texts(c.got)); d != "" {
		x.odd("%s heard (-want +got):\n%s", c.name, d)
	}
	c.got, c.exact, c.back, c.again = nil, false, false, false
}

// of counts the lines of a room.
func of(r *modelRoom, lines []line) (n int) {
	for _, l := range lines {
		if l.room == r.id {
			n++
		}
	}
	return n
}

// byRoom puts the lines of one room together, between those of no room.
func byRoom(lines []line) {
	for len(lines) > 0 {
		n := slices.IndexFunc(lines, func(l line) bool { return l.room == "" })
		if n < 0 {
			n = len(lines)
		}
		slices.SortStableFunc(lines[:n], func(a, b line) int { return strings.Compare(a.room, b.room) })
		lines = lines[min(n+1, len(lines)):]
	}
}

func texts(lines []line) (texts []string) {
	for _, l := range lines {
		texts = append(texts, fmt.Sprintf("%q %s", l.room, l.text))
	}
	return texts
}

// What Redis holds.

// place finds the partition or slot of a key, and remembers it.
func (x *trial) place(users bool, rest string) string {
	part := x.parts[rest]
	if part == "" {
		part = x.d.holds(x, x.d.parts(users), rest)
		x.parts[rest] = part
	}
	return part
}

func (x *trial) part(room string) string { return x.place(false, "room:"+x.tag+room) }

func (x *trial) userKey(user string) string {
	rest := "user:" + x.tag + user
	return x.place(true, rest) + rest
}

// deadlines reads when rooms end that have just emptied: their whole delay
// from now.
func (x *trial) deadlines() {
	for _, r := range x.m.rooms {
		if len(r.members) > 0 || r.deadline != 0 {
			continue
		}
		var err error
		r.deadline, err = x.d.rdb.HGet(x.Context(), x.part(r.id)+"room:"+x.tag+r.id, "deadline").Int64()
		delay := int64(r.delay) * 1000
		switch emptied := r.deadline - delay; {
		case errors.Is(err, redis.Nil) && x.now() >= x.before+delay:
			x.over = true // it has come already
		case err != nil || emptied < x.before || emptied > x.after:
			x.fail("%q does not end %d s after it emptied", r.id, r.delay)
		}
	}
}

// undecided says that the deadline of a room has passed meanwhile, so that
// nobody can tell whether something came before or after it.
func (x *trial) undecided(now int64) bool {
	for _, r := range x.m.rooms {
		x.over = x.over || r.deadline != 0 && r.deadline <= now
	}
	return x.over
}

// swept waits until no room is past its deadline any more.
func (x *trial) swept() {
	now := strconv.FormatInt(x.now(), 10)
	for _, part := range x.d.parts(false) {
		eventually(x, "the sweep", func() bool { return x.d.rdb.ZCount(x.Context(), part+"due", "-inf", now).Val() == 0 })
	}
}

// compare compares what Redis holds with the model.
func (x *trial) compare() {
	if x.over {
		return
	}
	x.m.expire(x.now())
	x.swept()
	var want, got []string
	for _, room := range trialRooms {
		if r := x.m.rooms[room]; r != nil {
			want = append(want, x.modelView(r))
		}
		if part := x.d.holds(x, x.d.parts(false), "room:"+x.tag+room); part != "" {
			got = append(got, x.storedView(part, room))
		}
	}
	for _, user := range trialUsers {
		want = append(want, x.modelUser(user))
		got = append(got, x.storedUser(user))
	}
	want = append(want, fmt.Sprintf("all rooms: %q", slices.Sorted(maps.Keys(x.m.rooms))))
	got = append(got, fmt.Sprintf("all rooms: %q", x.index("rooms")))
	if d := cmp.Diff(want, got); !x.undecided(x.now()) && d != "" {
		x.fail("Redis (-want +got):\n%s", d)
	}
}

// index gives the entries of this run in an index, over all partitions.
func (x *trial) index(name string) []string {
	all := []string{}
	for _, part := range x.d.parts(false) {
		for _, id := range x.d.rdb.ZRange(x.Context(), part+name, 0, -1).Val() {
			if id, ours := strings.CutPrefix(id, x.tag); ours {
				all = append(all, id)
			}
		}
	}
	slices.Sort(all)
	return all
}

func (x *trial) modelView(r *modelRoom) string {
	members := []string{}
	for _, s := range r.members {
		members = append(members, s.name+map[bool]string{true: " parked"}[s.away])
	}
	return roomView(r.id, r.name, r.creator, fmt.Sprint(r.delay), r.at, fmt.Sprint(r.messageSeq), r.attributes, members, len(members) == 0)
}

func roomView(id, name, creator, delay string, at position, messageSeq, attributes string, members []string, due bool) string {
	return fmt.Sprintf("%q: named %q by %q, delay %s, at %v, %s messages, attributes %q, members %q, due %v",
		id, name, creator, delay, at, messageSeq, attributes, members, due)
}

func (x *trial) storedView(part, room string) string {
	ctx, id, rdb := x.Context(), x.tag+room, x.d.rdb
	f := rdb.HGetAll(ctx, part+"room:"+id).Val()
	epoch, _ := strconv.ParseInt(f["epoch"], 10, 64)
	seq, _ := strconv.ParseInt(f["seq"], 10, 64)
	info := rdb.HGetAll(ctx, part+"info:"+id).Val()
	users := rdb.ZRange(ctx, part+"members:"+id, 0, -1).Val()
	members := []string{}
	for _, user := range users {
		m := strings.SplitN(info[user], "\x00", 4)
		delete(info, user)
		if s := x.named[m[0]]; s == nil || len(m) < 4 {
			members = append(members, "nobody known")
		} else if entry := user + "\x00" + id; m[2] != "" && rdb.SIsMember(ctx, part+"node:"+m[2], entry).Val() {
			members = append(members, s.name)
		} else if m[2] == "" && rdb.ZScore(ctx, part+"parked", m[0]+"\x00"+entry).Err() == nil {
			members = append(members, s.name+" parked")
		} else {
			members = append(members, s.name+" not indexed")
		}
	}
	for user := range info {
		members = append(members, user+" without an entry")
	}
	due := rdb.ZScore(ctx, part+"due", id+"\x00"+f["epoch"]).Err() == nil
	if _, deadline := f["deadline"]; deadline != due {
		members = append(members, "and a deadline that is not in the index, or the reverse")
	}
	return roomView(room, f["name"], strings.TrimPrefix(f["creator"], x.tag), f["delay"], x.at(room, protocol.Position{Epoch: epoch, Seq: seq}), f["messageSeq"],
		attributesText(gatetest.AttributeValues(rdb.HGetAll(ctx, part+"attrs:"+id).Val())), members, due)
}

func (x *trial) modelUser(user string) string {
	var sessions, rooms []string
	for _, s := range x.m.sessions {
		if s.user == user {
			sessions = append(sessions, s.name+map[bool]string{true: " parked"}[s.away])
		}
	}
	for _, r := range x.m.roomsOfUser(user) {
		rooms = append(rooms, r.id)
	}
	slices.Sort(sessions)
	return fmt.Sprintf("%q: sessions %q in %q", user, sessions, rooms)
}

func (x *trial) storedUser(user string) string {
	var sessions, rooms []string
	key := x.userKey(user)
	for field, value := range x.d.rdb.HGetAll(x.Context(), key).Val() {
		kind, id, _ := strings.Cut(field, ":")
		f := strings.Split(value, "\x00")
		switch kind {
		case "s":
			sessions = append(sessions, x.named[id].name+map[bool]string{true: " parked"}[f[2] != ""])
		case "r":
			if *onCluster { // partition, ticket; the session is in the name
				room, session, _ := strings.Cut(id, "\x00")
				part := fmt.Sprintf("%s:{%s}:", x.d.prefix, f[0])
				if m := x.d.rdb.HGet(x.Context(), part+"info:"+room, x.tag+user).Val(); strings.HasPrefix(m, session+"\x00") {
					rooms = append(rooms, strings.TrimPrefix(room, x.tag))
				}
				continue
			}
			// Of a room that has ended, it is void.
			part := fmt.Sprintf("%s:{%s}:", x.d.prefix, f[1])
			epoch := x.d.rdb.HGet(x.Context(), part+"room:"+id, "epoch").Val()
			if m := x.d.rdb.HGet(x.Context(), part+"info:"+id, x.tag+user).Val(); epoch == f[0] && strings.HasPrefix(m, f[2]+"\x00") {
				rooms = append(rooms, strings.TrimPrefix(id, x.tag))
			}
		}
	}
	slices.Sort(sessions)
	slices.Sort(rooms)
	return fmt.Sprintf("%q: sessions %q in %q", user, sessions, rooms)
}

// nothingOf makes sure that a room that has ended is not in Redis any more.
func (x *trial) nothingOf(room string) {
	for _, kind := range []string{"room", "members", "info", "left", "log", "attrs", "memberattrs", "blocked"} {
		if part := x.d.holds(x, x.d.parts(false), kind+":"+x.tag+room); part != "" {
			x.fail("%s of %q is left", kind, room)
		}
	}
}

// nothingLeft makes sure that none of this run's rooms is.
func (x *trial) nothingLeft() {
	if x.over {
		return
	}
	x.swept()
	for _, room := range trialRooms {
		x.nothingOf(room)
	}
	for _, index := range []string{"rooms", "due"} {
		if left := x.index(index); len(left) > 0 {
			x.fail("%q are left in %s", left, index)
		}
	}
}
