package gateway

import (
	"sync"
	"testing"
	"testing/synctest"
)

// Every job runs, however many there are at once; those whose jobs are over take
// the next ones, only so many of them wait for that, and none is left after stop.
func TestWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // ends when no goroutine is left
		const many = 2 * idleWorkers
		var w workers
		var done sync.WaitGroup
		release := make(chan struct{})
		for range many {
			done.Add(1)
			w.do(func() { <-release; done.Done() })
		}
		close(release) // none has ended before all have begun
		done.Wait()
		synctest.Wait()
		if got := len(w.idle); got != idleWorkers {
			t.Errorf("%d workers wait after %d jobs at once, want %d", got, many, idleWorkers)
		}
		before := w.idle[len(w.idle)-1]
		for range many { // one after another
			done.Add(1)
			w.do(done.Done)
			done.Wait()
			synctest.Wait()
		}
		if got := len(w.idle); got != idleWorkers || w.idle[got-1] != before {
			t.Errorf("%d workers wait after single jobs, want the same %d", got, idleWorkers)
		}
		w.trim()
		w.do(func() {})
		w.do(func() {})
		synctest.Wait()
		w.trim() // two at most were needed since
		if got := len(w.idle); got < 1 || got > 2 {
			t.Errorf("%d workers wait after a while of few jobs", got)
		}
		w.trim()
		w.trim()
		synctest.Wait()
		if got := len(w.idle); got != 0 {
			t.Errorf("%d workers wait after a while without jobs", got)
		}
		release = make(chan struct{})
		w.do(func() { <-release })
		go close(release)
		w.stop() // waits for the job
		select {
		case <-release:
		default:
			t.Error("stop has not waited for the job under way")
		}
		late := make(chan struct{})
		w.do(func() { close(late) })
		<-late // who comes after the end is served
	})
}
