package server

import (
	"context"

	"myelin/internal/account"
	"myelin/internal/captcha"
	"myelin/internal/clientapi"
	"myelin/internal/contact"
	"myelin/internal/delayed"
	"myelin/internal/e2ee"
	"myelin/internal/sqldb"
	"myelin/matrix/id"
)

// newcomers is what new users have to do, as the configuration wants it.
type newcomers struct {
	terms  map[string]account.Policy
	stages []account.Stage
}

// openContacts opens the addresses of accounts, and gathers the stages that newcomers pass.
func (k *core) openContacts(ctx context.Context) (n newcomers, err error) {
	c := k.config
	own := contact.Config{DB: k.db, Log: k.log, Link: func(query string) string { return clientapi.ConfirmLink(k.baseURL(), query) }}
	if c.Mail.Server != "" {
		own.Mail = contact.NewMail(contact.Mail{
			Server: c.Mail.Server, TLS: c.Mail.TLS, Username: c.Mail.Username, Password: c.Mail.Password, From: c.Mail.From, Name: c.ServerName,
		})
	}
	if k.contacts, err = contact.Open(ctx, own); err != nil {
		return n, err
	}
	if own.Mail != nil {
		n.stages = append(n.stages, k.contacts.Stage())
	}
	if c.Captcha.SiteKey != "" {
		n.stages = append(n.stages, captcha.New(captcha.Config{SiteKey: c.Captcha.SiteKey, Secret: c.Captcha.Secret, VerifyURL: c.Captcha.VerifyURL, Log: k.log}))
	}
	documents, err := c.Terms.Parse()
	if err != nil {
		return n, err
	}
	n.terms = make(map[string]account.Policy)
	for _, d := range documents {
		p, ok := n.terms[d.Policy]
		if !ok {
			p = account.Policy{Version: d.Version, Texts: make(map[string]account.PolicyText)}
			n.terms[d.Policy] = p
		}
		p.Texts[d.Language] = account.PolicyText{Name: d.Title, URL: d.URL}
	}
	return n, nil
}

// deactivated takes away what an account has elsewhere when it ends.
func (k *core) deactivated(tx *sqldb.Tx, pos sqldb.Pos, user id.UserID, erase bool) error {
	if err := k.contacts.Deactivated(tx, user); err != nil {
		return err
	}
	if err := delayed.Deactivated(tx, user); err != nil {
		return err
	}
	return e2ee.Deactivated(tx, pos, user, erase)
}
