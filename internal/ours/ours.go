package ours

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"myelin/internal/sqldb"
	"myelin/matrix/id"
	"myelin/matrix/sign"
)

// Config is what Open needs.
type Config struct {
	DB *sqldb.DB
	// Names are our server names; the first one is the primary name, which new users get.
	Names []id.ServerName
}

// OldKey is a key that signs nothing any more.
type OldKey struct {
	ID     sign.KeyID
	Public ed25519.PublicKey
	// ExpiredTS is when it was retired, in milliseconds since the epoch.
	ExpiredTS int64
}

// Set is our server names with their keys.
type Set struct {
	names []id.ServerName
	keys  map[id.ServerName]serverKeys
}

type serverKeys struct {
	current sign.Key
	old     []OldKey
}

var migrations = []sqldb.Migration{{Slice: "ours", Version: 1, SQL: `
CREATE TABLE server_keys (
	server  TEXT NOT NULL,
	key_id  TEXT NOT NULL,
	seed    TEXT NOT NULL,
	created BIGINT NOT NULL,
	expired BIGINT NOT NULL,
	PRIMARY KEY (server, key_id)
);`}}

var (
	// An expiry of 0 marks the current key.
	sqlKeys = sqldb.SQL(`SELECT key_id, seed, expired FROM server_keys WHERE server = $1 ORDER BY created, key_id`)

	sqlAddKey = sqldb.SQL(`INSERT INTO server_keys (server, key_id, seed, created, expired) VALUES ($1, $2, $3, $4, 0)`)

	sqlRetireKeys = sqldb.SQL(`UPDATE server_keys SET expired = $2 WHERE server = $1 AND expired = 0`)
)

// Open loads the keys of every name and makes a key for each name that has none.
func Open(ctx context.Context, cfg Config) (*Set, error) {
	if len(cfg.Names) == 0 {
		return nil, errors.New("no server name is configured")
	}
	if err := cfg.DB.Migrate(ctx, migrations...); err != nil {
		return nil, fmt.Errorf("migrate server keys: %w", err)
	}
	s := &Set{keys: make(map[id.ServerName]serverKeys, len(cfg.Names))}
	for _, name := range cfg.Names {
		if s.Is(name) {
			return nil, fmt.Errorf("the server name %s is configured twice", name)
		}
		keys, err := open(ctx, cfg.DB, name)
		if err != nil {
			return nil, fmt.Errorf("load signing key of %s: %w", name, err)
		}
		s.names = append(s.names, name)
		s.keys[name] = keys
	}
	return s, nil
}

// Rotate retires the current key of a name and makes a new one. A Set that is open is unchanged: the new key signs from the next
// Open on. So no server may run meanwhile: nobody believes what a key signed after it was retired.
func Rotate(ctx context.Context, db *sqldb.DB, name id.ServerName) error {
	key, err := generate()
	if err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	return db.Write(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(sqlRetireKeys, name, now); err != nil {
			return fmt.Errorf("retire keys of %s: %w", name, err)
		}
		_, err := tx.Exec(sqlAddKey, name, key.ID, seedText(key), now)
		return err
	})
}

// open reads the keys of one name and makes one where there is none. Taking a position locks out every other
// node that takes one, so that of two that both find no key only one makes it.
func open(ctx context.Context, db *sqldb.DB, name id.ServerName) (serverKeys, error) {
	fresh, err := generate()
	if err != nil {
		return serverKeys{}, err
	}
	var keys serverKeys
	err = db.Write(ctx, func(tx *sqldb.Tx) error {
		if err := load(tx, name, &keys); err != nil || keys.current.ID != "" {
			return err
		}
		if _, err := tx.Pos(); err != nil {
			return err
		}
		if err := load(tx, name, &keys); err != nil || keys.current.ID != "" {
			return err
		}
		keys.current = fresh
		_, err := tx.Exec(sqlAddKey, name, fresh.ID, seedText(fresh), time.Now().UnixMilli())
		return err
	})
	return keys, err
}

func load(tx *sqldb.Tx, name id.ServerName, into *serverKeys) error {
	*into = serverKeys{}
	return tx.Query(sqlKeys, func(r *sqldb.Row) error {
		var keyID, seed string
		var expired int64
		if err := r.Scan(&keyID, &seed, &expired); err != nil {
			return err
		}
		raw, err := base64.RawStdEncoding.DecodeString(seed)
		if err != nil {
			return fmt.Errorf("the stored seed of key %s is damaged: %w", keyID, err)
		}
		key, err := sign.FromSeed(sign.KeyID(keyID), raw)
		if err != nil {
			return fmt.Errorf("the stored seed of key %s is damaged: %w", keyID, err)
		}
		if expired == 0 {
			into.current = key
		} else {
			into.old = append(into.old, OldKey{ID: key.ID, Public: key.Public(), ExpiredTS: expired})
		}
		return nil
	}, name)
}

// generate makes a key whose version is random, so that a server that lost its database and
// starts again under the same name does not reuse a key ID.
func generate() (sign.Key, error) {
	version := "a_" + strings.ToLower(rand.Text()[:8])
	key, err := sign.Generate(rand.Reader, version)
	if err != nil {
		return sign.Key{}, fmt.Errorf("make a signing key: %w", err)
	}
	return key, nil
}

func seedText(k sign.Key) string {
	return base64.RawStdEncoding.EncodeToString(k.Private.Seed())
}

// Is reports whether the domain is one of our names.
func (s *Set) Is(domain id.ServerName) bool {
	_, ok := s.keys[domain]
	return ok
}

// Primary is the name that new users get unless they ask for another.
func (s *Set) Primary() id.ServerName { return s.names[0] }

// Names lists our names, the primary one first.
func (s *Set) Names() []id.ServerName { return slices.Clone(s.names) }

// Key returns the key that signs for the domain, and false where the domain is not ours.
func (s *Set) Key(domain id.ServerName) (sign.Key, bool) {
	k, ok := s.keys[domain]
	return k.current, ok
}

// OldKeys returns the retired keys of a domain, oldest first. They still verify what they signed.
func (s *Set) OldKeys(domain id.ServerName) []OldKey { return slices.Clone(s.keys[domain].old) }
