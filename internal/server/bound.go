package server

import (
	"net"
	"net/netip"
	"sync"
)

// How many connections other servers may hold open: all together, and from one address. One server needs a few, but who hosts many
// of them often sends from one address; a proxy holds those of everybody.
const (
	maxServerConns  = 8192
	maxAddressConns = 1024
)

// bounded is a listener that closes connections beyond a number at once, so that neither one address nor
// all of them can take all file descriptors.
type bounded struct {
	net.Listener
	total, each int
	// exempt are networks whose addresses speak for many: the reverse proxies.
	exempt []netip.Prefix

	mu   sync.Mutex
	open int                // guarded by mu
	from map[netip.Addr]int // guarded by mu; an address without connections is not in it
}

func bound(l net.Listener, total, each int, exempt []netip.Prefix) *bounded {
	return &bounded{Listener: l, total: total, each: each, exempt: exempt, from: make(map[netip.Addr]int)}
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := b.counted(conn.RemoteAddr())
		if b.take(address) {
			return &boundedConn{Conn: conn, bounded: b, address: address}, nil
		}
		conn.Close()
	}
}

// counted is the address whose connections are counted together: of version 6 the network that one customer gets. The zero
// address is not counted by itself.
func (b *bounded) counted(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.IsLoopback() {
		return netip.Addr{}
	}
	for _, n := range b.exempt {
		if n.Contains(ip) {
			return netip.Addr{}
		}
	}
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}

func (b *bounded) take(a netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open >= b.total || a.IsValid() && b.from[a] >= b.each {
		return false
	}
	b.open++
	if a.IsValid() {
		b.from[a]++
	}
	return true
}

func (b *bounded) release(a netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	if !a.IsValid() {
		return
	}
	if b.from[a]--; b.from[a] == 0 {
		delete(b.from, a)
	}
}

// boundedConn gives its place free when it is closed.
type boundedConn struct {
	net.Conn
	bounded *bounded
	address netip.Addr
	once    sync.Once
}

func (c *boundedConn) Close() error {
	c.once.Do(func() { c.bounded.release(c.address) })
	return c.Conn.Close()
}
