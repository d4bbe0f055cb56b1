package id

import "strings"

// MatchGlob reports whether a text matches a glob, in which "*" stands for any characters and "?" for one byte. Letters of both cases differ. It takes
// time of at most the product of the lengths: at a mismatch only the last "*" has to try again.
//
// Spec: appendices Glob-style matching
func MatchGlob(glob, s string) bool { return match(glob, s, true) }

// MatchStars is MatchGlob where only "*" is special, as in filters.
//
// Spec: cs Filtering
func MatchStars(glob, s string) bool { return match(glob, s, false) }

func match(glob, s string, one bool) bool {
	g, i, star, from := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, from = g, i
			g++
		case g < len(glob) && (one && glob[g] == '?' || glob[g] == s[i]):
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
