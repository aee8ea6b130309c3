package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fabric is a network of pipes, so that a test in a synctest bubble owns all
// that happens, time included.
type fabric struct {
	t    *testing.T
	http *http.Client

	mu    sync.Mutex
	hosts map[string]*gateway
	links []net.Conn // the clients' ends
}

func newFabric(t *testing.T) *fabric {
	f := &fabric{t: t, hosts: make(map[string]*gateway)}
	tr := &http.Transport{DialContext: f.dial}
	f.http = &http.Client{Transport: tr}
	t.Cleanup(tr.CloseIdleConnections)
	return f
}

func (f *fabric) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	f.mu.Lock()
	g := f.hosts[strings.TrimSuffix(addr, ":80")]
	f.mu.Unlock()
	if g == nil {
		return nil, fmt.Errorf("no route to %s", addr)
	}
	ours, theirs := net.Pipe()
	select {
	case g.accepted <- theirs:
	case <-g.stopped:
		return nil, fmt.Errorf("%s refused the connection", addr)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f.mu.Lock()
	f.links = append(f.links, ours)
	f.mu.Unlock()
	return ours, nil
}

// cut breaks all connections there are.
func (f *fabric) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.links {
		l.Close()
	}
	f.links = nil
}

// A gateway does what the test tells it to, one connection at a time.
type gateway struct {
	t        *testing.T
	fabric   *fabric
	url      string
	accepted chan net.Conn
	stopped  chan struct{}
	peers    chan *peer
}

func (f *fabric) gateway(host string) *gateway {
	g := &gateway{
		t: f.t, fabric: f, url: "ws://" + host,
		accepted: make(chan net.Conn), stopped: make(chan struct{}), peers: make(chan *peer, 100),
	}
	srv := &http.Server{Handler: http.HandlerFunc(g.serve)}
	f.mu.Lock()
	f.hosts[host] = g
	f.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(g) })
	f.t.Cleanup(func() {
		srv.Close()
		f.cut()
		wg.Wait()
	})
	return g
}

// Accept, Close and Addr make it a net.Listener.
func (g *gateway) Accept() (net.Conn, error) {
	select {
	case c := <-g.accepted:
		return c, nil
	case <-g.stopped:
		return nil, net.ErrClosed
	}
}

func (g *gateway) Close() error {
	select {
	case <-g.stopped:
	default:
		close(g.stopped)
	}
	return nil
}

func (g *gateway) Addr() net.Addr { return &net.UnixAddr{Name: g.url} }

func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol.Subprotocol}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	p := &peer{
		t: g.t, ws: ws, path: r.URL.Path,
		requests: make(chan protocol.Request, 1000), gone: make(chan struct{}),
	}
	defer close(p.gone)
	g.peers <- p
	for {
		_, b, err := ws.Read(context.Background())
		if err != nil {
			p.end = err
			return
		}
		var req protocol.Request
		if err := json.Unmarshal(b, &req); err != nil {
			g.t.Errorf("client sent %q: %v", b, err)
		}
		p.requests <- req
	}
}

// accept waits for the next connection.
func (g *gateway) accept() *peer {
	g.t.Helper()
	select {
	case p := <-g.peers:
		return p
	case <-time.After(time.Minute):
		g.t.Fatal("no connection in a minute")
		return nil
	}
}

// A peer is the gateway's end of one connection.
type peer struct {
	t        *testing.T
	ws       *websocket.Conn
	path     string
	requests chan protocol.Request
	gone     chan struct{} // the connection has ended
	end      error         // why, once gone
}

// request waits for the next request, which must have this method.
func (p *peer) request(method string) protocol.Request {
	p.t.Helper()
	select {
	case req := <-p.requests:
		if req.Method != method {
			p.t.Fatalf("got request %s %s, want %s", req.Method, req.Params, method)
		}
		return req
	case <-p.gone:
		p.t.Fatalf("connection gone while waiting for %s: %v", method, p.end)
	case <-time.After(time.Minute):
		p.t.Fatalf("no %s in a minute", method)
	}
	return protocol.Request{}
}

// none fails if there is another request.
func (p *peer) none() {
	p.t.Helper()
	select {
	case req := <-p.requests:
		p.t.Fatalf("got request %s %s, want none", req.Method, req.Params)
	default:
	}
}

func (p *peer) send(v any) {
	p.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		p.t.Fatal(err)
	}
	p.text(string(b))
}

func (p *peer) text(s string) {
	p.t.Helper()
	if err := p.ws.Write(context.Background(), websocket.MessageText, []byte(s)); err != nil {
		p.t.Errorf("send %s: %v", s, err)
	}
}

func (p *peer) answer(req protocol.Request, result any) {
	p.t.Helper()
	b, err := json.Marshal(result)
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(protocol.Response{JSONRPC: protocol.Version, ID: req.ID, Result: b})
}

func (p *peer) refuse(req protocol.Request, e protocol.Error) {
	p.t.Helper()
	p.send(protocol.Response{JSONRPC: protocol.Version, ID: req.ID, Error: &e})
}

func (p *peer) event(method string, params any) {
	p.t.Helper()
	b, err := json.Marshal(params)
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(protocol.Notification{JSONRPC: protocol.Version, Method: method, Params: b})
}

func (p *peer) connected(room string, epoch, seq int64) {
	p.t.Helper()
	p.event(protocol.EventRoomStateChanged, protocol.RoomStateChanged{
		RoomID: room, State: protocol.RoomConnected, Event: protocol.RoomSuccess, Epoch: epoch, Seq: seq,
	})
}

func (p *peer) joined(room, user string, seq int64) {
	p.t.Helper()
	p.event(protocol.EventRoomMemberJoined, protocol.MembersChanged{
		RoomID: room, MemberList: []protocol.UserInfo{{UserID: user}}, MemberCount: 2, Seq: seq,
	})
}

func (p *peer) close(code protocol.CloseCode, reason string) {
	p.t.Helper()
	if err := p.ws.Close(websocket.StatusCode(code), reason); err != nil {
		p.t.Errorf("close %d: %v", code, err)
	}
}

// login answers the login and returns what it said.
func (p *peer) login(sessionID string, resumed bool) protocol.LoginParams {
	p.t.Helper()
	req := p.request(protocol.MethodLogin)
	var params protocol.LoginParams
	if err := json.Unmarshal(req.Params, &params); err != nil {
		p.t.Fatal(err)
	}
	p.answer(req, protocol.LoginResult{
		SessionID: sessionID, UserID: params.UserID, Resumed: resumed,
		HeartbeatIntervalMS: 10_000, SessionTTLMS: 35_000,
	})
	return params
}

func (g *gateway) config() client.Config {
	return client.Config{
		URLs:       []string{g.url},
		HTTPClient: g.fabric.http,
		User:       protocol.UserInfo{UserID: "ana"},
	}
}

type dialed struct {
	c   *client.Client
	err error
}

func goDial(ctx context.Context, cfg client.Config) <-chan dialed {
	ch := make(chan dialed, 1)
	go func() {
		c, err := client.Dial(ctx, cfg)
		ch <- dialed{c, err}
	}()
	return ch
}

// connect makes a client that is logged in, with session "s1".
func (g *gateway) connect(cfg client.Config) (*client.Client, *peer) {
	g.t.Helper()
	ch := goDial(g.t.Context(), cfg)
	p := g.accept()
	p.login("s1", false)
	d := <-ch
	if d.err != nil {
		g.t.Fatalf("dial: %v", d.err)
	}
	g.t.Cleanup(d.c.Close)
	if cfg.OnEvent == nil {
		want(g.t, d.c, "connection connecting activeLogin", "connection connected success")
	}
	return d.c, p
}

// enter has the client enter rooms, each at epoch 7 and the given position.
func enter(t *testing.T, c *client.Client, p *peer, room string, seq int64) {
	t.Helper()
	errc := make(chan error, 1)
	go func() {
		_, err := c.EnterRoom(t.Context(), protocol.RoomBaseInfo{RoomID: room}, nil)
		errc <- err
	}()
	req := p.request(protocol.MethodEnterRoom)
	p.connected(room, 7, seq)
	p.answer(req, protocol.Room{Position: protocol.Position{Epoch: 7, Seq: seq}})
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
	want(t, c, "room "+room+" connected success")
}

// text is an event on one line.
func text(ev client.Event) string {
	switch ev := ev.(type) {
	case *client.ConnectionStateChanged:
		return fmt.Sprintf("connection %s %s", ev.State, ev.Event)
	case *client.RoomStateChanged:
		return fmt.Sprintf("room %s %s %s", ev.RoomID, ev.State, ev.Event)
	case *client.MemberJoined:
		return fmt.Sprintf("joined %s %s %d", ev.RoomID, ev.MemberList[0].UserID, ev.Seq)
	case *client.MemberLeft:
		return fmt.Sprintf("left %s %s %d", ev.RoomID, ev.MemberList[0].UserID, ev.Seq)
	case *client.MessageReceived:
		return fmt.Sprintf("message %s %q", ev.FromConversationID, ev.MessageList[0].Message)
	case *client.RawEvent:
		return strings.TrimRight(fmt.Sprintf("raw %s %s", ev.Method, ev.RoomID), " ")
	default:
		return strings.TrimPrefix(fmt.Sprintf("%T", ev), "*client.")
	}
}

// want reads events and compares them.
func want(t *testing.T, c *client.Client, lines ...string) {
	t.Helper()
	var got []string
	for range lines {
		select {
		case ev, ok := <-c.Events():
			if !ok {
				t.Fatalf("events ended after %q, want %q", got, lines)
			}
			got = append(got, text(ev))
		case <-time.After(time.Minute):
			t.Fatalf("got events %q and no more, want %q", got, lines)
		}
	}
	if diff := cmp.Diff(lines, got); diff != "" {
		t.Fatalf("events (-want +got):\n%s", diff)
	}
}

// quiet fails if there is an event.
func quiet(t *testing.T, c *client.Client) {
	t.Helper()
	select {
	case ev, ok := <-c.Events():
		if ok {
			t.Fatalf("got event %s, want none", text(ev))
		}
	default:
	}
}

// call starts a call, whose error comes on the channel.
func call(f func() error) <-chan error {
	ch := make(chan error, 1)
	go func() { ch <- f() }()
	return ch
}

func as[E error](t *testing.T, err error) E {
	t.Helper()
	e, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("got error %T %v, want %T", err, err, e)
	}
	return e
}
