package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/redistest"
)

// reach opens what a URL names, as a gateway with some more settings would.
func reach(t *testing.T, url string, vars ...string) error {
	t.Helper()
	return reachFor(t.Context(), t, url, vars...)
}

// briefly is reach for what is not waited for as long as a gateway would.
func briefly(t *testing.T, url string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return reachFor(ctx, t, url)
}

func reachFor(ctx context.Context, t *testing.T, url string, vars ...string) error {
	t.Helper()
	cfg, _, err := parse([]string{"--dev", "--redis-timeout=1s"}, append(vars, "ROOMGATE_REDIS_URL="+url)...)
	if err != nil {
		t.Fatal(err)
	}
	link, err := openRedis(ctx, &cfg, nil, slog.New(slog.DiscardHandler))
	if err == nil {
		link.Close()
	}
	return err
}

func wants(t *testing.T, err error, all ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error, want %q", all)
		return
	}
	for _, want := range all {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got error %q, want it to contain %q", err, want)
		}
	}
}

// A Redis that is not what it has to be is refused at once, with what to do.
func TestOpenRedis_unfit(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "redis.sock")
	plain := redistest.Start(t, "--maxmemory-policy", "noeviction", "--unixsocket", socket)
	for _, url := range []string{"redis://" + plain.Addr(), "redis://" + plain.Addr() + "/2?pool_size=3", "unix://" + socket + "?db=2"} {
		if err := reach(t, url); err != nil {
			t.Error(err)
		}
	}
	wants(t, reach(t, "redis://"+plain.Addr()+"?master_name=m"), "something else than a Sentinel", plain.Addr())
	wants(t, briefly(t, "rediss://"+plain.Addr()), "does not answer", "redis:// instead of rediss://")
	wants(t, briefly(t, "redis://127.0.0.1:1"), "does not answer", "connection refused")
	wants(t, briefly(t, "redis://127.0.0.1:1?master_name=m"), "does not answer", "none of the Sentinels answers", "connection refused")

	host, port, _ := net.SplitHostPort(plain.Addr())
	replica := redistest.Start(t, "--replicaof", host+" "+port)
	wants(t, reach(t, "redis://"+replica.Addr()), "is a replica of "+plain.Addr(), "name the primary", "master_name=NAME")

	guarded := redistest.Start(t)
	if err := guarded.Client(t).ConfigSet(t.Context(), "requirepass", "hush").Err(); err != nil {
		t.Fatal(err)
	}
	wants(t, reach(t, "redis://"+guarded.Addr()), "refuses the login", "NOAUTH")
	wants(t, reach(t, "redis://"+guarded.Addr(), "ROOMGATE_REDIS_PASSWORD=wrong"), "refuses the login", "WRONGPASS")
	if err := reach(t, "redis://"+guarded.Addr(), "ROOMGATE_REDIS_PASSWORD=hush"); err != nil {
		t.Error(err)
	}

	evicting := redistest.Start(t, "--maxmemory-policy", "allkeys-lru")
	wants(t, reach(t, "redis://"+evicting.Addr()), "maxmemory-policy allkeys-lru", "noeviction")
	wants(t, unfit(t.Context(), &Config{}, nil, "redis_version:6.2.14\r\nredis_mode:standalone\r\nrole:master\r\n"), "is version 6.2.14, 7.0 or later is needed")
}

// A Redis, or Sentinels, that do not serve yet are waited for.
func TestOpenRedis_late(t *testing.T) {
	t.Parallel()
	plain, s := redistest.Start(t, "--maxmemory-policy", "noeviction"), redistest.StartSentinel(t)
	for name, tt := range map[string]struct {
		addr string
		url  func(addr string) string
	}{
		"redis":    {plain.Addr(), func(addr string) string { return "redis://" + addr }},
		"sentinel": {s.Sentinels[0].Addr(), func(addr string) string { return redistest.SentinelURL(addr) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			link := faultproxy.Start(t, tt.addr)
			link.Refuse(true)
			opened := make(chan error, 1)
			go func() { opened <- reach(t, tt.url(link.Addr())) }()
			for link.Refused() == 0 {
				select {
				case err := <-opened:
					t.Fatalf("ended before it was refused: %v", err)
				case <-time.After(time.Millisecond):
				}
			}
			link.Refuse(false)
			if err := <-opened; err != nil {
				t.Error(err)
			}
		})
	}
}

// Sentinels are told from what they watch over, and what they do not know is
// said with what they do.
func TestOpenRedis_sentinels(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	if err := reach(t, s.URL()); err != nil {
		t.Error(err)
	}
	one := s.Sentinels[0]
	wants(t, reach(t, "redis://"+one.Addr()), "is a Sentinel", "master_name=NAME")
	wants(t, reach(t, "redis://"+one.Addr()+"?master_name=lobby"), `know no primary of the name "lobby"`, "they know "+redistest.PrimaryName)
	wants(t, reach(t, s.URL()+"&username=nobody", "ROOMGATE_REDIS_PASSWORD=x"), "refuses the login", "WRONGPASS")
	if err := one.Client(t).Do(t.Context(), "ACL", "SETUSER", "default", ">hush", "resetpass", ">hush").Err(); err != nil {
		t.Fatal(err)
	}
	wants(t, reach(t, redistest.SentinelURL(one.Addr())), "refused the login by Sentinels", "ROOMGATE_REDIS_SENTINEL_PASSWORD")
	if err := reach(t, redistest.SentinelURL(one.Addr()), "ROOMGATE_REDIS_SENTINEL_PASSWORD=hush"); err != nil {
		t.Error(err)
	}

	// The rights that are documented are enough, and all are needed.
	admin := redistest.Options(one.Addr())
	admin.Password = "hush"
	rdb := redis.NewClient(admin)
	defer rdb.Close()
	rules := strings.Fields(sentinelRights)
	for i := range len(rules) + 1 {
		args := []any{"ACL", "SETUSER", "watch", "reset", "on", ">hush"}
		dropped := ""
		for j, r := range rules {
			if i == j {
				dropped = r
				continue
			}
			args = append(args, r)
		}
		if err := rdb.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
		err := reach(t, "redis://watch@"+strings.TrimPrefix(redistest.SentinelURL(one.Addr()), "redis://"), "ROOMGATE_REDIS_SENTINEL_PASSWORD=hush")
		switch dropped {
		case "":
			if err != nil {
				t.Error(err)
			}
		case "+sentinel|master", "+sentinel|get-master-addr-by-name":
			wants(t, err, "refused by Sentinels", "NOPERM", sentinelRights)
		}
	}
}

// By TLS each side shows a certificate that the other trusts; what is missing is
// said.
func TestOpenRedis_tls(t *testing.T) {
	t.Parallel()
	certs, others := redistest.NewTLS(t), redistest.NewTLS(t)
	_, addr := redistest.StartTLS(t, certs)
	ca, cert, key := "ROOMGATE_REDIS_CA_FILE="+certs.CA, "ROOMGATE_REDIS_CERT_FILE="+certs.Cert, "ROOMGATE_REDIS_KEY_FILE="+certs.Key
	if err := reach(t, "rediss://"+addr, ca, cert, key); err != nil {
		t.Error(err)
	}
	if err := reach(t, "rediss://"+addr+"?skip_verify=true", cert, key); err != nil {
		t.Error(err)
	}
	wants(t, reach(t, "rediss://"+addr, cert, key), "TLS", "--redis-ca-file")
	wants(t, reach(t, "rediss://"+addr, "ROOMGATE_REDIS_CA_FILE="+others.CA, cert, key), "TLS", "--redis-ca-file")
	_, port, _ := net.SplitHostPort(addr)
	wants(t, reach(t, "rediss://localhost:"+port, ca, cert, key), "TLS", "must be for the host in --redis-url")
	wants(t, reach(t, "rediss://"+addr, ca), "TLS", "--redis-cert-file and --redis-key-file")
	wants(t, briefly(t, "redis://"+addr), "does not answer", "rediss:// instead of redis://")
	_, _, err := parse([]string{"--dev", "--redis-url=rediss://" + addr, "--redis-cert-file=" + certs.Cert, "--redis-key-file=" + others.Key})
	wants(t, err, "--redis-cert-file", "--redis-key-file", "does not match")
}

// A user with the rights that are documented may do all that gateways do, and
// one who lacks any of them is told so at the start, with the command that it is
// needed for.
func TestOpenRedis_rights(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--maxmemory-policy", "noeviction")
	rdb := server.Client(t)
	grant := func(rules ...string) error {
		t.Helper()
		args := []any{"ACL", "SETUSER", "gate", "reset", "on", ">hush"}
		for _, r := range rules {
			args = append(args, r)
		}
		if err := rdb.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
		return reach(t, "redis://gate@"+server.Addr(), "ROOMGATE_REDIS_PASSWORD=hush")
	}
	all := append([]string{"~rg:*", "&rg:*"}, strings.Fields(redisRights+" "+plainRights)...)
	if err := grant(all...); err != nil {
		t.Errorf("with all rights: %v", err)
	}
	for i, rule := range all {
		err := grant(append(append([]string(nil), all[:i]...), all[i+1:]...)...)
		switch rule {
		case "-@all": // that is how a user begins
		case "+config|get": // without it the policy is not checked
			if err != nil {
				t.Errorf("without %s: %v", rule, err)
			}
		default:
			if err == nil {
				t.Errorf("without %s: got no error", rule)
				continue
			}
			wants(t, err, aclLine("gate", "rg", false))
			if name, ok := strings.CutPrefix(rule, "+"); ok && !strings.HasPrefix(name, "@") {
				name, _, _ = strings.Cut(name, "|")
				wants(t, errors.New(strings.ToLower(err.Error())), name)
			}
		}
	}
	wants(t, grant(append(all, "-hset")...), "run HSET")
}

// What docs/operations.md tells to grant is what is granted here.
func TestRights_documented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	flat := strings.Join(strings.Fields(string(text)), " ")
	for _, rights := range []string{"ACL SETUSER roomgate on >PASSWORD ~rg:* &rg:* " + redisRights + " " + plainRights,
		"ACL SETUSER roomgate on >PASSWORD ~rg:* &rg:* " + redisRights + " " + clusterRights, sentinelRights} {
		if !strings.Contains(flat, rights) {
			t.Errorf("docs/operations.md does not have %s", rights)
		}
	}
}

// Which server is the primary follows from what Sentinels say: the latest
// configuration counts, and most of them have to vouch for it.
func TestSentinels_take(t *testing.T) {
	t.Parallel()
	type views = []view
	for _, tt := range []struct {
		name    string
		primary string
		epoch   int64
		void    bool // nobody has vouched for it for long
		views   views
		want    string
		vouched bool
	}{
		{name: "the first to say", views: views{{addr: "a", epoch: 3}}, want: "a 3"},
		{name: "most say", views: views{{addr: "a", epoch: 3}, {addr: "a", epoch: 3}}, want: "a 3", vouched: true},
		{name: "none says", primary: "a", epoch: 3, want: "a 3"},
		{name: "one knows a later one", primary: "a", epoch: 3, views: views{{addr: "a", epoch: 3}, {addr: "b", epoch: 4}, {addr: "a", epoch: 3}}, want: "b 4", vouched: true},
		{name: "one alone knows a later one", primary: "a", epoch: 3, views: views{{addr: "b", epoch: 4}}, want: "b 4"},
		{name: "one was cut off", primary: "b", epoch: 4, views: views{{addr: "a", epoch: 3}}, want: "b 4"},
		{name: "most were", primary: "b", epoch: 4, views: views{{addr: "a", epoch: 3}, {addr: "a", epoch: 3}}, want: "b 4"},
		{name: "most were, and nobody knows better for long", primary: "b", epoch: 4, void: true, views: views{{addr: "a", epoch: 3}, {addr: "a", epoch: 3}}, want: "a 3", vouched: true},
		{name: "one was, and nobody knows better for long", primary: "b", epoch: 4, void: true, views: views{{addr: "a", epoch: 3}}, want: "b 4"},
		{name: "most vouch again", primary: "a", epoch: 3, void: true, views: views{{addr: "a", epoch: 3}, {addr: "a", epoch: 3}}, want: "a 3", vouched: true},
		{name: "one in the midst of a failover", primary: "a", epoch: 3, views: views{{addr: "a", epoch: 3}, {addr: "b", epoch: 3}, {addr: "a", epoch: 3}}, want: "a 3", vouched: true},
		{name: "another one in the midst of a failover", primary: "a", epoch: 3, views: views{{addr: "b", epoch: 3}, {addr: "a", epoch: 3}, {addr: "a", epoch: 3}}, want: "a 3", vouched: true},
		{name: "put in by hand", primary: "a", epoch: 0, views: views{{addr: "b", epoch: 0}, {addr: "b", epoch: 0}}, want: "b 0", vouched: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &sentinels{asked: make([]*redis.Client, 3), primary: tt.primary, epoch: tt.epoch, vouched: time.Now()}
			if tt.void {
				s.vouched = time.Now().Add(-2 * vouchFor)
			}
			vouched := s.take(tt.views)
			if got := fmt.Sprint(s.primary, " ", s.epoch); got != tt.want || vouched != tt.vouched {
				t.Errorf("got %s, vouched for: %v; want %s, %v", got, vouched, tt.want, tt.vouched)
			}
		})
	}
}

// Replicas vouch for a primary if all of them follow it, for as long as the one
// that was heard of last.
func TestSentinels_following(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		info  string
		n     int
		since time.Duration
	}{
		{"two", "role:master\r\nslave0:ip=h,port=1,state=online,offset=9,lag=0\r\nslave1:ip=h,port=2,state=online,offset=9,lag=3\r\n", 2, 4 * time.Second},
		{"one is only coming", "role:master\r\nslave0:ip=h,port=1,state=online,offset=9,lag=1\r\nslave1:ip=h,port=2,state=wait_bgsave,offset=0,lag=0\r\n", 1, 2 * time.Second},
		{"Valkey's", "role:master\r\nslave0:ip=h,port=1,state=online,offset=9,lag=1,type=replica\r\n", 1, 2 * time.Second},
		{"none", "role:master\r\nconnected_slaves:0\r\n", 0, 0},
		{"a replica with replicas of its own", "role:slave\r\nslave0:ip=h,port=1,state=online,offset=9,lag=0\r\n", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n, since := following(tt.info); n != tt.n || since != tt.since {
				t.Errorf("got %d, %v; want %d, %v", n, since, tt.n, tt.since)
			}
		})
	}
}

// Nothing is sent to a server that is not the primary any more, or that nobody has
// vouched for lately, whenever this process finds out.
func TestSentinels_guard(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		primary string
		vouched time.Duration // ago
		want    string        // error
	}{
		{"the primary", "a", 0, ""},
		{"another is", "b", 0, "not the primary any more"},
		{"nobody has said so lately", "a", vouchFor + time.Second, errUnvouched.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &sentinels{primary: tt.primary, vouched: time.Now().Add(-tt.vouched)}
			ours, theirs := net.Pipe()
			c := s.guard(ours, "a")
			received := make(chan string)
			go func() {
				text, _ := io.ReadAll(theirs)
				received <- string(text)
			}()
			_, err := c.Write([]byte("x"))
			if tt.want == "" {
				if c.Close(); err != nil || s.conns.count() != 0 || <-received != "x" {
					t.Errorf("got %v, with %d connections left", err, s.conns.count())
				}
				return
			}
			wants(t, err, tt.want)
			if got := <-received; got != "" || s.conns.count() != 0 { // it has been closed
				t.Errorf("received %q, with %d connections left", got, s.conns.count())
			}
		})
	}
}

// A Redis that is embedded in another gateway does for development, and for
// nothing else.
func TestOpenRedis_embeddedElsewhere(t *testing.T) {
	t.Parallel()
	url := "redis://" + miniredis.RunT(t).Addr()
	if err := reach(t, url); err != nil {
		t.Errorf("for development: %v", err)
	}
	cfg, _, err := parse(nil, "ROOMGATE_REDIS_URL="+url, "ROOMGATE_JWT_HS256_SECRET="+testSecret)
	if err != nil {
		t.Fatal(err)
	}
	link, err := openRedis(t.Context(), &cfg, nil, slog.New(slog.DiscardHandler))
	if err == nil {
		link.Close()
	}
	wants(t, err, url, "7.0 or later is needed")
}
