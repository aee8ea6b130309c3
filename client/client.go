// Package client is the Go client of a room service: it logs a user in, enters
// rooms, sends and receives, and comes back by itself when the connection is
// lost. It knows the wire and nothing of the server.
//
// A [Client] is one session of one user. [Dial] makes it and [Client.Close]
// ends it; in between it is connected, or trying to be, and its methods may be
// called from any goroutine.
//
// # Calls
//
// A call sends a request and waits for its answer until its context ends. What
// the gateway refuses comes back as a [*protocol.Error]; a call that got no
// answer returns an [*UnansweredError], which says whether the request may
// have been carried out. Both are found with [errors.As].
//
// While there is no connection, calls wait for one. Those that were under way
// when it was lost are repeated, in their order: queries always, and what
// changes something under its old request key, so that it happens once. If the
// session has ended meanwhile, the gateway does not know the key any more; then
// what changes something is not repeated and returns [ErrSessionLost].
//
// What the gateway cannot carry out for the moment, because its store does not
// answer, is repeated in the same way after a short wait, for as long as the
// call may take. An entry that fails so says it on the stream each time:
// (connecting, …) and (disconnected, …). Commands and barrages happen once only
// if nothing goes wrong: no gateway remembers them.
//
// # Events
//
// Events arrive on one stream, [Client.Events] or Config.OnEvent, in the order
// in which the gateway sent them. Answers keep their place in that order: when
// a call returns, every event sent before its answer is on the stream already.
// So the (connected, success) of a room is there before EnterRoom returns.
//
// When the link is lost, the client itself puts on the stream the connection's
// (reconnecting, loginInterrupted) and (connecting, networkInterrupted) of each
// room it is in; when it is back, (connected, success) of the connection. The
// gateway then says of each room where the client stands and sends what was
// missed. When the client ends, for any reason but Close, rooms it is still in
// get (disconnected, networkDisconnected), and the last event on the stream is
// the connection's (disconnected, …).
//
// The stream must be read. When Config.EventBuffer events wait, the client
// stops reading from its connection, and calls get no answer; sooner or later
// the gateway closes a connection that is not read. Once the stream is read
// again, the client comes back and is sent what it missed. Commands and
// barrages are the exception: no gateway keeps them.
//
// No event is passed on twice. Should a gateway send one twice, [Client.Stats]
// counts it.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/roomgate/roomgate/protocol"
)

// Config is what a client is made of. URLs and User.UserID are required.
type Config struct {
	// URLs are those of the gateways, such as "wss://rooms.example.com". They
	// are tried in turn, from the first, going on to the next whenever a
	// connection was lost or not had. Without a path, [protocol.Path] is meant.
	URLs []string

	// User is who logs in, and what others see of them.
	User protocol.UserInfo

	// Token proves it. If TokenFunc is set, it is asked before every login
	// instead; an error of it counts as a failed attempt to connect.
	Token     string
	TokenFunc func(context.Context) (string, error)

	// DeviceID names the device; a login without one is a device of its own.
	DeviceID string
	// Platform and SDKVersion are told to the gateway. A version below 2.13.0
	// asks for the room events of that time.
	Platform   string
	SDKVersion string

	// ConnectTimeout bounds one attempt to connect and log in; 10 s if 0.
	ConnectTimeout time.Duration
	// RequestTimeout bounds calls whose context has no deadline, repeats
	// included; 30 s if 0.
	RequestTimeout time.Duration

	// The wait before the nth attempt in a row is random, between nothing and
	// MinBackoff·2ⁿ, MaxBackoff at most; 500 ms and 8 s if 0. A gateway that
	// names a wait is obeyed instead.
	MinBackoff time.Duration
	MaxBackoff time.Duration

	// OnEvent, if set, is called with each event, one after the other, and
	// nothing else is read from the connection until it returns. It must not
	// make a call or Close the client: neither would end.
	OnEvent func(Event)
	// EventBuffer is how many events [Client.Events] holds; 256 if 0.
	EventBuffer int

	// RawEvents has the events of rooms, state changes excepted, passed on as
	// [*RawEvent]. Decoding them is most of a client's work; this is for
	// programs with thousands of clients that count more than they read.
	RawEvents bool

	// HTTPClient makes the connections; [http.DefaultClient] if nil.
	HTTPClient *http.Client

	// Log is told what goes on; nothing is logged if nil.
	Log *slog.Logger
}

// Stats counts what happened to a client.
type Stats struct {
	Logins  int64 // successful ones
	Resumes int64 // logins that went on with the session

	// Duplicates were not passed on: events at or before the position of their
	// room. A gateway never sends one.
	Duplicates int64
	// Repeats were not passed on either: events that had to follow the repeat
	// of an entry whose answer was lost.
	Repeats int64
	// Malformed messages were skipped.
	Malformed int64
}

// A Client is one session of one user. It is safe for concurrent use.
type Client struct {
	// Set by Dial, and not changed.
	cfg    Config
	urls   []string
	log    *slog.Logger
	events chan Event
	cancel context.CancelFunc
	ready  chan struct{} // closed by run at the first login
	done   chan struct{} // closed by run at its end

	// Everything run starts, directly or not: writers, timers, cancellations.
	wg sync.WaitGroup

	// Owned by run.
	lastSaid  protocol.ConnectionState // on the stream
	loggedOut bool                     // the logout was answered

	mu      sync.Mutex // guards all below, and the fields of link and call that say so
	link    *link      // logged in; nil while there is none
	pending map[int64]*call
	lastID  int64 // of requests, over all sessions; also their requestKey
	token   string
	session protocol.LoginResult
	rooms   rooms
	stats   Stats
	attempt error // what became of the last attempt to connect
	over    bool  // no further calls
	err     error // why, once over
}

// Dial makes a client and returns when it is logged in. It tries until ctx is
// done, and gives up early if the gateway refuses the login: the error is then
// a [*protocol.Error] or a [*CloseError].
//
// The client outlives ctx. Whoever calls Dial must call Close.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	urls, err := parseURLs(cfg.URLs)
	if err != nil {
		return nil, err
	}
	if cfg.User.UserID == "" {
		return nil, errors.New("client: no user ID")
	}
	setDefault(&cfg.ConnectTimeout, 10*time.Second)
	setDefault(&cfg.RequestTimeout, 30*time.Second)
	setDefault(&cfg.MinBackoff, 500*time.Millisecond)
	setDefault(&cfg.MaxBackoff, 8*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &Client{
		cfg:    cfg,
		urls:   urls,
		log:    cfg.Log,
		token:  cfg.Token,
		cancel: cancel,
		ready:  make(chan struct{}),
		done:   make(chan struct{}),
	}
	if cfg.OnEvent == nil {
		setDefault(&cfg.EventBuffer, 256)
		c.events = make(chan Event, max(cfg.EventBuffer, 16)) // Dial alone makes a few
	}
	go c.run(life) // Close waits for it

	select {
	case <-c.ready:
		return c, nil
	case <-c.done:
		cancel()
		return nil, c.err
	case <-ctx.Done():
		c.Close()
		err := context.Cause(ctx)
		if last := c.lastAttempt(); last != nil {
			return nil, fmt.Errorf("dial: %w; last attempt: %w", err, last)
		}
		return nil, fmt.Errorf("dial: %w", err)
	}
}

func setDefault[T time.Duration | int](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

func parseURLs(in []string) ([]string, error) {
	if len(in) == 0 {
		return nil, errors.New("client: no URL")
	}
	var out []string
	for _, s := range in {
		u, err := url.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		switch u.Scheme {
		case "ws", "wss", "http", "https":
		default:
			return nil, fmt.Errorf("client: URL %q does not begin with ws:// or wss://", s)
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = protocol.Path
		}
		out = append(out, u.String())
	}
	return out, nil
}

// Events delivers the events, unless Config.OnEvent is set. It is closed when
// the client has ended, after the last event; [Client.Err] then says why.
func (c *Client) Events() <-chan Event { return c.events }

// Close ends the client: calls under way return, and nothing more is put on
// the stream. It waits for everything the client has started, and may be
// called again.
//
// It does not log out: to the gateway the link is lost, and the user leaves
// their rooms when the session's time is over. Use [Client.Logout] before
// Close to leave at once.
func (c *Client) Close() {
	c.cancel()
	<-c.done
}

// Done is closed when the client has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the client ended, and is nil before: [ErrClosed],
// [ErrLoggedOut], a [*CloseError], or the [*protocol.Error] that refused a
// login.
func (c *Client) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Session is what the gateway said at the last login.
func (c *Client) Session() protocol.LoginResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// Rooms are the rooms the client is in, in the order of their entry, each with
// the position up to which its events are on the stream.
func (c *Client) Rooms() []protocol.ResumeRoom {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rooms.positions()
}

// Stats counts what has happened so far.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}
