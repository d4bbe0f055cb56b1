package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"myelin/internal/config"
	"myelin/internal/server"
)

func (p *program) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the server (the default command)",
		Long: "Run the server until it is told to stop (SIGTERM, or Ctrl-C). It then finishes the requests under way and\n" +
			"ends within five seconds. On SIGHUP it reads the configuration again and takes up the keys that say so.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.serve(c.Context(), c.ErrOrStderr())
		},
	}
}

func (p *program) serve(ctx context.Context, stderr io.Writer) error {
	c, _, err := p.load()
	if err != nil {
		return err
	}
	log, level := newLog(c, stderr)
	s, err := server.New(ctx, server.Config{Config: c, Version: version(), Log: log, Hello: stderr, Command: p.self()})
	if err != nil {
		return err
	}
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	stopped := make(chan struct{})
	defer close(stopped)
	go p.reload(reload, stopped, log, level)
	return s.Run(ctx)
}

// newLog makes the log that the configuration wants. The level can be changed later.
func newLog(c *config.Config, w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(c.LogLevel())
	options := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), level
	}
	return slog.New(slog.NewTextHandler(w, options)), level
}

// reload takes up what can change while the server runs, each time it is told to.
func (p *program) reload(told <-chan os.Signal, stopped <-chan struct{}, log *slog.Logger, level *slog.LevelVar) {
	for {
		select {
		case <-stopped:
			return
		case <-told:
		}
		c, _, err := p.load()
		if err != nil {
			log.Error("the configuration stays as it was", slog.String("error", err.Error()))
			continue
		}
		level.Set(c.LogLevel())
		log.Info("configuration read again", slog.String("level", fmt.Sprint(c.LogLevel())))
	}
}
