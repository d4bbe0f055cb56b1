package fedclient

import (
	"errors"
	"strings"
	"testing"

	"myelin/matrix/id"
)

// Spec: ss Request Authentication
func TestParseAuthorization(t *testing.T) {
	want := credentials{"a.example:8448", "b.example", "ed25519:k_1", "c2ln+/"}
	for name, header := range map[string]string{
		"as the specification writes it": `X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k_1",sig="c2ln+/"`,
		"no quotes, colons all the same": `X-Matrix origin=a.example:8448,destination=b.example,key=ed25519:k_1,sig="c2ln+/"`,
		"nothing quoted at all":          `X-Matrix origin=a.example:8448,destination=b.example,key=ed25519:k_1,sig=c2ln+/`,
		"white space around commas":      "X-Matrix    origin=\"a.example:8448\" \t,\t destination=b.example , key=\"ed25519:k_1\",\tsig=\"c2ln+/\"  ",
		"another order and case":         `x-mAtRiX SIG="c2ln+/",Key="ed25519:k_1",DESTINATION="b.example",oRiGiN="a.example:8448"`,
		"backslashes":                    `X-Matrix origin="a.ex\ample:8448",destination="b\.example",key="ed25519:k\_1",sig="c2ln\+\/"`,
		"unknown parameters":             `X-Matrix realm="a,b=\"c",origin="a.example:8448",x=,destination="b.example",key="ed25519:k_1",sig="c2ln+/",zz=1`,
		"the list's name of sig":         `X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k_1",signature="c2ln+/"`,
		"empty elements":                 `X-Matrix ,origin="a.example:8448",,destination="b.example", ,key="ed25519:k_1",sig="c2ln+/",`,
		"space around the equals sign":   `X-Matrix origin = "a.example:8448",destination="b.example",key="ed25519:k_1",sig="c2ln+/"`,
	} {
		if got, err := parseAuthorization(header); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got, err := parseAuthorization(`X-Matrix origin="[2001:db8::1]:80",key="ed25519:a",sig="x"`); err != nil || got.origin != "[2001:db8::1]:80" || got.destination != "" {
		t.Errorf("without a destination: %+v, %v", got, err)
	}
	for name, header := range map[string]string{
		"no parameters":                 `X-Matrix`,
		"no origin":                     `X-Matrix key="ed25519:a",sig="x"`,
		"an origin that is none":        `X-Matrix origin="a b",key="ed25519:a",sig="x"`,
		"a destination that is none":    `X-Matrix origin="a",destination="",key="ed25519:a",sig="x"`,
		"another algorithm":             `X-Matrix origin="a",key="rsa:a",sig="x"`,
		"no key":                        `X-Matrix origin="a",sig="x"`,
		"no signature":                  `X-Matrix origin="a",key="ed25519:a"`,
		"an origin twice":               `X-Matrix origin="a",origin="b",key="ed25519:a",sig="x"`,
		"an origin twice, in two cases": `X-Matrix origin="a",ORIGIN="b",key="ed25519:a",sig="x"`,
		"an open quote":                 `X-Matrix origin="a",key="ed25519:a",sig="x`,
		"a backslash at the end":        `X-Matrix origin="a",key="ed25519:a",sig="x\`,
		"no comma":                      `X-Matrix origin="a" key="ed25519:a",sig="x"`,
		"a quote inside a token":        `X-Matrix origin=a"b,key="ed25519:a",sig="x"`,
		"a parameter without a value":   `X-Matrix origin,key="ed25519:a",sig="x"`,
		"too long":                      `X-Matrix origin="a",key="ed25519:a",sig="x",z="` + strings.Repeat("x", maxAuthorization) + `"`,
	} {
		if got, err := parseAuthorization(header); err == nil || errors.Is(err, errOtherScheme) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, header := range []string{`Bearer x`, ``, `X-Matrixorigin="a"`} {
		if _, err := parseAuthorization(header); !errors.Is(err, errOtherScheme) {
			t.Errorf("%q: %v", header, err)
		}
	}
}

func FuzzParseAuthorization(f *testing.F) {
	f.Add(`X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k_1",sig="c2ln"`)
	f.Add(`X-Matrix origin=a:1 ,	x="\"\\",key=ed25519:1,sig=a+/=`)
	f.Add(`x-matrix ,,=,"`)
	f.Fuzz(func(t *testing.T, header string) {
		got, err := parseAuthorization(header)
		if err != nil {
			return
		}
		if _, err := id.ParseServerName(string(got.origin)); err != nil || got.signature == "" {
			t.Fatalf("%q gave %+v", header, got)
		}
		// What was understood is understood again when it is written with all care.
		escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace
		again := `X-Matrix origin="` + string(got.origin) + `",key="` + escape(string(got.key)) + `",sig="` + escape(got.signature) + `"`
		if got.destination != "" {
			again += `,destination="` + string(got.destination) + `"`
		}
		if len(again) > maxAuthorization {
			return
		}
		if twice, err := parseAuthorization(again); err != nil || twice != got {
			t.Fatalf("%q gave %+v, then %+v, %v", header, got, twice, err)
		}
	})
}
