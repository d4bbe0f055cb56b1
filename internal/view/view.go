package view

import (
	"context"

	"myelin/internal/graph"
	"myelin/matrix/id"
)

// Config is what a View needs.
type Config struct {
	Graph *graph.Graph
	// Ignored returns the users whose events a user doesn't want to see.
	Ignored func(context.Context, id.UserID) (map[id.UserID]struct{}, error)
}

// View answers what users may see. It is safe for concurrent use.
type View struct{ cfg Config }

// New returns a view of the graph.
func New(c Config) *View { return &View{c} }
