package account

import (
	"encoding/json"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/pushrule"
)

func TestSucceed(t *testing.T) {
	const old, replacement = id.RoomID("!old:here.example"), id.RoomID("!new:here.example")
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		user, nobody, odd := n.user("alice").UserID, n.user("bob").UserID, n.user("carol").UserID
		ok(t, n.SetTag(ctx, user, old, "u.work", []byte(`{"order":0.5}`)))
		ok(t, n.SetData(ctx, user, "", TypeDirect, []byte(`{"@bob:here.example":["!old:here.example","!x:y"],"odd":{"a":1},"@c:d":["!x:y"]}`)))
		ok(t, n.ChangePushRules(ctx, user, func(r pushrule.Ruleset) (pushrule.Ruleset, error) {
			r, err := r.Put(pushrule.Override, string(old), pushrule.Draft{
				Actions:    []json.RawMessage{},
				Conditions: []json.RawMessage{[]byte(`{"kind":"event_match","key":"room_id","pattern":"!old:here.example"}`)},
			}, pushrule.Place{})
			if err != nil {
				return r, err
			}
			if r, err = r.SetEnabled(pushrule.Override, string(old), false); err != nil {
				return r, err
			}
			return r.Put(pushrule.Room, string(old), pushrule.Draft{Actions: []json.RawMessage{[]byte(`"notify"`)}}, pushrule.Place{})
		}))
		ok(t, n.SetData(ctx, odd, old, TypeTag, []byte(`{"tags":7}`)))
		ok(t, n.SetData(ctx, odd, "", TypeDirect, []byte(`{"a":null}`)))
		for _, u := range []id.UserID{user, nobody, odd, user} { // twice is once
			ok(t, n.db.Write(ctx, func(tx *sqldb.Tx) error { return n.Succeed(tx, u, old, replacement) }))
		}

		if raw, err := n.Tags(ctx, user, replacement); err != nil || string(raw) != `{"tags":{"u.work":{"order":0.5}}}` {
			t.Errorf("tags: %s, %v", raw, err)
		}
		want := `{"@bob:here.example":["!old:here.example","!x:y","!new:here.example"],"@c:d":["!x:y"],"odd":{"a":1}}`
		if raw, err := n.Data(ctx, user, "", TypeDirect); err != nil || string(raw) != want {
			t.Errorf("direct chats: %s, %v", raw, err)
		}
		rules, err := n.PushRules(ctx, user)
		ok(t, err)
		r, err := rules.Find(pushrule.Override, string(replacement))
		if err != nil || r.Enabled || len(r.Conditions) != 1 || string(r.Conditions[0]) != `{"key":"room_id","kind":"event_match","pattern":"!new:here.example"}` {
			t.Errorf("override rule: %+v, %v", r, err)
		}
		if r, err = rules.Find(pushrule.Room, string(replacement)); err != nil || !r.Enabled || len(r.Actions) != 1 {
			t.Errorf("room rule: %+v, %v", r, err)
		}
		_, err = n.Data(ctx, nobody, "", TypeDirect)
		mustFail(t, err, mxerr.CodeNotFound)
		rules, err = n.PushRules(ctx, nobody)
		ok(t, err)
		_, err = rules.Find(pushrule.Room, string(replacement))
		mustFail(t, err, mxerr.CodeNotFound)
	})
}
