//go:build linux

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
)

// stored is what Redis has of a room.
type stored struct {
	epoch, seq int64
	members    []string          // users in order
	sessions   map[string]string // of users
	meta       map[string]string
}

// look reads the rooms from Redis.
func (w *world) look() (map[string]stored, error) {
	out := map[string]stored{}
	for _, room := range rooms {
		meta, err := w.rdb.HGetAll(w.ctx, gatetest.RoomKey(w.rdb, "room", room)).Result()
		if err != nil {
			return nil, err
		}
		members, err := w.rdb.ZRange(w.ctx, gatetest.RoomKey(w.rdb, "members", room), 0, -1).Result()
		if err != nil {
			return nil, err
		}
		info, err := w.rdb.HGetAll(w.ctx, gatetest.RoomKey(w.rdb, "info", room)).Result()
		if err != nil {
			return nil, err
		}
		if len(meta) == 0 && len(members) == 0 && len(info) == 0 {
			continue
		}
		s := stored{members: members, sessions: map[string]string{}, meta: meta}
		s.epoch, _ = strconv.ParseInt(meta["epoch"], 10, 64)
		s.seq, _ = strconv.ParseInt(meta["seq"], 10, 64)
		for user, value := range info {
			s.sessions[user], _, _ = strings.Cut(value, "\x00")
		}
		out[room] = s
	}
	return out, nil
}

// unsettled says what does not agree yet: where players believe to be and where
// Redis has them. Nobody who is gone may be a member for longer than allowed.
func (w *world) unsettled() string {
	for _, p := range w.people {
		if c := p.client(); c == nil {
			continue
		} else if err := c.Err(); err != nil {
			return fmt.Sprintf("%s to live: its client ended: %v", p.user, err)
		} else if !p.online() {
			return p.user + " to be back"
		} else {
			ctx, cancel := context.WithTimeout(w.ctx, callTimeout)
			_, err := c.Ping(ctx)
			p.renewed(c)
			for _, room := range p.staleRooms() {
				p.list(ctx, c, room)
			}
			cancel()
			if err != nil {
				return fmt.Sprintf("%s to be served: %v", p.user, err)
			}
		}
	}
	is, err := w.look()
	if err != nil {
		return fmt.Sprintf("Redis to answer: %v", err)
	}
	believed := map[string]bool{}
	for _, p := range w.people {
		p.mu.Lock()
		session := p.session
		p.mu.Unlock()
		for room, epoch := range p.in() {
			believed[room+" "+p.user] = true
			r, exists := is[room]
			switch {
			case !exists:
				return fmt.Sprintf("%s, which %s believes to be in, to exist", room, p.user)
			case r.epoch != epoch:
				return fmt.Sprintf("%s to know that %s is in epoch %d and not %d", p.user, room, r.epoch, epoch)
			case r.sessions[p.user] != session:
				return fmt.Sprintf("%s, with session %s, to be in %s: Redis has %v", p.user, session, room, r.sessions)
			}
		}
	}
	for _, room := range sortedKeys(is) {
		for _, user := range is[room].members {
			if !believed[room+" "+user] {
				w.ghost(room, user, is[room].sessions[user])
				return fmt.Sprintf("%s, which is not in %s any more, to be taken out", user, room)
			}
		}
		if at := is[room].meta["deadline"]; at != "" {
			return fmt.Sprintf("%s, which is empty, to end", room)
		}
	}
	parked := map[string]*redis.StringSliceCmd{}
	_, err = w.rdb.Pipelined(w.ctx, func(p redis.Pipeliner) error {
		for _, key := range append(gatetest.InPartitions(w.rdb, "parked"), gatetest.InUsers(w.rdb, "parked")...) {
			parked[key] = p.ZRange(w.ctx, key, 0, -1)
		}
		return nil
	})
	for key, left := range parked {
		if err != nil || len(left.Val()) > 0 {
			return fmt.Sprintf("%s to be empty: %q %v", key, left.Val(), err)
		}
	}
	return ""
}

// ghost looks whether a member without a client may still be one.
func (w *world) ghost(room, user, session string) {
	w.mu.Lock()
	quiet := w.quiet
	w.mu.Unlock()
	for _, p := range w.people {
		if p.user != user {
			continue
		}
		p.mu.Lock()
		since := p.gone
		p.mu.Unlock()
		if since.Before(quiet) {
			since = quiet
		}
		if late := time.Since(since) - (sessionTTL + leaseTTL + grace); late > 0 {
			w.t.Fatalf("%s is in %s, with session %s, %v after it had to be taken out", user, room, session, late)
		}
	}
}

// rest lets the load pause and all come to rest, and holds everything against
// everything.
func (w *world) rest() {
	t := w.t
	t.Helper()
	w.pause()
	began := time.Now()
	w.until("the gateways to be ready", patience, func() string {
		for i := range stations {
			if s := w.place(i); !s.Ready() {
				_, why := s.Get("http://" + s.Addr + "/readyz")
				return s.name + " is not: " + why
			}
		}
		return ""
	})
	w.until("all to agree", patience, w.unsettled)
	settled := time.Since(began)

	w.speak()
	is, err := w.look()
	w.must(err)
	w.compare(is)
	w.order(is)
	for room, r := range is {
		if before := w.epochs[room]; r.epoch < before {
			w.blame("%s is in epoch %d, it was in %d", room, r.epoch, before)
		}
		w.epochs[room] = r.epoch
		if want := "The " + room; r.meta["name"] != want || r.meta["delay"] != strconv.Itoa(delays[room]) {
			w.blame("%s has the name %q and the delay %q", room, r.meta["name"], r.meta["delay"])
		}
		attributes := gatetest.AttributeValues(w.rdb.HGetAll(w.ctx, gatetest.RoomKey(w.rdb, "attrs", room)).Val())
		if d := cmp.Diff(map[string]string{"room": room}, attributes); d != "" {
			w.blame("attributes of %s (-want +got):\n%s", room, d)
		}
	}
	w.fsck()
	for _, p := range w.people {
		if c := p.client(); c != nil {
			p.counted(c)
		}
	}
	w.verdict()
	w.mu.Lock()
	acks := w.acks
	w.acks = 0
	w.mu.Unlock()
	for _, p := range w.people {
		p.rebase(is)
	}
	members := 0
	for _, r := range is {
		members += len(r.members)
	}
	w.note("at rest after %v: %d rooms with %d members, %d messages acknowledged since", settled.Round(time.Millisecond), len(is), members, acks)
}

// verdict fails the test if anything was not as it has to be.
func (w *world) verdict() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range w.wrong {
		w.t.Error(text)
	}
	if len(w.wrong) > 0 {
		w.t.FailNow()
	}
}

// speak has every member say something in every room, and waits until all the
// others have heard it. So all have heard what came before.
func (w *world) speak() {
	w.mu.Lock()
	round := len(w.schedule)
	w.mu.Unlock()
	last := func(room, user string) string { return fmt.Sprintf("last of %s in %s, %d", user, room, round) }
	var speaking errgroup.Group
	in := map[string][]*player{}
	for _, p := range w.people {
		for _, room := range sortedKeys(p.in()) {
			in[room] = append(in[room], p)
			speaking.Go(func() error {
				ctx, cancel := context.WithTimeout(w.ctx, callTimeout)
				defer cancel()
				if err := p.talk(ctx, p.client(), room, last(room, p.user)); err != nil {
					return fmt.Errorf("%s, in %s at rest: %w", p.user, room, err)
				}
				return nil
			})
		}
	}
	if err := speaking.Wait(); err != nil {
		w.t.Fatal(err)
	}
	w.until("all to hear the last of all others", patience, func() string {
		for room, here := range in {
			for _, p := range here {
				for _, other := range here {
					p.record.mu.Lock()
					_, heard := p.texts[last(room, other.user)]
					p.record.mu.Unlock()
					if !heard && other != p {
						return fmt.Sprintf("%s to hear %s in %s", p.user, other.user, room)
					}
				}
			}
		}
		return ""
	})
}

// compare holds what members believe, what they are told who ask, and what
// Redis has of each room against each other.
func (w *world) compare(is map[string]stored) {
	for _, room := range sortedKeys(is) {
		r := is[room]
		for _, user := range r.members {
			i := slices.IndexFunc(w.people, func(p *player) bool { return p.user == user })
			p := w.people[i]
			ctx, cancel := context.WithTimeout(w.ctx, callTimeout)
			list, err := p.client().QueryRoomMemberList(ctx, room, protocol.PageConfig{Count: 100})
			if err != nil {
				w.t.Fatalf("%s lists %s: %v", user, room, err)
			}
			count, err := p.client().QueryRoomOnlineMemberCount(ctx, room)
			cancel()
			if err != nil {
				w.t.Fatalf("%s counts %s: %v", user, room, err)
			}
			if got := names(list.MemberList); !slices.Equal(got, r.members) || list.Epoch != r.epoch || list.Seq != r.seq {
				w.blame("%s is told that %s has %v at %d:%d, Redis has %v at %d:%d", user, room, got, list.Epoch, list.Seq, r.members, r.epoch, r.seq)
			}
			if int(count.Count) != len(r.members) {
				w.blame("%s is told that %s has %d members, Redis has %d", user, room, count.Count, len(r.members))
			}
			p.record.mu.Lock()
			s := p.rooms[room]
			if s == nil || s.now().epoch != r.epoch {
				p.record.mu.Unlock()
				w.t.Fatalf("%s has left %s while all was at rest", user, room)
			}
			believed, ordered := p.believes(s)
			if s.now().at > r.seq {
				p.blame("it is at %d in %s, Redis is at %d", s.now().at, room, r.seq)
			}
			want := slices.Clone(r.members)
			if !ordered {
				slices.Sort(believed)
				slices.Sort(want)
			}
			if !slices.Equal(believed, want) {
				p.blame("it believes that %s has %v, Redis has %v at %d; it had %v at %d, and since %+v", room, believed, want, r.seq, s.base, s.baseAt, s.changes)
			}
			p.record.mu.Unlock()
		}
	}
}

// order holds what everybody heard against what everybody else heard, and
// against what senders were told.
func (w *world) order(is map[string]stored) {
	truth := map[place]string{}
	who := map[place]string{}
	first := map[place]time.Time{}
	tell := func(p place, h heard, by string) {
		if before, known := truth[p]; known && before != h.what {
			w.blame("at %v, %s has %q and %s has %q", p, who[p], before, by, h.what)
		}
		truth[p], who[p] = h.what, by
		if at, known := first[p]; !known || h.when.Before(at) {
			first[p] = h.when
		}
	}
	for _, p := range w.people {
		p.record.mu.Lock()
		for at, h := range p.truth {
			if !w.forgotten(h) {
				tell(at, h, p.user)
			}
		}
		p.record.mu.Unlock()
	}
	at := map[string]place{} // of texts
	places := make([]place, 0, len(truth))
	for p, what := range truth {
		places = append(places, p)
		if text, is := strings.CutPrefix(what, "m "); is {
			if before, twice := at[text]; twice && (before.epoch == p.epoch || !w.lossSince(time.Now().Add(-time.Minute))) {
				w.blame("%q is at %v and at %v", text, before, p)
			}
			at[text] = p
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		if c := strings.Compare(a.room, b.room); c != 0 {
			return c
		}
		if a.epoch != b.epoch {
			return int(a.epoch - b.epoch)
		}
		return int(a.seq - b.seq)
	})

	for _, p := range w.people {
		p.record.mu.Lock()
		stays := slices.Clone(p.past)
		for _, s := range p.rooms {
			stays = append(stays, s)
		}
		for _, s := range stays {
			for i, l := range s.lives {
				if l.void {
					continue
				}
				upTo := l.at
				if i == len(s.lives)-1 {
					upTo = max(upTo, p.end(s, is, places, truth))
				}
				for _, at := range places {
					if at.room != s.room || at.epoch != l.epoch || at.seq <= l.from || at.seq > upTo {
						continue
					}
					if !s.ended.IsZero() && w.lossBetween(s.ended, first[at]) {
						continue // something else was there at the time of this stay
					}
					p.check(s, l, at, truth[at], who[at])
				}
			}
		}
		p.record.mu.Unlock()
	}
}

// end gives up to where a stay was, as far as it can be told. mu is held.
func (r *record) end(s *stay, is map[string]stored, places []place, truth map[place]string) int64 {
	if s.ended.IsZero() {
		return is[s.room].seq
	}
	// A life that is over has taken with it what had not arrived by then.
	if s.interrupted || s.ending != protocol.RoomSuccess || is[s.room].epoch != s.now().epoch {
		return 0
	}
	// The answer waits for the events before it, but not for longer than that.
	for _, at := range append(r.leaves[s.room], r.leaves[""]...) {
		if d := s.ended.Sub(at); 0 <= d && d < redisTimeout/2 {
			return r.departure(s, places, truth)
		}
	}
	return 0
}

// departure gives where the user left, if somebody heard of it. mu is held.
func (r *record) departure(s *stay, places []place, truth map[place]string) int64 {
	l := s.now()
	// Its departure, if somebody heard of that one; the next may be of a later stay.
	for _, at := range places {
		if at.room != s.room || at.epoch != l.epoch || at.seq <= l.at {
			continue
		}
		for _, next := range append(slices.Collect(maps.Values(r.rooms)), r.past...) {
			if next.room == s.room && next.lives[0].epoch == l.epoch && l.at < next.lives[0].from && next.lives[0].from <= at.seq {
				return 0
			}
		}
		switch truth[at] {
		case "- " + r.user:
			return at.seq
		case "+ " + r.user:
			return 0
		}
	}
	return 0
}

// check looks whether the user knows of what others have heard at a place that
// a stay covers. mu is held.
func (r *record) check(s *stay, l life, at place, what, by string) {
	if slices.ContainsFunc(l.lost, func(lost span) bool { return lost.from < at.seq && at.seq <= lost.to }) {
		return
	}
	switch {
	case what == "- "+r.user && s.ended.IsZero():
		r.blame("%s saw it leave at %v, and it is in since %d", by, at, l.from)
	case what == "- "+r.user || what == "+ "+r.user || strings.HasPrefix(what, "m "+r.user+" "):
	case r.truth[at].what == what:
	case strings.HasPrefix(what, "m ") || l.whole:
		r.blame("%q at %v, which %s has heard, was not told it; it was in from %d to %d, lost %v, ended %q", what, at, by, l.from, l.at, l.lost, s.ending)
	}
}

// fsck audits Redis.
func (w *world) fsck() {
	path, err := gatetest.Binary()
	w.must(err)
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	url := w.server.Addr()
	if !strings.Contains(url, "://") {
		url = "redis://" + url
	}
	cmd := exec.CommandContext(ctx, path, slices.Concat([]string{"fsck", "--redis-url=" + url, fmt.Sprintf("--redis-timeout=%v", redisTimeout),
		fmt.Sprintf("--session-ttl=%v", sessionTTL), fmt.Sprintf("--lease-ttl=%v", leaseTTL), fmt.Sprintf("--heartbeat-interval=%v", heartbeat)}, gatetest.FlagsOf(url))...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil || !strings.HasPrefix(out.String(), "found 0, ") {
		w.blame("roomgate fsck: %v: %s", err, out.String())
	}
}

// close has everybody log out, and makes sure that nothing of them is left.
func (w *world) close() {
	w.pause()
	for _, p := range w.people {
		if c := p.client(); c != nil {
			ctx, cancel := context.WithTimeout(w.ctx, callTimeout)
			p.wants("")
			if err := c.Logout(ctx); err != nil {
				w.t.Errorf("%s logs out: %v", p.user, err)
			}
			cancel()
			p.leave(c)
		}
	}
	w.verdict()
	w.until("nothing to be left", patience, func() string {
		var left []string
		for _, key := range gatetest.KeysOf(w.t, w.rdb, "") {
			_, kind, _ := strings.Cut(strings.TrimPrefix(key, "rg:"), "}:")
			kind, _, _ = strings.Cut(kind, ":")
			switch {
			case key == gatetest.NodesKey(w.rdb) || key == "rg:partitions" || kind == "partitions":
			case slices.Contains([]string{"clock", "dead", "term", "origin", "audited"}, kind):
			case slices.Contains([]string{"did", "gone", "slow", "gateway"}, kind) && w.rdb.PTTL(w.ctx, key).Val() > 0:
			default:
				left = append(left, key)
			}
		}
		if len(left) == 0 {
			return ""
		}
		return fmt.Sprintf("%q", left)
	})
}
