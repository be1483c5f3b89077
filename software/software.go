// Package software builds node software from source, once, and keeps it.
//
// Each program lives in a Go module of its own that pins all it needs, so that
// the versions of different frameworks never meet. What is built is kept under
// the user's cache folder by version, for all networks of the machine.
package software

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Program is one program of node software.
type Program struct {
	Name string // "kaia": names its folder in the cache
	// Version is the version of the upstream software and Sum the fingerprint of
	// the module that pins it, both as [Pin] gives them.
	Version string
	Sum     string
	// Folder is the program's module within the source tree, slash separated.
	Folder string
	// Package is the import path of what is built; if empty, the module's own program.
	Package string
	Binary  string   // file name of the result
	Flags   []string // for go build, beside those that every build has
}

// Config says where programs are found and kept. The zero value is good.
type Config struct {
	// Binary is the operator's own program, used as it is instead of building one.
	Binary string
	// Source is the root of the bsn source tree; if empty it is searched for
	// upwards from the working directory and from the running program.
	Source string
	// Cache is the folder that holds what was built; if empty it is
	// bsn/software in the user's cache folder.
	Cache string
}

// key is the name of the version's folder in the cache.
func (p Program) key() string { return p.Version + "-" + p.Sum[:12] }

// Build returns the absolute path of the program's binary, having built it if
// this machine does not have it yet. Only a build needs the source tree, a Go
// toolchain and, unless the module cache has them, the program's dependencies
// from the Go proxy. Processes that ask at once wait for the one that builds.
// Progress, which may be nil, is called with the steps done and those to do, the
// latter being 0 while dependencies are fetched and counted.
func Build(ctx context.Context, p Program, c Config, progress func(done, total int)) (string, error) {
	if c.Binary != "" {
		return own(p, c.Binary)
	}
	if c.Cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the cache folder: %w", err)
		}
		c.Cache = filepath.Join(dir, "bsn", "software")
	}
	dir, err := filepath.Abs(filepath.Join(c.Cache, p.Name, p.key()))
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	binary := filepath.Join(dir, p.Binary)
	if built, err := exists(binary); built || err != nil {
		return binary, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", fmt.Errorf("wait for another build of %s: %w", p.Name, err)
	}
	defer unlock()
	if built, err := exists(binary); built || err != nil {
		return binary, err
	}
	source, err := find(p, c.Source)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", p.Name, err)
	}
	if err := compile(ctx, p, source, binary, progress); err != nil {
		return "", fmt.Errorf("build %s: %w", p.Name, err)
	}
	return binary, nil
}

// own checks a program that the operator brings.
func own(p Program, name string) (string, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("find your own %s: %w", p.Name, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("find your own %s: %w", p.Name, err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("your own %s: %s is not a program that can be run", p.Name, path)
	}
	return path, nil
}

func exists(name string) (bool, error) {
	_, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for what was built: %w", err)
	}
	return true, nil
}

// lock takes the lock of a file, which ends with the process at the latest.
func lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
