package main

import (
	"crypto/tls"
	"net"
	"sync"
	"syscall"
)

// followed are connections to servers that may be replaced by others. Those that are not
// to go on are cut.
type followed struct {
	mu  sync.Mutex
	all map[*followedConn]struct{}
}

// followedConn is a connection to what has a job, for as long as it has it.
type followedConn struct {
	net.Conn
	of     *followed
	server string // its address or ID
	slot   int    // that it is for, on a Redis Cluster

	// fit, if not nil, says why nothing may be sent any more: also if this process stood
	// still and has not cut the connection yet.
	fit func() error
}

// add has a connection be one of those. What is returned is to be used in its place.
func (f *followed) add(c *followedConn) net.Conn {
	c.of = f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = map[*followedConn]struct{}{}
	}
	f.all[c] = struct{}{}
	if raw, ok := c.Conn.(syscall.Conn); ok { // by which go-redis sees whether it still stands
		return struct {
			*followedConn
			syscall.Conn
		}{c, raw}
	}
	return c
}

// cut ends connections.
func (f *followed) cut(which func(*followedConn) bool) {
	f.mu.Lock()
	var ends []*followedConn
	for c := range f.all {
		if which(c) {
			ends = append(ends, c)
		}
	}
	f.mu.Unlock()
	for _, c := range ends {
		c.Close()
	}
}

func (f *followed) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.all)
}

func (c *followedConn) Write(b []byte) (int, error) {
	if c.fit != nil {
		if err := c.fit(); err != nil {
			c.Close()
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

func (c *followedConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.all, c)
	c.of.mu.Unlock()
	if t, ok := c.Conn.(*tls.Conn); ok { // whose own Close would wait for the other side
		return t.NetConn().Close()
	}
	return c.Conn.Close()
}
