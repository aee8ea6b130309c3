package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// full returns metrics of which every one has been used.
func full() *metrics {
	m := newMetrics()
	m.script("enter", "ok", 300*time.Microsecond)
	m.script("enter", "full", time.Millisecond)
	m.pipeline(17, 2*time.Millisecond)
	m.request("joinRoom", 0)
	m.close(4008)
	m.stats(map[string]string{
		"gateway_connections":   "Open WebSocket connections.",
		"pubsub_messages_total": "Messages received from Redis.",
		"gateway_feeds":         "Rooms with members on this gateway.",
	}, func() map[string]float64 {
		return map[string]float64{"gateway_connections": 3, "pubsub_messages_total": 12}
	})
	return m
}

func scrape(t *testing.T, m *metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("got %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// The names follow Prometheus's rules and ours.
func TestMetrics_lint(t *testing.T) {
	t.Parallel()
	m := full()
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := regexp.MustCompile(`^roomgate_(gateway|roomstore|pubsub)_[a-z_]+$|^roomgate_build_info$`)
	for _, f := range families {
		if name := f.GetName(); strings.HasPrefix(name, "roomgate") && !ours.MatchString(name) {
			t.Errorf("%s is not roomgate_PACKAGE_WHAT", name)
		}
	}
}

// What was observed is what is scraped.
func TestMetrics_handler(t *testing.T) {
	t.Parallel()
	text := scrape(t, full())
	for _, want := range []string{
		`roomgate_roomstore_script_seconds_count{outcome="ok",script="enter"} 1`,
		`roomgate_roomstore_script_seconds_bucket{outcome="full",script="enter",le="0.001"} 1`,
		`roomgate_roomstore_pipeline_calls_bucket{le="16"} 0`,
		`roomgate_roomstore_pipeline_calls_bucket{le="32"} 1`,
		`roomgate_roomstore_pipeline_seconds_count 1`,
		`roomgate_gateway_requests_total{code="0",method="joinRoom"} 1`,
		`roomgate_gateway_closes_total{code="4008"} 1`,
		"# TYPE roomgate_gateway_connections gauge\nroomgate_gateway_connections 3",
		"# TYPE roomgate_pubsub_messages_total counter\nroomgate_pubsub_messages_total 12",
		`roomgate_build_info{go="go`,
		"go_goroutines ",
		"process_open_fds ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("scrape does not have %s", want)
		}
	}
	if strings.Contains(text, "roomgate_gateway_feeds") {
		t.Error("scrape has a number that was not read")
	}
}

// Clients cannot make labels: neither by methods nor by close codes of their
// own invention.
func TestMetrics_labelsAreBounded(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	for i := range 1000 {
		m.request("method"+strconv.Itoa(i), -32601)
		m.close(3000 + i)
		m.close(4600 + i)
	}
	text := scrape(t, m)
	for _, want := range []string{
		`roomgate_gateway_requests_total{code="-32601",method="unknown"} 1000`,
		`roomgate_gateway_closes_total{code="other"} 2000`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("scrape does not have %s", want)
		}
	}
}

// Every method of the protocol is counted under its name.
func TestMetrics_knowsAllMethods(t *testing.T) {
	t.Parallel()
	f, err := parser.ParseFile(token.NewFileSet(), "../../protocol/protocol.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Method") {
			return true
		}
		found++
		lit, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			t.Errorf("%s is not a literal", spec.Names[0])
			return true
		}
		if name, _ := strconv.Unquote(lit.Value); !methods[name] {
			t.Errorf("protocol.%s is not in methods in metrics.go", spec.Names[0])
		}
		return true
	})
	if found == 0 || found != len(methods) {
		t.Errorf("package protocol has %d methods, metrics.go has %d", found, len(methods))
	}
}

// A number without a help text does not take the others with it.
func TestMetrics_stats_withoutHelp(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	m.stats(map[string]string{"gateway_feeds": "Rooms with members on this gateway."}, func() map[string]float64 {
		return map[string]float64{"gateway_feeds": 2, "gateway_fedes": 2}
	})
	if text := scrape(t, m); !strings.Contains(text, "roomgate_gateway_feeds 2") || strings.Contains(text, "fedes") {
		t.Error("scrape has not exactly the number with a help text")
	}
}
