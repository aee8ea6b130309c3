package gateway

import (
	"context"
	"slices"
	"sync"
	"time"
)

// workers run jobs beside their callers. A goroutine begins with a small stack,
// and to let it grow to what a request needs costs as much as all that the
// gateway does for one: so goroutines that have grown wait for the next job.
type workers struct {
	running sync.WaitGroup

	mu      sync.Mutex
	idle    []chan func() // of those that wait; the last one begins
	spare   int           // how many have waited all the time since trim
	stopped bool
}

// idleWorkers is how many wait for a job at most.
const idleWorkers = 256

// do runs a job.
func (w *workers) do(job func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		go job() // nobody waits for it here
		return
	}
	last := len(w.idle) - 1
	if last < 0 {
		w.running.Go(func() { w.work(job) })
		return
	}
	w.idle[last] <- job // its worker waits: that does not block
	w.idle = w.idle[:last]
	w.spare = min(w.spare, last)
}

// trimEvery is how long a worker waits for a job at least, and at most twice as long.
const trimEvery = 5 * time.Second

// run lets workers go that are not needed, until ctx is done.
func (w *workers) run(ctx context.Context) error {
	t := time.NewTicker(trimEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			w.trim()
		}
	}
}

// trim ends those who have not been needed since it was last called: a gateway at
// rest has none.
func (w *workers) trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, jobs := range w.idle[:w.spare] {
		close(jobs)
	}
	w.idle = slices.Delete(w.idle, 0, w.spare)
	w.spare = len(w.idle)
}

// work runs one job after another, until there are workers enough without it or
// the gateway stops.
func (w *workers) work(job func()) {
	jobs := make(chan func(), 1)
	for job != nil {
		job()
		job = nil
		w.mu.Lock()
		wait := len(w.idle) < idleWorkers && !w.stopped
		if wait {
			w.idle = append(w.idle, jobs)
		}
		w.mu.Unlock()
		if wait {
			job = <-jobs
		}
	}
}

// stop ends the workers when their jobs are over, and waits for them.
func (w *workers) stop() {
	w.mu.Lock()
	w.stopped = true
	for _, jobs := range w.idle {
		close(jobs)
	}
	w.idle, w.spare = nil, 0
	w.mu.Unlock()
	w.running.Wait()
}
