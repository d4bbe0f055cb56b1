package interop

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// versions are the room versions that servers must be able to share.
var versions = []string{"6", "10", "11", "12"}

func TestSynapse(t *testing.T) {
	peer := need(t, synapse, true)
	interoperate(t, need(t, myelin, true), peer)
}

func TestDendrite(t *testing.T) {
	peer := need(t, dendrite, false)
	interoperate(t, need(t, myelin, true), peer)
}

// TestPeers lets the peers share rooms with each other, which shows what of the scenarios they can do. It is not about Myelin, and
// runs where it is asked for by MYELIN_TEST_INTEROP_PEERS=1.
func TestPeers(t *testing.T) {
	if os.Getenv("MYELIN_TEST_INTEROP_PEERS") == "" {
		t.Skip("Synapse against Dendrite: only with MYELIN_TEST_INTEROP_PEERS=1")
	}
	interoperate(t, need(t, synapse, true), need(t, dendrite, false))
}

// interoperate plays everything between two servers, in both directions.
func interoperate(t *testing.T, a, b *homeserver) {
	t.Logf("%s and %s", a, b)
	t.Run("rooms", func(t *testing.T) {
		for _, version := range versions {
			for _, pair := range [][2]*homeserver{{a, b}, {b, a}} {
				t.Run("v"+version+" of "+pair[0].product, func(t *testing.T) {
					t.Parallel()
					playAll(t, version, pair[0], pair[1])
				})
			}
		}
	})
	t.Run("catch-up", func(t *testing.T) { catchUp(t, a, b) })
}

// playAll plays the scenarios on one stage. One that fails doesn't keep the next from being played.
func playAll(t *testing.T, version string, host, guest *homeserver) {
	s := newStage(t, version, host, guest)
	for _, scenario := range scenarios {
		if scenario.has != nil && !scenario.has(version) {
			continue
		}
		t.Run(scenario.name, func(t *testing.T) { scenario.play(t, s.in(t)) })
	}
}

func newStage(t *testing.T, version string, host, guest *homeserver) stage {
	return stage{
		version: version, host: host, guest: guest,
		alice: register(t, host, "alice"), carol: register(t, host, "carol"),
		bob: register(t, guest, "bob"), dave: register(t, guest, "dave"),
	}
}

// away is how many messages of each room a server misses: a thousand in all, unless something else is wanted.
func away(t *testing.T) int {
	text := os.Getenv("MYELIN_TEST_INTEROP_AWAY")
	if text == "" {
		return 1000 / len(versions)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("MYELIN_TEST_INTEROP_AWAY=%q is no number of messages", text)
	}
	return n
}

// catchUp takes each server down while the other goes on in a room of each version, made by the first.
func catchUp(t *testing.T, a, b *homeserver) {
	n := away(t)
	stages := make([]stage, len(versions))
	rooms := make([]string, len(versions))
	for i, version := range versions {
		stages[i] = newStage(t, version, a, b)
		rooms[i] = stages[i].public(t)
		stages[i].exchange(t, rooms[i])
	}
	for _, down := range []*homeserver{b, a} {
		t.Run(down.product+" down", func(t *testing.T) { outage(t, stages, rooms, down, n) })
	}
}

// outagePatience is how long servers may take to find each other again: each backs off in its own way from a server that was down, and the next message
// comes after all that was missed. Dendrite takes those one by one, a thousand of them in half a minute on a quiet machine and in minutes on a busy one. Besides, its
// parts pass events to each other through queues on disk: what a part held when the server stopped comes to it again after half a minute, or, where
// it is the part that keeps rooms, after five minutes, and until then nothing that follows it does.
const outagePatience = 6 * time.Minute

// outage takes one server down until the other has sent n messages to each room.
func outage(t *testing.T, stages []stage, rooms []string, down *homeserver, n int) {
	down.stop()
	said := make([][]string, len(stages))
	t.Run("meanwhile", func(t *testing.T) {
		for i, s := range stages {
			t.Run("v"+s.version, func(t *testing.T) {
				t.Parallel()
				s = s.in(t)
				said[i] = s.monologue(s.staying(down), rooms[i], n)
			})
		}
	})
	if err := down.start(); err != nil {
		t.Fatal(err)
	}
	t.Run("back", func(t *testing.T) {
		for i, s := range stages {
			t.Run("v"+s.version, func(t *testing.T) {
				t.Parallel()
				s = s.in(t)
				returning, staying := s.returning(down), s.staying(down)
				began := time.Now()
				step := func(what string) { t.Logf("after %.1f s %s", time.Since(began).Seconds(), what) }
				// A sign of life, so that nobody waits for a server that was given up for an hour.
				staying.seesWithin(outagePatience, rooms[i], returning.say(rooms[i], "I'm back"))
				step("the other side hears from the server that was down")
				returning.seesWithin(outagePatience, rooms[i], staying.say(rooms[i], "you missed something"))
				step("the server that was down hears from the other side")
				returning.remembers(rooms[i], said[i])
				step("it has everything")
				s.exchange(t, rooms[i])
				s.agree(t, rooms[i])
			})
		}
	})
}

// staying is the user whose server goes on, and returning the one whose server was down.
func (s stage) staying(down *homeserver) user {
	if s.host == down {
		return s.bob
	}
	return s.alice
}

func (s stage) returning(down *homeserver) user {
	if s.host == down {
		return s.alice
	}
	return s.bob
}
