package fedroom

import (
	"context"
	"strings"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// acl is a room's access control list.
//
// Spec: cs m.room.server_acl
type acl struct {
	of          *event.PDU
	noLiterals  bool
	allow, deny []string // globs in lower case
}

// maxGlobs bounds the entries of a list that are looked at. An event of the largest size with the shortest entries that tell
// servers apart has fewer.
const maxGlobs = 20_000

func parseACL(content []byte) *acl {
	globs := func(list gjson.Result) (out []string) {
		if !list.IsArray() {
			return nil
		}
		for _, entry := range list.Array() {
			if entry.Type == gjson.String && len(out) < maxGlobs {
				out = append(out, strings.ToLower(entry.Str))
			}
		}
		return out
	}
	c := gjson.ParseBytes(content)
	return &acl{noLiterals: c.Get("allow_ip_literals").Type == gjson.False, allow: globs(c.Get("allow")), deny: globs(c.Get("deny"))}
}

// admits reports whether a server may take part. Ports don't count, and neither does case.
func (a *acl) admits(server id.ServerName) bool {
	host := strings.ToLower(server.Host())
	matches := func(globs []string) bool {
		for _, g := range globs {
			if id.MatchGlob(g, host) {
				return true
			}
		}
		return false
	}
	if a.noLiterals && server.IsIPLiteral() || matches(a.deny) {
		return false
	}
	return matches(a.allow)
}

// Allowed returns M_FORBIDDEN where the access control list of the room's current state shuts a server out. A room that this server
// doesn't know allows everybody.
//
// Spec: ss Server Access Control Lists (ACLs)
func (f *Federated) Allowed(ctx context.Context, room id.RoomID, server id.ServerName) error {
	head, err := f.cfg.Graph.Head(ctx, room)
	if mxerr.Is(err, mxerr.CodeNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.admitted(ctx, head, server)
}

func (f *Federated) admitted(ctx context.Context, head *graph.Head, server id.ServerName) error {
	nid, ok := head.State.Get("m.room.server_acl", "")
	if !ok {
		return nil
	}
	events, err := f.cfg.Graph.Events(ctx, head.Room, []graph.EventNID{nid})
	if err != nil {
		return err
	}
	pdu := events[0].PDU
	list, ok := f.acls.GetIfPresent(nid)
	if !ok || list.of != pdu { // a redaction changes the event and not its number
		list = parseACL(pdu.Content())
		list.of = pdu
		f.acls.Set(nid, list)
	}
	if !list.admits(server) {
		return mxerr.Forbidden("%s is shut out of this room by its access control list", server)
	}
	return nil
}
