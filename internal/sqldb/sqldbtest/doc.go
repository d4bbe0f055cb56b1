// Package sqldbtest gives tests real databases: every test that touches one runs on SQLite and on PostgreSQL.
//
// It owns temporary PostgreSQL clusters. One is made from the installed binaries on first need, shared by all test
// binaries of the user (a lock file guards its start), and stopped once no test binary has used it for a minute or
// two; its folder stays, so that later runs start faster. As root it runs under an ordinary account, as PostgreSQL demands. There are two: one
// without fsync for tests, one with it for benchmarks. Each test gets a database of its own; it is emptied and kept for
// later tests, since making one takes most of a second.
//
// MYELIN_TEST_POSTGRES=postgres://… names an existing server to use instead. If there is none and no binaries are found, PostgreSQL
// subtests are skipped with the reason, or fail when MYELIN_REQUIRE=all.
package sqldbtest
