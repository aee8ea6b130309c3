package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/protocol"
)

// Load is what the workloads consist of. The defaults are those that published
// figures are of; with others figures can be laid beside each other only.
type Load struct {
	FanoutMembers    int     `group:"load" default:"1000" help:"fanout: members of its one room."`
	FanoutInFlight   int     `group:"load" default:"16" help:"fanout, saturated: messages in flight, each from another member: sent, and not yet answered and heard by all."`
	FanoutRate       float64 `group:"load" default:"50" help:"fanout, at a rate: messages a second."`
	SmallRooms       int     `group:"load" default:"500" help:"small: rooms. Saturated, each has one message in flight."`
	SmallMembers     int     `group:"load" default:"4" help:"small: members of each."`
	SmallRate        float64 `group:"load" default:"5" help:"small, at a rate: messages a second in each room."`
	ChurnRooms       int     `group:"load" default:"50" help:"churn: rooms."`
	ChurnMembers     int     `group:"load" default:"20" help:"churn: members of each who stay, and hear who comes and goes."`
	Churners         int     `group:"load" default:"200" help:"churn: clients that enter a room, leave it, and enter another."`
	ChurnRate        float64 `group:"load" default:"500" help:"churn, at a rate: entries and departures a second, together."`
	StormMembers     int     `group:"load" default:"5000" help:"storm: clients that connect, log in and enter a room."`
	IdleMembers      int     `group:"load" default:"10000" help:"idle: clients that are in a room and do nothing."`
	BigRoomMembers   int     `group:"load" default:"15000" help:"bigroom: members of its one room."`
	BigRoomRate      float64 `group:"load" default:"1" help:"bigroom: messages a second that one of them sends."`
	BigRoomChurners  int     `group:"load" default:"100" help:"bigroom: clients that enter it and leave it, again and again."`
	ReconnectMembers int     `group:"load" default:"15000" help:"reconnect: clients that are in a room."`
	ReconnectCut     int     `group:"load" default:"10000" help:"reconnect: how many of them lose their links at once, and come back."`
	ReconnectRate    float64 `group:"load" default:"500" help:"reconnect: messages a second that those who stay send, in all rooms."`
	RoomSize         int     `group:"load" default:"20" help:"storm, idle, reconnect: members of each room."`
	Payload          int     `group:"load" default:"128" help:"Bytes of text in a message, 35 to 2048."`
	Parallel         int     `group:"load" default:"200" help:"Clients that connect, log in and enter at once."`
	Loops            int     `group:"load" default:"0" help:"Goroutines that read for the clients. 0: one for every two processors, since the servers need the others."`
}

// workloads by name, in the order in which they run.
var workloads = []struct {
	name string
	run  func(*bench, context.Context) error
	own  bool // only if it is named
}{
	{"fanout", (*bench).fanOut, false},
	{"small", (*bench).smallRooms, false},
	{"churn", (*bench).churn, false},
	{"storm", (*bench).storm, false},
	{"idle", (*bench).idle, false},
	{"reconnect", (*bench).reconnect, true},
	{"bigroom", (*bench).bigRoom, true},
}

func workloadNames() string {
	var names []string
	for _, w := range workloads {
		names = append(names, w.name)
	}
	return strings.Join(names, ", ")
}

// check says what is wrong with a load.
func (l Load) check() error {
	for _, v := range []struct {
		flag      string
		got       float64
		low, high float64
	}{
		{"fanout-members", float64(l.FanoutMembers), 2, 1e6},
		{"fanout-in-flight", float64(l.FanoutInFlight), 1, float64(l.FanoutMembers)},
		{"fanout-rate", l.FanoutRate, 0.1, 1e6},
		{"small-rooms", float64(l.SmallRooms), 1, 1e6},
		{"small-members", float64(l.SmallMembers), 2, 1000},
		{"small-rate", l.SmallRate, 0.1, 1e6},
		{"churn-rooms", float64(l.ChurnRooms), 1, 1e6},
		{"churn-members", float64(l.ChurnMembers), 1, 1e6},
		{"churners", float64(l.Churners), 1, 1e6},
		{"churn-rate", l.ChurnRate, 0.1, 1e6},
		{"storm-members", float64(l.StormMembers), 1, 1e6},
		{"idle-members", float64(l.IdleMembers), 1, 1e6},
		{"big-room-members", float64(l.BigRoomMembers), 2, 1e6},
		{"big-room-rate", l.BigRoomRate, 0.01, 1e6},
		{"big-room-churners", float64(l.BigRoomChurners), 1, 1e6},
		{"reconnect-members", float64(l.ReconnectMembers), 2, 1e6},
		{"reconnect-cut", float64(l.ReconnectCut), 1, float64(l.ReconnectMembers)},
		{"reconnect-rate", l.ReconnectRate, 0.1, 1e6},
		{"room-size", float64(l.RoomSize), 1, 1e6},
		{"payload", float64(l.Payload), stampSize, 2048},
		{"parallel", float64(l.Parallel), 1, 10000},
		{"loops", float64(l.Loops), 0, 1000},
	} {
		if v.got < v.low || v.got > v.high {
			return fmt.Errorf("--%s is %v, it must be from %v to %v", v.flag, v.got, v.low, v.high)
		}
	}
	return nil
}

// bench is a run of workloads against one list of servers.
type bench struct {
	load     Load
	urls     []string
	access   access
	procs    procs
	warmup   time.Duration
	duration time.Duration
	settle   time.Duration
	logout   bool // at the end of a workload, so that servers are as before
	progress *progress

	running string    // workload
	name    string    // part of all user and room IDs, so that runs do not meet
	began   time.Time // what stamps count from

	figures []Figure

	mu       sync.Mutex
	problems []Problem
	dropped  int // problems beyond the first
}

// mostProblems bounds what is told of a server that does everything wrong.
const mostProblems = 20

// errBroken ends a workload in which something was lost, doubled or out of
// order; what it was is among the problems.
var errBroken = errors.New("the servers broke their promises")

// run runs the workloads named, all if none is.
func (b *bench) run(ctx context.Context, names []string) error {
	if err := b.load.check(); err != nil {
		return err
	}
	for _, u := range b.urls {
		if _, _, _, err := endpoint(u); err != nil {
			return err
		}
	}
	for _, name := range names {
		known := false
		for _, w := range workloads {
			known = known || w.name == name
		}
		if !known {
			return fmt.Errorf("there is no workload %q; there are %s", name, workloadNames())
		}
	}
	b.name = strings.ToLower(rand.Text()[:6])
	b.began = time.Now()
	for _, w := range workloads {
		wanted := len(names) == 0 && !w.own
		for _, name := range names {
			wanted = wanted || name == w.name
		}
		if !wanted {
			continue
		}
		b.running = w.name
		err := w.run(b, ctx)
		if err == nil && b.broken() { // while the clients were leaving
			err = errBroken
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, b.explain(err))
		}
	}
	return nil
}

// problem notes that a server has done something wrong.
func (b *bench) problem(p Problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.problems) == mostProblems {
		b.dropped++
		return
	}
	b.problems = append(b.problems, p)
}

func (b *bench) broken() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.problems) > 0
}

// explain says which flag of the server stands in the way of the load.
func (b *bench) explain(err error) error {
	if refused, ok := errors.AsType[*protocol.Error](err); ok {
		if advice, ok := b.adviceOn(refused.Code); ok {
			return fmt.Errorf("the server refuses the load; %s (%w)", advice, err)
		}
	}
	if closed, ok := errors.AsType[*closedError](err); ok {
		if advice, ok := closeAdvice[closed.code]; ok {
			return fmt.Errorf("the server refuses the load; %s (%w)", advice, err)
		}
	}
	if errors.Is(err, syscall.EMFILE) {
		return fmt.Errorf("raise the limit of open files for this process (ulimit -n), or make the load smaller (%w)", err)
	}
	return err
}

func (b *bench) adviceOn(code protocol.Code) (string, bool) {
	switch code {
	case protocol.CodeTooFast:
		return "start the gateways with --rate-limits=false", true
	case protocol.CodeRoomFull:
		most := max(b.load.FanoutMembers, b.load.SmallMembers, b.load.ChurnMembers+b.load.Churners, b.load.RoomSize)
		if b.running == "bigroom" {
			most = b.load.BigRoomMembers + b.load.BigRoomChurners
		}
		return fmt.Sprintf("start the gateways with --max-members=%d", most), true
	case protocol.CodeRoomLimit:
		return "start the gateways with --max-rooms=0", true
	case protocol.CodeUserRoomLimit:
		return "start the gateways with the default --max-rooms-per-user", true
	case protocol.CodeBadToken, protocol.CodeTokenExpired:
		return "give the gateways' --jwt-hs256-secret-file, or start them with --dev", true
	}
	return "", false
}

var closeAdvice = map[protocol.CloseCode]string{
	protocol.CloseTryAgainLater: "start the gateways with --max-connections=0",
	protocol.CloseSlowConsumer:  "more waited for a client than the gateways hold: start them with a larger --queue-bytes, or make the load smaller",
	protocol.CloseNotAuthorised: "give the gateways' --jwt-hs256-secret-file, or start them with --dev",
	protocol.CloseKickedByLogin: "start the gateways with a larger --max-devices",
	protocol.CloseRateAbuse:     "start the gateways with --rate-limits=false",
	protocol.CloseNoSignOfLife:  "the clients were too busy to answer pings: start the gateways with a longer --session-ttl, or make the load smaller",
}

// A crowd is the clients of one workload, and the loops that read for them.
type crowd struct {
	*bench
	loops []*loop
	conns []*conn
	fail  context.CancelCauseFunc

	doubt sync.Once // something is wrong, and there may be more to say of it
}

// gather makes a crowd without clients. Its context ends when something goes
// wrong, and then says what. Whoever calls gather must call disperse.
func (b *bench) gather(ctx context.Context) (*crowd, context.Context, error) {
	ctx, fail := context.WithCancelCause(ctx)
	c := &crowd{bench: b, fail: fail}
	n := b.load.Loops
	if n == 0 {
		n = max(1, runtime.GOMAXPROCS(0)/2)
	}
	for range n {
		l, err := startLoop(func(lost *conn, err error) {
			fail(fmt.Errorf("%s at %s lost its connection: %w", lost.user, lost.addr, err))
		})
		if err != nil {
			c.disperse(ctx)
			return nil, nil, err
		}
		c.loops = append(c.loops, l)
	}
	return c, ctx, nil
}

// disperse ends all clients, and the loops.
func (c *crowd) disperse(ctx context.Context) {
	if c.logout && ctx.Err() == nil {
		var g errgroup.Group
		g.SetLimit(c.load.Parallel)
		c.progress.say("logging out %d clients", len(c.conns))
		for _, client := range c.conns {
			g.Go(func() error {
				client.loop.mu.Lock()
				client.ending = true
				client.loop.mu.Unlock()
				client.call(ctx, protocol.MethodLogout, `{}`)
				return nil // the end comes in any case
			})
		}
		g.Wait()
	}
	c.fail(nil)
	for _, client := range c.conns {
		client.hangUp()
	}
	for _, l := range c.loops {
		l.stop()
	}
}

// suspect notes a problem and lets the run go on for a moment: what else
// happens tells a loss from a disorder.
func (c *crowd) suspect(p *Problem) {
	if p != nil {
		c.problem(*p)
	}
	c.doubt.Do(func() {
		time.AfterFunc(time.Second, func() { c.fail(errBroken) })
	})
}

// A seat is where a client is to be.
type seat struct {
	user, room string
	gate       int
}

// seats are rooms of members each, their members spread evenly over the
// gateways. There is one more, not full, for what is left over.
func (c *crowd) seats(kind string, members, size int) []seat {
	all := make([]seat, members)
	for i := range all {
		room := i / size
		all[i] = seat{
			user: fmt.Sprintf("%s%s%d", c.name, kind, i),
			room: c.room(kind, room),
			gate: (room + i%size) % len(c.urls),
		}
	}
	return all
}

func (c *crowd) room(kind string, n int) string { return fmt.Sprintf("bench-%s-%s%d", c.name, kind, n) }

// fill connects clients, logs them in, and brings them into their rooms. hear
// is told which client it is for before the client enters; a seat without room
// stays outside.
func (c *crowd) fill(ctx context.Context, what string, seats []seat, hear func(i int, client *conn) func(heard, time.Time)) ([]*conn, error) {
	clients := make([]*conn, len(seats))
	var done int
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.load.Parallel)
	for i, s := range seats {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			client, err := c.access.dial(gctx, c.loops[i%len(c.loops)], c.urls[s.gate], s.user)
			if err != nil {
				return fmt.Errorf("connect %s: %w", s.user, err)
			}
			mu.Lock()
			clients[i] = client
			c.conns = append(c.conns, client)
			mu.Unlock()
			if _, err := client.login(gctx, nil); err != nil {
				return err
			}
			client.listenWith(hear(i, client))
			if s.room != "" {
				if err := client.enter(gctx, s.room); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			c.progress.status("%s: %d of %d clients are in", what, done, len(seats))
			return nil
		})
	}
	// A lost connection ends what the others are at, and is why.
	if err := g.Wait(); err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	return clients, context.Cause(ctx)
}

// count adds up what the loops have counted.
func (c *crowd) count() (sum tally) {
	for _, l := range c.loops {
		l.mu.Lock()
		sum.events += l.events
		sum.messages += l.messages
		sum.results += l.results
		l.mu.Unlock()
	}
	return sum
}

// times takes the times that the loops have recorded.
func (c *crowd) takeTimes() tally {
	sum := tally{times: newTimes()}
	for _, l := range c.loops {
		l.mu.Lock()
		sum.times.Merge(l.times)
		l.times.Reset()
		l.mu.Unlock()
	}
	return sum
}

// measured is what happened in a while.
type measured struct {
	took                time.Duration
	servers, redis, own time.Duration // of CPU
	tally
}

// measure lets a while pass, and says what happened in it.
func (c *crowd) measure(ctx context.Context, what string, length time.Duration, unit string, of func(tally) int64) (measured, error) {
	before, err := c.procs.sample()
	if err != nil {
		return measured{}, err
	}
	from := c.count()
	last, seen := before.at, of(from)
	err = c.wait(ctx, length, func() {
		n, now := of(c.count()), time.Now()
		c.progress.status("%s: %.0f of %.0f s, %.0f %s", what, now.Sub(before.at).Seconds(), length.Seconds(),
			float64(n-seen)/now.Sub(last).Seconds(), unit)
		last, seen = now, n
	})
	if err != nil {
		return measured{}, err
	}
	to := c.count()
	after, err := c.procs.sample()
	if err != nil {
		return measured{}, err
	}
	return measured{
		took:    after.at.Sub(before.at),
		servers: after.servers - before.servers, redis: after.redis - before.redis, own: after.own - before.own,
		tally: tally{events: to.events - from.events, messages: to.messages - from.messages, results: to.results - from.results},
	}, nil
}

// wait waits, and calls tick every second.
func (c *crowd) wait(ctx context.Context, length time.Duration, tick func()) error {
	end := time.NewTimer(length)
	defer end.Stop()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-end.C:
			return nil
		case <-t.C:
			tick()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// settled waits until ok, for as long as something still changes.
func (c *crowd) settled(ctx context.Context, ok func() bool) error {
	const still = 10 * time.Second
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	var last int64
	for since := time.Now(); !ok(); {
		if n := c.count(); n.events+n.results != last {
			last, since = n.events+n.results, time.Now()
		}
		if time.Since(since) > still {
			return nil // what has not come by now is missing
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// probe refuses servers that limit how fast a client sends: one client sends
// as many messages as a limited connection may not send at once.
func (c *crowd) probe(ctx context.Context) error {
	const burst = 24 // below protocol.MaxUnanswered, which always holds
	for i := range c.urls {
		clients, err := c.fill(ctx, "probe", []seat{{fmt.Sprintf("%sp%d", c.name, i), c.room("p", i), i}},
			func(int, *conn) func(heard, time.Time) { return nowhere })
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		for range burst {
			g.Go(func() error {
				id := clients[0].lastID.Add(1)
				_, err := clients[0].callAs(ctx, id, protocol.MethodSendRoomMessage, sendParams(c.room("p", i), "may I?", id))
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}
