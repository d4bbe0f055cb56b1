package appservice

import (
	"context"
	"fmt"

	"myelin/internal/sqldb"
)

// Queue is how far an application service has got.
type Queue struct {
	// Behind is how many positions of the stream it has yet to be told of, whether or not they concern it.
	Behind int64
	// Waiting says that a transaction is under way to it.
	Waiting bool
}

// Queues returns how far the application services have got, by ID. Those that never were sent anything are left out.
func (g *Registry) Queues(ctx context.Context) (map[string]Queue, error) {
	found := make(map[string]Queue)
	err := g.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		clear(found)
		last, err := tx.Last()
		if err != nil {
			return err
		}
		return tx.Query(stmtQueues, func(r *sqldb.Row) error {
			var name string
			var pos sqldb.Pos
			var waiting bool
			if err := r.Scan(&name, &pos, &waiting); err != nil {
				return err
			}
			found[name] = Queue{Behind: int64(last - pos), Waiting: waiting}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("load the queues of application services: %w", err)
	}
	return found, nil
}
