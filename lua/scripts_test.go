package lua_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/lua"
)

// source is a .lua file: its header, and its code without comments.
type source struct {
	name   string   // without ".lua"
	parts  []string // files of lib/ that stand in it as they are
	header string
	body   string
}

// here finds where a file of lib/ stands in a script.
var here = regexp.MustCompile(`(?m)^ *-- Here (\w+)\n`)

func read(t *testing.T, pattern string) map[string]source {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	all := map[string]source{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := source{name: strings.TrimSuffix(filepath.Base(file), ".lua")}
		header := true
		text = here.ReplaceAllFunc(text, func(line []byte) []byte {
			s.parts = append(s.parts, string(here.FindSubmatch(line)[1]))
			part, err := os.ReadFile("lib/" + s.parts[len(s.parts)-1] + ".lua")
			if err != nil {
				t.Fatal(err)
			}
			return part
		})
		for line := range strings.Lines(string(text)) {
			comment := strings.HasPrefix(line, "--")
			if header = header && comment; header {
				s.header += line
			} else {
				code, _, _ := strings.Cut(line, " -- ")
				if !strings.HasPrefix(strings.TrimSpace(code), "--") {
					s.body += code + "\n"
				}
			}
		}
		all[s.name] = s
	}
	return all
}

// section gives a header's lines from the one that begins with a word to the
// next empty one.
func (s source) section(word string) string {
	_, text, ok := strings.Cut(s.header, "\n-- "+word+" ")
	if !ok {
		return ""
	}
	text, _, _ = strings.Cut(text, "\n--\n")
	return text
}

func set(words ...string) map[string]bool {
	m := map[string]bool{}
	for _, w := range words {
		m[w] = true
	}
	return m
}

func submatches(re *regexp.Regexp, text string) (all []string) {
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

func sorted(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }

// Every .lua file is registered under its name, once, with a text of its own.
func TestAll(t *testing.T) {
	t.Parallel()
	var names []string
	hashes := map[string]string{}
	for _, s := range lua.All {
		names = append(names, s.Name)
		if other, ok := hashes[s.Hash()]; ok {
			t.Errorf("%s and %s have one text", s.Name, other)
		}
		hashes[s.Hash()] = s.Name
	}
	slices.Sort(names)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(read(t, "*.lua"))), names); diff != "" {
		t.Errorf("files and lua.All (-files +All):\n%s", diff)
	}
}

var (
	documented = regexp.MustCompile(`(?m)^-- (KEYS|ARGV)\[(\d+)\]  +(.+)$`)
	literal    = regexp.MustCompile(`\b(KEYS|ARGV)\[(\d+)\]`)
	counted    = regexp.MustCompile(`\bARGV\[(\d+) \+ (?:(\d+) \* )?i\]`)
	unpacked   = regexp.MustCompile(`\bunpack\(ARGV, (\d+), \d+ \+ count\)`)
	shares     = regexp.MustCompile(`\btogether\(count, \w+, (\d+), (\d+)\)`)
	loop       = regexp.MustCompile(`for i = (\d+), `)
	anyUse     = regexp.MustCompile(`\b(?:KEYS|ARGV)\b`)
)

// A header names every input of its script, and no other. Single ones are used
// by their number. A list is the last one, "a, b, …": element i of it is used by
// an index that begins at the list's number, in steps of as many as it names.
func TestScripts_inputs(t *testing.T) {
	t.Parallel()
	for name, s := range read(t, "*.lua") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.HasPrefix(s.header, "-- "+name+".lua ") {
				t.Errorf("header does not begin with %q", "-- "+name+".lua")
			}
			singles, lists := map[string]bool{}, map[int]int{} // first index: step
			count := map[string]int{}
			for _, m := range documented.FindAllStringSubmatch(s.header, -1) {
				n, _ := strconv.Atoi(m[2])
				if count[m[1]]++; n != count[m[1]] {
					t.Errorf("%s[%d] is documented where %d is due", m[1], n, count[m[1]])
				}
				if len(lists) > 0 && m[1] == "ARGV" {
					t.Errorf("ARGV[%d] comes after a list", n)
				}
				if names, _, ok := strings.Cut(m[3], ", …"); ok {
					lists[n] = strings.Count(names, ",") + 1
				} else {
					singles[m[1]+"["+m[2]+"]"] = true
				}
			}
			if count["KEYS"] == 0 || count["ARGV"] == 0 {
				t.Error("no KEYS or no ARGV are documented")
			}
			used := set(literal.FindAllString(s.body, -1)...)
			if diff := cmp.Diff(sorted(singles), sorted(used)); diff != "" {
				t.Errorf("(-documented +used):\n%s", diff)
			}

			listed := map[int]int{} // index: step
			uses := len(literal.FindAllString(s.body, -1))
			for _, at := range counted.FindAllStringSubmatchIndex(s.body, -1) {
				uses++
				m := counted.FindStringSubmatch(s.body[at[0]:at[1]])
				base, _ := strconv.Atoi(m[1])
				step := 1
				if m[2] != "" {
					step, _ = strconv.Atoi(m[2])
				}
				loops := loop.FindAllStringSubmatch(s.body[:at[0]], -1)
				if len(loops) == 0 {
					t.Fatalf("%s is in no loop", m[0])
				}
				first, _ := strconv.Atoi(loops[len(loops)-1][1])
				listed[base+first*step] = step
			}
			for _, m := range unpacked.FindAllStringSubmatch(s.body, -1) {
				uses++
				first, _ := strconv.Atoi(m[1])
				listed[first] = 1
			}
			for _, m := range shares.FindAllStringSubmatch(s.body, -1) {
				first, _ := strconv.Atoi(m[1])
				step, _ := strconv.Atoi(m[2])
				for i := range step {
					listed[first+i] = step
				}
			}
			want := map[int]int{}
			for first, step := range lists {
				for i := range step {
					want[first+i] = step
				}
			}
			if !maps.Equal(want, listed) {
				t.Errorf("lists are documented as %v, used as %v (index: step)", want, listed)
			}
			if all := len(anyUse.FindAllString(s.body, -1)); all != uses {
				t.Errorf("of %d uses of KEYS and ARGV %d are of a form that can be checked", all, uses)
			}
		})
	}
}

var (
	returned  = regexp.MustCompile(`(?:\breturn (?:nil, )?|\breply = )(?:\{ |result\()"([a-z]+)"`)
	returning = regexp.MustCompile(`(?m)^ *return (?:nil, )?(?:\{|result\()`)
	promised  = regexp.MustCompile(`\{"([a-z]+)"`)
)

// refusals reads the statuses that roomstore makes errors of.
func refusals(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../roomstore/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Names[0].Name != "refusals" {
			return true
		}
		for _, e := range v.Values[0].(*ast.CompositeLit).Elts {
			key, err := strconv.Unquote(e.(*ast.KeyValueExpr).Key.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			found[key] = true
		}
		return false
	})
	if len(found) == 0 {
		t.Fatal("found no refusals")
	}
	return found
}

// A header promises every status that its script returns, and no other; and
// each is one that roomstore knows.
func TestScripts_statuses(t *testing.T) {
	t.Parallel()
	libs, known := read(t, "lib/*.lua"), refusals(t)
	ever := map[string]bool{}
	for name, s := range read(t, "*.lua") {
		text := s.body
		for _, lib := range strings.Fields(s.section("Uses")) {
			text += libs[lib].body
		}
		got := set(submatches(returned, text)...)
		want := set(submatches(promised, s.section("Returns"))...)
		if len(want) == 0 {
			t.Errorf("%s: the header does not say what is returned", name)
		}
		if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
			t.Errorf("%s: (-promised +returned):\n%s", name, diff)
		}
		if a, b := len(returning.FindAllString(s.body, -1)), len(returned.FindAllString(s.body, -1)); a > b {
			t.Errorf("%s: of %d results only %d begin with a status", name, a, b)
		}
		for status := range got {
			ever[status] = true
			if !known[status] && !set("ok", "again", "already", "unknown")[status] {
				t.Errorf("%s: roomstore does not know %q", name, status)
			}
		}
	}
	for status := range known {
		if !ever[status] {
			t.Errorf("no script returns %q", status)
		}
	}
}

var (
	defined = regexp.MustCompile(`(?m)^local (?:function )?([A-Za-z_]+)`)
	text    = regexp.MustCompile(`"[^"]*"`)
)

// reference matches what refers to a function or constant of a lib.
func reference(name string) *regexp.Regexp {
	after := `\(`
	if strings.ToUpper(name) == name {
		after = `\b`
	}
	return regexp.MustCompile(`(?:^|[^.:\w])` + name + after)
}

// definition gives the text of what a lib defines: up to the next definition.
func definition(lib, name string) string {
	at := regexp.MustCompile(`(?m)^local (?:function )?` + name + `\b`).FindStringIndex(lib)
	rest := lib[at[1]:]
	if next := defined.FindStringIndex(rest); next != nil {
		rest = rest[:next[0]]
	}
	return rest
}

// A script uses the libs that it names, and all that those need, each after
// what it needs itself; and none for nothing.
func TestScripts_uses(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"place", "apart"} {
		t.Run(mode, func(t *testing.T) { testUses(t, mode) })
	}
}

// testUses looks at the scripts of one mode: where slots lie apart lib apart stands
// for lib place, and admission for limits.
func testUses(t *testing.T, mode string) {
	t.Parallel()
	libs := read(t, "lib/*.lua")
	// Those of the other mode, and those that scripts of only that one name.
	instead := map[string]string{"apart": "place", "admission": "limits", "auditapart": "auditplace"}
	alone := []string{"apart", "admission", "auditapart"}
	if mode == "apart" {
		instead, alone = map[string]string{"place": "apart", "limits": "admission", "auditplace": "apart auditapart"}, nil
	}
	home := map[string]string{} // of what a lib defines
	references := map[string]*regexp.Regexp{}
	for name, lib := range libs {
		if !strings.HasPrefix(lib.header, "-- "+name+".lua: ") {
			t.Errorf("header of lib %s does not begin with its name", name)
		}
		for _, def := range submatches(defined, lib.body) {
			if name == "guard" || instead[name] != "" {
				continue // guard is before every script; see TestScripts_guard
			}
			if other, ok := home[def]; ok {
				t.Errorf("%s is defined in %s and %s", def, other, name)
			}
			home[def], references[def] = name, reference(def)
		}
	}
	everUsed := map[string]bool{}
	for name, s := range read(t, "*.lua") {
		uses := strings.Fields(s.section("Uses"))
		for _, lib := range append(slices.Clone(uses), s.parts...) {
			everUsed[lib] = true
			for _, other := range strings.Fields(instead[lib]) {
				everUsed[other] = true
			}
		}
		if slices.ContainsFunc(uses, func(lib string) bool { return slices.Contains(alone, lib) }) ||
			mode == "apart" && !slices.ContainsFunc(lua.All, func(s lua.Script) bool { return s.Name == name && s.Apart != nil }) {
			continue // it has no text of this mode
		}
		for i, lib := range slices.Backward(uses) {
			if instead[lib] != "" {
				uses = slices.Replace(uses, i, i+1, strings.Fields(instead[lib])...)
			}
		}
		// What is called from the body, and from what is called.
		want, reached := map[string]bool{}, map[string]bool{}
		var reach func(code, in string)
		reach = func(code, in string) {
			code = text.ReplaceAllString(code, `""`)
			for def, lib := range home {
				if !references[def].MatchString(code) {
					continue
				}
				if lib != in && slices.Index(uses, lib) > slices.Index(uses, in) && in != "" {
					t.Errorf("%s: %s comes before %s, whose %s it needs", name, in, lib, def)
				}
				if want[lib] = true; !reached[def] {
					reached[def] = true
					reach(definition(libs[lib].body, def), lib)
				}
			}
		}
		reach(s.body, "")
		named := set(uses...)
		if mode == "apart" && !slices.ContainsFunc(strings.Fields(s.section("Uses")), func(lib string) bool { return lib == "apart" || lib == "admission" }) {
			named = want // that is held against the other mode's text
		}
		if diff := cmp.Diff(sorted(want), sorted(named)); diff != "" {
			t.Errorf("%s: libs (-needed +named):\n%s", name, diff)
		}
	}
	for lib := range libs {
		if !everUsed[lib] && lib != "guard" && instead[lib] == "" {
			t.Errorf("no script uses lib %s", lib)
		}
	}
}

// Every script acts only under the present term, but for those whose headers say
// why they do not; and those use nothing that needs the term of a call.
func TestScripts_guard(t *testing.T) {
	t.Parallel()
	libs, files := read(t, "lib/*.lua"), read(t, "*.lua")
	bare := map[string]bool{}
	for _, s := range lua.All {
		file := files[s.Name]
		if said := file.section("Unguarded") != ""; said == s.Guarded {
			t.Errorf("%s: guarded is %t, the header says that it is unguarded: %t", s.Name, s.Guarded, said)
		}
		if s.Guarded {
			continue
		}
		bare[s.Name] = true
		code, seen := file.body, map[string]bool{}
		for grown := true; grown; {
			grown = false
			for _, lib := range libs {
				for _, def := range submatches(defined, lib.body) {
					if !seen[def] && reference(def).MatchString(code) {
						seen[def], grown = true, true
						code += definition(lib.body, def)
					}
				}
			}
		}
		if seen["TERM"] {
			t.Errorf("%s uses what needs the term of a call", s.Name)
		}
	}
	if diff := cmp.Diff([]string{"greet", "heal", "hold", "probe", "reclaim", "refused"}, sorted(bare)); diff != "" {
		t.Errorf("unguarded (-want +got):\n%s", diff)
	}
}

// forbidden is what no script may contain: values that change on the way, time
// that is not Redis's, and work that grows with what is stored.
var forbidden = regexp.MustCompile(`\bcjson\b|\bcmsgpack\b|\bstruct\.|\bos\.|"[HZ]?SCAN"|"KEYS"|"RANDOMKEY"|"FLUSH|"SMEMBERS"|"HVALS"|"SORT"|"DEL"|\bwhile true\b|\brepeat\b|math\.random|redis\.pcall|error_reply`)

// bulk is a command that reads as much as there is.
var bulk = regexp.MustCompile(`call\("((?:HGETALL|HKEYS|LRANGE|Z(?:REV)?RANGE\w*|SRANDMEMBER|SSCAN)", [^\n]*)`)

// bounded is what such commands may read: it has a limit, there or where it is
// written.
var bounded = regexp.MustCompile(`"LIMIT", |^HGETALL", (?:user_key|attrs|did)\)|^HKEYS", (?:did|of_members)\)|^LRANGE", key\(part, "log", id\), 0, -1\)|^LRANGE", log, -LOG_LOOKED_AT, -1\)|^ZRANGE", index, (?:0, 0|-1, -1), |^SRANDMEMBER", \w+, budget\)|^SSCAN", .*, "COUNT", count\)`)

// No script does work that grows with a room's members.
func TestScripts_bounds(t *testing.T) {
	t.Parallel()
	bulks := 0
	for _, dir := range []string{"*.lua", "lib/*.lua"} {
		for name, s := range read(t, dir) {
			if bad := forbidden.FindString(s.body); bad != "" {
				t.Errorf("%s has %s", name, bad)
			}
			for _, command := range submatches(bulk, s.body) {
				bulks++
				if !bounded.MatchString(command) {
					t.Errorf("%s has no bound: %s", name, command)
				}
			}
		}
	}
	if bulks < 10 {
		t.Errorf("found %d commands to check", bulks)
	}
}

// Commands knows every command that is called, since each call names its own.
func TestCommands(t *testing.T) {
	t.Parallel()
	calling := regexp.MustCompile(`\bcall\(([^,)]*)`)
	named := regexp.MustCompile(`^(?:\w+ and "([A-Z]+)" or )?"([A-Z]+)"$`)
	want := map[string]bool{}
	for _, dir := range []string{"*.lua", "lib/*.lua"} {
		for name, s := range read(t, dir) {
			for _, first := range submatches(calling, s.body) {
				m := named.FindStringSubmatch(first)
				if m == nil {
					t.Errorf("%s calls %s, which is no command's name", name, first)
					continue
				}
				want[m[2]] = true
				if m[1] != "" {
					want[m[1]] = true
				}
			}
		}
	}
	known := set(lua.Commands(false)...)
	for _, name := range lua.Commands(true) {
		switch {
		case name == "PUBLISH":
			t.Error("on a Cluster something is published to all of it")
		case name == "SPUBLISH":
			name = "PUBLISH"
		}
		known[name] = true
	}
	if diff := cmp.Diff(sorted(want), sorted(known)); diff != "" || len(want) < 30 {
		t.Errorf("(-called +known):\n%s", diff)
	}
}
