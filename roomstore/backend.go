package roomstore

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roomgate/roomgate/lua"
)

// This file is what backends ask and do, who are in no room.

// A Room is what there is to say of one.
type Room struct {
	Position
	ID      RoomID
	Name    string
	Members int64
	Delay   int // seconds from emptiness to destruction
	Created time.Time
	// Deadline is when it is destroyed if nobody enters; zero while somebody is in it.
	Deadline   time.Time
	Attributes map[string]string // nil in a list
}

// A RoomPage is part of the list of rooms, in the order of the bytes of their IDs.
type RoomPage struct {
	Now      time.Time // on Redis's clock
	Rooms    []Room
	Next     RoomID // that the next page comes behind, "" if this was the last
	Matching int64  // rooms that begin as asked for; some may be over that nobody has met since
}

// Rooms lists up to count rooms whose IDs begin with search, behind the one named,
// "" for the first page. A page may have fewer and not be the last. Each partition is
// asked for itself, for count rooms and one more at most: what was created or
// destroyed meanwhile may be in the list or not.
func (s *Store) Rooms(ctx context.Context, search string, after RoomID, count int) (RoomPage, error) {
	var page RoomPage
	found, err := s.listRooms(ctx, search, after, count+1)
	if err != nil {
		return RoomPage{}, err
	}
	var ids []RoomID
	for _, part := range found {
		page.Matching += part.matching
		ids = append(ids, part.rooms...)
	}
	slices.Sort(ids)
	if len(ids) > count {
		ids = ids[:count]
		page.Next = ids[count-1]
	}
	page.Now = found[0].now
	if len(ids) == 0 {
		return page, nil
	}
	known, now, err := s.describe(ctx, ids)
	if err != nil {
		return RoomPage{}, err
	}
	page.Now = now
	for _, id := range ids {
		if r, ok := known[id]; ok {
			page.Rooms = append(page.Rooms, r)
		}
	}
	return page, nil
}

// listed is what a partition has of a list of rooms.
type listed struct {
	now             time.Time
	exist, matching int64
	rooms           []RoomID
}

func (s *Store) listRooms(ctx context.Context, search string, after RoomID, count int) ([]listed, error) {
	parts := s.keys.parts()
	found := make([]listed, len(parts))
	err := s.everywhere(parts, func(i int, part string) error {
		r, err := s.run(ctx, part, "", lua.ListRooms, []string{part}, search, string(after), count)
		if err != nil {
			return err
		}
		l := listed{now: r.time(), exist: r.int(), matching: r.int()}
		for len(r.fields) > 0 {
			l.rooms = append(l.rooms, RoomID(r.text()))
		}
		found[i] = l
		return opErr("listrooms", "", r.done())
	})
	return found, err
}

// describe gives those of some rooms that exist, and when that was so on Redis's clock.
func (s *Store) describe(ctx context.Context, rooms []RoomID) (known map[RoomID]Room, now time.Time, err error) {
	byPart := map[string][]RoomID{}
	for _, id := range rooms {
		part := s.keys.part(s.keys.partition(id))
		byPart[part] = append(byPart[part], id)
	}
	parts := slices.Sorted(maps.Keys(byPart))
	replies := make([]*reply, len(parts))
	err = s.everywhere(parts, func(i int, part string) (err error) {
		args := []any{"0", len(byPart[part])}
		for _, id := range byPart[part] {
			args = append(args, string(id))
		}
		replies[i], err = s.run(ctx, part, "", lua.Describe, []string{part}, args...)
		return err
	})
	if err != nil {
		return nil, time.Time{}, err
	}
	known = make(map[RoomID]Room, len(rooms))
	for i, part := range parts {
		r := replies[i]
		now = r.time()
		for _, id := range byPart[part] {
			if room, ok := r.room(id); ok {
				known[id] = room
			}
		}
		if err := r.done(); err != nil {
			return nil, time.Time{}, opErr("describe", "", err)
		}
	}
	return known, now, nil
}

// Room tells of one room, with its attributes, and when that was so on Redis's
// clock. It fails with [ErrNoRoom].
func (s *Store) Room(ctx context.Context, id RoomID) (room Room, now time.Time, err error) {
	r, err := s.run(ctx, string(id), string(id), lua.Describe, []string{s.keys.part(s.keys.partition(id))}, "1", 1, string(id))
	if err != nil {
		return Room{}, time.Time{}, err
	}
	now = r.time()
	room, ok := r.room(id)
	if err := r.done(); err != nil {
		return Room{}, time.Time{}, opErr("describe", string(id), err)
	}
	if !ok {
		return Room{}, time.Time{}, opErr("describe", string(id), ErrNoRoom)
	}
	return room, now, nil
}

// time reads a time of Redis's clock; "" is the zero time.
func (r *reply) time() time.Time {
	f := r.text()
	if f == "" {
		return time.Time{}
	}
	n, err := strconv.ParseInt(f, 10, 64)
	if err != nil {
		r.fail("not a time: " + f)
	}
	return time.UnixMilli(n)
}

// room reads what lua/lib/describe.lua adds to a reply; not ok: there is no such room.
func (r *reply) room(id RoomID) (room Room, ok bool) {
	epoch := r.text()
	if epoch == "" {
		for range 6 {
			r.text()
		}
		r.int()
		return Room{}, false
	}
	n := numbers{}
	room = Room{ID: id, Position: Position{Epoch: n.parse("epoch", epoch), Seq: r.int()}, Name: r.text(), Members: r.int(),
		Delay: int(r.int()), Created: r.time(), Deadline: r.time(), Attributes: map[string]string{}}
	if n.err != nil {
		r.fail(n.err.Error())
	}
	for range r.int() {
		key := r.text()
		room.Attributes[key] = r.text()
	}
	return room, true
}

// NewRoom asks for a room with nobody in it.
type NewRoom struct {
	ID         RoomID
	Creator    UserID // owns the attributes; "" for nobody
	Name       string
	Delay      int // seconds from emptiness to destruction
	Attributes map[string]string
}

// Create creates a room with nobody in it, and gives it and when that was on Redis's
// clock. If nobody enters, it ends after its delay, or after 3 h if that is 0. It is
// not safe to repeat: the repeat of one that was applied is refused.
//
// It fails with [ErrExists] or [ErrRoomLimit].
func (s *Store) Create(ctx context.Context, n NewRoom) (room Room, now time.Time, err error) {
	part := s.keys.part(s.keys.partition(n.ID))
	args := []any{string(n.ID), string(n.Creator), n.Name, n.Delay, s.keep(), s.cfg.MaxRooms, s.cfg.Partitions, "", pairsOf(n.Attributes)}
	const admission = 7
	r, err := s.admitted(ctx, n.ID, func(with string) (*reply, error) {
		args[admission] = with
		return s.run(ctx, string(n.ID), string(n.ID), lua.Create, []string{part, s.keys.control(part)}, args...)
	})
	if err != nil {
		return Room{}, time.Time{}, err
	}
	now = r.time()
	room, _ = r.room(n.ID)
	return room, now, opErr("create", string(n.ID), r.done())
}

// Post sends a message to a room in the name of a user, who need not be in it: one
// that is stored, or, if m.Priority is not 0, a command or barrage that is not.
// Each call is another message, whatever m.RequestKey is. It fails with [ErrNoRoom].
func (s *Store) Post(ctx context.Context, user UserID, m Message) (Sent, error) {
	priority := ""
	if m.Priority != 0 {
		priority = strconv.Itoa(m.Priority)
	}
	r, err := s.run(ctx, string(m.Room), string(m.Room), lua.Post, []string{s.keys.part(s.keys.partition(m.Room))},
		string(m.Room), string(user), m.ID, priority, m.Payload, s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL))
	if err != nil {
		return Sent{}, err
	}
	sent := Sent{Position: r.position(), MessageSeq: r.int(), OrderKey: r.int(), Timestamp: r.int(), ID: m.ID}
	return sent, opErr("post", string(m.Room), r.done())
}

// A RoomMember is a member of a room as backends see it.
type RoomMember struct {
	User   UserID
	Joined time.Time // zero if it is not known: data was lost since
	// Node has its connection; "" for one who is away, whose place is kept until
	// Deadline on Redis's clock, if that goes on as it does.
	Node     string
	Deadline time.Time
	Data     string // what others see of it
}

// A RosterPage is part of a room's members, in the order of their entry.
type RosterPage struct {
	Position
	Now     time.Time // on Redis's clock
	Count   int64     // of all members
	Members []RoomMember
	Next    string // cursor of the next page, "" if this was the last
}

// Roster is [Store.Members] for who is not in the room. It fails with [ErrNoRoom] or
// [ErrBadID].
func (s *Store) Roster(ctx context.Context, room RoomID, cursor string, count int) (RosterPage, error) {
	after, err := cursorOf(cursor)
	if err != nil {
		return RosterPage{}, opErr("listmembers", string(room), err)
	}
	part := s.keys.part(s.keys.partition(room))
	r, err := s.run(ctx, string(room), string(room), lua.ListMembers, []string{part, s.keys.control(part)},
		string(room), after.Seq, count, pageBytes)
	if err != nil {
		return RosterPage{}, err
	}
	page := RosterPage{Position: r.position(), Now: r.time(), Count: r.int()}
	if page.Next, err = page.cursor(cursor, after, r.text()); err != nil {
		return RosterPage{}, opErr("listmembers", string(room), err)
	}
	for len(r.fields) > 0 && r.err == nil {
		page.Members = append(page.Members, RoomMember{
			User: UserID(r.text()), Joined: r.time(), Node: r.text(), Deadline: r.time(), Data: r.text(),
		})
	}
	return page, opErr("listmembers", string(room), r.done())
}

// About is what a node tells the others of itself.
type About struct {
	Name, Version                  string // without NUL
	Since                          time.Time
	Draining                       bool
	Connections, Sessions, Rooms   int
	Accepted, Messages, Deliveries float64 // connections, messages and events a second, lately
}

func (a *About) encode() string {
	rate := func(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }
	return strings.Join([]string{
		flag(a.Draining), strconv.Itoa(a.Connections), strconv.Itoa(a.Sessions), strconv.Itoa(a.Rooms),
		rate(a.Accepted), rate(a.Messages), rate(a.Deliveries), a.Version, a.Name,
	}, "\x00")
}

// aboutFields is how many values encode joins, and since before them.
const aboutFields = 10

// decodeAbout reads what a node said of itself; nil if it is not of this version.
func decodeAbout(text string) *About {
	f := strings.SplitN(text, "\x00", aboutFields)
	if len(f) != aboutFields {
		return nil
	}
	n := numbers{}
	a := &About{
		Since: time.UnixMilli(n.parse("since", f[0])), Draining: f[1] == "1",
		Connections: int(n.parse("connections", f[2])), Sessions: int(n.parse("sessions", f[3])), Rooms: int(n.parse("rooms", f[4])),
		Version: f[8], Name: f[9],
	}
	for i, rate := range []*float64{&a.Accepted, &a.Messages, &a.Deliveries} {
		v, err := strconv.ParseFloat(f[5+i], 64)
		if err != nil || v < 0 {
			return nil
		}
		*rate = v
	}
	if n.err != nil {
		return nil
	}
	return a
}

// A Node is a gateway that holds a lease.
type Node struct {
	ID    string
	Left  time.Duration // of its lease
	About *About        // nil if it has not said anything lately, or is of another version
}

// Cluster is what there is to say of a deployment.
type Cluster struct {
	Now   time.Time // on Redis's clock
	Nodes []Node    // at most 500
	Rooms int64     // that exist
}

// Cluster tells of the deployment.
func (s *Store) Cluster(ctx context.Context) (Cluster, error) {
	r, err := s.run(ctx, "", "", lua.Cluster, []string{s.keys.nodes(), s.keys.control(s.keys.nodes())}, clusterLimit)
	if err != nil {
		return Cluster{}, err
	}
	c := Cluster{Now: r.time()}
	for len(r.fields) > 0 && r.err == nil {
		c.Nodes = append(c.Nodes, Node{ID: r.text(), Left: millis(r.int()), About: decodeAbout(r.text())})
	}
	if err := r.done(); err != nil {
		return Cluster{}, opErr("cluster", "", err)
	}
	found, err := s.listRooms(ctx, "", "", 0)
	for _, part := range found {
		c.Rooms += part.exist
	}
	return c, err
}

// clusterLimit is how many nodes Cluster tells of.
const clusterLimit = 500
