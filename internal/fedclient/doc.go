// Package fedclient speaks to other servers: it finds them, signs what is asked of them, and
// judges by their keys what comes from them.
//
// It owns the discovery of servers, the key ring (tables remote_keys and remote_key_sets), the X-Matrix header
// in both directions, one typed call for each operation of the server-server API, and the
// checks of a PDU that need keys and no room: format, signatures, content hash.
//
// # Invariants
//
//   - No connection is made to a private address unless Config.AllowNetworks lists it. The
//     address is checked after it was resolved and is the one that is dialled, so a DNS name
//     that changes its mind gains nothing. Redirects go through the same guard.
//   - A certificate is always verified, for the name that the specification says for the step that found the
//     server, and nothing is sent before that.
//   - Every answer is bounded in bytes, compressed and not, and in time: as a whole and between two pieces.
//   - Requests at once to one server are bounded. Fetches of keys are bounded by what they are for (events, requests of servers whose keys were
//     had before, requests of strangers) and within that by who causes them (shares.go): who exhausts his share waits alone.
//   - The body of another server's request is read last, when its key is at hand.
//   - What another server can make this one do is bounded by time and not by the number of its
//     events: a server that answers is asked for its keys once a minute at most, and one that does not less and less often, a key ID that was not there is not
//     looked for again for a while, and answers and failures of discovery are remembered.
//   - There is no *the* server name: each request has an Origin, whose key signs it.
//
// # Whom the key ring believes
//
// A server's keys come from that server by TLS. While it answers, its answer is what counts, beside that of
// the notaries of Config.Notaries, which the operator trusts. Only when it does not answer are the servers of the
// room asked that a caller names as hints. A key learned from either never replaces one that the server itself gave, and is
// used for events and never for requests. One learned from a hint is hearsay, for anybody can make a key and sign with it that it is another's: it counts
// only for the state of a room as this server finds it when it joins (CheckState), and is forgotten when the
// server answers again without mentioning it. Answers of both must carry the server's own signature and the notary's.
//
// A retired key counts for events up to the time it was retired, in all room versions; so does one that its server has
// stopped to mention. A current
// key counts up to valid_until_ts, capped at a week after it was fetched, from room version 5 on; before,
// it counts always.
//
// # What it refuses
//
// It knows no rooms and stores no events. It retries nothing: it remembers that a server failed, and says so
// at once until it is time to try again. It speaks HTTP/1.1: one connection serves one request, so that no server
// can hold up the answers to others, and an idle connection costs little.
//
// # Locks
//
// servers.mu guards the list of destinations; destination.mu guards what is known of one of
// them; ring.mu guards the list of key sets; keySet.mu guards the keys of one server; ownKeys.mu guards our published keys. Of these
// only ring.mu is taken while another, keySet.mu, is held. None is held over a call to the network, the database or a caller's function.
//
// Spec: ss Server discovery
// Spec: ss Retrieving server keys
// Spec: ss Request Authentication
// Spec: ss Checks performed on receipt of a PDU
package fedclient
