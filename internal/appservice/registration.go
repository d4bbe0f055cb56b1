package appservice

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"myelin/matrix/id"
)

// Bounds of a registration.
const (
	maxFile       = 256 << 10 // bytes
	maxName       = 255       // bytes of an ID, a protocol or a localpart
	maxToken      = 1024
	maxNamespaces = 100 // of a kind
	maxExpression = 1000
	maxProtocols  = 100
)

// Registration is what a registration file says. Keys that it does not know are passed over: bridges keep their own beside.
//
// Spec: as Registration
type Registration struct {
	ID string `yaml:"id" json:"id"`
	// URL is where the application service listens; empty for one that only acts.
	URL     string `yaml:"url" json:"url,omitempty"`
	ASToken string `yaml:"as_token" json:"-"`
	HSToken string `yaml:"hs_token" json:"hs_token"`
	// Sender is the localpart of the user in whose name the application service acts where it names none.
	Sender      string     `yaml:"sender_localpart" json:"sender_localpart"`
	Namespaces  Namespaces `yaml:"namespaces" json:"namespaces"`
	RateLimited *bool      `yaml:"rate_limited" json:"rate_limited,omitempty"`
	Protocols   []string   `yaml:"protocols" json:"protocols,omitempty"`
	// Ephemeral asks for receipts, typing, presence and messages to devices.
	Ephemeral bool `yaml:"receive_ephemeral" json:"receive_ephemeral,omitempty"`
	// OldEphemeral asks for the same under the names that it had before it was specified (MSC2409).
	OldEphemeral bool `yaml:"de.sorunome.msc2409.push_ephemeral" json:"de.sorunome.msc2409.push_ephemeral,omitempty"`
	// Encryption asks for what is needed to encrypt (MSC3202).
	Encryption bool `yaml:"org.matrix.msc3202" json:"org.matrix.msc3202,omitempty"`
}

// Namespaces are the names that concern an application service.
type Namespaces struct {
	Users   []Namespace `yaml:"users" json:"users,omitempty"`
	Aliases []Namespace `yaml:"aliases" json:"aliases,omitempty"`
	Rooms   []Namespace `yaml:"rooms" json:"rooms,omitempty"`
}

// Namespace is a set of names.
type Namespace struct {
	Exclusive bool   `yaml:"exclusive" json:"exclusive"`
	Regex     string `yaml:"regex" json:"regex"`
}

// Parse reads a registration file. The errors are sentences for operators.
//
// Spec: as Registration
func Parse(text []byte) (*Registration, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("a registration has at most %d bytes, this one has %d", maxFile, len(text))
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var r Registration
	switch err := d.Decode(&r); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the registration is empty")
	case err != nil:
		return nil, fmt.Errorf("not a registration in YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file must hold one registration and nothing else")
	}
	return &r, r.check()
}

// check says what is wrong with a registration by itself.
func (r *Registration) check() error {
	text := func(key, s string, most int) error {
		switch {
		case s == "":
			return fmt.Errorf("%s is missing", key)
		case len(s) > most:
			return fmt.Errorf("%s has more than %d bytes", key, most)
		case !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\r\n"):
			return fmt.Errorf("%s must be one line of text", key)
		}
		return nil
	}
	if err := errors.Join(text("id", r.ID, maxName), text("as_token", r.ASToken, maxToken), text("hs_token", r.HSToken, maxToken),
		text("sender_localpart", r.Sender, maxName)); err != nil {
		return err
	}
	if r.URL == "null" { // as some tools write it
		r.URL = ""
	}
	if err := checkURL(r.URL); err != nil {
		return err
	}
	if len(r.Protocols) > maxProtocols {
		return fmt.Errorf("there are more than %d protocols", maxProtocols)
	}
	for _, p := range r.Protocols {
		if err := text("a protocol", p, maxName); err != nil {
			return err
		}
	}
	return nil
}

func checkURL(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("url is %q, but must be http:// or https:// with a host, or empty", s)
	}
	return nil
}

// Service is an application service in force. It is immutable but for what Client counts.
type Service struct {
	Registration
	// User is the user of sender_localpart.
	User id.UserID
	// Source is the file that the registration came from; empty for one that was added by a command.
	Source string

	hash                  string // of the as_token
	users, aliases, rooms names
	asks                  *questions
}

// names are the namespaces of one kind.
type names []name

type name struct {
	Namespace
	match *regexp.Regexp
}

// match reports whether a name is in any of the namespaces.
func (ns names) match(s string) bool {
	for i := range ns {
		if ns[i].match.MatchString(s) {
			return true
		}
	}
	return false
}

// exclusive reports whether a name is in one of the exclusive namespaces.
func (ns names) exclusive(s string) bool {
	for i := range ns {
		if ns[i].Exclusive && ns[i].match.MatchString(s) {
			return true
		}
	}
	return false
}

// compile makes a registration ready. The as_token is given as its hash.
func compile(r Registration, hash, source string, domain id.ServerName) (*Service, error) {
	s := &Service{Registration: r, Source: source, hash: hash, asks: newQuestions()}
	s.ASToken = ""
	var err error
	if s.User, err = id.NewUserID(r.Sender, domain); err != nil {
		return nil, fmt.Errorf("sender_localpart: %w", err)
	}
	for _, kind := range []struct {
		key  string
		from []Namespace
		to   *names
	}{{"users", r.Namespaces.Users, &s.users}, {"aliases", r.Namespaces.Aliases, &s.aliases}, {"rooms", r.Namespaces.Rooms, &s.rooms}} {
		if len(kind.from) > maxNamespaces {
			return nil, fmt.Errorf("namespaces.%s: there are more than %d", kind.key, maxNamespaces)
		}
		for _, n := range kind.from {
			if n.Regex == "" || len(n.Regex) > maxExpression {
				return nil, fmt.Errorf("namespaces.%s: a regex has 1 to %d bytes", kind.key, maxExpression)
			}
			match, err := regexp.Compile(anchored(n.Regex))
			if err != nil {
				return nil, fmt.Errorf("namespaces.%s: the regex %q is none that RE2 knows: %w", kind.key, n.Regex, err)
			}
			*kind.to = append(*kind.to, name{n, match})
		}
	}
	return s, nil
}

// anchored makes an expression match at the beginning of names.
func anchored(regex string) string { return `\A(?:` + regex + `)` }

// Has reports whether a user is the application service's own or in its namespaces. Users of other servers never are.
//
// Spec: as Registration
func (s *Service) Has(user id.UserID) bool {
	return user == s.User || user.Domain() == s.User.Domain() && s.users.match(string(user))
}

// Owns reports whether nobody else may have the user.
func (s *Service) Owns(user id.UserID) bool {
	return user == s.User || user.Domain() == s.User.Domain() && s.users.exclusive(string(user))
}

// limited reports whether rate limits apply to what the application service does as a user.
//
// Spec: as Registration
func (s *Service) limited(user id.UserID) bool {
	return user != s.User && (s.RateLimited == nil || *s.RateLimited)
}

// ephemeral reports whether the application service wants what is not in rooms' histories.
func (s *Service) ephemeral() bool { return s.Ephemeral || s.OldEphemeral }

// stored is a registration as the table holds it.
func (r *Registration) stored() (string, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encode a registration: %w", err)
	}
	return string(raw), nil
}
