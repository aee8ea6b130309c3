package gateway

import (
	"slices"
	"sync"
	"time"

	"github.com/roomgate/roomgate/roomstore"
)

// tasks runs the requests of one connection: those about one room one after
// another in the order they were read, those about different rooms side by
// side. A task that names no room waits for all before it, and all behind it
// wait for it.
//
// add and the tails belong to whoever reads from the connection; running may be
// waited for by anybody.
type tasks struct {
	running sync.WaitGroup
	tails   []tail        // one a room; few, so that a map would only be larger
	barrier chan struct{} // end of the last task that named none
}

// tail is the end of the last task about a room.
type tail struct {
	room roomstore.RoomID
	done chan struct{}
}

// add gives a task its place, and the task, which has to be run once, beside those
// before it: it waits for its turn and then calls do, with late set if that took
// longer than patience. What do returns, if anything, is run behind it, and not
// before its turn has come. What comes behind both waits for its turn all the
// same.
func (t *tasks) add(rooms []roomstore.RoomID, patience time.Duration, do func(late bool) (rest func())) (task func()) {
	done := make(chan struct{})
	var before []chan struct{}
	if t.barrier != nil {
		before = append(before, t.barrier)
	}
	if len(rooms) == 0 {
		for _, tail := range t.tails {
			before = append(before, tail.done)
		}
		t.tails, t.barrier = nil, done
	}
	for _, room := range rooms {
		i := slices.IndexFunc(t.tails, func(tail tail) bool { return tail.room == room })
		switch {
		case i < 0:
			t.tails = append(t.tails, tail{room, done})
		case t.tails[i].done != done:
			before = append(before, t.tails[i].done)
			t.tails[i].done = done
		}
	}
	t.running.Add(1)
	return func() {
		defer t.running.Done()
		defer close(done)
		late := false
		for _, b := range before {
			select {
			case <-b:
				continue
			default:
			}
			if patience > 0 {
				deadline := time.NewTimer(patience)
				select {
				case <-b:
				case <-deadline.C:
					late = true
				}
				deadline.Stop()
			}
			if late {
				break
			}
		}
		rest := do(late)
		for _, b := range before {
			<-b
		}
		if rest != nil {
			rest()
		}
	}
}

// tidy forgets tasks that have ended.
func (t *tasks) tidy() {
	t.tails = slices.DeleteFunc(t.tails, func(tail tail) bool {
		select {
		case <-tail.done:
			return true
		default:
			return false
		}
	})
	if t.barrier != nil {
		select {
		case <-t.barrier:
			t.barrier = nil
		default:
		}
	}
	if len(t.tails) == 0 {
		t.tails = nil
	}
}
