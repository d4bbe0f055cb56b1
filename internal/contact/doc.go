// Package contact keeps how users can be reached besides Matrix: e-mail addresses that they proved to be theirs. With one
// a user can sign in, and get a new password for one that was forgotten.
//
// # Owns
//
// The tables threepids and validations, and the mail that asks for a confirmation.
//
// # Invariants
//
//   - An address belongs to one account at most. It is added only with a validation, and a validation serves once.
//   - A link in a mail confirms only when the page behind it is told to: programs that look at mail follow links.
//   - The secrets of clients and the tokens in links are stored as SHA-256 hashes.
//   - What anybody can make this server mail to one address is bounded, per hour, and so are the mails on their way at once and the time that
//     each of them may take. A mail server that hangs keeps nobody waiting who wants no mail.
//   - Addresses are compared with their case folded.
//
// # What it refuses
//
// Telephone numbers: nothing here can send text messages. Identity servers: none is trusted to validate an address; what users publish there
// is the business of package identity.
//
// # Locks
//
// There are none.
//
// Spec: cs Adding Account Administrative Contact Information
// Spec: cs Email-based (identity / homeserver)
package contact
