//go:build linux

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/gateway/serverapi"
	"github.com/roomgate/roomgate/internal/apitest"
	"github.com/roomgate/roomgate/internal/gatetest"
)

// backend calls the server API of a gateway as somebody's backend does.
type backend struct {
	testing.TB
	g *gateway
}

// call makes a request, whose answer has to be this status and as it is described,
// and reads it into v, if that is not nil.
func (b backend) call(method, path, body string, want int, v any) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), method, "http://"+b.g.Addr+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer dev")
	res, err := gatetest.Plain.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	var text strings.Builder
	if _, err := bufio.NewReader(res.Body).WriteTo(&text); err != nil {
		b.Fatal(err)
	}
	apitest.Answer(b, method, req.URL.EscapedPath(), res.StatusCode, res.Header, []byte(text.String()))
	if res.StatusCode != want {
		b.Fatalf("%s %s %s: got %d %s, want %d", method, path, body, res.StatusCode, text.String(), want)
	}
	if v != nil {
		reflect.ValueOf(v).Elem().SetZero() // nothing of an earlier answer stays
		if err := json.Unmarshal([]byte(text.String()), v); err != nil {
			b.Fatal(err)
		}
	}
}

// stream is the events of a room, as they come.
type stream struct {
	testing.TB
	res  *http.Response
	done chan struct{}

	mu     sync.Mutex
	events []string
}

// watch opens a stream.
func (b backend) watch(path string) *stream {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+b.g.Addr+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer dev")
	res, err := gatetest.Plain.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	s := &stream{TB: b.TB, res: res, done: make(chan struct{})}
	b.Cleanup(func() { res.Body.Close(); <-s.done })
	if res.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s", path, res.Status)
	}
	go s.read()
	return s
}

func (s *stream) read() {
	defer close(s.done)
	lines := bufio.NewScanner(s.res.Body)
	lines.Buffer(nil, 1<<20)
	name := ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			name = value
		case "data":
			apitest.Event(s, name, []byte(value))
			var d struct {
				Seq     *int64
				Reason  string
				User    struct{ UserID string }
				Message struct{ Message string }
			}
			if err := json.Unmarshal([]byte(value), &d); err != nil {
				s.Errorf("%s: %v", value, err)
			}
			said := name
			if d.Seq != nil {
				said += fmt.Sprint(" ", *d.Seq)
			}
			for _, word := range []string{d.User.UserID, d.Message.Message, d.Reason} {
				if word != "" {
					said += " " + word
				}
			}
			s.mu.Lock()
			s.events = append(s.events, said)
			s.mu.Unlock()
		}
	}
}

// saw waits until the stream has had exactly these events since it was last asked.
func (s *stream) saw(want ...string) {
	s.Helper()
	var got []string
	eventually(s, fmt.Sprintf("the stream to have %q", want[len(want)-1]), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.events) < len(want) {
			return false
		}
		got, s.events = s.events, nil
		return true
	})
	if d := cmp.Diff(want, got); d != "" {
		s.Errorf("stream (-want +got):\n%s", d)
	}
}

// A backend sees and does on one gateway what is so on all of them: rooms, members,
// messages, the events of a room, and the gateways themselves.
func TestServerAPI_gateways(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	const absence = 5 * time.Second // time to see somebody away in
	a, b := startPair(t, server.Addr(), "--session-ttl="+absence.String())
	onA, onB := backend{t, a}, backend{t, b}

	// A room with nobody in it is there for all, and waits.
	var made, found serverapi.RoomDetail
	onA.call("POST", "/v1/rooms", `{"roomID":"a b?","roomName":"Room","roomDestroyDelayTime":60,"roomAttributes":{"k":"v"},"creatorUserID":"ana"}`, 201, &made)
	onB.call("GET", "/v1/rooms/a%20b%3F", "", 200, &found)
	made.ServerTime, found.ServerTime = 0, 0
	if d := cmp.Diff(made, found); d != "" || made.Deadline != made.CreatedAt+60_000 || made.RoomAttributes["k"] != "v" {
		t.Errorf("made %+v, found (-made +found):\n%s", made, d)
	}
	onB.call("POST", "/v1/rooms", `{"roomID":"a b?"}`, 409, nil)
	onB.call("POST", "/v1/rooms", `{"roomID":"R"}`, 201, nil)

	// Who enters it is seen from everywhere.
	early := onB.watch("/v1/rooms/R/events")
	early.saw("opened 0")
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	ana.enter("R")
	bo.enter("R")
	ana.hears("R +bo 2")
	early.saw("memberJoined 1 ana", "memberJoined 2 bo")
	var rooms serverapi.RoomPage
	onA.call("GET", "/v1/rooms?count=1", "", 200, &rooms)
	if len(rooms.RoomList) != 1 || rooms.RoomList[0].RoomID != "R" || rooms.RoomList[0].MemberCount != 2 || rooms.RoomList[0].Deadline != 0 || rooms.RoomCount != 2 {
		t.Errorf("rooms %+v", rooms)
	}
	onB.call("GET", "/v1/rooms?count=1&nextFlag="+rooms.NextFlag, "", 200, &rooms)
	if len(rooms.RoomList) != 1 || rooms.RoomList[0].RoomID != "a b?" || rooms.NextFlag != "" {
		t.Errorf("the rest of the rooms: %+v", rooms)
	}

	// The gateways know each other, and who is where.
	var cluster serverapi.Cluster
	gateways := func() map[string]string { // name by node, of those that have a session
		t.Helper()
		onA.call("GET", "/v1/cluster", "", 200, &cluster)
		named := map[string]string{}
		for _, g := range cluster.Gateways {
			if g.GatewayState != nil && g.Sessions == 1 && g.Connections == 1 && g.Rooms == 1 && !g.Draining && g.LeaseLeftMS > 0 {
				named[g.Node] = g.Version
			}
		}
		return named
	}
	eventually(t, "both gateways to tell of their session", func() bool { return len(gateways()) == 2 })
	if cluster.RoomCount != 2 {
		t.Errorf("the deployment has %d rooms, want 2", cluster.RoomCount)
	}
	var members serverapi.MemberPage
	onB.call("GET", "/v1/rooms/R/members", "", 200, &members)
	nodes := gateways()
	for i, user := range []string{"ana", "bo"} {
		m := members.MemberList[i]
		if _, known := nodes[m.Node]; m.UserID != user || m.State != serverapi.MemberConnected || m.Deadline != 0 || !known ||
			m.JoinedAt < made.CreatedAt || m.JoinedAt > members.ServerTime {
			t.Errorf("member %d is %+v, want %s on one of %v", i, m, user, nodes)
		}
	}
	if members.MemberList[0].Node == members.MemberList[1].Node || members.MemberCount != 2 || members.NextFlag != "" || members.Seq != 2 {
		t.Errorf("members %+v", members)
	}

	// What a backend says reaches all, from whatever gateway; also what is not kept.
	var sent serverapi.SentMessage
	onB.call("POST", "/v1/rooms/R/messages", `{"senderUserID":"news","type":1,"message":"hi","extendedData":"{}"}`, 200, &sent)
	if sent.Seq != 3 || sent.MessageSeq != 1 || sent.After != nil {
		t.Errorf("sent %+v", sent)
	}
	onA.call("POST", "/v1/rooms/R/messages", `{"senderUserID":"ana","type":20,"message":"yo","priority":3}`, 200, &sent)
	if sent.Seq != 0 || sent.After == nil || *sent.After != 3 {
		t.Errorf("sent %+v", sent)
	}
	for _, w := range []*wire{ana, bo} {
		w.hears("R news: hi", "R ana: yo")
	}
	early.saw("message 3 hi", "command yo")
	late := onA.watch("/v1/rooms/R/events?from=1")
	late.saw("opened 0", "memberJoined 1 ana", "memberJoined 2 bo", "message 3 hi")

	// Who has lost its link is away, for so long.
	bo.drop()
	eventually(t, "bo to be away", func() bool {
		onA.call("GET", "/v1/rooms/R/members?count=1&nextFlag="+nextOf(t, onA), "", 200, &members)
		m := members.MemberList[0]
		return m.UserID == "bo" && m.State == serverapi.MemberAway && m.Node == "" &&
			m.Deadline > members.ServerTime && m.Deadline <= members.ServerTime+absence.Milliseconds()
	})
	for _, s := range []*stream{early, late} {
		s.saw("memberLeft 4 bo timeout")
	}
	ana.hears("R -bo 1")

	// A gateway that stops says so to who watches there; the others go on.
	b.Signal(syscall.SIGTERM)
	early.saw("end stopping")
	<-early.done
	onA.call("POST", "/v1/rooms/R/kick", `{"userID":"ana","reason":"r"}`, 200, nil)
	late.saw("memberLeft 5 ana kicked", "destroyed 6 emptied", "end over")
	<-late.done
	onA.call("GET", "/v1/rooms/R", "", 404, nil)
	onA.call("GET", "/v1/rooms/R/events", "", 404, nil)

	// It is gone with all it had in Redis.
	eventually(t, "b to be gone", func() bool {
		onA.call("GET", "/v1/cluster", "", 200, &cluster)
		return len(cluster.Gateways) == 1
	})
	kept := onA.watch("/v1/rooms/a%20b%3F/events")
	kept.saw("opened 0")
	onA.call("DELETE", "/v1/rooms/a%20b%3F", "", 200, nil)
	kept.saw("destroyed 1 destroyed", "end over")
	for _, key := range keysOf(t, rdb, "rg:") {
		for _, of := range []string{"}:room:", "}:attrs:", "}:rooms", "}:due"} {
			if strings.Contains(key, of) {
				t.Errorf("left in Redis: %q", key)
			}
		}
	}
}

// nextOf gives the cursor behind the first member of R.
func nextOf(t testing.TB, b backend) string {
	t.Helper()
	var page serverapi.MemberPage
	b.call("GET", "/v1/rooms/R/members?count=1", "", 200, &page)
	if page.NextFlag == "" {
		t.Fatal("one has gone")
	}
	return page.NextFlag
}
