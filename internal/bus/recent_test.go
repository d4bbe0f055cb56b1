package bus_test

import (
	"testing"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
)

func TestRecent(t *testing.T) {
	const most = 100
	r := bus.Recent[int]{Max: most, Since: 5}
	if items, known := r.Between(5, 1<<60); !known || len(items) != 0 {
		t.Errorf("at first it knows %v, %t", items, known)
	}
	var kept []bus.Item[int]
	for i := range most + 10 {
		r.Add(sqldb.Pos(10+i), i)
		if i == most-1 {
			kept, _ = r.Between(20, 1<<60)
		}
	}
	if len(r.All()) > most {
		t.Errorf("%d items are remembered", len(r.All()))
	}
	if _, known := r.Between(5, 1<<60); known {
		t.Error("what was forgotten is still known")
	}
	if items, known := r.Between(r.Since, 1<<60); !known || items[0].Pos != r.Since+1 || len(items) != len(r.All()) {
		t.Errorf("%d of %d items, known %t", len(items), len(r.All()), known)
	}
	last := sqldb.Pos(10 + most + 9)
	if items, known := r.Between(last-2, last-1); !known || len(items) != 1 || items[0].Pos != last-1 || items[0].What != most+8 {
		t.Errorf("got %v, %t", items, known)
	}
	for i, item := range kept {
		if item.What != 11+i {
			t.Fatalf("what was handed out changed: %v", kept)
		}
	}
	r.Restart(last + 5)
	if _, known := r.Between(last, last+5); known {
		t.Error("after a new start it knows of before")
	}
}
