package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/ledger"
)

func ledgerCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "ledger", Short: "the ledger of a city: trust, export, and going on when operators are gone for good"}
	c.AddCommand(ledgerTrust(s), ledgerExport(s), ledgerRefound(s))
	return c
}

func ledgerTrust(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "trust",
		Short: "print a block of the ledger as HEIGHT:HASH, for an operator whose city has to begin anew",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := s.reader()
			if err != nil {
				return err
			}
			t, err := ledger.TrustOf(cmd.Context(), s.ctx.Network, l)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d:%s\n", t.Height, t.Hash)
			return nil
		},
	}
}

// parseTrust reads HEIGHT:HASH; nothing gives the zero value.
func parseTrust(text string) (t ledger.Trust, err error) {
	if text == "" {
		return t, nil
	}
	height, hash, _ := strings.Cut(text, ":")
	t.Hash = strings.ToLower(hash)
	t.Height, err = strconv.ParseInt(height, 10, 64)
	if b, hexErr := hex.DecodeString(hash); err != nil || hexErr != nil || t.Height < 1 || len(b) != sha256.Size {
		return t, fmt.Errorf("%q is no block of the ledger: it is HEIGHT:HASH, as `bsn ledger trust` prints it", text)
	}
	return t, nil
}

func ledgerExport(s *session) *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "export [CITY]",
		Short: "write down all that the ledger holds, from a city of this machine that is stopped",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := s.localCity(strings.Join(args, ""))
			if err != nil {
				return err
			}
			e, err := h.ExportLedger()
			if err != nil {
				return err
			}
			b, err := e.Encode()
			if err != nil {
				return err
			}
			if err := renameio.WriteFile(to, b, 0o600, renameio.WithTempDir(filepath.Dir(to))); err != nil {
				return fmt.Errorf("write export: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "network %s at height %d, state %s\nexport %s\nwritten to %s\n", e.Network, e.Height, e.AppHash, hashOf(b), to)
			return nil
		},
	}
	c.Flags().StringVar(&to, "to", "", "file to write")
	c.MarkFlagRequired("to") //nolint:errcheck // the flag is there
	return c
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func ledgerRefound(s *session) *cobra.Command {
	var network string
	var stay []string
	c := &cobra.Command{
		Use:   "refound EXPORT --network NAME --operators A,B,C",
		Short: "go on from an export under a new name, with the operators that are left",
		Long: `refound is for a network of which so many operators are gone for good that its ledger
stands still. Every operator that is left stops its cities and calls it with the very
same export, name and operators; all must see the same genesis hash, which they compare
by telephone before they start their cities again. All other operators are evicted.
Nothing else changes: accounts, keys, apps and chains stay. What was signed for the
old network counts for nothing in the new one.`,
		Example: `  bsn city stop paris --daemon-only
  bsn ledger export paris --to ledger.json
  bsn ledger refound ledger.json --network bsn-2 --operators chongqing,paris
  bsn city start paris --detach`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read export: %w", err)
			}
			e, err := ledger.ParseExport(b)
			if err != nil {
				return err
			}
			genesis, err := ledger.Refound(e, network, stay)
			if err != nil {
				return err
			}
			done, err := s.succeed(e.Network, network, genesis)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "network %s goes on as %s with operators %s, from height %d\n", e.Network, network, strings.Join(stay, ", "), e.Height)
			fmt.Fprintf(w, "genesis %s\n", hashOf(genesis))
			fmt.Fprintf(w, "compare this hash with the other operators, then: bsn city start %s --detach\n", strings.Join(done, "; bsn city start "))
			return nil
		},
	}
	c.Flags().StringVar(&network, "network", "", "the new network's name, one that was never used")
	c.Flags().StringSliceVar(&stay, "operators", nil, "the operators that go on; all others are evicted")
	c.MarkFlagRequired("network")   //nolint:errcheck // the flag is there
	c.MarkFlagRequired("operators") //nolint:errcheck // the flag is there
	return c
}

// succeed changes all cities of this machine that were part of the old network and
// go on, and what the command line means.
func (s *session) succeed(old, network string, genesis []byte) (done []string, err error) {
	homes, err := city.Local(s.root)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, h := range homes {
		state, err := h.Load()
		if err != nil {
			return nil, err
		}
		if state.Network != old && state.Network != network {
			continue
		}
		if err := h.Succeed(old, genesis); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, h.Name)
	}
	if len(done) == 0 {
		return nil, errors.Join(append(errs, fmt.Errorf("no city of network %q on this machine goes on", old))...)
	}
	for _, err := range errs {
		fmt.Fprintln(os.Stderr, "note:", err)
	}
	if s.ctx.Network == old {
		s.ctx.Network = network
		return done, s.saveContext()
	}
	return done, nil
}
