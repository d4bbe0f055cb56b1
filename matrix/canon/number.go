package canon

import (
	"strconv"

	"myelin/matrix/mxerr"
)

// digits of MaxInt; a longer integer is out of range.
const maxDigits = 16

// number copies the number at pos as the mode writes it.
func (w *writer) number() error {
	src, from := w.src, w.pos
	i := from
	if src[i] == '-' {
		i++
	}
	first := i
	i = skipDigits(src, i)
	if i == first || src[first] == '0' && i > first+1 {
		return w.syntax("this is not a number")
	}
	whole := i
	if i < len(src) && src[i] == '.' {
		if i = skipDigits(src, i+1); i == whole+1 {
			return w.syntax("this is not a number")
		}
	}
	fraction := i
	if i < len(src) && src[i]|0x20 == 'e' {
		i++
		if i < len(src) && (src[i] == '+' || src[i] == '-') {
			i++
		}
		exponent := i
		if i = skipDigits(src, i); i == exponent {
			return w.syntax("this is not a number")
		}
	}
	w.pos = i
	text := src[from:i]
	if i != whole {
		return w.real(text, src[first:fraction])
	}
	return w.integer(text)
}

// integer copies a number that has neither fraction nor exponent.
func (w *writer) integer(text []byte) error {
	switch {
	case string(text) == "-0":
		if w.mode == Strict {
			return mxerr.BadJSON("negative zero is not canonical JSON")
		}
		text = text[1:]
	case w.mode != Lax && !inRange(text):
		return outOfRange(text)
	}
	w.out = append(w.out, text...)
	return nil
}

// real handles a number with a fraction or an exponent. mantissa is the part before the exponent,
// without sign.
func (w *writer) real(text, mantissa []byte) error {
	switch w.mode {
	case Lax:
		w.out = append(w.out, text...)
		return nil
	case Strict:
		return mxerr.BadJSON("numbers must be written as integers, not as %s", shorten(text))
	}
	// The value is `digits` times ten to the `exponent`.
	var digits []byte
	exponent, point := 0, false
	for _, c := range mantissa {
		switch {
		case c == '.':
			point = true
			continue
		case point:
			exponent--
		}
		if c != '0' || len(digits) > 0 {
			digits = append(digits, c)
		}
	}
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
		exponent++
	}
	if len(digits) == 0 {
		w.out = append(w.out, '0')
		return nil
	}
	negative := text[0] == '-'
	if tail := text[len(mantissa):]; negative {
		exponent += parseExponent(tail[1:])
	} else {
		exponent += parseExponent(tail)
	}
	if exponent < 0 {
		return mxerr.BadJSON("the number %s is not an integer", shorten(text))
	}
	if len(digits)+exponent > maxDigits {
		return outOfRange(text)
	}
	for range exponent {
		digits = append(digits, '0')
	}
	if !inRange(digits) {
		return outOfRange(text)
	}
	if negative {
		w.out = append(w.out, '-')
	}
	w.out = append(w.out, digits...)
	return nil
}

// parseExponent reads "e+12"; it is 0 for nothing and a huge number beyond what int holds.
func parseExponent(s []byte) int {
	if len(s) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(string(s[1:]), 10, 32)
	if err != nil {
		n = 1 << 31
		if s[1] == '-' {
			n = -n
		}
	}
	return int(n)
}

func inRange(text []byte) bool {
	if text[0] == '-' {
		text = text[1:]
	}
	if len(text) > maxDigits {
		return false
	}
	n := 0
	for _, c := range text {
		n = n*10 + int(c-'0')
	}
	return n <= MaxInt
}

func skipDigits(s []byte, i int) int {
	for i < len(s) && s[i]-'0' <= 9 {
		i++
	}
	return i
}

func outOfRange(text []byte) error {
	return mxerr.BadJSON("the number %s is outside the range of -(2^53)+1 to 2^53-1", shorten(text))
}

// shorten keeps an error's text short, whatever was sent.
func shorten(text []byte) string {
	if len(text) > 32 {
		return string(text[:32]) + "..."
	}
	return string(text)
}
