package spec

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"strings"
	"sync"
)

// The APIs, as endpoints.csv names them.
const (
	ClientServer       = "client-server"
	ServerServer       = "server-server"
	ApplicationService = "application-service"
	Identity           = "identity"
	PushGateway        = "push-gateway"
)

// Operation is one operation of the specification.
type Operation struct {
	API    string // one of the constants above
	Method string // "GET"
	Path   string // with parameters in braces: "/_matrix/client/v3/rooms/{roomId}/leave"
	ID     string // operationId, unique within its API
	Auth   string // as the specification says it: "none", "access token", ...

	RateLimited bool // the specification declares a 429 response
	Deprecated  bool
	UIA         bool   // asks for user-interactive authentication
	Tag         string // the specification's group; may be empty outside the client-server API
}

//go:embed endpoints.csv
var endpointsCSV string

var operations = sync.OnceValues(func() ([]Operation, error) { return parseOperations(endpointsCSV) })

// Operations lists every operation in the order of the specification's files.
func Operations() []Operation {
	all, err := operations()
	if err != nil {
		panic(err) // The file is embedded, so a test has already failed.
	}
	return append([]Operation(nil), all...)
}

// Of lists the operations of one API.
func Of(api string) []Operation {
	var out []Operation
	for _, op := range Operations() {
		if op.API == api {
			out = append(out, op)
		}
	}
	return out
}

// parseOperations reads the columns by their names, so that an upstream file with more of them will do.
func parseOperations(text string) ([]Operation, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read the list of operations: %w", err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("the list of operations is empty")
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	for _, name := range Columns {
		if _, ok := column[name]; !ok {
			return nil, fmt.Errorf("the list of operations has no column %q", name)
		}
	}
	out := make([]Operation, 0, len(rows)-1)
	for _, row := range rows[1:] {
		get := func(name string) string { return row[column[name]] }
		out = append(out, Operation{
			API: get("api"), Method: get("method"), Path: get("path"), ID: get("operationId"), Auth: get("auth"),
			RateLimited: get("rate_limited") == "yes", Deprecated: get("deprecated") == "yes", UIA: get("uia") == "yes",
			Tag: get("tag"),
		})
	}
	return out, nil
}

// Columns are the columns of endpoints.csv, in order.
var Columns = []string{"api", "method", "path", "operationId", "auth", "rate_limited", "deprecated", "uia", "tag"}
