//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/faultproxy"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// storm is people who do anything at any time, while calls to Redis and their
// answers get lost, Redis is held, and their own links are cut.
type storm struct {
	*testing.T
	r     *rand.Rand
	rdb   redis.UniversalClient
	gates []*gateway
	links []*link
	cast  []*stormer
	calm  bool // nothing is broken

	asked, unavailable, repeated, resumed int
}

var stormRooms = []string{"R0", "R1", "R2"}

// stormer is one of them, and what they have been told.
type stormer struct {
	*wire
	s       *storm
	user    string
	session string
	gate    int
	key     int
	rooms   map[string]string          // "connecting" or "connected"
	pending map[int]*stormRequest      // by id
	made    []*stormRequest            // all, in order
	results map[*stormRequest][]string // in the order of their answers
	away    bool                       // its connection has ended, and it has not tried to come back
	odd     string                     // a frame that may be the last of its room
	coming  bool                       // back, and has not been told of all rooms
}

type stormRequest struct {
	method, params string
	texts          []string // of a message
}

// Whatever happens, no request is carried out twice, nothing of a room is told
// to who has been told that they are not in it, every repeat has the first
// outcome, and in the end everybody is where they have been told that they are.
func TestOverlap_storm(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if text := os.Getenv("ROOMGATE_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ROOMGATE_TEST_SEED=%d", seed)
	server, rdb := anyRedis(t)
	s := &storm{T: t, r: rand.New(rand.NewPCG(seed, 14)), rdb: rdb, calm: true}
	var books []*ledger
	for _, room := range stormRooms {
		books = append(books, follow(t, rdb, room))
	}
	for range 2 {
		link := linkTo(t, server)
		s.links = append(s.links, link)
		s.gates = append(s.gates, startGateway(t, link.Addr(), slow[1:]...))
	}
	for i := range 4 {
		p := &stormer{s: s, user: fmt.Sprintf("u%d", i), gate: i % 2, rooms: map[string]string{},
			pending: map[int]*stormRequest{}, results: map[*stormRequest][]string{}}
		p.wire = connect(t, s.gates[p.gate].URL())
		p.session = p.login(fmt.Sprintf(`{"userID":%q}`, p.user)).SessionID
		s.cast = append(s.cast, p)
	}

	// Each kind of trouble comes more than once, in any order.
	for _, trouble := range s.r.Perm(14) {
		for range 12 {
			s.anybody().ask()
		}
		switch trouble % 6 {
		case 0:
			server.Pause()
			s.broken(4)
			server.Resume()
		case 1, 2:
			link := s.links[s.r.IntN(2)]
			link.Scripts([]faultproxy.Loss{faultproxy.Answers, faultproxy.Calls}[s.r.IntN(2)])
			s.broken(6)
			link.Scripts(faultproxy.Nothing)
		case 3:
			s.anybody().comeBack()
		default:
			s.hear(10)
		}
		s.hear(s.r.IntN(30))
	}
	// What was answered otherwise than by its outcome is asked for once more.
	s.until("all to be answered", func() bool { return s.pendings() == 0 })
	for _, p := range s.cast {
		for _, r := range p.made[max(0, len(p.made)-protocol.RequestKeysKept/2):] {
			if s.r.IntN(2) == 0 {
				p.again(r)
				p.s.until("an answer", func() bool { return len(p.pending) == 0 })
			}
		}
	}
	s.settle()

	times := map[string]int{}
	events := 0
	for _, book := range books {
		for _, e := range book.all() {
			if events++; e.Kind == roomstore.KindMessage {
				times[textOf(e)]++
			}
		}
	}
	for _, p := range s.cast {
		for _, r := range p.made {
			answers := p.results[r]
			for _, text := range r.texts {
				if n := times[text]; n > 1 || len(answers) > 0 && n != 1 {
					t.Errorf("%s: message %q, answered %d times, is %d times in the room", p.user, text, len(answers), n)
				}
			}
			// To enter where one is already is no outcome that is kept.
			mayBeIn := r.method == protocol.MethodEnterRoom || r.method == protocol.MethodJoinRoom
			if r.method == protocol.MethodSendRoomMessage {
				// The position is left out while events before it are late.
				for i, a := range answers {
					if before, _, is := strings.Cut(a, `,"epoch":`); is {
						answers[i] = before + "}"
					}
				}
			}
			if !mayBeIn && slices.ContainsFunc(answers, func(a string) bool { return a != answers[0] }) {
				t.Errorf("%s: %s %s got %q", p.user, r.method, r.params, answers)
			}
		}
	}
	t.Logf("%d requests, %d repeats, %d times unavailable, %d came back, %d events", s.asked, s.repeated, s.unavailable, s.resumed, events)
	if s.unavailable == 0 && s.repeated == 0 {
		t.Error("nothing was out of order, so this shows nothing")
	}
}

// broken goes on while something is broken.
func (s *storm) broken(answers int) {
	s.Helper()
	s.calm = false
	for range 4 {
		s.anybody().ask()
	}
	s.hear(answers)
	s.calm = true
}

func (s *storm) anybody() *stormer { return s.cast[s.r.IntN(len(s.cast))] }

func (s *storm) pendings() (n int) {
	for _, p := range s.cast {
		if !p.away {
			n += len(p.pending)
		}
	}
	return n
}

// hear waits for some more answers, or until there are none to come.
func (s *storm) hear(answers int) {
	s.Helper()
	want := max(0, s.pendings()-answers)
	s.until("more answers", func() bool { return s.pendings() <= want })
}

// until listens to everybody until ok.
func (s *storm) until(what string, ok func() bool) {
	s.Helper()
	eventually(s.T, what, func() bool {
		for _, p := range s.cast {
			p.listen()
		}
		return ok()
	})
}

// settle waits until everybody is where they were told that they are, and stays
// there.
func (s *storm) settle() {
	s.Helper()
	told := func() map[string][]string {
		m := map[string][]string{}
		for _, p := range s.cast {
			m[p.user] = slices.Sorted(maps.Keys(p.rooms))
		}
		return m
	}
	stored := func() map[string][]string {
		m := map[string][]string{}
		for _, p := range s.cast {
			m[p.user] = nil
			for _, room := range stormRooms {
				if v := s.rdb.HGet(s.Context(), roomKey(s.rdb, "info", room), p.user).Val(); strings.HasPrefix(v, p.session+"\x00") {
					m[p.user] = append(m[p.user], room)
				}
			}
		}
		return m
	}
	var last string
	eventually(s.T, "everybody to be where they were told", func() bool {
		for _, p := range s.cast {
			p.send(protocol.MethodPing, "{}")
			p.pending[p.id] = &stormRequest{method: protocol.MethodPing}
		}
		s.until("pings", func() bool { return s.pendings() == 0 })
		last = cmp.Diff(told(), stored())
		return last == "" || s.Failed()
	})
	if last != "" {
		s.Errorf("(-told +stored):\n%s", last)
	}
}

// ask makes a request, or one of those made before once more. There is a bound
// to what is under way.
func (p *stormer) ask() {
	p.t.Helper()
	p.listen()
	if p.away || len(p.pending) >= protocol.MaxUnanswered-2 {
		return
	}
	r := p.s.r
	if n := len(p.made); n > 0 && r.IntN(3) == 0 {
		p.s.repeated++
		p.again(p.made[n-1-r.IntN(min(n, 8))])
		return
	}
	p.key++
	p.s.asked++
	room, other := stormRooms[r.IntN(len(stormRooms))], stormRooms[r.IntN(len(stormRooms))]
	q := &stormRequest{}
	entry := fmt.Sprintf(`{"roomInfo":{"roomID":%q},"config":{"roomDestroyDelayTime":%d},"requestKey":%d}`, room, 60*r.IntN(2), p.key)
	switch r.IntN(10) {
	case 0:
		q.method, q.params = protocol.MethodCreateRoom, entry
	case 1, 2:
		q.method, q.params = protocol.MethodEnterRoom, entry
	case 3:
		q.method, q.params = protocol.MethodJoinRoom, fmt.Sprintf(`{"roomID":%q,"requestKey":%d}`, room, p.key)
	case 4, 5:
		q.method = protocol.MethodSwitchRoom
		q.params = fmt.Sprintf(`{"fromRoomID":%q,"toRoomInfo":{"roomID":%q},"isCreateWhenRoomNotExisted":%t,"requestKey":%d}`, room, other, r.IntN(2) == 0, p.key)
	case 6:
		q.method, q.params = protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%q,"requestKey":%d}`, room, p.key)
	case 7:
		if q.method, q.params = protocol.MethodLeaveAllRoom, fmt.Sprintf(`{"requestKey":%d}`, p.key); r.IntN(3) > 0 {
			return
		}
	default:
		text := fmt.Sprintf("%s-%d", p.user, p.key)
		q.method, q.texts = protocol.MethodSendRoomMessage, []string{text}
		q.params = fmt.Sprintf(`{"roomID":%q,"message":{"type":1,"message":%q},"requestKey":%d}`, room, text, p.key)
	}
	p.made = append(p.made, q)
	p.again(q)
}

func (p *stormer) again(r *stormRequest) {
	p.t.Helper()
	p.pending[p.send(r.method, r.params)] = r
}

// comeBack cuts the link, and comes back over another gateway, as a client does:
// what is unanswered is asked for once more.
func (p *stormer) comeBack() {
	p.t.Helper()
	p.drop()
	for _, frame := range p.frames { // there will be no more
		p.note(frame)
	}
	p.s.resumed++
	p.away, p.odd = false, ""
	p.gate = 1 - p.gate
	ids := slices.Sorted(maps.Keys(p.pending))
	var again []*stormRequest
	for _, id := range ids {
		if r := p.pending[id]; !slices.Contains(again, r) {
			again = append(again, r)
		}
	}
	clear(p.pending)
	p.wire = connect(p.t, p.s.gates[p.gate].URL())
	var named []string
	for room, state := range p.rooms {
		if state == "connected" {
			named = append(named, fmt.Sprintf(`{"roomID":%q,"epoch":0,"seq":0}`, room))
		} else {
			delete(p.rooms, room) // it is the repeat that enters
		}
	}
	p.coming = true
	r := p.login(fmt.Sprintf(`{"userID":%q,"resume":{"sessionID":%q,"rooms":[%s]}}`, p.user, p.session, strings.Join(named, ",")))
	if !r.Resumed {
		p.t.Fatalf("%s: the session did not go on", p.user)
	}
	p.send(protocol.MethodQueryRoomOnlineMemberCount, `{"roomID":"none"}`) // waits for the login
	last := fmt.Sprint(p.id)
	for p.coming {
		frame := p.take()
		if answer := answerOf(p.t, frame); string(answer.ID) == last {
			p.coming = false
			break
		}
		p.note(frame)
	}
	for _, r := range again {
		p.again(r)
	}
}

// listen takes what has come.
func (p *stormer) listen() {
	p.t.Helper()
	for {
		p.mu.Lock()
		if len(p.frames) == 0 {
			err := p.err
			p.mu.Unlock()
			// A request came later than its time.
			if p.away = websocket.IsCloseError(err, int(protocol.CloseServiceRestart)); p.away && p.s.calm {
				p.comeBack()
			}
			return
		}
		frame := p.frames[0]
		p.frames = p.frames[1:]
		p.mu.Unlock()
		p.note(frame)
	}
}

// note follows what a client is told.
func (p *stormer) note(frame string) {
	p.t.Helper()
	var m struct {
		ID     json.RawMessage
		Method string
		Params struct {
			RoomID, FromConversationID string
			State, Event               string
		}
		Result json.RawMessage
		Error  *protocol.Error
	}
	if err := json.Unmarshal([]byte(frame), &m); err != nil {
		p.t.Fatal(err)
	}
	room := m.Params.RoomID + m.Params.FromConversationID
	was := p.rooms[room]
	if p.odd != "" && m.Method != "" && m.Params.State != "connecting" && strings.Contains(p.odd, strconv.Quote(room)) {
		p.t.Errorf("%s is connecting to %s and got %s, and goes on", p.user, room, p.odd)
		p.odd = ""
	}
	switch {
	case m.Method == "":
		p.answered(m.ID, m.Result, m.Error)
	case m.Method != protocol.EventRoomStateChanged:
		if was != "connected" {
			p.t.Errorf("%s is %q in %s and got %s", p.user, was, room, frame)
		}
	case m.Params.State == "connecting":
		if was == "connecting" {
			p.odd = frame // good only for a connection that is about to end with 1012
		} else if was != "" {
			p.t.Errorf("%s is %q in %s and got %s", p.user, was, room, frame)
		}
		p.rooms[room] = "connecting"
	case m.Params.State == "connected":
		if was == "" && !p.coming {
			p.t.Errorf("%s is not in %s and got %s", p.user, room, frame)
		}
		p.rooms[room] = "connected"
	default:
		delete(p.rooms, room)
	}
}

func (p *stormer) answered(rawID, result json.RawMessage, err *protocol.Error) {
	p.t.Helper()
	id, _ := strconv.Atoi(string(rawID))
	r := p.pending[id]
	if r == nil {
		p.t.Errorf("%s: got an answer to %s, which was not asked", p.user, rawID)
		return
	}
	delete(p.pending, id)
	if r.method == protocol.MethodPing {
		return
	}
	if err == nil {
		p.results[r] = append(p.results[r], string(result))
		return
	}
	switch err.Code {
	case protocol.CodeUnavailable:
		p.s.unavailable++
	case protocol.CodeRoomBusy, protocol.CodeTooFast, protocol.CodeNoRoom, protocol.CodeRoomExists, protocol.CodeNotInRoom,
		protocol.CodeLeaveNoRoom, protocol.CodeMessageNoRoom:
	case protocol.CodeBadParameter:
		if r.method != protocol.MethodSwitchRoom {
			p.t.Errorf("%s: %s %s got %v", p.user, r.method, r.params, err)
		}
	default:
		p.t.Errorf("%s: %s %s got %v", p.user, r.method, r.params, err)
	}
}
