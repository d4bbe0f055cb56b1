package sqldb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Pos is a position in the one stream of everything that clients can observe. The first is 1; 0 is before all.
type Pos int64

// Dialect names an engine.
type Dialect uint8

const (
	SQLite Dialect = iota
	PostgreSQL
)

func (d Dialect) String() string {
	if d == PostgreSQL {
		return "PostgreSQL"
	}
	return "SQLite"
}

// Config says which database to open and whom to tell about commits.
type Config struct {
	// URL is "sqlite:<path of the file>" or "postgres://…" (also "postgresql://…").
	URL string

	// Readers is the number of concurrent read transactions. 0 means four, or twice the processors if that is more.
	Readers int

	// Log receives what an operator should know: lost connections, retries, weak settings. nil discards.
	Log *slog.Logger

	// Committed is called by the committer after each transaction that assigned positions or emitted entries, in commit
	// order, after the fsync, before any writer of the transaction is answered. It must not block or call the database.
	Committed func(Commit)

	// Notify is the PostgreSQL channel on which each transaction that assigns positions announces "from to" to other nodes
	// (NOTIFY within the transaction). Empty: no announcements. SQLite ignores it.
	Notify string

	// Metrics registers the package's collectors; nil keeps them private.
	Metrics prometheus.Registerer
}

// Commit is what one transaction did: it assigned the positions From+1 to To and emitted Entries, in order.
type Commit struct {
	From, To Pos
	Entries  []any
}

// ErrClosed is returned by every operation after Close.
var ErrClosed = errors.New("sqldb: the database is closed")

// ErrUnknownOutcome is returned to writers when the connection broke during COMMIT and the database could not be asked
// afterwards whether the transaction took place.
var ErrUnknownOutcome = errors.New("sqldb: the connection broke during commit: it is unknown whether the write took place")

// DB is an open database. All methods may be called from any goroutine.
type DB struct {
	engine    engine
	dialect   Dialect
	log       *slog.Logger
	metrics   *metrics
	committer *committer
	node      string // random; marks our announcements

	mu      sync.Mutex // guards ids, closed
	ids     map[string]*IDs
	closed  bool
	reading sync.WaitGroup // read transactions under way; Add only under mu
}

// engine makes connections of one kind of database.
type engine interface {
	writer(ctx context.Context) (session, error)
	reader(ctx context.Context) (session, error) // blocks while all are in use
	release(session)
	close()
}

// session is one connection. It is used by one goroutine at a time.
type session interface {
	// run executes what was queued, then s, calling each for every row. It returns the number of rows changed or read.
	run(ctx context.Context, s *Stmt, args []any, each func(*Row) error) (int64, error)
	// queue takes a statement whose result nobody needs. It may be executed at once or with the next run or flush.
	queue(ctx context.Context, s *Stmt, args []any) error
	// ask is like queue, but calls each for every row of the result, before the next flush has returned.
	ask(ctx context.Context, s *Stmt, args []any, each func(*Row) error) error
	// flush executes what was queued.
	flush(ctx context.Context) error
	// broken reports that the connection, and with it any open transaction, is gone.
	broken() bool
	close()
}

// Open opens the database, creates its own tables if they are missing, and starts the committer.
func Open(ctx context.Context, c Config) (*DB, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Readers <= 0 {
		c.Readers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	db := &DB{log: c.Log, metrics: newMetrics(c.Metrics), node: rand.Text(), ids: make(map[string]*IDs)}
	var err error
	scheme, path, _ := strings.Cut(c.URL, ":")
	switch {
	case scheme == "sqlite" && path != "":
		db.dialect = SQLite
		db.engine, err = openSQLite(path, c.Readers)
	case scheme == "postgres" || scheme == "postgresql":
		db.dialect = PostgreSQL
		db.engine, err = openPostgres(ctx, c.URL, c.Readers, c.Log)
	default:
		err = errors.New(`the database must be given as "sqlite:<path>" or "postgres://…"`)
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.committer = newCommitter(db, c)
	// The goroutine ends when Close closes the committer, and Close waits for it.
	go db.committer.loop()
	if err := db.Migrate(ctx, ownMigrations...); err != nil {
		db.Close()
		return nil, fmt.Errorf("open database: %w", err)
	}
	return db, nil
}

// Close commits what is queued, waits for readers, and closes every connection. Later calls do nothing.
func (db *DB) Close() error {
	db.mu.Lock()
	was := db.closed
	db.closed = true
	db.mu.Unlock()
	if was {
		return nil
	}
	db.committer.close()
	db.reading.Wait()
	db.engine.close()
	return nil
}

// Dialect says which engine this is. Few should ask.
func (db *DB) Dialect() Dialect { return db.dialect }

// Read runs fn in one read-only transaction: all it reads is one consistent state. Reads run concurrently with each other and
// with writes. The context is checked before each statement and between rows. fn runs again if its connection turns out to be dead
// before it has seen a result.
func (db *DB) Read(ctx context.Context, fn func(tx *Tx) error) error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return ErrClosed
	}
	db.reading.Add(1)
	db.mu.Unlock()
	defer db.reading.Done()

	start := time.Now()
	defer func() { db.metrics.readSeconds.Observe(time.Since(start).Seconds()) }()
	for attempt := 0; ; attempt++ {
		again, err := db.readOnce(ctx, fn)
		if !again || attempt == staleReaders {
			return err
		}
	}
}

// staleReaders is how many idle connections in a row a read may find dead, after a restart of the server for instance.
const staleReaders = 8

// readOnce reports that a read can be run again: its connection turned out to be dead before fn had seen anything.
func (db *DB) readOnce(ctx context.Context, fn func(tx *Tx) error) (again bool, err error) {
	sess, err := db.engine.reader(ctx)
	if err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	defer db.engine.release(sess)
	db.metrics.reads.Add(1)
	tx := &Tx{state: &txState{db: db, ctx: ctx, sess: sess}}
	if err := sess.queue(ctx, stmtBeginRead, nil); err != nil {
		return sess.broken() && ctx.Err() == nil, fmt.Errorf("begin read: %w", err)
	}
	ended := false
	defer func() {
		if tx.done = true; !ended { // fn panicked
			_, _ = sess.run(ctx, stmtRollback, nil, nil)
		}
	}()
	err = fn(tx)
	ended = true
	if tx.state.err != nil {
		return sess.broken() && !tx.state.seen && ctx.Err() == nil, tx.state.err
	}
	if _, end := sess.run(ctx, stmtRollback, nil, nil); end != nil && err == nil {
		err = fmt.Errorf("end read: %w", end)
	}
	return false, err
}

// Write runs fn in the next group commit, in a savepoint of its own, and returns after the fsync. An error of fn is returned
// as it is and undoes only fn. fn may run several times. If ctx ends before the committer took fn, Write returns ctx.Err() and fn
// never runs; afterwards Write waits for the outcome so that what it returns is true. A panic of fn is raised again here, as a
// *PanicError.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx) error) error {
	it := newItem(nil, nil)
	it.fn = fn
	db.committer.submit(it)
	return it.ticket.Wait(ctx)
}

// Last returns the last position that was assigned: everything up to it is visible to a Read that begins now.
func (db *DB) Last(ctx context.Context) (pos Pos, err error) {
	err = db.Read(ctx, func(tx *Tx) error {
		pos, err = tx.Last()
		return err
	})
	return pos, err
}

// Prepare prepares statements without executing them, to find out whether they are valid in this database.
func (db *DB) Prepare(ctx context.Context, stmts ...*Stmt) error {
	sess, err := db.engine.reader(ctx)
	if err != nil {
		return err
	}
	defer db.engine.release(sess)
	var errs []error
	for _, s := range stmts {
		var err error
		switch sess := sess.(type) {
		case *sqliteSession:
			_, err = sess.prepare(s)
		case *pgSession:
			_, err = sess.prepare(ctx, s)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("prepare on %s: %w\n\tin: %s", db.dialect, err, s.Text(db.dialect)))
		}
	}
	return errors.Join(errs...)
}
