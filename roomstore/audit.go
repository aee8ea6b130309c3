package roomstore

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/lua"
)

// A Finding is something in Redis that does not agree with the rest.
type Finding struct {
	Code     string // what kind of disagreement, such as "orphaned"; docs/operations.md lists them
	Subject  string // the room, member, session or key
	Detail   string // a clause that goes on from the subject
	Repaired bool

	// of is what was stored of the subject, if what it is held against lies elsewhere.
	of string
}

// An Audited is what the last audit left behind.
type Audited struct {
	At    time.Time // on Redis's clock; zero if there was none
	Found int       // disagreements that were left unrepaired
}

const (
	// auditPage is how many members, or entries of an index, one call looks at.
	auditPage = 100
	// auditScan is how many keys one step of the walk asks for.
	auditScan = 500
	// longestDelay is how many seconds a room may stay empty: as many as a
	// client may ask for.
	longestDelay = 10800
)

// A layoutKey is a kind of keys.
type layoutKey struct {
	key  *regexp.Regexp // with the partition or slot, then the ID
	kind string
	look string
}

// layout is every key there may be, behind the prefix, its type in Redis and
// how it is looked at.
var layout = []layoutKey{
	{regexp.MustCompile(`(?s)^\{(\d+)\}:(?:room|attrs):(.+)$`), "hash", "room"},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:memberattrs:(.+)$`), "hash", "memberattrs"},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:blocked:(.+)$`), "hash", "blocked"},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:info:(.+)$`), "hash", "members"},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:members:(.+)$`), "zset", "members"},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:left:(.+)$`), "zset", "room"},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:log:(.+)$`), "list", "room"},
	{regexp.MustCompile(`^\{(\d+)\}:rooms()$`), "zset", "rooms"},
	{regexp.MustCompile(`^\{(\d+)\}:due()$`), "zset", "due"},
	{regexp.MustCompile(`^\{(\d+)\}:parked()$`), "zset", "parked"},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:node:(.+)$`), "set", "node"},
	{regexp.MustCompile(`(?s)^\{(u?\d+)\}:(?:did|gone):(.+)$`), "hash", "expiring"},
	{regexp.MustCompile(`(?s)^\{(u\d+)\}:slow:(.+)$`), "set", "expiring"},
	{regexp.MustCompile(`^\{(0)\}:clock()$`), "hash", ""},
	{regexp.MustCompile(`^\{(0)\}:dead()$`), "zset", ""},
	{regexp.MustCompile(`^\{(0)\}:gateway:().+$`), "string", ""},
	{regexp.MustCompile(`^\{(0)\}:audited()$`), "hash", ""},
	{regexp.MustCompile(`(?s)^\{(u\d+)\}:user:(.+)$`), "hash", "user"},
	{regexp.MustCompile(`^\{(u\d+)\}:parked()$`), "zset", "sessions"},
	{regexp.MustCompile(`(?s)^\{(u\d+)\}:nodesessions:(.+)$`), "set", "nodesessions"},
	{regexp.MustCompile(`^()nodes()$`), "zset", "nodes"},
	{regexp.MustCompile(`^()partitions()$`), "string", ""},
	{regexp.MustCompile(`^\{(0)\}:(?:term|origin)()$`), "string", ""},
}

// apartLayout is what there is besides where hash slots lie apart.
var apartLayout = []layoutKey{
	{regexp.MustCompile(`^\{(u?\d+)\}:clock()$`), "hash", ""},
	{regexp.MustCompile(`^\{(u?\d+)\}:dead()$`), "zset", ""},
	{regexp.MustCompile(`^\{(u?\d+)\}:(?:term|origin|partitions)()$`), "string", ""},
	{regexp.MustCompile(`^\{(0)\}:nodes()$`), "zset", "nodes"},
	{regexp.MustCompile(`^\{(u\d+)\}:switching()$`), "zset", "switching"},
	{regexp.MustCompile(`^\{(0)\}:admissions()$`), "hash", ""},
	{regexp.MustCompile(`^\{(0)\}:(?:admitted:\d+|making)()$`), "zset", ""},
	{regexp.MustCompile(`^\{(\d+)\}:ended()$`), "zset", ""},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:barred:(.+)$`), "string", "expiring"},
}

// audit is one walk over all keys.
type audit struct {
	s      *Store
	rdb    redis.UniversalClient
	repair string
	report func(Finding)
	open   int // findings not repaired
	rooms  map[RoomID]bool
	said   map[Finding]bool // a room is come upon in more than one way
	doubts []doubt          // where slots lie apart
}

// A look compares something, and repairs it if repair is "1".
type look func(ctx context.Context, repair string) ([]Finding, error)

// A doubt is what one look has found, and is to be looked at again: what is in several
// slots is not read at one moment, and may agree all the same.
type doubt struct {
	found []Finding
	again look
}

// maxDoubts is how many doubts there may be before they are looked at again.
const maxDoubts = 1000

// look reports what a look finds: where slots lie apart only what it finds twice.
func (a *audit) look(ctx context.Context, l look) error {
	if a.s.cfg.Apart {
		found, err := l(ctx, "0")
		if len(found) > 0 {
			a.doubts = append(a.doubts, doubt{found, l})
		}
		if err != nil || len(a.doubts) < maxDoubts {
			return err
		}
		return a.lookAgain(ctx)
	}
	found, err := l(ctx, a.repair)
	for _, f := range found {
		a.found(f)
	}
	return err
}

// lookEach is look at a page of entries, and where it finds something at each of
// them, so that nothing else is repaired.
func (a *audit) lookEach(ctx context.Context, page []string, l func(ctx context.Context, page []string, repair string) ([]Finding, error)) error {
	of := func(page []string) look {
		return func(ctx context.Context, repair string) ([]Finding, error) { return l(ctx, page, repair) }
	}
	if !a.s.cfg.Apart {
		return a.look(ctx, of(page))
	}
	found, err := of(page)(ctx, "0")
	if err != nil || len(found) == 0 {
		return err
	}
	for _, entry := range page {
		if err := a.look(ctx, of([]string{entry})); err != nil {
			return err
		}
	}
	return nil
}

// lookAgain looks at the doubts again, when whatever was under way is over.
func (a *audit) lookAgain(ctx context.Context) error {
	if len(a.doubts) == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return opErr("audit", "", ctx.Err())
	case <-time.After(a.s.secondLook):
	}
	for _, d := range a.doubts {
		found, err := d.again(ctx, "0")
		if err != nil {
			return err
		}
		still := slices.DeleteFunc(found, func(f Finding) bool { return !f.among(d.found) })
		if len(still) > 0 && a.repair == "1" {
			repaired, err := d.again(ctx, "1")
			if err != nil {
				return err
			}
			still = slices.DeleteFunc(repaired, func(f Finding) bool { return !f.Repaired && !f.among(still) })
		}
		for _, f := range still {
			a.found(f)
		}
	}
	a.doubts = nil
	return nil
}

// among says whether a finding is one of some, but for its detail. Where something else is
// stored of the subject than was then, somebody has been at it: that it does not agree
// again, or still, is no evidence.
func (f Finding) among(list []Finding) bool {
	return slices.ContainsFunc(list, func(g Finding) bool { return f.Code == g.Code && f.Subject == g.Subject && f.of == g.of })
}

// Audit holds everything that is stored against itself: counts against sets,
// members against sessions and nodes, rooms against the list of rooms,
// deadlines against what they are about, and keys against what they belong to.
// It calls report for each disagreement. With repair set it removes or mends
// what it can.
//
// It may run beside gateways at work: what it compares, it compares within one
// script each; or, where hash slots lie apart, twice, some seconds after another: of a
// membership only what nothing has happened to in between. On a healthy deployment it
// finds nothing. It walks all keys, in steps of some hundred.
func (s *Store) Audit(ctx context.Context, repair bool, report func(Finding)) error {
	a := &audit{s: s, rdb: s.calls.rdb, repair: "0", report: report, rooms: map[RoomID]bool{}, said: map[Finding]bool{}}
	if repair {
		a.repair = "1"
	}
	var err error
	if cluster, ok := a.rdb.(*redis.ClusterClient); ok {
		var mu sync.Mutex // one after another
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			return a.scan(ctx, node)
		})
	} else {
		err = a.scan(ctx, a.rdb)
	}
	if err == nil {
		err = a.places(ctx)
	}
	if err == nil {
		err = a.lookAgain(ctx)
	}
	if err != nil {
		return err
	}
	now, err := a.rdb.Time(ctx).Result()
	if err == nil {
		err = a.rdb.HSet(ctx, s.audited(), "at", now.UnixMilli(), "found", a.open).Err()
	}
	return opErr("audit", "", err)
}

// scan walks the keys of one Redis.
func (a *audit) scan(ctx context.Context, rdb redis.UniversalClient) error {
	var cursor uint64
	match := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(a.s.cfg.Prefix) + ":*"
	for {
		found, next, err := rdb.Scan(ctx, cursor, match, auditScan).Result()
		if err != nil {
			return opErr("audit", "", err)
		}
		if err := a.keys(ctx, found); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

func (s *Store) audited() string { return s.keys.control(s.keys.nodes()) + "audited" }

// Audited says what the last audit left behind.
func (s *Store) Audited(ctx context.Context) (Audited, error) {
	var at, found int64
	f, err := s.calls.rdb.HMGet(ctx, s.audited(), "at", "found").Result()
	if err != nil {
		return Audited{}, opErr("audited", "", err)
	}
	if text, ok := f[0].(string); ok {
		at, _ = strconv.ParseInt(text, 10, 64)
	}
	if text, ok := f[1].(string); ok {
		found, _ = strconv.ParseInt(text, 10, 64)
	}
	if at == 0 {
		return Audited{}, nil
	}
	return Audited{At: time.UnixMilli(at), Found: int(found)}, nil
}

func (a *audit) found(f Finding) {
	f.of = ""
	if a.said[f] {
		return
	}
	a.said[f] = true
	if !f.Repaired {
		a.open++
	}
	a.report(f)
}

// keys looks at some keys.
func (a *audit) keys(ctx context.Context, found []string) error {
	slices.Sort(found)
	found = slices.Compact(found)
	types := make([]*redis.StatusCmd, len(found))
	ttls := make([]*redis.DurationCmd, len(found))
	_, err := a.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, k := range found {
			types[i], ttls[i] = p.Type(ctx, k), p.PTTL(ctx, k)
		}
		return nil
	})
	if err != nil {
		return opErr("audit", "", err)
	}
	for i, k := range found {
		if err := a.key(ctx, k, types[i].Val(), ttls[i].Val()); err != nil {
			return err
		}
	}
	return nil
}

// key looks at one key.
func (a *audit) key(ctx context.Context, key, kind string, ttl time.Duration) error {
	rest := strings.TrimPrefix(key, a.s.cfg.Prefix+":")
	known := layout
	if a.s.cfg.Apart {
		known = slices.Concat(layout, apartLayout)
	}
	for _, l := range known {
		m := l.key.FindStringSubmatch(rest)
		if m == nil || a.s.cfg.Apart && m[1] == "" { // each slot has its own
			continue
		}
		slot, id := m[1], m[2]
		switch {
		case kind == "none":
			return nil // it has gone meanwhile
		case kind != l.kind:
			return a.remove(ctx, key, Finding{Code: "type", Subject: key, Detail: fmt.Sprintf("is a %s, it has to be a %s", kind, l.kind)})
		case !a.belongs(slot, id, l.look):
			return a.remove(ctx, key, Finding{Code: "misplaced", Subject: key, Detail: "is in a partition where nobody looks for it"})
		}
		switch l.look {
		case "":
			return nil
		case "expiring":
			if ttl < 0 {
				return a.expire(ctx, key)
			}
			return nil
		case "room":
			if a.rooms[RoomID(id)] {
				return nil
			}
			a.rooms[RoomID(id)] = true
			return a.look(ctx, a.room(RoomID(id), nil))
		case "members":
			return a.members(ctx, key, kind, RoomID(id))
		case "memberattrs", "blocked":
			if err := a.look(ctx, a.room(RoomID(id), nil)); err != nil {
				return err
			}
			return a.index(ctx, key, kind, l.look, slot, id)
		case "rooms":
			return a.pages(ctx, key, kind, func(page []string) error {
				for _, id := range page {
					if err := a.look(ctx, a.room(RoomID(id), nil)); err != nil {
						return err
					}
				}
				return nil
			})
		case "user":
			return a.user(ctx, key, slot, UserID(id))
		default:
			return a.index(ctx, key, kind, l.look, slot, id)
		}
	}
	a.found(Finding{Code: "unknown", Subject: key, Detail: "is no key of this version"})
	return nil
}

// belongs says whether a key lies where what it is about is looked for.
func (a *audit) belongs(slot, id, look string) bool {
	switch look {
	case "room", "members", "memberattrs", "blocked":
		return slot == strconv.Itoa(a.s.keys.hash(id))
	case "user":
		return slot == a.s.keys.userSlot(UserID(id))
	}
	n, err := strconv.Atoi(strings.TrimPrefix(slot, "u"))
	return slot == "" || err == nil && n < a.s.cfg.Partitions
}

// remove reports a key that is in nobody's way but its own, and removes it.
func (a *audit) remove(ctx context.Context, key string, f Finding) error {
	if a.repair == "1" {
		if err := a.rdb.Unlink(ctx, key).Err(); err != nil {
			return opErr("audit", key, err)
		}
		f.Repaired = true
	}
	a.found(f)
	return nil
}

// expire reports a key that should expire and does not, and lets it.
func (a *audit) expire(ctx context.Context, key string) error {
	f := Finding{Code: "stays", Subject: key, Detail: "does not expire"}
	if a.repair == "1" {
		if err := a.rdb.PExpire(ctx, key, outcomesFor).Err(); err != nil {
			return opErr("audit", key, err)
		}
		f.Repaired = true
	}
	a.found(f)
	return nil
}

// leases gives the nodes that are known, each between NULs, where a script does not
// see them.
func (a *audit) leases(ctx context.Context) (string, error) {
	if !a.s.cfg.Apart {
		return "", nil
	}
	nodes, err := a.rdb.ZRange(ctx, a.s.keys.nodes(), 0, -1).Result()
	return "\x00" + strings.Join(nodes, "\x00") + "\x00", opErr("audit", "", err)
}

// nodesFor gives the key of the leases for a script about what lies at a prefix; or
// that, if it does not see them.
func (a *audit) nodesFor(prefix string) string {
	if a.s.cfg.Apart {
		return prefix
	}
	return a.s.keys.nodes()
}

// room looks at a room, and at some who may be in it.
func (a *audit) room(room RoomID, users []string) look {
	return func(ctx context.Context, repair string) ([]Finding, error) {
		p := a.s.keys.partition(room)
		part := a.s.keys.part(p)
		leases, err := a.leases(ctx)
		if err != nil {
			return nil, err
		}
		args := []any{string(room), repair, p, ms(a.s.cfg.SessionTTL), ms(a.s.cfg.LeaseTTL), ms(a.s.cfg.LogTTL), longestDelay, leases,
			MaxAttributes, MaxAttributeBytes, len(users)}
		for _, user := range users {
			record, place, info, err := a.elsewhere(ctx, room, UserID(user))
			if err != nil {
				return nil, err
			}
			args = append(args, user, a.s.keys.userSlot(UserID(user)), record, place, info)
		}
		return a.run(ctx, string(room), lua.AuditRoom, []string{part, a.s.keys.control(part), a.nodesFor(part)}, args...)
	}
}

// elsewhere gives what another slot has of a member of a room: the record of the
// session, "over" if its end is being seen to, and its reservation; and info, the
// membership whose session that is.
func (a *audit) elsewhere(ctx context.Context, room RoomID, user UserID) (record, place, info string, err error) {
	if !a.s.cfg.Apart {
		return "", "", "", nil
	}
	info, err = a.rdb.HGet(ctx, a.s.keys.part(a.s.keys.partition(room))+"info:"+string(room), string(user)).Result()
	if err != nil {
		if errors.Is(err, redis.Nil) || strings.HasPrefix(err.Error(), "WRONGTYPE") {
			err = nil
		}
		return "", "", "", opErr("audit", string(room), err)
	}
	session, _, _ := strings.Cut(info, "\x00")
	f, err := a.rdb.HMGet(ctx, a.s.keys.user(user), "s:"+session, "e:"+session, "r:"+string(room)+"\x00"+session).Result()
	if err != nil {
		if strings.HasPrefix(err.Error(), "WRONGTYPE") {
			err = nil
		}
		return "", "", info, opErr("audit", string(user), err)
	}
	record, _ = f[0].(string)
	if f[0] == nil && f[1] != nil {
		record = "over"
	}
	place, _ = f[2].(string)
	return record, place, info, nil
}

// members looks at all who are in the members or the info of a room.
func (a *audit) members(ctx context.Context, key, kind string, room RoomID) error {
	return a.pages(ctx, key, kind, func(page []string) error {
		return a.lookEach(ctx, page, func(ctx context.Context, page []string, repair string) ([]Finding, error) {
			return a.room(room, page)(ctx, repair)
		})
	})
}

// user looks at a user's sessions and places.
func (a *audit) user(ctx context.Context, key, slot string, user UserID) error {
	uslot := a.s.keys.uslot(slot)
	control := a.s.keys.control(uslot)
	err := a.look(ctx, func(ctx context.Context, repair string) ([]Finding, error) {
		leases, err := a.leases(ctx)
		if err != nil {
			return nil, err
		}
		return a.run(ctx, key, lua.AuditUser, []string{key, uslot, control, a.nodesFor(uslot)},
			string(user), repair, ms(a.s.cfg.SessionTTL), ms(a.s.cfg.LeaseTTL), a.s.cfg.Partitions, leases)
	})
	if err != nil || !a.s.cfg.Apart {
		return err
	}
	return a.look(ctx, func(ctx context.Context, repair string) ([]Finding, error) { return a.void(ctx, user, repair) })
}

// void looks for reservations of a user, where slots lie apart, whose session is not in
// the room and could have been: they are given back. One of an earlier life of the room is
// void, and no finding; nor is one that is new, or whose session is over.
func (a *audit) void(ctx context.Context, user UserID, repair string) (found []Finding, err error) {
	fields, err := a.rdb.HGetAll(ctx, a.s.keys.user(user)).Result()
	if err != nil {
		return nil, opErr("audit", string(user), err)
	}
	now, err := a.rdb.Time(ctx).Result()
	if err != nil {
		return nil, opErr("audit", "", err)
	}
	for field, value := range fields {
		field, reserves := strings.CutPrefix(field, "r:")
		id, session, ok := strings.Cut(field, "\x00")
		_, text, whole := strings.Cut(value, "\x00")
		ticket, err := strconv.ParseInt(text, 10, 64)
		if !reserves || !ok || !whole || err != nil || fields["s:"+session] == "" {
			continue // the script sees to what is malformed
		}
		part := a.s.keys.part(a.s.keys.partition(RoomID(id)))
		created, err := a.rdb.HGet(ctx, part+"room:"+id, "created").Int64()
		if errors.Is(err, redis.Nil) || err == nil && created*1000 > ticket || now.Sub(time.UnixMicro(ticket)) < auditSlack {
			continue
		}
		info, err := a.rdb.HGet(ctx, part+"info:"+id, string(user)).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			continue // the walk comes to that key, too
		}
		if strings.HasPrefix(info, session+"\x00") {
			continue
		}
		f := Finding{Code: "reservation", Subject: string(user) + "'s place in " + id, Detail: "is of session " + session + ", which is not in it", of: session + "\x00" + value}
		if repair == "1" {
			node := strings.SplitN(fields["s:"+session], "\x00", 3)[1]
			f.Repaired, err = a.s.drop(ctx, todo{user: user, session: SessionID(session), room: RoomID(id), ticket: text, node: node})
			if err != nil {
				return found, err
			}
		}
		found = append(found, f)
	}
	return found, nil
}

// auditSlack is how old a reservation is that nobody is about to use any more.
const auditSlack = time.Minute

// index looks at the entries of an index.
func (a *audit) index(ctx context.Context, key, kind, what, slot, id string) error {
	prefix := a.s.keys.control(a.s.keys.nodes())
	if slot != "" {
		prefix = a.s.keys.uslot(slot)
	}
	return a.pages(ctx, key, kind, func(page []string) error {
		return a.lookEach(ctx, page, func(ctx context.Context, page []string, repair string) ([]Finding, error) {
			leases, err := a.leases(ctx)
			if err != nil {
				return nil, err
			}
			args := []any{what, id, repair, ms(a.s.cfg.LeaseTTL), leases, MaxMemberAttributes, MaxMemberAttributeBytes, len(page)}
			for _, entry := range page {
				args = append(args, entry)
			}
			return a.run(ctx, key, lua.AuditIndex, []string{key, prefix, a.s.keys.control(prefix), a.nodesFor(prefix)}, args...)
		})
	})
}

// places holds the places that rooms have, where they are given in another slot,
// against the rooms that there are.
func (a *audit) places(ctx context.Context) error {
	if !a.s.admits() {
		return nil
	}
	for p := range a.s.cfg.Partitions {
		part, admitted := a.s.keys.part(p), a.s.keys.part(0)+"admitted:"+strconv.Itoa(p)
		err := a.pages(ctx, admitted, "zset", func(page []string) error {
			return a.lookEach(ctx, page, func(ctx context.Context, page []string, repair string) ([]Finding, error) {
				return a.unusedPlaces(ctx, p, page, repair)
			})
		})
		if err != nil {
			return err
		}
		err = a.pages(ctx, part+"rooms", "zset", func(page []string) error {
			return a.lookEach(ctx, page, func(ctx context.Context, page []string, repair string) ([]Finding, error) {
				return a.roomsWithout(ctx, p, page, repair)
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// unusedPlaces looks for places of rooms of a partition that are not there, nor on
// their way, nor ended just now.
func (a *audit) unusedPlaces(ctx context.Context, p int, page []string, repair string) (found []Finding, err error) {
	part, nodes := a.s.keys.part(p), a.s.keys.part(0)
	for _, id := range page {
		ticket, err := a.rdb.ZScore(ctx, nodes+"admitted:"+strconv.Itoa(p), id).Result()
		if errors.Is(err, redis.Nil) {
			continue
		}
		making := a.rdb.ZScore(ctx, nodes+"making", strconv.Itoa(p)+"\x00"+id).Err()
		ended := a.rdb.ZScore(ctx, part+"ended", id).Err()
		epoch := a.rdb.HGet(ctx, part+"room:"+id, "epoch").Err()
		if err != nil || !errors.Is(making, redis.Nil) || !errors.Is(ended, redis.Nil) || !errors.Is(epoch, redis.Nil) {
			continue // there is one, or the walk comes to what is wrong with these keys
		}
		f := Finding{Code: "place", Subject: id, Detail: "has a place among the rooms that may exist, and there is no such room"}
		if repair == "1" {
			if a.s.keys.partition(RoomID(id)) != p { // nobody looks for it here
				err = a.rdb.ZRem(ctx, nodes+"admitted:"+strconv.Itoa(p), id).Err()
			} else {
				err = a.s.lookAfter(ctx, []placedRoom{{RoomID(id), int64(ticket)}})
			}
			if err != nil {
				return found, opErr("audit", id, err)
			}
			f.Repaired = true
		}
		found = append(found, f)
	}
	return found, nil
}

// roomsWithout looks for rooms of a partition without a place, though its rooms have
// been counted.
func (a *audit) roomsWithout(ctx context.Context, p int, page []string, repair string) (found []Finding, err error) {
	part, nodes := a.s.keys.part(p), a.s.keys.part(0)
	counted, err := a.rdb.HGet(ctx, part+"clock", "counted").Result()
	if err != nil {
		return nil, nil // they will be, before one is created
	}
	number, _, _ := strings.Cut(counted, "\x00")
	above, _ := strconv.ParseInt(number, 10, 64)
	for _, id := range page {
		if err := a.rdb.HGet(ctx, part+"room:"+id, "epoch").Err(); err != nil {
			continue
		}
		if err := a.rdb.ZScore(ctx, nodes+"admitted:"+strconv.Itoa(p), id).Err(); !errors.Is(err, redis.Nil) {
			continue
		}
		f := Finding{Code: "place", Subject: id, Detail: "has no place among the rooms that may exist"}
		if repair == "1" {
			if err := a.s.count(ctx, p, above); err != nil {
				return found, err
			}
			f.Repaired = true
		}
		found = append(found, f)
	}
	return found, nil
}

// pages walks a set, a sorted set or the fields of a hash. What comes or goes
// meanwhile may be missed.
func (a *audit) pages(ctx context.Context, key, kind string, look func([]string) error) error {
	var cursor uint64
	for {
		var found []string
		var err error
		step := 1
		switch kind {
		case "hash":
			step = 2
			found, cursor, err = a.rdb.HScan(ctx, key, cursor, "", auditPage).Result()
		case "zset":
			step = 2
			found, cursor, err = a.rdb.ZScan(ctx, key, cursor, "", auditPage).Result()
		default:
			found, cursor, err = a.rdb.SScan(ctx, key, cursor, "", auditPage).Result()
		}
		if err != nil {
			return opErr("audit", key, err)
		}
		names := make([]string, 0, len(found)/step)
		for i := 0; i < len(found); i += step {
			names = append(names, found[i])
		}
		for page := range slices.Chunk(names, auditPage) {
			if err := look(page); err != nil {
				return err
			}
		}
		if cursor == 0 {
			return nil
		}
	}
}

// run runs a script that looks, and gives what it finds.
func (a *audit) run(ctx context.Context, on string, script lua.Script, keys []string, args ...any) (found []Finding, err error) {
	r, err := a.s.run(ctx, on, on, script, keys, args...)
	if err != nil && strings.Contains(err.Error(), "WRONGTYPE") {
		// Which key it is shows when the walk comes to it.
		return []Finding{{Code: "type", Subject: on, Detail: "could not be looked at: one of its keys has a wrong type"}}, nil
	}
	if err != nil {
		return nil, err
	}
	for len(r.fields) > 0 && r.err == nil {
		found = append(found, Finding{Code: r.text(), Subject: r.text(), Detail: r.text(), Repaired: r.text() == "1", of: r.text()})
	}
	if err := opErr(script.Name, on, r.done()); err != nil {
		return nil, err
	}
	return found, a.mend(ctx, r.listed)
}

// mend does what a repair has listed that is to be done in users' slots.
func (a *audit) mend(ctx context.Context, list []todo) error {
	for _, t := range list {
		if t.what != "held" {
			if err := a.s.free(ctx, []todo{t}); err != nil {
				return err
			}
			continue
		}
		// The membership decides: it has its reservation again, or is to end.
		_, err := a.s.run(ctx, string(t.user), string(t.user), lua.Rereserve, a.s.keys.of(t.user),
			string(t.user), string(t.session), string(t.room), t.detail, t.ticket)
		if err != nil {
			return err
		}
	}
	return nil
}
