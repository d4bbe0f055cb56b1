package servertest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"myelin/internal/config"
	"myelin/internal/nettest"
	"myelin/internal/server"
	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

// Net is several servers with names of their own on a network in memory, whose faults the test chooses. The test's clients
// reach all of them always.
type Net struct {
	*nettest.Network

	tb        testing.TB
	engine    sqldb.Dialect
	folder    string
	authority *nettest.Authority
	clients   *nettest.Host
	// commands has servers open the socket for commands. Set before they start, and not in a synctest bubble.
	commands bool
}

// NewNet makes a network without servers.
func NewNet(tb testing.TB, d sqldb.Dialect, seed uint64) *Net {
	tb.Helper()
	n := &Net{Network: nettest.New(seed), tb: tb, engine: d, folder: tb.TempDir()}
	n.clients = n.Steady("clients")
	var err error
	if n.authority, err = nettest.NewAuthority(); err == nil {
		err = n.authority.Write(n.path("ca.crt"))
	}
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// EachNet runs a subtest on each engine: with SQLite in a synctest bubble, where waiting costs nothing, and with PostgreSQL, which is
// another process, in real time.
func EachNet(t *testing.T, run func(t *testing.T, n *Net)) {
	t.Helper()
	t.Run(sqldb.SQLite.String(), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { run(t, NewNet(t, sqldb.SQLite, 1)) })
	})
	t.Run(sqldb.PostgreSQL.String(), func(t *testing.T) { run(t, NewNet(t, sqldb.PostgreSQL, 1)) })
}

func (n *Net) path(name string) string { return filepath.Join(n.folder, name) }

// Start runs a server of this name, with the settings of Start and a port for other servers.
func (n *Net) Start(name string, configure ...func(*config.Config)) *Server {
	n.tb.Helper()
	s := n.Prepare(name, configure...)
	s.start()
	return s
}

// Prepare is Start without starting; Up does that.
func (n *Net) Prepare(name string, configure ...func(*config.Config)) *Server {
	n.tb.Helper()
	c := configuration(n.tb, n.engine)
	c.ServerName = name
	c.DataDir = n.path(name)
	c.Client.Listen = "0.0.0.0:8008"
	c.Federation.Listen = "0.0.0.0:8448"
	c.Federation.TLSCert, c.Federation.TLSKey = n.path(name+".crt"), n.path(name+".key")
	c.Federation.CAFile = n.path("ca.crt")
	c.Federation.AllowNetworks = []string{nettest.Prefix.String()}
	for _, f := range configure {
		f(c)
	}
	if err := n.authority.Certify(name, n.path(name+".crt"), n.path(name+".key")); err != nil {
		n.tb.Fatal(err)
	}
	s := &Server{Config: c, tb: n.tb, member: &member{net: n, name: name}}
	n.tb.Cleanup(s.Stop)
	return s
}

// member is a server's place in a Net.
type member struct {
	net   *Net
	name  string
	host  *nettest.Host
	lives int // how often it crashed
}

// join gives a server a machine on the network.
func (m *member) join(c *server.Config) {
	m.host = m.net.Host(m.name)
	c.Listen, c.Dial, c.Resolver, c.NoCommands = m.host.Listen, m.host.Dial, m.host, !m.net.commands
}

// Name is the server's name.
func (s *Server) Name() string { return s.Config.ServerName }

// Up starts a server that is down.
func (s *Server) Up() {
	s.tb.Helper()
	s.start()
}

// Crash ends a server of a Net as a power failure would: its network is gone at once, and what it finds when it is Up again is what
// the disk held at that moment. It needs SQLite.
func (s *Server) Crash() {
	s.tb.Helper()
	stop := s.stop
	if stop == nil {
		return
	}
	s.stop = nil
	s.log.mute()
	s.member.host.Crash()
	s.member.lives++
	after := s.member.net.path(fmt.Sprintf("%s-%d", s.member.name, s.member.lives))
	if err := snapshot(s.Config.DataDir, after); err != nil {
		s.tb.Fatalf("crash %s: %v", s.member.name, err)
	}
	// What the process does from here on changes nothing but the folder that it leaves behind.
	before := s.Config.DataDir
	_ = stop()
	if err := os.RemoveAll(before); err != nil {
		s.tb.Fatal(err)
	}
	s.Config.DataDir = after
}

// snapshot copies a data folder while a server writes to it, as it could be found after a power failure: with everything that was
// committed before.
func snapshot(from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	const database = "myelin.db"
	// While somebody reads, the log is only appended to. So the database file, whatever is written to it meanwhile, and the log,
	// as far as it is whole, make the database of the moment when the log is copied.
	reader, err := sqlite.OpenConn(filepath.Join(from, database), sqlite.OpenReadOnly)
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer reader.Close()
	for _, statement := range []string{"BEGIN", "SELECT count(*) FROM sqlite_schema"} {
		if err := sqlitex.ExecuteTransient(reader, statement, nil); err != nil {
			return fmt.Errorf("hold the database: %w", err)
		}
	}
	for _, name := range []string{"node", database, database + "-wal"} {
		if err := copyFile(filepath.Join(from, name), filepath.Join(to, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// The files of media were in their places before the database knew of them.
	if err := os.CopyFS(filepath.Join(to, "media"), os.DirFS(filepath.Join(from, "media"))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy media: %w", err)
	}
	return nil
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// configuration is one with open registration and without rate limits.
func configuration(tb testing.TB, d sqldb.Dialect) *config.Config {
	tb.Helper()
	c := config.Default()
	if d == sqldb.PostgreSQL {
		c.Database = sqldbtest.URL(tb, d)
	}
	c.Registration = "open"
	c.AllowGuests = true
	c.RateLimits = "off"
	return c
}
