package roomstore_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/roomgate/roomgate/roomstore"
)

// IDs are of the length and the characters that are allowed, to the byte.
func TestParseID(t *testing.T) {
	t.Parallel()
	room := func(s string) error { _, err := roomstore.ParseRoomID(s); return err }
	user := func(s string) error { _, err := roomstore.ParseUserID(s); return err }
	for _, tt := range []struct {
		name  string
		parse func(string) error
		in    string
		ok    bool
	}{
		{"room, empty", room, "", false},
		{"room, 1 byte", room, "a", true},
		{"room, 128 bytes", room, strings.Repeat("a", 128), true},
		{"room, 129 bytes", room, strings.Repeat("a", 129), false},
		{"room, every character", room, "azAZ09!#$%&()+-:;<=.>?@[]^_{}|~, ", true},
		{"user, empty", user, "", false},
		{"user, 32 bytes", user, strings.Repeat("a", 32), true},
		{"user, 33 bytes", user, strings.Repeat("a", 33), false},
		{"device, empty", roomstore.CheckDeviceID, "", true},
		{"device, 128 bytes", roomstore.CheckDeviceID, strings.Repeat("a", 128), true},
		{"device, 129 bytes", roomstore.CheckDeviceID, strings.Repeat("a", 129), false},
		{"session, empty", roomstore.CheckSessionID, "", false},
		{"session, one of ours", roomstore.CheckSessionID, string(roomstore.NewSessionID()), true},
		{"session, 128 bytes", roomstore.CheckSessionID, strings.Repeat("a", 128), true},
		{"session, 129 bytes", roomstore.CheckSessionID, strings.Repeat("a", 129), false},
		{"NUL", room, "a\x00", false},
		{"newline", room, "a\n", false},
		{"slash", room, "a/b", false},
		{"backslash", room, `a\b`, false},
		{"quotes", user, `"`, false},
		{"apostrophe", user, `'`, false},
		{"asterisk", room, "*", false},
		{"backtick", room, "`", false},
		{"not ASCII", user, "é", false},
		{"not UTF-8", user, "\xff", false},
		{"DEL", user, "\x7f", false},
	} {
		if err := tt.parse(tt.in); (err == nil) != tt.ok || err != nil && !errors.Is(err, roomstore.ErrBadID) {
			t.Errorf("%s: got %v, want ok %t", tt.name, err, tt.ok)
		}
	}
}

// What is an ID comes back as it is, and holds nothing that joins values; what
// is not is refused with a text that is fit to show.
func FuzzParseRoomID(f *testing.F) {
	for _, s := range []string{"", "a", "a:members", "{0}", "a\x00b", "\xff", strings.Repeat("x", 129), "é", "\u202e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := roomstore.ParseRoomID(s)
		if err == nil {
			if string(id) != s || s == "" || len(s) > 128 || strings.ContainsAny(s, "\x00\n\"'\\/*`") || !utf8.ValidString(s) {
				t.Errorf("%q is an ID", s)
			}
			return
		}
		if !errors.Is(err, roomstore.ErrBadID) {
			t.Errorf("%q: %v", s, err)
		}
		for _, r := range err.Error() {
			if r < ' ' || r > '~' {
				t.Errorf("%q: %q is not fit to show", s, err)
			}
		}
	})
}

// IDs that are made are unlike, and could be named by a client.
func TestNewIDs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		for _, id := range []string{string(roomstore.NewSessionID()), roomstore.NewNodeID()} {
			if seen[id] || len(id) < 12 || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
				t.Fatalf("made %q", id)
			}
			seen[id] = true
		}
	}
}
