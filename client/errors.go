package client

import (
	"errors"
	"fmt"

	"github.com/roomgate/roomgate/protocol"
)

// Why a client ended, or why a call was not answered.
var (
	// ErrClosed: [Client.Close] was called.
	ErrClosed = errors.New("client closed")
	// ErrLoggedOut: [Client.Logout] was answered.
	ErrLoggedOut = errors.New("logged out")
	// ErrSessionLost: the link was lost with the request under way, and by the
	// time the client was back its session had ended. The gateway no longer
	// knows what became of the request, and it was not sent again.
	ErrSessionLost = errors.New("session lost")
)

// An UnansweredError is what a call returns that got no answer, or none but that
// it may be sent again. Err says why: the cause of the context,
// [ErrSessionLost], or what ended the client; and the [*protocol.Error] of the
// last answer, if there was one.
type UnansweredError struct {
	Method string
	// Unknown says that the request was sent, so it may have been carried out
	// or may still be. If it is false, nothing happened and nothing will.
	Unknown bool
	Err     error
}

func (e *UnansweredError) Error() string {
	if e.Unknown {
		return fmt.Sprintf("%s: outcome unknown: %v", e.Method, e.Err)
	}
	return fmt.Sprintf("%s: not sent: %v", e.Method, e.Err)
}

// Unwrap returns e.Err.
func (e *UnansweredError) Unwrap() error { return e.Err }

// A CloseError is what ends a client whose connection the gateway closed with
// a code that says not to come back.
type CloseError struct {
	Code   protocol.CloseCode
	Reason string
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("connection closed with code %d", e.Code)
	}
	return fmt.Sprintf("connection closed with code %d: %s", e.Code, e.Reason)
}

// Reasons for a link to end that stay inside the package.
var (
	errMoved      = errors.New("moving to another gateway")
	errUnanswered = errors.New("ping unanswered")
	errNoLogin    = errors.New("no answer to the login in time")
)

// final says whether the client must not come back after err.
func final(err error) bool {
	if ce, ok := errors.AsType[*CloseError](err); ok {
		return !ce.Code.Reconnect()
	}
	if pe, ok := errors.AsType[*protocol.Error](err); ok { // of a login
		switch pe.Code {
		case protocol.CodeUnavailable, protocol.CodeTooFast, protocol.CodeInternal:
			return false
		}
		return pe.Data == nil || !pe.Data.Retryable
	}
	return errors.Is(err, ErrLoggedOut)
}

// takenOver says whether err is that the session goes on over another connection.
func takenOver(err error) bool {
	ce, ok := errors.AsType[*CloseError](err)
	return ok && ce.Code == protocol.CloseTakenOver
}

// endEvent is the connection event that tells of the end of a client.
func endEvent(err error) protocol.ConnectionEvent {
	if ce, ok := errors.AsType[*CloseError](err); ok {
		switch ce.Code {
		case protocol.CloseKickedByLogin, protocol.CloseTakenOver:
			return protocol.ConnectionKickedOut
		case protocol.CloseNotAuthorised:
			return protocol.ConnectionTokenExpired
		}
	}
	if pe, ok := errors.AsType[*protocol.Error](err); ok && pe.Code == protocol.CodeTokenExpired {
		return protocol.ConnectionTokenExpired
	}
	if errors.Is(err, ErrLoggedOut) {
		return protocol.ConnectionSuccess
	}
	return protocol.ConnectionLoginInterrupted
}
