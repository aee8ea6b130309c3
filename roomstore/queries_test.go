package roomstore_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/roomstore"
)

// Queries are for members. They name the position that they belong to, and
// change nothing.
func TestStore_queries(t *testing.T) {
	type query struct {
		name string
		do   func(w *world, who roomstore.Session) (string, error)
		want string
	}
	queries := []query{
		{"count", func(w *world, who roomstore.Session) (string, error) {
			at, n, err := w.store.Count(w.ctx(), who, "a")
			return w.at(at) + " " + strconv.FormatInt(n, 10), err
		}, "#1:5 3"},
		{"members", func(w *world, who roomstore.Session) (string, error) {
			p, err := w.store.Members(w.ctx(), who, "a", "", 100)
			return w.at(p.Position) + " " + strings.Join(p.Members, ",") + " " + p.Next, err
		}, "#1:5 ana/a1,ben/b1,eve/e1 "},
		{"member info", func(w *world, who roomstore.Session) (string, error) {
			at, data, err := w.store.MemberInfo(w.ctx(), who, "a", []roomstore.UserID{"eve", "nobody", "ana"})
			return w.at(at) + " " + strings.Join(data, ","), err
		}, "#1:5 eve/e1,,ana/a1"},
		{"attributes", func(w *world, who roomstore.Session) (string, error) {
			at, attributes, err := w.store.Attributes(w.ctx(), who, "a")
			return fmt.Sprint(w.at(at), " ", valuesOf(attributes)), err
		}, "#1:5 map[]"},
		{"attributes of members", func(w *world, who roomstore.Session) (string, error) {
			at, found, err := w.store.MembersAttributes(w.ctx(), who, "a", []roomstore.UserID{"eve", "nobody", "ana"})
			return w.at(at) + memberText(found), err
		}, "#1:5"},
	}
	var rows []row
	all := given(inRoom("ana", "a"), inRoom("fay", "a"), inRoom("ben", "a"), inRoom("eve", "a"),
		func(w *world) { w.leave(w.s("f1"), "a") })
	for _, q := range queries {
		as := func(id roomstore.SessionID) func(w *world) (string, error) {
			return func(w *world) (string, error) {
				before := w.dump()
				text, err := q.do(w, w.s(id))
				if err == nil {
					w.unchanged(before)
				}
				return text, err
			}
		}
		rows = append(rows,
			row{name: q.name, given: all, do: as("b1"), want: q.want},
			row{name: q.name + ", not in it", given: given(all, func(w *world) { w.leave(w.s("b1"), "a") }), do: as("b1"), err: roomstore.ErrNotMember},
			row{name: q.name + ", another device is in it", given: given(all, func(w *world) { w.login("ana", "a2") }), do: as("a2"), err: roomstore.ErrNotMember},
			row{name: q.name + ", no such room", given: loggedIn("ana"), do: as("a1"), err: roomstore.ErrNoRoom},
			row{
				name: q.name + ", past its deadline", given: given(emptied("a", 9), func(w *world) { w.expire("a") }), drops: true,
				do: as("a1"), err: roomstore.ErrNoRoom, heard: []string{"a#1:3 ended emptied", "destroyed a#1 emptied"},
			},
		)
	}
	run(t, rows)
}

// A roll is who is in a room, in the order of their entry, by its events.
type roll struct {
	seq     int64
	members []rollMember
}

type rollMember struct {
	user    roomstore.UserID
	entered int64
	data    string
}

// apply takes in the next event.
func (r *roll) apply(e roomstore.Event) {
	r.seq = e.Seq
	i := slices.IndexFunc(r.members, func(m rollMember) bool { return m.user == e.User })
	switch e.Kind {
	case roomstore.KindJoined:
		r.members = append(r.members, rollMember{e.User, e.Seq, e.Data})
	case roomstore.KindLeft:
		r.members = slices.Delete(r.members, i, i+1)
	case roomstore.KindMoved:
		r.members[i].data = e.Data
	}
}

// page is what a page after an entry has to be.
func (r *roll) page(after int64, count int) (data []string, last int64, more bool) {
	for _, m := range r.members {
		switch {
		case m.entered <= after:
		case len(data) == count:
			return data, last, true
		default:
			data, last = append(data, m.data), m.entered
		}
	}
	return data, last, false
}

// A walk is the pages of a member list, from the first to the last.
type walk struct {
	count int
	pages []roomstore.Page
}

// next asks for the next page, and says whether that was the last.
func (wk *walk) next(w *world, who roomstore.Session, room roomstore.RoomID) bool {
	w.Helper()
	cursor := ""
	if n := len(wk.pages); n > 0 {
		cursor = wk.pages[n-1].Next
	}
	p, err := w.store.Members(w.ctx(), who, room, cursor, wk.count)
	w.must(err)
	if wk.pages = append(wk.pages, p); len(wk.pages) > 1000 {
		w.Fatal("the walk does not end")
	}
	return p.Next == ""
}

// checkWalks holds every page against the room as its events tell it at the
// page's position, and every walk against who was there for all of it.
func checkWalks(t *testing.T, events []roomstore.Event, walks []*walk) {
	t.Helper()
	type step struct {
		walk  *walk
		index int
	}
	at := map[int64][]step{}
	for _, wk := range walks {
		for i, p := range wk.pages {
			at[p.Seq] = append(at[p.Seq], step{wk, i})
		}
	}
	stays := map[*walk]map[string]bool{} // users there since the walk began
	passed := map[*walk]map[string]bool{}
	open := map[*walk]bool{}
	var now roll
	done := 0
	for _, e := range events {
		if e.Kind == roomstore.KindCommand {
			continue
		}
		now.apply(e)
		for wk := range open {
			switch e.Kind {
			case roomstore.KindLeft:
				delete(stays[wk], string(e.User))
			case roomstore.KindJoined:
				passed[wk][string(e.User)] = true
			}
		}
		for _, s := range at[e.Seq] {
			wk, p, after := s.walk, s.walk.pages[s.index], int64(0)
			if s.index == 0 {
				open[wk], stays[wk], passed[wk] = true, map[string]bool{}, map[string]bool{}
				for _, m := range now.members {
					stays[wk][string(m.user)], passed[wk][string(m.user)] = true, true
				}
			} else {
				_, seq, _ := strings.Cut(wk.pages[s.index-1].Next, ":")
				after, _ = strconv.ParseInt(seq, 10, 64)
			}
			want, last, more := now.page(after, wk.count)
			next := ""
			if more {
				next = fmt.Sprintf("%d:%d", e.Epoch, last)
			}
			if !slices.Equal(p.Members, want) || p.Next != next || p.Epoch != e.Epoch {
				t.Errorf("page of %d after %d at %+v:\ngot  %q, next %q\nwant %q, next %q", wk.count, after, p.Position, p.Members, p.Next, want, next)
			}
			if s.index == len(wk.pages)-1 {
				delete(open, wk)
				checkWalk(t, wk, stays[wk], passed[wk])
				done++
			}
		}
	}
	if done != len(walks) {
		t.Errorf("of %d walks %d were in the events", len(walks), done)
	}
}

// checkWalk: those who stayed were seen once, and nobody who was not there.
func checkWalk(t *testing.T, wk *walk, stays, passed map[string]bool) {
	t.Helper()
	seen := map[string]int{}
	for _, p := range wk.pages {
		for _, data := range p.Members {
			user, _, _ := strings.Cut(data, "/")
			seen[user]++
			if !passed[user] {
				t.Errorf("%s was seen and never there", user)
			}
		}
	}
	for user := range stays {
		if seen[user] != 1 {
			t.Errorf("%s was there all the while and was seen %d times", user, seen[user])
		}
	}
}

// listen gathers the events of a room from now on. all gives those up to a seq.
func (w *world) listen(room roomstore.RoomID) (all func(seq int64) []roomstore.Event) {
	w.Helper()
	sub := w.rdb.Subscribe(w.ctx(), w.store.Topic(room))
	if _, err := sub.Receive(w.ctx()); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { sub.Close() })
	var events []roomstore.Event
	return func(seq int64) []roomstore.Event {
		w.Helper()
		for len(events) == 0 || events[len(events)-1].Seq < seq {
			m, err := sub.ReceiveMessage(w.ctx())
			w.must(err)
			e, err := roomstore.DecodeEvent(m.Payload)
			w.must(err)
			events = append(events, e)
		}
		return events
	}
}

// queriesSeed is where the random tests of queries begin: ROOMGATE_TEST_SEED
// if that is set.
func queriesSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("ROOMGATE_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ROOMGATE_TEST_SEED=%d", seed)
	return seed
}

// A full walk over the pages gives everyone who was there for the whole walk,
// once, in the order of entry, whatever joins and leaves meanwhile; and each
// page is the room as it was at its position.
func TestStore_Members_walk(t *testing.T) {
	contract(t, roomstore.Config{MaxDevices: 1000}, func(w *world) {
		r := rand.New(rand.NewPCG(queriesSeed(w.T), 0))
		all := w.listen("a")
		who := ana(w)
		w.enter(who, "a")
		// Users are in the room for their newest session or not at all.
		const users = 40
		in, newest, sessions := map[int]bool{}, map[int]roomstore.Session{}, 0
		user := func(i int) roomstore.UserID { return roomstore.UserID("u" + strconv.Itoa(i)) }
		begin := func(i int) roomstore.Session {
			sessions++
			newest[i] = w.loginOn("n1", user(i), roomstore.SessionID("s"+strconv.Itoa(sessions)), "")
			return newest[i]
		}
		done := map[string]int{}
		do := func(i int, what string) {
			w.Helper()
			switch done[what]++; what {
			case "enter":
				w.enter(begin(i), "a")
			case "switch to":
				w.enter(begin(i), "b")
				_, err := w.change(newest[i], "b", roomstore.EntryRequest{Room: "a"})
				w.must(err)
			case "leave":
				w.leave(newest[i], "a")
			case "switch away":
				_, err := w.change(newest[i], "a", roomstore.EntryRequest{Room: "b"})
				w.must(err)
				w.leave(newest[i], "b")
			case "kick":
				w.must(w.store.Kick(w.ctx(), "a", user(i), ""))
			case "evict":
				w.park(newest[i], time.Second)
				w.pass(2 * time.Second)
				w.sweep("n1")
			case "move":
				w.enter(begin(i), "a")
			}
			in[i] = what == "enter" || what == "switch to" || what == "move"
		}
		entries, others := []string{"enter", "enter", "switch to"}, []string{"leave", "switch away", "kick", "evict", "move"}
		for i := range users / 2 {
			do(i, "enter")
		}
		var over, under []*walk
		enough := 30
		if w.mini != nil {
			enough = 8 // the embedded one is slow
		}
		for len(over) < enough || len(done) < 7 {
			if i := r.IntN(users); r.IntN(2) == 0 {
				kinds := entries
				if in[i] {
					kinds = others
				}
				do(i, kinds[r.IntN(len(kinds))])
				continue
			}
			if len(under) < 3 {
				under = append(under, &walk{count: 1 + r.IntN(12)})
			}
			i := r.IntN(len(under))
			if under[i].next(w, who, "a") {
				over = append(over, under[i])
				under = slices.Delete(under, i, i+1)
			}
		}
		last := &walk{count: 100}
		last.next(w, who, "a")
		over = append(over, last)
		checkWalks(w.T, all(last.pages[0].Seq), over)
		w.Logf("there were %d walks while these happened: %v", len(over), done)
	})
}

// A page goes on from any cursor that a page of this life of the room has given,
// whatever became of the member it ended with. Any other is refused.
func TestStore_Members_cursor(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		who := ana(w)
		w.enter(who, "a", "b")
		for i := range 6 {
			w.enter(w.login(roomstore.UserID("u"+strconv.Itoa(i)), roomstore.SessionID("u"+strconv.Itoa(i))), "a", "b")
		}
		page := func(room roomstore.RoomID, cursor string, count int) roomstore.Page {
			t.Helper()
			p, err := w.store.Members(w.ctx(), who, room, cursor, count)
			w.must(err)
			return p
		}
		first := page("a", "", 3)
		if want := []string{"ana/a1", "u0/u0", "u1/u1"}; !slices.Equal(first.Members, want) || first.Next == "" {
			t.Errorf("got %q, next %q, want %q and more", first.Members, first.Next, want)
		}
		w.leave(w.s("u1"), "a") // whose entry the cursor names
		w.leave(w.s("u2"), "a") // who would have come next
		for range 2 {           // as often as one likes
			if p := page("a", first.Next, 2); !slices.Equal(p.Members, []string{"u3/u3", "u4/u4"}) || p.Next == "" {
				t.Errorf("got %q, next %q, want u3, u4 and more", p.Members, p.Next)
			}
		}
		// A page that ends with the last member is the last, full or not.
		for _, count := range []int{3, 4, 100} {
			if p := page("a", first.Next, count); len(p.Members) != 3 || p.Next != "" {
				t.Errorf("of %d: got %q, next %q, want three and no more", count, p.Members, p.Next)
			}
		}
		for _, id := range []roomstore.SessionID{"u3", "u4", "u5"} {
			w.leave(w.s(id), "a")
		}
		if p := page("a", first.Next, 1); len(p.Members) != 0 || p.Next != "" {
			t.Errorf("after all have gone: got %q, next %q", p.Members, p.Next)
		}

		epoch, head := strconv.FormatInt(first.Epoch, 10), page("a", "", 1).Seq
		ahead := fmt.Sprintf("%s:%d", epoch, head)
		page("a", ahead, 1)
		refused := func(what, cursor string) {
			t.Helper()
			_, err := w.store.Members(w.ctx(), who, "a", cursor, 3)
			if !errors.Is(err, roomstore.ErrBadID) || !roomstore.Refused(err) || len(err.Error()) > 500 {
				t.Errorf("%s: got %.600v, want a refusal that is fit to show", what, err)
			}
		}
		refused("another room's", page("b", "", 3).Next)
		refused("ahead of the room", fmt.Sprintf("%s:%d", epoch, head+1))
		for _, bad := range []string{
			"x", "1", "3", epoch, ":", epoch + ":", ":3", epoch + ":0", epoch + ":-1", epoch + ":+3", epoch + ":03", "0" + epoch + ":3",
			"+" + epoch + ":3", "-" + epoch + ":3", epoch + ": 3", epoch + ":3 ", epoch + ":3:3", epoch + ":3\x00", epoch + ":3.5", epoch + ":3e0",
			epoch + ":0x3", epoch + ":inf", epoch + ":nan", epoch + ":9223372036854775807", epoch + ":9223372036854775808", "0:3",
			"\x00", "\"", "(3", "+inf", strings.Repeat("9", 60_000), epoch + ":" + strings.Repeat("3", 60_000), "\xff", "３:３",
		} {
			refused(strconv.Quote(bad[:min(len(bad), 40)]), bad)
		}

		before := first.Next
		w.must(w.store.Destroy(w.ctx(), "a"))
		_, err := w.store.Members(w.ctx(), who, "a", before, 3)
		w.refused(err, roomstore.ErrNoRoom)
		w.enter(w.s("u0"), "a")
		_, err = w.store.Members(w.ctx(), who, "a", before, 3)
		w.refused(err, roomstore.ErrNotMember)
		w.enter(who, "a")
		for i := range 5 {
			w.enter(w.s(roomstore.SessionID("u"+strconv.Itoa(i))), "a")
		}
		refused("an earlier life's", before)
	})
}

// What users say of themselves does not make a page larger than a connection
// may hold: it has fewer members then, at least one, and the walk goes on.
func TestStore_Members_bytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false, roomstore.Config{})
	enter := func(user roomstore.UserID, size int) roomstore.Session {
		who := w.login(user, roomstore.SessionID(user))
		_, err := w.try(who, roomstore.EntryRequest{Room: "a", Data: string(user) + "/" + strings.Repeat("x", size-len(user)-1)})
		w.must(err)
		return who
	}
	const most = 256 << 10
	who := enter("ana", 100)
	for i, size := range []int{most - 100, 1, most + 1, most, 1, 1, most / 2, most / 2, 1, most * 3, 1} {
		enter(roomstore.UserID(string(rune('b'+i))), max(size, 2))
	}
	for _, tt := range []struct {
		count int
		want  []int
	}{
		{100, []int{2, 1, 1, 1, 3, 2, 1, 1}},
		{2, []int{2, 1, 1, 1, 2, 2, 1, 1, 1}},
		{1, slices.Repeat([]int{1}, 12)},
	} {
		wk := &walk{count: tt.count}
		for !wk.next(w, who, "a") && len(wk.pages) < 20 {
		}
		var got []int
		var users []string
		for i, p := range wk.pages {
			got = append(got, len(p.Members))
			size := 0
			for _, data := range p.Members {
				user, _, _ := strings.Cut(data, "/")
				users = append(users, user)
				size += len(data)
			}
			if size > most && len(p.Members) > 1 {
				t.Errorf("page %d of %d has %d bytes", i, tt.count, size)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("pages of %d: got sizes %v, want %v", tt.count, got, tt.want)
		}
		if want := "ana b c d e f g h i j k l"; strings.Join(users, " ") != want {
			t.Errorf("pages of %d: got %q, want %s", tt.count, users, want)
		}
	}
}

// oddAttributes are such as no protocol of ours gives a meaning to.
var oddAttributes = map[string]string{
	"topic": "golden", "empty": "", "\x00": "\x00\x00", "a\x00b": "\r\n", `"`: `{"k":["\\"]}`, "é": "日本語 🎉", "0": "1e400", " ": "\u2028",
	"__proto__": "nil", "KEYS[1]": "%z", "\xff": "\xfe",
}

// Attributes are those given at the room's creation, in whatever way it came
// about. Later entries are told them and do not change them, whatever they bring.
func TestStore_Attributes(t *testing.T) {
	other := map[string]string{"topic": "other", "new": "x"}
	enter := func(w *world, who roomstore.Session, mode roomstore.Mode, attributes map[string]string) roomstore.Entry {
		e, err := w.try(who, roomstore.EntryRequest{Room: "a", Mode: mode, Attributes: attributes, Delay: 60})
		w.must(err)
		return e
	}
	change := func(w *world, who roomstore.Session, attributes map[string]string) roomstore.Entry {
		w.enter(who, "b")
		e, _, err := w.store.Switch(w.ctx(), who, "b", roomstore.EntryRequest{
			Room: "a", Mode: roomstore.ModeEnter, Data: dataOf(who.User, who.ID), Attributes: attributes, Delay: 60,
		})
		w.must(err)
		return e
	}
	for name, create := range map[string]func(w *world, who roomstore.Session, attributes map[string]string) roomstore.Entry{
		"create": func(w *world, who roomstore.Session, attributes map[string]string) roomstore.Entry {
			return enter(w, who, roomstore.ModeCreate, attributes)
		},
		"enter": func(w *world, who roomstore.Session, attributes map[string]string) roomstore.Entry {
			return enter(w, who, roomstore.ModeEnter, attributes)
		},
		"switch": change,
	} {
		for what, attributes := range map[string]map[string]string{"some": oddAttributes, "none": {}} {
			t.Run(name+" with "+what, func(t *testing.T) {
				contract(t, roomstore.Config{}, func(w *world) {
					told := func(how string, e roomstore.Entry, err error) {
						t.Helper()
						w.must(err)
						if d := cmp.Diff(attributes, valuesOf(e.Attributes)); d != "" || len(e.Attributes) != len(attributes) {
							t.Errorf("%s is told %v (-want +got):\n%s", how, e.Attributes, d)
						}
						at, got, err := w.store.Attributes(w.ctx(), w.s("a1"), "a")
						w.must(err)
						if d := cmp.Diff(attributes, valuesOf(got)); d != "" || at != e.Position {
							t.Errorf("after %s, at %+v, want %+v (-want +got):\n%s", how, at, e.Position, d)
						}
					}
					who := ana(w)
					told("who creates", create(w, who, attributes), nil)
					told("who is in", enter(w, who, roomstore.ModeEnter, other), nil)
					told("who enters", enter(w, ben(w), roomstore.ModeEnter, other), nil)
					told("who joins", enter(w, eve(w), roomstore.ModeJoin, nil), nil)
					told("who switches", change(w, w.login("fay", "f1"), other), nil)
					told("another device", enter(w, w.login("ben", "b2"), roomstore.ModeEnter, other), nil)
					w.must(w.store.Destroy(w.ctx(), "a"))
					if e := enter(w, who, roomstore.ModeEnter, nil); len(e.Attributes) > 0 {
						t.Errorf("the next life has %v", e.Attributes)
					}
					if _, got, err := w.store.Attributes(w.ctx(), who, "a"); err != nil || len(got) > 0 {
						t.Errorf("the next life has %v (%v)", got, err)
					}
				})
			})
		}
	}
	for _, drop := range []bool{false, true} {
		t.Run(fmt.Sprintf("emptied, dropped %t", drop), func(t *testing.T) {
			contract(t, roomstore.Config{DropEmptiedData: drop}, func(w *world) {
				who := ana(w)
				enter(w, who, roomstore.ModeCreate, oddAttributes)
				w.leave(who, "a")
				e := enter(w, who, roomstore.ModeEnter, other)
				at, got, err := w.store.Attributes(w.ctx(), who, "a")
				w.must(err)
				want := oddAttributes
				if drop {
					want = map[string]string{}
				}
				if !maps.Equal(valuesOf(got), want) || !maps.Equal(valuesOf(e.Attributes), want) || at != e.Position || e.Created {
					t.Errorf("got %v, told %v, want %q", got, e.Attributes, want)
				}
			})
		})
	}
}

// tap keeps what a script was last called with.
type tap struct {
	mu    sync.Mutex
	calls map[string][]any // by hash: keys and arguments behind their number of keys
}

func (p *tap) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *tap) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		p.note(cmd)
		return next(ctx, cmd)
	}
}

func (p *tap) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			p.note(cmd)
		}
		return next(ctx, cmds)
	}
}

func (p *tap) note(cmd redis.Cmder) {
	if args := cmd.Args(); len(args) > 2 && strings.EqualFold(fmt.Sprint(args[0]), "evalsha") {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.calls[fmt.Sprint(args[1])] = args[2:]
	}
}

// source is a Redis that does nothing but keep the text of a script.
type source struct {
	redis.Scripter
	script string
}

func (s *source) Eval(ctx context.Context, script string, _ []string, _ ...any) *redis.Cmd {
	s.script = script
	return redis.NewCmd(ctx)
}

// commandsOf runs a script as it was last called, and gives the commands that
// it calls.
func (w *world) commandsOf(p *tap, script lua.Script) (commands [][]string) {
	w.Helper()
	text := script.Script
	if w.apart {
		text = script.Apart
	}
	var s source
	text.Eval(w.ctx(), &s, nil)
	p.mu.Lock()
	args := p.calls[text.Hash()]
	p.mu.Unlock()
	if args == nil {
		w.Fatalf("%s was not called", script.Name)
	}
	told, err := w.rdb.Do(w.ctx(), slices.Concat([]any{"eval", `
		local real, told = redis.call, {}
		local redis = { call = function(...)
			local command = {}
			for i, v in ipairs({ ... }) do command[i] = tostring(v) end
			told[#told + 1] = command
			return real(...)
		end }
		local function script() ` + s.script + `
		end
		script()
		return told`}, args)...).Slice()
	w.must(err)
	for _, one := range told {
		var command []string
		for _, word := range one.([]any) {
			command = append(command, word.(string))
		}
		commands = append(commands, command)
	}
	return commands
}

// work is what a command does at most, beside finding a key or a place in a
// sorted set: how many values it reads. What is not known here has no bound.
func work(command []string, attributes int) (n int, ok bool) {
	switch command[0] {
	case "GET", "TIME", "ZCARD", "HGET":
		return 1, true
	case "HMGET":
		return len(command) - 2, true
	case "HGETALL":
		return attributes, strings.Contains(command[1], ":attrs:")
	case "ZRANGEBYSCORE":
		// What an offset passes over is read, too.
		i := slices.Index(command, "LIMIT")
		if i < 0 || i+2 >= len(command) {
			return 0, false
		}
		offset, _ := strconv.Atoi(command[i+1])
		n, err := strconv.Atoi(command[i+2])
		return offset + n, err == nil && n >= 0
	}
	return 0, false
}

// A query does work for what it answers, and none for how many members there
// are or how far down the list it is.
func TestStore_queries_cost(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		if _, ok := w.rdb.(*redis.Client); !ok {
			w.Skip("what nodes of a Cluster are sent is not overheard")
		}
		p := &tap{calls: map[string][]any{}}
		w.rdb.AddHook(p)
		const attributes = 3
		who := ana(w)
		for _, room := range []roomstore.RoomID{"few", "many"} {
			_, err := w.try(who, roomstore.EntryRequest{Room: room, Attributes: map[string]string{"x": "1", "y": "2", "z": "3"}})
			w.must(err)
		}
		for i := range 10 {
			w.enter(w.login(roomstore.UserID("f"+strconv.Itoa(i)), roomstore.SessionID("f"+strconv.Itoa(i))), "few")
		}
		w.crowd(150, "many")
		type cost struct {
			Commands []string
			Work     int
		}
		measure := func(script lua.Script) (c cost) {
			t.Helper()
			for _, command := range w.commandsOf(p, script) {
				n, ok := work(command, attributes)
				if !ok {
					t.Errorf("%s: nothing bounds %q", script.Name, command)
				}
				c.Commands = append(c.Commands, command[0])
				c.Work += n
			}
			return c
		}
		const count = 4
		far := ""
		for range 30 {
			page, err := w.store.Members(w.ctx(), who, "many", far, count)
			w.must(err)
			far = page.Next
		}
		queries := map[string]func(room roomstore.RoomID) (lua.Script, error){
			"page": func(room roomstore.RoomID) (lua.Script, error) {
				cursor := ""
				if room == "many" {
					cursor = far
				}
				page, err := w.store.Members(w.ctx(), who, room, cursor, count)
				if len(page.Members) != count || page.Next == "" {
					t.Errorf("got %q, next %q, want a page of %d and more", page.Members, page.Next, count)
				}
				return lua.Members, err
			},
			"count": func(room roomstore.RoomID) (lua.Script, error) {
				_, _, err := w.store.Count(w.ctx(), who, room)
				return lua.Count, err
			},
			"look up": func(room roomstore.RoomID) (lua.Script, error) {
				_, _, err := w.store.MemberInfo(w.ctx(), who, room, []roomstore.UserID{"ana", "u2", "nobody"})
				return lua.MemberInfo, err
			},
			"attributes": func(room roomstore.RoomID) (lua.Script, error) {
				_, _, err := w.store.Attributes(w.ctx(), who, room)
				return lua.Attributes, err
			},
		}
		for name, query := range queries {
			script, err := query("few")
			w.must(err)
			few := measure(script)
			_, err = query("many")
			w.must(err)
			many := measure(script)
			if d := cmp.Diff(few, many); d != "" {
				t.Errorf("%s (-few +many):\n%s", name, d)
			}
			// The term, the clock, the room, who asks; and for a page one more than
			// it has, twice: in the order, and what is said of each.
			if most := 12 + 2*(count+1); few.Work > most || len(few.Commands) > 6 {
				t.Errorf("%s reads %d values in %q, want at most %d in 6 commands", name, few.Work, few.Commands, most)
			}
		}
	})
}

// What a room keeps is there to be asked for until it is too old, though it is in Redis
// for longer.
func TestStore_Recent_age(t *testing.T) {
	contract(t, roomstore.Config{LogTTL: time.Minute}, func(w *world) {
		w.enter(ana(w), "a")
		for _, text := range []string{"one", "two", "three"} {
			_, err := sendAs("a1", text)(w)
			w.must(err)
		}
		w.hear()
		log := w.part("a") + "log:a"
		for i, age := range []time.Duration{2 * time.Minute, 50 * time.Second} {
			f := strings.Split(w.rdb.LIndex(w.ctx(), log, int64(i)).Val(), "\x00")
			f[3] = strconv.FormatInt(w.now().Add(-age).UnixMilli(), 10)
			text := strings.Join(f, "\x00")
			w.must(w.rdb.LSet(w.ctx(), log, int64(i), text).Err())
		}
		w.dropped = true
		recent, err := w.store.Recent(w.ctx(), w.s("a1"), "a", 10, 0)
		w.must(err)
		if len(recent.Messages) != 2 || recent.Messages[0].Data != "two" || recent.Messages[1].Data != "three" || recent.More {
			t.Errorf("got %+v", recent)
		}
		recent, err = w.store.Recent(w.ctx(), w.s("a1"), "a", 1, 3)
		w.must(err)
		if len(recent.Messages) != 1 || recent.Messages[0].Data != "two" || recent.More {
			t.Errorf("below the third there are %+v", recent)
		}
	})
}
