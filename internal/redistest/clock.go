//go:build unix

package redistest

import (
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

//go:embed testdata/clock.c
var clockSource []byte

// StartClock is [Start] for a server whose clock [Server.SetClock] sets. It needs
// Linux and a C compiler; without them it does as without a redis-server.
func StartClock(t testing.TB, args ...string) *Server {
	t.Helper()
	server, err := find()
	if err != nil {
		missing(t, err)
	}
	dir := t.TempDir()
	library := filepath.Join(dir, "clock.so")
	if err := compileClock(library); err != nil {
		missing(t, fmt.Errorf("no Redis whose clock can be set: %w", err))
	}
	clock := filepath.Join(dir, "clock")
	if err := os.WriteFile(clock, make([]byte, 8), 0o600); err != nil {
		t.Fatal(err)
	}
	s := launch(t, []string{"env", "LD_PRELOAD=" + library, "REDISTEST_CLOCK=" + clock, server}, args)
	s.clock = clock
	return s
}

// SetClock sets the server's clock: so far ahead of what it would be, or behind
// if that is negative.
func (s *Server) SetClock(ahead time.Duration) {
	s.t.Helper()
	f, err := os.OpenFile(s.clock, os.O_WRONLY, 0)
	if err == nil {
		// One write of eight bytes, which the server sees whole.
		err = errors.Join(binary.Write(f, binary.NativeEndian, ahead.Milliseconds()), f.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	now, err := s.Client(s.t).Time(ctx).Result()
	if err != nil {
		s.t.Fatal(err)
	}
	if off := (time.Until(now) - ahead).Abs(); off > patience {
		s.t.Fatalf("the server's clock was set to %v ahead and is off by %v: is it linked statically?", ahead, off)
	}
}

// compileClock makes the library that a server is preloaded with.
func compileClock(path string) error {
	if runtime.GOOS != "linux" {
		return errors.New("this is not Linux")
	}
	compiler := ""
	for _, name := range []string{os.Getenv("CC"), "cc", "gcc", "clang"} {
		if _, err := exec.LookPath(name); err == nil {
			compiler = name
			break
		}
	}
	if compiler == "" {
		return errors.New("there is no C compiler")
	}
	source := path + ".c"
	if err := os.WriteFile(source, clockSource, 0o600); err != nil {
		return err
	}
	out, err := exec.Command(compiler, "-shared", "-fPIC", "-O1", "-o", path, source).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", compiler, err, out)
	}
	return nil
}
