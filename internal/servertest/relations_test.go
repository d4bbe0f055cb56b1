package servertest

import (
	"slices"
	"strconv"
	"testing"

	"github.com/tidwall/gjson"
)

// relate sends an event that relates to another one.
func (c *Client) relate(room, relType, parent, typ string, more M) string {
	c.tb.Helper()
	content := M{"msgtype": "m.text", "body": "related", "m.relates_to": M{"rel_type": relType, "event_id": parent}}
	for k, v := range more {
		content[k] = v
	}
	return c.Send(room, typ, content)
}

func (c *Client) edit(room, parent, text string) string {
	c.tb.Helper()
	return c.relate(room, "m.replace", parent, "m.room.message", M{"body": "* " + text, "m.new_content": M{"msgtype": "m.text", "body": text}})
}

func relationsPath(room, event string, more ...string) string {
	return Path(append([]string{"/_matrix/client/v1", "rooms", room, "relations", event}, more...)...)
}

// Spec: cs getRelatingEvents; cs getRelatingEventsWithRelType; cs getRelatingEventsWithRelTypeAndEventType
func TestRelations(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		root := alice.Say(room, "root")
		reply := bob.relate(room, "m.thread", root, "m.room.message", nil)
		sticker := alice.relate(room, "m.thread", root, "m.sticker", nil)
		edit := alice.edit(room, root, "edited")
		alice.Say(room, "unrelated")
		other := bob.relate(room, "org.example", root, "m.room.message", nil)
		reaction := alice.relate(room, "m.annotation", reply, "m.reaction", M{"m.relates_to": M{"rel_type": "m.annotation", "event_id": reply, "key": "👍"}})
		deep := alice.relate(room, "m.reference", reaction, "m.x", nil)
		deeper := alice.relate(room, "m.reference", deep, "m.x", nil)

		list := func(c *Client, path string) []string {
			t.Helper()
			return Events(c.OK("GET", path, nil).At("chunk"))
		}
		check := func(what string, got []string, want ...string) {
			t.Helper()
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		check("all", list(alice, relationsPath(room, root)), other, edit, sticker, reply)
		check("forwards", list(alice, relationsPath(room, root)+Query("dir", "f")), reply, sticker, edit, other)
		check("by type of relation", list(alice, relationsPath(room, root, "m.thread")), sticker, reply)
		check("by both types", list(alice, relationsPath(room, root, "m.thread", "m.sticker")), sticker)
		check("by a type of others", list(alice, relationsPath(room, root, "org.example")), other)
		check("none", list(alice, relationsPath(room, root, "m.reference")))
		recursed := alice.OK("GET", relationsPath(room, root)+Query("recurse", "true"), nil)
		check("recursing", Events(recursed.At("chunk")), deep, reaction, other, edit, sticker, reply)
		if recursed.At("recursion_depth").Int() != 3 {
			t.Errorf("the depth is %s", recursed.At("recursion_depth").Raw)
		}
		check("recursing by type", list(alice, relationsPath(room, root, "m.reference")+Query("recurse", "true")))
		check("recursing from further down", list(alice, relationsPath(room, reply)+Query("recurse", "true")), deeper, deep, reaction)

		// Pages, there and back.
		for _, recurse := range []string{"false", "true"} {
			for _, dir := range []string{"b", "f"} {
				whole := list(alice, relationsPath(room, root)+Query("dir", dir, "recurse", recurse))
				var walked []string
				for from := ""; ; {
					q := []any{"dir", dir, "recurse", recurse, "limit", "2"}
					if from != "" {
						q = append(q, "from", from)
					}
					page := alice.OK("GET", relationsPath(room, root)+Query(q...), nil)
					if page.At("prev_batch").Str != from {
						t.Errorf("prev_batch is %s", page.At("prev_batch").Raw)
					}
					walked = append(walked, Events(page.At("chunk"))...)
					if from = page.At("next_batch").Str; from == "" || len(walked) > 20 {
						break
					}
				}
				check("in pages "+dir+recurse, walked, whole...)
			}
		}
		// A redaction undoes a relation, of the child; not of the parent.
		bob.Redact(room, other)
		check("after a redaction", list(alice, relationsPath(room, root)), edit, sticker, reply)
		// Who ignores bob doesn't get what bob sent.
		alice.OK("PUT", Path("user", alice.User, "account_data", "m.ignored_user_list"), M{"ignored_users": M{bob.User: M{}}})
		check("without bob's", list(alice, relationsPath(room, root)), edit, sticker)
		alice.Redact(room, root)
		check("of a redacted event", list(bob, relationsPath(room, root)), edit, sticker, reply)

		carol := s.Register(t, "carol")
		carol.Fails(404, "M_NOT_FOUND", "GET", relationsPath("!unknown:localhost", root), nil)
		private := alice.CreateRoom(nil)
		secret := alice.Say(private, "secret")
		carol.Fails(404, "M_NOT_FOUND", "GET", relationsPath(private, secret), nil)
		alice.Fails(404, "M_NOT_FOUND", "GET", relationsPath(room, secret), nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", relationsPath(room, root)+Query("from", "nonsense"), nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", relationsPath(room, root)+Query("dir", "x"), nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", relationsPath(room, root)+Query("limit", "0"), nil)
	})
}

// What relates to an event is shown as far as one may see it.
func TestRelationsAndVisibility(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat", "initial_state": []M{
			{"type": "m.room.history_visibility", "content": M{"history_visibility": "joined"}},
		}})
		bob.Join(room)
		root := alice.Say(room, "root")
		seen := alice.relate(room, "m.thread", root, "m.room.message", nil)
		bob.Leave(room)
		alice.relate(room, "m.thread", root, "m.room.message", nil)
		alice.edit(room, root, "after bob left")
		if got := Events(bob.OK("GET", relationsPath(room, root), nil).At("chunk")); !slices.Equal(got, []string{seen}) {
			t.Errorf("who left sees %v", got)
		}
		e := bob.OK("GET", Path("rooms", room, "event", root), nil)
		rel := e.At("unsigned", "m.relations")
		if rel.Get(`m\.replace`).Exists() || At(rel, "m.thread", "latest_event", "event_id").Str != seen {
			t.Errorf("who left sees %s", rel.Raw)
		}
		if threads := bob.OK("GET", Path("/_matrix/client/v1", "rooms", room, "threads"), nil).At("chunk"); len(threads.Array()) != 1 {
			t.Errorf("who left sees the threads %s", threads.Raw)
		}
	})
}

// Spec: cs Aggregations of child events
func TestBundles(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		root := alice.Say(room, "root")
		alice.edit(room, root, "first edit")
		bob.edit(room, root, "by somebody else")
		edit := alice.edit(room, root, "second edit")
		alice.relate(room, "m.replace", root, "m.room.message", nil) // has nothing to put in place
		alice.relate(room, "m.replace", root, "m.sticker", M{"m.new_content": M{"body": "of another type"}})
		alice.edit(room, edit, "an edit of an edit")
		bob.relate(room, "m.thread", root, "m.room.message", nil)
		latest := bob.relate(room, "m.thread", root, "m.room.message", nil)
		latestEdit := bob.edit(room, latest, "edited in the thread")
		reference := bob.relate(room, "m.reference", root, "m.x", nil)
		alice.relate(room, "m.annotation", root, "m.reaction", nil)

		verify := func(what string, e gjson.Result) {
			t.Helper()
			rel := At(e, "unsigned", "m.relations")
			if At(rel, "m.replace", "event_id").Str != edit || At(rel, "m.replace", "content", "m.new_content", "body").Str != "second edit" {
				t.Errorf("%s: replaced by %s", what, At(rel, "m.replace").Raw)
			}
			th := At(rel, "m.thread")
			if th.Get("count").Int() != 2 || !th.Get("current_user_participated").Bool() || At(th, "latest_event", "event_id").Str != latest {
				t.Errorf("%s: thread %s", what, th.Raw)
			}
			if At(th, "latest_event", "unsigned", "m.relations", "m.replace", "event_id").Str != latestEdit {
				t.Errorf("%s: the latest event of the thread is %s", what, th.Get("latest_event").Raw)
			}
			if chunk := At(rel, "m.reference", "chunk"); len(chunk.Array()) != 1 || chunk.Get("0.event_id").Str != reference {
				t.Errorf("%s: references %s", what, chunk.Raw)
			}
			if At(rel, "m.annotation").Exists() || len(rel.Map()) != 3 {
				t.Errorf("%s: %s", what, rel.Raw)
			}
			if body := At(e, "content", "body").Str; body != "root" {
				t.Errorf("%s: the body is %q", what, body)
			}
		}
		find := func(list gjson.Result) (found gjson.Result) {
			list.ForEach(func(_, e gjson.Result) bool {
				if e.Get("event_id").Str == root {
					found = e
				}
				return true
			})
			return found
		}
		verify("event", alice.OK("GET", Path("rooms", room, "event", root), nil).At())
		verify("messages", find(alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "b", "limit", "50"), nil).At("chunk")))
		verify("context", alice.OK("GET", Path("rooms", room, "context", root), nil).At("event"))
		verify("context around", find(alice.OK("GET", Path("rooms", room, "context", edit)+Query("limit", "20"), nil).At("events_before")))
		verify("threads", find(alice.OK("GET", Path("/_matrix/client/v1", "rooms", room, "threads"), nil).At("chunk")))
		sync := alice.OK("GET", "sync"+Query("filter", M{"room": M{"timeline": M{"limit": 14}}}), nil)
		timeline := sync.At("rooms", "join", room, "timeline")
		if !timeline.Get("limited").Bool() {
			t.Fatalf("the timeline is not limited: %s", timeline.Raw)
		}
		verify("sync", find(timeline.Get("events")))
		// Deeds of the ignored don't count.
		alice.OK("PUT", Path("user", alice.User, "account_data", "m.ignored_user_list"), M{"ignored_users": M{bob.User: M{}}})
		rel := alice.OK("GET", Path("rooms", room, "event", root), nil).At("unsigned", "m.relations")
		if len(rel.Map()) != 1 || !At(rel, "m.replace").Exists() {
			t.Errorf("without bob: %s", rel.Raw)
		}
		// The last edit is taken back, then the event is.
		alice.Redact(room, edit)
		rel = bob.OK("GET", Path("rooms", room, "event", root), nil).At("unsigned", "m.relations")
		if At(rel, "m.replace", "content", "m.new_content", "body").Str != "first edit" {
			t.Errorf("after a redaction: %s", At(rel, "m.replace").Raw)
		}
		alice.Redact(room, root)
		rel = bob.OK("GET", Path("rooms", room, "event", root), nil).At("unsigned", "m.relations")
		if At(rel, "m.replace").Exists() || !At(rel, "m.thread").Exists() {
			t.Errorf("of a redacted event: %s", rel.Raw)
		}
	})
}

// Spec: cs getThreadRoots
func TestThreads(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		var roots []string
		for i := range 7 {
			c := []*Client{alice, bob}[i%2]
			roots = append(roots, c.Say(room, strconv.Itoa(i)))
		}
		for _, r := range roots {
			bob.relate(room, "m.thread", r, "m.room.message", nil)
		}
		alice.relate(room, "m.thread", roots[1], "m.room.message", nil)
		path := Path("/_matrix/client/v1", "rooms", room, "threads")
		walk := func(c *Client, include string, limit int) (all []string) {
			t.Helper()
			for from := ""; ; {
				q := []any{"limit", strconv.Itoa(limit), "include", include}
				if from != "" {
					q = append(q, "from", from)
				}
				page := c.OK("GET", path+Query(q...), nil)
				all = append(all, Events(page.At("chunk"))...)
				if from = page.At("next_batch").Str; from == "" || len(all) > 50 {
					return all
				}
			}
		}
		want := []string{roots[1], roots[6], roots[5], roots[4], roots[3], roots[2], roots[0]}
		for _, limit := range []int{1, 2, 7, 50} {
			if got := walk(alice, "all", limit); !slices.Equal(got, want) {
				t.Errorf("limit %d: %v", limit, got)
			}
			mine := []string{roots[1], roots[6], roots[4], roots[2], roots[0]}
			if got := walk(alice, "participated", limit); !slices.Equal(got, mine) {
				t.Errorf("limit %d: alice has a part in %v", limit, got)
			}
		}
		alice.Fails(400, "M_INVALID_PARAM", "GET", path+Query("include", "x"), nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", path+Query("from", "x"), nil)
		alice.Fails(400, "M_INVALID_PARAM", "GET", path+Query("limit", "0"), nil)
		private := alice.CreateRoom(nil)
		bob.Fails(403, "M_FORBIDDEN", "GET", Path("/_matrix/client/v1", "rooms", private, "threads"), nil)
		// No thread begins at what relates to something else.
		child := alice.relate(room, "m.reference", roots[0], "m.x", nil)
		content := M{"m.relates_to": M{"rel_type": "m.thread", "event_id": child}}
		alice.Fails(400, "M_UNKNOWN", "PUT", Path("rooms", room, "send", "m.room.message", Unique("t")), content)
	})
}

// Spec: cs Avoiding duplicate annotations
func TestDuplicateAnnotation(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(nil)
		root := alice.Say(room, "root")
		content := M{"m.relates_to": M{"rel_type": "m.annotation", "event_id": root, "key": "👍"}}
		path := Path("rooms", room, "send", "m.reaction", "one")
		first := alice.OK("PUT", path, content).Text("event_id")
		if again := alice.OK("PUT", path, content).Text("event_id"); again != first {
			t.Errorf("the same request made %s", again)
		}
		alice.Fails(400, "M_DUPLICATE_ANNOTATION", "PUT", Path("rooms", room, "send", "m.reaction", "two"), content)
		alice.Redact(room, first)
		alice.Send(room, "m.reaction", content)
	})
}

// Spec: cs Filtering
func TestFiltersByRelation(t *testing.T) {
	Each(t, func(t *testing.T, s *Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := alice.CreateRoom(M{"preset": "public_chat"})
		bob.Join(room)
		since := alice.OK("GET", "sync", nil).Text("next_batch")
		root := alice.Say(room, "root")
		reply := bob.relate(room, "m.thread", root, "m.room.message", nil)
		reference := alice.relate(room, "m.reference", root, "m.room.message", nil)
		for _, check := range []struct {
			filter M
			want   []string
		}{
			{M{"org.matrix.msc3874.rel_types": []string{"m.thread"}}, []string{reply}},
			{M{"org.matrix.msc3874.not_rel_types": []string{"m.thread"}}, []string{root, reference}},
			{M{"related_by_rel_types": []string{"m.thread"}}, []string{root}},
			{M{"related_by_rel_types": []string{"m.thread"}, "related_by_senders": []string{alice.User}}, nil},
			{M{"related_by_senders": []string{alice.User}}, []string{root}},
		} {
			list := alice.OK("GET", Path("rooms", room, "messages")+Query("dir", "f", "from", since, "filter", check.filter), nil)
			if got := Events(list.At("chunk")); !slices.Equal(got, check.want) {
				t.Errorf("%v: %v, want %v", check.filter, got, check.want)
			}
			sync := alice.OK("GET", "sync"+Query("since", since, "filter", M{"room": M{"timeline": check.filter}}), nil)
			if got := Events(sync.At("rooms", "join", room, "timeline", "events")); !slices.Equal(got, check.want) {
				t.Errorf("sync with %v: %v, want %v", check.filter, got, check.want)
			}
		}
	})
}
