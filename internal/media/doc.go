// Package media keeps files that users send, and fetches those of other servers.
//
// It owns the tables media (what our users uploaded, the addresses promised to uploads that are yet to come, and images of previews), remote_media (copies of
// files of other servers), thumbnails, url_previews (what pages said of themselves), media_use (how much each user has) and media_quarantine. The bytes
// are in package blob, which stores the same content once: a row of each of the first three is one reference to it. It also owns what is said of a file when it is served: its type, its name, and whether a browser may
// show it.
//
// # Invariants
//
//   - An address (an mxc URI) is answered by the same bytes for ever, or by none. What was uploaded is not overwritten.
//   - An upload is acknowledged after its bytes and its row are durable.
//   - The name and the type that an uploader gave are data: a type that browsers would run is served as an attachment, and a
//     type that is no type as application/octet-stream.
//   - A file of another server is fetched once at a time, from the server that its address names, and no further than max_remote.
//   - Copies, thumbnails and previews are caches: losing any of them loses nothing.
//   - A page is asked by a transport that connects to no private address, not after a redirect either, and for so long and so much only that an endless or a
//     slow one holds up nobody but those who want to see it. What it says of itself is text for clients, cut and cleaned; of its images those are kept
//     whose bytes are images.
//   - What is in quarantine can't be had by anybody, at any address, whoever uploads it again; its bytes stay.
//   - What a user has is counted in the transaction that changes it.
//   - Nothing here holds a file in memory. What an image takes once it is decoded is estimated from its header before, and all that are
//     decoded at once share one bound.
//   - Through the old endpoints, which ask for no access token, only that is served which was stored while they were open.
//
// # What it refuses
//
// It makes thumbnails of JPEG, PNG, GIF and WebP, never larger than the original. Only those of GIFs move, where that is wanted, and not if there are very many
// pixels or frames. It runs no scripts of pages: a page that
// is made by them has the preview of what stands in its HTML.
//
// # Locks
//
// arrivals.mu, the mu of each gate and touched.mu guard maps in memory, are held for a look-up each and never nest.
//
// Spec: cs Content repository
// Spec: ss Content Repository
package media
