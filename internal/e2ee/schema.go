package e2ee

import (
	"fmt"
	"slices"

	"myelin/internal/account"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// A row of crypto_devices mirrors one of package account's devices; keys is its identity keys as canonical JSON without "unsigned", NULL
// before they are uploaded. Names of devices, algorithms and keys are as clients chose them. A one-time key that was
// claimed, at a time in milliseconds since the epoch, stays for a while, so that a repeated upload doesn't bring it back. A row of crypto_notes has the position at which
// the number of a device's keys last changed.
//
// key_lists has where the keys of a user, of ours or not, were last changed, and where those that only their user may see were. gone_devices
// remembers devices that were deleted, for servers that have yet to hear of it. remote_lists says of users of other servers that all their devices
// are in remote_devices: up to which of their updates (0 if that is not known), asked for by whom at which position, whether something was missed
// since, and when it was last of use. told_lists has up to which position other servers know our users' devices. A row of key_outbox is
// something that another server is to be told: that the devices of a user, the subject, changed; or content, an EDU with messages of
// the sender.
//
// device_inbox has the messages that devices have yet to get, as clients see them, and crypto_devices.waiting their number; device_txns has
// requests, and messages_seen EDUs, that are not to have an effect twice.
//
// cross_keys has the cross-signing keys of our users, and with remote_lists those of others. key_signatures has what our users signed: the target is
// a user, whose key is named by a device or by itself. A row of backups stays when the backup is deleted, so that no version comes twice. told_lists.signing is the position of the cross-signing keys that a server knows.
//
// dehydrated_devices says which device of a user is dehydrated, with what its user's client needs to take it over.
var migrations = []sqldb.Migration{{Slice: "e2ee", Version: 1, SQL: `
	CREATE TABLE crypto_devices (
		user_id TEXT NOT NULL,
		device_id TEXT NOT NULL,
		name TEXT NOT NULL,
		keys TEXT,
		pos BIGINT NOT NULL,
		PRIMARY KEY (user_id, device_id)
	);
	INSERT INTO crypto_devices (user_id, device_id, name, keys, pos)
		SELECT user_id, device_id, display_name, NULL, pos FROM devices;
	CREATE TABLE one_time_keys (
		user_id TEXT NOT NULL,
		device_id TEXT NOT NULL,
		algorithm TEXT NOT NULL,
		key_id TEXT NOT NULL,
		pos BIGINT NOT NULL,
		content TEXT NOT NULL,
		claimed BIGINT NOT NULL,
		PRIMARY KEY (user_id, device_id, algorithm, key_id)
	);
	CREATE INDEX one_time_keys_left ON one_time_keys (user_id, device_id, algorithm, pos) WHERE claimed = 0;
	CREATE INDEX one_time_keys_claimed ON one_time_keys (claimed) WHERE claimed > 0;
	CREATE TABLE fallback_keys (
		user_id TEXT NOT NULL,
		device_id TEXT NOT NULL,
		algorithm TEXT NOT NULL,
		key_id TEXT NOT NULL,
		content TEXT NOT NULL,
		used BIGINT NOT NULL,
		PRIMARY KEY (user_id, device_id, algorithm)
	);
	CREATE TABLE crypto_notes (
		user_id TEXT NOT NULL,
		device_id TEXT NOT NULL,
		pos BIGINT NOT NULL,
		PRIMARY KEY (user_id, device_id)
	) WITHOUT ROWID;
`}, {Slice: "e2ee", Version: 2, SQL: `
	CREATE TABLE key_lists (
		user_id TEXT NOT NULL PRIMARY KEY,
		pos BIGINT NOT NULL,
		own_pos BIGINT NOT NULL
	);
	CREATE INDEX key_lists_by_pos ON key_lists (pos);
	CREATE TABLE gone_devices (
		user_id TEXT NOT NULL,
		device_id TEXT NOT NULL,
		pos BIGINT NOT NULL,
		at BIGINT NOT NULL,
		PRIMARY KEY (user_id, device_id)
	);
	CREATE TABLE remote_lists (
		user_id TEXT NOT NULL PRIMARY KEY,
		stream_id BIGINT NOT NULL,
		fetched BIGINT NOT NULL,
		asker TEXT NOT NULL,
		stale BIGINT NOT NULL,
		used BIGINT NOT NULL
	);
	CREATE TABLE remote_devices (
		user_id TEXT NOT NULL,
		device_id TEXT NOT NULL,
		name TEXT NOT NULL,
		keys TEXT NOT NULL,
		PRIMARY KEY (user_id, device_id)
	);
	CREATE TABLE told_lists (
		server TEXT NOT NULL,
		user_id TEXT NOT NULL,
		pos BIGINT NOT NULL,
		PRIMARY KEY (server, user_id)
	) WITHOUT ROWID;
	CREATE TABLE key_outbox (
		server TEXT NOT NULL,
		origin TEXT NOT NULL,
		subject TEXT NOT NULL,
		pos BIGINT NOT NULL,
		at BIGINT NOT NULL,
		content TEXT,
		PRIMARY KEY (server, origin, subject)
	);
	CREATE INDEX key_outbox_in_order ON key_outbox (server, origin, pos);
	CREATE INDEX key_outbox_by_pos ON key_outbox (pos);
`}, {Slice: "e2ee", Version: 3, SQL: `
	ALTER TABLE crypto_devices ADD COLUMN waiting BIGINT NOT NULL DEFAULT 0;
	CREATE TABLE device_inbox (
		user_id TEXT NOT NULL,
		device_id TEXT NOT NULL,
		pos BIGINT NOT NULL,
		sender TEXT NOT NULL,
		event TEXT NOT NULL,
		PRIMARY KEY (user_id, device_id, pos)
	);
	CREATE TABLE device_txns (
		user_id TEXT NOT NULL,
		device_id TEXT NOT NULL,
		txn TEXT NOT NULL,
		at BIGINT NOT NULL,
		PRIMARY KEY (user_id, device_id, txn)
	) WITHOUT ROWID;
	CREATE INDEX device_txns_by_time ON device_txns (at);
	CREATE TABLE messages_seen (
		origin TEXT NOT NULL,
		message_id TEXT NOT NULL,
		at BIGINT NOT NULL,
		PRIMARY KEY (origin, message_id)
	) WITHOUT ROWID;
	CREATE INDEX messages_seen_by_time ON messages_seen (at);
`}, {Slice: "e2ee", Version: 4, SQL: `
	CREATE TABLE cross_keys (
		user_id TEXT NOT NULL,
		purpose TEXT NOT NULL,
		public TEXT NOT NULL,
		content TEXT NOT NULL,
		pos BIGINT NOT NULL,
		PRIMARY KEY (user_id, purpose)
	);
	CREATE TABLE key_signatures (
		target TEXT NOT NULL,
		target_key TEXT NOT NULL,
		signer TEXT NOT NULL,
		signer_key TEXT NOT NULL,
		signature TEXT NOT NULL,
		pos BIGINT NOT NULL,
		PRIMARY KEY (target, target_key, signer, signer_key)
	);
	CREATE INDEX key_signatures_by_signer ON key_signatures (signer, pos);
	ALTER TABLE told_lists ADD COLUMN signing BIGINT NOT NULL DEFAULT 0;
`}, {Slice: "e2ee", Version: 5, SQL: `
	CREATE TABLE backups (
		user_id TEXT NOT NULL,
		version BIGINT NOT NULL,
		algorithm TEXT NOT NULL,
		auth_data TEXT NOT NULL,
		etag BIGINT NOT NULL,
		keys BIGINT NOT NULL,
		deleted BIGINT NOT NULL,
		PRIMARY KEY (user_id, version)
	);
	CREATE INDEX backups_deleted ON backups (user_id) WHERE deleted = 1 AND keys > 0;
	CREATE TABLE backup_keys (
		user_id TEXT NOT NULL,
		version BIGINT NOT NULL,
		room_id TEXT NOT NULL,
		session_id TEXT NOT NULL,
		first_index BIGINT NOT NULL,
		forwarded BIGINT NOT NULL,
		verified BIGINT NOT NULL,
		data TEXT NOT NULL,
		PRIMARY KEY (user_id, version, room_id, session_id)
	) WITHOUT ROWID;
`}, {Slice: "e2ee", Version: 6, SQL: `
	ALTER TABLE key_outbox ADD COLUMN sender TEXT NOT NULL DEFAULT '';
`}, {Slice: "e2ee", Version: 7, SQL: `
	CREATE INDEX device_inbox_by_pos ON device_inbox (pos);
	CREATE INDEX crypto_notes_by_pos ON crypto_notes (pos);
`}, {Slice: "e2ee", Version: 8, SQL: `
	CREATE TABLE dehydrated_devices (
		user_id TEXT NOT NULL PRIMARY KEY,
		device_id TEXT NOT NULL,
		data TEXT NOT NULL
	);
`}}

// Migrations make the tables. Those of package account have to be there before.
func Migrations() []sqldb.Migration { return slices.Clone(migrations) }

var (
	stmtAddDevice = sqldb.SQL(`INSERT INTO crypto_devices (user_id, device_id, name, keys, pos) VALUES ($1, $2, $3, NULL, $4)
		ON CONFLICT (user_id, device_id) DO UPDATE SET name = excluded.name, pos = excluded.pos`)
	stmtNameDevice    = sqldb.SQL(`UPDATE crypto_devices SET name = $3, pos = $4 WHERE user_id = $1 AND device_id = $2`)
	stmtDropDevice    = sqldb.SQL(`DELETE FROM crypto_devices WHERE user_id = $1 AND device_id = $2`)
	stmtDropOneTime   = sqldb.SQL(`DELETE FROM one_time_keys WHERE user_id = $1 AND device_id = $2`)
	stmtDropFallbacks = sqldb.SQL(`DELETE FROM fallback_keys WHERE user_id = $1 AND device_id = $2`)
	// What the device signed goes with what was signed of it.
	stmtDropDeviceSigned = sqldb.SQL(`DELETE FROM key_signatures WHERE signer = $1 AND (target = $1 AND target_key = $2 OR signer_key = 'ed25519:' || $2)`)
	stmtDropInbox        = sqldb.SQL(`DELETE FROM device_inbox WHERE user_id = $1 AND device_id = $2`)
	stmtEndCrossed       = sqldb.SQL(`DELETE FROM cross_keys WHERE user_id = $1`)
	stmtEndSigned        = sqldb.SQL(`DELETE FROM key_signatures WHERE signer = $1`)
	stmtDropNote         = sqldb.SQL(`DELETE FROM crypto_notes WHERE user_id = $1 AND device_id = $2`)
)

// DevicesChanged follows what happens to devices, in its transaction: account.Config.DevicesChanged.
func DevicesChanged(tx *sqldb.Tx, pos sqldb.Pos, changes []account.DeviceChange) error {
	last := make(map[id.UserID]sqldb.Pos)
	for i, c := range changes {
		if i > 0 { // each change has an ID of its own for other servers
			var err error
			if pos, err = tx.Pos(); err != nil {
				return err
			}
		}
		switch c.Event {
		case account.DeviceAdded:
			tx.Queue(stmtAddDevice, c.User, c.Device, c.DisplayName, pos)
			tx.Queue(stmtNotGone, c.User, c.Device)
		case account.DeviceRenamed:
			tx.Queue(stmtNameDevice, c.User, c.Device, c.DisplayName, pos)
		case account.DeviceDeleted:
			dropDevice(tx, c.User, c.Device)
			tx.Queue(stmtGone, c.User, c.Device, pos, now())
		default:
			return fmt.Errorf("device of %s: there is no event %d", c.User, c.Event)
		}
		last[c.User] = pos
	}
	for user, pos := range last {
		if err := tellLocal(tx, pos, user); err != nil {
			return err
		}
	}
	return nil
}

// Deactivated deletes what a user has here besides devices, in the transaction that ends the account: account.Config.Deactivated.
func Deactivated(tx *sqldb.Tx, pos sqldb.Pos, user id.UserID, _ bool) error {
	tx.Queue(stmtEndBackups, user)
	tx.Queue(stmtEndCrossed, user)
	tx.Queue(stmtEndSigned, user)
	return tellLocal(tx, pos, user)
}

func dropDevice(tx *sqldb.Tx, user id.UserID, device id.DeviceID) {
	tx.Queue(stmtDropDeviceSigned, user, device)
	for _, s := range []*sqldb.Stmt{stmtDropDevice, stmtDropOneTime, stmtDropFallbacks, stmtDropNote, stmtDropInbox, stmtDropDehydrated} {
		tx.Queue(s, user, device)
	}
}
