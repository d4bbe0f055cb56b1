package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Config is what a Mux is made of.
type Config struct {
	Routes []Route
	// Elsewhere are routes that the server serves on another port. A request for one of them is told so, or that its method is wrong.
	Elsewhere []Route
	// Authenticate finds out who an access token belongs to. It is called with a non-empty token
	// only, and answers M_UNKNOWN_TOKEN for one that is not valid.
	Authenticate func(ctx context.Context, token string, r *Request) (Caller, error)
	// Exempt reports whether a token is one to whose requests the limits of addresses don't apply. It is asked when one is
	// exceeded, and must be quick. May be nil.
	Exempt func(token string) bool
	// AuthenticateServer finds out which server signed a request, and which name of ours it was meant for. It calls body, which reads the
	// body as it came to its end, once nothing else is left to find out. Needed for routes with Auth Server only.
	AuthenticateServer func(ctx context.Context, r *Request, body func() ([]byte, error)) (origin, destination id.ServerName, err error)
	// Translate gives an errcode to errors of packages that know none, such as a database that
	// refuses a text; what it does not know it returns as it is. May be nil.
	Translate func(error) error
	// Draining is closed when the server is about to stop. See Request.Draining.
	Draining <-chan struct{}
	// Limits are the rate limits; nil means that there are none.
	Limits *Limits
	// TrustedProxies are the networks whose X-Forwarded-For header is believed.
	TrustedProxies []netip.Prefix
	Log            *slog.Logger
	// QuietRequests keeps the line per request out of the log, failures excepted.
	QuietRequests bool
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// Mux serves a route table. It is safe for concurrent use.
type Mux struct {
	config       Config
	router       router
	elsewhere    router
	limiter      *limiter
	held         *held
	metrics      *metrics
	unrecognized *routeMetrics
}

// New makes a Mux. It fails where the route table contradicts itself.
func New(c Config) (*Mux, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	h := &Mux{config: c, metrics: newMetrics(c.Metrics), held: newHeld()}
	if c.Limits != nil {
		h.limiter = newLimiter(*c.Limits)
	}
	h.unrecognized = h.metrics.of("unrecognized")
	byOp := make(map[string]*routeMetrics)
	for _, row := range c.Routes {
		if row.MaxBody == 0 {
			row.MaxBody = DefaultMaxBody
		}
		if row.Handle == nil || row.Op == "" {
			return nil, fmt.Errorf("route %s %s: no handler or no operation id", row.Method, row.Path)
		}
		if row.Auth != None && row.Auth != Server && c.Authenticate == nil || row.Auth == Server && c.AuthenticateServer == nil {
			return nil, fmt.Errorf("route %s %s: needs authentication and there is none", row.Method, row.Path)
		}
		if byOp[row.Op] == nil {
			byOp[row.Op] = h.metrics.of(row.Op)
		}
		if err := h.router.add(&route{Route: row, metrics: byOp[row.Op]}); err != nil {
			return nil, err
		}
	}
	for _, row := range c.Elsewhere {
		if err := h.elsewhere.add(&route{Route: row}); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// match finds the route of a request.
func (h *Mux) match(method, path string, params *[maxParams]string) (*route, []string, error) {
	r, allow, err := h.router.match(method, path, params)
	if !errors.Is(err, errUnknownPath) {
		return r, allow, err
	}
	switch other, allow, err := h.elsewhere.match(method, path, new([maxParams]string)); {
	case other != nil:
		return nil, nil, errElsewhere
	default:
		return nil, allow, err
	}
}

// corsHeaders are shared between all responses and never changed.
//
// Spec: cs Web Browser Clients
var (
	corsOrigin  = []string{"*"}
	corsMethods = []string{"GET, POST, PUT, DELETE, OPTIONS, HEAD"}
	corsHeaders = []string{"X-Requested-With, Content-Type, Authorization"}
	jsonType    = []string{"application/json"}
)

// ServeHTTP answers one request. The order is: CORS, route, address limit, token or signature,
// user or server limit, handler, answer, log.
func (h *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	header := w.Header()
	header["Access-Control-Allow-Origin"] = corsOrigin
	header["Access-Control-Allow-Methods"] = corsMethods
	header["Access-Control-Allow-Headers"] = corsHeaders
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.metrics.inFlight.Inc()
	defer h.metrics.inFlight.Dec()

	req := &Request{HTTP: r, writer: w, draining: h.config.Draining}
	defer func() { req.holding.release() }()
	resp, err := h.answer(req, start)
	done := outcome{start: start}
	if err != nil {
		if gone(r.Context(), err) {
			done.left = true
		} else {
			if _, known := mxerr.Of(err); !known && h.config.Translate != nil {
				err = h.config.Translate(err)
			}
			resp, done.code, done.blame = toResponse(err)
		}
		if !req.read && r.ContentLength != 0 {
			// Before it answers package net/http reads some of what is left of the body, for as long as that takes.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingerTimeout))
		}
	}
	if !done.left {
		done.status, done.bytes, err = write(w, resp)
		if err != nil {
			done.blame = err
		}
	}
	h.record(req, &done)
	if !done.left && err != nil && resp.Stream != nil {
		panic(http.ErrAbortHandler) // the only way to tell the other side that the answer is not whole
	}
}

// answer looks at a request in order and lets its handler answer.
func (h *Mux) answer(req *Request, now time.Time) (resp *Response, err error) {
	r := req.HTTP
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var allow []string
	req.route, allow, err = h.match(method, r.URL.EscapedPath(), &req.params)
	if err != nil {
		if allow != nil {
			req.writer.Header().Set("Allow", strings.Join(append(allow, http.MethodOptions), ", "))
		}
		return nil, err
	}
	req.RemoteAddr = clientAddress(r, h.config.TrustedProxies)
	if wait := h.limiter.takeAddress(req.route.Rate, req.RemoteAddr, now); wait > 0 && !h.exempt(req) {
		h.metrics.limited.WithLabelValues(req.route.Rate.String(), "address").Inc()
		return nil, mxerr.LimitExceeded(wait)
	}
	if req.query, err = parseQuery(r.URL.RawQuery); err != nil {
		return nil, err
	}
	if err := h.authenticate(req); err != nil {
		return nil, err
	}
	scope, who := "user", string(req.Caller.User)
	if req.Origin != "" {
		scope, who = "server", string(req.Origin)
	}
	if req.Caller.Unlimited {
		who = ""
	}
	if wait := h.limiter.takeUser(req.route.Rate, who, now); wait > 0 {
		h.metrics.limited.WithLabelValues(req.route.Rate.String(), scope).Inc()
		return nil, mxerr.LimitExceeded(wait)
	}
	return h.handle(req)
}

// exempt reports whether the address of a request does not count. Its query is not read yet, so the token must be in the header.
func (h *Mux) exempt(req *Request) bool {
	return h.config.Exempt != nil && req.route.Auth != Server && h.config.Exempt(req.Token())
}

func (h *Mux) authenticate(req *Request) error {
	route := req.route
	switch route.Auth {
	case None:
		return nil
	case Server:
		return h.authenticateServer(req)
	}
	token := req.Token()
	if token == "" {
		if route.Auth == Optional {
			return nil
		}
		return mxerr.New(mxerr.CodeMissingToken, "This endpoint needs an access token.")
	}
	caller, err := h.config.Authenticate(req.HTTP.Context(), token, req)
	if err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	req.Caller = caller
	switch {
	case caller.Locked && !route.WhileLocked:
		return mxerr.New(mxerr.CodeUserLocked, "This account has been locked.").With("soft_logout", true)
	case caller.Guest && (route.Auth == User || route.Auth == Admin):
		return mxerr.New(mxerr.CodeGuestAccessForbidden, "Guests cannot use this endpoint.")
	case route.Auth == Admin && !caller.Admin:
		return mxerr.Forbidden("Only administrators of this server can use this endpoint.")
	case caller.Suspended && route.NotSuspended:
		return Suspended()
	}
	return nil
}

// lingerTimeout is how long a client that is refused may go on to send its body.
const lingerTimeout = 5 * time.Second

// authenticateServer has the signature checked. A request that doesn't even claim to be signed is refused at once, and the body, which the
// signature covers, is read last.
//
// Spec: ss Request Authentication
func (h *Mux) authenticateServer(req *Request) error {
	claims := slices.ContainsFunc(req.HTTP.Header.Values("Authorization"), func(line string) bool {
		scheme, _, _ := strings.Cut(line, " ")
		return strings.EqualFold(scheme, "X-Matrix")
	})
	if !claims {
		return mxerr.New(mxerr.CodeUnauthorized, "This endpoint is for other servers: the request must be signed.")
	}
	now := time.Now()
	req.holding = h.held.of(req.RemoteAddr, now)
	origin, destination, err := h.config.AuthenticateServer(req.HTTP.Context(), req, req.unproven)
	if err != nil {
		req.holding.release() // an answer may take its time
		return fmt.Errorf("authenticate a server: %w", err)
	}
	if err := req.holding.prove(origin, now); err != nil {
		h.metrics.limited.WithLabelValues(req.route.Rate.String(), "server").Inc()
		return err
	}
	req.Origin, req.Destination = origin, destination
	return nil
}

// panicked is a handler's panic as an error.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v\n%s", p.value, p.stack) }

func (h *Mux) handle(req *Request) (resp *Response, err error) {
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				panic(v)
			}
			h.metrics.panics.Inc()
			resp, err = nil, &panicked{v, debug.Stack()}
		}
	}()
	resp, err = req.route.Handle(req.HTTP.Context(), req)
	if err == nil && resp == nil {
		err = errors.New("the handler returned neither a response nor an error")
	}
	return resp, err
}

// encoded holds buffers for JSON; those that grew large are let go.
var encoded = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const maxPooled = 64 << 10

// writeTimeout is how long a client may take to read an answer, and minWriteRate (bytes per second)
// lengthens that for large answers.
const (
	writeTimeout = time.Minute
	minWriteRate = 16 << 10
)

// write sends a response. An error means that it could not be encoded, and that a 500
// was sent in its place; a client that does not read is nobody's error.
func write(w http.ResponseWriter, resp *Response) (status, size int, err error) {
	if resp.Stream != nil {
		return stream(w, resp)
	}
	raw := resp.Raw
	if raw == nil {
		buf := encoded.Get().(*bytes.Buffer)
		buf.Reset()
		defer func() {
			if buf.Cap() <= maxPooled {
				encoded.Put(buf)
			}
		}()
		e := json.NewEncoder(buf)
		e.SetEscapeHTML(false)
		if err = e.Encode(resp.Body); err != nil {
			err = fmt.Errorf("encode response: %w", err)
			resp = errorResponse(internal, http.StatusInternalServerError)
			buf.Reset()
			_ = e.Encode(resp.Body) // strings only
		}
		raw = bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	}
	header := w.Header()
	header["Content-Type"] = jsonType
	for name, values := range resp.Header {
		header[name] = values
	}
	header["Content-Length"] = []string{strconv.Itoa(len(raw))}
	status = resp.Status
	if status == 0 {
		status = http.StatusOK
	}
	// Failure means that there is no connection, as in tests.
	_ = http.NewResponseController(w).SetWriteDeadline(
		time.Now().Add(writeTimeout + time.Duration(len(raw)/minWriteRate)*time.Second))
	w.WriteHeader(status)
	size, _ = w.Write(raw)
	return status, size, err
}

// outcome is what is known of a request once it is answered.
type outcome struct {
	start  time.Time
	status int
	bytes  int
	code   mxerr.Code
	blame  error // ours, for the log
	left   bool  // the client went away first
}

// record counts a request and writes its line in the log.
func (h *Mux) record(req *Request, o *outcome) {
	took := time.Since(o.start)
	m, op := h.unrecognized, "unrecognized"
	if req.route != nil {
		m, op = req.route.metrics, req.route.Op
	}
	m.done(o.status, o.left, took)

	level := slog.LevelInfo
	switch {
	case o.blame != nil && o.status != http.StatusBadGateway && o.status != http.StatusGatewayTimeout:
		level = slog.LevelError // those two tell of other servers, which fail all the time
	case h.config.QuietRequests:
		return
	case o.left:
		level = slog.LevelDebug
	}
	ctx := req.HTTP.Context()
	if !h.config.Log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs,
		slog.String("method", req.HTTP.Method),
		slog.String("op", op),
		slog.Int("status", o.status),
		slog.Float64("ms", float64(took.Microseconds())/1000),
		slog.Int("bytes", o.bytes))
	if req.Caller.User != "" {
		attrs = append(attrs, slog.String("user", string(req.Caller.User)))
	}
	if req.Origin != "" {
		attrs = append(attrs, slog.String("origin", string(req.Origin)))
	}
	if req.RemoteAddr.IsValid() {
		attrs = append(attrs, slog.String("address", req.RemoteAddr.String()))
	}
	if o.code != "" {
		attrs = append(attrs, slog.String("errcode", string(o.code)))
	}
	if o.blame != nil {
		attrs = append(attrs, slog.String("error", o.blame.Error()))
	}
	h.config.Log.LogAttrs(ctx, level, "request", attrs...)
}
