package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const room = id.RoomID("!room:here.example")

func TestAccountData(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		user := n.user("alice").UserID
		from, err := n.db.Last(ctx)
		ok(t, err)
		ok(t, n.SetData(ctx, user, "", "x.global", []byte(`{ "a": 1 }`)))
		ok(t, n.SetData(ctx, user, room, "x.room", []byte(`{"b":2}`)))
		ok(t, n.SetData(ctx, user, "", "x.global", []byte(`{"a":"\u0000"}`)))
		if raw, err := n.Data(ctx, user, "", "x.global"); err != nil || string(raw) != `{"a":"\u0000"}` {
			t.Fatalf("got %s, %v", raw, err)
		}
		for _, miss := range []struct {
			user id.UserID
			room id.RoomID
			typ  string
		}{{user, room, "x.global"}, {user, "", "x.room"}, {"@b:here.example", "", "x.global"}, {user, "", "a\x00"}, {user, "", ""}} {
			_, err := n.Data(ctx, miss.user, miss.room, miss.typ)
			mustFail(t, err, mxerr.CodeNotFound)
		}
		for _, typ := range []string{TypeFullyRead, TypePushRules} {
			for _, err := range []error{n.SetData(ctx, user, "", typ, []byte(`{}`)), n.SetData(ctx, user, room, typ, []byte(`{}`)), n.DeleteData(ctx, user, "", typ)} {
				if !errors.Is(err, ErrServerManaged) {
					t.Errorf("%s: got %v", typ, err)
				}
			}
			ok(t, n.PutData(ctx, user, "", typ, []byte(`{}`)))
		}
		mustFail(t, n.SetData(ctx, user, "", "x", []byte(`[]`)), mxerr.CodeBadJSON)
		mustFail(t, n.SetData(ctx, user, "", "x", []byte(`{`)), mxerr.CodeNotJSON)
		mustFail(t, n.SetData(ctx, user, "", "x", []byte("{\"a\":\"\xff\"}")), mxerr.CodeNotJSON)
		mustFail(t, n.SetData(ctx, user, "", strings.Repeat("x", 256), []byte(`{}`)), mxerr.CodeInvalidParam)

		ok(t, n.DeleteData(ctx, user, room, "x.room"))
		ok(t, n.DeleteData(ctx, user, room, "x.room")) // twice is once
		_, err = n.Data(ctx, user, room, "x.room")
		mustFail(t, err, mxerr.CodeNotFound)

		to, err := n.db.Last(ctx)
		ok(t, err)
		list, err := n.DataSince(ctx, user, from, to)
		ok(t, err)
		var got []string
		for i, d := range list {
			if d.isPushRules() && strings.HasPrefix(string(d.Content), `{"global":{`) {
				d.Content = []byte("(all)")
			}
			got = append(got, fmt.Sprintf("%s %s %s %v", d.Room, d.Type, d.Content, d.Deleted))
			if i > 0 && d.Pos <= list[i-1].Pos || d.Pos <= from || d.Pos > to {
				t.Errorf("positions are out of order: %+v", list)
			}
		}
		want := ` x.global {"a":"\u0000"} false, m.fully_read {} false, m.push_rules (all) false,` + string(room) + ` x.room {} true`
		if strings.Join(got, ",") != want {
			t.Errorf("since then: %s\nwant        %s", strings.Join(got, ","), want)
		}
		if list, _ = n.DataSince(ctx, user, to, to+100); len(list) != 0 {
			t.Errorf("nothing happened, but: %+v", list)
		}
		if list, _ = n.RoomData(ctx, user, ""); len(list) != 3 {
			t.Errorf("global account data is %+v", list)
		}
		last := n.got[len(n.got)-1]
		if d, ok := last.Data.(*Datum); !ok || last.Kind != bus.AccountData || last.User != user || !d.Deleted || d.Pos != to || last.Pos != to {
			t.Errorf("the bus told of %+v", last)
		}
		ok(t, n.db.Write(ctx, func(tx *sqldb.Tx) error {
			return n.PutDataTx(tx, user, room, TypeFullyRead, []byte(`{"event_id":"$x"}`))
		}))
	})
}

// Changes at the same time, on two nodes, are all kept.
func TestUpdateDataAtOnce(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		nodes := []*node{n, start(t, open)}
		user := n.user("alice").UserID
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if err := nodes[i%2].SetTag(t.Context(), user, room, fmt.Sprint("u.", i), []byte(`{}`)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		raw, err := n.Tags(t.Context(), user, room)
		ok(t, err)
		if c := decodeTags(raw); len(c.Tags) != 16 {
			t.Fatalf("tags are %s", raw)
		}
	})
}

func TestTags(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		user := n.user("alice").UserID
		tags := func(want string) {
			t.Helper()
			if raw, err := n.Tags(ctx, user, room); err != nil || string(raw) != want {
				t.Fatalf("tags are %s, %v, want %s", raw, err, want)
			}
		}
		tags(`{"tags":{}}`)
		ok(t, n.SetTag(ctx, user, room, "m.favourite", []byte(`{"order": 0.5, "x.y": [1]}`)))
		ok(t, n.SetTag(ctx, user, room, "u.work", nil))
		tags(`{"tags":{"m.favourite":{"order":0.5,"x.y":[1]},"u.work":{}}}`)
		ok(t, n.DeleteTag(ctx, user, room, "u.none"))
		ok(t, n.DeleteTag(ctx, user, room, "m.favourite"))
		tags(`{"tags":{"u.work":{}}}`)
		for tag, c := range map[string]struct {
			body string
			want mxerr.Code
		}{
			"a":                      {`{"order":"1"}`, mxerr.CodeBadJSON},
			"b":                      {`{"order":2}`, mxerr.CodeInvalidParam},
			"c":                      {`{"order":-0.1}`, mxerr.CodeInvalidParam},
			"d":                      {`[]`, mxerr.CodeBadJSON},
			"e":                      {`{`, mxerr.CodeNotJSON},
			strings.Repeat("x", 256): {`{}`, mxerr.CodeInvalidParam},
			"\x00":                   {`{}`, mxerr.CodeInvalidParam},
		} {
			mustFail(t, n.SetTag(ctx, user, room, tag, []byte(c.body)), c.want)
		}
		full := m{}
		for i := range maxTags {
			full[fmt.Sprint(i)] = m{}
		}
		ok(t, n.SetData(ctx, user, room, TypeTag, encode(t, m{"tags": full})))
		ok(t, n.SetTag(ctx, user, room, "1", nil))
		mustFail(t, n.SetTag(ctx, user, room, "more", nil), mxerr.CodeTooLarge)
		// A client may have put anything into m.tag.
		ok(t, n.SetData(ctx, user, room, TypeTag, []byte(`{"tags":7}`)))
		tags(`{"tags":{}}`)
	})
}

func TestIgnoredUsers(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		user := n.user("alice").UserID
		for _, c := range []struct {
			content string
			want    int
		}{
			{``, 0},
			{`{"ignored_users":{"@bob:x":{},"@eve:x":{}}}`, 2},
			{`{"ignored_users":{"@bob:x":{},"@alice:here.example":{}}}`, 1}, // nobody ignores themselves
			{`{"ignored_users":["@bob:x"]}`, 0},
			{`{"ignored_users":{"@bob:x":1}}`, 1},
			{`{}`, 0},
		} {
			if c.content != "" {
				ok(t, n.SetData(ctx, user, "", TypeIgnored, []byte(c.content)))
			}
			for range 2 {
				if set, err := n.IgnoredUsers(ctx, user); err != nil || len(set) != c.want {
					t.Fatalf("%s: ignores %v, %v", c.content, set, err)
				}
			}
		}
		// Through another door: a transaction of somebody else's. The bus says so.
		ok(t, n.db.Write(ctx, func(tx *sqldb.Tx) error {
			return n.PutDataTx(tx, user, "", TypeIgnored, []byte(`{"ignored_users":{"@bob:x":{}}}`))
		}))
		if set, _ := n.IgnoredUsers(ctx, user); len(set) != 1 {
			t.Fatalf("ignores %v", set)
		}
	})
}

func TestProfile(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		user := n.user("alice").UserID
		profile := func(want string) {
			t.Helper()
			if raw, err := n.Profile(ctx, user); err != nil || string(raw) != want {
				t.Fatalf("the profile is %s, %v, want %s", raw, err, want)
			}
		}
		profile(`{}`)
		from, _ := n.db.Last(ctx)
		ok(t, n.SetProfileField(ctx, user, "displayname", []byte(`{"displayname":"Älice \u0000"}`)))
		ok(t, n.SetProfileField(ctx, user, "avatar_url", []byte(`{"avatar_url":"mxc://here.example/a"}`)))
		ok(t, n.SetProfileField(ctx, user, "m.tz", []byte(`{"m.tz":"Europe/Berlin"}`)))
		ok(t, n.SetProfileField(ctx, user, "org.example.x-y", []byte(`{"org.example.x-y":{ "a": [1, null] }}`)))
		ok(t, n.SetProfileField(ctx, user, "org.example.null", []byte(`{"org.example.null":null}`)))
		profile(`{"avatar_url":"mxc://here.example/a","displayname":"Älice \u0000","m.tz":"Europe/Berlin","org.example.null":null,"org.example.x-y":{"a":[1,null]}}`)
		if raw, err := n.ProfileField(ctx, user, "m.tz"); err != nil || string(raw) != `"Europe/Berlin"` {
			t.Fatalf("the time zone is %s, %v", raw, err)
		}
		if name, avatar, err := n.NameAndAvatar(ctx, user); err != nil || name != "Älice \x00" || avatar != "mxc://here.example/a" {
			t.Fatalf("%q, %q, %v", name, avatar, err)
		}
		to, _ := n.db.Last(ctx)
		if list, err := n.ProfilesChanged(ctx, from, to, 10); err != nil || len(list) != 5 || list[0].Field != "displayname" || list[0].User != user {
			t.Fatalf("changes are %+v, %v", list, err)
		}
		// The same again is no change, an empty name deletes, and so does DELETE.
		ok(t, n.SetProfileField(ctx, user, "m.tz", []byte(`{"m.tz":"Europe/Berlin"}`)))
		if last, _ := n.db.Last(ctx); last != to {
			t.Fatal("setting the same value took a position")
		}
		ok(t, n.SetProfileField(ctx, user, "displayname", []byte(`{"displayname":""}`)))
		ok(t, n.DeleteProfileField(ctx, user, "org.example.x-y"))
		ok(t, n.DeleteProfileField(ctx, user, "org.example.x-y"))
		profile(`{"avatar_url":"mxc://here.example/a","m.tz":"Europe/Berlin","org.example.null":null}`)
		if list, _ := n.ProfilesChanged(ctx, to, to+10, 10); len(list) != 2 || list[0].Value != nil {
			t.Fatalf("changes are %+v", list)
		}
		last := n.got[len(n.got)-1]
		if c, ok := last.Data.(*ProfileChange); !ok || last.Kind != bus.ProfileChanged || c.Field != "org.example.x-y" || c.Value != nil {
			t.Fatalf("the bus told of %+v", last)
		}
		for _, f := range []string{"displayname", "none", "No", ""} {
			_, err := n.ProfileField(ctx, user, f)
			mustFail(t, err, mxerr.CodeNotFound)
		}
		_, err := n.Profile(ctx, "@none:here.example")
		mustFail(t, err, mxerr.CodeNotFound)
	})
}

func TestProfileBadInput(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		user := n.user("alice").UserID
		long := strings.Repeat("x", 256)
		for _, c := range []struct {
			field, body string
			want        mxerr.Code
		}{
			{"displayname", `{}`, mxerr.CodeMissingParam},
			{"displayname", `{"avatar_url":"mxc://a/b"}`, mxerr.CodeMissingParam},
			{"displayname", `[]`, mxerr.CodeBadJSON},
			{"displayname", `{"displayname":1}`, mxerr.CodeBadJSON},
			{"displayname", `{"displayname":null}`, mxerr.CodeBadJSON},
			{"displayname", `{"displayname":"` + long + `x"}`, mxerr.CodeInvalidParam},
			{"avatar_url", `{"avatar_url":"https://x"}`, mxerr.CodeInvalidParam},
			{"m.tz", `{"m.tz":[]}`, mxerr.CodeBadJSON},
			{"org.x", "{\"org.x\":\"\xff\"}", mxerr.CodeBadJSON},
			{long, `{"` + long + `":1}`, mxerr.CodeKeyTooLarge},
			{"Org.x", `{"Org.x":1}`, mxerr.CodeInvalidParam},
			{"org.é", `{"org.é":1}`, mxerr.CodeInvalidParam},
			{"1", `{"1":1}`, mxerr.CodeInvalidParam},
			{"org.x", `{"org.x":"` + strings.Repeat("x", maxProfile) + `"}`, mxerr.CodeProfileTooLarge},
		} {
			if err := n.SetProfileField(ctx, user, c.field, []byte(c.body)); !mxerr.Is(err, c.want) {
				t.Errorf("%.20s %.40s: got %v, want %s", c.field, c.body, err, c.want)
			}
		}
		// The limit is on the whole, and what is replaced does not count.
		half := strings.Repeat("x", maxProfile/2-100)
		ok(t, n.SetProfileField(ctx, user, "org.a", []byte(`{"org.a":"`+half+`"}`)))
		ok(t, n.SetProfileField(ctx, user, "org.b", []byte(`{"org.b":"`+half+`"}`)))
		ok(t, n.SetProfileField(ctx, user, "org.b", []byte(`{"org.b":"y`+half+`"}`)))
		mustFail(t, n.SetProfileField(ctx, user, "org.c", []byte(`{"org.c":"`+half+`"}`)), mxerr.CodeProfileTooLarge)
		raw, err := n.Profile(ctx, user)
		ok(t, err)
		if !json.Valid(raw) || len(raw) > maxProfile {
			t.Fatalf("the profile has %d bytes", len(raw))
		}
		mustFail(t, n.SetProfileField(ctx, "@none:here.example", "org.a", []byte(`{"org.a":1}`)), mxerr.CodeNotFound)
	})
}

func TestFilters(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		alice, bob := n.user("alice").UserID, n.user("bob").UserID
		add := func(user id.UserID, filter string) string {
			t.Helper()
			f, err := n.AddFilter(ctx, user, []byte(filter))
			ok(t, err)
			return f
		}
		one, two := add(alice, `{"room":{}}`), add(alice, `{ }`)
		before := n.db.Stats().Commits
		if again := add(alice, ` {"room": {}}`); again != one || one == two {
			t.Fatalf("filters are %s, %s, %s", one, two, again)
		}
		if n.db.Stats().Commits != before {
			t.Fatal("storing a filter again wrote")
		}
		if raw, err := n.Filter(ctx, alice, one); err != nil || string(raw) != `{"room":{}}` {
			t.Fatalf("got %s, %v", raw, err)
		}
		add(bob, `{"a":1}`)
		other := start(t, open)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if _, err := []*node{n, other}[i%2].AddFilter(ctx, alice, fmt.Appendf(nil, `{"n":%d}`, i/2)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, miss := range []string{two, "0", "-1", "x", "", "99999999999999999999"} {
			_, err := n.Filter(ctx, bob, miss)
			mustFail(t, err, mxerr.CodeNotFound)
		}
		_, err := n.AddFilter(ctx, alice, []byte(`[]`))
		mustFail(t, err, mxerr.CodeBadJSON)
		_, err = n.AddFilter(ctx, alice, []byte(`{"a":"`+strings.Repeat("x", maxFilterSize)+`"}`))
		mustFail(t, err, mxerr.CodeTooLarge)
	})
}
