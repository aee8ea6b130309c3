//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// checkTime is how long the check of one history may take. It takes
// milliseconds.
const checkTime = 20 * time.Second

// checking is held while a history is checked: one at a time, since all others, and the
// links of gateways, which are in this process too, are to go on meanwhile.
var checking sync.Mutex

// A linearPlan says on what gateways histories are made, and how.
type linearPlan struct {
	name   string
	share  int // of all histories, in percent
	atOnce int // histories
	flags  []string
	rules  rules
	lost   int // requests of a hundred whose client loses its connection
	faults nemesis

	lossy     bool          // events may be lost on their way to a gateway
	durable   bool          // Redis keeps its data when it ends
	watched   bool          // Redis has replicas, and Sentinels or the other masters watch over it
	cluster   bool          // Redis is a Cluster of three masters
	pace      time.Duration // the longest pause of a player between two operations
	away      time.Duration // the session TTL, where players stay away for less and for more than that
	loginTime time.Duration // how long a player waits for the answer to a login
	impatient bool          // it does not wait for as long for other answers
}

// patience is how long a player waits for an answer.
func (p *linearPlan) patience(r *rand.Rand) time.Duration {
	if p.impatient && r.IntN(2) == 0 {
		return 300*time.Millisecond + time.Duration(r.Int64N(int64(2*time.Second)))
	}
	return patience
}

var linearPlans = []linearPlan{
	{name: "calm", share: 14, atOnce: 4, lost: 4, rules: rules{members: 3, userRooms: 2}, loginTime: patience},
	{name: "room limit", share: 7, atOnce: 1, lost: 4, rules: rules{rooms: 2, members: 3, userRooms: 2}, loginTime: patience,
		flags: []string{"--partitions=16"}},
	{name: "bad links", share: 12, atOnce: 10, lost: 3, rules: rules{members: 3, userRooms: 2}, faults: badLinks, lossy: true,
		loginTime: patience, flags: []string{fmt.Sprintf("--redis-timeout=%v", shortTimeout)}},
	mortal(linearPlan{name: "kills", share: 9, faults: kills}),
	mortal(linearPlan{name: "freezes", share: 9, faults: freezes}),
	mortal(linearPlan{name: "Redis frozen", share: 7, faults: redisFrozen, lossy: true}),
	mortal(linearPlan{name: "Redis restarted", share: 7, faults: redisRestarted, lossy: true, durable: true}),
	mortal(linearPlan{name: "failovers", share: 5, faults: failovers, lossy: true, watched: true}),
	onSlots(linearPlan{name: "on a Cluster", share: 8, atOnce: 4, lost: 4, loginTime: patience}),
	onSlots(mortal(linearPlan{name: "on a Cluster, kills", share: 5, faults: kills})),
	onSlots(mortal(linearPlan{name: "on a Cluster, freezes", share: 5, faults: freezes})),
	onSlots(mortal(linearPlan{name: "on a Cluster, slots move", share: 5, faults: slotsMove, lossy: true})),
	onSlots(mortal(linearPlan{name: "on a Cluster, replicas take over", share: 5, faults: takeovers, lossy: true, watched: true})),
	mortal(linearPlan{name: "all of it", share: 7, faults: allOfIt, lossy: true, durable: true}),
}

// mortal completes a plan in which sessions and leases end while a history is
// made.
func mortal(p linearPlan) linearPlan {
	p.atOnce, p.lost, p.rules = 24, 8, rules{members: 3, userRooms: 2}
	p.pace, p.away, p.loginTime, p.impatient = 120*time.Millisecond, awayTTL, dialTime+2*shortTimeout, true
	p.flags = []string{fmt.Sprintf("--redis-timeout=%v", shortTimeout), fmt.Sprintf("--session-ttl=%v", awayTTL),
		fmt.Sprintf("--lease-ttl=%v", awayLease), "--heartbeat-interval=1s", "--drain-window=1s"}
	return p
}

// onSlots makes a plan one on a Redis Cluster: all rooms are in one hash slot, since an
// operation on rooms of two is not done at one moment, and all users in another. What one
// user does on two devices at the limit may be refused to both, so nobody gets there.
func onSlots(p linearPlan) linearPlan {
	p.cluster, p.rules = true, rules{members: 3, userRooms: 5}
	return p
}

// The times of gateways that clients are away from for longer. A gateway that
// is gone is found out, and what it held is parked, well before the sessions end.
const (
	awayTTL   = 6 * time.Second
	awayLease = 1500 * time.Millisecond
)

// dialTime is how long a client waits for a connection.
const dialTime = time.Second

// shortTimeout is that of gateways whose links to Redis are bad.
const shortTimeout = time.Second

// Whatever clients do at once on three gateways, everybody is answered as if
// one had done it after the other: each operation at some moment between its
// request and its answer. What was answered as unavailable, or not at all, has
// happened once or never. And each client's events are those of the room, none
// missing.
//
// ROOMGATE_TEST_SEED is that of the first history, the next has the next;
// ROOMGATE_TEST_HISTORIES says how many there are, over all plans, and
// ROOMGATE_TEST_OPERATIONS how many operations each has at least.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	seed, all := setting(t, "SEED", rand.Uint64()), setting(t, "HISTORIES", 200)
	operations := int(setting(t, "OPERATIONS", 300))
	// Several at once, since they mostly wait; not all, since each has three gateways.
	var plans errgroup.Group
	plans.SetLimit(4)
	defer plans.Wait()
	for _, p := range linearPlans {
		if *onCluster && !p.cluster {
			continue
		}
		if p.watched && !*long {
			continue // it takes a machine that is not busy: else servers are given up that are slow
		}
		plans.Go(func() error {
			t.Run(p.name, func(t *testing.T) {
				s := openSite(t, p)
				s.operations = operations
				began := time.Now()
				var sum tally
				n := max(1, int(all)*p.share/100)
				for first := 0; first < n && !sum.failed.Load(); first += p.atOnce {
					s.round(&sum, seed, first, min(p.atOnce, n-first))
				}
				t.Logf("%d histories in %v: %v", n, time.Since(began).Round(time.Millisecond), &sum)
			})
			return nil
		})
	}
}

// round makes some histories at once, with what the seed of the first has in
// store for their site.
func (s *site) round(sum *tally, seed uint64, first, n int) {
	t, seed := s.t, seed+uint64(first)
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	for i := range n {
		work.Go(func() {
			h := s.newHistory(first+i, seed+uint64(i))
			if err := h.run(ctx); err != nil {
				sum.failed.Store(true)
				t.Errorf("history %d: %v\nwhat was sent, came and was announced: %s\nmake its round again: ROOMGATE_TEST_SEED=%d ROOMGATE_TEST_HISTORIES=%d go test ./internal/e2e -run '^%s$'",
					h.seed, err, h.keep("txt", h.log()), seed, (100*n+s.plan.share-1)/s.plan.share, strings.ReplaceAll(t.Name(), "/", "$/^"))
			}
			sum.add(h)
		})
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		work.Wait()
		cancel()
	}()
	defer func() { // also if the site cannot be made whole
		if t.Failed() {
			cancel()
		}
		<-over
	}()
	if s.plan.faults != nil {
		s.plan.faults(ctx, s, rand.New(rand.NewPCG(seed, math.MaxUint64)))
	}
}

// setting is a number in the environment, ROOMGATE_TEST_ and a name, or else the
// one given.
func setting(t *testing.T, name string, n uint64) uint64 {
	t.Helper()
	name = "ROOMGATE_TEST_" + name
	if text := os.Getenv(name); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	t.Logf("%s=%d", name, n)
	return n
}

// tally is what came of histories.
type tally struct {
	failed atomic.Bool

	mu       sync.Mutex
	known    int
	doubts   int
	codes    map[protocol.Code]int
	repeats  int
	sessions int
	evicted  int
	slowest  time.Duration // check
	checking time.Duration
}

func (a *tally) add(h *history) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.codes == nil {
		a.codes = map[protocol.Code]int{}
	}
	a.known += len(h.known)
	a.doubts += len(h.doubtful)
	for _, k := range h.known {
		a.codes[k.got.code]++
	}
	a.repeats += int(h.repeats.Load())
	a.sessions += len(h.retired)
	for i := range h.entries {
		if h.entries[i].Reason == roomstore.ReasonTimeout {
			a.evicted++
		}
	}
	a.slowest = max(a.slowest, h.checked)
	a.checking += h.checked
}

func (a *tally) String() string {
	return fmt.Sprintf("%d operations of known outcome (by code: %v) and %d of unknown, %d repeated; %d sessions not gone on with, %d evictions; checked in %v, the slowest in %v",
		a.known, a.codes, a.doubts, a.repeats, a.sessions, a.evicted, a.checking.Round(time.Millisecond), a.slowest.Round(time.Millisecond))
}

// A site is three gateways on one Redis, each behind a link of its own.
type site struct {
	t          *testing.T
	plan       linearPlan
	operations int // of each history, at least
	flags      []string
	server     *redistest.Server   // nil: it is watched, or a Cluster
	cluster    *redistest.Cluster  // nil: it is none
	watched    *redistest.Sentinel // nil: it is not
	rdb        redis.UniversalClient
	book       *annals

	mu    sync.Mutex
	gates [gatesOfSite]*gateway
	links [gatesOfSite]*faultproxy.Proxy // of the gateways; nil: they find Redis by Sentinels
	held  map[*faultproxy.Proxy]int      // how many want a link to carry nothing
}

const gatesOfSite = 3

// longTTL is that of sessions that do not end.
const longTTL = time.Minute

func (s *site) gate(n int) *gateway {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gates[n]
}

func openSite(t *testing.T, p linearPlan) *site {
	t.Helper()
	var args []string
	if p.durable { // what it has answered it has written, which a kill does not undo
		args = []string{"--appendonly", "yes", "--appendfsync", "no"}
	}
	s := &site{t: t, plan: p, held: map[*faultproxy.Proxy]int{}}
	o := redistest.Options("")
	var masters []*redistest.Server
	if p.cluster {
		s.cluster = redistest.StartCluster(t, 3, p.watched)
		masters = append(slices.Clone(s.cluster.Masters), s.cluster.Replicas...)
	} else if p.watched {
		s.watched = redistest.StartSentinel(t, args...)
		o.Dialer = s.watched.Dial
	} else {
		s.server = redistest.Start(t, args...)
		o.Addr = s.server.Addr()
	}
	o.ReadTimeout, o.MaxRetries = time.Minute, 10 // it may end under us
	if p.cluster {
		s.rdb = s.cluster.Client()
	} else {
		s.rdb = redis.NewClient(o)
		t.Cleanup(func() { s.rdb.Close() })
	}
	s.book = openAnnals(t, s.rdb, masters)
	s.flags = append([]string{
		// Nobody's session or lease ends while a history is made, but where the
		// plan has it so.
		fmt.Sprintf("--session-ttl=%v", longTTL), "--lease-ttl=30s", "--heartbeat-interval=10s", "--redis-timeout=5s", "--log-ttl=3m",
		"--rate-limits=false", "--log-level=info", fmt.Sprintf("--max-rooms=%d", p.rules.rooms),
		fmt.Sprintf("--max-members=%d", p.rules.members), fmt.Sprintf("--max-rooms-per-user=%d", p.rules.userRooms),
	}, p.flags...)
	for n := range gatesOfSite {
		s.open(n)
	}
	return s
}

// pause waits for a while. It is false when ctx was done before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A history is what some players did to some rooms of their own.
type history struct {
	site    *site
	name    string // what all its IDs begin with
	seed    uint64
	began   time.Time
	rooms   int
	players []*player
	entries []entry       // of the annals
	checked time.Duration // for so long

	asked   atomic.Int32 // operations
	repeats atomic.Int32

	mu       sync.Mutex
	retired  []*player // sessions that did not go on, as their players left them
	known    []done
	signs    []done // of a session's life, besides those of known
	doubtful []done // the doubt of the i-th has the number i+1
	undos    []done
	trace    []utterance // what was sent and what came
}

// utterance is something that a player sent or got.
type utterance struct {
	at   time.Duration
	who  string // of the players
	gate int
	what string
	text []byte
}

// done is an operation and what came of it. Times are since the history began.
type done struct {
	operation
	got              outcome
	called, answered time.Duration // answered: of a known one
	stay             *visit        // on which it was answered; nil: a backend's
}

func (s *site) newHistory(i int, seed uint64) *history {
	r := rand.New(rand.NewPCG(seed, 0))
	h := &history{site: s, name: fmt.Sprintf("h%d", i), seed: seed, rooms: 2 + r.IntN(mostRooms-1)}
	users := 3 + r.IntN(mostUsers-3)
	for n := range users + r.IntN(min(users, mostPlayers-users)) {
		h.players = append(h.players, &player{
			h: h, session: uint8(n), user: uint8(n % users), r: rand.New(rand.NewPCG(seed, uint64(1+n))),
		})
	}
	return h
}

func (h *history) now() time.Duration { return time.Since(h.began) }

func (h *history) room(n uint8) string   { return fmt.Sprintf("%s.%c", h.name, 'A'+n) }
func (h *history) userID(n uint8) string { return fmt.Sprintf("%s.%c", h.name, 'a'+n) }

// roomOf is the number of a room with this ID.
func (h *history) roomOf(id string) (uint8, error) {
	n, ok := strings.CutPrefix(id, h.name+".")
	if !ok || len(n) != 1 || n[0] < 'A' || int(n[0]-'A') >= h.rooms {
		return 0, fmt.Errorf("there is no room %q", id)
	}
	return n[0] - 'A', nil
}

func (h *history) userOf(id string) (uint8, error) {
	n, ok := strings.CutPrefix(id, h.name+".")
	if !ok || len(n) != 1 || n[0] < 'a' || n[0] >= 'a'+mostUsers {
		return 0, fmt.Errorf("there is no user %q", id)
	}
	return n[0] - 'a', nil
}

// run makes the history and checks it.
func (h *history) run(ctx context.Context) error {
	h.began = time.Now()
	err := h.play(ctx)
	for _, p := range h.players {
		p.drop()
	}
	end := done{operation: operation{act: actEnd}, called: h.now()}
	var unknown error
	h.entries, unknown = h.site.book.close(ctx, h)
	if err := errors.Join(err, unknown); err != nil {
		return err
	}
	// Until now an operation of a session that was given up may still have happened.
	h.note(end)
	if err := h.evictions(); err != nil {
		return err
	}
	return errors.Join(h.check(), h.compare(), h.inTime(ctx))
}

// play has the players do what they do, and leaves nothing of it behind.
func (h *history) play(ctx context.Context) error {
	all := func(do func(p *player, ctx context.Context) error) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, p := range h.players {
			g.Go(func() error {
				if err := do(p, ctx); err != nil {
					return fmt.Errorf("%s: %w", sessionName(p.session, p.user), err)
				}
				return nil
			})
		}
		return g.Wait()
	}
	for _, step := range []func(*player, context.Context) error{(*player).login, (*player).play, (*player).settle} {
		if err := all(step); err != nil {
			return err
		}
	}
	if err := h.noGhosts(ctx); err != nil {
		return err
	}
	for n := range h.rooms {
		if err := h.end(ctx, uint8(n)); err != nil {
			return err
		}
	}
	return nil
}

// end sees to it that a room does not exist.
func (h *history) end(ctx context.Context, room uint8) error {
	deadline := time.Now().Add(3 * patience)
	for i := 0; ; i++ {
		code, err := h.destroy(operation{act: actDestroy, room: room, to: room}, h.site.gate(i%gatesOfSite))
		if err != nil || code == 0 || code == protocol.CodeNoRoom {
			return err
		}
		if time.Now().After(deadline) || !pause(ctx, 20*time.Millisecond) {
			return fmt.Errorf("room %s cannot be destroyed: %d", roomName(room), code)
		}
	}
}

// destroy destroys a room as a backend does.
func (h *history) destroy(o operation, g *gateway) (protocol.Code, error) {
	d := done{operation: o, called: h.now()}
	status, body := gatetest.Request(http.MethodDelete, "http://"+g.Addr+"/v1/rooms/"+h.room(o.room), "dev", "")
	switch status {
	case http.StatusOK:
	case http.StatusNotFound:
		d.got.code = protocol.CodeNoRoom
	case http.StatusServiceUnavailable, 0:
		_, err := h.doubt(d)
		return protocol.CodeUnavailable, err
	default:
		return 0, fmt.Errorf("destroy room %s: got %d %s", roomName(o.room), status, body)
	}
	h.note(d)
	return d.got.code, nil
}

// retire has a player go on as another session, "" for one that is still to
// begin.
func (h *history) retire(p *player, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.players) + len(h.retired)
	if n == mostSessions {
		return fmt.Errorf("more than %d sessions", mostSessions)
	}
	before := *p
	h.retired = append(h.retired, &before)
	*p = player{h: h, session: uint8(n), user: p.user, r: p.r, id: id, ws: p.ws, gate: p.gate, req: p.req, bear: p.bear, stay: p.stay}
	return nil
}

// note adds an operation of known outcome.
func (h *history) note(d done) {
	if d.answered == 0 {
		d.answered = h.now()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known = append(h.known, d)
}

// sign adds an operation that shows that its session was there, and is not checked.
func (h *history) sign(d done) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.signs = append(h.signs, d)
}

// doubt adds an operation of unknown outcome, and gives its number. An entry may
// be taken back, too.
func (h *history) doubt(d done) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.doubtful) == mostDoubts {
		return 0, fmt.Errorf("more than %d operations have an unknown outcome", mostDoubts)
	}
	d.doubt = len(h.doubtful) + 1
	h.doubtful = append(h.doubtful, d)
	if d.act.entry() {
		d.act = actUndo
		h.undos = append(h.undos, d)
	}
	return d.doubt, nil
}

// tell keeps what a player sent or got.
func (h *history) tell(p *player, what string, text []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trace = append(h.trace, utterance{h.now(), sessionName(p.session, p.user), p.gate, what, text})
}

// log is what was sent, came, and was announced, for a person to look at.
func (h *history) log() []byte {
	var b bytes.Buffer
	for _, l := range h.trace {
		fmt.Fprintf(&b, "%v %s %s %d %s\n", l.at, l.who, l.what, l.gate, l.text)
	}
	for _, p := range slices.Concat(h.retired, h.players) {
		fmt.Fprintf(&b, "%s is session %s\n", sessionName(p.session, p.user), p.id)
	}
	for _, e := range h.entries {
		fmt.Fprintf(&b, "announced %d, at %dms: %c in room %s at %d/%d: %s, %d members; session %s, not %s; %s\n", e.n,
			e.At-h.began.UnixMilli(), e.Kind, roomName(e.room), e.Epoch, e.Seq, e.User, e.Count, e.Origin, e.Old, e.Reason)
	}
	return b.Bytes()
}

// check looks for an order of the operations that explains their outcomes.
func (h *history) check() error {
	var ops []porcupine.Operation
	var last time.Duration
	for i := range h.known {
		last = max(last, h.known[i].answered)
	}
	add := func(all []done, known bool) {
		for i := range all {
			d := &all[i]
			op := porcupine.Operation{ClientId: int(d.session), Input: &d.operation, Output: &d.got, Call: int64(d.called), Return: int64(d.answered)}
			if !known { // it may happen as long as there is anybody to see it
				op.Return = int64(last) + 1
			}
			ops = append(ops, op)
		}
	}
	add(h.known, true)
	add(h.doubtful, false)
	add(h.undos, false)

	j := judge{rules: h.site.plan.rules, entries: h.entries}
	for _, p := range slices.Concat(h.players, h.retired) {
		j.ids[p.session] = p.id
	}
	model := j.model(len(h.known))
	checking.Lock()
	defer checking.Unlock()
	began := time.Now()
	result := porcupine.CheckOperationsTimeout(model, ops, checkTime)
	h.checked = time.Since(began)
	if result == porcupine.Ok {
		return nil
	}
	_, info := porcupine.CheckOperationsVerbose(model, ops, checkTime)
	text := fmt.Sprintf("no order of the %d operations explains their outcomes", len(ops))
	if result == porcupine.Unknown {
		text = fmt.Sprintf("%d operations could not be checked in %v", len(ops), checkTime)
	}
	return fmt.Errorf("%s; they are shown in %s\n%s", text, h.picture(model, info), stuck(model, ops, info))
}

// stuck says in a few words how far an order could be found, and what could not
// come next.
func stuck(model porcupine.Model, ops []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var longest []int
	for _, order := range info.PartialLinearizations()[0] {
		if len(order) > len(longest) {
			longest = order
		}
	}
	var b strings.Builder
	line := func(i int) {
		op := &ops[i]
		fmt.Fprintf(&b, "\t%v–%v %s\n", time.Duration(op.Call), time.Duration(op.Return), model.DescribeOperation(op.Input, op.Output))
	}
	state := model.Init()
	came := make([]bool, len(ops))
	for n, i := range longest {
		came[i] = true
		_, state = model.Step(state, ops[i].Input, ops[i].Output)
		if n >= len(longest)-6 {
			line(i)
		}
	}
	fmt.Fprintf(&b, "\tand then, with %s, none of\n", model.DescribeState(state))
	until := int64(math.MaxInt64)
	for i := range ops {
		if !came[i] {
			until = min(until, ops[i].Return)
		}
	}
	for i := range ops {
		if !came[i] && ops[i].Call <= until {
			line(i)
		}
	}
	return b.String()
}

// picture draws how far an order of the operations could be found.
func (h *history) picture(model porcupine.Model, info porcupine.LinearizationInfo) string {
	var b bytes.Buffer
	if err := porcupine.Visualize(model, info, &b); err != nil {
		return err.Error()
	}
	return h.keep("html", b.Bytes())
}

// keep writes a file that outlives the test, and gives its name.
func (h *history) keep(kind string, text []byte) string {
	dir := h.site.t.ArtifactDir()
	if f := flag.Lookup("test.artifacts"); f == nil || f.Value.String() != "true" { // it does not
		var err error
		if dir, err = os.MkdirTemp("", "roomgate-linear-"); err != nil {
			return err.Error()
		}
	}
	name := filepath.Join(dir, fmt.Sprintf("history-%d.%s", h.seed, kind))
	if err := os.WriteFile(name, text, 0o600); err != nil {
		return err.Error()
	}
	return name
}
