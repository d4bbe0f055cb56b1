// Package account is about the people who have an account here, and what is theirs alone: users, devices,
// access and refresh tokens, interactive authentication, profiles, account data, tags, filters,
// registration tokens, login tokens and OpenID tokens.
//
// It owns the tables users, devices, access_tokens, refresh_tokens, one_time_tokens,
// registration_tokens, auth_sessions, profiles, account_data, filters and cache_changes.
//
// Invariants:
//   - No secret is stored in the clear. Passwords are Argon2id hashes; tokens and the ids of interactive sessions
//     are stored as SHA-256 hashes (they hold 128 random bits or more, so a slow hash adds nothing); what an
//     interactive session keeps between two requests is sealed with a key made from its id.
//   - A token belongs to exactly one device of one user, and dies with it.
//   - A refresh token lives until the access or refresh token that replaced it is first used.
//   - Each change that a client can see through sync takes a position of the stream.
//   - An account that was deactivated has no password, no device and no token, and its user ID is
//     never given out again.
//   - A transaction that reads before it writes takes its position first, which keeps other nodes waiting: see change.
//   - A cached token or list of ignored users is dropped in the transaction order of the change
//     that made it stale: see cache.go for what proves a cache current.
//
// It refuses to know HTTP, rooms and keys. What must happen in the same transaction
// elsewhere (keys of a deleted device) comes in as a function of Config.
//
// Locks: cacheGate.mu and seenLog.mu are leaves: nothing is called that locks while they are held. The bus holds its own
// lock while it calls follow, which takes cacheGate.mu.
//
// Spec: cs Client Authentication
// Spec: cs User-Interactive Authentication API
// Spec: cs Account moderation
// Spec: cs Profiles
// Spec: cs Client Config
// Spec: cs Room Tagging
// Spec: cs Filtering
// Spec: cs Guest Access
// Spec: cs Device Management
// Spec: cs OpenID
package account
