package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

const (
	// ringSize is how many events a feed keeps to serve resumes from.
	ringSize = 256
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
	ring     []roomstore.Event // the last ones handed on, oldest first
	early    []roomstore.Event // those that came before it was their turn
	commands []string          // message IDs of the last commands, a ring
	command  int
	waiting  []waiter // answers that wait for a position
	filling  bool     // the store is being asked
	again    bool     // and is to be asked once more
	timer    *time.Timer
	armed    bool               // the timer runs
	armedAt  roomstore.Position // at, when it was set
	stopped  bool

	// What a heal needs to know of the room.
	name  string
	delay int
}

// member is a session with its socket here, in this room.
type member struct {
	s       *session
	from    int64 // gets events after this seq
	entered int64 // seq of the membership's entry event
	leaving bool  // a request of its own will say that it has left

	untold protocol.RoomEvent // why it ended while it was leaving, if it did
}

// waiter is an answer that must not overtake the events before it.
type waiter struct {
	at roomstore.Position
	do func()
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
func (f *feed) Gap() { f.hub.suspect(f) }

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
		// Ours is over, and we have not been told. Those who enter the new
		// life have their position from their entry.
		f.over(protocol.RoomNotExist)
		f.keepEarly(e)
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
				f.over(protocol.RoomNotExist)
				f.early = append(f.early, early[i:]...)
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
			f.deliver(e, shedClass(e.Priority), e.Seq+1)
		}
		return
	}
	f.at.Seq, f.fresh = e.Seq, false
	switch e.Kind {
	case roomstore.KindDestroyed:
		f.over(protocol.RoomNotExist)
		return
	case roomstore.KindMoved:
		f.depart(e.Old, e)
	case roomstore.KindLeft:
		f.depart(e.Origin, e)
	}
	f.deliver(e, classKept, e.Seq)
	if len(f.ring) == 2*ringSize {
		f.ring = append(f.ring[:0], f.ring[ringSize:]...)
	}
	f.ring = append(f.ring, e)
	f.release(func(w waiter) bool { return w.at.Seq <= f.at.Seq || w.at.Epoch != f.at.Epoch })
}

// deliver queues an event for each member that entered before seq, but the
// session it comes from.
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
		if m.from < seq && m.s.who.ID != e.Origin {
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

// depart ends the local membership of a session whose departure e is.
func (f *feed) depart(id roomstore.SessionID, e roomstore.Event) {
	i := f.find(id)
	if i < 0 || f.members[i].from >= e.Seq {
		return
	}
	m := f.members[i]
	f.remove(i)
	switch {
	case e.Kind == roomstore.KindMoved:
		m.s.roomOver(f.room, protocol.RoomKickedOutByOtherDevice, "")
	case m.leaving && e.Reason == roomstore.ReasonLeft:
		m.untold = protocol.RoomSuccess // its own request says so, in its answer
	default:
		m.s.roomOver(f.room, overEvent(e.Reason), e.Extended)
	}
}

// overEvent is what a client hears of a membership that ended for a reason.
func overEvent(r roomstore.Reason) protocol.RoomEvent {
	switch r {
	case roomstore.ReasonLeft:
		return protocol.RoomSuccess
	case roomstore.ReasonKicked:
		return protocol.RoomKickedOut
	case roomstore.ReasonTimeout, roomstore.ReasonRecreated:
		return protocol.RoomConnectTimeout
	case roomstore.ReasonDevice:
		return protocol.RoomKickedOutByOtherDevice
	case roomstore.ReasonNoRoom, roomstore.ReasonDestroyed, roomstore.ReasonEmptied:
		return protocol.RoomNotExist
	}
	return protocol.RoomNetworkDisconnected
}

// over ends the room's life here.
func (f *feed) over(event protocol.RoomEvent) {
	members := f.members
	f.members = nil
	for _, m := range members {
		f.hub.close(f)
		if !m.leaving {
			m.s.destroyed(f.room, event)
		} else {
			m.untold = event
			m.s.forget(f.room)
		}
	}
	f.ended = max(f.ended, f.at.Epoch)
	f.reset()
}

// reset forgets where the room is.
func (f *feed) reset() {
	// What came early may be of the next life.
	f.early = slices.DeleteFunc(f.early, func(e roomstore.Event) bool { return e.Epoch <= f.at.Epoch })
	f.at = roomstore.Position{}
	f.ring, f.commands, f.command = nil, nil, 0
	f.release(func(waiter) bool { return true })
}

func (f *feed) find(id roomstore.SessionID) int {
	return slices.IndexFunc(f.members, func(m *member) bool { return m.s.who.ID == id })
}

// remove forgets a member. The order of the others does not matter.
func (f *feed) remove(i int) {
	last := len(f.members) - 1
	f.members[i] = f.members[last]
	f.members[last] = nil
	f.members = f.members[:last]
	f.hub.close(f)
}

// begin sets the position of a feed that has none, or that is in an earlier
// life, to one that an entry or a look at the store has shown. It says whether
// that life still goes on, as far as the feed knows.
func (f *feed) begin(at roomstore.Position) bool {
	if at.Epoch <= f.ended || at.Epoch < f.at.Epoch {
		return false
	}
	if f.at.Epoch != 0 && f.at.Epoch < at.Epoch {
		f.over(protocol.RoomNotExist)
	}
	switch {
	case f.at.Epoch == 0:
		f.at, f.fresh = at, true
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
	return f.at.Seq <= seq || len(f.ring) > 0 && f.ring[0].Seq <= seq+1
}

// admit makes a session a member from its entry on. say queues what the
// client hears of the entry; the events that have come since follow. The
// caller's use of the feed becomes the member's.
//
// It does nothing, and says so, if the feed does not have those events any
// more; then the member is to come in by rejoin.
func (f *feed) admit(s *session, e roomstore.Entry, say func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.begin(e.Position) {
		f.gone(s, say)
		return true
	}
	if !f.has(e.Seq) {
		return false
	}
	f.name, f.delay = e.Name, e.Delay
	m := &member{s: s, from: e.Seq, entered: e.Entered}
	if !f.add(m) {
		say()
		f.hub.close(f)
		return true
	}
	say()
	f.since(m, e.Seq)
	f.catchEarly()
	return true
}

// gone ends the caller's use of the feed for a session whose room is gone
// already.
func (f *feed) gone(s *session, say func()) {
	if say != nil {
		say()
	}
	f.hub.close(f)
	s.destroyed(f.room, protocol.RoomNotExist)
}

// sight is how far a client that comes back knows a room.
type sight struct {
	roomstore.Position
	members int64 // seq up to which it has been told of members, if further
}

// rejoin makes a session whose socket has come back a member again, and hands
// it what it missed after the position its client named; seen is nil if the
// client named none. say queues what comes first; nil: (connected, success).
// The caller's use of the feed becomes the member's, also if this fails.
func (f *feed) rejoin(ctx context.Context, s *session, back roomstore.Return, seen *sight, say func()) error {
	from := back.Position
	if seen != nil && seen.Epoch == back.Epoch && seen.Seq <= back.Seq {
		from = seen.Position
	}
	if f.rejoinFromRing(s, back, from, seen, say) {
		return nil
	}
	for {
		h, err := f.hub.store.Catchup(ctx, f.room, from)
		if done, err := f.rejoinFromStore(s, back, from, seen, say, h, err); done {
			return err
		}
		// Meanwhile the feed has had, and let go, what came after h.
	}
}

// rejoinFromStore is rejoin with what the store knew, unless that is too old.
func (f *feed) rejoinFromStore(s *session, back roomstore.Return, from roomstore.Position, seen *sight, say func(),
	h roomstore.History, err error) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if errors.Is(err, roomstore.ErrNoRoom) || errors.Is(err, roomstore.ErrEpoch) {
		f.gone(s, say)
		return true, nil
	}
	if err != nil {
		f.hub.close(f)
		return true, err
	}
	if !f.begin(h.Position) {
		f.gone(s, say)
		return true, nil
	}
	if !f.has(h.Seq) {
		return false, nil
	}
	f.welcome(s, back, from, seen, say, h.Events, h.Complete, h.Position)
	return true, nil
}

// rejoinFromRing is rejoin without asking the store, if the feed has all that
// is missing.
func (f *feed) rejoinFromRing(s *session, back roomstore.Return, from roomstore.Position, seen *sight, say func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at.Epoch != from.Epoch || f.at.Seq < back.Seq || f.filling {
		return false
	}
	i, _ := slices.BinarySearchFunc(f.ring, from.Seq, func(e roomstore.Event, seq int64) int { return int(e.Seq - seq - 1) })
	events := f.ring[i:]
	if !whole(events, from.Seq, f.at.Seq) {
		return false
	}
	f.welcome(s, back, from, seen, say, events, true, f.at)
	return true
}

// whole says whether events are those of every seq in (after, head].
func whole(events []roomstore.Event, after, head int64) bool {
	return int64(len(events)) == head-after && (len(events) == 0 || events[0].Seq == after+1)
}

// welcome adds a member that has come back and tells it what it missed up to
// head: events are those after from, if whole.
func (f *feed) welcome(s *session, back roomstore.Return, from roomstore.Position, seen *sight, say func(),
	events []roomstore.Event, whole bool, head roomstore.Position) {
	f.name, f.delay = back.Name, back.Delay
	m := &member{s: s, from: head.Seq, entered: back.Entered}
	if !f.add(m) {
		f.hub.close(f)
		return
	}
	// What follows its own departure is not for it.
	end := slices.IndexFunc(events, m.ends)
	connected := func(at roomstore.Position) {
		if say != nil {
			say()
			return
		}
		s.event(roomConnected(f.room, at), classPull, f.room)
	}
	switch {
	case seen != nil && seen.Epoch != back.Epoch:
		// What the client knows is of another life.
		connected(head)
		s.event(historyLost(f.room, 0, head.Seq), classPull, f.room)
	case !whole:
		f.hub.stats.HistoryLost.Add(1)
		connected(head)
		s.event(historyLost(f.room, from.Seq, head.Seq), classPull, f.room)
	default:
		connected(from)
		told := events
		if end >= 0 {
			told = events[:end]
		}
		known := from.Seq
		if seen != nil {
			known = max(known, seen.members)
		}
		frames := missed(f.room, s.who, told, known)
		if say != nil {
			// An entry: it hears each event, as it would have right after it.
			frames = f.framedFor(s, told)
		}
		for _, b := range frames {
			s.event(b, classPull, f.room)
		}
	}
	if end < 0 || !f.ownDeparture(m, events[end]) {
		f.since(m, head.Seq)
	}
	f.catchEarly()
}

// missed frames what a session that was away gets: who left and who came, as
// the net difference and one event each, then what was kept, in order.
//
// known is up to where the client has been told of members, which can be
// further than its position: if something kept follows the difference, that,
// and not the difference, moves the position, so that a link lost in between
// loses nothing. The difference then carries membersSeq instead of a seq; if
// it comes to nothing, the first message carries it.
func missed(room roomstore.RoomID, who roomstore.Session, events []roomstore.Event, known int64) [][]byte {
	type change struct {
		was, is bool
		data    string
	}
	var users []roomstore.UserID
	changes := map[roomstore.UserID]*change{}
	var messages []roomstore.Event
	var count, last int64
	for _, e := range events {
		switch e.Kind {
		case roomstore.KindMessage:
			if e.Origin != who.ID {
				messages = append(messages, e)
			}
		case roomstore.KindJoined, roomstore.KindLeft:
			if count, last = e.Count, e.Seq; e.User == who.User || e.Seq <= known {
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
	}
	var left, joined []string
	for _, u := range users {
		switch c := changes[u]; {
		case c.was && !c.is:
			left = append(left, c.data)
		case !c.was && c.is:
			joined = append(joined, c.data)
		}
	}
	final := seqOf(last)
	if len(messages) > 0 {
		final = membersSeqOf(last)
	}
	var frames [][]byte
	if len(left) > 0 {
		at := final
		if len(joined) > 0 {
			at = noPosition // the difference is told only with its second half
		}
		frames = append(frames, membersFrame(protocol.EventRoomMemberLeft, room, left, count, at))
	}
	if len(joined) > 0 {
		frames = append(frames, membersFrame(protocol.EventRoomMemberJoined, room, joined, count, final))
	}
	for i, e := range messages {
		if i == 0 && len(frames) == 0 && last > known {
			// A difference that comes to nothing: the message says it, since it
			// moves the position to between changes of which none was told.
			frames = append(frames, messageFrame(room, e, last))
			continue
		}
		frames = append(frames, messageReceived(room, e))
	}
	return frames
}

// add puts a member on the feed, unless its session's socket has closed.
func (f *feed) add(m *member) bool {
	i := f.find(m.s.who.ID)
	if i >= 0 && f.members[i].s.who.Generation > m.s.who.Generation {
		return false // it goes on over another connection to this node
	}
	if f.stopped || !m.s.attach(f) {
		return false
	}
	if i >= 0 {
		f.members[i] = m // it has a use of the feed already
		f.hub.close(f)
		return true
	}
	f.members = append(f.members, m)
	return true
}

// since hands a member that was just added the events after seq that the
// others have had already. The feed must have them.
func (f *feed) since(m *member, seq int64) {
	for _, e := range f.ring {
		if e.Seq <= seq {
			continue
		}
		if f.ownDeparture(m, e) {
			return
		}
		if b := f.framed(e); b != nil && e.Origin != m.s.who.ID {
			m.s.event(b, classKept, f.room)
		}
	}
}

// ends says whether e is the end of the membership.
func (m *member) ends(e roomstore.Event) bool {
	return e.Seq > m.entered &&
		(e.Kind == roomstore.KindLeft && e.Origin == m.s.who.ID || e.Kind == roomstore.KindMoved && e.Old == m.s.who.ID)
}

// ownDeparture ends the membership if that is what e is about.
func (f *feed) ownDeparture(m *member, e roomstore.Event) bool {
	if !m.ends(e) {
		return false
	}
	if i := f.find(m.s.who.ID); i >= 0 && f.members[i] == m {
		m.from = min(m.from, e.Seq-1)
		f.depart(m.s.who.ID, e)
	}
	return true
}

// framed encodes an event for the members it does not come from, or gives nil
// if they are told nothing of it.
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
	}
	return nil
}

// framedFor encodes events for one session.
func (f *feed) framedFor(s *session, events []roomstore.Event) (frames [][]byte) {
	for _, e := range events {
		if b := f.framed(e); b != nil && e.Origin != s.who.ID {
			frames = append(frames, b)
		}
	}
	return frames
}

// detach forgets a session whose socket has closed.
func (f *feed) detach(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.find(s.who.ID); i >= 0 && f.members[i].s == s {
		f.remove(i)
	}
}

// leaving notes that a request of the session's own is about to end its
// membership, and gives that, nil if there is none.
func (f *feed) leaving(id roomstore.SessionID) *member {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(id)
	if i < 0 {
		return nil
	}
	f.members[i].leaving = true
	return f.members[i]
}

// stays notes that the request will not say so after all. If the membership has
// ended meanwhile the client hears of it now.
func (f *feed) stays(m *member) {
	if m == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m.leaving = false
	if m.untold != "" {
		m.s.destroyed(f.room, m.untold)
		m.untold = ""
	}
}

// left gives the answer of a departure at its place among the events, and
// makes sure that nothing follows it. say hears whether the session is out of
// the room; it is not if this was the repeat of an old request and the session
// has entered again since.
func (f *feed) left(id roomstore.SessionID, at roomstore.Position, say func(out bool)) {
	f.after(at, func() {
		i := f.find(id)
		if i >= 0 && f.at.Epoch == at.Epoch && f.members[i].from < at.Seq {
			m := f.members[i]
			f.remove(i)
			m.s.forget(f.room)
			i = -1
		}
		say(i < 0)
	})
}

// after runs do, under the feed's lock, once all events up to a position have
// been handed on. If the subscription is late the store is asked; if that does
// not help in time either, do runs all the same.
func (f *feed) after(at roomstore.Position, do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped || f.at.Epoch != at.Epoch || f.at.Seq >= at.Seq {
		do()
		return
	}
	f.waiting = append(f.waiting, waiter{at, do})
	f.arm()
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
		w.do()
	}
}

// arm starts the wait for what is missing, unless one is under way.
func (f *feed) arm() {
	if !f.armed && !f.filling && !f.stopped {
		f.armed, f.armedAt = true, f.at
		f.timer.Reset(patience)
	}
}

// late is called when patience has run out.
func (f *feed) late() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = false
	switch {
	case f.at.Epoch == 0 || len(f.early) == 0 && len(f.waiting) == 0:
	case f.at != f.armedAt:
		f.arm() // it goes on; what is missing now is missing for less long
	default:
		f.fill()
	}
}

// compare is told where the room is now, according to the store.
func (f *feed) compare(head roomstore.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.at.Epoch == 0:
		f.seen = head // for those who are entering
	case f.filling:
		f.again = true // the answer may be from before
	case head.Epoch != f.at.Epoch || head.Seq > f.at.Seq:
		f.fill()
	}
}

// fill asks the store for what is missing, until it answers. Events that come
// meanwhile wait.
func (f *feed) fill() {
	if f.filling || f.stopped {
		return
	}
	f.filling, f.fresh = true, false
	f.hub.stats.Fills.Add(1)
	after := f.at
	began := time.Now()
	f.hub.background(func(ctx context.Context) {
		backoff := 20 * time.Millisecond
		for {
			call, cancel := context.WithTimeout(ctx, f.hub.wait)
			h, err := f.hub.store.Catchup(call, f.room, after)
			cancel()
			if err == nil || roomstore.Refused(err) {
				f.filled(after, h, err)
				return
			}
			f.mu.Lock()
			if time.Since(began) > f.hub.wait {
				f.release(func(waiter) bool { return true })
			}
			wanted := !f.stopped && (len(f.members) > 0 || len(f.waiting) > 0)
			if !wanted {
				f.reset()
				f.filling = false
			}
			f.mu.Unlock()
			if !wanted {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(backoff):
			}
			backoff = min(2*backoff, time.Second)
		}
	})
}

// filled takes in what the store knew.
func (f *feed) filled(after roomstore.Position, h roomstore.History, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filling = false
	switch {
	case f.at != after:
		// A new life began meanwhile; what is early belongs to it.
	case errors.Is(err, roomstore.ErrNoRoom) || errors.Is(err, roomstore.ErrEpoch):
		f.over(protocol.RoomNotExist)
	case err != nil:
		f.hub.log.Error("missing events could not be read", "room", f.room, "err", err)
		f.release(func(waiter) bool { return true })
	default:
		f.catchUp(h)
	}
	f.catchEarly()
	f.release(func(w waiter) bool { return w.at.Seq <= f.at.Seq || w.at.Epoch != f.at.Epoch })
	again := f.again
	f.again = false
	switch {
	case f.at.Epoch == 0:
	case again:
		f.fill()
	case len(f.waiting) > 0:
		f.arm() // it was not, while the store was asked
	}
}

// catchUp hands on the events of a history. Where some are missing for good,
// the members are told so, and those behind the last one missing are handed on.
func (f *feed) catchUp(h roomstore.History) {
	events := h.Events
	if !h.Complete {
		lost, known := lastMissing(events, f.at.Seq, h.Seq)
		f.hub.stats.HistoryLost.Add(1)
		f.hub.log.Warn("events were lost for good", "room", f.room, "count", lost-f.at.Seq)
		for _, e := range events[:len(events)-len(known)] {
			switch e.Kind {
			case roomstore.KindLeft:
				f.depart(e.Origin, e)
			case roomstore.KindMoved:
				f.depart(e.Old, e)
			}
		}
		b := historyLost(f.room, f.at.Seq, lost)
		for _, m := range f.members {
			if m.from < lost {
				m.s.event(b, classKept, f.room)
			}
		}
		f.at.Seq, f.ring = lost, nil
		events = known
		f.doubtMembers()
	}
	for _, e := range events {
		if f.at.Epoch == h.Epoch && e.Seq == f.at.Seq+1 {
			f.pass(e)
		}
	}
}

// doubtMembers looks the members up in the store: the end of a membership may
// be among what was lost. Who is not in the room finds out why by resuming.
func (f *feed) doubtMembers() {
	members := make([]roomstore.Session, len(f.members))
	for i, m := range f.members {
		members[i] = m.s.who
	}
	f.hub.background(func(ctx context.Context) {
		for batch := range slices.Chunk(members, 500) {
			call, cancel := context.WithTimeout(ctx, f.hub.wait)
			absent, err := f.hub.store.Absent(call, f.room, batch)
			cancel()
			if err != nil {
				absent = batch // unknown: they find out, too
			}
			f.mu.Lock()
			for _, who := range absent {
				if i := f.find(who.ID); i >= 0 && f.members[i].s.who.Generation == who.Generation {
					f.members[i].s.c.fenced()
				}
			}
			f.mu.Unlock()
		}
	})
}

// lastMissing gives the last seq in (after, head] that events lack, and the
// events behind it.
func lastMissing(events []roomstore.Event, after, head int64) (int64, []roomstore.Event) {
	want := head
	i := len(events)
	for i > 0 && events[i-1].Seq == want {
		want--
		i--
	}
	if want < after {
		want = after
	}
	return want, events[i:]
}
