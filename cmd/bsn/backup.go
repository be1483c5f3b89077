package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/openbsn/bsn/city"
)

func backupCommand(s *session) *cobra.Command {
	var to, passphrase string
	var recipients []string
	var o city.BackupOptions
	c := &cobra.Command{
		Use:   "backup CITY --to FILE",
		Short: "write a city of this machine to a file, running or not",
		Long: `backup writes down what a city is and was told: its place in the network, its
configuration, the records that its gateway goes on with. With --keys also its own
keys, those of its nodes and of its operator, encrypted. The ledger's and the chains'
data can be synced again and is left out, but with --data, for which the city must be
stopped.`,
		Example: `  bsn backup paris --to paris.bsn --keys --passphrase-file secret.txt
  bsn backup paris --to paris.bsn --keys --recipient age1…`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.To, err = readers(passphrase, recipients, cmd.InOrStdin()); err != nil {
				return err
			}
			st := newSteps(cmd.ErrOrStderr())
			st.begin("back up city " + args[0])
			m, err := city.Home{Root: s.root, Name: args[0]}.Backup(cmd.Context(), to, o)
			st.finish(&err)
			if err != nil {
				return err
			}
			with := "without keys: a city restored from it alone cannot start"
			if m.Keys {
				with = "with its keys, encrypted"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "city %s, %d files, %s: %s\n", m.City, len(m.Files), with, to)
			return nil
		},
	}
	c.Flags().StringVar(&to, "to", "", "file to write")
	c.Flags().BoolVar(&o.Keys, "keys", false, "with the keys, encrypted")
	c.Flags().StringVar(&passphrase, "passphrase-file", "", "file with the passphrase to encrypt with; - is standard input")
	c.Flags().StringSliceVar(&recipients, "recipient", nil, "age recipient (age1…) who can read the backup; may be given again")
	c.Flags().BoolVar(&o.Artifacts, "artifacts", false, "with the packages of apps; else they are fetched again when needed")
	c.Flags().BoolVar(&o.Data, "data", false, "with the data of ledger and chains; the city must be stopped")
	c.MarkFlagRequired("to") //nolint:errcheck // the flag is there
	return c
}

func restoreCommand(s *session) *cobra.Command {
	var passphrase string
	var identities []string
	var o city.RestoreOptions
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "make a city from a backup, on this or another machine",
		Long: `restore unpacks a backup and checks every file in it. It does not overwrite a city.
Started, the city syncs the ledger and its chains, and then takes its part again. It signs
no block of the ledger before it has seen for a while that nobody else does with its
key: two cities with one key would cost the operator its power. Where the ledger cannot
go on without this city, say with --old-city-is-gone that the other cannot come back.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Identities, err = openers(passphrase, identities, cmd.InOrStdin()); err != nil {
				return err
			}
			st := newSteps(cmd.ErrOrStderr())
			st.begin("restore from " + args[0])
			m, err := city.Restore(cmd.Context(), s.root, args[0], o)
			st.finish(&err)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "city %s of operator %s, as it was on %s: %d files, all as they were backed up\n", m.City, m.Operator, m.Made.Format("2006-01-02 15:04:05 MST"), len(m.Files))
			if !m.Keys {
				fmt.Fprintln(w, "the backup holds no keys: put them in place before it starts")
				return nil
			}
			fmt.Fprintf(w, "next: bsn city start %s\n", m.City)
			return nil
		},
	}
	c.Flags().StringVar(&passphrase, "passphrase-file", "", "file with the backup's passphrase; - is standard input")
	c.Flags().StringSliceVar(&identities, "identity", nil, "file with an age identity (AGE-SECRET-KEY-…) that can read the backup")
	c.Flags().BoolVar(&o.Gone, "old-city-is-gone", false, "the city that the backup is of has ended and cannot come back")
	return c
}

// maxPassphrase bounds what is read as one.
const maxPassphrase = 64 << 10

func readPassphrase(file string, stdin io.Reader) (string, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read passphrase: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxPassphrase))
	if err != nil {
		return "", fmt.Errorf("read passphrase: %w", err)
	}
	text := strings.TrimRight(string(b), "\r\n")
	if text == "" {
		return "", errors.New("the passphrase is empty")
	}
	return text, nil
}

func readers(passphrase string, recipients []string, stdin io.Reader) (out []age.Recipient, err error) {
	if passphrase != "" && len(recipients) > 0 {
		return nil, errors.New("a backup is encrypted either with a passphrase or to recipients")
	}
	if passphrase != "" {
		text, err := readPassphrase(passphrase, stdin)
		if err != nil {
			return nil, err
		}
		r, err := age.NewScryptRecipient(text)
		if err != nil {
			return nil, fmt.Errorf("passphrase: %w", err)
		}
		return []age.Recipient{r}, nil
	}
	for _, text := range recipients {
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", text, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func openers(passphrase string, files []string, stdin io.Reader) (out []age.Identity, err error) {
	if passphrase != "" {
		text, err := readPassphrase(passphrase, stdin)
		if err != nil {
			return nil, err
		}
		i, err := age.NewScryptIdentity(text)
		if err != nil {
			return nil, fmt.Errorf("passphrase: %w", err)
		}
		out = append(out, i)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read identity: %w", err)
		}
		all, err := age.ParseIdentities(io.LimitReader(f, maxPassphrase))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read identity %s: %w", file, err)
		}
		out = append(out, all...)
	}
	return out, nil
}
