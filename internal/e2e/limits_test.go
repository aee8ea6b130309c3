//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// Limits of the gateways that are raced for.
const (
	maxMembers   = 30
	maxRooms     = 80
	maxUserRooms = 5
)

// A course is a deployment of three gateways with a thousand users on one
// device each, and ten on a hundred each.
type course struct {
	*testing.T
	server *servers
	rdb    *redis.Client
	prefix string
	parts  int
	gates  []*gateway
	rand   *rand.Rand
	told   *chronicle
	round  int

	people  []*racer
	devices []*racer // those of user i are 100·i and the 99 behind
	session map[string]*racer
}

// A racer is a client, and the rooms it has been told that it is in.
type racer struct {
	*wire
	user string
	in   map[string]bool
}

const (
	manyUsers   = 1000
	fewUsers    = 10
	devicesEach = 100
)

func newCourse(t *testing.T, server *servers, rdb *redis.Client, seed uint64, partitions int) *course {
	t.Helper()
	c := &course{T: t, server: server, rdb: rdb, prefix: fmt.Sprint("limits", partitions), parts: partitions,
		rand: rand.New(rand.NewPCG(seed, uint64(partitions))), session: map[string]*racer{}}
	flags := []string{
		"--redis-prefix=" + c.prefix, fmt.Sprintf("--partitions=%d", partitions), fmt.Sprintf("--max-devices=%d", devicesEach),
		fmt.Sprintf("--max-members=%d", maxMembers), fmt.Sprintf("--max-rooms=%d", maxRooms),
		fmt.Sprintf("--max-rooms-per-user=%d", maxUserRooms),
		// On a busy machine nobody is late, and thousands need not be pinged.
		"--rate-limits=false", "--log-level=info", "--redis-timeout=1m", "--lease-ttl=2m", "--session-ttl=30m",
		"--heartbeat-interval=20m", "--log-ttl=40m",
	}
	for range 3 {
		c.gates = append(c.gates, startGateway(t, server.Addr(), flags...))
	}
	c.told = newChronicle(t, rdb, c.prefix)
	for i := range manyUsers {
		c.people = append(c.people, c.connect(i, fmt.Sprint("p", i)))
	}
	for i := range fewUsers * devicesEach {
		c.devices = append(c.devices, c.connect(i, fmt.Sprint("d", i/devicesEach)))
	}
	for _, r := range slices.Concat(c.people, c.devices) {
		var login protocol.LoginResult
		r.result(&login)
		c.session[login.SessionID] = r
	}
	return c
}

// connect opens a connection to the ith gateway and sends a login.
func (c *course) connect(i int, user string) *racer {
	c.Helper()
	r := &racer{wire: connect(c, c.gates[i%len(c.gates)].URL()), user: user, in: map[string]bool{}}
	r.send(protocol.MethodLogin, fmt.Sprintf(`{"userID":%q}`, user))
	return r
}

// name makes a room ID that no other round has.
func (c *course) name(parts ...any) string {
	return strings.ReplaceAll(strings.TrimSpace(fmt.Sprintln(append([]any{c.round}, parts...)...)), " ", "-")
}

// A try is what one racer tries, and what came of it.
type try struct {
	by     *racer
	method string
	room   string
	from   string // of a switch
	make   bool   // the room entered by a switch is made if there is none
	delay  int    // of a room that is made, in seconds

	code protocol.Code // 0: it succeeded
}

func (a *try) String() string {
	return fmt.Sprintf("%s by %s of %s (from %q, %t): %d", a.method, a.by.user, a.room, a.from, a.make, a.code)
}

func (a *try) params() string {
	config := fmt.Sprintf(`{"roomDestroyDelayTime":%d}`, a.delay)
	switch a.method {
	case protocol.MethodCreateRoom, protocol.MethodEnterRoom:
		return fmt.Sprintf(`{"roomInfo":{"roomID":%q},"config":%s}`, a.room, config)
	case protocol.MethodSwitchRoom:
		return fmt.Sprintf(`{"fromRoomID":%q,"toRoomInfo":{"roomID":%q},"isCreateWhenRoomNotExisted":%t,"config":%s}`, a.from, a.room, a.make, config)
	case protocol.MethodLeaveAllRoom:
		return `{}`
	}
	return fmt.Sprintf(`{"roomID":%q}`, a.room)
}

// states is what the table of operations has the caller hear.
func (a *try) states() []string {
	active, failed := "activeEnter", "enterFailed"
	switch a.method {
	case protocol.MethodLeaveAllRoom:
		return nil
	case protocol.MethodLeaveRoom:
		if a.code == 0 {
			return []string{a.room + " disconnected success"}
		}
		return nil
	case protocol.MethodCreateRoom:
		active, failed = "activeCreate", "createFailed"
	case protocol.MethodSwitchRoom:
		active, failed = "activeSwitch", "switchFailed"
	}
	begun := a.room + " connecting " + active
	switch {
	case a.code == 0 && a.method == protocol.MethodSwitchRoom:
		return []string{begun, a.room + " connected success", a.from + " disconnected success"}
	case a.code == 0:
		return []string{begun, a.room + " connected success"}
	case a.code == protocol.CodeNoRoom && a.method != protocol.MethodSwitchRoom:
		return []string{begun, a.room + " disconnected roomNotExist"}
	}
	return []string{begun, a.room + " disconnected " + failed}
}

// state reads a frame that is the state of a room.
func state(frame string) (room, text string, ok bool) {
	if !strings.Contains(frame, `"method":"roomStateChanged"`) {
		return "", "", false
	}
	var m struct {
		Params protocol.RoomStateChanged `json:"params"`
	}
	if err := json.Unmarshal([]byte(frame), &m); err != nil {
		panic(err)
	}
	return m.Params.RoomID, fmt.Sprintf("%s %s %s", m.Params.RoomID, m.Params.State, m.Params.Event), true
}

// learn notes what a frame says about where the racer is.
func (r *racer) learn(frame string) {
	if room, text, ok := state(frame); ok {
		switch {
		case strings.HasSuffix(text, " connected success"):
			r.in[room] = true
		case strings.Contains(text, " disconnected "):
			delete(r.in, room)
		}
	}
}

// race has all racers try at once, one try each, and notes what came of it.
// Each hears what the table says, in that order. If loose, it may also hear
// that it has lost a place to others meanwhile, and is not told of entering
// where it was.
func (c *course) race(loose bool, tries []*try) {
	c.Helper()
	// With Redis held all of them are on their way when the first is decided.
	held := len(tries) > 100 && c.rand.IntN(2) == 0
	if held {
		c.server.Pause()
		defer c.server.Resume() // also if a client cannot send
	}
	c.rand.Shuffle(len(tries), func(i, j int) { tries[i], tries[j] = tries[j], tries[i] })
	for _, a := range tries {
		a.by.send(a.method, a.params())
	}
	if held {
		c.server.Resume()
	}
	wrong := 0
	for _, a := range tries {
		was := a.by.in[a.room]
		events, answer := a.by.response()
		if answer.Error != nil {
			a.code = answer.Error.Code
		}
		var got []string
		for _, frame := range events {
			a.by.learn(frame)
			if room, text, ok := state(frame); ok && (room == a.room || room == a.from && a.from != "") {
				got = append(got, text)
			}
		}
		if heard := a.states(); !slices.Equal(got, heard) && !(loose && a.excused(got, heard, was)) {
			if wrong++; wrong <= 10 {
				c.Errorf("round %d: %v: heard %q, want %q", c.round, a, got, heard)
			}
		}
	}
	c.told.read()
	if c.Failed() {
		c.FailNow()
	}
}

// excused says whether a racer may have heard got instead of what it wants,
// since it has lost a place to others, or was there already.
func (a *try) excused(got, want []string, was bool) bool {
	rest := slices.DeleteFunc(slices.Clone(got), func(s string) bool {
		return strings.HasSuffix(s, " kickedOutByOtherDevice") || strings.HasSuffix(s, " disconnected roomNotExist")
	})
	want = slices.DeleteFunc(slices.Clone(want), func(s string) bool { return strings.HasSuffix(s, " disconnected roomNotExist") })
	switch {
	case slices.Equal(rest, want):
		return true
	case was && a.code == 0 && len(want) > 1:
		return slices.Equal(rest, want[2:]) // of the room entered there is nothing to tell
	}
	return len(rest) == 0 && (was || a.code == protocol.CodeBadParameter)
}

// plan makes tries of one method in one room.
func plan(method, room string, by ...*racer) (tries []*try) {
	for _, r := range by {
		tries = append(tries, &try{by: r, method: method, room: room})
	}
	return tries
}

// prepare is race for tries that all have to succeed.
func (c *course) prepare(tries ...*try) {
	c.Helper()
	c.race(false, tries)
	for _, a := range tries {
		if a.code != 0 {
			c.Fatalf("round %d: %v", c.round, a)
		}
	}
}

// clear has everybody leave, and ends what is left.
func (c *course) clear() {
	c.Helper()
	var tries []*try
	for _, r := range slices.Concat(c.people, c.devices) {
		if len(r.in) > 0 {
			tries = append(tries, &try{by: r, method: protocol.MethodLeaveAllRoom})
		}
	}
	c.race(true, tries)
	c.expire(slices.Collect(maps.Keys(c.told.rooms))...)
	eventually(c, "no room to be left", func() bool { c.told.read(); return len(c.told.rooms) == 0 })
	c.round++
}

// hurry lets the delay of an empty room end now.
var hurry = redis.NewScript(`
	local epoch, deadline = unpack(redis.call("HMGET", KEYS[1], "epoch", "deadline"))
	if not deadline then
		return 0
	end
	local t = redis.call("TIME")
	local now = string.format("%.0f", t[1] * 1000 + math.floor(t[2] / 1000))
	redis.call("HSET", KEYS[1], "deadline", now)
	redis.call("ZADD", KEYS[2], now, ARGV[1] .. "\0" .. epoch)
	return 1`)

// expire makes empty rooms be past their deadline. Whether a gateway has
// noticed must not matter.
func (c *course) expire(rooms ...string) {
	c.Helper()
	for _, room := range rooms {
		part := fmt.Sprintf("%s:{%d}:", c.prefix, partitionOf(room, c.parts))
		if n, err := hurry.Run(c.Context(), c.rdb, []string{part + "room:" + room, part + "due"}, room).Int(); err != nil {
			c.Fatal(err)
		} else if n == 1 {
			c.told.past[room] = true
		}
	}
}

// destroy ends a room, as a backend does.
func (c *course) destroy(room string) {
	c.Helper()
	eventually(c, "the room to be destroyed", func() bool {
		status, _ := gatetest.Request(http.MethodDelete, "http://"+oneOf(c.rand, c.gates...).Addr+"/v1/rooms/"+room, "dev", "")
		return status == http.StatusOK || status == http.StatusNotFound
	})
}

// stored is who is in each room, according to Redis, and by which session. It
// fails the test if the users' lists say otherwise; if exact, also if they have
// anything else.
func (c *course) stored(exact bool) map[string]map[string]string {
	c.Helper()
	all := map[string]map[string]string{}
	users := map[string]bool{}
	for p := range c.parts {
		part := fmt.Sprintf("%s:{%d}:", c.prefix, p)
		// First what is over: a gateway may be about to drop it.
		over := c.strings(c.rdb.ZRangeArgs(c.Context(), redis.ZRangeArgs{Key: part + "due", ByScore: true, Start: "-inf", Stop: redisTime(c, c.rdb)}))
		for _, room := range c.strings(c.rdb.ZRange(c.Context(), part+"rooms", 0, -1)) {
			if slices.ContainsFunc(over, func(entry string) bool { return strings.HasPrefix(entry, room+"\x00") }) {
				continue
			}
			all[room] = map[string]string{}
			info := c.hash(part + "info:" + room)
			for _, user := range c.strings(c.rdb.ZRange(c.Context(), part+"members:"+room, 0, -1)) {
				all[room][user], _, _ = strings.Cut(info[user], "\x00")
				users[user] = true
			}
			if len(info) != len(all[room]) {
				c.Errorf("round %d: %s has %d members, and info of %d", c.round, room, len(all[room]), len(info))
			}
		}
	}
	for user := range users {
		list := map[string]string{}
		for field, value := range c.hash(fmt.Sprintf("%s:{u%d}:user:%s", c.prefix, partitionOf(user, c.parts), user)) {
			if room, ok := strings.CutPrefix(field, "r:"); ok {
				list[room] = strings.SplitN(value, "\x00", 3)[2]
			}
		}
		for room, session := range list {
			if in, ok := all[room][user]; in != session && (ok || exact) {
				c.Errorf("round %d: %s has %s on its list as %q, and is in it as %q", c.round, user, room, session, in)
			}
		}
		for room, members := range all {
			if members[user] != list[room] && members[user] != "" {
				c.Errorf("round %d: %s is in %s, and has not got it on its list %v", c.round, user, room, list)
			}
		}
	}
	return all
}

func (c *course) strings(cmd *redis.StringSliceCmd) []string {
	c.Helper()
	all, err := cmd.Result()
	if err != nil {
		c.Fatal(err)
	}
	return all
}

func (c *course) hash(key string) map[string]string {
	c.Helper()
	all, err := c.rdb.HGetAll(c.Context(), key).Result()
	if err != nil {
		c.Fatal(err)
	}
	return all
}

// agree waits until every racer has been told to be where Redis has it, and
// gives that.
func (c *course) agree(exact bool) map[string]map[string]string {
	c.Helper()
	all := c.stored(exact)
	in := map[*racer]map[string]bool{}
	for room, members := range all {
		for _, session := range members {
			r := c.session[session]
			if in[r] == nil {
				in[r] = map[string]bool{}
			}
			in[r][room] = true
		}
	}
	asked := slices.DeleteFunc(slices.Concat(c.people, c.devices), func(r *racer) bool { return len(r.in)+len(in[r]) == 0 })
	defer func() {
		if len(asked) > 0 {
			c.Logf("round %d: %s was told to be in %v, and is in %v", c.round, asked[0].user, asked[0].in, in[asked[0]])
		}
	}()
	eventually(c, "all to know where they are", func() bool {
		for _, r := range asked {
			r.send(protocol.MethodPing, "{}")
		}
		asked = slices.DeleteFunc(asked, func(r *racer) bool {
			events, _ := r.response()
			for _, frame := range events {
				r.learn(frame)
			}
			return maps.Equal(r.in, in[r])
		})
		return len(asked) == 0
	})
	return all
}

// only fails the test unless a try ended with one of these codes.
func (c *course) only(a *try, codes ...protocol.Code) {
	c.Helper()
	if !slices.Contains(codes, a.code) {
		c.Fatalf("round %d: %v, want one of %d", c.round, a, codes)
	}
}

func oneOf[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// lastPlace races for the last places of a room: by entering, joining and
// switching; some try to create it. With leavers, places become free meanwhile.
func (c *course) lastPlace(leavers bool) {
	room := c.name("room")
	people := slices.Clone(c.people)
	c.rand.Shuffle(len(people), func(i, j int) { people[i], people[j] = people[j], people[i] })
	in := 1 + c.rand.IntN(maxMembers)
	c.prepare(plan(protocol.MethodCreateRoom, room, people[0])...)
	c.prepare(plan(protocol.MethodJoinRoom, room, people[1:in]...)...)
	inside, people := people[:in], people[in:]
	var tries []*try
	for lobby := range 3 {
		from := c.name("lobby", lobby)
		c.prepare(plan(protocol.MethodEnterRoom, from, people[:maxMembers]...)...)
		for _, r := range people[:maxMembers] {
			tries = append(tries, &try{by: r, method: protocol.MethodSwitchRoom, room: room, from: from, make: c.rand.IntN(2) == 0})
		}
		people = people[maxMembers:]
	}
	for _, r := range people {
		method := oneOf(c.rand, protocol.MethodEnterRoom, protocol.MethodEnterRoom, protocol.MethodJoinRoom, protocol.MethodJoinRoom, protocol.MethodCreateRoom)
		tries = append(tries, &try{by: r, method: method, room: room})
	}
	if leavers {
		tries = append(tries, plan(protocol.MethodLeaveRoom, room, inside[1:]...)...)
	}
	c.race(false, tries)

	came, went := 0, 0
	for _, a := range tries {
		switch a.method {
		case protocol.MethodCreateRoom:
			c.only(a, protocol.CodeRoomExists)
		case protocol.MethodLeaveRoom:
			c.only(a, 0)
			went++
		default:
			c.only(a, 0, protocol.CodeRoomFull)
			if a.code == 0 {
				came++
			}
		}
	}
	if free := maxMembers - in; came < free || came > free+went {
		c.Fatalf("round %d: %d were let in for %d places, of which %d became free meanwhile", c.round, came, free+went, went)
	}
	if got := len(c.agree(true)[room]); got != in+came-went {
		c.Fatalf("round %d: %d are in the room, want %d", c.round, got, in+came-went)
	}
	c.clear()
}

// lastRoom races for the last rooms that may exist. Rooms in their delay count.
// With late, there are some past their deadline, which do not.
func (c *course) lastRoom(late bool) {
	people := slices.Clone(c.people)
	c.rand.Shuffle(len(people), func(i, j int) { people[i], people[j] = people[j], people[i] })
	next := func() *racer { r := people[0]; people = people[1:]; return r }
	free, waits, past, fitting := 1+c.rand.IntN(20), 5+c.rand.IntN(10), 0, 0
	if late {
		past = 1 + c.rand.IntN(free)
		fitting = free - c.rand.IntN(past) // would not fit if those past counted
	}
	var begin, leave, fill, tries []*try
	var lobbies, waiting, over []string
	for i := range maxRooms - free + past {
		a := &try{by: next(), method: protocol.MethodCreateRoom, room: c.name("old", i), delay: 1000}
		begin = append(begin, a)
		switch {
		case i < waits:
			waiting = append(waiting, a.room)
		case i < waits+past:
			over = append(over, a.room)
		default:
			lobbies = append(lobbies, a.room) // by stays
			continue
		}
		leave = append(leave, plan(protocol.MethodLeaveRoom, a.room, a.by)...)
	}
	for i := range 80 {
		r, from := next(), lobbies[i%len(lobbies)]
		fill = append(fill, plan(protocol.MethodJoinRoom, from, r)...)
		tries = append(tries, &try{by: r, method: protocol.MethodSwitchRoom, room: c.name("new", i), from: from, make: i%4 > 0})
	}
	c.prepare(begin...)
	c.prepare(append(leave, fill...)...)
	var fit []*try
	for i := range fitting {
		fit = append(fit, plan(protocol.MethodCreateRoom, c.name("fit", i), next())...)
	}
	for len(people) > 0 {
		a := &try{by: next(), method: oneOf(c.rand, protocol.MethodCreateRoom, protocol.MethodEnterRoom), delay: oneOf(c.rand, 0, 60)}
		switch n := c.rand.IntN(20); {
		case n < 1:
			a.method, a.room = protocol.MethodJoinRoom, c.name("never")
		case n < 2:
			a.method, a.room = oneOf(c.rand, protocol.MethodJoinRoom, a.method), oneOf(c.rand, waiting...)
		case n < 4 && past > 0:
			a.room = oneOf(c.rand, over...)
		case n < 8:
			a.room = c.name("shared", c.rand.IntN(40))
		default:
			a.room = c.name("new", len(tries))
		}
		tries = append(tries, a)
	}
	c.expire(over...)
	c.prepare(fit...)
	c.told.begin()
	c.race(false, tries)

	made := map[string]int{} // how often
	for _, a := range tries {
		if a.code == 0 && a.method != protocol.MethodJoinRoom && !slices.Contains(waiting, a.room) {
			made[a.room]++
		}
	}
	created := map[string]int{}
	for _, a := range tries {
		switch isCreate := a.method == protocol.MethodCreateRoom; {
		case a.room == c.name("never"):
			c.only(a, protocol.CodeNoRoom)
		case a.from != "" && !a.make:
			c.only(a, protocol.CodeNoRoom, protocol.CodeRoomLimit)
		case made[a.room] == 0 && !slices.Contains(waiting, a.room):
			c.only(a, protocol.CodeRoomLimit)
		case isCreate && slices.Contains(waiting, a.room):
			c.only(a, protocol.CodeRoomExists)
		case isCreate:
			c.only(a, 0, protocol.CodeRoomExists)
			if a.code == 0 {
				created[a.room]++
			}
		case c.told.full[a.room]:
			c.only(a, 0, protocol.CodeRoomFull)
		default:
			c.only(a, 0)
		}
	}
	for room, n := range created {
		if n > 1 {
			c.Fatalf("round %d: %s was created %d times", c.round, room, n)
		}
	}
	if len(made) != free-fitting {
		c.Fatalf("round %d: %d rooms were made, want %d", c.round, len(made), free-fitting)
	}
	if got := len(c.agree(true)); got != maxRooms {
		c.Fatalf("round %d: there are %d rooms, want %d", c.round, got, maxRooms)
	}
	c.clear()
}

// usersLastRoom races for the last rooms that users may be in, each from a
// hundred devices. Some places on their lists are void, since the rooms were
// destroyed; some tries fail for another reason; and some devices switch, which
// is always allowed. With leavers, some leave a room meanwhile.
func (c *course) usersLastRoom(leavers bool) {
	hosts := c.people[:10]
	full := c.name("full")
	prepared := plan(protocol.MethodEnterRoom, full, c.people[10:10+maxMembers]...)
	var houses []string
	for i, r := range hosts {
		houses = append(houses, c.name("house", i))
		prepared = append(prepared, plan(protocol.MethodEnterRoom, houses[i], r)...)
	}
	var tries []*try
	var void []string
	free, freed := map[string]int{}, map[string]int{}
	for u := range fewUsers {
		devices := slices.Clone(c.devices[u*devicesEach : (u+1)*devicesEach])
		c.rand.Shuffle(len(devices), func(i, j int) { devices[i], devices[j] = devices[j], devices[i] })
		in := c.rand.IntN(maxUserRooms + 1)
		free[devices[0].user] = maxUserRooms - in
		for i := range maxUserRooms {
			r, room := devices[i], c.name("before", u, i)
			if i < in || c.rand.IntN(2) == 0 {
				prepared = append(prepared, plan(protocol.MethodEnterRoom, room, r)...)
			}
			switch {
			case i >= in:
				void = append(void, room)
			case leavers && c.rand.IntN(2) == 0:
				tries = append(tries, plan(protocol.MethodLeaveRoom, room, r)...)
				freed[r.user]++
			case c.rand.IntN(3) > 0:
				to := oneOf(c.rand, c.name("new", u, "switch", i), c.name("new", u, "switch", i), full)
				tries = append(tries, &try{by: r, method: protocol.MethodSwitchRoom, room: to, from: room, make: true})
			}
		}
		for i, r := range devices[maxUserRooms:] {
			a := &try{by: r, method: oneOf(c.rand, protocol.MethodCreateRoom, protocol.MethodEnterRoom), room: c.name("new", u, i)}
			switch n := c.rand.IntN(20); {
			case n < 3:
				a.method, a.room = protocol.MethodJoinRoom, c.name("never")
			case n < 5:
				a.method, a.room = oneOf(c.rand, protocol.MethodJoinRoom, protocol.MethodEnterRoom), full
			case n < 9:
				a.method, a.room = oneOf(c.rand, protocol.MethodJoinRoom, protocol.MethodEnterRoom), oneOf(c.rand, houses...)
			}
			tries = append(tries, a)
		}
	}
	c.prepare(prepared...)
	for _, room := range void {
		if _, ok := c.told.rooms[room]; ok {
			c.destroy(room)
		}
	}
	c.race(false, tries)

	entered := map[string]map[string]bool{} // by user
	for _, a := range tries {
		if entered[a.by.user] == nil {
			entered[a.by.user] = map[string]bool{}
		}
		switch {
		case a.method == protocol.MethodLeaveRoom:
			c.only(a, 0)
		case a.room == c.name("never"):
			c.only(a, protocol.CodeNoRoom)
		case a.room == full && a.from != "":
			c.only(a, protocol.CodeRoomFull)
		case a.room == full:
			c.only(a, protocol.CodeRoomFull, protocol.CodeUserRoomLimit)
		case a.from != "":
			c.only(a, 0)
		default:
			c.only(a, 0, protocol.CodeUserRoomLimit)
			if a.code == 0 {
				entered[a.by.user][a.room] = true
			}
		}
	}
	for _, a := range tries {
		// To a room that the user is in the limit is no obstacle.
		if !leavers && entered[a.by.user][a.room] {
			c.only(a, 0)
		}
	}
	for user, rooms := range entered {
		if n := len(rooms); n < free[user] || n > free[user]+freed[user] {
			c.Fatalf("round %d: %s came into %d rooms, want %d, and up to %d more", c.round, user, n, free[user], freed[user])
		}
	}
	in := map[string]int{}
	for _, members := range c.agree(true) {
		for user := range members {
			in[user]++
		}
	}
	for user, rooms := range entered {
		if want := maxUserRooms - free[user] - freed[user] + len(rooms); in[user] != want {
			c.Fatalf("round %d: %s is in %d rooms, want %d", c.round, user, in[user], want)
		}
	}
	c.clear()
}

// everything has many racers do anything, a few times in a row, while rooms are
// destroyed. No limit is exceeded at any time, nobody is refused for a limit
// that was not reached, and in the end all agree on who is where.
func (c *course) everything() {
	name := func() string { return c.name("room", c.rand.IntN(100)) }
	for range 3 {
		var tries []*try
		for _, r := range slices.Concat(c.people[:600], c.devices) {
			a := &try{by: r, room: name(), method: oneOf(c.rand, protocol.MethodCreateRoom, protocol.MethodEnterRoom,
				protocol.MethodEnterRoom, protocol.MethodJoinRoom), delay: oneOf(c.rand, 0, 60)}
			if len(r.in) > 0 {
				from := slices.Sorted(maps.Keys(r.in))[0]
				switch c.rand.IntN(4) {
				case 0:
					a.method, a.from, a.make = protocol.MethodSwitchRoom, from, c.rand.IntN(2) == 0
					if a.room == from {
						a.from = c.name("nowhere")
					}
				case 1:
					a.method, a.room = protocol.MethodLeaveRoom, from
				}
			}
			tries = append(tries, a)
		}
		c.told.begin()
		done := make(chan struct{})
		doomed := []string{name(), name(), name()}
		go func() {
			defer close(done)
			for _, room := range doomed {
				gatetest.Request(http.MethodDelete, "http://"+c.gates[0].Addr+"/v1/rooms/"+room, "dev", "") // there may be none
			}
		}()
		c.race(true, tries)
		<-done
		c.told.read()
		for _, a := range tries {
			refused := map[protocol.Code]bool{
				protocol.CodeRoomFull:      c.told.full[a.room],
				protocol.CodeRoomLimit:     c.told.allRooms,
				protocol.CodeUserRoomLimit: c.told.busy[a.by.user],
			}
			if ok, limit := refused[a.code]; limit && !ok {
				c.Fatalf("round %d: %v, and the limit was not reached", c.round, a)
			}
			c.only(a, 0, protocol.CodeRoomFull, protocol.CodeRoomLimit, protocol.CodeUserRoomLimit, protocol.CodeNoRoom,
				protocol.CodeRoomExists, protocol.CodeBadParameter, protocol.CodeNotInRoom, protocol.CodeLeaveNoRoom)
		}
		c.agree(false)
	}
	c.clear()
}

// A chronicle is the history of a deployment's rooms, as Redis announced it: in
// the order in which it happened. It fails the test when a limit is exceeded.
type chronicle struct {
	t      *testing.T
	rdb    *redis.Client
	prefix string
	sub    *redis.PubSub
	marks  int

	rooms map[string]map[string]bool // who is in each
	past  map[string]bool            // rooms that do not exist any more, announced or not
	users map[string]int             // rooms each is in
	moves roomstore.SessionID        // is in one room too many, and so has to leave one next

	// Which limits have been reached since begin.
	full     map[string]bool
	busy     map[string]bool
	allRooms bool
}

func newChronicle(t *testing.T, rdb *redis.Client, prefix string) *chronicle {
	t.Helper()
	c := &chronicle{t: t, rdb: rdb, prefix: prefix, rooms: map[string]map[string]bool{}, past: map[string]bool{}, users: map[string]int{}}
	c.sub = rdb.PSubscribe(t.Context(), prefix+":{*")
	if _, err := c.sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.sub.Close() })
	c.begin()
	return c
}

// begin notes which limits are reached now.
func (c *chronicle) begin() {
	c.full, c.busy, c.allRooms = map[string]bool{}, map[string]bool{}, false
	for room, members := range c.rooms {
		c.full[room] = len(members) >= maxMembers
	}
	for user, n := range c.users {
		c.busy[user] = n >= maxUserRooms
	}
	c.countRooms()
}

// read takes in what has been announced until now.
func (c *chronicle) read() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	c.marks++
	mark := fmt.Sprint(c.marks)
	if err := c.rdb.Publish(ctx, c.prefix+":{mark}", mark).Err(); err != nil {
		c.t.Fatal(err)
	}
	for {
		m, err := c.sub.ReceiveMessage(ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		_, rest, _ := strings.Cut(m.Channel, "}")
		switch room, isRoom := strings.CutPrefix(rest, ":ch:"); {
		case isRoom:
			c.event(room, m.Payload)
		case rest == ":life":
			f := strings.SplitN(m.Payload, "\x00", 4)
			c.life(f[0], f[3])
		case rest == "" && m.Payload == mark:
			return
		}
	}
}

func (c *chronicle) life(what, room string) {
	c.t.Helper()
	if what == "destroyed" {
		delete(c.rooms, room)
		delete(c.past, room)
		return
	}
	c.rooms[room] = map[string]bool{}
	delete(c.past, room)
	if n := c.countRooms(); n > maxRooms {
		c.t.Errorf("%s is room %d, allowed are %d", room, n, maxRooms)
	}
}

func (c *chronicle) countRooms() int {
	n := len(c.rooms) - len(c.past)
	c.allRooms = c.allRooms || n >= maxRooms
	return n
}

func (c *chronicle) event(room, payload string) {
	c.t.Helper()
	e, err := roomstore.DecodeEvent(payload)
	if err != nil {
		c.t.Fatal(err)
	}
	user, members := string(e.User), c.rooms[room]
	if was := members[user]; e.Kind != roomstore.KindDestroyed && was != (e.Kind != roomstore.KindJoined) {
		c.t.Errorf("%s: %c of %s, in the room before: %t", room, e.Kind, user, was)
	}
	if c.moves != "" && (e.Kind != roomstore.KindLeft || e.Origin != c.moves) {
		c.t.Errorf("a user is in more than %d rooms, and then comes %q", maxUserRooms, payload)
	}
	c.moves = ""
	switch e.Kind {
	case roomstore.KindJoined:
		members[user] = true
		c.users[user]++
		if len(members) > maxMembers || c.users[user] > maxUserRooms+1 {
			c.t.Errorf("%s: %s is member %d, in %d rooms; allowed are %d and %d", room, user, len(members), c.users[user], maxMembers, maxUserRooms)
		}
		if c.users[user] > maxUserRooms {
			c.moves = e.Origin
		}
		c.full[room] = c.full[room] || len(members) == maxMembers
		c.busy[user] = c.busy[user] || c.users[user] == maxUserRooms
	case roomstore.KindLeft:
		delete(members, user)
		c.users[user]--
	case roomstore.KindDestroyed:
		for user := range members {
			c.users[user]--
		}
		clear(members)
	}
}

// Limits are exact under any concurrency: of a thousand clients on three
// gateways that race for the last place, the last room, or the last of a user's
// rooms exactly so many get in as there is room for, and the others are told
// why not.
func TestLimits(t *testing.T) {
	t.Parallel()
	server, rdb := redisServer(t) // the chronicle is in the order of one Redis
	seed := seedOf(t)
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			c := newCourse(t, server, rdb, seed, partitions)
			for i := range 3 {
				c.lastPlace(i == 1)
				c.lastRoom(i != 1)
				c.usersLastRoom(i == 1)
			}
			c.everything()
		})
	}
}
