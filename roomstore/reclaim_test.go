package roomstore_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

func holding(who roomstore.Session, rooms ...roomstore.RoomID) roomstore.Holding {
	return roomstore.Holding{Session: who, Device: "of " + string(who.ID), Rooms: rooms}
}

// A node's lease and sessions are back, in a room or not, under the generations
// that they had; and generations go on growing.
func TestStore_Reclaim(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.lease("n1")
		who := w.loginOn("n1", "ana", "a1", "of a1")
		w.lose()
		term := w.greet().Term
		w.forget()
		for range 2 {
			lost, strays, err := w.store.Reclaim(w.ctx(), term, "", "n1", []roomstore.Holding{holding(who)})
			if err != nil || len(lost)+len(strays) > 0 {
				t.Errorf("got %v, %v, %v", lost, strays, err)
			}
		}
		w.heard()
		w.open()
		w.store.Adopt(term)
		_, err := w.store.Lease(w.ctx(), "n1", false, nil)
		w.must(err)
		if gone, err := w.store.Lost(w.ctx(), "n1", []roomstore.Session{who}); err != nil || len(gone) > 0 {
			t.Errorf("replaced %v, %v", gone, err)
		}
		w.enter(who, "a")
		if held, err := w.store.Held(w.ctx(), "", "", "n1"); err != nil || len(held) != 1 || held[0].ID != "a1" || held[0].User != "ana" || held[0].Node != "n1" {
			t.Errorf("holds %v, %v", held, err)
		}
		now, _ := w.resume("n2", who)
		if now.Generation <= who.Generation {
			t.Errorf("generation %d after %d", now.Generation, who.Generation)
		}
		// The device is known again.
		w.loginOn("n1", "ana", "a2", "of a1")
		w.hear()
		if !slices.Contains(w.said, "order n2 4510 a1") {
			t.Errorf("published %q, want that a1 is replaced", w.said)
		}
	})
}

// Of a session that Redis has as it once was, the newest generation counts.
func TestStore_Reclaim_rolledBack(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1", "ben@n1", "cy@n1")
		w.on("b", "ana@n1", "cy@n1")
		w.park(w.s("cy1"), time.Minute)
		restore := w.snapshot()
		before := w.s("ana1")
		ana, _ := w.resume("n2", before)
		cy, _ := w.resume("n2", w.s("cy1"))
		w.leave(ana, "b")
		restore()
		term := w.greet().Term
		w.forget()
		// Whoever comes first: the later connection has it.
		for range 2 {
			lost, strays, err := w.store.Reclaim(w.ctx(), term, "", "n2", []roomstore.Holding{holding(ana, "a"), holding(cy, "b", "a")})
			w.must(err)
			if len(lost) > 0 || len(strays) != 1 || strays[0] != (roomstore.Stray{Session: ana, Room: "b"}) {
				t.Errorf("lost %v, strays %v", lost, strays)
			}
			lost, _, err = w.store.Reclaim(w.ctx(), term, "", "n1", []roomstore.Holding{holding(before, "a", "b"), holding(w.s("ben1"), "a")})
			w.must(err)
			if len(lost) != 1 || lost["ana1"] != roomstore.LossMoved {
				t.Errorf("lost %v, want that ana1 has moved", lost)
			}
		}
		w.heard()
		for _, k := range []*knower{w.knows("n2", "a"), w.knows("n2", "b")} {
			k.rec.Members = []roomstore.Placed{{Session: cy, Entered: 3}}
			if k.rec.Room == "a" {
				k.rec.Members = append(k.rec.Members, roomstore.Placed{Session: ana, Entered: 1})
			}
			k.heals(term)
		}
		w.stored("a", "#1:3 ana/ana1@1 n2 ben/ben1@2 n1 cy/cy1@3 n2")
		if w.apart {
			w.stored("b", "#1:2 ana/ana1@1 n1 cy/cy1@2 n2") // until ana leaves
		} else {
			w.stored("b", "#1:2 ana/ana1@1 n2 cy/cy1@2 n2")
		}
		w.open()
		w.store.Adopt(term)
		w.leave(ana, "b")
		w.sessions["ana1"], w.sessions["cy1"] = ana, cy
		w.heard("b#1:3 left ana/ana1 n=1")
	})
}

// A session that is not stored may have been sent away: as far as what is stored
// says so, or if its device has logged in later.
func TestStore_Reclaim_sentAway(t *testing.T) {
	begun(t, roomstore.Config{MaxDevices: 3}, func(w *world) {
		reclaim := func(term string, want map[roomstore.SessionID]roomstore.Loss, held ...roomstore.Holding) {
			t.Helper()
			lost, _, err := w.store.Reclaim(w.ctx(), term, "", "n1", held)
			w.must(err)
			if diff := cmp.Diff(want, lost); diff != "" {
				t.Errorf("lost (-want +got):\n%s", diff)
			}
		}
		first := w.loginOn("n1", "ana", "a1", "of a1")
		second := w.loginOn("n1", "ana", "a2", "of a2")
		own := w.loginOn("n1", "ana", "a3", "")
		before := w.snapshot()
		w.loginOn("n1", "eve", "e1", "of e2")
		older := w.snapshot()
		newer := w.loginOn("n1", "eve", "e2", "of e2")
		for _, open := range []bool{false, true} {
			older()
			term := w.greet().Term
			if open {
				w.open()
			}
			reclaim(term, map[roomstore.SessionID]roomstore.Loss{}, holding(newer))
		}
		before()
		w.loginOn("n2", "ana", "a4", "of a2")
		w.loginOn("n2", "ana", "a5", "")
		w.anew()
		for _, open := range []bool{false, true} {
			term := w.greet().Term
			if open {
				w.open()
			}
			reclaim(term, map[roomstore.SessionID]roomstore.Loss{"a1": roomstore.LossKicked, "a2": roomstore.LossReplaced},
				holding(first), holding(second), roomstore.Holding{Session: own})
		}

		// What says so is lost, too: nobody has been sent away, yet.
		before()
		term := w.greet().Term
		reclaim(term, map[roomstore.SessionID]roomstore.Loss{}, holding(first), holding(second), roomstore.Holding{Session: own})
		w.lose()
		term = w.greet().Term
		w.open()
		w.store.Adopt(term)
		for w.now().UnixMilli() <= own.Generation { // the ms of the login is over at once
		}
		w.loginOn("n2", "ana", "a6", "of a2")
		reclaim(term, map[roomstore.SessionID]roomstore.Loss{"a2": roomstore.LossReplaced},
			holding(first), holding(second), roomstore.Holding{Session: own})
		w.forget()
	})
}

// Nothing is put back by a node that was given up, or under another term.
func TestStore_Heal_refused(t *testing.T) {
	begun(t, roomstore.Config{LeaseTTL: time.Second}, func(w *world) {
		w.lease("n2")
		w.lease("n1")
		w.on("a", "ana@n1")
		k := w.knows("n1", "a")
		w.pass(2 * time.Second)
		w.sweep("n2", roomstore.Lapse{Node: "n1", End: w.leaseEnd("n1")})
		w.anew()
		term := w.greet().Term
		for name, under := range map[string]struct {
			term string
			err  error
		}{"given up": {term, roomstore.ErrFenced}, "another term": {"another", roomstore.ErrTerm}, "part of it": {term[:5], roomstore.ErrTerm}} {
			w.forget()
			before := w.dump()
			_, _, err := w.store.Reclaim(w.ctx(), under.term, "", "n1", []roomstore.Holding{holding(k.rec.Members[0].Session)})
			if !errors.Is(err, under.err) {
				t.Errorf("%s: got %v, want %v", name, err, under.err)
			}
			_, err = w.store.Heal(w.ctx(), under.term, k.knew, "n1", k.rec)
			if !errors.Is(err, under.err) {
				t.Errorf("%s: got %v, want %v", name, err, under.err)
			}
			w.unchanged(before)
			w.heard()
		}
	})
}

// A member is put back for the session that has its socket now, and not if its
// place is another's or has ended since.
func TestStore_Heal_members(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1", "ben@n1", "cy@n1", "dan@n1")
		absent := func(k *knower, term string, want ...roomstore.SessionID) {
			t.Helper()
			got, err := k.heal(term)
			w.must(err)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("absent %q, want %q", got, want)
			}
		}
		first := w.knows("n1", "a")
		ben, _ := w.resume("n2", w.s("ben1"))          // elsewhere
		w.enter(w.loginOn("n2", "cy", "cy2", ""), "a") // on another device
		second := w.knows("n2", "a")
		for _, late := range []bool{false, true} {
			w.lose()
			term := w.greet().Term
			second.heals(term)
			if late {
				w.open()
				w.store.Adopt(term)
			}
			absent(first, term, "ben1", "cy1")
			got, want := w.state("a"), " ana/ana1@1 n1 ben/ben1@2 n2 cy/cy2@3 n2 dan/dan1@4 n1"
			if _, members, _ := strings.Cut(got, " "); !late && " "+members != want {
				t.Errorf("stored %q, want %q", got, want)
			}
			w.forget()
		}
		// Who comes first is the older one: its place is taken.
		w.lose()
		term := w.greet().Term
		absent(first, term)
		second.rec.Members = slices.DeleteFunc(second.rec.Members, func(m roomstore.Placed) bool { return m.User == "ben" })
		absent(second, term)
		if _, members, _ := strings.Cut(w.state("a"), " "); members != "ana/ana1@1 n1 ben/ben1@2 n1 cy/cy2@3 n2 dan/dan1@4 n1" {
			t.Errorf("stored %q", w.state("a"))
		}

		// Kicked when all act again, before its gateway comes.
		w.open()
		w.store.Adopt(term)
		w.must(w.store.Kick(w.ctx(), "a", "dan", ""))
		first.rec.Members = slices.DeleteFunc(first.rec.Members, func(m roomstore.Placed) bool { return m.User == "cy" })
		absent(first, term, "dan1")
		w.sessions["ben1"] = ben
		w.forget()
	})
}

// An empty room that its snapshot has close to its end goes on with its members.
func TestStore_Heal_emptied(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.create(ana(w), "a", 10)
		w.leave(w.s("a1"), "a")
		w.expire("a")
		restore := w.snapshot()
		w.rdb.HDel(w.ctx(), w.part("a")+"room:a", "deadline")
		w.enter(w.s("a1"), "a")
		k := w.knows("n1", "a")
		restore()
		term := w.greet().Term
		k.heals(term)
		w.open()
		w.store.Adopt(term)
		w.sweep("n1")
		w.hear()
		if got := w.state("a"); !strings.HasSuffix(got, " a/a1@3 n1") && !strings.HasSuffix(got, " ana/a1@3 n1") {
			t.Errorf("stored %q", got)
		}
		if ttl := w.rdb.PTTL(w.ctx(), w.part("a")+"room:a").Val(); ttl > 0 {
			t.Errorf("it expires in %v", ttl)
		}
	})
}

// Many gateways put back many members at once, in parts and again, while nobody
// may act; in the end all are there, in their order.
func TestStore_Heal_race(t *testing.T) {
	begun(t, roomstore.Config{MaxMembers: 2000}, func(w *world) {
		const nodes, each = 4, 250
		rooms := []roomstore.RoomID{"a", "b"}
		n := each
		if w.mini != nil {
			n = 20 // it is slow
		}
		var users []string
		for i := range nodes * n {
			users = append(users, fmt.Sprintf("u%d@n%d", i, i%nodes))
		}
		for _, room := range rooms {
			w.on(room, users...)
		}
		var all []*knower
		for _, room := range rooms {
			for node := range nodes {
				k := w.knows("n"+strconv.Itoa(node), room)
				k.rec.Seq -= rand.Int64N(5)
				for _, m := range k.rec.Members {
					k.rec.Seq = max(k.rec.Seq, m.Entered)
				}
				all = append(all, k)
			}
		}
		w.lose()
		term := w.greet().Term
		w.forget()
		var wg sync.WaitGroup
		for _, k := range append(slices.Clone(all), all...) {
			wg.Go(func() {
				if absent, err := k.heal(term); err != nil || len(absent) > 0 {
					t.Errorf("got %d absent, %v", len(absent), err)
				}
			})
		}
		wg.Wait()
		w.hear()
		if len(w.said) != len(rooms) {
			t.Errorf("published %q, want one new epoch a room", w.said)
		}
		for _, room := range rooms {
			got := w.rdb.ZRange(w.ctx(), w.part(room)+"members:"+string(room), 0, -1).Val()
			for i, u := range users {
				if user, _, _ := strings.Cut(u, "@"); len(got) != len(users) || got[i] != user {
					t.Fatalf("%s: %d members, number %d is %q, want %q", room, len(got), i, got[min(i, len(got)-1)], user)
				}
			}
		}
		w.open()
		w.store.Adopt(term)
		held := 0
		for node := range nodes {
			sessions, err := w.store.Held(w.ctx(), "", "", "n"+strconv.Itoa(node))
			w.must(err)
			held += len(sessions)
		}
		if held != len(users) {
			t.Errorf("%d sessions are held, want %d", held, len(users))
		}
	})
}

// A client's word counts for a while after a loss: that it was further than what
// is stored, and that it was in a room that goes back to the one it names.
func TestStore_Witness(t *testing.T) {
	begun(t, roomstore.Config{SessionTTL: time.Minute, MaxMembers: 3, MaxRoomsPerUser: 2}, func(w *world) {
		w.on("a", "ana@n1", "ben@n2")
		w.on("b", "ana@n1", "eve@n2")
		w.on("c", "eve@n2")
		restore := w.snapshot()
		at := w.knows("n1", "a").rec.Position
		further := roomstore.Record{Room: "a", Position: roomstore.Position{Epoch: at.Epoch, Seq: 1 << 19}}
		_, err := w.store.Witness(w.ctx(), "n2", further)
		w.refused(err, roomstore.ErrLate) // nothing was lost
		restore()
		term := w.greet().Term
		w.store.Adopt(term)
		_, err = w.store.Witness(w.ctx(), "n2", further)
		w.refused(err, roomstore.ErrLate) // all who know more have their say first
		w.open()
		w.forget()
		_, err = w.store.Witness(w.ctx(), "n2", roomstore.Record{Room: "a", Position: at})
		w.must(err)
		w.heard()
		boast := further
		boast.Seq = 1 << 50
		_, err = w.store.Witness(w.ctx(), "n2", boast)
		w.refused(err, roomstore.ErrLate) // nobody has seen so much
		w.heard()
		_, err = w.store.Witness(w.ctx(), "n2", further)
		w.must(err)
		w.hear()
		if len(w.said) != 2 || w.said[0] != "healed a#2" {
			t.Errorf("published %q, want another epoch", w.said)
		}
		w.said = nil
		now := w.knows("n1", "a").rec.Position
		further.Position.Epoch = now.Epoch
		_, err = w.store.Witness(w.ctx(), "n2", further) // once
		w.must(err)
		w.heard()
		_, err = w.store.Witness(w.ctx(), "n2", roomstore.Record{Room: "none", Position: at})
		w.refused(err, roomstore.ErrNoRoom)
		_, err = w.store.Witness(w.ctx(), "n2", roomstore.Record{Room: "b", Position: at})
		w.refused(err, roomstore.ErrRecreated)

		// One that Redis has forgotten enters again.
		back := func(who roomstore.Session, room roomstore.RoomID, at roomstore.Position, want ...roomstore.SessionID) {
			t.Helper()
			absent, err := w.store.Witness(w.ctx(), "n2", roomstore.Record{Room: room, Position: at,
				Members: []roomstore.Placed{{Session: who, Data: dataOf(who.User, who.ID)}}})
			w.must(err)
			if !slices.Equal(absent, want) {
				t.Errorf("%s: absent %q, want %q", who.User, absent, want)
			}
		}
		cy := w.loginOn("n2", "cy", "c1", "")
		w.forget()
		w.block("a", "cy", 0)
		back(cy, "a", at, "c1")
		w.must(w.rdb.Del(w.ctx(), w.part("a")+"blocked:a").Err())
		w.heard()
		back(cy, "a", at)
		w.hear()
		if len(w.said) != 1 || !strings.HasSuffix(w.said[0], " joined cy/c1 n=3") {
			t.Errorf("published %q, want that cy entered", w.said)
		}
		w.said = nil
		back(cy, "a", now)
		back(w.loginOn("n2", "dan", "d1", ""), "a", at, "d1") // full
		w.leave(cy, "a")
		w.forget()
		back(w.s("eve1"), "a", at, "eve1") // in two rooms
		back(w.s("ana1"), "a", at, "ana1") // on another node
		w.heard()
		for _, slot := range w.slots() {
			w.must(w.rdb.Set(w.ctx(), slot+"origin", fmt.Sprintf("%s\x001\x00%d", w.origin(), w.now().UnixMilli()-61_000), 0).Err())
		}
		_, err = w.store.Witness(w.ctx(), "n2", roomstore.Record{Room: "a", Position: at})
		w.refused(err, roomstore.ErrLate)
	})
}

func (w *world) origin() string {
	id, _, _ := strings.Cut(w.rdb.Get(w.ctx(), w.tag("0")+"origin").Val(), "\x00")
	return id
}

// A node's sessions are read in parts.
func TestStore_Held(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, roomstore.Config{Partitions: 3})
	const n = 1700
	w.loginMany(n, "n1")
	w.loginOn("n2", "other", "o1", "")
	held, err := w.store.Held(w.ctx(), "", "", "n1")
	w.must(err)
	seen := map[roomstore.SessionID]bool{}
	for _, who := range held {
		if seen[who.ID] = true; string(who.User) != string(who.ID) {
			t.Errorf("session %s of %s", who.ID, who.User)
		}
	}
	if len(seen) != n {
		t.Errorf("%d sessions, want %d", len(seen), n)
	}
}

// A full Redis can be greeted, and takes back what it had.
func TestStore_Heal_memoryFull(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--maxmemory-policy", "noeviction")
	w := newWorldOn(t, srv.Client(t), nil, roomstore.Config{Partitions: 4})
	w.must(w.store.Greet(w.ctx()))
	w.on("a", "ana@n1", "ben@n2")
	restore := w.snapshot()
	w.on("a", "cy@n1")
	k := w.knows("n1", "a")
	restore()
	w.must(w.rdb.ConfigSet(w.ctx(), "maxmemory", "1").Err())
	term := w.greet().Term
	k.heals(term)
	w.must(w.rdb.ConfigSet(w.ctx(), "maxmemory", "0").Err())
	w.open()
	w.must(w.rdb.ConfigSet(w.ctx(), "maxmemory", "1").Err())
	w.store.Adopt(term)
	if _, err := w.try(w.s("ana1"), roomstore.EntryRequest{Room: "b"}); !errors.Is(err, roomstore.ErrMemory) {
		t.Errorf("got %v, want %v", err, roomstore.ErrMemory)
	}
	w.leave(w.s("cy1"), "a")
	w.must(w.rdb.ConfigSet(w.ctx(), "maxmemory", "0").Err())
	w.stored("a", "#2:5 ana/ana1@1 n1 ben/ben1@2 n2")
}
