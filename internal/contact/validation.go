package contact

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/mail"
	"net/url"
	"strings"
	"time"

	"myelin/internal/sqldb"
	"myelin/internal/web"
	"myelin/matrix/mxerr"
)

// Purpose is what an address is confirmed for. A validation is of use for one purpose only.
type Purpose string

// The purposes. They are stored.
const (
	ForRegistration Purpose = "register"
	ForAccount      Purpose = "add"
	ForPassword     Purpose = "password"
)

const (
	// linkLifetime is how long a link in a mail works, and validationLifetime how long what it confirmed is of use.
	linkLifetime       = time.Hour
	validationLifetime = 24 * time.Hour
	// mailsPerWindow is how many mails go to one address within mailWindow.
	mailsPerWindow = 5
	mailWindow     = time.Hour

	maxAddress = 320 // bytes; what SMTP allows
)

// TokenRequest is the body of the operations that ask for a mail.
//
// Spec: cs requestTokenTo3PIDEmail
type TokenRequest struct {
	ClientSecret string `json:"client_secret"`
	Email        string `json:"email"`
	SendAttempt  *int64 `json:"send_attempt"`
	NextLink     string `json:"next_link"`
}

// Request mails a link to an address and returns the ID of the session. A repeated attempt mails nothing more.
//
// Spec: cs requestTokenTo3PIDEmail
// Spec: cs requestTokenToRegisterEmail
// Spec: cs requestTokenToResetPasswordEmail
func (c *Contacts) Request(ctx context.Context, p Purpose, r TokenRequest) (sid string, err error) {
	address, err := r.check()
	switch {
	case err != nil:
		return "", err
	case c.cfg.Mail == nil:
		return "", mxerr.New(mxerr.CodeThreepidDenied, "this server sends no mail")
	}
	_, known, err := c.Owner(ctx, Email, address)
	switch {
	case err != nil:
		return "", err
	case known && p != ForPassword:
		return "", errInUse
	case !known && p == ForPassword:
		return "", mxerr.New(mxerr.CodeThreepidNotFound, "no account here has this address")
	}
	sid, token := rand.Text(), rand.Text()
	mailed := false
	err = c.db.Write(ctx, func(tx *sqldb.Tx) error {
		mailed = false
		at := now()
		var there string
		var attempt int64
		found, err := tx.Get(sqlSession, []any{string(p), hash(r.ClientSecret), address, at}, &there, &attempt)
		if err != nil {
			return err
		}
		if found && *r.SendAttempt <= attempt {
			sid, mailed = there, true
			return nil
		}
		if found {
			sid = there
		}
		var sent, first int64
		if _, err := tx.Get(sqlMails, []any{address, at - mailWindow.Milliseconds()}, &sent, &first); err != nil {
			return err
		}
		if sent >= mailsPerWindow {
			return mxerr.LimitExceeded(time.Duration(first+mailWindow.Milliseconds()-at) * time.Millisecond)
		}
		_, err = tx.Exec(sqlPutSession, sid, string(p), hash(r.ClientSecret), address, hash(token), *r.SendAttempt, r.NextLink, at, at+linkLifetime.Milliseconds(),
			at-mailWindow.Milliseconds())
		return err
	})
	if err != nil || mailed {
		return sid, err
	}
	query := url.Values{"sid": {sid}, "client_secret": {r.ClientSecret}, "token": {token}}
	if err := c.cfg.Mail.confirmation(ctx, p, address, c.cfg.Link(query.Encode())); err != nil {
		c.cfg.Log.WarnContext(ctx, "a mail could not be sent", slog.Any("error", err))
		return "", c.unsent(ctx, sid, *r.SendAttempt)
	}
	return sid, nil
}

// unsent lets the client try the same attempt again, and tells it so.
func (c *Contacts) unsent(ctx context.Context, sid string, attempt int64) error {
	err := c.db.Write(context.WithoutCancel(ctx), func(tx *sqldb.Tx) error {
		_, err := tx.Exec(sqlForgetMail, sid, attempt-1)
		return err
	})
	if err != nil {
		return fmt.Errorf("note that a mail was not sent: %w", err)
	}
	return web.Status(mxerr.New(mxerr.CodeUnknown, "the mail could not be sent; try again later"), 400)
}

// check reads the address, in the form in which addresses are compared.
func (r TokenRequest) check() (string, error) {
	switch {
	case r.ClientSecret == "":
		return "", mxerr.MissingParam("\"client_secret\" is missing")
	case r.Email == "":
		return "", mxerr.MissingParam("\"email\" is missing")
	case r.SendAttempt == nil:
		return "", mxerr.MissingParam("\"send_attempt\" is missing")
	case !goodSecret(r.ClientSecret):
		return "", mxerr.InvalidParam("\"client_secret\" must have 1 to 255 of the characters 0-9, a-z, A-Z and .=_-")
	}
	if r.NextLink != "" {
		u, err := url.Parse(r.NextLink)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || len(r.NextLink) > 2048 {
			return "", mxerr.InvalidParam("\"next_link\" must be the URL of a web page")
		}
	}
	return ParseEmail(r.Email)
}

// ParseEmail reads an e-mail address, in the form in which addresses are compared. It answers M_INVALID_PARAM.
//
// Spec: appendices E-Mail
func ParseEmail(s string) (string, error) {
	a, err := mail.ParseAddress(s)
	if err != nil || a.Name != "" || a.Address != s || len(s) > maxAddress || strings.ContainsAny(s, "\r\n\x00<>\"") {
		return "", mxerr.InvalidParam("this is not an e-mail address")
	}
	return folded(a.Address), nil
}

func goodSecret(s string) bool {
	const others = ".=_-"
	for i := range len(s) {
		c := s[i]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte(others, c) >= 0) {
			return false
		}
	}
	return len(s) <= 255
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Confirm notes that the link in a mail was followed, and returns where its reader goes next, if anywhere. A wrong or old link is
// M_NOT_FOUND.
func (c *Contacts) Confirm(ctx context.Context, sid, secret, token string) (next string, err error) {
	err = c.db.Write(ctx, func(tx *sqldb.Tx) error {
		at := now()
		found, err := tx.Get(sqlConfirm, []any{sid, hash(secret), hash(token), at, at + validationLifetime.Milliseconds()}, &next)
		if err == nil && !found {
			err = mxerr.NotFound("this link is not valid any more")
		}
		return err
	})
	return next, err
}

// Credentials name a validation.
//
// Spec: cs Email-based (identity / homeserver)
type Credentials struct {
	SID          string `json:"sid"`
	ClientSecret string `json:"client_secret"`
	// IDServer is set where an identity server did the validation, which none is trusted with here.
	IDServer string `json:"id_server"`
}

type validation struct {
	purpose   Purpose
	address   string
	validated int64
}

// validated finds a validation that was confirmed for a purpose.
func validated(tx *sqldb.Tx, creds Credentials, p Purpose) (v validation, err error) {
	found, err := tx.Get(sqlValidated, []any{creds.SID, hash(creds.ClientSecret), now()}, &v.purpose, &v.address, &v.validated)
	switch {
	case err != nil:
		return v, fmt.Errorf("load a validation: %w", err)
	case !found || v.purpose != p:
		return v, mxerr.New(mxerr.CodeThreepidAuthFailed, "there is no such validation")
	case v.validated == 0:
		return v, mxerr.New(mxerr.CodeThreepidAuthFailed, "the address is not confirmed yet: follow the link in the mail first")
	}
	return v, nil
}
