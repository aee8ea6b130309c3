package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync"

	"github.com/roomgate/roomgate/protocol"
)

// parseRequests reads one message: a request, or a batch of up to
// [protocol.MaxBatch]. An error is one that the message as a whole deserves.
func parseRequests(text []byte) (requests []protocol.Request, batch bool, err *protocol.Error) {
	text = bytes.TrimLeft(text, " \t\r\n")
	if len(text) > 0 && text[0] == '[' {
		var raw []json.RawMessage
		if json.Unmarshal(text, &raw) != nil {
			return nil, true, fail(protocol.CodeParseError, "the text is not JSON")
		}
		if len(raw) == 0 || len(raw) > protocol.MaxBatch {
			return nil, true, fail(protocol.CodeInvalidRequest, "a batch has %d requests, allowed are 1 to %d", len(raw), protocol.MaxBatch)
		}
		requests = make([]protocol.Request, len(raw))
		for i, r := range raw {
			// One that is no request has no method, and is answered so.
			_ = json.Unmarshal(r, &requests[i])
		}
		return requests, true, nil
	}
	var r protocol.Request
	if e := json.Unmarshal(text, &r); e != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(e, &wrong) {
			return nil, false, fail(protocol.CodeInvalidRequest, "not a JSON-RPC 2.0 request: %s must not be a %s", name(wrong.Field), wrong.Value)
		}
		return nil, false, fail(protocol.CodeParseError, "the text is not JSON")
	}
	return []protocol.Request{r}, false, nil
}

func name(field string) string {
	if field == "" {
		return "the message"
	}
	return field
}

// check says what makes r no request of JSON-RPC 2.0.
func check(r *protocol.Request) *protocol.Error {
	switch {
	case r.JSONRPC != protocol.Version:
		return fail(protocol.CodeInvalidRequest, `not a JSON-RPC 2.0 request: jsonrpc is %q, not "2.0"`, r.JSONRPC)
	case r.Method == "":
		return fail(protocol.CodeInvalidRequest, "not a JSON-RPC 2.0 request: method is missing")
	case !validID(r.ID):
		return fail(protocol.CodeInvalidRequest, "not a JSON-RPC 2.0 request: id is neither a string nor a number")
	}
	return nil
}

// validID says whether id is absent, a string, a number or null.
func validID(id json.RawMessage) bool {
	return len(id) == 0 || !bytes.ContainsAny(id[:1], "{[tf")
}

// parseParams reads params into v, a pointer to one of protocol's types. What
// v's fields mark as required must be there.
func parseParams(params json.RawMessage, v any) *protocol.Error {
	if len(params) == 0 {
		params = json.RawMessage("{}")
	}
	if err := json.Unmarshal(params, v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			code := protocol.CodeInvalidParams
			if strings.HasPrefix(wrong.Value, "number ") {
				code = protocol.CodeBadParameter // the right JSON type: a number that is not whole, or too large
			}
			return fail(code, "%s must not be a %s", cmp.Or(wrong.Field, "params"), wrong.Value)
		}
		return fail(protocol.CodeInvalidParams, "params: %v", err)
	}
	if path := missing(params, reflect.ValueOf(v).Elem(), ""); path != "" {
		return fail(protocol.CodeInvalidParams, "%s is missing", path)
	}
	return nil
}

// required lists the fields of a struct type that must be present.
type required struct {
	index int
	name  string
	inner bool // is itself a struct, whose fields may be required
}

var requiredOf sync.Map // reflect.Type → []required

func requiredFields(t reflect.Type) []required {
	if r, ok := requiredOf.Load(t); ok {
		return r.([]required)
	}
	var fields []required
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Tag.Get("required") == "true" {
			jsonName, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields = append(fields, required{i, jsonName, f.Type.Kind() == reflect.Struct})
		}
	}
	requiredOf.Store(t, fields)
	return fields
}

// missing gives the path of a required value that is absent or null, or "". A
// value that is not zero is there; only for a zero one is the text looked at.
func missing(text json.RawMessage, v reflect.Value, prefix string) string {
	var present map[string]json.RawMessage
	look := func(field string) json.RawMessage {
		if present == nil {
			present = map[string]json.RawMessage{}
			_ = json.Unmarshal(text, &present)
		}
		if raw, ok := present[field]; ok && !bytes.Equal(raw, []byte("null")) {
			return raw
		}
		for k, raw := range present { // names match without regard to case
			if strings.EqualFold(k, field) && !bytes.Equal(raw, []byte("null")) {
				return raw
			}
		}
		return nil
	}
	for _, r := range requiredFields(v.Type()) {
		f := v.Field(r.index)
		if r.inner {
			if !complete(f) {
				raw := look(r.name)
				if raw == nil {
					return prefix + r.name
				}
				if path := missing(raw, f, prefix+r.name+"."); path != "" {
					return path
				}
			}
			continue
		}
		if f.IsZero() && look(r.name) == nil {
			return prefix + r.name
		}
	}
	return ""
}

// complete says whether all required fields of v, down to the last, are not zero.
func complete(v reflect.Value) bool {
	for _, r := range requiredFields(v.Type()) {
		f := v.Field(r.index)
		if r.inner && !complete(f) || !r.inner && f.IsZero() {
			return false
		}
	}
	return !v.IsZero()
}
