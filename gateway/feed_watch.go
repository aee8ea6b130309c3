package gateway

// This file is how backends follow what happens in a room: through its feed, as
// members do, but each event by itself and without being a member.

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"github.com/roomgate/roomgate/gateway/serverapi"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

const (
	// maxWatches is how many watches a gateway has at once.
	maxWatches = 100
	// watchEvents and watchBytes are how much may wait for one watch, besides what it
	// opened with, which the store bounds. What is as long as the second may wait by
	// itself.
	watchEvents = 2048
	watchBytes  = 1 << 20
	// watchBatch is about how many bytes a watch is told at once.
	watchBatch = 16 << 10
	// watchTries is how often a watch begins again whose room ends and begins
	// meanwhile, or hurries on.
	watchTries = 4
)

// Why a watch ends.
const (
	watchOver        = "over"        // the room is gone
	watchSlow        = "slow"        // its reader has fallen too far behind
	watchInterrupted = "interrupted" // it is not known any more where the room is
	watchStopping    = "stopping"    // the gateway ends
)

// watcher is one backend that follows a room.
type watcher struct {
	f    *feed
	from int64 // gets events after this seq; guarded by f.mu

	mu      sync.Mutex
	queue   []sighting
	opening bool          // what comes is history
	history int           // how many of queue, from the first on, are that
	bytes   int           // of the others
	end     string        // why no more will come; "" while some may
	told    bool          // and the reader knows
	ready   chan struct{} // holds one: there may be something for the reader
}

// sighting is something to be told to a watch: an event, or by name something else.
type sighting struct {
	name  string // "" for an event
	event roomstore.Event
	other int64 // opened: the epoch asked for, if that is over; lost: up to where; healed: from which epoch
}

// Names of what is told and is no event.
const (
	sightOpened = "opened"
	sightLost   = "lost"
	sightHealed = "healed"
)

// watch follows a room from the event with seq from on, or with 0 from now on. epoch
// is the one that from is of, 0: that of now. The caller must close what it gets. It
// fails with [roomstore.ErrNoRoom].
func (h *hub) watch(ctx context.Context, room roomstore.RoomID, from, epoch int64) (*watcher, error) {
	if h.stats.Watches.Add(1) > maxWatches {
		h.stats.Watches.Add(-1)
		return nil, fail(protocol.CodeTooFast, "%d streams are open on this gateway, which is the limit", maxWatches)
	}
	f, err := h.open(ctx, room)
	if err != nil {
		h.stats.Watches.Add(-1)
		return nil, err
	}
	w := &watcher{f: f, opening: true, ready: make(chan struct{}, 1)}
	err = errUnavailable
	for range watchTries {
		var done bool
		if done, err = w.begin(ctx, from, epoch); done {
			return w, nil
		}
		if err != nil {
			break
		}
		err = errUnavailable
	}
	w.Close()
	return nil, err
}

// begin puts the watch on its feed. Neither done nor an error: the room has gone on
// too far meanwhile for what the store has answered.
func (w *watcher) begin(ctx context.Context, from, epoch int64) (done bool, err error) {
	f := w.f
	lives, err := f.hub.store.Lives(ctx, []roomstore.RoomID{f.room})
	if err != nil {
		return false, err
	}
	life := lives[f.room]
	opened := sighting{name: sightOpened, event: roomstore.Event{Position: life.Position}}
	at := &opened.event.Position
	switch {
	case life.Epoch == 0:
		return false, roomstore.ErrNoRoom
	case from == 0:
	case epoch == 0 || epoch == life.Epoch:
		if from > life.Seq+1 {
			return false, badParameter("from %d is beyond the room's next event, which will be %d", from, life.Seq+1)
		}
		at.Seq = from - 1
	case life.Lineage.Has(epoch):
		*at = roomstore.Position{Epoch: epoch, Seq: from - 1}
	default:
		at.Seq, opened.other = 0, epoch
	}
	after := *at
	if at.Epoch != life.Epoch {
		after = roomstore.Position{Epoch: life.Epoch, Seq: life.Base}
	}
	history, err := f.hub.store.Catchup(ctx, f.room, after)
	if errors.Is(err, roomstore.ErrEpoch) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if at.Epoch != after.Epoch && history.Life.Base > after.Seq {
		return false, nil
	}
	return f.watch(w, opened, after, history)
}

// watch adds a watch that begins as opened says, and tells it what the store knew of
// what came after a position.
func (f *feed) watch(w *watcher, opened sighting, after roomstore.Position, h roomstore.History) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.stopped:
		return false, errStopping
	case !f.begin(roomstore.Life{Position: h.Position, Base: h.Life.Base, Lineage: h.Life.Lineage}), !f.has(h.Seq):
		return false, nil
	}
	f.describe(h.Attributes, h.Seq)
	w.push(opened)
	if at := opened.event.Position; at.Epoch != after.Epoch {
		w.lost(at, after.Seq-1)
		w.healed(at.Epoch, after)
	}
	told := after
	for _, e := range h.Events {
		if e.Seq <= h.Life.Base && e.Kind == roomstore.KindJoined && e.At == 0 {
			continue // it may have been in an earlier epoch, of which members were put back
		}
		w.lost(told, e.Seq-1)
		w.push(sighting{event: e})
		told.Seq = e.Seq
	}
	w.lost(told, h.Seq)
	w.from = h.Seq
	for e := range f.ring.after(w.from) {
		w.push(sighting{event: e})
	}
	w.opened()
	f.watchers = append(f.watchers, w)
	f.catchEarly()
	return true, nil
}

// show tells the watches of an event whose turn it is: those that have not been told
// of what is before seq.
func (f *feed) show(e roomstore.Event, seq int64) {
	for _, w := range f.watchers {
		if w.from < seq {
			w.push(sighting{event: e})
		}
	}
}

// showLost tells the watches that what is missing up to a seq is lost for good.
func (f *feed) showLost(to int64) {
	for _, w := range f.watchers {
		w.lost(roomstore.Position{Epoch: f.at.Epoch, Seq: max(f.at.Seq, w.from)}, to)
	}
}

// showHealed tells the watches that the room goes on in another epoch.
func (f *feed) showHealed(l roomstore.Life) {
	for _, w := range f.watchers {
		w.from = l.Base
		w.healed(f.at.Epoch, roomstore.Position{Epoch: l.Epoch, Seq: l.Base})
	}
}

// endWatches ends all watches of the feed.
func (f *feed) endWatches(why string) {
	for _, w := range f.watchers {
		w.finish(why)
	}
	f.watchers = nil
}

// lost tells of a gap behind a position, if there is one.
func (w *watcher) lost(after roomstore.Position, to int64) {
	if to > after.Seq {
		w.push(sighting{name: sightLost, event: roomstore.Event{Position: after}, other: to})
	}
}

// healed tells that the room has gone on from an epoch at a position of another one.
func (w *watcher) healed(from int64, at roomstore.Position) {
	w.push(sighting{name: sightHealed, other: from, event: roomstore.Event{Position: at}})
}

// opened ends the history that the watch opens with.
func (w *watcher) opened() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opening, w.history, w.bytes = false, len(w.queue), 0
}

// push queues something. Who has too much waiting is told nothing more, but for the
// history it opened with: so it can go on behind that.
func (w *watcher) push(s sighting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end != "" {
		return
	}
	size := s.size()
	waiting := len(w.queue) - w.history
	if !w.opening && (waiting >= watchEvents || w.bytes+size > watchBytes && waiting > 0) {
		w.queue, w.bytes, w.end = slices.Clip(w.queue[:w.history]), 0, watchSlow
	} else {
		w.queue, w.bytes = append(w.queue, s), w.bytes+size
	}
	w.wake()
}

// size is about how many bytes it holds.
func (s *sighting) size() int {
	n := 256 + len(s.event.Data) + len(s.event.Extended)
	if a := s.event.Attributes; a != nil {
		for _, one := range a.Set {
			n += 64 + len(one.Key) + len(one.Value)
		}
		for _, key := range a.Deleted {
			n += 16 + len(key)
		}
		for _, m := range a.Members {
			for _, p := range m.Pairs {
				n += 64 + len(p.Key) + len(p.Value)
			}
		}
	}
	return n
}

// finish ends the watch once its reader has had what waits.
func (w *watcher) finish(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end == "" {
		w.end = why
	}
	w.wake()
}

func (w *watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Next implements [serverapi.Watch].
func (w *watcher) Next(ctx context.Context) []serverapi.Event {
	for {
		batch, end := w.take()
		events := make([]serverapi.Event, 0, len(batch)+1)
		for _, s := range batch {
			events = append(events, s.told(w.f.room))
		}
		if end != "" {
			events = append(events, serverapi.Event{Name: "end", Last: true, Data: struct {
				Reason string `json:"reason"`
			}{end}})
		}
		if len(events) > 0 {
			return events
		}
		select {
		case <-w.ready:
		case <-ctx.Done():
			return nil
		}
	}
}

// take gives the next batch of what waits, and behind the last one why no more will
// come, once.
func (w *watcher) take() (batch []sighting, end string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, bytes := 0, 0
	for n < len(w.queue) && (n == 0 || bytes < watchBatch) {
		size := w.queue[n].size()
		bytes += size
		if n >= w.history {
			w.bytes -= size
		}
		n++
	}
	batch = slices.Clone(w.queue[:n])
	clear(w.queue[:n]) // the array stays for a while
	w.queue, w.history = w.queue[n:], max(0, w.history-n)
	if len(w.queue) == 0 {
		w.queue = nil
		if !w.told {
			end, w.told = w.end, w.end != ""
		}
	}
	return batch, end
}

// Close implements [serverapi.Watch].
func (w *watcher) Close() {
	f := w.f
	f.mu.Lock()
	f.watchers = slices.DeleteFunc(f.watchers, func(other *watcher) bool { return other == w })
	f.mu.Unlock()
	f.hub.close(f)
	f.hub.stats.Watches.Add(-1)
}

// What a watch is told, as docs/openapi.yaml has it.
type (
	sightHead struct {
		Epoch int64 `json:"epoch"`
		Seq   int64 `json:"seq,omitempty"`
		Time  int64 `json:"time,omitempty"`
	}
	sightOfOpening struct {
		RoomID string `json:"roomID"`
		protocol.Position
		EndedEpoch int64 `json:"endedEpoch,omitempty"`
	}
	sightOfLoss struct {
		Epoch   int64 `json:"epoch"`
		FromSeq int64 `json:"fromSeq"`
		ToSeq   int64 `json:"toSeq"`
	}
	sightOfHealing struct {
		protocol.Position
		FromEpoch int64 `json:"fromEpoch"`
	}
	sightOfMember struct {
		sightHead
		User        protocol.UserInfo `json:"user"`
		MemberCount *int64            `json:"memberCount,omitempty"`
		Reason      roomstore.Reason  `json:"reason,omitempty"`
	}
	sightOfMessage struct {
		sightHead
		After   *int64          `json:"after,omitempty"`
		Message json.RawMessage `json:"message"`
	}
	sightOfAttributes struct {
		sightHead
		UserID  roomstore.UserID  `json:"userID"`
		Set     map[string]string `json:"set"`
		Deleted []string          `json:"deleted"`
	}
	sightOfMemberAttributes struct {
		sightHead
		UserID roomstore.UserID            `json:"userID"`
		Infos  []protocol.MemberAttributes `json:"infos"`
	}
	sightOfEnd struct {
		sightHead
		Reason roomstore.Reason `json:"reason"`
	}
)

// told gives it as it is told.
func (s *sighting) told(room roomstore.RoomID) serverapi.Event {
	e := &s.event
	switch s.name {
	case sightOpened:
		return serverapi.Event{Name: s.name, Data: sightOfOpening{string(room), protocol.Position(e.Position), s.other}}
	case sightLost:
		return serverapi.Event{Name: s.name, Data: sightOfLoss{Epoch: e.Epoch, FromSeq: e.Seq + 1, ToSeq: s.other}}
	case sightHealed:
		return serverapi.Event{Name: s.name, Seq: e.Seq, Data: sightOfHealing{protocol.Position(e.Position), s.other}}
	}
	head := sightHead{Epoch: e.Epoch, Seq: e.Seq, Time: e.At}
	said := serverapi.Event{Seq: e.Seq}
	switch e.Kind {
	case roomstore.KindJoined, roomstore.KindLeft, roomstore.KindMoved:
		said.Name = map[roomstore.Kind]string{
			roomstore.KindJoined: "memberJoined", roomstore.KindLeft: "memberLeft", roomstore.KindMoved: "memberMoved",
		}[e.Kind]
		m := sightOfMember{sightHead: head, User: infoOf(e.User, e.Data), Reason: e.Reason}
		if !e.Uncounted {
			m.MemberCount = &e.Count
		}
		said.Data = m
	case roomstore.KindMessage:
		said.Name, said.Data = "message", sightOfMessage{sightHead: head, Message: wholeMessage(e)}
	case roomstore.KindCommand:
		said.Name, said.Seq, head.Seq = "command", 0, 0
		said.Data = sightOfMessage{sightHead: head, After: &e.Seq, Message: wholeMessage(e)}
	case roomstore.KindAttributes:
		a := sightOfAttributes{sightHead: head, UserID: e.User, Set: map[string]string{}, Deleted: append([]string{}, e.Attributes.Deleted...)}
		for _, one := range e.Attributes.Set {
			a.Set[one.Key] = one.Value
		}
		said.Name, said.Data = "attributes", a
	case roomstore.KindMemberAttributes:
		a := sightOfMemberAttributes{sightHead: head, UserID: e.User, Infos: []protocol.MemberAttributes{}}
		for _, m := range e.Attributes.Members {
			one := protocol.MemberAttributes{UserID: string(m.User), Attributes: map[string]string{}}
			for _, p := range m.Pairs {
				one.Attributes[p.Key] = p.Value
			}
			a.Infos = append(a.Infos, one)
		}
		said.Name, said.Data = "memberAttributes", a
	case roomstore.KindDestroyed:
		said.Name, said.Data = "destroyed", sightOfEnd{sightHead: head, Reason: e.Reason}
	default:
		said.Name, said.Data = "event", head // of a later version
	}
	return said
}

// wholeMessage is a message as members get it.
func wholeMessage(e *roomstore.Event) json.RawMessage {
	if len(e.Data) <= len("{}") {
		return json.RawMessage("{}") // no gateway wrote that
	}
	return appendMessage(nil, e.Data, e.MessageID, e.MessageSeq, e.OrderKey, e.At)
}
