package e2ee

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"myelin/internal/fedclient"
	"myelin/matrix/canon"
	"myelin/matrix/id"
)

const (
	// defaultPatience is how long other servers are waited for by clients that don't say, maxPatience by those that want more.
	//
	// Spec: cs queryKeys
	defaultPatience = 10 * time.Second
	maxPatience     = 30 * time.Second
	// serversAtOnce bounds the servers that one request asks at a time.
	serversAtOnce = 16
)

// Patience is how long a client waits for other servers, in milliseconds; 0 means that it doesn't say.
type Patience int64

func (p Patience) duration() time.Duration {
	if p <= 0 {
		return defaultPatience
	}
	return time.Duration(min(int64(p), maxPatience.Milliseconds())) * time.Millisecond
}

// Failures are the servers that didn't answer.
type Failures map[id.ServerName]json.RawMessage

// failure is what a client sees of a server that didn't answer: whether it is worth to try again, and not why.
var failure = json.RawMessage(`{"errcode":"M_UNAVAILABLE","error":"This server could not be asked."}`)

// ask calls fn for each server, several at a time, and returns those for which it failed.
func (e *Encryption) ask(ctx context.Context, patience Patience, servers []id.ServerName, fn func(ctx context.Context, server id.ServerName) error) Failures {
	failures := make(Failures)
	if len(servers) == 0 {
		return failures
	}
	ctx, cancel := context.WithTimeout(ctx, patience.duration())
	defer cancel()
	var mu sync.Mutex // guards failures
	var g errgroup.Group
	g.SetLimit(serversAtOnce)
	for _, server := range servers {
		g.Go(func() error {
			if err := fn(ctx, server); err != nil {
				e.log.Debug("another server was not asked for keys", "destination", server, "error", err)
				mu.Lock()
				defer mu.Unlock()
				failures[server] = failure
			}
			return nil
		})
	}
	_ = g.Wait()
	return failures
}

// byServer splits what concerns users of other servers.
func byServer[M ~map[id.UserID]V, V any](e *Encryption, of M) (parts map[id.ServerName]M, servers []id.ServerName) {
	parts = make(map[id.ServerName]M)
	for user, v := range of {
		server := user.Domain()
		if e.cfg.Ours.Is(server) {
			continue
		}
		if parts[server] == nil {
			parts[server] = make(M)
			servers = append(servers, server)
		}
		parts[server][user] = v
	}
	return parts, servers
}

// Query returns the keys of users for one of ours, who waits for other servers so long, and the servers that didn't answer. Of these it returns
// what is kept, if anything is.
//
// Spec: cs queryKeys
func (e *Encryption) Query(ctx context.Context, asker id.UserID, want Query, patience Patience) (*Keys, Failures, error) {
	keys, err := e.QueryLocal(ctx, asker, want)
	if err != nil {
		return nil, nil, err
	}
	var others []id.UserID
	for user := range want {
		if !e.cfg.Ours.Is(user.Domain()) {
			others = append(others, user)
		}
	}
	if len(others) == 0 {
		return keys, Failures{}, nil
	}
	v, err := e.look(ctx, asker, others)
	if err != nil {
		return nil, nil, err
	}
	missing := make(Query)
	for _, user := range others {
		if v.current[user] {
			keys.take(want, v, &remoteList{user: user, devices: v.kept[user], crossed: v.crossed[user]})
		} else {
			missing[user] = want[user]
		}
	}
	parts, servers := byServer(e, missing)
	var mu sync.Mutex // guards keys
	failures := e.ask(ctx, patience, servers, func(ctx context.Context, server id.ServerName) error {
		lists, err := e.fetch(ctx, asker, v, server, parts[server], patience)
		mu.Lock()
		defer mu.Unlock()
		for _, l := range lists {
			keys.take(want, v, l)
		}
		if err != nil && lists == nil {
			for user := range parts[server] {
				if kept, ok := v.kept[user]; ok {
					keys.take(want, v, &remoteList{user: user, devices: kept, crossed: v.crossed[user]})
				}
			}
		}
		return err
	})
	return keys, failures, e.used(ctx, v)
}

// take adds what is known of a user of another server.
func (k *Keys) take(want Query, v *view, l *remoteList) {
	asked := want[l.user]
	devices := make(map[id.DeviceID]json.RawMessage)
	for _, d := range l.devices {
		if len(asked) == 0 || slices.Contains(asked, d.id) {
			devices[d.id] = named(d.keys, d.name)
		}
	}
	k.Devices[l.user] = devices
	k.add(l.user, "", l.crossed, v.signatures)
}

// describes reports whether what another server sent may be the identity keys of a device.
func describes(raw json.RawMessage, user id.UserID, device id.DeviceID) bool {
	if len(raw) > maxDeviceKeys {
		return false
	}
	whose, _ := canon.GetText(raw, "user_id")
	which, _ := canon.GetText(raw, "device_id")
	return whose == string(user) && which == string(device)
}

// Claim takes one key of each device for one of our users, who waits for other servers so long, and returns the servers that didn't
// answer.
//
// Spec: cs claimKeys
func (e *Encryption) Claim(ctx context.Context, asker id.UserID, want Claims, patience Patience) (Claimed, Failures, error) {
	got, err := e.ClaimLocal(ctx, want)
	if err != nil {
		return nil, nil, err
	}
	parts, servers := byServer(e, want)
	var mu sync.Mutex // guards got
	failures := e.ask(ctx, patience, servers, func(ctx context.Context, server id.ServerName) error {
		call := fedclient.Call{Origin: asker.Domain(), Destination: server, Timeout: patience.duration()}
		theirs, err := e.cfg.Client.ClaimKeys(ctx, call, parts[server])
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for user, devices := range theirs {
			for device, keys := range devices {
				if _, asked := want[user][device]; !asked {
					continue
				}
				for name, key := range keys {
					if len(key) <= maxKeyObject {
						got.add(user, device, name, key) // one of them, should there be more
					}
				}
			}
		}
		return nil
	})
	return got, failures, nil
}
