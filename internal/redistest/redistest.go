//go:build unix

// Package redistest gives a test a real Redis: one shared by all tests of a
// test binary, or one of the test's own that it may stop, kill and start again.
// It knows about redis-server and nothing of this project.
//
// Every server belongs to the process that started it and ends with it,
// however that process ends. A server listens on a free port of the loopback
// address and keeps nothing on disk unless it is told to.
package redistest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.uber.org/goleak"

	"github.com/roomgate/roomgate/internal/freeport"
)

// patience bounds how long a server may take to start, or to answer.
const patience = 20 * time.Second

// New returns a client of the Redis that the tests of this test binary share,
// which is started when it is first asked for. The client is closed when the
// test ends.
//
// If there is no redis-server, neither at ROOMGATE_TEST_REDIS_SERVER nor on the
// PATH, the test is skipped, or fails if ROOMGATE_TEST_REQUIRE is set: a suite
// that skips itself proves nothing.
//
// Since the server is shared a test must not flush it, stop it or cut the
// connections of others: it keeps to keys that begin with its own [Prefix].
func New(t testing.TB) *redis.Client {
	t.Helper()
	p, err := shared()
	if err != nil {
		missing(t, err)
	}
	return newClient(t, p.addr())
}

// CPU is how much processor time a Redis has used so far, threads that it shares its
// process with included.
func CPU(t testing.TB, rdb *redis.Client) (used time.Duration) {
	t.Helper()
	info, err := rdb.Info(t.Context(), "cpu").Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(info) {
		for _, name := range []string{"used_cpu_user:", "used_cpu_sys:"} {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), name); ok {
				seconds, err := strconv.ParseFloat(value, 64)
				if err != nil {
					t.Fatal(err)
				}
				used += time.Duration(seconds * float64(time.Second))
			}
		}
	}
	return used
}

// Prefix returns a string that no other test has for its keys and channels.
func Prefix() string { return "test-" + rand.Text() }

// Options returns the options of every client that tests use. Calls are not
// repeated by the client, since a test must know how often it asked; they keep
// to the deadline of their context, and without one wait for long, since the
// machine may be busy; and the server is not asked for notifications that plain
// Redis does not have.
func Options(addr string) *redis.Options {
	return &redis.Options{
		Addr:                     addr,
		MaxRetries:               -1,
		ContextTimeoutEnabled:    true,
		ReadTimeout:              patience,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// A Server is a redis-server of one test. Its methods are for the goroutine of
// that test; they fail the test if they do not succeed.
type Server struct {
	t     testing.TB
	args  []string
	clock string // the file that sets its clock, if it can be set
	tls   string // its address by TLS, if it has one
	*process
}

// Start starts a redis-server for one test and ends it with the test. The
// arguments are those of redis-server, such as "--appendonly", "yes", and come
// after the defaults, which keep nothing on disk. Its directory is empty at
// first. See [New] for what happens if there is no redis-server.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	binary, err := find()
	if err != nil {
		missing(t, err)
	}
	return launch(t, []string{binary}, args)
}

// launch is Start for a server that a command runs.
func launch(t testing.TB, command, args []string) *Server {
	t.Helper()
	args = append([]string{"--dir", t.TempDir()}, args...)
	p, err := start(command, args)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, args: args, process: p}
	t.Cleanup(func() { s.process.kill() })
	return s
}

// Addr returns the server's address, which stays the same when it is restarted.
func (s *Server) Addr() string { return s.addr() }

// Dir is where it keeps what it writes down.
func (s *Server) Dir() string { return s.args[1] }

// Client returns a new client of the server, which is closed when t ends.
func (s *Server) Client(t testing.TB) *redis.Client {
	t.Helper()
	return newClient(t, s.Addr())
}

// Pause makes the server deaf: its connections stay open and new ones are
// accepted by the kernel, but nothing is read or answered before [Server.Resume].
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends a [Server.Pause].
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

// Kill ends the server at once, paused or not, and returns when its port is
// closed. It does nothing if the server has been killed before.
func (s *Server) Kill() {
	s.t.Helper()
	s.kill()
}

// Restart kills the server and starts it again with the same arguments, on the
// same port and in the same directory. It returns when the server answers.
func (s *Server) Restart() {
	s.t.Helper()
	s.kill()
	p, err := startAt(s.command, s.port, s.args)
	if err != nil {
		s.t.Fatal(err)
	}
	s.process = p
}

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(s.pid, sig); err != nil {
		s.t.Fatalf("%v to redis-server %d: %v", sig, s.pid, err)
	}
}

func newClient(t testing.TB, addr string) *redis.Client {
	rdb := redis.NewClient(Options(addr))
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// Dialing are goroutines of go-redis that are no leak: they dial a server that is away
// once a second, and find out only then that their client was closed.
func Dialing() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial")
}

// missing ends a test that has no Redis to run against.
func missing(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("ROOMGATE_TEST_REQUIRE") != "" {
		t.Fatalf("no Redis to test against: %v", err)
	}
	t.Skipf("no Redis to test against: %v", err)
}

// shared is the server of the whole test binary. It is held here for as long as
// the process lives, since the server ends when its pipe is collected.
var shared = sync.OnceValues(func() (*process, error) {
	binary, err := find()
	if err != nil {
		return nil, err
	}
	return start([]string{binary}, []string{"--dir", os.TempDir()})
})

// find returns the path of redis-server.
func find() (string, error) {
	if path := os.Getenv("ROOMGATE_TEST_REDIS_SERVER"); path != "" {
		return exec.LookPath(path)
	}
	return exec.LookPath("redis-server")
}

// keeper runs a redis-server, says its pid, and kills it when standard input
// ends: when we close it, or when this process is gone, in whatever way. It
// waits for the server only then, so until then the pid can be nobody else's.
// It does not hear the Ctrl-C of the terminal, which would leave the server
// behind. Standard output ends when the server does: after the pid only the
// server holds it, and does not know.
const keeper = `
trap '' INT HUP
"$@" </dev/null 3>&1 >&2 &
pid=$!
echo $pid
exec >&2
read -r _
kill -KILL $pid
wait $pid 2>/dev/null`

// process is a running redis-server with its keeper.
type process struct {
	command []string // what runs the server, without its arguments
	port    int
	pid     int
	cmd     *exec.Cmd // the keeper
	stdin   *os.File  // the keeper's; the server lives while it is open
	killed  bool
}

func (p *process) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)) }

// start starts a server on a free port. Another process may take the port
// before the server does, so it tries a few.
func start(command, args []string) (p *process, err error) {
	for range 3 {
		port, perr := freeport.New()
		if perr != nil {
			return nil, perr
		}
		if p, err = startAt(command, port, args); err == nil {
			return p, nil
		}
	}
	return nil, err
}

// startAt starts a server on a port and returns when it answers.
func startAt(command []string, port int, args []string) (*process, error) {
	log, err := os.CreateTemp("", "redis-test-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	os.Remove(log.Name()) // we can still read it

	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer out.Close()

	p := &process{command: command, port: port, stdin: in}
	p.cmd = exec.Command("/bin/sh", slices.Concat([]string{"-c", keeper, "redistest"}, command, []string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
	}, args)...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, stdout, log
	err = p.cmd.Start()
	stdout.Close()
	if err != nil {
		in.Close()
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		p.pid, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err == nil {
		err = p.ready(out)
	}
	if err != nil {
		p.kill()
		log.Seek(0, io.SeekStart)
		text, _ := io.ReadAll(log)
		return nil, fmt.Errorf("%s on port %d: %w\n%s", command[len(command)-1], port, err, text)
	}
	return p, nil
}

// ready waits until the server answers, and makes sure that it is this one and
// not another that has the port. It fails at once if the server ends, which is
// when life does.
func (p *process) ready(life *os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rdb := redis.NewClient(Options(p.addr()))
	defer rdb.Close()

	mine := []byte(fmt.Sprintf("process_id:%d\r\n", p.pid))
	for {
		info, err := rdb.Info(ctx, "server").Bytes()
		switch {
		case err == nil && bytes.Contains(info, mine):
			// INFO is answered while data is being loaded; PING is not.
			if err = rdb.Ping(ctx).Err(); err == nil {
				return nil
			}
		case err == nil:
			return errors.New("another server has the port")
		case ctx.Err() != nil:
			return fmt.Errorf("does not answer: %w", err)
		}
		life.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		if _, err := life.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("ended while starting")
		}
	}
}

// kill ends the server, paused or not, and returns when it has ended.
func (p *process) kill() {
	if p.killed {
		return
	}
	p.killed = true
	p.stdin.Close()
	p.cmd.Wait() // its status is that of a server that was killed
}
