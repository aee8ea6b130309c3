package client

import (
	"bytes"
	"encoding/json"

	"github.com/roomgate/roomgate/protocol"
)

// An Event is one of the pointer types below. They have the fields of the
// protocol type they are made of.
type Event interface{ event() }

// The events. A client makes some itself when its link is lost and when it is
// back; see [Dial].
type (
	// ConnectionStateChanged says where the client stands with the service.
	ConnectionStateChanged protocol.ConnectionStateChanged
	// RoomStateChanged says where the client stands with a room.
	RoomStateChanged protocol.RoomStateChanged
	// MemberJoined lists others who came into a room.
	MemberJoined protocol.MembersChanged
	// MemberLeft lists others who left a room.
	MemberLeft protocol.MembersChanged
	// MessageReceived brings messages of others.
	MessageReceived protocol.MessageReceived
	// AttributesUpdated says what attributes of a room were set, or deleted.
	AttributesUpdated protocol.AttributesUpdated
	// AttributesBatchUpdated says what was set and deleted at once.
	AttributesBatchUpdated protocol.AttributesUpdated
	// MemberAttributesUpdated says what attributes of members were set.
	MemberAttributesUpdated protocol.MemberAttributesUpdated
	// RoomModeChanged says whether all entries and departures are told, or some: then
	// only the counts of MemberJoined and MemberLeft are exact.
	RoomModeChanged protocol.RoomModeChanged
	// HistoryLost says that events of a room were missed for good. The client
	// keeps no picture of a room; whoever does has to query it anew.
	HistoryLost protocol.HistoryLost
	// TokenWillExpire asks for [Client.RenewToken].
	TokenWillExpire protocol.TokenWillExpire
	// ServerDraining says that the gateway will stop. The client moves to
	// another by itself when the time has come.
	ServerDraining protocol.ServerDraining
)

// A RawEvent is one that was not decoded: this package has no type for it, or
// Config.RawEvents is set. RoomID and Seq are empty if it has none.
type RawEvent struct {
	Method string
	RoomID string
	Seq    int64
	Params json.RawMessage
}

func (*ConnectionStateChanged) event()  {}
func (*RoomStateChanged) event()        {}
func (*MemberJoined) event()            {}
func (*MemberLeft) event()              {}
func (*MessageReceived) event()         {}
func (*AttributesUpdated) event()       {}
func (*AttributesBatchUpdated) event()  {}
func (*MemberAttributesUpdated) event() {}
func (*RoomModeChanged) event()         {}
func (*HistoryLost) event()             {}
func (*TokenWillExpire) event()         {}
func (*ServerDraining) event()          {}
func (*RawEvent) event()                {}

// A place is the room an event belongs to, and its seq there if it has one; or,
// if it says up to where the client knows of members, its membersSeq.
type place struct {
	RoomID  string
	Seq     int64
	Members int64
}

// decodeEvent decodes a notification. The event shares no memory with params.
// With raw, only what the client itself has to know is decoded.
func decodeEvent(method, params []byte, raw bool) (Event, place, error) {
	switch string(method) {
	case protocol.EventRoomStateChanged:
		ev := new(RoomStateChanged)
		return ev, place{}, json.Unmarshal(params, ev)
	case protocol.EventRoomHistoryLost:
		ev := new(HistoryLost)
		return ev, place{}, json.Unmarshal(params, ev)
	case protocol.EventConnectionStateChanged:
		ev := new(ConnectionStateChanged)
		return ev, place{}, json.Unmarshal(params, ev)
	case protocol.EventTokenWillExpire:
		ev := new(TokenWillExpire)
		return ev, place{}, json.Unmarshal(params, ev)
	case protocol.EventServerDraining:
		ev := new(ServerDraining)
		return ev, place{}, json.Unmarshal(params, ev)
	}
	if !raw {
		switch string(method) {
		case protocol.EventRoomMessageReceived:
			ev := new(MessageReceived)
			err := json.Unmarshal(params, ev)
			return ev, place{ev.FromConversationID, ev.Seq, ev.MembersSeq}, err
		case protocol.EventRoomMemberJoined:
			ev := new(MemberJoined)
			err := json.Unmarshal(params, ev)
			return ev, place{ev.RoomID, ev.Seq, ev.MembersSeq}, err
		case protocol.EventRoomMemberLeft:
			ev := new(MemberLeft)
			err := json.Unmarshal(params, ev)
			return ev, place{ev.RoomID, ev.Seq, ev.MembersSeq}, err
		case protocol.EventRoomAttributesUpdated:
			ev := new(AttributesUpdated)
			err := json.Unmarshal(params, ev)
			return ev, place{ev.RoomID, ev.Seq, ev.MembersSeq}, err
		case protocol.EventRoomModeChanged:
			ev := new(RoomModeChanged)
			err := json.Unmarshal(params, ev)
			return ev, place{RoomID: ev.RoomID}, err // its seq is where the client is already
		case protocol.EventRoomAttributesBatchUpdated:
			ev := new(AttributesBatchUpdated)
			err := json.Unmarshal(params, ev)
			return ev, place{ev.RoomID, ev.Seq, ev.MembersSeq}, err
		case protocol.EventRoomMemberAttributesUpdated:
			ev := new(MemberAttributesUpdated)
			err := json.Unmarshal(params, ev)
			return ev, place{ev.RoomID, ev.Seq, ev.MembersSeq}, err
		}
	}
	// It may well be an event of a room and move its position, whatever it says.
	if params == nil {
		params = []byte("{}")
	}
	at, err := splitParams(params)
	if err != nil {
		return nil, at, err
	}
	return &RawEvent{Method: string(method), RoomID: at.RoomID, Seq: at.Seq, Params: bytes.Clone(params)}, at, nil
}
