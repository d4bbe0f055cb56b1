// Command replay runs seeds of package simulation so that each of them goes the same way every time, on every machine:
//
//	go run ./internal/simulation/replay -from 0 -seeds 300
//	go run ./internal/simulation/replay -from 17 -seeds 1 -trace
//
// The simulation itself is in a testing/synctest bubble: its clock, network and power failures follow the seed. What a bubble leaves to
// chance is which of several goroutines runs first, which of several ready cases a select takes, and in what order a map is walked. Here these follow from the seed
// as well. The tests are built with a runtime that differs from that of the installed Go in three places (go build -overlay; nothing
// is written to GOROOT):
//
//   - there is no system monitor, so no goroutine is interrupted because of time that has passed, and a system call keeps its processor;
//   - the scheduler puts goroutines in an order that it draws by lot, as it does under the race detector;
//   - its random numbers begin with a constant, and with the seed when a seed begins.
//
// Each seed has a process of its own, with one processor and without garbage collection. What a process has done before can't matter then.
//
// It owns that runtime and the processes. It refuses to build with a Go whose runtime has other lines in these places, and says so.
package main
