// Package web is the edge between HTTP and the rest of the server: a table of routes, the
// decoding of requests, the encoding of responses and errors, limits, and the request log.
//
// It owns the mapping from an errcode to an HTTP status, the rate limits, the CORS headers and
// the reading of access tokens from requests. It knows nothing of rooms or accounts: the
// caller's identity comes from functions in Config: one for access tokens, one for the signatures of other servers.
//
// # Invariants
//
//   - Every answer carries the CORS headers, and every error body is the standard one.
//   - A path parameter or query value that reaches a handler is valid UTF-8 and holds no NUL.
//   - A body that reaches a handler is at most Route.MaxBody bytes; decoded JSON is valid UTF-8
//     and nested no deeper than MaxDepth.
//   - An error that is not an mxerr.Error (or one of this package's own) becomes a 500 that
//     says nothing; its text goes to the log only.
//   - Tokens, query strings and bodies are never logged.
//   - A request of another server reaches its handler only after its signature was checked over the body as it came, of at
//     most Route.MaxBody bytes. Until then its body counts for the address it came from, and what is held of all such bodies is bounded (held.go).
//   - Metric labels come from the route table and from closed lists in this package.
//
// # What it refuses
//
// It holds no business rule. It has no middleware chain: one function, Mux.ServeHTTP, shows
// the order in which a request is looked at. It does not compress, and it does not speak TLS.
//
// # Locks
//
// The only locks are those of the rate limiter's shards and that of the count of bodies held. They guard maps in memory, are
// never held over a call out of this package and never nest.
//
// Spec: cs Standard error response
// Spec: cs Web Browser Clients
// Spec: cs Rate limiting
// Spec: cs Using access tokens
// Spec: ss Request Authentication
// Spec: ss Unsupported endpoints
package web
