package fedclient

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

// signedBy makes a request as a server would sign it.
func signedBy(r *remote, key sign.Key, method, uri, host, destination, content string) *http.Request {
	message := signedRequest(method, uri, r.name, id.ServerName(destination), []byte(content))
	if content == "" {
		message = signedRequest(method, uri, r.name, id.ServerName(destination), nil)
	}
	rq := httptest.NewRequest(method, uri, nil)
	rq.Host = host
	rq.Header.Set("Authorization", fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, r.name, destination, key.ID, key.SignBytes(message)))
	return rq
}

// Spec: ss Request Authentication
func TestAuthenticate(t *testing.T) {
	n := newNetwork(t)
	r := n.remote("hs.example", "8.8.8.1")
	var heard []id.ServerName
	c := n.sqlite(func(cfg *Config) { cfg.Heard = func(s id.ServerName) { heard = append(heard, s) } })
	const uri = "/_matrix/federation/v1/send/1%2F2?a=%20b"
	good := func() *http.Request {
		return signedBy(r, r.key, "PUT", uri, "us.example", "us.example", `{"a":1,"b":[]}`)
	}
	body := `{ "b": [], "a": 1 }`
	origin, destination, err := c.Authenticate(t.Context(), good(), []byte(body))
	if err != nil || origin != "hs.example" || destination != us {
		t.Fatalf("%s to %s, %v", origin, destination, err)
	}
	if len(heard) != 1 {
		t.Errorf("heard of %v", heard)
	}
	header := func(rq *http.Request, change func(string) string) *http.Request {
		rq.Header.Set("Authorization", change(rq.Header.Get("Authorization")))
		return rq
	}
	without := func(s string) string { return strings.Replace(s, `destination="us.example",`, "", 1) }
	for name, c2 := range map[string]struct {
		rq   *http.Request
		body string
		to   id.ServerName
	}{
		"for another name of ours": {signedBy(r, r.key, "PUT", uri, "us.example", "also.example", `{}`), `{}`, "also.example"},
		"without a body":           {signedBy(r, r.key, "GET", uri, "us.example", "us.example", ``), ``, us},
		"without a destination":    {header(good(), without), body, us},
		"without a destination, by Host": {header(signedBy(r, r.key, "PUT", uri, "also.example", "also.example", `{}`), func(s string) string {
			return strings.Replace(s, `destination="also.example",`, "", 1)
		}), `{}`, "also.example"},
		"without a destination, through a proxy": {header(signedBy(r, r.key, "PUT", uri, "proxy.example", "also.example", `{}`), func(s string) string {
			return strings.Replace(s, `destination="also.example",`, "", 1)
		}), `{}`, "also.example"},
		"numbers in short form":                     {signedBy(r, r.key, "PUT", uri, "", "us.example", `{"n":[1,10]}`), `{"n":[1.0,1e1]}`, us},
		"numbers as written":                        {signedBy(r, r.key, "PUT", uri, "", "us.example", `{"n":[1.0,1.5]}`), `{"n":[1.0,1.5]}`, us},
		"numbers as written that have a short form": {signedBy(r, r.key, "PUT", uri, "", "us.example", `{"n":1.0}`), `{"n":1.0}`, us},
		"a second header with an unknown key": {func() *http.Request {
			rq := good()
			first := rq.Header.Get("Authorization")
			rq.Header["Authorization"] = []string{"Bearer x", strings.Replace(first, "ed25519:one", "ed25519:unknown", 1), first}
			return rq
		}(), body, us},
	} {
		if origin, to, err := c.Authenticate(t.Context(), c2.rq, []byte(c2.body)); err != nil || origin != "hs.example" || to != c2.to {
			t.Errorf("%s: %s to %s, %v", name, origin, to, err)
		}
	}
	other := newKey(t, "one")
	for name, c2 := range map[string]struct {
		rq   *http.Request
		body string
	}{
		"no header":                 {func() *http.Request { rq := good(); rq.Header.Del("Authorization"); return rq }(), body},
		"a token":                   {header(good(), func(string) string { return "Bearer x" }), body},
		"another body":              {good(), `{"a":2,"b":[]}`},
		"a body taken away":         {good(), ``},
		"another path":              {func() *http.Request { rq := good(); rq.RequestURI = uri + "x"; return rq }(), body},
		"another method":            {func() *http.Request { rq := good(); rq.Method = "POST"; return rq }(), body},
		"another key":               {signedBy(r, other, "PUT", uri, "", "us.example", `{}`), `{}`},
		"for another server":        {signedBy(r, r.key, "PUT", uri, "us.example", "them.example", `{}`), `{}`},
		"for another of ours":       {header(good(), func(s string) string { return strings.Replace(s, `"us.example"`, `"also.example"`, 1) }), body},
		"from ourselves":            {header(good(), func(s string) string { return strings.Replace(s, `"hs.example"`, `"us.example"`, 1) }), body},
		"an unknown key":            {header(good(), func(s string) string { return strings.Replace(s, "ed25519:one", "ed25519:two", 1) }), body},
		"a server that isn't there": {header(good(), func(s string) string { return strings.Replace(s, "hs.example", "no.example", 1) }), body},
		"two origins": {func() *http.Request {
			rq := good()
			rq.Header.Add("Authorization", strings.Replace(rq.Header.Get("Authorization"), "hs.example", "no.example", 1))
			return rq
		}(), body},
	} {
		if origin, _, err := c.Authenticate(t.Context(), c2.rq, []byte(c2.body)); !mxerr.Is(err, mxerr.CodeUnauthorized) {
			t.Errorf("%s: %s, %v", name, origin, err)
		}
	}
	if _, _, err := c.Authenticate(t.Context(), good(), []byte(`{`)); !mxerr.Is(err, mxerr.CodeNotJSON) {
		t.Errorf("a body that is no JSON: %v", err)
	}
	denying := n.sqlite(func(cfg *Config) { cfg.Deny = []string{"hs.*"} })
	if _, _, err := denying.Authenticate(t.Context(), good(), []byte(body)); !mxerr.Is(err, mxerr.CodeForbidden) {
		t.Errorf("a denied server: %v", err)
	}
}

// What one client signs another one accepts, through TLS and HTTP.
func TestSignedAndAuthenticated(t *testing.T) {
	n := newNetwork(t)
	sender := n.sqlite()
	// The receiver is named differently and finds the sender's keys on the network.
	r := n.remote("hs.example", "8.8.8.1")
	var origin, destination id.ServerName
	var failure error
	n.host(string(us), "8.8.8.2")
	n.serve("8.8.8.2:8448", []string{string(us)}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		raw, err := sender.OwnKeys(us)
		check(t, err)
		_, _ = w.Write(raw)
	}))
	receiver := n.named("hs.example")
	r.mux.HandleFunc("/_matrix/federation/", func(w http.ResponseWriter, rq *http.Request) {
		body := r.last().body
		origin, destination, failure = receiver.Authenticate(rq.Context(), rq, []byte(body))
		fmt.Fprint(w, `{"pdus":{}}`)
	})
	if _, err := sender.SendTransaction(t.Context(), to("hs.example"), `a/b "c" ü?`, Transaction{OriginServerTS: 5, PDUs: raws(`{"z":1.0,"a":"<&>"}`), EDUs: raws(`{"b":1e3}`)}); err != nil {
		t.Fatal(err)
	}
	if failure != nil || origin != us || destination != "hs.example" {
		t.Errorf("%s to %s: %v", origin, destination, failure)
	}
	if got := r.last(); got.body != `{"edus":[{"b":1e3}],"origin":"us.example","origin_server_ts":5,"pdus":[{"a":"<&>","z":1.0}]}` {
		t.Errorf("the body is %s", got.body)
	}
	if _, err := sender.QueryProfile(t.Context(), to("hs.example"), "@ü&?=b:hs.example", "a b"); err != nil || failure != nil {
		t.Errorf("%v, %v", err, failure)
	}
}

// A retired key signs no requests, and one that was valid too long ago doesn't either.
//
// Spec: ss Publishing Keys
func TestKeysOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		c := n.sqlite()
		try := func(key sign.Key) error {
			_, _, err := c.Authenticate(t.Context(), signedBy(r, key, "GET", "/x", "", "us.example", ""), nil)
			return err
		}
		first := r.key
		check(t, try(first))
		r.rotate("two", time.Now().Add(time.Hour).UnixMilli())
		time.Sleep(2 * time.Minute)
		check(t, try(r.key))
		if err := try(first); !mxerr.Is(err, mxerr.CodeUnauthorized) {
			t.Errorf("a key that is listed as old: %v", err)
		}
		// The server is away while its key runs out.
		up := n.down(r.address)
		c.http.CloseIdleConnections()
		time.Sleep(23 * time.Hour)
		check(t, try(r.key))
		time.Sleep(2 * time.Hour)
		if err := try(r.key); !mxerr.Is(err, mxerr.CodeUnauthorized) {
			t.Errorf("a key that ran out: %v", err)
		}
		// It is back, and its next request is waited for a minute at most.
		up()
		time.Sleep(keyRefresh)
		check(t, try(r.key))
	})
}
