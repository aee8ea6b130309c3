//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"sync"
	"testing"

	"github.com/roomgate/roomgate/internal/redistest"
)

// monitor has masters of a Cluster tell every command, and takes what is published from
// then on, with the time in seconds: nobody can subscribe to all sharded channels. What
// one master publishes comes in its order.
func monitor(t testing.TB, masters []*redistest.Server, take func(at float64, channel, payload string)) {
	t.Helper()
	var reading sync.WaitGroup
	t.Cleanup(reading.Wait)
	for _, m := range masters {
		conn, err := net.Dial("tcp", m.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		in := bufio.NewReaderSize(conn, 1<<20)
		fmt.Fprint(conn, "MONITOR\r\n")
		if line, err := in.ReadString('\n'); err != nil || line != "+OK\r\n" {
			t.Fatalf("%q: %v", line, err)
		}
		reading.Go(func() {
			for {
				// It tells all that scripts do, most of which is passed over quickly: who is
				// behind with it is behind with the history.
				line, err := in.ReadSlice('\n')
				if err != nil && err != bufio.ErrBufferFull {
					return
				}
				if !bytes.Contains(line, []byte(`PUBLISH" "`)) && !bytes.Contains(line, []byte(`publish" "`)) {
					continue
				}
				// +seconds.micros [database source] "COMMAND" "channel" "payload"
				m := monitored.FindSubmatch(line)
				if m == nil {
					continue
				}
				at, _ := strconv.ParseFloat(string(m[1]), 64)
				channel, _ := strconv.Unquote(string(m[2]))
				payload, _ := strconv.Unquote(string(m[3]))
				take(at, channel, payload)
			}
		})
	}
}

var monitored = regexp.MustCompile(`^\+(\d+\.\d+) \[[^]]*\] "(?i:S?PUBLISH)" ("(?:[^"\\]|\\.)*") ("(?:[^"\\]|\\.)*")`)
