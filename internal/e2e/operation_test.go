//go:build linux

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// What a backend does on any gateway reaches everybody, wherever they are.
func TestServerAPI(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr())
	for name, via := range map[string]*gateway{"this": a, "that": b} {
		t.Run("destroy on "+name+" gateway", func(t *testing.T) {
			t.Parallel()
			room := "destroy-" + name
			cast := map[string]*wire{}
			for user, g := range map[string]*gateway{"new-" + name: a, "none-" + name: b, "old-" + name: a, "older-" + name: b} {
				version := map[string]string{"new-" + name: "2.13.0", "old-" + name: "2.12.0", "older-" + name: "1.99.9"}[user]
				w := connect(t, g.URL())
				w.login(fmt.Sprintf(`{"userID":%q,"sdkVersion":%q}`, user, version))
				cast[user] = w
			}
			for _, w := range cast {
				w.enter(room)
			}
			for _, w := range cast { // all have come
				w.ask(protocol.MethodQueryRoomOnlineMemberCount, fmt.Sprintf(`{"roomID":%q}`, room), nil)
			}
			destroy(t, via, room)
			for user, w := range cast {
				want := room + " disconnected roomNotExist"
				if strings.HasPrefix(user, "old") {
					want = room + " disconnected kickedOut"
				}
				got := w.until(want)
				for _, g := range got[:len(got)-1] {
					if !strings.Contains(g, " +") {
						t.Errorf("%s: got %q before %q", user, g, want)
					}
				}
				w.settled()
			}
			status, _ := gatetest.Request(http.MethodDelete, "http://"+via.Addr+"/v1/rooms/"+room, "dev", "")
			if status != http.StatusNotFound {
				t.Errorf("destroy it again: got %d, want 404", status)
			}
		})
		t.Run("kick on "+name+" gateway", func(t *testing.T) {
			t.Parallel()
			room, user := "kick-"+name, "ana-"+name
			ana, cy := enroll(a, t, user), enroll(b, t, "cy-"+name)
			cy.enter(room)
			ana.enter(room)
			cy.until(fmt.Sprintf("%s +%s 2", room, user))
			kick(t, via, room, user, "rude", "Go away")
			frame := ana.take()
			p := params[protocol.RoomStateChanged](t, frame)
			if p.RoomID != room || p.State != protocol.RoomDisconnected || p.Event != protocol.RoomKickedOut {
				t.Errorf("got %s, want kickedOut", frame)
			}
			var data map[string]string
			if err := json.Unmarshal([]byte(p.ExtendedData), &data); err != nil ||
				data["room_id"] != room || data["reason"] != "rude" || data["message"] != "Go away" {
				t.Errorf("got extendedData %q (%v)", p.ExtendedData, err)
			}
			cy.hears(fmt.Sprintf("%s -%s 1", room, user))
			cy.say(room, "after")
			ana.settled()
		})
	}
	for key, header := range map[string]string{"wrong": "wrong", "missing": ""} {
		for method, path := range map[string]string{http.MethodDelete: "/v1/rooms/R", http.MethodPost: "/v1/rooms/R/kick"} {
			status, body := gatetest.Request(method, "http://"+a.Addr+path, header, `{"userID":"ana"}`)
			if status != http.StatusUnauthorized {
				t.Errorf("%s %s with a %s key: got %d %s, want 401", method, path, key, status, body)
			}
		}
	}
}

// A gateway that is told to stop sees its clients off within its window: they
// go on elsewhere and nobody sees them leave.
func TestDrain(t *testing.T) {
	t.Parallel()
	const window = 3 * time.Second
	server, rdb := anyRedis(t)
	a, b := startPair(t, server.Addr(), fmt.Sprintf("--drain-window=%v", window))
	bo := meet(t, "bo", b.URL())
	bo.enter("R")
	var crowd []*person
	for i := range 20 {
		p := meet(t, fmt.Sprintf("u%d", i), a.URL(), b.URL())
		p.enter("R")
		crowd = append(crowd, p)
	}
	foreign := enroll(a, t, "foreign")
	foreign.enter("R")
	bo.until("R +foreign 22")
	for _, p := range crowd {
		p.until("R +foreign 22")
	}
	book := follow(t, rdb, "R")
	node := a.Node()

	began := time.Now()
	a.Signal(syscall.SIGTERM)
	eventually(t, "/readyz to be red", func() bool {
		status, body := a.Get("http://" + a.Addr + "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "draining")
	})
	if took := time.Since(began); took > time.Second {
		t.Errorf("/readyz was red after %v, want at once", took)
	}
	code, reason := foreign.closed()
	if code != int(protocol.CloseGoingAway) || reason != `{"reconnectAfterMs":0}` {
		t.Errorf("got closed with %d %q, want 1001 and a reason that says when to come back", code, reason)
	}
	bo.say("R", "while they move")
	for _, p := range crowd {
		got := p.until("R bo: while they move")
		moved := []string{"connection reconnecting loginInterrupted", "R connecting networkInterrupted", "connection connected success", "R connected success"}
		for _, g := range got[:len(got)-1] {
			if len(moved) > 0 && g == moved[0] {
				moved = moved[1:]
			} else if !strings.Contains(g, "ServerDraining") {
				t.Errorf("%s: got %q, want %q next", p.name, g, moved)
			}
		}
	}
	select {
	case <-a.Ended:
	case <-time.After(patience):
		t.Fatal("the gateway does not end")
	}
	took := time.Since(began)
	t.Logf("ended after %v, code %d", took, a.Cmd.ProcessState.ExitCode())
	if code := a.Cmd.ProcessState.ExitCode(); code != 0 || took > window+time.Second {
		t.Errorf("ended with code %d after %v, want 0 within %v", code, took, window)
	}
	for _, p := range crowd {
		eventually(t, p.name+" to have moved", func() bool { return p.Stats().Resumes == 1 })
	}
	if rdb.ZScore(t.Context(), nodesKey(rdb), node).Err() == nil {
		t.Error("the lease was not given back")
	}
	for _, e := range book.all() {
		if e.Kind == roomstore.KindLeft || e.Kind == roomstore.KindJoined {
			t.Errorf("others were told of %s: %c", e.User, e.Kind)
		}
	}
	// Those who do come back, do so as who they were; only foreign did not.
	eventually(t, "foreign to be evicted, alone", func() bool {
		var left []string
		for _, e := range book.all() {
			if e.Kind == roomstore.KindLeft {
				left = append(left, string(e.User))
			}
		}
		return len(left) == 1 && left[0] == "foreign"
	})
	for _, p := range crowd {
		p.say("R", "still here")
		p.Logout(t.Context())
	}
}

// A gateway without clients that is told to stop does so at once.
func TestDrain_nobody(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), "--drain-window=20s")
	began := time.Now()
	g.Signal(syscall.SIGTERM)
	<-g.Ended
	if code, took := g.Cmd.ProcessState.ExitCode(), time.Since(began); code != 0 || took > 5*time.Second {
		t.Errorf("ended with code %d after %v, want 0 at once", code, took)
	}
}

// A gateway that is told to stop does so in peace also when a request stands still.
func TestDrain_stalledRequest(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr())
	c, err := net.Dial("tcp", g.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST /v1/rooms HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer dev\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("got %q, %v", line, err)
	}
	g.Signal(syscall.SIGTERM)
	<-g.Ended
	if code := g.Cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("ended with code %d, want 0", code)
	}
}

// The metrics show how many calls of scripts go to Redis together: under load
// more than one, and some of them as one script.
func TestMetrics(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	g := startGateway(t, server.Addr(), "--rate-limits=false")
	var crowd []*person
	for i := range 16 {
		p := meet(t, fmt.Sprintf("u%d", i), g.URL())
		p.enter("R")
		crowd = append(crowd, p)
	}
	before := commands(t, rdb)["evalsha"]
	calls, pipelines := g.Metric("roomgate_roomstore_pipeline_calls_sum"), g.Metric("roomgate_roomstore_pipeline_calls_count")
	const messages = 20
	var senders errgroup.Group
	for _, p := range crowd {
		senders.Go(func() error {
			for i := range messages {
				m := protocol.OutgoingMessage{Type: protocol.MessageText, Message: fmt.Sprint(i)}
				if _, err := p.SendRoomMessage(t.Context(), "R", m, nil); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := senders.Wait(); err != nil {
		t.Fatal(err)
	}
	calls, pipelines = g.Metric("roomgate_roomstore_pipeline_calls_sum")-calls, g.Metric("roomgate_roomstore_pipeline_calls_count")-pipelines
	sent := float64(commands(t, rdb)["evalsha"] - before)
	t.Logf("%.0f calls in %.0f pipelines; Redis counted %.0f", calls, pipelines, sent)
	if calls < messages*16 || pipelines == 0 || pipelines >= calls || sent < pipelines {
		t.Errorf("got %.0f calls in %.0f pipelines, Redis counted %.0f, want at least %d in fewer pipelines", calls, pipelines, sent, messages*16)
	}
	if joined := sent < calls; joined == *onCluster { // where hash slots lie apart, none are
		t.Errorf("got %.0f calls, Redis counted %.0f; want fewer on one Redis only", calls, sent)
	}
	for _, name := range []string{
		`roomgate_gateway_requests_total{code="0",method="sendRoomMessage"}`,
		`roomgate_roomstore_script_seconds_count{outcome="ok",script="send"}`,
		`roomgate_gateway_connections`,
		`roomgate_gateway_probes_total`,
	} {
		eventually(t, name, func() bool { return g.Metric(name) > 0 })
	}
}

// A gateway at rest costs Redis next to nothing, however many partitions there
// are and however many people are on it, or away.
func TestIdle(t *testing.T) {
	t.Parallel()
	const people = 1000
	server, rdb := redisServer(t) // TestCluster_idle is about a Cluster
	g := startGateway(t, server.Addr(), "--partitions=64", "--session-ttl=60s", "--lease-ttl=10s", "--heartbeat-interval=10s",
		"--drain-window=25s", "--redis-timeout=2s")
	var here, away []*wire
	for i := range people {
		w := enroll(g, t, fmt.Sprintf("u%d", i))
		w.enter(fmt.Sprintf("r%d", i%300))
		if i%2 == 0 {
			here = append(here, w)
		} else {
			away = append(away, w)
		}
	}
	for _, w := range away {
		w.drop()
	}
	eventually(t, "those who are away to be parked", func() bool {
		n := 0
		for p := range 64 {
			n += int(rdb.ZCard(t.Context(), fmt.Sprintf("rg:{u%d}:parked", p)).Val())
		}
		return n == len(away)
	})
	began := redisTime(t, rdb)
	before := commands(t, rdb)
	during(t, rdb, 31*time.Second) // sessions are compared each 30 s: once in it, or twice
	after := commands(t, rdb)
	window := float64(redisTime(t, rdb)-began) / 1000
	n := 0
	var list []string
	for name, calls := range after {
		if d := calls - before[name]; d > 0 && fromOutside[name] {
			n += d
			list = append(list, fmt.Sprintf("%s %d", name, d))
		}
	}
	rate := float64(n) / window
	t.Logf("%.1f commands a second in %.1f s: %v", rate, window, list)
	if n == 0 || rate >= 5 {
		t.Errorf("got %.1f commands a second, want more than 0 and less than 5", rate)
	}
	if n := int(g.Metric("roomgate_gateway_sessions")); n != len(here) {
		t.Errorf("%d are on the gateway, want %d", n, len(here))
	}
	here[0].send(protocol.MethodPing, "{}")
	here[0].until("ok")
}

// fromOutside are commands that no script calls and no test does, so that a
// gateway must have sent them.
var fromOutside = map[string]bool{
	"evalsha": true, "eval": true, "script|load": true, "ping": true, "multi": true, "exec": true,
	"subscribe": true, "unsubscribe": true, "ssubscribe": true, "sunsubscribe": true, "hello": true, "client|setname": true, "client|setinfo": true, "config|get": true,
}

// commands is how often Redis has executed each command, in scripts or not, all masters
// of a Cluster together.
func commands(t testing.TB, rdb redis.UniversalClient) map[string]int {
	t.Helper()
	stats := map[string]int{}
	var one sync.Mutex
	err := eachMaster(t.Context(), rdb, func(ctx context.Context, master *redis.Client) error {
		info, err := master.Info(ctx, "commandstats").Result()
		one.Lock()
		defer one.Unlock()
		for _, m := range regexp.MustCompile(`cmdstat_([^:]+):calls=(\d+)`).FindAllStringSubmatch(info, -1) {
			n, _ := strconv.Atoi(m[2])
			stats[m[1]] += n
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// The session that the program tells a newcomer to paste works as it is.
func TestDev_banner(t *testing.T) {
	t.Parallel()
	g := gatetest.Launch(t, []string{"--dev"})
	eventually(t, "the gateway to be ready", g.Ready)
	banner := g.Out.String()
	url := regexp.MustCompile(`ws://localhost:\d+/v1/ws`).FindString(banner)
	lines := regexp.MustCompile(`(?m)^\s+(\{"jsonrpc".*\})$`).FindAllStringSubmatch(banner, -1)
	ready := regexp.MustCompile(`http://localhost:\d+/readyz`).FindString(banner)
	if url == "" || ready == "" || len(lines) != 3 {
		t.Fatalf("got %q, %q and %q in\n%s", url, ready, lines, banner)
	}
	if status, _ := g.Get(ready); status != http.StatusOK {
		t.Errorf("%s: got %d, want 200", ready, status)
	}
	url = strings.TrimSuffix(url, protocol.Path)
	var cast []*wire
	for _, user := range []string{"ana", "bo"} {
		w := connect(t, url)
		w.name = user
		for _, line := range lines {
			w.raw(strings.ReplaceAll(line[1], `"userID":"ana"`, `"userID":"`+user+`"`))
			w.result(nil)
		}
		cast = append(cast, w)
	}
	cast[0].hears("lobby connecting activeEnter", "lobby connected success", "lobby +bo 2", "lobby bo: hello")
	cast[1].hears("lobby connecting activeEnter", "lobby connected success")
}
