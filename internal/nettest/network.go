package nettest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Faults are what befalls connections between different hosts. The zero value is a perfect network.
type Faults struct {
	// Delay is how long bytes travel: at least Min, at most Max, evenly in between.
	Min, Max time.Duration
	// Loss is the chance, from 0 to 1, that a write is lost; the connection breaks with it.
	Loss float64
	// Refuse is the chance that a connection can't be made.
	Refuse float64
}

// Network is a set of hosts. All methods may be called from any goroutine.
type Network struct {
	seed uint64

	mu     sync.Mutex
	faults Faults
	hosts  map[string]*Host // the living ones by name; guarded by mu
	addrs  map[string]netip.Addr
	names  map[netip.Addr]string
	groups map[string]int // of a partition; nil: none
	dials  map[string]int // connections made so far by "from to port"
	conns  map[*link]struct{}
}

// New makes a network without hosts and without faults. The seed decides what happens once there are some.
func New(seed uint64) *Network {
	return &Network{
		seed: seed, hosts: make(map[string]*Host), addrs: make(map[string]netip.Addr), names: make(map[netip.Addr]string),
		dials: make(map[string]int), conns: make(map[*link]struct{}),
	}
}

// Prefix holds the addresses of all hosts: a private range.
var Prefix = netip.MustParsePrefix("10.0.0.0/8")

// Host is a machine from its start to its crash.
type Host struct {
	Name string
	Addr netip.Addr

	net *Network
	// steady hosts have no faults, as the clients of a test.
	steady    bool
	dead      chan struct{} // closed by Crash
	crash     sync.Once
	listeners map[string]*listener // by port; guarded by net.mu
}

// Host starts a machine. Its address stays that of the name. A machine of this name that is still up crashes.
func (n *Network) Host(name string) *Host { return n.host(name, false) }

// Steady starts a machine whose connections, either way, meet no faults and no partition.
func (n *Network) Steady(name string) *Host { return n.host(name, true) }

func (n *Network) host(name string, steady bool) *Host {
	n.mu.Lock()
	old := n.hosts[name]
	n.mu.Unlock()
	if old != nil {
		old.Crash()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, known := n.addrs[name]
	if !known {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], 10<<24|uint32(len(n.addrs)+1))
		addr = netip.AddrFrom4(raw)
		n.addrs[name], n.names[addr] = addr, name
	}
	h := &Host{Name: name, Addr: addr, net: n, steady: steady, dead: make(chan struct{}), listeners: make(map[string]*listener)}
	n.hosts[name] = h
	return h
}

// SetFaults changes what befalls connections from now on, those that exist included.
func (n *Network) SetFaults(f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = f
}

// Partition splits the hosts into groups that can't reach each other; hosts that no group names are together in one more.
// Connections across break at once, or fall silent, as the seed decides.
func (n *Network) Partition(groups ...[]string) {
	n.mu.Lock()
	n.groups = make(map[string]int)
	for i, g := range groups {
		for _, name := range g {
			n.groups[name] = i + 1
		}
	}
	var cut []*link
	for l := range n.conns {
		if n.apart(l.from, l.to) {
			cut = append(cut, l)
		}
	}
	n.mu.Unlock()
	for _, l := range cut {
		if n.chance(l.id, "cut") < 0.5 {
			l.reset()
		} else {
			l.silence()
		}
	}
}

// Heal ends the partition. What fell silent stays silent.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.groups = nil
}

// apart is called with mu held.
func (n *Network) apart(a, b *Host) bool {
	return n.groups != nil && !a.steady && !b.steady && n.groups[a.Name] != n.groups[b.Name]
}

// chance is a number from 0 to 1 that depends on the seed and on what is named.
func (n *Network) chance(what ...any) float64 {
	h := fnv.New64a()
	fmt.Fprintln(h, n.seed, what)
	// FNV mixes its last bytes little; this finishes the job.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}

func (n *Network) delay(f Faults, what ...any) time.Duration {
	if f.Max <= f.Min {
		return f.Min
	}
	return f.Min + time.Duration(math.Floor(n.chance(what...)*float64(f.Max-f.Min)))
}

// Listen takes a port. The host part of the address doesn't matter; port 0 takes a free one.
func (h *Host) Listen(_, address string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for free := 49152; port == "0"; free++ {
		if p := strconv.Itoa(free); h.listeners[p] == nil {
			port = p
		}
	}
	if h.listeners[port] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: syscall.EADDRINUSE}
	}
	l := &listener{host: h, port: port, incoming: make(chan net.Conn, backlog), closed: make(chan struct{})}
	h.listeners[port] = l
	return l, nil
}

// backlog is how many connections wait for being accepted.
const backlog = 128

var errCrashed = errors.New("this machine has crashed")

// Dial connects to an address, by number or by name.
func (h *Host) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	conn, err := h.dial(ctx, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("%s: %w", address, err)}
	}
	return conn, nil
}

func (h *Host) dial(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n := h.net
	n.mu.Lock()
	if ip, err := netip.ParseAddr(host); err == nil {
		host = n.names[ip]
	}
	n.dials[h.Name+" "+host+" "+port]++
	id := fmt.Sprintf("%s>%s:%s#%d", h.Name, host, port, n.dials[h.Name+" "+host+" "+port])
	faults := n.between(h, n.hosts[host])
	n.mu.Unlock()

	if err := h.wait(ctx, n.delay(faults, id, "dial")); err != nil {
		return nil, err
	}
	n.mu.Lock()
	to := n.hosts[host]
	lost := to != nil && n.apart(h, to)
	var l *listener
	if to != nil {
		l = to.listeners[port]
	}
	n.mu.Unlock()
	switch {
	case lost && n.chance(id, "lost") < 0.5:
		// Nobody answers, and nobody says so.
		<-ctx.Done()
		return nil, ctx.Err()
	case lost:
		return nil, syscall.EHOSTUNREACH
	case l == nil, n.chance(id, "refuse") < faults.Refuse:
		return nil, syscall.ECONNREFUSED
	}
	return l.connect(ctx, newLink(n, id, h, l))
}

// between is called with mu held.
func (n *Network) between(a, b *Host) Faults {
	if a == b || a.steady || b != nil && b.steady {
		return Faults{}
	}
	return n.faults
}

func (h *Host) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-h.dead:
		return errCrashed
	default:
	}
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.dead:
		return errCrashed
	}
}

// Crash takes the machine off the network for good: its connections break, its ports are free. A machine that starts
// under the same name is another one.
func (h *Host) Crash() {
	h.crash.Do(func() {
		n := h.net
		n.mu.Lock()
		close(h.dead)
		if n.hosts[h.Name] == h {
			delete(n.hosts, h.Name)
		}
		var broken []*link
		for l := range n.conns {
			if l.from == h || l.to == h {
				broken = append(broken, l)
			}
		}
		listeners := h.listeners
		h.listeners = make(map[string]*listener)
		n.mu.Unlock()
		for _, l := range listeners {
			l.Close()
		}
		for _, l := range broken {
			l.reset()
		}
	})
}

// LookupNetIP answers for names of hosts, those that are down included, and addresses.
func (h *Host) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	addr, ok := h.net.addrs[host]
	if !ok || network == "ip6" {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{addr}, nil
}

// LookupSRV knows no records.
func (h *Host) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	return "", nil, &net.DNSError{Err: "no such host", Name: "_" + service + "._" + proto + "." + name, IsNotFound: true}
}

// listener is one port of a host.
type listener struct {
	host     *Host
	port     string
	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func (l *listener) connect(ctx context.Context, link *link) (net.Conn, error) {
	select {
	case <-l.closed:
		link.forget()
		return nil, syscall.ECONNREFUSED
	default:
	}
	select {
	case l.incoming <- link.theirs():
		return link.ours(), nil
	case <-l.closed:
		link.forget()
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		link.forget()
		return nil, ctx.Err()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.incoming:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.host.net.mu.Lock()
		if l.host.listeners[l.port] == l {
			delete(l.host.listeners, l.port)
		}
		l.host.net.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.incoming:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.host.tcp(l.port) }

func (h *Host) tcp(port string) net.Addr {
	n, err := strconv.Atoi(port)
	if err != nil {
		n = 0
	}
	return &net.TCPAddr{IP: h.Addr.AsSlice(), Port: n}
}
