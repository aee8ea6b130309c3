package gateway

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// hall is a large room as it truly is, and the clients of a feed of it.
type hall struct {
	*stage
	others  int64             // members of whom nothing is heard
	users   map[string]bool   // who is in, besides
	history []map[string]bool // who was in after each event
	counts  []int64
	clients map[string]*listener
}

// listener is a client that follows who is in the room.
type listener struct {
	user    string
	s       *session
	w       *wire
	users   map[string]bool // as it was told
	seq     int64
	mode    protocol.RoomMode
	count   int64 // as it was told last
	frames  int   // about members
	largest int   // users in one
}

func (h *hall) count() int64 { return h.others + int64(len(h.users)) }

// record notes that the next event has happened, and delivers it.
func (h *hall) record(e roomstore.Event) {
	h.t.Helper()
	h.history, h.counts = append(h.history, maps.Clone(h.users)), append(h.counts, h.count())
	h.f.Deliver(envelope(e))
}

func (h *hall) seq() int64 { return int64(len(h.history)) }

func (h *hall) comes(user string, local bool) {
	h.t.Helper()
	h.users[user] = true
	seq := h.seq() + 1
	h.record(joined(1, seq, user, h.count()))
	if !local {
		return
	}
	s, w := newSession(user, "s-"+user, 1)
	c := &listener{user: user, s: s, w: w, users: maps.Clone(h.users), seq: seq, mode: protocol.ModeFull}
	if !h.f.admitted(h.stage, s, roomstore.Entry{Position: at(1, seq), Entered: seq, Count: h.count()}) {
		h.t.Fatalf("%s was not admitted", user)
	}
	h.clients[user] = c
}

func (h *hall) goes(user string) {
	h.t.Helper()
	delete(h.users, user)
	h.record(left(1, h.seq()+1, user, h.count(), roomstore.ReasonLeft))
}

// follow has a client read what has come, and holds it against the truth.
func (h *hall) follow(c *listener) {
	h.t.Helper()
	for _, text := range c.w.texts(h.t) {
		var f struct {
			Method string
			Params struct {
				protocol.MembersChanged
				Mode protocol.RoomMode
			}
		}
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			h.t.Fatal(err)
		}
		if f.Params.Seq > 0 {
			if f.Params.Seq < c.seq || f.Params.Seq == c.seq && f.Method != protocol.EventRoomModeChanged && f.Method != protocol.EventRoomStateChanged {
				h.t.Fatalf("%s: seq %d after %d: %s", c.user, f.Params.Seq, c.seq, text)
			}
			c.seq = f.Params.Seq
		}
		switch f.Method {
		case protocol.EventRoomModeChanged:
			c.mode = f.Params.Mode
			if c.mode == protocol.ModeFull {
				c.users = maps.Clone(h.history[c.seq-1]) // it asks
			}
			continue
		case protocol.EventRoomMemberJoined, protocol.EventRoomMemberLeft:
			c.frames++
			c.largest = max(c.largest, len(f.Params.MemberList))
			c.count = f.Params.MemberCount
			for _, u := range f.Params.MemberList {
				in := f.Method == protocol.EventRoomMemberJoined
				if c.users[u.UserID] == in && c.mode == protocol.ModeFull || u.UserID == c.user {
					h.t.Fatalf("%s: knew that of %s: %s", c.user, u.UserID, text)
				}
				if delete(c.users, u.UserID); in {
					c.users[u.UserID] = true
				}
			}
		}
		if f.Params.Seq > 0 && c.mode == protocol.ModeFull {
			if d := cmp.Diff(h.history[c.seq-1], c.users); d != "" {
				h.t.Fatalf("%s at %d, after %s (-is +knows):\n%s", c.user, c.seq, text, d)
			}
			if c.frames > 0 && f.Params.MemberCount > 0 && f.Params.MemberCount != h.counts[c.seq-1] {
				h.t.Fatalf("%s at %d: %s, there are %d", c.user, c.seq, text, h.counts[c.seq-1])
			}
		}
	}
}

func enterHall(t *testing.T, others int64, test func(h *hall)) {
	play(t, func(t *testing.T, st *stage) {
		h := &hall{stage: st, others: others, users: map[string]bool{}, clients: map[string]*listener{}}
		test(h)
	})
}

// Whoever comes and goes in whatever order, each client knows at each position that it is
// given who is in, and how many; in the end everybody knows, and nothing is left.
func TestFeed_gather_model(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 0))
		others := []int64{90, 150, 400, 890, 990, 1500}[r.IntN(6)]
		enterHall(t, others, func(h *hall) {
			h.comes("ana", true)
			for range r.IntN(300) {
				user := fmt.Sprint("u", r.IntN(40))
				switch n := r.IntN(20); {
				case n == 0:
					h.record(message(1, h.seq()+1, "zoe", "hi"))
				case n == 1:
					h.f.Deliver(envelope(command(1, h.seq(), "zoe", fmt.Sprint(h.seq(), r.Int()), 1)))
				case n == 2:
					h.others = max(80, h.others+int64(r.IntN(300))-150)
					h.comes(fmt.Sprint("crowd", h.seq()), false)
				case n < 6:
					time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
				case h.users[user]:
					h.goes(user)
					if c := h.clients[user]; c != nil {
						synctest.Wait()
						h.follow(c)
						if c.mode == protocol.ModeFull {
							delete(c.users, user)
							if d := cmp.Diff(h.users, c.users); d != "" {
								t.Fatalf("seed %d: %s goes (-is +knows):\n%s", seed, user, d)
							}
						}
						delete(h.clients, user)
					}
				default:
					h.comes(user, r.IntN(2) == 0)
				}
				if r.IntN(10) == 0 {
					synctest.Wait()
					for _, c := range h.clients {
						h.follow(c)
					}
				}
			}
			time.Sleep(time.Second)
			synctest.Wait()
			for _, c := range h.clients {
				h.follow(c)
				if c.frames > 0 && c.count != h.count() {
					t.Errorf("seed %d: %s was told of %d last, there are %d", seed, c.user, c.count, h.count())
				}
				if d := cmp.Diff(h.users, c.users); d != "" && c.mode == protocol.ModeFull {
					t.Errorf("seed %d: %s (-is +knows):\n%s", seed, c.user, d)
				}
			}
			h.calm(func() {
				if g := h.f.crowd; g != nil && (len(g.pending) > 0 || !g.due.IsZero()) {
					t.Errorf("seed %d: %d are pending, due %v", seed, len(g.pending), g.due)
				}
			})
			h.f.Deliver(envelope(destroyed(1, h.seq()+1)))
			synctest.Wait()
		})
	}
}

// A crowd that comes at once costs a few frames for each client, not one for each who
// comes; the first of them does not wait.
func TestFeed_gather_crowd(t *testing.T) {
	enterHall(t, 200, func(h *hall) {
		h.comes("ana", true)
		time.Sleep(time.Second)
		synctest.Wait()
		ana := h.clients["ana"]
		h.comes("first", false)
		synctest.Wait()
		if h.follow(ana); ana.frames != 1 {
			t.Errorf("the first cost %d frames", ana.frames)
		}
		for i := range 300 {
			h.comes(fmt.Sprint("u", i), false)
		}
		h.goes("u7")
		synctest.Wait()
		if h.follow(ana); ana.frames != 1 {
			t.Errorf("%d frames while a window lasts", ana.frames)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if h.follow(ana); ana.frames != 2 || ana.largest != 299 || ana.count != h.count() {
			t.Errorf("%d frames, the largest has %d, the count is %d", ana.frames, ana.largest, ana.count)
		}
		// A small room does not wait.
		h.others = 10
		for _, u := range []string{"x", "y"} {
			delete(h.users, u)
		}
		for u := range h.users {
			if u != "ana" && len(h.users) > 20 {
				delete(h.users, u)
			}
		}
		before := ana.frames
		h.record(left(1, h.seq()+1, "first", h.count(), roomstore.ReasonLeft))
		synctest.Wait()
		if len(ana.w.texts(t)) != 1 {
			t.Errorf("%d frames before, and no one more at once", before)
		}
	})
}

// In a very large room a client gets at most five events about members a second, of at
// most fifty users each, and the count in the last one is exact. It is told when that
// begins, when it is so as it comes, and when it ends.
func TestFeed_gather_sampled(t *testing.T) {
	enterHall(t, 995, func(h *hall) {
		h.comes("ana", true)
		ana := h.clients["ana"]
		for i := range 10 {
			h.comes(fmt.Sprint("u", i), false)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		h.follow(ana)
		if ana.mode != protocol.ModeSampled || ana.seq != h.seq() {
			t.Fatalf("mode %s at %d", ana.mode, ana.seq)
		}
		h.comes("bo", true)
		bo := h.clients["bo"]
		synctest.Wait()
		if h.follow(bo); bo.mode != protocol.ModeSampled {
			t.Errorf("bo comes into mode %s", bo.mode)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		h.follow(ana)
		seq, frames := ana.seq, ana.frames
		began := time.Now()
		for i := range 2000 {
			h.comes(fmt.Sprint("v", i), false)
			if i > 60 && i%2 == 0 {
				h.goes(fmt.Sprint("v", i/2-30))
			}
			time.Sleep(5 * time.Millisecond)
		}
		synctest.Wait()
		h.follow(ana)
		if most := int(5*time.Since(began)/time.Second) + 2; ana.frames-frames > most {
			t.Errorf("%d events in %v", ana.frames-frames, time.Since(began))
		}
		if ana.frames-frames < 20 || ana.largest > sampleSize || ana.seq <= seq {
			t.Errorf("%d events, the largest of %d users, from %d to %d", ana.frames-frames, ana.largest, seq, ana.seq)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if h.follow(ana); ana.count != h.count() {
			t.Errorf("the count is %d, it is %d", ana.count, h.count())
		}
		h.record(message(1, h.seq()+1, "zoe", "hi"))
		synctest.Wait()
		if h.follow(ana); ana.seq != h.seq() {
			t.Errorf("a message moves to %d, it is at %d", ana.seq, h.seq())
		}
		h.others = fullFrom - int64(len(h.users)) + 1
		h.goes("v1990")
		time.Sleep(time.Second)
		synctest.Wait()
		if h.follow(ana); ana.mode != protocol.ModeFull || ana.seq != h.seq() || ana.count != fullFrom {
			t.Errorf("mode %s at %d of %d, count %d", ana.mode, ana.seq, h.seq(), ana.count)
		}
	})
}

// Who takes a place over in a very large room, or comes back to it, causes no entry by
// which the feed would count: it is told the mode all the same, whatever the feed has had by
// the time of its answer, and so is everybody else; but not before the room is that large.
func TestFeed_gather_sampledAsItComes(t *testing.T) {
	const crowd = sampledFrom + 1
	moves := moved(1, 7, "ana", "s-old", "s-ana", crowd)
	for name, test := range map[string]struct {
		bo     int64             // seq where somebody else came to the feed, when it was not known how many there are
		before []roomstore.Event // delivered before the answer that ana is in at seq 7
		after  []roomstore.Event
		want   []string
		heard  []string // by bo
	}{
		"nothing has come": {0, nil, nil, []string{"R mode sampled #7"}, nil},
		"its own event":    {0, []roomstore.Event{moves}, nil, []string{"R mode sampled #7"}, nil},
		"not yet":          {6, nil, nil, nil, nil},
		"its own event comes later": {6, nil, []roomstore.Event{moves},
			[]string{"R mode sampled #7"}, []string{"R mode sampled #7"}},
		"an entry comes before that": {5, nil, []roomstore.Event{joined(1, 6, "cy", 90), moves},
			[]string{"R mode sampled #7"}, []string{"R +cy 90 #6", "R mode sampled #7"}},
		"a message that follows": {7, []roomstore.Event{message(1, 8, "zoe", "hi")}, nil,
			[]string{"R mode sampled #7", "R zoe: hi #8"}, []string{"R zoe: hi #8", "R mode sampled #8"}},
		"who left since": {7, []roomstore.Event{left(1, 8, "zoe", 90, roomstore.ReasonLeft)}, nil,
			[]string{"R -zoe 90 #8"}, []string{"R -zoe 90 #8"}},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, st *stage) {
				var bo *wire
				if test.bo > 0 {
					_, bo = st.admit("bo", entry(1, test.bo))
					bo.briefs(t)
				}
				st.deliver(test.before...)
				e := entry(1, 7)
				e.Entered, e.Count = 2, crowd
				_, ana := st.admit("ana", e)
				st.deliver(test.after...)
				time.Sleep(time.Second)
				synctest.Wait()
				expect(t, ana, append([]string{"R connected success 1.7"}, test.want...)...)
				if bo != nil {
					expect(t, bo, test.heard...)
				}
			})
		})
	}
}

// How large a room is counts where that was so: once, and not in another life of the room.
func TestFeed_gather_sampledThen(t *testing.T) {
	crowded := entry(1, 7)
	crowded.Count = sampledFrom + 1
	play(t, func(t *testing.T, st *stage) {
		st.admit("bo", entry(1, 6))
		_, ana := st.admit("ana", crowded)
		st.admit("cy", crowded)
		st.deliver(message(1, 7, "zoe", "hi"))
		expect(t, ana, "R connected success 1.7", "R mode sampled #7")
	})
	play(t, func(t *testing.T, st *stage) {
		st.admit("bo", entry(1, 6))
		_, ana := st.admit("ana", crowded)
		st.deliver(joined(2, 1, "zoe", 1))
		expect(t, ana, "R connected success 1.7", "R disconnected roomNotExist")
		_, cy := st.admit("cy", entry(2, 2))
		expect(t, cy, "R connected success 2.2")
	})
}

// Who asks about the room is told of each entry and departure by itself until it is
// answered, so that no event is of before and after the answer; nobody else is.
func TestFeed_gather_exactly(t *testing.T) {
	enterHall(t, 200, func(h *hall) {
		h.comes("ana", true)
		h.comes("bo", true)
		time.Sleep(time.Second)
		synctest.Wait()
		ana, bo := h.clients["ana"], h.clients["bo"]
		h.comes("first", false)
		h.comes("u1", false)
		h.comes("u2", false)
		h.goes("u1")
		synctest.Wait()
		h.follow(ana)
		frames := ana.frames
		answered := ana.s.exactly(room)
		synctest.Wait()
		if h.follow(ana); ana.frames != frames+1 || ana.seq != h.seq() {
			t.Errorf("asking brings %d frames up to %d of %d", ana.frames-frames, ana.seq, h.seq())
		}
		h.comes("u3", false)
		h.goes("u3")
		h.comes("u4", false)
		synctest.Wait()
		if h.follow(ana); ana.frames != frames+4 || ana.seq != h.seq() {
			t.Errorf("while it asks %d frames came up to %d of %d", ana.frames-frames, ana.seq, h.seq())
		}
		answered()
		h.comes("u5", false)
		synctest.Wait()
		h.follow(bo)
		if h.follow(ana); ana.frames != frames+4 || bo.frames != 1 {
			t.Errorf("after that it has %d frames, and somebody else %d", ana.frames-frames, bo.frames)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		h.follow(bo)
		if h.follow(ana); ana.frames != frames+5 || bo.frames != 2 || ana.count != h.count() {
			t.Errorf("in the end it has %d frames, and somebody else %d", ana.frames-frames, bo.frames)
		}
	})
}
