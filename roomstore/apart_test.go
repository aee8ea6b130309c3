package roomstore_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/roomstore"
)

// oneSlot fails a test if a call names keys of two hash slots.
type oneSlot struct{ t testing.TB }

func (o oneSlot) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (o oneSlot) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (o oneSlot) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			for i, key := range keysOf(cmd) {
				if tag := tagOf(key); tag != tagOf(keysOf(cmd)[0]) {
					o.t.Errorf("key %d of a call is %q, the first is %q", i, key, keysOf(cmd)[0])
				}
			}
		}
		return next(ctx, cmds)
	}
}

// keysOf gives the keys of a call of a script; none for anything else.
func keysOf(cmd redis.Cmder) (keys []string) {
	args := cmd.Args()
	if name := fmt.Sprint(args[0]); len(args) < 3 || name != "evalsha" && name != "eval" {
		return nil
	}
	n, _ := strconv.Atoi(fmt.Sprint(args[2]))
	for _, key := range args[3 : 3+n] {
		keys = append(keys, fmt.Sprint(key))
	}
	return keys
}

// tagOf gives what Redis hashes of a key.
func tagOf(key string) string {
	_, tag, ok := strings.Cut(key, "{")
	if tag, _, closed := strings.Cut(tag, "}"); ok && closed && tag != "" {
		return tag
	}
	return key
}

var errDied = errors.New("the gateway is dead")

// mortal lets a number of calls of scripts through, and then nothing any more: it
// is a gateway that dies between two of them.
type mortal struct {
	mu    sync.Mutex
	left  int
	dying bool
}

func (m *mortal) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (m *mortal) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (m *mortal) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		m.mu.Lock()
		through := len(cmds)
		for i, cmd := range cmds {
			if len(keysOf(cmd)) == 0 {
				continue
			}
			if m.left == 0 {
				through, m.dying = i, true
				break
			}
			m.left--
		}
		m.mu.Unlock()
		if through == len(cmds) {
			return next(ctx, cmds)
		}
		if through > 0 {
			next(ctx, cmds[:through])
		}
		for _, cmd := range cmds[through:] {
			cmd.SetErr(errDied)
		}
		return errDied
	}
}

// dies gives a store of the deployment that lets so many calls through.
func (w *world) dies(calls int) (*roomstore.Store, *mortal) {
	w.Helper()
	m := &mortal{left: calls}
	return roomstore.New(runBatcher(w.T, w.hooked(m), w.batcher()), w.cfg), m
}

// hooked gives a client of its own, with a hook.
func (w *world) hooked(hook redis.Hook) redis.UniversalClient {
	w.Helper()
	if cluster, ok := w.rdb.(*redis.ClusterClient); ok {
		rdb := redis.NewClusterClient(cluster.Options())
		rdb.OnNewNode(func(node *redis.Client) { node.AddHook(hook) })
		w.Cleanup(func() { rdb.Close() })
		return rdb
	}
	rdb := redis.NewClient(w.rdb.(*redis.Client).Options())
	rdb.AddHook(hook)
	w.Cleanup(func() { rdb.Close() })
	return rdb
}

// An operation that is several calls.
type steps struct {
	name  string
	cfg   roomstore.Config
	given func(w *world) // ana has the session a1 on n1
	do    func(s *roomstore.Store, w *world) error
	over  bool // the session may be over then
	lone  bool // nothing else happens between its calls
}

var operations = []steps{
	{name: "enter", do: func(s *roomstore.Store, w *world) error {
		_, err := s.Enter(w.ctx(), w.s("a1"), roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "1", Data: "ana/a1"})
		return err
	}},
	{name: "enter at the user's limit", cfg: roomstore.Config{MaxRoomsPerUser: 2}, given: func(w *world) {
		w.enter(w.s("a1"), "c")
		w.must(w.store.Destroy(w.ctx(), "c"))
	}, do: func(s *roomstore.Store, w *world) error {
		_, err := s.Enter(w.ctx(), w.s("a1"), roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "1", Data: "ana/a1"})
		return err
	}},
	{name: "create", cfg: roomstore.Config{MaxRooms: 3, Partitions: 2}, do: func(s *roomstore.Store, w *world) error {
		_, err := s.Enter(w.ctx(), w.s("a1"), roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "1", Data: "ana/a1"})
		return err
	}},
	{name: "create in the place of a room that has ended", lone: true, cfg: roomstore.Config{MaxRooms: 2, Partitions: 2}, given: func(w *world) {
		w.enter(w.s("a1"), "c")
		w.must(w.store.Destroy(w.ctx(), "c"))
	}, do: func(s *roomstore.Store, w *world) error {
		_, err := s.Enter(w.ctx(), w.s("a1"), roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "1", Data: "ana/a1"})
		return err
	}},
	{name: "create beyond the room limit", lone: true, cfg: roomstore.Config{MaxRooms: 2, Partitions: 2}, given: func(w *world) { w.enter(w.s("a1"), "c") },
		do: func(s *roomstore.Store, w *world) error {
			_, err := s.Enter(w.ctx(), w.s("a1"), roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "1", Data: "ana/a1"})
			return err
		}},
	{name: "a switch that creates", cfg: roomstore.Config{MaxRooms: 2, Partitions: 2}, do: func(s *roomstore.Store, w *world) error {
		_, _, err := s.Switch(w.ctx(), w.s("a1"), "a", roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "1", Data: "ana/a1"})
		return err
	}},
	{name: "a switch beyond the room limit", lone: true, cfg: roomstore.Config{MaxRooms: 1, Partitions: 2}, do: func(s *roomstore.Store, w *world) error {
		_, _, err := s.Switch(w.ctx(), w.s("a1"), "a", roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "1", Data: "ana/a1"})
		return err
	}},
	{name: "an entry that is refused", do: func(s *roomstore.Store, w *world) error {
		_, err := s.Enter(w.ctx(), w.s("a1"), roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "none", RequestKey: "1", Data: "ana/a1"})
		return err
	}},
	{name: "enter where another device is", given: func(w *world) { w.enter(w.login("ana", "a2"), "b") },
		do: func(s *roomstore.Store, w *world) error {
			_, err := s.Enter(w.ctx(), w.s("a1"), roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "1", Data: "ana/a1"})
			return err
		}},
	{name: "leave", do: func(s *roomstore.Store, w *world) error {
		_, err := s.Leave(w.ctx(), w.s("a1"), "a", "1")
		return err
	}},
	{name: "kick", do: func(s *roomstore.Store, w *world) error { return s.Kick(w.ctx(), "a", "ana", "") }},
	{name: "switch", do: func(s *roomstore.Store, w *world) error {
		_, _, err := s.Switch(w.ctx(), w.s("a1"), "a", roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "1", Data: "ana/a1"})
		return err
	}},
	{name: "a switch that is refused", do: func(s *roomstore.Store, w *world) error {
		_, _, err := s.Switch(w.ctx(), w.s("a1"), "a", roomstore.EntryRequest{Mode: roomstore.ModeJoin, Room: "b", RequestKey: "1", Data: "ana/a1"})
		return err
	}},
	{name: "leaveall", given: func(w *world) { w.enter(w.s("a1"), "b", "c") }, do: func(s *roomstore.Store, w *world) error {
		_, err := s.LeaveAll(w.ctx(), w.s("a1"), "1", false)
		return err
	}},
	{name: "logout", given: func(w *world) { w.enter(w.s("a1"), "b", "c") }, over: true, do: func(s *roomstore.Store, w *world) error {
		_, err := s.LeaveAll(w.ctx(), w.s("a1"), "1", true)
		return err
	}},
	{name: "park", given: func(w *world) { w.enter(w.s("a1"), "b", "c") }, do: func(s *roomstore.Store, w *world) error {
		return s.Park(w.ctx(), w.s("a1"), 20*time.Second)
	}},
	{name: "resume", given: func(w *world) { w.enter(w.s("a1"), "b", "c") }, do: func(s *roomstore.Store, w *world) error {
		_, _, _, err := s.Resume(w.ctx(), "n1", "ana", "a1", []roomstore.RoomID{"none"})
		return err
	}},
	{name: "login of the same device", over: true, given: func(w *world) { w.enter(w.s("a1"), "b") }, do: func(s *roomstore.Store, w *world) error {
		_, err := s.Login(w.ctx(), "n1", "ana", "a9", "phone")
		return err
	}},
	{name: "login of one too many", cfg: roomstore.Config{MaxDevices: 1}, over: true, given: func(w *world) { w.enter(w.s("a1"), "b") },
		do: func(s *roomstore.Store, w *world) error {
			_, err := s.Login(w.ctx(), "n1", "ana", "a9", "")
			return err
		}},
	{name: "a sweep that ends a session", over: true, given: func(w *world) {
		w.enter(w.s("a1"), "b")
		w.park(w.s("a1"), time.Second)
		w.pass(2 * time.Second)
	}, do: func(s *roomstore.Store, w *world) error {
		_, err := s.Sweep(w.ctx(), "n1", nil)
		return err
	}},
}

// dieAnywhere runs a test for each operation and each number of its calls after
// which the gateway, n1, is dead.
func dieAnywhere(t *testing.T, test func(t *testing.T, w *world, op steps)) {
	t.Parallel()
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			for calls := 0; ; calls++ {
				died := true
				ok := t.Run(fmt.Sprintf("dead after %d calls", calls), func(t *testing.T) {
					cfg := op.cfg
					cfg.Partitions, cfg.Apart = cmp.Or(cfg.Partitions, 16), true
					w := newWorldOn(t, redistest.New(t), nil, cfg)
					w.lease("n1")
					w.loginOn("n1", "ana", "a1", "phone")
					w.enter(w.s("a1"), "a")
					if op.given != nil {
						op.given(w)
					}
					store, m := w.dies(calls)
					err := op.do(store, w)
					if died = m.dying; !died && err != nil && !roomstore.Refused(err) {
						t.Fatal(err)
					}
					w.forget()
					test(t, w, op)
				})
				if !ok || !died {
					if calls < 2 {
						t.Errorf("it was %d calls", calls)
					}
					return
				}
			}
		})
	}
}

// Wherever a gateway dies, if nobody comes back nothing of its sessions is left when
// their time is over.
func TestApart_dead_nobodyReturns(t *testing.T) {
	dieAnywhere(t, func(t *testing.T, w *world, _ steps) {
		end := w.leaseEnd("n1")
		w.pass(30 * time.Second)
		w.lease("n2")
		for range 4 {
			if _, err := w.store.Sweep(w.ctx(), "n2", []roomstore.Lapse{{Node: "n1", End: end}}); err != nil {
				t.Fatal(err)
			}
			w.pass(time.Minute)
			w.lease("n2")
		}
		w.forget()
		w.nothingLeft()
	})
}

// Wherever an operation is given up by a gateway that goes on, and abandons the
// sessions that it may concern, nothing of them is left when their time is over.
func TestApart_givenUp(t *testing.T) {
	dieAnywhere(t, func(t *testing.T, w *world, _ steps) {
		for _, id := range []roomstore.SessionID{"a1", "a2", "a9"} {
			who, there, err := w.store.Attached(w.ctx(), roomstore.Session{User: "ana", ID: id, Node: "n1"})
			w.must(err)
			if there {
				w.must(w.store.Park(w.ctx(), who, time.Second))
			}
		}
		for range 4 {
			w.pass(time.Minute)
			w.lease("n1")
			w.sweep("n1")
		}
		w.forget()
		w.nothingLeft()
	})
}

// A session that is over, and whose places nobody has come to yet, is not begun again:
// they would be taken from it.
func TestApart_Login_over(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, redistest.New(t), nil, roomstore.Config{Partitions: 16, Apart: true})
	w.lease("n1")
	w.loginOn("n1", "ana", "a1", "")
	w.enter(w.s("a1"), "a")
	store, _ := w.dies(1) // the user's slot has it, the room's does not
	store.Park(w.ctx(), w.s("a1"), time.Second)
	w.pass(2 * time.Second)
	w.lease("n1")
	for calls := 1; len(w.sessionsOf("ana")) > 0; calls++ {
		store, m := w.dies(calls)
		store.Sweep(w.ctx(), "n1", nil)
		if !m.dying {
			t.Fatal("the session is not over")
		}
	}
	if got := w.rdb.HGet(w.ctx(), w.part("a")+"info:a", "ana").Val(); !strings.Contains(got, "a1") {
		t.Fatalf("its place is %q", got)
	}
	_, err := w.store.Login(w.ctx(), "n1", "ana", "a1", "")
	w.refused(err, roomstore.ErrFenced)
	w.pass(time.Minute)
	w.lease("n1")
	w.sweep("n1")
	w.forget()
	w.nothingLeft()
	w.loginOn("n1", "ana", "a1", "")
}

// Wherever a gateway dies, a session that comes back to another one is in the rooms
// that it is told, and in no others; and a switch has happened or has not.
func TestApart_dead_returns(t *testing.T) {
	dieAnywhere(t, func(t *testing.T, w *world, op steps) {
		named := []roomstore.RoomID{"a", "b"}
		who, back, ok, err := w.store.Resume(w.ctx(), "n2", "ana", "a1", named)
		w.must(err)
		if !ok {
			if !op.over {
				t.Fatal("the session is over")
			}
			return
		}
		w.sessions["a1"] = who
		in := map[roomstore.RoomID]bool{}
		for _, r := range back {
			in[r.Room] = r.In
		}
		for _, room := range []roomstore.RoomID{"a", "b", "c", "none"} {
			if state := w.state(room); strings.Contains(state, "ana/a1@") != in[room] || in[room] && !strings.Contains(state, " n2") {
				t.Errorf("told %t of %s, stored is %s", in[room], room, state)
			}
		}
		if strings.Contains(op.name, "switch") && in["a"] == in["b"] {
			t.Errorf("in a: %t, in b: %t", in["a"], in["b"])
		}
		w.forget()
		left, err := w.store.LeaveAll(w.ctx(), who, "", false)
		w.must(err)
		w.enter(who, "d")
		_, err = w.store.LeaveAll(w.ctx(), who, "", true)
		w.must(err)
		var rooms []roomstore.RoomID
		for _, d := range left {
			rooms = append(rooms, d.Room)
		}
		for room := range in {
			if in[room] != slices.Contains(rooms, room) {
				t.Errorf("left %q, in was %v", rooms, in)
			}
		}
		w.forget()
	})
}

// paused holds a call of a script up, after some have gone through, until it is let go.
type paused struct {
	mortal
	reached, goOn chan struct{}
	last          bool // that call is its last
}

func (p *paused) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		p.mu.Lock()
		stop := false
		for _, cmd := range cmds {
			if len(keysOf(cmd)) > 0 {
				if p.last && p.left < 0 {
					p.mu.Unlock()
					cmd.SetErr(errDied)
					return errDied
				}
				stop = stop || p.left == 0
				p.left--
			}
		}
		p.mu.Unlock()
		if stop {
			close(p.reached)
			<-p.goOn
		}
		return next(ctx, cmds)
	}
}

// meanwhile is what happens between two calls of an operation: another gateway, n2,
// or another device of ana.
var meanwhile = []steps{
	{name: "resume", do: func(s *roomstore.Store, w *world) error {
		who, _, ok, err := s.Resume(w.ctx(), "n2", "ana", "a1", []roomstore.RoomID{"a", "b"})
		if ok {
			w.sessions["a1"] = who
		}
		return err
	}},
	{name: "resume, leave and enter again", do: func(s *roomstore.Store, w *world) error {
		who, _, ok, err := s.Resume(w.ctx(), "n2", "ana", "a1", nil)
		if !ok || err != nil {
			return err
		}
		w.sessions["a1"] = who
		if _, err := s.LeaveAll(w.ctx(), who, "50", false); err != nil {
			return err
		}
		for i, room := range []roomstore.RoomID{"a", "b"} {
			key := roomstore.RequestKey(strconv.Itoa(51 + i))
			_, err = s.Enter(w.ctx(), who, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: room, RequestKey: key, Data: "ana/a1"})
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "the same connection enters", do: func(s *roomstore.Store, w *world) error {
		for i, room := range []roomstore.RoomID{"a", "d"} {
			key := roomstore.RequestKey(strconv.Itoa(70 + i))
			_, err := s.Enter(w.ctx(), w.s("a1"), roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: room, RequestKey: key, Data: "ana/a1"})
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "park", do: func(s *roomstore.Store, w *world) error { return s.Park(w.ctx(), w.s("a1"), 20*time.Second) }},
	{name: "logout", do: func(s *roomstore.Store, w *world) error {
		_, err := s.LeaveAll(w.ctx(), w.s("a1"), "60", true)
		return err
	}},
	{name: "kick", do: func(s *roomstore.Store, w *world) error { return s.Kick(w.ctx(), "a", "ana", "") }},
	{name: "destroy", do: func(s *roomstore.Store, w *world) error { return s.Destroy(w.ctx(), "b") }},
	{name: "another device enters", do: func(s *roomstore.Store, w *world) error {
		who, err := s.Login(w.ctx(), "n2", "ana", "a5", "")
		if err != nil {
			return err
		}
		for _, room := range []roomstore.RoomID{"b", "a"} {
			_, err = s.Enter(w.ctx(), who, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: room, RequestKey: "1", Data: "ana/a5"})
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "the device logs in anew", do: func(s *roomstore.Store, w *world) error {
		_, err := s.Login(w.ctx(), "n2", "ana", "a6", "phone")
		return err
	}},
	{name: "the node is claimed", do: func(s *roomstore.Store, w *world) error {
		end := w.leaseEnd("n1")
		w.pass(11 * time.Second)
		w.lease("n2")
		_, err := s.Sweep(w.ctx(), "n2", []roomstore.Lapse{{Node: "n1", End: end}})
		return err
	}},
	{name: "the session's time is over", do: func(s *roomstore.Store, w *world) error {
		if err := s.Park(w.ctx(), w.s("a1"), time.Second); err != nil {
			return err
		}
		w.pass(2 * time.Second)
		_, err := s.Sweep(w.ctx(), "n2", nil)
		return err
	}},
}

// Whatever happens between two calls of an operation, each membership is known to
// its user's slot and to the node that has its session, and when all gateways have
// died and the time is over nothing is left.
func TestApart_meanwhile(t *testing.T) {
	t.Parallel()
	for _, op := range operations {
		if op.lone {
			continue
		}
		for _, other := range meanwhile {
			t.Run(op.name+", "+other.name, func(t *testing.T) {
				t.Parallel()
				for calls := 1; ; calls++ {
					reached := false
					ok := t.Run(fmt.Sprintf("after %d calls", calls), func(t *testing.T) {
						reached = between(t, op, other, calls)
					})
					if !ok || !reached {
						return
					}
				}
			})
		}
	}
}

// A switch that is held up, while who resumes the session finds it, has happened or
// never will: at whatever point of the finding it goes on.
func TestApart_switchFound(t *testing.T) {
	t.Parallel()
	for calls := 1; calls <= 6; calls++ {
		t.Run(fmt.Sprintf("after %d calls", calls), func(t *testing.T) {
			t.Parallel()
			w := newWorldOn(t, redistest.New(t), nil, roomstore.Config{Partitions: 16, Apart: true})
			w.loginOn("n1", "ana", "a1", "phone")
			w.enter(w.s("a1"), "a")
			old := w.s("a1")
			first, hold := w.holds(2)
			hold.last = true // it enters b, and dies
			switched := make(chan error, 1)
			go func() {
				_, _, err := first.Switch(w.ctx(), old, "a", roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "b", RequestKey: "1", Data: "ana/a1"})
				switched <- err
			}()
			<-hold.reached
			second, find := w.holds(calls)
			resumed := make(chan error, 1)
			go func() {
				who, _, _, err := second.Resume(w.ctx(), "n2", "ana", "a1", nil)
				w.sessions["a1"] = who
				resumed <- err
			}()
			<-find.reached
			close(hold.goOn)
			<-switched
			close(find.goOn)
			w.must(<-resumed)
			a, b := w.state("a"), w.state("b")
			if strings.Contains(a, "ana/a1@") == strings.Contains(b, "ana/a1@") {
				t.Errorf("stored of a: %s, of b: %s", a, b)
			}
		})
	}
}

// holds gives a store of the deployment that is held up after so many calls.
func (w *world) holds(calls int) (*roomstore.Store, *paused) {
	w.Helper()
	p := &paused{mortal: mortal{left: calls}, reached: make(chan struct{}), goOn: make(chan struct{})}
	return roomstore.New(runBatcher(w.T, w.hooked(p), w.batcher()), w.cfg), p
}

// between runs other between two calls of op, and says whether op has so many.
func between(t *testing.T, op, other steps, calls int) bool {
	cfg := op.cfg
	cfg.Partitions, cfg.Apart, cfg.LeaseTTL = cmp.Or(cfg.Partitions, 16), true, 10*time.Second
	w := newWorldOn(t, redistest.New(t), nil, cfg)
	w.lease("n1")
	w.lease("n2")
	w.loginOn("n1", "ana", "a1", "phone")
	w.enter(w.s("a1"), "a")
	if op.given != nil {
		op.given(w)
	}
	store, p := w.holds(calls)
	done := make(chan error, 1)
	go func() { done <- op.do(store, w) }()
	reached := true
	select {
	case <-p.reached:
		if err := other.do(w.store, w); err != nil && !roomstore.Refused(err) {
			t.Error(err)
		}
		close(p.goOn)
		if err := <-done; err != nil && !roomstore.Refused(err) {
			t.Error(err)
		}
	case err := <-done:
		reached = false
		if err != nil && !roomstore.Refused(err) {
			t.Error(err)
		}
	}
	w.check()
	ends := []roomstore.Lapse{{Node: "n1", End: w.endOf("n1")}, {Node: "n2", End: w.endOf("n2")}}
	w.pass(30 * time.Second)
	for range 4 {
		w.lease("n3")
		if _, err := w.store.Sweep(w.ctx(), "n3", ends); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
	}
	w.forget()
	w.nothingLeft()
	return reached
}

// endOf gives the end of a lease, 0 if there is none.
func (w *world) endOf(node string) int64 {
	return int64(w.rdb.ZScore(w.ctx(), w.nodes(), node).Val())
}
