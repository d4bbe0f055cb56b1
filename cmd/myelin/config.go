package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"myelin/internal/config"
)

func (p *program) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Describe and check the configuration"}
	c.AddCommand(&cobra.Command{
		Use:   "describe",
		Short: "Print the manual of all keys, which is a configuration file too",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return config.Describe(c.OutOrStdout()) },
	}, &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with the configuration, or which values are in force",
		Long: "Read the configuration as the server would. Print what is wrong with it, or the values that were set and\n" +
			"where they came from. The certificates it names are read; nothing else is opened or connected to: myelin doctor does that.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, origins, err := p.load()
			if err != nil {
				return err
			}
			if err := cfg.CheckFiles(); err != nil {
				return err
			}
			if err := config.Show(c.OutOrStdout(), cfg, origins); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "The configuration is valid.")
			return err
		},
	})
	return c
}
