package sqldb

import "strings"

// A token of SQL text as far as the rewrites care: words, placeholders, quoted things and comments are kept whole.
type token struct {
	kind tokenKind
	text string
}

type tokenKind uint8

const (
	tokOther  tokenKind = iota // one byte of punctuation or operator
	tokSpace                   // white space
	tokWord                    // identifier, keyword or number
	tokParam                   // $n
	tokQuoted                  // '…' or "…", with doubled quotes
	tokComment
)

const spaces = " \t\n\v\f\r"

// lex splits text without loss: joining the tokens' text gives text again.
func lex(text string) []token {
	var out []token
	for i := 0; i < len(text); {
		kind, n := lexOne(text[i:])
		out = append(out, token{kind, text[i : i+n]})
		i += n
	}
	return out
}

func lexOne(s string) (tokenKind, int) {
	c := s[0]
	switch {
	case isSpace(c):
		return tokSpace, span(s, isSpace)
	case c == '\'' || c == '"':
		return tokQuoted, quoted(s)
	case strings.HasPrefix(s, "--"):
		if n := strings.IndexByte(s, '\n'); n >= 0 {
			return tokComment, n
		}
		return tokComment, len(s)
	case strings.HasPrefix(s, "/*"):
		if n := strings.Index(s[2:], "*/"); n >= 0 {
			return tokComment, n + 4
		}
		return tokComment, len(s)
	case c == '$' && len(s) > 1 && isDigit(s[1]):
		return tokParam, 1 + span(s[1:], isDigit)
	case isWord(c):
		return tokWord, span(s, isWord)
	}
	return tokOther, 1
}

func quoted(s string) int {
	for i := 1; i < len(s); i++ {
		if s[i] != s[0] {
			continue
		}
		if i+1 < len(s) && s[i+1] == s[0] {
			i++
			continue
		}
		return i + 1
	}
	return len(s)
}

func span(s string, in func(byte) bool) int {
	n := 0
	for n < len(s) && in(s[n]) {
		n++
	}
	return n
}

func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isWord(c byte) bool {
	return isDigit(c) || c == '_' || c >= 0x80 || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// match reports how many tokens from i on spell the pattern, white space and comments between them skipped, letters of
// either case; 0 if they do not. "$" in the pattern stands for any placeholder, which is returned.
func match(toks []token, i int, pattern ...string) (n int, param string) {
	at := i
	for _, want := range pattern {
		for at < len(toks) && (toks[at].kind == tokSpace || toks[at].kind == tokComment) && at > i {
			at++
		}
		switch {
		case at >= len(toks):
			return 0, ""
		case want == "$" && toks[at].kind == tokParam:
			param = toks[at].text
		case toks[at].kind == tokQuoted || !strings.EqualFold(toks[at].text, want):
			return 0, ""
		}
		at++
	}
	return at - i, param
}

// rewriteSQLite turns a statement of the shared dialect into SQLite's.
func rewriteSQLite(text string) string {
	toks := lex(text)
	var b strings.Builder
	for i := 0; i < len(toks); i++ {
		if n, p := match(toks, i, "=", "ANY", "(", "$", ")"); n > 0 {
			b.WriteString("IN (SELECT value FROM json_each(?" + p[1:] + "))")
			i += n - 1
			continue
		}
		if n, _ := match(toks, i, "FOR", "UPDATE"); n > 0 {
			i += n - 1
			continue
		}
		if toks[i].kind == tokParam {
			b.WriteString("?" + toks[i].text[1:])
			continue
		}
		b.WriteString(toks[i].text)
	}
	return strings.TrimRight(b.String(), spaces)
}

// rewriteDDL turns a migration's statement into PostgreSQL's.
func rewriteDDL(text string) string {
	toks := lex(text)
	var b strings.Builder
	for i := 0; i < len(toks); i++ {
		if n, _ := match(toks, i, "WITHOUT", "ROWID"); n > 0 {
			i += n - 1
			continue
		}
		word := toks[i].text
		if toks[i].kind == tokWord {
			switch strings.ToUpper(word) {
			case "TEXT":
				word = `TEXT COLLATE "C"`
			case "BLOB":
				word = "BYTEA"
			case "INTEGER":
				word = "BIGINT"
			case "REAL":
				word = "DOUBLE PRECISION"
			}
		}
		b.WriteString(word)
	}
	return b.String()
}

// splitStatements cuts a script at its semicolons and drops what is empty.
func splitStatements(script string) []string {
	var out []string
	var b strings.Builder
	full := false
	flush := func() {
		if full {
			out = append(out, strings.Trim(b.String(), spaces))
		}
		b.Reset()
		full = false
	}
	for _, t := range lex(script) {
		if t.kind == tokOther && t.text == ";" {
			flush()
			continue
		}
		if t.kind == tokComment {
			b.WriteByte(' ')
			continue
		}
		b.WriteString(t.text)
		full = full || t.kind != tokSpace
	}
	flush()
	return out
}
