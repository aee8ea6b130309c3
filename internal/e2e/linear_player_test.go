//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"github.com/roomgate/roomgate/protocol"
)

// A player is one session of a user. It does one thing at a time, and comes
// back when its connection is lost, on another gateway.
type player struct {
	h             *history
	session, user uint8
	r             *rand.Rand

	id    string // of the session; "" before the login
	ws    *websocket.Conn
	gate  int           // that ws goes to
	req   int           // the ID of the last request
	key   int64         // the last requestKey
	bear  time.Duration // how long it waits for an answer before it goes elsewhere
	stay  *visit        // of ws
	torn  bool          // the session goes on over such a connection, which the client has left
	loose int           // logins that were not answered

	open  []done              // of unknown outcome, which this connection has under way
	rooms [mostRooms]standing // as the client has been told
	heard [mostRooms][]news
	back  *comeback // while the session comes back
}

// A visit is a session's time on one connection.
type visit struct {
	gate             *gateway
	called, answered time.Duration // the login
}

// A standing is what a client knows of its own place in a room.
type standing struct {
	in         bool
	epoch, seq int64 // up to where it has heard
}

// A comeback is what is said in a resume.
type comeback struct {
	named [mostRooms]bool      // by the client
	said  [mostRooms]*sighting // by the gateway
	over  bool                 // the session does not go on
}

// news is something that a client heard of a room.
type news struct {
	kind       newsKind
	epoch, seq int64              // of connected and answers; of joined, left and lost seq only, or none
	event      protocol.RoomEvent // of connected, disconnected
	back       bool               // while the session comes back
	over       bool               // which it does not
	users      []uint8            // of joined, left
	count      int64              // likewise
	at         int64              // when, unix ms
}

type newsKind uint8

const (
	newsConnected newsKind = iota
	newsDisconnected
	newsJoined
	newsLeft
	newsLost      // up to a seq
	newsAnswer    // to a query, at a position
	newsForgotten // nothing was heard, but the client knows no more that it is in the room
)

// errLost means that the connection is over, so that nobody knows what became
// of the request.
var errLost = errors.New("connection lost")

// drop ends the connection as a lost link does.
func (p *player) drop() {
	if p.ws != nil {
		p.h.tell(p, "drops", nil)
		p.ws.NetConn().Close()
		p.ws = nil
	}
}

// login begins the session.
func (p *player) login(ctx context.Context) error {
	p.gate = p.r.IntN(gatesOfSite)
	return p.connect(ctx, nil)
}

// connect opens a connection to another gateway and begins the session there,
// or goes on with it. pending is the operation that was under way, if it is not
// among those that are open.
func (p *player) connect(ctx context.Context, pending *done) error {
	deadline := time.Now().Add(3 * patience)
	for time.Now().Before(deadline) {
		if p.torn {
			if err := p.forget(pending); err != nil {
				return err
			}
			pending = nil
		}
		p.gate = (p.gate + 1 + p.r.IntN(gatesOfSite-1)) % gatesOfSite
		err := p.tryConnect(ctx, pending)
		p.back = nil
		if !errors.Is(err, errLost) {
			return err
		}
		if !pause(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("no gateway took the session back in %v", 3*patience)
}

func (p *player) tryConnect(ctx context.Context, pending *done) error {
	p.drop()
	stay := &visit{gate: p.h.site.gate(p.gate), called: p.h.now()}
	dialer := *websocket.DefaultDialer
	dialer.HandshakeTimeout = dialTime
	ws, _, err := dialer.DialContext(ctx, stay.gate.URL()+protocol.Path, nil)
	if err != nil {
		return errLost
	}
	p.ws = ws
	p.bear = p.h.site.plan.loginTime
	params := protocol.LoginParams{UserID: p.h.userID(p.user)}
	if p.id != "" {
		p.back = &comeback{}
		params.Resume = &protocol.Resume{SessionID: p.id}
		for n, s := range p.rooms {
			if !s.in {
				continue
			}
			if p.r.IntN(2) == 0 { // this client forgets what it knew
				p.rooms[n] = standing{}
				p.heard[n] = append(p.heard[n], news{kind: newsForgotten})
				continue
			}
			p.back.named[n] = true
			params.Resume.Rooms = append(params.Resume.Rooms, protocol.ResumeRoom{
				RoomID: p.h.room(uint8(n)), Position: protocol.Position{Epoch: s.epoch, Seq: s.seq},
			})
		}
	}
	text, err := json.Marshal(params)
	if err != nil {
		return err
	}
	resume := done{operation: operation{act: actResume, session: p.session, user: p.user}, called: p.h.now()}
	if err := p.send(protocol.MethodLogin, string(text)); err != nil {
		return err
	}
	f, err := p.answer()
	switch {
	case err != nil:
		p.loose++
		return err
	case f.Error != nil && f.Error.Code == protocol.CodeUnavailable:
		return errLost
	case f.Error != nil:
		return fmt.Errorf("login: %d %s", f.Error.Code, f.Error.Message)
	}
	var r protocol.LoginResult
	if err := json.Unmarshal(f.Result, &r); err != nil {
		return err
	}
	stay.answered = p.h.now()
	if p.id == "" {
		p.id, p.stay = r.SessionID, stay
		return nil
	}
	if r.Resumed != (r.SessionID == p.id) {
		return fmt.Errorf("login: got %+v, want session %s or another to go on", r, p.id)
	}
	if !r.Resumed && pending != nil {
		n, err := p.h.doubt(*pending)
		if err != nil {
			return err
		}
		resume.settles.add(n)
	}
	open := p.open
	for _, d := range open {
		resume.settles.add(d.doubt)
	}
	p.open = nil
	p.stay, resume.stay = stay, stay
	resume.answered, resume.got.over, p.back.over = stay.answered, !r.Resumed, !r.Resumed
	err = p.told()
	for n, s := range p.back.said {
		switch {
		case s != nil:
			resume.got.places[n] = *s
		case err != nil:
			resume.got.places[n].unsure = true
		}
	}
	if p.h.site.plan.cluster && r.Resumed {
		p.noteApart(resume, open, pending)
	} else {
		p.h.note(resume)
	}
	if !r.Resumed {
		return errors.Join(p.h.retire(p, r.SessionID), err)
	}
	return err
}

// noteApart notes a resume on a Cluster, which finds each room as it was at a moment of
// its own, and fences what is under way there at that moment. Only the session itself
// enters it anywhere, and it does nothing else meanwhile. So where it turns out to be in,
// and had nothing under way, it was in at the beginning; and where it was found to be
// out it still is at the end. open is what was under way, pending as connect has it.
func (p *player) noteApart(resume done, open []done, pending *done) {
	parts := func(at, until time.Duration, rooms ...int) {
		if len(rooms) == 0 {
			return
		}
		part := resume
		part.called, part.answered, part.settles, part.stay = at, until, doubts{}, nil
		for n := range part.got.places {
			part.got.places[n] = sighting{elsewhere: true}
		}
		for _, n := range rooms {
			part.got.places[n] = resume.got.places[n]
			for _, d := range open {
				if d.touches(n) {
					part.settles.add(d.doubt)
				}
			}
		}
		p.h.note(part)
	}
	var in, out []int
	for n, s := range resume.got.places[:p.h.rooms] {
		underWay := pending != nil && pending.touches(n) ||
			slices.ContainsFunc(open, func(d done) bool { return d.touches(n) })
		switch {
		case s.unsure || !s.in:
			out = append(out, n)
		case s.seq == 0 && !underWay:
			in = append(in, n)
		default:
			parts(resume.called, resume.answered, n)
		}
	}
	parts(resume.called, resume.called, in...)
	parts(resume.answered, resume.answered, out...)
	p.h.sign(resume)
}

// forget has the client begin another session, without a word about the one that
// it has. pending is as connect has it.
func (p *player) forget(pending *done) error {
	if pending != nil {
		if _, err := p.h.doubt(*pending); err != nil {
			return err
		}
	}
	return p.h.retire(p, "")
}

// lost has the client do what one does whose connection is lost: it comes back
// at once, or stays away for a while, or knows nothing of its session any more
// and begins another. pending is as connect has it.
func (p *player) lost(ctx context.Context, pending *done) error {
	p.drop()
	ttl := p.h.site.plan.away
	if ttl > 0 && int(p.h.asked.Load()) < p.h.site.operations {
		away := time.Duration(0)
		switch n := p.r.IntN(100); {
		case n < 25:
			away = time.Duration(p.r.Int64N(int64(ttl)))
		case n < 40:
			away = ttl + time.Duration(p.r.Int64N(int64(ttl/2)))
		case n < 45:
			if err := p.forget(pending); err != nil {
				return err
			}
			pending = nil
		}
		if away > 0 && !pause(ctx, away) {
			return ctx.Err()
		}
	}
	return p.connect(ctx, pending)
}

// told waits until the client has been told of all its rooms: this request
// waits for that.
func (p *player) told() error {
	for {
		if err := p.send(protocol.MethodQueryRoomOnlineMemberCount, fmt.Sprintf(`{"roomID":"%s.none"}`, p.h.name)); err != nil {
			return err
		}
		f, err := p.answer()
		switch {
		case err != nil:
			return err
		case f.Error == nil:
			return errors.New("a room that nobody made exists")
		case f.Error.Code == protocol.CodeNoRoom:
			return nil
		case f.Error.Code != protocol.CodeUnavailable:
			return fmt.Errorf("count: %d %s", f.Error.Code, f.Error.Message)
		}
	}
}

func (p *player) send(method, params string) error {
	p.req++
	text := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, p.req, method, params)
	p.h.tell(p, "→", []byte(text))
	p.ws.SetWriteDeadline(time.Now().Add(patience))
	if err := p.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		return errLost
	}
	return nil
}

// incoming is what comes over a connection: an answer, or an event about a room.
type incoming struct {
	ID     *int            `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *protocol.Error `json:"error"`
	Method string          `json:"method"`
	Params struct {
		protocol.Position
		RoomID      string              `json:"roomID"`
		State       protocol.RoomState  `json:"state"`
		Event       protocol.RoomEvent  `json:"event"`
		MemberList  []protocol.UserInfo `json:"memberList"`
		MemberCount int64               `json:"memberCount"`
		FromSeq     int64               `json:"fromSeq"`
		ToSeq       int64               `json:"toSeq"`
	} `json:"params"`
}

// answer takes what comes up to the answer to the last request.
func (p *player) answer() (incoming, error) {
	p.ws.SetReadDeadline(time.Now().Add(p.bear))
	for {
		var f incoming
		_, b, err := p.ws.ReadMessage()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && p.bear < patience:
			p.h.tell(p, "waits no more", nil)
			return f, errLost
		case errors.Is(err, os.ErrDeadlineExceeded):
			return f, fmt.Errorf("no answer in %v", patience)
		case websocket.IsCloseError(err, int(protocol.CloseTakenOver)):
			p.h.tell(p, "←", []byte(err.Error()))
			if p.loose == 0 {
				return f, err // by whom?
			}
			p.torn = true
			return f, errLost
		case err != nil:
			p.h.tell(p, "←", []byte(err.Error()))
			return f, errLost
		}
		p.h.tell(p, "←", b)
		if err := json.Unmarshal(b, &f); err != nil {
			return f, fmt.Errorf("got %q: %w", b, err)
		}
		if f.Method == "" {
			if f.ID == nil || *f.ID != p.req {
				return f, fmt.Errorf("got %s, want the answer to request %d", b, p.req)
			}
			return f, nil
		}
		if err := p.hear(f); err != nil {
			return f, fmt.Errorf("got %s: %w", b, err)
		}
	}
}

// hear notes an event.
func (p *player) hear(f incoming) error {
	if f.Method == protocol.EventConnectionStateChanged {
		return nil
	}
	e := &f.Params
	n, err := p.h.roomOf(e.RoomID)
	if err != nil {
		return err
	}
	what := news{epoch: e.Epoch, seq: e.Seq, event: e.Event, back: p.back != nil, over: p.back != nil && p.back.over, count: e.MemberCount, at: time.Now().UnixMilli()}
	for _, m := range e.MemberList {
		u, err := p.h.userOf(m.UserID)
		if err != nil {
			return err
		}
		what.users = append(what.users, u)
	}
	var said sighting
	switch f.Method {
	case protocol.EventRoomStateChanged:
		switch e.State {
		case protocol.RoomConnected:
			what.kind = newsConnected
			said = sighting{in: true, epoch: e.Epoch, seq: e.Seq}
			if p.back != nil && p.back.named[n] {
				said.seq = 0 // this is what the client named
			}
			p.rooms[n] = standing{true, e.Epoch, e.Seq}
		case protocol.RoomDisconnected:
			what.kind = newsDisconnected
			said.unsure = true
			p.rooms[n] = standing{}
		default:
			return nil
		}
		if p.back != nil && p.back.said[n] == nil {
			p.back.said[n] = &said
		}
	case protocol.EventRoomMemberJoined, protocol.EventRoomMemberLeft:
		what.kind = newsJoined
		if f.Method == protocol.EventRoomMemberLeft {
			what.kind = newsLeft
		}
		p.rooms[n].seq = max(p.rooms[n].seq, e.Seq)
	case protocol.EventRoomHistoryLost:
		if e.FromSeq == 0 { // it named another life
			return nil
		}
		what.kind, what.seq = newsLost, e.ToSeq
	default:
		return errors.New("nobody does anything that this could be about")
	}
	p.heard[n] = append(p.heard[n], what)
	return nil
}

// play does things until the history is long enough.
func (p *player) play(ctx context.Context) error {
	for ctx.Err() == nil && int(p.h.asked.Add(1)) <= p.h.site.operations {
		o := p.choose()
		counts, err := false, error(nil)
		if o.act == actDestroy {
			counts = true
			_, err = p.h.destroy(o, p.h.site.gate(p.r.IntN(gatesOfSite)))
		} else {
			_, counts, err = p.perform(ctx, o, p.r.IntN(100) < p.h.site.plan.lost)
		}
		if err != nil {
			return fmt.Errorf("%v: %w", &o, err)
		}
		if !counts {
			p.h.asked.Add(-1)
		}
		wait := time.Duration(0)
		if p.h.site.plan.pace > 0 {
			wait = time.Duration(p.r.Int64N(int64(p.h.site.plan.pace)))
		}
		if !counts {
			wait += time.Millisecond
		}
		if wait > 0 && !pause(ctx, wait) {
			return ctx.Err()
		}
	}
	return nil
}

// choices are what players do, by how often.
var choices = [...]struct {
	act    act
	weight int
}{
	{actCreate, 12}, {actJoin, 12}, {actEnter, 20}, {actSwitch, 18}, {actLeave, 15}, {actCount, 8}, {actList, 11}, {actDestroy, 4},
}

// choose says what to do next.
func (p *player) choose() operation {
	o := operation{
		session: p.session, user: p.user,
		room: uint8(p.r.IntN(p.h.rooms)), lasting: p.r.IntN(3) == 0, may: p.r.IntN(3) > 0,
	}
	n := p.r.IntN(100)
	for _, c := range choices {
		if n -= c.weight; n < 0 {
			o.act = c.act
			break
		}
	}
	if in := p.in(); (o.act == actSwitch || o.act == actLeave || o.act.query()) && len(in) > 0 && p.r.IntN(12) > 0 {
		o.room = in[p.r.IntN(len(in))]
	}
	o.to = o.room
	if o.act == actSwitch {
		if o.to = uint8(p.r.IntN(p.h.rooms)); o.to == o.room { // rarely
			o.to = uint8(p.r.IntN(p.h.rooms))
		}
		o.early = o.to == o.room
	}
	return o
}

// in gives the rooms that the client believes to be in.
func (p *player) in() (rooms []uint8) {
	for n, s := range p.rooms {
		if s.in {
			rooms = append(rooms, uint8(n))
		}
	}
	return rooms
}

// perform asks for an operation. If the answer is lost, which it is at once if
// lose is set, the session goes on elsewhere; then, or where it was told that
// Redis is unavailable, it may ask again under the same requestKey: what it is
// told in the end is the outcome of one operation. got is nil if it is never
// told. counts says whether the operation may have happened.
func (p *player) perform(ctx context.Context, o operation, lose bool) (got *outcome, counts bool, err error) {
	d := done{operation: o, called: p.h.now()}
	d.stay = p.stay
	p.key++
	session := p.session
	for {
		p.bear = p.h.site.plan.patience(p.r)
		got, err := p.ask(ctx, &o, lose)
		lose = false
		lost := errors.Is(err, errLost)
		switch {
		case err != nil && !lost:
			return nil, false, err
		case !lost && got.code == protocol.CodeRoomBusy:
			if !slices.ContainsFunc(p.open, func(other done) bool { return other.shares(&o) }) {
				return nil, false, errors.New("refused, since another is under way, which is not")
			}
			return nil, false, nil
		case !lost && got.code != protocol.CodeUnavailable:
			d.early = d.early || got.code == protocol.CodeBadParameter
			if !d.early {
				p.open = slices.DeleteFunc(p.open, func(other done) bool {
					over := other.shares(&o)
					if over {
						d.settles.add(other.doubt)
					}
					return over
				})
			}
			d.got, d.stay = got, p.stay
			p.h.note(d)
			return &got, true, nil
		}

		// It may have happened, or may yet.
		again := !o.act.query() && p.r.IntN(3) > 0 && (lost || p.r.IntN(2) == 0)
		// The gateway may take an entry back all the same, where Redis is away
		// for longer than it waits.
		takenBack := o.act.entry() && p.h.site.plan.faults != nil
		pending := &d
		if o.act.query() {
			pending = nil
		} else if !again || takenBack {
			pending = nil
			n, err := p.h.doubt(d)
			if err != nil {
				return nil, false, err
			}
			open := d
			open.doubt = n
			p.open = append(p.open, open)
		}
		if lost || again && p.r.IntN(2) == 0 {
			if err := p.lost(ctx, pending); err != nil {
				return nil, false, err
			}
		}
		if !again || p.session != session {
			return nil, !o.act.query(), nil
		}
		p.h.repeats.Add(1)
	}
}

// touches says whether an operation is about a room.
func (o *operation) touches(n int) bool { return int(o.room) == n || int(o.to) == n }

// shares says whether two operations are about a room of each other.
func (o *operation) shares(other *operation) bool {
	return o.room == other.room || o.room == other.to || o.to == other.room || o.to == other.to
}

// ask makes a request once.
func (p *player) ask(ctx context.Context, o *operation, lose bool) (got outcome, err error) {
	room, to, delay := p.h.room(o.room), p.h.room(o.to), 0
	if o.lasting {
		delay = 3600
	}
	config := fmt.Sprintf(`"config":{"roomDestroyDelayTime":%d},"requestKey":%d`, delay, p.key)
	entry := fmt.Sprintf(`{"roomInfo":{"roomID":%q,"roomName":""},%s}`, room, config)
	var method, params string
	switch o.act {
	case actCreate:
		method, params = protocol.MethodCreateRoom, entry
	case actEnter:
		method, params = protocol.MethodEnterRoom, entry
	case actJoin:
		method, params = protocol.MethodJoinRoom, fmt.Sprintf(`{"roomID":%q,"requestKey":%d}`, room, p.key)
	case actSwitch:
		method, params = protocol.MethodSwitchRoom, fmt.Sprintf(
			`{"fromRoomID":%q,"toRoomInfo":{"roomID":%q,"roomName":""},"isCreateWhenRoomNotExisted":%t,%s}`, room, to, o.may, config)
	case actLeave:
		method, params = protocol.MethodLeaveRoom, fmt.Sprintf(`{"roomID":%q,"requestKey":%d}`, room, p.key)
	case actCount:
		method, params = protocol.MethodQueryRoomOnlineMemberCount, fmt.Sprintf(`{"roomID":%q}`, room)
	case actList:
		method, params = protocol.MethodQueryRoomMemberList, fmt.Sprintf(`{"roomID":%q,"config":{"count":100,"nextFlag":""}}`, room)
	}
	if err := p.send(method, params); err != nil {
		return got, err
	}
	if lose {
		if p.r.IntN(2) == 0 {
			pause(ctx, time.Duration(p.r.IntN(2000))*time.Microsecond)
		}
		p.drop()
		return got, errLost
	}
	f, err := p.answer()
	if err != nil {
		return got, err
	}
	if f.Error != nil {
		got.code = f.Error.Code
		return got, nil
	}
	return got, p.read(o, f.Result, &got)
}

// read reads the result of an operation.
func (p *player) read(o *operation, text json.RawMessage, got *outcome) error {
	var r struct {
		protocol.Position
		RoomID      string                 `json:"roomID"`
		RoomInfo    *protocol.RoomFullInfo `json:"roomInfo"`
		Created     bool                   `json:"created"`
		MemberCount int64                  `json:"memberCount"`
		Count       int64                  `json:"count"`
		MemberList  []protocol.UserInfo    `json:"memberList"`
		NextFlag    string                 `json:"nextFlag"`
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	room := r.RoomID
	if r.RoomInfo != nil {
		room = r.RoomInfo.BaseInfo.RoomID
	}
	if room != p.h.room(o.to) || r.NextFlag != "" {
		return fmt.Errorf("got %s", text)
	}
	got.epoch, got.seq, got.created, got.count = r.Epoch, r.Seq, r.Created, r.MemberCount
	if !o.act.query() {
		return nil
	}
	got.count = r.Count
	for _, m := range r.MemberList {
		u, err := p.h.userOf(m.UserID)
		if err != nil {
			return err
		}
		got.users += string(rune('a' + u))
	}
	p.heard[o.room] = append(p.heard[o.room], news{kind: newsAnswer, epoch: r.Epoch, seq: r.Seq})
	return nil
}

// settle waits until nothing of the session is under way, and until what the
// client has been told is so: where it is, and all that has happened there.
func (p *player) settle(ctx context.Context) error {
	for n := range p.h.rooms {
		deadline := time.Now().Add(3 * patience)
		var wrong error // in what it has heard
		for wait := 2 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
			o := operation{act: actCount, session: p.session, user: p.user, room: uint8(n), to: uint8(n)}
			got, _, err := p.perform(ctx, o, false)
			if err != nil {
				return err
			}
			if got != nil {
				var known bool
				if known, wrong = p.knows(n, got); known {
					break
				}
			}
			if time.Now().After(deadline) {
				return errors.Join(wrong, fmt.Errorf("believes %+v of room %s, was answered %+v, and is told no better", p.rooms[n], roomName(uint8(n)), got))
			}
			if !pause(ctx, wait) {
				return ctx.Err()
			}
		}
	}
	return nil
}
