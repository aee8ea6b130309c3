package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

// Machines get one JSON object a line; people get text; colour is for
// terminals only; and a duration has its unit in either.
func TestNewLogger(t *testing.T) {
	t.Parallel()
	logTo := func(format string) string {
		var b bytes.Buffer
		log := newLogger(&b, format, slog.LevelInfo)
		log.Debug("not shown")
		log.Info("listening", "addr", ":8080", "took", 1500*time.Millisecond, "err", errors.New("none"))
		return b.String()
	}
	for _, format := range []string{"json", "auto"} { // a buffer is no terminal
		var line struct{ Level, Msg, Addr, Took, Err string }
		if text := logTo(format); json.Unmarshal([]byte(text), &line) != nil {
			t.Errorf("%s: got %q, want one JSON object", format, text)
		} else if line.Level != "INFO" || line.Msg != "listening" || line.Addr != ":8080" || line.Took != "1.5s" || line.Err != "none" {
			t.Errorf("%s: got %q", format, text)
		}
	}
	text := logTo("text")
	if !strings.Contains(text, "listening addr=:8080 took=1.5s err=none") || strings.Contains(text, "\x1b") || strings.Count(text, "\n") != 1 {
		t.Errorf("text: got %q, want one line without colour", text)
	}
}

// A file is no terminal, and neither is the null device.
func TestIsTerminal(t *testing.T) {
	t.Parallel()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if isTerminal(f) || isTerminal(&bytes.Buffer{}) {
		t.Error("got a terminal, want none")
	}
}
