package fedapi

import "myelin/matrix/id"

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
