// Package blob keeps the bytes of media in a folder or in a bucket of an S3-compatible store: written once, named by what they are, deleted
// with the last reference.
//
// It owns the folder or the bucket's part under a prefix, and the tables blobs (the SHA-256 of each content, its size, the name of its file and how
// many rows of other slices refer to it) and blob_owner (a name for this database, which marks a bucket as its own). The same content is stored once,
// however often it is uploaded. What a blob means, who may have it and for how long is for those slices to know.
//
// A content is written to the folder incoming on this machine first, in either case: only what is whole, and not there yet, takes its place or is sent
// to the bucket. Files have the same names in both, so that one can be copied to the other by any tool.
//
// # Invariants
//
//   - A row of blobs is committed only after its file is whole, fsynced and in its place, fsynced as well, or after the bucket has
//     confirmed it. So what the database knows can be read, after a power failure too.
//   - References are counted in the transaction of those that refer: nothing is referred to that is gone, nothing is kept that
//     nobody refers to.
//   - A file's name is never used twice: content that comes back after it was deleted gets another name. So deleting a
//     file can't meet a writer of the same content, on this node or on another one that shares folder or bucket and database.
//   - A file without a row is what a crash left behind. Sweep deletes it after a day, in a bucket only where that carries this database's mark.
//   - Memory does not grow with the size of a content, neither where it is written nor where it is read.
//   - Where the bucket can't be used, calls fail with ErrAway within bounded time, and nothing is lost that was kept.
//
// # What it refuses
//
// It does not interpret content, has no limits of its own but those that the writer of a content names, and does not follow links out of its folder.
// It shares no bucket and prefix with another database. It makes no buckets.
//
// # Locks
//
// There are none.
//
// Spec: cs Content repository
package blob
