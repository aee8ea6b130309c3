package main

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A loop reads for many clients: one goroutine, one buffer, and on Linux one
// system call for all that have something to read. The generator shares the
// machine with the servers, and must be the lightest of them.
//
// What its clients hear is handled in the loop, under its lock.
type loop struct {
	mu   sync.Mutex
	lost func(*conn, error) // called when a client is lost; set at the start
	poll poll               // the system's side of it

	tally // guarded by mu
}

// tally is what the clients of a loop have counted.
type tally struct {
	events   int64 // of rooms, of any kind
	messages int64
	results  int64                   // of requests sent by ask
	times    *hdrhistogram.Histogram // µs since what is timed was due
}

// Times go from a microsecond to ten minutes.
func newTimes() *hdrhistogram.Histogram { return hdrhistogram.New(1, 600_000_000, 3) }

// record notes how long after it was due something came.
func (t *tally) record(d time.Duration) {
	t.times.RecordValue(min(max(d.Microseconds(), 1), 600_000_000))
}
