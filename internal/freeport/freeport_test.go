package freeport_test

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/roomgate/roomgate/internal/freeport"
)

// A port can be listened on, and is not one that the system gives to whoever asks
// for any.
func TestNew(t *testing.T) {
	t.Parallel()
	given := 49152 // where the system does not say
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if given, err = strconv.Atoi(strings.Fields(string(text))[0]); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		port, err := freeport.New()
		if err != nil {
			t.Fatal(err)
		}
		if port >= given {
			t.Fatalf("got %d, which is among those that the system gives, from %d on", port, given)
		}
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
	}
}
