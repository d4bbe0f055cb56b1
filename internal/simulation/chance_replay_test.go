//go:build replay

package simulation

import (
	"runtime"
	"testing"
	"testing/cryptotest"
)

// chance says what decides where the script does not: the seed as well.
func chance(t *testing.T, seed uint64) {
	cryptotest.SetGlobalRandom(t, seed)
	runtime.Reseed(seed)
}
