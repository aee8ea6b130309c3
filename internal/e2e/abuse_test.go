//go:build linux

package e2e

import (
	"fmt"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/roomgate/roomgate/protocol"
)

// A client that goes on asking far over its rates is refused a thousand times,
// and then sent away for good; nobody else is.
func TestWire_abuse(t *testing.T) {
	t.Parallel()
	const allowed = 1000 // refusals a minute
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr())
	for _, tt := range []struct{ name, request string }{
		{"pings", `{"jsonrpc":"2.0","id":%d,"method":"ping"}`},
		{"messages", `{"jsonrpc":"2.0","id":%d,"method":"sendRoomMessage","params":` + textMessage("nowhere", "hi") + `}`},
		{"unknown", `{"jsonrpc":"2.0","id":%d,"method":"fly"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, other := enroll(g, t, "ana-"+tt.name), enroll(g, t, "bo-"+tt.name)
			refused := 0
			for open := true; open; {
				const ahead = 50
				for i := range ahead {
					// It fails once the client has been told to go.
					w.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, tt.request, i))
				}
				for range ahead {
					var frame string
					if frame, open = w.next(); !open {
						break
					}
					if brief(frame) == fmt.Sprintf("error %d", protocol.CodeTooFast) {
						refused++
					}
				}
				if refused > allowed+1 {
					t.Fatalf("refused %d times and still connected", refused)
				}
			}
			w.wantClosed(protocol.CloseRateAbuse)
			if refused < allowed {
				t.Errorf("closed after %d refusals, want %d", refused, allowed)
			}
			other.settled()
		})
	}
}
