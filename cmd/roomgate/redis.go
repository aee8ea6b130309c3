package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/roomgate/roomgate/lua"
	"github.com/roomgate/roomgate/roomstore"
)

// redisTarget is what --redis-url names.
type redisTarget struct {
	options *redis.Options // of the Redis, or of a Cluster's first node; of Sentinels' primary without its address

	seeds []string // addresses of nodes of a Cluster; nil if several are not named

	// Of Sentinels; nil and "" otherwise.
	sentinels []*redis.Options
	master    string
}

// redisOptionNames are the options that a URL may have. What go-redis takes
// besides them is set by flags, or would break a promise.
var redisOptionNames = []string{
	"db", "skip_verify", "pool_size", "pool_timeout", "min_idle_conns", "max_idle_conns", "max_active_conns", "conn_max_idle_time", "conn_max_lifetime",
}

// sentinelOptionNames are those of Sentinels, besides.
var sentinelOptionNames = []string{"master_name", "addr", "username", "password"}

// parseRedisURL says what a URL names, or what is wrong with it, without showing
// it if there may be a password in what is wrong.
func parseRedisURL(raw string) (*redisTarget, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("is not a URL; in a password, characters other than letters and digits must be written %XX, or use ROOMGATE_REDIS_PASSWORD or --redis-password-file")
	}
	shown := redisURL(raw)
	if u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix" || u.Opaque != "" {
		return nil, fmt.Errorf("is %s, it must begin with redis://, rediss:// or unix://", shown)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("has options, behind its ?, that are not NAME=VALUE&NAME=VALUE, with characters other than letters and digits written %XX")
	}
	sentinel := q.Has("master_name")
	cluster := q.Has("addr") && !sentinel
	for name, values := range q {
		switch {
		case slices.Contains(redisOptionNames, name), sentinel && slices.Contains(sentinelOptionNames, name), cluster && name == "addr":
		case name == "username" || name == "password":
			return nil, fmt.Errorf("has the option %s, which is for Sentinels: write redis://USER@HOST:PORT, and give the password by ROOMGATE_REDIS_PASSWORD or --redis-password-file", name)
		default:
			return nil, fmt.Errorf("has the option %q, it may have %s, for Sentinels %s, and for a Redis Cluster addr", name, strings.Join(redisOptionNames, ", "), strings.Join(sentinelOptionNames, ", "))
		}
		if len(values) > 1 && name != "addr" {
			return nil, fmt.Errorf("has the option %s %d times, it may have it once", name, len(values))
		}
	}

	t := &redisTarget{}
	plain := *u
	if sentinel {
		for _, name := range sentinelOptionNames {
			q.Del(name)
		}
		plain.User, plain.RawQuery = nil, q.Encode()
	}
	if cluster {
		q.Del("addr")
		plain.RawQuery = q.Encode()
	}
	if t.options, err = redis.ParseURL(plain.String()); err != nil {
		return nil, fmt.Errorf("is %s: %v", shown, strings.TrimPrefix(err.Error(), "redis: "))
	}
	switch {
	case sentinel:
		return t, t.setSentinels(u, shown)
	case cluster:
		return t, t.setNodes(u, shown)
	}
	return t, nil
}

// setNodes reads which nodes of a Redis Cluster a URL names.
func (t *redisTarget) setNodes(u *url.URL, shown redisURL) (err error) {
	if u.Scheme == "unix" || u.Hostname() == "" {
		return fmt.Errorf("is %s, with addr, which names another node of a Redis Cluster, and no first node: write redis://NODE:6379?addr=NODE:6379", shown)
	}
	if t.options.DB != 0 {
		return fmt.Errorf("is %s, with database %d: a Redis Cluster has no other than 0", shown, t.options.DB)
	}
	t.seeds, err = addresses(t.options.Addr, u.Query()["addr"], "node", shown)
	return err
}

// addresses gives all addresses that a URL names.
func addresses(first string, others []string, what string, shown redisURL) ([]string, error) {
	all := []string{first}
	for _, addr := range others {
		host, port, err := net.SplitHostPort(addr)
		if err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("is %s, with addr=%s, which is not HOST:PORT", shown, addr)
		}
		if slices.Contains(all, addr) {
			return nil, fmt.Errorf("is %s, with the %s %s twice", shown, what, addr)
		}
		all = append(all, addr)
	}
	return all, nil
}

// setSentinels reads what is Sentinels' in a URL, which names the first of them.
func (t *redisTarget) setSentinels(u *url.URL, shown redisURL) error {
	q := u.Query()
	t.master = q.Get("master_name")
	switch {
	case u.Scheme == "unix" || u.Hostname() == "":
		return fmt.Errorf("is %s, with master_name and no Sentinel: write redis://SENTINEL:26379?master_name=NAME&addr=SENTINEL:26379", shown)
	case t.master == "":
		return fmt.Errorf("is %s, with a master_name that is empty: it is the name that the Sentinels have for the primary", shown)
	}
	port := u.Port()
	if port == "" {
		port = "26379"
	}
	addrs, err := addresses(net.JoinHostPort(u.Hostname(), port), q["addr"], "Sentinel", shown)
	if err != nil {
		return err
	}
	t.options.Addr, t.options.Username, t.options.Password = t.master, q.Get("username"), q.Get("password")
	if t.options.TLSConfig != nil {
		t.options.TLSConfig.ServerName = "" // each server has its own
	}
	for _, addr := range addrs {
		o := &redis.Options{Addr: addr, Username: u.User.Username(), TLSConfig: t.options.TLSConfig, PoolSize: 2, PipelinePoolSize: -1, DialerRetries: 1}
		o.Password, _ = u.User.Password()
		t.sentinels = append(t.sentinels, o)
	}
	return nil
}

func (t *redisTarget) sentinelUser() string {
	if t.sentinels == nil {
		return ""
	}
	return t.sentinels[0].Username
}

func (t *redisTarget) sentinelPassword() string {
	if t.sentinels == nil {
		return ""
	}
	return t.sentinels[0].Password
}

// target is what the settings name, with the secrets and certificates that are
// for it.
func (cfg *Config) target() (*redisTarget, error) {
	t, err := parseRedisURL(string(cfg.RedisURL))
	if err != nil {
		return nil, fmt.Errorf("--redis-url %w", err)
	}
	if cfg.RedisPassword != "" {
		t.options.Password = string(cfg.RedisPassword)
	}
	if tls := t.options.TLSConfig; tls != nil {
		if tls.RootCAs, err = cfg.redisCAs(); err != nil {
			return nil, err
		}
		if tls.Certificates, err = cfg.redisCertificates(); err != nil {
			return nil, err
		}
	}
	for _, o := range append(slices.Clone(t.sentinels), t.options) {
		o.ClientName = "roomgate"
		// A script that was sent may have been applied. Only who knows its
		// requestKey may send it again.
		o.MaxRetries = -1
		o.ContextTimeoutEnabled = true
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout = cfg.RedisTimeout, cfg.RedisTimeout, cfg.RedisTimeout
		o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	}
	for _, o := range t.sentinels {
		if cfg.RedisSentinelPassword != "" {
			o.Password = string(cfg.RedisSentinelPassword)
		}
	}
	return t, nil
}

// redisCAs gives those who may sign Redis's certificate; nil: whom the system
// trusts.
func (cfg *Config) redisCAs() (*x509.CertPool, error) {
	if cfg.RedisCAFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(cfg.RedisCAFile)
	if err != nil {
		return nil, fmt.Errorf("--redis-ca-file cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("--redis-ca-file %s has no certificate in it, in the form of PEM", cfg.RedisCAFile)
	}
	return pool, nil
}

// redisCertificates gives what we show Redis, if anything.
func (cfg *Config) redisCertificates() ([]tls.Certificate, error) {
	switch {
	case cfg.RedisCertFile == "" && cfg.RedisKeyFile == "":
		return nil, nil
	case cfg.RedisKeyFile == "":
		return nil, fmt.Errorf("--redis-cert-file is %s, and there is no --redis-key-file with its key", cfg.RedisCertFile)
	case cfg.RedisCertFile == "":
		return nil, fmt.Errorf("--redis-key-file is %s, and there is no --redis-cert-file with its certificate", cfg.RedisKeyFile)
	}
	pair, err := tls.LoadX509KeyPair(cfg.RedisCertFile, cfg.RedisKeyFile)
	if err != nil {
		return nil, fmt.Errorf("--redis-cert-file %s and --redis-key-file %s cannot be used: %w", cfg.RedisCertFile, cfg.RedisKeyFile, err)
	}
	return []tls.Certificate{pair}, nil
}

// A redisLink is this process's way to Redis, of whatever kind that is.
type redisLink struct {
	calls  redis.UniversalClient // carries scripts
	topics *redis.Client         // whose subscriptions carry what is published; nil: the cluster's shards do

	cluster   *cluster             // nil: it is none
	sentinels *sentinels           // nil: there are none
	embedded  *miniredis.Miniredis // nil: it is a real one
}

// openRedis opens the way to the Redis that the settings name, or to one in this
// process, and makes sure that it is fit. Every connection that carries scripts
// begins with greet, if that is not nil.
func openRedis(ctx context.Context, cfg *Config, greet func(context.Context, *redis.Conn) error, log *slog.Logger) (*redisLink, error) {
	link := &redisLink{}
	if cfg.RedisURL == "" {
		link.embedded = miniredis.NewMiniRedis()
		if err := link.embedded.Start(); err != nil {
			return nil, fmt.Errorf("embedded redis: %w", err)
		}
		link.embedded.ClockTTL(true)
		inside := *cfg
		inside.RedisURL = redisURL("redis://" + link.embedded.Addr())
		cfg = &inside
	}
	target, err := cfg.target()
	if err != nil {
		link.Close()
		return nil, err
	}
	options := target.options
	if target.sentinels != nil {
		link.sentinels = newSentinels(target, log)
		options.Dialer = link.sentinels.dialPrimary
	}
	if link.embedded == nil && target.seeds == nil {
		err := checkRedis(ctx, cfg, *options, link.sentinels)
		switch {
		case errors.Is(err, errCluster) && link.sentinels == nil && options.Network == "tcp" && options.DB == 0:
			target.seeds, err = []string{options.Addr}, nil
		case errors.Is(err, errCluster):
			err = fmt.Errorf("%w: a Cluster is named by its nodes, redis://NODE:6379?addr=NODE:6379", err)
		}
		if err != nil {
			link.Close()
			return nil, err
		}
	}
	if target.seeds != nil {
		link.cluster = newCluster(*options, target.seeds, ownTags(cfg), log)
		if err := checkCluster(ctx, cfg, link.cluster); err != nil {
			link.Close()
			return nil, err
		}
		link.calls = link.cluster.client(greet)
		return link, nil
	}
	options.OnConnect = greet
	client := redis.NewClient(options)
	link.calls, link.topics = client, client
	return link, nil
}

// Run does what there is to do for as long as the link is used: it follows the
// primary that Sentinels name. It returns nil when ctx is done.
func (l *redisLink) Run(ctx context.Context) error {
	if l.sentinels != nil {
		l.sentinels.run(ctx)
	}
	return nil
}

// Close closes all connections, and ends an embedded Redis.
func (l *redisLink) Close() {
	if l.calls != nil {
		l.calls.Close()
	}
	if l.cluster != nil {
		l.cluster.close()
	}
	if l.sentinels != nil {
		l.sentinels.close()
	}
	if l.embedded != nil {
		l.embedded.Close()
	}
}

// redisLog keeps what the Redis client says of its connections: we say
// ourselves what comes of it.
type redisLog struct{ log *slog.Logger }

func (l redisLog) Printf(_ context.Context, format string, args ...any) {
	l.log.Debug("redis client", "err", fmt.Sprintf(format, args...))
}

func redisName(cfg *Config) string {
	if cfg.RedisURL == "" {
		return "embedded"
	}
	return cfg.RedisURL.String()
}

// firstGreeting greets Redis; one that is slow, which has answered before, has some
// more time for it.
func firstGreeting(ctx context.Context, store *roomstore.Store) error {
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	for {
		err := store.Greet(ctx)
		if err == nil || errors.Is(err, roomstore.ErrPartitions) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// redisPatience is how long a gateway that starts waits for Redis.
const redisPatience = 10 * time.Second

// checkRedis says what makes a Redis unfit, before anything depends on it. It
// waits for one that does not answer.
func checkRedis(ctx context.Context, cfg *Config, options redis.Options, sentinels *sentinels) error {
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	rdb := redis.NewClient(&options)
	defer rdb.Close()
	ask := func() (info string, err error) {
		if sentinels != nil {
			if err := sentinels.ask(ctx, askedLately); err != nil {
				return "", err
			}
		}
		return rdb.Info(ctx).Result()
	}
	var info string
	var err error
	for backoff := 100 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		if info, err = ask(); err == nil || hopeless(err) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("redis at %s does not answer: %w%s", cfg.RedisURL, err, silenceAdvice(options.TLSConfig != nil, err))
		case <-time.After(backoff):
		}
	}
	if err == nil {
		err = unfit(ctx, cfg, rdb, info)
	}
	if err != nil {
		return fmt.Errorf("redis at %s %w", cfg.RedisURL, explain(err, cfg, false))
	}
	return nil
}

// ownTags gives the hash tags of all keys that a deployment has on a Redis Cluster.
func ownTags(cfg *Config) (tags []string) {
	for _, slot := range roomstore.ClusterSlots(cfg.RedisPrefix, cfg.Partitions) {
		tags = append(tags, strings.TrimSuffix(strings.TrimPrefix(slot, cfg.RedisPrefix+":{"), "}:"))
	}
	return tags
}

// checkCluster says what makes a Redis Cluster unfit, before anything depends on it.
// It waits for one whose nodes do not answer, or that is not whole.
func checkCluster(ctx context.Context, cfg *Config, c *cluster) error {
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	for backoff := 100 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		err := c.ask(ctx, clusterLately)
		if tag := c.uncovered(); err == nil && tag != "" {
			err = fmt.Errorf("no node has the hash slot %d, of {%s}", slotOf(tag), tag)
		}
		if err == nil {
			err = unfitCluster(ctx, cfg, c)
		}
		if err == nil {
			break
		}
		if hopeless(err) {
			return fmt.Errorf("redis cluster at %s %w", cfg.RedisURL, explain(err, cfg, true))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("redis cluster at %s is not fit: %w%s", cfg.RedisURL, err, silenceAdvice(c.options.TLSConfig != nil, err))
		case <-time.After(backoff):
		}
	}
	return nil
}

// An unfitError says what does not do and stays so.
type unfitError struct{ error }

// unfitCluster says what of the masters does not do.
func unfitCluster(ctx context.Context, cfg *Config, c *cluster) error {
	masters := c.masters()
	if len(masters) == 1 && cfg.Partitions == 1 {
		c.log.Warn("all rooms are on one master of the Redis Cluster: set --partitions to the number of its masters, or more")
	}
	partial := true
	for id, tag := range masters {
		o := c.options
		o.Addr, o.Dialer, o.PoolSize, o.PipelinePoolSize, o.DialerRetries = id, c.dial, 1, -1, 1
		rdb := redis.NewClient(&o)
		defer rdb.Close()
		info, err := rdb.Info(ctx).Result()
		if err != nil {
			return fmt.Errorf("the node %s: %w", c.address(id), err)
		}
		has := serverInfo(info)
		if has["cluster_enabled"] != "1" && cmp.Or(has["redis_mode"], has["server_mode"]) != "cluster" {
			return &unfitError{fmt.Errorf("has the node %s, which is none of a Cluster", c.address(id))}
		}
		if err := unfitServer(ctx, cfg, rdb, has, tag); err != nil {
			return fmt.Errorf("has the node %s, which %w", c.address(id), err)
		}
		whole, err := rdb.ConfigGet(ctx, "cluster-require-full-coverage").Result()
		partial = partial && (err != nil || whole["cluster-require-full-coverage"] != "yes")
	}
	if !partial {
		c.log.Warn("while one master is away the others serve nobody: set cluster-require-full-coverage to no")
	}
	return nil
}

// unfit says what of a Redis that answers does not do.
func unfit(ctx context.Context, cfg *Config, rdb *redis.Client, info string) error {
	has := serverInfo(info)
	mode := cmp.Or(has["redis_mode"], has["server_mode"]) // the latter is Valkey's
	switch {
	case mode == "sentinel":
		return errors.New("is a Sentinel: add ?master_name=NAME, with the name that it has for the primary")
	case mode == "cluster" || has["cluster_enabled"] == "1":
		return errCluster
	case has["role"] == "slave":
		return fmt.Errorf("is a replica of %s, and cannot be written to: name the primary, or Sentinels that know it, by redis://SENTINEL:26379?master_name=NAME",
			net.JoinHostPort(has["master_host"], has["master_port"]))
	}
	return unfitServer(ctx, cfg, rdb, has, "")
}

// errCluster means that a server is not a Redis for itself.
var errCluster = errors.New("is a node of a Redis Cluster")

// serverInfo reads what INFO answers.
func serverInfo(info string) map[string]string {
	has := map[string]string{}
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			has[name] = value
		}
	}
	return has
}

// unfitServer says what of a server does not do that is to hold data. tag is a hash
// tag of keys that it has, in a Cluster.
func unfitServer(ctx context.Context, cfg *Config, rdb *redis.Client, has map[string]string, tag string) error {
	if cfg.Dev && has["redis_version"] == "" {
		return nil // the one embedded in another gateway, with which this one is tried out
	}
	var major int
	if fmt.Sscanf(has["redis_version"], "%d", &major); major < 7 {
		return &unfitError{fmt.Errorf("is version %s, 7.0 or later is needed", has["redis_version"])}
	}
	if err := mayRun(ctx, cfg, rdb, tag); err != nil {
		return err
	}
	// Some services do not let clients ask; then nobody can check.
	policy, err := rdb.ConfigGet(ctx, "maxmemory-policy").Result()
	if p := policy["maxmemory-policy"]; err == nil && p != "" && p != "noeviction" {
		return &unfitError{fmt.Errorf("has maxmemory-policy %s: it would drop parts of rooms when it is full; set it to noeviction", p)}
	}
	return nil
}

// redisRights are what the user of a gateway needs in Redis, and of "roomgate
// fsck", besides those for events. The keys and channels come before it.
const redisRights = "-@all +evalsha +eval +script|load +multi +exec +ping +info +client +config|get " +
	"+time +unlink +exists +pexpire +persist +pttl +type +scan +@hash +@list +@set +@sortedset +@string"

// What it needs for events: on one Redis, and on a Cluster.
const (
	plainRights   = "+publish +subscribe +unsubscribe"
	clusterRights = "+spublish +ssubscribe +sunsubscribe +cluster|slots +cluster|nodes"
)

// aclLine gives a user its rights.
func aclLine(user, prefix string, cluster bool) string {
	events := plainRights
	if cluster {
		events = clusterRights
	}
	return fmt.Sprintf("ACL SETUSER %s ~%s:* &%s:* %s %s", user, prefix, prefix, redisRights, events)
}

// ownCommands are those that are sent outside of scripts, with what they are
// about: KEY for a key, CHANNEL for a channel. "roomgate fsck" sends the last.
var ownCommands = []string{
	"CLIENT SETNAME x", "INFO", "EVALSHA x 0", "EVAL x 0", "SCRIPT LOAD x", "MULTI", "EXEC", "PING", "HMGET KEY x",
	"SCAN 0", "TYPE KEY", "PTTL KEY", "HSCAN KEY 0", "SSCAN KEY 0", "ZSCAN KEY 0", "TIME", "HSET KEY x x", "UNLINK KEY", "PEXPIRE KEY 1",
}

// Those for events: on one Redis, and on a Cluster.
var (
	plainCommands   = []string{"SUBSCRIBE CHANNEL", "UNSUBSCRIBE CHANNEL"}
	clusterCommands = []string{"SSUBSCRIBE CHANNEL", "SUNSUBSCRIBE CHANNEL", "CLUSTER SLOTS", "CLUSTER NODES"}
)

// mayRun makes sure that the user may do in Redis what scripts and gateways do. tag is
// as for unfitServer.
func mayRun(ctx context.Context, cfg *Config, rdb *redis.Client, tag string) error {
	key, channel := cfg.RedisPrefix+":{0}:room:x", cfg.RedisPrefix+":node:x"
	all := slices.Concat(ownCommands, plainCommands)
	if tag != "" {
		key, channel = cfg.RedisPrefix+":{"+tag+"}:room:x", cfg.RedisPrefix+":{"+tag+"}:orders:x"
		all = slices.Concat(ownCommands, clusterCommands)
	}
	for _, name := range lua.Commands(tag != "") {
		if name == "PUBLISH" || name == "SPUBLISH" {
			name += " CHANNEL"
		} else {
			name += " KEY"
		}
		all = append(all, name)
	}
	args := []any{channel, len(all)}
	for _, command := range all {
		args = append(args, command)
	}
	refused, err := lua.Refused.Run(ctx, rdb, []string{key}, args...).StringSlice()
	if err != nil {
		return err
	}
	if refused = refused[1:]; len(refused) > 0 {
		return &rightsError{strings.Join(refused, ", ")}
	}
	return nil
}

// A rightsError says what a user may not do.
type rightsError struct{ what string }

func (e *rightsError) Error() string { return "does not let its user run " + e.what }

// hopeless says whether an error will be the same at the next attempt.
func hopeless(err error) bool {
	answer := redis.Error(nil)
	if errors.As(err, &answer) {
		for _, passing := range []string{"LOADING", "MASTERDOWN", "BUSY", "CLUSTERDOWN", "MOVED", "TRYAGAIN", "ASK"} {
			if redis.HasErrorPrefix(answer, passing) {
				return false
			}
		}
		return true
	}
	var known *sentinelsError
	var unfit *unfitError
	var rights *rightsError
	return errors.As(err, &known) || errors.As(err, &unfit) || errors.As(err, &rights) || tlsAdvice(err) != ""
}

// explain adds to an error what to do about it.
func explain(err error, cfg *Config, cluster bool) error {
	var rights *rightsError
	text := err.Error()
	if answer := redis.Error(nil); errors.As(err, &answer) { // there may be words of ours before it
		text = answer.Error()
	}
	switch {
	case errors.As(err, &rights), strings.HasPrefix(text, "NOPERM"):
		user := "default"
		if t, err := cfg.target(); err == nil {
			user = cmp.Or(t.options.Username, user)
		}
		if rights == nil {
			err = fmt.Errorf("refuses: %w", err)
		}
		return fmt.Errorf("%w; what the user %q needs: %s", err, user, aclLine(user, cfg.RedisPrefix, cluster))
	case strings.Contains(text, "SELECT is not allowed in cluster mode"):
		return fmt.Errorf("%w, and --redis-url has another database than 0, the only one there", errCluster)
	case strings.HasPrefix(text, "WRONGPASS"), strings.HasPrefix(text, "NOAUTH"), strings.Contains(text, "without any password configured"):
		return fmt.Errorf("refuses the login: %w; set the user in --redis-url, and the password by ROOMGATE_REDIS_PASSWORD or --redis-password-file", err)
	}
	if advice := tlsAdvice(err); advice != "" {
		return fmt.Errorf("cannot be reached by TLS: %w; %s", err, advice)
	}
	return err
}

// silenceAdvice says what else the reason may be that a server does not answer.
func silenceAdvice(byTLS bool, err error) string {
	refused := errors.Is(err, syscall.ECONNREFUSED)
	switch {
	case byTLS && !refused:
		return "; if it does not speak TLS, write redis:// instead of rediss://"
	case !byTLS && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return "; if it speaks TLS, write rediss:// instead of redis://"
	}
	return ""
}

// tlsAdvice says what to do about an error of TLS, "" if it is none.
func tlsAdvice(err error) string {
	var record tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &record):
		return "if it does not speak TLS, write redis:// instead of rediss://"
	case errors.As(err, &verify):
		return "--redis-ca-file names those who may sign its certificate, which must be for the host in --redis-url"
	case strings.Contains(err.Error(), "remote error: tls:"):
		return "if it wants a certificate of its clients, set --redis-cert-file and --redis-key-file"
	}
	return ""
}
