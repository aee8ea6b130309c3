package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/roomgate/roomgate/internal/nonblock"
)

// A class says what may be done with a frame that a slow client has no room
// for.
type class uint8

const (
	classKept  class = iota // must arrive
	classPull               // must arrive, and was asked for: does not count against the bound
	classShed1              // may be dropped, low priority first
	classShed2
	classShed3
)

func shedClass(p int) class {
	return classShed1 + class(min(max(p, 1), 3)-1)
}

// errSlow means that a client reads more slowly than its rooms speak.
var errSlow = errors.New("more is waiting for the client than a connection may hold")

// frame is one WebSocket frame, ready to be written, shared by all who get it.
type frame struct {
	bytes []byte
	class class
}

// socket is the connection under a WebSocket. It gathers frames: all that is
// queued goes out in one system call. The WebSocket library above writes only
// control frames through it, each with one Write; messages come framed by
// Queue, so no frame is ever inside another. A close frame is the last.
//
// Somebody writes while there is something to write (see writers), and nobody
// waits when there is not.
type socket struct {
	net.Conn
	raw   syscall.RawConn // of Conn; nil if it has none
	out   *writers        // who write; nil for a goroutine of its own
	bound int             // of the bytes queued
	start time.Time

	in    sync.Mutex // held while bytes are read: a close handshake reads, too
	got   *[]byte    // from a pool: what has come and not been read yet is in it; guarded by in
	early []byte     // that part of got; guarded by in
	left  int64      // bytes to be read of the frame that is being read; guarded by in

	heard atomic.Int64 // when bytes last came, in ns since start
	since atomic.Int64 // when the write under way began, likewise; 0: none is

	mu      sync.Mutex
	moved   sync.Cond // on mu: signalled when frames leave the queue, and when writing ends
	queue   []frame
	size    int  // bytes of the queue and of held that count
	pulled  int  // bytes of the queue that do not
	writing bool // somebody writes, or is about to
	over    bool // no more messages, only control frames
	last    bool // a close frame was queued
	later   bool // out has it among those that wait; see QueueSoon
	err     error
	holding int         // events wait for the answers to as many batches
	waiting []string    // rooms whose events wait, each for the answer to a request
	held    []heldFrame // those that do
}

type heldFrame struct {
	frame
	room string
}

func newSocket(c net.Conn, bound int) *socket {
	s := &socket{Conn: c, bound: bound, start: time.Now()}
	if sc, ok := c.(syscall.Conn); ok {
		s.raw, _ = sc.SyscallConn() // else it reads as any connection does
	}
	s.moved.L = &s.mu
	s.heard.Store(int64(time.Since(s.start)))
	return s
}

// Read gives what has come, and never more than the rest of one frame: so the
// library above has nothing in its buffer when it has read a message.
func (s *socket) Read(p []byte) (int, error) {
	s.in.Lock()
	defer s.in.Unlock()
	for s.left == 0 {
		if s.left = frameSize(s.early); s.left > 0 {
			break
		}
		if err := s.fetch(); err != nil {
			return 0, err
		}
	}
	if len(s.early) == 0 {
		if err := s.fetch(); err != nil {
			return 0, err
		}
	}
	n := copy(p[:min(int64(len(p)), s.left)], s.early)
	s.left -= int64(n)
	s.take(n)
	return n, nil
}

// frameSize is the length of the frame that b begins with, header included; 0
// if not all of the header is there (RFC 6455, section 5.2).
func frameSize(b []byte) int64 {
	if len(b) < 2 {
		return 0
	}
	head, size := 2, uint64(b[1]&0x7f)
	switch {
	case size == 126:
		if head = 4; len(b) >= head {
			size = uint64(binary.BigEndian.Uint16(b[2:]))
		}
	case size == 127:
		if head = 10; len(b) >= head {
			size = binary.BigEndian.Uint64(b[2:])
		}
	}
	if len(b) < head {
		return 0
	}
	if b[1]&0x80 != 0 {
		head += 4
	}
	return int64(head) + int64(min(size, 1<<62)) // nobody reads as far
}

// take forgets n bytes of what has come.
func (s *socket) take(n int) {
	if s.early = s.early[n:]; len(s.early) > 0 {
		return
	}
	if s.got != nil {
		received.Put(s.got)
	}
	s.got, s.early = nil, nil
}

// await waits until the client has sent more than pongs. It is where a
// connection at rest waits: with a flat stack and without a buffer, which is
// most of what such a connection would take up. Within a frame, as a close
// handshake may be, it does not wait.
func (s *socket) await() error {
	s.in.Lock()
	defer s.in.Unlock()
	for s.left == 0 {
		n, whole := pongAt(s.early)
		switch {
		case n == 0 && len(s.early) > 0:
			return nil
		case whole:
			s.take(n)
			continue
		}
		if err := s.fetch(); err != nil {
			return err
		}
	}
	return nil
}

// text takes a text message that has come whole, in one frame, and appends it to
// buf. It does not wait. Whatever else has come is left to the WebSocket library,
// which takes several times as long for such a message.
func (s *socket) text(buf *bytes.Buffer) bool {
	s.in.Lock()
	defer s.in.Unlock()
	const masked = 0x80 // a bit of the second byte
	size := frameSize(s.early)
	if s.left > 0 || size == 0 || size > int64(len(s.early)) || s.early[0] != opText || s.early[1] < masked || s.early[1] == masked|127 {
		return false
	}
	head := 6
	if s.early[1] == masked|126 {
		head = 8
	}
	from := buf.Len()
	buf.Write(s.early[head:size])
	unmask(buf.Bytes()[from:], binary.LittleEndian.Uint32(s.early[head-4:]))
	s.take(int(size))
	return true
}

// unmask undoes a client's mask (RFC 6455, section 5.3).
func unmask(b []byte, mask uint32) {
	for twice := uint64(mask)<<32 | uint64(mask); len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^twice)
	}
	for i := range b {
		b[i] ^= byte(mask >> (8 * (i % 4)))
	}
}

// rests says whether all that has come has been read.
func (s *socket) rests() bool {
	s.in.Lock()
	defer s.in.Unlock()
	return len(s.early) == 0
}

// pongAt says how long a pong is that b begins with, and whether all of it is
// there; 0 if b begins with something else, or is not what a client may send.
func pongAt(b []byte) (n int, whole bool) {
	if len(b) == 0 || b[0] != opPong {
		return 0, false
	}
	if len(b) == 1 {
		return 1, false
	}
	if size := int(b[1] & 0x7f); b[1]&0x80 != 0 && size <= 125 {
		n = 2 + 4 + size // the header, the mask, what it masks
		return n, len(b) >= n
	}
	return 0, false
}

// received are buffers for what comes from clients, and other small ones.
var received = sync.Pool{New: func() any { b := make([]byte, receivedSize); return &b }}

const receivedSize = 4096

// fetch waits for bytes and puts them behind those that have come, and notes
// that the client lives. Only half a header or pong may be there already.
func (s *socket) fetch() error {
	n, err := 0, error(nil)
	if s.raw == nil || len(s.early) > 0 {
		b := received.Get().(*[]byte)
		had := copy(*b, s.early)
		s.take(len(s.early))
		n, err = s.Conn.Read((*b)[had:])
		s.got, s.early = b, (*b)[:had+n]
	} else {
		// There is no buffer while there is nothing to read.
		failed := s.raw.Read(func(fd uintptr) bool {
			b := received.Get().(*[]byte)
			n, err = nonblock.Read(fd, *b)
			if n <= 0 {
				received.Put(b)
				return err != syscall.EAGAIN
			}
			s.got, s.early = b, (*b)[:n]
			return true
		})
		switch {
		case failed != nil:
			err = failed
		case err != nil:
			err = os.NewSyscallError("read", err)
		case n == 0:
			err = io.EOF
		}
	}
	if n > 0 {
		s.heard.Store(int64(time.Since(s.start)))
		return nil
	}
	return err
}

// Opcodes (RFC 6455, section 11.8), with the bit of a frame that is whole.
const (
	opText  = 0x81
	opClose = 0x88
	opPong  = 0x8a
)

// Write sends a control frame behind what is queued already. A close frame has
// been written when it returns, so that the connection may be closed. Of pongs
// that wait only the last is kept (RFC 6455, section 5.5.3), so that a client
// that asks and does not read costs nothing.
func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p[0] == opPong {
		if s.last {
			return len(p), nil // nothing follows a close frame
		}
		for i, f := range s.queue {
			if f.bytes[0] == opPong {
				s.pulled += len(p) - len(f.bytes)
				s.queue[i].bytes = bytes.Clone(p)
				return len(p), nil
			}
		}
	}
	if err := s.queueLocked(frame{bytes.Clone(p), classPull}); err != nil {
		return 0, err
	}
	if p[0] == opClose {
		s.last = true
		s.moved.Broadcast()
		s.flushed()
	}
	return len(p), nil
}

// silent says for how long nothing has come from the client.
func (s *socket) silent() time.Duration {
	return time.Since(s.start) - time.Duration(s.heard.Load())
}

// alive counts a standstill of this process as a sign of life.
func (s *socket) alive() { s.heard.Store(int64(time.Since(s.start))) }

// stuck says for how long the write under way has been.
func (s *socket) stuck() time.Duration {
	since := s.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(s.start) - time.Duration(since)
}

// Queue sends a frame after those queued before. It never blocks. It fails
// with errSlow if the frame must arrive and there is no room for it, or with
// the error that ended the connection.
func (s *socket) Queue(b []byte, c class) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queueLocked(frame{b, c})
}

// QueueSoon is Queue for a frame that need not go out before the next one does: so
// that a request and its answer, if that comes soon, cost the client one packet.
func (s *socket) QueueSoon(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		return s.queueLocked(frame{b, classKept})
	}
	err := s.add(frame{b, classKept})
	if err == nil && !s.writing && !s.later {
		s.later = true
		s.out.addLater(s)
	}
	return err
}

// hurry has what waits for another frame written now.
func (s *socket) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.later = false; s.err == nil && len(s.queue) > 0 {
		s.rouse()
	}
}

// QueueLast is Queue for the last message of a connection: those that come later
// are dropped.
func (s *socket) QueueLast(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.queueLocked(frame{b, classKept})
	s.over = true
	return err
}

// QueueEvent is Queue for an event of a room: while a batch is being answered
// it waits for the answer.
func (s *socket) QueueEvent(b []byte, c class, room string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holding == 0 && !slices.Contains(s.waiting, room) {
		return s.queueLocked(frame{b, c})
	}
	if ok, err := s.admit(len(b), c); !ok {
		return err
	}
	s.held = append(s.held, heldFrame{frame{b, c}, room})
	return nil
}

// Hold makes events wait until Release.
func (s *socket) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding++
}

// Release queues b, and behind it the events that waited.
func (s *socket) Release(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if b != nil {
		err = s.queueLocked(frame{b, classKept})
	}
	if s.holding--; s.holding > 0 {
		return err
	}
	s.held = slices.DeleteFunc(s.held, func(h heldFrame) bool {
		if slices.Contains(s.waiting, h.room) {
			return false
		}
		if e := s.unhold(h.frame); err == nil {
			err = e
		}
		return true
	})
	if len(s.held) == 0 {
		s.held = nil // an idle connection holds no memory
	}
	return err
}

// HoldRoom makes the events of one room wait until LetRoomGoOn.
func (s *socket) HoldRoom(room string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.waiting, room) {
		s.waiting = append(s.waiting, room)
	}
}

// LetRoomGoOn queues the events of a room that waited, unless they wait for a
// batch, too.
func (s *socket) LetRoomGoOn(room string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.waiting, room) {
		return
	}
	s.stopWaiting(room)
	if s.holding == 0 {
		s.releaseRoom(room)
	}
}

func (s *socket) stopWaiting(room string) {
	s.waiting = slices.DeleteFunc(s.waiting, func(other string) bool { return other == room })
	if len(s.waiting) == 0 {
		s.waiting = nil
	}
}

// unhold queues a frame that was held, and has its room.
func (s *socket) unhold(f frame) error {
	if f.class != classPull {
		s.size -= len(f.bytes)
	}
	return s.queueLocked(f)
}

// ReleaseRoom queues the events of one room that wait: it is being left, and
// nothing of it may come later.
func (s *socket) ReleaseRoom(room string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopWaiting(room)
	s.releaseRoom(room)
}

func (s *socket) releaseRoom(room string) {
	s.held = slices.DeleteFunc(s.held, func(h heldFrame) bool {
		if h.room != room {
			return false
		}
		s.unhold(h.frame)
		return true
	})
}

func (s *socket) queueLocked(f frame) error {
	if err := s.add(f); err != nil || len(s.queue) == 0 {
		return err
	}
	s.rouse()
	return nil
}

// add queues a frame, and leaves it to the caller that somebody writes it.
func (s *socket) add(f frame) error {
	switch {
	case s.err != nil:
		return s.err
	case s.last, s.over && f.bytes[0] == opText:
		return net.ErrClosed
	}
	if ok, err := s.admit(len(f.bytes), f.class); !ok {
		return err
	}
	if f.class == classPull {
		s.pulled += len(f.bytes)
	}
	s.queue = append(s.queue, f)
	return nil
}

// rouse sees to it that somebody writes what is queued.
func (s *socket) rouse() {
	if s.writing {
		return
	}
	s.writing = true
	if s.out == nil || s.raw == nil {
		go s.write(nil)
	} else {
		s.out.add(s)
	}
}

// admit makes room for a frame of n bytes, or says that there is none: without
// an error if the frame may be dropped.
func (s *socket) admit(n int, c class) (bool, error) {
	if c == classPull {
		return true, nil
	}
	if s.size+n > s.bound && !s.shed(n, c) {
		if c >= classShed1 {
			return false, nil
		}
		s.over = true // what follows would leave a hole
		return false, errSlow
	}
	s.size += n
	return true, nil
}

// shed makes room for n bytes of class c by dropping frames that may be
// dropped and matter less, or as little and are older. It drops nothing if
// that would not be enough.
func (s *socket) shed(n int, c class) bool {
	free := s.bound - s.size
	most := classShed3
	if c >= classShed1 {
		most = c
	}
	last := class(0)
	for low := classShed1; low <= most && free < n; low++ {
		for _, f := range s.queue {
			if f.class == low {
				free += len(f.bytes)
			}
		}
		for _, h := range s.held {
			if h.class == low {
				free += len(h.bytes)
			}
		}
		last = low
	}
	if free < n {
		return false
	}
	need := n - (s.bound - s.size)
	for low := classShed1; low <= last && need > 0; low++ {
		drop := func(f frame) bool {
			if f.class != low || need <= 0 {
				return false
			}
			need -= len(f.bytes)
			s.size -= len(f.bytes)
			return true
		}
		s.queue = slices.DeleteFunc(s.queue, drop)
		s.held = slices.DeleteFunc(s.held, func(h heldFrame) bool { return drop(h.frame) })
	}
	return true
}

// drop forgets what is queued, so that a goodbye can go out, and nothing else.
func (s *socket) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	clear(s.queue)
	s.queue, s.held, s.size, s.pulled = s.queue[:0], nil, 0, 0
	s.moved.Broadcast()
}

// pace waits while more waits for the client, of what it asked for, than a
// connection may hold. The reader calls it: nobody is to ask for more than he
// reads.
func (s *socket) pace() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.pulled > s.bound && s.err == nil && !s.last {
		s.moved.Wait()
	}
}

// more says whether there is more to write. If not, nobody writes any more.
func (s *socket) more() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && len(s.queue) > 0 {
		return true
	}
	s.writing = false
	s.moved.Broadcast()
	if cap(s.queue) > 4 {
		s.queue = nil // an idle connection holds no memory for a burst
	}
	return false
}

// next takes what goes out together off the queue: as many frames as buf can take,
// but one at least, copied to buf unless it is one alone. It gives nothing if the connection has failed, or all has been dropped.
func (s *socket) next(buf []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || len(s.queue) == 0 {
		return nil
	}
	n, size := 0, 0
	for _, f := range s.queue {
		if size += len(f.bytes); n > 0 && size > cap(buf) {
			break
		}
		if n++; f.class == classPull {
			s.pulled -= len(f.bytes)
		} else {
			s.size -= len(f.bytes)
		}
	}
	out := s.queue[0].bytes
	if n > 1 {
		out = buf[:0]
		for _, f := range s.queue[:n] {
			out = append(out, f.bytes...)
		}
	}
	s.moved.Broadcast()
	rest := copy(s.queue, s.queue[n:])
	clear(s.queue[rest:])
	s.queue = s.queue[:rest]
	return out
}

// write writes until nothing is queued, or the connection fails, and first of all
// what is left of an earlier write. It waits for a client that does not read.
func (s *socket) write(rest []byte) {
	buf := received.Get().(*[]byte) // a small one: it may be held for long
	defer received.Put(buf)
	for out := rest; len(out) > 0 || s.more(); out = s.next((*buf)[:0]) {
		if len(out) == 0 {
			continue
		}
		s.since.Store(int64(time.Since(s.start)))
		_, err := s.Conn.Write(out)
		s.since.Store(0)
		if err != nil {
			s.fail(err)
		}
	}
}

// fail ends the connection because it cannot be written to.
func (s *socket) fail(err error) {
	s.mu.Lock()
	s.err = err
	s.queue, s.size, s.pulled = nil, 0, 0
	s.moved.Broadcast()
	s.mu.Unlock()
	s.Conn.Close() // so that the reader ends, too
}

// Close ends the connection; frames still queued are lost.
func (s *socket) Close() error {
	s.mu.Lock()
	if s.err == nil {
		s.err = net.ErrClosed
	}
	s.moved.Broadcast()
	s.mu.Unlock()
	return s.Conn.Close()
}

// flushed waits until all that is queued has been written, or cannot be.
func (s *socket) flushed() {
	for s.writing && s.err == nil {
		s.moved.Wait()
	}
}

// pingFrame is an empty ping (RFC 6455, section 5.5.2).
var pingFrame = []byte{0x89, 0}

// headerRoom is the longest frame header of a server.
const headerRoom = 10

// textFrame frames a message once, for all who get it: build appends its JSON
// to a slice (RFC 6455, section 5.2; a server does not mask).
func textFrame(sizeHint int, build func([]byte) []byte) []byte {
	b := build(make([]byte, headerRoom, headerRoom+sizeHint))
	n := len(b) - headerRoom
	var start int
	switch {
	case n < 126:
		start = headerRoom - 2
		b[start+1] = byte(n)
	case n < 1<<16:
		start = headerRoom - 4
		b[start+1] = 126
		b[start+2], b[start+3] = byte(n>>8), byte(n)
	default:
		start = 0
		b[1] = 127
		for i := range 8 {
			b[2+i] = byte(n >> (56 - 8*i))
		}
	}
	b[start] = opText
	return b[start:]
}
