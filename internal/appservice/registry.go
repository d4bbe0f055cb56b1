package appservice

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"myelin/internal/account"
	"myelin/internal/bus"
	"myelin/internal/ours"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// maxServices bounds the registrations in force.
const maxServices = 1000

// RegistryConfig is what a Registry needs.
type RegistryConfig struct {
	DB       *sqldb.DB
	Ours     *ours.Set
	Accounts *account.Accounts
	Bus      *bus.Bus
	// Files are registration files, and folders with such files (*.yaml, *.yml).
	Files []string
	// Transport carries requests to application services; nil means connections of this package's own.
	Transport http.RoundTripper
	Log       *slog.Logger // nil discards
}

// Registry is the registrations in force, and the way to the application services. It is safe for concurrent use.
type Registry struct {
	cfg     RegistryConfig
	log     *slog.Logger
	http    http.RoundTripper
	files   []*Service
	current atomic.Pointer[set]
	stale   atomic.Bool // another node may have changed registrations
	wake    chan struct{}
	close   func()

	mu      sync.Mutex    // orders changes of current; guards read
	read    sqldb.Pos     // of the last change that current shows
	changed chan struct{} // closed and replaced when current changes; guarded by mu
}

// set is the registrations at one time. Immutable.
type set struct {
	list   []*Service // by ID
	byID   map[string]*Service
	byHash map[string]*Service
}

// OpenRegistry reads the registrations and makes sure that their users exist. The errors name the file that is wrong.
func OpenRegistry(ctx context.Context, c RegistryConfig) (*Registry, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("open application services: %w", err)
	}
	g := &Registry{cfg: c, log: c.Log, http: c.Transport, wake: make(chan struct{}, 1), changed: make(chan struct{}), close: func() {}}
	if g.http == nil {
		g.http = newTransport()
	}
	var err error
	if g.files, err = g.readFiles(); err != nil {
		return nil, err
	}
	if c.Bus != nil {
		_, g.close = c.Bus.Subscribe(g.hear)
	}
	if err := g.reload(ctx); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// Close leaves the bus.
func (g *Registry) Close() {
	g.close()
	if t, ok := g.http.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// hashToken is how an as_token is kept and looked up.
func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// readFiles reads what the configuration names.
func (g *Registry) readFiles() (list []*Service, err error) {
	var paths []string
	for _, path := range g.cfg.Files {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read the registrations of application services (appservices): %w", err)
		}
		if !info.IsDir() {
			paths = append(paths, path)
			continue
		}
		for _, pattern := range []string{"*.yaml", "*.yml"} {
			found, err := filepath.Glob(filepath.Join(path, pattern))
			if err != nil {
				return nil, fmt.Errorf("list the registrations in %s: %w", path, err)
			}
			paths = append(paths, found...)
		}
	}
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		s, err := g.readFile(path)
		if err != nil {
			return nil, fmt.Errorf("the registration %s: %w", path, err)
		}
		list = append(list, s)
	}
	return list, nil
}

func (g *Registry) readFile(path string) (*Service, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	r, err := Parse(text)
	if err != nil {
		return nil, err
	}
	return compile(*r, hashToken(r.ASToken), path, g.cfg.Ours.Primary())
}

// readStored reads what commands added, and up to which change.
func (g *Registry) readStored(tx *sqldb.Tx) (list []*Service, pos sqldb.Pos, err error) {
	if _, err := tx.Get(stmtChange, nil, &pos); err != nil {
		return nil, 0, err
	}
	err = tx.Query(stmtList, func(row *sqldb.Row) error {
		var name, text, hash string
		if err := row.Scan(&name, &text, &hash); err != nil {
			return err
		}
		var r Registration
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return fmt.Errorf("the stored registration %s: %w", name, err)
		}
		s, err := compile(r, hash, "", g.cfg.Ours.Primary())
		if err != nil {
			return fmt.Errorf("the stored registration %s: %w", name, err)
		}
		list = append(list, s)
		return nil
	})
	return list, pos, err
}

// newSet puts registrations into force together, or says what stands between them.
func newSet(list []*Service) (*set, error) {
	if len(list) > maxServices {
		return nil, fmt.Errorf("there are more than %d application services", maxServices)
	}
	n := &set{list: slices.Clone(list), byID: make(map[string]*Service), byHash: make(map[string]*Service)}
	slices.SortFunc(n.list, func(a, b *Service) int { return strings.Compare(a.ID, b.ID) })
	for i, s := range n.list {
		if n.byID[s.ID] != nil {
			return nil, fmt.Errorf("two application services have the id %q%s", s.ID, where(s, n.byID[s.ID]))
		}
		if other := n.byHash[s.hash]; other != nil {
			return nil, fmt.Errorf("the application services %q and %q have the same as_token%s", other.ID, s.ID, where(s, other))
		}
		n.byID[s.ID], n.byHash[s.hash] = s, s
		for _, other := range n.list[:i] {
			if err := collide(s, other); err != nil {
				return nil, fmt.Errorf("the application services %q and %q: %w%s", other.ID, s.ID, err, where(s, other))
			}
		}
	}
	return n, nil
}

// where names the files of two registrations.
func where(list ...*Service) string {
	var files []string
	for _, s := range list {
		if s.Source != "" {
			files = append(files, s.Source)
		}
	}
	if files == nil {
		return ""
	}
	return " (" + strings.Join(files, ", ") + ")"
}

// collide says how two application services stand in each other's way.
func collide(a, b *Service) error {
	switch {
	case a.User == b.User:
		return fmt.Errorf("both have the sender_localpart %q", a.Sender)
	case a.users.exclusive(string(b.User)):
		return fmt.Errorf("the user %s of %q is in an exclusive namespace of %q", b.User, b.ID, a.ID)
	case b.users.exclusive(string(a.User)):
		return fmt.Errorf("the user %s of %q is in an exclusive namespace of %q", a.User, a.ID, b.ID)
	}
	for _, kind := range []struct {
		what string
		a, b names
	}{{"users", a.users, b.users}, {"aliases", a.aliases, b.aliases}} {
		for _, x := range kind.a {
			for _, y := range kind.b {
				if !x.Exclusive || !y.Exclusive {
					continue
				}
				both, err := overlap(x.Regex, y.Regex)
				if err != nil {
					return err
				}
				if both {
					return fmt.Errorf("their exclusive namespaces of %s overlap: %q and %q", kind.what, x.Regex, y.Regex)
				}
			}
		}
	}
	return nil
}

// hear learns of changes that other nodes made.
func (g *Registry) hear(r bus.Range) {
	news := r.Foreign
	for _, e := range r.Entries {
		news = news || e.Kind == bus.Appservices
	}
	if news && g.stale.CompareAndSwap(false, true) {
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
}

// lookEvery is how often it is looked for changes of other nodes while these write.
const lookEvery = time.Second

// Follow takes over what other nodes change, until ctx ends.
func (g *Registry) Follow(ctx context.Context) error {
	pause := time.NewTicker(lookEvery)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.wake:
		}
		g.stale.Store(false)
		if err := g.reload(ctx); err != nil && ctx.Err() == nil {
			g.log.Error("registrations of application services could not be read", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
	}
}

// reload reads the table if it changed.
func (g *Registry) reload(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var stored []*Service
	var pos sqldb.Pos
	fresh := true
	err := g.cfg.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if _, err = tx.Get(stmtChange, nil, &pos); err != nil {
			return err
		}
		if fresh = g.current.Load() == nil || pos != g.read; !fresh {
			return nil
		}
		stored, pos, err = g.readStored(tx)
		return err
	})
	if err != nil || !fresh {
		return err
	}
	if old := g.current.Load(); old != nil {
		for i, s := range stored { // what did not change goes on as it is
			if was := old.byID[s.ID]; was != nil && was.hash == s.hash && reflect.DeepEqual(was.Registration, s.Registration) {
				stored[i] = was
			}
		}
	}
	n, err := newSet(append(slices.Clone(g.files), stored...))
	if err != nil {
		return err
	}
	if err := g.settle(ctx, n.list...); err != nil {
		return err
	}
	g.show(n, pos)
	return nil
}

// show puts a set into force. Caller holds mu.
func (g *Registry) show(n *set, pos sqldb.Pos) {
	g.current.Store(n)
	g.read = pos
	close(g.changed)
	g.changed = make(chan struct{})
}

// settle makes the users of application services.
//
// Spec: as Registration
func (g *Registry) settle(ctx context.Context, list ...*Service) error {
	for _, s := range list {
		_, err := g.cfg.Accounts.User(ctx, s.User)
		if mxerr.Is(err, mxerr.CodeNotFound) {
			err = g.cfg.Accounts.Create(ctx, account.NewUser{ID: s.User, Kind: account.KindAppservice})
		}
		if err != nil && !mxerr.Is(err, mxerr.CodeUserInUse) {
			return fmt.Errorf("make the user %s of the application service %q: %w", s.User, s.ID, err)
		}
	}
	return nil
}

// watch returns the registrations in force, and a channel that is closed when they change.
func (g *Registry) watch() (*set, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.current.Load(), g.changed
}

// Services lists the application services in force by ID. A nil Registry has none.
func (g *Registry) Services() []*Service {
	if g == nil {
		return nil
	}
	return g.current.Load().list
}

// Service returns an application service by its ID, nil where there is none.
func (g *Registry) Service(name string) *Service {
	if g == nil {
		return nil
	}
	return g.current.Load().byID[name]
}

// Add stores a registration and puts it into force. The errors say what is wrong with it, or with which other it is at odds.
func (g *Registry) Add(ctx context.Context, text []byte) (*Service, error) {
	s, err := g.Check(text, false)
	if err != nil {
		return nil, err
	}
	raw, err := s.stored()
	if err != nil {
		return nil, err
	}
	if err := g.settle(ctx, s); err != nil {
		return nil, err
	}
	err = g.change(ctx, func(tx *sqldb.Tx, all []*Service) error {
		if _, err := newSet(append(all, s)); err != nil {
			return mxerr.InvalidParam("%s.", err)
		}
		last, err := tx.Last()
		if err != nil {
			return err
		}
		tx.Queue(stmtAdd, s.ID, raw, s.hash, time.Now().UnixMilli())
		tx.Queue(stmtNoQueue, s.ID)
		if s.URL != "" {
			tx.Queue(stmtNewQueue, s.ID, last)
		}
		return nil
	})
	return s, err
}

// Check reads a registration and compares it with those in force, without effect. With instead it may take the place of one of the same ID.
func (g *Registry) Check(text []byte, instead bool) (*Service, error) {
	r, err := Parse(text)
	if err != nil {
		return nil, mxerr.InvalidParam("%s.", err)
	}
	s, err := compile(*r, hashToken(r.ASToken), "", g.cfg.Ours.Primary())
	if err != nil {
		return nil, mxerr.InvalidParam("%s.", err)
	}
	others := slices.Clone(g.Services())
	if instead {
		others = slices.DeleteFunc(others, func(o *Service) bool { return o.ID == s.ID })
	}
	if _, err := newSet(append(others, s)); err != nil {
		return nil, mxerr.InvalidParam("%s.", err)
	}
	return s, nil
}

// Remove ends an application service that was added by a command. What waits for it is forgotten; its users stay.
func (g *Registry) Remove(ctx context.Context, name string) error {
	if s := g.Service(name); s != nil && s.Source != "" {
		return mxerr.InvalidParam("The application service %q is registered by the file %s: take it out of the configuration and restart.", name, s.Source)
	}
	return g.change(ctx, func(tx *sqldb.Tx, _ []*Service) error {
		n, err := tx.Exec(stmtRemove, name)
		if err != nil {
			return err
		}
		if n == 0 {
			return mxerr.NotFound("There is no application service %q.", name)
		}
		tx.Queue(stmtNoQueue, name)
		return nil
	})
}

// change changes the table and takes the change over. fn gets what is in force as the transaction sees it.
func (g *Registry) change(ctx context.Context, fn func(tx *sqldb.Tx, all []*Service) error) error {
	err := g.cfg.DB.Write(ctx, func(tx *sqldb.Tx) error {
		pos, err := tx.Pos() // keeps other nodes that change registrations waiting
		if err != nil {
			return err
		}
		stored, _, err := g.readStored(tx)
		if err != nil {
			return err
		}
		if err := fn(tx, append(slices.Clone(g.files), stored...)); err != nil {
			return err
		}
		tx.Queue(stmtChanged, pos)
		tx.Emit(bus.Entry{Pos: pos, Kind: bus.Appservices})
		return nil
	})
	if err != nil {
		return err
	}
	return g.reload(ctx)
}

// Exclusive reports whether an application service has reserved a user ID.
func (g *Registry) Exclusive(user id.UserID) bool {
	return slices.ContainsFunc(g.Services(), func(s *Service) bool { return s.Owns(user) })
}

// errExclusive is what others than the application service get.
func errExclusive(what string) error {
	return mxerr.New(mxerr.CodeExclusive, "%s is reserved by an application service.", what)
}

// MayAlias returns M_EXCLUSIVE where a room alias is not for the caller to make or delete. service is the ID of the application service
// that acts, empty for a user.
//
// Spec: as Server admin style permissions
func (g *Registry) MayAlias(service string, alias id.RoomAlias) error {
	if s := g.Service(service); s != nil && !s.aliases.match(string(alias)) {
		return mxerr.New(mxerr.CodeExclusive, "%s is not in the namespaces of this application service.", alias)
	}
	for _, s := range g.Services() {
		if s.ID != service && s.aliases.exclusive(string(alias)) && !g.OwnsAlias(service, alias) {
			return errExclusive(string(alias))
		}
	}
	return nil
}

// OwnsAlias reports whether an alias is in an exclusive namespace of an application service.
func (g *Registry) OwnsAlias(service string, alias id.RoomAlias) bool {
	s := g.Service(service)
	return s != nil && s.aliases.exclusive(string(alias))
}

// MayHave returns M_EXCLUSIVE where an application service wants a user who isn't its own.
//
// Spec: as Server admin style permissions
func (g *Registry) MayHave(s *Service, user id.UserID) error {
	if !s.Has(user) {
		return mxerr.New(mxerr.CodeExclusive, "%s is not in the namespaces of this application service.", user)
	}
	for _, other := range g.Services() {
		if other != s && other.ID != s.ID && !s.Owns(user) && other.Owns(user) {
			return errExclusive(string(user))
		}
	}
	return nil
}
