package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// healthCheck asks url, a gateway's /readyz, and returns nil if the gateway is
// ready. It is what --health-check does, for container images without a shell.
func healthCheck(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// Whatever proxy the environment names, we mean this machine.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return nil
	}
	reasons, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	return fmt.Errorf("not ready: %s: %s %s", url, res.Status, strings.TrimSpace(string(reasons)))
}

// healthURL is where the gateway with this configuration says whether it is
// ready: on the internal listener, over loopback if that listens everywhere.
func (c Config) healthURL() string {
	host, port, err := net.SplitHostPort(c.InternalListen)
	if err != nil {
		host, port = c.InternalListen, "0" // parseConfig would not have let it pass
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return "http://" + net.JoinHostPort(host, port) + "/readyz"
}
