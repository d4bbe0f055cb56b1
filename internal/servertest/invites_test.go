package servertest

import "testing"

// Spec: cs Invite permission
// MSC4155: invite filtering.
func TestInviteRules(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
		wants := func(typ string, content M) {
			t.Helper()
			alice.OK("PUT", Path("user", alice.User, "account_data", typ), content)
		}
		early := bob.CreateRoom(nil)
		bob.Invite(early, alice)
		if !alice.Sync("").Invited(early).Exists() {
			t.Fatal("no invite")
		}
		const filter = "org.matrix.msc4155.invite_permission_config"
		wants(filter, M{"blocked_users": []string{carol.User}, "ignored_users": []string{bob.User}})
		if alice.Sync("").Invited(early).Exists() {
			t.Error("an invite of before is shown")
		}
		rooms := bob.CreateRoom(nil)
		bob.Invite(rooms, alice) // bob sees no difference
		hers := carol.CreateRoom(nil)
		carol.Fails(403, "M_INVITE_BLOCKED", "POST", Path("rooms", hers, "invite"), M{"user_id": alice.User})
		carol.Fails(403, "M_INVITE_BLOCKED", "PUT", Path("rooms", hers, "state", "m.room.member", alice.User), M{"membership": "invite"})
		if y := alice.Sync(""); y.At("rooms", "invite").Exists() {
			t.Errorf("invites are shown: %s", y.Body)
		}
		wants(filter, M{})
		if y := alice.Sync(""); !y.Invited(early).Exists() || !y.Invited(rooms).Exists() {
			t.Errorf("invites are gone: %s", y.Body)
		}
		wants("m.invite_permission_config", M{"default_action": "block"})
		if y := alice.Sync(""); y.At("rooms", "invite").Exists() {
			t.Errorf("invites are shown: %s", y.Body)
		}
		bob.Fails(403, "M_INVITE_BLOCKED", "POST", Path("rooms", bob.CreateRoom(nil), "invite"), M{"user_id": alice.User})
	})
}
