package gateway

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roomgate/roomgate/pubsub"
)

// fakeShards is a bus of which only Reset matters.
type fakeShards struct{ reset []string }

func (f *fakeShards) Subscribe(context.Context, string, pubsub.Handler) error { return nil }
func (f *fakeShards) Unsubscribe(string)                                      {}
func (f *fakeShards) Reset(topic string)                                      { f.reset = append(f.reset, topic) }

// A path that brings no probes though Redis takes them is made anew, and the gateway is
// not ready because of it. One whose probes Redis does not take is away, and that
// is a reason only if no other path brings anything.
func TestPaths_unheard(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		paths string // what becomes of the probes of each: "+" they come back, "-" they do not, "x" Redis takes none
		want  string // of the reason; "" for none
		reset string
	}{
		{"all is well", "+++", "", ""},
		{"one is deaf", "+-+", "from partition 1", "1"},
		{"two are deaf", "--+", "from partition 0, 1", "01"},
		{"one is away", "++x", "", ""},
		{"one is deaf and one away", "+-x", "from partition 1", "1"},
		{"all are away", "xxx", "no probe has come back", ""},
		{"the only one is deaf", "-", "no probe has come back", "0"},
		{"the only one is away", "x", "no probe has come back", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				bus := &fakeShards{}
				n := &incarnation{g: &Gateway{bus: bus, log: slog.New(slog.DiscardHandler), born: time.Now()}}
				n.paths = &paths{n: n, all: map[int]*path{}}
				for i := range len(tt.paths) {
					n.paths.all[i] = &path{n: n, number: i, topic: string(rune('0' + i))}
				}
				for probe := range 6 {
					time.Sleep(probeEvery)
					now := int64(n.g.since())
					for i, becomes := range tt.paths {
						p := n.paths.all[i]
						p.listen() // the next probe is sent behind it
						switch {
						case becomes == 'x' && probe > 0: // the first was taken, and was lost with its server
							p.asked.Store(0)
						default:
							p.asked.Store(now)
						}
						if becomes == '+' {
							p.heard.Store(now + 1)
						}
					}
				}
				got := n.paths.unheard()
				if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if got := strings.Join(bus.reset, ""); got != tt.reset {
					t.Errorf("made anew: %q, want %q", got, tt.reset)
				}
			})
		})
	}
}
