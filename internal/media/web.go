package media

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"myelin/internal/fedclient"
	"myelin/matrix/mxerr"
)

const (
	// maxURL bounds addresses of pages and images, in bytes.
	maxURL = 4096
	// maxRedirects bounds how often a page may send us elsewhere.
	maxRedirects = 5
)

// fetchable tells whether a URL is one that is asked for at all.
func fetchable(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil && u.Opaque == ""
}

// parsePage reads the URL of a page that a user wants to see a preview of.
func parsePage(text string) (*url.URL, error) {
	if len(text) > maxURL {
		return nil, mxerr.InvalidParam("A URL has at most %d bytes here.", maxURL)
	}
	u, err := url.Parse(text)
	if err != nil || !fetchable(u) {
		return nil, mxerr.InvalidParam("The query parameter \"url\" must be an http or https URL without a user.")
	}
	u.Host, u.Fragment, u.RawFragment = strings.ToLower(u.Host), "", ""
	if u.Path == "" {
		u.Path = "/"
	}
	return u, nil
}

// get asks for a URL of the web, and follows redirects. Each goes by the transport, which connects to no private address. The answer is one of status
// 200, from the address that is returned; its body must be closed.
func (m *Media) get(ctx context.Context, at *url.URL, accept string) (*http.Response, *url.URL, error) {
	for range maxRedirects + 1 {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
		if err != nil {
			return nil, nil, fmt.Errorf("ask for a page: %w", err)
		}
		r.Header.Set("Accept", accept)
		r.Header.Set("Accept-Encoding", "gzip")
		// Some sites describe themselves to those only who say that they are programs.
		r.Header.Set("User-Agent", m.agent+" (bot; previews of links)")
		resp, err := m.web.RoundTrip(r)
		if err != nil {
			return nil, nil, err
		}
		location := resp.Header.Get("Location")
		switch resp.StatusCode {
		case http.StatusOK:
			return resp, at, nil
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			location = ""
		}
		resp.Body.Close()
		if location == "" {
			return nil, nil, mxerr.NotFound("The page could not be fetched: its server answered with status %d.", resp.StatusCode)
		}
		next, err := at.Parse(location)
		if err != nil || len(location) > maxURL || !fetchable(next) {
			return nil, nil, mxerr.NotFound("The page leads to what is no http or https URL.")
		}
		at = next
	}
	return nil, nil, mxerr.NotFound("The page leads to another one too often.")
}

// body is the content of an answer, unpacked.
func body(resp *http.Response) (io.Reader, error) {
	switch strings.ToLower(resp.Header.Get("Content-Encoding")) {
	case "", "identity":
		return resp.Body, nil
	case "gzip", "x-gzip":
		// What it unpacks to is bounded by whoever reads, and so is what is read for that: a byte of it makes a thousand at most.
		unpacked, err := gzip.NewReader(resp.Body)
		if err != nil {
			return nil, fmt.Errorf("unpack a page: %w", err)
		}
		return unpacked, nil
	}
	return nil, mxerr.NotFound("The page is packed in a way that was not asked for.")
}

// pageError says to a client why there is no preview: always by M_NOT_FOUND or M_FORBIDDEN, since the operation knows no failure of a gateway.
func pageError(err error) error {
	if _, told := mxerr.Of(err); told {
		return err
	}
	switch {
	case errors.Is(err, fedclient.ErrPrivate):
		return mxerr.Forbidden("There are no previews of pages at private addresses.")
	case errors.Is(err, context.DeadlineExceeded):
		return mxerr.NotFound("The page took too long.")
	}
	return mxerr.NotFound("The page could not be fetched.")
}
