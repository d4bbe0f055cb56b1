package fedclient

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"myelin/matrix/canon"
)

// idleLimit is how long an answer may pause.
const idleLimit = 30 * time.Second

// send signs and sends a request and waits for the head of the answer. Whatever is not a success becomes an error: *RemoteError
// where the other server spoke, *Unreachable where it did not.
func (c *Client) send(ctx context.Context, call Call, rq request) (*answer, error) {
	began := time.Now()
	a, outcome, err := c.attempt(ctx, call, rq)
	c.metrics.requests.WithLabelValues(rq.op, outcome).Inc()
	c.metrics.seconds.WithLabelValues(rq.op).Observe(time.Since(began).Seconds())
	return a, err
}

// attempt is send without the counting.
func (c *Client) attempt(ctx context.Context, call Call, rq request) (a *answer, outcome string, err error) {
	if err := c.mayCall(call, rq); err != nil {
		return nil, "forbidden", err
	}
	timeout := rq.timeout
	if call.Timeout > 0 {
		timeout = call.Timeout
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	stop := context.AfterFunc(c.ctx, cancel)
	d := c.servers.of(call.Destination)
	if err := d.enter(ctx, call, rq.beside); err != nil {
		stop()
		cancel()
		if _, left := errors.AsType[*Unreachable](err); left {
			return nil, "backoff", err
		}
		return nil, "unreachable", c.gaveUp(caller, call, fmt.Errorf("wait for other requests to it: %w", err))
	}
	var once sync.Once
	end := func() { once.Do(func() { stop(); cancel(); d.leave(rq.beside) }) }
	began := time.Now()
	resp, err := c.roundTrip(ctx, call, rq)
	if err != nil {
		end()
		if c.ctx.Err() != nil || errors.Is(caller.Err(), context.Canceled) || caller.Err() != nil && time.Since(began) < connectTimeout {
			// We are about to stop, or the caller had no time left to give.
			return nil, "unreachable", c.gaveUp(caller, call, err)
		}
		return nil, "unreachable", &Unreachable{Server: call.Destination, Asked: true, RetryAt: d.failed(began), Cause: err}
	}
	if resp.StatusCode/100 == 2 {
		d.well()
		a, err := rq.open(resp, cancel, end)
		if err != nil {
			end()
			return nil, "unreachable", c.broken(call, rq.op, err)
		}
		return a, "ok", nil
	}
	defer end()
	return nil, "refused", c.refused(call, d, began, resp, cancel)
}

// mayCall checks what must be right before anything is sent.
func (c *Client) mayCall(call Call, rq request) error {
	if !rq.unsigned && !c.ours.Is(call.Origin) {
		return fmt.Errorf("%s to %s from %q: %w", rq.op, call.Destination, call.Origin, ErrNotOurs)
	}
	if c.ours.Is(call.Destination) {
		return fmt.Errorf("%s to %s: this server does not ask itself", rq.op, call.Destination)
	}
	if call.Destination == "" || !c.Permitted(call.Destination) {
		return fmt.Errorf("%s to %q: %w", rq.op, call.Destination, ErrNotPermitted)
	}
	return nil
}

// gaveUp is the error where it was us who lost patience or are about to stop: nothing is held against the server.
func (c *Client) gaveUp(ctx context.Context, call Call, err error) error {
	if ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", err, ctx.Err())
	}
	return &Unreachable{Server: call.Destination, Asked: true, Cause: err}
}

// refused reads an answer that is no success.
func (c *Client) refused(call Call, d *destination, began time.Time, resp *http.Response, cancel func()) error {
	body := &pausing{from: resp.Body, limit: idleLimit, cancel: cancel}
	defer body.stop()
	defer resp.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(body, maxErrorAnswer))
	if resp.Header.Get("Content-Encoding") == "gzip" {
		if z, err := gzip.NewReader(bytes.NewReader(raw)); err == nil {
			raw, _ = io.ReadAll(io.LimitReader(z, maxErrorAnswer))
		}
	}
	e := remoteError(call.Destination, resp.StatusCode, resp.Header, raw)
	switch {
	case e.Status == http.StatusTooManyRequests:
		d.pause(max(e.RetryAfter, firstBackoff))
	case e.Status >= 502 && e.Status <= 504 && e.silent:
		// A proxy spoke: the server behind it is down.
		d.failed(began)
	default:
		d.well()
	}
	return e
}

// roundTrip finds the server, signs and sends.
func (c *Client) roundTrip(ctx context.Context, call Call, rq request) (*http.Response, error) {
	found, err := c.locate(ctx, call.Destination)
	if err != nil {
		return nil, err
	}
	target := rq.path
	if len(rq.query) > 0 {
		target += "?" + rq.query.Encode()
	}
	var body []byte
	var header string
	if !rq.unsigned {
		if header, body, err = c.authorize(call, rq.method, target, rq.body); err != nil {
			return nil, err
		}
	} else if rq.body != nil {
		if body, err = canon.Canonicalize(nil, rq.body, canon.Lax); err != nil {
			return nil, fmt.Errorf("encode the body: %w", err)
		}
	}
	r := found.route()
	ctx = context.WithValue(ctx, routeKey{}, r)
	hr, err := http.NewRequestWithContext(ctx, rq.method, "https://"+r.pool(found.port)+target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body == nil {
		hr.Body, hr.GetBody, hr.ContentLength = nil, nil, 0
	}
	hr.Host = found.Host
	if header != "" {
		hr.Header.Set("Authorization", header)
	}
	if body != nil {
		hr.Header.Set("Content-Type", "application/json")
	}
	hr.Header.Set("User-Agent", c.agent)
	hr.Header.Set("Accept", "application/json")
	if rq.accept != "" {
		hr.Header.Set("Accept", rq.accept)
	} else {
		hr.Header.Set("Accept-Encoding", "gzip")
	}
	if rq.op != "claimUserEncryptionKeys" {
		// Tells net/http that the request may be sent again where a kept connection turns out to be closed. Nothing goes over the wire.
		hr.Header["Idempotency-Key"] = nil
	}
	return c.http.RoundTrip(hr)
}

// open turns a success into an answer with all its bounds.
func (rq request) open(resp *http.Response, cancel, end func()) (*answer, error) {
	if resp.ContentLength > rq.limit {
		resp.Body.Close()
		return nil, fmt.Errorf("%d bytes: %w", resp.ContentLength, ErrTooLarge)
	}
	patient := &pausing{from: resp.Body, limit: idleLimit, cancel: cancel}
	wire := &bounded{from: patient, left: rq.limit}
	a := &answer{header: resp.Header, body: wire}
	a.done = func() {
		patient.stop()
		resp.Body.Close()
		end()
	}
	switch encoding := strings.ToLower(resp.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(wire)
		if err != nil {
			patient.stop()
			resp.Body.Close()
			return nil, fmt.Errorf("gzip: %w", err)
		}
		a.body = &bounded{from: z, left: rq.limit}
	default:
		patient.stop()
		resp.Body.Close()
		return nil, fmt.Errorf("the encoding %.50q was not asked for", encoding)
	}
	return a, nil
}

// bounded fails with ErrTooLarge where io.LimitReader would pretend that the end is reached.
type bounded struct {
	from io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrTooLarge
	}
	// One byte more than is left tells the end of the body from too much of it.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.from.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, ErrTooLarge
	}
	return n, err
}

// pausing cancels a request whose answer stands still for too long while it is waited for.
type pausing struct {
	from   io.Reader
	limit  time.Duration
	cancel func()
	timer  *time.Timer
}

func (p *pausing) Read(b []byte) (int, error) {
	if p.timer == nil {
		p.timer = time.AfterFunc(p.limit, p.cancel)
	} else {
		p.timer.Reset(p.limit)
	}
	n, err := p.from.Read(b)
	p.timer.Stop()
	return n, err
}

func (p *pausing) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// retryAfter reads the header in seconds; dates are left to the body's retry_after_ms.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 20)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxBackoff)
}
