package canon

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"myelin/matrix/mxerr"
)

// vectors reads the specification's examples, which are not part of the repository.
func vectors(t *testing.T, into any) {
	t.Helper()
	raw, err := os.ReadFile("../../../shared/spec/signing-vectors.json")
	if errors.Is(err, os.ErrNotExist) && os.Getenv("MYELIN_REQUIRE") != "all" {
		t.Skip("the specification's data is not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

// Spec: appendices Canonical JSON
func TestSpecificationExamples(t *testing.T) {
	var v struct {
		Cases []struct{ Input, Canonical string } `json:"canonical_json"`
	}
	vectors(t, &v)
	if len(v.Cases) == 0 {
		t.Fatal("no examples")
	}
	for _, c := range v.Cases {
		got, err := Canonicalize(nil, []byte(c.Input), Integral)
		if err != nil || string(got) != c.Canonical {
			t.Errorf("%s\n got %s, %v\nwant %s", c.Input, got, err, c.Canonical)
		}
	}
}

func TestCanonicalize(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"white space", " {\t\"a\" :\r\n [ 1 , 2 ] } ", `{"a":[1,2]}`},
		{"empty containers", `{"b":[ ],"a":{ }}`, `{"a":{},"b":[]}`},
		{"literals", `[true,false,null,"",0,-1]`, `[true,false,null,"",0,-1]`},
		{"sorted at every level", `{"z":{"b":1,"a":{"d":1,"c":2}},"a":[{"y":1,"x":2}]}`, `{"a":[{"x":2,"y":1}],"z":{"a":{"c":2,"d":1},"b":1}}`},
		{"duplicate keys, last wins", `{"a":1,"b":2,"a":3}`, `{"a":3,"b":2}`},
		{"duplicate neighbours", `{"a":{"y":1,"x":1},"a":2}`, `{"a":2}`},
		{"duplicate through an escape", `{"a":1,"\u0061":2}`, `{"a":2}`},
		{"sorted by code point, not UTF-16", `{"𐀀":1,"":2}`, `{"":2,"𐀀":1}`},
		{"a prefix comes first", `{"a ":1,"a":2,"a!":3}`, `{"a":2,"a ":1,"a!":3}`},
		{"escaped keys sort as themselves", `{"\\":1,"\"":2,"A":3,"\n":4}`, `{"\n":4,"\"":2,"A":3,"\\":1}`},
		{"escapes", `"\u0000\u0008\u0009\u000a\u000b\u000c\u000d\u001F\"\\\/\u007f"`, `"\u0000\b\t\n\u000b\f\r\u001f\"\\/` + "\x7f\""},
		{"letters", `"\u00e9\u65E5\ud83d\ude00"`, `"é日😀"`},
		{"largest integers", `[9007199254740991,-9007199254740991]`, `[9007199254740991,-9007199254740991]`},
	} {
		got, err := Canonicalize([]byte("kept"), []byte(c.in), Strict)
		if err != nil || string(got) != "kept"+c.want {
			t.Errorf("%s: got %s, %v; want %s", c.name, got, err, c.want)
		}
	}
}

func TestCanonicalizeRefuses(t *testing.T) {
	for _, c := range []struct {
		name, in string
		code     mxerr.Code
	}{
		{"nothing", ``, mxerr.CodeNotJSON},
		{"only space", `  `, mxerr.CodeNotJSON},
		{"two values", `{} {}`, mxerr.CodeNotJSON},
		{"open object", `{"a":1`, mxerr.CodeNotJSON},
		{"open array", `[1,`, mxerr.CodeNotJSON},
		{"open string", `"abc`, mxerr.CodeNotJSON},
		{"open escape", `"abc\`, mxerr.CodeNotJSON},
		{"trailing comma", `{"a":1,}`, mxerr.CodeNotJSON},
		{"trailing comma in array", `[1,]`, mxerr.CodeNotJSON},
		{"no colon", `{"a" 1}`, mxerr.CodeNotJSON},
		{"bare key", `{a:1}`, mxerr.CodeNotJSON},
		{"unknown escape", `"\x41"`, mxerr.CodeNotJSON},
		{"short escape", `"\u12"`, mxerr.CodeNotJSON},
		{"control character", "\"\x01\"", mxerr.CodeNotJSON},
		{"lone high surrogate", `"\ud800"`, mxerr.CodeNotJSON},
		{"lone high surrogate before text", `"\ud800x\udc00"`, mxerr.CodeNotJSON},
		{"lone low surrogate", `"\udc00"`, mxerr.CodeNotJSON},
		{"surrogates the wrong way round", `"\udc00\ud800"`, mxerr.CodeNotJSON},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\"", mxerr.CodeNotJSON},
		{"invalid UTF-8", "\"\xff\"", mxerr.CodeNotJSON},
		{"leading zero", `01`, mxerr.CodeNotJSON},
		{"plus", `+1`, mxerr.CodeNotJSON},
		{"sign alone", `-`, mxerr.CodeNotJSON},
		{"no fraction", `1.`, mxerr.CodeNotJSON},
		{"no exponent", `1e`, mxerr.CodeNotJSON},
		{"NaN", `NaN`, mxerr.CodeNotJSON},
		{"truth", `truth`, mxerr.CodeNotJSON},
		{"too deep", strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1), mxerr.CodeBadJSON},
	} {
		for _, mode := range []Mode{Strict, Lax, Integral} {
			if got, err := Canonicalize(nil, []byte(c.in), mode); !mxerr.Is(err, c.code) {
				t.Errorf("%s: got %q, %v; want %s", c.name, got, err, c.code)
			}
		}
	}
	deepest := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	if _, err := Canonicalize(nil, []byte(deepest), Strict); err != nil {
		t.Errorf("the deepest nesting is refused: %v", err)
	}
}

func TestNumbers(t *testing.T) {
	const bad = "refused"
	for _, c := range []struct{ in, strict, lax, integral string }{
		{"0", "0", "0", "0"},
		{"-0", bad, "0", "0"},
		{"-0.0", bad, "-0.0", "0"},
		{"0e5", bad, "0e5", "0"},
		{"0e-99999999999999999999", bad, "0e-99999999999999999999", "0"},
		{"1.0", bad, "1.0", "1"},
		{"1e3", bad, "1e3", "1000"},
		{"-1E+3", bad, "-1E+3", "-1000"},
		{"1200e-2", bad, "1200e-2", "12"},
		{"1.25e2", bad, "1.25e2", "125"},
		{"1.25e1", bad, "1.25e1", bad},
		{"0.1", bad, "0.1", bad},
		{"1e10", bad, "1e10", "10000000000"},
		{"1e16", bad, "1e16", bad},
		{"1e99999999999999999999", bad, "1e99999999999999999999", bad},
		{"1e-99999999999999999999", bad, "1e-99999999999999999999", bad},
		{"9007199254740991", "9007199254740991", "9007199254740991", "9007199254740991"},
		{"9007199254740992", bad, "9007199254740992", bad},
		{"-9007199254740992", bad, "-9007199254740992", bad},
		{"9007199254740.992e3", bad, "9007199254740.992e3", bad},
		{"9007199254740.991e3", bad, "9007199254740.991e3", "9007199254740991"},
		{"99999999999999999999999", bad, "99999999999999999999999", bad},
	} {
		for mode, want := range []string{c.strict, c.lax, c.integral} {
			got, err := Canonicalize(nil, []byte(c.in), Mode(mode))
			if err != nil {
				got = []byte(bad)
			}
			if string(got) != want {
				t.Errorf("%s in mode %d: got %s, %v; want %s", c.in, mode, got, err, want)
			}
			if err != nil && !mxerr.Is(err, mxerr.CodeBadJSON) {
				t.Errorf("%s in mode %d: %v is not M_BAD_JSON", c.in, mode, err)
			}
		}
	}
}

func TestMarshal(t *testing.T) {
	got, err := Marshal(map[string]any{"b": "<&>", "a": []int{1}, "c": nil})
	if want := `{"a":[1],"b":"<&>","c":null}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if got, err := Marshal(1.5); err == nil {
		t.Errorf("a float became %s", got)
	}
	if _, err := Marshal(func() {}); err == nil {
		t.Error("a function was marshalled")
	}
}

// TestNestedMoves makes sure that objects out of order inside one another do not cost the product of depth
// and length.
func TestNestedMoves(t *testing.T) {
	const depth = MaxDepth - 1
	big := `"` + strings.Repeat("x", 1<<20) + `"`
	in := strings.Repeat(`{"b":`, depth) + big + strings.Repeat(`,"a":1}`, depth)
	want := strings.Repeat(`{"a":1,"b":`, depth) + big + strings.Repeat(`}`, depth)
	got, err := Canonicalize(nil, []byte(in), Strict)
	if err != nil || string(got) != want {
		t.Fatalf("wrong result, %v", err)
	}
}

// reference canonicalises with encoding/json, for JSON that both accept.
func reference(t *testing.T, src []byte) []byte {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(src))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("encoding/json refuses %q: %v", src, err)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	// encoding/json escapes the two line separators, and sorts keys by bytes as we do.
	s := strings.NewReplacer(`\u2028`, "\u2028", `\u2029`, "\u2029").Replace(strings.TrimSuffix(out.String(), "\n"))
	return []byte(s)
}

func FuzzCanonicalize(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"b":[1,-0,1e3,1.0],"a":"\ud83d\ude00\u0000"}`, `{"a":1,"a":2}`, `"\ud800"`, `[[[]]]`,
		`{"\\":1,"\"":2}`, `9007199254740992`, string(sample),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		for _, mode := range []Mode{Lax, Strict, Integral} {
			once, err := Canonicalize(nil, src, mode)
			if err != nil {
				if _, ok := mxerr.Of(err); !ok {
					t.Fatalf("%T is not an mxerr", err)
				}
				continue
			}
			twice, err := Canonicalize(nil, once, mode)
			if err != nil || !bytes.Equal(once, twice) {
				t.Fatalf("%s became %s, %v", once, twice, err)
			}
			if !json.Valid(src) || !json.Valid(once) || !utf8.Valid(once) {
				t.Fatalf("%q became %q, which is not valid", src, once)
			}
			if mode != Integral && !bytes.Contains(src, []byte("-0")) && !bytes.Contains(src, []byte(`\`)) {
				if want := reference(t, src); !bytes.Equal(once, want) {
					t.Fatalf("%s became %s, want %s", src, once, want)
				}
			}
			var a, b any
			if json.Unmarshal(src, &a) == nil && json.Unmarshal(once, &b) == nil && !reflect.DeepEqual(a, b) {
				t.Fatalf("%s and %s mean different things", src, once)
			}
		}
	})
}
