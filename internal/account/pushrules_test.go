package account

import (
	"encoding/json"
	"strings"
	"testing"

	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/mxerr"
	"myelin/matrix/pushrule"
)

// What is stored of push rules is what the user changed; what is shown is all of them.
func TestPushRules(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		n := start(t, open)
		user := n.user("alice").UserID
		predefined := string(pushrule.Default(user).AccountData())
		shown := func(want func(string) bool) {
			t.Helper()
			raw, err := n.Data(ctx, user, "", TypePushRules)
			ok(t, err)
			since, err := n.DataSince(ctx, user, 0, 1<<40)
			ok(t, err)
			global, err := n.RoomData(ctx, user, "")
			ok(t, err)
			if len(since) != 1 || len(global) != 1 || string(since[0].Content) != string(raw) || string(global[0].Content) != string(raw) || since[0].Deleted {
				t.Fatalf("shown differently: %s, %+v, %+v", raw, since, global)
			}
			if !want(string(raw)) {
				t.Errorf("shown: %s", raw)
			}
		}
		shown(func(s string) bool { return s == predefined })
		if list, err := n.DataSince(ctx, user, 1, 1<<40); err != nil || len(list) != 0 {
			t.Errorf("nothing was changed, but: %+v, %v", list, err)
		}

		ok(t, n.ChangePushRules(ctx, user, func(r pushrule.Ruleset) (pushrule.Ruleset, error) {
			return r.SetEnabled(pushrule.Override, ".m.rule.master", true)
		}))
		shown(func(s string) bool { return s != predefined && strings.Contains(s, ".m.rule.call") })
		if d, is := n.got[len(n.got)-1].Data.(*Datum); !is || !strings.Contains(string(d.Content), ".m.rule.call") {
			t.Errorf("the bus told of %+v", n.got[len(n.got)-1])
		}
		mustFail(t, n.ChangePushRules(ctx, user, func(r pushrule.Ruleset) (pushrule.Ruleset, error) {
			return r.Delete(pushrule.Room, "!none")
		}), mxerr.CodeNotFound)
		rules, err := n.PushRules(ctx, user)
		ok(t, err)
		if r, err := rules.Find(pushrule.Override, ".m.rule.master"); err != nil || !r.Enabled {
			t.Errorf("the master rule is %+v, %v", r, err)
		}

		ok(t, n.ChangePushRules(ctx, user, func(r pushrule.Ruleset) (pushrule.Ruleset, error) {
			return r.SetEnabled(pushrule.Override, ".m.rule.master", false)
		}))
		shown(func(s string) bool { return s == predefined && json.Valid([]byte(s)) })
	})
}
