package fedapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// keyRoutes gives out our keys, and what we know of others'.
//
// Spec: ss Retrieving server keys
func (a *API) keyRoutes() []web.Route {
	return []web.Route{
		{Method: "GET", Path: "/_matrix/key/v2/server", Op: "getServerKey", Auth: web.None, Rate: web.RateServer, Handle: a.ownKeys},
		// Servers of old name a key, and get all of them as well.
		{Method: "GET", Path: "/_matrix/key/v2/server/{keyId}", Op: "getServerKey", Auth: web.None, Rate: web.RateServer, Handle: a.ownKeys},
		{Method: "GET", Path: "/_matrix/key/v2/query/{serverName}", Op: "perspectivesKeyQuery", Auth: web.None, Rate: web.RateHeavy, Handle: a.keysOfOne},
		{Method: "POST", Path: "/_matrix/key/v2/query", Op: "bulkPerspectivesKeyQuery", Auth: web.None, Rate: web.RateHeavy, Handle: a.keysOfMany},
	}
}

// Spec: ss getServerKey
func (a *API) ownKeys(_ context.Context, r *web.Request) (*web.Response, error) {
	keys, err := a.Client.OwnKeys(a.addressed(r))
	if err != nil {
		return nil, err
	}
	return web.Raw(keys), nil
}

const (
	// maxNotarised bounds the servers that one query asks about, notariesAtOnce how many of them are asked at a time.
	maxNotarised   = 100
	notariesAtOnce = 8
	// notaryPatience is how long one query takes at most.
	notaryPatience = 20 * time.Second
)

// Spec: ss perspectivesKeyQuery
func (a *API) keysOfOne(ctx context.Context, r *web.Request) (*web.Response, error) {
	name, err := id.ParseServerName(r.Path("serverName"))
	if err != nil {
		return nil, mxerr.InvalidParam("%v", err)
	}
	until, err := r.QueryInt("minimum_valid_until_ts", 0)
	if err != nil {
		return nil, err
	}
	return a.notarise(ctx, r, map[id.ServerName]int64{name: until})
}

// Spec: ss bulkPerspectivesKeyQuery
func (a *API) keysOfMany(ctx context.Context, r *web.Request) (*web.Response, error) {
	var body struct {
		Servers map[string]map[string]struct {
			Until int64 `json:"minimum_valid_until_ts"`
		} `json:"server_keys"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Servers == nil {
		return nil, mxerr.MissingParam("\"server_keys\" is missing")
	}
	if len(body.Servers) > maxNotarised {
		return nil, mxerr.InvalidParam("\"server_keys\" names more than %d servers", maxNotarised)
	}
	wanted := make(map[id.ServerName]int64, len(body.Servers))
	for text, keys := range body.Servers {
		name, err := id.ParseServerName(text)
		if err != nil {
			return nil, mxerr.InvalidParam("\"server_keys\": %v", err)
		}
		wanted[name] = 0
		for _, k := range keys {
			wanted[name] = max(wanted[name], k.Until)
		}
	}
	return a.notarise(ctx, r, wanted)
}

// notarise answers with the keys of servers, each with our signature added. Servers whose keys can't be had are left out.
func (a *API) notarise(ctx context.Context, r *web.Request, wanted map[id.ServerName]int64) (*web.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, notaryPatience)
	defer cancel()
	signer := a.addressed(r)
	found := make(chan json.RawMessage, len(wanted))
	var asking errgroup.Group
	asking.SetLimit(notariesAtOnce)
	for name, until := range wanted {
		if !a.Ours.Is(name) && !a.Client.Permitted(name) {
			continue
		}
		asking.Go(func() error {
			keys, err := a.signedKeys(ctx, signer, name, until, r.RemoteAddr)
			if err != nil {
				a.Log.Debug("the keys of another server can't be had", "server", name, "error", err)
				return nil
			}
			found <- keys
			return nil
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	close(found)
	all := []json.RawMessage{}
	for keys := range found {
		all = append(all, keys)
	}
	return web.JSON(map[string]any{"server_keys": all}), nil
}

// signedKeys returns the keys of a server with the signature of the signer, a name of ours.
func (a *API) signedKeys(ctx context.Context, signer, name id.ServerName, until int64, from netip.Addr) (json.RawMessage, error) {
	key, ok := a.Ours.Key(signer)
	if !ok {
		return nil, fmt.Errorf("there is no key of %s", signer)
	}
	var keys json.RawMessage
	var err error
	if a.Ours.Is(name) {
		keys, err = a.Client.OwnKeys(name)
	} else {
		if until == 0 {
			until = time.Now().UnixMilli()
		}
		keys, err = a.Client.Notarise(ctx, name, until, from)
	}
	if err != nil {
		return nil, err
	}
	return key.Sign(keys, string(signer))
}
