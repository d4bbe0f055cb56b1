package fedapi

import (
	"context"
	"log/slog"
	"slices"

	"myelin/internal/account"
	"myelin/internal/directory"
	"myelin/internal/e2ee"
	"myelin/internal/ephemeral"
	"myelin/internal/fedclient"
	"myelin/internal/fedroom"
	"myelin/internal/graph"
	"myelin/internal/media"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/view"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Config is everything the API needs.
type Config struct {
	Ours       *ours.Set
	Accounts   *account.Accounts
	Graph      *graph.Graph
	Rooms      *room.Rooms
	View       *view.View
	Directory  *directory.Directory
	Ephemeral  *ephemeral.Ephemeral
	Encryption *e2ee.Encryption
	Media      *media.Media
	Client     *fedclient.Client
	Federated  *fedroom.Federated
	Log        *slog.Logger // nil discards
	Settings   Settings
}

// Settings are the choices of the operator that shape answers of the API.
type Settings struct {
	// Version is what this build calls itself.
	Version string
	// Delegate returns where other servers reach a name of ours, as "host" or "host:port"; "" where they need not be told. May be nil.
	Delegate func(id.ServerName) string
}

// API serves the server-server API.
type API struct {
	Config
	transactions, heavy *turns
	// answers bounds the large answers under way, of all servers together.
	answers chan struct{}
	// binds bounds the calls of onBind under way.
	binds chan struct{}
}

// Bounds of what is under way at once.
const (
	transactionsAtOnce = 1 // of one server: it waits for the answer of one before it sends the next
	heavyAtOnce        = 2 // of one host, whatever the port
	answersAtOnce      = 32
)

// New returns an API over the slices in c.
func New(c Config) *API {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &API{
		Config: c, transactions: newTurns(transactionsAtOnce), heavy: newTurns(heavyAtOnce),
		answers: make(chan struct{}, answersAtOnce), binds: make(chan struct{}, bindsAtOnce),
	}
}

// Routes is the route table of the whole API. It can be called on a zero API by those who want to read the table only.
func (a *API) Routes() []web.Route {
	return slices.Concat(
		a.discoveryRoutes(),
		a.keyRoutes(),
		a.transactionRoutes(),
		a.historyRoutes(),
		a.stateRoutes(),
		a.membershipRoutes(),
		a.inviteRoutes(),
		a.listingRoutes(),
		a.queryRoutes(),
		a.deviceRoutes(),
		a.mediaRoutes(),
	)
}

// Authenticate finds out which server signed a request: web.Config.AuthenticateServer.
//
// Spec: ss Request Authentication
func (a *API) Authenticate(ctx context.Context, r *web.Request, body func() ([]byte, error)) (origin, destination id.ServerName, err error) {
	return a.Client.Authenticate(ctx, r.HTTP, r.RemoteAddr, body)
}

// Paths that operations share.
const (
	v1 = "/_matrix/federation/v1"
	v2 = "/_matrix/federation/v2"
)

// enter returns the room that a path names, M_FORBIDDEN where the room's access control list shuts the asking server out.
//
// Spec: ss Server Access Control Lists (ACLs)
func (a *API) enter(ctx context.Context, r *web.Request) (id.RoomID, error) {
	name, err := r.RoomID("roomId")
	if err != nil {
		return "", err
	}
	return name, a.Federated.Allowed(ctx, name, r.Origin)
}

// sight returns what the asking server sees of the room that a path names.
func (a *API) sight(ctx context.Context, r *web.Request) (*view.Server, error) {
	name, err := a.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	return a.View.Server(ctx, r.Origin, name)
}

// eventIDs parses IDs that a request lists, at most limit of them.
func eventIDs(field string, texts []string, limit int) ([]id.EventID, error) {
	if len(texts) > limit {
		return nil, mxerr.InvalidParam("%q lists more than %d events.", field, limit)
	}
	names := make([]id.EventID, len(texts))
	for i, text := range texts {
		name, err := id.ParseEventID(text)
		if err != nil {
			return nil, mxerr.InvalidParam("%q: %v", field, err)
		}
		names[i] = name
	}
	return names, nil
}
