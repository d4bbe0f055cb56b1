package eventauth

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// plan is an event as a scenario states it, before there is a room version.
type plan struct {
	typ, key, sender string
	isState          bool
	content          string
	with             map[string]json.RawMessage
	prev             string
}

// judgement is an event of a scenario, the state it is judged by and what is expected.
type judgement struct {
	where  string
	name   string // of the scenario
	state  map[event.Key]plan
	event  plan
	cited  []plan
	expect map[int]string
}

// createHash stands for the reference hash of the create event of version 12.
const createHash = "createcreatecreatecreatecreatecreatecreatec"

// make builds the event in a room of version v.
func (p plan) make(t testing.TB, v *roomver.Version, name string) *event.PDU {
	t.Helper()
	eventID := func(name, domain string) string {
		if v.CreateAsRoomID && name == "create" {
			name = createHash
		}
		if v.EventIDs == roomver.EventIDDomain {
			return "$" + name + ":" + domain
		}
		return "$" + name
	}
	edge := func(name string) any {
		if v.EventIDs == roomver.EventIDDomain {
			return []any{eventID(name, "a"), map[string]any{"sha256": "aGFzaA"}}
		}
		return eventID(name, "a")
	}
	fields := map[string]any{
		"type": p.typ, "sender": p.sender, "content": json.RawMessage(p.content),
		"origin_server_ts": 1, "depth": 1, "auth_events": []any{}, "prev_events": []any{},
		"hashes": map[string]any{"sha256": "aGFzaA"}, "signatures": map[string]any{},
	}
	if p.isState {
		fields["state_key"] = p.key
	}
	if p.typ == typeCreate {
		name = "create"
	}
	switch {
	case !v.CreateAsRoomID:
		fields["room_id"] = "!room:a"
	case p.typ != typeCreate:
		fields["room_id"] = "!" + createHash
	}
	switch p.prev {
	case "create", "message":
		fields["prev_events"] = []any{edge(p.prev)}
	}
	_, domain, _ := strings.Cut(p.sender, ":")
	own := eventID(name, domain)
	if v.EventIDs == roomver.EventIDDomain {
		fields["event_id"] = own
	}
	for k, raw := range p.with {
		fields[k] = raw
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	raw, err = canon.Canonicalize(nil, raw, v.Canon)
	if err != nil {
		t.Fatalf("version %s, %s: %v", v.ID, p.content, err)
	}
	pdu, err := event.Trusted(v, id.EventID(own), raw)
	if err != nil {
		t.Fatalf("version %s, %s: %v", v.ID, raw, err)
	}
	return pdu
}

// judge gives what the rules say: "allow" or "reject", and the number.
func (j judgement) judge(t testing.TB, v *roomver.Version) string {
	t.Helper()
	p := j.event.make(t, v, "event")
	rs := rulesOf(v)
	var got verdict
	var err error
	if len(j.cited) > 0 {
		cited := make([]*event.PDU, len(j.cited))
		for i, c := range j.cited {
			cited[i] = c.make(t, v, "cited"+strconv.Itoa(i))
		}
		got, err = checkAuthEvents(rs, p, cited), CheckAuthEvents(p, cited)
		if got.ok && got.rule == authNoCreate {
			t.Errorf("%s: allowed by a rule that rejects", j.where)
		}
	} else {
		state := map[event.Key]*event.PDU{}
		for k, e := range j.state {
			state[k] = e.make(t, v, "state")
		}
		lookup := func(typ, key string) *event.PDU { return state[event.Key{Type: typ, StateKey: key}] }
		got, err = decide(rs, p, lookup), Check(p, lookup)
	}
	if got.ok != (err == nil) {
		t.Errorf("%s: verdict %v, error %v", j.where, got, err)
	}
	if r, ok := err.(*Rejection); err != nil && (!ok || r.Rule != "v"+v.ID+" "+rs.number[got.rule] || r.Text == "") {
		t.Errorf("%s: rejection %+v for rule %s", j.where, err, rs.number[got.rule])
	}
	word := "reject"
	if got.ok {
		word = "allow"
	}
	return word + " " + rs.number[got.rule]
}

func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		for _, j := range readScenarios(t, file) {
			for number, want := range j.expect {
				v, _ := roomver.Get(strconv.Itoa(number))
				seen[v.ID+" "+want] = true
				if got := j.judge(t, v); got != want {
					t.Errorf("%s, version %s: %s, want %s", j.where, v.ID, got, want)
				}
			}
		}
	}
	for v := first; v <= last; v++ {
		for _, p := range rulesets[v].decisive() {
			word := "reject"
			if p.text == "" {
				word = "allow"
			}
			key := fmt.Sprintf("%d %s %s", v, word, rulesets[v].number[p.rule])
			if !seen[key] {
				t.Errorf("no scenario for version %s", key)
			}
		}
	}
}

// readScenarios reads the language that testdata/README.md describes.
func readScenarios(t testing.TB, file string) []judgement {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var (
		done     []judgement
		scenario string
		state    map[event.Key]plan
		last     *plan // what "with" is about
	)
	number := 0
	for line := range strings.Lines(string(source)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		where := fmt.Sprintf("%s:%d (%s)", file, number, scenario)
		switch word {
		case "scenario":
			scenario, state = rest, usualState()
		case "state":
			p := readPlan(t, where, rest)
			state[event.Key{Type: p.typ, StateKey: p.key}] = p
		case "without":
			typ, key, _ := strings.Cut(rest, " ")
			delete(state, event.Key{Type: typ, StateKey: strings.Trim(key, `"`)})
		case "event":
			done = append(done, judgement{where: where, name: scenario, state: maps.Clone(state),
				event: readPlan(t, where, rest), expect: map[int]string{}})
			last = &done[len(done)-1].event
		case "cites":
			j := &done[len(done)-1]
			j.cited = append(j.cited, readPlan(t, where, rest))
			last = &j.cited[len(j.cited)-1]
		case "with":
			if err := json.Unmarshal([]byte(rest), &last.with); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
		case "prev":
			last.prev = rest
		default:
			j := &done[len(done)-1]
			for _, v := range readVersions(t, where, word) {
				if _, twice := j.expect[v]; twice {
					t.Fatalf("%s: version %d twice", where, v)
				}
				j.expect[v] = rest
			}
		}
	}
	return done
}

func usualState() map[event.Key]plan {
	return map[event.Key]plan{
		{Type: typeCreate}: {typ: typeCreate, isState: true, sender: "@ann:a", content: `{"creator":"@ann:a"}`},
		{Type: typeMember, StateKey: "@ann:a"}: {typ: typeMember, isState: true, key: "@ann:a",
			sender: "@ann:a", content: `{"membership":"join"}`},
	}
}

func readPlan(t testing.TB, where, rest string) plan {
	t.Helper()
	f := strings.SplitN(rest, " ", 4)
	if len(f) != 4 || !json.Valid([]byte(f[3])) {
		t.Fatalf("%s: not TYPE KEY SENDER CONTENT: %s", where, rest)
	}
	return plan{typ: f[0], isState: f[1] != "-", key: strings.Trim(f[1], `"`), sender: f[2], content: f[3], prev: "message"}
}

func readVersions(t testing.TB, where, word string) []int {
	t.Helper()
	from, to, isRange := strings.Cut(word, "-")
	if !isRange {
		to = from
	}
	a, err := strconv.Atoi(from)
	b, err2 := strconv.Atoi(to)
	if err != nil || err2 != nil || a < first || b > last || a > b {
		t.Fatalf("%s: %q are no versions", where, word)
	}
	var versions []int
	for ; a <= b; a++ {
		versions = append(versions, a)
	}
	return versions
}
