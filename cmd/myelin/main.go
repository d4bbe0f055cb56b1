package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"myelin/internal/config"
)

func main() {
	privateFiles()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := newRoot().ExecuteContext(ctx); err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintln(os.Stderr, "myelin:", line)
		}
		os.Exit(1)
	}
}

// program is what all commands share.
type program struct {
	sources config.Sources
}

func newRoot() *cobra.Command {
	p := new(program)
	serve := p.serveCommand()
	root := &cobra.Command{
		Use:   "myelin",
		Short: "A Matrix homeserver",
		Long: "Myelin is a Matrix homeserver. Without a command it serves: on http://127.0.0.1:8008, as server\n" +
			"name localhost, with its data in ./myelin-data, unless the configuration says otherwise.",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          serve.RunE,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&p.sources.File, "config", os.Getenv(config.FileVariable), "path of a TOML file with the configuration")
	flags.StringArrayVarP(&p.sources.Options, "option", "o", nil, "set one key of the configuration: -o key=value (repeatable)")
	root.AddCommand(serve, p.userCommand(), p.tokenCommand(), p.keyCommand(), p.reportCommand(), p.noticeCommand(), p.appserviceCommand(), p.mediaCommand(), p.configCommand(), p.doctorCommand(), versionCommand())
	return root
}

// load reads the configuration.
func (p *program) load() (*config.Config, config.Origins, error) {
	p.sources.Environ = os.Environ()
	return config.Load(p.sources)
}

// self is how to call this program again with the same configuration, as far as it can be shown.
func (p *program) self() string {
	words := []string{"myelin"}
	if exe, err := os.Executable(); err == nil && strings.Contains(exe, "go-build") {
		words[0] = "go run ./cmd/myelin"
	} else if strings.Contains(os.Args[0], "/") {
		words[0] = os.Args[0]
	}
	if p.sources.File != "" && os.Getenv(config.FileVariable) == "" {
		words = append(words, "--config", quote(p.sources.File))
	}
	for _, option := range p.sources.Options {
		// The data folder is where a command finds the server; the rest the server knows.
		if strings.HasPrefix(option, "data_dir=") {
			words = append(words, "-o", quote(option))
		}
	}
	return strings.Join(words, " ")
}

// quote makes a word that a shell takes for one.
func quote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("/._-=:@,+", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "Myelin", version())
			return err
		},
	}
}

// version is the module's version, or the commit that this was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	commit, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if commit == "" {
		return "development"
	}
	return "development-" + commit[:min(12, len(commit))] + dirty
}
