package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/pubsub"
	"github.com/roomgate/roomgate/roomstore"
)

// usual are the headers of a handshake as clients send it.
const usual = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

// doors is a gateway with two servers of its handler: the listener of one is its own.
type doors struct {
	*Gateway
	own, plain *httptest.Server
	left       atomic.Int32 // connections left to the server that has the gateway's listener
}

func newDoors(t testing.TB) *doors {
	dir, err := os.MkdirTemp("", "doors") // that of a test may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	store := roomstore.New(roomstore.NewBatcher(nil, roomstore.BatcherConfig{}), roomstore.Config{})
	d := &doors{Gateway: New(store, (*pubsub.Bus)(nil), nil, Config{})}
	ctx, cancel := context.WithCancel(context.Background())
	d.life = ctx
	handler := d.Handler()
	local := func(name string) net.Listener { // as many as there are, no ports are used up
		ln, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	d.plain = &httptest.Server{Listener: local("plain"), Config: &http.Server{Handler: handler}}
	d.own = &httptest.Server{Listener: d.listen(local("own"), time.Hour), Config: &http.Server{Handler: handler}}
	d.own.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			d.left.Add(1)
		}
	}
	d.plain.Start()
	d.own.Start()
	t.Cleanup(func() {
		d.own.Close()
		d.plain.Close()
		for _, c := range d.connections() {
			c.sock.Close()
		}
		d.conns.Wait()
		cancel()
		d.closing.Wait()
		d.workers.stop()
	})
	return d
}

// dial connects to a server.
func dial(t testing.TB, s *httptest.Server) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// status is what a server answers to the bytes of a request, and what it says with it.
func status(t testing.TB, from *bufio.Reader) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16))
	}
	return res
}

// A gateway answers handshakes itself that are such as clients send them, in however many
// pieces they come. Everything else is the server's, and all of it.
func TestListen(t *testing.T) {
	t.Parallel()
	const get = upgradeLine
	for name, tt := range map[string]struct {
		request string
		own     bool
		want    int
	}{
		"handshake":            {get + usual + "\r\n", true, 101},
		"with a cookie":        {get + usual + "Cookie: a=b\r\n\r\n", true, 101},
		"with our subprotocol": {get + usual + "Sec-WebSocket-Protocol: x, " + protocol.Subprotocol + "\r\n\r\n", true, 101},
		"from the same origin": {get + usual + "Origin: http://x\r\n\r\n", true, 101},

		"with another subprotocol": {get + usual + "Sec-WebSocket-Protocol: x\r\n\r\n", false, 400},
		"from another origin":      {get + usual + "Origin: http://y\r\n\r\n", false, 403},
		"without a key":            {get + "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", false, 400},
		"no headers":               {get + "\r\n", false, 400},
		"longer than a buffer":     {get + usual + "Cookie: " + strings.Repeat("x", receivedSize) + "\r\n\r\n", false, 101},
		"with a query":             {"GET " + protocol.Path + "?a=b HTTP/1.1\r\n" + usual + "\r\n", false, 101},
		"two hosts":                {get + usual + "Host: y\r\n\r\n", false, 400},
		"no host":                  {get + strings.TrimPrefix(usual, "Host: x\r\n") + "\r\n", false, 400},
		"a body":                   {get + usual + "Content-Length: 0\r\n\r\n", false, 101},
		"a folded line":            {get + usual + "X: a\r\n b\r\n\r\n", false, 101},
		"chunks":                   {get + usual + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, 101},
		"a trailer":                {get + usual + "Trailer: X\r\n\r\n", false, 101},
		"an expectation":           {get + usual + "Expect: x\r\n\r\n", false, 417},
		"an odd host":              {get + strings.Replace(usual, "x", "a b", 1) + "\r\n", false, 400},
		"bare ends of lines":       {strings.ReplaceAll(get+usual+"\r\n", "\r", ""), false, 101},
		"a bare end of the header": {get + usual + "X: a\n\n", false, 101},
		"a bare end of line":       {get + usual + "X: a\n\r\n", false, 101},
		"an odd name":              {get + usual + "X Y: a\r\n\r\n", false, 400},
		"an odd value":             {get + usual + "X: a\x01\r\n\r\n", false, 400},
		"HTTP/1.0":                 {strings.Replace(get, "1.1", "1.0", 1) + usual + "\r\n", false, 426},
		"another path":             {"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", false, 200},
		"shorter than a line":      {"X\r\n\r\n", false, 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{len(tt.request), 7, 1} {
				d := newDoors(t)
				c := dial(t, d.own)
				for piece := range slices.Chunk([]byte(tt.request), size) {
					if _, err := c.Write(piece); err != nil {
						break // it has been answered
					}
				}
				res := status(t, bufio.NewReader(c))
				if own := d.left.Load() == 0; res.StatusCode != tt.want || own != tt.own {
					t.Errorf("in pieces of %d: got %d, by the gateway itself: %v; want %d, %v", size, res.StatusCode, own, tt.want, tt.own)
				}
			}
		})
	}
}

// What comes right behind a handshake is heard, whoever answers that.
func TestListen_early(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{"by the gateway": "", "by the server": "Content-Length: 0\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoors(t)
			c := dial(t, d.own)
			ping := masked(opText, []byte(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
			c.Write(slices.Concat([]byte(upgradeLine+usual+more+"\r\n"), ping, ping[:9]))
			from := bufio.NewReader(c)
			status(t, from)
			for _, rest := range [][]byte{ping[9:], nil} {
				head := make([]byte, 2)
				if _, err := io.ReadFull(from, head); err != nil {
					t.Fatal(err)
				}
				answer := make([]byte, head[1])
				if _, err := io.ReadFull(from, answer); err != nil || head[0] != opText || !bytes.Contains(answer, []byte(`"result"`)) {
					t.Fatalf("got % x %s, %v", head, answer, err)
				}
				c.Write(rest)
			}
		})
	}
}

// Closed, the listener has no connection left that has not asked for anything.
func TestListen_close(t *testing.T) {
	t.Parallel()
	d := newDoors(t)
	var silent []net.Conn
	for _, said := range []string{"", "GET ", upgradeLine + usual} {
		c := dial(t, d.own)
		io.WriteString(c, said)
		silent = append(silent, c)
	}
	front := d.own.Listener.(*front)
	heard := func() int {
		front.mu.Lock()
		defer front.mu.Unlock()
		return len(front.silent)
	}
	for began := time.Now(); heard() < len(silent); time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("of %d connections %d are waited for", len(silent), heard())
		}
	}
	front.Close()
	for _, c := range silent {
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection without a request is still open")
		}
	}
	if c, err := front.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, %v, want %v", c, err, net.ErrClosed)
	}
}

// Who says nothing, or never ends his request, is not waited for.
func TestListen_silent(t *testing.T) {
	t.Parallel()
	d := newDoors(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := d.listen(ln, time.Millisecond)
	defer front.Accept() // until nothing is under way
	defer front.Close()
	for _, said := range []string{"", upgradeLine + usual} {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(c, said)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q the connection is still open", said)
		}
	}
}

// What is left to the server is as good as the connection itself: streams look at its
// socket, net/http half-closes it, and it keeps nothing of what was read.
func TestReplayed(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	c := net.Conn(&replayed{Conn: near, early: []byte("early")})
	if _, err := c.(syscall.Conn).SyscallConn(); err == nil {
		t.Error("the socket can be read though something has been read already")
	}
	io.WriteString(far, "late")
	b := make([]byte, 9)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "earlylate" {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := c.(syscall.Conn).SyscallConn(); err != nil {
		t.Error(err)
	}
	if c.(*replayed).early != nil {
		t.Error("what has been read is held")
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if n, err := far.Read(b); err != io.EOF {
		t.Errorf("got %q, %v, want the end", b[:n], err)
	}
}

// flaky is a listener whose Accept fails once.
type flaky struct {
	net.Listener
	once sync.Once
}

var errFlaky = errors.New("too many open files")

func (l *flaky) Accept() (c net.Conn, err error) {
	l.once.Do(func() { err = errFlaky })
	if err != nil {
		return nil, err
	}
	return l.Listener.Accept()
}

// What goes wrong with accepting is the server's to see, and connections are accepted
// after it.
func TestListen_fails(t *testing.T) {
	t.Parallel()
	d := newDoors(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := d.Listen(&flaky{Listener: ln})
	defer front.Accept() // until nothing is under way
	defer front.Close()
	if _, err := front.Accept(); err != errFlaky {
		t.Fatalf("got %v, want %v", err, errFlaky)
	}
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, upgradeLine+usual+"\r\n")
	if got := status(t, bufio.NewReader(c)).StatusCode; got != http.StatusSwitchingProtocols {
		t.Errorf("got %d", got)
	}
}

// Handshakes are answered alike by the gateway itself and by the HTTP server.
func FuzzHandshake(f *testing.F) {
	for _, headers := range []string{
		usual, usual + "Origin: http://x\r\n", usual + "Origin: null\r\n", usual + "Sec-WebSocket-Protocol: " + protocol.Subprotocol + "\r\n",
		usual + "sec-websocket-protocol: a\r\n", usual + "host: y\r\n", usual + "X:\r\n", usual + "X: \xff\r\n", usual + "X\r\n", usual + " X: y\r\n",
		usual + "Connection: close\r\n", usual + "Upgrade: h2c\r\n", strings.ReplaceAll(usual, ": ", ":"), strings.Replace(usual, "x", "[::1]:80", 1),
		strings.Replace(usual, "x", "a b", 1), strings.Replace(usual, "x", "x/../y", 1), strings.Replace(usual, "x", "", 1), usual + "Expect: 100-continue\r\n",
		usual + "Transfer-Encoding: chunked\r\n", usual + "Pragma: no-cache\r\nCache-Control: x\r\n", strings.Replace(usual, "\r\n", "\n", 1),
	} {
		f.Add(headers)
	}
	d := newDoors(f)
	f.Fuzz(func(t *testing.T, headers string) {
		var got [2]*http.Response
		for i, server := range []*httptest.Server{d.plain, d.own} {
			c := dial(t, server)
			io.WriteString(c, upgradeLine+headers+"\r\n\r\n")
			c.(*net.UnixConn).CloseWrite() // or a server may wait for the rest of a body
			got[i] = status(t, bufio.NewReader(c))
			c.Close()
		}
		for _, name := range []string{"Sec-Websocket-Accept", "Sec-Websocket-Protocol", "Upgrade", "Connection"} {
			if a, b := got[0].Header.Get(name), got[1].Header.Get(name); a != b && got[0].StatusCode == 101 {
				t.Errorf("%s is %q by the server, %q by the gateway", name, a, b)
			}
		}
		if a, b := got[0].StatusCode, got[1].StatusCode; a != b {
			t.Errorf("got %d by the server, %d by the gateway", a, b)
		}
	})
}
