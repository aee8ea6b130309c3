package gateway

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// sink is a network connection that costs nothing.
type sink struct{ net.Conn }

func (sink) Write(p []byte) (int, error) { return len(p), nil }
func (sink) Close() error                { return nil }

// One event to 1,000 members: what the feed spends on each delivery, without
// the system calls.
func BenchmarkFeed_fanOut(b *testing.B) {
	const members = 1000
	bus := &fakeBus{}
	h := startHub(b, &fakeHistory{}, bus)
	var f *feed
	for i := range members {
		s, _ := newSession("u", fmt.Sprintf("s-%d", i), 1)
		s.c.sock = newSocket(sink{}, 1<<40) // a benchmark outruns any bound
		f, _ = h.open(b.Context(), room)
		f.admit(s, entry(1, 1), func() {})
	}
	payloads := make([]string, b.N)
	for i := range payloads {
		payloads[i] = envelope(message(1, int64(i)+2, "zoe", strings.Repeat("x", 128)))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, p := range payloads {
		f.Deliver(p)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/members, "ns/delivery")
}

// Small rooms: an event decoded, encoded and handed to four.
func BenchmarkFeed_small(b *testing.B) {
	bus := &fakeBus{}
	h := startHub(b, &fakeHistory{}, bus)
	var f *feed
	for i := range 4 {
		s, _ := newSession("u", fmt.Sprintf("s-%d", i), 1)
		s.c.sock = newSocket(sink{}, 1<<40) // a benchmark outruns any bound
		f, _ = h.open(b.Context(), room)
		f.admit(s, entry(1, 1), func() {})
	}
	payloads := make([]string, b.N)
	for i := range payloads {
		payloads[i] = envelope(message(1, int64(i)+2, "zoe", strings.Repeat("x", 128)))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, p := range payloads {
		f.Deliver(p)
	}
}

func BenchmarkMessageReceived(b *testing.B) {
	e := message(1, 2, "zoe", strings.Repeat("x", 128))
	b.ReportAllocs()
	for b.Loop() {
		messageReceived(room, e)
	}
}

func BenchmarkMembersFrame(b *testing.B) {
	data := []string{userData("ana")}
	b.ReportAllocs()
	for b.Loop() {
		membersFrame(protocol.EventRoomMemberJoined, room, data, 1000, seqOf(12345))
	}
}

func BenchmarkParseSend(b *testing.B) {
	text := []byte(`{"jsonrpc":"2.0","id":17,"method":"sendRoomMessage","params":{"roomID":"R","message":{"type":1,"message":"` +
		strings.Repeat("x", 128) + `"},"requestKey":17}}`)
	b.ReportAllocs()
	for b.Loop() {
		requests, _, err := parseRequests(text)
		if err != nil {
			b.Fatal(err)
		}
		var p protocol.SendParams
		if err := parseParams(requests[0].Params, &p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMissed(b *testing.B) {
	var events []roomstore.Event
	for seq := int64(1); seq <= 250; seq++ {
		events = append(events, message(1, seq, "zoe", strings.Repeat("x", 128)))
	}
	b.ReportAllocs()
	for b.Loop() {
		missed(room, &member{s: &session{who: roomstore.Session{User: "ana", ID: "s"}}}, events, 0)
	}
}

var idle = flag.Int("idle", 1000, "connections of BenchmarkIdle")

// BenchmarkIdle says what a connection costs that has logged in, entered a room
// of twenty, and is at rest. Clients are bare sockets, so that what they need
// is next to nothing.
func BenchmarkIdle(b *testing.B) {
	s := serve(b, Config{LoginTimeout: time.Hour})
	addr := strings.TrimSuffix(strings.TrimPrefix(s.url, "ws://"), protocol.Path)
	memory := func() uint64 {
		for range 3 {
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	var per float64
	for b.Loop() {
		clients := make([]net.Conn, *idle)
		before := memory()
		buf := make([]byte, 64<<10)
		for i := range clients {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			clients[i] = c
			request := "GET " + protocol.Path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
			login := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"login","params":{"userID":"u%d"}}`, i)
			enter := fmt.Sprintf(`{"jsonrpc":"2.0","id":2,"method":"enterRoom","params":{"roomInfo":{"roomID":"R%d","roomName":"r"}}}`, i/20)
			c.Write(slices.Concat([]byte(request), masked(0x81, []byte(login)), masked(0x81, []byte(enter))))
		}
		in := func() (n int) {
			for _, c := range s.connections() {
				if who := c.session.Load(); who != nil && len(who.feeds()) == 1 {
					n++
				}
			}
			return n
		}
		s.until("all are in", func() bool { return in() == *idle })
		for _, c := range clients { // what they were told
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			for {
				if _, err := c.Read(buf); err != nil {
					break
				}
			}
		}
		per = float64(memory()-before) / float64(*idle) / 1024
		for _, c := range clients {
			c.Close()
		}
		s.until("all are gone", func() bool { return len(s.connections()) == 0 })
	}
	b.ReportMetric(per, "KiB/conn")
}

// encoding/json, to compare with.
func BenchmarkMessageReceived_json(b *testing.B) {
	e := message(1, 2, "zoe", strings.Repeat("x", 128))
	var m protocol.Message
	if err := json.Unmarshal([]byte(e.Data), &m); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		notification(protocol.EventRoomMessageReceived, protocol.MessageReceived{
			FromConversationID: "R", MessageList: []protocol.Message{m}, Seq: 2,
		})
	}
}
