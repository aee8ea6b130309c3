package auth_test

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/roomgate/roomgate/gateway/auth"
)

var (
	secret = []byte("0123456789abcdef0123456789abcdef")
	now    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// sign makes a token from its parts by hand, so that a test can say things
// that no library would sign.
func sign(key []byte, header, claims any) string {
	part := func(v any) string {
		text, ok := v.(string)
		if !ok {
			b, err := json.Marshal(v)
			if err != nil {
				panic(err)
			}
			text = string(b)
		}
		return base64.RawURLEncoding.EncodeToString([]byte(text))
	}
	body := part(header) + "." + part(claims)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(body))
	return body + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

type obj = map[string]any

var hs256 = obj{"alg": "HS256", "typ": "JWT"}

// A login succeeds only with a token that is signed with our secret by HS256,
// in force, and made out to the very user who logs in.
func TestHS256_Verify(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	rs256, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"sub": "ana", "exp": now.Unix() + 60}).SignedString(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"sub": "ana", "exp": now.Unix() + 60}).
		SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}

	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	good := sign(secret, hs256, obj{"sub": "ana", "exp": at(time.Minute)})
	head, rest, _ := strings.Cut(good, ".")
	body, sig, _ := strings.Cut(rest, ".")

	tests := []struct {
		name  string
		token string
		want  error
		text  string // part of the error's text
	}{
		{"good", good, nil, ""},
		{"no token", "", auth.ErrMissing, "HS256"},

		{"not a token", "hello", auth.ErrInvalid, "well-formed"},
		{"two parts", head + "." + body, auth.ErrInvalid, "well-formed"},
		{"four parts", good + ".x", auth.ErrInvalid, "well-formed"},
		{"header not JSON", sign(secret, "{", obj{"sub": "ana"}), auth.ErrInvalid, "well-formed"},
		{"claims not JSON", sign(secret, hs256, "{"), auth.ErrInvalid, "well-formed"},
		{"claims null", sign(secret, hs256, "null"), auth.ErrInvalid, "no sub"},
		{"claims a list", sign(secret, hs256, "[]"), auth.ErrInvalid, "well-formed"},
		{"exp a string", sign(secret, hs256, obj{"sub": "ana", "exp": "tomorrow"}), auth.ErrInvalid, "well-formed"},
		{"sub a number", sign(secret, hs256, obj{"sub": 7, "exp": at(time.Minute)}), auth.ErrInvalid, "well-formed"},
		{"base64 with padding", head + "." + body + "." + sig + "=", auth.ErrInvalid, "well-formed"},

		{"wrong secret", sign([]byte("another secret that is long enough"), hs256, obj{"sub": "ana", "exp": at(time.Minute)}), auth.ErrInvalid, "secret"},
		{"empty signature", head + "." + body + ".", auth.ErrInvalid, "secret"},
		{"signature of other claims", head + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"bob","exp":9999999999}`)) + "." + sig, auth.ErrInvalid, "secret"},
		{"alg none", none, auth.ErrInvalid, "HS256"},
		{"alg none, signed", sign(secret, obj{"alg": "none"}, obj{"sub": "ana", "exp": at(time.Minute)}), auth.ErrInvalid, "HS256"},
		{"alg missing", sign(secret, obj{"typ": "JWT"}, obj{"sub": "ana", "exp": at(time.Minute)}), auth.ErrInvalid, "HS256"},
		{"alg hs256 in lower case", sign(secret, obj{"alg": "hs256"}, obj{"sub": "ana", "exp": at(time.Minute)}), auth.ErrInvalid, "HS256"},
		{"alg HS512 with our secret", signedString(t, jwt.SigningMethodHS512, secret), auth.ErrInvalid, "HS256"},
		{"RS256", rs256, auth.ErrInvalid, "HS256"},
		{"unknown critical extension", sign(secret, obj{"alg": "HS256", "crit": []string{"b64"}}, obj{"sub": "ana", "exp": at(time.Minute)}), auth.ErrInvalid, "crit"},

		{"no sub", sign(secret, hs256, obj{"exp": at(time.Minute)}), auth.ErrInvalid, "no sub"},
		{"empty sub", sign(secret, hs256, obj{"sub": "", "exp": at(time.Minute)}), auth.ErrInvalid, "no sub"},
		{"other user", sign(secret, hs256, obj{"sub": "bob", "exp": at(time.Minute)}), auth.ErrOtherUser, "sub"},
		{"user in other case", sign(secret, hs256, obj{"sub": "Ana", "exp": at(time.Minute)}), auth.ErrOtherUser, "sub"},
		{"user with a space", sign(secret, hs256, obj{"sub": "ana ", "exp": at(time.Minute)}), auth.ErrOtherUser, "sub"},

		{"no exp", sign(secret, hs256, obj{"sub": "ana"}), auth.ErrInvalid, "no exp"},
		{"exp null", sign(secret, hs256, obj{"sub": "ana", "exp": nil}), auth.ErrInvalid, "no exp"},
		{"expired by a second", sign(secret, hs256, obj{"sub": "ana", "exp": at(-time.Second)}), auth.ErrExpired, "2026-03-01T11:59:59Z"},
		{"expires now", sign(secret, hs256, obj{"sub": "ana", "exp": at(0)}), auth.ErrExpired, "2026-03-01T12:00:00Z"},
		{"a second left", sign(secret, hs256, obj{"sub": "ana", "exp": at(time.Second)}), nil, ""},
		{"exp zero", sign(secret, hs256, obj{"sub": "ana", "exp": 0}), auth.ErrExpired, "1970"},
		{"exp in milliseconds", sign(secret, hs256, obj{"sub": "ana", "exp": now.UnixMilli()}), auth.ErrInvalid, "9999"},
		{"expired, and another user's", sign(secret, hs256, obj{"sub": "bob", "exp": at(-time.Hour)}), auth.ErrExpired, ""},

		{"nbf now", sign(secret, hs256, obj{"sub": "ana", "exp": at(time.Minute), "nbf": at(0)}), nil, ""},
		{"nbf at the leeway", sign(secret, hs256, obj{"sub": "ana", "exp": at(time.Minute), "nbf": at(auth.NotBeforeLeeway)}), nil, ""},
		{"nbf beyond the leeway", sign(secret, hs256, obj{"sub": "ana", "exp": at(time.Minute), "nbf": at(auth.NotBeforeLeeway + time.Second)}), auth.ErrInvalid, "nbf"},
	}
	v := newHS256(t, secret)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			expires, err := v.Verify(tt.token, "ana", now)
			check(t, tt.token, expires, err, tt.want, tt.text)
		})
	}

	// The token says which algorithm it wants, and is not asked: not even if our
	// secret happens to be the public key that would verify its signature.
	t.Run("RS256, verified by our secret", func(t *testing.T) {
		t.Parallel()
		expires, err := newHS256(t, publicPEM).Verify(rs256, "ana", now)
		check(t, rs256, expires, err, auth.ErrInvalid, "HS256")
	})
}

func check(t *testing.T, token string, expires time.Time, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	if want == nil {
		if !expires.After(now) {
			t.Errorf("got expires %v, want after %v", expires, now)
		}
		return
	}
	if !expires.IsZero() {
		t.Errorf("got expires %v with an error, want zero", expires)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("got text %q, want it to contain %q", err, text)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 && strings.Contains(err.Error(), part) {
			t.Errorf("text %q shows the token", err)
		}
	}
}

func signedString(t *testing.T, method jwt.SigningMethod, key any) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, jwt.MapClaims{"sub": "ana", "exp": now.Unix() + 60}).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newHS256(t testing.TB, secret []byte) *auth.HS256 {
	t.Helper()
	v, err := auth.NewHS256(secret)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A secret shorter than the hash is refused, and so is none at all.
func TestNewHS256_shortSecret(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, auth.MinSecret - 1} {
		if _, err := auth.NewHS256(make([]byte, n)); err == nil {
			t.Errorf("secret of %d bytes: got no error", n)
		}
	}
}

// The verifier keeps no reference to the caller's secret.
func TestNewHS256_copiesSecret(t *testing.T) {
	t.Parallel()
	own := append([]byte(nil), secret...)
	v := newHS256(t, own)
	clear(own)
	if _, err := v.Verify(sign(secret, hs256, obj{"sub": "ana", "exp": now.Unix() + 60}), "ana", now); err != nil {
		t.Errorf("got %v after the caller wiped its copy", err)
	}
}

// Dev refuses nobody and nothing ever expires.
func TestDev_Verify(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"", "x"} {
		expires, err := auth.Dev{}.Verify(token, "ana", now)
		if err != nil || !expires.IsZero() {
			t.Errorf("token %q: got %v, %v, want zero time and no error", token, expires, err)
		}
	}
}

// Whatever the bytes: no panic, one of the four kinds of refusal, and nobody
// gets in without a signature by our secret.
func FuzzHS256_Verify(f *testing.F) {
	good := sign(secret, hs256, obj{"sub": "ana", "exp": now.Unix() + 60})
	f.Add(good, "ana")
	f.Add(good+".", "ana")
	f.Add("", "")
	f.Add("..", "ana")
	f.Add(sign(secret, obj{"alg": "none"}, "null"), "ana")
	f.Add(sign(secret, hs256, `{"sub":"ana","exp":1e300,"nbf":-1e300}`), "ana")
	v := newHS256(f, secret)
	f.Fuzz(func(t *testing.T, token, userID string) {
		expires, err := v.Verify(token, userID, now)
		if err == nil {
			i := strings.LastIndexByte(token, '.')
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(token[:i]))
			if token[i+1:] != base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) {
				t.Errorf("token %q got in without our signature", token)
			}
			if !expires.After(now) {
				t.Errorf("token %q: expires %v, want after %v", token, expires, now)
			}
			return
		}
		for _, kind := range []error{auth.ErrMissing, auth.ErrInvalid, auth.ErrExpired, auth.ErrOtherUser} {
			if errors.Is(err, kind) {
				return
			}
		}
		t.Errorf("token %q: got %v, want one of the package's kinds", token, err)
	})
}

// The claims are hostile, the signature is right: still no panic and no
// expiry that is past, or beyond what can be told in milliseconds.
func FuzzHS256_Verify_signed(f *testing.F) {
	f.Add(`{"sub":"ana","exp":1e300}`)
	f.Add(`{"sub":"ana","exp":-1e300,"nbf":1e300}`)
	f.Add(`{"sub":"ana","exp":253402300799.5}`)
	f.Add(`{"sub":"ana","exp":99999999999999999999}`)
	v := newHS256(f, secret)
	f.Fuzz(func(t *testing.T, claims string) {
		expires, err := v.Verify(sign(secret, hs256, claims), "ana", now)
		if err == nil && (!expires.After(now) || expires.Year() > 9999) {
			t.Errorf("claims %s: got expires %v", claims, expires)
		}
	})
}
