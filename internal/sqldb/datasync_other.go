//go:build !linux

package sqldb

import "zombiezen.com/go/sqlite"

// sqliteFile returns the name to open a database by, and flags for that.
func sqliteFile(path string) (string, sqlite.OpenFlags, error) { return path, 0, nil }
