package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The check succeeds on 200 and on nothing else, and says what the gateway
// said.
func TestHealthCheck(t *testing.T) {
	t.Parallel()
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"reasons":["draining"]}`))
	}))
	if err := healthCheck(t.Context(), srv.URL+"/readyz"); err != nil {
		t.Errorf("got %v, want none", err)
	}
	status = http.StatusServiceUnavailable
	if err := healthCheck(t.Context(), srv.URL+"/readyz"); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "draining") {
		t.Errorf("got %v, want one that has 503 and the reason", err)
	}
	srv.Close()
	if err := healthCheck(t.Context(), srv.URL+"/readyz"); err == nil {
		t.Error("got no error from a gateway that is not there")
	}
}

// A gateway that listens everywhere is asked over loopback.
func TestConfig_healthURL(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		"127.0.0.1:9090": "http://127.0.0.1:9090/readyz",
		"0.0.0.0:9090":   "http://127.0.0.1:9090/readyz",
		":9091":          "http://127.0.0.1:9091/readyz",
		"[::]:9090":      "http://[::1]:9090/readyz",
		"10.0.0.7:9090":  "http://10.0.0.7:9090/readyz",
	} {
		if got := (Config{InternalListen: listen}).healthURL(); got != want {
			t.Errorf("%s: got %s, want %s", listen, got, want)
		}
	}
}
