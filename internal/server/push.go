package server

import (
	"context"

	"myelin/internal/account"
	"myelin/internal/e2ee"
	"myelin/internal/fedclient"
	"myelin/internal/push"
	"myelin/internal/sqldb"
)

// openPush builds the slice that counts what is unread and tells push gateways.
func (s *Server) openPush(ctx context.Context) error {
	roots, err := s.config.Federation.Roots()
	if err != nil {
		return err
	}
	gateways := fedclient.Outbound{
		Dial: s.own.Dial, Lookup: s.own.Resolver, Roots: roots, AllowNetworks: s.config.Push.Networks(),
	}.Transport()
	s.closers = append(s.closers, func() error { gateways.CloseIdleConnections(); return nil })
	s.push, err = push.Open(ctx, push.Config{
		DB: s.db, Bus: s.bus, Ours: s.ours, Graph: s.graph, Accounts: s.accounts, View: s.view, Gateways: gateways, Log: s.log,
	})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { s.push.Close(); return nil })
	return nil
}

// devicesChanged has everything follow that hangs on devices.
func devicesChanged(tx *sqldb.Tx, pos sqldb.Pos, changes []account.DeviceChange) error {
	if err := e2ee.DevicesChanged(tx, pos, changes); err != nil {
		return err
	}
	return push.DevicesChanged(tx, pos, changes)
}
