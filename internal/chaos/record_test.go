//go:build linux

package chaos

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

// A place is a position in the log of a room.
type place struct {
	room  string
	epoch int64
	seq   int64
}

func (p place) String() string { return fmt.Sprintf("%s %d:%d", p.room, p.epoch, p.seq) }

// A link is a time in which a client was logged in at a station.
type link struct {
	station  string // known a moment later
	from, to time.Time
}

// A span is (from, to] of a life that was said to be lost.
type span struct{ from, to int64 }

// A life is the part of a stay in one epoch.
type life struct {
	epoch    int64
	from, at int64 // what lies between was heard, but for what was lost
	lost     []span
	whole    bool // the client has heard every event itself, and no difference
	void     bool // the client was away when data was lost: see absent
}

// A change is who came and went, at a position.
type change struct {
	seq          int64
	joined, left []string
	live         bool // one event, and not a difference
}

// A stay is what a client knows of a room from its entry to the end of its
// membership.
type stay struct {
	room        string
	began       time.Time
	lives       []life
	ended       time.Time // zero: it goes on
	ending      protocol.RoomEvent
	interrupted bool      // the link is lost, or the room was interrupted
	cut         time.Time // when the link was lost last
	absent      time.Time // when the client came back that was away as data was lost

	// Who is in it: a list, and what has changed since.
	stale    bool // there is no list, or one before a loss
	mixed    bool // since the list there may have been changes of which nothing was told, since they came to nothing
	base     []string
	baseAt   int64
	changes  []change
	half     *change // the first half of a difference
	resumed  int     // 2: a difference may follow; 1: its second half
	mustLose bool    // the epoch is another: roomHistoryLost has to say so
}

func (s *stay) now() *life { return &s.lives[len(s.lives)-1] }

// heard is what a user was told to be at a place, when, and during which stay.
type heard struct {
	what string
	when time.Time
	stay *stay
}

// forgotten says whether Redis has lost data after this, and the user was not in
// the room any more: then nobody may be left who knew, and something else can have
// come to the place.
func (w *world) forgotten(h heard) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.losses, func(at time.Time) bool {
		return at.After(h.when) && (h.stay == nil || !h.stay.ended.IsZero() && h.stay.ended.Before(at) ||
			h.stay.interrupted && h.stay.cut.Before(at) || h.when.Before(h.stay.absent) && at.Before(h.stay.absent))
	})
}

// A record is what one user was told, by whatever client, and what follows
// from that. It knows nothing else.
type record struct {
	w    *world
	user string

	mu     sync.Mutex
	links  []link
	rooms  map[string]*stay // that it is in
	past   []*stay
	truth  map[place]heard  // what it heard to be at a place
	texts  map[string]place // of messages
	lines  []string
	leaves map[string][]time.Time // when it wanted to be out of a room; "" for all
}

func newRecord(w *world, user string) *record {
	return &record{
		w: w, user: user, rooms: map[string]*stay{}, truth: map[place]heard{}, texts: map[string]place{},
		leaves: map[string][]time.Time{},
	}
}

func (r *record) say(format string, args ...any) {
	line := fmt.Sprintf("%7.3fs  ", time.Since(r.w.began).Seconds()) + fmt.Sprintf(format, args...)
	r.lines = append(r.lines, line)
}

func (r *record) said() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

// blame notes what must not be. mu is held.
func (r *record) blame(format string, args ...any) {
	text := r.user + ": " + fmt.Sprintf(format, args...)
	r.say("WRONG: %s", text)
	r.w.blame("%s", text)
}

// online says whether the client is logged in.
func (r *record) online() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.onlineLocked()
}

func (r *record) onlineLocked() bool {
	return len(r.links) > 0 && r.links[len(r.links)-1].to.IsZero()
}

// on says whether the client is logged in at a station, as far as is known.
func (r *record) on(station string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.onlineLocked() && r.links[len(r.links)-1].station == station
}

// hear takes in what the client was told.
func (r *record) hear(ev client.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch ev := ev.(type) {
	case *client.ConnectionStateChanged:
		r.say("connection (%s, %s)", ev.State, ev.Event)
		switch {
		case ev.State == protocol.ConnectionConnected:
			r.links = append(r.links, link{from: time.Now()})
		default:
			r.unlink()
		}
	case *client.RoomStateChanged:
		r.say("%s (%s, %s) %d:%d", ev.RoomID, ev.State, ev.Event, ev.Epoch, ev.Seq)
		r.state(ev)
	case *client.MemberJoined:
		r.say("%s + %s, seq %d, members %d", ev.RoomID, names(ev.MemberList), ev.Seq, ev.MembersSeq)
		r.members(ev.RoomID, change{joined: names(ev.MemberList)}, ev.Seq, ev.MembersSeq)
	case *client.MemberLeft:
		r.say("%s - %s, seq %d, members %d", ev.RoomID, names(ev.MemberList), ev.Seq, ev.MembersSeq)
		r.members(ev.RoomID, change{left: names(ev.MemberList)}, ev.Seq, ev.MembersSeq)
	case *client.MessageReceived:
		m := ev.MessageList[0]
		r.say("%s: %s, seq %d, members %d", ev.FromConversationID, m.Message, ev.Seq, ev.MembersSeq)
		r.message(ev.FromConversationID, m, ev.Seq)
	case *client.HistoryLost:
		r.say("%s lost %d-%d", ev.RoomID, ev.FromSeq, ev.ToSeq)
		s := r.rooms[ev.RoomID]
		if s == nil {
			r.blame("history of %s is lost, where it is not", ev.RoomID)
			return
		}
		l := s.now()
		if ev.ToSeq < l.at {
			r.blame("history of %s is lost up to %d, it was at %d already", s.room, ev.ToSeq, l.at)
		}
		l.lost, l.at, l.whole = append(l.lost, span{ev.FromSeq, ev.ToSeq}), max(l.at, ev.ToSeq), false
		s.stale, s.mustLose, s.resumed = true, false, 0
	case *client.AttributesUpdated:
	default:
		r.say("%T", ev)
	}
}

// unlink ends the link. mu is held.
func (r *record) unlink() {
	if r.onlineLocked() {
		r.links[len(r.links)-1].to = time.Now()
	}
	for _, s := range r.rooms {
		if !s.interrupted {
			s.cut = time.Now()
		}
		s.interrupted = true
		s.half = nil // the difference comes again, whole
	}
}

// state takes in where the user stands with a room.
func (r *record) state(ev *client.RoomStateChanged) {
	s := r.rooms[ev.RoomID]
	switch {
	case ev.State == protocol.RoomConnecting:
		if s != nil && ev.Event == protocol.RoomNetworkInterrupted {
			s.interrupted = true
		}
	case ev.State == protocol.RoomDisconnected && s != nil:
		s.ended, s.ending = time.Now(), ev.Event
		delete(r.rooms, ev.RoomID)
		r.past = append(r.past, s)
		r.judge(s)
	case ev.State == protocol.RoomConnected && s == nil:
		r.rooms[ev.RoomID] = &stay{
			room: ev.RoomID, began: time.Now(), stale: true,
			lives: []life{{epoch: ev.Epoch, from: ev.Seq, at: ev.Seq, whole: true}},
		}
	case ev.State == protocol.RoomConnected:
		if s.mustLose {
			r.blame("%s: the epoch became %d, and no loss was told", s.room, s.now().epoch)
		}
		l := s.now()
		s.mustLose = false
		switch {
		case ev.Epoch < l.epoch:
			r.blame("%s went from epoch %d back to %d", s.room, l.epoch, ev.Epoch)
		case ev.Epoch > l.epoch:
			s.lives = append(s.lives, life{epoch: ev.Epoch, from: ev.Seq, at: ev.Seq})
			s.stale, s.mustLose, s.base, s.changes, s.baseAt = true, true, nil, nil, 0
		case s.interrupted && !s.cut.IsZero() && r.w.lossSince(s.cut.Add(-settle)):
			// It may know of events that are no more, while others have come to
			// their positions: if the room has gone on since, nobody notices.
			l.void, s.absent = true, time.Now()
			s.lives = append(s.lives, life{epoch: ev.Epoch, from: ev.Seq, at: ev.Seq})
			s.stale, s.base, s.changes, s.baseAt = true, nil, nil, 0
		case ev.Seq > l.at:
			// Its own last message may have moved the client on. If not, it will
			// lack something.
			l.at = ev.Seq
		case ev.Seq < l.at:
			l.at, l.from = ev.Seq, min(l.from, ev.Seq) // the repeat of an entry
		}
		s.interrupted, s.resumed, s.half, s.mixed = false, 2, nil, true
		s.now().whole = false
	}
}

// judge looks whether a stay may have ended so.
func (r *record) judge(s *stay) {
	w, since := r.w, s.began.Add(-2*callTimeout)
	away := w.away(r.links, s.ended)
	missing := away > sessionTTL || w.disturbed(r.links, s.began)
	destroyed := w.attempted(s.room, "", s.began.Add(-callTimeout))
	ok := false
	switch s.ending {
	case protocol.RoomSuccess:
		for _, room := range []string{"", s.room} {
			ok = ok || slices.ContainsFunc(r.leaves[room], func(at time.Time) bool { return at.After(since) })
		}
	case protocol.RoomKickedOut:
		ok = w.attempted(s.room, r.user, s.began.Add(-callTimeout))
	case protocol.RoomNotExist:
		ok = destroyed || missing
	case protocol.RoomConnectTimeout:
		ok = destroyed || missing
	case protocol.RoomNetworkDisconnected:
		ok = missing
	}
	if !ok {
		r.blame("its stay in %s since %v ended with %s; it was away for %v at most", s.room, s.began.Sub(w.began), s.ending, away)
	}
}

// step moves the position of a room on to an event.
func (r *record) step(room string, seq int64) *stay {
	s := r.rooms[room]
	if s == nil {
		r.blame("an event of %s came, where it is not", room)
		return nil
	}
	if s.mustLose {
		r.blame("%s: the epoch became %d, and no loss was told", room, s.now().epoch)
		s.mustLose = false
	}
	l := s.now()
	if seq != 0 && seq <= l.at {
		r.blame("%s: event %d came after %d", room, seq, l.at)
	}
	l.at = max(l.at, seq)
	return s
}

// isAt notes what is at a place.
func (r *record) isAt(p place, what string) {
	if before, is := r.truth[p]; is && before.what != what && !r.w.forgotten(before) {
		r.blame("%v is %q and was %q", p, what, before.what)
	}
	r.truth[p] = heard{what, time.Now(), r.rooms[p.room]}
}

func (r *record) members(room string, c change, seq, members int64) {
	s := r.step(room, seq)
	if s == nil {
		return
	}
	if slices.Contains(c.joined, r.user) || slices.Contains(c.left, r.user) {
		r.blame("%s: it was told of itself", room)
	}
	c.seq = max(seq, members)
	c.live = s.resumed == 0
	if s.resumed = s.resumed - 1 - len(c.joined); s.resumed < 0 {
		s.resumed = 0
	}
	switch {
	case c.seq == 0:
		s.half = &c
		return
	case s.half != nil:
		c.left = append(s.half.left, c.left...)
		s.half = nil
	}
	s.changes = append(s.changes, c)
	if !c.live {
		return
	}
	p := place{room, s.now().epoch, seq}
	for _, u := range c.joined {
		r.isAt(p, "+ "+u)
	}
	for _, u := range c.left {
		r.isAt(p, "- "+u)
	}
}

func (r *record) message(room string, m protocol.Message, seq int64) {
	s := r.step(room, seq)
	if s == nil {
		return
	}
	if seq == 0 {
		return // a barrage, which may be repeated
	}
	s.resumed = 0
	p := place{room, s.now().epoch, seq}
	// With the data Redis loses what was done under a requestKey.
	if before, twice := r.texts[m.Message]; twice && (before.epoch == p.epoch || !r.w.lossSince(time.Now().Add(-time.Minute))) {
		r.blame("%q came at %v and at %v", m.Message, before, p)
	}
	r.texts[m.Message] = p
	r.isAt(p, "m "+m.SenderUserID+" "+m.Message)
}

// wants notes that the user wants to be out of a room, or of all with "".
func (r *record) wants(room string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.say("wants out of %q", room)
	r.leaves[room] = append(r.leaves[room], time.Now())
}

// listed takes in a list of members.
func (r *record) listed(l *client.MemberList) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.rooms[l.RoomID]
	if s == nil || s.now().epoch != l.Epoch {
		return // it has gone since
	}
	r.say("%s has %s at %d", l.RoomID, names(l.MemberList), l.Seq)
	if l.Seq < s.now().lostUpTo() {
		return
	}
	s.base, s.baseAt, s.stale, s.mixed = names(l.MemberList), l.Seq, false, false
}

// lostUpTo gives the end of what was lost.
func (l *life) lostUpTo() int64 {
	if len(l.lost) == 0 {
		return 0
	}
	return l.lost[len(l.lost)-1].to
}

// staleRooms are those whose members the user has to ask for.
func (r *record) staleRooms() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, room := range sortedKeys(r.rooms) {
		if r.rooms[room].stale {
			out = append(out, room)
		}
	}
	return out
}

// in gives the rooms that the user believes to be in, with their epochs.
func (r *record) in() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int64{}
	for room, s := range r.rooms {
		out[room] = s.now().epoch
	}
	return out
}

// believes gives the members of a room as the user knows them, in order, and
// whether the order is known. mu is held.
func (r *record) believes(s *stay) (users []string, ordered bool) {
	users, ordered = slices.Clone(s.base), !s.mixed
	for _, c := range s.changes {
		if c.seq <= s.baseAt {
			continue
		}
		ordered = ordered && c.live
		for _, u := range c.left {
			i := slices.Index(users, u)
			if i < 0 {
				if c.live {
					r.blame("%s: %s left at %d, and was not in: %v at %d, %+v", s.room, u, c.seq, s.base, s.baseAt, s.changes)
				}
				continue
			}
			users = slices.Delete(users, i, i+1)
		}
		for _, u := range c.joined {
			if i := slices.Index(users, u); i >= 0 {
				if c.live {
					r.blame("%s: %s came at %d, and was in: %v at %d, %+v", s.room, u, c.seq, s.base, s.baseAt, s.changes)
				}
				users = slices.Delete(users, i, i+1)
			}
			users = append(users, u)
		}
	}
	return users, ordered
}

// rebase begins anew from what has been checked.
func (r *record) rebase(is map[string]stored) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for room, s := range r.rooms {
		l := *s.now()
		l.from, l.at, l.lost, l.whole, l.void = is[room].seq, is[room].seq, nil, true, false
		s.lives = []life{l}
		s.base, s.baseAt, s.changes, s.resumed, s.mixed = is[room].members, l.at, nil, 0, false
	}
	r.past = nil
	r.truth = map[place]heard{}
}

func names(users []protocol.UserInfo) (out []string) {
	for _, u := range users {
		out = append(out, u.UserID)
	}
	return out
}
