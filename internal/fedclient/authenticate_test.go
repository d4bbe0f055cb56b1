package fedclient

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
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

func bodyOf(s string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(s), nil }
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
	origin, destination, err := c.Authenticate(t.Context(), good(), netip.Addr{}, bodyOf(body))
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
		if origin, to, err := c.Authenticate(t.Context(), c2.rq, netip.Addr{}, bodyOf(c2.body)); err != nil || origin != "hs.example" || to != c2.to {
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
		if origin, _, err := c.Authenticate(t.Context(), c2.rq, netip.Addr{}, bodyOf(c2.body)); !mxerr.Is(err, mxerr.CodeUnauthorized) {
			t.Errorf("%s: %s, %v", name, origin, err)
		}
	}
	if _, _, err := c.Authenticate(t.Context(), good(), netip.Addr{}, bodyOf(`{`)); !mxerr.Is(err, mxerr.CodeNotJSON) {
		t.Errorf("a body that is no JSON: %v", err)
	}
	denying := n.sqlite(func(cfg *Config) { cfg.Deny = []string{"hs.*"} })
	if _, _, err := denying.Authenticate(t.Context(), good(), netip.Addr{}, bodyOf(body)); !mxerr.Is(err, mxerr.CodeForbidden) {
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
		origin, destination, failure = receiver.Authenticate(rq.Context(), rq, netip.Addr{}, bodyOf(body))
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
			_, _, err := c.Authenticate(t.Context(), signedBy(r, key, "GET", "/x", "", "us.example", ""), netip.Addr{}, bodyOf(""))
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

// The body is not read before the header promises something and the key is at hand.
func TestBodiesAreReadLast(t *testing.T) {
	n := newNetwork(t)
	r := n.remote("hs.example", "8.8.8.1")
	n.host("dead.example", "8.8.8.9")
	dead := &remote{tb: t, name: "dead.example", key: newKey(t, "one")}
	c := n.sqlite(func(cfg *Config) { cfg.Deny = []string{"bad.*"} })
	other := newKey(t, "two")
	for name, rq := range map[string]*http.Request{
		"for another server":   signedBy(r, r.key, "PUT", "/x", "", "them.example", `{}`),
		"from ourselves":       signedBy(&remote{name: us}, r.key, "PUT", "/x", "", "us.example", `{}`),
		"from a denied server": signedBy(&remote{name: "bad.example"}, r.key, "PUT", "/x", "", "us.example", `{}`),
		"with an unknown key":  signedBy(r, other, "PUT", "/x", "", "us.example", `{}`),
		"from a dead server":   signedBy(dead, dead.key, "PUT", "/x", "", "us.example", `{}`),
	} {
		_, _, err := c.Authenticate(t.Context(), rq, netip.Addr{}, func() ([]byte, error) {
			t.Errorf("%s: the body was read", name)
			return []byte(`{}`), nil
		})
		if !mxerr.Is(err, mxerr.CodeUnauthorized) && !mxerr.Is(err, mxerr.CodeForbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whoever signs with the names of servers that don't answer uses up his own fetches, and with many addresses those of strangers. Room work and
// requests of servers that are known go on, and so do those of a server whose name is misused.
func TestStrangersExhaustTheirOwnShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		v := version(t, "10")
		silent := func(i int) id.ServerName {
			name := id.ServerName(fmt.Sprintf("d%d.example", i))
			n.host(string(name), "8.8.4.4")
			return name
		}
		n.listen("8.8.4.4:8448")
		n.listen("8.8.4.4:443")
		known, honest, room := n.remote("known.example", "8.8.8.1"), n.remote("honest.example", "8.8.8.2"), n.remote("room.example", "8.8.8.3")
		c := n.sqlite()
		ask := func(r *remote, from string) error {
			_, _, err := c.Authenticate(t.Context(), signedBy(r, r.key, "GET", "/x", "", "us.example", ""), netip.MustParseAddr(from), bodyOf(""))
			return err
		}
		check(t, ask(known, "9.0.0.1"))
		known.rotate("two", now())
		time.Sleep(keyRefresh)
		forger := newKey(t, "one")
		var wg sync.WaitGroup
		defer wg.Wait()
		var full atomic.Int32
		named := 0
		flood := func(from string, names int) {
			for range names {
				named++
				fake := &remote{name: silent(named), key: forger}
				wg.Go(func() {
					if mxerr.Is(ask(fake, from), mxerr.CodeLimitExceeded) {
						full.Add(1)
					}
				})
			}
			synctest.Wait()
		}
		flood("6.6.6.6", 200)
		if got := full.Load(); got != 200-maxFlightsAsking {
			t.Errorf("%d of 200 requests from one address were told to come later", got)
		}
		began := time.Now()
		check(t, ask(honest, "9.0.0.2")) // a stranger from another address
		for i := range 10 {
			flood(fmt.Sprintf("6.6.7.%d", i), 20)
		}
		// All that strangers may have fetched at once is used up now.
		_, errs := c.CheckPDUs(t.Context(), v, [][]byte{message(t, v, "room.example", room.key)}, "known.example")
		check(t, errs[0])
		check(t, ask(known, "9.0.0.1"))
		if took := time.Since(began); took > time.Second {
			t.Errorf("the others waited for %v", took)
		}
		// A stranger with one request comes before those who wait with many.
		late := n.remote("late.example", "8.8.8.4")
		check(t, ask(late, "9.0.0.3"))
		if took := time.Since(began); took > keyFetchTimeout+time.Second {
			t.Errorf("one more stranger waited for %v", took)
		}
	})
}

// One server that sends events of users of many servers that are not there doesn't keep another one's from being checked.
func TestSendersExhaustTheirOwnShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		v := version(t, "10")
		n.listen("8.8.4.4:8448")
		n.listen("8.8.4.4:443")
		victim := n.remote("victim.example", "8.8.8.1")
		c := n.sqlite()
		forger := newKey(t, "one")
		var events [][]byte
		for i := range 500 {
			name := id.ServerName(fmt.Sprintf("d%d.example", i))
			n.host(string(name), "8.8.4.4")
			events = append(events, message(t, v, name, forger))
		}
		// It names its victim as well, last.
		events = append(events, message(t, v, "victim.example", victim.key))
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { c.CheckPDUs(t.Context(), v, events, "hostile.example") })
		synctest.Wait()
		began := time.Now()
		_, errs := c.CheckPDUs(t.Context(), v, [][]byte{message(t, v, "victim.example", victim.key)}, "other.example")
		check(t, errs[0])
		if took := time.Since(began); took > time.Second {
			t.Errorf("the other server's event waited for %v", took)
		}
	})
}

// One that does so under many names delays others by no more than a fetch, although it uses up everything that may wait.
func TestSendersOfManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		v := version(t, "10")
		n.listen("8.8.4.4:8448")
		n.listen("8.8.4.4:443")
		honest := n.remote("honest.example", "8.8.8.1")
		c := n.sqlite()
		forger := newKey(t, "one")
		var wg sync.WaitGroup
		defer wg.Wait()
		const each = 600
		for i := range 2 * maxFlights / each {
			var events [][]byte
			for j := range each {
				name := id.ServerName(fmt.Sprintf("d%d-%d.example", i, j))
				n.host(string(name), "8.8.4.4")
				events = append(events, message(t, v, name, forger))
			}
			wg.Go(func() { c.CheckPDUs(t.Context(), v, events, id.ServerName(fmt.Sprintf("hostile%d.example", i))) })
		}
		time.Sleep(keyFetchTimeout - patience/2)
		began := time.Now()
		_, errs := c.CheckPDUs(t.Context(), v, [][]byte{message(t, v, "honest.example", honest.key)}, "honest.example")
		check(t, errs[0])
		if took := time.Since(began); took > patience {
			t.Errorf("an honest server's event waited for %v", took)
		}
	})
}
