package canon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"unicode/utf8"

	"myelin/matrix/mxerr"
)

// Canonicalize appends the canonical form of the JSON value src to dst, which must not overlap it. Of
// duplicate keys the last one counts. On failure it returns an *mxerr.Error: M_NOT_JSON for what is no JSON at all,
// M_BAD_JSON for JSON that has no canonical form under the mode.
func Canonicalize(dst, src []byte, mode Mode) ([]byte, error) {
	if !utf8.Valid(src) {
		return nil, notJSON("the JSON is not valid UTF-8")
	}
	w := writers.Get().(*writer)
	w.src, w.pos, w.out, w.mode, w.depth = src, 0, dst, mode, 0
	err := w.document()
	out := w.out
	w.src, w.out = nil, nil
	w.members, w.jumbled, w.sorted = w.members[:0], w.jumbled[:0], w.sorted[:0]
	if cap(w.scratch) <= maxKept && cap(w.members)+cap(w.sorted)+cap(w.jumbled) <= maxKept/32 {
		writers.Put(w)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Marshal encodes a Go value as canonical JSON under Strict.
func Marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return Canonicalize(make([]byte, 0, buf.Len()), buf.Bytes(), Strict)
}

// maxKept bounds the bytes of working memory that the pool keeps for the next call.
const maxKept = 256 << 10

var writers = sync.Pool{New: func() any { return new(writer) }}

// writer reads one document and writes it canonically but for the order of keys, noting which
// objects need their members moved. These moves are then done together in one copy, so that
// no nesting of objects costs more than its length.
type writer struct {
	src   []byte
	pos   int
	out   []byte
	mode  Mode
	depth int
	// members is a stack: the innermost open object owns its tail.
	members []member
	// jumbled lists the objects whose members came out of order, and sorted their members.
	jumbled []jumbled
	sorted  []member
	scratch []byte
}

// member is one `"key":value` in out.
type member struct {
	start, value, end int
	// escaped: the key holds a backslash, so its bytes do not sort as its code points do.
	escaped bool
}

// jumbled is an object at out[start:end] whose members belong in the order of sorted[from:to].
type jumbled struct{ start, end, from, to int }

func (w *writer) document() error {
	start := len(w.out)
	if err := w.value(w.space()); err != nil {
		return err
	}
	w.space()
	if w.pos != len(w.src) {
		return w.syntax("there is something after the value")
	}
	if len(w.jumbled) > 0 {
		slices.SortFunc(w.jumbled, func(a, b jumbled) int { return a.start - b.start })
		w.scratch = w.scratch[:0]
		w.move(start, len(w.out))
		w.out = append(w.out[:start], w.scratch...)
	}
	return nil
}

// space skips white space and returns the byte behind it, which it does not consume; 0 at the end.
func (w *writer) space() byte {
	src := w.src
	for i := w.pos; i < len(src); i++ {
		switch c := src[i]; c {
		case ' ', '\t', '\n', '\r':
		default:
			w.pos = i
			return c
		}
	}
	w.pos = len(src)
	return 0
}

func (w *writer) value(c byte) error {
	switch {
	case c == '"':
		_, err := w.str()
		return err
	case c == '{':
		return w.object()
	case c == '[':
		return w.array()
	case c == '-' || '0' <= c && c <= '9':
		return w.number()
	case c == 't':
		return w.literal("true")
	case c == 'f':
		return w.literal("false")
	case c == 'n':
		return w.literal("null")
	case w.pos >= len(w.src):
		return w.syntax("the JSON ends too early")
	}
	return w.syntax("a value was expected")
}

func (w *writer) literal(word string) error {
	if end := w.pos + len(word); end <= len(w.src) && string(w.src[w.pos:end]) == word {
		w.out = append(w.out, word...)
		w.pos = end
		return nil
	}
	return w.syntax("a value was expected")
}

func (w *writer) array() error {
	if err := w.enter('['); err != nil {
		return err
	}
	if w.space() == ']' {
		w.leave(']')
		return nil
	}
	for {
		if err := w.value(w.space()); err != nil {
			return err
		}
		switch w.space() {
		case ',':
			w.pos++
			w.out = append(w.out, ',')
		case ']':
			w.leave(']')
			return nil
		default:
			return w.syntax("',' or ']' was expected")
		}
	}
}

func (w *writer) enter(open byte) error {
	if w.depth++; w.depth > MaxDepth {
		return mxerr.BadJSON("the JSON nests deeper than %d levels", MaxDepth)
	}
	w.pos++
	w.out = append(w.out, open)
	return nil
}

func (w *writer) leave(closing byte) {
	w.depth--
	w.pos++
	w.out = append(w.out, closing)
}

func (w *writer) object() error {
	start := len(w.out)
	if err := w.enter('{'); err != nil {
		return err
	}
	if w.space() == '}' {
		w.leave('}')
		return nil
	}
	base, sorted := len(w.members), true
	for {
		m := member{start: len(w.out)}
		if w.space() != '"' {
			return w.syntax("a key was expected")
		}
		var err error
		if m.escaped, err = w.str(); err != nil {
			return err
		}
		if w.space() != ':' {
			return w.syntax("':' was expected")
		}
		w.pos++
		w.out = append(w.out, ':')
		m.value = len(w.out)
		if sorted && len(w.members) > base {
			sorted = w.compare(w.members[len(w.members)-1], m) < 0
		}
		if err := w.value(w.space()); err != nil {
			return err
		}
		m.end = len(w.out)
		w.members = append(w.members, m)
		switch w.space() {
		case ',':
			w.pos++
			w.out = append(w.out, ',')
		case '}':
			w.leave('}')
			if !sorted {
				w.sort(start, base)
			}
			w.members = w.members[:base]
			return nil
		default:
			return w.syntax("',' or '}' was expected")
		}
	}
}

// compare orders two members by the code points of their keys, which for UTF-8 is the order of the
// bytes.
func (w *writer) compare(a, b member) int {
	// A member begins with a quote, and `":` stands before its value.
	ka, kb := w.out[a.start+1:a.value-2], w.out[b.start+1:b.value-2]
	if a.escaped || b.escaped {
		return bytes.Compare(appendUnescaped(nil, ka), appendUnescaped(nil, kb))
	}
	return bytes.Compare(ka, kb)
}

// sort notes the order in which the members from base on belong, without all but the last of equal
// keys. Their object begins at start and has just ended.
func (w *writer) sort(start, base int) {
	members := w.members[base:]
	slices.SortStableFunc(members, w.compare)
	from := len(w.sorted)
	for i, m := range members {
		if i+1 == len(members) || w.compare(m, members[i+1]) != 0 {
			w.sorted = append(w.sorted, m)
		}
	}
	w.jumbled = append(w.jumbled, jumbled{start: start, end: len(w.out), from: from, to: len(w.sorted)})
}

// move appends out[from:to] to scratch with all members in order.
func (w *writer) move(from, to int) {
	for {
		k, _ := slices.BinarySearchFunc(w.jumbled, from, func(j jumbled, at int) int { return j.start - at })
		if k == len(w.jumbled) || w.jumbled[k].start >= to {
			w.scratch = append(w.scratch, w.out[from:to]...)
			return
		}
		j := w.jumbled[k]
		w.scratch = append(w.scratch, w.out[from:j.start]...)
		w.scratch = append(w.scratch, '{')
		for i, m := range w.sorted[j.from:j.to] {
			if i > 0 {
				w.scratch = append(w.scratch, ',')
			}
			w.move(m.start, m.end)
		}
		w.scratch = append(w.scratch, '}')
		from = j.end
	}
}

func (w *writer) syntax(what string) error {
	return notJSON("%s at byte %d", what, w.pos)
}

func notJSON(format string, args ...any) error {
	return mxerr.New(mxerr.CodeNotJSON, format, args...)
}
