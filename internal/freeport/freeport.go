// Package freeport finds a port of the loopback address for a server that a test
// starts, and may stop and start again on the same port.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports below those that systems give to whoever asks for any, which here is
// every client and most servers: one of them would soon be somebody else's while
// its server is down.
const (
	first = 20000
	last  = 32000
)

// New returns a port that nobody listens on. Another process may be given it,
// too, but only if it asks here at the same moment.
func New() (int, error) {
	var errs []error
	for range 20 {
		port := first + rand.IntN(last-first)
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, ln.Close()
		}
		errs = append(errs, err)
	}
	return 0, errors.Join(errs...)
}
