package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"myelin/matrix/id"
	"myelin/matrix/roomver"
)

const defaultRoomVersion = roomver.Default

// problem is what is wrong with one key's value, as a sentence that says what to write.
type problem struct{ key, text string }

// check looks at every value on its own, and at those that must fit each other.
func (c *Config) check() []problem {
	var found []problem
	wrong := func(key, format string, args ...any) {
		found = append(found, problem{key, key + ": " + fmt.Sprintf(format, args...)})
	}
	oneOf := func(key, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			wrong(key, "%q is none of %s", value, strings.Join(allowed, ", "))
		}
	}
	if _, err := id.ParseServerName(c.ServerName); err != nil {
		wrong("server_name", "%v; write a DNS name such as example.org", err)
	}
	if strings.TrimSpace(c.DataDir) == "" {
		wrong("data_dir", "must not be empty; write the path of a folder such as /var/lib/myelin")
	}
	if c.Database != "" {
		u, err := url.Parse(c.Database)
		// The URL may hold a password, so it is not repeated.
		if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
			wrong("database", "must be empty (SQLite in data_dir) or a URL such as postgres://user:password@host/name")
		}
	}
	oneOf("registration", c.Registration, "open", "token", "closed")
	oneOf("rate_limits", c.RateLimits, "on", "off")
	oneOf("presence", c.Presence, "on", "off")
	oneOf("user_directory", c.UserDirectory, "visible", "all")
	for _, s := range c.TrustedProxies {
		if _, err := parseNetwork(s); err != nil {
			wrong("trusted_proxies", "%q is not an address or a network; write 10.0.0.5 or 10.0.0.0/8", s)
		}
	}
	if v, ok := roomver.Get(c.DefaultRoomVersion); !ok {
		wrong("default_room_version", "there is no room version %q; write %q", c.DefaultRoomVersion, roomver.Default)
	} else if !v.Stable {
		wrong("default_room_version", "room version %q is not stable; write %q", c.DefaultRoomVersion, roomver.Default)
	}
	if err := checkListen(c.Client.Listen); err != nil {
		wrong("client.listen", "%v; write an address and a port such as 127.0.0.1:8008", err)
	}
	if err := checkURL(c.Client.BaseURL); err != nil {
		wrong("client.base_url", "%v; write a URL such as https://matrix.example.org", err)
	}
	c.checkFederation(wrong)
	if c.Session.RefreshableLifetime <= 0 {
		wrong("session.refreshable_lifetime", "must be more than 0; write a time such as 1h")
	}
	c.checkCalls(wrong)
	c.checkNewcomers(wrong)
	if _, err := id.ParseUserID("@" + c.Notices.Localpart + ":" + c.ServerName); err != nil || c.Notices.Localpart == "" {
		wrong("notices.localpart", "%q is not the local part of a user ID; write a name such as server-notices", c.Notices.Localpart)
	}
	for _, size := range []struct {
		key   string
		value Size
	}{{"media.max_upload", c.Media.MaxUpload}, {"media.max_remote", c.Media.MaxRemote}} {
		if size.value < 1<<10 {
			wrong(size.key, "%s is too little for any file; write a size such as 50MiB", size.value)
		}
	}
	oneOf("media.previews", c.Media.Previews, "on", "off")
	for _, s := range c.Media.PreviewNetworks {
		if _, err := parseNetwork(s); err != nil {
			wrong("media.preview_networks", "%q is not an address or a network; write 10.0.0.5 or 10.0.0.0/8", s)
		}
	}
	c.checkS3(wrong)
	if c.Support.MatrixID != "" {
		if _, err := id.ParseUserID(c.Support.MatrixID); err != nil {
			wrong("support.matrix_id", "%v; write a user ID such as @admin:example.org", err)
		}
	}
	if c.Support.Email != "" && !strings.Contains(c.Support.Email, "@") {
		wrong("support.email", "%q has no @; write an e-mail address", c.Support.Email)
	}
	if err := checkURL(c.Support.Page); err != nil {
		wrong("support.page", "%v; write the URL of a web page", err)
	}
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")
	oneOf("log.requests", c.Log.Requests, "on", "off")
	if c.Metrics.Listen != "" {
		if err := checkListen(c.Metrics.Listen); err != nil {
			wrong("metrics.listen", "%v; write an address and a port such as 127.0.0.1:9008", err)
		}
	}
	return found
}

func checkListen(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not an address and a port", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("%q has no port between 0 and 65535", s)
	}
	return nil
}

func checkURL(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q is not an http or https URL", s)
	}
	return nil
}

func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, errors.New("addresses with a zone match nothing")
		}
		return a.Unmap().Prefix(a.Unmap().BitLen())
	}
	p, err := netip.ParsePrefix(s)
	// Addresses are compared in their short form, so a network of mapped ones would match nothing.
	if mapped := 128 - 32; err == nil && p.Addr().Is4In6() && p.Bits() >= mapped {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
	}
	return p.Masked(), err
}

// Name is server_name.
func (c *Config) Name() id.ServerName { return id.ServerName(c.ServerName) }

// DatabaseURL is the database for package sqldb: the configured one, or SQLite in data_dir.
func (c *Config) DatabaseURL() string {
	if c.Database != "" {
		return c.Database
	}
	return "sqlite:" + filepath.Join(c.DataDir, "myelin.db")
}

// MediaFolder is the folder for files: the configured one, or that in data_dir.
func (c *Config) MediaFolder() string {
	if c.Media.Folder != "" {
		return c.Media.Folder
	}
	return filepath.Join(c.DataDir, "media")
}

// BaseURL is the URL for clients, without a slash at its end. Without client.base_url it is made
// of the address that the server listens on; an address that means all of this machine's
// becomes localhost.
func (c *Config) BaseURL(listening net.Addr) string {
	if c.Client.BaseURL != "" {
		return strings.TrimRight(c.Client.BaseURL, "/")
	}
	at := c.Client.Listen
	if listening != nil {
		at = listening.String()
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return "http://" + at
	}
	if a, err := netip.ParseAddr(host); host == "" || err == nil && a.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// Networks is media.preview_networks, parsed.
func (m *Media) Networks() []netip.Prefix { return networks(m.PreviewNetworks) }

// ProxyNetworks is trusted_proxies, parsed.
func (c *Config) ProxyNetworks() []netip.Prefix { return networks(c.TrustedProxies) }

func networks(list []string) []netip.Prefix {
	var parsed []netip.Prefix
	for _, s := range list {
		if p, err := parseNetwork(s); err == nil {
			parsed = append(parsed, p)
		}
	}
	return parsed
}

// LogLevel is log.level, parsed.
func (c *Config) LogLevel() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		return slog.LevelInfo
	}
	return level
}
