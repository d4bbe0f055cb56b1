package view

import (
	"context"

	"myelin/internal/graph"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Config is what a View needs.
type Config struct {
	Graph *graph.Graph
	// Ignored returns the users whose events a user doesn't want to see.
	Ignored func(context.Context, id.UserID) (map[id.UserID]struct{}, error)
	// Erased returns those of some users who want no newcomers to read what they wrote, with the position at which they said so. May be nil.
	Erased func(context.Context, []id.UserID) (map[id.UserID]sqldb.Pos, error)
}

// View answers what users may see. It is safe for concurrent use.
type View struct{ cfg Config }

// New returns a view of the graph.
func New(c Config) *View { return &View{c} }
