package server

import (
	"context"

	"myelin/internal/fedclient"
	"myelin/internal/identity"
)

// openIdentity builds what speaks to identity servers.
func (k *core) openIdentity(ctx context.Context) error {
	roots, err := k.config.Federation.Roots()
	if err != nil {
		return err
	}
	reach := fedclient.Outbound{
		Dial: k.own.Dial, Lookup: k.own.Resolver, Roots: roots, AllowNetworks: k.config.Identity.Networks(),
	}.Transport()
	k.closers = append(k.closers, func() error { reach.CloseIdleConnections(); return nil })
	k.identity, err = identity.Open(ctx, identity.Config{DB: k.db, Ours: k.ours, Transport: reach, Servers: k.config.Identity.Servers})
	return err
}
