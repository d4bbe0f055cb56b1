// Package s3test is a store that speaks the protocol of S3, within the test process and in memory.
//
// It owns a server with one bucket, the keys to it, and the ways in which a test can have it fail: away, refusing, cutting answers off.
//
// It refuses requests that are not signed with its access key, and checks no more of a signature than that. It is for tests only.
package s3test
