package spec

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOperations(t *testing.T) {
	count := map[string]int{}
	ids := map[string]bool{}
	for _, op := range Operations() {
		count[op.API]++
		if key := op.API + " " + op.ID; ids[key] {
			t.Errorf("%s stands twice in the list", key)
		} else {
			ids[key] = true
		}
		if op.Method == "" || !strings.HasPrefix(op.Path, "/") || op.ID == "" {
			t.Errorf("incomplete row: %+v", op)
		}
	}
	want := map[string]int{ClientServer: 166, ServerServer: 36, Identity: 23, ApplicationService: 9, PushGateway: 1}
	for api, n := range want {
		if count[api] != n || len(Of(api)) != n {
			t.Errorf("%s has %d operations, want %d", api, count[api], n)
		}
	}
}

// TestOperationsMatchSource compares the embedded list with the file it was made of, where that
// file is at hand.
func TestOperationsMatchSource(t *testing.T) {
	raw, err := os.ReadFile("../../shared/spec/endpoints.csv")
	if err != nil {
		if os.Getenv("MYELIN_REQUIRE") == "all" {
			t.Fatalf("the specification's data is needed: %v", err)
		}
		t.Skipf("the specification's data is not here: %v", err)
	}
	want, err := parseOperations(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	got := Operations()
	if len(got) != len(want) {
		t.Fatalf("%d operations, the source has %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("row %d is %+v, the source says %+v", i, got[i], want[i])
		}
	}
}

func TestParseOperationsRefuses(t *testing.T) {
	for _, text := range []string{"", "api,method\nx,y\n", "\"", strings.Join(Columns, ",") + "\na,b\n"} {
		if _, err := parseOperations(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestCheckCitation(t *testing.T) {
	valid := []string{
		"cs sendMessage", "cs sync", "cs Push rules", "cs m.room.power_levels", "cs `event_match`",
		"ss Auth events selection", "ss sendTransaction", "rooms/v12 auth 5.3.7", "rooms/v1 auth 1.1", "rooms/v3 auth 11",
		"rooms/v9 Redactions", "rooms/v2 Mainline ordering", "appendices Identifier Grammar", "olm The Megolm protocol", "rooms/v12 Authorization rules", "rooms Complete list of room versions",
		"cs sync, the part about timelines", "cs sync (timelines)", "cs sync: timelines", "cs login; ss makeJoin", "as sendTransaction", "is Terms of service",
	}
	for _, c := range valid {
		if err := CheckCitation(c); err != nil {
			t.Errorf("%q: %v", c, err)
		}
	}
	for _, c := range []string{
		"", "cs", "cs noSuchOperation", "cs syncs", "client sync", "rooms/v12 auth 99.1", "rooms/v13 Redactions", "ss sync",
		"cs sync and more", "cs login; nonsense", "rooms/v1 auth",
	} {
		if err := CheckCitation(c); err == nil {
			t.Errorf("%q was accepted", c)
		}
	}
}

func TestCitation(t *testing.T) {
	for line, want := range map[string]string{
		"// Spec: cs sync":         "cs sync",
		"\t// Spec: cs sync  ":     "cs sync",
		"// See Spec: cs sync":     "",
		"// Special: cs sync":      "",
		"x := 1 // Spec: cs sync":  "",
		"Spec: cs sync":            "cs sync",
		"// Spec:":                 "",
		"//\tSpec: ss makeJoin; x": "ss makeJoin; x",
	} {
		if got, ok := Citation(line); got != want || ok != (want != "") {
			t.Errorf("Citation(%q) = %q, %v, want %q", line, got, ok, want)
		}
	}
}

func TestDeviation(t *testing.T) {
	for line, want := range map[string]string{
		"\t// Deviates: rooms/v1 Event format: a NUL.": "rooms/v1 event format",
		"//   - Deviates: cs sync. It differs.":        "cs sync",
		"// It Deviates: cs sync":                      "",
	} {
		text, ok := Deviation(line)
		got, err := Cited(text)
		if ok != (want != "") || got != want || ok && err != nil {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
}

// eachLine calls f with every line of the module's Go source outside this package.
func eachLine(t *testing.T, f func(at, line string)) {
	t.Helper()
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); base != ".." && strings.HasPrefix(base, ".") || base == "testdata" || base == "node_modules" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasPrefix(filepath.ToSlash(p), "../spec/") {
			return nil
		}
		raw, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		n := 0
		for text := range strings.Lines(string(raw)) {
			n++
			f(fmt.Sprintf("%s:%d", strings.TrimPrefix(p, "../"), n), strings.TrimRight(text, "\r\n"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCallsExist checks every comment that says which operation is called.
func TestCallsExist(t *testing.T) {
	eachLine(t, func(at, line string) {
		text, ok := Calls(line)
		if !ok {
			return
		}
		for part := range strings.SplitSeq(text, "; ") {
			short, op, _ := strings.Cut(part, " ")
			if !slices.ContainsFunc(Of(citationAPIs[short]), func(o Operation) bool { return o.ID == op }) {
				t.Errorf("%s: there is no operation %q", at, part)
			}
		}
	})
}

// TestCitationsExist checks every citation in the module's source.
func TestCitationsExist(t *testing.T) {
	n := 0
	eachLine(t, func(at, line string) {
		cited, ok := Citation(line)
		if !ok {
			return
		}
		n++
		if err := CheckCitation(cited); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	})
	t.Logf("%d citations", n)
	if n == 0 {
		t.Error("no citation found, so this test looks in the wrong place")
	}
}

// TestDeviationsAreDeclared compares the comments "Deviates: <api> <name>" with the rows of docs/deviations.md,
// whose first column holds the same citation.
func TestDeviationsAreDeclared(t *testing.T) {
	page, err := os.ReadFile("../docs/deviations.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{} // to whether the source has it
	for line := range strings.Lines(string(page)) {
		cell, _, ok := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		if !ok || !strings.HasPrefix(line, "|") || strings.Contains(cell, "--") || strings.TrimSpace(cell) == "of" {
			continue
		}
		cited, err := Cited(cell)
		if err != nil {
			t.Errorf("docs/deviations.md: %v", err)
			continue
		}
		rows[cited] = false
	}
	eachLine(t, func(at, line string) {
		text, ok := Deviation(line)
		if !ok {
			return
		}
		cited, err := Cited(text)
		if err != nil {
			t.Errorf("%s: %v", at, err)
			return
		}
		if _, ok := rows[cited]; !ok {
			t.Errorf("%s: the deviation from %s has no row in docs/deviations.md", at, cited)
		}
		rows[cited] = true
	})
	for cited, found := range rows {
		if !found {
			t.Errorf("docs/deviations.md has a row on %s, but no comment says \"Deviates: %s\"", cited, cited)
		}
	}
}

func FuzzCheckCitation(f *testing.F) {
	for _, s := range []string{"cs sync", "rooms/v12 auth 5.3.7", "cs sync; ss makeJoin", "", "; ;", "cs İ sync."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_ = CheckCitation(s)
		if c, ok := Deviation(s); ok && c == "" {
			t.Errorf("Deviation(%q) is empty", s)
		}
		if c, ok := Citation(s); ok && c == "" {
			t.Errorf("Citation(%q) is empty", s)
		}
	})
}
