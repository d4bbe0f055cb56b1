package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"

	"myelin/spec"
)

// served are the APIs that the server serves, or asks others by.
var served = []string{spec.ClientServer, spec.ServerServer, spec.ApplicationService, spec.PushGateway}

func main() {
	apis := flag.String("api", strings.Join(served, ","), "which APIs, with commas between: client-server, server-server, application-service, identity, push-gateway")
	root := flag.String("root", ".", "root of the repository")
	tested := flag.String("tested", "", "file with the operationIds that tests exercised, one per line")
	missing := flag.Bool("missing", false, "list the operations without a route")
	asJSON := flag.Bool("json", false, "print the report as JSON")
	flag.Parse()

	wrong := false
	for i, api := range strings.Split(*apis, ",") {
		if i > 0 && !*asJSON {
			fmt.Println()
		}
		r, err := build(*root, api, *tested)
		if err == nil && *asJSON {
			err = json.NewEncoder(os.Stdout).Encode(r)
		} else if err == nil {
			err = r.print(os.Stdout, *missing)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "coverage:", err)
			os.Exit(2)
		}
		wrong = wrong || len(r.Wrong) > 0
	}
	if wrong {
		os.Exit(1)
	}
}

// report is the outcome for one API.
type report struct {
	API     string   `json:"api"`
	Total   row      `json:"total"`
	Tags    []row    `json:"tags"`
	Missing []string `json:"missing"` // "GET /path operationId" neither served nor called, by tag
	Wrong   []string `json:"wrong"`   // routes that differ from their operation
}

type row struct {
	Tag        string `json:"tag"`
	Operations int    `json:"operations"`
	Served     int    `json:"served"`
	Called     int    `json:"called"` // asked of others, served or not
	Tested     int    `json:"tested"` // served or called, and a test names it
	Missing    int    `json:"missing"`
}

func build(root, api, testedFile string) (*report, error) {
	ops := spec.Of(api)
	if len(ops) == 0 {
		return nil, fmt.Errorf("there is no API %q", api)
	}
	found, err := spec.Find(os.DirFS(root), api)
	if err != nil {
		return nil, fmt.Errorf("read the routes below %s: %w", root, err)
	}
	if testedFile != "" {
		if found.Tested, err = readTested(testedFile); err != nil {
			return nil, fmt.Errorf("read the tested operations: %w", err)
		}
	}
	return compare(api, ops, found), nil
}

func readTested(file string) (spec.Mention, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := spec.Mention{}
	for _, id := range strings.Fields(string(raw)) {
		out[id] = true
	}
	return out, nil
}

func compare(api string, ops []spec.Operation, found *spec.Found) *report {
	byID := map[string]spec.Operation{}
	for _, op := range ops {
		byID[op.ID] = op
	}
	out := &report{API: api, Total: row{Tag: "total"}, Missing: []string{}, Wrong: []string{}}
	right := map[string]bool{}
	if api != spec.ClientServer && api != spec.ServerServer {
		found.Routes = nil // others serve these; operations of ours have the same names
	}
	for _, r := range found.Routes {
		if answers(r, byID[r.Op]) {
			right[r.Op] = true
		}
	}
	// Two operations of one method and path are one route.
	served := map[string]bool{}
	for id := range right {
		served[byID[id].Method+" "+byID[id].Path] = true
	}
	// An operation may have further routes, for older prefixes of its path; one must be its own.
	for _, r := range found.Routes {
		if !right[r.Op] && !elsewhere(r, api) {
			op := byID[r.Op]
			out.Wrong = append(out.Wrong, fmt.Sprintf("%s: %s is %s %s, the route says %s %s", r.File, r.Op, op.Method, op.Path, r.Method, r.Path))
		}
	}
	tags := map[string]*row{}
	for _, op := range ops {
		tag := op.Tag
		if tag == "" {
			tag = "(no tag)"
		}
		if tags[tag] == nil {
			tags[tag] = &row{Tag: tag}
		}
		for _, t := range []*row{tags[tag], &out.Total} {
			t.count(served[op.Method+" "+op.Path], found.Called[op.ID], found.Tested[op.ID])
		}
		if !served[op.Method+" "+op.Path] && !found.Called[op.ID] {
			out.Missing = append(out.Missing, fmt.Sprintf("%-47s %-6s %s  %s", tag, op.Method, op.Path, op.ID))
		}
	}
	for _, t := range tags {
		out.Tags = append(out.Tags, *t)
	}
	sort.Slice(out.Tags, func(i, j int) bool { return out.Tags[i].Tag < out.Tags[j].Tag })
	sort.Strings(out.Missing)
	return out
}

// count adds one operation.
func (r *row) count(served, called, tested bool) {
	r.Operations++
	if served {
		r.Served++
	}
	if called {
		r.Called++
	}
	switch {
	case !served && !called:
		r.Missing++
	case tested:
		r.Tested++
	}
}

// answers reports whether a route is one of the operation.
func answers(r spec.Route, op spec.Operation) bool {
	return (r.Method == "" || r.Method == op.Method) && spec.Serves(r.Path, op)
}

// elsewhere reports whether the route answers an operation of another API that has the same name.
func elsewhere(r spec.Route, api string) bool {
	return slices.ContainsFunc(spec.Operations(), func(op spec.Operation) bool {
		return op.API != api && op.ID == r.Op && answers(r, op)
	})
}

func (r *report) print(to io.Writer, missing bool) error {
	const format = "%-48s %10v %7v %7v %7v %8v\n"
	fmt.Fprintf(to, format, r.API, "operations", "served", "called", "tested", "missing")
	for _, t := range append(slices.Clip(r.Tags), r.Total) {
		if _, err := fmt.Fprintf(to, format, t.Tag, t.Operations, t.Served, t.Called, t.Tested, t.Missing); err != nil {
			return err
		}
	}
	if missing {
		fmt.Fprintf(to, "\nNeither served nor called:\n")
		for _, m := range r.Missing {
			fmt.Fprintln(to, " ", m)
		}
	}
	for _, m := range r.Wrong {
		fmt.Fprintln(to, "wrong:", m)
	}
	return nil
}
