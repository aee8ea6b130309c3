package main

import (
	"fmt"
	"slices"
	"testing"
)

// Loss, doubling and disorder are each found, and nothing else is.
func TestSequence(t *testing.T) {
	t.Parallel()
	type message struct {
		from       int
		n          uint32
		messageSeq int64
	}
	for _, tt := range []struct {
		name  string
		heard []message
		sent  []uint32
		kinds []string // found on the way
		lost  [][]uint32
	}{
		{"all of two senders", []message{{0, 0, 1}, {1, 0, 2}, {1, 1, 3}, {0, 1, 4}}, []uint32{2, 2}, nil, [][]uint32{nil, nil}},
		{"own messages between, no messageSeq", []message{{0, 0, 0}, {0, 1, 0}}, []uint32{2, 0}, nil, [][]uint32{nil, nil}},
		{"own messages between", []message{{0, 0, 3}, {0, 1, 9}}, []uint32{2, 0}, nil, [][]uint32{nil, nil}},
		{"one lost", []message{{0, 0, 1}, {0, 2, 3}}, []uint32{3, 0}, nil, [][]uint32{{1}, nil}},
		{"the last lost", []message{{0, 0, 1}}, []uint32{3, 1}, nil, [][]uint32{{1, 2}, {0}}},
		{"one doubled", []message{{0, 0, 1}, {0, 0, 1}, {0, 1, 2}}, []uint32{2, 0}, []string{doubling}, [][]uint32{nil, nil}},
		{"an old one doubled", []message{{0, 0, 1}, {0, 1, 2}, {0, 2, 3}, {0, 0, 1}}, []uint32{3, 0}, []string{doubling}, [][]uint32{nil, nil}},
		{"two swapped", []message{{0, 1, 2}, {0, 0, 1}}, []uint32{2, 0}, []string{disorder}, [][]uint32{nil, nil}},
		{"senders swapped", []message{{0, 0, 2}, {1, 0, 1}}, []uint32{1, 1}, []string{disorder}, [][]uint32{nil, nil}},
		{"swapped and then doubled", []message{{0, 1, 2}, {0, 0, 1}, {0, 0, 1}}, []uint32{2, 0}, []string{disorder, doubling}, [][]uint32{nil, nil}},
		{"two with one messageSeq", []message{{0, 0, 1}, {1, 0, 1}}, []uint32{1, 1}, []string{disorder}, [][]uint32{nil, nil}},
	} {
		s := sequence{next: make([]uint32, len(tt.sent))}
		var kinds []string
		for _, m := range tt.heard {
			if p, _ := s.take(m.from, m.n, m.messageSeq); p != nil {
				kinds = append(kinds, p.Kind)
			}
		}
		if !slices.Equal(kinds, tt.kinds) {
			t.Errorf("%s: got %q, want %q", tt.name, kinds, tt.kinds)
		}
		for from, sent := range tt.sent {
			if got := s.lost(from, sent); !slices.Equal(got, tt.lost[from]) {
				t.Errorf("%s: lost of sender %d: got %d, want %d", tt.name, from, got, tt.lost[from])
			}
		}
	}
}

// A gap is known when it opens, before anybody can say whether it is a loss.
func TestSequence_gap(t *testing.T) {
	t.Parallel()
	s := sequence{next: make([]uint32, 1)}
	if p, gap := s.take(0, 0, 0); p != nil || gap {
		t.Errorf("message 0: got %v, %v, want nothing", p, gap)
	}
	if p, gap := s.take(0, 5, 0); p != nil || !gap {
		t.Errorf("message 5 behind 0: got %v, %v, want a gap", p, gap)
	}
	if p, gap := s.take(0, 6, 0); p != nil || gap {
		t.Errorf("message 6 behind 5: got %v, %v, want nothing", p, gap)
	}
}

// Who comes and goes is heard of in turn, and no position is left out.
func TestAttendance(t *testing.T) {
	t.Parallel()
	joined := func(user string, seq int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","method":"roomMemberJoined","params":{"roomID":"r","memberList":[{"userID":%q}],"memberCount":2,"seq":%d}}`, user, seq)
	}
	left := func(user string, seq int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","method":"roomMemberLeft","params":{"roomID":"r","memberList":[{"userID":%q}],"memberCount":2,"seq":%d}}`, user, seq)
	}
	for _, tt := range []struct {
		name  string
		heard []string
		want  []string
		lost  []int64
	}{
		{"in turn", []string{joined("a", 7), joined("b", 8), left("a", 9), joined("a", 10)}, nil, nil},
		{"a departure lost", []string{joined("a", 7), joined("a", 9)}, nil, []int64{8}},
		{"an entry lost", []string{joined("a", 7), left("b", 9)}, nil, []int64{8}},
		{"an entry lost, no positions", []string{joined("a", 0), left("b", 0)}, []string{loss}, nil},
		{"an entry doubled", []string{joined("a", 7), joined("a", 7)}, []string{doubling}, nil},
		{"an entry doubled, no positions", []string{joined("a", 0), joined("a", 0)}, []string{doubling}, nil},
		{"an entry doubled under a position of its own", []string{joined("a", 7), joined("a", 8)}, []string{doubling}, nil},
		{"both lost", []string{joined("a", 7), joined("c", 10)}, nil, []int64{8, 9}},
		{"swapped", []string{joined("a", 7), left("a", 9), joined("b", 8)}, []string{disorder}, nil},
		{"of no interest", []string{joined("zoe", 7), joined("zoe", 8), left("zac", 9)}, nil, nil},
	} {
		a := attendance{present: map[string]bool{}}
		if tt.name == "of no interest" {
			a.who = "a"
		}
		var got []string
		for _, text := range tt.heard {
			if p, _ := a.take(listen([]byte(text))); p != nil {
				got = append(got, p.Kind)
			}
		}
		if !slices.Equal(got, tt.want) || !slices.Equal(a.lost(), tt.lost) {
			t.Errorf("%s: got %q, lost %d, want %q, lost %d", tt.name, got, a.lost(), tt.want, tt.lost)
		}
	}
}
