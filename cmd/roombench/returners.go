package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"time"
)

// party is what the process of those who are cut off is told first.
type party struct {
	Load   Load
	URLs   []string
	CA     []byte // PEM
	Secret []byte
	Name   string
	Logout bool
}

// order is what it is told to do then, and report what it says when that is done.
type order struct {
	Do   string   // "arrive", "cut" or "check"
	Sent []uint32 // "check": messages by room
}

type report struct {
	Error    string
	Problems []Problem
}

// returners are those of the workload reconnect who are cut off, in a process of
// their own.
type returners struct {
	b     *bench
	cmd   *exec.Cmd
	to    io.WriteCloser
	tell  *json.Encoder
	hears *json.Decoder
}

// startReturners starts them. They end with ctx, or by end.
func (b *bench) startReturners(ctx context.Context) (*returners, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a := &returners{b: b, cmd: exec.CommandContext(ctx, self, "returners")}
	a.cmd.Stderr = os.Stderr
	a.cmd.WaitDelay = time.Second
	endsWithUs(a.cmd)
	if a.to, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	from, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	a.tell, a.hears = json.NewEncoder(a.to), json.NewDecoder(from)
	err = a.tell.Encode(party{Load: b.load, URLs: b.urls, CA: b.access.pem, Secret: b.access.secret, Name: b.name, Logout: b.logout})
	if err != nil {
		a.end()
		return nil, err
	}
	return a, nil
}

// arrive brings them into their rooms.
func (a *returners) arrive(ctx context.Context) error { return a.do(ctx, order{Do: "arrive"}) }

// cut ends their links, all at once, and waits until all are back.
func (a *returners) cut(ctx context.Context) error { return a.do(ctx, order{Do: "cut"}) }

// check has them look whether they have had everything.
func (a *returners) check(ctx context.Context, sent []atomic.Uint32) error {
	o := order{Do: "check", Sent: make([]uint32, len(sent))}
	for i := range sent {
		o.Sent[i] = sent[i].Load()
	}
	return a.do(ctx, o)
}

func (a *returners) do(ctx context.Context, o order) error {
	err := a.tell.Encode(o)
	var r report
	if err == nil {
		err = a.hears.Decode(&r)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("the process of those who are cut off has ended: %w", err)
	}
	for _, p := range r.Problems {
		a.b.problem(p)
	}
	switch {
	case len(r.Problems) > 0:
		return errBroken
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

// end has them leave, and waits.
func (a *returners) end() {
	a.to.Close()
	a.cmd.Wait()
}

// returnersFlags are none: what to be comes by the standard input.
type returnersFlags struct{}

// run is the process of those who are cut off. It ends with its input.
func (*returnersFlags) run(ctx context.Context, in io.Reader, out io.Writer) error {
	from, say := json.NewDecoder(in), json.NewEncoder(out)
	var p party
	if err := from.Decode(&p); err != nil {
		return fmt.Errorf("%w: returners are started by roombench itself (%w)", errUsage, err)
	}
	b := &bench{
		load: p.Load, urls: p.URLs, access: access{secret: p.Secret}, logout: p.Logout,
		progress: newProgress(io.Discard), running: "reconnect", name: p.Name, began: time.Now(),
	}
	if p.CA != nil {
		b.access.authorities = x509.NewCertPool()
		b.access.authorities.AppendCertsFromPEM(p.CA)
	}
	c, ctx, err := b.gather(ctx)
	if err != nil {
		return err
	}
	defer c.disperse(ctx)
	w, err := newReconnecting(c, true)
	if err != nil {
		return err
	}
	for {
		var o order
		if err := from.Decode(&o); err != nil {
			return nil
		}
		var r report
		if err := w.obey(ctx, o); err != nil && !errors.Is(err, errBroken) {
			r.Error = b.explain(err).Error()
		}
		b.mu.Lock()
		r.Problems = b.problems
		b.mu.Unlock()
		if err := say.Encode(r); err != nil {
			return err
		}
	}
}

// obey carries an order out.
func (w *reconnecting) obey(ctx context.Context, o order) error {
	switch o.Do {
	case "arrive":
		return w.arrive(ctx, len(w.members))
	case "cut":
		w.watching.Store(true)
		return w.cutAndBack(ctx)
	case "check":
		for i, n := range o.Sent {
			w.sent[i].Store(n)
		}
		if err := w.settled(ctx, func() bool { _, n := w.missing(); return n == 0 }); err != nil {
			return err
		}
		w.watching.Store(false) // then they log out
		return w.verdict()
	}
	return fmt.Errorf("there is no order %q", o.Do)
}
