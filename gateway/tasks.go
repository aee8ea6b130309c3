package gateway

import (
	"sync"
	"time"

	"github.com/roomgate/roomgate/roomstore"
)

// tasks runs the requests of one connection: those about one room one after
// another in the order they were read, those about different rooms side by
// side. A task that names no room waits for all before it, and all behind it
// wait for it.
//
// The goroutine of a task ends when its turn has come and it has run. add and
// the tails belong to the connection's reader; wait may be called by anybody.
type tasks struct {
	running sync.WaitGroup
	tails   map[roomstore.RoomID]chan struct{} // end of the last task about a room
	barrier chan struct{}                      // end of the last task that named none
}

// add runs do when its turn comes; with late set if that took longer than
// patience. What do returns, if anything, is run behind it, and not before its
// turn has come. What comes behind both waits for its turn all the same.
func (t *tasks) add(rooms []roomstore.RoomID, patience time.Duration, do func(late bool) (rest func())) {
	done := make(chan struct{})
	var before []chan struct{}
	if t.barrier != nil {
		before = append(before, t.barrier)
	}
	if len(rooms) == 0 {
		for _, tail := range t.tails {
			before = append(before, tail)
		}
		clear(t.tails)
		t.barrier = done
	} else if t.tails == nil {
		t.tails = make(map[roomstore.RoomID]chan struct{}, 2)
	}
	for _, room := range rooms {
		if tail := t.tails[room]; tail != nil && tail != done {
			before = append(before, tail)
		}
		t.tails[room] = done
	}
	t.running.Go(func() {
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
	})
}

// tidy forgets tasks that have ended. It is called by the reader.
func (t *tasks) tidy() {
	for room, tail := range t.tails {
		select {
		case <-tail:
			delete(t.tails, room)
		default:
		}
	}
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
