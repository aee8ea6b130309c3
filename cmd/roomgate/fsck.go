package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"github.com/roomgate/roomgate/roomstore"
)

// auditPasses is how often a repair goes over everything: what one repair
// uncovers the next one mends.
const auditPasses = 5

// audit is "roomgate fsck": it prints what in Redis does not agree, and fails if
// something is left.
func audit(ctx context.Context, cfg *Config, stdout io.Writer, log *slog.Logger) error {
	rdb, err := openRedis(ctx, cfg, nil, log)
	if err != nil {
		return err
	}
	defer rdb.Close()
	batches, rooms := roomstore.BatcherConfig{Timeout: cfg.RedisTimeout}, roomsConfig(cfg)
	if rdb.cluster != nil {
		batches.Slots = roomstore.ClusterSlots(cfg.RedisPrefix, cfg.Partitions)
		rooms.Apart, rooms.Sharded = true, true
	}
	calls := roomstore.NewBatcher(rdb.calls, batches)
	store := roomstore.New(calls, rooms)
	running, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { rdb.Run(running) })
	work.Go(func() { calls.Run(running) })
	defer func() { stop(); work.Wait() }()
	if err := store.Greet(ctx); err != nil {
		return fmt.Errorf("redis: %w", err)
	}

	found, repaired, left := 0, 0, 0
	for pass := 0; pass < auditPasses; pass++ {
		mended := 0
		left = 0
		err := store.Audit(ctx, cfg.Repair, func(f roomstore.Finding) {
			end := ""
			if f.Repaired {
				mended++
				end = " (repaired)"
			} else {
				left++
			}
			fmt.Fprintf(stdout, "%-12s %s %s%s\n", f.Code, printing(f.Subject), printing(f.Detail), end)
		})
		if err != nil {
			return err
		}
		repaired += mended
		if pass == 0 {
			found = mended + left
		}
		if mended == 0 {
			break
		}
	}
	fmt.Fprintf(stdout, "found %d, repaired %d, left %d\n", found, repaired, left)
	switch {
	case left == 0:
		return nil
	case cfg.Repair:
		return errors.New("something is left that cannot be repaired here, see docs/operations.md")
	default:
		return errors.New("something does not agree; roomgate fsck --fix repairs what can be repaired")
	}
}

// printing is text without what a terminal would obey.
func printing(text string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text)
}
