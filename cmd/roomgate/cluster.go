package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// hashSlots is how many a Redis Cluster has.
	hashSlots = 16384

	// nodeTimeout is how long a node has to say who has which slot, and nodeGrace how
	// long the others have once most have answered.
	nodeTimeout = time.Second
	nodeGrace   = 100 * time.Millisecond
	// clusterLately is how old that may be when somebody wants to know.
	clusterLately = 100 * time.Millisecond
	// clusterEvery is how often it is asked, besides whenever a slot is not where it was.
	clusterEvery = 30 * time.Second
)

// A cluster follows which master of a Redis Cluster has which hash slot. go-redis
// is told, in place of whichever node it would ask and believe; and subscriptions
// to a master that has a slot no longer are ended, before anything is sent to the
// next one.
//
// To go-redis a node's address is its ID, which dial looks up: a node may come back
// at another address, and one that is reached by a name has a certificate for it.
type cluster struct {
	log     *slog.Logger
	options redis.Options // of every node, but for the address
	seeds   []string      // addresses that --redis-url names
	tags    []string      // hash tags that are ours
	moved   func()        // called when the slot of one of them has another master
	dialer  func(ctx context.Context, network, addr string) (net.Conn, error)
	asking  chan struct{} // holds one; taken by who asks
	conns   followed      // to masters of slots

	mu     sync.Mutex
	nodes  map[string]string        // addresses of nodes that are well, by ID
	owners [hashSlots]string        // IDs of masters; "" for a slot that has none
	heard  time.Time                // when the nodes were last asked
	peers  map[string]*redis.Client // whom to ask, by address
	shards []*redis.Client
	rdb    *redis.ClusterClient // nil until there is one
}

func newCluster(options redis.Options, seeds, tags []string, log *slog.Logger) *cluster {
	if options.TLSConfig != nil {
		options.TLSConfig = options.TLSConfig.Clone()
		options.TLSConfig.ServerName = "" // each node has its own
	}
	return &cluster{
		log: log, options: options, seeds: seeds, tags: tags, dialer: redis.NewDialer(&options), asking: make(chan struct{}, 1),
		moved: func() {}, nodes: map[string]string{}, peers: map[string]*redis.Client{},
	}
}

// client gives the client that carries scripts. Its connections begin with greet.
func (c *cluster) client(greet func(context.Context, *redis.Conn) error) *redis.ClusterClient {
	o := c.options
	rdb := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: c.seeds, ClusterSlots: c.slots, ClusterStateReloadInterval: clusterEvery, Dialer: c.dial, OnConnect: greet,
		ClientName: o.ClientName, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig,
		MaxRetries: -1, MaxRedirects: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
		PoolSize: o.PoolSize, PoolTimeout: o.PoolTimeout, MinIdleConns: o.MinIdleConns, MaxIdleConns: o.MaxIdleConns,
		MaxActiveConns: o.MaxActiveConns, ConnMaxIdleTime: o.ConnMaxIdleTime, ConnMaxLifetime: o.ConnMaxLifetime,
		MaintNotificationsConfig: o.MaintNotificationsConfig,
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rdb = rdb
	return rdb
}

// shard gives a client whose connections are to the master that has the slot of a
// hash tag when they are made.
func (c *cluster) shard(tag string) *redis.Client {
	o := c.options
	slot := slotOf(tag)
	o.Addr, o.DialerRetries = "{"+tag+"}", 1
	o.Dialer = func(ctx context.Context, network, _ string) (net.Conn, error) { return c.dialSlot(ctx, network, slot) }
	rdb := redis.NewClient(&o)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shards = append(c.shards, rdb)
	return rdb
}

// close closes all connections but those of scripts.
func (c *cluster) close() {
	c.mu.Lock()
	open := slices.Concat(slices.Collect(maps.Values(c.peers)), c.shards)
	c.mu.Unlock()
	for _, rdb := range open {
		rdb.Close()
	}
	c.conns.cut(func(*followedConn) bool { return true })
}

// dial makes a connection to a node, by its ID.
func (c *cluster) dial(ctx context.Context, network, id string) (net.Conn, error) {
	c.mu.Lock()
	addr, ok := c.nodes[id]
	c.mu.Unlock()
	if !ok && !strings.Contains(id, ":") { // else it is an address
		return nil, fmt.Errorf("the node %s of the Redis Cluster is away", id)
	}
	return c.dialer(ctx, network, cmp.Or(addr, id))
}

// dialSlot makes a connection to the master that has a slot. Whoever has to make one
// anew may have lost the last since the slot is elsewhere, so that is asked first.
func (c *cluster) dialSlot(ctx context.Context, network string, slot int) (net.Conn, error) {
	if err := c.ask(ctx, clusterLately); err != nil {
		return nil, err
	}
	c.mu.Lock()
	id := c.owners[slot]
	c.mu.Unlock()
	if id == "" {
		return nil, fmt.Errorf("no master of the Redis Cluster has the hash slot %d", slot)
	}
	conn, err := c.dial(ctx, network, id)
	if err != nil {
		return nil, err
	}
	conn = c.conns.add(&followedConn{Conn: conn, server: id, slot: slot})
	c.mu.Lock()
	moved := c.owners[slot] != id
	c.mu.Unlock()
	if moved {
		conn.Close()
		return nil, fmt.Errorf("the hash slot %d is moving", slot)
	}
	return conn, nil
}

// slots tells go-redis who has which slot.
func (c *cluster) slots(ctx context.Context) ([]redis.ClusterSlot, error) {
	if err := c.ask(ctx, clusterLately); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []redis.ClusterSlot
	for slot, id := range c.owners {
		switch last := len(all) - 1; {
		case id == "":
		case last >= 0 && all[last].End == slot-1 && all[last].Nodes[0].ID == id:
			all[last].End = slot
		default:
			all = append(all, redis.ClusterSlot{Start: slot, End: slot, Nodes: []redis.ClusterNode{{ID: id, Addr: id}}})
		}
	}
	return all, nil
}

// address gives where a node is, or else its ID.
func (c *cluster) address(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.nodes[id], id)
}

// masters gives a hash tag of ours for each master that has slots of ours, by its ID.
func (c *cluster) masters() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]string{}
	for _, tag := range c.tags {
		all[c.owners[slotOf(tag)]] = tag
	}
	return all
}

// A slotView is what one node says of who has which slot.
type slotView struct {
	by     string // the node's ID
	slots  []redis.ClusterSlot
	nodes  map[string]string // addresses of nodes that are well, by ID
	epochs map[string]int64  // of each node's configuration, by ID: the higher, the later
}

// ask asks the nodes who has which slot, unless that was done within lately. It fails,
// and leaves all as it was, if most masters do not answer: a node that is cut off from
// the others goes on with what it knew.
func (c *cluster) ask(ctx context.Context, lately time.Duration) error {
	select {
	case c.asking <- struct{}{}:
		defer func() { <-c.asking }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	began := time.Now()
	c.mu.Lock()
	known, first := began.Sub(c.heard) < lately, len(c.nodes) == 0
	addrs := slices.Collect(maps.Values(c.nodes))
	c.mu.Unlock()
	if known {
		return nil
	}
	if first {
		addrs = c.seeds
	}
	enough := mostMasters
	if first {
		enough = func(views []slotView) bool { return len(views) > 0 }
	}
	views, err := c.views(ctx, addrs, enough)
	if err != nil && !first {
		// All may have been moved elsewhere, or made anew.
		var others []slotView
		if others, _ = c.views(ctx, c.seeds, func(views []slotView) bool { return 2*len(views) > len(c.seeds) }); len(others) > 0 {
			views, err = others, nil
		}
	}
	if err != nil {
		return err
	}
	c.take(views, began)
	if first {
		// The others may know of something later.
		c.mu.Lock()
		addrs = slices.Collect(maps.Values(c.nodes))
		c.mu.Unlock()
		if views, err = c.views(ctx, addrs, mostMasters); err == nil {
			c.take(views, began)
		}
	}
	return nil
}

// mostMasters says whether most of the masters that have slots are among who answered,
// by the latest configuration that any of these knows. It is by whom Redis itself has a
// replica take over, so no later one can be without their knowing.
func mostMasters(views []slotView) bool {
	answered := map[string]bool{}
	for _, id := range ownersOf(views) {
		if id != "" {
			answered[id] = false
		}
	}
	masters, n := len(answered), 0
	for _, v := range views {
		if seen, is := answered[v.by]; is && !seen {
			answered[v.by] = true
			n++
		}
	}
	return 2*n > masters
}

// views gives what nodes say, as soon as that is enough, and of those who are not much
// slower.
func (c *cluster) views(ctx context.Context, addrs []string, enough func([]slotView) bool) ([]slotView, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	type answer struct {
		slotView
		err error
	}
	answers := make(chan answer, len(addrs))
	for _, addr := range addrs {
		rdb := c.peer(addr)
		go func() {
			v, err := c.view(ctx, rdb, addr)
			answers <- answer{v, err}
		}()
	}
	var views []slotView
	var failed []error
	for range addrs {
		a := <-answers // each comes when ctx is done at the latest
		if a.err != nil {
			failed = append(failed, a.err)
			continue
		}
		views = append(views, a.slotView)
		if enough(views) {
			time.AfterFunc(nodeGrace, cancel)
		}
	}
	if !enough(views) {
		return nil, fmt.Errorf("%d of %d nodes of the Redis Cluster answer: %w", len(views), len(addrs), errors.Join(failed...))
	}
	return views, nil
}

// peer gives the client by which a node is asked. It does not wait for those of scripts.
func (c *cluster) peer(addr string) *redis.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	rdb := c.peers[addr]
	if rdb == nil {
		o := c.options
		o.Addr, o.PoolSize, o.MinIdleConns, o.PipelinePoolSize, o.DialerRetries = addr, 2, 0, -1, 1
		o.OnConnect = nil
		rdb = redis.NewClient(&o)
		c.peers[addr] = rdb
	}
	return rdb
}

// view asks one node.
func (c *cluster) view(ctx context.Context, rdb *redis.Client, addr string) (slotView, error) {
	var slots *redis.ClusterSlotsCmd
	var nodes *redis.StringCmd
	// In this order: an epoch may be later than the owner that comes with it, whose
	// slots are then the same or more.
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		slots, nodes = p.ClusterSlots(ctx), p.ClusterNodes(ctx)
		return nil
	})
	if err != nil {
		return slotView{}, fmt.Errorf("the node at %s: %w", addr, err)
	}
	v := slotView{slots: slots.Val(), nodes: map[string]string{}, epochs: map[string]int64{}}
	for line := range strings.Lines(nodes.Val()) {
		f := strings.Fields(line) // id, address, flags, master, ping, pong, epoch, link, slots …
		if len(f) < 8 {
			continue
		}
		v.epochs[f[0]], _ = strconv.ParseInt(f[6], 10, 64)
		well := true
		if strings.Contains(f[2], "myself") {
			v.by = f[0]
		}
		for _, flag := range strings.Split(f[2], ",") {
			well = well && flag != "fail" && flag != "noaddr" && flag != "handshake"
		}
		if well {
			v.nodes[f[0]] = ""
		}
	}
	host, port, _ := net.SplitHostPort(addr)
	for _, s := range v.slots {
		for _, n := range s.Nodes {
			if _, well := v.nodes[n.ID]; well {
				v.nodes[n.ID] = reachable(n.Addr, host, port)
			}
		}
	}
	// What has no slots is of no use.
	maps.DeleteFunc(v.nodes, func(_, addr string) bool { return addr == "" })
	return v, nil
}

// reachable gives the address of a node as seen from where another was reached, which
// has said it: it may not know its own host, or know itself by the loopback address
// only, and by TLS alone have the port 0.
func reachable(addr, byHost, byPort string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	loopback := func(host string) bool {
		ip := net.ParseIP(host)
		return host == "localhost" || ip != nil && ip.IsLoopback()
	}
	if host == "" || host == "?" || loopback(host) && !loopback(byHost) {
		host = byHost
	}
	if port == "0" {
		port = byPort
	}
	return net.JoinHostPort(host, port)
}

// ownersOf draws the conclusion from what nodes say: each slot is with the master of the
// latest configuration that anybody knows to have it.
func ownersOf(views []slotView) (owners [hashSlots]string) {
	var epochs [hashSlots]int64
	for _, v := range views {
		for _, s := range v.slots {
			if len(s.Nodes) == 0 {
				continue
			}
			id := s.Nodes[0].ID
			for slot := max(0, s.Start); slot <= min(s.End, hashSlots-1); slot++ {
				if owners[slot] == "" || v.epochs[id] > epochs[slot] {
					owners[slot], epochs[slot] = id, v.epochs[id]
				}
			}
		}
	}
	return owners
}

// take goes by what nodes say from now on.
func (c *cluster) take(views []slotView, at time.Time) {
	owners := ownersOf(views)
	nodes, named := map[string]string{}, map[string]int64{}
	for _, v := range views {
		for id, addr := range v.nodes {
			if epoch, ok := named[id]; !ok || v.epochs[id] > epoch {
				nodes[id], named[id] = addr, v.epochs[id]
			}
		}
	}

	type move struct{ from, to string }
	moves := map[move]int{}
	c.mu.Lock()
	changed := c.owners != owners || !maps.Equal(c.nodes, nodes)
	address := func(id string) string { return cmp.Or(nodes[id], c.nodes[id], id, "none") }
	if len(c.nodes) > 0 {
		for _, tag := range c.tags {
			if slot := slotOf(tag); c.owners[slot] != owners[slot] {
				moves[move{address(c.owners[slot]), address(owners[slot])}]++
			}
		}
	}
	c.owners, c.nodes, c.heard = owners, nodes, at
	var gone []*redis.Client
	for addr, rdb := range c.peers {
		if !slices.Contains(c.seeds, addr) && !slices.Contains(slices.Collect(maps.Values(nodes)), addr) {
			gone = append(gone, rdb)
			delete(c.peers, addr)
		}
	}
	rdb := c.rdb
	c.mu.Unlock()

	for _, peer := range gone {
		peer.Close()
	}
	c.conns.cut(func(f *followedConn) bool { return owners[f.slot] != f.server })
	for m, n := range moves {
		c.log.Warn("hash slots have another master", "count", n, "addr", m.to, "before", m.from)
	}
	if len(moves) > 0 {
		c.moved()
	}
	if changed && rdb != nil {
		rdb.ReloadState(context.Background()) // comes back here, and finds it known
	}
}

// uncovered gives a hash tag of ours whose slot no master has, "" if there is none.
func (c *cluster) uncovered() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tag := range c.tags {
		if c.owners[slotOf(tag)] == "" {
			return tag
		}
	}
	return ""
}

// slotOf gives the hash slot of keys with a hash tag: the CRC-16 (XMODEM) of the tag,
// modulo how many slots there are.
func slotOf(tag string) int {
	var crc uint16
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			if crc <<= 1; carry {
				crc ^= 0x1021
			}
		}
	}
	return int(crc) % hashSlots
}
