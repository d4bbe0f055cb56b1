package account

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// What this package caches may change: who a token belongs to, and whom a user ignores. Each change
// writes rows (position, kind, key) into cache_changes in its own transaction. A node drops what they name
//
//   - when its bus hands it the entries of the commit, before the writer is answered if the commit
//     was made on this node;
//   - at the next use after its bus told of a commit of another node: it reads the rows, though not
//     more often than every foreignEvery;
//   - at the next use after it has not read the rows for recheckEvery. That is the proof: with all hints
//     lost a cached value is at most that much older than the database.
//
// A value that was read before a change and arrives after it must not enter the cache: see cacheGate.
const (
	recheckEvery = 10 * time.Second
	foreignEvery = 100 * time.Millisecond
	// keepChanges is how long rows stay in cache_changes. A node that slept longer
	// forgets everything instead of reading them.
	keepChanges = 24 * time.Hour

	cachedTokens  = 100_000
	cachedIgnores = 20_000
)

// cacheKind tells the kinds of keys in cache_changes apart. They are stored.
type cacheKind int64

const (
	cacheToken   cacheKind = 1 // key: hash of an access token
	cacheIgnored cacheKind = 2 // key: user ID
)

type cacheKey struct {
	kind cacheKind
	key  string
}

// StaleCaches is the Data of bus entries of the kinds TokenRevoked and UserChanged: what the caches of
// this package must forget.
type StaleCaches struct{ keys []cacheKey }

// cacheGate holds the caches and the door that values enter them by.
type cacheGate struct {
	tokens  *otter.Cache[string, *session]
	ignored *otter.Cache[id.UserID, map[id.UserID]struct{}]

	// mu guards the fields below, and with them the order of entering and dropping: a value enters only
	// if nothing was dropped since its reading began.
	mu      sync.RWMutex
	epoch   uint64    // counts drops
	applied sqldb.Pos // changes up to here have been dropped
	checked time.Time // when cache_changes was last read
	reading bool      // somebody is reading it
	foreign bool      // another node has committed since
}

func (g *cacheGate) open() {
	g.tokens = otter.Must(&otter.Options[string, *session]{MaximumSize: cachedTokens})
	g.ignored = otter.Must(&otter.Options[id.UserID, map[id.UserID]struct{}]{MaximumSize: cachedIgnores})
}

// begin is called before the database is read; its result goes to enter.
func (g *cacheGate) begin() uint64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.epoch
}

// enter runs set unless something was dropped since begin.
func (g *cacheGate) enter(epoch uint64, set func()) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.epoch == epoch {
		set()
	}
}

func (g *cacheGate) drop(keys []cacheKey) {
	if len(keys) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.epoch++
	for _, k := range keys {
		switch k.kind {
		case cacheToken:
			g.tokens.Invalidate(k.key)
		case cacheIgnored:
			g.ignored.Invalidate(id.UserID(k.key))
		}
	}
}

func (g *cacheGate) dropAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.epoch++
	g.tokens.InvalidateAll()
	g.ignored.InvalidateAll()
}

var (
	sqlCacheChanges = sqldb.SQL(`SELECT pos, kind, key FROM cache_changes WHERE pos > $1 ORDER BY pos`)

	sqlAddCacheChange = sqldb.SQL(`INSERT INTO cache_changes (pos, kind, key, at) VALUES ($1, $2, $3, $4) ON CONFLICT (pos, kind, key) DO NOTHING`)

	sqlSweepCacheChanges = sqldb.SQL(`DELETE FROM cache_changes WHERE at < $1`)
)

func (a *Accounts) startCaches(ctx context.Context) error {
	if a.cfg.Bus != nil {
		_, a.unsubscribe = a.cfg.Bus.Subscribe(a.follow)
	}
	last, err := a.db.Last(ctx)
	if err != nil {
		return err
	}
	a.gate.mu.Lock()
	defer a.gate.mu.Unlock()
	a.gate.applied, a.gate.checked = last, time.Now()
	return nil
}

// follow drops what the entries of a range made stale, and notes that there are ranges whose
// entries it does not know.
func (a *Accounts) follow(r bus.Range) {
	if r.Foreign {
		a.gate.mu.Lock()
		a.gate.foreign = true
		a.gate.mu.Unlock()
		return
	}
	for _, e := range r.Entries {
		switch d := e.Data.(type) {
		case *StaleCaches:
			a.gate.drop(d.keys)
		case *Datum:
			if d.Type == TypeIgnored {
				a.gate.drop([]cacheKey{{cacheIgnored, string(e.User)}})
			}
		}
	}
}

// CatchUp reads what other nodes changed and drops it. It returns at once where another call is at it.
func (a *Accounts) CatchUp(ctx context.Context) error {
	g := &a.gate
	g.mu.Lock()
	if g.reading {
		g.mu.Unlock()
		return nil
	}
	g.reading, g.foreign = true, false
	from, asleep := g.applied, time.Since(g.checked)
	g.mu.Unlock()

	start := time.Now()
	var keys []cacheKey
	to := from
	err := a.db.Read(ctx, func(tx *sqldb.Tx) error {
		keys = keys[:0]
		return tx.Query(sqlCacheChanges, func(r *sqldb.Row) error {
			var k cacheKey
			if err := r.Scan(&to, &k.kind, &k.key); err != nil {
				return err
			}
			keys = append(keys, k)
			return nil
		}, from)
	})
	switch {
	case err != nil:
	case asleep > keepChanges/2:
		g.dropAll()
	default:
		g.drop(keys)
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	g.reading = false
	if err != nil {
		g.foreign = true
		return fmt.Errorf("read cache changes: %w", err)
	}
	g.applied, g.checked = to, start
	return nil
}

// recheck makes sure that the caches are not older than recheckEvery.
func (a *Accounts) recheck(ctx context.Context) error {
	a.gate.mu.RLock()
	since := time.Since(a.gate.checked)
	due := since > recheckEvery || a.gate.foreign && since > foreignEvery
	a.gate.mu.RUnlock()
	if !due {
		return nil
	}
	return a.CatchUp(ctx)
}

// changes is a write transaction's position and what it makes stale.
type changes struct {
	pos  sqldb.Pos
	keys []cacheKey
}

// errUnchanged ends a change that has nothing to do. The transaction leaves no trace.
var errUnchanged = errors.New("nothing to change")

// change runs fn in a write transaction and drops from this node's caches what it made stale, even
// where there is no bus.
//
// The transaction takes its position before fn reads anything. That keeps every other node that takes a
// position waiting, so what fn reads is current until it has written. All its effects share the position.
func (a *Accounts) change(ctx context.Context, fn func(tx *sqldb.Tx, c *changes) error) error {
	var c changes
	err := a.db.Write(ctx, func(tx *sqldb.Tx) error {
		pos, err := tx.Pos()
		if err != nil {
			return err
		}
		c = changes{pos: pos} // fn may run more than once
		return fn(tx, &c)
	})
	// Drop after a failure too: the outcome may be unknown.
	a.gate.drop(c.keys)
	if err == errUnchanged {
		return nil
	}
	return err
}

// stale records keys that this transaction makes stale.
func (c *changes) stale(tx *sqldb.Tx, kind cacheKind, keys []string) *StaleCaches {
	list := make([]cacheKey, len(keys))
	at := now()
	for i, k := range keys {
		list[i] = cacheKey{kind, k}
		tx.Queue(sqlAddCacheChange, c.pos, kind, k, at)
	}
	c.keys = append(c.keys, list...)
	return &StaleCaches{list}
}

// revoked records access tokens that this transaction has deleted or expired.
func (c *changes) revoked(tx *sqldb.Tx, user id.UserID, device id.DeviceID, hashes []string) {
	if len(hashes) == 0 {
		return
	}
	e := entry(c.pos, bus.TokenRevoked, user, c.stale(tx, cacheToken, hashes))
	e.Device = device
	tx.Emit(e)
}

// flagged records that what a user's tokens say has changed.
func (c *changes) flagged(tx *sqldb.Tx, user id.UserID) error {
	hashes, err := stringsOf(tx, sqlTokensOfUser, user)
	if err != nil {
		return fmt.Errorf("list tokens of %s: %w", user, err)
	}
	tx.Emit(entry(c.pos, bus.UserChanged, user, c.stale(tx, cacheToken, hashes)))
	return nil
}

// stringsOf collects the only column of a query.
func stringsOf(tx *sqldb.Tx, stmt *sqldb.Stmt, args ...any) ([]string, error) {
	var list []string
	err := tx.Query(stmt, func(r *sqldb.Row) error {
		var s string
		if err := r.Scan(&s); err != nil {
			return err
		}
		list = append(list, s)
		return nil
	}, args...)
	return list, err
}
