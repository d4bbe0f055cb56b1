package e2ee

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

func (n *node) query(asked Query) string {
	n.t.Helper()
	keys, err := n.QueryLocal(n.ctx, alice, asked)
	n.ok(err)
	raw, err := json.Marshal(keys.Devices)
	n.ok(err)
	return string(raw)
}

func TestDeviceKeys(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		a := n.device(alice, "A")
		n.took(0)
		_, err := n.Upload(n.ctx, alice, "A", Upload{DeviceKeys: a.keys(t)})
		n.ok(err)
		if news := n.took(bus.DeviceListLocal); len(news) != 1 || news[0].User != alice || news[0].Pos == 0 {
			t.Errorf("the bus told %+v", news)
		}
		want := fmt.Sprintf(`{"%s":{"A":%s}}`, alice, a.keys(t))
		if got := n.query(Query{alice: nil}); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
		_, err = n.Upload(n.ctx, alice, "A", Upload{DeviceKeys: a.keys(t)})
		n.ok(err)
		if news := n.took(bus.DeviceListLocal); len(news) != 0 {
			t.Errorf("the same keys again are told: %+v", news)
		}

		n.happens(alice, "A", account.DeviceRenamed, `Alice's "phone"`)
		got := n.query(Query{alice: nil})
		if name := gjson.Get(got, `@alice:here\.example.A.unsigned.device_display_name`).Str; name != `Alice's "phone"` {
			t.Errorf("the name is %q: %s", name, got)
		}
		n.device(alice, "B") // without keys
		if got := n.query(Query{alice: {"B"}, bob: nil, "@carol:there.example": nil}); got != `{"@alice:here.example":{},"@bob:here.example":{}}` {
			t.Errorf("got %s", got)
		}
		n.happens(alice, "A", account.DeviceDeleted, "")
		if got := n.query(Query{alice: nil}); got != `{"@alice:here.example":{}}` {
			t.Errorf("a deleted device has keys: %s", got)
		}
		_, err = n.Upload(n.ctx, alice, "A", Upload{DeviceKeys: a.keys(t)})
		n.refused(mxerr.CodeNotFound, err)
	})
}

func TestBadDeviceKeys(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		a := n.device(alice, "A")
		good := string(a.keys(t))
		other := newPhone(t, alice, "A", 2)
		for _, c := range []struct {
			code mxerr.Code
			keys string
		}{
			{mxerr.CodeBadJSON, `{"user_id":"@alice:here.example","device_id":"A"}`},
			{mxerr.CodeBadJSON, `[]`},
			{mxerr.CodeBadJSON, strings.Replace(good, `"c"`, `1`, 1)},
			{mxerr.CodeInvalidParam, strings.Replace(good, `"user_id":"@alice`, `"user_id":"@bob`, 1)},
			{mxerr.CodeInvalidParam, strings.Replace(good, `"device_id":"A"`, `"device_id":"B"`, 1)},
			{mxerr.CodeInvalidParam, strings.Replace(good, `"user_id"`, `"USER_ID"`, 1)},
			{mxerr.CodeInvalidSignature, strings.Replace(good, `"c"`, `"d"`, 1)},
			{mxerr.CodeInvalidSignature, strings.Replace(string(other.keys(t)), pub(other), pub(a), 1)},
			{mxerr.CodeTooLarge, strings.Replace(good, `"c"`, `"`+strings.Repeat("c", maxDeviceKeys)+`"`, 1)},
		} {
			_, err := n.Upload(n.ctx, alice, "A", Upload{DeviceKeys: json.RawMessage(c.keys)})
			if !mxerr.Is(err, c.code) {
				t.Errorf("%.200s: %v, want %s", c.keys, err, c.code)
			}
		}
		if got := n.query(Query{alice: nil}); got != `{"@alice:here.example":{}}` {
			t.Errorf("got %s", got)
		}
		_, err := n.QueryLocal(n.ctx, alice, Query{"alice": nil})
		n.refused(mxerr.CodeInvalidParam, err)
		many := make(Query)
		for i := range maxQuery + 1 {
			many[id.UserID(fmt.Sprintf("@u%d:here.example", i))] = nil
		}
		_, err = n.QueryLocal(n.ctx, alice, many)
		n.refused(mxerr.CodeTooLarge, err)
	})
}

func pub(p *phone) string { return sign.EncodeBase64(p.key.Public()) }

func TestOneTimeKeys(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		a := n.device(alice, "A")
		_, err := n.Upload(n.ctx, alice, "A", Upload{DeviceKeys: a.keys(t)})
		n.ok(err)
		if counts := n.upload(a, "3", "2", "1"); counts["signed_curve25519"] != 3 {
			t.Errorf("counts %v", counts)
		}
		if counts := n.upload(a, "1", "2", "3", "0"); counts["signed_curve25519"] != 4 {
			t.Errorf("counts after the same keys %v", counts)
		}
		_, err = n.Upload(n.ctx, alice, "A", Upload{OneTimeKeys: map[string]json.RawMessage{
			"signed_curve25519:9": a.pre(t, "nine"), "signed_curve25519:1": a.pre(t, "another"),
		}})
		n.refused(mxerr.CodeInvalidParam, err)
		_, err = n.Upload(n.ctx, alice, "A", Upload{OneTimeKeys: map[string]json.RawMessage{
			"signed_curve25519:9": newPhone(t, alice, "A", 2).pre(t, "nine"),
		}})
		n.refused(mxerr.CodeInvalidSignature, err)
		for _, name := range []string{"signed_curve25519", ":x", "signed_curve25519:", "a:" + strings.Repeat("x", 300), "a:\x00"} {
			_, err = n.Upload(n.ctx, alice, "A", Upload{OneTimeKeys: map[string]json.RawMessage{name: json.RawMessage(`"k"`)}})
			n.refused(mxerr.CodeInvalidParam, err)
		}
		for _, key := range []string{`1`, `{}`, `{"key":1}`, `[]`, `null`} {
			_, err = n.Upload(n.ctx, alice, "A", Upload{OneTimeKeys: map[string]json.RawMessage{"a:b": json.RawMessage(key)}})
			n.refused(mxerr.CodeBadJSON, err)
		}

		// What was refused left nothing behind; what came first goes first, and each key once.
		var got []string
		for range 4 {
			got = append(got, n.claim(a))
		}
		if got[3] != "signed_curve25519:0" {
			t.Errorf("the key that came last was not the last to go: %v", got)
		}
		slices.Sort(got)
		if fmt.Sprint(got) != "[signed_curve25519:0 signed_curve25519:1 signed_curve25519:2 signed_curve25519:3]" {
			t.Errorf("claimed %v", got)
		}
		if name := n.claim(a); name != "" {
			t.Errorf("there is one more: %s", name)
		}
		// A repeated upload brings none back; another key under an old name is a new one.
		if counts := n.upload(a, "1", "2"); counts["signed_curve25519"] != 0 {
			t.Errorf("claimed keys came back: %v", counts)
		}
		_, err = n.Upload(n.ctx, alice, "A", Upload{OneTimeKeys: map[string]json.RawMessage{"signed_curve25519:1": a.pre(t, "new")}})
		n.ok(err)
		if name := n.claim(a); name != "signed_curve25519:1" {
			t.Errorf("claimed %q", name)
		}
		if got, err := n.ClaimLocal(n.ctx, Claims{alice: {"NONE": "signed_curve25519", "A": "x\x00"}, bob: {"B": "signed_curve25519"}}); err != nil || len(got) != 0 {
			t.Errorf("claims of what isn't there: %v, %v", got, err)
		}
	})
}

func TestTooManyKeys(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		n.device(alice, "A")
		part := func(from, to int) Upload {
			up := Upload{OneTimeKeys: make(map[string]json.RawMessage)}
			for i := from; i < to; i++ {
				up.OneTimeKeys[fmt.Sprintf("curve25519:%d", i)] = json.RawMessage(fmt.Sprintf(`"%d"`, i))
			}
			return up
		}
		_, err := n.Upload(n.ctx, alice, "A", part(0, maxUpload+1))
		n.refused(mxerr.CodeTooLarge, err)
		for i := 0; i < maxOneTimeKeys; i += maxUpload {
			_, err = n.Upload(n.ctx, alice, "A", part(i, i+maxUpload))
			n.ok(err)
		}
		_, err = n.Upload(n.ctx, alice, "A", part(maxOneTimeKeys, maxOneTimeKeys+1))
		n.refused(mxerr.CodeTooLarge, err)
		s, err := n.stock(n.ctx, deviceKey{alice, "A"})
		n.ok(err)
		if s.counts["curve25519"] != maxOneTimeKeys {
			t.Errorf("there are %v", s.counts)
		}
	})
}

func TestFallbackKeys(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		a := n.device(alice, "A")
		fallback := func(keyID string) Upload {
			return Upload{FallbackKeys: map[string]json.RawMessage{"signed_curve25519:" + keyID: a.signed(t, `{"fallback":true,"key":"f`+keyID+`"}`)}}
		}
		unused := func() string {
			t.Helper()
			_, types, _, err := n.Stock(n.ctx, alice, "A", 0)
			n.ok(err)
			return string(types)
		}
		_, err := n.Upload(n.ctx, alice, "A", fallback("1"))
		n.ok(err)
		n.upload(a, "x")
		if got := unused(); got != `["signed_curve25519"]` {
			t.Errorf("unused: %s", got)
		}
		if name := n.claim(a); name != "signed_curve25519:x" {
			t.Errorf("the fallback key went before a one-time key: %q", name)
		}
		n.took(0)
		for i := range 2 {
			if name := n.claim(a); name != "signed_curve25519:1" {
				t.Errorf("claim %d: %q", i, name)
			}
		}
		if news := n.took(bus.OneTimeKeys); len(news) != 1 || news[0].User != alice || news[0].Device != "A" {
			t.Errorf("the bus told %+v", news)
		}
		if got := unused(); got != `[]` {
			t.Errorf("unused after its use: %s", got)
		}
		_, err = n.Upload(n.ctx, alice, "A", fallback("1"))
		n.ok(err)
		if got := unused(); got != `[]` {
			t.Errorf("the same key again became unused: %s", got)
		}
		_, err = n.Upload(n.ctx, alice, "A", fallback("2"))
		n.ok(err)
		if got := unused(); got != `["signed_curve25519"]` {
			t.Errorf("unused: %s", got)
		}
		two := fallback("3")
		maps.Copy(two.FallbackKeys, fallback("4").FallbackKeys)
		_, err = n.Upload(n.ctx, alice, "A", two)
		n.refused(mxerr.CodeInvalidParam, err)
		if name := n.claim(a); name != "signed_curve25519:2" {
			t.Errorf("claimed %q", name)
		}
	})
}

func TestNewIdentityDropsOldKeys(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		a := n.device(alice, "A")
		_, err := n.Upload(n.ctx, alice, "A", Upload{DeviceKeys: a.keys(t)})
		n.ok(err)
		n.upload(a, "1")
		again := newPhone(t, alice, "A", 2)
		_, err = n.Upload(n.ctx, alice, "A", Upload{DeviceKeys: again.keys(t), OneTimeKeys: map[string]json.RawMessage{"signed_curve25519:2": again.pre(t, "k")}})
		n.ok(err)
		if name := n.claim(a); name != "signed_curve25519:2" {
			t.Errorf("claimed %q", name)
		}
		if name := n.claim(a); name != "" {
			t.Errorf("a key that nothing can verify was given out: %q", name)
		}
	})
}

// TestClaimsAtOnce claims from many goroutines: nobody gets a key that somebody else got.
func TestClaimsAtOnce(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		a := n.device(alice, "A")
		const keys, claimers = 60, 8
		var ids []string
		for i := range keys {
			ids = append(ids, fmt.Sprint(i))
		}
		n.upload(a, ids...)
		var mu sync.Mutex
		got := make(map[string]int)
		var wg sync.WaitGroup
		for range claimers {
			wg.Go(func() {
				for range keys / claimers * 2 {
					claimed, err := n.ClaimLocal(n.ctx, Claims{alice: {"A": "signed_curve25519"}})
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					for name := range claimed[alice]["A"] {
						got[name]++
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(got) != keys {
			t.Errorf("%d keys were claimed", len(got))
		}
		for name, n := range got {
			if n != 1 {
				t.Errorf("%s was given out %d times", name, n)
			}
		}
	})
}

func TestStock(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		a := n.device(alice, "A")
		stock := func() (string, bool) {
			t.Helper()
			before := n.cfg.Bus.Last()
			counts, _, _, err := n.Stock(n.ctx, alice, "A", before)
			n.ok(err)
			_, _, changed, err := n.Stock(n.ctx, alice, "A", before-1)
			n.ok(err)
			return string(counts), changed
		}
		if counts, changed := stock(); counts != `{"signed_curve25519":0}` || changed {
			t.Errorf("at first: %s %v", counts, changed)
		}
		n.upload(a, "1", "2")
		if counts, changed := stock(); counts != `{"signed_curve25519":2}` || !changed {
			t.Errorf("after an upload: %s %v", counts, changed)
		}
		n.claim(a)
		if counts, changed := stock(); counts != `{"signed_curve25519":1}` || !changed {
			t.Errorf("after a claim: %s %v", counts, changed)
		}
		n.happens(alice, "A", account.DeviceDeleted, "")
		if counts, _ := stock(); counts != `{"signed_curve25519":0}` {
			t.Errorf("of a deleted device: %s", counts)
		}
		n.ok(n.ForgetClaimed(n.ctx))
	})
}

// FuzzKeys reads keys as clients upload them: what is accepted is canonical and stays so.
func FuzzKeys(f *testing.F) {
	a := newPhone(f, alice, "A", 1)
	f.Add("signed_curve25519:AAAA", string(a.keys(f)))
	f.Add("curve25519:AAAA", `"key"`)
	f.Add("x:y", fmt.Sprintf(`{"user_id":%q,"usage":["master"],"keys":{"ed25519:%s":%q}}`, alice, pub(a), pub(a)))
	f.Add("signed_curve25519:AAAA", string(a.pre(f, "k")))
	f.Fuzz(func(t *testing.T, name, raw string) {
		if !json.Valid([]byte(raw)) {
			return
		}
		if d, err := parseDeviceKeys([]byte(raw), alice, "A"); err == nil {
			again, err := parseDeviceKeys(d.raw, alice, "A")
			if err != nil || string(again.raw) != string(d.raw) {
				t.Errorf("%s became %s, which is refused or differs: %v", raw, d.raw, err)
			}
		}
		if k, err := parseCrossKey([]byte(raw), alice, master); err == nil {
			again, err := parseCrossKey(k.raw, alice, master)
			if err != nil || string(again.raw) != string(k.raw) || again.text != k.text {
				t.Errorf("%s became %s, which is refused or differs: %v", raw, k.raw, err)
			}
		}
		if k, err := parsePreKey(name, []byte(raw), alice, "A", a.key.Public()); err == nil {
			again, err := parsePreKey(k.name(), []byte(k.content), alice, "A", a.key.Public())
			if err != nil || *again != *k {
				t.Errorf("%s %s became %v, which is refused or differs: %v", name, raw, k, err)
			}
		}
	})
}
