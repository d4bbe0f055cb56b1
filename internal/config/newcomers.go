package config

import (
	"fmt"
	"net/mail"
	"slices"
	"strings"
)

// checkNewcomers looks at what new users have to do.
func (c *Config) checkNewcomers(wrong func(key, format string, args ...any)) {
	m := c.Mail
	if !slices.Contains([]string{"starttls", "tls", "none"}, m.TLS) {
		wrong("mail.tls", "%q is none of starttls, tls, none", m.TLS)
	}
	if m.Server != "" {
		if err := checkListen(m.Server); err != nil || strings.HasPrefix(m.Server, ":") {
			wrong("mail.server", "%q is not a name and a port; write those of an SMTP server such as smtp.example.org:587", m.Server)
		}
		if _, err := mail.ParseAddress(m.From); err != nil {
			wrong("mail.from", "%q is not an e-mail address; write one such as \"Example <matrix@example.org>\"", m.From)
		}
	} else if m.Required {
		wrong("mail.required", "nobody could register without mail.server; set that, too")
	}
	if _, err := c.Terms.Parse(); err != nil {
		wrong("terms.documents", "%v; write such as \"privacy_policy 1.2 en https://example.org/privacy Privacy policy\"", err)
	}
	if c.Captcha.SiteKey == "" {
		return
	}
	if c.Captcha.Secret == "" {
		wrong("captcha.secret", "must not be empty where captcha.site_key is set")
	}
	for _, u := range []struct{ key, value string }{{"captcha.verify_url", c.Captcha.VerifyURL}, {"captcha.script_url", c.Captcha.ScriptURL}} {
		if err := checkURL(u.value); err != nil || u.value == "" {
			wrong(u.key, "%q is not an http or https URL", u.value)
		}
	}
}

// Document is one text that new users must accept.
type Document struct{ Policy, Version, Language, URL, Title string }

// Parse reads terms.documents.
func (t Terms) Parse() ([]Document, error) {
	var list []Document
	versions := make(map[string]string)
	for _, s := range t.Documents {
		f := strings.SplitN(strings.TrimSpace(s), " ", 5)
		if len(f) < 5 || strings.TrimSpace(f[4]) == "" {
			return nil, fmt.Errorf("%q lacks a name, a version, a language, a URL or a title", s)
		}
		d := Document{Policy: f[0], Version: f[1], Language: f[2], URL: f[3], Title: strings.TrimSpace(f[4])}
		if err := checkURL(d.URL); err != nil || d.URL == "" {
			return nil, fmt.Errorf("%q is not an http or https URL", d.URL)
		}
		if was, ok := versions[d.Policy]; ok && was != d.Version {
			return nil, fmt.Errorf("%s has two versions, %s and %s", d.Policy, was, d.Version)
		}
		if d.Language == "version" {
			return nil, fmt.Errorf("%q is no language", d.Language)
		}
		versions[d.Policy] = d.Version
		list = append(list, d)
	}
	return list, nil
}
