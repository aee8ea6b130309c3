//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/roomstore"
)

// This file is about the end of sessions whose clients stay away.

// evictions adds those that were announced, which nobody asked for, to what
// happened.
func (h *history) evictions() error {
	sessions := h.sessions()
	for _, e := range h.entries {
		if e.Reason != roomstore.ReasonTimeout {
			continue
		}
		p := sessions[e.Origin]
		if p == nil {
			return fmt.Errorf("room %s: of no session: %+v", roomName(e.room), e.Event)
		}
		at := h.at(e.At)
		h.note(done{
			operation: operation{act: actEvict, session: p.session, user: p.user, room: e.room, to: e.room},
			// The order of what was announced says it exactly.
			called: at - 50*time.Millisecond, answered: at + 50*time.Millisecond,
		})
	}
	return nil
}

// at is a time of Redis's clock, in ms, as the history has it.
func (h *history) at(ms int64) time.Duration {
	return time.UnixMilli(ms).Sub(h.began.Round(0))
}

// sessions gives all, each as its player last knew it.
func (h *history) sessions() map[roomstore.SessionID]*player {
	all := map[roomstore.SessionID]*player{}
	for _, p := range slices.Concat(h.retired, h.players) {
		all[roomstore.SessionID(p.id)] = p
	}
	return all
}

// noGhosts waits until nobody is in a room any more whose session did not go on.
func (h *history) noGhosts(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	for {
		ghosts := h.ghosts()
		if len(ghosts) == 0 {
			return nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			return fmt.Errorf("these did not come back, and have not been evicted: %s", strings.Join(ghosts, ", "))
		}
	}
}

func (h *history) ghosts() (ghosts []string) {
	var in [mostRooms]map[roomstore.SessionID]bool
	for n := range in {
		in[n] = map[roomstore.SessionID]bool{}
	}
	for _, e := range h.site.book.of(h) {
		switch e.Kind {
		case roomstore.KindJoined:
			in[e.room][e.Origin] = true
		case roomstore.KindMoved:
			delete(in[e.room], e.Old)
			in[e.room][e.Origin] = true
		case roomstore.KindLeft:
			delete(in[e.room], e.Origin)
		case roomstore.KindDestroyed:
			clear(in[e.room])
		}
	}
	for _, p := range h.retired {
		for n := range in {
			if in[n][roomstore.SessionID(p.id)] {
				ghosts = append(ghosts, fmt.Sprintf("%s in room %s", sessionName(p.session, p.user), roomName(uint8(n))))
			}
		}
	}
	return ghosts
}

// inTime says whether no session ended before its time: a session TTL after the
// last sign of life that its gateway saw, or, if that gateway has been given up,
// after the end of its lease.
func (h *history) inTime(ctx context.Context) error {
	ttl := h.site.ttl()
	dead, err := h.site.dead(ctx)
	if err != nil {
		return err
	}
	// alive gives until when a session lasts at least that was answered.
	ends := map[*visit]time.Duration{} // of leases
	alive := func(d *done) time.Duration {
		end, known := ends[d.stay]
		if !known {
			end = math.MaxInt64
			for _, node := range d.stay.nodes(h) {
				if ms, is := dead[node]; is {
					end = min(end, h.at(int64(ms)))
				}
			}
			ends[d.stay] = end
		}
		return min(d.called, end) + ttl - 5*time.Millisecond // the clocks count whole ones
	}
	var signs [mostSessions][]*done
	for _, all := range [][]done{h.known, h.signs} {
		for i := range all {
			if d := &all[i]; d.stay != nil && !d.early && !d.got.over {
				signs[d.session] = append(signs[d.session], d)
			}
		}
	}
	check := func(session, user uint8, what string, asked, at time.Duration) {
		for _, d := range signs[session] {
			if d.answered < asked && alive(d) > at {
				err = errors.Join(err, fmt.Errorf("%s %s at %v, but was there at %v (%v)", sessionName(session, user), what, at, d.called, &d.operation))
				return
			}
		}
	}
	for i := range h.known {
		switch d := &h.known[i]; {
		case d.act == actEvict:
			at := (d.called + d.answered) / 2
			check(d.session, d.user, "was evicted from room "+roomName(d.room), at, at)
		case d.got.over:
			check(d.session, d.user, "was over", d.called, d.answered)
		}
	}
	return err
}

// ttl is how long a session lasts without a sign of life.
func (s *site) ttl() time.Duration {
	if s.plan.away > 0 {
		return s.plan.away
	}
	return longTTL
}

// dead gives the nodes that have been given up, with the end of their leases.
func (s *site) dead(ctx context.Context) (map[string]float64, error) {
	all, err := s.rdb.ZRangeByScoreWithScores(ctx, "rg:{0}:dead", &redis.ZRangeBy{Min: "-inf", Max: "+inf"}).Result()
	nodes := map[string]float64{}
	for _, z := range all {
		nodes[z.Member.(string)] = z.Score
	}
	return nodes, err
}

// nodes gives the incarnations of the gateway that may have served a visit: it
// says when each begins.
func (v *visit) nodes(h *history) (nodes []string) {
	last := time.Duration(math.MinInt64)
	for text := range strings.Lines(v.gate.Out.String()) {
		var l struct {
			Msg  string    `json:"msg"`
			Node string    `json:"node"`
			Time time.Time `json:"time"`
		}
		if json.Unmarshal([]byte(text), &l) != nil || l.Msg != "lease begun" {
			continue
		}
		began := l.Time.Sub(h.began.Round(0))
		switch {
		case began > v.answered:
		case began <= v.called && began > last:
			nodes, last = []string{l.Node}, began
		default:
			nodes = append(nodes, l.Node)
		}
	}
	return nodes
}
