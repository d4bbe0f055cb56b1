package stateres

import (
	"fmt"

	"myelin/matrix/event"
	"myelin/matrix/id"
)

// coverChunk is how many events of the unconflicted state are walked at once.
const coverChunk = 1024

// Witnesses remembers, for events that are not current state, an event with them in its auth
// chain. Auth chains never change, so an entry is true for ever; whether the witness is unconflicted is asked
// each time. Use one for each room. It isn't safe for concurrent use.
type Witnesses struct {
	// Limit bounds the number of entries; 0 means 4096. When it is reached all are dropped.
	Limit int

	entries map[id.EventID]witness
}

type witness struct {
	key event.Key
	id  id.EventID
}

func (s *Witnesses) put(e id.EventID, by *event.PDU) {
	limit := s.Limit
	if limit <= 0 {
		limit = 4096
	}
	if s.entries == nil || len(s.entries) >= limit {
		s.entries = make(map[id.EventID]witness)
	}
	s.entries[e] = witness{by.Key(), by.ID()}
}

// cover gives all bits to those events of taken that lack one but are in the auth chain of an
// unconflicted event. The three steps stand in the package comment.
func (w *walk) cover() error {
	if open := w.uncovered(); len(open) > 0 && w.in.Witnesses != nil {
		for _, n := range open {
			known, ok := w.in.Witnesses.entries[w.nodes[n].pdu.ID()]
			if !ok {
				continue
			}
			if e, ok := w.unconflicted(known.key); ok && e == known.id {
				w.fill(n)
			}
		}
		w.spread()
	}
	if open := w.uncovered(); len(open) > 0 {
		if err := w.coverFrom(w.likely(open), open); err != nil {
			return err
		}
	}
	open := w.uncovered()
	if len(open) == 0 {
		return nil
	}
	if w.in.Covered != nil {
		return w.ask(open)
	}
	return w.coverFromAll(open)
}

// uncovered lists the events whose bits matter and are not all set.
func (w *walk) uncovered() []int32 {
	var open []int32
	for _, n := range w.taken {
		if w.nodes[n].flags&(inConflict|inUnconflicted) == 0 && !w.isFull(n) {
			open = append(open, n)
		}
	}
	return open
}

func (w *walk) fill(n int32) { copy(w.mask(n), w.full) }

// spread hands bits on from the events of taken to their auth events. Every path between two events
// of taken runs through taken, since generations descend along it.
func (w *walk) spread() {
	for _, n := range w.taken {
		if !w.isFull(n) {
			continue
		}
		for _, m := range w.nodes[n].auth {
			w.fill(m)
		}
	}
}

// likely lists unconflicted events that probably have the open ones in their chains.
func (w *walk) likely(open []int32) []id.EventID {
	keys := []event.Key{{Type: "m.room.power_levels"}, {Type: "m.room.join_rules"}}
	for _, n := range open {
		p := w.nodes[n].pdu
		if p.IsState() {
			keys = append(keys, p.Key())
		}
		keys = append(keys, event.Key{Type: "m.room.member", StateKey: string(p.Sender())})
	}
	var seeds []id.EventID
	for _, key := range keys {
		if e, ok := w.unconflicted(key); ok {
			seeds = append(seeds, e)
		}
	}
	return seeds
}

// coverFrom walks the chains of the seeds, which are unconflicted, as far down as the open events go.
func (w *walk) coverFrom(seeds []id.EventID, open []int32) error {
	if err := w.load(seeds); err != nil {
		return err
	}
	var wave []int32
	for _, n := range w.nodesOf(seeds) {
		if w.nodes[n].seed == 0 {
			w.nodes[n].seed = n + 1
			wave = append(wave, n)
		}
	}
	if err := w.prepare(wave); err != nil {
		return err
	}
	floor := w.nodes[open[0]].gen
	for _, n := range open {
		floor = min(floor, w.nodes[n].gen)
	}
	for len(wave) > 0 {
		above := wave[:0]
		for _, n := range wave {
			if w.nodes[n].gen > floor {
				above = append(above, n)
			}
		}
		if err := w.link(above); err != nil {
			return err
		}
		var next []int32
		for _, n := range above {
			for _, m := range w.nodes[n].auth {
				if w.nodes[m].seed == 0 {
					w.nodes[m].seed = w.nodes[n].seed
					next = append(next, m)
				}
			}
		}
		wave = next
	}
	w.grow()
	for _, n := range open {
		seed := w.nodes[n].seed
		if seed == 0 {
			continue
		}
		w.fill(n)
		if w.in.Witnesses != nil {
			w.in.Witnesses.put(w.nodes[n].pdu.ID(), w.nodes[seed-1].pdu)
		}
	}
	w.spread()
	return nil
}

// coverFromAll walks the whole unconflicted state until nothing is open.
func (w *walk) coverFromAll(open []int32) error {
	chunk := make([]id.EventID, 0, coverChunk)
	var err error
	flush := func() bool {
		err = w.coverFrom(chunk, open)
		chunk = chunk[:0]
		if err == nil {
			open = w.uncovered()
		}
		return err == nil && len(open) > 0
	}
	for key, e := range w.in.AllUnconflicted {
		if now, ok := w.unconflicted(key); !ok || now != e {
			continue
		}
		if chunk = append(chunk, e); len(chunk) == coverChunk && !flush() {
			return err
		}
	}
	if len(chunk) > 0 {
		flush()
	}
	return err
}

// ask lets the caller's index decide.
func (w *walk) ask(open []int32) error {
	ids := make([]id.EventID, len(open))
	for i, n := range open {
		ids[i] = w.nodes[n].pdu.ID()
	}
	covered, err := w.in.Covered(ids)
	if err != nil {
		return fmt.Errorf("find what covers %d events: %w", len(ids), err)
	}
	for _, e := range covered {
		if n, ok := w.index[e]; ok {
			w.fill(n)
		}
	}
	w.spread()
	return nil
}
