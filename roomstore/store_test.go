package roomstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, redistest.Dialing()) }

// contract runs a test on every kind of Redis there is, each with one and with
// many partitions: the rules are the same everywhere, also where calls keep to one
// hash slot each, and on a Cluster, with many. A short run is on a real Redis with
// many only.
func contract(t *testing.T, cfg roomstore.Config, test func(w *world)) {
	t.Helper()
	t.Parallel()
	for _, kind := range []string{"redis", "embedded", "apart", "cluster"} {
		for _, partitions := range []int{1, 16} {
			if testing.Short() && (kind == "embedded" || kind == "cluster" || partitions == 1) || kind == "cluster" && partitions == 1 {
				continue
			}
			t.Run(kind+"/P="+strconv.Itoa(partitions), func(t *testing.T) {
				t.Parallel()
				cfg := cfg
				cfg.Partitions, cfg.Apart = partitions, kind == "apart" || kind == "cluster"
				if kind == "cluster" {
					test(newWorldOn(t, redistest.NewCluster(t).Client(), nil, cfg))
					return
				}
				test(newWorld(t, kind == "embedded", cfg))
			})
		}
	}
}

// A world is a deployment of one test, and what can be heard in it. When the
// test ends everything in it is checked for agreement: see [world.check].
type world struct {
	*testing.T
	rdb     redis.UniversalClient
	mini    *miniredis.Miniredis // nil on a real Redis
	store   *roomstore.Store
	cfg     roomstore.Config // of the store
	prefix  string
	parts   int
	apart   bool // calls keep to one hash slot each
	sub     *redis.PubSub
	dropped bool // what is stored need not agree: the test has tampered with it

	lives  map[int64]*life
	byName map[string]int  // lives of an ID so far
	order  map[int64]int64 // newest order key, by epoch

	sessions map[roomstore.SessionID]roomstore.Session
	said     []string          // heard, and not yet asked for
	all      []string          // keys, while they are checked
	events   []roomstore.Event // of attributes, heard

	end context.Context
}

// life is what was heard of one epoch.
type life struct {
	name      string // "a#1"
	room      string
	seq       int64
	created   int
	destroyed int
}

func newWorld(t *testing.T, embedded bool, cfg roomstore.Config) *world {
	t.Helper()
	if embedded {
		mini := miniredis.RunT(t)
		mini.ClockTTL(true)
		rdb := redis.NewClient(redistest.Options(mini.Addr()))
		t.Cleanup(func() { rdb.Close() })
		return newWorldOn(t, rdb, mini, cfg)
	}
	return newWorldOn(t, redistest.New(t), nil, cfg)
}

func newWorldOn(t *testing.T, rdb redis.UniversalClient, mini *miniredis.Miniredis, cfg roomstore.Config) *world {
	t.Helper()
	w := &world{T: t, rdb: rdb, mini: mini, lives: map[int64]*life{}, byName: map[string]int{}, order: map[int64]int64{},
		sessions: map[roomstore.SessionID]roomstore.Session{}}
	var cancel func()
	w.end, cancel = context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cfg.Prefix = redistest.Prefix()
	if one, ok := rdb.(*redis.Client); ok && cfg.Apart {
		one.AddHook(oneSlot{t})
	}
	w.cfg = cfg
	w.prefix, w.parts, w.apart = cfg.Prefix, max(1, cfg.Partitions), cfg.Apart
	w.store = roomstore.New(runBatcher(t, w.rdb, roomstore.BatcherConfig{Lanes: 1, Slots: w.batcher().Slots}), cfg)
	w.sub = w.rdb.PSubscribe(t.Context(), w.prefix+":*")
	if _, err := w.sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() && !t.Skipped() {
			w.check()
			w.clear()
		}
		w.sub.Close()
	})
	return w
}

// clear deletes what the world has stored: others look through all keys for theirs.
func (w *world) clear() {
	if w.mini != nil {
		return // nobody else's
	}
	_, err := w.rdb.Pipelined(w.ctx(), func(p redis.Pipeliner) error {
		for _, key := range w.keys() {
			p.Unlink(w.ctx(), key)
		}
		return nil
	})
	w.must(err)
}

// ctx is good until the very end of the test, or as long as one may take.
func (w *world) ctx() context.Context { return w.end }

// must fails the test if err is not nil.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// refused fails the test unless err is the refusal wanted.
func (w *world) refused(err, want error) {
	w.Helper()
	if !errors.Is(err, want) {
		w.Fatalf("got error %v, want %v", err, want)
	}
}

// login begins a session on node n1, of a device of its own.
func (w *world) login(user roomstore.UserID, id roomstore.SessionID) roomstore.Session {
	w.Helper()
	return w.loginOn("n1", user, id, "")
}

func (w *world) loginOn(node string, user roomstore.UserID, id roomstore.SessionID, device string) roomstore.Session {
	w.Helper()
	who, err := w.store.Login(w.ctx(), node, user, id, device)
	w.must(err)
	w.sessions[id] = who
	return who
}

// s gives a session as it last logged in or resumed.
func (w *world) s(id roomstore.SessionID) roomstore.Session {
	w.Helper()
	who, ok := w.sessions[id]
	if !ok {
		w.Fatalf("no session %s", id)
	}
	return who
}

// try asks to enter, with data that tells user and session.
func (w *world) try(who roomstore.Session, r roomstore.EntryRequest) (roomstore.Entry, error) {
	if r.Mode == "" {
		r.Mode = roomstore.ModeEnter
	}
	if r.Data == "" {
		r.Data = dataOf(who.User, who.ID)
	}
	return w.store.Enter(w.ctx(), who, r)
}

func dataOf(user roomstore.UserID, id roomstore.SessionID) string {
	return string(user) + "/" + string(id)
}

func (w *world) enter(who roomstore.Session, rooms ...roomstore.RoomID) (e roomstore.Entry) {
	w.Helper()
	for _, room := range rooms {
		var err error
		e, err = w.try(who, roomstore.EntryRequest{Room: room})
		w.must(err)
	}
	return e
}

// create makes a room with a delay, by entering it.
func (w *world) create(who roomstore.Session, room roomstore.RoomID, delay int) {
	w.Helper()
	_, err := w.try(who, roomstore.EntryRequest{Mode: roomstore.ModeCreate, Room: room, Delay: delay, Name: "Room " + string(room)})
	w.must(err)
}

// crowd lets n users enter rooms, who log in on node n9: u0, with session u0.
func (w *world) crowd(n int, rooms ...roomstore.RoomID) {
	w.Helper()
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < n; i += 8 {
				id := "u" + strconv.Itoa(i)
				who, err := w.store.Login(w.ctx(), "n9", roomstore.UserID(id), roomstore.SessionID(id), "")
				for _, room := range rooms {
					if err == nil {
						_, err = w.try(who, roomstore.EntryRequest{Room: room})
					}
				}
				if err != nil {
					w.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (w *world) leave(who roomstore.Session, room roomstore.RoomID) {
	w.Helper()
	_, err := w.store.Leave(w.ctx(), who, room, "")
	w.must(err)
}

func (w *world) resume(node string, who roomstore.Session, named ...roomstore.RoomID) (roomstore.Session, []roomstore.Return) {
	w.Helper()
	now, rooms, ok, err := w.store.Resume(w.ctx(), node, who.User, who.ID, named)
	w.must(err)
	if !ok {
		w.Fatalf("session %s did not go on", who.ID)
	}
	w.sessions[who.ID] = now
	return now, rooms
}

func (w *world) park(who roomstore.Session, left time.Duration) {
	w.Helper()
	w.must(w.store.Park(w.ctx(), who, left))
}

func (w *world) sweep(node string, claims ...roomstore.Lapse) roomstore.Swept {
	w.Helper()
	done, err := w.store.Sweep(w.ctx(), node, claims)
	w.must(err)
	return done
}

func (w *world) lease(node string) {
	w.Helper()
	_, err := w.store.Lease(w.ctx(), node, true, nil)
	w.must(err)
}

// part gives the prefix of the keys of a room.
func (w *world) part(room roomstore.RoomID) string { return w.tag(strconv.Itoa(w.hash(string(room)))) }

func (w *world) tag(slot string) string { return w.prefix + ":{" + slot + "}:" }

func (w *world) user(u roomstore.UserID) string {
	return w.tag("u"+strconv.Itoa(w.hash(string(u)))) + "user:" + string(u)
}

// hash is the rule that places rooms and users: FNV-1a.
func (w *world) hash(id string) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	return int(h.Sum32() % uint32(w.parts))
}

func (w *world) now() time.Time {
	w.Helper()
	now, err := w.rdb.Time(w.ctx()).Result()
	w.must(err)
	return now
}

// pass makes awake time go on, as far as sessions and leases know.
func (w *world) pass(d time.Duration) {
	w.Helper()
	for _, slot := range w.slots() {
		w.must(w.rdb.HIncrBy(w.ctx(), slot+"clock", "paused", -d.Milliseconds()).Err())
		w.must(w.rdb.HSet(w.ctx(), slot+"clock", "last", w.now().UnixMilli()).Err())
	}
}

// batcher is what stores of this deployment need to call scripts with.
func (w *world) batcher() roomstore.BatcherConfig {
	return roomstore.BatcherConfig{Slots: roomstore.ClusterSlots(w.prefix, w.parts)}
}

// slots gives the prefix of everything that has a clock, dead nodes and a term of
// its own.
func (w *world) slots() (all []string) {
	if !w.apart {
		return []string{w.tag("0")}
	}
	for p := range w.parts {
		all = append(all, w.tag(strconv.Itoa(p)))
	}
	for p := range w.parts {
		all = append(all, w.tag("u"+strconv.Itoa(p)))
	}
	return all
}

// expire puts the deadline of an empty room a while back.
func (w *world) expire(room roomstore.RoomID) {
	w.Helper()
	key, due := w.part(room)+"room:"+string(room), w.part(room)+"due"
	epoch := w.rdb.HGet(w.ctx(), key, "epoch").Val()
	if w.rdb.HGet(w.ctx(), key, "deadline").Val() == "" {
		w.Fatalf("room %s has no deadline", room)
	}
	at := w.now().UnixMilli() - 1000
	w.must(w.rdb.HSet(w.ctx(), key, "deadline", at).Err())
	w.must(w.rdb.ZAdd(w.ctx(), due, redis.Z{Score: float64(at), Member: string(room) + "\x00" + epoch}).Err())
}

// block puts a user on a room's block list, until a time or, with 0, for ever.
func (w *world) block(room roomstore.RoomID, user roomstore.UserID, until int64) {
	w.Helper()
	w.must(w.rdb.HSet(w.ctx(), w.part(room)+"room:"+string(room), "blocked", 1).Err())
	w.must(w.rdb.HSet(w.ctx(), w.part(room)+"blocked:"+string(room), string(user), until).Err())
}

// state says what is stored of a room: its position, then who is in it since
// when; "none" if nothing at all is stored.
func (w *world) state(room roomstore.RoomID) string {
	w.Helper()
	part := w.part(room)
	h, err := w.rdb.HGetAll(w.ctx(), part+"room:"+string(room)).Result()
	w.must(err)
	if len(h) == 0 {
		for _, kind := range roomKinds {
			if n := w.rdb.Exists(w.ctx(), part+kind+":"+string(room)).Val(); n != 0 {
				return "none, but " + kind
			}
		}
		return "none"
	}
	text := w.lifeOf(h["epoch"]) + ":" + h["seq"]
	members, err := w.rdb.ZRangeWithScores(w.ctx(), part+"members:"+string(room), 0, -1).Result()
	w.must(err)
	for _, m := range members {
		info := strings.SplitN(w.rdb.HGet(w.ctx(), part+"info:"+string(room), m.Member.(string)).Val(), "\x00", 5)
		node := info[2]
		if node == "" {
			node = "parked"
		}
		text += fmt.Sprintf(" %s/%s@%.0f %s", m.Member, info[0], m.Score, node)
	}
	if h["deadline"] != "" {
		text += " empty"
	}
	return text
}

func (w *world) lifeOf(epoch string) string {
	n, _ := strconv.ParseInt(epoch, 10, 64)
	if l := w.lives[n]; l != nil {
		_, name, _ := strings.Cut(l.name, "#")
		return "#" + name
	}
	return "#?"
}

// hear takes in what has been published.
func (w *world) hear() {
	w.Helper()
	mark := rand.Text()
	marks := 1
	if cluster, ok := w.rdb.(*redis.ClusterClient); ok {
		// What a node has published before, it has sent before.
		marks = 0
		var mu sync.Mutex
		w.must(cluster.ForEachMaster(w.ctx(), func(ctx context.Context, node *redis.Client) error {
			mu.Lock()
			marks++
			mu.Unlock()
			return node.Publish(ctx, w.prefix+":sync", mark).Err()
		}))
	} else {
		w.must(w.rdb.Publish(w.ctx(), w.prefix+":sync", mark).Err())
	}
	for {
		msg, err := w.sub.ReceiveMessage(w.ctx())
		w.must(err)
		if msg.Channel != w.prefix+":sync" {
			w.said = append(w.said, w.tell(msg.Channel, msg.Payload))
		} else if msg.Payload == mark {
			if marks--; marks == 0 {
				return
			}
		}
	}
}

// forget takes in what has been published, which the test does not look at.
func (w *world) forget() {
	w.Helper()
	w.hear()
	w.said = nil
}

// heard fails the test unless exactly this was published, in this order, since
// it was last asked.
func (w *world) heard(want ...string) {
	w.Helper()
	w.hear()
	got := w.said
	w.said = nil
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		w.Fatalf("published (-want +got):\n%s", diff)
	}
}

// tell renders a message, and holds it against those before.
func (w *world) tell(channel, payload string) string {
	w.Helper()
	rest := strings.TrimPrefix(channel, w.prefix+":")
	own := "node:"
	if w.apart {
		own = "{0}:orders:"
	}
	if node, ok := strings.CutPrefix(rest, own); ok {
		if channel != w.store.NodeTopic(node, 0) {
			w.Errorf("order on %q, which is not the topic of node %q", channel, node)
		}
		o, err := roomstore.DecodeOrder(payload)
		w.must(err)
		if o.Probe != "" {
			return "probe " + node + " " + o.Probe
		}
		return fmt.Sprintf("order %s %d %s", node, o.Code, o.Session)
	}
	tag, rest, _ := strings.Cut(rest, ":")
	if rest == "life" {
		return w.tellLife(tag, payload)
	}
	room, ok := strings.CutPrefix(rest, "ch:")
	if !ok || channel != w.store.Topic(roomstore.RoomID(room)) {
		w.Fatalf("message on %q, which is the topic of nothing", channel)
	}
	e, err := roomstore.DecodeEvent(payload)
	w.must(err)
	l := w.lives[e.Epoch]
	if l == nil || l.room != room {
		w.Fatalf("event of room %q, whose life %d was not announced: %q", room, e.Epoch, payload)
	}
	if l.seq < 0 {
		l.seq = e.Seq // where an epoch begins that goes back to another
	} else if e.Kind != roomstore.KindCommand {
		l.seq++
	}
	if e.Seq != l.seq {
		w.Errorf("event of %s has seq %d, want %d: %q", l.name, e.Seq, l.seq, payload)
	}
	if skew := w.now().UnixMilli() - e.At; skew < -1000 || skew > 60_000 {
		w.Errorf("event of %s is %d ms old: %q", l.name, skew, payload)
	}
	if e.Kind == roomstore.KindMessage {
		if e.OrderKey <= w.order[e.Epoch] || e.OrderKey >= 1<<53 {
			w.Errorf("order key %d after %d", e.OrderKey, w.order[e.Epoch])
		}
		w.order[e.Epoch] = e.OrderKey
	}
	if e.Kind == roomstore.KindAttributes {
		w.events = append(w.events, e)
	}
	return l.name + ":" + eventText(e)
}

func (w *world) tellLife(tag, payload string) string {
	w.Helper()
	f := strings.SplitN(payload, "\x00", 4)
	if len(f) != 4 || tag != "{"+strconv.Itoa(w.hash(f[3]))+"}" {
		w.Fatalf("on the life channel of %s: %q", tag, payload)
	}
	epoch, err := strconv.ParseInt(f[1], 10, 64)
	w.must(err)
	l := w.lives[epoch]
	switch f[0] {
	case "healed":
		if l != nil {
			w.Fatalf("%s was healed twice", l.name)
		}
		old, err := strconv.ParseInt(f[2], 10, 64)
		w.must(err)
		if l := w.lives[old]; l != nil {
			l.destroyed = 1
		}
		w.byName[f[3]]++
		l = &life{name: f[3] + "#" + strconv.Itoa(w.byName[f[3]]), room: f[3], seq: -1}
		w.lives[epoch] = l
		return "healed " + l.name
	case "created":
		if l != nil {
			w.Fatalf("%s was created twice", l.name)
		}
		w.byName[f[3]]++
		l = &life{name: f[3] + "#" + strconv.Itoa(w.byName[f[3]]), room: f[3], created: 1}
		w.lives[epoch] = l
		return "created " + l.name
	case "destroyed":
		if l == nil || l.room != f[3] {
			w.Fatalf("a life of %s ended that had not begun", f[3])
		}
		if l.destroyed++; l.destroyed > 1 {
			w.Errorf("%s was destroyed twice", l.name)
		}
		return "destroyed " + l.name + " " + f[2]
	}
	w.Fatalf("on the life channel: %q", payload)
	return ""
}

// eventText renders an event, without its epoch and what the clock decides.
func eventText(e roomstore.Event) string {
	text := fmt.Sprintf("%d ", e.Seq)
	who := fmt.Sprintf(" %s/%s", e.User, e.Origin)
	data := ""
	if e.Data != dataOf(e.User, e.Origin) {
		data = fmt.Sprintf(" %q", e.Data)
	}
	switch e.Kind {
	case roomstore.KindJoined:
		return text + "joined" + who + fmt.Sprintf(" n=%d", e.Count) + data
	case roomstore.KindLeft:
		if e.Extended != "" {
			data += fmt.Sprintf(" %q", e.Extended)
		}
		return text + string(e.Reason) + who + fmt.Sprintf(" n=%d", e.Count) + data
	case roomstore.KindMoved:
		return text + "moved" + who + fmt.Sprintf(" n=%d from %s", e.Count, e.Old) + data
	case roomstore.KindMessage:
		return text + "message" + who + fmt.Sprintf(" #%d %s %q", e.MessageSeq, e.MessageID, e.Data)
	case roomstore.KindCommand:
		return text + "command" + who + fmt.Sprintf(" #%d p%d %s %q", e.MessageSeq, e.Priority, e.MessageID, e.Data)
	case roomstore.KindDestroyed:
		return text + "ended " + string(e.Reason)
	case roomstore.KindHealed:
		return text + "healed"
	case roomstore.KindAttributes:
		text += "attributes" + who
		for _, a := range e.Attributes.Set {
			text += " +" + owned([]roomstore.Attribute{a})
		}
		for _, k := range e.Attributes.Deleted {
			text += " -" + k
		}
		return text
	case roomstore.KindMemberAttributes:
		return text + "memberattributes" + who + fmt.Sprintf(" n=%d ", e.Count) + memberText(e.Attributes.Members)
	}
	return text + "?" + string(e.Kind)
}

// at renders a position by the life it is in.
func (w *world) at(p roomstore.Position) string {
	return w.lifeOf(strconv.FormatInt(p.Epoch, 10)) + ":" + strconv.FormatInt(p.Seq, 10)
}

func (w *world) entryText(e roomstore.Entry) string {
	w.hear() // so that the life is known
	text := fmt.Sprintf("%s n=%d entered=%d delay=%d %q", w.at(e.Position), e.Count, e.Entered, e.Delay, e.Name)
	if len(e.Attributes) > 0 {
		pairs := []string{}
		for _, a := range e.Attributes {
			pairs = append(pairs, a.Key+"="+a.Value)
		}
		slices.Sort(pairs)
		text += " " + strings.Join(pairs, ",")
	}
	for word, set := range map[string]bool{" created": e.Created, " already": e.Already, " again": e.Again} {
		if set {
			text += word
		}
	}
	if e.Gone {
		text += " gone"
	}
	return text
}

// dump gives all that is stored, each key's value in one form.
func (w *world) dump() map[string]string {
	w.Helper()
	all := map[string]string{}
	for _, key := range w.keys() {
		if w.apart && strings.Contains(key, "}:gone:") && w.fences(key) {
			continue
		}
		all[key] = w.value(key)
	}
	return all
}

// fences says whether a key holds nothing but which reservations have been given
// back.
func (w *world) fences(key string) bool {
	w.Helper()
	fields, err := w.rdb.HKeys(w.ctx(), key).Result()
	w.must(err)
	return !slices.ContainsFunc(fields, func(f string) bool { return !strings.HasPrefix(f, "\x00") })
}

// nodes gives the key of the leases.
func (w *world) nodes() string {
	if w.apart {
		return w.tag("0") + "nodes"
	}
	return w.prefix + ":nodes"
}

func (w *world) keys() (keys []string) {
	w.Helper()
	var mu sync.Mutex
	scan := func(ctx context.Context, node *redis.Client) error {
		it := node.Scan(ctx, 0, w.prefix+":*", 1000).Iterator()
		for it.Next(ctx) {
			mu.Lock()
			keys = append(keys, it.Val())
			mu.Unlock()
		}
		return it.Err()
	}
	if cluster, ok := w.rdb.(*redis.ClusterClient); ok {
		w.must(cluster.ForEachMaster(w.ctx(), scan))
	} else {
		w.must(scan(w.ctx(), w.rdb.(*redis.Client)))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func (w *world) value(key string) string {
	w.Helper()
	var err error
	var v any
	switch kind := w.rdb.Type(w.ctx(), key).Val(); kind {
	case "hash":
		var h map[string]string
		h, err = w.rdb.HGetAll(w.ctx(), key).Result()
		maps.DeleteFunc(h, func(field, _ string) bool { return w.apart && strings.HasPrefix(field, "\x00") })
		v = h
	case "zset":
		v, err = w.rdb.ZRangeWithScores(w.ctx(), key, 0, -1).Result()
	case "set":
		var s []string
		s, err = w.rdb.SMembers(w.ctx(), key).Result()
		slices.Sort(s)
		v = s
	case "list":
		v, err = w.rdb.LRange(w.ctx(), key, 0, -1).Result()
	case "string":
		v, err = w.rdb.Get(w.ctx(), key).Result()
	case "none":
		return ""
	default:
		w.Fatalf("%q is a %s", key, kind)
	}
	w.must(err)
	return fmt.Sprintf("%q", fmt.Sprint(v))
}

// unchanged fails the test unless what is stored is as it was.
func (w *world) unchanged(before map[string]string) {
	w.Helper()
	if diff := cmp.Diff(before, w.dump()); diff != "" {
		w.Fatalf("stored (-before +after):\n%s", diff)
	}
}
