// Package directory is how rooms are found: by an alias, in the list of published rooms, or in a space. And how users are.
//
// # Owns
//
// The tables aliases, published, network_rooms, tours, known_users, user_words, seen_rooms and users_state, and in memory a list of what the published rooms say of
// themselves, and for two minutes what other servers said of rooms that nobody of ours is in.
//
// # Invariants
//
//   - An alias belongs to one of our server names and leads to one room. While a room is being created its
//     alias is reserved: it leads nowhere yet, and nobody else gets it. A reservation that was left behind by a crash
//     can be taken over after a minute.
//
//   - Aliases and publication move to the replacement of a room in the transaction that creates it.
//
//   - The list in memory is dropped, room by room, before whoever changed a room is answered: the bus calls
//     first. What another node changed makes all of it stale. Publication takes a position of the stream for
//     this reason, though no client sees it in a sync.
//
//   - A tour through a space shows each room once. What it has before it and behind it is kept in its table between pages, so any
//     node can go on. A page costs a bounded number of rooms looked at, of questions to other servers and of bytes; where one of these is used up the
//     page ends early.
//
//   - Users are found by names that a follower of the stream keeps; whether somebody may see them is asked of the rooms as they are now. What a
//     user of another server is called is what rooms say that anybody may look into. What only a closed room says is shown
//     to its members alone.
//
//   - What the database knows of a room comes before what another server says of it, and whether a user may see a room is decided
//     here, for each answer anew.
//
// # Refuses
//
// To change rooms: which aliases a room calls canonical is said by its own events, and package
// clientapi has them corrected. To speak with other servers: callers bring a function that asks them.
//
// # Locks
//
// list.mu and handled.mu are leaves. The bus holds its own lock while it calls list.follow, which takes list.mu.
//
// Spec: cs Room aliases
// Spec: cs Published room directory
// Spec: cs Spaces
// Spec: cs searchUserDirectory
package directory
