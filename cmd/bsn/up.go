package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

// The network that `bsn up` makes on one machine.
const (
	demoNetwork = "bsn-local"
	demoChain   = "chongqing"
	demoChainID = 1901
	demoPortal  = "demo"
	demoAccount = "demo-account"
	demoProject = "default"
)

var demoCities = []string{"chongqing", "hongkong", "paris", "saopaulo"}

// upTimeout bounds a start, less the time to build node software.
const upTimeout = 3 * time.Minute

func upCommand(s *session) *cobra.Command {
	var u upNetwork
	var detach bool
	c := &cobra.Command{
		Use:   "up",
		Short: "start a network of four cities on this machine, or bring it back",
		Long: `up founds a network of four operators with a city each (` + strings.Join(demoCities, ", ") + `),
opens the chain ` + demoChain + `, and makes a portal, an account, a project and a key for every city,
which become the command line's context. It is nothing but bsn city init, join and start
four times, and the votes. Where a network lies already, it is started again with its data.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			u.session, u.steps = s, newSteps(cmd.ErrOrStderr())
			if err := u.run(cmd.Context(), cmd.ErrOrStderr()); err != nil {
				return err
			}
			if err := u.summary(cmd.Context(), cmd.OutOrStdout()); err != nil || detach {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "\nrunning; Ctrl-C stops it (bsn up --detach leaves it in the background)")
			<-cmd.Context().Done()
			return s.down(context.Background(), cmd.ErrOrStderr())
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "leave it running in the background")
	c.Flags().IntVar(&u.net, "net", int(bsn.DefaultNet), "a new network's number in virtual addresses, 127.NET.city.n")
	c.Flags().Int64Var(&u.accountWrites, "account-writes", 0, "a new network's ledger writes per account and hour (default 1000)")
	return c
}

// upNetwork brings a local network up, step by step; each step finds out what is
// there already.
type upNetwork struct {
	*session
	*steps
	net           int
	accountWrites int64
}

func (u *upNetwork) run(ctx context.Context, w io.Writer) (err error) {
	defer u.finish(&err)
	if err := u.buildSoftware(ctx, w); err != nil {
		return err
	}
	u.done()
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	local, err := city.Local(u.root)
	if err != nil {
		return err
	}
	if len(local) == 0 {
		if err := u.checkFree(); err != nil {
			return err
		}
	}
	if err := u.startJoined(ctx, local); err != nil {
		return err
	}
	first := city.Home{Root: u.root, Name: demoCities[0]}
	if len(local) == 0 {
		u.begin("city " + first.Name + " founds the network")
	}
	if err := u.found(first); err != nil {
		return err
	}
	if err := u.startDetached(ctx, first); err != nil {
		return err
	}
	if err := u.remember(first); err != nil {
		return err
	}
	if err := u.joinOthers(ctx, first); err != nil {
		return err
	}
	if err := u.decide(ctx); err != nil {
		return err
	}
	if err := u.signUp(ctx); err != nil {
		return err
	}
	return u.await(ctx)
}

// startJoined starts the cities that are part of the network already, together:
// one alone would wait for the others.
func (u *upNetwork) startJoined(ctx context.Context, local []city.Home) error {
	var joined []city.Home
	for _, h := range local {
		s, err := h.Load()
		if err != nil {
			return err
		}
		if s.Index > 0 {
			joined = append(joined, h)
		}
	}
	if len(joined) == 0 {
		return nil
	}
	u.begin("cities " + names(joined) + " start")
	return u.startAll(ctx, joined)
}

func (u *upNetwork) startAll(ctx context.Context, homes []city.Home) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range homes {
		if s, err := h.Load(); err == nil && s.Ended != "" {
			continue // it left, or was evicted
		}
		g.Go(func() error { return u.startDetached(ctx, h) })
	}
	return g.Wait()
}

func (u *upNetwork) buildSoftware(ctx context.Context, w io.Writer) error {
	frameworks, err := u.frameworks()
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(frameworks) {
		u.begin("node software: " + name)
		progress, end := bar(w, "build "+name)
		_, err := frameworks[name].Software(ctx, progress)
		end()
		if err != nil {
			return err
		}
	}
	return nil
}

// checkFree tells early that another network of this number is up.
func (u *upNetwork) checkFree() error {
	if err := bsn.CheckNet(u.net); err != nil {
		return err
	}
	addr := bsn.HostPort(bsn.Net(u.net).Addr(1, bsn.ServiceCity), bsn.PortAPI)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%s is taken: another network with number %d runs on this machine; choose another with --net", addr, u.net)
	}
	return l.Close()
}

func (u *upNetwork) found(h city.Home) error {
	if state, err := h.Load(); err == nil && state.Network != "" {
		return nil
	}
	return h.Found(h.Name, demoNetwork, bsn.Net(u.net), bsn.Parameters{AccountWrites: u.accountWrites})
}

// joinOthers brings the other cities in: each applies with an invitation, the
// operators vote, each starts.
func (u *upNetwork) joinOthers(ctx context.Context, first city.Home) error {
	var homes []city.Home
	var waiting []city.Home
	for _, name := range demoCities[1:] {
		h := city.Home{Root: u.root, Name: name}
		if _, err := h.Init(name); err != nil {
			return err
		}
		homes = append(homes, h)
		if s, err := h.Load(); err != nil {
			return err
		} else if s.Index == 0 {
			waiting = append(waiting, h)
		}
	}
	if len(waiting) > 0 {
		u.begin("cities " + names(waiting) + " apply and are voted in")
		if err := u.admit(ctx, first, waiting); err != nil {
			return err
		}
	}
	if len(waiting) > 0 {
		u.begin("cities " + names(homes) + " start")
	}
	if err := u.startAll(ctx, homes); err != nil {
		return err
	}
	for _, h := range homes {
		if err := u.remember(h); err != nil {
			return err
		}
	}
	return u.awaitCities(ctx)
}

// admit has the cities apply one after the other, so that their addresses follow
// the order in which they are listed, while the operators vote.
func (u *upNetwork) admit(ctx context.Context, first city.Home, waiting []city.Home) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	voting := make(chan error, 1)
	go func() { voting <- u.keepVoting(ctx) }()
	g, join := errgroup.WithContext(ctx)
	for _, h := range waiting {
		invitation, err := u.invite(first, h.Name)
		if err != nil {
			return err
		}
		applied := make(chan struct{}, 2)
		g.Go(func() error {
			defer func() { applied <- struct{}{} }()
			return h.Join(join, invitation, func(string) { applied <- struct{}{} })
		})
		<-applied
	}
	joined := make(chan error, 1)
	go func() { joined <- g.Wait() }()
	select {
	case err := <-joined:
		return err
	case err := <-voting:
		return err
	}
}

func names(homes []city.Home) string {
	var out []string
	for _, h := range homes {
		out = append(out, h.Name)
	}
	return strings.Join(out, ", ")
}

// keepVoting votes yes, with every operator's key of this machine, on whatever
// opens, until ctx ends.
func (u *upNetwork) keepVoting(ctx context.Context) error {
	voted := map[string]bool{}
	for {
		if err := u.voteAll(ctx, voted); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// voteAll has every operator of this machine that has a vote say yes to all that
// is open.
func (u *upNetwork) voteAll(ctx context.Context, voted map[string]bool) error {
	l, err := u.reader()
	if err != nil {
		return err
	}
	proposals, err := list[bsn.Proposal](ctx, l, bsn.KindProposal)
	if err != nil {
		return err
	}
	operators, err := list[bsn.Operator](ctx, l, bsn.KindOperator)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, o := range operators {
		if o.ValidatingCity == "" {
			continue
		}
		k, err := key.Load(city.OperatorKey(u.root, o.Name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var votes []ledger.Message
		for _, p := range proposals {
			id := fmt.Sprint(o.Name, p.ID)
			if _, done := p.Votes[o.Name]; p.Status == bsn.ProposalOpen && !done && !voted[id] {
				votes = append(votes, ledger.Vote(p.ID, true))
				voted[id] = true
			}
		}
		if len(votes) == 0 {
			continue
		}
		g.Go(func() error {
			_, err := u.write(ctx, k, votes...)
			var waiting *ledger.WaitingError
			if errors.Is(err, ledger.ErrRefused) || errors.As(err, &waiting) {
				return nil // decided in the meantime, or the operator's other keys have to agree
			}
			return err
		})
	}
	return g.Wait()
}

// decide opens the chain and registers the portal, by proposals and votes.
func (u *upNetwork) decide(ctx context.Context) error {
	l, err := u.reader()
	if err != nil {
		return err
	}
	operator, err := key.Load(city.OperatorKey(u.root, demoCities[0]))
	if err != nil {
		return err
	}
	portal, err := key.LoadOrNew(u.portalKey(demoPortal))
	if err != nil {
		return err
	}
	var propose []ledger.Message
	if _, err := l.Get(ctx, bsn.KindChain, demoChain); errors.Is(err, bsn.ErrNoRecord) {
		c := bsn.Chain{
			Name: demoChain, Kind: bsn.ChainOpen, Framework: "kaia", NetworkID: demoChainID,
			Deploy: bsn.DeployAccounts, Committee: demoCities,
		}
		propose = append(propose, ledger.Propose(openSummary(c), ledger.OpenChain(c)))
	} else if err != nil {
		return err
	}
	if _, err := l.Get(ctx, bsn.KindPortal, demoPortal); errors.Is(err, bsn.ErrNoRecord) {
		propose = append(propose, ledger.Propose("register portal "+demoPortal, ledger.RegisterPortal(demoPortal, ledger.NewOffer(portal, u.ctx.Network, bsn.KindPortal, demoPortal), "")))
	} else if err != nil {
		return err
	}
	if len(propose) == 0 {
		return nil
	}
	u.begin("operators vote for chain " + demoChain + " and portal " + demoPortal)
	if _, err := u.write(ctx, operator, propose...); err != nil {
		return err
	}
	voted := map[string]bool{}
	return until(ctx, "the votes", func() (bool, error) {
		if err := u.voteAll(ctx, voted); err != nil {
			return false, err
		}
		_, err1 := l.Get(ctx, bsn.KindChain, demoChain)
		_, err2 := l.Get(ctx, bsn.KindPortal, demoPortal)
		err := errors.Join(err1, err2)
		if errors.Is(err, bsn.ErrNoRecord) {
			return false, nil
		}
		return err == nil, err
	})
}

// signUp makes the demo account, its project and a key for every city, once.
func (u *upNetwork) signUp(ctx context.Context) error {
	if _, err := os.Stat(u.accountKey(demoAccount)); err == nil && u.ctx.Account != "" && len(u.ctx.Keys) > 0 {
		return nil
	}
	u.begin("account " + demoAccount + ", a project and its keys")
	if _, err := u.createAccount(ctx, demoPortal, demoAccount); err != nil {
		return err
	}
	k, err := key.Load(u.accountKey(demoAccount))
	if err != nil {
		return err
	}
	project := bsn.ID(demoAccount, demoProject)
	messages := []ledger.Message{ledger.SetProject(bsn.Project{Name: demoProject, Limits: bsn.Limits{RequestsPerSecond: 1000}})}
	for _, name := range demoCities {
		secret, record := bsn.NewKey(name)
		messages = append(messages, ledger.AddKey(demoProject, record))
		u.keep(project, name, secret)
	}
	if _, err := u.write(ctx, k, messages...); err != nil {
		return err
	}
	u.ctx.Account, u.ctx.Project = demoAccount, demoProject
	return u.saveContext()
}

func (u *upNetwork) awaitCities(ctx context.Context) error {
	l, err := u.reader()
	if err != nil {
		return err
	}
	return until(ctx, "the cities to follow the ledger", func() (bool, error) {
		cities, err := list[bsn.City](ctx, l, bsn.KindCity)
		if err != nil {
			return false, err
		}
		for _, c := range cities {
			if c.Status == bsn.CityAdmitted {
				return false, nil
			}
		}
		return len(cities) >= len(demoCities), nil
	})
}

// await waits until everything is healthy and a call is answered.
func (u *upNetwork) await(ctx context.Context) error {
	u.begin("chain " + demoChain + ": keys, genesis, first block, gateways")
	var last networkStatus
	err := until(ctx, "the network to be healthy", func() (bool, error) {
		st, err := u.status(ctx)
		if err != nil {
			return false, nil // it is on its way; the time-out ends it
		}
		last = st
		for _, c := range st.Cities {
			if c.Status.Member() && !c.Healthy {
				return false, nil
			}
		}
		for _, c := range st.Chains {
			if c.Height < 1 || c.Healthy < c.Nodes {
				return false, nil
			}
		}
		return len(st.Cities) > 0, nil
	})
	if err != nil && len(last.Warnings) > 0 {
		return fmt.Errorf("%w:\n  %s", err, strings.Join(last.Warnings, "\n  "))
	}
	return err
}

// until asks again and again until it is so.
func until(ctx context.Context, what string, ok func() (bool, error)) error {
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-time.After(150 * time.Millisecond):
		}
	}
}

func (u *upNetwork) summary(ctx context.Context, w io.Writer) error {
	st, err := u.status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := st.print(w); err != nil {
		return err
	}
	fmt.Fprintf(w, "\naccount %s, project %s; keys and addresses: bsn context --show-keys\n", u.ctx.Account, u.project())
	exe := "bsn"
	if p, err := os.Executable(); err == nil {
		if wd, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(wd, p); err == nil && !strings.HasPrefix(rel, "..") {
				exe = rel
			}
		}
	}
	fmt.Fprintf(w, "\ntry:  %s app publish examples/certificates --chain %s --cities chongqing,paris\n", exe, demoChain)
	return nil
}

func downCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "stop this machine's cities, with their gateways and nodes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.down(cmd.Context(), cmd.ErrOrStderr()) },
	}
}

func (s *session) down(ctx context.Context, w io.Writer) (err error) {
	homes, err := city.Local(s.root)
	if err != nil {
		return err
	}
	if len(homes) == 0 {
		fmt.Fprintln(w, "there is no city here")
		return nil
	}
	st := newSteps(w)
	defer st.finish(&err)
	st.begin("stop " + names(homes))
	// All at once: the last ones would otherwise work against a halted ledger.
	var g errgroup.Group
	for _, h := range homes {
		g.Go(func() error {
			if err := stopDaemon(ctx, h); err != nil {
				return err
			}
			return stopNodes(ctx, h)
		})
	}
	return g.Wait()
}

func resetCommand(s *session) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "reset", Short: "stop this machine's cities and delete their state and all keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			entries := []string{"cities", "operators", "portals", "accounts", "context.json"}
			if !yes {
				fmt.Fprintf(cmd.ErrOrStderr(), "delete all cities, keys and accounts in %s? They cannot be brought back. Type yes: ", s.root)
				var answer string
				if _, err := fmt.Fscanln(cmd.InOrStdin(), &answer); err != nil || answer != "yes" {
					return errors.New("nothing was deleted")
				}
			}
			if err := s.down(cmd.Context(), cmd.ErrOrStderr()); err != nil {
				return err
			}
			for _, e := range entries {
				if err := os.RemoveAll(filepath.Join(s.root, e)); err != nil {
					return fmt.Errorf("delete: %w", err)
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
