package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A message is understood however the network cuts it.
func TestConn_feed_pieces(t *testing.T) {
	t.Parallel()
	texts := []string{
		`{"jsonrpc":"2.0","method":"roomMessageReceived","params":{"seq":1}}`,
		`{"jsonrpc":"2.0","id":7,"result":{}}`,
		`{"jsonrpc":"2.0","method":"roomMemberJoined","params":{"x":"` + strings.Repeat("y", 300) + `"}}`,
		`{"jsonrpc":"2.0","method":"roomMemberLeft","params":{"x":"` + strings.Repeat("z", 70000) + `"}}`,
	}
	kinds := []kind{kindMessage, kindResult, kindJoined, kindLeft}
	var stream []byte
	for _, text := range texts {
		stream = append(stream, serverFrame([]byte(text))...)
	}
	for _, size := range []int{1, 2, 3, 7, 100, len(stream)} {
		var got []kind
		var heardTexts []string
		c := &conn{hear: func(h heard, _ time.Time) {
			got = append(got, h.kind)
			heardTexts = append(heardTexts, string(h.text))
		}}
		for piece := range slices.Chunk(stream, size) {
			c.feed(bytes.Clone(piece), time.Time{})
		}
		if !slices.Equal(got, kinds) || !slices.Equal(heardTexts, texts) {
			t.Errorf("in pieces of %d: got %v, want %v", size, got, kinds)
		}
		if len(c.rest) != 0 {
			t.Errorf("in pieces of %d: %d bytes are left", size, len(c.rest))
		}
	}
}

// What no server may send, or this program cannot read, is said.
func TestNextFrame_refused(t *testing.T) {
	t.Parallel()
	for _, b := range [][]byte{{0x01, 1, 'x'}, {0x80, 1, 'x'}, {0x81, 0x81, 0, 0, 0, 0, 'x'}, {0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0}} {
		if _, _, _, err := nextFrame(b); err == nil {
			t.Errorf("% x: got no error", b)
		}
	}
}

// A text is understood in the order in which gateways write it, and in others.
func TestListen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text string
		kind kind
		id   int64
	}{
		{`{"jsonrpc":"2.0","id":12,"result":{"a":1}}`, kindResult, 12},
		{`{"jsonrpc":"2.0","id":13,"error":{"code":6000005,"message":"slow"}}`, kindError, 13},
		{`{"id":12,"result":{"a":1},"jsonrpc":"2.0"}`, kindResult, 12},
		{`{"error":{"code":1},"id":14,"jsonrpc":"2.0"}`, kindError, 14},
		{`{"jsonrpc":"2.0","id":null,"error":{"code":1}}`, kindError, 0},
		{`{"jsonrpc":"2.0","method":"roomMessageReceived","params":{}}`, kindMessage, 0},
		{`{"method":"roomMemberLeft","params":{},"jsonrpc":"2.0"}`, kindLeft, 0},
		{`{"jsonrpc":"2.0","method":"roomStateChanged","params":{}}`, kindOther, 0},
		{`nonsense`, kindOther, 0},
	} {
		if h := listen([]byte(tt.text)); h.kind != tt.kind || h.id != tt.id {
			t.Errorf("%s: got kind %d of %d, want %d of %d", tt.text, h.kind, h.id, tt.kind, tt.id)
		}
	}
	err := listen([]byte(`{"jsonrpc":"2.0","id":13,"error":{"code":6000005,"message":"slow"}}`)).failure()
	if err == nil || err.Error() != "slow" {
		t.Errorf("the error of an answer: got %v", err)
	}
}

// A stamp comes back out of the event that carries it.
func TestStamp(t *testing.T) {
	t.Parallel()
	for _, want := range []stamp{{}, {3, 17, time.Hour}, {99999999, 99999999, 100 * 24 * time.Hour}} {
		for _, size := range []int{stampSize, 128, 2048} {
			text := payload(want, size)
			if len(text) != size {
				t.Errorf("%v: got %d bytes, want %d", want, len(text), size)
			}
			event := fmt.Sprintf(`{"jsonrpc":"2.0","method":"roomMessageReceived","params":{"messageList":[{"type":1,"message":%q,"messageSeq":5}],"seq":9}}`, text)
			got, ok := stampOf([]byte(event))
			if !ok || got != want {
				t.Errorf("got %v, %v, want %v", got, ok, want)
			}
			if h := listen([]byte(event)); h.seqOf() != 9 || lastNumber(h.text, `"messageSeq":`) != 5 {
				t.Errorf("got seq %d and messageSeq %d, want 9 and 5", h.seqOf(), lastNumber(h.text, `"messageSeq":`))
			}
		}
	}
	for _, text := range []string{"", "hello", "~", "~0000000x.00000000.0000000000000000", strings.Repeat("~", stampSize)} {
		if s, ok := stampOf([]byte(text)); ok {
			t.Errorf("%q: got %v, want none", text, s)
		}
	}
}

// An event about members lists them all.
func TestHeard_users(t *testing.T) {
	t.Parallel()
	h := listen([]byte(`{"jsonrpc":"2.0","method":"roomMemberJoined","params":{"roomID":"r","memberList":[{"userID":"ana","userName":"x"},{"userID":"bob"}],"memberCount":2,"seq":4}}`))
	var got []string
	h.users(func(user []byte) { got = append(got, string(user)) })
	if want := []string{"ana", "bob"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a client sends is masked, as a server demands it.
func TestClientFrame(t *testing.T) {
	t.Parallel()
	for size, header := range map[int][]byte{5: {0x81, 0x85, 0, 0, 0, 0}, 300: {0x81, 0xfe, 1, 44, 0, 0, 0, 0}} {
		b := bytes.Repeat([]byte("a"), size)
		if got, want := clientFrame(opText, b), append(header, b...); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got % x", size, got[:10])
		}
	}
}

// Load goes to gateways themselves, by host and port.
func TestEndpoint(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"ws://127.0.0.1:8080":     "127.0.0.1:8080 /v1/ws false",
		"ws://localhost/":         "localhost:80 /v1/ws false",
		"http://[::1]:9/other/ws": "[::1]:9 /other/ws false",
		"wss://rooms.example.com": "rooms.example.com:443 /v1/ws true",
		"ftp://rooms.example.com": "",
		"127.0.0.1:8080":          "",
		"ws://":                   "",
	} {
		addr, path, secure, err := endpoint(text)
		if got := fmt.Sprint(addr, " ", path, " ", secure); want == "" && err == nil || want != "" && (err != nil || got != want) {
			t.Errorf("%s: got %q, %v, want %q", text, got, err, want)
		}
	}
}
