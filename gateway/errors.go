package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/roomgate/roomgate/gateway/auth"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// errUnavailable means that the store did not answer in time.
var errUnavailable = errors.New("the room store did not answer in time; nothing changed, or the outcome is not known yet")

// fail makes an error for a client. Strings among the args are cut: what a
// client has sent does not come back to it, or into a log, at any length.
func fail(code protocol.Code, format string, args ...any) *protocol.Error {
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = cut(s)
		}
	}
	return &protocol.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// maxShown is how many bytes of a value an error shows: all of any ID.
const maxShown = 128

// cut shortens a value that is to be shown.
func cut(s string) string {
	if len(s) <= maxShown {
		return s
	}
	n := maxShown
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

func badParameter(format string, args ...any) *protocol.Error {
	return fail(protocol.CodeBadParameter, format, args...)
}

// codes maps the store's refusals to the wire's codes (docs/protocol.md).
var codes = []struct {
	err  error
	code protocol.Code
}{
	{roomstore.ErrBadID, protocol.CodeBadParameter},
	{roomstore.ErrBlocked, protocol.CodeBlocked},
	{roomstore.ErrExists, protocol.CodeRoomExists},
	{roomstore.ErrMisused, protocol.CodeBadParameter},
	{roomstore.ErrFull, protocol.CodeRoomFull},
	{roomstore.ErrLocked, protocol.CodeAttributesLocked},
	{roomstore.ErrNoRoom, protocol.CodeNoRoom},
	{roomstore.ErrNotMember, protocol.CodeNotInRoom},
	{roomstore.ErrRoomLimit, protocol.CodeRoomLimit},
	{roomstore.ErrUserLimit, protocol.CodeUserRoomLimit},
	{roomstore.ErrFenced, protocol.CodeNotLoggedIn},
}

// badID is [wireError] for a malformed ID among several: path says which.
func badID(path string, err error) *protocol.Error {
	return &protocol.Error{Code: protocol.CodeBadParameter, Message: path + ": " + sentence(err)}
}

// wireError says to a client what err means, about the room or user named.
func wireError(err error, on string) *protocol.Error {
	if e := (*protocol.Error)(nil); errors.As(err, &e) {
		return e
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			if c.err == roomstore.ErrBadID || on == "" {
				return &protocol.Error{Code: c.code, Message: sentence(err)}
			}
			return fail(c.code, "%s: %q", c.err, on)
		}
	}
	if errors.Is(err, roomstore.ErrMemory) {
		e := fail(protocol.CodeUnavailable, "the room store is full; nothing changed")
		e.Data = &protocol.ErrorData{Retryable: true}
		return e
	}
	if errors.Is(err, roomstore.ErrBadReply) {
		return fail(protocol.CodeInternal, "internal error; the gateway's log says more")
	}
	e := &protocol.Error{Code: protocol.CodeUnavailable, Message: errUnavailable.Error()}
	e.Data = &protocol.ErrorData{Retryable: true}
	return e
}

// sentence is the innermost text of a refusal that is fit to show.
func sentence(err error) string {
	if e := (*roomstore.OpError)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return err.Error()
}

// unknown says whether what err is about may have happened all the same.
func unknown(err error) bool {
	return err != nil && !roomstore.Refused(err) && !errors.Is(err, roomstore.ErrNotSent) &&
		!errors.Is(err, roomstore.ErrBusy) && !errors.Is(err, roomstore.ErrTerm)
}

// tokenCode maps what is wrong with a token to the wire's code.
func tokenCode(err error) protocol.Code {
	if errors.Is(err, auth.ErrExpired) {
		return protocol.CodeTokenExpired
	}
	return protocol.CodeBadToken
}

// HTTPError says what an error of the store means to a caller of the server
// API: the HTTP status, the wire's code, and a sentence.
func HTTPError(err error) (status, code int, message string) {
	e := wireError(err, "")
	switch e.Code {
	case protocol.CodeBadParameter, protocol.CodeAttributeCount, protocol.CodeAttributeKey,
		protocol.CodeAttributeValue, protocol.CodeAttributesSize:
		status = http.StatusBadRequest
	case protocol.CodeNoRoom, protocol.CodeNotInRoom, protocol.CodeMessageNoRoom:
		status = http.StatusNotFound
	case protocol.CodeRoomExists, protocol.CodeRoomLimit:
		status = http.StatusConflict
	case protocol.CodeTooFast:
		status = http.StatusTooManyRequests
	case protocol.CodeUnavailable:
		status = http.StatusServiceUnavailable
	default:
		status = http.StatusInternalServerError
	}
	return status, int(e.Code), e.Message
}
