//go:build !linux

package main

import "os/exec"

// endsWithUs does nothing here: a process that is killed leaves its own behind.
func endsWithUs(*exec.Cmd) {}
