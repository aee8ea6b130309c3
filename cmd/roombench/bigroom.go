package main

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/protocol"
)

// crowded is a workload of one room that is so large that its members hear of some of
// the others only: while clients come and go somebody speaks, and everybody is to hear
// that, and little else.
type crowded struct {
	*crowd
	listeners []*onlooker
	speaker   *conn
	sent      atomic.Uint32

	counting atomic.Bool // events about members are
	leaving  atomic.Bool // what comes now is about the end of the run
}

// Members of a very large room get at most this many events about members a second, of at
// most this many users each (docs/protocol.md, roomModeChanged).
const (
	mostMemberEvents = 5
	mostUsersOfOne   = 50
)

// An onlooker is a member that listens. All of it is guarded by the lock of its client's loop.
type onlooker struct {
	client  *conn
	next    uint32 // message of the speaker
	sampled bool
	events  int   // about members, while they are counted
	members int64 // how many there are, as it was told last
}

func (o *onlooker) String() string { return fmt.Sprintf("%s at %s", o.client.user, o.client.addr) }

// bigRoom is named alone: servers to compare with have no such rooms.
func (b *bench) bigRoom(ctx context.Context) error {
	c, ctx, err := b.gather(ctx)
	if err != nil {
		return err
	}
	defer c.disperse(ctx)
	n := b.load.BigRoomMembers
	name := fmt.Sprintf("big room, 1 × %d", n)
	w := &crowded{crowd: c, listeners: make([]*onlooker, n)}
	defer w.leaving.Store(true)
	before, err := c.procs.sample()
	if err != nil {
		return err
	}
	began := time.Now()
	seats := c.seats("b", n, n)
	clients, err := c.fill(ctx, name, seats, func(i int, client *conn) func(heard, time.Time) {
		o := &onlooker{client: client}
		w.listeners[i] = o
		return func(h heard, at time.Time) { w.hear(o, h, at) }
	})
	if err != nil {
		return err
	}
	c.add(name, "all are in after", time.Since(began).Seconds(), "s")
	if err := c.quiet(ctx); err != nil {
		return err
	}
	in, err := c.procs.sample()
	if err != nil {
		return err
	}
	c.costs(name, "1 k clients that come", 1e3, measured{
		servers: in.servers - before.servers, redis: in.redis - before.redis, own: in.own - before.own,
	}, int64(n))
	w.speaker = clients[0]
	calm := fmt.Sprintf("%s, %v messages/s", name, b.load.BigRoomRate)
	if _, err := w.speak(ctx, calm, func(ctx context.Context) error {
		return w.wait(ctx, w.duration, func() { w.progress.status("%s", calm) })
	}); err != nil {
		return err
	}
	if err := w.bustle(ctx, name, seats[0].room); err != nil {
		return err
	}
	return w.verdict(n)
}

// speak has the speaker speak while something happens.
func (w *crowded) speak(ctx context.Context, name string, while func(context.Context) error) (measured, error) {
	m, err := w.during(ctx, w.load.BigRoomRate, func(_ int, due time.Time) error { return w.send(due) }, while, w.heardAll)
	if err == nil {
		w.percentiles(name, "delivery", w.takeTimes().times)
		w.busy(name, m)
	}
	return m, err
}

func (w *crowded) send(due time.Time) error {
	n := w.sent.Add(1) - 1
	id := w.speaker.lastID.Add(1)
	text := payload(stamp{0, n, due.Sub(w.began)}, w.load.Payload)
	return w.speaker.ask(id, protocol.MethodSendRoomMessage, sendParams(w.room("b", 0), text, id))
}

// bustle has clients enter and leave while the speaker speaks.
func (w *crowded) bustle(ctx context.Context, name, room string) error {
	var seats []seat
	for i := range w.load.BigRoomChurners {
		seats = append(seats, seat{user: fmt.Sprintf("%sbx%d", w.name, i), gate: i % len(w.urls)})
	}
	churners, err := w.fill(ctx, name, seats, w.counted)
	if err != nil {
		return err
	}
	bustle := fmt.Sprintf("%s, %d come and go", name, len(churners))
	var changes atomic.Int64
	w.counting.Store(true)
	m, err := w.speak(ctx, bustle, func(ctx context.Context) error {
		end := time.Now().Add(w.duration)
		g, gctx := errgroup.WithContext(ctx)
		for _, churner := range churners {
			g.Go(func() error {
				for time.Now().Before(end) {
					if err := churner.enter(gctx, room); err != nil {
						return err
					}
					id := churner.lastID.Add(1)
					if _, err := churner.callAs(gctx, id, protocol.MethodLeaveRoom, leaveParams(room, id)); err != nil {
						return err
					}
					w.progress.status("%s: %d times", bustle, changes.Add(2))
				}
				return nil
			})
		}
		return g.Wait()
	})
	if err != nil {
		return err
	}
	if err := w.quiet(ctx); err != nil {
		return err
	}
	w.counting.Store(false)
	w.rate(bustle, "entries and departures/s", m, changes.Load())
	told := 0
	for _, o := range w.listeners {
		o.client.loop.mu.Lock()
		told += o.events
		if most := mostMemberEvents * (int(m.took.Seconds()) + 2); o.sampled && o.events > most {
			w.problem(Problem{"flood", fmt.Sprintf("%s heard of members %d times in %v", o, o.events, m.took)})
		}
		o.client.loop.mu.Unlock()
	}
	w.add(bustle, "told of members, times a second", float64(told)/float64(len(w.listeners))/m.took.Seconds(), "/s each")
	return nil
}

// hear takes what a member hears. The lock of its loop is held.
func (w *crowded) hear(o *onlooker, h heard, at time.Time) {
	if w.leaving.Load() {
		return
	}
	l := o.client.loop
	switch h.kind {
	case kindOther:
		if mode := modeOf(h.text); mode != "" {
			o.sampled = mode == protocol.ModeSampled
		}
	case kindJoined, kindLeft:
		l.events++
		o.members = lastNumber(h.text, `"memberCount":`)
		if w.counting.Load() {
			o.events++
		}
		users := 0
		h.users(func([]byte) { users++ })
		if o.sampled && users > mostUsersOfOne {
			w.suspect(&Problem{"flood", fmt.Sprintf("%s heard of %d users at once", o, users)})
		}
	case kindMessage:
		l.events++
		s, ok := stampOf(h.text)
		if !ok || s.sender != 0 || o.client == w.speaker {
			return
		}
		switch {
		case s.n == o.next:
			o.next++
		case s.n < o.next:
			w.suspect(&Problem{doubling, fmt.Sprintf("%s: message %d came behind %d", o, s.n, int64(o.next)-1)})
		default:
			w.suspect(&Problem{loss, fmt.Sprintf("%s: message %d came behind %d", o, s.n, int64(o.next)-1)})
			o.next = s.n + 1
		}
		l.messages++
		l.record(at.Sub(w.began) - s.due)
	case kindError:
		w.fail(fmt.Errorf("%s: %w", o, h.failure()))
	}
}

func (w *crowded) heardAll() bool {
	for _, l := range w.loops {
		l.mu.Lock()
		defer l.mu.Unlock()
	}
	sent := w.sent.Load()
	for _, o := range w.listeners {
		if o.client != w.speaker && o.next != sent {
			return false
		}
	}
	return true
}

// verdict looks whether everybody has had every message, and knows how many they are.
func (w *crowded) verdict(members int) error {
	sent := w.sent.Load()
	for _, o := range w.listeners {
		o.client.loop.mu.Lock()
		next, told := o.next, o.members
		o.client.loop.mu.Unlock()
		if o.client != w.speaker && next != sent {
			w.problem(Problem{loss, fmt.Sprintf("%s has had %d of %d messages", o, next, sent)})
		}
		if told != 0 && told != int64(members) {
			w.problem(Problem{loss, fmt.Sprintf("%s was told of %d members last, there are %d", o, told, members)})
		}
	}
	if w.broken() {
		return errBroken
	}
	return nil
}

// modeOf is the mode that an event tells of, if it does.
func modeOf(text []byte) protocol.RoomMode {
	for _, mode := range []protocol.RoomMode{protocol.ModeSampled, protocol.ModeFull} {
		if bytes.Contains(text, []byte(`"`+protocol.EventRoomModeChanged+`"`)) && bytes.Contains(text, []byte(`"mode":"`+string(mode)+`"`)) {
			return mode
		}
	}
	return ""
}
