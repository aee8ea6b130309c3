package main

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
)

// Whoever starts a gateway for development is told where to look, and how to add
// a second one to it where Redis is in this process.
func TestGreet(t *testing.T) {
	t.Parallel()
	addr := &net.TCPAddr{IP: net.IPv4zero, Port: 8080}
	embedded := miniredis.RunT(t)
	second := "--listen=:8081 --internal-listen=127.0.0.1:9091 --redis-url=redis://" + embedded.Addr()
	for _, tt := range []struct {
		name     string
		embedded *miniredis.Miniredis
	}{{"embedded", embedded}, {"real", nil}} {
		var out bytes.Buffer
		greet(&out, addr, tt.embedded)
		for _, want := range []string{"http://localhost:8080/console/play\n", "http://localhost:8080/console/\n", "ws://localhost:8080/v1/ws"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %q is not in\n%s", tt.name, want, out.String())
			}
		}
		if got := strings.Contains(out.String(), second); got != (tt.embedded != nil) {
			t.Errorf("%s: the second gateway is there: got %v in\n%s", tt.name, got, out.String())
		}
	}
}
