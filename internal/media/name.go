package media

import (
	"mime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxID bounds the part of an address that names the file, in bytes.
	maxID = 255
	// maxName bounds the name of a file, in bytes.
	maxName = 1024
	// maxType bounds a content type, in bytes.
	maxType = 255
	// unknownType is the type of what has none.
	unknownType = "application/octet-stream"
)

// ParseURI reads the two parts of an address.
//
// Spec: cs Matrix Content (mxc://) URIs
func ParseURI(server, mediaID string) (URI, error) {
	name, err := id.ParseServerName(server)
	if err != nil {
		return URI{}, mxerr.InvalidParam("%s", err)
	}
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	if mediaID == "" || len(mediaID) > maxID || strings.IndexFunc(mediaID, func(r rune) bool { return !ok(r) }) >= 0 {
		return URI{}, mxerr.InvalidParam("A media ID has 1 to %d of the characters A-Z, a-z, 0-9, _ and -.", maxID)
	}
	return URI{name, mediaID}, nil
}

// inlineTypes are those that a browser may show, since it runs nothing of them.
//
// Spec: cs Serving inline content
var inlineTypes = []string{
	"text/css", "text/plain", "text/csv", "application/json", "application/ld+json",
	"image/jpeg", "image/gif", "image/png", "image/apng", "image/webp", "image/avif",
	"video/mp4", "video/webm", "video/ogg", "video/quicktime",
	"audio/mp4", "audio/webm", "audio/aac", "audio/mpeg", "audio/ogg", "audio/wave", "audio/wav", "audio/x-wav", "audio/x-pn-wav", "audio/flac", "audio/x-flac",
}

// cleanType returns a content type as it was given, or what stands in for one that is none.
func cleanType(s string) string {
	s = strings.TrimSpace(s)
	plain := func(r rune) bool { return r >= ' ' && r < 0x7f }
	if len(s) > maxType || strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) >= 0 {
		return unknownType
	}
	kind, _, err := mime.ParseMediaType(s)
	if err != nil || !strings.Contains(kind, "/") {
		return unknownType
	}
	return s
}

// Disposition is the header that says how a browser is to treat content of a type, and what the file is called; an empty name is left out.
//
// Spec: cs Serving inline content
func Disposition(contentType, name string) string {
	way := "attachment"
	if kind, _, err := mime.ParseMediaType(contentType); err == nil && slices.Contains(inlineTypes, kind) {
		way = "inline"
	}
	if name == "" {
		return way
	}
	// Everybody understands the quoted form of ASCII letters. Whatever is not such a letter gets the extended form beside it (RFC 6266), which wins.
	var quoted, extended strings.Builder
	simple := true
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '"' || c == '\\' || c == '%' || c < ' ' || c >= 0x7f:
			simple = false
			if utf8.RuneStart(c) {
				quoted.WriteByte('_')
			}
		default:
			quoted.WriteByte(c)
		}
		if attrChar(c) {
			extended.WriteByte(c)
		} else {
			const hex = "0123456789ABCDEF"
			extended.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	out := way + `; filename="` + quoted.String() + `"`
	if !simple {
		out += "; filename*=utf-8''" + extended.String()
	}
	return out
}

// attrChar reports whether a byte stands for itself in an extended parameter (RFC 8187).
func attrChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$&+-.^_`|~", c) >= 0
}

// NameOf reads the name of a file out of the header that another server wrote, "" where there is none that could be kept.
func NameOf(disposition string) string {
	if len(disposition) > 8*maxName {
		return ""
	}
	_, params, err := mime.ParseMediaType(disposition)
	if err != nil {
		return ""
	}
	name := params["filename"]
	if !utf8.ValidString(name) {
		return ""
	}
	return clipName(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, name))
}

// clipName shortens a name that is too long.
func clipName(name string) string {
	if len(name) <= maxName {
		return name
	}
	for name = name[:maxName]; len(name) > 0 && !utf8.ValidString(name); {
		name = name[:len(name)-1]
	}
	return name
}

// checkName refuses names that can't be kept as they are.
func checkName(name string) error {
	if len(name) > maxName {
		return mxerr.InvalidParam("A file's name has at most %d bytes.", maxName)
	}
	if !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
		return mxerr.InvalidParam("A file's name must be valid UTF-8 without NUL.")
	}
	return nil
}
