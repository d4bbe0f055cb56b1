package words

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// MaxTerm is the most bytes of a term; a longer word is cut.
const MaxTerm = 64

// Fold makes texts equal that people take for the same: case, accents and the widths of letters go.
func Fold(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	s = norm.NFKD.String(strings.ToValidUTF8(s, " "))
	s = strings.Map(func(r rune) rune {
		if isAccent(r) || r == 0 {
			return -1
		}
		return r
	}, s)
	return norm.NFKC.String(cases.Fold().String(s))
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf || s[i] == 0 {
			return false
		}
	}
	return true
}

// accents are marks that people leave out when they type: accents, and the vowels of Hebrew and Arabic. The marks of other scripts tell letters apart.
var accents = &unicode.RangeTable{R16: []unicode.Range16{
	{Lo: 0x0300, Hi: 0x036F, Stride: 1}, {Lo: 0x0591, Hi: 0x05BD, Stride: 1}, {Lo: 0x05BF, Hi: 0x05C7, Stride: 1}, {Lo: 0x0610, Hi: 0x061A, Stride: 1},
	{Lo: 0x064B, Hi: 0x065F, Stride: 1}, {Lo: 0x1AB0, Hi: 0x1AFF, Stride: 1}, {Lo: 0x1DC0, Hi: 0x1DFF, Stride: 1}, {Lo: 0x20D0, Hi: 0x20FF, Stride: 1},
	{Lo: 0xFE00, Hi: 0xFE0F, Stride: 1}, {Lo: 0xFE20, Hi: 0xFE2F, Stride: 1},
}}

func isAccent(r rune) bool { return r >= 0x300 && unicode.Is(accents, r) && unicode.Is(unicode.Mn, r) }

// dense are scripts whose words are not, or not only, told apart by spaces.
var dense = []*unicode.RangeTable{
	unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Bopomofo, unicode.Yi, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar,
	unicode.Tibetan,
}

// class is what a character is to the splitting.
type class uint8

const (
	gap    class = iota // ends words
	letter              // of a word between gaps
	packed              // of a script without gaps
	symbol              // stands for itself, as emoji do
)

func classOf(r rune) class {
	switch {
	case r < utf8.RuneSelf:
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' {
			return letter
		}
		return gap
	case r >= 0x0E00 && (unicode.In(r, dense...) || r == 'ー' || r == '々'):
		return packed
	case unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r):
		return letter
	case unicode.Is(unicode.So, r):
		return symbol
	}
	return gap
}

// run is a piece of folded text of one class.
type run struct {
	class class
	text  string
}

// runs splits folded text. Gaps are left out, symbols stand alone.
func runs(folded string, each func(run)) {
	start, now := 0, gap
	end := func(i int) {
		if now != gap && i > start {
			each(run{now, folded[start:i]})
		}
		start = i
	}
	for i, r := range folded {
		c := classOf(r)
		if c != now || c == symbol {
			end(i)
			now = c
		}
		if c == gap {
			start = i + utf8.RuneLen(r)
		}
	}
	end(len(folded))
}

// cut shortens a word to MaxTerm bytes.
func cut(s string) string {
	if len(s) <= MaxTerm {
		return s
	}
	n := MaxTerm
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Terms calls each with every term of a folded text, in order, as often as it occurs. Of a script without spaces the terms are each
// pair of characters that follow each other, and the last one by itself: so each character begins a term.
func Terms(folded string, each func(term string)) {
	runs(folded, func(r run) {
		if r.class != packed {
			each(cut(r.text))
			return
		}
		pairs(r.text, each)
		_, n := utf8.DecodeLastRuneInString(r.text)
		each(r.text[len(r.text)-n:])
	})
}

// pairs calls each with every two characters that follow each other.
func pairs(s string, each func(pair string)) {
	last := -1
	for i := range s {
		if last >= 0 {
			_, n := utf8.DecodeRuneInString(s[i:])
			each(s[last : i+n])
		}
		last = i
	}
}

// Question is what a text must have for it to match: all of it.
type Question struct {
	// Terms must be among the text's terms.
	Terms []string
	// Begins must each begin one of the text's terms.
	Begins []string
	// Phrases must stand in the folded text.
	Phrases []string
	// Shown are the folded words as they were asked for, to be highlighted.
	Shown []string
}

// Ask makes a question of what somebody typed, with each part once.
func Ask(s string) Question {
	var q Question
	add := func(list *[]string, s string) {
		if !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	runs(Fold(s), func(r run) {
		add(&q.Shown, r.text)
		switch {
		case r.class != packed:
			add(&q.Terms, cut(r.text))
		case utf8.RuneCountInString(r.text) == 1:
			add(&q.Begins, r.text)
		default:
			pairs(r.text, func(pair string) { add(&q.Terms, pair) })
			add(&q.Phrases, r.text)
		}
	})
	return q
}

// Empty reports whether nothing was asked.
func (q *Question) Empty() bool { return len(q.Terms)+len(q.Begins) == 0 }

// Matches reports whether a folded text has all that the question asks for.
func (q *Question) Matches(folded string) bool {
	for _, p := range q.Phrases {
		if !strings.Contains(folded, p) {
			return false
		}
	}
	missing := make(map[string]bool, len(q.Terms))
	for _, t := range q.Terms {
		missing[t] = true
	}
	begun := make([]bool, len(q.Begins))
	left := len(missing) + len(begun)
	Terms(folded, func(term string) {
		if missing[term] {
			missing[term] = false
			left--
		}
		for i, b := range q.Begins {
			if !begun[i] && strings.HasPrefix(term, b) {
				begun[i] = true
				left--
			}
		}
	})
	return left == 0
}

// Phrase is a folded text with one space wherever there are none but gaps between its words.
func Phrase(s string) string {
	var b strings.Builder
	spaced := false
	for _, r := range Fold(s) {
		if classOf(r) == gap {
			spaced = true
			continue
		}
		if spaced && b.Len() > 0 {
			b.WriteByte(' ')
		}
		spaced = false
		b.WriteRune(r)
	}
	return b.String()
}

// Endings calls each with what follows the beginning of every word of a phrase, and of every character of a script without spaces, cut
// to MaxTerm: what begins with a question has it at the beginning of a word.
func Endings(phrase string, each func(string)) {
	before := gap
	for i, r := range phrase {
		c := classOf(r)
		if c != gap && (c != before || c == packed || c == symbol) {
			each(cut(phrase[i:]))
		}
		before = c
	}
}

// Cut shortens a phrase to what an ending can have.
func Cut(phrase string) string { return cut(phrase) }
