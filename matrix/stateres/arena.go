package stateres

import (
	"errors"
	"fmt"

	"myelin/matrix/event"
	"myelin/matrix/id"
)

type nodeFlag uint8

const (
	// inConflict: the event is in the conflicted state set.
	inConflict nodeFlag = 1 << iota
	// inUnconflicted: the event is in the unconflicted state map.
	inUnconflicted
	// inChosen: the event is in the full conflicted set.
	inChosen
	// inPower: the event is in the set X of the algorithm's first step.
	inPower
	// reaches: a conflicted event can be reached from here, or this is one.
	reaches
)

// node is one loaded event of the auth graph.
type node struct {
	pdu *event.PDU
	gen int64
	// auth holds the nodes of the event's auth events once linked is set.
	auth   []int32
	linked bool
	flags  nodeFlag
	// colour is used by number: 0 not numbered, 1 being numbered, 2 numbered.
	colour uint8
	// seed is 1 + the node from which cover reached this one.
	seed int32
}

// arena holds the loaded part of the auth graph. Nodes are named by their index.
type arena struct {
	in    *Input
	room  id.RoomID
	nodes []node
	index map[id.EventID]int32
}

// errCycle is wrapped with an event of the cycle.
var errCycle = errors.New("auth events form a cycle")

// load makes nodes of events that are not loaded yet. ids may hold duplicates.
func (a *arena) load(ids []id.EventID) error {
	ask := make([]id.EventID, 0, len(ids))
	for _, e := range ids {
		if _, ok := a.index[e]; ok {
			continue
		}
		// Reserved, so that a duplicate is asked for once.
		a.index[e] = -1
		ask = append(ask, e)
	}
	if len(ask) == 0 {
		return nil
	}
	if len(a.nodes)+len(ask) > a.in.Limit {
		return fmt.Errorf("%w: more than %d at %s", ErrTooLarge, a.in.Limit, ask[0])
	}
	found, err := a.in.Events(ask)
	if err != nil {
		return fmt.Errorf("load %d events: %w", len(ask), err)
	}
	var missing []id.EventID
	for _, e := range ask {
		p := found[e]
		if p == nil {
			missing = append(missing, e)
			continue
		}
		if err := a.add(e, p); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return &MissingError{missing}
	}
	return nil
}

func (a *arena) add(e id.EventID, p *event.PDU) error {
	if a.room == "" {
		a.room = p.RoomID()
	}
	if p.RoomID() != a.room {
		return fmt.Errorf("event %s belongs to another room, %s", e, p.RoomID())
	}
	n := node{pdu: p}
	if a.in.Generation != nil {
		gen, ok := a.in.Generation(e)
		if !ok {
			return fmt.Errorf("event %s has no generation", e)
		}
		n.gen = gen
	}
	a.index[e] = int32(len(a.nodes))
	a.nodes = append(a.nodes, n)
	return nil
}

// link loads the auth events of the given nodes, in one batch.
func (a *arena) link(list []int32) error {
	var ids []id.EventID
	for _, n := range list {
		if !a.nodes[n].linked {
			ids = append(ids, a.nodes[n].pdu.AuthEvents()...)
		}
	}
	if err := a.load(ids); err != nil {
		return err
	}
	for _, n := range list {
		at := &a.nodes[n]
		if at.linked {
			continue
		}
		events := at.pdu.AuthEvents()
		at.auth = make([]int32, len(events))
		for i, e := range events {
			m := a.index[e]
			at.auth[i] = m
			if a.in.Generation != nil && a.nodes[m].gen >= at.gen {
				return fmt.Errorf("%w, or the generations of %s and its auth event %s are out of order", errCycle, at.pdu.ID(), e)
			}
		}
		at.linked = true
	}
	return nil
}

// prepare makes sure that the generation of everything in the chains of the given nodes is known.
// With Input.Generation there is nothing to do, else it loads the chains to their ends.
func (a *arena) prepare(list []int32) error {
	if a.in.Generation != nil {
		return nil
	}
	wave := list
	for len(wave) > 0 {
		if err := a.link(wave); err != nil {
			return err
		}
		var next []int32
		for _, n := range wave {
			for _, m := range a.nodes[n].auth {
				if !a.nodes[m].linked {
					next = append(next, m)
				}
			}
		}
		wave = next
	}
	return a.number(list)
}

// number gives every node in the chains of the list its generation.
func (a *arena) number(list []int32) error {
	type frame struct {
		node int32
		next int
	}
	var stack []frame
	for _, start := range list {
		if a.nodes[start].colour == 2 {
			continue
		}
		a.nodes[start].colour = 1
		stack = append(stack[:0], frame{node: start})
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			at := &a.nodes[top.node]
			if top.next == len(at.auth) {
				at.colour = 2
				stack = stack[:len(stack)-1]
				continue
			}
			m := at.auth[top.next]
			switch child := &a.nodes[m]; child.colour {
			case 2:
				at.gen = max(at.gen, child.gen+1)
				top.next++
			case 1:
				return fmt.Errorf("%w: %s", errCycle, child.pdu.ID())
			default:
				child.colour = 1
				stack = append(stack, frame{node: m})
			}
		}
	}
	return nil
}

// nodesOf returns the nodes of loaded events.
func (a *arena) nodesOf(ids []id.EventID) []int32 {
	list := make([]int32, len(ids))
	for i, e := range ids {
		list[i] = a.index[e]
	}
	return list
}
