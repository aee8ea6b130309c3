package faultproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// value is one value of the Redis protocol as it was sent.
type value struct {
	bytes []byte
	list  int      // how many elements, if it is an array or a push
	head  []string // its first elements, as far as they are bulk strings; four at most
}

// maxBulk bounds what a broken stream can make us allocate.
const maxBulk = 512 << 20

var errProtocol = errors.New("not the protocol of Redis")

// message says whether the value is a pub/sub message, and which.
func (v value) message() (channel, payload string, ok bool) {
	switch {
	case v.list == 3 && len(v.head) == 3 && (v.head[0] == "message" || v.head[0] == "smessage"):
		return v.head[1], v.head[2], true
	case v.list == 4 && len(v.head) == 4 && v.head[0] == "pmessage":
		return v.head[2], v.head[3], true
	}
	return "", "", false
}

// subscription says whether the value confirms a subscription.
func (v value) subscription() bool {
	if v.list != 3 || len(v.head) == 0 {
		return false
	}
	switch v.head[0] {
	case "subscribe", "psubscribe", "ssubscribe":
		return true
	}
	return false
}

// readValue reads one value (RESP2 or RESP3, without streamed types).
func readValue(r *bufio.Reader) (value, error) {
	var v value
	err := v.read(r, 0)
	return v, err
}

func (v *value) read(r *bufio.Reader, depth int) error {
	line, err := v.line(r)
	if err != nil {
		return err
	}
	if depth > 32 {
		return fmt.Errorf("%w: nested too deeply", errProtocol)
	}
	switch line[0] {
	case '+', '-', ':', '_', ',', '#', '(':
		return nil
	case '$', '=', '!':
		n, err := length(line)
		if err != nil || n < 0 {
			return err
		}
		start := len(v.bytes)
		v.bytes = append(v.bytes, make([]byte, n+2)...)
		if _, err := io.ReadFull(r, v.bytes[start:]); err != nil {
			return err
		}
		if depth == 1 && line[0] == '$' && len(v.head) < 4 {
			v.head = append(v.head, string(v.bytes[start:start+n]))
		}
		return nil
	case '*', '~', '>', '%', '|':
		n, err := length(line)
		if err != nil {
			return err
		}
		if depth == 0 && (line[0] == '*' || line[0] == '>') {
			v.list = n
		}
		if line[0] == '%' || line[0] == '|' {
			n *= 2
		}
		if line[0] == '|' {
			n++ // attributes stand before the value they belong to
		}
		for range max(0, n) {
			if err := v.read(r, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%w: a value begins with %q", errProtocol, line[0])
}

func (v *value) line(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	start := len(v.bytes)
	v.bytes = append(v.bytes, line...)
	for errors.Is(err, bufio.ErrBufferFull) {
		line, err = r.ReadSlice('\n')
		v.bytes = append(v.bytes, line...)
	}
	if err != nil {
		return nil, err
	}
	line = v.bytes[start:]
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return nil, fmt.Errorf("%w: line %q", errProtocol, line)
	}
	return line[:len(line)-2], nil
}

// length reads what stands behind a type; -1 stands for null.
func length(line []byte) (int, error) {
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n < -1 || n > maxBulk {
		return 0, fmt.Errorf("%w: length %q", errProtocol, line)
	}
	return n, nil
}
