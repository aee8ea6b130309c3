package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

const (
	testSecret = "0123456789abcdef0123456789abcdef"
	testKey    = "backend-key-0123"
)

// parse runs parseConfig with the environment given as NAME=VALUE.
func parse(args []string, vars ...string) (Config, string, error) {
	env := map[string]string{}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	var stdout bytes.Buffer
	cfg, err := parseConfig(args, func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}, &stdout, io.Discard)
	return cfg, stdout.String(), err
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// --dev alone is enough to try it, and these are the defaults that scripts and
// people rely on.
func TestParseConfig_defaults(t *testing.T) {
	t.Parallel()
	got, _, err := parse([]string{"--dev"})
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Listen: ":8080", InternalListen: "127.0.0.1:9090", QueueBytes: 1 << 20,
		Dev: true, APIKeys: []secret{"dev"}, Console: true,
		RedisTimeout: 2 * time.Second, RedisPrefix: "rg", Partitions: 1,
		SessionTTL: 35 * time.Second, HeartbeatInterval: 10 * time.Second, LeaseTTL: 10 * time.Second, DrainWindow: 25 * time.Second,
		MaxMembers: 500, MaxRoomsPerUser: 5, MaxDevices: 10, LogSize: 256, LogTTL: 2 * time.Minute,
		KeepEmptiedData: true, RateLimits: true,
		NodeName: host, LogFormat: "auto", LogLevel: slog.LevelInfo,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Every flag does what its name says, given in any of its forms, and the
// environment stands in for the ones that are not given.
func TestParseConfig_values(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		args string
		env  []string
		got  func(Config) any
		want any
	}{
		{"value after a space", "--listen 127.0.0.1:0", nil, func(c Config) any { return c.Listen }, "127.0.0.1:0"},
		{"value after =", "--partitions=4", nil, func(c Config) any { return c.Partitions }, 4},
		{"on by default, turned off by =false", "--keep-emptied-data=false", nil, func(c Config) any { return c.KeepEmptiedData }, false},
		{"on by default, turned off by no-", "--no-keep-emptied-data", nil, func(c Config) any { return c.KeepEmptiedData }, false},
		{"on by default, turned on", "--keep-emptied-data", nil, func(c Config) any { return c.KeepEmptiedData }, true},
		{"on by default, turned off by the environment", "", []string{"ROOMGATE_KEEP_EMPTIED_DATA=false"}, func(c Config) any { return c.KeepEmptiedData }, false},
		{"rates off", "--rate-limits=false", nil, func(c Config) any { return c.RateLimits }, false},
		{"rates on, against the environment", "--rate-limits=true", []string{"ROOMGATE_RATE_LIMITS=false"}, func(c Config) any { return c.RateLimits }, true},
		{"environment", "", []string{"ROOMGATE_MAX_ROOMS_PER_USER=7"}, func(c Config) any { return c.MaxRoomsPerUser }, 7},
		{"the flag wins", "--max-rooms-per-user=8", []string{"ROOMGATE_MAX_ROOMS_PER_USER=7"}, func(c Config) any { return c.MaxRoomsPerUser }, 8},
		{"an empty variable does not count", "", []string{"ROOMGATE_MAX_ROOMS_PER_USER="}, func(c Config) any { return c.MaxRoomsPerUser }, 5},
		{"minutes", "--log-ttl 1h30m", nil, func(c Config) any { return c.LogTTL }, 90 * time.Minute},
		{"list", "--allowed-origins=example.com,https://*.example.org:8443", nil, func(c Config) any { return c.AllowedOrigins }, []string{"example.com", "https://*.example.org:8443"}},
		{"list in the environment", "", []string{"ROOMGATE_ALLOWED_ORIGINS=a.example,b.example"}, func(c Config) any { return c.AllowedOrigins }, []string{"a.example", "b.example"}},
		{"level", "--log-level=debug", nil, func(c Config) any { return c.LogLevel }, slog.LevelDebug},
		{"node name", "--node-name=gate-1.example", nil, func(c Config) any { return c.NodeName }, "gate-1.example"},
		{"log-ttl at its limit", "--log-ttl=70s", nil, func(c Config) any { return c.LogTTL }, 70 * time.Second},
		{"dev with a real Redis", "--redis-url=redis://redis:6379/1", nil, func(c Config) any { return string(c.RedisURL) }, "redis://redis:6379/1"},
		{"redis with TLS", "--redis-url=rediss://user@redis.example:6380", []string{"ROOMGATE_REDIS_PASSWORD=hush"}, func(c Config) any { return string(c.RedisURL) }, "rediss://user@redis.example:6380"},
		{"redis by socket", "--redis-url=unix:///run/redis.sock", nil, func(c Config) any { return string(c.RedisURL) }, "unix:///run/redis.sock"},
		{"password in the environment's URL", "", []string{"ROOMGATE_REDIS_URL=redis://:hush@redis:6379"}, func(c Config) any { return string(c.RedisURL) }, "redis://:hush@redis:6379"},
		{"password in the environment", "--redis-url=redis://redis", []string{"ROOMGATE_REDIS_PASSWORD=hush"}, func(c Config) any { return string(c.RedisPassword) }, "hush"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, _, err := parse(append([]string{"--dev"}, strings.Fields(tt.args)...), tt.env...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tt.got(cfg)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Sentinels are asked with their own user, and Redis with its own; each server
// has its own name in its certificate.
func TestParseConfig_sentinels(t *testing.T) {
	t.Parallel()
	cfg, _, err := parse([]string{"--dev", "--redis-url=rediss://watch@s1?master_name=main&addr=s2:26380&username=gate&db=2&pool_size=7"},
		"ROOMGATE_REDIS_PASSWORD=hush", "ROOMGATE_REDIS_SENTINEL_PASSWORD=whisper")
	if err != nil {
		t.Fatal(err)
	}
	got, err := cfg.target()
	if err != nil {
		t.Fatal(err)
	}
	o := got.options
	if got.master != "main" || o.Username != "gate" || o.Password != "hush" || o.DB != 2 || o.PoolSize != 7 || o.TLSConfig == nil || o.TLSConfig.ServerName != "" {
		t.Errorf("got %q, %+v", got.master, o)
	}
	var addrs []string
	for _, s := range got.sentinels {
		addrs = append(addrs, s.Addr)
		if s.Username != "watch" || s.Password != "whisper" || s.TLSConfig == nil {
			t.Errorf("Sentinel %+v", s)
		}
	}
	if diff := cmp.Diff([]string{"s1:26379", "s2:26380"}, addrs); diff != "" {
		t.Error(diff)
	}
	for _, o := range append(got.sentinels, got.options) {
		if o.MaxRetries != -1 || !o.ContextTimeoutEnabled || o.ReadTimeout != cfg.RedisTimeout {
			t.Errorf("%s: got %+v, want that nothing is sent twice or waited for too long", o.Addr, o)
		}
	}
}

// Secrets come out of files and variables without their last newline, and keys
// from both places are all good, so that one can be rotated.
func TestParseConfig_secrets(t *testing.T) {
	t.Parallel()
	prod := []string{"--redis-url=redis://redis:6379"}
	keys := file(t, "# the first backend\n"+testKey+"\n\n  spaced-key-012345  \r\n")

	cfg, _, err := parse(append(prod, "--jwt-hs256-secret-file="+file(t, testSecret+"\r\n"), "--api-keys-file="+keys, "--redis-password-file="+file(t, " hush \n")),
		"ROOMGATE_API_KEYS=third-key-0123456, fourth-key-012345,")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(cfg.JWTSecret), testSecret; got != want {
		t.Errorf("got JWT secret %q, want %q", got, want)
	}
	if got, want := string(cfg.RedisPassword), " hush "; got != want {
		t.Errorf("got password %q, want %q", got, want)
	}
	if diff := cmp.Diff([]string{testKey, "spaced-key-012345", "third-key-0123456", "fourth-key-012345"}, cfg.apiKeys()); diff != "" {
		t.Error(diff)
	}
	if v, err := cfg.verifier(); err != nil {
		t.Error(err)
	} else if _, err := v.Verify("", "ana", time.Now()); err == nil {
		t.Error("no token was accepted without --dev")
	}

	cfg, _, err = parse(prod, "ROOMGATE_JWT_HS256_SECRET="+testSecret)
	if err != nil {
		t.Fatal(err)
	}
	if string(cfg.JWTSecret) != testSecret || len(cfg.APIKeys) != 0 {
		t.Errorf("got secret %q and %d keys, want the variable's and none", string(cfg.JWTSecret), len(cfg.APIKeys))
	}
}

// What cannot work is refused before anything listens, in a sentence that
// names the flag or variable, the value and the limit.
func TestParseConfig_refused(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "none")
	tests := []struct {
		name string
		args []string
		env  []string
		want []string
	}{
		{"nothing set", nil, nil, []string{"no way to check login tokens", "--jwt-hs256-secret-file", "ROOMGATE_JWT_HS256_SECRET", "--dev", "--redis-url is required"}},
		{"cluster's address", []string{"--dev", "--redis-url=redis://a:7000?addr=b"}, nil, []string{"--redis-url", "addr=b", "HOST:PORT"}},
		{"cluster's node twice", []string{"--dev", "--redis-url=redis://a:7000?addr=b:7000&addr=a:7000"}, nil, []string{"--redis-url", "node a:7000 twice"}},
		{"cluster's database", []string{"--dev", "--redis-url=redis://a:7000/2?addr=b:7000"}, nil, []string{"--redis-url", "database 2", "no other than 0"}},
		{"cluster by a socket", []string{"--dev", "--redis-url=unix:///r.sock?addr=b:7000"}, nil, []string{"--redis-url", "no first node", "redis://NODE:6379?addr=NODE:6379"}},
		{"cluster's option", []string{"--dev", "--redis-url=redis://a?addr=b:7000&read_only=true"}, nil, []string{"--redis-url", `"read_only"`, "for a Redis Cluster addr"}},
		{"no Redis", nil, []string{"ROOMGATE_JWT_HS256_SECRET=" + testSecret}, []string{"--redis-url is required", "ROOMGATE_REDIS_URL"}},
		{"no tokens", []string{"--redis-url=redis://r"}, nil, []string{"no way to check login tokens"}},
		{"empty secret", []string{"--redis-url=redis://r"}, []string{"ROOMGATE_JWT_HS256_SECRET="}, []string{"no way to check login tokens", "set, but empty"}},
		{"short secret", []string{"--redis-url=redis://r"}, []string{"ROOMGATE_JWT_HS256_SECRET=" + testSecret[1:]}, []string{"31 bytes", "at least 32"}},
		{"secret twice", []string{"--redis-url=redis://r", "--jwt-hs256-secret-file=" + file(t, testSecret)}, []string{"ROOMGATE_JWT_HS256_SECRET=" + testSecret}, []string{"--jwt-hs256-secret-file", "only one"}},
		{"secret's file missing", []string{"--redis-url=redis://r", "--jwt-hs256-secret-file=" + missing}, nil, []string{"--jwt-hs256-secret-file cannot be read", missing}},
		{"secret's file empty", []string{"--redis-url=redis://r", "--jwt-hs256-secret-file=" + file(t, "\n")}, nil, []string{"--jwt-hs256-secret-file", "empty"}},

		{"no such flag", []string{"--dev", "--partition=3"}, nil, []string{"--partition"}},
		{"a console without keys", []string{"--redis-url=redis://redis", "--console"}, []string{"ROOMGATE_JWT_HS256_SECRET=" + testSecret}, []string{"--console", "no API keys", "ROOMGATE_API_KEYS"}},
		{"stray argument", []string{"--dev", "now"}, nil, []string{"now"}},
		{"not a number", []string{"--dev", "--partitions=few"}, nil, []string{"--partitions", "few"}},
		{"not a number, by variable", []string{"--dev"}, []string{"ROOMGATE_PARTITIONS=few"}, []string{"--partitions (from ROOMGATE_PARTITIONS)", "few"}},
		{"not a duration", []string{"--dev", "--session-ttl=35"}, nil, []string{"--session-ttl", "35", "missing unit"}},
		{"not a bool", []string{"--dev", "--rate-limits=off"}, nil, []string{"--rate-limits", "off"}},
		{"no such level", []string{"--dev", "--log-level=loud"}, nil, []string{"--log-level", "loud"}},
		{"no such format", []string{"--dev", "--log-format=xml"}, nil, []string{"--log-format", "xml", "json"}},

		{"no partitions", []string{"--dev", "--partitions=0"}, nil, []string{"--partitions is 0", "at least 1"}},
		{"too many partitions, by variable", []string{"--dev"}, []string{"ROOMGATE_PARTITIONS=65"}, []string{"--partitions (from ROOMGATE_PARTITIONS) is 65", "at most 64"}},
		{"log too short-lived", []string{"--dev", "--log-ttl=69s"}, nil, []string{"--log-ttl is 1m9s", "at least", "35s + 10s + 25s = 1m10s"}},
		{"session too long for the log", []string{"--dev", "--session-ttl=2m"}, nil, []string{"--log-ttl is 2m0s", "--session-ttl", "2m35s"}},
		{"heartbeat too slow", []string{"--dev", "--heartbeat-interval=35s"}, nil, []string{"--heartbeat-interval is 35s", "shorter than --session-ttl", "35s"}},
		{"redis timeout over the lease", []string{"--dev", "--redis-timeout=10s"}, nil, []string{"--redis-timeout is 10s", "shorter than --lease-ttl"}},
		{"negative duration", []string{"--dev", "--drain-window=-1s"}, nil, []string{"--drain-window is -1s", "from 1ms to 24h"}},
		{"zero duration", []string{"--dev", "--lease-ttl=0s"}, nil, []string{"--lease-ttl is 0s", "from 1ms"}},
		{"endless duration", []string{"--dev", "--log-ttl=25h"}, nil, []string{"--log-ttl is 25h0m0s", "24h"}},
		{"negative rooms", []string{"--dev", "--max-rooms=-1"}, nil, []string{"--max-rooms is -1", "at least 0"}},
		{"no members", []string{"--dev", "--max-members=0"}, nil, []string{"--max-members is 0", "at least 1"}},
		{"too many rooms per user", []string{"--dev", "--max-rooms-per-user=501"}, nil, []string{"--max-rooms-per-user is 501", "at most 500"}},
		{"no devices", []string{"--dev", "--max-devices=0"}, nil, []string{"--max-devices is 0", "at least 1"}},
		{"log of none", []string{"--dev", "--log-size=0"}, nil, []string{"--log-size is 0", "at least 1"}},
		{"negative connections", []string{"--dev", "--max-connections=-1"}, nil, []string{"--max-connections is -1", "at least 0"}},

		{"listen without a port", []string{"--dev", "--listen=localhost"}, nil, []string{"--listen", `"localhost"`, "HOST:PORT"}},
		{"listen on no number", []string{"--dev", "--listen=:http"}, nil, []string{"--listen", `":http"`, "65535"}},
		{"listen on too high a port", []string{"--dev", "--internal-listen=:65536"}, nil, []string{"--internal-listen", `":65536"`, "65535"}},
		{"listen twice on one address", []string{"--dev", "--internal-listen=:8080"}, nil, []string{"--internal-listen", "same as --listen"}},
		{"origin with a path", []string{"--dev", "--allowed-origins=https://example.com/"}, nil, []string{"--allowed-origins", "https://example.com/"}},
		{"origin empty", []string{"--dev", "--allowed-origins=a.example,,b.example"}, nil, []string{"--allowed-origins", `""`}},
		{"origin's pattern", []string{"--dev", "--allowed-origins=[a"}, nil, []string{"--allowed-origins", "[a"}},
		{"prefix with braces", []string{"--dev", "--redis-prefix={rg}"}, nil, []string{"--redis-prefix", "{rg}", "32"}},
		{"node name with a space", []string{"--dev", "--node-name=gate one"}, nil, []string{"--node-name", "gate one", "128"}},

		{"redis by http", []string{"--dev", "--redis-url=http://redis"}, nil, []string{"--redis-url", "http://redis", "rediss://"}},
		{"redis by name", []string{"--dev", "--redis-url=redis:6379"}, nil, []string{"--redis-url", "redis"}},
		{"redis database", []string{"--dev", "--redis-url=redis://redis/one"}, nil, []string{"--redis-url", "database", "one"}},
		{"redis option", []string{"--dev", "--redis-url=redis://redis?colour=red"}, nil, []string{"--redis-url", "colour"}},
		{"option of Sentinels", []string{"--dev", "--redis-url=redis://redis?username=u"}, nil, []string{"--redis-url", "username", "redis://USER@HOST"}},
		{"option that a flag sets", []string{"--dev", "--redis-url=redis://redis?read_timeout=1s"}, nil, []string{"--redis-url", "read_timeout", "pool_size"}},
		{"option that would send twice", []string{"--dev", "--redis-url=redis://s?master_name=m&max_retries=3"}, nil, []string{"--redis-url", "max_retries", "master_name"}},
		{"option twice", []string{"--dev", "--redis-url=redis://s?master_name=m&master_name=n"}, nil, []string{"--redis-url", "master_name 2 times"}},
		{"options that are none", []string{"--dev", "--redis-url=redis://s?a=%zz"}, nil, []string{"--redis-url", "NAME=VALUE"}},
		{"not a number of connections", []string{"--dev", "--redis-url=redis://s?pool_size=many"}, nil, []string{"--redis-url", "pool_size", "many"}},
		{"user without password", []string{"--dev", "--redis-url=redis://gate@redis"}, nil, []string{"--redis-url", "user gate of Redis", "no password", "ROOMGATE_REDIS_PASSWORD"}},
		{"no Sentinel", []string{"--dev", "--redis-url=redis://?master_name=m"}, nil, []string{"--redis-url", "no Sentinel", "addr="}},
		{"Sentinel by socket", []string{"--dev", "--redis-url=unix:///run/s.sock?master_name=m"}, nil, []string{"--redis-url", "no Sentinel"}},
		{"no name of a primary", []string{"--dev", "--redis-url=redis://s?master_name="}, nil, []string{"--redis-url", "master_name", "empty"}},
		{"Sentinel without port", []string{"--dev", "--redis-url=redis://s?master_name=m&addr=b"}, nil, []string{"--redis-url", "addr=b", "HOST:PORT"}},
		{"Sentinel twice", []string{"--dev", "--redis-url=redis://s?master_name=m&addr=s:26379"}, nil, []string{"--redis-url", "s:26379 twice"}},
		{"Sentinels' user without password", []string{"--dev", "--redis-url=redis://gate@s?master_name=m"}, []string{"ROOMGATE_REDIS_PASSWORD=hush"}, []string{"--redis-url", "user gate of the Sentinels", "ROOMGATE_REDIS_SENTINEL_PASSWORD", "username=USER"}},
		{"Redis's user without password", []string{"--dev", "--redis-url=redis://s?master_name=m&username=gate"}, []string{"ROOMGATE_REDIS_SENTINEL_PASSWORD=hush"}, []string{"--redis-url", "user gate of Redis", "ROOMGATE_REDIS_PASSWORD"}},
		{"Sentinels' password without Sentinels", []string{"--dev", "--redis-url=redis://redis"}, []string{"ROOMGATE_REDIS_SENTINEL_PASSWORD=hush"}, []string{"password for Sentinels", "names none"}},
		{"certificates without TLS", []string{"--dev", "--redis-url=redis://redis", "--redis-ca-file=" + missing}, nil, []string{"--redis-ca-file", "rediss://"}},
		{"certificates missing", []string{"--dev", "--redis-url=rediss://redis", "--redis-ca-file=" + missing}, nil, []string{"--redis-ca-file cannot be read", missing}},
		{"certificates that are none", []string{"--dev", "--redis-url=rediss://redis", "--redis-ca-file=" + file(t, "x")}, nil, []string{"--redis-ca-file", "no certificate", "PEM"}},
		{"key without certificate", []string{"--dev", "--redis-url=rediss://redis", "--redis-key-file=" + missing}, nil, []string{"--redis-key-file", "no --redis-cert-file"}},
		{"certificate without key", []string{"--dev", "--redis-url=rediss://redis", "--redis-cert-file=" + missing}, nil, []string{"--redis-cert-file", "no --redis-key-file"}},
		{"certificate that is none", []string{"--dev", "--redis-url=rediss://redis", "--redis-cert-file=" + file(t, "x"), "--redis-key-file=" + file(t, "x")}, nil, []string{"--redis-cert-file", "--redis-key-file", "cannot be used"}},
		{"password without Redis", []string{"--dev"}, []string{"ROOMGATE_REDIS_PASSWORD=hush"}, []string{"password", "no --redis-url"}},

		{"short API key", []string{"--dev"}, []string{"ROOMGATE_API_KEYS=" + testKey + ",short"}, []string{"ROOMGATE_API_KEYS, key 2", "5 characters", "at least 16"}},
		{"short API key in a file", []string{"--dev", "--api-keys-file=" + file(t, "# keys\n\nshort\n")}, nil, []string{"--api-keys-file", "line 3", "5 characters", "at least 16"}},
		{"API key with a space", []string{"--dev", "--api-keys-file=" + file(t, "two words in one key\n")}, nil, []string{"--api-keys-file", "line 1", "HTTP header"}},
		{"API keys' file without keys", []string{"--dev", "--api-keys-file=" + file(t, "# none yet\n")}, nil, []string{"--api-keys-file", "no key"}},
		{"API keys' file missing", []string{"--dev", "--api-keys-file=" + missing}, nil, []string{"--api-keys-file cannot be read", missing}},

		{"two at once", []string{"--dev", "--partitions=0", "--max-members=0"}, nil, []string{"2 settings", "--partitions is 0", "--max-members is 0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := parse(tt.args, tt.env...)
			if err == nil {
				t.Fatal("got no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got error %q, want it to contain %q", err, want)
				}
			}
		})
	}
}

// A secret is never shown: not in an error, not by printing or logging the
// configuration. And it is not taken where others can read it.
func TestParseConfig_secretsStaySecret(t *testing.T) {
	t.Parallel()
	const hush = "hushhushhushhushhushhushhushhush"
	wrong := []struct {
		name string
		args []string
		env  []string
	}{
		{"password in a flag", []string{"--dev", "--redis-url=redis://user:" + hush + "@redis:6379"}, nil},
		{"password in a flag's query", []string{"--dev", "--redis-url=redis://redis?master_name=m&password=" + hush}, nil},
		{"password with a slash", []string{"--dev"}, []string{"ROOMGATE_REDIS_URL=redis://user:" + hush + "/" + hush + "@redis:6379"}},
		{"password with a percent sign", []string{"--dev"}, []string{"ROOMGATE_REDIS_URL=redis://user:" + hush + "%zz@redis:6379"}},
		{"password and a wrong scheme", []string{"--dev"}, []string{"ROOMGATE_REDIS_URL=http://user:" + hush + "@redis:6379"}},
		{"password and a wrong database", []string{"--dev"}, []string{"ROOMGATE_REDIS_URL=redis://user:" + hush + "@redis:6379/x"}},
		{"password in a query with a wrong option", []string{"--dev"}, []string{"ROOMGATE_REDIS_URL=redis://r?master_name=m&x=1&password=" + hush}},
		{"password in an option that is none", []string{"--dev"}, []string{"ROOMGATE_REDIS_URL=redis://r?master_name=m&password=" + hush + "%zz"}},
		{"two passwords of the Sentinels", []string{"--dev"}, []string{"ROOMGATE_REDIS_URL=redis://user:" + hush + "@s?master_name=m", "ROOMGATE_REDIS_SENTINEL_PASSWORD=" + hush}},
		{"two passwords", []string{"--dev"}, []string{"ROOMGATE_REDIS_URL=redis://user:" + hush + "@redis:6379", "ROOMGATE_REDIS_PASSWORD=" + hush}},
		{"password as a flag", []string{"--dev", "--redis-password=" + hush}, nil},
		{"secret as a flag", []string{"--dev", "--jwt-hs256-secret=" + hush}, nil},
		{"key as a flag", []string{"--dev", "--api-keys=" + hush}, nil},
		{"short secret", []string{"--redis-url=redis://r"}, []string{"ROOMGATE_JWT_HS256_SECRET=" + hush[1:]}},
		{"key with a space", []string{"--dev"}, []string{"ROOMGATE_API_KEYS=" + hush + " " + hush}},
	}
	for _, tt := range wrong {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := parse(tt.args, tt.env...)
			if err == nil {
				t.Fatal("got no error")
			}
			if strings.Contains(err.Error(), hush[1:]) {
				t.Errorf("error shows the secret: %s", err)
			}
		})
	}

	for _, url := range []string{"redis://user:" + hush + "@redis:6379", "redis://user:" + hush + "@s?master_name=m&username=u&password=" + hush} {
		cfg, _, err := parse(nil, "ROOMGATE_REDIS_URL="+url, "ROOMGATE_JWT_HS256_SECRET="+hush, "ROOMGATE_API_KEYS="+hush)
		if err != nil {
			t.Fatal(err)
		}
		if string(cfg.RedisURL) != url || string(cfg.JWTSecret) != hush {
			t.Errorf("got %q and %q, want the values", string(cfg.RedisURL), string(cfg.JWTSecret))
		}
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "cfg", cfg, "url", cfg.RedisURL, "secret", cfg.JWTSecret)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "cfg", cfg, "url", cfg.RedisURL, "secret", cfg.JWTSecret)
		asJSON, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", cfg), fmt.Sprintf("%q", cfg.JWTSecret), log.String(), string(asJSON)} {
			if strings.Contains(text, hush) {
				t.Errorf("shows a secret: %s", text)
			}
		}
		if !strings.Contains(fmt.Sprint(cfg.RedisURL), "redis://") {
			t.Errorf("got URL %s, want the rest of it to be shown", cfg.RedisURL)
		}
	}
}

// --help is the documentation: every flag, its variable, its default; and it
// is printed whatever else is on the line.
func TestParseConfig_help(t *testing.T) {
	t.Parallel()
	cfg, out, err := parse([]string{"--partitions=0", "--help"})
	if !errors.Is(err, errDone) {
		t.Fatalf("got %v, want errDone", err)
	}
	if diff := cmp.Diff(Config{}, cfg); diff != "" {
		t.Error(diff)
	}
	text := strings.Join(strings.Fields(out), " ")
	fixed := []string{
		"listen", "internal-listen", "redis-url", "dev", "partitions", "session-ttl", "lease-ttl", "drain-window", "log-size", "log-ttl",
		"max-rooms", "max-members", "max-rooms-per-user", "max-devices", "keep-emptied-data", "rate-limits", "heartbeat-interval",
		"redis-ca-file", "redis-cert-file", "redis-key-file", "redis-sentinel-password-file", "redis-timeout", "redis-prefix", "allowed-origins", "api-keys-file", "jwt-hs256-secret-file", "redis-password-file",
		"node-name", "max-connections", "log-level", "log-format",
	}
	for _, flag := range fixed {
		if !strings.Contains(text, "--"+flag) && !strings.Contains(text, "--[no-]"+flag) {
			t.Errorf("--help does not have --%s", flag)
		}
		if name := envName(flag); !strings.Contains(text, "["+name+"]") {
			t.Errorf("--help does not have %s", name)
		}
	}
	for _, want := range []string{"--version", "--health-check", `=":8080"`, "=35s", "=2m", "=500", "ROOMGATE_JWT_HS256_SECRET", "ROOMGATE_API_KEYS", "ROOMGATE_REDIS_PASSWORD", "ROOMGATE_REDIS_SENTINEL_PASSWORD"} {
		if !strings.Contains(text, want) {
			t.Errorf("--help does not have %s", want)
		}
	}
	for line := range strings.Lines(out) {
		if len(line) > 101 {
			t.Errorf("line of %d characters: %s", len(line), line)
		}
	}
}

// --version prints one line and needs no other setting.
func TestParseConfig_version(t *testing.T) {
	t.Parallel()
	_, out, err := parse([]string{"--version"})
	if !errors.Is(err, errDone) || !strings.HasPrefix(out, "roomgate ") || strings.Count(out, "\n") != 1 {
		t.Errorf("got %q, %v, want one line and errDone", out, err)
	}
}

// --health-check needs no secret, only to know where the gateway listens.
func TestParseConfig_healthCheck(t *testing.T) {
	t.Parallel()
	cfg, _, err := parse([]string{"--health-check"}, "ROOMGATE_INTERNAL_LISTEN=0.0.0.0:9191")
	if err != nil || !cfg.HealthCheck {
		t.Fatalf("got %v, %v", cfg.HealthCheck, err)
	}
	if got, want := cfg.healthURL(), "http://127.0.0.1:9191/readyz"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Every field that --help describes is a flag with a group, and a sentence.
func TestConfig_tags(t *testing.T) {
	t.Parallel()
	typ := reflect.TypeFor[Config]()
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Tag.Get("kong") == "-" {
			continue
		}
		if help := f.Tag.Get("help"); !strings.HasSuffix(help, ".") {
			t.Errorf("%s: help %q is not a sentence", f.Name, help)
		}
		key := f.Tag.Get("group")
		if !slices.ContainsFunc(groups, func(g kong.Group) bool { return g.Key == key }) {
			t.Errorf("%s: no group %q", f.Name, key)
		}
	}
}

// An audit needs to know Redis and how rooms behave, and no secret.
func TestParseConfig_audit(t *testing.T) {
	t.Parallel()
	cfg, _, err := parse([]string{"fsck", "--redis-url=redis://r:1", "--partitions=4", "--fix"})
	if err != nil || !cfg.Audit || !cfg.Repair || cfg.Partitions != 4 {
		t.Errorf("got %+v, %v", cfg, err)
	}
	cfg, _, err = parse([]string{"fsck"}, "ROOMGATE_REDIS_URL=redis://r:1", "ROOMGATE_FIX=true")
	if err != nil || !cfg.Audit || cfg.Repair {
		t.Errorf("got %+v, %v, want an audit that repairs nothing unless a flag says so", cfg, err)
	}
	for _, args := range [][]string{{"fsck"}, {"fsck", "--dev"}, {"--fix"}, {"fsck", "--redis-url=redis://r:1", "--partitions=0"}} {
		if _, _, err := parse(args); err == nil {
			t.Errorf("%q: got no error", args)
		}
	}
	_, out, err := parse([]string{"fsck", "--help"})
	if !errors.Is(err, errDone) || !strings.Contains(out, "--fix") || !strings.Contains(out, "Audits") {
		t.Errorf("got %q, %v", out, err)
	}
}

// The console is there where it is asked for; the playground, and a key that is
// told to everybody, only for development, and never a key of the operator's.
func TestConfig_pages(t *testing.T) {
	t.Parallel()
	production := []string{"--redis-url=redis://redis"}
	vars := []string{"ROOMGATE_JWT_HS256_SECRET=" + testSecret, "ROOMGATE_API_KEYS=" + testKey}
	if cfg, _, err := parse(production, vars...); err != nil || cfg.pages() != nil {
		t.Errorf("not asked for: got pages, or %v", err)
	}
	for _, tt := range []struct {
		name, flag string
		play       int
		key        string
	}{
		{"production", "--console", 404, ""},
		{"development", "--dev", 200, "dev"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, _, err := parse(append(slices.Clone(production), tt.flag), vars...)
			if err != nil {
				t.Fatal(err)
			}
			h := cfg.pages()
			get := func(path string) *httptest.ResponseRecorder {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
				return w
			}
			if got := get("/console/").Code; got != 200 {
				t.Errorf("console: got %d, want 200", got)
			}
			if got := get("/console/play").Code; got != tt.play {
				t.Errorf("playground: got %d, want %d", got, tt.play)
			}
			var told struct{ APIKey string }
			text := get("/console/settings.json").Body.String()
			if err := json.Unmarshal([]byte(text), &told); err != nil {
				t.Fatal(err)
			}
			if told.APIKey != tt.key || strings.Contains(text, testKey) {
				t.Errorf("settings are %s, want the key %q", text, tt.key)
			}
		})
	}
}
