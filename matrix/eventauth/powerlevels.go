package eventauth

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

// checkPowerLevels applies the rules for m.room.power_levels: first of what it may hold, then of what it
// may change.
func (t *trial) checkPowerLevels() verdict {
	next, v := t.readTables(t.p.Content())
	if !v.ok {
		return v
	}
	current := t.state(typePowerLevels, "")
	if current == nil {
		return allow(levelsFirst)
	}
	// An unreadable level in the state, from a time before this check, counts as absent.
	old, _ := t.readTables(current.Content())
	return t.checkChanges(old, next)
}

// tables are the levels of an m.room.power_levels event, as far as the rules compare them.
type tables struct {
	properties, events, notifications, users []entry
}

// entry is one level and its name, which is a property, an event type, a kind of notification or a user.
type entry struct {
	name  string
	level Power
}

// readTables reads what can be read, and tells of the first thing that can't.
func (t *trial) readTables(content []byte) (tables, verdict) {
	var read tables
	properly, maps, users := true, true, true // whether each part is readable
	for key, raw := range canon.Fields(content) {
		switch key {
		case "users":
			read.users, users = readTable(t.version, raw)
		case "events":
			var ok bool
			read.events, ok = readTable(t.version, raw)
			maps = maps && ok
		case "notifications":
			if t.version.NotificationsPowerLevel {
				var ok bool
				read.notifications, ok = readTable(t.version, raw)
				maps = maps && ok
			}
		default:
			if !slices.Contains(properties[:], key) {
				continue
			}
			if n, ok := parseLevel(t.version, raw); ok {
				read.properties = append(read.properties, entry{key, n})
			} else {
				properly = false
			}
		}
	}

	switch {
	case t.has(levelsProperties) && !properly:
		return read, reject(levelsProperties)
	case t.has(levelsMaps) && !maps:
		return read, reject(levelsMaps)
	case !users || slices.ContainsFunc(read.users, isNoUserID):
		return read, reject(levelsUsers)
	}
	if t.has(levelsCreators) {
		creators := map[string]bool{}
		for _, u := range Creators(t.create) {
			creators[string(u)] = true
		}
		for _, e := range read.users {
			if creators[e.name] {
				return read, reject(levelsCreators).about(e.name)
			}
		}
	}
	if t.has(levelsFormat) && !(properly && maps) {
		return read, reject(levelsFormat)
	}
	return read, verdict{ok: true}
}

func isNoUserID(e entry) bool {
	_, err := id.ParseUserID(e.name)
	return err != nil
}

// readTable reads an object of levels.
func readTable(v *roomver.Version, object []byte) (levels []entry, ok bool) {
	if !isObject(object) {
		return nil, false
	}
	ok = true
	for name, raw := range canon.Fields(object) {
		if n, readable := parseLevel(v, raw); readable {
			levels = append(levels, entry{name, n})
		} else {
			ok = false
		}
	}
	return levels, ok
}

// checkChanges judges the difference between two sets of levels, in the order of the text.
func (t *trial) checkChanges(old, next tables) verdict {
	own := t.levels.User(t.p.Sender())
	for c := range changes(old.properties, next.properties) {
		switch {
		case c.removes && c.old > own:
			return c.reject(levelsChangeCurrent, own)
		case c.adds && c.next > own:
			return c.reject(levelsChangeNew, own)
		}
	}
	for _, pair := range [][2][]entry{{old.events, next.events}, {old.notifications, next.notifications}} {
		for c := range changes(pair[0], pair[1]) {
			if c.removes && c.old > own {
				return c.reject(levelsEntryCurrent, own)
			}
		}
	}
	for _, pair := range [][2][]entry{{old.events, next.events}, {old.notifications, next.notifications}} {
		for c := range changes(pair[0], pair[1]) {
			if c.adds && c.next > own {
				return c.reject(levelsEntryAdded, own)
			}
		}
	}
	for c := range changes(old.users, next.users) {
		if c.removes && c.old >= own && c.name != string(t.p.Sender()) {
			return c.reject(levelsUserCurrent, own)
		}
	}
	for c := range changes(old.users, next.users) {
		if c.adds && c.next > own {
			return c.reject(levelsUserAdded, own)
		}
	}
	return allow(levelsOtherwise)
}

// change is one name whose level is not the same before and after. A changed level both removes and adds.
type change struct {
	name          string
	removes, adds bool
	old, next     Power
}

func (c change) reject(r rule, own Power) verdict {
	level := c.old
	if r == levelsChangeNew || r == levelsEntryAdded || r == levelsUserAdded {
		level = c.next
	}
	return reject(r).about(fmt.Sprintf("%s has %d, the sender %d", c.name, level, own))
}

// changes walks two tables in the order of names. Canonical objects are in that order already.
func changes(old, next []entry) iter.Seq[change] {
	return func(yield func(change) bool) {
		byName := func(a, b entry) int { return strings.Compare(a.name, b.name) }
		for _, table := range [][]entry{old, next} {
			if !slices.IsSortedFunc(table, byName) {
				slices.SortFunc(table, byName)
			}
		}
		for len(old) > 0 || len(next) > 0 {
			var c change
			switch {
			case len(next) == 0 || len(old) > 0 && old[0].name < next[0].name:
				c = change{name: old[0].name, removes: true, old: old[0].level}
				old = old[1:]
			case len(old) == 0 || next[0].name < old[0].name:
				c = change{name: next[0].name, adds: true, next: next[0].level}
				next = next[1:]
			default:
				c = change{old[0].name, true, true, old[0].level, next[0].level}
				old, next = old[1:], next[1:]
				if c.old == c.next {
					continue
				}
			}
			if !yield(c) {
				return
			}
		}
	}
}
