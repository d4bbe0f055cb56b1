package eventauth

import "myelin/matrix/roomver"

// Rejection says why an event may not be in a room, and by which rule.
type Rejection struct {
	// Rule is the room version and the number of the rule in its text, such as "v11 4.3.7". Where the
	// text rejects an event outside the numbered rules it names the chapter.
	Rule string
	// Text is one sentence for a human. It may be shown to clients.
	Text string
	// Malformed says that the event would be rejected whoever sent it and wherever: what it says makes no sense.
	Malformed bool
}

func (r *Rejection) Error() string { return r.Text + " (rule " + r.Rule + ")" }

// verdict is what a rule says of an event.
type verdict struct {
	rule   rule
	ok     bool
	detail string
}

func allow(r rule) verdict  { return verdict{rule: r, ok: true} }
func reject(r rule) verdict { return verdict{rule: r} }

// allowIf is for rules that allow "if and only if".
func allowIf(r rule, ok bool) verdict { return verdict{rule: r, ok: ok} }

// about adds what the rejection is about, such as a type or a level.
func (v verdict) about(detail string) verdict {
	v.detail = detail
	return v
}

func (v verdict) rejection(rs *ruleset) *Rejection {
	r := &Rejection{Rule: rs.id + " " + rs.number[v.rule], Text: texts[v.rule]}
	switch v.rule {
	case levelsProperties, levelsMaps, levelsUsers, levelsCreators:
		r.Malformed = true
	}
	if v.detail != "" {
		r.Text += ": " + v.detail
	}
	return r
}

func (v verdict) err(rs *ruleset) error {
	if v.ok {
		return nil
	}
	return v.rejection(rs)
}

func unknownVersion(v *roomver.Version) *Rejection {
	return &Rejection{Rule: "v" + v.ID, Text: "the rules of this room version are not known"}
}
