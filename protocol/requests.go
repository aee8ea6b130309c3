package protocol

import "encoding/json"

// Fields marked required:"true" must be present, and not null; what they may
// hold is the gateway's business.

// UserInfo is what others see of a user.
type UserInfo struct {
	UserID           string `json:"userID"`
	UserName         string `json:"userName"`
	UserAvatarURL    string `json:"userAvatarUrl"`
	UserExtendedData string `json:"userExtendedData"`
}

// Position is a place in a room's log. Epoch names one life of the room ID;
// Seq counts the events of that life from 1, without holes.
type Position struct {
	Epoch int64 `json:"epoch"`
	Seq   int64 `json:"seq"`
}

// LoginParams are the parameters of "login".
type LoginParams struct {
	UserID           string  `json:"userID" required:"true"`
	UserName         string  `json:"userName,omitempty"`
	UserAvatarURL    string  `json:"userAvatarUrl,omitempty"`
	UserExtendedData string  `json:"userExtendedData,omitempty"`
	Token            string  `json:"token,omitempty"`
	DeviceID         string  `json:"deviceID,omitempty"`
	Platform         string  `json:"platform,omitempty"`
	SDKVersion       string  `json:"sdkVersion,omitempty"`
	Resume           *Resume `json:"resume,omitempty"`
}

// Resume asks to go on with an earlier session.
type Resume struct {
	SessionID string       `json:"sessionID" required:"true"`
	Rooms     []ResumeRoom `json:"rooms,omitempty"`
}

// ResumeRoom names a room and the position up to which the client knows it.
// MembersSeq may be added if the client has been told of members further than
// that (see [MembersChanged]), so that it does not hear the same again.
type ResumeRoom struct {
	RoomID string `json:"roomID" required:"true"`
	Position
	MembersSeq int64 `json:"membersSeq,omitempty"`
}

// LoginResult answers "login". Times are unix milliseconds.
type LoginResult struct {
	SessionID           string `json:"sessionID"`
	UserID              string `json:"userID"`
	Resumed             bool   `json:"resumed"`
	Node                string `json:"node"`
	ServerTime          int64  `json:"serverTime"`
	HeartbeatIntervalMS int64  `json:"heartbeatIntervalMs"`
	SessionTTLMS        int64  `json:"sessionTTLMs"`
	TokenExpiresAt      int64  `json:"tokenExpiresAt,omitempty"`
}

// RenewTokenParams are the parameters of "renewToken".
type RenewTokenParams struct {
	Token string `json:"token" required:"true"`
}

// RenewTokenResult answers "renewToken", in unix milliseconds; 0 means never.
type RenewTokenResult struct {
	TokenExpiresAt int64 `json:"tokenExpiresAt"`
}

// PingResult answers "ping", in unix milliseconds.
type PingResult struct {
	ServerTime int64 `json:"serverTime"`
}

// RoomBaseInfo names a room.
type RoomBaseInfo struct {
	RoomID   string `json:"roomID" required:"true"`
	RoomName string `json:"roomName"`
}

// RoomConfig is given when a room is created.
type RoomConfig struct {
	RoomAttributes map[string]string `json:"roomAttributes,omitempty"`
	// RoomDestroyDelayTime is in whole seconds. It is read as any JSON number,
	// so that a fraction is refused as a value rather than as a type.
	RoomDestroyDelayTime float64 `json:"roomDestroyDelayTime,omitempty"`
}

// EnterParams are the parameters of "createRoom" and "enterRoom".
type EnterParams struct {
	RoomInfo   RoomBaseInfo `json:"roomInfo" required:"true"`
	Config     *RoomConfig  `json:"config,omitempty"`
	RequestKey int64        `json:"requestKey,omitempty"`
}

// SwitchParams are the parameters of "switchRoom".
type SwitchParams struct {
	FromRoomID                 string       `json:"fromRoomID" required:"true"`
	ToRoomInfo                 RoomBaseInfo `json:"toRoomInfo" required:"true"`
	IsCreateWhenRoomNotExisted bool         `json:"isCreateWhenRoomNotExisted"`
	Config                     *RoomConfig  `json:"config,omitempty"`
	RequestKey                 int64        `json:"requestKey,omitempty"`
}

// RoomParams are the parameters of "joinRoom", "leaveRoom",
// "queryRoomOnlineMemberCount" and "queryRoomAllAttributes".
type RoomParams struct {
	RoomID     string `json:"roomID" required:"true"`
	RequestKey int64  `json:"requestKey,omitempty"`
}

// LeaveAllParams are the parameters of "leaveAllRoom".
type LeaveAllParams struct {
	RequestKey int64 `json:"requestKey,omitempty"`
}

// Room is the result of an entry; the position is the one right after it.
type Room struct {
	RoomInfo RoomFullInfo `json:"roomInfo"`
	Created  bool         `json:"created"`
	Position
	MemberCount int64 `json:"memberCount"`
}

// RoomFullInfo wraps a room's base info, as in ZIM.
type RoomFullInfo struct {
	BaseInfo RoomBaseInfo `json:"baseInfo"`
}

// LeaveResult answers "leaveRoom".
type LeaveResult struct {
	RoomID string `json:"roomID"`
}

// LeaveAllResult answers "leaveAllRoom".
type LeaveAllResult struct {
	RoomIDs []string `json:"roomIDs"`
}

// OutgoingMessage is a message as its sender writes it.
type OutgoingMessage struct {
	Type         MessageType `json:"type" required:"true"`
	Message      string      `json:"message" required:"true"` // base64 if Type is MessageCommand
	SubType      int         `json:"subType,omitempty"`
	ExtendedData string      `json:"extendedData,omitempty"`
}

// SendConfig says how a message is sent.
type SendConfig struct {
	Priority MessagePriority `json:"priority,omitempty"` // PriorityLow if absent
}

// SendParams are the parameters of "sendRoomMessage".
type SendParams struct {
	RoomID     string          `json:"roomID" required:"true"`
	Message    OutgoingMessage `json:"message" required:"true"`
	Config     *SendConfig     `json:"config,omitempty"`
	RequestKey int64           `json:"requestKey,omitempty"`
}

// Message is a message as it was stored and is delivered.
type Message struct {
	Type             MessageType     `json:"type"`
	Message          string          `json:"message"`
	SubType          int             `json:"subType"`
	ExtendedData     string          `json:"extendedData"`
	Priority         MessagePriority `json:"priority"`
	SenderUserID     string          `json:"senderUserID"`
	ConversationID   string          `json:"conversationID"`
	ConversationType int             `json:"conversationType"` // always 1, a room
	MessageID        string          `json:"messageID"`
	MessageSeq       int64           `json:"messageSeq"` // counts the kept messages of the room's life
	OrderKey         int64           `json:"orderKey"`
	Timestamp        int64           `json:"timestamp"` // unix milliseconds
}

// SendResult answers "sendRoomMessage". Epoch and Seq are the position of a text
// or custom message, which its sender gets no event of; others have none.
type SendResult struct {
	Message Message `json:"message"`
	Epoch   int64   `json:"epoch,omitempty"`
	Seq     int64   `json:"seq,omitempty"`
}

// PageConfig asks for one page. An empty NextFlag asks for the first.
type PageConfig struct {
	Count    int    `json:"count" required:"true"` // 1–100
	NextFlag string `json:"nextFlag"`
}

// MemberListParams are the parameters of "queryRoomMemberList" and
// "queryRoomMemberAttributesList".
type MemberListParams struct {
	RoomID string     `json:"roomID" required:"true"`
	Config PageConfig `json:"config" required:"true"`
}

// MemberListResult answers "queryRoomMemberList". An empty NextFlag means that
// this was the last page.
type MemberListResult struct {
	RoomID     string            `json:"roomID"`
	MemberList []json.RawMessage `json:"memberList"` // each a UserInfo
	NextFlag   string            `json:"nextFlag"`
	Position
}

// MembersParams are the parameters of "queryRoomMembers". A user named twice is
// answered once.
type MembersParams struct {
	UserIDs []string `json:"userIDs" required:"true"` // 1–10
	RoomID  string   `json:"roomID" required:"true"`
}

// MembersResult answers "queryRoomMembers".
type MembersResult struct {
	RoomID        string            `json:"roomID"`
	MemberList    []json.RawMessage `json:"memberList"` // each a UserInfo
	ErrorUserList []UserError       `json:"errorUserList"`
	Position
}

// UserError says why one user of several could not be served.
type UserError struct {
	UserID string `json:"userID"`
	Reason Code   `json:"reason"`
}

// CountResult answers "queryRoomOnlineMemberCount".
type CountResult struct {
	RoomID string `json:"roomID"`
	Count  int64  `json:"count"`
	Position
}

// HistoryConfig asks for messages whose MessageSeq is below BeforeSeq; 0: the newest.
type HistoryConfig struct {
	Count     int   `json:"count" required:"true"` // 1–100
	BeforeSeq int64 `json:"beforeSeq,omitempty"`
}

// HistoryParams are the parameters of "queryRoomHistory".
type HistoryParams struct {
	RoomID string        `json:"roomID" required:"true"`
	Config HistoryConfig `json:"config" required:"true"`
}

// HistoryResult answers "queryRoomHistory", oldest first. NextSeq is the BeforeSeq that
// gives what was before; 0 means that there is nothing.
type HistoryResult struct {
	RoomID      string            `json:"roomID"`
	MessageList []json.RawMessage `json:"messageList"` // each a Message
	NextSeq     int64             `json:"nextSeq"`
	Position
}

// AllAttributesResult answers "queryRoomAllAttributes".
type AllAttributesResult struct {
	RoomID         string            `json:"roomID"`
	RoomAttributes map[string]string `json:"roomAttributes"`
	Position
}

// AttributesConfig says how room attributes are changed. Only IsForce matters
// where they are deleted.
type AttributesConfig struct {
	IsForce                bool `json:"isForce"`                // also those of other owners
	IsUpdateOwner          bool `json:"isUpdateOwner"`          // who sets them owns them from now on
	IsDeleteAfterOwnerLeft bool `json:"isDeleteAfterOwnerLeft"` // they go when their owner leaves
}

// SetAttributesParams are the parameters of "setRoomAttributes".
type SetAttributesParams struct {
	RoomID         string            `json:"roomID" required:"true"`
	RoomAttributes map[string]string `json:"roomAttributes" required:"true"`
	Config         *AttributesConfig `json:"config,omitempty"`
	RequestKey     int64             `json:"requestKey,omitempty"`
}

// DeleteAttributesParams are the parameters of "deleteRoomAttributes".
type DeleteAttributesParams struct {
	RoomID     string            `json:"roomID" required:"true"`
	Keys       []string          `json:"keys" required:"true"`
	Config     *AttributesConfig `json:"config,omitempty"`
	RequestKey int64             `json:"requestKey,omitempty"`
}

// AttributesOperation is one of a batch: RoomAttributes are set, or Keys deleted.
type AttributesOperation struct {
	Action         AttributesAction  `json:"action" required:"true"`
	RoomAttributes map[string]string `json:"roomAttributes,omitempty"`
	Keys           []string          `json:"keys,omitempty"`
}

// BatchAttributesParams are the parameters of "batchRoomAttributes". The
// operations are carried out one after another, all at once for everybody else.
type BatchAttributesParams struct {
	RoomID     string                `json:"roomID" required:"true"`
	Operations []AttributesOperation `json:"operations" required:"true"`
	Config     *AttributesConfig     `json:"config,omitempty"`
	RequestKey int64                 `json:"requestKey,omitempty"`
}

// AttributesResult answers "setRoomAttributes", "deleteRoomAttributes" and
// "batchRoomAttributes". ErrorKeys belong to other owners, and were not changed.
type AttributesResult struct {
	RoomID    string   `json:"roomID"`
	ErrorKeys []string `json:"errorKeys"`
}

// MemberAttributesConfig says how attributes of members are set.
type MemberAttributesConfig struct {
	IsDeleteAfterOwnerLeft *bool `json:"isDeleteAfterOwnerLeft,omitempty"` // they go when the member leaves; true if absent
}

// SetMembersAttributesParams are the parameters of "setRoomMembersAttributes": each of
// the users gets the attributes.
type SetMembersAttributesParams struct {
	RoomID     string                  `json:"roomID" required:"true"`
	UserIDs    []string                `json:"userIDs" required:"true"` // 1–100
	Attributes map[string]string       `json:"attributes" required:"true"`
	Config     *MemberAttributesConfig `json:"config,omitempty"`
	RequestKey int64                   `json:"requestKey,omitempty"`
}

// MemberAttributes are attributes of one member.
type MemberAttributes struct {
	UserID     string            `json:"userID"`
	Attributes map[string]string `json:"attributes"`
}

// MemberAttributesSet is what became of one user's: those set, and the keys that were
// too many, or too long together.
type MemberAttributesSet struct {
	AttributesInfo MemberAttributes `json:"attributesInfo"`
	ErrorKeys      []string         `json:"errorKeys"`
}

// SetMembersAttributesResult answers "setRoomMembersAttributes". ErrorUserList are
// those who are not in the room, or for whom it has too many users with attributes.
type SetMembersAttributesResult struct {
	RoomID        string                `json:"roomID"`
	Infos         []MemberAttributesSet `json:"infos"`
	ErrorUserList []string              `json:"errorUserList"`
}

// MembersAttributesParams are the parameters of "queryRoomMembersAttributes".
type MembersAttributesParams struct {
	RoomID  string   `json:"roomID" required:"true"`
	UserIDs []string `json:"userIDs" required:"true"` // 1–100
}

// MembersAttributesResult answers "queryRoomMembersAttributes". Users who are not in
// the room, or have no attributes, are not in it.
type MembersAttributesResult struct {
	RoomID string             `json:"roomID"`
	Infos  []MemberAttributes `json:"infos"`
	Position
}

// MemberAttributesListResult answers "queryRoomMemberAttributesList", by userID. An
// empty NextFlag means that this was the last page.
type MemberAttributesListResult struct {
	RoomID   string             `json:"roomID"`
	Infos    []MemberAttributes `json:"infos"`
	NextFlag string             `json:"nextFlag"`
	Position
}
