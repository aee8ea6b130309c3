package roomstore

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/roomgate/roomgate/lua"
)

// A Holding is a session whose socket a gateway has, and the rooms that it may
// be in as far as the gateway knows.
type Holding struct {
	Session
	Device string
	Rooms  []RoomID
}

// A Stray is a room that a session is stored to be in, though its gateway knows
// better.
type Stray struct {
	Session Session
	Room    RoomID
}

// reclaimBatch is how many sessions one call puts back.
const reclaimBatch = 100

// Reclaim puts back a node's lease and the sessions that it has, under a term
// that it is about to adopt, as far as that is another than the one that it acts
// under, knew, or with "" all. lost are those that are not the node's any more, and not
// put back. It may be repeated.
//
// It fails with [ErrTerm] if the term is another, and with [ErrFenced] if the
// node has been given up.
func (s *Store) Reclaim(ctx context.Context, term, knew, node string, sessions []Holding) (lost map[SessionID]Loss, strays []Stray, err error) {
	if s.cfg.Apart {
		return s.reclaimApart(ctx, term, knew, node, sessions)
	}
	return s.reclaim(ctx, term, node, s.keys.nodes(), s.keys.control(s.keys.nodes()), sessions)
}

// reclaim is Reclaim for the sessions of one slot, and the node's lease if nodes is
// where leases are.
func (s *Store) reclaim(ctx context.Context, term, node, nodes, control string, sessions []Holding) (lost map[SessionID]Loss, strays []Stray, err error) {
	lost = map[SessionID]Loss{}
	for first := true; first || len(sessions) > 0; first = false {
		batch := sessions[:min(reclaimBatch, len(sessions))]
		sessions = sessions[len(batch):]
		args := []any{term, node, ms(s.cfg.LeaseTTL), len(batch)}
		byID := make(map[SessionID]Session, len(batch))
		for _, h := range batch {
			var rooms strings.Builder
			for _, room := range h.Rooms {
				rooms.WriteString(string(room) + "\x00")
			}
			args = append(args, string(h.User), string(h.ID), h.Generation, s.keys.userSlot(h.User), h.Device, rooms.String())
			byID[h.ID] = h.Session
		}
		r, err := s.run(ctx, node, node, lua.Reclaim, []string{nodes, control, s.keys.term(control)}, args...)
		if err != nil {
			return nil, nil, err
		}
		for _, t := range r.listed {
			strays = append(strays, Stray{byID[t.session], t.room})
		}
		for len(r.fields) > 0 && r.err == nil {
			who, what, room := byID[SessionID(r.text())], r.text(), RoomID(r.text())
			if what == "stray" {
				strays = append(strays, Stray{who, room})
			} else {
				lost[who.ID] = Loss(what)
			}
		}
		if r.err != nil {
			return nil, nil, opErr("reclaim", node, r.err)
		}
	}
	return lost, strays, nil
}

// A Record is what a gateway, or a client, knows of a room.
type Record struct {
	Room     RoomID
	Position         // up to where it knows the room
	Lineage  Lineage // of the epoch

	Name       string
	Delay      int // seconds
	MessageSeq int64
	OrderKey   int64
	Attributes []Attribute
	Described  bool // Attributes is known

	Members []Placed // those of its own sockets
}

// Placed is a member that a gateway knows.
type Placed struct {
	Session
	Entered int64  // seq of the entry
	Data    string // what others see of the user; opaque
}

// healBatch is how many members one call puts back.
const healBatch = 200

// Heal puts back what a node knows of a room, under a term that it is about to
// adopt. knew is the term under which it came to know it. If it knows of more
// than is stored, the room goes on under a new epoch. absent are those of the
// members that are not put back: they have moved, or their place is another's.
// It may be repeated.
//
// It fails with [ErrTerm] or [ErrFenced] as [Store.Reclaim] does, and with
// [ErrRecreated] if what is stored is another life of the room.
func (s *Store) Heal(ctx context.Context, term, knew, node string, known Record) (absent []SessionID, err error) {
	return s.heal(ctx, term, knew, "", node, known)
}

// Witness is Heal on the word of a client that comes back, and names a room that
// it was in. That counts for a while after Redis lost data: if the client was
// further than what is stored, the room goes on under a new epoch; if it is not in
// the room, though it goes back to the same, it enters again. Of known only Room,
// Position and Members count.
//
// It fails with [ErrLate] if the word does not count now, with [ErrNoRoom] if
// there is no such room, and otherwise as Heal does.
func (s *Store) Witness(ctx context.Context, node string, known Record) (absent []SessionID, err error) {
	return s.heal(ctx, s.Term(), "", strconv.FormatInt(ms(s.cfg.SessionTTL), 10), node, known)
}

func (s *Store) heal(ctx context.Context, term, knew, witness, node string, known Record) (absent []SessionID, err error) {
	attributes := "-"
	if known.Described {
		var texts []string
		for _, a := range known.Attributes {
			texts = append(texts, a.Key, a.stored())
		}
		attributes = listOf(texts...)
	}
	p := s.keys.partition(known.Room)
	part := s.keys.part(p)
	members, all := known.Members, term
	if s.cfg.Apart {
		if knew != "" && witness == "" && (s.unharmed(term, knew, part, members) || s.terms.isAway(part)) {
			return nil, nil // if it turns out to be another, it is put back then
		}
		term, knew = s.terms.of(term, part), s.terms.of(knew, part)
	}
	for first := true; first || len(members) > 0; first = false {
		batch := members[:min(healBatch, len(members))]
		members = members[len(batch):]
		batch, homes, away, err := s.homes(ctx, all, witness != "", node, known.Room, batch)
		if err != nil {
			return nil, err
		}
		absent = append(absent, away...)
		args := []any{
			term, knew, witness, node, string(known.Room), p, known.Epoch, known.Seq, "," + strings.TrimPrefix(string(known.Lineage), ","),
			known.Name, known.Delay, s.keep(), known.MessageSeq, known.OrderKey, attributes,
			s.cfg.MaxMembers, s.cfg.MaxRoomsPerUser, len(batch),
		}
		for i, m := range batch {
			args = append(args, string(m.User), string(m.ID), m.Generation, m.Entered, homes[i], m.Data)
		}
		r, err := s.run(ctx, string(known.Room), string(known.Room), lua.Heal,
			[]string{part, s.keys.control(part), s.keys.term(part), s.keys.origin(part)}, args...)
		if err != nil {
			if Refused(err) {
				s.dropHomes(Under(ctx, all), known.Room, batch, homes, nil)
			}
			return nil, err
		}
		s.free(Under(ctx, all), r.listed)
		r.int()
		not := []SessionID{}
		for len(r.fields) > 0 {
			not = append(not, SessionID(r.text()))
		}
		s.dropHomes(Under(ctx, all), known.Room, batch, homes, not)
		absent = append(absent, not...)
		if r.err != nil {
			return nil, opErr("heal", string(known.Room), r.err)
		}
	}
	return absent, nil
}

// A Life says in which epoch a room is, and up to where.
type Life struct {
	Position         // zero for a room that does not exist
	Base     int64   // if the epoch goes back to others: where it begins
	Lineage  Lineage // those others
}

// Lives says which lives rooms are in now.
func (s *Store) Lives(ctx context.Context, rooms []RoomID) (map[RoomID]Life, error) {
	lives := make(map[RoomID]Life, len(rooms))
	err := s.ofEach(ctx, lua.Lives, rooms, func(id RoomID, r *reply) {
		l := Life{Position: r.place()}
		l.Base, l.Lineage = r.int(), Lineage(r.text())
		lives[id] = l
	})
	if err != nil {
		return nil, err
	}
	return lives, nil
}

// ofEach asks about many rooms with a script that takes how many and which, and has read
// take what it says of each.
func (s *Store) ofEach(ctx context.Context, script lua.Script, rooms []RoomID, read func(RoomID, *reply)) error {
	byPart := map[int][]RoomID{}
	for _, id := range rooms {
		p := s.keys.partition(id)
		byPart[p] = append(byPart[p], id)
	}
	for p, ids := range byPart {
		for batch := range slices.Chunk(ids, 500) {
			args := []any{len(batch)}
			for _, id := range batch {
				args = append(args, string(id))
			}
			r, err := s.run(ctx, "", "", script, []string{s.keys.part(p)}, args...)
			if err != nil {
				return err
			}
			for _, id := range batch {
				read(id, r)
			}
			if err := r.done(); err != nil {
				return opErr(script.Name, "", err)
			}
		}
	}
	return nil
}

// place reads an epoch and a seq; the epoch is "" where there is no room.
func (r *reply) place() (at Position) {
	if epoch := r.text(); epoch != "" {
		n := numbers{}
		if at.Epoch = n.parse("epoch", epoch); n.err != nil {
			r.fail(n.err.Error())
		}
	}
	at.Seq = r.int()
	return at
}

// ownerlessBatch is how many rooms one call of DropOwnerless looks at.
const ownerlessBatch = 100

// DropOwnerless deletes those attributes of rooms that go with their owner, where the
// owner is not in the room. It settles, when all has been put back, what became of
// those whose owner was not. It may be repeated.
func (s *Store) DropOwnerless(ctx context.Context, rooms []RoomID) error {
	byPart := map[int][]RoomID{}
	for _, id := range rooms {
		byPart[s.keys.partition(id)] = append(byPart[s.keys.partition(id)], id)
	}
	for p, ids := range byPart {
		for batch := range slices.Chunk(ids, ownerlessBatch) {
			args := []any{s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), len(batch)}
			for _, id := range batch {
				args = append(args, string(id))
			}
			if _, err := s.run(ctx, "", "", lua.Ownerless, []string{s.keys.part(p)}, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// heldBatch is about how many sessions Held reads at once.
const heldBatch = 500

// Held gives the sessions that are stored as a node's, without their
// generations, as far as a term is another than one that was known, or with knew ""
// all. Those that begin or end meanwhile may or may not be among them.
func (s *Store) Held(ctx context.Context, term, knew, node string) (sessions []Session, err error) {
	for _, uslot := range s.keys.uslots() {
		if s.terms.same(term, knew, uslot) {
			continue
		}
		cursor := "0"
		for first := true; first || cursor != "0"; first = false {
			r, err := s.run(ctx, node, node, lua.Held, []string{uslot}, node, cursor, heldBatch)
			if err != nil {
				return nil, err
			}
			cursor = r.text()
			for len(r.fields) > 0 && r.err == nil {
				sessions = append(sessions, Session{ID: SessionID(r.text()), User: UserID(r.text()), Node: node})
			}
			if r.err != nil {
				return nil, opErr("held", node, r.err)
			}
		}
	}
	return sessions, nil
}
