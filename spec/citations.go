package spec

import (
	_ "embed"
	"fmt"
	"regexp"
	"strings"
	"sync"
)

//go:embed headings.txt
var headingsText string

// citationAPIs maps the short name of an API in a citation to the one in endpoints.csv.
var citationAPIs = map[string]string{
	"cs": ClientServer, "ss": ServerServer, "as": ApplicationService, "is": Identity, "pg": PushGateway,
}

// names maps each api of a citation to the set of folded names it may cite.
var names = sync.OnceValue(func() map[string]map[string]bool {
	out := map[string]map[string]bool{}
	add := func(api, name string) {
		if out[api] == nil {
			out[api] = map[string]bool{}
		}
		out[api][fold(name)] = true
	}
	for line := range strings.Lines(headingsText) {
		if api, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			add(api, name)
		}
	}
	for short, long := range citationAPIs {
		for _, op := range Of(long) {
			add(short, op.ID)
		}
	}
	return out
})

var markup = strings.NewReplacer("`", "", "*", "", "\\", "", "’", "'", "uthoriz", "uthoris")

// fold makes two spellings of one name equal: no markup, one space between words, lower case, and
// "authorisation" spelt as the specification spells it.
func fold(s string) string {
	return strings.ToLower(strings.Join(strings.Fields(markup.Replace(s)), " "))
}

// remark is what may stand right after a cited name.
var remark = regexp.MustCompile(`^(\.$|\.\s|[,;:(]|\s\(|\s[-–—]\s)`)

// CheckCitation reports why a citation, the text after "Spec:", names no part of the specification.
func CheckCitation(text string) error {
	for part := range strings.SplitSeq(text, "; ") {
		if _, err := Cited(part); err != nil {
			return err
		}
	}
	return nil
}

// Cited returns what the first words of a text cite, in the spelling that compares equal to that of any other citation
// of the same: api and name, folded.
func Cited(text string) (string, error) {
	api, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	known, ok := names()[api]
	if !ok {
		return "", fmt.Errorf("%q is no api; one of cs, ss, as, is, pg, appendices, olm, index, rooms, rooms/v1 to rooms/v12 is", api)
	}
	name, ok := cited(known, fold(rest))
	if !ok {
		return "", fmt.Errorf("%q is no operation and no heading of %s", rest, api)
	}
	return api + " " + name, nil
}

// cited finds the known name that a text consists of, or the longest that it starts with before a remark.
func cited(known map[string]bool, text string) (string, bool) {
	if known[text] {
		return text, true
	}
	for i := len(text) - 1; i > 0; i-- {
		if known[text[:i]] && remark.MatchString(text[i:]) {
			return text[:i], true
		}
	}
	return "", false
}

// These find a citation, an operation that is called, and a declared deviation, in a line of a comment.
var (
	citationLine  = regexp.MustCompile(`^\s*(?://|\*)?\s*Spec:\s+(\S.*?)\s*$`)
	callsLine     = regexp.MustCompile(`^\s*(?://|\*)?\s*Calls:\s+(\S.*?)\s*$`)
	deviationLine = regexp.MustCompile(`^\s*(?://|\*)?\s*(?:- )?Deviates:\s+(\S.*?)\s*$`)
)

// Citation returns what a comment line cites, and false where it cites nothing.
func Citation(line string) (string, bool) {
	m := citationLine.FindStringSubmatch(line)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// Deviation returns what a comment line declares a deviation from, and why as far as the line says it.
func Deviation(line string) (string, bool) {
	m := deviationLine.FindStringSubmatch(line)
	if m == nil {
		return "", false
	}
	return m[1], true
}
