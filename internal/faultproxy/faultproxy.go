// Package faultproxy is a TCP proxy for tests. It stands between two programs
// and makes their link as bad as a test needs it: cut, refused, or open and
// carrying nothing. Between a program and Redis it also knows pub/sub messages
// from everything else, and can drop, double, delay and reorder them.
//
// It knows the protocol of Redis (RESP2 and RESP3) and nothing of this project.
package faultproxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// A Fate says what becomes of a message: a copy of it is forwarded after each
// delay. So none drops it, {0} lets it pass, {0, 0} doubles it, and {20ms}
// lets others overtake it. Messages without a delay keep their order.
type Fate []time.Duration

// Pass is the fate of a message that nothing happens to.
var Pass = Fate{0}

// A Proxy forwards connections to one target, or to the nodes of one Redis
// Cluster. Its methods may be called concurrently.
type Proxy struct {
	redis bool
	doors []door
	work  sync.WaitGroup // accepting, copying, and delayed messages

	mu       sync.Mutex
	fate     func(channel, payload string) Fate // nil: all pass
	loss     Loss
	lossOf   string // the calls that loss is about have this in them
	lost     int    // calls, or their answers
	refusing bool
	refused  int           // connections
	held     chan struct{} // closed when carrying goes on; nil: it does
	ended    bool
	links    map[*link]struct{}
}

// A door is where those come in who want to go to a target.
type door struct {
	ln     net.Listener
	target string
}

// Start starts a proxy in front of a target for one test, and ends it with
// that test.
func Start(t testing.TB, target string) *Proxy { return start(t, target, false) }

// StartRedis is Start for a target that is a Redis.
func StartRedis(t testing.TB, target string) *Proxy { return start(t, target, true) }

// StartCluster is StartRedis for the nodes of a Redis Cluster, all at one host. It
// listens at the ports that they have, at another host of the loopback network: a client
// stays within the proxy if the nodes tell it the ports of the others only, not the
// host. What is done is done to the links to all nodes.
func StartCluster(t testing.TB, targets []string) *Proxy {
	t.Helper()
	var err error
	for host := 2; host < 255; host++ {
		var doors []door
		if doors, err = listenAt(fmt.Sprintf("127.0.0.%d", host), targets); err == nil {
			return serving(t, doors, true)
		}
	}
	t.Fatalf("no host of the loopback network has the ports free: %v", err)
	return nil
}

// listenAt listens at a host, at the port of each target.
func listenAt(host string, targets []string) (doors []door, err error) {
	for _, target := range targets {
		var ln net.Listener
		_, port, err := net.SplitHostPort(target)
		if err == nil {
			ln, err = net.Listen("tcp", net.JoinHostPort(host, port))
		}
		if err != nil {
			for _, d := range doors {
				d.ln.Close()
			}
			return nil, err
		}
		doors = append(doors, door{ln, target})
	}
	return doors, nil
}

func start(t testing.TB, target string, redis bool) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serving(t, []door{{ln, target}}, redis)
}

func serving(t testing.TB, doors []door, redis bool) *Proxy {
	p := &Proxy{redis: redis, doors: doors, links: map[*link]struct{}{}}
	for _, d := range doors {
		p.work.Go(func() { p.accept(t, d) })
	}
	t.Cleanup(p.end)
	return p
}

// Addr is where the proxy listens, for the first target.
func (p *Proxy) Addr() string { return p.doors[0].ln.Addr().String() }

// Addrs is where it listens for each target, in their order.
func (p *Proxy) Addrs() (addrs []string) {
	for _, d := range p.doors {
		addrs = append(addrs, d.ln.Addr().String())
	}
	return addrs
}

// Cut ends all connections that stand. New ones are served.
func (p *Proxy) Cut() {
	for _, l := range p.standing() {
		l.cut()
	}
}

// Refuse ends new connections as soon as they come, or stops doing so.
// Connections that stand are not touched.
func (p *Proxy) Refuse(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = yes
}

// Refused is how many connections have been refused.
func (p *Proxy) Refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// Hold has nothing carried any more, in either direction and by no connection,
// or lets it go on. What comes meanwhile waits, also if its sender has gone, and
// new connections stand.
func (p *Proxy) Hold(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case yes && p.held == nil && !p.ended:
		p.held = make(chan struct{})
	case !yes && p.held != nil:
		close(p.held)
		p.held = nil
	}
}

// pass returns when nothing is held.
func (p *Proxy) pass() {
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	if held != nil {
		<-held
	}
}

// Deafen has the connections that stand stay open and carry nothing any more,
// in either direction. New ones are served.
func (p *Proxy) Deafen() {
	for _, l := range p.standing() {
		l.deafen()
	}
}

// DeafenSubscribers is Deafen for connections that have subscribed to
// something.
func (p *Proxy) DeafenSubscribers() {
	for _, l := range p.standing() {
		l.mu.Lock()
		subscribed := l.subscribed
		l.mu.Unlock()
		if subscribed {
			l.deafen()
		}
	}
}

// A Loss says what gets lost of a script's call.
type Loss int

// What can get lost.
const (
	Nothing Loss = iota
	Answers      // Redis carries it out, and is not heard
	Calls        // Redis does not hear of it
)

// Scripts has calls of scripts get lost from now on, or their answers. The
// connection that it happens to stays open and brings no answers any more, until
// this is called again: then it is cut.
func (p *Proxy) Scripts(loss Loss) { p.ScriptsWith(loss, "") }

// ScriptsWith is Scripts for calls that have a text in them.
func (p *Proxy) ScriptsWith(loss Loss, text string) {
	p.mu.Lock()
	p.loss, p.lossOf, p.lost = loss, text, 0
	p.mu.Unlock()
	for _, l := range p.standing() {
		l.mu.Lock()
		lost := l.lost
		l.mu.Unlock()
		if lost {
			l.cut()
		}
	}
}

// Lost is on how many connections calls of scripts, or answers, were lost since
// [Proxy.Scripts] was called.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

func (p *Proxy) losing() (Loss, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loss, p.lossOf
}

// Messages has fate decide about each pub/sub message from now on; nil lets
// all pass. It is called for one message of a connection at a time. Messages
// due at the same time keep their order. Confirmations and answers always pass,
// in theirs, and so may overtake messages that are delayed.
func (p *Proxy) Messages(fate func(channel, payload string) Fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fate = fate
}

func (p *Proxy) fateOf(channel, payload string) Fate {
	p.mu.Lock()
	fate := p.fate
	p.mu.Unlock()
	if fate == nil {
		return Pass
	}
	return fate(channel, payload)
}

func (p *Proxy) standing() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	return links
}

// accept serves connections until the listener is closed.
func (p *Proxy) accept(t testing.TB, d door) {
	for {
		client, err := d.ln.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("the proxy in front of %s serves no more connections: %v", d.target, err)
			}
			return
		}
		p.work.Go(func() { p.serve(client, d.target) })
	}
}

// serve forwards one connection until either side or the proxy ends it.
func (p *Proxy) serve(client net.Conn, target string) {
	defer client.Close()
	l := &link{p: p, client: client}
	p.mu.Lock()
	refused := p.refusing || p.ended
	if refused {
		p.refused++
	}
	p.mu.Unlock()
	if refused {
		return
	}
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	l.server = server
	defer l.cut()

	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.links, l)
	}()

	up := make(chan struct{})
	go func() {
		defer close(up)
		if p.redis {
			l.calls()
		} else {
			l.copy(server, client)
		}
		l.cut()
	}()
	if p.redis {
		l.messages()
	} else {
		l.copy(client, server)
	}
	l.cut()
	<-up
}

// end closes everything and waits for it.
func (p *Proxy) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.Hold(false)
	for _, d := range p.doors {
		d.ln.Close()
	}
	p.Cut()
	p.work.Wait()
}

// link is one connection and its other half.
type link struct {
	p              *Proxy
	client, server net.Conn

	mu         sync.Mutex // held while the client is written to, so that messages stay whole
	over       bool
	deaf       bool
	lost       bool // a call or its answer: nothing reaches the client any more
	subscribed bool
	delayed    []delayed   // by when they are due
	timer      *time.Timer // for the first of them, if there is one
}

// delayed is a message that is forwarded later.
type delayed struct {
	due   time.Time
	bytes []byte
}

func (l *link) deafen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = true
}

func (l *link) isDeaf() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deaf
}

// cut ends the connection, and what is delayed on it.
func (l *link) cut() {
	l.client.Close() // first: it ends a write that holds mu
	l.server.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.delayed = nil
	l.arm()
}

// copy forwards bytes until one of the connections ends.
func (l *link) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		l.p.pass()
		if n > 0 && !l.isDeaf() {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// calls forwards what the client says to Redis.
func (l *link) calls() {
	buf := make([]byte, 32<<10)
	for {
		n, err := l.client.Read(buf)
		l.p.pass()
		loss := Nothing
		if n > 0 {
			loss = l.losing(buf[:n])
		}
		if n > 0 && loss != Calls && !l.isDeaf() {
			if _, err := l.server.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// losing says what is to be lost of a call. One that does not come in one piece
// is known by its first.
func (l *link) losing(call []byte) Loss {
	loss, of := l.p.losing()
	if loss == Nothing || !bytes.Contains(bytes.ToLower(call), []byte("evalsha")) || !bytes.Contains(call, []byte(of)) {
		return Nothing
	}
	l.mu.Lock()
	again := l.lost
	l.lost = true
	l.mu.Unlock()
	if !again {
		l.p.mu.Lock()
		l.p.lost++
		l.p.mu.Unlock()
	}
	return loss
}

// messages forwards what Redis says, one value at a time.
func (l *link) messages() {
	r := bufio.NewReader(l.server)
	for {
		v, err := readValue(r)
		l.p.pass()
		if err != nil {
			return
		}
		if v.subscription() {
			l.mu.Lock()
			l.subscribed = true
			l.mu.Unlock()
		}
		channel, payload, message := v.message()
		if !message {
			if l.write(v.bytes) != nil {
				return
			}
			continue
		}
		for _, delay := range l.p.fateOf(channel, payload) {
			if delay > 0 {
				l.later(delay, v.bytes)
			} else if l.write(v.bytes) != nil {
				return
			}
		}
	}
}

// later writes b to the client after a while, unless the connection ends.
func (l *link) later(delay time.Duration, b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	d := delayed{time.Now().Add(delay), b}
	i := len(l.delayed)
	for i > 0 && l.delayed[i-1].due.After(d.due) {
		i--
	}
	l.delayed = slices.Insert(l.delayed, i, d)
	if i == 0 {
		l.arm()
	}
}

// arm sets the timer for the first message that is delayed. l.mu is held.
func (l *link) arm() {
	if l.timer != nil && l.timer.Stop() {
		l.p.work.Done()
	}
	l.timer = nil
	if len(l.delayed) > 0 {
		l.p.work.Add(1)
		l.timer = time.AfterFunc(time.Until(l.delayed[0].due), l.release)
	}
}

// release forwards the messages that are due.
func (l *link) release() {
	defer l.p.work.Done()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	l.arm()
}

// catchUp forwards the messages that are due. l.mu is held.
func (l *link) catchUp() {
	n := 0
	for n < len(l.delayed) && !l.delayed[n].due.After(time.Now()) {
		l.writeLocked(l.delayed[n].bytes)
		n++
	}
	l.delayed = slices.Delete(l.delayed, 0, n)
}

// write writes to the client, if there is anything to be heard there.
func (l *link) write(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp() // the timer may be late
	return l.writeLocked(b)
}

func (l *link) writeLocked(b []byte) error {
	if l.over {
		return net.ErrClosed
	}
	if l.deaf || l.lost {
		return nil
	}
	_, err := l.client.Write(b)
	return err
}
