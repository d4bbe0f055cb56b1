//go:build !goolm

package clienttest

import (
	"os"
	"testing"
)

func TestEncryption(t *testing.T) {
	const missing = "mautrix-go's crypto is built without C only with the build tag goolm: go test -tags goolm ./internal/clienttest"
	if os.Getenv("MYELIN_REQUIRE") == "all" {
		t.Fatal(missing)
	}
	t.Skip(missing)
}
