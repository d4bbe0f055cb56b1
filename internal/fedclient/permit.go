package fedclient

import "strings"

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
		if match(g, name) || host != name && match(g, host) {
			return true
		}
	}
	return false
}

// match is glob matching in time of at most the product of the lengths: at a mismatch only the last
// "*" has to try again.
func match(glob, s string) bool {
	g, i, star, from := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, from = g, i
			g++
		case g < len(glob) && (glob[g] == '?' || glob[g] == s[i]):
			g++
			i++
		case star >= 0:
			from++
			g, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(glob[g:], "*") == ""
}
