package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// maxPlaces is how many processes may run seeds at the same time.
const maxPlaces = 10

// place returns an empty folder for the servers' folders: in memory where that can be had, and the same every time unless another process has it, because a name
// may decide about an order. What a process left there that was killed is deleted. It is this process's until it ends.
func place() (string, error) {
	for _, parent := range []string{"/dev/shm", os.TempDir()} {
		for i := range maxPlaces {
			dir := filepath.Join(parent, fmt.Sprintf("myelin-replay-%d-%d", os.Getuid(), i))
			lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				break
			}
			if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
				lock.Close()
				continue
			}
			held = append(held, lock)
			if err := os.RemoveAll(dir); err != nil {
				return "", err
			}
			return dir, os.Mkdir(dir, 0o700)
		}
	}
	return "", fmt.Errorf("no folder can be made in %s, or %d processes run seeds already", os.TempDir(), maxPlaces)
}

// held are the locks of this process, and keeps them from being closed by the garbage collector.
var held []*os.File
