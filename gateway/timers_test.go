package gateway

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/pubsub"
	"github.com/roomgate/roomgate/roomstore"
)

// upgrade is a request for a WebSocket and its answer, over a pipe.
type upgrade struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (u upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return u.conn, bufio.NewReadWriter(bufio.NewReader(u.conn), bufio.NewWriter(u.conn)), nil
}

// peer is a client at the other end of a pipe. It hears on its own and says
// nothing, unless it is alive: then it answers pings.
type peer struct {
	net.Conn
	heard diary
	alive bool
	start time.Time
}

// accepted gives a gateway without a store, and a connection to it.
func accepted(t *testing.T, cfg Config, alive bool) (*Gateway, *conn, *peer) {
	g, c, far := piped(t, cfg)
	p := &peer{Conn: far, alive: alive, start: time.Now()}
	go p.read()
	return g, c, p
}

// piped is accepted without a client.
func piped(t *testing.T, cfg Config) (*Gateway, *conn, net.Conn) {
	store := roomstore.New(roomstore.NewBatcher(nil, roomstore.BatcherConfig{}), roomstore.Config{})
	g := New(store, (*pubsub.Bus)(nil), nil, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	g.life = ctx
	t.Cleanup(func() { cancel(); g.conns.Wait(); g.closing.Wait(); g.workers.stop() })

	near, far := net.Pipe()
	r := httptest.NewRequest(http.MethodGet, protocol.Path, nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	g.accept(upgrade{httptest.NewRecorder(), near}, r)
	t.Cleanup(func() { far.Close() })
	return g, g.connections()[0], far
}

func (p *peer) read() {
	r := bufio.NewReader(p)
	for {
		head := make([]byte, 2)
		for i := range head {
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			head[i] = b
		}
		n := int(head[1])
		if n == 126 {
			a, _ := r.ReadByte()
			b, _ := r.ReadByte()
			n = int(a)<<8 | int(b)
		}
		body := make([]byte, n)
		for i := range body {
			body[i], _ = r.ReadByte()
		}
		at := time.Since(p.start).Round(100 * time.Millisecond)
		switch head[0] {
		case 0x89:
			p.heard.note("%v ping", at)
			if p.alive {
				p.Write(masked(0x8a, body))
			}
		case opClose:
			p.heard.note("%v close %d", at, int(body[0])<<8|int(body[1]))
			p.Write(masked(opClose, body[:2]))
		default:
			p.heard.note("%v %s", at, strings.TrimSuffix(strings.TrimPrefix(string(body), `{"jsonrpc":"2.0","method":"`), "}"))
		}
	}
}

func (p *peer) send(t *testing.T, text string) {
	if _, err := p.Write(masked(0x81, []byte(text))); err != nil {
		t.Error(err)
	}
	synctest.Wait()
}

// Each connection is pinged once an interval, and closed a session TTL after
// the last sign of life, whatever that was.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, c, p := accepted(t, Config{LoginTimeout: time.Hour}, false)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.beat.run(ctx) }()
		time.Sleep(12 * time.Second)
		p.Write(masked(0x8a, nil)) // a pong, at 12 s
		time.Sleep(time.Minute)
		p.heard.expect(t, "500ms ping", "10.5s ping", "20.5s ping", "30.5s ping", "40.5s ping", "47s close 4002")
		if n := len(g.connections()); n != 0 {
			t.Errorf("%d connections are left", n)
		}
		c.checkSilence() // whatever is late does no harm
		cancel()
		<-done
	})
}

// A client that answers stays.
func TestHeartbeat_alive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, p := accepted(t, Config{LoginTimeout: 24 * time.Hour}, true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.beat.run(ctx) }()
		time.Sleep(time.Hour + time.Second)
		p.heard.mu.Lock()
		n := len(p.heard.got)
		p.heard.mu.Unlock()
		if n != 361 || len(g.connections()) != 1 {
			t.Errorf("%d pings and %d connections after an hour", n, len(g.connections()))
		}
		cancel()
		<-done
	})
}

// Connections are dealt evenly over the interval.
func TestHeartbeat_slots(t *testing.T) {
	t.Parallel()
	h := newHeartbeat(10 * time.Second)
	conns := make([]*conn, 100)
	for i := range conns {
		conns[i] = &conn{}
		h.add(conns[i])
	}
	for i, slot := range h.slots {
		if len(slot) != 5 {
			t.Errorf("slot %d has %d connections", i, len(slot))
		}
	}
	for _, c := range conns {
		h.remove(c)
		h.remove(c)
	}
	for i, slot := range h.slots {
		if len(slot) != 0 {
			t.Errorf("slot %d has %d connections", i, len(slot))
		}
	}
	if short := newHeartbeat(10 * time.Millisecond); len(short.slots) != 1 || short.tick != 10*time.Millisecond {
		t.Errorf("a short interval: %d slots of %v", len(short.slots), short.tick)
	}
}

// A write that hangs is cut.
func TestHeartbeat_stuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newSession("ana", "s", 1)
		w.stop(true)
		time.Sleep(time.Second)
		s.c.sock.Queue(payload("x", 10), classKept)
		for range 6 {
			time.Sleep(5 * time.Second)
			s.c.g.cfg.SessionTTL = time.Hour
			s.c.beat(10 * time.Second)
		}
		if !w.closed {
			t.Error("the connection stands")
		}
	})
}

// Without a login the connection ends in time, and what was asked is answered.
func TestConn_login_timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, p := accepted(t, Config{}, true)
		p.send(t, `{"jsonrpc":"2.0","id":1,"method":"leaveAllRoom"}`)
		time.Sleep(time.Minute)
		p.heard.expect(t, `0s {"jsonrpc":"2.0","id":1,"error":{"code":6000121,"message":"not logged in"}`, "10s close 4001")
	})
}

// Before a token expires its client is told, and when it has the connection
// ends; a new token begins that anew, whenever it comes.
func TestTokenTimer(t *testing.T) {
	const warned, expired = `tokenWillExpire","params":{"second":%d}`, `connectionStateChanged","params":{"state":"disconnected","event":"tokenExpired","extendedData":""}`
	for _, tt := range []struct {
		name   string
		lasts  time.Duration
		renew  time.Duration // after that
		anew   time.Duration // it lasts this long
		hears  []string
		ended  bool
		within time.Duration
	}{
		{"expires", time.Minute, 0, 0, []string{"30s " + fmt.Sprintf(warned, 30), "1m0s " + expired, "1m0s close 4503"}, true, 2 * time.Minute},
		{"short", 5 * time.Second, 0, 0, []string{"0s " + fmt.Sprintf(warned, 5), "5s " + expired, "5s close 4503"}, true, time.Minute},
		{"renewed in time", time.Minute, 20 * time.Second, time.Hour, nil, false, 40 * time.Minute},
		{"renewed when warned", time.Minute, 31 * time.Second, time.Hour, []string{"30s " + fmt.Sprintf(warned, 30)}, false, 40 * time.Minute},
		{"renewed late", time.Minute, 59 * time.Second, time.Minute,
			[]string{"30s " + fmt.Sprintf(warned, 30), "1m29s " + fmt.Sprintf(warned, 30), "1m59s " + expired, "1m59s close 4503"}, true, time.Hour},
		{"renewed for good", time.Minute, 45 * time.Second, 0, []string{"30s " + fmt.Sprintf(warned, 30)}, false, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, c, p := accepted(t, Config{LoginTimeout: 24 * time.Hour}, true)
				c.token.set(c, time.Now().Add(tt.lasts))
				if tt.renew > 0 {
					time.Sleep(tt.renew)
					c.token.stop()
					if tt.anew > 0 {
						c.token.set(c, time.Now().Add(tt.anew))
					}
				}
				time.Sleep(tt.within)
				p.heard.expect(t, tt.hears...)
				if ended := len(g.connections()) == 0; ended != tt.ended {
					t.Errorf("ended is %v", ended)
				}
				c.close(protocol.CloseNormal, "")
				c.token.end()
				c.token.set(c, time.Now().Add(time.Second)) // by a request that was under way
				if c.token.timer != nil {
					t.Error("a timer runs for a connection that has ended")
				}
			})
		})
	}
}

// A warning that is being given while the token is renewed does not bring the
// old end back.
func TestTokenTimer_race(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			g, c, p := accepted(t, Config{LoginTimeout: 24 * time.Hour}, true)
			c.token.set(c, time.Now().Add(time.Minute))
			time.Sleep(time.Minute - tokenWarning) // both go on at once
			c.token.stop()
			c.token.set(c, time.Now().Add(time.Hour))
			time.Sleep(20 * time.Minute)
			if p.heard.mu.Lock(); len(p.heard.got) > 1 || len(g.connections()) != 1 {
				t.Errorf("heard %v", p.heard.got)
			}
			p.heard.mu.Unlock()
			c.token.end()
			c.close(protocol.CloseNormal, "")
		})
	}
}

// A client that does not read what it asked for, such as all that it missed, is
// not read from meanwhile.
func TestConn_pace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, client := piped(t, Config{QueueBytes: 1 << 10, LoginTimeout: time.Hour})
		c.sock.Queue(payload("first", 2<<10), classPull)
		synctest.Wait() // it is being written
		c.sock.Queue(payload("more", 2<<10), classPull)
		var wrote atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 10 {
				client.Write(masked(0x81, []byte(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)))
				wrote.Add(1)
			}
		}()
		synctest.Wait()
		if n := wrote.Load(); n != 1 {
			t.Errorf("%d requests were read, want one", n)
		}
		p := &peer{Conn: client, start: time.Now()}
		go p.read()
		<-done
		time.Sleep(time.Second)
		if p.heard.mu.Lock(); len(p.heard.got) != 12 {
			t.Errorf("heard %d messages, want all", len(p.heard.got))
		}
		p.heard.mu.Unlock()
	})
}

// A client that asks on and on and reads nothing is sent away before it costs
// more memory than a connection may.
func TestConn_flood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound = 64 << 10
		closed := 0
		_, c, client := piped(t, Config{QueueBytes: bound, LoginTimeout: time.Hour, OnClose: func(code int) { closed = code }})
		batch := masked(0x81, []byte("["+strings.Repeat("{},", protocol.MaxBatch-1)+"{}]"))
		ping := masked(0x89, []byte("are you there"))
		for range 1000 { // answers of some 8 MB
			if _, err := client.Write(append(batch, ping...)); err != nil {
				break
			}
			synctest.Wait()
			c.sock.mu.Lock()
			if held := c.sock.pulled + c.sock.size; held > bound+1<<10 {
				t.Fatalf("%d bytes wait for the client", held)
			}
			c.sock.mu.Unlock()
		}
		synctest.Wait()
		if closed != int(protocol.CloseSlowConsumer) {
			t.Errorf("closed with %d", closed)
		}
	})
}
