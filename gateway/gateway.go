// Package gateway serves clients over WebSocket: it knows sockets, sessions
// and the wire, and turns requests into operations of the room store and the
// store's events into messages. A gateway holds nothing that cannot be lost:
// what a room is lives in the store.
package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/gateway/auth"
	"github.com/roomgate/roomgate/gateway/serverapi"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// Config is what a gateway can be told. The store's times must be the same.
type Config struct {
	Log *slog.Logger // none if nil

	Node           string   // shown to clients; need not be unique
	Version        string   // of the program, shown to backends
	APIKeys        []string // of the server API; none: it is closed
	AllowedOrigins []string // patterns of hosts; "*" for all; none: same origin
	MaxConnections int      // 0 for any number
	RateLimits     bool
	HistoryQuery   bool // queryRoomHistory is served

	Console http.Handler // of /console/; none if nil

	SessionTTL        time.Duration // 35 s if 0
	LeaseTTL          time.Duration // 10 s if 0
	HeartbeatInterval time.Duration // 10 s if 0
	RedisTimeout      time.Duration // for one request; 2 s if 0
	DrainWindow       time.Duration // to see clients off in; 25 s if 0
	LoginTimeout      time.Duration // 10 s if 0
	CloseTimeout      time.Duration // for a client to say goodbye, too; 5 s if 0
	ReconnectAfter    time.Duration // told to clients that should come back; 1 s if 0

	QueueBytes int // that may wait for one connection; 1 MiB if 0

	// Hooks for metrics; may be nil. OnRequest hears the code of each answer,
	// 0 for success; OnClose why each connection ended, -1 for a broken link.
	OnRequest func(method string, code int)
	OnClose   func(code int)
}

func defaults[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// A Gateway serves clients. Its methods may be called concurrently.
type Gateway struct {
	cfg      Config
	store    *roomstore.Store
	bus      Bus
	verifier auth.Verifier
	log      *slog.Logger
	hub      *hub
	writers  writers
	workers  workers
	beat     *heartbeat
	stats    Stats
	born     time.Time

	returning turnstile // for sessions whose clients are back
	leaving   turnstile // for sessions whose sockets have closed, before parking
	parking   slots     // for them
	begins    pacer     // for those who connect
	ends      pacer     // for connections whose sockets have closed

	draining atomic.Bool
	healing  atomic.Bool     // what is known is being put back
	life     context.Context // of what serves clients; set by Run before ready is closed
	current  atomic.Pointer[incarnation]

	conns   sync.WaitGroup // connections being served
	closing sync.WaitGroup // goodbyes under way

	mu        sync.Mutex
	open      map[*conn]struct{}
	sessions  map[roomstore.SessionID]*session
	early     map[roomstore.SessionID]earlyOrder
	coming    map[roomstore.SessionID]int // resumes that are under way
	lingerers lingerers
	stopped   bool // no more connections
}

// A Bus brings what is published: a [pubsub.Bus], or on Redis Cluster a [pubsub.Sharded].
type Bus interface {
	topics
	Reset(topic string)
}

// New returns a Gateway that serves once [Gateway.Run] runs.
func New(store *roomstore.Store, bus Bus, verifier auth.Verifier, cfg Config) *Gateway {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	defaults(&cfg.SessionTTL, 35*time.Second)
	defaults(&cfg.LeaseTTL, 10*time.Second)
	defaults(&cfg.HeartbeatInterval, 10*time.Second)
	defaults(&cfg.RedisTimeout, 2*time.Second)
	defaults(&cfg.DrainWindow, 25*time.Second)
	defaults(&cfg.LoginTimeout, loginWithin)
	defaults(&cfg.CloseTimeout, 5*time.Second)
	defaults(&cfg.ReconnectAfter, time.Second)
	defaults(&cfg.QueueBytes, 1<<20)
	if cfg.OnRequest == nil {
		cfg.OnRequest = func(string, int) {}
	}
	if cfg.OnClose == nil {
		cfg.OnClose = func(int) {}
	}
	g := &Gateway{
		cfg: cfg, store: store, bus: bus, verifier: verifier, log: cfg.Log,
		born: time.Now(), open: map[*conn]struct{}{}, sessions: map[roomstore.SessionID]*session{},
		early:     map[roomstore.SessionID]earlyOrder{},
		coming:    map[roomstore.SessionID]int{},
		lingerers: lingerers{all: map[roomstore.SessionID]*lingerer{}},
		returning: turnstile{every: returnEvery}, leaving: turnstile{every: parkEvery},
		parking: make(slots, parkedAtOnce),
	}
	g.begins.every, g.begins.spoken = paceOf(admittedAPace), &g.stats.spoken
	g.ends.every, g.ends.spoken = paceOf(endedAPace), &g.stats.spoken
	g.hub = newHub(store, bus, cfg.RedisTimeout, cfg.Log, &g.stats)
	g.beat = newHeartbeat(cfg.HeartbeatInterval)
	return g
}

// Handler serves the public listener.
func (g *Gateway) Handler() http.Handler {
	r := chi.NewRouter()
	r.Get(protocol.Path, g.accept)
	api := serverapi.New(backend{g}, serverapi.Config{Keys: g.cfg.APIKeys, Errors: HTTPError, Log: g.log})
	for _, path := range serverapi.Routes {
		r.Handle(path, api)
	}
	g.Health(r)
	if g.cfg.Console != nil {
		r.Handle("/console", http.RedirectHandler("/console/", http.StatusFound))
		r.Handle("/console/*", g.cfg.Console)
	}
	return r
}

// Health adds /healthz and /readyz to a router (protocol, section 5).
func (g *Gateway) Health(r chi.Router) {
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("{\"status\":\"alive\"}\n"))
	})
	r.Get("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		reasons := g.NotReady()
		w.Header().Set("Content-Type", "application/json")
		status := "ready"
		if len(reasons) > 0 {
			status = "not ready"
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(struct {
			Status  string   `json:"status"`
			Node    string   `json:"node"`
			Reasons []string `json:"reasons,omitempty"`
		}{status, g.cfg.Node, reasons})
	})
}

// Run serves until ctx is done, then sees the clients off and hands their
// sessions over, within the drain window, and returns nil. The store's batcher
// and the bus must run for longer than it does.
func (g *Gateway) Run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g.mu.Lock()
	g.life = life
	g.mu.Unlock()

	var work errgroup.Group
	work.Go(func() error { return g.hub.run(life) })
	work.Go(func() error { return g.beat.run(life) })
	work.Go(func() error { return g.workers.run(life) })
	nodes, stopNodes := context.WithCancel(life)
	defer stopNodes()
	failed := make(chan error, 2)
	work.Go(func() error {
		err := g.runNode(nodes)
		failed <- err
		return err
	})

	work.Go(func() error {
		err := g.runHealer(life)
		if err != nil {
			failed <- err
		}
		return err
	})

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	// A Redis that is away must not keep the process from ending: what could
	// not be handed over by then is claimed when the lease ends.
	late := time.AfterFunc(g.cfg.DrainWindow+g.cfg.CloseTimeout, end)
	g.drain()
	late.Stop()
	stopNodes()
	end()
	g.closing.Wait()
	g.workers.stop()
	if e := work.Wait(); err == nil {
		err = e
	}
	return err
}

// backing is the context of calls that outlive a connection. It ends when all
// connections have.
func (g *Gateway) backing() context.Context {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.life == nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return ctx
	}
	return g.life
}

// answered counts an answer.
func (g *Gateway) answered(method string, err *protocol.Error) {
	if err != nil {
		g.cfg.OnRequest(method, int(err.Code))
		return
	}
	g.cfg.OnRequest(method, 0)
}

// since is the process's own clock.
func (g *Gateway) since() time.Duration { return time.Since(g.born) }

// add notes a new connection. It fails if there is no room for it.
func (g *Gateway) add(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped || g.life == nil || g.cfg.MaxConnections > 0 && len(g.open) >= g.cfg.MaxConnections {
		return false
	}
	g.open[c] = struct{}{}
	g.conns.Add(1) // under the lock, so that a drain that begins later waits for it
	g.stats.Accepted.Add(1)
	g.beat.add(c)
	return true
}

func (g *Gateway) remove(c *conn) {
	defer g.conns.Done()
	g.closed(c)
}

// closed notes that the socket of a connection has closed: it does not count any more.
func (g *Gateway) closed(c *conn) {
	g.beat.remove(c)
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, c)
}

// register makes a session known by its ID. An earlier connection of it on
// this node is closed. It fails if the session belongs to an incarnation of
// this node that has ended, or if this is the earlier connection.
func (g *Gateway) register(s *session) bool {
	g.mu.Lock()
	now := g.current.Load()
	if now == nil || now.id != s.who.Node {
		g.mu.Unlock()
		return false
	}
	old := g.sessions[s.who.ID]
	if old != nil && old.who.Generation > s.who.Generation {
		g.mu.Unlock()
		s.replaced(protocol.CloseTakenOver)
		return false
	}
	g.sessions[s.who.ID] = s
	g.returned(s.who.ID, s.who.Generation)
	g.mu.Unlock()
	if old != nil {
		old.c.close(protocol.CloseTakenOver, "the session goes on over another connection")
	}
	return true
}

func (g *Gateway) drop(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions[s.who.ID] == s {
		delete(g.sessions, s.who.ID)
	}
}

// connections gives all that are open now.
func (g *Gateway) connections() []*conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]*conn, 0, len(g.open))
	for c := range g.open {
		all = append(all, c)
	}
	return all
}

// drain sees all clients off, evenly over the drain window, so that the other
// gateways are not stormed. Each is told beforehand when its turn comes. Their
// sessions are parked and resume there.
func (g *Gateway) drain() {
	g.draining.Store(true)
	g.endLingering()
	began := time.Now()
	open := g.connections()
	g.log.Info("draining", "count", len(open))
	if len(open) > 0 {
		// Load balancers look away first. The last clients need time to go.
		unready := min(3*time.Second, g.cfg.DrainWindow/5)
		time.Sleep(unready)
		spread := g.cfg.DrainWindow - unready - min(g.cfg.CloseTimeout, g.cfg.DrainWindow/10)
		// Who does not move when its turn has come is sent away a little later.
		grace := min(time.Second, spread/10)
		open = g.connections()
		step := (spread - grace) / time.Duration(max(1, len(open)))
		for i, c := range open {
			if c.session.Load() != nil {
				turn := time.Duration(i) * step
				c.queue(notification(protocol.EventServerDraining, protocol.ServerDraining{ReconnectAfterMS: turn.Milliseconds()}))
			}
		}
		next := time.Now().Add(grace)
		for _, c := range open {
			time.Sleep(time.Until(next))
			c.close(protocol.CloseGoingAway, closeReason(0))
			// After a standstill of this process it goes on a little faster, and
			// not in a storm.
			next = next.Add(step)
			if late := time.Now().Add(step / 2); next.Before(late) {
				next = late
			}
		}
	}
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	for _, c := range g.connections() { // those that came meanwhile
		c.close(protocol.CloseGoingAway, closeReason(0))
	}
	g.conns.Wait()
	g.log.Info("drained", "took", time.Since(began))
}
