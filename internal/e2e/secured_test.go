//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/roomgate/roomgate/internal/redistest"
)

// documentedRights gives the rules of the Redis user that docs/operations.md tells
// to make.
func documentedRights(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)ACL SETUSER roomgate on >PASSWORD (.*?)\n\n`).FindSubmatch(text)
	if m == nil {
		t.Fatal("docs/operations.md tells of no user")
	}
	return strings.Fields(string(m[1]))
}

// Everything goes on by TLS, with certificates on both sides, as a user who has
// the rights that are documented and no others: Redis has nothing to refuse.
func TestSecured(t *testing.T) {
	t.Parallel()
	oneRedis(t)
	certs := redistest.NewTLS(t)
	server, addr := redistest.StartTLS(t, certs, "--maxmemory-policy", "noeviction", "--acllog-max-len", "1000")
	rdb := server.Client(t)
	for _, prefix := range []string{"wide16", "tiny16"} {
		user := []any{"ACL", "SETUSER", prefix, "on", ">secret"}
		for _, rule := range documentedRights(t) {
			user = append(user, strings.ReplaceAll(rule, "rg:", prefix+":"))
		}
		if err := rdb.Do(t.Context(), user...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	how := []string{"--redis-password-file=" + password, "--redis-ca-file=" + certs.CA, "--redis-cert-file=" + certs.Cert, "--redis-key-file=" + certs.Key}
	theatre := openTheatre(t, func(name string) string { return fmt.Sprintf("rediss://%s16@%s", name, addr) }, rdb, 16, how...)
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { theatre.play(t, r) })
	}

	// What else there is: connections that end, scripts that are forgotten, a
	// gateway that dies, and an audit.
	for _, kind := range []string{"normal", "pubsub"} {
		if err := rdb.Do(t.Context(), "CLIENT", "KILL", "TYPE", kind).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	eve := enroll(theatre.wide[0], t, "eve")
	eve.enter("R")
	ana := enroll(theatre.wide[1], t, "ana")
	ana.enter("R")
	eve.until("R +ana 2")
	theatre.wide[1].Kill()
	eve.until("R -ana 1")
	flags := append([]string{"--redis-prefix=wide16", "--partitions=16", "--fix"}, how...)
	if status, printed := fsck(t, "rediss://wide16@"+addr, flags...); status != 0 {
		t.Errorf("fsck: got status %d: %s", status, printed)
	}
	refused, err := rdb.Do(t.Context(), "ACL", "LOG").Slice()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range refused {
		t.Errorf("Redis has refused something: %v", r)
	}
}
