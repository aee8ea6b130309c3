// Package protocol is the wire contract between clients and a gateway: the
// JSON-RPC 2.0 envelope, the parameters and results of each method, the events,
// and the numbers that mean something to a client. It holds types and
// constants and no behaviour; testdata/ holds golden messages that every
// client library, in any language, is held to.
package protocol

import "encoding/json"

// Subprotocol is the WebSocket subprotocol of this version of the contract.
// A client that offers no subprotocol is served the same.
const Subprotocol = "roomgate.v1"

// Path is where a gateway accepts WebSockets.
const Path = "/v1/ws"

// Version is the value of the "jsonrpc" member of every message (JSON-RPC 2.0, section 4).
const Version = "2.0"

const (
	// MaxMessage is the largest message a client may send, in bytes.
	MaxMessage = 64 << 10
	// MaxBatch is the largest number of requests in one JSON-RPC batch.
	MaxBatch = 64
	// MaxUnanswered is how many state-changing requests of one connection may
	// be without their answer at once.
	MaxUnanswered = 32
	// RequestKeysKept is how many applied outcomes of a session can still be
	// asked for again under their requestKey.
	RequestKeysKept = 64
)

// A Request is one call of a client. Without an ID it is carried out and not
// answered.
type Request struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id,omitempty"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
}

// A Response answers the request with the same ID: either Result or Error is
// set.
type Response struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *Error          `json:"error,omitempty"`
}

// A Notification is an event: a message from the gateway that answers nothing.
type Notification struct {
	JSONRPC string          `json:"jsonrpc"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
}

// An Error says why a request was not carried out. Message is a sentence for a
// person and may change; Code is for programs and may not.
type Error struct {
	Code    Code       `json:"code"`
	Message string     `json:"message"`
	Data    *ErrorData `json:"data,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// ErrorData is what a program may want to know beside the code.
type ErrorData struct {
	// Retryable says that the same request, under the same requestKey, may be
	// sent again and can then succeed.
	Retryable bool `json:"retryable"`
}

// Methods of requests.
const (
	MethodLogin                      = "login"
	MethodLogout                     = "logout"
	MethodRenewToken                 = "renewToken"
	MethodPing                       = "ping"
	MethodCreateRoom                 = "createRoom"
	MethodJoinRoom                   = "joinRoom"
	MethodEnterRoom                  = "enterRoom"
	MethodSwitchRoom                 = "switchRoom"
	MethodLeaveRoom                  = "leaveRoom"
	MethodLeaveAllRoom               = "leaveAllRoom"
	MethodSendRoomMessage            = "sendRoomMessage"
	MethodQueryRoomMemberList        = "queryRoomMemberList"
	MethodQueryRoomMembers           = "queryRoomMembers"
	MethodQueryRoomOnlineMemberCount = "queryRoomOnlineMemberCount"
	MethodSetRoomAttributes          = "setRoomAttributes"
	MethodDeleteRoomAttributes       = "deleteRoomAttributes"
	MethodBatchRoomAttributes        = "batchRoomAttributes"
	MethodQueryRoomAllAttributes     = "queryRoomAllAttributes"
	MethodSetRoomMembersAttributes   = "setRoomMembersAttributes"
	MethodQueryRoomMembersAttributes = "queryRoomMembersAttributes"
	MethodQueryRoomHistory           = "queryRoomHistory"
	// It has a page of members and their attributes.
	MethodQueryRoomMemberAttributesList = "queryRoomMemberAttributesList"
)

// Methods of events.
const (
	EventRoomStateChanged            = "roomStateChanged"
	EventRoomMemberJoined            = "roomMemberJoined"
	EventRoomMemberLeft              = "roomMemberLeft"
	EventRoomMessageReceived         = "roomMessageReceived"
	EventRoomAttributesUpdated       = "roomAttributesUpdated"
	EventRoomAttributesBatchUpdated  = "roomAttributesBatchUpdated"
	EventRoomMemberAttributesUpdated = "roomMemberAttributesUpdated"
	EventRoomModeChanged             = "roomModeChanged"
	EventRoomHistoryLost             = "roomHistoryLost"
	EventConnectionStateChanged      = "connectionStateChanged"
	EventTokenWillExpire             = "tokenWillExpire"
	EventServerDraining              = "serverDraining"
)
