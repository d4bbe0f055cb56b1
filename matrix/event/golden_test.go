package event

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"myelin/matrix/canon"
	"myelin/matrix/roomver"
)

// scenario is one paragraph of a golden file: lines of "field: value".
type scenario map[string]string

func (s scenario) versions(t *testing.T) []*roomver.Version {
	t.Helper()
	var first, last int
	if _, err := fmt.Sscanf(s["versions"], "%d-%d", &first, &last); err != nil {
		t.Fatalf("%s: versions %q: %v", s["scenario"], s["versions"], err)
	}
	return roomver.All()[first-1 : last]
}

func scenarios(t *testing.T, path string) (out []scenario) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		field, value, ok := strings.Cut(line, ": ")
		if !ok {
			t.Fatalf("%s: %q is not a field", path, line)
		}
		if field == "scenario" {
			out = append(out, scenario{})
		}
		out[len(out)-1][field] = value
	}
	return out
}

func canonical(t *testing.T, v *roomver.Version, text string) []byte {
	t.Helper()
	out, err := canon.Canonicalize(nil, []byte(text), v.Canon)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}

func TestRedactionScenarios(t *testing.T) {
	for _, s := range scenarios(t, "testdata/redaction.txt") {
		for _, v := range s.versions(t) {
			in := canonical(t, v, s["event"])
			want := string(in)
			if s["left"] != "same" {
				want = string(canonical(t, v, s["left"]))
			}
			if got := string(appendRedacted(nil, v, in, true)); got != want {
				t.Errorf("%s, version %s:\n got %s\nwant %s", s["scenario"], v, got, want)
			}
		}
	}
}

func TestClientScenarios(t *testing.T) {
	for _, s := range scenarios(t, "testdata/client.txt") {
		for _, v := range s.versions(t) {
			p, err := Trusted(v, "$id", canonical(t, v, s["event"]))
			if err != nil {
				t.Fatalf("%s: %v", s["scenario"], err)
			}
			got := string(p.AppendClient(nil, ClientFormat{Unsigned: []byte(`{"age":7}`)}))
			if want := string(canonical(t, v, s["client"])); got != want {
				t.Errorf("%s, version %s:\n got %s\nwant %s", s["scenario"], v, got, want)
			}
			bare := p.AppendClient([]byte("-"), ClientFormat{OmitRoomID: true})
			if want := "-" + string(canon.Without(nil, []byte(got), "room_id", "unsigned")); string(bare) != want {
				t.Errorf("%s, version %s, bare:\n got %s\nwant %s", s["scenario"], v, bare, want)
			}
			if key, ok := p.StateKey(); ok {
				stripped := string(p.AppendStripped(nil))
				if want := string(canon.Without(nil, []byte(got), "event_id", "origin_server_ts", "room_id", "unsigned")); stripped != want {
					t.Errorf("%s with key %q:\n got %s\nwant %s", s["scenario"], key, stripped, want)
				}
			}
		}
	}
}
