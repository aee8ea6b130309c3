package auth

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// MinSecret is the shortest secret that NewHS256 takes, in bytes: RFC 7518,
// section 3.2, asks for a key as long as the hash.
const MinSecret = 32

// NotBeforeLeeway is how far in the future a token's nbf may lie: the clock of
// whoever issued the token may be that much ahead of ours. exp has no leeway,
// so the expiry that a client is told is the one that is kept.
const NotBeforeLeeway = 5 * time.Second

// maxExpiry is the latest exp we take. It keeps milliseconds, and whatever a
// client makes of them, far from overflowing.
var maxExpiry = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// HS256 accepts JSON Web Tokens signed by HMAC-SHA-256 with a shared secret.
//
// A token must name the user in sub and its end in exp; nbf is honoured if
// present. All other claims are ignored. No algorithm but HS256 is accepted,
// whatever the token's header asks for.
type HS256 struct {
	secret []byte
	parser *jwt.Parser
}

// NewHS256 returns a verifier for tokens signed with secret, of which it keeps
// a copy. It fails if the secret is shorter than MinSecret.
func NewHS256(secret []byte) (*HS256, error) {
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("secret has %d bytes, HS256 needs at least %d", len(secret), MinSecret)
	}
	return &HS256{
		secret: append([]byte(nil), secret...),
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
			jwt.WithStrictDecoding(),
			// The claims are checked below: the library's texts quote the
			// token, and its one leeway covers exp and nbf alike.
			jwt.WithoutClaimsValidation(),
		),
	}, nil
}

// Verify checks the signature first, then whether the token is in force, and
// last whose it is.
func (v *HS256) Verify(token, userID string, now time.Time) (time.Time, error) {
	if token == "" {
		return time.Time{}, fmt.Errorf("%w: log in with a JSON Web Token signed with HS256", ErrMissing)
	}
	var claims jwt.RegisteredClaims
	parsed, err := v.parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return v.secret, nil })
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return time.Time{}, invalid("it is not a well-formed JSON Web Token")
	case err != nil:
		return time.Time{}, invalid("it is not signed with HS256 and this service's secret")
	}
	if _, ok := parsed.Header["crit"]; ok {
		return time.Time{}, invalid("its header has crit, and no extension is supported")
	}

	switch {
	case claims.Subject == "":
		return time.Time{}, invalid("it has no sub, which must be the userID")
	case claims.ExpiresAt == nil:
		return time.Time{}, invalid("it has no exp")
	case claims.ExpiresAt.After(maxExpiry):
		return time.Time{}, invalid("its exp lies after the year 9999; exp counts seconds since 1970")
	}
	expires := claims.ExpiresAt.Time
	if !now.Before(expires) {
		return time.Time{}, fmt.Errorf("%w: its exp was %s", ErrExpired, expires.UTC().Format(time.RFC3339))
	}
	if nbf := claims.NotBefore; nbf != nil && nbf.After(now.Add(NotBeforeLeeway)) {
		return time.Time{}, invalid("it is not in force yet: its nbf lies more than %v in the future", NotBeforeLeeway)
	}
	if claims.Subject != userID {
		return time.Time{}, fmt.Errorf("%w: its sub is not the userID of this login", ErrOtherUser)
	}
	return expires, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
