package client

import (
	"context"

	"github.com/roomgate/roomgate/protocol"
)

// QueryRoomAllAttributes returns all attributes of a room, none if it has none,
// and the position at which they were so. The caller must be in the room.
//
// Who enters a room that has attributes is told them, by an [*AttributesUpdated]
// before the room is connected. This is for whoever missed that: after
// [*HistoryLost], or after an entry whose answer was lost and that was repeated.
func (c *Client) QueryRoomAllAttributes(ctx context.Context, roomID string) (*protocol.AllAttributesResult, error) {
	return request[protocol.AllAttributesResult](ctx, c, protocol.MethodQueryRoomAllAttributes,
		protocol.RoomParams{RoomID: roomID})
}
