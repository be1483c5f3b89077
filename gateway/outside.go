package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/openbsn/bsn"
)

const (
	// filesPause is the time between two looks at the files of this file.
	filesPause = time.Second
	// maxUpstreamFile bounds each of them.
	maxUpstreamFile = 1 << 20
)

// Outside is what a gateway reaches beyond the network's nodes, the content of the
// file that Config.Outside names.
type Outside struct {
	// Chains are public chains that the gateway gives access to, by name, beside those
	// of the ledger, whose names they cannot take.
	Chains map[string]PublicChain `yaml:"chains"`
	// Providers answer for a chain when no node of the network can, by the chain's name,
	// in this order; of a public chain they are the only ones.
	Providers map[string][]Provider `yaml:"providers"`
}

// PublicChain is a permissionless chain.
type PublicChain struct {
	// Framework is the name of the protocol that it speaks: a framework's, or one of
	// those that New was given.
	Framework string `yaml:"framework"`
	// ChainID is what transactions are signed for.
	ChainID uint64 `yaml:"chainId"`
	// Final: every block is final.
	Final bool `yaml:"final"`
}

// Provider is an endpoint outside of the network.
type Provider struct {
	// Name stands for it in metrics and commands; its address is never shown, since it
	// may hold a secret.
	Name string `yaml:"name"`
	// URL of its JSON-RPC, http or https; GRPC is http://host:port, or https:// with TLS,
	// and REST what paths are put after. It has those that its chain's protocol speaks.
	URL  string `yaml:"url"`
	GRPC string `yaml:"grpc"`
	REST string `yaml:"rest"`
	// Headers go with every request.
	Headers map[string]string `yaml:"headers"`
}

// providerPrefix tells the names of providers from those of cities.
const providerPrefix = "outside/"

// readOutside reads the file. It may hold secrets, so that nobody else may read it.
func readOutside(path string) (Outside, error) {
	var o Outside
	text, info, err := readSmall(path)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("others may read it (mode %o), and it may hold secrets: chmod 600 %s", info.Mode().Perm(), path)
	}
	if err == nil {
		d := yaml.NewDecoder(bytes.NewReader(text))
		d.KnownFields(true)
		if err = d.Decode(&o); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err == nil {
		err = o.check()
	}
	if err != nil {
		return Outside{}, fmt.Errorf("read %s: %w", path, err)
	}
	return o, nil
}

func readSmall(path string) (text []byte, info fs.FileInfo, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	if text, err = io.ReadAll(io.LimitReader(f, maxUpstreamFile+1)); err == nil && len(text) > maxUpstreamFile {
		err = fmt.Errorf("it is larger than %d bytes", maxUpstreamFile)
	}
	return text, info, err
}

func (o Outside) check() error {
	for _, name := range slices.Sorted(maps.Keys(o.Chains)) {
		if err := bsn.CheckName("chain", name); err != nil {
			return err
		}
		if o.Chains[name].Framework == "" {
			return fmt.Errorf("chains.%s: framework is missing", name)
		}
		if len(o.Providers[name]) == 0 {
			return fmt.Errorf("chains.%s: a public chain needs providers.%s", name, name)
		}
	}
	for _, chain := range slices.Sorted(maps.Keys(o.Providers)) {
		seen := map[string]bool{}
		for i, p := range o.Providers[chain] {
			at := fmt.Sprintf("providers.%s[%d]", chain, i)
			if err := bsn.CheckName("provider", p.Name); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
			if seen[p.Name] {
				return fmt.Errorf("%s: name %s is taken", at, p.Name)
			}
			seen[p.Name] = true
			// Without their text in errors: they may hold a secret.
			if u, err := url.Parse(p.URL); p.URL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
				return fmt.Errorf("%s: url must be http:// or https:// and a host", at)
			}
			if u, err := baseURL(p.GRPC); err != nil || u != nil && strings.Trim(u.Path, "/") != "" {
				return fmt.Errorf("%s: grpc must be http:// or https://, a host and a port", at)
			}
			if _, err := baseURL(p.REST); err != nil {
				return fmt.Errorf("%s: rest must be http:// or https:// and a host, perhaps with a path", at)
			}
			if p.URL == "" && p.GRPC == "" && p.REST == "" {
				return fmt.Errorf("%s: url is missing, or grpc or rest", at)
			}
			for name, value := range p.Headers {
				if strings.ContainsAny(name+value, "\r\n\x00") || name == "" {
					return fmt.Errorf("%s: malformed header %q", at, name)
				}
				switch http.CanonicalHeaderKey(name) {
				case "Host", "Content-Length", "Transfer-Encoding", "Connection", "Content-Type":
					return fmt.Errorf("%s: header %s is the gateway's own", at, name)
				}
			}
		}
	}
	return nil
}

func (p Provider) endpoint() bsn.Endpoint {
	return bsn.Endpoint{HTTP: p.URL, GRPC: p.GRPC, REST: p.REST}
}

// header is what goes with every request to the provider.
func (p Provider) header() http.Header {
	h := nodeHeader.Clone()
	for name, value := range p.Headers {
		h.Set(name, value)
	}
	return h
}

// records are the public chains as if they were the ledger's.
func (o Outside) records(ledger []bsn.Chain) []bsn.Chain {
	all := slices.Clone(ledger)
	for _, name := range slices.Sorted(maps.Keys(o.Chains)) {
		if slices.ContainsFunc(ledger, func(c bsn.Chain) bool { return c.Name == name }) {
			continue // the ledger's goes first
		}
		all = append(all, bsn.Chain{
			Name: name, Kind: bsn.ChainPublic, Framework: o.Chains[name].Framework, NetworkID: o.Chains[name].ChainID,
			Deploy: bsn.DeployAnyone, Status: bsn.ChainRunning,
		})
	}
	return all
}

// Cordons are the nodes that a gateway is to ask nothing, by chain: names of cities, or
// of providers with "outside/" before. It is the content of the file, in JSON, that
// Config.Cordons names.
type Cordons map[string][]string

func readCordons(path string) (c Cordons, err error) {
	text, _, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}

// stamp tells whether a file is another one than before.
func stamp(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(info.Size(), info.ModTime().UnixNano(), info.Mode())
}

// files are the files of upstreams, as they were when they were read last.
type files struct{ outside, cordons string }

// read takes in the files that are other ones than before. One that cannot be read
// changes nothing.
func (f *files) read(ctx context.Context, g *Gateway) {
	if now := stamp(g.cfg.Cordons); g.cfg.Cordons != "" && now != f.cordons {
		f.cordons = now
		if c, err := readCordons(g.cfg.Cordons); err != nil {
			g.log.Error("cordons are not taken over", "error", err)
		} else {
			g.upstreams.cordon(c)
		}
	}
	if now := stamp(g.cfg.Outside); g.cfg.Outside != "" && now != f.outside {
		f.outside = now
		if o, err := readOutside(g.cfg.Outside); err != nil {
			g.log.Error("upstreams outside of the network are not taken over", "error", err)
		} else {
			g.upstreams.reach(ctx, o)
		}
	}
}

// watch takes them in whenever they change, until ctx ends.
func (f *files) watch(ctx context.Context, g *Gateway) {
	tick := time.NewTicker(filesPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.read(ctx, g)
		}
	}
}
