package protocol

// RoomStateChanged are the parameters of "roomStateChanged". Epoch and Seq come
// with (connected, success): the position from here on.
type RoomStateChanged struct {
	RoomID       string    `json:"roomID"`
	State        RoomState `json:"state"`
	Event        RoomEvent `json:"event"`
	ExtendedData string    `json:"extendedData"`
	Epoch        int64     `json:"epoch,omitempty"`
	Seq          int64     `json:"seq,omitempty"`
}

// MembersChanged are the parameters of "roomMemberJoined" and
// "roomMemberLeft". Seq is that of the last change contained. The difference
// that a client hears on coming back has MembersSeq instead if missed messages
// follow it: they, and not it, move the client's position. MemberList is then
// empty if nobody was missed in the end.
type MembersChanged struct {
	RoomID      string     `json:"roomID"`
	MemberList  []UserInfo `json:"memberList"`
	MemberCount int64      `json:"memberCount"`
	Seq         int64      `json:"seq,omitempty"`
	MembersSeq  int64      `json:"membersSeq,omitempty"`
}

// MessageReceived are the parameters of "roomMessageReceived". Text and custom
// messages have Seq; commands and barrages have After, the room's seq when
// they were sent. The first one that a client hears on coming back may have
// MembersSeq, as [MembersChanged] has it, if there is no difference to tell.
type MessageReceived struct {
	FromConversationID string      `json:"fromConversationID"`
	MessageList        []Message   `json:"messageList"`
	Info               MessageInfo `json:"info"`
	Seq                int64       `json:"seq,omitempty"`
	After              *int64      `json:"after,omitempty"`
	MembersSeq         int64       `json:"membersSeq,omitempty"`
}

// MessageInfo is there for ZIM's sake; IsOfflineMessage is always false.
type MessageInfo struct {
	IsOfflineMessage bool `json:"isOfflineMessage"`
}

// AttributesUpdated are the parameters of "roomAttributesUpdated", and, where one
// operation has set and deleted attributes, of "roomAttributesBatchUpdated". They
// may have MembersSeq as [MessageReceived] has it.
type AttributesUpdated struct {
	RoomID       string            `json:"roomID"`
	Infos        []AttributesInfo  `json:"infos"` // what was set comes before what was deleted
	OperatedInfo AttributeOperator `json:"operatedInfo"`
	Seq          int64             `json:"seq"`
	MembersSeq   int64             `json:"membersSeq,omitempty"`
}

// AttributesInfo is one change of room attributes; deleted keys have the value "".
type AttributesInfo struct {
	Action         AttributesAction  `json:"action"`
	RoomAttributes map[string]string `json:"roomAttributes"`
}

// AttributeOperator is who changed attributes.
type AttributeOperator struct {
	UserID string `json:"userID"`
}

// MemberAttributesUpdated are the parameters of "roomMemberAttributesUpdated":
// what was set, by user. They may have MembersSeq as [MessageReceived] has it.
type MemberAttributesUpdated struct {
	RoomID       string                 `json:"roomID"`
	Infos        []MemberAttributesInfo `json:"infos"`
	OperatedInfo AttributeOperator      `json:"operatedInfo"`
	Seq          int64                  `json:"seq"`
	MembersSeq   int64                  `json:"membersSeq,omitempty"`
}

// MemberAttributesInfo wraps a member's attributes, as in ZIM.
type MemberAttributesInfo struct {
	AttributesInfo MemberAttributes `json:"attributesInfo"`
}

// RoomModeChanged are the parameters of "roomModeChanged": from Seq on the client is told of
// all entries and departures ([ModeFull]), or of some ([ModeSampled]). It is no event of
// the room: Seq is where the client is, and nothing to drop it for.
type RoomModeChanged struct {
	RoomID string   `json:"roomID"`
	Mode   RoomMode `json:"mode"`
	Seq    int64    `json:"seq"`
}

// HistoryLost are the parameters of "roomHistoryLost": events in
// (FromSeq, ToSeq] were missed and cannot be had any more.
type HistoryLost struct {
	RoomID  string `json:"roomID"`
	FromSeq int64  `json:"fromSeq"`
	ToSeq   int64  `json:"toSeq"`
}

// ConnectionStateChanged are the parameters of "connectionStateChanged".
type ConnectionStateChanged struct {
	State        ConnectionState `json:"state"`
	Event        ConnectionEvent `json:"event"`
	ExtendedData string          `json:"extendedData"`
}

// TokenWillExpire are the parameters of "tokenWillExpire", in seconds from now.
type TokenWillExpire struct {
	Second int64 `json:"second"`
}

// ServerDraining are the parameters of "serverDraining": come back on another
// gateway after that many milliseconds.
type ServerDraining struct {
	ReconnectAfterMS int64 `json:"reconnectAfterMs"`
}
