package servertest

import (
	"os"
	"testing"
)

// requireOrSkip ends a test that lacks something: as a failure where nothing may be skipped.
func requireOrSkip(tb testing.TB, what string, err error) {
	tb.Helper()
	if os.Getenv("MYELIN_REQUIRE") == "all" {
		tb.Fatalf("%s is missing: %v", what, err)
	}
	tb.Skipf("%s is missing: %v", what, err)
}
