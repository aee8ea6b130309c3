package main

import "testing"

// Under load the collector lets garbage gather up to the headroom, and a heap
// that is larger double as ever; memory goes back once when the load is over, and
// not in its pauses.
func TestGarbage(t *testing.T) {
	const mb = 1 << 20
	g := garbage{percent: defaultPercent, quiet: restFrom}
	var allocated uint64
	for i, step := range []struct {
		ticks           int
		allocates, live uint64
		percent         int
		over            bool // at the last of the ticks
	}{
		{20, mb / 2, 4 * mb, 100, false}, // at rest
		{1, 2 * mb, 4 * mb, 1600, false},
		{1, 2 * mb, 20 * mb, 200, false},
		{1, 2 * mb, 0, 6400, false}, // nothing has been collected yet
		{1, 2 * mb, 33 * mb, 100, false},
		{1, 2 * mb, 4000 * mb, 100, false},
		{9, 0, 4 * mb, 1600, false}, // a pause
		{1, 2 * mb, 4 * mb, 1600, false},
		{9, 0, 4 * mb, 1600, false},
		{1, 0, 4 * mb, 100, true},
		{100, mb / 2, 4 * mb, 100, false},
		{1, 2 * mb, 4 * mb, 1600, false}, // and again
	} {
		over := false
		for range step.ticks {
			if over {
				t.Errorf("step %d: over too early", i)
			}
			allocated += step.allocates
			over = g.tick(allocated, step.live)
		}
		if g.percent != step.percent || over != step.over {
			t.Errorf("step %d: %d %%, over %v; want %d %%, %v", i, g.percent, over, step.percent, step.over)
		}
	}
}
