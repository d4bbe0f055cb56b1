// Command extract makes the two data files of package spec out of a copy of the specification: the
// folder "content" of its repository, and a CSV file with one row per operation.
//
//	go run ./spec/cmd/extract -content matrix-spec/content -endpoints endpoints.csv -out spec
//
// It takes names only: headings, terms set in bold on a line of their own, event types that have a
// chapter, and the numbers of the authorisation rules. It refuses to write files that look too short.
package main
