// Package serverapi is the HTTP interface for backends and the console: what rooms
// there are, who is in them and what happens there; it creates and ends rooms, sends
// to them and removes users from them. It knows HTTP, JSON and API keys; what a room
// is, and what its ID may look like, is the business of the Rooms it is given.
//
// docs/openapi.yaml describes it.
//
// The roomID is escaped as a URL path segment (RFC 3986): "a b?" is a%20b%3F.
// Every request carries "Authorization: Bearer KEY". Success is 200, or 201, and a
// JSON object, but for the events of a room, which are a stream; anything else is
// {"error":{"code":6000001,"message":"…"}}, where code is one of the numbers of the
// protocol and message is a sentence for a person.
package serverapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"github.com/roomgate/roomgate/protocol"
)

// Limits of a request.
const (
	MaxBody    = 64 << 10 // bytes of the body
	MaxReason  = 256      // bytes of the reason of a kick
	MaxMessage = 1 << 10  // bytes of the message of a kick
	MaxCount   = 100      // of a page
	MaxSearch  = 128      // bytes of what the IDs of rooms begin with
)

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

// An API is the handler of everything under /v1/rooms, and of /v1/cluster.
type API struct {
	rooms  Rooms
	routes chi.Router
	keys   [][sha256.Size]byte
	errors func(error) (status, code int, message string)
	log    *slog.Logger
}

// New returns the handler. It looks at the path as the client sent it, so it can be
// mounted in any router that hands the request on unchanged; net/http's ServeMux does
// not for a room named "..".
func New(rooms Rooms, cfg Config) *API {
	a := &API{rooms: rooms, errors: cfg.Errors, log: cfg.Log}
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
			"no such resource; the server API has /v1/rooms, /v1/rooms/{roomID} and, below that, members, messages, events and kick, with roomID escaped as a path segment; and /v1/cluster")
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusMethodNotAllowed, protocol.CodeMethodNotFound, fmt.Sprintf("no %.20s here", r.Method))
	})
	r.Group(func(r chi.Router) {
		r.Use(a.authorize)
		r.Get("/v1/rooms", a.list)
		r.Post("/v1/rooms", a.create)
		r.Get("/v1/rooms/{roomID}", a.room)
		r.Delete("/v1/rooms/{roomID}", a.destroy)
		r.Get("/v1/rooms/{roomID}/members", a.members)
		r.Get("/v1/rooms/{roomID}/events", a.events)
		r.Post("/v1/rooms/{roomID}/messages", a.send)
		r.Post("/v1/rooms/{roomID}/kick", a.kick)
		r.Get("/v1/cluster", a.cluster)
	})
	a.routes = r
	return a
}

// Routes are the paths it serves, for a router that it is mounted in.
var Routes = []string{"/v1/rooms", "/v1/rooms/*", "/v1/cluster"}

// Walk calls visit for each method and path that is served.
func (a *API) Walk(visit func(method, path string)) {
	chi.Walk(a.routes, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		visit(method, route)
		return nil
	})
}

func (a *API) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	// By itself chi matches the escaped path for some requests and the
	// unescaped one for others, and a handler cannot tell which: a room
	// named "%41" would be taken for "A". Always the escaped one, and a
	// routing context of our own, for the outer router has left its marks
	// in the one it passes on.
	route := chi.NewRouteContext()
	route.RoutePath = req.URL.EscapedPath()
	a.routes.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), chi.RouteCtxKey, route)))
}

// authorize lets requests through that carry one of the keys.
func (a *API) authorize(next http.Handler) http.Handler {
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
func (a *API) known(key string) bool {
	sum := sha256.Sum256([]byte(key))
	found := 0
	for i := range a.keys {
		found |= subtle.ConstantTimeCompare(sum[:], a.keys[i][:])
	}
	return found == 1
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

// fail answers an error of Rooms.
func (a *API) fail(w http.ResponseWriter, r *http.Request, op, room string, err error) {
	if r.Context().Err() != nil {
		// Usually the backend has gone and nobody reads this; but if it is we
		// who are in a hurry, it must not take silence for success.
		refuse(w, http.StatusServiceUnavailable, protocol.CodeUnavailable, "the request ended before its outcome was known")
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
