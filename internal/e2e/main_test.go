//go:build linux

// Package e2e tests the program as a whole: gateways that are processes of
// their own, a redis-server, and clients that speak to them over sockets. It
// knows the wire, the flags, and what Redis shows to everybody; a promise that
// the other packages make to each other is tested there.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/roomgate/roomgate/internal/redistest"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "roomgate-e2e-")
	if err != nil {
		panic(err)
	}
	binary = sync.OnceValues(func() (string, error) { return build(dir) })
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// binary gives the path of the gateway, which is built when it is first asked
// for. These tests may run under the race detector; the gateway does so only if
// GOFLAGS says so. Set by TestMain.
var binary func() (string, error)

func build(dir string) (string, error) {
	// The go command keeps a test's result until a file changes that the test
	// has read: these, too, decide what it comes to.
	for _, part := range []string{"cmd/roomgate", "gateway", "roomstore", "pubsub", "lua", "protocol"} {
		err := filepath.WalkDir(filepath.Join("..", "..", part), func(name string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				_, err = os.Stat(name)
			}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, "roomgate")
	out, err := exec.Command("go", "build", "-o", path, "github.com/roomgate/roomgate/cmd/roomgate").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// patience is how long a test waits for what must come. It is long, since the
// machine may be busy, and costs nothing when all is well.
const patience = 20 * time.Second

// The times of most gateways here. Clients that are gone are missed sooner
// than by default, and no test waits for more than a few of these.
const (
	sessionTTL = 3 * time.Second
	leaseTTL   = 2 * time.Second
	heartbeat  = time.Second
	drain      = time.Second
)

// gateway is a process.
type gateway struct {
	t        testing.TB
	cmd      *exec.Cmd
	out      *output
	addr     string // of the public listener
	internal string // of the other
	ended    chan struct{}
}

// startGateway starts a gateway on a Redis and returns when it is ready. Flags
// given replace those of the same name that all gateways get.
func startGateway(t testing.TB, redisAddr string, flags ...string) *gateway {
	t.Helper()
	g := launch(t, append([]string{
		"--dev", "--redis-url=redis://" + redisAddr, "--redis-timeout=1s",
		fmt.Sprintf("--session-ttl=%v", sessionTTL), fmt.Sprintf("--lease-ttl=%v", leaseTTL),
		fmt.Sprintf("--heartbeat-interval=%v", heartbeat), fmt.Sprintf("--drain-window=%v", drain),
	}, flags...))
	eventually(t, "the gateway to be ready", g.ready)
	return g
}

// startPair starts two gateways on one Redis.
func startPair(t testing.TB, redisAddr string, flags ...string) (a, b *gateway) {
	t.Helper()
	return startGateway(t, redisAddr, flags...), startGateway(t, redisAddr, flags...)
}

// launch starts a gateway and returns when it listens. "--no-dev" takes the
// flag --dev away.
func launch(t testing.TB, flags []string) *gateway {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	flags = append([]string{
		"--listen=127.0.0.1:0", "--internal-listen=127.0.0.1:0", "--log-format=json", "--log-level=debug",
	}, flags...)
	last := map[string]int{}
	for i, f := range flags {
		name, _, _ := strings.Cut(f, "=")
		last[name] = i
	}
	var args []string
	for i, f := range flags {
		name, _, _ := strings.Cut(f, "=")
		if _, off := last["--no-dev"]; last[name] == i && name != "--no-dev" && (name != "--dev" || !off) {
			args = append(args, f)
		}
	}
	g := &gateway{t: t, cmd: exec.Command(path, args...), out: &output{}, ended: make(chan struct{})}
	g.cmd.Stdout, g.cmd.Stderr = g.out, g.out
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ROOMGATE_") {
			g.cmd.Env = append(g.cmd.Env, v)
		}
	}
	// It ends with us, however we end.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.ended)
		g.cmd.Wait() // its status is asked for where it matters
	}()
	t.Cleanup(func() {
		g.kill()
		for _, bad := range []string{"panic:", "DATA RACE", `"level":"ERROR"`} {
			if strings.Contains(g.out.String(), bad) {
				t.Errorf("a gateway said %q", bad)
			}
		}
		if t.Failed() {
			t.Logf("gateway %d at %s said:\n%s", g.cmd.Process.Pid, g.addr, g.out.tail(150))
		}
	})
	eventually(t, "the gateway to listen", func() bool {
		if g.over() {
			t.Fatalf("gateway %q ended:\n%s", args, g.out.tail(50))
		}
		line, ok := g.said("listening")
		if ok {
			g.addr, g.internal = line["addr"].(string), line["internal"].(string)
		}
		return ok
	})
	return g
}

func (g *gateway) url() string { return "ws://" + g.addr }

func (g *gateway) signal(s os.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		g.t.Fatalf("%v to gateway %d: %v", s, g.cmd.Process.Pid, err)
	}
}

// kill ends the gateway as a failing machine does, and waits for it.
func (g *gateway) kill() {
	g.cmd.Process.Kill()
	<-g.ended
}

func (g *gateway) over() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

// node is the name of the gateway's incarnation in Redis.
func (g *gateway) node() string {
	g.t.Helper()
	line, ok := g.said("lease begun")
	if !ok {
		g.t.Fatal("the gateway has not begun a lease")
	}
	return line["node"].(string)
}

// said finds the last line of the log with a message.
func (g *gateway) said(message string) (line map[string]any, ok bool) {
	for text := range strings.Lines(g.out.String()) {
		var l map[string]any
		if json.Unmarshal([]byte(text), &l) == nil && l["msg"] == message {
			line, ok = l, true
		}
	}
	return line, ok
}

// ready says whether /readyz is green.
func (g *gateway) ready() bool {
	status, _ := g.get("http://" + g.addr + "/readyz")
	return status == http.StatusOK
}

// get gives the status and body of a GET, 0 if there was no answer.
func (g *gateway) get(url string) (status int, body string) {
	return request(http.MethodGet, url, "", "")
}

// request makes an HTTP request with a bearer key, if there is one.
func request(method, url, key, body string) (status int, answer string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := plain.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

// plain keeps no connections, so that none is left when a test ends.
var plain = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// metric gives the value of a metric, by its name with labels as the gateway
// prints them; 0 if it is not there.
func (g *gateway) metric(name string) float64 {
	g.t.Helper()
	status, body := g.get("http://" + g.internal + "/metrics")
	if status != http.StatusOK {
		g.t.Fatalf("/metrics: got %d: %s", status, body)
	}
	for line := range strings.Lines(body) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				g.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// output is what a process has said.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) tail(lines int) string {
	all := strings.SplitAfter(o.String(), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

// eventually waits until ok, or fails the test.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// during listens to Redis's clock for a while, whatever ours does.
func during(t testing.TB, rdb *redis.Client, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d+patience)
	defer cancel()
	err := rdb.BLPop(ctx, d, "nothing is ever in this list").Err()
	if !errors.Is(err, redis.Nil) {
		t.Fatalf("waiting on Redis: %v", err)
	}
}

// redisServer is a Redis of the test's own with a client that waits long.
func redisServer(t testing.TB) (*redistest.Server, *redis.Client) {
	t.Helper()
	s := redistest.Start(t)
	o := redistest.Options(s.Addr())
	o.ReadTimeout = time.Minute
	rdb := redis.NewClient(o)
	t.Cleanup(func() { rdb.Close() })
	return s, rdb
}

// redisTime is Redis's clock, in ms.
func redisTime(t testing.TB, rdb *redis.Client) int64 {
	t.Helper()
	now, err := rdb.Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return now.UnixMilli()
}

// paused is how far Redis's clock is ahead of awake time, in ms.
func paused(t testing.TB, rdb *redis.Client) int64 {
	t.Helper()
	n, err := rdb.HGet(t.Context(), "rg:{0}:clock", "paused").Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	return n
}
