package roomstore_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/roomgate/roomgate/roomstore"
)

// A row is one operation in one situation: what it answers, what is stored of
// the rooms named, and exactly what is published. One that is refused changes
// nothing at all.
type row struct {
	name  string
	cfg   roomstore.Config
	given func(w *world)
	do    func(w *world) (result string, err error)
	err   error
	want  string
	state map[roomstore.RoomID]string
	heard []string
	drops bool // though refused it drops what is void
}

func run(t *testing.T, rows []row) {
	t.Helper()
	t.Parallel()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			contract(t, r.cfg, func(w *world) {
				if r.given != nil {
					r.given(w)
				}
				w.forget()
				before := w.dump()
				got, err := r.do(w)
				w.refused(err, r.err)
				if r.err != nil && !r.drops {
					w.unchanged(before)
				}
				w.heard(r.heard...)
				if err == nil && got != r.want {
					t.Errorf("answered %s, want %s", got, r.want)
				}
				state := map[roomstore.RoomID]string{}
				for room := range r.state {
					state[room] = w.state(room)
				}
				if diff := cmp.Diff(r.state, state); r.state != nil && diff != "" {
					t.Errorf("stored (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// ana, ben and eve are users with one session each, unless a test says more.
func ana(w *world) roomstore.Session { return w.login("ana", "a1") }
func ben(w *world) roomstore.Session { return w.login("ben", "b1") }
func eve(w *world) roomstore.Session { return w.login("eve", "e1") }

// ask asks to enter and renders the answer.
func (w *world) ask(who roomstore.Session, r roomstore.EntryRequest) (string, error) {
	e, err := w.try(who, r)
	if err != nil {
		return "", err
	}
	return w.entryText(e), nil
}

var equateEmpty = cmpopts.EquateEmpty()

// nothingLeft fails the test if anything is stored but what recovery needs and
// expires by itself, and what a deployment has without rooms and sessions.
func (w *world) nothingLeft() {
	w.Helper()
	for _, key := range w.keys() {
		rest := strings.TrimPrefix(key, w.prefix+":")
		_, kind, _ := strings.Cut(rest, "}:")
		kind, _, _ = strings.Cut(kind, ":")
		switch {
		case kind == "did" || kind == "gone" || kind == "barred":
			if w.rdb.PTTL(w.ctx(), key).Val() <= 0 {
				w.Errorf("%q is left and does not expire", rest)
			}
		case kind == "nodes" || kind == "partitions" || rest == "nodes" || rest == "partitions" || kind == "clock" || kind == "dead" || kind == "term" || kind == "origin" || kind == "admissions":
		default:
			w.Errorf("%q is left: %s", rest, w.value(key))
		}
	}
}
