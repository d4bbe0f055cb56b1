package syncer

import "testing"

// FuzzParseToken: what is accepted is what String makes, and nothing else.
func FuzzParseToken(f *testing.F) {
	for _, s := range []string{"s0", "s1", "s72595", "s10_9", "s10_10", "s10_0", "s_1", "s1_", "s01", "s-1", "s+1", "t5", "", "s9223372036854775807_9223372036854775806", "s9223372036854775808", "s1_1_1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			return
		}
		if token.String() != s {
			t.Fatalf("%q is read as %q", s, token)
		}
		if token.Pos < 0 || token.Confirm < 0 || token.Confirm != 0 && token.Confirm >= token.Pos {
			t.Fatalf("%q is %+v", s, token)
		}
	})
}
