package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// procs are the processes that are watched, by name: "redis" is counted apart,
// and all others are servers.
type procs map[string]int

const redisName = "redis"

// usage is what processes have used so far, and hold now.
type usage struct {
	servers, redis, own time.Duration // of CPU
	serverMemory        int64         // bytes
	redisMemory         int64
	at                  time.Time
}

// clockTick is the unit of /proc/PID/stat: the kernel gives programs hundredths
// of a second on every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// sample reads what the processes have used.
func (p procs) sample() (usage, error) {
	u := usage{own: ownCPU(), at: time.Now()}
	for name, pid := range p {
		cpu, err := cpuOf(pid)
		if err != nil {
			return u, fmt.Errorf("--pid %s=%d: %w", name, pid, err)
		}
		memory, err := memoryOf(pid)
		if err != nil {
			return u, fmt.Errorf("--pid %s=%d: %w", name, pid, err)
		}
		if strings.HasPrefix(name, redisName) {
			u.redis += cpu
			u.redisMemory += memory
		} else {
			u.servers += cpu
			u.serverMemory += memory
		}
	}
	return u, nil
}

// watches says whether there are servers, and Redis, among the processes.
func (p procs) watches() (servers, redis bool) {
	for name := range p {
		if strings.HasPrefix(name, redisName) {
			redis = true
		} else {
			servers = true
		}
	}
	return servers, redis
}

// cpuOf is the CPU time that a process has used, of user and system.
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name is in brackets and may hold anything.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// memoryOf is the memory a process holds: its proportional share (PSS), or what
// is resident (RSS) where the system does not tell us.
func memoryOf(pid int) (int64, error) {
	for _, source := range []struct{ file, name string }{{"smaps_rollup", "Pss:"}, {"status", "VmRSS:"}} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, source.file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == source.name {
				kb, err := strconv.ParseInt(fields[1], 10, 64)
				return kb << 10, err
			}
		}
	}
	return 0, fmt.Errorf("/proc/%d does not tell its memory", pid)
}

// ownCPU is what this program has used itself.
func ownCPU() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// median of values, which it sorts; 0 of none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
