// Package hosts makes virtual hosts on this machine, for tests of what runs on
// several: each is a network namespace with a loopback of its own and one network
// interface. The test process is the wire between them: it holds the other ends
// of the interfaces (TUN devices) and forwards IPv4 packets by rules that a test
// changes at will: delay, loss, cuts, and an address-translating router before a
// host.
//
// It needs root, Linux and the commands ip and nsenter. Nothing of it has a name
// in the system: namespaces and interfaces are gone with the processes that use
// them, and [New] ends those that a test run left which was killed.
package hosts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// marker is in the environment of all that is started on a host, with the
// process that made the host as its value.
const marker = "BSN_HOSTS_OF"

// device is the name of a host's interface.
const device = "net0"

const (
	// mtu is that of most of the internet.
	mtu = 1500
	// queue is how many packets a host's interface holds for the wire to take.
	queue = 4000
)

// Network is a set of hosts and the wire between them. Its methods may be called
// from several goroutines.
type Network struct {
	wire  *wire
	hosts []*Host
}

// Host is a virtual machine's worth of network.
type Host struct {
	Name string
	// Addr is where other hosts reach it: its own address, or that of the router
	// which it is behind. It is none of the private ones, so that software treats
	// it as the internet's.
	Addr netip.Addr
	// inside is the address of its interface: private behind a router.
	inside netip.Addr
	// ns is its network namespace, which lives as long as this is open or a
	// process is in it.
	ns *os.File
	// tun is the wire's end of its interface.
	tun *os.File
	nat *nat // nil without a router
	// anchor is a process that does nothing, so that the host can be found and
	// ended if this process is killed.
	anchor *exec.Cmd
}

// New makes a network without hosts. What a former process of this machine made
// and left is ended first.
func New() (*Network, error) {
	if err := endOrphans(); err != nil {
		return nil, err
	}
	n := &Network{wire: newWire()}
	return n, nil
}

// Unable says why this machine cannot have virtual hosts, or nil.
func Unable() error {
	for _, c := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(c); err != nil {
			return fmt.Errorf("virtual hosts need the command %s: .ci/setup test installs it: %w", c, err)
		}
	}
	ns, tun, err := namespace(netip.AddrFrom4([4]byte{11, 99, 0, 1}))
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("virtual hosts need root, and the right to make network namespaces: %w", err)
	}
	if err != nil {
		return err
	}
	return errors.Join(tun.Close(), ns.Close())
}

// Add makes a host. Behind a router it can call others, and none can call it
// unless it called them first.
func (n *Network) Add(name string, router bool) (*Host, error) {
	number := byte(len(n.hosts) + 1)
	h := &Host{Name: name, Addr: netip.AddrFrom4([4]byte{11, 99, 0, number})}
	if h.inside = h.Addr; router {
		h.inside = netip.AddrFrom4([4]byte{10, number, 0, 2})
		h.nat = newNAT(h.inside, h.Addr)
	}
	var err error
	if h.ns, h.tun, err = namespace(h.inside); err != nil {
		return nil, fmt.Errorf("make host %q: %w", name, err)
	}
	n.hosts = append(n.hosts, h)
	n.wire.plug(h)
	words := append(h.Enter(), "sleep", "infinity")
	h.anchor = exec.Command(words[0], words[1:]...)
	if err := h.anchor.Start(); err != nil {
		return nil, fmt.Errorf("make host %q: %w", name, err)
	}
	return h, nil
}

// namespace makes a network namespace with an interface of that address, and
// returns the wire's end of it.
func namespace(addr netip.Addr) (ns, tun *os.File, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if tun, err = openTUN(); err != nil {
			ns.Close()
			return err
		}
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf("link set lo up\naddress add %s/32 dev %s\nlink set %s mtu %d txqueuelen %d up\nroute add default dev %s src %s\n",
			addr, device, device, mtu, queue, device, addr))
		if out, err := cmd.CombinedOutput(); err != nil {
			tun.Close()
			ns.Close()
			return fmt.Errorf("set up network interface: %w: %s", err, out)
		}
		return nil
	})
	return ns, tun, err
}

// openTUN makes the interface in the calling thread's namespace.
func openTUN() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(device)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that Close ends a Read
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make network interface: %w", err)
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

// The main thread is kept for the main goroutine: a process is, to others, in the
// namespace of that thread, which, unlike others, never ends.
func init() { runtime.LockOSThread() }

// onThread runs f on a thread that no other code runs on, before or after.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// Do runs f on a thread that is on the host: what f opens, without the help of
// other goroutines, is the host's.
func (h *Host) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter host %q: %w", h.Name, err)
		}
		return f()
	})
}

// DialContext connects from the host to an address in numbers. It has the form
// that net/http takes.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.Do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Namespace is a path at which the host's network namespace can be entered while
// the test process lives, as by nsenter --net=PATH.
func (h *Host) Namespace() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.ns.Fd())
}

// Enter are the words to put before a command so that it runs on the host. The
// process becomes that command: its id is the command's.
func (h *Host) Enter() []string {
	return []string{"nsenter", "--net=" + h.Namespace(), "--", "env", marker + "=" + self()}
}

// Processes are the ids of all that was started on the host and runs.
func (h *Host) Processes() ([]int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(h.ns.Fd()), &st); err != nil {
		return nil, err
	}
	all := inNamespaces(map[uint64]bool{st.Ino: true})
	return slices.DeleteFunc(all, func(pid int) bool { return pid == h.anchor.Process.Pid }), nil
}

// Close kills what still runs on the hosts and takes them away.
func (n *Network) Close() error {
	var err error
	for _, h := range n.hosts {
		if h.anchor.Process == nil {
			continue // it was not made whole
		}
		h.anchor.Process.Kill()
		h.anchor.Wait() // killed, which is no error here
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			left, e := h.Processes()
			if e != nil || len(left) == 0 {
				err = errors.Join(err, e)
				break
			}
			if time.Now().After(deadline) {
				err = errors.Join(err, fmt.Errorf("processes of host %q do not end: %v", h.Name, left))
				break
			}
			for _, pid := range left {
				syscall.Kill(pid, syscall.SIGKILL) // it may be gone by now
			}
		}
	}
	n.wire.close()
	for _, h := range n.hosts {
		err = errors.Join(err, h.tun.Close(), h.ns.Close())
	}
	return err
}
