package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"myelin/internal/config"
	"myelin/internal/server"
)

// place is where everything is. The suite fixes these for its containers; tests choose others.
type place struct {
	name    string // of the server
	data    string // folder
	ca      string // folder with ca.crt and ca.key
	bridges string // folder with registrations of application services; it need not exist
	http    string // address
	https   string // address
	environ []string
}

// private are the networks in which the suite's containers and its own servers may be.
var private = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8", "fc00::/7", "fe80::/10", "::1"}

func main() {
	at := place{
		name: os.Getenv("SERVER_NAME"), data: "/data", ca: "/complement/ca", bridges: "/complement/appservice",
		http: ":8008", https: ":8448", environ: os.Environ(),
	}
	run := at.serve
	if len(os.Args) == 2 && os.Args[1] == "health" {
		run = at.health
	} else if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "usage: SERVER_NAME=name myelin-complement [health]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "myelin-complement:", err)
		os.Exit(1)
	}
}

// serve runs the server until ctx ends.
func (p place) serve(ctx context.Context) error {
	if p.name == "" {
		return errors.New("SERVER_NAME is empty; set it to the name of the server")
	}
	// The certificate stands beside the data. It is new at each start, for the suite may have changed its authority.
	cert, key := filepath.Join(p.data, "tls.crt"), filepath.Join(p.data, "tls.key")
	authority := filepath.Join(p.ca, "ca.crt")
	if err := certify(p.name, authority, filepath.Join(p.ca, "ca.key"), cert, key, time.Now()); err != nil {
		return err
	}
	options := []string{
		"server_name=" + p.name,
		"data_dir=" + p.data,
		"client.listen=" + p.http,
		"client.base_url=http://" + p.name,
		"federation.listen=" + p.https,
		"federation.tls_cert=" + cert,
		"federation.tls_key=" + key,
		"federation.ca_file=" + authority,
		"federation.allow_networks=" + strings.Join(private, ","),
		"media.preview_networks=" + strings.Join(private, ","),
		"push.allow_networks=" + strings.Join(private, ","),
		"registration=open",
		"registration_shared_secret=complement",
		"allow_guests=true",
		"rate_limits=off",
		"media.legacy_unauthenticated=true",
		"notices.localpart=_server",
	}
	if _, err := os.Stat(p.bridges); err == nil {
		options = append(options, "appservices="+p.bridges)
	}
	c, _, err := config.Load(config.Sources{Environ: p.environ, Options: options})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: c.LogLevel()}))
	s, err := server.New(ctx, server.Config{Config: c, Version: "complement", Log: log, Command: "myelin-complement"})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// health asks the server in this container for the versions it speaks.
func (p place) health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, port, err := net.SplitHostPort(p.http)
	if err != nil {
		return fmt.Errorf("read the address of the server: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/_matrix/client/versions", nil)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	return nil
}
