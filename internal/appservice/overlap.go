package appservice

import (
	"fmt"
	"regexp/syntax"
	"slices"
)

// maxStates bounds how many pairs of states a comparison of two expressions looks at.
const maxStates = 200_000

// overlap reports whether some name is in the namespaces of both expressions. It walks both machines at once: a name that brings each
// of them to its end is in both. Word boundaries are taken to hold anywhere, so a verdict can be too strict where they are used.
// Expressions that are too large to compare count as overlapping only if they are equal.
func overlap(a, b string) (bool, error) {
	if a == b {
		return true, nil
	}
	left, err := machine(a)
	if err != nil {
		return false, err
	}
	right, err := machine(b)
	if err != nil {
		return false, err
	}
	w := walk{left: left, right: right, seen: make(map[pair]bool)}
	return w.run(), nil
}

// machine compiles an expression as namespaces match it: from the beginning, whatever follows.
func machine(regex string) (*syntax.Prog, error) {
	re, err := syntax.Parse(`\A(?:`+regex+`)(?s:.*)\z`, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("the regex %q: %w", regex, err)
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return nil, fmt.Errorf("the regex %q: %w", regex, err)
	}
	return prog, nil
}

// pair is a state of each machine. begun says that something was read: beginnings of text are behind. ended says that nothing more may be.
type pair struct {
	a, b         uint32
	begun, ended bool
}

type walk struct {
	left, right *syntax.Prog
	seen        map[pair]bool
	todo        []pair
}

func (w *walk) add(p pair) {
	if !w.seen[p] && len(w.seen) < maxStates {
		w.seen[p] = true
		w.todo = append(w.todo, p)
	}
}

// run reports whether both machines can come to their ends by one name.
func (w *walk) run() bool {
	w.add(pair{a: uint32(w.left.Start), b: uint32(w.right.Start)})
	for len(w.todo) > 0 {
		p := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		a, b := &w.left.Inst[p.a], &w.right.Inst[p.b]
		if next, moves := free(a, p); moves {
			for _, n := range next {
				w.add(pair{n.state, p.b, p.begun, n.ended})
			}
			continue
		}
		if next, moves := free(b, p); moves {
			for _, n := range next {
				w.add(pair{p.a, n.state, p.begun, n.ended})
			}
			continue
		}
		if a.Op == syntax.InstMatch && b.Op == syntax.InstMatch {
			return true
		}
		if !p.ended && reads(a) && reads(b) && common(a, b) {
			w.add(pair{a.Out, b.Out, true, false})
		}
	}
	return false
}

// step is a state that is reached without reading.
type step struct {
	state uint32
	ended bool
}

// free returns where an instruction leads without reading anything, and false for one that reads or is the end.
func free(i *syntax.Inst, p pair) (next []step, moves bool) {
	switch i.Op {
	case syntax.InstAlt, syntax.InstAltMatch:
		return []step{{i.Out, p.ended}, {i.Arg, p.ended}}, true
	case syntax.InstCapture, syntax.InstNop:
		return []step{{i.Out, p.ended}}, true
	case syntax.InstEmptyWidth:
		what := syntax.EmptyOp(i.Arg)
		if what&syntax.EmptyBeginText != 0 && p.begun {
			return nil, true
		}
		return []step{{i.Out, p.ended || what&syntax.EmptyEndText != 0}}, true
	case syntax.InstFail:
		return nil, true
	}
	return nil, false
}

func reads(i *syntax.Inst) bool {
	return i.Op == syntax.InstRune || i.Op == syntax.InstRune1 || i.Op == syntax.InstRuneAny || i.Op == syntax.InstRuneAnyNotNL
}

// common reports whether two instructions read a character in common. The candidates are the ends of their ranges, and what each of
// them folds to.
func common(a, b *syntax.Inst) bool {
	any := func(i *syntax.Inst) bool { return i.Op == syntax.InstRuneAny || i.Op == syntax.InstRuneAnyNotNL }
	if any(a) && any(b) {
		return true
	}
	candidates := slices.Concat(a.Rune, b.Rune)
	if any(a) || any(b) {
		candidates = append(candidates, 'a')
	}
	for _, r := range candidates {
		if a.MatchRune(r) && b.MatchRune(r) {
			return true
		}
		for _, other := range folded(r) {
			if a.MatchRune(other) && b.MatchRune(other) {
				return true
			}
		}
	}
	return false
}

// folded are the other cases of an ASCII letter: names have no others that fold.
func folded(r rune) []rune {
	switch {
	case 'a' <= r && r <= 'z':
		return []rune{r - 'a' + 'A'}
	case 'A' <= r && r <= 'Z':
		return []rune{r - 'A' + 'a'}
	}
	return nil
}
