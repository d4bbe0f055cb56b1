package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"myelin/matrix/mxerr"
)

// MaxDepth is how deep arrays and objects may nest in a request's body.
const MaxDepth = 100

// Object returns the body after checking that it is one JSON object: valid UTF-8, not nested
// too deep. The bytes are as the client sent them.
func (r *Request) Object() ([]byte, error) {
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 && r.route.EmptyBody {
		return []byte("{}"), nil
	}
	if err := checkObject(body); err != nil {
		return nil, err
	}
	return body, nil
}

// Decode reads the body, a JSON object, into v. What does not fit is M_BAD_JSON with the
// field's name and what it must be; what is not JSON at all is M_NOT_JSON.
func (r *Request) Decode(v any) error {
	body, err := r.Object()
	if err != nil {
		return err
	}
	return DecodeObject(body, v)
}

// DecodeObject reads a part of a body that Request.Object has passed, such as the value of
// one of its fields, into v.
func DecodeObject(object []byte, v any) error {
	err := json.Unmarshal(object, v)
	if err == nil {
		return nil
	}
	if _, ok := mxerr.Of(err); ok {
		return err
	}
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &mistyped) {
		want := describe(fieldType(reflect.TypeOf(v), mistyped))
		if mistyped.Field == "" {
			return mxerr.BadJSON("The body must be %s.", want)
		}
		return mxerr.BadJSON("%q must be %s.", mistyped.Field, want)
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return notJSON(err)
	}
	// A field's own UnmarshalJSON or UnmarshalText refused: an identifier, most likely.
	return mxerr.BadJSON("The body has a bad value: %s.", err)
}

func checkObject(body []byte) error {
	switch {
	case len(body) == 0:
		return mxerr.New(mxerr.CodeNotJSON, "The request must have a JSON body.")
	case !utf8.Valid(body):
		return mxerr.New(mxerr.CodeNotJSON, "The body is not valid UTF-8.")
	case tooDeep(body):
		return mxerr.BadJSON("The body is nested more than %d levels deep.", MaxDepth)
	case !json.Valid(body):
		return notJSON(json.Unmarshal(body, new(json.RawMessage)))
	case body[0] != '{':
		return mxerr.BadJSON("The body must be a JSON object.")
	}
	return nil
}

func notJSON(cause error) error {
	var syntax *json.SyntaxError
	if errors.As(cause, &syntax) {
		return mxerr.New(mxerr.CodeNotJSON, "The body is not valid JSON: %s at byte %d.", syntax, syntax.Offset)
	}
	return mxerr.New(mxerr.CodeNotJSON, "The body is not valid JSON.")
}

// tooDeep counts brackets outside of strings. On bytes that are not JSON its answer is
// harmless, since those are refused anyway.
func tooDeep(body []byte) bool {
	depth := 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			for i++; i < len(body) && body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

// fieldType finds the declared type of the field that an error names, so that a number within
// an array of strings is reported as the array's fault. Where the path leads nowhere known the
// type that package json wanted stands in.
func fieldType(t reflect.Type, e *json.UnmarshalTypeError) reflect.Type {
	if e.Field == "" {
		return e.Type
	}
	for name := range strings.SplitSeq(e.Field, ".") {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Array || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		field, ok := jsonField(t, name)
		if !ok {
			return e.Type
		}
		t = field
	}
	return t
}

func jsonField(t reflect.Type, name string) (reflect.Type, bool) {
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	for _, f := range reflect.VisibleFields(t) {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == name || tag == "" && f.Name == name {
			return f.Type, true
		}
	}
	return nil, false
}

// describe says in words what JSON value fits a type.
func describe(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return describe(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "an array of " + describeMany(t.Elem())
	case reflect.Map:
		if e := t.Elem().Kind(); e != reflect.Interface && t.Elem() != reflect.TypeFor[json.RawMessage]() {
			return "an object of " + describeMany(t.Elem())
		}
		return "an object"
	case reflect.Struct:
		return "an object"
	}
	if t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64 {
		return "an integer"
	}
	return "of another type"
}

func describeMany(t reflect.Type) string {
	switch what := describe(t); what {
	case "a string":
		return "strings"
	case "true or false":
		return "booleans"
	case "a number":
		return "numbers"
	case "an integer":
		return "integers"
	case "an object":
		return "objects"
	case "of another type":
		return "values"
	default:
		return fmt.Sprintf("values, each %s", what)
	}
}
