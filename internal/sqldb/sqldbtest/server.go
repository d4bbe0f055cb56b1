package sqldbtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// server hands out databases of one PostgreSQL server. Who holds an advisory lock on a database's number owns it; the lock is
// a session's, so it ends with the process however that ends.
type server struct {
	url string

	mu    sync.Mutex // guards admin and mine
	admin *pgx.Conn  // holds the locks
	mine  map[string]bool
}

var servers [2]struct { // without and with fsync
	once sync.Once
	srv  *server
	err  error
}

// postgres returns the server for tests, or the one with fsync.
func postgres(fsync bool) (*server, error) {
	s := &servers[0]
	if fsync {
		s = &servers[1]
	}
	s.once.Do(func() {
		u := os.Getenv("MYELIN_TEST_POSTGRES")
		if u == "" {
			if u, s.err = startCluster(fsync); s.err != nil {
				return
			}
		}
		s.srv = &server{url: u, mine: make(map[string]bool)}
		s.srv.admin, s.err = pgx.Connect(context.Background(), u)
	})
	return s.srv, s.err
}

// with is the server's URL for another database.
func (s *server) with(database string) string {
	u, err := url.Parse(s.url)
	if err != nil {
		return s.url
	}
	u.Path = "/" + database
	return u.String()
}

// lockClass tells our advisory locks from others.
const lockClass = 7021

// claim returns an empty database that nobody else uses.
func (s *server) claim() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx := context.Background()
	for {
		rows, err := s.admin.Query(ctx, `SELECT datname FROM pg_database WHERE datname LIKE 'myelin\_t\_%' ORDER BY oid`)
		if err != nil {
			return "", err
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return "", err
		}
		for _, name := range names {
			if s.mine[name] {
				continue // the lock would be granted again
			}
			ours := false
			err := s.admin.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, oid::int) FROM pg_database WHERE datname = $2", lockClass, name).Scan(&ours)
			if err != nil {
				return "", err
			}
			if ours {
				s.mine[name] = true
				return name, s.empty(ctx, name)
			}
		}
		name := "myelin_t_" + strings.ToLower(rand.Text())
		if _, err := s.admin.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8'"); err != nil {
			return "", err
		}
	}
}

// empty removes what a test left, at its end or, if it crashed, before the next one.
func (s *server) empty(ctx context.Context, name string) error {
	_, err := s.admin.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.with(name))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var tables int
	err = conn.QueryRow(ctx, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace").Scan(&tables)
	if err != nil || tables == 0 {
		return err
	}
	if _, err := conn.Exec(ctx, "DROP SCHEMA public CASCADE; CREATE SCHEMA public"); err != nil {
		return fmt.Errorf("empty %s: %w", name, err)
	}
	return nil
}

func (s *server) giveBack(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx := context.Background()
	err := s.empty(ctx, name)
	delete(s.mine, name)
	_, unlock := s.admin.Exec(ctx, "SELECT pg_advisory_unlock($1, oid::int) FROM pg_database WHERE datname = $2", lockClass, name)
	if err != nil {
		return err
	}
	return unlock
}
