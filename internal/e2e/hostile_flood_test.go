//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/roomgate/roomgate/internal/gatetest"
	"github.com/roomgate/roomgate/protocol"
)

// pour sends a text as often as asked, or until the connection ends. It gives how
// often.
func (w *wire) pour(text string, n int) (sent int) {
	for sent < n && w.alive() {
		w.ws.SetWriteDeadline(time.Now().Add(patience))
		if w.ws.WriteMessage(websocket.TextMessage, []byte(text)) != nil {
			break
		}
		sent++
	}
	return sent
}

// A flood of requests, whatever is wrong with them, is refused as too fast soon
// and ends in 4511; others are served meanwhile.
func TestHostile_flood(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), unhurried...)
	zoe := enroll(g, t, "zoe")
	zoe.enter("Z")
	t.Run("floods", func(t *testing.T) {
		for name, tt := range map[string]struct {
			text     string
			requests int    // in it
			answer   string // to each, as long as there are not too many
		}{
			"pings":                {`{"jsonrpc":"2.0","id":1,"method":"ping"}`, 1, "ok"},
			"numbers":              {`17`, 1, "error -32600"},
			"no methods":           {`{"jsonrpc":"2.0","id":1,"method":"` + times("x", 200) + `"}`, 1, "error -32601"},
			"no params":            {`{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":[]}`, 1, "error -32602"},
			"bad values":           {`{"jsonrpc":"2.0","id":1,"method":"joinRoom","params":{"roomID":"a/b"}}`, 1, "error 6000001"},
			"not logged in":        {`{"jsonrpc":"2.0","id":1,"method":"renewToken","params":{"token":"t"}}`, 1, "error 6000121"},
			"not to be answered":   {`{"jsonrpc":"2.0","method":"joinRoom","params":[]}`, 1, ""},
			"batches of too many":  {"[" + times("1,", protocol.MaxBatch) + "1]", 1, "error -32600"},
			"batches that are not": {"[" + times("1,", protocol.MaxBatch-1) + "1]", protocol.MaxBatch, "error -32600"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				const burst, perSecond = 400, 200
				began := time.Now()
				w := connect(t, g.URL())
				w.pour(tt.text, 1_000_000)
				served, refused := 0, 0
				for {
					frame, ok := w.next()
					if !ok {
						break
					}
					for _, answer := range strings.SplitAfter(strings.Trim(brief(frame), "[]"), " error") {
						switch answer = strings.TrimSpace(strings.TrimSuffix(answer, " error")); strings.TrimPrefix(answer, "error ") {
						case strings.TrimPrefix(tt.answer, "error "):
							served++
						case "6000005":
							refused++
						default:
							t.Fatalf("got %q in %.300s", answer, frame)
						}
					}
				}
				took := time.Since(began)
				w.wantClosed(protocol.CloseRateAbuse)
				if tt.answer == "" {
					return
				}
				// Those to the last, and to batches under way, may not come before
				// the end.
				if most := burst + int(took.Seconds()*perSecond) + 1; served > most || refused == 0 && tt.requests == 1 {
					t.Errorf("%d requests were answered and %d refused in %v, want at most %d answered", served, refused, took, most)
				}
			})
		}
	})
	zoe.say("Z", "still here")
	zoe.settled()
}

// memory is what a gateway uses now, and what it used at most, in MiB.
func memory(t testing.TB, g *gateway) (now, most int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(g.Cmd.Process.Pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) int {
		m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(b)
		if m == nil {
			t.Fatalf("no %s in %s", name, b)
		}
		n, _ := strconv.Atoi(string(m[1]))
		return n >> 10
	}
	return read("VmRSS"), read("VmHWM")
}

// Fifty clients that send nothing but messages of the largest size, of each kind
// that there is work with, do not make the gateway grow without bound, and others
// are served meanwhile.
func TestHostile_memory(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	g := startGateway(t, server.Addr(), unhurried...)
	zoe, yan := enroll(g, t, "zoe"), enroll(g, t, "yan")
	zoe.enter("Z")
	yan.enter("Z")
	zoe.until("Z +yan 2")
	before, _ := memory(t, g)

	fill := func(format string) string {
		return fmt.Sprintf(format, times("x", protocol.MaxMessage-len(fmt.Sprintf(format, ""))))
	}
	request := func(method, params string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":` + params + `}`
	}
	barrage := request("sendRoomMessage", `{"roomID":"B","message":{"type":20,"message":"`+times("x", 5120)+`"}}`)
	texts := []string{
		fill(request("ping", `{"x":"%s"}`)),
		fill(request("login", `{"userID":"u","token":"%s"}`)),
		fill(request("renewToken", `{"token":"%s"}`)),
		fill(request("%s", `{}`)),
		fill(request("queryRoomMemberList", `{"roomID":"B","config":{"count":1,"nextFlag":"%s"}}`)),
		fill(`{"jsonrpc":"2.0","id":"%s","method":"ping"}`),
		"[" + times("1,", 32_000) + "1]",
		request("joinRoom", `{"roomID":"B","x":`+times(`[`, 9_000)+times("]", 9_000)+`,"y":[`+times("{},", 15_000)+`{}]}`),
		"[" + times(barrage+",", 11) + barrage + "]",
	}
	const messages = 40
	var flooders []*wire
	for i := range 50 {
		w := enroll(g, t, fmt.Sprint("flooder ", i))
		if i%len(texts) == len(texts)-1 {
			w.enter("B")
		}
		flooders = append(flooders, w)
	}
	over := make(chan struct{}, len(flooders))
	for i, w := range flooders {
		go func() {
			defer func() { over <- struct{}{} }()
			sent := w.pour(texts[i%len(texts)], messages)
			for heard := 0; heard < sent && w.alive(); { // an answer to each
				select {
				case <-w.arrived:
				case <-w.done:
				}
				w.mu.Lock()
				heard = len(w.frames)
				w.mu.Unlock()
			}
		}()
	}
	// However long that takes, who is not part of it is served.
	said := 0
	tick := time.NewTicker(10 * time.Millisecond) // zoe has a rate, too
	defer tick.Stop()
	for left := len(flooders); left > 0; {
		select {
		case <-over:
			left--
		case <-tick.C:
			zoe.ask(protocol.MethodSendRoomMessage, fmt.Sprintf(`{"roomID":"Z","message":{"type":20,"message":"%d"}}`, said), nil)
			yan.until(fmt.Sprintf("Z zoe: %d", said))
			yan.settled()
			said++
		}
	}
	after, most := memory(t, g)
	t.Logf("%d MiB before, %d MiB after, %d MiB at most; zoe spoke %d times meanwhile", before, after, most, said)
	if most > before+300 {
		t.Errorf("the gateway used %d MiB at most, and %d MiB before", most, before)
	}
}

// Nothing secret is in an answer or in the log: no token, good or bad, no API key,
// and not what tokens are signed with.
func TestHostile_secrets(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	const apiKey, wrongKey, marker = "KEYKEYKEYKEYKEYKEY", "WRONGWRONGWRONGWRONG", "MARKERMARKER"
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte(apiKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := startGateway(t, server.Addr(), append(unhurried, "--no-dev", "--jwt-hs256-secret-file="+secretFile(t), "--api-keys-file="+keys)...)
	hour := time.Now().Add(time.Hour)
	good := tokenOf(t, secret, "ana", hour)
	tokens := []string{
		good, tokenOf(t, secret, "bo", hour), tokenOf(t, secret, "ana", time.Now().Add(-time.Hour)), tokenOf(t, times("y", 40), "ana", hour),
		marker, marker + "." + marker + "." + marker, good + marker, times(marker, 5000),
	}
	var heard strings.Builder
	hear := func(w *wire) {
		t.Helper()
		heard.WriteString(w.take() + "\n")
	}
	for _, token := range tokens {
		for _, text := range []string{
			`{"jsonrpc":"2.0","id":1,"method":"login","params":{"userID":"ana","token":%s}}`,
			`{"jsonrpc":"2.0","id":1,"method":"login","params":{"userID":"ana","token":[%s]}}`,
			`{"jsonrpc":"2.0","id":1,"method":"login","params":{"userID":"ana","token":{%s:1}}}`,
			`{"jsonrpc":"2.0","id":1,"method":"login","params":{"userID":"ana","Token":%s}}`,
			`{"jsonrpc":"2.0","id":1,"method":"login","params":{"userID":"ana","token":%s,"token":""}}`,
			`{"jsonrpc":"2.0","id":1,"method":"login","params":{"userID":"ana","token":%s}`,
			`[{"jsonrpc":"2.0","id":1,"method":"login","params":{"userID":"a/b","token":%s}}]`,
			`{"jsonrpc":"2.0","id":1,"method":"renewToken","params":{"token":%s}}`,
		} {
			w := connect(t, g.URL())
			w.raw(fmt.Sprintf(text, quoted(token)))
			hear(w)
			w.drop()
		}
	}
	w := connect(t, g.URL())
	w.raw(`{"jsonrpc":"2.0","id":1,"method":"login","params":` + loginWith("ana", good) + `}`)
	hear(w)
	for _, token := range tokens {
		w.send(protocol.MethodRenewToken, `{"token":`+quoted(token)+`}`)
		hear(w)
	}
	for _, key := range []string{apiKey, wrongKey} {
		for method, path := range map[string]string{"DELETE": "/v1/rooms/R", "POST": "/v1/rooms/R/kick", "GET": "/v1/rooms/R"} {
			_, answer := gatetest.Request(method, "http://"+g.Addr+path, key, `{"userID":"ana"}`)
			heard.WriteString(answer)
		}
	}
	g.Signal(os.Interrupt)
	<-g.Ended
	secrets := []string{secret, apiKey, wrongKey, marker}
	for _, token := range tokens[:4] {
		secrets = append(secrets, strings.Split(token, ".")[1:]...) // what it says, and its signature
	}
	for where, text := range map[string]string{"the answers": heard.String(), "the log": g.Out.String()} {
		if len(text) < 500 {
			t.Errorf("%s are short: %q", where, text)
		}
		for _, s := range secrets {
			if strings.Contains(text, s[:10]) {
				t.Errorf("%q is in %s:\n%s", s, where, text)
			}
		}
	}
}
