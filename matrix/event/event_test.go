package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

func version(t testing.TB, name string) *roomver.Version {
	t.Helper()
	v, ok := roomver.Get(name)
	if !ok {
		t.Fatalf("no version %s", name)
	}
	return v
}

func testKey(t testing.TB) sign.Key {
	t.Helper()
	key, err := sign.FromSeed("ed25519:1", bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func opaque() string { return "opaque" }

// sample is a message of about 1 KB.
func sample(v *roomver.Version) Draft {
	edge := func(c string) id.EventID {
		if v.EventIDs == roomver.EventIDDomain {
			return id.EventID("$" + c + ":example.org")
		}
		return id.EventID("$" + strings.Repeat(c, 43))
	}
	room := id.RoomID("!room:example.org")
	if v.CreateAsRoomID {
		room = id.RoomID("!" + strings.Repeat("r", 43))
	}
	return Draft{
		RoomID: room, Type: "m.room.message", Sender: "@alice:example.org",
		Content: []byte(`{"msgtype":"m.text","body":"` + strings.Repeat("words and ", 25) +
			`","m.mentions":{"user_ids":["@bob:example.com"]},"format":"org.matrix.custom.html","formatted_body":"<p>größer</p>"}`),
		OriginServerTS: 1735732824653, Depth: 12,
		PrevEvents: []id.EventID{edge("P")}, AuthEvents: []id.EventID{edge("A"), edge("B"), edge("C")},
	}
}

func build(t testing.TB, v *roomver.Version, d Draft) *PDU {
	t.Helper()
	p, err := d.Build(v, "example.org", testKey(t), opaque)
	if err != nil {
		t.Fatalf("build %s for version %s: %v", d.Type, v, err)
	}
	return p
}

// Spec: appendices Cryptographic Test Vectors
func TestSigningVectors(t *testing.T) {
	raw, err := os.ReadFile("../../../shared/spec/signing-vectors.json")
	if errors.Is(err, os.ErrNotExist) && os.Getenv("MYELIN_REQUIRE") != "all" {
		t.Skip("the specification's data is not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Signing struct {
			Seed   string     `json:"seed_unpadded_base64"`
			Server string     `json:"server_name"`
			KeyID  sign.KeyID `json:"key_id"`
			Cases  []struct {
				Input, Signed json.RawMessage
			} `json:"event_signing"`
		}
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	seed, err := sign.DecodeBase64(v.Signing.Seed)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.FromSeed(v.Signing.KeyID, seed)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Signing.Cases) == 0 {
		t.Fatal("no vectors")
	}
	// The vectors have event_id or origin, so they are of the first versions.
	v1 := version(t, "1")
	for _, c := range v.Signing.Cases {
		in, err := canon.Canonicalize(nil, c.Input, v1.Canon)
		if err != nil {
			t.Fatal(err)
		}
		want, err := canon.Canonicalize(nil, c.Signed, v1.Canon)
		if err != nil {
			t.Fatal(err)
		}
		got, err := seal(v1, canon.Without(nil, in, "hashes", "signatures", "unsigned"), id.ServerName(v.Signing.Server), key)
		if err != nil {
			t.Fatal(err)
		}
		if want = canon.Without(nil, want, "unsigned"); !bytes.Equal(got, want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestBuildParseTrusted(t *testing.T) {
	key := testKey(t)
	for _, v := range roomver.All() {
		p := build(t, v, sample(v))
		if !p.HashOK() {
			t.Errorf("version %s: our own hash is wrong", v)
		}
		if err := p.VerifySignature("example.org", key.ID, key.Public()); err != nil {
			t.Errorf("version %s: %v", v, err)
		}
		parsed, err := Parse(v, append([]byte(" \n"), p.Raw()...))
		if err != nil {
			t.Fatalf("version %s: %v", v, err)
		}
		trusted, err := Trusted(v, p.ID(), bytes.Clone(p.Raw()))
		if err != nil {
			t.Fatalf("version %s: %v", v, err)
		}
		for _, q := range []*PDU{parsed, trusted} {
			if describe(q) != describe(p) {
				t.Errorf("version %s:\n%s\n%s", v, describe(q), describe(p))
			}
		}
		if c := string(p.ID()); v.EventIDs == roomver.EventIDDomain && c != "$opaque:example.org" ||
			v.EventIDs == roomver.EventIDHashURL && (len(c) != 44 || strings.ContainsAny(c, "+/")) {
			t.Errorf("version %s: event ID %s", v, c)
		}
	}
}

// describe shows all that a PDU says.
func describe(p *PDU) string {
	key, isState := p.StateKey()
	redacts, _ := p.Redacts()
	return fmt.Sprintln(p.ID(), p.Version(), p.RoomID(), p.Type(), key, isState, p.IsState(), p.Key(), p.Sender(), p.OriginServerTS(),
		p.Depth(), p.PrevEvents(), p.AuthEvents(), string(p.Content()), redacts, p.Membership(), string(p.Raw()), p.HashOK())
}

func TestCreateNamesItsRoom(t *testing.T) {
	v := version(t, "12")
	empty := ""
	create := Draft{Type: "m.room.create", StateKey: &empty, Sender: "@alice:example.org", Content: []byte(`{"room_version":"12"}`), Depth: 1}
	p := build(t, v, create)
	if want := "!" + string(p.ID()[1:]); string(p.RoomID()) != want {
		t.Errorf("room %s, want %s", p.RoomID(), want)
	}
	if _, ok := canon.Get(p.Raw(), "room_id"); ok {
		t.Error("the create event has a room_id")
	}
	if got, _ := canon.GetText(p.AppendClient(nil, ClientFormat{}), "room_id"); got != string(p.RoomID()) {
		t.Errorf("clients see room %q", got)
	}
	red, err := p.Redacted()
	if err != nil || red.RoomID() != p.RoomID() {
		t.Errorf("redacted: room %s, %v", red.RoomID(), err)
	}
	create.RoomID = "!room:example.org"
	if _, err := create.Build(v, "example.org", testKey(t), opaque); !mxerr.Is(err, mxerr.CodeBadJSON) {
		t.Errorf("a create event with a room_id: %v", err)
	}
	if p := build(t, version(t, "11"), create); p.RoomID() != create.RoomID {
		t.Errorf("version 11: room %s", p.RoomID())
	}
	message := sample(v)
	message.RoomID = ""
	if _, err := message.Build(v, "example.org", testKey(t), opaque); !mxerr.Is(err, mxerr.CodeBadJSON) {
		t.Errorf("a message without a room_id: %v", err)
	}
}

func TestFieldsThatDoNotSurvive(t *testing.T) {
	for _, name := range []string{"1", "3", "4", "11", "12"} {
		v := version(t, name)
		p := build(t, v, sample(v))
		noisy := canon.With(nil, p.Raw(), "unsigned", []byte(`{"age":1,"invite_room_state":[]}`))
		if name != "1" {
			noisy = canon.With(nil, noisy, "event_id", []byte(`"$forged:example.org"`))
		}
		q, err := Parse(v, noisy)
		if err != nil {
			t.Fatal(err)
		}
		if describe(q) != describe(p) {
			t.Errorf("version %s:\n%s\n%s", name, describe(q), describe(p))
		}
		if got := string(Unsigned(noisy)); got != `{"invite_room_state":[]}` {
			t.Errorf("unsigned that passes: %s", got)
		}
		if got := Unsigned(p.Raw()); got != nil {
			t.Errorf("unsigned out of nothing: %s", got)
		}
		// An unknown field is part of the event: dropping it breaks the hash, not the ID.
		extra, err := Parse(v, canon.With(nil, p.Raw(), "org.example.extra", []byte("1")))
		if err != nil || extra.ID() != p.ID() || extra.HashOK() {
			t.Errorf("version %s: an extra field: %v", name, err)
		}
	}
}

func TestHashAndRedaction(t *testing.T) {
	key := testKey(t)
	for _, v := range roomver.All() {
		p := build(t, v, sample(v))
		changed, err := Parse(v, bytes.Replace(p.Raw(), []byte("words"), []byte("wörds"), 1))
		if err != nil {
			t.Fatal(err)
		}
		if changed.HashOK() {
			t.Errorf("version %s: a changed body passes the hash", v)
		}
		if changed.ID() != p.ID() {
			t.Errorf("version %s: a changed body changes the ID", v)
		}
		red, err := changed.Redacted()
		if err != nil {
			t.Fatal(err)
		}
		if red.ID() != p.ID() || string(red.Content()) != "{}" || red.HashOK() {
			t.Errorf("version %s: redacted to %s", v, describe(red))
		}
		if err := red.VerifySignature("example.org", key.ID, key.Public()); err != nil {
			t.Errorf("version %s: redacted: %v", v, err)
		}
		again, err := Parse(v, red.Raw())
		if err != nil || describe(again) != describe(red) {
			t.Errorf("version %s: the redacted event reads back as %v, %v", v, again, err)
		}
	}
}

func TestEdgesOfFirstVersions(t *testing.T) {
	v := version(t, "1")
	d := sample(v)
	d.EdgeHashes = map[id.EventID]string{"$P:example.org": "aGFzaA"}
	p := build(t, v, d)
	if got, _ := canon.Get(p.Raw(), "prev_events"); string(got) != `[["$P:example.org",{"sha256":"aGFzaA"}]]` {
		t.Errorf("prev_events %s", got)
	}
	if got := fmt.Sprint(p.PrevEvents(), p.AuthEvents()); got != "[$P:example.org] [$A:example.org $B:example.org $C:example.org]" {
		t.Errorf("edges %s", got)
	}
	if hash, err := sign.DecodeBase64(p.ReferenceHash()); err != nil || len(hash) != 32 {
		t.Errorf("reference hash %q, %v", p.ReferenceHash(), err)
	}
}

func TestDepthIsCut(t *testing.T) {
	for _, c := range []struct {
		version string
		depth   int64
	}{{"5", 1<<63 - 1}, {"6", canon.MaxInt}} {
		d := sample(version(t, c.version))
		d.Depth = 1<<63 - 1
		if p := build(t, version(t, c.version), d); p.Depth() != c.depth {
			t.Errorf("version %s: depth %d, want %d", c.version, p.Depth(), c.depth)
		}
	}
}

func TestNumbersInOldVersions(t *testing.T) {
	for _, c := range []struct{ version, in, want string }{
		{"5", `{"a":1e3,"b":-0}`, `{"a":1000,"b":0}`},
		{"5", `{"a":1.50}`, `{"a":1.50}`},
		{"6", `{"a":1e3}`, ""},
		{"6", `{"a":-0}`, ""},
		{"6", `{"a":1.5}`, ""},
		{"6", `[]`, ""},
		{"6", `{"a":9007199254740992}`, ""},
		{"6", `{"a":`, ""},
	} {
		d := sample(version(t, c.version))
		d.Content = []byte(c.in)
		p, err := d.Build(version(t, c.version), "example.org", testKey(t), opaque)
		switch {
		case c.want == "" && err == nil:
			t.Errorf("version %s accepts %s as %s", c.version, c.in, p.Content())
		case c.want != "" && (err != nil || string(p.Content()) != c.want):
			t.Errorf("version %s: %s became %v, %v", c.version, c.in, p, err)
		}
		if _, ok := mxerr.Of(err); err != nil && !ok {
			t.Errorf("%v is internal", err)
		}
	}
}

func TestSizeIsExact(t *testing.T) {
	v := version(t, "12")
	d := sample(v)
	d.Content = []byte(`{"x":""}`)
	room := MaxSize - len(build(t, v, d).Raw())
	d.Content = []byte(`{"x":"` + strings.Repeat("y", room) + `"}`)
	p := build(t, v, d)
	if len(p.Raw()) != MaxSize {
		t.Fatalf("%d bytes", len(p.Raw()))
	}
	// Neither white space nor unsigned counts.
	padded := append(bytes.Repeat([]byte(" "), 1000), canon.With(nil, p.Raw(), "unsigned", []byte(`{"age":1}`))...)
	if _, err := Parse(v, padded); err != nil {
		t.Errorf("the largest event: %v", err)
	}
	if _, err := p.Signed("other.example.org", testKey(t)); !mxerr.Is(err, mxerr.CodeTooLarge) {
		t.Errorf("a signature too many: %v", err)
	}
	d.Content = []byte(`{"x":"` + strings.Repeat("y", room+1) + `"}`)
	if _, err := d.Build(v, "example.org", testKey(t), opaque); !mxerr.Is(err, mxerr.CodeTooLarge) {
		t.Errorf("one byte more: %v", err)
	}
	if _, err := Parse(v, bytes.Repeat([]byte(" "), 2<<20)); !mxerr.Is(err, mxerr.CodeTooLarge) {
		t.Errorf("2 MiB of nothing: %v", err)
	}
}

func TestSealTemplate(t *testing.T) {
	v := version(t, "12")
	key := testKey(t)
	template := `{"type":"m.room.member","state_key":"@alice:example.org","sender":"@alice:example.org","room_id":"!r","origin":"remote.example",
		"content":{"membership":"join"},"depth":4,"origin_server_ts":5,"auth_events":[],"prev_events":["$a"],"event_id":"$x","hashes":{"sha256":"x"},"signatures":{"x":{}},"unsigned":{}}`
	p, err := Seal(v, []byte(template), "example.org", key)
	if err != nil {
		t.Fatal(err)
	}
	if origin, _ := canon.GetText(p.Raw(), "origin"); origin != "remote.example" || !p.HashOK() || p.Membership() != "join" {
		t.Errorf("sealed as %s", p.Raw())
	}
	if err := p.VerifySignature("example.org", key.ID, key.Public()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"content":1}`} {
		if p, err := Seal(v, []byte(bad), "example.org", key); err == nil {
			t.Errorf("%q became %s", bad, p.Raw())
		}
	}
}

func TestSigned(t *testing.T) {
	v := version(t, "11")
	p := build(t, v, sample(v))
	other, err := sign.FromSeed("ed25519:z", bytes.Repeat([]byte{3}, 32))
	if err != nil {
		t.Fatal(err)
	}
	q, err := p.Signed("other.example", other)
	if err != nil {
		t.Fatal(err)
	}
	if q.ID() != p.ID() || !q.HashOK() || fmt.Sprint(q.SignedWith("other.example")) != "[ed25519:z]" {
		t.Errorf("signed: %s", describe(q))
	}
	for entity, key := range map[id.ServerName]sign.Key{"other.example": other, "example.org": testKey(t)} {
		if err := q.VerifySignature(entity, key.ID, key.Public()); err != nil {
			t.Error(err)
		}
	}
	if err := p.VerifySignature("other.example", other.ID, other.Public()); !errors.Is(err, sign.ErrMissing) {
		t.Errorf("the first event changed: %v", err)
	}
	if err := q.VerifySignature("other.example", other.ID, testKey(t).Public()); !errors.Is(err, sign.ErrWrong) {
		t.Errorf("the wrong key: %v", err)
	}
}
