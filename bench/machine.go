package main

import (
	"bufio"
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/openbsn/bsn/framework/kaia"
)

// machine is where and with what a benchmark ran last. The file machine.json
// holds one for each benchmark, by its name.
type machine struct {
	Date     string  `json:"date"`
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"`
	Memory   float64 `json:"memoryGiB"`
	Kernel   string  `json:"kernel"`
	Load     string  `json:"load"` // averages over 1, 5 and 15 minutes before it began
	Go       string  `json:"go"`
	Commit   string  `json:"commit"` // with + if there were changes on top
	Kaia     string  `json:"kaia"`
	SDK      string  `json:"cosmosSDK"`
	CometBFT string  `json:"cometBFT"`
}

// describe tells of the machine and the versions.
func describe(ctx context.Context, benchmark, binary string) (machine, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return machine{}, fmt.Errorf("read the binary to measure: %w (make build makes it)", err)
	}
	m := machine{
		Date: time.Now().UTC().Format(time.RFC3339), Cores: runtime.NumCPU(), Go: info.GoVersion, Kaia: kaia.Version,
		CPU: field("/proc/cpuinfo", "model name"), Commit: commit(ctx),
	}
	for _, d := range info.Deps {
		switch d.Path {
		case "github.com/cosmos/cosmos-sdk":
			m.SDK = d.Version
		case "github.com/cometbft/cometbft":
			m.CometBFT = d.Version
		}
	}
	kib, _ := strconv.ParseFloat(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 64) // 0 where there is none
	m.Memory = round(kib / (1 << 20))
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(b))[:3], " ")
	}
	say("%s: %d x %s, load %s", benchmark, m.Cores, m.CPU, m.Load)
	return m, nil
}

// save records the machine of a benchmark that ran to its end.
func (m machine) save(folder, benchmark string) error {
	all := map[string]machine{}
	path := resultFile(folder, "machine")
	if err := readJSON(path, &all); err != nil {
		return err
	}
	all[benchmark] = m
	return writeJSON(path, all)
}

func commit(ctx context.Context) string {
	head, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "" // not a repository
	}
	c := strings.TrimSpace(string(head))
	if changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain").Output(); err == nil && len(changed) > 0 {
		c += "+"
	}
	return c
}

// field reads the value of the first line "name: value" of a file.
func field(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// ticks is the unit of /proc/PID/stat, the same on every Linux that Go runs on.
const ticks = 100

// stat returns a process's processor time so far, in seconds, and when it
// started, to 10 ms.
func stat(pid int) (cpu float64, started time.Time, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, started, fmt.Errorf("read process: %w", err)
	}
	up, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, started, fmt.Errorf("read process: %w", err)
	}
	// The name, in parentheses, may hold anything; the fields after it are numbers.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return 0, started, fmt.Errorf("read process %d: its stat has %d fields", pid, len(f))
	}
	var n [3]float64
	for i, at := range []int{11, 12, 19} { // utime, stime, starttime
		if n[i], err = strconv.ParseFloat(f[at], 64); err != nil {
			return 0, started, fmt.Errorf("read process: %w", err)
		}
	}
	uptime, err := strconv.ParseFloat(strings.Fields(string(up))[0], 64)
	if err != nil {
		return 0, started, fmt.Errorf("read process: %w", err)
	}
	age := time.Duration((uptime - n[2]/ticks) * float64(time.Second))
	return (n[0] + n[1]) / ticks, time.Now().Add(-age), nil
}

// memory is what a process holds in memory, in MiB: all of it, and of that what is
// not the program's file, which processes of the same program share.
func memory(pid int) (resident, own float64, err error) {
	for name, value := range map[string]*float64{"Rss": &resident, "Anonymous": &own} {
		text := field(fmt.Sprintf("/proc/%d/smaps_rollup", pid), name)
		kib, err := strconv.ParseFloat(strings.TrimSuffix(text, " kB"), 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read memory of process %d: %w", pid, err)
		}
		*value = kib / 1024
	}
	return resident, own, nil
}

// folderMiB is the sum of the sizes of all files in a folder, in which files may
// come and go.
func folderMiB(folder string) (float64, error) {
	var sum int64
	err := filepath.WalkDir(folder, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignore(err, fs.ErrNotExist)
		}
		info, err := e.Info()
		if err != nil {
			return ignore(err, fs.ErrNotExist)
		}
		sum += info.Size()
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure folder: %w", err)
	}
	return float64(sum) / (1 << 20), nil
}

func ignore(err, which error) error {
	if errors.Is(err, which) {
		return nil
	}
	return err
}
