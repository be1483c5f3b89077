package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/gen/city/cityv1"
)

// networkStatus is what `bsn status --json` prints.
type networkStatus struct {
	Network string        `json:"network"`
	Ledger  ledgerStatus  `json:"ledger"`
	Cities  []cityStatus  `json:"cities"`
	Chains  []chainStatus `json:"chains"`
	Apps    []appStatus   `json:"apps"`
	// Warnings are what a person should know: lost tolerance, cities that do not answer.
	Warnings []string `json:"warnings"`
}

type ledgerStatus struct {
	Height     int64     `json:"height"`
	Time       time.Time `json:"time"`
	Validators int       `json:"validators"`
	Operators  int       `json:"operators"`
	// Tolerates is how many operators may fail or lie without harm.
	Tolerates int  `json:"tolerates"`
	Halted    bool `json:"halted"`
	// Age is the time since the newest block, in ledger time. Reachable are the
	// validators that the city which says all this is connected to, itself among them.
	Age       int64 `json:"ageSeconds"`
	Reachable int   `json:"reachable"`
	// Protocol is the version of the rules that the ledger follows.
	Protocol uint64 `json:"protocol"`
}

type cityStatus struct {
	City     string         `json:"city"`
	Operator string         `json:"operator"`
	Status   bsn.CityStatus `json:"status"`
	// Healthy: its daemon answers, its ledger node has caught up, its gateway and
	// all its nodes are healthy.
	Healthy bool   `json:"healthy"`
	Error   string `json:"error,omitempty"`
	Version string `json:"version,omitempty"`
	Height  int64  `json:"ledgerHeight"`
	// Age is that of the newest ledger block in the city's gateway, and Alone what
	// the gateway still answers while it hears of none: writes (and reads), reads or
	// none.
	Age     int64        `json:"gatewayLedgerAgeSeconds"`
	Alone   string       `json:"gatewayAlone,omitempty"`
	API     string       `json:"api"`
	Gateway string       `json:"gateway"`
	Nodes   []nodeStatus `json:"nodes"`
	// Waits is what a leaving city waits for.
	Waits []string `json:"waits,omitempty"`
}

type nodeStatus struct {
	ID       string `json:"id"`
	Chain    string `json:"chain,omitempty"`
	State    string `json:"state"`
	Healthy  bool   `json:"healthy"`
	Height   int64  `json:"height"`
	Peers    int    `json:"peers"`
	PID      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts"`
	Adopted  bool   `json:"adopted"`
	Error    string `json:"error,omitempty"`
}

type chainStatus struct {
	Chain     string          `json:"chain"`
	Kind      bsn.ChainKind   `json:"kind"`
	Framework string          `json:"framework"`
	Status    bsn.ChainStatus `json:"status"`
	Height    int64           `json:"height"`
	Healthy   int             `json:"healthyNodes"`
	Nodes     int             `json:"nodes"`
	Gateways  []string        `json:"gateways"`
}

type appStatus struct {
	App     string `json:"app"`
	Version int    `json:"version"`
	Chain   string `json:"chain"`
	State   string `json:"state"`
}

func statusCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "what runs and how it is: every city is asked for its ledger, gateway and nodes", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		st, err := s.status(cmd.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), st)
		}
		return st.print(cmd.OutOrStdout())
	}
	return c
}

// status asks any city that answers for the records, and every city for itself.
func (s *session) status(ctx context.Context) (networkStatus, error) {
	l, err := s.reader()
	if err != nil {
		return networkStatus{}, err
	}
	cities, err := list[bsn.City](ctx, l, bsn.KindCity)
	if err != nil {
		return networkStatus{}, err
	}
	operators, err := list[bsn.Operator](ctx, l, bsn.KindOperator)
	if err != nil {
		return networkStatus{}, err
	}
	chains, err := list[bsn.Chain](ctx, l, bsn.KindChain)
	if err != nil {
		return networkStatus{}, err
	}
	apps, err := list[bsn.App](ctx, l, bsn.KindApp)
	if err != nil {
		return networkStatus{}, err
	}
	st := networkStatus{Network: s.ctx.Network, Cities: make([]cityStatus, len(cities)), Chains: []chainStatus{}, Apps: []appStatus{}, Warnings: []string{}}
	answers := make([]*cityv1.StatusResponse, len(cities))
	var wg sync.WaitGroup
	for i, c := range cities {
		wg.Go(func() { st.Cities[i], answers[i] = s.cityStatus(ctx, c) })
	}
	wg.Wait()
	st.ledger(operators, answers)
	st.chains(chains, cities)
	for _, a := range apps {
		if v, ok := a.Latest(); ok {
			st.Apps = append(st.Apps, appStatus{a.ID(), v.Number, v.Chain, placements(v)})
		}
	}
	for _, o := range operators {
		if text := concern(o); text != "" {
			st.Warnings = append(st.Warnings, text)
		}
	}
	for _, c := range st.Cities {
		switch {
		case !c.Status.Member():
		case c.Status == bsn.CityLeaving:
			st.Warnings = append(st.Warnings, fmt.Sprintf("city %s is leaving: %s (bsn city leave %s says more)", c.City, strings.Join(c.Waits, "; "), c.City))
		case !c.Healthy:
			st.Warnings = append(st.Warnings, fmt.Sprintf("city %s: %s", c.City, c.Error))
		}
		if c.Alone != "" {
			st.Warnings = append(st.Warnings, fmt.Sprintf("city %s: its gateway has known no new ledger block for %d s and %s", c.City, c.Age, alone(c.Alone)))
		}
	}
	return st, nil
}

func (s *session) cityStatus(ctx context.Context, c bsn.City) (cityStatus, *cityv1.StatusResponse) {
	out := cityStatus{City: c.Name, Operator: c.Operator, Status: c.Status, API: c.API, Gateway: c.Gateway, Nodes: []nodeStatus{}}
	if !c.Status.Member() {
		return out, nil // it is nobody's to ask any more
	}
	k, err := s.anyKey()
	if err != nil {
		out.Error = err.Error()
		return out, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := api.Dial(c.API, s.ctx.Network, c.Name, k).Status(ctx)
	if err != nil {
		out.Error = "its daemon does not answer: " + err.Error()
		return out, nil
	}
	out.Version, out.Height = r.Version, r.Ledger.Height
	if g := r.Gateway; g != nil {
		out.Age, out.Alone = g.LedgerAge, g.Alone
	}
	var ills []string
	if r.Ledger.Syncing {
		ills = append(ills, strings.TrimSuffix("its ledger node is catching up: "+r.Ledger.Error, ": "))
	}
	if r.Ledger.Error != "" && !r.Ledger.Restarting {
		ills = append(ills, "its ledger node stands still: "+r.Ledger.Error)
	}
	if r.Ledger.Restarting {
		ills = append(ills, strings.TrimSuffix("its ledger node is restarting: "+r.Ledger.Error, ": "))
	}
	for _, n := range r.Nodes {
		out.Nodes = append(out.Nodes, nodeStatus{n.Id, n.Chain, n.State, n.Healthy, n.Height, int(n.Peers), int(n.Pid), int(n.Restarts), n.Adopted, n.Error})
		if !n.Healthy {
			ills = append(ills, n.Id+": "+strings.ReplaceAll(n.Error, "\n", " "))
		}
	}
	if len(r.Nodes) == 0 {
		ills = append(ills, "its gateway is not started yet")
	}
	out.Error = strings.Join(ills, "; ")
	out.Healthy, out.Waits = len(ills) == 0 && (c.Status == bsn.CityActive || c.Status == bsn.CityLeaving), r.Waits
	return out, r
}

// alone says what a gateway that stands alone does.
func alone(answers string) string {
	switch answers {
	case "writes":
		return "goes on with what it knows"
	case "reads":
		return "takes no transactions any more"
	}
	return "answers nothing any more"
}

// furthest is the answer of the city that is furthest, but for as many as may lie:
// nobody is to claim a height that there is not.
func furthest(answers []*cityv1.StatusResponse) *cityv1.StatusResponse {
	answers = slices.DeleteFunc(slices.Clone(answers), func(r *cityv1.StatusResponse) bool { return r == nil || r.Ledger == nil })
	if len(answers) == 0 {
		return nil
	}
	slices.SortStableFunc(answers, func(a, b *cityv1.StatusResponse) int { return cmp.Compare(b.Ledger.Height, a.Ledger.Height) })
	return answers[(len(answers)-1)/3]
}

// concern is what the others should know, and may do, about an operator.
func concern(o bsn.Operator) string {
	switch {
	case o.Evicted > 0:
		return ""
	case o.Suspended != nil:
		return fmt.Sprintf("operator %s has no vote: %s. With a new consensus key the others can take it back (bsn operator reinstate %s), or put it out (bsn operator evict %s)",
			o.Name, standing(o), o.Name, o.Name)
	case o.Absence != nil && o.Absence.Since > 0:
		return fmt.Sprintf("operator %s is %s: start its city %s; one that stays away can be voted out (bsn operator evict %s)", o.Name, standing(o), o.ValidatingCity, o.Name)
	}
	return ""
}

func (st *networkStatus) ledger(operators []bsn.Operator, answers []*cityv1.StatusResponse) {
	if r := furthest(answers); r != nil {
		st.Ledger.Height, st.Ledger.Time = r.Ledger.Height, time.UnixMilli(r.Ledger.Time).UTC()
		st.Ledger.Validators, st.Ledger.Halted = int(r.Ledger.Validators), r.Ledger.Halted
		st.Ledger.Age, st.Ledger.Reachable = r.Ledger.Age, int(r.Ledger.Reachable)
		st.Ledger.Protocol = r.Ledger.Protocol
	}
	for _, o := range operators {
		if o.ValidatingCity != "" {
			st.Ledger.Operators++
		}
	}
	st.Ledger.Tolerates = (st.Ledger.Operators - 1) / 3
	if st.Ledger.Tolerates == 0 {
		st.Warnings = append(st.Warnings, fmt.Sprintf("the ledger tolerates no fault with fewer than four operators; there are %d", st.Ledger.Operators))
	}
	if st.Ledger.Halted {
		st.Warnings = append(st.Warnings, fmt.Sprintf("the ledger is halted: no block since %s, %d s ago; %d of %d validators are reachable, and more than two thirds must be: start their daemons",
			st.Ledger.Time.Format(time.RFC3339), st.Ledger.Age, st.Ledger.Reachable, st.Ledger.Validators))
	}
}

func (st *networkStatus) chains(chains []bsn.Chain, cities []bsn.City) {
	for _, c := range chains {
		cs := chainStatus{Chain: c.Name, Kind: c.Kind, Framework: c.Framework, Status: c.Status, Nodes: len(c.Committee), Gateways: []string{}}
		for _, city := range cities {
			if c.Member(city.Name) {
				cs.Gateways = append(cs.Gateways, city.Gateway+"/rpc/"+c.Name)
			}
		}
		for _, city := range st.Cities {
			for _, n := range city.Nodes {
				if n.Chain == c.Name {
					cs.Height = max(cs.Height, n.Height)
					if n.Healthy {
						cs.Healthy++
					}
				}
			}
		}
		switch {
		case c.Status == bsn.ChainClosed:
			st.Warnings = append(st.Warnings, fmt.Sprintf("chain %s is closed to new apps and versions: the operators can open it again (bsn chain reopen %s)", c.Name, c.Name))
		case c.Status != bsn.ChainRunning:
			st.Warnings = append(st.Warnings, fmt.Sprintf("chain %s is at %q: see `bsn chain show %s`", c.Name, c.Status, c.Name))
		}
		st.Chains = append(st.Chains, cs)
	}
}

func (st networkStatus) print(w io.Writer) error {
	halted := ""
	if st.Ledger.Halted {
		halted = ", HALTED"
	}
	fmt.Fprintf(w, "network %s   ledger height %d%s   %d operators, %d may fail\n\n", st.Network, st.Ledger.Height, halted, st.Ledger.Operators, st.Ledger.Tolerates)
	var rows [][]string
	for _, c := range st.Cities {
		if !c.Status.Member() {
			rows = append(rows, []string{c.City, string(c.Status), "-", "-", "-"})
			continue
		}
		rows = append(rows, []string{c.City, string(c.Status), health(c.Healthy), fmt.Sprint(c.Height), c.Gateway})
	}
	if err := table(w, "CITY STATUS HEALTH LEDGER GATEWAY", rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for _, c := range st.Chains {
		rows = append(rows, []string{c.Chain, string(c.Kind), c.Framework, string(c.Status), fmt.Sprint(c.Height), fmt.Sprintf("%d/%d", c.Healthy, c.Nodes)})
	}
	if err := table(w, "CHAIN KIND FRAMEWORK STATUS HEIGHT HEALTHY", rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for _, c := range st.Cities {
		for _, n := range c.Nodes {
			rows = append(rows, []string{c.City, n.ID, n.State, health(n.Healthy), fmt.Sprint(n.Height), fmt.Sprint(n.PID), fmt.Sprint(n.Restarts)})
		}
	}
	if err := table(w, "CITY NODE STATE HEALTH HEIGHT PID RESTARTS", rows); err != nil {
		return err
	}
	if len(st.Apps) > 0 {
		fmt.Fprintln(w)
		rows = nil
		for _, a := range st.Apps {
			rows = append(rows, []string{a.App, fmt.Sprint(a.Version), a.Chain, a.State})
		}
		if err := table(w, "APP VERSION CHAIN CITIES", rows); err != nil {
			return err
		}
	}
	for _, warning := range st.Warnings {
		fmt.Fprintf(w, "\nwarning: %s\n", warning)
	}
	return nil
}

func health(ok bool) string {
	if ok {
		return "healthy"
	}
	return "ill"
}
