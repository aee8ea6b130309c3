package roomstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// How long a lane waits before it sends again what a node of a Cluster refused.
const (
	refusedWait    = 5 * time.Millisecond
	maxRefusedWait = 100 * time.Millisecond
)

// ClusterSlots gives what the keys of each hash slot begin with that a deployment
// uses: the prefix of its keys and its number of partitions are as in [Config].
func ClusterSlots(prefix string, partitions int) []string {
	defaults(&prefix, "rg")
	defaults(&partitions, 1)
	return keys{prefix: prefix, partitions: partitions, apart: true}.slots()
}

// find has the lane send to the master of its slot, as far as is known.
func (l *lane) find(ctx context.Context) error {
	args := l.batch[0].cmd.Args() // evalsha, hash, number of keys, key, …
	key, _ := args[3].(string)
	master, err := l.b.cluster.MasterForKey(ctx, key)
	if err != nil {
		return err
	}
	if l.rdb != redis.UniversalClient(master) {
		known, _ := l.b.masters.LoadOrStore(master, &server{})
		l.rdb, l.server = master, known.(*server)
	}
	return nil
}

// insist sends again, in order, what was refused by a node that did not have the
// slot, until it is taken or the pipeline may take no longer.
func (l *lane) insist(ctx context.Context) {
	for wait := refusedWait; ; wait = min(2*wait, maxRefusedWait) {
		var refused []redis.Cmder
		lost := false
		for _, c := range l.batch {
			err := c.cmd.Err()
			if err != nil && elsewhere(err) {
				refused = append(refused, c.cmd)
			}
			lost = lost || err != nil && !answered(err)
		}
		if len(refused) == 0 {
			if lost { // another master may have the slot by now
				l.b.cluster.ReloadState(ctx)
			}
			return
		}
		select {
		case <-ctx.Done():
			for _, cmd := range refused {
				cmd.SetErr(fmt.Errorf("%w: %v", ErrNotSent, cmd.Err()))
			}
			return
		case <-time.After(wait):
		}
		// This asks which node has what now, and waits for the answer.
		l.b.cluster.ForEachMaster(ctx, func(context.Context, *redis.Client) error { return nil })
		for _, cmd := range refused {
			cmd.SetErr(nil)
		}
		l.attempt(ctx, func(cmd redis.Cmder) bool { return slices.Contains(refused, cmd) })
	}
}
