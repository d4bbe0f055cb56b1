package main

import (
	"encoding/csv"
	"flag"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"myelin/spec"
)

func main() {
	content := flag.String("content", "", "folder \"content\" of the specification's repository")
	endpoints := flag.String("endpoints", "", "CSV file of operations, with at least the columns of package spec")
	out := flag.String("out", "spec", "folder to write endpoints.csv and headings.txt to")
	flag.Parse()
	if err := run(*content, *endpoints, *out); err != nil {
		fmt.Fprintln(os.Stderr, "extract:", err)
		os.Exit(1)
	}
}

func run(content, endpoints, out string) error {
	if content == "" || endpoints == "" {
		return fmt.Errorf("both -content and -endpoints are needed")
	}
	if err := writeEndpoints(endpoints, filepath.Join(out, "endpoints.csv")); err != nil {
		return fmt.Errorf("trim %s: %w", endpoints, err)
	}
	if err := writeHeadings(content, filepath.Join(out, "headings.txt")); err != nil {
		return fmt.Errorf("read headings of %s: %w", content, err)
	}
	return nil
}

// writeEndpoints keeps the columns that package spec reads.
func writeEndpoints(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return err
	}
	if len(rows) < 200 {
		return fmt.Errorf("only %d rows", len(rows))
	}
	var b strings.Builder
	w := csv.NewWriter(&b)
	for _, row := range rows {
		kept := make([]string, len(spec.Columns))
		for i, name := range spec.Columns {
			at := slices.Index(rows[0], name)
			if at < 0 {
				return fmt.Errorf("no column %q", name)
			}
			kept[i] = row[at]
		}
		if err := w.Write(kept); err != nil {
			return err
		}
	}
	w.Flush()
	return os.WriteFile(to, []byte(b.String()), 0o644)
}

// chapters says which files belong to which api of a citation.
var chapters = []struct{ api, glob string }{
	{"cs", "client-server-api/_index.md"}, {"cs", "client-server-api/modules/*.md"},
	{"ss", "server-server-api.md"}, {"as", "application-service-api.md"}, {"is", "identity-service-api.md"},
	{"pg", "push-gateway-api.md"}, {"appendices", "appendices.md"}, {"olm", "olm-megolm/*.md"}, {"index", "_index.md"}, {"rooms", "rooms/_index.md"},
}

func writeHeadings(content, to string) error {
	seen := map[string]bool{}
	var lines []string
	add := func(api, name string) {
		if line := api + "\t" + name; name != "" && !seen[line] {
			seen[line] = true
			lines = append(lines, line)
		}
	}
	for _, c := range chapters {
		files, err := filepath.Glob(filepath.Join(content, c.glob))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("no file matches %s", c.glob)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			for _, name := range namesIn(string(text)) {
				add(c.api, name)
			}
		}
	}
	for v := 1; v <= 12; v++ {
		text, err := roomVersion(content, v)
		if err != nil {
			return err
		}
		api := fmt.Sprintf("rooms/v%d", v)
		for _, name := range namesIn(text) {
			add(api, name)
		}
		for _, rule := range authRules(text) {
			add(api, "auth "+rule)
		}
	}
	if len(lines) < 1000 {
		return fmt.Errorf("only %d headings", len(lines))
	}
	return os.WriteFile(to, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

var fragment = regexp.MustCompile(`\{\{% rver-fragment name="([^"]+)" %\}\}`)

// roomVersion returns the text of a room version with its shared fragments in place.
func roomVersion(content string, version int) (string, error) {
	text, err := os.ReadFile(filepath.Join(content, "rooms", fmt.Sprintf("v%d.md", version)))
	if err != nil {
		return "", err
	}
	var failed error
	whole := fragment.ReplaceAllStringFunc(string(text), func(call string) string {
		name := fragment.FindStringSubmatch(call)[1]
		part, err := os.ReadFile(filepath.Join(content, "rooms", "fragments", name+".md"))
		if err != nil {
			failed = err
		}
		return string(part)
	})
	return whole, failed
}

var (
	heading  = regexp.MustCompile(`^#{1,6}\s+(.*)$`)
	bold     = regexp.MustCompile(`^(?:<a [^>]*></a>\s*)?\*\*([^*]+)\*\*$`)
	shortcut = regexp.MustCompile(`\{\{% (?:cs-module name|event event)="([^"]+)"`)
	tag      = regexp.MustCompile(`<[^>]*>`)
	anchor   = regexp.MustCompile(`\s*\{(?:#|id=)[^}]*\}$`)
	inline   = regexp.MustCompile(`\{\{%.*?%\}\}`)
	link     = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// namesIn lists the headings of a chapter, the modules and event types it includes and the terms it sets in bold.
func namesIn(text string) []string {
	var out []string
	fenced := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \r\n")
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		if fenced {
			continue
		}
		for _, re := range []*regexp.Regexp{heading, bold, shortcut} {
			if m := re.FindStringSubmatch(line); m != nil {
				out = append(out, clean(m[1]))
			}
		}
	}
	return out
}

func clean(name string) string {
	for _, re := range []*regexp.Regexp{tag, anchor, inline} {
		name = re.ReplaceAllString(name, "")
	}
	name = link.ReplaceAllString(name, "$1")
	name = strings.NewReplacer("`", "", "*", "", "\\", "").Replace(html.UnescapeString(name))
	return strings.TrimSuffix(strings.Join(strings.Fields(name), " "), ".")
}

var (
	item     = regexp.MustCompile(`^( *)\d+\.\s`)
	ruleList = regexp.MustCompile(`\nThe (complete list of )?rules\b.* as follows:\n`)
)

// authRules returns the numbers of the authorisation rules of a room version as they are
// rendered: an item's number is its place in its list, whatever the source says.
func authRules(text string) []string {
	at := ruleList.FindStringIndex(text)
	if at == nil {
		return nil
	}
	text = text[at[1]:]
	type level struct{ indent, count int }
	var (
		stack []level
		out   []string
	)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "{{% boxes") {
			break
		}
		m := item.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		indent := len(m[1])
		for len(stack) > 0 && indent < stack[len(stack)-1].indent {
			stack = stack[:len(stack)-1]
		}
		if len(stack) == 0 || indent > stack[len(stack)-1].indent {
			stack = append(stack, level{indent: indent})
		}
		stack[len(stack)-1].count++
		number := make([]string, len(stack))
		for i, l := range stack {
			number[i] = fmt.Sprint(l.count)
		}
		out = append(out, strings.Join(number, "."))
	}
	return out
}
