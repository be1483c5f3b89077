package hosts

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// self names this process in a way that no later one shares: by id and start.
func self() string {
	pid := os.Getpid()
	return fmt.Sprintf("%d.%s", pid, started(pid))
}

// started is when a process started, in clock ticks since the machine did; empty
// if there is none of this id.
func started(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// After the command in parentheses, which may hold anything, field 3 comes; 22 is the start.
	rest := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(rest) < 20 || rest[0] == "Z" {
		return ""
	}
	return rest[19]
}

// endOrphans kills what runs on hosts whose test process is gone.
func endOrphans() error {
	own, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return err
	}
	left := map[uint64]bool{}
	for _, pid := range allProcesses() {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			continue // ended, or another user's
		}
		for _, kv := range strings.Split(string(env), "\x00") {
			maker, ok := strings.CutPrefix(kv, marker+"=")
			if !ok {
				continue
			}
			id, start, _ := strings.Cut(maker, ".")
			if n, err := strconv.Atoi(id); err == nil && started(n) != start {
				left[inode(pid)] = true
			}
		}
	}
	delete(left, own.Sys().(*syscall.Stat_t).Ino) // never what runs on this machine itself
	delete(left, 0)
	for _, pid := range inNamespaces(left) {
		syscall.Kill(pid, syscall.SIGKILL) // it may be gone by now
	}
	return nil
}

// inNamespaces are the processes, but for this one, in the network namespaces of
// these inodes.
func inNamespaces(inodes map[uint64]bool) (out []int) {
	for _, pid := range allProcesses() {
		if pid != os.Getpid() && inodes[inode(pid)] && started(pid) != "" {
			out = append(out, pid)
		}
	}
	return out
}

// inode is that of a process's network namespace; 0 if it has ended.
func inode(pid int) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st); err != nil {
		return 0
	}
	return st.Ino
}

func allProcesses() (out []int) {
	folders, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, f := range folders {
		if pid, err := strconv.Atoi(filepath.Base(f)); err == nil {
			out = append(out, pid)
		}
	}
	return out
}
