package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const lockName = "myelin.lock"

// ErrInUse says that another process uses the data folder.
var ErrInUse = errors.New("the data folder is in use")

// folder is the data folder, held by this process.
type folder struct {
	path string
	lock *os.File
}

// openFolder makes the data folder where it is missing and locks it. The error wraps ErrInUse where
// another process holds the lock.
func openFolder(path string) (*folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder %s (data_dir): %w", path, err)
	}
	name := filepath.Join(path, lockName)
	f, err := lockFile(name)
	if errors.Is(err, ErrInUse) {
		return nil, fmt.Errorf("%w: another Myelin%s uses %s; stop it, or choose another data_dir", ErrInUse, holder(name), path)
	} else if err != nil {
		return nil, fmt.Errorf("lock the data folder %s (data_dir): %w", path, err)
	}
	// The number of the process is only there to be shown, so failing to write it does no harm.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &folder{path: path, lock: f}, nil
}

// holder reads who locked a folder: " (process 123)", or nothing where that cannot be read.
func holder(lockName string) string {
	f, err := os.Open(lockName)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

// close gives the folder free. The lock file stays: removing it would race with the next process.
func (f *folder) close() error { return f.lock.Close() }
