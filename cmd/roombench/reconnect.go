package main

import (
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
// to their rooms, while those who stay go on speaking.
type reconnecting struct {
	*crowd
	members []*returner
	senders []*returner // one in each room; they stay
	sent    []atomic.Uint32

	watching atomic.Bool // nobody is to leave
}

// A returner is a member that is cut off, or stays and listens.
type returner struct {
	seat
	inRoom int // number of the room
	cut    bool

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
	n, cut := b.load.ReconnectMembers, b.load.ReconnectCut
	name := fmt.Sprintf("reconnect, %d of %d", cut, n)
	w := &reconnecting{crowd: c}
	seats := c.seats("r", n, b.load.RoomSize)
	rooms := (n + b.load.RoomSize - 1) / b.load.RoomSize
	w.sent = make([]atomic.Uint32, rooms)
	for i, s := range seats {
		r := &returner{seat: s, inRoom: i / b.load.RoomSize}
		if i%b.load.RoomSize == 0 {
			w.senders = append(w.senders, r)
		}
		w.members = append(w.members, r)
	}
	left := cut
	for place := 1; place < b.load.RoomSize && left > 0; place++ {
		for i := place; i < n && left > 0; i += b.load.RoomSize { // of each room, and never its sender
			w.members[i].cut = true
			left--
		}
	}
	if left > 0 {
		return fmt.Errorf("--reconnect-cut is %d, and one of each room has to stay: %d at most", cut, cut-left)
	}
	begun, err := c.procs.sample()
	if err != nil {
		return err
	}
	// Positions come with the answers to entries, so these are made here.
	if err := w.arrive(ctx, name); err != nil {
		return err
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
		began := time.Now()
		err := w.cutAndBack(ctx, name)
		back = time.Since(began)
		return err
	})
	if err != nil {
		return err
	}
	w.percentiles(name, "delivery, meanwhile", w.takeTimes().times)
	w.add(name, "all are back after", back.Seconds(), "s")
	w.add(name, "clients/s", float64(w.countCut())/back.Seconds(), "/s")
	if servers, redis := c.procs.watches(); servers && redis {
		// What speaking cost meanwhile is taken off, as it cost before.
		quiet := calm.redis.Seconds() / calm.took.Seconds() * storm.took.Seconds()
		entry := (there.redis - begun.redis).Seconds() / float64(n)
		resume := (storm.redis.Seconds() - quiet) / float64(w.countCut())
		w.add(name, "Redis CPU per login and entry", entry*1e6, "µs")
		w.add(name, "Redis CPU per resume", resume*1e6, "µs")
		w.add(name, "… of that of an entry", resume/entry, "×")
	}
	return w.verdict()
}

func (w *reconnecting) countCut() (n int) {
	for _, r := range w.members {
		if r.cut {
			n++
		}
	}
	return n
}

// arrive brings everybody in.
func (w *reconnecting) arrive(ctx context.Context, name string) error {
	var done atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(w.load.Parallel)
	var mu sync.Mutex
	for i, r := range w.members {
		g.Go(func() error {
			client, err := w.access.dial(gctx, w.loops[i%len(w.loops)], w.urls[r.gate], r.user)
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
			w.progress.status("%s: %d of %d clients are in", name, done.Add(1), len(w.members))
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
func (w *reconnecting) cutAndBack(ctx context.Context, name string) error {
	for _, r := range w.members {
		if r.cut {
			r.client.hangUp()
		}
	}
	var done atomic.Int64
	total := w.countCut()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(w.load.Parallel)
	var mu sync.Mutex
	for i, r := range w.members {
		if !r.cut {
			continue
		}
		g.Go(func() error {
			old := r.client.loop
			old.mu.Lock()
			at := protocol.ResumeRoom{RoomID: r.room, Position: protocol.Position{Epoch: r.epoch, Seq: r.seq}}
			old.mu.Unlock()
			gate := (r.gate + i) % len(w.urls) // half of them elsewhere
			client, err := w.access.dial(gctx, w.loops[i%len(w.loops)], w.urls[gate], r.user)
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
			w.progress.status("%s: %d of %d are back", name, done.Add(1), total)
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
		if !r.cut {
			l.record(at.Sub(w.began) - s.due)
		}
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
		if sent := w.sent[r.inRoom].Load(); r != w.senders[r.inRoom] && r.next != sent {
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
