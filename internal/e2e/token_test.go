//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
)

const secret = "a secret of more than thirty-two bytes"

// secretFile is a file with the secret in it.
func secretFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tokenOf signs a token.
func tokenOf(t testing.TB, key, user string, expires time.Time) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Subject: user, ExpiresAt: jwt.NewNumericDate(expires),
	}).SignedString([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func loginWith(user, token string) string {
	return fmt.Sprintf(`{"userID":%q,"token":%q}`, user, token)
}

// A login needs a token that is made out to the user, signed by us, and still
// in force.
func TestToken_login(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), "--no-dev", "--jwt-hs256-secret-file="+secretFile(t))
	hour := time.Now().Add(time.Hour).Truncate(time.Second)
	good := tokenOf(t, secret, "ana", hour)
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.RegisteredClaims{
		Subject: "ana", ExpiresAt: jwt.NewNumericDate(hour),
	}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		login string
		want  protocol.Code
	}{
		"missing":        {`{"userID":"ana"}`, protocol.CodeBadToken},
		"no token":       {loginWith("ana", "hello"), protocol.CodeBadToken},
		"forged":         {loginWith("ana", tokenOf(t, strings.ToUpper(secret), "ana", hour)), protocol.CodeBadToken},
		"unsigned":       {loginWith("ana", unsigned), protocol.CodeBadToken},
		"of other user":  {loginWith("bo", good), protocol.CodeBadToken},
		"expired":        {loginWith("ana", tokenOf(t, secret, "ana", time.Now().Add(-time.Second))), protocol.CodeTokenExpired},
		"too late a try": {loginWith("ana", tokenOf(t, secret, "ana", time.Now().Add(-time.Hour))), protocol.CodeTokenExpired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := connect(t, g.URL())
			w.send(protocol.MethodLogin, tt.login)
			if err := w.refused(tt.want); strings.Contains(err.Message, good[:20]) {
				t.Errorf("the token is in what the client is told: %s", err.Message)
			}
			// It may be tried again on the same connection.
			if r := w.login(loginWith("ana", good)); r.TokenExpiresAt != hour.UnixMilli() {
				t.Errorf("got tokenExpiresAt %d, want %d", r.TokenExpiresAt, hour.UnixMilli())
			}
		})
	}
	t.Run("three times", func(t *testing.T) {
		t.Parallel()
		w := connect(t, g.URL())
		for range 3 {
			w.send(protocol.MethodLogin, `{"userID":"ana"}`)
			w.refused(protocol.CodeBadToken)
		}
		w.wantClosed(protocol.CloseNotAuthorised)
	})
	t.Run("server API without keys", func(t *testing.T) {
		t.Parallel()
		if status, _ := gatetest.Request("DELETE", "http://"+g.Addr+"/v1/rooms/R", "dev", ""); status != 401 {
			t.Errorf("got %d, want 401", status)
		}
	})
}

// A client is told before its token expires, and closed when it has; one that
// renews it in time is not.
func TestToken_expiry(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), "--no-dev", "--jwt-hs256-secret-file="+secretFile(t))
	soon := time.Now().Add(4 * time.Second).Truncate(time.Second)
	late, renews := connect(t, g.URL()), connect(t, g.URL())
	for w, user := range map[*wire]string{late: "ana", renews: "bo"} {
		w.login(loginWith(user, tokenOf(t, secret, user, soon)))
		got := w.take()
		if p := params[protocol.TokenWillExpire](t, got); !strings.Contains(got, `"method":"tokenWillExpire"`) || p.Second < 1 || p.Second > 4 {
			t.Errorf("got %s, want tokenWillExpire in 1 to 4 seconds", got)
		}
	}
	renews.send(protocol.MethodRenewToken, `{"token":"hello"}`)
	renews.refused(protocol.CodeBadToken)
	renews.send(protocol.MethodRenewToken, fmt.Sprintf(`{"token":%q}`, tokenOf(t, secret, "ana", soon.Add(time.Hour))))
	renews.refused(protocol.CodeBadToken)
	var r protocol.RenewTokenResult
	renews.ask(protocol.MethodRenewToken, fmt.Sprintf(`{"token":%q}`, tokenOf(t, secret, "bo", soon.Add(time.Hour))), &r)
	if want := soon.Add(time.Hour).UnixMilli(); r.TokenExpiresAt != want {
		t.Errorf("got tokenExpiresAt %d, want %d", r.TokenExpiresAt, want)
	}

	if got := late.until("connection disconnected tokenExpired"); len(got) != 1 {
		t.Errorf("got %q, want that the token has expired", got)
	}
	late.wantClosed(protocol.CloseNotAuthorised)
	if now := time.Now(); now.Before(soon) {
		t.Errorf("closed %v before the token expired", soon.Sub(now))
	}
	renews.settled()
}

// A client that comes back with a token that has expired meanwhile is out, and
// hears so of each of its rooms; the others see it leave at its deadline.
func TestResume_refused(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	flags := []string{"--no-dev", "--jwt-hs256-secret-file=" + secretFile(t)}
	a, b := startPair(t, server.Addr(), flags...)
	hour := time.Now().Add(time.Hour)
	bo := connect(t, b.URL())
	bo.login(loginWith("bo", tokenOf(t, secret, "bo", hour)))
	bo.enter("R")

	link := faultproxy.Start(t, a.Addr)
	ana := &person{t: t, name: "ana", arrived: make(chan struct{}, 1)}
	tokens := []string{tokenOf(t, secret, "ana", hour), tokenOf(t, secret, "ana", time.Now().Add(-time.Minute))}
	var asked atomic.Int64
	var err error
	ana.Client, err = client.Dial(t.Context(), client.Config{
		URLs: []string{"ws://" + link.Addr(), b.URL()}, User: protocol.UserInfo{UserID: "ana"}, OnEvent: ana.hear,
		TokenFunc: func(context.Context) (string, error) {
			return tokens[min(asked.Add(1), int64(len(tokens)))-1], nil
		},
		MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ana.Close)
	ana.enter("R")
	ana.until("R connected success")
	bo.until("R +ana 2")
	book := follow(t, rdb, "R")
	link.Cut()
	ana.hears("connection reconnecting loginInterrupted", "R connecting networkInterrupted",
		"R disconnected networkDisconnected", "connection disconnected tokenExpired")
	book.eviction("ana")
	bo.hears("R -ana 1")
}
