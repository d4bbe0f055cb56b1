package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"myelin/internal/bus"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// Registration says who may make an account.
type Registration string

// The values of Config.Registration.
const (
	RegistrationOpen   Registration = "open"
	RegistrationToken  Registration = "token"
	RegistrationClosed Registration = "closed"
)

// Bounds on what one user may store. They are far above what clients do.
const (
	maxDevices      = 1000
	maxFilters      = 1000
	maxAccountData  = 50_000 // entries, rooms included
	maxNameRunes    = 256    // display names of users and devices, in characters
	maxIdentifier   = 255    // types, tags, device IDs; in bytes
	maxPasswordSize = 512    // bytes; longer ones only waste our time
)

// Config is what Open needs. DB and Ours are required; the zero value of everything else works.
type Config struct {
	DB   *sqldb.DB
	Ours *ours.Set
	// Bus tells of what other parts and other nodes commit. Without it, caches are stale for up to ten seconds
	// after a change on another node.
	Bus *bus.Bus
	Log *slog.Logger

	// Registration is closed unless it says otherwise.
	Registration Registration
	// SharedSecret lets outside tools register users with a keyed hash; empty means that they can't.
	SharedSecret string
	// Guests lets anybody make a guest account.
	Guests bool
	// Terms are policies that a new user must accept, by policy ID.
	Terms map[string]Policy
	// Stages are further stages of interactive authentication, besides those of this package. With StageCaptcha among
	// them, newcomers must pass it; with StageEmail they may confirm an address.
	Stages []Stage
	// EmailRequired says that newcomers must confirm an address.
	EmailRequired bool
	// Owner finds the account that a third-party identifier belongs to. May be nil.
	Owner func(ctx context.Context, medium, address string) (id.UserID, bool, error)
	// Registered runs in the transaction that makes an account by registration, with what the stages found out. It may be
	// run again if the transaction is. May be nil.
	Registered func(tx *sqldb.Tx, user id.UserID, facts Facts) error

	// TokenLifetime limits access tokens of clients that can't refresh them; 0 means for ever.
	TokenLifetime time.Duration
	// RefreshableLifetime limits access tokens of clients that can; 0 means DefaultRefreshableLifetime.
	RefreshableLifetime time.Duration
	// RefreshLifetime limits refresh tokens; 0 means for ever.
	RefreshLifetime time.Duration

	// Password says what a password must be and how it is hashed.
	Password PasswordPolicy

	// Exclusive reports whether the user ID is reserved, by an application service or for the server itself. May be nil.
	Exclusive func(id.UserID) bool
	// Unknown asks whoever may make a user that there is none of, and reports whether the user exists now. May be nil.
	Unknown func(context.Context, id.UserID) bool
	// DeviceConflict reports whether a device ID can't be given to a new device because a key
	// of the user has it as its name. May be nil.
	DeviceConflict func(tx *sqldb.Tx, user id.UserID, device id.DeviceID) (bool, error)
	// DevicesChanged runs in the transaction that adds, renames or deletes devices, so that what hangs on
	// them changes with them. It may be run again if the transaction is. May be nil.
	DevicesChanged func(tx *sqldb.Tx, pos sqldb.Pos, changes []DeviceChange) error
	// Deactivated runs in the transaction that deactivates an account. May be nil.
	Deactivated func(tx *sqldb.Tx, pos sqldb.Pos, user id.UserID, erase bool) error
}

// DefaultRefreshableLifetime is how long an access token lasts that can be refreshed.
const DefaultRefreshableLifetime = time.Hour

// Accounts is the door to everything in this package. It is safe for concurrent use.
type Accounts struct {
	cfg    Config
	db     *sqldb.DB
	ours   *ours.Set
	log    *slog.Logger
	hasher *hasher
	stages map[string]Stage

	tokenIDs *sqldb.IDs
	gate     cacheGate
	seen     seenLog

	unsubscribe func()
}

// Open migrates the tables and returns the door to them.
func Open(ctx context.Context, cfg Config) (*Accounts, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	switch cfg.Registration {
	case RegistrationOpen, RegistrationToken, RegistrationClosed:
	case "":
		cfg.Registration = RegistrationClosed
	default:
		return nil, fmt.Errorf("registration is %q, but must be open, token or closed", cfg.Registration)
	}
	if cfg.RefreshableLifetime == 0 {
		cfg.RefreshableLifetime = DefaultRefreshableLifetime
	}
	if err := cfg.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("migrate accounts: %w", err)
	}
	a := &Accounts{
		cfg:      cfg,
		db:       cfg.DB,
		ours:     cfg.Ours,
		log:      cfg.Log,
		hasher:   newHasher(cfg.Password, runtime.GOMAXPROCS(0)),
		tokenIDs: cfg.DB.IDs("account_tokens"),
	}
	a.stages = make(map[string]Stage)
	for _, s := range append(a.ownStages(), cfg.Stages...) {
		if a.stages[s.Type()] != nil {
			return nil, fmt.Errorf("two stages of interactive authentication are called %s", s.Type())
		}
		a.stages[s.Type()] = s
	}
	a.gate.open()
	if err := a.startCaches(ctx); err != nil {
		return nil, fmt.Errorf("start account caches: %w", err)
	}
	return a, nil
}

// Close writes what is known of devices last seen and leaves the bus. The database stays open.
func (a *Accounts) Close(ctx context.Context) error {
	if a.unsubscribe != nil {
		a.unsubscribe()
	}
	a.gate.tokens.StopAllGoroutines()
	a.gate.ignored.StopAllGoroutines()
	return a.FlushSeen(ctx)
}

// now is the time as it is stored: milliseconds since the epoch.
func now() int64 { return time.Now().UnixMilli() }

// text makes a string that a client chose fit for storage: no NUL, which PostgreSQL has no text
// for, valid UTF-8, and at most max characters.
func text(s string, max int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	n := 0
	for i := range s {
		if n == max {
			return s[:i]
		}
		n++
	}
	return s
}

// checkIdentifier bounds a name that a client chose and that is stored as it is.
func checkIdentifier(kind, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("the %s is empty", kind)
	case len(s) > maxIdentifier:
		return fmt.Errorf("the %s is longer than %d bytes", kind, maxIdentifier)
	case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("the %s is not valid text", kind)
	}
	return nil
}

// errStale makes a caller look again: what it read has changed before it could write.
var errStale = errors.New("changed meanwhile")

// entry is a bus entry of this package's.
func entry(pos sqldb.Pos, kind bus.Kind, user id.UserID, data any) bus.Entry {
	return bus.Entry{Pos: pos, Kind: kind, User: user, Data: data}
}
