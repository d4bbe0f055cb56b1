package syncer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

const (
	// maxConnections bounds the connections of a device; the one that was unused for longest gives way.
	maxConnections = 16
	// maxSteps is after how many changes a connection's rows become one.
	maxSteps = 24
	// keptLedgers is how many versions of a connection are kept in memory.
	keptLedgers = 3
	// connectionBytes bounds the memory for connections; one that fell out is read again.
	connectionBytes = 128 << 20
	// connectionLife is how long a connection may be unused, noteUse how exactly that is known.
	connectionLife = 30 * 24 * time.Hour
	noteUse        = 24 * time.Hour
	sweepAtOnce    = 500
)

// errUnknownPos makes a client begin a new connection.
//
// MSC4186: Connections
var errUnknownPos = mxerr.New(mxerr.CodeUnknownPos, "The position is not known, or not any more: sync again from the start.")

type connKey struct {
	user   id.UserID
	device id.DeviceID
	name   string
}

// connection is what memory holds of a connection.
type connection struct {
	key connKey

	mu      sync.Mutex // guards all below
	nid     int64
	used    int64     // as the database has it
	ledgers []*ledger // the newest last
	memo    *memo
	members introduced
}

// place is what the token of sliding sync says.
type place struct {
	pos     sqldb.Pos
	nid     int64
	version int64
	// answer tells answers with the same version apart.
	answer int64
}

// String returns the token as clients see it. Package view reads its position.
func (p place) String() string {
	b := append(make([]byte, 0, 64), 'c')
	for i, n := range []int64{int64(p.pos), p.nid, p.version, p.answer} {
		if i > 0 {
			b = append(b, '_')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(b)
}

// maxPlaceText bounds a token's length in bytes: four numbers of 64 bits.
const maxPlaceText = 1 + 4*20

// parsePlace reads a token. It returns M_UNKNOWN_POS for what String doesn't make.
func parsePlace(s string) (p place, err error) {
	rest, ok := strings.CutPrefix(s, "c")
	if !ok || len(s) > maxPlaceText {
		return p, errUnknownPos
	}
	parts := strings.Split(rest, "_")
	if len(parts) != 4 {
		return p, errUnknownPos
	}
	var n [4]sqldb.Pos
	for i, part := range parts {
		if n[i], ok = parsePos(part); !ok {
			return p, errUnknownPos
		}
	}
	return place{n[0], int64(n[1]), int64(n[2]), int64(n[3])}, nil
}

func newConnections() *otter.Cache[connKey, *connection] {
	return otter.Must(&otter.Options[connKey, *connection]{
		MaximumWeight: connectionBytes,
		Weigher: func(_ connKey, c *connection) uint32 {
			c.mu.Lock()
			defer c.mu.Unlock()
			n := 1024 + 100*c.members.size()
			for _, l := range c.ledgers {
				n += 100 * l.size() // versions share most of it
			}
			return uint32(min(n, connectionBytes/4))
		},
	})
}

// connect returns the connection that a request goes on with, and the ledger that its token names.
func (s *Syncer) connect(ctx context.Context, q *Sliding) (*connection, *ledger, place, error) {
	key := connKey{q.User, q.Device, q.connID}
	if q.Pos == "" {
		return &connection{key: key}, &ledger{}, place{}, nil
	}
	at, err := parsePlace(q.Pos)
	if err != nil {
		return nil, nil, at, err
	}
	c, ok := s.conns.GetIfPresent(key)
	if ok && c.nid == at.nid {
		if l := c.ledger(at.version); l != nil {
			return c, l, at, nil
		}
	} else {
		c = &connection{key: key, nid: at.nid}
	}
	l, used, err := s.loadLedger(ctx, key, at)
	if err != nil {
		return nil, nil, at, err
	}
	c.mu.Lock()
	c.used = used
	c.ledgers = append(c.ledgers, l)
	c.mu.Unlock()
	s.conns.Set(key, c)
	return c, l, at, nil
}

func (c *connection) ledger(version int64) *ledger {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.ledgers {
		if l.version == version {
			return l
		}
	}
	return nil
}

func (s *Syncer) loadLedger(ctx context.Context, key connKey, at place) (l *ledger, used int64, err error) {
	err = s.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		var nid int64
		found, err := tx.Get(stmtConn, []any{key.user, key.device, key.name}, &nid, &used)
		if err != nil {
			return err
		}
		if !found || nid != at.nid {
			return errUnknownPos
		}
		l = &ledger{}
		return tx.Query(stmtSteps, func(r *sqldb.Row) error {
			var version int64
			var body []byte
			if err := r.Scan(&version, &body); err != nil {
				return err
			}
			marks, texts, err := decodeMarks(body, l.texts)
			if err == nil {
				l = l.with(version, marks, texts)
			}
			return err
		}, nid, at.version)
	})
	if err == nil && l.version != at.version {
		err = errUnknownPos
	}
	if _, known := mxerr.Of(err); err != nil && !known {
		err = fmt.Errorf("load a sliding sync connection: %w", err)
	}
	return l, used, err
}

// save makes an answer's changes durable and returns the ledger that the next request builds on.
func (s *Syncer) save(ctx context.Context, c *connection, base *ledger, marks map[graph.RoomNID]mark, texts []string) (*ledger, error) {
	if len(texts) > maxTexts || base.size() > maxMarks {
		return nil, errUnknownPos
	}
	now := time.Now().UnixMilli()
	if base.version == 0 {
		return s.begin(ctx, c, marks, texts, now)
	}
	c.mu.Lock()
	stale := now-c.used > noteUse.Milliseconds()
	c.mu.Unlock()
	if len(marks) == 0 && len(texts) == len(base.texts) {
		if stale {
			err := s.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error { tx.Queue(stmtTouchConn, c.nid, now); return nil })
			if err != nil {
				return nil, fmt.Errorf("note the use of a sliding sync connection: %w", err)
			}
			c.noteUsed(now)
		}
		return base, nil
	}
	var version int64
	squash := base.steps >= maxSteps
	err := s.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		found, err := tx.Get(stmtVersions, []any{c.nid}, &version)
		if err != nil {
			return err
		}
		if found {
			found, err = tx.Get(stmtStep, []any{c.nid, base.version}, nil)
		}
		if err != nil {
			return err
		}
		if !found {
			return errUnknownPos
		}
		version++
		tx.Queue(stmtDropLater, c.nid, base.version)
		if squash {
			tx.Queue(stmtDropUpTo, c.nid, base.version)
			tx.Queue(stmtInsertStep, c.nid, base.version, encodeMarks(base.all(), base.texts, 0))
		}
		tx.Queue(stmtInsertStep, c.nid, version, encodeMarks(marks, texts, len(base.texts)))
		tx.Queue(stmtUseConn, c.nid, version, now)
		return nil
	})
	if err != nil {
		return nil, wrapSaving(err)
	}
	next := base.with(version, marks, texts)
	if squash {
		next.steps = 2
	}
	c.keep(next, now)
	s.conns.Set(c.key, c) // it weighs more now
	return next, nil
}

func wrapSaving(err error) error {
	if mxerr.Is(err, mxerr.CodeUnknownPos) {
		return err
	}
	return fmt.Errorf("keep a sliding sync connection: %w", err)
}

// begin stores a new connection in the place of one of the same name.
func (s *Syncer) begin(ctx context.Context, c *connection, marks map[graph.RoomNID]mark, texts []string, now int64) (*ledger, error) {
	nid, err := s.cfg.DB.IDs("syncer.connections").Next(ctx)
	if err != nil {
		return nil, wrapSaving(err)
	}
	var gone []string
	err = s.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		var drop []int64
		gone = nil
		kept := 0
		err := tx.Query(stmtConns, func(r *sqldb.Row) error {
			var old int64
			var name string
			if err := r.Scan(&old, &name); err != nil {
				return err
			}
			if name == c.key.name || kept+1 >= maxConnections {
				drop, gone = append(drop, old), append(gone, name)
			} else {
				kept++
			}
			return nil
		}, c.key.user, c.key.device)
		if err != nil {
			return err
		}
		if len(drop) > 0 {
			tx.Queue(stmtDropSteps, drop)
			tx.Queue(stmtDropConns, drop)
		}
		tx.Queue(stmtInsertConn, nid, c.key.user, c.key.device, c.key.name, now)
		tx.Queue(stmtInsertStep, nid, 1, encodeMarks(marks, texts, 0))
		return nil
	})
	if err != nil {
		return nil, wrapSaving(err)
	}
	for _, name := range gone {
		s.conns.Invalidate(connKey{c.key.user, c.key.device, name})
	}
	first := (&ledger{}).with(1, marks, texts)
	c.mu.Lock()
	c.nid = nid
	c.mu.Unlock()
	c.keep(first, now)
	s.conns.Set(c.key, c)
	return first, nil
}

func (c *connection) keep(l *ledger, used int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used = used
	c.ledgers = slices.DeleteFunc(c.ledgers, func(o *ledger) bool { return o.version >= l.version })
	c.ledgers = append(c.ledgers, l)
	if len(c.ledgers) > keptLedgers {
		c.ledgers = slices.Clone(c.ledgers[1:])
	}
}

func (c *connection) noteUsed(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used = now
}

// SweepConnections forgets connections of sliding sync that nobody has used for long.
func (s *Syncer) SweepConnections(ctx context.Context) error {
	before := time.Now().Add(-connectionLife).UnixMilli()
	for {
		var old []int64
		err := s.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
			old = nil
			err := tx.Query(stmtOldConns, func(r *sqldb.Row) error {
				var nid int64
				err := r.Scan(&nid)
				old = append(old, nid)
				return err
			}, before, sweepAtOnce)
			if err != nil || len(old) == 0 {
				return err
			}
			tx.Queue(stmtDropSteps, old)
			tx.Queue(stmtDropConns, old)
			return nil
		})
		if err != nil {
			return fmt.Errorf("sweep sliding sync connections: %w", err)
		}
		if len(old) < sweepAtOnce {
			return nil
		}
	}
}

// newAnswerID returns a number that no other answer of the connection has.
func newAnswerID() int64 { return 1 + rand.Int64N(1<<53) }
