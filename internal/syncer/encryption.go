package syncer

import (
	"context"
	"encoding/json"

	"myelin/internal/e2ee"
)

// Encryption returns the sections of answers that clients need in order to encrypt.
//
// Spec: cs Extensions to /sync
func Encryption(e *e2ee.Encryption) []Section {
	return []Section{stockSection(e), listSection(e), inboxSection(e)}
}

// stockSection tells how many keys the device has left.
func stockSection(e *e2ee.Encryption) Section {
	return func(ctx context.Context, w Window) ([]Field, error) {
		counts, unused, changed, err := e.Stock(ctx, w.User, w.Device, w.From)
		if err != nil {
			return nil, err
		}
		return []Field{
			{Name: "device_one_time_keys_count", JSON: counts, News: changed && w.From > 0},
			{Name: "device_unused_fallback_key_types", JSON: unused},
		}, nil
	}
}

// listSection tells whose keys changed. A first sync has nothing to compare with.
func listSection(e *e2ee.Encryption) Section {
	return func(ctx context.Context, w Window) ([]Field, error) {
		if w.From == 0 {
			return nil, nil
		}
		changes, err := e.Changes(ctx, e2ee.Window{User: w.User, From: w.From, To: w.To, Rooms: w.Rooms, Joined: w.Joined, Left: w.Left})
		if err != nil || len(changes.Changed)+len(changes.Left) == 0 {
			return nil, err
		}
		raw, err := json.Marshal(changes)
		return []Field{{Name: "device_lists", JSON: raw, News: true}}, err
	}
}

// inboxSection tells the device what others sent to it.
//
// Spec: cs Send-to-Device messaging
func inboxSection(e *e2ee.Encryption) Section {
	return func(ctx context.Context, w Window) ([]Field, error) {
		events, upTo, err := e.Inbox(ctx, w.User, w.Device, w.FromQueue, w.To)
		if err != nil || events == nil {
			return nil, err
		}
		raw := append(append([]byte(`{"events":`), events...), '}')
		return []Field{{Name: "to_device", JSON: raw, News: true, UpTo: upTo}}, nil
	}
}
