package identity

import (
	"testing"

	"github.com/tidwall/gjson"

	"myelin/internal/sqldb/sqldbtest"
)

func TestStatements(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Open) {
		db := open()
		if err := db.Migrate(t.Context(), migrations...); err != nil {
			t.Fatal(err)
		}
		if err := db.Prepare(t.Context(), sqlBound, sqlBind, sqlUnbind); err != nil {
			t.Error(err)
		}
	})
}

// FuzzStored reads what identity servers say of invites that they keep: what is taken is fit to stand in a room.
func FuzzStored(f *testing.F) {
	f.Add(`{"token":"t","display_name":"a...@b","public_keys":[{"public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","key_validity_url":"https://id.example/valid"}]}`)
	f.Add(`{"token":"a b","public_keys":[]}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := readStored("id.example", gjson.Parse(text))
		if err != nil {
			return
		}
		if !goodToken.MatchString(s.Token) || len(s.Keys) == 0 || len(s.DisplayName) > 255 {
			t.Errorf("%q is taken as %+v", text, s)
		}
		if _, err := s.Content(); err != nil {
			t.Error(err)
		}
	})
}
