//go:build !race

package nonblock

import (
	"syscall"
	"unsafe"
)

// Go's own calls let go of the processor that a goroutine has, since what they ask of
// the kernel may take long: whoever takes that processor meanwhile wakes a thread for it,
// and who comes back looks for another. A write to a socket on a busy machine takes long
// enough for that, and is work all the time: it does not wait for the other side.
//
// They also tell the race detector that what was written before is read after. It knows
// nothing of these, which is why it is given the others.

// Read reads into b from a descriptor that does not block: read(2).
func Read(fd uintptr, b []byte) (int, error) { return call(syscall.SYS_READ, fd, b) }

// Write writes b to a descriptor that does not block: write(2).
func Write(fd uintptr, b []byte) (int, error) { return call(syscall.SYS_WRITE, fd, b) }

func call(trap, fd uintptr, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return -1, errno
		}
	}
}
