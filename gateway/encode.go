package gateway

import (
	"encoding/json"
	"strconv"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// This file is where the store's events become the wire's. What is sent to
// many is built by hand, once; IDs need no escaping, since no character that
// they may have does.

// notification frames an event for one client.
func notification(method string, params any) []byte {
	b, err := json.Marshal(params)
	if err != nil {
		panic("gateway: " + method + ": " + err.Error()) // our own types always encode
	}
	return textFrame(len(b)+64, func(out []byte) []byte {
		out = append(out, `{"jsonrpc":"2.0","method":"`...)
		out = append(out, method...)
		out = append(out, `","params":`...)
		out = append(out, b...)
		return append(out, '}')
	})
}

func roomState(room roomstore.RoomID, state protocol.RoomState, event protocol.RoomEvent) []byte {
	return notification(protocol.EventRoomStateChanged, protocol.RoomStateChanged{
		RoomID: string(room), State: state, Event: event,
	})
}

func roomConnected(room roomstore.RoomID, at roomstore.Position) []byte {
	return notification(protocol.EventRoomStateChanged, protocol.RoomStateChanged{
		RoomID: string(room), State: protocol.RoomConnected, Event: protocol.RoomSuccess, Epoch: at.Epoch, Seq: at.Seq,
	})
}

func roomOver(room roomstore.RoomID, event protocol.RoomEvent, extended string) []byte {
	return notification(protocol.EventRoomStateChanged, protocol.RoomStateChanged{
		RoomID: string(room), State: protocol.RoomDisconnected, Event: event, ExtendedData: extended,
	})
}

func historyLost(room roomstore.RoomID, from, to int64) []byte {
	return notification(protocol.EventRoomHistoryLost, protocol.HistoryLost{RoomID: string(room), FromSeq: from, ToSeq: to})
}

// membersPosition is what an event about members says of the log: a JSON
// member, and its value.
type membersPosition struct {
	name string
	seq  int64
}

// seqOf moves the client's position.
func seqOf(seq int64) membersPosition { return membersPosition{`,"seq":`, seq} }

// membersSeqOf does not: it says up to where the client knows of members.
func membersSeqOf(seq int64) membersPosition { return membersPosition{`,"membersSeq":`, seq} }

var noPosition membersPosition

// membersFrame frames entries or departures: each of data is what others see
// of a user, as JSON.
func membersFrame(method string, room roomstore.RoomID, data []string, count int64, at membersPosition) []byte {
	size := 160 + len(room)
	for _, d := range data {
		size += len(d) + 1
	}
	return textFrame(size, func(b []byte) []byte {
		b = append(b, `{"jsonrpc":"2.0","method":"`...)
		b = append(b, method...)
		b = append(b, `","params":{"roomID":"`...)
		b = append(b, room...)
		b = append(b, `","memberList":[`...)
		for i, d := range data {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, d...)
		}
		b = append(b, `],"memberCount":`...)
		b = strconv.AppendInt(b, count, 10)
		if at != noPosition {
			b = append(b, at.name...)
			b = strconv.AppendInt(b, at.seq, 10)
		}
		return append(b, "}}"...)
	})
}

// messageReceived frames a message. Its payload is the message as its sender's
// gateway wrote it, a JSON object; what only the store knew is put behind.
func messageReceived(room roomstore.RoomID, e roomstore.Event) []byte {
	return messageFrame(room, e, 0)
}

// messageFrame is messageReceived that also says, unless it is 0, up to where
// the client knows of members.
func messageFrame(room roomstore.RoomID, e roomstore.Event, membersSeq int64) []byte {
	return textFrame(320+2*len(room)+len(e.Data), func(b []byte) []byte {
		b = append(b, `{"jsonrpc":"2.0","method":"roomMessageReceived","params":{"fromConversationID":"`...)
		b = append(b, room...)
		b = append(b, `","messageList":[`...)
		b = appendMessage(b, e.Data, e.MessageID, e.MessageSeq, e.OrderKey, e.At)
		b = append(b, `],"info":{"isOfflineMessage":false},"`...)
		if e.Kind == roomstore.KindCommand {
			b = append(b, "after"...)
		} else {
			b = append(b, "seq"...)
		}
		b = append(b, `":`...)
		b = strconv.AppendInt(b, e.Seq, 10)
		if membersSeq > 0 {
			b = append(b, `,"membersSeq":`...)
			b = strconv.AppendInt(b, membersSeq, 10)
		}
		return append(b, "}}"...)
	})
}

func appendMessage(b []byte, payload, id string, messageSeq, orderKey, timestamp int64) []byte {
	b = append(b, payload[:len(payload)-1]...) // without its closing brace
	b = append(b, `,"messageID":"`...)
	b = append(b, id...)
	b = append(b, `","messageSeq":`...)
	b = strconv.AppendInt(b, messageSeq, 10)
	b = append(b, `,"orderKey":`...)
	b = strconv.AppendInt(b, orderKey, 10)
	b = append(b, `,"timestamp":`...)
	b = strconv.AppendInt(b, timestamp, 10)
	return append(b, '}')
}

// messagePayload is what is stored and passed on of a message: all of
// [protocol.Message] that the sender's gateway knows.
type messagePayload struct {
	Type             protocol.MessageType     `json:"type"`
	Message          string                   `json:"message"`
	SubType          int                      `json:"subType"`
	ExtendedData     string                   `json:"extendedData"`
	Priority         protocol.MessagePriority `json:"priority"`
	SenderUserID     string                   `json:"senderUserID"`
	ConversationID   string                   `json:"conversationID"`
	ConversationType int                      `json:"conversationType"`
}

// encoded gives the JSON of one of our own types.
func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("gateway: " + err.Error())
	}
	return b
}

// resultText is the JSON-RPC answer to the request with this id.
func resultText(id json.RawMessage, result []byte) []byte {
	return appendResult(make([]byte, 0, resultRoom+len(id)+len(result)), id, result)
}

// resultRoom is what an answer is longer than its parts.
const resultRoom = 40

func appendResult(b []byte, id json.RawMessage, result []byte) []byte {
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = append(b, id...)
	b = append(b, `,"result":`...)
	b = append(b, result...)
	return append(b, '}')
}

func errorText(id json.RawMessage, e *protocol.Error) []byte {
	if len(id) == 0 {
		id = json.RawMessage("null")
	}
	return encoded(protocol.Response{JSONRPC: protocol.Version, ID: id, Error: e})
}

func textOf(b []byte) []byte {
	return textFrame(len(b), func(out []byte) []byte { return append(out, b...) })
}
