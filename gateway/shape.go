package gateway

import (
	"bytes"
	"encoding/json"
	"iter"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/roomgate/roomgate/protocol"
)

// This file holds what clients send to the shape it must have. It is stricter
// than encoding/json, which takes names in any case, null for anything, and of
// two values under one name the last or a mixture.

// A shape is what a JSON value must be to be read into a Go type.
type shape struct {
	kind   kind
	fields []field // of an object; those of structs embedded in it are its own
	of     *shape  // the values in a list or table
}

type field struct {
	name     string
	required bool
	*shape
}

type kind int

const (
	kindAny kind = iota
	kindNull
	kindBoolean
	kindText
	kindNumber
	kindWhole
	kindList
	kindObject // has known names
	kindTable  // has any names
)

// String names a kind as sentences do.
func (k kind) String() string {
	return []string{"anything", "null", "a boolean", "a string", "a number", "a number", "an array", "an object", "an object"}[k]
}

// json is the kind that [kindOf] gives for values of this one.
func (k kind) json() kind {
	switch k {
	case kindWhole:
		return kindNumber
	case kindTable:
		return kindObject
	}
	return k
}

var shapes sync.Map // reflect.Type → *shape

// shapeOf gives the shape for a type, which must not contain itself.
func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{}
	switch t.Kind() {
	case reflect.Pointer:
		s = shapeOf(t.Elem())
	case reflect.Bool:
		s.kind = kindBoolean
	case reflect.String:
		s.kind = kindText
	case reflect.Float64:
		s.kind = kindNumber
	case reflect.Int, reflect.Int64:
		s.kind = kindWhole
	case reflect.Map:
		s.kind, s.of = kindTable, shapeOf(t.Elem())
	case reflect.Slice:
		if t != reflect.TypeFor[json.RawMessage]() {
			s.kind, s.of = kindList, shapeOf(t.Elem())
		}
	case reflect.Struct:
		s.kind = kindObject
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Anonymous {
				s.fields = append(s.fields, shapeOf(f.Type).fields...)
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			s.fields = append(s.fields, field{name, f.Tag.Get("required") == "true", shapeOf(f.Type)})
		}
	default:
		panic("gateway: no shape for " + t.String())
	}
	shapes.Store(t, s)
	return s
}

// A fault is what is wrong with a value.
type fault struct {
	code protocol.Code
	path string // to the value: ".resume.rooms[3].seq"
	says string // of the value
}

// under puts a step before the path.
func (f *fault) under(step string) *fault {
	f.path = step + f.path
	return f
}

// sentence is what the client is told; value names the one without a path.
func (f *fault) sentence(value string) string {
	if path := strings.TrimPrefix(f.path, "."); path != "" {
		value = path
	}
	return value + " " + f.says
}

func malformed(says string) *fault { return &fault{code: protocol.CodeInvalidParams, says: says} }

func badNumber(number []byte, why string) *fault {
	return &fault{code: protocol.CodeBadParameter, says: "is " + cut(string(number)) + ", which is " + why}
}

// check finds what makes a value unfit for the shape; nil if nothing does. The
// value is valid JSON without space around it.
func (s *shape) check(value []byte) *fault {
	if is := kindOf(value); s.kind != kindAny && is != s.kind.json() {
		return malformed("must be " + s.kind.String() + ", not " + is.String())
	}
	switch s.kind {
	case kindNumber:
		if _, err := strconv.ParseFloat(string(value), 64); err != nil {
			return badNumber(value, "too large a number")
		}
	case kindWhole:
		if n, err := strconv.ParseInt(string(value), 10, 64); err != nil || n >= maxWhole || n <= -maxWhole {
			return badNumber(value, "not a whole number between -2^53 and 2^53, written without fraction and exponent")
		}
	case kindList:
		i := 0
		for v := range elements(value) {
			if f := s.of.check(v); f != nil {
				return f.under("[" + strconv.Itoa(i) + "]")
			}
			i++
		}
	case kindTable:
		seen := map[string]bool{}
		for name, v := range members(value) {
			name := string(unquoted(name))
			f := s.of.check(v)
			if seen[name] {
				f = malformed("comes twice")
			}
			if f != nil {
				return f.under("[" + strconv.Quote(cut(name)) + "]")
			}
			seen[name] = true
		}
	case kindObject:
		return s.checkObject(value)
	}
	return nil
}

func (s *shape) checkObject(value []byte) *fault {
	var seen uint64 // a bit for each field
	for name, v := range members(value) {
		name = unquoted(name)
		i := s.field(name)
		if i < 0 {
			if right := s.meant(name); right != "" {
				return malformed("must be spelled " + right).under("." + string(name))
			}
			continue // what is unknown is ignored
		}
		f := &s.fields[i]
		if seen&(1<<i) != 0 {
			return malformed("comes twice").under("." + f.name)
		}
		seen |= 1 << i
		if kindOf(v) == kindNull && !f.required {
			continue // it is as good as absent
		}
		if fault := f.check(v); fault != nil {
			return fault.under("." + f.name)
		}
	}
	for i := range s.fields {
		if f := &s.fields[i]; f.required && seen&(1<<i) == 0 {
			return malformed("is missing").under("." + f.name)
		}
	}
	return nil
}

// field gives the number of the field with a name, -1 if there is none.
func (s *shape) field(name []byte) int {
	for i := range s.fields {
		if s.fields[i].name == string(name) {
			return i
		}
	}
	return -1
}

// meant gives the name that encoding/json would take an unknown one for.
func (s *shape) meant(name []byte) string {
	for i := range s.fields {
		if strings.EqualFold(s.fields[i].name, string(name)) {
			return s.fields[i].name
		}
	}
	return ""
}

// The functions below walk through JSON that is known to be valid.

// kindOf gives the kind of a value.
func kindOf(value []byte) kind {
	switch value[0] {
	case 'n':
		return kindNull
	case 't', 'f':
		return kindBoolean
	case '"':
		return kindText
	case '[':
		return kindList
	case '{':
		return kindObject
	}
	return kindNumber
}

// members gives the names, in their quotes, and the values of an object.
func members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for i := nextValue(object, 1); object[i] != '}'; i = nextValue(object, i) {
			name := object[i:endOfValue(object, i)]
			i = nextValue(object, i+len(name))
			value := object[i:endOfValue(object, i)]
			if !yield(name, value) {
				return
			}
			i += len(value)
		}
	}
}

// elements gives the values of an array.
func elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := nextValue(array, 1); array[i] != ']'; i = nextValue(array, i) {
			value := array[i:endOfValue(array, i)]
			if !yield(value) {
				return
			}
			i += len(value)
		}
	}
}

// nextValue gives where, from i on, a value begins or the one around it ends.
func nextValue(text []byte, i int) int {
	for {
		switch text[i] {
		case ' ', '\t', '\r', '\n', ',', ':':
			i++
		default:
			return i
		}
	}
}

// endOfValue gives where the value that begins at i ends.
func endOfValue(text []byte, i int) int {
	for depth := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // of what is around a number or a word
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ' ', '\t', '\r', '\n', ',':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// unquoted gives what a string stands for, and nothing for null.
func unquoted(text []byte) []byte {
	if text[0] != '"' {
		return nil
	}
	if bytes.IndexByte(text, '\\') < 0 {
		return text[1 : len(text)-1]
	}
	var s string
	_ = json.Unmarshal(text, &s) // it is valid
	return []byte(s)
}
