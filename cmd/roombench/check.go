package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
)

// What can go wrong with what a receiver is sent.
const (
	loss     = "loss"
	doubling = "doubling"
	disorder = "disorder"
)

// A Problem is a promise that a server has broken, or a client that was lost.
type Problem struct {
	Kind string `json:"kind"`
	What string `json:"what"`
}

func (p Problem) String() string { return p.Kind + ": " + p.What }

// A sequence checks what one receiver hears of the senders in its room: of each
// all messages, in the order of their numbers from 0, once; and the messages
// of all of them in the room's one order.
type sequence struct {
	next    []uint32 // by sender in the room
	last    int64    // messageSeq of the newest
	missing map[numbered]struct{}
}

// numbered is a message: the n-th of a sender.
type numbered struct {
	from int
	n    uint32
}

// mostMissing bounds what is remembered of a receiver that has lost the thread.
const mostMissing = 1000

// take checks one message. What is missing may still come, out of order, so it
// is a loss only at the end: gap says that something is.
func (s *sequence) take(from int, n uint32, messageSeq int64) (p *Problem, gap bool) {
	switch want := s.next[from]; {
	case n > want:
		gap = true
		if s.missing == nil {
			s.missing = map[numbered]struct{}{}
		}
		for ; want < n && len(s.missing) < mostMissing; want++ {
			s.missing[numbered{from, want}] = struct{}{}
		}
		s.next[from] = n + 1
	case n < want:
		if _, ok := s.missing[numbered{from, n}]; !ok {
			return &Problem{doubling, fmt.Sprintf("message %d came again, behind %d", n, want-1)}, false
		}
		delete(s.missing, numbered{from, n})
		return &Problem{disorder, fmt.Sprintf("message %d came behind %d", n, want-1)}, false
	default:
		s.next[from]++
	}
	if messageSeq > 0 {
		if messageSeq <= s.last {
			return &Problem{disorder, fmt.Sprintf("message %d has messageSeq %d and came behind %d", n, messageSeq, s.last)}, gap
		}
		s.last = messageSeq
	}
	return nil, gap
}

// lost says what of a sender never came; sent is how many it has sent.
func (s *sequence) lost(from int, sent uint32) []uint32 {
	var lost []uint32
	for m := range s.missing {
		if m.from == from {
			lost = append(lost, m.n)
		}
	}
	slices.Sort(lost)
	for n := s.next[from]; n < sent && len(lost) < mostMissing; n++ {
		lost = append(lost, n)
	}
	return lost
}

// An attendance checks what one member of a room hears of those who come and
// go: entries and departures of each in turn, and every position of the room
// from the first that it heard. It takes notice of those only whose names begin
// in a certain way, since those who stay go, too, in the end.
//
// Gateways tell each entry and each departure, one an event. If they come to
// tell several in one, positions will be skipped that nobody lost.
type attendance struct {
	who     string
	seq     int64
	present map[string]bool
	missing map[int64]struct{} // positions left out so far
}

// take checks one event. As for messages, what is missing is a loss only if it
// does not come later.
func (a *attendance) take(h heard) (p *Problem, gap bool) {
	seq := h.seqOf()
	if _, late := a.missing[seq]; late {
		delete(a.missing, seq)
		return &Problem{disorder, fmt.Sprintf("event %d came behind %d", seq, a.seq)}, false
	}
	if a.seq > 0 && seq > 0 && seq <= a.seq {
		return &Problem{doubling, fmt.Sprintf("event %d came again, behind %d", seq, a.seq)}, false
	}
	if a.seq > 0 {
		if a.missing == nil {
			a.missing = map[int64]struct{}{}
		}
		for n := a.seq + 1; n < seq && len(a.missing) < mostMissing; n++ {
			a.missing[n] = struct{}{}
			gap = true
		}
	}
	a.seq = max(a.seq, seq)
	h.users(func(user []byte) {
		if !bytes.HasPrefix(user, []byte(a.who)) {
			return
		}
		joined := h.kind == kindJoined
		switch {
		case joined == a.present[string(user)] && len(a.missing) > 0:
			// What is missing may say why.
		case joined && a.present[string(user)]:
			p = &Problem{doubling, fmt.Sprintf("%s came in twice without leaving, event %d", user, seq)}
		case !joined && !a.present[string(user)]:
			p = &Problem{loss, fmt.Sprintf("%s left without having come in, event %d", user, seq)}
		}
		if joined {
			a.present[string(user)] = true
		} else {
			delete(a.present, string(user))
		}
	})
	return p, gap
}

// lost says which positions were left out for good.
func (a *attendance) lost() []int64 { return slices.Sorted(maps.Keys(a.missing)) }
