package web

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// The signature of a request of another server covers its body, so the body must be read before anybody can say who sent it. What is held of such
// bodies is counted by where it comes from. The server that a request names is no measure: anybody could use up the share of another one by naming it.
// Once the signature is checked the body counts for the server that sent it, until the request is answered.
const (
	// strangersHold bounds the bytes held at once for addresses from which no signature came of late, and strangerHolds those of one of them:
	// a little more than the largest transaction. provenHold and provenHolds are the same for the others; behind a proxy whose word
	// is not taken all servers have one address.
	strangersHold = 32 << 20
	strangerHolds = 12 << 20
	provenHold    = 96 << 20
	provenHolds   = 48 << 20
	// smallReserve is the part of either that is kept for addresses that hold no more than smallHolds: a few with large bodies that take their time, after
	// a restart when all are strangers, don't keep out the requests of everybody else.
	smallReserve = 8 << 20
	smallHolds   = 128 << 10
	// serverHolds bounds what is held of the bodies of one server whose signatures were checked.
	serverHolds = 32 << 20
	// maxProven bounds the addresses that are remembered, provenFor for how long.
	maxProven = 20_000
	provenFor = 24 * time.Hour
	// A body of another server may take signedTimeout, and a second more for each minSignedRate bytes.
	signedTimeout = 15 * time.Second
	minSignedRate = 64 << 10
)

// held counts the bytes of other servers' bodies.
type held struct {
	mu sync.Mutex // guards what follows
	// strangers and known are sums over byAddress.
	strangers, known int64
	byAddress        map[netip.Prefix]int64
	byServer         map[string]int64
	// proven holds addresses from which a valid signature came, with the time of the last one.
	proven map[netip.Prefix]time.Time
}

func newHeld() *held {
	return &held{byAddress: make(map[netip.Prefix]int64), byServer: make(map[string]int64), proven: make(map[netip.Prefix]time.Time)}
}

// holding is what one request holds, of its address's share or, once it was proven, of its server's.
type holding struct {
	of      *held
	address netip.Prefix
	known   bool
	server  string
	bytes   int64
}

// of begins to count for a request. The holding must be released.
func (h *held) of(addr netip.Addr, now time.Time) *holding {
	h.mu.Lock()
	defer h.mu.Unlock()
	prefix := prefixOf(addr)
	last, ok := h.proven[prefix]
	return &holding{of: h, address: prefix, known: ok && now.Sub(last) < provenFor}
}

// add counts more bytes, and returns M_LIMIT_EXCEEDED where they are too many.
func (x *holding) add(n int64) error {
	h := x.of
	h.mu.Lock()
	defer h.mu.Unlock()
	sum, all, one := &h.strangers, int64(strangersHold), int64(strangerHolds)
	if x.known {
		sum, all, one = &h.known, provenHold, provenHolds
	}
	if h.byAddress[x.address]+n > smallHolds {
		all -= smallReserve
	}
	if *sum+n > all || h.byAddress[x.address]+n > one {
		return mxerr.LimitExceeded(time.Second)
	}
	*sum += n
	h.byAddress[x.address] += n
	x.bytes += n
	return nil
}

// prove moves the bytes to the share of the server that signed them.
func (x *holding) prove(server id.ServerName, now time.Time) error {
	h := x.of
	h.mu.Lock()
	defer h.mu.Unlock()
	bytes := x.bytes
	x.drop()
	if _, ok := h.proven[x.address]; !ok && len(h.proven) >= maxProven {
		for other := range h.proven { // any one
			delete(h.proven, other)
			break
		}
	}
	h.proven[x.address] = now
	host := server.Host()
	if bytes == 0 {
		return nil
	}
	if h.byServer[host]+bytes > serverHolds {
		return mxerr.LimitExceeded(time.Second)
	}
	h.byServer[host] += bytes
	x.server, x.bytes = host, bytes
	return nil
}

// release ends the counting. It may be called again, and on nil.
func (x *holding) release() {
	if x == nil {
		return
	}
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	x.drop()
}

// drop is release with mu held.
func (x *holding) drop() {
	h := x.of
	switch {
	case x.bytes == 0:
	case x.server != "":
		lower(h.byServer, x.server, x.bytes)
	default:
		lower(h.byAddress, x.address, x.bytes)
		if x.known {
			h.known -= x.bytes
		} else {
			h.strangers -= x.bytes
		}
	}
	x.bytes = 0
}

func lower[K comparable](counts map[K]int64, key K, by int64) {
	if counts[key] -= by; counts[key] <= 0 {
		delete(counts, key)
	}
}

// unproven reads the body of a request that isn't known to come from whom it says, counted and under a deadline that moves on with what comes.
func (r *Request) unproven() ([]byte, error) {
	if r.read {
		return r.body, nil
	}
	limit := r.route.MaxBody
	if r.HTTP.ContentLength > limit {
		return nil, tooLargeBody(limit)
	}
	control := http.NewResponseController(r.writer)
	from := &counted{from: r.HTTP.Body, holding: r.holding, control: control, until: time.Now().Add(signedTimeout)}
	_ = control.SetReadDeadline(from.until) // no connection, as in tests
	var body []byte
	var err error
	if r.HTTP.Body != nil {
		body, err = readAll(from, r.HTTP.ContentLength, limit)
	}
	if err != nil {
		return nil, err
	}
	_ = control.SetReadDeadline(time.Time{})
	r.body, r.read = body, true
	return body, nil
}

// counted reads a body for as long as its share lasts.
type counted struct {
	from    io.Reader
	holding *holding
	control *http.ResponseController
	until   time.Time
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if full := c.holding.add(int64(n)); full != nil {
		return 0, full
	}
	if err == nil || errors.Is(err, io.EOF) {
		c.until = c.until.Add(time.Duration(n) * time.Second / minSignedRate)
		_ = c.control.SetReadDeadline(c.until)
	}
	return n, err
}
