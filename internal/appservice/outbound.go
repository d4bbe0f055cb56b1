package appservice

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"myelin/matrix/mxerr"
)

const (
	connectTime  = 10 * time.Second
	questionTime = 10 * time.Second
	pushTime     = time.Minute
	maxAnswer    = 1 << 20 // bytes of an answer that is read
	maxShown     = 4 << 10 // bytes of an answer that is shown to whoever asked for a ping
	// maxQuestions bounds the questions to one application service at a time; more wait, not longer than questionTime.
	maxQuestions = 16
	// legacyFor is how long it is remembered that an application service knows the old paths only.
	legacyFor = time.Hour
)

// newTransport makes the connections to application services. Their URLs are the operator's, so that any address is fine.
func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: connectTime}
	return &http.Transport{
		DialContext: dialer.DialContext, TLSHandshakeTimeout: connectTime, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		MaxIdleConns: 200, MaxIdleConnsPerHost: 4, MaxConnsPerHost: maxQuestions + 2, IdleConnTimeout: 90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
	}
}

// questions are what is under way to an application service, besides transactions.
type questions struct {
	slots chan struct{}
	// heard holds one signal at most: that the application service sent a request.
	heard chan struct{}

	mu     sync.Mutex // guards legacy
	legacy time.Time  // until then only the old paths are known
}

func newQuestions() *questions {
	return &questions{slots: make(chan struct{}, maxQuestions), heard: make(chan struct{}, 1)}
}

func (q *questions) speaksLegacy() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Now().Before(q.legacy)
}

func (q *questions) noteLegacy(is bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.legacy = time.Time{}
	if is {
		q.legacy = time.Now().Add(legacyFor)
	}
}

// request is a request to an application service. path is what follows its URL, legacy what it was before it was specified, if it was.
type request struct {
	method, path, legacy string
	query                url.Values
	body                 []byte
}

// reply is what it answered.
type reply struct {
	status int
	body   []byte
}

func (r *reply) ok() bool { return r.status >= 200 && r.status < 300 }

// unknown reports whether an answer says that there is no such path. Where there is an errcode it decides.
//
// Spec: as Unknown routes
func (r *reply) unknown() bool {
	if r.status != http.StatusNotFound && r.status != http.StatusMethodNotAllowed && r.status != http.StatusNotImplemented {
		return false
	}
	code := gjson.GetBytes(r.body, "errcode").Str
	return !gjson.ValidBytes(r.body) || code == "" || code == string(mxerr.CodeUnrecognized)
}

// ask sends a question and waits its turn for that.
func (g *Registry) ask(ctx context.Context, s *Service, r request) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	select {
	case s.asks.slots <- struct{}{}:
		defer func() { <-s.asks.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return g.send(ctx, s, r)
}

// send sends a request by the path that the application service knows.
//
// Spec: as Legacy routes
func (g *Registry) send(ctx context.Context, s *Service, r request) (*reply, error) {
	old := r.legacy != "" && s.asks.speaksLegacy()
	answer, err := g.once(ctx, s, r, old)
	if old && err == nil && !answer.ok() {
		s.asks.noteLegacy(false) // what answered the first question may have been another program than what is there now
	}
	if err != nil || old || r.legacy == "" || !answer.unknown() {
		return answer, err
	}
	second, err := g.once(ctx, s, r, true)
	if err != nil || second.unknown() {
		return answer, nil // as it knows neither, the first answer is the better one
	}
	s.asks.noteLegacy(true)
	return second, nil
}

// once sends a request once.
//
// Spec: as Authorisation
func (g *Registry) once(ctx context.Context, s *Service, r request, legacy bool) (*reply, error) {
	path, query := r.path, r.query
	if legacy {
		path, query = r.legacy, url.Values{}
		for name, values := range r.query {
			query[name] = values
		}
		query.Set("access_token", s.HSToken)
	}
	target := strings.TrimSuffix(s.URL, "/") + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("make a request to the application service %s: %w", s.ID, unaddressed(err))
	}
	req.Header.Set("Authorization", "Bearer "+s.HSToken)
	req.Header.Set("User-Agent", "Myelin")
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := g.http.RoundTrip(req) // follows no redirects: the operator says where it is
	if err != nil {
		return nil, fmt.Errorf("ask the application service %s: %w", s.ID, unaddressed(err))
	}
	defer resp.Body.Close()
	answer := &reply{status: resp.StatusCode}
	if answer.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return nil, fmt.Errorf("read the answer of the application service %s: %w", s.ID, err)
	}
	if len(answer.body) > maxAnswer {
		return nil, fmt.Errorf("the answer of the application service %s has more than %d bytes", s.ID, maxAnswer)
	}
	return answer, nil
}

// unaddressed takes the URL out of an error: it may hold a token.
func unaddressed(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Ping asks an application service whether it is there, and returns how long the answer took.
//
// Spec: as ping
// Calls: as ping
// Spec: cs pingAppservice
func (g *Registry) Ping(ctx context.Context, s *Service, txn string) (time.Duration, error) {
	if s.URL == "" {
		return 0, mxerr.New(mxerr.CodeURLNotSet, "The application service has no URL.")
	}
	content := map[string]string{}
	if txn != "" {
		content["transaction_id"] = txn
	}
	body, err := json.Marshal(content)
	if err != nil {
		return 0, fmt.Errorf("encode a ping: %w", err)
	}
	start := time.Now()
	answer, err := g.ask(ctx, s, request{method: http.MethodPost, path: "/_matrix/app/v1/ping", body: body})
	took := time.Since(start)
	var timeout net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return took, mxerr.New(mxerr.CodeConnectionTimeout, "The application service did not answer in time.")
	case err != nil:
		return took, mxerr.New(mxerr.CodeConnectionFailed, "The application service can't be reached: %s.", err)
	case !answer.ok():
		shown := strings.ToValidUTF8(string(answer.body[:min(len(answer.body), maxShown)]), "\uFFFD")
		return took, mxerr.New(mxerr.CodeBadStatus, "The application service answered with status %d.", answer.status).
			With("status", answer.status).With("body", shown)
	}
	return took, nil
}
