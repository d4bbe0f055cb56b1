package stateres

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"myelin/matrix/event"
	"myelin/matrix/eventauth"
	"myelin/matrix/id"
)

// The files in testdata hold scenarios:
//
//	== title
//	versions 2 10        the room versions that it runs in
//	on main              what follows happens on this branch
//	NAME TYPE STATE_KEY SENDER [ts=N] [auth=NAME,...] [unchecked] {content}
//	                     makes an event; TYPE without "m.room.", "-" for an empty state key
//	fork left from main  starts a branch; later lines are on it
//	include NAME         puts an existing event into the state of the branch
//	reject NAME          says that the event was rejected
//	resolve left right   resolves the states of branches
//	want TYPE STATE_KEY = NAME    or "none"; every conflicted key must be wanted
type script struct {
	t    *testing.T
	room *testRoom
	// places names files and lines in messages.
	place    string
	branches map[string]*branch
	now      *branch
	names    map[string]*event.PDU
	rejected map[id.EventID]bool
	clock    int64
	result   Set
	open     map[event.Key]bool
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range bytes.Split(raw, []byte("\n== "))[1:] {
			title, text, _ := strings.Cut(string(part), "\n")
			versions, text, _ := strings.Cut(strings.TrimPrefix(text, "versions "), "\n")
			for _, v := range strings.Fields(versions) {
				t.Run(title+"/v"+v, func(t *testing.T) {
					s := &script{t: t, room: newTestRoom(t, mustVersion(t, v)), branches: map[string]*branch{}, names: map[string]*event.PDU{},
						rejected: map[id.EventID]bool{}, clock: 1000}
					lines := bufio.NewScanner(strings.NewReader(text))
					for lines.Scan() {
						if line, _, _ := strings.Cut(lines.Text(), " # "); strings.TrimSpace(line) != "" && line[0] != '#' {
							s.place = line
							s.line(line)
						}
					}
					s.finish()
				})
			}
		}
	}
}

func (s *script) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\n  %s", s.place, fmt.Sprintf(format, args...))
}

func (s *script) line(line string) {
	words := strings.Fields(line)
	switch words[0] {
	case "on":
		if s.branches[words[1]] == nil {
			s.branches[words[1]] = &branch{state: Set{}}
		}
		s.now = s.branches[words[1]]
	case "fork":
		b := *s.branches[words[3]]
		s.branches[words[1]], s.now = &b, &b
	case "include":
		s.now.state = with(s.now.state, s.event(words[1]))
	case "reject":
		s.rejected[s.event(words[1]).ID()] = true
	case "resolve":
		s.finish()
		s.resolve(words[1:])
	case "want":
		s.want(words[1:])
	default:
		s.make(line, words)
	}
}

func (s *script) event(name string) *event.PDU {
	p := s.names[name]
	if p == nil {
		s.fail("no event %q", name)
	}
	return p
}

func scriptKey(typ, stateKey string) event.Key {
	if stateKey == "-" {
		stateKey = ""
	}
	if !strings.Contains(typ, ".") {
		typ = "m.room." + typ
	}
	return event.Key{Type: typ, StateKey: stateKey}
}

func (s *script) make(line string, words []string) {
	key := scriptKey(words[1], words[2])
	s.clock++
	d := draft{typ: key.Type, stateKey: key.StateKey, sender: id.UserID(words[3]), content: line[strings.Index(line, "{"):],
		ts: s.clock, prev: s.now.prev, depth: s.now.depth + 1, state: s.now.state}
	unchecked := false
	for _, w := range words[4:] {
		name, value, _ := strings.Cut(w, "=")
		switch {
		case name == "ts":
			d.ts, _ = strconv.ParseInt(value, 10, 64)
		case name == "auth":
			d.auth = []id.EventID{}
			for n := range strings.SplitSeq(value, ",") {
				d.auth = append(d.auth, s.event(n).ID())
			}
		case name == "unchecked":
			unchecked = true
		}
	}
	p := s.room.build(d)
	if err := eventauth.Check(p, s.room.at(s.now.state)); err != nil && !unchecked {
		s.fail("not allowed: %v", err)
	}
	s.room.keep(p)
	s.names[words[0]] = p
	s.now.state, s.now.prev, s.now.depth = with(s.now.state, p), []id.EventID{p.ID()}, d.depth
}

func (s *script) resolve(names []string) {
	var sets []Set
	for _, n := range names {
		if s.branches[n] == nil {
			s.fail("no branch %q", n)
		}
		sets = append(sets, s.branches[n].state)
	}
	for _, generations := range []bool{true, false} {
		in := s.room.input(generations)
		in.Rejected = func(e id.EventID) bool { return s.rejected[e] }
		result := mustResolve(s.t, s.room, in, sets)
		if generations {
			s.result = result
		} else {
			same(s.t, s.room, "without generations", sets, result, s.result)
		}
	}
	if s.room.version.ID != "1" {
		same(s.t, s.room, "by the model", sets, s.result, (&model{room: s.room, rejected: s.rejected}).resolve(sets))
	}
	conflicted, _ := Split(sets)
	s.open = map[event.Key]bool{}
	for k := range maps.Keys(conflicted) {
		s.open[k] = true
	}
}

func (s *script) want(words []string) {
	key := scriptKey(words[0], words[1])
	delete(s.open, key)
	got, ok := s.result[key]
	switch {
	case words[3] == "none" && ok, words[3] != "none" && s.event(words[3]).ID() != got:
		name := "none"
		for n, p := range s.names {
			if p.ID() == got {
				name = n
			}
		}
		s.t.Errorf("%s\n  but it is %s", s.place, name)
	}
}

// finish checks that every conflicted key of the last resolution was looked at.
func (s *script) finish() {
	for k := range s.open {
		s.t.Errorf("%s %q is conflicted and not wanted", k.Type, k.StateKey)
	}
	s.open = nil
}
