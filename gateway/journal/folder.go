package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/openbsn/bsn"
)

// Names in a journal's folder.
const (
	extension = ".journal"
	temporary = ".segment-" // of one that is not ready yet
	// LockName is the file that is held by who makes a segment or closes a period.
	LockName   = "lock"
	closedName = "closed"
)

// errClosed means that nothing may be counted in a period any more.
var errClosed = errors.New("period is closed")

// File is a segment as its reader sees it.
type File struct {
	Name string
	// Until is the end of its period, in Unix seconds of ledger time.
	Until int64
	Rows  []bsn.UsageRow
	// Live: the process that counts in it goes on.
	Live bool
	// Damage says what could not be read; empty: nothing.
	Damage string
}

// Read returns the segments in a folder, in order of the ends of their periods. A
// folder that is not there has none.
func Read(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	var out []File
	for _, e := range entries { // names begin with the period's end
		if !strings.HasSuffix(e.Name(), extension) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		f, err := readFile(dir, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was settled just now
		}
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func readFile(dir, name string) (out File, err error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return out, fmt.Errorf("read journal: %w", err)
	}
	defer f.Close()
	// First, so that what is read of a process that has ended is all that it counted.
	live := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
	b, err := io.ReadAll(io.LimitReader(f, segmentSize))
	if err != nil {
		return out, fmt.Errorf("read journal: %w", err)
	}
	out = File{Name: name, Live: live}
	out.Until, out.Rows, out.Damage = decode(b)
	if end, err := strconv.ParseInt(name[:min(12, len(name))], 10, 64); err == nil && out.Until != end {
		if out.Damage == "" {
			out.Rows, out.Damage = nil, "its name is not that of its period"
		}
		out.Until = end
	}
	return out, nil
}

// Closed returns the end of the last period that was closed in a folder; 0: none.
func Closed(dir string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(dir, closedName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	var until int64
	if err == nil {
		until, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	}
	if err != nil {
		return 0, fmt.Errorf("read which periods of the journal are closed: %w", err)
	}
	return until, nil
}

// Close lets nobody begin to count in the periods that end at a time or before: all
// segments that these will ever have are in the folder when it returns.
func Close(dir string, until int64) error {
	unlock, err := lock(dir, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	closed, err := Closed(dir)
	if err != nil || closed >= until {
		return err
	}
	err = renameio.WriteFile(filepath.Join(dir, closedName), strconv.AppendInt(nil, until, 10), 0o600, renameio.WithTempDir(dir))
	if err != nil {
		return fmt.Errorf("close period of the journal: %w", err)
	}
	return nil
}

// Remove deletes segments, and what a process that ended left half made. What is
// not there any more is no error.
func Remove(dir string, names []string) error {
	for _, name := range names {
		if filepath.Base(name) != name || !strings.HasSuffix(name, extension) {
			return fmt.Errorf("%q is no segment of a journal", name)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete from journal: %w", err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, temporary+"*"))
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	for _, name := range left {
		if f, err := os.Open(name); err == nil {
			if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
				removeEnded(dir, name)
			}
			f.Close()
		}
	}
	return nil
}

// removeEnded deletes a file that nobody holds, unless it is one that is being made:
// that is done under the folder's lock.
func removeEnded(dir, name string) {
	unlock, err := lock(dir, unix.LOCK_EX)
	if err != nil {
		return
	}
	defer unlock()
	f, err := os.Open(name)
	if err != nil {
		return // it has its name by now
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
		os.Remove(name)
	}
}

// lock holds the folder against others until the function that it returns is called.
func lock(dir string, how int) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make journal's folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, LockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock journal: %w", err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock journal: %w", err)
	}
	return func() { f.Close() }, nil
}

// Sync brings segments to the disk, whoever counted in them.
func Sync(dir string, names []string) error {
	for _, name := range names {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("sync journal: %w", err)
		}
		err = f.Sync()
		f.Close()
		if err != nil {
			return fmt.Errorf("sync journal: %w", err)
		}
	}
	return nil
}
