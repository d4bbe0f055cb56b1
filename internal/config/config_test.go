package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "myelin.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsAreTheContract(t *testing.T) {
	c, _, err := Load(Sources{})
	if err != nil {
		t.Fatal(err)
	}
	if c.ServerName != "localhost" || c.DataDir != "./myelin-data" || c.Client.Listen != "127.0.0.1:8008" || c.Database != "" {
		t.Errorf("defaults: %+v", c)
	}
	if got := c.BaseURL(nil); got != "http://127.0.0.1:8008" {
		t.Errorf("base URL: %s", got)
	}
	if got := c.DatabaseURL(); got != "sqlite:myelin-data/myelin.db" {
		t.Errorf("database: %s", got)
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, "server_name = 'file.org'\nregistration = 'open'\ntrusted_proxies = ['10.0.0.0/8']\n[client]\nlisten = 'localhost:1'\n[session]\naccess_token_lifetime = '7d'\n")
	c, origins, err := Load(Sources{
		File:    file,
		Environ: []string{"HOME=/", "MYELIN_REGISTRATION=closed", "MYELIN_CLIENT_LISTEN=localhost:2", "MYELIN_ALLOW_GUESTS=true", "MYELIN_REQUIRE=all", "MYELIN_SYNAPSE=python3", "MYELIN_SERVICE_HOST=10.1.1.1", "MYELIN_PORT_8008_TCP_ADDR=10.1.1.1"},
		Options: []string{"client.listen=localhost:3", "client.listen=localhost:4", "trusted_proxies=::1, 192.0.2.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.ServerName, want.Registration, want.AllowGuests = "file.org", "closed", true
	want.Client.Listen = "localhost:4"
	want.TrustedProxies = []string{"::1", "192.0.2.1"}
	want.Session.AccessTokenLifetime = Duration(7 * 24 * 3600e9)
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	for key, from := range map[string]string{"server_name": file, "registration": "MYELIN_REGISTRATION", "client.listen": "-o", "database": ""} {
		if origins[key] != from {
			t.Errorf("%s came from %q, want %q", key, origins[key], from)
		}
	}
}

func TestErrorsNameKeyAndRemedy(t *testing.T) {
	const secret = "hunter2"
	for name, c := range map[string]struct {
		from Sources
		want []string
	}{
		"unknown in file":    {Sources{File: write(t, "[client]\nlistne = 'x'")}, []string{`"client.listne"`, `"client.listen"`, "myelin.toml"}},
		"unknown section":    {Sources{File: write(t, "[clients]\n")}, []string{`"clients"`}},
		"section as value":   {Sources{File: write(t, "client = 3")}, []string{`"client"`}},
		"value as section":   {Sources{File: write(t, "[server_name]\na = 1")}, []string{`"server_name.a"`}},
		"syntax":             {Sources{File: write(t, "client = ")}, []string{"not valid TOML", "line 1"}},
		"no file":            {Sources{File: "/nowhere/x.toml"}, []string{"/nowhere/x.toml", "config describe"}},
		"type in file":       {Sources{File: write(t, "server_name = 3")}, []string{"server_name must be a text"}},
		"list in file":       {Sources{File: write(t, "trusted_proxies = [1]")}, []string{"trusted_proxies must be a list"}},
		"unknown variable":   {Sources{Environ: []string{"MYELIN_CLIENT_LISTN=x"}}, []string{"MYELIN_CLIENT_LISTN", "MYELIN_CLIENT_LISTEN"}},
		"unknown option":     {Sources{Options: []string{"servername=x"}}, []string{`"servername"`, `"server_name"`}},
		"no value":           {Sources{Options: []string{"server_name"}}, []string{"-o key=value"}},
		"server name":        {Sources{Options: []string{"server_name=a b"}}, []string{"server_name", "example.org", "(set by -o)"}},
		"registration":       {Sources{Options: []string{"registration=maybe"}}, []string{"registration", "open, token, closed"}},
		"listen":             {Sources{Options: []string{"client.listen=8008"}}, []string{"client.listen", "127.0.0.1:8008"}},
		"port":               {Sources{Options: []string{"metrics.listen=:http"}}, []string{"metrics.listen", "port"}},
		"base url":           {Sources{Options: []string{"client.base_url=example.org"}}, []string{"client.base_url", "https://"}},
		"proxies":            {Sources{Options: []string{"trusted_proxies=10.0.0"}}, []string{"trusted_proxies", "10.0.0.0/8"}},
		"room version":       {Sources{Options: []string{"default_room_version=99"}}, []string{"default_room_version", `write "12"`}},
		"guests":             {Sources{Options: []string{"allow_guests=perhaps"}}, []string{"allow_guests must be true or false"}},
		"duration":           {Sources{Options: []string{"session.access_token_lifetime=soon"}}, []string{"session.access_token_lifetime", `"7d"`}},
		"negative duration":  {Sources{Options: []string{"session.access_token_lifetime=-1s"}}, []string{"session.access_token_lifetime"}},
		"size":               {Sources{Options: []string{"media.max_upload=big"}}, []string{"media.max_upload", `"50MiB"`}},
		"negative size":      {Sources{Options: []string{"media.max_upload=-1MiB"}}, []string{"media.max_upload", `"50MiB"`}},
		"overflow":           {Sources{Options: []string{"media.remote_cache=9999999999GiB"}}, []string{"media.remote_cache"}},
		"size of nothing":    {Sources{File: write(t, "[media]\nmax_remote = 5")}, []string{"media.max_remote", "50MiB"}},
		"bucket alone":       {Sources{Options: []string{"s3.bucket=files"}}, []string{"s3.bucket", "s3.endpoint"}},
		"store":              {Sources{Options: []string{"s3.endpoint=https://a:" + secret + "@h/", "s3.bucket=F", "s3.prefix=/x", "s3.region=", "s3.lookup=x"}}, []string{"s3.endpoint", "s3.bucket", "s3.prefix", "us-east-1", "s3.access_key", "MYELIN_S3_SECRET_KEY", "auto, path, dns"}},
		"database":           {Sources{Options: []string{"database=mysql://u:" + secret + "@h/d"}}, []string{"database", "postgres://"}},
		"several at once":    {Sources{Options: []string{"rate_limits=x", "log.level=loud", "log.format=xml", "log.requests=x"}}, []string{"rate_limits", "log.level", "log.format", "log.requests"}},
		"support":            {Sources{Options: []string{"support.email=x", "support.matrix_id=x", "support.page=x"}}, []string{"support.email", "support.matrix_id", "support.page"}},
		"empty data folder":  {Sources{Options: []string{"data_dir="}}, []string{"data_dir"}},
		"unstable url query": {Sources{Options: []string{"client.base_url=https://x/?q"}}, []string{"client.base_url"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Load(c.from)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%q tells a secret", err)
			}
		})
	}
}

// TestManual: each key has a comment, and the manual is a file that says what the defaults are.
func TestManual(t *testing.T) {
	docs, err := fieldDocs()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys() {
		if len(docs[k.field]) < 20 {
			t.Errorf("%s has no comment worth the name", k.name)
		}
		if section, _, ok := strings.Cut(k.name, "."); ok && docs[sectionField(section)] == "" {
			t.Errorf("section %s has no comment", section)
		}
	}
	var manual strings.Builder
	if err := Describe(&manual); err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	for line := range strings.SplitSeq(manual.String(), "\n") {
		if strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "# ") {
			line = line[1:]
		}
		file.WriteString(line + "\n")
	}
	c, origins, err := Load(Sources{File: write(t, file.String())})
	if err != nil {
		t.Fatalf("%v in:\n%s", err, file.String())
	}
	want := Default()
	want.TrustedProxies = c.TrustedProxies // an empty list, not nil
	if !reflect.DeepEqual(c, want) || len(origins) != len(keys()) {
		t.Errorf("the manual sets %d of %d keys, to %+v", len(origins), len(keys()), c)
	}
	if _, _, err := Load(Sources{File: write(t, manual.String())}); err != nil {
		t.Errorf("the manual as it is: %v", err)
	}
}

func TestShowKeepsSecrets(t *testing.T) {
	c, origins, err := Load(Sources{Options: []string{"registration_shared_secret=hunter2", "database=postgres://u:hunter2@h/d", "registration=open"}})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Show(&out, c, origins); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Contains(got, "hunter2") || !strings.Contains(got, `registration = "open"  (-o)`) {
		t.Error(got)
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]string{"0": "0s", "90s": "1m30s", "1h": "1h", "60m": "1h", "1h5s": "1h5s", "24h": "1d", "7d": "7d", "36h": "36h", "10m": "10m"} {
		d, err := parseDuration(text)
		if err != nil || d.String() != want {
			t.Errorf("%s is %s (%v), want %s", text, d, err, want)
		}
		if again, err := parseDuration(d.String()); err != nil || again != d {
			t.Errorf("%s does not come back from %s: %s (%v)", text, d, again, err)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add("server_name = 'a'\n[client]\nlisten = ':1'")
	f.Add("[client.listen]\nx = [[1]]")
	f.Add("session = {access_token_lifetime = 0}")
	path := filepath.Join(f.TempDir(), "myelin.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, _, err := Load(Sources{File: path}); err == nil && len(c.check()) > 0 {
			t.Errorf("%q is loaded and wrong: %v", text, c.check())
		}
	})
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"1": 1, "3B": 3, "2KiB": 2048, "50 MiB": 50 << 20, "1GB": 1e9, "10TiB": 10 << 40, "0": 0} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: %d %v", text, got, err)
		}
	}
	for size, want := range map[Size]string{0: "0B", 1: "1B", 1025: "1025B", 2 << 10: "2KiB", 100 << 20: "100MiB", 10 << 30: "10GiB"} {
		if got := size.String(); got != want {
			t.Errorf("%d: %s", int64(size), got)
		} else if back, err := parseSize(got); err != nil || back != size {
			t.Errorf("%s: %d %v", got, back, err)
		}
	}
	c, _, err := Load(Sources{File: write(t, "[media]\nmax_upload = '5MiB'\nmax_remote = 1048576")})
	if err != nil || c.Media.MaxUpload != 5<<20 || c.Media.MaxRemote != 1<<20 {
		t.Errorf("%+v %v", c, err)
	}
}
