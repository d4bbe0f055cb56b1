package main

import (
	"slices"
	"strings"
	"testing"
)

const chapter = "## One `code` chapter {#anchor}\n```\n# no heading\n```\n#### API -&gt; [two](/x)\n**`a_term`**\n**Bold** in a sentence\n" +
	"<a id=\"x\"></a> **`.m.rule.x`**\n{{% cs-module name=\"Three\" filename=\"three\" %}}\n{{% event event=\"m.four\" %}}\n**{{% added-in v=1 %}} Five.**\n"

func TestNamesIn(t *testing.T) {
	want := []string{"One code chapter", "API -> two", "a_term", ".m.rule.x", "Three", "m.four", "Five"}
	if got := namesIn(chapter); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

const rules = "\nThe complete list of rules, as of version 3, is as follows:\n\n1.  If:\n    1.  a\n\n        **Note**: b\n    5. c\n        1.  d\n2. e\n3.  f\n    1. g\n\n{{% boxes/note %}}\n1. no rule\n"

func TestAuthRules(t *testing.T) {
	if got := strings.Join(authRules(rules), " "); got != "1 1.1 1.2 1.2.1 2 3 3.1" {
		t.Errorf("%s", got)
	}
	if got := authRules("1. x"); got != nil {
		t.Errorf("%q", got)
	}
}

func FuzzChapter(f *testing.F) {
	f.Add(chapter)
	f.Add(rules)
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range append(namesIn(text), authRules(text)...) {
			if strings.ContainsAny(name, "\n\t") {
				t.Errorf("%q would break the list", name)
			}
		}
	})
}
