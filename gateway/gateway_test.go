package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/gateway/auth"
	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/pubsub"
	"github.com/roomgate/roomgate/roomstore"
)

// gate is a hook of a Redis client that can keep the answers to a script from
// who waits for them, and have calls about one slot fail.
type gate struct {
	mu     sync.Mutex
	script string        // hash
	shut   chan struct{} // nil: open
	loses  bool          // answers to the script do not come, though others do
	away   string        // what the keys begin with of calls that fail; "" for none

	note func(script, key string) // if not nil, is told of each call: the hash, and the first key
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		g.mu.Lock()
		script, shut, loses, away, note := g.script, g.shut, g.loses, g.away, g.note
		g.mu.Unlock()
		through := make([]redis.Cmder, 0, len(cmds))
		for _, cmd := range cmds {
			args := cmd.Args()
			if note != nil && len(args) > 3 {
				note(fmt.Sprint(args[1]), fmt.Sprint(args[3]))
			}
			if away != "" && len(args) > 3 && strings.HasPrefix(fmt.Sprint(args[3]), away) {
				cmd.SetErr(errAway)
				if ctx.Value(connecting{}) != nil {
					cmd.SetErr(errElsewhere)
				}
				continue
			}
			through = append(through, cmd)
		}
		err := errAway
		if len(through) > 0 {
			err = next(ctx, through)
		}
		for _, cmd := range cmds {
			switch {
			case !slices.Contains(cmd.Args(), any(script)):
			case loses:
				cmd.SetErr(errAway)
				err = errAway
			case shut != nil:
				<-shut
			}
		}
		return err
	}
}

func (g *gate) close(s lua.Script) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.script = s.Hash()
	g.shut = make(chan struct{})
}

// lose has a script carried out and the answers to it lost, or come again.
func (g *gate) lose(s lua.Script, yes bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.script, g.loses = s.Hash(), yes
}

var errAway = errors.New("that slot is away")

// connecting is the key of what the context of a greeting on a new connection has. There
// a slot that is away is one of another master: calls about other slots may need a
// connection more at any time, and can have it.
type connecting struct{}

const errElsewhere = redisError("MOVED 1 192.0.2.1:6379")

// redisError is an error as Redis answers it.
type redisError string

func (e redisError) Error() string { return string(e) }
func (e redisError) RedisError()   {}

func (g *gate) setAway(prefix string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.away = prefix
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

// served is a gateway with its Redis.
type served struct {
	*Gateway
	t      testing.TB
	url    string
	rdb    *redis.Client // the test's own, for which there is no gate
	gate   *gate
	prefix string
	closes chan int // codes of connections that ended
}

// serve runs a gateway of the test's own.
func serve(t testing.TB, cfg Config) *served {
	t.Helper()
	rdb := redistest.New(t)
	return serveOn(t, cfg, rdb, rdb.Options().Addr)
}

// serveOn is serve on a Redis, whose events come from an address.
func serveOn(t testing.TB, cfg Config, own *redis.Client, events string) *served {
	t.Helper()
	return serveRooms(t, cfg, own, events, roomstore.Config{Partitions: 1})
}

// serveRooms is serveOn with rooms of some kind.
func serveRooms(t testing.TB, cfg Config, own *redis.Client, events string, rooms roomstore.Config) *served {
	t.Helper()
	s := &served{t: t, rdb: own, gate: &gate{}, prefix: redistest.Prefix(), closes: make(chan int, 1000)}
	terms := roomstore.NewTerms(s.prefix, rooms.Partitions)
	client := func(addr string) *redis.Client {
		o := redistest.Options(addr)
		o.OnConnect = func(ctx context.Context, c *redis.Conn) error {
			return terms.OnConnect(context.WithValue(ctx, connecting{}, true), c)
		}
		rdb := redis.NewClient(o)
		t.Cleanup(func() { rdb.Close() })
		return rdb
	}
	rdb := client(own.Options().Addr)
	rdb.AddHook(s.gate)
	calls := roomstore.NewBatcher(rdb, roomstore.BatcherConfig{})
	rooms.Prefix, rooms.MaxMembers, rooms.Terms = s.prefix, 100_000, terms
	store := roomstore.New(calls, rooms)
	bus := pubsub.New(client(events), pubsub.Config{})
	cfg.OnClose = func(code int) {
		select {
		case s.closes <- code:
		default:
		}
	}
	defaults(&cfg.DrainWindow, 100*time.Millisecond)
	s.Gateway = New(store, bus, auth.Dev{}, cfg)
	server := httptest.NewUnstartedServer(s.Handler())
	server.Listener = s.Listen(server.Listener)
	server.Start()
	s.url = "ws" + strings.TrimPrefix(server.URL, "http") + protocol.Path

	backing, release := context.WithCancel(context.Background())
	ctx, stop := context.WithCancel(context.Background())
	var back, run sync.WaitGroup
	back.Go(func() { calls.Run(backing) })
	back.Go(func() { bus.Run(backing) })
	run.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		s.gate.open()
		stop()
		run.Wait()
		server.Close()
		release()
		back.Wait()
		http.DefaultClient.CloseIdleConnections()
	})
	s.until("it has a lease", func() bool { return s.node() != "" })
	return s
}

// forLong is how long a test waits for what must come. It is long, since the
// machine may be busy, and costs nothing when all is well.
const forLong = 30 * time.Second

// until waits for a condition.
func (s *served) until(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(forLong)
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		if ok() {
			tick.Stop()
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("did not come about: %s", what)
		}
	}
}

// client is a bare client: it sends texts and hears texts.
type bare struct {
	t  testing.TB
	ws *websocket.Conn
	n  int
}

func (s *served) dial() *bare {
	s.t.Helper()
	ws, _, err := websocket.Dial(s.t.Context(), s.url, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	return &bare{t: s.t, ws: ws}
}

func (s *served) login(user string) *bare {
	s.t.Helper()
	c := s.dial()
	c.send(protocol.MethodLogin, `{"userID":"`+user+`"}`)
	c.hears(`answer 1`)
	return c
}

// send sends a request.
func (c *bare) send(method, params string) {
	c.t.Helper()
	c.n++
	c.text(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, c.n, method, params))
}

func (c *bare) text(s string) {
	c.t.Helper()
	if err := c.ws.Write(c.t.Context(), websocket.MessageText, []byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

// hear gives the next message; "" and an error when the connection has ended.
func (c *bare) hear() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), forLong)
	defer cancel()
	_, b, err := c.ws.Read(ctx)
	return string(b), err
}

// hears expects the next messages, made short; "*" stands for any number at
// the end of one.
func (c *bare) hears(want ...string) {
	c.t.Helper()
	for _, w := range want {
		text, err := c.hear()
		if err != nil {
			c.t.Fatalf("got %v, want %s", err, w)
		}
		got := brief(c.t, text)
		if head, open := strings.CutSuffix(w, "*"); got != w && !(open && strings.HasPrefix(got, head)) {
			c.t.Fatalf("got %s, want %s", got, w)
		}
	}
}

// ends expects the connection to be closed with a code.
func (c *bare) ends(want protocol.CloseCode) {
	c.t.Helper()
	for {
		text, err := c.hear()
		if err == nil {
			_ = text
			continue
		}
		if got := websocket.CloseStatus(err); got != websocket.StatusCode(want) {
			c.t.Errorf("closed with %d (%v), want %d", got, err, want)
		}
		return
	}
}

// A client that is cut off while its login is under way leaves no session
// behind: whoever logs in is parked when the socket is gone.
func TestConn_login_linkLost(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	c := s.dial()
	s.gate.close(lua.Login)
	c.send(protocol.MethodLogin, `{"userID":"ana"}`)
	s.until("the login is carried out", func() bool {
		n, err := s.rdb.Exists(t.Context(), s.key("user:ana")).Result()
		return err == nil && n == 1
	})
	c.ws.CloseNow()
	<-s.closes
	s.gate.open()
	s.until("its connection is gone", func() bool { return s.Snapshot()["gateway_connections"] == 0 })
	if n := s.Snapshot()["gateway_sessions"]; n != 0 {
		t.Errorf("%v sessions are left on the gateway", n)
	}
	s.until("it is parked", func() bool {
		n, err := s.rdb.ZCard(t.Context(), s.key("parked")).Result()
		return err == nil && n == 1
	})
}

// key finds the key that ends like that.
func (s *served) key(end string) string {
	keys, err := s.rdb.Keys(s.t.Context(), s.prefix+":{u*}:"+end).Result()
	if err != nil || len(keys) == 0 {
		return s.prefix + ":none"
	}
	return keys[0]
}

// A client hears why its connection ends, whatever ends it.
func TestConn_close_code(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{RateLimits: true})
	for _, tt := range []struct {
		name string
		do   func(c *bare)
		want protocol.CloseCode
	}{
		{"binary", func(c *bare) { c.ws.Write(t.Context(), websocket.MessageBinary, []byte("x")) }, protocol.CloseNotThisProtocol},
		{"too big", func(c *bare) { c.text(`"` + strings.Repeat("x", protocol.MaxMessage) + `"`) }, protocol.CloseTooBig},
		{"not JSON", func(c *bare) {
			for range badTexts {
				c.text("{")
			}
			for range 100 { // more, while the gateway says goodbye
				if c.ws.Write(t.Context(), websocket.MessageText, []byte("{")) != nil {
					break
				}
			}
		}, protocol.CloseNotThisProtocol},
		{"logins refused", func(c *bare) {
			for range failedLogins {
				c.send(protocol.MethodLogin, `{"userID":""}`)
			}
		}, protocol.CloseNotAuthorised},
		{"logout", func(c *bare) {
			c.send(protocol.MethodLogin, `{"userID":"ana"}`)
			c.send(protocol.MethodLogout, `{}`)
		}, protocol.CloseNormal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 20 {
				c := s.dial()
				tt.do(c)
				c.ends(tt.want)
				if got := <-s.closes; got != int(tt.want) {
					t.Errorf("counted as %d, want %d", got, tt.want)
				}
			}
		})
	}
	t.Run("no login", func(t *testing.T) {
		serve(t, Config{LoginTimeout: 50 * time.Millisecond}).dial().ends(protocol.CloseLoginTimeout)
	})
	t.Run("by the client", func(t *testing.T) {
		for range 20 {
			if err := s.dial().ws.Close(4321, ""); err != nil {
				t.Errorf("the goodbye was not answered: %v", err)
			}
			if got := <-s.closes; got != 4321 {
				t.Errorf("counted as %d", got)
			}
		}
	})
}

// Whoever hears an answer may send the next request about the room at once, and
// as many requests as before.
func TestConn_answer_settles(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	c := s.login("ana")
	for range 100 {
		c.send(protocol.MethodJoinRoom, `{"roomID":"R"}`)
		c.hears("R connecting activeEnter", "R disconnected roomNotExist", fmt.Sprintf("error %d 6000322", c.n))
		c.send(protocol.MethodCreateRoom, `{"roomInfo":{"roomID":"R","roomName":""}}`)
		c.hears("R connecting activeCreate", "R connected success *", fmt.Sprintf("answer %d", c.n))
		c.send(protocol.MethodLeaveRoom, `{"roomID":"R"}`)
		c.hears("R disconnected success", fmt.Sprintf("answer %d", c.n))
	}
	for range protocol.MaxUnanswered {
		c.send(protocol.MethodLeaveAllRoom, `{}`)
	}
	for i := range 500 {
		c.hears(fmt.Sprintf("answer %d", 302+i))
		c.send(protocol.MethodLeaveAllRoom, `{}`)
	}
}

// Many who enter a room at once on a gateway that is new to it: each hears of
// each that came after it, and nobody is told that anything was lost.
func TestConn_enter_storm(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	const n = 50
	var clients []*bare
	for i := range n {
		clients = append(clients, s.login(fmt.Sprintf("u%d", i)))
	}
	for _, c := range clients {
		c.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R","roomName":"R"}}`)
	}
	for _, c := range clients {
		c.hears("R connecting activeEnter")
		text, err := c.hear()
		if err != nil {
			t.Fatal(err)
		}
		var state struct{ Params protocol.RoomStateChanged }
		if err := json.Unmarshal([]byte(text), &state); err != nil || state.Params.Seq == 0 {
			t.Fatalf("got %s", text)
		}
		c.hears("answer 2")
		for seq := state.Params.Seq + 1; seq <= n; seq++ {
			text, err := c.hear()
			if err != nil {
				t.Fatal(err)
			}
			if got := brief(t, text); !strings.HasSuffix(got, fmt.Sprintf(" %d #%d", seq, seq)) {
				t.Fatalf("entered as %d: got %s, want the entry of %d", state.Params.Seq, got, seq)
			}
		}
	}
}

// In a batch, what belongs to an entry comes before its answer and in its
// order; other events of the room come behind the answers.
func TestConn_batch(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	other := s.login("zoe")
	c := s.login("ana")
	c.text(`[
		{"jsonrpc":"2.0","id":"a","method":"createRoom","params":{"roomInfo":{"roomID":"R","roomName":""},"config":{"roomAttributes":{"k":"v"}}}},
		{"jsonrpc":"2.0","method":"ping"},
		{"jsonrpc":"2.0","id":"b","method":"joinRoom","params":{"roomID":"none"}},
		7,
		{"jsonrpc":"2.0","id":"c","method":"leaveRoom","params":{"roomID":"R"}},
		{"jsonrpc":"2.0","id":"d","method":"enterRoom","params":{"roomInfo":{"roomID":"R","roomName":""}}}
	]`)
	c.hears("R connecting activeCreate", "roomAttributesUpdated *", "R connected success *",
		"none connecting activeEnter", "none disconnected roomNotExist", "R disconnected success",
		"R connecting activeEnter", "R connected success *")
	text, err := c.hear()
	if err != nil {
		t.Fatal(err)
	}
	var answers []protocol.Response
	if err := json.Unmarshal([]byte(text), &answers); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var got []string
	for _, a := range answers {
		code := protocol.Code(0)
		if a.Error != nil {
			code = a.Error.Code
		}
		got = append(got, fmt.Sprintf("%s %d", a.ID, code))
	}
	if want := `["a" 0 "b" 6000322 null -32600 "c" 0 "d" 0]`; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	other.send(protocol.MethodJoinRoom, `{"roomID":"R"}`)
	c.hears("R +zoe 2 #2")

	c.text(`[{"jsonrpc":"2.0","method":"ping"}]`) // nothing to answer
	c.text(`[]`)
	c.hears("error null -32600")
}

// masked makes a frame as a client sends it, with a mask of zeros.
func masked(head byte, payload []byte) []byte {
	b := []byte{head}
	if n := len(payload); n < 126 {
		b = append(b, 0x80|byte(n))
	} else {
		b = append(b, 0x80|126, byte(n>>8), byte(n))
	}
	mask := [4]byte{0x11, 0x22, 0x44, 0x88}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

// Of two connections that one session came back over, the one that the store
// has is the one that stays, in whatever order they get here.
func TestGateway_register(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	newer, older := s.login("ana"), s.login("bo")
	var conns [2]*session
	for _, c := range s.connections() {
		if who := c.session.Load(); who.who.User == "ana" {
			conns[0] = who
		} else {
			conns[1] = who
		}
	}
	again := func(s *session, generation int64) *session {
		return &session{who: roomstore.Session{ID: "x", Generation: generation, Node: s.who.Node}, c: s.c}
	}
	if !s.register(again(conns[0], 2)) {
		t.Error("the newer was refused")
	}
	if s.register(again(conns[1], 1)) {
		t.Error("the older was taken")
	}
	older.ends(protocol.CloseTakenOver)
	newer.send(protocol.MethodPing, "{}")
	newer.hears("answer 2")
	s.mu.Lock()
	delete(s.sessions, "x")
	s.mu.Unlock()
}

// A session that is found to be over while its logout is under way is not closed
// as one that may come back.
func TestNode_compare_ending(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{})
	c := s.login("ana")
	s.mu.Lock()
	var ana *session
	for _, one := range s.sessions {
		ana = one
	}
	s.mu.Unlock()
	if err := s.rdb.HDel(t.Context(), s.key("user:ana"), "s:"+string(ana.who.ID)).Err(); err != nil {
		t.Fatal(err)
	}
	n := &incarnation{g: s.Gateway, id: s.node()}
	ana.ending.Store(true)
	n.compare(t.Context(), s.sessionsHere())
	c.send(protocol.MethodPing, `{}`)
	c.hears("answer 2")
	ana.ending.Store(false)
	n.compare(t.Context(), s.sessionsHere())
	c.ends(protocol.CloseServiceRestart)
}

// Who was sent away, and whose gateway was not told, hears of it with the first
// request that the store refuses for it.
func TestConn_strange(t *testing.T) {
	t.Parallel()
	door := faultproxy.StartRedis(t, redistest.New(t).Options().Addr)
	s := serveOn(t, Config{}, redistest.New(t), door.Addr())
	zoe := s.login("zoe")
	zoe.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R","roomName":"r"}}`)
	zoe.hears("R connecting activeEnter", "R connected success *", "answer 2")
	for i, tt := range []struct{ method, params string }{
		{protocol.MethodLeaveRoom, `{"roomID":"R"}`},
		{protocol.MethodSendRoomMessage, `{"roomID":"R","message":{"type":1,"message":"hi"}}`},
		{protocol.MethodQueryRoomOnlineMemberCount, `{"roomID":"R"}`},
		{protocol.MethodSwitchRoom, `{"fromRoomID":"R","toRoomInfo":{"roomID":"S"},"isCreateWhenRoomNotExisted":true}`},
	} {
		for _, from := range []string{"the room", "the service"} {
			user := fmt.Sprintf("u%d-%s", i, from[4:5])
			c := s.login(user)
			c.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"R","roomName":"r"}}`)
			c.hears("R connecting activeEnter", "R connected success *", "answer 2")
			door.Messages(func(channel, payload string) faultproxy.Fate {
				if strings.HasSuffix(channel, "ch:R") || strings.HasPrefix(payload, "4509") {
					return nil
				}
				return faultproxy.Pass // else the subscription is taken for deaf
			})
			last := "R disconnected kickedOut"
			if from == "the room" {
				if err := s.store.Kick(t.Context(), "R", roomstore.UserID(user), ""); err != nil {
					t.Fatal(err)
				}
			} else {
				last = "connectionStateChanged *"
				for range 10 { // as many devices as may be
					if _, err := s.store.Login(t.Context(), s.node(), roomstore.UserID(user), roomstore.NewSessionID(), ""); err != nil {
						t.Fatal(err)
					}
				}
			}
			c.send(tt.method, tt.params)
			out := 0
			for heard := ""; heard != last; {
				text, err := c.hear()
				if err != nil {
					t.Fatalf("%s, sent away from %s: got %v, want %s", tt.method, from, err, last)
				}
				if heard = brief(t, text); strings.HasPrefix(heard, "answer") {
					t.Errorf("%s, sent away from %s: got %s", tt.method, from, heard)
				}
				if heard == "R disconnected kickedOut" {
					out++
				}
				if strings.HasPrefix(heard, "connectionStateChanged") {
					heard = "connectionStateChanged *"
				}
			}
			if out != 1 {
				t.Errorf("%s, sent away from %s: told %d times that it is out of the room", tt.method, from, out)
			}
			if from == "the service" {
				c.ends(protocol.CloseKickedByLogin)
			}
			door.Messages(nil)
		}
	}
}

// A session that a lost resume has brought to a gateway is parked, unless a socket has
// come for it since: also one whose resume is under way.
func TestGateway_disowning(t *testing.T) {
	t.Parallel()
	door := faultproxy.StartRedis(t, redistest.New(t).Options().Addr)
	s := serveOn(t, Config{}, redistest.New(t), door.Addr())
	door.Messages(func(_, payload string) faultproxy.Fate {
		if strings.HasPrefix(payload, "4510") {
			return nil // an earlier socket stays
		}
		return faultproxy.Pass
	})
	// in says under which generation the session is here, 0 if it is not.
	in := func(who roomstore.Session) int64 {
		record, err := s.rdb.HGet(t.Context(), s.key("user:"+string(who.User)), "s:"+string(who.ID)).Result()
		if err != nil {
			t.Fatal(err)
		}
		var generation int64
		if f := strings.SplitN(record, "\x00", 3); f[1] == s.node() {
			fmt.Sscan(f[0], &generation)
		}
		return generation
	}
	lost := func(who roomstore.Session) {
		_, _, ok, err := s.store.Resume(t.Context(), s.node(), who.User, who.ID, nil)
		if err != nil || !ok {
			t.Fatalf("resume: %v, %v", ok, err)
		}
	}
	resume := func(who roomstore.Session) *bare {
		c := s.dial()
		c.send(protocol.MethodLogin, fmt.Sprintf(`{"userID":%q,"resume":{"sessionID":%q,"rooms":[]}}`, who.User, who.ID))
		return c
	}
	for _, tt := range []struct {
		name string
		do   func(who roomstore.Session)
		want error
		here bool // in the end
	}{
		{"here", func(roomstore.Session) {}, nil, true},
		{"brought by nobody", lost, nil, false},
		{"lingering", func(who roomstore.Session) {
			s.crowd()
			s.mu.Lock()
			c := s.sessions[who.ID].c
			s.mu.Unlock()
			c.close(protocol.CloseGoingAway, "")
			s.until("it lingers", func() bool { return s.lingers() != nil })
		}, nil, true},
		{"lingering and brought since", func(who roomstore.Session) {
			s.mu.Lock()
			c := s.sessions[who.ID].c
			s.mu.Unlock()
			c.close(protocol.CloseGoingAway, "")
			s.until("it lingers", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.lingerers.all[who.ID] != nil })
			lost(who)
		}, nil, false},
		{"back", func(who roomstore.Session) { lost(who); resume(who).hears("answer 1") }, nil, true},
		{"coming", func(who roomstore.Session) {
			s.gate.close(lua.Resume)
			c := resume(who)
			s.until("it is resumed", func() bool { return in(who) > who.Generation })
			s.mu.Lock()
			n := s.coming[who.ID]
			s.mu.Unlock()
			if n != 1 {
				t.Errorf("%d are coming, want 1", n)
			}
			s.gate.open()
			c.hears("answer 1")
			s.comes(who.ID)
			lost(who)
		}, errReturning, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			user := strings.ReplaceAll(tt.name, " ", "-")
			s.login(user)
			s.mu.Lock()
			var who roomstore.Session
			for _, here := range s.sessions {
				if string(here.who.User) == user {
					who = here.who
				}
			}
			s.mu.Unlock()
			tt.do(who)
			now := in(who)
			settled := false
			disown := s.disowning(who, time.Minute, func() bool { return settled })
			settled = true
			if err := disown(t.Context()); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if !tt.here {
				now = 0
			}
			if got := in(who); got != now {
				t.Errorf("it is here under generation %d, want %d", got, now)
			}
		})
	}
}

// When it cannot be found out any more what became of an entry or a switch that failed,
// since the session is not this gateway's, its connection ends: who comes back is told which
// rooms it is in.
func TestConn_pursuit_fenced(t *testing.T) {
	t.Parallel()
	for name, rest := range map[string]func(s *session){
		"entry": func(s *session) {
			s.c.undo(s, roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "R", RequestKey: "1"}, &claim{})
		},
		"switch": func(s *session) {
			s.c.settle(s, s.departing("Q"), roomstore.EntryRequest{Mode: roomstore.ModeEnter, Room: "R", RequestKey: "1"}, &claim{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := serve(t, Config{})
			c := g.login("ana")
			g.mu.Lock()
			var s *session
			for _, s = range g.sessions {
			}
			g.mu.Unlock()
			if err := g.store.Park(t.Context(), s.who, time.Minute); err != nil {
				t.Fatal(err)
			}
			rest(s)
			select {
			case <-s.c.gone:
			default:
				t.Error("the connection goes on")
			}
			c.ends(protocol.CloseServiceRestart)
		})
	}
}
