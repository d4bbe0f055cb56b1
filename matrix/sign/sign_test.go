package sign

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"myelin/matrix/canon"
	"myelin/matrix/mxerr"
)

type specVectors struct {
	Signing struct {
		Seed   string                                    `json:"seed_unpadded_base64"`
		Server string                                    `json:"server_name"`
		KeyID  KeyID                                     `json:"key_id"`
		Cases  []struct{ Input, Signed json.RawMessage } `json:"json_signing"`
	} `json:"signing"`
	Base64 []struct{ Input, Encoded string } `json:"unpadded_base64"`
}

func vectors(t *testing.T) (v specVectors) {
	t.Helper()
	raw, err := os.ReadFile("../../../shared/spec/signing-vectors.json")
	if errors.Is(err, os.ErrNotExist) && os.Getenv("MYELIN_REQUIRE") != "all" {
		t.Skip("the specification's data is not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Spec: appendices Cryptographic Test Vectors
func TestSpecificationVectors(t *testing.T) {
	v := vectors(t)
	seed, err := DecodeBase64(v.Signing.Seed)
	if err != nil {
		t.Fatal(err)
	}
	key, err := FromSeed(v.Signing.KeyID, seed)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Signing.Cases) == 0 {
		t.Fatal("no vectors")
	}
	for _, c := range v.Signing.Cases {
		want, err := canon.Canonicalize(nil, c.Signed, canon.Strict)
		if err != nil {
			t.Fatal(err)
		}
		got, err := key.Sign(c.Input, v.Signing.Server)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("sign %s:\n got %s, %v\nwant %s", c.Input, got, err, want)
		}
		if err := Verify(c.Signed, v.Signing.Server, key.ID, key.Public()); err != nil {
			t.Errorf("verify %s: %v", c.Signed, err)
		}
	}
	for _, c := range v.Base64 {
		if got := EncodeBase64([]byte(c.Input)); got != c.Encoded {
			t.Errorf("base64 of %q is %q, want %q", c.Input, got, c.Encoded)
		}
		for _, padded := range []string{c.Encoded, c.Encoded + strings.Repeat("=", (4-len(c.Encoded)%4)%4)} {
			if got, err := DecodeBase64(padded); err != nil || string(got) != c.Input {
				t.Errorf("%q decodes to %q, %v", padded, got, err)
			}
		}
	}
}

func testKey(t testing.TB) Key {
	t.Helper()
	key, err := Generate(bytes.NewReader(bytes.Repeat([]byte{7}, 32)), "a_1")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSignKeepsTheRest(t *testing.T) {
	key := testKey(t)
	in := `{"unsigned":{"age":1.0},"b":-0,"a":1e2,"signatures":{"other":{"ed25519:x":"eA"},"me":{"rsa:1":"eA","ed25519:old":"eA"}}}`
	out, err := key.Sign([]byte(in), "me")
	if err != nil {
		t.Fatal(err)
	}
	signature, _ := key.Signature([]byte(`{"a":100,"b":0}`))
	want := fmt.Sprintf(`{"a":100,"b":0,"signatures":{"me":{"ed25519:a_1":%q,"ed25519:old":"eA","rsa:1":"eA"},"other":{"ed25519:x":"eA"}},"unsigned":{"age":1}}`, signature)
	if string(out) != want {
		t.Errorf("got %s\nwant %s", out, want)
	}
	if got := fmt.Sprint(KeyIDs(out, "me")); got != "[ed25519:a_1 ed25519:old]" {
		t.Errorf("key IDs %s", got)
	}
	if ids := KeyIDs(out, "nobody"); ids != nil {
		t.Errorf("nobody signed with %v", ids)
	}
	again, err := key.Sign(out, "me")
	if err != nil || !bytes.Equal(again, out) {
		t.Errorf("signing again gave %s, %v", again, err)
	}
}

func TestVerify(t *testing.T) {
	key := testKey(t)
	good, err := key.Sign([]byte(`{"n":1}`), "me")
	if err != nil {
		t.Fatal(err)
	}
	change := func(old, new string) string { return strings.Replace(string(good), old, new, 1) }
	other, err := FromSeed("ed25519:a_1", bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, object, entity string
		key                  KeyID
		public               ed25519.PublicKey
		want                 error
	}{
		{"good", string(good), "me", key.ID, key.Public(), nil},
		{"unsigned added", string(canon.With(nil, good, "unsigned", []byte("{}"))), "me", key.ID, key.Public(), nil},
		{"written otherwise", change(`"n":1`, `"n" : 1.0`), "me", key.ID, key.Public(), nil},
		{"changed", change(`"n":1`, `"n":2`), "me", key.ID, key.Public(), ErrWrong},
		{"another key", string(good), "me", key.ID, other.Public(), ErrWrong},
		{"short key", string(good), "me", key.ID, key.Public()[:31], ErrWrong},
		{"another ID", string(good), "me", "ed25519:b", key.Public(), ErrMissing},
		{"another entity", string(good), "you", key.ID, key.Public(), ErrMissing},
		{"no signatures", `{"n":1}`, "me", key.ID, key.Public(), ErrMissing},
		{"signatures of another shape", `{"signatures":{"me":[]}}`, "me", key.ID, key.Public(), ErrMissing},
		{"signature no string", `{"signatures":{"me":{"ed25519:a_1":1}}}`, "me", key.ID, key.Public(), ErrMissing},
		{"signature no base64", `{"signatures":{"me":{"ed25519:a_1":"!"}}}`, "me", key.ID, key.Public(), ErrWrong},
		{"signature too short", `{"signatures":{"me":{"ed25519:a_1":"eA"}}}`, "me", key.ID, key.Public(), ErrWrong},
	} {
		if err := Verify([]byte(c.object), c.entity, c.key, c.public); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if err := Verify([]byte(`{`), "me", key.ID, key.Public()); !mxerr.Is(err, mxerr.CodeNotJSON) {
		t.Errorf("no JSON: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	key := testKey(t)
	for _, object := range []string{`[]`, `1`, `{"a":1.5}`, `{"signatures":1}`, `{"signatures":{"me":""}}`, `{`} {
		if out, err := key.Sign([]byte(object), "me"); err == nil {
			t.Errorf("%s was signed: %s", object, out)
		}
	}
	if _, err := Generate(bytes.NewReader(nil), "a"); err == nil {
		t.Error("a key without randomness")
	}
	for _, version := range []string{"", "a b", "a:b", "ä"} {
		if _, err := Generate(bytes.NewReader(make([]byte, 32)), version); err == nil {
			t.Errorf("a key of version %q", version)
		}
	}
	if _, err := FromSeed("ed25519:a", make([]byte, 31)); err == nil {
		t.Error("a key of a short seed")
	}
	if s := fmt.Sprintf("%v %+v %#v", key, key, key); strings.Contains(s, "[") {
		t.Errorf("a printed key shows itself: %s", s)
	}
}

func FuzzVerify(f *testing.F) {
	key := testKey(f)
	f.Add([]byte(`{"signatures":{"me":{"ed25519:a_1":"eA=="}},"a":1}`))
	f.Add([]byte(`{"signatures":null,"unsigned":1}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		if Verify(object, "me", key.ID, key.Public()) == nil {
			t.Fatalf("forged: %s", object)
		}
		KeyIDs(object, "me")
		out, err := key.Sign(object, "me")
		if err != nil {
			return
		}
		if err := Verify(out, "me", key.ID, key.Public()); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	key := testKey(b)
	object := []byte(`{"a":1,"b":"` + strings.Repeat("x", 900) + `"}`)
	for b.Loop() {
		if _, err := key.Sign(object, "me"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	key := testKey(b)
	object, err := key.Sign([]byte(`{"a":1,"b":"`+strings.Repeat("x", 900)+`"}`), "me")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := Verify(object, "me", key.ID, key.Public()); err != nil {
			b.Fatal(err)
		}
	}
}
