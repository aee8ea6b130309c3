package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// What a feed promises, whatever happens to the messages that bring it the
// room's events and whatever order things happen in: each member sees the log,
// in order and once, from its entry to its departure.
func TestFeed_model(t *testing.T) {
	for range 15 { // of rapid's 100 runs, each a few ms
		rapid.Check(t, func(rt *rapid.T) { model(t, rt) })
	}
}

func model(t *testing.T, rt *rapid.T) {
	// rapid ends a run by panics, which must not leave the bubble's goroutine.
	var failure any
	synctest.Test(t, func(t *testing.T) {
		defer func() { failure = recover() }()
		w := newWorld(t, rt)
		defer w.end()
		w.run()
	})
	if failure != nil {
		panic(failure)
	}
}

// world is one room as it truly is, a node with a feed of it, and clients.
type world struct {
	t   *testing.T
	rt  *rapid.T
	bus *fakeBus
	hub *hub

	moments int
	mu      sync.Mutex // for what operations and the store do side by side
	rand    *rand.Rand // for them, since rapid is the first goroutine's

	// The truth.
	epoch   int64 // of the present life or the last
	alive   bool
	log     map[int64][]roomstore.Event // of each epoch; seq is the index + 1
	members map[roomstore.UserID]membership
	crowd   int64            // members besides, of whom nothing is heard: they make the room large
	orders  map[string]int64 // commands, and the position each is after
	keep    int              // messages and moves of the newest that are kept
	failing bool             // the store may fail
	unkept  bool             // an incomplete history was given
	base    map[int64]int64  // of epochs that go back to others, since data was lost
	lineage map[int64]roomstore.Lineage

	// Sessions whose move to another device was not in it, or whose end was lost
	// with an epoch. The feed cannot know of that, and they are on their own.
	strays map[roomstore.SessionID]bool

	wire    []roomstore.Event // published and not delivered
	latest  roomstore.Event   // delivered, or dropped
	clients []*player
	pending atomic.Int32 // answers that are to be given
	n       int          // of messages
}

type membership struct {
	session roomstore.SessionID
	entered int64
}

// player is a client with one session.
type player struct {
	w    *world
	user string
	id   roomstore.SessionID
	gen  int64

	s       *session // nil: no socket
	sock    *wire
	busy    atomic.Bool // an operation is under way
	unnamed bool        // it came back without knowing that it was in the room
	few     int         // if not negative, only so many of the next frames are read before the link is lost

	// As the client sees it.
	in       bool
	at       roomstore.Position
	view     map[string]bool // the others
	ahead    int64           // up to here it may be that of a later position: a difference comes before messages
	told     int64           // up to here it has been told of members
	sampled  bool            // it is told of some members only
	asked    []int64         // positions that answers will have, to what it has asked about members
	commands []string
	got      map[string]bool // messages, of the present epoch
	from     int64           // messages after this are to come, or were lost
	lost     [][2]int64

	mu      sync.Mutex
	answers map[string]func() // what is to hold when each comes
}

func newWorld(t *testing.T, rt *rapid.T) *world {
	w := &world{
		t: t, rt: rt, bus: &fakeBus{}, rand: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)), log: map[int64][]roomstore.Event{},
		base: map[int64]int64{}, lineage: map[int64]roomstore.Lineage{},
		members: map[roomstore.UserID]membership{}, orders: map[string]int64{}, strays: map[roomstore.SessionID]bool{}, keep: 1 << 20,
	}
	if rapid.Bool().Draw(rt, "shortHistory") {
		w.keep = 3
	}
	w.crowd = drawCrowd(rt)
	w.hub = startHub(t, &fakeHistory{catchup: w.catchup, positions: w.positions, absent: w.absent}, w.bus)
	for _, user := range []string{"ana", "bo", "cy"} {
		for device := range 2 {
			p := &player{w: w, few: -1, user: user, id: roomstore.SessionID(fmt.Sprintf("%s-%d", user, device)), answers: map[string]func(){}}
			p.connect()
			w.clients = append(w.clients, p)
		}
	}
	return w
}

// drawCrowd draws how many members a room has besides: more than gathering and sampling
// begin with, or about as many, or none.
func drawCrowd(rt *rapid.T) int64 {
	return rapid.SampledFrom([]int64{0, 0, gatherFrom - 2, 400, fullFrom - 2, sampledFrom - 2, 3000}).Draw(rt, "crowd")
}

// count is how many members there are.
func (w *world) count() int64 { return w.crowd + int64(len(w.members)) }

func (w *world) fail(format string, args ...any) {
	w.rt.Helper()
	w.t.Logf(format, args...) // in case it does not happen again
	w.rt.Fatalf(format, args...)
}

// The truth, changed as the store's scripts do.

func (w *world) head() roomstore.Position {
	return roomstore.Position{Epoch: w.epoch, Seq: int64(len(w.log[w.epoch]))}
}

func (w *world) append(e roomstore.Event) roomstore.Position {
	e.Position = at(w.epoch, w.head().Seq+1)
	e.Count = w.count()
	w.log[w.epoch] = append(w.log[w.epoch], e)
	w.publish(e)
	return e.Position
}

func (w *world) publish(e roomstore.Event) {
	if w.bus.handler("ch:R") != nil {
		w.wire = append(w.wire, e)
	}
}

func (w *world) enter(user string, id roomstore.SessionID) roomstore.Entry {
	if !w.alive {
		w.alive, w.epoch = true, w.epoch+1
		clear(w.members)
	}
	u := roomstore.UserID(user)
	m, in := w.members[u]
	switch {
	case in && m.session == id:
		return roomstore.Entry{Position: w.head(), Entered: m.entered, Already: true, Count: w.count()}
	case in:
		w.members[u] = membership{id, m.entered}
		at := w.append(roomstore.Event{Kind: roomstore.KindMoved, User: u, Origin: id, Old: m.session, Data: userData(user)})
		return roomstore.Entry{Position: at, Entered: m.entered, Count: w.count()}
	}
	w.members[u] = membership{id, w.head().Seq + 1}
	at := w.append(roomstore.Event{Kind: roomstore.KindJoined, User: u, Origin: id, Data: userData(user)})
	return roomstore.Entry{Position: at, Entered: at.Seq, Count: w.count()}
}

func (w *world) depart(user string, reason roomstore.Reason) roomstore.Position {
	u := roomstore.UserID(user)
	m := w.members[u]
	delete(w.members, u)
	at := w.append(roomstore.Event{Kind: roomstore.KindLeft, User: u, Origin: m.session, Reason: reason, Data: userData(user)})
	return at
}

func (w *world) say(user string, id roomstore.SessionID) roomstore.Position {
	w.n++
	e := message(0, 0, user, fmt.Sprint(w.n))
	e.Origin, e.MessageID = id, fmt.Sprint(w.n)
	return w.append(e)
}

func (w *world) command(user string, id roomstore.SessionID) roomstore.Position {
	w.n++
	e := command(w.epoch, w.head().Seq, user, fmt.Sprint(w.n), 3)
	e.Origin, e.MessageID = id, fmt.Sprint(w.n)
	w.orders[e.MessageID] = e.Seq
	w.publish(e)
	return e.Position
}

func (w *world) destroy() {
	e := destroyed(w.epoch, w.head().Seq+1)
	w.alive = false
	clear(w.members)
	w.publish(e)
}

// lose is what it comes to when the store has lost data and gateways have put it
// back: the room goes on under another epoch. If that is late, it is announced.
func (w *world) lose(late bool) {
	for _, p := range w.clients {
		if (p.in || p.busy.Load()) && !w.isIn(p.user, p.id) {
			w.strays[p.id] = true // it may not hear of its end
		}
	}
	old := w.epoch
	w.epoch++
	for _, e := range w.log[old] {
		e.Epoch = w.epoch
		w.log[w.epoch] = append(w.log[w.epoch], e)
	}
	w.lineage[w.epoch] = roomstore.Lineage(fmt.Sprintf(",%d,%s", old, strings.TrimPrefix(string(w.lineage[old]), ",")))
	e := roomstore.Event{Kind: roomstore.KindHealed, Lineage: w.lineage[w.epoch], Position: at(w.epoch, w.head().Seq+1)}
	w.log[w.epoch] = append(w.log[w.epoch], e)
	w.base[w.epoch] = e.Seq
	if late {
		w.publish(e)
	}
}

func (w *world) life() roomstore.Life {
	return roomstore.Life{Position: w.head(), Base: w.base[w.epoch], Lineage: w.lineage[w.epoch]}
}

func (w *world) isIn(user string, id roomstore.SessionID) bool {
	return w.alive && w.members[roomstore.UserID(user)].session == id
}

// catchup knows entries and departures for good, and the newest of the rest.
func (w *world) catchup(_ context.Context, _ roomstore.RoomID, after roomstore.Position) (roomstore.History, error) {
	w.mu.Lock()
	pause := w.moment(0, 5)
	defer func() {
		w.mu.Unlock()
		time.Sleep(pause) // what it knows is from before
	}()
	if w.failing && w.rand.IntN(4) == 0 {
		return roomstore.History{}, errors.New("no answer")
	}
	switch {
	case !w.alive:
		return roomstore.History{}, roomstore.ErrNoRoom
	case w.epoch != after.Epoch:
		return roomstore.History{Life: w.life()}, roomstore.ErrEpoch
	}
	h := roomstore.History{Life: w.life(), Position: w.head(), Count: w.count(), Complete: true}
	kept := 0
	for _, e := range slices.Backward(w.log[w.epoch]) {
		if e.Kind == roomstore.KindMessage || e.Kind == roomstore.KindMoved {
			if kept++; (kept > w.keep || e.Seq <= w.base[w.epoch]) && e.Seq > after.Seq {
				h.Complete = false
				w.strays[e.Old] = true
				continue
			}
		}
		if e.Seq > after.Seq {
			h.Events = append(h.Events, e)
		}
	}
	slices.Reverse(h.Events)
	if !h.Complete {
		w.unkept = true
		for i := range h.Events {
			h.Events[i].Count = 0
		}
	}
	return h, nil
}

// absent notes those that are not in the room: their clients would be sent to
// find out why.
func (w *world) absent(sessions []roomstore.Session) []roomstore.Session {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range sessions {
		if !w.isIn(string(s.User), s.ID) {
			w.strays[s.ID] = true
		}
	}
	return nil
}

func (w *world) positions() map[roomstore.RoomID]roomstore.Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.alive {
		return map[roomstore.RoomID]roomstore.Position{}
	}
	return map[roomstore.RoomID]roomstore.Position{room: w.head()}
}

// What happens.

func (w *world) run() {
	w.failing = true
	steps := rapid.IntRange(5, 120).Draw(w.rt, "steps")
	for range steps {
		w.step()
		for _, p := range w.clients {
			p.read()
		}
	}
	// In the end all that was published comes, or a gap is noticed.
	w.failing = false
	for w.deliver(0) {
	}
	w.gap()
	time.Sleep(5 * time.Second)
	w.gap()
	time.Sleep(3 * time.Second) // also for the end of a room, which may be on its way
	synctest.Wait()
	if n := w.pending.Load(); n != 0 {
		w.fail("%d answers were not given", n)
	}
	for _, p := range w.clients {
		p.read()
		p.settled()
	}
}

func (w *world) step() {
	p := rapid.SampledFrom(w.clients).Draw(w.rt, "client")
	step := rapid.SampledFrom([]string{
		"deliver", "deliver", "deliver", "deliver", "drop", "double", "swap", "gap", "wait",
		"enter", "enter", "enter", "leave", "say", "say", "command", "other", "otherSays", "otherSays", "kick", "destroy", "lose", "cut", "resume", "resume",
		"ask", "ask", "crowd",
	}).Draw(w.rt, "step")
	switch step {
	case "deliver":
		w.deliver(0)
	case "drop":
		w.take(0)
	case "double":
		w.deliver(0)
		w.last()
	case "swap":
		w.deliver(rapid.IntRange(1, 4).Draw(w.rt, "which"))
	case "gap":
		w.gap()
	case "wait":
		time.Sleep(time.Duration(rapid.SampledFrom([]int{1, 20, 40, 2000, 15000}).Draw(w.rt, "ms")) * time.Millisecond)
	case "enter":
		p.enter()
	case "leave":
		p.leave()
	case "say":
		p.say()
	case "ask":
		p.ask()
	case "command", "other", "otherSays", "kick", "destroy", "lose", "crowd":
		w.happen(step, p)
	case "cut":
		p.cut()
	case "resume":
		p.resume()
	}
	synctest.Wait()
}

// happen changes the room in a way that no client of this node waits for.
func (w *world) happen(what string, p *player) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch what {
	case "command":
		if w.isIn(p.user, p.id) {
			w.command(p.user, p.id)
		}
	case "other":
		w.comeOrGo(rapid.SampledFrom([]string{"yan", "zoe"}).Draw(w.rt, "other"))
	case "otherSays":
		if w.alive {
			if rapid.Bool().Draw(w.rt, "kept") {
				w.say("zoe", "remote-zoe")
			} else {
				w.command("zoe", "remote-zoe")
			}
		}
	case "crowd":
		w.crowd = drawCrowd(w.rt)
		w.comeOrGo("zoe")
	case "kick":
		if _, in := w.members[roomstore.UserID(p.user)]; in && w.alive {
			w.depart(p.user, roomstore.ReasonKicked)
		}
	case "lose":
		if w.alive {
			w.lose(rapid.Bool().Draw(w.rt, "late"))
		}
	case "destroy":
		if w.alive && rapid.IntRange(0, 2).Draw(w.rt, "really") == 0 {
			w.destroy()
		}
	}
}

// comeOrGo has a user of another node enter the room, or leave it.
func (w *world) comeOrGo(user string) {
	if _, in := w.members[roomstore.UserID(user)]; in && w.alive {
		w.depart(user, roomstore.ReasonLeft)
	} else {
		w.enter(user, roomstore.SessionID("remote-"+user))
	}
}

// lastCount is how many members there were after the last entry or departure since data was
// lost, 0 if there was none.
func (w *world) lastCount() int64 {
	for _, e := range slices.Backward(w.log[w.epoch][w.base[w.epoch]:]) {
		if e.Kind == roomstore.KindJoined || e.Kind == roomstore.KindLeft {
			return e.Count
		}
	}
	return 0
}

// take takes an event off those that are to be delivered.
func (w *world) take(i int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i >= len(w.wire) {
		return false
	}
	w.latest = w.wire[i]
	w.wire = slices.Delete(w.wire, i, i+1)
	return true
}

// deliver brings an event that was published to the feed.
func (w *world) deliver(i int) bool {
	return w.take(i) && w.last()
}

// last delivers the latest event, perhaps again.
func (w *world) last() bool {
	if h := w.bus.handler("ch:R"); h != nil && w.latest.Epoch != 0 {
		h.Deliver(envelope(w.latest))
	}
	synctest.Wait()
	return true
}

// gap is what the bus does when its connection was lost and is back.
func (w *world) gap() {
	if h := w.bus.handler("ch:R"); h != nil {
		h.Gap()
	}
	synctest.Wait()
}

// pause lets the rest of the world go on, for a while that differs.
func (w *world) pause() {
	w.mu.Lock()
	d := w.moment(0, 1, 25, 100)
	w.mu.Unlock()
	time.Sleep(d)
}

// moment gives one of some times, in ms, and a bit: no two things end at once,
// so that what happened can happen again.
func (w *world) moment(ms ...int) time.Duration {
	w.moments++
	return time.Duration(ms[w.rand.IntN(len(ms))])*time.Millisecond + time.Duration(w.moments)*time.Nanosecond
}

func (p *player) connect() {
	p.gen++
	p.s, p.sock = newSession(p.user, string(p.id), p.gen)
	p.asked = nil
}

// begin begins an operation that ends in a goroutine of its own.
func (p *player) begin(op func(s *session)) {
	p.busy.Store(true)
	p.w.pending.Add(1)
	s := p.s
	go func() {
		op(s)
		p.w.pending.Add(-1)
		p.busy.Store(false)
	}()
}

// answered waits for the answer, which is to come after all up to a position.
func (p *player) answer(s *session, at roomstore.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := fmt.Sprint(len(p.answers))
	p.answers[id] = func() {
		if p.in && p.at.Epoch == at.Epoch {
			p.complete(at.Seq, "the answer "+id)
		}
	}
	s.c.queue(answerFrame(id))
}

func (p *player) enter() {
	w := p.w
	if p.busy.Load() || p.s == nil {
		return
	}
	p.unnamed = false
	p.begin(func(s *session) {
		f, err := w.hub.open(w.t.Context(), room)
		if err != nil {
			panic(err)
		}
		w.mu.Lock()
		e := w.enter(p.user, p.id)
		w.mu.Unlock()
		w.pause()
		say := func() {
			s.state(roomConnected(room, e.Position))
			p.answer(s, e.Position)
		}
		if e.Already && s.in(room) != nil {
			done := make(chan struct{})
			f.after(s.who.ID, e.Position, func() { p.answer(s, e.Position); close(done) })
			<-done
			w.hub.close(f)
			return
		}
		if !f.admit(s, e, say) {
			w.rejoin(f, s, roomstore.Return{Room: room, In: true, Position: e.Position, Entered: e.Entered}, &sight{Position: e.Position}, say)
		}
	})
}

// rejoin tries until the store answers; the client of a real gateway would be
// sent away and come back.
func (w *world) rejoin(f *feed, s *session, back roomstore.Return, seen *sight, say func()) {
	for f.rejoin(w.t.Context(), s, back, seen, say) != nil {
		time.Sleep(10 * time.Millisecond)
		f, _ = w.hub.open(w.t.Context(), room)
	}
}

func (p *player) leave() {
	w := p.w
	if p.busy.Load() || p.s == nil || p.s.in(room) == nil {
		return
	}
	p.begin(func(s *session) {
		d := s.departing(room)
		w.pause()
		w.mu.Lock()
		in, heard, gaveUp := w.isIn(p.user, p.id), w.rand.IntN(4) > 0, w.rand.IntN(2) == 0
		var at roomstore.Position
		if in {
			at = w.depart(p.user, roomstore.ReasonLeft)
		}
		w.mu.Unlock()
		w.pause()
		if !heard {
			d.doubts() // its outcome is not known at first
			w.pause()
		}
		if !in || !heard && gaveUp {
			d.stays() // it was refused, or its outcome is not known here
			return
		}
		for !d.agrees(w.t.Context(), at) {
			w.pause() // the store says the same again
		}
		d.tell()
	})
}

func (p *player) say() {
	w := p.w
	if p.busy.Load() || p.s == nil {
		return
	}
	p.begin(func(s *session) {
		w.mu.Lock()
		if !w.isIn(p.user, p.id) {
			w.mu.Unlock()
			return
		}
		at := w.say(p.user, p.id)
		w.mu.Unlock()
		w.pause()
		f := s.in(room)
		if f == nil {
			return
		}
		done := make(chan struct{})
		f.after(s.who.ID, at, func() { p.answer(s, at); close(done) })
		<-done
	})
}

// ask asks who is in the room. What it hears until it is answered is of before the answer or
// of after it, not of both.
func (p *player) ask() {
	w := p.w
	if p.busy.Load() || p.s == nil || p.s.in(room) == nil {
		return
	}
	p.begin(func(s *session) {
		defer s.exactly(room)()
		w.pause()
		w.mu.Lock()
		if !w.isIn(p.user, p.id) {
			w.mu.Unlock()
			return
		}
		at := w.head()
		p.asked = append(p.asked, at.Seq)
		w.mu.Unlock()
		w.pause()
		f := s.in(room)
		if f == nil {
			return
		}
		done := make(chan struct{})
		f.after(s.who.ID, at, func() { p.answer(s, at); close(done) })
		<-done
	})
}

// cut ends the client's link.
func (p *player) cut() {
	if p.busy.Load() || p.s == nil {
		return
	}
	synctest.Wait()
	p.read()
	p.s.detach()
	p.s, p.sock = nil, nil
}

// resume comes back over a new link, sometimes before the old one is known to
// be lost.
func (p *player) resume() {
	w := p.w
	if p.busy.Load() || p.s == nil && rapid.Bool().Draw(w.rt, "away") {
		return
	}
	old := p.s
	if old != nil {
		synctest.Wait()
		p.read()
	}
	p.connect()
	seen, named := &sight{Position: p.at, members: p.told}, p.in
	p.unnamed = !named
	if rapid.IntRange(0, 2).Draw(w.rt, "lostAgain") == 0 {
		p.few = rapid.IntRange(0, 4).Draw(w.rt, "few")
	}
	p.begin(func(s *session) {
		w.mu.Lock()
		in := w.isIn(p.user, p.id)
		back := roomstore.Return{Room: room, In: in, Position: w.head(), Entered: w.members[roomstore.UserID(p.user)].entered}
		w.mu.Unlock()
		if in {
			w.pause()
			f, err := w.hub.open(w.t.Context(), room)
			if err != nil {
				panic(err)
			}
			if !named {
				seen = nil
			}
			w.rejoin(f, s, back, seen, nil)
		} else if named {
			s.roomOver(room, protocol.RoomConnectTimeout, "")
		}
		if old != nil {
			old.detach()
		}
	})
}

// What the client hears.

func (p *player) read() {
	if p.sock == nil {
		return
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	frames, err := parseFrames(p.sock.take())
	if err != nil {
		p.w.fail("%s: %v", p.id, err)
	}
	lost := p.few >= 0 && len(frames) > 0 && !p.busy.Load()
	if lost {
		n := min(p.few, len(frames))
		if n > 0 && n < len(frames) && halfTold(frames[n-1].payload) {
			n++ // the halves of a difference are told as one
		}
		frames = frames[:n]
	}
	for _, f := range frames {
		if !p.w.strays[p.id] {
			p.hear(f.payload)
		}
	}
	if lost {
		p.s.detach()
		p.s, p.sock, p.few = nil, nil, -1
	}
}

// halfTold says whether a message is the first half of a difference.
func halfTold(text []byte) bool {
	return bytes.Contains(text, []byte(`"roomMemberLeft"`)) && !bytes.Contains(text, []byte(`eq":`))
}

func (p *player) fail(what []byte, format string, args ...any) {
	p.w.fail("%s, in %v at %v, heard %s: %s\nthe log: %s", p.id, p.in, p.at, what, fmt.Sprintf(format, args...), p.w.written())
}

func (w *world) written() string {
	var s string
	for _, epoch := range slices.Sorted(maps.Keys(w.log)) {
		for _, e := range w.log[epoch] {
			s += fmt.Sprintf("\n\t%d.%d %c %s %s %s", epoch, e.Seq, e.Kind, e.User, e.Origin, e.MessageID)
		}
	}
	return s
}

func (p *player) hear(text []byte) {
	var m struct {
		ID, Method string
		Params     json.RawMessage
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&m); err != nil {
		p.fail(text, "%v", err)
	}
	params := func(v any) {
		d := json.NewDecoder(bytes.NewReader(m.Params))
		d.DisallowUnknownFields()
		if err := d.Decode(v); err != nil {
			p.fail(text, "%v", err)
		}
	}
	if m.Method == "" {
		p.mu.Lock()
		check := p.answers[m.ID]
		p.answers[m.ID] = nil
		p.mu.Unlock()
		if check == nil {
			p.fail(text, "answered twice")
		}
		p.asked = nil
		check()
		return
	}
	if !p.in && m.Method != protocol.EventRoomStateChanged {
		p.fail(text, "not in the room")
	}
	switch m.Method {
	case protocol.EventRoomStateChanged:
		var e protocol.RoomStateChanged
		params(&e)
		p.state(text, e)
	case protocol.EventRoomMemberJoined, protocol.EventRoomMemberLeft:
		var e protocol.MembersChanged
		params(&e)
		came := m.Method == protocol.EventRoomMemberJoined
		if p.sampled && len(e.MemberList) > sampleSize {
			p.fail(text, "%d users", len(e.MemberList))
		}
		p.apart(text, e.Seq)
		for _, u := range e.MemberList {
			if !p.sampled && (u.UserID == p.user || p.view[u.UserID] == came) {
				p.fail(text, "%s of %s, of whom the client knows %v", m.Method, u.UserID, p.view)
			}
			if p.view[u.UserID] = came; !came {
				delete(p.view, u.UserID)
			}
		}
		if e.Seq > 0 {
			p.ahead = 0
		}
		p.told = max(p.told, e.MembersSeq, e.Seq)
		p.move(text, e.Seq)
	case protocol.EventRoomMessageReceived:
		var e protocol.MessageReceived
		params(&e)
		msg := e.MessageList[0]
		if e.After != nil {
			p.command(text, msg.MessageID, *e.After)
			return
		}
		seq := slices.IndexFunc(p.w.log[p.at.Epoch], func(e roomstore.Event) bool { return e.MessageID == msg.MessageID })
		if int64(seq+1) != e.Seq {
			p.fail(text, "it is number %d", seq+1)
		}
		if p.got[msg.MessageID] {
			p.fail(text, "twice")
		}
		p.got[msg.MessageID] = true
		p.told = max(p.told, e.MembersSeq)
		p.move(text, e.Seq)
	case protocol.EventRoomModeChanged:
		var e protocol.RoomModeChanged
		params(&e)
		if e.Seq < p.at.Seq {
			p.fail(text, "of before")
		}
		p.at.Seq = e.Seq
		p.complete(e.Seq, string(text))
		if p.sampled = e.Mode == protocol.ModeSampled; !p.sampled {
			p.query()
		}
	case protocol.EventRoomHistoryLost:
		var e protocol.HistoryLost
		params(&e)
		// What a life that is over took with it the store has not.
		if !p.w.unkept && p.w.alive && p.at.Epoch == p.w.epoch && (e.FromSeq != 0 || p.w.base[p.at.Epoch] == 0) {
			p.fail(text, "the store has all of it")
		}
		p.lost = append(p.lost, [2]int64{e.FromSeq, e.ToSeq})
		p.at.Seq = max(p.at.Seq, e.ToSeq)
		p.query()
	}
}

// query is what a client does that has lost history.
func (p *player) query() {
	p.view, p.ahead, p.told = p.w.others(p.at, p.user), 0, p.at.Seq
}

// others gives the members at a position, but one.
func (w *world) others(at roomstore.Position, user string) map[string]bool {
	others := map[string]bool{}
	for _, e := range w.log[at.Epoch][:at.Seq] {
		switch e.Kind {
		case roomstore.KindJoined:
			others[string(e.User)] = true
		case roomstore.KindLeft:
			delete(others, string(e.User))
		}
	}
	delete(others, user)
	return others
}

func (p *player) state(text []byte, e protocol.RoomStateChanged) {
	if e.State == protocol.RoomDisconnected {
		if !p.in && !p.unnamed {
			p.fail(text, "it was not in")
		}
		p.in = false
		return
	}
	to := roomstore.Position{Epoch: e.Epoch, Seq: e.Seq}
	if p.in && p.at.Epoch == to.Epoch && to.Seq <= p.at.Seq {
		// A return at the position that the client named.
		if to.Seq != p.at.Seq {
			p.fail(text, "back at another position")
		}
		if p.sampled {
			p.sampled, p.view = false, p.w.others(roomstore.Position{Epoch: to.Epoch, Seq: max(to.Seq, p.told)}, p.user)
		}
		p.ahead = int64(len(p.w.log[to.Epoch]))
		return
	}
	if !p.in || p.at.Epoch != to.Epoch {
		p.got, p.lost, p.commands = map[string]bool{}, nil, nil
	}
	p.in, p.at, p.from, p.sampled = true, to, to.Seq, false
	p.query()
	if p.unnamed { // a return all the same
		p.ahead = int64(len(p.w.log[to.Epoch]))
	}
}

// move moves the client's position on.
func (p *player) move(text []byte, seq int64) {
	if seq == 0 {
		return
	}
	if seq <= p.at.Seq || seq > int64(len(p.w.log[p.at.Epoch])) {
		p.fail(text, "out of order")
	}
	p.at.Seq = seq
	p.complete(seq, string(text))
	if seq > p.ahead && !p.sampled {
		p.same(string(text))
	}
}

// apart checks that no difference that moves the client to a seq is of entries and departures
// on both sides of an answer that it waits for. Those before it that come to nothing are in
// no difference.
func (p *player) apart(text []byte, seq int64) {
	if p.sampled {
		return
	}
	for _, answer := range p.asked {
		if answer <= p.at.Seq || seq <= answer {
			continue
		}
		asked := roomstore.Position{Epoch: p.at.Epoch, Seq: answer}
		before := !maps.Equal(p.w.others(p.at, p.user), p.w.others(asked, p.user))
		after := slices.ContainsFunc(p.w.log[p.at.Epoch][answer:seq], func(e roomstore.Event) bool {
			return e.Kind == roomstore.KindJoined || e.Kind == roomstore.KindLeft
		})
		if before && after {
			p.fail(text, "an answer of %d will come", answer)
		}
	}
}

// same checks that the client knows the members there were at its position.
func (p *player) same(when string) {
	if want := p.w.others(p.at, p.user); !maps.Equal(p.view, want) {
		p.fail([]byte(when), "knows %v, should know %v", p.view, want)
	}
}

// complete checks that the client has had all messages up to seq.
func (p *player) complete(seq int64, when string) {
	for _, e := range p.w.log[p.at.Epoch] {
		if e.Kind != roomstore.KindMessage || e.Origin == p.id || e.Seq <= p.from || e.Seq > seq || p.got[e.MessageID] {
			continue
		}
		if !slices.ContainsFunc(p.lost, func(l [2]int64) bool { return l[0] < e.Seq && e.Seq <= l[1] }) {
			p.fail([]byte(when), "message %s, number %d, is missing", e.MessageID, e.Seq)
		}
	}
}

func (p *player) command(text []byte, id string, after int64) {
	if slices.Contains(p.commands, id) {
		p.fail(text, "twice")
	}
	if after < p.from {
		p.fail(text, "sent before it entered")
	}
	if after < p.at.Seq {
		p.fail(text, "late")
	}
	if n := len(p.commands); n > 0 && after < p.w.orders[p.commands[n-1]] {
		p.fail(text, "after command %s", p.commands[n-1])
	}
	p.complete(after, string(text))
	p.commands = append(p.commands, id)
}

// settled checks where everything has come to in the end.
func (p *player) settled() {
	w := p.w
	if p.s == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	in := w.isIn(p.user, p.id)
	if w.strays[p.id] {
		return
	}
	if p.in != in {
		p.fail([]byte("the end"), "in is %v, should be %v", p.in, in)
	}
	if !in {
		return
	}
	if p.at.Epoch != w.epoch {
		p.fail([]byte("the end"), "the epoch is %d", w.epoch)
	}
	p.complete(w.head().Seq, "the end")
	if n := w.lastCount(); !w.unkept && (p.sampled && 0 < n && n <= fullFrom || !p.sampled && n > sampledFrom) {
		p.fail([]byte("the end"), "sampled is %v, there are %d members", p.sampled, n)
	}
	p.at.Seq = w.head().Seq
	if !p.sampled {
		p.same("the end")
	}
}

// end checks that nobody holds the feed when all are gone.
func (w *world) end() {
	for _, p := range w.clients {
		if p.s != nil {
			p.s.detach()
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if len(w.hub.feeds) != 0 || len(w.hub.idle) != 0 {
		for _, f := range w.hub.feeds {
			w.rt.Errorf("a feed is left over with %d users", f.users)
		}
	}
}
