package gateway

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

func (c *conn) queryMemberList(s *session, p *protocol.MemberListParams, answer reply) func() {
	room := roomstore.RoomID(p.RoomID)
	if err := checkPage(p.Config.Count); err != nil {
		answer(nil, err)
		return nil
	}
	page, _, err := attempt(c, func(ctx context.Context) (roomstore.Page, error) {
		return c.g.store.Members(ctx, s.who, room, p.Config.NextFlag, p.Config.Count)
	})
	return c.answerQuery(s, room, page.Position, err, answer, func() any {
		r := protocol.MemberListResult{
			RoomID: p.RoomID, NextFlag: page.Next, Position: protocol.Position(page.Position),
			MemberList: make([]json.RawMessage, len(page.Members)),
		}
		for i, data := range page.Members {
			r.MemberList[i] = json.RawMessage(data)
		}
		return r
	})
}

func (c *conn) queryMembers(s *session, p *protocol.MembersParams, answer reply) func() {
	room := roomstore.RoomID(p.RoomID)
	users, bad := parseUsers(p.UserIDs, maxLookup)
	if bad != nil {
		answer(nil, bad)
		return nil
	}
	type found struct {
		at   roomstore.Position
		data []string
	}
	got, _, err := attempt(c, func(ctx context.Context) (f found, err error) {
		f.at, f.data, err = c.g.store.MemberInfo(ctx, s.who, room, users)
		return f, err
	})
	return c.answerQuery(s, room, got.at, err, answer, func() any {
		r := protocol.MembersResult{
			RoomID: p.RoomID, Position: protocol.Position(got.at),
			MemberList: []json.RawMessage{}, ErrorUserList: []protocol.UserError{},
		}
		for i, data := range got.data {
			if data == "" {
				r.ErrorUserList = append(r.ErrorUserList, protocol.UserError{UserID: string(users[i]), Reason: protocol.CodeNotInRoom})
			} else {
				r.MemberList = append(r.MemberList, json.RawMessage(data))
			}
		}
		return r
	})
}

func (c *conn) queryCount(s *session, p *protocol.RoomParams, answer reply) func() {
	room := roomstore.RoomID(p.RoomID)
	type counted struct {
		at roomstore.Position
		n  int64
	}
	got, _, err := attempt(c, func(ctx context.Context) (r counted, err error) {
		r.at, r.n, err = c.g.store.Count(ctx, s.who, room)
		return r, err
	})
	return c.answerQuery(s, room, got.at, err, answer, func() any {
		return protocol.CountResult{RoomID: p.RoomID, Count: got.n, Position: protocol.Position(got.at)}
	})
}

func (c *conn) queryHistory(s *session, p *protocol.HistoryParams, answer reply) func() {
	room := roomstore.RoomID(p.RoomID)
	if err := checkPage(p.Config.Count); err != nil {
		answer(nil, err)
		return nil
	}
	if p.Config.BeforeSeq < 0 {
		answer(nil, badParameter("config.beforeSeq %d is below 0", p.Config.BeforeSeq))
		return nil
	}
	got, _, err := attempt(c, func(ctx context.Context) (roomstore.Recent, error) {
		return c.g.store.Recent(ctx, s.who, room, p.Config.Count, p.Config.BeforeSeq)
	})
	return c.answerQuery(s, room, got.Position, err, answer, func() any {
		r := protocol.HistoryResult{RoomID: p.RoomID, MessageList: []json.RawMessage{}, Position: protocol.Position(got.Position)}
		for _, e := range got.Messages {
			r.MessageList = append(r.MessageList, appendMessage(nil, e.Data, e.MessageID, e.MessageSeq, e.OrderKey, e.At))
		}
		if got.More {
			r.NextSeq = got.Messages[0].MessageSeq
		}
		return r
	})
}

// answerQuery gives a query's answer its place among the events of its room.
func (c *conn) answerQuery(s *session, room roomstore.RoomID, at roomstore.Position, err error, answer reply, result func() any) func() {
	if errors.Is(err, roomstore.ErrFenced) {
		s.fenced()
		return nil
	}
	if err != nil {
		answer(nil, wireError(err, string(room)))
		return c.strange(s, room, err)
	}
	c.inOrder(s, room, at, func(bool) { answer(result(), nil) })
	return nil
}
