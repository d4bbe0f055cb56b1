package account

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"myelin/internal/sqldb"
	"myelin/matrix/mxerr"
)

// StageParams returns what a page for a stage must show; false where there is no such stage.
func (a *Accounts) StageParams(stage string) (any, bool) {
	s, ok := a.stages[stage]
	if !ok {
		return nil, false
	}
	return s.Params(), true
}

// CompleteStage attempts a stage of a session for a client that doesn't know the stage and left it to a page of ours. Whether the stage is one
// that the session's operation asks for, and in this place, shows when the client goes on: stages that stand in no flow are of no use.
//
// Spec: cs Fallback
func (a *Accounts) CompleteStage(ctx context.Context, session, stage string, auth json.RawMessage) error {
	attempted, ok := a.stages[stage]
	if !ok {
		return mxerr.NotFound("There is no such stage.")
	}
	s := &authSession{id: session}
	var found bool
	err := a.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found, err = s.load(tx)
		return err
	})
	switch {
	case err != nil:
		return err
	case !found:
		return mxerr.NotFound("This authentication session is not known or has expired. Start again.")
	case slices.Contains(s.completed, stage):
		return nil
	case len(s.completed) >= maxStages:
		return mxerr.Forbidden("This authentication session has completed enough stages.")
	}
	try := &Try{Operation: Operation{Name: s.operation, User: s.user}, Auth: auth, Facts: maps.Clone(s.facts)}
	if try.Facts == nil {
		try.Facts = Facts{}
	}
	if err := attempted.Attempt(ctx, try); err != nil {
		return err
	}
	done := *s
	done.completed, done.facts = append(slices.Clone(s.completed), stage), try.Facts
	return a.saveAuthSession(ctx, s, &done, try.With)
}

// maxStages is more than any flow has.
const maxStages = 8
