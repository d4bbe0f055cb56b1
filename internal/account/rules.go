package account

import (
	"context"
	"fmt"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

var sqlRulesChanged = sqldb.SQL(`SELECT DISTINCT user_id FROM account_data
	WHERE type IN ('m.push_rules', 'm.ignored_user_list') AND room_id = '' AND pos > $1 AND pos <= $2`)

// RulesChanged lists the users whose push rules, or whose list of ignored users, changed last at a position in (from, to].
func (a *Accounts) RulesChanged(ctx context.Context, from, to sqldb.Pos) (users []id.UserID, err error) {
	err = a.db.Read(ctx, func(tx *sqldb.Tx) error {
		users = nil
		return tx.Query(sqlRulesChanged, func(r *sqldb.Row) error {
			var user id.UserID
			err := r.Scan(&user)
			users = append(users, user)
			return err
		}, from, to)
	})
	if err != nil {
		return nil, fmt.Errorf("find whose rules changed: %w", err)
	}
	return users, nil
}
