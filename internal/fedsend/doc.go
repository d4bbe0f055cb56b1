// Package fedsend tells other servers what happens here: the events that this server is to bring to them, and what our users
// show of themselves, in transactions.
//
// # Owns
//
// The tables destinations (servers that fail), destination_rooms (what they lack), sticky_debts (what sticks in rooms that they came into) and sender_cursor. In memory, the queue of
// each server that something waits for, and which servers are in which rooms. A server that has everything has
// neither a row nor memory.
//
// # What is sent to whom
//
// The events of our users (graph.Local), and those that other servers bring into a room through this one (graph.Relayed), in
// the order of the stream: to the servers with joined members in what this server held to be the room's state after
// the event, and to the server of a user whom the event puts out of the room. Never to the sender's own. An
// invite goes to the invitee's server by a request of its own, and here only if that server is in the room anyway. Events that other servers
// made and distribute are not passed on.
//
// Which servers are in a room is counted once, and then follows the room by what differs between the states of its head (graph.StateDiff):
// an event costs in proportion to the servers it goes to, however many members the room has. A state names
// the audience of each event exactly, in the past too: so a server that was away is not told what was said while it was not in the room.
//
// Typing, public receipts and presence go to the servers in the room, or in any room of the user. They wait in memory
// only, a newer one in place of an older one; they are bounded in number and age. They repeat themselves before others forget them.
//
// A server that comes into a room is told of the events of our users that stick there (MSC4354), once, whatever it may see of the history.
//
// That the devices of a user changed goes to every server in any room of the user, once for a server: it waits in the outbox of package
// e2ee, and is removed there when it arrived. A server that was away is told the latest state.
//
// # Routes
//
// A queue belongs to a [route]: one of our names and another server. Each of our names is a server of its own to others, with its own
// key, and must speak for its own users. What is relayed goes in the name of ours that is in the room.
//
// # Invariants
//
//   - One transaction is in flight on a route. One whose outcome is unknown is repeated as it is, with its ID, for a while.
//   - Events reach a server in the order of the stream, all of them, as long as it is not away or too slow for more than
//     an hour (outlast) and the queue in memory is not exceeded; then still in order room by room, the rooms with the newest
//     events first. After longer than that it gets the newest of each room and asks for the rest, if it wants it.
//     Events that stick are sent as long as they do.
//   - What was acknowledged to a client is sent whatever happens: an event lies after the cursor, or in the queue and written down as a mark, or
//     has arrived. The cursor moves with the marks in one transaction (law 13) under the lease.
//   - An event is sent twice only after a crash, or where an answer got lost.
//   - A server that hangs holds a slot for half a second. A server that fails is left alone for exponentially longer, up to a day, until
//     it is heard of.
//
// # Several nodes
//
// One node sends, under one lease. Order within a room, and one transaction at a time, need one sender per server at least; one for all
// servers reads the stream and counts audiences once, and a node sends thousands of transactions in a second, so nothing is
// gained by dividing servers among nodes before the network card is full. What it needs is in the database: events, receipts and presence
// that other nodes wrote are read from there. Other nodes pass on whom they heard of through the table destinations. A
// work.Follower doesn't fit: its cursor moves with each batch, while this one waits for what other servers have, so that what is sent soon
// costs no write at all.
//
// # Refuses
//
// To be asked to send this or that: it follows the stream. To decide whether an event is good. To know what a device is: it finds out which
// servers share a room with a user whose devices changed, and package e2ee knows what each of them is to be told.
//
// # Locks
//
// Sender.mu before leader.mu. leader.mu guards all links and is never held during a call to the database or the network; audience.mu is held
// while states are compared, and no other lock is taken under it but those of package graph.
//
// Spec: ss Transactions
// Spec: ss EDUs
// Spec: ss Typing Notifications
// Spec: ss Presence
// Spec: ss Receipts
package fedsend
