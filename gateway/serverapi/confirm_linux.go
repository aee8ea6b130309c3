package serverapi

import (
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of tcp(7), which package syscall does not have.
const tcpUserTimeout = 18

// confirm has the system end a connection whose other side does not confirm within this
// time that something has come. By itself it goes on for a quarter of an hour.
func confirm(c syscall.Conn, within time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return // it has ended
	}
	_ = raw.Control(func(fd uintptr) { // of a socket that is not of TCP there is nothing to set
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(within.Milliseconds()))
	})
}
