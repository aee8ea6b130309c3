//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/internal/redistest"
)

// The test binary stands in for the program where that starts itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "bare" || os.Args[1] == "returners") {
		main()
		return
	}
	gatetest.Main(m)
}

// small makes every workload small and short.
var small = []string{
	"--duration=300ms", "--warmup=100ms", "--fanout-members=30", "--fanout-in-flight=4", "--fanout-rate=40", "--small-rooms=5", "--small-rate=20",
	"--churn-rooms=3", "--churn-members=4", "--churners=10", "--churn-rate=60", "--storm-members=60", "--idle-members=60", "--room-size=7",
	"--big-room-members=60", "--big-room-rate=20", "--big-room-churners=3", "--reconnect-members=60", "--reconnect-cut=40", "--reconnect-rate=200",
}

// short leaves out what only "roombench run" has.
var short = append([]string{"--settle=100ms"}, small...)

func startBare(t *testing.T, redisAddr string) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- serveBare(ctx, ln, redistest.Options(redisAddr), func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("bare: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatal("bare ended")
	}
	return "ws://" + ln.Addr().String()
}

// figuresOf runs the program and gives the figures that it has written.
func figuresOf(t *testing.T, args ...string) Report {
	t.Helper()
	file := filepath.Join(t.TempDir(), "figures.json")
	var out, progress bytes.Buffer
	if err := run(t.Context(), append(args, "--json="+file), &out, &progress); err != nil {
		t.Fatalf("%q: %v\n%s%s", args, err, &progress, &out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// complete checks that there is a figure of everything that was measured.
func complete(t *testing.T, r Report) {
	t.Helper()
	got := map[string]float64{}
	for _, f := range r.Figures {
		got[f.Workload+": "+f.Name] = f.Value
	}
	for _, want := range []string{
		"fan-out, 1 room × 30, saturated: deliveries/s",
		"fan-out, 1 room × 30, saturated: roombench CPU per 1 M deliveries",
		"fan-out, 1 room × 30, 40 messages/s: delivery p99",
		"small rooms, 5 × 4, saturated: messages/s",
		"small rooms, 5 × 4, 100 messages/s: delivery p50",
		"churn, 3 rooms × 4, 10 churners, saturated: joins+leaves/s",
		"churn, 3 rooms × 4, 10 churners, 60 joins+leaves/s: join answered p99.9",
		"storm, 60 × connect, log in, enter: all are in after",
		"storm, 60 × connect, log in, enter: clients/s",
	} {
		if got[want] <= 0 {
			t.Errorf("%s: got %v", want, got[want])
		}
	}
	if len(r.Problems) > 0 || r.Error != "" {
		t.Errorf("got problems %v, error %q", r.Problems, r.Error)
	}
}

// Every workload runs against gateways, and they keep what they promise.
func TestRun_gateways(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a := gatetest.Start(t, server.Addr(), "--rate-limits=false")
	b := gatetest.Start(t, server.Addr(), "--rate-limits=false")
	r := figuresOf(t, append([]string{"--url=" + a.URL() + "," + b.URL(), "--pid=gw1=" + strconv.Itoa(a.Cmd.Process.Pid), "--loops=2"}, short...)...)
	complete(t, r)
	var memory bool
	for _, f := range r.Figures {
		memory = memory || f.Name == "server memory per connection"
	}
	if !memory {
		t.Errorf("no memory in %v", r.Figures)
	}
	required := 0 // of all that is measured
	for _, q := range ratios(r.Figures, r.Figures) {
		if q.Required != "" {
			required++
		}
	}
	if required != len(requirements) {
		t.Errorf("%d requirements are about figures that there are, want all %d", required, len(requirements))
	}
	rdb := server.Client(t)
	gatetest.Eventually(t, "the clients to be logged out", func() bool {
		keys, err := rdb.Keys(t.Context(), "*bench-*").Result()
		return err == nil && len(keys) == 0
	})
}

// Clients that are cut off come back to gateways, and have had everything; a server that
// brings nobody back fails the run.
func TestRun_reconnect(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a := gatetest.Start(t, server.Addr(), "--rate-limits=false")
	b := gatetest.Start(t, server.Addr(), "--rate-limits=false")
	r := figuresOf(t, append([]string{"reconnect", "--url=" + a.URL() + "," + b.URL()}, short...)...)
	got := map[string]float64{}
	for _, f := range r.Figures {
		got[f.Name] = f.Value
	}
	for _, want := range []string{"delivery, undisturbed p99", "delivery, meanwhile p50", "all are back after", "clients/s"} {
		if got[want] <= 0 {
			t.Errorf("%s: got %v", want, got[want])
		}
	}
	var out bytes.Buffer
	err := run(t.Context(), append([]string{"reconnect", "--url=" + startBare(t, server.Addr())}, short...), &out, io.Discard)
	if !errors.Is(err, errBroken) || !strings.Contains(out.String(), "heard that somebody left") {
		t.Errorf("without resume: got %v\n%s", err, &out)
	}
}

// In a room that is very large messages come to all, and everybody knows how many they are.
func TestRun_bigRoom(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a := gatetest.Start(t, server.Addr(), "--rate-limits=false", "--max-members=1200")
	b := gatetest.Start(t, server.Addr(), "--rate-limits=false", "--max-members=1200")
	args := append([]string{"bigroom", "--url=" + a.URL() + "," + b.URL()}, short...)
	r := figuresOf(t, append(args, "--big-room-members=1050", "--duration=1s")...)
	got := map[string]float64{}
	for _, f := range r.Figures {
		got[f.Workload+": "+f.Name] = f.Value
	}
	for _, want := range []string{
		"big room, 1 × 1050: all are in after", "big room, 1 × 1050, 20 messages/s: delivery p99",
		"big room, 1 × 1050, 3 come and go: entries and departures/s", "big room, 1 × 1050, 3 come and go: told of members, times a second",
	} {
		if got[want] <= 0 {
			t.Errorf("%s: got %v of %v", want, got[want], got)
		}
	}
}

// Every workload runs against bare servers.
func TestRun_bare(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b := startBare(t, server.Addr()), startBare(t, server.Addr())
	complete(t, figuresOf(t, append([]string{"run", "--url=" + a, "--url=" + b}, short...)...))
}

// Gateways and bare servers are compared, by processes that end with it.
func TestCompare(t *testing.T) {
	t.Parallel()
	if _, err := redisServer(); err != nil {
		redistest.Start(t) // skips, or fails
	}
	gateway, err := gatetest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	name, _ := redisServer()
	file := filepath.Join(t.TempDir(), "ratios.json")
	var out, progress bytes.Buffer
	args := append([]string{"compare", "fanout", "idle", "--gateway=" + gateway, "--redis-server=" + name, "--rounds=1", "--json=" + file}, short...)
	if err := run(t.Context(), args, &out, &progress); err != nil {
		t.Fatalf("%v\n%s%s", err, &progress, &out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c Comparison
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	required := 0
	for _, r := range c.Ratios {
		if r.Required != "" {
			required++
		}
	}
	if required != 2 {
		t.Errorf("%d of these are required, want 2: %+v", required, c.Ratios)
	}
	if !strings.Contains(out.String(), "required ≥ 0.85") {
		t.Errorf("the table does not say what is required:\n%s", &out)
	}
}

func redisServer() (string, error) {
	name := os.Getenv("ROOMGATE_TEST_REDIS_SERVER")
	if name == "" {
		name = "redis-server"
	}
	_, err := exec.LookPath(name)
	return name, err
}

// The secret is taken from the file only, as the servers take it.
func TestReadAccess_secret(t *testing.T) {
	t.Setenv("ROOMGATE_JWT_HS256_SECRET", strings.Repeat("v", 32))
	file := filepath.Join(t.TempDir(), "secret")
	for _, tt := range []struct{ text, want, err string }{
		{strings.Repeat("s", 32) + "\r\n", strings.Repeat("s", 32), ""},
		{strings.Repeat("s", 32) + "\n", strings.Repeat("s", 32), ""},
		{strings.Repeat("s", 31) + "\r\n", "", "31 bytes"},
	} {
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := readAccess("", file)
		if tt.err == "" && (err != nil || string(a.secret) != tt.want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: got %q and %v, want %q or %q", tt.text, a.secret, err, tt.want, tt.err)
		}
	}
	// A run that is not given the file makes no tokens.
	a, err := readAccess("", "")
	if token, tokenErr := a.token("ana"); err != nil || tokenErr != nil || token != "" {
		t.Errorf("without the file the token is %q, %v, %v", token, err, tokenErr)
	}
}

// A server whose limits lie below the load is refused, by the name of the flag
// that raises them.
func TestRun_limits(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, tt := range []struct {
		name, workload string
		flags          []string
		want           string
	}{
		{"rates", "fanout", nil, "--rate-limits=false"},
		{"rates of small rooms", "small", nil, "--rate-limits=false"},
		{"members", "fanout", []string{"--rate-limits=false", "--max-members=10"}, "--max-members=30"},
		{"members of churn", "churn", []string{"--max-members=3"}, "--max-members="},
		{"rooms", "storm", []string{"--max-rooms=2"}, "--max-rooms=0"},
		{"connections", "idle", []string{"--max-connections=5"}, "--max-connections=0"},
		{"tokens", "idle", []string{"--no-dev", "--jwt-hs256-secret-file=SECRET"}, "--dev"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			flags := append([]string{"--redis-prefix=" + redistest.Prefix()}, tt.flags...)
			for i, f := range flags {
				if name, ok := strings.CutSuffix(f, "SECRET"); ok {
					file := filepath.Join(t.TempDir(), "secret")
					if err := os.WriteFile(file, bytes.Repeat([]byte("s"), 32), 0o600); err != nil {
						t.Fatal(err)
					}
					flags[i] = name + file
				}
			}
			g := gatetest.Start(t, server.Addr(), flags...)
			err := run(t.Context(), append([]string{tt.workload, "--url=" + g.URL()}, short...), io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), "the server refuses the load; ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to name %s", err, tt.want)
			}
		})
	}
}

// A server that delivers something twice fails the run, which says where.
func TestRun_doubling(t *testing.T) {
	t.Parallel()
	for _, workload := range []string{"fanout", "small", "churn"} {
		t.Run(workload, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			rdb := server.Client(t)
			sub := rdb.Subscribe(t.Context(), bareTopic)
			defer sub.Close()
			if _, err := sub.Receive(t.Context()); err != nil {
				t.Fatal(err)
			}
			url := startBare(t, server.Addr())
			ended := make(chan struct{})
			doubled := make(chan struct{})
			go func() {
				defer close(doubled)
				again(sub.Channel(), rdb, ended)
			}()
			var out bytes.Buffer
			err := run(t.Context(), append([]string{workload, "--url=" + url}, short...), &out, io.Discard)
			close(ended)
			<-doubled
			if !errors.Is(err, errBroken) {
				t.Fatalf("got %v, want %v\n%s", err, errBroken, &out)
			}
			if text := out.String(); !strings.Contains(text, "BROKEN PROMISES\n  doubling: ") || !strings.Contains(text, " in bench-") {
				t.Errorf("it does not say what and where:\n%s", text)
			}
		})
	}
}

// again publishes the fifth event of a workload itself once more: of messages
// with a stamp, or of churners.
func again(events <-chan *redis.Message, rdb *redis.Client, ended <-chan struct{}) {
	churner := regexp.MustCompile(`^.{6}x[0-9]+$`)
	count := 0
	for {
		select {
		case m := <-events:
			f := strings.Split(m.Payload, "\x00")
			if f[0] == bareMessage && strings.Contains(f[3], "~") || f[0] == bareJoined && churner.MatchString(f[2]) {
				if count++; count == 5 {
					rdb.Publish(context.Background(), bareTopic, m.Payload)
				}
			}
		case <-ended:
			return
		}
	}
}

// Clients that the server drops fail the run, too.
func TestRun_lost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	g := gatetest.Start(t, server.Addr(), "--rate-limits=false")
	done := make(chan error, 1)
	args := append(append([]string{"fanout", "--url=" + g.URL()}, short...), "--duration=1m")
	go func() { done <- run(t.Context(), args, io.Discard, io.Discard) }()
	gatetest.Eventually(t, "messages to flow", func() bool {
		return g.Metric(`roomgate_gateway_deliveries_total`) > 5000
	})
	g.Kill()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "lost its connection") {
		t.Errorf("got %v, want that a connection was lost", err)
	}
}

// Servers behind TLS, that ask for tokens, are like others; a certificate nobody vouches for
// and a wrong secret are not taken.
func TestRun_secured(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	secret := filepath.Join(t.TempDir(), "secret")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(secret, strings.Repeat("s", 32)+"\n")
	g := gatetest.Start(t, server.Addr(), "--no-dev", "--rate-limits=false", "--jwt-hs256-secret-file="+secret)
	target, err := url.Parse("http://" + g.Addr)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(target))
	t.Cleanup(front.Close)
	authority := filepath.Join(t.TempDir(), "ca.pem")
	write(authority, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})))
	address := "--url=wss" + strings.TrimPrefix(front.URL, "https")

	complete(t, figuresOf(t, append(slices.Clone(short), "fanout", "small", "churn", "storm",
		address, "--ca-file="+authority, "--jwt-hs256-secret-file="+secret)...))
	figuresOf(t, append(slices.Clone(short), "reconnect", address, "--ca-file="+authority, "--jwt-hs256-secret-file="+secret)...)

	other := filepath.Join(t.TempDir(), "other")
	write(other, strings.Repeat("o", 32))
	for want, args := range map[string][]string{
		"certificate signed by unknown authority":    {"--jwt-hs256-secret-file=" + secret},
		"give the gateways' --jwt-hs256-secret-file": {"--ca-file=" + authority, "--jwt-hs256-secret-file=" + other},
		"a token is required":                        {"--ca-file=" + authority},
	} {
		err := run(t.Context(), append(append(slices.Clone(short), "storm", address), args...), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want it to say %s", args, err, want)
		}
	}
}

// What is wrong with the arguments is said, and every flag has a help text.
func TestRun_usage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, want string }{
		{"", "--url"},
		{"fanout", "--url"},
		{"karaoke --url=ws://127.0.0.1:1", `there is no workload "karaoke"; there are fanout, small, churn, storm, idle`},
		{"--url=ftp://127.0.0.1", "it must begin with ws:// or wss:// and a host"},
		{"--url=ws://127.0.0.1:1 --ca-file=/nowhere", "--ca-file: open /nowhere"},
		{"--url=ws://127.0.0.1:1 --ca-file=bench_test.go", "bench_test.go holds no certificate in PEM"},
		{"--url=ws://127.0.0.1:1 --jwt-hs256-secret-file=/nowhere", "--jwt-hs256-secret-file: open /nowhere"},
		{"--url=ws://127.0.0.1:1 --jwt-hs256-secret-file=/dev/null", "/dev/null has 0 bytes, gateways take 32 or more"},
		{"--url=ws://127.0.0.1:1 --payload=3", "--payload is 3, it must be from 35 to 2048"},
		{"--url=ws://127.0.0.1:1 --fanout-in-flight=2000", "--fanout-in-flight is 2000"},
		{"--url=ws://127.0.0.1:1 --duration=0s", "--duration"},
		{"idle --url=ws://127.0.0.1:1 --pid=gw=0", "--pid gw=0"},
		{"storm --url=ws://127.0.0.1:1", "connection refused"},
		{"compare", "--gateway"},
		{"compare --gateway=x --rounds=0", "--rounds"},
		{"bare --redis-url=http://x", "--redis-url"},
	} {
		err := run(t.Context(), strings.Fields(tt.args), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want it to say %s", tt.args, err, tt.want)
		}
	}
	for _, args := range []string{"--help", "run --help", "bare --help", "compare --help"} {
		var out bytes.Buffer
		if err := run(t.Context(), strings.Fields(args), &out, io.Discard); err != nil || !strings.Contains(out.String(), "Usage: roombench") {
			t.Errorf("%q: got %v, %q", args, err, &out)
		}
	}
}
