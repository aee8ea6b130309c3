package nonblock

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"
)

// What is written is read, what does not fit is left, and nobody waits.
func TestReadWrite(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	from, to := r.Fd(), w.Fd()
	for _, fd := range []uintptr{from, to} {
		if err := syscall.SetNonblock(int(fd), true); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 1<<20)
	if n, err := Read(from, got); n > 0 || !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("an empty pipe gives %d bytes, %v", n, err)
	}
	sent := bytes.Repeat([]byte("roomgate"), 1<<17)
	n, err := Write(to, sent)
	if n <= 0 || n == len(sent) || err != nil {
		t.Fatalf("wrote %d of %d bytes, %v", n, len(sent), err)
	}
	if n, err := Write(to, sent[n:]); n > 0 || !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a full pipe takes %d bytes, %v", n, err)
	}
	read := 0
	for read < n {
		some, err := Read(from, got[read:])
		if err != nil {
			t.Fatal(err)
		}
		read += some
	}
	if read != n || !bytes.Equal(got[:n], sent[:n]) {
		t.Errorf("read %d other bytes, wrote %d", read, n)
	}
	if n, err := Write(to, nil); n != 0 || err != nil {
		t.Errorf("nothing is written as %d bytes, %v", n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := Read(from, got); n != 0 || err != nil {
		t.Errorf("a closed pipe gives %d bytes, %v", n, err)
	}
	if n, err := Read(^uintptr(0), got); n > 0 || !errors.Is(err, syscall.EBADF) {
		t.Errorf("a descriptor that is none gives %d bytes, %v", n, err)
	}
}
