package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

// agreement says how many of its keys an identity takes, "2 of 3".
func agreement(i bsn.Identity) string { return fmt.Sprintf("%d of %d", i.Threshold, len(i.Signers)) }

// ethereum lists the EVM addresses of an identity's keys.
func ethereum(i bsn.Identity) string {
	var out []string
	for _, s := range i.Signers {
		out = append(out, s.Ethereum)
	}
	return strings.Join(out, ",")
}

// holder is an account or operator whose keys a command is about.
type holder struct {
	kind bsn.Kind
	name string
	file string // where its key lies here
}

// holder finds the one that is meant; an empty name is the context's account, or
// the only operator here.
func (s *session) holder(kind bsn.Kind, name string) (holder, error) {
	switch {
	case name != "":
	case kind == bsn.KindAccount:
		if s.ctx.Account == "" {
			return holder{}, errNoAccount
		}
		name = s.ctx.Account
	default:
		var err error
		if name, err = s.operatorName(); err != nil {
			return holder{}, err
		}
	}
	if err := bsn.CheckName(string(kind), name); err != nil {
		return holder{}, err
	}
	h := holder{kind: kind, name: name, file: s.accountKey(name)}
	if kind == bsn.KindOperator {
		h.file = city.OperatorKey(s.root, name)
	}
	h.file = or(s.keyFile, h.file)
	return h, nil
}

func (h holder) key() (key.Key, error) {
	k, err := key.Load(h.file)
	if err != nil {
		return k, fmt.Errorf("key of %s %q: %w", h.kind, h.name, err)
	}
	return k, nil
}

// holderKeys is `bsn account key` and `bsn operator key`.
func holderKeys(s *session, kind bsn.Kind) *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "the keys that sign for an " + string(kind)}
	name := ""
	if kind == bsn.KindAccount {
		c.PersistentFlags().StringVar(&name, "account", "", "whose keys (default: the context's account)")
	} else {
		c.PersistentFlags().StringVar(&name, "operator", "", "whose keys (default: the only operator here)")
	}
	of := func() (holder, error) { return s.holder(kind, name) }
	c.AddCommand(keyList(s, of), keyOffer(s, of), keyAdd(s, of), keyRemove(s, of), keySet(s, of), keyThreshold(s, of), keyRotate(s, of))
	return c
}

// identity reads the keys of a holder from the ledger.
func (s *session) identity(ctx context.Context, h holder) (i bsn.Identity, err error) {
	r, err := s.reader()
	if err != nil {
		return i, err
	}
	if h.kind == bsn.KindOperator {
		o, err := read[bsn.Operator](ctx, r, h.kind, h.name)
		return o.Identity, err
	}
	a, err := read[bsn.Account](ctx, r, h.kind, h.name)
	return a.Identity, err
}

func keyList(s *session, of func() (holder, error)) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "the keys, and how many of them have to agree", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		h, err := of()
		if err != nil {
			return err
		}
		i, err := s.identity(cmd.Context(), h)
		if err != nil {
			return err
		}
		here := ""
		if k, err := h.key(); err == nil {
			here = k.Address()
		}
		if !*asJSON {
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s writes with %s keys\n", h.kind, h.name, agreement(i))
		}
		return show(cmd, *asJSON, i, "KEY LABEL ETHEREUM TOKENS HERE", func() (rows [][]string) {
			for _, k := range i.Signers {
				file := "-"
				if k.Address == here {
					file = h.file
				}
				rows = append(rows, []string{k.Address, dash(k.Label), k.Ethereum, yes(i.MaySignTokens(k)), file})
			}
			return rows
		})
	}
	return c
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

const offerPrefix = "bsn-key-"

// maxOffer bounds the text of an offer in bytes.
const maxOffer = 2 << 10

// offerText is what travels from where a key was made to where it is added.
type offerText struct {
	Network   string   `json:"network"`
	Kind      bsn.Kind `json:"kind"`
	Name      string   `json:"name"`
	PublicKey []byte   `json:"publicKey"`
	Proof     []byte   `json:"proof"`
	Label     string   `json:"label,omitempty"`
}

func (s *session) parseOffer(h holder, text string) (ledger.Offer, error) {
	var o offerText
	body, ok := strings.CutPrefix(strings.TrimSpace(text), offerPrefix)
	if !ok || len(text) > maxOffer {
		return ledger.Offer{}, fmt.Errorf("not an offer of a key: it begins with %q; make one where the key is to be, with `bsn %s key offer`", offerPrefix, h.kind)
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		return ledger.Offer{}, fmt.Errorf("decode offer of a key: %w", err)
	}
	if o.Network != s.ctx.Network || o.Kind != h.kind || o.Name != h.name {
		return ledger.Offer{}, fmt.Errorf("the key was offered to %s %q of network %q, not to %s %q of %q", o.Kind, o.Name, o.Network, h.kind, h.name, s.ctx.Network)
	}
	return ledger.Offer{PublicKey: o.PublicKey, Proof: o.Proof, Label: o.Label}, nil
}

func keyOffer(s *session, of func() (holder, error)) *cobra.Command {
	var label string
	c := &cobra.Command{
		Use: "offer", Short: "make a key here, if there is none, and print what whoever adds it needs; it is no secret",
		Example: `  bsn account key offer --account alice --label laptop
  bsn account key offer --account alice --key /media/stick/alice.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := of()
			if err != nil {
				return err
			}
			if s.ctx.Network == "" {
				return errNoNetwork
			}
			k, err := key.LoadOrNew(h.file)
			if err != nil {
				return err
			}
			o := ledger.NewOffer(k, s.ctx.Network, h.kind, h.name)
			b, err := json.Marshal(offerText{Network: s.ctx.Network, Kind: h.kind, Name: h.name, PublicKey: o.PublicKey, Proof: o.Proof, Label: label})
			if err != nil {
				return fmt.Errorf("encode offer: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), offerPrefix+base64.RawURLEncoding.EncodeToString(b))
			fmt.Fprintf(cmd.ErrOrStderr(), "key %s is in %s: keep a copy\n", k.Address(), h.file)
			return nil
		},
	}
	c.Flags().StringVar(&label, "label", "", "what people call the key")
	return c
}

// change writes a change of keys, signed by the holder's key here.
func (s *session) change(cmd *cobra.Command, h holder, c ledger.KeyChange) error {
	k, err := h.key()
	if err != nil {
		return err
	}
	if _, err := s.write(cmd.Context(), k, ledger.SetKeys(c)); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "the keys of %s %s are changed: bsn %s key list\n", h.kind, h.name, h.kind)
	return nil
}

func keyAdd(s *session, of func() (holder, error)) *cobra.Command {
	var threshold int
	var tokens bool
	c := &cobra.Command{
		Use: "add OFFER …", Short: "add keys that were offered", Args: cobra.MinimumNArgs(1),
		Example: `  bsn account key add bsn-key-… bsn-key-… --threshold 2`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := of()
			if err != nil {
				return err
			}
			change := ledger.KeyChange{Threshold: threshold}
			for _, text := range args {
				o, err := s.parseOffer(h, text)
				if err != nil {
					return err
				}
				o.Tokens = tokens
				change.Set = append(change.Set, o)
			}
			return s.change(cmd, h, change)
		},
	}
	thresholdFlag(c, &threshold)
	c.Flags().BoolVar(&tokens, "tokens", false, "the keys may sign tokens by themselves though several keys have to agree")
	return c
}

func thresholdFlag(c *cobra.Command, threshold *int) {
	c.Flags().IntVar(threshold, "threshold", 0, "how many keys have to agree from now on (default: as many as before)")
}

// find returns the addresses of keys that are named by address or label.
func find(i bsn.Identity, names []string) ([]bsn.Signer, error) {
	var out []bsn.Signer
	for _, name := range names {
		var found []bsn.Signer
		for _, k := range i.Signers {
			if k.Address == name || k.Label == name {
				found = append(found, k)
			}
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("%d keys are called %q: name one by its address, see `key list`", len(found), name)
		}
		out = append(out, found[0])
	}
	return out, nil
}

func keyRemove(s *session, of func() (holder, error)) *cobra.Command {
	var threshold int
	c := &cobra.Command{
		Use: "remove KEY …", Short: "remove keys, by address or label: they can do nothing from the next block on", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := of()
			if err != nil {
				return err
			}
			i, err := s.identity(cmd.Context(), h)
			if err != nil {
				return err
			}
			change := ledger.KeyChange{Threshold: threshold}
			keys, err := find(i, args)
			for _, k := range keys {
				change.Remove = append(change.Remove, k.Address)
			}
			if err != nil {
				return err
			}
			return s.change(cmd, h, change)
		},
	}
	thresholdFlag(c, &threshold)
	return c
}

func keySet(s *session, of func() (holder, error)) *cobra.Command {
	var label string
	var tokens bool
	c := &cobra.Command{
		Use: "set KEY", Short: "change a key's label, or whether it may sign tokens by itself", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := of()
			if err != nil {
				return err
			}
			i, err := s.identity(cmd.Context(), h)
			if err != nil {
				return err
			}
			keys, err := find(i, args)
			if err != nil {
				return err
			}
			o := ledger.Offer{PublicKey: keys[0].PublicKey, Label: keys[0].Label, Tokens: keys[0].Tokens}
			if cmd.Flags().Changed("label") {
				o.Label = label
			}
			if cmd.Flags().Changed("tokens") {
				o.Tokens = tokens
			}
			return s.change(cmd, h, ledger.KeyChange{Set: []ledger.Offer{o}})
		},
	}
	c.Flags().StringVar(&label, "label", "", "what people call the key")
	c.Flags().BoolVar(&tokens, "tokens", false, "the key may sign tokens by itself though several keys have to agree")
	return c
}

func keyThreshold(s *session, of func() (holder, error)) *cobra.Command {
	return &cobra.Command{
		Use: "threshold NUMBER", Short: "set how many keys have to agree", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := of()
			if err != nil {
				return err
			}
			var n int
			if _, err := fmt.Sscanf(args[0], "%d", &n); err != nil || n < 1 {
				return fmt.Errorf("threshold %q: it is a number from 1", args[0])
			}
			return s.change(cmd, h, ledger.KeyChange{Threshold: n})
		},
	}
}

func keyRotate(s *session, of func() (holder, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "replace the key here by a new one, in one step; done again it goes on where it stopped",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := of()
			if err != nil {
				return err
			}
			return s.rotate(cmd, h)
		},
	}
}

// rotate makes the new key beside the old one, changes the record, and then puts the
// new key in the old one's place. It may be cut off anywhere and be done again.
func (s *session) rotate(cmd *cobra.Command, h holder) error {
	ctx := cmd.Context()
	next := h.file + ".next"
	fresh := func() (key.Key, error) { return key.LoadOrNew(next) }
	old, err := h.key()
	if errors.Is(err, fs.ErrNotExist) {
		if _, there := os.Stat(next); there != nil {
			return err
		}
		old, err = fresh() // cut off between the two
	}
	if err != nil {
		return err
	}
	k, err := fresh()
	if err != nil {
		return err
	}
	i, err := s.identityAs(ctx, h, old, k)
	if err != nil {
		return err
	}
	before, had := i.Signer(old.Address())
	if _, has := i.Signer(k.Address()); !has {
		if !had {
			return fmt.Errorf("the key in %s is none of %s %q", h.file, h.kind, h.name)
		}
		o := ledger.NewOffer(k, s.ctx.Network, h.kind, h.name)
		o.Label, o.Tokens = before.Label, before.Tokens
		if _, err := s.write(ctx, old, ledger.SetKeys(ledger.KeyChange{Set: []ledger.Offer{o}, Remove: []string{old.Address()}})); err != nil {
			var waiting *ledger.WaitingError
			if errors.As(err, &waiting) {
				fmt.Fprintln(cmd.ErrOrStderr(), "the new key is ready: rotate again when the others have agreed")
			}
			return err
		}
	}
	kept := filepath.Join(filepath.Dir(h.file), "retired", h.name+"-"+old.Address()+".key")
	if old.Address() != k.Address() {
		if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
			return fmt.Errorf("keep old key: %w", err)
		}
		if err := os.Link(h.file, kept); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("keep old key: %w", err)
		}
	}
	if err := os.Rename(next, h.file); err != nil {
		return fmt.Errorf("put new key in place: %w", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s signs with key %s now, in %s: keep a copy\nthe old one is %s: this network takes it no more, but contracts may still know its address\n", h.kind, h.name, k.Address(), h.file, kept)
	return nil
}

// identityAs reads the keys of a holder with whichever of two keys the ledger knows.
func (s *session) identityAs(ctx context.Context, h holder, keys ...key.Key) (i bsn.Identity, err error) {
	for _, k := range keys {
		c, err2 := s.dial("", k)
		if err2 != nil {
			return i, err2
		}
		if h.kind == bsn.KindOperator {
			var o bsn.Operator
			o, err = read[bsn.Operator](ctx, c, h.kind, h.name)
			i = o.Identity
		} else {
			var a bsn.Account
			a, err = read[bsn.Account](ctx, c, h.kind, h.name)
			i = a.Identity
		}
		if err == nil {
			return i, nil
		}
	}
	return i, err
}

// recoverOperator replaces all keys of an operator that lost them.
func recoverOperator(s *session) *cobra.Command {
	var by string
	var offers []string
	threshold := 1
	c := &cobra.Command{
		Use:   "recover OPERATOR",
		Short: "propose new keys for an operator that lost its own",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := s.offers(holder{kind: bsn.KindOperator, name: args[0]}, offers)
			if err != nil {
				return err
			}
			var prints []string
			for _, k := range keys {
				prints = append(prints, key.Fingerprint(k.PublicKey))
			}
			summary := fmt.Sprintf("operator %s has %d of %d new keys (%s)", args[0], threshold, len(keys), strings.Join(prints, ", "))
			return s.propose(cmd, by, clip(summary, 256), ledger.SetOperatorKeys(args[0], keys, threshold))
		},
	}
	c.Flags().StringVar(&by, "operator", "", "who proposes (default: the only operator here)")
	newKeyFlags(c, &offers, &threshold)
	return c
}

func clip(s string, max int) string { return s[:min(len(s), max)] }

func newKeyFlags(c *cobra.Command, offers *[]string, threshold *int) {
	c.Flags().StringSliceVar(offers, "new-key", nil, "all keys that it is to have, as `key offer` printed them where they are")
	c.Flags().IntVar(threshold, "threshold", 1, "how many of them have to agree")
}

func (s *session) offers(h holder, texts []string) ([]ledger.Offer, error) {
	if len(texts) == 0 {
		return nil, fmt.Errorf("which keys? Name all of them with --new-key, as `bsn %s key offer` printed them", h.kind)
	}
	var out []ledger.Offer
	for _, text := range slices.Compact(texts) {
		o, err := s.parseOffer(h, text)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}
