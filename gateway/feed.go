package gateway

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

const (
	// earlySize is how many events may wait for one that is missing. Beyond
	// it they are let go, and come from the store.
	earlySize = 1024
	// patience is how long a missing event is waited for before the store is
	// asked: on its way it may only have been overtaken.
	patience = 30 * time.Millisecond
	// recentCommands is how many commands are remembered, since they have no
	// seq by which one that comes twice would show.
	recentCommands = 64
)

// feed is one room on this node: it brings the room's events into their order
// and hands them to the members whose sockets are here.
//
// Its lock may be held while a session's or a socket's is taken, never the
// other way round, and never while the store is asked.
type feed struct {
	hub   *hub
	room  roomstore.RoomID
	topic string
	live  chan struct{} // closed when subscribed, or when that failed
	err   error         // why it failed; set before live is closed
	users int           // guarded by hub.mu
	used  atomic.Bool   // has had a position

	mu       sync.Mutex
	at       roomstore.Position // of the last event handed on; Epoch 0: not known yet
	fresh    bool               // nothing has been handed on since at became known
	ended    int64              // epoch of the last life that is known to be over
	seen     roomstore.Position // where the store was seen while at was not known
	members  []*member
	watchers []*watcher
	ring     ring              // the last ones handed on
	early    []roomstore.Event // those that came before it was their turn
	commands []string          // message IDs of the last commands, a ring
	command  int
	waiting  []waiter // answers that wait for a position
	filling  bool     // the store is being asked
	again    bool     // and is to be asked once more
	timer    *time.Timer
	armed    bool               // the timer runs
	armedAt  roomstore.Position // at, when it was set
	noRoom   bool               // says the store; the timer runs until that is believed
	stopped  bool

	crowd *gathering // how it tells of members, if it was ever large
	exact int        // queries of members that are not answered

	// What a heal needs to know of the room, besides at and members.
	name        string
	delay       int
	attributes  []roomstore.Attribute
	described   bool  // attributes is known,
	describedAt int64 // as it was at this seq
	lineage     roomstore.Lineage
	messageSeq  int64 // the highest seen
	orderKey    int64 // likewise

	// What comes after a gap may be of a Redis that has lost data. Until the store
	// has answered, only what was known before is known for certain.
	doubtful bool
	sure     roomstore.Position
}

// waiter is an answer that must not overtake the events before it, or what else is to be
// done when they have been handed on.
type waiter struct {
	at    roomstore.Position
	id    roomstore.SessionID // whose answer it is, if it is one
	since time.Time
	do    func()
	out   bool // at is where its session left
}

func newFeed(h *hub, room roomstore.RoomID) *feed {
	f := &feed{hub: h, room: room, topic: h.store.Topic(room), live: make(chan struct{})}
	f.timer = time.AfterFunc(time.Hour, f.late)
	f.timer.Stop()
	return f
}

// stop ends the feed. Answers that wait are given.
func (f *feed) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	f.timer.Stop()
	f.letGo()
	f.endWatches(watchStopping)
	f.release(func(waiter) bool { return true })
}

// Deliver implements [pubsub.Handler].
func (f *feed) Deliver(payload string) {
	e, err := roomstore.DecodeEvent(payload)
	if err != nil {
		f.hub.log.Error("event not understood", "room", f.room, "err", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.take(e)
}

// Gap implements [pubsub.Handler]. What was lost is found by comparing many
// rooms at once with the store.
func (f *feed) Gap() {
	f.doubt()
	f.hub.suspect(f)
}

// take handles an event that has come.
func (f *feed) take(e roomstore.Event) {
	if f.stopped {
		return
	}
	switch {
	case f.at.Epoch == 0 || f.filling && e.Epoch >= f.at.Epoch:
		f.keepEarly(e)
		return
	case e.Epoch < f.at.Epoch:
		return // of a life that is over
	case e.Epoch > f.at.Epoch:
		f.newer(e)
		return
	case f.first(e):
		f.at.Seq = e.Seq - 1
	case e.Kind == roomstore.KindCommand:
		switch {
		case e.Seq > f.at.Seq:
			f.keepEarly(e)
			f.arm()
		case e.Seq < f.at.Seq:
			f.hub.stats.CommandsLate.Add(1) // what it would have come before has been seen
		default:
			f.pass(e)
		}
		return
	case e.Seq <= f.at.Seq:
		return // a duplicate
	case e.Seq > f.at.Seq+1:
		f.keepEarly(e)
		f.arm()
		return
	}
	f.pass(e)
	f.catchEarly()
}

func (f *feed) keepEarly(e roomstore.Event) {
	if len(f.early) >= earlySize {
		// The store still has it, or says that it is lost.
		f.early = slices.Delete(f.early, 0, earlySize/2)
	}
	f.early = append(f.early, e)
}

// catchEarly hands on what waited and can go now.
func (f *feed) catchEarly() {
	for again := true; again && len(f.early) > 0 && f.at.Epoch != 0 && !f.filling; {
		again = false
		early := f.early
		f.early = nil
		slices.SortStableFunc(early, func(a, b roomstore.Event) int {
			switch {
			case a.Epoch != b.Epoch:
				return int(a.Epoch - b.Epoch)
			case a.Seq != b.Seq:
				return int(a.Seq - b.Seq)
			case a.Kind == roomstore.KindCommand && b.Kind != roomstore.KindCommand:
				return 1
			case b.Kind == roomstore.KindCommand && a.Kind != roomstore.KindCommand:
				return -1
			}
			return 0
		})
		for i, e := range early {
			before := f.at
			switch {
			case f.at.Epoch == 0:
				f.early = append(f.early, early[i:]...)
				return
			case e.Epoch > f.at.Epoch:
				f.early = append(f.early, early[i+1:]...)
				if f.newer(e); f.at.Epoch >= e.Epoch {
					f.catchEarly()
				}
				return
			case e.Epoch < f.at.Epoch:
			case e.Kind == roomstore.KindCommand && e.Seq == f.at.Seq,
				e.Kind != roomstore.KindCommand && e.Seq == f.at.Seq+1:
				f.pass(e)
			case e.Seq > f.at.Seq:
				f.early = append(f.early, e)
			}
			again = again || f.at != before
		}
	}
	if len(f.early) > 0 && f.at.Epoch != 0 {
		f.arm()
	}
}

// pass hands an event whose turn it is to the members.
func (f *feed) pass(e roomstore.Event) {
	if e.Kind == roomstore.KindCommand {
		if !f.repeated(e.MessageID) {
			f.hub.stats.spoken.Add(1)
			f.show(e, e.Seq+1)
			f.upToDate()
			f.deliver(e, shedClass(e.Priority), e.Seq+1)
		}
		return
	}
	if e.Kind != roomstore.KindJoined && e.Kind != roomstore.KindLeft && e.Kind != roomstore.KindMoved {
		f.upToDate()
	}
	f.at.Seq, f.fresh = e.Seq, false
	f.show(e, e.Seq)
	switch e.Kind {
	case roomstore.KindDestroyed:
		f.over(protocol.RoomNotExist)
		return
	case roomstore.KindJoined:
		f.entered(e)
	case roomstore.KindMessage:
		f.hub.stats.spoken.Add(1)
		f.messageSeq, f.orderKey = max(f.messageSeq, e.MessageSeq), max(f.orderKey, e.OrderKey)
	case roomstore.KindAttributes:
		f.change(e)
	case roomstore.KindMoved:
		f.depart(e.Old, e)
	case roomstore.KindLeft:
		f.depart(e.Origin, e)
	}
	if e.Kind == roomstore.KindJoined || e.Kind == roomstore.KindLeft {
		f.tellOf(e)
	} else {
		f.deliver(e, classKept, e.Seq)
	}
	f.ring.add(e)
	f.release(f.passed)
}

// deliver queues an event for each member that entered before seq and is to hear
// of it.
func (f *feed) deliver(e roomstore.Event, c class, seq int64) {
	if len(f.members) == 0 {
		return
	}
	b := f.framed(e)
	if b == nil {
		return
	}
	n := 0
	for _, m := range f.members {
		if m.from < seq && m.hears(e) {
			if m.asking > 0 && m.s.who.ID == e.Origin {
				m.s.c.sock.HoldRoom(string(f.room)) // its own request is answered first
			}
			m.s.event(b, c, f.room)
			n++
		}
	}
	f.hub.stats.Deliveries.Add(uint64(n))
}

func (f *feed) repeated(id string) bool {
	if slices.Contains(f.commands, id) {
		return true
	}
	if len(f.commands) < recentCommands {
		f.commands = append(f.commands, id)
		return false
	}
	f.commands[f.command] = id
	f.command = (f.command + 1) % recentCommands
	return false
}

// over ends the room's life here.
func (f *feed) over(event protocol.RoomEvent) {
	f.tellMembers()
	f.endWatches(watchOver)
	members := f.members
	f.members = nil
	if len(members) > 0 {
		f.hub.stats.Occupied.Add(-1)
	}
	for _, m := range members {
		f.hub.close(f)
		if m.leaving > 0 || m.doubted > 0 {
			m.untold = event
		} else {
			m.s.destroyed(f.room, event)
		}
	}
	f.ended = max(f.ended, f.at.Epoch)
	f.reset()
}

// reset forgets where the room is.
func (f *feed) reset() {
	// What came early may be of the next life.
	f.early = slices.DeleteFunc(f.early, func(e roomstore.Event) bool { return e.Epoch <= f.at.Epoch })
	f.letGo()
	f.crowd = nil
	f.endWatches(watchInterrupted)
	f.at = roomstore.Position{}
	f.goesOn()
	f.ring, f.commands, f.command = nil, nil, 0
	f.attributes, f.described, f.lineage, f.messageSeq, f.orderKey = nil, false, "", 0, 0
	f.release(func(waiter) bool { return true })
}

// begin sets the position of a feed that has none, or that is in an earlier
// epoch, to one that an entry or a look at the store has shown. It says whether
// that life still goes on, as far as the feed knows.
func (f *feed) begin(l roomstore.Life) bool {
	at := l.Position
	if at.Epoch <= f.ended || at.Epoch < f.at.Epoch {
		return false
	}
	switch {
	case f.at.Epoch == 0 || f.at.Epoch == at.Epoch:
	case len(f.members) == 0 && len(f.watchers) == 0:
		f.reset() // it may go on all the same, for those whose entry is on its way
	default:
		f.moveOn(l, protocol.RoomNotExist)
		if f.at.Epoch == at.Epoch && f.at.Seq < at.Seq && len(f.watchers) > 0 {
			f.fill() // nobody waits for an answer that would ask for it
		}
	}
	switch {
	case f.at.Epoch == 0:
		f.at, f.fresh = at, true
		f.lineage = l.Lineage
		f.used.Store(true)
		for _, e := range f.early {
			if f.first(e) {
				f.at.Seq = e.Seq - 1
			}
		}
		if f.seen.Epoch > at.Epoch || f.seen.Epoch == at.Epoch && f.seen.Seq > f.at.Seq {
			f.fill()
		}
		f.seen = roomstore.Position{}
	case f.fresh && f.at.Epoch == at.Epoch:
		f.at.Seq = min(f.at.Seq, at.Seq)
	}
	return true
}

// first says whether e is where the feed begins. What comes after a
// subscription comes whole and in order, but the answers to entries, from
// which a new feed has its position, do not: those before it are still to
// come. No member gets what is not after its own entry.
func (f *feed) first(e roomstore.Event) bool {
	return f.fresh && e.Kind != roomstore.KindCommand && e.Epoch == f.at.Epoch && e.Seq <= f.at.Seq
}

// has says whether the feed can still hand on all it has had after seq.
func (f *feed) has(seq int64) bool {
	return f.at.Seq <= seq || f.ring.reaches(seq)
}

// framed encodes an event for the members that hear of it, or gives nil if nobody
// does.
func (f *feed) framed(e roomstore.Event) []byte {
	switch e.Kind {
	case roomstore.KindJoined:
		return membersFrame(protocol.EventRoomMemberJoined, f.room, []string{e.Data}, e.Count, seqOf(e.Seq))
	case roomstore.KindLeft:
		return membersFrame(protocol.EventRoomMemberLeft, f.room, []string{e.Data}, e.Count, seqOf(e.Seq))
	case roomstore.KindMessage, roomstore.KindCommand:
		if len(e.Data) <= len("{}") {
			return nil // no gateway wrote that
		}
		return messageReceived(f.room, e)
	case roomstore.KindAttributes, roomstore.KindMemberAttributes:
		return attributesFrame(f.room, e, 0)
	}
	return nil
}

// after runs do, the answer to a session, under the feed's lock, once all events up to a position have
// been handed on. If the subscription is late the store is asked; if that does
// not help in time either, whatever it says, do runs all the same.
func (f *feed) after(id roomstore.SessionID, at roomstore.Position, do func()) {
	f.wait(waiter{id: id, at: at, do: do})
}

// wait is after for a waiter.
func (f *feed) wait(w waiter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped || f.passed(w) {
		f.tellFirst(w.id)
		w.do()
		return
	}
	w.since = time.Now()
	f.waiting = append(f.waiting, w)
	if w.at.Epoch > f.at.Epoch {
		f.fill() // the room may go on there
		return
	}
	f.arm()
}

// passed says whether the feed has handed on all up to what an answer waits for,
// or never will.
func (f *feed) passed(w waiter) bool {
	return f.at.Epoch == 0 || w.at.Epoch < f.at.Epoch || w.at.Epoch == f.at.Epoch && w.at.Seq <= f.at.Seq
}

// release runs the answers for which ready holds, in the order they came.
func (f *feed) release(ready func(waiter) bool) {
	if len(f.waiting) == 0 {
		return
	}
	var now []waiter
	f.waiting = slices.DeleteFunc(f.waiting, func(w waiter) bool {
		if !ready(w) {
			return false
		}
		now = append(now, w)
		return true
	})
	for _, w := range now {
		f.tellFirst(w.id)
		w.do()
	}
}
