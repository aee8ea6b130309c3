package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/protocol"
)

// messages is a workload of people who speak in rooms that nobody enters or
// leaves: fan-out and small rooms differ only in numbers.
type messages struct {
	*crowd
	size    int // of a room
	senders []*sender
	slots   []*slot

	closed atomic.Bool  // the loop is: who is done sends again
	until  atomic.Int64 // times of messages due from…
	from   atomic.Int64 // …until are recorded, in ns since the run began
}

// A slot is one message in flight: sent, and not yet answered and heard by all
// others in the room. Its senders take turns.
type slot struct {
	senders []*sender
	turn    int          // owned by who sends
	open    atomic.Int32 // who has still to hear of the message in flight, its sender included
}

// A sender is a member who speaks.
type sender struct {
	client     *conn
	index      int // in the run
	inRoom     int // among the senders of the room
	room       string
	slot       *slot
	sent       atomic.Uint32
	unanswered atomic.Int32
}

// receiver is a member who listens, as all do.
type receiver struct {
	client  *conn
	room    string
	speaks  *sender   // nil: does not
	senders []*sender // of the room
	sequence
}

func (r *receiver) String() string {
	return fmt.Sprintf("%s in %s at %s", r.client.user, r.room, r.client.addr)
}

func (b *bench) fanOut(ctx context.Context) error {
	l := b.load
	name := fmt.Sprintf("fan-out, 1 room × %d", l.FanoutMembers)
	return b.speak(ctx, speech{
		kind: "f", name: name, rooms: 1, size: l.FanoutMembers, senders: l.FanoutInFlight, slots: l.FanoutInFlight, rate: l.FanoutRate,
		unit: "deliveries", per: func(t tally) int64 { return t.messages },
	})
}

func (b *bench) smallRooms(ctx context.Context) error {
	l := b.load
	name := fmt.Sprintf("small rooms, %d × %d", l.SmallRooms, l.SmallMembers)
	return b.speak(ctx, speech{
		kind: "s", name: name, rooms: l.SmallRooms, size: l.SmallMembers, senders: l.SmallMembers, slots: 1, rate: l.SmallRate * float64(l.SmallRooms),
		unit: "messages", per: func(t tally) int64 { return t.results },
	})
}

// speech says what is spoken, and what is counted of it.
type speech struct {
	kind, name  string
	rooms, size int
	senders     int     // in each room
	slots       int     // in each room
	rate        float64 // in all rooms
	unit        string
	per         func(tally) int64
}

func (b *bench) speak(ctx context.Context, s speech) error {
	c, ctx, err := b.gather(ctx)
	if err != nil {
		return err
	}
	defer c.disperse(ctx)
	if err := c.probe(ctx); err != nil {
		return err
	}
	w := &messages{crowd: c, size: s.size}
	seats := c.seats(s.kind, s.rooms*s.size, s.size)
	receivers := make([]*receiver, len(seats))
	for room := range s.rooms {
		first := room * s.size
		senders := make([]*sender, s.senders)
		for i := range senders {
			senders[i] = &sender{index: len(w.senders), inRoom: i, room: seats[first].room}
			w.senders = append(w.senders, senders[i])
		}
		for i := range s.slots {
			sl := &slot{}
			for j := i; j < len(senders); j += s.slots {
				senders[j].slot = sl
				sl.senders = append(sl.senders, senders[j])
			}
			w.slots = append(w.slots, sl)
		}
		for i := range s.size {
			r := &receiver{room: seats[first].room, senders: senders, sequence: sequence{next: make([]uint32, len(senders))}}
			if i < len(senders) {
				r.speaks = senders[i]
			}
			receivers[first+i] = r
		}
	}
	_, err = c.fill(ctx, s.name, seats, func(i int, client *conn) func(heard, time.Time) {
		r := receivers[i]
		r.client = client
		if r.speaks != nil {
			r.speaks.client = client
		}
		return func(h heard, at time.Time) { w.hear(r, h, at) }
	})
	if err != nil {
		return err
	}
	if err := w.saturate(ctx, s); err != nil {
		return w.verdict(err, receivers)
	}
	if err := w.atRate(ctx, s); err != nil {
		return w.verdict(err, receivers)
	}
	return w.verdict(nil, receivers)
}

// saturate keeps every slot busy.
func (w *messages) saturate(ctx context.Context, s speech) error {
	w.closed.Store(true)
	for _, sl := range w.slots {
		w.next(sl)
	}
	name := s.name + ", saturated"
	err := w.wait(ctx, w.warmup, func() { w.progress.status("%s: warming up", name) })
	if err != nil {
		return err
	}
	m, err := w.measure(ctx, name, w.duration, s.unit+"/s", s.per)
	if err != nil {
		return err
	}
	w.closed.Store(false)
	if err := w.drained(ctx); err != nil {
		return err
	}
	w.rate(name, s.unit+"/s", m, s.per(m.tally))
	w.costs(name, "1 M "+s.unit, 1e6, m, s.per(m.tally))
	return nil
}

// atRate sends at a rate, whatever becomes of it.
func (w *messages) atRate(ctx context.Context, s speech) error {
	name := fmt.Sprintf("%s, %v messages/s", s.name, s.rate)
	w.takeTimes()
	start := time.Now()
	from := start.Sub(w.began) + w.warmup
	w.until.Store(int64(from + w.duration))
	w.from.Store(int64(from))
	var m measured
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return pace(gctx, start, s.rate, w.warmup+w.duration, func(n int, due time.Time) error {
			sl := w.slots[n%len(w.slots)]
			from := sl.senders[n/len(w.slots)%len(sl.senders)]
			for from.unanswered.Load() >= protocol.MaxUnanswered { // which no client may exceed
				select {
				case <-time.After(time.Millisecond):
				case <-gctx.Done():
					return context.Cause(gctx)
				}
			}
			return w.send(from, due)
		})
	})
	g.Go(func() (err error) {
		if err := w.wait(gctx, w.warmup, func() { w.progress.status("%s: warming up", name) }); err != nil {
			return err
		}
		m, err = w.measure(gctx, name, w.duration, s.unit+"/s", s.per)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := w.drained(ctx); err != nil {
		return err
	}
	w.percentiles(name, "delivery", w.takeTimes().times)
	w.busy(name, m)
	return nil
}

// next sends the next message of a slot. Nothing of it is in flight.
func (w *messages) next(sl *slot) {
	from := sl.senders[sl.turn%len(sl.senders)]
	sl.turn++
	sl.open.Store(int32(w.size))
	if err := w.send(from, time.Now()); err != nil {
		w.fail(err)
	}
}

func (w *messages) send(from *sender, due time.Time) error {
	n := from.sent.Add(1) - 1
	from.unanswered.Add(1)
	text := payload(stamp{uint32(from.index), n, due.Sub(w.began)}, w.load.Payload)
	id := from.client.lastID.Add(1)
	if err := from.client.ask(id, protocol.MethodSendRoomMessage, sendParams(from.room, text, id)); err != nil {
		return fmt.Errorf("%s at %s: send: %w", from.client.user, from.client.addr, err)
	}
	return nil
}

// hear takes what a member hears.
func (w *messages) hear(r *receiver, h heard, at time.Time) {
	l := r.client.loop
	switch h.kind {
	case kindMessage:
		l.events++
		s, ok := stampOf(h.text)
		if !ok || int(s.sender) >= len(w.senders) {
			return // somebody else speaks here
		}
		from := w.senders[s.sender]
		if from.room != r.room || from == r.speaks {
			w.suspect(&Problem{doubling, fmt.Sprintf("%s was sent message %d of %s, which is not for them", r, s.n, from.client.user)})
			return
		}
		p, gap := r.take(from.inRoom, s.n, lastNumber(h.text, `"messageSeq":`))
		if p != nil || gap {
			if p != nil {
				p.What = fmt.Sprintf("%s, of %s: %s", r, from.client.user, p.What)
			}
			w.suspect(p)
		}
		l.messages++
		if due := int64(s.due); due >= w.from.Load() && due < w.until.Load() {
			l.record(at.Sub(w.began) - s.due)
		}
		w.done(from.slot)
	case kindJoined, kindLeft:
		l.events++
	case kindResult:
		if r.speaks == nil {
			return
		}
		l.results++
		r.speaks.unanswered.Add(-1)
		w.done(r.speaks.slot)
	case kindError:
		w.fail(fmt.Errorf("%s: send: %w", r, h.failure()))
	}
}

// done notes that one more has heard of the message in flight.
func (w *messages) done(sl *slot) {
	if sl.open.Add(-1) == 0 && w.closed.Load() {
		w.next(sl)
	}
}

// drained waits for what is still in flight.
func (w *messages) drained(ctx context.Context) error {
	var sent int64
	return w.settled(ctx, func() bool {
		sent = 0
		for _, s := range w.senders {
			sent += int64(s.sent.Load())
		}
		n := w.count()
		return n.results >= sent && n.messages >= sent*int64(w.size-1)
	})
}

// verdict looks through what everybody has heard. err is what ended the
// workload early.
func (w *messages) verdict(err error, receivers []*receiver) error {
	for _, l := range w.loops {
		l.mu.Lock()
		defer l.mu.Unlock()
	}
	if err != nil && !errors.Is(err, errBroken) {
		return err
	}
	for _, r := range receivers {
		for i, from := range r.senders {
			sent := from.sent.Load()
			if err != nil {
				sent = r.next[i] // what was under way when it ended is no loss
			}
			if from == r.speaks {
				continue
			}
			if lost := r.lost(i, sent); len(lost) > 0 {
				w.problem(Problem{loss, fmt.Sprintf("%s, of %s: %d of %d messages never came, the first is %d", r, from.client.user, len(lost), from.sent.Load(), lost[0])})
			}
		}
	}
	for _, s := range w.senders {
		if n := s.unanswered.Load(); n > 0 && err == nil {
			w.problem(Problem{loss, fmt.Sprintf("%s at %s: %d messages were never answered", s.client.user, s.client.addr, n)})
		}
	}
	if w.broken() {
		return errBroken
	}
	return err
}
