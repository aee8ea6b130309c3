//go:build unix

package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/roomgate/roomgate/internal/freeport"
)

// TLS is what two sides know each other by: files in the form of PEM, made for
// one test.
type TLS struct {
	CA, Cert, Key string // who signs; and a certificate for 127.0.0.1 with its key
}

// NewTLS makes an authority of its own and a certificate that it has signed, for
// servers and clients alike.
func NewTLS(t testing.TB) *TLS {
	t.Helper()
	dir := t.TempDir()
	c := &TLS{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, kind string, der []byte) {
		t.Helper()
		check(os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	valid := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		}
	}

	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	ca := valid(1, "test authority")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	check(err)
	write(c.CA, "CERTIFICATE", der)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	cert := valid(2, "test")
	cert.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	cert.KeyUsage, cert.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err = x509.CreateCertificate(rand.Reader, cert, ca, &key.PublicKey, caKey)
	check(err)
	write(c.Cert, "CERTIFICATE", der)
	der, err = x509.MarshalPKCS8PrivateKey(key)
	check(err)
	write(c.Key, "PRIVATE KEY", der)
	return c
}

// StartTLS is [Start] for a server that besides is reached by TLS, at the address
// that it returns, by clients that show a certificate.
func StartTLS(t testing.TB, c *TLS, args ...string) (s *Server, addr string) {
	t.Helper()
	binary, err := find()
	if err != nil {
		missing(t, err)
	}
	s = launchTLS(t, c, []string{binary}, args)
	return s, s.tls
}

func launchTLS(t testing.TB, c *TLS, command, args []string) *Server {
	t.Helper()
	port, err := freeport.New()
	if err != nil {
		t.Fatal(err)
	}
	s := launch(t, command, append([]string{"--tls-port", strconv.Itoa(port), "--tls-cert-file", c.Cert, "--tls-key-file", c.Key,
		"--tls-ca-cert-file", c.CA, "--tls-auth-clients", "yes"}, args...))
	s.tls = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	return s
}

// known is where other servers know this one to be.
func (s *Server) known() string {
	if s.tls != "" {
		return s.tls
	}
	return s.Addr()
}
