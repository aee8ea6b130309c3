package serverapi_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/roomgate/roomgate/gateway/serverapi"
)

// A stream whose reader's host is gone ends in half a minute, though little is written.
func TestAPI_events_unconfirmed(t *testing.T) {
	t.Parallel()
	watch := newWatch()
	srv := httptest.NewUnstartedServer(newAPI(&fakeRooms{watch: watch}))
	conns := make(chan net.Conn, 1)
	srv.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		conns <- c
		return serverapi.WithConn(ctx, c)
	}
	srv.Start()
	t.Cleanup(srv.Close)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/rooms/a/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+newKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := (<-conns).(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const tcpUserTimeout = 18
	ms := 0
	if rawErr := raw.Control(func(fd uintptr) { ms, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout) }); rawErr != nil || err != nil {
		t.Fatal(rawErr, err)
	}
	if ms != 30_000 {
		t.Errorf("what is not confirmed is sent again for %d ms, want 30000", ms)
	}
	res.Body.Close()
	watch.closed.Wait()
}
