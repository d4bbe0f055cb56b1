package fedapi

import (
	"context"
	"encoding/json"

	"myelin/matrix/id"
)

// ReceiptRooms takes the content of an m.receipt EDU, and returns how many rooms were looked at for it.
func (a *API) ReceiptRooms(ctx context.Context, origin id.ServerName, content json.RawMessage) (int, error) {
	n := &news{api: a, origin: origin, left: maxNews, shut: make(map[id.RoomID]error)}
	err := n.receipts(ctx, content)
	return len(n.shut), err
}

// Exhaust has a server wait already as often as it may for the state of rooms, until it is let go.
func (a *API) Exhaust(server id.ServerName) (letGo func()) {
	a.heavy.mu.Lock()
	defer a.heavy.mu.Unlock()
	name := id.ServerName(server.Host())
	a.heavy.of[name] = &turn{slots: make(chan struct{}, heavyAtOnce), users: heavyAtOnce + maxWaiting}
	return func() {
		a.heavy.mu.Lock()
		defer a.heavy.mu.Unlock()
		delete(a.heavy.of, name)
	}
}
