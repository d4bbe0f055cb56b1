// Package e2ee keeps what clients need of a server to encrypt for each other: the identity keys of devices, and one-time and
// fallback keys to begin sessions with. It can read nothing of what they encrypt.
//
// # Owns
//
// The tables crypto_devices, one_time_keys, fallback_keys and crypto_notes; in memory, how many keys devices have left.
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
//
// # Refuses
//
// To look into what it stores beyond the names and signatures that the specification gives a meaning to. To hold more than a bounded number
// of keys for a device, and to ask other servers for longer than a client waits.
//
// # Locks
//
// epochs.mu is a leaf: it is held to count. The bus holds its own lock while it calls follow, which takes it.
//
// Spec: cs End-to-End Encryption
// Spec: ss End-to-End Encryption
package e2ee
