package roomstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/roomstore"
)

// begun is a world whose store has greeted Redis, as a gateway does.
func begun(t *testing.T, cfg roomstore.Config, test func(w *world)) {
	t.Helper()
	contract(t, cfg, func(w *world) {
		w.must(w.store.Greet(w.ctx()))
		test(w)
	})
}

// lose deletes all there is, as FLUSHALL does.
func (w *world) lose() {
	w.Helper()
	w.hear()
	for _, key := range w.keys() {
		w.must(w.rdb.Del(w.ctx(), key).Err())
	}
	for _, l := range w.lives {
		l.destroyed = 1
	}
}

// snapshot gives what puts everything back that is stored now, in a Redis that
// is started anew.
func (w *world) snapshot() (restore func()) {
	w.Helper()
	type saved struct {
		kind string
		ttl  time.Duration
		hash map[string]string
		zset []redis.Z
		list []string
		text string
	}
	all := map[string]saved{}
	for _, key := range w.keys() {
		s := saved{kind: w.rdb.Type(w.ctx(), key).Val(), ttl: w.rdb.PTTL(w.ctx(), key).Val()}
		switch s.kind {
		case "hash":
			s.hash = w.rdb.HGetAll(w.ctx(), key).Val()
		case "zset":
			s.zset = w.rdb.ZRangeWithScores(w.ctx(), key, 0, -1).Val()
		case "list":
			s.list = w.rdb.LRange(w.ctx(), key, 0, -1).Val()
		case "set":
			s.list = w.rdb.SMembers(w.ctx(), key).Val()
		case "string":
			s.text = w.rdb.Get(w.ctx(), key).Val()
		}
		all[key] = s
	}
	return func() {
		w.Helper()
		w.lose()
		for key, s := range all {
			switch s.kind {
			case "hash":
				w.must(w.rdb.HSet(w.ctx(), key, s.hash).Err())
			case "zset":
				w.must(w.rdb.ZAdd(w.ctx(), key, s.zset...).Err())
			case "list":
				w.must(w.rdb.RPush(w.ctx(), key, s.list).Err())
			case "set":
				w.must(w.rdb.SAdd(w.ctx(), key, s.list).Err())
			case "string":
				w.must(w.rdb.Set(w.ctx(), key, s.text, 0).Err())
			}
			if s.ttl > 0 {
				w.must(w.rdb.PExpire(w.ctx(), key, s.ttl).Err())
			}
			if _, kind, _ := strings.Cut(key, "}:"); strings.HasPrefix(kind, "room:") {
				epoch, _ := strconv.ParseInt(s.hash["epoch"], 10, 64)
				seq, _ := strconv.ParseInt(s.hash["seq"], 10, 64)
				w.lives[epoch].destroyed, w.lives[epoch].seq = 0, seq
			}
		}
		w.anew()
	}
}

// anew makes it look as if another process had written what is stored.
func (w *world) anew() {
	w.Helper()
	for _, slot := range w.slots() {
		w.must(w.rdb.Set(w.ctx(), slot+"origin", "another\x001\x00", 0).Err())
	}
}

// greet greets, and gives the term when all slots have said theirs: on a busy machine
// one may take longer than the others wait for it.
func (w *world) greet() roomstore.Greeting {
	w.Helper()
	for {
		g, err := w.store.Ask(w.ctx())
		w.must(err)
		w.must(w.ctx().Err())
		if !g.Unheard {
			return g
		}
	}
}

// open ends the time for putting back what is known.
func (w *world) open() {
	w.Helper()
	var terms []string
	for _, slot := range w.slots() {
		term, _, _ := strings.Cut(w.rdb.Get(w.ctx(), slot+"term").Val(), "\x00")
		w.must(w.rdb.Set(w.ctx(), slot+"term", fmt.Sprintf("%s\x00%d", term, w.now().UnixMilli()-1), 0).Err())
		terms = append(terms, term)
	}
	term := strings.Join(terms, ",")
	if g := w.greet(); g.Term != term || g.Opens != 0 {
		w.Fatalf("got %+v, want that %s is open", g, term)
	}
}

// A knower is a gateway that knows of a room, and puts it back.
type knower struct {
	w    *world
	node string
	knew string // the term in which it came to know it
	rec  roomstore.Record
}

// knows gives a gateway that knows a room as it is now stored, with those of its
// members that are on a node.
func (w *world) knows(node string, room roomstore.RoomID) *knower {
	w.Helper()
	part := w.part(room)
	h := w.rdb.HGetAll(w.ctx(), part+"room:"+string(room)).Val()
	k := &knower{w: w, node: node, knew: w.store.Term()}
	n := func(s string) int64 { v, _ := strconv.ParseInt(s, 10, 64); return v }
	k.rec = roomstore.Record{
		Room: room, Position: roomstore.Position{Epoch: n(h["epoch"]), Seq: n(h["seq"])}, Lineage: roomstore.Lineage(h["from"]),
		Name: h["name"], Delay: int(n(h["delay"])), MessageSeq: n(h["messageSeq"]), OrderKey: n(h["order"]), Described: true,
	}
	k.rec.Attributes = w.attributes(room)
	for user, info := range w.rdb.HGetAll(w.ctx(), part+"info:"+string(room)).Val() {
		f := strings.SplitN(info, "\x00", 6)
		if f[2] != node {
			continue
		}
		k.rec.Members = append(k.rec.Members, roomstore.Placed{
			Session: roomstore.Session{User: roomstore.UserID(user), ID: roomstore.SessionID(f[0]), Generation: n(f[1]), Node: node},
			Entered: int64(w.rdb.ZScore(w.ctx(), part+"members:"+string(room), user).Val()), Data: f[5],
		})
	}
	return k
}

// heal puts it back under a term: the sessions, then the room.
func (k *knower) heal(term string) ([]roomstore.SessionID, error) {
	k.w.Helper()
	var held []roomstore.Holding
	for _, m := range k.rec.Members {
		held = append(held, roomstore.Holding{Session: m.Session, Rooms: []roomstore.RoomID{k.rec.Room}})
	}
	if _, _, err := k.w.store.Reclaim(k.w.ctx(), term, "", k.node, held); err != nil {
		return nil, err
	}
	return k.w.store.Heal(k.w.ctx(), term, k.knew, k.node, k.rec)
}

// heals is heal that has to put back everybody.
func (k *knower) heals(term string) {
	k.w.Helper()
	absent, err := k.heal(term)
	k.w.must(err)
	if len(absent) > 0 {
		k.w.Errorf("%v were not put back", absent)
	}
}

// on lets users enter a room in turn, each with a session on a node.
func (w *world) on(room roomstore.RoomID, users ...string) {
	w.Helper()
	for _, u := range users {
		user, node, _ := strings.Cut(u, "@")
		who, ok := w.sessions[roomstore.SessionID(user+"1")]
		if !ok {
			who = w.loginOn(node, roomstore.UserID(user), roomstore.SessionID(user+"1"), "")
		}
		w.enter(who, room)
	}
}

// stored fails the test unless this is stored of a room.
func (w *world) stored(room roomstore.RoomID, want string) {
	w.Helper()
	w.hear()
	if got := w.state(room); got != want {
		w.Errorf("stored %q, want %q", got, want)
	}
}

// A term lasts as long as what is stored is what it was.
func TestStore_Ask(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		other := w.stores(1, roomstore.Config{})[0]
		hears := func(s *roomstore.Store, term string, opens bool) string {
			t.Helper()
			g, err := s.Ask(w.ctx())
			w.must(err)
			if (g.Term == term) != (term != "") || (g.Opens == 0) != opens || g.Opens > 2*time.Second {
				t.Errorf("heard %+v, want term %q, open %t", g, term, opens)
			}
			return g.Term
		}
		first := hears(w.store, "", true) // on empty data nobody has anything to put back
		w.store.Adopt(first)
		hears(other, first, true)
		hears(w.store, first, true)
		other.Adopt(first)

		w.lose()
		second := hears(w.store, "", false)
		hears(other, second, false)
		w.open()
		hears(other, second, true)
		w.store.Adopt(second)
		hears(other, second, true)

		w.anew() // a Redis that was started anew may have less
		third := hears(other, "", false)
		if third == second || third == first {
			t.Errorf("terms %q, %q, %q are not new each time", first, second, third)
		}
		w.open()

		// One that is new does not know that there was something to lose. Who
		// knew of it begins a term in which it can be put back.
		w.lose()
		fourth := hears(w.stores(1, roomstore.Config{})[0], "", true)
		fifth := hears(w.store, "", false)
		if fourth == fifth {
			t.Errorf("the term is %q all the same", fourth)
		}
		w.open()
		hears(other, fifth, true) // once

		// A clock that is set back does not keep a term from opening.
		terms := strings.Split(fifth, ",")
		for i, slot := range w.slots() {
			w.must(w.rdb.Set(w.ctx(), slot+"term", fmt.Sprintf("%s\x00%d", terms[i], w.now().UnixMilli()+3_600_000), 0).Err())
		}
		hears(other, fifth, true)
	})
}

// Under another term than that of what is stored, and before that is open, no
// call changes anything, or waits where that was not asked for.
func TestStore_term(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		who := ana(w)
		w.create(who, "a", 10)
		w.on("a", "ben@n2")
		w.lease("n1")
		restore := w.snapshot()
		calls := map[string]func(ctx context.Context) error{
			"login": func(ctx context.Context) error { _, err := w.store.Login(ctx, "n1", "eve", "e1", ""); return err },
			"resume": func(ctx context.Context) error {
				_, _, _, err := w.store.Resume(ctx, "n1", "ana", "a1", nil)
				return err
			},
			"park":    func(ctx context.Context) error { return w.store.Park(ctx, who, time.Second) },
			"lease":   func(ctx context.Context) error { _, err := w.store.Lease(ctx, "n1", true, nil); return err },
			"release": func(ctx context.Context) error { return w.store.Release(ctx, "n9") },
			"sweep":   func(ctx context.Context) error { _, err := w.store.Sweep(ctx, "n1", nil); return err },
			"lost": func(ctx context.Context) error {
				_, err := w.store.Lost(ctx, "n1", []roomstore.Session{who})
				return err
			},
			"leave":    func(ctx context.Context) error { _, err := w.store.Leave(ctx, who, "a", ""); return err },
			"leaveall": func(ctx context.Context) error { _, err := w.store.LeaveAll(ctx, who, "", true); return err },
			"destroy":  func(ctx context.Context) error { return w.store.Destroy(ctx, "a") },
			"kick":     func(ctx context.Context) error { return w.store.Kick(ctx, "a", "ana", "") },
			"members":  func(ctx context.Context) error { _, err := w.store.Members(ctx, who, "a", "", 10); return err },
			"memberinfo": func(ctx context.Context) error {
				_, _, err := w.store.MemberInfo(ctx, who, "a", []roomstore.UserID{"ben"})
				return err
			},
			"count":     func(ctx context.Context) error { _, _, err := w.store.Count(ctx, who, "a"); return err },
			"catchup":   func(ctx context.Context) error { _, err := w.store.Catchup(ctx, "a", roomstore.Position{}); return err },
			"positions": func(ctx context.Context) error { _, err := w.store.Positions(ctx, []roomstore.RoomID{"a"}); return err },
			"absent": func(ctx context.Context) error {
				_, err := w.store.Absent(ctx, "a", []roomstore.Session{who})
				return err
			},
			"held":  func(ctx context.Context) error { _, err := w.store.Held(ctx, "", "", "n1"); return err },
			"lives": func(ctx context.Context) error { _, err := w.store.Lives(ctx, []roomstore.RoomID{"a"}); return err },
			"enter": func(ctx context.Context) error {
				_, err := w.store.Enter(ctx, who, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b"})
				return err
			},
			"switch": func(ctx context.Context) error {
				_, _, err := w.store.Switch(ctx, who, "a", roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b"})
				return err
			},
			"send": func(ctx context.Context) error {
				_, err := w.store.Send(ctx, who, roomstore.Message{Room: "a", ID: "m", Payload: "x"})
				return err
			},
			"relay": func(ctx context.Context) error {
				_, err := w.store.Relay(ctx, who, roomstore.Message{Room: "a", ID: "m", Payload: "x", Priority: 1})
				return err
			},
		}
		refuse := func(when string, ctx context.Context) {
			t.Helper()
			w.forget()
			before := w.dump()
			for name, call := range calls {
				if err := call(ctx); !errors.Is(err, roomstore.ErrTerm) || roomstore.Refused(err) {
					t.Errorf("%s, %s: got %v, want %v", name, when, err, roomstore.ErrTerm)
				}
			}
			w.unchanged(before)
			w.heard()
		}
		old := w.store.Term()
		w.lose()
		refuse("nothing is stored", roomstore.Under(w.ctx(), old))
		restore()
		now := w.greet().Term
		refuse("another term", roomstore.Under(w.ctx(), old))
		refuse("not open", roomstore.Under(w.ctx(), now))
		w.open()
		refuse("another term, open", roomstore.Under(w.ctx(), old))

		// What is not asked under a term waits for the one that is adopted.
		<-w.store.Stale()
		done := make(chan error)
		go func() { _, _, err := w.store.Count(w.ctx(), who, "a"); done <- err }()
		select {
		case <-w.store.Stale():
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		}
		w.store.Adopt(now)
		w.must(<-done)
		short, cancel := context.WithCancel(w.ctx())
		defer cancel()
		w.store.Adopt(old)
		go func() { _, _, err := w.store.Count(short, who, "a"); done <- err }()
		<-w.store.Stale()
		cancel()
		if err := <-done; !errors.Is(err, roomstore.ErrTerm) {
			t.Errorf("got %v, want %v in the end", err, roomstore.ErrTerm)
		}
		w.store.Adopt(now)
	})
}

// All that the gateways know of a room is back, under one new epoch, whichever
// comes first; nobody is told of anybody.
func TestStore_Heal_missing(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		attributes := map[string]string{"k": "", "": "3:x", "π\x00": "10:"}
		w.on("other", "ana@n1")
		_, err := w.try(w.s("ana1"), roomstore.EntryRequest{Mode: roomstore.ModeCreate, Room: "a", Name: "A\x00:1", Delay: 77, Attributes: attributes})
		w.must(err)
		w.on("a", "ben@n2", "cy@n3", "dan@n1", "eve@n2", "fay@n3")
		w.leave(w.s("cy1"), "a")
		_, err = w.store.Send(w.ctx(), w.s("ben1"), roomstore.Message{Room: "a", ID: "m", Payload: "x"})
		w.must(err)
		w.on("a", "cy@n3")
		knowers := []*knower{w.knows("n1", "a"), w.knows("n2", "a"), w.knows("n3", "a")}
		// They have not all heard the last events.
		knowers[0].rec.Seq, knowers[1].rec.Seq = knowers[0].rec.Seq-1, knowers[1].rec.Seq-2
		old := knowers[0].rec.Epoch
		for n, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			w.lose()
			term := w.greet().Term
			w.forget()
			for _, i := range order {
				knowers[i].heals(term)
				knowers[i].heals(term)
			}
			life := fmt.Sprintf("#%d", n+2)
			w.heard("healed a" + life)
			w.stored("a", life+":10 ana/ana1@1 n1 ben/ben1@2 n2 dan/dan1@4 n1 eve/eve1@5 n2 fay/fay1@6 n3 cy/cy1@9 n3")
			if diff := cmp.Diff(knowers[0].rec.Attributes, w.attributes("a")); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
			h := w.rdb.HGetAll(w.ctx(), w.part("a")+"room:a").Val()
			if epoch, _ := strconv.ParseInt(h["epoch"], 10, 64); epoch <= old || h["name"] != "A\x00:1" || h["delay"] != "77" || h["messageSeq"] != "1" {
				t.Errorf("stored %v", h)
			}
			w.open()
			w.store.Adopt(term)
			// When they entered is not known any more; who they are is.
			roster, err := w.store.Roster(w.ctx(), "a", "", 10)
			w.must(err)
			for _, m := range roster.Members {
				if !m.Joined.IsZero() || m.Node == "" {
					t.Errorf("put back as %+v", m)
				}
			}
			lives, err := w.store.Lives(w.ctx(), []roomstore.RoomID{"a", "none"})
			w.must(err)
			if l := lives["a"]; l.Seq != 10 || l.Base != 10 || !l.Lineage.Has(old) || l.Lineage.Has(l.Epoch) || lives["none"].Epoch != 0 {
				t.Errorf("lives %+v", lives)
			}
			h2, err := w.store.Catchup(w.ctx(), "a", roomstore.Position{Epoch: old, Seq: 3})
			w.refused(err, roomstore.ErrEpoch)
			if diff := cmp.Diff(lives["a"], h2.Life); diff != "" {
				t.Errorf("catchup (-lives +catchup):\n%s", diff)
			}
			// All is as if it had never been otherwise.
			_, rooms := w.resume("n4", w.s("fay1"), "a")
			if len(rooms) != 1 || !rooms[0].In || rooms[0].Seq != 10 || rooms[0].Entered != 6 {
				t.Errorf("returned to %+v", rooms)
			}
			w.sessions["fay1"] = knowers[2].member("fay")
			page, err := w.store.Members(w.ctx(), w.s("ana1"), "a", "", 10)
			w.must(err)
			if want := []string{"ana/ana1", "ben/ben1", "dan/dan1", "eve/eve1", "fay/fay1", "cy/cy1"}; !slices.Equal(page.Members, want) {
				t.Errorf("members %q, want %q", page.Members, want)
			}
			w.forget()
			w.leave(w.s("ana1"), "a")
			w.heard("a" + life + ":11 left ana/ana1 n=5")
		}
	})
}

func (k *knower) member(user roomstore.UserID) roomstore.Session {
	i := slices.IndexFunc(k.rec.Members, func(m roomstore.Placed) bool { return m.User == user })
	return k.rec.Members[i].Session
}

// If nothing was lost nobody notices, whatever gateways know.
func TestStore_Heal_nothing(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.lease("n1")
		w.lease("n2")
		w.on("a", "ana@n1", "ben@n2")
		early := w.knows("n1", "a") // it has not heard that
		w.on("a", "cy@n1")
		w.leave(w.s("ana1"), "a")
		knowers := []*knower{w.knows("n1", "a"), w.knows("n2", "a"), early}
		w.anew()
		term := w.greet().Term
		w.stored("a", "#1:4 ben/ben1@2 n2 cy/cy1@3 n1")
		w.forget()
		for _, late := range []bool{false, true} {
			if late {
				w.open()
				w.store.Adopt(term)
				w.on("a", "dan@n1")
				w.forget()
			}
			for _, k := range knowers {
				k.heals(term)
			}
			w.heard()
		}
		w.stored("a", "#1:5 ben/ben1@2 n2 cy/cy1@3 n1 dan/dan1@5 n1")
		lives, err := w.store.Lives(w.ctx(), []roomstore.RoomID{"a"})
		w.must(err)
		if l := lives["a"]; l.Epoch != knowers[0].rec.Epoch || l.Lineage.Has(l.Epoch) {
			t.Errorf("lives %+v", l)
		}
	})
}

// Where what is stored is older than what a gateway knows, the room goes on under
// another epoch: what was numbered since was seen by clients.
func TestStore_Heal_rolledBack(t *testing.T) {
	begun(t, roomstore.Config{LogTTL: time.Hour}, func(w *world) {
		w.create(ana(w), "a", 50)
		w.on("a", "ben@n2", "cy@n2")
		_, err := w.store.Send(w.ctx(), w.s("a1"), roomstore.Message{Room: "a", ID: "m", Payload: "x"})
		w.must(err)
		w.leave(w.s("cy1"), "a")
		restore := w.snapshot()
		behind := w.knows("n2", "a")
		w.leave(w.s("ben1"), "a") // he will be there again
		w.on("a", "dan@n2", "cy@n2")
		ahead, member := w.knows("n1", "a"), w.knows("n2", "a")
		for _, order := range [][]*knower{{ahead, member}, {member, ahead}, {behind, member, ahead, behind}} {
			restore()
			term := w.greet().Term
			w.forget()
			for _, k := range order {
				k.heals(term)
			}
			w.hear()
			if w.said = nil; w.rdb.Exists(w.ctx(), w.part("a")+"log:a", w.part("a")+"left:a").Val() != 0 {
				t.Error("there is history of what nobody has seen under this epoch")
			}
			want := ":9 ana/a1@1 n1 ben/ben1@2 n2 dan/dan1@7 n2 cy/cy1@8 n2"
			if got := w.state("a"); !strings.HasSuffix(got, want) || strings.HasPrefix(got, "#1:") {
				t.Errorf("stored %q, want %q", got, want)
			}
		}
		w.open()
		w.store.Adopt(w.greet().Term)
		w.forget()
		sent, err := w.store.Send(w.ctx(), w.s("a1"), roomstore.Message{Room: "a", ID: "n", Payload: "y"})
		w.must(err)
		if sent.MessageSeq != 2 || sent.Seq != 10 {
			t.Errorf("sent %+v, want the second message, at 10", sent)
		}
	})
}

// What happens after all act again may have numbers that are known for something
// else to a gateway that was away. That shows, though they are no lower now.
func TestStore_Heal_late(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1", "ben@n2")
		restore := w.snapshot()
		w.on("a", "cy@n2")
		away := w.knows("n2", "a")
		here := w.knows("n1", "a")
		here.rec.Seq = 2 // it had not heard of cy
		restore()
		term := w.greet().Term
		here.heals(term)
		w.open()
		w.store.Adopt(term)
		w.on("a", "dan@n1", "eve@n1") // 3 and 4
		w.stored("a", "#1:4 ana/ana1@1 n1 ben/ben1@2 n2 dan/dan1@3 n1 eve/eve1@4 n1")
		w.forget()
		away.heals(term)
		w.heard("healed a#2", "a#2:5 healed", "a#2:6 joined cy/cy1 n=5")
		w.stored("a", "#2:6 ana/ana1@1 n1 ben/ben1@2 n2 dan/dan1@3 n1 eve/eve1@4 n1 cy/cy1@6 n2")
		away.heals(term)
		w.heard()

		// The same where nobody has put the room back, but somebody acted in it.
		restore()
		term = w.greet().Term
		w.open()
		w.store.Adopt(term)
		w.must(w.store.Kick(w.ctx(), "a", "ana", ""))
		w.on("a", "fay@n1")
		w.forget()
		away.heals(term)
		w.heard("healed a#3", "a#3:5 healed", "a#3:6 joined cy/cy1 n=3")
		lives, err := w.store.Lives(w.ctx(), []roomstore.RoomID{"a"})
		w.must(err)
		if l := lives["a"]; l.Base != 5 || !l.Lineage.Has(away.rec.Epoch) {
			t.Errorf("lives %+v", l)
		}

		// One that missed more than a term knows nothing for certain.
		restore()
		term = w.greet().Term
		w.open()
		w.store.Adopt(term)
		w.on("a", "gus@n1")
		w.anew()
		term = w.greet().Term
		w.open()
		away.rec.Seq = 3
		away.heals(term)
		w.store.Adopt(term)
		w.hear()
		if !slices.Contains(w.said, "healed a#4") {
			t.Errorf("published %q, want another epoch", w.said)
		}

		// Nor does what is known of the room when the next term began help it: that
		// is from a term that it missed.
		w.on("a", "hal@n1")
		away = w.knows("n2", "a")
		away.knew = "one that is long over"
		w.anew()
		term = w.greet().Term
		w.open()
		w.store.Adopt(term)
		w.on("a", "ida@n1")
		w.forget()
		away.heals(term)
		w.hear()
		if !slices.Contains(w.said, "healed a#5") {
			t.Errorf("published %q, want another epoch", w.said)
		}
	})
}

// A gateway that comes late puts back a room that is gone; adds its members to
// one that was put back, as people who enter; and leaves alone one that others
// have made since.
func TestStore_Heal_lateMissing(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1", "ben@n2", "cy@n2")
		w.on("b", "ben@n2")
		w.on("c", "ben@n2")
		both := []*knower{w.knows("n1", "a"), w.knows("n2", "a")}
		b, c := w.knows("n2", "b"), w.knows("n2", "c")
		w.lose()
		term := w.greet().Term
		both[0].heals(term)
		w.open()
		w.store.Adopt(term)
		w.on("c", "eve@n3")
		w.forget()
		w.stored("a", "#2:4 ana/ana1@1 n1")
		both[1].heals(term)
		w.hear()
		slices.Sort(w.said) // gateways name their members in any order
		if len(w.said) != 2 || !strings.HasPrefix(w.said[0], "a#2:5 joined ") || !strings.HasPrefix(w.said[1], "a#2:6 joined ") {
			t.Errorf("published %q, want that ben and cy entered", w.said)
		}
		w.said = nil
		b.heals(term)
		w.heard("healed b#2", "b#2:2 healed")
		w.stored("b", "#2:2 ben/ben1@1 n2")
		c.rec.Epoch += 1 << 40 // Redis's clock was ahead before
		before := w.dump()
		_, err := c.heal(term)
		w.refused(err, roomstore.ErrRecreated)
		w.heard()
		w.stored("c", "#2:1 eve/eve1@1 n3")
		after := w.dump()
		delete(before, w.nodes())
		delete(after, w.nodes())
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("stored (-before +after):\n%s", diff)
		}
	})
}

// A gateway that hears in which epoch a room goes on before it acts under the term, and
// puts the room back again, begins no other: nothing is lost since. Who is missing is put
// back, and nobody who has left.
func TestStore_Heal_again(t *testing.T) {
	for _, all := range []bool{false, true} {
		t.Run(fmt.Sprintf("all is lost %t", all), func(t *testing.T) {
			begun(t, roomstore.Config{}, func(w *world) {
				w.on("a", "ana@n1")
				lose := w.snapshot()
				if all {
					lose = w.lose
				}
				w.on("a", "ben@n1")
				k := w.knows("n1", "a")
				members := k.rec.Members
				lose()
				term := w.greet().Term
				w.open()
				w.store.Adopt(term)
				w.forget()
				for i, m := range members {
					if m.User == "ana" {
						k.rec.Members = members[i : i+1]
					}
				}
				k.heals(term)
				w.heard("healed a#2", "a#2:3 healed")
				lives, err := w.store.Lives(w.ctx(), []roomstore.RoomID{"a"})
				w.must(err)
				k.rec.Position, k.rec.Lineage = lives["a"].Position, lives["a"].Lineage
				k.heals(term)
				w.heard()
				w.on("a", "cy@n2")
				w.forget()
				k.rec.Seq, k.rec.Members = 4, members
				k.heals(term)
				w.heard("a#2:5 joined ben/ben1 n=3")
				w.leave(w.s("ben1"), "a")
				w.forget()
				if absent, err := k.heal(term); !slices.Equal(absent, []roomstore.SessionID{"ben1"}) || err != nil {
					t.Errorf("%q were not put back, %v; want ben1", absent, err)
				}
				w.heard()
				w.stored("a", "#2:6 ana/ana1@1 n1 cy/cy1@4 n2")
			})
		})
	}
}

// A life that had ended, and is there again in an older state, gives way to the
// one that gateways know.
func TestStore_Heal_olderLife(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1", "ben@n2")
		older := w.knows("n2", "a")
		restore := w.snapshot()
		w.must(w.store.Destroy(w.ctx(), "a"))
		w.on("a", "cy@n1")
		newer := w.knows("n1", "a")
		restore()
		term := w.greet().Term
		w.forget()
		newer.heals(term)
		w.heard("a#1:3 ended destroyed", "destroyed a#1 destroyed", "healed a#3")
		w.stored("a", "#3:2 cy/cy1@1 n1")
		_, err := older.heal(term)
		w.refused(err, roomstore.ErrRecreated)
		w.open()
		w.store.Adopt(term)
		if _, err := w.store.Leave(w.ctx(), w.s("ben1"), "a", ""); !errors.Is(err, roomstore.ErrNotMember) {
			t.Errorf("got %v, want that ben is not in", err)
		}

		// Also if somebody has come to it before it is known that it had ended.
		restore()
		term = w.greet().Term
		w.open()
		w.store.Adopt(term)
		w.on("a", "dan@n1")
		w.forget()
		newer.heals(term)
		w.heard("a#1:4 ended destroyed", "destroyed a#1 destroyed", "healed a#4", "a#4:2 healed")
		w.stored("a", "#4:2 cy/cy1@1 n1")
	})
}

// A room that had ended stays so, though a gateway has not heard it, where what
// is stored is from after its beginning. What may have been lost is put back.
func TestStore_Heal_ended(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.lease("n1")
		w.on("other", "dan@n2")
		young := w.snapshot()
		w.on("a", "ana@n1")
		unheard := w.knows("n1", "a")
		w.must(w.store.Destroy(w.ctx(), "a"))
		w.anew()
		term := w.greet().Term
		for _, open := range []bool{false, true} {
			if open {
				w.open()
				w.store.Adopt(term)
			}
			w.forget()
			_, err := unheard.heal(term)
			w.refused(err, roomstore.ErrRecreated)
			w.heard()
			if keys := w.rdb.Keys(w.ctx(), w.prefix+"*:a").Val(); len(keys) > 0 {
				t.Errorf("of the room there are %q", keys)
			}
		}

		young() // from before the room, under the term in which it began
		unheard.heals(w.greet().Term)
		w.stored("a", "#2:2 ana/ana1@1 n1")
	})
}

// Of what was lost under the term before the last, the last knows nothing.
func TestStore_Heal_lostBefore(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1")
		away := w.knows("n1", "a")
		w.lose()
		w.greet()
		w.open()
		w.store.Adopt(w.greet().Term)
		w.on("b", "ben@n2")
		w.anew()
		away.heals(w.greet().Term)
		w.stored("a", "#2:2 ana/ana1@1 n1")
	})
}

// Nor does it where others have begun on the empty data before it showed that
// there had been more.
func TestStore_Heal_begunOnEmpty(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1")
		away := w.knows("n1", "a")
		w.lose()
		fresh := roomstore.New(runBatcher(w.T, w.rdb, w.batcher()), roomstore.Config{Prefix: w.prefix, Partitions: w.parts, Apart: w.apart})
		w.must(fresh.Greet(w.ctx()))
		ben, err := fresh.Login(w.ctx(), "n2", "ben", "ben1", "")
		w.must(err)
		_, err = fresh.Enter(w.ctx(), ben, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b"})
		w.must(err)
		away.heals(w.greet().Term)
		w.stored("a", "#2:2 ana/ana1@1 n1")
	})
}

// Data can be lost again before all gateways have heard that it was: those that
// had gone on and those that had not find each other.
func TestStore_Heal_twice(t *testing.T) {
	for _, first := range []int{0, 1} {
		t.Run(strconv.Itoa(first), func(t *testing.T) {
			begun(t, roomstore.Config{}, func(w *world) {
				w.on("a", "ana@n1", "ben@n2")
				knowers := []*knower{w.knows("n1", "a"), w.knows("n2", "a")}
				w.lose()
				knowers[0].heals(w.greet().Term)
				w.open()
				w.store.Adopt(w.greet().Term)
				w.enter(w.s("ana1"), "a")
				lives, err := w.store.Lives(w.ctx(), []roomstore.RoomID{"a"})
				w.must(err)
				knowers[0].knew = w.store.Term()
				knowers[0].rec.Position, knowers[0].rec.Lineage = lives["a"].Position, lives["a"].Lineage
				w.lose()
				term := w.greet().Term
				knowers[first].heals(term)
				knowers[1-first].heals(term)
				w.open()
				w.store.Adopt(term)
				lives, err = w.store.Lives(w.ctx(), []roomstore.RoomID{"a"})
				w.must(err)
				for _, k := range knowers {
					if !lives["a"].Lineage.Has(k.rec.Epoch) {
						t.Errorf("%+v does not go back to %d", lives["a"], k.rec.Epoch)
					}
				}
				if got := w.state("a"); !strings.HasSuffix(got, " ana/ana1@1 n1 ben/ben1@2 n2") {
					t.Errorf("stored %q", got)
				}
			})
		})
	}
}

// A snapshot from before a room was put back goes on where the newest knows it.
func TestStore_Heal_beforeHealing(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1", "ben@n2")
		restore := w.snapshot()
		knowers := []*knower{w.knows("n1", "a"), w.knows("n2", "a")}
		w.lose()
		term := w.greet().Term
		knowers[0].heals(term)
		knowers[1].heals(term)
		w.open()
		w.store.Adopt(term)
		knowers[0] = w.knows("n1", "a")
		restore()
		term = w.greet().Term
		w.forget()
		knowers[0].heals(term)
		w.heard("healed a#3")
		knowers[1].heals(term) // it never heard of the second epoch
		w.heard()
		w.stored("a", "#3:4 ana/ana1@1 n1 ben/ben1@2 n2")
	})
}

// An entry is taken back also if its room goes on under another epoch since.
func TestStore_Heal_undo(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1")
		ben := w.loginOn("n2", "ben", "ben1", "")
		entry := roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "a", RequestKey: "1", Try: 1, Data: dataOf("ben", "ben1")}
		_, err := w.store.Enter(w.ctx(), ben, entry)
		w.must(err)
		restore := w.snapshot()
		w.on("a", "cy@n1")
		k := w.knows("n1", "a")
		restore()
		term := w.greet().Term
		k.heals(term)
		w.open()
		w.store.Adopt(term)
		w.forget()
		_, err = w.store.Undo(w.ctx(), ben, entry)
		w.must(err)
		w.heard("a#2:5 left ben/ben1 n=2")
		w.stored("a", "#2:5 ana/ana1@1 n1 cy/cy1@3 n1")
	})
}

// Who left a room, and was put back since by a gateway that had not heard of it,
// is taken out when that gateway asks again; who has entered again is not.
func TestStore_Heal_left(t *testing.T) {
	entry := roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "7", Try: 1, Data: dataOf("ben", "ben1")}
	for name, leave := range map[string]func(w *world) roomstore.Position{
		"leave": func(w *world) roomstore.Position {
			at, err := w.store.Leave(w.ctx(), w.s("ben1"), "a", "7")
			w.must(err)
			return at
		},
		"leaveall": func(w *world) roomstore.Position {
			left, err := w.store.LeaveAll(w.ctx(), w.s("ben1"), "7", false)
			w.must(err)
			return left[0].Position
		},
		"logout": func(w *world) roomstore.Position {
			left, err := w.store.LeaveAll(w.ctx(), w.s("ben1"), "7", true)
			w.must(err)
			return left[0].Position
		},
		"switch": func(w *world) roomstore.Position {
			_, left, err := w.store.Switch(w.ctx(), w.s("ben1"), "a", entry)
			w.must(err)
			return left
		},
	} {
		t.Run(name, func(t *testing.T) {
			begun(t, roomstore.Config{}, func(w *world) {
				w.on("a", "ana@n1", "ben@n2")
				away := w.knows("n2", "a")
				old := leave(w)
				restore := w.snapshot()
				w.on("a", "cy@n1")
				ahead := w.knows("n1", "a")
				restore()
				term := w.greet().Term
				ahead.heals(term)
				away.heals(term)
				w.open()
				w.store.Adopt(term)
				w.forget()
				if got := w.state("a"); !strings.Contains(got, " ben/ben1@2 n2") {
					t.Fatalf("stored %q, want that ben is put back", got)
				}
				at := leave(w)
				if at.Epoch <= old.Epoch || at.Seq <= ahead.rec.Seq {
					t.Errorf("left at %v, before it was put back at %v", at, old)
				}
				w.heard(fmt.Sprintf("%s:%d left ben/ben1 n=2", w.life("a"), at.Seq))
				leave(w)
				w.heard()
				if held, err := w.store.Held(w.ctx(), "", "", "n2"); err != nil || len(held) > 0 != (name != "logout") {
					t.Errorf("held %v, %v", held, err)
				}
				if name == "logout" {
					return
				}
				w.on("a", "ben@n2")
				w.forget()
				leave(w)
				w.heard()
			})
		})
	}
}

// life names the life that a room is in, as what is published does.
func (w *world) life(room roomstore.RoomID) string {
	w.Helper()
	life, _, _ := strings.Cut(w.state(room), ":")
	return string(room) + life
}

// A member is put back for the generation that its session has now: for an older
// one it could do nothing any more.
func TestStore_Heal_generation(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1", "ben@n1")
		older := w.knows("n1", "a")
		now, _ := w.resume("n1", w.s("ana1"))
		w.sessions["ana1"] = now
		newer := w.knows("n1", "a")
		w.lose()
		term := w.greet().Term
		for range 2 {
			_, _, err := w.store.Reclaim(w.ctx(), term, "", "n1", []roomstore.Holding{holding(now, "a"), holding(w.s("ben1"), "a")})
			w.must(err)
			absent, err := w.store.Heal(w.ctx(), term, older.knew, "n1", older.rec)
			w.must(err)
			if !slices.Equal(absent, []roomstore.SessionID{"ana1"}) {
				t.Errorf("absent %q, want that ana1 is not put back as it was", absent)
			}
		}
		w.stored("a", "#2:3 ben/ben1@2 n1")
		newer.heals(term)
		w.stored("a", "#2:3 ana/ana1@1 n1 ben/ben1@2 n1")
		w.open()
		w.store.Adopt(term)
		w.leave(now, "a")
		w.hear()
	})
}

// After a rollback the room has the attributes that the gateway knew that had heard the
// most, with their owners, whichever reports first; also if they were all deleted.
func TestStore_Heal_attributes(t *testing.T) {
	begun(t, roomstore.Config{LogTTL: time.Hour}, func(w *world) {
		w.on("a", "ana@n1", "ben@n2")
		changed("ana1", "k=old x=gone")(w)
		restore := w.snapshot()
		changed("ana1", "k=new l=1 leaves")(w)
		behind := w.knows("n2", "a")
		changed("ana1", "-x m=2")(w)
		ahead := w.knows("n1", "a")
		ben, none := w.knows("n2", "a"), w.knows("n2", "a")
		ben.rec.Described = false // does not know of any
		ben.rec.Seq++
		changed("ana1", "-k -l -m force")(w)
		none.rec.Seq, none.rec.Attributes = none.rec.Seq+1, nil
		for _, tt := range []struct {
			order []*knower
			want  string
		}{
			{[]*knower{ahead, behind}, "k=new ana!, l=1 ana!, m=2 ana"},
			{[]*knower{behind, ahead}, "k=new ana!, l=1 ana!, m=2 ana"},
			{[]*knower{behind, ahead, behind, ahead}, "k=new ana!, l=1 ana!, m=2 ana"},
			{[]*knower{ben, behind, ahead}, "k=new ana!, l=1 ana!, m=2 ana"},
			{[]*knower{none, ahead, behind}, ""},
			{[]*knower{behind, none, ahead}, ""},
		} {
			restore()
			term := w.greet().Term
			w.forget()
			for _, k := range tt.order {
				k.heals(term)
			}
			w.hear()
			w.said = nil
			has(tt.want)(w)
		}
	})
}

// What goes with its owner goes when all has been put back and the owner was not; of
// those who are there, and what does not go with anybody, nothing does.
func TestStore_DropOwnerless(t *testing.T) {
	begun(t, roomstore.Config{}, func(w *world) {
		w.on("a", "ana@n1", "ben@n2", "cy@n1")
		set := func(id roomstore.SessionID, key string, leaves bool) {
			_, _, err := w.store.ChangeAttributes(w.ctx(), w.s(id), roomstore.AttributeChange{
				Room: "a", Operations: []roomstore.AttributeOperation{{Key: key, Value: "v"}}, Leaves: leaves, MaxKeys: 10, MaxBytes: 1000})
			w.must(err)
		}
		set("ana1", "ana goes", true)
		set("ben1", "ben goes", true)
		set("ben1", "ben stays", false)
		first, second := w.knows("n1", "a"), w.knows("n2", "a")
		for _, back := range []bool{true, false} {
			w.lose()
			term := w.greet().Term
			first.heals(term)
			if back {
				second.heals(term)
			}
			w.open()
			w.store.Adopt(term)
			w.forget()
			for range 2 {
				w.must(w.store.DropOwnerless(w.ctx(), []roomstore.RoomID{"a", "none"}))
			}
			var keys []string
			for _, a := range w.attributes("a") {
				keys = append(keys, a.Key)
			}
			want := []string{"ana goes", "ben goes", "ben stays"}
			if !back {
				want = []string{"ana goes", "ben stays"}
			}
			if diff := cmp.Diff(want, keys); diff != "" {
				t.Errorf("ben is back %t: (-want +got):\n%s", back, diff)
			}
			w.hear()
			if told := len(w.said) == 1 && strings.HasSuffix(w.said[0], " -ben goes"); told == back || len(w.said) > 1 {
				t.Errorf("ben is back %t: published %q", back, w.said)
			}
			w.said = nil
		}
	})
}
