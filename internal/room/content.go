package room

import (
	"context"

	"myelin/internal/graph"
)

// MemberContent returns the content of the event that a membership request makes, for rooms that this server is not in
// and asks other servers to let its users into.
//
// Spec: ss Joining Rooms
func (r *Rooms) MemberContent(ctx context.Context, m Membership, membership graph.Membership) ([]byte, error) {
	return r.memberContent(ctx, m, membership)
}
