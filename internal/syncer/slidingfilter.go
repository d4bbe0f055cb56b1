package syncer

import (
	"context"
	"slices"

	"myelin/internal/graph"
	"myelin/internal/view"
	"myelin/matrix/canon"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// selects reports whether a room belongs to a list. children are the rooms in the spaces that the filter names.
func (f *listFilter) selects(c *card, children map[id.RoomID]bool) bool {
	switch {
	case f.IsDM != nil && *f.IsDM != c.direct,
		f.IsEncrypted != nil && *f.IsEncrypted != c.encrypted,
		f.IsInvited != nil && *f.IsInvited != (c.seat.row.Membership == graph.Invite),
		f.RoomTypes != nil && !hasType(f.RoomTypes, c.kind),
		f.NotRoomTypes != nil && hasType(f.NotRoomTypes, c.kind),
		f.Tags != nil && !overlap(f.Tags, c.tags),
		f.NotTags != nil && overlap(f.NotTags, c.tags),
		f.Spaces != nil && !children[c.seat.row.RoomID]:
		return false
	}
	return true
}

// hasType looks for a room's type among those of a filter, where nil stands for none.
func hasType(types []*string, kind string) bool {
	return slices.ContainsFunc(types, func(t *string) bool { return t == nil && kind == "" || t != nil && *t == kind && kind != "" })
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// maxChildren bounds the rooms of a space that are looked at.
const maxChildren = 5000

// children returns the rooms in those of the spaces that the user is joined to.
//
// Spec: cs m.space.child
func (s *Syncer) children(ctx context.Context, user id.UserID, spaces []id.RoomID) (map[id.RoomID]bool, error) {
	rooms := make(map[id.RoomID]bool)
	for _, space := range spaces {
		m, err := s.cfg.Graph.MembershipIn(ctx, user, space)
		if err != nil {
			return nil, err
		}
		if m != graph.Join {
			continue
		}
		head, err := s.cfg.Graph.Head(ctx, space)
		if mxerr.Is(err, mxerr.CodeNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		var nids []graph.EventNID
		for _, nid := range head.State.OfType("m.space.child") {
			if nids = append(nids, nid); len(nids) >= maxChildren {
				break
			}
		}
		events, err := s.cfg.Graph.Events(ctx, head.Room, nids)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if via, ok := canon.Get(e.PDU.Content(), "via"); ok && len(via) > 2 && via[0] == '[' {
				rooms[id.RoomID(e.PDU.Key().StateKey)] = true
			}
		}
	}
	return rooms, nil
}

// timelineFilters are filters that only limit the length of a timeline.
var timelineFilters = func() (all [MaxTimeline + 1]*view.Filter) {
	for n := range all {
		all[n] = new(view.Filter)
		all[n].Room.Timeline.Limit = &n
	}
	return all
}()
