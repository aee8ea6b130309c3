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

// SetRoomAttributes sets attributes of a room that the caller is in. Keys that belong to
// others are left as they are, and returned, unless cfg forces them; if all do, it fails
// with [protocol.CodeAttributesLocked].
//
// The caller hears of the change, too, by an event behind the answer.
func (c *Client) SetRoomAttributes(ctx context.Context, roomID string, attributes map[string]string, cfg *protocol.AttributesConfig) (errorKeys []string, err error) {
	return errorKeysOf(request[protocol.AttributesResult](ctx, c, protocol.MethodSetRoomAttributes,
		protocol.SetAttributesParams{RoomID: roomID, RoomAttributes: attributes, Config: cfg}))
}

// DeleteRoomAttributes deletes attributes of a room, as [Client.SetRoomAttributes] sets
// them. A key that is not there is deleted already.
func (c *Client) DeleteRoomAttributes(ctx context.Context, roomID string, keys []string, cfg *protocol.AttributesConfig) (errorKeys []string, err error) {
	return errorKeysOf(request[protocol.AttributesResult](ctx, c, protocol.MethodDeleteRoomAttributes,
		protocol.DeleteAttributesParams{RoomID: roomID, Keys: keys, Config: cfg}))
}

// BatchRoomAttributes sets and deletes attributes of a room in the order given, all at
// once for everybody else.
func (c *Client) BatchRoomAttributes(ctx context.Context, roomID string, operations []protocol.AttributesOperation, cfg *protocol.AttributesConfig) (errorKeys []string, err error) {
	return errorKeysOf(request[protocol.AttributesResult](ctx, c, protocol.MethodBatchRoomAttributes,
		protocol.BatchAttributesParams{RoomID: roomID, Operations: operations, Config: cfg}))
}

func errorKeysOf(r *protocol.AttributesResult, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	return r.ErrorKeys, nil
}

// SetRoomMembersAttributes gives attributes to each of up to 100 members of a room.
// What cannot be set for one of them is said in the result.
func (c *Client) SetRoomMembersAttributes(ctx context.Context, roomID string, userIDs []string, attributes map[string]string, cfg *protocol.MemberAttributesConfig) (*protocol.SetMembersAttributesResult, error) {
	return request[protocol.SetMembersAttributesResult](ctx, c, protocol.MethodSetRoomMembersAttributes,
		protocol.SetMembersAttributesParams{RoomID: roomID, UserIDs: userIDs, Attributes: attributes, Config: cfg})
}

// QueryRoomMembersAttributes returns the attributes of up to 100 members of a room; who
// has none is not in the result.
func (c *Client) QueryRoomMembersAttributes(ctx context.Context, roomID string, userIDs []string) (*protocol.MembersAttributesResult, error) {
	return request[protocol.MembersAttributesResult](ctx, c, protocol.MethodQueryRoomMembersAttributes,
		protocol.MembersAttributesParams{RoomID: roomID, UserIDs: userIDs})
}

// QueryRoomMemberAttributesList returns a page of the members that have attributes, by
// userID. The next page has the NextFlag of the one before.
func (c *Client) QueryRoomMemberAttributesList(ctx context.Context, roomID string, page protocol.PageConfig) (*protocol.MemberAttributesListResult, error) {
	return request[protocol.MemberAttributesListResult](ctx, c, protocol.MethodQueryRoomMemberAttributesList,
		protocol.MemberListParams{RoomID: roomID, Config: page})
}
