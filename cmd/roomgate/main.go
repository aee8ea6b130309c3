// Command roomgate is a gateway: clients connect to it by WebSocket, and what
// their rooms are lives in Redis. Any number of gateways share one Redis.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/go-chi/chi/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/roomgate/roomgate/gateway"
	"github.com/roomgate/roomgate/gateway/serverapi"
	"github.com/roomgate/roomgate/pubsub"
	"github.com/roomgate/roomgate/roomstore"
)

func main() {
	// The first signal asks us to stop, and the second is deadly again.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)

	err := run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "roomgate:", err)
		os.Exit(1)
	}
}

// run is the whole program, apart from what a test could not survive. It calls
// ready, if that is not nil, with the address it listens on.
func run(ctx context.Context, args []string, env func(string) (string, bool), stdout, stderr io.Writer, ready func(net.Addr)) error {
	cfg, err := parseConfig(args, env, stdout, stderr)
	if errors.Is(err, errDone) {
		return nil
	}
	if err != nil {
		return err
	}
	if cfg.HealthCheck {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return healthCheck(ctx, cfg.healthURL())
	}
	log := newLogger(stderr, cfg.LogFormat, cfg.LogLevel)
	redis.SetLogger(redisLog{log.With("pkg", "redis")})
	if cfg.Audit {
		return audit(ctx, &cfg, stdout, log.With("pkg", "redis"))
	}
	verifier, err := cfg.verifier()
	if err != nil {
		return err
	}

	terms := roomstore.NewTerms(cfg.RedisPrefix, cfg.Partitions)
	rdb, err := openRedis(ctx, &cfg, terms.OnConnect, log.With("pkg", "redis"))
	if err != nil {
		return err
	}
	defer rdb.Close()

	m := newMetrics()
	batches := roomstore.BatcherConfig{Timeout: cfg.RedisTimeout, Observe: m.pipeline}
	rooms := roomsConfig(&cfg)
	rooms.Terms, rooms.Observe = terms, m.script
	var bus interface {
		gateway.Bus
		Run(context.Context) error
		Stats() pubsub.Stats
	}
	listening := pubsub.Config{Log: log.With("pkg", "pubsub")}
	if rdb.cluster != nil {
		batches.Slots = roomstore.ClusterSlots(cfg.RedisPrefix, cfg.Partitions)
		rooms.Apart, rooms.Sharded = true, true
		rdb.cluster.moved = terms.Doubt
		bus = pubsub.NewSharded(rdb.cluster.shard, listening)
	} else {
		bus = pubsub.New(rdb.topics, listening)
	}
	calls := roomstore.NewBatcher(rdb.calls, batches)
	store := roomstore.New(calls, rooms)
	gw := gateway.New(store, bus, verifier, gateway.Config{
		Log: log.With("pkg", "gateway"), Node: cfg.NodeName, Version: buildVersion(), APIKeys: cfg.apiKeys(), AllowedOrigins: cfg.origins(),
		MaxConnections: cfg.MaxConnections, QueueBytes: cfg.QueueBytes, RateLimits: cfg.RateLimits, HistoryQuery: cfg.HistoryQuery,
		SessionTTL: cfg.SessionTTL, LeaseTTL: cfg.LeaseTTL, HeartbeatInterval: cfg.HeartbeatInterval,
		RedisTimeout: cfg.RedisTimeout, DrainWindow: cfg.DrainWindow,
		Console:   cfg.pages(),
		OnRequest: m.request, OnClose: m.close,
	})
	m.stats(gateway.Counted, gw.Snapshot)
	m.stats(busCounted, func() map[string]float64 { return busSnapshot(bus.Stats()) })

	public, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer public.Close()
	internal, err := net.Listen("tcp", cfg.InternalListen)
	if err != nil {
		return fmt.Errorf("--internal-listen: %w", err)
	}
	defer internal.Close()

	// What serves clients outlives them, so it runs on a context of its own.
	backing, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	back, backing := errgroup.WithContext(backing)
	back.Go(func() error { return rdb.Run(backing) })
	back.Go(func() error { return calls.Run(backing) })
	back.Go(func() error { return bus.Run(backing) })
	if pace, _ := env("GOGC"); pace == "" { // the operator has not set one
		back.Go(func() error { tendGarbage(backing); return nil })
	}
	if err := firstGreeting(ctx, store); err != nil {
		release()
		return errors.Join(fmt.Errorf("redis: %w", err), back.Wait())
	}

	log.Info("listening", "addr", public.Addr().String(), "internal", internal.Addr().String(), "redis", redisName(&cfg))
	if cfg.Dev {
		greet(stdout, public.Addr(), rdb.embedded)
	}
	if ready != nil {
		ready(public.Addr())
	}
	serving, halt := context.WithCancel(ctx)
	defer halt()
	context.AfterFunc(backing, halt) // without what serves them, clients have to go
	err = serve(serving, gw, public, internal, m.handler(), log)
	release()
	err = errors.Join(err, back.Wait())
	log.Info("stopped")
	return err
}

// roomsConfig says how rooms behave.
func roomsConfig(cfg *Config) roomstore.Config {
	return roomstore.Config{
		Prefix: cfg.RedisPrefix, Partitions: cfg.Partitions,
		SessionTTL: cfg.SessionTTL, LeaseTTL: cfg.LeaseTTL, LogSize: cfg.LogSize, LogTTL: cfg.LogTTL,
		MaxRooms: cfg.MaxRooms, MaxMembers: cfg.MaxMembers, MaxRoomsPerUser: cfg.MaxRoomsPerUser, MaxDevices: cfg.MaxDevices,
		DropEmptiedData: !cfg.KeepEmptiedData,
	}
}

// serve serves clients until ctx is done, and then sees them out.
func serve(ctx context.Context, gw *gateway.Gateway, public, internal net.Listener, metrics http.Handler, log *slog.Logger) error {
	r := chi.NewRouter()
	gw.Health(r)
	r.Handle("/metrics", metrics)
	r.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	r.HandleFunc("/debug/pprof/profile", pprof.Profile)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	r.HandleFunc("/debug/pprof/*", pprof.Index)
	outside, inside := newServer(gw.Handler(), log), newServer(r, log)

	var work errgroup.Group
	ctx, failed := context.WithCancel(ctx)
	defer failed()
	listen := func(s *http.Server, ln net.Listener) {
		work.Go(func() error {
			defer failed()
			if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	listen(outside, gw.Listen(public))
	listen(inside, internal)
	err := gw.Run(ctx) // listens for as long as clients are being seen out

	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, shut(stop, outside, log), shut(stop, inside, log), work.Wait())
}

func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ConnContext: serverapi.WithConn,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// shut ends a server once its requests are answered, or when ctx ends: there may be some
// whose other side stands still.
func shut(ctx context.Context, s *http.Server, log *slog.Logger) error {
	err := s.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("requests were cut off that did not end")
		err = s.Close()
	}
	return err
}

// busCounted says what each number of busSnapshot means.
var busCounted = map[string]string{
	"pubsub_topics":           "Topics subscribed to.",
	"pubsub_messages_total":   "Messages received from Redis pub/sub.",
	"pubsub_gaps_total":       "Times a topic may have missed messages.",
	"pubsub_reconnects_total": "Subscription connections restored.",
}

func busSnapshot(s pubsub.Stats) map[string]float64 {
	return map[string]float64{
		"pubsub_topics":           float64(s.Topics),
		"pubsub_messages_total":   float64(s.Messages),
		"pubsub_gaps_total":       float64(s.Gaps),
		"pubsub_reconnects_total": float64(s.Reconnects),
	}
}

// greet tells the person at the terminal what to do next. embedded is the Redis in
// this process, or nil.
func greet(w io.Writer, addr net.Addr, embedded *miniredis.Miniredis) {
	port := 0
	if tcp, ok := addr.(*net.TCPAddr); ok {
		port = tcp.Port
	}
	host := fmt.Sprintf("localhost:%d", port)
	fmt.Fprintf(w, `
Roomgate is running, for development: any token is accepted, and the API key is dev.

    Try it, with several clients in one page:   http://%s/console/play
    See gateways, rooms and their events:       http://%s/console/
    Ready or not, and why:                      http://%s/readyz

`, host, host, host)
	if embedded != nil {
		fmt.Fprintf(w, `Rooms are kept in an embedded Redis and end with this process. A second gateway, in another terminal,
and then both in the playground:

    go run ./cmd/roomgate --dev --node-name=second --listen=:%d --internal-listen=127.0.0.1:%d --redis-url=redis://%s
    http://%s/console/play?gateway=localhost:%d

`, port+1, port+1011, embedded.Addr(), host, port+1)
	}
	fmt.Fprintf(w, `Or open a room with any WebSocket client, in two terminals:

    npx -y wscat -c ws://%s/v1/ws

and paste, with another userID in the second one:

    {"jsonrpc":"2.0","id":1,"method":"login","params":{"userID":"ana","userName":"Ana"}}
    {"jsonrpc":"2.0","id":2,"method":"enterRoom","params":{"roomInfo":{"roomID":"lobby","roomName":"Lobby"}}}
    {"jsonrpc":"2.0","id":3,"method":"sendRoomMessage","params":{"roomID":"lobby","message":{"type":1,"message":"hello"}}}

`, host)
}
