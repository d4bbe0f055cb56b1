package syncer

import (
	"context"

	"myelin/internal/e2ee"
)

// Encryption returns the sections of answers that clients need in order to encrypt.
//
// Spec: cs Extensions to /sync
func Encryption(e *e2ee.Encryption) []Section {
	return []Section{stockSection(e)}
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
