package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/roomgate/roomgate/gateway/auth"
	"github.com/roomgate/roomgate/gateway/console"
)

// version is set by the linker: -X main.version=1.2.3.
var version string

// buildVersion says which build this is, as well as it is known.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// Config is everything an operator can set. The names of the fields are those
// of the flags; the tags are the documentation that --help prints.
type Config struct {
	Listen         string   `group:"listen" default:":8080" help:"Address of the public listener: WebSockets, server API, /healthz, /readyz."`
	InternalListen string   `group:"listen" default:"127.0.0.1:9090" help:"Address of the internal listener: /metrics, /debug/pprof/, /healthz, /readyz. Do not publish it."`
	AllowedOrigins []string `group:"listen" placeholder:"ORIGIN" help:"Origins of web pages that may connect, besides the gateway's own: example.com, *.example.com or https://example.com:8443. With --dev all may."`
	MaxConnections int      `group:"listen" default:"0" help:"Connections at once on this gateway; one more is closed with 1013, try again later. 0: no limit."`

	Console bool `group:"listen" help:"Serve the console, pages for people that show and end rooms, at /console/ of the public listener; what it shows is behind an API key. On with --dev, and then the playground at /console/play, too."`

	QueueBytes int `group:"listen" default:"1048576" help:"Bytes that may wait for one connection, 4096 to 1073741824. Beyond it commands and barrages are dropped, lowest priority first; if that is not enough it is closed with 4008, and resumes."`

	Dev           bool     `group:"access" help:"For development: any token logs in, the API key 'dev' is accepted, all origins may connect, and without --redis-url Redis is embedded."`
	JWTSecretFile string   `group:"access" name:"jwt-hs256-secret-file" placeholder:"FILE" help:"File with the secret, of at least 32 bytes, that login tokens (JSON Web Tokens, HS256) are signed with; one newline at its end is not part of it. Or the secret itself in ROOMGATE_JWT_HS256_SECRET."`
	APIKeysFile   string   `group:"access" name:"api-keys-file" placeholder:"FILE" help:"File with the keys of the server API, one a line, of at least 16 characters; lines that begin with # are comments. Or the keys in ROOMGATE_API_KEYS, separated by commas. With neither the server API is off."`
	JWTSecret     secret   `kong:"-"`
	APIKeys       []secret `kong:"-"`

	RedisURL          redisURL      `group:"redis" name:"redis-url" placeholder:"URL" help:"redis://, rediss:// (TLS) or unix://, of a single Redis, with USER@ for an ACL user; or Sentinels: redis://SENTINEL:26379?master_name=NAME&addr=SENTINEL:26379, with &username=USER for Redis's ACL user and USER@ for the Sentinels' own; or a Redis Cluster: redis://NODE:6379?addr=NODE:6379, with --partitions."`
	RedisPasswordFile string        `group:"redis" placeholder:"FILE" help:"File with the password of Redis; one newline at its end is not part of it. Or the password itself in ROOMGATE_REDIS_PASSWORD."`
	RedisCAFile       string        `group:"redis" name:"redis-ca-file" placeholder:"FILE" help:"File with the certificates, in PEM, of those who may sign the certificate of Redis. Default: those that the system trusts."`
	RedisCertFile     string        `group:"redis" placeholder:"FILE" help:"File with the certificate, in PEM, that Redis is shown as its client."`
	RedisKeyFile      string        `group:"redis" placeholder:"FILE" help:"File with the key of that certificate, in PEM."`
	RedisTimeout      time.Duration `group:"redis" default:"2s" help:"How long a call to Redis may take before the client is told that Redis is unavailable (6000007). Shorter than --lease-ttl."`
	RedisPrefix       string        `group:"redis" default:"rg" help:"What all keys and channels in Redis begin with. Gateways with different prefixes do not see each other."`
	Partitions        int           `group:"redis" default:"1" help:"Partitions of the keys, 1 to 64; on a Redis Cluster one to four for each master, else 1. The same on all gateways, and not to be changed while there are rooms."`
	RedisPassword     secret        `kong:"-"`

	RedisSentinelPasswordFile string `group:"redis" placeholder:"FILE" help:"File with the password of the Sentinels, if they have one; one newline at its end is not part of it. Or the password itself in ROOMGATE_REDIS_SENTINEL_PASSWORD."`
	RedisSentinelPassword     secret `kong:"-"`

	SessionTTL        time.Duration `group:"sessions" name:"session-ttl" default:"35s" help:"How long after its last sign of life a client can come back to its rooms before the others see it leave."`
	HeartbeatInterval time.Duration `group:"sessions" default:"10s" help:"How often connections are pinged. Shorter than --session-ttl."`
	LeaseTTL          time.Duration `group:"sessions" name:"lease-ttl" default:"10s" help:"How long after its last sign of life a gateway counts as dead."`
	DrainWindow       time.Duration `group:"sessions" default:"25s" help:"How long a gateway that is stopped takes to send its clients to others. Whoever stops it must wait longer than that before killing it."`

	MaxRooms        int           `group:"rooms" default:"0" help:"Rooms that exist at once. 0: no limit."`
	MaxMembers      int           `group:"rooms" default:"500" help:"Members of one room, 1 to 1000000."`
	MaxRoomsPerUser int           `group:"rooms" default:"5" help:"Rooms that one user is in at once, over all devices, 1 to 500."`
	MaxDevices      int           `group:"rooms" default:"10" help:"Devices that one user is logged in on at once, 1 to 100. With 1 the newest login ends the one before."`
	LogSize         int           `group:"rooms" default:"256" help:"Events that a room keeps for clients that come back, 1 to 10000."`
	LogTTL          time.Duration `group:"rooms" name:"log-ttl" default:"2m" help:"How long a room keeps them. At least --session-ttl + --lease-ttl + --drain-window."`
	KeepEmptiedData bool          `group:"rooms" default:"true" negatable:"" help:"Keep name and attributes of a room that is empty and not yet destroyed. On by default; --keep-emptied-data=false turns it off."`
	HistoryQuery    bool          `group:"rooms" negatable:"" help:"Let members ask for the messages that a room still keeps, also those from before they came (queryRoomHistory). Off by default."`
	RateLimits      bool          `group:"rooms" default:"true" negatable:"" help:"Limit how often a connection may send. On by default; --rate-limits=false turns it off."`

	NodeName    string     `group:"process" placeholder:"NAME" help:"Name of this gateway among the others. Default: the host's name."`
	LogLevel    slog.Level `group:"process" default:"info" help:"debug, info, warn or error."`
	LogFormat   string     `group:"process" default:"auto" enum:"auto,text,json" help:"text is for people, json for machines; auto is text on a terminal and json elsewhere."`
	HealthCheck bool       `group:"process" help:"Ask the gateway that runs with these settings on this machine whether it is ready, on its internal listener, and exit with 0 or 1."`
	Version     bool       `group:"process" help:"Print the version and exit."`

	Audit  bool `kong:"-"` // instead of a gateway
	Repair bool `kong:"-"` // what it finds
}

// auditFlags are those of "roomgate fsck".
type auditFlags struct {
	Config `embed:""`

	Fix bool `group:"process" help:"Repair what can be repaired, and go over it again."`
}

const description = `Roomgate keeps rooms for clients that connect over WebSocket. Any number of gateways share one Redis.

Every flag --x-y has an environment variable, ROOMGATE_X_Y, which counts if the flag is not given; an empty one does not count. Secrets are taken from files and environment variables only: ROOMGATE_JWT_HS256_SECRET, ROOMGATE_API_KEYS, ROOMGATE_REDIS_PASSWORD, ROOMGATE_REDIS_SENTINEL_PASSWORD. Durations are written 500ms, 35s, 2m.

roomgate fsck audits what is stored in Redis: see roomgate fsck --help.

To try it: roomgate --dev`

const auditDescription = `Audits what Roomgate has stored in Redis: counts against sets, members against sessions and gateways, rooms against the list of rooms, deadlines, keys that belong to nothing. Prints what does not agree and exits with 1 if something is left; prints nothing but a summary and exits with 0 if all is well.

It may run while gateways do. Give it the flags, or the environment, that the gateways have; of those it uses the ones for Redis, sessions and rooms.`

var groups = []kong.Group{
	{Key: "listen", Title: "Listening:"},
	{Key: "access", Title: "Access; without --dev, a way to check tokens is required:"},
	{Key: "redis", Title: "Redis; without --dev, --redis-url is required:"},
	{Key: "sessions", Title: "Sessions and gateways:"},
	{Key: "rooms", Title: "Rooms and limits:"},
	{Key: "process", Title: "The process:"},
}

// errDone says that the arguments asked for a text, which has been printed,
// and that there is nothing more to do: exit with 0.
var errDone = errors.New("nothing more to do")

// parseConfig makes a Config of arguments and environment, reads the secrets
// and checks everything that can be checked before anything listens. It
// returns errDone after --help and --version.
//
// "fsck" as the first argument asks for an audit of Redis instead of a gateway.
func parseConfig(args []string, env func(string) (string, bool), stdout, stderr io.Writer) (Config, error) {
	var cfg Config
	helped := false
	fromEnv := map[string]string{} // flag → the variable that stood in for it

	var model any = &cfg
	name, about := "roomgate", description
	var audit auditFlags
	auditing := len(args) > 0 && args[0] == "fsck"
	if auditing {
		args, model = args[1:], &audit
		name, about = "roomgate fsck", auditDescription
	}
	parser, err := kong.New(model,
		kong.Name(name),
		kong.Description(about),
		kong.ExplicitGroups(groups),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 100}),
		kong.ValueFormatter(func(v *kong.Value) string {
			if name := envName(v.Name); name != "" {
				return v.Help + " [" + name + "]"
			}
			return v.Help
		}),
		// Not kong's own variables: those come from os, which a test cannot set
		// for itself alone, and an empty one would count.
		kong.Resolvers(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
			name := envName(flag.Name)
			if value, ok := env(name); name != "" && ok && value != "" {
				fromEnv[flag.Name] = name
				return value, nil
			}
			return nil, nil
		})),
	)
	if err != nil {
		return Config{}, err // a mistake in the tags above
	}
	_, err = parser.Parse(args)
	if auditing {
		cfg = audit.Config
		cfg.Audit, cfg.Repair = true, audit.Fix
	}
	switch {
	case helped:
		return Config{}, errDone
	case err != nil:
		for flag, name := range fromEnv {
			if rest, ok := strings.CutPrefix(err.Error(), "--"+flag); ok && !strings.HasPrefix(rest, "-") {
				return Config{}, fmt.Errorf("--%s (from %s)%s", flag, name, rest)
			}
		}
		return Config{}, err
	case cfg.Version:
		fmt.Fprintf(stdout, "roomgate %s\n", buildVersion())
		return Config{}, errDone
	}

	c := &checker{cfg: &cfg, env: env, fromEnv: fromEnv}
	if !auditing {
		c.listeners()
	}
	switch {
	case auditing:
		c.audit()
	case !cfg.HealthCheck: // which needs nothing else
		c.secrets()
		c.redis()
		c.sessions()
		c.limits()
		c.node()
	}
	switch len(c.problems) {
	case 0:
		return cfg, nil
	case 1:
		return Config{}, errors.New(c.problems[0])
	default:
		return Config{}, fmt.Errorf("%d settings are wrong:\n  %s", len(c.problems), strings.Join(c.problems, "\n  "))
	}
}

// envName is the environment variable that stands in for a flag, or "" if the
// flag has none.
func envName(flag string) string {
	switch flag {
	case "help", "version", "health-check", "fix":
		return ""
	}
	return "ROOMGATE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// verifier returns what checks login tokens.
func (c Config) verifier() (auth.Verifier, error) {
	if c.Dev {
		return auth.Dev{}, nil
	}
	return auth.NewHS256([]byte(c.JWTSecret))
}

// apiKeys returns the keys of the server API in the clear.
func (c Config) apiKeys() []string {
	keys := make([]string, 0, len(c.APIKeys))
	for _, key := range c.APIKeys {
		keys = append(keys, string(key))
	}
	return keys
}

// pages returns the handler of the console and the playground, or nil.
func (c Config) pages() http.Handler {
	if !c.Console {
		return nil
	}
	cfg := console.Config{Node: c.NodeName, Version: buildVersion()}
	if c.Dev {
		cfg.Playground, cfg.APIKey = true, devKey
	}
	return console.New(cfg)
}

// origins returns the origins that may connect.
func (c Config) origins() []string {
	if c.Dev {
		return []string{"*"}
	}
	return c.AllowedOrigins
}

// A secret prints as asterisks, however it is printed. string(s) is its value.
type secret string

func (s secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}
func (s secret) GoString() string             { return strconv.Quote(s.String()) }
func (s secret) LogValue() slog.Value         { return slog.StringValue(s.String()) }
func (s secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A redisURL prints without the passwords in it. string(u) has them.
type redisURL string

func (u redisURL) String() string {
	parsed, err := url.Parse(string(u))
	if err != nil {
		return "***"
	}
	if q := parsed.Query(); q.Has("password") {
		q.Set("password", "xxxxx")
		parsed.RawQuery = q.Encode()
	}
	return parsed.Redacted()
}
func (u redisURL) GoString() string             { return strconv.Quote(u.String()) }
func (u redisURL) LogValue() slog.Value         { return slog.StringValue(u.String()) }
func (u redisURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// hasPassword says whether there is a secret in the URL.
func (u redisURL) hasPassword() bool {
	parsed, err := url.Parse(string(u))
	if err != nil {
		return false
	}
	_, set := parsed.User.Password()
	return set || parsed.Query().Has("password")
}

// A checker collects what is wrong with a Config, so that an operator sees all
// of it at once, and fills in what is not given by a flag.
type checker struct {
	cfg      *Config
	env      func(string) (string, bool)
	fromEnv  map[string]string
	problems []string
}

// wrong notes a problem with a flag.
func (c *checker) wrong(flag, format string, args ...any) {
	name := "--" + flag
	if variable, ok := c.fromEnv[flag]; ok {
		name += " (from " + variable + ")"
	}
	c.problems = append(c.problems, name+" "+fmt.Sprintf(format, args...))
}

func (c *checker) listeners() {
	for _, l := range []struct{ flag, addr string }{{"listen", c.cfg.Listen}, {"internal-listen", c.cfg.InternalListen}} {
		_, port, err := net.SplitHostPort(l.addr)
		if err != nil {
			c.wrong(l.flag, "is %q, it must be HOST:PORT or :PORT", l.addr)
		} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			c.wrong(l.flag, "is %q, its port must be a number from 0 to 65535", l.addr)
		}
	}
	if a := c.cfg.Listen; a == c.cfg.InternalListen && !strings.HasSuffix(a, ":0") {
		c.wrong("internal-listen", "is %q, the same as --listen; it must be another address, that is not published", a)
	}
	for _, origin := range c.cfg.AllowedOrigins {
		host := origin
		if scheme, rest, ok := strings.Cut(origin, "://"); ok && scheme != "" {
			host = rest
		}
		if _, err := path.Match(origin, ""); err != nil || host == "" || strings.ContainsAny(host, "/ ") {
			c.wrong("allowed-origins", "has %q, which is not HOST[:PORT] or SCHEME://HOST[:PORT], where HOST may have * in it", origin)
		}
	}
	c.between("max-connections", c.cfg.MaxConnections, 0, math.MaxInt32)
	c.between("queue-bytes", c.cfg.QueueBytes, 4<<10, 1<<30)
}

func (c *checker) secrets() {
	c.cfg.JWTSecret = c.secret("jwt-hs256-secret-file", c.cfg.JWTSecretFile, "ROOMGATE_JWT_HS256_SECRET")
	if n := len(c.cfg.JWTSecret); n > 0 && n < auth.MinSecret {
		c.problems = append(c.problems, fmt.Sprintf("the secret from --jwt-hs256-secret-file or ROOMGATE_JWT_HS256_SECRET has %d bytes, it must have at least %d", n, auth.MinSecret))
	}
	_, given := c.env("ROOMGATE_JWT_HS256_SECRET")
	if !c.cfg.Dev && c.cfg.JWTSecret == "" && c.cfg.JWTSecretFile == "" {
		text := "there is no way to check login tokens: set --jwt-hs256-secret-file or ROOMGATE_JWT_HS256_SECRET, or, for development only, --dev, with which any token logs in"
		if given {
			text += " (ROOMGATE_JWT_HS256_SECRET is set, but empty)"
		}
		c.problems = append(c.problems, text)
	}

	if file := c.cfg.APIKeysFile; file != "" {
		if b, err := os.ReadFile(file); err != nil {
			c.wrong("api-keys-file", "cannot be read: %v", err)
		} else {
			had := len(c.cfg.APIKeys)
			for i, line := range strings.Split(string(b), "\n") {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
					c.apiKey(fmt.Sprintf("--api-keys-file %s, line %d,", file, i+1), line)
				}
			}
			if len(c.cfg.APIKeys) == had && len(c.problems) == 0 {
				c.wrong("api-keys-file", "%s has no key in it", file)
			}
		}
	}
	if keys, _ := c.env("ROOMGATE_API_KEYS"); keys != "" {
		for i, key := range strings.Split(keys, ",") {
			if key = strings.TrimSpace(key); key != "" {
				c.apiKey(fmt.Sprintf("ROOMGATE_API_KEYS, key %d,", i+1), key)
			}
		}
	}
	if c.cfg.Dev {
		c.cfg.APIKeys = append(c.cfg.APIKeys, devKey)
		c.cfg.Console = true
	}
	if c.cfg.Console && len(c.cfg.APIKeys) == 0 && c.cfg.APIKeysFile == "" {
		c.wrong("console", "is set, and there are no API keys, without which it can show nothing: set --api-keys-file or ROOMGATE_API_KEYS")
	}
}

const (
	minAPIKey = 16
	devKey    = "dev" // with --dev
)

func (c *checker) apiKey(where, key string) {
	switch {
	case len(key) < minAPIKey:
		c.problems = append(c.problems, fmt.Sprintf("%s has %d characters, it must have at least %d", where, len(key), minAPIKey))
	case !printable.MatchString(key):
		c.problems = append(c.problems, where+" has characters that cannot stand in an HTTP header: use letters, digits and punctuation of ASCII")
	default:
		c.cfg.APIKeys = append(c.cfg.APIKeys, secret(key))
	}
}

// secret reads a secret from a file or a variable, of which at most one may be
// given.
func (c *checker) secret(flag, file, variable string) secret {
	value, _ := c.env(variable)
	switch {
	case file == "":
		return secret(value)
	case value != "":
		c.wrong(flag, "is %s, but %s is set, too: only one of them may be", file, variable)
		return ""
	}
	b, err := os.ReadFile(file)
	if err != nil {
		c.wrong(flag, "cannot be read: %v", err)
		return ""
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		c.wrong(flag, "is %s, which is empty", file)
	}
	return secret(b)
}

func (c *checker) redis() {
	c.cfg.RedisPassword = c.secret("redis-password-file", c.cfg.RedisPasswordFile, "ROOMGATE_REDIS_PASSWORD")
	c.cfg.RedisSentinelPassword = c.secret("redis-sentinel-password-file", c.cfg.RedisSentinelPasswordFile, "ROOMGATE_REDIS_SENTINEL_PASSWORD")
	raw := c.cfg.RedisURL
	_, fromEnv := c.fromEnv["redis-url"]
	switch {
	case raw == "" && !c.cfg.Dev:
		c.problems = append(c.problems, "--redis-url is required without --dev: set it, or ROOMGATE_REDIS_URL, to redis://HOST:6379")
	case raw == "" && c.cfg.RedisPassword != "":
		c.problems = append(c.problems, "there is a password for Redis, from --redis-password-file or ROOMGATE_REDIS_PASSWORD, and no --redis-url to use it for")
	case raw == "":
	case raw.hasPassword() && !fromEnv:
		c.wrong("redis-url", "is %s, with a password, which everyone on this machine can read in the list of processes: use ROOMGATE_REDIS_URL, ROOMGATE_REDIS_PASSWORD or --redis-password-file", raw)
	default:
		t, err := parseRedisURL(string(raw))
		if err != nil {
			c.wrong("redis-url", "%v", err)
			break
		}
		c.redisTarget(t)
	}
	if p := c.cfg.RedisPrefix; !prefixes.MatchString(p) {
		c.wrong("redis-prefix", "is %q, it must be 1 to 32 of the characters A-Z a-z 0-9 . _ : -", p)
	}
	c.positive("redis-timeout", c.cfg.RedisTimeout)
	if timeout, lease := c.cfg.RedisTimeout, c.cfg.LeaseTTL; timeout >= lease {
		c.wrong("redis-timeout", "is %v, it must be shorter than --lease-ttl, which is %v: else one lost answer costs a gateway its lease", timeout, lease)
	}
	c.between("partitions", c.cfg.Partitions, 1, 64)
}

// redisTarget checks that everything is there that a URL needs, and nothing that
// is of no use to it.
func (c *checker) redisTarget(t *redisTarget) {
	raw := c.cfg.RedisURL
	for _, user := range []struct {
		of, name, password string
		other              secret
		flag, variable     string
		can                bool
	}{
		{"Redis", t.options.Username, t.options.Password, c.cfg.RedisPassword, "redis-password-file", "ROOMGATE_REDIS_PASSWORD", true},
		{"the Sentinels", t.sentinelUser(), t.sentinelPassword(), c.cfg.RedisSentinelPassword, "redis-sentinel-password-file", "ROOMGATE_REDIS_SENTINEL_PASSWORD", t.sentinels != nil},
	} {
		switch {
		case user.other != "" && !user.can:
			c.problems = append(c.problems, fmt.Sprintf("there is a password for Sentinels, from --%s or %s, and --redis-url, %s, names none", user.flag, user.variable, raw))
		case user.password != "" && user.other != "":
			c.wrong("redis-url", "is %s, with a password of %s, and there is another from --%s or %s: only one of them may be set", raw, user.of, user.flag, user.variable)
		case user.name != "" && user.password == "" && user.other == "":
			text := ""
			if t.sentinels != nil && user.of != "Redis" {
				text = "; the user of Redis is written username=USER, behind the ?"
			}
			c.wrong("redis-url", "is %s, with the user %s of %s, and there is no password for it: set --%s or %s%s", raw, user.name, user.of, user.flag, user.variable, text)
		}
	}
	if t.options.TLSConfig == nil {
		for _, f := range []struct{ flag, file string }{{"redis-ca-file", c.cfg.RedisCAFile}, {"redis-cert-file", c.cfg.RedisCertFile}, {"redis-key-file", c.cfg.RedisKeyFile}} {
			if f.file != "" {
				c.wrong(f.flag, "is %s, and --redis-url is %s: only rediss:// uses certificates", f.file, raw)
			}
		}
		return
	}
	_, cas := c.cfg.redisCAs()
	_, certificates := c.cfg.redisCertificates()
	for _, err := range []error{cas, certificates} {
		if err != nil {
			c.problems = append(c.problems, err.Error())
		}
	}
}

// audit checks what an audit needs.
func (c *checker) audit() {
	if c.cfg.RedisURL == "" {
		c.problems = append(c.problems, "--redis-url is required: set it, or ROOMGATE_REDIS_URL, to redis://HOST:6379")
		return
	}
	c.redis()
	c.sessions()
	c.limits()
}

func (c *checker) sessions() {
	ttl, lease, drain := c.cfg.SessionTTL, c.cfg.LeaseTTL, c.cfg.DrainWindow
	c.positive("session-ttl", ttl)
	c.positive("lease-ttl", lease)
	c.positive("drain-window", drain)
	c.positive("heartbeat-interval", c.cfg.HeartbeatInterval)
	c.positive("log-ttl", c.cfg.LogTTL)
	if beat := c.cfg.HeartbeatInterval; beat >= ttl {
		c.wrong("heartbeat-interval", "is %v, it must be shorter than --session-ttl, which is %v: else quiet clients are taken for dead", beat, ttl)
	}
	if need := ttl + lease + drain; c.cfg.LogTTL < need {
		c.wrong("log-ttl", "is %v, it must be at least --session-ttl + --lease-ttl + --drain-window = %v + %v + %v = %v: else a client that may still come back has missed what is no longer kept",
			c.cfg.LogTTL, ttl, lease, drain, need)
	}
}

func (c *checker) limits() {
	c.between("max-rooms", c.cfg.MaxRooms, 0, math.MaxInt32)
	c.between("max-members", c.cfg.MaxMembers, 1, 1_000_000)
	c.between("max-rooms-per-user", c.cfg.MaxRoomsPerUser, 1, 500)
	c.between("max-devices", c.cfg.MaxDevices, 1, 100)
	c.between("log-size", c.cfg.LogSize, 1, 10_000)
}

var (
	prefixes  = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,32}$`)
	nodeNames = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	printable = regexp.MustCompile(`^[!-~]+$`)
)

func (c *checker) node() {
	name := c.cfg.NodeName
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			c.wrong("node-name", "is not set, and this host does not tell its name: %v", err)
			return
		}
		name = host
	}
	if !nodeNames.MatchString(name) {
		c.wrong("node-name", "is %q, it must be 1 to 128 of the characters A-Z a-z 0-9 . _ -; the default is the host's name", name)
	}
	c.cfg.NodeName = name
}

func (c *checker) between(flag string, got, low, high int) {
	switch {
	case got < low:
		c.wrong(flag, "is %d, it must be at least %d", got, low)
	case got > high:
		c.wrong(flag, "is %d, it must be at most %d", got, high)
	}
}

// maxDuration bounds every duration: sums of them, and the same in
// milliseconds, stay far from overflowing.
const maxDuration = 24 * time.Hour

func (c *checker) positive(flag string, got time.Duration) {
	if got < time.Millisecond || got > maxDuration {
		c.wrong(flag, "is %v, it must be from 1ms to 24h", got)
	}
}
