package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sync/errgroup"
)

// hostConfig is the configuration of a host that others can reach: the address of
// the link is the host's.
const hostConfig = `city:
  link:
    listen: %[1]s:7800
    announce: %[1]s:7800
`

// founding does on several hosts what bsn up does on one.
type founding struct {
	ctx    context.Context
	places map[string]place // by city
	cities []string
}

// found makes a host for each city and a network of them: every one of an operator
// of its own, joined by invitation, with the chain chongqing. The first host is
// also that of the portal and of a developer with an account, a project and a key
// for every city.
func found(ts *testscript.TestScript, cities []string) (output, error) {
	if len(cities) < 4 {
		return output{}, errors.New("usage: found CITY…, at least four")
	}
	ctx, cancel := context.WithTimeout(context.Background(), programTimeout)
	defer cancel()
	f := founding{ctx, map[string]place{}, cities}
	if _, err := bsnCommand(ts, []string{"software", "build"}); err != nil { // hosts have no way to the internet
		return output{}, err
	}
	for _, city := range cities {
		if _, err := addHost(ts, []string{city}); err != nil {
			return output{}, err
		}
		p, err := daemonPlace(ts, city)
		if err != nil {
			return output{}, err
		}
		f.places[city] = p
	}
	for _, step := range []func() error{f.join, f.open, f.signUp, f.await} {
		if err := step(); err != nil {
			return output{}, err
		}
	}
	return output{}, nil
}

// bsn runs bsn on a city's host.
func (f founding) bsn(city string, args ...string) (string, error) {
	o, err := f.places[city].bsn(f.ctx, args...)
	if err != nil {
		err = fmt.Errorf("on %s: bsn %s: %w\n%s", city, strings.Join(args, " "), err, o.stderr)
	}
	return o.stdout, err
}

// all runs a line of words for each city but those left out, on its host, all at
// once; CITY is its name.
func (f founding) all(but, line string) error {
	var g errgroup.Group
	for _, city := range f.cities {
		if city == but {
			continue
		}
		g.Go(func() error {
			_, err := f.bsn(city, strings.Fields(strings.ReplaceAll(line, "CITY", city))...)
			return err
		})
	}
	return g.Wait()
}

// join brings the cities together.
func (f founding) join() error {
	first := f.cities[0]
	if _, err := f.bsn(first, "city", "init", first, "--network", "bsn-hosts", "--account-writes", "100000"); err != nil {
		return err
	}
	if _, err := f.bsn(first, "city", "start", first, "--detach"); err != nil {
		return err
	}
	if err := f.all(first, "city init CITY"); err != nil {
		return err
	}
	for _, city := range f.cities[1:] {
		invitation, err := f.bsn(first, "city", "invite", city)
		if err != nil {
			return err
		}
		var g errgroup.Group
		g.Go(func() error {
			_, err := f.bsn(city, "city", "join", strings.TrimSpace(invitation))
			return err
		})
		g.Go(func() error {
			var proposals []struct {
				ID     int
				Status string
			}
			return f.until("the application of "+city, func() (bool, error) {
				out, err := f.bsn(first, "proposal", "list", "--json")
				if err == nil {
					err = json.Unmarshal([]byte(out), &proposals)
				}
				for _, p := range proposals {
					if p.Status == "open" {
						_, err := f.bsn(first, "vote", fmt.Sprint(p.ID), "yes")
						return true, err
					}
				}
				return false, err
			})
		})
		if err := g.Wait(); err != nil {
			return err
		}
	}
	if err := f.all(first, "city start CITY --detach"); err != nil {
		return err
	}
	return f.until("the cities to be active", func() (bool, error) {
		out, err := f.bsn(first, "city", "list", "--json")
		return strings.Count(out, `"active"`) == len(f.cities), err
	})
}

func (f founding) until(what string, ok func() (bool, error)) error {
	for deadline := time.Now().Add(awaitTimeout); ; time.Sleep(awaitPause) {
		done, err := ok()
		if done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited for %s", what)
		}
	}
}

var proposalOpened = regexp.MustCompile(`proposal (\d+)`)

// open opens the chain and registers the portal.
func (f founding) open() error {
	for _, line := range []string{"chain open chongqing --id 1901 --cities " + strings.Join(f.cities, ","), "portal register demo"} {
		said, err := f.bsn(f.cities[0], strings.Fields(line)...)
		if err != nil {
			return err
		}
		id := proposalOpened.FindStringSubmatch(said)[1]
		for _, city := range f.cities[:len(f.cities)*2/3+1] {
			if _, err := f.bsn(city, "vote", id, "yes"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f founding) signUp() error {
	first := f.cities[0]
	var lines []string
	for i, city := range f.cities {
		lines = append(lines, fmt.Sprintf("context set --city %s --api http://127.%d.%d.1:7700 --gateway http://127.%d.%d.1:8080", city, hostNet, i+1, hostNet, i+1))
	}
	lines = append(lines, "context set --city "+first, "account create ada", "context set --account ada --project web", "project create web --rate 1000")
	for _, city := range f.cities {
		lines = append(lines, "key create --city "+city)
	}
	for _, line := range lines {
		if _, err := f.bsn(first, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// await waits until every city is healthy and the chain makes blocks.
func (f founding) await() error {
	var last string
	err := f.until("the network to be healthy", func() (bool, error) {
		out, err := f.bsn(f.cities[0], "status", "--json")
		last = out
		o := output{stdout: out}
		return err == nil && checkJSON(o, []string{".warnings.length", "==", "0"}) == nil &&
			checkJSON(o, []string{".chains[chain=chongqing].height", ">", "0"}) == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, last)
	}
	return nil
}

// configure writes the configuration of a host that others can reach.
func configure(home, address string) error {
	return os.WriteFile(filepath.Join(home, "bsn.yaml"), fmt.Appendf(nil, hostConfig, address), 0o600)
}
