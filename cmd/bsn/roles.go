package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/config"
	"github.com/openbsn/bsn/framework/cosmos"
	"github.com/openbsn/bsn/framework/evm"
	"github.com/openbsn/bsn/gateway"
)

// gatewayBase is what a gateway needs beside what calls hold, in bytes: records,
// connections, metrics.
const gatewayBase = 256 << 20

// gatewayRun is what a city's daemon starts: people do not call it.
func gatewayRun(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "run FILE", Args: cobra.ExactArgs(1), Short: "run a gateway as a city's daemon configured it", Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read gateway's configuration: %w", err)
			}
			var role city.GatewayRole
			if err := json.Unmarshal(b, &role); err != nil {
				return fmt.Errorf("read %s: %w", args[0], err)
			}
			var level slog.Level
			if err := level.UnmarshalText([]byte(role.Level)); err != nil {
				return fmt.Errorf("read %s: %w", args[0], err)
			}
			frameworks, err := s.frameworks()
			if err != nil {
				return err
			}
			public, err := evm.NewPublic()
			if err != nil {
				return err
			}
			hub, err := cosmos.NewPublic()
			if err != nil {
				return err
			}
			role.Gateway.Protocols = map[string]gateway.Protocol{evm.PublicName: public, cosmos.Name: hub}
			client := api.DialGateway(role.API, role.Secret)
			if _, set := os.LookupEnv("GOMEMLIMIT"); !set {
				// What is garbage is to be collected before calls are refused for it.
				debug.SetMemoryLimit(role.Gateway.MaxMemoryBytes + gatewayBase)
			}
			g, err := gateway.New(role.Gateway, client, frameworks, artifacts{client}, logger(level))
			if err != nil {
				return err
			}
			gateway.TendHeap()
			return g.Run(cmd.Context())
		},
	}
}

// artifacts gives the gateway the city's packages.
type artifacts struct{ *api.Client }

// Get implements gateway.Artifacts.
func (a artifacts) Get(ctx context.Context, hash string) ([]byte, error) {
	return a.Artifact(ctx, hash)
}

func configCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "the configuration"}
	c.AddCommand(
		&cobra.Command{
			Use: "default", Short: "print the default configuration, with what every setting means", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := cmd.OutOrStdout().Write(config.Default)
				return err
			},
		},
		&cobra.Command{
			Use: "validate", Short: "check this machine's configuration files", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				homes, err := city.Local(s.root)
				if err != nil {
					return err
				}
				files := []string{filepath.Join(s.root, "bsn.yaml")} // read when the session was opened
				for _, h := range homes {
					if _, err := s.cityConfig(h); err != nil {
						return err
					}
					files = append(files, h.Config())
				}
				for _, f := range files {
					state := "valid"
					if _, err := os.Stat(f); err != nil {
						state = "not there: the defaults hold"
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", f, state)
				}
				return nil
			},
		})
	return c
}

func softwareCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "software", Short: "the software of chains' nodes"}
	c.AddCommand(&cobra.Command{
		Use: "build", Short: "build all node software that is not at hand yet, and say where it is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			frameworks, err := s.frameworks()
			if err != nil {
				return err
			}
			for _, name := range sortedKeys(frameworks) {
				progress, end := bar(cmd.ErrOrStderr(), "build "+name)
				path, err := frameworks[name].Software(cmd.Context(), progress)
				end()
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s\t%s\n", name, path)
			}
			return nil
		},
	})
	return c
}
