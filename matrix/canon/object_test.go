package canon

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestFields(t *testing.T) {
	var got []string
	for k, v := range Fields([]byte(` { "a" : 1 , "b\n" : {"x":[1,"}"]} , "c":"\\\"" , "d":[ ] } `)) {
		got = append(got, k+"="+string(v))
	}
	if want := "a=1|b\n={\"x\":[1,\"}\"]}|c=\"\\\\\\\"\"|d=[ ]"; strings.Join(got, "|") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEditing(t *testing.T) {
	object := []byte(`{"b":1,"d":{"x":2},"f":"\n"}`)
	if v, ok := Get(object, "d"); !ok || string(v) != `{"x":2}` {
		t.Errorf("Get: %s, %v", v, ok)
	}
	if _, ok := Get(object, "x"); ok {
		t.Error("Get found a nested key")
	}
	if s, ok := GetText(object, "f"); !ok || s != "\n" {
		t.Errorf("GetText: %q, %v", s, ok)
	}
	if _, ok := GetText(object, "b"); ok {
		t.Error("GetText took a number for a string")
	}
	for _, c := range []struct{ got, want string }{
		{string(Without(nil, object, "b", "f")), `{"d":{"x":2}}`},
		{string(Without([]byte("-"), object, "b", "d", "f")), `-{}`},
		{string(Without(nil, object)), string(object)},
		{string(With(nil, object, "a", []byte("0"))), `{"a":0,"b":1,"d":{"x":2},"f":"\n"}`},
		{string(With(nil, object, "c", []byte("0"))), `{"b":1,"c":0,"d":{"x":2},"f":"\n"}`},
		{string(With(nil, object, "d", []byte("0"))), `{"b":1,"d":0,"f":"\n"}`},
		{string(With([]byte("-"), object, "g", []byte("0"))), `-{"b":1,"d":{"x":2},"f":"\n","g":0}`},
		{string(With(nil, []byte("{}"), "k\"", []byte("0"))), `{"k\"":0}`},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
	n := 0
	for e := range Elements([]byte(`[1, [2], "a,b" ]`)) {
		n += len(e)
	}
	if n != 1+3+5 {
		t.Errorf("Elements gave %d bytes", n)
	}
}

func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[{"c":"\u0041"}]}`), "a", "text")
	f.Add([]byte(`{"a":`), "a", "\xff\u2028")
	f.Add([]byte(`{"a`), "", "")
	f.Fuzz(func(t *testing.T, src []byte, key, text string) {
		// Nothing panics on what is no object.
		Get(src, key)
		Text(src)
		Without(nil, src, key)
		for range Elements(src) {
		}
		if raw := AppendString(nil, text); utf8.ValidString(text) {
			var back string
			if err := json.Unmarshal(raw, &back); err != nil || back != text {
				t.Fatalf("%q became %s, %v", text, raw, err)
			}
			if got, ok := Text(raw); !ok || got != text {
				t.Fatalf("%s read back as %q", raw, got)
			}
		} else if !json.Valid(raw) {
			t.Fatalf("%q became %q", text, raw)
		}
		object, err := Canonicalize(nil, src, Lax)
		if err != nil || object[0] != '{' || !utf8.ValidString(key) {
			return
		}
		with := With(nil, object, key, []byte("1"))
		if again, err := Canonicalize(nil, with, Lax); err != nil || !bytes.Equal(again, with) {
			t.Fatalf("With gave %s, canonical is %s, %v", with, again, err)
		}
		without := Without(nil, with, key)
		if want := Without(nil, object, key); !bytes.Equal(without, want) {
			t.Fatalf("got %s, want %s", without, want)
		}
		var m map[string]json.RawMessage
		if err := json.Unmarshal(object, &m); err != nil {
			t.Fatal(err)
		}
		for k, v := range Fields(object) {
			if string(m[k]) != string(v) {
				t.Fatalf("key %q is %s, want %s", k, v, m[k])
			}
			delete(m, k)
		}
		if len(m) > 0 {
			t.Fatalf("Fields left out %v", m)
		}
	})
}
