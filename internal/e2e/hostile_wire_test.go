//go:build linux

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/protocol"
)

// Text that is not JSON is refused by −32700, and what is JSON and no request by
// −32600; both say why, and nothing comes of either.
func TestHostile_texts(t *testing.T) {
	onHostileGround(t, func(g *ground) {
		deep := func(n int, open, shut string) string { return times(open, n) + times(shut, n) }
		ping := func(id string) string { return `{"jsonrpc":"2.0","id":` + id + `,"method":"ping"}` }
		for _, tt := range []struct{ text, word string }{
			{"", "unexpected end"}, {" \n", "unexpected end"}, {"{", "unexpected end"}, {"[1,", "unexpected end"}, {`"x`, "unexpected end"},
			{"hello", "'h'"}, {"\x00", `'\x00'`}, {"\x01\x02\x1b[31m", `'\x01'`}, {"{}{}", "'{'"}, {ping("1") + "x", "'x'"}, {ping("1") + ping("2"), "'{'"},
			{`{"a":1,}`, "'}'"}, {`[1,]`, "']'"}, {`{a:1}`, "'a'"}, {`{'a':1}`, `'\''`}, {"{\"a\":\"\n\"}", `'\n'`}, {`"\x41"`, "'x'"}, {"// no\n{}", "'/'"},
			{"NaN", "'N'"}, {"Infinity", "'I'"}, {"+1", "'+'"}, {"01", "'1'"}, {"1.", "decimal point"}, {".5", "'.'"}, {"0x10", "'x'"}, {"-", "numeric literal"}, {"tru", "literal true"},
			{"\xff", "UTF-8"}, {"{\"a\":\"\xc3\"}", "UTF-8"}, {"{\"a\":\"\xed\xa0\x80\"}", "UTF-8"}, {"\xfe\xff\x00{", "UTF-8"},
			{"\ufeff" + ping("1"), "byte order mark"},
			{deep(10_001, "[", "]"), "10000 levels"}, {deep(30_000, "[", "]"), "10000 levels"}, {times(`{"a":`, 10_001), "10000 levels"},
			{`{"jsonrpc":"2.0","id":1,"method":"ping","params":` + deep(20_000, "[", "]") + `}`, "10000 levels"},
			{times("[", 65_536), "10000 levels"}, {times("[", 10_000), "unexpected end"},
			{times("9", 65_000) + "x", "'x'"},
		} {
			// Each on a connection of its own: the tenth would be the last.
			g.refusesText(connect(g, g.a.URL()), tt.text, "null", protocol.CodeParseError, tt.word)
		}
		for _, tt := range []struct{ text, id, word string }{
			{"17", "null", "an object, not a number"}, {"null", "null", "an object, not null"}, {`"ping"`, "null", "an object, not a string"},
			{"true", "null", "an object, not a boolean"}, {times("9", 65_000), "null", "an object, not a number"}, {"{}", "null", "jsonrpc"},
			{`{"id":5,"method":"ping"}`, "5", "jsonrpc"}, {`{"jsonrpc":"1.0","id":5,"method":"ping"}`, "5", `"1.0"`},
			{`{"jsonrpc":2.0,"id":5,"method":"ping"}`, "null", "jsonrpc must be a string"}, {`{"jsonrpc":"` + times("2", 60_000) + `","id":5}`, "5", "jsonrpc"},
			{`{"jsonrpc":"2.0","id":5}`, "5", "method is missing"}, {`{"jsonrpc":"2.0","id":5,"method":""}`, "5", "method is missing"},
			{`{"jsonrpc":"2.0","id":5,"method":7}`, "null", "method must be a string, not a number"},
			{`{"jsonrpc":"2.0","id":5,"method":["ping"]}`, "null", "method must be a string, not an array"},
			{`{"jsonrpc":"2.0","id":{},"method":"ping"}`, "null", "id must be"}, {`{"jsonrpc":"2.0","id":[1],"method":"ping"}`, "null", "id must be"},
			{`{"jsonrpc":"2.0","id":true,"method":"ping"}`, "null", "id must be"},
			{`{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}`, "null", "id comes twice"},
			{`{"jsonrpc":"2.0","id":1,"method":"ping","method":"logout"}`, "null", "method comes twice"},
			{`{"jsonrpc":"2.0","id":1,"Method":"logout"}`, "null", "Method must be spelled method"},
			{`{"JSONRPC":"2.0","id":1,"method":"logout"}`, "null", "JSONRPC must be spelled jsonrpc"},
			{"[]", "null", "0 requests, allowed are 1 to 64"}, {" [ ] ", "null", "0 requests"},
			{"[" + times(ping("1")+",", 64) + ping("1") + "]", "null", "65 requests, allowed are 1 to 64"},
			{"[" + times("1,", 32_000) + "1]", "null", "32001 requests"},
			{"[" + times(`{"jsonrpc":"2.0","method":"logout"},`, 999) + ping("1") + "]", "null", "1000 requests"},
		} {
			g.refusesText(g.ana, tt.text, tt.id, protocol.CodeInvalidRequest, tt.word)
		}
		for _, tt := range []struct {
			text string
			code protocol.Code
			word string
		}{
			{`"method":"fly"`, protocol.CodeMethodNotFound, `"fly"`}, {`"method":"PING"`, protocol.CodeMethodNotFound, `"PING"`},
			{`"method":"\u0000\n` + times("x", 60_000) + `"`, protocol.CodeMethodNotFound, `"\x00\nxxx`}, {`"method":"ping "`, protocol.CodeMethodNotFound, `"ping "`},
			{`"method":"logout","params":[]`, protocol.CodeInvalidParams, "params must be an object, not an array"},
			{`"method":"logout","params":"all"`, protocol.CodeInvalidParams, "params must be an object, not a string"},
			{`"method":"joinRoom"`, protocol.CodeInvalidParams, "roomID is missing"}, {`"method":"joinRoom","params":null`, protocol.CodeInvalidParams, "roomID is missing"},
			{`"method":"joinRoom","params":["R"]`, protocol.CodeInvalidParams, "params must be an object, not an array"},
			{`"method":"login","params":{"userID":"ana"}`, protocol.CodeAlreadyLoggedIn, "logged in already"},
			{`"method":"login","params":{"userID":7}`, protocol.CodeAlreadyLoggedIn, "logged in already"},
		} {
			g.refusesText(g.ana, `{"jsonrpc":"2.0","id":"x",`+tt.text+`}`, `"x"`, tt.code, tt.word)
		}
		g.quiet()

		// What is odd and allowed.
		for _, id := range []string{"0", "-1", "1.50", "1e400", "-0.0e-0", times("9", 1000), `""`, `"\u0000\"\\"`, `"é"`, quoted(times("i", 60_000)), "null"} {
			g.ana.raw("\r\n\t " + ping(id) + " \n")
			if _, r := g.ana.response(); r.Error != nil || string(r.ID) != id {
				g.Errorf("id %.80s: got %.80s %+v", id, r.ID, r.Error)
			}
		}
		for _, text := range []string{
			`{"params":{"deep":` + deep(9_997, "[", "]") + `},"jsonrpc":"2.0","method":"ping","id":1}`,
			`{"\u006aso\u006erpc":"2\u002e0","method":"pin\u0067","id":1,"more":[{}],"":0}`,
			`{"jsonrpc":"2.0","method":"ping","id":1,"params":{"a":1e999,"a":` + times("9", 60_000) + `}}`,
		} {
			g.ana.raw(text)
			if _, r := g.ana.response(); r.Error != nil {
				g.Errorf("%.80s: got %+v", text, r.Error)
			}
		}
		g.quiet()
	})
}

// In a batch each stands for itself: what is no request is answered so, what has
// no id is carried out and not answered, what is refused leaves the rest alone.
func TestHostile_batches(t *testing.T) {
	onHostileGround(t, func(g *ground) {
		g.ana.raw(`[17,null,[],[[{"jsonrpc":"2.0","id":1,"method":"logout"}]],"x",{},{"id":5,"jsonrpc":"2.0"},
			{"jsonrpc":"2.0","id":6,"method":"joinRoom","params":{"roomID":"R","roomID":"S"}},
			{"jsonrpc":"2.0","method":"joinRoom","params":[]},
			{"jsonrpc":"2.0","method":"fly"},
			{"jsonrpc":"2.0","id":7,"method":"enterRoom","params":{"roomInfo":{"roomID":"a/b"}}},
			{"jsonrpc":"2.0","id":7,"method":"ping","params":{}}]`)
		got := g.ana.take()
		var answers []protocol.Response
		if err := json.Unmarshal([]byte(got), &answers); err != nil {
			g.Fatalf("%s: %v", got, err)
		}
		var list []string
		for _, a := range answers {
			code := protocol.Code(0)
			if a.Error != nil {
				code = a.Error.Code
				readable(g, "a batch", a.Error.Message)
			}
			list = append(list, fmt.Sprintf("%s %d", a.ID, code))
		}
		want := []string{"null -32600", "null -32600", "null -32600", "null -32600", "null -32600", "null -32600", "5 -32600", "6 -32602", "7 6000001", "7 0"}
		if d := cmp.Diff(want, list); d != "" {
			g.Errorf("answers (-want +got):\n%s", d)
		}
		g.unchanged("a batch of refusals")
		g.quiet()

		// Not answered, and carried out or not, as the others and Redis see.
		g.ana.raw(`[{"jsonrpc":"2.0","method":"enterRoom","params":{"roomInfo":{"roomID":"N"}}}]`)
		g.ana.hears("N connecting activeEnter", "N connected success")
		g.ana.raw(`{"jsonrpc":"2.0","method":"sendRoomMessage","params":{"roomID":"R","message":{"type":1,"message":"unanswered"}}}`)
		g.ana.raw(`{"jsonrpc":"2.0","method":"sendRoomMessage","params":{"roomID":"R","message":{"type":1,"message":""}}}`)
		g.ana.raw(`{"jsonrpc":"2.0","method":"sendRoomMessage","params":{"roomID":"S","message":{"type":1,"message":"x"}}}`)
		g.ana.raw(`{"jsonrpc":"2.0","method":"leaveRoom","params":{"roomID":"N"}}`)
		g.ana.raw(`{"jsonrpc":"2.0","id":1,"method":"leaveAllRoom","params":{}}`) // waits for those before it
		if d := cmp.Diff([]string{"N disconnected success", "R disconnected success", "ok"}, g.ana.until("ok")); d != "" {
			g.Errorf("ana (-want +got):\n%s", d)
		}
		g.bo.hears("R ana: unanswered", "R -ana 1")

		// A login in a batch counts for what is behind it.
		w := connect(g, g.a.URL())
		w.raw(`[{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":{"roomID":"R"}},{"jsonrpc":"2.0","method":"login","params":{"userID":"cy"}},
			{"jsonrpc":"2.0","id":3,"method":"joinRoom","params":{"roomID":"R"}},{"jsonrpc":"2.0","id":4,"method":"login","params":{"userID":"cy"}}]`)
		w.hears("R connecting activeEnter", "R connected success", "[error 6000121 ok error 6000111]")
		g.bo.hears("R +cy 2")

		// As many as are allowed, each of which enters a room.
		var all []string
		for i := range protocol.MaxBatch {
			all = append(all, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"enterRoom","params":{"roomInfo":{"roomID":"b%d"}}}`, i, i))
		}
		w.raw("[" + strings.Join(all, ",") + "]")
		for {
			if got := w.take(); strings.HasPrefix(got, "[") {
				if n := strings.Count(got, `"result"`); n != protocol.MaxUnanswered || strings.Count(got, "6000005") != protocol.MaxBatch-n {
					g.Errorf("%d of %d were carried out, want the first %d: %.500s", n, protocol.MaxBatch, protocol.MaxUnanswered, got)
				}
				break
			}
		}
	})
}

// Before the login nothing is done for anybody, in whatever form it comes; logins
// that are refused count, whatever they are refused for.
func TestHostile_beforeLogin(t *testing.T) {
	onHostileGround(t, func(g *ground) {
		w := connect(g, g.a.URL())
		for _, s := range specimens {
			if s.method != protocol.MethodPing {
				g.refuses(w, s.method, s.params, protocol.CodeNotLoggedIn, "not logged in")
				w.raw(fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":%s}`, s.method, s.params))
				g.refuses(w, "renewToken", `{"token":"t"}`, protocol.CodeNotLoggedIn) // waits for it
				w.raw(fmt.Sprintf(`[{"jsonrpc":"2.0","method":%q,"params":%s}]`, s.method, s.params))
				g.refuses(w, "renewToken", `{"token":"t"}`, protocol.CodeNotLoggedIn)
			}
		}
		g.refuses(w, "fly", `{}`, protocol.CodeMethodNotFound, "fly")
		g.refuses(w, "joinRoom", `{}`, protocol.CodeInvalidParams, "roomID")
		g.refuses(w, "login", `{"userID":7}`, protocol.CodeInvalidParams, "userID")
		g.refuses(w, "login", `{"userID":"a/b"}`, protocol.CodeBadParameter, "userID")
		g.quiet()
		w.settled()
		w.send(protocol.MethodLogin, `{}`)
		w.refused(protocol.CodeInvalidParams)
		w.wantClosed(protocol.CloseNotAuthorised)
	})
}

// frame is a WebSocket frame as a client sends it (RFC 6455, section 5.2), masked
// by zeros.
func frame(head byte, payload string) []byte { return frameOf(head, 0x80, len(payload), payload) }

// frameOf is frame for a length that may not be true, with a mask or without.
func frameOf(head, mask byte, length int, payload string) []byte {
	b := []byte{head}
	switch {
	case length < 0 || length > 0xffff:
		b = append(b, mask|127)
		for i := range 8 {
			b = append(b, byte(uint64(length)>>(56-8*i)))
		}
	case length > 125:
		b = append(b, mask|126, byte(length>>8), byte(length))
	default:
		b = append(b, mask|byte(length))
	}
	if mask != 0 {
		b = append(b, 0, 0, 0, 0)
	}
	return append(b, payload...)
}

// Heads of frames: text, continuation, close, ping, with or without FIN.
const (
	textPart, morePart         = 0x01, 0x00
	textWhole, lastPart        = 0x81, 0x80
	closeWhole, pingWhole      = 0x88, 0x89
	pongWhole, reserved1, rsv1 = 0x8a, 0x83, 0x40
)

// bytes sends frames as they are. Those behind the one that ends the connection
// may not arrive.
func (w *wire) bytes(frames ...[]byte) {
	w.t.Helper()
	w.ws.NetConn().SetWriteDeadline(time.Now().Add(patience))
	for _, f := range frames {
		if _, err := w.ws.NetConn().Write(f); err != nil && (errors.Is(err, os.ErrDeadlineExceeded) || w.alive()) {
			w.t.Fatalf("%s: write: %v", w.name, err)
		}
	}
}

func (w *wire) alive() bool {
	select {
	case <-w.done:
		return false
	default:
		return true
	}
}

// A message may come in any fragments, with control frames between them; a frame
// that breaks the protocol of WebSockets ends its connection and no other.
func TestHostile_frames(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	g := startGateway(t, server.Addr(), append(unhurried, "--session-ttl=3s")...)
	ping := `{"jsonrpc":"2.0","id":"é","method":"ping"}`
	half := strings.Index(ping, "é") + 1 // within a character
	pad := func(n int) string { return ping + times(" ", n-len(ping)) }

	t.Run("served", func(t *testing.T) {
		t.Parallel()
		w := connect(t, g.URL())
		pongs := make(chan string, 10)
		w.ws.SetPongHandler(func(data string) error {
			pongs <- data
			return nil
		})
		for name, frames := range map[string][][]byte{
			"one frame":             {frame(textWhole, ping)},
			"fragments":             {frame(textPart, ping[:half]), frame(morePart, ""), frame(morePart, ping[half:half+1]), frame(lastPart, ping[half+1:])},
			"the last one is empty": {frame(textPart, ping), frame(lastPart, "")},
			"control frames between": {frame(textPart, ping[:half]), frame(pingWhole, "a"), frame(pongWhole, "b"), frame(pingWhole, times("c", 125)),
				frame(lastPart, ping[half:])},
			"the largest there may be": {frame(textWhole, pad(protocol.MaxMessage))},
			"in single bytes":          singles(ping),
			"with a mask":              {masked(ping)},
		} {
			w.bytes(frames...)
			if _, r := w.response(); r.Error != nil || string(r.ID) != `"é"` {
				t.Errorf("%s: got %s %+v", name, r.ID, r.Error)
			}
		}
		for got := ""; got != times("c", 125); { // of those that wait, the last one is sent
			got = <-pongs
		}
		w.login(`{"userID":"ana"}`)
	})

	for name, tt := range map[string]struct {
		frames [][]byte
		want   int
	}{
		"binary":                     {[][]byte{frame(0x82, ping)}, 4500},
		"binary in fragments":        {[][]byte{frame(0x02, ping)}, 4500},
		"too big":                    {[][]byte{frame(textWhole, pad(protocol.MaxMessage+1))}, 1009},
		"too big in fragments":       {append(slices.Repeat([][]byte{frame(morePart, times(" ", 4096))}, 16), frame(lastPart, ping)), 1009},
		"said to be huge":            {[][]byte{frameOf(textWhole, 0x80, 1<<40, times(" ", protocol.MaxMessage+1))}, 1009},
		"of negative length":         {[][]byte{frameOf(textWhole, 0x80, -1, ping)}, -1},
		"without a mask":             {[][]byte{frameOf(textWhole, 0, len(ping), ping)}, -1},
		"with a reserved bit":        {[][]byte{frame(textWhole|rsv1, ping)}, 1002},
		"with all reserved bits":     {[][]byte{frame(textWhole|0x70, ping)}, 1002},
		"of a reserved kind":         {[][]byte{frame(reserved1, ping)}, 1002},
		"of a reserved control kind": {[][]byte{frame(0x8f, "")}, 1002},
		"a continuation of nothing":  {[][]byte{frame(lastPart, ping)}, 1002},
		"a text within a text":       {[][]byte{frame(textPart, ping[:4]), frame(textWhole, ping)}, 1002},
		"a ping that is too long":    {[][]byte{frame(pingWhole, times("x", 126))}, 1002},
		"a ping in fragments":        {[][]byte{frame(0x09, "x")}, 1002},
		"a close of one byte":        {[][]byte{frame(closeWhole, "x")}, 1002},
		"a close without its code":   {[][]byte{frame(closeWhole, "\x03\xe7no such code")}, 1002},
		"HTTP":                       {[][]byte{[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")}, 1002},
		"zeros":                      {[][]byte{make([]byte, 1000)}, -1},
		"a frame that never ends":    {[][]byte{frameOf(textWhole, 0x80, 1000, "{")}, 4002},
		"a header that never ends":   {[][]byte{{textWhole, 0xff, 0, 0}}, 4002},
		"a text that never ends":     {[][]byte{frame(textPart, "{"), frame(morePart, "")}, 4002},
		"a ping that never ends":     {[][]byte{frameOf(pingWhole, 0x80, 10, "x")}, 4002},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := connect(t, g.URL())
			w.login(`{"userID":"ana"}`)
			w.mute.Store(true) // a pong would be taken for what is missing
			if name == "too big in fragments" {
				tt.frames[0] = frame(textPart, times(" ", 4096))
			}
			w.bytes(tt.frames...)
			got, reason := w.closed()
			if got == 1006 {
				got = -1 // no close frame
			}
			if got != tt.want || len(reason) > 123 {
				t.Errorf("closed with %d %q, want %d", got, reason, tt.want)
			}
		})
	}

	t.Run("others", func(t *testing.T) {
		t.Parallel()
		w := enroll(g, t, "bo")
		for range 3 {
			during(t, rdb, time.Second)
			w.settled()
		}
	})
}

// singles are the fragments of a text, a byte each.
func singles(text string) (frames [][]byte) {
	for i := range len(text) {
		head := byte(morePart)
		switch i {
		case 0:
			head = textPart
		case len(text) - 1:
			head = lastPart
		}
		frames = append(frames, frame(head, text[i:i+1]))
	}
	return frames
}

// masked is a text in a frame with a mask that is not all zeros.
func masked(text string) []byte {
	f := frame(textWhole, text)
	key := f[len(f)-len(text)-4:][:4]
	copy(key, "\xde\xad\xbe\xef")
	for i := range len(text) {
		f[len(f)-len(text)+i] ^= key[i%4]
	}
	return f
}

// exchange sends bytes to a gateway and reads an HTTP response; nil if there was
// none before the connection ended.
func exchange(t testing.TB, addr, text string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%.100q: no answer for %v", text, patience)
		}
		return nil, ""
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	return res, string(b)
}

// upgrade is a handshake, with some headers instead of the usual or besides.
func upgrade(line string, headers ...string) string {
	all := []string{"Host: x", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}
	for _, h := range headers {
		name, _, _ := strings.Cut(h, ":")
		all = slices.DeleteFunc(all, func(other string) bool { return strings.HasPrefix(other, name+":") })
		if !strings.HasSuffix(h, ": -") {
			all = append(all, h)
		}
	}
	return line + "\r\n" + strings.Join(all, "\r\n") + "\r\n\r\n"
}

// A handshake that is none is refused by HTTP, one that is never finished ends
// soon, and compression is not spoken.
func TestHostile_handshakes(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), append(unhurried, "--no-dev", "--jwt-hs256-secret-file="+secretFile(t))...)
	const get = "GET /v1/ws HTTP/1.1"
	for name, tt := range map[string]struct {
		text string
		want int // 0: none
	}{
		"good":                  {upgrade(get), 101},
		"compression offered":   {upgrade(get, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"), 101},
		"no upgrade":            {upgrade(get, "Upgrade: -", "Connection: -"), 426},
		"another upgrade":       {upgrade(get, "Upgrade: h2c"), 426},
		"another version":       {upgrade(get, "Sec-WebSocket-Version: 12"), 400},
		"no version":            {upgrade(get, "Sec-WebSocket-Version: -"), 400},
		"no key":                {upgrade(get, "Sec-WebSocket-Key: -"), 400},
		"a short key":           {upgrade(get, "Sec-WebSocket-Key: AAAA"), 400},
		"another subprotocol":   {upgrade(get, "Sec-WebSocket-Protocol: chat"), 400},
		"an empty subprotocol":  {upgrade(get, "Sec-WebSocket-Protocol: ,"), 400},
		"a foreign origin":      {upgrade(get, "Origin: https://evil.example"), 403},
		"an origin that is odd": {upgrade(get, "Origin: ://%zz"), 403},
		"POST":                  {upgrade("POST /v1/ws HTTP/1.1", "Content-Length: 0"), 405},
		"HTTP/1.0":              {upgrade("GET /v1/ws HTTP/1.0"), 426},
		"another path":          {upgrade("GET /v1/ws/ HTTP/1.1"), 404},
		"another version of it": {upgrade("GET /v2/ws HTTP/1.1"), 404},
		"no path":               {upgrade("GET  HTTP/1.1"), 400},
		"an escaped path":       {upgrade("GET /v1/%zz HTTP/1.1"), 400},
		"no host":               {upgrade(get, "Host: -"), 400},
		"not HTTP":              {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400},
		"a huge header":         {upgrade(get, "X: "+times("x", 40_000)), 431},
		"many headers":          {upgrade(get, times("X: x\r\n", 4000)+"X: x"), 431},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, body := exchange(t, g.Addr, tt.text)
			if res == nil || res.StatusCode != tt.want || len(body) > 500 {
				t.Fatalf("got %v %q, want %d", res, body, tt.want)
			}
			if e := res.Header.Get("Sec-WebSocket-Extensions"); e != "" {
				t.Errorf("the extension %q was agreed to", e)
			}
		})
	}

	// Those who do not finish are not waited for, and keep nobody else waiting.
	t.Run("unfinished", func(t *testing.T) {
		t.Parallel()
		var slow []net.Conn
		for i := range len(upgrade(get)) - 1 {
			c, err := net.Dial("tcp", g.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			io.WriteString(c, upgrade(get)[:i])
			slow = append(slow, c)
		}
		w := connect(t, g.URL())
		w.login(loginWith("ana", tokenOf(t, secret, "ana", time.Now().Add(time.Hour))))
		eventually(t, "one who drips to be hung up on", func() bool {
			_, err := io.WriteString(slow[100], "x")
			return err != nil
		})
		for i, c := range slow {
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("a handshake of %d bytes is still waited for", i)
			}
		}
		w.settled()
	})
}
