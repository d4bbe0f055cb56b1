package stateres

// v2 is the algorithm of room versions 2 to 11, and with v21 that of version 12.
//
// Spec: rooms/v2 Algorithm, rooms/v12 Algorithm
func (r *resolution) v2(v21 bool) error {
	if err := r.loadConflicts(); err != nil {
		return err
	}
	if err := r.loadCreate(); err != nil {
		return err
	}
	chosen, err := r.fullConflictedSet(v21)
	if err != nil {
		return err
	}
	if err := r.link(chosen); err != nil {
		return err
	}

	// Step 1.
	power, others := r.divide(chosen)
	// Step 2. v2.1 starts from an empty state.
	base := !v21
	if err := r.applyAuthorised(r.powerOrder(power), base); err != nil {
		return err
	}
	// Step 3.
	levels, ok := r.state[powerLevelsKey]
	if !ok {
		levels = -1
		if base {
			if levels, err = r.baseNode(powerLevelsKey); err != nil {
				return err
			}
		}
	}
	ordered, err := r.mainlineOrder(others, levels)
	if err != nil {
		return err
	}
	// Step 4. Step 5 is in result.
	return r.applyAuthorised(ordered, base)
}

// divide splits the full conflicted set into X, the power events with what they rest on, and the rest.
//
// Deviates: rooms/v2 Algorithm (see the package comment)
//
// Spec: rooms/v2 Algorithm, step 1
func (r *resolution) divide(chosen []int32) (power, others []int32) {
	for _, n := range chosen {
		if isPower(r.nodes[n].pdu) {
			r.nodes[n].flags |= inPower
			power = append(power, n)
		}
	}
	for i := 0; i < len(power); i++ {
		for _, m := range r.nodes[power[i]].auth {
			if at := &r.nodes[m]; at.flags&inChosen != 0 && at.flags&inPower == 0 {
				at.flags |= inPower
				power = append(power, m)
			}
		}
	}
	for _, n := range chosen {
		if r.nodes[n].flags&inPower == 0 {
			others = append(others, n)
		}
	}
	return power, others
}
