package contact

import (
	"fmt"
	"testing"

	"myelin/internal/sqldb"
	"myelin/internal/sqldb/sqldbtest"
	"myelin/matrix/mxerr"
)

// Spec: appendices E-Mail
func TestParseEmail(t *testing.T) {
	for address, want := range map[string]string{"bob@Example.com": "bob@example.com", "Strauß@Example.com": "strauss@example.com", "Ä@b.example": "ä@b.example"} {
		if got, err := ParseEmail(address); err != nil || got != want {
			t.Errorf("%s is compared as %q, %v", address, got, err)
		}
	}
}

var sqlAge = sqldb.SQL(`UPDATE validations SET created = created - $1`)

// What one address is mailed in an hour is bounded in every hour, also for a session that is kept going for many.
func TestMailsOfALongSession(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := open()
		// No mail server listens there: each attempt counts, and says that it failed.
		mail := NewMail(Mail{Server: "127.0.0.1:1", TLS: "none", From: "a@b.example"})
		c, err := Open(t.Context(), Config{DB: db, Mail: mail, Link: func(q string) string { return "http://b.example/?" + q }})
		if err != nil {
			t.Fatal(err)
		}
		attempt := int64(0)
		ask := func(want mxerr.Code) {
			t.Helper()
			attempt++
			_, err := c.Request(t.Context(), ForAccount, TokenRequest{ClientSecret: "x", Email: "flood@mail.example", SendAttempt: &attempt})
			if !mxerr.Is(err, want) {
				t.Errorf("attempt %d: %v, want %s", attempt, err, want)
			}
		}
		for hour := range 3 {
			t.Run(fmt.Sprint("hour ", hour), func(t *testing.T) {
				for range mailsPerWindow {
					ask(mxerr.CodeUnknown)
				}
				ask(mxerr.CodeLimitExceeded)
			})
			err := db.Write(t.Context(), func(tx *sqldb.Tx) error {
				_, err := tx.Exec(sqlAge, mailWindow.Milliseconds())
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}
