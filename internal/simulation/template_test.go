package simulation

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"

	"myelin/internal/config"
	"myelin/internal/servertest"
	"myelin/internal/sqldb"
)

// versions are the room versions that take part: of each generation of rules one.
var versions = []string{"6", "10", "11", "12"}

// names are those of the servers, as many as a seed wants. The first one made the room.
var names = strings.Fields("a.test b.test c.test d.test e.test f.test g.test")

// people are the users of every server: its anchor and two others.
var people = strings.Fields("anchor x y")

// account is a user as every seed finds them.
type account struct{ ID, Token string }

// template is what every seed begins with: the data folders of servers on which users have registered and one has made rooms.
type template struct {
	folder   string
	Accounts map[string]account // by "name@server"
	Rooms    map[string]string  // of the first server, by version
	Homes    map[string]string  // a room of each server that no other one is in
}

// content is the file of a template's folder that holds the rest of it.
const content = "content.json"

// prepare makes the template, or takes the one that another process has left. Its random numbers are the same each time.
func prepare(t *testing.T) *template {
	tmpl := &template{folder: *shared, Accounts: map[string]account{}, Rooms: map[string]string{}, Homes: map[string]string{}}
	if *shared == "" {
		tmpl.folder = t.TempDir()
	} else if data, err := os.ReadFile(filepath.Join(*shared, content)); err == nil {
		if err := json.Unmarshal(data, tmpl); err != nil {
			t.Fatal(err)
		}
		return tmpl
	}
	t.Run("prepare", func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, 1)
		synctest.Test(t, func(t *testing.T) {
			n := servertest.NewNet(t, sqldb.SQLite, 1)
			for i, name := range names {
				s := n.Start(name, quiet)
				for _, who := range people {
					tmpl.register(s.Anonymous(t), who, name)
				}
				c := s.Anonymous(t).As(tmpl.Accounts["anchor@"+name].Token)
				tmpl.Homes[name] = c.CreateRoom(servertest.M{"preset": "private_chat"})
				for _, v := range versions[:len(versions)*btoi(i == 0)] {
					tmpl.Rooms[v] = c.CreateRoom(servertest.M{
						"preset": "public_chat", "room_version": v, "power_level_content_override": levels(v, func(who, server string) int {
							return map[string]int{"anchor": 100, "x": 60}[who]
						}),
					})
				}
				s.Stop()
				if err := os.CopyFS(filepath.Join(tmpl.folder, name), os.DirFS(s.Config.DataDir)); err != nil {
					t.Fatal(err)
				}
			}
		})
	})
	data, err := json.Marshal(tmpl)
	if err == nil {
		err = os.WriteFile(filepath.Join(tmpl.folder, content), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// quiet leaves out what the simulation has no use for. The operators of the servers that are always there trust each other's word for keys: without that,
// what a server says that is gone again is believed by those alone who heard it themselves.
func quiet(c *config.Config) {
	c.Log.Requests, c.Presence = "off", "off"
	for _, name := range names[:3] {
		if name != c.ServerName {
			c.Federation.Notaries = append(c.Federation.Notaries, name)
		}
	}
}

func (tmpl *template) register(c *servertest.Client, who, server string) {
	body := servertest.M{"username": who, "password": servertest.Password}
	first := c.Do(http.MethodPost, "register", body)
	body["auth"] = servertest.M{"type": "m.login.dummy", "session": first.Text("session")}
	a := c.OK(http.MethodPost, "register", body)
	tmpl.Accounts[who+"@"+server] = account{a.Text("user_id"), a.Text("access_token")}
}

// levels is a power level event in which each user has the level that of says. Anchors keep theirs, whoever is asked.
func levels(version string, of func(who, server string) int) servertest.M {
	users := servertest.M{}
	for i, server := range names {
		for _, who := range people {
			level := of(who, server)
			if who == "anchor" {
				level = 100
			}
			if version == "12" && i == 0 && who == "anchor" {
				continue // the creator, who has more than any level
			}
			users[fmt.Sprintf("@%s:%s", who, server)] = level
		}
	}
	return servertest.M{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50, "ban": 50, "kick": 50, "invite": 0, "redact": 50,
		"events": servertest.M{"m.room.power_levels": 60, "m.room.topic": 50, "m.room.join_rules": 90, "m.room.name": 0},
	}
}

// install gives a server that has not run yet what the template has for it.
func (tmpl *template) install(s *servertest.Server) error {
	return os.CopyFS(s.Config.DataDir, os.DirFS(filepath.Join(tmpl.folder, s.Name())))
}
