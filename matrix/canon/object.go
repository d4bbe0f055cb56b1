package canon

import (
	"bytes"
	"iter"
	"unsafe"
)

// The functions here take a valid JSON object, such as Canonicalize's result. On anything else
// they end early, without panic, and their answer means nothing.

// Fields walks the top-level members of a valid object in the order they are written. Keys come unescaped; a
// key without escapes, and every value, shares the object's memory.
func Fields(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		i := skipSpace(object, 0)
		if i >= len(object) || object[i] != '{' {
			return
		}
		for i++; ; i++ {
			i = skipSpace(object, i)
			if i >= len(object) || object[i] != '"' {
				return
			}
			end := skipString(object, i)
			key := object[i+1 : max(end-1, i+1)]
			i = skipSpace(object, end)
			if i >= len(object) || object[i] != ':' {
				return
			}
			i = skipSpace(object, i+1)
			end = skipValue(object, i)
			if end == i || !yield(keyText(key), object[i:end:end]) {
				return
			}
			i = skipSpace(object, end)
			if i >= len(object) || object[i] != ',' {
				return
			}
		}
	}
}

// Elements walks the elements of a valid array. They share the array's memory.
func Elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		i := skipSpace(array, 0)
		if i >= len(array) || array[i] != '[' {
			return
		}
		for i++; ; i++ {
			i = skipSpace(array, i)
			end := skipValue(array, i)
			if end == i || !yield(array[i:end:end]) {
				return
			}
			i = skipSpace(array, end)
			if i >= len(array) || array[i] != ',' {
				return
			}
		}
	}
}

// Get finds the raw value of a top-level key; the last one, should the key stand there twice.
func Get(object []byte, key string) (value []byte, ok bool) {
	for k, v := range Fields(object) {
		if k == key {
			value, ok = v, true
		}
	}
	return value, ok
}

// Text decodes a valid JSON string, and reports false for any other kind of value. Without escapes the
// result shares the memory of raw.
func Text(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	return keyText(raw[1 : len(raw)-1]), true
}

// GetText finds a top-level string.
func GetText(object []byte, key string) (string, bool) {
	raw, _ := Get(object, key)
	return Text(raw)
}

// Without appends a canonical object without some of its keys; the result is canonical.
func Without(dst, object []byte, keys ...string) []byte {
	dst = append(dst, '{')
	first := true
	for k, v := range Fields(object) {
		if containsKey(keys, k) {
			continue
		}
		dst = appendMember(dst, k, v, first)
		first = false
	}
	return append(dst, '}')
}

// With appends a canonical object with one key set; the result is canonical if raw is.
func With(dst, object []byte, key string, raw []byte) []byte {
	dst = append(dst, '{')
	first, done := true, false
	for k, v := range Fields(object) {
		if !done && k >= key {
			dst = appendMember(dst, key, raw, first)
			first, done = false, true
		}
		if k != key {
			dst = appendMember(dst, k, v, first)
			first = false
		}
	}
	if !done {
		dst = appendMember(dst, key, raw, first)
	}
	return append(dst, '}')
}

func appendMember(dst []byte, key string, raw []byte, first bool) []byte {
	if !first {
		dst = append(dst, ',')
	}
	dst = AppendString(dst, key)
	dst = append(dst, ':')
	return append(dst, raw...)
}

func containsKey(keys []string, key string) bool {
	for _, k := range keys {
		if k == key {
			return true
		}
	}
	return false
}

// keyText unescapes the inside of a string, or shows it as a string without a copy.
func keyText(inside []byte) string {
	if bytes.IndexByte(inside, '\\') >= 0 {
		inside = appendUnescaped(make([]byte, 0, len(inside)), inside)
	}
	return unsafe.String(unsafe.SliceData(inside), len(inside))
}

func skipSpace(s []byte, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\n' || s[i] == '\t' || s[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the place behind the string that opens at i.
func skipString(s []byte, i int) int {
	for i++; i < len(s); i++ {
		switch s[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return len(s)
}

// skipValue returns the place behind the value at i, or i where there is none.
func skipValue(s []byte, i int) int {
	depth := 0
	for i < len(s) {
		switch s[i] {
		case '"':
			i = skipString(s, i)
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
			i++
		case ',', ':', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
			i++
			continue
		default:
			for i < len(s) && !isDelimiter(s[i]) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
	return len(s)
}

func isDelimiter(c byte) bool {
	switch c {
	case ',', ':', '}', ']', '{', '[', '"', ' ', '\n', '\t', '\r':
		return true
	}
	return false
}
