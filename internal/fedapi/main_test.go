package fedapi_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"myelin/internal/fedapi"
	"myelin/internal/spectest"
	"myelin/spec"
)

// TestMain also looks whether every operation that is served was exercised with success, if all tests ran.
func TestMain(m *testing.M) {
	code := m.Run()
	for _, name := range []string{"test.run", "test.skip", "test.fuzz", "test.bench", "test.list"} {
		if flag.Lookup(name).Value.String() != "" {
			os.Exit(code)
		}
	}
	if missing := unexercised(); code == 0 && spectest.Missing() == nil && len(missing) > 0 {
		fmt.Printf("FAIL: no test had a success of the operations %s\n", strings.Join(missing, ", "))
		code = 1
	}
	os.Exit(code)
}

func unexercised() (missing []string) {
	exercised := spectest.Exercised(spec.ServerServer)
	for _, r := range new(fedapi.API).Routes() {
		// queryInfo is for types of queries that nobody defined, and always says no. What ends in V1 the specification has dropped.
		none := r.Op == "queryInfo" || r.Op == "sendJoinV1" || r.Op == "sendLeaveV1"
		if exercised[r.Op][http.StatusOK] == 0 && !none && !slices.Contains(missing, r.Op) {
			missing = append(missing, r.Op)
		}
	}
	return missing
}
