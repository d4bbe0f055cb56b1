package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// change is one place of Go's runtime that is another one here.
type change struct{ file, from, to string }

var changes = []change{
	{"proc.go", `const haveSysmon = GOARCH != "wasm"`, `const haveSysmon = false`},
	{"proc.go", `const randomizeScheduler = raceenabled`, `const randomizeScheduler = true`},
	{"rand.go", `seed[i%len(seed)] ^= c`, `seed[i%len(seed)] = byte(i) | c&0`},
}

// reseed is added to the runtime, for the tests to call.
const reseed = `
// Reseed makes what is random from here on follow from seed.
func Reseed(seed uint64) {
	mp := acquirem()
	mp.chacha8.Init64([4]uint64{seed, 1, 2, 3})
	mp.cheaprand = rand()
	releasem(mp)
}
`

// overlay writes the changed files of the runtime in root into dir, and returns the file that tells the go command of them.
func overlay(root, dir string) (string, error) {
	texts := map[string]string{}
	for _, c := range changes {
		path := filepath.Join(root, "src", "runtime", c.file)
		text, ok := texts[path]
		if !ok {
			data, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text = string(data)
		}
		if strings.Count(text, c.from) != 1 {
			return "", fmt.Errorf("%s does not have the line %q once: this Go has another runtime than replay knows", path, c.from)
		}
		texts[path] = strings.Replace(text, c.from, c.to, 1)
	}
	replace := map[string]string{}
	for path, text := range texts {
		name := filepath.Base(path)
		if name == "rand.go" {
			text += reseed
		}
		replace[path] = filepath.Join(dir, name)
		if err := os.WriteFile(replace[path], []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	return list, os.WriteFile(list, data, 0o600)
}

// build makes the simulation's tests with the changed runtime and returns the program.
func build(dir string) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	list, err := overlay(strings.TrimSpace(string(root)), dir)
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "simulation.test")
	cmd := exec.Command("go", "test", "-c", "-overlay", list, "-tags", "replay", "-o", program, "myelin/internal/simulation")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the simulation can't be built: %w\n%s", err, out)
	}
	return program, nil
}
