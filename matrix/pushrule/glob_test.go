package pushrule

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func whole(pattern, s string) bool {
	steps := MaxSteps
	return compileGlob(pattern).whole(fold(s), &steps)
}

func words(pattern, s string) bool {
	steps := MaxSteps
	return compileGlob(pattern).words(fold(s), &steps)
}

// The examples of the specification stand first.
//
// Spec: cs event_match
func TestGlobWhole(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"lunc?*", "Lunch plans", true}, {"lunc?*", "LUNCH", true}, {"lunc?*", " lunch", false}, {"lunc?*", "lunc", false},
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "anything", true}, {"?", "", false}, {"?", "é", true}, {"??", "é", false},
		{"a*b", "ab", true}, {"a*b", "a b c b", true}, {"a*b", "abc", false}, {"ab*bc", "abc", false}, {"*a*a*", "a", false}, {"*a*a*", "xaya", true},
		{"ÉTÉ", "été", true}, {"[ab]", "a", false}, {"a.c", "abc", false}, {`a\*`, "a*", false}, {"m.*.text", "m.room.text", true},
		{"*?b", "ab", true}, {"*?b", "b", false}, {"a?*?b", "axxb", true}, {"a?*?b", "axb", false},
	} {
		if got := whole(c.pattern, c.text); got != c.want {
			t.Errorf("whole(%q, %q) = %v", c.pattern, c.text, got)
		}
	}
}

func TestGlobWords(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"ex*ple", "An example event.", true}, {"ex*ple", "exple", true}, {"ex*ple", "An exciting triple-whammy", true},
		{"cake", "I like cake!", true}, {"cake", "cakes", false}, {"cake", "pancake", false}, {"cake", "pancake cake", true},
		{"cake", "cakecake cake_ cake", true}, {"cake", "_cake", false}, {"cake", "CAKE", true}, {"cake", "é​cake", true}, {"cake", "écake", true},
		{"@room", "hey @room", true}, {"@room", "hey@room", true}, {"@room", "@rooms", false},
		{"ca?e", "a cane", true}, {"ca?e", "a canes", false}, {"?", "a", true}, {"?", "ab", false}, {"?", "ab c", true},
		{"*cake", "pancake", true}, {"*cake", "pancakes", false}, {"cake*", "cakes", true}, {"cake*", "pancakes", false},
		{"*", "", true}, {"", "anything", true}, {"cake*lie", "the cake is a lie", true}, {"cake*lie", "the cake is a lies", false},
		{"cake*lie", "the cakes lie", true}, {"a", strings.Repeat("a", 60000) + " a", true}, {"été", "un été!", true},
	} {
		if got := words(c.pattern, c.text); got != c.want {
			t.Errorf("words(%q, %.40q) = %v", c.pattern, c.text, got)
		}
	}
}

// TestGlobIsBounded feeds the worst we know.
func TestGlobIsBounded(t *testing.T) {
	body := strings.Repeat("a", 64<<10)
	for _, pattern := range []string{strings.Repeat("?", 1000) + "b", strings.Repeat("a?", 500) + "b", strings.Repeat("*a", 500) + "*b", strings.Repeat("*?", 500) + "b"} {
		steps := MaxSteps
		if compileGlob(pattern).words(body, &steps) || compileGlob(pattern).whole(body, &steps) {
			t.Errorf("%.20q matched", pattern)
		}
		if steps < -len(body) {
			t.Errorf("%.20q went on for %d steps after its budget", pattern, -steps)
		}
	}
}

// reference matches a pattern by trying everything.
func reference(pattern, s []rune) bool {
	if len(pattern) == 0 {
		return len(s) == 0
	}
	if pattern[0] == '*' {
		return reference(pattern[1:], s) || len(s) > 0 && reference(pattern, s[1:])
	}
	return len(s) > 0 && (pattern[0] == '?' || pattern[0] == s[0]) && reference(pattern[1:], s[1:])
}

func referenceWords(pattern, s []rune) bool {
	word := func(r rune) bool { return r < utf8.RuneSelf && isWord(byte(r)) }
	edge := func(i int) bool { return i == 0 || i == len(s) || !word(s[i-1]) || !word(s[i]) }
	for from := range len(s) + 1 {
		for to := from; to <= len(s); to++ {
			if edge(from) && edge(to) && reference(pattern, s[from:to]) {
				return true
			}
		}
	}
	return false
}

func FuzzGlob(f *testing.F) {
	f.Add("ex*ple", "an exciting triple-whammy")
	f.Add("a*?b", "a é b")
	f.Add("**?", " a_")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 12 || len(s) > 24 || !utf8.ValidString(pattern) || !utf8.ValidString(s) {
			return
		}
		p, r := []rune(fold(pattern)), []rune(fold(s))
		if got, want := whole(pattern, s), reference(p, r); got != want {
			t.Errorf("whole(%q, %q) = %v", pattern, s, got)
		}
		if got, want := words(pattern, s), referenceWords(p, r); got != want {
			t.Errorf("words(%q, %q) = %v", pattern, s, got)
		}
	})
}
