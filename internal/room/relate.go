package room

import (
	"context"

	"myelin/matrix/event"
	"myelin/matrix/mxerr"
)

// alreadyAnnotated is what a user is told who says the same of an event again.
//
// Spec: cs Avoiding duplicate annotations
func alreadyAnnotated() *mxerr.Error {
	return mxerr.New(mxerr.CodeDuplicateAnnotation, "you have annotated this event so already")
}

// mayRelate says what speaks against the relation that a message of a local user has to another event, nil for nothing. It looks at what is durable; that
// of two equal annotations at once only one is sent is for the commit to see.
//
// Spec: cs Validation of m.thread relationships
// Spec: cs Avoiding duplicate annotations
func (r *Rooms) mayRelate(ctx context.Context, m Message) (objection *mxerr.Error, err error) {
	to, ok := event.RelationOf(m.Content)
	if !ok || to.Type != event.Annotates && to.Type != event.InThread {
		return nil, nil
	}
	room, ok, err := r.cfg.Graph.RoomNID(ctx, m.Room)
	if err != nil || !ok {
		return nil, err
	}
	if to.Type == event.Annotates {
		found, err := r.cfg.Graph.Annotated(ctx, room, m.Sender, m.Type, to)
		if err != nil || !found {
			return nil, err
		}
		return alreadyAnnotated(), nil
	}
	root, ok, err := r.cfg.Graph.Event(ctx, to.Parent)
	if err != nil || !ok || root.Room != room {
		return nil, err
	}
	if _, related := root.PDU.Relation(); related {
		return mxerr.New(mxerr.CodeUnknown, "a thread can't begin at an event that relates to another one"), nil
	}
	return nil, nil
}
