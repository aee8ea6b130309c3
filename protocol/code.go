package protocol

// A Code says what is wrong with a request. The positive numbers are those of
// ZIM where ZIM has one; the negative ones are JSON-RPC 2.0's (section 5.1).
type Code int

// Error codes.
const (
	CodeParseError     Code = -32700 // the text is not JSON
	CodeInvalidRequest Code = -32600 // JSON, but not a JSON-RPC 2.0 request
	CodeMethodNotFound Code = -32601
	CodeInvalidParams  Code = -32602 // a required parameter is missing or of the wrong JSON type
	CodeInternal       Code = -32603 // a fault of the server; it is in its log

	CodeBadParameter     Code = 6000001 // the right type with a value that is not allowed
	CodeTooFast          Code = 6000005 // over a rate, or too many requests unanswered
	CodeUnavailable      Code = 6000007 // Redis did not answer; nothing changed or the outcome is unknown
	CodeBadToken         Code = 6000103
	CodeTokenExpired     Code = 6000106
	CodeAlreadyLoggedIn  Code = 6000111
	CodeNotLoggedIn      Code = 6000121
	CodeMessageNoRoom    Code = 6000204 // a message to a room that does not exist
	CodeRoomFull         Code = 6000304
	CodeLeaveNoRoom      Code = 6000306 // leaving a room that does not exist
	CodeNotInRoom        Code = 6000321
	CodeNoRoom           Code = 6000322
	CodeRoomExists       Code = 6000323
	CodeRoomLimit        Code = 6000324 // rooms that exist at once
	CodeUserRoomLimit    Code = 6000325 // rooms one user is in at once
	CodeRoomBusy         Code = 6000326 // another request about this room is under way
	CodeBlocked          Code = 6000327
	CodeAttributesLocked Code = 6000331 // every key belongs to another owner
	CodeAttributeCount   Code = 6000334
	CodeAttributeKey     Code = 6000335
	CodeAttributeValue   Code = 6000336
	CodeAttributesSize   Code = 6000337

	CodeMemberAttributeCount Code = 6000350 // of one user
	CodeMemberAttributesSize Code = 6000351 // likewise
	CodeMemberAttributeKey   Code = 6000352
	CodeMemberAttributeValue Code = 6000353
	CodeMemberAttributeUsers Code = 6000357 // users of a room that have attributes
)

// A CloseCode is the status of a WebSocket close frame (RFC 6455, section 7.4).
type CloseCode int

// Close codes. 4000–4499 and 1001, 1012, 1013 mean "come back and resume";
// 4500–4999 and 1009 mean "do not".
const (
	CloseNormal         CloseCode = 1000 // after logout
	CloseGoingAway      CloseCode = 1001 // the gateway drains
	CloseTooBig         CloseCode = 1009 // a message over MaxMessage
	CloseServiceRestart CloseCode = 1012 // the gateway lost its lease and starts anew
	CloseTryAgainLater  CloseCode = 1013 // no room for another connection here

	CloseLoginTimeout CloseCode = 4001 // no successful login in time
	CloseNoSignOfLife CloseCode = 4002 // nothing heard for the session TTL
	CloseSlowConsumer CloseCode = 4008 // the client reads more slowly than its rooms speak

	CloseNotThisProtocol CloseCode = 4500 // binary frames, or text that is not JSON again and again
	CloseNotAuthorised   CloseCode = 4503 // the third failed login, or the token expired
	CloseKickedByLogin   CloseCode = 4509 // another login of this user took the device's turn
	CloseTakenOver       CloseCode = 4510 // a newer connection took the session over
	CloseRateAbuse       CloseCode = 4511 // far over the rates, again and again
)

// Reconnect says whether a client should connect again after this close code.
func (c CloseCode) Reconnect() bool {
	switch {
	case c == CloseNormal || c == CloseTooBig:
		return false
	default:
		return c < 4500
	}
}

// A CloseReason may be the text of a close frame whose code asks to come back.
type CloseReason struct {
	// ReconnectAfterMS is how long to wait first, in milliseconds.
	ReconnectAfterMS int64 `json:"reconnectAfterMs"`
}
