package search

import (
	"strings"

	"github.com/tidwall/gjson"

	"myelin/matrix/event"
	"myelin/matrix/id"
)

// The keys of the specification.
const (
	keyBody  = "content.body"
	keyName  = "content.name"
	keyTopic = "content.topic"
)

// text is what can be found of an event.
type text struct {
	key  string
	text string
	// edited is the event that this one gives another text. Then that one is what is found.
	edited id.EventID
}

// textOf returns what can be found of an event; false for nothing.
//
// Spec: cs Server Side Search
func textOf(p *event.PDU) (text, bool) {
	content := p.Content()
	t := text{}
	switch p.Type() {
	case "m.room.message":
		t.key = keyBody
		t.text = str(content, "body")
		if relation := gjson.GetBytes(content, `m\.relates_to`); relation.Get("rel_type").Str == "m.replace" {
			t.edited = id.EventID(relation.Get("event_id").Str)
			t.text = str(content, `m\.new_content.body`)
		}
	case "m.room.name":
		t.key = keyName
		t.text = str(content, "name")
	case "m.room.topic":
		t.key = keyTopic
		parts := []string{str(content, "topic")}
		for _, r := range gjson.GetBytes(content, `m\.topic.m\.text`).Array() {
			if mime := r.Get("mimetype"); !mime.Exists() || mime.Str == "text/plain" {
				parts = append(parts, r.Get("body").Str)
			}
		}
		t.text = strings.Join(parts, "\n")
	}
	if t.key != keyBody && (!p.IsState() || p.Key().StateKey != "") || t.key == keyBody && p.IsState() {
		return text{}, false
	}
	return t, t.text != ""
}

func str(content []byte, path string) string { return gjson.GetBytes(content, path).Str }
