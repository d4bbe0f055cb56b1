package servertest

import (
	"slices"
	"testing"

	"myelin/internal/config"
)

// whom searches the user directory and returns the IDs found.
func whom(c *Client, term string, pairs ...any) []string {
	c.tb.Helper()
	body := M{"search_term": term}
	for i := 0; i < len(pairs); i += 2 {
		body[pairs[i].(string)] = pairs[i+1]
	}
	all := []string{}
	for _, u := range c.OK("POST", "user_directory/search", body).At("results").Array() {
		all = append(all, u.Get("user_id").Str)
	}
	return all
}

// Spec: cs searchUserDirectory
func TestUserDirectory(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob, eve := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "eve")
		check := func(c *Client, term string, want ...*Client) {
			t.Helper()
			users := []string{}
			for _, w := range want {
				users = append(users, w.User)
			}
			if got := whom(c, term); !slices.Equal(got, users) {
				t.Errorf("%s finds %v for %q, want %v", c.User, got, term, users)
			}
		}
		name := func(c *Client, name string) {
			t.Helper()
			c.OK("PUT", Path("profile", c.User, "displayname"), M{"displayname": name})
		}
		name(alice, "Alice Müller 山田")
		check(eve, "alice")
		open := alice.CreateRoom(M{"preset": "public_chat"})
		for _, term := range []string{"alice", "ALICE", "mull", "Muller", "alice müller", "müller alice", "山田", "田", alice.User, alice.User[:4], "  alice "} {
			check(eve, term, alice)
		}
		for _, term := range []string{"lice", "", "@", "zz", "alice cooper", "--"} {
			check(eve, term)
		}
		check(alice, "alice") // people don't look for themselves

		// A name in one room is for that room; who shares a closed room is found too.
		check(eve, "bob")
		closed := bob.CreateRoom(M{"preset": "private_chat", "invite": []string{eve.User}})
		check(eve, "bob")
		eve.Join(closed)
		check(eve, "bob", bob)
		check(alice, "bob")
		alice.SetState(open, "m.room.member", alice.User, M{"membership": "join", "displayname": "Freddy"})
		check(eve, "freddy")

		// Names change, rooms close, and accounts end.
		name(alice, "Someone Else")
		check(eve, "someone", alice)
		check(eve, "müller")
		alice.SetState(open, "m.room.join_rules", "", M{"join_rule": "invite"})
		check(eve, "someone")
		alice.SetState(open, "m.room.history_visibility", "", M{"history_visibility": "world_readable"})
		check(eve, "someone", alice)
		eve.Leave(closed)
		check(eve, "bob")

		// Whole names come first.
		carol := s.Register(t, "carol")
		name(bob, "Someone")
		bob.CreateRoom(M{"preset": "public_chat"})
		check(carol, "someone", bob, alice)
		answer := carol.OK("POST", "user_directory/search", M{"search_term": "someone", "limit": 1})
		if got := answer.At("results").Array(); len(got) != 1 || got[0].Get("user_id").Str != bob.User || got[0].Get("display_name").Str != "Someone" || !answer.At("limited").Bool() {
			t.Errorf("with a limit: %s", answer.Body)
		}
		if answer := carol.OK("POST", "user_directory/search", M{"search_term": "someone"}); answer.At("limited").Bool() {
			t.Errorf("without: %s", answer.Body)
		}
		alice.Authenticated("POST", "account/deactivate", M{})
		check(carol, "someone", bob)

		bob.Fails(400, "M_MISSING_PARAM", "POST", "user_directory/search", M{})
		bob.Fails(400, "M_BAD_JSON", "POST", "user_directory/search", M{"search_term": 5})
		bob.Fails(400, "M_INVALID_PARAM", "POST", "user_directory/search", M{"search_term": "x", "limit": -1})
	})
}

// Spec: cs searchUserDirectory
func TestUserDirectoryOfAll(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		if got := whom(alice, "bob"); !slices.Equal(got, []string{bob.User}) {
			t.Errorf("%v", got)
		}
	}, func(c *config.Config) { c.UserDirectory = "all" })
}
