// Package config reads the configuration: one struct whose field comments are the manual.
//
// It owns the keys, their defaults, the places they are read from and the sentences that say what
// is wrong with a value. Loading uses nothing: no file but the configuration file is opened, no
// directory made, no address resolved. (The doctor command does that.) Only CheckFiles and
// Roots open the files that the configuration names.
//
// # Precedence
//
// Defaults, then the TOML file, then environment variables, then -o key=value: the later wins.
// The variable of a key is MYELIN_ and the key in upper case with its dots as underscores:
// client.listen is MYELIN_CLIENT_LISTEN.
//
// # Invariants
//
//   - A Config that Load returned without error has passed every check in this package.
//   - A key that nobody knows is an error that names the nearest key.
//   - Every error names the key, where its value came from, and what to write instead. The
//     values of secret keys appear in no error and in no listing.
//   - Every field has a comment, a default that passes the checks, and says when a change of it
//     takes effect. A test holds them to it.
//
// The package has no locks and no state.
package config
