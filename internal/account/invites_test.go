package account

import (
	"testing"

	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
)

// Spec: cs Invite permission
func TestInviteRules(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		user := n.user("alice").UserID
		const filter = "org.matrix.msc4155.invite_permission_config"
		for _, c := range []struct {
			typ, content string
			sender       id.UserID
			want         Welcome
		}{
			{filter, `{}`, "@bob:good.example", InviteAllowed},
			{filter, `{"blocked_users":["@b*:good.example"]}`, "@bob:good.example", InviteBlocked},
			{filter, `{"blocked_users":["@b*:good.example"],"enabled":false}`, "@bob:good.example", InviteAllowed},
			{filter, `{"ignored_servers":["*.example"]}`, "@bob:good.example:8448", InviteIgnored},
			{filter, `{"allowed_users":["@bob:good.example"],"blocked_servers":["*"]}`, "@bob:good.example", InviteAllowed},
			{filter, `{"allowed_servers":["good.example"],"blocked_users":["@bob:*"]}`, "@bob:good.example", InviteBlocked},
			{filter, `{"allowed_users":null,"blocked_users":null}`, "@bob:good.example", InviteAllowed},
			{filter, `{"blocked_servers":["*",3]}`, "@bob:good.example", InviteAllowed}, // not a list of texts
			{filter, `{"blocked_servers":"*"}`, "@bob:good.example", InviteAllowed},
			{filter, `{}`, "@bob:good.example", InviteAllowed},
			{"org.matrix.msc4380.invite_permission_config", `{"default_action":"block"}`, "@bob:good.example", InviteBlocked},
			{"org.matrix.msc4380.invite_permission_config", `{"default_action":"other"}`, "@bob:good.example", InviteAllowed},
			{"m.invite_permission_config", `{"default_action":"block"}`, "@bob:good.example", InviteBlocked},
		} {
			ok(t, n.SetData(t.Context(), user, "", c.typ, []byte(c.content)))
			rules, err := n.InviteRules(t.Context(), user)
			ok(t, err)
			if got := rules.Judge(c.sender); got != c.want {
				t.Errorf("%s %s: %s is judged %d, want %d", c.typ, c.content, c.sender, got, c.want)
			}
		}
	})
}

// MSC3890: settings for the notifications of a device go with the device.
func TestNotificationSettingsOfGoneDevices(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		n := start(t, open)
		alice := n.user("alice")
		other, err := n.OpenSession(t.Context(), alice.UserID, "PHONE", "", false)
		ok(t, err)
		const prefix = "org.matrix.msc3890.local_notification_settings."
		for _, device := range []id.DeviceID{"PHONE", alice.DeviceID} {
			ok(t, n.SetData(t.Context(), alice.UserID, "", prefix+string(device), []byte(`{"is_silenced":true}`)))
		}
		caller, err := n.Authenticate(t.Context(), other.AccessToken)
		ok(t, err)
		ok(t, n.Logout(t.Context(), caller))
		if _, err := n.Data(t.Context(), alice.UserID, "", prefix+"PHONE"); err == nil {
			t.Error("the settings of a device that is gone are still there")
		}
		_, err = n.Data(t.Context(), alice.UserID, "", prefix+string(alice.DeviceID))
		ok(t, err)
	})
}
