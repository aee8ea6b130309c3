//go:build !linux

package main

import "net"

// poll is what a loop has of the system where there is no epoll: nothing.
type poll struct{}

func startLoop(lost func(*conn, error)) (*loop, error) {
	return &loop{lost: lost, tally: tally{times: newTimes()}}, nil
}

// stop waits for the readers. The clients have been hung up.
func (l *loop) stop() { l.followers.Wait() }

// add reads for a client until its connection ends.
func (l *loop) add(c *conn, nc *net.TCPConn) error {
	l.follow(c, nc, nc)
	return nil
}
