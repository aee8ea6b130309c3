package gateway

// This file is how a feed makes good what its subscription did not bring.

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// arm starts the wait for what is missing, unless one is under way.
func (f *feed) arm() {
	if !f.armed && !f.filling && !f.stopped {
		f.armed, f.armedAt = true, f.at
		f.timer.Reset(f.hub.patience)
	}
}

// late is called when patience has run out.
func (f *feed) late() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = false
	switch {
	case f.noRoom:
		f.lastWords(protocol.RoomNotExist)
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
	f.confirm()
	switch {
	case f.at.Epoch == 0:
		f.seen = head // for those who are entering
	case f.filling:
		f.again = true // the answer may be from before
	case head.Epoch != f.at.Epoch || head.Seq > f.at.Seq:
		f.fill()
	}
	if f.filling {
		f.hub.lags(f, true)
	}
}

// look fetches what the store has and the feed has not, now.
func (f *feed) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.at.Epoch == 0:
	case f.filling:
		f.again = true // the answer may be from before
	default:
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
	after, later := f.at, f.at.Epoch
	for _, e := range f.early {
		later = max(later, e.Epoch)
	}
	began := time.Now()
	f.hub.background(func(ctx context.Context) {
		backoff := 20 * time.Millisecond
		for {
			call, cancel := context.WithTimeout(ctx, f.hub.wait)
			h, err := f.hub.store.Catchup(call, f.room, after)
			cancel()
			if err == nil || roomstore.Refused(err) {
				f.filled(after, later, h, err)
				return
			}
			f.mu.Lock()
			if time.Since(began) > f.hub.wait {
				f.release(func(waiter) bool { return true })
			}
			wanted := !f.stopped && (len(f.members) > 0 || len(f.waiting) > 0 || len(f.watchers) > 0)
			if !wanted {
				f.reset()
				f.filling = false
				f.hub.lags(f, false)
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

// filled takes in what the store knew; later is the last epoch that was heard of
// before it was asked.
func (f *feed) filled(after roomstore.Position, later int64, h roomstore.History, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filling = false
	switch {
	case f.at != after:
		// A new life began meanwhile; what is early belongs to it.
	case errors.Is(err, roomstore.ErrEpoch) && h.Life.Lineage.Has(f.at.Epoch):
		f.moveOn(h.Life, protocol.RoomNotExist)
	case errors.Is(err, roomstore.ErrNoRoom), errors.Is(err, roomstore.ErrEpoch):
		f.ending()
	case err != nil:
		f.hub.log.Error("missing events could not be read", "room", f.room, "err", err)
		f.release(func(waiter) bool { return true })
	default:
		// If it knows nothing of a later epoch by now, that was lost.
		f.early = slices.DeleteFunc(f.early, func(e roomstore.Event) bool { return e.Epoch > f.at.Epoch && e.Epoch <= later })
		f.catchUp(h)
	}
	f.catchEarly()
	f.release(f.passed)
	// Redis may have lost what they wait for, and never get there.
	f.release(func(w waiter) bool { return time.Since(w.since) > f.hub.wait })
	again := f.again || h.Life.Epoch == f.at.Epoch && h.Life.Seq > f.at.Seq
	f.again = false
	switch {
	case f.at.Epoch == 0:
	case again:
		f.fill()
	case len(f.waiting) > 0:
		f.arm() // it was not, while the store was asked
	}
	if !f.filling {
		f.hub.lags(f, false)
	}
}

// catchUp hands on the events of a history. Where some are missing for good,
// the members are told so, and those behind the last one missing are handed on.
func (f *feed) catchUp(h roomstore.History) {
	events := h.Events
	if !h.Complete {
		lost, known := lastMissing(events, f.at.Seq, h.Seq)
		for _, e := range events[:len(events)-len(known)] {
			switch e.Kind {
			case roomstore.KindLeft:
				f.depart(e.Origin, e)
			case roomstore.KindMoved:
				f.depart(e.Old, e)
			}
		}
		f.lose(lost)
		events = known
		if f.at.Epoch == h.Epoch {
			f.attributes, f.described, f.describedAt = h.Attributes, true, h.Seq
		}
		f.release(f.passed) // nothing that is known may overtake them
		f.doubtMembers()
	}
	for _, e := range events {
		if f.at.Epoch == h.Epoch && e.Seq == f.at.Seq+1 {
			f.pass(e)
		}
	}
}

// lose tells the members that what is missing up to a seq is lost for good.
func (f *feed) lose(to int64) {
	f.tellMembers()
	f.hub.stats.HistoryLost.Add(1)
	f.hub.log.Warn("events were lost for good", "room", f.room, "count", to-f.at.Seq)
	f.showLost(to)
	b := historyLost(f.room, f.at.Seq, to)
	for _, m := range f.members {
		if m.from < to {
			m.s.event(b, classKept, f.room)
		}
	}
	f.at.Seq, f.ring = to, nil
}

// ending is told that the room's life is over, according to the store. Its last
// events, which say so, may be on their way.
func (f *feed) ending() {
	switch {
	case len(f.members) == 0 && len(f.waiting) == 0 && len(f.watchers) == 0:
		f.over(protocol.RoomNotExist)
	case !f.noRoom:
		f.noRoom, f.armed = true, true
		f.timer.Reset(f.hub.wait / 2)
	}
}

// goesOn takes back that the room's life may be over.
func (f *feed) goesOn() {
	if f.noRoom {
		f.timer.Stop()
		f.noRoom, f.armed = false, false
	}
}

// lastWords ends the room's life here, and says so if some of its events have not
// come: they are gone with the room. What has come behind them is not handed on,
// since who was still a member then cannot be found out any more.
func (f *feed) lastWords(event protocol.RoomEvent) {
	epoch := f.at.Epoch
	f.passEarly()
	if f.at.Epoch != epoch {
		return // its end was among what had come
	}
	last := f.at.Seq
	for _, e := range f.early {
		switch {
		case e.Epoch != f.at.Epoch:
		case e.Kind == roomstore.KindDestroyed:
			last = max(last, e.Seq-1)
		default:
			last = max(last, e.Seq)
		}
	}
	for _, w := range f.waiting {
		switch {
		case w.at.Epoch != f.at.Epoch:
		case w.out: // that it is out it hears in any case
			last = max(last, w.at.Seq-1)
		default:
			last = max(last, w.at.Seq)
		}
	}
	if last > f.at.Seq {
		f.lose(last)
	}
	f.over(event)
}

// passEarly hands on what waited for the store's answer only: nothing before it is
// missing.
func (f *feed) passEarly() {
	for {
		i := slices.IndexFunc(f.early, func(e roomstore.Event) bool {
			return e.Epoch == f.at.Epoch && e.Kind == roomstore.KindCommand && e.Seq == f.at.Seq
		})
		if i < 0 {
			i = slices.IndexFunc(f.early, func(e roomstore.Event) bool {
				return e.Epoch == f.at.Epoch && e.Kind != roomstore.KindCommand && e.Seq == f.at.Seq+1
			})
		}
		if i < 0 {
			return
		}
		e := f.early[i]
		f.early = slices.Delete(f.early, i, i+1)
		f.pass(e)
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
			absent := f.absent(ctx, batch)
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

// absent gives those of the sessions that are not in the room, as soon as the
// store says so.
func (f *feed) absent(ctx context.Context, sessions []roomstore.Session) []roomstore.Session {
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		call, cancel := context.WithTimeout(ctx, f.hub.wait)
		absent, err := f.hub.store.Absent(call, f.room, sessions)
		cancel()
		if err == nil {
			return absent
		}
		if roomstore.Refused(err) {
			return sessions // they find out, too
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
	}
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
