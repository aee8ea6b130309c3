// Package serverapi is the HTTP interface for backends: it ends rooms and
// removes users from them. It knows HTTP, JSON and API keys; what a room is,
// and what its ID may look like, is the business of the Rooms it is given.
//
//	DELETE /v1/rooms/{roomID}         ends a room for everyone in it
//	POST   /v1/rooms/{roomID}/kick    {"userID":"…","reason":"…","message":"…"}
//
// The roomID is escaped as a URL path segment (RFC 3986): "a b?" is a%20b%3F.
// Every request carries "Authorization: Bearer KEY". Success is 200 and a JSON
// object; anything else is {"error":{"code":6000001,"message":"…"}}, where code
// is one of the numbers of the protocol and message is a sentence for a person.
package serverapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"github.com/roomgate/roomgate/protocol"
)

// Limits of a request, in bytes.
const (
	MaxBody    = 4 << 10 // the body of a request
	MaxReason  = 256     // reason of a kick
	MaxMessage = 1 << 10 // message of a kick
)

// Rooms is what the API does to rooms. Both methods check the IDs they are
// given; their errors are told apart by Config.Errors. Both are safe to repeat.
type Rooms interface {
	// Destroy ends a room at once, for everyone in it.
	Destroy(ctx context.Context, room string) error
	// Kick removes a user from a room, on all devices. The user's clients get
	// extendedData, which is a JSON object as a string.
	Kick(ctx context.Context, room, user string, extendedData string) error
}

// Config of the API.
type Config struct {
	// Keys are the API keys, any of which is accepted, so that one can be
	// replaced by another without a moment in which neither works. Without
	// keys every request is refused.
	Keys []string
	// Errors says how to answer an error of Rooms: the HTTP status, the code
	// and a message that is safe to show to a backend. Nil: 500 for every one.
	Errors func(error) (status int, code int, message string)
	// Log gets the errors that are answered with 500. Nil: none.
	Log *slog.Logger
}

type api struct {
	rooms  Rooms
	keys   [][sha256.Size]byte
	errors func(error) (status, code int, message string)
	log    *slog.Logger
}

// New returns the handler of everything under /v1/rooms. It looks at the path
// as the client sent it, so it can be mounted in any router that hands the
// request on unchanged; net/http's ServeMux does not for a room named "..".
func New(rooms Rooms, cfg Config) http.Handler {
	a := &api{rooms: rooms, errors: cfg.Errors, log: cfg.Log}
	for _, key := range cfg.Keys {
		a.keys = append(a.keys, sha256.Sum256([]byte(key)))
	}
	if a.errors == nil {
		a.errors = func(error) (int, int, string) {
			return http.StatusInternalServerError, int(protocol.CodeInternal), "internal error; the gateway's log says more"
		}
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}

	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, protocol.CodeMethodNotFound,
			"no such resource; the server API has DELETE /v1/rooms/{roomID} and POST /v1/rooms/{roomID}/kick, with roomID escaped as a path segment")
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusMethodNotAllowed, protocol.CodeMethodNotFound,
			fmt.Sprintf("no %.20s here; ", r.Method)+"the server API has DELETE /v1/rooms/{roomID} and POST /v1/rooms/{roomID}/kick")
	})
	r.With(a.authorize).Delete("/v1/rooms/{roomID}", a.destroy)
	r.With(a.authorize).Post("/v1/rooms/{roomID}/kick", a.kick)

	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// By itself chi matches the escaped path for some requests and the
		// unescaped one for others, and a handler cannot tell which: a room
		// named "%41" would be taken for "A". Always the escaped one, and a
		// routing context of our own, for the outer router has left its marks
		// in the one it passes on.
		route := chi.NewRouteContext()
		route.RoutePath = req.URL.EscapedPath()
		r.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), chi.RouteCtxKey, route)))
	})
}

// authorize lets requests through that carry one of the keys.
func (a *api) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || !a.known(strings.TrimLeft(key, " ")) {
			message := "wrong API key"
			switch {
			case len(a.keys) == 0:
				message = "the server API is off: this gateway has no API keys"
			case !strings.EqualFold(scheme, "Bearer") || key == "":
				message = "an API key is required, in the header: Authorization: Bearer KEY"
			}
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, protocol.CodeBadToken, message)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// known compares key with every key there is, in a time that depends on
// neither: hashing makes them equally long, and none ends the loop.
func (a *api) known(key string) bool {
	sum := sha256.Sum256([]byte(key))
	found := 0
	for i := range a.keys {
		found |= subtle.ConstantTimeCompare(sum[:], a.keys[i][:])
	}
	return found == 1
}

func (a *api) destroy(w http.ResponseWriter, r *http.Request) {
	room, ok := roomID(w, r)
	if !ok {
		return
	}
	if err := a.rooms.Destroy(r.Context(), room); err != nil {
		a.fail(w, r, "destroy", room, err)
		return
	}
	answer(w, http.StatusOK, struct {
		RoomID string `json:"roomID"`
	}{room})
}

// kickExtendedData is what the clients of the kicked user get with their
// roomStateChanged, in the spelling of ZIM.
type kickExtendedData struct {
	RoomID  string `json:"room_id"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (a *api) kick(w http.ResponseWriter, r *http.Request) {
	room, ok := roomID(w, r)
	if !ok {
		return
	}
	var user, reason, message string
	if !decode(w, r, map[string]*string{"userID": &user, "reason": &reason, "message": &message}) {
		return
	}
	switch {
	case user == "":
		badParameter(w, "userID is required")
		return
	case len(reason) > MaxReason:
		badParameter(w, fmt.Sprintf("reason has %d bytes, the limit is %d", len(reason), MaxReason))
		return
	case len(message) > MaxMessage:
		badParameter(w, fmt.Sprintf("message has %d bytes, the limit is %d", len(message), MaxMessage))
		return
	}
	extendedData := encode(kickExtendedData{RoomID: room, Reason: reason, Message: message})
	if err := a.rooms.Kick(r.Context(), room, user, string(extendedData)); err != nil {
		a.fail(w, r, "kick", room, err)
		return
	}
	answer(w, http.StatusOK, struct {
		RoomID string `json:"roomID"`
		UserID string `json:"userID"`
	}{room, user})
}

// roomID returns the room that the path names; if it cannot, it has answered.
func roomID(w http.ResponseWriter, r *http.Request) (string, bool) {
	id, err := url.PathUnescape(chi.URLParam(r, "roomID"))
	if err != nil || !utf8.ValidString(id) {
		badParameter(w, "roomID in the path is not a UTF-8 string escaped as a URL path segment")
		return "", false
	}
	if id == "" {
		badParameter(w, "roomID in the path is empty")
		return "", false
	}
	return id, true
}

// decode reads the body, one JSON object, into strings by their names; if it
// cannot, it has answered. A name is only its own, and there once: what two
// readers could take for two requests is none.
func decode(w http.ResponseWriter, r *http.Request, fields map[string]*string) bool {
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
func read(body []byte, fields map[string]*string) error {
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
	if first, _ := dec.Token(); first != json.Delim('{') {
		return fmt.Errorf("is %s, it must be an object", kind(first))
	}
	seen := map[string]bool{}
	for dec.More() {
		t, _ := dec.Token()
		name := t.(string)
		value, _ := dec.Token()
		field := fields[name]
		text, ok := value.(string)
		switch {
		case field == nil:
			return fmt.Errorf("cannot be used: unknown field %.60q", name)
		case seen[name]:
			return fmt.Errorf("cannot be used: %s comes twice", name)
		case !ok && value != nil: // null is as good as absent
			return fmt.Errorf("cannot be used: %s is %s, it must be a string", name, kind(value))
		}
		*field, seen[name] = text, true
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

// fail answers an error of Rooms.
func (a *api) fail(w http.ResponseWriter, r *http.Request, op, room string, err error) {
	if r.Context().Err() != nil {
		// Usually the backend has gone and nobody reads this; but if it is we
		// who are in a hurry, it must not take silence for success.
		refuse(w, http.StatusServiceUnavailable, protocol.CodeUnavailable, "the request ended before its outcome was known; it is safe to repeat")
		return
	}
	status, code, message := a.errors(err)
	if status == http.StatusInternalServerError {
		a.log.Error("server api request failed", "op", op, "room", room, "code", code, "err", err)
	}
	refuse(w, status, protocol.Code(code), message)
}

func badParameter(w http.ResponseWriter, message string) {
	refuse(w, http.StatusBadRequest, protocol.CodeBadParameter, message)
}

func refuse(w http.ResponseWriter, status int, code protocol.Code, message string) {
	type failure struct {
		Code    protocol.Code `json:"code"`
		Message string        `json:"message"`
	}
	answer(w, status, struct {
		Error failure `json:"error"`
	}{failure{code, message}})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(encode(v), '\n')) // fails if the backend has gone
}

// encode is json.Marshal without the escapes that HTML would need, so that a
// room named "<a&b>" is readable. v is one of our own types: it cannot fail.
func encode(v any) []byte {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}
