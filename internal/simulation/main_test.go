package simulation

import (
	"os"
	"testing"
)

// TestMain keeps the servers' folders in memory where that can be had: a power failure is a copy of the folder here, so nothing depends
// on the disk.
func TestMain(m *testing.M) {
	if dir, err := os.MkdirTemp("/dev/shm", "myelin-simulation-"); err == nil {
		defer os.RemoveAll(dir)
		os.Setenv("TMPDIR", dir)
	}
	m.Run()
}
