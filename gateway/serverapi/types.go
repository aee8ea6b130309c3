package serverapi

import (
	"context"

	"github.com/roomgate/roomgate/protocol"
)

// Rooms is what the API does to rooms. All methods check the IDs, cursors and texts
// they are given; their errors are told apart by Config.Errors. Those that change
// nothing, Destroy and Kick are safe to repeat.
type Rooms interface {
	// List gives rooms whose IDs begin with search, in their order: those behind
	// nextFlag, "" for the first page, and at most count of them.
	List(ctx context.Context, search, nextFlag string, count int) (RoomPage, error)
	// Room tells of one room, with its attributes.
	Room(ctx context.Context, room string) (RoomDetail, error)
	// Members gives members of a room, in the order of their entry, likewise.
	Members(ctx context.Context, room, nextFlag string, count int) (MemberPage, error)
	// Create creates a room with nobody in it.
	Create(ctx context.Context, n NewRoom) (RoomDetail, error)
	// Send sends a message to a room. A repeat is another message.
	Send(ctx context.Context, room string, m NewMessage) (SentMessage, error)
	// Watch follows what happens in a room, from the event with this seq on, or with
	// 0 from now on. epoch is the one that from is of, 0: that of now. The caller must
	// close it.
	Watch(ctx context.Context, room string, from, epoch int64) (Watch, error)
	// Destroy ends a room at once, for everyone in it.
	Destroy(ctx context.Context, room string) error
	// Kick removes a user from a room, on all devices. The user's clients get
	// extendedData, which is a JSON object as a string.
	Kick(ctx context.Context, room, user string, extendedData string) error
	// Cluster tells of the deployment.
	Cluster(ctx context.Context) (Cluster, error)
}

// A Watch is what happens in a room, for one reader.
type Watch interface {
	// Next gives what has happened since the last call, at least one event and about
	// 16 KiB at most, as soon as there is one; none if ctx ends before. After the event
	// that ends a watch there is none.
	Next(ctx context.Context) []Event
	Close()
}

// An Event is one of a stream. docs/openapi.yaml has the names, and what Data is.
type Event struct {
	Name string
	Seq  int64 // 0 if it has none
	Data any   // that can be encoded as JSON
	Last bool  // the stream ends with it
}

// Times are unix ms on Redis's clock.

// Room is one of a list.
type Room struct {
	RoomID               string `json:"roomID"`
	RoomName             string `json:"roomName"`
	MemberCount          int64  `json:"memberCount"`
	RoomDestroyDelayTime int    `json:"roomDestroyDelayTime"` // seconds
	CreatedAt            int64  `json:"createdAt"`
	Deadline             int64  `json:"deadline,omitempty"` // 0 while somebody is in it
	protocol.Position
}

// RoomPage is part of the list of rooms.
type RoomPage struct {
	RoomList   []Room `json:"roomList"`
	NextFlag   string `json:"nextFlag"` // "" if this was the last
	RoomCount  int64  `json:"roomCount"`
	ServerTime int64  `json:"serverTime"`
}

// RoomDetail is a room by itself.
type RoomDetail struct {
	Room
	RoomAttributes map[string]string `json:"roomAttributes"`
	ServerTime     int64             `json:"serverTime"`
}

// NewRoom asks for a room.
type NewRoom struct {
	RoomID               string
	RoomName             string
	RoomDestroyDelayTime int64 // seconds
	RoomAttributes       map[string]string
	CreatorUserID        string // "" for nobody
}

// Member is one of a room.
type Member struct {
	protocol.UserInfo
	JoinedAt int64       `json:"joinedAt,omitempty"` // 0 if it is not known
	State    MemberState `json:"state"`
	Node     string      `json:"node,omitempty"`     // that it is connected to
	Deadline int64       `json:"deadline,omitempty"` // of one who is away
}

// A MemberState says whether a member is there.
type MemberState string

// States of a member.
const (
	MemberConnected MemberState = "connected"
	MemberAway      MemberState = "away" // it keeps its place until its deadline
)

// MemberPage is part of a room's members.
type MemberPage struct {
	RoomID      string   `json:"roomID"`
	MemberList  []Member `json:"memberList"`
	NextFlag    string   `json:"nextFlag"` // "" if this was the last
	MemberCount int64    `json:"memberCount"`
	protocol.Position
	ServerTime int64 `json:"serverTime"`
}

// NewMessage is a message to a room, in the name of a user who need not be in it.
type NewMessage struct {
	SenderUserID string
	Message      protocol.OutgoingMessage
	Priority     int64 // 0 for the lowest
}

// SentMessage says where a message is among the others.
type SentMessage struct {
	RoomID     string `json:"roomID"`
	MessageID  string `json:"messageID"`
	MessageSeq int64  `json:"messageSeq"`
	OrderKey   int64  `json:"orderKey"`
	Timestamp  int64  `json:"timestamp"`
	Epoch      int64  `json:"epoch"`
	Seq        int64  `json:"seq,omitempty"`   // of one that is kept
	After      *int64 `json:"after,omitempty"` // the seq that one that is not kept comes after
}

// Cluster is a deployment.
type Cluster struct {
	Gateways   []Gateway `json:"gateways"`
	RoomCount  int64     `json:"roomCount"`
	ServerTime int64     `json:"serverTime"`
}

// Gateway is one that holds a lease. What it says of itself is missing if it is of
// another version, or has not said it yet.
type Gateway struct {
	Node        string `json:"node"`
	LeaseLeftMS int64  `json:"leaseLeftMs"`
	*GatewayState
}

// GatewayState is what a gateway says of itself.
type GatewayState struct {
	Name                 string  `json:"name"`
	Version              string  `json:"version"`
	Since                int64   `json:"since"`
	Draining             bool    `json:"draining"`
	Connections          int     `json:"connections"`
	Sessions             int     `json:"sessions"`
	Rooms                int     `json:"rooms"` // with members there
	ConnectionsPerSecond float64 `json:"connectionsPerSecond"`
	MessagesPerSecond    float64 `json:"messagesPerSecond"`
	DeliveriesPerSecond  float64 `json:"deliveriesPerSecond"`
}
