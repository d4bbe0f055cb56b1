package room

import (
	"cmp"
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/matrix/event"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/roomver"
	"myelin/matrix/sign"
)

// Config is everything Rooms needs. All fields without "optional" must be set.
type Config struct {
	Graph *graph.Graph
	Ours  *ours.Set
	Log   *slog.Logger // nil discards
	// DefaultVersion is the room version of new rooms that ask for none.
	DefaultVersion *roomver.Version
	// Profile returns what a user's membership events show. Either may be empty.
	Profile func(context.Context, id.UserID) (Profile, error)
	// Alias resolves a local alias, and false where it does not exist. It is asked
	// whether the aliases of a canonical alias event point to the room.
	Alias func(context.Context, id.RoomAlias) (id.RoomID, bool, error)
	// IsGuest reports whether a local user is a guest.
	IsGuest func(context.Context, id.UserID) (bool, error)
	// MayInvite returns an error of code M_INVITE_BLOCKED or M_FORBIDDEN where a local user
	// doesn't want to be invited by this sender. Optional.
	MayInvite func(ctx context.Context, sender, invitee id.UserID) error
	// AskPolicy asks a room's policy server to sign an event, in the name of a server of ours. What that server says against it is returned
	// as an *mxerr.Error. Nil: rooms count as having no policy server.
	AskPolicy func(ctx context.Context, origin, server id.ServerName, pdu *event.PDU) (map[sign.KeyID]string, error)
	// Succeeded runs in the transaction by which a local user joins a room that replaces another one, and copies
	// what the user keeps for that. It may run several times. Optional.
	Succeeded func(tx *sqldb.Tx, user id.UserID, old, replacement id.RoomID) error
	// MostResolved bounds the events that one state resolution loads. 0: as many as the state and auth chain of a room that may be joined.
	MostResolved int
}

// Profile is the part of a user's profile that is copied into membership events.
type Profile struct {
	DisplayName string
	AvatarURL   string
}

// Rooms is the writer of rooms. It is safe for concurrent use.
type Rooms struct {
	cfg   Config
	lanes *otter.Cache[id.RoomID, *lane]
	// sent holds the newest transactions of clients. That a transaction is applied once is for
	// the graph to see; here it only saves the attempt.
	sent *otter.Cache[graph.TxnRef, id.EventID]
	// policies remembers which rooms' policy servers take part.
	policies *otter.Cache[graph.RoomNID, participation]
	// asks holds a slot for each question under way about received events, by policy server, and asking for all of them. tardy remembers policy
	// servers that were slow, with the time.
	asks   *otter.Cache[id.ServerName, chan struct{}]
	asking chan struct{}
	tardy  *otter.Cache[id.ServerName, time.Time]
	// coverages helps state resolution.
	coverages *otter.Cache[graph.RoomNID, *coverage]
	// resolvable bounds state resolution; resolving holds a slot for each large one under way.
	resolvable resolvable
	resolving  chan struct{}
	// lastCreation is the time of the newest room made here, in milliseconds.
	lastCreation atomic.Int64
}

// maxLanes bounds the heads kept in memory. An evicted lane is loaded again on demand.
const maxLanes = 20_000

// maxSent bounds the transactions of clients kept in memory.
const maxSent = 20_000

// maxPolicies bounds the rooms with policy servers of which it is remembered whether these take part.
const maxPolicies = 1000

// New returns a writer over the graph.
func New(cfg Config) *Rooms {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Rooms{
		cfg:       cfg,
		lanes:     otter.Must(&otter.Options[id.RoomID, *lane]{MaximumSize: maxLanes}),
		sent:      otter.Must(&otter.Options[graph.TxnRef, id.EventID]{MaximumSize: maxSent}),
		policies:  otter.Must(&otter.Options[graph.RoomNID, participation]{MaximumSize: maxPolicies}),
		asks:      otter.Must(&otter.Options[id.ServerName, chan struct{}]{MaximumSize: maxSlow}),
		asking:    make(chan struct{}, maxAsks),
		tardy:     otter.Must(&otter.Options[id.ServerName, time.Time]{MaximumSize: maxSlow}),
		coverages: newCoverages(),

		resolvable: resolvable{events: cmp.Or(cfg.MostResolved, maxResolved), large: largeResolved, bytes: maxResolvedBytes},
		resolving:  make(chan struct{}, largeAtOnce()),
	}
}

// Head returns the newest durable head of a room.
// It returns M_NOT_FOUND for a room this server has no part in.
func (r *Rooms) Head(ctx context.Context, room id.RoomID) (*graph.Head, error) {
	return r.cfg.Graph.Head(ctx, room)
}

// now is the server's clock, in milliseconds since the epoch, as written into events.
func now() int64 { return time.Now().UnixMilli() }

// signer returns the domain and the key that a local user's events are signed with.
func (r *Rooms) signer(user id.UserID) (id.ServerName, sign.Key, error) {
	domain := user.Domain()
	key, ok := r.cfg.Ours.Key(domain)
	if !ok {
		return "", sign.Key{}, mxerr.Forbidden("%s is not a user of this server", user)
	}
	return domain, key, nil
}

// current returns the event that stands in the state under the key, nil where there is none.
func (r *Rooms) current(ctx context.Context, room graph.RoomNID, s *graph.State, typ, stateKey string) (*event.PDU, error) {
	nid, ok := s.Get(typ, stateKey)
	if !ok {
		return nil, nil
	}
	events, err := r.cfg.Graph.Events(ctx, room, []graph.EventNID{nid})
	if err != nil {
		return nil, err
	}
	return events[0].PDU, nil
}
