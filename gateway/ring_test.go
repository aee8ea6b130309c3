package gateway

import (
	"slices"
	"testing"

	"github.com/roomgate/roomgate/roomstore"
)

// A ring gives back what it was given, whichever way its feed came to know it, and has
// never less than it says.
func TestRing(t *testing.T) {
	var r ring
	if r.reaches(0) || len(slices.Collect(r.after(0))) > 0 {
		t.Error("an empty ring has something")
	}
	var all []roomstore.Event
	for seq := int64(1); seq <= 5*ringSize; seq++ {
		e := message(1, seq, "zoe", "hello")
		if seq%3 == 0 { // of a history, which knows it by the member still being there
			e = joined(1, seq, "ana", 3)
			e.At, e.Uncounted = 0, true
		} else {
			var err error
			if e, err = roomstore.DecodeEvent(envelope(e)); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, e)
		r.add(e)

		oldest := r[0].seq
		if len(r) < int(min(seq, ringSize)) || len(r) > 2*ringSize {
			t.Fatalf("keeps %d of %d events, want at least %d and at most %d", len(r), seq, min(seq, ringSize), 2*ringSize)
		}
		for _, after := range []int64{0, oldest - 2, oldest - 1, oldest, seq - 1, seq, seq + 7} {
			if got, want := r.reaches(after), after >= oldest-1; got != want {
				t.Fatalf("with events %d to %d: reaches %d: %v", oldest, seq, after, got)
			}
			got := slices.Collect(r.after(after))
			if want := all[min(seq, max(after, oldest-1, 0)):]; !slices.Equal(got, want) {
				t.Fatalf("with events %d to %d: after %d got %d, want %d of them, the same", oldest, seq, after, len(got), len(want))
			}
		}
	}
}
