package gateway

import (
	"cmp"
	"iter"
	"slices"

	"github.com/roomgate/roomgate/roomstore"
)

// ringSize is how many events a feed keeps at least, once it has had so many.
const ringSize = 256

// ring is the last events that a feed has handed on, oldest first, to serve resumes
// from. It keeps them as they were published: a seventh of what they take when read.
type ring []past

type past struct {
	seq  int64
	text string           // as it was published, or
	read *roomstore.Event // as the store concluded it
}

// add keeps an event that follows those that are kept.
func (r *ring) add(e roomstore.Event) {
	if len(*r) == 2*ringSize {
		n := copy(*r, (*r)[ringSize:])
		clear((*r)[n:])
		*r = (*r)[:n]
	}
	p := past{seq: e.Seq, text: e.Published}
	if p.text == "" {
		read := e // so that only this is allocated
		p.read = &read
	}
	*r = append(*r, p)
}

// reaches says whether nothing is missing between a seq and the last that is kept, of
// which there must be one.
func (r ring) reaches(seq int64) bool { return len(r) > 0 && r[0].seq <= seq+1 }

// after gives the events after a seq.
func (r ring) after(seq int64) iter.Seq[roomstore.Event] {
	i, _ := slices.BinarySearchFunc(r, seq+1, func(p past, seq int64) int { return cmp.Compare(p.seq, seq) })
	return func(yield func(roomstore.Event) bool) {
		for _, p := range r[i:] {
			if !yield(p.event()) {
				return
			}
		}
	}
}

func (p past) event() roomstore.Event {
	if p.read != nil {
		return *p.read
	}
	e, _ := roomstore.DecodeEvent(p.text) // as it has been before
	return e
}
