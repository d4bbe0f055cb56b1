package account

import (
	"context"
	"fmt"
	"sync"
	"time"

	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/matrix/id"
	"myelin/matrix/mxerr"
)

// session is what an access token stands for. It does not change once it is in the cache.
type session struct {
	caller    web.Caller
	expires   int64 // milliseconds since the epoch; 0 means never
	refreshID int64
	parent    int64 // of the refresh token, where the pair has not been used yet
}

var sqlSession = sqldb.SQL(`
	SELECT t.token_id, t.user_id, t.device_id, t.expires, t.refresh_id, COALESCE(r.parent, 0),
		u.kind, u.admin, u.locked, u.suspended
	FROM access_tokens t
	JOIN users u ON u.user_id = t.user_id
	LEFT JOIN refresh_tokens r ON r.token_id = t.refresh_id
	WHERE t.hash = $1 AND u.deactivated = 0`)

// Authenticate finds out who an access token belongs to. The errors are M_UNKNOWN_TOKEN, with
// soft_logout where the token has merely expired. A locked account is no error here: the caller says so.
//
// A token that is in use costs no database read.
//
// Spec: cs Using access tokens
// Spec: cs Soft logout
func (a *Accounts) Authenticate(ctx context.Context, token string) (web.Caller, error) {
	if err := a.recheck(ctx); err != nil {
		return web.Caller{}, err
	}
	hash := hashToken(token)
	s, ok := a.gate.tokens.GetIfPresent(hash)
	if !ok {
		var err error
		if s, err = a.loadSession(ctx, hash); err != nil {
			return web.Caller{}, err
		}
	}
	at := now()
	if s.expires != 0 && s.expires <= at {
		return web.Caller{}, unknownToken("The access token has expired.", true)
	}
	a.seen.touch(s.caller.User, s.caller.Device, at)
	return s.caller, nil
}

// loadSession reads a session into the cache. The first use of a token that replaced another
// ends that other before anything else happens.
func (a *Accounts) loadSession(ctx context.Context, hash string) (*session, error) {
	epoch := a.gate.begin()
	var s *session
	err := a.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		s, err = readSession(tx, hash)
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.parent != 0 && (s.expires == 0 || s.expires > now()) {
		err := a.change(ctx, func(tx *sqldb.Tx, c *changes) error {
			var parent int64
			if _, err := tx.Get(sqlParent, []any{s.refreshID}, &parent); err != nil {
				return fmt.Errorf("load refresh token of %s: %w", s.caller.User, err)
			}
			if parent == 0 {
				return errUnchanged // somebody else was faster
			}
			return confirm(tx, c, s.caller.User, s.caller.Device, s.refreshID, parent)
		})
		if err != nil {
			return nil, err
		}
		s.parent = 0
		return s, nil // the next request caches it
	}
	a.gate.enter(epoch, func() { a.gate.tokens.Set(hash, s) })
	return s, nil
}

func readSession(tx *sqldb.Tx, hash string) (*session, error) {
	var s session
	var kind Kind
	c := &s.caller
	found, err := tx.Get(sqlSession, []any{hash}, &c.TokenID, &c.User, &c.Device, &s.expires, &s.refreshID, &s.parent,
		&kind, &c.Admin, &c.Locked, &c.Suspended)
	if err != nil {
		return nil, fmt.Errorf("load access token: %w", err)
	}
	if !found {
		return nil, unknownToken("The access token is not known.", false)
	}
	c.Guest = kind == KindGuest
	return &s, nil
}

// seenEvery is how precise the time is at which a device was last seen. The specification allows
// minutes.
const seenEvery = time.Minute

// seenLog remembers which devices were seen when and from where, until FlushSeen writes it. Losing
// it loses a few minutes of precision.
type seenLog struct {
	mu    sync.Mutex // guards the fields below
	seen  map[seenKey]sighting
	dirty map[seenKey]struct{}
}

type seenKey struct {
	user   id.UserID
	device id.DeviceID
}

type sighting struct {
	ts int64
	ip string
}

// maxSeen bounds the log. Sightings that are written already are forgotten when it is reached; where most are not,
// nothing new is noted until FlushSeen.
const maxSeen = 50_000

func (l *seenLog) touch(user id.UserID, device id.DeviceID, at int64) {
	l.update(seenKey{user, device}, at, "")
}

// update notes a sighting. An empty ip leaves the address as it is. A map look-up is all that most requests cost.
func (l *seenLog) update(k seenKey, at int64, ip string) {
	if k.device == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old, known := l.seen[k]
	if known && at-old.ts < seenEvery.Milliseconds() && (ip == "" || ip == old.ip) {
		return
	}
	if ip == "" {
		ip = old.ip
	}
	if l.seen == nil || len(l.seen) >= maxSeen {
		if len(l.dirty) > maxSeen/2 {
			return
		}
		l.trim()
	}
	l.seen[k] = sighting{at, ip}
	l.dirty[k] = struct{}{}
}

// trim keeps what is not written yet. Caller holds mu.
func (l *seenLog) trim() {
	kept := make(map[seenKey]sighting, len(l.dirty))
	for k := range l.dirty {
		kept[k] = l.seen[k]
	}
	l.seen = kept
	if l.dirty == nil {
		l.dirty = make(map[seenKey]struct{})
	}
}

// merge puts what is not written yet into a device that was read.
func (l *seenLog) merge(user id.UserID, d *Device) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.seen[seenKey{user, d.ID}]
	if !ok || s.ts < d.LastSeenTS {
		return
	}
	d.LastSeenTS = s.ts
	if s.ip != "" {
		d.LastSeenIP = s.ip
	}
}

// take empties the list of what is to be written.
func (l *seenLog) take() map[seenKey]sighting {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make(map[seenKey]sighting, len(l.dirty))
	for k := range l.dirty {
		list[k] = l.seen[k]
	}
	clear(l.dirty)
	return list
}

// Saw notes the address that a device's request came from. It costs a map look-up; nothing is
// written before FlushSeen.
func (a *Accounts) Saw(caller web.Caller, ip string) {
	a.seen.update(seenKey{caller.User, caller.Device}, now(), ip)
}

var sqlSeen = sqldb.SQL(`UPDATE devices SET seen_ts = $3, seen_ip = CASE WHEN $4 = '' THEN seen_ip ELSE $4 END
	WHERE user_id = $1 AND device_id = $2 AND seen_ts < $3`)

// FlushSeen writes when devices were last seen, in one transaction. The server runs it every minute or so
// and when it stops.
func (a *Accounts) FlushSeen(ctx context.Context) error {
	list := a.seen.take()
	if len(list) == 0 {
		return nil
	}
	err := a.db.Write(ctx, func(tx *sqldb.Tx) error {
		for k, s := range list {
			tx.Queue(sqlSeen, k.user, k.device, s.ts, text(s.ip, 64))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write when devices were seen: %w", err)
	}
	return nil
}

// Caller describes a user without a token, for code that acts in a user's name.
func (a *Accounts) Caller(ctx context.Context, user id.UserID) (web.Caller, error) {
	u, err := a.User(ctx, user)
	if err != nil {
		return web.Caller{}, err
	}
	if u.DeactivatedTS != 0 {
		return web.Caller{}, mxerr.New(mxerr.CodeUserDeactivated, "The account of %s has been deactivated.", user)
	}
	return web.Caller{User: user, Guest: u.Kind == KindGuest, Admin: u.Admin, Locked: u.Locked, Suspended: u.Suspended}, nil
}
