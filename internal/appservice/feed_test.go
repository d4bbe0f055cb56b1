package appservice

import (
	"testing"

	"myelin/internal/bus"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

func userID(s string) id.UserID { return id.UserID(s) }

func TestFeed(t *testing.T) {
	f := &feed{begun: true, since: 5, told: 5}
	entry := func(p sqldb.Pos) bus.Entry { return bus.Entry{Pos: p, Kind: bus.RoomEvent} }
	f.hear(bus.Range{From: 5, To: 8, Entries: []bus.Entry{entry(6), {Pos: 7, Kind: bus.AccountData}, entry(8)}})
	if got, to, ok := f.after(5, 8); !ok || to != 8 || len(got) != 2 {
		t.Errorf("got %v up to %d, %v", got, to, ok)
	}
	if got, to, ok := f.after(6, 7); !ok || to != 7 || len(got) != 0 {
		t.Errorf("got %v up to %d, %v", got, to, ok)
	}
	if _, _, ok := f.after(4, 8); ok {
		t.Error("what was before is not known")
	}
	if _, _, ok := f.after(6, 9); ok {
		t.Error("what was not told is not known")
	}
	f.hear(bus.Range{From: 8, To: 10, Foreign: true})
	if _, _, ok := f.after(8, 10); ok {
		t.Error("what another node wrote is not known")
	}
	many := bus.Range{From: 10, To: 10 + 2*maxFeed}
	for p := many.From + 1; p <= many.To; p++ {
		many.Entries = append(many.Entries, entry(p))
	}
	f.hear(many)
	if _, _, ok := f.after(10, many.To); ok || len(f.entries) > maxFeed {
		t.Errorf("%d entries are kept", len(f.entries))
	}
	got, to, ok := f.after(many.To-maxTaken-10, many.To)
	if !ok || len(got) != maxTaken || to != got[maxTaken-1].Pos || got[0].Pos != many.To-maxTaken-9 {
		t.Errorf("%d entries up to %d, %v", len(got), to, ok)
	}
}
