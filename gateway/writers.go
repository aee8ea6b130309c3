package gateway

import (
	"bytes"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/roomgate/roomgate/internal/nonblock"
)

// writers write to the sockets of a gateway. Sockets with something to write
// stand in one line, and as many goroutines as there are processors go along it:
// so that what a thousand members hear does not start a thousand goroutines, and
// so that, when there is more to do than can be done, each socket's next turn
// takes all that has gathered until then. A socket that does not take all at
// once goes on with a goroutine of its own, and holds nobody up.
//
// A goroutine ends when the line does.
type writers struct {
	mu      sync.Mutex
	line    []*socket // from head on
	head    int
	working int
	later   []*socket // that have something to write, which may wait
}

// most is how many write at a time.
var most = runtime.GOMAXPROCS(0)

const (
	// gathered is how many bytes of several frames go out in one system call.
	gathered = 32 << 10
	// turns is how many sockets a writer takes from the line at a time.
	turns = 16
)

// buffersOut are for frames that go out together.
var buffersOut = sync.Pool{New: func() any { b := make([]byte, 0, gathered); return &b }}

// add puts a socket in line. It is not in it yet.
func (w *writers) add(s *socket) {
	w.mu.Lock()
	if len(w.line) == cap(w.line) && w.head >= len(w.line)/2 {
		n := copy(w.line, w.line[w.head:])
		clear(w.line[n:])
		w.line, w.head = w.line[:n], 0
	}
	w.line = append(w.line, s)
	more := w.working < most
	if more {
		w.working++
	}
	w.mu.Unlock()
	if more {
		go w.work()
	}
}

// soon is how long something waits at most.
const soon = 50 * time.Millisecond

// addLater has a socket written to soon, if it has not been by then. There is one timer
// for all: to set one wakes a thread of a gateway that is at rest.
func (w *writers) addLater(s *socket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.later = append(w.later, s); len(w.later) == 1 {
		time.AfterFunc(soon, func() {
			w.mu.Lock()
			all := w.later
			w.later = nil
			w.mu.Unlock()
			for _, s := range all {
				s.hurry()
			}
		})
	}
}

// work serves the line until it is empty.
func (w *writers) work() {
	buf := buffersOut.Get().(*[]byte)
	defer buffersOut.Put(buf)
	var t turn
	t.do = t.write
	var mine [turns]*socket
	for {
		w.mu.Lock()
		n := copy(mine[:], w.line[w.head:])
		clear(w.line[w.head : w.head+n])
		if w.head += n; w.head == len(w.line) {
			w.line, w.head = w.line[:0], 0
		}
		if n == 0 {
			if w.working--; cap(w.line) > 1024 {
				w.line = nil // a gateway at rest holds no memory for a burst
			}
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		for _, s := range mine[:n] {
			w.serve(s, &t, *buf)
		}
	}
}

// serve gives a socket its turn.
func (w *writers) serve(s *socket, t *turn, buf []byte) {
	t.out = s.next(buf)
	if len(t.out) > 0 {
		err := s.raw.Write(t.do)
		if err == nil && t.err != syscall.EAGAIN {
			err = t.err
		}
		if err != nil {
			s.fail(err)
		} else if len(t.out) > 0 {
			go s.write(bytes.Clone(t.out)) // it may be in buf
			return
		}
		t.out = nil
	}
	if s.more() {
		w.add(s)
	}
}

// turn is one write that does not wait.
type turn struct {
	out []byte // what is left to be written
	err error
	do  func(fd uintptr) bool
}

func (t *turn) write(fd uintptr) bool {
	var n int
	n, t.err = nonblock.Write(fd, t.out)
	if n > 0 {
		t.out = t.out[n:]
	}
	return true
}
