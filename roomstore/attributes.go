package roomstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/roomgate/roomgate/lua"
)

// How much may be attached to a room and to its members. Calls name the limits that
// they are made under; an audit takes these.
const (
	MaxAttributes           = 20   // of a room
	MaxAttributeBytes       = 5120 // of their keys and values
	MaxMemberAttributes     = 30   // of one member
	MaxMemberAttributeBytes = 144  // of their keys and values
)

// An Attribute is one of a room.
type Attribute struct {
	Key, Value string
	Owner      UserID
	Leaves     bool // it goes when its owner leaves
}

// AttributeChange sets and deletes attributes of a room.
type AttributeChange struct {
	Room       RoomID
	RequestKey RequestKey
	Operations []AttributeOperation // carried out one after another, and all at once for everybody else

	Force       bool // also what belongs to others
	UpdateOwner bool // the user owns from now on what it sets
	Leaves      bool // what is set goes when its owner leaves

	MaxKeys, MaxBytes int // of the room; bytes are those of keys and values
}

// An AttributeOperation sets an attribute, or deletes it.
type AttributeOperation struct {
	Key, Value string
	Delete     bool
}

// ChangeAttributes changes attributes of a room. Keys that belong to others are left
// as they are, and returned. It may be repeated under its RequestKey.
//
// It fails with [ErrLocked] if all keys belong to others, with [ErrKeys] or [ErrBytes]
// if the room would have too much, with [ErrNoRoom], [ErrNotMember], [ErrMisused] or
// [ErrFenced].
func (s *Store) ChangeAttributes(ctx context.Context, who Session, c AttributeChange) (at Position, refused []string, err error) {
	args := []any{
		string(c.Room), string(who.User), string(who.ID), who.Generation, string(c.RequestKey), ms(outcomesFor),
		s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), flag(c.Force), flag(c.UpdateOwner), flag(c.Leaves),
		c.MaxKeys, c.MaxBytes, len(c.Operations),
	}
	for _, o := range c.Operations {
		if o.Delete {
			args = append(args, "delete", o.Key, "")
		} else {
			args = append(args, "set", o.Key, o.Value)
		}
	}
	r, err := s.run(ctx, string(c.Room), string(c.Room), lua.ChangeAttributes,
		[]string{s.keys.part(s.keys.partition(c.Room))}, args...)
	if err != nil {
		return Position{}, nil, err
	}
	at = r.position()
	refused, r.fields = r.fields, nil
	return at, refused, opErr("changeattributes", string(c.Room), r.done())
}

// Attributes gives all attributes of a room. It fails with [ErrNoRoom] or
// [ErrNotMember].
func (s *Store) Attributes(ctx context.Context, who Session, room RoomID) (Position, []Attribute, error) {
	r, err := s.query(ctx, lua.Attributes, who, room)
	if err != nil {
		return Position{}, nil, err
	}
	at, attributes := r.position(), r.attributes()
	return at, attributes, opErr("attributes", string(room), r.done())
}

// MemberAttributesChange sets attributes of members of a room: each of Users gets them.
type MemberAttributesChange struct {
	Room       RoomID
	RequestKey RequestKey
	Users      []UserID
	Attributes []Pair
	Leaves     bool // they go when the member leaves

	MaxUsers           int // of the room that have attributes
	MaxPairs, MaxBytes int // of one user; bytes are those of keys and values
}

// A Pair is an attribute of a member.
type Pair struct{ Key, Value string }

// MemberAttributesOutcome is what became of one user's.
type MemberAttributesOutcome struct {
	User    UserID
	Err     error    // [ErrNotMember] or [ErrUsers]: nothing was set
	Refused []string // keys that would be too many, or too long together; the others were set
}

// SetMemberAttributes sets attributes of members. What cannot be set for one of
// them keeps nothing from the others. It may be repeated under its RequestKey.
//
// It fails with [ErrUsers], [ErrKeys] or [ErrBytes] if nothing could be set for that
// reason, with [ErrNoRoom], [ErrNotMember], [ErrMisused] or [ErrFenced].
func (s *Store) SetMemberAttributes(ctx context.Context, who Session, c MemberAttributesChange) (Position, []MemberAttributesOutcome, error) {
	var texts []string
	for _, a := range c.Attributes {
		texts = append(texts, a.Key, a.Value)
	}
	args := []any{
		string(c.Room), string(who.User), string(who.ID), who.Generation, string(c.RequestKey), ms(outcomesFor),
		s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), flag(c.Leaves), c.MaxUsers, c.MaxPairs, c.MaxBytes,
		listOf(texts...), len(c.Users),
	}
	for _, u := range c.Users {
		args = append(args, string(u))
	}
	r, err := s.run(ctx, string(c.Room), string(c.Room), lua.MemberAttributes,
		[]string{s.keys.part(s.keys.partition(c.Room))}, args...)
	if err != nil {
		return Position{}, nil, err
	}
	at := r.position()
	var all []MemberAttributesOutcome
	for len(r.fields) > 0 && r.err == nil {
		o := MemberAttributesOutcome{User: UserID(r.text())}
		switch verdict := r.text(); verdict {
		case "set":
		case "notin", "users":
			o.Err = refusals[verdict]
		default:
			r.fail("verdict " + verdict)
		}
		for range r.int() {
			o.Refused = append(o.Refused, r.text())
		}
		all = append(all, o)
	}
	return at, all, opErr("memberattributes", string(c.Room), r.done())
}

// MemberAttributes are those of one member.
type MemberAttributes struct {
	User  UserID
	Pairs []Pair
}

// MembersAttributes gives the attributes of users, at most 500; who is not in the room,
// or has none, is left out. It fails with [ErrNoRoom] or [ErrNotMember].
func (s *Store) MembersAttributes(ctx context.Context, who Session, room RoomID, users []UserID) (Position, []MemberAttributes, error) {
	args := []any{0, "", len(users)}
	for _, u := range users {
		args = append(args, string(u))
	}
	at, found, _, err := s.membersAttributes(ctx, who, room, args)
	return at, found, err
}

// MemberAttributesList gives a page of the members that have attributes, by user: up to
// count of those behind after, "" for the first page. more says that a further one
// follows. It fails with [ErrNoRoom] or [ErrNotMember].
func (s *Store) MemberAttributesList(ctx context.Context, who Session, room RoomID, after UserID, count int) (at Position, page []MemberAttributes, more bool, err error) {
	return s.membersAttributes(ctx, who, room, []any{count, string(after), 0})
}

func (s *Store) membersAttributes(ctx context.Context, who Session, room RoomID, args []any) (at Position, found []MemberAttributes, more bool, err error) {
	r, err := s.query(ctx, lua.MembersAttributes, who, room, args...)
	if err != nil {
		return Position{}, nil, false, err
	}
	at, more = r.position(), r.text() == "1"
	for len(r.fields) > 0 && r.err == nil {
		m := MemberAttributes{User: UserID(r.text())}
		texts, err := textsOf(r.text())
		for i := 0; err == nil && i < len(texts); i += 2 {
			if i+1 == len(texts) || texts[i+1] == "" {
				err = ErrBadEvent
				break
			}
			m.Pairs = append(m.Pairs, Pair{texts[i], texts[i+1][1:]})
		}
		if err != nil {
			r.fail("attributes of " + string(m.User))
		}
		found = append(found, m)
	}
	return at, found, more, opErr("membersattributes", string(room), r.done())
}

// flag is how scripts take a boolean.
func flag(yes bool) string {
	if yes {
		return "1"
	}
	return "0"
}

// attribute reads a key and a field of attrs.
func (r *reply) attribute() Attribute {
	key := r.text()
	a, err := attributeOf(key, r.text())
	if err != nil {
		r.fail(err.Error())
	}
	return a
}

// attributes reads all that is left.
func (r *reply) attributes() (all []Attribute) {
	for len(r.fields) > 0 && r.err == nil {
		all = append(all, r.attribute())
	}
	return all
}

// attributeOf reads a field of attrs (lua/lib/attributes.lua).
func attributeOf(key, stored string) (Attribute, error) {
	owner, rest, ok := strings.Cut(stored, "\x00")
	leaves, value, ok2 := strings.Cut(rest, "\x00")
	if !ok || !ok2 || leaves != "0" && leaves != "1" {
		return Attribute{}, fmt.Errorf("%w: attribute %q", ErrBadEvent, key)
	}
	return Attribute{Key: key, Value: value, Owner: UserID(owner), Leaves: leaves == "1"}, nil
}

func (a Attribute) stored() string {
	return string(a.Owner) + "\x00" + flag(a.Leaves) + "\x00" + a.Value
}

// AttributesChanged is what an event says of attributes: Members of members, the others
// of the room.
type AttributesChanged struct {
	Set     []Attribute
	Deleted []string
	Members []MemberAttributes // what was set
}

// roomChange reads the payload of an event of kind "a", in which n were set.
func roomChange(n int64, payload string) (*AttributesChanged, error) {
	texts, err := textsOf(payload)
	if err != nil || n < 0 || n > int64(len(texts)/2) {
		return nil, fmt.Errorf("%w: %d attributes set", ErrBadEvent, n)
	}
	c := &AttributesChanged{}
	for i := 0; i < 2*int(n); i += 2 {
		a, err := attributeOf(texts[i], texts[i+1])
		if err != nil {
			return nil, err
		}
		c.Set = append(c.Set, a)
	}
	c.Deleted = texts[2*n:]
	return c, nil
}

// membersChange reads the payload of an event of kind "u": for each user how many
// pairs, and these.
func membersChange(payload string) (*AttributesChanged, error) {
	texts, err := textsOf(payload)
	if err != nil {
		return nil, err
	}
	c := &AttributesChanged{}
	for len(texts) > 0 {
		m := MemberAttributes{User: UserID(texts[0])}
		n := -1
		if len(texts) > 1 {
			n, err = strconv.Atoi(texts[1])
		}
		if err != nil || n < 0 || n > (len(texts)-2)/2 {
			return nil, fmt.Errorf("%w: attributes of %q", ErrBadEvent, m.User)
		}
		for texts = texts[2:]; n > 0; n-- {
			m.Pairs = append(m.Pairs, Pair{texts[0], texts[1]})
			texts = texts[2:]
		}
		c.Members = append(c.Members, m)
	}
	return c, nil
}

// textsOf reads a list of texts, each with its length (lua/lib/attributes.lua).
func textsOf(list string) (texts []string, err error) {
	for list != "" {
		length, rest, _ := strings.Cut(list, ":")
		n, err := strconv.Atoi(length)
		if err != nil || n < 0 || n > len(rest) {
			return nil, fmt.Errorf("%w: a list of texts", ErrBadEvent)
		}
		texts, list = append(texts, rest[:n]), rest[n:]
	}
	return texts, nil
}

// listOf is textsOf backwards.
func listOf(texts ...string) string {
	var b strings.Builder
	for _, t := range texts {
		b.WriteString(strconv.Itoa(len(t)))
		b.WriteByte(':')
		b.WriteString(t)
	}
	return b.String()
}

// pairsOf is listOf for keys and values.
func pairsOf(values map[string]string) string {
	texts := make([]string, 0, 2*len(values))
	for k, v := range values {
		texts = append(texts, k, v)
	}
	return listOf(texts...)
}
