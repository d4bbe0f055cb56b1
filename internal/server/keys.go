package server

import (
	"context"
	"fmt"

	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/internal/work"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
	"myelin/matrix/sign"
)

// KeyRotation says which key signs for a name from now on, and which did so far.
type KeyRotation struct {
	Server id.ServerName `json:"server"`
	Old    sign.KeyID    `json:"old"`
	New    sign.KeyID    `json:"new"`
}

// rotateKey gives a name of ours a new signing key. What a running server signed with a key after that key was retired, nobody would believe: so none may run.
//
// Spec: ss Publishing Keys
func (k *core) rotateKey(ctx context.Context, r *web.Request) (*web.Response, error) {
	name, err := id.ParseServerName(r.Path("server"))
	if err != nil {
		return nil, mxerr.InvalidParam("%v", err)
	}
	old, own := k.ours.Key(name)
	if !own {
		return nil, mxerr.NotFound("%s is not a name of this server.", name)
	}
	running := k.notify != nil
	if k.db.Dialect() == sqldb.PostgreSQL && !running {
		// Another node may run on the database, with a data folder of its own.
		if err := k.db.Migrate(ctx, work.Migrations()...); err != nil {
			return nil, fmt.Errorf("look for other nodes: %w", err)
		}
		if running, err = work.Alive(ctx, k.db); err != nil {
			return nil, err
		}
	}
	if running {
		return nil, mxerr.Forbidden("A server runs and signs with the old key. Stop it, on all nodes, rotate the key, and start it again. A node that crashed counts as running for another %s.", work.DefaultTTL)
	}
	if err := ours.Rotate(ctx, k.db, name); err != nil {
		return nil, err
	}
	after, err := ours.Open(ctx, ours.Config{DB: k.db, Names: []id.ServerName{name}})
	if err != nil {
		return nil, err
	}
	current, _ := after.Key(name)
	return web.JSON(KeyRotation{Server: name, Old: old.ID, New: current.ID}), nil
}
