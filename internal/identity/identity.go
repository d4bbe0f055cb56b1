package identity

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/text/cases"

	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// Bounds of what users can have this server ask.
const (
	// patience is how long one request may take.
	patience = 10 * time.Second
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 64 << 10
	// maxAtOnce and maxOfUser bound the operations under way.
	maxAtOnce = 64
	maxOfUser = 2
	// maxBindings bounds what is remembered of one user.
	maxBindings = 100
)

// Config is what Open needs.
type Config struct {
	DB   *sqldb.DB
	Ours *ours.Set
	// Transport reaches identity servers. It refuses private addresses.
	Transport http.RoundTripper
	// Servers are the identity servers that may be asked; empty: all.
	Servers []string
}

// Identity is the door to everything in this package. It is safe for concurrent use.
type Identity struct {
	cfg    Config
	client *http.Client

	mu       sync.Mutex
	underWay map[id.UserID]int // guarded by mu
	total    int               // guarded by mu
}

var migrations = []sqldb.Migration{{Slice: "identity", Version: 1, SQL: `
	CREATE TABLE identity_bindings (
		user_id TEXT NOT NULL,
		medium  TEXT NOT NULL,
		address TEXT NOT NULL,
		server  TEXT NOT NULL,
		PRIMARY KEY (user_id, medium, address, server)
	);
`}}

var (
	sqlBound = sqldb.SQL(`SELECT medium, address, server FROM identity_bindings WHERE user_id = $1 ORDER BY medium, address, server`)
	sqlBind  = sqldb.SQL(`INSERT INTO identity_bindings (user_id, medium, address, server)
		SELECT $1, $2, $3, $4 WHERE (SELECT COUNT(*) FROM identity_bindings WHERE user_id = $1) < $5 ON CONFLICT DO NOTHING`)
	sqlUnbind = sqldb.SQL(`DELETE FROM identity_bindings WHERE user_id = $1 AND medium = $2 AND address = $3 AND server = $4`)
)

// Open prepares the table.
func Open(ctx context.Context, c Config) (*Identity, error) {
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	return &Identity{
		cfg: c, underWay: make(map[id.UserID]int),
		client: &http.Client{Transport: c.Transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}},
	}, nil
}

// Server is an identity server, and the token that a user has there.
type Server struct {
	Name  string
	Token string
}

// Address is a third-party identifier.
type Address struct{ Medium, Address string }

// normal is the form in which addresses are compared.
//
// Spec: appendices 3PID Types
func (a Address) normal() Address {
	if a.Medium == "email" {
		a.Address = cases.Fold().String(strings.TrimSpace(a.Address))
	}
	return a
}

// Check refuses an address of a kind that nobody knows.
func (a Address) Check() error {
	if a.Medium != "email" && a.Medium != "msisdn" {
		return mxerr.InvalidParam("there is no medium %.64q", a.Medium)
	}
	if a.Address == "" || len(a.Address) > 255 || strings.ContainsAny(a.Address, " \t\r\n") {
		return mxerr.InvalidParam("\"address\" is not an address")
	}
	return nil
}

// check refuses identity servers that this server doesn't speak to.
func (d *Identity) check(name string) error {
	if _, err := id.ParseServerName(name); err != nil {
		return mxerr.InvalidParam("\"id_server\": %v", err)
	}
	if len(d.cfg.Servers) > 0 && !slices.Contains(d.cfg.Servers, name) {
		return mxerr.New(mxerr.CodeServerNotTrusted, "this server does not speak to the identity server %s", name)
	}
	return nil
}

// enter counts an operation for a user, and refuses one too many.
func (d *Identity) enter(user id.UserID) (leave func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.total >= maxAtOnce || d.underWay[user] >= maxOfUser {
		return nil, mxerr.LimitExceeded(patience)
	}
	d.total++
	d.underWay[user]++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.total--
		if d.underWay[user]--; d.underWay[user] == 0 {
			delete(d.underWay, user)
		}
	}, nil
}

// binding is an address that was published.
type binding struct {
	Address
	server string
}

func (d *Identity) bindings(ctx context.Context, user id.UserID) (found []binding, err error) {
	err = d.cfg.DB.Read(ctx, func(tx *sqldb.Tx) error {
		found = nil
		return tx.Query(sqlBound, func(r *sqldb.Row) error {
			var b binding
			err := r.Scan(&b.Medium, &b.Address.Address, &b.server)
			found = append(found, b)
			return err
		}, user)
	})
	if err != nil {
		return nil, fmt.Errorf("find what %s has published: %w", user, err)
	}
	return found, nil
}

// Bind publishes the address that the user has confirmed to the identity server.
//
// Spec: cs bind3PID
// Calls: is bindV2
func (d *Identity) Bind(ctx context.Context, user id.UserID, at Server, sid, secret string) error {
	leave, err := d.enter(user)
	if err != nil {
		return err
	}
	defer leave()
	answer, err := d.post(ctx, at, "/3pid/bind", map[string]any{"sid": sid, "client_secret": secret, "mxid": user})
	if err != nil {
		return err
	}
	a := Address{answer.Get("medium").Str, answer.Get("address").Str}.normal()
	if a.Check() != nil || answer.Get("mxid").Str != string(user) {
		return unusable(at.Name)
	}
	return d.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlBind, user, a.Medium, a.Address, at.Name, maxBindings)
		return err
	})
}

// Unbind withdraws an address from an identity server; where none is named, from those it was published at. It reports whether that was done.
//
// Spec: cs unbind3pidFromAccount
func (d *Identity) Unbind(ctx context.Context, user id.UserID, a Address, server string) (bool, error) {
	a = a.normal()
	return d.withdraw(ctx, user, server, []binding{{a, server}}, func(b binding) bool { return b.Address == a })
}

// UnbindAll withdraws all that a user has published; from one identity server, if it is named.
//
// Spec: cs deactivateAccount
func (d *Identity) UnbindAll(ctx context.Context, user id.UserID, server string) (bool, error) {
	return d.withdraw(ctx, user, server, nil, func(b binding) bool { return server == "" || b.server == server })
}

// withdraw asks for what is known to be published and wanted, or for what is named where a server is.
func (d *Identity) withdraw(ctx context.Context, user id.UserID, server string, named []binding, wanted func(binding) bool) (bool, error) {
	if server != "" {
		if err := d.check(server); err != nil {
			return false, err
		}
	}
	leave, err := d.enter(user)
	if err != nil {
		return false, err
	}
	defer leave()
	list := named
	if server == "" || named == nil {
		known, err := d.bindings(ctx, user)
		if err != nil {
			return false, err
		}
		list = slices.DeleteFunc(known, func(b binding) bool { return !wanted(b) })
	}
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	done := len(list) > 0 || named == nil
	for _, b := range list {
		switch ok, err := d.unbind(ctx, user, b); {
		case err != nil && len(list) == 1 && named != nil:
			return false, err
		case err != nil || !ok:
			done = false
			continue
		}
		err := d.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
			_, err := tx.Exec(sqlUnbind, user, b.Medium, b.Address.Address, b.server)
			return err
		})
		if err != nil {
			return false, err
		}
	}
	return done, nil
}
