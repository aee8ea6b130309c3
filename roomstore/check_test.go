package roomstore_test

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/roomgate/roomgate/roomstore"
)

// roomKinds are the kinds of keys that belong to one life of a room.
var roomKinds = []string{"room", "members", "info", "left", "log", "attrs", "memberattrs", "blocked"}

// layout is every key there may be, behind the prefix, and its type.
var layout = []struct {
	key  *regexp.Regexp
	kind string
}{
	{regexp.MustCompile(`(?s)^\{(\d+)\}:(?:room|info|attrs|memberattrs|blocked):(.+)$`), "hash"},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:(?:members|left):(.+)$`), "zset"},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:log:(.+)$`), "list"},
	{regexp.MustCompile(`^\{\d+\}:(?:rooms|due|parked)$`), "zset"},
	{regexp.MustCompile(`^\{\d+\}:node:.+$`), "set"},
	{regexp.MustCompile(`^\{u?\d+\}:(?:did|gone):.+$`), "hash"},
	{regexp.MustCompile(`^\{0\}:(?:clock|audited)$`), "hash"},
	{regexp.MustCompile(`^\{0\}:dead$`), "zset"},
	{regexp.MustCompile(`^\{0\}:gateway:.+$`), "string"},
	// Where slots lie apart each has its own.
	{regexp.MustCompile(`^\{u?\d+\}:clock$`), "hash"},
	{regexp.MustCompile(`^\{u?\d+\}:dead$`), "zset"},
	{regexp.MustCompile(`^\{0\}:nodes$`), "zset"},
	{regexp.MustCompile(`^\{u\d+\}:switching$`), "zset"},
	{regexp.MustCompile(`^\{0\}:admissions$`), "hash"},
	{regexp.MustCompile(`^\{0\}:(?:admitted:\d+|making)$`), "zset"},
	{regexp.MustCompile(`^\{\d+\}:ended$`), "zset"},
	{regexp.MustCompile(`(?s)^\{(\d+)\}:barred:(.+)$`), "string"},
	{regexp.MustCompile(`^\{u?\d+\}:(?:term|origin|partitions)$`), "string"},
	{regexp.MustCompile(`(?s)^\{u(\d+)\}:user:(.+)$`), "hash"},
	{regexp.MustCompile(`^\{u\d+\}:slow:.+$`), "set"},
	{regexp.MustCompile(`^\{u\d+\}:parked$`), "zset"},
	{regexp.MustCompile(`^\{u\d+\}:nodesessions:.+$`), "set"},
	{regexp.MustCompile(`^nodes$`), "zset"},
	{regexp.MustCompile(`^partitions$`), "string"},
	{regexp.MustCompile(`^\{0\}:(?:term|origin)$`), "string"},
}

// passing are the keys of what is kept for a while only.
var passing = regexp.MustCompile(`^\{u?\d+\}:(?:log|left|did|gone|slow|barred|gateway):`)

// check holds what is stored against itself and against what was heard: keys
// are where the layout has them; a room's sets name the same members; every
// index has what it has to, and what it has beyond that is void; each life had
// one beginning and has one end, or lasts; its events were numbered without
// holes, and the room knows the last number.
func (w *world) check() {
	w.Helper()
	w.hear()
	w.all = w.keys()
	w.checkKeys()
	if w.dropped {
		return
	}
	living := map[int64]bool{}
	for p := range w.parts {
		part := w.tag(strconv.Itoa(p))
		for _, z := range w.rdb.ZRange(w.ctx(), part+"rooms", 0, -1).Val() {
			living[w.checkRoom(part, z)] = true
		}
		w.checkDue(part)
		w.checkUsers("u" + strconv.Itoa(p))
	}
	w.checkPlaces()
	for epoch, l := range w.lives {
		if gone := l.destroyed > 0; gone == living[epoch] {
			w.Errorf("%s exists: %t, destroyed %d times", l.name, living[epoch], l.destroyed)
		}
	}
}

func (w *world) checkKeys() {
	w.Helper()
keys:
	for _, key := range w.all {
		rest := strings.TrimPrefix(key, w.prefix+":")
		for _, l := range layout {
			m := l.key.FindStringSubmatch(rest)
			if m == nil {
				continue
			}
			if kind := w.rdb.Type(w.ctx(), key).Val(); kind != l.kind && kind != "none" {
				w.Errorf("%q is a %s, want a %s", key, kind, l.kind)
			}
			if passing.MatchString(rest) && w.rdb.PTTL(w.ctx(), key).Val() == -1 {
				w.Errorf("%q does not expire", key)
			}
			if len(m) == 3 && m[1] != strconv.Itoa(w.hash(m[2])) {
				w.Errorf("%q is in another partition than %d, where it belongs", key, w.hash(m[2]))
			}
			continue keys
		}
		w.Errorf("key %q is in no layout", key)
	}
}

// checkRoom returns the epoch of the room.
func (w *world) checkRoom(part, id string) int64 {
	w.Helper()
	h := w.rdb.HGetAll(w.ctx(), part+"room:"+id).Val()
	epoch, _ := strconv.ParseInt(h["epoch"], 10, 64)
	l := w.lives[epoch]
	if l == nil || l.room != id {
		w.Errorf("room %q has epoch %q, which was not announced", id, h["epoch"])
		return 0
	}
	if seq, _ := strconv.ParseInt(h["seq"], 10, 64); l.seq < 0 {
		l.seq = seq
	}
	if h["seq"] != strconv.FormatInt(l.seq, 10) {
		w.Errorf("%s is at seq %s, the last heard was %d", l.name, h["seq"], l.seq)
	}
	for _, f := range strings.FieldsFunc(h["from"], func(c rune) bool { return c == ',' }) {
		if before, _ := strconv.ParseInt(f, 10, 64); w.lives[before] != nil {
			w.lives[before].destroyed = 1 // it goes on as this one
		}
	}
	members := w.rdb.ZRangeWithScores(w.ctx(), part+"members:"+id, 0, -1).Val()
	info := w.rdb.HGetAll(w.ctx(), part+"info:"+id).Val()
	if len(members) != len(info) {
		w.Errorf("%s has %d members, and info of %d", l.name, len(members), len(info))
	}
	if empty := len(members) == 0; empty != (h["deadline"] != "") {
		w.Errorf("%s has %d members and the deadline %q", l.name, len(members), h["deadline"])
	}
	due := w.rdb.ZScore(w.ctx(), part+"due", id+"\x00"+h["epoch"]).Val()
	if want, _ := strconv.ParseFloat(h["deadline"], 64); due != want {
		w.Errorf("%s is due at %.0f, want %.0f", l.name, due, want)
	}
	if ttl := w.rdb.PTTL(w.ctx(), part+"room:"+id).Val(); (ttl > 0) != (h["deadline"] != "") {
		w.Errorf("%s has the deadline %q and expires in %v", l.name, h["deadline"], ttl)
	}
	for _, m := range members {
		user := m.Member.(string)
		if m.Score < 1 || m.Score > float64(l.seq) {
			w.Errorf("%s entered %s at %.0f", user, l.name, m.Score)
		}
		w.checkMember(part, id, h["epoch"], user, info[user])
	}
	return epoch
}

func (w *world) checkMember(part, id, epoch, user, info string) {
	w.Helper()
	f := strings.SplitN(info, "\x00", 5)
	if len(f) != 5 {
		w.Errorf("info of %s in %s is %q", user, id, info)
		return
	}
	session, generation, node, slot := f[0], f[1], f[2], f[3]
	parked := w.rdb.ZScore(w.ctx(), part+"parked", session+"\x00"+user+"\x00"+id).Val()
	if (node == "") != (parked > 0) {
		w.Errorf("%s in %s is on node %q and parked until %.0f", user, id, node, parked)
	}
	if node != "" && !w.rdb.SIsMember(w.ctx(), part+"node:"+node, user+"\x00"+id).Val() {
		w.Errorf("node %s does not hold %s in %s", node, user, id)
	}
	for p := range w.parts {
		for _, key := range w.scan(w.tag(strconv.Itoa(p)) + "node:") {
			if key != part+"node:"+node && w.rdb.SIsMember(w.ctx(), key, user+"\x00"+id).Val() {
				w.Errorf("%s holds %s in %s, too", key, user, id)
			}
		}
	}
	key := w.user(roomstore.UserID(user))
	p := strings.TrimSuffix(part[strings.Index(part, "{")+1:], "}:")
	slot, ticket, _ := strings.Cut(slot, "#")
	if want := "u" + strconv.Itoa(w.hash(user)); slot != want {
		w.Errorf("slot of %s is %q, want %q", user, slot, want)
	}
	if s := w.rdb.HGet(w.ctx(), key, "s:"+session).Val(); s != "" && !strings.HasPrefix(s, generation+"\x00"+node+"\x00") {
		// Of a resume that was not completed the place may be parked all the same.
		if f := strings.SplitN(s, "\x00", 3); !w.apart || node != "" || f[1] != "" || generation > f[0] {
			w.Errorf("%s in %s is of generation %s on %q, the session is %q", user, id, generation, node, s)
		}
	}
	if w.apart {
		if s := w.rdb.HMGet(w.ctx(), key, "s:"+session, "e:"+session).Val(); node != "" && s[0] == nil && s[1] == nil {
			w.Errorf("%s in %s is on node %s, and nobody knows the session %s", user, id, node, session)
		}
		r := w.rdb.HGet(w.ctx(), key, "r:"+id+"\x00"+session).Val()
		if of, reserved, _ := strings.Cut(r, "\x00"); of != p || reserved < ticket || ticket == "" {
			w.Errorf("%s has the reservation %q for the room %s, and the membership the ticket %q", key, r, id, ticket)
		}
		return
	}
	r := w.rdb.HGet(w.ctx(), key, "r:"+id).Val()
	before, _, _ := strings.Cut(r, "\x00")
	from := w.rdb.HGet(w.ctx(), part+"room:"+id, "from").Val()
	if r != epoch+"\x00"+p+"\x00"+session && (!strings.Contains(from, ","+before+",") || r != before+"\x00"+p+"\x00"+session) {
		w.Errorf("%s has %q for the room %s, want %q", key, r, id, epoch+"\x00"+p+"\x00"+session)
	}
}

func (w *world) scan(prefix string) (keys []string) {
	for _, key := range w.all {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

// checkDue: what is due is an empty room in that life.
func (w *world) checkDue(part string) {
	w.Helper()
	for _, entry := range w.rdb.ZRange(w.ctx(), part+"due", 0, -1).Val() {
		id, epoch, _ := strings.Cut(entry, "\x00")
		if got := w.rdb.HGet(w.ctx(), part+"room:"+id, "epoch").Val(); got != epoch {
			w.Errorf("%q is due, the room has epoch %q", entry, got)
		}
	}
}

// checkUsers: a session is parked or a node holds it.
func (w *world) checkUsers(slot string) {
	w.Helper()
	for _, key := range w.scan(w.tag(slot) + "user:") {
		user := strings.TrimPrefix(key, w.tag(slot)+"user:")
		for field, value := range w.rdb.HGetAll(w.ctx(), key).Val() {
			session, ok := strings.CutPrefix(field, "s:")
			if !ok {
				continue
			}
			f := strings.SplitN(value, "\x00", 5)
			node, deadline := f[1], f[2]
			want, _ := strconv.ParseFloat(deadline, 64)
			if got := w.rdb.ZScore(w.ctx(), w.tag(slot)+"parked", session+"\x00"+user).Val(); got != want {
				w.Errorf("session %s is parked until %.0f, want %.0f", session, got, want)
			}
			if (node == "") != (deadline != "") {
				w.Errorf("session %s is on %q with deadline %q", session, node, deadline)
			}
			for _, set := range w.scan(w.tag(slot) + "nodesessions:") {
				held := w.rdb.SIsMember(w.ctx(), set, session+"\x00"+user).Val()
				if mine := node != "" && set == w.tag(slot)+"nodesessions:"+node; held != mine {
					w.Errorf("%s holds session %s: %t, want %t", set, session, held, mine)
				}
			}
		}
	}
}

// admits says whether rooms need a place, which is given in another slot.
func (w *world) admits() bool { return w.apart && w.parts > 1 && w.cfg.MaxRooms > 0 }

// checkPlaces: there are no more places than rooms may exist, and each room has one, if
// its partition's rooms are counted.
func (w *world) checkPlaces() {
	w.Helper()
	if !w.admits() {
		return
	}
	places := 0
	for p := range w.parts {
		tickets := map[string]float64{}
		for _, z := range w.rdb.ZRangeWithScores(w.ctx(), w.tag("0")+"admitted:"+strconv.Itoa(p), 0, -1).Val() {
			tickets[z.Member.(string)] = z.Score
		}
		places += len(tickets)
		part := w.tag(strconv.Itoa(p))
		counted, _, _ := strings.Cut(w.rdb.HGet(w.ctx(), part+"clock", "counted").Val(), "\x00")
		for _, id := range w.rdb.ZRange(w.ctx(), part+"rooms", 0, -1).Val() {
			ticket, _ := w.rdb.HGet(w.ctx(), part+"room:"+id, "admitted").Float64()
			if counted != "" && (ticket == 0 || tickets[id] < ticket) {
				w.Errorf("the room %q has the ticket %.0f, its place %.0f", id, ticket, tickets[id])
			}
		}
	}
	if places > w.cfg.MaxRooms {
		w.Errorf("%d rooms have places, %d may exist", places, w.cfg.MaxRooms)
	}
}
