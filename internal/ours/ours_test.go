package ours

import (
	"bytes"
	"sync"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/id"
	"myelin/matrix/sign"
)

func TestKeysSurviveRestart(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		db := open()
		first, err := Open(ctx, Config{DB: db, Names: []id.ServerName{"a.example", "b.example"}})
		if err != nil {
			t.Fatal(err)
		}
		if first.Primary() != "a.example" || !first.Is("b.example") || first.Is("c.example") {
			t.Fatalf("names are %v", first.Names())
		}
		a, ok := first.Key("a.example")
		b, _ := first.Key("b.example")
		if !ok || bytes.Equal(a.Public(), b.Public()) {
			t.Fatal("the two names share a key")
		}
		if _, ok := first.Key("c.example"); ok {
			t.Fatal("there is a key for a name that is not ours")
		}
		signed, err := a.Sign([]byte(`{"x":1}`), "a.example")
		if err != nil {
			t.Fatal(err)
		}
		if err := sign.Verify(signed, "a.example", a.ID, a.Public()); err != nil {
			t.Fatalf("the key does not work: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}

		db = open()
		again, err := Open(ctx, Config{DB: db, Names: []id.ServerName{"a.example"}})
		if err != nil {
			t.Fatal(err)
		}
		if k, _ := again.Key("a.example"); k.ID != a.ID || !bytes.Equal(k.Private, a.Private) {
			t.Fatalf("after a restart the key is %s, before it was %s", k.ID, a.ID)
		}
		sqldbtest.PrepareAll(t, db)
	})
}

func TestRotate(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		ctx := t.Context()
		db := open()
		cfg := Config{DB: db, Names: []id.ServerName{"a.example"}}
		before, err := Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := Rotate(ctx, db, "a.example"); err != nil {
			t.Fatal(err)
		}
		after, err := Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		was, _ := before.Key("a.example")
		is, _ := after.Key("a.example")
		old := after.OldKeys("a.example")
		if is.ID == was.ID || len(old) != 1 || old[0].ID != was.ID || !bytes.Equal(old[0].Public, was.Public()) || old[0].ExpiredTS == 0 {
			t.Fatalf("the key was %s, is %s; old keys: %+v", was.ID, is.ID, old)
		}
		if len(before.OldKeys("a.example")) != 0 {
			t.Fatal("the set that was open changed")
		}
	})
}

// Two processes that start together must not end with two keys.
func TestOpenTwiceAtOnce(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		var sets [2]*Set
		var errs [2]error
		var wg sync.WaitGroup
		dbs := []*sqldb.DB{open(), open()}
		for i := range sets {
			wg.Go(func() {
				sets[i], errs[i] = Open(t.Context(), Config{DB: dbs[i], Names: []id.ServerName{"a.example"}})
			})
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
		one, _ := sets[0].Key("a.example")
		two, _ := sets[1].Key("a.example")
		if one.ID != two.ID {
			t.Fatalf("two processes made two keys, %s and %s", one.ID, two.ID)
		}
	})
}

func TestNoNames(t *testing.T) {
	db := sqldbtest.SQLite(t)
	if _, err := Open(t.Context(), Config{DB: db}); err == nil {
		t.Fatal("opened without a name")
	}
	if _, err := Open(t.Context(), Config{DB: db, Names: []id.ServerName{"a", "a"}}); err == nil {
		t.Fatal("opened with the same name twice")
	}
}
