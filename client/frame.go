package client

import (
	"encoding/json"
	"errors"
	"iter"
	"strconv"

	"github.com/roomgate/roomgate/protocol"
)

// A message is one text from the gateway, taken apart but not decoded: the
// slices are parts of the text.
type message struct {
	id     int64 // of the request answered; 0: none of ours
	method []byte
	params []byte
	result []byte
	err    []byte
}

var errMalformed = errors.New("malformed message")

// splitMessage finds the parts of a message. It reads the text once and
// allocates nothing, which spares decoding an event twice with encoding/json.
// The parts are not checked any further: whoever decodes one does that.
func splitMessage(b []byte) (message, error) {
	var m message
	for name, value := range members(b) {
		switch string(name) {
		case "id":
			m.id = parseID(value)
		case "method":
			if value[0] != '"' {
				return m, errMalformed
			}
			m.method = value[1 : len(value)-1]
		case "params":
			m.params = value
		case "result":
			m.result = value
		case "error":
			if string(value) != "null" {
				m.err = value
			}
		case malformed:
			return m, errMalformed
		}
	}
	return m, nil
}

// splitParams finds out which room an event belongs to, and its seq there.
func splitParams(b []byte) (place, error) {
	var at place
	for name, value := range members(b) {
		var err error
		switch string(name) {
		case "roomID", "fromConversationID":
			err = json.Unmarshal(value, &at.RoomID)
		case "seq":
			at.Seq, err = strconv.ParseInt(string(value), 10, 64)
		case "membersSeq":
			at.Members, err = strconv.ParseInt(string(value), 10, 64)
		case malformed:
			err = errMalformed
		}
		if err != nil {
			return at, err
		}
	}
	return at, nil
}

// malformed is the name of a last member of texts that are no JSON object. No
// real name has a bare quotation mark.
const malformed = `"`

// members walks over the members of a JSON object. The names are as they are
// spelled, between their quotation marks.
func members(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		if !walk(b, yield) {
			yield([]byte(malformed), nil)
		}
	}
}

// walk says whether b was understood as far as yield wanted it.
func walk(b []byte, yield func(name, value []byte) bool) bool {
	i := skipSpace(b, 0)
	if i == len(b) || b[i] != '{' {
		return false
	}
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return skipSpace(b, i+1) == len(b)
	}
	for {
		start := i
		if i = skipString(b, i); i < 0 {
			return false
		}
		name := b[start+1 : i-1]
		i = skipSpace(b, i)
		if i == len(b) || b[i] != ':' {
			return false
		}
		i = skipSpace(b, i+1)
		start = i
		if i = skipValue(b, i); i < 0 {
			return false
		}
		if !yield(name, b[start:i]) {
			return true
		}
		i = skipSpace(b, i)
		switch {
		case i == len(b):
			return false
		case b[i] == '}':
			return skipSpace(b, i+1) == len(b)
		case b[i] != ',':
			return false
		}
		i = skipSpace(b, i+1)
	}
}

// parseID reads an id as this client writes them; another cannot be ours.
func parseID(b []byte) int64 {
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' || n > 1<<53 {
			return 0
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipString returns the index behind the string that begins at i, or -1.
func skipString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// skipValue returns the index behind the value that begins at i, or -1.
func skipValue(b []byte, i int) int {
	depth := 0
	for start := i; i < len(b); {
		switch b[i] {
		case '"':
			if i = skipString(b, i); i < 0 || depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']', ',', ' ', '\n', '\r', '\t':
			if depth == 0 { // behind a number, true, false or null
				if i == start {
					return -1
				}
				return i
			}
			if b[i] == '}' || b[i] == ']' {
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		i++
	}
	return -1
}

// encodeRequest builds the text of a request. A key above 0 is put into the
// parameters, which must be a JSON object, as requestKey.
func encodeRequest(id int64, method string, params []byte, key int64) ([]byte, error) {
	name, err := json.Marshal(method)
	if err != nil {
		return nil, err
	}
	if string(params) == "null" {
		params = []byte("{}")
	}
	if len(params) < 2 || params[0] != '{' {
		return nil, errors.New("parameters must be a JSON object")
	}
	b := make([]byte, 0, len(params)+len(name)+80)
	b = append(b, `{"jsonrpc":"`+protocol.Version+`","id":`...)
	b = strconv.AppendInt(b, id, 10)
	b = append(b, `,"method":`...)
	b = append(b, name...)
	b = append(b, `,"params":{`...)
	if key > 0 {
		b = append(b, `"requestKey":`...)
		b = strconv.AppendInt(b, key, 10)
		if len(params) > 2 {
			b = append(b, ',')
		}
	}
	b = append(b, params[1:]...)
	return append(b, '}'), nil
}
