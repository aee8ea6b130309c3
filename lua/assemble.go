package lua

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// assemble gives the code of a script with the definitions that it needs of what it
// uses, each where Redis makes it anew only if it comes to that. Where slots lie
// apart, lib/apart.lua stands for lib/place.lua.
func assemble(name string, apart bool) string {
	body := read(name + ".lua")
	var definitions []*definition
	for line := range strings.Lines(body) {
		uses, ok := strings.CutPrefix(strings.TrimSpace(line), "-- Uses ")
		if !ok {
			continue
		}
		for _, lib := range strings.Fields(uses) {
			if other := instead[lib]; apart && other != "" {
				lib = other
			}
			for _, lib := range strings.Fields(lib) {
				definitions = append(definitions, library(lib)...)
			}
		}
	}
	if strings.Contains(body, "-- Here ") {
		body = here.ReplaceAllStringFunc(body, func(line string) string {
			m := here.FindStringSubmatch(line)
			return indented.ReplaceAllString(read("lib/"+m[2]+".lua"), m[1]+"$0")
		})
	}
	return place(code(body), definitions)
}

// instead gives the files of lib/ that stand for others where slots lie apart.
var instead = map[string]string{"place": "apart", "limits": "admission", "auditplace": "apart auditapart"}

// here finds the lines in whose place a file of lib/ stands as it is, and how far
// they are indented.
var here = regexp.MustCompile(`(?m)^( *)-- Here (\w+)\n`)

// indented finds where a line begins that has something on it.
var indented = regexp.MustCompile(`(?m)^.`)

// A definition is a function or value of a file of lib/.
type definition struct {
	name, text string
	words      []string // that it needs wherever it stands: see words
}

// libraries are the definitions of each file of lib/ by its name. They are kept, since
// most scripts take from the same few, and every gateway that starts waits for them all.
var libraries sync.Map

func library(name string) []*definition {
	if known, ok := libraries.Load(name); ok {
		return known.([]*definition)
	}
	definitions := split(code(read("lib/" + name + ".lua")))
	libraries.Store(name, definitions)
	return definitions
}

// split cuts a library into its definitions. It has nothing else at its outermost level,
// each beginning on a line of its own.
func split(text string) (definitions []*definition) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "local "); ok {
			name := words(strings.TrimPrefix(rest, "function "))[0]
			definitions = append(definitions, &definition{name: name})
		}
		definitions[len(definitions)-1].text += line
	}
	for _, d := range definitions {
		d.words = words(outside(d.text))
		slices.Sort(d.words)
		d.words = slices.Compact(d.words)
	}
	return definitions
}

// place puts definitions before code, those that it needs. One that only seldom
// blocks need is put into those.
func place(code string, definitions []*definition) string {
	var first, rest []*definition
	needed := map[string]bool{}
	need := func(words []string) {
		for _, w := range words {
			needed[w] = true
		}
	}
	need(words(outside(code)))
	for _, d := range slices.Backward(definitions) {
		if needed[d.name] {
			first = append(first, d)
			need(d.words)
		} else {
			rest = append(rest, d)
		}
	}
	slices.Reverse(first)
	slices.Reverse(rest)
	var all, b strings.Builder
	for _, d := range first {
		all.WriteString(d.text)
	}
	all.WriteString(code)
	blocks(all.String(), func(line string) { b.WriteString(line) }, func(block string) { b.WriteString(place(block, rest)) })
	return b.String()
}

// outside gives code without its seldom blocks.
func outside(code string) string {
	var b strings.Builder
	blocks(code, func(line string) { b.WriteString(line) }, func(string) {})
	return b.String()
}

// blocks goes through code: its lines, and what is in a block that begins with a
// line that ends in "-- seldom". Such a block is what is indented deeper than
// that line.
func blocks(code string, line, block func(string)) {
	indent := func(s string) int { return len(s) - len(strings.TrimLeft(s, " ")) }
	start, at, deeper := 0, 0, -1 // of the block, of the line
	for s := range strings.Lines(code) {
		at += len(s)
		if deeper >= 0 && indent(s) > deeper {
			continue
		}
		if deeper >= 0 {
			block(code[start : at-len(s)])
			deeper = -1
		}
		line(s)
		if strings.HasSuffix(s, "-- seldom\n") {
			start, deeper = at, indent(s)
		}
	}
	if deeper >= 0 {
		block(code[start:])
	}
}

// words gives the words of code, names among them, but for what its strings say: they
// have no escaped quotes and end on their line.
func words(code string) (all []string) {
	part := func(c byte) bool {
		return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	for line := range strings.Lines(code) {
		for i := 0; i < len(line); i++ {
			if line[i] == '"' {
				if n := strings.IndexByte(line[i+1:], '"'); n >= 0 {
					i += n + 1
				}
				continue
			}
			start := i
			for i < len(line) && part(line[i]) {
				i++
			}
			if i > start {
				all = append(all, line[start:i])
				i--
			}
		}
	}
	return all
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
