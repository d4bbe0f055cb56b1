package syncer

import (
	"encoding/json"
	"slices"

	"myelin/internal/graph"
	"myelin/matrix/event"
)

// pattern selects entries of a room's state. A field that is nil matches everything.
//
// MSC4186: RequiredStateElement
type pattern struct {
	Type *string `json:"type,omitempty"`
	Key  *string `json:"state_key,omitempty"`
}

func (p pattern) matches(k event.Key) bool {
	return (p.Type == nil || *p.Type == k.Type) && (p.Key == nil || *p.Key == k.StateKey)
}

// exact returns the one key that the pattern matches.
func (p pattern) exact() (event.Key, bool) {
	if p.Type == nil || p.Key == nil {
		return event.Key{}, false
	}
	return event.Key{Type: *p.Type, StateKey: *p.Key}, true
}

func (p pattern) covers(o pattern) bool {
	return (p.Type == nil || o.Type != nil && *p.Type == *o.Type) && (p.Key == nil || o.Key != nil && *p.Key == *o.Key)
}

// wanted is which of a room's state one rule of a request asks for.
//
// MSC4186: RequiredStateRequest
type wanted struct {
	Include []pattern `json:"include,omitempty"`
	Exclude []pattern `json:"exclude,omitempty"`
	// Lazy: members as they show up in the timeline, and of others only those that Include names one by one.
	Lazy bool `json:"lazy_members,omitempty"`
}

func (w *wanted) matches(k event.Key) bool {
	for _, p := range w.Include {
		if p.matches(k) && !(w.Lazy && k.Type == memberType && p.Key == nil) {
			return !slices.ContainsFunc(w.Exclude, func(x pattern) bool { return x.matches(k) })
		}
	}
	return false
}

// allMembers reports whether the rule asks for every member.
func (w *wanted) allMembers() bool {
	every := func(p pattern) bool { return p.Key == nil && (p.Type == nil || *p.Type == memberType) }
	return !w.Lazy && slices.ContainsFunc(w.Include, every) && !slices.ContainsFunc(w.Exclude, func(p pattern) bool {
		return p.Type == nil || *p.Type == memberType
	})
}

// roomConfig is what rules ask for of a room.
//
// MSC4186: Combining room configs
type roomConfig struct {
	// limit is the most events of the timeline.
	limit  int
	wanted []*wanted
	lazy   bool
	// text stands for wanted: equal configurations have equal texts.
	text string
}

// newConfig returns the configuration of one rule.
func newConfig(limit int, w *wanted) *roomConfig {
	text, _ := json.Marshal([]*wanted{w}) // nothing in it can fail
	return &roomConfig{limit: min(limit, MaxTimeline), wanted: []*wanted{w}, lazy: w.Lazy, text: string(text)}
}

// combine returns the superset of configurations.
func combine(list []*roomConfig) *roomConfig {
	if len(list) == 1 {
		return list[0]
	}
	all := new(roomConfig)
	byText := make(map[string]*wanted)
	for _, c := range list {
		all.limit = max(all.limit, c.limit)
		for _, w := range c.wanted {
			text, _ := json.Marshal(w)
			byText[string(text)] = w
		}
	}
	texts := make([]string, 0, len(byText))
	for t := range byText {
		texts = append(texts, t)
	}
	slices.Sort(texts)
	for _, t := range texts {
		all.wanted = append(all.wanted, byText[t])
	}
	return all.finish()
}

func (c *roomConfig) finish() *roomConfig {
	text, _ := json.Marshal(c.wanted)
	c.text = string(text)
	for _, w := range c.wanted {
		c.lazy = c.lazy || w.Lazy
	}
	if slices.ContainsFunc(c.wanted, (*wanted).allMembers) {
		c.lazy = false
	}
	return c
}

// parseConfig reads the text of a configuration.
func parseConfig(text string) (*roomConfig, error) {
	c := new(roomConfig)
	if err := json.Unmarshal([]byte(text), &c.wanted); err != nil {
		return nil, err
	}
	if slices.Contains(c.wanted, nil) {
		return nil, errBlob
	}
	return c.finish(), nil
}

func (c *roomConfig) matches(k event.Key) bool {
	for _, w := range c.wanted {
		if w.matches(k) {
			return true
		}
	}
	return false
}

// within reports whether old certainly selects all that c does.
func (c *roomConfig) within(old *roomConfig) bool {
	if c.text == old.text {
		return true
	}
	for _, w := range c.wanted {
		inside := func(o *wanted) bool {
			return len(o.Exclude) == 0 && (!o.Lazy || w.Lazy) && !slices.ContainsFunc(w.Include, func(p pattern) bool {
				return !slices.ContainsFunc(o.Include, func(q pattern) bool { return q.covers(p) })
			})
		}
		if !slices.ContainsFunc(old.wanted, inside) {
			return false
		}
	}
	return true
}

// beyond reports whether c selects an entry that old doesn't; old may be nil.
func (c *roomConfig) beyond(old *roomConfig, k event.Key) bool {
	return c.matches(k) && (old == nil || !old.matches(k))
}

// pick calls add for each entry of the state that c selects and old, which may be nil, does not.
func (c *roomConfig) pick(s *graph.State, old *roomConfig, add func(event.Key, graph.EventNID)) {
	var exact []event.Key
	for _, w := range c.wanted {
		for _, p := range w.Include {
			k, ok := p.exact()
			if !ok {
				for k, nid := range s.All() {
					if c.beyond(old, k) {
						add(k, nid)
					}
				}
				return
			}
			exact = append(exact, k)
		}
	}
	for _, k := range exact {
		if nid, ok := s.Get(k.Type, k.StateKey); ok && c.beyond(old, k) {
			add(k, nid)
		}
	}
}
