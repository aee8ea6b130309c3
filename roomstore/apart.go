package roomstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/lua"
)

// What is one script on one Redis is several where hash slots lie apart: the
// user's slot first, then the rooms'. docs/cluster.md has the sequences, and says
// of each step what is left if there is no next one.

const (
	// reserveTries is how often an entry reserves again if another call keeps
	// giving its reservations back.
	reserveTries = 4
	// stepsAtOnce is how many slots one operation asks at once.
	stepsAtOnce = 16
	// finishAfter is when others finish a switch between slots.
	finishAfter = 5 * time.Second
	// leaveRounds is how often a logout looks whether something was reserved
	// meanwhile.
	leaveRounds = 8
)

// A todo is what a script lists that is to be done in another slot: a reservation,
// and what about it.
type todo struct {
	what    string // "free", "held", "order", "park", "quit", "stray" or "switch"
	user    UserID
	session SessionID
	room    RoomID
	ticket  string
	node    string // that has the session, or had it until now
	detail  string // "order": itself; "park": the generation; "quit": why; "switch": see lib/apart.lua
}

// unlist takes what a script listed from the end of its reply.
func (r *reply) unlist() {
	n := len(r.fields)
	if n == 0 {
		r.fail("no list")
		return
	}
	count, err := strconv.Atoi(r.fields[n-1])
	first := n - 1 - 7*count
	if err != nil || count < 0 || first < 0 {
		r.fail("list of " + r.fields[n-1])
		return
	}
	for f := r.fields[first : n-1]; len(f) > 0; f = f[7:] {
		r.listed = append(r.listed, todo{
			what: f[0], user: UserID(f[1]), session: SessionID(f[2]), room: RoomID(f[3]), ticket: f[4], node: f[5], detail: f[6],
		})
	}
	r.fields = r.fields[:first]
}

// of gives the user's hash and the prefix of the slot it is in.
func (k keys) of(user UserID) []string {
	return []string{k.user(user), k.uslot(k.userSlot(user))}
}

// A passage says how a session gets into a room.
type passage struct {
	room  RoomID
	limit int        // of rooms its user is in; 0 for none
	asks  bool       // only what became of an earlier call
	from  RoomID     // that it switches from, in another slot; "" for none
	key   RequestKey // of that
}

// A reservation is what a session shows that gets into a room.
type reservation struct {
	home   string // the user's slot, and where that lies apart the ticket, behind "#"
	ticket string
	from   string // the ticket of the reservation of the room that it switches from
	listed []todo // see reserve.lua
	none   bool   // the user is at the limit: what is asked is what else there is to say
}

// reserved calls an entry into a room with the user's reservation for it. What is
// refused gives that back.
func (s *Store) reserved(ctx context.Context, who Session, p passage, enter func(at reservation) (*reply, error)) (*reply, error) {
	if !s.cfg.Apart {
		return enter(reservation{home: s.keys.userSlot(who.User)})
	}
	above := "0"
	for range reserveTries {
		got, err := s.reserve(ctx, who, p, above)
		if errors.Is(err, ErrUserLimit) {
			// An earlier call under the key may have got in; and other refusals come first.
			return enter(reservation{home: s.keys.userSlot(who.User) + "#" + noTicket, none: true})
		}
		if err != nil {
			return nil, err
		}
		r, err := enter(got)
		if p.asks {
			return r, cmp.Or(err, s.finishSwitches(ctx, got.listed))
		}
		if errors.Is(err, errStale) {
			if above = r.text(); r.err != nil {
				return nil, opErr("enter", string(p.room), r.err)
			}
			continue
		}
		if err == nil {
			s.free(ctx, r.listed)
			s.dropOthers(ctx, got.listed, r.listed)
		} else if Refused(err) {
			s.drop(ctx, todo{user: who.User, session: who.ID, room: p.room, ticket: got.ticket, node: who.Node})
		}
		return r, err
	}
	return nil, opErr("enter", string(p.room), ErrUserLimit)
}

// noTicket is above all that are fenced, and no entry is made with it.
const noTicket = "9000000000000000"

// dropOthers gives back what a user's other sessions have reserved of a room and do
// not use, but for those that have been given back.
func (s *Store) dropOthers(ctx context.Context, others, freed []todo) {
	for _, t := range others {
		if !slices.ContainsFunc(freed, func(f todo) bool { return f.session == t.session }) {
			s.drop(ctx, t)
		}
	}
}

// reserve makes a reservation. At the user's limit it gives those back that are void.
func (s *Store) reserve(ctx context.Context, who Session, p passage, above string) (reservation, error) {
	room, partition := p.room, strconv.Itoa(s.keys.partition(p.room))
	if p.asks {
		partition = ""
	}
	for range reserveTries {
		r, err := s.run(ctx, string(who.User), string(room), lua.Reserve, s.keys.of(who.User),
			string(who.User), string(who.ID), who.Generation, who.Node, string(room), partition, p.limit, above,
			string(p.from), string(p.key), ms(finishAfter))
		if err == nil {
			got := reservation{ticket: r.text(), from: r.text(), listed: r.listed}
			got.home = s.keys.userSlot(who.User) + "#" + got.ticket
			return got, opErr("reserve", string(room), r.done())
		}
		if errors.Is(err, ErrHeld) { // by an earlier switch
			if err := s.finishSwitches(ctx, r.listed); err != nil {
				return reservation{}, err
			}
			continue
		}
		if !errors.Is(err, ErrUserLimit) {
			return reservation{}, err
		}
		dropped := 0
		for _, t := range r.listed {
			ok, err := s.drop(ctx, t)
			if err != nil {
				return reservation{}, err
			}
			if ok {
				dropped++
			}
		}
		if dropped == 0 {
			return reservation{}, err
		}
	}
	return reservation{}, opErr("reserve", string(room), ErrUserLimit)
}

// changeApart is a switch to a room in another slot than the one left. What is asked
// decides it is the room entered; the intent is in the user's slot meanwhile, for
// whoever has to finish it.
func (s *Store) changeApart(ctx context.Context, who Session, from RoomID, req EntryRequest, asks bool,
	enter func(home, state string) (*reply, error)) (e Entry, left Position, err error) {
	p := passage{room: req.Room, asks: asks, from: from, key: req.RequestKey}
	var intent todo
	var fromTicket string
	r, err := s.reserved(ctx, who, p, func(at reservation) (*reply, error) {
		intent = todo{user: who.User, session: who.ID, room: req.Room, ticket: at.ticket}
		fromTicket = at.from
		if asks {
			return enter(at.home, "in")
		}
		_, err := s.run(ctx, string(from), string(from), lua.Holds, []string{s.keys.part(s.keys.partition(from))},
			string(from), string(who.User), string(who.ID), who.Generation)
		state := "in"
		switch {
		case errors.Is(err, ErrFenced):
			state = "fenced"
		case errors.Is(err, ErrNoRoom), errors.Is(err, ErrNotMember):
			state = "notfrom"
		case err != nil:
			return nil, err
		}
		return enter(at.home, state)
	})
	if err != nil {
		if !asks && Refused(err) {
			s.resolve(ctx, intent)
		}
		return Entry{}, Position{}, err
	}
	r.position() // where from was left is not known in this slot
	e = r.entry()
	if err := r.done(); err != nil {
		return Entry{}, Position{}, opErr("switch", string(req.Room), err)
	}
	out, err := s.quit(ctx, todo{user: who.User, session: who.ID, room: from, ticket: fromTicket, node: who.Node, detail: "left"}, under(req.RequestKey, from))
	switch {
	case errors.Is(err, ErrNotMember): // it has ended otherwise: that is where it was left
		at, err := s.Positions(ctx, []RoomID{from})
		if err != nil {
			return Entry{}, Position{}, err
		}
		left = at[from]
	case err != nil:
		return Entry{}, Position{}, err
	default:
		left = out.position()
	}
	s.free(ctx, out.listed)
	if !asks {
		s.resolve(ctx, intent)
	}
	return e, left, nil
}

// finishSwitches finishes the switches among what is listed: those that have
// happened leave the other room, the others never will.
func (s *Store) finishSwitches(ctx context.Context, list []todo) error {
	for _, t := range list {
		if t.what != "switch" {
			continue
		}
		f := strings.SplitN(t.detail, "\x00", 3)
		if len(f) != 3 {
			return fmt.Errorf("%w: lists the switch %q", ErrBadReply, t.detail)
		}
		from, ticket, key := RoomID(f[0]), f[1], RequestKey(f[2])
		_, err := s.run(ctx, string(t.room), string(t.room), lua.Decide, []string{s.keys.part(s.keys.partition(t.room))},
			string(t.room), string(from), string(t.session), string(key), t.ticket, s.goneTTL())
		switch {
		case errors.Is(err, ErrLate):
			_, err = s.drop(ctx, t)
		case err == nil:
			var r *reply
			r, err = s.quit(ctx, todo{user: t.user, session: t.session, room: from, ticket: ticket, detail: "left"}, under(key, from))
			if err == nil || errors.Is(err, ErrNotMember) {
				err = s.free(ctx, r.listed)
			}
		}
		if err != nil {
			return err
		}
		if err := s.resolve(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// resolve has a switch count as finished.
func (s *Store) resolve(ctx context.Context, t todo) error {
	_, err := s.run(ctx, string(t.user), string(t.user), lua.Resolve, s.keys.of(t.user),
		string(t.user), string(t.session), string(t.room), t.ticket)
	return err
}

// drop gives a reservation back if it is void, and says whether it was.
func (s *Store) drop(ctx context.Context, t todo) (bool, error) {
	r, err := s.run(ctx, string(t.room), string(t.room), lua.Fence, []string{s.keys.part(s.keys.partition(t.room))},
		string(t.room), string(t.user), string(t.session), t.ticket, t.node, s.goneTTL())
	if err != nil || r.status == "already" {
		return false, err
	}
	return true, s.free(ctx, []todo{t})
}

// free takes reservations back that have been fenced. Where it fails they are
// void, which others find out.
func (s *Store) free(ctx context.Context, list []todo) error {
	byUser := map[UserID][]todo{}
	for _, t := range list {
		byUser[t.user] = append(byUser[t.user], t)
	}
	var first error
	for user, list := range byUser {
		args := []any{string(user), len(list)}
		for _, t := range list {
			args = append(args, string(t.session), string(t.room), t.ticket)
		}
		if _, err := s.run(ctx, string(user), string(user), lua.Free, s.keys.of(user), args...); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// seeTo does what scripts have listed. A place that is parked lasts for left.
func (s *Store) seeTo(ctx context.Context, list []todo, left time.Duration) error {
	_, err := s.settle(ctx, list, left)
	return err
}

// tellFor is how long an order may take whose call is over.
const tellFor = time.Second

// tell gives the orders among what is listed to their nodes. One that does not get
// there is made good when its node next compares its sessions.
func (s *Store) tell(ctx context.Context, list []todo) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellFor)
	defer cancel()
	for _, t := range list {
		if t.what == "order" {
			s.run(ctx, t.node, t.node, lua.Probe, []string{s.NodeTopic(t.node, 0)}, t.detail)
		}
	}
}

// unordered is a list without its orders.
func unordered(list []todo) []todo {
	return slices.DeleteFunc(slices.Clone(list), func(t todo) bool { return t.what == "order" })
}

// settle is seeTo, and says how many it took out of rooms.
func (s *Store) settle(ctx context.Context, list []todo, left time.Duration) (quit int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	// Behind all else: who is sent away hears of its rooms first, as a rule.
	defer s.tell(ctx, list)
	if list = unordered(list); len(list) == 0 {
		return 0, nil
	}
	if err := s.finishSwitches(ctx, list); err != nil {
		return 0, err
	}
	freed, out := make([][]todo, len(list)), make([]bool, len(list))
	var work errgroup.Group
	work.SetLimit(stepsAtOnce)
	for i, t := range list {
		switch t.what {
		case "switch": // has been finished
		case "free":
			freed[i] = []todo{t}
		case "park":
			work.Go(func() error {
				_, err := s.run(ctx, string(t.room), string(t.room), lua.ParkPlace, []string{s.keys.part(s.keys.partition(t.room))},
					string(t.room), string(t.user), string(t.session), t.detail, t.ticket, t.node, ms(max(0, left)), s.goneTTL())
				return err
			})
		case "quit":
			work.Go(func() error {
				r, err := s.quit(ctx, t, "")
				out[i] = err == nil
				if errors.Is(err, ErrNotMember) {
					err = nil
				}
				if err == nil {
					freed[i] = r.listed
				}
				return err
			})
		default:
			return 0, fmt.Errorf("%w: lists %q", ErrBadReply, t.what)
		}
	}
	err = work.Wait()
	var all []todo
	for i := range list {
		all = append(all, freed[i]...)
		if out[i] {
			quit++
		}
	}
	return quit, errors.Join(err, s.free(ctx, all))
}

// quit takes a session out of a room, and fences its reservation. It fails with
// ErrNotMember if it was not there.
func (s *Store) quit(ctx context.Context, t todo, key RequestKey) (*reply, error) {
	return s.run(ctx, string(t.room), string(t.room), lua.Quit, []string{s.keys.part(s.keys.partition(t.room))},
		string(t.room), string(t.user), string(t.session), t.ticket, t.node, t.detail, string(key),
		ms(outcomesFor), s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL), s.goneTTL())
}

func (s *Store) leaveAllApart(ctx context.Context, who Session, key RequestKey, end bool) (left []Departure, err error) {
	r, err := s.run(ctx, string(who.User), string(who.User), lua.Places, s.keys.of(who.User),
		string(who.User), string(who.ID), who.Generation, string(key))
	if err != nil {
		return nil, err
	}
	for len(r.fields) > 0 && r.err == nil {
		left = append(left, Departure{Room: RoomID(r.text()), Position: r.position()})
	}
	if err := r.done(); err != nil {
		return nil, opErr("leaveall", string(who.User), err)
	}
	if r.status == "again" && !end {
		return left, s.leaveAgain(ctx, left, r.listed, key)
	}
	again, ending := r.status == "again", "0"
	if end {
		ending = "1"
	}
	for range leaveRounds {
		var freed []todo
		if err := s.finishSwitches(ctx, r.listed); err != nil {
			return nil, err
		}
		for _, t := range r.listed {
			if t.what == "switch" {
				continue
			}
			at, done, err := s.leaveListed(ctx, t, key, end)
			if err != nil {
				return nil, err
			}
			if freed = append(freed, done...); at.Epoch != 0 {
				left = departed(left, Departure{Room: t.room, Position: at})
			}
		}
		var outcome strings.Builder
		for _, d := range left {
			fmt.Fprintf(&outcome, "%s\x00%d\x00%d\x00", d.Room, d.Epoch, d.Seq)
		}
		args := []any{string(who.User), string(who.ID), who.Generation, string(key), ending,
			ms(outcomesFor), s.goneTTL(), outcome.String(), len(freed)}
		for _, t := range freed {
			args = append(args, string(t.room), t.ticket)
		}
		if r, err = s.run(ctx, string(who.User), string(who.User), lua.Settle, s.keys.of(who.User), args...); err != nil {
			if again && errors.Is(err, ErrFenced) {
				return left, nil
			}
			return nil, err
		}
		if len(r.listed) == 0 {
			return left, nil
		}
	}
	return nil, opErr("leaveall", string(who.User), errors.New("rooms are being entered all the while"))
}

// leaveListed leaves a room, and gives where and what reservations that frees. If
// an earlier call under the key did so, the session may have entered again, and
// stays unless it ends.
func (s *Store) leaveListed(ctx context.Context, t todo, key RequestKey, end bool) (at Position, freed []todo, err error) {
	r, err := s.quit(ctx, t, under(key, t.room))
	if errors.Is(err, ErrNotMember) {
		return Position{}, r.listed, nil
	}
	if err != nil {
		return Position{}, nil, err
	}
	at = r.position()
	if r.status == "again" && r.text() == "1" && end {
		return s.leaveListed(ctx, t, "", false)
	}
	return at, r.listed, opErr("quit", string(t.room), r.done())
}

// departed adds a departure, in place of an earlier one from that room.
func departed(left []Departure, d Departure) []Departure {
	for i := range left {
		if left[i].Room == d.Room {
			left[i] = d
			return left
		}
	}
	return append(left, d)
}

// leaveAgain leaves those rooms of an outcome anew that the session was put back
// into since, and notes that in it.
func (s *Store) leaveAgain(ctx context.Context, left []Departure, list []todo, key RequestKey) error {
	var freed []todo
	for _, t := range list {
		if !slices.ContainsFunc(left, func(d Departure) bool { return d.Room == t.room }) {
			continue
		}
		at, done, err := s.leaveListed(ctx, t, key, false)
		if err != nil {
			return err
		}
		if freed = append(freed, done...); at.Epoch != 0 {
			departed(left, Departure{Room: t.room, Position: at})
		}
	}
	s.free(ctx, freed)
	return nil
}

// under is the key of what a call does about one of its rooms.
func under(key RequestKey, room RoomID) RequestKey {
	if key == "" {
		return ""
	}
	return key + RequestKey("\x00"+room)
}

// showLife renews a lease that may have lapsed before the node takes a session
// over, so that the session's time does not count from before.
func (s *Store) showLife(ctx context.Context, node string) error {
	if !s.cfg.Apart {
		return nil
	}
	renewed, ok := s.leases.Load(node)
	if !ok || time.Since(renewed.(time.Time)) < s.cfg.LeaseTTL/2 {
		return nil
	}
	_, err := s.Lease(ctx, node, false, nil)
	return err
}

func (s *Store) resumeApart(ctx context.Context, node string, user UserID, id SessionID, named []RoomID) (who Session, rooms []Return, ok bool, err error) {
	r, err := s.run(ctx, string(user), string(user), lua.Takeover, s.keys.of(user),
		string(user), string(id), node, s.validUntil(ctx))
	if err != nil {
		return Session{}, nil, false, err
	}
	who, ok = r.resumed(user, id, node)
	over := r.text()
	if err := r.done(); err != nil {
		return Session{}, nil, false, opErr("takeover", string(user), err)
	}

	asked := map[RoomID]bool{}
	for _, room := range named {
		asked[room] = true
	}
	// Beside all else: the slot of orders may be away.
	var told sync.WaitGroup
	told.Go(func() { s.tell(ctx, r.listed) })
	defer told.Wait()
	listed := unordered(r.listed)
	if err := s.finishSwitches(ctx, listed); err != nil {
		return Session{}, nil, false, err
	}
	list := slices.DeleteFunc(listed, func(t todo) bool { return t.what == "switch" })
	held := len(list)
	for _, t := range list {
		delete(asked, t.room)
	}
	for _, room := range named {
		if asked[room] {
			asked[room] = false
			list = append(list, todo{user: user, session: id, room: room})
		}
	}
	for _, room := range named {
		asked[room] = true
	}
	rooms = make([]Return, len(list))
	var work errgroup.Group
	work.SetLimit(stepsAtOnce)
	for i, t := range list {
		work.Go(func() error {
			back, err := s.retake(ctx, Session{User: user, ID: id, Generation: who.Generation, Node: node}, t, over)
			back.Named = asked[t.room]
			rooms[i] = back
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return Session{}, nil, false, err
	}
	var void []todo
	for i, t := range list[:held] {
		if !rooms[i].In {
			void = append(void, t)
		}
	}
	s.free(ctx, void)
	return who, rooms, ok, nil
}

// retake takes a session's place in a room over for its connection, or says why
// there is none. over is why the session is over, if it is.
func (s *Store) retake(ctx context.Context, who Session, t todo, over string) (Return, error) {
	r, err := s.run(ctx, string(t.room), string(t.room), lua.Retake, []string{s.keys.part(s.keys.partition(t.room))},
		string(t.room), string(who.User), string(who.ID), who.Node, who.Generation, t.ticket, t.node, over, s.goneTTL())
	if err != nil {
		return Return{}, err
	}
	back := r.back(t.room)
	return back, opErr("retake", string(t.room), r.done())
}

// catchUp has a room know which generation and node a session has, if it is who it
// says: data may have been lost in the room's slot only.
func (s *Store) catchUp(ctx context.Context, who Session, room RoomID) error {
	if _, err := s.reserve(ctx, who, passage{room: room, asks: true}, "0"); err != nil {
		return err
	}
	_, err := s.retake(ctx, who, todo{room: room, ticket: "0"}, "")
	return err
}

// everywhere runs a step in each of some slots, and gives all errors when all have been
// asked. That is at once, so that one that hangs keeps no other waiting.
func (s *Store) everywhere(slots []string, step func(i int, slot string) error) error {
	errs := make([]error, len(slots))
	var work sync.WaitGroup
	for i, slot := range slots {
		work.Go(func() { errs[i] = step(i, slot) })
	}
	work.Wait()
	return errors.Join(errs...)
}

func (s *Store) releaseApart(ctx context.Context, node string) error {
	err := s.everywhere(s.keys.slots(), func(_ int, slot string) error {
		_, err := s.run(ctx, node, node, lua.Vacate, []string{slot}, node)
		return err
	})
	if err != nil {
		return err
	}
	return s.bury(ctx, node)
}

func (s *Store) bury(ctx context.Context, node string) error {
	_, err := s.run(ctx, node, node, lua.Bury, []string{s.keys.nodes(), s.keys.control(s.keys.nodes())}, node)
	return err
}

// sooner gives the sooner of two times, of which a negative one is none.
func sooner(a, b time.Duration) time.Duration {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// awayPart is what part of the time of a step a slot is given that did not answer when
// it was last asked for its term.
const awayPart = 8

// step bounds one step of a sweep in some slots, so that those that do not answer do
// not use up the time of what comes after.
func (s *Store) step(ctx context.Context, slots ...string) (context.Context, context.CancelFunc) {
	limit := s.calls.cfg.Timeout
	if slices.ContainsFunc(slots, s.terms.isAway) {
		limit /= awayPart
	}
	return context.WithTimeout(ctx, limit)
}

// sweepApart does as much as it can, also if it fails: a slot that does not answer
// keeps the others from nothing.
func (s *Store) sweepApart(ctx context.Context, node string, claims []Lapse) (Swept, error) {
	done := Swept{Next: -1}
	rooms, err := s.tick(ctx, node, lua.TickRooms, s.keys.parts(), &done, s.cfg.LogSize, s.cfg.LogBytes, ms(s.cfg.LogTTL))
	users, failed := s.tick(ctx, node, lua.TickUsers, s.keys.uslots(), &done)
	err = errors.Join(err, failed)
	if errors.Is(err, ErrFenced) {
		return Swept{}, err
	}
	if rooms && users {
		return Swept{}, opErr("sweep", node, ErrPaused)
	}
	if err = errors.Join(err, s.claim(ctx, node, claims, &done)); errors.Is(err, ErrFenced) {
		return Swept{}, err
	}
	if s.admits() {
		call, cancel := s.step(ctx)
		defer cancel()
		_, failed := s.seeToAdmissions(call)
		err = errors.Join(err, failed)
	}
	return done, err
}

// tick does what time demands in some slots, and says whether all of them only
// noted a gap in time.
func (s *Store) tick(ctx context.Context, node string, script lua.Script, slots []string, done *Swept, ttls ...any) (paused bool, err error) {
	replies, errs := make([]*reply, len(slots)), make([]error, len(slots))
	s.everywhere(slots, func(i int, slot string) error {
		call, cancel := s.step(ctx, slot)
		defer cancel()
		args := append(append([]any{node, sweepLimit}, ttls...), s.goneTTL())
		replies[i], errs[i] = s.run(call, node, slot, script, []string{slot}, args...)
		return nil
	})
	var list []todo
	gaps := 0
	for i, r := range replies {
		switch {
		case errors.Is(errs[i], ErrPaused):
			gaps++
			continue
		case errs[i] != nil:
			err = errors.Join(err, errs[i])
			continue
		}
		done.More = r.text() == "1" || done.More
		done.Next = sooner(done.Next, millis(r.int()))
		if script.Name == lua.TickRooms.Name {
			done.Finished += int(r.int())
			done.Evicted += int(r.int())
		}
		err = errors.Join(err, opErr(script.Name, slots[i], r.done()))
		list = append(list, r.listed...)
	}
	quit, failed := s.settleEach(ctx, list)
	done.Evicted += quit
	return gaps == len(slots), errors.Join(err, failed)
}

// settleEach is settle for what a sweep has listed, session by session: one whose rooms
// are away does not keep the others.
func (s *Store) settleEach(ctx context.Context, list []todo) (quit int, err error) {
	of := map[SessionID][]todo{}
	for _, t := range list {
		of[t.session] = append(of[t.session], t)
	}
	// Those with something in a slot that is away come last.
	var lists, later [][]todo
	for _, its := range of {
		if slices.ContainsFunc(its, func(t todo) bool { return s.terms.isAway(s.placeOf(t)) }) {
			later = append(later, its)
		} else {
			lists = append(lists, its)
		}
	}
	for _, lists := range [][][]todo{lists, later} {
		var slots []string
		for _, its := range lists {
			for _, t := range its {
				slots = append(slots, s.placeOf(t))
			}
		}
		call, cancel := s.step(ctx, slots...)
		quits, errs := make([]int, len(lists)), make([]error, len(lists))
		var work errgroup.Group
		work.SetLimit(stepsAtOnce)
		for i, its := range lists {
			work.Go(func() error { quits[i], errs[i] = s.settle(call, its, 0); return nil })
		}
		work.Wait()
		cancel()
		for _, n := range quits {
			quit += n
		}
		err = errors.Join(err, errors.Join(errs...))
	}
	return quit, err
}

// placeOf gives the slot of the room that something is about.
func (s *Store) placeOf(t todo) string { return s.keys.part(s.keys.partition(t.room)) }

// claim gives the nodes up whose lease has lapsed as said, and parks what they hold.
func (s *Store) claim(ctx context.Context, node string, claims []Lapse, done *Swept) error {
	args := []any{node, len(claims)}
	for _, c := range claims {
		args = append(args, c.Node, c.End)
	}
	call, cancel := s.step(ctx, s.keys.control(s.keys.nodes()))
	defer cancel()
	r, err := s.run(call, node, node, lua.Condemn, []string{s.keys.nodes(), s.keys.control(s.keys.nodes())}, args...)
	if err != nil {
		return err
	}
	type condemned struct {
		node string
		ago  int64
	}
	var given []condemned
	for range r.int() {
		given = append(given, condemned{r.text(), r.int()})
	}
	for len(r.fields) > 0 && r.err == nil {
		done.Lapsed = append(done.Lapsed, Lapse{Node: r.text(), End: r.int()})
	}
	if err := r.done(); err != nil {
		return opErr("condemn", node, err)
	}
	done.Looked = true
	slots := s.keys.slots()
	for _, c := range given {
		replies := make([]*reply, len(slots))
		failed := s.everywhere(slots, func(i int, slot string) error {
			call, cancel := s.step(ctx, slot)
			defer cancel()
			r, err := s.run(call, node, slot, lua.Claim, []string{slot},
				node, c.node, c.ago, ms(s.cfg.SessionTTL), sweepLimit)
			if err == nil {
				replies[i] = r
			}
			return err
		})
		left := false
		for i, r := range replies {
			if r == nil {
				continue
			}
			left = r.text() == "1" || left
			done.Next = sooner(done.Next, millis(r.int()))
			done.Claimed += int(r.int())
			failed = errors.Join(failed, opErr("claim", slots[i], r.done()))
		}
		done.More = done.More || left
		if failed == nil && !left {
			call, cancel := s.step(ctx)
			failed = s.bury(call, c.node)
			cancel()
		}
		err = errors.Join(err, failed)
	}
	return err
}

func (s *Store) reclaimApart(ctx context.Context, term, knew, node string, sessions []Holding) (lost map[SessionID]Loss, strays []Stray, err error) {
	nodes := s.keys.nodes()
	if !s.terms.same(term, knew, nodes) {
		if _, _, err := s.reclaim(ctx, s.terms.of(term, nodes), node, nodes, s.keys.control(nodes), nil); err != nil {
			return nil, nil, err
		}
	}
	bySlot := map[string][]Holding{}
	for _, h := range sessions {
		if slot := s.keys.uslot(s.keys.userSlot(h.User)); !s.terms.same(term, knew, slot) {
			bySlot[slot] = append(bySlot[slot], h)
		}
	}
	lost = map[SessionID]Loss{}
	for slot, held := range bySlot {
		gone, more, err := s.reclaim(ctx, s.terms.of(term, slot), node, slot, slot, held)
		if err != nil {
			return nil, nil, err
		}
		strays = append(strays, more...)
		for id, why := range gone {
			lost[id] = why
		}
	}
	return lost, strays, nil
}

// unharmed says whether nothing of a room and of some of its members has been
// lost between two terms.
func (s *Store) unharmed(term, knew, part string, members []Placed) bool {
	if !s.terms.same(term, knew, part) {
		return false
	}
	for _, m := range members {
		if !s.terms.same(term, knew, s.keys.user(m.User)) {
			return false
		}
	}
	return true
}

// homes gives where the reservations are of members that are put back, and which
// of them are not here any more. On a client's word they count for its limit.
func (s *Store) homes(ctx context.Context, term string, client bool, node string, room RoomID, members []Placed) (here []Placed, homes []string, away []SessionID, err error) {
	homes = make([]string, len(members))
	for i, m := range members {
		homes[i] = s.keys.userSlot(m.User)
	}
	if !s.cfg.Apart {
		return members, homes, nil, nil
	}
	absent := make([]bool, len(members))
	var work errgroup.Group
	work.SetLimit(stepsAtOnce)
	for i, m := range members {
		if !client && s.terms.isAway(s.keys.user(m.User)) {
			// Its reservation is what it was, or is put back when that is known. Without
			// its ticket, it is void when the membership ends.
			homes[i] += "#0"
			continue
		}
		work.Go(func() error {
			ticket, err := s.hold(ctx, term, client, node, room, m)
			homes[i] += "#" + ticket
			if absent[i] = errors.Is(err, ErrFenced) || errors.Is(err, ErrUserLimit); absent[i] {
				return nil
			}
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, nil, nil, err
	}
	var at []string
	for i, m := range members {
		if absent[i] {
			away = append(away, m.ID)
			continue
		}
		here, at = append(here, m), append(at, homes[i])
	}
	return here, at, away, nil
}

func (s *Store) hold(ctx context.Context, term string, client bool, node string, room RoomID, m Placed) (string, error) {
	if client {
		m.Session.Node = node
		got, err := s.reserve(ctx, m.Session, passage{room: room, limit: s.cfg.MaxRoomsPerUser}, "0")
		return got.ticket, err
	}
	user := s.keys.of(m.User)
	r, err := s.run(ctx, string(m.User), string(m.User), lua.Hold, append(user, s.keys.term(user[0])),
		s.terms.of(term, user[0]), string(m.ID), m.Generation, node, string(room), s.keys.partition(room), "0")
	if err != nil {
		return "", err
	}
	ticket := r.text()
	return ticket, opErr("hold", string(m.User), r.done())
}

// dropHomes gives the reservations back of members that were not put back: those
// named, or with nil all. They are void as it is; before the term is open they stay.
func (s *Store) dropHomes(ctx context.Context, room RoomID, members []Placed, homes []string, not []SessionID) {
	for i, m := range members {
		_, ticket, ok := strings.Cut(homes[i], "#")
		if ok && (not == nil || slices.Contains(not, m.ID)) {
			s.drop(ctx, todo{user: m.User, session: m.ID, room: room, ticket: ticket, node: m.Node})
		}
	}
}
