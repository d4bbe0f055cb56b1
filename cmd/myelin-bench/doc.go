// Command myelin-bench measures a running homeserver from outside, through the standard client-server API
// only, so that any homeserver can be measured the same way.
//
//	myelin-bench send-one-room --url http://127.0.0.1:8008 --connections 1,64 --repeat 5 --baseline
//	myelin-bench load --users 100 --rooms 20 --concurrency 64 --listeners 100 --duration 30s --mix message=90,receipt=10
//
// It registers its own users (open registration, or --shared-secret, or --tokens), makes its own rooms, and
// then runs a scenario. A send counts when its 200 has arrived; a delivery when a waiting /sync of another
// connection has returned the message, whose body carries the time at which it was sent. Rates and percentiles are
// of one run, or with --repeat the median of the runs, metric by metric.
//
// --baseline measures what the disk and SQLite can do at all: rows of the size of an event appended and
// synced one by one and 64 at a time, so that a rate can be quoted as a part of that.
//
// Its own cost matters, as it usually shares the machine with the server: requests are written by hand onto
// kept-alive connections, one goroutine each, and responses are searched, not decoded. The report
// says how much CPU it used itself, and with --pid how much the server used.
//
// It refuses to hide failures: requests that fail are counted and reported, messages that were
// acknowledged but did not arrive are reported as lost.
package main
