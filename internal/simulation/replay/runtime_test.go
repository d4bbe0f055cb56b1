package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestOverlay(t *testing.T) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSpace(string(out))
	dir := t.TempDir()
	if _, err := overlay(root, dir); err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		text, err := os.ReadFile(filepath.Join(dir, c.file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), c.to) || strings.Contains(string(text), c.from) {
			t.Errorf("%s is not changed to %q", c.file, c.to)
		}
	}
	// Another runtime is refused.
	other := t.TempDir()
	if err := os.MkdirAll(filepath.Join(other, "src", "runtime"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"proc.go", "rand.go"} {
		if err := os.WriteFile(filepath.Join(other, "src", "runtime", name), []byte("package runtime\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := overlay(other, t.TempDir()); err == nil || !strings.Contains(err.Error(), "proc.go") {
		t.Errorf("a runtime without the lines: %v", err)
	}
}

// What differs from run to run is left out of the comparison of two.
func TestHappened(t *testing.T) {
	if a, b := happened([]byte("--- PASS: TestX (0.55s)\n  1h2m3s x")), happened([]byte("--- PASS: TestX (1.05s)\n  1h2m3s x")); a != b {
		t.Errorf("%q and %q differ", a, b)
	}
	if a, b := happened([]byte("--- PASS: TestX (0.55s)\n  1h2m3s x")), happened([]byte("--- PASS: TestX (0.55s)\n  1h2m4s x")); a == b {
		t.Error("what happened at another time is the same")
	}
}

// Two processes don't meet, and what was left behind is gone.
func TestPlace(t *testing.T) {
	first, err := place()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(first)
	if err := os.Mkdir(filepath.Join(first, "seed"), 0o700); err != nil {
		t.Fatal(err)
	}
	second, err := place()
	if err != nil || second == first {
		t.Fatalf("%s and %s, %v", first, second, err)
	}
	defer os.RemoveAll(second)
	for _, lock := range held { // as when the process ends
		lock.Close()
	}
	held = nil
	again, err := place()
	if err != nil || again != first {
		t.Fatalf("%s and %s, %v", first, again, err)
	}
	if left, err := os.ReadDir(again); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
