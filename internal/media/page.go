package media

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/charset"
)

const (
	// maxPage is how much of a page is read, in bytes: what describes it stands near its beginning.
	maxPage = 2 << 20
	// maxToken bounds a tag, or the text between two of them, in bytes.
	maxToken = 256 << 10
	// maxProperties bounds the properties of a page that are kept, maxProperty the length of their names and maxValue that of their values, in bytes.
	maxProperties = 40
	maxProperty   = 64
	maxValue      = 1000
	// enoughText of a page's paragraphs describe it, in bytes.
	enoughText = 200
	// maxCandidates bounds the images of one kind that are remembered.
	maxCandidates = 3
	// smallImage is the side in pixels below which an image is taken for decoration.
	smallImage = 48
)

// Images by how much a page means them to stand for it.
const (
	imageOfPage  = iota // og:image
	imageOfCard         // twitter:image, rel=image_src
	imageInText         // the first in the page that is not small
	imageOfTitle        // what stands for the site on a screen
	imageKinds
)

// page is what a page says of itself.
type page struct {
	// properties are those of OpenGraph, by their whole names, without those of images.
	properties map[string]string
	// What stands in for properties that a page does not have: from tags made for other readers, and from what people read.
	cardTitle, title, heading string
	cardText, description     string
	text                      string
	images                    [imageKinds][]string
	base                      string

	// What the reader is in: the element whose text is taken, its text so far, and the element whose text is none.
	in, skip string
	buffer   strings.Builder
}

// readPage reads what describes an HTML page of some content type, up to maxPage of it. Of a page that breaks off it returns what came, and the error.
func readPage(in io.Reader, contentType string) (*page, error) {
	p := &page{properties: make(map[string]string)}
	decoded, err := charset.NewReader(io.LimitReader(in, maxPage), contentType)
	if errors.Is(err, io.EOF) {
		return p, nil // there is nothing
	}
	if err != nil {
		return p, fmt.Errorf("read a page: %w", err)
	}
	z := html.NewTokenizer(decoded)
	z.SetMaxBuf(maxToken)
	for {
		switch z.Next() {
		case html.ErrorToken:
			p.finish()
			if err := z.Err(); !errors.Is(err, io.EOF) && !errors.Is(err, html.ErrBufferExceeded) {
				return p, fmt.Errorf("read a page: %w", err)
			}
			return p, nil
		case html.StartTagToken, html.SelfClosingTagToken:
			name, more := z.TagName()
			if string(name) == "body" && p.complete() {
				return p, nil
			}
			p.open(string(name), attributes(z, more))
		case html.EndTagToken:
			name, _ := z.TagName()
			p.close(string(name))
		case html.TextToken:
			if p.in != "" && p.skip == "" && p.buffer.Len() < 4*maxValue {
				text := z.Text()
				p.buffer.Write(text[:min(len(text), 4*maxValue)])
			}
		}
	}
}

// complete tells that nothing in the body could add to what the head said.
func (p *page) complete() bool {
	return p.properties["og:title"] != "" && p.properties["og:description"] != "" && len(p.images[imageOfPage]) > 0
}

// attributes are those of a tag that matter here; of two with one name the first counts.
func attributes(z *html.Tokenizer, more bool) map[string]string {
	found := make(map[string]string)
	for more {
		var k, v []byte
		k, v, more = z.TagAttr()
		switch name := string(k); name {
		case "property", "name", "itemprop", "content", "rel", "href", "src", "width", "height":
			if _, known := found[name]; !known {
				found[name] = string(v)
			}
		}
	}
	return found
}

func (p *page) open(tag string, attrs map[string]string) {
	switch tag {
	case "meta":
		p.meta(attrs)
	case "link":
		p.link(attrs)
	case "base":
		if p.base == "" {
			p.base = attrs["href"]
		}
	case "img":
		if !small(attrs["width"]) && !small(attrs["height"]) {
			p.image(imageInText, attrs["src"])
		}
	case "script", "style", "noscript", "template", "svg":
		if p.skip == "" {
			p.skip = tag
		}
	case "title", "h1", "p":
		if p.skip == "" {
			p.finish()
			p.in = tag
		}
	case "br", "div", "li", "td":
		if p.in != "" && p.buffer.Len() < 4*maxValue {
			p.buffer.WriteByte(' ')
		}
	}
}

func (p *page) close(tag string) {
	switch tag {
	case p.skip:
		p.skip = ""
	case p.in:
		p.finish()
	}
}

// finish takes the text of the element that ends.
func (p *page) finish() {
	text := cleanText(p.buffer.String())
	p.buffer.Reset()
	switch p.in {
	case "title":
		first(&p.title, text)
	case "h1":
		first(&p.heading, text)
	case "p":
		if text != "" && len(p.text) < enoughText {
			p.text = clip(strings.TrimSpace(p.text+" "+text), maxValue)
		}
	}
	p.in = ""
}

// meta takes what a page says of itself in tags.
func (p *page) meta(attrs map[string]string) {
	value := cleanText(attrs["content"])
	if value == "" {
		return
	}
	for _, attr := range []string{"property", "name", "itemprop"} {
		switch name := strings.ToLower(strings.TrimSpace(attrs[attr])); name {
		case "":
		case "og:image", "og:image:url", "og:image:secure_url":
			p.image(imageOfPage, attrs["content"])
		case "twitter:image", "twitter:image:src", "image":
			p.image(imageOfCard, attrs["content"])
		case "twitter:title":
			first(&p.cardTitle, value)
		case "twitter:description":
			first(&p.cardText, value)
		case "description":
			first(&p.description, value)
		default:
			p.property(name, value)
		}
	}
}

// property takes a property of OpenGraph. What is said of its images is found out from the one that is taken.
func (p *page) property(name, value string) {
	if !strings.HasPrefix(name, "og:") || len(name) > maxProperty || strings.HasPrefix(name, "og:image:") && name != "og:image:alt" {
		return
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != ':' && r != '_' && r != '-' {
			return
		}
	}
	if _, known := p.properties[name]; !known && len(p.properties) < maxProperties {
		p.properties[name] = value
	}
}

func (p *page) link(attrs map[string]string) {
	for rel := range strings.FieldsSeq(strings.ToLower(attrs["rel"])) {
		switch rel {
		case "image_src":
			p.image(imageOfCard, attrs["href"])
		case "apple-touch-icon", "apple-touch-icon-precomposed":
			p.image(imageOfTitle, attrs["href"])
		}
	}
}

func (p *page) image(kind int, address string) {
	address = strings.TrimSpace(address)
	if address != "" && len(address) <= maxURL && len(p.images[kind]) < maxCandidates {
		p.images[kind] = append(p.images[kind], address)
	}
}

// small tells that a size in a tag is that of decoration.
func small(size string) bool {
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(size), "px"))
	return err == nil && n < smallImage
}

func first(to *string, value string) {
	if *to == "" {
		*to = value
	}
}

// fields is what clients are told: the page's properties, and what stands in for those that it lacks.
//
// Spec: cs getUrlPreviewAuthed
func (p *page) fields() map[string]any {
	out := make(map[string]any)
	for name, value := range p.properties {
		out[name] = value
	}
	for name, others := range map[string][]string{
		"og:title": {p.cardTitle, p.title, p.heading}, "og:description": {p.cardText, p.description, p.text},
	} {
		for _, value := range others {
			if out[name] == nil && value != "" {
				out[name] = value
			}
		}
	}
	return out
}

// imageURLs are the addresses of images that could stand for a page at some address, the best first.
func (p *page) imageURLs(at *url.URL) []*url.URL {
	if base, err := at.Parse(strings.TrimSpace(p.base)); err == nil && p.base != "" && fetchable(base) {
		at = base
	}
	var out []*url.URL
	seen := make(map[string]bool)
	for _, kind := range p.images {
		for _, address := range kind {
			u, err := at.Parse(address)
			if err != nil || !fetchable(u) {
				continue
			}
			if u.Fragment = ""; !seen[u.String()] {
				seen[u.String()] = true
				out = append(out, u)
			}
		}
	}
	return out
}

// cleanText makes a line of a text that a stranger wrote: valid, without what steers displays, and not too long.
func cleanText(s string) string {
	s = s[:min(len(s), 8*maxValue)]
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), r == utf8.RuneError, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return clip(strings.Join(strings.Fields(s), " "), maxValue)
}

// clip shortens a text to a number of bytes, and says so.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	const more = "…"
	s = s[:most-len(more)]
	for s != "" && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return strings.TrimSpace(s) + more
}
