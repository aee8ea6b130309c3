package main

import (
	"context"
	"time"
)

// pace calls do for everything that falls due in length, rate times a second,
// with when it was due. It never skips or shifts anything: what comes late,
// because do or the machine stood still, keeps the time at which it was due. So
// whoever measures from there sees the stall in each of those it held up, and
// not in one of them alone, as a loop that waits before it goes on would.
func pace(ctx context.Context, start time.Time, rate float64, length time.Duration, do func(n int, due time.Time) error) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		after := time.Duration(float64(n) * float64(time.Second) / rate)
		if after >= length {
			return nil
		}
		due := start.Add(after)
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := do(n, due); err != nil {
			return err
		}
	}
}
