package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A stall shows in everything that it held up, not only in what was under way
// when it began: nothing is skipped, and due times do not move.
func TestPace_stall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const stall = 2 * time.Second
		start := time.Now()
		late := tally{times: newTimes()}
		count := 0
		err := pace(t.Context(), start, 100, 10*time.Second, func(n int, due time.Time) error {
			if want := start.Add(time.Duration(n) * 10 * time.Millisecond); n != count || !due.Equal(want) {
				t.Fatalf("got number %d due at %v, want %d at %v", n, due.Sub(start), count, want.Sub(start))
			}
			count++
			if n == 300 {
				time.Sleep(stall)
			}
			late.record(time.Since(due))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if count != 1000 {
			t.Errorf("%d fell due in 10 s at 100 a second, want 1000", count)
		}
		// 200 of 1000 fell due while nothing moved, evenly from 2 s to none late.
		for p, want := range map[float64]time.Duration{75: 0, 90: stall / 2, 99: stall * 19 / 20, 100: stall} {
			got := time.Duration(late.times.ValueAtPercentile(p)) * time.Microsecond
			if got < want-20*time.Millisecond || got > want+20*time.Millisecond {
				t.Errorf("p%v: got %v, want about %v", p, got, want)
			}
		}
	})
}

// It ends early with what do returned, or why the context ended.
func TestPace_ends(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		enough := errors.New("enough")
		err := pace(t.Context(), time.Now(), 10, time.Hour, func(n int, _ time.Time) error {
			if n == 3 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Errorf("got %v, want %v", err, enough)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(enough) })
		err = pace(ctx, time.Now(), 0.01, time.Hour, func(int, time.Time) error { return nil })
		if !errors.Is(err, enough) {
			t.Errorf("got %v, want %v", err, enough)
		}
	})
}
