//go:build unix

package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// PrimaryName is what the Sentinels call the primary.
const PrimaryName = "rooms"

// downAfter is for how long a server has to be silent until a Sentinel takes it
// for down: long for a machine that is busy with tests.
const downAfter = 2 * time.Second

// failoverTimeout bounds how long a failover may take.
const failoverTimeout = 60 * time.Second

// A Sentinel is a primary with two replicas and three Sentinels, all of one test.
// Its methods are for the goroutine of that test unless they say otherwise; they
// fail the test if they do not succeed.
type Sentinel struct {
	t         testing.TB
	Servers   []*Server // the first was the primary at first
	Sentinels []*Server
	certs     *TLS            // by which they all know each other; nil: they do not ask
	asked     []*redis.Client // one for each Sentinel

	mu    sync.Mutex
	conns map[net.Conn]*Server // made by Dial; guarded by mu
}

// StartSentinel starts a primary, its replicas and their Sentinels, and returns
// when they know each other. The arguments are those of each redis-server. See
// [New] for what happens if there is no redis-server.
func StartSentinel(t testing.TB, args ...string) *Sentinel {
	t.Helper()
	return startSentinel(t, nil, args...)
}

// StartSentinelTLS is [StartSentinel] for servers and Sentinels that reach each
// other by TLS, and are so reached by [Sentinel.URL]. Tests need not.
func StartSentinelTLS(t testing.TB, certs *TLS, args ...string) *Sentinel {
	t.Helper()
	return startSentinel(t, certs, append([]string{"--tls-replication", "yes"}, args...)...)
}

func startSentinel(t testing.TB, certs *TLS, args ...string) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t, certs: certs, conns: map[net.Conn]*Server{}}
	start := func(more ...string) {
		t.Helper()
		all := slices.Concat([]string{"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"}, args, more)
		server := (*Server)(nil)
		if certs != nil {
			server, _ = StartTLS(t, certs, all...)
		} else {
			server = Start(t, all...)
		}
		s.Servers = append(s.Servers, server)
	}
	start()
	for range 2 {
		start("--replicaof", strings.ReplaceAll(s.Servers[0].known(), ":", " "))
	}
	s.await("the replicas to follow", func(ctx context.Context) error { return s.following(ctx, s.Servers[0]) })
	for range 3 {
		s.Sentinels = append(s.Sentinels, s.sentinel())
	}
	for _, one := range s.Sentinels {
		s.asked = append(s.asked, one.Client(t))
	}
	s.await("the Sentinels to know each other", func(ctx context.Context) error {
		for _, c := range s.asked {
			known := redis.NewMapStringStringCmd(ctx, "sentinel", "master", PrimaryName)
			if err := c.Process(ctx, known); err != nil {
				return err
			}
			if m := known.Val(); m["num-slaves"] != "2" || m["num-other-sentinels"] != "2" || m["flags"] != "master" {
				return fmt.Errorf("%s knows %s replicas and %s others", c.Options().Addr, m["num-slaves"], m["num-other-sentinels"])
			}
		}
		return nil
	})
	return s
}

// sentinel starts one Sentinel, which keeps what it knows in a file.
func (s *Sentinel) sentinel() *Server {
	s.t.Helper()
	binary, err := find()
	if err != nil {
		missing(s.t, err)
	}
	file := filepath.Join(s.t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor %[1]s %[2]s 2\nsentinel down-after-milliseconds %[1]s %[3]d\nsentinel failover-timeout %[1]s 4000\n",
		PrimaryName, strings.ReplaceAll(s.Servers[0].known(), ":", " "), downAfter.Milliseconds())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	command := []string{binary, file, "--sentinel"}
	if s.certs != nil {
		return launchTLS(s.t, s.certs, command, []string{"--tls-replication", "yes"})
	}
	return launch(s.t, command, nil)
}

// URL is what a gateway finds the primary by.
func (s *Sentinel) URL() string {
	var addrs []string
	for _, one := range s.Sentinels {
		addrs = append(addrs, one.known())
	}
	if s.certs != nil {
		return strings.Replace(SentinelURL(addrs...), "redis://", "rediss://", 1)
	}
	return SentinelURL(addrs...)
}

// SentinelURL is [Sentinel.URL] for Sentinels that are found elsewhere.
func SentinelURL(addrs ...string) string {
	u := "redis://" + addrs[0] + "?master_name=" + PrimaryName
	for _, addr := range addrs[1:] {
		u += "&addr=" + url.QueryEscape(addr)
	}
	return u
}

// Primary gives the server that most Sentinels name.
func (s *Sentinel) Primary() *Server {
	s.t.Helper()
	var p *Server
	s.await("most Sentinels to name a primary", func(ctx context.Context) (err error) {
		p, err = s.named(ctx)
		return err
	})
	return p
}

func (s *Sentinel) named(ctx context.Context) (*Server, error) {
	votes := map[string]int{}
	for _, c := range s.asked {
		addr := redis.NewStringSliceCmd(ctx, "sentinel", "get-master-addr-by-name", PrimaryName)
		if c.Process(ctx, addr) == nil && len(addr.Val()) == 2 {
			votes[net.JoinHostPort(addr.Val()[0], addr.Val()[1])]++
		}
	}
	for _, server := range s.Servers {
		if votes[server.known()] >= 2 {
			return server, nil
		}
	}
	return nil, fmt.Errorf("they say %v", votes)
}

// Client returns a client of the primary, whichever that is: see [Sentinel.Dial].
// It is closed when the test ends.
func (s *Sentinel) Client(t testing.TB) *redis.Client {
	o := Options("the primary")
	o.Dialer = s.Dial
	rdb := redis.NewClient(o)
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// Dial makes a connection to the primary, as the Dialer of a client. It is ended
// when another is waited for and has come to rule. It may be called concurrently.
func (s *Sentinel) Dial(ctx context.Context, network, _ string) (net.Conn, error) {
	p, err := s.named(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, p.Addr())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[conn] = p
	return conn, nil
}

// Drain has the primary take no more writes and give its replicas all it has, so
// that what comes next loses nothing. It ends with the primary's rule.
func (s *Sentinel) Drain() {
	s.t.Helper()
	primary := s.Primary()
	rdb := primary.Client(s.t)
	defer rdb.Close()
	if err := rdb.Do(s.t.Context(), "CLIENT", "PAUSE", failoverTimeout.Milliseconds(), "WRITE").Err(); err != nil {
		s.t.Fatal(err)
	}
	s.await("the replicas to have everything", func(ctx context.Context) error {
		has, err := replication(ctx, rdb)
		if err != nil {
			return err
		}
		for _, server := range s.Servers {
			if server == primary || server.killed {
				continue
			}
			other := server.Client(s.t)
			got, err := replication(ctx, other)
			other.Close()
			if err != nil {
				return err
			}
			want, _ := strconv.ParseInt(has["master_repl_offset"], 10, 64)
			if at, _ := strconv.ParseInt(got["slave_repl_offset"], 10, 64); at < want {
				return fmt.Errorf("%s is at %d of %d", server.Addr(), at, want)
			}
		}
		return nil
	})
}

// KillPrimary kills the primary and returns it when another rules.
func (s *Sentinel) KillPrimary() *Server {
	s.t.Helper()
	old := s.Primary()
	old.Kill()
	s.WaitOther(old)
	return old
}

// Switch has the Sentinels make another server the primary, and returns the one
// that was when another rules. It may take a while until that one knows.
func (s *Sentinel) Switch() *Server {
	s.t.Helper()
	old := s.Primary()
	s.await("the Sentinels to begin a failover", func(ctx context.Context) error {
		return s.asked[0].Do(ctx, "sentinel", "failover", PrimaryName).Err()
	})
	s.WaitOther(old)
	return old
}

// WaitOther waits until another server than the one given rules.
func (s *Sentinel) WaitOther(old *Server) {
	s.t.Helper()
	s.await("another primary", func(ctx context.Context) error {
		p, err := s.named(ctx)
		if err != nil {
			return err
		}
		if p == old {
			return errors.New("it is still the same")
		}
		rdb := p.Client(s.t)
		defer rdb.Close()
		has, err := replication(ctx, rdb)
		if err == nil && has["role"] != "master" {
			err = errors.New("it is a replica")
		}
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn, server := range s.conns {
		if server == old {
			conn.Close()
			delete(s.conns, conn)
		}
	}
}

// WaitSync waits until all servers follow the primary, those that were killed
// excepted, and the Sentinels think so, too.
func (s *Sentinel) WaitSync() {
	s.t.Helper()
	s.await("the servers to follow the primary", func(ctx context.Context) error {
		p, err := s.named(ctx)
		if err != nil {
			return err
		}
		return s.following(ctx, p)
	})
}

// following says what keeps servers from following a primary.
func (s *Sentinel) following(ctx context.Context, primary *Server) error {
	for _, server := range s.Servers {
		if server.killed {
			continue
		}
		rdb := server.Client(s.t)
		has, err := replication(ctx, rdb)
		rdb.Close()
		switch {
		case err != nil:
			return err
		case server == primary && has["role"] != "master":
			return fmt.Errorf("%s is a %s", server.Addr(), has["role"])
		case server != primary && (has["role"] != "slave" || net.JoinHostPort(has["master_host"], has["master_port"]) != primary.known() || has["master_link_status"] != "up"):
			return fmt.Errorf("%s is a %s of port %s, its link is %s", server.Addr(), has["role"], has["master_port"], has["master_link_status"])
		}
	}
	return nil
}

// replication gives what a server says of its replication.
func replication(ctx context.Context, rdb *redis.Client) (map[string]string, error) {
	info, err := rdb.Info(ctx, "replication").Result()
	fields := map[string]string{}
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields, err
}

// await waits until do succeeds.
func (s *Sentinel) await(what string, do func(context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), failoverTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := do(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("waited %v for %s: %v", failoverTimeout, what, err)
		}
	}
}
