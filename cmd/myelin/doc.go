// Command myelin is a Matrix homeserver.
//
// Without arguments it serves. The other commands look after accounts, registration tokens, the signing key and the
// configuration, and say what is wrong ("myelin doctor"). Those that need the server's data
// ask the running server over the socket in its data folder, and open the data themselves
// if none runs.
//
// It owns the command line and nothing else: package config reads the configuration, package server
// does the rest. Help texts stand beside their commands. Errors are sentences on standard error; the exit
// code is 0 or 1.
package main
