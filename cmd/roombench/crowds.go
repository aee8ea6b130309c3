package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// storm is everybody coming at once: how long it takes until all are in.
func (b *bench) storm(ctx context.Context) error {
	c, ctx, err := b.gather(ctx)
	if err != nil {
		return err
	}
	defer c.disperse(ctx)
	n := b.load.StormMembers
	name := fmt.Sprintf("storm, %d × connect, log in, enter", n)
	seats := c.seats("t", n, b.load.RoomSize)
	before, err := c.procs.sample()
	if err != nil {
		return err
	}
	if _, err := c.fill(ctx, name, seats, c.counted); err != nil {
		return err
	}
	took := time.Since(before.at)
	// What they still hear of each other is part of what it cost.
	if err := c.quiet(ctx); err != nil {
		return err
	}
	after, err := c.procs.sample()
	if err != nil {
		return err
	}
	c.add(name, "all are in after", took.Seconds(), "s")
	c.add(name, "clients/s", float64(n)/took.Seconds(), "/s")
	c.costs(name, "1 k clients", 1e3, measured{
		servers: after.servers - before.servers, redis: after.redis - before.redis, own: after.own - before.own,
	}, int64(n))
	return nil
}

// idle is people who are there, and do nothing.
func (b *bench) idle(ctx context.Context) error {
	c, ctx, err := b.gather(ctx)
	if err != nil {
		return err
	}
	defer c.disperse(ctx)
	n := b.load.IdleMembers
	name := fmt.Sprintf("idle, %d members", n)
	before, err := c.procs.sample()
	if err != nil {
		return err
	}
	if _, err := c.fill(ctx, name, c.seats("i", n, b.load.RoomSize), c.counted); err != nil {
		return err
	}
	err = c.wait(ctx, b.settle, func() { c.progress.status("%s: settling", name) })
	if err != nil {
		return err
	}
	m, err := c.measure(ctx, name, b.duration, "events/s", func(t tally) int64 { return t.events })
	if err != nil {
		return err
	}
	after, err := c.procs.sample()
	if err != nil {
		return err
	}
	servers, redis := c.procs.watches()
	if servers {
		c.add(name, "server memory per connection", float64(after.serverMemory-before.serverMemory)/1024/float64(n), "KiB")
	}
	if redis {
		c.add(name, "Redis memory per connection", float64(after.redisMemory-before.redisMemory)/1024/float64(n), "KiB")
	}
	c.busy(name, m)
	return nil
}

// counted is how clients listen that nobody asks what they have heard.
func (c *crowd) counted(_ int, client *conn) func(heard, time.Time) {
	return func(h heard, _ time.Time) {
		if h.kind == kindJoined || h.kind == kindLeft {
			client.loop.events++
		}
	}
}

// quiet waits until nothing has come for half a second.
func (c *crowd) quiet(ctx context.Context) error {
	for last := int64(-1); ; {
		n := c.count().events
		if n == last {
			return nil
		}
		last = n
		if err := c.wait(ctx, 500*time.Millisecond, func() {}); err != nil {
			return err
		}
	}
}

// during has something sent at a rate for as long as something else takes, waits until all
// has come, and says what was used and counted until then. The times recorded are of what
// was sent.
func (c *crowd) during(ctx context.Context, rate float64, send func(n int, due time.Time) error, while func(context.Context) error,
	all func() bool) (m measured, err error) {
	before, err := c.procs.sample()
	if err != nil {
		return m, err
	}
	from := c.count()
	c.takeTimes()
	over, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := pace(over, time.Now(), rate, 24*time.Hour, send)
		if over.Err() != nil && ctx.Err() == nil {
			return nil
		}
		return err
	})
	g.Go(func() error {
		defer stop()
		return while(gctx)
	})
	if err := g.Wait(); err != nil {
		return m, err
	}
	if err := c.settled(ctx, all); err != nil {
		return m, err
	}
	after, err := c.procs.sample()
	if err != nil {
		return m, err
	}
	to := c.count()
	return measured{
		took:    after.at.Sub(before.at),
		servers: after.servers - before.servers, redis: after.redis - before.redis, own: after.own - before.own,
		tally: tally{events: to.events - from.events, messages: to.messages - from.messages, results: to.results - from.results},
	}, nil
}
