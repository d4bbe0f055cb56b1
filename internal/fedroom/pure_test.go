package fedroom

import (
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/semaphore"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// Spec: cs m.room.server_acl
func TestACL(t *testing.T) {
	for _, c := range []struct {
		content string
		admits  string // servers, separated by spaces
		refuses string
	}{
		{`{"allow":["*"]}`, "a.example 1.2.3.4 [::1]:8448", ""},
		{`{}`, "", "a.example"},
		{`{"allow":"*"}`, "", "a.example"},
		{`{"allow":[7,"*"],"deny":"a.example"}`, "a.example", ""},
		{`{"allow":["*"],"deny":["*.evil.example"]}`, "evil.example notevil.example", "x.evil.example X.EVIL.Example:1234"},
		{`{"allow":["*.EXAMPLE"],"deny":[]}`, "a.example A.Example:8448", "a.example.org example"},
		{`{"allow":["*"],"allow_ip_literals":false}`, "a.example 1.2.3.example", "1.2.3.4 1.2.3.4:8448 [::1] [2001:db8::1]:8448"},
		{`{"allow":["*"],"allow_ip_literals":"false"}`, "1.2.3.4", ""},
		{`{"allow":["?.example"]}`, "a.example", "ab.example .example"},
		{`{"allow":["a*b*c"]}`, "abc aXbXc abbcc", "ab acb abcd"},
		{`{"allow":["a.example:8448"]}`, "", "a.example:8448"}, // ports don't count, so such an entry fits nobody
	} {
		list := parseACL([]byte(c.content))
		for _, s := range strings.Fields(c.admits) {
			if !list.admits(id.ServerName(s)) {
				t.Errorf("%s shuts %s out", c.content, s)
			}
		}
		for _, s := range strings.Fields(c.refuses) {
			if list.admits(id.ServerName(s)) {
				t.Errorf("%s admits %s", c.content, s)
			}
		}
	}
}

func FuzzACL(f *testing.F) {
	f.Add(`{"allow":["*"],"deny":["a*b?c"],"allow_ip_literals":false}`, "a.example:8448")
	f.Add(`{"allow":["`+strings.Repeat("*a", 500)+`"]}`, strings.Repeat("a", 200))
	f.Fuzz(func(t *testing.T, content, server string) {
		if !gjson.Valid(content) {
			t.Skip()
		}
		list := parseACL([]byte(content))
		if list.admits(id.ServerName(server)) && len(list.allow) == 0 {
			t.Error("admitted by nothing")
		}
	})
}

// What a client is shown of stripped state has the four fields and no others, in canonical form.
func FuzzRestrip(f *testing.F) {
	f.Add(`{"type":"m.room.name","state_key":"","sender":"@a:b.example","content":{"name":"x"},"unsigned":{},"origin":"x"}`)
	f.Add(`{"type":"m.room.name","state_key":null,"sender":"@a:b.example","content":{}}`)
	f.Fuzz(func(t *testing.T, raw string) {
		if !gjson.Valid(raw) {
			t.Skip()
		}
		out := restrip(gjson.Parse(raw))
		if out == nil {
			return
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(out, &fields); err != nil || len(fields) != 4 {
			t.Fatalf("%s becomes %s: %v", raw, out, err)
		}
		for _, name := range []string{"type", "state_key", "sender", "content"} {
			if fields[name] == nil {
				t.Errorf("%s becomes %s", raw, out)
			}
		}
	})
}

// Whatever a template holds, the event that is signed says what was asked for.
func FuzzTemplate(f *testing.F) {
	key, err := sign.Generate(rand.Reader, "k")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`{"prev_events":["$a"],"auth_events":["$b"],"depth":5,"content":{"join_authorised_via_users_server":"@x:there.example"},"type":"m.room.create"}`, 9)
	f.Add(`{"prev_events":[["$a:x.example",{"sha256":"x"}]],"auth_events":[],"depth":9007199254740991,"event_id":"$evil:x.example","redacts":"$x"}`, 0)
	f.Add(`{"prev_events":[],"prev_events":[],"auth_events":{},"depth":-1}`, 3)
	f.Fuzz(func(t *testing.T, template string, nth int) {
		all := roomver.All()
		v := all[uint(nth)%uint(len(all))]
		const room, user = id.RoomID("!r:there.example"), id.UserID("@me:here.example")
		p, err := offer{"there.example", v, []byte(template)}.complete(room, user, graph.Join, []byte(`{"membership":"join"}`), key)
		if err != nil {
			return
		}
		if p.RoomID() != room || p.Sender() != user || p.Key() != (event.Key{Type: "m.room.member", StateKey: string(user)}) || p.Membership() != "join" || !p.HashOK() {
			t.Errorf("%s becomes %s", template, p.Raw())
		}
		gjson.ParseBytes(p.Content()).ForEach(func(k, value gjson.Result) bool {
			voucher, err := id.ParseUserID(value.Str)
			if k.Str != "membership" && (k.Str != "join_authorised_via_users_server" || err != nil || voucher.Domain() != "there.example") {
				t.Errorf("%s becomes %s", template, p.Raw())
			}
			return true
		})
		if _, ok := p.Redacts(); ok || len(p.PrevEvents()) > event.MaxPrevEvents || len(p.AuthEvents()) > event.MaxAuthEvents {
			t.Errorf("%s becomes %s", template, p.Raw())
		}
	})
}

// All intakes share one budget of memory, and give back what they took.
func TestIntakesShareMemory(t *testing.T) {
	f := &Federated{intakes: semaphore.NewWeighted(1000)}
	v, _ := roomver.Get(roomver.Default)
	first, second := f.intake("!a", v, "a.example"), f.intake("!b", v, "a.example")
	raw := make([]byte, 400)
	for _, in := range []*intake{first, second} {
		if err := in.add(t.Context(), raw, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := second.add(t.Context(), raw, true); err == nil || !outside(err) {
		t.Errorf("more than there is: %v", err)
	}
	first.close()
	if err := second.add(t.Context(), raw, true); err != nil {
		t.Errorf("after the other has ended: %v", err)
	}
	second.close()
	if !f.intakes.TryAcquire(1000) {
		t.Error("something was not given back")
	}
}
