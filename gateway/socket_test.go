package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// held gives a socket whose writes wait, with one write under way.
func held(t *testing.T, bound int) (*socket, *wire) {
	w := newWire()
	w.stop(true)
	s := newSocket(w, bound)
	s.Queue(textOf([]byte("first")), classPull)
	synctest.Wait()
	t.Cleanup(func() { s.Close() })
	return s, w
}

// payload makes a frame of n bytes in all that says what it is.
func payload(name string, n int) []byte {
	return textOf([]byte(name + strings.Repeat(".", n-2-len(name))))
}

// names gives what the frames say, and stops the socket.
func names(t *testing.T, s *socket, w *wire) []string {
	t.Helper()
	w.stop(false)
	synctest.Wait()
	var got []string
	for _, text := range w.texts(t) {
		got = append(got, strings.TrimRight(text, "."))
	}
	return got
}

// All that waits goes out in one write.
func TestSocket_gathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := held(t, 1<<20)
		want := []string{"first"}
		for i := range 100 {
			want = append(want, fmt.Sprint(i))
			s.Queue(textOf([]byte(want[i+1])), class(i%5))
		}
		w.mu.Lock()
		w.writes = 0
		w.mu.Unlock()
		if got := names(t, s, w); !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		if w.writes != 2 { // one was under way
			t.Errorf("got %d writes", w.writes)
		}
	})
}

// A frame that may wait goes out with the next one, and by itself when none has come.
func TestSocket_QueueSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := newSocket(w, 1<<20)
		s.out = new(writers)
		defer s.Close()
		check := func(when string, writes int, want ...string) {
			t.Helper()
			synctest.Wait()
			w.mu.Lock()
			n := w.writes
			w.mu.Unlock()
			if got := w.texts(t); n != writes || !slices.Equal(got, want) {
				t.Errorf("%s: got %q in %d writes, want %q in %d", when, got, n, want, writes)
			}
		}
		s.QueueSoon(textOf([]byte("a")))
		s.QueueSoon(textOf([]byte("b")))
		check("at first", 0)
		s.Queue(textOf([]byte("c")), classKept)
		check("with the next", 1, "a", "b", "c")
		time.Sleep(2 * soon)
		check("later", 1)
		s.QueueSoon(textOf([]byte("d")))
		time.Sleep(soon - time.Millisecond)
		check("before its time", 1)
		time.Sleep(time.Millisecond)
		check("in its time", 2, "d")

		s.QueueSoon(textOf([]byte("dropped")))
		s.drop()
		time.Sleep(soon)
		check("dropped", 2)

		s.mu.Lock()
		s.over = false
		s.mu.Unlock()
		s.QueueSoon(textOf([]byte("e")))
		time.Sleep(soon)
		check("again", 3, "e")
	})
}

// What goes to a real connection together arrives whole, be it little or much.
func TestSocket_gathers_tcp(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 100, 5000, 20000} {
		client, c := tcpPair(t)
		s := newSocket(c, 1<<20)
		s.mu.Lock() // so that nothing is written before all is queued
		var all []byte
		for i := range 3 * gathered {
			b := payload(fmt.Sprint(i), min(size, 100))
			if i%100 == 99 {
				b = textFrame(size, func(b []byte) []byte { return append(b, strings.Repeat("x", size)...) })
			}
			all = append(all, b...)
			s.queueLocked(frame{b, classPull})
		}
		s.mu.Unlock()
		got := make([]byte, len(all))
		if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, all) {
			t.Errorf("got other bytes, %v", err)
		}
		s.Close()
	}
}

// The bound is one of bytes. What may be dropped makes room, the least
// important and the oldest first; what must arrive and has no room ends the
// connection; what was asked for does not count.
func TestSocket_bound(t *testing.T) {
	for _, tt := range []struct {
		name  string
		queue []string // class, name: 10 bytes each
		slow  bool     // the last
		want  string
	}{
		{"full", []string{"0 a", "0 b", "0 c"}, false, "a b c"},
		{"one more", []string{"0 a", "0 b", "0 c", "0 d"}, true, "a b c"},
		{"pulled", []string{"1 a", "1 b", "1 c", "1 d", "0 e", "0 f", "0 g", "1 h"}, false, "a b c d e f g h"},
		{"low goes first", []string{"4 h", "2 l", "3 m", "0 k"}, false, "h m k"},
		{"then medium", []string{"4 h", "3 m", "0 j", "0 k"}, false, "h j k"},
		{"then high", []string{"4 h", "0 i", "0 j", "0 k"}, false, "i j k"},
		{"never kept", []string{"0 a", "0 b", "0 c", "4 h"}, false, "a b c"},
		{"low is not worth medium", []string{"3 a", "3 b", "3 c", "2 l"}, false, "a b c"},
		{"medium is not worth high", []string{"4 a", "4 b", "4 c", "3 m"}, false, "a b c"},
		{"high is worth medium", []string{"3 a", "3 b", "4 c", "4 h"}, false, "b c h"},
		{"older go", []string{"2 a", "2 b", "2 c", "2 d"}, false, "b c d"},
		{"not all need go", []string{"2 a", "2 b", "2 c", "0 d"}, false, "b c d"},
	} {
		for _, holding := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, holding %v", tt.name, holding), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, w := held(t, 30)
					if holding {
						s.Hold()
					}
					var err error
					for _, q := range tt.queue {
						err = s.QueueEvent(payload(q[2:], 10), class(q[0]-'0'), "R")
					}
					if (err == errSlow) != tt.slow {
						t.Errorf("got %v", err)
					}
					want := tt.want
					if holding {
						err := s.Release(nil)
						if tt.slow {
							want = "" // it is too late for those, too
						} else if err != nil {
							t.Error(err)
						}
					}
					if got := strings.Join(names(t, s, w)[1:], " "); got != want {
						t.Errorf("got %s, want %s", got, want)
					}
					if s.size != 0 || s.pulled != 0 {
						t.Errorf("%d and %d bytes count that are gone", s.size, s.pulled)
					}
				})
			})
		}
	}
}

// While batches are being answered events wait, and follow the answers, but for
// those of a room that is being left.
func TestSocket_hold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := newSocket(w, 1<<20)
		defer s.Close()
		s.Hold()
		s.Hold()
		s.QueueEvent(payload("a1", 10), classKept, "A")
		s.QueueEvent(payload("b1", 10), classPull, "B")
		s.Queue(payload("state", 10), classKept)
		s.ReleaseRoom("B")
		s.QueueEvent(payload("a2", 10), classKept, "A")
		s.Release(payload("first", 10))
		s.QueueEvent(payload("a3", 10), classShed1, "A")
		s.Release(payload("second", 10))
		s.QueueEvent(payload("a4", 10), classKept, "A")
		if got, want := strings.Join(names(t, s, w), " "), "state b1 first second a1 a2 a3 a4"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// A room whose events wait for an answer waits alone; a batch that ends meanwhile does
// not let it go on, nor does the answer while a batch waits.
func TestSocket_holdRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		s := newSocket(w, 1<<20)
		defer s.Close()
		s.HoldRoom("A")
		s.HoldRoom("A")
		s.QueueEvent(payload("a1", 10), classKept, "A")
		s.QueueEvent(payload("b1", 10), classKept, "B")
		s.Hold()
		s.QueueEvent(payload("b2", 10), classKept, "B")
		s.QueueEvent(payload("a2", 10), classKept, "A")
		s.Release(payload("batch", 10))
		s.Queue(payload("answer", 10), classKept)
		s.LetRoomGoOn("A")
		s.QueueEvent(payload("a3", 10), classKept, "A")
		s.HoldRoom("A")
		s.QueueEvent(payload("a4", 10), classKept, "A")
		s.Hold()
		s.Queue(payload("inside", 10), classKept)
		s.LetRoomGoOn("A")
		s.LetRoomGoOn("A")
		s.Release(payload("outer", 10))
		s.HoldRoom("A")
		s.QueueEvent(payload("a5", 10), classKept, "A")
		s.ReleaseRoom("A")
		s.QueueEvent(payload("a6", 10), classKept, "A")
		want := "b1 batch b2 answer a1 a2 a3 inside outer a4 a5 a6"
		if got := strings.Join(names(t, s, w), " "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// Control frames are whole and between messages; of pongs that wait there is
// one; nothing follows a close frame, which has gone out when its Write returns.
func TestSocket_control(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := held(t, 1<<20)
		s.Queue(payload("a", 10), classKept)
		for i := range 100 {
			s.Write([]byte{opPong, 1, byte(i)})
		}
		s.Queue(payload("b", 10), classKept)
		closed := make(chan struct{})
		go func() { s.Write([]byte{opClose, 2, 3, 232}); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("the close frame is said to have been written")
		default:
		}
		if err := s.Queue(payload("c", 10), classKept); err != net.ErrClosed {
			t.Errorf("behind the close frame: got %v", err)
		}
		if _, err := s.Write([]byte{opPong, 0}); err != nil {
			t.Errorf("pong behind the close frame: %v", err)
		}
		w.stop(false)
		<-closed
		frames, err := parseFrames(w.take())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range frames {
			got = append(got, fmt.Sprintf("%x %.1s", f.opcode, f.payload))
		}
		if want := "1 f, 1 a, a c, 1 b, 8 \x03"; strings.Join(got, ", ") != want {
			t.Errorf("got %q, want %q", strings.Join(got, ", "), want)
		}
	})
}

// A failed write ends the connection: nothing more is queued, who waits is let
// go, and the reader ends.
func TestSocket_writeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.stop(true)
		w.err = errors.New("broken")
		s := newSocket(w, 10)
		s.Queue(payload("a", 10), classPull)
		s.Queue(payload("b", 10), classPull)
		s.Queue(payload("c", 10), classPull)
		done := make(chan struct{}, 3)
		go func() { s.pace(); done <- struct{}{} }()
		go func() { s.Write([]byte{opClose, 0}); done <- struct{}{} }()
		go func() { s.Read(make([]byte, 1)); done <- struct{}{} }()
		synctest.Wait()
		w.stop(false)
		for range 3 {
			<-done
		}
		if err := s.Queue(payload("d", 10), classKept); err != w.err {
			t.Errorf("got %v, want %v", err, w.err)
		}
		if s.size != 0 || s.pulled != 0 || len(s.queue) != 0 {
			t.Errorf("%d frames are left", len(s.queue))
		}
	})
}

// drop makes room for a goodbye, and lets everybody go who waits. From the frame
// on that had no room nothing else is sent, however small.
func TestSocket_drop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := held(t, 30)
		for range 3 {
			s.Queue(payload("a", 10), classKept)
		}
		s.Queue(payload("p", 40), classPull)
		if err := s.Queue(payload("no room", 10), classKept); err != errSlow {
			t.Errorf("got %v, want %v", err, errSlow)
		}
		refused := func(when string) {
			t.Helper()
			for _, c := range []class{classKept, classPull, classShed1} {
				if err := s.QueueEvent(payload("", 2), c, "R"); err != net.ErrClosed {
					t.Errorf("%s: got %v, want %v", when, err, net.ErrClosed)
				}
			}
		}
		refused("after the frame that had no room")
		paced := make(chan struct{})
		go func() { s.pace(); close(paced) }()
		synctest.Wait()
		s.drop()
		<-paced
		refused("after drop")
		go s.Write([]byte{opClose, 2, 3, 232})
		synctest.Wait()
		w.stop(false)
		synctest.Wait()
		frames, err := parseFrames(w.take())
		if err != nil {
			t.Fatal(err)
		}
		if len(frames) != 2 || string(frames[0].payload) != "first" || frames[1].opcode != 8 {
			t.Errorf("got %v, want the first frame and the close frame", frames)
		}
	})
}

// What a client sends right behind its handshake, before the gateway has
// answered that, is heard.
func TestHijacker_early(t *testing.T) {
	t.Parallel()
	got := make(chan string, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := &hijacker{ResponseWriter: w, wrap: func(c net.Conn) *socket { return newSocket(c, 1<<20) }}
		ws, err := websocket.Accept(h, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		for range 2 {
			_, b, err := ws.Read(r.Context())
			if err != nil {
				t.Error(err)
			}
			got <- string(b)
		}
	}))
	defer server.Close()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	big := strings.Repeat("b", 1000) // more than the reader's buffer holds
	request := "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	c.Write(slices.Concat([]byte(request), masked(0x81, []byte("early")), masked(0x81, []byte(big))))
	for _, want := range []string{"early", big} {
		if b := <-got; b != want {
			t.Errorf("got %.20q, want %.20q", b, want)
		}
	}
}

// A text in one frame is read without the WebSocket library once it has come
// whole; anything else, and every byte of it, is left to that.
func TestSocket_text(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, early string
		left        int64
		want        string // text, if any
		rest        string
	}{
		{"nothing", "", 0, "", ""},
		{"short", string(masked(opText, []byte("hi"))), 0, "hi", ""},
		{"and more", string(masked(opText, []byte("hello, world"))) + "\x81\x80", 0, "hello, world", "\x81\x80"},
		{"longest short", string(masked(opText, []byte(strings.Repeat("x", 125)))), 0, strings.Repeat("x", 125), ""},
		{"long", string(masked(opText, []byte(strings.Repeat("0123456", 100)))), 0, strings.Repeat("0123456", 100), ""},
		{"a part of it", string(masked(opText, []byte("hi"))[:7]), 0, "", string(masked(opText, []byte("hi"))[:7])},
		{"a part of the header", "\x81\xfe\x01", 0, "", "\x81\xfe\x01"},
		{"inside a frame", string(masked(opText, []byte("hi"))), 1, "", string(masked(opText, []byte("hi")))},
		{"not masked", "\x81\x02hi\x81\x02hi", 0, "", "\x81\x02hi\x81\x02hi"},
		{"binary", string(masked(0x82, []byte("hi"))), 0, "", string(masked(0x82, []byte("hi")))},
		{"a fragment", string(masked(0x01, []byte("hi"))), 0, "", string(masked(0x01, []byte("hi")))},
		{"compressed", string(masked(0xc1, []byte("hi"))), 0, "", string(masked(0xc1, []byte("hi")))},
		{"very long", "\x81\xff\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00a", 0, "", "\x81\xff\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSocket(newWire(), 1<<20)
			s.early, s.left = []byte(tt.early), tt.left
			buf := bytes.NewBufferString("before ")
			ok := s.text(buf)
			if got := strings.TrimPrefix(buf.String(), "before "); ok != (tt.want != "") || got != tt.want || string(s.early) != tt.rest {
				t.Errorf("got %q, %v and %q left, want %q and %q", got, ok, s.early, tt.want, tt.rest)
			}
		})
	}
}

// Pongs wake nobody: a connection at rest is read past them, however they are
// cut. Anything else is for the WebSocket library, every byte of it, in order.
func TestSocket_await(t *testing.T) {
	pong := string([]byte{opPong, 0x80 | 3, 1, 2, 3, 4, 'a', 'b', 'c'})
	empty := string([]byte{opPong, 0x80, 1, 2, 3, 4})
	longest := string([]byte{opPong, 0x80 | 125, 0, 0, 0, 0}) + strings.Repeat("p", 125)
	text := string([]byte{opText, 0x80 | 2, 0, 0, 0, 0, 'h', 'i'})
	for _, tt := range []struct {
		name, sent string
		want       string // what is left to be read; "": nothing, and the end
	}{
		{"text", text, text},
		{"a pong, then text", pong + text, text},
		{"pongs of all lengths", empty + longest + pong + empty + text + pong, text + pong},
		{"pongs only", pong + longest + empty, ""},
		{"a pong that breaks off", pong + longest[:100], ""},
		{"nothing", "", ""},
		{"a pong that is not masked", "\x8a\x01a" + text, "\x8a\x01a" + text},
		{"a pong that is too long", "\x8a\xfe\x00\x7e" + text, "\x8a\xfe\x00\x7e" + text},
		{"a pong that is fragmented", "\x0a\x80\x01\x02\x03\x04" + text, "\x0a\x80\x01\x02\x03\x04" + text},
		{"a ping", "\x89\x80\x01\x02\x03\x04", "\x89\x80\x01\x02\x03\x04"},
	} {
		for _, piece := range []int{1, 7, 1000} {
			for _, early := range []int{0, 3} {
				t.Run(fmt.Sprintf("%s/%d/%d", tt.name, piece, early), func(t *testing.T) {
					client, c := tcpPair(t)
					s := newSocket(c, 1<<20)
					defer s.Close()
					early := min(early, len(tt.sent))
					s.early = []byte(tt.sent[:early])
					go func() {
						defer client.CloseWrite()
						for rest := tt.sent[early:]; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
							if _, err := io.WriteString(client, rest[:min(piece, len(rest))]); err != nil {
								return
							}
						}
					}()
					err := s.await()
					if tt.want == "" {
						if err != io.EOF {
							t.Errorf("got %v, want the end", err)
						}
						return
					}
					got, rest := "", error(nil)
					if err == nil {
						var b []byte
						b, rest = io.ReadAll(s)
						got = string(b)
					}
					if got != tt.want || err != nil || rest != nil {
						t.Errorf("got %q, %v, %v; want %q", got, err, rest, tt.want)
					}
					if s.got != nil {
						t.Error("a buffer is held though there is nothing to read")
					}
				})
			}
		}
	}
}

// Within a frame nothing is taken for a pong: a close handshake may be reading
// there.
func TestSocket_await_within(t *testing.T) {
	client, c := tcpPair(t)
	s := newSocket(c, 1<<20)
	sent := string([]byte{opText, 0x80 | 6, 1, 2, 3, 4, opPong, 0x80, 1, 2, 3, 4})
	if _, err := io.WriteString(client, sent); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for range sent {
		b := make([]byte, 1)
		if _, err := io.ReadFull(s, b); err != nil {
			t.Fatal(err)
		}
		if got = append(got, b...); len(got) < len(sent) {
			if err := s.await(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if string(got) != sent {
		t.Errorf("got %q, want %q", got, sent)
	}
}

// A read gives bytes of one frame only, whatever the lengths.
func TestSocket_Read_frames(t *testing.T) {
	client, c := tcpPair(t)
	s := newSocket(c, 1<<20)
	defer s.Close()
	var frames []string
	for _, size := range []int{0, 1, 125, 126, 127, 4090, 65535, 65536, 100000} {
		head := []byte{opText}
		switch {
		case size < 126:
			head = append(head, 0x80|byte(size))
		case size < 1<<16:
			head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(size))
		default:
			head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(size))
		}
		frames = append(frames, string(head)+"mask"+strings.Repeat("x", size))
	}
	go func() {
		io.WriteString(client, strings.Join(frames, ""))
		client.CloseWrite()
	}()
	b := make([]byte, 200000)
	for _, want := range frames {
		if err := s.await(); err != nil {
			t.Fatal(err)
		}
		n := 0
		for n < len(want) {
			m, err := s.Read(b[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		if got := string(b[:n]); got != want {
			t.Fatalf("got %d bytes, want a frame of %d", n, len(want))
		}
	}
}

// What ends a connection ends the wait, too.
func TestSocket_await_closed(t *testing.T) {
	_, c := tcpPair(t)
	s := newSocket(c, 1<<20)
	done := make(chan error, 1)
	go func() { done <- s.await() }()
	s.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want that it is closed", err)
	}
}

// tcpPair gives both ends of a connection.
func tcpPair(t *testing.T) (client *net.TCPConn, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return c.(*net.TCPConn), server
}
