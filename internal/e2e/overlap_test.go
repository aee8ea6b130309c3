//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/roomgate/roomgate/protocol"
)

// held are flags of gateways whose requests wait for a Redis that is held,
// however long a busy machine holds it.
var held = []string{"--redis-timeout=40s", "--lease-ttl=60s", "--session-ttl=90s", "--log-ttl=5m", "--rate-limits=false", "--max-rooms-per-user=500"}

// An overlap is a request about room $R, and perhaps a room $F or $S, that is
// under way while another about $R comes. $U is who makes it.
type overlap struct {
	name           string
	in             string // a room that $U is in
	method, params string // with a requestKey to fill in
	begun          []string
	then           []string // what $U hears in the end
	again          []string // of a repeat
	others         []string // what somebody in $R hears; nil: there is no $R before
}

var overlaps = []overlap{
	{name: "create", method: protocol.MethodCreateRoom, params: `{"roomInfo":{"roomID":"$R"},"requestKey":%d}`,
		begun: []string{"$R connecting activeCreate"}, then: []string{"$R connected success", "ok"},
		again: []string{"$R connected success", "ok"}},
	{name: "join", method: protocol.MethodJoinRoom, params: `{"roomID":"$R","requestKey":%d}`,
		begun: []string{"$R connecting activeEnter"}, then: []string{"$R connected success", "ok"},
		again: []string{"$R connected success", "ok"}, others: []string{"$R +$U 2"}},
	{name: "enter", method: protocol.MethodEnterRoom, params: `{"roomInfo":{"roomID":"$R"},"requestKey":%d}`,
		begun: []string{"$R connecting activeEnter"}, then: []string{"$R connected success", "ok"},
		again: []string{"$R connected success", "ok"}, others: []string{"$R +$U 2"}},
	{name: "switch from", in: "$R", method: protocol.MethodSwitchRoom,
		params: `{"fromRoomID":"$R","toRoomInfo":{"roomID":"$S"},"isCreateWhenRoomNotExisted":true,"requestKey":%d}`,
		begun:  []string{"$S connecting activeSwitch"}, then: []string{"$S connected success", "$R disconnected success", "ok"},
		again: []string{"$S connected success", "$R disconnected success", "ok"}, others: []string{"$R -$U 1"}},
	{name: "switch to", in: "$F", method: protocol.MethodSwitchRoom,
		params: `{"fromRoomID":"$F","toRoomInfo":{"roomID":"$R"},"requestKey":%d}`,
		begun:  []string{"$R connecting activeSwitch"}, then: []string{"$R connected success", "$F disconnected success", "ok"},
		again: []string{"$R connected success", "$F disconnected success", "ok"}, others: []string{"$R +$U 2"}},
	{name: "leave", in: "$R", method: protocol.MethodLeaveRoom, params: `{"roomID":"$R","requestKey":%d}`,
		then: []string{"$R disconnected success", "ok"}, again: []string{"$R disconnected success", "ok"}, others: []string{"$R -$U 1"}},
}

// contest is where an overlap plays: its own user and rooms.
type contest struct {
	overlap
	*wire
	name    string
	session string
	names   *strings.Replacer
}

// contests sets one up for each of some overlaps: users on one gateway, and on
// another bo, who is in every room that is to exist.
func contests(t *testing.T, a *gateway, bo *wire, overlaps []overlap) []*contest {
	t.Helper()
	var all []*contest
	for i, o := range overlaps {
		n := fmt.Sprint(i)
		s := &contest{overlap: o, wire: connect(t, a.URL()), name: o.name}
		s.session = s.login(`{"userID":"u` + n + `"}`).SessionID
		s.names = strings.NewReplacer("$R", "R"+n, "$F", "F"+n, "$S", "S"+n, "$U", "u"+n)
		if o.others != nil {
			bo.enter("R" + n)
		}
		if o.in != "" {
			s.enter(s.names.Replace(o.in))
		}
		if o.in == "$R" {
			bo.until(s.names.Replace("$R +$U 2"))
		}
		all = append(all, s)
	}
	bo.settled()
	return all
}

// ask sends a request of the kind of o under a requestKey.
func (s *contest) request(o overlap, key int) int {
	s.t.Helper()
	return s.send(o.method, s.names.Replace(fmt.Sprintf(o.params, key)))
}

// follows makes sure that the next frames are these.
func (s *contest) follows(what string, want []string) {
	s.t.Helper()
	var got []string
	for range want {
		got = append(got, brief(s.take()))
	}
	if d := cmp.Diff(s.wanted(want), got); d != "" {
		s.t.Errorf("%s: %s (-want +got):\n%s", s.name, what, d)
	}
}

func (s *contest) wanted(want []string) []string {
	var out []string
	for _, w := range want {
		out = append(out, s.names.Replace(w))
	}
	return out
}

// answered is follows for what ends with the answer to a request.
func (s *contest) answered(what string, id int, want []string) protocol.Response {
	s.t.Helper()
	events, r := s.response()
	var got []string
	for _, e := range events {
		got = append(got, brief(e))
	}
	if r.Error != nil {
		got = append(got, fmt.Sprintf("error %d", r.Error.Code))
	} else {
		got = append(got, "ok")
	}
	if d := cmp.Diff(s.wanted(want), got); d != "" || string(r.ID) != fmt.Sprint(id) {
		s.t.Errorf("%s: %s: got id %s, want %d (-want +got):\n%s", s.name, what, r.ID, id, d)
	}
	return r
}

// heardByRoom takes as many frames as there are lines wanted, and compares
// those of each room.
func heardByRoom(w *wire, what string, want []string) {
	w.t.Helper()
	var got []string
	for range want {
		got = append(got, brief(w.take()))
	}
	room := func(a, b string) int {
		x, _, _ := strings.Cut(a, " ")
		y, _, _ := strings.Cut(b, " ")
		return strings.Compare(x, y)
	}
	want = slices.Clone(want)
	slices.SortStableFunc(want, room)
	slices.SortStableFunc(got, room)
	if d := cmp.Diff(want, got); d != "" {
		w.t.Errorf("%s: %s (-want +got):\n%s", w.name, what, d)
	}
	w.settled()
}

// While one of the five operations is under way, each of the five that names the
// same room is refused at once, whether it wants an answer or not, and the first
// goes on as if nothing had been. A repeat of the first waits for its outcome
// and returns that. The others hear of one event.
func TestOverlap_pairs(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), held...)
	bo := enroll(b, t, "bo")
	var pairs []overlap
	var seconds []overlap
	for _, first := range overlaps {
		for _, second := range overlaps {
			second.params = strings.NewReplacer("$F", "T", "$S", "T").Replace(second.params)
			seconds = append(seconds, second)
			first.name += ", " + second.name
			pairs = append(pairs, first)
			first.name, _, _ = strings.Cut(first.name, ",")
		}
	}
	all := contests(t, a, bo, pairs)

	server.Pause()
	type ids struct{ first, again int }
	sent := make([]ids, len(all))
	for i, s := range all {
		sent[i].first = s.request(s.overlap, 1)
		s.follows("begun", s.begun)
		for key := range 2 { // with a key and without
			s.request(seconds[i], 2*key)
			s.follows("meanwhile", []string{"error 6000326"})
		}
		s.raw(s.names.Replace(fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":%s}`, seconds[i].method, fmt.Sprintf(seconds[i].params, 3))))
		sent[i].again = s.request(s.overlap, 1)
		s.raw(s.names.Replace(fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":%s}`, s.method, fmt.Sprintf(s.params, 1))))
		s.settled()
	}
	server.Resume()

	var others []string
	for i, s := range all {
		first := s.answered("then", sent[i].first, s.then)
		again := s.answered("again", sent[i].again, s.again)
		if string(first.Result) != string(again.Result) {
			t.Errorf("%s: the repeat got %s, want %s again", s.name, again.Result, first.Result)
		}
		s.follows("once more, unanswered", s.again[:len(s.again)-1])
		others = append(others, s.wanted(s.others)...)
	}
	heardByRoom(bo, "of them", others)
	for i, s := range all {
		s.request(seconds[i], 4)
		if _, r := s.response(); r.Error != nil && r.Error.Code == protocol.CodeRoomBusy {
			t.Errorf("%s: the room is busy for good", s.name)
		}
	}
}

// While an operation is under way, other requests about its room wait for it and
// keep their order; those about other rooms, and those about none, do not.
func TestOverlap_otherKinds(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), held...)
	ana, bo := enroll(a, t, "ana"), enroll(b, t, "bo")
	bo.enter("R")
	ana.enter("Q")
	server.Pause()
	about := map[string]string{} // what the answer to a request is about
	enter := ana.send(protocol.MethodEnterRoom, enterR)
	ana.hears("R connecting activeEnter")
	one := ana.send(protocol.MethodSendRoomMessage, textMessage("R", "one"))
	count := ana.send(protocol.MethodQueryRoomOnlineMemberCount, joinR)
	ana.raw(`{"jsonrpc":"2.0","method":"sendRoomMessage","params":` + textMessage("R", "two") + `}`)
	look := ana.send(protocol.MethodQueryRoomMembers, `{"roomID":"R","userIDs":["ana","bo"]}`)
	ana.settled()
	for _, id := range []int{enter, one, count, look} {
		about[fmt.Sprint(id)] = "R"
	}
	other := ana.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"S"}}`)
	ana.hears("S connecting activeEnter")
	change := ana.send(protocol.MethodSwitchRoom, `{"fromRoomID":"Q","toRoomInfo":{"roomID":"P"},"isCreateWhenRoomNotExisted":true}`)
	ana.hears("P connecting activeSwitch")
	about[fmt.Sprint(other)], about[fmt.Sprint(change)] = "S", "P"
	server.Resume()

	// Rooms go on side by side: the frames of each are in order.
	byRoom := map[string][]string{}
	for range 10 {
		frame := ana.take()
		b := brief(frame)
		room, _, _ := strings.Cut(b, " ")
		if r := answerOf(t, frame); len(r.ID) > 0 {
			room = about[string(r.ID)]
			b += " " + string(r.ID)
		} else if b == "Q disconnected success" {
			room = "P"
		}
		byRoom[room] = append(byRoom[room], b)
	}
	ok := func(id int) string { return fmt.Sprint("ok ", id) }
	want := map[string][]string{
		"R": {"R connected success", ok(enter), ok(one), ok(count), ok(look)},
		"S": {"S connected success", ok(other)},
		"P": {"P connected success", "Q disconnected success", ok(change)},
	}
	if d := cmp.Diff(want, byRoom); d != "" {
		t.Errorf("ana (-want +got):\n%s", d)
	}
	ana.settled()
	bo.hears("R +ana 2", "R ana: one", "R ana: two")
}

// leaveAllRoom, logout and a batch wait for all that is under way, and what is
// behind them waits for them.
func TestOverlap_all(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), held...)
	bo := enroll(b, t, "bo")
	bo.enter("R")
	cast := map[string]*wire{}
	for _, user := range []string{"ana", "cy", "di"} {
		cast[user] = enroll(a, t, user)
		cast[user].enter("Q-" + user)
	}
	server.Pause()
	last := map[string]string{
		"ana": `{"jsonrpc":"2.0","id":90,"method":"leaveAllRoom","params":{"requestKey":9}}`,
		"cy":  `{"jsonrpc":"2.0","id":90,"method":"logout"}`,
		"di":  `[{"jsonrpc":"2.0","id":90,"method":"leaveAllRoom"}]`,
	}
	enters, leaves := map[string]int{}, map[string]int{}
	for user, w := range cast {
		enters[user] = w.send(protocol.MethodEnterRoom, enterR)
		w.hears("R connecting activeEnter")
		leaves[user] = w.send(protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":"Q-%s"}`, user))
		if user == "di" { // row 14 is about what is in a batch, too
			w.raw(`[{"jsonrpc":"2.0","id":80,"method":"joinRoom","params":` + joinR + `}]`)
		}
		w.raw(last[user])
		if user != "cy" {
			w.send(protocol.MethodEnterRoom, `{"roomInfo":{"roomID":"S-`+user+`"}}`)
		}
		w.settled()
	}
	server.Resume()
	// take passes over the others of the three, who come and go in R.
	take := func(user string) (frame, short string) {
		for {
			frame = cast[user].take()
			if short = brief(frame); !strings.Contains(short, " +") && !strings.Contains(short, " -") {
				return frame, short
			}
		}
	}
	// The two that were under way end in any order.
	for user := range cast {
		byRoom := map[string][]string{}
		for range 4 {
			frame, b := take(user)
			room, _, _ := strings.Cut(b, " ")
			if r := answerOf(t, frame); len(r.ID) > 0 {
				room = map[string]string{fmt.Sprint(enters[user]): "R", fmt.Sprint(leaves[user]): "Q-" + user}[string(r.ID)]
			}
			byRoom[room] = append(byRoom[room], b)
		}
		want := map[string][]string{"R": {"R connected success", "ok"}, "Q-" + user: {"Q-" + user + " disconnected success", "ok"}}
		if d := cmp.Diff(want, byRoom); d != "" {
			t.Errorf("%s (-want +got):\n%s", user, d)
		}
	}
	behind := func(user string) []string {
		return []string{"S-" + user + " connecting activeEnter", "S-" + user + " connected success", "ok"}
	}
	until := func(user string, want ...string) {
		t.Helper()
		var got []string
		for range want {
			_, b := take(user)
			got = append(got, b)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", user, d)
		}
	}
	until("ana", append([]string{"R disconnected success", "ok"}, behind("ana")...)...)
	until("cy", "R disconnected success", "connection disconnected success", "ok")
	cast["cy"].wantClosed(protocol.CloseNormal)
	until("di", append([]string{"[error 6000326]", "R disconnected success", "[ok]"}, behind("di")...)...)
	var came, went int
	for range 6 {
		if strings.Contains(brief(bo.take()), " +") {
			came++
		} else {
			went++
		}
	}
	if came != 3 || went != 3 {
		t.Errorf("bo heard of %d that came and %d that went, want 3 of each", came, went)
	}
	bo.settled()
}

// 32 state-changing requests may be unanswered, wanted or not. One more is
// refused, and is not carried out; what changes nothing is served.
func TestOverlap_unanswered(t *testing.T) {
	t.Parallel()
	server, rdb := anyRedis(t)
	g := startGateway(t, server.Addr(), held...)
	ana := enroll(g, t, "ana")
	create := func(room string, id string) {
		ana.raw(fmt.Sprintf(`{"jsonrpc":"2.0",%s"method":"createRoom","params":{"roomInfo":{"roomID":%q}}}`, id, room))
	}
	server.Pause()
	for i := range protocol.MaxUnanswered - 1 {
		create(fmt.Sprint("R", i), "")
		ana.hears(fmt.Sprintf("R%d connecting activeCreate", i))
	}
	ana.send(protocol.MethodCreateRoom, `{"roomInfo":{"roomID":"last"}}`)
	ana.hears("last connecting activeCreate")
	for method, params := range map[string]string{
		"createRoom": `{"roomInfo":{"roomID":"over"}}`, "joinRoom": joinR, "enterRoom": enterR, "switchRoom": fromF, "leaveRoom": joinR,
		"leaveAllRoom": `{}`, "logout": `{}`, "sendRoomMessage": textMessage("R", "hi"),
	} {
		ana.send(method, params)
		ana.hears("error 6000005")
	}
	create("over", "")
	ana.send(protocol.MethodQueryRoomOnlineMemberCount, joinR)
	ana.settled()
	server.Resume()

	var got []string
	for range protocol.MaxUnanswered + 2 {
		got = append(got, brief(ana.take()))
	}
	want := []string{"last connected success", "ok", "error 6000322"}
	for i := range protocol.MaxUnanswered - 1 {
		want = append(want, fmt.Sprintf("R%d connected success", i))
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("ana (-want +got):\n%s", d)
	}
	if n := sizeOf(t, rdb, inPartitions(rdb, "rooms")); n != protocol.MaxUnanswered {
		t.Errorf("there are %d rooms, want %d", n, protocol.MaxUnanswered)
	}
	ana.enter("over")
}

// An entry whose turn does not come in time says so as one that Redis did not
// answer, and is not carried out. Nothing else has a state to tell.
func TestOverlap_late(t *testing.T) {
	t.Parallel()
	server, _ := anyRedis(t)
	a, b := startPair(t, server.Addr(), "--lease-ttl=30s", "--session-ttl=60s", "--log-ttl=5m", "--rate-limits=false", "--max-rooms-per-user=500")
	bo := enroll(b, t, "bo")
	failed := map[string][]string{
		"create":      {"$R connecting activeCreate", "$R disconnected createFailed"},
		"join":        {"$R connecting activeEnter", "$R disconnected enterFailed"},
		"enter":       {"$R connecting activeEnter", "$R disconnected enterFailed"},
		"switch from": {"$S connecting activeSwitch", "$S disconnected switchFailed"},
		"switch to":   {"$R connecting activeSwitch", "$R disconnected switchFailed"},
	}
	in := overlaps[2]
	in.name, in.in = "enter where one is", "$R"
	all := contests(t, a, bo, append(slices.Clone(overlaps), in))
	server.Pause()
	var ids []int
	for _, s := range all {
		// It is not answered, and pursued.
		s.send(protocol.MethodSendRoomMessage, s.names.Replace(textMessage("$R", "stalled")))
		ids = append(ids, s.request(s.overlap, 1))
	}
	for i, s := range all {
		var got []string
		for answers := 0; answers < 2; {
			frame := s.take()
			if r := answerOf(t, frame); len(r.ID) > 0 {
				if answers++; r.Error == nil || r.Error.Code != protocol.CodeUnavailable || !r.Error.Data.Retryable {
					t.Errorf("%s: got %s, want 6000007, retryable", s.name, frame)
				}
				if string(r.ID) != fmt.Sprint(ids[i]) {
					continue
				}
			}
			got = append(got, brief(frame))
		}
		want := append(s.wanted(failed[s.name]), "error 6000007")
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, d)
		}
	}
	server.Resume()
	var others []string
	for _, s := range all {
		want := append(s.wanted(s.begun), s.wanted(s.then[:len(s.then)-1])...)
		if s.name == in.name {
			want = nil
		} else {
			others = append(others, s.wanted(s.others)...)
		}
		eventually(t, s.name+" to be possible", func() bool {
			s.request(s.overlap, 1)
			events, r := s.response()
			var got []string
			for _, e := range events {
				got = append(got, brief(e))
			}
			if r.Error != nil {
				return false
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s, repeated (-want +got):\n%s", s.name, d)
			}
			return true
		})
	}
	var got []string
	eventually(t, "bo to hear of them", func() bool {
		bo.send(protocol.MethodPing, "{}")
		for _, b := range bo.until("ok") {
			if b != "ok" && !strings.Contains(b, "stalled") { // that may have been stored, or not
				got = append(got, b)
			}
		}
		return len(got) >= len(others)
	})
	slices.Sort(got)
	slices.Sort(others)
	if d := cmp.Diff(others, got); d != "" {
		t.Errorf("bo (-want +got):\n%s", d)
	}
}
