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

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/roomstore"
)

// counter counts the scripts that a client calls.
type counter struct{ scripts atomic.Int64 }

func (c *counter) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if cmd.Name() == "evalsha" {
				c.scripts.Add(1)
			}
		}
		return next(ctx, cmds)
	}
}

// atOnce has calls wait for each other, so that they are sent in one pipeline, and
// says how many scripts they took.
func (w *world) atOnce(calls ...func(s *roomstore.Store)) int64 {
	w.Helper()
	one, ok := w.rdb.(*redis.Client)
	if !ok || w.apart {
		w.Skip("sessions go together on one Redis only")
	}
	rdb := redis.NewClient(one.Options())
	w.Cleanup(func() { rdb.Close() })
	var count counter
	rdb.AddHook(&count)
	b := roomstore.NewBatcher(rdb, roomstore.BatcherConfig{Lanes: 1, Timeout: time.Minute})
	store := roomstore.New(b, w.cfg)
	store.Adopt(w.store.Term())
	var wg sync.WaitGroup
	for i, call := range calls {
		wg.Go(func() { call(store) })
		eventually(w.T, func() bool { return b.Waiting() == i+1 })
	}
	defer start(w.T, b)()
	wg.Wait()
	return count.scripts.Load()
}

// Sessions whose sockets close, or that come back, at the same time do so in one
// script, and each as it would alone.
func TestStore_together(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		w.create(w.login("host", "h1"), "a", 60)
		w.enter(w.login("ana", "a1"), "a", "b")
		w.enter(w.loginOn("n2", "ben", "b1", ""), "a")
		w.enter(w.loginOn("n2", "cat", "c1", ""), "a")
		w.login("dan", "d1")
		w.enter(w.login("eve", "e1"), "a", "b")
		w.leave(w.s("e1"), "b")
		w.enter(w.loginOn("n2", "fox", "f1", ""), "a", "c")

		var mu sync.Mutex
		said := map[string]string{}
		note := func(who, what string) {
			mu.Lock()
			defer mu.Unlock()
			said[who] = what
		}
		park := func(id roomstore.SessionID, generation int64, left time.Duration) func(*roomstore.Store) {
			return func(s *roomstore.Store) {
				who := w.s(id)
				who.Generation += generation
				note(fmt.Sprint(id, " for ", left), fmt.Sprint(s.Park(w.ctx(), who, left)))
			}
		}
		if n := w.atOnce(park("a1", 0, time.Minute), park("d1", 0, time.Minute), park("e1", 0, time.Minute),
			park("b1", -1, time.Minute), park("f1", 0, 0), park("d1", 0, time.Hour)); n != 1 {
			w.Errorf("parking took %d scripts", n)
		}
		fenced := "park %s: " + roomstore.ErrFenced.Error()
		want := map[string]string{
			"a1 for 1m0s": "<nil>", "b1 for 1m0s": fmt.Sprintf(fenced, "ben"), "d1 for 1m0s": "<nil>",
			"d1 for 1h0m0s": fmt.Sprintf(fenced, "dan"), "e1 for 1m0s": "<nil>", "f1 for 0s": "<nil>",
		}
		if d := cmp.Diff(want, said); d != "" {
			w.Errorf("parked (-want +got):\n%s", d)
		}
		if d := cmp.Diff([]string{"a1 parked"}, w.sessionsOf("ana")); d != "" {
			w.Error(d)
		}
		in := func(want states) {
			w.check()
			for room, text := range want {
				if got := w.state(room); got != text {
					w.Errorf("%s is %s, want %s", room, got, text)
				}
			}
		}
		in(states{
			"a": "#1:6 host/h1@1 n1 ana/a1@2 parked ben/b1@3 n2 cat/c1@4 n2 eve/e1@5 parked fox/f1@6 parked",
			"b": "#1:3 ana/a1@1 parked", "c": "#1:1 fox/f1@1 parked",
		})

		said = map[string]string{}
		back := func(user roomstore.UserID, id roomstore.SessionID, named ...roomstore.RoomID) func(*roomstore.Store) {
			return func(s *roomstore.Store) {
				who, rooms, ok, err := s.Resume(w.ctx(), "n1", user, id, named)
				what := fmt.Sprint(ok, err)
				if ok {
					if before := w.s(id); who.Generation <= before.Generation || who.Node != "n1" {
						what += " " + fmt.Sprint(who)
					}
				}
				for _, r := range rooms {
					what += fmt.Sprintf(" %s in=%t at %d since %d named=%t %s", r.Room, r.In, r.Seq, r.Entered, r.Named, r.Reason)
				}
				note(string(id), what)
			}
		}
		if n := w.atOnce(back("ana", "a1", "b"), back("ben", "b1"), back("dan", "d1", "a"), back("eve", "e1", "b", "a", "none"),
			back("fox", "f1", "a"), back("nobody", "x", "a")); n != 1 {
			w.Errorf("coming back took %d scripts", n)
		}
		want = map[string]string{
			"a1": "true <nil> a in=true at 6 since 2 named=false  b in=true at 3 since 1 named=true ",
			"b1": "true <nil> a in=true at 6 since 3 named=false ",
			"d1": "true <nil> a in=false at 0 since 0 named=true timeout",
			"e1": "true <nil> a in=true at 6 since 5 named=true  b in=false at 0 since 0 named=true left none in=false at 0 since 0 named=true noroom",
			"f1": "false <nil> a in=false at 0 since 0 named=true timeout",
			"x":  "false <nil> a in=false at 0 since 0 named=true timeout",
		}
		if d := cmp.Diff(want, said); d != "" {
			w.Errorf("came back (-want +got):\n%s", d)
		}
		in(states{
			"a": "#1:6 host/h1@1 n1 ana/a1@2 n1 ben/b1@3 n1 cat/c1@4 n2 eve/e1@5 n1 fox/f1@6 parked",
			"b": "#1:3 ana/a1@1 n1", "c": "#1:1 fox/f1@1 parked",
		})
	})
}

// Sessions that begin at the same time do so in one script, and each as it would alone:
// also those of one user, of which a later one sends an earlier one away.
func TestStore_together_logins(t *testing.T) {
	contract(t, roomstore.Config{MaxDevices: 2}, func(w *world) {
		phone := w.loginOn("n2", "ana", "a1", "phone")
		w.enter(phone, "a")
		var mu sync.Mutex
		began := map[roomstore.SessionID]roomstore.Session{}
		login := func(user roomstore.UserID, id roomstore.SessionID, device string) func(*roomstore.Store) {
			return func(s *roomstore.Store) {
				who, err := s.Login(w.ctx(), "n1", user, id, device)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					w.Errorf("%s: %v", id, err)
				}
				began[id] = who
			}
		}
		if n := w.atOnce(login("ana", "a2", "phone"), login("ben", "b1", ""), login("ben", "b2", ""), login("ben", "b3", ""),
			login("cat", "c1", "tv"), login("cat", "c2", "tv"), login("dan", "d1", ""), login("dan", "d1", "")); n != 1 {
			w.Errorf("logging in took %d scripts", n)
		}
		if began["b1"].Generation >= began["b2"].Generation || began["b2"].Generation >= began["b3"].Generation {
			w.Errorf("generations of one user's sessions: %v", began)
		}
		for user, want := range map[roomstore.UserID][]string{
			"ana": {"a2 n1"}, "ben": {"b2 n1", "b3 n1"}, "cat": {"c2 n1"}, "dan": {"d1 n1"},
		} {
			if d := cmp.Diff(want, w.sessionsOf(user)); d != "" {
				w.Errorf("sessions of %s (-want +got):\n%s", user, d)
			}
		}
		lost, err := w.store.Lost(w.ctx(), "n1", []roomstore.Session{began["b1"]})
		w.must(err)
		if lost["b1"] != roomstore.LossKicked {
			w.Errorf("b1 is lost as %q, want %q", lost["b1"], roomstore.LossKicked)
		}
		held, err := w.store.Held(w.ctx(), "", "other", "n1")
		w.must(err)
		if len(held) != 5 {
			w.Errorf("n1 has %v, want five sessions", held)
		}
		w.forget()
		w.check()
	})
}

// A session of which nothing can be read keeps those that are parked with it from
// nothing: they are evicted when they are due.
func TestStore_together_damaged(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		given(inRoom("ana", "a"), inRoom("ben", "a"), inRoom("cat", "a"))(w)
		info := w.part("a") + "info:a"
		whole := w.rdb.HGet(w.ctx(), info, "ben").Val()
		w.must(w.rdb.HSet(w.ctx(), info, "ben", "b1\x00").Err())
		park := func(id roomstore.SessionID) func(*roomstore.Store) {
			return func(s *roomstore.Store) { s.Park(w.ctx(), w.s(id), 0) }
		}
		w.atOnce(park("a1"), park("b1"), park("c1"))
		w.must(w.rdb.HSet(w.ctx(), info, "ben", whole).Err())
		w.sweep("n1")
		w.check()
		if got := w.state("a"); strings.Contains(got, "ana") || !strings.Contains(got, "ben") || strings.Contains(got, "cat") {
			w.Errorf("a is %s, want ben in it only", got)
		}
		if got := w.sessionsOf("ana"); len(got) != 0 {
			w.Errorf("ana has %q", got)
		}
	})
}

// Of sessions that come back together those come late that nobody waits for any
// more, and none comes to a node that has been given up.
func TestStore_together_refused(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		given(inRoom("ana", "a"), inRoom("ben", "a"))(w)
		w.park(w.s("a1"), time.Minute)
		w.park(w.s("b1"), time.Minute)
		w.giveUp("n7")
		before := w.state("a")
		back := func(id roomstore.SessionID) func(*roomstore.Store) {
			return func(s *roomstore.Store) {
				if _, _, _, err := s.Resume(w.ctx(), "n7", w.s(id).User, id, nil); !errors.Is(err, roomstore.ErrFenced) {
					w.Errorf("%s: got %v, want %v", id, err, roomstore.ErrFenced)
				}
			}
		}
		if n := w.atOnce(back("a1"), back("b1")); n != 1 {
			w.Errorf("they took %d scripts", n)
		}
		if after := w.state("a"); after != before {
			w.Errorf("got %s, want %s", after, before)
		}

		slot := func(user roomstore.UserID) string { return "u" + strconv.Itoa(w.hash(string(user))) }
		past := w.now().Add(-time.Hour).UnixMilli()
		reply, err := lua.Resume.Run(w.ctx(), w.rdb, []string{w.tag("0"), w.tag("0") + "term"},
			2, "n2", "ana", slot("ana"), "a1", past, "", "ben", slot("ben"), "b1", "", "", w.store.Term()).Slice()
		w.must(err)
		if late := reply[0].([]any); !slices.Equal(late, []any{"late"}) {
			w.Errorf("got %q, want that it is late", late)
		}
		if now := reply[1].([]any); now[0] != "ok" {
			w.Errorf("got %q, want that it goes on", now)
		}
		if after, want := w.state("a"), strings.Replace(before, "ben/b1@2 parked", "ben/b1@2 n2", 1); after != want {
			w.Errorf("got %s, want %s", after, want)
		}
	})
}

// What sessions do in rooms at the same time goes as one script, by operation, and each
// has its own outcome. What is about one room keeps its order.
func TestStore_together_rooms(t *testing.T) {
	contract(t, roomstore.Config{MaxMembers: 4, MaxRoomsPerUser: 2}, func(w *world) {
		w.create(w.login("ana", "a1"), "a", 60)
		w.enter(w.s("a1"), "b")
		w.enter(w.login("ben", "b1"), "a")
		for _, user := range []string{"cat", "dan", "eve", "fox"} {
			w.login(roomstore.UserID(user), roomstore.SessionID(user[:1]+"1"))
		}
		var mu sync.Mutex
		var said []string
		outcome := func(at roomstore.Position, err error) string {
			if op := (*roomstore.OpError)(nil); errors.As(err, &op) {
				return op.Err.Error()
			}
			return fmt.Sprint("#", at.Seq)
		}
		note := func(at int, what string) {
			mu.Lock()
			defer mu.Unlock()
			for len(said) <= at {
				said = append(said, "")
			}
			said[at] = what
		}
		n := 0
		calls := func(all ...func(s *roomstore.Store, i int)) (scripts int64) {
			said = nil
			var one []func(*roomstore.Store)
			for i, call := range all {
				one = append(one, func(s *roomstore.Store) { call(s, i) })
			}
			n = len(all)
			return w.atOnce(one...)
		}
		enter := func(id roomstore.SessionID, mode roomstore.Mode, room roomstore.RoomID, key string) func(*roomstore.Store, int) {
			return func(s *roomstore.Store, i int) {
				e, err := s.Enter(w.ctx(), w.s(id), roomstore.EntryRequest{Mode: mode, Room: room, RequestKey: roomstore.RequestKey(key),
					Data: string(w.s(id).User), Name: "of " + string(id), Attributes: map[string]string{"k" + string(id): "v\x001:"}})
				what := outcome(e.Position, err)
				if err == nil {
					what = fmt.Sprintf("%s count %d created %t again %t %s %v", what, e.Count, e.Created, e.Again, e.Name, e.Attributes)
				}
				note(i, what)
			}
		}
		send := func(id roomstore.SessionID, room roomstore.RoomID, key, text string) func(*roomstore.Store, int) {
			return func(s *roomstore.Store, i int) {
				m, err := s.Send(w.ctx(), w.s(id), roomstore.Message{Room: room, RequestKey: roomstore.RequestKey(key), ID: text, Payload: text})
				what := outcome(m.Position, err)
				if err == nil {
					what += fmt.Sprintf(" message %d %s", m.MessageSeq, m.ID)
				}
				note(i, what)
			}
		}
		leave := func(id roomstore.SessionID, room roomstore.RoomID, key string) func(*roomstore.Store, int) {
			return func(s *roomstore.Store, i int) {
				at, err := s.Leave(w.ctx(), w.s(id), room, roomstore.RequestKey(key))
				note(i, outcome(at, err))
			}
		}
		check := func(what string, scripts, wantScripts int64, want ...string) {
			w.Helper()
			if d := cmp.Diff(want, said[:n]); d != "" {
				w.Errorf("%s (-want +got):\n%s", what, d)
			}
			if scripts != wantScripts && w.parts == 1 { // else rooms are in several partitions
				w.Errorf("%s took %d scripts, want %d", what, scripts, wantScripts)
			}
			w.check()
		}

		scripts := calls(
			enter("c1", roomstore.ModeJoin, "a", "1"), enter("d1", roomstore.ModeEnter, "a", "1"), enter("e1", roomstore.ModeEnter, "a", "1"),
			enter("f1", roomstore.ModeJoin, "none", "1"), enter("f1", roomstore.ModeCreate, "b", "2"), enter("f1", roomstore.ModeCreate, "c", "3"),
			enter("a1", roomstore.ModeEnter, "c", "1"), enter("f1", roomstore.ModeCreate, "c", "3"))
		check("entering", scripts, 1,
			"#3 count 3 created false again false Room a []", "#4 count 4 created false again false Room a []", roomstore.ErrFull.Error(),
			roomstore.ErrNoRoom.Error(), roomstore.ErrExists.Error(), "#1 count 1 created true again false of f1 [{kf1 v\x001: fox false}]",
			roomstore.ErrUserLimit.Error(), "#1 count 1 created true again true of f1 [{kf1 v\x001: fox false}]")

		scripts = calls(send("a1", "a", "5", "one"), send("a1", "a", "6", "two"), send("b1", "a", "5", "of ben"), send("a1", "a", "5", "one, again"),
			send("a1", "a", "7", strings.Repeat("x", 20_000)), send("a1", "a", "8", "three"), send("e1", "a", "5", "no"), send("a1", "b", "9", "two"),
			send("a1", "none", "10", "no"), send("d1", "a", "1", "no"))
		check("speaking", scripts, 3,
			"#5 message 1 one", "#6 message 2 two", "#7 message 3 of ben", "#5 message 1 one", "#8 message 4 "+strings.Repeat("x", 20_000),
			"#9 message 5 three", roomstore.ErrNotMember.Error(), "#2 message 1 two", roomstore.ErrNoRoom.Error(), roomstore.ErrMisused.Error())

		relay := func(id roomstore.SessionID, room roomstore.RoomID, text string) func(*roomstore.Store, int) {
			return func(s *roomstore.Store, i int) {
				m, err := s.Relay(w.ctx(), w.s(id), roomstore.Message{Room: room, Priority: 1, ID: text, Payload: text})
				what := outcome(m.Position, err)
				if err == nil {
					what += fmt.Sprintf(" behind message %d %s", m.MessageSeq, m.ID)
				}
				note(i, what)
			}
		}
		scripts = calls(relay("a1", "a", "up"), relay("e1", "a", "no"), send("a1", "c", "30", "no"), send("a1", "a", "31", "four"),
			relay("a1", "b", "down"), relay("b1", "a", "down"))
		check("speaking, and not", scripts, 3,
			"#9 behind message 5 up", roomstore.ErrNotMember.Error(), roomstore.ErrNotMember.Error(), "#10 message 6 four",
			"#2 behind message 1 down", "#10 behind message 6 down")

		// What is about "a" begins anew behind each other kind; what is about "b" need not.
		scripts = calls(leave("d1", "a", "20"), enter("e1", roomstore.ModeEnter, "a", "20"), leave("c1", "a", "20"),
			leave("f1", "c", "20"), leave("f1", "c", "20"), leave("c1", "b", "21"), enter("f1", roomstore.ModeEnter, "b", "22"), leave("f1", "b", "23"))
		check("coming and going", scripts, 3,
			"#11", "#12 count 4 created false again false Room a []", "#13", "#2", "#2", roomstore.ErrNotMember.Error(),
			"#3 count 2 created false again false  []", "#4")
	})
}

// One room of which nothing can be read fails what is about it, and nothing of what goes
// together with that.
func TestStore_together_damagedRoom(t *testing.T) {
	contract(t, roomstore.Config{}, func(w *world) {
		given(inRoom("ana", "a"), inRoom("ben", "b"), inRoom("cat", "a"))(w)
		w.must(w.rdb.Set(w.ctx(), w.part("b")+"log:b", "no list", 0).Err())
		send := func(id roomstore.SessionID, room roomstore.RoomID, bad bool) func(*roomstore.Store) {
			return func(s *roomstore.Store) {
				_, err := s.Send(w.ctx(), w.s(id), roomstore.Message{Room: room, ID: "m", Payload: "x"})
				if bad != (err != nil && strings.Contains(err.Error(), "WRONGTYPE")) || !bad && err != nil {
					w.Errorf("%s in %s: got %v", id, room, err)
				}
			}
		}
		if n := w.atOnce(send("a1", "a", false), send("b1", "b", true), send("c1", "a", false)); n != 1 && w.parts == 1 {
			w.Errorf("they took %d scripts", n)
		}
		if got := w.rdb.LLen(w.ctx(), w.part("a")+"log:a").Val(); got != 2 {
			w.Errorf("%d messages are kept in a, want 2", got)
		}
		w.must(w.rdb.Del(w.ctx(), w.part("b")+"log:b").Err())
	})
}

// In a full Redis nobody enters or says anything, and all may go, whoever does so at the
// same time; and who is refused for another reason hears that.
func TestStore_together_memoryFull(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--maxmemory-policy", "noeviction")
	w := newWorldOn(t, srv.Client(t), nil, roomstore.Config{Partitions: 1})
	given(inRoom("ana", "a"), inRoom("ben", "a"), inRoom("cat", "a"))(w)
	w.login("dan", "d1")
	w.login("eve", "e1")
	var mu sync.Mutex
	said := map[string]string{}
	note := func(what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if op := (*roomstore.OpError)(nil); errors.As(err, &op) {
			err = op.Err
		}
		if errors.Is(err, roomstore.ErrMemory) {
			err = roomstore.ErrMemory
		}
		said[what] = fmt.Sprint(err)
	}
	enter := func(id roomstore.SessionID, mode roomstore.Mode) func(*roomstore.Store) {
		return func(s *roomstore.Store) {
			_, err := s.Enter(w.ctx(), w.s(id), roomstore.EntryRequest{Mode: mode, Room: "a", RequestKey: "7"})
			note(fmt.Sprint(id, " ", mode), err)
		}
	}
	send := func(id roomstore.SessionID) func(*roomstore.Store) {
		return func(s *roomstore.Store) {
			_, err := s.Send(w.ctx(), w.s(id), roomstore.Message{Room: "a", ID: "m", Payload: "x", RequestKey: "8"})
			note(string(id)+" send", err)
		}
	}
	leave := func(id roomstore.SessionID) func(*roomstore.Store) {
		return func(s *roomstore.Store) {
			_, err := s.Leave(w.ctx(), w.s(id), "a", "9")
			note(string(id)+" leave", err)
		}
	}
	w.must(w.rdb.ConfigSet(w.ctx(), "maxmemory", "1").Err())
	scripts := w.atOnce(send("a1"), send("d1"), send("b1"), enter("d1", roomstore.ModeEnter), enter("e1", roomstore.ModeCreate),
		enter("e1", roomstore.ModeJoin), leave("a1"), leave("e1"), leave("b1"))
	w.must(w.rdb.ConfigSet(w.ctx(), "maxmemory", "0").Err())
	full := roomstore.ErrMemory.Error()
	want := map[string]string{
		"a1 send": full, "d1 send": roomstore.ErrNotMember.Error(), "b1 send": full,
		"d1 enter": full, "e1 create": roomstore.ErrExists.Error(), "e1 join": full,
		"a1 leave": "<nil>", "e1 leave": roomstore.ErrNotMember.Error(), "b1 leave": "<nil>",
	}
	if d := cmp.Diff(want, said); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if scripts != 3 {
		t.Errorf("they took %d scripts", scripts)
	}
	if got := w.state("a"); strings.Contains(got, "ana") || strings.Contains(got, "ben") || !strings.Contains(got, "cat") {
		t.Errorf("a is %s, want cat in it only", got)
	}
	w.check()
}

// A Redis that takes no writes fails the connection as well, so that the client looks for
// another.
func TestStore_together_readOnly(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	w := newWorldOn(t, srv.Client(t), nil, roomstore.Config{Partitions: 1})
	given(inRoom("ana", "a"), inRoom("ben", "a"))(w)
	before := w.state("a")
	w.must(w.rdb.Do(w.ctx(), "REPLICAOF", "127.0.0.1", "1").Err())
	send := func(id roomstore.SessionID) func(*roomstore.Store) {
		return func(s *roomstore.Store) {
			_, err := s.Send(w.ctx(), w.s(id), roomstore.Message{Room: "a", ID: "m", Payload: "x", RequestKey: "8"})
			if err == nil || !strings.Contains(err.Error(), "READONLY ") {
				t.Errorf("%s: got %v", id, err)
			}
		}
	}
	if n := w.atOnce(send("a1"), send("b1")); n != 3 {
		t.Errorf("they took %d scripts, want one that fails and one each", n)
	}
	w.must(w.rdb.Do(w.ctx(), "REPLICAOF", "NO", "ONE").Err())
	if got := w.state("a"); got != before {
		t.Errorf("a is %s, want %s", got, before)
	}
}
