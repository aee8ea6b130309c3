package main

import (
	"context"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

// The Go runtime collects garbage whenever the heap has doubled. A gateway's is
// small, so under load that is many times a second, each time through the stacks
// of all connections. Here a small one may grow by up to headroom while there is
// load; when that is over, what is not in use goes back to the system.
const (
	headroom = 64 << 20 // bytes
	loadTick = 100 * time.Millisecond
	loadFrom = 1 << 20 // bytes allocated within a tick
	restFrom = 10      // ticks with less
)

// garbage decides how much may gather before it is collected.
type garbage struct {
	percent   int // as for [debug.SetGCPercent]
	allocated uint64
	quiet     int // ticks since the last one with load
}

// defaultPercent is the runtime's own.
const defaultPercent = 100

// tick is told what has been allocated since the start, and what the collector
// found to go through the last time. It says whether the load is over.
func (g *garbage) tick(allocated, live uint64) (over bool) {
	loaded := allocated-g.allocated >= loadFrom
	g.allocated = allocated
	g.quiet++
	if loaded {
		g.quiet = 0
	}
	switch {
	case g.quiet < restFrom:
		g.percent = defaultPercent
		for live = max(live, 1<<20); live*uint64(2*g.percent)/100 <= headroom; {
			g.percent *= 2
		}
	case g.quiet == restFrom:
		g.percent = defaultPercent
		return true
	}
	return false
}

// tendGarbage sets the pace of the collector until ctx is done. It is not for a
// process whose operator has set one (GOGC); a limit to its memory (GOMEMLIMIT)
// goes before what it does.
func tendGarbage(ctx context.Context) {
	g := garbage{percent: defaultPercent, quiet: restFrom}
	defer debug.SetGCPercent(defaultPercent)
	samples := []runtimemetrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}}
	ticker := time.NewTicker(loadTick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		runtimemetrics.Read(samples)
		before := g.percent
		over := g.tick(samples[0].Value.Uint64(), samples[1].Value.Uint64()+samples[2].Value.Uint64())
		if g.percent != before {
			debug.SetGCPercent(g.percent)
		}
		if over {
			debug.FreeOSMemory()
		}
	}
}
