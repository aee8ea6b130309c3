package gateway

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomgate/roomgate/roomstore"
)

// stage is one room on a node of its own, in a bubble.
type stage struct {
	t   *testing.T
	bus *fakeBus
	hub *hub
	f   *feed

	history func(after roomstore.Position) (roomstore.History, error)
	head    roomstore.Position // that the store says the room is at
	asked   int                // times the store was
}

const room = roomstore.RoomID("R")

// play runs a test of a feed in a bubble.
func play(t *testing.T, test func(t *testing.T, st *stage)) {
	synctest.Test(t, func(t *testing.T) {
		st := &stage{t: t, bus: &fakeBus{}}
		st.hub = startHub(t, &fakeHistory{
			catchup: func(_ context.Context, _ roomstore.RoomID, after roomstore.Position) (roomstore.History, error) {
				var history func(roomstore.Position) (roomstore.History, error)
				st.calm(func() { history = st.history; st.asked++ })
				if history == nil {
					return roomstore.History{}, errors.New("the store is away")
				}
				return history(after)
			},
			positions: func() map[roomstore.RoomID]roomstore.Position {
				return map[roomstore.RoomID]roomstore.Position{room: st.head}
			},
		}, st.bus)
		st.f = st.open()
		test(t, st)
		synctest.Wait()
		st.hub.mu.Lock()
		defer st.hub.mu.Unlock()
		if users, want := st.f.users, len(st.f.members)+1; users != want {
			t.Errorf("the feed has %d users, want %d: its members and the test", users, want)
		}
	})
}

// knows sets the history that the store gives, as one that lacks nothing but
// the seqs named.
func (st *stage) knows(events []roomstore.Event, lost ...int64) {
	st.history = func(after roomstore.Position) (roomstore.History, error) {
		h := roomstore.History{Position: events[len(events)-1].Position, Complete: true}
	next:
		for _, e := range events {
			if e.Seq <= after.Seq {
				continue
			}
			for _, seq := range lost {
				if e.Seq == seq {
					h.Complete = false
					continue next
				}
			}
			h.Events = append(h.Events, e)
		}
		return h, nil
	}
}

// calm changes or reads what the store is asked for while the feed does nothing.
func (st *stage) calm(do func()) {
	st.f.mu.Lock()
	defer st.f.mu.Unlock()
	do()
}

func (st *stage) open() *feed {
	st.t.Helper()
	f, err := st.hub.open(st.t.Context(), room)
	if err != nil {
		st.t.Fatal(err)
	}
	return f
}

// deliver brings events to the feed, as the bus does.
func (st *stage) deliver(events ...roomstore.Event) {
	for _, e := range events {
		st.f.Deliver(envelope(e))
	}
	synctest.Wait()
}

// entry is what the store answers to an entry.
func entry(epoch, seq int64) roomstore.Entry {
	return roomstore.Entry{Position: at(epoch, seq), Entered: seq}
}

// admit makes a new session a member, and takes what it hears of that.
func (st *stage) admit(user string, e roomstore.Entry) (*session, *wire) {
	st.t.Helper()
	s, w := newSession(user, "s-"+user, 1)
	if !st.f.admitted(st, s, e) {
		st.t.Fatalf("%s was not admitted", user)
	}
	synctest.Wait()
	return s, w
}

// admitted is what enter does with the answer to an entry.
func (f *feed) admitted(st *stage, s *session, e roomstore.Entry) bool {
	st.open()
	ok := f.admit(s, e, func() { s.state(roomConnected(room, e.Position)) })
	if !ok {
		st.hub.close(f)
	}
	return ok
}

// Of several who enter a room that is new to the node, each has its events
// from its own entry on, in whatever order the answers come.
func TestFeed_admit_crossed(t *testing.T) {
	log := []roomstore.Event{
		joined(1, 5, "ana", 5), joined(1, 6, "bo", 6), message(1, 7, "zoe", "hi"), joined(1, 8, "cy", 7), message(1, 9, "zoe", "ho"),
	}
	ana := []string{"R connected success 1.5", "R +bo 6 #6", "R zoe: hi #7", "R +cy 7 #8", "R zoe: ho #9"}
	cy := []string{"R connected success 1.8", "R zoe: ho #9"}
	for arrived := range len(log) + 1 { // before the first answer
		for between := range len(log) + 1 - arrived {
			t.Run(fmt.Sprintf("%d then %d", arrived, between), func(t *testing.T) {
				play(t, func(t *testing.T, st *stage) {
					st.deliver(log[:arrived]...)
					_, c := st.admit("cy", entry(1, 8))
					st.deliver(log[arrived : arrived+between]...)
					_, a := st.admit("ana", entry(1, 5))
					st.deliver(log[arrived+between:]...)
					time.Sleep(time.Minute)
					expect(t, a, ana...)
					expect(t, c, cy...)
					if st.asked != 0 {
						t.Errorf("the store was asked %d times, want none", st.asked)
					}
				})
			})
		}
	}
}

// Whose answer comes so late that the feed has let go what followed its entry
// is not admitted, but comes in by what the store knows.
func TestFeed_admit_late(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		log := []roomstore.Event{joined(1, 1, "zoe", 1), joined(1, 2, "ana", 2)}
		for seq := int64(3); seq <= 700; seq++ {
			log = append(log, message(1, seq, "zoe", "x"))
		}
		st.knows(log)
		st.deliver(log...)
		st.admit("zoe", entry(1, 1)) // also what was early begins at the first entry
		s, w := newSession("ana", "s-ana", 1)
		if st.f.admitted(st, s, entry(1, 2)) {
			t.Fatal("admitted to a feed that has only the last events")
		}
		st.open()
		back := roomstore.Return{Room: room, In: true, Position: at(1, 2), Entered: 2}
		if err := st.f.rejoin(t.Context(), s, back, &sight{Position: back.Position}, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		got := w.briefs(t)
		if len(got) != 699 || got[0] != "R connected success 1.2" || got[1] != "R zoe: x #3" || got[698] != "R zoe: x #700" {
			t.Errorf("got %d messages, first %q", len(got), got[:min(3, len(got))])
		}
	})
}

// A missing event is asked for after a moment, however busy the room is.
func TestFeed_hole_busy(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		_, w := st.admit("ana", entry(1, 1))
		log := []roomstore.Event{joined(1, 1, "ana", 1)}
		for seq := int64(2); seq <= 100; seq++ {
			log = append(log, message(1, seq, "zoe", fmt.Sprint(seq)))
		}
		st.history = func(after roomstore.Position) (roomstore.History, error) {
			return roomstore.History{Position: at(1, 30), Events: log[after.Seq:30], Complete: true}, nil
		}
		for _, e := range log[2:] { // without the second
			st.deliver(e)
			time.Sleep(patience / 3)
		}
		if got := len(w.briefs(t)); got != 100 {
			t.Errorf("got %d messages, want all 100", got)
		}
		if st.asked != 1 {
			t.Errorf("the store was asked %d times, want once", st.asked)
		}
	})
}

// Answers that run ahead of their events, as they do in a busy room, make the
// feed ask the store for nothing.
func TestFeed_after_busy(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		s, w := st.admit("ana", entry(1, 1))
		for seq := int64(2); seq <= 50; seq++ {
			st.f.after("", at(1, seq), func() { s.c.queue(answerFrame(fmt.Sprint(seq))) })
			time.Sleep(patience / 2)
			st.deliver(message(1, seq, "zoe", "x"))
		}
		if st.asked != 0 {
			t.Errorf("the store was asked %d times", st.asked)
		}
		got := w.briefs(t)
		for i := 1; i+1 < len(got); i += 2 {
			if want := fmt.Sprintf("R zoe: x #%d", i/2+2); got[i] != want {
				t.Fatalf("got %q, want %q", got[i], want)
			}
			if want := fmt.Sprintf(`answer "%d"`, i/2+2); got[i+1] != want {
				t.Fatalf("got %q, want %q", got[i+1], want)
			}
		}
	})
}

// An answer that began to wait while the store was being asked, and for more
// than it then gave, is given all the same.
func TestFeed_after_whileFilling(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		s, w := st.admit("ana", entry(1, 1))
		asked, answer := make(chan struct{}, 1), make(chan struct{})
		heads := []int64{3, 5}
		st.history = func(after roomstore.Position) (roomstore.History, error) {
			asked <- struct{}{}
			<-answer
			h := roomstore.History{Position: at(1, heads[0]), Complete: true}
			heads = heads[1:]
			for seq := after.Seq + 1; seq <= h.Seq; seq++ {
				h.Events = append(h.Events, message(1, seq, "zoe", fmt.Sprint(seq)))
			}
			return h, nil
		}
		st.f.after("", at(1, 3), func() { s.c.queue(answerFrame("a")) })
		<-asked
		st.f.after("", at(1, 5), func() { s.c.queue(answerFrame("b")) })
		answer <- struct{}{}
		<-asked
		answer <- struct{}{}
		synctest.Wait()
		expect(t, w, "R connected success 1.1", "R zoe: 2 #2", "R zoe: 3 #3", `answer "a"`, "R zoe: 4 #4", "R zoe: 5 #5", `answer "b"`)
	})
}

// Where the store cannot be asked, an answer is given after a while without
// its events.
func TestFeed_after_storeAway(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		st.history = func(roomstore.Position) (roomstore.History, error) {
			time.Sleep(2 * time.Second)
			return roomstore.History{}, context.DeadlineExceeded
		}
		s, _ := st.admit("ana", entry(1, 1))
		began := time.Now()
		done := make(chan struct{})
		st.f.after("", at(1, 3), func() { close(done) })
		<-done
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("answered after %v", took)
		}
		s.detach()
	})
}

// What the store has been seen to have is fetched, also if it was seen while
// the feed did not know its position yet, or was asking already.
func TestFeed_compare(t *testing.T) {
	log := []roomstore.Event{joined(1, 1, "ana", 1), message(1, 2, "zoe", "two"), message(1, 3, "zoe", "three")}
	t.Run("entering", func(t *testing.T) {
		play(t, func(t *testing.T, st *stage) {
			st.knows(log)
			st.f.compare(at(1, 3)) // ana's entry is under way
			_, w := st.admit("ana", entry(1, 1))
			expect(t, w, "R connected success 1.1", "R zoe: two #2", "R zoe: three #3")
		})
	})
	t.Run("asking", func(t *testing.T) {
		play(t, func(t *testing.T, st *stage) {
			_, w := st.admit("ana", entry(1, 1))
			answer := make(chan int64)
			st.history = func(after roomstore.Position) (roomstore.History, error) {
				head := <-answer
				return roomstore.History{Position: at(1, head), Events: log[after.Seq:head], Complete: true}, nil
			}
			st.f.compare(at(1, 2))
			synctest.Wait()
			st.f.compare(at(1, 3)) // the third was lost while the store answered
			answer <- 2
			answer <- 3
			synctest.Wait()
			expect(t, w, "R connected success 1.1", "R zoe: two #2", "R zoe: three #3")
		})
	})
	t.Run("gone", func(t *testing.T) {
		play(t, func(t *testing.T, st *stage) {
			_, w := st.admit("ana", entry(1, 1))
			st.history = func(roomstore.Position) (roomstore.History, error) { return roomstore.History{}, roomstore.ErrNoRoom }
			st.f.compare(roomstore.Position{})
			synctest.Wait()
			expect(t, w, "R connected success 1.1")
			time.Sleep(st.hub.wait) // its end may be on its way
			synctest.Wait()
			expect(t, w, "R disconnected roomNotExist")
		})
	})
}

// A membership that ends while a request is about to end it is told by the
// request if that did it, and else as soon as that is known; never twice.
func TestFeed_leaving(t *testing.T) {
	over := errors.New("no answer")
	for _, tt := range []struct {
		name   string
		event  roomstore.Event
		answer error
		want   string
	}{
		{"left, answered", left(1, 2, "ana", 1, roomstore.ReasonLeft), nil, "R disconnected success"},
		{"left, not answered", left(1, 2, "ana", 1, roomstore.ReasonLeft), over, "R disconnected success"},
		{"destroyed, refused", destroyed(1, 2), over, "R disconnected roomNotExist"},
		{"kicked, refused", left(1, 2, "ana", 1, roomstore.ReasonKicked), over, "R disconnected kickedOut"},
		{"moved, refused", moved(1, 2, "ana", "s-ana", "other", 1), over, "R disconnected kickedOutByOtherDevice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(t *testing.T, st *stage) {
				s, w := st.admit("ana", entry(1, 1))
				d := s.departing(room)
				st.deliver(tt.event)
				if tt.answer == nil {
					if !d.agrees(t.Context(), at(1, 2)) {
						t.Error("still in the room")
					}
					d.tell()
				} else {
					d.stays()
				}
				st.deliver(message(1, 3, "zoe", "nothing follows"))
				synctest.Wait()
				expect(t, w, "R connected success 1.1", tt.want)
				if s.in(room) != nil {
					t.Error("the session still has the room")
				}
			})
		})
	}
}

// A request that did not end a membership after all leaves it as it was.
func TestFeed_leaving_stays(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		s, w := st.admit("ana", entry(1, 1))
		s.departing(room).stays()
		s.departing("another").stays()
		st.deliver(message(1, 2, "zoe", "hi"), left(1, 3, "ana", 1, roomstore.ReasonLeft), message(1, 4, "zoe", "ho"))
		expect(t, w, "R connected success 1.1", "R zoe: hi #2", "R disconnected success")
	})
}

// While a request that has said that it does not know finds out whether it has ended a
// membership, its event says so; but not how the membership ended if the room did. What
// is said is said once, whoever knows it first.
func TestFeed_leaving_doubted(t *testing.T) {
	const over, out = "R disconnected roomNotExist", "R disconnected success"
	for _, tt := range []struct {
		name        string
		event       roomstore.Event
		found       bool // that it has left
		first, last []string
	}{
		{"left", left(1, 2, "ana", 1, roomstore.ReasonLeft), true, []string{out}, nil},
		{"kicked", left(1, 2, "ana", 1, roomstore.ReasonKicked), false, []string{"R disconnected kickedOut"}, nil},
		{"room gone, left", destroyed(1, 2), true, nil, []string{out}},
		{"room gone, not left", destroyed(1, 2), false, nil, []string{over}},
	} {
		for _, early := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, " ", early), func(t *testing.T) {
				play(t, func(t *testing.T, st *stage) {
					s, w := st.admit("ana", entry(1, 1))
					expect(t, w, "R connected success 1.1")
					d := s.departing(room)
					if early {
						st.deliver(tt.event)
					}
					d.doubts()
					if !early {
						st.deliver(tt.event)
					}
					again := s.departing(room)
					synctest.Wait()
					expect(t, w, tt.first...)
					if tt.found {
						if !d.agrees(t.Context(), at(1, 2)) {
							t.Error("still in the room")
						}
						d.tell()
					} else {
						d.stays()
					}
					again.stays()
					synctest.Wait()
					expect(t, w, tt.last...)
					if s.in(room) != nil {
						t.Error("the session still has the room")
					}
				})
			})
		}
	}
}

// Of two tries of a departure that are under way the one that gives up leaves it to the
// other to say what has become of it: its answer comes first, or what was entered with it.
func TestFeed_leaving_twice(t *testing.T) {
	for _, early := range []bool{false, true} { // the event, before it gives up
		play(t, func(t *testing.T, st *stage) {
			s, w := st.admit("ana", entry(1, 1))
			one, other := s.departing(room), s.departing(room)
			event := left(1, 2, "ana", 1, roomstore.ReasonLeft)
			if early {
				st.deliver(event)
			}
			one.doubts()
			if !early {
				st.deliver(event)
			}
			one.stays()
			synctest.Wait()
			expect(t, w, "R connected success 1.1")
			other.tell()
			synctest.Wait()
			expect(t, w, "R disconnected success")
		})
	}
}

// How a membership ended is not said any more when its session has come again.
func TestFeed_leaving_again(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		s, w := st.admit("ana", entry(1, 1))
		d := s.departing(room)
		d.doubts()
		st.deliver(destroyed(1, 2))
		if !st.f.admitted(st, s, entry(2, 1)) {
			t.Fatal("not admitted")
		}
		d.stays()
		synctest.Wait()
		expect(t, w, "R connected success 1.1", "R connected success 2.1")
		if s.in(room) == nil {
			t.Error("the session does not have the room")
		}
	})
}

// Of two connections of one session the one that has it is the newer, whichever
// comes to the feed last.
func TestFeed_add_olderConnection(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		newer, w2 := newSession("ana", "s-ana", 2)
		st.open()
		back := roomstore.Return{Room: room, In: true, Position: at(1, 1), Entered: 1}
		st.knows([]roomstore.Event{joined(1, 1, "ana", 1)})
		if err := st.f.rejoin(t.Context(), newer, back, nil, nil); err != nil {
			t.Fatal(err)
		}
		older, _ := st.admit("ana", entry(1, 1)) // its answer was on the way
		older.detach()
		st.deliver(message(1, 2, "zoe", "hi"))
		expect(t, w2, "R connected success 1.1", "R zoe: hi #2")
	})
}

// Nothing that came after a session's departure is told to it when it comes
// back, and in what was before nothing is missing.
func TestFeed_rejoin_departed(t *testing.T) {
	for _, end := range []struct {
		event roomstore.Event
		want  string
	}{
		{left(1, 4, "ana", 1, roomstore.ReasonKicked), "R disconnected kickedOut"},
		{moved(1, 4, "ana", "s-ana", "other", 1), "R disconnected kickedOutByOtherDevice"},
	} {
		log := []roomstore.Event{
			joined(1, 1, "ana", 1), joined(1, 2, "zoe", 2), message(1, 3, "zoe", "before"),
			end.event, message(1, 5, "zoe", "after"), joined(1, 6, "bo", 2),
		}
		back := roomstore.Return{Room: room, In: true, Position: at(1, 3), Entered: 1}
		seen := at(1, 1)
		want := []string{"R connected success 1.1", "R +zoe 2 members #2", "R zoe: before #3", end.want}
		t.Run("from the store", func(t *testing.T) {
			play(t, func(t *testing.T, st *stage) {
				st.knows(log)
				s, w := newSession("ana", "s-ana", 2)
				st.open()
				if err := st.f.rejoin(t.Context(), s, back, &sight{Position: seen}, nil); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				expect(t, w, want...)
			})
		})
		t.Run("from the ring", func(t *testing.T) {
			play(t, func(t *testing.T, st *stage) {
				st.admit("bystander", entry(1, 1))
				st.deliver(log...)
				s, w := newSession("ana", "s-ana", 2)
				st.open()
				if err := st.f.rejoin(t.Context(), s, back, &sight{Position: seen}, nil); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				expect(t, w, want...)
				if st.asked != 0 {
					t.Errorf("the store was asked %d times", st.asked)
				}
			})
		})
	}
}

// A repeated entry whose room is gone, or in another life, is answered.
func TestFeed_rejoin_gone(t *testing.T) {
	for name, err := range map[string]error{"no room": roomstore.ErrNoRoom, "another life": roomstore.ErrEpoch, "newer here": nil} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, st *stage) {
				st.history = func(roomstore.Position) (roomstore.History, error) {
					return roomstore.History{Position: at(1, 3)}, err
				}
				if err == nil {
					st.admit("bystander", entry(2, 1))
				}
				s, w := newSession("ana", "s-ana", 1)
				st.open()
				back := roomstore.Return{Room: room, In: true, Position: at(1, 2), Entered: 2}
				say := func() { s.c.queue(answerFrame("a")) }
				if err := st.f.rejoin(t.Context(), s, back, &sight{Position: back.Position}, say); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				expect(t, w, `answer "a"`, "R disconnected roomNotExist")
			})
		})
	}
}

// Of who was put out of the room unnoticed, entered again and hears that the room is gone
// nothing is left: neither does an earlier membership bring it more.
func TestFeed_rejoin_goneAgain(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		s, w := st.admit("ana", entry(1, 4))
		st.history = func(roomstore.Position) (roomstore.History, error) { return roomstore.History{}, roomstore.ErrNoRoom }
		st.open()
		back := roomstore.Return{Room: room, In: true, Position: at(1, 9), Entered: 9}
		if err := st.f.rejoin(t.Context(), s, back, &sight{Position: back.Position}, func() { s.c.queue(answerFrame("a")) }); err != nil {
			t.Fatal(err)
		}
		st.deliver(message(1, 5, "zoe", "hi"))
		expect(t, w, "R connected success 1.4", `answer "a"`, "R disconnected roomNotExist")
	})
}

// A member that moved to another device is out, also if other events around
// its move are lost for good.
func TestFeed_lost_moved(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		_, w := st.admit("ana", entry(1, 1))
		_, z := st.admit("zoe", entry(1, 1))
		st.knows([]roomstore.Event{
			joined(1, 1, "ana", 1), message(1, 2, "bo", "lost"), moved(1, 3, "ana", "s-ana", "other", 1),
			message(1, 4, "bo", "lost"), message(1, 5, "bo", "kept"),
		}, 2, 4)
		st.f.compare(at(1, 5))
		synctest.Wait()
		expect(t, w, "R connected success 1.1", "R disconnected kickedOutByOtherDevice")
		expect(t, z, "R connected success 1.1", "R lost 1-4", "R bo: kept #5")
	})
}

// A command comes to those who had entered, at its place, once; one whose place
// is over is dropped.
func TestFeed_command(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		_, a := st.admit("ana", entry(1, 2))
		st.deliver(command(1, 4, "zoe", "ahead", 1), message(1, 3, "zoe", "three"), command(1, 3, "zoe", "now", 2), command(1, 3, "zoe", "now", 2))
		_, b := st.admit("bo", entry(1, 4))
		st.deliver(joined(1, 4, "bo", 3), command(1, 2, "zoe", "late", 3), command(1, 4, "ana", "own", 1))
		expect(t, a, "R connected success 1.2", "R zoe: three #3", "R zoe! now >3", "R +bo 3 #4", "R zoe! ahead >4")
		expect(t, b, "R connected success 1.4", "R zoe! ahead >4", "R ana! own >4")
		if n := st.hub.stats.CommandsLate.Load(); n != 1 {
			t.Errorf("got %d late commands, want 1", n)
		}
	})
}

// A room that is created again is another room: members of the first life hear
// of its end, those of the second nothing of the first.
func TestFeed_epochs(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		_, a := st.admit("ana", entry(1, 1))
		st.deliver(joined(2, 1, "bo", 1), message(2, 2, "zoe", "new"))
		_, b := st.admit("bo", entry(2, 1))
		st.deliver(destroyed(1, 2), message(1, 9, "zoe", "old"))
		_, c := st.admit("cy", entry(1, 5)) // its answer was on the way
		expect(t, a, "R connected success 1.1", "R disconnected roomNotExist")
		expect(t, b, "R connected success 2.1", "R zoe: new #2")
		expect(t, c, "R connected success 1.5", "R disconnected roomNotExist")
	})
}

// Feeds outlive their last member for a while, and then end.
func TestHub_linger(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		s, _ := st.admit("ana", entry(1, 1))
		s.detach()
		st.hub.close(st.f) // the stage's own
		time.Sleep(feedLinger / 2)
		if st.open() != st.f {
			t.Fatal("another feed")
		}
		st.hub.close(st.f)
		time.Sleep(feedLinger + 2*time.Second)
		if st.bus.handler("ch:R") != nil {
			t.Error("still subscribed")
		}
		old := st.f
		if st.f = st.open(); st.f == old {
			t.Error("the feed that ended was used again")
		}
	})
}

// Whoever waits for a subscription that fails tries one of its own, and none
// that fails is left over.
func TestHub_open_fails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := &fakeBus{wait: make(chan struct{}), refuse: errors.New("refused")}
		h := startHub(t, &fakeHistory{}, bus)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		results := make(chan error, 4)
		for range 3 {
			go func() { _, err := h.open(t.Context(), room); results <- err }()
		}
		go func() { _, err := h.open(ctx, room); results <- err }()
		time.Sleep(2 * time.Second) // the fourth, if it was not the first, gives up
		bus.mu.Lock()
		close(bus.wait)
		bus.wait = nil
		bus.mu.Unlock()
		failed := 0
		for range 4 {
			if err := <-results; err != nil {
				failed++
			}
		}
		if failed < 1 || failed > 2 {
			t.Errorf("%d of 4 failed, want the first, and the one that gave up", failed)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if f := h.feeds[room]; f == nil || f.users != 4-failed || len(h.feeds) != 1 {
			t.Errorf("got %+v", h.feeds)
		}
	})
}

// When the hub ends, answers that wait are given and nothing is left running.
func TestHub_run_ends(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		st.admit("ana", entry(1, 1))
		done := make(chan struct{})
		st.f.after("", at(1, 9), func() { close(done) })
		st.f.stop()
		<-done
	})
}

// A client that comes back more than once hears each change of members once,
// wherever its link was lost in between.
func TestMissed_twice(t *testing.T) {
	t.Parallel()
	ana := roomstore.Session{User: "ana", ID: "s-ana"}
	log := []roomstore.Event{
		left(1, 6, "cy", 1, roomstore.ReasonLeft), message(1, 7, "zoe", "hi"), joined(1, 8, "cy", 2), left(1, 9, "cy", 1, roomstore.ReasonLeft),
	}
	for _, tt := range []struct {
		what   string
		events []roomstore.Event
		known  int64
		want   []string
	}{
		{"first", log[:3], 5, []string{"R zoe: hi #7 members #8"}},
		{"again, after the message", log[2:], 8, []string{"R -cy 1 #9"}},
		{"again, before it", log, 8, []string{"R -cy 1 members #9", "R zoe: hi #7"}},
		{"all at once", log, 5, []string{"R -cy 1 members #9", "R zoe: hi #7"}},
		{"nothing of members", log[1:2], 6, []string{"R zoe: hi #7"}},
	} {
		w := newWire()
		for _, b := range missed(room, &member{s: &session{who: ana}}, tt.events, tt.known) {
			w.Write(b)
		}
		t.Run(tt.what, func(t *testing.T) { expect(t, w, tt.want...) })
	}
}

// After a gap of the subscription the node is not ready before every room has
// what it missed: neither while the store is asked where the rooms are, nor while
// it is asked for what they lack.
func TestHub_comparing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		where, what := make(chan struct{}), make(chan struct{})
		st := &stage{t: t, bus: &fakeBus{}}
		st.hub = startHub(t, &fakeHistory{
			positions: func() map[roomstore.RoomID]roomstore.Position {
				<-where
				return map[roomstore.RoomID]roomstore.Position{room: at(7, 3)}
			},
			catchup: func(_ context.Context, _ roomstore.RoomID, after roomstore.Position) (roomstore.History, error) {
				<-what
				return st.history(after)
			},
		}, st.bus)
		st.knows([]roomstore.Event{message(7, 2, "zoe", "two"), message(7, 3, "zoe", "three")})
		st.f = st.open()
		_, ana := st.admit("ana", entry(7, 1))
		ready := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if got := !st.hub.comparing(); got != want {
				t.Errorf("%s: ready is %t, want %t", when, got, want)
			}
		}
		ready("at first", true)
		st.f.Gap()
		ready("while positions are asked for", false)
		where <- struct{}{}
		ready("while events are asked for", false)
		what <- struct{}{}
		ready("when all have been handed on", true)
		expect(t, ana, "R connected success 7.1", "R zoe: two #2", "R zoe: three #3")
	})
}

// Whether a departure stands that the store has answered is only certain once the
// feed has had it. If data is lost before, or the time is over, the store is asked
// again; what it says twice is so.
func TestDeparture_agrees(t *testing.T) {
	healed := func(st *stage, s *session) {
		st.f.settle(roomstore.Life{Position: at(2, 9), Base: 9, Lineage: ",1,"}, true)
	}
	for _, tt := range []struct {
		name  string
		do    func(st *stage, s *session) // while the first answer, 1.5, waits
		want  bool                        // of the first answer
		again roomstore.Position          // the second
		hears []string                    // in all
	}{
		{"its event comes", func(st *stage, s *session) {
			st.deliver(message(1, 4, "zoe", "hi"), left(1, 5, "ana", 1, roomstore.ReasonLeft))
		}, true, at(0, 0), []string{"R zoe: hi #4", "R disconnected success"}},
		{"its event was lost for good", func(st *stage, s *session) {
			st.calm(func() {
				st.knows([]roomstore.Event{message(1, 4, "zoe", "hi"), left(1, 5, "ana", 1, roomstore.ReasonLeft), message(1, 6, "zoe", "ho")}, 4, 5)
			})
			st.f.compare(at(1, 6))
		}, true, at(0, 0), []string{"R lost 3-5", "R disconnected success"}},
		{"it stands in the room's next epoch", healed, false, at(1, 5),
			[]string{"R connecting networkInterrupted", "R connected success 2.9", "R lost 0-9", "R disconnected success"}},
		{"it happens again there", func(st *stage, s *session) {
			healed(st, s)
			st.deliver(left(2, 10, "ana", 1, roomstore.ReasonLeft))
		}, false, at(2, 10), []string{"R connecting networkInterrupted", "R connected success 2.9", "R lost 0-9", "R disconnected success"}},
		{"the store never gets there", func(st *stage, s *session) {
			st.calm(func() { st.knows([]roomstore.Event{message(1, 4, "zoe", "hi")}) })
		}, false, at(1, 5), []string{"R zoe: hi #4", "R disconnected success"}},
		{"the room is gone", func(st *stage, s *session) { st.deliver(message(1, 4, "zoe", "hi"), destroyed(1, 5)) },
			true, at(0, 0), []string{"R zoe: hi #4", "R disconnected success"}},
		{"the request's time is over", func(st *stage, s *session) {
			st.calm(func() {
				st.history = func(roomstore.Position) (roomstore.History, error) {
					time.Sleep(time.Hour)
					return roomstore.History{}, roomstore.ErrNoRoom
				}
			})
		}, false, at(1, 5), []string{"R disconnected success"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(t *testing.T, st *stage) {
				s, w := st.admit("ana", entry(1, 3))
				expect(t, w, "R connected success 1.3")
				d := s.departing(room)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				began, first := time.Now(), make(chan bool)
				go func() { first <- d.agrees(ctx, at(1, 5)) }()
				synctest.Wait()
				tt.do(st, s)
				if got, took := <-first, time.Since(began); got != tt.want || took > 5*time.Second {
					t.Fatalf("agrees: %t after %v, want %t", got, took, tt.want)
				}
				if !tt.want && !d.agrees(ctx, tt.again) {
					t.Error("what the store says again is not so")
				}
				d.tell()
				st.deliver(message(1, 6, "zoe", "nothing follows"))
				if tt.again.Epoch == 2 || st.f.at.Epoch == 2 {
					st.deliver(message(2, 10, "zoe", "nothing follows"), message(2, 11, "zoe", "nothing follows"))
				}
				expect(t, w, tt.hears...)
				if s.in(room) != nil || len(st.f.members) > 0 {
					t.Error("the session still has the room")
				}
				time.Sleep(st.hub.wait) // nothing that waited comes later
				synctest.Wait()
				expect(t, w)
			})
		})
	}
}

// A departure whose request has been told that it is not known ends nothing any
// more: only its event does.
func TestDeparture_agrees_givenUp(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		s, w := st.admit("ana", entry(1, 3))
		d := s.departing(room)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if d.agrees(ctx, at(1, 5)) {
			t.Error("agrees before its time is over")
		}
		d.stays()
		st.deliver(message(1, 4, "zoe", "hi"), message(1, 5, "zoe", "ho"), left(1, 6, "ana", 1, roomstore.ReasonLeft))
		expect(t, w, "R connected success 1.3", "R zoe: hi #4", "R zoe: ho #5", "R disconnected success")
	})
}

// When a room is gone, and some of its last events with it, that is said.
func TestFeed_gone_missing(t *testing.T) {
	over := "R disconnected roomNotExist"
	for _, tt := range []struct {
		name   string
		events []roomstore.Event
		leaves int64             // seq that the answer to a departure waits for
		says   int64             // seq that the answer to a message waits for
		comes  []roomstore.Event // after the store has said that the room is gone
		hears  []string
	}{
		{name: "all had come", events: []roomstore.Event{message(1, 4, "zoe", "hi")}, hears: []string{"R zoe: hi #4", over}},
		{name: "late, and all of it", events: []roomstore.Event{message(1, 5, "zoe", "hi")}, leaves: 7,
			comes: []roomstore.Event{message(1, 4, "zoe", "ho"), message(1, 6, "zoe", "he"), destroyed(1, 7)},
			hears: []string{"R zoe: ho #4", "R zoe: hi #5", "R zoe: he #6", over}},
		{name: "late, and not all", events: []roomstore.Event{message(1, 6, "zoe", "hi")},
			comes: []roomstore.Event{message(1, 4, "zoe", "ho")}, hears: []string{"R zoe: ho #4", "R lost 4-6", over}},
		{name: "some before its end", events: []roomstore.Event{message(1, 5, "zoe", "hi"), destroyed(1, 6)}, hears: []string{"R lost 3-5", over}},
		{name: "some, and its end", events: []roomstore.Event{message(1, 5, "zoe", "hi"), message(1, 7, "zoe", "ho")}, hears: []string{"R lost 3-7", over}},
		{name: "before its own departure", leaves: 6, hears: []string{"R lost 3-5", over}},
		{name: "nothing before that", leaves: 4, hears: []string{over}},
		{name: "a message from here", says: 4, hears: []string{"R lost 3-4", over}},
		{name: "and the next life begins", events: []roomstore.Event{message(1, 5, "zoe", "hi")},
			comes: []roomstore.Event{joined(2, 1, "bo", 1)}, hears: []string{"R lost 3-5", over}},
	} {
		for _, anew := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", tt.name, anew), func(t *testing.T) {
				play(t, func(t *testing.T, st *stage) {
					st.history = func(roomstore.Position) (roomstore.History, error) {
						if anew { // the room has been created again
							return roomstore.History{Life: roomstore.Life{Position: at(2, 1)}}, roomstore.ErrEpoch
						}
						return roomstore.History{}, roomstore.ErrNoRoom
					}
					_, w := st.admit("ana", entry(1, 3))
					expect(t, w, "R connected success 1.3")
					st.deliver(tt.events...)
					if tt.leaves > 0 {
						st.f.wait(waiter{at: at(1, tt.leaves), out: true, do: func() {}})
					}
					if tt.says > 0 {
						st.f.after("", at(1, tt.says), func() {})
					}
					if tt.name == "all had come" {
						st.f.compare(at(0, 0))
					}
					if tt.comes != nil {
						time.Sleep(st.hub.wait / 4)
						synctest.Wait()
						st.deliver(tt.comes...)
					}
					time.Sleep(st.hub.wait)
					synctest.Wait()
					expect(t, w, tt.hears...)
				})
			})
		}
	}
}

// What comes of a room's end while the store is asked about it is not lost, also if
// somebody enters the room's next life before the store has answered.
func TestFeed_gone_asking(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		answer := make(chan struct{})
		st.history = func(after roomstore.Position) (roomstore.History, error) {
			life := roomstore.Life{Position: at(2, 1)}
			if after.Epoch == 2 {
				return roomstore.History{Life: life, Position: life.Position, Complete: true}, nil
			}
			<-answer
			return roomstore.History{Life: life}, roomstore.ErrEpoch
		}
		_, a := st.admit("ana", entry(1, 3))
		st.f.compare(at(1, 5))
		st.deliver(message(1, 4, "zoe", "hi"), command(1, 4, "zoe", "ho", 1), message(1, 5, "zoe", "he"), destroyed(1, 6), joined(2, 1, "bo", 1))
		st.head = at(2, 1)
		st.open()
		bo, b := newSession("bo", "s-bo", 1)
		back := roomstore.Return{Room: room, In: true, Position: st.head, Entered: 1}
		if err := st.f.rejoin(t.Context(), bo, back, nil, func() { bo.state(roomConnected(room, st.head)) }); err != nil {
			t.Error(err)
		}
		close(answer)
		synctest.Wait()
		expect(t, a, "R connected success 1.3", "R zoe: hi #4", "R zoe! ho >4", "R zoe: he #5", "R disconnected roomNotExist")
		expect(t, b, "R connected success 2.1")
	})
}

// An epoch that was announced and then lost is forgotten, and the store is not
// asked about it on and on.
func TestFeed_epochLost(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		_, w := st.admit("ana", entry(1, 3))
		st.history = func(after roomstore.Position) (roomstore.History, error) {
			return roomstore.History{Life: roomstore.Life{Position: at(1, after.Seq)}, Position: at(1, after.Seq), Complete: true}, nil
		}
		st.deliver(message(2, 9, "zoe", "lost"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if st.asked > 3 {
			t.Errorf("the store was asked %d times in a minute", st.asked)
		}
		st.deliver(message(1, 4, "zoe", "hi"))
		expect(t, w, "R connected success 1.3", "R zoe: hi #4")
	})
}

// That a room was thought to be gone delays nothing in its next life.
func TestFeed_gone_next(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		st.history = func(roomstore.Position) (roomstore.History, error) { return roomstore.History{}, roomstore.ErrNoRoom }
		st.admit("ana", entry(1, 3))
		st.f.compare(at(0, 0))
		synctest.Wait()
		st.deliver(destroyed(1, 4))
		st.knows([]roomstore.Event{message(2, 2, "zoe", "hi"), message(2, 3, "zoe", "ho")})
		_, w := st.admit("bo", entry(2, 1))
		st.deliver(message(2, 3, "zoe", "ho"))
		time.Sleep(2 * patience)
		synctest.Wait()
		expect(t, w, "R connected success 2.1", "R zoe: hi #2", "R zoe: ho #3")
	})
}

// The repeat of an old departure does not end a membership that has begun since.
func TestDeparture_agrees_enteredSince(t *testing.T) {
	healed := []string{"R connecting networkInterrupted", "R connected success 2.9", "R lost 0-9"}
	for name, tt := range map[string]struct {
		entry roomstore.Entry
		heal  bool
		hears []string
	}{
		"before data was lost": {entry(1, 6), true, append([]string{"R connected success 1.6"}, healed...)},
		"in another life":      {entry(2, 3), false, []string{"R connected success 2.3"}},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, st *stage) {
				s, w := st.admit("ana", tt.entry)
				if tt.heal {
					st.f.settle(roomstore.Life{Position: at(2, 9), Base: 9, Lineage: ",1,"}, true)
				}
				d := s.departing(room)
				asked := 1
				for ; !d.agrees(t.Context(), at(1, 5)); asked++ {
					if asked == 2 {
						t.Error("want that the store is asked twice at most")
						break
					}
				}
				d.tell()
				next := st.f.at.Seq + 1
				st.deliver(message(2, next, "zoe", "hi"))
				expect(t, w, append(tt.hears, fmt.Sprintf("R zoe: hi #%d", next))...)
			})
		})
	}
}

// What an answer waits for is known of a room, though its event has not come: no
// other event may ever have that number.
func TestFeed_record_waiting(t *testing.T) {
	play(t, func(t *testing.T, st *stage) {
		st.history = func(roomstore.Position) (roomstore.History, error) {
			return roomstore.History{Position: at(1, 3), Complete: true}, nil
		}
		st.admit("ana", entry(1, 3))
		given := 0
		for _, seq := range []int64{7, 5} {
			st.f.after("", at(1, seq), func() { given++ })
		}
		st.f.after("", at(2, 20), func() { given++ }) // of another epoch, whose numbers are others
		known, ok := st.f.record("n")
		if !ok || known.Position != at(1, 7) {
			t.Errorf("got %v, %v, want 1.7", known.Position, ok)
		}
		st.f.doubt()
		if known, _ = st.f.record("n"); known.Position != at(1, 7) {
			t.Errorf("got %v, want 1.7 also if what comes is in doubt", known.Position)
		}
		// The store is further back: they do not wait for ever.
		time.Sleep(st.hub.wait + time.Second)
		synctest.Wait()
		var before, after int
		st.calm(func() { before = st.asked })
		if given != 3 {
			t.Errorf("%d of 3 answers were given", given)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		st.calm(func() { after = st.asked })
		if after > before {
			t.Errorf("the store is asked on and on, %d times a minute", after-before)
		}
	})
}
