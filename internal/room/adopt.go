package room

import (
	"context"
	"errors"
	"fmt"

	"myelin/internal/graph"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
)

// Adoption is a join of ours that another server accepted.
type Adoption struct {
	Room    id.RoomID
	Version *roomver.Version
	// Join is the event as all who had to sign it did.
	Join *event.PDU
	// State is the state before the join. Its events are stored.
	State []id.EventID
	// Partial: member events were left out. Servers are then those that are in the room.
	Partial bool
	Servers []id.ServerName
}

// Adopt begins, or resumes, this server's part in a room. Where users of ours are in the room already the join is grafted on; where the
// last has left, what was known of the room's end no longer counts.
//
// It returns M_FORBIDDEN where the state doesn't allow the join, and *Missing where some of the state is not stored.
//
// Spec: ss Joining Rooms
func (r *Rooms) Adopt(ctx context.Context, a Adoption) error {
	if _, err := r.cfg.Graph.NameRoom(ctx, a.Room, a.Version); err != nil {
		return err
	}
	_, err := r.cfg.Graph.Head(ctx, a.Room)
	switch {
	case mxerr.Is(err, mxerr.CodeNotFound):
		err = r.begin(ctx, a)
		if !errors.Is(err, graph.ErrConflict) {
			return err
		}
		// Another node of ours has begun it in this moment.
	case err != nil:
		return err
	}
	var result Result
	_, err = r.advance(ctx, a.Room, graph.TxnRef{}, func(head *graph.Head, settled bool) (step, error) {
		if !settled {
			return step{}, errUnsettled
		}
		present, err := r.present(ctx, head)
		if err != nil {
			return step{}, err
		}
		if present {
			in := incoming{pdu: a.Join, grafted: true, before: a.State, memberless: a.Partial, servers: a.Servers, strict: true}
			return r.judging(ctx, in, &result)(head, settled)
		}
		return r.resume(ctx, head, a)
	})
	return err
}

// present reports whether users of ours are in a room.
func (r *Rooms) present(ctx context.Context, head *graph.Head) (bool, error) {
	members, err := r.cfg.Graph.LocalMembers(ctx, head.Room, r.cfg.Ours.Is, 1)
	return len(members) > 0, err
}

// begin makes the first commit of a room.
func (r *Rooms) begin(ctx context.Context, a Adoption) error {
	l := r.lane(a.Room)
	l.mu.Lock()
	defer l.mu.Unlock()
	head, err := r.cfg.Graph.NewHead(ctx, a.Room, a.Version)
	if err != nil {
		return err
	}
	s, err := r.resume(ctx, head, a)
	if err != nil {
		return err
	}
	if err := r.cfg.Graph.Commit(s.commit).Wait(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("adopt %s: %w", a.Room, err)
	}
	return nil
}

// resume places the join as the only event that counts. If the members of an earlier stay were never learned, they are to come with those of
// this one, which is partial as long as they don't.
func (r *Rooms) resume(ctx context.Context, head *graph.Head, a Adoption) (step, error) {
	known, _, err := r.cfg.Graph.Event(ctx, a.Join.ID())
	if err != nil {
		return step{}, err
	}
	if known != nil && known.Flags&graph.Outlier == 0 {
		return step{event: a.Join.ID()}, nil
	}
	j := r.judgement(head, true, incoming{pdu: a.Join, grafted: true, before: a.State}, known)
	_, auth, gone, err := j.ancestors(ctx, false)
	if err != nil {
		return step{}, err
	}
	before, err := j.before(ctx, false, nil)
	if err != nil {
		return step{}, err
	}
	view := *head
	view.State, view.Partial = before, a.Partial
	j.head = &view
	rejection, err := j.allowed(ctx, auth, before)
	if err != nil {
		return step{}, err
	}
	if rejection != nil {
		return step{}, forbidden(rejection)
	}
	e, err := j.event(ctx)
	if err != nil {
		return step{}, err
	}
	if len(gone) > 0 {
		e.Flags |= graph.Torn
	}
	since, err := r.unfinished(ctx, head)
	if err != nil {
		return step{}, err
	}
	partial := a.Partial || since != ""
	next, err := head.Place(e, graph.Placement{Before: before, After: after(e, before), Sole: true, Partial: partial})
	if err != nil {
		return step{}, err
	}
	commit := &graph.Commit{Prev: head, Next: next, Events: []*graph.Event{e}}
	for _, g := range gone {
		commit.Gaps = append(commit.Gaps, graph.Gap{Missing: g, Child: e.NID})
	}
	commit.Whole = head.Partial && !partial
	if partial {
		commit.Partial = &graph.PartialRoom{Room: head.Room, Join: a.Join.ID(), Since: since, Servers: a.Servers}
	}
	b := r.batch(next, true)
	return step{commit: commit, event: a.Join.ID()}, b.succeed(ctx, a.Join.Sender(), commit)
}

// unfinished returns the join of an earlier stay whose members were not learned while it lasted, if there is one.
func (r *Rooms) unfinished(ctx context.Context, head *graph.Head) (id.EventID, error) {
	join, since, err := r.cfg.Graph.LastPartial(ctx, head.Room)
	if err != nil {
		return "", err
	}
	for _, x := range []id.EventID{since, join} {
		e, ok, err := r.cfg.Graph.Event(ctx, x)
		if err != nil {
			return "", err
		}
		if ok && e.Flags&graph.Thin != 0 {
			return x, nil
		}
	}
	return "", nil
}
