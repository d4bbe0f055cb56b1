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
		none := false
		switch r.Op {
		case "queryInfo": // for types of queries that nobody defined: it always says no
			none = true
		case "sendJoinV1", "sendLeaveV1": // the specification has dropped them
			none = true
		}
		if exercised[r.Op][http.StatusOK] == 0 && !none && !slices.Contains(missing, r.Op) {
			missing = append(missing, r.Op)
		}
	}
	return missing
}
