package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// rotateTimeout bounds how long a city may take until it uses a new key.
const rotateTimeout = 2 * time.Minute

// rotationProtocol is the first protocol version with a message for another key.
const rotationProtocol = 2

func cityRotate(s *session) *cobra.Command {
	c := &cobra.Command{
		Use:   "rotate consensus|node|city [CITY]",
		Short: "give a city of this machine another key, while everything goes on",
		Long: `rotate makes a new key where it is used, has the ledger take it into the city's
record, signed by its operator, and waits until the city's daemon uses it:

  consensus  signs ledger blocks
  node       shows other cities who it is, at its link and its ledger node
  city       signs what its daemon writes and asks

The old key is destroyed. What was cut off is finished by doing it again.`,
		Example: `  bsn city rotate consensus paris`,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			purpose := bsn.KeyPurpose(args[0])
			if !slices.Contains(bsn.KeyPurposes, purpose) {
				return fmt.Errorf("key for %q: a city has keys for %v", args[0], bsn.KeyPurposes)
			}
			steps := newSteps(cmd.ErrOrStderr())
			defer steps.finish(&err)
			return s.rotateKey(cmd.Context(), steps, purpose, args[1:])
		},
	}
	return c
}

func (s *session) rotateKey(ctx context.Context, steps *steps, purpose bsn.KeyPurpose, names []string) error {
	h, err := s.localCity(append(names, "")[0])
	if err != nil {
		return err
	}
	state, err := h.Load()
	if err != nil {
		return err
	}
	k, err := s.operatorKey(state.Operator)
	if err != nil {
		return err
	}
	if p, err := s.protocol(ctx); err != nil {
		return err
	} else if p.Version < rotationProtocol {
		return fmt.Errorf("the ledger follows protocol version %d, and keys are rotated from version %d on: see `bsn protocol upgrade`", p.Version, rotationProtocol)
	}
	offer, err := h.OfferKey(purpose)
	if err != nil {
		return err
	}
	steps.begin(fmt.Sprintf("the ledger takes another %s key into the record of city %s", purpose, h.Name))
	if _, err := s.write(ctx, k, ledger.RotateKey(h.Name, purpose, offer)); err != nil {
		return err
	}
	if pid, err := h.PID(); err != nil || pid == 0 {
		steps.begin("its daemon, which does not run, uses it from its next start on")
		steps.done()
		return err
	}
	steps.begin("its daemon uses it")
	ctx, cancel := context.WithTimeout(ctx, rotateTimeout)
	defer cancel()
	if err := until(ctx, "city "+h.Name+" to use its new key", func() (bool, error) {
		rotating, err := h.Rotating(purpose)
		return !rotating, err
	}); err != nil {
		return fmt.Errorf("%w: it does once it can; see `bsn logs daemon --via %s`", err, h.Name)
	}
	steps.done()
	return nil
}
