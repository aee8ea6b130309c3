package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/roomgate/roomgate/protocol"
)

// This file is the little of WebSocket and of the wire that a load generator
// needs, read without decoding: what it spends on an event is taken from the
// servers it measures, since they share the machine.

// Opcodes (RFC 6455, section 11.8), with the bit of a frame that is whole.
const (
	opText  = 0x81
	opClose = 0x88
	opPing  = 0x89
	opPong  = 0x8a
)

// clientFrame frames b. Clients have to mask (section 5.3), for the sake of
// proxies that take bytes for HTTP; there are none here, and a key of zeros
// leaves the bytes as they are.
func clientFrame(op byte, b []byte) []byte {
	out := make([]byte, 0, len(b)+8)
	switch {
	case len(b) < 126:
		out = append(out, op, 0x80|byte(len(b)))
	default: // a client's message has at most 64 KiB
		out = append(out, op, 0x80|126)
		out = binary.BigEndian.AppendUint16(out, uint16(len(b)))
	}
	out = append(out, 0, 0, 0, 0)
	return append(out, b...)
}

// nextFrame takes a server's frame off b. Its op is 0 if b holds less than one.
func nextFrame(b []byte) (op byte, payload, rest []byte, err error) {
	if len(b) < 2 {
		return 0, nil, b, nil
	}
	if b[0]&0x80 == 0 || b[0]&0x0f == 0 {
		return 0, nil, b, errors.New("the server sent a fragmented message, which this program does not read")
	}
	if b[1]&0x80 != 0 {
		return 0, nil, b, errors.New("the server masked a frame")
	}
	start, size := 2, int(b[1])
	switch {
	case size == 126 && len(b) >= 4:
		start, size = 4, int(binary.BigEndian.Uint16(b[2:]))
	case size == 127 && len(b) >= 10:
		n := binary.BigEndian.Uint64(b[2:])
		if n > 16<<20 {
			return 0, nil, b, fmt.Errorf("the server sent a message of %d bytes", n)
		}
		start, size = 10, int(n)
	case size >= 126:
		return 0, nil, b, nil
	}
	if len(b) < start+size {
		return 0, nil, b, nil
	}
	return b[0], b[start : start+size], b[start+size:], nil
}

// request is the text of a request; params is a JSON object.
func request(id int64, method, params string) []byte {
	b := make([]byte, 0, len(params)+len(method)+60)
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = strconv.AppendInt(b, id, 10)
	b = append(b, `,"method":"`...)
	b = append(b, method...)
	b = append(b, `","params":`...)
	b = append(b, params...)
	return append(b, '}')
}

// kind is what a text from a server is about.
type kind uint8

const (
	kindOther  kind = iota
	kindResult      // of a request
	kindError       // likewise
	kindMessage
	kindJoined
	kindLeft
)

// heard is a text from a server.
type heard struct {
	kind kind
	id   int64 // of the request answered
	text []byte
}

const (
	answerBegins = `{"jsonrpc":"2.0","id":`
	eventBegins  = `{"jsonrpc":"2.0","method":"`
)

// listen finds out what a text is about. The gateways put the members of a
// message in one order; a server that does not is understood, more slowly.
func listen(text []byte) heard {
	h := heard{text: text}
	if b, ok := bytes.CutPrefix(text, []byte(eventBegins)); ok {
		if end := bytes.IndexByte(b, '"'); end > 0 {
			h.kind = kindOf(string(b[:end]))
			return h
		}
	}
	if b, ok := bytes.CutPrefix(text, []byte(answerBegins)); ok {
		var n int
		if h.id, n = leadingNumber(b); n > 0 {
			switch {
			case bytes.HasPrefix(b[n:], []byte(`,"result":`)):
				h.kind = kindResult
				return h
			case bytes.HasPrefix(b[n:], []byte(`,"error":`)):
				h.kind = kindError
				return h
			}
		}
	}
	var m struct {
		ID     int64           `json:"id"`
		Method string          `json:"method"`
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	if json.Unmarshal(text, &m) != nil {
		return h
	}
	switch h.id = m.ID; {
	case m.Method != "":
		h.kind = kindOf(m.Method)
	case m.Error != nil:
		h.kind = kindError
	case m.Result != nil:
		h.kind = kindResult
	}
	return h
}

func kindOf(method string) kind {
	switch method {
	case protocol.EventRoomMessageReceived:
		return kindMessage
	case protocol.EventRoomMemberJoined:
		return kindJoined
	case protocol.EventRoomMemberLeft:
		return kindLeft
	}
	return kindOther
}

// leadingNumber reads digits, and says how many there were.
func leadingNumber(b []byte) (n int64, digits int) {
	for digits < len(b) && digits < 18 && '0' <= b[digits] && b[digits] <= '9' {
		n = n*10 + int64(b[digits]-'0')
		digits++
	}
	return n, digits
}

// lastNumber reads the number behind the last occurrence of a name, which is
// near the end of an event; 0 if there is none.
func lastNumber(text []byte, name string) int64 {
	i := bytes.LastIndex(text, []byte(name))
	if i < 0 {
		return 0
	}
	n, _ := leadingNumber(text[i+len(name):])
	return n
}

// seqOf is the position of an event in its room.
func (h heard) seqOf() int64 { return lastNumber(h.text, `"seq":`) }

// failure is the error of an answer.
func (h heard) failure() error {
	var m protocol.Response
	if err := json.Unmarshal(h.text, &m); err != nil {
		return err
	}
	if m.Error == nil {
		return fmt.Errorf("not an answer: %.200s", h.text)
	}
	return m.Error
}

// users calls yield with each userID that an event about members lists.
func (h heard) users(yield func(user []byte)) {
	const name = `"userID":"`
	for b := h.text; ; {
		i := bytes.Index(b, []byte(name))
		if i < 0 {
			return
		}
		b = b[i+len(name):]
		end := bytes.IndexByte(b, '"')
		if end < 0 {
			return
		}
		yield(b[:end])
	}
}

// A stamp is what the text of our messages begins with: which sender of the
// run it is, the how manieth of this sender, and when it was due.
type stamp struct {
	sender uint32
	n      uint32
	due    time.Duration // since the run began
}

// stampMark begins every stamp, and is nowhere else in an event.
const stampMark = '~'

// stampSize is how long a stamp is: the smallest payload.
const stampSize = 1 + 8 + 1 + 8 + 1 + 16

// payload is a text of size bytes with a stamp. All of it is plain in JSON.
func payload(s stamp, size int) string {
	b := make([]byte, 0, max(size, stampSize))
	b = fmt.Appendf(b, "%c%08d.%08d.%016d", stampMark, s.sender, s.n, int64(s.due))
	for len(b) < size {
		b = append(b, 'x')
	}
	return string(b)
}

// stampOf reads the stamp in an event.
func stampOf(text []byte) (stamp, bool) {
	i := bytes.IndexByte(text, stampMark)
	if i < 0 || len(text) < i+stampSize {
		return stamp{}, false
	}
	text = text[i+1:]
	sender, a := leadingNumber(text[:8])
	n, b := leadingNumber(text[9:17])
	due, c := leadingNumber(text[18:34])
	return stamp{uint32(sender), uint32(n), time.Duration(due)}, a == 8 && b == 8 && c == 16
}
