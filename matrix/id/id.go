package id

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxLength is the longest identifier in bytes, sigil and domain included.
const MaxLength = 255

type (
	// UserID is "@localpart:domain".
	UserID string
	// RoomID is "!opaque:domain", or "!hash" without a domain from room version 12 on.
	RoomID string
	// RoomAlias is "#localpart:domain".
	RoomAlias string
	// EventID is "$opaque:domain" in room versions 1 and 2, "$hash" in all later ones.
	EventID string
	// DeviceID is chosen by a client or by its server and is opaque.
	DeviceID string
)

// Domain returns the server that the user belongs to.
func (u UserID) Domain() ServerName { return ServerName(afterColon(string(u))) }

// Localpart returns what stands between "@" and the first ":".
func (u UserID) Localpart() string { return beforeColon(string(u)) }

// Domain returns the server that made the room, and false for a room ID of version 12 and
// later, which has none.
func (r RoomID) Domain() (ServerName, bool) {
	_, domain, ok := strings.Cut(string(r), ":")
	return ServerName(domain), ok
}

// Domain returns the server that the alias belongs to.
func (a RoomAlias) Domain() ServerName { return ServerName(afterColon(string(a))) }

// Localpart returns what stands between "#" and the first ":".
func (a RoomAlias) Localpart() string { return beforeColon(string(a)) }

// Domain returns the server in an event ID of room versions 1 and 2, and false for later ones.
func (e EventID) Domain() (ServerName, bool) {
	_, domain, ok := strings.Cut(string(e), ":")
	return ServerName(domain), ok
}

// NewUserID joins a localpart and a domain and checks the result by the strict grammar
// that new users must keep to.
func NewUserID(localpart string, domain ServerName) (UserID, error) {
	if err := CheckLocalpart(localpart); err != nil {
		return "", err
	}
	u := "@" + localpart + ":" + string(domain)
	if len(u) > MaxLength {
		return "", tooLong("user ID", len(u))
	}
	return UserID(u), nil
}

// CheckLocalpart reports whether a new user may have this localpart: a-z, 0-9 and any of
// "._=-/+", at least one of them.
//
// Spec: appendices User Identifiers
func CheckLocalpart(localpart string) error {
	if localpart == "" {
		return errors.New("a user name must not be empty")
	}
	for i := 0; i < len(localpart); i++ {
		c := localpart[i]
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("._=-/+", c) >= 0 {
			continue
		}
		return fmt.Errorf("a user name may hold only a-z, 0-9 and ._=-/+, not %q", localpart)
	}
	return nil
}

// ParseUserID accepts the historical grammar too: any localpart of legal code points, an
// empty one included, because such users exist in old rooms.
//
// Spec: appendices Historical User IDs
func ParseUserID(s string) (UserID, error) {
	if _, err := parse("user ID", '@', s); err != nil {
		return "", err
	}
	return UserID(s), nil
}

// IsHistorical reports whether the user ID is legal only for users of old.
func (u UserID) IsHistorical() bool { return CheckLocalpart(u.Localpart()) != nil }

// ParseRoomID accepts both forms, with a domain and without one.
//
// Spec: appendices Room IDs
func ParseRoomID(s string) (RoomID, error) {
	if err := check("room ID", '!', s); err != nil {
		return "", err
	}
	opaque, domain, ok := strings.Cut(s[1:], ":")
	if ok {
		// Rooms of old exist whose opaque part is empty only in theory; refuse those.
		if _, err := ParseServerName(domain); err != nil {
			return "", fmt.Errorf("room ID %q: %w", s, err)
		}
	}
	if opaque == "" {
		return "", fmt.Errorf("room ID %q has nothing after its sigil", s)
	}
	return RoomID(s), nil
}

// ParseRoomAlias checks the sigil, the length and the domain.
//
// Spec: appendices Room Aliases
func ParseRoomAlias(s string) (RoomAlias, error) {
	localpart, err := parse("room alias", '#', s)
	if err != nil {
		return "", err
	}
	if localpart == "" {
		return "", fmt.Errorf("room alias %q has no name before the colon", s)
	}
	return RoomAlias(s), nil
}

// ParseEventID accepts the forms of all room versions.
//
// Spec: appendices Event IDs
func ParseEventID(s string) (EventID, error) {
	if err := check("event ID", '$', s); err != nil {
		return "", err
	}
	if len(s) == 1 {
		return "", errors.New("event ID has nothing after its sigil")
	}
	return EventID(s), nil
}

// ParseDeviceID checks a device ID that a client chose. The specification gives it no grammar.
func ParseDeviceID(s string) (DeviceID, error) {
	switch {
	case s == "":
		return "", errors.New("device ID is empty")
	case len(s) > MaxLength:
		return "", tooLong("device ID", len(s))
	case !utf8.ValidString(s):
		return "", errors.New("device ID is not valid UTF-8")
	case strings.IndexByte(s, 0) >= 0:
		return "", errors.New("device ID contains a NUL byte")
	}
	return DeviceID(s), nil
}

// parse checks an identifier that must have a domain and returns its localpart.
func parse(kind string, sigil byte, s string) (localpart string, err error) {
	if err := check(kind, sigil, s); err != nil {
		return "", err
	}
	localpart, domain, ok := strings.Cut(s[1:], ":")
	if !ok {
		return "", fmt.Errorf("%s %q has no colon and domain", kind, s)
	}
	if _, err := ParseServerName(domain); err != nil {
		return "", fmt.Errorf("%s %q: %w", kind, s, err)
	}
	return localpart, nil
}

func check(kind string, sigil byte, s string) error {
	switch {
	case len(s) > MaxLength:
		return tooLong(kind, len(s))
	case s == "" || s[0] != sigil:
		return fmt.Errorf("%s %q does not start with %q", kind, s, sigil)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not valid UTF-8", kind)
	case strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("%s contains a NUL byte", kind)
	}
	return nil
}

func tooLong(kind string, n int) error {
	return fmt.Errorf("%s is %d bytes long, more than %d", kind, n, MaxLength)
}

func beforeColon(s string) string {
	if s == "" {
		return ""
	}
	before, _, _ := strings.Cut(s[1:], ":")
	return before
}

func afterColon(s string) string {
	_, after, _ := strings.Cut(s, ":")
	return after
}
