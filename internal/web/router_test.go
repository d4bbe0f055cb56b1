package web

import (
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

func handleNothing(context.Context, *Request) (*Response, error) { return Empty, nil }

func tableOf(t testing.TB, patterns ...string) *router {
	t.Helper()
	r := new(router)
	for _, p := range patterns {
		method, path, _ := strings.Cut(p, " ")
		if err := r.add(&route{Route: Route{Method: method, Path: path, Op: p, Handle: handleNothing}}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestRouter(t *testing.T) {
	table := tableOf(t,
		"GET /",
		"GET /user/{id}/filter/{filterId}",
		"GET /user/{id}/rooms/{room}/tags",
		"GET /user/me/filter/{filterId}",
		"GET /state/{type}/{key?}",
		"PUT /state/{type}/{key?}",
		"GET /pushrules/",
		"GET /pushrules/global/",
		"GET /pushrules/global/{kind}/{rule}",
	)
	for path, want := range map[string]string{
		"/":                            "GET /",
		"":                             "none",
		"/user/x/filter/1":             "GET /user/{id}/filter/{filterId} x 1",
		"/user/me/filter/1":            "GET /user/me/filter/{filterId} 1",
		"/user/me/rooms/!a/tags":       "GET /user/{id}/rooms/{room}/tags me !a",
		"/user/x/filter/":              "none",
		"/user//filter/1":              "none",
		"/user/x/filter/1/":            "none",
		"/user/a%2Fb/filter/%23":       "GET /user/{id}/filter/{filterId} a/b #",
		"/%75ser/x/filter/1":           "GET /user/{id}/filter/{filterId} x 1",
		"/state/t":                     "GET /state/{type}/{key?} t ",
		"/state/t/":                    "GET /state/{type}/{key?} t ",
		"/state/t/%2F":                 "GET /state/{type}/{key?} t /",
		"/state/t/k/":                  "none",
		"/pushrules":                   "GET /pushrules/",
		"/pushrules/":                  "GET /pushrules/",
		"/pushrules/global":            "GET /pushrules/global/",
		"/pushrules/global/room/!a":    "GET /pushrules/global/{kind}/{rule} room !a",
		"//":                           "none",
		"/user/x/filter/1?":            "GET /user/{id}/filter/{filterId} x 1?",
		strings.Repeat("/a", 100):      "none",
		"/user/x%zz/filter/1":          "M_INVALID_PARAM",
		"/user/%C3%28/filter/1":        "M_INVALID_PARAM",
		"/user/%00/filter/1":           "M_INVALID_PARAM",
		"/user/%E2%82%AC/filter/%25zz": "GET /user/{id}/filter/{filterId} € %zz",
	} {
		if got := describeMatch(table, "GET", path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}

func describeMatch(table *router, method, path string) string {
	var params [maxParams]string
	r, _, err := table.match(method, path, &params)
	switch {
	case err == errUnknownPath:
		return "none"
	case err != nil:
		return strings.SplitN(err.Error(), ":", 2)[0]
	}
	out := r.Op
	for i := range r.names {
		out += " " + params[i]
	}
	return out
}

func TestRouterRefusesContradictions(t *testing.T) {
	for _, pair := range [][2]string{
		{"/a/{x}", "/a/{y}"},
		{"/a/{x?}", "/a"},
		{"/a/{x?}", "/a/"},
		{"/a/", "/a"},
	} {
		table := tableOf(t, "GET "+pair[0])
		if err := table.add(&route{Route: Route{Method: "GET", Path: pair[1]}}); err == nil {
			t.Errorf("%s and %s live side by side", pair[0], pair[1])
		}
	}
	for _, bad := range []string{"", "a", "/a//b", "/{}", "/{a", "/{a?}/b", "/x{a}", "/{a.b}", "/a%2f", strings.Repeat("/{a}", 7)} {
		if err := new(router).add(&route{Route: Route{Method: "GET", Path: bad}}); err == nil {
			t.Errorf("pattern %q is accepted", bad)
		}
	}
}

// TestSpecificationFits: the paths of all client-server and server-server operations fit in one table, and each
// finds itself.
func TestSpecificationFits(t *testing.T) {
	f, err := os.Open("../../spec/endpoints.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	table, seen := new(router), make(map[string]bool)
	for _, row := range rows {
		method, path := row[1], row[2]
		if row[0] != "client-server" && row[0] != "server-server" || seen[method+path] {
			continue
		}
		seen[method+path] = true
		if err := table.add(&route{Route: Route{Method: method, Path: path, Op: row[3]}}); err != nil {
			t.Error(err)
		}
	}
	if len(seen) < 180 {
		t.Fatalf("only %d paths", len(seen))
	}
	for key := range seen {
		method, path, _ := strings.Cut(key, "/")
		var params [maxParams]string
		r, _, err := table.match(method, "/"+path, &params)
		if err != nil || r.Path != "/"+path {
			t.Errorf("%s /%s finds %v (%v)", method, path, r, err)
		}
	}
}

func FuzzRouter(f *testing.F) {
	for _, seed := range []string{"/", "/state/t/", "/state/a%2Fb/%00", "/user/%zz/filter/1", "/pushrules/global", "//", "%"} {
		f.Add("GET", seed)
	}
	table := tableOf(f, "GET /", "GET /user/{id}/filter/{f}", "GET /state/{type}/{key?}", "PUT /state/{type}/{key?}", "GET /pushrules/", "POST /user/{id}/{x}/{y}")
	f.Fuzz(func(t *testing.T, method, path string) {
		var params [maxParams]string
		r, allow, err := table.match(method, path, &params)
		if (r == nil) == (err == nil) {
			t.Fatalf("route %v with error %v", r, err)
		}
		if allow != nil && err == nil {
			t.Fatal("a match and a wrong method at once")
		}
		if r == nil {
			return
		}
		for i, name := range r.names {
			if p := params[i]; !utf8.ValidString(p) || strings.Contains(p, "\x00") || p == "" && !strings.HasSuffix(r.Path, "{"+name+"?}") {
				t.Fatalf("parameter %s is %q", name, p)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"a":["x"],"n":1,"m":{"k":true}}`, `{"n":1.5}`, `{"a":[[]]}`, `[[[[`, `{"a":"\ud800"}`, "\"\\", `{"m":{"k":3}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if checkObject(body) != nil {
			return
		}
		var v struct {
			A []string        `json:"a"`
			N int64           `json:"n"`
			M map[string]bool `json:"m"`
			P *struct {
				Q []map[string]float64 `json:"q"`
			} `json:"p"`
		}
		err := DecodeObject(body, &v)
		if err == nil {
			return
		}
		resp, code, blame := toResponse(err)
		if resp.Status != 400 || blame != nil || code == "" {
			t.Fatalf("%q gives %d %s (%v)", body, resp.Status, code, blame)
		}
		if text := fmt.Sprint(resp.Body); !utf8.ValidString(text) {
			t.Fatalf("%q gives an error that is not UTF-8: %q", body, text)
		}
	})
}
