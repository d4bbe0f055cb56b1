package fedclient

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/sign"
)

// The tables: single keys, and the object that the server itself signed last, which is what we give as a notary. Times are in
// milliseconds since the epoch. An expiry of 0 marks a key in use; an empty notary one that the server itself gave; vouched is 0 or a later
// end of validity that a notary told.
var migrations = []sqldb.Migration{{Slice: "fedclient", Version: 1, SQL: `
CREATE TABLE remote_keys (
	server      TEXT NOT NULL,
	key_id      TEXT NOT NULL,
	public      BLOB NOT NULL,
	valid_until BIGINT NOT NULL,
	expired     BIGINT NOT NULL,
	notary      TEXT NOT NULL,
	vouched     BIGINT NOT NULL,
	PRIMARY KEY (server, key_id)
);
CREATE TABLE remote_key_sets (
	server      TEXT NOT NULL PRIMARY KEY,
	object      BLOB NOT NULL,
	fetched     BIGINT NOT NULL,
	valid_until BIGINT NOT NULL
);`}}

var (
	sqlRemoteKeys = sqldb.SQL(`SELECT key_id, public, valid_until, expired, notary, vouched FROM remote_keys WHERE server = $1`)

	sqlPutRemoteKey = sqldb.SQL(`INSERT INTO remote_keys (server, key_id, public, valid_until, expired, notary, vouched) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (server, key_id) DO UPDATE SET public = excluded.public, valid_until = excluded.valid_until, expired = excluded.expired, notary = excluded.notary, vouched = excluded.vouched`)

	sqlDropRemoteKeys = sqldb.SQL(`DELETE FROM remote_keys WHERE server = $1`)

	sqlRemoteKeySet = sqldb.SQL(`SELECT object, fetched, valid_until FROM remote_key_sets WHERE server = $1`)

	sqlPutRemoteKeySet = sqldb.SQL(`INSERT INTO remote_key_sets (server, object, fetched, valid_until) VALUES ($1, $2, $3, $4)
		ON CONFLICT (server) DO UPDATE SET object = excluded.object, fetched = excluded.fetched, valid_until = excluded.valid_until`)
)

// storedSet is the object that a server signed last.
type storedSet struct {
	object              json.RawMessage
	fetched, validUntil int64
}

func (r *ring) readKeys(tx *sqldb.Tx, server id.ServerName) (map[sign.KeyID]remoteKey, error) {
	keys := make(map[sign.KeyID]remoteKey)
	err := tx.Query(sqlRemoteKeys, func(row *sqldb.Row) error {
		var keyID sign.KeyID
		var k remoteKey
		if err := row.Scan(&keyID, (*[]byte)(&k.public), &k.validUntil, &k.expired, &k.notary, &k.vouched); err != nil {
			return err
		}
		if len(k.public) == ed25519.PublicKeySize {
			k.hearsay = k.notary != "" && !r.trusts(k.notary)
			keys[keyID] = k
		}
		return nil
	}, server)
	return keys, err
}

func writeKeys(tx *sqldb.Tx, server id.ServerName, keys map[sign.KeyID]remoteKey) error {
	if _, err := tx.Exec(sqlDropRemoteKeys, server); err != nil {
		return err
	}
	for _, keyID := range slices.Sorted(maps.Keys(keys)) {
		k := keys[keyID]
		tx.Queue(sqlPutRemoteKey, server, keyID, []byte(k.public), k.validUntil, k.expired, k.notary, k.vouched)
	}
	return nil
}

func (c *Client) storedKeys(ctx context.Context, server id.ServerName) (keys map[sign.KeyID]remoteKey, err error) {
	err = c.db.Read(ctx, func(tx *sqldb.Tx) error {
		keys, err = c.ring.readKeys(tx, server)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the keys of %s: %w", server, err)
	}
	return keys, nil
}

func (c *Client) storedSet(ctx context.Context, server id.ServerName) (set storedSet, found bool, err error) {
	err = c.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err = tx.Get(sqlRemoteKeySet, []any{server}, (*[]byte)(&set.object), &set.fetched, &set.validUntil)
		return err
	})
	if err != nil {
		return storedSet{}, false, fmt.Errorf("read the key object of %s: %w", server, err)
	}
	return set, found, nil
}

// storeDirect keeps what a server says of itself and returns all keys that count from now on.
func (c *Client) storeDirect(ctx context.Context, got *serverKeys, now time.Time) (keys map[sign.KeyID]remoteKey, err error) {
	err = c.db.Write(ctx, func(tx *sqldb.Tx) error {
		held, err := c.ring.readKeys(tx, got.server)
		if err != nil {
			return err
		}
		keys = c.ring.mergeDirect(held, got, now)
		if err := writeKeys(tx, got.server, keys); err != nil {
			return err
		}
		_, err = tx.Exec(sqlPutRemoteKeySet, got.server, []byte(got.raw), now.UnixMilli(), got.validUntil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("keep the keys of %s: %w", got.server, err)
	}
	return keys, nil
}

// storeNotary keeps what a notary says of a server and returns all keys that count from now on.
func (c *Client) storeNotary(ctx context.Context, got *serverKeys, notary id.ServerName) (keys map[sign.KeyID]remoteKey, err error) {
	err = c.db.Write(ctx, func(tx *sqldb.Tx) error {
		held, err := c.ring.readKeys(tx, got.server)
		if err != nil {
			return err
		}
		keys = mergeNotary(held, got, notary, c.ring.trusts(notary))
		return writeKeys(tx, got.server, keys)
	})
	if err != nil {
		return nil, fmt.Errorf("keep the keys of %s that %s gave: %w", got.server, notary, err)
	}
	return keys, nil
}

// mergeDirect takes a server's own word. A key that the server does not mention any more is retired as of now; what only a notary
// said that we asked for want of the server goes.
func (r *ring) mergeDirect(held map[sign.KeyID]remoteKey, got *serverKeys, now time.Time) map[sign.KeyID]remoteKey {
	keys := maps.Clone(got.keys)
	// The youngest first, so that the bound drops what is oldest.
	old := slices.SortedFunc(maps.Keys(held), func(a, b sign.KeyID) int { return int(held[b].validUntil/1000 - held[a].validUntil/1000) })
	for _, keyID := range old {
		k := held[keyID]
		_, said := keys[keyID]
		if said || len(keys) >= 2*maxKeys || k.hearsay {
			continue
		}
		if k.expired == 0 && k.notary == "" {
			k.validUntil = min(k.validUntil, now.UnixMilli())
			k.expired, k.vouched = k.validUntil, 0
		}
		keys[keyID] = k
	}
	return keys
}

// trusts reports whether the operator trusts a notary.
func (r *ring) trusts(notary id.ServerName) bool { return slices.Contains(r.notaries, notary) }

// mergeNotary adds what a notary says. A key with the same ID stays what it is, unless it is hearsay and the notary is trusted. The same key may
// turn out to be valid for longer if it signed that itself: for events, since whoever stole it could do so too.
func mergeNotary(held map[sign.KeyID]remoteKey, got *serverKeys, notary id.ServerName, trusted bool) map[sign.KeyID]remoteKey {
	keys := maps.Clone(held)
	for _, keyID := range slices.Sorted(maps.Keys(got.keys)) {
		k := got.keys[keyID]
		was, known := keys[keyID]
		switch {
		case !known && len(keys) < 2*maxKeys || known && was.hearsay && trusted:
			k.notary, k.hearsay = notary, !trusted
			keys[keyID] = k
		case known && k.signed && was.public.Equal(k.public) && was.expired == 0 && k.expired == 0:
			was.vouched = max(was.vouched, k.validUntil)
			keys[keyID] = was
		}
	}
	return keys
}
