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
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// A Script is one .lua file, addressed in Redis by the hash of its text, so
// gateways of two versions can run side by side during a deploy.
type Script struct {
	Name    string // file name without ".lua", as used in errors and metrics
	Guarded bool   // it takes the term as its last key and argument, see lib/guard.lua
	*redis.Script

	// Together is how many arguments stand before the list of what is each call's own,
	// if several calls may go as one; else 0. See [roomstore.Batcher.Join].
	Together int

	// Apart is the script for hash slots that lie apart, on Redis Cluster; nil if
	// it is never called there. What it lists, see lib/apart.lua, is put behind its
	// reply if Lists is set: seven values each, and last how many those are.
	Apart *redis.Script
	Lists bool
	Step  bool // it is called nowhere else

	// Sharded is Apart with sharded channels, which is what Redis Cluster keeps to the
	// master of a slot. nil if Apart is.
	Sharded *redis.Script
}

//go:embed *.lua lib/*.lua
var files embed.FS

// The scripts.
var (
	Absent            = load("absent")
	Admissions        = step("admissions")
	Admit             = step("admit")
	Admitted          = step("admitted")
	Attached          = load("attached")
	Attributes        = load("attributes")
	AuditIndex        = load("auditindex")
	AuditRoom         = load("auditroom")
	AuditUser         = load("audituser")
	Bar               = step("bar")
	Bury              = step("bury")
	Catchup           = load("catchup")
	ChangeAttributes  = load("changeattributes")
	Census            = step("census")
	Claim             = step("claim")
	Cluster           = load("cluster")
	Condemn           = step("condemn")
	Count             = load("count")
	Create            = load("create")
	Decide            = step("decide")
	Describe          = load("describe")
	Destroy           = load("destroy")
	Ended             = step("ended")
	Enter             = together(load("enter"), 13)
	Fence             = step("fence")
	Free              = step("free")
	Generations       = load("generations")
	Greet             = bare("greet")
	Heal              = bare("heal")
	Held              = load("held")
	History           = load("history")
	Hold              = stepBare("hold")
	Holds             = step("holds")
	Kick              = load("kick")
	Lease             = load("lease")
	Leave             = together(load("leave"), 6)
	LeaveAll          = alone("leaveall")
	ListMembers       = load("listmembers")
	ListRooms         = load("listrooms")
	Lives             = load("lives")
	Login             = together(load("login"), 9)
	MemberAttributes  = load("memberattributes")
	MemberInfo        = load("memberinfo")
	Members           = load("members")
	MembersAttributes = load("membersattributes")
	Ownerless         = load("ownerless")
	Park              = together(load("park"), 1)
	ParkPlace         = step("parkplace")
	Places            = step("places")
	Positions         = load("positions")
	Post              = load("post")
	Probe             = bare("probe")
	Quit              = step("quit")
	Reclaim           = bare("reclaim")
	Refused           = bare("refused")
	Register          = step("register")
	Relay             = together(load("relay"), 1)
	Release           = alone("release")
	Rereserve         = step("rereserve")
	Reserve           = step("reserve")
	Resolve           = step("resolve")
	Resume            = together(alone("resume"), 2)
	Retake            = step("retake")
	Send              = together(load("send"), 5)
	Settle            = step("settle")
	Sweep             = alone("sweep")
	Switch            = load("switch")
	Takeover          = step("takeover")
	Tally             = step("tally")
	TickRooms         = step("tickrooms")
	TickUsers         = step("tickusers")
	Undo              = load("undo")
	Vacate            = step("vacate")
)

// All is every script there is.
var All = []Script{
	Absent, Admissions, Admit, Admitted, Attached, Attributes, AuditIndex, AuditRoom, AuditUser, Bar, Bury, Catchup,
	Census, ChangeAttributes, Claim, Cluster, Condemn, Count, Create, Decide, Describe, Destroy, Ended, Enter,
	Fence, Free, Generations, Greet, Heal, Held, History, Hold, Holds, Kick, Lease, Leave, LeaveAll,
	ListMembers, ListRooms, Lives, Login, MemberAttributes, MemberInfo, Members, MembersAttributes, Ownerless,
	Park, ParkPlace, Places, Positions, Post, Probe, Quit, Reclaim, Refused, Register, Relay, Release,
	Rereserve, Reserve, Resolve, Resume, Retake, Send, Settle, Sweep, Switch, Takeover, Tally, TickRooms,
	TickUsers, Undo, Vacate,
}

// Commands gives every command that a script calls, in order: on one Redis, or on
// Redis Cluster.
func Commands(cluster bool) []string {
	if cluster {
		return slices.Clone(apart())
	}
	return slices.Clone(whole())
}

// Each master is asked about them, and all the scripts' text takes some time to read.
var (
	whole = sync.OnceValue(func() []string { return commands(false) })
	apart = sync.OnceValue(func() []string { return commands(true) })
)

func commands(cluster bool) []string {
	var all []string
	seen := map[string]bool{} // most lines stand in many scripts
	search := func(text string) {
		for line := range strings.Lines(text) {
			if seen[line] || !strings.Contains(line, `"`) {
				continue
			}
			seen[line] = true
			for _, m := range called.FindAllStringSubmatch(line, -1) {
				all = append(all, m[1])
			}
		}
	}
	search(read("lib/guard.lua"))
	for _, s := range All {
		if cluster && s.Sharded == nil || !cluster && s.Step {
			continue
		}
		text := assemble(s.Name, cluster)
		if cluster {
			text = sharded(text)
		}
		search(text)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// called finds the name of a command in a call, or in a choice of two.
var called = regexp.MustCompile(`(?:call\(|\b(?:and|or) )"([A-Z]+)"`)

// load reads a script and what it uses, and puts the guard before it. It panics
// if anything is missing, which can only be a mistake in this package.
func load(name string) Script {
	s := bare(name)
	guard := code(read("lib/guard.lua"))
	s.Guarded, s.Script = true, redis.NewScript(guard+assemble(name, false))
	s.setApart(guard)
	return s
}

// alone is load for a script that reaches over slots, and is not called where they
// lie apart.
func alone(name string) Script {
	s := load(name)
	s.Apart, s.Sharded, s.Lists = nil, nil, false
	return s
}

// together has calls of a script go as one.
func together(s Script, shared int) Script {
	s.Together = shared
	return s
}

// step is load for a script that is one step of an operation, where slots lie apart.
func step(name string) Script {
	return onlyApart(load(name))
}

func stepBare(name string) Script { return onlyApart(bare(name)) }

func onlyApart(s Script) Script {
	s.Script, s.Step = s.Apart, true
	return s
}

// bare is load for a script that acts under any term.
func bare(name string) Script {
	s := Script{Name: name, Script: redis.NewScript(assemble(name, false))}
	s.setApart("")
	return s
}

// setApart sets a script's texts for slots that lie apart. If it lists something,
// what it returns it then returns to the lines that add that.
func (s *Script) setApart(guard string) {
	text := assemble(s.Name, true)
	if s.Lists = slices.Contains(words(text), "LISTED"); s.Lists {
		text = "local LISTED = {}\nlocal function answer()\n" + text + `end
local reply = answer()
for i = 1, #LISTED do
  reply[#reply + 1] = LISTED[i]
end
reply[#reply + 1] = tostring(#LISTED / 7)
return reply
`
	}
	s.Apart, s.Sharded = redis.NewScript(guard+text), redis.NewScript(sharded(guard+text))
}

// sharded has a script publish to sharded channels.
func sharded(text string) string {
	return strings.ReplaceAll(text, `call("PUBLISH"`, `call("SPUBLISH"`)
}
