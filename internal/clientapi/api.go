package clientapi

import (
	"log/slog"

	"myelin/internal/account"
	"myelin/internal/directory"
	"myelin/internal/graph"
	"myelin/internal/ours"
	"myelin/internal/room"
	"myelin/internal/view"
)

// Config is everything the API needs.
type Config struct {
	Ours      *ours.Set
	Accounts  *account.Accounts
	Graph     *graph.Graph
	Rooms     *room.Rooms
	View      *view.View
	Directory *directory.Directory
	Log       *slog.Logger
	Settings  Settings
}

// Settings are the choices of the operator that shape answers of the API.
type Settings struct {
	// BaseURL is where clients reach this server, without a slash at its end.
	BaseURL string
}

// API serves the client-server API.
type API struct{ Config }

// New returns an API over the slices in c.
func New(c Config) *API { return &API{Config: c} }
