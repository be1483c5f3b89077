package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
)

// upgradedTimeout is how long a city may take until it is healthy again.
const upgradedTimeout = 3 * time.Minute

// previousSuffix is added to the path of a binary for the one before it.
const previousSuffix = ".previous"

func upgradeCommand(s *session) *cobra.Command {
	var binary string
	var rollback bool
	c := &cobra.Command{
		Use:   "upgrade [CITY…]",
		Short: "run cities of this machine on another bsn, one after the other, while calls go on",
		Long: `upgrade puts another bsn in the place of the one that cities of this machine run on,
and restarts their daemons one after the other, waiting for each until it is healthy.
Nodes run on, and the new gateway takes over from the old one without refusing a
call. If a city does not come back it stops there, and the others stay as they are:
do it again once that is mended, or go back with --rollback. The bsn before is kept
beside the new one.`,
		Example: `  bsn upgrade --binary ./bsn-1.4
  bsn upgrade paris --binary ./bsn-1.4
  bsn upgrade --rollback`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if rollback == (binary != "") {
				return errors.New("say which bsn to run on: --binary FILE, or --rollback for the one before")
			}
			u := upgrade{session: s, steps: newSteps(cmd.ErrOrStderr()), w: cmd.OutOrStdout(), binary: binary}
			defer u.finish(&err)
			return u.run(cmd.Context(), args)
		},
	}
	c.Flags().StringVar(&binary, "binary", "", "the bsn to run on")
	c.Flags().BoolVar(&rollback, "rollback", false, "run on the one before the last upgrade again")
	return c
}

// upgrade brings cities onto another binary; each step finds out what is done already.
type upgrade struct {
	*session
	*steps
	w      io.Writer
	binary string // empty for a rollback
}

// running is a city's daemon.
type running struct {
	city.Home
	pid    int
	path   string // of its binary
	folder string
}

func (u *upgrade) run(ctx context.Context, names []string) error {
	cities, err := u.cities(names)
	if err != nil {
		return err
	}
	// All are looked at before anything is changed.
	checked := map[string]bool{}
	for _, c := range cities {
		from := u.from(c.path)
		if checked[from] {
			continue
		}
		if err := u.check(ctx, from); err != nil {
			return err
		}
		checked[from] = true
	}
	installed := map[string]bool{}
	for _, c := range cities {
		if !installed[c.path] {
			if err := u.install(c.path); err != nil {
				return err
			}
			installed[c.path] = true
		}
		if err := u.restart(ctx, c); err != nil {
			return fmt.Errorf("city %s did not come back: %w\nthe cities after it run on as they were. Mend it and do this again, or go back: bsn upgrade --rollback", c.Name, err)
		}
	}
	u.done()
	return nil
}

// from is the file that is to be put at path.
func (u *upgrade) from(path string) string {
	if u.binary == "" {
		return path + previousSuffix
	}
	return u.binary
}

// cities finds the daemons of the cities named, or of all on this machine.
func (u *upgrade) cities(names []string) ([]running, error) {
	var homes []city.Home
	for _, name := range names {
		homes = append(homes, city.Home{Root: u.root, Name: name})
	}
	if len(names) == 0 {
		var err error
		if homes, err = city.Local(u.root); err != nil {
			return nil, err
		}
	}
	var out []running
	for _, h := range homes {
		if _, err := h.Load(); err != nil {
			return nil, err
		}
		pid, err := h.PID()
		if err != nil {
			return nil, err
		}
		if pid == 0 {
			if len(names) > 0 {
				return nil, fmt.Errorf("city %s does not run: start it with the bsn that it is to run on", h.Name)
			}
			continue
		}
		r := running{Home: h, pid: pid}
		if r.path, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			r.folder, err = os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		}
		if err != nil {
			return nil, fmt.Errorf("find the binary of city %s: %w", h.Name, err)
		}
		r.path = strings.TrimSuffix(r.path, " (deleted)") // by an upgrade that was cut off
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil, errors.New("no city runs here")
	}
	return out, nil
}

// check makes sure that a binary runs and can take the ledger's part.
func (u *upgrade) check(ctx context.Context, file string) error {
	if _, err := os.Stat(file); u.binary == "" && errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no bsn to go back to: %s", file)
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("find %s: %w", file, err)
	}
	u.begin("check " + file)
	r, err := askRelease(ctx, path)
	if err != nil {
		return err
	}
	p, err := u.protocol(ctx)
	switch {
	case err != nil:
		fmt.Fprintf(u.w, "warning: which protocol version the ledger follows cannot be read now (%v)\n", err)
	case r.Protocols < p.Version:
		return fmt.Errorf("%s is bsn %s and supports protocol versions up to %d: the ledger follows version %d", file, r.Version, r.Protocols, p.Version)
	case p.Next != nil && r.Protocols < p.Next.Version:
		fmt.Fprintf(u.w, "warning: from block %d on the ledger follows protocol version %d, and bsn %s supports versions up to %d\n", p.Next.Height, p.Next.Version, r.Version, r.Protocols)
	}
	return nil
}

// install puts the new binary at path, at once, and keeps the one before.
func (u *upgrade) install(path string) error {
	from := u.from(path)
	next, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read %s: %w", from, err)
	}
	present, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if sha256.Sum256(next) == sha256.Sum256(present) {
		return nil // it is in place
	}
	u.begin("install " + path)
	dir := renameio.WithTempDir(filepath.Dir(path))
	if u.binary != "" { // after a rollback there is nothing to go back to
		if err := renameio.WriteFile(path+previousSuffix, present, 0o755, dir); err != nil {
			return fmt.Errorf("keep the bsn before: %w", err)
		}
	}
	if err := renameio.WriteFile(path, next, 0o755, dir); err != nil {
		return fmt.Errorf("install %s: %w", path, err)
	}
	return nil
}

// restart brings a city onto the binary at its path, unless it runs on that.
func (u *upgrade) restart(ctx context.Context, c running) error {
	if !runsOn(c.pid, c.path) {
		u.begin("city " + c.Name + " restarts")
		if err := stopDaemon(ctx, c.Home); err != nil {
			return err
		}
		if err := u.startBinary(ctx, c.Home, c.path, c.folder); err != nil {
			return err
		}
	}
	u.begin("city " + c.Name + " is healthy on it")
	return u.healthy(ctx, c)
}

// healthy waits until a city is well and its gateway is the new one.
func (u *upgrade) healthy(ctx context.Context, c running) error {
	ctx, cancel := context.WithTimeout(ctx, upgradedTimeout)
	defer cancel()
	state, err := c.Load()
	if err != nil {
		return err
	}
	record := bsn.City{
		Name: c.Name, Operator: state.Operator, Status: bsn.CityActive,
		API: "http://" + bsn.HostPort(state.Net.Addr(state.Index, bsn.ServiceCity), bsn.PortAPI),
	}
	last := ""
	err = until(ctx, "it to be healthy", func() (bool, error) {
		st, _ := u.cityStatus(ctx, record)
		if last = st.Error; !st.Healthy {
			return false, nil
		}
		for _, n := range st.Nodes {
			if n.ID == "gateway" {
				last = "its gateway is still the one before"
				return runsOn(n.PID, c.path), nil
			}
		}
		return false, nil
	})
	if err != nil && last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// runsOn tells whether a process runs on the file that is at path now.
func runsOn(pid int, path string) bool {
	a, err1 := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}
