package faultproxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/freeport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come, and moment how long it
// listens for what must not.
const (
	patience = 10 * time.Second
	moment   = 50 * time.Millisecond
)

// serve serves each connection with handle until the test ends.
func serve(t *testing.T, handle func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			work.Go(func() { defer c.Close(); handle(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		work.Wait()
	})
	return ln.Addr().String()
}

func echo(c net.Conn) { io.Copy(c, c) }

// says is a server that says text to whoever comes, and waits for them to go.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		io.WriteString(c, text)
		io.Copy(io.Discard, c)
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// answers says whether what is written to c comes back.
func answers(c net.Conn) error {
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	got := make([]byte, 5)
	_, err := io.ReadFull(c, got)
	if err == nil && string(got) != "hello" {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

// silent fails the test if anything comes, the end included.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(moment))
	defer c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 64)
	if n, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v, want nothing", b[:n], err)
	}
}

// In front of a Cluster the proxy has the ports of the nodes, at another host, and what
// is done is done to the links to all of them.
func TestStartCluster(t *testing.T) {
	t.Parallel()
	targets := []string{serve(t, says("+a\r\n")), serve(t, says("+b\r\n"))}
	p := faultproxy.StartCluster(t, targets)
	addrs := p.Addrs()
	if len(addrs) != len(targets) {
		t.Fatalf("it listens at %q, want as many as %q", addrs, targets)
	}
	var links []net.Conn
	for i, addr := range addrs {
		host, port, _ := net.SplitHostPort(addr)
		if toHost, toPort, _ := net.SplitHostPort(targets[i]); port != toPort || host == toHost {
			t.Errorf("it listens at %s for %s, want that port at another host", addr, targets[i])
		}
		c := dial(t, addr)
		expect(t, c, 4)
		links = append(links, c)
	}
	if got := expect(t, dial(t, addrs[1]), 4); got != "+b\r\n" {
		t.Errorf("got %q behind the second", got)
	}
	p.Cut()
	for i, c := range links {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("link %d: %v, want that it has ended", i, err)
		}
	}
}

// Cut ends what stands and nothing else.
func TestProxy_Cut(t *testing.T) {
	t.Parallel()
	p := faultproxy.Start(t, serve(t, echo))
	old := dial(t, p.Addr())
	if err := answers(old); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if _, err := old.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("old connection: got %v, want its end", err)
	}
	if err := answers(dial(t, p.Addr())); err != nil {
		t.Errorf("new connection: %v", err)
	}
}

// Refuse ends new connections and leaves those that stand alone.
func TestProxy_Refuse(t *testing.T) {
	t.Parallel()
	p := faultproxy.Start(t, serve(t, echo))
	old := dial(t, p.Addr())
	if err := answers(old); err != nil {
		t.Fatal(err)
	}
	p.Refuse(true)
	if err := answers(dial(t, p.Addr())); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("new connection: got %v, want its end", err)
	}
	if err := answers(old); err != nil {
		t.Errorf("old connection: %v", err)
	}
	p.Refuse(false)
	if err := answers(dial(t, p.Addr())); err != nil {
		t.Errorf("when it is over: %v", err)
	}
}

// A deaf connection stays open and carries nothing; new ones are not deaf.
func TestProxy_Deafen(t *testing.T) {
	t.Parallel()
	p := faultproxy.Start(t, serve(t, echo))
	old := dial(t, p.Addr())
	if err := answers(old); err != nil {
		t.Fatal(err)
	}
	p.Deafen()
	if _, err := io.WriteString(old, "hello"); err != nil {
		t.Fatal(err)
	}
	silent(t, old)
	if err := answers(dial(t, p.Addr())); err != nil {
		t.Errorf("new connection: %v", err)
	}
}

// What is held comes when it goes on, whole and in order, on connections old and
// new; what was sent by those who have gone since arrives, too.
func TestProxy_Hold(t *testing.T) {
	t.Parallel()
	arrived := make(chan string, 1)
	p := faultproxy.Start(t, serve(t, func(c net.Conn) {
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err == nil && string(b) != "hello" {
			arrived <- string(b)
			return
		}
		c.Write(b)
		echo(c)
	}))
	old := dial(t, p.Addr())
	if err := answers(old); err != nil {
		t.Fatal(err)
	}
	p.Hold(true)
	p.Hold(true)
	gone := dial(t, p.Addr())
	for _, c := range []net.Conn{old, gone} {
		if _, err := io.WriteString(c, "words"); err != nil {
			t.Fatal(err)
		}
		silent(t, c)
	}
	gone.Close()
	select {
	case text := <-arrived:
		t.Errorf("got %q while held", text)
	default:
	}
	p.Hold(false)
	if got := expect(t, old, 5); got != "words" {
		t.Errorf("got %q, want what was held", got)
	}
	select {
	case got := <-arrived:
		if got != "words" {
			t.Errorf("got %q from who has gone", got)
		}
	case <-time.After(patience):
		t.Error("what was sent by who has gone does not arrive")
	}
	if err := answers(dial(t, p.Addr())); err != nil {
		t.Errorf("when it is over: %v", err)
	}
}

// A target that is away ends connections as a refusal does.
func TestProxy_noTarget(t *testing.T) {
	t.Parallel()
	port, err := freeport.New()
	if err != nil {
		t.Fatal(err)
	}
	p := faultproxy.Start(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err := answers(dial(t, p.Addr())); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the end of the connection", err)
	}
}

const (
	confirmed = ">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
	pong      = ">2\r\n$4\r\npong\r\n$1\r\n7\r\n"
)

func message(text string) string {
	return fmt.Sprintf(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$%d\r\n%s\r\n", len(text), text)
}

// Whatever is no pub/sub message passes as it is, whatever fate says.
func TestStartRedis_passes(t *testing.T) {
	t.Parallel()
	text := strings.Join([]string{
		"+OK\r\n", "-ERR no\r\n", ":42\r\n", "_\r\n", "#t\r\n", ",1.5\r\n", "(12345678901234567890\r\n",
		"$-1\r\n", "$0\r\n\r\n", "$7\r\nme\r\nage\r\n", "=8\r\ntxt:text\r\n", "!5\r\nERR x\r\n",
		"*-1\r\n", "*0\r\n", "*2\r\n:1\r\n*1\r\n$1\r\na\r\n", "%1\r\n+a\r\n:1\r\n", "~1\r\n:1\r\n",
		"|1\r\n+ttl\r\n:3\r\n:1\r\n",
		"*2\r\n$7\r\nmessage\r\n$1\r\na\r\n", // an answer that only looks like a message
		confirmed, pong, "+" + strings.Repeat("long", 5000) + "\r\n",
	}, "")
	p := faultproxy.StartRedis(t, serve(t, says(text)))
	p.Messages(func(string, string) faultproxy.Fate { return nil })
	got := make([]byte, len(text))
	if n, err := io.ReadFull(dial(t, p.Addr()), got); err != nil || string(got) != text {
		t.Errorf("got %q (%v),\nwant %q", got[:n], err, text)
	}
}

// Each message meets its fate, and what stands beside it does not.
func TestProxy_Messages(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fate func(n int) faultproxy.Fate
		want []string
	}{
		{"passed", func(int) faultproxy.Fate { return faultproxy.Pass }, []string{"0", "1", "2", "pong"}},
		{"dropped", func(n int) faultproxy.Fate {
			if n == 1 {
				return nil
			}
			return faultproxy.Pass
		}, []string{"0", "2", "pong"}},
		{"doubled", func(n int) faultproxy.Fate { return make(faultproxy.Fate, 1+n%2) }, []string{"0", "1", "1", "2", "pong"}},
		{"delayed", func(n int) faultproxy.Fate { return faultproxy.Fate{time.Duration(n) * moment} }, []string{"0", "pong", "1", "2"}},
		{"reordered", func(n int) faultproxy.Fate { return faultproxy.Fate{time.Duration(3-n) * moment} }, []string{"pong", "2", "1", "0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			begin := make(chan struct{})
			p := faultproxy.StartRedis(t, serve(t, func(c net.Conn) {
				<-begin
				says(confirmed + message("0") + message("1") + message("2") + pong)(c)
			}))
			n := 0
			p.Messages(func(channel, payload string) faultproxy.Fate {
				if channel != "news" || payload != fmt.Sprint(n) {
					t.Errorf("got %q on channel %q, want %d on news", payload, channel, n)
				}
				n++
				return tt.fate(n - 1)
			})
			close(begin)
			c := dial(t, p.Addr())
			r := bufio.NewReader(c)
			if got := expect(t, r, len(confirmed)); got != confirmed {
				t.Fatalf("got %q first, want %q", got, confirmed)
			}
			var got []string
			for range tt.want {
				got = append(got, next(t, r))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if r.Buffered() > 0 {
				t.Errorf("got more than %q", tt.want)
			}
			silent(t, c)
		})
	}
}

// Messages are held, too, and a held proxy ends with its test.
func TestProxy_Hold_messages(t *testing.T) {
	t.Parallel()
	begin := make(chan struct{})
	addr := serve(t, func(c net.Conn) {
		<-begin
		says(confirmed + message("0") + pong)(c)
	})
	t.Run("test", func(t *testing.T) {
		p := faultproxy.StartRedis(t, addr)
		c := dial(t, p.Addr())
		p.Hold(true)
		close(begin)
		silent(t, c)
		p.Hold(false)
		if got, want := expect(t, c, len(confirmed+message("0")+pong)), confirmed+message("0")+pong; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		p.Hold(true)
	}) // ends
}

// Only connections that have subscribed go deaf.
func TestProxy_DeafenSubscribers(t *testing.T) {
	t.Parallel()
	p := faultproxy.StartRedis(t, serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if line == "subscribe\r\n" {
				io.WriteString(c, confirmed)
			} else {
				io.WriteString(c, pong)
			}
		}
	}))
	ask := func(c net.Conn, what string) {
		if _, err := io.WriteString(c, what+"\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	subscriber, other := dial(t, p.Addr()), dial(t, p.Addr())
	ask(subscriber, "subscribe")
	if got := expect(t, bufio.NewReaderSize(subscriber, 16), len(confirmed)); got != confirmed {
		t.Fatalf("got %q, want %q", got, confirmed)
	}
	p.DeafenSubscribers()
	ask(subscriber, "ping")
	ask(other, "ping")
	if got := expect(t, bufio.NewReader(other), len(pong)); got != pong {
		t.Errorf("got %q, want %q", got, pong)
	}
	silent(t, subscriber)
}

// A call that gets lost, or whose answer does, costs its connection its answers
// and no other; when that is over it is cut.
func TestProxy_Scripts(t *testing.T) {
	t.Parallel()
	for _, loss := range []faultproxy.Loss{faultproxy.Answers, faultproxy.Calls} {
		t.Run(fmt.Sprint(loss), func(t *testing.T) {
			t.Parallel()
			calls := make(chan string, 10)
			p := faultproxy.StartRedis(t, serve(t, func(c net.Conn) {
				r := bufio.NewReader(c)
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					calls <- strings.TrimSpace(line)
					io.WriteString(c, pong)
				}
			}))
			ask := func(c net.Conn, what string) {
				t.Helper()
				if _, err := io.WriteString(c, what+"\r\n"); err != nil {
					t.Fatal(err)
				}
			}
			answered := func(c net.Conn, what string) {
				t.Helper()
				ask(c, what)
				if got := expect(t, bufio.NewReaderSize(c, 16), len(pong)); got != pong {
					t.Fatalf("got %q, want %q", got, pong)
				}
				if got := <-calls; got != what {
					t.Errorf("the server got %q, want %q", got, what)
				}
			}
			lost, other := dial(t, p.Addr()), dial(t, p.Addr())
			answered(lost, "evalsha 0")
			p.Scripts(loss)
			answered(other, "ping")
			for _, c := range []net.Conn{lost, dial(t, p.Addr())} {
				ask(c, "EVALSHA 1")
				silent(t, c)
				if loss == faultproxy.Answers {
					if got := <-calls; got != "EVALSHA 1" {
						t.Errorf("the server got %q", got)
					}
				}
			}
			answered(other, "ping")
			if n := p.Lost(); n != 2 {
				t.Errorf("something was lost on %d connections, want 2", n)
			}
			p.ScriptsWith(loss, "two")
			answered(other, "evalsha one")
			named := dial(t, p.Addr())
			ask(named, "evalsha two")
			silent(t, named)
			if loss == faultproxy.Answers {
				<-calls
			}
			if n := p.Lost(); n != 1 {
				t.Errorf("something was lost on %d connections, want 1", n)
			}
			p.Scripts(faultproxy.Nothing)
			if _, err := lost.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want the end of what was lost", err)
			}
			answered(other, "evalsha 2")
			if len(calls) > 0 {
				t.Errorf("the server got %q, too", <-calls)
			}
		})
	}
}

// The end of a test is the end of what is delayed.
func TestProxy_end(t *testing.T) {
	t.Parallel()
	addr := serve(t, says(confirmed+message("0")))
	t.Run("test", func(t *testing.T) {
		p := faultproxy.StartRedis(t, addr)
		p.Messages(func(string, string) faultproxy.Fate { return faultproxy.Fate{time.Hour} })
		if got := expect(t, bufio.NewReader(dial(t, p.Addr())), len(confirmed)); got != confirmed {
			t.Errorf("got %q, want %q", got, confirmed)
		}
	}) // ends
}

func expect(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("got %q and %v, want %d bytes", b, err, n)
	}
	return string(b)
}

// next reads a message's text, or "pong".
func next(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	b, err := r.Peek(2)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) == pong[:2] {
		expect(t, r, len(pong))
		return "pong"
	}
	m := expect(t, r, len(message("0")))
	return m[len(m)-3 : len(m)-2]
}
