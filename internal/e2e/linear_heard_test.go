//go:build linux

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/roomgate/roomgate/internal/redistest"
	"github.com/roomgate/roomgate/protocol"
	"github.com/roomgate/roomgate/roomstore"
)

// annals are what a Redis announces of all its rooms, in the one order in
// which that happened: the truth that what clients heard is held against.
type annals struct {
	rdb       redis.UniversalClient
	monitored []*redistest.Server // on a Cluster: the masters, in place of ps

	ps   *redis.PubSub
	pong chan struct{} // what ps was asked has come back
	over chan struct{} // closed when ps is heard no more

	mu      sync.Mutex
	next    int
	entries map[string][]entry // by history
	closed  map[string]int     // how many said of a history that no more comes of it
	arrived chan struct{}      // closed, and made anew, when something comes
	err     error
}

// An entry is one event, with its number among all.
type entry struct {
	n    int
	at   float64 // on a Cluster: when, on the clock of this machine
	room uint8
	roomstore.Event
}

// lastWord is the ID, behind that of a history, of a room that nobody is in. What is
// announced of it comes after everything else.
const lastWord = ".last"

// openAnnals begins the annals, with nothing between it and Redis.
func openAnnals(t *testing.T, rdb redis.UniversalClient, masters []*redistest.Server) *annals {
	t.Helper()
	c := &annals{rdb: rdb, entries: map[string][]entry{}, closed: map[string]int{}, arrived: make(chan struct{})}
	if masters != nil {
		c.monitored = masters
		monitor(t, masters, func(at float64, channel, payload string) {
			if strings.Contains(channel, ":ch:") {
				c.note(at, channel, payload)
			}
		})
		return c
	}
	if err := c.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.deafen)
	return c
}

// listen subscribes, and takes what comes from then on.
func (c *annals) listen(ctx context.Context) error {
	c.ps = c.rdb.PSubscribe(ctx, "rg:{*}:ch:*")
	c.pong, c.over = make(chan struct{}, 1), make(chan struct{})
	if _, err := c.ps.Receive(ctx); err != nil {
		close(c.over)
		return err
	}
	go func() {
		defer close(c.over)
		for {
			m, err := c.ps.Receive(context.Background())
			switch m := m.(type) {
			case *redis.Message:
				c.take(m)
			case *redis.Pong:
				c.pong <- struct{}{}
			}
			if err != nil {
				return // closed, or its Redis has ended
			}
		}
	}()
	return nil
}

// deafen ends what listen began.
func (c *annals) deafen() {
	c.ps.Close()
	<-c.over
}

// restart has Redis end and begin again with its data. Nothing may be able to
// reach it but us: then none of what it announces is lost.
func (c *annals) restart(ctx context.Context, server *redistest.Server) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	// What is under way and has not happened by now never does.
	if err := c.rdb.Do(ctx, "CLIENT", "PAUSE", patience.Milliseconds(), "WRITE").Err(); err != nil {
		return err
	}
	if err := c.catchUp(ctx); err != nil {
		return err
	}
	c.deafen() // first: else it tries for long to hear one that is not there
	server.Restart()
	return c.listen(ctx)
}

// catchUp waits for all that has been announced.
func (c *annals) catchUp(ctx context.Context) error {
	if err := c.ps.Ping(ctx); err != nil {
		return err
	}
	select {
	case <-c.pong:
		return nil
	case <-ctx.Done():
		return errors.New("the annals do not hear any more")
	}
}

// failover has another server be the primary, with all that the one before has
// announced, and returns that: killed, or not yet aware.
func (c *annals) failover(ctx context.Context, servers *redistest.Sentinel, kill bool) (*redistest.Server, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	servers.Drain()
	if err := c.catchUp(ctx); err != nil {
		return nil, err
	}
	c.deafen() // first, as above
	var old *redistest.Server
	if kill {
		old = servers.KillPrimary()
	} else {
		old = servers.Switch()
	}
	if err := c.listen(ctx); err != nil {
		return nil, err
	}
	// Before gateways have had time to put back what they know nothing happens
	// that would be announced.
	origin, err := c.rdb.Get(ctx, "rg:{0}:origin").Result()
	if err != nil {
		return nil, err
	}
	term, err := c.rdb.Get(ctx, "rg:{0}:term").Result()
	if err != nil {
		return nil, err
	}
	here, err := c.rdb.Info(ctx, "server").Result()
	if err != nil {
		return nil, err
	}
	if run, _, _ := strings.Cut(origin, "\x00"); strings.Contains(here, "run_id:"+run) && !strings.Contains(term, "\x00") {
		return nil, errors.New("the annals begin too late: something may have been announced by now")
	}
	return old, nil
}

func (c *annals) take(m *redis.Message) { c.note(0, m.Channel, m.Payload) }

func (c *annals) note(at float64, channel, payload string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, room, _ := strings.Cut(channel, ":ch:")
	history, _, _ := strings.Cut(room, ".")
	if room == history+lastWord {
		c.closed[history]++
	} else {
		e, err := roomstore.DecodeEvent(payload)
		if err != nil && c.err == nil {
			c.err = fmt.Errorf("event %q: %w", payload, err)
		}
		c.entries[history] = append(c.entries[history], entry{c.next, at, room[len(room)-1] - 'A', e})
		c.next++
	}
	close(c.arrived)
	c.arrived = make(chan struct{})
}

// close waits for all that there is of a history, and gives it.
func (c *annals) close(ctx context.Context, h *history) ([]entry, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, m := range c.monitored {
		if err := c.sayLast(ctx, m.Addr(), h); err != nil {
			return nil, err
		}
	}
	for c.monitored == nil {
		// While Redis is started anew it may be there and the annals not yet.
		heard, err := c.rdb.Publish(ctx, "rg:{0}:ch:"+h.name+lastWord, "").Result()
		if err == nil && heard > 0 {
			break
		}
		if !pause(ctx, 20*time.Millisecond) {
			return nil, fmt.Errorf("nobody heard the end of the annals in %v: %w", patience, errors.Join(err, ctx.Err()))
		}
	}
	for {
		c.mu.Lock()
		arrived, closed, entries, err := c.arrived, c.closed[h.name], c.entries[h.name], c.err
		c.mu.Unlock()
		if closed >= max(1, len(c.monitored)) || err != nil {
			c.forget(h)
			return inOrder(entries), err
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, fmt.Errorf("waited %v for the end of the annals", patience)
		}
	}
}

// sayLast says on one master that no more comes.
func (c *annals) sayLast(ctx context.Context, addr string, h *history) error {
	rdb := redis.NewClient(redistest.Options(addr))
	defer rdb.Close()
	return rdb.Publish(ctx, "rg:{0}:ch:"+h.name+lastWord, "").Err()
}

// forget lets go what there is of a history.
func (c *annals) forget(h *history) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, h.name)
	delete(c.closed, h.name)
}

// of gives what there is of a history so far.
func (c *annals) of(h *history) []entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return inOrder(slices.Clone(c.entries[h.name]))
}

// inOrder sorts entries as they happened: those of a slot that has moved come from two
// masters.
func inOrder(entries []entry) []entry {
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	return entries
}

// hears says whether a client is told of an event while it is in the room, by an
// event about members.
func (p *player) hears(e roomstore.Event) bool {
	return (e.Kind == roomstore.KindJoined || e.Kind == roomstore.KindLeft) && string(e.Origin) != p.id
}

// ends says whether an event ends the client's place in the room, and what it
// is told then.
func (p *player) ends(e roomstore.Event) (protocol.RoomEvent, bool) {
	switch {
	case e.Kind == roomstore.KindDestroyed:
		return protocol.RoomNotExist, true
	case e.Kind == roomstore.KindLeft && string(e.Origin) == p.id && e.Reason == roomstore.ReasonTimeout:
		return protocol.RoomConnectTimeout, true
	case e.Kind == roomstore.KindLeft && string(e.Origin) == p.id:
		return protocol.RoomSuccess, true
	case e.Kind == roomstore.KindMoved && string(e.Old) == p.id:
		return protocol.RoomKickedOutByOtherDevice, true
	}
	return "", false
}

// compare holds what the annals have of a history against itself, and what
// was answered and heard against the annals.
func (h *history) compare() error {
	lives, err := h.lives(h.entries)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range slices.Concat(h.players, h.retired) {
		for n := range h.rooms {
			_, err := p.listen(n, lives[n])
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// listen goes through what a player has heard of a room.
func (p *player) listen(n int, lives map[int64]*chapter) (*listener, error) {
	l := &listener{p: p, room: uint8(n), lives: lives, lossy: p.h.site.plan.lossy}
	for i, what := range p.heard[n] {
		if err := l.take(what); err != nil {
			return l, fmt.Errorf("%s in room %s: %w, after it heard %+v", sessionName(p.session, p.user), roomName(uint8(n)),
				err, p.heard[n][max(0, i-4):i+1])
		}
	}
	return l, nil
}

// knows says whether the player has heard of all that has happened in a room up
// to an answer of now. What it has heard before the annals have makes no sense yet,
// so an error means so only when they are whole.
func (p *player) knows(n int, got *outcome) (bool, error) {
	s := &p.rooms[n]
	if got.code != 0 || !s.in || s.epoch != got.epoch {
		return got.code != 0 && !s.in, nil
	}
	lives, err := p.h.lives(p.h.site.book.of(p.h))
	if err != nil {
		return false, err
	}
	l, err := p.listen(n, lives[n])
	c := lives[n][got.epoch]
	return err == nil && c != nil && got.seq <= int64(len(c.events)) && l.users == c.users[got.seq], err
}

// chapter is what there is of one life of a room: the event with seq n is the
// n-1st.
type chapter struct {
	events []roomstore.Event
	users  []uint16 // who was in after each event, and before the first: a bit each
}

// lives takes the annals apart, and checks that they tell of rooms as rooms
// are: each event has the next seq, counts are right, and a life begins after
// the end of the one before and with a greater epoch.
func (h *history) lives(entries []entry) (lives [mostRooms]map[int64]*chapter, err error) {
	var now [mostRooms]*chapter
	var epochs [mostRooms]int64
	for n := range lives {
		lives[n] = map[int64]*chapter{}
	}
	for _, e := range entries {
		c := now[e.room]
		if c == nil || epochs[e.room] != e.Epoch {
			if c != nil || e.Epoch <= epochs[e.room] {
				return lives, fmt.Errorf("room %s: %+v comes in or after epoch %d", roomName(e.room), e.Event, epochs[e.room])
			}
			c = &chapter{users: []uint16{0}}
			now[e.room], epochs[e.room], lives[e.room][e.Epoch] = c, e.Epoch, c
		}
		if e.Seq != int64(len(c.events))+1 {
			return lives, fmt.Errorf("room %s: %+v is event %d of its life", roomName(e.room), e.Event, len(c.events)+1)
		}
		users := c.users[len(c.events)]
		if e.Kind != roomstore.KindDestroyed {
			user, err := h.userOf(string(e.User))
			if err != nil {
				return lives, err
			}
			was := users&(1<<user) != 0
			if was == (e.Kind == roomstore.KindJoined) {
				return lives, fmt.Errorf("room %s: %+v, where the user was already: %t", roomName(e.room), e.Event, was)
			}
			switch e.Kind {
			case roomstore.KindJoined:
				users |= 1 << user
			case roomstore.KindLeft:
				users &^= 1 << user
			}
			if int64(bits.OnesCount16(users)) != e.Count {
				return lives, fmt.Errorf("room %s: %+v counts wrong, %b are in", roomName(e.room), e.Event, users)
			}
		} else {
			now[e.room] = nil
		}
		c.events = append(c.events, e.Event)
		c.users = append(c.users, users)
	}
	return lives, nil
}

// A listener follows what one client heard of one room.
type listener struct {
	p     *player
	room  uint8
	lives map[int64]*chapter
	lossy bool // events may be lost on their way, and then be past recovery when the room is over

	in        bool
	epoch, at int64
	users     uint16 // who is in, as the client knows
	back      bool   // what it missed comes as a difference
	gap       int64  // where what was lost begins, if that is the last it heard of
}

func (l *listener) take(what news) error {
	switch what.kind {
	case newsConnected:
		return l.connected(what)
	case newsDisconnected:
		return l.disconnected(what)
	case newsAnswer:
		return l.answered(what)
	case newsForgotten:
		l.in = false
		return nil
	case newsLost:
		return l.lost(what)
	}
	return l.changed(what)
}

func (l *listener) connected(what news) error {
	c := l.lives[what.epoch]
	switch {
	case c == nil || what.seq < 1 || what.seq > int64(len(c.events)):
		return errors.New("the room was never there")
	case l.in && l.epoch != what.epoch && !what.back:
		return errors.New("the life before did not end")
	}
	l.in, l.epoch, l.at, l.users, l.back, l.gap = true, what.epoch, what.seq, c.users[what.seq], what.back, 0
	return nil
}

func (l *listener) disconnected(what news) error {
	if !l.in {
		return nil // it never was
	}
	l.in = false
	if what.over && what.event == protocol.RoomConnectTimeout {
		return nil // which may be before it is evicted
	}
	c := l.lives[l.epoch]
	from := l.at
	if l.gap > 0 {
		from = l.gap // its end may be among what was lost
	}
	if l.back {
		from = 0 // it was told where the room was when it came back, which may be behind its end
	}
	missed := 0
	for _, e := range c.events[from:] {
		event, end := l.p.ends(e)
		switch last := c.events[len(c.events)-1]; {
		case !end:
			if l.p.hears(e) {
				missed++
			}
		case what.event != event && !l.otherwise(what, e):
			if !l.back {
				return fmt.Errorf("it is out by %+v", e)
			}
		case missed > 0 && !l.lossy && !l.back && !what.back && !(last.Kind == roomstore.KindDestroyed && last.At <= what.at):
			return fmt.Errorf("%d events were missing", missed)
		default:
			return nil
		}
	}
	return errors.New("it was not out")
}

// otherwise says whether a client may be told something else of an end than what
// that was. If it has been away, or the end was lost on its way, it is told of
// what came after. Of a room that is over by then nothing else can be had any
// more: only that, or, where the room is there in another life, that its place was
// not kept, as one is told who comes back, and whoever is in a room while Redis is
// started anew or another takes its place.
func (l *listener) otherwise(what news, end roomstore.Event) bool {
	events := l.lives[end.Epoch].events
	last := events[len(events)-1]
	over := last.Kind == roomstore.KindDestroyed && last.At <= what.at
	if what.event == protocol.RoomNotExist {
		return over
	}
	if !l.lossy && !what.back {
		return false
	}
	plan := &l.p.h.site.plan
	again := what.back || over && (plan.durable || plan.watched)
	for epoch, c := range l.lives {
		for _, e := range c.events {
			if epoch < end.Epoch || epoch == end.Epoch && e.Seq <= end.Seq || e.At > what.at {
				continue
			}
			event, ends := l.p.ends(e)
			switch {
			case ends && event == what.event,
				again && what.event == protocol.RoomConnectTimeout && epoch > end.Epoch,
				what.back && what.event == protocol.RoomKickedOutByOtherDevice && string(e.User) == l.p.h.userID(l.p.user):
				return true
			}
		}
	}
	return false
}

// lost checks that what is said to be lost can be: the history here is short enough
// to be kept whole, but it goes with its room.
func (l *listener) lost(what news) error {
	if !l.in {
		return errors.New("it is not in the room")
	}
	c := l.lives[l.epoch]
	switch last := c.events[len(c.events)-1]; {
	case what.seq <= l.at || what.seq > last.Seq:
		return fmt.Errorf("it was at %d of %d", l.at, last.Seq)
	case !l.lossy || last.Kind != roomstore.KindDestroyed || last.At > what.at:
		return errors.New("so short a history is kept whole")
	}
	l.gap, l.at, l.users, l.back = l.at, what.seq, c.users[what.seq], false
	return nil
}

func (l *listener) changed(what news) error {
	if !l.in {
		return errors.New("it is not in the room")
	}
	c := l.lives[l.epoch]
	for _, u := range what.users {
		if l.users>>u&1 == 1 == (what.kind == newsJoined) {
			return errors.New("that was known")
		}
		l.users ^= 1 << u
	}
	switch {
	case what.seq == 0 && l.back:
		return nil // the other half follows
	case what.seq <= l.at || what.seq > int64(len(c.events)):
		return fmt.Errorf("it was at %d", l.at)
	case l.users != c.users[what.seq] || int(what.count) != bits.OnesCount16(l.users):
		return fmt.Errorf("it knows of %b, in are %b", l.users, c.users[what.seq])
	case !l.back && !l.whole(what.seq-1):
		return fmt.Errorf("something is missing after %d", l.at)
	}
	l.at, l.back = what.seq, false
	return nil
}

func (l *listener) answered(what news) error {
	if !l.in || l.epoch != what.epoch || what.seq <= l.at || l.lossy {
		return nil
	}
	if n := len(l.lives[l.epoch].events); what.seq > int64(n) {
		return fmt.Errorf("it was at %d, and of this life %d events are known", l.at, n)
	}
	if c := l.lives[l.epoch]; l.users != c.users[what.seq] || !l.back && !l.whole(what.seq) {
		return fmt.Errorf("something is missing after %d; it knows of %b, in are %b", l.at, l.users, c.users[what.seq])
	}
	l.at, l.back = what.seq, false
	return nil
}

// whole says whether the client had nothing to hear from where it is to seq.
func (l *listener) whole(seq int64) bool {
	for _, e := range l.lives[l.epoch].events[l.at:seq] {
		if l.p.hears(e) {
			return false
		}
	}
	return true
}
