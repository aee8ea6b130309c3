package main

import (
	"os/exec"
	"syscall"
)

// endsWithUs has a process end when this one does, in whatever way.
func endsWithUs(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
