package room

import (
	"context"
	"slices"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/canon"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Message is what a client asks to be sent to a room.
type Message struct {
	Proposal
	Room id.RoomID
	// Txn identifies the client's request; its zero value means that the request carried
	// no transaction ID.
	Txn graph.TxnRef
}

// Send sends an event of a local user and returns its ID once it is durable. A repeated
// transaction returns the ID of the first, also after a restart.
//
// Spec: cs sendMessage
// Spec: cs setRoomStateWithKey
func (r *Rooms) Send(ctx context.Context, m Message) (id.EventID, error) {
	if known, ok := r.sent.GetIfPresent(m.Txn); ok {
		return known, nil
	}
	unrelated, err := r.mayRelate(ctx, m)
	if err != nil {
		return "", err
	}
	return r.compose(ctx, m.Room, m.Txn, func(b *batch) (step, error) {
		if err := r.checkAliases(ctx, b, m); err != nil {
			return step{}, err
		}
		pdu, err := b.add(ctx, m.Proposal)
		if err != nil {
			return step{}, err
		}
		if unrelated != nil { // which only those are told who may send to the room
			return step{}, unrelated
		}
		return b.step(pdu.ID(), m.Txn), nil
	})
}

// step closes the batch.
func (b *batch) step(result id.EventID, txn graph.TxnRef) step {
	c := b.commit()
	if c != nil && txn != (graph.TxnRef{}) {
		b.events[len(b.events)-1].Txn = txn
	}
	return step{commit: c, event: result}
}

// Redaction is a client's request to redact an event.
type Redaction struct {
	Room   id.RoomID
	Sender id.UserID
	Target id.EventID
	// Reason may be empty.
	Reason string
	// Content holds further fields of the content, nil for none.
	Content []byte
	Txn     graph.TxnRef
	TS      int64
}

// Redact sends a redaction and strips its target in the same commit.
//
// Spec: cs redactEvent
func (r *Rooms) Redact(ctx context.Context, req Redaction) (id.EventID, error) {
	if known, ok := r.sent.GetIfPresent(req.Txn); ok {
		return known, nil
	}
	target, ok, err := r.cfg.Graph.Event(ctx, req.Target)
	if err != nil {
		return "", err
	}
	if ok && target.PDU.RoomID() != req.Room {
		return "", mxerr.NotFound("there is no event %s in this room", req.Target)
	}
	if !ok {
		return r.redactUnseen(ctx, req)
	}
	return r.compose(ctx, req.Room, req.Txn, func(b *batch) (step, error) {
		if err := b.mayRedact(ctx, req.Sender, target.PDU); err != nil {
			return step{}, err
		}
		pdu, err := b.add(ctx, req.proposal())
		if err != nil {
			return step{}, err
		}
		if err := b.redact(target); err != nil {
			return step{}, err
		}
		return b.step(pdu.ID(), req.Txn), nil
	})
}

// redactUnseen sends a redaction of an event that is not here: others may have it, and if it comes here it is judged then whether the
// redaction may take effect. In a room that nobody shares with us there is no such event.
//
// Spec: rooms/v3 Handling redactions
func (r *Rooms) redactUnseen(ctx context.Context, req Redaction) (id.EventID, error) {
	return r.compose(ctx, req.Room, req.Txn, func(b *batch) (step, error) {
		servers, err := r.cfg.Graph.Servers(ctx, b.head.Room)
		if err != nil {
			return step{}, err
		}
		if !slices.ContainsFunc(servers, func(s id.ServerName) bool { return !r.cfg.Ours.Is(s) }) {
			return step{}, mxerr.NotFound("there is no event %s in this room", req.Target)
		}
		pdu, err := b.add(ctx, req.proposal())
		if err != nil {
			return step{}, err
		}
		b.awaiting = append(b.awaiting, graph.Awaited{Target: req.Target, By: b.events[len(b.events)-1].NID})
		return b.step(pdu.ID(), req.Txn), nil
	})
}

func (req Redaction) proposal() Proposal {
	content := req.Content
	if content == nil {
		content = []byte("{}")
	}
	if req.Reason != "" {
		content = canon.With(nil, content, "reason", canon.AppendString(nil, req.Reason))
	}
	p := Proposal{Sender: req.Sender, Type: "m.room.redaction", TS: req.TS}
	// A client that redacts through /send names the target in the content, whatever the version.
	p.Redacts, p.Content = req.Target, canon.Without(nil, content, "redacts")
	return p
}

// mayRedact reports whether a local user may redact the target: their own events, or any
// with the power to redact. The rule by which servers accept redactions from each other is
// wider (any user of the sender's server), and is for package room's Receive.
func (b *batch) mayRedact(ctx context.Context, sender id.UserID, target *event.PDU) error {
	if target.Type() == "m.room.create" {
		return mxerr.Forbidden("the creation of a room can't be redacted")
	}
	if target.Sender() == sender {
		return nil
	}
	levels, err := b.levels(ctx)
	if err != nil {
		return err
	}
	if levels.User(sender) < levels.Redact() {
		return mxerr.Forbidden("you don't have permission to redact events of others in this room")
	}
	return nil
}

// redact strips the target in the batch's commit. What is redacted already stays so by the first
// redaction.
func (b *batch) redact(target *graph.Event) error {
	if target.Flags&graph.Redacted != 0 {
		return nil
	}
	pruned, err := target.PDU.Redacted()
	if err != nil {
		return err
	}
	b.redactions = append(b.redactions, graph.Redaction{
		Target: target.NID,
		By:     b.events[len(b.events)-1].NID,
		Was:    target.PDU,
		Pruned: pruned,
	})
	return nil
}

// checkAliases refuses a canonical alias event that lists new aliases which are malformed or
// don't point to the room.
//
// Spec: cs setRoomStateWithKey
func (r *Rooms) checkAliases(ctx context.Context, b *batch, m Message) error {
	if m.Type != "m.room.canonical_alias" || m.StateKey == nil || *m.StateKey != "" {
		return nil
	}
	known := make(map[string]bool)
	old, err := b.current(ctx, m.Type, "")
	if err != nil {
		return err
	}
	if old != nil {
		for _, a := range aliasesOf(old.Content()) {
			known[a.Str] = true
		}
	}
	for _, a := range aliasesOf(m.Content) {
		if a.Type != gjson.String {
			return mxerr.InvalidParam("aliases must be strings")
		}
		if known[a.Str] {
			continue
		}
		alias, err := id.ParseRoomAlias(a.Str)
		if err != nil {
			return mxerr.InvalidParam("%v", err)
		}
		room, ok, err := r.cfg.Alias(ctx, alias)
		if err != nil {
			return err
		}
		if !ok || room != m.Room {
			return mxerr.New(mxerr.CodeBadAlias, "the alias %s does not point to this room", alias)
		}
	}
	return nil
}

func aliasesOf(content []byte) []gjson.Result {
	var all []gjson.Result
	if a := gjson.GetBytes(content, "alias"); a.Exists() && a.Type != gjson.Null && a.Str != "" || a.Type == gjson.Number {
		all = append(all, a)
	}
	return append(all, gjson.GetBytes(content, "alt_aliases").Array()...)
}
