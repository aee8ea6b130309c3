package client

import (
	"context"
	"time"

	"github.com/roomgate/roomgate/protocol"
)

// CreateRoom creates a room and enters it. It fails with
// [protocol.CodeRoomExists] if there is one.
func (c *Client) CreateRoom(ctx context.Context, info protocol.RoomBaseInfo, cfg *protocol.RoomConfig) (*protocol.Room, error) {
	return request[protocol.Room](ctx, c, protocol.MethodCreateRoom, protocol.EnterParams{RoomInfo: info, Config: cfg})
}

// JoinRoom enters a room that exists. It fails with [protocol.CodeNoRoom] if
// there is none.
func (c *Client) JoinRoom(ctx context.Context, roomID string) (*protocol.Room, error) {
	return request[protocol.Room](ctx, c, protocol.MethodJoinRoom, protocol.RoomParams{RoomID: roomID})
}

// EnterRoom enters a room, and creates it if there is none: only then do its
// name and cfg count.
func (c *Client) EnterRoom(ctx context.Context, info protocol.RoomBaseInfo, cfg *protocol.RoomConfig) (*protocol.Room, error) {
	return request[protocol.Room](ctx, c, protocol.MethodEnterRoom, protocol.EnterParams{RoomInfo: info, Config: cfg})
}

// SwitchRoom leaves one room and enters another, in one step. If there is none
// and mayCreate is set it is created, and only then do its name and cfg count;
// otherwise the call fails with [protocol.CodeNoRoom] and nothing is left.
func (c *Client) SwitchRoom(ctx context.Context, fromRoomID string, to protocol.RoomBaseInfo, mayCreate bool, cfg *protocol.RoomConfig) (*protocol.Room, error) {
	return request[protocol.Room](ctx, c, protocol.MethodSwitchRoom, protocol.SwitchParams{
		FromRoomID: fromRoomID, ToRoomInfo: to, IsCreateWhenRoomNotExisted: mayCreate, Config: cfg,
	})
}

// LeaveRoom leaves a room.
func (c *Client) LeaveRoom(ctx context.Context, roomID string) error {
	return c.Call(ctx, protocol.MethodLeaveRoom, protocol.RoomParams{RoomID: roomID}, nil)
}

// LeaveAllRoom leaves all rooms of this session and says which.
func (c *Client) LeaveAllRoom(ctx context.Context) ([]string, error) {
	r, err := request[protocol.LeaveAllResult](ctx, c, protocol.MethodLeaveAllRoom, nil)
	if err != nil {
		return nil, err
	}
	return r.RoomIDs, nil
}

// SendRoomMessage sends a message to the others in a room and returns it as
// they get it. The caller must be in the room.
func (c *Client) SendRoomMessage(ctx context.Context, roomID string, msg protocol.OutgoingMessage, cfg *protocol.SendConfig) (*protocol.Message, error) {
	r, err := request[protocol.SendResult](ctx, c, protocol.MethodSendRoomMessage,
		protocol.SendParams{RoomID: roomID, Message: msg, Config: cfg})
	if err != nil {
		return nil, err
	}
	return &r.Message, nil
}

// A MemberList is one page of the members of a room, and the position at which
// they were so. An empty NextFlag means that it is the last.
type MemberList struct {
	RoomID     string              `json:"roomID"`
	MemberList []protocol.UserInfo `json:"memberList"`
	NextFlag   string              `json:"nextFlag"`
	protocol.Position
}

// QueryRoomMemberList returns a page of the members of a room, in the order in
// which they came. The next page has the NextFlag of the one before.
func (c *Client) QueryRoomMemberList(ctx context.Context, roomID string, page protocol.PageConfig) (*MemberList, error) {
	return request[MemberList](ctx, c, protocol.MethodQueryRoomMemberList,
		protocol.MemberListParams{RoomID: roomID, Config: page})
}

// Members are some of the members of a room, and the position at which they
// were so.
type Members struct {
	RoomID        string               `json:"roomID"`
	MemberList    []protocol.UserInfo  `json:"memberList"`
	ErrorUserList []protocol.UserError `json:"errorUserList"` // those who are not in the room
	protocol.Position
}

// QueryRoomMembers looks up to 10 users up in a room.
func (c *Client) QueryRoomMembers(ctx context.Context, roomID string, userIDs []string) (*Members, error) {
	return request[Members](ctx, c, protocol.MethodQueryRoomMembers,
		protocol.MembersParams{RoomID: roomID, UserIDs: userIDs})
}

// QueryRoomOnlineMemberCount counts the members of a room.
func (c *Client) QueryRoomOnlineMemberCount(ctx context.Context, roomID string) (*protocol.CountResult, error) {
	return request[protocol.CountResult](ctx, c, protocol.MethodQueryRoomOnlineMemberCount,
		protocol.RoomParams{RoomID: roomID})
}

// A History is a stretch of the messages that a room keeps, oldest first. NextSeq is the
// BeforeSeq that gives what was before, 0 if there is nothing.
type History struct {
	RoomID      string             `json:"roomID"`
	MessageList []protocol.Message `json:"messageList"`
	NextSeq     int64              `json:"nextSeq"`
	protocol.Position
}

// QueryRoomHistory returns messages that a room still keeps, also those from before the
// caller came. It fails with [protocol.CodeMethodNotFound] where the operator has not
// turned it on.
func (c *Client) QueryRoomHistory(ctx context.Context, roomID string, cfg protocol.HistoryConfig) (*History, error) {
	return request[History](ctx, c, protocol.MethodQueryRoomHistory, protocol.HistoryParams{RoomID: roomID, Config: cfg})
}

// Ping asks the gateway for its time. The client watches its link by itself;
// this is for measuring, and for waiting until there is one.
func (c *Client) Ping(ctx context.Context) (time.Time, error) {
	r, err := request[protocol.PingResult](ctx, c, protocol.MethodPing, nil)
	if err != nil {
		return time.Time{}, err
	}
	return time.UnixMilli(r.ServerTime), nil
}

// RenewToken replaces the token of the session, and of later logins. It returns
// when the new one expires; the zero time means never.
func (c *Client) RenewToken(ctx context.Context, token string) (time.Time, error) {
	r, err := request[protocol.RenewTokenResult](ctx, c, protocol.MethodRenewToken, protocol.RenewTokenParams{Token: token})
	if err != nil {
		return time.Time{}, err
	}
	c.mu.Lock()
	c.token = token
	c.mu.Unlock()
	if r.TokenExpiresAt == 0 {
		return time.Time{}, nil
	}
	return time.UnixMilli(r.TokenExpiresAt), nil
}

// Logout ends the session: the user leaves all its rooms at once. The client
// ends by itself soon after, with [ErrLoggedOut]; Close must still be called.
// If Logout is refused the client lives on, and if its context ends first it
// may do either.
func (c *Client) Logout(ctx context.Context) error {
	return c.Call(ctx, protocol.MethodLogout, nil, nil)
}

func request[R any](ctx context.Context, c *Client, method string, params any) (*R, error) {
	r := new(R)
	if err := c.Call(ctx, method, params, r); err != nil {
		return nil, err
	}
	return r, nil
}
