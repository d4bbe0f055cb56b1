package contact

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"
)

const (
	// mailTime is how long sending one mail may take, and mailsAtOnce how many are under way.
	mailTime    = 20 * time.Second
	mailsAtOnce = 8
)

// Mail sends mail through one server.
type Mail struct {
	// Server is its address, with the port.
	Server string
	// TLS is "starttls", which insists on it, "tls", or "none".
	TLS string
	// Username is empty where the server wants none.
	Username, Password string
	// From is the address that mail comes from.
	From string
	// Name is what this server is called in mail.
	Name string

	turns chan struct{} // holds a token for each mail under way
}

// NewMail returns a Mail that can be used by many at once.
func NewMail(m Mail) *Mail {
	m.turns = make(chan struct{}, mailsAtOnce)
	return &m
}

// subjects and reasons are what a mail says, by the purpose.
var texts = map[Purpose]struct{ subject, reason string }{
	ForRegistration: {"Confirm your e-mail address", "Somebody, probably you, wants to make an account at %s with this address."},
	ForAccount:      {"Confirm your e-mail address", "Somebody, probably you, wants to add this address to an account at %s."},
	ForPassword:     {"A new password", "Somebody, probably you, wants a new password for the account at %s that has this address."},
}

// confirmation sends the mail that asks to follow a link.
func (m *Mail) confirmation(ctx context.Context, p Purpose, to, link string) error {
	ctx, cancel := context.WithTimeout(ctx, mailTime)
	defer cancel()
	select {
	case m.turns <- struct{}{}:
		defer func() { <-m.turns }()
	case <-ctx.Done():
		return fmt.Errorf("wait for mails on their way: %w", context.Cause(ctx))
	}
	msg := mail.NewMsg()
	if err := msg.From(m.From); err != nil {
		return fmt.Errorf("the sender: %w", err)
	}
	if err := msg.To(to); err != nil {
		return fmt.Errorf("the recipient: %w", err)
	}
	text := texts[p]
	msg.Subject(text.subject)
	msg.SetDate()
	msg.SetMessageID()
	// A robot's mail is not to be answered by robots.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetBodyString(mail.TypeTextPlain, fmt.Sprintf(text.reason, m.Name)+" If it was you, follow this link within an hour:\n\n"+link+
		"\n\nIf it wasn't, there is nothing to do.\n")
	client, err := m.client()
	if err != nil {
		return err
	}
	if err := client.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("send a mail: %w", err)
	}
	return nil
}

func (m *Mail) client() (*mail.Client, error) {
	host, port, err := net.SplitHostPort(m.Server)
	if err != nil {
		return nil, fmt.Errorf("the mail server's address: %w", err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("the mail server's port: %w", err)
	}
	// The whole conversation is bounded, not only each answer: a server may trickle.
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		var conn net.Conn
		var err error
		if m.TLS == "tls" {
			conn, err = (&tls.Dialer{Config: &tls.Config{ServerName: host}}).DialContext(ctx, network, address)
		} else {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		}
		if deadline, ok := ctx.Deadline(); ok && err == nil {
			err = conn.SetDeadline(deadline)
		}
		return conn, err
	}
	options := []mail.Option{mail.WithPort(number), mail.WithTimeout(mailTime), mail.WithDialContextFunc(dial)}
	switch m.TLS {
	case "tls":
		options = append(options, mail.WithSSL())
	case "none":
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	default:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	switch {
	case m.Username == "":
	case m.TLS == "starttls":
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(m.Username), mail.WithPassword(m.Password))
	default:
		// The library can't see that our connection is encrypted already; without encryption the operator wanted it so.
		options = append(options, mail.WithSMTPAuthCustom(smtp.PlainAuth("", m.Username, m.Password, host, true)))
	}
	return mail.NewClient(host, options...)
}
