package fedclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"myelin/internal/ours"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

// named is a client of a server of another name.
func (n *network) named(name id.ServerName) *Client {
	n.tb.Helper()
	db := sqldbtest.SQLite(n.tb)
	names, err := ours.Open(n.tb.Context(), ours.Config{DB: db, Names: []id.ServerName{name}})
	check(n.tb, err)
	return n.client(db, func(cfg *Config) { cfg.Ours = names })
}

func raws(texts ...string) []json.RawMessage {
	out := make([]json.RawMessage, len(texts))
	for i, s := range texts {
		out[i] = json.RawMessage(s)
	}
	return out
}

func now() int64 { return time.Now().UnixMilli() }

// Spec: ss Retrieving server keys
func TestKeysAreFetchedAndKept(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		db := open()
		c := n.client(db)
		keys, err := c.Keys(t.Context(), "hs.example", []sign.KeyID{r.key.ID}, now())
		if err != nil || !keys[r.key.ID].Equal(r.key.Public()) {
			t.Fatalf("%v, %v", keys, err)
		}
		object, err := c.Notarise(t.Context(), "hs.example", now(), netip.Addr{})
		check(t, err)
		check(t, sign.Verify(object, "hs.example", r.key.ID, r.key.Public()))
		c.Close()
		check(t, db.Close())

		db = open()
		c = n.client(db)
		n.down(r.address)
		keys, err = c.Keys(t.Context(), "hs.example", []sign.KeyID{r.key.ID}, now())
		if err != nil || !keys[r.key.ID].Equal(r.key.Public()) || r.keyFetches() != 1 {
			t.Fatalf("after a restart: %v, %v, %d fetches", keys, err, r.keyFetches())
		}
		if again, err := c.Notarise(t.Context(), "hs.example", now()+int64(100*24*time.Hour/time.Millisecond), netip.Addr{}); err != nil || string(again) != string(object) {
			t.Errorf("the server is away, and the object is %s, %v", again, err)
		}
		sqldbtest.PrepareAll(t, db)
	})
}

// The rules of merging run on both engines through the store.
func TestMergingKeys(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := newNetwork(t)
		c := n.client(open(), func(cfg *Config) { cfg.Notaries = []id.ServerName{"trusted.example"} })
		ctx, at := t.Context(), time.Now()
		key := func(k sign.Key, until, expired int64) remoteKey {
			return remoteKey{public: k.Public(), validUntil: until, expired: expired}
		}
		a, b, other := newKey(t, "a"), newKey(t, "b"), newKey(t, "c")
		soon := at.Add(time.Hour).UnixMilli()
		keysOf := func(keys map[sign.KeyID]remoteKey) *serverKeys {
			return &serverKeys{server: "hs.example", keys: keys, validUntil: soon, raw: json.RawMessage(`{}`)}
		}
		// A notary tells of a, b and c.
		held, err := c.storeNotary(ctx, keysOf(map[sign.KeyID]remoteKey{"ed25519:a": key(a, soon, 0), "ed25519:b": key(b, soon, 0)}), "some.example")
		check(t, err)
		held, err = c.storeNotary(ctx, keysOf(map[sign.KeyID]remoteKey{"ed25519:c": key(other, soon, 0)}), "trusted.example")
		if err != nil || len(held) != 3 || held["ed25519:a"].notary != "some.example" {
			t.Fatalf("%v, %v", held, err)
		}
		// Another one can't replace them.
		held, err = c.storeNotary(ctx, keysOf(map[sign.KeyID]remoteKey{"ed25519:a": key(other, soon, 0)}), "evil.example")
		if err != nil || !held["ed25519:a"].public.Equal(a.Public()) {
			t.Fatalf("%v, %v", held, err)
		}
		// The server itself knows of a, with another key, and not of b; what a trusted notary said of c stays.
		held, err = c.storeDirect(ctx, keysOf(map[sign.KeyID]remoteKey{"ed25519:a": key(b, soon, 0)}), at)
		if err != nil || len(held) != 2 || !held["ed25519:a"].public.Equal(b.Public()) || held["ed25519:a"].notary != "" || held["ed25519:c"].notary != "trusted.example" {
			t.Fatalf("%v, %v", held, err)
		}
		// No notary replaces what the server said, but the same key may turn out to be valid for longer.
		held, err = c.storeNotary(ctx, keysOf(map[sign.KeyID]remoteKey{"ed25519:a": key(other, soon+1, 0)}), "trusted.example")
		if err != nil || !held["ed25519:a"].public.Equal(b.Public()) || held["ed25519:a"].validUntil != soon {
			t.Fatalf("%v, %v", held, err)
		}
		held, err = c.storeNotary(ctx, keysOf(map[sign.KeyID]remoteKey{"ed25519:a": key(b, soon+1, 0)}), "trusted.example")
		if err != nil || held["ed25519:a"].vouched != 0 {
			t.Fatalf("extended without the key's own signature: %v, %v", held, err)
		}
		longer := key(b, soon+1, 0)
		longer.signed = true
		held, err = c.storeNotary(ctx, keysOf(map[sign.KeyID]remoteKey{"ed25519:a": longer}), "some.example")
		event := want{ids: []sign.KeyID{"ed25519:a"}, at: soon + 1, strict: true}
		request := event
		request.request = true
		if k := held["ed25519:a"]; err != nil || k.validUntil != soon || k.notary != "" || !event.fits(k) || request.fits(k) {
			t.Fatalf("%v, %v", held, err)
		}
		// What the server doesn't mention any more is retired.
		held, err = c.storeDirect(ctx, keysOf(map[sign.KeyID]remoteKey{"ed25519:d": key(a, soon, 0)}), at)
		if err != nil || held["ed25519:a"].expired != at.UnixMilli() || event.fits(held["ed25519:a"]) || held["ed25519:d"].validUntil != soon {
			t.Fatalf("%v, %v", held, err)
		}
		held, err = c.storeNotary(ctx, keysOf(map[sign.KeyID]remoteKey{"ed25519:a": longer}), "some.example")
		if err != nil || event.fits(held["ed25519:a"]) {
			t.Fatalf("a notary revived a retired key: %v, %v", held, err)
		}
		stored, err := c.storedKeys(ctx, "hs.example")
		if err != nil || len(stored) != len(held) || stored["ed25519:a"].validUntil != at.UnixMilli() {
			t.Fatalf("stored are %v, %v", stored, err)
		}
	})
}

// Spec: rooms/v5 Signing key validity period
func TestValidity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		const day = int64(24 * time.Hour / time.Millisecond)
		t0 := now()
		old := r.key
		r.rotate("two", t0-10*day)
		r.validUntil = t0 + 1000*day
		c := n.sqlite()
		ctx := t.Context()
		fits := func(keyID sign.KeyID, at int64, strict bool) bool {
			w := want{server: "hs.example", ids: []sign.KeyID{keyID}, at: at, strict: strict}
			check(t, c.obtain(ctx, c.ring.requestsFrom(netip.Addr{}), []want{w}, nil))
			return len(c.valid(w)) == 1
		}
		for _, s := range []struct {
			name   string
			key    sign.KeyID
			at     int64
			strict bool
			want   bool
		}{
			{"now", r.key.ID, t0, true, true},
			{"long ago", r.key.ID, 1, true, true},
			{"within a week", r.key.ID, t0 + 7*day, true, true},
			{"beyond the week, whatever the server says", r.key.ID, t0 + 7*day + 1, true, false},
			{"beyond the week in an old room", r.key.ID, t0 + 900*day, false, true},
			{"an old key before it was retired", old.ID, t0 - 11*day, true, true},
			{"an old key when it was retired", old.ID, t0 - 10*day, true, true},
			{"an old key after it was retired", old.ID, t0 - 10*day + 1, true, false},
			{"an old key after it was retired, in an old room", old.ID, t0, false, false},
			{"an unknown key", "ed25519:three", t0, false, false},
		} {
			if got := fits(s.key, s.at, s.strict); got != s.want {
				t.Errorf("%s: %v", s.name, got)
			}
		}
		// A week later the key must be confirmed again, which happens when it is needed.
		fetches := r.keyFetches()
		time.Sleep(6 * 24 * time.Hour)
		if !fits(r.key.ID, now(), true) || r.keyFetches() != fetches {
			t.Errorf("fetched although the key was valid")
		}
		time.Sleep(2 * 24 * time.Hour)
		if !fits(r.key.ID, now(), true) || r.keyFetches() != fetches+1 {
			t.Errorf("%d fetches", r.keyFetches()-fetches)
		}
	})
}

// However many events name keys that don't exist, a server is asked rarely.
func TestFetchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		r.mux.HandleFunc("GET /slow", func(http.ResponseWriter, *http.Request) {})
		c := n.sqlite()
		ctx := t.Context()
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				_, _ = c.Keys(ctx, "hs.example", []sign.KeyID{sign.KeyID(fmt.Sprint("ed25519:k", i))}, now())
			})
		}
		wg.Wait()
		if r.keyFetches() != 1 {
			t.Fatalf("%d fetches for requests at once", r.keyFetches())
		}
		for i := range 3000 {
			_, _ = c.Keys(ctx, "hs.example", []sign.KeyID{sign.KeyID(fmt.Sprint("ed25519:m", i))}, now())
			time.Sleep(100 * time.Millisecond)
		}
		// Five minutes have passed.
		if f := r.keyFetches(); f > 6 {
			t.Errorf("%d fetches within five minutes", f)
		}
		// One unknown key is looked for again after a while only.
		before := r.keyFetches()
		time.Sleep(2 * time.Minute)
		for range 40 {
			_, _ = c.Keys(ctx, "hs.example", []sign.KeyID{"ed25519:same"}, now())
			time.Sleep(15 * time.Second)
		}
		if f := r.keyFetches() - before; f > 2 {
			t.Errorf("%d fetches for one key within ten minutes", f)
		}
		// No answer could make a key valid in the far future, so nobody is asked.
		time.Sleep(time.Hour)
		before = r.keyFetches()
		_, _ = c.Keys(ctx, "hs.example", []sign.KeyID{"ed25519:new"}, now()+int64(8*24*time.Hour/time.Millisecond))
		if r.keyFetches() != before {
			t.Error("asked for a time in the far future")
		}
		// All the while the real key is at hand.
		if _, err := c.Keys(ctx, "hs.example", []sign.KeyID{r.key.ID}, now()); err != nil {
			t.Error(err)
		}
	})
}

func TestUnreachableServersAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.host("dead.example", "8.8.8.1")
		c := n.sqlite()
		for range 3600 {
			_, err := c.Keys(t.Context(), "dead.example", []sign.KeyID{"ed25519:a"}, now())
			if err == nil {
				t.Fatal("a key of a dead server")
			}
			time.Sleep(time.Second)
		}
		if d := len(n.dials()); d > 50 {
			t.Errorf("%d connections within an hour", d)
		}
	})
}

func TestOneCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("slow.example", "8.8.8.1")
		keys := r.keys()
		r.mux = http.NewServeMux()
		r.mux.HandleFunc("GET /_matrix/key/v2/server", func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(5 * time.Second)
			_, _ = w.Write(keys)
		})
		c := n.sqlite()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Keys(ctx, "slow.example", []sign.KeyID{r.key.ID}, now()); err == nil {
				t.Error("did not give up")
			}
		})
		wg.Go(func() {
			time.Sleep(100 * time.Millisecond)
			if _, err := c.Keys(t.Context(), "slow.example", []sign.KeyID{r.key.ID}, now()); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
	})
}

func TestBadKeyObjects(t *testing.T) {
	key, other := newKey(t, "a"), newKey(t, "b")
	verify := func(keys ...sign.Key) map[sign.KeyID]any {
		m := map[sign.KeyID]any{}
		for _, k := range keys {
			m[k.ID] = map[string]any{"key": sign.EncodeBase64(k.Public())}
		}
		return m
	}
	object := func(change func(map[string]any)) map[string]any {
		m := map[string]any{"server_name": "hs.example", "valid_until_ts": now() + 1000, "verify_keys": verify(key), "old_verify_keys": map[string]any{}}
		if change != nil {
			change(m)
		}
		return m
	}
	good, err := parseServerKeys(signed(t, object(nil), "hs.example", key), "hs.example", time.Now())
	if err != nil || len(good.keys) != 1 {
		t.Fatalf("%+v, %v", good, err)
	}
	many := map[sign.KeyID]any{}
	for i := range maxKeys + 1 {
		many[sign.KeyID(fmt.Sprint("ed25519:", i))] = map[string]any{"key": sign.EncodeBase64(key.Public())}
	}
	for name, raw := range map[string]json.RawMessage{
		"of another server":              signed(t, object(func(m map[string]any) { m["server_name"] = "other.example" }), "hs.example", key),
		"not signed":                     json.RawMessage(`{"server_name":"hs.example","valid_until_ts":1,"verify_keys":{}}`),
		"signed with a key it lacks":     signed(t, object(nil), "hs.example", other),
		"signed by another server":       signed(t, object(nil), "other.example", key),
		"without an end":                 signed(t, object(func(m map[string]any) { delete(m, "valid_until_ts") }), "hs.example", key),
		"one of two signatures is wrong": json.RawMessage(strings.Replace(string(signed(t, object(func(m map[string]any) { m["verify_keys"] = verify(key, other) }), "hs.example", key)), `"signatures":{"hs.example":{`, `"signatures":{"hs.example":{"ed25519:b":"AAAA",`, 1)),
		"with too many keys":             signed(t, object(func(m map[string]any) { m["old_verify_keys"] = many }), "hs.example", key),
		"too large":                      append(json.RawMessage(strings.Repeat(" ", maxKeyObject)), signed(t, object(nil), "hs.example", key)...),
		"an array":                       json.RawMessage(`[]`),
		"a key that is too short":        signed(t, object(func(m map[string]any) { m["verify_keys"] = map[string]any{"ed25519:a": map[string]any{"key": "AAAA"}} }), "hs.example", key),
		"signed with an old key of it only": signed(t, object(func(m map[string]any) {
			m["verify_keys"] = verify(other)
			m["old_verify_keys"] = map[string]any{"ed25519:a": map[string]any{"key": sign.EncodeBase64(key.Public()), "expired_ts": 5}}
		}), "hs.example", key),
	} {
		if got, err := parseServerKeys(raw, "hs.example", time.Now()); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func FuzzServerKeys(f *testing.F) {
	key := newKey(f, "a")
	f.Add([]byte(signed(f, map[string]any{
		"server_name": "hs.example", "valid_until_ts": 1 << 50, "verify_keys": map[string]any{"ed25519:a": map[string]any{"key": sign.EncodeBase64(key.Public())}},
		"old_verify_keys": map[string]any{"ed25519:\x00": map[string]any{"key": "AAAA", "expired_ts": 1}},
	}, "hs.example", key)))
	f.Add([]byte(`{"server_name":"hs.example","verify_keys":{"ed25519:":{"key":1}},"valid_until_ts":1e400}`))
	at := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := parseServerKeys(raw, "hs.example", at)
		if err != nil {
			return
		}
		for keyID, k := range got.keys {
			if len(k.public) != 32 || strings.ContainsRune(string(keyID), 0) || k.expired == 0 && k.validUntil > at.Add(keyHorizon).UnixMilli() {
				t.Fatalf("%q gave %q: %+v", raw, keyID, k)
			}
		}
	})
}

func TestOwnKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		db := sqldbtest.SQLite(t)
		c := n.client(db)
		was, _ := c.ours.Key("also.example")
		c.Close()
		check(t, ours.Rotate(t.Context(), db, "also.example"))
		c = n.client(db)
		check1 := func() *serverKeys {
			raw, err := c.OwnKeys("also.example")
			check(t, err)
			got, err := parseServerKeys(raw, "also.example", time.Now())
			check(t, err)
			return got
		}
		first := check1()
		is, _ := c.ours.Key("also.example")
		if len(first.keys) != 2 || !first.keys[is.ID].public.Equal(is.Public()) || first.keys[was.ID].expired == 0 {
			t.Errorf("%+v", first.keys)
		}
		time.Sleep(11 * time.Hour)
		if again := check1(); again.validUntil != first.validUntil {
			t.Error("made anew at each request")
		}
		time.Sleep(100 * 24 * time.Hour)
		if left := time.UnixMilli(check1().validUntil).Sub(time.Now()); left < 24*time.Hour || left > keyHorizon {
			t.Errorf("valid for %v", left)
		}
		if _, err := c.OwnKeys("other.example"); !mxerr.Is(err, mxerr.CodeNotFound) {
			t.Errorf("keys of another server: %v", err)
		}
		// Our own keys need no fetching.
		keys, err := c.Keys(t.Context(), "also.example", []sign.KeyID{was.ID, is.ID}, 1)
		if err != nil || len(keys) != 2 || len(n.dials()) != 0 {
			t.Errorf("%v, %v", keys, err)
		}
	})
}

func TestVerifyJSON(t *testing.T) {
	n := newNetwork(t)
	r := n.remote("hs.example", "8.8.8.1")
	c := n.sqlite()
	good := signed(t, map[string]any{"a": 1}, "hs.example", r.key)
	check(t, c.VerifyJSON(t.Context(), good, "hs.example", now()))
	for name, s := range map[string]struct {
		object string
		server id.ServerName
		kind   FaultKind
	}{
		"changed":          {strings.Replace(string(good), `"a":1`, `"a":2`, 1), "hs.example", FaultSignature},
		"of somebody else": {string(good), "other.example", FaultSignature},
		"no JSON":          {`{`, "hs.example", FaultMalformed},
		"no object":        {`[]`, "hs.example", FaultMalformed},
		"unknown key":      {strings.Replace(string(good), `ed25519:one`, `ed25519:two`, 1), "hs.example", FaultKeys},
		"dead server":      {strings.Replace(string(good), `hs.example`, `dead.example`, 1), "dead.example", FaultKeys},
	} {
		err := c.VerifyJSON(t.Context(), []byte(s.object), s.server, now())
		fault, ok := err.(*Fault)
		if !ok || fault.Kind != s.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who looks at a server now is not told what it said before.
func TestPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		c := n.sqlite()
		for fetches := 1; fetches <= 2; fetches++ {
			raw, err := c.Published(t.Context(), "hs.example")
			check(t, err)
			check(t, sign.Verify(raw, "hs.example", r.key.ID, r.key.Public()))
			if r.keyFetches() != fetches {
				t.Errorf("%d fetches instead of %d", r.keyFetches(), fetches)
			}
			r.mu.Lock()
			r.key = newKey(t, "two")
			r.mu.Unlock()
		}
		if _, err := c.Published(t.Context(), "nowhere.example"); err == nil {
			t.Error("a server that isn't there publishes keys")
		}
	})
}

// A file that leads nowhere is told as what its owner didn't mean; none at all is not.
func TestDoubts(t *testing.T) {
	for body, doubts := range map[string]int{`{"m.server":"https://matrix.example"}`: 1, `<html>`: 1, "": 0, `{"m.server":"8.8.8.1:1"}`: 0} {
		n := newNetwork(t)
		n.web("hs.example", "8.8.8.1", func(w http.ResponseWriter, _ *http.Request) {
			if body == "" {
				w.WriteHeader(http.StatusNotFound)
			}
			fmt.Fprint(w, body)
		})
		found, err := n.sqlite().Resolve(t.Context(), "hs.example")
		if check(t, err); len(found.Doubts) != doubts {
			t.Errorf("%q: %q", body, found.Doubts)
		}
	}
}

// Spec: ss perspectivesKeyQuery
func TestNotarise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		r := n.remote("hs.example", "8.8.8.1")
		r.validUntil = time.Now().Add(1000 * 24 * time.Hour).UnixMilli()
		c := n.sqlite()
		ask := func(minValid time.Duration, fetches int) {
			t.Helper()
			raw, err := c.Notarise(t.Context(), "hs.example", time.Now().Add(minValid).UnixMilli(), netip.Addr{})
			check(t, err)
			check(t, sign.Verify(raw, "hs.example", r.key.ID, r.key.Public()))
			if r.keyFetches() != fetches {
				t.Errorf("%d fetches instead of %d", r.keyFetches(), fetches)
			}
		}
		ask(0, 1)
		time.Sleep(3 * 24 * time.Hour)
		ask(0, 1)
		// Half of a week is over, however long the server says that its keys are valid.
		time.Sleep(24 * time.Hour)
		ask(0, 2)
		time.Sleep(time.Hour)
		ask(2000*24*time.Hour, 3)
		ask(2000*24*time.Hour, 3)
		if _, err := c.Notarise(t.Context(), "dead.example", now(), netip.Addr{}); !mxerr.Is(err, mxerr.CodeNotFound) {
			t.Errorf("a server that isn't there: %v", err)
		}
		own, err := c.Notarise(t.Context(), us, now(), netip.Addr{})
		check(t, err)
		if _, err := parseServerKeys(own, us, time.Now()); err != nil {
			t.Error(err)
		}
	})
}
