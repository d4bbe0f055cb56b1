// Package clienttest drives Myelin with the client libraries that people use: mautrix-go in this process,
// matrix-js-sdk (folder jssdk) in Node. Two users register, sign in, make a room, chat, edit, react, redact, type,
// read and scroll back, and each must see all that the other did.
//
// TestEncryption lets both of them talk in encrypted rooms, on one server and across two, which run as processes of their own and
// are killed in the middle: cross-signing, verification by numbers, key backup, secret storage, and new devices that open
// it with the recovery key and read all that was said. mautrix-go has its crypto in Go under the build tag goolm; without it
// this test is left out. MYELIN_TEST_CLIENT_BINARY names a program to run instead of one that is built from this source.
//
// TestBridge and TestEncryptedBridge run a bot and a two-way bridge made with mautrix-go's appservice package while the server is killed: all messages pass once,
// in order, and in an encrypted room each user of the bridge has a device that gets its keys in transactions.
//
// TestBrowser has a page with matrix-js-sdk in headless Chromium sign in, send an image and show its thumbnail, show the preview of a page on loopback,
// and find a message by a word. The page is bundled and driven by packages of the same lock file; the browser is the one in PATH.
//
// It owns those scenarios and what they need to run: the lock file of the JavaScript packages, which ".ci/run"
// installs with "npm ci". All run on both engines. Without Node, the packages or the browser these are skipped with
// a line that says what is missing, or fails where MYELIN_REQUIRE=all.
//
// It refuses to look behind the client-server API: what a client can't see is not tested here, and
// what the specification says in detail is package servertest's.
package clienttest
