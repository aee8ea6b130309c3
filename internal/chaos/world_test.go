//go:build linux

package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/gatetest"
)

// The times of the gateways here. A session outlives what a client needs to
// notice a silent link (two heartbeats) and to come back, with a margin for a
// busy machine; and no check waits for more than a few of these.
const (
	sessionTTL   = 6 * time.Second
	leaseTTL     = 2 * time.Second
	heartbeat    = time.Second
	redisTimeout = time.Second

	// settle is how long gateways have to put back what Redis has lost.
	settle = 2 * time.Second

	// grace is how much later than its deadline a member may be seen.
	grace = 2 * time.Second
	// gapCounted is how long nobody may have swept for the time to count.
	gapCounted = 5 * time.Second
	// callTimeout bounds each call of a player.
	callTimeout = 4 * time.Second
	// patience bounds each wait for what has to come.
	patience = 30 * time.Second
)

const (
	stations = 3
	people   = 10
)

// rooms are those that players are in. What they are made of shows which is
// which, so that it can be told whether a loss has changed it.
var rooms = []string{"R0", "R1", "a:members", "R{3}"}

// delays are the seconds that a room stays when it is empty.
var delays = map[string]int{"R0": 0, "R1": 1, "a:members": 2, "R{3}": 0}

// A station is a gateway with its link to Redis and a door for clients. When
// the gateway is replaced, all of it is.
type station struct {
	*gatetest.Gateway
	name string
	link *gatetest.Link    // between it and Redis
	door *faultproxy.Proxy // between it and those clients that come this way
}

// An outage is a time in which a station could not serve those who were on it.
type outage struct {
	station string // "" for all
	from    time.Time
	to      time.Time // zero: it goes on
	redis   bool      // Redis itself stood still
}

// A world is one deployment with everybody who uses it.
type world struct {
	t      *testing.T
	seed   uint64
	repeat string // the command that plays it again
	server *gatetest.Servers
	rdb    redis.UniversalClient
	ctx    context.Context // of the players
	rand   *rand.Rand      // of the schedule
	people []*player
	began  time.Time

	playing sync.WaitGroup

	mu       sync.Mutex
	at       []*station // who clients find at each place now
	all      []*station
	outages  []outage
	losses   []time.Time // when data was lost
	attempts []attempt
	schedule []string
	acks     int              // messages that were acknowledged since the last rest
	epochs   map[string]int64 // the highest of each room so far
	resting  chan struct{}    // closed when the load goes on; nil: it does
	done     int              // calls of players that were answered
	wrong    []string
	quiet    time.Time // when the last fault was over
}

// An attempt is a word of the server API, carried out or not.
type attempt struct {
	room, user string // no user: the room was to be destroyed
	from, to   time.Time
}

// newWorld starts it all and lets it rest.
func newWorld(t *testing.T, seed uint64, repeat string) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{
		t: t, seed: seed, repeat: repeat, ctx: ctx, rand: rand.New(rand.NewPCG(seed, 0)),
		began: time.Now(), epochs: map[string]int64{}, resting: make(chan struct{}),
	}
	t.Cleanup(w.report) // after all others
	t.Cleanup(func() {
		cancel()
		w.playing.Wait()
	})
	var args []string
	if w.keepsLog() {
		args = []string{"--appendonly", "yes", "--appendfsync", "always"}
	}
	w.server = gatetest.StartServers(t, *onCluster, args...)
	w.rdb = w.server.Open(t)
	w.at = make([]*station, stations)
	for i := range stations {
		w.open(i)
	}
	for i := range people {
		p := newPlayer(w, i)
		w.people = append(w.people, p)
	}
	for _, p := range w.people {
		w.playing.Go(p.play)
	}
	return w
}

// keepsLog says whether Redis writes every change down. If not, it comes back
// with the snapshot that was taken last.
func (w *world) keepsLog() bool { return w.seed%2 == 0 }

// open starts a gateway in a place.
func (w *world) open(i int) {
	s := &station{link: w.server.Link(w.t)}
	w.mu.Lock()
	s.name = fmt.Sprintf("gw-%d-%d", i, len(w.all))
	w.mu.Unlock()
	s.Gateway = gatetest.Start(w.t, s.link.Addr(),
		"--rate-limits=false", "--node-name="+s.name, "--drain-window=2s", fmt.Sprintf("--redis-timeout=%v", redisTimeout),
		fmt.Sprintf("--session-ttl=%v", sessionTTL), fmt.Sprintf("--lease-ttl=%v", leaseTTL), fmt.Sprintf("--heartbeat-interval=%v", heartbeat))
	s.door = faultproxy.Start(w.t, s.Addr)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at[i] = s
	w.all = append(w.all, s)
}

func (w *world) place(i int) *station {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at[i]
}

// dial finds gate-0 or door-0, wherever that is now.
func (w *world) dial(ctx context.Context, addr string) (net.Conn, error) {
	var i int
	kind, _, _ := strings.Cut(addr, "-")
	if _, err := fmt.Sscanf(strings.TrimPrefix(addr, kind), "-%d:80", &i); err != nil {
		return nil, err
	}
	s := w.place(i)
	to := s.Addr
	if kind == "door" {
		to = s.door.Addr()
	}
	return new(net.Dialer).DialContext(ctx, "tcp", to)
}

// note writes a line into the schedule.
func (w *world) note(format string, args ...any) {
	line := fmt.Sprintf("%6.2fs  %s", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
	w.t.Log(line)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.schedule = append(w.schedule, line)
}

// outage notes that a station, or all with nil, cannot serve from now on.
func (w *world) outage(s *station, redis bool) (over func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := outage{from: time.Now(), redis: redis}
	if s != nil {
		o.station = s.name
	}
	n := len(w.outages)
	w.outages = append(w.outages, o)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.outages[n].to = time.Now()
	}
}

// lost notes that Redis has lost data.
func (w *world) lost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.losses = append(w.losses, time.Now())
}

// blame notes that something is not as it has to be.
func (w *world) blame(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.wrong) < 12 {
		w.wrong = append(w.wrong, fmt.Sprintf("%6.2fs  ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
	}
}

func (w *world) blamed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.wrong) > 0
}

// count counts what players get done.
func (w *world) count() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done++
}

// bustle waits until the players have got something done.
func (w *world) bustle(calls int) {
	w.mu.Lock()
	until := w.done + calls
	w.mu.Unlock()
	w.until("the players to get something done", patience, func() string {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.done < until {
			return fmt.Sprintf("%d calls are missing", until-w.done)
		}
		return ""
	})
}

// lasts lets a fault last. It is the schedule that says how long; nothing is
// concluded from it.
func (w *world) lasts(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.ctx.Done():
	}
}

// until waits until nothing is missing, or fails the test and says what is.
func (w *world) until(what string, bound time.Duration, missing func() string) {
	w.t.Helper()
	deadline := time.Now().Add(bound)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		m := missing()
		if m == "" {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waited %v for %s: %s", bound, what, m)
		}
		<-tick.C
	}
}

// pause lets every player finish what it is at, and wait.
func (w *world) pause() {
	w.mu.Lock()
	if w.resting == nil {
		w.resting = make(chan struct{})
	}
	w.mu.Unlock()
	for _, p := range w.people {
		p.reach(true)
	}
	w.until("the players to pause", patience, func() string {
		for _, p := range w.people {
			if !p.paused.Load() {
				return p.user + " is " + p.doing()
			}
		}
		return ""
	})
}

// goOn ends a pause.
func (w *world) goOn() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.resting != nil {
		close(w.resting)
		w.resting = nil
	}
}

// pausing gives what is closed when the load goes on; nil if it does.
func (w *world) pausing() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resting
}

// away gives the longest time before a moment in which nobody served a client
// that had these links, as far as it counts. It is never less than it was.
func (w *world) away(links []link, until time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var longest time.Duration
	gap := func(from, to time.Time) {
		d := to.Sub(from)
		for _, o := range w.outages {
			end := o.to
			if end.IsZero() {
				end = until
			}
			if !o.redis || end.Sub(o.from) <= gapCounted+200*time.Millisecond {
				continue // it counts, or may
			}
			if o.from.Before(from) {
				o.from = from
			}
			if end.After(to) {
				end = to
			}
			if end.After(o.from) {
				d -= end.Sub(o.from)
			}
		}
		longest = max(longest, d)
	}
	for i, l := range links {
		// The last sign of life may be as old as it takes to notice silence.
		lost := l.to
		if lost.IsZero() {
			lost = until
		}
		to := lost
		served := lost.Add(-2*heartbeat - 500*time.Millisecond)
		for _, o := range w.outages {
			if o.station != "" && l.station != "" && o.station != l.station || o.from.After(to) {
				continue
			}
			end := o.to
			if end.IsZero() {
				end = until
			}
			if end.Before(l.from) {
				continue
			}
			gap(o.from.Add(-2*heartbeat), end)
			// What followed from it can come late: goodbyes are spread over 5 s.
			if end.After(to.Add(-10*time.Second)) && o.from.Before(served) {
				served = o.from.Add(-2 * heartbeat)
			}
		}
		back := until
		if i+1 < len(links) {
			back = links[i+1].from
		} else if l.to.IsZero() {
			continue
		}
		gap(served, back)
	}
	return longest
}

// lossSince says whether data was lost after a moment.
func (w *world) lossSince(from time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.losses, func(at time.Time) bool { return at.After(from) })
}

// lossBetween says whether data was lost between two moments.
func (w *world) lossBetween(from, to time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.losses, func(at time.Time) bool { return at.After(from) && at.Before(to) })
}

// disturbed says whether data was lost after a moment while a client that had
// these links was not well connected.
func (w *world) disturbed(links []link, from time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.losses {
		if at.Before(from) {
			continue
		}
		before, after := at.Add(-2500*time.Millisecond), at.Add(5*time.Second)
		whole := slices.ContainsFunc(links, func(l link) bool {
			if l.from.After(before) || !l.to.IsZero() && l.to.Before(after) {
				return false
			}
			return !slices.ContainsFunc(w.outages, func(o outage) bool {
				return (o.station == "" && !o.redis || l.station == "" || o.station == l.station) && o.from.Before(after) && (o.to.IsZero() || o.to.After(before))
			})
		})
		if !whole {
			return true
		}
	}
	return false
}

// attempted says whether a backend's word can have ended a stay.
func (w *world) attempted(room, user string, since time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.attempts, func(a attempt) bool {
		return a.room == room && a.user == user && (a.to.IsZero() || a.to.Add(2*redisTimeout).After(since))
	})
}

// api says a word of the server API.
func (w *world) api(via int, method, room, user, path, body string) {
	w.mu.Lock()
	n := len(w.attempts)
	w.attempts = append(w.attempts, attempt{room: room, user: user, from: time.Now()})
	addr := w.at[via].Addr
	w.mu.Unlock()
	gatetest.Request(method, "http://"+addr+"/v1/rooms/"+path, "dev", body)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts[n].to = time.Now()
}

// report says what failed, what had happened, and how to do it again.
func (w *world) report() {
	if !w.t.Failed() {
		return
	}
	dir, err := os.MkdirTemp("", "roomgate-chaos-")
	if err != nil {
		w.t.Log(err)
		return
	}
	write := func(name string, lines ...string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			w.t.Log(err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	write("schedule", w.schedule...)
	write("wrong", w.wrong...)
	for _, s := range w.all {
		write(s.name+".log", s.Out.String())
	}
	for _, p := range w.people {
		write(p.user+".log", p.said()...)
	}
	w.t.Logf("the schedule so far:\n%s", strings.Join(w.schedule, "\n"))
	w.t.Logf("again: %s", w.repeat)
	w.t.Logf("logs of the gateways and what each client heard are in %s", dir)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
