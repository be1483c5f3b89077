package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// markerKey names the environment variable that every process of a node and all
// its descendants carry. Its value is FOLDER#RUN: the node's folder and the
// random id of one run.
const markerKey = "BSN_NODE"

// stat is what /proc/PID/stat says of a process (proc_pid_stat(5)).
type stat struct {
	pid    int
	state  byte
	parent int
	group  int
	// session is a number that stays taken, like group's, while a process of it lives.
	session int
	start   uint64 // clock ticks after boot, field 22
}

// alive tells a process from a zombie, which only waits for its parent.
func (s stat) alive() bool { return s.state != 'Z' && s.state != 'X' && s.state != 'x' }

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

func parseStat(b []byte) (stat, error) {
	malformed := fmt.Errorf("malformed process status %q", b)
	head, _, ok := bytes.Cut(b, []byte(" ("))
	// The name may itself hold blanks and brackets.
	end := bytes.LastIndexByte(b, ')')
	if !ok || end < len(head) {
		return stat{}, malformed
	}
	fields := strings.Fields(string(b[end+1:])) // from field 3 on
	if len(fields) < 20 || len(fields[0]) != 1 {
		return stat{}, malformed
	}
	var s stat
	s.state = fields[0][0]
	for _, f := range []struct {
		text string
		to   *int
	}{{string(head), &s.pid}, {fields[1], &s.parent}, {fields[2], &s.group}, {fields[3], &s.session}} {
		n, err := strconv.Atoi(f.text)
		if err != nil {
			return stat{}, malformed
		}
		*f.to = n
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return stat{}, malformed
	}
	s.start = start
	return s, nil
}

// marker reads a process's marker, "" if it has none. unsure means that the
// process shows no environment at all, as in the moment of its exec.
func marker(pid int) (value string, unsure bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "", false // ended, or another user's
	}
	for e := range bytes.SplitSeq(b, []byte{0}) {
		if v, ok := bytes.CutPrefix(e, []byte(markerKey+"=")); ok {
			return string(v), false
		}
	}
	return "", len(b) == 0
}

// processes returns the machine's live processes, without this one.
func processes() ([]stat, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	if len(dirs) == 0 {
		return nil, errors.New("read /proc: it is empty; the process driver needs it mounted")
	}
	self := os.Getpid()
	var all []stat
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || pid == self {
			continue
		}
		if s, err := readStat(pid); err == nil && s.alive() {
			all = append(all, s)
		}
	}
	return all, nil
}

// marked returns the live processes of the nodes below dir, by marker.
func marked(dir string) (map[string][]stat, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	found := make(map[string][]stat)
	for range 10 {
		var again []stat
		for _, s := range all {
			value, unsure := marker(s.pid)
			if unsure && s.parent != 2 && s.pid != 2 { // 2: kernel threads
				again = append(again, s)
			}
			rest, ok := strings.CutPrefix(value, dir+"/")
			if id, _, _ := strings.Cut(rest, "#"); ok && checkID(id) == nil {
				found[value] = append(found[value], s)
			}
		}
		if all = again; len(all) == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return found, nil
}

// kill signals exactly the process that s describes, never a later one with its pid.
func (s stat) kill(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(s.pid, 0)
	if err != nil {
		return ignoreGone(err)
	}
	defer unix.Close(fd)
	if now, err := readStat(s.pid); err != nil || now.start != s.start {
		return nil
	}
	return ignoreGone(unix.PidfdSendSignal(fd, sig, nil, 0))
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// proc is a running process of a node: the leader of its session and group.
type proc struct {
	stat
	marker string
	pidfd  *os.File
	child  bool // of this very process, which must reap it
}

// openProc takes hold of a process. The caller compares the result with what it
// expects: what openProc read belongs to the process that pidfd holds.
func openProc(pid int) (*proc, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &proc{pidfd: os.NewFile(uintptr(fd), "pidfd")}
	if p.stat, err = readStat(pid); err != nil {
		p.close()
		return nil, fmt.Errorf("read the status of process %d: %w", pid, err)
	}
	p.child = p.parent == os.Getpid()
	return p, nil
}

func (p *proc) close() { p.pidfd.Close() }

// wait returns nil when the process has ended, or ctx's error.
func (p *proc) wait(ctx context.Context) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch process %d: %w", p.pid, err)
	}
	interrupted := make(chan struct{})
	disarm := context.AfterFunc(ctx, func() {
		p.pidfd.SetReadDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	var pollErr error
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		if err != nil && err != unix.EINTR {
			pollErr = err
		}
		return n > 0 || pollErr != nil
	})
	if !disarm() {
		<-interrupted
		p.pidfd.SetReadDeadline(time.Time{})
	}
	switch {
	case err == nil && pollErr == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return fmt.Errorf("watch process %d: %w", p.pid, errors.Join(err, pollErr))
	}
}

// succeeded is reap's answer for a child that ended well.
const succeeded = "exit status 0"

// reap removes an ended child from the process table and says how it ended; of
// other processes that is not known.
func (p *proc) reap() string {
	if !p.child {
		return "ended"
	}
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(p.pid, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return "ended"
		case ws.Signaled():
			return "ended by signal " + unix.SignalName(ws.Signal())
		default:
			return fmt.Sprintf("exit status %d", ws.ExitStatus())
		}
	}
}

// members returns the live processes of the node: its group, its session, and
// descendants that left both but carry the marker. A group is told from a later
// one with the same number by age; the number cannot be given away while a
// process of the group lives.
func (p *proc) members() ([]stat, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	var members []stat
	for _, s := range all {
		if (s.group == p.pid || s.session == p.pid) && s.start >= p.start {
			members = append(members, s)
		} else if m, _ := marker(s.pid); m == p.marker {
			members = append(members, s)
		}
	}
	return members, nil
}

// killTimeout bounds how long the kernel may take to end a killed process.
const killTimeout = 10 * time.Second

// terminate ends the process with all its members: SIGTERM, and what is left
// after grace gets SIGKILL. If ctx ends earlier, what is left stays. The result
// says how the process ended.
func (p *proc) terminate(ctx context.Context, grace time.Duration) (string, error) {
	if grace > 0 {
		left, err := p.signal(unix.SIGTERM)
		if err != nil {
			return "", err
		}
		for end := time.Now().Add(grace); left > 0 && time.Now().Before(end); {
			if err := p.pause(ctx, time.Until(end)); err != nil {
				return "", err
			}
			if left, err = p.signal(0); err != nil {
				return "", err
			}
		}
	}
	for end := time.Now().Add(killTimeout); ; {
		left, err := p.signal(unix.SIGKILL)
		if err != nil {
			return "", err
		}
		if left == 0 {
			return p.reap(), nil
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("%d processes of group %d do not end after SIGKILL", left, p.pid)
		}
		if err := p.pause(ctx, killTimeout); err != nil {
			return "", err
		}
	}
}

// signal sends sig to all members, 0 to none, and returns how many there are.
func (p *proc) signal(sig unix.Signal) (int, error) {
	members, err := p.members()
	if err != nil {
		return 0, err
	}
	if sig != 0 {
		for _, m := range members {
			if err := m.kill(sig); err != nil {
				return 0, fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), m.pid, err)
			}
		}
	}
	return len(members), nil
}

// pause waits until the leader has ended, at most so long; once it has, until it
// is time to look after the others again.
func (p *proc) pause(ctx context.Context, most time.Duration) error {
	leader, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if p.ended() {
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	} else if err := p.wait(leader); err != nil && leader.Err() == nil {
		return err
	}
	return ctx.Err()
}

func (p *proc) ended() bool {
	s, err := readStat(p.pid)
	return err != nil || s.start != p.start || !s.alive()
}
