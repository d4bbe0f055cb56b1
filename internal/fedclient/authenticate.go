package fedclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

const (
	// authenticateTimeout bounds how long a request waits for its sender's keys.
	authenticateTimeout = 20 * time.Second
	// maxGuesses bounds the names of ours that are tried for a request that doesn't say which one it is for.
	maxGuesses = 8
)

// Authenticate finds out which server sent a request, from an address, and to which name of ours. Body reads all of the request's body: it is called last, when
// the header promises something and the key that signed is at hand.
// The error is an *mxerr.Error: M_UNAUTHORIZED where the signature doesn't prove anything, M_FORBIDDEN for a server
// we don't speak with, M_LIMIT_EXCEEDED where too many keys are being fetched for requests from the address. A success counts as Heard.
//
// Spec: ss Request Authentication
func (c *Client) Authenticate(ctx context.Context, r *http.Request, from netip.Addr, body func() ([]byte, error)) (origin, destination id.ServerName, err error) {
	all, err := allCredentials(r.Header.Values("Authorization"))
	if err != nil {
		return "", "", unauthorized("The Authorization header is not valid: %v.", err)
	}
	origin = all[0].origin
	if !c.Permitted(origin) {
		return "", "", mxerr.Forbidden("This server does not federate with %s.", origin)
	}
	if c.ours.Is(origin) {
		return "", "", unauthorized("%s is a name of this server.", origin)
	}
	names, err := c.destinations(all[0].destination, r.Host)
	if err != nil {
		return "", "", err
	}
	ids := make([]sign.KeyID, len(all))
	for i, one := range all {
		ids[i] = one.key
	}
	w := want{server: origin, ids: ids, at: time.Now().UnixMilli(), strict: true, request: true}
	if err := c.signersKeys(ctx, w, from); err != nil {
		return "", "", fmt.Errorf("fetch the keys of %s: %w", origin, err)
	}
	keys := c.valid(w)
	if len(keys) == 0 {
		return "", "", unauthorized("The key that signed the request can't be had from %s.", origin)
	}
	raw, err := body()
	if err != nil {
		return "", "", err
	}
	contents, err := canonicalContents(raw)
	if err != nil {
		return "", "", err
	}
	for _, name := range names {
		for _, content := range contents {
			message := signedRequest(r.Method, requestTarget(r), origin, name, content)
			for _, one := range all {
				public, ok := keys[one.key]
				if ok && sign.VerifyBytes(message, one.signature, string(origin), one.key, public) == nil {
					c.Heard(origin)
					return origin, name, nil
				}
			}
		}
	}
	return "", "", unauthorized("The signature of the request is wrong.")
}

// signersKeys waits for keys for a while. That they were not to be had is no error.
func (c *Client) signersKeys(ctx context.Context, w want, from netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, authenticateTimeout)
	defer cancel()
	err := c.obtain(ctx, c.ring.requestsFrom(from), []want{w}, nil)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func unauthorized(format string, args ...any) *mxerr.Error {
	return mxerr.New(mxerr.CodeUnauthorized, format, args...)
}

// allCredentials reads the X-Matrix headers: a sender with several keys may send one for each. They must agree on the rest.
func allCredentials(headers []string) ([]credentials, error) {
	var all []credentials
	for _, header := range headers[:min(len(headers), maxAuthorizations)] {
		one, err := parseAuthorization(header)
		if errors.Is(err, errOtherScheme) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(all) > 0 && (one.origin != all[0].origin || one.destination != all[0].destination) {
			return nil, errors.New("several headers disagree")
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, errOtherScheme
	}
	return all, nil
}

// destinations lists the names of ours that a request may be meant for: the one it says, else that of the Host header, else any.
// Only senders from before the parameter existed leave it out.
func (c *Client) destinations(said id.ServerName, host string) ([]id.ServerName, error) {
	switch {
	case said == "":
		if c.ours.Is(id.ServerName(host)) {
			return []id.ServerName{id.ServerName(host)}, nil
		}
		names := c.ours.Names()
		return names[:min(len(names), maxGuesses)], nil
	case c.ours.Is(said):
		return []id.ServerName{said}, nil
	}
	return nil, unauthorized("The request is for %s, which is not this server.", said)
}

// requestTarget is the path and query exactly as they came.
func requestTarget(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

// canonicalContents gives the forms in which a sender may have signed a body: with numbers in their shortest form, as the
// specification has it, or as they are written, as servers do that know other numbers than integers.
func canonicalContents(body []byte) ([][]byte, error) {
	if len(body) == 0 {
		return [][]byte{nil}, nil
	}
	written, err := canon.Canonicalize(make([]byte, 0, len(body)), body, canon.Lax)
	if err != nil {
		return nil, err
	}
	shortest, err := canon.Canonicalize(make([]byte, 0, len(body)), body, canon.Integral)
	if err != nil || slices.Equal(shortest, written) {
		return [][]byte{written}, nil
	}
	return [][]byte{shortest, written}, nil
}
