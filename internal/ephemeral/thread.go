package ephemeral

import (
	"context"

	"github.com/tidwall/gjson"

	"myelin/internal/graph"
	"myelin/matrix/id"
)

// maxHops is how many relations are followed from an event to its thread.
//
// Spec: cs Threaded read receipts
const maxHops = 3

// inThread reports whether a receipt on the event may name the thread. The root of a thread, and what is related to it
// otherwise, are in the main timeline; but clients that show the thread acknowledge them there, so they count for both.
// What was redacted has lost its relation and gets the benefit of the doubt.
//
// Spec: cs Threaded read receipts
func (e *Ephemeral) inThread(ctx context.Context, ev *graph.Event, thread string) (bool, error) {
	for range maxHops + 1 {
		if string(ev.PDU.ID()) == thread || ev.Flags&graph.Redacted != 0 {
			return true, nil
		}
		relation := gjson.GetBytes(ev.PDU.Content(), `m\.relates_to`)
		parent := relation.Get("event_id").Str
		switch {
		case parent == "":
			return thread == mainThread, nil
		case parent == thread:
			return true, nil
		case relation.Get("rel_type").Str == "m.thread":
			return false, nil
		}
		next, ok, err := e.graph.Event(ctx, id.EventID(parent))
		if err != nil {
			return false, err
		}
		if !ok || next.Room != ev.Room {
			return true, nil // who knows
		}
		ev = next
	}
	return thread == mainThread, nil
}
