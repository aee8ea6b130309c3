package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/protocol"
)

// reconnecting is a workload in which most clients lose their links at once, and come back
// to their rooms, while those who stay go on speaking. Those who are cut off are another
// process: connecting is work, and those who stay are not to hear later for it.
type reconnecting struct {
	*crowd
	name    string
	members []*returner // of this process
	senders []*returner // one in each room; they stay
	sent    []atomic.Uint32

	watching atomic.Bool // nobody is to leave
}

// A returner is a member that is cut off, or stays and listens.
type returner struct {
	seat
	number int
	inRoom int // number of the room
	sends  bool

	session string

	// Guarded by the lock of its client's loop.
	client *conn
	epoch  int64
	seq    int64
	next   uint32 // message of the room's sender
}

func (r *returner) String() string {
	return fmt.Sprintf("%s in %s at %s", r.user, r.room, r.client.addr)
}

// reconnect is named alone: what it asks of a server, the server to compare with does
// not have.
func (b *bench) reconnect(ctx context.Context) error {
	c, ctx, err := b.gather(ctx)
	if err != nil {
		return err
	}
	defer c.disperse(ctx)
	w, err := newReconnecting(c, false)
	if err != nil {
		return err
	}
	name, n, cut := w.name, b.load.ReconnectMembers, b.load.ReconnectCut
	begun, err := c.procs.sample()
	if err != nil {
		return err
	}
	away, err := b.startReturners(ctx)
	if err != nil {
		return err
	}
	defer away.end()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.arrive(gctx, n-cut) })
	g.Go(func() error { return away.arrive(gctx) })
	if err := g.Wait(); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	if err := c.quiet(ctx); err != nil {
		return err
	}
	there, err := c.procs.sample()
	if err != nil {
		return err
	}
	w.watching.Store(true)
	defer w.watching.Store(false) // then they log out
	what := fmt.Sprintf("%s: %d stay", name, n-cut)
	calm, err := w.speak(ctx, func(ctx context.Context) error {
		return w.wait(ctx, w.duration, func() { w.progress.status("%s, undisturbed", what) })
	})
	if err != nil {
		return err
	}
	w.percentiles(name, "delivery, undisturbed", w.takeTimes().times)
	var back time.Duration
	storm, err := w.speak(ctx, func(ctx context.Context) error {
		w.progress.status("%s: waiting for them", name)
		began := time.Now()
		err := away.cut(ctx)
		back = time.Since(began)
		return err
	})
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	if err := away.check(ctx, w.sent); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	w.percentiles(name, "delivery, meanwhile", w.takeTimes().times)
	w.add(name, "all are back after", back.Seconds(), "s")
	w.add(name, "clients/s", float64(cut)/back.Seconds(), "/s")
	if servers, redis := c.procs.watches(); servers && redis {
		// What speaking cost meanwhile is taken off, as it cost before.
		quiet := calm.redis.Seconds() / calm.took.Seconds() * storm.took.Seconds()
		entry := (there.redis - begun.redis).Seconds() / float64(n)
		resume := (storm.redis.Seconds() - quiet) / float64(cut)
		w.add(name, "Redis CPU per login and entry", entry*1e6, "µs")
		w.add(name, "Redis CPU per resume", resume*1e6, "µs")
		w.add(name, "… of that of an entry", resume/entry, "×")
	}
	return w.verdict()
}

// newReconnecting gives those of the workload who are cut off, or the others.
func newReconnecting(c *crowd, cut bool) (*reconnecting, error) {
	n, size := c.load.ReconnectMembers, c.load.RoomSize
	w := &reconnecting{crowd: c, name: fmt.Sprintf("reconnect, %d of %d", c.load.ReconnectCut, n)}
	w.sent = make([]atomic.Uint32, (n+size-1)/size)
	isCut := make([]bool, n)
	left := c.load.ReconnectCut
	for place := 1; place < size && left > 0; place++ {
		for i := place; i < n && left > 0; i += size { // of each room, and never its sender
			isCut[i] = true
			left--
		}
	}
	if left > 0 {
		return nil, fmt.Errorf("--reconnect-cut is %d, and one of each room has to stay: %d at most", c.load.ReconnectCut, c.load.ReconnectCut-left)
	}
	for i, s := range c.seats("r", n, size) {
		if isCut[i] != cut {
			continue
		}
		r := &returner{seat: s, number: i, inRoom: i / size, sends: i%size == 0}
		if r.sends {
			w.senders = append(w.senders, r)
		}
		w.members = append(w.members, r)
	}
	return w, nil
}

// arrive brings the members of this process in. Positions come with the answers to
// entries, so these are made here.
func (w *reconnecting) arrive(ctx context.Context, all int) error {
	var done atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(w.load.Parallel)
	var mu sync.Mutex
	for _, r := range w.members {
		g.Go(func() error {
			client, err := w.access.dial(gctx, w.loops[r.number%len(w.loops)], w.urls[r.gate], r.user)
			if err != nil {
				return fmt.Errorf("connect %s: %w", r.user, err)
			}
			mu.Lock()
			w.conns = append(w.conns, client)
			mu.Unlock()
			r.client = client
			login, err := client.login(gctx, nil)
			if err != nil {
				return err
			}
			r.session = login.SessionID
			client.listenWith(func(h heard, at time.Time) { w.hear(r, h, at) })
			id := client.lastID.Add(1)
			answer, err := client.callAs(gctx, id, protocol.MethodEnterRoom, enterParams(r.room, id))
			if err != nil {
				return err
			}
			var room protocol.Room
			if err := json.Unmarshal(answer, &room); err != nil {
				return err
			}
			client.loop.mu.Lock()
			r.epoch, r.seq = room.Epoch, max(r.seq, room.Seq)
			client.loop.mu.Unlock()
			w.progress.status("%s: %d of the %d clients who stay are in", w.name, done.Add(1), all)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// speak has the senders speak, in turn, while something happens.
func (w *reconnecting) speak(ctx context.Context, while func(context.Context) error) (measured, error) {
	return w.during(ctx, w.load.ReconnectRate, func(n int, due time.Time) error {
		return w.send(w.senders[n%len(w.senders)], due)
	}, while, func() bool { _, n := w.missing(); return n == 0 })
}

func (w *reconnecting) send(r *returner, due time.Time) error {
	n := w.sent[r.inRoom].Add(1) - 1
	id := r.client.lastID.Add(1)
	text := payload(stamp{uint32(r.inRoom), n, due.Sub(w.began)}, w.load.Payload)
	if err := r.client.ask(id, protocol.MethodSendRoomMessage, sendParams(r.room, text, id)); err != nil {
		return fmt.Errorf("%s: send: %w", r, err)
	}
	return nil
}

// cutAndBack ends the links, all at once, and brings the clients back.
func (w *reconnecting) cutAndBack(ctx context.Context) error {
	for _, r := range w.members {
		r.client.hangUp()
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(w.load.Parallel)
	var mu sync.Mutex
	for _, r := range w.members {
		g.Go(func() error {
			old := r.client.loop
			old.mu.Lock()
			at := protocol.ResumeRoom{RoomID: r.room, Position: protocol.Position{Epoch: r.epoch, Seq: r.seq}}
			old.mu.Unlock()
			gate := (r.gate + r.number) % len(w.urls) // half of them elsewhere
			client, err := w.access.dial(gctx, w.loops[r.number%len(w.loops)], w.urls[gate], r.user)
			if err != nil {
				return fmt.Errorf("connect %s again: %w", r.user, err)
			}
			mu.Lock()
			w.conns = append(w.conns, client)
			mu.Unlock()
			connected := make(chan struct{})
			once := sync.OnceFunc(func() { close(connected) })
			client.listenWith(func(h heard, t time.Time) {
				if h.kind == kindOther {
					once() // the room's state
				}
				w.hear(r, h, t)
			})
			client.loop.mu.Lock()
			r.client = client
			client.loop.mu.Unlock()
			login, err := client.login(gctx, &protocol.Resume{SessionID: r.session, Rooms: []protocol.ResumeRoom{at}})
			if err != nil {
				return err
			}
			if !login.Resumed {
				w.suspect(&Problem{loss, fmt.Sprintf("%s: the session did not go on", r)})
			}
			select {
			case <-connected:
			case <-gctx.Done():
				return context.Cause(gctx)
			case <-time.After(patience):
				return fmt.Errorf("%s: not connected to its room after %v", r, patience)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// hear takes what a member hears. The lock of its loop is held.
func (w *reconnecting) hear(r *returner, h heard, at time.Time) {
	l := r.client.loop
	if seq := h.seqOf(); seq > 0 && h.kind != kindResult && h.kind != kindOther {
		r.seq = max(r.seq, seq)
	}
	switch h.kind {
	case kindJoined:
		l.events++
	case kindLeft:
		l.events++
		if w.watching.Load() {
			w.suspect(&Problem{loss, fmt.Sprintf("%s heard that somebody left: %.200s", r, h.text)})
		}
	case kindMessage:
		l.events++
		s, ok := stampOf(h.text)
		if !ok || int(s.sender) != r.inRoom {
			return
		}
		switch {
		case s.n == r.next:
			r.next++
		case s.n < r.next:
			w.suspect(&Problem{doubling, fmt.Sprintf("%s: message %d came behind %d", r, s.n, r.next-1)})
		default:
			w.suspect(&Problem{loss, fmt.Sprintf("%s: message %d came behind %d", r, s.n, int64(r.next)-1)})
			r.next = s.n + 1
		}
		l.record(at.Sub(w.began) - s.due)
	case kindError:
		w.fail(fmt.Errorf("%s: %w", r, h.failure()))
	}
}

// missing says who has not had all messages: the first of them, and how many they are.
func (w *reconnecting) missing() (first string, n int) {
	for _, l := range w.loops {
		l.mu.Lock()
		defer l.mu.Unlock()
	}
	for _, r := range w.members {
		if sent := w.sent[r.inRoom].Load(); !r.sends && r.next != sent {
			if n++; n == 1 {
				first = fmt.Sprintf("%s has had %d of %d messages", r, r.next, sent)
			}
		}
	}
	return first, n
}

// verdict looks whether everybody has had everything.
func (w *reconnecting) verdict() error {
	if first, n := w.missing(); n > 0 {
		w.problem(Problem{loss, fmt.Sprintf("%d members lack messages; %s", n, first)})
	}
	if w.broken() {
		return errBroken
	}
	return nil
}
