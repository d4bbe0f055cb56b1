package media

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

func parsed(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestPages: what pages say of themselves, in their own words or in those that people read.
func TestPages(t *testing.T) {
	for name, row := range map[string]struct {
		html, contentType string
		want              map[string]any
		images            string
	}{
		"nothing": {"", "text/html", map[string]any{}, ""},
		"its own": {`<html><head><title>Other</title><meta property="og:title" content=" The &amp;
			Rock "><META NAME="OG:Type" CONTENT=video.movie><meta property="og:title" content="second"><meta property=og:image content=test.png>
			<meta property="og:image:width" content="5"><meta property="og:image:alt" content="A rock"><meta property="og:x y" content="odd">`,
			"text/html", map[string]any{"og:title": "The & Rock", "og:type": "video.movie", "og:image:alt": "A rock"}, "http://a.test/d/test.png"},
		"for cards": {`<title>T</title><meta name="twitter:title" content="Card"><meta name="twitter:description" content="Text"><meta name="description" content="D">
			<meta name="twitter:image" content="//b.test/i.png"><link rel="shortcut apple-touch-icon" href="/icon.png">`,
			"text/html", map[string]any{"og:title": "Card", "og:description": "Text"}, "http://b.test/i.png http://a.test/icon.png"},
		"as read": {`<body><script>var p = "<p>no</p><h1>no</h1>"</script><style>p{}</style><h1>A <b>head</b>ing</h1><p></p><p>One<br>two <i>three</i><p>Four.</p>
			<img src=dot.gif width=1 height=1><img src="data:image/png;base64,AAAA"><img src="javascript:alert(1)"><img src="big.jpg" width=500>`,
			"text/html", map[string]any{"og:title": "A heading", "og:description": "One two three Four."}, "http://a.test/d/big.jpg"},
		"base":         {`<base href="https://c.test/x/"><meta property="og:image" content="i.png"><title>B</title>`, "text/html", map[string]any{"og:title": "B"}, "https://c.test/x/i.png"},
		"latin 1":      {"<title>caf\xe9</title>", "text/html; charset=iso-8859-1", map[string]any{"og:title": "café"}, ""},
		"meta charset": {"<meta charset=shift_jis><title>\x83}\x83g\x83\x8a\x83b\x83N\x83X</title>", "text/html", map[string]any{"og:title": "マトリックス"}, ""},
		"steering":     {"<title>a\u202eb\x00c\x1b[0m\u2066d\xff</title>", "text/html; charset=utf-8", map[string]any{"og:title": "abc[0md"}, ""},
		"cut off":      {`<title>T</title><meta property="og:description" content="unfini`, "text/html", map[string]any{"og:title": "T"}, ""},
	} {
		p, err := readPage(strings.NewReader(row.html), row.contentType)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := p.fields(); !maps.Equal(got, row.want) {
			t.Errorf("%s: %v, want %v", name, got, row.want)
		}
		var images []string
		for _, u := range p.imageURLs(parsed(t, "http://a.test/d/page.html")) {
			images = append(images, u.String())
		}
		if got := strings.Join(images, " "); got != row.images {
			t.Errorf("%s: images %s, want %s", name, got, row.images)
		}
	}
}

// TestLongPages: of an endless page the beginning counts, and nothing in it is taken whole that is long.
func TestLongPages(t *testing.T) {
	var head strings.Builder
	fmt.Fprintf(&head, "<title>%s</title>", strings.Repeat("ab ", 5000))
	for i := range 1000 {
		fmt.Fprintf(&head, `<meta property="og:x%d" content="y"><meta property="og:image" content="%d.png">`, i, i)
	}
	endless := &counter{from: io.MultiReader(strings.NewReader(head.String()), repeat("<p>more <b>and more</b> "))}
	p, err := readPage(endless, "text/html")
	fields := p.fields()
	if err != nil || endless.n > maxPage+1024 {
		t.Errorf("%d bytes were read: %v", endless.n, err)
	}
	title, _ := fields["og:title"].(string)
	if len(fields) > maxProperties+2 || len(title) > maxValue || !strings.HasSuffix(title, "…") || len(p.imageURLs(parsed(t, "http://a.test/"))) != maxCandidates {
		t.Errorf("%d fields, a title of %d bytes, %d images", len(fields), len(title), len(p.imageURLs(parsed(t, "http://a.test/"))))
	}
	p, err = readPage(io.MultiReader(strings.NewReader("<title>T</title><meta content='"), repeat("x")), "text/html")
	if err != nil || p.title != "T" {
		t.Errorf("an endless tag: %q %v", p.title, err)
	}
	broken := errors.New("broken")
	p, err = readPage(io.MultiReader(strings.NewReader("<title>T</title>"+strings.Repeat("x", 2000)), iotestErr{broken}), "text/html")
	if !errors.Is(err, broken) || p.title != "T" {
		t.Errorf("a page that breaks off: %q %v", p.title, err)
	}
}

type counter struct {
	from io.Reader
	n    int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += n
	return n, err
}

// repeat is a text without end.
type repeat string

func (r repeat) Read(p []byte) (n int, err error) {
	for n < len(p) {
		n += copy(p[n:], r)
	}
	return n, nil
}

func TestPageURLs(t *testing.T) {
	for text, want := range map[string]string{
		"http://Example.org": "http://example.org/", "https://a.test/b?c=d#e": "https://a.test/b?c=d", "http://[::1]:80/x": "http://[::1]:80/x",
		"ftp://a.test/": "", "file:///etc/passwd": "", "http:///x": "", "http://u:p@a.test/": "", "a.test": "", "javascript:alert(1)": "", "http://a.test:x/": "",
		"mailto:a@b": "", "http://a.test/\x00": "", "": "", "http://a.test/" + strings.Repeat("x", maxURL): "",
	} {
		u, err := parsePage(text)
		if (err == nil) != (want != "") || err == nil && u.String() != want {
			t.Errorf("%.60q: %v %v", text, u, err)
		}
	}
}

// FuzzPage: no bytes bring the reader of pages down, and what it takes of them is text within bounds.
func FuzzPage(f *testing.F) {
	f.Add([]byte(`<head><title>T</title><meta property="og:title" content="X"><base href="/a"></head><p>text<img src=i.png>`), "text/html")
	f.Add([]byte("<svg><title>\xff</svg><script><p></script><p><p><h1>"), "text/html; charset=utf-16")
	f.Add([]byte("\xfe\xff\x00<\x00p\x00>"), "")
	f.Fuzz(func(t *testing.T, raw []byte, contentType string) {
		p, err := readPage(bytes.NewReader(raw), contentType)
		if err != nil {
			t.Fatal(err)
		}
		fields := p.fields()
		if len(fields) > maxProperties+2 {
			t.Errorf("%d fields", len(fields))
		}
		for name, v := range fields {
			value, ok := v.(string)
			if !ok || len(name) > maxProperty || len(value) > maxValue || !utf8.ValidString(value) || strings.ContainsAny(value, "\x00\n\u202e") {
				t.Errorf("%q: %q", name, v)
			}
		}
		for _, u := range p.imageURLs(parsed(t, "http://a.test/")) {
			if !fetchable(u) {
				t.Errorf("an image at %q", u)
			}
		}
	})
}
