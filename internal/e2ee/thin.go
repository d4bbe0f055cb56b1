package e2ee

import (
	"log/slog"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// What waits for a server that is away is bounded. That devices of a user changed is one row for a user and a server, so there are at most as many as
// users share rooms with it. Messages to devices are one row each, and losing one may cost somebody the key to what they are to read; so
// their number is bounded generously, and who loses something is who sent most: a user who floods a server costs nobody else a message.
const (
	// maxPosted is how many messages may wait on a route: a hundred users who are busy in encrypted rooms make fewer in the month for which they are kept.
	// Beyond, whoever has most of them there loses the oldest, a tenth of all.
	maxPosted = 50_000
	// countEvery is how many messages are posted on a route between two counts.
	countEvery = 500
	// maxCounted bounds the routes whose messages are counted in memory.
	maxCounted = 10_000
)

var (
	stmtCountOutbox  = sqldb.SQL(`SELECT COUNT(*) FROM key_outbox WHERE server = $1 AND origin = $2`)
	stmtCountPosted  = sqldb.SQL(`SELECT COUNT(*) FROM key_outbox WHERE server = $1 AND origin = $2 AND content IS NOT NULL`)
	stmtGreedyPoster = sqldb.SQL(`SELECT sender FROM key_outbox WHERE server = $1 AND origin = $2 AND content IS NOT NULL
		GROUP BY sender ORDER BY COUNT(*) DESC, sender LIMIT 1`)
	stmtThin = sqldb.SQL(`DELETE FROM key_outbox WHERE server = $1 AND origin = $2 AND subject IN
		(SELECT subject FROM key_outbox WHERE server = $1 AND origin = $2 AND sender = $3 AND content IS NOT NULL ORDER BY pos LIMIT $4)`)
)

// thin counts the messages that wait on a route, every now and then, and deletes some where they are too many. Each node counts those that it posts.
func (e *Encryption) thin(tx *sqldb.Tx, r Route) error {
	if !e.due(r) {
		return nil
	}
	var waiting int
	for _, count := range []*sqldb.Stmt{stmtCountOutbox, stmtCountPosted} { // the first reads no more than an index
		if _, err := tx.Get(count, []any{r.Server, r.Origin}, &waiting); err != nil || waiting <= e.mostPosted {
			return err
		}
	}
	var greedy id.UserID
	if _, err := tx.Get(stmtGreedyPoster, []any{r.Server, r.Origin}, &greedy); err != nil {
		return err
	}
	n, err := tx.Exec(stmtThin, r.Server, r.Origin, greedy, max(e.mostPosted/10, waiting-e.mostPosted))
	if err == nil {
		e.log.Warn("messages to devices are lost: too many wait for a server that takes none", slog.String("server", string(r.Server)),
			slog.String("user", string(greedy)), slog.Int64("lost", int64(n)))
	}
	return err
}

// due counts a message that is posted and reports whether it is time to count those that wait.
func (e *Encryption) due(r Route) bool {
	e.postedMu.Lock()
	defer e.postedMu.Unlock()
	n, known := e.posted[r]
	if !known && len(e.posted) >= maxCounted {
		clear(e.posted)
	}
	e.posted[r] = (n + 1) % countEvery
	return n == 0
}
