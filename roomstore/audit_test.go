package roomstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// audit gives the codes of what an audit finds, each with its subject.
func (w *world) audit(repair bool) (found []roomstore.Finding) {
	w.Helper()
	w.must(w.store.Audit(w.ctx(), repair, func(f roomstore.Finding) { found = append(found, f) }))
	return found
}

// sound fails the test if an audit finds anything.
func (w *world) sound() {
	w.Helper()
	for _, f := range w.audit(false) {
		w.Errorf("audit: %s: %s %s", f.Code, f.Subject, f.Detail)
	}
}

// populate makes a deployment in which everything occurs that is stored: rooms
// with members on two nodes and parked, empty ones, attributes, messages,
// departures, sessions in no room, and what a destroyed room leaves.
func (w *world) populate() {
	w.Helper()
	w.lease("n1")
	w.lease("n2")
	w.lease("n9")
	ana, bo, cy := w.login("ana", "a1"), w.loginOn("n2", "bo", "b1", "phone"), w.login("cy", "c1")
	w.login("di", "d1")
	_, err := w.try(ana, roomstore.EntryRequest{Mode: roomstore.ModeCreate, Room: "R", Name: "R", Delay: 60,
		Attributes: map[string]string{"k": "v"}, RequestKey: "1"})
	w.must(err)
	w.enter(bo, "R", "S")
	w.enter(cy, "R", "gone")
	for i := range 3 {
		_, err := w.store.Send(w.ctx(), ana, roomstore.Message{Room: "R", ID: fmt.Sprint("m", i), Payload: "{}"})
		w.must(err)
	}
	w.create(ana, "empty", 600)
	w.leave(ana, "empty")
	w.enter(w.login("ed", "e1"), "R")
	w.leave(w.s("e1"), "R")
	w.must(w.store.Destroy(w.ctx(), "gone"))
	w.enter(w.login("fay", "f1"), "R")
	w.park(w.s("f1"), 30*time.Second)
	w.loginOn("n2", "bo", "b2", "phone") // b1 is replaced, its places are parked
	w.crowd(130, "big")
	_, _, err = w.store.ChangeAttributes(w.ctx(), ana, roomstore.AttributeChange{Room: "R", Leaves: true, MaxKeys: 10, MaxBytes: 1000,
		Operations: []roomstore.AttributeOperation{{Key: "seat", Value: "1"}}})
	w.must(err)
	_, _, err = w.store.SetMemberAttributes(w.ctx(), ana, roomstore.MemberAttributesChange{Room: "R", Leaves: true,
		Users: []roomstore.UserID{"ana", "cy"}, Attributes: []roomstore.Pair{{Key: "hand", Value: "up"}}, MaxUsers: 10, MaxPairs: 10, MaxBytes: 100})
	w.must(err)
	w.block("R", "eve", w.now().Add(time.Hour).UnixMilli())
	w.dropped = true
	w.said = nil
}

// A corruption spoils what populate has made; code is the finding that names it.
type corruption struct {
	name string
	code string
	do   func(w *world, c redis.Cmdable)
	only string // "together" or "apart", where hash slots lie so
}

// place gives the field of a user's hash that is a place in a room.
func (w *world) place(room, session string) string {
	if w.apart {
		return "r:" + room + "\x00" + session
	}
	return "r:" + room
}

var corruptions = []corruption{
	{"a room is not listed", "unregistered", func(w *world, c redis.Cmdable) { c.ZRem(w.ctx(), w.part("R")+"rooms", "R") }, ""},
	{"a room is listed that is not there", "registered", func(w *world, c redis.Cmdable) { c.ZAdd(w.ctx(), w.part("Q")+"rooms", redis.Z{Member: "Q"}) }, ""},
	{"a room's hash is lost", "orphaned", func(w *world, c redis.Cmdable) { c.Del(w.ctx(), w.part("R")+"room:R") }, ""},
	{"a room has no epoch", "damaged", func(w *world, c redis.Cmdable) { c.HDel(w.ctx(), w.part("R")+"room:R", "epoch") }, ""},
	{"a room's seq is no number", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"room:R", "seq", "x") }, ""},
	{"a room's seq went back", "seq", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"room:R", "seq", "1") }, ""},
	{"the newest epoch went back", "epoch", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.clockOf("R"), "epoch", "1") }, ""},
	{"a member has no info", "noinfo", func(w *world, c redis.Cmdable) { c.HDel(w.ctx(), w.part("R")+"info:R", "ana") }, ""},
	{"a member's info is broken", "noinfo", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"info:R", "ana", "a1") }, ""},
	{"a ghost is counted", "count", func(w *world, c redis.Cmdable) {
		c.ZAdd(w.ctx(), w.part("R")+"members:R", redis.Z{Score: 1, Member: "ghost"})
	}, ""},
	{"a member is not counted", "nomember", func(w *world, c redis.Cmdable) { c.ZRem(w.ctx(), w.part("R")+"members:R", "ana") }, ""},
	{"a member on the second page is not counted", "nomember", func(w *world, c redis.Cmdable) { c.ZRem(w.ctx(), w.part("big")+"members:big", "u129") }, ""},
	{"a place is not in the user's list", "reservation", func(w *world, c redis.Cmdable) { c.HDel(w.ctx(), w.user("ana"), w.place("R", "a1")) }, ""},
	{"the user's list has a place of another session", "reservation", func(w *world, c redis.Cmdable) {
		v := c.HGet(w.ctx(), w.user("ana"), "r:R").Val()
		c.HSet(w.ctx(), w.user("ana"), "r:R", strings.Replace(v, "a1", "zz", 1))
	}, "together"},
	{"the user's list has a place that is none", "reservation", func(w *world, c redis.Cmdable) {
		c.HSet(w.ctx(), w.user("di"), "r:R", strings.Replace(c.HGet(w.ctx(), w.user("ana"), "r:R").Val(), "a1", "d1", 1))
	}, "together"},
	{"a user has a reservation that nobody uses", "reservation", func(w *world, c redis.Cmdable) {
		c.HSet(w.ctx(), w.part("R")+"room:R", "created", 1)
		c.HSet(w.ctx(), w.user("di"), "r:R\x00d1", fmt.Sprintf("%d\x00%d", w.hash("R"), w.now().Add(-time.Hour).UnixMicro()))
	}, "apart"},
	{"a user has a reservation of a session that is not there", "reservation", func(w *world, c redis.Cmdable) {
		c.HSet(w.ctx(), w.user("di"), "r:R\x00zz", fmt.Sprintf("%d\x00%d", w.hash("R"), w.now().UnixMicro()))
	}, "apart"},
	{"a reservation's ticket is older than the membership's", "reservation", func(w *world, c redis.Cmdable) {
		c.HSet(w.ctx(), w.user("ana"), "r:R\x00a1", fmt.Sprintf("%d\x001", w.hash("R")))
	}, "apart"},
	{"a session is over, and nobody sees to it", "forever", func(w *world, c redis.Cmdable) {
		c.HSet(w.ctx(), w.user("di"), "e:zz", "timeout")
	}, "apart"},
	{"a switch is under way, and nobody finishes it", "forever", func(w *world, c redis.Cmdable) {
		c.HSet(w.ctx(), w.user("di"), "w:R\x00d1", "1\x00S\x001\x00")
	}, "apart"},
	{"a switch is broken", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.user("di"), "w:R\x00d1", "x") }, "apart"},
	{"a switch is to be finished that is none", "stale", func(w *world, c redis.Cmdable) {
		c.ZAdd(w.ctx(), w.tag("u"+fmt.Sprint(w.hash("di")))+"switching", redis.Z{Score: float64(w.now().UnixMilli()), Member: "d1\x00di\x00R"})
	}, "apart"},
	{"a room that is not there has a place", "place", func(w *world, c redis.Cmdable) {
		c.ZAdd(w.ctx(), w.tag("0")+"admitted:"+fmt.Sprint(w.hash("Q")), redis.Z{Score: 1, Member: "Q"})
	}, "apart"},
	{"a room has no place", "place", func(w *world, c redis.Cmdable) {
		c.ZRem(w.ctx(), w.tag("0")+"admitted:"+fmt.Sprint(w.hash("R")), "R")
	}, "apart"},
	{"what a room is barred by never expires", "stays", func(w *world, c redis.Cmdable) {
		c.Set(w.ctx(), w.part("Q")+"barred:Q", "1", 0)
	}, "apart"},

	{"the user's list has a broken place", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.user("di"), "r:R", "here") }, ""},
	{"the user's hash has a field that is none", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.user("di"), "x", "1") }, ""},
	{"a session's record is lost", "nosession", func(w *world, c redis.Cmdable) { c.HDel(w.ctx(), w.user("ana"), "s:a1") }, ""},
	{"a session's record is broken", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.user("ana"), "s:a1", "1") }, ""},
	{"a session is of another generation than its place", "apart", func(w *world, c redis.Cmdable) {
		v := c.HGet(w.ctx(), w.user("ana"), "s:a1").Val()
		_, rest, _ := strings.Cut(v, "\x00")
		c.HSet(w.ctx(), w.user("ana"), "s:a1", "7\x00"+rest)
	}, ""},
	{"a session has neither node nor end", "apart", func(w *world, c redis.Cmdable) {
		c.HSet(w.ctx(), w.user("di"), "s:d1", strings.Replace(c.HGet(w.ctx(), w.user("di"), "s:d1").Val(), "n1", "", 1))
	}, ""},
	{"a parked session has no end", "forever", func(w *world, c redis.Cmdable) {
		c.ZRem(w.ctx(), w.tag("u"+fmt.Sprint(w.hash("fay")))+"parked", "f1\x00fay")
	}, ""},
	{"a parked session ends much too late", "deadline", func(w *world, c redis.Cmdable) {
		f := strings.Split(c.HGet(w.ctx(), w.user("fay"), "s:f1").Val(), "\x00")
		f[2] = fmt.Sprint(w.now().Add(time.Hour).UnixMilli())
		c.HSet(w.ctx(), w.user("fay"), "s:f1", strings.Join(f, "\x00"))
	}, ""},
	{"a node is lost", "nonode", func(w *world, c redis.Cmdable) { c.ZRem(w.ctx(), w.nodes(), "n1") }, ""},
	{"a node's set is left over", "orphaned", func(w *world, c redis.Cmdable) { c.SAdd(w.ctx(), w.part("R")+"node:n7", "ana\x00R") }, ""},
	{"a node does not know a place it holds", "unheld", func(w *world, c redis.Cmdable) { c.SRem(w.ctx(), w.part("R")+"node:n1", "ana\x00R") }, ""},
	{"a node does not know a session it holds", "unheld", func(w *world, c redis.Cmdable) {
		c.SRem(w.ctx(), w.tag("u"+fmt.Sprint(w.hash("di")))+"nodesessions:n1", "d1\x00di")
	}, ""},
	{"a node holds a session that is none", "stale", func(w *world, c redis.Cmdable) { c.SAdd(w.ctx(), w.tag("u0")+"nodesessions:n1", "zz\x00di") }, ""},
	{"a node's lease is endless", "deadline", func(w *world, c redis.Cmdable) {
		c.ZAdd(w.ctx(), w.nodes(), redis.Z{Score: 9e15, Member: "n1"})
	}, ""},
	{"a parked place is for ever", "forever", func(w *world, c redis.Cmdable) { c.ZRem(w.ctx(), w.part("R")+"parked", "f1\x00fay\x00R") }, ""},
	{"a parked place is kept much too long", "deadline", func(w *world, c redis.Cmdable) {
		c.ZAdd(w.ctx(), w.part("R")+"parked", redis.Z{Score: 9e15, Member: "f1\x00fay\x00R"})
	}, ""},
	{"a place is held and parked", "doubly", func(w *world, c redis.Cmdable) {
		c.ZAdd(w.ctx(), w.part("R")+"parked", redis.Z{Score: float64(w.now().UnixMilli()), Member: "a1\x00ana\x00R"})
	}, ""},
	{"a parked entry is broken", "damaged", func(w *world, c redis.Cmdable) {
		c.ZAdd(w.ctx(), w.part("R")+"parked", redis.Z{Score: float64(w.now().UnixMilli()), Member: "a1"})
	}, ""},
	{"a room with members is to be destroyed", "deadline", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"room:R", "deadline", "99999999999999") }, ""},
	{"a room with members expires", "expires", func(w *world, c redis.Cmdable) { c.Expire(w.ctx(), w.part("R")+"room:R", time.Hour) }, ""},
	{"an empty room has no deadline", "deadline", func(w *world, c redis.Cmdable) { c.HDel(w.ctx(), w.part("empty")+"room:empty", "deadline") }, ""},
	{"an empty room's deadline is much too far", "deadline", func(w *world, c redis.Cmdable) {
		c.HSet(w.ctx(), w.part("empty")+"room:empty", "deadline", "99999999999999")
	}, ""},
	{"an empty room is not due", "undue", func(w *world, c redis.Cmdable) { c.Del(w.ctx(), w.part("empty")+"due") }, ""},
	{"an empty room is due at another time", "undue", func(w *world, c redis.Cmdable) {
		for _, e := range c.ZRange(w.ctx(), w.part("empty")+"due", 0, -1).Val() {
			c.ZIncrBy(w.ctx(), w.part("empty")+"due", 5000, e)
		}
	}, ""},
	{"a room is due that is not there", "undue", func(w *world, c redis.Cmdable) {
		c.ZAdd(w.ctx(), w.part("Q")+"due", redis.Z{Score: 9e15, Member: "Q\x001"})
	}, ""},
	{"an empty room never expires", "stays", func(w *world, c redis.Cmdable) { c.Persist(w.ctx(), w.part("empty")+"room:empty") }, ""},
	{"an empty room was forgotten", "overdue", func(w *world, c redis.Cmdable) {
		at := w.now().Add(-time.Hour).UnixMilli()
		for _, e := range c.ZRange(w.ctx(), w.part("empty")+"due", 0, -1).Val() {
			c.ZAdd(w.ctx(), w.part("empty")+"due", redis.Z{Score: float64(at), Member: e})
		}
		c.HSet(w.ctx(), w.part("empty")+"room:empty", "deadline", at)
	}, ""},
	{"the log has an event of another life", "log", func(w *world, c redis.Cmdable) {
		c.RPush(w.ctx(), w.part("R")+"log:R", "1\x002\x00m\x003\x00\x00\x00\x00\x00")
	}, ""},
	{"the log is in disorder", "log", func(w *world, c redis.Cmdable) {
		c.LMove(w.ctx(), w.part("R")+"log:R", w.part("R")+"log:R", "RIGHT", "LEFT")
	}, ""},
	{"the log's size is wrong", "logbytes", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"room:R", "logbytes", 1) }, ""},
	{"the log never expires", "stays", func(w *world, c redis.Cmdable) { c.Persist(w.ctx(), w.part("R")+"log:R") }, ""},
	{"departures never expire", "stays", func(w *world, c redis.Cmdable) { c.Persist(w.ctx(), w.part("R")+"left:R") }, ""},
	{"outcomes never expire", "stays", func(w *world, c redis.Cmdable) { c.Persist(w.ctx(), w.part("R")+"did:a1") }, ""},
	{"a room's key is left over", "orphaned", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("Q")+"attrs:Q", "k", "v") }, ""},
	{"a key has a wrong type", "type", func(w *world, c redis.Cmdable) { c.Set(w.ctx(), w.part("R")+"members:R", "x", 0) }, ""},
	{"a key is in another partition", "misplaced", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.tag("77")+"attrs:R", "k", "v") }, ""},
	{"an attribute is malformed", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"attrs:R", "k", "v") }, ""},
	{"an attribute's flag is none", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"attrs:R", "k", "ana\x007\x00v") }, ""},
	{"attributes that the room does not know", "flag", func(w *world, c redis.Cmdable) { c.HDel(w.ctx(), w.part("R")+"room:R", "attrs") }, ""},
	{"an attribute goes with its owner, and nobody looks", "flag", func(w *world, c redis.Cmdable) { c.HDel(w.ctx(), w.part("R")+"room:R", "bequests") }, ""},
	{"a member's attribute goes with the member, and nobody looks", "flag", func(w *world, c redis.Cmdable) {
		c.HDel(w.ctx(), w.part("R")+"attrs:R", "seat")
		c.HDel(w.ctx(), w.part("R")+"room:R", "bequests")
	}, ""},
	{"what says that something goes is broken", "flag", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("big")+"room:big", "bequests", "yes") }, ""},
	{"a member's attributes are malformed", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"memberattrs:R", "ana", "4:hand9:1") }, ""},
	{"a member's attributes are too short by one", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"memberattrs:R", "ana", "4:hand") }, ""},
	{"blocked users that the room does not know", "flag", func(w *world, c redis.Cmdable) { c.HDel(w.ctx(), w.part("R")+"room:R", "blocked") }, ""},
	{"a user is blocked until no time", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"blocked:R", "eve", "soon") }, ""},
	{"leftat is no number", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"room:R", "leftat", "x") }, ""},
	{"leftat is in the future", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"room:R", "leftat", "99999999999999") }, ""},
	{"leftseq is higher than the room's", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"room:R", "leftseq", "999") }, ""},
	{"leftseq is lost", "damaged", func(w *world, c redis.Cmdable) { c.HDel(w.ctx(), w.part("R")+"room:R", "leftseq") }, ""},
	{"attrseq is higher than the room's", "damaged", func(w *world, c redis.Cmdable) { c.HSet(w.ctx(), w.part("R")+"room:R", "attrseq", "999") }, ""},
	{"a key is unknown", "unknown", func(w *world, c redis.Cmdable) { c.Set(w.ctx(), w.tag("0")+"what", "x", 0) }, ""},
	{"a user's slot is wrong", "slot", func(w *world, c redis.Cmdable) {
		f := strings.SplitN(c.HGet(w.ctx(), w.part("R")+"info:R", "ana").Val(), "\x00", 5)
		f[3] = "u99"
		c.HSet(w.ctx(), w.part("R")+"info:R", "ana", strings.Join(f, "\x00"))
	}, ""},
}

// Every corruption is found under its name; a repair leaves nothing to find, and
// a deployment in which people come and go as before.
func TestAudit_corruptions(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"redis/P=1", "redis/P=16", "apart/P=4", "cluster/P=4"} {
		apart := !strings.HasPrefix(kind, "redis")
		if kind == "cluster/P=4" && testing.Short() {
			continue
		}
		cfg := roomstore.Config{Partitions: 16, Apart: apart}
		switch {
		case apart:
			cfg.Partitions, cfg.MaxRooms = 4, 100
		case kind == "redis/P=1":
			cfg.Partitions = 1
		}
		for _, tt := range corruptions {
			if tt.only == "together" && apart || tt.only == "apart" && !apart || tt.only == "" && strings.HasPrefix(kind, "cluster") {
				continue // what is of one slot is the same on a Cluster
			}
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				if strings.HasPrefix(kind, "cluster") {
					tt.play(newWorldOn(t, redistest.NewCluster(t).Client(), nil, cfg))
					return
				}
				tt.play(newWorld(t, false, cfg))
			})
		}
	}
}

// clockOf gives the key of the clock of a room's epochs.
func (w *world) clockOf(room roomstore.RoomID) string {
	if w.apart {
		return w.part(room) + "clock"
	}
	return w.tag("0") + "clock"
}

func (tt corruption) play(w *world) {
	w.Helper()
	w.store.LookAgainAfter(0)
	w.populate()
	w.sound()
	tt.do(w, w.rdb)
	looked := w.audit(false)
	if !slices.ContainsFunc(looked, func(f roomstore.Finding) bool { return f.Code == tt.code && !f.Repaired }) {
		w.Fatalf("found %v, want %s", looked, tt.code)
	}
	last, err := w.store.Audited(w.ctx())
	w.must(err)
	if last.Found != len(looked) || w.now().Sub(last.At) > time.Minute {
		w.Errorf("the last audit is remembered as %+v, it found %d", last, len(looked))
	}
	if tt.code == "unknown" { // what it is only its maker knows
		w.must(w.rdb.Del(w.ctx(), w.tag("0")+"what").Err())
	}
	for pass := 0; len(w.audit(true)) > 0; pass++ {
		if w.apart { // sessions that are over are left to it
			w.sweep("n9")
		}
		if pass == 5 {
			w.Fatalf("still finds %v", w.audit(true))
		}
	}
	w.sound()
	// Who is sent away by the repair can come back.
	for _, id := range []roomstore.SessionID{"c1", "d1"} {
		who := w.s(id)
		if _, err := w.try(who, roomstore.EntryRequest{Room: "R"}); err != nil {
			who, _, _, err = w.store.Resume(w.ctx(), "n2", who.User, who.ID, nil)
			w.must(err)
		}
		w.enter(who, "R", "empty")
		w.leave(who, "empty")
	}
	w.sound()
}

// A walk that is cut off says so.
func TestAudit_cancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, roomstore.Config{})
	w.populate()
	ctx, cancel := context.WithCancel(w.ctx())
	cancel()
	if err := w.store.Audit(ctx, false, func(roomstore.Finding) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// Beside live work an audit finds nothing, where hash slots lie apart, too: whatever is
// under way between two of them is over when it looks again.
func TestAudit_silent(t *testing.T) {
	admitting(t, roomstore.Config{MaxRooms: 40, MaxRoomsPerUser: 3}, func(w *world) {
		w.dropped = true
		nodes := []string{"n1", "n2"}
		for _, n := range nodes {
			w.lease(n)
		}
		stores := w.stores(2, w.cfg)
		ctx, stop := context.WithCancel(w.ctx())
		var work sync.WaitGroup
		var acts atomic.Int64
		for i := range 8 {
			work.Go(func() {
				user := roomstore.UserID(fmt.Sprint("u", i/2))
				for n := 0; ctx.Err() == nil; n++ {
					s, node := stores[n%2], nodes[n%2]
					who, err := s.Login(ctx, node, user, roomstore.SessionID(fmt.Sprint("s", i, "-", n)), fmt.Sprint("d", i))
					for k := 0; k < 12 && err == nil; k++ {
						a, b := roomstore.RoomID(fmt.Sprint("r", (i+n+k)%9)), roomstore.RoomID(fmt.Sprint("r", (i*k+n)%9))
						req := roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: a, Data: "x", RequestKey: roomstore.RequestKey(fmt.Sprint(k + 1))}
						switch k % 6 {
						case 0, 1:
							_, err = s.Enter(ctx, who, req)
						case 2:
							req.Room = b
							_, _, err = s.Switch(ctx, who, a, req)
						case 3:
							_, err = s.Leave(ctx, who, b, "")
						case 4:
							err = s.Park(ctx, who, 20*time.Second)
							if err == nil {
								who, _, _, err = s.Resume(ctx, node, who.User, who.ID, nil)
							}
						case 5:
							if n%3 == 0 {
								err = s.Destroy(ctx, a)
							}
						}
						if roomstore.Refused(err) {
							err = nil
						}
						acts.Add(1)
					}
					if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
						w.Error(err)
						return
					}
				}
			})
		}
		work.Go(func() {
			for ctx.Err() == nil {
				for _, n := range nodes {
					stores[0].Lease(ctx, n, false, nil)
				}
				stores[1].Sweep(ctx, "n1", nil)
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
		w.store.LookAgainAfter(2 * time.Second)
		// An audit that comes before there is anything to see is over at once.
		for audits := 0; (audits < 2 || acts.Load() < 100) && !w.Failed(); audits++ {
			for _, f := range w.audit(false) {
				w.Errorf("%s: %s %s", f.Code, f.Subject, f.Detail)
			}
		}
		stop()
		work.Wait()
	})
}

// Where hash slots lie apart, a membership that is on its way each time an audit looks is
// no finding: only what stays as it was, and does not agree, is.
func TestAudit_moving(t *testing.T) {
	admitting(t, roomstore.Config{}, func(w *world) {
		w.lease("n1")
		w.enter(w.login("ana", "a1"), "R")
		key := w.part("R") + "info:R"
		behind := func() {
			f := strings.Split(w.rdb.HGet(w.ctx(), key, "ana").Val(), "\x00")
			generation, err := strconv.ParseInt(f[1], 10, 64)
			w.must(err)
			f[1] = strconv.FormatInt(generation-1, 10)
			w.must(w.rdb.HSet(w.ctx(), key, "ana", strings.Join(f, "\x00")).Err())
		}
		behind()
		looks := 0 // at what did not agree; each walk comes upon the membership twice
		w.store = roomstore.New(runBatcher(w.T, w.hooked(before{func(cmd redis.Cmder) {
			if args := cmd.Args(); cmd.Name() == "hget" && args[1] == key {
				looks++
				behind()
			}
		}}), w.batcher()), w.cfg)
		w.store.LookAgainAfter(0)
		if w.sound(); looks <= 4 {
			w.Errorf("looked %d times at what did not agree", looks)
		}
		w.store = roomstore.New(runBatcher(w.T, w.rdb, w.batcher()), w.cfg)
		w.store.LookAgainAfter(0)
		if found := w.audit(true); !slices.ContainsFunc(found, func(f roomstore.Finding) bool { return f.Code == "apart" }) {
			w.Errorf("found %v of what stays as it is", found)
		}
		w.sound()
	})
}

// What is repaired where hash slots lie apart is what was looked at: who has left, and is
// back with another session, is not held against the record of the former.
func TestAudit_repairsWhatItRead(t *testing.T) {
	admitting(t, roomstore.Config{}, func(w *world) {
		w.lease("n1")
		a1 := w.login("ana", "a1")
		w.enter(a1, "R")
		key, plain := w.part("R")+"info:R", w.store
		right := w.rdb.HGet(w.ctx(), key, "ana").Val()
		f := strings.Split(right, "\x00")
		f[1] += "9"
		w.must(w.rdb.HSet(w.ctx(), key, "ana", strings.Join(f, "\x00")).Err())
		var once sync.Once
		w.store = roomstore.New(runBatcher(w.T, w.hooked(before{func(cmd redis.Cmder) {
			keys, args := keysOf(cmd), cmd.Args()
			if len(keys) == 0 || !slices.Contains(args, any("ana")) {
				return
			}
			if room, repair := args[3+len(keys)], args[4+len(keys)]; room != "R" || repair != "1" {
				return
			}
			once.Do(func() {
				w.must(w.rdb.HSet(w.ctx(), key, "ana", right).Err())
				_, err := plain.Leave(w.ctx(), a1, "R", "")
				w.must(err)
				a2, err := plain.Login(w.ctx(), "n1", "ana", "a2", "phone")
				w.must(err)
				_, err = plain.Enter(w.ctx(), a2, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "R"})
				w.must(err)
			})
		}}), w.batcher()), w.cfg)
		w.store.LookAgainAfter(0)
		if found := w.audit(true); len(found) > 0 {
			w.Errorf("found %v", found)
		}
		once.Do(func() { w.Error("nothing was to be repaired") })
		w.store = plain
		w.store.LookAgainAfter(0)
		w.sound()
	})
}

// before is called before each command.
type before struct{ do func(redis.Cmder) }

func (b before) DialHook(next redis.DialHook) redis.DialHook { return next }

func (b before) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		b.do(cmd)
		return next(ctx, cmd)
	}
}

func (b before) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			b.do(cmd)
		}
		return next(ctx, cmds)
	}
}

// More attributes than are allowed, or longer ones, are found, and left: whose they are
// has to decide.
func TestAudit_attributes(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.store.LookAgainAfter(0)
		w.lease("n1")
		w.lease("n9")
		w.enter(w.login("ana", "a1"), "R", "S", "T")
		for _, room := range []string{"R", "S"} {
			n, size := 21, 1
			if room == "S" {
				n, size = 2, 5120/2
			}
			w.must(w.rdb.HSet(w.ctx(), w.part(roomstore.RoomID(room))+"room:"+room, "attrs", 1).Err())
			for i := range n {
				w.must(w.rdb.HSet(w.ctx(), w.part(roomstore.RoomID(room))+"attrs:"+room, fmt.Sprint(i), "ana\x000\x00"+strings.Repeat("x", size)).Err())
			}
		}
		w.must(w.rdb.HSet(w.ctx(), w.part("T")+"memberattrs:T", "ana", "1:k"+"145:0"+strings.Repeat("x", 144)).Err())
		var found []string
		for _, f := range w.audit(true) {
			found = append(found, f.Code+" "+f.Subject)
			if f.Repaired {
				t.Errorf("%+v", f)
			}
		}
		slices.Sort(found)
		if want := []string{"attributes R", "attributes S", "attributes ana in T"}; !slices.Equal(found, want) {
			t.Errorf("found %q, want %q", found, want)
		}
		w.dropped = true
	})
}
