//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/protocol"
)

// walkHistory gives the texts that a walk from the newest page to the oldest brings, in
// order, and how many pages there were.
func walkHistory(w *wire, count int) (texts []string, pages int) {
	w.t.Helper()
	for before := int64(0); ; {
		var r struct {
			MessageList []protocol.Message
			NextSeq     int64
		}
		w.ask(protocol.MethodQueryRoomHistory, fmt.Sprintf(`{"roomID":"R","config":{"count":%d,"beforeSeq":%d}}`, count, before), &r)
		var page []string
		for _, m := range r.MessageList {
			page = append(page, m.SenderUserID+": "+m.Message)
		}
		if len(page) > count {
			w.t.Fatalf("%d messages on a page of %d", len(page), count)
		}
		texts = append(page, texts...)
		if pages++; r.NextSeq == 0 {
			return texts, pages
		}
		before = r.NextSeq
	}
}

// Who comes late can have what a room still keeps, page by page and in order; nothing
// that is not a kept message, and no more than is kept.
func TestQueryRoomHistory(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--history-query", "--log-size=20", "--rate-limits=false")
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	ana.enter("R")
	if got, _ := walkHistory(ana, 5); len(got) > 0 {
		t.Errorf("a new room has %q", got)
	}
	var want []string
	for i := range 12 {
		ana.say("R", fmt.Sprint("m", i))
		want = append(want, fmt.Sprint("ana: m", i))
		if i == 5 {
			ana.ask(protocol.MethodSendRoomMessage, `{"roomID":"R","message":{"type":20,"message":"barrage"}}`, nil)
			ana.ask(protocol.MethodSetRoomAttributes, `{"roomID":"R","roomAttributes":{"k":"v"}}`, nil)
			ana.until(`R attributes [{"action":"set","roomAttributes":{"k":"v"}}]`)
		}
	}
	bo.enter("R")
	for _, count := range []int{1, 5, 11, 12, 13, 100} {
		got, pages := walkHistory(bo, count)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%d per page (-want +got):\n%s", count, d)
		}
		if most := 12/count + 1; pages > most {
			t.Errorf("%d per page: %d pages", count, pages)
		}
	}
	ana.until("R +bo 2")
	sent := ana.say("R", "the last")
	bo.until("R ana: the last")
	var again struct{ MessageList []protocol.Message }
	bo.ask(protocol.MethodQueryRoomHistory, `{"roomID":"R","config":{"count":1}}`, &again)
	if d := cmp.Diff([]protocol.Message{sent}, again.MessageList); d != "" {
		t.Errorf("a message is not as it was sent (-want +got):\n%s", d)
	}
	for i := range 30 {
		ana.say("R", fmt.Sprint("more", i))
	}
	if got, _ := walkHistory(bo, 100); len(got) != 20 || got[19] != "ana: more29" {
		t.Errorf("of 20 kept there are %q", got)
	}
	// Long ones share a page only as far as it goes.
	long := strings.Repeat("x", 2048)
	for range 20 {
		ana.say("R", long)
	}
	if got, _ := walkHistory(bo, 100); !slices.Equal(got, slices.Repeat([]string{"ana: " + long}, 20)) {
		t.Errorf("of 20 long ones %d came", len(got))
	}
	cy := enroll(a, t, "cy")
	cy.send(protocol.MethodQueryRoomHistory, `{"roomID":"R","config":{"count":1}}`)
	cy.hears("error 6000321")
	for _, bad := range []string{`{"count":0}`, `{"count":101}`, `{"count":1,"beforeSeq":-1}`} {
		bo.send(protocol.MethodQueryRoomHistory, `{"roomID":"R","config":`+bad+`}`)
		bo.until("error 6000001")
	}
}

// It is for operators who want it.
func TestQueryRoomHistory_off(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	ana := enroll(startGateway(t, server.Addr()), t, "ana")
	ana.enter("R")
	ana.send(protocol.MethodQueryRoomHistory, `{"roomID":"R","config":{"count":1}}`)
	if e := ana.refused(protocol.CodeMethodNotFound); !strings.Contains(e.Message, "--history-query") {
		t.Errorf("refused with %q", e.Message)
	}
}
