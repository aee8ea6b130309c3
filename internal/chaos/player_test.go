//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roomgate/roomgate/client"
	"github.com/roomgate/roomgate/protocol"
)

// A player is one user with one device, and what that user does under load.
type player struct {
	*record
	w      *world
	i      int
	rand   *rand.Rand // of the load; only play uses it
	http   *http.Client
	paused atomic.Bool
	what   atomic.Value // string: what it is at

	mu       sync.Mutex
	c        *client.Client // nil: gone
	gone     time.Time      // when the last client was closed
	session  string
	conns    map[net.Conn]bool
	offline  bool
	steady   bool // a pause: being offline ends
	vanished bool // it is to be gone for a while
	n        int  // of messages
}

func newPlayer(w *world, i int) *player {
	user := fmt.Sprintf("u%d", i)
	p := &player{
		record: newRecord(w, user), w: w, i: i, rand: rand.New(rand.NewPCG(w.seed, uint64(i)+1)), conns: map[net.Conn]bool{},
	}
	p.what.Store("beginning")
	p.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: p.dialConn}}
	return p
}

func (p *player) doing() string { return p.what.Load().(string) }

// dialConn makes a connection that the player can lose.
func (p *player) dialConn(ctx context.Context, _, addr string) (net.Conn, error) {
	p.mu.Lock()
	offline := p.offline
	p.mu.Unlock()
	if offline {
		return nil, errors.New("offline")
	}
	c, err := p.w.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	return c, nil
}

// drop loses the player's connections, and makes no new ones until it may.
func (p *player) drop(offline bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offline = offline && !p.steady
	for c := range p.conns {
		c.Close()
		delete(p.conns, c)
	}
}

// vanish has the player make no more connections, and be gone when it notices.
func (p *player) vanish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offline, p.vanished = true, true
}

// vanishes says whether the player is to be gone.
func (p *player) vanishes() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.vanished
	p.vanished = false
	return v
}

// reach ends being offline, for now or for good.
func (p *player) reach(steady bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offline, p.steady = false, steady
}

// come logs the user in, if it is gone. The device stays the same, so the user
// takes its own places over if they are still there.
func (p *player) come(ctx context.Context) {
	kind := "gate"
	if p.i%2 == 0 {
		kind = "door"
	}
	var urls []string
	for i := range stations {
		urls = append(urls, fmt.Sprintf("ws://%s-%d", kind, (p.i+i)%stations))
	}
	c, err := client.Dial(ctx, client.Config{
		URLs: urls, User: protocol.UserInfo{UserID: p.user, UserName: "name of " + p.user}, DeviceID: "device of " + p.user[1:],
		OnEvent: p.hear, HTTPClient: p.http, ConnectTimeout: callTimeout / 2,
		MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
	})
	if err != nil { // it tries again
		p.record.mu.Lock()
		defer p.record.mu.Unlock()
		p.record.links = nil
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.c = c
	p.session = c.Session().SessionID
}

// leave closes the client. Its stays are over, as far as it knows; the others
// may see it for a while.
func (p *player) leave(c *client.Client) {
	c.Close()
	p.counted(c)
	p.record.mu.Lock()
	p.record.say("closed")
	p.record.unlink()
	p.record.links = nil
	for room, s := range p.record.rooms {
		s.ended, s.ending = time.Now(), ""
		p.record.past = append(p.record.past, s)
		delete(p.record.rooms, room)
	}
	p.record.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.c, p.gone = nil, time.Now()
}

// counted looks at what the client has counted: it does not pass on what comes
// twice.
func (p *player) counted(c *client.Client) {
	if s := c.Stats(); s.Duplicates != 0 || s.Malformed != 0 {
		p.w.blame("%s: its client counted %+v", p.user, s)
	}
}

func (p *player) client() *client.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.c
}

// play is the player's life.
func (p *player) play() {
	defer func() {
		if c := p.client(); c != nil {
			p.leave(c)
		}
	}()
	for p.w.ctx.Err() == nil {
		if resume := p.w.pausing(); resume != nil {
			p.what.Store("pausing")
			p.paused.Store(true)
			select {
			case <-resume:
			case <-p.w.ctx.Done():
				return
			}
			p.paused.Store(false)
			p.reach(false)
			continue
		}
		ctx, cancel := context.WithTimeout(p.w.ctx, callTimeout)
		p.act(ctx)
		cancel()
		p.idle(time.Duration(p.rand.IntN(40)) * time.Millisecond)
	}
}

// idle does nothing for a while, or until there is a pause or an end.
func (p *player) idle(d time.Duration) {
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-end.C:
			return
		case <-p.w.ctx.Done():
			return
		case <-tick.C:
			if p.w.pausing() != nil {
				return
			}
		}
	}
}

// act does one thing.
func (p *player) act(ctx context.Context) {
	r := p.rand
	c := p.client()
	if c == nil {
		p.what.Store("logging in")
		p.come(ctx)
		return
	}
	if err := c.Err(); err != nil {
		p.w.blame("%s: its client ended: %v", p.user, err)
		p.leave(c)
		return
	}
	if p.vanishes() {
		p.what.Store("vanished")
		p.leave(c)
		p.reach(false)
		p.idle(patience) // at rest it is still gone
		return
	}
	p.renewed(c)
	in := sortedKeys(p.in())
	some := func() string { return in[r.IntN(len(in))] }
	var out []string
	for _, room := range rooms {
		if !slices.Contains(in, room) {
			out = append(out, room)
		}
	}
	n := r.IntN(1000)
	switch {
	case len(in) == 0 || n < 80 && len(out) > 0:
		room := out[r.IntN(len(out))]
		p.what.Store("entering " + room)
		_, err := c.EnterRoom(ctx, info(room), config(room))
		p.done(err)
	case n < 140 && len(out) > 0:
		from, to := some(), out[r.IntN(len(out))]
		p.what.Store("switching from " + from + " to " + to)
		p.wants(from)
		_, err := c.SwitchRoom(ctx, from, info(to), true, config(to))
		p.done(err)
	case n < 220:
		room := some()
		p.what.Store("leaving " + room)
		p.wants(room)
		p.done(c.LeaveRoom(ctx, room))
	case n < 230:
		p.what.Store("leaving all")
		p.wants("")
		_, err := c.LeaveAllRoom(ctx)
		p.done(err)
	case n < 260: // a weak link
		p.what.Store("losing its link")
		p.drop(true)
		p.idle(time.Duration(r.IntN(400)) * time.Millisecond)
		p.reach(false)
	case n < 266: // a long walk without one
		p.what.Store("offline for a while")
		p.drop(true)
		p.idle(time.Second + time.Duration(r.IntN(2000))*time.Millisecond)
		p.reach(false)
	case n < 269: // too long a one
		p.what.Store("offline too long")
		p.drop(true)
		p.idle(sessionTTL + leaseTTL)
		p.reach(false)
	case n < 279:
		p.what.Store("gone")
		p.leave(c)
		p.idle(time.Duration(r.IntN(int(sessionTTL * 3 / 2))))
	case n < 289:
		p.what.Store("logging out")
		p.wants("")
		err := c.Logout(ctx)
		p.done(err)
		p.leave(c)
	case n < 297:
		room := some()
		user := p.w.people[r.IntN(people)].user
		p.what.Store("having " + user + " kicked from " + room)
		p.w.api(r.IntN(stations), http.MethodPost, room, user, url.PathEscape(room)+"/kick", fmt.Sprintf(`{"userID":%q}`, user))
	case n < 301:
		room := some()
		p.what.Store("having " + room + " destroyed")
		p.w.api(r.IntN(stations), http.MethodDelete, room, "", url.PathEscape(room), "")
	case n < 380:
		p.what.Store("listing")
		p.list(ctx, c, some())
	case n < 440:
		p.n++
		m := protocol.OutgoingMessage{Type: protocol.MessageBarrage, Message: fmt.Sprintf("%s-b%d", p.user, p.n)}
		p.what.Store("shouting")
		// Nobody knows what became of one without an answer: it may come twice.
		p.done(c.Call(ctx, "sendRoomMessage", protocol.SendParams{RoomID: some(), Message: m}, nil))
	default:
		p.what.Store("talking")
		p.done(p.talk(ctx, c, some(), ""))
	}
	for _, room := range p.staleRooms() {
		p.what.Store("listing anew")
		p.list(ctx, c, room)
	}
}

// renewed notices that the gateway has given the client another session.
func (p *player) renewed(c *client.Client) {
	s := c.Session()
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	if n := len(p.record.links); n > 0 && int64(n) == c.Stats().Logins && p.record.links[n-1].station == "" {
		p.record.links[n-1].station = s.Node
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.SessionID == p.session {
		return
	}
	if away := p.w.away(p.record.links, time.Now()); away <= sessionTTL && !p.w.disturbed(p.record.links, time.Time{}) {
		p.record.blame("its session %s became %s, and it was away for %v at most", p.session, s.SessionID, away)
	}
	p.session, p.gone = s.SessionID, time.Now()
}

// list asks who is in a room.
func (p *player) list(ctx context.Context, c *client.Client, room string) {
	l, err := c.QueryRoomMemberList(ctx, room, protocol.PageConfig{Count: 100})
	if err == nil {
		p.listed(l)
	}
	p.done(err)
}

// talk sends a message that is kept, and notes that it was taken.
func (p *player) talk(ctx context.Context, c *client.Client, room, text string) error {
	if text == "" {
		p.n++
		text = fmt.Sprintf("%s-%d", p.user, p.n)
	}
	var res protocol.SendResult
	err := c.Call(ctx, protocol.MethodSendRoomMessage, protocol.SendParams{
		RoomID: room, Message: protocol.OutgoingMessage{Type: protocol.MessageText, Message: text},
	}, &res)
	if err != nil {
		return err
	}
	if res.Epoch != 0 {
		p.record.mu.Lock()
		p.record.say("%s: %s is sent, seq %d", room, text, res.Seq)
		p.record.isAt(place{room, res.Epoch, res.Seq}, "m "+p.user+" "+text)
		p.record.mu.Unlock()
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.acks++
	return nil
}

// refusals are those that players who are in each other's way may get.
var refusals = map[protocol.Code]bool{
	protocol.CodeNoRoom: true, protocol.CodeLeaveNoRoom: true, protocol.CodeNotInRoom: true, protocol.CodeBadParameter: true,
	protocol.CodeMessageNoRoom: true, protocol.CodeUnavailable: true, protocol.CodeRoomBusy: true, protocol.CodeTooFast: true,
}

// done counts a call, and looks at its error.
func (p *player) done(err error) {
	if refused, ok := errors.AsType[*protocol.Error](err); ok && !refusals[refused.Code] {
		p.w.blame("%s, %s: refused with %d: %v", p.user, p.doing(), refused.Code, err)
	}
	if err == nil {
		p.w.count()
	}
}

func info(room string) protocol.RoomBaseInfo {
	return protocol.RoomBaseInfo{RoomID: room, RoomName: "The " + room}
}

func config(room string) *protocol.RoomConfig {
	return &protocol.RoomConfig{
		RoomDestroyDelayTime: float64(delays[room]),
		RoomAttributes:       map[string]string{"room": room},
	}
}
