package appservice

import (
	"sort"
	"sync"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
)

const (
	// maxFeed bounds the entries of the stream that wait in memory. Beyond, the database is read.
	maxFeed = 8192
	// maxTaken bounds how many are looked at for one transaction.
	maxTaken = 1000
)

// feed is the newest part of the stream, for all application services together.
type feed struct {
	mu      sync.Mutex // guards all below
	begun   bool
	since   sqldb.Pos // entries after it are here
	told    sqldb.Pos // up to it
	entries []bus.Entry
}

// listen collects entries until cancel is called.
func listen(b *bus.Bus) (f *feed, cancel func()) {
	f = &feed{}
	from, cancel := b.Subscribe(f.hear)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begun = true; f.told == 0 {
		f.since, f.told = from, from
	}
	return f, cancel
}

// carries reports whether entries of a kind may concern application services.
func carries(k bus.Kind) bool {
	switch k {
	case bus.RoomEvent, bus.Membership, bus.Receipt, bus.Typing, bus.Presence, bus.ToDevice, bus.DeviceListLocal, bus.DeviceListRemote, bus.OneTimeKeys:
		return true
	}
	return false
}

func (f *feed) hear(r bus.Range) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Foreign {
		f.since, f.told, f.entries = r.To, r.To, nil
		return
	}
	if f.told == 0 && !f.begun {
		f.since = r.From
	}
	f.told = max(f.told, r.To)
	for _, e := range r.Entries {
		if e.Pos == 0 || !carries(e.Kind) {
			continue
		}
		if len(f.entries) >= maxFeed {
			half := len(f.entries) / 2
			f.since = f.entries[half-1].Pos
			f.entries = append(f.entries[:0:0], f.entries[half:]...)
		}
		f.entries = append(f.entries, e)
	}
}

// after returns entries at positions after from, up to last, and up to where these are all. It returns false where they aren't all here.
func (f *feed) after(from, last sqldb.Pos) (found []bus.Entry, to sqldb.Pos, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if from < f.since || last > f.told {
		return nil, 0, false
	}
	i := sort.Search(len(f.entries), func(i int) bool { return f.entries[i].Pos > from })
	for _, e := range f.entries[i:] {
		if e.Pos > last {
			break
		}
		if len(found) >= maxTaken && e.Pos > to {
			return found, to, true
		}
		found, to = append(found, e), e.Pos
	}
	return found, last, true
}
