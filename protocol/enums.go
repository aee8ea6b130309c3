package protocol

// RoomState is where a client stands with a room.
type RoomState string

// Room states.
const (
	RoomDisconnected RoomState = "disconnected"
	RoomConnecting   RoomState = "connecting"
	RoomConnected    RoomState = "connected"
)

// RoomEvent is why a room state changed.
type RoomEvent string

// Room events.
const (
	RoomSuccess                RoomEvent = "success"
	RoomNetworkInterrupted     RoomEvent = "networkInterrupted"
	RoomNetworkDisconnected    RoomEvent = "networkDisconnected"
	RoomNotExist               RoomEvent = "roomNotExist"
	RoomActiveCreate           RoomEvent = "activeCreate"
	RoomCreateFailed           RoomEvent = "createFailed"
	RoomActiveEnter            RoomEvent = "activeEnter"
	RoomEnterFailed            RoomEvent = "enterFailed"
	RoomKickedOut              RoomEvent = "kickedOut"
	RoomConnectTimeout         RoomEvent = "connectTimeout"
	RoomKickedOutByOtherDevice RoomEvent = "kickedOutByOtherDevice"
	RoomActiveSwitch           RoomEvent = "activeSwitch"
	RoomSwitchFailed           RoomEvent = "switchFailed"
)

// ConnectionState is where a client stands with the service.
type ConnectionState string

// Connection states.
const (
	ConnectionDisconnected ConnectionState = "disconnected"
	ConnectionConnecting   ConnectionState = "connecting"
	ConnectionConnected    ConnectionState = "connected"
	ConnectionReconnecting ConnectionState = "reconnecting"
)

// ConnectionEvent is why a connection state changed.
type ConnectionEvent string

// Connection events.
const (
	ConnectionSuccess          ConnectionEvent = "success"
	ConnectionActiveLogin      ConnectionEvent = "activeLogin"
	ConnectionLoginTimeout     ConnectionEvent = "loginTimeout"
	ConnectionLoginInterrupted ConnectionEvent = "loginInterrupted"
	ConnectionKickedOut        ConnectionEvent = "kickedOut"
	ConnectionTokenExpired     ConnectionEvent = "tokenExpired"
	ConnectionUnregistered     ConnectionEvent = "unregistered"
)

// MessageType is the kind of a room message. The numbers are ZIM's.
type MessageType int

// Message types.
const (
	MessageText    MessageType = 1
	MessageCommand MessageType = 2 // binary, base64 on the wire; delivered live only
	MessageBarrage MessageType = 20
	MessageCustom  MessageType = 200
)

// Kept says whether messages of this type are room events: numbered, kept for
// those who come back, and never shed.
func (t MessageType) Kept() bool { return t == MessageText || t == MessageCustom }

// MessagePriority decides which commands and barrages are shed first.
type MessagePriority int

// Message priorities.
const (
	PriorityLow    MessagePriority = 1
	PriorityMedium MessagePriority = 2
	PriorityHigh   MessagePriority = 3
)

// RoomMode is how members of a room hear of each other.
type RoomMode string

// Room modes. A client is in the full one until it is told otherwise, and again after
// each (connected, success).
const (
	ModeFull    RoomMode = "full"
	ModeSampled RoomMode = "sampled" // of very large rooms
)

// AttributesAction is what became of room attributes.
type AttributesAction string

// What can become of room attributes.
const (
	AttributesSet    AttributesAction = "set"
	AttributesDelete AttributesAction = "delete"
)
