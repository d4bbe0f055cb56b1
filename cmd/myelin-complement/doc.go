// Command myelin-complement starts the server the way the Complement test suite wants it: the name
// comes from the environment variable SERVER_NAME, anybody may register, nothing is rate limited,
// clients are answered by HTTP on port 8008 and other servers by HTTPS on 8448, and other servers may be in private networks.
//
// The certificate for 8448 is made anew at each start and signed by the authority that the suite puts
// into the container (/complement/ca). The data stay in the container, so that the suite can stop it,
// keep it as an image and start it again. "myelin-complement health" is the container's health
// check: its exit code says whether the server in the same container answers.
//
// It owns these settings and the certificate. Everything else is package server; nothing here
// is fit for a server that others can reach.
package main
