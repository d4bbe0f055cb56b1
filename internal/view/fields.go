package view

import (
	"strings"

	"github.com/tidwall/gjson"

	"myelin/matrix/canon"
)

// required are the fields that every event has in the format of the specification: without them clients
// can't do. A content of which nothing is asked for is shown empty.
//
// Spec: cs Room event format
var required = []string{"event_id", "type", "sender", "origin_server_ts", "state_key", "room_id"}

// keepFields returns the event with only the fields at the dot-separated paths and those that are required.
//
// Spec: appendices Dot-separated property paths
func keepFields(object []byte, paths []string) []byte {
	tree := fieldTree{"content": nil}
	for _, p := range append(required[:len(required):len(required)], paths...) {
		tree.add(splitPath(p))
	}
	return tree.pick(gjson.ParseBytes(object))
}

// fieldTree holds the paths to keep; an empty subtree keeps everything below, nil nothing.
type fieldTree map[string]fieldTree

func (t fieldTree) add(path []string) {
	if len(path) == 0 {
		return
	}
	sub := t[path[0]]
	switch {
	case sub != nil && len(sub) == 0:
		return // the whole field is kept already
	case sub == nil:
		sub = make(fieldTree)
		t[path[0]] = sub
	case len(path) == 1:
		clear(sub)
	}
	sub.add(path[1:])
}

// pick copies what the tree keeps of an object.
func (t fieldTree) pick(object gjson.Result) []byte {
	out := []byte{'{'}
	object.ForEach(func(key, value gjson.Result) bool {
		sub, ok := t[key.Str]
		if !ok {
			return true
		}
		raw := []byte(value.Raw)
		if sub == nil || len(sub) > 0 {
			if !value.IsObject() {
				return true
			}
			raw = sub.pick(value)
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(canon.AppendString(out, key.Str), ':'), raw...)
		return true
	})
	return append(out, '}')
}

// splitPath splits at dots that are not escaped.
func splitPath(path string) []string {
	var parts []string
	var part strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			part.WriteByte(path[i])
		case c == '.':
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteByte(c)
		}
	}
	return append(parts, part.String())
}
