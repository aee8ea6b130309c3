package gateway

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/roomgate/roomgate/gateway/auth"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// errUnavailable means that the store did not answer in time.
var errUnavailable = errors.New("the room store did not answer in time; nothing changed, or the outcome is not known yet")

// fail makes an error for a client.
func fail(code protocol.Code, format string, args ...any) *protocol.Error {
	return &protocol.Error{Code: code, Message: fmt.Sprintf(format, args...)}
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
	{roomstore.ErrNoRoom, protocol.CodeNoRoom},
	{roomstore.ErrNotMember, protocol.CodeNotInRoom},
	{roomstore.ErrRoomLimit, protocol.CodeRoomLimit},
	{roomstore.ErrUserLimit, protocol.CodeUserRoomLimit},
	{roomstore.ErrFenced, protocol.CodeNotLoggedIn},
}

// wireError says to a client what err means, about the room or user named.
func wireError(err error, on string) *protocol.Error {
	if e := (*protocol.Error)(nil); errors.As(err, &e) {
		return e
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			if c.err == roomstore.ErrBadID || on == "" {
				return fail(c.code, "%s", sentence(err))
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
	e := fail(protocol.CodeUnavailable, "%s", errUnavailable)
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
	case protocol.CodeBadParameter:
		status = http.StatusBadRequest
	case protocol.CodeNoRoom, protocol.CodeNotInRoom:
		status = http.StatusNotFound
	case protocol.CodeUnavailable:
		status = http.StatusServiceUnavailable
	default:
		status = http.StatusInternalServerError
	}
	return status, int(e.Code), e.Message
}
