package media

import (
	"mime"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"myelin/matrix/mxerr"
)

func TestParseURI(t *testing.T) {
	for _, good := range [][2]string{{"a.example", "abcXYZ019_-"}, {"[::1]:8448", "x"}} {
		if u, err := ParseURI(good[0], good[1]); err != nil || u.String() != "mxc://"+good[0]+"/"+good[1] {
			t.Errorf("%q: %v %v", good, u, err)
		}
	}
	for _, bad := range [][2]string{{"", "x"}, {"a b", "x"}, {"a.example", ""}, {"a.example", ".."}, {"a.example", "a/b"}, {"a.example", "ä"}, {"a.example", strings.Repeat("a", 256)}} {
		if _, err := ParseURI(bad[0], bad[1]); !mxerr.Is(err, mxerr.CodeInvalidParam) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Spec: cs Serving inline content
func TestDisposition(t *testing.T) {
	for _, row := range [][3]string{
		{"image/png", "", "inline"},
		{"Text/Plain; charset=utf-8", "a b;c.txt", `inline; filename="a b;c.txt"`},
		{"image/svg+xml", "x.svg", `attachment; filename="x.svg"`},
		{"text/html", "", "attachment"},
		{"application/octet-stream", "", "attachment"},
		{"not a type", "", "attachment"},
		{"image/png", "☕.png", `inline; filename="_.png"; filename*=utf-8''%E2%98%95.png`},
		{"image/png", "a\"b\\c\r\nX: y", `inline; filename="a_b_c__X: y"; filename*=utf-8''a%22b%5Cc%0D%0AX%3A%20y`},
	} {
		if got := Disposition(row[0], row[1]); got != row[2] {
			t.Errorf("%q %q: %s", row[0], row[1], got)
		}
	}
}

func TestNameOf(t *testing.T) {
	for header, want := range map[string]string{
		"":                                   "",
		"inline":                             "",
		"attachment; filename=plain.txt":     "plain.txt",
		`attachment; filename="a \"b\".c"`:   `a "b".c`,
		"inline; filename*=utf-8''%E2%98%95": "☕",
		`inline; filename="x"; filename*=UTF-8''%E2%98%95`: "☕",
		`inline; filename="☕"`:                             "☕",
		"inline; filename*=utf-8''a%0D%0Ab%00":             "ab",
		"inline; filename*=utf-8''%FF":                     "",
		"inline; filename=" + strings.Repeat("a", 5000):    strings.Repeat("a", maxName),
		"inline; filename=" + strings.Repeat("a", 10000):   "",
	} {
		if got := NameOf(header); got != want {
			t.Errorf("%.60q: %.60q", header, got)
		}
	}
}

func TestCleanType(t *testing.T) {
	for given, want := range map[string]string{
		"":                                 unknownType,
		"img/png":                          "img/png",
		"Text/Plain; charset=utf-8":        "Text/Plain; charset=utf-8",
		"text":                             unknownType,
		"text/plain\r\nX: y":               unknownType,
		"téxt/plain":                       unknownType,
		"text/plain; a=\"":                 unknownType,
		"text/" + strings.Repeat("x", 300): unknownType,
	} {
		if got := cleanType(given); got != want {
			t.Errorf("%.60q: %q", given, got)
		}
	}
}

// FuzzDisposition: a name that is served comes back as it was, and no name or type breaks out of the header.
func FuzzDisposition(f *testing.F) {
	f.Add("text/plain", "plain.txt")
	f.Add("image/png", "a\"b\\c%41 ☕;'")
	f.Add("text/html\r\nX: y", "\r\n\x00")
	f.Add("inline; filename*=utf-8''%E2%98%95", "inline; filename=\"x\\\"")
	f.Fuzz(func(t *testing.T, kind, name string) {
		read := NameOf(name) // of any text
		if !utf8.ValidString(read) || len(read) > maxName || strings.IndexFunc(read, unicode.IsControl) >= 0 {
			t.Errorf("%q was read as %q", name, read)
		}
		cleaned := cleanType(kind)
		if _, _, err := mime.ParseMediaType(cleaned); err != nil {
			t.Errorf("%q became %q: %v", kind, cleaned, err)
		}
		if checkName(name) != nil {
			return
		}
		header := Disposition(cleaned, name)
		if strings.IndexFunc(header, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
			t.Fatalf("the header is %q", header)
		}
		if strings.IndexFunc(name, unicode.IsControl) < 0 {
			if back := NameOf(header); back != name {
				t.Errorf("%q came back as %q from %s", name, back, header)
			}
		}
	})
}
