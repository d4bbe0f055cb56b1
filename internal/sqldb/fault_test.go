package sqldb_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
)

// proxy passes bytes between clients and PostgreSQL until it is told to cut: then the next thing a client sends ends all
// connections, either before it reaches the server or after, without the answer.
type proxy struct {
	net.Listener
	server string // path of the socket
	wg     sync.WaitGroup

	mu    sync.Mutex // guards below
	cut   cutting
	conns []net.Conn
}

type cutting int

const (
	passing   cutting = iota
	cutBefore         // the server gets the first byte of the next message only
	cutAfter          // the server gets the next message, the client no answer
)

func newProxy(t *testing.T, dbURL string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	dir := u.Query().Get("host")
	if dir == "" {
		t.Skip("the PostgreSQL server is not reached through a socket")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, server: filepath.Join(dir, ".s.PGSQL.5432")}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.endAll()
		p.wg.Wait()
	})
	u.Host = l.Addr().String()
	u.RawQuery = ""
	return p, u.String() + "?sslmode=disable"
}

func (p *proxy) arm(c cutting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = c
}

func (p *proxy) endAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func (p *proxy) accept() {
	for {
		client, err := p.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", p.server)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.wg.Go(func() { _, _ = io.Copy(client, server); client.Close() })
		p.wg.Go(func() { p.forward(server, client); server.Close() })
	}
}

func (p *proxy) forward(server, client net.Conn) {
	buf := make([]byte, 1<<16)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		cut := p.cut
		p.cut = passing
		p.mu.Unlock()
		switch cut {
		case cutBefore:
			_, _ = server.Write(buf[:1])
			p.endAll()
			return
		case cutAfter:
			client.Close() // first, so that no answer gets through
			_, _ = server.Write(buf[:n])
			return // closes the server's side; it has what it needs to go on
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// Whether the connection breaks before or after COMMIT arrives, the write takes place once and is answered truly.
func TestConnectionBreaksAtCommit(t *testing.T) {
	direct := sqldbtest.URL(t, sqldb.PostgreSQL)
	p, through := newProxy(t, direct)
	var told []sqldb.Commit
	db, err := sqldb.Open(t.Context(), sqldb.Config{URL: through, Committed: func(c sqldb.Commit) { told = append(told, c) }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	openThings(t, func(...func(*sqldb.Config)) *sqldb.DB { return db })
	for k, how := range []cutting{cutBefore, cutAfter, cutBefore, cutAfter} {
		for _, early := range []bool{false, true} { // whether the last exchange before COMMIT has been had
			k := int64(2*k + map[bool]int{true: 1}[early])
			warm := func(tx *sqldb.Tx) error { // so that no statement is left to be prepared later
				pos, err := tx.Pos()
				tx.Queue(insertThing, 100+k, pos, "")
				_, _ = tx.Get(countThing, []any{k}, nil)
				return err
			}
			if err := db.Write(t.Context(), warm); err != nil {
				t.Fatal(err)
			}
			runs := 0
			before := db.Stats()
			err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
				pos, err := tx.Pos()
				if err != nil {
					return err
				}
				tx.Queue(insertThing, k, pos, "")
				if early {
					if _, err := tx.Get(countThing, []any{k}, nil); err != nil {
						return err
					}
				}
				if runs++; runs == 1 {
					p.arm(how)
				}
				return nil
			})
			if err != nil {
				t.Fatalf("write %d: %v", k, err)
			}
			if want := map[cutting]int{cutBefore: 2, cutAfter: 1}[how]; runs != want {
				t.Errorf("write %d ran %d times, not %d", k, runs, want)
			}
			if n := db.Stats().Commits - before.Commits; n != 1 {
				t.Errorf("%d commits counted", n)
			}
		}
	}
	wantKeys(t, db, 0, 1, 2, 3, 4, 5, 6, 7, 100, 101, 102, 103, 104, 105, 106, 107)
	if last, _ := db.Last(t.Context()); last != 16 || len(told) != 16 || told[15].To != 16 {
		t.Errorf("the last position is %d; told %+v", last, told)
	}
}

// A writing connection that is ended by the server, idle or inside a transaction, is replaced without anybody noticing.
func TestServerEndsConnections(t *testing.T) {
	u := sqldbtest.URL(t, sqldb.PostgreSQL)
	db, err := sqldb.Open(t.Context(), sqldb.Config{URL: u})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	openThings(t, func(...func(*sqldb.Config)) *sqldb.DB { return db })
	killer, err := pgx.Connect(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	defer killer.Close(t.Context())
	kill := func() {
		_, err := killer.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		if err != nil {
			t.Error(err)
		}
	}
	kill()
	if err := db.Write(t.Context(), insert(1)); err != nil {
		t.Errorf("after the idle connection was ended: %v", err)
	}
	once := sync.OnceFunc(kill)
	errs := together(t, db, insert(2), func(tx *sqldb.Tx) error { err := insert(3)(tx); once(); return err }, insert(4))
	if err := errors.Join(errs...); err != nil {
		t.Errorf("after the connection was ended inside a transaction: %v", err)
	}
	wantKeys(t, db, 1, 2, 3, 4)
}

// Two nodes that lock the same rows in opposite order: PostgreSQL ends one transaction, which is run again.
func TestDeadlock(t *testing.T) {
	u := sqldbtest.URL(t, sqldb.PostgreSQL)
	var dbs [2]*sqldb.DB
	for i := range dbs {
		db, err := sqldb.Open(t.Context(), sqldb.Config{URL: u})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		dbs[i] = db
	}
	openThings(t, func(...func(*sqldb.Config)) *sqldb.DB { return dbs[0] })
	if err := dbs[0].Write(t.Context(), func(tx *sqldb.Tx) error { return errors.Join(insert(0)(tx), insert(1)(tx)) }); err != nil {
		t.Fatal(err)
	}
	touch := sqldb.Once("UPDATE things SET pos = pos + 1 WHERE k = $1")
	var both sync.WaitGroup
	both.Add(2)
	var wg sync.WaitGroup
	for i, db := range dbs {
		wg.Go(func() {
			meet := sync.OnceFunc(func() { both.Done(); both.Wait() })
			err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
				if _, err := tx.Exec(touch, i); err != nil {
					return err
				}
				meet()
				_, err := tx.Exec(touch, 1-i)
				return err
			})
			if err != nil {
				t.Errorf("node %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := dbs[0].Stats().Retries + dbs[1].Stats().Retries; n == 0 {
		t.Error("nothing was tried again")
	}
}

// A full disk fails every writer of the transaction, and the database works again once there is room.
func TestDiskFull(t *testing.T) {
	db := openThings(t, func(c ...func(*sqldb.Config)) *sqldb.DB { return sqldbtest.SQLite(t, c...) })
	limit := func(pages int) {
		t.Helper()
		err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
			_, err := tx.Exec(sqldb.Once(fmt.Sprintf("PRAGMA max_page_count = %d", pages)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	limit(30)
	big := func(tx *sqldb.Tx) error {
		_, err := tx.Exec(insertThing, 100, 0, strings.Repeat("x", 1<<20))
		return err
	}
	for i, err := range together(t, db, insert(1), big, insert(2)) {
		if err == nil {
			t.Errorf("write %d succeeded", i)
		}
	}
	wantKeys(t, db)
	limit(1 << 30)
	if err := db.Write(t.Context(), big); err != nil {
		t.Error(err)
	}
	wantKeys(t, db, 100)
}

// crashEnv makes this test binary a writer that prints each key once its write was acknowledged.
const crashEnv = "MYELIN_TEST_CRASH_URL"

func TestMain(m *testing.M) {
	if u := os.Getenv(crashEnv); u != "" {
		crashWriter(u)
	}
	os.Exit(m.Run())
}

func crashWriter(u string) {
	ctx := context.Background()
	db, err := sqldb.Open(ctx, sqldb.Config{URL: u})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for {
				k, err := db.IDs("things").Next(ctx)
				if err != nil {
					fmt.Println(err)
					return
				}
				err = db.Write(ctx, func(tx *sqldb.Tx) error {
					pos, err := tx.Pos()
					if err != nil {
						return err
					}
					tx.Queue(insertThing, k, pos, strconv.Itoa(w))
					return nil
				})
				if err != nil {
					fmt.Println(err)
					return
				}
				fmt.Println(k)
			}
		})
	}
	wg.Wait()
	os.Exit(1)
}

// What was acknowledged before a SIGKILL is there afterwards, and positions still have no gap.
func TestKill(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.PostgreSQL} {
		t.Run(d.String(), func(t *testing.T) {
			u := sqldbtest.URL(t, d)
			db, err := sqldb.Open(t.Context(), sqldb.Config{URL: u})
			if err != nil {
				t.Fatal(err)
			}
			openThings(t, func(...func(*sqldb.Config)) *sqldb.DB { return db })
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			var acked []int64
			for round := range 5 {
				acked = append(acked, crashOnce(t, u, 20+37*round)...)
			}
			db, err = sqldb.Open(t.Context(), sqldb.Config{URL: u})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			have := keys(t, db)
			for _, k := range acked {
				if _, found := slices.BinarySearch(have, k); !found {
					t.Errorf("%d was acknowledged and is lost", k)
				}
			}
			last, err := db.Last(t.Context())
			if int(last) != len(have) || err != nil {
				t.Errorf("%d rows and %d positions, %v", len(have), last, err)
			}
		})
	}
}

// crashOnce runs a writer, kills it after n acknowledgements, and returns what it acknowledged.
func crashOnce(t *testing.T, u string, n int) (acked []int64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+u)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		k, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil {
			t.Errorf("the writer says %q", lines.Text())
			break
		}
		if acked = append(acked, k); len(acked) == n {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	return acked
}
