package fedclient

import (
	"strings"

	"myelin/matrix/id"
)

// permit is federation.allow and federation.deny. DNS names have no case, so the globs have none either.
type permit struct{ allow, deny []string }

func newPermit(allow, deny []string) permit {
	lower := func(globs []string) []string {
		out := make([]string, len(globs))
		for i, g := range globs {
			out[i] = strings.ToLower(g)
		}
		return out
	}
	return permit{lower(allow), lower(deny)}
}

func (p permit) ok(name string) bool {
	name = strings.ToLower(name)
	return !matchAny(p.deny, name) && (len(p.allow) == 0 || matchAny(p.allow, name))
}

// matchAny holds a name against globs, with its port and without.
func matchAny(globs []string, name string) bool {
	host := name
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, ']') {
		host = name[:colon]
	}
	for _, g := range globs {
		if id.MatchGlob(g, name) || host != name && id.MatchGlob(g, host) {
			return true
		}
	}
	return false
}
