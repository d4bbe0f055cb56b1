package canon

import (
	"unicode/utf16"
	"unicode/utf8"
)

// plain marks the bytes that stand for themselves inside a string.
var plain = func() (t [256]bool) {
	for i := range t {
		t[i] = i >= 0x20 && i != '"' && i != '\\'
	}
	return t
}()

// str copies the string at pos in its canonical spelling and reports whether that has a
// backslash.
func (w *writer) str() (escaped bool, err error) {
	src, from := w.src, w.pos
	i := from + 1
	for {
		for i < len(src) && plain[src[i]] {
			i++
		}
		switch {
		case i >= len(src):
			w.pos = i
			return false, w.syntax("the JSON ends inside a string")
		case src[i] == '"':
			w.out = append(w.out, src[from:i+1]...)
			w.pos = i + 1
			return escaped, nil
		case src[i] < 0x20:
			w.pos = i
			return false, w.syntax("a string holds a bare control character")
		}
		w.out = append(w.out, src[from:i]...)
		n := len(w.out)
		if i, err = w.escape(i); err != nil {
			return false, err
		}
		escaped = escaped || w.out[n] == '\\'
		from = i
	}
}

// escape rewrites the escape sequence at i and returns the place behind it.
func (w *writer) escape(i int) (int, error) {
	w.pos = i
	if i+1 >= len(w.src) {
		return 0, w.syntax("the JSON ends inside a string")
	}
	r, ok := shortEscape(w.src[i+1])
	if ok {
		w.out = appendRune(w.out, r)
		return i + 2, nil
	}
	if w.src[i+1] != 'u' {
		return 0, w.syntax("there is no such escape sequence")
	}
	r, ok = hex4(w.src, i+2)
	if !ok {
		return 0, w.syntax("\\u needs four hexadecimal digits")
	}
	i += 6
	if utf16.IsSurrogate(r) {
		var low rune
		if i+1 < len(w.src) && w.src[i] == '\\' && w.src[i+1] == 'u' {
			low, _ = hex4(w.src, i+2)
		}
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return 0, w.syntax("a surrogate stands alone")
		}
		i += 6
	}
	w.out = appendRune(w.out, r)
	return i, nil
}

// shortEscape decodes the byte behind a backslash, except for "u".
func shortEscape(c byte) (rune, bool) {
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	return 0, false
}

func hex4(s []byte, at int) (rune, bool) {
	if at+4 > len(s) {
		return 0, false
	}
	var r rune
	for _, c := range s[at : at+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// AppendString appends s as a canonical JSON string. Bytes that are not UTF-8 become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from, i := 0, 0
	for i < len(s) {
		if c := s[i]; c < utf8.RuneSelf {
			if !plain[c] {
				dst = append(dst, s[from:i]...)
				dst = appendRune(dst, rune(c))
				from = i + 1
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			dst = append(dst, s[from:i]...)
			dst = utf8.AppendRune(dst, utf8.RuneError)
			from = i + 1
		}
		i += n
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

// appendRune appends one code point as it stands inside a canonical string.
func appendRune(dst []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	if r < 0x20 {
		return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
	}
	return utf8.AppendRune(dst, r)
}

// appendUnescaped appends the text of a valid string whose quotes are already off.
func appendUnescaped(dst, s []byte) []byte {
	for i := 0; i < len(s); {
		if s[i] != '\\' || i+1 >= len(s) {
			dst = append(dst, s[i])
			i++
			continue
		}
		if r, ok := shortEscape(s[i+1]); ok {
			dst = append(dst, byte(r))
			i += 2
			continue
		}
		r, _ := hex4(s, i+2)
		i += 6
		if utf16.IsSurrogate(r) {
			low, _ := hex4(s, i+2)
			r = utf16.DecodeRune(r, low)
			i += 6
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}
