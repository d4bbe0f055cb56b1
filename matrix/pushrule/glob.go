package pushrule

import (
	"strings"
	"unicode/utf8"
)

// MaxSteps bounds the work of one evaluation on patterns, in characters compared. It is far beyond what rules
// that anybody means can use up; patterns that come after it is spent match nothing.
const MaxSteps = 4 << 20

// glob is a pattern in lower case, cut at its stars. "a*b?" is {"a", "b?"}.
//
// Spec: appendices Glob-style matching
type glob struct {
	segments []string
	plain    bool // neither star nor question mark
}

func compileGlob(pattern string) glob {
	return glob{segments: strings.Split(fold(pattern), "*"), plain: !strings.ContainsAny(pattern, "*?")}
}

// fold is our meaning of "case-insensitive": both sides in Unicode lower case.
func fold(s string) string { return strings.ToLower(s) }

// whole reports whether the pattern matches all of a folded text.
func (g glob) whole(text string, steps *int) bool {
	if g.plain {
		return text == g.segments[0]
	}
	first, last := g.segments[0], g.segments[len(g.segments)-1]
	at, ok := matchAt(first, text, 0, steps)
	if !ok {
		return false
	}
	if len(g.segments) == 1 {
		return at == len(text)
	}
	for _, segment := range g.segments[1 : len(g.segments)-1] {
		if _, at, ok = search(segment, text, at, steps); !ok {
			return false
		}
	}
	from, ok := backwards(text, utf8.RuneCountInString(last))
	if !ok || from < at {
		return false
	}
	_, ok = matchAt(last, text, from, steps)
	return ok
}

// words reports whether the pattern matches a part of a folded text that starts and ends at word
// boundaries. Taking the earliest place for each segment is enough: a segment has a fixed number of
// characters, so the earliest place leaves the most text to the next one.
func (g glob) words(text string, steps *int) bool {
	last := len(g.segments) - 1
	at := 0
	for i, segment := range g.segments {
		for {
			from, to, ok := search(segment, text, at, steps)
			if !ok {
				return false
			}
			// An empty segment before the first star fits the start of the text, one after the last star its end.
			if (i > 0 || boundary(text, from)) && (i < last || segment == "" && i > 0 || boundary(text, to)) {
				at = to
				break
			}
			if from == len(text) {
				return false
			}
			_, n := utf8.DecodeRuneInString(text[from:])
			at = from + n
		}
	}
	return true
}

// boundary reports whether a word may start or end at i: anywhere but between two word characters.
//
// Spec: cs event_match
func boundary(text string, i int) bool {
	return i == 0 || i == len(text) || !isWord(text[i-1]) || !isWord(text[i])
}

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
}

// search finds the first place of a segment at or after i.
func search(segment, text string, i int, steps *int) (from, to int, ok bool) {
	if strings.IndexByte(segment, '?') < 0 {
		at := strings.Index(text[i:], segment)
		if at < 0 {
			spend(steps, 1+(len(text)-i)/8)
			return 0, 0, false
		}
		return i + at, i + at + len(segment), spend(steps, 1+at/8)
	}
	for {
		if to, ok = matchAt(segment, text, i, steps); ok {
			return i, to, true
		}
		if i >= len(text) || *steps <= 0 {
			return 0, 0, false
		}
		_, n := utf8.DecodeRuneInString(text[i:])
		i += n
	}
}

// matchAt matches a segment at i and returns the place behind the match.
func matchAt(segment, text string, i int, steps *int) (end int, ok bool) {
	for k := 0; k < len(segment); {
		if i >= len(text) || !spend(steps, 1) {
			return 0, false
		}
		if segment[k] == '?' {
			_, n := utf8.DecodeRuneInString(text[i:])
			i += n
		} else if segment[k] == text[i] {
			i++
		} else {
			return 0, false
		}
		k++
	}
	return i, spend(steps, 1)
}

// backwards returns where the last n characters of a text start.
func backwards(text string, n int) (from int, ok bool) {
	from = len(text)
	for ; n > 0 && from > 0; n-- {
		_, size := utf8.DecodeLastRuneInString(text[:from])
		from -= size
	}
	return from, n == 0
}

func spend(steps *int, n int) bool {
	*steps -= n
	return *steps >= 0
}
