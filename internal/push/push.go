package push

// Push counts what users have not read, and tells their devices. It is safe for concurrent use.
type Push struct{}
