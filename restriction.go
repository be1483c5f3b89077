package bsn

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// MaxRestrictions is the most entries of each list of [Restrictions].
const MaxRestrictions = 32

// Restrictions narrow what a key is good for. Every list that is not empty must be
// satisfied, and one entry of it is enough for that.
type Restrictions struct {
	// Methods are those that may be called: names, or beginnings that end in *. One of
	// gRPC is called service/Method, one of REST by its method and path, as in GET/blocks/*.
	Methods []string `json:"methods,omitempty"`
	// DeniedMethods, in the same form, may not, whatever Methods says.
	DeniedMethods []string `json:"deniedMethods,omitempty"`
	// Contracts are what calls and transactions may be addressed to: see [ContractRule].
	Contracts []string `json:"contracts,omitempty"`
	// IPs are the addresses from which the key may be used, as CIDR prefixes.
	IPs []string `json:"ips,omitempty"`
	// Origins are the web pages that may use the key, as browsers name them in the
	// header Origin: scheme://host or scheme://host:port, the host perhaps beginning
	// with *. for all that lie below it. A request without that header comes from none.
	Origins []string `json:"origins,omitempty"`
}

// IsZero tells whether nothing is restricted.
func (r Restrictions) IsZero() bool {
	return len(r.Methods)+len(r.DeniedMethods)+len(r.Contracts)+len(r.IPs)+len(r.Origins) == 0
}

// Normal returns the restrictions in the form in which they are stored. The error
// names the first entry that is malformed.
func (r Restrictions) Normal() (Restrictions, error) {
	var out Restrictions
	for _, list := range []struct {
		what   string
		in     []string
		out    *[]string
		normal func(string) (string, error)
	}{
		{"methods", r.Methods, &out.Methods, normalMethod},
		{"denied methods", r.DeniedMethods, &out.DeniedMethods, normalMethod},
		{"contracts", r.Contracts, &out.Contracts, normalContract},
		{"IP ranges", r.IPs, &out.IPs, normalIP},
		{"origins", r.Origins, &out.Origins, normalOrigin},
	} {
		if len(list.in) > MaxRestrictions {
			return Restrictions{}, fmt.Errorf("%d %s: the most is %d", len(list.in), list.what, MaxRestrictions)
		}
		for _, entry := range list.in {
			normal, err := list.normal(entry)
			if err != nil {
				return Restrictions{}, err
			}
			*list.out = append(*list.out, normal)
		}
	}
	return out, nil
}

var methodPattern = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9_./-]{0,63}\*?|\*)$`)

func normalMethod(s string) (string, error) {
	if !methodPattern.MatchString(s) {
		return "", fmt.Errorf("method %q: write a name, or a beginning and *, as in eth_call or eth_get*", clip(s))
	}
	return s, nil
}

// ContractRule is an entry of [Restrictions].Contracts. One of its three forms is
// given: account/app, for all contracts of all versions of an app; chain:address;
// or the address alone, on every chain.
type ContractRule struct {
	App            string
	Chain, Address string
}

var contractAddress = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,95}$`)

// ParseContractRule reads an entry of [Restrictions].Contracts.
func ParseContractRule(s string) (ContractRule, error) {
	if strings.Contains(s, "/") {
		account, name, err := SplitID(s, "")
		return ContractRule{App: ID(account, name)}, err
	}
	chain, address, on := strings.Cut(s, ":")
	if !on {
		chain, address = "", s
	} else if err := CheckName("chain", chain); err != nil {
		return ContractRule{}, err
	}
	address = NormalAddress(address)
	hexadecimal := strings.HasPrefix(address, "0x")
	if !contractAddress.MatchString(address) || hexadecimal && !evmAddress.MatchString(address) {
		return ContractRule{}, fmt.Errorf("contract %q: write an address (0x and 40 hex digits on EVM chains), CHAIN:ADDRESS, or an app as ACCOUNT/APP", clip(s))
	}
	return ContractRule{Chain: chain, Address: address}, nil
}

var evmAddress = regexp.MustCompile(`^0x[0-9a-f]{40}$`)

// NormalAddress is the form in which addresses are compared: those in hex in lower case.
func NormalAddress(s string) string {
	if strings.HasPrefix(s, "0x") || strings.HasPrefix(s, "0X") {
		return strings.ToLower(s)
	}
	return s
}

func normalContract(s string) (string, error) {
	c, err := ParseContractRule(s)
	switch {
	case err != nil:
		return "", err
	case c.App != "":
		return c.App, nil
	case c.Chain != "":
		return c.Chain + ":" + c.Address, nil
	}
	return c.Address, nil
}

func normalIP(s string) (string, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	if !p.IsValid() || p.Addr().Is4In6() {
		return "", fmt.Errorf("IP range %q: write an address or a prefix, as in 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32", clip(s))
	}
	return p.Masked().String(), nil
}

var originForm = regexp.MustCompile(`^([a-z][a-z0-9+.-]{0,31})://((?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?$`)

const maxOrigin = 128

func normalOrigin(s string) (string, error) {
	lower := strings.ToLower(s)
	parts := originForm.FindStringSubmatch(lower)
	if parts == nil || len(s) > maxOrigin {
		return "", fmt.Errorf("origin %q: write it as browsers do, without a path, as in https://app.example, http://localhost:3000 or https://*.app.example", clip(s))
	}
	if parts[3] == "" {
		return lower, nil
	}
	port, err := strconv.ParseUint(parts[3], 10, 16)
	if err != nil {
		return "", fmt.Errorf("origin %q: there is no such port", clip(s))
	}
	if scheme := parts[1]; scheme == "https" && port == 443 || scheme == "http" && port == 80 {
		return scheme + "://" + parts[2], nil // browsers leave it out
	}
	return parts[1] + "://" + parts[2] + ":" + strconv.FormatUint(port, 10), nil
}
