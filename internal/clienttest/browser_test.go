package clienttest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"myelin/internal/config"
	"myelin/internal/servertest"
)

// browserSteps are the steps of jssdk/browser.mjs.
var browserSteps = strings.Fields("login create send image preview search leave")

// browserTime is how long a page may take for all of them, and the browser to start and to end.
const browserTime = time.Minute

// findChromium looks for the browser, and for what bundles the page and drives it.
func findChromium() (string, error) {
	for _, name := range []string{"esbuild", "playwright-core"} {
		if _, err := os.Stat(filepath.Join("jssdk/node_modules", name)); err != nil {
			return "", errors.New(name + " is not installed: npm ci --prefix internal/clienttest/jssdk")
		}
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", errors.New("there is no Chromium in PATH: apt-get install chromium")
}

// TestBrowser has a page in Chromium sign in, send an image and show its thumbnail, show the preview of a page, and find a message.
func TestBrowser(t *testing.T) {
	node, err := findNode()
	chromium := ""
	if err == nil {
		chromium, err = findChromium()
	}
	if err != nil {
		if os.Getenv("MYELIN_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	servertest.Each(t, func(t *testing.T, s *servertest.Server) {
		ctx, cancel := context.WithTimeout(t.Context(), browserTime)
		defer cancel()
		name := strings.TrimPrefix(strings.Split(s.Register(t, "alice").User, ":")[0], "@")
		cmd := exec.CommandContext(ctx, node, "browser.mjs")
		cmd.Dir = "jssdk"
		cmd.Env = append(os.Environ(), "MYELIN_URL="+s.URL, "MYELIN_NAME="+name, "CHROMIUM="+chromium)
		// It ends its browser when it is asked to end.
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 10 * time.Second
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		want := "ok " + strings.Join(browserSteps, "\nok ") + "\n"
		if string(out) != want {
			t.Errorf("the page says\n%swant\n%s", out, want)
		}
	}, func(c *config.Config) { c.Media.PreviewNetworks = []string{"127.0.0.1"} })
}
