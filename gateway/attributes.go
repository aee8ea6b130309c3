package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/time/rate"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// toldToAll is how many members a room may have for all of them to hear of each
// other's attributes. In a larger one only those hear who set them, or whose they are.
const toldToAll = 500

// attributeChange checks the parameters of what changes room attributes.
func attributeChange(room string, requestKey int64, operations []protocol.AttributesOperation, config *protocol.AttributesConfig) (roomstore.AttributeChange, *protocol.Error) {
	var none roomstore.AttributeChange
	id, e := roomstore.ParseRoomID(room)
	if e != nil {
		return none, wireError(e, "")
	}
	if err := checkRequestKey(requestKey); err != nil {
		return none, err
	}
	c := roomstore.AttributeChange{Room: id, MaxKeys: maxAttributes, MaxBytes: maxAttrTotal}
	if config != nil {
		c.Force, c.UpdateOwner, c.Leaves = config.IsForce, config.IsUpdateOwner, config.IsDeleteAfterOwnerLeft
	}
	for i, o := range operations {
		at := ""
		if len(operations) > 1 {
			at = fmt.Sprintf("operations[%d]: ", i)
		}
		switch o.Action {
		case protocol.AttributesSet:
			if len(o.Keys) > 0 {
				return none, badParameter("%skeys are what is deleted, the action is set", at)
			}
			if len(o.RoomAttributes) == 0 {
				return none, badParameter("%sthere are no attributes to set", at)
			}
			if err := checkAttributes(o.RoomAttributes); err != nil {
				err.Message = at + err.Message
				return none, err
			}
			for _, k := range sortedKeys(o.RoomAttributes) {
				c.Operations = append(c.Operations, roomstore.AttributeOperation{Key: k, Value: o.RoomAttributes[k]})
			}
		case protocol.AttributesDelete:
			if len(o.RoomAttributes) > 0 {
				return none, badParameter("%sroomAttributes are what is set, the action is delete", at)
			}
			if len(o.Keys) == 0 || len(o.Keys) > maxAttributes {
				return none, badParameter("%s%d keys are to be deleted, allowed are 1 to %d", at, len(o.Keys), maxAttributes)
			}
			for _, k := range o.Keys {
				if err := checkAttributeKey(k); err != nil {
					err.Message = at + err.Message
					return none, err
				}
				c.Operations = append(c.Operations, roomstore.AttributeOperation{Key: k, Delete: true})
			}
		default:
			return none, badParameter("%saction %q is neither set nor delete", at, string(o.Action))
		}
	}
	return c, nil
}

// prepareBatch checks the parameters of batchRoomAttributes.
func (c *conn) prepareBatch(p *protocol.BatchAttributesParams) (prepared, *protocol.Error) {
	if len(p.Operations) < 1 || len(p.Operations) > maxAttributes {
		return prepared{}, badParameter("operations has %d entries, allowed are 1 to %d", len(p.Operations), maxAttributes)
	}
	return c.prepareAttributes(p.RoomID, p.RequestKey, p.Operations, p.Config)
}

func (c *conn) prepareAttributes(room string, requestKey int64, operations []protocol.AttributesOperation, config *protocol.AttributesConfig) (prepared, *protocol.Error) {
	change, err := attributeChange(room, requestKey, operations, config)
	if err != nil {
		return prepared{}, err
	}
	if err := c.tooManyChanges(1); err != nil {
		return prepared{}, err
	}
	return c.changing([]roomstore.RoomID{change.Room}, func(s *session, answer reply) func() {
		change := change
		change.RequestKey = s.key(requestKey)
		type changed struct {
			at      roomstore.Position
			refused []string
		}
		return changeAttributes(c, s, change.Room, answer, func(ctx context.Context) (changed, error) {
			at, refused, err := c.g.store.ChangeAttributes(ctx, s.who, change)
			return changed{at, refused}, err
		}, func(got changed) (roomstore.Position, any) {
			return got.at, protocol.AttributesResult{RoomID: room, ErrorKeys: append([]string{}, got.refused...)}
		})
	})
}

// prepareMemberAttributes checks the parameters of setRoomMembersAttributes.
func (c *conn) prepareMemberAttributes(p *protocol.SetMembersAttributesParams) (prepared, *protocol.Error) {
	room, e := roomstore.ParseRoomID(p.RoomID)
	if e != nil {
		return prepared{}, wireError(e, "")
	}
	if err := checkRequestKey(p.RequestKey); err != nil {
		return prepared{}, err
	}
	users, err := parseUsers(p.UserIDs, maxPage)
	if err != nil {
		return prepared{}, err
	}
	if err := checkMemberAttributes(p.Attributes); err != nil {
		return prepared{}, err
	}
	change := roomstore.MemberAttributesChange{
		Room: room, Users: users, Leaves: p.Config == nil || p.Config.IsDeleteAfterOwnerLeft == nil || *p.Config.IsDeleteAfterOwnerLeft,
		MaxUsers: maxMembersWithAttrs, MaxPairs: maxMemberAttrs, MaxBytes: maxMemberAttrTotal,
	}
	for _, k := range sortedKeys(p.Attributes) {
		change.Attributes = append(change.Attributes, roomstore.Pair{Key: k, Value: p.Attributes[k]})
	}
	if err := c.tooManyChanges((len(users) + 9) / 10); err != nil {
		return prepared{}, err
	}
	return c.changing([]roomstore.RoomID{room}, func(s *session, answer reply) func() {
		change := change
		change.RequestKey = s.key(p.RequestKey)
		type changed struct {
			at  roomstore.Position
			all []roomstore.MemberAttributesOutcome
		}
		return changeAttributes(c, s, room, answer, func(ctx context.Context) (changed, error) {
			at, all, err := c.g.store.SetMemberAttributes(ctx, s.who, change)
			return changed{at, all}, err
		}, func(got changed) (roomstore.Position, any) {
			r := protocol.SetMembersAttributesResult{RoomID: p.RoomID, Infos: []protocol.MemberAttributesSet{}, ErrorUserList: []string{}}
			for _, o := range got.all {
				if o.Err != nil {
					r.ErrorUserList = append(r.ErrorUserList, string(o.User))
					continue
				}
				set := protocol.MemberAttributesSet{
					AttributesInfo: protocol.MemberAttributes{UserID: string(o.User), Attributes: map[string]string{}},
					ErrorKeys:      append([]string{}, o.Refused...),
				}
				for _, a := range change.Attributes {
					if !slices.Contains(o.Refused, a.Key) {
						set.AttributesInfo.Attributes[a.Key] = a.Value
					}
				}
				r.Infos = append(r.Infos, set)
			}
			return got.at, r
		})
	})
}

// tooManyChanges refuses a change of attributes that exceeds the rate of messages, as which
// it counts: for each ten users whose attributes are set it counts as one.
func (c *conn) tooManyChanges(n int) *protocol.Error {
	if !c.fastN(func(r *rates) *rate.Limiter { return r.messages }, n) {
		return nil
	}
	return fail(protocol.CodeTooFast, "more than %v messages and changes of attributes a second", c.rates.messages.Limit())
}

// changeAttributes makes a call that changes attributes, and gives its answer its place
// among the events of the room: before the one that it causes, which the client hears,
// too.
func changeAttributes[T any](c *conn, s *session, room roomstore.RoomID, answer reply, call func(context.Context) (T, error),
	result func(T) (roomstore.Position, any)) (rest func()) {
	defer s.asks(room)()
	got, open, err := attempt(c, call)
	if err != nil {
		if errors.Is(err, roomstore.ErrFenced) {
			s.fenced()
		} else {
			answer(nil, attributesError(err, room))
		}
		if open {
			return func() { pursue(c, call) }
		}
		return c.strange(s, room, err)
	}
	at, r := result(got)
	c.inOrder(s, room, at, func(bool) { answer(r, nil) })
	return nil
}

// attributesError names the limit that a change would have broken.
func attributesError(err error, room roomstore.RoomID) *protocol.Error {
	of := (*roomstore.OpError)(nil)
	members := errors.As(err, &of) && of.Op == "memberattributes"
	switch {
	case errors.Is(err, roomstore.ErrKeys) && members:
		return fail(protocol.CodeMemberAttributeCount, "each of the users would have more than %d attributes", maxMemberAttrs)
	case errors.Is(err, roomstore.ErrBytes) && members:
		return fail(protocol.CodeMemberAttributesSize, "the attributes of each of the users would have more than %d bytes in all", maxMemberAttrTotal)
	case errors.Is(err, roomstore.ErrUsers):
		return fail(protocol.CodeMemberAttributeUsers, "%d members of room %q have attributes already, which is as many as are allowed", maxMembersWithAttrs, string(room))
	case errors.Is(err, roomstore.ErrKeys):
		return fail(protocol.CodeAttributeCount, "room %q would have more than %d attributes", string(room), maxAttributes)
	case errors.Is(err, roomstore.ErrBytes):
		return fail(protocol.CodeAttributesSize, "the attributes of room %q would have more than %d bytes in all", string(room), maxAttrTotal)
	}
	return wireError(err, string(room))
}

func (c *conn) queryAllAttributes(s *session, p *protocol.RoomParams, answer reply) func() {
	room := roomstore.RoomID(p.RoomID)
	type known struct {
		at         roomstore.Position
		attributes []roomstore.Attribute
	}
	got, _, err := attempt(c, func(ctx context.Context) (k known, err error) {
		k.at, k.attributes, err = c.g.store.Attributes(ctx, s.who, room)
		return k, err
	})
	return c.answerQuery(s, room, got.at, err, answer, func() any {
		return protocol.AllAttributesResult{RoomID: p.RoomID, RoomAttributes: valuesOf(got.attributes), Position: protocol.Position(got.at)}
	})
}

// membersAttributes is what the store answers of members' attributes.
type membersAttributes struct {
	at    roomstore.Position
	found []roomstore.MemberAttributes
	more  bool
}

func (m membersAttributes) infos() []protocol.MemberAttributes {
	infos := make([]protocol.MemberAttributes, len(m.found))
	for i, of := range m.found {
		infos[i] = memberAttributesOf(of)
	}
	return infos
}

func (c *conn) queryMembersAttributes(s *session, p *protocol.MembersAttributesParams, answer reply) func() {
	room := roomstore.RoomID(p.RoomID)
	users, bad := parseUsers(p.UserIDs, maxPage)
	if bad != nil {
		answer(nil, bad)
		return nil
	}
	got, _, err := attempt(c, func(ctx context.Context) (m membersAttributes, err error) {
		m.at, m.found, err = c.g.store.MembersAttributes(ctx, s.who, room, users)
		return m, err
	})
	return c.answerQuery(s, room, got.at, err, answer, func() any {
		return protocol.MembersAttributesResult{RoomID: p.RoomID, Infos: got.infos(), Position: protocol.Position(got.at)}
	})
}

func (c *conn) queryMemberAttributesList(s *session, p *protocol.MemberListParams, answer reply) func() {
	room := roomstore.RoomID(p.RoomID)
	if err := checkPage(p.Config.Count); err != nil {
		answer(nil, err)
		return nil
	}
	after := roomstore.UserID("")
	if p.Config.NextFlag != "" {
		var err error
		if after, err = roomstore.ParseUserID(p.Config.NextFlag); err != nil {
			answer(nil, badParameter("nextFlag %q is not one that a page gave", p.Config.NextFlag))
			return nil
		}
	}
	got, _, err := attempt(c, func(ctx context.Context) (m membersAttributes, err error) {
		m.at, m.found, m.more, err = c.g.store.MemberAttributesList(ctx, s.who, room, after, p.Config.Count)
		return m, err
	})
	return c.answerQuery(s, room, got.at, err, answer, func() any {
		r := protocol.MemberAttributesListResult{RoomID: p.RoomID, Infos: got.infos(), Position: protocol.Position(got.at)}
		if got.more {
			r.NextFlag = string(got.found[len(got.found)-1].User)
		}
		return r
	})
}

// parseUsers reads user IDs, each once, in the order in which they were named.
func parseUsers(ids []string, most int) (users []roomstore.UserID, bad *protocol.Error) {
	if len(ids) < 1 || len(ids) > most {
		return nil, badParameter("userIDs has %d users, allowed are 1 to %d", len(ids), most)
	}
	for i, id := range ids {
		user, err := roomstore.ParseUserID(id)
		if err != nil {
			return nil, badID(fmt.Sprintf("userIDs[%d]", i), err)
		}
		if !slices.Contains(users, user) {
			users = append(users, user)
		}
	}
	return users, nil
}

// asks notes that a request of the session is about to change attributes of a room: what
// comes of it waits until the request is answered. That is said by calling answered.
func (s *session) asks(room roomstore.RoomID) (answered func()) {
	f := s.in(room)
	if f == nil || !f.asking(s, 1) {
		return nothing
	}
	return func() { f.asking(s, -1) }
}

// asking counts a member's requests that change attributes and are not answered. It says
// whether the session is a member.
func (f *feed) asking(s *session, n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(s.who.ID)
	if i >= 0 && f.members[i].s == s {
		f.members[i].asking += n
	}
	if n < 0 {
		s.c.sock.LetRoomGoOn(string(f.room))
	}
	return i >= 0
}

// hears says whether a member is told of an event. Of attributes it hears also what it
// has done itself.
func (m *member) hears(e roomstore.Event) bool {
	switch e.Kind {
	case roomstore.KindAttributes:
		return true
	case roomstore.KindMemberAttributes:
		return e.Count <= toldToAll || e.User == m.s.who.User ||
			slices.ContainsFunc(e.Attributes.Members, func(of roomstore.MemberAttributes) bool { return of.User == m.s.who.User })
	}
	return e.Origin != m.s.who.ID
}

// change notes what an event says of the room's attributes.
func (f *feed) change(e roomstore.Event) {
	if !f.described || e.Seq <= f.describedAt {
		return
	}
	c := e.Attributes
	f.describedAt = e.Seq
	f.attributes = slices.DeleteFunc(f.attributes, func(a roomstore.Attribute) bool {
		return slices.Contains(c.Deleted, a.Key) ||
			slices.ContainsFunc(c.Set, func(b roomstore.Attribute) bool { return a.Key == b.Key })
	})
	f.attributes = append(f.attributes, c.Set...)
}

// attributesFrame frames a change of attributes, of the room or of members. Unless
// membersSeq is 0 it says up to where the client knows of members.
func attributesFrame(room roomstore.RoomID, e roomstore.Event, membersSeq int64) []byte {
	by := protocol.AttributeOperator{UserID: string(e.User)}
	if e.Kind == roomstore.KindMemberAttributes {
		u := protocol.MemberAttributesUpdated{RoomID: string(room), OperatedInfo: by, Seq: e.Seq, MembersSeq: membersSeq}
		for _, of := range e.Attributes.Members {
			u.Infos = append(u.Infos, protocol.MemberAttributesInfo{AttributesInfo: memberAttributesOf(of)})
		}
		return notification(protocol.EventRoomMemberAttributesUpdated, u)
	}
	u := protocol.AttributesUpdated{RoomID: string(room), OperatedInfo: by, Seq: e.Seq, MembersSeq: membersSeq}
	if set := e.Attributes.Set; len(set) > 0 {
		u.Infos = append(u.Infos, protocol.AttributesInfo{Action: protocol.AttributesSet, RoomAttributes: valuesOf(set)})
	}
	if deleted := e.Attributes.Deleted; len(deleted) > 0 {
		gone := make(map[string]string, len(deleted))
		for _, k := range deleted {
			gone[k] = ""
		}
		u.Infos = append(u.Infos, protocol.AttributesInfo{Action: protocol.AttributesDelete, RoomAttributes: gone})
	}
	if len(u.Infos) > 1 {
		return notification(protocol.EventRoomAttributesBatchUpdated, u)
	}
	return notification(protocol.EventRoomAttributesUpdated, u)
}

// attributesOnEntry frames what an entering client is told of the room's
// attributes.
func attributesOnEntry(room roomstore.RoomID, at roomstore.Position, attributes []roomstore.Attribute) []byte {
	return notification(protocol.EventRoomAttributesUpdated, protocol.AttributesUpdated{
		RoomID: string(room), Seq: at.Seq,
		Infos: []protocol.AttributesInfo{{Action: protocol.AttributesSet, RoomAttributes: valuesOf(attributes)}},
	})
}

func valuesOf(attributes []roomstore.Attribute) map[string]string {
	values := make(map[string]string, len(attributes))
	for _, a := range attributes {
		values[a.Key] = a.Value
	}
	return values
}

func memberAttributesOf(of roomstore.MemberAttributes) protocol.MemberAttributes {
	m := protocol.MemberAttributes{UserID: string(of.User), Attributes: make(map[string]string, len(of.Pairs))}
	for _, p := range of.Pairs {
		m.Attributes[p.Key] = p.Value
	}
	return m
}
