package fedclient

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// maxStreamEvent bounds one event of an answer that is read as it arrives. It is what event.Parse reads at most.
	maxStreamEvent = 1 << 20
	// maxStreamField bounds each of the fields beside the events, and maxStreamKey a field's name.
	maxStreamField = 8 << 20
	maxStreamKey   = 1 << 10
	// maxStreamFields bounds how many fields there are.
	maxStreamFields = 100
	// maxStreamEvents bounds the events of one array.
	maxStreamEvents = 2_000_000
)

// stateAnswer says what to do with the fields of an answer that holds a room's state: elements of arrays are handed over as they arrive,
// objects are decoded, the rest is skipped. Memory is needed for one event at a time.
type stateAnswer struct {
	arrays  map[string]func(json.RawMessage) error
	objects map[string]any
}

// errStateForm is wrapped by errors of form.
var errStateForm = errors.New("it is not the expected JSON")

// takenError carries the error of whoever takes the events.
type takenError struct{ err error }

func (e *takenError) Error() string { return e.err.Error() }

func form(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errStateForm, fmt.Sprintf(format, args...))
}

// read reads one JSON object. Each array must be there, once.
func (s stateAnswer) read(from io.Reader) error {
	r := &splitter{in: bufio.NewReaderSize(from, 64<<10)}
	if err := r.want('{'); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for {
		more, err := r.more('}', len(seen) == 0)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		name, err := r.name()
		if err != nil {
			return err
		}
		if seen[name] || len(seen) == maxStreamFields {
			return form("the field %.50q stands there twice, or there are too many", name)
		}
		seen[name] = true
		if err := s.field(r, name); err != nil {
			return err
		}
	}
	for name := range s.arrays {
		if !seen[name] {
			return form("%s is missing", name)
		}
	}
	return r.end()
}

func (s stateAnswer) field(r *splitter, name string) error {
	if take, ok := s.arrays[name]; ok {
		return r.array(name, take)
	}
	raw, err := r.value(maxStreamField)
	if err != nil {
		return err
	}
	if dest, ok := s.objects[name]; ok {
		if err := decodeJSON(raw, dest); err != nil {
			return form("%s: %v", name, err)
		}
		return nil
	}
	if !json.Valid(raw) {
		return form("%.50q has no value", name)
	}
	return nil
}

// splitter cuts JSON into values by its brackets and quotes. What is inside a value is for others to check.
type splitter struct{ in *bufio.Reader }

// next skips white space and returns the next byte without taking it.
func (r *splitter) next() (byte, error) {
	for {
		b, err := r.in.ReadByte()
		if err != nil {
			return 0, cut(err)
		}
		switch b {
		case ' ', '\t', '\r', '\n':
			continue
		}
		return b, r.in.UnreadByte()
	}
}

// cut makes an end of the body where none may be an error.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// want takes one byte that must be there.
func (r *splitter) want(b byte) error {
	got, err := r.next()
	if err != nil {
		return err
	}
	if got != b {
		return form("there is %q instead of %q", got, b)
	}
	_, err = r.in.ReadByte()
	return err
}

// more takes what stands between two elements and reports whether another one follows; if not, the closing bracket is taken.
func (r *splitter) more(closing byte, first bool) (bool, error) {
	b, err := r.next()
	if err != nil {
		return false, err
	}
	switch {
	case b == closing:
		_, err = r.in.ReadByte()
		return false, err
	case first:
		return true, nil
	case b != ',':
		return false, form("there is %q instead of a comma", b)
	}
	_, err = r.in.ReadByte()
	return true, err
}

// name takes a field's name and the colon.
func (r *splitter) name() (string, error) {
	if b, err := r.next(); err != nil || b != '"' {
		if err == nil {
			err = form("a field has no name")
		}
		return "", err
	}
	raw, err := r.value(maxStreamKey)
	if err != nil {
		return "", err
	}
	var name string
	if err := json.Unmarshal(raw, &name); err != nil {
		return "", form("%v", err)
	}
	return name, r.want(':')
}

// array hands over the elements of an array of objects.
func (r *splitter) array(name string, take func(json.RawMessage) error) error {
	if err := r.want('['); err != nil {
		return err
	}
	for n := 0; ; n++ {
		more, err := r.more(']', n == 0)
		if err != nil || !more {
			return err
		}
		if n == maxStreamEvents {
			return fmt.Errorf("%s: %w", name, ErrTooLarge)
		}
		if b, err := r.next(); err != nil || b != '{' {
			if err == nil {
				err = form("%s holds what is no object", name)
			}
			return err
		}
		raw, err := r.value(maxStreamEvent)
		if err != nil {
			return err
		}
		if take == nil {
			continue
		}
		if err := take(raw); err != nil {
			return &takenError{err}
		}
	}
}

// value takes one value. It looks at the buffer in runs up to the next byte that matters.
func (r *splitter) value(limit int) ([]byte, error) {
	if _, err := r.next(); err != nil {
		return nil, err
	}
	var out []byte
	var scan valueScan
	for {
		if r.in.Buffered() == 0 {
			if _, err := r.in.Peek(1); err != nil {
				return nil, cut(err)
			}
		}
		run, _ := r.in.Peek(r.in.Buffered())
		n, done, err := scan.run(run)
		if err != nil {
			return nil, err
		}
		if len(out)+n > limit {
			return nil, fmt.Errorf("a value of more than %d bytes: %w", limit, ErrTooLarge)
		}
		if out == nil && done {
			out = make([]byte, 0, n)
		}
		out = append(out, run[:n]...)
		if _, err := r.in.Discard(n); err != nil {
			return nil, err
		}
		if done {
			return out, nil
		}
	}
}

// valueScan finds the end of a value that may come in several pieces.
type valueScan struct {
	open    []byte // the brackets that are to be closed
	inText  bool
	escaped bool
	literal bool // a number, or true, false, null
}

// run scans a piece and returns how much of it belongs to the value, and whether the value ends there.
func (v *valueScan) run(piece []byte) (n int, done bool, err error) {
	for i, b := range piece {
		if v.inText {
			switch {
			case v.escaped:
				v.escaped = false
			case b == '\\':
				v.escaped = true
			case b == '"':
				if v.inText = false; len(v.open) == 0 {
					return i + 1, true, nil
				}
			}
			continue
		}
		switch b {
		case '"':
			if v.literal {
				return 0, false, form("there is a text inside a literal")
			}
			v.inText = true
		case '{', '[':
			if v.literal {
				return 0, false, form("there is a bracket inside a literal")
			}
			if len(v.open) == maxAnswerDepth {
				return 0, false, form("it is nested too deep")
			}
			v.open = append(v.open, b+2) // '{' and '}', '[' and ']' are two apart
		case '}', ']':
			if v.literal {
				return i, true, nil
			}
			if len(v.open) == 0 || v.open[len(v.open)-1] != b {
				return 0, false, form("there is a %q too much", b)
			}
			if v.open = v.open[:len(v.open)-1]; len(v.open) == 0 {
				return i + 1, true, nil
			}
		default:
			if len(v.open) > 0 {
				continue
			}
			if b == ',' || b == ' ' || b == '\t' || b == '\r' || b == '\n' {
				if v.literal {
					return i, true, nil
				}
				return 0, false, form("a value is missing")
			}
			v.literal = true
		}
	}
	return len(piece), false, nil
}

// end makes sure that nothing follows, which also frees the connection for the next request.
func (r *splitter) end() error {
	b, err := r.next()
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil
	case err != nil:
		return err
	}
	return form("there is %q behind the end", b)
}
