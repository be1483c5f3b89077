package main

import (
	"fmt"
	"strings"

	"github.com/openbsn/bsn"
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
