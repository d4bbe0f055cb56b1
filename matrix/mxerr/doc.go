// Package mxerr is the one kind of error that reaches a client or a remote server: an errcode
// of the specification and a sentence a human can act on.
//
// It owns the list of codes. It knows nothing of HTTP: package internal/web maps a code to
// a status in one table. Any other error is internal and is shown to nobody.
//
// Invariant: the text of an Error is safe to show. Causes are wrapped around an Error with
// fmt.Errorf and "%w"; only the innermost Error is sent.
//
// Spec: cs Standard error response
package mxerr
