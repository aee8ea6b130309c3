package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

type compareFlags struct {
	Workloads   []string      `arg:"" optional:"" name:"workload" help:"fanout, small, churn, storm, idle; all if none is named."`
	Gateway     string        `required:"" placeholder:"FILE" help:"The roomgate program."`
	RedisServer string        `default:"redis-server" placeholder:"FILE" help:"The redis-server program."`
	Rounds      int           `default:"3" help:"How often each workload is run against each; the medians are compared."`
	Duration    time.Duration `default:"3s" help:"How long each part of a workload is measured. Longer is steadier."`
	Warmup      time.Duration `default:"1s" help:"How long each part runs before that."`
	Settle      time.Duration `default:"3s" help:"idle: how long after the last client came before it is measured."`
	JSON        string        `name:"json" placeholder:"FILE" help:"Write the figures to a file, too."`
	Strict      bool          `help:"Exit with 1 if a required ratio does not hold."`
	Load        `embed:""`
}

// A required is what a ratio has to be.
type required struct {
	workload, name string // of figures: what they begin with
	part           string // what the workload's name ends with, if that matters
	atLeast        float64
	atMost         float64
	aim            bool // wished for only
}

// requirements are those of the project: throughput, and the CPU that a
// delivery takes; and an aim, that it is not late either.
var requirements = []required{
	{workload: "fan-out", name: "deliveries/s", part: "saturated", atLeast: 0.85},
	{workload: "fan-out", name: "server CPU per", part: "saturated", atMost: 1.2},
	{workload: "small rooms", name: "messages/s", part: "saturated", atLeast: 0.85},
	{workload: "small rooms", name: "server CPU per", part: "saturated", atMost: 1.2},
	{workload: "small rooms", name: "delivery p50", part: "messages/s", atMost: 1.2, aim: true},
	{workload: "churn", name: "joins+leaves/s", part: "saturated", atLeast: 0.85},
	{workload: "storm", name: "clients/s", atLeast: 0.85},
}

// A Ratio is what one figure of ours is to that of bare.
type Ratio struct {
	Workload string  `json:"workload"`
	Name     string  `json:"name"`
	Unit     string  `json:"unit,omitempty"`
	Ours     float64 `json:"ours"`
	Bare     float64 `json:"bare"`
	Ratio    float64 `json:"ratio"`              // 0: there is none
	Required string  `json:"required,omitempty"` // "≥ 0.85"
	Aim      bool    `json:"aim,omitempty"`      // not required, but wished for
	Missed   bool    `json:"missed,omitempty"`
}

// ratios compares the medians of two lists of figures, in the order of the first.
func ratios(ours, bare []Figure) []Ratio {
	type key struct{ workload, name string }
	values := func(figures []Figure) map[key][]float64 {
		m := map[key][]float64{}
		for _, f := range figures {
			k := key{f.Workload, f.Name}
			m[k] = append(m[k], f.Value)
		}
		return m
	}
	of, others := values(ours), values(bare)
	var all []Ratio
	seen := map[key]bool{}
	for _, f := range ours {
		k := key{f.Workload, f.Name}
		if seen[k] {
			continue
		}
		seen[k] = true
		r := Ratio{Workload: f.Workload, Name: f.Name, Unit: f.Unit, Ours: median(of[k]), Bare: median(others[k])}
		if r.Bare > 0 {
			r.Ratio = r.Ours / r.Bare
		}
		for _, q := range requirements {
			if !strings.HasPrefix(f.Workload, q.workload) || !strings.HasSuffix(f.Workload, q.part) || !strings.HasPrefix(f.Name, q.name) {
				continue
			}
			r.Aim = q.aim
			if q.atLeast > 0 {
				r.Required, r.Missed = fmt.Sprintf("≥ %v", q.atLeast), r.Ratio < q.atLeast
			} else {
				r.Required, r.Missed = fmt.Sprintf("≤ %v", q.atMost), r.Ratio > q.atMost || r.Ratio == 0
			}
		}
		all = append(all, r)
	}
	return all
}

// ratioTable writes ratios for a person, and says whether all are as required.
func ratioTable(w io.Writer, all []Ratio) bool {
	workload, good := "", true
	fmt.Fprintf(w, "\n%-42s %12s %12s %8s\n", "", "roomgate", "bare", "ratio")
	for _, r := range all {
		if r.Workload != workload {
			workload = r.Workload
			fmt.Fprintf(w, "\n%s\n", workload)
		}
		ratio, verdict := "–", ""
		if r.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		if r.Required != "" {
			verdict = "required " + r.Required
			if r.Aim {
				verdict = "aim " + r.Required
			}
			if r.Missed {
				verdict += ": MISSED"
				good = good && r.Aim
			} else {
				verdict += ": holds"
			}
		}
		name := r.Name
		if r.Unit != "" && r.Unit != "/s" {
			name += ", " + r.Unit
		}
		line := fmt.Sprintf("  %-40s %12s %12s %8s  %s", name, number(r.Ours), number(r.Bare), ratio, verdict)
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
	fmt.Fprintln(w)
	return good
}

// errMissed says that a required ratio does not hold.
var errMissed = errors.New("a required ratio was missed")

func (f *compareFlags) run(ctx context.Context, stdout, stderr io.Writer) error {
	if err := f.Load.check(); err != nil {
		return err
	}
	if f.Rounds < 1 || f.Duration < 100*time.Millisecond {
		return fmt.Errorf("%w: --rounds must be at least 1 and --duration at least 100ms", errUsage)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "roombench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	names := f.Workloads
	if len(names) == 0 {
		for _, w := range workloads {
			if !w.own {
				names = append(names, w.name)
			}
		}
	}
	for _, w := range workloads {
		if w.own && slices.Contains(names, w.name) {
			return fmt.Errorf("%w: %s cannot be compared: bare servers cannot do it", errUsage, w.name)
		}
	}
	p, began := newProgress(stderr), time.Now()
	figures := map[bool][]Figure{} // by whether they are ours
	for round := range f.Rounds {
		for _, name := range names {
			for _, ours := range []bool{round%2 == 0, round%2 != 0} { // who goes first changes
				who := map[bool]string{true: "roomgate", false: "bare"}[ours]
				p.say("round %d of %d: %s, %s", round+1, f.Rounds, name, who)
				b := &bench{load: f.Load, warmup: f.Warmup, duration: f.Duration, settle: f.Settle, progress: p}
				s := sitting{compareFlags: f, self: self, dir: dir, ours: ours}
				err := s.run(ctx, func(urls []string, procs procs) error {
					b.urls, b.procs = urls, procs
					return b.run(ctx, []string{name})
				})
				p.clear()
				if err != nil {
					b.report(err).table(stdout)
					return fmt.Errorf("%s: %w", who, err)
				}
				figures[ours] = append(figures[ours], b.figures...)
			}
		}
	}
	r := Comparison{Began: began, Rounds: f.Rounds, Duration: f.Duration.String(), Load: f.Load, Ratios: ratios(figures[true], figures[false])}
	if good := ratioTable(stdout, r.Ratios); !good && f.Strict {
		err = errMissed
	}
	if f.JSON != "" {
		err = errors.Join(err, save(f.JSON, r))
	}
	return err
}

// A Comparison is what a run of compare comes to.
type Comparison struct {
	Began    time.Time `json:"began"`
	Rounds   int       `json:"rounds"`
	Duration string    `json:"duration"`
	Load     Load      `json:"load"`
	Ratios   []Ratio   `json:"ratios"`
}

// A sitting is a fresh Redis and two fresh servers, for one workload: what one
// leaves behind is no matter of the next.
type sitting struct {
	*compareFlags
	self, dir string
	ours      bool
	children  []*child
}

// run starts the processes, and ends them when do has returned.
func (s *sitting) run(ctx context.Context, do func(urls []string, procs procs) error) error {
	defer func() {
		for _, c := range s.children {
			c.end()
		}
	}()
	ports, err := freePorts(5)
	if err != nil {
		return err
	}
	redisAddr := loopback(ports[0])
	database, err := s.start("redis", s.RedisServer, "--port", strconv.Itoa(ports[0]), "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--loglevel", "warning", "--dir", s.dir)
	if err != nil {
		return err
	}
	rdb := redis.NewClient(&redis.Options{Addr: redisAddr, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
	defer rdb.Close()
	if err := database.ready(ctx, func() bool { return rdb.Ping(ctx).Err() == nil }); err != nil {
		return err
	}
	procs := procs{redisName: database.cmd.Process.Pid}
	var urls []string
	for i := range 2 {
		addr := loopback(ports[1+2*i])
		program, args := s.self, []string{"bare", "--listen", addr, "--redis-url", "redis://" + redisAddr}
		if s.ours {
			program = s.Gateway
			args = []string{"--dev", "--listen", addr, "--internal-listen", loopback(ports[2+2*i]), "--redis-url", "redis://" + redisAddr,
				"--node-name", fmt.Sprintf("gw-%d", i+1), "--rate-limits=false", "--max-members=1000000", "--log-level=warn", "--log-format=json"}
		}
		c, err := s.start(fmt.Sprintf("server-%d", i+1), program, args...)
		if err != nil {
			return err
		}
		if err := c.ready(ctx, func() bool { return isReady(ctx, addr) }); err != nil {
			return err
		}
		procs[c.name] = c.cmd.Process.Pid
		urls = append(urls, "ws://"+addr)
	}
	err = do(urls, procs)
	if err != nil {
		for _, c := range s.children {
			if text := c.tail(); text != "" {
				err = fmt.Errorf("%w\n%s said:\n%s", err, c.name, text)
			}
		}
	}
	return err
}

// child is a process of ours.
type child struct {
	name  string
	cmd   *exec.Cmd
	log   string // a file
	ended chan struct{}
}

func (s *sitting) start(name, program string, args ...string) (*child, error) {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &child{name: name, cmd: exec.Command(program, args...), log: log.Name(), ended: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ROOMGATE_") {
			c.cmd.Env = append(c.cmd.Env, v)
		}
	}
	endsWithUs(c.cmd)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.ended)
		c.cmd.Wait() // its status is that of a process that was killed
	}()
	s.children = append(s.children, c)
	return c, nil
}

// end kills the process and waits for it.
func (c *child) end() {
	c.cmd.Process.Kill()
	<-c.ended
}

// ready waits until the process answers.
func (c *child) ready(ctx context.Context, ok func() bool) error {
	end := time.NewTimer(patience)
	defer end.Stop()
	for !ok() {
		select {
		case <-c.ended:
			return fmt.Errorf("%s ended:\n%s", c.name, c.tail())
		case <-end.C:
			return fmt.Errorf("%s is not ready after %v:\n%s", c.name, patience, c.tail())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// tail is the last of what the process has said.
func (c *child) tail() string {
	b, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-2000):]))
}

func isReady(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return false
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts finds ports that nobody listens on, all different.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
