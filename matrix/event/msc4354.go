package event

import (
	"strconv"

	"myelin/matrix/canon"
)

// MaxSticky is how long an event sticks at most, in milliseconds.
//
// MSC4354: Sticky events. The field has its unstable name until the proposal is accepted.
const (
	MaxSticky   = int64(3_600_000)
	stickyField = "msc4354_sticky"
)

// stickyFor reads for how long an event sticks; what isn't an integer in the range that is allowed means nothing.
func stickyFor(value []byte) int64 {
	raw, ok := canon.Get(value, "duration_ms")
	if !ok || len(value) == 0 || value[0] != '{' {
		return 0
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < 0 || n > MaxSticky {
		return 0
	}
	return n
}

// Sticky returns for how many milliseconds the event sticks; 0 for most.
//
// MSC4354: Sticky events
func (p *PDU) Sticky() int64 { return p.sticky }

// StickyUntil returns when an event that was received at a time ends to stick, in milliseconds since the epoch; 0 for one that doesn't. Whoever
// says that an event is from the future gains nothing.
//
// MSC4354: Sticky events
func (p *PDU) StickyUntil(received int64) int64 {
	if p.sticky == 0 {
		return 0
	}
	return min(received, p.ts) + p.sticky
}

func appendSticky(dst []byte, ms int64) []byte {
	return append(strconv.AppendInt(append(dst, `{"duration_ms":`...), ms, 10), '}')
}
