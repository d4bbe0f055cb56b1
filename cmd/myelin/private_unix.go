//go:build unix

package main

import "syscall"

// privateFiles keeps every file that this process makes from the machine's other users.
func privateFiles() { syscall.Umask(0o077) }
