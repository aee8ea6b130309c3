//go:build !linux || race

package nonblock

import "syscall"

// Read reads into b from a descriptor that does not block: read(2).
func Read(fd uintptr, b []byte) (int, error) {
	for {
		if n, err := syscall.Read(int(fd), b); err != syscall.EINTR {
			return n, err
		}
	}
}

// Write writes b to a descriptor that does not block: write(2).
func Write(fd uintptr, b []byte) (int, error) {
	for {
		if n, err := syscall.Write(int(fd), b); err != syscall.EINTR {
			return n, err
		}
	}
}
