package syncer

import (
	"testing"

	"myelin/matrix/mxerr"
)

// FuzzParseToken: what is accepted is what String makes, and nothing else.
func FuzzParseToken(f *testing.F) {
	for _, s := range []string{"s0", "s1", "s72595", "s10_9", "s10_10", "s10_0", "s_1", "s1_", "s01", "s-1", "s+1", "t5", "", "s9223372036854775807_9223372036854775806", "s9223372036854775808", "s1_1_1",
		"s9_0_0_9_9", "s9_0_0_9_3", "s9_0_0_9", "s9_0_0_10_3", "s9_8_7_5_6"} {
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
		if token.Pos < 0 || token.Confirm < 0 || token.Confirm != 0 && token.Confirm >= token.Pos || token.Sticky.At > token.Pos || token.Sticky.Pos > token.Sticky.At {
			t.Fatalf("%q is %+v", s, token)
		}
	})
}

// FuzzParseSliding: whatever a client asks for is refused or can be worked with.
func FuzzParseSliding(f *testing.F) {
	f.Add(`{"lists":{"a":{"ranges":[[0,19]],"timeline_limit":1,"required_state":[["m.room.member","$LAZY"],["*","*"]],"filters":{"is_dm":true}}}}`)
	f.Add(`{"lists":{"a":{"range":[0,19],"timeline_limit":1,"required_state":{"include":[{"type":"a"},{}],"exclude":[{"state_key":"x"}],"lazy_members":true}}}}`)
	f.Add(`{"conn_id":"x","pos":"c1_2_3_4","timeout":-1,"room_subscriptions":{"!a:b":{"timeline_limit":9,"required_state":[]}},"extensions":{"to_device":{"enabled":true,"since":"7"}}}`)
	f.Fuzz(func(t *testing.T, body string) {
		for _, form := range []SlidingForm{SlidingStable, SlidingUnstable} {
			q, err := ParseSliding(form, "@a:b", []byte(body))
			if _, refused := mxerr.Of(err); err != nil && !refused {
				t.Errorf("%v", err)
			}
			if err == nil && (q.Timeout < 0 || q.Timeout > MaxTimeout) {
				t.Errorf("a timeout of %v", q.Timeout)
			}
		}
	})
}
