package gateway

// This file is how a connection becomes a WebSocket: by net/http, or without it where
// the handshake is such as clients send it. A conn of net/http, with its buffers and a
// goroutine that watches it, costs as much as all that a handshake needs.

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/roomgate/roomgate/protocol"
)

const (
	// handshakeWithin is how long a connection has for its first request.
	handshakeWithin = 5 * time.Second

	// kernelBuffer is what the system may hold for a client that does not read,
	// beside what we do. Left to itself it takes megabytes.
	kernelBuffer = 256 << 10

	readBuffer  = 16  // what comes is buffered by the socket
	writeBuffer = 256 // more than a control frame
)

// accept serves the WebSocket endpoint for net/http. It returns when the connection
// stands, so that what net/http keeps for a request is freed.
func (g *Gateway) accept(w http.ResponseWriter, r *http.Request) {
	g.begins.wait() // here and not before, where health checks and backends would wait, too
	if err := g.upgrade(&hijacker{ResponseWriter: w, wrap: g.newSocket}, r); err != nil {
		g.log.Debug("handshake refused", "addr", r.RemoteAddr, "err", err)
	}
}

func (g *Gateway) newSocket(c net.Conn) *socket {
	s := newSocket(c, g.cfg.QueueBytes)
	s.out = &g.writers
	return s
}

// An upgrader is what a handshake is answered by. Hijack gives the socket, or fails.
type upgrader interface {
	http.ResponseWriter
	http.Hijacker
	hijacked() *socket
}

// upgrade makes a WebSocket of a connection, which a goroutine of its own then serves.
// If it fails that has been answered.
func (g *Gateway) upgrade(w upgrader, r *http.Request) error {
	if offered := r.Header.Values("Sec-WebSocket-Protocol"); len(offered) > 0 {
		var names []string
		for name := range strings.SplitSeq(strings.Join(offered, ","), ",") {
			names = append(names, strings.TrimSpace(name))
		}
		if !slices.Contains(names, protocol.Subprotocol) {
			const why = "none of the subprotocols offered is " + protocol.Subprotocol
			http.Error(w, why, http.StatusBadRequest)
			return errors.New(why)
		}
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{protocol.Subprotocol}, OriginPatterns: g.cfg.AllowedOrigins,
		InsecureSkipVerify: slices.Contains(g.cfg.AllowedOrigins, "*"),
	})
	if err != nil {
		return err
	}
	ws.SetReadLimit(protocol.MaxMessage)
	c := &conn{g: g, ws: ws, sock: w.hijacked(), gone: make(chan struct{}), said: make(chan struct{})}
	if !g.add(c) {
		go c.shut(protocol.CloseTryAgainLater, closeReason(g.cfg.ReconnectAfter)) // bounded by CloseTimeout
		return nil
	}
	c.login = time.AfterFunc(g.cfg.LoginTimeout, func() { c.close(protocol.CloseLoginTimeout, "no login in time") })
	go c.wait() // conns waits for it
	return nil
}

// hijacker hands a WebSocket library the socket in place of the server's
// connection.
type hijacker struct {
	http.ResponseWriter
	wrap   func(net.Conn) *socket
	socket *socket
}

func (h *hijacker) hijacked() *socket { return h.socket }

// Hijack implements [http.Hijacker].
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	// What the client sent right behind its handshake is in the server's buffer.
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	h.socket = h.wrap(c)
	h.socket.early = bytes.Clone(early)
	return h.socket, h.socket.upgraded(), nil
}

// upgraded makes the connection ready for a WebSocket, and gives buffers for it as small
// as a connection at rest deserves.
func (s *socket) upgraded() *bufio.ReadWriter {
	if c, ok := s.Conn.(interface{ SetWriteBuffer(int) error }); ok {
		c.SetWriteBuffer(kernelBuffer) // if it fails, the system's own bound holds
	}
	return bufio.NewReadWriter(bufio.NewReaderSize(s, readBuffer), bufio.NewWriterSize(s, writeBuffer))
}

// Listen returns a listener for the HTTP server of [Gateway.Handler]. It has the
// connections of ln, without those that begin with a WebSocket handshake: to these the
// gateway attends itself. What it refuses, or finds unusual, it leaves to the server,
// to be read from its beginning.
//
// Close closes ln, and connections that have sent no request. Accept fails then, as
// soon as no handshake is under way.
func (g *Gateway) Listen(ln net.Listener) net.Listener {
	return g.listen(ln, handshakeWithin)
}

func (g *Gateway) listen(ln net.Listener, within time.Duration) *front {
	f := &front{Listener: ln, g: g, within: within, rest: make(chan newcomer), closed: make(chan struct{}), silent: map[net.Conn]struct{}{}}
	f.work.Go(f.run)
	return f
}

// A front is the listener of [Gateway.Listen].
type front struct {
	net.Listener
	g      *Gateway
	within time.Duration // for a first request
	rest   chan newcomer
	work   sync.WaitGroup

	closed chan struct{}
	mu     sync.Mutex
	over   bool
	silent map[net.Conn]struct{} // have sent no request yet
}

// newcomer is what Accept gives.
type newcomer struct {
	conn net.Conn
	err  error
}

// Accept implements [net.Listener].
func (f *front) Accept() (net.Conn, error) {
	select {
	case a := <-f.rest:
		return a.conn, a.err
	case <-f.closed:
		f.work.Wait()
		return nil, net.ErrClosed
	}
}

// leave leaves a connection, or an error, to the server. It says whether that is there.
func (f *front) leave(c net.Conn, err error) bool {
	select {
	case f.rest <- newcomer{c, err}:
		return true
	case <-f.closed:
		if c != nil {
			c.Close()
		}
		return false
	}
}

// Close implements [net.Listener].
func (f *front) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.over {
		f.over = true
		close(f.closed)
		for c := range f.silent {
			c.Close()
		}
	}
	return f.Listener.Close()
}

// run accepts connections until the listener is closed. After an error it is the
// server that waits.
func (f *front) run() {
	for {
		c, err := f.Listener.Accept()
		switch {
		case err == nil:
			f.work.Go(func() { f.greet(c) })
		case !f.leave(nil, err):
			return
		}
	}
}

// greet waits for the first request of a connection, with a stack that does not grow. A
// worker goes on.
func (f *front) greet(c net.Conn) {
	f.mu.Lock()
	over := f.over
	if !over {
		f.silent[c] = struct{}{}
	}
	f.mu.Unlock()
	if over {
		c.Close()
		return
	}
	s := f.g.newSocket(c)
	c.SetReadDeadline(time.Now().Add(f.within)) // if it fails, so does reading
	head, err := s.request()
	f.mu.Lock()
	delete(f.silent, c)
	f.mu.Unlock()
	switch {
	case err != nil:
		c.Close()
	case !isPlain(head):
		f.leave(s.again(head), nil)
	default:
		f.g.begins.wait()
		if f.isClosed() {
			c.Close()
			return
		}
		f.work.Add(1)
		f.g.workers.do(func() {
			defer f.work.Done()
			f.shake(s, head)
		})
	}
}

func (f *front) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

// shake attends to a handshake, or leaves it to the server.
func (f *front) shake(s *socket, head []byte) {
	a := &answer{socket: s, header: http.Header{}}
	if r, err := parseHandshake(head); err == nil && f.g.upgrade(a, r) == nil {
		return
	}
	if a.begun {
		s.Conn.Close()
		return
	}
	f.leave(s.again(head), nil)
}

// upgradeLine is what the handshakes begin with that the gateway attends to itself.
const upgradeLine = "GET " + protocol.Path + " HTTP/1.1\r\n"

// request waits for the header of a handshake, and takes it. It gives none if something
// else has come, or more than a buffer holds.
func (s *socket) request() ([]byte, error) {
	s.in.Lock()
	defer s.in.Unlock()
	for {
		if err := s.fetch(); err != nil {
			return nil, err
		}
		if n := min(len(s.early), len(upgradeLine)); string(s.early[:n]) != upgradeLine[:n] || len(s.early) == receivedSize {
			return nil, nil
		}
		if bytes.Contains(s.early, []byte("\n\n")) {
			return nil, nil // the end for net/http, and not for RFC 9112
		}
		if n := bytes.Index(s.early, []byte("\n\r\n")); n >= 0 {
			head := bytes.Clone(s.early[:n+3])
			s.take(n + 3)
			return head, nil
		}
	}
}

// again gives the connection as it was before a request was taken from it.
func (s *socket) again(head []byte) net.Conn {
	s.in.Lock()
	defer s.in.Unlock()
	s.Conn.SetReadDeadline(time.Time{}) // if it fails, reading fails
	c := &replayed{Conn: s.Conn, early: append(head, s.early...)}
	s.take(len(s.early))
	return c
}

// replayed is a connection some of whose bytes have been read already.
type replayed struct {
	net.Conn
	early []byte // no more than net/http's buffer holds, which so takes all of it at once
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.early) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.early)
	if r.early = r.early[n:]; len(r.early) == 0 {
		r.early = nil // or it would be held for as long as the connection
	}
	return n, nil
}

// SyscallConn implements [syscall.Conn], once nothing is left that has been read
// already.
func (r *replayed) SyscallConn() (syscall.RawConn, error) {
	if c, ok := r.Conn.(syscall.Conn); ok && len(r.early) == 0 {
		return c.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// CloseWrite is that of a [net.TCPConn]; net/http looks for it.
func (r *replayed) CloseWrite() error {
	if c, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetWriteBuffer is that of a [net.TCPConn].
func (r *replayed) SetWriteBuffer(size int) error {
	if c, ok := r.Conn.(interface{ SetWriteBuffer(int) error }); ok {
		return c.SetWriteBuffer(size)
	}
	return errors.ErrUnsupported
}

// parsers are for handshakes while they are read.
var parsers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, receivedSize) }}

// isPlain says whether a request is a handshake and nothing but that: without a body, and
// without lines that net/http's server looks at more closely than its reader does
// (RFC 9112, sections 3.2, 5 and 6).
func isPlain(head []byte) bool {
	if head == nil {
		return false
	}
	hosts := 0
	for line := range bytes.Lines(bytes.TrimSuffix(head[len(upgradeLine):], []byte("\r\n"))) {
		name, value, _ := bytes.Cut(line, []byte(": "))
		text, whole := bytes.CutSuffix(value, []byte("\r\n"))
		if !whole || len(name) == 0 || bytes.ContainsFunc(name, notInName) || bytes.ContainsFunc(text, notInText) {
			return false
		}
		switch strings.ToLower(string(name)) {
		case "host":
			if hosts++; len(text) == 0 || bytes.ContainsFunc(text, notInHost) {
				return false
			}
		case "content-length", "transfer-encoding", "trailer", "expect":
			return false
		}
	}
	return hosts == 1
}

func parseHandshake(head []byte) (*http.Request, error) {
	b := parsers.Get().(*bufio.Reader)
	defer parsers.Put(b)
	b.Reset(bytes.NewReader(head))
	defer b.Reset(nil)
	return http.ReadRequest(b)
}

// notInName, notInText and notInHost say what headers of clients do not have.
func notInName(c rune) bool {
	return c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
}

func notInText(c rune) bool { return c < ' ' || c > '~' }

func notInHost(c rune) bool { return notInName(c) && !strings.ContainsRune(".:[]_", c) }

// answer answers a handshake: yes, by Hijack. What else is written is the server's to
// say, which sees the handshake next.
type answer struct {
	socket *socket
	header http.Header
	begun  bool // it has been said
}

func (a *answer) hijacked() *socket { return a.socket }

// Header implements [http.ResponseWriter].
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements [http.ResponseWriter].
func (a *answer) WriteHeader(int) {}

// Write implements [http.ResponseWriter].
func (a *answer) Write(p []byte) (int, error) { return len(p), nil }

// Hijack implements [http.Hijacker].
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	b := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(b)
	b.Reset()
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	a.header.Write(b)
	b.WriteString("\r\n")
	a.begun = true
	if err := a.socket.Conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	if _, err := a.socket.Conn.Write(b.Bytes()); err != nil {
		return nil, nil, err
	}
	a.socket.alive() // and not only before it waited for its turn
	return a.socket, a.socket.upgraded(), nil
}
