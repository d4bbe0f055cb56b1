package nettest

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// link is one connection: two directions between two hosts.
type link struct {
	net      *Network
	id       string
	from, to *Host
	port     string
	there    *stream // from the host that dialled
	back     *stream
}

func newLink(n *Network, id string, from *Host, to *listener) *link {
	l := &link{net: n, id: id, from: from, to: to.host, port: to.port}
	l.there, l.back = newStream(l, "there"), newStream(l, "back")
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[l] = struct{}{}
	return l
}

func (l *link) forget() {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	delete(l.net.conns, l)
}

func (l *link) ours() net.Conn {
	return &conn{link: l, in: l.back, out: l.there, local: l.from.tcp("0"), remote: l.to.tcp(l.port)}
}

func (l *link) theirs() net.Conn {
	return &conn{link: l, in: l.there, out: l.back, local: l.to.tcp(l.port), remote: l.from.tcp("0")}
}

// reset breaks both directions at once; what is under way is lost.
func (l *link) reset() {
	l.there.fail(syscall.ECONNRESET)
	l.back.fail(syscall.ECONNRESET)
	l.forget()
}

// silence loses all that is under way and all that will be written, and tells nobody.
func (l *link) silence() {
	l.there.silence()
	l.back.silence()
}

// now is what befalls the link's next write, and whether it crosses a partition.
func (l *link) now() (f Faults, apart bool) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	return l.net.between(l.from, l.to), l.net.apart(l.from, l.to)
}

// window is how many bytes one direction holds before its writer waits.
const window = 1 << 20

// packet is what was written at one moment.
type packet struct {
	written, due time.Time
	data         []byte
	// end is what the reader gets after data: io.EOF, or an error that breaks the connection. May be nil.
	end error
}

// stream is one direction of a connection.
type stream struct {
	link *link
	name string

	mu      sync.Mutex
	packets []packet      // in order of arrival; guarded by mu
	held    int           // bytes in packets; guarded by mu
	writes  int           // packets so far; guarded by mu
	err     error         // for both sides from now on; guarded by mu
	closed  bool          // the writer is done; guarded by mu
	mute    bool          // writes vanish; guarded by mu
	changed chan struct{} // closed at each change, and made anew; guarded by mu
}

func newStream(l *link, name string) *stream {
	return &stream{link: l, name: name, changed: make(chan struct{})}
}

// change is called with mu held.
func (s *stream) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err, s.packets, s.held = err, nil, 0
		s.change()
	}
}

func (s *stream) silence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute, s.packets, s.held = true, nil, 0
	s.change()
}

// write takes all of p, waiting while the window is full.
func (s *stream) write(p []byte, limit *deadline) (int, error) {
	sent := 0
	for sent < len(p) {
		s.mu.Lock()
		switch {
		case s.err != nil:
			s.mu.Unlock()
			return sent, s.err
		case s.closed:
			s.mu.Unlock()
			return sent, net.ErrClosed
		}
		if room := window - s.held; room > 0 {
			n := min(room, len(p)-sent)
			s.put(p[sent:sent+n], nil)
			sent += n
			s.mu.Unlock()
			continue
		}
		changed := s.changed
		s.mu.Unlock()
		if err := limit.wait(changed, time.Time{}); err != nil {
			return sent, err
		}
	}
	return sent, limit.passed()
}

// put is called with mu held. What is written at one moment of time is one packet, however many writes it took:
// so the number of a packet doesn't depend on buffers.
func (s *stream) put(p []byte, end error) {
	if s.mute {
		return
	}
	now := time.Now()
	if last := len(s.packets) - 1; last >= 0 && s.packets[last].written.Equal(now) && s.packets[last].end == nil {
		s.packets[last].data = append(s.packets[last].data, p...)
		s.packets[last].end = end
		s.held += len(p)
		return
	}
	s.writes++
	faults, apart := s.link.now()
	net := s.link.net
	next := packet{written: now, due: now.Add(net.delay(faults, s.link.id, s.name, s.writes)), end: end}
	if last := len(s.packets) - 1; last >= 0 && next.due.Before(s.packets[last].due) {
		next.due = s.packets[last].due
	}
	switch {
	case apart:
		s.mute = true
	case net.chance(s.link.id, s.name, s.writes, "loss") < faults.Loss:
		next.end = syscall.ECONNRESET
	default:
		next.data = append([]byte(nil), p...)
		s.held += len(p)
	}
	if !s.mute {
		s.packets = append(s.packets, next)
	}
	s.change()
}

func (s *stream) read(p []byte, limit *deadline) (int, error) {
	for {
		s.mu.Lock()
		var due time.Time
		switch {
		case s.err != nil:
			s.mu.Unlock()
			return 0, s.err
		case len(s.packets) > 0 && !s.packets[0].due.After(time.Now()):
			n, err := s.take(p)
			s.mu.Unlock()
			if err == syscall.ECONNRESET {
				s.link.reset()
			}
			return n, err
		case len(s.packets) > 0:
			due = s.packets[0].due
		}
		changed := s.changed
		s.mu.Unlock()
		if err := limit.wait(changed, due); err != nil {
			return 0, err
		}
	}
}

// take is called with mu held, and with a packet that has arrived.
func (s *stream) take(p []byte) (int, error) {
	first := &s.packets[0]
	if len(first.data) == 0 {
		if first.end != nil {
			return 0, first.end // stays, for the reads to come
		}
		s.packets = s.packets[1:]
		return 0, nil
	}
	n := copy(p, first.data)
	first.data = first.data[n:]
	s.held -= n
	if len(first.data) == 0 && first.end == nil {
		s.packets = s.packets[1:]
	}
	s.change()
	return n, nil
}

// finish says that nothing more will be written.
func (s *stream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.put(nil, io.EOF)
		s.change()
	}
}

// conn is one end of a link.
type conn struct {
	link          *link
	in, out       *stream
	local, remote net.Addr
	read, write   deadline
	closed        atomic.Bool
}

func (c *conn) Read(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.read.passed(); err != nil {
		return 0, err
	}
	for {
		n, err := c.in.read(p, &c.read)
		if err != nil && c.closed.Load() {
			err = net.ErrClosed
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.write.passed(); err != nil {
		return 0, err
	}
	return c.out.write(p, &c.write)
}

func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	c.out.finish()
	// What the other side goes on writing has no reader.
	c.in.fail(syscall.EPIPE)
	c.link.forgetIfOver()
	return nil
}

// forgetIfOver forgets a link that both ends have closed.
func (l *link) forgetIfOver() {
	over := true
	for _, s := range []*stream{l.there, l.back} {
		s.mu.Lock()
		over = over && s.closed
		s.mu.Unlock()
	}
	if over {
		l.forget()
	}
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}
func (c *conn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }

// deadline ends waiting. The zero value has none.
type deadline struct {
	mu      sync.Mutex
	at      time.Time     // guarded by mu
	changed chan struct{} // closed when at changes; guarded by mu; may be nil
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

func (d *deadline) get() (time.Time, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.at, d.changed
}

func (d *deadline) passed() error {
	if at, _ := d.get(); !at.IsZero() && !at.After(time.Now()) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// wait waits for a change, a time (unless it is zero) or the deadline, which is an error.
func (d *deadline) wait(changed <-chan struct{}, until time.Time) error {
	at, moved := d.get()
	if !at.IsZero() && !at.After(time.Now()) {
		return os.ErrDeadlineExceeded
	}
	if !at.IsZero() && (until.IsZero() || at.Before(until)) {
		until = at
	}
	var timer <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-changed:
	case <-moved:
	case <-timer:
	}
	return nil
}
