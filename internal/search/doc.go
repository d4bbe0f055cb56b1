// Package search finds messages by their words.
//
// It owns the index (tables search_segments, search_blocks, search_state, search_rooms, search_erased), the follower that fills it, the task
// that merges its parts and takes out what was redacted, and the operation that asks it.
//
// # The index
//
// A segment says for each word, and each room, at which places of the room's order the word stands. It is sorted by word and room, cut into
// blocks of a few kilobytes, and never changed. New events make a small segment; as soon as there are [fanout] of one size they are merged into a
// larger one. So an event is written a few times in rows that are large and in order, where a row for each of its words would
// be written once at a dozen places each: in the database that all sends go through, that would cost more than storing the event. The first
// word and room of each block stand in the segment's directory, which is kept in memory; a question then reads just the blocks
// that can hold its words in the rooms of whoever asks.
//
// Plain tables hold all of it, so both engines give the same answers: their own full-text indexes differ in how they cut words, in what they know
// of scripts without spaces, and in how they rank, and neither can skip the rooms that somebody isn't in.
//
// # Invariants
//
//   - The index proposes and the event decides: each result is the stored event, looked at when it is asked for. What was redacted or edited
//     is not found by words that it has no longer, whatever the index says, and package view decides on who may see it.
//   - Everything up to the position in search_state is indexed; what came later, as far as [maxTail], is read from the stream when somebody asks. So a
//     message is found as soon as it was acknowledged, and indexing may take its time.
//   - The words of a redacted event leave the tables, some minutes later, later still where the index is so large that going through it takes long.
//   - A block is written before the segment that it belongs to is live, and removed after it isn't. A crash between the two leaves
//     blocks without a use, which the next merge removes.
//   - What is backfilled has no position: it is indexed per room, from the place in search_rooms on.
//   - A question costs a bounded number of blocks and events, whatever its words are. Of words that stand everywhere, the newest
//     places count.
//
// # Refuses
//
// To index what is encrypted, to show a room that is, and to know what a user may see.
//
// # Locks
//
// None of its own; Search.behind is atomic.
//
// Spec: cs Server Side Search
package search
