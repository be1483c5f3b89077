package evm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// cacheDir is ${XDG_CACHE_HOME:-$HOME/.cache}/bsn.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	return filepath.Join(base, "bsn"), nil
}

// installed makes sure that a folder holds the packages that a package.json and a
// package-lock.json ask for, and says so on out if that takes a while. The folder
// appears complete or not at all, however many processes ask for it at once.
func installed(ctx context.Context, dir string, files map[string][]byte, out io.Writer) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make cache folder: %w", err)
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".part-")
	if err != nil {
		return fmt.Errorf("make cache folder: %w", err)
	}
	defer os.RemoveAll(temp)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(temp, name), content, 0o600); err != nil {
			return fmt.Errorf("fill cache folder: %w", err)
		}
	}
	fmt.Fprintf(out, "installing %s with npm, once\n", filepath.Base(filepath.Dir(dir)))
	if err := npmCI(ctx, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, dir); err != nil {
		return fmt.Errorf("keep installed packages: %w", err)
	}
	return nil
}

// npmCI installs what the lock file in a folder says. No package's scripts run.
func npmCI(ctx context.Context, dir string) error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return errors.New("npm is not installed: it comes with Node.js, version 18 or newer")
	}
	cmd := command(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w: %s", err, clip(bytes.TrimSpace(said)))
	}
	return nil
}

// command prepares a program that ends, with all that it started, when ctx does.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// lock takes a file lock. It ends with the process, so that none is left behind.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if err := pause(ctx, poll); err != nil {
			f.Close()
			return nil, fmt.Errorf("wait for %s, which another process holds: %w", path, err)
		}
	}
}

// bounded keeps the first bytes written to it and tells whether there were more.
type bounded struct {
	strings.Builder
	limit int
	over  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.limit - b.Len()
	if len(p) > room {
		b.over = true
		b.Builder.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return b.Builder.Write(p)
}
