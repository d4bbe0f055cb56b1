// Package sqldb is the one way to the database: SQLite (embedded, the default) and PostgreSQL behind one body of SQL.
//
// # Owns
//
// The connections, the transactions, the migrations' record, the stream row (the one sequence of positions) and the
// counters that unique integers come from. Tables: migrations, stream, counters. Every other table belongs to the slice that
// declares it in a [Migration].
//
// # One dialect
//
// A statement is written once, as a package-level variable made by [SQL], with $1, $2, … as placeholders. For SQLite three
// things are rewritten: $n becomes ?n, "= ANY($n)" (of integers or text, not of blobs) becomes "IN (SELECT value FROM json_each(?n))",
// FOR UPDATE is dropped. In
// migrations INTEGER and BIGINT become BIGINT, BLOB becomes BYTEA, TEXT gets the C collation and WITHOUT ROWID is dropped for
// PostgreSQL. What cannot be said in both is an [Escape]; a test counts them. Times are int64 milliseconds, booleans are 0 or 1
// in a BIGINT column. Text with a NUL byte or invalid UTF-8 is refused on both engines ([ErrText]) since PostgreSQL cannot keep it:
// such strings are stored as BLOB.
//
// # Invariants
//
// Acknowledged means durable: [DB.Write] and [Ticket.Wait] return nil only after the transaction that holds the effect is
// fsynced. When it cannot be known whether a transaction was committed (the connection broke while it was) the committer asks the
// database after reconnecting; only if it cannot be asked the error is [ErrUnknownOutcome].
//
// One order: positions come from [Tx.Pos]. The stream row is locked by the first Pos of a transaction and written by its last
// statement, so positions become visible in their order, without gaps that fill later. [Config.Committed] is called in commit
// order, after the fsync and before any writer is answered.
//
// Group commit: one goroutine, the committer, owns the writing connection. It takes everything that is queued (at most maxItems
// items, about maxBytes) into one transaction; no timers. Each Write function runs in a savepoint of its own: its error or panic
// undoes only itself. A statement that fails dooms its Write function even if the function ignores the error (PostgreSQL
// cannot go on, so neither does SQLite): use ON CONFLICT and row counts. Functions may run several times; only the last
// run counts, so they must set, not add to, what they capture. If the transaction as a whole fails, every writer in it gets the error.
//
// Order is kept among the items of one [Batcher] and among Write functions, not between the two.
//
// # Refuses
//
// Calling the database inside a row callback; calling Write, [IDs.Next] or waiting for a [Ticket] inside a Write function
// (deadlock: the committer would wait for itself); Read inside a Read function (deadlock once all readers wait for each other); network or heavy computing inside a transaction; databases written by a
// newer version; files that are not ours; PostgreSQL databases that are not UTF-8.
//
// # Locks
//
// committer.mu guards the queue and is held for list operations only. IDs.mu is held while a block is reserved, that is during one
// Write. Neither is held while a callback of a user runs.
package sqldb
