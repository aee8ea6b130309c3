package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/roomgate/roomgate/protocol"
)

// patience bounds the wait for an answer that must come.
const patience = 30 * time.Second

// A conn is one client. What a loop reads for it is passed on under the lock
// of that loop, which also guards what says so.
type conn struct {
	loop *loop
	user string
	addr string                      // host and port of its gateway
	hear func(h heard, at time.Time) // never nil; under loop.mu

	lastID atomic.Int64 // of requests; also their requestKey

	// Guarded by loop.mu.
	rest   []byte // of a frame that has not come in full
	calls  map[int64]chan heard
	ending bool  // we end it ourselves
	ended  error // why it has ended; nil: it has not

	writing sync.Mutex // one frame at a time
	end     end        // the system's side of it
	token   string     // it logs in with; may be empty
}

// nowhere is what a client does with events that nobody waits for.
func nowhere(heard, time.Time) {}

// endpoint is the address of a gateway, as host and port, the path, and whether TLS is
// spoken there.
func endpoint(text string) (addr, path string, secure bool, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", "", false, fmt.Errorf("--url: %w", err)
	}
	port := "80"
	switch u.Scheme {
	case "ws", "http":
	case "wss", "https":
		port, secure = "443", true
	default:
		u.Host = ""
	}
	if u.Host == "" {
		return "", "", false, fmt.Errorf("--url is %q, it must begin with ws:// or wss:// and a host", text)
	}
	addr = u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), port)
	}
	if path = u.Path; path == "" || path == "/" {
		path = protocol.Path
	}
	return addr, path, secure, nil
}

// access is what clients need to be let in.
type access struct {
	pem         []byte         // of authorities
	authorities *x509.CertPool // who may sign a server's certificate; nil: whom the system trusts
	secret      []byte         // that login tokens are signed with; nil: no tokens
}

// readAccess takes the names of two files, which may be empty.
func readAccess(caFile, secretFile string) (a access, err error) {
	if caFile != "" {
		if a.pem, err = os.ReadFile(caFile); err != nil {
			return a, fmt.Errorf("--ca-file: %w", err)
		}
		if a.authorities = x509.NewCertPool(); !a.authorities.AppendCertsFromPEM(a.pem) {
			return a, fmt.Errorf("--ca-file: %s holds no certificate in PEM", caFile)
		}
	}
	if secretFile != "" {
		b, err := os.ReadFile(secretFile)
		if err != nil {
			return a, fmt.Errorf("--jwt-hs256-secret-file: %w", err)
		}
		a.secret = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r")) // as gateways do
		if len(a.secret) < 32 {
			return a, fmt.Errorf("--jwt-hs256-secret-file: the secret in %s has %d bytes, gateways take 32 or more", secretFile, len(a.secret))
		}
	}
	return a, nil
}

// token is a user's for the next day.
func (a access) token(user string) (string, error) {
	if a.secret == nil {
		return "", nil
	}
	claims := jwt.RegisteredClaims{Subject: user, ExpiresAt: jwt.NewNumericDate(time.Now().Add(24 * time.Hour))}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(a.secret)
}

// dial connects a client and gives it to a loop.
func (a access) dial(ctx context.Context, l *loop, gate, user string) (*conn, error) {
	addr, path, secure, err := endpoint(gate)
	if err != nil {
		return nil, err
	}
	token, err := a.token(user)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	socket := nc.(*net.TCPConn)
	socket.SetLinger(0) // thousands of ports in TIME_WAIT help nobody
	if secure {
		host, _, _ := net.SplitHostPort(addr)
		nc = tls.Client(socket, &tls.Config{ServerName: host, RootCAs: a.authorities, NextProtos: []string{"http/1.1"}})
	}
	early, err := upgrade(ctx, nc, addr, path)
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	c := &conn{loop: l, user: user, addr: addr, token: token, hear: nowhere, rest: early}
	if secure {
		l.follow(c, nc, socket)
		return c, nil
	}
	if err := l.add(c, socket); err != nil {
		return nil, err
	}
	return c, nil
}

// upgrade does the handshake, and returns what came behind it.
func upgrade(ctx context.Context, nc net.Conn, host, path string) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	nc.SetDeadline(deadline)
	defer nc.SetDeadline(time.Time{})
	_, err := fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cm9vbWJlbmNocm9vbWJlbg==\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
		path, host, protocol.Subprotocol)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(nc, 1024)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("handshake: %s", res.Status)
	}
	early, err := r.Peek(r.Buffered())
	return bytes.Clone(early), err
}

// feed takes what a loop has read. The caller holds the lock of the loop.
func (c *conn) feed(b []byte, at time.Time) {
	if c.ended != nil {
		return
	}
	partly := len(c.rest) > 0
	if partly {
		c.rest = append(c.rest, b...)
		b = c.rest
	}
	for {
		op, payload, rest, err := nextFrame(b)
		if err != nil {
			c.fail(err)
			return
		}
		b = rest
		switch op {
		case 0:
			switch {
			case len(b) == 0:
				c.rest = nil // an idle client holds no memory
			case partly:
				c.rest = c.rest[:copy(c.rest, b)]
			default:
				c.rest = bytes.Clone(b)
			}
			return
		case opText:
			c.take(listen(payload), at)
		case opPing:
			c.write(opPong, payload)
		case opClose:
			c.fail(closed(payload))
			return
		}
	}
}

func (c *conn) take(h heard, at time.Time) {
	if len(c.calls) > 0 && (h.kind == kindResult || h.kind == kindError) {
		if answer, ok := c.calls[h.id]; ok {
			delete(c.calls, h.id)
			h.text = bytes.Clone(h.text)
			answer <- h
			return
		}
	}
	c.hear(h, at)
}

// fail ends the client. The caller holds the lock of its loop.
func (c *conn) fail(err error) {
	if c.ended != nil {
		return
	}
	c.ended = err
	c.end.close()
	for _, answer := range c.calls {
		close(answer)
	}
	c.calls = nil
	if !c.ending && c.loop.lost != nil {
		c.loop.lost(c, err)
	}
}

// closedError is a close frame.
type closedError struct {
	code   protocol.CloseCode
	reason string
}

func (e *closedError) Error() string {
	return fmt.Sprintf("closed by the server with %d %s", e.code, e.reason)
}

func closed(payload []byte) error {
	if len(payload) < 2 {
		return errors.New("closed by the server without a code")
	}
	return &closedError{protocol.CloseCode(binary.BigEndian.Uint16(payload)), string(payload[2:])}
}

// write sends a frame.
func (c *conn) write(op byte, b []byte) error {
	frame := clientFrame(op, b)
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.end.write(frame)
}

// ask sends a request that the client hears the answer of.
func (c *conn) ask(id int64, method, params string) error {
	return c.write(opText, request(id, method, params))
}

// call sends a request and waits for its result.
func (c *conn) call(ctx context.Context, method, params string) (json.RawMessage, error) {
	return c.callAs(ctx, c.lastID.Add(1), method, params)
}

func (c *conn) callAs(ctx context.Context, id int64, method, params string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer := make(chan heard, 1)
	c.loop.mu.Lock()
	if err := c.ended; err != nil {
		c.loop.mu.Unlock()
		return nil, fmt.Errorf("%s of %s at %s: %w", method, c.user, c.addr, err)
	}
	if c.calls == nil {
		c.calls = map[int64]chan heard{}
	}
	c.calls[id] = answer
	c.loop.mu.Unlock()

	err := c.ask(id, method, params)
	if err == nil {
		select {
		case h, ok := <-answer:
			switch {
			case !ok:
				c.loop.mu.Lock()
				err = c.ended
				c.loop.mu.Unlock()
			case h.kind == kindError:
				err = h.failure()
			default:
				var m protocol.Response
				if err = json.Unmarshal(h.text, &m); err == nil {
					return m.Result, nil
				}
			}
		case <-ctx.Done():
			err = fmt.Errorf("no answer: %w", context.Cause(ctx))
		}
	}
	return nil, fmt.Errorf("%s of %s at %s: %w", method, c.user, c.addr, err)
}

// login logs the client in, to go on with a session if one is named.
func (c *conn) login(ctx context.Context, resume *protocol.Resume) (result protocol.LoginResult, err error) {
	params, err := json.Marshal(protocol.LoginParams{UserID: c.user, UserName: c.user, Token: c.token, Platform: "bench", Resume: resume})
	if err != nil {
		return result, err
	}
	answer, err := c.call(ctx, protocol.MethodLogin, string(params))
	if err != nil {
		return result, err
	}
	return result, json.Unmarshal(answer, &result)
}

// enter brings it into a room.
func (c *conn) enter(ctx context.Context, room string) error {
	id := c.lastID.Add(1)
	_, err := c.callAs(ctx, id, protocol.MethodEnterRoom, enterParams(room, id))
	return err
}

// Parameters are put together by hand: no ID of ours, and no text, needs
// escaping.

func enterParams(room string, key int64) string {
	return `{"roomInfo":{"roomID":"` + room + `","roomName":"bench"},"requestKey":` + strconv.FormatInt(key, 10) + `}`
}

func leaveParams(room string, key int64) string {
	return `{"roomID":"` + room + `","requestKey":` + strconv.FormatInt(key, 10) + `}`
}

func sendParams(room, text string, key int64) string {
	return `{"roomID":"` + room + `","message":{"type":1,"message":"` + text + `"},"requestKey":` + strconv.FormatInt(key, 10) + `}`
}

// hangUp ends the client without ceremony.
func (c *conn) hangUp() {
	c.loop.mu.Lock()
	defer c.loop.mu.Unlock()
	c.ending = true
	c.fail(net.ErrClosed)
}

// listenWith has the client pass on what it hears.
func (c *conn) listenWith(hear func(heard, time.Time)) {
	c.loop.mu.Lock()
	defer c.loop.mu.Unlock()
	c.hear = hear
}
