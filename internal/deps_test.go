package internal

import (
	"strings"
	"testing"
)

// dependencies is the allow-list. A module that the code imports stands here with one line that
// says what it does for us that we should not do ourselves. Modules marked testOnly never reach
// the binary.
var dependencies = []struct {
	module   string
	testOnly bool
	reason   string
}{
	{"github.com/BurntSushi/toml", false, "reads the configuration file and reports unknown keys with their position"},
	{"github.com/jackc/pgx/v5", false, "the PostgreSQL protocol with pipelining, which database/sql can't express"},
	{"github.com/maypok86/otter/v2", false, "a bounded concurrent cache with a good eviction policy"},
	{"github.com/minio/minio-go/v7", false, "the protocol of S3: signatures, retries, parts, and what stores make of them"},
	{"github.com/prometheus/client_golang", false, "the metrics format that operators' tools read"},
	{"github.com/schollz/progressbar/v3", false, "progress of long commands on a terminal"},
	{"github.com/spf13/cobra", false, "subcommands, flags and their help text"},
	{"github.com/tidwall/gjson", false, "reads single fields out of raw JSON without decoding the rest"},
	{"github.com/wneessen/go-mail", false, "writes mail and speaks SMTP with authentication, both of which have many corners"},
	{"go.yaml.in/yaml/v3", false, "reads registration files of application services, which are YAML as other programs write it"},
	{"golang.org/x/crypto", false, "Argon2id, which the standard library lacks"},
	{"golang.org/x/image", false, "decodes WebP, which the standard library lacks"},
	{"golang.org/x/net", false, "reads HTML in any charset as browsers do, for previews of links"},
	{"golang.org/x/sync", false, "groups of goroutines that stop together, and single flights"},
	{"golang.org/x/sys", false, "file locks and terminal control per operating system"},
	{"golang.org/x/term", false, "asks for a password without echo"},
	{"golang.org/x/text", false, "Unicode normalisation for names and search"},
	{"golang.org/x/time", false, "token buckets for rate limits"},
	{"modernc.org/libc", false, "the calling convention of modernc.org/sqlite, for the one function of it that we replace"},
	{"modernc.org/sqlite", false, "what zombiezen.com/go/sqlite stands on: its VFS syncs files by fsync, ours by fdatasync"},
	{"zombiezen.com/go/sqlite", false, "SQLite without a C compiler and without database/sql's locks and copies"},

	{"github.com/johannesboyne/gofakes3", true, "a store that speaks the protocol of S3 in the test process"},
	{"github.com/matrix-org/gomatrixserverlib", true, "an independent implementation of the room algorithms to compare ours with"},
	{"github.com/santhosh-tekuri/jsonschema/v6", true, "compares our responses with the specification's schemas"},
	{"maunium.net/go/mautrix", true, "a real client for the integration tests"},
}

func TestDependenciesAreArguedFor(t *testing.T) {
	required := requirements(t)
	listed := map[string]bool{} // module to testOnly
	for _, d := range dependencies {
		if len(d.reason) < 15 {
			t.Errorf("%s is listed without a reason", d.module)
		}
		if _, ok := required[d.module]; !ok {
			t.Errorf("%s is listed here but go.mod does not require it", d.module)
		}
		listed[d.module] = d.testOnly
	}
	for _, f := range load(t) {
		for _, imp := range f.imports() {
			first, _, _ := strings.Cut(imp, "/")
			if first == module || !strings.Contains(first, ".") {
				continue // ours, or the standard library's
			}
			mod := moduleOf(imp, required)
			testOnly, ok := listed[mod]
			switch {
			case mod == "":
				t.Errorf("%s imports %s, of no module in go.mod", f.path, imp)
			case !ok:
				t.Errorf("%s imports %s: say in deps_test.go why %s is worth depending on", f.path, imp, mod)
			case testOnly && !f.isTest():
				t.Errorf("%s imports %s, which is allowed in tests only", f.path, imp)
			}
		}
	}
}

// moduleOf finds the required module with the longest path that holds the import.
func moduleOf(imp string, required map[string]bool) string {
	best := ""
	for mod := range required {
		if (imp == mod || strings.HasPrefix(imp, mod+"/")) && len(mod) > len(best) {
			best = mod
		}
	}
	return best
}
