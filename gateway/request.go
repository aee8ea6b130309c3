package gateway

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/roomgate/roomgate/protocol"
)

// incoming is a request as it was read, or what stands in its place.
type incoming struct {
	protocol.Request
	bad *protocol.Error // what makes it no request; it is answered in any case
}

var byteOrderMark = []byte("\ufeff")

// parseRequests reads one message: a request, or a batch of up to
// [protocol.MaxBatch]. An error is one that the message as a whole deserves.
// The requests' Params are part of the text.
func parseRequests(text []byte) (requests []incoming, batch bool, err *protocol.Error) {
	if !utf8.Valid(text) || !json.Valid(text) {
		return nil, false, parseError(text)
	}
	text = bytes.TrimSpace(text)
	if kindOf(text) != kindList {
		return []incoming{parseRequest(text)}, false, nil
	}
	n := 0
	for range elements(text) {
		n++
	}
	if n == 0 || n > protocol.MaxBatch {
		return nil, true, fail(protocol.CodeInvalidRequest, "a batch has %d requests, allowed are 1 to %d", n, protocol.MaxBatch)
	}
	requests = make([]incoming, 0, n)
	for r := range elements(text) {
		requests = append(requests, parseRequest(r))
	}
	return requests, true, nil
}

// parseError says why a text is not JSON, or not read as such.
func parseError(text []byte) *protocol.Error {
	var v json.RawMessage
	why := json.Unmarshal(text, &v)
	switch {
	case !utf8.Valid(text):
		return fail(protocol.CodeParseError, "the text is not UTF-8")
	case bytes.HasPrefix(text, byteOrderMark):
		return fail(protocol.CodeParseError, "the text is not JSON: it begins with a byte order mark")
	case strings.HasSuffix(why.Error(), "exceeded max depth"):
		return fail(protocol.CodeParseError, "the text is nested more than 10000 levels deep")
	}
	return fail(protocol.CodeParseError, "the text is not JSON: %v", why)
}

var requestShape = shapeOf(reflect.TypeFor[protocol.Request]())

// parseRequest reads what should be a request. Text is valid JSON.
func parseRequest(text []byte) incoming {
	var r incoming
	if f := requestShape.check(text); f != nil {
		r.bad = &protocol.Error{Code: protocol.CodeInvalidRequest, Message: "not a JSON-RPC 2.0 request: " + f.sentence("the message")}
	} else {
		for name, value := range members(text) {
			switch string(unquoted(name)) {
			case "jsonrpc":
				r.JSONRPC = string(unquoted(value))
			case "method":
				r.Method = string(unquoted(value))
			case "id":
				r.ID = bytes.Clone(value)
			case "params":
				r.Params = value
			}
		}
		r.bad = check(&r.Request)
	}
	if r.bad != nil && (len(r.ID) == 0 || !validID(r.ID)) {
		r.ID = json.RawMessage("null")
	}
	return r
}

// check says what makes r no request of JSON-RPC 2.0.
func check(r *protocol.Request) *protocol.Error {
	switch {
	case r.JSONRPC != protocol.Version:
		return fail(protocol.CodeInvalidRequest, `not a JSON-RPC 2.0 request: jsonrpc is %q, not "2.0"`, r.JSONRPC)
	case r.Method == "":
		return fail(protocol.CodeInvalidRequest, "not a JSON-RPC 2.0 request: method is missing")
	case !validID(r.ID):
		return fail(protocol.CodeInvalidRequest, "not a JSON-RPC 2.0 request: id must be a string or a number, not %v", kindOf(r.ID))
	}
	return nil
}

// validID says whether id is absent, a string, a number or null.
func validID(id json.RawMessage) bool {
	return len(id) == 0 || !bytes.ContainsAny(id[:1], "{[tf")
}

// noParams are the parameters of a method that has none.
type noParams struct{}

// parseParams reads params into v, a pointer to one of protocol's types, if
// they have its shape. Absent ones count as an object without members.
func parseParams(params json.RawMessage, v any) *protocol.Error {
	if len(params) == 0 || kindOf(params) == kindNull {
		params = json.RawMessage("{}")
	}
	if f := shapeOf(reflect.TypeOf(v).Elem()).check(params); f != nil {
		return &protocol.Error{Code: f.code, Message: f.sentence("params")}
	}
	if err := json.Unmarshal(params, v); err != nil {
		return fail(protocol.CodeInvalidParams, "params cannot be read: %v", err)
	}
	return nil
}
