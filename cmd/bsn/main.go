// Command bsn is the whole system: a city's daemon and its gateway, and the
// command line of operators, portals and developers.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/ledger"
)

// exitWaiting is the status of a command that further keys have to agree with.
const exitWaiting = 3

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := newRoot()
	if err := cmd.ExecuteContext(ctx); err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, "interrupted")
			os.Exit(130)
		}
		var waiting *ledger.WaitingError
		if errors.As(err, &waiting) { // nothing went wrong, and nothing is done yet
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitWaiting)
		}
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// newRoot is the tree of commands. Each file of this folder adds those of one noun.
func newRoot() *cobra.Command {
	s := new(session)
	root := &cobra.Command{
		Use:   "bsn",
		Short: "an open blockchain-based service network",
		Long: `bsn runs cities of an open blockchain-based service network, and publishes and
calls DApps on it.

Try it on this machine:  bsn up`,
		Version:       city.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return s.open()
		},
	}
	root.PersistentFlags().StringVar(&s.root, "home", "", "folder of all state (default $BSN_HOME, else ~/.bsn)")
	root.PersistentFlags().StringVar(&s.cityName, "via", "", "city to talk to (default: the context's)")
	root.PersistentFlags().StringVar(&s.keyFile, "key", "", "key file to sign with (default: the account's or operator's own below the home folder)")
	root.AddGroup(
		&cobra.Group{ID: "local", Title: "A network on this machine:"},
		&cobra.Group{ID: "develop", Title: "For developers:"},
		&cobra.Group{ID: "operate", Title: "For operators and portals:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("local", upCommand(s), downCommand(s), resetCommand(s))
	add("develop", appCommand(s), projectCommand(s), keyCommand(s), tokenCommand(s), usageCommand(s), receiptCommand(s), accountCommand(s), actCommand(s), chainCommand(s), contextCommand(s))
	add("operate", statusCommand(s), cityCommand(s), gatewayCommand(s), linkCommand(s), operatorCommand(s), networkCommand(s), proposalCommand(s), voteCommand(s), portalCommand(s), ledgerCommand(s), backupCommand(s), restoreCommand(s), logsCommand(s), configCommand(s), softwareCommand(s))
	add("operate", protocolCommand(s), upgradeCommand(s), versionCommand())
	refuseUnknown(root)
	return root
}

// refuseUnknown makes a mistyped subcommand an error; cobra does so at the root only.
func refuseUnknown(c *cobra.Command) {
	for _, sub := range c.Commands() {
		refuseUnknown(sub)
		if sub.HasSubCommands() && sub.RunE == nil {
			sub.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return fmt.Errorf("unknown command %q: see `%s --help`", args[0], cmd.CommandPath())
				}
				return cmd.Help()
			}
		}
	}
}
