package id

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ServerName is a DNS name, an IPv4 address or an IPv6 address in brackets, with an optional
// port. Comparison is by bytes: server names are case-sensitive.
type ServerName string

// Host returns the name without the port; an IPv6 address keeps its brackets.
func (s ServerName) Host() string {
	host, _ := splitPort(string(s))
	return host
}

// Port returns the port, and false where the name has none.
func (s ServerName) Port() (uint16, bool) {
	_, port := splitPort(string(s))
	if port == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return uint16(n), err == nil
}

// IsIPLiteral reports whether the host is an address rather than a DNS name.
func (s ServerName) IsIPLiteral() bool {
	_, err := netip.ParseAddr(strings.Trim(s.Host(), "[]"))
	return err == nil
}

// ParseServerName checks a server name.
//
// Spec: appendices Server Name
func ParseServerName(s string) (ServerName, error) {
	switch {
	case s == "":
		return "", errors.New("server name is empty")
	case len(s) > MaxLength-2:
		return "", tooLong("server name", len(s))
	}
	host, port := splitPort(s)
	if host != s && !isPort(port) {
		return "", fmt.Errorf("server name %q has a bad port", s)
	}
	if strings.HasPrefix(host, "[") {
		inner, ok := strings.CutSuffix(host[1:], "]")
		addr, err := netip.ParseAddr(inner)
		if !ok || err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", fmt.Errorf("server name %q is not a valid IPv6 address in brackets", s)
		}
		return ServerName(s), nil
	}
	if host == "" {
		return "", fmt.Errorf("server name %q has no host", s)
	}
	for i := 0; i < len(host); i++ {
		c := host[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' {
			continue
		}
		return "", fmt.Errorf("server name %q may hold only letters, digits, '-' and '.'", s)
	}
	return ServerName(s), nil
}

func splitPort(s string) (host, port string) {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 || colon < strings.LastIndexByte(s, ']') {
		return s, ""
	}
	return s[:colon], s[colon+1:]
}

func isPort(s string) bool {
	if s == "" || len(s) > 5 {
		return false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return err == nil && n <= 65535 && s[0] != '+'
}
