package graph

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"myelin/internal/graph/statemap"
	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
)

// Ticket is the promise of a commit's outcome.
type Ticket struct {
	t    *sqldb.Ticket
	g    *Graph
	j    *job
	once sync.Once
}

// Done is closed once the outcome is known; Wait then returns at once.
func (t *Ticket) Done() <-chan struct{} { return t.t.Done() }

// Wait returns nil once the commit is durable, ErrConflict, ErrTxn, ErrAnnotated, or another error. If ctx ends before the commit was taken up it is
// withdrawn, and what was built on it will fail with ErrConflict. Somebody must wait for each commit: only then does memory learn of it.
func (t *Ticket) Wait(ctx context.Context) error {
	err := t.t.Wait(ctx)
	t.once.Do(func() {
		if t.j == nil {
			return
		}
		if err == nil {
			t.g.settled(t.j)
		} else {
			t.g.failed(t.j)
		}
		for _, e := range t.j.inserts {
			if e.PDU.IsState() {
				t.g.pending.Delete(e.NID)
			}
		}
	})
	if err != nil && sqldb.IsUnique(err) {
		// Another node stored one of the events, or made the room, in the same moment.
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return err
}

// job is a commit with all that could be computed before the transaction.
type job struct {
	c       *Commit
	room    RoomNID
	base    int64 // the revision that must stand
	keys    *roomKeys
	keysTo  KeyNID
	states  []any // rows of insertStates
	fresh   []*State
	inserts []*Event
	updates []*Event // stored before
	check   []StateNID
	ids     []string // of events that may be stored already
	members []memberChange
	txns    []txnRow
	// relating are the events that relate to others.
	relating []relating
	size     int
	result   *Head // nil for a commit that moves no head
	traits   []any // arguments of setTraits after the room; nil where the room stays what it is
	// What follows belongs to the current run of apply.
	failed  error
	claimed []string // keys of txns
	// annotated are the events whose annotation was claimed.
	annotated []EventNID
	seq       int64
	at        sqldb.Pos // of what changed without an event; 0 until there is such
}

// memberChange is a change of memberships, by an event of the commit or, with nil, by state resolution.
type memberChange struct {
	user       id.UserID
	membership Membership
	old        Membership
	event      EventNID
	by         *Event
	pos        sqldb.Pos // set by apply
}

type txnRow struct {
	key   string
	event EventNID
}

// Size tells the group committer how many bytes the commit has.
func (j *job) Size() int { return j.size }

// Commit queues a commit and returns at once. Commits of one room must be submitted in the order in which their heads follow
// each other.
func (g *Graph) Commit(c *Commit) *Ticket {
	j, err := g.prepare(c)
	if err != nil {
		return &Ticket{t: sqldb.Failed(err), g: g}
	}
	for _, e := range j.inserts {
		if e.PDU.IsState() {
			g.pending.Store(e.NID, e)
		}
	}
	return &Ticket{t: g.commits.Submit(j), g: g, j: j}
}

func (g *Graph) prepare(c *Commit) (*job, error) {
	j := &job{c: c, room: c.Room}
	prevState := (*State)(nil)
	if c.Prev != nil {
		j.base = c.Prev.Rev
		prevState = c.Prev.State
	}
	if n := c.Next; n != nil {
		if n.base != j.base || n.settled {
			return nil, errors.New("graph: the commit's Next was not advanced from its Prev")
		}
		j.room, j.keys, j.check = n.Room, n.State.keys, n.reused
		j.keysTo = j.keys.len()
		for _, s := range n.fresh {
			j.addState(s)
		}
		if j.addMembers(prevState, n.State) {
			j.traits = g.traits(j, n.State)
		}
		// Heads advanced from Next begin a new commit. Only its writer knows Next yet.
		j.fresh, j.result = n.fresh, n.settle()
	}
	for _, e := range c.Rejudged {
		j.size += 100
		e.Room = j.room
	}
	for _, e := range c.Events {
		if err := j.addEvent(e); err != nil {
			return nil, err
		}
	}
	for _, r := range c.Redactions {
		j.size += len(r.Pruned.Raw())
		for _, e := range c.Events {
			if e.NID == r.By {
				e.Pruned = append(e.Pruned, r.Target)
			}
		}
	}
	return j, nil
}

// settle forgets what is only of use to the commit.
func (h *Head) settle() *Head {
	h.settled, h.fresh, h.reused = true, nil, nil
	return h
}

func (j *job) addState(s *State) {
	l := s.chain[len(s.chain)-1]
	delta := encodeDelta(l.delta)
	var full []byte
	if l.step == 0 {
		full = encodeFull(s.m)
		s.chain[len(s.chain)-1].delta = nil // only a comparison across checkpoints needs it, and reads it
	}
	j.states = append(j.states, j.room, l.nid, l.parent, l.step, delta, full)
	j.size += len(delta) + len(full)
}

func (j *job) addEvent(e *Event) error {
	if e.NID == 0 || e.PDU == nil {
		return errors.New("graph: an event of the commit has no PDU or no number")
	}
	if j.c.Next == nil && e.Flags&Outlier == 0 {
		return fmt.Errorf("graph: %s is no outlier: it needs a head", e.PDU.ID())
	}
	e.Room = j.room
	if e.stored {
		j.updates = append(j.updates, e)
	} else {
		j.inserts = append(j.inserts, e)
		if e.Flags&Local == 0 {
			j.ids = append(j.ids, string(e.PDU.ID()))
		}
	}
	if e.Txn.ID != "" {
		j.txns = append(j.txns, txnRow{e.Txn.key(), e.NID})
	}
	if r, ok := relates(e); ok {
		j.relating = append(j.relating, r)
		j.size += 300
	}
	j.size += len(e.PDU.Raw()) + 200
	return nil
}

// addMembers notes how current memberships change. It reports whether what the room is may change, too.
func (j *job) addMembers(old, new *State) (becomes bool) {
	var from statemap.Map
	if old != nil {
		from = old.in(new.keys).m
	}
	var byNID map[EventNID]*Event
	for c := range statemap.Diff(from, new.m) {
		key := new.keys.key(KeyNID(c.Key))
		if key.Type != memberType {
			becomes = becomes || key.StateKey == "" && (key.Type == createType || key.Type == encryptionType)
			continue
		}
		o, n := value(c.Old), value(c.New)
		if byNID == nil {
			byNID = make(map[EventNID]*Event, len(j.c.Events))
			for _, e := range j.c.Events {
				byNID[e.NID] = e
			}
		}
		m := memberChange{user: userOf(key), membership: n.membership(), old: o.membership(), event: n.event(), by: byNID[n.event()]}
		j.members = append(j.members, m)
		j.size += 200
	}
	return becomes
}

// key is 128 bits of a hash, as text. Lengths stand before the parts so that no two references give the same bytes.
func (t TxnRef) key() string {
	var b []byte
	for _, part := range []string{string(t.User), string(t.Device), t.Scope, t.ID} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// stored is the form of a transaction on its event's row.
func (t TxnRef) stored() []byte {
	if t.ID == "" {
		return nil
	}
	return []byte(string(t.Device) + "\x00" + t.ID)
}

// TxnEvent returns the event that a client's transaction made.
func (g *Graph) TxnEvent(ctx context.Context, txn TxnRef) (found id.EventID, ok bool, err error) {
	err = g.db.Read(ctx, func(tx *sqldb.Tx) error {
		ok, err = tx.Get(txnEvent, []any{txn.key()}, &found)
		return err
	})
	return found, ok, wrap(err, "find the event of a transaction")
}

// ReclaimTxns forgets transactions of clients from before a time in milliseconds. Keys are hashes, so equal
// ranges of them are equal shares of the work: each gets a transaction of its own.
func (g *Graph) ReclaimTxns(ctx context.Context, before int64) (int, error) {
	total := 0
	for i := range len(keyDigits) {
		to := "~" // after all digits
		if i+1 < len(keyDigits) {
			to = keyDigits[i+1 : i+2]
		}
		var n int64
		err := g.db.Write(ctx, func(tx *sqldb.Tx) (err error) {
			n, err = tx.Exec(expireTxns, keyDigits[i:i+1], to, before)
			return err
		})
		if err != nil {
			return total, fmt.Errorf("reclaim transactions: %w", err)
		}
		total += int(n)
	}
	return total, nil
}

// keyDigits are the digits of base64's URL alphabet in the order of their bytes.
const keyDigits = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"

func nowMillis() int64 { return time.Now().UnixMilli() }

func userOf(k event.Key) id.UserID { return id.UserID(k.StateKey) }

func wrap(err error, doing string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
