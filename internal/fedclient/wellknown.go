package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"myelin/matrix/id"
)

const (
	// How long a well-known file counts: as it says, within bounds. Spec: ss Resolving server names
	//
	// Deviates: ss Resolving server names: what asks not to be cached, or only briefly, counts for five minutes, so that no server can
	// make this one ask for each request
	wellKnownDefault = 24 * time.Hour
	wellKnownMost    = 48 * time.Hour
	wellKnownLeast   = 5 * time.Minute
	// A failure counts for wellKnownRetry, then for twice as long each time, up to wellKnownErrors, which is at once how long a definite
	// no counts.
	wellKnownRetry  = time.Minute
	wellKnownErrors = time.Hour

	wellKnownTimeout = 10 * time.Second
	maxWellKnown     = 50 << 10
	maxRedirects     = 5
)

// wellKnown is what a host's well-known file said, or why it said nothing.
type wellKnown struct {
	delegate id.ServerName
	err      error
	fetched  time.Time // when the delegate was last confirmed
	expires  time.Time
	failures int
}

// errDefinite marks answers that asking again would not change soon.
var errDefinite = errors.New("the server has no valid file")

// errMisread marks files that are there and say nothing that can be followed.
var errMisread = errors.New("it can't be followed")

// wellKnown returns what is remembered, or fetches it. The error is that of a caller who gave up.
//
// Spec: ss getWellKnown
func (c *Client) wellKnown(ctx context.Context, host string) (wellKnown, error) {
	host = strings.ToLower(host)
	old, _ := c.found.wellKnown.GetIfPresent(host)
	if time.Now().Before(old.expires) {
		return old, nil
	}
	return shared(ctx, c, "well-known "+host, func(ctx context.Context) wellKnown {
		w := c.fetchWellKnown(ctx, host, old)
		c.found.wellKnown.Set(host, w)
		return w
	})
}

func (c *Client) fetchWellKnown(ctx context.Context, host string, old wellKnown) wellKnown {
	ctx, cancel := context.WithTimeout(ctx, wellKnownTimeout)
	defer cancel()
	delegate, lifetime, err := c.readWellKnown(ctx, host)
	now := time.Now()
	if err == nil {
		return wellKnown{delegate: delegate, fetched: now, expires: now.Add(lifetime)}
	}
	w := wellKnown{err: err, failures: old.failures + 1}
	w.expires = now.Add(backoff(w.failures, wellKnownRetry, wellKnownErrors))
	if errors.Is(err, errDefinite) {
		w.expires = now.Add(wellKnownErrors)
	} else if old.delegate != "" && now.Sub(old.fetched) < wellKnownMost {
		// The web server is away for a moment. What it said counts on, as long as it could have been cached.
		w.delegate, w.fetched = old.delegate, old.fetched
	}
	return w
}

// readWellKnown gets and reads the file.
func (c *Client) readWellKnown(ctx context.Context, host string) (id.ServerName, time.Duration, error) {
	resp, err := c.fetch(ctx, "https://"+host+"/.well-known/matrix/server", "application/json")
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("the status is %d", resp.StatusCode)
		if resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests {
			err = fmt.Errorf("%w: %w", errDefinite, err)
		}
		return "", 0, err
	}
	raw, err := io.ReadAll(&bounded{from: resp.Body, left: maxWellKnown})
	if err != nil {
		if errors.Is(err, ErrTooLarge) {
			err = fmt.Errorf("%w: %w", errDefinite, err)
		}
		return "", 0, err
	}
	delegate, err := parseWellKnown(raw)
	if err != nil {
		return "", 0, fmt.Errorf("%w: %w: %w", errDefinite, errMisread, err)
	}
	return delegate, lifetime(resp.Header, time.Now()), nil
}

// parseWellKnown reads the body of a well-known file.
func parseWellKnown(raw []byte) (id.ServerName, error) {
	var file struct {
		Server *string `json:"m.server"`
	}
	if err := decodeJSON(raw, &file); err != nil {
		if _, ok := errors.AsType[*json.SyntaxError](err); ok {
			return "", errors.New("it is not JSON")
		}
		return "", err
	}
	if file.Server == nil {
		return "", errors.New("it has no m.server")
	}
	return id.ParseServerName(*file.Server)
}

// lifetime reads how long an answer may be kept.
func lifetime(h http.Header, now time.Time) time.Duration {
	keep := wellKnownDefault
	if t, err := http.ParseTime(h.Get("Expires")); err == nil {
		keep = t.Sub(now)
	}
	for directive := range strings.SplitSeq(strings.ToLower(strings.Join(h.Values("Cache-Control"), ",")), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch name {
		case "no-store", "no-cache":
			return wellKnownLeast
		case "max-age":
			if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				keep = time.Duration(n) * time.Second
			}
		}
	}
	return min(max(keep, wellKnownLeast), wellKnownMost)
}

// fetch gets a URL of the web, unsigned, and follows redirects: a few of them, over HTTPS only. Each goes through the guard
// as any connection does.
func (c *Client) fetch(ctx context.Context, address, accept string) (*http.Response, error) {
	at, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for range maxRedirects + 1 {
		if at.Scheme != "https" || at.Host == "" || at.User != nil {
			return nil, fmt.Errorf("%w: a redirect leads to %.200q, which is not an https URL", errDefinite, at.Redacted())
		}
		if at.Fragment = ""; seen[at.String()] {
			return nil, fmt.Errorf("%w: the redirects go in a circle", errDefinite)
		}
		seen[at.String()] = true
		rq, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
		if err != nil {
			return nil, err
		}
		rq.Header.Set("User-Agent", c.agent)
		rq.Header.Set("Accept", accept)
		resp, err := c.http.RoundTrip(rq)
		if err != nil {
			return nil, err
		}
		location := resp.Header.Get("Location")
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return resp, nil
		}
		resp.Body.Close()
		next, err := at.Parse(location)
		if location == "" || err != nil {
			return nil, fmt.Errorf("%w: a redirect leads nowhere", errDefinite)
		}
		at = next
	}
	return nil, fmt.Errorf("%w: there are too many redirects", errDefinite)
}
