package web

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"myelin/matrix/mxerr"
)

// maxSegments bounds the number of path segments that the router looks at.
const maxSegments = 16

// route is a Route made ready to serve.
type route struct {
	Route
	names   []string // of the path's parameters, in order
	metrics *routeMetrics
}

// router is a tree over path segments. It matches on the escaped path and unescapes each segment
// on its own, so that an escaped slash stays within its parameter.
type router struct {
	root    node
	methods []string // every method that some route serves
}

// node is what follows a path prefix. A literal child wins over a parameter; if nothing
// beneath it matches, the parameter is tried.
type node struct {
	literal map[string]*node
	param   *node
	byMethod
}

// byMethod holds the routes that end at one node: a handful, in the table's order.
type byMethod []*route

func (m byMethod) find(method string) *route {
	for _, r := range m {
		if r.Method == method {
			return r
		}
	}
	return nil
}

// add enters a route under its pattern, and under the shorter forms the pattern allows.
func (t *router) add(r *route) error {
	segments, err := parsePattern(r.Path)
	if err != nil {
		return fmt.Errorf("route %s %s: %w", r.Method, r.Path, err)
	}
	at := &t.root
	for i, s := range segments {
		last := i == len(segments)-1
		if last && (s.optional || s.name == "" && s.literal == "") {
			// The parameter or the trailing slash may be missing.
			if err := at.end(r); err != nil {
				return err
			}
		}
		if last && s.optional {
			if err := at.child("").end(r); err != nil {
				return err
			}
		}
		if s.name != "" {
			r.names = append(r.names, s.name)
			if at.param == nil {
				at.param = new(node)
			}
			at = at.param
			continue
		}
		at = at.child(s.literal)
	}
	if len(r.names) > maxParams || len(segments) > maxSegments {
		return fmt.Errorf("route %s %s: too many segments or parameters", r.Method, r.Path)
	}
	if !slices.Contains(t.methods, r.Method) {
		t.methods = append(t.methods, r.Method)
	}
	return at.end(r)
}

func (n *node) child(literal string) *node {
	if n.literal == nil {
		n.literal = make(map[string]*node)
	}
	c := n.literal[literal]
	if c == nil {
		c = new(node)
		n.literal[literal] = c
	}
	return c
}

func (n *node) end(r *route) error {
	if other := n.find(r.Method); other != nil {
		return fmt.Errorf("routes %s %s and %s match the same requests", r.Method, r.Path, other.Path)
	}
	n.byMethod = append(n.byMethod, r)
	return nil
}

type segment struct {
	literal  string
	name     string // of a parameter
	optional bool
}

func parsePattern(pattern string) ([]segment, error) {
	rest, ok := strings.CutPrefix(pattern, "/")
	if !ok {
		return nil, fmt.Errorf("a path starts with a slash")
	}
	var segments []segment
	parts := strings.Split(rest, "/")
	for i, part := range parts {
		name, isParam := strings.CutPrefix(part, "{")
		if !isParam {
			if strings.ContainsAny(part, "{}%?") || part == "" && i < len(parts)-1 {
				return nil, fmt.Errorf("bad segment %q", part)
			}
			segments = append(segments, segment{literal: part})
			continue
		}
		name, closed := strings.CutSuffix(name, "}")
		name, optional := strings.CutSuffix(name, "?")
		if !closed || name == "" || strings.ContainsAny(name, "{}?./") || optional && i < len(parts)-1 {
			return nil, fmt.Errorf("bad parameter %q", part)
		}
		segments = append(segments, segment{name: name, optional: optional})
	}
	return segments, nil
}

// match finds the route of a request and fills its parameters. Where there is none the error
// says whether the path is unknown (404) or the method is wrong (405); then allow lists the
// methods that would do.
func (t *router) match(method, escapedPath string, params *[maxParams]string) (r *route, allow []string, err error) {
	var segments [maxSegments]string
	n, err := split(escapedPath, &segments)
	if err != nil {
		return nil, nil, err
	}
	if r := t.root.match(method, segments[:n], params, 0); r != nil {
		return r, nil, nil
	}
	for _, m := range t.methods {
		if t.root.match(m, segments[:n], params, 0) != nil {
			allow = append(allow, m)
		}
	}
	if allow != nil {
		e := mxerr.New(mxerr.CodeUnrecognized, "This endpoint does not support the method.")
		return nil, allow, Status(e, http.StatusMethodNotAllowed)
	}
	return nil, nil, errUnknownPath
}

var (
	errUnknownPath = mxerr.New(mxerr.CodeUnrecognized, "There is no such endpoint.")
	errElsewhere   = mxerr.New(mxerr.CodeUnrecognized, "This endpoint is served on another port.")
)

// match walks down the tree. Backtracking is bounded by the pattern's depth: at each node at
// most two ways are tried, and the tables of the specification make both succeed nowhere.
func (n *node) match(method string, segments []string, params *[maxParams]string, used int) *route {
	if len(segments) == 0 {
		return n.find(method)
	}
	if c := n.literal[segments[0]]; c != nil {
		if r := c.match(method, segments[1:], params, used); r != nil {
			return r
		}
	}
	if n.param == nil || segments[0] == "" || used == maxParams {
		return nil
	}
	params[used] = segments[0]
	return n.param.match(method, segments[1:], params, used+1)
}

// split takes an escaped path apart and unescapes each segment.
func split(escapedPath string, segments *[maxSegments]string) (int, error) {
	rest, ok := strings.CutPrefix(escapedPath, "/")
	if !ok {
		return 0, errUnknownPath
	}
	for n := 0; n < maxSegments; n++ {
		part, after, more := strings.Cut(rest, "/")
		if strings.IndexByte(part, '%') >= 0 {
			plain, err := url.PathUnescape(part)
			if err != nil {
				return 0, mxerr.InvalidParam("The path is not well formed.")
			}
			part = plain
		}
		if !cleanText(part) {
			return 0, mxerr.InvalidParam("The path must be valid UTF-8 without NUL.")
		}
		segments[n] = part
		if !more {
			return n + 1, nil
		}
		rest = after
	}
	return 0, errUnknownPath
}
