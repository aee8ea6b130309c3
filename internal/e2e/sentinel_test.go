//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/protocol"
)

// stageFailover is stageDisaster on Sentinels.
func stageFailover(t *testing.T) (*disaster, *redistest.Sentinel) {
	t.Helper()
	oneRedis(t)
	s := redistest.StartSentinel(t)
	d := &disaster{t: t, stop: make(chan struct{}), rdb: s.Client(t)}
	return d.begin(s.URL()), s
}

// What is promised holds on a Redis that Sentinels watch over. All at once, since
// they mostly wait.
func TestSentinel(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	defer all.Wait()
	for name, test := range map[string]func(*testing.T){
		"primary killed":   func(t *testing.T) { failover(t, true) },
		"primary switched": func(t *testing.T) { failover(t, false) },
		"operations":       watchedOperations,
		"model":            watchedModel,
		"cut off":          gatewayCutOff,
		"Sentinels away":   sentinelsAway,
		"by TLS":           watchedByTLS,
	} {
		all.Go(func() { t.Run(name, test) })
	}
}

// When another server becomes the primary, since the one before died or was told
// to step down, gateways follow while everybody talks. What the new one does not
// have is put back, or said to be lost; no connection ends and nobody loses a place.
// The old primary comes back with what it had, and nobody believes it.
func failover(t *testing.T, kill bool) {
	d, s := stageFailover(t)
	order := d.order("ROOM")
	d.talk()
	d.chatter(0, 1, 2)
	if kill {
		old := s.KillPrimary()
		d.recovered(0, 1, 2)
		old.Restart()
	} else {
		s.Switch()
		d.recovered(0, 1, 2)
	}
	d.chatter(0, 1, 2)
	d.check()
	if got := d.order("ROOM"); got != order {
		t.Errorf("members are now %s, they were %s", got, order)
	}
	d.unfenced()
}

// heals counts how often a gateway has put back what it knows.
const heals = "roomgate_gateway_heals_total"

// switchOver has another server be the primary, with all that the one before had,
// and waits until gateways serve again.
func switchOver(t testing.TB, s *redistest.Sentinel, gates ...*gateway) {
	t.Helper()
	before := make([]float64, len(gates))
	for i, g := range gates {
		before[i] = g.Metric(heals)
	}
	s.Drain()
	s.Switch()
	for i, g := range gates {
		eventually(t, "a gateway to follow", func() bool { return g.Metric(heals) > before[i] && g.Ready() })
	}
}

// The table of operations holds on Sentinels, and after a failover.
func watchedOperations(t *testing.T) {
	oneRedis(t)
	s := redistest.StartSentinel(t)
	theatre := openTheatre(t, func(string) string { return s.URL() }, s.Client(t), 16)
	for i, r := range rows {
		if i == len(rows)/2 {
			switchOver(t, s, append(theatre.wide[:], theatre.tiny[:]...)...)
		}
		t.Run(r.name, func(t *testing.T) { theatre.play(t, r) })
	}
}

// What clients hear is what the model says, also when another server becomes the
// primary in between and has everything: then nobody hears of it.
func watchedModel(t *testing.T) {
	oneRedis(t)
	s := redistest.StartSentinel(t)
	d := deploy(t, s.URL(), s.Client(t), 1, "wide", limits{members: 500, ofUser: 5, devices: 10, keep: true})
	runs := 0
	d.mishap = func() {
		if runs++; runs != 3 && (!*long || runs%10 != 0) {
			return
		}
		switchOver(t, s, d.gates...)
		// For a session's time a client whose session is not there is believed that
		// it was lost. The model does not know of that: it has passed.
		origin := d.parts(false)[0] + "origin"
		f := strings.Split(d.rdb.Get(t.Context(), origin).Val(), "\x00")
		if len(f) != 3 {
			t.Fatalf("got %q as the origin of what is stored", f)
		}
		if err := d.rdb.Set(t.Context(), origin, f[0]+"\x00"+f[1]+"\x001", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		if runs < 10 || *long {
			begin(t, rt, d).run()
		}
	})
	d.clean(t)
}

// cutOff is a gateway whose Sentinels can be taken away from it, and another;
// they come to Redis as another user than servers and Sentinels do to each other.
type cutOff struct {
	*redistest.Sentinel
	t        *testing.T
	doors    []*faultproxy.Proxy // between the first gateway and the Sentinels
	a, b     *gateway
	ana, bob *wire // on them, in room R
}

func stageCutOff(t *testing.T) *cutOff {
	t.Helper()
	oneRedis(t)
	c := &cutOff{Sentinel: redistest.StartSentinel(t), t: t}
	for _, server := range c.Servers {
		for _, user := range []string{"gate", "admin"} {
			if err := server.Client(t).Do(t.Context(), "ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all").Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var addrs []string
	for _, one := range c.Sentinels {
		door := faultproxy.Start(t, one.Addr())
		c.doors, addrs = append(c.doors, door), append(addrs, door.Addr())
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--redis-password-file=" + password, "--rate-limits=false", "--heartbeat-interval=10s", "--session-ttl=60s",
		fmt.Sprintf("--lease-ttl=%v", cutOffLease), "--log-ttl=5m"}
	c.a = startGateway(t, redistest.SentinelURL(addrs...)+"&username=gate", flags...)
	c.b = startGateway(t, c.URL()+"&username=gate", flags...)
	c.ana, c.bob = enroll(c.a, t, "ana"), enroll(c.b, t, "bob")
	c.ana.enter("R")
	c.bob.enter("R")
	c.ana.until("R +bob 2")
	return c
}

// cutOffLease is that of gateways that are not given up meanwhile.
const cutOffLease = 30 * time.Second

func (c *cutOff) hideSentinels(yes bool) {
	for _, door := range c.doors {
		door.Hold(yes)
	}
}

// admin is a client of a server that nothing keeps away.
func (c *cutOff) admin(server *redistest.Server) *redis.Client {
	o := redistest.Options(server.Addr())
	o.Username, o.Password, o.ReadTimeout = "admin", "secret", time.Minute
	rdb := redis.NewClient(o)
	c.t.Cleanup(func() { rdb.Close() })
	return rdb
}

func (c *cutOff) do(rdb *redis.Client, args ...any) {
	c.t.Helper()
	if err := rdb.Do(c.t.Context(), args...).Err(); err != nil {
		c.t.Fatal(err)
	}
}

// A primary that nobody but one gateway and one replica can reach, while the others have another,
// is not served from for long: what is still acknowledged there is lost. The
// gateway joins the others when it hears of them, and its clients hear that
// something is lost.
func gatewayCutOff(t *testing.T) {
	c := stageCutOff(t)
	old := c.Primary()
	rdb := c.admin(old)
	var replica *redis.Client // that is cut off with it, and goes on following
	for _, server := range c.Servers {
		if server != old {
			replica = c.admin(server)
		}
	}
	c.do(replica, "CONFIG", "SET", "masteruser", "admin", "masterauth", "secret")
	c.hideSentinels(true)
	for _, lonely := range []*redis.Client{rdb, replica} {
		c.do(lonely, "ACL", "SETUSER", "default", "off")
		c.do(lonely, "CLIENT", "KILL", "USER", "default")
	}
	began := redisTime(t, rdb)
	c.WaitOther(old)

	// Until its time is up nothing shows the gateway that this is not the primary.
	said := 0
	ask := func() protocol.Code {
		c.ana.send(protocol.MethodSendRoomMessage, textMessage("R", fmt.Sprintf("to nobody %d", said)))
		_, r := c.ana.response()
		if r.Error != nil {
			return r.Error.Code
		}
		said++
		return 0
	}
	renewed := func() int64 {
		t.Helper()
		score, err := rdb.ZScore(t.Context(), "rg:nodes", c.a.Node()).Result()
		if err != nil {
			t.Fatal(err)
		}
		return int64(score) - cutOffLease.Milliseconds() + paused(t, rdb, "R")
	}
	last := int64(0)
	eventually(t, "the gateway not to renew its lease any more", func() bool {
		last = renewed()
		for end := last + 2000; redisTime(t, rdb) < end; {
			if code := ask(); code != 0 && code != protocol.CodeUnavailable {
				t.Fatalf("got error %d", code)
			}
		}
		return renewed() == last
	})
	if code := ask(); code != protocol.CodeUnavailable {
		t.Errorf("a message was answered with %d, want 6000007", code)
	}
	held := time.Duration(last-began) * time.Millisecond
	t.Logf("%d messages were acknowledged; the last write was %v after the primary was cut off", said, held)
	const most = 5*time.Second + time.Second // what is vouched for, and a call that was on its way
	if held > most {
		t.Errorf("the gateway has written for %v after the primary was cut off, want at most %v", held, most)
	}
	// The other one has left it, though it goes on.
	eventually(t, "the other gateway to follow", func() bool { return c.b.Metric(heals) == 1 && c.b.Ready() })
	c.bob.say("R", "to those who are here")

	if info := rdb.Info(t.Context(), "replication").Val(); !strings.Contains(info, "role:master") || !strings.Contains(info, "state=online") {
		t.Errorf("the primary that is cut off has lost its replica: %s", info)
	}
	for _, lonely := range []*redis.Client{rdb, replica} {
		c.do(lonely, "ACL", "SETUSER", "default", "on")
	}
	c.hideSentinels(false)
	c.ana.until("R connected success")
	c.bob.say("R", "welcome back")
	heard := c.ana.until("R bob: welcome back")
	if said > 0 && !strings.HasPrefix(heard[0], "R lost ") {
		t.Errorf("ana heard %q, want that something is lost", heard)
	}
	c.ana.say("R", "thank you")
	c.bob.until("R ana: thank you")
}

// Sentinels that are away do no harm while all replicas follow the primary.
func sentinelsAway(t *testing.T) {
	c := stageCutOff(t)
	c.hideSentinels(true)
	rdb := c.Client(t)
	for n := range 8 { // longer than anybody's word counts
		c.ana.say("R", fmt.Sprint(n))
		c.bob.until(fmt.Sprintf("R ana: %d", n))
		during(t, rdb, time.Second)
	}
	if n := c.a.Metric("roomgate_pubsub_reconnects_total"); n != 0 {
		t.Errorf("the gateway has subscribed again %v times", n)
	}
}

// By TLS it is the same, with certificates for the addresses that the Sentinels
// give.
func watchedByTLS(t *testing.T) {
	oneRedis(t)
	certs := redistest.NewTLS(t)
	s := redistest.StartSentinelTLS(t, certs)
	g := startGateway(t, s.URL(), append([]string{
		"--redis-ca-file=" + certs.CA, "--redis-cert-file=" + certs.Cert, "--redis-key-file=" + certs.Key}, unlimited...)...)
	ana, bob := enroll(g, t, "ana"), enroll(g, t, "bob")
	ana.enter("R")
	bob.enter("R")
	ana.until("R +bob 2")
	switchOver(t, s, g)
	bob.say("R", "hello")
	ana.hears("R bob: hello")
}
