package media

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"myelin/matrix/mxerr"
)

// TestQuarantine: what is in quarantine is nowhere, at other addresses neither, and is there again when it is released.
func TestQuarantine(t *testing.T) {
	each(t, Limits{Remote: 1000}, func(n *node) {
		bad := encoded(t, quarters(50, 50), typePNG)
		up := func(content []byte) URI {
			t.Helper()
			u, err := n.Upload(n.ctx, Upload{User: alice, Body: bytes.NewReader(content)})
			n.ok(err)
			return u
		}
		first, copied, other := up(bad), n.copied("bad", bad, 0), up([]byte("good"))
		unknown := URI{"there.example", "unknown"}
		n.ok(n.Quarantine(n.ctx, first, unknown))
		n.ok(n.Quarantine(n.ctx, first))
		again := up(bad)
		for _, u := range []URI{first, copied, again, unknown} {
			if n.has(u) {
				t.Errorf("%s can be had", u)
			}
			_, err := n.Thumbnail(n.ctx, Want{URI: u, Remote: true}, Size{Width: 32, Height: 32})
			n.refused(mxerr.CodeNotFound, err)
		}
		if !n.has(other) || n.files() != 2 {
			t.Errorf("the other file: %v, %d files", n.has(other), n.files())
		}
		list, err := n.Quarantined(n.ctx, URI{})
		n.ok(err)
		if len(list) != 2 || list[0].Address != first.String() || list[1].Address != unknown.String() {
			t.Errorf("in quarantine: %v", list)
		}
		if list, err = n.Quarantined(n.ctx, first); err != nil || len(list) != 1 {
			t.Errorf("the second page: %v %v", list, err)
		}
		n.ok(n.Release(n.ctx, first))
		n.refused(mxerr.CodeNotFound, n.Release(n.ctx, first))
		for _, u := range []URI{first, copied, again} {
			if !n.has(u) {
				t.Errorf("%s can't be had", u)
			}
		}
	})
}

// TestRemove: what is removed is gone, with its thumbnails, and is not counted any more.
func TestRemove(t *testing.T) {
	each(t, Limits{}, func(n *node) {
		picture := encoded(t, quarters(300, 300), typePNG)
		u, err := n.Upload(n.ctx, Upload{User: alice, Name: "a.png", Body: bytes.NewReader(picture)})
		n.ok(err)
		copied := n.copied("copy", []byte("copy"), 0)
		thumbnail, err := n.Thumbnail(n.ctx, Want{URI: u}, Size{Width: 32, Height: 32})
		n.ok(err)
		n.ok(thumbnail.Body.Close())
		uses, err := n.Uses(n.ctx, "")
		n.ok(err)
		if len(uses) != 1 || uses[0] != (Use{alice, int64(len(picture)), 1}) {
			t.Errorf("uses %v", uses)
		}
		promised, _, err := n.Promise(n.ctx, alice)
		n.ok(err)
		gone, err := n.Remove(n.ctx, u, copied, promised, URI{"here.example", "unknown"})
		n.ok(err)
		if gone != 2 || n.has(u) || n.has(copied) || n.files() != 0 {
			t.Errorf("%d gone, %d files", gone, n.files())
		}
		if uses, err = n.Uses(n.ctx, ""); err != nil || len(uses) != 0 {
			t.Errorf("uses %v %v", uses, err)
		}
		n.ok(n.Fulfil(n.ctx, promised, Upload{User: alice, Body: strings.NewReader("x")}))
	})
}

// TestFilesOfAUser are listed, put into quarantine and removed page by page.
func TestFilesOfAUser(t *testing.T) {
	each(t, Limits{}, func(n *node) {
		var mine []URI
		for i := range OperatorPage + 3 {
			u, err := n.Upload(n.ctx, Upload{User: alice, ContentType: "text/plain", Name: "n", Body: strings.NewReader(fmt.Sprint(i))})
			n.ok(err)
			mine = append(mine, u)
		}
		his, err := n.Upload(n.ctx, Upload{User: "@bob:here.example", Body: strings.NewReader("bob's")})
		n.ok(err)
		page, err := n.Files(n.ctx, alice, "")
		n.ok(err)
		if f := page[0]; len(page) != OperatorPage || f.ContentType != "text/plain" || f.Name != "n" || f.Size == 0 || time.Since(time.UnixMilli(f.TS)) > time.Hour {
			t.Errorf("%d files, the first %+v", len(page), page[0])
		}
		count, last, err := n.QuarantineOf(n.ctx, alice, "")
		n.ok(err)
		rest, _, err := n.QuarantineOf(n.ctx, alice, last)
		n.ok(err)
		if count != OperatorPage || rest != 3 || n.has(mine[0]) || n.has(mine[OperatorPage+2]) || !n.has(his) {
			t.Errorf("%d and %d in quarantine", count, rest)
		}
		for want := range 2 {
			if count, _, err = n.RemoveOf(n.ctx, alice, ""); err != nil || count != []int{OperatorPage, 3}[want] {
				t.Errorf("%d removed: %v", count, err)
			}
		}
		if n.files() != 1 || !n.has(his) {
			t.Errorf("%d files", n.files())
		}
	})
}

// TestQuota: who has as much as users may have can't upload more, until something is removed.
func TestQuota(t *testing.T) {
	each(t, Limits{PerUser: 100}, func(n *node) {
		up := func(size int) (URI, error) {
			return n.Upload(n.ctx, Upload{User: alice, Body: bytes.NewReader(text(size))})
		}
		first, err := up(60)
		n.ok(err)
		_, err = up(41)
		n.refused(mxerr.CodeForbidden, err)
		u, _, err := n.Promise(n.ctx, alice)
		n.ok(err)
		n.refused(mxerr.CodeForbidden, n.Fulfil(n.ctx, u, Upload{User: alice, Body: bytes.NewReader(text(41))}))
		n.ok(n.Fulfil(n.ctx, u, Upload{User: alice, Body: bytes.NewReader(text(40))}))
		late, _, err := n.Promise(n.ctx, alice)
		n.ok(err)
		for _, body := range []io.Reader{strings.NewReader("x"), iotestErr{io.ErrUnexpectedEOF}} { // the second is not even read
			_, err = n.Upload(n.ctx, Upload{User: alice, Body: body})
			n.refused(mxerr.CodeForbidden, err)
			n.refused(mxerr.CodeForbidden, n.Fulfil(n.ctx, late, Upload{User: alice, Body: body}))
		}
		_, err = n.Upload(n.ctx, Upload{User: "@bob:here.example", Body: strings.NewReader("x")})
		n.ok(err)
		if n.files() != 3 {
			t.Errorf("%d files", n.files())
		}
		_, err = n.Remove(n.ctx, first)
		n.ok(err)
		_, err = up(60)
		n.ok(err)
	})
}
