package roomstore

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
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

// layout is every key there may be, behind the prefix, its type in Redis and
// how it is looked at.
var layout = []struct {
	key  *regexp.Regexp // with the partition or slot, then the ID
	kind string
	look string
}{
	{regexp.MustCompile(`(?s)^\{(\d+)\}:(?:room|attrs|memberattrs|blocked):(.+)$`), "hash", "room"},
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

// audit is one walk over all keys.
type audit struct {
	s      *Store
	rdb    redis.UniversalClient
	repair string
	report func(Finding)
	open   int // findings not repaired
	rooms  map[RoomID]bool
	said   map[Finding]bool // a room is come upon in more than one way
}

// Audit holds everything that is stored against itself: counts against sets,
// members against sessions and nodes, rooms against the list of rooms,
// deadlines against what they are about, and keys against what they belong to.
// It calls report for each disagreement. With repair set it removes or mends
// what it can.
//
// It may run beside gateways at work: what it compares, it compares within one
// script each. On a healthy deployment it finds nothing. It walks all keys, in
// steps of some hundred.
func (s *Store) Audit(ctx context.Context, repair bool, report func(Finding)) error {
	if s.cfg.Apart {
		return opErr("audit", "", errors.New("an audit cannot compare what is in several hash slots"))
	}
	a := &audit{s: s, rdb: s.calls.rdb, repair: "0", report: report, rooms: map[RoomID]bool{}, said: map[Finding]bool{}}
	if repair {
		a.repair = "1"
	}
	var cursor uint64
	match := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s.cfg.Prefix) + ":*"
	for {
		found, next, err := a.rdb.Scan(ctx, cursor, match, auditScan).Result()
		if err != nil {
			return opErr("audit", "", err)
		}
		if err := a.keys(ctx, found); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	now, err := a.rdb.Time(ctx).Result()
	if err == nil {
		err = a.rdb.HSet(ctx, s.audited(), "at", now.UnixMilli(), "found", a.open).Err()
	}
	return opErr("audit", "", err)
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
	for _, l := range layout {
		m := l.key.FindStringSubmatch(rest)
		if m == nil {
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
			return a.room(ctx, RoomID(id), nil)
		case "members":
			return a.members(ctx, key, kind, RoomID(id))
		case "rooms":
			return a.pages(ctx, key, kind, func(page []string) error {
				for _, id := range page {
					if err := a.room(ctx, RoomID(id), nil); err != nil {
						return err
					}
				}
				return nil
			})
		case "user":
			return a.run(ctx, key, lua.AuditUser, []string{key, a.s.keys.uslot(slot), a.s.keys.control(a.s.keys.nodes()), a.s.keys.nodes()},
				id, a.repair, ms(a.s.cfg.SessionTTL), ms(a.s.cfg.LeaseTTL), a.s.cfg.Partitions)
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
	case "room", "members":
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

// room looks at a room, and at some who may be in it.
func (a *audit) room(ctx context.Context, room RoomID, users []string) error {
	p := a.s.keys.partition(room)
	args := []any{string(room), a.repair, p, ms(a.s.cfg.SessionTTL), ms(a.s.cfg.LeaseTTL), ms(a.s.cfg.LogTTL), longestDelay, len(users)}
	for _, user := range users {
		args = append(args, user, a.s.keys.userSlot(UserID(user)))
	}
	return a.run(ctx, string(room), lua.AuditRoom, []string{a.s.keys.part(p), a.s.keys.control(a.s.keys.nodes()), a.s.keys.nodes()}, args...)
}

// members looks at all who are in the members or the info of a room.
func (a *audit) members(ctx context.Context, key, kind string, room RoomID) error {
	return a.pages(ctx, key, kind, func(page []string) error { return a.room(ctx, room, page) })
}

// index looks at the entries of an index.
func (a *audit) index(ctx context.Context, key, kind, look, slot, id string) error {
	prefix := a.s.keys.control(a.s.keys.nodes())
	if slot != "" {
		prefix = a.s.keys.uslot(slot)
	}
	return a.pages(ctx, key, kind, func(page []string) error {
		args := []any{look, id, a.repair, ms(a.s.cfg.LeaseTTL), len(page)}
		for _, entry := range page {
			args = append(args, entry)
		}
		return a.run(ctx, key, lua.AuditIndex, []string{key, prefix, a.s.keys.control(a.s.keys.nodes()), a.s.keys.nodes()}, args...)
	})
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

// run runs a script that looks, and reports what it finds.
func (a *audit) run(ctx context.Context, on string, script lua.Script, keys []string, args ...any) error {
	r, err := a.s.run(ctx, on, on, script, keys, args...)
	if err != nil && strings.Contains(err.Error(), "WRONGTYPE") {
		// Which key it is shows when the walk comes to it.
		a.found(Finding{Code: "type", Subject: on, Detail: "could not be looked at: one of its keys has a wrong type"})
		return nil
	}
	if err != nil {
		return err
	}
	for len(r.fields) > 0 && r.err == nil {
		a.found(Finding{Code: r.text(), Subject: r.text(), Detail: r.text(), Repaired: r.text() == "1"})
	}
	return opErr(script.Name, on, r.done())
}
