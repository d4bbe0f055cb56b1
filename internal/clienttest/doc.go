// Package clienttest drives Myelin with the client libraries that people use: mautrix-go in this process,
// matrix-js-sdk (folder jssdk) in Node. Two users register, sign in, make a room, chat, edit, react, redact, type,
// read and scroll back, and each must see all that the other did.
//
// It owns those scenarios and what they need to run: the lock file of the JavaScript packages, which ".ci/run"
// installs with "npm ci". Both run on both engines. Without Node and the packages that half is skipped with
// a line that says what is missing, or fails where MYELIN_REQUIRE=all.
//
// It refuses to look behind the client-server API: what a client can't see is not tested here, and
// what the specification says in detail is package servertest's.
package clienttest
