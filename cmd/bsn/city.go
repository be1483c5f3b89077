package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/runtime/process"
)

func cityCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "city", Short: "make, join, start, list and leave with cities"}
	c.AddCommand(cityRotate(s), cityInit(s), cityInvite(s), cityJoin(s), cityStart(s), cityStop(s), cityResync(s), cityList(s), cityLeave(s), cityEvict(s), citySettle(s), cityDelete(s), cityRekey(s))
	return c
}

func cityInit(s *session) *cobra.Command {
	var operator, network string
	var net int
	var accountWrites int64
	c := &cobra.Command{
		Use:   "init CITY",
		Short: "make a city's keys, and with --network a new network with it as the first",
		Example: `  bsn city init paris --operator paris
  bsn city init chongqing --operator chongqing --network bsn-demo`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h := city.Home{Root: s.root, Name: args[0]}
			if operator == "" {
				operator = args[0]
			}
			if network == "" {
				a, err := h.Init(operator)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "city %s of operator %s is ready to join (ledger node %s)\nnext: bsn city join INVITATION --city %s\n", a.City, a.Operator, bsn.NodeID(a.NodeKey), a.City)
				return nil
			}
			if err := bsn.CheckNet(net); err != nil {
				return err
			}
			if err := h.Found(operator, network, bsn.Net(net), bsn.Parameters{AccountWrites: accountWrites}); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "network %s is founded, with city %s of operator %s\nnext: bsn city start %s\n", network, h.Name, operator, h.Name)
			return nil
		},
	}
	c.Flags().StringVar(&operator, "operator", "", "the operator that runs it (default: the city's name)")
	c.Flags().StringVar(&network, "network", "", "found a new network of this name")
	c.Flags().IntVar(&net, "net", int(bsn.DefaultNet), "the new network's number in virtual addresses, 127.NET.city.n")
	c.Flags().Int64Var(&accountWrites, "account-writes", 0, "the new network's ledger writes per account and hour (default 1000)")
	return c
}

func cityInvite(s *session) *cobra.Command {
	var by string
	c := &cobra.Command{
		Use:   "invite CITY",
		Short: "print an invitation for a city of this name, by a city of this machine",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := s.localCity(by)
			if err != nil {
				return err
			}
			invitation, err := s.invite(h, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), invitation)
			return nil
		},
	}
	c.Flags().StringVar(&by, "by", "", "the inviting city (default: the only one here)")
	return c
}

func (s *session) invite(h city.Home, name string) (string, error) {
	state, err := h.Load()
	if err != nil {
		return "", err
	}
	cfg, err := s.cityConfig(h)
	if err != nil {
		return "", err
	}
	addr := cfg.City.API
	if addr == "" {
		addr = bsn.HostPort(state.Net.Addr(state.Index, bsn.ServiceCity), bsn.PortAPI)
	}
	return h.Invite(name, "http://"+addr, cfg.City.Link.Announced())
}

// localCity finds a city of this machine; an empty name means the only one.
func (s *session) localCity(name string) (city.Home, error) {
	if name != "" {
		h := city.Home{Root: s.root, Name: name}
		_, err := h.Load()
		return h, err
	}
	all, err := city.Local(s.root)
	if err != nil {
		return city.Home{}, err
	}
	if len(all) != 1 {
		return city.Home{}, fmt.Errorf("which city? there are %d here: name one", len(all))
	}
	return all[0], nil
}

func cityJoin(s *session) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "join INVITATION",
		Short: "apply to join a network, and wait for the operators' votes",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := s.localCity(name)
			if err != nil {
				return err
			}
			if err := h.Join(cmd.Context(), args[0], func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), text) }); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "city %s is admitted\nnext: bsn city start %s\n", h.Name, h.Name)
			return nil
		},
	}
	c.Flags().StringVar(&name, "city", "", "the joining city (default: the only one here)")
	return c
}

func cityStart(s *session) *cobra.Command {
	var detach bool
	c := &cobra.Command{
		Use:   "start CITY",
		Short: "run a city's daemon",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h := city.Home{Root: s.root, Name: args[0]}
			if detach {
				if err := s.startDetached(cmd.Context(), h); err != nil {
					return err
				}
				return s.remember(h)
			}
			cfg, err := s.cityConfig(h)
			if err != nil {
				return err
			}
			s.cfg = cfg
			frameworks, err := s.frameworks()
			if err != nil {
				return err
			}
			return city.Run(cmd.Context(), h, cfg, frameworks, logger(cfg.Log.Level), func() {
				// Told to whoever started this in the background.
				if f := os.NewFile(3, "ready"); os.Getenv(readyEnv) != "" && f != nil {
					f.WriteString("ready\n")
					f.Close()
				}
			})
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "run in the background, and return once its API answers")
	return c
}

// readyEnv tells a daemon that descriptor 3 waits for a word from it.
const readyEnv = "BSN_READY_FD"

// startTimeout is how long a city may take until its API answers.
const startTimeout = time.Minute

// startDetached starts a city's daemon in the background.
func (s *session) startDetached(ctx context.Context, h city.Home) error {
	if pid, err := h.PID(); err != nil || pid != 0 {
		return err // it runs already
	}
	if _, err := h.Load(); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	return s.startBinary(ctx, h, exe, s.workDir())
}

// startBinary starts a city's daemon in the background, from a file and in a folder.
func (s *session) startBinary(ctx context.Context, h city.Home, exe, folder string) error {
	log, err := os.OpenFile(h.LogFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	offset, err := log.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(exe, "city", "start", h.Name, "--home", s.root)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start city %q: %w", h.Name, err)
	}
	ready := make(chan bool, 1)
	go func() {
		b := make([]byte, 8)
		n, _ := r.Read(b) // nothing read means that it ended
		ready <- n > 0
	}()
	select {
	case ok := <-ready:
		if !ok {
			cmd.Wait() // its error is in the log
			return fmt.Errorf("city %q ended as it started:\n%s", h.Name, tail(h.LogFile(), offset))
		}
	case <-ctx.Done():
		cmd.Process.Signal(syscall.SIGTERM)
		return ctx.Err()
	case <-time.After(startTimeout):
		cmd.Process.Signal(syscall.SIGTERM)
		return fmt.Errorf("city %q did not start within %s:\n%s", h.Name, startTimeout, tail(h.LogFile(), offset))
	}
	return cmd.Process.Release()
}

// workDir is where daemons run: a source tree, which node software is built from,
// is found from there.
func (s *session) workDir() string {
	dir, err := os.Getwd()
	if err != nil {
		return s.root
	}
	return dir
}

// tail is what a log holds from an offset on, its end if that is long.
func tail(path string, offset int64) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	b = b[min(offset, int64(len(b))):]
	return strings.TrimSpace(string(b[max(0, len(b)-2000):]))
}

func cityStop(s *session) *cobra.Command {
	var daemonOnly bool
	c := &cobra.Command{
		Use:   "stop CITY",
		Short: "stop a city of this machine: its daemon, gateway and nodes",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h := city.Home{Root: s.root, Name: args[0]}
			if _, err := h.Load(); err != nil {
				return err
			}
			if err := stopDaemon(cmd.Context(), h); err != nil || daemonOnly {
				return err
			}
			return stopNodes(cmd.Context(), h)
		},
	}
	c.Flags().BoolVar(&daemonOnly, "daemon-only", false, "leave the gateway and the nodes running; the next start takes them over")
	return c
}

// stopDaemon ends a city's daemon and waits until it has ended.
func stopDaemon(ctx context.Context, h city.Home) error {
	pid, err := h.PID()
	if err != nil || pid == 0 {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop city %q: %w", h.Name, err)
	}
	kill := time.After(20 * time.Second)
	for {
		if now, err := h.PID(); err != nil || now != pid {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-kill:
			syscall.Kill(pid, syscall.SIGKILL)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stopNodes ends what a city's runtime started, with the daemon gone.
func stopNodes(ctx context.Context, h city.Home) error {
	r, err := process.Open(h.Nodes(), logger(8))
	if err != nil {
		return err
	}
	return errors.Join(r.StopAll(ctx), r.Close())
}

func cityResync(s *session) *cobra.Command {
	var trust string
	c := &cobra.Command{
		Use:   "resync CITY",
		Short: "have a stopped city take over the ledger's state from others with its next start, in place of its own",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := parseTrust(trust)
			if err != nil {
				return err
			}
			if err := (city.Home{Root: s.root, Name: args[0]}).Resync(t); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "next: bsn city start %s --detach\n", args[0])
			return nil
		},
	}
	c.Flags().StringVar(&trust, "trust", "", "a block to prove the state from, HEIGHT:HASH of `bsn ledger trust` elsewhere (default: one that the city has)")
	return c
}

func cityList(s *session) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "the network's cities", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := s.reader()
		if err != nil {
			return err
		}
		cities, err := list[bsn.City](cmd.Context(), l, bsn.KindCity)
		if err != nil {
			return err
		}
		return show(cmd, *asJSON, cities, "CITY OPERATOR STATUS API GATEWAY", func() (rows [][]string) {
			for _, c := range cities {
				rows = append(rows, []string{c.Name, c.Operator, string(c.Status), c.API, c.Gateway})
			}
			return rows
		})
	}
	return c
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func logsCommand(s *session) *cobra.Command {
	var follow bool
	var lines int
	c := &cobra.Command{
		Use:   "logs NODE",
		Short: "what a city's node or gateway wrote; or its daemon: `bsn logs daemon`",
		Example: `  bsn logs kaia-chongqing --via paris -f
  bsn logs daemon --via paris`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := s.cityName
			if name == "" {
				name = s.ctx.City
			}
			if args[0] == "daemon" {
				return daemonLog(cmd.Context(), cmd, city.Home{Root: s.root, Name: name}, lines, follow)
			}
			cities, err := s.reader()
			if err != nil {
				return err
			}
			record, err := read[bsn.City](cmd.Context(), cities, bsn.KindCity, name)
			if err != nil {
				return err
			}
			k, err := s.operatorKey(record.Operator)
			if err != nil {
				return err
			}
			client, err := s.dial(name, k)
			if err != nil {
				return err
			}
			return client.Logs(cmd.Context(), cmd.OutOrStdout(), args[0], lines, follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as it writes more")
	c.Flags().IntVarP(&lines, "lines", "n", 100, "how many of the last lines")
	return c
}

// daemonLog shows the log of a daemon of this machine.
func daemonLog(ctx context.Context, cmd *cobra.Command, h city.Home, lines int, follow bool) error {
	if _, err := h.Load(); err != nil {
		return err
	}
	args := []string{"-n", strconv.Itoa(lines), filepath.Clean(h.LogFile())}
	if follow {
		args = append([]string{"-F"}, args...)
	}
	t := exec.CommandContext(ctx, "tail", args...)
	t.Stdout, t.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
	return t.Run()
}
