package words

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func terms(s string) (all []string) {
	Terms(Fold(s), func(t string) { all = append(all, t) })
	return all
}

func TestTerms(t *testing.T) {
	for text, want := range map[string]string{
		"Hello, World!":       "hello|world",
		"don't":               "don|t",
		"Crème BRÛLÉE":        "creme|brulee",
		"STRASSE Straße":      "strasse|strasse",
		"Ｆｕｌｌ ﾊﾝ":             "full|ハン|ン",
		"日本語 test":            "日本|本語|語|test",
		"字":                   "字",
		"が":                   "が",
		"한국어 말":               "한국|국어|어|말",
		"Привет, Ёлка":        "привет|елка",
		"שָׁלוֹם":             "שלום",
		"हिन्दी":              "हिन्दी",
		"party 🎉🎉":            "party|🎉|🎉",
		" \t\n-- ":            "",
		"a_b@c.d":             "a|b|c|d",
		"東京tower":             "東京|京|tower",
		"ไทย":                 "ไท|ทย|ย",
		"nul\x00byte \xffbad": "nulbyte|bad",
	} {
		if got := strings.Join(terms(text), "|"); got != want {
			t.Errorf("%q has %q, want %q", text, got, want)
		}
	}
	long := terms(strings.Repeat("é", 100) + strings.Repeat("界", 3))
	if len(long[0]) > MaxTerm || !utf8.ValidString(long[0]) {
		t.Errorf("a long word becomes %q", long[0])
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		text, ask string
		want      bool
	}{
		{"Hello, world", "hello", true},
		{"Hello, world", "WORLD hello", true},
		{"Hello, world", "worl", false},
		{"Message number 4", "message 4", true},
		{"Message number 14", "message 4", false},
		{"日本語を話す", "日本語", true},
		{"日本と本語", "日本語", false},
		{"日本語を話す", "語", true},
		{"日本語を話す", "す", true},
		{"日本語を話す", "英", false},
		{"café", "CAFE", true},
		{"cafe", "Café", true},
		{"wir 🎉 heute", "🎉", true},
		{"nothing", "", true},
	} {
		q := Ask(c.ask)
		if got := q.Matches(Fold(c.text)); got != c.want {
			t.Errorf("%q asked for %q: %v", c.text, c.ask, got)
		}
	}
	empty := Ask("--- !")
	if some := Ask("a"); !empty.Empty() || some.Empty() {
		t.Error("what is empty")
	}
	if got := Ask("b a b").Shown; !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("shown are %q", got)
	}
}

func FuzzTerms(f *testing.F) {
	for _, s := range []string{"Hello, World", "日本語", "crème", "\x00\xff", "🎉🎉", "ｶﾞ", "한국어"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		folded := Fold(s)
		Terms(folded, func(term string) {
			if len(term) > MaxTerm || term == "" || !utf8.ValidString(term) || strings.ContainsRune(term, 0) {
				t.Fatalf("%q has the term %q", s, term)
			}
		})
		if q := Ask(s); !q.Matches(folded) {
			t.Fatalf("%q doesn't match itself: %+v", s, q)
		}
	})
}
