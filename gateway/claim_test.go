package gateway

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// Of several operations about a room one is under way at a time, but for those of
// one batch, and for repeats of it. Who may not go on leaves nothing behind.
func TestConn_claim(t *testing.T) {
	t.Parallel()
	s, _ := newSession("ana", "s", 1)
	c := s.c
	first, batch := new(owner), new(owner)
	take := func(of *owner, key int64, about, want string) *claim {
		t.Helper()
		cl, err := c.claim(of, key, rooms(about)...)
		got := "busy"
		switch {
		case err != nil && err.Code != protocol.CodeRoomBusy:
			t.Fatal(err)
		case err == nil && cl.repeat:
			got = "repeat"
		case err == nil:
			got = "first"
		}
		if got != want {
			t.Errorf("key %d, about %s: got %s, want %s", key, about, got, want)
		}
		return cl
	}
	a := take(first, 7, "A B", "first")
	take(new(owner), 8, "A", "busy")
	take(new(owner), 0, "B", "busy")
	take(new(owner), 8, "C B", "busy")
	c1 := take(new(owner), 8, "C", "first")
	b := take(new(owner), 7, "B", "repeat")
	a.end()
	take(new(owner), 9, "B", "busy")
	a2 := take(new(owner), 9, "A", "first")
	take(new(owner), 9, "B A", "busy")
	for _, cl := range []*claim{b, c1, a2, a2} {
		cl.end()
	}
	if c.claims != nil {
		t.Errorf("there are claims left: %v", c.claims)
	}

	x := take(batch, 1, "A", "first")
	y := take(batch, 2, "A", "first")
	z := take(batch, 0, "A", "first")
	w := take(new(owner), 2, "A", "repeat")
	take(new(owner), 3, "A", "busy")
	take(new(owner), 0, "A", "busy")
	for _, cl := range []*claim{x, z, w, y} {
		cl.end()
	}
	if c.claims != nil {
		t.Errorf("there are claims left: %v", c.claims)
	}
}

// What was answered is over, unless its outcome is open.
func TestClaim_answered(t *testing.T) {
	t.Parallel()
	s, _ := newSession("ana", "s", 1)
	for _, open := range []bool{false, true} {
		cl, err := s.c.claim(new(owner), 7, "R")
		if err != nil {
			t.Fatal(err)
		}
		cl.open = open
		cl.answered()
		if got := s.c.claims != nil; got != open {
			t.Errorf("open %t: under way %t", open, got)
		}
		cl.end()
	}
}

// Who waits for a repeat waits until there is one, for as long as was said; not
// where there can be none, and not when the connection is over.
func TestClaim_forsaken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		key  int64
		do   func(c *conn) // after a second
		want bool
		took time.Duration
	}{
		{"no key", 0, func(c *conn) {}, true, 0},
		{"nobody asks", 7, func(c *conn) {}, true, 3 * time.Second},
		{"somebody asks", 7, func(c *conn) { c.claim(new(owner), 7, "R") }, false, time.Second},
		{"somebody asks for something else", 7, func(c *conn) { c.claim(new(owner), 7, "S") }, true, 3 * time.Second},
		{"the connection ends", 7, func(c *conn) { close(c.gone) }, false, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newSession("ana", "s", 1)
				s.c.g.life = t.Context()
				cl, err := s.c.claim(new(owner), tt.key, "R")
				if err != nil {
					t.Fatal(err)
				}
				time.AfterFunc(time.Second, func() { tt.do(s.c) })
				began := time.Now()
				if got, took := cl.forsaken(3*time.Second), time.Since(began); got != tt.want || took != tt.took {
					t.Errorf("got %t after %v, want %t after %v", got, took, tt.want, tt.took)
				}
				time.Sleep(time.Minute) // the timer is in the bubble
			})
		})
	}
	// Those of a batch wait for a while together, whenever they begin to.
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSession("ana", "s", 1)
		s.c.g.life = t.Context()
		batch, began := new(owner), time.Now()
		for i, room := range []roomstore.RoomID{"Q", "R", "S"} {
			cl, err := s.c.claim(batch, int64(7+i), room)
			if err != nil {
				t.Fatal(err)
			}
			if !cl.forsaken(3 * time.Second) {
				t.Error("want that nobody asks")
			}
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("waited for %v, want 3s in all", took)
		}
	})
	s, _ := newSession("ana", "s", 1)
	cl, _ := s.c.claim(new(owner), 7, "R")
	s.c.claim(new(owner), 7, "R")
	if cl.forsaken(time.Hour) {
		t.Error("a repeat that is there already was not seen")
	}
}

// An entry that is late says where it stands, unless the client hears that from
// the request whose repeat it is, or is in the room. What may have happened is
// left to be found out.
func TestConn_enter_late(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, w := newSession("ana", "s", 1)
		take := func(key int64) *claim {
			cl, err := s.c.claim(new(owner), key, "R")
			if err != nil {
				t.Fatal(err)
			}
			cl.late = true
			return cl
		}
		in := func(rooms ...roomstore.RoomID) {
			s.rooms = map[roomstore.RoomID]*feed{}
			for _, room := range rooms {
				s.rooms[room] = &feed{room: room}
			}
		}
		answer := func(_ any, err *protocol.Error) { s.c.queue(textOf(errorText([]byte("1"), err))) }
		same := strings.NewReplacer("activeCreate", "active", "activeEnter", "active", "activeSwitch", "active",
			"createFailed", "failed", "enterFailed", "failed", "switchFailed", "failed")
		late := func(what string, cl *claim, rest bool, want ...string) {
			t.Helper()
			open := cl.open
			for name, do := range map[string]func() func(){
				"create": func() func() {
					return s.c.enter(s, roomstore.EntryRequest{Mode: roomstore.ModeCreate, Room: "R"}, cl, answer)
				},
				"enter": func() func() {
					return s.c.enter(s, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "R"}, cl, answer)
				},
				"switch": func() func() {
					return s.c.switchRoom(s, "F", roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "R"}, cl, answer)
				},
			} {
				left := do()
				synctest.Wait()
				got := w.briefs(t)
				for i := range got {
					got[i] = same.Replace(got[i])
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s, %s: got %q, want %q", what, name, got, want)
				}
				if (left != nil) != rest || cl.open != rest {
					t.Errorf("%s, %s: something is left to do: %t, under way %t, want %t", what, name, left != nil, cl.open, rest)
				}
			}
			cl.open = open
		}
		all := []string{"R connecting active", "R disconnected failed", "error 1 6000007"}
		in("F")
		first := take(7)
		late("alone", first, false, all...)
		repeat := take(7)
		late("its first is to be answered", repeat, true, all[2:]...)
		first.open = true
		first.answered()
		late("its first was answered", repeat, true, all...)
		first.end()
		late("its first is over", repeat, true, all...)
		repeat.end()
		in("F", "R")
		late("in the room", take(8), false, all[2:]...)
	})
}

// Keys that we make rise for as long as a connection lasts, and lie between those
// of the client.
func TestSession_key_made(t *testing.T) {
	t.Parallel()
	s, _ := newSession("ana", "s", 1795320735669)
	last := "0"
	for _, n := range []int64{0, 9, 999_998, 9_999_999, 123_456_789_012} {
		for _, clients := range []int64{0, 1<<53 - 1} {
			s.made, s.lastKey = n, clients
			for range 3 {
				k := string(s.key(0))
				whole, rest, ok := strings.Cut(k, ".")
				if lastWhole, lastRest, _ := strings.Cut(last, "."); !ok || len(rest) != 12+13 || lastWhole == whole && rest <= lastRest {
					t.Errorf("%s comes after %s", k, last)
				}
				last = k
			}
		}
		last = "0"
	}
}
