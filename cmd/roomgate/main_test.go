package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

// A request that does not end keeps no gateway from stopping in peace.
func TestShut(t *testing.T) {
	t.Parallel()
	asked, ended := make(chan struct{}), make(chan struct{})
	s := newServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(ended)
	}), slog.New(slog.DiscardHandler))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := shut(ctx, s, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("got %v, want nothing", err)
	}
	<-ended
	<-served
}

// Requests know their connection, which streams of events need.
func TestNewServer(t *testing.T) {
	t.Parallel()
	c, _ := net.Pipe()
	if s := newServer(nil, slog.New(slog.DiscardHandler)); s.ConnContext == nil || s.ConnContext(t.Context(), c) == t.Context() {
		t.Error("a request does not know its connection")
	}
}
