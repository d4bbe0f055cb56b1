package sqldb

import (
	"context"
	"fmt"
	"sync"
)

const (
	firstBlock = 64   // integers in the first block that an IDs reserves
	lastBlock  = 4096 // blocks double up to this
)

var stmtReserve = SQL(`INSERT INTO counters (name, next) VALUES ($1, 1 + $2)
	ON CONFLICT (name) DO UPDATE SET next = counters.next + $2 RETURNING next`)

// IDs gives unique integers, from 1 on, rising within one process. They come from blocks reserved in the database, so they are
// never given twice, not after a restart and not by another node; what is left of a block at the end is lost.
type IDs struct {
	db   *DB
	name string

	mu    sync.Mutex // guards all below; held while a block is reserved
	next  int64      // the next to give
	end   int64      // first that is not ours
	block int64
}

// IDs returns the generator of that name; one per name and DB.
func (db *DB) IDs(name string) *IDs {
	db.mu.Lock()
	defer db.mu.Unlock()
	ids := db.ids[name]
	if ids == nil {
		ids = &IDs{db: db, name: name, block: firstBlock}
		db.ids[name] = ids
	}
	return ids
}

// Next returns the next integer. Mostly it reads memory; now and then it waits for a commit, so never call it inside a Write function.
func (ids *IDs) Next(ctx context.Context) (int64, error) { return ids.NextN(ctx, 1) }

// NextN returns the first of n consecutive integers.
func (ids *IDs) NextN(ctx context.Context, n int) (int64, error) {
	ids.mu.Lock()
	defer ids.mu.Unlock()
	if ids.end-ids.next < int64(n) {
		if err := ids.reserve(ctx, max(ids.block, int64(n))); err != nil {
			return 0, fmt.Errorf("reserve %s: %w", ids.name, err)
		}
		ids.block = min(2*ids.block, lastBlock)
	}
	first := ids.next
	ids.next += int64(n)
	return first, nil
}

func (ids *IDs) reserve(ctx context.Context, block int64) error {
	var end int64
	err := ids.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Get(stmtReserve, []any{ids.name, block}, &end)
		return err
	})
	if err != nil {
		return err
	}
	if end-block != ids.end { // not adjacent to what is left
		ids.next = end - block
	}
	ids.end = end
	return nil
}
