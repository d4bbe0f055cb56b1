package sqldb

import (
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
	"zombiezen.com/go/sqlite"
)

// SQLite asks the operating system for fdatasync where it was built to know it, and for fsync elsewhere. The build that we use asks for
// fsync, which also waits for the journal of the file system to take each new time of modification: a commit takes nearly
// twice as long. What follows is a VFS that is SQLite's own but for that call. The promise is the same: the data, and what it takes to
// find it again after a power failure, are on disk.
const dataSyncVFS = "myelin"

// dataSync is what the VFS consists of; SQLite keeps pointers to it for good.
var dataSync struct {
	once sync.Once
	err  error
	name [len(dataSyncVFS) + 1]byte
	vfs  sqlite3.Tsqlite3_vfs
	open func(tls *libc.TLS, vfs, name, file uintptr, flags int32, outFlags uintptr) int32

	mu      sync.Mutex                               // guards methods
	methods map[uintptr]*sqlite3.Tsqlite3_io_methods // ours by SQLite's: one for the database, one for files that need no lock
}

// plainSync is SQLite's own sync of a file.
var plainSync atomic.Pointer[func(tls *libc.TLS, file uintptr, flags int32) int32]

// sqliteFile returns the name to open a database by, and flags for that.
func sqliteFile(path string) (string, sqlite.OpenFlags, error) {
	dataSync.once.Do(registerDataSync)
	if dataSync.err != nil {
		return "", 0, dataSync.err
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: "vfs=" + dataSyncVFS}
	return u.String(), sqlite.OpenURI, nil
}

func registerDataSync() {
	d := &dataSync
	tls := libc.NewTLS()
	defer tls.Close()
	base := sqlite3.Xsqlite3_vfs_find(tls, 0)
	if base == 0 {
		d.err = fmt.Errorf("sqlite: there is no default VFS")
		return
	}
	d.methods = make(map[uintptr]*sqlite3.Tsqlite3_io_methods)
	copy(d.name[:], dataSyncVFS)
	d.vfs = *(*sqlite3.Tsqlite3_vfs)(pointer(base))
	d.vfs.FpNext = 0
	d.vfs.FzName = uintptr(unsafe.Pointer(&d.name))
	d.open = *(*func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32)(unsafe.Pointer(&d.vfs.FxOpen))
	own := dataSyncOpen
	d.vfs.FxOpen = *(*uintptr)(unsafe.Pointer(&own))
	if code := sqlite3.Xsqlite3_vfs_register(tls, uintptr(unsafe.Pointer(&d.vfs)), 0); code != sqlite3.SQLITE_OK {
		d.err = fmt.Errorf("sqlite: register a VFS: %w", sqlite.ResultCode(code).ToError())
	}
}

// dataSyncOpen opens a file as SQLite does and gives it our sync.
func dataSyncOpen(tls *libc.TLS, vfs, name, file uintptr, flags int32, outFlags uintptr) int32 {
	d := &dataSync
	code := d.open(tls, vfs, name, file, flags, outFlags)
	if code != sqlite3.SQLITE_OK {
		return code
	}
	f := (*sqlite3.TunixFile)(pointer(file))
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.methods[f.FpMethod]
	if m == nil {
		m = new(sqlite3.Tsqlite3_io_methods)
		*m = *(*sqlite3.Tsqlite3_io_methods)(pointer(f.FpMethod))
		plain := *(*func(*libc.TLS, uintptr, int32) int32)(unsafe.Pointer(&m.FxSync))
		plainSync.Store(&plain)
		own := dataSyncSync
		m.FxSync = *(*uintptr)(unsafe.Pointer(&own))
		d.methods[f.FpMethod] = m
	}
	f.FpMethod = uintptr(unsafe.Pointer(m))
	return code
}

func dataSyncSync(tls *libc.TLS, file uintptr, flags int32) int32 {
	f := (*sqlite3.TunixFile)(pointer(file))
	if f.FctrlFlags&sqlite3.UNIXFILE_DIRSYNC != 0 { // a new file, whose folder has to be synced too
		return (*plainSync.Load())(tls, file, flags)
	}
	for {
		switch err := unix.Fdatasync(int(f.Fh)); err {
		case nil:
			return sqlite3.SQLITE_OK
		case unix.EINTR:
		case unix.EINVAL, unix.ENOSYS: // this file system has no fdatasync
			return (*plainSync.Load())(tls, file, flags)
		default:
			return sqlite3.SQLITE_IOERR_FSYNC
		}
	}
}

// pointer makes a pointer of an address outside Go's heap.
func pointer(address uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&address)) }
