package clienttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"myelin/internal/servertest"
)

const (
	// slidingSeeds are the random histories that each engine gets, slidingSteps how much happens in each.
	slidingSeeds = 5
	slidingSteps = 120
)

// TestSlidingSyncShowsWhatSyncShows gives matrix-js-sdk the same random history by sync v2 and by sliding sync, and compares rooms, their state and
// timelines, counts, receipts and tags after each few steps, and of devices that begin in the end.
func TestSlidingSyncShowsWhatSyncShows(t *testing.T) {
	node, err := findNode()
	if err != nil {
		if os.Getenv("MYELIN_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	servertest.Each(t, func(t *testing.T, s *servertest.Server) {
		for seed := range slidingSeeds {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				cmd := exec.CommandContext(ctx, node, "sliding.mjs")
				cmd.Dir = "jssdk"
				cmd.Env = append(os.Environ(), "MYELIN_URL="+s.URL, fmt.Sprintf("MYELIN_SEED=%d", seed), fmt.Sprintf("MYELIN_STEPS=%d", slidingSteps),
					"MYELIN_NAMES="+servertest.Unique("alice")+","+servertest.Unique("bob")+","+servertest.Unique("carol"))
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	})
}
