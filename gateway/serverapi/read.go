package serverapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/roomgate/roomgate/protocol"
)

// This file reads what requests carry. A name is only its own, and there once: what
// two readers could take for two requests is none.

// query reads the parameters behind the path, which may have these names; if it
// cannot, it has answered.
func query(w http.ResponseWriter, r *http.Request, names ...string) (url.Values, bool) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		badParameter(w, "the query behind the path cannot be read: it is not made of name=value joined by &, with what is special escaped")
		return nil, false
	}
	for name, values := range q {
		switch {
		case !slices.Contains(names, name):
			badParameter(w, fmt.Sprintf("unknown parameter %.60q", name))
			return nil, false
		case len(values) > 1:
			badParameter(w, fmt.Sprintf("the parameter %s comes %d times, it may come once", name, len(values)))
			return nil, false
		case !utf8.ValidString(values[0]):
			badParameter(w, fmt.Sprintf("the parameter %s is not UTF-8", name))
			return nil, false
		}
	}
	return q, true
}

// number reads a whole number; absent if there is none. If it cannot, it has answered.
func number(w http.ResponseWriter, q url.Values, name string, absent, least, most int64) (int64, bool) {
	if !q.Has(name) {
		return absent, true
	}
	n, err := strconv.ParseInt(q.Get(name), 10, 64)
	if err != nil || n < least || n > most {
		badParameter(w, fmt.Sprintf("%s %.60q is not a whole number from %d to %d", name, q.Get(name), least, most))
		return 0, false
	}
	return n, true
}

// decode reads the body, one JSON object, into values by their names: each a *string,
// an *int64 or a *map[string]string. If it cannot, it has answered.
func decode(w http.ResponseWriter, r *http.Request, fields map[string]any) bool {
	var body []byte
	var err error = &http.MaxBytesError{}
	if r.ContentLength <= MaxBody { // nobody needs to wait for more
		body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	}
	if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
		refuse(w, http.StatusRequestEntityTooLarge, protocol.CodeBadParameter, fmt.Sprintf("the body is over the limit of %d bytes", MaxBody))
		return false
	}
	if err != nil {
		badParameter(w, "the body ended before its end")
		return false
	}
	if err := read(body, fields); err != nil {
		badParameter(w, "the body "+err.Error())
		return false
	}
	return true
}

// read is decode for a body that is there. Its errors go on from "the body".
func read(body []byte, fields map[string]any) error {
	var whole json.RawMessage
	err := json.Unmarshal(body, &whole)
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return errors.New("is empty; a JSON object is required")
	case !utf8.Valid(body):
		return errors.New("is not UTF-8")
	case err != nil:
		return fmt.Errorf("is not valid JSON: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(body)) // cannot fail any more
	dec.UseNumber()
	if first, _ := dec.Token(); first != json.Delim('{') {
		return fmt.Errorf("is %s, it must be an object", kind(first))
	}
	seen := map[string]bool{}
	for dec.More() {
		t, _ := dec.Token()
		name := t.(string)
		switch {
		case fields[name] == nil:
			return fmt.Errorf("cannot be used: unknown field %.60q", name)
		case seen[name]:
			return fmt.Errorf("cannot be used: %s comes twice", name)
		}
		seen[name] = true
		if err := readField(dec, name, fields[name]); err != nil {
			return fmt.Errorf("cannot be used: %w", err)
		}
	}
	return nil
}

// readField reads one value; null is as good as absent.
func readField(dec *json.Decoder, name string, into any) error {
	value, _ := dec.Token()
	if value == nil {
		return nil
	}
	switch into := into.(type) {
	case *string:
		text, ok := value.(string)
		if !ok {
			return fmt.Errorf("%s is %s, it must be a string", name, kind(value))
		}
		*into = text
	case *int64:
		n, ok := value.(json.Number)
		if !ok {
			return fmt.Errorf("%s is %s, it must be a whole number", name, kind(value))
		}
		var err error
		if *into, err = n.Int64(); err != nil {
			return fmt.Errorf("%s is %.40s, it must be a whole number", name, n)
		}
	case *map[string]string:
		if value != json.Delim('{') {
			return fmt.Errorf("%s is %s, it must be an object", name, kind(value))
		}
		*into = map[string]string{}
		for dec.More() {
			t, _ := dec.Token()
			key := t.(string)
			value, _ := dec.Token()
			text, ok := value.(string)
			if !ok {
				return fmt.Errorf("%s[%.40q] is %s, it must be a string", name, key, kind(value))
			}
			if _, twice := (*into)[key]; twice {
				return fmt.Errorf("%s[%.40q] comes twice", name, key)
			}
			(*into)[key] = text
		}
		dec.Token() // its end
	default:
		panic(fmt.Sprintf("serverapi: no field can be a %T", into))
	}
	return nil
}

// kind says what a JSON value that begins with a token is.
func kind(t json.Token) string {
	switch t {
	case json.Delim('{'):
		return "an object"
	case json.Delim('['):
		return "an array"
	case nil:
		return "null"
	}
	switch t.(type) {
	case bool:
		return "a boolean"
	case string:
		return "a string"
	}
	return "a number"
}
