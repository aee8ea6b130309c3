package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// askEvery is how often the Sentinels are asked which server is the primary,
	// besides whenever one of them says that this has changed.
	askEvery = time.Second
	// askTimeout is how long they have for an answer, and askGrace how long the
	// others have once most have answered.
	askTimeout = time.Second
	askGrace   = 100 * time.Millisecond
	// askedLately is how old their answers may be for a new connection.
	askedLately = 250 * time.Millisecond

	// vouchFor is how long a primary is written to on somebody's word: that of
	// most Sentinels, or, where these are away, that of all its replicas. A
	// primary that was replaced without our hearing of it, since it and we were
	// cut off from everybody else, is written to for no longer.
	vouchFor = 5 * time.Second
)

// sentinels follows the primary of a Redis that Sentinels watch over. All
// connections to a primary that was replaced, or that nobody vouches for any
// more, are ended, and new ones are made to the one that the Sentinels name.
//
// go-redis has a client for that, too. It believes a single Sentinel, leaves
// subscriptions on a primary that was replaced, and goes on with one for as long
// as that answers.
type sentinels struct {
	name   string // of the primary
	log    *slog.Logger
	asked  []*redis.Client // one for each
	direct redis.Options   // of the primary, whoever vouches for it
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	wake   chan struct{} // holds one; that something may have changed
	asking chan struct{} // holds one; taken by who asks
	conns  followed      // to primaries

	mu       sync.Mutex
	primary  string    // host:port; "" before the first answer
	epoch    int64     // of the Sentinels' configuration that names it
	replicas int       // that it has, as far as is known
	vouched  time.Time // when somebody last did
	heard    time.Time // when the Sentinels were last asked
	doubted  bool      // it has not behaved as a primary since
	alone    bool      // nobody vouches
}

func newSentinels(t *redisTarget, log *slog.Logger) *sentinels {
	s := &sentinels{
		name: t.master, log: log, direct: *t.options, dial: redis.NewDialer(t.options),
		wake: make(chan struct{}, 1), asking: make(chan struct{}, 1),
	}
	for _, o := range t.sentinels {
		s.asked = append(s.asked, redis.NewClient(o))
	}
	return s
}

// close closes all connections.
func (s *sentinels) close() {
	for _, c := range s.asked {
		c.Close()
	}
	s.conns.cut(func(*followedConn) bool { return true })
}

// errUnvouched means that there is a primary, and nobody says that it still is
// one.
var errUnvouched = errors.New("neither most of the Sentinels nor all replicas say that the redis that was the primary still is")

// A sentinelsError is what will be the same when the Sentinels are asked again.
type sentinelsError struct{ text string }

func (e *sentinelsError) Error() string { return e.text }

// run follows the primary until ctx is done.
func (s *sentinels) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	for _, c := range s.asked {
		work.Go(func() { s.listen(ctx, c) })
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
		}
		if err := s.ask(ctx, 0); err != nil && ctx.Err() == nil {
			s.log.Debug("sentinels", "err", err)
		}
	}
}

// listen hears from a Sentinel when the primary changes. What it misses is found
// out by asking.
func (s *sentinels) listen(ctx context.Context, c *redis.Client) {
	ps := c.Subscribe(ctx, "+promoted-slave", "+switch-master")
	defer ps.Close()
	news := ps.Channel()
	for {
		select {
		case <-ctx.Done():
			return
		case m, ok := <-news:
			if !ok {
				return
			}
			if slices.Contains(strings.Fields(m.Payload), s.name) {
				s.rouse()
			}
		}
	}
}

func (s *sentinels) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// doubt has the Sentinels asked whether the primary still is one.
func (s *sentinels) doubt() {
	s.mu.Lock()
	s.doubted = true
	s.mu.Unlock()
	s.rouse()
}

// dialPrimary makes a connection to the primary. The Sentinels are asked first if
// that may be another: they may be out of reach, and then it takes a while.
func (s *sentinels) dialPrimary(ctx context.Context, network, _ string) (net.Conn, error) {
	s.mu.Lock()
	known := !s.doubted && s.distrust(s.primary) == nil
	s.mu.Unlock()
	if !known {
		if err := s.ask(ctx, askedLately); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	addr := s.primary
	s.mu.Unlock()
	conn, err := s.dial(ctx, network, addr)
	if err != nil {
		s.doubt()
		return nil, err
	}
	return s.guard(conn, addr), nil
}

// guard has nothing sent on a connection to a primary once that was replaced, or nobody
// has vouched for it for a while.
func (s *sentinels) guard(conn net.Conn, addr string) net.Conn {
	return s.conns.add(&followedConn{Conn: conn, server: addr, fit: func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.distrust(addr)
	}})
}

// distrust says why nothing may be sent to a primary, if so. s.mu is held.
func (s *sentinels) distrust(addr string) error {
	if addr != s.primary {
		return fmt.Errorf("redis at %s is not the primary any more", addr)
	}
	// By the wall clock, too: some systems stop the other one in a suspend.
	now := time.Now()
	if now.Sub(s.vouched) > vouchFor || now.Round(0).Sub(s.vouched.Round(0)) > vouchFor {
		return errUnvouched
	}
	return nil
}

// view is what one Sentinel says of the primary.
type view struct {
	addr     string
	epoch    int64 // of the configuration that names it: the higher, the later
	replicas int
}

// ask asks the Sentinels which server is the primary, unless that was done within
// lately, and ends connections to others. It fails if nobody vouches for one.
func (s *sentinels) ask(ctx context.Context, lately time.Duration) error {
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	began := time.Now()
	s.mu.Lock()
	known := began.Sub(s.heard) < lately && s.distrust(s.primary) == nil
	s.mu.Unlock()
	if known {
		return nil
	}

	views, failed := s.views(ctx)
	if len(views) == 0 && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	before := s.primary
	vouched := s.take(views)
	addr := s.primary
	s.mu.Unlock()
	if addr == "" {
		return s.unknown(ctx, failed)
	}
	if addr != before {
		s.log.Info("the Sentinels name a primary", "name", s.name, "addr", addr, "before", before)
	}
	said := began
	if !vouched {
		said = s.followed(ctx, addr)
	}

	s.mu.Lock()
	s.heard, s.doubted = began, false
	if said.After(s.vouched) {
		s.vouched = said
	}
	err := s.distrust(addr)
	changed := s.alone != (err != nil)
	s.alone = err != nil
	s.mu.Unlock()
	s.conns.cut(func(c *followedConn) bool { return err != nil || c.server != addr })
	if changed && err != nil {
		s.log.Warn("nobody vouches for the primary, redis counts as away", "addr", addr, "err", errors.Join(failed...))
	}
	return err
}

// views gives what the Sentinels say, as far as they answer: all of them, or most
// and those who are not much slower.
func (s *sentinels) views(ctx context.Context) (views []view, failed []error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	type answer struct {
		view
		err error
	}
	answers := make(chan answer, len(s.asked))
	for _, c := range s.asked {
		go func() {
			v, err := s.view(ctx, c)
			answers <- answer{v, err}
		}()
	}
	for range s.asked {
		a := <-answers // each comes when ctx is done at the latest
		if a.err != nil {
			failed = append(failed, a.err)
			continue
		}
		views = append(views, a.view)
		if s.most(len(views)) {
			time.AfterFunc(askGrace, cancel)
		}
	}
	return views, failed
}

// most says whether so many Sentinels are more than half.
func (s *sentinels) most(n int) bool { return 2*n > len(s.asked) }

// view asks one Sentinel.
func (s *sentinels) view(ctx context.Context, c *redis.Client) (view, error) {
	at := c.Options().Addr
	var master *redis.MapStringStringCmd
	var addr *redis.StringSliceCmd
	// In this order: an epoch may be older than the address that comes with it,
	// but not newer. While a failover is under way only the second knows of it.
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		master, addr = redis.NewMapStringStringCmd(ctx, "sentinel", "master", s.name), redis.NewStringSliceCmd(ctx, "sentinel", "get-master-addr-by-name", s.name)
		return errors.Join(p.Process(ctx, master), p.Process(ctx, addr))
	})
	if err == nil && len(addr.Val()) != 2 {
		err = fmt.Errorf("answered %q", addr.Val())
	}
	if err != nil {
		return view{}, fmt.Errorf("the Sentinel at %s: %w", at, err)
	}
	epoch, err := strconv.ParseInt(master.Val()["config-epoch"], 10, 64)
	if err != nil {
		return view{}, fmt.Errorf("the Sentinel at %s: config-epoch: %w", at, err)
	}
	replicas, _ := strconv.Atoi(master.Val()["num-slaves"])
	return view{net.JoinHostPort(addr.Val()[0], addr.Val()[1]), epoch, replicas}, nil
}

// take draws the conclusion from what Sentinels say: which server is the primary,
// and whether they vouch for that. s.mu is held.
//
// A later configuration counts from the first Sentinel that knows it. An earlier
// one counts only when nobody has known ours for so long that it is void: all
// Sentinels may have been set up anew.
func (s *sentinels) take(views []view) (vouched bool) {
	if len(views) == 0 {
		return false
	}
	latest := slices.MaxFunc(views, func(a, b view) int { return cmp.Compare(a.epoch, b.epoch) })
	same := 0 // that say so; of two addresses with one epoch that which more say
	for _, v := range views {
		n := 0
		for _, other := range views {
			if other.epoch == latest.epoch && other.addr == v.addr {
				n++
				v.replicas = max(v.replicas, other.replicas)
			}
		}
		if v.epoch == latest.epoch && n > same {
			latest, same = v, n
		}
	}
	void := s.distrust(s.primary) != nil
	switch {
	case s.primary == "", latest.epoch > s.epoch, latest.epoch < s.epoch && void && s.most(len(views)),
		// A primary that was put in by hand, and not an answer from the midst of a
		// failover.
		latest.epoch == s.epoch && s.most(same):
		if s.primary != latest.addr {
			s.primary, s.vouched = latest.addr, time.Time{}
		}
		s.epoch = latest.epoch
	}
	if latest.epoch != s.epoch || latest.addr != s.primary {
		return false
	}
	s.replicas = latest.replicas
	return s.most(len(views))
}

// followed says when all replicas had told the primary that they follow it, zero
// if they do not. The Sentinels may be away, and to replace it they would have had
// to take one of these from it.
func (s *sentinels) followed(ctx context.Context, addr string) time.Time {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	options := s.direct
	options.Dialer = func(ctx context.Context, network, _ string) (net.Conn, error) { return s.dial(ctx, network, addr) }
	options.PoolSize, options.PipelinePoolSize, options.DialerRetries = 1, -1, 1
	rdb := redis.NewClient(&options)
	defer rdb.Close()
	if err := rdb.Ping(ctx).Err(); err != nil { // connects
		return time.Time{}
	}
	asked := time.Now()
	info, err := rdb.Info(ctx, "replication").Result()
	if err != nil {
		return time.Time{}
	}
	n, since := following(info)
	s.mu.Lock()
	defer s.mu.Unlock()
	all := n > 0 && n >= s.replicas
	s.replicas = max(s.replicas, n)
	if !all {
		return time.Time{}
	}
	return asked.Add(-since)
}

// following says, by what a primary tells of its replication, how many replicas
// follow it, and how long ago the last of them said so. Of another server it is
// none.
func following(info string) (n int, since time.Duration) {
	if !strings.Contains(info, "role:master\r\n") {
		return 0, 0
	}
	for line := range strings.Lines(info) {
		_, fields, _ := strings.Cut(strings.TrimSpace(line), ":")
		if !strings.HasPrefix(line, "slave") || !strings.Contains(fields, "state=online") {
			continue
		}
		_, lag, _ := strings.Cut(fields, "lag=") // whole seconds, rounded down
		lag, _, _ = strings.Cut(lag, ",")        // behind which Valkey has more
		if seconds, err := strconv.Atoi(lag); err == nil && seconds >= 0 {
			n++
			since = max(since, time.Duration(seconds+1)*time.Second)
		}
	}
	return n, since
}

// unknown says why no primary is known: no Sentinel names one.
func (s *sentinels) unknown(ctx context.Context, failed []error) error {
	for _, err := range failed {
		switch text := err.Error(); {
		case strings.Contains(text, "No such master"):
			return &sentinelsError{fmt.Sprintf("has Sentinels that know no primary of the name %q; they know %s", s.name, s.others(ctx))}
		case strings.Contains(text, "unknown command"):
			return &sentinelsError{"names something else than a Sentinel by master_name: " + text}
		case strings.Contains(text, "WRONGPASS"), strings.Contains(text, "NOAUTH"), strings.Contains(text, "without any password configured"):
			return &sentinelsError{"is refused the login by Sentinels: " + text +
				"; redis://USER@SENTINEL is their user, the password comes by ROOMGATE_REDIS_SENTINEL_PASSWORD or --redis-sentinel-password-file"}
		case strings.Contains(text, "NOPERM"):
			return &sentinelsError{"is refused by Sentinels: " + text + "; what their user needs: ACL SETUSER USER " + sentinelRights}
		}
	}
	return fmt.Errorf("none of the Sentinels answers: %w", errors.Join(failed...))
}

// sentinelRights are what the user of a gateway needs in Sentinels.
const sentinelRights = "-@all +sentinel|master +sentinel|masters +sentinel|get-master-addr-by-name +subscribe +unsubscribe +ping +client &+promoted-slave &+switch-master"

// others gives the names of the primaries that the Sentinels know.
func (s *sentinels) others(ctx context.Context) string {
	var names []string
	for _, c := range s.asked {
		all, err := c.Do(ctx, "sentinel", "masters").Slice()
		if err != nil {
			continue
		}
		for _, one := range all {
			if fields, ok := one.([]any); ok && len(fields) > 1 {
				names = append(names, fmt.Sprint(fields[1]))
			} else if fields, ok := one.(map[any]any); ok {
				names = append(names, fmt.Sprint(fields["name"]))
			}
		}
	}
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
