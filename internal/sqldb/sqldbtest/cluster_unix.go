//go:build unix

package sqldbtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// inUse is locked (shared) by this process for as long as it runs: the kernel lets go of it however the process ends.
var inUse []*os.File

// cluster is a PostgreSQL data folder under a folder of ours:
//
//	start.lock  held while one process looks at or changes the cluster's state
//	use.lock    held shared by every test binary that uses the cluster, exclusively by the reaper while it stops it
//	data, log   PostgreSQL's; the socket is in the folder itself
type cluster struct {
	dir   string
	bin   string
	fsync bool
	cred  *syscall.Credential // to run as; nil: as ourselves
}

func startCluster(fsync bool) (string, error) {
	c := &cluster{fsync: fsync, dir: filepath.Join(os.TempDir(), fmt.Sprintf("myelin-pg-%d-fast", os.Getuid()))}
	if fsync {
		c.dir = filepath.Join(os.TempDir(), fmt.Sprintf("myelin-pg-%d-sync", os.Getuid()))
	}
	if err := c.find(); err != nil {
		return "", err
	}
	if err := c.folder(); err != nil {
		return "", err
	}
	use, err := lock(filepath.Join(c.dir, "use.lock"), syscall.LOCK_SH)
	if err != nil {
		return "", err
	}
	inUse = append(inUse, use)
	start, err := lock(filepath.Join(c.dir, "start.lock"), syscall.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer start.Close()
	if c.ping() == nil {
		return c.url(), nil
	}
	if err := c.start(); err != nil {
		// What a power failure or a full disk left behind is not worth repairing.
		if err := os.RemoveAll(c.data()); err != nil {
			return "", err
		}
		if err := c.start(); err != nil {
			return "", err
		}
	}
	return c.url(), nil
}

func (c *cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *cluster) url() string {
	return "postgres://myelin@/postgres?host=" + url.QueryEscape(c.dir)
}

// find looks for the newest installed binaries and, as root, for an account to run them under.
func (c *cluster) find() error {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	if len(found) > 0 {
		c.bin = filepath.Dir(found[len(found)-1])
	} else if p, err := exec.LookPath("initdb"); err == nil {
		c.bin = filepath.Dir(p)
	} else {
		return errors.New("initdb was found neither in /usr/lib/postgresql/*/bin nor in PATH, and MYELIN_TEST_POSTGRES is not set")
	}
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		c.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return nil
	}
	return errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

func version(initdb string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
	return n
}

func (c *cluster) folder() error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(c.dir)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", c.dir)
	case c.cred != nil:
		return os.Chown(c.dir, int(c.cred.Uid), int(c.cred.Gid))
	case owner != uint32(os.Getuid()):
		return fmt.Errorf("%s belongs to somebody else", c.dir)
	}
	return nil
}

func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	// The reaper may run under another account.
	_ = f.Chmod(0o666)
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

func (c *cluster) ping() error {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, c.url())
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func (c *cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	// A session of its own: an interrupt of the test run does not reach a server that others use.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred, Setsid: true}
	return cmd
}

func (c *cluster) start() error {
	if _, err := os.Stat(filepath.Join(c.data(), "PG_VERSION")); err != nil {
		if err := os.RemoveAll(c.data()); err != nil {
			return err
		}
		out, err := c.command("initdb", "-D", c.data(), "-U", "myelin", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync").CombinedOutput()
		if err != nil {
			return fmt.Errorf("initdb: %w\n%s", err, out)
		}
	}
	options := "-c listen_addresses='' -c unix_socket_permissions=0700 -c max_connections=400 -c shared_buffers=128MB -c max_wal_size=2GB" +
		" -c unix_socket_directories='" + c.dir + "'"
	if !c.fsync {
		options += " -c fsync=off -c full_page_writes=off"
	}
	// Output goes to a file: a pipe would keep "go test" waiting for as long as the server lives.
	log := filepath.Join(c.dir, "log")
	if err := c.command("pg_ctl", "-D", c.data(), "-l", log, "-o", options, "-w", "-t", "60", "start").Run(); err != nil {
		text, _ := os.ReadFile(log)
		return fmt.Errorf("start PostgreSQL: %w\n%s", err, text[max(0, len(text)-2000):])
	}
	return c.reaper()
}

// reaper leaves a shell behind that stops the server once nobody has used it at three looks, 30 s apart.
func (c *cluster) reaper() error {
	const script = `idle=0
while sleep 30; do
	if flock -n -x use.lock true; then idle=$((idle+1)); else idle=0; fi
	if [ $idle -ge 3 ]; then flock -n -x use.lock "$0" -D data -m fast -w stop; fi
	[ -e data/postmaster.pid ] || exit 0
done`
	if _, err := exec.LookPath("flock"); err != nil {
		return nil // the server stays; it is found again by the next run
	}
	cmd := c.command("pg_ctl")
	cmd.Path = "/bin/sh"
	cmd.Args = []string{"sh", "-c", script, filepath.Join(c.bin, "pg_ctl")}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}
