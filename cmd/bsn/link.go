package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
)

func linkCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "link", Short: "how a city reaches the others"}
	c.AddCommand(linkList(s))
	return c
}

func linkList(s *session) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "a city's links to the others, as it sees them itself",
		Example: "  bsn link list --via paris",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := s.reader()
		if err != nil {
			return err
		}
		st, err := client.Status(cmd.Context())
		if err != nil {
			return err
		}
		links := []bsn.LinkState{}
		for _, l := range st.Links {
			links = append(links, bsn.LinkState{
				City: l.City, Local: l.Local, Connected: l.Connected, Relayed: l.Relayed, Address: l.Address,
				Latency: time.Duration(l.LatencyNanoseconds), Sent: l.Sent, Received: l.Received, Streams: int(l.Streams), Error: l.Error,
			})
		}
		return show(cmd, *asJSON, links, "CITY LINK LATENCY SENT RECEIVED STREAMS ADDRESS", func() (rows [][]string) {
			for _, l := range links {
				rows = append(rows, []string{
					l.City, linkKind(l), linkLatency(l), mebibytes(l.Sent), mebibytes(l.Received), fmt.Sprint(l.Streams), dash(or(l.Address, l.Error)),
				})
			}
			return rows
		})
	}
	return c
}

func linkKind(l bsn.LinkState) string {
	switch {
	case l.Local:
		return "local"
	case !l.Connected:
		return "down"
	case l.Relayed:
		return "relayed"
	}
	return "direct"
}

func linkLatency(l bsn.LinkState) string {
	if l.Latency == 0 {
		return "-"
	}
	return l.Latency.Round(10 * time.Microsecond).String()
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
