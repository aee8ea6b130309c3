package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/protocol"
)

// churn is people who come and go, in rooms of others who stay.
type churn struct {
	*crowd
	name    string
	rooms   []string
	stayers []*stayer

	closed  atomic.Bool   // the loop is: who has been answered asks again
	leaving atomic.Bool   // nobody stays in
	out, in chan *churner // who waits to be told to come, or to go
	from    atomic.Int64  // times of what is due from here on are recorded
}

// churner comes and goes. Its fields change hands with its requests: they are
// its loop's while one is unanswered.
type churner struct {
	client *conn
	r      *rand.Rand
	room   string
	inside bool
	asked  int64 // id of the request
	due    time.Time
}

// stayer is a member who hears who comes and goes.
type stayer struct {
	client *conn
	room   string
	attendance
}

func (s *stayer) String() string {
	return fmt.Sprintf("%s in %s at %s", s.client.user, s.room, s.client.addr)
}

func (b *bench) churn(ctx context.Context) error {
	c, ctx, err := b.gather(ctx)
	if err != nil {
		return err
	}
	defer c.disperse(ctx)
	l := b.load
	w := &churn{
		crowd: c, name: fmt.Sprintf("churn, %d rooms × %d, %d churners", l.ChurnRooms, l.ChurnMembers, l.Churners),
		out: make(chan *churner, l.Churners), in: make(chan *churner, l.Churners),
	}
	seats := c.seats("c", l.ChurnRooms*l.ChurnMembers, l.ChurnMembers)
	w.stayers = make([]*stayer, len(seats))
	for i, s := range seats {
		w.stayers[i] = &stayer{room: s.room, attendance: attendance{who: w.prefix()}}
		if i%l.ChurnMembers == 0 {
			w.rooms = append(w.rooms, s.room)
		}
	}
	_, err = c.fill(ctx, w.name, seats, func(i int, client *conn) func(heard, time.Time) {
		s := w.stayers[i]
		s.client = client
		return func(h heard, _ time.Time) { w.hear(s, h) }
	})
	if err != nil {
		return err
	}
	if err := c.quiet(ctx); err != nil { // they may still hear of each other
		return err
	}
	for _, s := range w.stayers {
		s.client.loop.mu.Lock()
		s.present = map[string]bool{} // from here on they take notice
		s.client.loop.mu.Unlock()
	}
	outside := make([]seat, l.Churners)
	for i := range outside {
		outside[i] = seat{user: fmt.Sprintf("%s%d", w.prefix(), i), gate: i % len(c.urls)}
	}
	churners := make([]*churner, len(outside))
	_, err = c.fill(ctx, w.name, outside, func(i int, client *conn) func(heard, time.Time) {
		ch := &churner{client: client, r: rand.New(rand.NewPCG(7, uint64(i)))}
		churners[i] = ch
		return func(h heard, at time.Time) { w.answered(ch, h, at) }
	})
	if err != nil {
		return err
	}
	if err = w.saturate(ctx, churners); err == nil {
		err = w.atRate(ctx)
	}
	return w.verdict(err)
}

// prefix is what the names of churners begin with.
func (w *churn) prefix() string { return w.crowd.bench.name + "x" }

func (w *churn) saturate(ctx context.Context, churners []*churner) error {
	w.closed.Store(true)
	for _, ch := range churners {
		if err := w.ask(ch, time.Now()); err != nil {
			return err
		}
	}
	name := w.name + ", saturated"
	if err := w.wait(ctx, w.warmup, func() { w.progress.status("%s: warming up", name) }); err != nil {
		return err
	}
	per := func(t tally) int64 { return t.results }
	m, err := w.measure(ctx, name, w.duration, "joins+leaves/s", per)
	if err != nil {
		return err
	}
	w.leaving.Store(true)
	w.closed.Store(false)
	if err := w.settled(ctx, func() bool { return len(w.out) == cap(w.out) }); err != nil {
		return err
	}
	w.rate(name, "joins+leaves/s", m, per(m.tally))
	w.costs(name, "100 k joins+leaves", 1e5, m, per(m.tally))
	return nil
}

func (w *churn) atRate(ctx context.Context) error {
	name := fmt.Sprintf("%s, %v joins+leaves/s", w.name, w.load.ChurnRate)
	w.leaving.Store(false)
	// Half of them are in, so that there is always somebody who can come or go.
	for range cap(w.out) / 2 {
		if err := w.ask(<-w.out, time.Now()); err != nil {
			return err
		}
	}
	if err := w.settled(ctx, func() bool { return len(w.in) == cap(w.out)/2 }); err != nil {
		return err
	}
	w.takeTimes()
	start := time.Now()
	w.from.Store(int64(start.Add(w.warmup).Sub(w.began)))
	var m measured
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return pace(gctx, start, w.load.ChurnRate, w.warmup+w.duration, func(n int, due time.Time) error {
			waiting := w.out
			if n%2 == 1 {
				waiting = w.in
			}
			select {
			case ch := <-waiting: // if all are busy it is late, and counts as that
				return w.ask(ch, due)
			case <-gctx.Done():
				return context.Cause(gctx)
			}
		})
	})
	g.Go(func() (err error) {
		if err := w.wait(gctx, w.warmup, func() { w.progress.status("%s: warming up", name) }); err != nil {
			return err
		}
		m, err = w.measure(gctx, name, w.duration, "joins+leaves/s", func(t tally) int64 { return t.results })
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	times := w.takeTimes().times
	w.leaving.Store(true)
	err := w.settled(ctx, func() bool {
		for {
			select {
			case ch := <-w.in:
				if err := w.ask(ch, time.Now()); err != nil {
					w.fail(err)
				}
			default:
				return len(w.out) == cap(w.out)
			}
		}
	})
	if err != nil {
		return err
	}
	w.percentiles(name, "join answered", times)
	w.busy(name, m)
	return nil
}

// ask has a churner come, or go.
func (w *churn) ask(ch *churner, due time.Time) error {
	id := ch.client.lastID.Add(1)
	ch.asked, ch.due = id, due
	method, params := protocol.MethodLeaveRoom, ""
	if ch.inside {
		params = leaveParams(ch.room, id)
	} else {
		ch.room = w.rooms[ch.r.IntN(len(w.rooms))]
		method, params = protocol.MethodEnterRoom, enterParams(ch.room, id)
	}
	if err := ch.client.ask(id, method, params); err != nil {
		return fmt.Errorf("%s at %s: %s: %w", ch.client.user, ch.client.addr, method, err)
	}
	return nil
}

// answered takes what a churner hears.
func (w *churn) answered(ch *churner, h heard, at time.Time) {
	l := ch.client.loop
	switch h.kind {
	case kindJoined, kindLeft:
		l.events++
	case kindError:
		w.fail(fmt.Errorf("%s in %s at %s: %w", ch.client.user, ch.room, ch.client.addr, h.failure()))
	case kindResult:
		if h.id != ch.asked {
			w.suspect(&Problem{doubling, fmt.Sprintf("%s at %s was answered request %d, and has asked %d", ch.client.user, ch.client.addr, h.id, ch.asked)})
			return
		}
		l.results++
		ch.inside = !ch.inside
		if ch.inside && int64(ch.due.Sub(w.began)) >= w.from.Load() {
			l.record(at.Sub(ch.due))
		}
		switch {
		case w.closed.Load(), ch.inside && w.leaving.Load():
			if err := w.ask(ch, at); err != nil {
				w.fail(err)
			}
		case ch.inside:
			w.in <- ch // has room for all
		default:
			w.out <- ch
		}
	}
}

// hear takes what a member who stays hears.
func (w *churn) hear(s *stayer, h heard) {
	if h.kind != kindJoined && h.kind != kindLeft {
		return
	}
	s.client.loop.events++
	if s.present == nil {
		return // members are still coming
	}
	if p, gap := s.take(h); p != nil || gap {
		if p != nil {
			p.What = s.String() + ": " + p.What
		}
		w.suspect(p)
	}
}

// verdict waits until everybody has heard everybody leave.
func (w *churn) verdict(err error) error {
	if err != nil && !errors.Is(err, errBroken) {
		return err
	}
	still := func() (s *stayer, who string) {
		for _, s := range w.stayers {
			s.client.loop.mu.Lock()
			for user := range s.present {
				who = user
			}
			s.client.loop.mu.Unlock()
			if who != "" {
				return s, who
			}
		}
		return nil, ""
	}
	if err == nil {
		w.settled(context.Background(), func() bool { s, _ := still(); return s == nil })
		if s, who := still(); s != nil {
			w.problem(Problem{loss, fmt.Sprintf("%s was never told that %s left", s, who)})
		}
	}
	for _, s := range w.stayers {
		s.client.loop.mu.Lock()
		if lost := s.lost(); len(lost) > 0 {
			w.problem(Problem{loss, fmt.Sprintf("%s: %d events never came, the first is %d, and they heard of %d", s, len(lost), lost[0], s.seq)})
		}
		s.client.loop.mu.Unlock()
	}
	if w.broken() {
		return errBroken
	}
	return err
}
