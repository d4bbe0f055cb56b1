package main

import (
	"strings"
	"testing"
)

// TestMediaCommands runs the commands without a server and without any file.
func TestMediaCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	const file = "mxc://there.example/abc"
	mustCall(t, "", "media", "quarantine", file)
	if out := mustCall(t, "", "media", "quarantined"); !strings.HasPrefix(out, file+"  since 2") {
		t.Error(out)
	}
	mustCall(t, "", "media", "release", file)
	if out := mustCall(t, "", "media", "quarantined") + mustCall(t, "", "media", "list") + mustCall(t, "", "media", "list", "alice"); out != "" {
		t.Error(out)
	}
	if out := mustCall(t, "", "media", "remove", "--user", "alice"); !strings.HasPrefix(out, "0 files") {
		t.Error(out)
	}
	for _, args := range [][]string{{"remove", file}, {"release", file}, {"remove"}, {"remove", "--user", "alice", file}, {"quarantine", "https://there.example/abc"}, {"quarantine", "abc"}} {
		if out, err := call(t, "", append([]string{"media"}, args...)...); err == nil {
			t.Errorf("%v: %s", args, out)
		}
	}
}
