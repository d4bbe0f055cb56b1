package spectest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Operation is what a document says of how an operation is asked.
type Operation struct {
	ID, Method, Path string
	// Secured is true where a request without a token must be refused.
	Secured bool
	// Query are the parameters of the query, in the document's order; Headers and those of the path are left out.
	Query []Parameter
	// Body is the schema of the JSON body; nil where the operation takes none.
	Body *Shape
}

// Parameter is one of a query.
type Parameter struct {
	Name     string
	Required bool
	Shape    Shape
}

// Shape is what a schema says of one value, as far as requests can be made of it.
type Shape struct {
	// Types are JSON Schema's names; empty for anything.
	Types []string
	// Properties are those of an object by name.
	Properties map[string]*Shape
	Required   []string
	// Items is the shape of an array's entries, nil for any.
	Items *Shape
	// Examples are values that the document gives.
	Examples []any
}

// schemaText is a schema as the documents write it.
type schemaText struct {
	Type       any                    `json:"type"`
	Properties map[string]*schemaText `json:"properties"`
	Required   []string               `json:"required"`
	Items      *schemaText            `json:"items"`
	AllOf      []*schemaText          `json:"allOf"`
	Enum       []any                  `json:"enum"`
	Example    any                    `json:"example"`
	Examples   any                    `json:"examples"`
}

// Misfit is a value of another type than the shape's only one.
func (s *Shape) Misfit() any {
	switch s.Types[0] {
	case "string":
		return 5
	case "integer", "number", "boolean":
		return "text"
	case "array":
		return map[string]any{"a": 1}
	}
	return []any{1}
}

// shape reads a schema; parts of an allOf are one.
func (s *schemaText) shape() *Shape {
	out := &Shape{Required: s.Required}
	switch t := s.Type.(type) {
	case string:
		out.Types = []string{t}
	case []any:
		for _, one := range t {
			out.Types = append(out.Types, one.(string))
		}
	}
	if s.Example != nil {
		out.Examples = append(out.Examples, s.Example)
	}
	if list, ok := s.Examples.([]any); ok {
		out.Examples = append(out.Examples, list...)
	}
	out.Examples = append(out.Examples, s.Enum...)
	if s.Items != nil {
		out.Items = s.Items.shape()
	}
	for name, p := range s.Properties {
		if out.Properties == nil {
			out.Properties = make(map[string]*Shape)
		}
		out.Properties[name] = p.shape()
	}
	for _, part := range s.AllOf {
		p := part.shape()
		if len(out.Types) == 0 {
			out.Types = p.Types
		}
		out.Required = append(out.Required, p.Required...)
		if out.Properties == nil && p.Properties != nil {
			out.Properties = make(map[string]*Shape)
		}
		maps.Copy(out.Properties, p.Properties)
	}
	slices.Sort(out.Required)
	return out
}

// Operations reads the operations of a document, in the order of their paths.
func Operations(api string) ([]Operation, error) {
	text, err := os.ReadFile(filepath.Join(specFolder(), "openapi", api+".json"))
	if err != nil {
		return nil, err
	}
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("read the specification of %s: %w", api, err)
	}
	var out []Operation
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			if method == "parameters" {
				continue
			}
			op, err := readOperation(doc.Paths[path][method])
			if err != nil {
				return nil, fmt.Errorf("read %s %s of the specification: %w", method, path, err)
			}
			op.Method, op.Path = strings.ToUpper(method), path
			out = append(out, op)
		}
	}
	return out, nil
}

func readOperation(text json.RawMessage) (Operation, error) {
	var read struct {
		ID         string                       `json:"operationId"`
		Security   []map[string]json.RawMessage `json:"security"`
		Parameters []struct {
			In       string     `json:"in"`
			Name     string     `json:"name"`
			Required bool       `json:"required"`
			Example  any        `json:"example"`
			Schema   schemaText `json:"schema"`
		} `json:"parameters"`
		Body struct {
			Content map[string]struct {
				Schema schemaText `json:"schema"`
			} `json:"content"`
		} `json:"requestBody"`
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return Operation{}, err
	}
	op := Operation{ID: read.ID, Secured: len(read.Security) > 0}
	for _, way := range read.Security {
		op.Secured = op.Secured && len(way) > 0 // an empty way is none at all
	}
	for _, p := range read.Parameters {
		if p.In != "query" {
			continue
		}
		shape := p.Schema.shape()
		if p.Example != nil {
			shape.Examples = append([]any{p.Example}, shape.Examples...)
		}
		op.Query = append(op.Query, Parameter{Name: p.Name, Required: p.Required, Shape: *shape})
	}
	if body, ok := read.Body.Content["application/json"]; ok {
		op.Body = body.Schema.shape()
	}
	return op, nil
}
