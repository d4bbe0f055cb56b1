package syncer

import (
	"context"
	"strconv"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

// maxHeroes is how many members name a room that has no name.
const maxHeroes = 5

// heroes returns the members that a room without a name is named after: those who came first and are joined or invited, else
// those who left.
//
// Spec: cs sync
func heroes(s *graph.State, self id.UserID) []id.UserID {
	for _, of := range [][]graph.Membership{{graph.Join, graph.Invite}, {graph.Leave, graph.Ban}} {
		var found []id.UserID
		for m := range s.Members(of...) {
			if m.User == self {
				continue
			}
			if found = append(found, m.User); len(found) == maxHeroes {
				break
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// summary appends the room's summary if it may have changed.
func (r *roomState) summary(ctx context.Context) ([]byte, error) {
	if !r.full && !r.renamed() {
		return nil, nil
	}
	end, err := r.atEnd(ctx)
	if err != nil {
		return nil, err
	}
	joined, invited, err := r.count(ctx, end)
	if err != nil {
		return nil, err
	}
	out := []byte("{")
	shown, err := r.shownHeroes(ctx, end)
	if err != nil {
		return nil, err
	}
	if shown != nil {
		out = append(out, `"m.heroes":[`...)
		for i, user := range shown {
			if i > 0 {
				out = append(out, ',')
			}
			out = canon.AppendString(out, string(user))
		}
		out = append(out, `],`...)
	}
	out = strconv.AppendInt(append(out, `"m.joined_member_count":`...), joined, 10)
	out = strconv.AppendInt(append(out, `,"m.invited_member_count":`...), invited, 10)
	return append(out, '}'), nil
}

// shownHeroes returns the heroes of a room that needs them to have a name, nil for one that has a name.
func (r *roomState) shownHeroes(ctx context.Context, end *graph.State) ([]id.UserID, error) {
	named, err := r.named(ctx, end)
	if err != nil || named {
		return nil, err
	}
	return append([]id.UserID{}, heroes(end, r.a.q.User)...), nil
}

// renamed reports whether members or names changed.
func (r *roomState) renamed() bool {
	for _, c := range r.changes {
		switch c.Key.Type {
		case memberType, "m.room.name", "m.room.canonical_alias":
			return true
		}
	}
	return false
}

// countAll is the size of a state up to which members are counted rather than looked up in the head.
const countAll = 1000

func (r *roomState) count(ctx context.Context, end *graph.State) (joined, invited int64, err error) {
	if end.Len() > countAll {
		head, err := r.a.s.cfg.Graph.HeadOf(ctx, r.v.row.Room)
		if err != nil {
			return 0, 0, err
		}
		if head.StateNID == r.end {
			return head.Joined, head.Invited, nil
		}
	}
	for m := range end.Members(graph.Join, graph.Invite) {
		if m.Membership == graph.Join {
			joined++
		} else {
			invited++
		}
	}
	return joined, invited, nil
}

// named reports whether the room has a name or an alias to show.
func (r *roomState) named(ctx context.Context, end *graph.State) (bool, error) {
	for _, by := range [][2]string{{"m.room.name", "name"}, {"m.room.canonical_alias", "alias"}} {
		nid, ok := end.Get(by[0], "")
		if !ok {
			continue
		}
		events, err := r.a.s.cfg.Graph.Events(ctx, r.v.row.Room, []graph.EventNID{nid})
		if err != nil {
			return false, err
		}
		if gjson.GetBytes(events[0].PDU.Content(), by[1]).Str != "" {
			return true, nil
		}
	}
	return false, nil
}
