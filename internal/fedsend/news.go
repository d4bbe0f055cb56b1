package fedsend

import (
	"sync"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
)

// maxNews bounds the entries of the stream that wait in memory. Beyond, the database is read.
const maxNews = 8192

// news keeps entries of the stream, so that what this node wrote needs no database to be sent.
type news struct {
	want func(bus.Entry) bool

	mu      sync.Mutex // guards all below
	begun   bool
	since   sqldb.Pos // entries after it are here
	told    sqldb.Pos // up to it
	entries []bus.Entry
}

// listen collects entries that want accepts until cancel is called.
func listen(b *bus.Bus, want func(bus.Entry) bool) (n *news, cancel func()) {
	n = &news{want: want}
	from, cancel := b.Subscribe(n.hear)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.begun = true
	n.since, n.told = max(n.since, from), max(n.told, from)
	return n, cancel
}

func (n *news) hear(r bus.Range) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = max(n.told, r.To)
	if r.Foreign {
		n.since, n.entries = r.To, nil
		return
	}
	if !n.begun && n.since == 0 {
		n.since = r.From
	}
	for _, e := range r.Entries {
		if e.Pos == 0 || !n.want(e) {
			continue
		}
		if len(n.entries) >= maxNews {
			half := len(n.entries) / 2
			n.since = n.entries[half-1].Pos
			n.entries = append(n.entries[:0:0], n.entries[half:]...)
		}
		n.entries = append(n.entries, e)
	}
}

// take returns the entries at positions in (from, to], and false where they aren't all here. Those up to to are forgotten.
func (n *news) take(from, to sqldb.Pos) (found []bus.Entry, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ok = from >= n.since && to <= n.told
	i := 0
	for ; i < len(n.entries) && n.entries[i].Pos <= to; i++ {
		if n.entries[i].Pos > from {
			found = append(found, n.entries[i])
		}
	}
	if n.entries = n.entries[i:]; len(n.entries) == 0 {
		n.entries = nil
	}
	if to > n.since && to <= n.told {
		n.since = to
	}
	return found, ok
}
