package gateway

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strconv"

	"golang.org/x/time/rate"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// prepareSend checks a message before its turn.
func (c *conn) prepareSend(p *protocol.SendParams) (prepared, *protocol.Error) {
	room, err := roomstore.ParseRoomID(p.RoomID)
	if err != nil {
		return prepared{}, wireError(err, "")
	}
	if err := checkRequestKey(p.RequestKey); err != nil {
		return prepared{}, err
	}
	priority, bad := checkMessage(&p.Message, p.Config)
	if bad != nil {
		return prepared{}, bad
	}
	switch p.Message.Type {
	case protocol.MessageText, protocol.MessageCustom:
		if c.fast(func(r *rates) *rate.Limiter { return r.messages }) {
			return prepared{}, fail(protocol.CodeTooFast, "more than %v text and custom messages a second", c.rates.messages.Limit())
		}
	case protocol.MessageCommand:
		if c.fast(func(r *rates) *rate.Limiter { return r.commands }) {
			return prepared{}, fail(protocol.CodeTooFast, "more than %v commands a second", c.rates.commands.Limit())
		}
	}
	return c.changing([]roomstore.RoomID{room}, func(s *session, answer reply) func() {
		return c.send(s, room, p, priority, answer)
	})
}

// send serves sendRoomMessage. The payload is encoded here, once for the whole
// cluster; the answer takes its place among the room's events.
func (c *conn) send(s *session, room roomstore.RoomID, p *protocol.SendParams, priority protocol.MessagePriority, answer reply) func() {
	payload := storedMessage(&p.Message, priority, string(s.who.User), room)
	m := roomstore.Message{Room: room, ID: newMessageID(), Priority: int(priority), Payload: string(payload)}
	call := func(ctx context.Context) (roomstore.Sent, error) { return c.g.store.Relay(ctx, s.who, m) }
	if p.Message.Type.Kept() {
		m.RequestKey = s.key(p.RequestKey)
		call = func(ctx context.Context) (roomstore.Sent, error) { return c.g.store.Send(ctx, s.who, m) }
	}
	sent, open, err := attempt(c, call)
	if err != nil {
		switch {
		case errors.Is(err, roomstore.ErrFenced):
			s.fenced()
		case errors.Is(err, roomstore.ErrNoRoom):
			answer(nil, fail(protocol.CodeMessageNoRoom, "%s: %q", roomstore.ErrNoRoom, room))
		default:
			answer(nil, wireError(err, string(room)))
		}
		if open && m.RequestKey != "" {
			// Until it is known, what this connection sends next to the room
			// waits: order in is order out.
			return func() { pursue(c, call) }
		}
		return c.strange(s, room, err)
	}
	c.g.stats.Messages.Add(1)
	result := append(make([]byte, 0, len(m.Payload)+200), `{"message":`...)
	result = appendMessage(result, m.Payload, sent.ID, sent.MessageSeq, sent.OrderKey, sent.Timestamp)
	c.inOrder(s, room, sent.Position, func(inTurn bool) {
		if inTurn && p.Message.Type.Kept() {
			// The sender's position moves on, since no event of it will come.
			result = strconv.AppendInt(append(result, `,"epoch":`...), sent.Epoch, 10)
			result = strconv.AppendInt(append(result, `,"seq":`...), sent.Seq, 10)
		}
		answer(json.RawMessage(append(result, '}')), nil)
	})
	return nil
}

// storedMessage gives what is stored and passed on of a message.
func storedMessage(m *protocol.OutgoingMessage, priority protocol.MessagePriority, sender string, room roomstore.RoomID) []byte {
	return encoded(messagePayload{
		Type: m.Type, Message: m.Message, SubType: m.SubType, ExtendedData: m.ExtendedData, Priority: priority,
		SenderUserID: sender, ConversationID: string(room), ConversationType: 1,
	})
}

// inOrder gives an answer its place among the events of a room. inTurn is false
// if some of those before it may still come: then they are late inside the
// service, and the answer does not wait any longer.
func (c *conn) inOrder(s *session, room roomstore.RoomID, at roomstore.Position, say func(inTurn bool)) {
	f := s.in(room)
	if f == nil {
		say(false)
		return
	}
	done := make(chan struct{})
	f.after(s.who.ID, at, func() { say(f.at.Epoch == at.Epoch && f.at.Seq >= at.Seq); close(done) })
	<-done
}

// newMessageID makes a number of 63 random bits, as text.
func newMessageID() string {
	var b [8]byte
	rand.Read(b[:])
	return strconv.FormatUint(binary.BigEndian.Uint64(b[:])>>1, 10)
}
