package appservice

import (
	"testing"

	"myelin/internal/sqldb/sqldbtest"
)

func TestStatements(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := open()
		if err := db.Migrate(t.Context(), migrations...); err != nil {
			t.Fatal(err)
		}
		if err := db.Prepare(t.Context(), stmtList, stmtAdd, stmtRemove, stmtChange, stmtChanged, stmtQueue, stmtQueues, stmtNewQueue, stmtMove, stmtNoQueue); err != nil {
			t.Error(err)
		}
	})
}
