// Package words turns text into what people search for: folded words, and pairs of characters where a script puts no spaces
// between words.
//
// It owns the folding (case, accents, widths) and the splitting that both the index of messages and the directory of users are built
// on. Whoever stores terms of this package must build them anew when it changes its mind.
//
// # Invariants
//
//   - A text and a question are folded and split by the same functions, so what stands in a text is found by asking for it.
//   - A term has at most [MaxTerm] bytes and is valid UTF-8 without NUL.
//   - All of it are functions of their input that take time in proportion to it.
//
// # Refuses
//
// To know languages: there is no stemming, there are no stop words.
package words
