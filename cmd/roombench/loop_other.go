//go:build !linux

package main

import (
	"net"
	"sync"
	"time"
)

// poll is what a loop has of the system where there is no epoll: a goroutine
// for each client.
type poll struct{ readers sync.WaitGroup }

// end is a client's side.
type end struct{ *net.TCPConn }

func startLoop(lost func(*conn, error)) (*loop, error) {
	return &loop{lost: lost, tally: tally{times: newTimes()}}, nil
}

// stop waits for the readers. The clients have been hung up.
func (l *loop) stop() { l.poll.readers.Wait() }

// add reads for a client until its connection ends.
func (l *loop) add(c *conn, nc *net.TCPConn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.end.TCPConn = nc
	if early := c.rest; len(early) > 0 {
		c.rest = nil
		c.feed(early, time.Now())
	}
	l.poll.readers.Go(func() {
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
	return nil
}

// remove closes a client's connection.
func (l *loop) remove(c *conn) { c.end.Close() }

// write sends all of b.
func (e *end) write(b []byte) error {
	_, err := e.TCPConn.Write(b)
	return err
}
