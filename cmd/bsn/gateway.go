package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
)

// gatewayCommand is what operators do with a city's gateway, and what a city's
// daemon starts.
func gatewayCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "gateway", Short: "a city's gateway and the nodes that it asks"}
	c.AddCommand(gatewayHealth(s), gatewayCordon(s, true), gatewayCordon(s, false), gatewayRun(s))
	return c
}

// maxGatewayHealth bounds what a gateway says of itself, and gatewayHealthTimeout how
// long it may take.
const (
	maxGatewayHealth     = 4 << 20
	gatewayHealthTimeout = 10 * time.Second
)

// gatewayState is what the command shows of a gateway's /health.
type gatewayState struct {
	Status string
	Chains []struct {
		Chain string
		Nodes []struct {
			City           string
			Answers, Level bool
			Height         int64
			Cordoned       bool
			RestsSeconds   int64
		}
	}
}

func gatewayHealth(s *session) *cobra.Command {
	c := &cobra.Command{
		Use: "health [CITY]", Short: "what a city's gateway says of itself and of the nodes that it asks",
		Example: "  bsn gateway health paris --json",
		Args:    cobra.MaximumNArgs(1),
	}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		text, err := s.gatewayHealth(cmd, args)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), json.RawMessage(text))
		}
		var state gatewayState
		if err := json.Unmarshal(text, &state); err != nil {
			return fmt.Errorf("read the gateway's health: %w", err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "gateway: %s\n", state.Status)
		return show(cmd, false, nil, "CHAIN NODE HEIGHT STATE", func() (rows [][]string) {
			for _, chain := range state.Chains {
				for _, n := range chain.Nodes {
					var words []string
					add := func(is bool, word string) {
						if is {
							words = append(words, word)
						}
					}
					add(n.Cordoned, "cordoned")
					add(!n.Answers, "does not answer")
					add(!n.Level, "behind")
					add(n.RestsSeconds > 0, fmt.Sprintf("left alone for %d s", n.RestsSeconds))
					if len(words) == 0 {
						words = []string{"good"}
					}
					rows = append(rows, []string{chain.Chain, n.City, fmt.Sprint(n.Height), strings.Join(words, ", ")})
				}
			}
			return rows
		})
	}
	return c
}

// gatewayHealth asks the gateway of a city, or of the one that is talked to. It
// answers also when it is not well.
func (s *session) gatewayHealth(cmd *cobra.Command, args []string) ([]byte, error) {
	name := ""
	if len(args) > 0 {
		name = args[0]
	} else if err := s.choose(); err != nil {
		return nil, err
	} else {
		name = s.cityName
	}
	at, ok := s.ctx.Cities[name]
	if !ok || at.Gateway == "" {
		return nil, fmt.Errorf("the gateway of city %q is not known here: there are %s", name, strings.Join(sortedKeys(s.ctx.Cities), ", "))
	}
	client := http.Client{Timeout: gatewayHealthTimeout}
	r, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, at.Gateway+"/health", nil)
	if err != nil {
		return nil, fmt.Errorf("ask the gateway of city %s: %w", name, err)
	}
	response, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask the gateway of city %s: %w", name, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxGatewayHealth))
	if err == nil && !json.Valid(text) {
		err = errors.New("it is no gateway, or what stands before it does not let /health pass")
	}
	if err != nil {
		return nil, fmt.Errorf("ask the gateway of city %s: %w", name, err)
	}
	return text, nil
}

func gatewayCordon(s *session, cordon bool) *cobra.Command {
	c := &cobra.Command{
		Use: "cordon CITY CHAIN NODE", Short: "have a city's gateway ask a node nothing, from the next second on",
		Long:    "CITY is one of an operator whose key is here. NODE is the city whose node of the chain it is, or outside/NAME for a provider. It stays so until `bsn gateway uncordon`.",
		Example: "  bsn gateway cordon paris chongqing lyon\n  bsn gateway cordon paris ethereum outside/infura",
	}
	if !cordon {
		c.Use, c.Short = "uncordon CITY CHAIN NODE", "have a city's gateway ask a node again"
		c.Long, c.Example = "", "  bsn gateway uncordon paris chongqing lyon"
	}
	c.Args = cobra.ExactArgs(3)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		chain, node := args[1], args[2]
		if cordon {
			if err := s.knowsNode(cmd, args[0], chain, node); err != nil {
				return err
			}
		}
		changed, err := s.cordon(cmd.Context(), args[0], chain, node, cordon)
		if err != nil {
			return err
		}
		state := map[bool]string{true: "is cordoned at", false: "is in service at"}[cordon]
		if !changed {
			state = strings.Replace(state, "is", "was already", 1)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "node %s of chain %s %s the gateway of %s\n", node, chain, state, args[0])
		return nil
	}
	return c
}

// cordon changes it in the city's files, if it is one of this machine and whether its
// daemon runs or not; else the city's API is asked, as the city's operator.
func (s *session) cordon(ctx context.Context, name, chain, node string, cordoned bool) (changed bool, err error) {
	local, err := city.Local(s.root)
	if err != nil {
		return false, err
	}
	for _, h := range local {
		if h.Name == name {
			return h.Cordon(chain, node, cordoned)
		}
	}
	l, err := s.reader()
	if err != nil {
		return false, err
	}
	c, err := read[bsn.City](ctx, l, bsn.KindCity, name)
	if err != nil {
		return false, err
	}
	k, err := s.operatorKey(c.Operator)
	if err != nil {
		return false, fmt.Errorf("city %s is for its operator %s: %w", name, c.Operator, err)
	}
	client, err := s.dial(name, k)
	if err != nil {
		return false, err
	}
	return client.Cordon(ctx, chain, node, cordoned)
}

// knowsNode finds spelling mistakes, if the gateway answers.
func (s *session) knowsNode(cmd *cobra.Command, city, chain, node string) error {
	text, err := s.gatewayHealth(cmd, []string{city})
	if err != nil {
		return nil // it takes the cordon over when it is there
	}
	var state gatewayState
	if err := json.Unmarshal(text, &state); err != nil {
		return fmt.Errorf("read the gateway's health: %w", err)
	}
	var chains, nodes []string
	for _, c := range state.Chains {
		chains = append(chains, c.Chain)
		for _, n := range c.Nodes {
			if c.Chain == chain {
				nodes = append(nodes, n.City)
			}
		}
	}
	switch {
	case !slices.Contains(chains, chain):
		return fmt.Errorf("the gateway of %s serves no chain %q: there are %s", city, chain, strings.Join(chains, ", "))
	case !slices.Contains(nodes, node):
		return fmt.Errorf("chain %s has no node %q at the gateway of %s: there are %s", chain, node, city, strings.Join(nodes, ", "))
	}
	return nil
}
