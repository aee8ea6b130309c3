//go:build unix

package redistest_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/roomgate/roomgate/internal/redistest"
)

func TestMain(m *testing.M) {
	if os.Getenv("REDISTEST_CHILD") != "" {
		child()
	}
	goleak.VerifyTestMain(m, redistest.Dialing())
}

// All tests of a binary have the same server.
func TestNew_shared(t *testing.T) {
	t.Parallel()
	a, b := redistest.New(t), redistest.New(t)
	key := redistest.Prefix()
	if err := a.Set(t.Context(), key, "here", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Get(t.Context(), key).Result(); err != nil || got != "here" {
		t.Errorf("got %q, %v, want %q", got, err, "here")
	}
}

// A test may have a server of its own, which starts empty and does not keep
// what it has across a restart.
func TestStart_ownServer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(t)
	if n, err := rdb.DBSize(t.Context()).Result(); err != nil || n != 0 {
		t.Fatalf("got %d keys, %v, want none", n, err)
	}
	if err := rdb.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	addr := s.Addr()
	s.Restart()
	if s.Addr() != addr {
		t.Errorf("address after restart is %s, want %s", s.Addr(), addr)
	}
	if err := s.Client(t).Get(t.Context(), "k").Err(); err != redis.Nil {
		t.Errorf("got error %v, want %v", err, redis.Nil)
	}
}

// A server that was told to keep its data has it after a restart.
func TestServer_Restart_sameDirectory(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	if err := s.Client(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	if got, err := s.Client(t).Get(t.Context(), "k").Result(); err != nil || got != "v" {
		t.Errorf("got %q, %v, want %q", got, err, "v")
	}
}

// A paused server accepts connections, answers nothing, and answers what it
// was asked when it is resumed.
func TestServer_Pause(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Pause()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "PING\r\n"); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err == nil {
		t.Fatalf("paused server answered %q", line)
	}
	s.Resume()
	c.SetReadDeadline(time.Time{})
	if line, err := r.ReadString('\n'); err != nil || line != "+PONG\r\n" {
		t.Errorf("resumed server answered %q, %v", line, err)
	}
}

// A killed server is gone when Kill returns, even if it was paused.
func TestServer_Kill(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Pause()
	s.Kill()
	s.Kill()
	if c, err := net.Dial("tcp", s.Addr()); err == nil {
		c.Close()
		t.Error("killed server accepts connections")
	}
	s.Restart()
	if err := s.Client(t).Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

// Arguments that redis-server refuses fail the test with what it said.
func TestStart_badArgument(t *testing.T) {
	t.Parallel()
	redistest.New(t) // skips if there is no Redis
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "REDISTEST_CHILD=bad")
	out, _ := cmd.CombinedOutput()
	if !strings.Contains(string(out), "nonsense") {
		t.Errorf("got %q, want it to name the argument", out)
	}
}

// A process that is killed leaves no server behind.
func TestNew_killedProcess(t *testing.T) {
	t.Parallel()
	redistest.New(t) // skips if there is no Redis
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "REDISTEST_CHILD=hang")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	r := bufio.NewReader(out)
	for range 2 {
		addr, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", strings.TrimSpace(addr))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}

	cmd.Process.Kill()
	cmd.Wait()
	for _, c := range conns {
		// An open connection ends when its server has, and not before.
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("server at %s outlived its process: %v", c.RemoteAddr(), err)
		}
	}
}

// child is the process that the tests above start.
func child() {
	t := &outside{}
	switch os.Getenv("REDISTEST_CHILD") {
	case "bad":
		redistest.Start(t, "--nonsense", "1")
	case "hang":
		fmt.Println(redistest.New(t).Options().Addr)
		fmt.Println(redistest.Start(t).Addr())
		select {}
	}
	os.Exit(0)
}

// outside is a test outside of a test: it ends with its process, and not in
// any other way.
type outside struct{ testing.TB }

func (*outside) Helper()                 {}
func (*outside) Cleanup(func())          {}
func (*outside) TempDir() string         { return os.TempDir() }
func (*outside) Fatal(args ...any)       { fmt.Println(args...); os.Exit(1) }
func (o *outside) Fatalf(string, ...any) { os.Exit(1) }

// A server's clock is set while it runs; what it measures otherwise goes on, and
// a restarted one keeps the clock.
func TestServer_SetClock(t *testing.T) {
	s := redistest.StartClock(t)
	rdb := s.Client(t)
	ctx := t.Context()
	if err := rdb.Set(ctx, "short", "v", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	if err := rdb.Set(ctx, "long", "v", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	for _, ahead := range []time.Duration{5 * time.Minute, 0, -1500 * time.Millisecond} {
		before := time.Now().Add(ahead)
		s.SetClock(ahead)
		now, err := rdb.Time(ctx).Result()
		if err != nil {
			t.Fatal(err)
		}
		if after := time.Now().Add(ahead); now.Before(before.Truncate(time.Microsecond)) || now.After(after) {
			t.Errorf("set %v ahead: it is %v, want %v to %v", ahead, now, before, after)
		}
		script, err := rdb.Eval(ctx, "return redis.call('TIME')[1]", nil).Int64()
		if err != nil || script < before.Unix() || script > time.Now().Add(ahead).Unix() {
			t.Errorf("set %v ahead: a script has %d %v, want %d", ahead, script, err, before.Unix())
		}
		if n := rdb.Exists(ctx, "short").Val(); n != 0 {
			t.Errorf("set %v ahead: what was to last for a minute is there", ahead)
		}
		if n := rdb.Exists(ctx, "long").Val(); n != 1 {
			t.Errorf("set %v ahead: what was to last for an hour is gone", ahead)
		}
	}
	s.Restart()
	now, err := rdb.Time(ctx).Result()
	if err != nil || time.Until(now) > -time.Second {
		t.Errorf("after a restart it is %v %v, want what it was", now, err)
	}
}

// A primary that is killed, and one that is told to step down, is followed by a
// replica that has all it had, and follows it when it is back.
func TestStartSentinel(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	rdb := s.Client(t)
	lead := func(value string) {
		t.Helper()
		if err := rdb.Set(t.Context(), "k", value, 0).Err(); err != nil {
			t.Fatal(err)
		}
		s.Drain()
	}
	holds := func(value string) {
		t.Helper()
		next := s.Primary().Client(t)
		if got, err := next.Get(t.Context(), "k").Result(); err != nil || got != value {
			t.Errorf("got %q, %v, want %q", got, err, value)
		}
	}
	lead("one")
	old := s.KillPrimary()
	holds("one")
	old.Restart()
	s.WaitSync()
	rdb = s.Client(t)
	lead("two")
	if was := s.Switch(); was == old || s.Primary() == was {
		t.Error("the primary has not changed")
	}
	holds("two")
}
