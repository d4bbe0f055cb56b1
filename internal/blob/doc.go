// Package blob keeps the bytes of media in a folder: written once, named by what they are, deleted with the last reference.
//
// It owns the folder and the table blobs: the SHA-256 of each content, its size, the name of its file and how many rows of other
// slices refer to it. The same content is stored once, however often it is uploaded. What a blob means, who may have it and for how long
// is for those slices to know.
//
// # Invariants
//
//   - A row of blobs is committed only after its file is whole, fsynced and in its place, fsynced as well. So what the database
//     knows can be read, after a power failure too.
//   - References are counted in the transaction of those that refer: nothing is referred to that is gone, nothing is kept that
//     nobody refers to.
//   - A file's name is never used twice: content that comes back after it was deleted gets another name. So deleting a
//     file can't meet a writer of the same content, on this node or on another one that shares folder and database.
//   - A file without a row is what a crash left behind. Sweep deletes it after a day.
//   - Memory does not grow with the size of a content.
//
// # What it refuses
//
// It does not interpret content, has no limits of its own but those that the writer of a content names, and does not follow links out of its folder.
// There is no other kind of store than a folder.
//
// # Locks
//
// There are none.
//
// Spec: cs Content repository
package blob
