package eventauth

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"myelin/matrix/roomver"
)

// The numbers that we count are those that stand in the text of each version, in its order.
func TestOutlineFollowsTheText(t *testing.T) {
	headings, err := os.ReadFile("../../spec/headings.txt")
	if err != nil {
		t.Fatal(err)
	}
	inText := map[string][]string{}
	for line := range strings.Lines(string(headings)) {
		chapter, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if version, ok := strings.CutPrefix(chapter, "rooms/"); ok {
			if number, ok := strings.CutPrefix(name, "auth "); ok {
				inText[version] = append(inText[version], number)
			}
		}
	}
	for v := first; v <= last; v++ {
		set := &rulesets[v]
		var ours []string
		for _, p := range outline {
			if set.has(p.rule) {
				ours = append(ours, set.number[p.rule])
			}
		}
		if !slices.Equal(ours, inText[set.id]) {
			t.Errorf("%s: counted %v, in the text %v", set.id, ours, inText[set.id])
		}
	}
}

func TestOutlineIsWhole(t *testing.T) {
	seen := map[rule]bool{}
	for i, p := range outline {
		if seen[p.rule] {
			t.Errorf("row %d stands twice", i)
		}
		seen[p.rule] = true
		if p.from > p.to || p.from < first || p.to > last {
			t.Errorf("row %d: versions %d to %d", i, p.from, p.to)
		}
	}
	for r := noRule + 1; r < ruleCount; r++ {
		if !seen[r] && r != levelsFormat {
			t.Errorf("rule %d has no row", r)
		}
	}
}

// The flags of a room version that say in words what the outline says by its columns must agree with it.
func TestOutlineAgreesWithVersions(t *testing.T) {
	for _, v := range roomver.All() {
		rs := rulesOf(v)
		if rs == nil {
			t.Errorf("no rules for version %s", v.ID)
			continue
		}
		for _, c := range []struct {
			name string
			flag bool
			rule rule
		}{
			{"SpecialCaseAliases", v.SpecialCaseAliases, aliases},
			{"RedactionAuth", v.RedactionAuth, redaction},
			{"Knock", v.Knock, knock},
			{"Restricted", v.Restricted, joinRestricted},
			{"IntegerPowerLevels", v.IntegerPowerLevels, levelsProperties},
			{"ImplicitCreator", !v.ImplicitCreator, createNoCreator},
			{"CreateAsRoomID", v.CreateAsRoomID, roomIsCreate},
			{"PrivilegedCreators", v.PrivilegedCreators, levelsCreators},
		} {
			if c.flag != rs.has(c.rule) {
				t.Errorf("version %s: %s and the outline disagree", v.ID, c.name)
			}
		}
	}
	if rulesOf(&roomver.Version{ID: "org.example.13"}) != nil || rulesOf(&roomver.Version{ID: "0"}) != nil {
		t.Error("rules for an unknown version")
	}
}

// decisive lists the points of a version that decide something by themselves.
func (s *ruleset) decisive() []point {
	var points []point
	for i, p := range outline {
		head := i+1 < len(outline) && outline[i+1].depth > p.depth
		if s.has(p.rule) && !head && p.rule != authRejected {
			points = append(points, p)
		}
	}
	return points
}

func (p point) String() string { return fmt.Sprintf("%d (%s)", p.rule, p.text) }
