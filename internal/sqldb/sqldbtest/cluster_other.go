//go:build !unix

package sqldbtest

import "errors"

func startCluster(bool) (string, error) {
	return "", errors.New("temporary clusters are made on Unix only, and MYELIN_TEST_POSTGRES is not set")
}
