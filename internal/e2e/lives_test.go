//go:build linux

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// A register is what Redis announced of the lives of all rooms, held against
// the rules in the order in which it happened: a life begins once and ends
// once, its events have no hole, and nobody is in it when it ends, unless a
// backend ends it.
type register struct {
	t      testing.TB
	prefix string

	mu      sync.Mutex
	lives   map[birth]*life
	over    int // lives that have ended
	orphans int // of them, those whose members nobody told
	bad     int // breaches; the first ones are reported
}

// A birth tells lives apart: epochs only grow within a partition.
type birth struct {
	part  string // its prefix
	epoch int64
}

// life is one epoch of a room ID.
type life struct {
	room    string
	seq     int64
	members map[roomstore.UserID]struct{}
	last    roomstore.Event // how the last member went
	told    bool            // the members have been told of the end
	at      int64           // when, on Redis's clock
	ended   int             // times on the life channel
	reason  roomstore.Reason
}

// record begins a register of a deployment, with nothing between it and Redis.
func record(t testing.TB, server *servers, rdb redis.UniversalClient, prefix string) *register {
	t.Helper()
	r := &register{t: t, prefix: prefix, lives: map[birth]*life{}}
	if server.Cluster != nil {
		monitor(t, server.Cluster.Masters, func(_ float64, channel, payload string) {
			if strings.HasSuffix(channel, "}:life") || strings.Contains(channel, "}:ch:") {
				r.hear(channel, payload)
			}
		})
		return r
	}
	// It may read slowly, but must not lose anything.
	if err := rdb.ConfigSet(t.Context(), "client-output-buffer-limit", "pubsub 0 0 0").Err(); err != nil {
		t.Fatal(err)
	}
	ps := rdb.PSubscribe(t.Context(), prefix+":{*}:life", prefix+":{*}:ch:*", prefix+":mark")
	for range 3 {
		if _, err := ps.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var closed atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := ps.Receive(context.Background())
			switch m := m.(type) {
			case *redis.Message:
				r.hear(m.Channel, m.Payload)
			case *redis.Subscription:
				t.Error("the register's connection broke")
			default:
				if !closed.Load() {
					t.Errorf("the register: %v", err)
				}
				return
			}
		}
	}()
	t.Cleanup(func() {
		closed.Store(true)
		ps.Close()
		<-done
	})
	return r
}

func (r *register) breach(format string, args ...any) {
	if r.bad++; r.bad <= 10 {
		r.t.Errorf(format, args...)
	}
}

func (r *register) hear(channel, payload string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	part := channel[:strings.Index(channel, "}:")]
	if !strings.HasSuffix(channel, "}:life") {
		e, err := roomstore.DecodeEvent(payload)
		if err != nil {
			r.breach("event %q: %v", payload, err)
			return
		}
		r.event(part, e)
		return
	}
	f := strings.SplitN(payload, "\x00", 4)
	epoch, err := strconv.ParseInt(f[1], 10, 64)
	id := birth{part, epoch}
	l := r.lives[id]
	switch {
	case err == nil && f[0] == "created" && l == nil:
		r.lives[id] = &life{room: f[3], members: map[roomstore.UserID]struct{}{}}
	case err == nil && f[0] == "destroyed" && l != nil && l.room == f[3]:
		if r.over++; !l.told {
			r.orphans++
		}
		if l.ended++; l.ended > 1 {
			r.breach("life %d of %s ended %d times", epoch, l.room, l.ended)
		}
		l.reason = roomstore.Reason(f[2])
	default:
		r.breach("on the life channel, after %+v: %q", l, payload)
	}
}

func (r *register) event(part string, e roomstore.Event) {
	l := r.lives[birth{part, e.Epoch}]
	if l == nil || l.told || e.Kind == roomstore.KindCommand || e.Seq != l.seq+1 {
		r.breach("in the life %+v: event %+v", l, e)
		return
	}
	l.seq = e.Seq
	switch e.Kind {
	case roomstore.KindJoined:
		l.members[e.User] = struct{}{}
	case roomstore.KindLeft:
		delete(l.members, e.User)
		l.last = e
	case roomstore.KindDestroyed:
		if len(l.members) > 0 && e.Reason != roomstore.ReasonDestroyed {
			r.breach("life %d of %s ended with %v in it", e.Epoch, l.room, l.members)
		}
		l.told, l.at = true, e.At
	}
}

func (r *register) counts() (begun, over int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.lives), r.over
}

// close waits until all lives are over, and nothing is left of any. It waits
// for as long as something goes on.
func (r *register) close(rdb redis.UniversalClient) {
	r.t.Helper()
	var left []string
	defer func() {
		if r.t.Failed() {
			r.t.Logf("left are %q", left)
		}
	}()
	for before, now := -1, -1; now != 0; before = now {
		eventually(r.t, "everything to end", func() bool {
			left = leftovers(r.t, rdb, r.prefix)
			begun, over := r.counts()
			now = begun - over + len(left)
			return now == 0 || now != before
		})
	}
}

// of gives the lives of a room ID in their order.
func (r *register) of(room string) (all []life) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var births []birth
	for id, l := range r.lives {
		if l.room == room {
			births = append(births, id)
		}
	}
	slices.SortFunc(births, func(a, b birth) int { return cmp.Compare(a.epoch, b.epoch) })
	for _, id := range births {
		all = append(all, *r.lives[id])
	}
	return all
}

// road says how a life ended.
func (l *life) road() string {
	switch {
	case l.reason == roomstore.ReasonDestroyed:
		return "destroyed"
	case l.at > l.last.At:
		return "delayed"
	case strings.HasPrefix(l.room, "switch"):
		return "switched"
	}
	return string(l.last.Reason)
}

// A fleet is gateways of one deployment that are killed and replaced while
// clients use them: each is one of gate-0, gate-1, … to them.
type fleet struct {
	t     testing.TB
	start func() *gateway
	http  *http.Client // finds gate-n wherever it is now

	mu    sync.Mutex
	gates []*gateway
}

func startFleet(t testing.TB, n int, redisAddr string, flags ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, start: func() *gateway { return startGateway(t, redisAddr, flags...) }}
	for range n {
		f.gates = append(f.gates, f.start())
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(addr, "gate-"), ":80"))
		if err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, f.at(n).Addr)
	}}
	f.http = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return f
}

func (f *fleet) at(n int) *gateway {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gates[n]
}

// replace kills a gateway and starts another in its place.
func (f *fleet) replace(n int) {
	f.t.Helper()
	f.at(n).Kill()
	g := f.start()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gates[n] = g
}

// dial logs a user in at gate n, who goes on to the others from there.
func (f *fleet) dial(ctx context.Context, user string, n int) (*client.Client, error) {
	var urls []string
	for i := range f.gates {
		urls = append(urls, fmt.Sprintf("ws://gate-%d", (n+i)%len(f.gates)))
	}
	return client.Dial(ctx, client.Config{
		URLs: urls, User: protocol.UserInfo{UserID: user}, HTTPClient: f.http, OnEvent: func(client.Event) {},
		RawEvents: true, MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
	})
}

// leftovers are the keys of a deployment that have no business there once all
// rooms have ended and all users have gone, and what is in them.
func leftovers(t testing.TB, rdb redis.UniversalClient, prefix string) (left []string) {
	t.Helper()
	for _, key := range keysOf(t, rdb, prefix+":") {
		_, kind, _ := strings.Cut(strings.TrimPrefix(key, prefix+":"), "}:")
		kind, _, _ = strings.Cut(kind, ":")
		switch {
		case key == prefix+":nodes" || key == prefix+":partitions":
		case key == prefix+":{0}:nodes" || kind == "partitions":
		case slices.Contains([]string{"clock", "dead", "term", "origin", "admissions"}, kind):
		case slices.Contains([]string{"did", "gone", "gateway", "barred"}, kind) && rdb.PTTL(t.Context(), key).Val() > 0:
		default:
			left = append(left, key)
		}
	}
	return left
}

// nothingLeft waits until there are no leftovers.
func nothingLeft(t testing.TB, rdb redis.UniversalClient, prefix string) {
	t.Helper()
	var left []string
	defer func() {
		if t.Failed() {
			t.Logf("left are %q", left)
		}
	}()
	eventually(t, "nothing to be left", func() bool { left = leftovers(t, rdb, prefix); return len(left) == 0 })
}

// A lodger begins and ends lives of rooms by all roads, some of rooms that are
// its own and some of rooms that others are in, too.
type lodger struct {
	f    *fleet
	r    *rand.Rand
	name string
	c    *client.Client
	n    int // rooms and sessions so far
}

// roads are what a lodger takes, each as often as it is here.
var roads = []string{"leave", "leave", "switch", "switch", "kick", "destroy", "delay", "delay", "evict"}

// stay is a lodger's life, until ctx is done. An error of a call is what kills
// and other lodgers do; then the lodger begins anew.
func (l *lodger) stay(ctx context.Context) error {
	for ctx.Err() == nil {
		if l.c != nil && l.c.Err() != nil {
			l.c.Close()
			l.c = nil
		}
		if l.c == nil {
			l.n++
			var err error
			l.c, err = l.f.dial(ctx, fmt.Sprintf("%s-%d", l.name, l.n), l.r.IntN(len(l.f.gates)))
			if err != nil && ctx.Err() == nil {
				return err
			}
			continue
		}
		if err := l.walk(ctx, roads[l.r.IntN(len(roads))]); err != nil && ctx.Err() == nil {
			if refused := (*protocol.Error)(nil); errors.As(err, &refused) && !expected[refused.Code] {
				return err
			}
			l.c.LeaveAllRoom(ctx)
		}
	}
	return nil
}

// expected are refusals of lodgers who are in each other's way.
var expected = map[protocol.Code]bool{
	protocol.CodeNoRoom: true, protocol.CodeLeaveNoRoom: true, protocol.CodeNotInRoom: true, protocol.CodeBadParameter: true,
	protocol.CodeRoomExists: true, protocol.CodeUserRoomLimit: true, protocol.CodeUnavailable: true, protocol.CodeRoomBusy: true,
}

// walk takes one road.
func (l *lodger) walk(ctx context.Context, road string) error {
	room := func() protocol.RoomBaseInfo {
		l.n++
		id := fmt.Sprintf("%s-%s-%d", road, l.name, l.n)
		if l.r.IntN(3) == 0 {
			id = fmt.Sprintf("shared-%d", l.r.IntN(20))
		}
		return protocol.RoomBaseInfo{RoomID: id}
	}
	enter := func(delay float64) (string, error) {
		r := room()
		_, err := l.c.EnterRoom(ctx, r, &protocol.RoomConfig{RoomDestroyDelayTime: delay})
		return r.RoomID, err
	}
	api := func(method, path, body string) {
		gatetest.Request(method, "http://"+l.f.at(l.r.IntN(len(l.f.gates))).Addr+"/v1/rooms/"+path, "dev", body)
	}
	delay := 0.0
	if road == "delay" {
		delay = 1
	}
	id, err := enter(delay)
	if err != nil {
		return err
	}
	switch road {
	case "leave", "delay":
		return l.c.LeaveRoom(ctx, id)
	case "switch":
		to := room()
		if _, err := l.c.SwitchRoom(ctx, id, to, true, nil); err != nil {
			return err
		}
		return l.c.LeaveRoom(ctx, to.RoomID)
	case "kick":
		user := l.c.Session().UserID
		api(http.MethodPost, id+"/kick", fmt.Sprintf(`{"userID":%q}`, user))
	case "destroy":
		api(http.MethodDelete, id, "")
	case "evict":
		for range 3 {
			if _, err := enter(0); err != nil {
				return err
			}
		}
		l.c.Close()
	}
	return nil
}

// However rooms end, and whatever gateways die meanwhile, each of their lives
// has one beginning and one end, and in the end nothing of them is left.
func TestLives_oneEnd(t *testing.T) {
	t.Parallel()
	const lives, kills, lodgers = 5000, 5, 24
	for _, partitions := range partitionings() {
		t.Run(fmt.Sprintf("P=%d", partitions), func(t *testing.T) {
			t.Parallel()
			seed := seedOf(t)
			server, rdb := anyRedis(t)
			book := record(t, server, rdb, "rg")
			f := startFleet(t, 3, server.Addr(), "--rate-limits=false", fmt.Sprintf("--partitions=%d", partitions))
			ctx, stop := context.WithCancel(t.Context())
			var all []*lodger
			var staying sync.WaitGroup
			var failed atomic.Bool
			defer func() {
				stop()
				staying.Wait()
				for _, l := range all {
					if l.c != nil {
						l.c.Close()
					}
				}
			}()
			for i := range lodgers {
				l := &lodger{f: f, r: rand.New(rand.NewPCG(seed, uint64(i))), name: fmt.Sprintf("l%d", i)}
				all = append(all, l)
				staying.Go(func() {
					if err := l.stay(ctx); err != nil {
						failed.Store(true)
						t.Errorf("%s: %v", l.name, err)
					}
				})
			}
			r := rand.New(rand.NewPCG(seed, lodgers))
			began := time.Now()
			until := func(n int) {
				for begun, _ := book.counts(); begun < n && !failed.Load(); {
					before := begun
					eventually(t, "another life", func() bool {
						begun, _ = book.counts()
						return begun > before || failed.Load()
					})
				}
			}
			for kill := range kills {
				until(lives*kill/kills + r.IntN(lives/kills))
				f.replace(r.IntN(len(f.gates)))
			}
			until(lives)
			took := time.Since(began)
			stop()
			staying.Wait()
			for _, l := range all {
				if l.c != nil {
					staying.Go(func() { l.c.Logout(t.Context()) })
				}
			}
			staying.Wait()

			book.close(rdb)
			begun, _ := book.counts()
			ends := map[string]int{}
			book.mu.Lock()
			defer book.mu.Unlock()
			for id, l := range book.lives {
				if l.ended != 1 || !l.told {
					t.Errorf("life %d of %s: %d ends, its members were told: %t", id.epoch, l.room, l.ended, l.told)
				}
				if strings.HasPrefix(l.room, "delay") && l.at < l.last.At+1000 {
					t.Errorf("life %d of %s ended %d ms after the last member went, want a second", id.epoch, l.room, l.at-l.last.At)
				}
				ends[l.road()]++
			}
			t.Logf("%d lives in %v, ended by %v", begun, took, ends)
			for _, road := range []string{"left", "switched", "kicked", "timeout", "destroyed", "delayed"} {
				if ends[road] < lives/100 {
					t.Errorf("%d lives ended by %s, want at least %d", ends[road], road, lives/100)
				}
			}
		})
	}
}

// Clients that enter at the very deadline of an emptied room, by all roads and
// through all gateways, are in the old life, which then goes on, or in a new
// one, or are told that there is none; and what they are told is so.
func TestLives_atDeadline(t *testing.T) {
	t.Parallel()
	const partitions, delay, rooms, entrants, rounds = 16, 100, 8, 4, 66
	server, rdb := anyRedis(t)
	book := record(t, server, rdb, "rg")
	f := startFleet(t, 3, server.Addr(), "--rate-limits=false", fmt.Sprintf("--partitions=%d", partitions))
	var all []*lastCall
	var playing sync.WaitGroup
	for i := range rooms {
		room := fmt.Sprintf("r%d", i)
		l := &lastCall{t: t, rdb: rdb, room: room, part: partOf("rg", partitions, room), delay: delay}
		for j := range entrants + 1 {
			c, err := f.dial(t.Context(), fmt.Sprintf("u%d-%d", i, j), j%3)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			l.cast = append(l.cast, c)
		}
		all = append(all, l)
	}
	for _, l := range all {
		playing.Go(func() {
			for n := range rounds {
				if err := l.round(n); err != nil {
					t.Errorf("%s, round %d: %v", l.room, n, err)
					return
				}
			}
		})
	}
	playing.Wait()
	var old, anew, none int
	for _, l := range all {
		old, anew, none = old+l.old, anew+l.anew, none+l.none
		for _, c := range l.cast {
			if s := c.Stats(); s.Duplicates != 0 || s.Malformed != 0 || s.Logins != 1 {
				t.Errorf("a client of %s: %+v", l.room, s)
			}
			if err := c.Logout(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err := l.hurry(0); err != nil {
			t.Error(err)
		}
	}
	book.close(rdb)
	begun, _ := book.counts()
	t.Logf("%d lives; %d entered the old one, %d a new one, %d found none", begun, old, anew, none)
	const tries = rooms * entrants * rounds
	for what, n := range map[string]int{"entered the old life": old, "entered a new one": anew, "found none": none} {
		if n < tries/20 {
			t.Errorf("%d of %d %s: this shows little", n, tries, what)
		}
	}
}

// lastCall is one room that ends again and again while some want to enter.
type lastCall struct {
	t     *testing.T
	rdb   redis.UniversalClient
	room  string
	part  string // prefix of its keys
	delay float64
	cast  []*client.Client // the last one opens the room

	lead            int // ms from the call to the deadline, so that either side wins as often
	old, anew, none int
}

// hurryUp moves the deadline of an empty room to some ms from now.
var hurryUp = redis.NewScript(`
	local epoch, deadline = unpack(redis.call("HMGET", KEYS[1], "epoch", "deadline"))
	if deadline then
		local t = redis.call("TIME")
		local at = string.format("%.0f", t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2])
		redis.call("HSET", KEYS[1], "deadline", at)
		redis.call("ZADD", KEYS[2], at, ARGV[1] .. "\0" .. epoch)
	end
	return deadline and 1 or 0`)

func (l *lastCall) hurry(ms int) error {
	return hurryUp.Run(l.t.Context(), l.rdb, []string{l.part + "room:" + l.room, l.part + "due"}, l.room, ms).Err()
}

// round empties the room, has everybody enter about when it ends, and checks
// that they are where they were told they are.
func (l *lastCall) round(n int) error {
	ctx, info := l.t.Context(), protocol.RoomBaseInfo{RoomID: l.room}
	cfg := &protocol.RoomConfig{RoomDestroyDelayTime: l.delay}
	opener, cast := l.cast[len(l.cast)-1], l.cast[:len(l.cast)-1]
	home := func(c *client.Client) string { return "home-" + c.Session().UserID }
	first, err := opener.EnterRoom(ctx, info, cfg)
	if err == nil {
		err = opener.LeaveRoom(ctx, l.room)
	}
	for _, c := range cast[2:] {
		if err == nil {
			_, err = c.EnterRoom(ctx, protocol.RoomBaseInfo{RoomID: home(c)}, nil)
		}
	}
	if err == nil {
		err = l.hurry(l.lead)
	}
	if err != nil {
		return err
	}
	got, errs := make([]*protocol.Room, len(cast)), make([]error, len(cast))
	var entering sync.WaitGroup
	for i, c := range cast {
		entering.Go(func() {
			create := (i+n)%2 == 0
			switch {
			case i >= 2:
				got[i], errs[i] = c.SwitchRoom(ctx, home(c), info, create, cfg)
			case create:
				got[i], errs[i] = c.EnterRoom(ctx, info, cfg)
			default:
				got[i], errs[i] = c.JoinRoom(ctx, l.room)
			}
		})
	}
	entering.Wait()

	tx := l.rdb.Pipeline()
	epoch := tx.HGet(ctx, l.part+"room:"+l.room, "epoch")
	deadline := tx.HGet(ctx, l.part+"room:"+l.room, "deadline")
	ttl := tx.PTTL(ctx, l.part+"room:"+l.room)
	var members []*redis.StringCmd
	for _, c := range cast {
		members = append(members, tx.HGet(ctx, l.part+"info:"+l.room, c.Session().UserID))
	}
	tx.Exec(ctx)
	in := 0
	for i, c := range cast {
		s := c.Session()
		member := strings.HasPrefix(members[i].Val(), s.SessionID+"\x00")
		var knows int64 // the life that the client takes itself to be in
		for _, r := range c.Rooms() {
			if r.RoomID == l.room {
				knows = r.Epoch
			}
		}
		if refused := (*protocol.Error)(nil); errors.As(errs[i], &refused) && refused.Code == protocol.CodeNoRoom {
			l.none++
			if member || knows != 0 {
				l.t.Errorf("%s found no %s; it is in life %d there, and in Redis: %t", s.UserID, l.room, knows, member)
			}
			continue
		}
		if errs[i] != nil {
			return errs[i]
		}
		if in++; got[i].Epoch == first.Epoch {
			l.old++
		} else {
			l.anew++
		}
		if !member || knows != got[i].Epoch || epoch.Val() != strconv.FormatInt(knows, 10) {
			l.t.Errorf("%s entered life %d of %s, it is in life %d, and in Redis: %t, in %s", s.UserID, got[i].Epoch, l.room, knows, member, epoch.Val())
		}
	}
	if in > 0 && (deadline.Val() != "" || ttl.Val() >= 0) {
		l.t.Errorf("%d are in %s, its deadline is %q, it expires in %v", in, l.room, deadline.Val(), ttl.Val())
	}
	if epoch.Val() == strconv.FormatInt(first.Epoch, 10) {
		l.lead = max(0, l.lead-l.lead/4-1)
	} else {
		l.lead += l.lead/4 + 1
	}
	for _, c := range cast {
		if _, err := c.LeaveAllRoom(ctx); err != nil {
			return err
		}
	}
	return nil
}
