package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"time"
)

// endpoint is where the server listens.
type endpoint struct {
	address string // host and port to dial
	host    string // Host header
	prefix  string // of every path; usually empty
	tls     bool
}

func parseEndpoint(raw string) (endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return endpoint{}, fmt.Errorf("--url must be like http://127.0.0.1:8008, not %q", raw)
	}
	e := endpoint{address: u.Host, host: u.Host, prefix: trimSlash(u.Path), tls: u.Scheme == "https"}
	if u.Port() == "" {
		e.address = net.JoinHostPort(u.Hostname(), map[bool]string{false: "80", true: "443"}[e.tls])
	}
	return e, nil
}

func trimSlash(s string) string {
	for len(s) > 0 && s[len(s)-1] == '/' {
		s = s[:len(s)-1]
	}
	return s
}

// maxResponse bounds a response in bytes; an initial sync may be large.
const maxResponse = 1 << 30

// conn is one kept-alive HTTP/1.1 connection. It is dialled on first use, and again after a failure. It
// belongs to one goroutine.
type conn struct {
	at      endpoint
	timeout time.Duration // of one request, long poll included

	c       net.Conn
	release func() bool // of the function that closes c when the context ends
	r       *bufio.Reader
	out     []byte
	in      []byte
}

// do sends a request and returns the status and the body, which is valid until the next call. A request
// that failed on a connection that had been idle is sent once more, unless it is a POST.
func (c *conn) do(ctx context.Context, method, path, token string, body []byte) (status int, response []byte, err error) {
	reused := c.c != nil
	status, response, err = c.once(ctx, method, path, token, body)
	if err != nil && reused && method != "POST" && ctx.Err() == nil {
		status, response, err = c.once(ctx, method, path, token, body)
	}
	if ctx.Err() != nil {
		return 0, nil, ctx.Err()
	}
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return status, response, nil
}

func (c *conn) once(ctx context.Context, method, path, token string, body []byte) (int, []byte, error) {
	if err := c.dial(ctx); err != nil {
		return 0, nil, err
	}
	if err := c.c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		c.close()
		return 0, nil, err
	}
	c.out = append(c.out[:0], method...)
	c.out = append(c.out, ' ')
	c.out = append(c.out, c.at.prefix...)
	c.out = append(c.out, path...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: "...)
	c.out = append(c.out, c.at.host...)
	if token != "" {
		c.out = append(c.out, "\r\nAuthorization: Bearer "...)
		c.out = append(c.out, token...)
	}
	if body != nil {
		c.out = append(c.out, "\r\nContent-Type: application/json\r\nContent-Length: "...)
		c.out = strconv.AppendInt(c.out, int64(len(body)), 10)
	}
	c.out = append(c.out, "\r\n\r\n"...)
	c.out = append(c.out, body...)
	if _, err := c.c.Write(c.out); err != nil {
		c.close()
		return 0, nil, err
	}
	status, last, err := c.read()
	if err != nil || last {
		c.close()
	}
	return status, c.in, err
}

func (c *conn) dial(ctx context.Context) error {
	if c.c != nil {
		return nil
	}
	var (
		d   net.Dialer
		raw net.Conn
		err error
	)
	if c.at.tls {
		raw, err = (&tls.Dialer{NetDialer: &d}).DialContext(ctx, "tcp", c.at.address)
	} else {
		raw, err = d.DialContext(ctx, "tcp", c.at.address)
	}
	if err != nil {
		return err
	}
	c.c, c.r = raw, bufio.NewReaderSize(raw, 4096)
	c.release = context.AfterFunc(ctx, func() { raw.Close() })
	return nil
}

func (c *conn) close() {
	if c.c != nil {
		c.release()
		c.c.Close()
		c.c, c.r = nil, nil
	}
}

// read reads a response into c.in; last says that the server closes the connection after it.
func (c *conn) read() (status int, last bool, err error) {
	for {
		var length int64
		var chunked bool
		if status, length, chunked, last, err = c.head(); err != nil {
			return 0, true, err
		}
		if status < 200 {
			continue // "100 Continue" and its like announce another response
		}
		c.in = c.in[:0]
		switch {
		case status == 204 || status == 304:
		case chunked:
			err = c.chunks()
		case length >= 0:
			err = c.append(length)
		default:
			last = true
			c.in, err = io.ReadAll(io.LimitReader(c.r, maxResponse))
		}
		return status, last, err
	}
}

var errMalformed = errors.New("the response is not HTTP/1.1")

// head reads a status line and the headers that matter. The length is -1 where none is given.
func (c *conn) head() (status int, length int64, chunked, last bool, err error) {
	line, err := c.line()
	if err != nil {
		return 0, 0, false, false, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return 0, 0, false, false, errMalformed
	}
	last = line[7] == '0'
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, false, false, errMalformed
	}
	for length = -1; ; {
		if line, err = c.line(); err != nil || len(line) == 0 {
			return status, length, chunked, last, err
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil || length < 0 || length > maxResponse {
				return 0, 0, false, false, errMalformed
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("Connection")):
			last = last || bytes.EqualFold(value, []byte("close"))
		}
	}
}

// line reads a line without its end.
func (c *conn) line() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

func (c *conn) chunks() error {
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseInt(string(bytes.TrimSpace(size)), 16, 64)
		if err != nil || n < 0 || int64(len(c.in))+n > maxResponse {
			return errMalformed
		}
		if n == 0 {
			for len(line) > 0 { // trailers, then an empty line
				if line, err = c.line(); err != nil {
					return err
				}
			}
			return nil
		}
		if err := c.append(n); err != nil {
			return err
		}
		if line, err = c.line(); err != nil || len(line) > 0 {
			return errMalformed
		}
	}
}

func (c *conn) append(n int64) error {
	// Grow as bytes come, so that a wrong length costs nothing.
	for n > 0 {
		step := int(min(n, 64<<10))
		from := len(c.in)
		if cap(c.in)-from < step {
			grown := make([]byte, from, 2*cap(c.in)+step)
			copy(grown, c.in)
			c.in = grown
		}
		c.in = c.in[:from+step]
		if _, err := io.ReadFull(c.r, c.in[from:]); err != nil {
			return err
		}
		n -= int64(step)
	}
	return nil
}
