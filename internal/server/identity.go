package server

import (
	"context"

	"myelin/internal/fedclient"
	"myelin/internal/identity"
)

// openIdentity builds what speaks to identity servers.
func (s *Server) openIdentity(ctx context.Context) error {
	roots, err := s.config.Federation.Roots()
	if err != nil {
		return err
	}
	reach := fedclient.Outbound{
		Dial: s.own.Dial, Lookup: s.own.Resolver, Roots: roots, AllowNetworks: s.config.Identity.Networks(),
	}.Transport()
	s.closers = append(s.closers, func() error { reach.CloseIdleConnections(); return nil })
	s.identity, err = identity.Open(ctx, identity.Config{DB: s.db, Ours: s.ours, Transport: reach, Servers: s.config.Identity.Servers})
	return err
}
