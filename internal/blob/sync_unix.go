//go:build unix

package blob

import (
	"errors"
	"os"
)

// syncFolder makes new names in a folder durable.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
