package sqldb_test

import (
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

func TestSmoke(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := open()
		for range 3 {
			if err := db.Write(t.Context(), func(tx *sqldb.Tx) error { p, err := tx.Pos(); t.Log(p); return err }); err != nil {
				t.Fatal(err)
			}
		}
		n, err := db.IDs("x").Next(t.Context())
		t.Log(n, err)
		p, err := db.Last(t.Context())
		t.Log(p, err, db.Stats())
		sqldbtest.PrepareAll(t, db)
	})
}
