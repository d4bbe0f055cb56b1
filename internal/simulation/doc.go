// Package simulation runs whole servers on a network with faults, lets their users do their worst to one room, and looks whether the servers
// agree once the network is well again.
//
// It owns TestFederation. A seed decides how many servers there are (3 to 7), the version of the room, what each user does
// and when, and what befalls the network and the machines: delays, lost and refused connections, partitions, power failures,
// restarts. The servers are those of package servertest, in a testing/synctest bubble, where the hours that they wait for each
// other take moments. Package room has a simulation of its own, of the engine alone; here queues, catching up, filling of gaps, repair and recovery take part.
//
// # What must be so in the end
//
// Some servers have an anchor, a user who joined before the trouble began and never loses the power to speak. Others have visitors only, who come and go.
// A server is a resident if it holds the room with a joined user of its own whom the anchors hold to be joined too. Once the network is well and everybody has
// said something, with nothing else to help:
//
//   - residents hold the same current state, event by event, and end with the same forward extremity;
//   - servers with an anchor hold the same events of the time after they all had joined;
//   - other residents hold all that leads up to the room's end, as far as it neither came before the join by which they came in nor is
//     as shallow: that is history to them, fetched when somebody scrolls up to it;
//   - residents have rejected the same events;
//   - what a client was told to be sent is in its server's room, under the ID that the client was told, and on every server with an anchor; one request
//     made one event, however often the client had to repeat it, and a refused one made none;
//   - every server still answers the sync of a local user, and takes a message.
//
// # What may differ
//
//   - Whether an event is soft-failed: that depends on the state when it came. So what a visitor said, not knowing yet that it must not, may be one more
//     end of the room on the visitor's server: nobody else follows it, until somebody of that server speaks again.
//   - What a server does not hold of times when no user of its own was in the room, as far as the server itself or the others knew.
//   - What is held as an outlier: each server fetches other events to authorise what it has.
//   - What a server without a joined user believes of the room: nobody tells it of changes. That includes a visitor whose join loses when forks are
//     resolved: no event puts that user out of the room, so nobody tells the server.
//
// # Replay
//
// Decisions of the script come from one generator, in one goroutine; faults are functions of the seed (package nettest). Rooms, users, devices and keys
// come from data folders that are prepared once, with the IDs alike each time. What is left to chance then is the order in which goroutines
// run that have something to do at the same nanosecond. Command replay has the seed decide about that as well: a seed that fails there fails each
// time. TestFederation alone leaves it to the scheduler and runs seeds at the same time; -from and -seeds select others than those that run by themselves.
//
// It refuses to know how servers repair themselves: it looks into databases only after the servers have stopped.
package simulation
