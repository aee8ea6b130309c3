package gateway

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// apartRooms is a gateway on a Redis whose hash slots lie apart, with ana and ben in two
// rooms: these and their records are each in a slot of its own.
type apartRooms struct {
	*served
	ana, ben *bare
	a, b     string // rooms, in partitions 1 and 2
}

// in gives an ID that is in the slot of a number, of four.
func in(name string, slot uint32) string {
	for i := 0; ; i++ {
		id := fmt.Sprint(name, i)
		h := fnv.New32a()
		h.Write([]byte(id))
		if h.Sum32()%4 == slot {
			return id
		}
	}
}

func serveApart(t *testing.T) *apartRooms {
	t.Helper()
	rdb := redistest.New(t)
	r := &apartRooms{
		served: serveRooms(t, Config{}, rdb, rdb.Options().Addr, roomstore.Config{Partitions: 4, Apart: true}),
		a:      in("a", 1), b: in("b", 2),
	}
	r.ana, r.ben = r.login(in("ana", 3)), r.login(in("ben", 0))
	for _, room := range []string{r.a, r.b} {
		for _, c := range []*bare{r.ana, r.ben} {
			c.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"`+room+`","roomName":"r"}}`)
			c.hears(room+" connecting activeEnter", room+" connected success *", fmt.Sprint("answer ", c.n))
		}
		r.ana.hears(room + " +" + in("ben", 0) + " 2 #2")
	}
	return r
}

// wipe deletes all that one slot holds.
func (r *apartRooms) wipe(slot string) {
	r.t.Helper()
	keys, err := r.rdb.Keys(r.t.Context(), r.prefix+":{"+slot+"}:*").Result()
	if err != nil || len(keys) == 0 {
		r.t.Fatalf("slot %s has %q, %v", slot, keys, err)
	}
	if err := r.rdb.Del(r.t.Context(), keys...).Err(); err != nil {
		r.t.Fatal(err)
	}
}

// talks has ben say something in a room, which comes as the next that ana hears.
func (r *apartRooms) talks(room, text string) {
	r.t.Helper()
	r.ben.send(protocol.MethodSendRoomMessage, `{"roomID":"`+room+`","message":{"type":1,"message":"`+text+`"}}`)
	r.ana.hears(room + " " + in("ben", 0) + ": " + text + " *")
	r.ben.hears(fmt.Sprint("answer ", r.ben.n, "*"))
}

// back is what members of a room hear that goes on under a new epoch.
func back(room string) []string {
	return []string{room + " connecting networkInterrupted", room + " connected success *", room + " lost *"}
}

// healed waits until all is put back.
func (r *apartRooms) healed() {
	r.t.Helper()
	r.until("data is put back", func() bool {
		g, err := r.store.Ask(r.t.Context())
		return err == nil && g.Opens == 0 && g.Term == r.store.Term() && len(r.NotReady()) == 0
	})
}

// members gives who is stored to be in a room.
func (r *apartRooms) members(room string, slot int) []string {
	r.t.Helper()
	users, err := r.rdb.ZRange(r.t.Context(), fmt.Sprintf("%s:{%d}:members:%s", r.prefix, slot, room), 0, -1).Result()
	if err != nil {
		r.t.Fatal(err)
	}
	return users
}

// What one slot has lost is put back in that slot: the rooms of others go on
// meanwhile, and their members hear of nothing.
func TestHeal_slot(t *testing.T) {
	t.Parallel()
	r := serveApart(t)
	before := strings.Split(r.store.Term(), ",")
	r.wipe("1")
	r.until("the loss is noticed", func() bool { return len(r.NotReady()) > 0 })
	r.talks(r.b, "still here")
	r.ana.hears(back(r.a)...)
	r.ben.hears(back(r.a)...)
	r.healed()
	r.talks(r.a, "again")
	r.talks(r.b, "as ever")
	if got := r.members(r.a, 1); len(got) != 2 {
		t.Errorf("stored are %q", got)
	}
	for i, term := range strings.Split(r.store.Term(), ",") {
		if (term != before[i]) != (i == 1) {
			t.Errorf("slot %d went from term %s to %s", i, before[i], term)
		}
	}
}

// A slot of users that is lost is put back without a word: sessions, and what they
// have reserved. Who is recorded elsewhere goes on.
func TestHeal_slotOfUsers(t *testing.T) {
	t.Parallel()
	r := serveApart(t)
	r.wipe("u3")
	r.until("the loss is noticed", func() bool { return len(r.NotReady()) > 0 })
	r.talks(r.a, "hello")
	r.healed()
	user := r.prefix + ":{u3}:user:" + in("ana", 3)
	if n, err := r.rdb.HLen(t.Context(), user).Result(); n != 3 || err != nil {
		t.Errorf("%d fields are stored of ana, %v; want the session and two rooms", n, err)
	}
	r.ana.send(protocol.MethodLeaveAllRoom, `{}`)
	r.until("ana is in no room", func() bool { return len(r.members(r.a, 1))+len(r.members(r.b, 2)) == 2 })
}

// Two slots that are lost one after the other are put back each in its time, the
// second while the first is being put back.
func TestHeal_slots(t *testing.T) {
	t.Parallel()
	r := serveApart(t)
	r.wipe("1")
	r.until("the loss is noticed", func() bool { return len(r.NotReady()) > 0 })
	r.wipe("2")
	r.wipe("u0")
	for _, c := range []*bare{r.ana, r.ben} {
		heard := map[string]int{}
		for range 6 {
			text, err := c.hear()
			if err != nil {
				t.Fatal(err)
			}
			heard[strings.Fields(brief(t, text))[0]]++
		}
		if heard[r.a] != 3 || heard[r.b] != 3 {
			t.Errorf("heard %v", heard)
		}
	}
	r.healed()
	r.talks(r.a, "again")
	r.talks(r.b, "again, too")
}

// While one slot is away another is put back; when that one comes, and has lost data,
// its rooms are, too.
func TestHeal_slotAway(t *testing.T) {
	t.Parallel()
	for _, users := range []bool{false, true} {
		t.Run(fmt.Sprintf("of users %t", users), func(t *testing.T) {
			t.Parallel()
			r := serveApart(t)
			away := "2"
			if users {
				away = "u3"
			}
			r.gate.setAway(r.prefix + ":{" + away + "}:")
			r.wipe("1")
			r.ana.hears(back(r.a)...)
			r.ben.hears(back(r.a)...)
			r.talks(r.a, "again")
			if got := r.members(r.a, 1); len(got) != 2 {
				t.Errorf("stored are %q", got)
			}
			r.wipe(away)
			r.gate.setAway("")
			if !users {
				r.ana.hears(back(r.b)...)
				r.ben.hears(back(r.b)...)
			}
			r.healed()
			r.talks(r.b, "again")
			for _, room := range []string{r.a, r.b} {
				r.ana.send(protocol.MethodLeaveRoom, `{"roomID":"`+room+`"}`)
				r.ana.hears(room+" disconnected success", fmt.Sprint("answer ", r.ana.n))
				r.ben.hears(room + " -" + in("ana", 3) + " 1 *")
			}
			user := r.prefix + ":{u3}:user:" + in("ana", 3)
			if fields, err := r.rdb.HKeys(t.Context(), user).Result(); len(fields) != 1 || err != nil {
				t.Errorf("stored of ana is %q, %v, want the session", fields, err)
			}
		})
	}
}

// While one slot is away gateways that are dead are claimed in the others, all of them,
// and sessions end there.
func TestSweep_slotAway(t *testing.T) {
	t.Parallel()
	for _, away := range []string{"2", "u3"} {
		t.Run(away, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.New(t)
			rooms := roomstore.Config{Partitions: 4, Apart: true, SessionTTL: 2 * time.Second, LeaseTTL: 2 * time.Second}
			r := &apartRooms{
				served: serveRooms(t, Config{SessionTTL: rooms.SessionTTL, LeaseTTL: rooms.LeaseTTL}, rdb, rdb.Options().Addr, rooms),
				a:      in("a", 1),
			}
			var users []string
			for i, node := range []string{"dead1", "dead2"} {
				if _, err := r.store.Lease(t.Context(), node, true, nil); err != nil {
					t.Fatal(err)
				}
				user := in(fmt.Sprint("user", i), uint32(i))
				who, err := r.store.Login(t.Context(), node, roomstore.UserID(user), roomstore.SessionID("s"+user), "")
				if err != nil {
					t.Fatal(err)
				}
				_, err = r.store.Enter(t.Context(), who, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: roomstore.RoomID(r.a), Data: "x"})
				if err != nil {
					t.Fatal(err)
				}
				users = append(users, fmt.Sprintf("%s:{u%d}:user:%s", r.prefix, i, user))
			}
			r.gate.setAway(r.prefix + ":{" + away + "}:")
			r.until("nobody is in the room", func() bool { return len(r.members(r.a, 1)) == 0 })
			r.until("nobody is logged in", func() bool {
				n, err := rdb.Exists(t.Context(), users...).Result()
				return err == nil && n == 0
			})
			nodes := r.prefix + ":{0}:nodes"
			if n, err := rdb.ZCard(t.Context(), nodes).Result(); n != 3 || err != nil {
				t.Errorf("%d nodes are known, %v, want 3: what the dead have in the slot is not claimed", n, err)
			}
			r.gate.setAway("")
			r.until("the dead are forgotten", func() bool {
				n, err := rdb.ZCard(t.Context(), nodes).Result()
				return err == nil && n == 1
			})
		})
	}
}

// A slot that is away keeps no session elsewhere from being compared; those in it are
// compared again, and no others, not more often than once a second.
func TestCompare_slotAway(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := serveRooms(t, Config{}, rdb, rdb.Options().Addr, roomstore.Config{Partitions: 4, Apart: true})
	var mu sync.Mutex
	asked := map[string][]time.Time{}
	s.gate.mu.Lock()
	s.gate.note = func(script, key string) {
		if script == lua.Generations.Apart.Hash() {
			mu.Lock()
			defer mu.Unlock()
			asked[key] = append(asked[key], time.Now())
		}
	}
	s.gate.mu.Unlock()
	slot := func(n int) string { return fmt.Sprintf("%s:{u%d}:", s.prefix, n) }
	times := func(n int) []time.Time {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(asked[slot(n)])
	}
	var all []*bare
	for n := range 4 {
		all = append(all, s.login(in("user", uint32(n))))
	}
	s.gate.setAway(slot(3))
	for range 10 { // their order is another each time
		n := s.current.Load()
		if unsure := n.compare(t.Context(), s.sessionsHere()); len(unsure) != 1 {
			t.Errorf("%d are unsure, want one", len(unsure))
		}
	}
	mu.Lock()
	clear(asked)
	mu.Unlock()
	// All but the first have been logged out elsewhere, and nobody has said so.
	for n := 1; n < 4; n++ {
		if err := rdb.Del(t.Context(), slot(n)+"user:"+in("user", uint32(n))).Err(); err != nil {
			t.Fatal(err)
		}
	}
	s.current.Load().gap.Store(true)
	for n := 1; n < 3; n++ {
		if _, err := all[n].hear(); err == nil {
			t.Errorf("the connection in slot %d is open", n)
		}
	}
	s.until("who is away is asked for again", func() bool { return len(times(3)) >= 3 })
	again := times(3)
	for i := 1; i < len(again); i++ {
		if after := again[i].Sub(again[i-1]); after < compareAgain {
			t.Errorf("asked again after %v", after)
		}
	}
	if n := len(times(0)); n != 1 {
		t.Errorf("the slot that answers was asked %d times, want once", n)
	}
	s.gate.setAway("")
	if _, err := all[3].hear(); err == nil {
		t.Error("the connection whose slot was away is open")
	}
}

// On one Redis, too, what comes behind a group that failed is asked for again.
func TestCompare_away(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := serveRooms(t, Config{}, rdb, rdb.Options().Addr, roomstore.Config{Partitions: 4})
	for n := range 4 {
		s.login(in("user", uint32(n)))
	}
	n := s.current.Load()
	s.gate.setAway(s.prefix)
	if unsure := n.compare(t.Context(), s.sessionsHere()); len(unsure) != 4 {
		t.Errorf("%d are unsure, want all 4", len(unsure))
	}
	s.gate.setAway("")
	if unsure := n.compare(t.Context(), s.sessionsHere()); len(unsure) != 0 {
		t.Errorf("%d are unsure, want none", len(unsure))
	}
}

// What cannot be taken back takes the time of one call, however much that is, and keeps
// nothing else for long. What is noted twice is done once.
func TestHealing_tryLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stuck, sound = 200, 50
		h := &healing{g: &Gateway{cfg: Config{RedisTimeout: 2 * time.Second}}}
		var done atomic.Int64
		var mu sync.Mutex
		now, most := 0, 0
		away := func(ctx context.Context) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			now--
			mu.Unlock()
			return ctx.Err()
		}
		for i := range stuck {
			h.leave(fmt.Sprint("stuck ", i), away)
		}
		for i := range sound {
			for range 2 {
				h.leave(fmt.Sprint("sound ", i), func(context.Context) error { done.Add(1); return nil })
			}
		}
		refused := 0
		h.leave("refused", func(context.Context) error { refused++; return roomstore.ErrNoRoom })
		for pass := range 2 * stuck / healAtOnce {
			began := time.Now()
			h.tryLeft(t.Context())
			if took := time.Since(began); took != 2*time.Second {
				t.Errorf("pass %d took %v, want 2s", pass, took)
			}
		}
		if done.Load() != sound || refused != 1 || len(h.left) != stuck {
			t.Errorf("%d are done, %d refused, %d left; want %d, 1, %d", done.Load(), refused, len(h.left), sound, stuck)
		}
		if most != healAtOnce {
			t.Errorf("%d were tried at a time, want %d", most, healAtOnce)
		}
		h.leave("sound 1", func(context.Context) error { done.Add(1); return nil }) // anew
		if len(h.left) != stuck+1 {
			t.Errorf("%d are left, want one more", len(h.left))
		}
	})
}
