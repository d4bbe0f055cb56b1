//go:build !replay

package simulation

import "testing"

// chance says what decides where the seed does not: the scheduler, so seeds may as well run at the same time.
func chance(t *testing.T, _ uint64) { t.Parallel() }
