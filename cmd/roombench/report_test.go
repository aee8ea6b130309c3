package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func someFigures() *bench {
	b := &bench{urls: []string{"ws://a"}, procs: procs{"gw": 1, "redis": 2}, duration: time.Second}
	m := measured{took: 2 * time.Second, servers: time.Second, redis: 100 * time.Millisecond, own: 250 * time.Millisecond}
	b.rate("fan-out, saturated", "deliveries/s", m, 400_000)
	b.costs("fan-out, saturated", "1 M deliveries", 1e6, m, 400_000)
	times := newTimes()
	for i := range 1000 {
		times.RecordValue(int64(i+1) * 10)
	}
	b.percentiles("fan-out, 50 messages/s", "delivery", times)
	b.busy("fan-out, 50 messages/s", m)
	return b
}

// The table says each figure with its unit, by workload, and every problem.
func TestReport_table(t *testing.T) {
	t.Parallel()
	b := someFigures()
	b.problem(Problem{loss, "u1 in r at a: message 3 never came"})
	var out bytes.Buffer
	b.report(nil).table(&out)
	want := `
fan-out, saturated
  deliveries/s                                  200,000 /s
  server CPU per 1 M deliveries                    2.50 s
  Redis CPU per 1 M deliveries                    0.250 s
  roombench CPU per 1 M deliveries                0.625 s

fan-out, 50 messages/s
  delivery p50                                     5.00 ms
  delivery p90                                     9.01 ms
  delivery p99                                     9.90 ms
  delivery p99.9                                   9.99 ms
  delivery max                                     10.0 ms
  server CPU                                       50.0 % of a core
  Redis CPU                                        5.00 % of a core
  roombench CPU                                    12.5 % of a core

BROKEN PROMISES
  loss: u1 in r at a: message 3 never came

`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// The file has everything that the table has.
func TestReport_json(t *testing.T) {
	t.Parallel()
	b := someFigures()
	for range mostProblems + 3 {
		b.problem(Problem{doubling, "x"})
	}
	want := b.report(errors.New("broken"))
	file := filepath.Join(t.TempDir(), "figures.json")
	if err := save(file, want); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := len(got.Problems); n != mostProblems+1 || got.Problems[n-1].What != "3 more of these" {
		t.Errorf("got %d problems, the last %v", n, got.Problems[n-1])
	}
}

// Without processes to watch there are no figures of them.
func TestReport_unwatched(t *testing.T) {
	t.Parallel()
	b := &bench{}
	m := measured{took: time.Second, own: time.Second}
	b.costs("w", "thing", 1, m, 1)
	b.busy("w", m)
	want := []Figure{{"w", "roombench CPU per thing", 1, "s"}, {"w", "roombench CPU", 100, "% of a core"}}
	if diff := cmp.Diff(want, b.figures); diff != "" {
		t.Error(diff)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{
		0: "0", 0.00012: "0.00012", 0.0123: "0.0123", 0.5: "0.500", 1.234: "1.23", 12.34: "12.3", 99.97: "100", 123.4: "123",
		1234.5: "1,234", 1234567: "1,234,567", -1234: "-1,234", -123: "-123", -0.5: "-0.500",
	} {
		if got := number(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
}

// Medians are compared, and each required ratio is held against its bound.
func TestRatios(t *testing.T) {
	t.Parallel()
	figures := func(deliveries, cpu, churn []float64) (all []Figure) {
		for i := range deliveries {
			all = append(all,
				Figure{"fan-out, 1 room × 1000, saturated", "deliveries/s", deliveries[i], "/s"},
				Figure{"fan-out, 1 room × 1000, saturated", "server CPU per 1 M deliveries", cpu[i], "s"},
				Figure{"fan-out, 1 room × 1000, 50 messages/s", "server CPU", 50, "% of a core"},
				Figure{"small rooms, 2 × 2, 4 messages/s", "delivery p50", 5, "ms"},
				Figure{"churn, 2 rooms", "joins+leaves/s", 5, "/s"},
				Figure{"churn, 2 rooms, saturated", "joins+leaves/s", churn[i], "/s"},
			)
		}
		return all
	}
	bare := figures([]float64{100, 100, 1000}, []float64{2, 2, 2}, []float64{100, 100, 100})
	for i := range bare {
		if bare[i].Unit == "ms" {
			bare[i].Value = 2
		}
	}
	got := ratios(figures([]float64{90, 1, 100}, []float64{3, 2.5, 9}, []float64{80, 84, 99}), bare)
	want := []Ratio{
		{"fan-out, 1 room × 1000, saturated", "deliveries/s", "/s", 90, 100, 0.9, "≥ 0.85", false, false},
		{"fan-out, 1 room × 1000, saturated", "server CPU per 1 M deliveries", "s", 3, 2, 1.5, "≤ 1.2", false, true},
		{"fan-out, 1 room × 1000, 50 messages/s", "server CPU", "% of a core", 50, 50, 1, "", false, false},
		{"small rooms, 2 × 2, 4 messages/s", "delivery p50", "ms", 5, 2, 2.5, "≤ 1.2", true, true},
		{"churn, 2 rooms", "joins+leaves/s", "/s", 5, 5, 1, "", false, false},
		{"churn, 2 rooms, saturated", "joins+leaves/s", "/s", 84, 100, 0.84, "≥ 0.85", false, true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var out bytes.Buffer
	if ratioTable(&out, got) {
		t.Error("all are said to be as required")
	}
	for _, line := range []string{
		"deliveries/s 90.0 100 0.90 required ≥ 0.85: holds",
		"server CPU per 1 M deliveries, s 3.00 2.00 1.50 required ≤ 1.2: MISSED",
		"server CPU, % of a core 50.0 50.0 1.00",
		"delivery p50, ms 5.00 2.00 2.50 aim ≤ 1.2: MISSED",
	} {
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), line) {
			t.Errorf("%q is not in:\n%s", line, &out)
		}
	}
	for _, good := range [][]Ratio{got[:1], got[3:4]} {
		if !ratioTable(&out, good) {
			t.Errorf("what is as required is not said to be: %+v", good)
		}
	}
}

// Each requirement has one bound.
func TestRatios_required(t *testing.T) {
	t.Parallel()
	for _, q := range requirements {
		if (q.atLeast == 0) == (q.atMost == 0) {
			t.Errorf("%v: has no bound, or two", q)
		}
	}
}

// What this process uses can be read.
func TestProcs_sample(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("there is no /proc here")
	}
	p := procs{"gw": os.Getpid(), "redis-1": os.Getpid()}
	u, err := p.sample()
	if err != nil {
		t.Fatal(err)
	}
	if u.serverMemory < 1<<20 || u.redisMemory < 1<<20 || u.own <= 0 {
		t.Errorf("got %+v", u)
	}
	if servers, redis := p.watches(); !servers || !redis {
		t.Errorf("watches %v, %v", servers, redis)
	}
	if _, err := (procs{"gone": 1 << 30}).sample(); err == nil || !strings.Contains(err.Error(), "--pid gone=") {
		t.Errorf("a process that is not there: got %v", err)
	}
}

// Off a terminal, progress is a line now and then.
func TestProgress_lines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newProgress(&out)
	for i := range 100 {
		p.status("at %d", i)
	}
	p.say("done")
	if out.String() != "done\n" {
		t.Errorf("got %q", out.String())
	}
	p.last = time.Time{}
	p.status("at %d", 101)
	p.status("at %d", 102)
	if out.String() != "done\nat 101\n" {
		t.Errorf("got %q", out.String())
	}
}
