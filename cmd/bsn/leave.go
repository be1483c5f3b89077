package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/ledger"
)

// leavePause is the time between two looks at how far a leaving city is.
const leavePause = time.Second

func cityLeave(s *session) *cobra.Command {
	var notice time.Duration
	var now, detach bool
	c := &cobra.Command{
		Use:   "leave CITY",
		Short: "take a city out of the network: its chains go on without it, its gateway says where",
		Long: `leave takes a city out of all committees, and waits until their chains have let it go, and
for the time of notice: in that time its gateway serves while the city's nodes run, and then
sends callers to other cities. Then the city has left; its daemon ends. The wait can be
interrupted, and goes on with the same command.

It is signed with the key of the city's operator, if that is on this machine.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, name := cmd.Context(), args[0]
			if word := s.ended(name); word != "" {
				sayEnded(cmd, name, word)
				return nil
			}
			l, err := s.reader()
			if err != nil {
				return err
			}
			record, err := read[bsn.City](ctx, l, bsn.KindCity, name)
			if err != nil {
				return err
			}
			if record.Status == bsn.CityEvicted {
				return fmt.Errorf("city %q was evicted", name)
			}
			if record.Status != bsn.CityLeft {
				if err := s.leave(cmd, l, record, notice, now); err != nil {
					return err
				}
			}
			if !detach {
				if err := s.awaitLeft(ctx, cmd, name); err != nil {
					return err
				}
				sayEnded(cmd, name, or(s.ended(name), "has left the network"))
			}
			return nil
		},
	}
	c.Flags().DurationVar(&notice, "notice", 10*time.Minute, "for how long its gateway goes on answering at least (ledger time)")
	c.Flags().BoolVar(&now, "now", false, "do not wait for the chains and the notice: it has left at once")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait")
	return c
}

func sayEnded(cmd *cobra.Command, name, word string) {
	fmt.Fprintf(cmd.OutOrStdout(), "city %s %s; to delete what it has on its machine: bsn city delete %s\n", name, word, name)
}

// ended says why a city of this machine is no part of the network any more; empty
// if it is one. It knows that itself: with its daemon the way to the other cities
// ends too, where they are on other machines.
func (s *session) ended(name string) string {
	state, err := city.Home{Root: s.root, Name: name}.Load()
	if err != nil {
		return "" // none of this machine
	}
	return state.Ended
}

// leave writes the first step of a city's way out, or with now the last too.
func (s *session) leave(cmd *cobra.Command, l bsn.Ledger, record bsn.City, notice time.Duration, now bool) error {
	k, err := s.operatorKey(record.Operator)
	if err != nil {
		return err
	}
	chains, err := list[bsn.Chain](cmd.Context(), l, bsn.KindChain)
	if err != nil {
		return err
	}
	for _, c := range chains {
		if n := len(c.Committee) - 1; c.Member(record.Name) && n < 4 {
			fmt.Fprintf(cmd.ErrOrStderr(), "chain %s goes on with %d cities: with fewer than four it stands still when one fails\n", c.Name, n)
		}
	}
	messages := []ledger.Message{ledger.LeaveCity(record.Name, notice)}
	if now {
		messages = append(messages, ledger.EndCity(record.Name))
	}
	_, err = s.write(cmd.Context(), k, messages...)
	return err
}

// awaitLeft says what a leaving city waits for until it has left.
func (s *session) awaitLeft(ctx context.Context, cmd *cobra.Command, name string) error {
	var said []string
	for {
		// The city that is leaving ends: each look is at whichever answers.
		if s.cityName == name {
			s.cityName = ""
		}
		l, err := s.reader()
		var record bsn.City
		if err == nil {
			record, err = read[bsn.City](ctx, l, bsn.KindCity, name)
		}
		if err == nil && record.Status == bsn.CityLeft || s.ended(name) != "" {
			return nil
		}
		waits := []string{"no city answers"}
		if err == nil {
			waits = s.waits(ctx, record)
		}
		for _, w := range waits {
			if !slices.Contains(said, w) {
				fmt.Fprintln(cmd.ErrOrStderr(), "waiting:", w)
			}
		}
		said = waits
		select {
		case <-ctx.Done():
			return fmt.Errorf("city %q is on its way out, go on with the same command: %w", name, ctx.Err())
		case <-time.After(leavePause):
		}
	}
}

// waits asks a leaving city what it waits for.
func (s *session) waits(ctx context.Context, c bsn.City) []string {
	_, r := s.cityStatus(ctx, c)
	switch {
	case r == nil:
		return []string{"its daemon does not answer: start it (bsn city start " + c.Name + "), or do without (bsn city leave " + c.Name + " --now)"}
	case len(r.Waits) == 0:
		return []string{"its daemon takes it up"}
	}
	return r.Waits
}

func cityEvict(s *session) *cobra.Command {
	var by string
	c := &cobra.Command{
		Use:   "evict CITY",
		Short: "propose to put a city out of the network for good; its operator stays",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.propose(cmd, by, "evict city "+args[0], ledger.EvictCity(args[0]))
		},
	}
	c.Flags().StringVar(&by, "operator", "", "who proposes (default: the only operator here)")
	return c
}

func cityDelete(s *session) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "delete CITY",
		Short: "delete what a city that has left has on this machine, its keys included",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.ContainsAny(args[0], `/\`) {
				return errors.New("a city is named, not its folder")
			}
			h := city.Home{Root: s.root, Name: args[0]}
			if err := h.Delete(force); err != nil {
				return err
			}
			delete(s.ctx.Cities, args[0])
			if s.ctx.City == args[0] {
				s.ctx.City = ""
			}
			return s.saveContext()
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also if it has not left: its keys are lost")
	return c
}

func cityRekey(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "rekey CITY",
		Short: "make another consensus key for a city whose operator is suspended",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := s.localCity(args[0])
			if err != nil {
				return err
			}
			state, err := h.Load()
			if err != nil {
				return err
			}
			l, err := s.reader()
			if err != nil {
				return err
			}
			o, err := read[bsn.Operator](cmd.Context(), l, bsn.KindOperator, state.Operator)
			if err != nil {
				return err
			}
			if o.Suspended == nil {
				return fmt.Errorf("operator %q is not suspended: the consensus key of its city is good", o.Name)
			}
			key, err := h.Rekey()
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "consensus key %x\nnext: bsn city start %s; and have the others vote: bsn operator reinstate %s --city %s --consensus-key %x\n",
				key, h.Name, o.Name, h.Name, key)
			return nil
		},
	}
}
