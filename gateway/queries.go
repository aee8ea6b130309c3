package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

func (c *conn) queryMemberList(s *session, p *protocol.MemberListParams, answer reply) func() {
	room := roomstore.RoomID(p.RoomID)
	if p.Config.Count < 1 || p.Config.Count > maxPage {
		answer(nil, badParameter("config.count %d is not between 1 and %d", p.Config.Count, maxPage))
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
	if len(p.UserIDs) < 1 || len(p.UserIDs) > maxLookup {
		answer(nil, badParameter("userIDs has %d users, allowed are 1 to %d", len(p.UserIDs), maxLookup))
		return nil
	}
	var users []roomstore.UserID // each once, in the order they were named
	for i, id := range p.UserIDs {
		user, err := roomstore.ParseUserID(id)
		if err != nil {
			answer(nil, badID(fmt.Sprintf("userIDs[%d]", i), err))
			return nil
		}
		if !slices.Contains(users, user) {
			users = append(users, user)
		}
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

func (c *conn) queryAllAttributes(s *session, p *protocol.RoomParams, answer reply) func() {
	room := roomstore.RoomID(p.RoomID)
	type known struct {
		at         roomstore.Position
		attributes map[string]string
	}
	got, _, err := attempt(c, func(ctx context.Context) (k known, err error) {
		k.at, k.attributes, err = c.g.store.Attributes(ctx, s.who, room)
		return k, err
	})
	return c.answerQuery(s, room, got.at, err, answer, func() any {
		return protocol.AllAttributesResult{RoomID: p.RoomID, RoomAttributes: got.attributes, Position: protocol.Position(got.at)}
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
