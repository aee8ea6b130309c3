// Command roombench puts load on a room service, through the same sockets as
// clients, and says what it took: how many a second, how late, how much CPU
// and memory. It checks all that it receives, and fails if something was lost,
// doubled or out of order. It brings a minimal server to compare with.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

const description = `Puts load on gateways and says what it took. Five workloads:

fanout: one room of 1000. Saturated: 16 messages are in flight, each until all others have it. Then 50 a second.

small: 500 rooms of 4. Saturated: one message in flight in each. Then 5 a second in each.

churn: 50 rooms of 20 who stay, and 200 who enter a room, leave it, and enter another. Saturated, then 500 entries and departures a second.

storm: 5000 clients connect, log in and enter a room.

idle: 10000 clients are in a room and do nothing.

bigroom, only if it is named: one room of 15000, in which somebody speaks while 100 come and go.

reconnect, only if it is named: of 15000 clients in rooms 10000 lose their links at once and come back to their rooms, while others speak there.

Latencies at a rate are counted from when something was due, so a stall shows in all that it held up. Every receiver checks that it gets every message, once and in order: if not, roombench says what and where, and exits with 1.`

type flags struct {
	Run       runFlags       `cmd:"" default:"withargs" help:"Put load on servers. This is what happens without a command."`
	Bare      bareFlags      `cmd:"" help:"Run a minimal server to compare with: rooms in memory, Redis pub/sub between servers, and nothing else."`
	Returners returnersFlags `cmd:"" hidden:"" help:"Be those of reconnect who are cut off. roombench starts this itself."`
	Compare   compareFlags   `cmd:"" help:"Run all workloads against gateways and against bare servers, in turn, and print the ratios."`
}

type runFlags struct {
	Workloads []string       `arg:"" optional:"" name:"workload" help:"fanout, small, churn, storm, idle; these if none is named. And bigroom, reconnect."`
	URL       []string       `name:"url" required:"" placeholder:"URL" help:"WebSocket URL of a server, as ws://127.0.0.1:8080 or wss://rooms.example.com. Repeat it, or separate by commas; clients are spread evenly."`
	CAFile    string         `name:"ca-file" placeholder:"FILE" help:"File with the certificates, in PEM, of those who may sign the certificates of wss:// servers. Default: those that the system trusts."`
	Secret    string         `name:"jwt-hs256-secret-file" placeholder:"FILE" help:"File with the secret that the servers check login tokens with, as for roomgate: clients make their own tokens, valid for a day, and send them to each --url. Without it they log in without, which servers with --dev take."`
	PID       map[string]int `name:"pid" placeholder:"NAME=PID" help:"Process whose CPU and memory to watch, on this machine. Repeat it. A name that begins with redis is counted as Redis, any other as a server."`
	Duration  time.Duration  `default:"10s" help:"How long each part of a workload is measured."`
	Warmup    time.Duration  `default:"2s" help:"How long each part runs before that."`
	Settle    time.Duration  `default:"5s" help:"idle: how long after the last client came before it is measured."`
	JSON      string         `name:"json" placeholder:"FILE" help:"Write the figures to a file, too."`
	Logout    bool           `default:"true" negatable:"" help:"Log the clients out at the end of a workload, so that they do not disturb the next. On by default; --no-logout turns it off."`
	Load      `embed:""`
}

// errUsage is a fault of the arguments.
var errUsage = errors.New("usage")

func main() {
	// The first signal asks us to stop, and the second is deadly again.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)

	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "roombench:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "roombench:", err)
		os.Exit(1)
	}
}

// run is the whole program, apart from what a test could not survive.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var f flags
	helped := false
	parser, err := kong.New(&f,
		kong.Name("roombench"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }),
		kong.ExplicitGroups([]kong.Group{{Key: "load", Title: "What the workloads consist of:"}}),
		kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 100}),
	)
	if err != nil {
		return err // a mistake in the tags above
	}
	parsed, err := parser.Parse(args)
	switch {
	case helped:
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	switch parsed.Selected().Name {
	case "bare":
		return f.Bare.run(ctx, stdout)
	case "returners":
		return f.Returners.run(ctx, os.Stdin, stdout)
	case "compare":
		return f.Compare.run(ctx, stdout, stderr)
	}
	return f.Run.run(ctx, stdout, stderr)
}

func (f *runFlags) run(ctx context.Context, stdout, stderr io.Writer) error {
	access, err := readAccess(f.CAFile, f.Secret)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	b := &bench{
		load: f.Load, urls: f.URL, access: access, procs: f.PID, warmup: f.Warmup, duration: f.Duration, settle: f.Settle,
		logout: f.Logout, progress: newProgress(stderr),
	}
	if f.Duration < 100*time.Millisecond {
		return fmt.Errorf("%w: --duration is %v, it must be at least 100ms", errUsage, f.Duration)
	}
	err = b.run(ctx, f.Workloads)
	b.progress.clear()
	r := b.report(err)
	r.table(stdout)
	if f.JSON != "" {
		err = errors.Join(err, save(f.JSON, r))
	}
	return err
}
