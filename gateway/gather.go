package gateway

// This file is how a feed tells of entries and departures in large rooms: gathered, so
// that a crowd that comes at once does not cost a frame for everybody of everybody.

import (
	"slices"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

const (
	// gatherFrom is how many members a room has for its entries and departures to be
	// gathered. The first after a while is told at once; what follows waits until a
	// window is over that is as wide as the room is large: gatherPer for each member.
	gatherFrom = 100
	gatherPer  = 200 * time.Microsecond

	// Above sampledFrom members clients are told of some only, until there are fullFrom
	// or fewer: of at most sampleSize users an event, and at most 5 events a second,
	// which is one of those who left and one of those who came in each sampleWindow. How
	// many members there are is exact.
	sampledFrom  = 1000
	fullFrom     = 900
	sampleSize   = 50
	sampleWindow = 400 * time.Millisecond
)

// gathering is what a feed keeps for it. It is nil in a room that was never large.
type gathering struct {
	pending []roomstore.Event // entries and departures not told yet, in order
	last    time.Time         // when some were told
	timer   *time.Timer
	due     time.Time // when the timer runs out; zero: it does not run
	sampled bool
}

// exactly notes that a session is about to ask about a room: until it is answered, which
// is said by calling answered, it is told of each entry and departure by itself. So no
// event that it has is of before and after the answer.
func (s *session) exactly(room roomstore.RoomID) (answered func()) {
	f := s.in(room)
	if f == nil {
		return nothing
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(s.who.ID)
	if i < 0 {
		return nothing
	}
	m := f.members[i]
	m.exact++
	f.exact++
	if f.crowd != nil && !f.crowd.sampled {
		f.tellOne(m, f.crowd.pending)
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		m.exact--
		f.exact--
	}
}

// tellOf tells the members of an entry or departure, or gathers it.
func (f *feed) tellOf(e roomstore.Event) {
	if e.Count >= gatherFrom || f.sampled() || e.Count == 0 && f.crowd != nil {
		f.gather(e) // 0: it is not known how many there were then
		return
	}
	f.tellMembers()
	f.deliver(e, classKept, e.Seq)
}

func (f *feed) sampled() bool { return f.crowd != nil && f.crowd.sampled }

// gather takes an entry or departure that has just been handed on.
func (f *feed) gather(e roomstore.Event) {
	g := f.large()
	g.pending = append(g.pending, e)
	if f.exact > 0 && !g.sampled {
		for _, m := range f.members {
			if m.exact > 0 {
				f.tellOne(m, g.pending)
			}
		}
	}
	window := sampleWindow
	if !g.sampled {
		window = time.Duration(min(e.Count, sampledFrom)) * gatherPer
	}
	wait := window - time.Since(g.last)
	switch {
	case !g.sampled && e.Count > sampledFrom:
		f.becomeSampled(nil)
	case g.sampled && e.Count <= fullFrom && e.Count > 0:
		f.tellMembers()
		f.setMode(false, nil)
	case wait <= 0:
		f.tellMembers()
	case g.due.IsZero():
		g.due = time.Now().Add(wait)
		g.timer.Reset(wait)
	}
}

// large gives what the feed keeps for gathering, made when it is needed.
func (f *feed) large() *gathering {
	if f.crowd == nil {
		g := &gathering{}
		g.timer = time.AfterFunc(time.Hour, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			// It may have been stopped too late, and set again.
			if !g.due.IsZero() && !time.Now().Before(g.due) {
				f.tellMembers()
			}
		})
		g.timer.Stop()
		f.crowd = g
	}
	return f.crowd
}

// setMode says to all members how they hear of others from now on. newcomer, if not nil,
// is one that has not been handed anything yet.
func (f *feed) setMode(sampled bool, newcomer *member) {
	f.crowd.sampled = sampled
	all := modeChanged(f.room, sampled, f.at.Seq)
	for _, m := range f.members {
		b := all
		if m == newcomer || m.from > f.at.Seq { // the latter entered behind what has been handed on
			b = modeChanged(f.room, sampled, m.from)
		}
		m.s.event(b, classKept, f.room)
	}
}

// tellMode says to a member that has just come how it hears of others, if that is not
// the usual way. n is how many members there were, according to the store, at a position;
// 0: it is not known. A move and a return are no entries, by which the feed would count.
func (f *feed) tellMode(m *member, n int64, at roomstore.Position) {
	switch w := (waiter{at: at, since: time.Now()}); {
	case f.sampled():
		m.s.event(modeChanged(f.room, true, m.from), classKept, f.room)
	case n <= sampledFrom:
	case !f.passed(w):
		w.do = func() {
			if f.at == at && !f.sampled() {
				f.becomeSampled(nil)
			}
		}
		f.waiting = append(f.waiting, w)
	case !f.counted(at.Seq):
		f.becomeSampled(m)
	}
}

func (f *feed) becomeSampled(newcomer *member) {
	f.tellMembers()
	f.large()
	f.setMode(true, newcomer)
}

// counted says whether the feed has handed on entries or departures after a seq that it
// has.
func (f *feed) counted(after int64) bool {
	for e := range f.ring.after(after) {
		if e.Kind == roomstore.KindJoined || e.Kind == roomstore.KindLeft {
			return true
		}
	}
	return false
}

func modeChanged(room roomstore.RoomID, sampled bool, seq int64) []byte {
	mode := protocol.ModeFull
	if sampled {
		mode = protocol.ModeSampled
	}
	return notification(protocol.EventRoomModeChanged, protocol.RoomModeChanged{RoomID: string(room), Mode: mode, Seq: seq})
}

// told is the seq up to which members have been told of each other.
func (f *feed) told() int64 {
	if f.crowd == nil || len(f.crowd.pending) == 0 {
		return f.at.Seq
	}
	return f.crowd.pending[0].Seq - 1
}

// upToDate tells the members what has been gathered, before anything else that moves
// their position.
func (f *feed) upToDate() {
	if !f.sampled() {
		f.tellMembers()
	}
}

// tellMembers tells the members what has been gathered.
func (f *feed) tellMembers() {
	g := f.crowd
	if g == nil || len(g.pending) == 0 {
		return
	}
	events := f.letGo()
	g.last = time.Now()
	var all [][]byte
	for _, m := range f.members {
		if m.from >= events[0].Seq {
			f.tellOne(m, events) // it has come since
			continue
		}
		if all == nil {
			if all = f.difference(events); len(all) == 0 {
				all = [][]byte{}
			}
		}
		for _, b := range all {
			m.s.event(b, classKept, f.room)
		}
		f.hub.stats.Deliveries.Add(uint64(len(all)))
	}
}

// letGo forgets what has been gathered, and gives it.
func (f *feed) letGo() []roomstore.Event {
	g := f.crowd
	if g == nil {
		return nil
	}
	events := g.pending
	g.pending = nil
	if !g.due.IsZero() {
		g.due = time.Time{}
		g.timer.Stop()
	}
	return events
}

// tellOne tells one member what it has not heard yet of some entries and departures.
func (f *feed) tellOne(m *member, events []roomstore.Event) {
	i, _ := slices.BinarySearchFunc(events, m.from, func(e roomstore.Event, seq int64) int { return int(e.Seq - seq - 1) })
	if i == len(events) {
		return
	}
	for _, b := range f.difference(events[i:]) {
		m.s.event(b, classKept, f.room)
		f.hub.stats.Deliveries.Add(1)
	}
	m.from = events[len(events)-1].Seq
}

// tellFirst tells a member what it has not heard yet, before an answer that it is to come
// behind.
func (f *feed) tellFirst(id roomstore.SessionID) {
	if id == "" || f.crowd == nil || len(f.crowd.pending) == 0 || f.sampled() {
		return
	}
	if i := f.find(id); i >= 0 {
		f.tellOne(f.members[i], f.crowd.pending)
	}
}

// tellLast tells a member that goes by an event what it has not heard yet of before.
func (f *feed) tellLast(m *member, gone int64) {
	if f.crowd == nil {
		return
	}
	i, _ := slices.BinarySearchFunc(f.crowd.pending, gone, func(e roomstore.Event, seq int64) int { return int(e.Seq - seq) })
	f.tellOne(m, f.crowd.pending[:i])
}

// difference frames what entries and departures come to: who left, then who came. Who
// did both is in neither.
func (f *feed) difference(events []roomstore.Event) (frames [][]byte) {
	left, joined := difference(events, func(roomstore.Event) bool { return true })
	last := events[len(events)-1]
	at, half := seqOf(last.Seq), noPosition // the difference is told only with its second half
	if f.sampled() {
		// It is no picture of the room at a position, but what is kept up to now has
		// been told: who comes back need not go further back than this. Something
		// kept may have said so already.
		if last.Seq < f.at.Seq {
			at = noPosition
		}
		left, joined = left[:min(len(left), sampleSize)], joined[:min(len(joined), sampleSize)]
	}
	if len(joined) == 0 {
		half = at
	}
	if len(left) > 0 {
		frames = append(frames, membersFrame(protocol.EventRoomMemberLeft, f.room, left, last.Count, half))
	}
	if len(joined) > 0 {
		frames = append(frames, membersFrame(protocol.EventRoomMemberJoined, f.room, joined, last.Count, at))
	}
	return frames
}

// difference gives what others see of who left and of who came in the end, of those
// entries and departures that count.
func difference(events []roomstore.Event, counts func(roomstore.Event) bool) (left, joined []string) {
	type change struct {
		was, is bool
		data    string
	}
	var users []roomstore.UserID
	changes := map[roomstore.UserID]*change{}
	for _, e := range events {
		if e.Kind != roomstore.KindJoined && e.Kind != roomstore.KindLeft || !counts(e) {
			continue
		}
		c := changes[e.User]
		if c == nil {
			c = &change{was: e.Kind == roomstore.KindLeft}
			changes[e.User] = c
			users = append(users, e.User)
		}
		c.is, c.data = e.Kind == roomstore.KindJoined, e.Data
	}
	for _, u := range users {
		switch c := changes[u]; {
		case c.was && !c.is:
			left = append(left, c.data)
		case !c.was && c.is:
			joined = append(joined, c.data)
		}
	}
	return left, joined
}
