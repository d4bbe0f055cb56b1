package servertest

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"myelin/internal/clientapi"
	"myelin/internal/spectest"
	"myelin/spec"
)

// TestMain also looks whether every operation that is served was exercised, if all tests ran.
func TestMain(m *testing.M) {
	code := m.Run()
	run, skip, fuzz := flag.Lookup("test.run").Value.String(), flag.Lookup("test.skip").Value.String(), flag.Lookup("test.fuzz").Value.String()
	if spectest.Missing() == nil && code == 0 && run == "" && skip == "" && fuzz == "" && flag.Lookup("test.list").Value.String() == "" {
		if missing := unexercised(); len(missing) > 0 {
			fmt.Printf("FAIL: no test had a success of the operations %s\n", strings.Join(missing, ", "))
			code = 1
		}
	}
	os.Exit(code)
}

// unexercised lists the specification's operations in the route table that no test had a success of, in order; of those that
// only refuse, the ones that no test had any answer of.
func unexercised() []string {
	specified := make(map[string]bool)
	for _, op := range spec.Of(spec.ClientServer) {
		specified[op.ID] = true
	}
	exercised := spectest.Exercised(spec.ClientServer)
	var missing []string
	for _, r := range new(clientapi.API).Routes() {
		// A route may answer two operations of the same path; the document has the first.
		op, _, _ := strings.Cut(r.Op, " ")
		switch {
		case !specified[op], slices.Contains(missing, op):
		case exercised[op][http.StatusOK] > 0:
		case refuses[op] && len(exercised[op]) > 0:
		default:
			missing = append(missing, op)
		}
	}
	slices.Sort(missing)
	return missing
}

// refuses are operations that always say no: nobody signs in elsewhere, and this is no policy server.
var refuses = map[string]bool{
	"getAuthMetadata":                   true,
	"getWellknownPolicy":                true,
	"redirectToIdP":                     true,
	"redirectToSSO":                     true,
	"requestTokenTo3PIDMSISDN":          true,
	"requestTokenToRegisterMSISDN":      true,
	"requestTokenToResetPasswordMSISDN": true,
}
