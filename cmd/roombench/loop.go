package main

import (
	"net"
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

	followers sync.WaitGroup // goroutines that read for one client each

	tally // guarded by mu
}

// tally is what the clients of a loop have counted.
type tally struct {
	events   int64 // of rooms, of any kind
	messages int64
	results  int64                   // of requests sent by ask
	times    *hdrhistogram.Histogram // µs since what is timed was due
}

// An end is the system's side of a client.
type end interface {
	// write sends all of b. The caller holds conn.writing.
	write(b []byte) error
	// close hangs up, once. The caller holds loop.mu.
	close()
}

// A stream is an end for which a goroutine reads: TLS over a socket, or a socket where a
// loop has nothing better.
type stream struct {
	net.Conn
	socket *net.TCPConn
}

func (s stream) write(b []byte) error {
	s.socket.SetWriteDeadline(time.Now().Add(patience))
	_, err := s.Write(b)
	return err
}

// close does without the goodbye of TLS, which would wait for a server that does not read.
func (s stream) close() { s.socket.Close() }

// follow reads for a client in a goroutine of its own, until its connection ends.
func (l *loop) follow(c *conn, nc net.Conn, socket *net.TCPConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.end = stream{nc, socket}
	if early := c.rest; len(early) > 0 {
		c.rest = nil
		c.feed(early, time.Now())
	}
	l.followers.Go(func() {
		buf := make([]byte, 4<<10)
		for {
			n, err := nc.Read(buf)
			l.mu.Lock()
			if n > 0 {
				c.feed(buf[:n], time.Now())
			}
			if err != nil {
				c.fail(err)
			}
			l.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
}

// Times go from a microsecond to ten minutes.
func newTimes() *hdrhistogram.Histogram { return hdrhistogram.New(1, 600_000_000, 3) }

// record notes how long after it was due something came.
func (t *tally) record(d time.Duration) {
	t.times.RecordValue(min(max(d.Microseconds(), 1), 600_000_000))
}
