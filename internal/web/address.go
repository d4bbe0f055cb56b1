package web

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddress finds who sent a request. The X-Forwarded-For header is read from its end and
// believed only as far as trusted proxies wrote it: the first address that is not one of
// them is the client's.
func clientAddress(r *http.Request, trusted []netip.Prefix) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // no network, as over a socket or in tests
	}
	addr := peer.Addr().Unmap().WithZone("")
	if len(trusted) == 0 || !isTrusted(addr, trusted) {
		return addr
	}
	forwarded := r.Header.Values("X-Forwarded-For")
	for _, line := range slices.Backward(forwarded) {
		for line != "" {
			var last string
			if comma := strings.LastIndexByte(line, ','); comma >= 0 {
				line, last = line[:comma], line[comma+1:]
			} else {
				line, last = "", line
			}
			next, ok := forwardedAddress(strings.TrimSpace(last))
			if !ok {
				return addr
			}
			if addr = next; !isTrusted(addr, trusted) {
				return addr
			}
		}
	}
	return addr
}

// forwardedAddress reads an address as proxies write it: bare, with a port, or in brackets.
func forwardedAddress(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

func isTrusted(addr netip.Addr, trusted []netip.Prefix) bool {
	return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}
