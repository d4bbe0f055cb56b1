package blob

import (
	"os"

	"golang.org/x/sys/unix"
)

// beginSync has the disk begin to write a part of a file. It does not wait for it, and promises nothing.
func beginSync(f *os.File, from, size int64) {
	_ = unix.SyncFileRange(int(f.Fd()), from, size, unix.SYNC_FILE_RANGE_WRITE) // whatever fails fails again when it matters
}
