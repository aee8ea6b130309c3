// Package lua holds every change that can be made to a room: one script an
// operation, each with a header that is its specification. Functions that
// several share are in lib/; a header's "Uses" line names those a script
// needs, and only those are put before it, since Redis runs a prelude anew at
// each call.
package lua

import (
	"embed"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// A Script is one .lua file, addressed in Redis by the hash of its text, so
// gateways of two versions can run side by side during a deploy.
type Script struct {
	Name string // file name without ".lua", as used in errors and metrics
	*redis.Script
}

//go:embed *.lua lib/*.lua
var files embed.FS

// The scripts.
var (
	Absent      = load("absent")
	AuditIndex  = load("auditindex")
	AuditRoom   = load("auditroom")
	AuditUser   = load("audituser")
	Catchup     = load("catchup")
	Count       = load("count")
	Destroy     = load("destroy")
	Enter       = load("enter")
	Generations = load("generations")
	Greet       = load("greet")
	Kick        = load("kick")
	Lease       = load("lease")
	Leave       = load("leave")
	LeaveAll    = load("leaveall")
	Login       = load("login")
	MemberInfo  = load("memberinfo")
	Members     = load("members")
	Park        = load("park")
	Positions   = load("positions")
	Probe       = load("probe")
	Relay       = load("relay")
	Release     = load("release")
	Resume      = load("resume")
	Send        = load("send")
	Sweep       = load("sweep")
	Switch      = load("switch")
)

// All is every script there is.
var All = []Script{
	Absent, AuditIndex, AuditRoom, AuditUser, Catchup, Count, Destroy, Enter, Generations, Greet, Kick, Lease, Leave, LeaveAll, Login, MemberInfo,
	Members, Park, Positions, Probe, Relay, Release, Resume, Send, Sweep, Switch,
}

// load reads a script and what it uses. It panics if either is missing, which
// can only be a mistake in this package.
func load(name string) Script {
	body := read(name + ".lua")
	var text strings.Builder
	for line := range strings.Lines(body) {
		uses, ok := strings.CutPrefix(strings.TrimSpace(line), "-- Uses ")
		if !ok {
			continue
		}
		for _, lib := range strings.Fields(uses) {
			text.WriteString(code(read("lib/" + lib + ".lua")))
		}
	}
	text.WriteString(code(body))
	return Script{Name: name, Script: redis.NewScript(text.String())}
}

func read(name string) string {
	b, err := files.ReadFile(name)
	if err != nil {
		panic(fmt.Sprintf("lua: %v", err))
	}
	return string(b)
}

// code drops whole-line comments: they are for readers, and Redis keeps each
// script's text.
func code(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if t := strings.TrimSpace(line); t != "" && !strings.HasPrefix(t, "--") {
			b.WriteString(line)
		}
	}
	return b.String()
}
