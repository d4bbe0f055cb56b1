package words

import (
	"strings"
	"testing"
)

func TestPhrase(t *testing.T) {
	for text, want := range map[string][2]string{
		"  Alice   B. Cooper ": {"alice b cooper", "alice b cooper|b cooper|cooper"},
		"john.smith-42":        {"john smith 42", "john smith 42|smith 42|42"},
		"山田 太郎":                {"山田 太郎", "山田 太郎|田 太郎|太郎|郎"},
		"Žofie🎉":               {"zofie🎉", "zofie🎉|🎉"},
		"--":                   {"", ""},
	} {
		var ends []string
		phrase := Phrase(text)
		Endings(phrase, func(e string) { ends = append(ends, e) })
		if phrase != want[0] || strings.Join(ends, "|") != want[1] {
			t.Errorf("%q is %q with the endings %q", text, phrase, ends)
		}
	}
}
