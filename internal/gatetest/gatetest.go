//go:build linux

// Package gatetest runs gateways as processes of their own for a test: built
// from the sources, on a free port of the loopback address, ended with the test.
package gatetest

import (
	"bytes"
	"context"
	"encoding/json"
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

	"go.uber.org/goleak"

	"github.com/roomgate/roomgate/internal/redistest"
)

// Main runs the tests of a package that starts gateways, and fails if they leave
// goroutines behind. It does not return.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "roomgate-test-")
	if err != nil {
		panic(err)
	}
	binary = sync.OnceValues(func() (string, error) { return build(dir) })
	goleak.VerifyTestMain(m, redistest.Dialing(), goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// binary is set by [Main].
var binary func() (string, error)

// Binary gives the path of the gateway program, which is built when it is first
// asked for. Tests may run under the race detector; the gateway does so only if
// GOFLAGS says so.
func Binary() (string, error) { return binary() }

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

// Patience is how long a test waits for what must come. It is long, since the
// machine may be busy, and costs nothing when all is well.
const Patience = 20 * time.Second

// The times of gateways that [Start] starts. Clients that are gone are missed
// sooner than by default, and no test waits for more than a few of these.
const (
	SessionTTL = 3 * time.Second
	LeaseTTL   = 2 * time.Second
	Heartbeat  = time.Second
	Drain      = time.Second
)

// A Gateway is a process. Its methods are for the goroutine of its test unless
// they say otherwise.
type Gateway struct {
	t        testing.TB
	Cmd      *exec.Cmd
	Out      *Output
	Addr     string        // of the public listener
	Internal string        // of the other
	Ended    chan struct{} // closed when the process has ended
}

// Start starts a gateway on a Redis, at an address or a URL, and returns when it
// is ready. Flags given replace those of the same name that all gateways get.
func Start(t testing.TB, redis string, flags ...string) *Gateway {
	t.Helper()
	flags = append(FlagsOf(redis), flags...)
	if !strings.Contains(redis, "://") {
		redis = "redis://" + redis
	}
	g := Launch(t, append([]string{
		"--dev", "--redis-url=" + redis, "--redis-timeout=1s",
		fmt.Sprintf("--session-ttl=%v", SessionTTL), fmt.Sprintf("--lease-ttl=%v", LeaseTTL),
		fmt.Sprintf("--heartbeat-interval=%v", Heartbeat), fmt.Sprintf("--drain-window=%v", Drain),
	}, flags...))
	Eventually(t, "the gateway to be ready", g.Ready)
	return g
}

// FlagsOf gives the flags that gateways have on a Redis, at an address or a URL, besides
// those that all have.
func FlagsOf(redis string) []string {
	if strings.Contains(redis, "addr=") && !strings.Contains(redis, "master_name=") {
		return []string{fmt.Sprintf("--partitions=%d", ClusterPartitions)}
	}
	return nil
}

// Launch starts a gateway and returns when it listens. "--no-dev" takes the
// flag --dev away.
func Launch(t testing.TB, flags []string) *Gateway {
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
	g := &Gateway{t: t, Cmd: exec.Command(path, args...), Out: &Output{}, Ended: make(chan struct{})}
	g.Cmd.Stdout, g.Cmd.Stderr = g.Out, g.Out
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ROOMGATE_") {
			g.Cmd.Env = append(g.Cmd.Env, v)
		}
	}
	// It ends with us, however we end.
	g.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.Ended)
		g.Cmd.Wait() // its status is asked for where it matters
	}()
	t.Cleanup(func() {
		g.Kill()
		for _, bad := range []string{"panic:", "DATA RACE", `"level":"ERROR"`} {
			if strings.Contains(g.Out.String(), bad) {
				t.Errorf("a gateway said %q", bad)
			}
		}
		if t.Failed() {
			t.Logf("gateway %d at %s said:\n%s", g.Cmd.Process.Pid, g.Addr, g.Out.Tail(150))
		}
	})
	Eventually(t, "the gateway to listen", func() bool {
		if g.Over() {
			t.Fatalf("gateway %q ended:\n%s", args, g.Out.Tail(50))
		}
		line, ok := g.Said("listening")
		if ok {
			g.Addr, g.Internal = line["addr"].(string), line["internal"].(string)
		}
		return ok
	})
	return g
}

// URL is what clients connect to.
func (g *Gateway) URL() string { return "ws://" + g.Addr }

// Signal sends the process a signal.
func (g *Gateway) Signal(s os.Signal) {
	g.t.Helper()
	if err := g.Cmd.Process.Signal(s); err != nil {
		g.t.Fatalf("%v to gateway %d: %v", s, g.Cmd.Process.Pid, err)
	}
}

// Kill ends the gateway as a failing machine does, and waits for it.
func (g *Gateway) Kill() {
	g.Cmd.Process.Kill()
	<-g.Ended
}

// Over says whether the process has ended.
func (g *Gateway) Over() bool {
	select {
	case <-g.Ended:
		return true
	default:
		return false
	}
}

// Node is the name of the gateway's incarnation in Redis.
func (g *Gateway) Node() string {
	g.t.Helper()
	line, ok := g.Said("lease begun")
	if !ok {
		g.t.Fatal("the gateway has not begun a lease")
	}
	return line["node"].(string)
}

// Said finds the last line of the log with a message.
func (g *Gateway) Said(message string) (line map[string]any, ok bool) {
	for text := range strings.Lines(g.Out.String()) {
		var l map[string]any
		if json.Unmarshal([]byte(text), &l) == nil && l["msg"] == message {
			line, ok = l, true
		}
	}
	return line, ok
}

// Ready says whether /readyz is green.
func (g *Gateway) Ready() bool {
	status, _ := g.Get("http://" + g.Addr + "/readyz")
	return status == http.StatusOK
}

// Get gives the status and body of a GET, 0 if there was no answer.
func (g *Gateway) Get(url string) (status int, body string) {
	return Request(http.MethodGet, url, "", "")
}

// Request makes an HTTP request with a bearer key, if there is one.
func Request(method, url, key, body string) (status int, answer string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := Plain.Do(req)
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

// Plain keeps no connections, so that none is left when a test ends.
var Plain = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Metric gives the value of a Metric, by its name with labels as the gateway
// prints them; 0 if it is not there.
func (g *Gateway) Metric(name string) float64 {
	g.t.Helper()
	status, body := g.Get("http://" + g.Internal + "/metrics")
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

// Output is what a process has said.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write is for the process.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// String gives all of it.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Tail gives the last lines.
func (o *Output) Tail(lines int) string {
	all := strings.SplitAfter(o.String(), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

// Eventually waits until ok, or fails the test.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v for %s", Patience, what)
		}
	}
}

// AttributeValues gives the values of a room's attributes as Redis has them, by key: each
// is stored behind its owner and whether it goes with it.
func AttributeValues(stored map[string]string) map[string]string {
	values := make(map[string]string, len(stored))
	for key, field := range stored {
		_, rest, _ := strings.Cut(field, "\x00")
		_, values[key], _ = strings.Cut(rest, "\x00")
	}
	return values
}
