package roomstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/roomgate/roomgate/lua"
)

// Where hash slots lie apart no script sees the rooms of all partitions. Their number
// is bounded by places, which are given in the slot of partition 0: a room begins only
// with one. docs/cluster.md has the sequence, and says who gives a place back that is
// not used or not used any more.

const (
	// admitTries is how often a room is admitted anew: others have created and ended it
	// meanwhile, or places have become free.
	admitTries = 16
	// admissionBatch is how many rooms are seen to at once.
	admissionBatch = 100
	// tallyBatch is how many rooms one call of a count lists.
	tallyBatch = 500
)

// places is what a store keeps so that of many who create rooms at once not each has to
// find out the same.
type places struct {
	counts []counting  // by partition
	all    single      // counts of all partitions that lack one
	looks  single      // for places to give back
	found  atomic.Bool // whether the last look that succeeded found any
}

func newPlaces(partitions int) *places {
	p := &places{
		counts: make([]counting, partitions), all: single{turn: make(chan struct{}, 1)}, looks: single{turn: make(chan struct{}, 1)},
	}
	for i := range p.counts {
		p.counts[i].turn = make(chan struct{}, 1)
	}
	return p
}

// A counting is how far this store has come with a count of a partition's rooms. What
// is cut off goes on from there, whoever needs it next.
type counting struct {
	turn   chan struct{} // holds one while somebody counts, who owns the rest
	number int64         // of the count
	cursor string        // up to which its rooms have places
	done   bool
}

// A single is what one caller does at a time, for all who wait for it.
type single struct {
	turn chan struct{} // holds one while it is done

	mu          sync.Mutex
	began, done int // which was the last to begin, and to succeed
}

// do calls f, unless another call that began later than do has succeeded. If that
// fails, or its caller leaves, it is the next one's turn.
func (s *single) do(ctx context.Context, f func() error) error {
	s.mu.Lock()
	asked := s.began
	s.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	if s.done > asked {
		s.mu.Unlock()
		return nil
	}
	s.began++
	began := s.began
	s.mu.Unlock()
	err := f()
	if err == nil {
		s.mu.Lock()
		s.done = began
		s.mu.Unlock()
	}
	return err
}

// A placed room is one that has been admitted, under a ticket.
type placedRoom struct {
	room   RoomID
	ticket int64
}

// admits says whether rooms need a place to begin.
func (s *Store) admits() bool { return s.cfg.Apart && s.cfg.Partitions > 1 && s.cfg.MaxRooms > 0 }

// admitted calls an entry into a room with a place for it, if it comes to that the
// room is created. What is refused gives that back.
func (s *Store) admitted(ctx context.Context, room RoomID, enter func(admission string) (*reply, error)) (*reply, error) {
	r, err := enter("")
	var shown, ticket int64
	for range admitTries {
		if !errors.Is(err, errUnadmitted) {
			break
		}
		number, barred := r.int(), r.int()
		if err := r.done(); err != nil {
			return nil, opErr("enter", string(room), err)
		}
		if number < shown || number == 0 {
			// There is a room of which the last count did not know.
			if err := s.count(ctx, s.keys.partition(room), shown); err != nil {
				return nil, err
			}
		}
		if shown, ticket, err = s.admit(ctx, room, barred); err != nil {
			return nil, err
		}
		r, err = enter(fmt.Sprintf("%d.%d", shown, ticket))
	}
	if shown > 0 && Refused(err) {
		s.lookAfter(ctx, []placedRoom{{room, ticket}})
	}
	if errors.Is(err, errUnadmitted) {
		return nil, opErr("enter", string(room), errors.New("the room is created and ended all the while"))
	}
	return r, err
}

// admit gives a room a place, above a ticket: that and the number of the count that
// it is of. At the limit it gives those back first whose rooms have ended, or never
// came. Of many who are there at once one looks for those.
func (s *Store) admit(ctx context.Context, room RoomID, above int64) (number, ticket int64, err error) {
	nodes, looked := s.keys.part(0), false
	for range admitTries {
		var r *reply
		r, err = s.run(ctx, string(room), string(room), lua.Admit, []string{nodes}, string(room), s.keys.partition(room),
			s.cfg.Partitions, s.cfg.MaxRooms, above)
		switch {
		case err == nil:
			number, ticket = r.int(), r.int()
			return number, ticket, opErr("admit", string(room), r.done())
		case errors.Is(err, errUncounted):
			if err := s.countAll(ctx, r); err != nil {
				return 0, 0, err
			}
			continue
		case !errors.Is(err, ErrRoomLimit) || looked:
			return 0, 0, err
		}
		// That nothing has ended counts only if it was seen before the answer.
		seen := s.places.looks.do(ctx, func() error {
			changed, err := s.seeToAdmissions(ctx)
			if err == nil {
				s.places.found.Store(changed)
			}
			return err
		})
		if seen != nil {
			return 0, 0, opErr("admit", string(room), seen)
		}
		looked = !s.places.found.Load()
	}
	if errors.Is(err, errUncounted) {
		err = opErr("admit", string(room), errors.New("the rooms have to be counted all the while"))
	}
	return 0, 0, err
}

// placedRooms reads the rest of a reply.
func (r *reply) placedRooms() (list []placedRoom) {
	for len(r.fields) > 0 && r.err == nil {
		list = append(list, placedRoom{room: RoomID(r.text()), ticket: r.int()})
	}
	return list
}

// byPartition sorts rooms by what partition they are in.
func (s *Store) byPartition(list []placedRoom) map[int][]placedRoom {
	by := map[int][]placedRoom{}
	for _, a := range list {
		by[s.keys.partition(a.room)] = append(by[s.keys.partition(a.room)], a)
	}
	return by
}

// lookAfter looks whether rooms that have a place are there, and gives the places of
// the others back.
func (s *Store) lookAfter(ctx context.Context, list []placedRoom) error {
	for p, list := range s.byPartition(list) {
		args := []any{len(list)}
		for _, a := range list {
			args = append(args, string(a.room), a.ticket)
		}
		r, err := s.run(ctx, "", "", lua.Bar, []string{s.keys.part(p)}, args...)
		if err != nil {
			return err
		}
		there := make([]bool, len(list))
		for i := range there {
			there[i] = r.text() == "1"
		}
		if err := opErr("bar", "", r.done()); err != nil {
			return err
		}
		if err := s.cameTo(ctx, p, list, func(i int) bool { return there[i] }); err != nil && !errors.Is(err, errUncounted) {
			return err
		}
	}
	return nil
}

// cameTo tells where places are given which of some rooms of a partition are there. It
// fails with errUncounted if those are being counted, and nothing was changed.
func (s *Store) cameTo(ctx context.Context, p int, list []placedRoom, there func(i int) bool) error {
	args := []any{p, len(list)}
	for i, a := range list {
		exists := "0"
		if there(i) {
			exists = "1"
		}
		args = append(args, string(a.room), a.ticket, exists)
	}
	_, err := s.run(ctx, "", "", lua.Admitted, []string{s.keys.part(0)}, args...)
	return err
}

// countOut gives the places of rooms of a partition back that have ended, and says how
// many those were. It gives the number of the count of its rooms as well, 0 for none.
func (s *Store) countOut(ctx context.Context, p int) (number int64, ended int, err error) {
	var done []placedRoom
	for range admitTries {
		args := []any{admissionBatch, len(done)}
		for _, a := range done {
			args = append(args, string(a.room), a.ticket)
		}
		r, err := s.run(ctx, "", "", lua.Ended, []string{s.keys.part(p)}, args...)
		if err != nil {
			return 0, 0, err
		}
		number = r.int()
		done = r.placedRooms()
		if err := opErr("ended", "", r.done()); err != nil {
			return 0, 0, err
		}
		if len(done) == 0 {
			break
		}
		if err := s.cameTo(ctx, p, done, func(int) bool { return false }); err != nil {
			if errors.Is(err, errUncounted) {
				err = nil // they wait until that is over
			}
			return number, ended + len(done), err
		}
		ended += len(done)
	}
	return number, ended, nil
}

// countAll counts the rooms of partitions that a reply names, or waits until another
// has: then they are to be asked for again.
func (s *Store) countAll(ctx context.Context, r *reply) error {
	var partitions []int
	for _, text := range r.fields {
		p, err := strconv.Atoi(text)
		if err != nil || p < 0 || p >= s.cfg.Partitions {
			return opErr("admit", "", fmt.Errorf("%w: partition %q", ErrBadReply, text))
		}
		partitions = append(partitions, p)
	}
	err := s.places.all.do(ctx, func() error {
		var work sync.WaitGroup
		errs := make([]error, len(partitions))
		for i, p := range partitions {
			work.Go(func() { errs[i] = s.count(ctx, p, 0) })
		}
		work.Wait()
		return errors.Join(errs...)
	})
	return opErr("admit", "", err)
}

// count counts the rooms of a partition, so that each has a place, and nothing else
// has. It does nothing if there has been a count above a number. One that is cut off
// goes on where it was; several stores may be at it at once, each from the beginning.
func (s *Store) count(ctx context.Context, p int, above int64) error {
	on := "partition " + strconv.Itoa(p)
	c := &s.places.counts[p]
	floor := above
	for {
		r, err := s.run(ctx, on, on, lua.Census, []string{s.keys.part(0)}, p, above, floor)
		if err != nil || r.status == "again" {
			return err
		}
		number := r.int()
		if err := opErr("census", on, r.done()); err != nil {
			return err
		}
		select {
		case c.turn <- struct{}{}:
		case <-ctx.Done():
			return opErr("census", on, context.Cause(ctx))
		}
		late, err := s.goOnCounting(ctx, c, p, number)
		<-c.turn
		if err != nil || late == 0 {
			return err
		}
		above, floor = number, late // one that others have begun since is as good
	}
}

// goOnCounting does what is left of a count of a partition's rooms. If there has to be a
// later one it gives what the number of that has to be above, else 0.
func (s *Store) goOnCounting(ctx context.Context, c *counting, p int, number int64) (late int64, err error) {
	on := "partition " + strconv.Itoa(p)
	nodes, part := []string{s.keys.part(0)}, []string{s.keys.part(p)}
	if c.number != number {
		c.number, c.cursor, c.done = number, "", false
	}
	for !c.done {
		r, err := s.run(ctx, on, on, lua.Tally, part, number, c.cursor, s.tallyBatch)
		if errors.Is(err, ErrLate) {
			late := r.int()
			return late, opErr("tally", on, r.done())
		}
		if err != nil {
			return 0, err
		}
		cursor := r.text()
		rooms := r.placedRooms()
		if r.err != nil {
			return 0, opErr("tally", on, r.err)
		}
		last := "0"
		if cursor == "" {
			last = "1"
		}
		args := []any{p, number, s.cfg.Partitions, last, s.tallyBatch, len(rooms)}
		for _, a := range rooms {
			args = append(args, string(a.room), a.ticket)
		}
		for more := true; more; args = append(args[:5:5], 0) {
			r, err := s.run(ctx, on, on, lua.Register, nodes, args...)
			if errors.Is(err, ErrLate) {
				return 0, nil // another has ended it, or begun a later one
			}
			if err != nil {
				return 0, err
			}
			more = r.text() == "1"
		}
		c.cursor, c.done = cursor, cursor == ""
	}
	return 0, nil
}

// seeToAdmissions gives places back that were not used, or are not any more, and
// counts the rooms of partitions where that has to be. It says whether there was
// anything to do.
func (s *Store) seeToAdmissions(ctx context.Context) (changed bool, err error) {
	r, err := s.run(ctx, "", "", lua.Admissions, []string{s.keys.part(0)}, s.cfg.Partitions, ms(finishAfter), admissionBatch)
	if err != nil {
		return false, err
	}
	numbers := make([]int64, s.cfg.Partitions)
	for p := range numbers {
		numbers[p] = r.int()
	}
	overdue := r.placedRooms()
	if r.err != nil {
		return false, opErr("admissions", "", r.err)
	}
	did := make([]bool, s.cfg.Partitions)
	err = s.everywhere(s.keys.parts(), func(p int, _ string) error {
		number, ended, err := s.countOut(ctx, p)
		did[p] = ended > 0
		if err == nil && (number == 0 || number != numbers[p]) {
			did[p], err = true, s.count(ctx, p, numbers[p])
		}
		return err
	})
	return len(overdue) > 0 || slices.Contains(did, true), errors.Join(err, s.lookAfter(ctx, overdue))
}
