// Package e2ee keeps what clients need of a server to encrypt for each other: the identity keys of devices, one-time and
// fallback keys to begin sessions with, word of whose keys changed, messages from device to device, and the keys and
// signatures by which users vouch for devices and for each other, and backups of room keys. It can read nothing of what they encrypt.
//
// # Owns
//
// The tables crypto_devices, one_time_keys, fallback_keys, crypto_notes, key_lists, gone_devices, remote_lists, remote_devices, told_lists,
// key_outbox, device_inbox, device_txns, messages_seen, cross_keys, key_signatures, backups, backup_keys and dehydrated_devices; in memory, how many keys devices have left, and whose keys changed lately.
//
// # Invariants
//
//   - A one-time key is given out at most once: the statement that reads it marks it, in a transaction that holds the stream's row, so
//     one after another on all nodes. A claim is answered after that is durable. An upload that is repeated doesn't bring a key back.
//   - Keys are given out in the order in which they came. What was uploaded under an ID is never replaced by something else while it is
//     there; the same upload twice is one.
//   - crypto_devices has a row for each device that package account has, by the same transaction. Keys go with their device.
//   - A change of a device's identity keys takes its one-time keys with it: their signatures were made by the old ones.
//   - What is signed by a key that is known here is stored only if the signature is right. Clients check everything again.
//   - A message to a device is in its inbox, or written down for its server, before it is acknowledged, and has a place in the order of the
//     stream. It is deleted when the device asks for what comes after it, and at no other time but when the inbox is full. What a dehydrated device has stays until that goes.
//   - Others see the signatures that a user made of the user's own keys. What somebody signed of somebody else they see alone.
//   - A cross-signing key has no device's ID, and no device the ID of such a key. A new key takes what the old one signed with it.
//   - Keys are added to the current backup only, and the better one of two stays. What is deleted doesn't come back under its version.
//
// # Lists of devices
//
// The keys of a user of another server are kept once somebody who shares a room with them asked, and as long as this server has been in a room with
// them without a break: since then their server tells of each change. An update is applied if it follows on the last one, and makes the list
// stale otherwise; then, as when nothing is kept, the next query of a client asks their server. Nobody is asked for the sake of having it: a
// storm of updates costs a row each, and a room of 10,000 users nothing before a client wants their keys.
//
// What others are told of our users' devices is worked out when it is sent, from what the other server was told before: the devices that
// changed since, in order, each with the one before as its predecessor.
//
// # Refuses
//
// To look into what it stores beyond the names and signatures that the specification gives a meaning to. To hold more than a bounded number
// of keys for a device, and to ask other servers for longer than a client waits.
//
// # Locks
//
// epochs.mu, listNews.mu and Encryption.postedMu are leaves: they are held for operations in memory. The bus holds its own lock while it calls follow, which
// takes both, one after the other.
//
// Spec: cs End-to-End Encryption
// Spec: ss End-to-End Encryption
// Spec: ss Device Management
// Spec: cs Send-to-Device messaging
// Spec: cs Cross-signing
// Spec: cs Server-side key backups
// Spec: ss Send-to-device messaging
package e2ee
