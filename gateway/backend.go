package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/roomgate/roomgate/gateway/serverapi"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// backend is a gateway as the server API uses it.
type backend struct{ g *Gateway }

// within bounds a call to the store.
func (b backend) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, b.g.cfg.RedisTimeout)
}

func (b backend) List(ctx context.Context, search, nextFlag string, count int) (serverapi.RoomPage, error) {
	if search != "" {
		if err := roomstore.CheckSearch(search); err != nil {
			return serverapi.RoomPage{}, err
		}
	}
	var after roomstore.RoomID
	if nextFlag != "" {
		id, err := roomstore.ParseRoomID(nextFlag)
		if err != nil || !strings.HasPrefix(nextFlag, search) {
			return serverapi.RoomPage{}, badParameter("nextFlag %.60q is not one that a page of this search gave", nextFlag)
		}
		after = id
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	page, err := b.g.store.Rooms(ctx, search, after, count)
	if err != nil {
		return serverapi.RoomPage{}, err
	}
	list := serverapi.RoomPage{
		RoomList: []serverapi.Room{}, NextFlag: string(page.Next), RoomCount: page.Matching, ServerTime: unixMilli(page.Now),
	}
	for _, r := range page.Rooms {
		list.RoomList = append(list.RoomList, apiRoom(r))
	}
	return list, nil
}

func apiRoom(r roomstore.Room) serverapi.Room {
	return serverapi.Room{
		RoomID: string(r.ID), RoomName: r.Name, MemberCount: r.Members, RoomDestroyDelayTime: r.Delay,
		CreatedAt: unixMilli(r.Created), Deadline: unixMilli(r.Deadline), Position: protocol.Position(r.Position),
	}
}

// unixMilli is 0 for the zero time.
func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func roomDetail(r roomstore.Room, now time.Time) serverapi.RoomDetail {
	return serverapi.RoomDetail{Room: apiRoom(r), RoomAttributes: r.Attributes, ServerTime: unixMilli(now)}
}

func (b backend) Room(ctx context.Context, room string) (serverapi.RoomDetail, error) {
	id, err := roomstore.ParseRoomID(room)
	if err != nil {
		return serverapi.RoomDetail{}, err
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	r, now, err := b.g.store.Room(ctx, id)
	if err != nil {
		return serverapi.RoomDetail{}, err
	}
	return roomDetail(r, now), nil
}

func (b backend) Members(ctx context.Context, room, nextFlag string, count int) (serverapi.MemberPage, error) {
	id, err := roomstore.ParseRoomID(room)
	if err != nil {
		return serverapi.MemberPage{}, err
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	page, err := b.g.store.Roster(ctx, id, nextFlag, count)
	if err != nil {
		return serverapi.MemberPage{}, err
	}
	list := serverapi.MemberPage{
		RoomID: room, MemberList: []serverapi.Member{}, NextFlag: page.Next, MemberCount: page.Count,
		Position: protocol.Position(page.Position), ServerTime: unixMilli(page.Now),
	}
	for _, m := range page.Members {
		member := serverapi.Member{
			UserInfo: infoOf(m.User, m.Data), JoinedAt: unixMilli(m.Joined),
			State: serverapi.MemberConnected, Node: m.Node, Deadline: unixMilli(m.Deadline),
		}
		if m.Node == "" {
			member.State = serverapi.MemberAway
		}
		list.MemberList = append(list.MemberList, member)
	}
	return list, nil
}

// infoOf reads what others see of a user, as userInfo wrote it.
func infoOf(user roomstore.UserID, data string) (info protocol.UserInfo) {
	_ = json.Unmarshal([]byte(data), &info) // of what no gateway wrote there is the ID
	info.UserID = string(user)
	return info
}

func (b backend) Create(ctx context.Context, n serverapi.NewRoom) (serverapi.RoomDetail, error) {
	id, err := roomstore.ParseRoomID(n.RoomID)
	if err != nil {
		return serverapi.RoomDetail{}, err
	}
	ask := roomstore.NewRoom{ID: id, Name: n.RoomName, Attributes: n.RoomAttributes}
	if err := checkText("roomName", n.RoomName, maxRoomName); err != nil {
		return serverapi.RoomDetail{}, err
	}
	delay, bad := delayOf(float64(n.RoomDestroyDelayTime))
	if bad != nil {
		return serverapi.RoomDetail{}, bad
	}
	ask.Delay = delay
	if err := checkAttributes(n.RoomAttributes); err != nil {
		return serverapi.RoomDetail{}, err
	}
	if n.CreatorUserID != "" {
		if ask.Creator, err = roomstore.ParseUserID(n.CreatorUserID); err != nil {
			return serverapi.RoomDetail{}, badID("creatorUserID", err)
		}
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	r, now, err := b.g.store.Create(ctx, ask)
	if err != nil {
		return serverapi.RoomDetail{}, err
	}
	return roomDetail(r, now), nil
}

func (b backend) Send(ctx context.Context, room string, m serverapi.NewMessage) (serverapi.SentMessage, error) {
	id, err := roomstore.ParseRoomID(room)
	if err != nil {
		return serverapi.SentMessage{}, err
	}
	sender, err := roomstore.ParseUserID(m.SenderUserID)
	if err != nil {
		return serverapi.SentMessage{}, badID("senderUserID", err)
	}
	priority, bad := checkMessage(&m.Message, &protocol.SendConfig{Priority: protocol.MessagePriority(m.Priority)})
	if bad != nil {
		// Here these fields stand by themselves.
		bad.Message = strings.TrimPrefix(strings.TrimPrefix(bad.Message, "message."), "config.")
		return serverapi.SentMessage{}, bad
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	msg := roomstore.Message{Room: id, ID: newMessageID(), Payload: string(storedMessage(&m.Message, priority, string(sender), id))}
	kept := m.Message.Type.Kept()
	if !kept {
		msg.Priority = int(priority)
	}
	sent, err := b.g.store.Post(ctx, sender, msg)
	if errors.Is(err, roomstore.ErrNoRoom) {
		return serverapi.SentMessage{}, fail(protocol.CodeMessageNoRoom, "%s: %q", roomstore.ErrNoRoom, room)
	}
	if err != nil {
		return serverapi.SentMessage{}, err
	}
	b.g.stats.Messages.Add(1)
	result := serverapi.SentMessage{
		RoomID: room, MessageID: sent.ID, MessageSeq: sent.MessageSeq, OrderKey: sent.OrderKey, Timestamp: sent.Timestamp, Epoch: sent.Epoch,
	}
	if kept {
		result.Seq = sent.Seq
	} else {
		result.After = &sent.Seq
	}
	return result, nil
}

func (b backend) Watch(ctx context.Context, room string, from, epoch int64) (serverapi.Watch, error) {
	id, err := roomstore.ParseRoomID(room)
	if err != nil {
		return nil, err
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	w, err := b.g.hub.watch(ctx, id, from, epoch)
	if err != nil {
		return nil, err // not the nil watcher, which is a Watch that is not nil
	}
	return w, nil
}

func (b backend) Destroy(ctx context.Context, room string) error {
	id, err := roomstore.ParseRoomID(room)
	if err != nil {
		return err
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	return b.g.store.Destroy(ctx, id)
}

func (b backend) Kick(ctx context.Context, room, user string, extendedData string) error {
	id, err := roomstore.ParseRoomID(room)
	if err != nil {
		return err
	}
	who, err := roomstore.ParseUserID(user)
	if err != nil {
		return err
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	return b.g.store.Kick(ctx, id, who, extendedData)
}

func (b backend) Cluster(ctx context.Context) (serverapi.Cluster, error) {
	ctx, cancel := b.within(ctx)
	defer cancel()
	known, err := b.g.store.Cluster(ctx)
	if err != nil {
		return serverapi.Cluster{}, err
	}
	c := serverapi.Cluster{Gateways: []serverapi.Gateway{}, RoomCount: known.Rooms, ServerTime: unixMilli(known.Now)}
	for _, n := range known.Nodes {
		gw := serverapi.Gateway{Node: n.ID, LeaseLeftMS: n.Left.Milliseconds()}
		if a := n.About; a != nil {
			gw.GatewayState = &serverapi.GatewayState{
				Name: a.Name, Version: a.Version, Since: unixMilli(a.Since), Draining: a.Draining,
				Connections: a.Connections, Sessions: a.Sessions, Rooms: a.Rooms,
				ConnectionsPerSecond: a.Accepted, MessagesPerSecond: a.Messages, DeliveriesPerSecond: a.Deliveries,
			}
		}
		c.Gateways = append(c.Gateways, gw)
	}
	return c, nil
}
