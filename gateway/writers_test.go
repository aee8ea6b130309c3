package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
)

// However many sockets there are and however much goes to each, each gets its
// frames in order, and one that does not read holds up nobody else.
func TestWriters(t *testing.T) {
	t.Parallel()
	const others, rounds = 100, 400
	var w writers
	start := func() (*net.TCPConn, *socket) {
		client, c := tcpPair(t)
		s := newSocket(c, 1<<30)
		s.out = &w
		t.Cleanup(func() { s.Close() })
		return client, s
	}
	deaf, slow := start()
	var want bytes.Buffer
	var readers sync.WaitGroup
	var sockets []*socket
	clients := make([]*net.TCPConn, others)
	for i := range others {
		var s *socket
		clients[i], s = start()
		sockets = append(sockets, s)
	}
	big := bytes.Repeat([]byte("x"), 3*gathered)
	frames := make([][]byte, rounds)
	for i := range frames {
		frames[i] = textOf([]byte(fmt.Sprint(i)))
		if i%50 == 49 {
			frames[i] = textOf(big)
		}
		want.Write(frames[i])
	}
	for _, client := range clients {
		readers.Go(func() {
			got := make([]byte, want.Len())
			if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want.Bytes()) {
				t.Errorf("got other bytes, %v", err)
			}
		})
	}
	for _, b := range frames {
		for range 20 { // more than its kernel takes
			slow.Queue(b, classKept)
		}
		for _, s := range sockets {
			s.Queue(b, classKept)
		}
	}
	readers.Wait() // though deaf has read nothing
	for slow.stuck() == 0 {
		runtime.Gosched()
	}
	got := make([]byte, 20*want.Len())
	if _, err := io.ReadFull(deaf, got); err != nil {
		t.Fatal(err)
	}
	for i, at := 0, 0; i < rounds; i++ {
		for range 20 {
			if !bytes.HasPrefix(got[at:], frames[i]) {
				t.Fatalf("the slow client got other bytes at %d", at)
			}
			at += len(frames[i])
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.line) > 0 {
		t.Errorf("%d sockets still stand in line", len(w.line))
	}
}

// A connection that has failed is written to no more, and leaves the line.
func TestWriters_failed(t *testing.T) {
	t.Parallel()
	var w writers
	_, c := tcpPair(t)
	s := newSocket(c, 1<<20)
	s.out = &w
	c.Close()
	s.Queue(textOf([]byte("lost")), classKept)
	s.mu.Lock()
	for s.writing {
		s.moved.Wait()
	}
	s.mu.Unlock()
	if err := s.Queue(textOf([]byte("more")), classKept); err == nil {
		t.Error("a frame was taken for a connection that has failed")
	}
}
