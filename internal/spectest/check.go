package spectest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"myelin/matrix/id"
)

// specFolder is where the specification's data is, next to the repository.
func specFolder() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "..", "..", "..", "shared", "spec")
}

// APIs are the documents that answers are compared with.
var APIs = []string{"client-server", "server-server"}

// checker holds the specification's OpenAPI documents and the schemas that were needed so far.
type checker struct {
	folder string
	roots  map[string]*pathNode // by method

	mu        sync.Mutex
	schemas   map[string]*jsonschema.Schema // by API, operation and status; guarded by mu
	exercised map[string]map[int]int        // API and operation to status to number of answers; guarded by mu
}

// operation is what the document says of one.
type operation struct {
	API       string `json:"-"`
	ID        string `json:"operationId"`
	Responses map[string]struct {
		Content map[string]struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"content"`
	} `json:"responses"`
}

// pathNode is a tree of path segments; "{}" is any parameter.
type pathNode struct {
	next map[string]*pathNode
	op   *operation
}

var loadChecker = sync.OnceValues(func() (*checker, error) {
	c := &checker{
		folder: specFolder(), roots: make(map[string]*pathNode),
		schemas: make(map[string]*jsonschema.Schema), exercised: make(map[string]map[int]int),
	}
	for _, api := range APIs {
		if err := c.load(api); err != nil {
			return nil, err
		}
	}
	return c, nil
})

// load reads one of the documents.
func (c *checker) load(api string) error {
	text, err := os.ReadFile(filepath.Join(c.folder, "openapi", api+".json"))
	if err != nil {
		return err
	}
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("read the specification of %s: %w", api, err)
	}
	for path, methods := range doc.Paths {
		for method, raw := range methods {
			if method == "parameters" {
				continue
			}
			op := &operation{API: api}
			if err := json.Unmarshal(raw, op); err != nil {
				return fmt.Errorf("read %s %s of the specification: %w", method, path, err)
			}
			method = strings.ToUpper(method)
			if c.roots[method] == nil {
				c.roots[method] = new(pathNode)
			}
			c.roots[method].add(path, op)
		}
	}
	return nil
}

func (n *pathNode) add(path string, op *operation) {
	for _, s := range strings.Split(path, "/") {
		if strings.HasPrefix(s, "{") {
			s = "{}"
		}
		if n.next == nil {
			n.next = make(map[string]*pathNode)
		}
		if n.next[s] == nil {
			n.next[s] = new(pathNode)
		}
		n = n.next[s]
	}
	n.op = op
}

func (n *pathNode) find(segments []string) *operation {
	if len(segments) == 0 {
		return n.op
	}
	if c := n.next[segments[0]]; c != nil {
		if op := c.find(segments[1:]); op != nil {
			return op
		}
	}
	if c := n.next["{}"]; c != nil {
		return c.find(segments[1:])
	}
	return nil
}

// operationOf finds the operation of a request, nil if the specification has none. Paths of the
// first specification (r0) count as those of v3.
func (c *checker) operationOf(method, path string) *operation {
	root := c.roots[method]
	if root == nil {
		return nil
	}
	path, _, _ = strings.Cut(path, "?")
	path = strings.Replace(path, "/_matrix/client/r0/", "/_matrix/client/v3/", 1)
	path = strings.Replace(path, "/_matrix/media/r0/", "/_matrix/media/v3/", 1)
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if plain, err := url.PathUnescape(s); err == nil {
			segments[i] = plain
		}
	}
	return root.find(segments)
}

// Answer is a response as it came.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Missing says why answers can't be compared with the documents; nil where they can.
func Missing() error {
	_, err := loadChecker()
	return err
}

// Check fails the test where an answer is not what the specification allows. The path is absolute; it may have a query.
func Check(tb testing.TB, method, path string, a Answer) {
	tb.Helper()
	c, err := loadChecker()
	// Without the documents nobody knows where it is specified that another server failed.
	if a.Status == http.StatusInternalServerError || a.Status > 500 && err == nil && !c.describes(method, path, a.Status) {
		tb.Errorf("%s %s: status %d %s", method, path, a.Status, clip(a.Body))
	}
	if method != http.MethodOptions && a.Status >= 400 {
		checkError(tb, method, path, a)
	}
	if a.Header.Get("Access-Control-Allow-Origin") != "*" {
		tb.Errorf("%s %s: no CORS headers", method, path)
	}
	if err != nil {
		if os.Getenv("MYELIN_REQUIRE") == "all" {
			tb.Fatalf("responses cannot be checked: %v", err)
		}
		return
	}
	if err := c.check(method, path, a); err != nil {
		tb.Errorf("%s %s: status %d is not as specified: %v\n%s", method, path, a.Status, err, clip(a.Body))
	}
}

// describes reports whether the specification has a status for an operation: that another server failed, for example.
func (c *checker) describes(method, path string, status int) bool {
	op := c.operationOf(method, path)
	if op == nil {
		return false
	}
	_, ok := op.Responses[strconv.Itoa(status)]
	return ok
}

// Spec: cs Standard error response
func checkError(tb testing.TB, method, path string, a Answer) {
	tb.Helper()
	var e struct {
		Code    string  `json:"errcode"`
		Error   *string `json:"error"`
		Flows   present `json:"flows"`
		Session string  `json:"session"`
		Wait    *int64  `json:"retry_after_ms"`
	}
	if err := json.Unmarshal(a.Body, &e); err != nil {
		tb.Errorf("%s %s: status %d without a JSON object: %s", method, path, a.Status, clip(a.Body))
		return
	}
	if e.Flows && a.Status == http.StatusUnauthorized {
		return // user-interactive authentication
	}
	// Proposals put a namespace before the codes of theirs.
	if !strings.HasPrefix(e.Code, "M_") && !strings.Contains(e.Code, ".M_") || e.Error == nil || *e.Error == "" {
		tb.Errorf("%s %s: status %d without errcode and error: %s", method, path, a.Status, clip(a.Body))
	}
	if a.Status == http.StatusTooManyRequests {
		if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 1 || e.Wait == nil {
			tb.Errorf("%s %s: status 429 with Retry-After %q: %s", method, path, a.Header.Get("Retry-After"), clip(a.Body))
		}
	}
}

// present is true where a key is present.
type present bool

func (p *present) UnmarshalJSON([]byte) error { *p = true; return nil }

// check compares an answer with the schema of its operation and status, and notes that it was seen.
func (c *checker) check(method, path string, a Answer) error {
	op := c.operationOf(method, path)
	if op == nil {
		return nil
	}
	name := op.API + " " + op.ID
	c.mu.Lock()
	if c.exercised[name] == nil {
		c.exercised[name] = make(map[int]int)
	}
	c.exercised[name][a.Status]++
	c.mu.Unlock()

	described, ok := op.Responses[strconv.Itoa(a.Status)]
	if !ok {
		if a.Status < 300 {
			return errors.New("the specification has no such status")
		}
		return nil // errors of any kind may occur; checkError looked at it
	}
	kind, _, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil {
		return fmt.Errorf("Content-Type: %w", err)
	}
	content, ok := described.Content[kind]
	if !ok {
		if _, any := described.Content["*/*"]; any || len(described.Content) == 0 {
			return nil
		}
		return fmt.Errorf("Content-Type %s", kind)
	}
	if len(content.Schema) == 0 || kind != "application/json" {
		return nil
	}
	if a.Status == http.StatusUnauthorized && !bytes.Contains(a.Body, []byte(`"flows"`)) {
		return nil // no token, or a wrong one: where the document describes interactive authentication it means that alone
	}
	schema, err := c.schema(name+"/"+strconv.Itoa(a.Status), content.Schema)
	if err != nil {
		return err
	}
	body, err := jsonschema.UnmarshalJSON(bytes.NewReader(a.Body))
	if err != nil {
		return err
	}
	if err := schema.Validate(body); err != nil {
		return err
	}
	return c.checkInside(body)
}

// formats are those of the specification's own that say something about a text.
var formats = map[string]func(string) error{
	"mx-user-id":     parses(id.ParseUserID),
	"mx-room-id":     parses(id.ParseRoomID),
	"mx-room-alias":  parses(id.ParseRoomAlias),
	"mx-event-id":    parses(id.ParseEventID),
	"mx-server-name": parses(id.ParseServerName),
}

func parses[T any](parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		_, err := parse(s)
		return err
	}
}

// schema compiles a schema once.
func (c *checker) schema(name string, text json.RawMessage) (*jsonschema.Schema, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.schemas[name]; s != nil {
		return s, nil
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read the schema of %s: %w", name, err)
	}
	strip(doc)
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	for format, check := range formats {
		compiler.RegisterFormat(&jsonschema.Format{Name: format, Validate: func(v any) error {
			if s, ok := v.(string); ok {
				return check(s)
			}
			return nil
		}})
	}
	location := "https://spec.invalid/" + url.PathEscape(name)
	if err := compiler.AddResource(location, doc); err != nil {
		return nil, fmt.Errorf("read the schema of %s: %w", name, err)
	}
	s, err := compiler.Compile(location)
	if err != nil {
		return nil, fmt.Errorf("compile the schema of %s: %w", name, err)
	}
	c.schemas[name] = s
	return s, nil
}

// strip removes what is no schema and would be read as one: the dialect that inlined parts name, and examples. It
// also lets an answer match several of the forms an operation has: a state event is an object as well.
func strip(v any) {
	switch v := v.(type) {
	case map[string]any:
		if forms, ok := v["oneOf"].([]any); ok {
			v["anyOf"] = forms
			delete(v, "oneOf")
		}
		for _, k := range []string{"$schema", "$id"} {
			if _, isText := v[k].(string); isText {
				delete(v, k)
			}
		}
		if _, isSchema := v["properties"].(map[string]any); !isSchema {
			delete(v, "example")
		}
		for _, inner := range v {
			strip(inner)
		}
	case []any:
		for _, inner := range v {
			strip(inner)
		}
	}
}

// made are the types of what the server writes itself, so that it must match the event's schema. Events that
// clients write may hold anything.
var made = []string{"m.receipt", "m.typing", "m.presence", "m.fully_read", "m.tag"}

// checkInside finds ephemeral events and account data in a body and compares them with their schemas.
func (c *checker) checkInside(v any) error {
	switch v := v.(type) {
	case map[string]any:
		typ, _ := v["type"].(string)
		if _, hasContent := v["content"]; hasContent && slices.Contains(made, typ) {
			return c.checkEvent(typ, v)
		}
		for _, inner := range v {
			if err := c.checkInside(inner); err != nil {
				return err
			}
		}
	case []any:
		for _, inner := range v {
			if err := c.checkInside(inner); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) checkEvent(typ string, event any) error {
	text, err := os.ReadFile(filepath.Join(c.folder, "event-schemas", typ+".json"))
	if err != nil {
		return err
	}
	schema, err := c.schema("event "+typ, text)
	if err != nil {
		return err
	}
	if err := schema.Validate(event); err != nil {
		return fmt.Errorf("event %s: %w", typ, err)
	}
	return nil
}

// Exercised returns how often each operation of an API was answered so far, by status.
func Exercised(api string) map[string]map[int]int {
	c, err := loadChecker()
	if err != nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]map[int]int, len(c.exercised))
	for name, statuses := range c.exercised {
		op, ok := strings.CutPrefix(name, api+" ")
		if !ok {
			continue
		}
		out[op] = make(map[int]int, len(statuses))
		for status, n := range statuses {
			out[op][status] = n
		}
	}
	return out
}

func clip(b []byte) string {
	if len(b) > 1500 {
		return string(b[:1500]) + "…"
	}
	return string(b)
}
