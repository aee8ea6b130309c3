package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/roomgate/roomgate/internal/nonblock"
)

// poll is what a loop has of the system: an epoll instance. Its sockets are
// taken from Go's own, which would wake up for each packet, too.
type poll struct {
	fd    int
	conns map[int32]*conn // guarded by loop.mu
	over  atomic.Bool
	done  chan struct{}
}

// A socket is an end that does not block.
type socket struct {
	client *conn
	fd     int
	over   atomic.Bool
}

func startLoop(lost func(*conn, error)) (*loop, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	l := &loop{lost: lost, tally: tally{times: newTimes()}}
	l.poll.fd = fd
	l.poll.conns = map[int32]*conn{}
	l.poll.done = make(chan struct{})
	go l.run()
	return l, nil
}

// stop ends the loop and waits for it. Its clients have been hung up.
func (l *loop) stop() {
	l.followers.Wait()
	l.poll.over.Store(true)
	<-l.poll.done
	syscall.Close(l.poll.fd)
}

// run reads until stop.
func (l *loop) run() {
	defer close(l.poll.done)
	buf := make([]byte, 128<<10)
	ready := make([]syscall.EpollEvent, 256)
	for !l.poll.over.Load() {
		n, err := syscall.EpollWait(l.poll.fd, ready, 100)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // our own descriptor
		}
		if n <= 0 {
			continue
		}
		l.mu.Lock()
		for _, e := range ready[:n] {
			c := l.poll.conns[e.Fd]
			if c == nil {
				continue
			}
			n, err := nonblock.Read(uintptr(e.Fd), buf)
			switch {
			case n > 0:
				c.feed(buf[:n], time.Now())
			case errors.Is(err, syscall.EAGAIN):
			case err != nil:
				c.fail(os.NewSyscallError("read", err))
			default:
				c.fail(io.EOF)
			}
		}
		l.mu.Unlock()
	}
}

// add takes the socket from Go and waits for it.
func (l *loop) add(c *conn, nc *net.TCPConn) error {
	f, err := nc.File()
	nc.Close()
	if err != nil {
		return err
	}
	defer f.Close()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	syscall.CloseOnExec(fd)
	if err := syscall.SetNonblock(fd, true); err != nil {
		syscall.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &socket{client: c, fd: fd}
	c.end = s
	l.poll.conns[int32(fd)] = c
	e := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(fd)}
	if err := syscall.EpollCtl(l.poll.fd, syscall.EPOLL_CTL_ADD, fd, &e); err != nil {
		s.close()
		return os.NewSyscallError("epoll_ctl", err)
	}
	if early := c.rest; len(early) > 0 {
		c.rest = nil
		c.feed(early, time.Now())
	}
	return nil
}

// close hangs up. Whoever writes gives up first, so that no frame goes to who gets the number
// next.
func (s *socket) close() {
	if s.over.Swap(true) {
		return
	}
	delete(s.client.loop.poll.conns, int32(s.fd))
	s.client.writing.Lock()
	defer s.client.writing.Unlock()
	syscall.Close(s.fd)
}

// write sends all of b, for which there is room unless the server has stopped
// reading.
func (s *socket) write(b []byte) error {
	var deadline time.Time
	for len(b) > 0 {
		if s.over.Load() {
			return net.ErrClosed
		}
		n, err := nonblock.Write(uintptr(s.fd), b)
		switch {
		case err == nil:
			b = b[n:]
		case errors.Is(err, syscall.EAGAIN):
			if deadline.IsZero() {
				deadline = time.Now().Add(patience)
			} else if time.Now().After(deadline) {
				return errors.New("the server does not read")
			}
			time.Sleep(100 * time.Microsecond)
		default:
			return os.NewSyscallError("write", err)
		}
	}
	return nil
}
