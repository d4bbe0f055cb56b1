package directory

import "testing"

// FuzzToken checks that whatever is taken for a token is one: written again it reads the same.
func FuzzToken(f *testing.F) {
	f.Add(token{place{3, "!room:here.example"}, true}.String())
	f.Add(token{place{0, "!x"}, false}.String())
	f.Add("f")
	f.Add("bMTIz")
	f.Fuzz(func(t *testing.T, s string) {
		read, err := parseToken(s)
		if err != nil {
			return
		}
		again, err := parseToken(read.String())
		if err != nil || again != read {
			t.Errorf("%q reads as %+v and then as %+v, %v", s, read, again, err)
		}
	})
}

// FuzzWithoutAlias checks that what is left is an object that doesn't name the alias, whatever a room says.
func FuzzWithoutAlias(f *testing.F) {
	f.Add(`{"alias":"#a:b","alt_aliases":["#a:b","#c:d",1,null,{}]}`)
	f.Add(`{"alt_aliases":{"x":"#a:b"}}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, content string) {
		out, named := WithoutAlias([]byte(content), "#a:b")
		if !named {
			return
		}
		if again, still := WithoutAlias(out, "#a:b"); still {
			t.Errorf("%s became %s, and then %s", content, out, again)
		}
	})
}
