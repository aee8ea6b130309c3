package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/roomgate/roomgate/protocol"
)

// This file is the server to compare with: the least that moves messages
// between clients of two processes. It keeps no log, no order between servers,
// no membership outside its own memory; a request is one call of Redis, and
// what was published while Redis was away is gone. What it spends, every
// server of this kind must spend.

type bareFlags struct {
	Listen   string `default:"127.0.0.1:8081" help:"Address to listen on."`
	RedisURL string `name:"redis-url" default:"redis://127.0.0.1:6379" help:"Redis, for pub/sub between the servers."`
}

func (f *bareFlags) run(ctx context.Context, stdout io.Writer) error {
	options, err := redis.ParseURL(f.RedisURL)
	if err != nil {
		return fmt.Errorf("%w: --redis-url: %w", errUsage, err)
	}
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	options.MaxRetries = -1
	ln, err := net.Listen("tcp", f.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer ln.Close()
	return serveBare(ctx, ln, options, func() { fmt.Fprintf(stdout, "listening on %s\n", ln.Addr()) })
}

// bareTopic is the channel that all servers share.
const bareTopic = "roombench-bare"

// bareServer is one of the servers.
type bareServer struct {
	rdb   *redis.Client
	conns sync.WaitGroup

	mu    sync.Mutex // guards all rooms
	rooms map[string]*bareRoom
}

// bareRoom is who is in a room here. Its numbers are this server's own.
type bareRoom struct {
	members  []*bareConn
	seq      int64
	messages int64
}

// serveBare serves until ctx is done.
func serveBare(ctx context.Context, ln net.Listener, options *redis.Options, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &bareServer{rdb: redis.NewClient(options), rooms: map[string]*bareRoom{}}
	defer s.rdb.Close()
	sub := s.rdb.Subscribe(ctx, bareTopic)
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil { // the confirmation
		return fmt.Errorf("redis: %w", err)
	}
	context.AfterFunc(ctx, func() { sub.Close() })

	mux := http.NewServeMux()
	mux.HandleFunc(protocol.Path, func(w http.ResponseWriter, r *http.Request) { s.serve(ctx, w, r) })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln); cancel() }()
	ready()

	var failed error
	for {
		m, err := sub.ReceiveMessage(ctx)
		if err != nil {
			if ctx.Err() == nil {
				failed = fmt.Errorf("redis: %w", err)
			}
			break
		}
		s.deliver(m.Payload)
	}
	cancel()
	server.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		failed = errors.Join(failed, err)
	}
	s.conns.Wait()
	return failed
}

// An event between servers is four fields joined by NUL: what, room, who, data.
const (
	bareMessage = "m"
	bareJoined  = "j"
	bareLeft    = "l"
)

func (s *bareServer) publish(ctx context.Context, what, room, user, data string) error {
	return s.rdb.Publish(ctx, bareTopic, strings.Join([]string{what, room, user, data}, "\x00")).Err()
}

// deliver hands an event to the members here.
func (s *bareServer) deliver(event string) {
	what, rest, _ := strings.Cut(event, "\x00")
	name, rest, _ := strings.Cut(rest, "\x00")
	user, data, ok := strings.Cut(rest, "\x00")
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[name]
	if r == nil {
		return
	}
	r.seq++
	var f []byte
	if what == bareMessage {
		r.messages++
		f = serverFrame(r.message(name, data))
	} else {
		f = serverFrame(r.member(what, name, user))
	}
	for _, m := range r.members {
		if m.user != user {
			m.queue(f)
		}
	}
}

// message is the text of an event, with the members that a gateway's has.
func (r *bareRoom) message(name, data string) []byte {
	b := make([]byte, 0, 400+len(data))
	b = append(b, `{"jsonrpc":"2.0","method":"roomMessageReceived","params":{"fromConversationID":"`...)
	b = append(b, name...)
	b = append(b, `","messageList":[`...)
	b = append(b, data[:len(data)-1]...)
	b = append(b, `,"messageID":"4611686018427387904","messageSeq":`...)
	b = strconv.AppendInt(b, r.messages, 10)
	now := time.Now()
	b = append(b, `,"orderKey":`...)
	b = strconv.AppendInt(b, now.UnixMicro(), 10)
	b = append(b, `,"timestamp":`...)
	b = strconv.AppendInt(b, now.UnixMilli(), 10)
	b = append(b, `}],"info":{"isOfflineMessage":false},"seq":`...)
	b = strconv.AppendInt(b, r.seq, 10)
	return append(b, "}}"...)
}

func (r *bareRoom) member(what, name, user string) []byte {
	method := protocol.EventRoomMemberJoined
	if what == bareLeft {
		method = protocol.EventRoomMemberLeft
	}
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%q,"params":{"roomID":%q,"memberList":[{"userID":%q,"userName":%q,"userAvatarUrl":"","userExtendedData":""}],"memberCount":%d,"seq":%d}}`,
		method, name, user, user, len(r.members), r.seq)
}

// bareConn is a client.
type bareConn struct {
	s     *bareServer
	net   net.Conn
	user  string
	rooms map[string]bool

	mu    sync.Mutex
	ready sync.Cond // on mu: something waits, or all is over
	wait  net.Buffers
	over  bool
}

// queue has a frame written, gathered with others that wait.
func (c *bareConn) queue(f []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait = append(c.wait, f)
	if len(c.wait) == 1 {
		c.ready.Signal()
	}
}

// write writes until the connection is over: all that waits in one call.
func (c *bareConn) write() {
	var batch, spare net.Buffers
	for {
		c.mu.Lock()
		for len(c.wait) == 0 && !c.over {
			c.ready.Wait()
		}
		if c.over {
			c.mu.Unlock()
			return
		}
		batch, c.wait = c.wait, spare[:0]
		c.mu.Unlock()
		all := batch
		if _, err := batch.WriteTo(c.net); err != nil {
			c.net.Close()
			return
		}
		clear(all)
		spare = all
	}
}

func (c *bareConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.ready.Signal()
}

// bareHijack keeps the connection under a WebSocket, to write to it.
type bareHijack struct {
	http.ResponseWriter
	conn net.Conn
}

func (h *bareHijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = c
	return c, rw, err
}

// serve serves a client until its connection ends, or ctx is done.
func (s *bareServer) serve(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	s.conns.Add(1)
	defer s.conns.Done()
	h := &bareHijack{ResponseWriter: w}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{protocol.Subprotocol}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(protocol.MaxMessage)
	c := &bareConn{s: s, net: h.conn, rooms: map[string]bool{}}
	c.ready.L = &c.mu
	s.conns.Go(c.write)
	defer c.end()
	defer func() {
		if ctx.Err() != nil {
			return // the server ends, and everybody with it
		}
		for room := range c.rooms {
			c.leave(ctx, room)
		}
	}()
	for {
		_, text, err := ws.Read(ctx)
		if err != nil {
			return
		}
		var req protocol.Request
		if json.Unmarshal(text, &req) != nil {
			return
		}
		result, err := c.answer(ctx, &req)
		if err != nil {
			e, _ := json.Marshal(protocol.Error{Code: protocol.CodeUnavailable, Message: err.Error()})
			c.queue(serverFrame(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"error":%s}`, req.ID, e)))
			continue
		}
		b := make([]byte, 0, len(result)+60)
		b = append(b, `{"jsonrpc":"2.0","id":`...)
		b = append(b, req.ID...)
		b = append(b, `,"result":`...)
		b = append(b, result...)
		c.queue(serverFrame(append(b, '}')))
	}
}

// answer carries out a request.
func (c *bareConn) answer(ctx context.Context, req *protocol.Request) (result []byte, err error) {
	switch req.Method {
	case protocol.MethodLogin:
		var p protocol.LoginParams
		if err := json.Unmarshal(req.Params, &p); err != nil {
			return nil, err
		}
		c.user = p.UserID
		return json.Marshal(protocol.LoginResult{SessionID: p.UserID, UserID: p.UserID, Node: "bare", ServerTime: time.Now().UnixMilli()})
	case protocol.MethodPing:
		return json.Marshal(protocol.PingResult{ServerTime: time.Now().UnixMilli()})
	case protocol.MethodLogout:
		for room := range c.rooms {
			if err := c.leave(ctx, room); err != nil {
				return nil, err
			}
		}
		return []byte("{}"), nil
	case protocol.MethodEnterRoom:
		var p protocol.EnterParams
		if err := json.Unmarshal(req.Params, &p); err != nil {
			return nil, err
		}
		return c.enter(ctx, p.RoomInfo)
	case protocol.MethodLeaveRoom:
		var p protocol.RoomParams
		if err := json.Unmarshal(req.Params, &p); err != nil {
			return nil, err
		}
		if err := c.leave(ctx, p.RoomID); err != nil {
			return nil, err
		}
		return fmt.Appendf(nil, `{"roomID":%q}`, p.RoomID), nil
	case protocol.MethodSendRoomMessage:
		var p protocol.SendParams
		if err := json.Unmarshal(req.Params, &p); err != nil {
			return nil, err
		}
		if !c.rooms[p.RoomID] {
			return nil, errors.New("not in the room")
		}
		data, err := json.Marshal(struct {
			Type             protocol.MessageType     `json:"type"`
			Message          string                   `json:"message"`
			SubType          int                      `json:"subType"`
			ExtendedData     string                   `json:"extendedData"`
			Priority         protocol.MessagePriority `json:"priority"`
			SenderUserID     string                   `json:"senderUserID"`
			ConversationID   string                   `json:"conversationID"`
			ConversationType int                      `json:"conversationType"`
		}{p.Message.Type, p.Message.Message, p.Message.SubType, p.Message.ExtendedData, protocol.PriorityLow, c.user, p.RoomID, 1})
		if err != nil {
			return nil, err
		}
		if err := c.s.publish(ctx, bareMessage, p.RoomID, c.user, string(data)); err != nil {
			return nil, err
		}
		return fmt.Appendf(nil, `{"message":%s}`, data), nil
	}
	return nil, fmt.Errorf("no such method: %s", req.Method)
}

func (c *bareConn) enter(ctx context.Context, room protocol.RoomBaseInfo) ([]byte, error) {
	c.s.mu.Lock()
	r := c.s.rooms[room.RoomID]
	if r == nil {
		r = &bareRoom{}
		c.s.rooms[room.RoomID] = r
	}
	if !c.rooms[room.RoomID] {
		r.members = append(r.members, c)
		c.rooms[room.RoomID] = true
	}
	at := protocol.Position{Epoch: 1, Seq: r.seq}
	count := int64(len(r.members))
	c.s.mu.Unlock()
	if err := c.s.publish(ctx, bareJoined, room.RoomID, c.user, ""); err != nil {
		return nil, err
	}
	return json.Marshal(protocol.Room{RoomInfo: protocol.RoomFullInfo{BaseInfo: room}, Position: at, MemberCount: count})
}

func (c *bareConn) leave(ctx context.Context, room string) error {
	if !c.rooms[room] {
		return errors.New("not in the room")
	}
	delete(c.rooms, room)
	c.s.mu.Lock()
	r := c.s.rooms[room]
	for i, m := range r.members {
		if m == c {
			last := len(r.members) - 1
			r.members[i] = r.members[last]
			r.members[last] = nil
			r.members = r.members[:last]
			break
		}
	}
	if len(r.members) == 0 {
		delete(c.s.rooms, room)
	}
	c.s.mu.Unlock()
	return c.s.publish(ctx, bareLeft, room, c.user, "")
}

// serverFrame frames a text, once for all who get it.
func serverFrame(text []byte) []byte {
	var b bytes.Buffer
	b.Grow(len(text) + 10)
	b.WriteByte(opText)
	switch n := len(text); {
	case n < 126:
		b.WriteByte(byte(n))
	case n < 1<<16:
		b.WriteByte(126)
		binary.Write(&b, binary.BigEndian, uint16(n))
	default:
		b.WriteByte(127)
		binary.Write(&b, binary.BigEndian, uint64(n))
	}
	b.Write(text)
	return b.Bytes()
}
