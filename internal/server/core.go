package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"myelin/internal/account"
	"myelin/internal/appservice"
	"myelin/internal/bus"
	"myelin/internal/config"
	"myelin/internal/contact"
	"myelin/internal/delayed"
	"myelin/internal/e2ee"
	"myelin/internal/fedclient"
	"myelin/internal/graph"
	"myelin/internal/identity"
	"myelin/internal/ours"
	"myelin/internal/push"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// core is what both the server and the commands need: the data folder, the database, the accounts in it, and the way
// to other servers.
type core struct {
	config   *config.Config
	own      Config
	log      *slog.Logger
	registry *prometheus.Registry

	folder   *folder
	bus      *bus.Bus
	db       *sqldb.DB
	ours     *ours.Set
	accounts *account.Accounts
	contacts *contact.Contacts
	client   *fedclient.Client
	identity *identity.Identity
	// appservices are the registrations of application services, nil until they are read.
	appservices *appservice.Registry
	// heard is told of servers that sent a request. Nil where nobody wants to know; set before any can come.
	heard func(id.ServerName)

	// baseURL is where clients reach this server, for links in mails. Set before any can be sent.
	baseURL func() string
	// notify tells a user something. Nil where no server runs.
	notify func(context.Context, id.UserID, string) (id.EventID, error)

	closers []func() error // to be called from last to first
}

// openCore opens everything in core. After an error nothing is left open.
func openCore(ctx context.Context, own Config) (_ *core, err error) {
	c, log := own.Config, own.Log
	k := &core{config: c, own: own, log: log, registry: prometheus.NewRegistry()}
	k.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()

	if k.folder, err = openFolder(c.DataDir); err != nil {
		return nil, err
	}
	k.closers = append(k.closers, k.folder.close)

	k.bus = bus.New(bus.Config{Log: log})
	k.db, err = sqldb.Open(ctx, sqldb.Config{
		URL: c.DatabaseURL(), Log: log, Committed: k.bus.Committed, Notify: bus.Channel, Metrics: k.registry,
	})
	if err != nil {
		return nil, err
	}
	k.closers = append(k.closers, k.db.Close)

	if k.ours, err = ours.Open(ctx, ours.Config{DB: k.db, Names: []id.ServerName{c.Name()}}); err != nil {
		return nil, err
	}
	newcomers, err := k.openContacts(ctx)
	if err != nil {
		return nil, err
	}
	k.accounts, err = account.Open(ctx, account.Config{
		DB:                  k.db,
		Ours:                k.ours,
		Bus:                 k.bus,
		Log:                 log,
		Registration:        account.Registration(c.Registration),
		SharedSecret:        c.RegistrationSharedSecret,
		Guests:              c.AllowGuests,
		TokenLifetime:       time.Duration(c.Session.AccessTokenLifetime),
		RefreshableLifetime: time.Duration(c.Session.RefreshableLifetime),
		DevicesChanged:      devicesChanged,
		DeviceConflict:      e2ee.DeviceConflict,
		Exclusive:           k.reserved,
		Unknown:             func(ctx context.Context, user id.UserID) bool { return k.appservices.FindUser(ctx, user) },
		Deactivated:         k.deactivated,
		Terms:               newcomers.terms,
		Stages:              newcomers.stages,
		EmailRequired:       c.Mail.Required,
		Owner:               k.contacts.Owner,
		Registered:          k.contacts.Registered,
	})
	if err != nil {
		return nil, err
	}
	k.closers = append(k.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		return k.accounts.Close(ctx)
	})
	// Commands change devices too, their keys with them, and tell those who share rooms.
	if err := k.db.Migrate(ctx, append(append(append(e2ee.Migrations(), graph.Migrations...), push.Migrations...), delayed.Migrations...)...); err != nil {
		return nil, fmt.Errorf("prepare the tables of rooms and keys: %w", err)
	}
	if err := k.openClient(ctx); err != nil {
		return nil, err
	}
	if err := k.openIdentity(ctx); err != nil {
		return nil, err
	}
	if err := k.checkName(ctx); err != nil {
		return nil, err
	}
	k.appservices, err = appservice.OpenRegistry(ctx, appservice.RegistryConfig{
		DB: k.db, Ours: k.ours, Accounts: k.accounts, Bus: k.bus, Files: c.Appservices, Log: log,
	})
	if err != nil {
		return nil, err
	}
	k.closers = append(k.closers, func() error { k.appservices.Close(); return nil })
	return k, nil
}

// checkName refuses a server name that the accounts in the database do not have: events that they
// sent would be forgeries under the new name.
func (k *core) checkName(ctx context.Context) error {
	first, err := k.accounts.Users(ctx, "", 1)
	if err != nil || len(first) == 0 {
		return err
	}
	if domain := first[0].ID.Domain(); !k.ours.Is(domain) {
		return fmt.Errorf("server_name is %s, and this database belongs to %s; set server_name to that, or choose another data_dir or database", k.config.ServerName, domain)
	}
	return nil
}

// closeTime bounds what a slice may write when it is closed.
const closeTime = time.Second

func (k *core) close() error {
	var problems []error
	for i := len(k.closers) - 1; i >= 0; i-- {
		problems = append(problems, k.closers[i]())
	}
	k.closers = nil
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// reserved reports whether nobody may register the user ID: it is for an application service, or speaks for the server.
func (k *core) reserved(user id.UserID) bool {
	return user.Localpart() == k.config.Notices.Localpart || k.appservices.Exclusive(user)
}
