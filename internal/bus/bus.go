package bus

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Kind says what an entry is about, and thereby what its Data holds.
type Kind uint8

const (
	RoomEvent          Kind = iota + 1 // Room; User is the state key of a member event; Data is a *graph.Event
	AccountData                        // User; Data is the type. Room is 0 for global data
	Receipt                            // Room, User
	Typing                             // Room
	Presence                           // User
	ToDevice                           // User and Device it is for
	DeviceListLocal                    // User of ours whose devices or keys changed
	DeviceListRemote                   // User of another server whose devices or keys changed
	OneTimeKeys                        // User and Device whose number of one-time keys changed
	ProfileChanged                     // User
	UserChanged                        // User: flags of the account, such as locked or deactivated
	TokenRevoked                       // User and Device, or all devices when Device is empty
	Membership                         // Room, User: a membership that changed without an event of ours, such as an invite from elsewhere
	DirectoryChange                    // Room: an alias or the visibility in a directory
	ServerNews                         // what a remote server sent that is neither of the above; Data says what
	Outbox                             // User: something of theirs waits for other servers, which Data names
	ThreadSubscription                 // Room, User who follows a thread, or no longer does
	Appservices                        // the registrations of application services changed
	PushDue                            // User who set a pusher; without a position: something waits to be told to push gateways
)

// Entry is one thing that happened, for those who want to know at once.
type Entry struct {
	Pos    sqldb.Pos // 0: has no place in the stream and is told to this node only
	Kind   Kind
	Room   int64 // graph.RoomNID; 0 if it is not about a room
	User   id.UserID
	Device id.DeviceID
	Data   any
}

// Range is a piece of the stream: the positions From+1 to To.
type Range struct {
	From, To sqldb.Pos
	Entries  []Entry // in order; shared by all subscribers, not to be changed
	Foreign  bool    // written by another node, or before we listened: Entries is empty and the database has to be read
}

// Config configures a Bus.
type Config struct {
	Log *slog.Logger // nil discards
}

// Channel is the PostgreSQL channel for hints between nodes: give it to sqldb.Config.Notify.
const Channel = "myelin_stream"

// Bus fans the stream out within this process.
type Bus struct {
	log *slog.Logger

	mu    sync.Mutex // guards all below; held while subscribers run
	last  sqldb.Pos
	grown chan struct{} // closed and replaced when last grows
	subs  []*subscriber
}

type subscriber struct{ fn func(Range) }

// New makes a Bus. Its Committed method goes into sqldb.Config.Committed; once the database is open, Follow connects it to the
// other nodes.
func New(c Config) *Bus {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Bus{log: c.Log, grown: make(chan struct{})}
}

// Committed takes a commit of this node's database.
func (b *Bus) Committed(c sqldb.Commit) {
	r := Range{From: c.From, To: c.To}
	for _, e := range c.Entries {
		if entry, ok := e.(Entry); ok {
			r.Entries = append(r.Entries, entry)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.To > c.From {
		b.foreign(c.From)
	}
	if c.To == c.From || c.From < b.last {
		// No positions; or news from the database itself, or of a later commit of another node, came here first and these
		// positions have been told as foreign already. What remains is what no database read would show.
		r.From, r.To = b.last, b.last
		r.Entries = slices.DeleteFunc(r.Entries, func(e Entry) bool { return e.Pos > 0 })
		if len(r.Entries) == 0 {
			return
		}
	}
	b.tell(r)
}

// foreign tells of positions up to to whose entries are not known. Caller holds mu.
func (b *Bus) foreign(to sqldb.Pos) {
	if to > b.last {
		b.tell(Range{From: b.last, To: to, Foreign: true})
	}
}

func (b *Bus) tell(r Range) {
	if r.To > b.last {
		b.last = r.To
		close(b.grown)
		b.grown = make(chan struct{})
	}
	for _, s := range b.subs {
		s.fn(r)
	}
}

// Subscribe has fn called for each Range from now on and returns the position where that begins. After cancel returned fn is
// not called any more.
func (b *Bus) Subscribe(fn func(Range)) (from sqldb.Pos, cancel func()) {
	s := &subscriber{fn}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = append(b.subs, s)
	return b.last, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.subs = slices.DeleteFunc(b.subs, func(o *subscriber) bool { return o == s })
	}
}

// Last returns the last position told.
func (b *Bus) Last() sqldb.Pos {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// Wait returns the last position as soon as it is greater than after, or ctx's error.
func (b *Bus) Wait(ctx context.Context, after sqldb.Pos) (sqldb.Pos, error) {
	for {
		b.mu.Lock()
		last, grown := b.last, b.grown
		b.mu.Unlock()
		if last > after {
			return last, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
	}
}

// Follow reads the current position and listens to the other nodes until ctx ends or the connection fails; it always returns an
// error and is to be called again. What was missed in between comes as a foreign Range.
func (b *Bus) Follow(ctx context.Context, db *sqldb.DB) error {
	fail := error(nil)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := db.Listen(ctx, Channel, func() {
		pos, err := db.Last(ctx)
		if err != nil {
			fail = fmt.Errorf("read the stream's position: %w", err)
			cancel(fail)
			return
		}
		b.heard(pos)
	}, func(a sqldb.Announced) { b.heard(a.To) })
	if fail != nil {
		return fail
	}
	return err
}

func (b *Bus) heard(to sqldb.Pos) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.foreign(to)
}
