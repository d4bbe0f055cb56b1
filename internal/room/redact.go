package room

import (
	"context"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/eventauth"
)

// redactions adds to the commit of a received event what is redacted by it, and, where a redaction of
// the event itself came first, what that redacts.
//
// Spec: rooms/v3 Handling redactions
func (j *judgement) redactions(ctx context.Context, c *graph.Commit, e *graph.Event, before *graph.State) error {
	if err := j.redactedBefore(ctx, c, e); err != nil || e.Flags&(graph.Rejected|graph.SoftFailed) != 0 {
		return err
	}
	target, ok := j.pdu.Redacts()
	if !ok || j.pdu.Type() != "m.room.redaction" {
		return nil
	}
	t, ok, err := j.rooms.cfg.Graph.Event(ctx, target)
	if err != nil {
		return err
	}
	if ok && t.Room != j.head.Room {
		return nil
	}
	if !ok {
		c.Awaiting = append(c.Awaiting, graph.Awaited{Target: target, By: e.NID})
		return nil
	}
	if t.Flags&graph.Redacted != 0 {
		return nil
	}
	return j.redact(ctx, c, t, e, before)
}

// redactedBefore lets the redactions take effect that wait for the event.
func (j *judgement) redactedBefore(ctx context.Context, c *graph.Commit, e *graph.Event) error {
	if e.Flags&graph.Redacted != 0 {
		return nil
	}
	waiting, err := j.rooms.cfg.Graph.Awaiting(ctx, j.head.Room, j.pdu.ID())
	if err != nil {
		return err
	}
	return j.redactedBy(ctx, c, e, waiting)
}

// redactedBy lets the first of the redactions take effect that may.
func (j *judgement) redactedBy(ctx context.Context, c *graph.Commit, e *graph.Event, waiting []graph.EventNID) error {
	had := len(c.Redactions)
	redactions, err := j.rooms.cfg.Graph.Events(ctx, j.head.Room, waiting)
	if err != nil {
		return err
	}
	for _, by := range redactions {
		before, err := j.rooms.cfg.Graph.StateBefore(ctx, by)
		if err != nil {
			return err
		}
		if err := j.redact(ctx, c, e, by, before); err != nil || len(c.Redactions) > had {
			return err
		}
	}
	return nil
}

// redact adds a redaction to the commit if it may take effect by the state before it.
func (j *judgement) redact(ctx context.Context, c *graph.Commit, target, by *graph.Event, before *graph.State) error {
	state, err := j.rooms.entries(ctx, j.head.Room, before, []event.Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}})
	if err != nil {
		return err
	}
	levels := eventauth.PowerLevels(j.head.Version, state("m.room.create", ""), state("m.room.power_levels", ""))
	if !eventauth.Redacts(by.PDU, target.PDU, levels) {
		return nil
	}
	pruned, err := target.PDU.Redacted()
	if err != nil {
		return err
	}
	c.Redactions = append(c.Redactions, graph.Redaction{Target: target.NID, By: by.NID, Was: target.PDU, Pruned: pruned})
	return nil
}
