package fedclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

func version(tb testing.TB, v string) *roomver.Version {
	tb.Helper()
	out, ok := roomver.Get(v)
	if !ok {
		tb.Fatalf("no room version %s", v)
	}
	return out
}

// message builds an event of a user of a server.
func message(tb testing.TB, v *roomver.Version, server id.ServerName, key sign.Key, change ...func(*event.Draft)) []byte {
	tb.Helper()
	d := event.Draft{
		RoomID: "!room:hs.example", Type: "m.room.message", Sender: id.UserID("@bob:" + string(server)), Content: []byte(`{"body":"hello","msgtype":"m.text"}`),
		OriginServerTS: time.Now().UnixMilli(), Depth: 5, PrevEvents: []id.EventID{"$prev:hs.example"}, AuthEvents: []id.EventID{"$auth:hs.example"},
	}
	for _, f := range change {
		f(&d)
	}
	pdu, err := d.Build(v, server, key, func() string { return fmt.Sprint(time.Now().UnixNano()) })
	check(tb, err)
	return pdu.Raw()
}

func kindOf(err error) FaultKind {
	fault, ok := errors.AsType[*Fault](err)
	if !ok {
		return 0
	}
	return fault.Kind
}

// Spec: ss Checks performed on receipt of a PDU
// Spec: ss Validating hashes and signatures on received events
func TestCheckPDU(t *testing.T) {
	n := newNetwork(t)
	r, other := n.remote("hs.example", "8.8.8.1"), n.remote("other.example", "8.8.8.2")
	c := n.sqlite()
	for _, v := range roomver.All() {
		raw := message(t, v, "hs.example", r.key)
		pdu, err := c.CheckPDU(t.Context(), v, raw)
		if err != nil || string(pdu.Raw()) != string(raw) {
			t.Fatalf("version %s: %v", v, err)
		}
		// The body is covered by the hash and not by the signature: the event stays, redacted.
		changed := strings.Replace(string(raw), "hello", "hullo", 1)
		redacted, err := c.CheckPDU(t.Context(), v, []byte(changed))
		if err != nil || string(redacted.Content()) != "{}" || redacted.ID() != pdu.ID() {
			t.Errorf("version %s, a changed body: %v", v, err)
		}
		for name, s := range map[string]struct {
			raw  string
			kind FaultKind
		}{
			"changed type":                         {strings.Replace(string(raw), "m.room.message", "m.room.massage", 1), FaultSignature},
			"no signature":                         {string(canon.With(nil, raw, "signatures", []byte("{}"))), FaultSignature},
			"signed by another server":             {string(message(t, v, "other.example", other.key, func(d *event.Draft) { d.Sender = "@bob:hs.example" })), FaultSignature},
			"signed with another key of that name": {string(message(t, v, "hs.example", newKey(t, "one"))), FaultSignature},
			"of a server that is away":             {string(message(t, v, "dead.example", newKey(t, "one"))), FaultKeys},
			"no JSON":                              {`{`, FaultMalformed},
			"no event":                             {`{}`, FaultMalformed},
			"too large":                            {`{"x":"` + strings.Repeat("x", 70_000) + `"}`, FaultMalformed},
		} {
			pdu, err := c.CheckPDU(t.Context(), v, []byte(s.raw))
			if kindOf(err) != s.kind || pdu != nil {
				t.Errorf("version %s, %s: %v", v, name, err)
			}
		}
	}
}

// An event that a third server had to agree to needs that one's signature too.
//
// Spec: rooms/v8 Authorisation rules
func TestSeveralSigners(t *testing.T) {
	n := newNetwork(t)
	r, other := n.remote("hs.example", "8.8.8.1"), n.remote("other.example", "8.8.8.2")
	c := n.sqlite()
	v := version(t, "10")
	state := "@bob:hs.example"
	raw := message(t, v, "hs.example", r.key, func(d *event.Draft) {
		d.Type, d.StateKey = "m.room.member", &state
		d.Content = []byte(`{"membership":"join","join_authorised_via_users_server":"@carol:other.example"}`)
	})
	if _, err := c.CheckPDU(t.Context(), v, raw); kindOf(err) != FaultSignature {
		t.Errorf("a join that nobody authorised: %v", err)
	}
	pdu, err := event.Parse(v, raw)
	check(t, err)
	both, err := pdu.Signed("other.example", other.key)
	check(t, err)
	if _, err := c.CheckPDU(t.Context(), v, both.Raw()); err != nil {
		t.Errorf("an authorised join: %v", err)
	}
	wrong, err := pdu.Signed("other.example", newKey(t, "one"))
	check(t, err)
	if _, err := c.CheckPDU(t.Context(), v, wrong.Raw()); kindOf(err) != FaultSignature {
		t.Errorf("a join with a forged authorisation: %v", err)
	}
	// A key that is not published, such as a policy server's, is skipped, but does not stand in for one that is.
	policy, err := both.Signed("hs.example", newKey(t, "policy_server"))
	check(t, err)
	if _, err := c.CheckPDU(t.Context(), v, policy.Raw()); err != nil {
		t.Errorf("with a policy server's signature: %v", err)
	}
}

// Spec: rooms/v5 Signing key validity period
func TestCheckPDUHoldsKeysToTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		old := r.key
		t0 := time.Now()
		r.rotate("two", t0.UnixMilli())
		c := n.sqlite()
		at := func(d time.Duration) func(*event.Draft) {
			return func(draft *event.Draft) { draft.OriginServerTS = t0.Add(d).UnixMilli() }
		}
		for _, s := range []struct {
			name, version string
			key           sign.Key
			at            time.Duration
			kind          FaultKind
		}{
			{"in time", "5", r.key, 0, 0},
			{"in time", "4", r.key, 0, 0},
			{"beyond validity", "5", r.key, 30 * time.Hour, FaultSignature},
			{"beyond validity", "12", r.key, 300 * time.Hour, FaultSignature},
			{"beyond validity", "4", r.key, 300 * time.Hour, 0},
			{"before the key was retired", "10", old, -time.Hour, 0},
			{"after the key was retired", "10", old, time.Hour, FaultSignature},
			{"after the key was retired", "1", old, time.Hour, FaultSignature},
		} {
			v := version(t, s.version)
			_, err := c.CheckPDU(t.Context(), v, message(t, v, "hs.example", s.key, at(s.at)))
			if kindOf(err) != s.kind || s.kind == 0 && err != nil {
				t.Errorf("%s, version %s: %v", s.name, s.version, err)
			}
		}
	})
}

func TestCheckPDUs(t *testing.T) {
	n := newNetwork(t)
	v := version(t, "10")
	var servers []*remote
	for i := range 10 {
		servers = append(servers, n.remote(id.ServerName(fmt.Sprintf("s%d.example", i)), fmt.Sprintf("8.8.8.%d", i+1)))
	}
	c := n.sqlite()
	var all [][]byte
	bad := map[int]FaultKind{}
	for i := range 500 {
		r := servers[i%len(servers)]
		raw := message(t, v, r.name, r.key)
		switch i % 50 {
		case 7:
			raw, bad[i] = []byte(`[]`), FaultMalformed
		case 8:
			raw, bad[i] = message(t, v, r.name, newKey(t, "one")), FaultSignature
		case 9:
			raw, bad[i] = message(t, v, "dead.example", r.key), FaultKeys
		}
		all = append(all, raw)
	}
	pdus, errs := c.CheckPDUs(t.Context(), v, all)
	for i := range all {
		if kindOf(errs[i]) != bad[i] || (pdus[i] == nil) != (errs[i] != nil) || pdus[i] != nil && string(pdus[i].Raw()) != string(all[i]) {
			t.Fatalf("event %d: %v", i, errs[i])
		}
	}
	for _, r := range servers {
		if r.keyFetches() != 1 {
			t.Errorf("%s was asked %d times", r.name, r.keyFetches())
		}
	}
	if pdus, errs := c.CheckPDUs(t.Context(), v, nil); len(pdus)+len(errs) != 0 {
		t.Error("something came of nothing")
	}
}

// notary makes a remote answer queries for keys with what it holds of others, signed by itself.
func (r *remote) notary(objects func() []json.RawMessage) *int {
	asked := 0
	r.mux.HandleFunc("POST /_matrix/key/v2/query", func(w http.ResponseWriter, _ *http.Request) {
		asked++
		out := []json.RawMessage{}
		for _, o := range objects() {
			o, err := r.key.Sign(o, string(r.name))
			check(r.tb, err)
			out = append(out, o)
		}
		check(r.tb, json.NewEncoder(w).Encode(map[string]any{"server_keys": out}))
	})
	return &asked
}

// Spec: ss Querying Keys Through Another Server
func TestNotaries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		v := version(t, "10")
		dead, live, hint, liar := n.remote("dead.example", "8.8.8.1"), n.remote("live.example", "8.8.8.2"), n.remote("hint.example", "8.8.8.3"), n.remote("liar.example", "8.8.8.4")
		lost := live.key
		lostObject := live.keys()
		live.rotate("two", 0)
		deadObject := dead.keys()
		up := n.down(dead.address)
		asked := hint.notary(func() []json.RawMessage { return []json.RawMessage{deadObject, lostObject} })
		forged := newKey(t, "forged")
		forgedObject := signed(t, map[string]any{
			"server_name": "dead.example", "valid_until_ts": now() + 1e9, "verify_keys": map[sign.KeyID]any{forged.ID: map[string]any{"key": sign.EncodeBase64(forged.Public())}},
		}, "dead.example", forged)
		liar.notary(func() []json.RawMessage { return []json.RawMessage{forgedObject} })
		open := func(notaries ...id.ServerName) *Client {
			return n.sqlite(func(cfg *Config) { cfg.Notaries = notaries })
		}
		ofDead, ofLost, ofForged := message(t, v, "dead.example", dead.key), message(t, v, "live.example", lost), message(t, v, "dead.example", forged)

		c := open()
		if _, err := c.CheckPDU(t.Context(), v, ofDead); kindOf(err) != FaultKeys {
			t.Errorf("without a hint: %v", err)
		}
		if _, err := c.CheckPDU(t.Context(), v, ofDead, us, "gone.example", "hint.example"); kindOf(err) != FaultKeys {
			t.Errorf("by a hint: %v", err)
		}
		if _, errs := c.CheckState(t.Context(), v, [][]byte{ofDead}, "hint.example"); errs[0] != nil {
			t.Errorf("as a state, by a hint: %v", errs[0])
		}
		if !slices.ContainsFunc(hint.seen, func(s seen) bool {
			return s.method == "POST" && strings.HasPrefix(s.body, `{"server_keys":{"dead.example":{"ed25519:one":{"minimum_valid_until_ts":`)
		}) {
			t.Errorf("the hint was asked %+v", hint.seen)
		}
		// A server that answers has the last word about its keys, unless the operator trusts a notary.
		if _, err := c.CheckPDU(t.Context(), v, ofLost, "hint.example"); kindOf(err) != FaultSignature {
			t.Errorf("a lost key by a hint: %v", err)
		}
		if _, err := open("hint.example").CheckPDU(t.Context(), v, ofLost); err != nil {
			t.Errorf("a lost key by a notary: %v", err)
		}
		// What a notary says is not for requests.
		if _, _, err := c.Authenticate(t.Context(), signedBy(dead, dead.key, "GET", "/x", "", "us.example", ""), netip.Addr{}, bodyOf("")); err == nil {
			t.Error("a request was believed by a notary's word")
		}
		// Events that come again and again don't make us ask again and again.
		*asked = 0
		for i := range 200 {
			_, _ = c.CheckPDU(t.Context(), v, message(t, v, "dead.example", newKey(t, fmt.Sprint("x", i))), "hint.example")
		}
		if *asked > 2 {
			t.Errorf("the notary was asked %d times", *asked)
		}
		// A lie works for nothing but the state of a room that the liar lets us into, and only as long as its victim is silent.
		c = open()
		if _, err := c.CheckPDU(t.Context(), v, ofForged, "liar.example"); kindOf(err) != FaultKeys {
			t.Errorf("the forged key: %v", err)
		}
		if _, errs := c.CheckState(t.Context(), v, [][]byte{ofForged}, "liar.example"); errs[0] != nil {
			t.Errorf("the forged key in a state: %v", errs[0])
		}
		if _, err := c.CheckPDU(t.Context(), v, ofForged, "liar.example"); kindOf(err) != FaultKeys {
			t.Errorf("the forged key afterwards: %v", err)
		}
		up()
		time.Sleep(time.Hour)
		if _, err := c.CheckPDU(t.Context(), v, ofDead); err != nil {
			t.Errorf("the server is back: %v", err)
		}
		if _, err := c.CheckPDU(t.Context(), v, ofForged, "liar.example"); kindOf(err) != FaultSignature {
			t.Errorf("the forged key after the server came back: %v", err)
		}
	})
}

func TestNotariesMustProve(t *testing.T) {
	n := newNetwork(t)
	v := version(t, "10")
	dead, hint, third := n.remote("dead.example", "8.8.8.1"), n.remote("hint.example", "8.8.8.2"), n.remote("third.example", "8.8.8.3")
	object := dead.keys()
	thirdKeys := third.keys()
	n.down(dead.address)
	event := message(t, v, "dead.example", dead.key)
	for name, give := range map[string]func() (json.RawMessage, sign.Key){
		"without the server's signature": func() (json.RawMessage, sign.Key) { return canon.Without(nil, object, "signatures"), hint.key },
		"with another validity": func() (json.RawMessage, sign.Key) {
			return canon.With(nil, object, "valid_until_ts", []byte("1")), hint.key
		},
		"without the notary's signature": func() (json.RawMessage, sign.Key) { return object, newKey(t, "one") },
		"of a server nobody asked for":   func() (json.RawMessage, sign.Key) { return thirdKeys, hint.key },
	} {
		object, key := give()
		hint.mux = http.NewServeMux()
		hint.mux.HandleFunc("GET /_matrix/key/v2/server", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(hint.keys()) })
		hint.mux.HandleFunc("POST /_matrix/key/v2/query", func(w http.ResponseWriter, _ *http.Request) {
			out, err := key.Sign(object, "hint.example")
			check(t, err)
			fmt.Fprintf(w, `{"server_keys":[%s]}`, out)
		})
		if _, err := n.sqlite().CheckPDU(t.Context(), v, event, "hint.example"); kindOf(err) != FaultKeys {
			t.Errorf("keys %s: %v", name, err)
		}
	}
}

// A notary that is out of reach for a moment is asked again soon: it hasn't said that it lacks the keys. One that never answers is not asked all the time.
func TestNotaryOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		v := version(t, "10")
		dead, notary := n.remote("dead.example", "8.8.8.1"), n.remote("notary.example", "8.8.8.2")
		object := dead.keys()
		n.down(dead.address)
		notary.notary(func() []json.RawMessage { return []json.RawMessage{object} })
		up := n.down(notary.address)
		c := n.sqlite(func(cfg *Config) { cfg.Notaries = []id.ServerName{notary.name} })
		for i := range 1800 {
			_, _ = c.CheckPDU(t.Context(), v, message(t, v, "dead.example", newKey(t, fmt.Sprint("x", i%30))))
			time.Sleep(2 * time.Second)
		}
		if dials := len(n.dials()); dials > 100 {
			t.Errorf("%d connections within an hour", dials)
		}
		up()
		time.Sleep(keyRetryMost)

		c = n.sqlite(func(cfg *Config) { cfg.Notaries = []id.ServerName{notary.name} })
		up = n.down(notary.address)
		event := message(t, v, "dead.example", dead.key)
		if _, err := c.CheckPDU(t.Context(), v, event); kindOf(err) != FaultKeys {
			t.Errorf("with nobody in reach: %v", err)
		}
		up()
		time.Sleep(keyRetry)
		if _, err := c.CheckPDU(t.Context(), v, event); err != nil {
			t.Errorf("with the notary back: %v", err)
		}
	})
}

// A server that lets us into a room is asked for the keys of those that are silent also where others were asked in vain a moment ago, and not again and again.
func TestHintForState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		v := version(t, "10")
		dead, ignorant, host := n.remote("dead.example", "8.8.8.1"), n.remote("ignorant.example", "8.8.8.2"), n.remote("host.example", "8.8.8.3")
		object := dead.keys()
		n.down(dead.address)
		ignorant.notary(func() []json.RawMessage { return nil })
		asked := host.notary(func() []json.RawMessage { return []json.RawMessage{object} })
		c := n.sqlite()
		event := message(t, v, "dead.example", dead.key)
		if _, err := c.CheckPDU(t.Context(), v, event, ignorant.name); kindOf(err) != FaultKeys {
			t.Errorf("by one who knows nothing: %v", err)
		}
		if _, errs := c.CheckState(t.Context(), v, [][]byte{event}, host.name); errs[0] != nil {
			t.Errorf("by the server that lets us in: %v", errs[0])
		}
		*asked = 0
		for i := range 40 {
			_, _ = c.CheckState(t.Context(), v, [][]byte{message(t, v, "dead.example", newKey(t, fmt.Sprint("x", i)))}, host.name)
		}
		if *asked > 2 {
			t.Errorf("the server that lets us in was asked %d times", *asked)
		}
	})
}

// Many servers that are gone don't make a join take for ever: patience ends, and the notary is asked for all at once.
func TestManyDeadServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		v := version(t, "10")
		hint := n.remote("hint.example", "8.8.8.1")
		var objects []json.RawMessage
		var all [][]byte
		for i := range 150 {
			name := id.ServerName(fmt.Sprintf("d%d.example", i))
			// Packets vanish: nothing is ever answered.
			n.host(string(name), "8.8.4.4")
			gone := &remote{tb: t, name: name, key: newKey(t, "one")}
			objects = append(objects, gone.keys())
			all = append(all, message(t, v, name, gone.key))
		}
		n.listen("8.8.4.4:8448")
		n.listen("8.8.4.4:443")
		hint.notary(func() []json.RawMessage { return objects })
		c := n.sqlite()
		began := time.Now()
		_, errs := c.CheckState(t.Context(), v, all, "hint.example")
		if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
			t.Errorf("event %d: %v", i, errs[i])
		}
		if took := time.Since(began); took > patience+5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func BenchmarkCheckPDUs(b *testing.B) {
	n := newNetwork(b)
	v := version(b, "10")
	r := n.remote("hs.example", "8.8.8.1")
	c := n.sqlite()
	var good, forged [][]byte
	wrong := newKey(b, "one")
	for i := range 1000 {
		content := func(d *event.Draft) {
			d.Content = []byte(fmt.Sprintf(`{"body":"%d %s","msgtype":"m.text"}`, i, strings.Repeat("x", 300)))
		}
		good = append(good, message(b, v, "hs.example", r.key, content))
		forged = append(forged, message(b, v, "hs.example", wrong, content))
	}
	for name, events := range map[string][][]byte{"good": good, "forged": forged} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, errs := c.CheckPDUs(b.Context(), v, events); (errs[0] == nil) != (name == "good") {
					b.Fatal(errs[0])
				}
			}
			b.ReportMetric(float64(len(events)*b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
