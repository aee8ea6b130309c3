// Package nonblock reads from and writes to file descriptors that do not block, and
// spares the scheduler what it does for system calls that might.
package nonblock
