//go:build linux

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// A registry is what Redis announced of all rooms, in its order; on a Cluster, by when
// that was.
type registry struct {
	masters []*redistest.Server

	mu      sync.Mutex
	entries []announced
	ended   int // masters that have announced nothing since
}

type announced struct {
	at   float64 // on a Cluster
	room string
	roomstore.Event
}

// lastOf is a room that nobody is in. What is announced of it comes after everything
// else.
const lastOf = "the last of all"

// listen begins the registry of a deployment.
func listen(t testing.TB, server *servers, rdb redis.UniversalClient) *registry {
	t.Helper()
	c := &registry{masters: []*redistest.Server{server.Server}}
	if server.Cluster == nil {
		tap(t, rdb.PSubscribe(t.Context(), "rg:{*}:ch:*"), func(channel, payload string) { c.note(t, 0, channel, payload) })
		return c
	}
	c.masters = server.Cluster.Masters
	monitor(t, c.masters, func(at float64, channel, payload string) { c.note(t, at, channel, payload) })
	return c
}

func (c *registry) note(t testing.TB, at float64, channel, payload string) {
	_, room, is := strings.Cut(channel, ":ch:")
	if !is {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if room == lastOf {
		c.ended++
		return
	}
	e, err := roomstore.DecodeEvent(payload)
	if err != nil {
		t.Errorf("event %q: %v", payload, err)
	}
	c.entries = append(c.entries, announced{at, room, e})
}

// whole waits for all that has been announced.
func (c *registry) whole(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	want := c.ended + len(c.masters)
	c.mu.Unlock()
	for _, m := range c.masters {
		if err := m.Client(t).Publish(t.Context(), "rg:{0}:ch:"+lastOf, "").Err(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the registry to be whole", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.ended >= want
	})
}

func (c *registry) all() []announced {
	c.mu.Lock()
	defer c.mu.Unlock()
	entries := slices.Clone(c.entries)
	slices.SortStableFunc(entries, func(a, b announced) int { return cmp.Compare(a.at, b.at) })
	return entries
}

// joined counts how often users whose names begin like this have come into a room.
func (c *registry) joined(prefix string) (n int) {
	for _, e := range c.all() {
		if e.Kind == roomstore.KindJoined && strings.HasPrefix(string(e.User), prefix) {
			n++
		}
	}
	return n
}

// departures counts those of users, by user, for a reason.
func (c *registry) departures(reason roomstore.Reason) map[string]int {
	n := map[string]int{}
	for _, e := range c.all() {
		if e.Kind == roomstore.KindLeft && e.Reason == reason {
			n[string(e.User)]++
		}
	}
	return n
}

// A death is what a gateway that is killed has not heard, or not been able to say.
type death struct {
	loss faultproxy.Loss
	step string // of which script; "" for all
}

// deaths are those of gateways while everybody switches rooms. On a Cluster a switch is
// five steps, after each of which it may end: some of these, or with -long all.
func deaths(server *servers, r *rand.Rand) []death {
	all := []death{{loss: faultproxy.Nothing}}
	steps := []string{""}
	if server.Cluster != nil {
		steps = nil
		for _, s := range []lua.Script{lua.Reserve, lua.Holds, lua.Switch, lua.Quit, lua.Resolve} {
			steps = append(steps, s.Sharded.Hash())
		}
	}
	for _, step := range steps {
		all = append(all, death{faultproxy.Answers, step}, death{faultproxy.Calls, step})
	}
	if server.Cluster != nil && !*long {
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:4]
	}
	return all
}

// Gateways are killed one after another while everybody switches rooms all the
// time, at a moment that a seed decides: when calls were answered, when Redis did
// what they ask and the answer is lost, or when they are lost themselves. At no
// moment is anybody in two rooms or in none; who comes back is where the switch
// that was under way leads, and who does not is gone from the one room they were
// in. On a Cluster they may be in both rooms of a switch until it is finished.
func TestKilled_switching(t *testing.T) {
	t.Parallel()
	const people, lastings = 24, 4 // of each gateway, how many do not come back
	r := rand.New(rand.NewPCG(seedOf(t), 6))
	server, rdb := anyRedis(t)
	book := listen(t, server, rdb)
	flags := []string{"--rate-limits=false", "--session-ttl=8s", "--redis-timeout=1500ms", "--max-rooms-per-user=1"}
	var gates []*gateway
	var links []*link
	var urls []string
	for i := range 3 {
		addr := addrToKeep(t)
		links = append(links, linkTo(t, server))
		urls = append(urls, "ws://"+addr)
		gates = append(gates, startGateway(t, links[i].Addr(), append([]string{"--listen=" + addr}, flags...)...))
	}
	room := func(n int) string { return fmt.Sprintf("X%d", n%5) }

	// Those who come back, and where they have been told that they are.
	movers, where, done := make([]*person, people), make([]string, people), make([]atomic.Int64, people)
	for i := range movers {
		home := slices.Concat(urls[i%3:], urls[:i%3])
		movers[i], where[i] = meet(t, fmt.Sprintf("m%d", i), home...), room(i)
		movers[i].enter(where[i])
	}
	var stop atomic.Bool
	var moving sync.WaitGroup
	// The clients are closed when the test ends, which may be early.
	t.Cleanup(func() { stop.Store(true); moving.Wait() })
	for i, p := range movers {
		own := rand.New(rand.NewPCG(r.Uint64(), 0))
		moving.Go(func() {
			tick := time.NewTicker(25 * time.Millisecond)
			defer tick.Stop()
			for ; !stop.Load(); <-tick.C {
				to := where[i]
				for to == where[i] {
					to = room(own.IntN(5))
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				_, err := p.SwitchRoom(ctx, where[i], protocol.RoomBaseInfo{RoomID: to}, true, nil)
				cancel()
				if err != nil {
					if !stop.Load() {
						t.Errorf("%s switches from %s to %s: %v", p.name, where[i], to, err)
					}
					return
				}
				where[i] = to
				done[i].Add(1)
			}
		})
	}
	made := func() (n int64) {
		for i := range done {
			n += done[i].Load()
		}
		return n
	}

	lost := map[string]bool{}
	gate := r.IntN(3)
	for round, death := range deaths(server, r) {
		gate = (gate + 1 + r.IntN(2)) % 3
		// Those who do not come back.
		var gone []*wire
		for i := range lastings {
			w := enroll(gates[gate], t, fmt.Sprintf("gone%d-%d", round, i))
			w.enter(room(i))
			gone = append(gone, w)
			lost[w.name] = true
		}
		until := made() + int64(50+r.IntN(150))
		eventually(t, "people to switch", func() bool { return made() >= until })
		links[gate].ScriptsWith(death.loss, death.step)
		for i, w := range gone {
			w.send(protocol.MethodSwitchRoom, fmt.Sprintf(`{"fromRoomID":%q,"toRoomInfo":{"roomID":%q},"isCreateWhenRoomNotExisted":true,"requestKey":1}`, room(i), room(i+1)))
		}
		more := 3 + r.IntN(4) // one or two may just be on their way elsewhere
		switch {
		case death.loss == faultproxy.Nothing:
		case server.Cluster != nil:
			// As many as rooms have slots at most: what waits in one has one connection.
			eventually(t, "something to get lost", func() bool { return links[gate].Lost() >= 1+more/3 })
		case death.loss == faultproxy.Answers:
			eventually(t, "switches that nobody has been told of", func() bool {
				told := made() // first: what is done meanwhile counts as neither
				return book.joined("m")-people-int(told) >= more
			})
		default:
			eventually(t, "something to get lost", func() bool { return links[gate].Lost() >= more })
		}
		gates[gate].Kill()
		links[gate].Scripts(faultproxy.Nothing)
		gates[gate] = startGateway(t, links[gate].Addr(), append([]string{"--listen=" + strings.TrimPrefix(urls[gate], "ws://")}, flags...)...)
	}
	for i := range movers {
		began := done[i].Load()
		eventually(t, movers[i].name+" to go on", func() bool { return done[i].Load() > began+2 || t.Failed() })
	}
	stop.Store(true)
	moving.Wait()
	eventually(t, "those to be evicted who do not come back", func() bool { return len(book.departures(roomstore.ReasonTimeout)) >= len(lost) })

	book.whole(t)

	// The registry, replayed: where everybody is.
	is := map[string]map[string]bool{}
	switched := 0
	entries := book.all()
	for n, e := range entries {
		user := string(e.User)
		rooms := is[user]
		if rooms == nil {
			rooms = map[string]bool{}
			is[user] = rooms
		}
		switch e.Kind {
		case roomstore.KindJoined:
			if rooms[e.room] {
				t.Errorf("%d: %s comes into %s twice", n, user, e.room)
			}
			rooms[e.room] = true
			if len(rooms) == 1 {
				break
			}
			// To enter one is to leave the other, before anything else happens, or on a
			// Cluster anything else to them.
			switched++
			next := n + 1
			for server.Cluster != nil && next < len(entries) && entries[next].User != e.User {
				next++
			}
			if next == len(entries) || entries[next].Kind != roomstore.KindLeft || entries[next].User != e.User || entries[next].room == e.room {
				t.Errorf("%d: %s is in %v", n, user, slices.Sorted(maps.Keys(rooms)))
			}
		case roomstore.KindLeft:
			if !rooms[e.room] {
				t.Errorf("%d: %s leaves %s and is in %v", n, user, e.room, rooms)
			}
			delete(rooms, e.room)
			if len(rooms) == 0 && (e.Reason != roomstore.ReasonTimeout || !lost[user]) {
				t.Errorf("%d: %s left %s (%s) and is nowhere", n, user, e.room, e.Reason)
			}
		}
	}
	for user := range lost {
		if n := len(is[user]); n != 0 || book.departures(roomstore.ReasonTimeout)[user] != 1 {
			t.Errorf("%s, who did not come back, is in %v", user, is[user])
		}
	}
	resumed := 0
	for i, p := range movers {
		if !maps.Equal(is[p.name], map[string]bool{where[i]: true}) {
			t.Errorf("%s was told to be in %s and is in %v", p.name, where[i], is[p.name])
		}
		count, err := p.QueryRoomMembers(t.Context(), where[i], []string{p.name})
		if err != nil || len(count.MemberList) != 1 {
			t.Errorf("%s asks for themselves in %s: %+v %v", p.name, where[i], count, err)
		}
		if s := p.Stats(); s.Duplicates != 0 || s.Malformed != 0 || s.Logins != 1+s.Resumes {
			t.Errorf("%s: %+v", p.name, s)
		} else {
			resumed += int(s.Resumes)
		}
	}
	t.Logf("%d switches, %d times somebody came back, %d did not", switched, resumed, len(lost))
	if resumed < people {
		t.Errorf("only %d times somebody came back, so this shows little", resumed)
	}
	if status, printed := fsck(t, server.Addr(), "--session-ttl=8s"); status != 0 {
		t.Errorf("an audit has %d: %s", status, printed)
	}
}

// A gateway dies with many people, the one that takes over what it had dies
// half-way, and the one that takes them out of their rooms at their deadline dies
// half-way, too. The last one finishes it: everybody is gone once, nobody sooner
// than at the deadline, and nobody else.
func TestKilled_sweeping(t *testing.T) {
	t.Parallel()
	// The deadline is a ttl and the time nobody sweeps, 5 s, after the first death: sooner than what is waited for.
	const groups, rooms, perGroup, ttl, logTTL = 8, 4, 50, 12 * time.Second, 5 * time.Minute // 1,600 memberships
	server, rdb := anyRedis(t)
	book := listen(t, server, rdb)
	var gates []*gateway
	var links []*link
	for i := range 4 {
		links = append(links, linkTo(t, server))
		gates = append(gates, startGateway(t, links[i].Addr(), "--rate-limits=false", fmt.Sprintf("--session-ttl=%v", ttl),
			fmt.Sprintf("--log-ttl=%v", logTTL), "--max-rooms-per-user=100"))
	}
	dead := gates[3]
	gates = gates[:3]
	room := func(group, n int) string { return fmt.Sprintf("g%d-%d", group, n) }
	// One who stays on each gateway, in every room.
	var stay []*person
	for i, g := range gates {
		p := meet(t, fmt.Sprintf("s%d", i), g.URL(), gates[(i+1)%3].URL(), gates[(i+2)%3].URL())
		for group := range groups {
			for n := range rooms {
				p.enter(room(group, n))
			}
		}
		stay = append(stay, p)
	}
	for i := range groups * perGroup {
		w := enroll(dead, t, fmt.Sprintf("u%d", i))
		var batch []string
		for n := range rooms {
			batch = append(batch, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"enterRoom","params":{"roomInfo":{"roomID":%q}}}`, 100+n, room(i%groups, n)))
		}
		// On a machine that is very busy Redis may be late; to enter again is no harm.
		eventually(t, w.name+" to be in", func() bool {
			w.raw("[" + strings.Join(batch, ",") + "]")
			answer := w.take()
			for !strings.HasPrefix(answer, "[") {
				answer = w.take() // an event
			}
			got := brief(answer)
			for _, one := range strings.Fields(strings.Trim(strings.ReplaceAll(got, "error ", "error-"), "[]")) {
				if one != "ok" && one != "error-6000007" && one != "error-6000326" {
					t.Fatalf("%s got %s", w.name, answer)
				}
			}
			return !strings.Contains(got, "error")
		})
	}
	const all = groups * perGroup * rooms
	node := dead.Node()
	places, sessions := inPartitions(rdb, "node:"+node), inUsers(rdb, "nodesessions:"+node)
	held := func() int { return sizeOf(t, rdb, places) }
	if n := held(); n != all {
		t.Fatalf("the gateway has %d memberships, want %d", n, all)
	}
	dead.Kill()
	leaseEnd, err := rdb.ZScore(t.Context(), nodesKey(rdb), node).Result()
	if err != nil {
		t.Fatal(err)
	}
	// half kills the gateway of which a call with a text in it came to Redis, whose
	// answer it has not had, once that shows. It gives which one that was.
	// On a Cluster, where all gateways sweep many slots at once, no call about one of them
	// comes to Redis meanwhile. It is not that of the leases.
	one := ""
	for n := 0; server.Cluster != nil && (one == "" || one == "rg:{0}:"); n++ {
		one = partOf("rg", partitionsOf(rdb), room(n/rooms, n%rooms))
	}
	half := func(text, what string, shows func() bool) int {
		t.Helper()
		loss := faultproxy.Answers
		if server.Cluster != nil {
			loss, text = faultproxy.Calls, one
		}
		for i, l := range links[:3] {
			if !gates[i].Over() {
				l.ScriptsWith(loss, text)
			}
		}
		i := -1
		eventually(t, what, func() bool {
			i = slices.IndexFunc(links[:3], func(l *link) bool { return l.Lost() > 0 })
			return i >= 0 && shows()
		})
		gates[i].Kill()
		for _, l := range links[:3] {
			l.Scripts(faultproxy.Nothing)
		}
		return i
	}
	// A sweep that takes over names the gateway that is dead.
	first := half(node, "the first of it to be taken over", func() bool { return held() < all })
	left := held()
	eventually(t, "all of it to be taken over", func() bool {
		return held() == 0 && sizeOf(t, rdb, sessions) == 0
	})
	waiting := sizeOf(t, rdb, inPartitions(rdb, "parked"))
	// Nobody asks for anything else that has to do with the log.
	second := half(fmt.Sprintf("\r\n%d\r\n", logTTL.Milliseconds()), "the first to be evicted", func() bool {
		return len(book.departures(roomstore.ReasonTimeout)) > 0
	})
	evicted := 0
	for _, n := range book.departures(roomstore.ReasonTimeout) {
		evicted += n
	}
	t.Logf("gateway %d died with %d of %d left to take over, gateway %d with %d of %d evicted", first, left, all, second, evicted, waiting)
	if left == 0 || left == all || evicted == 0 || evicted >= all {
		t.Error("it was not in the middle of it, so this shows nothing")
	}
	eventually(t, "all to be evicted", func() bool {
		n := 0
		for _, times := range book.departures(roomstore.ReasonTimeout) {
			n += times
		}
		return n >= all
	})
	for user, n := range book.departures(roomstore.ReasonTimeout) {
		if n != rooms || !strings.HasPrefix(user, "u") {
			t.Errorf("%s was evicted from %d rooms, want %d, and only those who are gone", user, n, rooms)
		}
	}
	takenBack := map[string]int{} // entries that were answered as failed while the machine was busy
	for _, e := range book.all() {
		if e.Kind == roomstore.KindLeft && e.Reason == roomstore.ReasonLeft {
			takenBack[string(e.User)]++
		}
		if e.Kind == roomstore.KindLeft && e.Reason == roomstore.ReasonTimeout && e.At < int64(leaseEnd)+ttl.Milliseconds() {
			t.Fatalf("%s was evicted %d ms too early", e.User, int64(leaseEnd)+ttl.Milliseconds()-e.At)
		}
	}
	// Those who stayed saw each of them go once, and nobody else.
	for _, p := range stay {
		for group := range groups {
			for n := range rooms {
				eventually(t, p.name+" to say something", func() bool {
					m := protocol.OutgoingMessage{Type: protocol.MessageText, Message: "the end"}
					_, err := p.SendRoomMessage(t.Context(), room(group, n), m, nil)
					return err == nil
				})
			}
		}
	}
	for i, p := range stay {
		other := stay[(i+1)%3].name
		for group := range groups {
			for n := range rooms {
				eventually(t, p.name+" to hear the end", func() bool {
					return slices.ContainsFunc(p.all(), func(e client.Event) bool {
						m, is := e.(*client.MessageReceived)
						return is && m.FromConversationID == room(group, n) && m.MessageList[0].SenderUserID == other
					})
				})
			}
		}
		saw := map[string]int{}
		for _, ev := range p.all() {
			switch ev := ev.(type) {
			case *client.MemberLeft:
				for _, u := range ev.MemberList { // all at once for who was away
					saw[u.UserID]++
				}
			case *client.HistoryLost:
				t.Errorf("%s: %+v", p.name, ev)
			}
		}
		for user, n := range saw {
			if n < rooms || n > rooms+takenBack[user] || !strings.HasPrefix(user, "u") {
				t.Errorf("%s saw %s leave %d times, want %d", p.name, user, n, rooms)
			}
		}
		if s := p.Stats(); len(saw) != groups*perGroup || s.Duplicates != 0 || s.Malformed != 0 || s.Logins != 1+s.Resumes {
			t.Errorf("%s saw %d leave, %+v", p.name, len(saw), s)
		}
	}
	if status, printed := fsck(t, server.Addr(), fmt.Sprintf("--session-ttl=%v", ttl)); status != 0 {
		t.Errorf("an audit has %d: %s", status, printed)
	}
}
