package stateres

// quirk is a departure from the specification.
type quirk uint

const (
	orderFromTheEnd quirk = 1 << iota
	noLevelsNoPower
	nowhereIsTheEnd
	countSteps
	enlargeByConflictedOnly
	noStandIns
)
