package gateway

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomgate/roomgate/roomstore"
)

// diary notes what happens, in order.
type diary struct {
	mu  sync.Mutex
	got []string
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.got = append(d.got, fmt.Sprintf(format, args...))
}

func (d *diary) expect(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.got, want) {
		t.Errorf("got %v, want %v", d.got, want)
	}
}

func rooms(s string) []roomstore.RoomID {
	var ids []roomstore.RoomID
	for r := range strings.FieldsSeq(s) {
		ids = append(ids, roomstore.RoomID(r))
	}
	return ids
}

// Tasks about one room run in the order they were added, those about others
// beside them; one that names no room comes after all and before all.
func TestTasks_order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ts tasks
		var d diary
		began := time.Now()
		add := func(name, about string, takes time.Duration) {
			go ts.add(rooms(about), time.Hour, func(late bool) func() {
				d.note("%s %v", name, int(time.Since(began).Seconds()))
				if late {
					t.Errorf("%s is late", name)
				}
				time.Sleep(takes * time.Second)
				return nil
			})()
			synctest.Wait() // those that begin at once begin in this order
		}
		add("a1", "A", 3)
		add("b1", "B", 1)
		add("a2", "A", 1)
		add("b2", "B", 1)
		add("ab", "A B", 1)
		add("all", "", 5)
		add("a3", "A", 1)
		add("c1", "C", 1)
		ts.running.Wait()
		ts.tidy()
		d.mu.Lock()
		slices.Sort(d.got[len(d.got)-2:]) // at the same time
		d.mu.Unlock()
		d.expect(t, "a1 0", "b1 0", "b2 1", "a2 3", "ab 4", "all 5", "a3 10", "c1 10")
		if ts.tails != nil || ts.barrier != nil {
			t.Error("tasks that have ended are remembered")
		}
		add("again", "A A", 0) // a room named twice is one
		ts.running.Wait()
	})
}

// A task whose turn does not come in time is told so, once; what it leaves to
// do, and what is behind it, still wait for what is before it.
func TestTasks_late(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ts tasks
		var d diary
		began := time.Now()
		add := func(name, about string, takes time.Duration) {
			go ts.add(rooms(about), 2*time.Second, func(late bool) func() {
				d.note("%s %v %v", name, late, time.Since(began))
				time.Sleep(takes)
				if !late {
					return nil
				}
				return func() { d.note("rest of %s %v", name, time.Since(began)) }
			})()
			synctest.Wait()
		}
		add("slow", "A", 5*time.Second)
		add("late", "A", 0)
		time.Sleep(4 * time.Second)
		add("behind", "A", 0)
		add("all", "", 0)
		ts.running.Wait()
		d.mu.Lock()
		slices.Sort(d.got)
		d.mu.Unlock()
		d.expect(t, "all false 5s", "behind false 5s", "late true 2s", "rest of late 5s", "slow false 0s")
	})
}
