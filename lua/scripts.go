// Package lua holds every change that can be made to a room: one script an
// operation, each with a header that is its specification. Functions that
// several share are in lib/; a header's "Uses" line names the files that a
// script takes some from, and only those it needs are put before it, since
// Redis runs a prelude anew at each call. What only a block needs that begins
// with a line ending in "-- seldom" is put into that block; and what all the busy
// ones do in the same way stands in them as it is, where a line "-- Here" says so.
package lua

import (
	"embed"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// A Script is one .lua file, addressed in Redis by the hash of its text, so
// gateways of two versions can run side by side during a deploy.
type Script struct {
	Name    string // file name without ".lua", as used in errors and metrics
	Guarded bool   // it takes the term as its last key and argument, see lib/guard.lua
	*redis.Script
}

//go:embed *.lua lib/*.lua
var files embed.FS

// The scripts.
var (
	Absent            = load("absent")
	AuditIndex        = load("auditindex")
	AuditRoom         = load("auditroom")
	AuditUser         = load("audituser")
	Attributes        = load("attributes")
	ChangeAttributes  = load("changeattributes")
	MemberAttributes  = load("memberattributes")
	MembersAttributes = load("membersattributes")
	Catchup           = load("catchup")
	Count             = load("count")
	Destroy           = load("destroy")
	Enter             = load("enter")
	Generations       = load("generations")
	Greet             = bare("greet")
	Heal              = bare("heal")
	Held              = load("held")
	History           = load("history")
	Kick              = load("kick")
	Lease             = load("lease")
	Leave             = load("leave")
	LeaveAll          = load("leaveall")
	Lives             = load("lives")
	Login             = load("login")
	MemberInfo        = load("memberinfo")
	Members           = load("members")
	Park              = load("park")
	Positions         = load("positions")
	Probe             = bare("probe")
	Reclaim           = bare("reclaim")
	Refused           = bare("refused")
	Relay             = load("relay")
	Release           = load("release")
	Resume            = load("resume")
	Send              = load("send")
	Sweep             = load("sweep")
	Switch            = load("switch")
	Undo              = load("undo")
)

// All is every script there is.
var All = []Script{
	Absent, Attributes, AuditIndex, AuditRoom, AuditUser, Catchup, ChangeAttributes, Count, Destroy, Enter, Generations, Greet, Heal, Held, History, Kick, Lease, Leave,
	LeaveAll, Lives, Login, MemberAttributes, MemberInfo, Members, MembersAttributes, Park, Positions, Probe, Reclaim, Refused, Relay, Release, Resume, Send, Sweep, Switch, Undo,
}

// Commands gives every command that a script calls, in order.
func Commands() []string {
	var all []string
	for _, s := range All {
		for _, m := range called.FindAllStringSubmatch(assemble(s.Name)+read("lib/guard.lua"), -1) {
			all = append(all, m[1])
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// called finds the name of a command in a call, or in a choice of two.
var called = regexp.MustCompile(`(?:call\(|\b(?:and|or) )"([A-Z]+)"`)

// load reads a script and what it uses, and puts the guard before it. It panics
// if anything is missing, which can only be a mistake in this package.
func load(name string) Script {
	return Script{Name: name, Guarded: true, Script: redis.NewScript(code(read("lib/guard.lua")) + assemble(name))}
}

// bare is load for a script that acts under any term.
func bare(name string) Script {
	return Script{Name: name, Script: redis.NewScript(assemble(name))}
}

// assemble gives the code of a script with the definitions that it needs of what it
// uses, each where Redis makes it anew only if it comes to that.
func assemble(name string) string {
	body := read(name + ".lua")
	var definitions []string
	for line := range strings.Lines(body) {
		uses, ok := strings.CutPrefix(strings.TrimSpace(line), "-- Uses ")
		if !ok {
			continue
		}
		for _, lib := range strings.Fields(uses) {
			definitions = append(definitions, split(code(read("lib/"+lib+".lua")))...)
		}
	}
	return place(code(here.ReplaceAllStringFunc(body, func(line string) string {
		return read("lib/" + here.FindStringSubmatch(line)[1] + ".lua")
	})), definitions)
}

// here finds the lines in whose place a file of lib/ stands as it is.
var here = regexp.MustCompile(`(?m)^-- Here (\w+)\n`)

// place puts definitions before code, those that it needs. One that only seldom
// blocks need is put into those.
func place(code string, definitions []string) string {
	var rest []string
	outer := outside(code)
	for _, d := range slices.Backward(definitions) {
		if mentions(outer, defined.FindStringSubmatch(d)[1]) {
			code, outer = d+code, outside(d)+outer
		} else {
			rest = append(rest, d)
		}
	}
	slices.Reverse(rest)
	var b strings.Builder
	blocks(code, func(line string) { b.WriteString(line) }, func(block string) { b.WriteString(place(block, rest)) })
	return b.String()
}

// outside gives code without its seldom blocks, and without what its strings say.
func outside(code string) string {
	var b strings.Builder
	blocks(code, func(line string) { b.WriteString(quoted.ReplaceAllString(line, `""`)) }, func(string) {})
	return b.String()
}

// quoted matches a string of Lua as the scripts write them, without escaped quotes.
var quoted = regexp.MustCompile(`"[^"]*"`)

// blocks goes through code: its lines, and what is in a block that begins with a
// line that ends in "-- seldom". Such a block is what is indented deeper than
// that line.
func blocks(code string, line, block func(string)) {
	indent := func(s string) int { return len(s) - len(strings.TrimLeft(s, " ")) }
	in, deeper := "", -1
	for s := range strings.Lines(code) {
		if deeper >= 0 && indent(s) > deeper {
			in += s
			continue
		}
		if deeper >= 0 {
			block(in)
			in, deeper = "", -1
		}
		line(s)
		if strings.HasSuffix(s, "-- seldom\n") {
			deeper = indent(s)
		}
	}
}

// mentions says whether code has a name in it, as a word of its own.
func mentions(code, name string) bool {
	part := func(c byte) bool {
		return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	for at := 0; ; at++ {
		i := strings.Index(code[at:], name)
		if i < 0 {
			return false
		}
		at += i
		end := at + len(name)
		if (at == 0 || !part(code[at-1])) && (end == len(code) || !part(code[end])) {
			return true
		}
	}
}

// defined finds what a definition defines. A library has nothing else at its
// outermost level, each beginning on a line of its own.
var defined = regexp.MustCompile(`^local (?:function )?(\w+)`)

// split cuts a library into its definitions.
func split(text string) (definitions []string) {
	for line := range strings.Lines(text) {
		if defined.MatchString(line) {
			definitions = append(definitions, "")
		}
		definitions[len(definitions)-1] += line
	}
	return definitions
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
